package report

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

func TestMedian(t *testing.T) {
	require.Zero(t, median(nil))
	require.InDelta(t, 3, median([]float64{3}), 0)
	require.InDelta(t, 2, median([]float64{9, 1, 2}), 0)
	require.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.012345: "0.012", 0.5: "0.5", 0.998: "1.00", 1.234: "1.23", 12.34: "12.3",
		123.4: "123", 1234: "1,230", 98_765: "98,800", 1_234_567: "1,230,000", -12.34: "-12.3",
	} {
		require.Equal(t, want, Number(v))
	}
}

func TestPercent(t *testing.T) {
	for share, want := range map[float64]string{0: "0%", 0.001: "under 1%", 0.25: "25%", 0.999: "over 99%", 1: "100%"} {
		require.Equal(t, want, Percent(share))
	}
}

var (
	speed = workload.Table{Title: "Speed", Unit: "ns"}
	rate  = workload.Table{Title: "Rate", Unit: "a second; higher is better", Derived: true}
)

// sample returns a report of three contestants in three rounds.
func sample() *Report {
	r := New(false, 3, []contest.Contestant{contest.Changefeed, contest.StateDB, contest.Channels})
	for i := range 3 {
		ours := []float64{10, 40, 20}[i]
		theirs := []float64{30, 60, 80}[i]
		r.Add(workload.FanOut, contest.Changefeed, []workload.Figure{
			{Table: speed, Column: "1", Value: ours},
			{Table: rate, Column: "1", Value: 1e9 / ours},
		})
		r.Add(workload.FanOut, contest.StateDB, []workload.Figure{
			{Table: speed, Column: "1", Value: theirs, Merged: 0.3, Lost: 0.1},
		})
		r.Add(workload.FanOut, contest.Channels, []workload.Figure{
			{Table: speed, Column: "1", BlockedAfter: 1000 + i},
		})
	}
	return r
}

func TestResults(t *testing.T) {
	r := sample()
	x, ok := r.Find(speed, "1", contest.Changefeed.Name)
	require.True(t, ok)
	require.Equal(t, []float64{10, 40, 20}, x.Rounds)
	require.InDelta(t, 20, x.Median, 0)
	require.InDelta(t, 10, x.Min, 0)
	require.InDelta(t, 40, x.Max, 0)
	_, ok = r.Find(speed, "2", contest.Changefeed.Name)
	require.False(t, ok)

	// The rounds' ratios are 3, 1.5 and 4.
	ratio, ok := r.Ratio(speed, "1", contest.StateDB.Name)
	require.True(t, ok)
	require.InDelta(t, 3, ratio, 1e-9)
	_, ok = r.Ratio(speed, "1", contest.Channels.Name)
	require.False(t, ok, "its writer was blocked")
	_, ok = r.Ratio(rate, "1", contest.StateDB.Name)
	require.False(t, ok, "it was not measured")
}

func TestJSON(t *testing.T) {
	r := sample()
	file := filepath.Join(t.TempDir(), "r.json")
	require.NoError(t, r.Write(file))
	again, err := Read(file)
	require.NoError(t, err)
	for i := range r.Results { // these fields are only used while rounds are added
		r.Results[i].merged, r.Results[i].lost = nil, nil
	}
	require.Equal(t, r, again)

	_, err = Read(filepath.Join(t.TempDir(), "none.json"))
	require.Error(t, err)
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	sample().Markdown(&b)
	text := b.String()
	require.Contains(t, text, "Speed, ns:")
	require.Contains(t, text, "| changefeed | 20.0 |")
	require.Contains(t, text, "| statedb | 60.0 (30% merged, 10% lost) |")
	require.Contains(t, text, "| channels | blocked after 1,002 writes |")
	require.Contains(t, text, "| Speed: 1 | 3.00 |  |")
	require.NotContains(t, text, "| Rate: 1 |")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "|") {
			require.True(t, strings.HasSuffix(line, "|\n"), line)
		}
	}
}

func TestRatioCell(t *testing.T) {
	require.Empty(t, ratioCell(3, false))
	require.Equal(t, "**0.5**", ratioCell(0.5, true))
	require.Equal(t, "1.00", ratioCell(0.999, true))
	require.Equal(t, "12.0", ratioCell(12, true))
}

func TestMachine(t *testing.T) {
	m := thisMachine()
	require.Positive(t, m.Cores)
	require.NotEmpty(t, m.CPU)
	require.Contains(t, m.System, "/")
	require.Empty(t, moduleVersion(""))
	require.Empty(t, moduleVersion("example.com/none"))
}
