package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
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

// feedWord puts down in a word what a loop was handed: 7 is the change numbered 7,
// skip3(4-6) a notice of three changes, and other errors speak for themselves.
func feedWord(c Change[game], err error) string {
	if err == nil {
		return strconv.FormatUint(c.Seq, 10)
	}
	if c != (Change[game]{}) {
		return fmt.Sprintf("an error with the element %v", c)
	}
	if skipped, ok := errors.AsType[*SkippedError](err); ok {
		return fmt.Sprintf("skip%d(%d-%d)", skipped.Count, skipped.From, skipped.To)
	}
	if errors.Is(err, ErrTableDropped) {
		return "dropped"
	}
	return err.Error()
}

// feedWords puts down n pairs of s, or all until s ends, and breaks.
func feedWords(s Stream[Change[game]], n int) string {
	var words []string
	for _, p := range take(s, n) {
		words = append(words, feedWord(p.v, p.err))
	}
	return strings.Join(words, " ")
}

// feedAll is feedWords to the end of s.
func feedAll(s Stream[Change[game]]) string { return feedWords(s, -1) }

// feedSeqs puts down the changes from one sequence number to another.
func feedSeqs(from, to int) (words []string) {
	for s := from; s <= to; s++ {
		words = append(words, strconv.Itoa(s))
	}
	return words
}

// feedStages are the ways to a feed's pairs: itself, and through each stage.
var feedStages = []struct {
	name string
	put  func(s Stream[Change[game]], f func()) Stream[Change[game]] // f: called for each element where the stage calls something
}{
	{"Changes", func(s Stream[Change[game]], _ func()) Stream[Change[game]] { return s }},
	{"Filter", func(s Stream[Change[game]], f func()) Stream[Change[game]] {
		return s.Filter(func(Change[game]) bool { f(); return true })
	}},
	{"Stream.Map", func(s Stream[Change[game]], f func()) Stream[Change[game]] {
		return s.Map(func(c Change[game]) Change[game] { f(); return c })
	}},
	{"Map", func(s Stream[Change[game]], f func()) Stream[Change[game]] {
		return Map(s, func(c Change[game]) Change[game] { f(); return c })
	}},
	{"Limit", func(s Stream[Change[game]], _ func()) Stream[Change[game]] { return s.Limit(1000) }},
}

func nothingToDo() {}

// "subscribes when Changes returns, not when it is first ranged: no write in
// between is lost"; what was written before is never delivered.
func TestChangesSubscribesWhenItReturns(t *testing.T) {
	games := newGames()
	feedWrites(t, games, 3)
	feed := games.Changes(t.Context())
	feedWrites(t, games, 2)
	later := games.Changes(t.Context())
	feedWrites(t, games, 1)
	require.Equal(t, "4 5 6", feedWords(feed, 3))
	require.Equal(t, "6", feedWords(later, 1))
	games.Drop()
	require.Equal(t, "dropped", feedAll(feed))
	require.Equal(t, "dropped", feedAll(later))
}

// A feed hands out what the write returned: the same rows, not copies.
func TestAFeedHandsOutTheChangesThatTheWritesReturn(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	var want []pair[Change[game]]
	made := func(c Change[game], err error) {
		require.NoError(t, err)
		want = append(want, pair[Change[game]]{v: c})
	}
	made(games.Insert(game{ID: 1}))
	made(games.Update(1, func(g *game) { g.Player = "Bob" }))
	made(games.Replace(game{ID: 1, Player: "Alice"}))
	made(games.Upsert(game{ID: 1, Score: 4}))
	made(games.Compute(1, func(*game) *game { return nil }))
	made(games.Compute(2, func(*game) *game { return &game{ID: 2} }))
	made(games.Delete(2))
	got := take(feed, len(want))
	for i := range want {
		require.True(t, want[i] == got[i], "the change numbered %d", i+1) // pointers compared
	}
	var kinds []Kind
	for _, p := range got {
		kinds = append(kinds, p.v.Kind)
	}
	require.Equal(t, []Kind{Insert, Update, Update, Update, Delete, Insert, Delete}, kinds)
}

// What failed or changed nothing is no event and leaves no gap. T4
func TestAFeedIsNotToldOfWritesThatChangeNothing(t *testing.T) {
	games := newGames()
	feedWrites(t, games, 1)
	feed := games.Changes(t.Context())
	_, err := games.Insert(game{ID: 1})
	require.ErrorIs(t, err, ErrDuplicateKey)
	_, err = games.Upsert(game{ID: 1, Score: 1})
	require.NoError(t, err)
	_, err = games.Update(1, func(g *game) { g.ID = 2 })
	require.ErrorIs(t, err, ErrKeyChanged)
	require.Panics(t, func() { _, _ = games.Update(1, func(g *game) { g.Score = 9; panic("edit") }) })
	_, err = games.Delete(2)
	require.ErrorIs(t, err, ErrNotFound)
	feedWrites(t, games, 1)
	games.Drop()
	require.Equal(t, "2 dropped", feedAll(feed))
}

// F2: also while others write, a subscription begins at one place in the history.
func TestSubscribingAmongWritersMissesNothing(t *testing.T) {
	games := newGames()
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := range 2000 {
				_, _ = games.Upsert(game{ID: w, Score: i + 1})
			}
		})
	}
	for range 20 {
		before := games.Seq()
		feed := games.Changes(t.Context())
		after := games.Seq()
		feeds := games.Feeds()
		start := feeds[len(feeds)-1].Seq // nothing was read: "made before the subscription"
		require.LessOrEqual(t, before, start)
		require.LessOrEqual(t, start, after)
		defer func() { // when all is written
			want := feedSeqs(int(start)+1, 4000)
			require.Equal(t, strings.Join(append(want, "dropped"), " "), feedAll(feed))
		}()
		runtime.Gosched()
	}
	writers.Wait()
	games.Drop()
}

// "Breaking out of the loop pauses it; ranging again goes on after the last element
// handed out"
func TestBreakPausesAndTheNextRangeGoesOn(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			feed := stage.put(games.Changes(t.Context()), nothingToDo)
			feedWrites(t, games, 4)
			require.Equal(t, "1 2", feedWords(feed, 2))
			require.Equal(t, "3", feedWords(feed, 1))
			feedWrites(t, games, 1)
			games.Drop()
			require.Equal(t, "4 5 dropped", feedAll(feed))
		})
	}
}

// "(so does a panic in the loop body)", and in a stage's function, which reaches
// the loop's caller.
func TestAPanicPausesAsBreakDoes(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			calls := 0
			panics := func() {
				if calls++; calls == 2 {
					panic("at the second element")
				}
			}
			source := games.Changes(t.Context())
			feed := stage.put(source, panics)
			feedWrites(t, games, 4)
			require.PanicsWithValue(t, "at the second element", func() {
				for range feed {
					if stage.name == "Changes" || stage.name == "Limit" {
						panics() // they call no function but the loop's body
					}
				}
			})
			require.Equal(t, "3", feedWords(feed, 1))
			require.Equal(t, "4", feedWords(source, 1))
		})
	}
}

// A goroutine that ends inside the loop (as t.FailNow does it) leaves the stream
// as a panic does.
func TestGoexitPausesAsBreakDoes(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	feedWrites(t, games, 2)
	var loop sync.WaitGroup
	loop.Go(func() {
		for range feed {
			runtime.Goexit()
		}
	})
	loop.Wait()
	require.Equal(t, "2", feedWords(feed, 1))
}

const secondRange = "changefeed: another range over the stream is running; call Changes once for each goroutine"

// "a second range while one runs panics and says so", and the first is unharmed.
func TestASecondRangePanics(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			source := games.Changes(t.Context())
			feed := stage.put(source, nothingToDo)
			feedWrites(t, games, 3)
			var got []string
			for c, err := range feed {
				for _, second := range []Stream[Change[game]]{feed, source, source.Filter(func(Change[game]) bool { return true })} {
					require.PanicsWithValue(t, secondRange, func() { feedWords(second, 1) })
					var other sync.WaitGroup
					other.Go(func() { require.PanicsWithValue(t, secondRange, func() { feedWords(second, 1) }) })
					other.Wait()
				}
				if got = append(got, feedWord(c, err)); len(got) == 2 {
					break
				}
			}
			require.Equal(t, []string{"1", "2"}, got)
			require.Equal(t, "3", feedWords(feed, 1))
			require.Equal(t, uint64(3), games.Feeds()[0].Delivered)
			runtime.KeepAlive(feed)
		})
	}
}

// The same while the first range waits, and while it hands out its final error.
func TestASecondRangePanicsWhileTheFirstWaits(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				games := newGames()
				feed := stage.put(games.Changes(t.Context()), nothingToDo)
				var at []string
				first := follow(feed, func(word string) bool {
					if word == "dropped" {
						require.PanicsWithValue(t, secondRange, func() { feedWords(feed, 1) })
					}
					at = append(at, word)
					return true
				})
				synctest.Wait()
				require.PanicsWithValue(t, secondRange, func() { feedWords(feed, 1) })
				feedWrites(t, games, 1)
				synctest.Wait()
				require.PanicsWithValue(t, secondRange, func() { feedWords(feed, 1) })
				games.Drop()
				synctest.Wait()
				require.True(t, first.ended)
				require.Equal(t, "1 dropped", first.String())
				require.Equal(t, "dropped", feedAll(feed))
			})
		})
	}
}

// One of many that range at once gets the stream, each of the others the panic,
// and nothing is lost: run with -race.
func TestManyRangesAtOnceAreOneRangeAndPanics(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			feed := stage.put(games.Changes(t.Context()), nothingToDo)
			feedWrites(t, games, 100)
			var (
				loops    sync.WaitGroup
				panicked atomic.Int64
				read     = make(chan string, 100)
			)
			for range 4 {
				loops.Go(func() {
					for range 25 {
						for done := false; !done; {
							func() {
								defer func() {
									if p := recover(); p != nil {
										if p != secondRange {
											panic(p)
										}
										panicked.Add(1)
										runtime.Gosched()
									}
								}()
								for c, err := range feed {
									read <- feedWord(c, err)
									for panicked.Load() == 0 {
										runtime.Gosched() // until another one has tried
									}
									done = true
									break
								}
							}()
						}
					}
				})
			}
			loops.Wait()
			close(read)
			got := slices.Collect(func(yield func(string) bool) {
				for word := range read {
					if !yield(word) {
						return
					}
				}
			})
			require.Equal(t, feedSeqs(1, 100), got) // sent while ranging, so in order
		})
	}
}

// "No lock is held while the loop body runs: the body may write to the same table",
// and neither while a stage's function runs.
func TestTheLoopBodyMayUseTheTable(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games, other := newGames(), newGames()
			unlocked := func() {
				// Tried first: a lock that is held fails the test and does not hang it.
				require.True(t, games.mu.TryLock())
				games.mu.Unlock()
				require.True(t, games.allScope.ring.mu.TryLock())
				games.allScope.ring.mu.Unlock()
				require.True(t, games.feeds.mu.TryLock())
				games.feeds.mu.Unlock()
			}
			feed := stage.put(games.Changes(t.Context(), Buffer(3)), unlocked)
			feedWrites(t, games, 5)
			var got []string
			for c, err := range feed {
				unlocked()
				got = append(got, feedWord(c, err))
				switch len(got) {
				case 1, 3: // at the notice and at an element
					feedWrites(t, games, 1)
					feedWrites(t, other, 1)
				case 4:
					row, ok := games.Get(1)
					require.True(t, ok)
					require.Equal(t, 7, row.Score)
					for key := range games.All() {
						require.Equal(t, 1, key)
					}
					require.Equal(t, 2, games.Feeds()[0].Buffered)
					own := games.Changes(t.Context())
					feedWrites(t, games, 1)
					require.Equal(t, "8", feedWords(own, 1))
				case 5:
					games.Drop()
				}
			}
			require.Equal(t, "skip2(1-2) skip1(3-3) 4 5 6 7 8 dropped", strings.Join(got, " "))
			require.Equal(t, uint64(2), other.Seq())
		})
	}
}

// "iter.Pull2(iter.Seq2[T, error](s)) works"; until stop the range counts as running.
func TestAStreamCanBePulled(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Buffer(2))
	feedWrites(t, games, 5)
	next, stop := iter.Pull2(iter.Seq2[Change[game], error](feed))
	for _, want := range []string{"skip3(1-3)", "4"} {
		c, err, ok := next()
		require.True(t, ok)
		require.Equal(t, want, feedWord(c, err))
	}
	require.PanicsWithValue(t, secondRange, func() { feedWords(feed, 1) })
	stop()
	_, _, ok := next()
	require.False(t, ok)
	games.Drop()
	next, stop = iter.Pull2(iter.Seq2[Change[game], error](feed))
	defer stop()
	for _, want := range []string{"5", "dropped"} {
		c, err, ok := next()
		require.True(t, ok)
		require.Equal(t, want, feedWord(c, err))
	}
	_, _, ok = next()
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
	{"cancel", func(t *testing.T) (context.Context, func()) {
		ctx, cancel := context.WithCancel(t.Context())
		return ctx, cancel
	}, context.Canceled},
	{"cancel with a cause", func(t *testing.T) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(t.Context())
		return ctx, func() { cancel(errFeedCause) }
	}, errFeedCause},
	{"deadline", func(t *testing.T) (context.Context, func()) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		t.Cleanup(cancel)
		return ctx, func() { time.Sleep(time.Hour); synctest.Wait() }
	}, context.DeadlineExceeded},
	{"deadline with a cause", func(t *testing.T) (context.Context, func()) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errFeedCause)
		t.Cleanup(cancel)
		return ctx, func() { time.Sleep(time.Hour); synctest.Wait() }
	}, errFeedCause},
	{"parent", func(t *testing.T) (context.Context, func()) {
		parent, cancel := context.WithCancelCause(t.Context())
		ctx, cancelChild := context.WithCancel(context.WithValue(parent, feedContext{}, 1))
		t.Cleanup(cancelChild)
		return ctx, func() { cancel(errFeedCause) }
	}, errFeedCause},
	{"a type of its own", func(*testing.T) (context.Context, func()) {
		ctx := &feedContext{Context: context.Background(), done: make(chan struct{})}
		return ctx, func() { ctx.cancel(errFeedCause) }
	}, errFeedCause},
	{"a type around a context that is not done", func(t *testing.T) (context.Context, func()) {
		ctx := &feedContext{Context: t.Context(), done: make(chan struct{})}
		return ctx, func() { ctx.cancel(errFeedCause) }
	}, errFeedCause},
}

// "Final errors: context.Cause(ctx)"; "ctx done wins over buffered elements"; "A
// final error is the last pair of this range and the only pair of every later one."
func TestADoneContextEndsTheRangeWithItsCause(t *testing.T) {
	for _, test := range feedContexts {
		t.Run(test.name, func(t *testing.T) {
			for _, when := range []string{"before Changes", "before the range", "in the loop", "while it waits", "while it is paused"} {
				t.Run(when, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						games := newGames()
						ctx, end := test.make(t)
						if when == "before Changes" {
							end()
						}
						feed := games.Changes(ctx)
						feedWrites(t, games, 3)
						var got []pair[Change[game]]
						switch when {
						case "before the range":
							end()
						case "in the loop":
							for c, err := range feed {
								if got = append(got, pair[Change[game]]{c, err}); len(got) == 1 {
									end()
								}
							}
							require.Len(t, got, 2) // the context is looked at before each element
							got = got[1:]
						case "while it waits":
							var loop sync.WaitGroup
							loop.Go(func() { got = take(feed, -1) })
							synctest.Wait()
							end()
							loop.Wait()
							require.Len(t, got, 4)
							got = got[3:]
						case "while it is paused":
							require.Equal(t, "1", feedWords(feed, 1))
							end()
						}
						if got == nil {
							got = take(feed, -1)
						}
						want := []pair[Change[game]]{{err: test.want}}
						require.Equal(t, want, got)
						games.Drop()
						require.Equal(t, want, take(feed, 1)) // a break does not lose it
						require.Equal(t, want, take(feed, -1))
						require.Empty(t, games.Feeds())
					}) // no goroutine is left, or the bubble would not end
				})
			}
		})
	}
}

// "an error that is ErrTableDropped, after everything that was still buffered", the
// only pair of every later range.
func TestADroppedTableEndsTheRangeAfterAllThatWasBuffered(t *testing.T) {
	for _, test := range []struct {
		name         string
		buffer       int
		read, writes int
		want         string
	}{
		{"nothing buffered", 9, 0, 0, "dropped"},
		{"all read", 9, 3, 3, "dropped"},
		{"some read", 9, 1, 3, "2 3 dropped"},
		{"full", 3, 0, 3, "1 2 3 dropped"},
		{"overflowed", 2, 0, 5, "skip3(1-3) 4 5 dropped"},
		{"at a page's end", 999, 8, 8, "dropped"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			games := newGames()
			feed := games.Changes(ctx, Buffer(test.buffer))
			feedWrites(t, games, test.writes)
			feedWords(feed, test.read)
			games.Drop()
			games.Drop()
			require.Equal(t, test.want, feedAll(feed))
			require.Empty(t, games.Feeds())
			require.Equal(t, "dropped", feedWords(feed, 1), "after the loop saw it")
			cancel()
			require.Equal(t, "dropped", feedAll(feed), "after ctx is done, which is too late")

			pairs := take(feed, -1)
			require.ErrorIs(t, pairs[0].err, ErrTableDropped)
			require.EqualError(t, pairs[0].err, `changefeed: changes of "games": table dropped`)
		})
	}
}

// A table dropped in the moment in which a loop finds nothing to read does not take
// the change from it that was written just before: the loop looks once more.
func TestAFeedIsNotDrainedBeforeItsLastChange(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	window := &games.feeds.all()[0].window
	feedWrites(t, games, 1)
	games.Drop()
	require.False(t, window.drained())
	require.Equal(t, "1", feedWords(feed, 1))
	require.True(t, window.drained())
	require.Equal(t, "dropped", feedAll(feed))
}

// A loop that breaks on the final error meets the same one again.
func TestBreakOnTheFinalErrorDoesNotLoseIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	games := newGames()
	dropped, cancelled := games.Changes(t.Context()), games.Changes(ctx)
	cancel()
	games.Drop()
	for range 3 {
		require.Equal(t, "dropped", feedWords(dropped, 1))
		require.Equal(t, "context canceled", feedWords(cancelled, 1))
	}
}

// "ctx done wins over buffered elements", also over those of a dropped table.
func TestADoneContextWinsOverADroppedTable(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	games := newGames()
	feed := games.Changes(ctx)
	feedWrites(t, games, 3)
	games.Drop()
	require.Equal(t, "1", feedWords(feed, 1))
	cancel()
	require.Equal(t, "context canceled", feedAll(feed))
	require.Equal(t, "context canceled", feedAll(feed))
}

func TestChangesOfADroppedTable(t *testing.T) {
	games := newGames()
	feedWrites(t, games, 1)
	games.Drop()
	feed := games.Changes(t.Context())
	require.Empty(t, games.Feeds())
	for range 2 {
		pairs := take(feed, -1)
		require.Len(t, pairs, 1)
		require.Zero(t, pairs[0].v)
		require.ErrorIs(t, pairs[0].err, ErrTableDropped)
		require.EqualError(t, pairs[0].err, `changefeed: changes of "games": table dropped`)
	}
}

// "n < 1: the stream yields ErrInvalidOption and ends"; "The same option twice: the
// last wins."
func TestFeedOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []FeedOption
		want FeedInfo
		err  string
	}{
		{"none", nil, FeedInfo{Capacity: 100_000}, ""},
		{"Buffer", []FeedOption{Buffer(1)}, FeedInfo{Capacity: 1}, ""},
		{"Named", []FeedOption{Named("a")}, FeedInfo{Name: "a", Capacity: 100_000}, ""},
		{"both", []FeedOption{Named("a"), Buffer(7)}, FeedInfo{Name: "a", Capacity: 7}, ""},
		{"the last wins", []FeedOption{Buffer(7), Named("a"), Buffer(8), Named("b")}, FeedInfo{Name: "b", Capacity: 8}, ""},
		{"the last is right", []FeedOption{Buffer(0), Buffer(5)}, FeedInfo{Capacity: 5}, ""},
		{"zero", []FeedOption{Buffer(0)}, FeedInfo{}, `changefeed: changes of "games": invalid option: Buffer(0): must be at least 1`},
		{"negative", []FeedOption{Buffer(-1)}, FeedInfo{}, `changefeed: changes of "games": invalid option: Buffer(-1): must be at least 1`},
		{"the last is wrong", []FeedOption{Buffer(5), Buffer(0)}, FeedInfo{}, `changefeed: changes of "games": invalid option: Buffer(0): must be at least 1`},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			feed := games.Changes(t.Context(), test.opts...)
			if test.err == "" {
				require.Equal(t, []FeedInfo{test.want}, games.Feeds())
				runtime.KeepAlive(feed) // forgotten, it would not be among Feeds
				return
			}
			require.Empty(t, games.Feeds())
			for range 2 { // the only pair of every range
				pairs := take(feed, -1)
				require.Len(t, pairs, 1)
				require.Zero(t, pairs[0].v)
				require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
				require.EqualError(t, pairs[0].err, test.err)
			}
		})
	}
}

// "What no run-time input can cause panics and says what to do"
func TestMisuseOfAFeedPanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	var noContext context.Context
	for _, test := range []struct {
		name string
		call func()
		want string
	}{
		{
			"nil ctx", func() { games.Changes(noContext) },
			"changefeed: Changes: nil context; pass context.Background() if nothing cancels the feed",
		},
		{
			"nil option", func() { games.Changes(t.Context(), Buffer(1), nil) },
			"changefeed: Changes: nil option; leave it out",
		},
		{
			"nil keep", func() { feed.Filter(nil) },
			"changefeed: Stream.Filter: nil function; pass the predicate of the elements to keep",
		},
		{
			"nil f", func() { feed.Map(nil) },
			"changefeed: Map: nil function; pass the function to apply to each element",
		},
		{
			"nil f to another type", func() { Map[Change[game], int](feed, nil) },
			"changefeed: Map: nil function; pass the function to apply to each element",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.PanicsWithValue(t, test.want, test.call)
			require.Len(t, games.Feeds(), 1) // it subscribed nobody
		})
	}
}

// overflowed puts down what must be told of unread changes, up to the one
// numbered end, through a buffer.
func overflowed(unread, end, buffer int) []string {
	from := end - unread + 1
	if unread <= buffer {
		return feedSeqs(from, end)
	}
	skipped := unread - buffer
	notice := fmt.Sprintf("skip%d(%d-%d)", skipped, from, from+skipped-1)
	return append([]string{notice}, feedSeqs(from+skipped, end)...)
}

// "with N unread changes and a buffer of n, the next read yields nothing special if
// N <= n, and else one *SkippedError{Count: N-n} before the n newest, in order;
// then the stream goes on. This holds at any point, also in the middle of a
// backlog." F1, R2
func TestOverflowIsExact(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 8, 9, 64, 255, 256, 257} {
		t.Run(fmt.Sprintf("Buffer(%d)", n), func(t *testing.T) {
			for _, before := range []struct{ written, read int }{
				{0, 0}, {1, 1}, {min(n, 2), 1}, {n, 0}, {n, 1}, {n, n / 2}, {n, n - 1}, {n, n},
			} {
				for _, unread := range []int{n - 1, n, n + 1, n + 2, 2 * n, 2*n + 1, 600} {
					more := unread - (before.written - before.read)
					if more < 0 {
						continue
					}
					games := newGames()
					feed := games.Changes(t.Context(), Buffer(n))
					feedWrites(t, games, before.written)
					require.Equal(t, strings.Join(feedSeqs(1, before.read), " "), feedWords(feed, before.read))
					feedWrites(t, games, more)

					end := before.written + more
					lost := max(0, unread-n)
					require.Equal(t, []FeedInfo{{
						Buffered: unread - lost, Capacity: n, Delivered: uint64(before.read), Skipped: uint64(lost), Seq: uint64(before.read),
					}}, games.Feeds())
					want := overflowed(unread, end, n)
					require.Equal(t, strings.Join(want, " "), feedWords(feed, len(want)),
						"%d written, %d read, %d written", before.written, before.read, more)
					require.Equal(t, []FeedInfo{{
						Capacity: n, Delivered: uint64(end - lost), Skipped: uint64(lost), Seq: uint64(end),
					}}, games.Feeds())

					feedWrites(t, games, 1) // the stream goes on
					games.Drop()
					require.Equal(t, fmt.Sprintf("%d dropped", end+1), feedAll(feed))
				}
			}
		})
	}
}

// Pages are 4 slots, then 8, and so on to 256. Who subscribes where one is full
// takes from nobody what lies before it. F2
func TestSubscribingAtAPagesEnd(t *testing.T) {
	for _, written := range []int{3, 4, 5, 11, 12, 13, 28, 60, 124, 252, 508, 764} {
		for _, n := range []int{1, 2, 8, 16, 17, 256, 257, 512, 513} {
			games := newGames()
			first := games.Changes(t.Context(), Buffer(n))
			feedWrites(t, games, written)
			second := games.Changes(t.Context(), Buffer(n))
			want := overflowed(written, written, n)
			require.Equal(t, strings.Join(want, " "), feedWords(first, len(want)), "%d written, Buffer(%d)", written, n)
			feedWrites(t, games, n+1)
			games.Drop()
			want = append(overflowed(n+1, written+n+1, n), "dropped")
			require.Equal(t, strings.Join(want, " "), feedAll(second))
			require.Equal(t, strings.Join(want, " "), feedAll(first))
		}
	}
}

// Whoever handles the notice may be overtaken again: the next notice tells of what
// was lost since, and of nothing else. F1
func TestOverflowWhileANoticeIsHandled(t *testing.T) {
	for _, n := range []int{1, 2, 64, 256, 257} {
		for _, more := range []int{0, 1, 2, n - 1, n, n + 1, 3 * n, 300} {
			for _, breaks := range []bool{false, true} {
				t.Run(fmt.Sprintf("Buffer(%d),%d more,break=%t", n, more, breaks), func(t *testing.T) {
					games := newGames()
					feed := games.Changes(t.Context(), Buffer(n))
					feedWrites(t, games, n+5)
					var got []string
					body := func(c Change[game], err error) {
						if got = append(got, feedWord(c, err)); len(got) == 1 {
							feedWrites(t, games, more)
							games.Drop()
						}
					}
					for c, err := range feed {
						if body(c, err); breaks {
							break
						}
					}
					if breaks {
						for c, err := range feed {
							body(c, err)
						}
					}
					want := append([]string{"skip5(1-5)"}, overflowed(n+more, n+5+more, n)...)
					require.Equal(t, append(want, "dropped"), got)
				})
			}
		}
	}
}

// A loop that writes more than its buffer holds at each pair is told of every gap.
func TestNoticesInARow(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Buffer(2))
	feedWrites(t, games, 3)
	var got []string
	for c, err := range feed {
		if got = append(got, feedWord(c, err)); len(got) == 6 {
			break
		}
		feedWrites(t, games, []int{0, 1, 2, 1, 0, 3}[len(got)])
	}
	require.Equal(t, "skip1(1-1) skip1(2-2) skip2(3-4) skip1(5-5) 6 skip2(7-8)", strings.Join(got, " "))
	require.Equal(t, FeedInfo{Buffered: 2, Capacity: 2, Delivered: 1, Skipped: 7, Seq: 8}, games.Feeds()[0])
	runtime.KeepAlive(feed)
}

// feedTap notes the errors of a stream on their way to a stage.
func feedTap[T any](s Stream[T], errs *[]error) Stream[T] {
	return func(yield func(T, error) bool) {
		s(func(v T, err error) bool {
			if err != nil {
				*errs = append(*errs, err)
			}
			return yield(v, err)
		})
	}
}

// "Stages pass errors through untouched and never hand them to user functions (in
// RethinkDB a filter swallows the overflow notice; here it cannot)."
func TestNoticesPassThroughEveryStage(t *testing.T) {
	for _, stage := range append(feedStages[1:len(feedStages):len(feedStages)], struct {
		name string
		put  func(s Stream[Change[game]], f func()) Stream[Change[game]]
	}{"all of them", func(s Stream[Change[game]], f func()) Stream[Change[game]] {
		for _, stage := range feedStages {
			s = stage.put(s, f)
		}
		return s
	}}) {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			calls := 0
			var in []error
			feed := stage.put(feedTap(games.Changes(t.Context(), Buffer(2)), &in), func() { calls++ })
			feedWrites(t, games, 5)
			notice := take(feed, 1)[0]
			require.Zero(t, calls)
			require.Zero(t, notice.v)
			require.Same(t, in[0].(*SkippedError), notice.err)
			require.Equal(t, "4", feedWords(feed, 1))
			games.Drop()
			pairs := take(feed, -1)
			require.Len(t, pairs, 2)
			require.Same(t, in[1], pairs[1].err)
		})
	}
}

// A filter that keeps nothing hands on every notice, and the final error.
func TestAFilterThatKeepsNothingTellsOfEveryGap(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Buffer(2)).Filter(func(c Change[game]) bool { return false })
	feedWrites(t, games, 5)
	require.Equal(t, "skip3(1-3)", feedWords(feed, 1))
	feedWrites(t, games, 5)
	games.Drop()
	require.Equal(t, "skip5(4-8) dropped", feedAll(feed))
}

// "Limit counts elements, not errors"
func TestLimitDoesNotCountNotices(t *testing.T) {
	games := newGames()
	source := games.Changes(t.Context(), Buffer(2))
	feed := source.Limit(3)
	feedWrites(t, games, 5)
	require.Equal(t, "skip3(1-3) 4", feedWords(feed, 2))
	feedWrites(t, games, 5)
	require.Equal(t, "skip4(5-8) 9 10", feedAll(feed))
	require.Empty(t, feedAll(feed))
	games.Drop()
	require.Equal(t, "dropped", feedAll(source))
}

func TestDefaultBufferIs100000(t *testing.T) {
	require.Equal(t, 100_000, DefaultBuffer)
	games := newGames()
	overflows := games.Changes(t.Context())
	feedWrites(t, games, 1)
	fits := games.Changes(t.Context())
	feedWrites(t, games, 100_000)
	games.Drop()
	want := strings.Join(feedSeqs(2, 100_001), " ") + " dropped"
	require.True(t, feedAll(fits) == want)                    // too long to print
	require.True(t, feedAll(overflows) == "skip1(1-1) "+want) // 100,001 skip 1
}

func TestSkippedErrorReadsAsRethinkDBsNotice(t *testing.T) {
	err := &SkippedError{Count: 42, From: 1, To: 42}
	require.EqualError(t, err, "Changefeed cache over array size limit, skipped 42 elements.")
	text, _ := json.Marshal(err)
	require.Equal(t, `{"error":"Changefeed cache over array size limit, skipped 42 elements."}`, string(text))
}

func TestChangeMarshalsAsRethinkDBWritesIt(t *testing.T) {
	older, newer := &game{ID: 1}, &game{ID: 1, Player: "Bob"}
	for _, test := range []struct {
		change Change[game]
		row    *game
		want   string
	}{
		{Change[game]{1, Insert, nil, newer}, newer, `{"old_val":null,"new_val":{"id":1,"player":"Bob"}}`},
		{Change[game]{2, Update, older, newer}, newer, `{"old_val":{"id":1},"new_val":{"id":1,"player":"Bob"}}`},
		{Change[game]{3, Delete, older, nil}, older, `{"old_val":{"id":1},"new_val":null}`},
		{Change[game]{}, nil, `{"old_val":null,"new_val":null}`},
	} {
		text, err := json.Marshal(test.change)
		require.NoError(t, err)
		require.Equal(t, test.want, string(text))
		require.Same(t, test.row, test.change.Row())
	}
}

func TestKindSpeaks(t *testing.T) {
	for kind, want := range map[Kind]string{None: "none", Insert: "insert", Update: "update", Delete: "delete", 200: "Kind(200)"} {
		require.Equal(t, want, kind.String())
	}
}

// Each FeedInfo is exact, also in the middle of a backlog and before a gap is told;
// they come in the order of subscription, and vanish with their subscriptions.
func TestFeedsTellsWhoFollowsAndHowFarBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		games := newGames()
		require.Empty(t, games.Feeds())
		feedWrites(t, games, 10)
		ctx, cancel := context.WithCancel(t.Context())
		first := games.Changes(ctx, Named("first"), Buffer(4))
		second := games.Changes(t.Context())
		third := games.Changes(t.Context(), Named("third"), Buffer(1))
		require.Equal(t, []FeedInfo{
			{"first", 0, 4, 0, 0, 10},
			{"", 0, 100_000, 0, 0, 10},
			{"third", 0, 1, 0, 0, 10},
		}, games.Feeds())

		feedWrites(t, games, 6) // 11 to 16
		require.Equal(t, "11 12", feedWords(second, 2))
		require.Equal(t, []FeedInfo{
			{"first", 4, 4, 0, 2, 10}, // the gap counts, but is not told
			{"", 4, 100_000, 2, 0, 12},
			{"third", 1, 1, 0, 5, 10},
		}, games.Feeds())

		require.Equal(t, "skip2(11-12)", feedWords(first, 1))
		require.Equal(t, "skip5(11-15) 16", feedWords(third, 2))
		require.Equal(t, []FeedInfo{
			{"first", 4, 4, 0, 2, 12},
			{"", 4, 100_000, 2, 0, 12},
			{"third", 0, 1, 1, 5, 16},
		}, games.Feeds())

		feedWrites(t, games, 1) // 17: a second gap for the first
		for c := range second {
			require.Equal(t, uint64(13), c.Seq)
			require.Equal(t, []FeedInfo{ // in the loop's body
				{"first", 4, 4, 0, 3, 12},
				{"", 4, 100_000, 3, 0, 13},
				{"third", 1, 1, 1, 5, 16},
			}, games.Feeds())
			break
		}
		require.Equal(t, "skip1(13-13) 14", feedWords(first, 2))
		require.Equal(t, FeedInfo{"first", 3, 4, 1, 3, 14}, games.Feeds()[0])
		runtime.KeepAlive(first)

		cancel()
		synctest.Wait()
		require.Equal(t, []FeedInfo{
			{"", 4, 100_000, 3, 0, 13},
			{"third", 1, 1, 1, 5, 16},
		}, games.Feeds())
		fourth := games.Changes(t.Context(), Named("fourth"))
		games.Drop()
		require.Equal(t, "dropped", feedAll(fourth))
		require.Equal(t, "17 dropped", feedAll(third))
		require.Equal(t, []FeedInfo{{"", 4, 100_000, 3, 0, 13}}, games.Feeds())
		require.Equal(t, "14 15 16 17 dropped", feedAll(second))
		require.Empty(t, games.Feeds())
	})
}

// R2: appended = delivered + skipped + buffered, at any time, also among writers
// and readers.
func TestFeedsAddsUpWhileAllMove(t *testing.T) {
	games := newGames()
	var loops, writer sync.WaitGroup
	for _, buffer := range []int{1, 10, 300, DefaultBuffer} {
		feed := games.Changes(t.Context(), Buffer(buffer))
		loops.Go(func() { take(feed, -1) })
	}
	stalled := games.Changes(t.Context(), Buffer(5))
	writer.Go(func() { feedWrites(t, games, 10_000) })
	last := make([]FeedInfo, 5)
	for games.Seq() < 10_000 {
		before := games.Seq()
		infos := games.Feeds()
		after := games.Seq()
		require.Len(t, infos, 5)
		for i, info := range infos {
			sum := info.Delivered + info.Skipped + uint64(info.Buffered)
			require.LessOrEqual(t, before, sum)
			require.LessOrEqual(t, sum, after)
			require.LessOrEqual(t, info.Buffered, info.Capacity)
			require.LessOrEqual(t, info.Delivered, info.Seq)
			require.LessOrEqual(t, info.Seq, info.Delivered+info.Skipped)
			require.LessOrEqual(t, last[i].Seq, info.Seq)
			require.LessOrEqual(t, last[i].Delivered, info.Delivered)
			require.LessOrEqual(t, last[i].Skipped, info.Skipped) // what was read was never skipped
		}
		last = infos
	}
	writer.Wait()
	games.Drop()
	loops.Wait()
	require.Equal(t, "skip9995(1-9995) 9996 9997 9998 9999 10000 dropped", feedAll(stalled))
}

// A range waits when there is nothing to read, without a turn of its own
// (synctest.Wait would not return), and is woken by what there is to tell. F3, F4
func TestARangeWaitsUntilThereIsSomethingToTell(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				games := newGames()
				ctx, cancel := context.WithCancelCause(t.Context())
				cancelled := follow(stage.put(games.Changes(ctx), nothingToDo), nil)
				dropped := follow(stage.put(games.Changes(t.Context()), nothingToDo), nil)
				late, stop := context.WithTimeoutCause(t.Context(), time.Minute, errFeedCause)
				defer stop()
				timed := follow(stage.put(games.Changes(late), nothingToDo), nil)
				tell := func(a, b, c string) {
					t.Helper()
					synctest.Wait()
					require.Equal(t, []string{a, b, c}, []string{cancelled.String(), dropped.String(), timed.String()})
				}
				tell("", "", "")
				feedWrites(t, games, 1)
				tell("1", "1", "1")
				feedWrites(t, games, 2)
				tell("1 2 3", "1 2 3", "1 2 3")
				cancel(errFeedCause)
				tell("1 2 3 the cause", "1 2 3", "1 2 3")
				require.True(t, cancelled.ended)
				time.Sleep(59 * time.Second)
				tell("1 2 3 the cause", "1 2 3", "1 2 3")
				time.Sleep(time.Second)
				tell("1 2 3 the cause", "1 2 3", "1 2 3 the cause")
				games.Drop()
				tell("1 2 3 the cause", "1 2 3 dropped", "1 2 3 the cause")
			})
		})
	}
}

// What is no event wakes nobody, and a range that is filtered empty waits on.
func TestARangeWaitsOnWhereNothingIsForIt(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		feedWrites(t, games, 1)
		all := follow(games.Changes(t.Context()), nil)
		deletes := follow(games.Changes(t.Context()).Filter(func(c Change[game]) bool { return c.Kind == Delete }), nil)
		_, err := games.Upsert(game{ID: 1, Score: 1})
		require.NoError(t, err)
		synctest.Wait()
		require.Empty(t, all.told)
		feedWrites(t, games, 300) // more than a page
		synctest.Wait()
		require.Empty(t, deletes.told)
		_, err = games.Delete(1)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, "302", deletes.String())
		require.Equal(t, feedSeqs(2, 302), all.told)
	})
}

// "Limit ... ends with the n-th without waiting for another"
func TestLimitDoesNotWaitForAnother(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		source := games.Changes(t.Context())
		three, none := follow(source.Limit(3), nil), follow(games.Changes(t.Context()).Limit(0), nil)
		synctest.Wait()
		require.True(t, none.ended)
		feedWrites(t, games, 2)
		synctest.Wait()
		require.False(t, three.ended)
		feedWrites(t, games, 1)
		synctest.Wait()
		require.True(t, three.ended)
		require.Equal(t, "1 2 3", three.String())
		require.Empty(t, none.told)

		feedWrites(t, games, 1)
		require.Equal(t, "4", feedWords(source, 1), "the source can be ranged on")
	})
}

// F3: one write wakes all who wait, whatever their number.
func TestOneWriteWakesAllWhoWait(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 8, 100} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				games := newGames()
				var loops []*follower
				for range n {
					loops = append(loops, follow(games.Changes(t.Context()), nil))
				}
				want := []string{}
				for i := range 10 {
					synctest.Wait()
					feedWrites(t, games, 1)
					want = append(want, strconv.Itoa(i+1))
					synctest.Wait()
					for _, loop := range loops {
						require.Equal(t, want, loop.told)
					}
				}
				games.Drop() // and so does that
				synctest.Wait()
				for _, loop := range loops {
					require.True(t, loop.ended)
				}
			})
		})
	}
}

// F3: "even if other loops stall": each wakes others before its body runs.
func TestASlowLoopHoldsUpNobody(t *testing.T) {
	const n = 7
	for slow := range n {
		t.Run(strconv.Itoa(slow), func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				games := newGames()
				release := make(chan struct{})
				var loops []*follower
				for i := range n {
					var body func(string) bool
					if i == slow {
						body = func(string) bool { <-release; return true }
					}
					loops = append(loops, follow(games.Changes(t.Context()), body))
					synctest.Wait() // they queue in this order
				}
				for s := 1; s <= 3; s++ {
					feedWrites(t, games, 1)
					synctest.Wait()
					for i, loop := range loops {
						if i != slow {
							require.Equal(t, feedSeqs(1, s), loop.told)
						}
					}
					require.Equal(t, "1", loops[slow].String())
				}
				close(release)
				games.Drop()
				synctest.Wait()
				for _, loop := range loops {
					require.Equal(t, "1 2 3 dropped", loop.String())
				}
			})
		})
	}
}

// F3: "even if other loops ... exit", in the same moment as the write.
func TestWhoLeavesTakesNobodysWakeUp(t *testing.T) {
	const n = 5
	for leavers := range 1 << n {
		inBubble := func(t *testing.T) {
			games := newGames()
			var loops []*follower
			var cancels []func()
			for range n {
				ctx, cancel := context.WithCancel(t.Context())
				loops = append(loops, follow(games.Changes(ctx), nil))
				cancels = append(cancels, cancel)
				synctest.Wait()
			}
			for i, cancel := range cancels {
				if leavers>>i&1 == 1 {
					go cancel()
				}
			}
			go feedWrites(t, games, 1)
			synctest.Wait()
			for i, loop := range loops {
				if leavers>>i&1 == 1 {
					require.Contains(t, []string{"context canceled", "1 context canceled"}, loop.String(), "leavers %05b", leavers)
				} else {
					require.Equal(t, "1", loop.String(), "leavers %05b", leavers)
				}
			}
			require.Len(t, games.Feeds(), n-len(slices.DeleteFunc(slices.Clone(loops), func(f *follower) bool { return !f.ended })))
			games.Drop()
		}
		for range 3 {
			synctest.Test(t, inBubble)
		}
	}
}

// T6: "The writer never waits for a subscriber's code": with each loop stuck in its body,
// writes go on, and the loops get notices of exactly what they missed.
func TestTheWriterNeverWaits(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		release := make(chan struct{})
		stuck := func(string) bool { <-release; return true }
		buffers := []int{1, 2, 64, 256, 257, 999, 1000}
		var loops []*follower
		for _, n := range buffers {
			loops = append(loops, follow(games.Changes(t.Context(), Buffer(n)), stuck))
		}
		keep := follow(games.Changes(t.Context()).Filter(func(Change[game]) bool { <-release; return true }), nil)
		synctest.Wait()
		feedWrites(t, games, 1)
		synctest.Wait() // all are stuck at 1
		feedWrites(t, games, 1000)
		require.Equal(t, uint64(1001), games.Seq())
		_, ok := games.Get(1)
		require.True(t, ok)
		require.Len(t, games.Feeds(), len(buffers)+1)
		games.Drop()
		for _, loop := range loops {
			require.Equal(t, "1", loop.String())
		}
		close(release)
		synctest.Wait()
		for i, loop := range loops {
			want := append([]string{"1"}, overflowed(1000, 1001, buffers[i])...)
			require.Equal(t, append(want, "dropped"), loop.told)
		}
		require.Equal(t, append(feedSeqs(1, 1001), "dropped"), keep.told)
	})
}

// A feedEvent is something that happens to loops that wait.
type feedEvent struct {
	what string // write, drop, cancel or break
	loop int    // the one that is cancelled, or that breaks at its next pair
}

// A feedModel is what one loop must be told when it has come to rest after each event.
type feedModel struct {
	unread, told       []string
	paused, ended      bool
	cancelled, dropped bool
	breakNext          bool // at its next pair
}

// rest moves the loop on until it waits, is paused or has ended.
func (m *feedModel) rest() {
	tell := func(word string) {
		m.told = append(m.told, word)
		m.paused, m.breakNext = m.breakNext, false
	}
	for !m.paused && !m.ended {
		switch {
		case m.cancelled:
			m.ended = true
			tell("context canceled")
		case len(m.unread) > 0:
			word := m.unread[0]
			m.unread = m.unread[1:]
			tell(word)
		case m.dropped:
			m.ended = true
			tell("dropped")
		default:
			return
		}
	}
}

// orderings calls yield for each way to choose and order up to n of events.
func orderings(events []feedEvent, n int, yield func([]feedEvent)) {
	var chosen []feedEvent
	used := make([]bool, len(events))
	var choose func()
	choose = func() {
		if len(chosen) > 0 {
			yield(chosen)
		}
		if len(chosen) == n {
			return
		}
		for i, e := range events {
			if !used[i] {
				used[i] = true
				chosen = append(chosen, e)
				choose()
				chosen = chosen[:len(chosen)-1]
				used[i] = false
			}
		}
	}
	choose()
}

// F1, F3, F4, for each choice and order of a few events that happen to one to four
// loops that wait, where the loops come to rest between the events or do not: each
// is told exactly what it must be, none is left asleep, nothing stays behind.
func TestEveryOrderOfEventsWakesWhomItMust(t *testing.T) {
	for _, test := range []struct{ loops, events int }{{1, 4}, {2, 4}, {3, 3}, {4, 3}} {
		events := []feedEvent{{what: "write"}, {what: "write"}, {what: "drop"}}
		for i := range test.loops {
			events = append(events, feedEvent{"cancel", i}, feedEvent{"break", i})
		}
		for _, procs := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d loops,GOMAXPROCS=%d", test.loops, procs), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				count := 0
				orderings(events, test.events, func(order []feedEvent) {
					for _, rest := range []bool{true, false} {
						count++
						synctest.Test(t, func(t *testing.T) { runEvents(t, test.loops, order, rest) })
					}
				})
				t.Log(count, "orders")
			})
		}
	}
}

func runEvents(t *testing.T, n int, order []feedEvent, rest bool) {
	games := newGames()
	loops, models := make([]*follower, n), make([]feedModel, n)
	cancels, breaks := make([]func(), n), make([]atomic.Bool, n)
	for i := range n {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cancels[i] = cancel
		loops[i] = follow(games.Changes(ctx), func(string) bool { return !breaks[i].CompareAndSwap(true, false) })
		synctest.Wait() // it waits, and behind those before it
	}
	moveOn := func() {
		synctest.Wait()
		for i := range models {
			models[i].rest()
			require.Equal(t, models[i].told, loops[i].told, "loop %d after %v", i, order)
		}
	}
	writes, dropped := 0, false
	happen := func(e feedEvent) {
		switch e.what {
		case "write":
			_, err := games.Insert(game{ID: writes})
			require.Equal(t, dropped, err != nil)
			if !dropped {
				writes++
				for i := range models {
					models[i].unread = append(models[i].unread, strconv.Itoa(writes))
				}
			}
		case "drop":
			dropped = true
			games.Drop()
			for i := range models {
				models[i].dropped = true
			}
		case "cancel":
			cancels[e.loop]()
			models[e.loop].cancelled = true
		case "break":
			breaks[e.loop].Store(true)
			models[e.loop].breakNext = true
		}
		if rest {
			moveOn()
		}
	}
	for _, e := range order {
		happen(e)
	}
	happen(feedEvent{what: "drop"}) // ends every loop but those that are paused
	synctest.Wait()
	for i, loop := range loops {
		require.True(t, loop.ended, "loop %d sleeps after %v", i, order)
		breaks[i].Store(false)
		if last := loop.told; len(last) == 0 || last[len(last)-1] != "dropped" && last[len(last)-1] != "context canceled" {
			loop.run() // paused: range again
		}
		all := append(feedSeqs(1, writes), "dropped")
		switch {
		case rest:
			m := &models[i]
			m.paused, m.breakNext = false, false
			m.rest()
			require.Equal(t, m.told, loop.told, "loop %d after %v", i, order)
		case models[i].cancelled && loop.told[len(loop.told)-1] == "context canceled":
			told := loop.told[:len(loop.told)-1] // how far it came is chance
			require.Equal(t, all[:len(told)], told, "loop %d after %v", i, order)
		default:
			require.Equal(t, all, loop.told, "loop %d after %v", i, order)
		}
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
		require.Equal(t, "1", feedWords(paused, 1))
		games.Drop()
		require.Equal(t, "2 dropped", feedAll(paused))
		synctest.Wait()
		require.Equal(t, "1 2 dropped", waiting.String())
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
	subs := games.feeds.all()
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
			{"broken off", func(feed Stream[Change[game]]) { feedWords(feed, 1) }},
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
			{"limited", func(feed Stream[Change[game]]) { feedAll(feed.Limit(1)) }},
			{"behind stages", func(feed Stream[Change[game]]) {
				for _, stage := range feedStages {
					feed = stage.put(feed, nothingToDo)
				}
				feedWords(feed, 1)
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
			told := make(chan string)
			go func() {
				for c, err := range stage.put(games.Changes(context.Background()), nothingToDo) {
					told <- feedWord(c, err)
				}
				close(told)
			}()
			for games.allScope.ring.parked.Load() == 0 {
				runtime.Gosched() // until it waits
			}
			sentinelCollected(t, games, 1)
			feedWrites(t, games, 1)
			require.Equal(t, "1", <-told)
			sentinelCollected(t, games, 1)
			games.Drop()
			require.Equal(t, "dropped", <-told)
			<-told
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
		if got = append(got, feedWord(c, err)); len(got) == 2 {
			break
		}
	}
	require.Equal(t, []string{"1", "2"}, got)
}

// A stage refers to its source: who holds the one holds the other.
func TestAStageKeepsItsSourceAlive(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			feed := stage.put(games.Changes(context.Background()), nothingToDo)
			feedWrites(t, games, 2)
			sentinelCollected(t, games, 1)
			require.Equal(t, "1", feedWords(feed, 1))
			sentinelCollected(t, games, 1)
			require.Equal(t, "2", feedWords(feed, 1))
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
			feedAll(feed)
		}},
		{"cancelled in the middle", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			feedWords(feed, 1)
			cancel()
		}},
		{"dropped and drained", func(games *Table[int, game], feed Stream[Change[game]], _ func()) {
			games.Drop()
			feedAll(feed)
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

// A feedBlob is a row large enough to show in the size of the heap.
type feedBlob struct {
	ID   int
	Data [19]int
}

func newBlobs() *Table[int, feedBlob] {
	return NewTable("blobs", func(b *feedBlob) int { return b.ID })
}

func writeBlobs(tb testing.TB, blobs *Table[int, feedBlob], n int) {
	tb.Helper()
	for range n {
		_, err := blobs.Update(1, func(b *feedBlob) { b.Data[0]++ })
		require.NoError(tb, err)
	}
}

// heldBy returns by how much the heap grows while f runs, not counting garbage.
func heldBy(f func()) int {
	heap := func() int {
		var m runtime.MemStats
		for last := uint64(math.MaxUint64); ; last = m.HeapAlloc {
			runtime.GC() // until it finds nothing more: a cleanup makes garbage, too
			runtime.Gosched()
			runtime.ReadMemStats(&m)
			if m.HeapAlloc >= last-1000 {
				return int(m.HeapAlloc)
			}
		}
	}
	before := heap()
	f()
	return heap() - before
}

// Slow and fast subscribers beside several writers: those who keep up miss nothing
// and see each row's history joined (T2, T3), a stalled one gets an exact notice.
func TestFastAndSlowSubscribersTogether(t *testing.T) {
	const writers, each, total = 4, 1500, 4 * 1500
	for _, procs := range []int{1, 2} {
		t.Run(fmt.Sprintf("GOMAXPROCS=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			games := newGames()
			var loops, writing sync.WaitGroup
			for range 4 {
				feed := games.Changes(t.Context())
				loops.Go(func() {
					stored := make(map[int]*game)
					next := uint64(1)
					for c, err := range feed {
						if err != nil {
							if !errors.Is(err, ErrTableDropped) || next != total+1 {
								t.Errorf("%v before change %d", err, next)
							}
							return
						}
						if c.Seq != next || c.Old != stored[c.Row().ID] {
							t.Errorf("change %d with old row %v in place of %d with %v", c.Seq, c.Old, next, stored[c.Row().ID])
							return
						}
						next++
						stored[c.Row().ID] = c.New
					}
				})
			}
			const buffer = 64
			stalled := games.Changes(t.Context(), Buffer(buffer))
			stalls, written := make(chan struct{}), make(chan struct{})
			loops.Go(func() {
				feedWords(stalled, 10)
				from := int(games.Feeds()[4].Seq) // it may have been overtaken before
				close(stalls)
				<-written
				got := strings.Fields(feedAll(stalled))
				want := append(overflowed(total-from, total, buffer), "dropped")
				if !slices.Equal(want, got) {
					t.Errorf("stalled at %d: got %v, want %v", from, got, want)
				}
			})
			// This one is overtaken again and again.
			slow := games.Changes(t.Context(), Buffer(3))
			loops.Go(func() {
				next := uint64(1)
				for c, err := range slow {
					skipped, ok := errors.AsType[*SkippedError](err)
					switch {
					case ok:
						if skipped.From != next || skipped.To-skipped.From+1 != skipped.Count {
							t.Errorf("%+v before change %d", skipped, next)
						}
						next = skipped.To + 1
					case err != nil:
						if next != total+1 {
							t.Errorf("%v before change %d", err, next)
						}
					case c.Seq != next:
						t.Errorf("change %d in place of %d", c.Seq, next)
					default:
						next++
						runtime.Gosched()
					}
				}
			})
			for w := range writers {
				writing.Go(func() {
					for i := range each {
						key := w*10 + i%10
						_, err := games.Compute(key, func(g *game) *game {
							if g != nil && i%3 == 0 {
								return nil
							}
							return &game{ID: key, Score: i + 1}
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			writing.Wait()
			require.Equal(t, uint64(total), games.Seq())
			<-stalls
			close(written)
			games.Drop()
			loops.Wait()
			require.Empty(t, games.Feeds())
		})
	}
}

// A lateContext runs a function between its answer that it is not done and the
// moment at which the caller gets it.
type lateContext struct {
	context.Context
	then func()
}

func (c *lateContext) Err() error {
	err := c.Context.Err()
	if then := c.then; then != nil {
		c.then = nil
		then()
	}
	return err
}

// A context that is done just after it was looked at closes the window. The loop may
// then hand out what it had found, but nothing of a ring that began anew without it
// (R1), and must not say that the table was dropped after all it had (F4).
func TestAContextDoneJustAfterItWasLookedAt(t *testing.T) {
	games := newGames()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	late := &lateContext{Context: ctx}
	feed := games.Changes(late)
	closed := func(cancel func()) {
		cancel()
		for len(games.Feeds()) > 0 {
			runtime.Gosched()
		}
		feedWrites(t, games, 1) // which nobody follows
	}
	feedWrites(t, games, 1)
	other := Stream[Change[game]](nil)
	var pairs []pair[Change[game]]
	for c, err := range feed {
		pairs = append(pairs, pair[Change[game]]{c, err})
		late.then = func() {
			closed(cancel)
			other = games.Changes(t.Context())
			feedWrites(t, games, 1)
		}
	}
	runtime.KeepAlive(other)
	require.Len(t, pairs, 2)
	require.Equal(t, uint64(1), pairs[0].v.Seq)
	require.ErrorIs(t, pairs[1].err, context.Canceled)

	games = newGames()
	ctx, cancelAgain := context.WithCancel(t.Context())
	defer cancelAgain()
	late = &lateContext{Context: ctx, then: func() {
		closed(cancelAgain)
		games.Drop()
	}}
	feed = games.Changes(late)
	pairs = take(feed, 1)
	require.ErrorIs(t, pairs[0].err, context.Canceled)
}
