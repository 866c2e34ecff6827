package changefeed

import (
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A walk goes on after the last row that it visited, wherever the visitor left off or
// panicked; and beside keys that are followed and have no row.
func TestAWalkGoesOnAfterTheLastRowVisited(t *testing.T) {
	oops := errors.New("in the visitor")
	for _, rows := range []int{0, 1, 2, minWalk - 1, minWalk, minWalk + 1, 3*minWalk - 1, 3 * minWalk, 3*minWalk + 1, 2*maxWalk + 57, 5 * maxWalk} {
		games := newGames()
		scores := NewMultiIndex(games, "scores", func(g *game) []int { return []int{g.Score, g.Score + 1000} })
		var feeds []Stream[Change[game]]
		for id := range rows {
			must[game](t)(games.Insert(game{ID: id, Score: -id}))
			if id%5 == 0 {
				feeds = append(feeds, games.Row(id+10_000).Changes(t.Context()), games.Row(-1-id).Changes(t.Context()))
			}
		}
		up := make([]int, rows)
		for i := range up {
			up[i] = i
		}
		down := slices.Clone(up)
		slices.Reverse(down)
		for _, test := range []struct {
			part              Selection[int, game]
			forward, backward []int
		}{
			{games.all(), up, down},
			{games.From(0), up, down},
			{games.Range(0, rows), up, down},
			{games.From(rows / 2), up[rows/2:], down[:rows-rows/2]},
			{games.Range(rows/4, rows/2), up[rows/4 : rows/2], down[rows-rows/2 : rows-rows/4]},
			{scores.From(-rows), down, up},
		} {
			for at := range len(test.forward) + 1 {
				for _, backward := range []bool{false, true} {
					snapshot := test.part.snapshot()
					walk, want := snapshot.forward, test.forward
					if backward {
						walk, want = snapshot.backward, test.backward
					}
					var got []int
					first := at // rows until the visitor leaves off
					visit := func(key int, row *game) bool {
						require.Equal(t, key, row.ID)
						got = append(got, key)
						if first--; first == 0 && at%2 == 0 {
							panic(oops)
						}
						return first != 0
					}
					func() {
						defer func() {
							if p := recover(); p != nil && p != oops {
								panic(p)
							}
						}()
						walk(visit)
					}()
					if at > 0 {
						require.True(t, slices.Equal(want[:at], got), "%v", got)
					}
					walk(visit)
					require.True(t, slices.Equal(want, got), "%d rows, left off at %d: %v", rows, at, got)
					walk(visit)
					require.Len(t, got, len(want), "there is nothing left")
				}
			}
		}
		runtime.KeepAlive(feeds)
	}
}

// A panic in the key function, which a walk calls, loses no row and doubles none.
func TestAWalkGoesOnAfterAPanicInTheKeyFunction(t *testing.T) {
	calls, at := 0, 0
	games := NewTable("games", func(g *game) int {
		if calls++; calls == at {
			panic("in key")
		}
		return g.ID
	})
	scores := NewMultiIndex(games, "scores", func(g *game) []int { return []int{g.Score} })
	for id := range 20 {
		must[game](t)(games.Insert(game{ID: id, Score: id}))
	}
	feed := scores.From(0).Changes(t.Context(), IncludeInitial(), Poll(nil))
	at = calls + 5
	var ids []int
	read := func() {
		for c := range feed {
			if c.Kind == Initial {
				ids = append(ids, c.New.ID)
			}
		}
	}
	require.PanicsWithValue(t, "in key", read)
	read()
	require.Len(t, ids, 20)
	require.True(t, slices.IsSorted(ids))
}
