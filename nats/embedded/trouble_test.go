package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded"
	"github.com/stretchr/testify/require"
)

func run(t *testing.T) *testServer {
	s := &testServer{dir: t.TempDir()}
	s.start(t)
	t.Cleanup(s.close)
	return s
}

// A gate keeps what a connection writes while it is shut.
type gate struct {
	*testServer
	mu   sync.Mutex
	shut bool
	kept []byte
	conn net.Conn
}

type gated struct {
	net.Conn
	gate *gate
}

func (g *gate) InProcessConn() (net.Conn, error) {
	conn, err := g.testServer.InProcessConn()
	g.conn = conn
	return gated{conn, g}, err
}

func (c gated) Write(data []byte) (int, error) {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if c.gate.shut {
		c.gate.kept = append(c.gate.kept, data...)
		return len(data), nil
	}
	return c.Conn.Write(data)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
	_, _ = g.conn.Write(g.kept)
}

// A publisher that is fenced while several of its messages are on their way is refused with all of them.
func TestAFencedPublisherWithPendingMessages(t *testing.T) {
	s := run(t)
	g := &gate{testServer: s}
	conn, err := nats.Connect("", nats.InProcessServer(g))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	from, to := newTables(), newTables()
	p, err := natsfeed.Publish(within(t), js, "league", from.options()...)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	r, err := natsfeed.Follow(within(t), s, "league", to.options(fail(t))...)
	require.NoError(t, err)
	same(t, r, from, to)

	g.close()
	sent := conn.Stats().OutMsgs
	for id := range 10 {
		_, err = from.games.Insert(game{ID: id})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return conn.Stats().OutMsgs > sent }, 10*time.Second, time.Millisecond)
	promoted, err := r.Promote(within(t))
	require.NoError(t, err)
	t.Cleanup(promoted.Close)
	g.open()
	require.ErrorIs(t, p.Wait(within(t), from.positions()...), natsfeed.ErrFenced)
	_, err = to.games.Insert(game{100, "Bob"})
	require.NoError(t, err)
	require.NoError(t, promoted.Wait(within(t), to.positions()...))
}

// A replica can be closed while it gets another consumer.
func TestCloseAfterAConsumerWasDeleted(t *testing.T) {
	t.Parallel()
	s := run(t)
	from := newTables()
	publish(t, s, from, fail(t))
	log, err := s.Stream(within(t), "changefeed_league")
	require.NoError(t, err)
	for n := range 100 {
		to := newTables()
		r, err := natsfeed.Follow(within(t), s, "league", to.options()...)
		require.NoError(t, err)
		_, err = from.games.Insert(game{ID: n})
		require.NoError(t, err)
		require.NoError(t, r.Wait(within(t), from.positions()...))
		for name := range log.ConsumerNames(within(t)).Name() {
			require.NoError(t, log.DeleteConsumer(within(t), name))
		}
		time.Sleep(time.Duration(n%30) * 20 * time.Microsecond)
		closed := make(chan struct{})
		go func() {
			r.Close()
			close(closed)
		}()
		select {
		case <-closed:
		case <-within(t).Done():
			t.Fatal("Close does not return", n)
		}
	}
}

// A replica whose consumer was deleted goes on within seconds.
func TestADeletedConsumer(t *testing.T) {
	t.Parallel()
	s := run(t)
	from, to := newTables(), newTables()
	publish(t, s, from, fail(t))
	r, err := natsfeed.Follow(within(t), s, "league", to.options()...)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	log, err := s.Stream(within(t), "changefeed_league")
	require.NoError(t, err)
	for n := range 200 {
		_, err := from.games.Insert(game{ID: n})
		require.NoError(t, err)
		if n%3 > 0 {
			require.NoError(t, r.Wait(within(t), from.positions()...), n)
		}
		for name := range log.ConsumerNames(within(t)).Name() {
			_ = log.DeleteConsumer(within(t), name)
		}
	}
	_, err = from.games.Insert(game{ID: 1000})
	require.NoError(t, err)
	same(t, r, from, to)
}

// A transaction after a Fork is sent whole: the message with the new name has not its positions.
func TestATransactionAfterAFork(t *testing.T) {
	s := start(t)
	from := newTables()
	publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	from.games.Fork()
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		_, err := from.players.In(tx).Insert(player{"Ann", "red", 1})
		require.NoError(t, err)
		_, err = from.games.In(tx).Insert(game{1, "Ann"})
		return err
	}, from.players, from.games))
	same(t, r, from, to)
}

// A snapshot's number is that of the end of a commit.
func TestSnapshotsBetweenLargeCommits(t *testing.T) {
	t.Parallel()
	s := run(t)
	from := newTables()
	publish(t, s, from, fail(t), natsfeed.SnapshotEvery(1))
	for n := range 20 {
		_, err := from.games.Upsert(game{1, strings.Repeat(fmt.Sprint(n%10), 1_500_000)})
		require.NoError(t, err)
		to := newTables()
		r, err := natsfeed.Follow(within(t), s, "league", to.options(fail(t))...)
		require.NoError(t, err)
		same(t, r, from, to)
		r.Close()
	}
}

// What Wait has waited for survives the publisher.
func TestAcknowledgedChangesThatWereSkipped(t *testing.T) {
	s := start(t)
	from := newTables()
	p := publish(t, s, from, natsfeed.Buffer(1), natsfeed.SnapshotEvery(1000))
	to, r := follow(t, s)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for id := range 10_000 {
			if _, err := from.games.In(tx).Insert(game{ID: id}); err != nil {
				return err
			}
		}
		return nil
	}, from.games))
	require.NoError(t, p.Wait(within(t), from.positions()...))
	p.Close()
	promoted, err := r.Promote(within(t))
	require.NoError(t, err)
	t.Cleanup(promoted.Close)
	require.Equal(t, 10_000, to.games.Len())
}

// A row that cannot be encoded is not acknowledged.
func TestWaitForARowThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	onError, errs := collect()
	p, err := natsfeed.Publish(within(t), s, "league", natsfeed.Rows(from.players, natsfeed.Encoding(picky, decodeJSON)), onError)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	_, err = from.players.Insert(player{"Bob", "bad", 1})
	require.NoError(t, err)
	await(t, errs, "change 1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.Error(t, p.Wait(ctx, from.players.Position()))
}

// A publisher goes on in a log whose messages were all deleted.
func TestPublishAfterAPurge(t *testing.T) {
	s := run(t)
	from := newTables()
	p, err := natsfeed.Publish(within(t), s, "league", from.options(fail(t))...)
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	to, r := newTables(), (*natsfeed.Replica)(nil)
	r, err = natsfeed.Follow(within(t), s, "league", to.options(fail(t))...)
	require.NoError(t, err)
	same(t, r, from, to)
	p.Close()
	log, err := s.Stream(within(t), "changefeed_league")
	require.NoError(t, err)
	require.NoError(t, log.Purge(within(t)))
	again, err := natsfeed.Publish(within(t), s, "league", from.options(fail(t))...)
	require.NoError(t, err)
	again.Close()
	require.NoError(t, log.Purge(within(t)))
	promoted, err := r.Promote(within(t))
	require.NoError(t, err)
	promoted.Close()
}

// A replica whose messages are gone waits for a snapshot, and does not go back to an old one.
func TestAReplicaDoesNotGoBack(t *testing.T) {
	t.Parallel()
	s := run(t)
	from := newTables()
	p := publish(t, s, from, fail(t))
	_, err := from.games.Insert(game{ID: 1})
	require.NoError(t, err)
	to, r := follow(t, s)
	same(t, r, from, to)
	_, err = from.games.Insert(game{ID: 2})
	require.NoError(t, err)
	same(t, r, from, to)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	log, err := s.Stream(within(t), "changefeed_league")
	require.NoError(t, err)
	require.NoError(t, log.Purge(within(t)))
	for name := range log.ConsumerNames(within(t)).Name() {
		require.NoError(t, log.DeleteConsumer(within(t), name))
	}
	late := newTables()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	lateReplica, err := natsfeed.Follow(ctx, s, "league", late.options()...)
	if err == nil {
		defer lateReplica.Close()
	}
	resets := 0
	for range late.games.Changes(ctx) {
		resets++
	}
	t.Log(resets, "resets of a new replica in three seconds")
	require.Less(t, resets, 2)
}

// A table that was reset to its own past, and forked then, has its replicas again.
func TestAForkAfterAResetToThePast(t *testing.T) {
	s := start(t)
	from := newTables()
	publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	past := changefeed.Past[game]{Lineage: from.games.Lineage()}
	for id := range 5 {
		_, err := from.games.Insert(game{ID: id})
		require.NoError(t, err)
	}
	same(t, r, from, to)
	snapshots := newSnapshots(t, s)
	defer snapshots.Stop()
	require.NoError(t, from.games.Reset(past))
	_, err := snapshots.Next(jetstream.NextContext(within(t)))
	require.NoError(t, err)
	from.games.Fork()
	_, err = from.games.Insert(game{ID: 7})
	require.NoError(t, err)
	same(t, r, from, to)
}

// A snapshot may take longer than five seconds.
func TestASlowSnapshot(t *testing.T) {
	t.Parallel()
	s := start(t)
	from, to := newTables(), newTables()
	_, err := from.players.Insert(player{"Ann", "red", 1})
	require.NoError(t, err)
	for id := range 50_000 {
		_, err := from.players.Insert(player{fmt.Sprint(id), "red", 1})
		require.NoError(t, err)
	}
	publish(t, s, from, fail(t))
	slow := natsfeed.Encoding(encodeJSON, func(data []byte, p *player) error {
		if string(data) == `{"Name":"0","Team":"red","Score":1}` {
			time.Sleep(6 * time.Second)
		}
		return decodeJSON(data, p)
	})
	r, err := natsfeed.Follow(within(t), s, "league", natsfeed.Rows(to.players, slow), natsfeed.Rows(to.games), fail(t))
	require.NoError(t, err)
	r.Close()
}

// A replica that was closed or promoted cannot be promoted, and does not fence the publisher.
func TestPromoteAClosedReplica(t *testing.T) {
	s := start(t)
	from := newTables()
	p := publish(t, s, from, fail(t))
	_, r := follow(t, s, fail(t))
	r.Close()
	_, err := r.Promote(within(t))
	require.ErrorIs(t, err, natsfeed.ErrClosed)
	to, r := follow(t, s, fail(t))
	_, err = from.games.Insert(game{ID: 1})
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	p.Close()
	promoted, err := r.Promote(within(t))
	require.NoError(t, err)
	t.Cleanup(promoted.Close)
	_, err = r.Promote(within(t))
	require.ErrorIs(t, err, natsfeed.ErrClosed)
	require.ErrorIs(t, r.Err(), natsfeed.ErrClosed)
	_, err = to.games.Insert(game{ID: 2})
	require.NoError(t, err)
	require.NoError(t, promoted.Wait(within(t), to.positions()...))
}

// An idle publisher learns that another one has taken over.
func TestAnIdlePublisherIsFenced(t *testing.T) {
	t.Parallel()
	s := start(t)
	onError, errs := collect()
	p := publish(t, s, newTables(), onError)
	require.NoError(t, p.Err())
	_, r := follow(t, s, fail(t))
	promoted, err := r.Promote(within(t))
	require.NoError(t, err)
	t.Cleanup(promoted.Close)
	select {
	case <-p.Done():
	case <-within(t).Done():
		t.Fatal("the publisher goes on")
	}
	require.ErrorIs(t, p.Err(), natsfeed.ErrFenced)
	await(t, errs, natsfeed.ErrFenced.Error())
}

// A replica to which somebody has written notices it with the next change, and begins anew.
func TestAWriteToAReplica(t *testing.T) {
	s := start(t)
	from := newTables()
	publish(t, s, from, fail(t))
	onError, errs := collect()
	to, r := follow(t, s, onError)
	_, err := to.games.Insert(game{7, "nobody"})
	require.NoError(t, err)
	_, err = from.games.Insert(game{1, "Ann"})
	require.NoError(t, err)
	await(t, errs, `table "games"`, "somebody has written to it")
	same(t, r, from, to)
	behind, err := r.Behind(within(t))
	require.NoError(t, err)
	require.Zero(t, behind)
}

// Of the retained changes, a snapshot has those after the last one that cannot be encoded.
func TestARetainedRowThatCannotBeEncoded(t *testing.T) {
	s := start(t)
	from, to := newTables(), newTables()
	from.players.Retain(10)
	to.players.Retain(10)
	opts := []natsfeed.Option{natsfeed.Rows(from.players, natsfeed.Encoding(picky, decodeJSON)), natsfeed.Rows(from.games)}
	for _, team := range []string{"red", "bad", "blue", "green"} {
		_, err := from.players.Upsert(player{"Bob", team, 1})
		require.NoError(t, err)
	}
	p, err := natsfeed.Publish(within(t), s, "league", append(opts, fail(t))...)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	r, err := natsfeed.Follow(within(t), s, "league", to.options(fail(t))...)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	var got []string
	for c, err := range to.players.Changes(t.Context(), changefeed.After(to.players.At(3)), changefeed.Poll(nil)) {
		require.NoError(t, err)
		got = append(got, c.New.Team)
	}
	require.Equal(t, []string{"green"}, got)
	require.Equal(t, 1, to.players.Info().Retained)
}

// A stream that was deleted comes again, with all rows.
func TestADeletedStream(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	p := publish(t, s, from, natsfeed.SnapshotEvery(5))
	to, r := follow(t, s)
	_, err := from.games.Insert(game{ID: 1})
	require.NoError(t, err)
	same(t, r, from, to)
	require.NoError(t, s.DeleteStream(within(t), "changefeed_league"))
	require.NoError(t, s.DeleteStream(within(t), "changefeed-snapshots_league"))
	_, err = from.games.Insert(game{ID: 2})
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	same(t, r, from, to)
	late, lateReplica := follow(t, s)
	same(t, lateReplica, from, late)

	require.NoError(t, s.DeleteStream(within(t), "changefeed-snapshots_league"))
	for range 10 { // so it is time for a snapshot
		_, err = from.games.Delete(1)
		require.NoError(t, err)
		_, err = from.games.Insert(game{ID: 1})
		require.NoError(t, err)
	}
	late, lateReplica = follow(t, s)
	same(t, lateReplica, from, late)
}

// Only one server runs in a directory.
func TestTwoServersInADirectory(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Start(dir)
	require.NoError(t, err)
	_, err = embedded.Start(dir)
	require.ErrorContains(t, err, "another server")
	s.Close()
	s, err = embedded.Start(dir)
	require.NoError(t, err)
	s.Close()
	_, err = embedded.Start("")
	require.ErrorContains(t, err, "no directory")
}

// A slowStream is one of snapshots that calls meanwhile before the first part of one is read.
type slowStream struct {
	jetstream.Stream
	meanwhile func()
	gone      *bool // set if the part is not there any more then
}

type slowSnapshots struct {
	jetstream.JetStream
	once      *sync.Once
	meanwhile func()
	gone      *bool
}

func (s slowSnapshots) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := s.JetStream.Stream(ctx, name)
	return slowStream{stream, func() { s.once.Do(s.meanwhile) }, s.gone}, err
}

func (s slowStream) GetMsg(ctx context.Context, sequence uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	m, err := s.Stream.GetMsg(ctx, sequence, opts...)
	if err == nil && strings.HasSuffix(m.Subject, ".part") {
		s.meanwhile()
		m, err = s.Stream.GetMsg(ctx, sequence, opts...)
		*s.gone = *s.gone || errors.Is(err, jetstream.ErrMsgNotFound)
	}
	return m, err
}

// The publisher may delete a snapshot that somebody reads, because there are two that are newer.
func TestASnapshotIsDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	s := start(t)
	from, to := newTables(), newTables()
	publish(t, s, from, natsfeed.SnapshotEvery(1), fail(t))
	gone := false
	js := slowSnapshots{s, new(sync.Once), func() {
		snapshots := newSnapshots(t, s)
		defer snapshots.Stop()
		for range 2 {
			_, err := from.games.Insert(game{ID: 1})
			require.NoError(t, err)
			_, err = snapshots.Next(jetstream.NextContext(within(t)))
			require.NoError(t, err)
			_, err = from.games.Delete(1)
			require.NoError(t, err)
			_, err = snapshots.Next(jetstream.NextContext(within(t)))
			require.NoError(t, err)
		}
	}, &gone}
	r, err := natsfeed.Follow(within(t), js, "league", to.options(fail(t))...)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	same(t, r, from, to)
	require.True(t, gone)
}

// A snapshot of which JetStream has lost a part is not there. The next publisher makes another one.
func TestAnIncompleteSnapshot(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	p := publish(t, s, from, fail(t))
	p.Close()
	snapshots, err := s.Stream(within(t), "changefeed-snapshots_league")
	require.NoError(t, err)
	require.NoError(t, snapshots.Purge(within(t), jetstream.WithPurgeSubject("changefeed.league.snapshots.*.part")))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	noted := make(chan error, 10)
	_, err = natsfeed.Follow(ctx, s, "league", newTables().options(natsfeed.OnError(func(err error) {
		noted <- err
		cancel()
	}))...)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, <-noted, "parts of the snapshot are missing")
	publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)
}

// A sender is a JetStream that calls sent after each message of a snapshot.
type sender struct {
	jetstream.JetStream
	sent func(m *nats.Msg)
}

func (s sender) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := s.JetStream.PublishMsg(ctx, m, opts...)
	if err == nil && strings.Contains(m.Subject, ".snapshots.") {
		s.sent(m)
	}
	return ack, err
}

// A snapshot whose parts somebody deletes while it is made is made again.
func TestPartsAreDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	var deletes atomic.Bool
	onError, errs := collect()
	publish(t, sender{s, func(*nats.Msg) {
		if deletes.CompareAndSwap(true, false) {
			snapshots, err := s.Stream(within(t), "changefeed-snapshots_league")
			require.NoError(t, err)
			require.NoError(t, snapshots.Purge(within(t)))
		}
	}}, from, natsfeed.SnapshotEvery(1), onError)
	deletes.Store(true)
	_, err := from.games.Insert(game{ID: 1})
	require.NoError(t, err)
	await(t, errs, "parts of the snapshot are missing")
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)
}

// An attempt to send a message that seems to fail may succeed, so the message is there twice.
func TestMessagesOfASnapshotTwice(t *testing.T) {
	t.Parallel()
	s := start(t)
	from := newTables()
	for id := range 3 {
		_, err := from.games.Insert(game{id, strings.Repeat("somebody ", 50_000)}) // more than a part
		require.NoError(t, err)
	}
	publish(t, sender{s, func(m *nats.Msg) {
		_, err := s.PublishMsg(within(t), m)
		require.NoError(t, err)
	}}, from, fail(t))
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)
}

// The lineage of a table may be larger than a message.
func TestALongLineage(t *testing.T) {
	t.Parallel()
	s := &testServer{dir: t.TempDir(), payload: 16 << 10}
	s.start(t)
	t.Cleanup(s.close)
	from := newTables()
	for id := range 2000 {
		_, err := from.games.Insert(game{ID: id})
		require.NoError(t, err)
		from.games.Fork()
	}
	publish(t, s, from, fail(t))
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)
	require.Equal(t, from.games.Lineage(), to.games.Lineage())
}
