package changefeed

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A loop over batches that is left at its last batch, by break or by a panic, is
// notified of the final error, and its feed is listed until then.
func TestALoopLeftAtTheLastBatchIsNotifiedOfTheEnd(t *testing.T) {
	for _, test := range []struct {
		name  string
		opts  []FeedOption
		end   func(games *Table[int, game])
		batch string
		final string
	}{
		{"drop", nil, func(games *Table[int, game]) { games.Drop() }, "[+1 =2]", "dropped"},
		{"drop, squashed", []FeedOption{Squash(0)}, func(games *Table[int, game]) { games.Drop() }, "[+2]", "dropped"},
		{"overflow", []FeedOption{Buffer(2), OnOverflow(Fail)}, func(games *Table[int, game]) { feedWrites(t, games, 3) }, "[+1 =2]", "skip1(3-3)"},
	} {
		for _, leave := range []string{"break", "panic", "goexit"} {
			t.Run(test.name+", "+leave, func(t *testing.T) {
				games := newGames()
				wake := make(chan struct{}, 10)
				ended := false
				feed := games.Where(func(row *game) bool {
					if row.Score == 2 && !ended { // the end comes while the batch is collected
						ended = true
						test.end(games)
					}
					return true
				}).Batches(t.Context(), 10, append(test.opts, Poll(wake))...)
				feedWrites(t, games, 2)
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					for batch, err := range feed {
						require.Equal(t, test.batch, batchOf(batch, err))
						switch leave {
						case "panic":
							panic(leave)
						case "goexit":
							runtime.Goexit()
						}
						break
					}
				}()
				<-done
				require.Equal(t, 1, notifications(wake), "the final error is to come")
				require.Len(t, games.Feeds(), 1, "the loop has not read the final error")
				require.Equal(t, test.final, batchesOf(feed, -1))
				require.Empty(t, games.Feeds())
				require.Zero(t, notifications(wake))
			})
		}
	}
}

// A wake channel that its owner closed affects nobody else: not the writer, not the
// loops that wait behind its feed, not the goroutine that ends a context, and not a
// transaction that publishes to a squash.
func TestAClosedWakeChannelAffectsItsOwnerOnly(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(time.Second)}} {
		t.Run(fmt.Sprint(len(opts)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				games, others, third := newGames(), newGames(), newGames()
				ctx, cancel := context.WithCancel(t.Context())
				wake := make(chan struct{}, 1)
				var feeds []Stream[Change[game]]
				for range maxNotify + 2 { // a goroutine notifies the last ones
					for _, table := range []*Table[int, game]{games, others, third} {
						feed := table.Changes(ctx, append(opts, Poll(wake))...)
						require.Empty(t, allOf(feed))
						feeds = append(feeds, feed)
					}
				}
				waiting := follow(games.Changes(t.Context()), nil)
				synctest.Wait()
				close(wake)

				require.NoError(t, Transact(func(tx *Tx) error {
					for _, table := range []*Table[int, game]{games, others, third} {
						must[game](t)(table.In(tx).Insert(game{ID: 1}))
					}
					return nil
				}, games, others, third))
				must[game](t)(games.Insert(game{ID: 2}))
				time.Sleep(time.Minute) // of the bubble: timers have fired
				synctest.Wait()
				require.Equal(t, "+1 +2", waiting.String())
				for i, feed := range feeds {
					require.NotEmpty(t, wordsOf(feed, 1), i)
				}
				cancel()
				synctest.Wait()
				for _, feed := range feeds {
					require.Equal(t, "context canceled", allOf(feed))
				}
				games.Drop()
				synctest.Wait()
			})
		})
	}
}

// A stream that the collector takes notifies nobody: its owner has gone.
func TestACollectedStreamNotifiesNobody(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(time.Hour)}} {
		games := newGames()
		wake := make(chan struct{}, 10)
		func() {
			feed := games.Changes(t.Context(), append(opts, Poll(wake))...)
			require.Empty(t, allOf(feed))
			if opts != nil {
				feedWrites(t, games, 1) // for an hour, a timer runs
				notifications(wake)
				require.NotEmpty(t, games.Feeds())
			}
			runtime.KeepAlive(feed)
		}()
		collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
		collected(t, "its squash is left", func() bool {
			games.mu.RLock()
			defer games.mu.RUnlock()
			return len(games.allScope.squashes) == 0
		})
		require.Zero(t, notifications(wake))
	}
}

// A Poll feed that is collected inside a bubble does not touch the bubble's channels
// and timers from the runtime's goroutine, which would end the program.
func TestAStreamIsCollectedInABubble(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(time.Hour)}} {
		synctest.Test(t, func(t *testing.T) {
			games := newGames()
			func() {
				feed := games.Changes(t.Context(), append(opts, Poll(make(chan struct{}, 1)))...)
				allOf(feed)
				if opts != nil {
					feedWrites(t, games, 1)
				}
				runtime.KeepAlive(feed)
			}()
			collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
		})
	}
}

// A panicContext panics where Changes asks for its Done.
type panicContext struct{ context.Context }

func (panicContext) Done() <-chan struct{} { panic("in Done") }

// A context whose Done panics leaves no subscription behind.
func TestAContextWhoseDonePanicsLeavesNothingBehind(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {IncludeInitial()}, {After(0), Squash(0)}} {
		games := newGames()
		require.PanicsWithValue(t, "in Done", func() {
			games.Row(1).Changes(panicContext{t.Context()}, opts...)
		})
		require.Empty(t, games.Feeds())
		require.Nil(t, scopeOfRow(games, 1), "a write would fill its ring")
		require.Nil(t, games.allScope.ring.tail.Load())
		require.Empty(t, games.allScope.squashes)
	}
}

// An errContext panics in the n-th call of its Err.
type errContext struct {
	context.Context
	n int
}

func (c *errContext) Err() error {
	if c.n--; c.n == 0 {
		panic("in Err")
	}
	return c.Context.Err()
}

// A context whose Err panics costs no initial row: the next range goes on with it.
func TestAContextWhoseErrPanicsLosesNoInitialRow(t *testing.T) {
	for n := 1; n <= 5; n++ { // before the first row, behind each, and before Ready
		games := newGames()
		insertRows(t, games, 1, 2, 3)
		feed := games.Changes(&errContext{t.Context(), n}, IncludeInitial(), Poll(nil))
		var words []string
		read := func() {
			for c, err := range feed {
				words = append(words, wordOf(c, err))
			}
		}
		require.PanicsWithValue(t, "in Err", read, n)
		read()
		require.Equal(t, []string{"row1", "row2", "row3", "ready3"}, words, n)
	}
}
