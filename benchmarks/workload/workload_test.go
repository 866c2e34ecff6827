package workload

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// tiny is a scale at which every case takes milliseconds.
var tiny = Scale{
	Rounds:   1,
	Rows:     200,
	Large:    500,
	FanOuts:  []Audience{{1, 200}, {10, 200}},
	Writes:   400,
	Stalled:  3,
	Backlog:  6000,
	KeyFeeds: 100,

	Followers: 5,
}

// does reports whether a contestant does some of the work. Only the library's views have followers
// here. The hand-off only measures latency.
func does(c contest.Contestant, w Workload) bool {
	switch {
	case w.Name == ViewFollowers.Name:
		return c.Name == contest.Changefeed.Name
	case w.Name == Views.Name:
		return c.OpenView != nil
	case c.Traits.IsFloor:
		return w.Name == Latency.Name
	default:
		return c.Open != nil
	}
}

// Every contestant does all work of its kind.
func TestWorkloads(t *testing.T) {
	for _, w := range All() {
		t.Run(w.Name, func(t *testing.T) {
			for _, c := range contest.All() {
				some := false
				for _, cs := range w.Cases(tiny) {
					figures, err := cs.Run(c)
					require.NoError(t, err, cs.Name)
					if w.Name != Views.Name { // which some contestants have only a part of
						require.Equal(t, does(c, w), figures != nil, cs.Name)
					}
					some = some || figures != nil
					for _, f := range figures {
						require.NotEmpty(t, f.Table.Title)
						require.NotEmpty(t, f.Table.Unit)
						require.NotEmpty(t, f.Column)
						require.GreaterOrEqual(t, f.Merged, 0.0)
						require.Zero(t, f.Lost)
						if !c.Traits.Merges {
							require.Zero(t, f.Merged)
						}
						if !c.Traits.Waits {
							require.Zero(t, f.BlockedAfter)
						}
					}
				}
				require.Equal(t, does(c, w), some, c.Name)
			}
		})
	}
}

// A stalled subscriber stops the contestants whose writer waits, and no others.
func TestBlocked(t *testing.T) {
	for _, c := range contest.All() {
		if c.Traits.IsFloor || c.Open == nil {
			continue
		}
		cost, memory, err := beside(c, tiny.Rows, tiny.Backlog*2, 1)
		require.NoError(t, err)
		require.Equal(t, c.Traits.Waits, cost.BlockedAfter > 0, c.Name)
		require.Equal(t, cost.BlockedAfter, memory.BlockedAfter)
	}
}

// A change that is missing without notice, delivered twice, or wrong is an error.
func TestCheck(t *testing.T) {
	const base, writes = 10, 4
	whole := contest.Tally{Changes: 4, Sum: 11 + 12 + 13 + 14, Last: 14}
	tests := map[string]struct {
		tally        func(t *contest.Tally)
		merges       bool
		merged, lost float64
		wrong        string
	}{
		"whole":         {},
		"short":         {tally: func(t *contest.Tally) { t.Last-- }, wrong: "ended at version 13"},
		"double":        {tally: func(t *contest.Tally) { t.Changes++ }, wrong: "1 changes too many"},
		"missing":       {tally: func(t *contest.Tally) { t.Changes-- }, wrong: "misses 1 changes"},
		"other":         {tally: func(t *contest.Tally) { t.Sum++ }, wrong: "other changes"},
		"lost":          {tally: func(t *contest.Tally) { t.Changes, t.Lost = 3, 1 }, lost: 0.25},
		"merged":        {tally: func(t *contest.Tally) { t.Changes = 1 }, merges: true, merged: 0.75},
		"merged double": {tally: func(t *contest.Tally) { t.Changes++ }, merges: true, wrong: "too many"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tally := whole
			if test.tally != nil {
				test.tally(&tally)
			}
			a := audience{base: base, tallies: []*contest.Tally{&tally}}
			a.contestant.Traits.Merges = test.merges
			merged, lost, err := a.check(writes)
			if test.wrong != "" {
				require.ErrorContains(t, err, test.wrong)
				return
			}
			require.NoError(t, err)
			require.InDelta(t, test.merged, merged, 1e-9)
			require.InDelta(t, test.lost, lost, 1e-9)
		})
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_000_000: "1,000,000", 12_034: "12,034", -1500: "-1,500"} {
		require.Equal(t, want, Count(n))
	}
}
