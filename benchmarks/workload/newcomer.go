package workload

import (
	"fmt"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// Newcomer measures a subscriber that begins with all present rows during writes.
var Newcomer = Workload{
	Name:  "newcomer",
	Title: "A newcomer gets the present rows",
	About: "Subscribe with the present rows while random rows are updated as fast as it goes; and as many updates without a newcomer.",
	Cases: func(s Scale) []Case {
		var cases []Case
		for _, f := range fills(s.Large) {
			cases = append(cases, Case{
				Name: f.String(),
				Run:  func(c contest.Contestant) ([]Figure, error) { return newcomer(c, f) },
			})
		}
		return cases
	},
}

func newcomer(c contest.Contestant, f fill) ([]Figure, error) {
	rows, table := f.rows, f.open(c)
	if table == nil {
		return nil, nil
	}
	defer table.Close()
	keys := contest.Keys(rows, rows)
	version := 0
	// write updates rows until done is closed, or n times.
	write := func(n int, done <-chan struct{}) (made int, slowest time.Duration) {
		for ; made < n; made++ {
			select {
			case <-done:
				return made, slowest
			default:
			}
			version++
			start := time.Now()
			table.Update(keys[version%rows], version)
			slowest = max(slowest, time.Since(start))
		}
		return made, slowest
	}

	ready := make(chan struct{})
	tally := &contest.Tally{Until: never, OnReady: func() { close(ready) }}
	readers := &audience{contestant: c}
	var start time.Time
	subscribed := make(chan struct{})
	go func() {
		defer close(subscribed)
		time.Sleep(time.Millisecond) // lets the writer begin
		start = time.Now()
		readers.join(table.FollowPresent(), tally)
	}()
	made, slowest := write(never, ready)
	<-subscribed
	readers.close()
	if tally.Present != rows {
		return nil, fmt.Errorf("%s: a newcomer got %d rows of %d", c.Name, tally.Present, rows)
	}
	collect()
	_, alone := write(made, nil)

	figure := func(column string, d time.Duration) Figure {
		return Figure{Table: Table{Title: "A newcomer on " + f.String(), Unit: "ms"}, Column: column, Value: milliseconds(d)}
	}
	return []Figure{
		figure("first row", tally.First.Sub(start)),
		figure("all rows", tally.Full.Sub(start)),
		figure("slowest write meanwhile", slowest),
		figure("slowest write without", alone),
	}, nil
}
