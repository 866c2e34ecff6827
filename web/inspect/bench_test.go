package inspect_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/inspect"
	"github.com/stretchr/testify/require"
)

// newLarge returns a table of a million rows, with feeds of single rows.
func newLarge(tb testing.TB, feeds int) (players *changefeed.Table[int, player], keep []any) {
	players = newPlayers()
	changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	rows := func(yield func(player) bool) {
		for id := range 1_000_000 {
			if !yield(player{ID: id, Name: "Ann", Team: []string{"red", "blue"}[id%2]}) {
				return
			}
		}
	}
	past := changefeed.Past[player]{Lineage: []changefeed.Position{players.At(1_000_000)}, Rows: rows}
	require.NoError(tb, players.Restore(past))
	for id := range feeds {
		keep = append(keep, players.Row(id).Changes(tb.Context(), changefeed.Named("profile")))
	}
	return players, keep
}

// What the page asks for once a second, of a table of a million rows with 10,000 feeds.
func BenchmarkPage(b *testing.B) {
	players, keep := newLarge(b, 10_000)
	h := inspect.Handler(players)
	for _, query := range []string{"", "view=rows&table=players", "view=rows&table=players&from=999000", "view=rows&table=players&by=team&equal=red"} {
		b.Run(query, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?format=json&"+query, nil))
				require.Equal(b, http.StatusOK, w.Code)
			}
		})
	}
	require.Len(b, keep, 10_000)
}

// A write while a page asks for what it shows ten times a second, compared with one while nobody looks.
func BenchmarkWriter(b *testing.B) {
	players, keep := newLarge(b, 10_000)
	h := inspect.Handler(players)
	write := func(n int) (p50 time.Duration) {
		var times []time.Duration
		for i := range n {
			start := time.Now()
			_, err := players.Update(i%500_000, func(p *player) { p.Name = fmt.Sprint(i, start) })
			times = append(times, time.Since(start))
			require.NoError(b, err)
		}
		slices.Sort(times)
		return times[len(times)/2]
	}
	ratio := 0.0
	for b.Loop() {
		alone := write(20_000)
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			ticks := time.NewTicker(100 * time.Millisecond)
			defer ticks.Stop()
			for {
				for _, query := range []string{"", "view=rows&table=players", "view=rows&table=players&by=team&equal=red"} {
					h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/?format=json&"+query, nil))
				}
				select {
				case <-done:
					return
				case <-ticks.C:
				}
			}
		}()
		ratio += float64(write(100_000)) / float64(alone)
		close(done)
		<-ended
	}
	b.ReportMetric(ratio/float64(b.N), "ratio")
	require.Len(b, keep, 10_000)
}
