// Package report keeps the results of a comparison, as a file and as tables.
package report

import (
	"encoding/json"
	"os"
	"slices"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// Base is the contestant that the others are compared with.
var Base = contest.Changefeed.Name

// A Report is one run of the comparison.
type Report struct {
	Date        string       `json:"date"`
	Quick       bool         `json:"quick"` // a small and short run, whose figures mean little
	Rounds      int          `json:"rounds"`
	Machine     Machine      `json:"machine"`
	Go          string       `json:"go"`
	Contestants []Contestant `json:"contestants"`
	Results     []Result     `json:"results"`
}

// A Contestant is a contestant that took part.
type Contestant struct {
	Name    string         `json:"name"`
	Module  string         `json:"module,omitempty"`
	Version string         `json:"version,omitempty"`
	Traits  contest.Traits `json:"traits"`
}

// A Result is one figure of one contestant in all rounds.
type Result struct {
	Workload   string         `json:"workload"`
	Table      workload.Table `json:"table"`
	Column     string         `json:"column"`
	Contestant string         `json:"contestant"`

	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`

	Merged       float64 `json:"merged,omitempty"`        // share of the changes, median
	Lost         float64 `json:"lost,omitempty"`          // share of the changes, median
	BlockedAfter int     `json:"blocked_after,omitempty"` // writes, in the last round that was blocked

	merged, lost []float64
}

// New returns an empty report of a run that begins now.
func New(quick bool, rounds int, contestants []contest.Contestant) *Report {
	r := &Report{
		Date:    time.Now().UTC().Format(time.DateOnly),
		Quick:   quick,
		Rounds:  rounds,
		Machine: thisMachine(),
		Go:      goVersion(),
	}
	for _, c := range contestants {
		r.Contestants = append(r.Contestants, Contestant{c.Name, c.Module, moduleVersion(c.Module), c.Traits})
	}
	return r
}

// Add adds a contestant's figures of one more round.
func (r *Report) Add(w workload.Workload, c contest.Contestant, figures []workload.Figure) {
	for _, f := range figures {
		i := r.index(f.Table.Title, f.Column, c.Name)
		if i < 0 {
			i = len(r.Results)
			r.Results = append(r.Results, Result{Workload: w.Name, Table: f.Table, Column: f.Column, Contestant: c.Name})
		}
		r.Results[i].add(f)
	}
}

func (x *Result) add(f workload.Figure) {
	x.BlockedAfter = max(x.BlockedAfter, f.BlockedAfter)
	x.Rounds = append(x.Rounds, f.Value)
	x.Median, x.Min, x.Max = median(x.Rounds), slices.Min(x.Rounds), slices.Max(x.Rounds)
	x.merged, x.lost = append(x.merged, f.Merged), append(x.lost, f.Lost)
	x.Merged, x.Lost = median(x.merged), median(x.lost)
}

func (r *Report) index(table, column, contestant string) int {
	return slices.IndexFunc(r.Results, func(x Result) bool {
		return x.Table.Title == table && x.Column == column && x.Contestant == contestant
	})
}

// Find returns a contestant's result.
func (r *Report) Find(table workload.Table, column, contestant string) (Result, bool) {
	if i := r.index(table.Title, column, contestant); i >= 0 {
		return r.Results[i], true
	}
	return Result{}, false
}

// Ratio returns how many times as good as the contestant Base is. This is the median of
// the rounds' ratios. It returns false if one of the two was not measured, or if its
// writer waited for ever.
func (r *Report) Ratio(table workload.Table, column, contestant string) (float64, bool) {
	base, ok1 := r.Find(table, column, Base)
	other, ok2 := r.Find(table, column, contestant)
	if !ok1 || !ok2 || base.BlockedAfter > 0 || other.BlockedAfter > 0 {
		return 0, false
	}
	var ratios []float64
	for i := range min(len(base.Rounds), len(other.Rounds)) {
		ours, theirs := base.Rounds[i], other.Rounds[i]
		if ours <= 0 || theirs <= 0 {
			return 0, false // the growth is smaller than the noise of the garbage collector
		}
		ratios = append(ratios, theirs/ours)
	}
	return median(ratios), true
}

// Write writes the report as JSON.
func (r *Report) Write(file string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// Read reads a report that Write wrote.
func Read(file string) (*Report, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	return r, json.Unmarshal(data, r)
}
