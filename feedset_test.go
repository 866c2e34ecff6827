package changefeed

import (
	"errors"
	"math/rand/v2"
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
	rng := rand.New(rand.NewPCG(ringSeed(t), 0))
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
