package embedded_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded/internal/cluster"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	cluster.Main()
	if url := os.Getenv(nodeVariable); url != "" {
		runNode(os.Args[1], os.Args[2], url)
	}
	os.Exit(m.Run())
}

// connect connects to servers, and again whenever the connection is lost.
func connect(t testing.TB, url string) jetstream.JetStream {
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	return js
}

// A server that does not write each message to the disk at once may lose messages that it has
// acknowledged. The publisher still has the rows, and replicas get them from a snapshot. Whatever the
// replicas had, they have the same rows in the end.
func TestAServerThatLosesMessages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cluster")
	servers, err := cluster.Start(dir, 1, false)
	require.NoError(t, err)
	t.Cleanup(servers.Close)
	from := newTables()
	lost := make(chan error, 100)
	p, err := natsfeed.Publish(within(t), connect(t, servers.URL()), "league", from.options(natsfeed.OnError(func(err error) { lost <- err }))...)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	replica := func() (tables, *natsfeed.Replica) {
		to := newTables()
		r, err := natsfeed.Follow(within(t), connect(t, servers.URL()), "league", to.options()...)
		require.NoError(t, err)
		t.Cleanup(r.Close)
		return to, r
	}
	insert := func(n int) {
		for range n {
			_, err := from.games.Insert(game{ID: from.games.Len()})
			require.NoError(t, err)
		}
		require.NoError(t, p.Wait(within(t), from.positions()...))
	}

	insert(10)
	require.NoError(t, servers.Kill(0))
	saved := filepath.Join(t.TempDir(), "saved")
	require.NoError(t, os.CopyFS(saved, os.DirFS(dir)))
	require.NoError(t, servers.Start(0))
	to, r := replica()
	behind, behindReplica := replica()
	insert(5)
	same(t, behindReplica, from, behind)
	behindReplica.Close()
	insert(5)
	same(t, r, from, to)

	require.NoError(t, servers.Kill(0))
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(saved)))
	require.NoError(t, servers.Start(0))
	_, err = from.players.Insert(player{Name: "Ann"})
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	require.ErrorContains(t, <-lost, "lost")
	same(t, r, from, to)
	late, lateReplica := replica()
	same(t, lateReplica, from, late)
	insert(30)
	same(t, r, from, to)
	same(t, lateReplica, from, late)
	again, err := natsfeed.Follow(within(t), connect(t, servers.URL()), "league", behind.options()...)
	require.NoError(t, err)
	t.Cleanup(again.Close)
	same(t, again, from, behind)
}

// A replica has the changes that its source retains, so feeds that followed the source, or another
// replica, go on at it.
func TestAFeedGoesOnAtANewReplica(t *testing.T) {
	s := start(t)
	from := newTables()
	from.games.Retain(100)
	p := publish(t, s, from, fail(t), natsfeed.SnapshotEvery(20))
	var places []changefeed.Position
	for n := range 60 {
		places = append(places, from.games.Position())
		require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
			for i := range n%3 + 1 {
				if _, err := from.games.In(tx).Upsert(game{(n + i) % 7, string(rune('a' + n%11))}); err != nil {
					return err
				}
			}
			_, err := from.games.In(tx).Delete(n % 7)
			return err
		}, from.games))
		require.NoError(t, p.Wait(within(t), from.positions()...))
	}
	to := newTables()
	to.games.Retain(100)
	r, err := natsfeed.Follow(within(t), s, "league", to.options(fail(t))...)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	same(t, r, from, to)
	read := func(table *changefeed.Table[int, game], after changefeed.Position) (all [][]changefeed.Change[game], errs []string) {
		for c, err := range table.Batches(t.Context(), 1, changefeed.After(after), changefeed.Poll(nil)) {
			if err != nil {
				errs = append(errs, err.Error())
				continue
			}
			all = append(all, slices.Clone(c))
		}
		return all, errs
	}
	for _, after := range places {
		want, wantErrs := read(from.games, after)
		got, gotErrs := read(to.games, after)
		require.Equal(t, wantErrs, gotErrs)
		require.Equal(t, want, got)
	}
}
