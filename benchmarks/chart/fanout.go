package chart

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// A curve connects the points of one contestant.
type curve struct {
	contestant string
	label      string // at its end
	points     plotter.XYs
}

// FanOut draws the time from a write until all subscribers have the change, by the number
// of subscribers.
func FanOut(r *report.Report) ([]byte, error) {
	curves, lowest, highest, most := fanOutCurves(r)
	if len(curves) == 0 {
		return nil, nil
	}
	c := newCard(4.5*vg.Inch, fanOutFinding(r), "Random updates, one by one, until every subscriber has read everything; lower is better")
	p := newPlot()
	var ticks []plot.Tick
	p.X.Min, p.X.Max, ticks = decades(1, most, most, whole)
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.Y.Scale = plot.LogScale{}
	p.Y.Min, p.Y.Max, ticks = decades(lowest, highest, highest*10, duration)
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	p.Add(gridLines{x: true, y: true}, curvesPlotter(curves))
	body := leaveRoom(draw.Crop(c.body, 0, 0, labelHeight, -labelHeight), p, curvesPlotter(curves).labels())
	p.Draw(body)
	labelX(body, p, "subscribers (log scale)")
	labelY(body, "time a write (log scale)")
	return c.bytes()
}

func fanOutCurves(r *report.Report) (curves []curve, lowest, highest, most float64) {
	lowest = math.Inf(1)
	for _, c := range r.Contestants {
		v := curve{contestant: c.Name, label: c.Name}
		for _, x := range r.Results {
			if x.Table != workload.FanOutTime || x.Contestant != c.Name || x.Median <= 0 {
				continue
			}
			n, err := strconv.ParseFloat(strings.ReplaceAll(x.Column, ",", ""), 64)
			if err != nil {
				continue
			}
			v.points = append(v.points, plotter.XY{X: n, Y: x.Median})
			lowest, highest, most = min(lowest, x.Median), max(highest, x.Median), max(most, n)
			if x.Merged > 0 {
				v.label = fmt.Sprintf("%s (%s merged)", c.Name, report.Percent(x.Merged))
			}
		}
		if len(v.points) > 0 {
			curves = append(curves, v)
		}
	}
	return curves, lowest, highest, max(most, 10)
}

// fanOutFinding compares the base with the others at a thousand subscribers.
func fanOutFinding(r *report.Report) string {
	const column = "1,000"
	var parts []string
	for _, peer := range []contest.Contestant{contest.Channels, contest.StateDB} {
		if ratio, ok := r.Ratio(workload.FanOutTime, column, peer.Name); ok {
			parts = append(parts, fmt.Sprintf("%s as fast as %s", times(ratio), peer.Name))
		}
	}
	if len(parts) == 0 {
		return "A write until all subscribers have it"
	}
	return fmt.Sprintf("With %s subscribers %s is %s", column, report.Base, strings.Join(parts, ", "))
}

// curvesPlotter draws curves, with their names at the end.
type curvesPlotter []curve

const nameGap = vg.Length(26) // between a curve's end and its name

// labels returns the curves' names.
func (s curvesPlotter) labels() (labels []sideLabel) {
	for _, v := range s {
		end := v.points[len(v.points)-1]
		labels = append(labels, sideLabel{end.X, nameGap + labelStyle(v.contestant).Width(v.label)})
	}
	return labels
}

func (s curvesPlotter) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	type end struct {
		at    vg.Point
		curve curve
	}
	var ends []end
	for _, v := range slices.Backward(s) { // the first one on top
		l := lookOf(v.contestant)
		var points []vg.Point
		for _, xy := range v.points {
			points = append(points, vg.Point{X: toX(xy.X), Y: toY(xy.Y)})
		}
		c.StrokeLines(l.line(v.contestant), points)
		for _, at := range points {
			c.DrawGlyph(l.glyph(), at)
		}
		ends = append(ends, end{points[len(points)-1], v})
	}
	const lineHeight = 12
	slices.SortFunc(ends, func(a, b end) int { return int(a.at.Y - b.at.Y) })
	heights := make([]vg.Length, len(ends))
	for i, e := range ends {
		heights[i] = e.at.Y
	}
	spread(heights, lineHeight, c.Min.Y+lineHeight/2, c.Max.Y-lineHeight/2)
	for i, e := range ends {
		l, x := lookOf(e.curve.contestant), e.at.X+nameGap
		c.StrokeLine2(draw.LineStyle{Color: l.color, Width: 0.6}, e.at.X+5, e.at.Y, x-14, heights[i])
		c.DrawGlyphNoClip(l.glyph(), vg.Point{X: x - 8, Y: heights[i]})
		c.FillText(labelStyle(e.curve.contestant), vg.Point{X: x, Y: heights[i] + lineHeight/2}, e.curve.label)
	}
}

// spread moves ascending heights apart until they are gap from each other, and
// between lowest and highest if they fit.
func spread(heights []vg.Length, gap, lowest, highest vg.Length) {
	for i := range heights {
		heights[i] = max(heights[i], lowest)
		if i > 0 {
			heights[i] = max(heights[i], heights[i-1]+gap)
		}
	}
	limit := highest
	for i := len(heights) - 1; i >= 0; i-- {
		heights[i] = min(heights[i], limit)
		limit = heights[i] - gap
	}
}
