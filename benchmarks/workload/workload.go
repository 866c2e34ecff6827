// Package workload is the work that all contestants of a comparison are given.
//
// A workload is a list of cases. One run of a case by one contestant, on a store of
// its own, gives a few figures; whoever compares runs a case by all contestants in
// turn, in rounds. Everything that is not the contestants' work is done outside the
// timed part: rows and keys are drawn, stores are filled, readers wait, and what
// others left behind is collected.
package workload

import (
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// A Workload is one kind of work.
type Workload struct {
	Name  string // for a flag
	Title string
	About string // what is done
	Cases func(s Scale) []Case
}

// A Case is a workload at one size.
type Case struct {
	Name string

	// Run runs it once. It returns no figures if the contestant does not do such
	// work, and an error if what it did is wrong.
	Run func(c contest.Contestant) ([]Figure, error)
}

// A Figure is what was measured: a cell of a table that has a row for each contestant.
type Figure struct {
	Table  Table
	Column string
	Value  float64

	// What stands beside it.
	Merged       float64 // share of the changes that came together with a later one
	Lost         float64 // share of the changes that the contestant said it dropped
	BlockedAfter int     // writes after which the writer waited for a reader for ever; 0: it did not
}

// A Table is the figures of one unit. Lower ones are better, unless the unit tells.
type Table struct {
	Title   string `json:"title"`
	Unit    string `json:"unit"`
	Derived bool   `json:"derived,omitempty"` // from another one, so that no ratios are made of it
}

// All are the workloads, in order.
func All() []Workload {
	return []Workload{Writes, FanOut, OneStalled, Stalled, Latency, Newcomer, KeyFeeds, Reads}
}

// A Scale says how much is done.
type Scale struct {
	Rounds   int
	Rows     int // where their number is of no account
	Large    int // many rows
	FanOuts  []Audience
	Writes   int // timed ones, of those that take about a microsecond
	Stalled  int // subscribers that stall
	Backlog  int // writes that a stalled subscriber does not read
	KeyFeeds int
}

// An Audience is so many subscribers, and as many writes as they get.
type Audience struct{ Subscribers, Writes int }

// Full is the comparison as it is meant.
func Full() Scale {
	return Scale{
		Rounds:   5,
		Rows:     10_000,
		Large:    1_000_000,
		FanOuts:  []Audience{{1, 20_000}, {10, 20_000}, {100, 20_000}, {1000, 5000}, {10_000, 500}},
		Writes:   20_000,
		Stalled:  1000,
		Backlog:  1_000_000,
		KeyFeeds: 10_000,
	}
}

// Quick is one that shows that everything works, in under a minute.
func Quick() Scale {
	return Scale{
		Rounds:   2,
		Rows:     10_000,
		Large:    50_000,
		FanOuts:  []Audience{{1, 2000}, {10, 2000}, {100, 2000}, {1000, 500}},
		Writes:   2000,
		Stalled:  100,
		Backlog:  20_000,
		KeyFeeds: 1000,
	}
}

// openTable returns a table with n rows, or nil if the contestant has no rows.
func openTable(c contest.Contestant, n int) contest.Table {
	store := c.Open()
	table, ok := store.(contest.Table)
	if !ok {
		store.Close()
		return nil
	}
	table.Load(contest.Rows(n))
	collect()
	return table
}

// collect frees what is garbage, so that nobody pays for another's.
func collect() {
	runtime.GC()
	runtime.GC() // what the first one's cleanups released
}

// heap returns how many bytes are in use.
func heap() float64 {
	collect()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// perOp returns the time of one of n operations, in ns.
func perOp(elapsed time.Duration, n int) float64 { return float64(elapsed) / float64(n) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Count returns 1,000 for 1000.
func Count(n int) string {
	if n < 0 {
		return "-" + Count(-n)
	}
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", Count(n/1000), n%1000)
}
