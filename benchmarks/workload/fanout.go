package workload

import (
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// The tables of FanOut.
var (
	FanOutTime = Table{Title: "Single updates, by subscribers", Unit: "ns a write, until all have it"}
	FanOutRate = Table{Title: "Deliveries of single updates, by subscribers", Unit: "a second; higher is better", Derived: true}
	FanOutTx   = Table{Title: "Updates, 100 in a transaction, by subscribers", Unit: "ns a row, until all have it"}
)

// FanOut measures updates with many subscribers.
var FanOut = Workload{
	Name:  "fanout",
	Title: "Updates that all subscribers read",
	About: "Update random rows, as fast as it goes, until all subscribers have read everything. What came is counted and compared.",
	Cases: func(s Scale) []Case {
		var cases []Case
		for _, a := range s.FanOuts {
			cases = append(cases, fanOutCase("single updates", a, s.Rows, false))
		}
		for _, a := range s.FanOuts {
			if a.Subscribers <= 100 {
				cases = append(cases, fanOutCase("transactions", a, s.Rows, true))
			}
		}
		return cases
	},
}

func fanOutCase(name string, a Audience, rows int, joined bool) Case {
	return Case{
		Name: Count(a.Subscribers) + " subscribers, " + name,
		Run: func(c contest.Contestant) ([]Figure, error) {
			return fanOut(c, rows, a.Subscribers, a.Writes, joined)
		},
	}
}

func fanOut(c contest.Contestant, rows, subscribers, writes int, joined bool) ([]Figure, error) {
	table := openTable(c, rows)
	if table == nil {
		return nil, nil
	}
	defer table.Close()
	readers, err := follow(c, table, subscribers, rows)
	if err != nil {
		return nil, err
	}
	defer readers.close()
	keys := contest.DistinctKeys(writes, rows)
	if !joined {
		keys = contest.Keys(writes, rows)
	}
	readers.read(writes, nil)

	start := time.Now()
	if joined {
		for i := 0; i < writes; i += txSize {
			table.UpdateAll(keys[i:i+txSize], readers.base+i+1)
		}
	} else {
		for i, key := range keys {
			table.Update(key, readers.base+i+1)
		}
	}
	err = readers.wait()
	elapsed := time.Since(start)
	if err != nil {
		return nil, err
	}
	merged, lost, err := readers.check(writes)
	if err != nil {
		return nil, err
	}
	figure := Figure{
		Table:  FanOutTime,
		Column: Count(subscribers),
		Value:  perOp(elapsed, writes),
		Merged: merged,
		Lost:   lost,
	}
	if joined {
		figure.Table = FanOutTx
		return []Figure{figure}, nil
	}
	rate := figure
	rate.Table, rate.Value = FanOutRate, float64(readers.changes())/elapsed.Seconds()
	return []Figure{figure, rate}, nil
}
