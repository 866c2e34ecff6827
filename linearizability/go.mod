module github.com/seed-637b77f9/changefeed/linearizability

go 1.26.0

replace github.com/seed-637b77f9/changefeed => ../

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/seed-637b77f9/changefeed v0.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/google/btree v1.1.3 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
