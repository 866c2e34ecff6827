package changefeed

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// "A range never waits": it ends when nothing is buffered. Wake then gets one value when
// something is: a change, the end of the context, a drop.
func TestPoll(t *testing.T) {
	var tests []feedTest
	for _, sel := range boardSelections {
		if sel.has(&game{ID: 1, Score: 15}) {
			tests = append(tests, feedTest{name: sel.name, of: sel.of, polls: true, do: `
				put 1; delete 1; open; set 1 15; read: +3; read; delete 1: wake; set 1 15; read 1: -4 wake; delete 1; read: +5 -6
				set 1 15: wake; read: +7; cancel: wake; read: context canceled; read: context canceled; drop; info: []`})
		}
	}
	require.Len(t, tests, 15)
	runScripts(t, append(tests, []feedTest{
		{name: "drop", polls: true, do: "put 1; open; read; drop: wake; read: dropped; read: dropped; info: []"},
		{name: "drop of changes", polls: true, do: "open; read; put 1: wake; drop; read: +1 dropped"},
		{name: "Buffer", polls: true, opts: []FeedOption{Buffer(1)}, do: "put 1; open; read; write 3: wake; read: skip2(2-3) 4; read; drop: wake"},
		{name: "Fail", polls: true, opts: []FeedOption{Buffer(1), OnOverflow(Fail)}, do: "open; read; write 3: wake; read: skip2(1-2); drop; read: skip2(1-2)"},
		{name: "Resync", polls: true, opts: []FeedOption{Buffer(1), OnOverflow(Resync)}, do: `
			open; read; write 3: wake; read: skip3(1-3) row1 ready3; read; drop: wake`},
		{name: "IncludeInitial", polls: true, opts: []FeedOption{IncludeInitial()}, do: `
			put 1 2; open; read 1: row1 wake; read 1: row2 wake; read: ready2; read; write 3: wake; read: 3 4 5; drop: wake`},
		{name: "After", polls: true, after: new(1), do: "retain 9; put 1 2 3; open; read: +2 +3; read; write 3: wake; read: 4 5 6; drop: wake"},
		{name: "Squash", polls: true, opts: []FeedOption{Squash(0)}, do: "put 1; open; read; write 3: wake; read: 4; read; drop: wake"},
		{name: "After and Squash", polls: true, opts: []FeedOption{Squash(0)}, after: new(1), do: `
			retain 9; put 1 2 3; open; read 1: +2 wake; read: +3; read; write 3: wake; read: 6; drop: wake`},
		{name: "the last of an option", polls: true, opts: []FeedOption{Poll(nil), After(Position{Seq: 9}), Squash(time.Hour), Squash(0)}, after: new(1), do: `
			retain 9; put 1; open; put 2; read: +2; write 2: wake; read: 4`},
	}...)...)
}

// A loop over batches that is left at its last batch, by a break, a panic or Goexit, is
// notified of the final error, and its feed is listed until then. F3, F4
func TestALoopLeftAtTheLastBatchIsNotifiedOfTheEnd(t *testing.T) {
	for _, leave := range []string{"break; loop: B wake", "at 1 panic; loop: B panic wake", "at 1 goexit; loop: B wake"} {
		do := func(end, batch, info, final string) string { // the end comes while the batch is collected
			return end + "; open; write 2; " + strings.Replace(leave, "B", batch, 1) + "; info: [feed: " + info + "]; read: " + final + "; info: []; cancel"
		}
		runScripts(t, []feedTest{
			{name: leave + ", drop", max: 10, polls: true, do: do("in 2 drop", "[+1 2]", "buffered 0/100000, delivered 2, skipped 0, seq 2", "dropped")},
			{name: leave + ", drop, squashed", max: 10, polls: true, opts: []FeedOption{Squash(0)}, do: do(
				"in 1 drop", "[+2]", "buffered 0, delivered 1, skipped 0, seq 2", "dropped")},
			{name: leave + ", overflow", max: 10, polls: true, opts: []FeedOption{Buffer(2), OnOverflow(Fail)}, do: do(
				"in 2 write 3", "[+1 2]", "buffered 2/2, delivered 2, skipped 1, seq 3", "skip1(3-3)")},
		}...)
	}
}

// A write notifies no feed that polls for other rows. A predicate is called by the reader,
// so its feed is notified. F3
func TestPollIsNotWokenByOthersRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		games := newBoard()
		wake := make(chan struct{}, 10)
		var feeds []Stream[Change[game]]
		for _, sel := range []Selection[int, game]{games.Row(1), games.Row(1), games.Range(1, 3), games.From(1), games.players.Equal("Ann")} {
			feeds = append(feeds, sel.Changes(t.Context(), Poll(wake)))
		}
		where := games.Where(func(row *game) bool { return row.ID > 0 }).Changes(t.Context(), Poll(wake))
		for _, feed := range append(feeds, where) {
			require.Empty(t, allOf(feed))
		}
		insertRows(t, games.Table, 0)
		require.Equal(t, 1, settledNotifications(wake), "the predicate's")
		require.Empty(t, allOf(where))
		insertRows(t, games.Table, 7)
		require.Equal(t, 2, settledNotifications(wake), "From and the predicate")
		must[game](t)(games.Insert(game{ID: 1, Player: "Ann"}))
		require.Equal(t, 4, settledNotifications(wake), "all but those")
		require.Equal(t, "+2 +3", allOf(feeds[3]))
		require.Equal(t, "+3 +3", allOf(feeds[0])+" "+allOf(feeds[1]))
	})
}

// A notification never blocks the writer: it is dropped if the channel has no room. Several
// feeds can share one channel. T6
func TestPollNeverBlocksTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		games := newGames()
		shared := make(chan struct{}, 1)
		var feeds []Stream[Change[game]]
		for _, wake := range []chan struct{}{make(chan struct{}), shared, shared, shared} {
			feed := games.Changes(t.Context(), Poll(wake))
			require.Empty(t, allOf(feed))
			feeds = append(feeds, feed)
		}
		feedWrites(t, games, 2)
		require.Equal(t, 1, settledNotifications(shared))
		for _, feed := range feeds {
			require.Equal(t, "+1 2", allOf(feed))
		}
		feedWrites(t, games, 1)
		require.Equal(t, 1, settledNotifications(shared))
		games.Drop()
		for _, feed := range feeds {
			require.Equal(t, "3 dropped", allOf(feed))
		}
	})
}

// One write notifies each feed once, whether it polls or waits, in whatever order. F3
func TestPollingAndWaitingFeedsTogether(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		const n = 6
		for polling := range 1 << n {
			games := newGames()
			insertRows(t, games, 1)
			ctx, cancel := context.WithCancel(t.Context())
			var loops []*follower
			var polls []Stream[Change[game]]
			var wakes []chan struct{}
			for i := range n {
				if polling>>i&1 == 0 {
					loops = append(loops, follow(games.Changes(ctx), nil))
				} else {
					wake := make(chan struct{}, 5)
					feed := games.Changes(ctx, Poll(wake))
					require.Empty(t, allOf(feed))
					polls, wakes = append(polls, feed), append(wakes, wake)
				}
				synctest.Wait() // they queue in this order
			}
			feedWrites(t, games, 1)
			synctest.Wait()
			for _, loop := range loops {
				require.Equal(t, "2", loop.String(), "polling: %06b", polling)
			}
			for i, wake := range wakes {
				require.Equal(t, 1, notifications(wake), "polling: %06b", polling)
				require.Equal(t, "2", allOf(polls[i]))
			}
			cancel()
			synctest.Wait()
			for _, wake := range wakes {
				require.Equal(t, 1, notifications(wake))
			}
			require.Zero(t, games.allScope.ring.parked.Load())
		}
	})
}

// A feed that polls and becomes unreachable is released, although the ring has it in its
// queue.
func TestAForgottenPollingFeedIsReleased(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(time.Hour)}, {IncludeInitial()}} {
		games := newGames()
		func() {
			feed := games.Row(1).Changes(t.Context(), append(opts, Poll(make(chan struct{})))...)
			allOf(feed)
			feedWrites(t, games, 1)
			allOf(feed)
			runtime.KeepAlive(feed)
		}()
		collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
		collected(t, "its scope is left", func() bool {
			games.mu.RLock()
			defer games.mu.RUnlock()
			return scopeOfRow(games, 1) == nil
		})
	}
}

// A wake channel that its owner closed affects no other feed: not the writer, not the
// loops that wait behind its feed, not the goroutine that ends a context, and not a
// transaction that publishes to a squash.
func TestAClosedWakeChannelAffectsItsOwnerOnly(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(time.Second)}} {
		t.Run(fmt.Sprint(len(opts)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				games, others, third := newGames(), newGames(), newGames()
				insertRows(t, games, 1)
				ctx, cancel := context.WithCancel(t.Context())
				wake := make(chan struct{}, 1)
				var feeds []Stream[Change[game]]
				for range 3 { // a goroutine notifies them
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
						must[game](t)(table.In(tx).Upsert(game{ID: 1, Score: 1}))
					}
					return nil
				}, games, others, third))
				feedWrites(t, games, 1)
				time.Sleep(time.Minute) // of the bubble: timers have fired
				synctest.Wait()
				require.Equal(t, "2 3", waiting.String())
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

// A stream that the garbage collector takes does not notify its wake channel.
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
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {IncludeInitial()}, {After(Position{}), Squash(0)}} {
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

// A context whose Err panics costs no initial row: the next range continues with it.
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

// All of many feeds that poll are notified, by one goroutine. F3, T6
func TestManyPollingFeedsAreNotified(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		const n = 100
		games := newGames()
		wake := make(chan struct{}, n)
		var feeds []Stream[Change[game]]
		for range n {
			feed := games.Changes(t.Context(), Poll(wake))
			require.Empty(t, allOf(feed))
			feeds = append(feeds, feed)
		}
		feedWrites(t, games, 3)
		require.Equal(t, n, settledNotifications(wake))
		runtime.KeepAlive(feeds)
	})
}

// While many feeds poll and one writes, no notification is lost. A lost one is a deadlock. F3
func TestPollingFeedsThatReadMeanwhileAreNotified(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		const feeds, writes = 8, 2000
		games := newGames()
		var loops sync.WaitGroup
		for i := range feeds {
			wake := make(chan struct{}, 1)
			feed := games.Changes(t.Context(), Poll(wake))
			loops.Go(func() {
				for read := 0; ; <-wake {
					for range feed {
						if read++; (read+i)%7 == 0 {
							runtime.Gosched()
						}
					}
					if read == writes {
						return
					}
				}
			})
		}
		rng := newRand(t)
		for id := range writes {
			must[game](t)(games.Insert(game{ID: id}))
			if rng.IntN(5) == 0 {
				synctest.Wait()
			}
		}
		loops.Wait()
	})
}
