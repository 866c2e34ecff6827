package chart

import (
	"fmt"
	"image/color"
	"math"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

var (
	paper  = color.RGBA{0xff, 0xff, 0xff, 0xff}
	border = color.RGBA{0xd0, 0xd7, 0xde, 0xff}
	ink    = color.RGBA{0x1f, 0x23, 0x28, 0xff}
	faint  = color.RGBA{0x57, 0x60, 0x6a, 0xff}
	grid   = color.RGBA{0xe4, 0xe7, 0xeb, 0xff}
)

// A look is the style of a contestant's points. Looks differ in both shape and color.
type look struct {
	color color.RGBA
	shape draw.GlyphDrawer
}

// looks uses the colors of Okabe and Ito, without the yellow, which is too pale for paper.
var looks = map[string]look{
	contest.Changefeed.Name: {color.RGBA{0x00, 0x72, 0xb2, 0xff}, draw.CircleGlyph{}},
	contest.StateDB.Name:    {color.RGBA{0xd5, 0x5e, 0x00, 0xff}, square},
	contest.MemDB.Name:      {color.RGBA{0x00, 0x9e, 0x73, 0xff}, triangle},
	contest.Badger.Name:     {color.RGBA{0xcc, 0x79, 0xa7, 0xff}, diamond},
	contest.Channels.Name:   {color.RGBA{0xe6, 0x9f, 0x00, 0xff}, pentagon},
	contest.Queues.Name:     {color.RGBA{0x56, 0xb4, 0xe9, 0xff}, wedge},
	contest.HandOff.Name:    {color.RGBA{0x00, 0x00, 0x00, 0xff}, draw.CircleGlyph{}},
}

// Filled shapes. The library's shapes that are not filled have thin lines.
var (
	triangle = polygon{3, 0}
	wedge    = polygon{3, 0.5}
	square   = polygon{4, 0.125}
	diamond  = polygon{4, 0}
	pentagon = polygon{5, 0}
)

// A polygon is a regular polygon as a glyph. One corner is on top, unless it is turned.
type polygon struct{ sides, turn float64 }

// DrawGlyph draws the polygon a little larger than a circle of the same radius, because its
// area is smaller.
func (g polygon) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	c.SetColor(style.Color)
	var path vg.Path
	for i := range int(g.sides) {
		sin, cos := math.Sincos(2 * math.Pi * (float64(i)/g.sides + g.turn))
		corner := at.Add(vg.Point{X: vg.Length(sin), Y: vg.Length(cos)}.Scale(1.25 * style.Radius))
		if i == 0 {
			path.Move(corner)
		} else {
			path.Line(corner)
		}
	}
	path.Close()
	c.Fill(path)
}

func lookOf(contestant string) look {
	if l, ok := looks[contestant]; ok {
		return l
	}
	return look{ink, draw.CircleGlyph{}}
}

// line returns the style of the contestant's lines.
func (l look) line(contestant string) draw.LineStyle {
	s := draw.LineStyle{Color: l.color, Width: 1.4}
	if contestant == report.Base {
		s.Width = 2.6
	}
	return s
}

func (l look) glyph() draw.GlyphStyle {
	return draw.GlyphStyle{Color: l.color, Radius: 3.2, Shape: l.shape}
}

func textStyle(c color.Color, size vg.Length, bold bool) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	if bold {
		f.Weight = xfont.WeightBold
	}
	return text.Style{Color: c, Font: f, Handler: wideText{text.Plain{Fonts: font.DefaultCache}}, XAlign: text.XLeft, YAlign: text.YTop}
}

// labelStyle is the style of a contestant's label.
func labelStyle(contestant string) text.Style {
	return textStyle(ink, 10, contestant == report.Base)
}

// A wideText lays out text for the reader's font. That may be wider than the font that is
// measured here.
type wideText struct{ text.Plain }

// widest is the assumed width of a text relative to its width in Liberation Sans. DejaVu
// Sans, one of the widest fonts in common use, needs 1.15 for the texts of the charts, and
// 1.23 for those in bold.
const widest = 1.3

// Box returns the size of a line in the widest font.
func (h wideText) Box(line string, f font.Font) (width, height, depth vg.Length) {
	width, height, depth = h.Plain.Box(line, f)
	return widest * width, height, depth
}

// Draw draws one line, unrotated. The reader's renderer aligns it.
func (h wideText) Draw(c vg.Canvas, line string, style text.Style, at vg.Point) {
	face := h.Fonts.Lookup(style.Font, style.Font.Size)
	anchor := map[text.XAlignment]string{text.XLeft: "start", text.XCenter: "middle", text.XRight: "end"}[style.XAlign]
	// vgsvg has no anchors, but writes a variant that it does not know as it is.
	face.Font.Variant = font.Variant("normal;text-anchor:" + anchor)
	at.Y += vg.Length(style.YAlign)*style.Height(line) - face.Extents().Ascent + style.Font.Size
	c.SetColor(style.Color)
	c.FillString(face, at, line)
}

// newPlot returns a plot with logarithmic x, and axes in the style of the card.
func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Width = faint, 0.8
		axis.Tick.Color, axis.Tick.Width = faint, 0.6
		style := textStyle(faint, 9, false)
		style.XAlign, style.YAlign = axis.Tick.Label.XAlign, axis.Tick.Label.YAlign
		axis.Tick.Label = style
	}
	p.X.Scale = plot.LogScale{}
	return p
}

// labelX writes the label of p's x axis below it and within c. The plot's own label would
// be misplaced on a logarithmic axis, and would change the width of the plot.
func labelX(c draw.Canvas, p *plot.Plot, label string) {
	style := textStyle(ink, 10, false)
	style.XAlign = text.XCenter
	half := style.Width(label) / 2
	data := p.DataCanvas(c)
	x := min(max(data.Center().X, c.Min.X+half), c.Max.X-half)
	c.FillText(style, vg.Point{X: x, Y: c.Min.Y - 3}, label)
}

// labelY writes the label of the y axis above it.
func labelY(c draw.Canvas, label string) {
	c.FillText(textStyle(ink, 10, false), vg.Point{X: c.Min.X, Y: c.Max.Y + 16}, label)
}

// A sideLabel is a text to the right of a point.
type sideLabel struct {
	x     float64   // the point's
	width vg.Length // from the point to the label's end
}

// leaveRoom crops c on the right by as much as p must shrink so that all labels end within
// c.
func leaveRoom(c draw.Canvas, p *plot.Plot, labels []sideLabel) draw.Canvas {
	data := p.DataCanvas(c)
	free := vg.Length(0)
	for _, l := range labels {
		// The point lies at data.Min.X + x*(data.Size().X-free).
		if x := vg.Length(p.X.Norm(l.x)); x > 0 {
			free = max(free, data.Size().X-(c.Max.X-l.width-data.Min.X)/x)
		}
	}
	return draw.Crop(c, 0, -free, 0, 0)
}

// decades rounds min and max to powers of ten, and returns a tick for each power from min
// to max. name returns the ticks' labels. Ticks after last have no label.
func decades(min, max, last float64, name func(float64) string) (from, to float64, ticks []plot.Tick) {
	lo, hi := math.Floor(math.Log10(min)), math.Ceil(math.Log10(max))
	for e := lo; e <= hi; e++ {
		if v := math.Pow(10, e); v <= last {
			ticks = append(ticks, plot.Tick{Value: v, Label: name(v)})
		}
	}
	return math.Pow(10, lo), math.Pow(10, hi), ticks
}

// gridLines draws lines at the ticks of one axis or both.
type gridLines struct{ x, y bool }

func (g gridLines) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	style := draw.LineStyle{Color: grid, Width: 0.8}
	if g.x {
		for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
			c.StrokeLine2(style, toX(t.Value), c.Min.Y, toX(t.Value), c.Max.Y)
		}
	}
	if g.y {
		for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
			c.StrokeLine2(style, c.Min.X, toY(t.Value), c.Max.X, toY(t.Value))
		}
	}
}

// duration formats a time in ns.
func duration(ns float64) string {
	return scaled(ns, "ns", "µs", "ms", "s")
}

// size formats a number of bytes.
func size(bytes float64) string {
	return scaled(bytes, "B", "kB", "MB", "GB")
}

// scaled formats v in one of the units. Each unit is a thousand times as large as the one
// before it, and v is in the first one. The result has three digits, or one if it is a
// power of ten.
func scaled(v float64, units ...string) string {
	i := 0
	for v >= 999.5 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if v == 1 || v == 10 || v == 100 {
		return fmt.Sprint(v, " ", units[i])
	}
	return report.Number(v) + " " + units[i]
}

// whole formats a tick as a whole number.
func whole(v float64) string { return workload.Count(int(v)) }

// times formats a ratio.
func times(ratio float64) string {
	if ratio >= 9.95 {
		return fmt.Sprintf("%.0f×", ratio)
	}
	return fmt.Sprintf("%.2g×", ratio)
}
