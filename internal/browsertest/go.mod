module github.com/seed-637b77f9/changefeed/internal/browsertest

go 1.26.0

replace (
	github.com/seed-637b77f9/changefeed => ../..
	github.com/seed-637b77f9/changefeed/durable => ../../durable
)

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
	github.com/seed-637b77f9/changefeed v0.0.0
	github.com/seed-637b77f9/changefeed/durable v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/google/btree v1.1.3 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.45.0 // indirect
)
