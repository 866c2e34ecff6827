package changefeed

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// A set has all rows changed since the last set, each once, in order of their newest
// change. Equal rows are left out, also rows that came and went. The rows 1, 2 and 3 are
// there at first, and the changes begin with 4.
func TestSquashedSets(t *testing.T) {
	t.Parallel()
	var tests []feedTest
	for _, test := range []struct{ writes, want string }{
		{"set 1 1", "4"},
		{"set 1 1; set 1 2; set 1 3", "6"},
		{"set 1 1; set 1 0", ""}, // an equal row
		{"put 4", "+4"},
		{"put 4; set 4 1; set 4 2", "+6"},
		{"put 4; delete 4", ""},
		{"put 4; set 4 1; set 4 2; delete 4", ""},
		{"put 4; delete 4; put 4", "+6"},
		{"delete 1", "-4"},
		{"set 1 1; set 1 2; delete 1", "-6"},
		{"delete 1; put 1", ""},
		{"delete 1; put 1; set 1 1", "6"},
		{"delete 1; put 1; delete 1", "-6"},
		{"set 1 1; set 2 1; set 3 1; set 1 2; put 4; set 2 2", "6 7 +8 9"},
		{"set 3 1; set 2 1; set 1 1", "4 5 6"}, // not in order of keys
		{"set 1 1; put 4; delete 4", "4"},
		{"put 4; set 1 1; delete 4; set 2 1; delete 3; set 1 0", "7 -8"},
	} {
		seq := 4 + strings.Count(test.writes, ";")
		info := fmt.Sprintf("info: [feed: buffered 0, delivered %d, skipped 0, seq %d]; ", len(strings.Fields(test.want)), seq)
		tests = append(tests, feedTest{name: test.writes, opts: []FeedOption{Squash(0)}, polls: true, do: "put 1 2 3; open; " + test.writes +
			"; read: " + test.want + "; read; " + info + fmt.Sprintf("set 2 9: wake; read: %d", seq+1)})
	}
	squash := []FeedOption{Squash(0)}
	runScripts(t, append(tests, []feedTest{
		{name: "many updates and a small buffer", opts: []FeedOption{Squash(0), Buffer(1)}, do: `
			put 1 2; open; write 100000; set 2 5; write 100000; info: [feed: buffered 2, delivered 0, skipped 0, seq 2]; drop; read: 100003 200003 dropped`},
		{name: "break in a set", opts: squash, polls: true, do: `
			put 1 2 3; open; set 1 1; set 2 1; set 3 1; at 2 tx set 1 2, set 2 2, set 3 2, set 3 3; read 2: 4 5 wake
			info: [feed: buffered 4, delivered 2, skipped 0, seq 5]; read 1: 6 wake; read: 7 8 10`},
		{name: "panic in a set", opts: squash, polls: true, do: `
			put 1 2 3; open; set 1 1; set 2 1; set 3 1; at 1 panic; read: 4 panic wake; set 1 2; read: 5 6 7`},
		{name: "rows and sets", opts: []FeedOption{Squash(0), IncludeInitial()}, polls: true, do: `
			put 1 2 3; open; set 1 1; set 1 2; delete 2; put 4; at 2 tx delete 4, put 2, delete 3; read: row1 row2 row3 ready3 5 -10`},
		{name: "rows and sets, at Ready", opts: []FeedOption{Squash(0), IncludeInitial()}, polls: true, do: `
			put 1 2 3; open; set 1 1; set 1 2; delete 2; put 4; at 4 tx delete 4, put 2, delete 3; read: row1 row2 row3 ready3 5 -10`},
	}...)...)
}

// A squashNote is a row whose Equal does not look at its note, and panics at will.
type squashNote game

func (n squashNote) Equal(other squashNote) bool {
	if n.Player == "panic" && other.Player == "panic too" {
		panic("in Equal")
	}
	return n.Score == other.Score && n.ID == other.ID
}

func newSquashNotes(t *testing.T) (notes *Table[int, squashNote], write func(id, score int, note string)) {
	notes = NewTable("notes", func(n *squashNote) int { return n.ID })
	return notes, func(id, score int, note string) { must[squashNote](t)(notes.Upsert(squashNote{id, note, score})) }
}

// "Equal ones are left out", by the row's own Equal, as for a write.
func TestSquashLeavesOutWhatIsEqualByTheRowsEqual(t *testing.T) {
	notes, write := newSquashNotes(t)
	write(1, 1, "a")
	write(2, 1, "a")
	feed := notes.Changes(t.Context(), Squash(0), Poll(nil))
	write(1, 2, "b")
	write(2, 2, "b")
	write(1, 1, "c")
	require.Equal(t, []pair[Change[squashNote]]{{v: Change[squashNote]{4, Update, &squashNote{2, "a", 1}, &squashNote{2, "b", 2}}}}, take(feed, -1))
	info := notes.Feeds()[0]
	require.Equal(t, FeedInfo{ID: info.ID, Delivered: 1, Seq: 5}, figures(info))
}

// A panic in Equal reaches the loop's caller. Its change counts as delivered, and the
// rest of the set is not lost. No lock is held.
func TestAPanicInEqualWhileASetIsDelivered(t *testing.T) {
	notes, write := newSquashNotes(t)
	for id := range 3 {
		write(id, 1, "panic")
	}
	feed := notes.Changes(t.Context(), Squash(0), Poll(nil))
	for id, note := range []string{"c", "panic too", "c"} {
		write(id, 2, "b")
		write(id, 3, note) // only the reader compares it with the row of the last set
	}
	var got []uint64
	read := func() {
		for c, err := range feed {
			require.NoError(t, err)
			got = append(got, c.Seq)
		}
	}
	require.PanicsWithValue(t, "in Equal", read)
	require.Equal(t, []uint64{5}, got)
	info := notes.Feeds()[0]
	require.Equal(t, FeedInfo{ID: info.ID, Buffered: 1, Delivered: 1, Seq: info.Seq}, figures(info))
	write(0, 4, "d")
	read()
	require.Equal(t, []uint64{5, 9, 10}, got)
}

// A squash retains at most one change for each row: not a row that came and went, and
// nothing that was delivered.
func TestSquashHoldsOneChangeARow(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Squash(0), Poll(nil))
	q := games.allSubscriptions()[0].squash
	rowOf := func(c Change[game], err error) weak.Pointer[game] {
		require.NoError(t, err)
		return weak.Make(c.New)
	}
	vanished := rowOf(games.Insert(game{ID: 7}))
	must[game](t)(games.Delete(7))
	require.Zero(t, q.rows.Len())
	require.Zero(t, games.Feeds()[0].Buffered)
	collected(t, "a row that vanished is held", func() bool { return vanished.Value() == nil })

	between := rowOf(games.Insert(game{ID: 7, Score: 1}))
	must[game](t)(games.Replace(game{ID: 7, Score: 2}))
	must[game](t)(games.Replace(game{ID: 7, Score: 3}))
	collected(t, "a row between is held", func() bool { return between.Value() == nil })
	require.Equal(t, "+5", allOf(feed))
	last := weak.Make(stored(games, 7))
	must[game](t)(games.Delete(7))
	require.NotNil(t, last.Value())
	require.Equal(t, "-6", allOf(feed))
	collected(t, "a row that was handed out is held", func() bool { return last.Value() == nil })
	runtime.KeepAlive(feed)

	blobs := newBlobs()
	_, err := blobs.Insert(blob{1})
	require.NoError(t, err)
	squashed := blobs.Changes(t.Context(), Squash(0))
	require.Less(t, heldBy(func() { writeBlobs(t, blobs, 10_000) }), 10_000)
	runtime.KeepAlive(squashed)
}

// A loop waits until the wait is over after the first change of a set, and not longer.
// With Poll, wake gets a value at that moment, and a range finds the set. F3, F4
func TestSquashWaits(t *testing.T) {
	for _, test := range []struct{ name, do string }{
		{"one change", "set 1 1; sleep 9.9s; sleep 100ms: 2"},
		{"the first change counts", "set 1 1; sleep 4s; set 1 2; sleep 5.9s; put 2; sleep 99ms; sleep 1ms: 3 +4"},
		{"two sets", "set 1 1; sleep 10s: 2; set 1 2; sleep 2s; set 1 3; sleep 7.9s; sleep 100ms: 4"},
		{"a long pause", "sleep 100s; set 1 1; sleep 9.9s; sleep 100ms: 2"},
		{"a row that vanished begins no set", "put 2; delete 2; sleep 4s; set 1 1; sleep 9.9s; sleep 100ms: 4"},
		{"a row that vanishes late begins no set", "put 2; sleep 1s; delete 2; sleep 3s; set 1 1; sleep 9.9s; sleep 100ms: 4"},
		{"only a row that vanished", "put 2; sleep 1s; delete 2; sleep 1h"},
		{"vanished twice", "put 2; sleep 1s; delete 2; sleep 1s; put 2; sleep 1s; delete 2; sleep 8s; set 1 1; sleep 9.9s; sleep 100ms: 6"},
		{"an equal row, and another", "set 1 1; set 1 0; sleep 9.9s; put 2; sleep 100ms: +4"},
		{"drop", "sleep 3s; drop: dropped"},
		{"drop before a set is due", "set 1 1; sleep 2s; drop; sleep 7.9s; sleep 100ms: 2 dropped"},
		{"drop after a row that vanished", "put 2; sleep 1s; delete 2; sleep 1s; drop: dropped"},
		{"cancel", "sleep 3s; cancel: context canceled"},
		{"cancel before a set is due", "set 1 1; sleep 2s; cancel: context canceled; sleep 1h"},
		{"cancel after a drop", "set 1 1; sleep 2s; drop; sleep 1s; cancel: context canceled"},
	} {
		wait := []FeedOption{Squash(10 * time.Second)}
		runScripts(t, []feedTest{
			{name: test.name, opts: wait, do: "put 1; open; loop; " + test.do},
			{name: test.name + ", polls", opts: wait, polls: true, do: "put 1; open; read; " + strings.ReplaceAll(test.do, ": ", ": wake; read: ")},
		}...)
	}
	runScripts(t, []feedTest{
		{name: "an equal row is due, and left out", opts: []FeedOption{Squash(10 * time.Second)}, do: `
			put 1; open; loop; set 1 1; set 1 0; sleep 10s; sleep 1s; set 1 1; sleep 9.9s; sleep 100ms: 4`},
		{name: "read late", opts: []FeedOption{Squash(10 * time.Second)}, polls: true, do: `
			open; put 1; sleep 9.9s; sleep 99ms; sleep 999999ns; read; sleep 1ns: wake; read: +1; set 1 1; sleep 1m: wake; set 1 2; read: 3
			set 1 3; read; drop; read; sleep 10s: wake; read: 4 dropped; read: dropped`},
		{name: "read late, without a range", opts: []FeedOption{Squash(10 * time.Second)}, polls: true, do: "open; put 1; sleep 1m; put 2; read: +1 +2"},
	}...)
}

// Each of several squashes of one scope is woken when its own set is due, beside a feed
// that gets each change. F3
func TestSquashesWithDifferentWaits(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		insertRows(t, games, 1)
		var loops []*follower
		for wait := range 6 {
			loops = append(loops, follow(games.Row(1).Changes(t.Context(), Squash(time.Duration(wait)*time.Second)), nil))
		}
		each := follow(games.Row(1).Changes(t.Context()), nil)
		synctest.Wait()
		for round := range 3 {
			feedWrites(t, games, 1)
			for second := range 7 {
				synctest.Wait()
				for wait, loop := range loops {
					sets := round
					if second >= wait {
						sets++
					}
					require.Len(t, strings.Fields(loop.String()), sets, "wait %d, second %d", wait, second)
				}
				time.Sleep(time.Second)
			}
		}
		require.Equal(t, "2 3 4", each.String())
		games.Drop()
		synctest.Wait()
		for _, loop := range loops {
			require.Equal(t, "2 3 4 dropped", loop.String())
		}
	})
}

// After a position, the retained changes come one by one, and those after them are squashed. A
// notice of what is not retained comes first.
func TestSquashAfter(t *testing.T) {
	var tests []feedTest
	for _, test := range []struct {
		retain, after int
		wait          time.Duration
		want          string
	}{
		{100, 0, 0, "+1 +2 3 4 +5 6 7"},
		{100, 4, 0, "+5 6 7"},
		{100, 5, 0, "6 7"},
		{100, 6, 0, "7"},
		{4, 0, 0, "skip2(1-2) 3 4 +5 6 7"},
		{0, 0, 0, "skip6(1-6) 7"},
		{100, 4, time.Hour, "+5 6"},
	} {
		tests = append(tests, feedTest{
			name: fmt.Sprint(test), opts: []FeedOption{Squash(test.wait)}, after: new(test.after), polls: true,
			do: fmt.Sprintf("retain %d; put 1 2; set 1 1; set 1 2; put 3; set 3 1; open; set 2 1; read: %s; sleep 1m; read", test.retain, test.want),
		})
	}
	runScripts(t, append(tests, []feedTest{
		{name: "the next set waits", opts: []FeedOption{Squash(time.Hour)}, after: new(0), polls: true, do: `
			retain 9; put 1; open; read: +1; set 1 1; read; sleep 59m; sleep 1m: wake; read: 2`},
		{name: "figures", opts: []FeedOption{Squash(0)}, after: new(1), polls: true, do: `
			retain 3; put 1 2 3 4 5; open; info: [feed: buffered 3, delivered 0, skipped 1, seq 1]
			read 2: skip1(2-2) +3 wake; info: [feed: buffered 2, delivered 1, skipped 1, seq 3]
			read: +4 +5; info: [feed: buffered 0, delivered 3, skipped 1, seq 5]`},
	}...)...)
}

// A set with changes of a transaction is not divided, but a set without one is. A
// transaction that left no row in the set has no part in it.
func TestABatchOfASquashedTransactionIsNotDivided(t *testing.T) {
	nobody := func(b board) Selection[int, game] { return b.players.Equal("") }
	squash := []FeedOption{Squash(0)}
	runScripts(t, []feedTest{
		{name: "single writes", max: 2, opts: squash, polls: true, do: "open; put 1 2 3; read: [+1 +2] [+3]"},
		{name: "a transaction", max: 2, opts: squash, polls: true, do: `
			open; tx put 1 2 3; read: [+1 +2 +3]; put 4 5 6: wake; read: [+4 +5] [+6]`},
		{name: "of a part", max: 2, of: nobody, opts: squash, polls: true, do: `
			open; put 4; tx put 1 2; read: [+1 +2 +3]; put 5 6 7: wake; read: [+4 +5] [+6]`},
		{name: "of one write", max: 2, opts: squash, polls: true, do: "open; tx put 1; put 2 3; read: [+1 +2] [+3]"},
		{name: "others after it", max: 2, opts: squash, polls: true, do: "open; tx put 1 2 3; put 4; read: [+1 +2 +3 +4]"},
		{name: "it left no row", max: 1, opts: squash, polls: true, do: "open; tx put 1, delete 1; put 2 3; read: [+3] [+4]"},
		{name: "a backlog is not squashed", max: 1, opts: []FeedOption{Squash(0)}, after: new(0), polls: true, do: `
			retain 9; tx put 1, delete 1; put 2 3; open; tx put 4, delete 4; put 5; read: [+1 -2] [+3] [+4] [+7]`},
	}...)
}

// A set has all changes of a transaction or none, also while others write. Run with -race.
func TestASetHasAllOfATransaction(t *testing.T) {
	games := newGames()
	insertRows(t, games, 0, 1)
	feed := games.Changes(t.Context(), Squash(0))
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 2000 {
			_ = Transact(func(tx *Tx) error {
				_, err0 := games.In(tx).Replace(game{ID: 0, Score: i + 1})
				_, err1 := games.In(tx).Replace(game{ID: 1, Score: i + 1})
				return errors.Join(err0, err1)
			}, games)
		}
		games.Drop()
	})
	var last [2]int
	sets := 0
	for c, err := range feed {
		if err != nil {
			require.ErrorIs(t, err, ErrTableDropped)
			break
		}
		require.Equal(t, last[c.New.ID], c.Old.Score)
		last[c.New.ID] = c.New.Score
		if c.New.ID == 1 {
			require.Equal(t, last[0], last[1])
			sets++
		}
	}
	writer.Wait()
	require.Equal(t, [2]int{2000, 2000}, last)
	require.Positive(t, sets)
}

// A squashed feed that has ended leaves nothing behind, although the stream is still
// referred to: no subscription, squash, scope or row. F4
func TestAnEndedSquashHoldsNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(games *Table[int, game], feed Stream[Change[game]], cancel func())
	}{
		{"cancelled, not ranged", func(_ *Table[int, game], _ Stream[Change[game]], cancel func()) { cancel() }},
		{"cancelled and ranged", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			cancel()
			allOf(feed)
		}},
		{"cancelled in the middle of a set, and ranged", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
			allOf(feed)
		}},
		{"dropped and drained", func(games *Table[int, game], feed Stream[Change[game]], _ func()) {
			games.Drop()
			allOf(feed)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, part := range []bool{false, true} {
				ctx, cancel := context.WithCancel(t.Context())
				games := newGames()
				sel := games.Selection()
				if part {
					sel = games.Range(0, 10)
				}
				feed := sel.Changes(ctx, Squash(0))
				insertRows(t, games, 1, 5)
				row := weak.Make(stored(games, 5))
				test.end(games, feed, cancel)
				cancel()
				collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
				collected(t, "a squash or a scope is left", func() bool {
					games.mu.RLock()
					defer games.mu.RUnlock()
					return len(games.allScope.squashes) == 0 && games.ranges.root == nil
				})
				_, _ = games.Delete(5)
				collected(t, "a row is held", func() bool { return row.Value() == nil })
				runtime.KeepAlive(feed)
				runtime.KeepAlive(games)
			}
		})
	}
}

// A squash whose subscription has just ended does not retain a change of a writer that does not
// know of the end yet. F4
func TestAnEndedSquashTakesNothing(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Squash(0))
	q := games.allSubscriptions()[0].squash
	q.close()
	insertRows(t, games, 1)
	require.Zero(t, q.rows.Len())
	runtime.KeepAlive(feed)
}

// A scope that has only squashes stores no changes in its ring.
func TestSquashNeedsNoRing(t *testing.T) {
	games := newGames()
	feed := games.Row(1).Changes(t.Context(), Squash(0))
	all := games.Changes(t.Context(), Squash(0))
	feedWrites(t, games, 10)
	require.Empty(t, games.allScope.ring.pages)
	require.Empty(t, scopeOfRow(games, 1).ring.pages)
	runtime.KeepAlive(feed)
	runtime.KeepAlive(all)
}
