package chart

import (
	"fmt"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// latencyShapes are the shapes for workload.LatencyShares.
var latencyShapes = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.RingGlyph{}, triangle}

const latencyKey = "● p50   ○ p99   ▲ p99.9"

// Latency draws the time that a change takes to a waiting reader, in a panel for each
// number of subscribers.
func Latency(r *report.Report) ([]byte, error) {
	panels := make([][]*plot.Plot, 1)
	var labels []string
	lowest, highest := math.Inf(1), 0.0
	for _, n := range workload.LatencyAudiences {
		rows := latencyRows(r, n)
		if len(rows) == 0 {
			return nil, nil
		}
		for _, row := range rows {
			for _, m := range row.marks {
				lowest, highest = min(lowest, m.x), max(highest, m.x)
			}
		}
		label := "1 subscriber, time to it (log scale)"
		if n > 1 {
			label = workload.Count(n) + " subscribers, time to each (log scale)"
		}
		labels = append(labels, label)
		p := newPlot()
		rows.axis(p)
		p.Add(gridLines{x: true}, rows)
		panels[0] = append(panels[0], p)
	}
	from, to, ticks := decades(lowest, highest, highest*10, duration)
	for _, p := range panels[0] {
		p.X.Min, p.X.Max = from, to
		p.X.Tick.Marker = plot.ConstantTicks(ticks)
	}
	c := newCard(3.4*vg.Inch, latencyFinding(r), "From the call of a write to a reader that waits, the writer paced; lower is better", latencyKey)
	body := draw.Crop(c.body, 0, 0, labelHeight, 0)
	for i, part := range plot.Align(panels, draw.Tiles{Rows: 1, Cols: len(panels[0]), PadX: 14}, body)[0] {
		panels[0][i].Draw(part)
		labelX(part, panels[0][i], labels[i])
	}
	return c.bytes()
}

// latencyRows returns a row for each contestant, in ns.
func latencyRows(r *report.Report, subscribers int) (rows rowsPlotter) {
	for _, c := range r.Contestants {
		var marks []mark
		for i, share := range workload.LatencyShares {
			if x, ok := r.Find(workload.LatencyTable, workload.LatencyColumn(share, subscribers), c.Name); ok {
				marks = append(marks, mark{x: x.Median * 1000, shape: latencyShapes[i]})
			}
		}
		if len(marks) > 0 {
			rows = append(rows, row{c.Name, marks})
		}
	}
	return rows
}

// latencyFinding compares the base with code written by hand, and with the floor.
func latencyFinding(r *report.Report) string {
	column := workload.LatencyColumn(0.5, 1)
	ours, ok := r.Find(workload.LatencyTable, column, report.Base)
	if !ok {
		return "From a write to its reader"
	}
	finding := fmt.Sprintf("A write reaches its reader in %s with %s", duration(ours.Median*1000), report.Base)
	var parts []string
	for _, peer := range []contest.Contestant{contest.Channels, contest.HandOff} {
		if ratio, ok := r.Ratio(workload.LatencyTable, column, peer.Name); ok {
			parts = append(parts, fmt.Sprintf("%s that of %s", times(1/ratio), peer.Name))
		}
	}
	if len(parts) == 0 {
		return finding
	}
	return finding + ": " + strings.Join(parts, ", ")
}
