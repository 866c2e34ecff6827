package embedded_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded"
	"github.com/seed-637b77f9/changefeed/nats/embedded/internal/cluster"
	"github.com/stretchr/testify/require"
)

// A setup is a number of servers, each in a process of its own. 0 is one in this process. With sync,
// they write each message to the disk before they acknowledge it.
type setup struct {
	servers int
	sync    bool
}

func (s setup) String() string { return fmt.Sprintf("servers=%d/sync=%v", s.servers, s.sync) }

func (s setup) connect(b *testing.B) (publisher, replica jetstream.JetStream) {
	if s.servers == 0 {
		server, err := embedded.Start(b.TempDir())
		require.NoError(b, err)
		b.Cleanup(server.Close)
		return server, server
	}
	servers, err := cluster.Start(b.TempDir(), s.servers, s.sync)
	require.NoError(b, err)
	b.Cleanup(servers.Close)
	return connect(b, servers.URL()), connect(b, servers.URL())
}

func (s setup) publish(b *testing.B, from tables, js jetstream.JetStream, opts ...natsfeed.Option) *natsfeed.Publisher {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	p, err := natsfeed.Publish(ctx, js, "league", from.options(append(opts, natsfeed.Replicas(max(1, s.servers)))...)...)
	require.NoError(b, err)
	b.Cleanup(p.Close)
	return p
}

// Commits of one change each, until JetStream has acknowledged all, and until a replica has them.
func BenchmarkPublish(b *testing.B) {
	for _, s := range []setup{{0, false}, {1, false}, {1, true}, {3, false}, {3, true}} {
		b.Run(s.String(), func(b *testing.B) {
			js, replicaJS := s.connect(b)
			from, to := newTables(), newTables()
			p := s.publish(b, from, js, natsfeed.Buffer(10_000_000))
			r, err := natsfeed.Follow(b.Context(), replicaJS, "league", to.options()...)
			require.NoError(b, err)
			b.Cleanup(r.Close)
			const count = 200_000
			id := 0
			for b.Loop() {
				start := time.Now()
				for range count {
					id++
					_, _ = from.games.Insert(game{ID: id})
				}
				require.NoError(b, p.Wait(b.Context(), from.positions()...))
				acked := time.Since(start)
				require.NoError(b, r.Wait(b.Context(), from.positions()...))
				b.ReportMetric(count/acked.Seconds(), "acked/s")
				b.ReportMetric(count/time.Since(start).Seconds(), "replicated/s")
			}
		})
	}
}

// One writer that waits for each acknowledgement.
func BenchmarkWait(b *testing.B) {
	for _, s := range []setup{{0, false}, {1, false}, {1, true}, {3, false}, {3, true}} {
		b.Run(s.String(), func(b *testing.B) {
			js, _ := s.connect(b)
			from := newTables()
			p := s.publish(b, from, js)
			for id := 0; b.Loop(); id++ {
				c, err := from.games.Insert(game{ID: id})
				require.NoError(b, err)
				require.NoError(b, p.Wait(b.Context(), from.games.At(c.Seq)))
			}
		})
	}
}

// The time from a write to the moment when a feed of a replica yields it, at 1,000 commits a second.
func BenchmarkLag(b *testing.B) {
	for _, s := range []setup{{0, false}, {1, false}, {3, false}} {
		b.Run(s.String(), func(b *testing.B) {
			js, replicaJS := s.connect(b)
			from, to := newTables(), newTables()
			s.publish(b, from, js)
			r, err := natsfeed.Follow(b.Context(), replicaJS, "league", to.options()...)
			require.NoError(b, err)
			b.Cleanup(r.Close)
			const count = 5_000
			written := make([]time.Time, count)
			lags := make([]time.Duration, 0, count)
			for b.Loop() {
				feed := to.games.Changes(b.Context())
				done := make(chan struct{})
				lags = lags[:0]
				go func() {
					defer close(done)
					for c, err := range feed {
						if err != nil || c.New == nil {
							return
						}
						if lags = append(lags, time.Since(written[c.New.ID])); len(lags) == count {
							return
						}
					}
				}()
				tick := time.NewTicker(time.Millisecond)
				for i := range count {
					<-tick.C
					written[i] = time.Now()
					_, _ = from.games.Upsert(game{ID: i})
				}
				tick.Stop()
				<-done
				slices.Sort(lags)
				b.ReportMetric(float64(lags[count/2].Microseconds()), "p50-us")
				b.ReportMetric(float64(lags[count*99/100].Microseconds()), "p99-us")
			}
		})
	}
}

// A new replica of a million rows.
func BenchmarkFollow(b *testing.B) {
	for _, s := range []setup{{0, false}, {3, false}} {
		b.Run(s.String(), func(b *testing.B) {
			js, replicaJS := s.connect(b)
			from := newTables()
			for id := range 1_000_000 {
				_, _ = from.games.Insert(game{id, "somebody"})
			}
			start := time.Now()
			s.publish(b, from, js)
			b.Logf("Publish: %v", time.Since(start))
			for b.Loop() {
				to := newTables()
				r, err := natsfeed.Follow(b.Context(), replicaJS, "league", to.options()...)
				require.NoError(b, err)
				require.Equal(b, 1_000_000, to.games.Len())
				r.Close()
			}
		})
	}
}

// Writes beside a publisher, and without one, in turns.
func BenchmarkWriter(b *testing.B) {
	for _, s := range []setup{{0, false}, {1, false}, {3, false}} {
		b.Run(s.String(), func(b *testing.B) {
			js, _ := s.connect(b)
			published, alone := newTables(), newTables()
			p := s.publish(b, published, js, natsfeed.Buffer(10_000_000))
			const count = 20_000
			id := 0
			write := func(to *changefeed.Table[int, game]) time.Duration {
				start := time.Now()
				for i := range count {
					_, _ = to.Upsert(game{ID: id + i})
				}
				return time.Since(start)
			}
			var ratios []float64
			for b.Loop() {
				without := write(alone.games)
				with := write(published.games)
				require.NoError(b, p.Wait(b.Context(), published.positions()...))
				ratios = append(ratios, float64(with)/float64(without))
				id += count
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "times")
		})
	}
}
