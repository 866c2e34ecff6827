package changefeed

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A batch has what is ready, 1 to max changes. Initial and Ready count as changes, and
// errors come alone, in their place. A transaction is never divided.
func TestBatches(t *testing.T) {
	initial, squash := IncludeInitial(), Squash(0)
	rows := func(opts ...FeedOption) []FeedOption { return append(opts, initial) }
	runScripts(t, []feedTest{
		{name: "1", max: 1, do: sixUpdates + "drop; read: [4] [5] [6] [7] [8] [9] dropped; info: []"},
		{name: "4", max: 4, do: sixUpdates + "drop; read: [4 5 6 7] [8 9] dropped"},
		{name: "6", max: 6, do: sixUpdates + "drop; read: [4 5 6 7 8 9] dropped"},
		{name: "many", max: math.MaxInt, do: sixUpdates + "drop; read: [4 5 6 7 8 9] dropped"},
		{name: "of a part", max: 3, of: from2, do: sixUpdates + "drop; read: [5 6 8] [9] dropped"},
		{name: "rows", max: 3, opts: rows(), do: sixUpdates + "drop; read: [row1 row2 row3] [ready3 4 5] [6 7 8] [9] dropped"},
		{name: "rows in one", max: 100, opts: rows(), do: sixUpdates + "drop; read: [row1 row2 row3 ready3 4 5 6 7 8 9] dropped"},
		{name: "rows apart", max: 1, opts: rows(Buffer(1)), do: sixUpdates + "drop; read: [row1] [row2] [row3] [ready3] skip5(4-8) [9] dropped"},
		{name: "a gap", max: 3, opts: []FeedOption{Buffer(4)}, do: sixUpdates + "drop; read: skip2(4-5) [6 7 8] [9] dropped"},
		{name: "a gap between", max: 9, opts: rows(Buffer(4)), do: sixUpdates + "drop; read: [row1 row2 row3 ready3] skip2(4-5) [6 7 8 9] dropped"},
		{name: "Fail", max: 9, opts: rows(Buffer(4), OnOverflow(Fail)), do: sixUpdates + "read: [row1 row2 row3 ready3] skip2(4-5)"},
		{name: "After", max: 4, after: new(1), do: "retain 9; " + sixUpdates + "drop; read: [+2 +3 4 5] [6 7 8 9] dropped"},
		{name: "Squash", max: 2, opts: []FeedOption{squash}, do: sixUpdates + "drop; read: [7 8] [9] dropped"},
		{name: "Squash and rows", max: 2, opts: rows(squash), do: sixUpdates + "drop; read: [row1 row2] [row3 ready3] [7 8] [9] dropped"},
		{name: "Poll", max: 4, polls: true, do: sixUpdates + "read: [4 5 6 7] [8 9]; write 1: wake; read: [10]"},
		{name: "it does not wait for max", max: 3, do: `
			open; loop; write 1: [+1]; tx write 2: [2 3]; tx write 5: [4 5 6 7 8]; cancel: context canceled`},
	}...)
}

// A predicate can write, cancel or panic. Its panic costs the change for which it was
// called. Other changes of the batch come in the next range, with no more than max at a
// time, unless the context is done. A gap that is found while a batch is collected comes
// after the batch, also if the loop breaks there. F1, F3, F4
func TestBatchesOfAPredicate(t *testing.T) {
	small := func(opts ...FeedOption) []FeedOption { return append(opts, Buffer(2)) }
	six := func(p Overflow) []FeedOption { return []FeedOption{Buffer(6), OnOverflow(p)} }
	runScripts(t, []feedTest{
		{name: "panic at the first", max: 3, polls: true, do: "in 1 panic; open; put 1 2 3 4 5 6; read: panic wake; read: [+2 +3 +4] [+5 +6]"},
		{name: "panic at the third", max: 3, polls: true, do: "in 3 panic; open; put 1 2 3 4 5 6; read: panic wake; read: [+1 +2 +4] [+5 +6]"},
		{name: "panic in the second batch", max: 3, polls: true, do: `
			in 4 panic; open; put 1 2 3 4 5 6; read: [+1 +2 +3] panic wake; read: [+5 +6]`},
		{name: "panic at the last", max: 3, polls: true, do: "in 3 panic; open; put 1 2 3; read: panic wake; read: [+1 +2]"},
		{name: "panic in a transaction", max: 1, polls: true, do: "in 2 panic; open; tx put 1, put 2; put 3; read: panic wake; read: [+1] [+3]"},
		{name: "panic, and the context is done", max: 1, polls: true, do: `
			in 2 panic; open; tx put 1, put 2; put 3; read: panic wake; cancel; read: context canceled`},
		{name: "cancel at the first", max: 3, do: "in 1 cancel; in 2 panic; open; put 1 2 3; read: context canceled; read: context canceled; info: []"},
		{name: "cancel at the last", max: 3, do: "in 3 cancel; open; put 1 2 3; read: context canceled; info: []"},
		{name: "cancel between two pages", max: 100, do: "in 2 cancel; in 4 panic; open; write 1; tx write 500; read: context canceled"},
		{name: "Skip and break", max: 9, opts: small(), polls: true, do: `
			in 1 write 5; open; write 1; read 1: [+1] wake; read 1: skip3(2-4) wake; read: [5 6]`},
		{name: "Skip and go on", max: 9, opts: small(), polls: true, do: "in 1 write 5; open; write 1; read: [+1] skip3(2-4) [5 6]"},
		{name: "Fail and break", max: 9, opts: small(OnOverflow(Fail)), polls: true, do: `
			in 1 write 5; open; write 1; read 1: [+1] wake; read: skip3(2-4); read: skip3(2-4)`},
		{name: "Fail and go on", max: 9, opts: small(OnOverflow(Fail)), do: "in 1 write 5; open; write 1; read: [+1] skip3(2-4)"},
		{name: "Resync and break", max: 9, opts: small(OnOverflow(Resync)), polls: true, do: `
			in 1 write 5; open; write 1; read 1: [+1] wake; read 1: skip5(2-6) wake; read: [row1 ready6]`},
		{name: "Resync and go on", max: 9, opts: small(OnOverflow(Resync)), polls: true, do: `
			in 1 write 5; open; write 1; read: [+1] skip5(2-6) [row1 ready6]`},
		// A transaction on two pages, of which the buffer drops the first part while the batch
		// before it is collected, is not delivered in part.
		{name: "Skip between two pages", max: 100, opts: six(Skip), polls: true, do: `
			in 2 write 6; open; write 2; tx write 4; read: [+1 2] skip4(3-6) [7 8 9 10 11 12]`},
		{name: "Fail between two pages", max: 100, opts: six(Fail), polls: true, do: `
			in 2 write 6; open; write 2; tx write 4; read: [+1 2] skip4(3-6)`},
		{name: "Resync between two pages", max: 100, opts: six(Resync), polls: true, do: `
			in 2 write 6; open; write 2; tx write 4; read: [+1 2] skip10(3-12) [row1 ready12]`},
	}...)
}

// A transaction of any length is in one batch, wherever the ring's pages end, and a batch
// is longer than max only for that.
func TestBatchesDoNotDivideATransaction(t *testing.T) {
	t.Parallel()
	lens := []int{2, 3, 5, 8, 63, 64, 65, 300, 1000}
	for before := range 6 {
		for first := range lens {
			max := []int{1, 2, 3, 10, 300}[(before+first)%5]
			games := newBoard()
			feeds := map[string]Stream[[]Change[game]]{
				"all":   games.Batches(t.Context(), max),
				"part":  games.players.From("").Batches(t.Context(), max),
				"where": games.Where(always).Batches(t.Context(), max),
			}
			var want, batch []string
			written := 0
			transact := func(n int) {
				transactWrites(t, games.Table, n)
				batch = append(batch, writeWords(written+1, written+n)...)
				written += n
				if len(batch) >= max {
					want = append(want, "["+strings.Join(batch, " ")+"]")
					batch = nil
				}
			}
			for range before {
				transact(1)
			}
			for _, n := range slices.Concat(lens[first:], lens[:first]) {
				transact(n)
			}
			transact(max) // completes the last batch
			games.Drop()
			for name, feed := range feeds {
				require.Equal(t, strings.Join(want, " ")+" dropped", batchesOf(feed, -1), "%s, max %d, %d before, %d first", name, max, before, lens[first])
			}
		}
	}
}

// Ready is no change of a transaction, wherever on a page of the ring the feed begins.
func TestReadyIsNotPartOfATransaction(t *testing.T) {
	for n := range 28 { // across the ends of pages
		games := newGames()
		games.Retain(n % 2)
		resync := games.Batches(t.Context(), 1, OnOverflow(Resync), Buffer(3))
		n = 4 + n/2
		feedWrites(t, games, n)
		initial := games.Batches(t.Context(), 1, IncludeInitial()) // begins a page if one is full
		require.Equal(t, fmt.Sprintf("skip%d(1-%d) [row1]", n, n), batchesOf(resync, 2))
		transactWrites(t, games, 3)
		games.Drop()
		want := fmt.Sprintf("[ready%d] [%d %d %d] dropped", n, n+1, n+2, n+3)
		require.Equal(t, want, batchesOf(resync, -1))
		require.Equal(t, "[row1] "+want, batchesOf(initial, -1))
	}
}

// A batch is valid until the next element. The loop can modify it, and append to it, and it
// is still there after a break.
func TestABatchIsTheConsumersUntilTheNext(t *testing.T) {
	games := newGames()
	feed := games.Batches(t.Context(), 2)
	feedWrites(t, games, 6)
	var first []Change[game]
	for batch := range feed {
		first = batch
		break
	}
	require.Equal(t, "[+1 2]", batchOf(first, nil), "nothing was asked for since")
	clear(first)
	first = append(first[:1], first...)
	require.Equal(t, "[3 4]", batchesOf(feed, 1))
	func() {
		defer func() { _ = recover() }()
		for batch := range feed {
			clear(batch)
			panic("in the body")
		}
	}()
	games.Drop()
	require.Equal(t, "dropped", batchesOf(feed, -1))
	require.NotEmpty(t, first)
}

// A stream of batches that waits or is paused retains nothing that it delivered. One that
// has ended retains no changes that it had collected.
func TestABatchIsNotHeld(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	games := newGames()
	for _, keep := range []func(g *game) bool{
		func(*game) bool { return true },
		func(g *game) bool { return g.ID == 1 },
	} {
		games := newGames()
		insertRows(t, games, 1)
		feed := games.Where(keep).Batches(ctx, 100, Poll(nil))
		feedWrites(t, games, 20)
		row := optionSnapshot(t, games)()
		require.NotEmpty(t, batchesOf(feed, -1))
		for range 2 * maxPage / 5 { // off the page; shorter batches do not write over it
			feedWrites(t, games, 5)
			batchesOf(feed, -1)
		}
		collected(t, "read, and held", func() bool { return row.Value() == nil })
		runtime.KeepAlive(feed)
		runtime.KeepAlive(games)
	}

	for _, drop := range []bool{false, true} { // a smaller batch follows in the same range, or the end
		t.Run(fmt.Sprintf("drop=%t", drop), func(t *testing.T) {
			games := newGames()
			feed := games.Batches(ctx, 100, Poll(nil))
			feedWrites(t, games, 20)
			row := optionSnapshot(t, games)()
			first := true
			for batch := range feed {
				if first {
					first = false
					require.Len(t, batch, 22)
					feedWrites(t, games, 1)
					if drop {
						games.Drop()
					}
				}
			}
			for range 2 * maxPage / 5 * len(games.Feeds()) { // off the page; shorter batches do not write over it
				feedWrites(t, games, 5)
				batchesOf(feed, -1)
			}
			collected(t, "handed out, and held", func() bool { return row.Value() == nil })
			runtime.KeepAlive(feed)
			runtime.KeepAlive(games)
		})
	}

	calls := 0
	where := games.Where(func(*game) bool {
		if calls++; calls == 2 {
			cancel()
		}
		return true
	}).Batches(ctx, 10)
	row := optionSnapshot(t, games)()
	require.Equal(t, "context canceled", batchesOf(where, -1))
	require.Equal(t, 2, calls)
	feedWrites(t, games, 1)
	collected(t, "put by, and held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(where)
	runtime.KeepAlive(games)
}

// A batch of initial rows has at most max, also after a predicate panicked.
func TestABatchAfterAPanicIsNoLonger(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	calls := 0
	feed := games.Where(func(*game) bool { calls++; return calls != 1 || panicWith("once") }).Batches(t.Context(), 4, IncludeInitial(), Poll(nil))
	require.PanicsWithValue(t, "once", func() { batchesOf(feed, -1) })
	require.Equal(t, "[row2 row3 row4 row5] [row6 row7 row8 row9] [ready9]", batchesOf(feed, -1))
}
