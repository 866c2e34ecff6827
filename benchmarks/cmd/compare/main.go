// Compare compares this library with the alternatives that a Go developer has. It gives
// all of them the same work in one run. It prints tables to standard output, and writes
// all figures to a JSON file and pictures beside it.
//
//	go run ./cmd/compare           # under 20 minutes on two cores
//	go run ./cmd/compare -quick    # under one minute: shows that everything works
//	go run ./cmd/compare -contestants changefeed,channels -workloads fanout,latency
//	go run ./cmd/compare -from results/DATE.json    # shows the figures of an earlier run
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/chart"
	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

func main() {
	names := func(all []string) string { return "a comma-separated part of " + strings.Join(all, ",") }
	var (
		quick       = flag.Bool("quick", false, "less of everything")
		rounds      = flag.Int("rounds", 0, "how often each case runs, in place of 5, or 2 with -quick")
		contestants = flag.String("contestants", "", names(namesOf(contest.All(), contestantName)))
		workloads   = flag.String("workloads", "", names(namesOf(workload.All(), workloadName)))
		out         = flag.String("out", "results", "`folder` for the JSON file and the pictures")
		from        = flag.String("from", "", "`file` that an earlier run wrote: show it, measure nothing")
		profile     = flag.String("cpuprofile", "", "`file` for a CPU profile of the whole run")
	)
	flag.Parse()
	c := comparison{scale: workload.Full(), quick: *quick, out: *out, tables: os.Stdout, progress: os.Stderr}
	if *quick {
		c.scale = workload.Quick()
	}
	if *rounds > 0 {
		c.scale.Rounds = *rounds
	}
	do := func() error { return c.measure(*contestants, *workloads) }
	if *from != "" {
		do = func() error { return c.again(*from) }
	}
	if err := profiled(*profile, do); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func contestantName(c contest.Contestant) string { return c.Name }
func workloadName(w workload.Workload) string    { return w.Name }

func namesOf[T any](all []T, name func(T) string) []string {
	var names []string
	for _, v := range all {
		names = append(names, name(v))
	}
	return names
}

// profiled runs f, and writes a CPU profile of it unless file is empty.
func profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	w, err := os.Create(file)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := pprof.StartCPUProfile(w); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// A comparison describes a run.
type comparison struct {
	scale       workload.Scale
	quick       bool
	contestants []contest.Contestant
	workloads   []workload.Workload
	out         string
	tables      io.Writer
	progress    io.Writer
}

// measure gives the named contestants the named workloads, and shows the results. An empty
// list of names stands for all.
func (c *comparison) measure(contestants, workloads string) (err error) {
	if c.contestants, err = named(contest.All(), contestantName, contestants); err != nil {
		return err
	}
	if c.workloads, err = named(workload.All(), workloadName, workloads); err != nil {
		return err
	}
	return c.run()
}

// again shows the report in a file.
func (c *comparison) again(file string) error {
	r, err := report.Read(file)
	if err != nil {
		return err
	}
	r.Markdown(c.tables)
	return c.draw(r)
}

func named[T any](all []T, name func(T) string, list string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var some []T
	for n := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(v T) bool { return name(v) == n })
		if i < 0 {
			return nil, fmt.Errorf("no %q among %s", n, strings.Join(namesOf(all, name), ", "))
		}
		some = append(some, all[i])
	}
	return some, nil
}

// run runs all rounds, and writes the report.
func (c *comparison) run() error {
	r := report.New(c.quick, c.scale.Rounds, c.contestants)
	start := time.Now()
	for round := range c.scale.Rounds {
		for _, w := range c.workloads {
			if err := c.round(r, w, round, start); err != nil {
				return err
			}
		}
	}
	r.Markdown(c.tables)
	return c.write(r)
}

// round makes all contestants run each case of the workload once. The first contestant is
// another one in each round.
func (c *comparison) round(r *report.Report, w workload.Workload, round int, start time.Time) error {
	for _, cs := range w.Cases(c.scale) {
		fmt.Fprintf(c.progress, "%5.0f s  round %d of %d  %s: %s ", time.Since(start).Seconds(), round+1, c.scale.Rounds, w.Name, cs.Name)
		for i := range c.contestants {
			who := c.contestants[(i+round)%len(c.contestants)]
			began := time.Now()
			figures, err := cs.Run(who)
			if err != nil {
				fmt.Fprintln(c.progress)
				return err
			}
			if figures != nil {
				fmt.Fprintf(c.progress, " %s %.1f", who.Name, time.Since(began).Seconds())
			}
			r.Add(w, who, figures)
		}
		fmt.Fprintln(c.progress)
	}
	return nil
}

// write writes the report's file and pictures.
func (c *comparison) write(r *report.Report) error {
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return err
	}
	file := filepath.Join(c.out, r.Date+suffix(r)+".json")
	if err := r.Write(file); err != nil {
		return err
	}
	fmt.Fprintln(c.progress, "wrote", file)
	return c.draw(r)
}

// suffix returns a suffix for the names of files, which is different for a quick run.
func suffix(r *report.Report) string {
	if r.Quick {
		return "-quick"
	}
	return ""
}

// draw writes the pictures.
func (c *comparison) draw(r *report.Report) error {
	for _, picture := range chart.All() {
		svg, err := picture.Draw(r)
		if err != nil {
			return err
		}
		if svg == nil {
			continue // its workload was not run
		}
		file := filepath.Join(c.out, picture.Name+suffix(r)+".svg")
		if err := os.WriteFile(file, svg, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(c.progress, "wrote", file)
	}
	return nil
}
