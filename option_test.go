package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

func row1(b board) Selection[int, game] { return b.Row(1) }

func row2(b board) Selection[int, game] { return b.Row(2) }

func from2(b board) Selection[int, game] { return b.From(2) }

// change makes a random change to one of seven rows. It moves the row into and out of
// boardSelections.
func (b board) change(tb testing.TB, random *rand.Rand) {
	tb.Helper()
	for {
		row := game{
			random.IntN(7),
			[]string{"", "Ann", "Bob"}[random.IntN(3)],
			[]int{0, 5, 9, 10, 15, 51, 92}[random.IntN(7)],
		}
		c, err := b.Compute(row.ID, func(*game) *game {
			if random.IntN(4) == 0 {
				return nil
			}
			return &row
		})
		require.NoError(tb, err)
		if c.Kind != None {
			return
		}
	}
}

// A foldedFeed is what a consumer makes of a feed: the rows, as it knows them.
type foldedFeed struct {
	rows map[int]game
	last string
}

// take applies what the feed gives, and fails if it does not fit the rows.
func (f *foldedFeed) take(tb testing.TB, c Change[game], err error) {
	tb.Helper()
	f.last = wordOf(c, err)
	if err != nil || c.Kind == Ready {
		if err != nil && f.last != "dropped" {
			clear(f.rows) // a Resync begins
		}
		return
	}
	row, ok := f.rows[c.Row().ID]
	require.Equal(tb, c.Old != nil, ok, f.last)
	if ok {
		require.Equal(tb, *c.Old, row, f.last)
	}
	if c.New == nil {
		delete(f.rows, c.Old.ID)
	} else {
		f.rows[c.New.ID] = *c.New
	}
}

// "Options can be combined with each other and with every selection": the changes of a
// feed, applied to the rows at its beginning, yield the selection's rows. F1, F2
func TestOptionsOfEverySelection(t *testing.T) {
	t.Parallel()
	random := newRand(t)
	reached := make(map[string]int)
	for _, sel := range boardSelections {
		for begin, begins := range [][]FeedOption{nil, {IncludeInitial()}, nil} {
			for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(0), Buffer(1)}, {OnOverflow(Fail)}, {OnOverflow(Resync), Buffer(7)}} {
				for max := range 4 {
					games := newBoard()
					games.Retain(100)
					rows := func() map[int]game { return sel.rows(games) }
					folded := foldedFeed{rows: make(map[int]game)}
					for i := range 14 {
						if begin == 2 && i == 10 {
							folded.rows = rows()
						}
						games.change(t, random)
					}
					if begin == 0 {
						folded.rows = rows()
					}
					opts := append(append([]FeedOption{Poll(nil)}, begins...), opts...)
					if begin == 2 {
						opts = append(opts, After(games.At(10)))
					}
					feed := sel.of(games).Changes(t.Context(), opts...)
					if max > 0 {
						feed = unbatch(sel.of(games).Batches(t.Context(), max, opts...))
					}
					for range 3 {
						for range 1 + random.IntN(9) {
							games.change(t, random)
						}
						for c, err := range feed {
							folded.take(t, c, err)
							reached[folded.last[:1]]++
							if random.IntN(4) == 0 {
								games.change(t, random)
							}
						}
						require.Equal(t, rows(), folded.rows, "%s, %d, %d options, max %d", sel.name, begin, len(opts), max)
					}
					games.Drop()
					for c, err := range feed {
						folded.take(t, c, err)
					}
					require.Equal(t, "dropped", folded.last)
				}
			}
		}
	}
	requireOutcomes(t, reached, "+", "-", "r", "s", "1", "2")
}

// rows returns the selection's rows, found one by one.
func (s boardSelection) rows(b board) map[int]game {
	rows := maps.Collect(b.All())
	maps.DeleteFunc(rows, func(_ int, g game) bool { return !s.has(&g) })
	return rows
}

// "Initial and Ready" in JSON, and the names of kinds and policies.
func TestOptionsSpeak(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	var text []string
	for _, p := range take(games.Changes(t.Context(), IncludeInitial()), 2) {
		line, err := json.Marshal(p.v)
		require.NoError(t, err)
		text = append(text, string(line))
	}
	require.Equal(t, []string{`{"new_val":{"id":1}}`, `{"state":"ready"}`}, text)
	require.Nil(t, Change[game]{Kind: Ready}.Row())
	require.Equal(t, "initial ready", fmt.Sprint(Initial, " ", Ready))
	require.Equal(t, "skip fail resync Overflow(9)", fmt.Sprint(Skip, " ", Fail, " ", Resync, " ", Overflow(9)))
	require.Zero(t, Skip, "the default")
}

// The present rows come first, then one Ready, then changes. They are outside the buffer.
// A break or a panic in the loop's body pauses the feed, a drop takes no row from it, and
// the end of its context comes before the next row. F2, F4
func TestIncludeInitial(t *testing.T) {
	initial := []FeedOption{IncludeInitial()}
	runScripts(t, []feedTest{
		{name: "rows, Ready, changes", opts: initial, do: `
			put 3 1 2; open; info: [feed: initial rows to come, buffered 0/100000, delivered 0, skipped 0, seq 3]
			put 4; delete 1; read 6: row1 row2 row3 ready3 +4 -5; info: [feed: buffered 0/100000, delivered 2, skipped 0, seq 5]`},
		{name: "waits after Ready", opts: initial, do: "put 1 2; open; loop: row1 row2 ready2; write 1: 3; drop: dropped"},
		{name: "missing row", of: row2, opts: initial, do: "put 1; open; put 2; drop; read: ready1 +2 dropped"},
		{name: "no rows", opts: initial, polls: true, do: "open; read: ready0; put 1: wake; read: +1"},
		{name: "break and panic", opts: initial, do: `
			put 1 2 3; open; delete 3; read 1: row1; at 1 panic; read: row2 panic; at 2 panic; read: row3 ready3 panic; drop; read: -4 dropped`},
		{name: "writes while rows are read", opts: initial, polls: true, do: `
			put 1 2 3; open; at 1 tx delete 2, put 7; at 3 set 1 9; at 4 put 8; read: row1 row2 row3 ready3 -4 +5 6 +7`},
		{name: "overflow before", opts: []FeedOption{IncludeInitial(), Buffer(2)}, polls: true, do: `
			put 1 2 3; open; write 5; read: row1 row2 row3 ready3 skip3(4-6) 7 8`},
		{name: "overflow while rows are read", opts: []FeedOption{IncludeInitial(), Buffer(2)}, polls: true, do: `
			put 1 2 3; open; at 2 write 5; read: row1 row2 row3 ready3 skip3(4-6) 7 8`},
		{name: "drop", opts: initial, do: `
			put 1 2 3; open; delete 3; at 2 drop; read: row1 row2 row3 ready3 -4 dropped; read: dropped; info: []`},
		{name: "drop and break", opts: initial, do: "put 1 2; open; at 1 drop; read 1: row1; read: row2 ready2 dropped"},
		{name: "cancel before", opts: initial, do: "put 1 2; open; cancel; read: context canceled; info: []"},
		{name: "cancel", opts: initial, do: `
			put 1 2 3; open; at 2 cancel; read: row1 row2 context canceled; read: context canceled; info: []`},
		{name: "cancel and break", opts: initial, do: "put 1 2 3; open; at 2 cancel; read 2: row1 row2; read: context canceled"},
		{name: "cancel at Ready", opts: initial, do: "put 1; open; put 2; at 2 cancel; read: row1 ready1 context canceled"},
	}...)
}

// optionSnapshot inserts a row. After release deletes it, only a snapshot retains it.
func optionSnapshot(tb testing.TB, games *Table[int, game]) (release func() weak.Pointer[game]) {
	row := weak.Make(must[game](&testing.T{})(games.Insert(game{ID: 7})).New)
	return func() weak.Pointer[game] {
		_, err := games.Delete(7)
		require.NoError(tb, err)
		return row
	}
}

// A feed retains the snapshot of its initial rows until Ready, or until its context ends,
// although the stream is still referred to. F4
func TestTheSnapshotIsReleased(t *testing.T) {
	for _, test := range []struct {
		name string
		use  func(feed Stream[Change[game]], cancel func())
		held bool
	}{
		{"not ranged", func(Stream[Change[game]], func()) {}, true},
		{"before Ready", func(feed Stream[Change[game]], _ func()) { wordsOf(feed, 2) }, true},
		{"after Ready", func(feed Stream[Change[game]], _ func()) { wordsOf(feed, 4) }, false}, // the notice: else its page would hold the delete
		{"cancelled, not ranged", func(_ Stream[Change[game]], cancel func()) { cancel() }, false},
		{"cancelled among the rows", func(feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
		}, false},
		{"cancelled and ranged", func(feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
			allOf(feed)
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			games := newGames()
			insertRows(t, games, 1)
			deleted := optionSnapshot(t, games)
			feed := games.Changes(ctx, IncludeInitial(), Buffer(1))
			row := deleted()
			feedWrites(t, games, 2*maxPage) // the change is not held any more
			test.use(feed, cancel)
			if test.held {
				runtime.GC()
				runtime.GC()
				require.NotNil(t, row.Value())
			} else {
				collected(t, "the row is held", func() bool { return row.Value() == nil })
			}
			runtime.KeepAlive(feed)
			runtime.KeepAlive(games)
		})
	}
}

// A stream that becomes unreachable among its rows is released with its snapshot.
func TestAForgottenSnapshotIsReleased(t *testing.T) {
	games := newGames()
	deleted := optionSnapshot(t, games)
	feed := games.Changes(t.Context(), IncludeInitial(), Buffer(1))
	row := deleted()
	require.Empty(t, wordsOf(feed, 0))
	runtime.KeepAlive(feed)
	feed = nil
	collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(games)
}

// A feed with After continues after that change. What is not retained is one SkippedError.
// Retain retains exactly the newest changes. They do not use up the buffer. F1, R2
func TestAfter(t *testing.T) {
	words := func(from, to int) string { return strings.Join(writeWords(from, to), " ") }
	runScripts(t, []feedTest{
		{name: "all is retained", after: new(3), do: `
			retain 5; write 6; open; info: [feed: buffered 3/100000, delivered 0, skipped 0, seq 3]; write 1; drop; read: 4 5 6 7 dropped`},
		{name: "some is retained", after: new(0), do: `
			retain 5; write 6; open; info: [feed: buffered 5/100000, delivered 0, skipped 1, seq 0]
			read 3: skip1(1-1) 2 3; info: [feed: buffered 3/100000, delivered 2, skipped 1, seq 3]`},
		{name: "on several pages", after: new(2), do: "retain 40; write 30; open; drop; read: " + words(3, 30) + " dropped"},
		{name: "exactly", after: new(0), do: "retain 5; write 30; open; drop; read: skip25(1-25) 26 27 28 29 30 dropped"},
		{name: "of a row", of: row2, after: new(0), do: "retain 3; put 1 2 3; set 2 5; set 2 6; open; drop; read: skip2(1-2) 4 5 dropped"},
		{name: "of a range", of: from2, after: new(1), do: "retain 9; put 1 3 0 4; delete 3; open; drop; read: +2 +4 -5 dropped"},
		{name: "nothing is retained", after: new(3), do: "write 5; open; loop: skip2(4-5); write 1: 6; drop: dropped"},
		{name: "of a row, nothing is retained", of: row1, after: new(3), do: "write 5; open; loop: skip2(4-5); write 1: 6; drop: dropped"},
		{name: "at the present", after: new(5), do: "write 5; open; loop; write 1: 6; drop: dropped"},
		{name: "Retain of a negative number", after: new(0), do: "retain -3; write 5; open; loop: skip5(1-5)"},
		{name: "a larger Retain", after: new(0), do: "retain 2; write 5; retain 9; write 1; open; drop; read: skip3(1-3) 4 5 6 dropped"},
		{name: "a smaller Retain", after: new(0), do: "retain 5; write 5; retain 2; retain 5; open; drop; read: skip3(1-3) 4 5 dropped"},
		{name: "Retain ends", after: new(0), do: "retain 5; write 5; retain 0; retain 5; write 1; open; drop; read: skip5(1-5) 6 dropped"},
		{name: "a dropped table", after: new(0), do: "retain 5; write 5; drop; open; read: dropped; read: dropped"},
		{name: "others write", opts: []FeedOption{Buffer(1)}, after: new(0), do: "retain 5; write 5; open; write 1; drop; read: +1 2 3 4 5 6 dropped"},
		{name: "a larger buffer", opts: []FeedOption{Buffer(20)}, after: new(1), do: "retain 3; write 3; open; write 18; drop; read: " + words(2, 21) + " dropped"},
		{name: "a huge buffer", opts: []FeedOption{Buffer(math.MaxInt)}, after: new(0), do: `
			retain 9; write 3; open; info: [feed: buffered 3/8796093022208, delivered 0, skipped 0, seq 0]; read 3: +1 2 3`},
		{name: "the buffer is for what comes later, and it polls", opts: []FeedOption{Buffer(2)}, after: new(2), polls: true, do: `
			retain 10; write 10; open; write 2; read 9: 3 4 5 6 7 8 9 10 11 wake; read 1: 12; write 2: wake; read: 13 14
			info: [feed: buffered 0/2, delivered 12, skipped 0, seq 14]; write 5: wake; read: skip3(15-17) 18 19`},
		{name: "the buffer is for what comes later, and it waits", opts: []FeedOption{Buffer(2)}, after: new(2), do: `
			retain 10; write 10; open; write 2; read 1: 3; loop: 4 5 6 7 8 9 10 11 12; break; write 1: 13
			info: [feed: buffered 0/2, delivered 11, skipped 0, seq 13]; write 5; drop; read: skip3(14-16) 17 18 dropped`},
		{name: "a gap with Skip", opts: []FeedOption{OnOverflow(Skip), Buffer(1)}, after: new(1), do: "retain 2; write 5; open; drop; read: skip2(2-3) 4 5 dropped"},
		{name: "a gap with Fail", opts: []FeedOption{OnOverflow(Fail), Buffer(1)}, after: new(1), do: "retain 2; write 5; open; read: skip2(2-3); info: []"},
		{name: "a gap with Resync", opts: []FeedOption{OnOverflow(Resync), Buffer(1)}, after: new(1), polls: true, do: `
			retain 2; write 5; open; read: skip4(2-5) row1 ready5; write 1: wake; read: 6`},
		{name: "no gap with Resync", opts: []FeedOption{OnOverflow(Resync)}, after: new(0), do: "retain 3; write 3; open; drop; read: +1 2 3 dropped"},
	}...)
}

// While Retain is called, feeds begin and changes are made, each feed continues where it
// says, without a hole. Run with -race. F1, F2
func TestRetainWhileFeedsBegin(t *testing.T) {
	games := newGames()
	games.Retain(50)
	var writer, readers sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() {
		for i := range 5000 {
			_, _ = games.Upsert(game{ID: i % 3, Score: i + 1})
			if i%7 == 0 {
				games.Retain(20 + i%50)
			}
		}
		close(done)
	})
	for range 2 {
		readers.Go(func() {
			for over := false; !over; {
				select {
				case <-done:
					over = true
				default:
				}
				after := games.Seq()
				next := after + 1
				for c, err := range games.Changes(t.Context(), After(games.At(after)), Poll(nil)) {
					if skipped, ok := errors.AsType[*SkippedError](err); ok {
						if skipped.From != next || skipped.To-skipped.From+1 != skipped.Count {
							t.Errorf("%+v before %d", skipped, next)
						}
						next = skipped.To + 1
						continue
					}
					if c.Seq != next {
						t.Errorf("%d in place of %d", c.Seq, next)
					}
					if next++; next > after+30 {
						break
					}
				}
				runtime.Gosched()
			}
		})
	}
	writer.Wait()
	readers.Wait()
}

// sixUpdates begins a script: of three rows, each changes twice after the feed began.
const sixUpdates = "put 1 2 3; open; set 1 1; set 2 2; set 3 3; set 1 4; set 2 5; set 3 6; "

// Skip continues with the changes that are left. Fail ends the feed with the SkippedError,
// and discards them. Resync begins anew with the present rows: its notice counts all that
// was unread, up to Ready. F1, F2
func TestOnOverflow(t *testing.T) {
	two := func(opts ...FeedOption) []FeedOption { return append(opts, Buffer(2)) }
	fail, resync := two(OnOverflow(Fail)), two(OnOverflow(Resync))
	runScripts(t, []feedTest{
		{name: "default", opts: two(), polls: true, do: sixUpdates + `
			read: skip4(4-7) 8 9; set 2 99: wake; read: 10; info: [feed: buffered 0/2, delivered 3, skipped 4, seq 10]`},
		{name: "the last policy counts", opts: two(OnOverflow(Fail), OnOverflow(Resync), OnOverflow(Skip)), polls: true, do: sixUpdates + `
			read: skip4(4-7) 8 9; set 2 99: wake; read: 10`},
		{name: "Fail", opts: fail, polls: true, do: sixUpdates + "read 1: skip4(4-7); put 4; read: skip4(4-7); cancel; read: skip4(4-7); info: []"},
		{name: "Fail after the rows", opts: two(OnOverflow(Fail), IncludeInitial()), do: sixUpdates + "read: row1 row2 row3 ready3 skip4(4-7)"},
		{name: "Resync", opts: resync, polls: true, do: sixUpdates + `
			read: skip6(4-9) row1 row2 row3 ready9; info: [feed: buffered 0/2, delivered 0, skipped 6, seq 9]; set 2 99: wake; read: 10`},
		{name: "Resync after the rows", opts: two(OnOverflow(Resync), IncludeInitial()), polls: true, do: sixUpdates + `
			read: row1 row2 row3 ready3 skip6(4-9) row1 row2 row3 ready9; set 2 99: wake; read: 10`},
		{name: "Resync of a row without overflow", of: row2, opts: resync, polls: true, do: sixUpdates + "read: 5 8; set 2 99: wake; read: 10"},
		{name: "Skip of a part", of: from2, opts: two(), polls: true, do: sixUpdates + "read: skip2(4-7) 8 9; set 2 99: wake; read: 10"},
		{name: "Fail of a part", of: from2, opts: fail, polls: true, do: sixUpdates + "read: skip2(4-7)"},
		{name: "Resync of a part", of: from2, opts: resync, polls: true, do: sixUpdates + "read: skip4(4-9) row2 row3 ready9; set 2 99: wake; read: 10"},
		{name: "Resync of a row that is gone", of: row1, opts: resync, polls: true, do: sixUpdates + "delete 1 3; read: skip3(4-11) ready11; put 4"},
		{name: "Resync of a dropped table", opts: resync, do: sixUpdates + "drop; read: skip4(4-7) 8 9 dropped"},
		{name: "Fail of a dropped table", opts: fail, do: sixUpdates + "drop; read: skip4(4-7); read: skip4(4-7)"},
		{name: "Resync again at the notice", opts: resync, polls: true, do: `
			put 1 2; open; write 5; at 1 write 5; read: skip5(3-7) row1 row2 ready7 skip5(8-12) row1 row2 ready12`},
		{name: "Resync again at Ready", opts: resync, polls: true, do: `
			put 1 2; open; write 5; at 4 write 5; read: skip5(3-7) row1 row2 ready7 skip5(8-12) row1 row2 ready12`},
		{name: "Resync and changes", opts: resync, do: `
			put 1 2; open; write 5; read 2: skip5(3-7) row1; info: [feed: initial rows to come, buffered 0/2, delivered 0, skipped 5, seq 7]
			write 2; info: [feed: initial rows to come, buffered 2/2, delivered 0, skipped 5, seq 7]; drop; read: row2 ready7 8 9 dropped`},
	}...)
}

// The SkippedError of Fail is final: the last pair of its range, and the only pair of every
// later one, also if the loop breaks there. The feed retains nothing. F4
func TestFailEndsTheFeed(t *testing.T) {
	for _, breaks := range []int{1, -1} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		games := newGames()
		feed := games.Changes(ctx, Buffer(1), OnOverflow(Fail))
		held := holdBacklog(t, games)
		first := take(feed, breaks)
		require.Len(t, first, 1)
		require.Equal(t, pair[Change[game]]{err: &SkippedError{Count: 1, From: 1, To: 1, Table: "games"}}, first[0])
		for range 2 {
			require.Equal(t, first, take(feed, breaks))
		}
		require.Empty(t, games.Feeds())
		require.Empty(t, games.allScope.ring.pages)
		require.False(t, held.sub.Value().unhook(), "the hook was in the context")
		collected(t, "a page is held", func() bool { return held.page.Value() == nil })
		collected(t, "a row is held", func() bool { return held.row.Value() == nil })
		runtime.KeepAlive(feed)
		runtime.KeepAlive(games)
	}
}

// A feed that fails and has a scope of its own removes the scope.
func TestFailLeavesNoScopeBehind(t *testing.T) {
	games := newBoard()
	for _, sel := range []Selection[int, game]{games.Row(1), games.Range(1, 3), games.scores.Equal(0)} {
		feed := sel.Changes(t.Context(), Buffer(1), OnOverflow(Fail))
		insertRows(t, games.Table, 1)
		must[game](t)(games.Delete(1))
		end := games.Seq()
		require.Equal(t, fmt.Sprintf("skip1(%d-%d)", end-1, end-1), allOf(feed))
		require.Zero(t, games.rows.tree.Len())
		require.Nil(t, games.ranges.root)
		require.Nil(t, games.scores.scopes.root)
	}
}

// The snapshot of a Resync is released like that of IncludeInitial.
func TestTheSnapshotOfAResyncIsReleased(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	deleted := optionSnapshot(t, games)
	feed := games.Changes(t.Context(), Buffer(1), OnOverflow(Resync))
	feedWrites(t, games, 2)
	require.Equal(t, "skip2(3-4) row1", wordsOf(feed, 2))
	row := deleted()
	feedWrites(t, games, 2*maxPage)
	runtime.GC()
	require.NotNil(t, row.Value())
	require.Equal(t, "row7 ready4", wordsOf(feed, 2))
	require.True(t, strings.HasPrefix(wordsOf(feed, 1), "skip")) // and it leaves the page with the delete
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(feed)
	runtime.KeepAlive(games)
}

// A context that ends while a feed waits for the lock to resync comes before its notice, and
// the feed retains no rows.
func TestResyncOfAFeedWhoseContextEnds(t *testing.T) {
	games := newGames()
	ctx, cancel := context.WithCancel(t.Context())
	feed := games.Changes(ctx, Buffer(2), OnOverflow(Resync))
	feedWrites(t, games, 10)
	sub := games.allSubscriptions()[0]
	got := make(chan string)
	games.mu.Lock()
	go func() { got <- allOf(feed) }()
	for sub.window.skipped.Load() == 0 {
		runtime.Gosched() // until it has seen the gap, and waits for the lock
	}
	cancel()
	for sub.window.page.Load() != nil {
		runtime.Gosched()
	}
	games.mu.Unlock()
	require.Equal(t, "context canceled", <-got)
	require.Nil(t, sub.initial.Load())
}

// Options that cannot be, alone or together, are refused with a message that names them.
// Of an option given twice the last counts.
func TestOptionsThatAreRefused(t *testing.T) {
	const both = "After with IncludeInitial: a stream begins either after a position or with the present rows"
	for _, test := range []struct {
		want string // "": they are not refused
		max  int    // of Batches
		opts []FeedOption
	}{
		{both, 3, []FeedOption{After(Position{}), IncludeInitial()}},
		{both, 3, []FeedOption{IncludeInitial(), After(Position{})}},
		{"Squash(-1s): must not be negative", 3, []FeedOption{Squash(-time.Second)}},
		{"Squash(-1ns): must not be negative", 3, []FeedOption{Squash(0), Squash(-1)}},
		{"", 3, []FeedOption{Squash(-1), Squash(0)}},
		{"OnOverflow(Overflow(3)): must be Skip, Fail or Resync", 3, []FeedOption{OnOverflow(Resync + 1)}},
		{"OnOverflow(Overflow(9)): must be Skip, Fail or Resync", 3, []FeedOption{OnOverflow(Fail), OnOverflow(9)}},
		{"", 3, []FeedOption{OnOverflow(9), OnOverflow(Fail)}},
		{"", 3, []FeedOption{After(Position{Seq: 99}), After(Position{})}},
		{"", 3, []FeedOption{OnOverflow(Resync), Squash(0)}},
		{"Buffer(0): must be at least 1", 3, []FeedOption{Buffer(0), Squash(0)}},
		{"Batches with max 0: must be at least 1", 0, nil},
		{"Batches with max -1: must be at least 1", -1, []FeedOption{Poll(nil)}},
		{"", 3, []FeedOption{Buffer(1), Named("a"), IncludeInitial(), Squash(0), Poll(nil)}},
		{"", 3, []FeedOption{Buffer(1), Named("a"), After(Position{}), OnOverflow(Fail), Poll(nil)}},
	} {
		games := newBoard()
		feedWrites(t, games.Table, 1)
		for _, sel := range boardSelections {
			streams := []Stream[Change[game]]{unbatch(sel.of(games).Batches(t.Context(), test.max, test.opts...))}
			if test.max > 0 {
				streams = append(streams, sel.of(games).Changes(t.Context(), test.opts...))
			}
			if test.want == "" {
				require.Len(t, games.Feeds(), 2, sel.name)
				runtime.KeepAlive(streams)
				for _, s := range games.allSubscriptions() {
					s.forget()
				}
				continue
			}
			require.Empty(t, games.Feeds())
			for _, s := range append(streams, streams...) {
				pairs := take(s, -1)
				require.Len(t, pairs, 1)
				require.Zero(t, pairs[0].v)
				require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
				require.EqualError(t, pairs[0].err, `changefeed: changes of "games": invalid option: `+test.want)
			}
		}
	}
}
