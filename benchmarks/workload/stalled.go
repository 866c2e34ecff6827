package workload

import (
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// The tables of OneStalled and Stalled.
var (
	StalledTime  = Table{Title: "Updates beside ten subscribers", Unit: "ns a write, until those that read have it"}
	StalledRatio = Table{Title: "What one stalled subscriber costs", Unit: "times a write without", Derived: true}
	StalledHeap  = Table{Title: "Growth of memory", Unit: "MB"}
	StalledBytes = Table{Title: "Stalled subscribers", Unit: "bytes each"}
)

// OneStalled measures updates with one stalled subscriber among others that read.
var OneStalled = Workload{
	Name:  "one-stalled",
	Title: "One stalled subscriber beside nine that keep up",
	About: "Update random rows, until nine subscribers have read everything; the tenth reads, or it does not read anything. Then, how much memory has come to be in use.",
	Cases: func(s Scale) []Case {
		return []Case{{
			Name: Count(s.Backlog) + " writes",
			Run: func(c contest.Contestant) ([]Figure, error) {
				return oneStalled(c, s.Rows, s.Backlog)
			},
		}}
	},
}

func oneStalled(c contest.Contestant, rows, backlog int) ([]Figure, error) {
	alone, _, err := beside(c, rows, backlog/10, 0)
	if err != nil || alone.Table == (Table{}) {
		return nil, err
	}
	stalled, memory, err := beside(c, rows, backlog, 1)
	if err != nil {
		return nil, err
	}
	alone.Column, stalled.Column = "none stalled", "one stalled"
	ratio := stalled
	ratio.Table, ratio.Value = StalledRatio, stalled.Value/alone.Value
	return []Figure{alone, stalled, ratio, memory}, nil
}

// beside makes writes with ten subscribers, some of which have stalled. It returns the
// time for each write, and the growth of the memory in use.
func beside(c contest.Contestant, rows, writes, stalled int) (cost, memory Figure, err error) {
	table := openTable(c, rows)
	if table == nil {
		return Figure{}, Figure{}, nil
	}
	defer table.Close()
	w := writer{contestant: c, store: table, keys: contest.Keys(writes, rows)}
	defer w.end()
	before := heap()
	readers, err := follow(c, table, 10-stalled, rows)
	if err != nil {
		return Figure{}, Figure{}, err
	}
	defer readers.close()
	for range stalled {
		defer table.Follow().Close()
	}
	readers.read(writes, nil)
	w.base = readers.base

	cost = Figure{Table: StalledTime}
	memory = Figure{Table: StalledHeap, Column: "one stalled, after " + Count(writes) + " writes"}
	start := time.Now()
	if made, blocked := w.write(); blocked {
		cost.BlockedAfter, memory.BlockedAfter = made, made
		return cost, memory, nil
	}
	if err := readers.wait(); err != nil {
		return cost, memory, err
	}
	cost.Value = perOp(time.Since(start), writes)
	memory.Value = (heap() - before) / 1e6
	cost.Merged, cost.Lost, err = readers.check(writes)
	return cost, memory, err
}

// Stalled measures the memory that many stalled subscribers hold.
var Stalled = Workload{
	Name:  "stalled",
	Title: "Many stalled subscribers",
	About: "Update random rows while nobody reads; how much more memory is in use then, for each subscriber. Of a contestant whose writer waits: up to there.",
	Cases: func(s Scale) []Case {
		return []Case{{
			Name: Count(s.Stalled) + " stalled",
			Run: func(c contest.Contestant) ([]Figure, error) {
				return stalledBytes(c, s.Rows, s.Stalled, s.Backlog/10)
			},
		}}
	},
}

func stalledBytes(c contest.Contestant, rows, subscribers, writes int) ([]Figure, error) {
	table := openTable(c, rows)
	if table == nil {
		return nil, nil
	}
	defer table.Close()
	w := writer{contestant: c, store: table, keys: contest.Keys(writes, rows)}
	defer w.end()
	before := heap()
	feeds := make([]contest.Feed, subscribers)
	for i := range feeds {
		feeds[i] = table.Follow()
	}
	defer closeAll(feeds)
	f := Figure{
		Table:  StalledBytes,
		Column: Count(subscribers) + " stalled, after " + Count(writes) + " writes",
	}
	if made, blocked := w.write(); blocked {
		f.BlockedAfter = made
	}
	f.Value = (heap() - before) / float64(subscribers)
	return []Figure{f}, nil
}
