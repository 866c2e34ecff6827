package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample returns the configuration that runs the mutants of the package in
// testdata/sample whose names match.
func sample(names string) config {
	return config{dir: "testdata/sample", list: "testdata/mutants.txt", names: regexp.MustCompile(names), parallel: 1, timeout: time.Minute}
}

func run(t *testing.T, c config) (ok bool, out string) {
	t.Helper()
	var b strings.Builder
	ok, err := c.run(t.Context(), &b)
	if err != nil {
		t.Fatal(err)
	}
	return ok, b.String()
}

func TestEachMutantIsKilledOrSurvives(t *testing.T) {
	c := sample("")
	c.parallel, c.timeout = 2, 5*time.Second
	ok, out := run(t, c)
	if ok {
		t.Error("a survivor is not reported")
	}
	progress, report, _ := strings.Cut(out, "\n\n")
	lines := map[string]bool{}
	for line := range strings.Lines(progress) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
		lines[line] = true
	}
	want := []string{
		"SURVIVED: Max returns the second",
		"killed by timeout: Add never returns",
		"killed: Max panics (TestMax)",
		"killed: Reset does nothing (TestReset)",
		"killed: the error is not returned (TestAdd)",
		"killed: the last step is left out (TestAddAll)",
		"killed: the maximum is not allowed (TestAdd)",
	}
	if got := slices.Sorted(maps.Keys(lines)); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if want := `survived: Max returns the second (testdata/mutants.txt:29)
-	if a > b {
+	if false {

7 mutants: 6 killed, 1 of them by timeout; 1 survived
`; report != want {
		t.Errorf("got\n%s\nwant\n%s", report, want)
	}
}

func TestOnlySelectedMutantsRun(t *testing.T) {
	c := sample("^Max p")
	ok, out := run(t, c)
	if want := "  1/1 killed: Max panics (TestMax)\n\n1 mutants: 1 killed, 0 of them by timeout; 0 survived\n"; !ok || out != want {
		t.Errorf("got %v\n%s", ok, out)
	}
	c.args, c.timeout = []string{"-test.run=Reset"}, 0
	ok, out = run(t, c)
	if want := "  1/1 SURVIVED: Max panics\n"; ok || !strings.HasPrefix(out, want) {
		t.Errorf("got %v\n%s", ok, out)
	}
}

func TestMutantsMarkedAsEquivalentMustSurvive(t *testing.T) {
	c := sample("Max")
	c.equivalent = true
	ok, out := run(t, c)
	if want := "  1/1 SURVIVED: Max returns either of two that are equal\n\n1 mutants: 0 killed, 0 of them by timeout; 1 survived\n"; !ok || out != want {
		t.Errorf("got %v\n%s", ok, out)
	}
	c.list = filepath.Join(t.TempDir(), "mutants.txt")
	if err := os.WriteFile(c.list, []byte("Max\n# equivalent: a mistake\n-\tif a > b {\n+\tif a < b {\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	ok, out = run(t, c)
	if want := "not equivalent: Max ("; ok || !strings.Contains(out, want) {
		t.Errorf("got %v\n%s", ok, out)
	}
}

func TestACheckListsAllMutants(t *testing.T) {
	c := sample("Max")
	c.onlyCheck = true
	ok, out := run(t, c)
	if want := "Max returns the second\nMax panics\nMax returns either of two that are equal\n"; !ok || out != want {
		t.Errorf("got %v\n%s", ok, out)
	}
}

// check only checks a list.
func check(t *testing.T, list string) error {
	t.Helper()
	mutants, err := parse(list)
	if err != nil {
		return err
	}
	lib, err := openLibrary("testdata/sample", mutants)
	if err != nil {
		return err
	}
	_, err = lib.build(t.TempDir(), false)
	return err
}

func TestAFaultyListIsAnError(t *testing.T) {
	for _, test := range []struct{ name, list, want string }{
		{"nowhere", "a\n-\treturn c\n", `line 1: "a" is stale: its lines are nowhere in the code`},
		{"twice", "a\n-\t}\n", `line 1: "a" is stale: its lines are in 6 places of the code`},
		{"comment", "a\n-\t// The maximum itself is allowed.\n", "nowhere"},
		{"syntax", "a\n-\treturn b\n+\treturn )\n", `line 1: "a" does not parse`},
		{"type", "a: b\n-\treturn b\n+\treturn nil\n", "a b:5: cannot use nil"},
		{"signature", "a\n-func Max[T ~int](a, b T) T {\n+func Max[T ~int](b, a T) T {\n", `line 1: "a" is not about the body of one function`},
		{"no function", "a\n-var ErrFull = errors.New(\"full\")\n+var ErrFull error\n", `line 1: "a" is not about the body of one function`},
		{"no name", "-\treturn b\n", "line 1: a mutant without a name"},
		{"no change", "a\n \treturn b\n", `line 1: "a" changes nothing`},
		{"same", "a\n-\treturn b\n+\treturn  b\n", `line 1: "a" changes nothing`},
		{"nothing to look for", "a\n+\treturn b\n", `line 1: "a" has no line to look for`},
		{"no hunk", "a\nb\n", `line 2: "b" is neither a line of a hunk nor the first line of a mutant`},
		{"same name", "a\n-\treturn b\n\na\n-\treturn a\n", `line 4: a second mutant named "a"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := check(t, test.list); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestTheTestsMustPassWithoutAMutant(t *testing.T) {
	c := sample("Max")
	c.args = []string{"-test.nosuchflag"}
	if _, err := c.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "the tests fail without a mutant") {
		t.Error(err)
	}
}

func TestTheTestsMustEndInTimeWithoutAMutant(t *testing.T) {
	c := sample("Max")
	c.timeout = 1
	if _, err := c.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "the tests take longer than 1ns without a mutant") {
		t.Error(err)
	}
}

// A writerFunc is a function that is called with what is written.
type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestAnInterruptEndsTheRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := sample("")
	lines := 0
	_, err := c.run(ctx, writerFunc(func([]byte) {
		lines++
		cancel()
	}))
	if !errors.Is(err, context.Canceled) || lines != 1 {
		t.Error(err, lines)
	}
}

func TestHeadKeepsTheBeginning(t *testing.T) {
	var h head
	for range maxHead/2 + 1 {
		if n, err := h.Write([]byte("abc")); n != 3 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := h.kept.String(); len(got) != maxHead || !strings.HasPrefix(got, "abcabc") {
		t.Error(len(got))
	}
}

func TestTheListFitsTheLibrary(t *testing.T) {
	c := config{dir: "../..", list: "mutants.txt", names: regexp.MustCompile(""), onlyCheck: true}
	run(t, c)
}
