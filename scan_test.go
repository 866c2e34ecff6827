package changefeed

import (
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A scan reads the rows in any steps, in both directions. Followed keys without a row are
// beside the rows.
func TestAScanReadsAllRows(t *testing.T) {
	for _, rows := range []int{0, 1, minCells - 1, minCells, minCells + 1, 3*minCells - 1, 3 * minCells, 2*maxCells + 57} {
		games := newGames()
		scores := NewMultiIndex(games, "scores", func(g *game) []int { return []int{g.Score, g.Score + 10_000} })
		var feeds []Stream[Change[game]]
		for id := range rows {
			must[game](t)(games.Insert(game{ID: id, Score: -id}))
			if id%5 == 0 {
				feeds = append(feeds, games.Row(id+10_000).Changes(t.Context()), games.Row(-1-id).Changes(t.Context()))
			}
		}
		for _, part := range []struct {
			Selection[int, game]
			from, to int
			falling  bool
		}{
			{games.Selection(), 0, rows, false},
			{games.Range(0, rows), 0, rows, false},
			{games.From(rows / 2), rows / 2, rows, false},
			{games.Range(rows/4, rows/2), rows / 4, rows / 2, false},
			{scores.From(-rows), 0, rows, true},
			{scores.Range(-rows/2, 1), 0, min(rows, rows/2+1), true},
		} {
			for _, backward := range []bool{false, true} {
				want := []int{}
				for id := part.from; id < part.to; id++ {
					want = append(want, id)
				}
				if backward != part.falling {
					slices.Reverse(want)
				}
				got := []int{}
				s := part.scan(backward)
				steps := 0
				for n := -1; n < len(got); steps++ { // a new walk for every third step
					n = len(got)
					s.each(func() bool {
						require.LessOrEqual(t, len(s.rows), maxCells)
						for i, row := range s.rows {
							require.Equal(t, s.cells[i].key, row.ID)
							got = append(got, row.ID)
						}
						steps++
						return steps%3 != 0
					})
				}
				require.Equal(t, want, got)
				s.close()
			}
		}
		require.Empty(t, games.snapshots.open)
		runtime.KeepAlive(feeds)
	}
}

// Rows without a size can be read.
func TestAScanOfRowsWithoutSize(t *testing.T) {
	table := NewTable("table", func(*struct{}) int { return 1 })
	must[struct{}](t)(table.Insert(struct{}{}))
	for key := range table.All() {
		require.Equal(t, 1, key)
	}
	require.Equal(t, 1, table.Len())
}
