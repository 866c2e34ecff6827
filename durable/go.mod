module github.com/seed-637b77f9/changefeed/durable

go 1.26.0

replace github.com/seed-637b77f9/changefeed => ../

require (
	github.com/seed-637b77f9/changefeed v0.0.0
	github.com/stretchr/testify v1.12.1
	go.etcd.io/bbolt v1.5.0
)

require (
	github.com/google/btree v1.1.3 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.45.0 // indirect
)
