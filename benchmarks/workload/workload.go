// Package workload defines the work that all contestants of a comparison are given.
//
// A workload is a list of cases. One run of a case by one contestant, on a store of its
// own, yields a few figures. A comparison has several rounds. In each round, all
// contestants run a case in turn. Everything that is not the contestants' work is done
// outside the timed part: rows and keys are drawn, stores are filled, readers begin to
// wait, and the garbage of earlier runs is collected.
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
	Name  string // value of a flag
	Title string
	About string // describes the work
	Cases func(s Scale) []Case
}

// A Case is a workload at one size.
type Case struct {
	Name string

	// Run runs the case once. It returns no figures if the contestant cannot do such work,
	// and an error if the contestant did it wrong.
	Run func(c contest.Contestant) ([]Figure, error)
}

// A Figure is a measured value. It is a cell of a table that has a row for each contestant.
type Figure struct {
	Table  Table
	Column string
	Value  float64

	// Shown beside the value.
	Merged       float64 // share of the changes that were merged with a later one
	Lost         float64 // share of the changes that the contestant reported as dropped
	BlockedAfter int     // if not 0, the writer waited for a reader for ever after so many writes
}

// A Table holds the figures of one unit. Lower figures are better, unless the unit says
// otherwise.
type Table struct {
	Title   string `json:"title"`
	Unit    string `json:"unit"`
	Derived bool   `json:"derived,omitempty"` // computed from another table, so there are no ratios
}

// All returns the workloads, in order.
func All() []Workload {
	return []Workload{Writes, FanOut, OneStalled, Stalled, Latency, Newcomer, KeyFeeds, Reads, Views, ViewFollowers}
}

// A Scale sets the amount of work.
type Scale struct {
	Rounds   int
	Rows     int // number of rows where it does not matter
	Large    int // number of rows of a large table
	FanOuts  []Audience
	Writes   int // number of timed writes that take about a microsecond each
	Stalled  int // number of subscribers that stall
	Backlog  int // number of writes that a stalled subscriber does not read
	KeyFeeds int

	Followers int // number of followers of a view
}

// An Audience is a number of subscribers, and the number of writes that they receive.
type Audience struct{ Subscribers, Writes int }

// Full returns the scale of a full comparison.
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

		Followers: 1000,
	}
}

// Quick returns a scale that shows in under a minute that everything works.
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

		Followers: 100,
	}
}

// openTable returns a table with n rows, which were inserted in random order, or nil if the
// contestant has no rows.
func openTable(c contest.Contestant, n int) contest.Table { return openTableOf(c, contest.Rows(n)) }

func openTableOf(c contest.Contestant, rows []contest.Row) contest.Table {
	if c.Open == nil {
		return nil
	}
	store := c.Open()
	table, ok := store.(contest.Table)
	if !ok {
		store.Close()
		return nil
	}
	table.Load(rows)
	collect()
	return table
}

// A fill is the number of rows of a table, and the order in which they were inserted. That
// order decides where rows lie in memory. If it is that of the keys, a loop over all of a large
// table reads memory from one end to the other.
type fill struct {
	rows  int
	order string
	make  func(n int) []contest.Row
}

// fills are both orders of a large table.
func fills(rows int) []fill {
	return []fill{{rows, "key order", contest.RowsInOrder}, {rows, "random order", contest.Rows}}
}

func (f fill) open(c contest.Contestant) contest.Table { return openTableOf(c, f.make(f.rows)) }

// String returns "1,000,000 rows, key order", or without an order "10,000 rows".
func (f fill) String() string {
	if f.order == "" {
		return Count(f.rows) + " rows"
	}
	return Count(f.rows) + " rows, " + f.order
}

// collect frees all garbage, so that no contestant pays for the garbage of another one.
func collect() {
	runtime.GC()
	runtime.GC() // frees the memory that the cleanups of the first one released
}

// heap returns the number of bytes in use.
func heap() float64 {
	collect()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// perOp returns the time that one of n operations took, in ns.
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
