package workload

import (
	"slices"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// txSize is the number of rows that a transaction updates.
const txSize = 100

// Writes measures writes without a feed.
var Writes = Workload{
	Name:  "writes",
	Title: "Single writes without a feed",
	About: "Delete and insert the same random rows by turns, update random rows, one by one and 100 in a transaction.",
	Cases: func(s Scale) []Case {
		var cases []Case
		for _, rows := range []int{s.Rows, s.Large} {
			cases = append(cases, Case{
				Name: Count(rows) + " rows",
				Run:  func(c contest.Contestant) ([]Figure, error) { return writes(c, rows, s.Writes) },
			})
		}
		return cases
	},
}

func writes(c contest.Contestant, rows, n int) ([]Figure, error) {
	table := openTable(c, rows)
	if table == nil {
		return nil, nil
	}
	defer table.Close()
	keys, distinct := contest.Keys(n, rows), contest.DistinctKeys(n, rows)
	some := make([]contest.Row, txSize)

	var deletes, inserts time.Duration
	for chunk := range slices.Chunk(distinct, txSize) {
		for i, key := range chunk {
			some[i] = contest.NewRow(key)
		}
		start := time.Now()
		for _, key := range chunk {
			table.Delete(key)
		}
		deletes += time.Since(start)
		start = time.Now()
		for _, row := range some[:len(chunk)] {
			table.Insert(row)
		}
		inserts += time.Since(start)
	}

	collect()
	start := time.Now()
	for i, key := range keys {
		table.Update(key, i+1)
	}
	updates := time.Since(start)

	collect()
	start = time.Now()
	for i := 0; i < n; i += txSize {
		table.UpdateAll(distinct[i:min(i+txSize, n)], n+i+1)
	}
	joined := time.Since(start)

	column := Count(rows) + " rows"
	figure := func(title string, elapsed time.Duration) Figure {
		return Figure{Table: Table{Title: title, Unit: "ns a row"}, Column: column, Value: perOp(elapsed, n)}
	}
	return []Figure{
		figure("Insert", inserts),
		figure("Update", updates),
		figure("Delete", deletes),
		figure("Update, 100 in a transaction", joined),
	}, nil
}
