package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// feedStages are the ways to a feed's pairs: the feed itself, and each stage. A stage with
// a function calls f for each element.
var feedStages = []struct {
	name string
	put  func(s Stream[Change[game]], f func()) Stream[Change[game]]
}{
	{"Changes", func(s Stream[Change[game]], _ func()) Stream[Change[game]] { return s }},
	{"Filter", func(s Stream[Change[game]], f func()) Stream[Change[game]] {
		return s.Filter(func(Change[game]) bool { f(); return true })
	}},
	{"Map", func(s Stream[Change[game]], f func()) Stream[Change[game]] {
		return s.Map(func(c Change[game]) Change[game] { f(); return c })
	}},
	{"Limit", func(s Stream[Change[game]], _ func()) Stream[Change[game]] { return s.Limit(1000) }},
}

func nothingToDo() {}

// "No change after that moment is missed": a feed begins where Changes returns, and a loop
// that breaks resumes after the last change that it received.
func TestChangesSubscribesWhenItReturns(t *testing.T) {
	runScripts(t, []feedTest{
		{name: "between writes", do: "write 3; open; write 2; read 1: 4; write 1; read 1: 5; drop; read: 6 dropped"},
		{name: "with a loop", do: "write 1; open; loop; write 2: 2 3; write 1: 4; break; write 1: 5; write 1; loop: 6; cancel: context canceled"},
		{name: "in the body", do: `
			open; write 3; at 2 info; read 3: +1 2 [feed: buffered 1/100000, delivered 2, skipped 0, seq 2] 3`},
	}...)
}

// A panic in the loop's body or in a stage's function pauses the stream as break does, and
// so does the end of the goroutine.
func TestAPanicPausesAsBreakDoes(t *testing.T) {
	for _, stage := range feedStages {
		for _, value := range []any{"in the middle", nil} { // nil: Goexit
			games := newGames()
			calls := 0
			leaves := func() {
				if calls++; calls != 2 {
					return
				} else if value == nil {
					runtime.Goexit()
				}
				panic(value)
			}
			source := games.Changes(t.Context())
			feed := stage.put(source, leaves)
			feedWrites(t, games, 4)
			var loop sync.WaitGroup
			loop.Go(func() {
				defer func() { require.Equal(t, value, recover()) }()
				for range feed {
					if stage.name == "Changes" || stage.name == "Limit" {
						leaves() // they call no function but the loop's body
					}
				}
			})
			loop.Wait()
			require.Equal(t, "3", wordsOf(feed, 1), stage.name)
			require.Equal(t, "4", wordsOf(source, 1), stage.name)
		}
	}
}

const secondRange = "changefeed: another range over the stream is running; call Changes once for each goroutine"

// A second range panics while the first one waits, in its body, and at its final error. The
// first is unharmed.
func TestASecondRangePanics(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				games := newGames()
				source := games.Changes(t.Context())
				feed := stage.put(source, nothingToDo)
				second := func() {
					for _, s := range []Stream[Change[game]]{feed, source} {
						require.PanicsWithValue(t, secondRange, func() { wordsOf(s, 1) })
					}
				}
				first := follow(feed, func(string) bool { second(); return true })
				synctest.Wait()
				second()
				feedWrites(t, games, 2)
				synctest.Wait()
				second()
				require.Equal(t, uint64(2), games.Feeds()[0].Delivered)
				games.Drop()
				synctest.Wait()
				require.True(t, first.ended)
				require.Equal(t, "+1 2 dropped", first.String())
				require.Equal(t, "dropped", allOf(feed))
			})
		})
	}
}

// If many goroutines range at once, one of them gets the stream and the others panic.
// Nothing is lost.
func TestManyRangesAtOnceAreOneRangeAndPanics(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context()).Limit(1000)
	feedWrites(t, games, 100)
	games.Drop()
	var (
		loops    sync.WaitGroup
		panicked atomic.Int64
		read     = make(chan string, 1000)
	)
	for range 4 {
		loops.Go(func() {
			for word := ""; word != "dropped"; {
				func() {
					defer func() {
						if p := recover(); p == any(secondRange) {
							panicked.Add(1)
							runtime.Gosched()
						} else if p != nil {
							panic(p)
						}
					}()
					for c, err := range feed {
						word = wordOf(c, err)
						read <- word
						for panicked.Load() == 0 {
							runtime.Gosched() // until another one has tried
						}
						break
					}
				}()
			}
		})
	}
	loops.Wait()
	for _, want := range append(writeWords(1, 100), "dropped", "dropped", "dropped", "dropped") {
		require.Equal(t, want, <-read) // sent while ranging, so in order
	}
	require.Empty(t, read)
}

// No lock is held while the loop's body or a stage's function runs. The body may write to
// the same table, also at a notice, and may drop it.
func TestTheLoopBodyMayUseTheTable(t *testing.T) {
	for _, stage := range feedStages {
		games := newGames()
		unlocked := func() {
			// Tried first: a lock that is held fails the test and does not hang it.
			for _, mu := range []interface {
				TryLock() bool
				Unlock()
			}{&games.mu, &games.allScope.ring.mu, &games.feeds.mu} {
				require.True(t, mu.TryLock(), stage.name)
				mu.Unlock()
			}
		}
		feed := stage.put(games.Changes(t.Context(), Buffer(3)), unlocked)
		feedWrites(t, games, 5)
		var got []string
		for c, err := range feed {
			unlocked()
			switch got = append(got, wordOf(c, err)); len(got) {
			case 1, 3: // at the notice and at a change
				feedWrites(t, games, 1)
			case 6:
				games.Drop()
			}
		}
		require.Equal(t, "skip2(1-2) skip1(3-3) 4 5 6 7 dropped", strings.Join(got, " "), stage.name)
	}
}

// iter.Pull2 works on a feed and on a stage. Until stop is called, the range counts as
// running.
func TestAStreamCanBePulled(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Buffer(2))
	feedWrites(t, games, 5)
	next, stop := iter.Pull2(iter.Seq2[Change[game], error](feed.Limit(10)))
	pull := func(want string) {
		c, err, ok := next()
		require.True(t, ok)
		require.Equal(t, want, wordOf(c, err))
	}
	pull("skip3(1-3)")
	pull("4")
	require.PanicsWithValue(t, secondRange, func() { wordsOf(feed, 1) })
	stop()
	games.Drop()
	next, stop = iter.Pull2(iter.Seq2[Change[game], error](feed))
	defer stop()
	pull("5")
	pull("dropped")
	_, _, ok := next()
	require.False(t, ok)
}

// A feedContext is a context that package context did not make.
type feedContext struct {
	context.Context
	done chan struct{}
	err  atomic.Pointer[error]
}

func (c *feedContext) Done() <-chan struct{} { return c.done }

func (c *feedContext) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *feedContext) cancel(err error) {
	c.err.Store(&err)
	close(c.done)
}

var errFeedCause = errors.New("the cause")

// feedContexts are the ways in which a context ends. Times are those of a bubble.
var feedContexts = []struct {
	name string
	make func(t *testing.T) (ctx context.Context, end func())
	want error
}{
	{"cancel with a cause", func(t *testing.T) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(t.Context())
		return ctx, func() { cancel(errFeedCause) }
	}, errFeedCause},
	{"deadline", func(t *testing.T) (context.Context, func()) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		t.Cleanup(cancel)
		return ctx, func() { time.Sleep(time.Hour); synctest.Wait() }
	}, context.DeadlineExceeded},
	{"a type of its own", func(*testing.T) (context.Context, func()) {
		ctx := &feedContext{Context: context.Background(), done: make(chan struct{})}
		return ctx, func() { ctx.cancel(errFeedCause) }
	}, errFeedCause},
	{"a type around a context that is not done", func(t *testing.T) (context.Context, func()) {
		ctx := &feedContext{Context: t.Context(), done: make(chan struct{})}
		return ctx, func() { ctx.cancel(errFeedCause) }
	}, errFeedCause},
}

// A done context ends the range with context.Cause(ctx), before anything that is buffered.
// The final error is the last pair of this range and the only pair of every later one.
func TestADoneContextEndsTheRangeWithItsCause(t *testing.T) {
	for _, test := range feedContexts {
		for _, when := range []string{"before Changes", "before the range", "in the loop", "while it waits", "after a break"} {
			t.Run(test.name+", "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					games := newGames()
					ctx, end := test.make(t)
					if when == "before Changes" {
						end()
					}
					feed := games.Changes(ctx)
					feedWrites(t, games, 3)
					switch when {
					case "before the range":
						end()
					case "in the loop":
						var got []string
						for c, err := range feed {
							if got = append(got, wordOf(c, err)); len(got) == 1 {
								end()
							}
						}
						require.Equal(t, []string{"+1", test.want.Error()}, got)
					case "while it waits":
						loop := follow(feed, nil)
						synctest.Wait()
						end()
						synctest.Wait()
						require.Equal(t, "+1 2 3 "+test.want.Error(), loop.String())
					case "after a break":
						require.Equal(t, "+1", wordsOf(feed, 1))
						end()
					}
					want := []pair[Change[game]]{{err: test.want}}
					require.Equal(t, want, take(feed, 1)) // a break does not lose it
					games.Drop()
					require.Equal(t, want, take(feed, -1))
					require.Empty(t, games.Feeds())
				}) // no goroutine is left, or the bubble would not end
			})
		}
	}
}

// A feed ends with ErrTableDropped after everything that was still buffered, and with the
// context's error before that. Every later range gets the same error, also after a break.
func TestTheEndOfAFeed(t *testing.T) {
	runScripts(t, []feedTest{
		{name: "nothing buffered", do: "open; drop; drop; read 1: dropped; info: []; cancel; read 1: dropped; read: dropped"},
		{name: "all read", do: "open; write 3; read 3: +1 2 3; drop; read: dropped; read: dropped"},
		{name: "some read", do: "open; write 3; read 1: +1; drop; read: 2 3 dropped; info: []; read: dropped"},
		{name: "full", opts: []FeedOption{Buffer(3)}, do: "open; write 3; drop; read: +1 2 3 dropped"},
		{name: "overflowed", opts: []FeedOption{Buffer(2)}, do: "open; write 5; drop; read: skip3(1-3) 4 5 dropped"},
		{name: "at a page's end", do: "open; write 12; read 12: +1 2 3 4 5 6 7 8 9 10 11 12; drop; read: dropped"},
		{name: "of a dropped table", do: "write 1; drop; open; info: []; read: dropped; read: dropped"},
		{name: "while it waits", do: "open; loop; write 2: +1 2; drop: dropped; info: []"},
		{name: "the context", do: "open; write 2; cancel; read 1: context canceled; read 1: context canceled; info: []"},
		{name: "the context after a drop", do: "open; write 3; drop; read 1: +1; cancel; read: context canceled; read: context canceled"},
	}...)
}

// A loop finds nothing to read, and then a last change is written and the table is dropped.
// The loop looks once more, so it does not miss that change.
func TestAFeedIsNotDrainedBeforeItsLastChange(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	window := &games.allSubscriptions()[0].window
	feedWrites(t, games, 1)
	games.Drop()
	require.False(t, window.drained())
	require.Equal(t, "+1", wordsOf(feed, 1))
	require.True(t, window.drained())
	require.Equal(t, "dropped", allOf(feed))
}

// Each range over a feed with an invalid option yields [ErrInvalidOption] alone. If an
// option is given twice, the last one counts.
func TestFeedOptions(t *testing.T) {
	const tooSmall = `open; info: []; read: changefeed: changes of "games": invalid option: Buffer(%d): must be at least 1`
	const good = `open; info: [feed%s: buffered 0/%d, delivered 0, skipped 0, seq 0]`
	runScripts(t, []feedTest{
		{name: "none", do: fmt.Sprintf(good, "", 100_000)},
		{name: "Named", opts: []FeedOption{Named("a")}, do: fmt.Sprintf(good, ` "a"`, 100_000)},
		{name: "the last wins", opts: []FeedOption{Buffer(7), Named("a"), Buffer(8), Named("b")}, do: fmt.Sprintf(good, ` "b"`, 8)},
		{name: "the last is right", opts: []FeedOption{Buffer(0), Buffer(1)}, do: fmt.Sprintf(good, "", 1)},
		{name: "zero", opts: []FeedOption{Buffer(5), Buffer(0)}, do: fmt.Sprintf(tooSmall, 0)},
		{name: "negative", opts: []FeedOption{Buffer(-1)}, do: fmt.Sprintf(tooSmall, -1)},
	}...)
}

// Misuse that no input at run time can cause panics, and the message says what to do.
func TestMisuseOfAFeedPanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	var noContext context.Context
	const noMapFunction = "changefeed: Map: nil function; pass the function to apply to each element"
	for want, call := range map[string]func(){
		"changefeed: Changes: nil context; pass context.Background() if nothing cancels the feed": func() { games.Changes(noContext) },
		"changefeed: Changes: nil option; leave it out":                                           func() { games.Changes(t.Context(), Buffer(1), nil) },
		"changefeed: Stream.Filter: nil function; pass the predicate of the elements to keep":     func() { feed.Filter(nil) },
		noMapFunction: func() { feed.Map(nil) },
	} {
		require.PanicsWithValue(t, want, call)
		require.Len(t, games.Feeds(), 1) // it did not subscribe
	}
	require.PanicsWithValue(t, noMapFunction, func() { Map[Change[game], int](feed, nil) })
	runtime.KeepAlive(feed)
}

// overflowed describes what a feed yields if the changes up to the one numbered end are
// unread, for a number of them and a buffer.
func overflowed(unread, end, buffer int) []string {
	from, skipped := end-unread+1, max(0, unread-buffer)
	words := writeWords(from+skipped, end)
	if skipped > 0 {
		words = slices.Insert(words, 0, fmt.Sprintf("skip%d(%d-%d)", skipped, from, from+skipped-1))
	}
	return words
}

// If N changes are unread and the buffer holds n, the next read yields the oldest change
// when N <= n. Otherwise it yields a *SkippedError of N-n, and then the n newest changes.
// That holds at any point: in the middle of a backlog, at a page's end, and after a feed
// that is as far behind has read on. F1, F2, R2
func TestOverflowIsExact(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 7, 8, 64, 256, 257} {
		for _, written := range []int{0, 1, n, 4, 12, 60, 252, 508} { // pages end at 4, 12, 28, 60, 124, 252, 508
			for _, more := range []int{0, n - 1, n, n + 1, 2*n + 1, 600} {
				name := fmt.Sprintf("Buffer(%d), %d written, then %d more", n, written, more)
				games := newGames()
				first := games.Changes(t.Context(), Buffer(n))
				feedWrites(t, games, written)
				second := games.Changes(t.Context(), Buffer(n))
				words := overflowed(written, written, n)
				half := len(words) / 2
				require.Equal(t, strings.Join(words[:half], " "), wordsOf(first, half), name)
				skipped := max(0, written-n)
				delivered := half - min(1, skipped)
				at, end := skipped+delivered, written+more // at is what first has passed
				feedWrites(t, games, more)

				lost, lag := max(0, end-at-n), uint64(end-at)
				require.Equal(t, FeedInfo{
					Buffered: end - at - lost, Capacity: n, Delivered: uint64(delivered), Skipped: uint64(skipped + lost), Seq: uint64(at), Lag: lag,
				}, infoOf(games), name)
				want := overflowed(more, end, n)
				require.Equal(t, strings.Join(want, " "), wordsOf(second, len(want)), name)
				want = overflowed(end-at, end, n)
				require.Equal(t, strings.Join(want, " "), wordsOf(first, len(want)), name)
				lost += skipped
				require.Equal(t, FeedInfo{
					Capacity: n, Delivered: uint64(end - lost), Skipped: uint64(lost), Seq: uint64(end),
				}, infoOf(games), name)
				feedWrites(t, games, 1) // the stream goes on
				games.Drop()
				want = append(writeWords(end+1, end+1), "dropped")
				require.Equal(t, strings.Join(want, " "), allOf(first), name)
				require.Equal(t, strings.Join(want, " "), allOf(second), name)
			}
		}
	}
}

// A loop that is overtaken again while it handles a notice or a change gets a notice of
// exactly what it missed since. F1
func TestOverflowInTheBody(t *testing.T) {
	runScripts(t, []feedTest{
		{name: "at each word", opts: []FeedOption{Buffer(2)}, do: `
			open; write 3; at 1 write 1; at 2 write 2; at 3 write 1; at 5 write 3
			read 6: skip1(1-1) skip1(2-2) skip2(3-4) skip1(5-5) 6 skip2(7-8)
			info: [feed: buffered 2/2, delivered 1, skipped 7, seq 8]`},
		{name: "pages more at the notice", opts: []FeedOption{Buffer(1)}, do: `
			open; write 6; at 1 write 300; at 2 drop; read: skip5(1-5) skip300(6-305) 306 dropped`},
		{name: "a break at the notice", opts: []FeedOption{Buffer(2)}, do: `
			open; write 7; read 1: skip5(1-5); write 1; drop; read: skip1(6-6) 7 8 dropped`},
	}...)
}

func TestDefaultBufferIs100000(t *testing.T) {
	require.Equal(t, 100_000, DefaultBuffer)
	games := newGames()
	overflows := games.Changes(t.Context())
	feedWrites(t, games, 1)
	fits := games.Changes(t.Context())
	feedWrites(t, games, 100_000)
	games.Drop()
	want := strings.Join(writeWords(2, 100_001), " ") + " dropped"
	require.True(t, allOf(fits) == want)                    // too long to print
	require.True(t, allOf(overflows) == "skip1(1-1) "+want) // 100,001 skip 1
}

// One write wakes every loop that waits, and so does Drop, even if a loop stalls: each loop
// wakes others before its body runs. F3, F4
func TestOneWriteWakesEveryWaitingLoop(t *testing.T) {
	type crowd struct{ loops, stalled int } // the loop with the index stalled stalls at its first change
	crowds := []crowd{{1, -1}, {2, -1}, {3, -1}, {4, -1}, {100, -1}}
	for i := range 7 {
		crowds = append(crowds, crowd{7, i})
	}
	for _, crowd := range crowds {
		t.Run(fmt.Sprint(crowd), func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				games, release := newGames(), make(chan struct{})
				var loops []*follower
				for i := range crowd.loops {
					body := func(string) bool {
						if i == crowd.stalled {
							<-release
						}
						return true
					}
					stage := feedStages[i%len(feedStages)]
					loops = append(loops, follow(stage.put(games.Changes(t.Context()), nothingToDo), body))
					synctest.Wait() // they queue in this order
				}
				for s := range 3 {
					feedWrites(t, games, 1)
					synctest.Wait()
					for i, loop := range loops {
						if i != crowd.stalled {
							require.Equal(t, writeWords(1, s+1), loop.words)
						}
					}
				}
				close(release)
				games.Drop()
				synctest.Wait()
				for _, loop := range loops {
					require.True(t, loop.ended)
					require.Equal(t, "+1 2 3 dropped", loop.String())
				}
			})
		})
	}
}

// A loop that exits in the same moment as a write takes no other loop's wake-up. F3
func TestALoopThatExitsTakesNoWakeUp(t *testing.T) {
	const n = 5
	for exits := range 1 << n {
		for range 3 {
			synctest.Test(t, func(t *testing.T) {
				games := newGames()
				loops, cancels := make([]*follower, n), make([]func(), n)
				for i := range n {
					ctx, cancel := context.WithCancel(t.Context())
					loops[i], cancels[i] = follow(games.Changes(ctx), nil), cancel
					synctest.Wait()
				}
				for i, cancel := range cancels {
					if exits>>i&1 == 1 {
						go cancel()
					}
				}
				go feedWrites(t, games, 1)
				synctest.Wait()
				for i, loop := range loops {
					want := []string{"+1"}
					if exits>>i&1 == 1 {
						want = []string{"context canceled", "+1 context canceled"}
					}
					require.Contains(t, want, loop.String(), "exits %05b", exits)
				}
				require.Len(t, games.Feeds(), n-bits.OnesCount(uint(exits)))
				games.Drop()
			})
		}
	}
}

// A write never waits for a subscriber: while every loop is stuck in its body, or a stage in
// its function, writes go on. The loops then get notices of exactly what they missed. T6
func TestTheWriterNeverWaits(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games, release := newGames(), make(chan struct{})
		stuck := func(string) bool { <-release; return true }
		buffers := []int{1, 64, 256, 257, 1000}
		var loops []*follower
		for _, n := range buffers {
			loops = append(loops, follow(games.Changes(t.Context(), Buffer(n)), stuck))
		}
		filtered := follow(games.Changes(t.Context()).Filter(func(Change[game]) bool { return stuck("") }), nil)
		synctest.Wait()
		feedWrites(t, games, 1)
		synctest.Wait() // all are stuck at the first change
		feedWrites(t, games, 1000)
		require.Len(t, games.Feeds(), len(buffers)+1)
		games.Drop()
		close(release)
		synctest.Wait()
		for i, loop := range loops {
			want := append([]string{"+1"}, overflowed(1000, 1001, buffers[i])...)
			require.Equal(t, append(want, "dropped"), loop.words)
		}
		require.Equal(t, append(writeWords(1, 1001), "dropped"), filtered.words)
	})
}

// orderings calls yield for each way to choose and order up to n of the events, after those
// that are chosen already.
func orderings(events []string, n int, chosen []string, yield func([]string)) {
	if len(chosen) > 0 {
		yield(chosen)
	}
	if len(chosen) == n {
		return
	}
	for i, e := range events {
		orderings(slices.Concat(events[:i], events[i+1:]), n, append(slices.Clip(chosen), e), yield)
	}
}

// F1, F3 and F4 hold for each choice and order of a few events that happen to one to four
// loops that wait. The loops come to rest between the events, or do not.
func TestEveryOrderOfEventsWakesTheLoops(t *testing.T) {
	for _, test := range []struct{ loops, events int }{{1, 4}, {2, 4}, {3, 3}, {4, 3}} {
		events := []string{"write", "write", "drop"}
		for i := range test.loops {
			events = append(events, fmt.Sprint("cancel ", i), fmt.Sprint("break ", i))
		}
		for _, procs := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d loops,GOMAXPROCS=%d", test.loops, procs), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				orderings(events, test.events, nil, func(order []string) {
					for _, rest := range []bool{true, false} {
						synctest.Test(t, func(t *testing.T) { runEvents(t, test.loops, order, rest) })
					}
				})
			})
		}
	}
}

// An eventLoop is a loop to which events happen.
type eventLoop struct {
	*follower
	cancel    func()
	breaks    atomic.Bool // at its next word
	cancelled bool
	exited    bool     // it got a final error, or a word at which it broke
	want      []string // if it comes to rest after each event
}

// receives says that the loop gets a word, unless it has exited.
func (l *eventLoop) receives(word string, final bool) {
	if !l.exited {
		l.want = append(l.want, word)
		l.exited = final || l.breaks.Load()
	}
}

// runEvents has the events happen to n loops, and the end of the table after them. At rest,
// each loop must have received everything that there is for it. At the end, it must have
// the whole history, or the context's error after the beginning of the history.
func runEvents(t *testing.T, n int, order []string, rest bool) {
	games := newGames()
	loops := make([]eventLoop, n)
	for i := range loops {
		l := &loops[i]
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		l.cancel = cancel
		l.follower = follow(games.Changes(ctx), func(string) bool { return !l.breaks.Load() })
		synctest.Wait() // it waits, behind those before it
	}
	var history []string
	for _, event := range append(slices.Clip(order), "drop") {
		kind, loop, _ := strings.Cut(event, " ")
		words, seq := history, int(games.Seq())
		if !slices.Contains(history, "dropped") {
			switch kind {
			case "write":
				feedWrites(t, games, 1)
				history = append(history, writeWords(1, seq+1)[seq])
			case "drop":
				games.Drop()
				history = append(history, "dropped")
			}
		}
		for i := range loops {
			l := &loops[i]
			switch mine := loop == strconv.Itoa(i); {
			case mine && kind == "cancel":
				l.cancel()
				l.cancelled = true
				l.receives("context canceled", true)
			case mine: // break
				l.breaks.Store(true)
			case len(history) > len(words):
				l.receives(history[len(words)], kind == "drop")
			}
		}
		if !rest {
			continue
		}
		synctest.Wait()
		for i := range loops {
			require.Equal(t, loops[i].want, loops[i].words, "loop %d at %s of %v", i, event, order)
		}
	}
	synctest.Wait()
	for i := range loops {
		l := &loops[i]
		require.True(t, l.ended, "loop %d sleeps after %v", i, order)
		last := ""
		if len(l.words) > 0 {
			last = l.words[len(l.words)-1]
		}
		if last != "dropped" && last != "context canceled" { // it broke: it ranges again
			l.breaks.Store(false)
			l.run()
			last = l.words[len(l.words)-1]
		}
		want := history
		if l.cancelled && last == "context canceled" {
			want = append(slices.Clone(history[:len(l.words)-1]), last)
		}
		require.Equal(t, want, l.words, "loop %d after %v", i, order)
	}
	synctest.Wait()
	require.Empty(t, games.Feeds())
	require.Zero(t, games.allScope.ring.parked.Load())
	require.Nil(t, games.allScope.ring.tail.Load())
}

// F4: "nothing of the subscription stays behind", also with a context for which package
// context has to start a goroutine: the bubble would not end.
func TestNoGoroutineStaysBehindADrainedFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := &feedContext{Context: context.Background(), done: make(chan struct{})} // never done
		games := newGames()
		paused, waiting := games.Changes(ctx), follow(games.Changes(ctx), nil)
		feedWrites(t, games, 2)
		require.Equal(t, "+1", wordsOf(paused, 1))
		games.Drop()
		require.Equal(t, "2 dropped", allOf(paused))
		synctest.Wait()
		require.Equal(t, "+1 2 dropped", waiting.String())
	})
}

// A feedHeld tells whether what a subscriber holds is still in memory.
type feedHeld struct {
	sub  weak.Pointer[subscription[int, game]]
	page weak.Pointer[page[Change[game]]]
	row  weak.Pointer[game]
}

// holdBacklog writes a row that nobody holds but the feeds, and returns it with
// the newest subscription and the page.
func holdBacklog(tb testing.TB, games *Table[int, game]) feedHeld {
	c, err := games.Insert(game{ID: 7})
	require.NoError(tb, err)
	_, err = games.Delete(7)
	require.NoError(tb, err)
	subs := games.allSubscriptions()
	held := feedHeld{weak.Make(subs[len(subs)-1]), weak.Make(games.allScope.ring.tail.Load()), weak.Make(c.New)}
	runtime.GC()
	require.NotNil(tb, held.row.Value()) // or the test would show nothing
	return held
}

// "The subscription ends ... when the stream is garbage": one that its owner let go
// holds no place in Feeds, no page, no row, and the context nothing of it.
func TestAForgottenStreamIsReleased(t *testing.T) {
	longLived, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, ctx := range []struct {
		name string
		context.Context
	}{
		{"Background", context.Background()},
		{"long-lived", longLived},
		{"a type of its own", &feedContext{Context: context.Background(), done: make(chan struct{})}},
	} {
		for _, test := range []struct {
			name string
			use  func(feed Stream[Change[game]])
		}{
			{"never ranged", func(Stream[Change[game]]) {}},
			{"broken off", func(feed Stream[Change[game]]) { wordsOf(feed, 1) }},
			{"panicked", func(feed Stream[Change[game]]) {
				require.Panics(t, func() {
					for range feed {
						panic("in the body")
					}
				})
			}},
			{"pulled", func(feed Stream[Change[game]]) {
				next, stop := iter.Pull2(iter.Seq2[Change[game], error](feed))
				_, _, _ = next()
				stop()
			}},
			{"limited", func(feed Stream[Change[game]]) { allOf(feed.Limit(1)) }},
			{"behind stages", func(feed Stream[Change[game]]) {
				for _, stage := range feedStages {
					feed = stage.put(feed, nothingToDo)
				}
				wordsOf(feed, 1)
			}},
			{"dropped and not drained", nil},
		} {
			t.Run(ctx.name+","+test.name, func(t *testing.T) {
				games := newGames()
				feed := games.Changes(ctx)
				held := holdBacklog(t, games)
				if test.use != nil {
					test.use(feed)
				} else {
					games.Drop()
				}
				require.Len(t, games.Feeds(), 1)
				runtime.KeepAlive(feed)
				feed = nil

				collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
				collected(t, "a page is held", func() bool { return held.page.Value() == nil })
				collected(t, "a row is held", func() bool { return held.row.Value() == nil })
				collected(t, "the context holds the subscription", func() bool { return held.sub.Value() == nil })
				runtime.KeepAlive(games)
				runtime.KeepAlive(ctx)
			})
		}
	}
}

// A forgotten stream of a table that is forgotten too does not keep the table.
func TestAForgottenTableIsReleased(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	games := newGames()
	games.Changes(ctx)
	table := weak.Make(games)
	runtime.KeepAlive(games)
	games = nil
	collected(t, "the context holds the table", func() bool { return table.Value() == nil })
	runtime.KeepAlive(ctx)
}

// sentinelCollected forgets a stream and waits until it is released: time enough
// for the collector to release any other that it would.
func sentinelCollected(t *testing.T, games *Table[int, game], others int) {
	games.Changes(context.Background(), Named("sentinel"))
	require.Len(t, games.Feeds(), others+1)
	collected(t, "the sentinel is not released", func() bool {
		feeds := games.Feeds()
		return len(feeds) == 0 || feeds[len(feeds)-1].Name != "sentinel"
	})
	runtime.GC()
	require.Len(t, games.Feeds(), others)
}

// "the range keeps the handle alive to its end": a stream that waits is in use,
// though nobody else refers to it.
func TestAStreamThatIsRangedIsNotReleased(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			got := make(chan string)
			go func() {
				for c, err := range stage.put(games.Changes(context.Background()), nothingToDo) {
					got <- wordOf(c, err)
				}
				close(got)
			}()
			for games.allScope.ring.parked.Load() == 0 {
				runtime.Gosched() // until it waits
			}
			sentinelCollected(t, games, 1)
			feedWrites(t, games, 1)
			require.Equal(t, "+1", <-got)
			sentinelCollected(t, games, 1)
			games.Drop()
			require.Equal(t, "dropped", <-got)
			<-got
		})
	}
}

// The same in the loop's body, where the stream is not used any more.
func TestAStreamIsNotReleasedWhileTheBodyRuns(t *testing.T) {
	games := newGames()
	feed := games.Changes(context.Background())
	feedWrites(t, games, 2)
	var got []string
	for c, err := range feed {
		feed = nil
		sentinelCollected(t, games, 1)
		if got = append(got, wordOf(c, err)); len(got) == 2 {
			break
		}
	}
	require.Equal(t, []string{"+1", "2"}, got)
}

// A stage refers to its source, which lasts as long as the stage.
func TestAStageKeepsItsSourceAlive(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			feed := stage.put(games.Changes(context.Background()), nothingToDo)
			feedWrites(t, games, 2)
			sentinelCollected(t, games, 1)
			require.Equal(t, "+1", wordsOf(feed, 1))
			sentinelCollected(t, games, 1)
			require.Equal(t, "2", wordsOf(feed, 1))
		})
	}
}

// F4: when a subscription has ended, nothing of it stays behind although the
// stream is held: no place in Feeds, no hook in the context, no page, no row.
func TestAnEndedFeedHoldsNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(games *Table[int, game], feed Stream[Change[game]], cancel func())
	}{
		{"cancelled, not ranged", func(_ *Table[int, game], _ Stream[Change[game]], cancel func()) { cancel() }},
		{"cancelled and ranged", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			cancel()
			allOf(feed)
		}},
		{"cancelled in the middle", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
		}},
		{"dropped and drained", func(games *Table[int, game], feed Stream[Change[game]], _ func()) {
			games.Drop()
			allOf(feed)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			games := newGames()
			feed := games.Changes(ctx)
			held := holdBacklog(t, games)
			test.end(games, feed, cancel)
			collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
			require.False(t, held.sub.Value().unhook(), "the hook was in the context")
			collected(t, "a page is held", func() bool { return held.page.Value() == nil })
			collected(t, "a row is held", func() bool { return held.row.Value() == nil })
			runtime.KeepAlive(feed)
			runtime.KeepAlive(games)
		})
	}
}

func writeBlobs(tb testing.TB, blobs *Table[float64, blob], n int) {
	tb.Helper()
	for range n {
		_, err := blobs.Update(1, func(b *blob) { b[1]++ })
		require.NoError(tb, err)
	}
}

// heldBy returns by how much the heap grows while f runs, not counting garbage.
func heldBy(f func()) int {
	before := heapBytes()
	f()
	return heapBytes() - before
}

// heapBytes returns the size of the heap without garbage. It collects until nothing more is
// found, because a cleanup makes garbage, too, and waits for the cleanups each time.
func heapBytes() int {
	var m runtime.MemStats
	for last := uint64(math.MaxUint64); ; last = m.HeapAlloc {
		cleaned := make(chan struct{})
		runtime.AddCleanup(new([1]*int), func(struct{}) { close(cleaned) }, struct{}{})
		runtime.GC()
		<-cleaned
		runtime.GC()
		runtime.ReadMemStats(&m)
		if m.HeapAlloc >= last-1000 {
			return int(m.HeapAlloc)
		}
	}
}
