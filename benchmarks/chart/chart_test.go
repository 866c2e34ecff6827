package chart

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/vg"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// sample returns a report with what the charts show, the values drawn from the
// contestants' places.
func sample() *report.Report {
	r := report.New(true, 1, contest.All())
	for i, c := range contest.All() {
		v := float64(i + 1)
		for _, n := range workload.LatencyAudiences {
			for k, share := range workload.LatencyShares {
				r.Add(workload.Latency, c, []workload.Figure{{
					Table:  workload.LatencyTable,
					Column: workload.LatencyColumn(share, n),
					Value:  v * float64(k+1),
				}})
			}
		}
		if c.Traits.IsFloor {
			continue
		}
		for _, n := range []int{1, 10, 1000} {
			f := workload.Figure{Table: workload.FanOutTime, Column: workload.Count(n), Value: v * float64(n)}
			if c.Traits.Merges {
				f.Merged = 0.5
			}
			r.Add(workload.FanOut, c, []workload.Figure{f})
		}
		f := workload.Figure{Table: workload.StalledBytes, Column: "1,000 stalled", Value: 1000 * v}
		if c.Traits.Waits {
			f.BlockedAfter = 1234
		}
		r.Add(workload.Stalled, c, []workload.Figure{f})
	}
	return r
}

// texts returns the texts of a picture, which must be well-formed, in order.
func texts(t *testing.T, svg []byte) (all []string) {
	d := xml.NewDecoder(bytes.NewReader(svg))
	in := ""
	for {
		token, err := d.Token()
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		switch token := token.(type) {
		case xml.StartElement:
			in = token.Name.Local
		case xml.EndElement:
			in = ""
		case xml.CharData:
			if in == "text" {
				all = append(all, string(token))
			}
		}
	}
}

func TestCharts(t *testing.T) {
	want := map[string][]string{
		"fanout": {
			"With 1,000 subscribers changefeed is 5× as fast as channels, 2× as fast as statedb",
			"subscribers (log scale)", "time a write (log scale)", "statedb (50% merged)", "1 µs", "1,000",
		},
		"memory": {
			"A stalled subscriber holds 1 kB in changefeed, 6.00 kB in a queue; 3 others block the writer",
			"memory in use for each subscriber (log scale)", "3.00 kB, and the writer blocked after 1,234 writes",
		},
		"latency": {
			"A write reaches its reader in 1 µs with changefeed: 0.2× that of channels, 0.14× that of bare channel",
			"1 subscriber, time to it (log scale)", "100 subscribers, time to each (log scale)", "10 µs",
		},
	}
	for _, chart := range All() {
		t.Run(chart.Name, func(t *testing.T) {
			svg, err := chart.Draw(sample())
			require.NoError(t, err)
			found := texts(t, svg)
			all := strings.Join(found, " ")
			for _, text := range want[chart.Name] {
				require.Contains(t, all, text)
			}
			for _, c := range contest.All() {
				if !c.Traits.IsFloor || chart.Name == "latency" {
					require.Contains(t, all, c.Name)
				}
			}
			require.NotContains(t, all, "NaN")
			require.Contains(t, string(svg), "sans-serif")
		})
	}
}

// A report without the workload has no picture; one without the base, no comparison.
func TestPartOfAReport(t *testing.T) {
	for _, chart := range All() {
		svg, err := chart.Draw(report.New(true, 1, contest.All()))
		require.NoError(t, err)
		require.Nil(t, svg)

		r := sample()
		r.Contestants = r.Contestants[1:]
		var others []report.Result
		for _, x := range r.Results {
			if x.Contestant != report.Base {
				others = append(others, x)
			}
		}
		r.Results = others
		svg, err = chart.Draw(r)
		require.NoError(t, err)
		require.NotEmpty(t, texts(t, svg))
	}
}

func TestWrap(t *testing.T) {
	width := func(s string) vg.Length { return vg.Length(len(s)) }
	require.Equal(t, []string{"one two", "three", "four"}, wrap("one two three four", 8, width))
	require.Equal(t, []string{"longer-than-that", "a"}, wrap("longer-than-that a", 8, width))
}

func TestSpread(t *testing.T) {
	heights := []vg.Length{1, 2, 50, 99, 100}
	spread(heights, 10, 5, 95)
	require.Equal(t, []vg.Length{5, 15, 50, 85, 95}, heights)
}

func TestScaled(t *testing.T) {
	require.Equal(t, "1 ms", duration(1e6))
	require.Equal(t, "12.3 µs", duration(12_345))
	require.Equal(t, "100 B", size(100))
	require.Equal(t, "1.50 GB", size(1.5e9))
	require.Equal(t, "2,000 s", duration(2e12))
	require.Equal(t, "12×", times(12.3))
	require.Equal(t, "1.2×", times(1.23))
}
