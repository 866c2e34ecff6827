module github.com/seed-637b77f9/changefeed/nats

go 1.26.0

require (
	github.com/nats-io/nats.go v1.55.0
	github.com/seed-637b77f9/changefeed v0.0.0
)

require (
	github.com/google/btree v1.1.3 // indirect
	github.com/klauspost/compress v1.20.0 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)

replace github.com/seed-637b77f9/changefeed => ../
