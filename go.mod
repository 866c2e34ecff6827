module github.com/seed-637b77f9/changefeed

go 1.26.0

require github.com/google/btree v1.1.3
