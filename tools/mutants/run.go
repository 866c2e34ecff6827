package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"time"
)

// An outcome tells how the tests ended.
type outcome uint8

const (
	survived outcome = iota // the tests passed
	killed                  // a test failed
	timedOut                // the tests did not end in time
)

// A result is the outcome of the tests with a mutant, or without one.
type result struct {
	outcome outcome
	by      string // the test that failed first, if its name is known
	output  string // the beginning of what the tests printed
}

// A runner runs the tests in a test binary.
type runner struct {
	binary  string
	dir     string
	args    []string
	timeout time.Duration
}

// run runs the tests with the mutant that has the number, or without a mutant if it
// is 0. The error is that of starting the tests, or that of ctx.
func (r *runner) run(ctx context.Context, number int) (result, error) {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, r.binary, append([]string{"-test.failfast"}, r.args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, number))
	cmd.WaitDelay = 10 * time.Second
	var out head
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	_, isExit := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return result{}, context.Cause(ctx)
	case err == nil:
		return result{}, nil
	case limited.Err() != nil:
		return result{outcome: timedOut, output: out.kept.String()}, nil
	case !isExit:
		return result{}, err
	}
	return result{outcome: killed, by: failedTest(out.kept.String()), output: out.kept.String()}, nil
}

var (
	failLine  = regexp.MustCompile(`(?m)^\s*--- FAIL: (\w+)`)
	testFrame = regexp.MustCompile(`(?m)^\S+\.((?:Test|Fuzz|Example)\w*)[.(]`) // in the stack of a panic
)

// failedTest returns the name of the test that failed first, or "".
func failedTest(output string) string {
	for _, pattern := range []*regexp.Regexp{failLine, testFrame} {
		if match := pattern.FindStringSubmatch(output); match != nil {
			return match[1]
		}
	}
	return ""
}

// A head keeps the first bytes written to it: a mutant may print without end.
type head struct{ kept bytes.Buffer }

const maxHead = 1 << 20

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), maxHead-h.kept.Len())])
	return len(p), nil
}

// runAll runs the tests once for each number, in the order given and as many at a
// time as parallel says. It calls report, never twice at the same time, when a run
// has ended. The first error ends it.
func (r *runner) runAll(ctx context.Context, numbers []int, parallel int, report func(number int, res result)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan int)
	var mu sync.Mutex // guards report
	var workers sync.WaitGroup
	for range max(parallel, 1) {
		workers.Go(func() {
			for number := range queue {
				res, err := r.run(ctx, number)
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				report(number, res)
				mu.Unlock()
			}
		})
	}
	for _, number := range numbers {
		select {
		case queue <- number:
		case <-ctx.Done():
		}
	}
	close(queue)
	workers.Wait()
	return context.Cause(ctx)
}
