package embedded_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/stretchr/testify/require"
)

// A fullDisk is a JetStream that stores no snapshots while full is true.
type fullDisk struct {
	jetstream.JetStream
	full *atomic.Bool
}

var errFull = errors.New("the disk is full")

func (d fullDisk) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if d.full.Load() && strings.Contains(m.Subject, ".snapshots.") {
		return nil, errFull
	}
	return d.JetStream.PublishMsg(ctx, m, opts...)
}

// After a gap, nothing is acknowledged until there is a snapshot. A publisher that ends before that has
// told nobody otherwise, so a replica can be promoted that knows nothing behind the gap. So can one that
// is new.
func TestAGapWithoutASnapshot(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Promote", "Follow", "Publish"} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			from := newTables()
			var full atomic.Bool
			noted := make(chan error, 100)
			p, err := natsfeed.Publish(within(t), fullDisk{s, &full}, "league", from.options(natsfeed.OnError(func(err error) { noted <- err }))...)
			require.NoError(t, err)
			t.Cleanup(p.Close)
			to, r := follow(t, s)
			_, err = from.games.Insert(game{ID: 1})
			require.NoError(t, err)
			require.NoError(t, p.Wait(within(t), from.positions()...))
			same(t, r, from, to)
			acknowledged := from.positions()

			full.Store(true)
			reset := []game{{ID: 2}, {ID: 3}}
			require.NoError(t, from.games.Reset(changefeed.Past[game]{
				Lineage: append(from.games.Lineage(), changefeed.Position{History: changefeed.HistoryID{1}, Seq: 9}), Rows: slices.Values(reset),
			}))
			require.ErrorIs(t, <-noted, errFull) // so the log has the gap
			waited := make(chan error)
			go func() { waited <- p.Wait(within(t), from.positions()...) }()
			_, err = from.games.Insert(game{ID: 4})
			require.NoError(t, err)
			require.ErrorIs(t, <-noted, errFull)
			p.Close()
			require.ErrorIs(t, <-waited, natsfeed.ErrClosed)

			_, err = natsfeed.Publish(within(t), s, "league", newTables().options()...)
			require.ErrorIs(t, err, natsfeed.ErrPublished)
			if name == "Follow" {
				r.Close()
				to, r = follow(t, s)
			}
			if name == "Publish" {
				r.Close()
				p, err = natsfeed.Publish(within(t), s, "league", to.options(fail(t))...)
			} else {
				p, err = r.Promote(within(t))
			}
			require.NoError(t, err)
			t.Cleanup(p.Close)
			require.NoError(t, p.Wait(within(t), acknowledged...))
			require.Equal(t, 1, to.games.Len())
			_, err = to.games.Insert(game{ID: 5})
			require.NoError(t, err)
			late, lateReplica := follow(t, s)
			same(t, lateReplica, to, late)
		})
	}
}

// A replica that is promoted has everything that was acknowledged, also behind a gap.
func TestPromoteBehindAGap(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	p := publish(t, s, from)
	for n := range 20 {
		to, r := follow(t, s)
		other := newTables()
		_, err := other.games.Insert(game{ID: n})
		require.NoError(t, err)
		require.NoError(t, from.games.Reset(changefeed.Past[game]{Lineage: other.games.Lineage(), Rows: slices.Values([]game{{ID: n}})}))
		require.NoError(t, p.Wait(within(t), from.positions()...))
		promoted, err := r.Promote(within(t))
		require.NoError(t, err)
		t.Cleanup(promoted.Close)
		equalRows(t, from.games, to.games)
		from, p = to, promoted
	}
}
