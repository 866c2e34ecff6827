package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An output can be read while it is being written.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// A gate is an output whose writes block until it is open.
type gate struct {
	output
	open chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.output.Write(p)
}

// A brokenPipe is an output whose writes fail.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// A program runs in a synctest bubble. Its clock is the bubble's, and its files are real.
// If it leaves a goroutine behind, the test fails.
type program struct {
	*testing.T
	stderr    output
	interrupt context.CancelFunc
	exit      chan int
}

// start starts a program. It returns when the program has made its first scan and waits
// for the interval to pass.
func start(t *testing.T, stdout io.Writer, args ...string) *program {
	ctx, cancel := context.WithCancel(t.Context())
	p := &program{T: t, interrupt: cancel, exit: make(chan int, 1)}
	go func() { p.exit <- run(ctx, args, stdout, &p.stderr) }()
	p.pass(0)
	return p
}

// pass lets time pass, and waits until the program has done everything that is due.
func (p *program) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// exits checks that the program has ended with the given exit code and error output.
func (p *program) exits(code int, stderr string) {
	p.pass(0)
	require.Len(p, p.exit, 1, "still running")
	require.Equal(p, code, <-p.exit)
	require.Equal(p, stderr, p.stderr.String())
}

func TestOncePrintsWhatOneIntervalChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTree(t, "a", "b", "c")
		var stdout output
		p := start(t, &stdout, "-once", "-interval", "1h", d.dir)
		d.write("a", "1")
		d.remove("b")
		d.write("new dir/e", "123")
		p.pass(time.Hour - 1)
		require.Empty(t, stdout.String())
		require.Empty(t, p.exit)
		p.pass(1)
		p.exits(0, "")
		require.Equal(t, "changed a (5 -> 1 bytes)\ncreated \"new dir/e\" (3 bytes)\ndeleted b\n", stdout.String())
	})
}

// Files that are there from the start, and files that do not change, are not printed.
func TestWatchingGoesOnUntilInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTree(t, "a", "b")
		var stdout output
		p := start(t, &stdout, d.dir)
		p.pass(10 * time.Second)
		require.Empty(t, stdout.String())
		d.remove("a")
		p.pass(time.Second)
		require.Equal(t, "deleted a\n", stdout.String())
		d.write("a", "123")
		p.pass(time.Second)
		require.Equal(t, "deleted a\ncreated a (3 bytes)\n", stdout.String())

		require.Empty(t, p.exit)
		p.interrupt()
		p.exits(0, "")
	})
}

// An interrupt ends the program even before the first scan is complete.
func TestInterruptedAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr strings.Builder
	require.Equal(t, 0, run(ctx, []string{t.TempDir()}, io.Discard, &stderr))
	require.Empty(t, stderr.String())
}

// Scans do not wait for the printer. All changes that they found are printed, even after
// an interrupt.
func TestAllThatWasFoundIsPrinted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTree(t, "a")
		stdout := &gate{open: make(chan struct{})}
		p := start(t, stdout, d.dir)
		for _, content := range []string{"", "1", "12"} {
			d.write("a", content)
			p.pass(time.Second)
		}
		p.interrupt()
		close(stdout.open)
		p.exits(0, "")
		require.Equal(t, "changed a (5 -> 0 bytes)\nchanged a (0 -> 1 bytes)\nchanged a (1 -> 2 bytes)\n", stdout.String())
	})
}

func TestAPrinterThatFailsEndsTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTree(t, "a")
		p := start(t, brokenPipe{}, d.dir)
		d.remove("a")
		p.pass(time.Second)
		p.exits(1, "watchdir: broken pipe\n")
	})
}

func TestBadUsage(t *testing.T) {
	d := newTree(t, "file")
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // if a case starts to scan by mistake, it ends at once
	missing := filepath.Join(d.dir, "missing")
	_, notThere := os.Stat(missing) // the text of the error depends on the system
	for _, test := range []struct {
		name   string
		args   []string
		exit   int
		stderr string // a part of the error output
	}{
		{"no directory", nil, 2, "usage: watchdir"},
		{"two directories", []string{d.dir, d.dir}, 2, "usage: watchdir"},
		{"a flag after the directory", []string{d.dir, "-once"}, 2, "usage: watchdir"},
		{"an unknown flag", []string{"-twice", d.dir}, 2, "-twice"},
		{"no duration", []string{"-interval", "soon", d.dir}, 2, `invalid value "soon" for flag -interval`},
		{"no interval", []string{"-interval", "0", d.dir}, 2, "watchdir: -interval must be positive, not 0s\n"},
		{"a negative interval", []string{"-interval=-1m", d.dir}, 2, "watchdir: -interval must be positive, not -1m0s\n"},
		{"help", []string{"-h"}, 0, "Watchdir polls a directory tree and prints which files in it are created, changed and deleted.\nusage: watchdir"},
		{"a missing directory", []string{missing}, 1, "watchdir: " + notThere.Error() + "\n"},
		{"a file", []string{d.path("file")}, 1, "watchdir: " + quote(d.path("file")) + " is not a directory\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			require.Equal(t, test.exit, run(ctx, test.args, &stdout, &stderr))
			require.Contains(t, stderr.String(), test.stderr)
			require.Empty(t, stdout.String())
		})
	}
}
