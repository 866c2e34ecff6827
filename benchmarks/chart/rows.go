package chart

import (
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const labelGap = vg.Length(9) // between a mark and its label

// A mark is a point in a row.
type mark struct {
	x     float64
	shape draw.GlyphDrawer // nil for the contestant's own
	label string           // to the right of it
}

// A row is the marks of one contestant, connected by a line.
type row struct {
	contestant string
	marks      []mark
}

// A rowsPlotter draws rows, the first one on top, with the contestants on the y axis.
type rowsPlotter []row

// axis sets up the plot's y axis for the rows.
func (s rowsPlotter) axis(p *plot.Plot) {
	p.Y.Min, p.Y.Max = 0.4, float64(len(s))+0.6
	var ticks []plot.Tick
	for i, r := range s {
		ticks = append(ticks, plot.Tick{Value: s.height(i), Label: r.contestant})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	p.Y.Tick.Length = 0
	p.Y.Tick.Label.Color, p.Y.Tick.Label.Font.Size = ink, 10
}

// labels returns the marks' labels.
func (s rowsPlotter) labels() (labels []sideLabel) {
	for _, r := range s {
		for _, m := range r.marks {
			labels = append(labels, sideLabel{m.x, labelGap + labelStyle(r.contestant).Width(m.label)})
		}
	}
	return labels
}

func (s rowsPlotter) height(i int) float64 { return float64(len(s) - i) }

func (s rowsPlotter) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	for i, r := range s {
		y, l := toY(s.height(i)), lookOf(r.contestant)
		var points []vg.Point
		for _, m := range r.marks {
			points = append(points, vg.Point{X: toX(m.x), Y: y})
		}
		c.StrokeLines(l.line(r.contestant), points)
		for k, m := range r.marks {
			glyph := l.glyph()
			glyph.Radius = 4
			if m.shape != nil {
				glyph.Shape = m.shape
				if _, ring := m.shape.(draw.RingGlyph); ring { // the line must not cross it
					c.DrawGlyph(draw.GlyphStyle{Color: paper, Radius: 4, Shape: draw.CircleGlyph{}}, points[k])
				}
			}
			c.DrawGlyph(glyph, points[k])
			c.FillText(labelStyle(r.contestant), points[k].Add(vg.Point{X: labelGap, Y: 6}), m.label)
		}
	}
}
