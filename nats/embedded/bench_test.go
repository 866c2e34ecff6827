package embedded_test

import (
	"testing"
	"time"

	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded"
	"github.com/stretchr/testify/require"
)

// Commits of one change, up to the acknowledgement, and until a replica has them.
func BenchmarkPublish(b *testing.B) {
	s, err := embedded.Start(b.TempDir())
	require.NoError(b, err)
	defer s.Close()
	from, to := newTables(), newTables()
	p, err := natsfeed.Publish(b.Context(), s, "league", from.options(natsfeed.Buffer(10_000_000))...)
	require.NoError(b, err)
	defer p.Close()
	r, err := natsfeed.Follow(b.Context(), s, "league", to.options()...)
	require.NoError(b, err)
	defer r.Close()
	const count = 200_000
	id := 0
	for b.Loop() {
		start := time.Now()
		for range count {
			id++
			_, _ = from.games.Insert(game{ID: id})
		}
		written := time.Since(start)
		require.NoError(b, p.Wait(b.Context(), from.positions()...))
		acked := time.Since(start)
		require.NoError(b, r.Wait(b.Context(), from.positions()...))
		b.ReportMetric(count/written.Seconds(), "writes/s")
		b.ReportMetric(count/acked.Seconds(), "acked/s")
		b.ReportMetric(count/time.Since(start).Seconds(), "replicated/s")
	}
}
