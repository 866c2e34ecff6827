package workload

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// LatencyTable is the table of Latency. Its columns are a share and a number of
// subscribers: see LatencyColumn.
var LatencyTable = Table{Title: "From the call of a write to its reader", Unit: "µs"}

// LatencyAudiences and LatencyShares are the numbers and shares of the columns.
var (
	LatencyAudiences = []int{1, 100}
	LatencyShares    = []float64{0.5, 0.99, 0.999}
)

// LatencyColumn returns the column's name.
func LatencyColumn(share float64, subscribers int) string {
	names := map[float64]string{0.5: "p50", 0.99: "p99", 0.999: "p99.9"}
	return names[share] + ", " + Count(subscribers)
}

// Latency measures paced writes to waiting readers. The writer is busy between the writes
// and does not sleep. After a sleep, the processor is awake only every other time. Half of
// the times would then be ten times as long as the others, and the median would be one or
// the other by chance.
var Latency = Workload{
	Name:  "latency",
	Title: "Latency from write to reader",
	About: "Update a random row, wait until all subscribers have the change, be busy with something else for 100 µs, and so on; note when each has it.",
	Cases: func(s Scale) []Case {
		var cases []Case
		for _, n := range LatencyAudiences {
			cases = append(cases, Case{
				Name: Count(n) + " subscribers",
				Run:  func(c contest.Contestant) ([]Figure, error) { return latency(c, s, n) },
			})
		}
		return cases
	},
}

func latency(c contest.Contestant, s Scale, subscribers int) ([]Figure, error) {
	if c.Open == nil {
		return nil, nil
	}
	writes := s.Writes / 10
	if subscribers > 1 {
		writes = s.Writes / 20
	}
	store := c.Open()
	defer store.Close()
	if table, ok := store.(contest.Table); ok {
		table.Load(contest.Rows(s.Rows))
	}
	starts := make([]time.Time, writes+1) // by version
	delays := make([][]float64, subscribers)
	readers, err := follow(c, store, subscribers, s.Rows)
	if err != nil {
		return nil, err
	}
	defer readers.close()
	keys := contest.Keys(writes, s.Rows)
	var have atomic.Int64          // readers that have the last change
	last := make(chan struct{}, 1) // notified when the last reader has a change
	readers.read(writes, func(i int, t *contest.Tally) {
		delays[i] = make([]float64, 0, writes)
		t.OnWake = func() {
			delays[i] = append(delays[i], float64(time.Since(starts[t.Last-readers.base])))
			if have.Add(1)%int64(subscribers) == 0 {
				last <- struct{}{}
			}
		}
	})

	for i, key := range keys {
		work(100 * time.Microsecond)
		starts[i+1] = time.Now()
		store.Update(key, readers.base+i+1)
		select {
		case <-last:
		case <-time.After(tooLong):
			return nil, fmt.Errorf("%s: a reader still waits for what was written %v ago", c.Name, tooLong)
		}
	}
	if err := readers.wait(); err != nil {
		return nil, err
	}
	merged, lost, err := readers.check(writes)
	sorted := slices.Concat(delays...)
	slices.Sort(sorted)
	var figures []Figure
	for _, share := range LatencyShares {
		figures = append(figures, Figure{
			Table:  LatencyTable,
			Column: LatencyColumn(share, subscribers),
			Value:  sorted[int(share*float64(len(sorted)-1))] / 1e3,
			Merged: merged,
			Lost:   lost,
		})
	}
	return figures, err
}

// work keeps a processor busy for a while.
func work(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; {
	}
}
