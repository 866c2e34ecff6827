//go:build !changefeed_debug

package changefeed

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// These tests measure memory. With the tag changefeed_debug, the library takes more of it.

// A row is copied and compared without more memory than it takes; "with no
// subscriber ... a write builds no event".
func TestAllocations(t *testing.T) {
	games := newGames()
	for id := range 1000 {
		must[game](t)(games.Insert(game{ID: id, Player: "Bob"}))
	}
	n := 0
	score := func(g *game) { n++; g.Score = n }
	same := func(*game) {}
	lookup := func() { games.Get(500) }
	for _, test := range []struct {
		name string
		want float64
		do   func()
	}{
		{"Get", 0, lookup},
		{"Update", 1, func() { _, _ = games.Update(500, score) }}, // the new row
		{"Update to an equal row", 1, func() { _, _ = games.Update(500, same) }},
		{"equal", 0, func() {
			if !games.equal(stored(games, 1), stored(games, 1)) {
				t.Error("a row is not equal to itself")
			}
		}},
		{"Len and Seq", 0, func() { games.Len(); games.Seq() }},
	} {
		require.Equal(t, test.want, testing.AllocsPerRun(100, test.do), test.name)
	}
	require.Equal(t, Update, must[game](t)(games.Update(500, score)).Kind)
	require.Nil(t, games.allScope.ring.tail.Load())
	require.Zero(t, games.allScope.ring.end.Load(), "no event was built")
}

// "1,000 stalled subscribers as cheap as one": what they see is stored once.
func TestAThousandStalledSubscribersHoldWhatOneHolds(t *testing.T) {
	held := func(subscribers int) int {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		blobs := newBlobs()
		_, err := blobs.Insert(blob{1})
		require.NoError(t, err)
		feeds := make([]Stream[Change[blob]], subscribers)
		size := heldBy(func() {
			for i := range feeds {
				feeds[i] = blobs.Changes(ctx)
			}
			writeBlobs(t, blobs, 50_000)
		})
		require.Equal(t, 50_000, blobs.Feeds()[subscribers-1].Buffered)
		runtime.KeepAlive(feeds)
		cancel()
		for len(blobs.Feeds()) > 0 {
			runtime.Gosched() // leave nothing that is released while others measure
		}
		return size
	}
	one, thousand := held(1), held(1000)
	t.Logf("one: %d bytes, 1,000: %d bytes", one, thousand)
	require.Greater(t, one, 50_000*160) // the rows alone: it holds the backlog
	require.Less(t, float64(thousand), 1.1*float64(one))
}

// R3: "the ring retains the elements that some window may still read ... and nothing
// else, whatever the windows' limits. A stalled window pins one page."
func TestWhatIsReadIsNotHeld(t *testing.T) {
	for _, test := range []struct {
		name    string
		stalled []int // buffers
		keepUp  []int
	}{
		{"one that keeps up", nil, []int{DefaultBuffer}},
		{"ten that keep up", nil, slices.Repeat([]int{DefaultBuffer}, 10)},
		{"a small buffer stalled beside one that keeps up", []int{1}, []int{DefaultBuffer}},
		{"a small buffer stalled alone", []int{1}, nil},
		{"many small buffers stalled", slices.Repeat([]int{1, 2, 5}, 5), []int{DefaultBuffer, 7}},
	} {
		t.Run(test.name, func(t *testing.T) {
			blobs := newBlobs()
			_, err := blobs.Insert(blob{1})
			require.NoError(t, err)
			var stalled, keepUp []Stream[Change[blob]]
			for _, n := range test.stalled {
				stalled = append(stalled, blobs.Changes(t.Context(), Buffer(n)))
				writeBlobs(t, blobs, 1) // not all at one place
			}
			for _, n := range test.keepUp {
				keepUp = append(keepUp, blobs.Changes(t.Context(), Buffer(n)))
			}
			size := heldBy(func() {
				for range 10_000 / 5 {
					writeBlobs(t, blobs, 5)
					for _, feed := range keepUp {
						for _, p := range take(feed, 5) {
							require.NoError(t, p.err)
						}
					}
				}
			})
			// A page that is read and the one being filled, at 32 bytes a change and
			// a row each, and as much again for what the test itself leaves.
			const page = maxPage * (32 + 160)
			t.Logf("%d bytes, %d pages", size, len(blobs.allScope.ring.pages))
			require.Less(t, size, 4*page)
			require.LessOrEqual(t, len(blobs.allScope.ring.pages), 2)
			runtime.KeepAlive(stalled)
			runtime.KeepAlive(keepUp)
		})
	}
}

// R3 again: what a loop has read of a backlog is not held, though nobody writes.
func TestABacklogIsReleasedAsItIsRead(t *testing.T) {
	blobs := newBlobs()
	_, err := blobs.Insert(blob{1})
	require.NoError(t, err)
	const n, size = 10_000, 32 + 160 // of a change and a row
	feed := blobs.Changes(t.Context())
	held := heldBy(func() { writeBlobs(t, blobs, n) })
	require.Greater(t, held, n*size*9/10)
	freed := -heldBy(func() { take(feed, n/2) })
	require.Greater(t, freed, n/2*size*8/10)
	freed -= heldBy(func() { take(feed, n/2) })
	require.Greater(t, freed, n*size*9/10)
	require.Len(t, blobs.allScope.ring.pages, 1)
	runtime.KeepAlive(feed)
}

// Delivering allocates nothing, through three stages neither.
func TestDeliveringAChangeAllocatesNothing(t *testing.T) {
	const n = 20_000
	all := func(Change[game]) bool { return true }
	games := newGames()
	plain := games.Changes(t.Context())
	staged := Map(games.Changes(t.Context()).Filter(all).Map(func(c Change[game]) Change[game] { return c }),
		func(c Change[game]) *game { return c.New }).Limit(10 * n)
	feedWrites(t, games, 2*n) // a warm-up is read too
	require.Less(t, allocsPerElement(plain, n), 0.01)
	require.Less(t, allocsPerElement(staged, n), 0.01)
}

// allocsPerElement returns what one element of n in a range allocates.
func allocsPerElement[T any](s Stream[T], n int) float64 {
	return testing.AllocsPerRun(1, func() {
		read := 0
		for range s {
			if read++; read == n {
				break
			}
		}
	}) / float64(n)
}

// A write allocates the new row and its share of a page, whatever the number of
// subscribers; a waiting loop costs no memory for its waiting.
func TestUpdateAllocatesTheRowAndItsShareOfAPage(t *testing.T) {
	const n = 10_000
	for _, subscribers := range []int{0, 1, 100} {
		games := newGames()
		feedWrites(t, games, 1)
		feeds := make([]Stream[Change[game]], subscribers)
		for i := range feeds {
			feeds[i] = games.Changes(t.Context(), Buffer(1000))
		}
		allocs := testing.AllocsPerRun(1, func() {
			for range n {
				_, _ = games.Update(1, func(g *game) { g.Score++ })
			}
		}) / n
		t.Logf("%d subscribers: %.4f", subscribers, allocs)
		require.GreaterOrEqual(t, allocs, 1.0)
		require.Less(t, allocs, 1.1)
		runtime.KeepAlive(feeds)
	}
}

func TestWaitingAllocatesNothing(t *testing.T) {
	const n = 2000
	games := newGames()
	feedWrites(t, games, 1)
	feed := games.Changes(t.Context())
	read := make(chan struct{})
	go func() {
		for range feed {
			read <- struct{}{}
		}
		close(read)
	}()
	allocs := testing.AllocsPerRun(1, func() {
		for range n {
			for games.allScope.ring.parked.Load() == 0 {
				runtime.Gosched()
			}
			_, _ = games.Update(1, func(g *game) { g.Score++ })
			<-read
		}
	}) / n
	require.Less(t, allocs, 1.1) // those of the update
	games.Drop()
	<-read
	<-read
}

// "hold exactly the newest n changes": the memory of them, to within a page, and none
// when there is nothing to hold. R3
func TestRetainHoldsTheNewestAndNothingElse(t *testing.T) {
	blobs := newBlobs()
	_, err := blobs.Insert(blob{1})
	require.NoError(t, err)
	const n, size = 5000, 32 + 160 // of a change and a row
	held := heldBy(func() {
		blobs.Retain(n)
		writeBlobs(t, blobs, 3*n)
	})
	require.Greater(t, held, n*size)
	require.Less(t, held, (n+3*maxPage)*size)
	pages := blobs.allScope.ring.pages
	// The rest of a page, and one that is not dropped before the next begins.
	require.Less(t, blobs.allScope.ring.end.Load()-n-pages[0].first, uint64(2*maxPage), "not more than a page beyond")
	pages = nil
	require.Greater(t, -heldBy(func() { blobs.Retain(n / 2) }), (n/2-2*maxPage)*size)
	blobs.Retain(0)
	require.Empty(t, blobs.allScope.ring.pages)
	require.Nil(t, pages)
}

// Delivering allocates nothing, from the ring of a row or a range neither.
func TestDeliveringToAPartAllocatesNothing(t *testing.T) {
	const n = 10_000
	games := newBoard()
	for name, feed := range map[string]Stream[Change[game]]{
		"Row":         games.Row(1).Changes(t.Context()),
		"Range":       games.Range(0, 2).Changes(t.Context()),
		"Where":       games.Where(func(*game) bool { return true }).Changes(t.Context()),
		"Index.Equal": games.players.Equal("").Changes(t.Context()),
	} {
		feedWrites(t, games.Table, 2*n) // a warm-up is read too
		require.Less(t, allocsPerElement(feed, n), 0.01, name)
	}
	batches := games.Row(1).Batches(t.Context(), 100)
	feedWrites(t, games.Table, 2*n)
	require.Less(t, allocsPerElement(batches, n/100)/100, 0.01)
}

// "Row ... feeds cost a write nothing when the row is not theirs": it allocates the
// row, and nothing else; a write to one of theirs has its share of a page besides.
func TestAWriteBesideRowFeedsAllocatesTheRow(t *testing.T) {
	const n = 1000
	games := newGames()
	insertRows(t, games, 0, 1)
	feeds := make([]Stream[Change[game]], n)
	for i := range feeds {
		feeds[i] = games.Row(i+1).Changes(t.Context(), Buffer(10))
	}
	update := func(key int) float64 {
		return testing.AllocsPerRun(1, func() {
			for range n {
				_, _ = games.Update(key, func(g *game) { g.Score++ })
			}
		}) / n
	}
	require.Equal(t, 1.0, update(0))
	require.GreaterOrEqual(t, update(1), 1.0)
	require.Less(t, update(1), 1.1)
	runtime.KeepAlive(feeds)
}

// "A feed on a single row uses at most 1 KB": its scope, page and subscription, and where there
// is no row, its cell and its place in the hash index and the tree.
func TestARowFeedCostsAtMostAKilobyte(t *testing.T) {
	const n = 10_000
	t.Run("int keys", func(t *testing.T) {
		games := newGames()
		for i := range n / 2 {
			_, err := games.Insert(game{ID: i})
			require.NoError(t, err)
		}
		requireRowFeedsCost(t, games, n, func(i int) int { return i })
	})
	t.Run("string keys", func(t *testing.T) {
		users := NewTable("users", func(u *user) string { return u.Name })
		for i := range n / 2 {
			_, err := users.Insert(user{Name: fmt.Sprint("user ", i)})
			require.NoError(t, err)
		}
		requireRowFeedsCost(t, users, n, func(i int) string { return fmt.Sprint("user ", i) })
	})
}

// requireRowFeedsCost subscribes to n rows, half of which are missing.
func requireRowFeedsCost[K, V any](t *testing.T, table *Table[K, V], n int, key func(i int) K) {
	keys := make([]K, n)
	for i := range keys {
		keys[i] = key(i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	feeds := make([]Stream[Change[V]], n)
	before := heapBytes()
	for i := range feeds {
		feeds[i] = table.Row(keys[i]).Changes(ctx)
	}
	each := float64(heapBytes()-before) / float64(n)
	t.Logf("%.0f bytes", each)
	require.Greater(t, each, 200.0, "or it was not measured")
	require.LessOrEqual(t, each, 1024.0)
	runtime.KeepAlive(feeds)
	runtime.KeepAlive(keys)
	cancel()
	for len(table.Feeds()) > 0 {
		runtime.Gosched() // leave nothing that is released while others measure
	}
}

// A write to a row of an index of one value allocates the row and nothing else, be it
// that the row moves or stays. Entries have no more in them than that takes.
func TestAWriteToAnIndexedRowAllocatesTheRow(t *testing.T) {
	games := newGames()
	NewIndex(games, "player", func(g *game) string { return g.Player })
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })
	unique, err := NewUniqueIndex(games, "unique", func(g *game) int { return g.Score })
	require.NoError(t, err)
	for id := range 1000 {
		must[game](t)(games.Insert(game{ID: id, Player: "Bob", Score: id}))
	}
	score := 1000
	edit := func(g *game) { score++; g.Score = score }
	require.Equal(t, 1.0, testing.AllocsPerRun(100, func() { _, _ = games.Update(500, edit) }))
	for _, x := range []*Index[int, int, game]{scores, unique} {
		x.rows.tree.Ascend(func(e indexEntry[int, int]) bool {
			require.Nil(t, e.previous)
			return true
		})
	}
	words := unsafe.Sizeof(indexEntry[int, int]{}) / unsafe.Sizeof(uintptr(0))
	require.EqualValues(t, 4, words, "a value, a key and two pointers")
}
