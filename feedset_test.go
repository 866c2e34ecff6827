package changefeed

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// all returns the subscriptions, oldest first.
func (f *feedSet) all() []subscriber { return slices.Collect(f.oldestFirst()) }

// allSubscriptions returns the subscriptions of a table, oldest first.
func (t *Table[K, V]) allSubscriptions() []*subscription[K, V] {
	return slices.Collect(t.subscriptions())
}

// newFeedSet returns a set of n subscriptions.
func newFeedSet(n int) *feedSet {
	f := &feedSet{subs: newFeedTree()}
	for range n {
		addSubscription(f)
	}
	return f
}

func addSubscription(f *feedSet) subscriber {
	s := new(subscription[int, game])
	f.add(s, &s.id)
	return s
}

// Changes takes the set's mutex under the table's lock, so a writer may wait for the mutex.
// A lister holds it for maxListed subscriptions at a time, and does not know those after
// them. T6
func TestAListerHoldsTheFeedSetForAFewSteps(t *testing.T) {
	for _, n := range []int{1, maxListed - 1, maxListed, maxListed + 1, 1000} {
		f := newFeedSet(n)
		listed := 0
		for s := range f.oldestFirst() {
			require.True(t, f.mu.TryLock(), "the mutex is held while the body runs")
			f.mu.Unlock()
			if listed == 0 {
				for _, other := range f.all() {
					require.Equal(t, other != s, f.remove(other) && other != s)
				}
			}
			listed++
		}
		require.LessOrEqual(t, listed, maxListed, "of %d, all but the first of which have ended", n)
	}
}

// The order is that of subscription. A subscription that is in the set throughout a range
// is listed once. One that left before the range began is not listed.
func TestFeedSetListsInOrderWhileFeedsComeAndGo(t *testing.T) {
	rng := newRand(t)
	reached := make(map[string]int)
	for range 200 {
		f := newFeedSet(rng.IntN(4 * maxListed))
		in := f.all()
		stay := slices.Clone(in)
		var listed []subscriber
		for s := range f.oldestFirst() {
			listed = append(listed, s)
			if rng.IntN(8) == 0 && len(in) < 8*maxListed {
				in = append(in, addSubscription(f))
			}
			for len(in) > 0 && rng.IntN(3) == 0 {
				i := rng.IntN(len(in))
				leaves := in[i]
				if leaves == s {
					reached["the one that is listed leaves"]++
				}
				require.True(t, f.remove(leaves))
				require.False(t, f.remove(leaves), "it is gone")
				in = slices.Delete(in, i, i+1)
				stay = slices.DeleteFunc(stay, func(s subscriber) bool { return s == leaves })
			}
		}
		require.True(t, slices.Equal(in, f.all()))
		require.True(t, slices.IsSortedFunc(listed, func(a, b subscriber) int {
			if a.number() < b.number() {
				return -1
			}
			return 1
		}), "each once, and in order")
		for _, s := range stay {
			require.True(t, slices.Contains(listed, s))
		}
		if len(listed) > maxListed && len(stay) > 0 {
			reached["some stay, of several steps"]++
		}
		if len(listed) > 0 && len(f.all()) > 0 && listed[len(listed)-1].number() > uint64(len(stay)) {
			reached["one that came is listed"]++
		}
	}
	requireOutcomes(t, reached, "the one that is listed leaves", "some stay, of several steps", "one that came is listed")

	f := newFeedSet(3)
	for range f.oldestFirst() {
		break
	}
	require.Len(t, f.all(), 3)
}

// "Every write fails with ErrTableDropped", without waiting until Drop has seen to every
// feed. Here it has to wait for one of them.
func TestNoWriterWaitsForAllThatDropSeesTo(t *testing.T) {
	games := newGames()
	games.Changes(t.Context(), Squash(0))
	q := games.allSubscriptions()[0].squash
	q.mu.Lock()
	dropped, refused := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(dropped)
		games.Drop()
	}()
	go func() {
		defer close(refused)
		for {
			if _, err := games.Delete(1); errors.Is(err, ErrTableDropped) {
				return
			}
		}
	}()
	select {
	case <-refused:
	case <-time.After(10 * time.Second):
		require.Fail(t, "the table's lock is held")
	}
	q.mu.Unlock()
	<-dropped
}

// Drop reaches every subscription, also those that are being made: each loop ends. F4
func TestDropReachesEveryFeed(t *testing.T) {
	for range 20 {
		games := newGames()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := range maxListed {
					opts := [][]FeedOption{nil, {Squash(0)}}[i%2]
					feed := []Selection[int, game]{games.Row(n), games.Selection()}[i/2].Changes(t.Context(), opts...)
					wg.Go(func() {
						if words := allOf(feed); words != "dropped" {
							t.Errorf("a feed ended with %s", words)
						}
					})
				}
			})
		}
		for len(games.Feeds()) < maxListed { // until about half of them are there
			continue
		}
		games.Drop()
		wg.Wait()
		require.Empty(t, games.Feeds())
	}
}

// A table may be dropped, and the context end, as soon as the loop has looked at the
// context. The subscription has ended then, and may have missed a write, so the final
// error is the context's cause and not ErrTableDropped (F4). If another feed has begun the
// ring anew, the loop yields nothing of it (R1).
func TestAContextThatEndsBehindTheLoopsBackWins(t *testing.T) {
	var other Stream[Change[game]]
	for name, happens := range map[string]func(games *Table[int, game], end func()){
		"dropped":          func(games *Table[int, game], end func()) { games.Drop(); end() },
		"written, dropped": func(games *Table[int, game], end func()) { insertRows(t, games, 3); games.Drop(); end() },
		"begun anew": func(games *Table[int, game], end func()) {
			end()
			insertRows(t, games, 4) // which nobody follows
			other = games.Changes(t.Context())
			insertRows(t, games, 5)
			games.Drop()
		},
	} {
		for _, squashed := range []bool{false, true} {
			for _, batches := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/squashed=%t/batches=%t", name, squashed, batches), func(t *testing.T) {
					before := "+1 +2 "
					if name == "written, dropped" {
						before += "+3 "
					}
					words := func(n int) string { // if it happens after the loop has looked n times
						games := newGames()
						inner, cancel := context.WithCancelCause(t.Context())
						defer cancel(nil)
						looks := n // while the feed is made
						ctx := &watchedContext{inner, func() {
							if looks++; looks == n {
								happens(games, func() {
									cancel(errFeedCause)
									for len(games.Feeds()) > 0 { // until the subscription has ended
										runtime.Gosched()
									}
								})
							}
						}}
						opts := []FeedOption{Poll(nil)}
						if squashed {
							opts = append(opts, Squash(0))
						}
						var feed Stream[Change[game]]
						if batches {
							feed = unbatch(games.Batches(ctx, 10, opts...))
						} else {
							feed = games.Changes(ctx, opts...)
						}
						insertRows(t, games, 1, 2)
						looks = 0
						got := allOf(feed)
						if looks >= n && !strings.HasSuffix(got, "the cause") { // it polls: the next range says so
							got = strings.TrimSpace(got + " " + allOf(feed))
						}
						return got
					}
					n := 1
					for ; ; n++ {
						got := words(n)
						if got == "+1 +2" {
							break // it does not look so often
						}
						changes, ends := strings.CutSuffix(got, "the cause")
						require.True(t, ends && strings.HasPrefix(before, changes), "%s, after it has looked %d times", got, n)
					}
					require.Greater(t, n, 2, "it looks more often")
					runtime.KeepAlive(other)
				})
			}
		}
	}
}

// A loop that breaks inside a squashed set is notified at once of what is left. F3
func TestALoopThatBreaksInsideASquashedSetIsNotified(t *testing.T) {
	squash := []FeedOption{Squash(0)}
	runScripts(t,
		feedTest{name: "Changes", opts: squash, polls: true, do: "open; put 1 2 3; read 1: +1 wake; read 1: +2 wake; read 1: +3; put 4: wake"},
		feedTest{
			name: "Batches", max: 1, opts: squash, polls: true,
			do: "open; put 1 2 3; read 1: [+1] wake; read 1: [+2] wake; read 1: [+3]; put 4: wake",
		},
	)
}
