package chart

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/vg"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// sample returns a report with the figures that the charts show. The values are computed
// from the contestants' positions.
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

// texts returns the texts of a picture, in order. The picture must be well-formed.
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

// A report without the workload yields no picture. A report without the base yields a
// picture without a comparison.
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

// em has the widths of the printable ASCII characters in DejaVu Sans, in thousandths of
// the font's size. DejaVu Sans is one of the widest fonts in common use.
var em = map[string][]float64{
	"normal": {
		318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636, 636,
		636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863, 748, 787,
		603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352, 635,
		634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636, 337, 636, 838,
	},
	"bold": {
		348, 456, 521, 838, 696, 1002, 872, 306, 457, 457, 523, 838, 380, 415, 380, 365, 696, 696, 696, 696, 696, 696, 696, 696,
		696, 696, 400, 400, 838, 838, 838, 580, 1000, 774, 762, 734, 830, 683, 683, 821, 837, 372, 372, 775, 637, 995, 837, 850,
		733, 850, 770, 720, 682, 812, 774, 1103, 771, 724, 725, 457, 365, 457, 838, 500, 500, 675, 716, 593, 716, 678, 435, 716,
		712, 343, 343, 665, 343, 1042, 712, 687, 716, 716, 493, 595, 478, 712, 652, 924, 645, 652, 582, 712, 365, 712, 838,
	},
}

// advance returns the width of a character in thousandths of the font's size.
func advance(r rune, weight string) float64 {
	if r > '~' {
		return 900 // µ, × and the symbols of the key are narrower
	}
	return em[weight][r-' ']
}

// A box is the area of a text in a picture, if the font is DejaVu Sans.
type box struct {
	text                     string
	left, right, top, bottom float64
}

// boxes returns the areas of a picture's texts, and the picture's size.
func boxes(t *testing.T, svg []byte) (all []box, width, height float64) {
	number := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		require.NoError(t, err, s)
		return v
	}
	size := regexp.MustCompile(`viewBox="0 0 (\S+) (\S+)"`).FindSubmatch(svg)
	width, height = number(string(size[1])), number(string(size[2]))
	text := regexp.MustCompile(`<text x="(\S+)" y="(\S+)" transform="scale\(1, -1\)"\s+` +
		`style="[^"]*text-anchor:(\w+);font-weight:(\w+);[^"]*font-size:([\d.]+)px[^"]*">([^<]*)<`)
	for _, m := range text.FindAllStringSubmatch(string(svg), -1) {
		x, y, weight, size := number(m[1]), height+number(m[2]), m[4], number(m[5])
		w := 0.0
		for _, r := range m[6] {
			w += size * advance(r, weight) / 1000
		}
		left := x - w*map[string]float64{"start": 0, "middle": 0.5, "end": 1}[m[3]]
		all = append(all, box{m[6], left, left + w, y - 0.75*size, y + 0.25*size})
	}
	require.Len(t, all, strings.Count(string(svg), "<text "))
	return all, width, height
}

// requireFit checks that all texts are on the card and that none runs into another.
func requireFit(t *testing.T, svg []byte) {
	all, width, height := boxes(t, svg)
	require.NotEmpty(t, all)
	edge := margin.Points() - 0.1 // coordinates are rounded
	for i, a := range all {
		require.GreaterOrEqual(t, a.left, edge, a.text)
		require.LessOrEqual(t, a.right, width-edge, a.text)
		require.Greater(t, a.top, 0.0, a.text)
		require.Less(t, a.bottom, height, a.text)
		for _, b := range all[:i] {
			apart := a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top
			require.True(t, apart, "%q runs into %q", a.text, b.text)
		}
	}
}

func TestTextsFit(t *testing.T) {
	for _, chart := range All() {
		t.Run(chart.Name, func(t *testing.T) {
			svg, err := chart.Draw(sample())
			require.NoError(t, err)
			requireFit(t, svg)
		})
	}
}

// The texts of the published pictures fit, and show the newest of the published figures.
func TestPublishedPictures(t *testing.T) {
	files, err := filepath.Glob("../results/*.json")
	require.NoError(t, err)
	files = slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "-quick.json") })
	require.NotEmpty(t, files)
	r, err := report.Read(slices.Max(files))
	require.NoError(t, err)
	for _, chart := range All() {
		t.Run(chart.Name, func(t *testing.T) {
			published, err := os.ReadFile("../results/" + chart.Name + ".svg")
			require.NoError(t, err)
			requireFit(t, published)
			drawn, err := chart.Draw(r)
			require.NoError(t, err)
			require.Equal(t, texts(t, drawn), texts(t, published))
		})
	}
}

// A plot leaves exactly the room that its labels need. None ends beyond the canvas, and one
// ends at its edge.
func TestLeaveRoom(t *testing.T) {
	for name, labels := range map[string][]sideLabel{
		"at the end":                     {{x: 1e6, width: 120}},
		"the widest is not the last":     {{x: 1e3, width: 300}, {x: 1e6, width: 10}},
		"the one that goes the furthest": {{x: 1e5, width: 280}, {x: 1e6, width: 220}, {x: 1, width: 400}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCard(200, "a title").body
			p := newPlot()
			p.X.Min, p.X.Max = 1, 1e6
			data := p.DataCanvas(leaveRoom(c, p, labels))
			furthest := vg.Length(0)
			for _, l := range labels {
				end := data.X(p.X.Norm(l.x)) + l.width
				require.LessOrEqual(t, end.Points(), c.Max.X.Points()+1e-6)
				furthest = max(furthest, end)
			}
			require.InDelta(t, c.Max.X.Points(), furthest.Points(), 1e-6)
		})
	}
	c := newCard(200, "a title").body
	p := newPlot()
	p.X.Min, p.X.Max = 1, 1e6
	require.Equal(t, c.Rectangle, leaveRoom(c, p, []sideLabel{{x: 1, width: 100}}).Rectangle, "nothing is cropped for labels that fit")
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
