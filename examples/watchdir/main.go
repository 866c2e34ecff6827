// Watchdir polls a directory tree and prints which files in it were created,
// changed and deleted:
//
//	watchdir [-interval 1s] [-once] DIR
//
// It shows how a table turns states into changes. The scanner (scan.go) only
// writes: it upserts every file it sees and deletes every row whose file it no
// longer sees. It compares nothing and tells nobody, for a write that leaves the
// row equal is no change. What there is to print comes from the changefeed alone,
// in a goroutine of its own (show), with the row before and after; the scanner
// never waits for it. A printer that falls behind by more than the feed's buffer
// reads how much it missed: "skipped N changes".
//
// The first scan is the baseline, of which nothing is printed: the feed begins
// after it. From then on a scan follows interval after interval, until an
// interrupt; with -once there is one, whose findings are printed, and that is all.
// At either end the table is dropped, and that ends the feed when all is printed.
//
// Files are all that is not a directory. A symbolic link is a file and not
// followed, but DIR itself may be one. Directories are walked and have no row: what
// a directory's size and time tell is told by its files. A file changed if its
// size, mode or modification time did; what was in it is not looked at. Paths are
// relative to DIR, and quoted where they are not plain words.
//
// What cannot be read is reported once on standard error and passed over: its rows
// stay as they are until it can be read again, or is gone.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second interrupt does not wait for what is being printed
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code, 2 for bad usage and 1 for other
// errors. An interrupt, which cancels ctx, is no error.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("watchdir", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "Watchdir polls a directory tree and prints which files in it are created, changed and deleted.")
		fmt.Fprintln(stderr, "usage: watchdir [-interval 1s] [-once] DIR")
		flags.PrintDefaults()
	}
	interval := flags.Duration("interval", time.Second, "pause between scans")
	once := flags.Bool("once", false, "print what one interval changes, and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() != 1:
		flags.Usage()
		return 2
	case *interval <= 0:
		fmt.Fprintf(stderr, "watchdir: -interval must be positive, not %v\n", *interval)
		return 2
	}

	report := func(err error) { fmt.Fprintln(stderr, "watchdir:", err) }
	dir := flags.Arg(0)
	if info, err := os.Stat(dir); err != nil {
		report(err)
		return 1
	} else if !info.IsDir() {
		report(fmt.Errorf("%s is not a directory", quote(dir)))
		return 1
	}
	s := newScanner(os.DirFS(dir), report)
	if err := watch(ctx, s, *interval, *once, stdout); err != nil && !errors.Is(err, context.Canceled) {
		report(err)
		return 1
	}
	return 0
}

// watch scans again and again, or once, and prints what changed since it was
// called.
func watch(ctx context.Context, s *scanner, interval time.Duration, once bool, stdout io.Writer) error {
	if err := s.scan(ctx); err != nil {
		return err
	}
	// The feed ends with the table and not with ctx, which would cut off what is
	// still to be printed.
	feed := s.files.Changes(context.Background())
	ctx, cancel := context.WithCancel(ctx)
	printed := make(chan error, 1)
	go func() {
		defer cancel() // nobody scans for a printer that failed
		printed <- show(stdout, feed)
	}()

	err := poll(ctx, s, interval, once)
	s.files.Drop()
	return cmp.Or(<-printed, err) // a printer that failed is why the scans ended
}

// poll scans after each interval, or after one.
func poll(ctx context.Context, s *scanner, interval time.Duration, once bool) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
		if err := s.scan(ctx); err != nil || once {
			return err
		}
	}
}

// show prints what comes on a feed, a line each, until the table is dropped.
func show(w io.Writer, feed changefeed.Stream[changefeed.Change[File]]) error {
	for c, err := range feed {
		var line string
		skipped, behind := errors.AsType[*changefeed.SkippedError](err)
		switch {
		case behind:
			line = fmt.Sprintf("skipped %d changes", skipped.Count)
		case errors.Is(err, changefeed.ErrTableDropped):
			return nil
		case err != nil:
			return err
		default:
			line = describe(c)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// describe tells of a change in one line.
func describe(c changefeed.Change[File]) string {
	name := quote(c.Row().Path)
	switch c.Kind {
	case changefeed.Insert:
		return fmt.Sprintf("created %s (%d bytes)", name, c.New.Size)
	case changefeed.Delete:
		return "deleted " + name
	}
	var what []string
	if c.Old.Size != c.New.Size {
		what = append(what, fmt.Sprintf("%d -> %d bytes", c.Old.Size, c.New.Size))
	}
	if c.Old.Mode != c.New.Mode {
		what = append(what, fmt.Sprintf("mode %v -> %v", c.Old.Mode, c.New.Mode))
	}
	if c.Old.ModTime != c.New.ModTime {
		what = append(what, "modified "+time.Unix(0, c.New.ModTime).UTC().Format(time.RFC3339Nano))
	}
	return fmt.Sprintf("changed %s (%s)", name, strings.Join(what, ", "))
}

// quote returns a path as it is, or as a Go string if it would not read as one word
// of one line.
func quote(path string) string {
	if q := strconv.Quote(path); strings.Contains(path, " ") || q != `"`+path+`"` {
		return q
	}
	return path
}
