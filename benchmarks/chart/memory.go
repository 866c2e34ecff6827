package chart

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// Memory draws the memory that each of many stalled subscribers holds.
func Memory(r *report.Report) ([]byte, error) {
	var rows rowsPlotter
	column, lowest, highest := "", math.Inf(1), 0.0
	for _, c := range r.Contestants {
		for _, x := range r.Results {
			if x.Table != workload.StalledBytes || x.Contestant != c.Name {
				continue
			}
			column = x.Column
			m := mark{x: max(x.Median, 1), label: size(max(x.Median, 0))} // less than nothing is noise of the garbage collector
			if x.BlockedAfter > 0 {
				m.label += fmt.Sprintf(", and the writer blocked after %s writes", workload.Count(x.BlockedAfter))
			} else if c.Traits.Merges {
				m.label += ", without a history: changes merge"
			}
			rows = append(rows, row{c.Name, []mark{m}})
			lowest, highest = min(lowest, m.x), max(highest, m.x)
		}
	}
	if len(rows) == 0 {
		return nil, nil
	}
	c := newCard(3.2*vg.Inch, memoryFinding(r, column), column+", of which they read none; lower is better")
	p := newPlot()
	from, to, ticks := decades(lowest, highest, highest*10, size)
	p.X.Min, p.X.Max = from, to
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	rows.axis(p)
	p.Add(gridLines{x: true}, rows)
	body := leaveRoom(draw.Crop(c.body, 0, 0, labelHeight, 0), p, rows.labels())
	p.Draw(body)
	labelX(body, p, "memory in use for each subscriber (log scale)")
	return c.bytes()
}

// memoryFinding compares the memory that a subscriber holds here and in a queue, and counts
// the contestants whose writers wait for it.
func memoryFinding(r *report.Report, column string) string {
	ours, ok := r.Find(workload.StalledBytes, column, report.Base)
	if !ok {
		return "What a stalled subscriber holds"
	}
	finding := fmt.Sprintf("A stalled subscriber holds %s in %s", size(ours.Median), report.Base)
	if queue, ok := r.Find(workload.StalledBytes, column, contest.Queues.Name); ok {
		finding += ", " + size(queue.Median) + " in a queue"
	}
	blocked := 0
	for _, x := range r.Results {
		if x.Table == workload.StalledBytes && x.BlockedAfter > 0 {
			blocked++
		}
	}
	if blocked > 0 {
		finding += fmt.Sprintf("; %d others block the writer", blocked)
	}
	return finding
}
