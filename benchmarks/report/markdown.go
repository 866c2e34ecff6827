package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// Markdown writes the report's tables as Markdown.
func (r *Report) Markdown(w io.Writer) {
	p := printer{w}
	p.line("# Comparison of %s", r.Date)
	p.line("")
	p.line("%d × %s, %s, Go %s. Medians of %d interleaved rounds, each on stores of their own.", r.Machine.Cores, r.Machine.CPU, r.Machine.System, r.Go, r.Rounds)
	if r.Quick {
		p.line("**Quick: smaller and shorter than the figures are meant; it shows that everything works.**")
	}
	p.line("")
	r.traits(p)
	for _, wl := range workload.All() {
		r.workload(p, wl)
	}
	r.ratios(p)
}

// A printer writes lines. It ignores errors, because the user sees if output is missing.
type printer struct{ w io.Writer }

func (p printer) line(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

func (p printer) row(cells ...string) { p.line("| %s |", strings.Join(cells, " | ")) }

// head writes a table's head, with figures right-aligned.
func (p printer) head(first string, columns []string) {
	p.row(append([]string{first}, columns...)...)
	p.line("|---|%s", strings.Repeat("---:|", len(columns)))
}

func (r *Report) traits(p printer) {
	p.line("## Contestants")
	p.line("")
	p.row("contestant", "version", "used as", "old row", "a reader gets", "a slow reader", "a newcomer gets the rows by", "one key is followed by")
	p.line("|%s", strings.Repeat("---|", 8))
	for _, c := range r.Contestants {
		t := c.Traits
		p.row(c.Name, c.Version, t.Use, t.Old, t.Feed, t.Slow, t.Initial, t.OneKey)
	}
	p.line("")
}

func (r *Report) workload(p printer, w workload.Workload) {
	tables := r.tables(w.Name)
	if len(tables) == 0 {
		return
	}
	p.line("## %s", w.Title)
	p.line("")
	p.line("%s", w.About)
	p.line("")
	for _, table := range tables {
		columns := r.columns(table)
		p.line("%s, %s:", table.Title, table.Unit)
		p.line("")
		p.head("contestant", columns)
		for _, c := range r.Contestants {
			cells, some := []string{c.Name}, false
			for _, column := range columns {
				x, ok := r.Find(table, column, c.Name)
				cells, some = append(cells, x.cell(ok)), some || ok
			}
			if some {
				p.row(cells...)
			}
		}
		p.line("")
	}
}

// tables returns a workload's tables, in the order in which they were measured.
func (r *Report) tables(name string) []workload.Table {
	var tables []workload.Table
	for _, x := range r.Results {
		if x.Workload == name && !slices.Contains(tables, x.Table) {
			tables = append(tables, x.Table)
		}
	}
	return tables
}

// columns returns a table's columns, in the order in which they were measured.
func (r *Report) columns(t workload.Table) []string {
	var columns []string
	for _, x := range r.Results {
		if x.Table == t && !slices.Contains(columns, x.Column) {
			columns = append(columns, x.Column)
		}
	}
	return columns
}

// cell returns the text of x in a table: its median and the notes beside it.
func (x Result) cell(measured bool) string {
	if !measured {
		return ""
	}
	var beside []string
	if x.Merged > 0 {
		beside = append(beside, Percent(x.Merged)+" merged")
	}
	if x.Lost > 0 {
		beside = append(beside, Percent(x.Lost)+" lost")
	}
	if x.BlockedAfter > 0 {
		blocked := "blocked after " + workload.Count(x.BlockedAfter) + " writes"
		if x.Median == 0 {
			return blocked
		}
		beside = append(beside, blocked)
	}
	if len(beside) == 0 {
		return Number(x.Median)
	}
	return Number(x.Median) + " (" + strings.Join(beside, ", ") + ")"
}

func (r *Report) ratios(p printer) {
	var peers []string
	for _, c := range r.Contestants {
		if c.Name != Base {
			peers = append(peers, c.Name)
		}
	}
	if len(peers) == 0 || len(peers) == len(r.Contestants) {
		return
	}
	p.line("## Ratios")
	p.line("")
	p.line("How many times as good as each of the others %s is: medians of the rounds' ratios. Below 1 (in bold) the other is ahead. Nothing where it does not do such work, or its writer waited for ever.", Base)
	p.line("")
	p.head("", peers)
	for _, w := range workload.All() {
		for _, table := range r.tables(w.Name) {
			if table.Derived {
				continue
			}
			for _, column := range r.columns(table) {
				cells, some := []string{table.Title + ": " + column}, false
				for _, peer := range peers {
					ratio, ok := r.Ratio(table, column, peer)
					cells, some = append(cells, ratioCell(ratio, ok)), some || ok
				}
				if some {
					p.row(cells...)
				}
			}
		}
	}
	p.line("")
}

func ratioCell(ratio float64, ok bool) string {
	switch {
	case !ok:
		return ""
	case ratio < 0.995:
		return "**" + Number(ratio) + "**"
	default:
		return Number(ratio)
	}
}

// Percent returns a share in percent. A small share is not rounded to 0%, and a large one
// is not rounded to 100%.
func Percent(share float64) string {
	switch {
	case share > 0 && share < 0.01:
		return "under 1%"
	case share < 1 && share > 0.99:
		return "over 99%"
	}
	return fmt.Sprintf("%.0f%%", 100*share)
}

// Number returns v with three significant figures and separators between thousands.
func Number(v float64) string {
	switch abs := math.Abs(v); {
	case abs >= 1000:
		unit := math.Pow(10, math.Floor(math.Log10(abs))-2)
		return workload.Count(int(math.Round(v/unit) * unit))
	case abs >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
}
