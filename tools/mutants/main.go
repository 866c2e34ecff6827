// Mutants measures what the tests of a package notice. It applies a list of small
// deliberate faults to the package, one at a time, runs the tests with each, and
// reports the faults that no test noticed: the survivors.
//
//	go run -C tools ./mutants                  # all mutants
//	go run -C tools ./mutants -run 'squash|F3' # those whose names match
//	go run -C tools ./mutants -l               # only check the list, in seconds
//
// It exits with status 0 if no mutant survived, 1 if some did, and 2 if it could not
// tell: a mutant is stale or does not compile, or the tests fail without a mutant.
//
// # The list
//
// In a list, blank lines separate the mutants. The first line of a mutant is its name,
// which says what is broken. The lines after it are a small diff: lines that begin with
// '-' are replaced by those that begin with '+', and lines that begin with a space stay
// as they are.
//
//	a failed write uses up a sequence number
//	-	if err != nil {
//	+	if t.seq++; err != nil {
//	 		return Change[V]{}, err
//	 	}
//
// The old lines must be together in exactly one place of the package, in any file that
// is not a test; otherwise the mutant is stale. Indentation, blank lines and comments
// of the code do not count, so the list survives when code moves and when comments are
// rewritten. A mutant must lie within the body of one function, and can use no package
// that its file does not import.
//
// Lines that begin with '#' are comments. The comment "# equivalent: reason" marks a
// mutant that no test can notice. Such a mutant is run only with -equivalent, which
// fails if a test notices it after all.
//
// # How it works
//
// Compiling the tests takes far longer than running them, so all mutants are compiled
// into one test binary. A function that has mutants gets one more copy for each. An
// environment variable says which copy, if any, a run of the tests is to use. The files
// are put in the package's place with go build's -overlay. The work tree is not modified.
//
// A mutant may loop for ever, which counts as noticed when the time is up. It may also
// allocate memory for ever: use the shell's ulimit -v where that matters.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"
)

type config struct {
	dir, list  string
	names      *regexp.Regexp
	parallel   int
	timeout    time.Duration
	args       []string
	onlyCheck  bool
	equivalent bool
}

func main() {
	c := config{names: regexp.MustCompile("")}
	flag.StringVar(&c.dir, "dir", "..", "directory of the package")
	flag.StringVar(&c.list, "list", "mutants/mutants.txt", "file of the mutants")
	flag.Func("run", "run only the mutants whose names match this regular `expression`", func(s string) (err error) {
		c.names, err = regexp.Compile(s)
		return err
	})
	flag.IntVar(&c.parallel, "j", 2, "number of mutants to run at a time")
	flag.DurationVar(&c.timeout, "timeout", 0, "time for the tests with one mutant; 0: four times what they take without, and at least 30s")
	flag.Func("args", "arguments of the test binary, as in -args='-test.run=Model -test.short'", func(s string) error {
		c.args = strings.Fields(s)
		return nil
	})
	flag.BoolVar(&c.onlyCheck, "l", false, "only list the mutants, and check that none is stale and all compile")
	flag.BoolVar(&c.equivalent, "equivalent", false, "run the mutants marked as equivalent, and no others")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "mutants: unexpected argument:", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ok, err := c.run(ctx, os.Stdout)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	case !ok:
		os.Exit(1)
	}
}

// run does what the flags say. It reports whether all is well: no mutant survived, or,
// of those marked as equivalent, all did.
func (c *config) run(ctx context.Context, out io.Writer) (ok bool, err error) {
	text, err := os.ReadFile(c.list)
	if err != nil {
		return false, err
	}
	mutants, err := parse(string(text))
	if err != nil {
		return false, fmt.Errorf("%s:\n%w", c.list, err)
	}
	lib, err := openLibrary(c.dir, mutants)
	if err != nil {
		return false, fmt.Errorf("%s:\n%w", c.list, err)
	}
	numbers := c.selected(mutants)
	if c.onlyCheck {
		for _, number := range numbers {
			fmt.Fprintln(out, mutants[number-1].name)
		}
	}
	tmp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	binary, err := lib.build(tmp, !c.onlyCheck)
	if err != nil || c.onlyCheck {
		return err == nil, err
	}

	r := &runner{binary: binary, dir: lib.dir, args: c.args, timeout: c.timeout}
	if err := r.runWithout(ctx); err != nil {
		return false, err
	}
	results := make(map[int]result)
	err = r.runAll(ctx, numbers, c.parallel, func(number int, res result) {
		results[number] = res
		fmt.Fprintf(out, "%3d/%d %s\n", len(results), len(numbers), res.line(mutants[number-1].name))
	})
	if err != nil {
		return false, err
	}
	return c.report(out, mutants, numbers, results), nil
}

// selected returns the numbers of the mutants to run.
func (c *config) selected(mutants []*mutant) (numbers []int) {
	for i, m := range mutants {
		if c.names.MatchString(m.name) && (c.onlyCheck || c.equivalent == (m.equivalent != "")) {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// runWithout runs the tests without a mutant, with which they must pass, and sets the
// timeout if there is none.
func (r *runner) runWithout(ctx context.Context) error {
	unlimited := *r
	if r.timeout == 0 {
		unlimited.timeout = 30 * time.Minute
	}
	begin := time.Now()
	res, err := unlimited.run(ctx, 0)
	if err != nil {
		return err
	}
	switch res.outcome {
	case killed:
		return fmt.Errorf("the tests fail without a mutant:\n%s", res.output)
	case timedOut:
		return fmt.Errorf("the tests take longer than %v without a mutant", unlimited.timeout)
	}
	if r.timeout == 0 {
		r.timeout = max(4*time.Since(begin), 30*time.Second)
	}
	return nil
}

func (r result) line(name string) string {
	switch {
	case r.outcome == survived:
		return "SURVIVED: " + name
	case r.outcome == timedOut:
		return "killed by timeout: " + name
	case r.by == "":
		return "killed: " + name
	}
	return "killed: " + name + " (" + r.by + ")"
}

// report prints the mutants with the wrong outcome, and the counts. It reports whether
// there is none.
func (c *config) report(out io.Writer, mutants []*mutant, numbers []int, results map[int]result) bool {
	count := [3]int{}
	wrong := 0
	for _, number := range numbers {
		m, got := mutants[number-1], results[number].outcome
		count[got]++
		if (got == survived) == c.equivalent {
			continue
		}
		wrong++
		title := "survived"
		if c.equivalent {
			title = "not equivalent"
		}
		fmt.Fprintf(out, "\n%s: %s (%s:%d)\n", title, m.name, c.list, m.line)
		for _, line := range m.hunk {
			fmt.Fprintln(out, line)
		}
	}
	fmt.Fprintf(out, "\n%d mutants: %d killed, %d of them by timeout; %d survived\n",
		len(numbers), count[killed]+count[timedOut], count[timedOut], count[survived])
	return wrong == 0
}
