package changefeedprom_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seed-637b77f9/changefeed"
	changefeedprom "github.com/seed-637b77f9/changefeed/prometheus"
	"github.com/stretchr/testify/require"
)

// newRand returns a source of random numbers. CHANGEFEED_SEED=n in the environment replays a test.
func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("CHANGEFEED_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("CHANGEFEED_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// A series is a metric of the feeds of one name.
type series struct{ metric, table, feed string }

// gather returns the metrics of feeds.
func gather(t require.TestingT, registry prometheus.Gatherer) map[series]uint64 {
	families, err := registry.Gather()
	require.NoError(t, err)
	got := make(map[series]uint64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			s, ofFeed := series{metric: family.GetName()}, false
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "table":
					s.table = l.GetValue()
				case "feed":
					s.feed, ofFeed = l.GetValue(), true
				}
			}
			if ofFeed {
				got[s] = uint64(m.GetGauge().GetValue() + m.GetCounter().GetValue())
			}
		}
	}
	return got
}

// A modelFeed is a feed, and what its loop has received.
type modelFeed struct {
	name     string
	tables   []string
	capacity uint64
	filters  bool
	read     func(n int)
	end      context.CancelFunc

	received, skipped uint64 // skipped, as the notices said
	seen              counts // by the last collection before the end
	id                uint64
	ended             bool
}

type counts struct{ delivered, skipped uint64 }

// feedOf returns a feed that counts what its loop receives. size returns the number of changes in
// an element.
func feedOf[T any](t *testing.T, f *modelFeed, stream changefeed.Stream[T], size func(T) int) {
	f.read = func(n int) {
		for e, err := range stream {
			if skip, ok := errors.AsType[*changefeed.SkippedError](err); ok {
				f.skipped += skip.Count
			} else if err == nil {
				f.received += uint64(size(e))
			} else {
				require.ErrorIs(t, err, context.Canceled)
			}
			if n--; n <= 0 {
				break
			}
		}
	}
}

// Feeds come and go, and read and skip. After each collection, the counters are the sum of what
// each feed that ever was had counted at the last collection before its end.
func TestModel(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	outcomes := make(map[string]int)
	tables := []*changefeed.Table[int, game]{newGames("a"), newGames("b")}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(changefeedprom.NewCollector(tables[0], tables[1]))

	var feeds []*modelFeed
	begin := func() {
		ctx, cancel := context.WithCancel(t.Context())
		f := &modelFeed{name: []string{"", "x", "y"}[r.IntN(3)], capacity: 1 + r.Uint64N(8), end: cancel}
		track := new(changefeed.Feed)
		opts := []changefeed.FeedOption{
			changefeed.Named(f.name), changefeed.Buffer(int(f.capacity)), changefeed.Poll(nil), changefeed.Track(track),
		}
		table, one := tables[r.IntN(2)], func(changefeed.Change[game]) int { return 1 }
		f.tables = []string{table.Name()}
		switch r.IntN(5) {
		case 0:
			feedOf(t, f, table.Changes(ctx, opts...), one)
		case 1:
			feedOf(t, f, table.Row(r.IntN(10)).Changes(ctx, opts...), one)
		case 2:
			f.filters = true
			feedOf(t, f, table.Where(func(g *game) bool { return g.Score%2 == 0 }).Changes(ctx, opts...), one)
		case 3:
			f.capacity = 0
			feedOf(t, f, table.Changes(ctx, append(opts, changefeed.Squash(0))...), one)
		case 4:
			f.tables = []string{"a", "b"}
			feedOf(t, f, changefeed.Commits(ctx, []changefeed.AnyTable{tables[0], tables[1]}, opts...),
				func(c changefeed.Commit) int { return len(c) })
			outcomes["commits"]++
		}
		f.id = track.Info().ID
		feeds = append(feeds, f)
	}
	end := func(f *modelFeed) {
		f.end()
		f.read(1000) // returns when the feed is not listed any more
		f.ended = true
		outcomes["ended"]++
		if f.seen == (counts{}) {
			outcomes["ended unseen"]++
		}
	}
	write := func() {
		table, id := tables[r.IntN(2)], r.IntN(10)
		switch r.IntN(4) {
		case 0:
			_, err := table.Delete(id)
			require.True(t, err == nil || errors.Is(err, changefeed.ErrNotFound))
		case 1:
			require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
				for _, table := range tables {
					if _, err := table.In(tx).Upsert(game{ID: id, Score: r.IntN(1000)}); err != nil {
						return err
					}
				}
				return nil
			}, tables[0], tables[1]))
		default:
			_, err := table.Upsert(game{ID: id, Score: r.IntN(1000)})
			require.NoError(t, err)
		}
	}
	known, before := make(map[series]bool), make(map[series]uint64)
	collect := func() {
		got := gather(t, registry)
		want := make(map[series]uint64)
		for _, table := range tables {
			infos := make(map[uint64]changefeed.FeedInfo)
			for _, i := range table.Feeds() {
				infos[i.ID] = i
			}
			for _, f := range feeds {
				if !slices.Contains(f.tables, table.Name()) {
					continue
				}
				s := func(metric string) series { return series{"changefeed_" + metric, table.Name(), f.name} }
				info, listed := infos[f.id]
				require.Equal(t, !f.ended, listed)
				if listed {
					known[s("feeds")] = true
					f.seen = counts{f.received, info.Skipped}
					if f.filters { // counts the changes that do not match, too
						f.seen.delivered = info.Delivered
					}
					require.Equal(t, f.seen.delivered, info.Delivered)
					require.LessOrEqual(t, f.skipped, info.Skipped)
					outcomes["skipped"] += int(info.Skipped)
				}
				if !known[s("feeds")] {
					continue
				}
				behind := uint64(info.Buffered)
				if behind > 0 && len(f.tables) == 1 { // a feed of commits has no sequence number
					behind = table.Position().Seq - info.Seq
				}
				if behind > uint64(info.Buffered) {
					outcomes["behind"]++
				}
				want[s("feed_lag_changes")] = max(want[s("feed_lag_changes")], behind)
				want[s("feed_buffered_changes")] += uint64(info.Buffered)
				want[s("feed_delivered_changes_total")] += f.seen.delivered
				want[s("feed_skipped_changes_total")] += f.seen.skipped
				if listed {
					want[s("feeds")]++
					want[s("feed_capacity_changes")] += f.capacity
				} else { // the series stays
					want[s("feeds")] += 0
					want[s("feed_capacity_changes")] += 0
				}
			}
		}
		require.Equal(t, want, got)
		for s, value := range before {
			if strings.HasSuffix(s.metric, "_total") {
				require.GreaterOrEqual(t, got[s], value, s)
			}
		}
		before = got
	}
	for range 5000 {
		var f *modelFeed
		if len(feeds) > 0 {
			f = feeds[r.IntN(len(feeds))]
		}
		switch n := r.IntN(20); {
		case n == 0 || f == nil:
			begin()
		case n == 1 && !f.ended:
			end(f)
		case n < 4:
			collect()
		case n < 12:
			write()
		case !f.ended:
			f.read(1 + r.IntN(4))
		}
	}
	collect()
	keepAlive(feeds)
	t.Log(outcomes)
	for _, o := range []string{"commits", "skipped", "behind", "ended", "ended unseen"} {
		require.Positive(t, outcomes[o], o)
	}
}

// Collections run beside each other, beside writers and beside feeds that come and go. For each of
// them, the counters only increase, and in the end they are no more than what was delivered.
func TestParallelCollections(t *testing.T) {
	t.Parallel()
	const readers, rounds = 4, 50
	games := newGames("games")
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(changefeedprom.NewCollector(games))
	ctx, cancel := context.WithCancel(t.Context())
	var received [readers]uint64
	var background, loops sync.WaitGroup
	background.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := games.Upsert(game{ID: i % 100, Score: i}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 3 {
		background.Go(func() {
			last := make(map[series]uint64)
			for ctx.Err() == nil {
				now := gather(t, registry)
				for s, value := range last {
					if s.metric == "changefeed_feed_delivered_changes_total" && now[s] < value {
						t.Errorf("%v decreased from %d to %d", s, value, now[s])
					}
				}
				last = now
			}
		})
	}
	for i := range received {
		loops.Go(func() {
			for range rounds {
				ctx, cancel := context.WithCancel(t.Context())
				n := 0
				for _, err := range games.Changes(ctx, changefeed.Named("loop")) {
					if err == nil {
						received[i]++
					}
					if n++; n == 100 {
						cancel()
					}
				}
				cancel()
			}
		})
	}
	loops.Wait()
	cancel()
	background.Wait()
	total := uint64(0)
	for _, n := range received {
		total += n
	}
	got := gather(t, registry)[series{"changefeed_feed_delivered_changes_total", "games", "loop"}]
	t.Log("delivered", total, "and seen", got)
	require.Positive(t, got)
	require.LessOrEqual(t, got, total)
}
