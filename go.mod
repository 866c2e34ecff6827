module github.com/seed-637b77f9/changefeed

go 1.26.0

require github.com/google/btree v1.1.3

require (
	github.com/stretchr/testify v1.12.1
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
