// Package chart draws the findings of a comparison as SVG for a README. Each is on a card
// of its own, so that it can be read on light and dark pages. The title states the finding.
// The colors are the palette of Okabe and Ito, which is safe for color-blind readers.
package chart

import (
	"bytes"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/seed-637b77f9/changefeed/benchmarks/report"
)

// A Chart is a picture of one finding.
type Chart struct {
	Name string // of its file, without the suffix
	Draw func(r *report.Report) ([]byte, error)
}

// All returns the charts. Their Draw returns nil if the report has no figures for it.
func All() []Chart {
	return []Chart{{"fanout", FanOut}, {"memory", Memory}, {"latency", Latency}}
}

const (
	width  = 7.4 * vg.Inch
	margin = vg.Length(12)

	labelHeight = vg.Length(16) // of an axis
)

// A card is a picture that is being drawn.
type card struct {
	svg  *vgsvg.Canvas
	body draw.Canvas // the space left below the title
}

// newCard returns a card with a title, and below it notes on the work. Each has as many
// lines as it needs. height is the height of the card with one line for each.
func newCard(height vg.Length, title string, notes ...string) *card {
	const titleHeight, noteHeight = 17, 12
	titleStyle, noteStyle := textStyle(ink, 13, true), textStyle(faint, 10, false)
	titles := wrap(title, width-2*margin, titleStyle.Width)
	var noteLines []string
	for _, note := range notes {
		noteLines = append(noteLines, wrap(note, width-2*margin, noteStyle.Width)...)
	}
	svg := vgsvg.New(width, height+vg.Length(len(titles)-1)*titleHeight+vg.Length(len(noteLines)-1)*noteHeight)
	c := draw.New(svg)
	edge := c.Rectangle
	edge.Min = edge.Min.Add(vg.Point{X: 0.5, Y: 0.5})
	edge.Max = edge.Max.Sub(vg.Point{X: 0.5, Y: 0.5})
	c.SetColor(paper)
	c.Fill(edge.Path())
	c.SetColor(border)
	c.SetLineWidth(1)
	c.Stroke(edge.Path())

	c = draw.Crop(c, margin, -margin, margin, -margin)
	for _, line := range titles {
		c.FillText(titleStyle, vg.Point{X: c.Min.X, Y: c.Max.Y}, line)
		c.Max.Y -= titleHeight
	}
	for _, line := range noteLines {
		c.FillText(noteStyle, vg.Point{X: c.Min.X, Y: c.Max.Y - 2}, line)
		c.Max.Y -= noteHeight
	}
	c.Max.Y -= 11
	return &card{svg, c}
}

// wrap breaks a text into lines that are not wider than limit.
func wrap(s string, limit vg.Length, width func(string) vg.Length) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		longer := strings.TrimSpace(line + " " + word)
		if line != "" && width(longer) > limit {
			lines = append(lines, line)
			longer = word
		}
		line = longer
	}
	return append(lines, line)
}

// bytes returns the picture as SVG. If the reader's machine lacks the font, it uses another
// sans-serif font.
func (c *card) bytes() ([]byte, error) {
	var buf bytes.Buffer
	if _, err := c.svg.WriteTo(&buf); err != nil {
		return nil, err
	}
	const family = "font-family:Liberation Sans"
	return []byte(strings.ReplaceAll(buf.String(), family, family+",Arial,Helvetica,sans-serif")), nil
}
