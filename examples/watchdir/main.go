// Watchdir polls a directory tree and prints which files in it were created,
// changed and deleted:
//
//	watchdir [-interval 1s] [-once] DIR
//
// It shows how a table turns states into changes. The scanner (scan.go) only writes: it
// upserts every file that it finds, and deletes every row whose file it no longer finds.
// It neither compares rows nor prints, because a write that leaves a row equal is no
// change. A second goroutine (show) prints the changes, with the row before and after,
// from a changefeed. The scanner never waits for it. If the printer falls behind by more
// than the feed's buffer, it learns how much it missed, and prints "skipped N changes".
//
// The first scan is the baseline. The feed begins after it, so nothing of it is printed.
// Then there is a scan after each interval, until an interrupt. With -once there is only
// one more scan. In the end the table is dropped. That ends the feed when everything is
// printed.
//
// Everything that is not a directory is a file. A symbolic link is a file and is not
// followed, but DIR itself may be a link. Directories are walked and have no row, because
// their size and time only reflect their files. A file has changed if its size, mode or
// modification time has changed. Its contents are not compared. Paths are relative to DIR,
// and are quoted if they are not plain words.
//
// A path that cannot be read is reported once on standard error and then ignored. Its rows
// stay as they are until it can be read again or is gone.
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
	context.AfterFunc(ctx, stop) // a second interrupt ends the program even while it prints
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns its exit code: 2 for bad usage, and 1 for other errors.
// An interrupt cancels ctx, and is not an error.
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

// watch scans repeatedly, or once, and prints the changes made since it was called.
func watch(ctx context.Context, s *scanner, interval time.Duration, once bool, stdout io.Writer) error {
	if err := s.scan(ctx); err != nil {
		return err
	}
	// The feed ends with the table and not with ctx. Otherwise changes that are still to
	// be printed would be lost.
	feed := s.files.Changes(context.Background())
	ctx, cancel := context.WithCancel(ctx)
	printed := make(chan error, 1)
	go func() {
		defer cancel() // if the printer fails, the scans end, too
		printed <- show(stdout, feed)
	}()

	err := poll(ctx, s, interval, once)
	s.files.Drop()
	return cmp.Or(<-printed, err) // an error of the printer is the cause of err
}

// poll scans after each interval, or only once.
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

// show prints a line for each change of the feed, until the table is dropped.
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

// describe returns a line of text for a change.
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

// quote returns a path unchanged if it is a single word on a single line. Otherwise it
// returns the path as a quoted Go string.
func quote(path string) string {
	if q := strconv.Quote(path); strings.Contains(path, " ") || q != `"`+path+`"` {
		return q
	}
	return path
}
