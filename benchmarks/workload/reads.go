package workload

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// Reads measures reads during writes.
var Reads = Workload{
	Name:  "reads",
	Title: "Reads while writing",
	About: "Read random rows one by one, and all rows in a loop, while another goroutine updates random rows as fast as it goes.",
	Cases: func(s Scale) []Case {
		var cases []Case
		for _, f := range append([]fill{{rows: s.Rows, make: contest.Rows}}, fills(s.Large)...) {
			cases = append(cases, Case{
				Name: f.String(),
				Run:  func(c contest.Contestant) ([]Figure, error) { return reads(c, f, s) },
			})
		}
		return cases
	},
}

func reads(c contest.Contestant, f fill, s Scale) ([]Figure, error) {
	rows, table := f.rows, f.open(c)
	if table == nil {
		return nil, nil
	}
	defer table.Close()
	keys := contest.Keys(5*s.Writes, rows)
	writes := &background{table: table, keys: contest.DistinctKeys(max(s.Writes, 100), rows)}

	gets, _ := writes.during(func() error {
		for _, key := range keys {
			if row, ok := table.Get(key); !ok || row.Key != key {
				return fmt.Errorf("%s: key %d not found", c.Name, key)
			}
		}
		return nil
	})
	scans := max(s.Large/2/rows, 1)
	scan, slowest := writes.during(func() error {
		for range scans {
			n := 0
			for range table.All() {
				n++
			}
			if n != rows {
				return fmt.Errorf("%s: %d rows of %d", c.Name, n, rows)
			}
		}
		return nil
	})
	column := f.String()
	return []Figure{
		{Table: Table{Title: "Point reads while writing", Unit: "ns a read"}, Column: column, Value: perOp(gets, len(keys))},
		{Table: Table{Title: "Full scans while writing", Unit: "ns a row"}, Column: column, Value: perOp(scan, scans*rows)},
		{Table: Table{Title: "Slowest write during the scans", Unit: "ms"}, Column: column, Value: milliseconds(slowest)},
	}, writes.err
}

// A background writes while something else is timed.
type background struct {
	table   contest.Table
	keys    []int
	version int
	err     error
}

// during runs f while it writes. It returns the time of f and of the slowest write.
func (b *background) during(f func() error) (elapsed, slowest time.Duration) {
	collect()
	var stop atomic.Bool
	var done sync.WaitGroup
	begun := make(chan struct{})
	done.Go(func() {
		close(begun)
		for !stop.Load() {
			b.version++
			start := time.Now()
			b.table.Update(b.keys[b.version%len(b.keys)], b.version)
			slowest = max(slowest, time.Since(start))
		}
	})
	<-begun
	start := time.Now()
	err := f()
	elapsed = time.Since(start)
	stop.Store(true)
	done.Wait()
	if b.err == nil {
		b.err = err
	}
	return elapsed, slowest
}
