package changefeedprom_test

import (
	"runtime"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seed-637b77f9/changefeed"
	changefeedprom "github.com/seed-637b77f9/changefeed/prometheus"
	"github.com/stretchr/testify/require"
)

// A collection of a table with 1,000,000 rows and 10,000 feeds of one row each, and the listing of
// the feeds, which is a part of it.
func BenchmarkCollect(b *testing.B) {
	const rowCount, feedCount = 1_000_000, 10_000
	games := newGames("games")
	for id := range rowCount {
		_, err := games.Insert(game{ID: id})
		require.NoError(b, err)
	}
	var feeds []changefeed.Stream[changefeed.Change[game]]
	for id := range feedCount {
		feeds = append(feeds, games.Row(id).Changes(b.Context()))
	}
	c := changefeedprom.NewCollector(games)
	ch := make(chan prometheus.Metric, 100)
	b.Run("collect", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Collect(ch)
			for len(ch) > 0 {
				<-ch
			}
		}
	})
	b.Run("feeds", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			games.Feeds()
		}
	})
	runtime.KeepAlive(feeds)
}
