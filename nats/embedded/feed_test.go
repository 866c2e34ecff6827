package embedded_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded"
	"github.com/stretchr/testify/require"
)

type player struct {
	Name  string
	Team  string
	Score int
}

type game struct {
	ID     int
	Winner string
}

type tables struct {
	players *changefeed.Table[string, player]
	games   *changefeed.Table[int, game]
}

func newTables() tables {
	return tables{
		changefeed.NewTable("players", func(p *player) string { return p.Name }),
		changefeed.NewTable("games", func(g *game) int { return g.ID }),
	}
}

func (t tables) options(more ...natsfeed.Option) []natsfeed.Option {
	return append(more, natsfeed.Rows(t.players), natsfeed.Rows(t.games))
}

func (t tables) positions() []changefeed.Position {
	return []changefeed.Position{t.players.Position(), t.games.Position()}
}

func start(t *testing.T) *embedded.Server {
	s, err := embedded.Start(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func fail(t *testing.T) natsfeed.Option {
	return natsfeed.OnError(func(err error) { t.Error(err) })
}

func publish(t *testing.T, s jetstream.JetStream, from tables, opts ...natsfeed.Option) *natsfeed.Publisher {
	p, err := natsfeed.Publish(within(t), s, "league", from.options(opts...)...)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func follow(t *testing.T, s jetstream.JetStream, opts ...natsfeed.Option) (tables, *natsfeed.Replica) {
	to := newTables()
	r, err := natsfeed.Follow(within(t), s, "league", to.options(opts...)...)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return to, r
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

const snapshotEnds = "changefeed.league.snapshots.*.end"

// newSnapshots returns the snapshots that are made from now on.
func newSnapshots(t *testing.T, js jetstream.JetStream) jetstream.MessagesContext {
	c, err := js.CreateConsumer(within(t), "changefeed-snapshots_league", jetstream.ConsumerConfig{
		FilterSubject: snapshotEnds, DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckNonePolicy,
	})
	require.NoError(t, err)
	messages, err := c.Messages()
	require.NoError(t, err)
	return messages
}

// placeOf returns the sequence number of the last message that a snapshot certainly has, of its subject.
func placeOf(t *testing.T, subject string) (sequence uint64) {
	var term uint64
	_, err := fmt.Sscanf(subject, "changefeed.league.snapshots.%d-%d-", &term, &sequence)
	require.NoError(t, err)
	return sequence
}

// same requires that a replica has what its source has.
func same(t *testing.T, r *natsfeed.Replica, from, to tables) {
	t.Helper()
	require.NoError(t, r.Wait(within(t), from.positions()...))
	require.Equal(t, from.positions(), to.positions())
	require.Equal(t, from.players.Lineage(), to.players.Lineage())
	equalRows(t, from.players, to.players)
	equalRows(t, from.games, to.games)
}

func equalRows[K comparable, V any](t *testing.T, from, to *changefeed.Table[K, V]) {
	t.Helper()
	want, got := make(map[K]V), make(map[K]V)
	for k, v := range from.All() {
		want[k] = v
	}
	for k, v := range to.All() {
		got[k] = v
	}
	require.Equal(t, want, got)
}

func TestAReplica(t *testing.T) {
	s := start(t)
	from := newTables()
	_, err := from.players.Insert(player{"Ann", "red", 1})
	require.NoError(t, err)
	p := publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)

	feed := to.players.Changes(t.Context(), changefeed.Poll(nil))
	for n := range 100 {
		require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
			_, err := from.players.In(tx).Upsert(player{fmt.Sprint("player ", n%7), "blue", n})
			require.NoError(t, err)
			_, err = from.games.In(tx).Insert(game{n, "Ann"})
			return err
		}, from.players, from.games))
	}
	_, err = from.players.Delete("Ann")
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	same(t, r, from, to)
	seq := uint64(1)
	for c, err := range feed {
		require.NoError(t, err)
		seq++
		require.Equal(t, seq, c.Seq)
	}
	require.Equal(t, from.players.Seq(), seq)

	late, lateReplica := follow(t, s, fail(t))
	same(t, lateReplica, from, late)
}

// A snapshot comes every ten changes, and the log has no more than what came since the one before.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	p := publish(t, s, from, fail(t), natsfeed.SnapshotEvery(10))
	early, earlyReplica := follow(t, s, fail(t))
	for n := range 500 {
		_, err := from.games.Insert(game{ID: n})
		require.NoError(t, err)
		if n%10 == 0 {
			_, err := from.games.Delete(n)
			require.NoError(t, err)
			require.NoError(t, p.Wait(within(t), from.positions()...))
			if n%50 == 0 {
				late, lateReplica := follow(t, s, fail(t))
				same(t, lateReplica, from, late)
			}
		}
	}
	same(t, earlyReplica, from, early)

	p.Close() // so nothing is deleted any more
	snapshots, err := s.Stream(within(t), "changefeed-snapshots_league")
	require.NoError(t, err)
	info, err := snapshots.Info(within(t), jetstream.WithSubjectFilter(snapshotEnds))
	require.NoError(t, err)
	require.LessOrEqual(t, len(info.State.Subjects), 3, "two, and one that is just complete")
	log, err := s.Stream(within(t), "changefeed_league")
	require.NoError(t, err)
	first := log.CachedInfo().State.FirstSeq
	require.Greater(t, first, uint64(1))
	for subject := range info.State.Subjects {
		require.GreaterOrEqual(t, placeOf(t, subject)+1, first, "the log leads on from each snapshot")
	}
}

// A commit that is larger than a message comes as a whole.
func TestALargeCommit(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	commits := changefeed.Commits(t.Context(), []changefeed.AnyTable{to.games}, changefeed.Poll(nil))
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for n := range 100_000 {
			if _, err := from.games.In(tx).Insert(game{n, "somebody with a name"}); err != nil {
				return err
			}
		}
		return nil
	}, from.games))
	same(t, r, from, to)
	for c, err := range commits {
		require.NoError(t, err)
		require.Len(t, c, 100_000)
	}
}

// A publisher whose buffer is too small makes a snapshot, and so does one whose tables were reset.
func TestReplicasBeginAnew(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	publish(t, s, from, fail(t), natsfeed.Buffer(100))
	to, r := follow(t, s, fail(t))
	for n := range 20_000 {
		_, err := from.games.Insert(game{ID: n})
		require.NoError(t, err)
	}
	same(t, r, from, to)
	other := newTables()
	_, err := other.games.Insert(game{ID: 7})
	require.NoError(t, err)
	past := changefeed.Past[game]{Lineage: other.games.Lineage(), Rows: func(yield func(game) bool) { yield(game{ID: 7}) }}
	require.NoError(t, from.games.Reset(past))
	same(t, r, from, to)
	_, err = from.games.Insert(game{ID: 8})
	require.NoError(t, err)
	from.games.Fork()
	_, err = from.games.Insert(game{ID: 9})
	require.NoError(t, err)
	same(t, r, from, to)
	from.games.Fork()
	same(t, r, from, to)
}

func TestASecondPublisher(t *testing.T) {
	s := start(t)
	from := newTables()
	p := publish(t, s, from, fail(t))
	_, err := from.games.Insert(game{ID: 1})
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	_, err = natsfeed.Publish(within(t), s, "league", newTables().options()...)
	require.ErrorIs(t, err, natsfeed.ErrPublished)
	p.Close()
	require.ErrorIs(t, p.Wait(within(t), from.players.At(9)), natsfeed.ErrClosed)
	_, err = from.games.Insert(game{ID: 2})
	require.NoError(t, err)
	publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)
}

func TestPromote(t *testing.T) {
	s := start(t)
	from := newTables()
	errs := make(chan error, 100)
	p := publish(t, s, from, natsfeed.OnError(func(err error) { errs <- err }))
	to, r := follow(t, s, fail(t))
	other, otherReplica := follow(t, s, fail(t))
	feed := other.games.Changes(t.Context(), changefeed.Poll(nil))
	for n := range 100 {
		_, err := from.games.Insert(game{ID: n})
		require.NoError(t, err)
	}
	require.NoError(t, p.Wait(within(t), from.positions()...))
	promoted, err := r.Promote(within(t))
	require.NoError(t, err)
	t.Cleanup(promoted.Close)
	require.Equal(t, 100, to.games.Len())

	_, err = from.games.Insert(game{ID: 100})
	require.NoError(t, err)
	require.ErrorIs(t, p.Wait(within(t), from.positions()...), natsfeed.ErrFenced)
	_, err = to.games.Insert(game{100, "Bob"})
	require.NoError(t, err)
	require.NoError(t, promoted.Wait(within(t), to.positions()...))
	same(t, otherReplica, to, other)
	seq := uint64(0)
	for c, err := range feed {
		require.NoError(t, err)
		seq++
		require.Equal(t, seq, c.Seq)
	}
	require.Equal(t, to.games.Seq(), seq)

	old, err := natsfeed.Publish(within(t), s, "league", from.options()...)
	require.ErrorIs(t, err, natsfeed.ErrPublished)
	require.Nil(t, old)
	again, err := natsfeed.Follow(within(t), s, "league", from.options(fail(t))...)
	require.NoError(t, err)
	t.Cleanup(again.Close)
	same(t, again, to, from)
}
