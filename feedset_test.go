package changefeed

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"
)

// all returns the subscriptions, oldest first.
func (f *feedSet[K, V]) all() []*subscription[K, V] { return slices.Collect(f.oldestFirst()) }

// newFeedSet returns a set of n subscriptions.
func newFeedSet(n int) *feedSet[int, game] {
	f := &feedSet[int, game]{subs: btree.NewG(degree, (*subscription[int, game]).madeBefore)}
	for range n {
		f.add(new(subscription[int, game]))
	}
	return f
}

// A Changes takes the set's mutex under the table's lock, so a writer waits for whoever
// holds it. A lister holds it for maxListed subscriptions at a time: it cannot know of
// those after them. T6
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

// The order is that of subscription. Whoever is in the set throughout a range is listed
// once, and nobody is listed who had left before the range began.
func TestFeedSetListsInOrderWhileFeedsComeAndGo(t *testing.T) {
	rng := newRand(t)
	reached := make(map[string]int)
	for range 200 {
		f := newFeedSet(rng.IntN(4 * maxListed))
		in := f.all()
		stay := slices.Clone(in)
		var listed []*subscription[int, game]
		for s := range f.oldestFirst() {
			listed = append(listed, s)
			if rng.IntN(8) == 0 && len(in) < 8*maxListed {
				in = append(in, new(subscription[int, game]))
				f.add(in[len(in)-1])
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
				stay = slices.DeleteFunc(stay, func(s *subscription[int, game]) bool { return s == leaves })
			}
		}
		require.True(t, slices.Equal(in, f.all()))
		require.True(t, slices.IsSortedFunc(listed, func(a, b *subscription[int, game]) int {
			if a.madeBefore(b) {
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
		if len(listed) > 0 && len(f.all()) > 0 && listed[len(listed)-1].id > uint64(len(stay)) {
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
	q := games.feeds.all()[0].squash
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
					var opts []FeedOption
					if i%2 == 1 {
						opts = append(opts, Squash(0))
					}
					var feed Stream[Change[game]]
					if i < 2 {
						feed = games.Row(n).Changes(t.Context(), opts...)
					} else {
						feed = games.Changes(t.Context(), opts...)
					}
					wg.Go(func() {
						var errs []error
						for _, err := range feed {
							errs = append(errs, err)
						}
						if len(errs) != 1 || !errors.Is(errs[0], ErrTableDropped) {
							t.Errorf("a feed ended with %v", errs)
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
// error is the context's cause and not ErrTableDropped. F4
func TestAContextThatEndsBehindTheLoopsBackWins(t *testing.T) {
	cause := errors.New("cause")
	for _, squashed := range []bool{false, true} {
		for _, batches := range []bool{false, true} {
			for _, missed := range []bool{false, true} {
				t.Run(fmt.Sprintf("squashed=%t/batches=%t/missed=%t", squashed, batches, missed), func(t *testing.T) {
					// final returns the final error if all ends after the loop has looked n times, or nil
					// if the loop does not look so often.
					final := func(n int) (final error) {
						games := newGames()
						inner, cancel := context.WithCancelCause(t.Context())
						defer cancel(nil)
						looks := 0
						ctx := &watchedContext{inner, func() {
							if looks++; looks != n {
								return
							}
							if missed {
								games.Insert(game{ID: 3})
							}
							games.Drop()
							cancel(cause)
							for len(games.Feeds()) > 0 { // until the subscription has ended
								runtime.Gosched()
							}
						}}
						opts := []FeedOption{Poll(nil)}
						if squashed {
							opts = append(opts, Squash(0))
						}
						changes, several := games.Changes(ctx, opts...), games.Batches(ctx, 10, opts...)
						games.Insert(game{ID: 1})
						games.Insert(game{ID: 2})
						looks = 0
						if batches {
							for _, err := range several {
								final = err
							}
						} else {
							for _, err := range changes {
								final = err
							}
						}
						return final
					}
					n := 1
					for ; ; n++ {
						err := final(n)
						if err == nil {
							break
						}
						require.Equal(t, cause, err, "after it has looked %d times", n)
					}
					require.Greater(t, n, 2, "it looks more often")
				})
			}
		}
	}
}

// "After a loop that broke off, at once if something is left": also of a set. F3
func TestALoopThatBreaksInsideASquashedSetIsNotified(t *testing.T) {
	t.Run("Changes", func(t *testing.T) {
		games, wake := newGames(), make(chan struct{}, 1)
		requireNotifiedInsideASet(t, games, wake, games.Changes(t.Context(), Squash(0), Poll(wake)))
	})
	t.Run("Batches", func(t *testing.T) {
		games, wake := newGames(), make(chan struct{}, 1)
		requireNotifiedInsideASet(t, games, wake, games.Batches(t.Context(), 1, Squash(0), Poll(wake)))
	})
}

func requireNotifiedInsideASet[T any](t *testing.T, games *Table[int, game], wake chan struct{}, feed Stream[T]) {
	read := func(n int) {
		for _, err := range feed {
			require.NoError(t, err)
			if n--; n == 0 {
				return
			}
		}
		require.Zero(t, n)
	}
	for id := range 3 {
		_, err := games.Insert(game{ID: id})
		require.NoError(t, err)
	}
	for range 2 {
		read(1)
		require.Len(t, wake, 1, "something is left of the set")
		<-wake
	}
	read(1)
	require.Empty(t, wake, "nothing is left")
	_, err := games.Insert(game{ID: 3})
	require.NoError(t, err)
	require.Len(t, wake, 1)
}
