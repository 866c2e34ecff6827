package changefeed

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A second call of a walk resumes after the last row that was visited, wherever the visitor
// returned false or panicked. Followed keys without a row are beside the rows.
func TestAWalkGoesOnAfterTheLastRowVisited(t *testing.T) {
	for _, rows := range []int{0, 1, minWalk - 1, minWalk, minWalk + 1, 3*minWalk - 1, 3 * minWalk, 2*maxWalk + 57} {
		games := newGames()
		scores := NewMultiIndex(games, "scores", func(g *game) []int { return []int{g.Score, g.Score + 1000} })
		var feeds []Stream[Change[game]]
		for id := range rows {
			must[game](t)(games.Insert(game{ID: id, Score: -id}))
			if id%5 == 0 {
				feeds = append(feeds, games.Row(id+10_000).Changes(t.Context()), games.Row(-1-id).Changes(t.Context()))
			}
		}
		parts := []Selection[int, game]{games.all(), games.Range(0, rows), games.From(rows / 2), games.Range(rows/4, rows/2), scores.From(-rows)}
		for i, n := range []int{rows, rows, rows - rows/2, rows/2 - rows/4, rows} {
			for _, newWalk := range []func() func(visit func(key int, row *game) bool){
				func() func(visit func(key int, row *game) bool) { return parts[i].snapshot().forward },
				func() func(visit func(key int, row *game) bool) { return parts[i].snapshot().backward },
			} {
				var want []int
				newWalk()(func(key int, _ *game) bool { want = append(want, key); return true })
				require.Len(t, want, n)
				for at := range n + 1 {
					walk, got := newWalk(), []int(nil)
					visit := func(key int, row *game) bool {
						require.Equal(t, key, row.ID)
						got = append(got, key)
						return len(got) != at || at%2 == 0 && panicWith(errOops)
					}
					_, _ = attempt(func() (c Change[game], err error) { walk(visit); return c, err })
					require.True(t, at == 0 || len(got) == at, "left off at %d: %v", at, got)
					walk(visit)
					require.True(t, slices.Equal(want, got), "%d rows, left off at %d: %v", rows, at, got)
					walk(visit)
					require.Len(t, got, n, "there is nothing left")
				}
			}
		}
		runtime.KeepAlive(feeds)
	}
}

// After a panic in the key function, which a walk calls, no row is missing and none comes
// twice.
func TestAWalkGoesOnAfterAPanicInTheKeyFunction(t *testing.T) {
	calls, at := 0, 0
	games := NewTable("games", func(g *game) int {
		if calls++; calls == at {
			panic("in key")
		}
		return g.ID
	})
	scores := NewMultiIndex(games, "scores", func(g *game) []int { return []int{g.Score} })
	want := "ready20"
	for id := range 20 {
		must[game](t)(games.Insert(game{ID: 19 - id, Score: 19 - id}))
		want = fmt.Sprintf("row%d %s", 19-id, want)
	}
	feed := scores.From(0).Changes(t.Context(), IncludeInitial(), Poll(nil))
	at = calls + 5
	var words []string
	read := func() {
		for c, err := range feed {
			words = append(words, wordOf(c, err))
		}
	}
	require.PanicsWithValue(t, "in key", read)
	read()
	require.Equal(t, want, strings.Join(words, " "))
}

// A range that has to clone the tree waits for the write lock. It does not clone while
// others read. T5
func TestARangeDoesNotCloneWhileOthersRead(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	read := make(chan struct{})
	games.mu.RLock()
	go func() {
		defer close(read)
		for range games.All() {
		}
	}()
	for games.mu.TryRLock() { // until it waits to write
		games.mu.RUnlock()
		select {
		case <-read:
			require.Fail(t, "it cloned the tree beside a reader")
		default:
			runtime.Gosched()
		}
	}
	games.mu.RUnlock()
	<-read
}
