package workload

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// tooLong is the time limit for readers to read everything that was written.
const tooLong = 2 * time.Minute

// never is a version that is never written.
const never = math.MaxInt

// warmUps is the number of writes before the timed ones. The first changes take a reader
// longer.
const warmUps = 100

// An audience is subscribers that read, each in a goroutine of its own.
type audience struct {
	contestant contest.Contestant
	feeds      []contest.Feed
	tallies    []*contest.Tally
	done       sync.WaitGroup
	base       int // the version that all of them have read
}

// join starts another reader, which reads the feed.
func (a *audience) join(feed contest.Feed, t *contest.Tally) {
	a.feeds, a.tallies = append(a.feeds, feed), append(a.tallies, t)
	a.done.Go(func() { feed.Read(t) })
}

// follow returns n subscribers to all changes. They have read a few of them, and are not
// reading now.
func follow(c contest.Contestant, store contest.Store, n, rows int) (*audience, error) {
	a := &audience{contestant: c}
	for range n {
		a.feeds = append(a.feeds, store.Follow())
	}
	a.read(warmUps, nil)
	for i, key := range contest.Keys(warmUps, rows) {
		store.Update(key, i+1)
	}
	if err := a.wait(); err != nil {
		return nil, err
	}
	a.base = warmUps
	return a, nil
}

// read makes all subscribers read the given number of further writes. prepare, unless nil,
// is called for each reader's tally.
func (a *audience) read(writes int, prepare func(i int, t *contest.Tally)) {
	a.tallies = nil
	for i, feed := range a.feeds {
		t := &contest.Tally{Until: a.base + writes}
		if prepare != nil {
			prepare(i, t)
		}
		a.tallies = append(a.tallies, t)
		a.done.Go(func() { feed.Read(t) })
	}
	a.settle()
}

// settle gives all readers time to begin waiting for changes.
func (a *audience) settle() {
	collect()
	time.Sleep(10*time.Millisecond + time.Duration(len(a.feeds))*10*time.Microsecond)
}

// wait returns when all readers have enough, or an error if that takes too long.
func (a *audience) wait() error {
	all := make(chan struct{})
	go func() {
		defer close(all)
		a.done.Wait()
	}()
	select {
	case <-all:
		return nil
	case <-time.After(tooLong):
		return fmt.Errorf("%s: readers still wait for what was written %v ago", a.contestant.Name, tooLong)
	}
}

// close closes the feeds, and returns when all readers have ended.
func (a *audience) close() {
	closeAll(a.feeds)
	a.done.Wait()
}

// closeAll closes all feeds at the same time, because a writer may wait for any reader.
func closeAll(feeds []contest.Feed) {
	var closed sync.WaitGroup
	for _, f := range feeds {
		closed.Go(f.Close)
	}
	closed.Wait()
}

// check compares the tallies with the number of writes. It returns the shares of changes
// that were merged and lost, and an error for changes that are missing or wrong.
func (a *audience) check(writes int) (merged, lost float64, err error) {
	c, last := a.contestant, a.base+writes
	sum := writes * (a.base + 1 + last) / 2
	came, dropped := 0, 0
	for i, t := range a.tallies {
		missing := writes - t.Changes - t.Lost
		switch {
		case t.Last != last:
			return 0, 0, fmt.Errorf("%s: reader %d ended at version %d of %d", c.Name, i, t.Last, last)
		case missing < 0:
			return 0, 0, fmt.Errorf("%s: reader %d got %d changes too many", c.Name, i, -missing)
		case missing > 0 && !c.Traits.Merges:
			return 0, 0, fmt.Errorf("%s: reader %d misses %d changes without a word", c.Name, i, missing)
		case missing == 0 && t.Lost == 0 && t.Sum != sum:
			return 0, 0, fmt.Errorf("%s: reader %d got other changes than were made", c.Name, i)
		}
		came, dropped = came+t.Changes, dropped+t.Lost
	}
	all := float64(writes * len(a.tallies))
	return 1 - (float64(came)+float64(dropped))/all, float64(dropped) / all, nil
}

// changes returns the number of changes that all readers together received.
func (a *audience) changes() int {
	n := 0
	for _, t := range a.tallies {
		n += t.Changes
	}
	return n
}
