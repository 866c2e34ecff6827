package embedded_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/stretchr/testify/require"
)

// A modelTable is a table as a map.
type modelTable[K comparable, V comparable] struct {
	rows    map[K]V
	lineage []changefeed.Position // the last one is the present position
}

func newModelTable[K, V comparable](t *changefeed.Table[K, V]) modelTable[K, V] {
	return modelTable[K, V]{make(map[K]V), t.Lineage()}
}

func (m *modelTable[K, V]) clone() modelTable[K, V] {
	return modelTable[K, V]{maps.Clone(m.rows), slices.Clone(m.lineage)}
}

func (m *modelTable[K, V]) at() changefeed.Position { return m.lineage[len(m.lineage)-1] }

// A state is what both tables have at one moment.
type state struct {
	players modelTable[string, player]
	games   modelTable[int, game]
}

func (s *state) clone() state { return state{s.players.clone(), s.games.clone()} }

func (s *state) positions() []changefeed.Position {
	return []changefeed.Position{s.players.at(), s.games.at()}
}

// A modelChange is a change of a commit. Its rows are values, or nil.
type modelChange struct {
	table         string
	at            changefeed.Position
	kind          changefeed.Kind
	before, after any
}

func (c modelChange) String() string {
	return fmt.Sprintf("%s %v %v %.60v -> %.60v", c.table, c.at, c.kind, c.before, c.after)
}

// A model has what the tables of the publisher have, and had.
type model struct {
	state
	past    []state                               // after each event; the last one is the present state
	acked   int                                   // the log has the events up to that index of past
	commits map[changefeed.Position][]modelChange // that anybody has made, by the position of the first change
}

// write does the same write to a table and to its model, and returns the change.
func write[K, V comparable](t *testing.T, table writer[K, V], name string, m *modelTable[K, V], op int, key K, row V, edit func(*V)) []modelChange {
	t.Helper()
	var made changefeed.Change[V]
	var err, wantErr error
	before, found := m.rows[key]
	after, remains := row, true
	switch op {
	case 0:
		made, err = table.Insert(row)
		if found {
			wantErr = changefeed.ErrDuplicateKey
		}
	case 1, 2:
		made, err = table.Upsert(row)
	case 3:
		made, err = table.Update(key, edit)
		after = before
		edit(&after)
	case 4:
		made, err = table.Replace(row)
	default:
		made, err = table.Delete(key)
		remains = false
	}
	if op > 2 && !found {
		wantErr = changefeed.ErrNotFound
	}
	if wantErr != nil {
		require.ErrorIs(t, err, wantErr)
		return nil
	}
	require.NoError(t, err)
	c := modelChange{table: name}
	switch {
	case !remains:
		c.kind, c.before = changefeed.Delete, before
		delete(m.rows, key)
	case !found:
		c.kind, c.after = changefeed.Insert, after
		m.rows[key] = after
	case before == after:
		require.Equal(t, changefeed.None, made.Kind)
		return nil
	default:
		c.kind, c.before, c.after = changefeed.Update, before, after
		m.rows[key] = after
	}
	last := &m.lineage[len(m.lineage)-1]
	last.Seq++
	c.at = *last
	require.Equal(t, c.kind, made.Kind)
	require.Equal(t, c.at.Seq, made.Seq)
	return []modelChange{c}
}

// A writer is a table, or a table in a transaction.
type writer[K, V any] interface {
	Insert(row V) (changefeed.Change[V], error)
	Upsert(row V) (changefeed.Change[V], error)
	Replace(row V) (changefeed.Change[V], error)
	Update(key K, edit func(row *V)) (changefeed.Change[V], error)
	Delete(key K) (changefeed.Change[V], error)
}

// A mirror is a copy of a table that is made from its feed alone.
type mirror[K, V comparable] struct {
	table *changefeed.Table[K, V]
	feed  changefeed.Stream[changefeed.Change[V]]
	rows  map[K]V
	seq   uint64
}

func newMirror[K, V comparable](t *testing.T, table *changefeed.Table[K, V]) *mirror[K, V] {
	return &mirror[K, V]{table, table.Changes(t.Context(), changefeed.Poll(nil)), maps.Collect(table.All()), table.Seq()}
}

// read reads the feed to its end. After the notice of a reset, the mirror is what the publisher's table
// was at the position of the reset. It returns the number of notices.
func (m *mirror[K, V]) read(t *testing.T, of func(s *state) *modelTable[K, V], past []state) (resets int) {
	t.Helper()
	for c, err := range m.feed {
		if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			require.True(t, skipped.Reset, "%v", err)
			resets++
			m.rows, m.seq = nil, skipped.To
			names := m.table.Lineage()
			for i := len(past) - 1; i >= 0 && m.rows == nil; i-- {
				if then := of(&past[i]); then.at().Seq == m.seq && has(names, then.at()) {
					m.rows = maps.Clone(then.rows)
				}
			}
			continue // if a later reset follows, the state may be one that is gone
		}
		require.NoError(t, err)
		m.seq++
		require.Equal(t, m.seq, c.Seq)
		if m.rows != nil {
			apply(t, m.table, m.rows, c)
		}
	}
	require.Equal(t, m.table.Seq(), m.seq)
	requireRows(t, m.rows, maps.Collect(m.table.All()), "the mirror of "+m.table.Name())
	return resets
}

// has reports whether a position is in the history that has the names.
func has(lineage []changefeed.Position, p changefeed.Position) bool {
	return slices.ContainsFunc(lineage, func(name changefeed.Position) bool {
		return name.History == p.History && p.Seq <= name.Seq
	})
}

// apply makes a change in the rows of a mirror.
func apply[K, V comparable](t *testing.T, table *changefeed.Table[K, V], rows map[K]V, c changefeed.Change[V]) {
	t.Helper()
	key := table.Key(c.Row())
	before, found := rows[key]
	require.Equal(t, c.Old != nil, found, "change %d", c.Seq)
	if found {
		require.True(t, before == *c.Old, "the row before change %d", c.Seq)
	}
	if c.New == nil {
		delete(rows, key)
	} else {
		rows[key] = *c.New
	}
}

// requireRows requires that two tables have the same rows. Large rows are cut in what it prints.
func requireRows[K, V comparable](t *testing.T, want, got map[K]V, what string) {
	t.Helper()
	if !maps.Equal(want, got) {
		for k, v := range want {
			if other, ok := got[k]; !ok || v != other {
				t.Errorf("%s: the row %v must be %.60v, but is %.60v (%v)", what, k, v, other, ok)
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				t.Errorf("%s: the row %v must not be there", what, k)
			}
		}
		t.FailNow()
	}
}

// A member is a process: tables that are published, or follow, or were left as they are.
type member struct {
	tables
	id      int
	replica *natsfeed.Replica // or nil
	fenced  atomic.Bool       // another member was promoted

	playersMirror *mirror[string, player]
	gamesMirror   *mirror[int, game]
	feed          changefeed.Stream[changefeed.Commit]
	rows          state // that feed has led to
}

func newMember(t *testing.T, id int, of tables) *member {
	m := &member{tables: of, id: id, playersMirror: newMirror(t, of.players), gamesMirror: newMirror(t, of.games)}
	m.feed = changefeed.Commits(t.Context(), []changefeed.AnyTable{of.players, of.games}, changefeed.Poll(nil))
	m.rows = m.present()
	return m
}

func (m *member) present() state {
	return state{
		modelTable[string, player]{maps.Collect(m.players.All()), m.players.Lineage()},
		modelTable[int, game]{maps.Collect(m.games.All()), m.games.Lineage()},
	}
}

// A script is a run of random operations, and what was done.
type script struct {
	*testing.T
	*rand.Rand
	model
	server      *testServer
	publisher   *natsfeed.Publisher
	source      *member
	members     []*member // without the source
	made        int
	every       int
	buffer      int
	large       int         // length of a row that needs several messages
	wasReset    bool        // since the log had everything
	tolerant    atomic.Bool // no server, so errors are expected
	reconnected atomic.Bool
	log         []string
	reached     map[string]int
}

func (s *script) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%d: ", len(s.past))+fmt.Sprintf(format, args...))
	word, _, _ := strings.Cut(format, " %")
	s.reached[word]++
}

// options are those of a publisher or a replica.
func (s *script) options(m *member) []natsfeed.Option {
	return m.options(natsfeed.SnapshotEvery(s.every), natsfeed.Buffer(s.buffer), natsfeed.OnError(func(err error) {
		// A snapshot that was begun before a reset, or whose server has ended, does not come about.
		if !s.tolerant.Load() && !m.fenced.Load() && !errors.Is(err, changefeed.ErrOtherHistory) &&
			!(s.reconnected.Load() && strings.Contains(err.Error(), "snapshot")) {
			s.Errorf("member %d: %v", m.id, err)
		}
	}))
}

func (s *script) publish() {
	var err error
	s.publisher, err = natsfeed.Publish(within(s.T), s.server, "league", s.options(s.source)...)
	require.NoError(s, err)
	for _, l := range []struct{ model, table *[]changefeed.Position }{
		{&s.players.lineage, ptr(s.source.players.Lineage())}, {&s.games.lineage, ptr(s.source.games.Lineage())},
	} {
		if forked := *l.table; len(forked) > len(*l.model) {
			require.Len(s, forked, len(*l.model)+1)
			*l.model = append(*l.model, forked[len(forked)-1])
		}
	}
	s.remember()
}

func ptr[T any](v T) *T { return &v }

func (s *script) follow(m *member) {
	m.fenced.Store(false)
	var err error
	m.replica, err = natsfeed.Follow(within(s.T), s.server, "league", s.options(m)...)
	require.NoError(s, err)
}

// remember is called after each event.
func (s *script) remember() { s.past = append(s.past, s.state.clone()) }

// commit does one write, or some of them in a transaction that may fail.
func (s *script) commit(m *member, to *model, writes int) {
	var commit []modelChange
	if writes == 1 {
		if s.IntN(2) == 0 {
			commit = s.writePlayer(m.players, to)
		} else {
			commit = s.writeGame(m.games, to)
		}
	} else {
		before, fails := to.state.clone(), s.IntN(8) == 0
		oops := errors.New("oops")
		err := changefeed.Transact(func(tx *changefeed.Tx) error {
			for range writes {
				if s.IntN(2) == 0 {
					commit = append(commit, s.writePlayer(m.players.In(tx), to)...)
				} else {
					commit = append(commit, s.writeGame(m.games.In(tx), to)...)
				}
			}
			if fails {
				return oops
			}
			return nil
		}, m.players, m.games)
		if fails {
			require.ErrorIs(s, err, oops)
			to.state = before
			return
		}
		require.NoError(s, err)
	}
	if len(commit) > 0 {
		to.commits[commit[0].at] = commit
		to.remember()
	}
}

func (m *model) remember() { m.past = append(m.past, m.state.clone()) }

func (s *script) writePlayer(table writer[string, player], to *model) []modelChange {
	name, add := fmt.Sprint("player ", s.IntN(12)), s.IntN(3)
	row := player{name, []string{"red", "blue"}[s.IntN(2)], s.IntN(3)}
	return write(s.T, table, "players", &to.players, s.IntN(6), name, row, func(p *player) { p.Score += add })
}

func (s *script) writeGame(table writer[int, game], to *model) []modelChange {
	id, winner := s.IntN(20), fmt.Sprint("player ", s.IntN(12))
	if s.large > 0 && s.IntN(50) == 0 {
		winner = strings.Repeat(winner, (s.large+s.IntN(2*s.large))/len(winner))
		s.reached["large row"]++
	}
	return write(s.T, table, "games", &to.games, s.IntN(6), id, game{id, winner}, func(g *game) { g.Winner = winner })
}

// wait waits until the log has everything.
func (s *script) wait() {
	require.NoError(s, s.publisher.Wait(within(s.T), s.positions()...))
	s.acked, s.wasReset = len(s.past)-1, false
}

// check requires that all live replicas have what the model has, and that all feeds have led there.
func (s *script) check() {
	s.wait()
	s.compare(s.source)
	for _, m := range s.members {
		if m.replica != nil {
			err := m.replica.Wait(within(s.T), s.positions()...)
			require.NoError(s, err, "member %d", m.id)
			s.compare(m)
		}
		s.read(m)
	}
	s.read(s.source)
}

func (s *script) compare(m *member) {
	require.Equal(s, s.players.lineage, m.players.Lineage(), "member %d", m.id)
	require.Equal(s, s.games.lineage, m.games.Lineage(), "member %d", m.id)
	requireRows(s.T, s.players.rows, maps.Collect(m.players.All()), fmt.Sprint("players of member ", m.id))
	requireRows(s.T, s.games.rows, maps.Collect(m.games.All()), fmt.Sprint("games of member ", m.id))
}

// read reads the feeds of a member. Nothing may come meanwhile.
func (s *script) read(m *member) {
	s.reached["reset of players"] += m.playersMirror.read(s.T, func(s *state) *modelTable[string, player] { return &s.players }, s.past)
	s.reached["reset of games"] += m.gamesMirror.read(s.T, func(s *state) *modelTable[int, game] { return &s.games }, s.past)
	lost := false
	for commit, err := range m.feed {
		if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			require.True(s, skipped.Reset, "%v", err)
			lost = true
			continue
		}
		require.NoError(s, err)
		var got []modelChange
		for _, c := range commit {
			of := modelChange{table: c.Table.Name(), at: c.Position(), kind: c.Kind}
			if typed, ok := m.players.Typed(c); ok {
				of.before, of.after = value(typed.Old), value(typed.New)
				if !lost {
					apply(s.T, m.players, m.rows.players.rows, typed)
				}
			} else if typed, ok := m.games.Typed(c); ok {
				of.before, of.after = value(typed.Old), value(typed.New)
				if !lost {
					apply(s.T, m.games, m.rows.games.rows, typed)
				}
			}
			got = append(got, of)
		}
		want := s.commits[got[0].at]
		require.True(s, slices.Equal(want, got), "a commit of member %d must be\n%v\nbut is\n%v", m.id, want, got)
		s.reached["commit read"]++
	}
	now := m.present()
	if !lost {
		requireRows(s.T, m.rows.players.rows, now.players.rows, "the commits of players")
		requireRows(s.T, m.rows.games.rows, now.games.rows, "the commits of games")
	}
	m.rows = now
}

// value returns a row as a value, or nil.
func value[V any](row *V) any {
	if row == nil {
		return nil
	}
	return *row
}

// live returns a replica that follows, or nil.
func (s *script) live() *member {
	return s.pick(func(m *member) bool { return m.replica != nil })
}

func (s *script) pick(which func(m *member) bool) *member {
	var list []*member
	for _, m := range s.members {
		if which(m) {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[s.IntN(len(list))]
}

// close ends a replica. Its feeds show what it has until then.
func (s *script) close(m *member) {
	m.replica.Close()
	m.replica = nil
	s.read(m)
}

func (s *script) fork() {
	if s.IntN(2) == 0 {
		s.note("fork players")
		s.players.lineage = append(s.players.lineage, s.source.players.Fork())
	} else {
		s.note("fork games")
		s.games.lineage = append(s.games.lineage, s.source.games.Fork())
	}
	s.remember()
}

// reset gives the games of the source another past: that of another table, or an earlier one of its own.
func (s *script) reset() {
	if s.IntN(2) == 0 {
		s.note("reset to another table")
		other := newTables().games
		s.games = newModelTable(other)
		for range s.IntN(5) {
			_ = s.writeGame(other, &s.model)
		}
	} else {
		i := s.IntN(len(s.past))
		s.note("reset to the past %d", i)
		s.games = s.past[i].games.clone()
	}
	past := changefeed.Past[game]{Lineage: s.games.lineage, Rows: maps.Values(s.games.rows)}
	require.NoError(s, s.source.games.Reset(past))
	s.remember()
	s.games.lineage = append(s.games.lineage, s.source.games.Fork())
	s.remember()
	s.wasReset = true
}

// closePublisher closes the publisher. The tables must have all that is in the log to be published again, so
// it does not leave a reset out.
func (s *script) closePublisher() {
	if s.wasReset {
		s.wait()
	}
	s.publisher.Close()
}

// republish closes the publisher, and publishes the same tables again.
func (s *script) republish() {
	s.note("republish")
	s.closePublisher()
	for range s.IntN(4) {
		s.commit(s.source, &s.model, 1+s.IntN(3))
	}
	if s.IntN(3) == 0 {
		s.fork()
	}
	s.publish()
}

// sameBut reports whether two lineages have the same changes. A name may come to replicas sooner or later
// than changes of the other table.
func sameBut(a, b []changefeed.Position) bool {
	changes := func(l []changefeed.Position) []changefeed.Position {
		for len(l) > 1 && l[len(l)-2].Seq == l[len(l)-1].Seq {
			l = l[:len(l)-1]
		}
		return l
	}
	return slices.Equal(changes(a), changes(b))
}

// promote makes a replica the publisher. The one before it is fenced. The log has a part of what it has
// written.
func (s *script) promote(m *member) {
	s.note("promote %d", m.id)
	s.read(s.source)
	s.source.fenced.Store(true)
	promoted, err := m.replica.Promote(within(s.T))
	require.NoError(s, err)
	old := model{state: s.state.clone(), commits: s.commits}
	i := len(s.past) - 1
	players, games := m.players.Lineage(), m.games.Lineage()
	for ; i >= s.acked; i-- {
		if sameBut(s.past[i].players.lineage, players) && sameBut(s.past[i].games.lineage, games) {
			break
		}
	}
	require.GreaterOrEqual(s, i, s.acked, "the replica has not all that was acknowledged, or something else")
	acked := &s.past[s.acked]
	hasNames := has(players, acked.players.at()) && has(games, acked.games.at())
	require.True(s, i > s.acked || hasNames, "a name that was acknowledged is missing")
	if i < len(s.past)-1 {
		s.reached["promote without the newest changes"]++
	}
	s.past = s.past[:i+1]
	s.state = s.past[i].clone()
	s.players.lineage, s.games.lineage = players, games
	s.remember()
	s.compare(m)

	source, publisher := s.source, s.publisher
	m.replica, s.source, s.publisher = nil, m, promoted
	s.members[slices.Index(s.members, m)] = source
	for seq := len(old.past); len(old.past) == seq; {
		s.commit(source, &old, 1)
	}
	err = publisher.Wait(within(s.T), source.positions()...)
	require.ErrorIs(s, err, natsfeed.ErrFenced)
	publisher.Close()
	s.read(source)
	if s.IntN(2) == 0 {
		s.follow(source)
	}
}

// purge deletes messages of the log, up to the newest snapshot or all of them.
func (s *script) purge() {
	log, err := s.server.Stream(within(s.T), "changefeed_league")
	require.NoError(s, err)
	if s.IntN(2) == 0 {
		snapshots, err := s.server.Stream(within(s.T), "changefeed-snapshots_league")
		require.NoError(s, err)
		info, err := snapshots.Info(within(s.T), jetstream.WithSubjectFilter(snapshotEnds))
		require.NoError(s, err)
		newest := uint64(0)
		for subject := range info.State.Subjects {
			newest = max(newest, placeOf(s.T, subject))
		}
		if newest == 0 {
			return
		}
		s.note("purge to a snapshot %d", newest)
		require.NoError(s, log.Purge(within(s.T), jetstream.WithPurgeSequence(newest+1)))
		s.changes(1)
		s.wait()
		return
	}
	s.note("purge all")
	s.wait()
	require.NoError(s, log.Purge(within(s.T)))
	s.newSnapshot()
}

// newSnapshot waits for a snapshot that is newer than the messages that the log has had so far. Replicas
// that have missed some of them need one, and so does a later publisher.
func (s *script) newSnapshot() {
	log, err := s.server.Stream(within(s.T), "changefeed_league")
	require.NoError(s, err)
	snapshots := newSnapshots(s.T, s.server)
	defer snapshots.Stop()
	s.changes(max(s.every, 40) + 1) // there are fewer rows
	s.wait()
	for {
		m, err := snapshots.Next(jetstream.NextContext(within(s.T)))
		require.NoError(s, err)
		if placeOf(s.T, m.Subject()) >= log.CachedInfo().State.LastSeq {
			return
		}
	}
}

// changes makes at least n changes.
func (s *script) changes(n int) {
	seq := func() int { return int(s.source.players.Seq() + s.source.games.Seq()) }
	for start := seq(); seq() < start+n; {
		s.commit(s.source, &s.model, 1)
	}
}

// deleteConsumers deletes what the replicas read the log with.
func (s *script) deleteConsumers() {
	s.note("delete the consumers")
	log, err := s.server.Stream(within(s.T), "changefeed_league")
	require.NoError(s, err)
	names := log.ConsumerNames(within(s.T))
	for name := range names.Name() {
		err := log.DeleteConsumer(within(s.T), name)
		if !errors.Is(err, jetstream.ErrConsumerNotFound) {
			require.NoError(s, err)
		}
	}
	require.NoError(s, names.Err())
	s.changes(1)
	s.check()
}

// restart closes everything, and opens it again with another server in the same directory.
func (s *script) restart() {
	s.note("restart")
	s.closePublisher()
	var live []*member
	for _, m := range s.members {
		if m.replica != nil {
			s.close(m)
			live = append(live, m)
		}
	}
	s.server.close()
	s.commit(s.source, &s.model, 1+s.IntN(3))
	s.server.start(s.T)
	s.publish()
	for _, m := range live {
		s.follow(m)
	}
}

// reconnect starts another server in the same directory, to which everybody connects again.
func (s *script) reconnect() {
	s.note("reconnect")
	s.reconnected.Store(true)
	s.tolerant.Store(true)
	s.server.stop()
	s.changes(1 + s.IntN(3))
	s.server.run(s.T)
	s.check()
	s.tolerant.Store(false)
}

func (s *script) run(steps int) {
	s.publish()
	for range steps {
		s.step()
	}
	s.check()
}

func (s *script) step() {
	switch n := s.IntN(100); {
	case n < 50:
		s.note("commit")
		s.commit(s.source, &s.model, max(1, s.IntN(6)-1))
	case n < 54:
		s.note("burst")
		for range 1 + s.IntN(60) {
			s.commit(s.source, &s.model, 1+s.IntN(2))
		}
	case n < 58:
		s.fork()
	case n < 60:
		s.reset()
	case n < 66:
		s.note("wait")
		s.wait()
	case n < 71:
		if len(s.members) < 4 {
			s.made++
			s.note("new replica %d", s.made)
			m := newMember(s.T, s.made, newTables())
			s.members = append(s.members, m)
			s.follow(m)
		}
	case n < 75:
		if m := s.live(); m != nil {
			s.note("close %d", m.id)
			s.close(m)
		}
	case n < 80:
		if m := s.pick(func(m *member) bool { return m.replica == nil }); m != nil {
			s.note("follow again %d", m.id)
			s.follow(m)
		}
	case n < 83:
		s.republish()
	case n < 87:
		if m := s.live(); m != nil {
			s.promote(m)
		}
	case n < 90:
		s.purge()
	case n < 92:
		s.deleteConsumers()
	case n < 93:
		s.restart()
	case n < 94:
		s.reconnect()
	default:
		s.note("check")
		s.check()
	}
}

// A testServer is a server to which its clients connect again after a restart.
type testServer struct {
	jetstream.JetStream
	dir     string
	payload int32
	conn    *nats.Conn
	server  atomic.Pointer[server.Server]
}

// InProcessConn implements [nats.InProcessConnProvider].
func (s *testServer) InProcessConn() (net.Conn, error) {
	if running := s.server.Load(); running != nil {
		return running.InProcessConn()
	}
	return nil, errors.New("the server does not run")
}

// run runs the server.
func (s *testServer) run(t *testing.T) {
	running, err := server.NewServer(&server.Options{
		ServerName: "changefeed", DontListen: true, JetStream: true, StoreDir: s.dir, NoSigs: true, NoLog: true, MaxPayload: s.payload,
	})
	require.NoError(t, err)
	go running.Start()
	require.True(t, running.ReadyForConnections(10*time.Second))
	s.server.Store(running)
}

// stop ends the server, and leaves the connection.
func (s *testServer) stop() {
	if running := s.server.Swap(nil); running != nil {
		running.Shutdown()
		running.WaitForShutdown()
	}
}

// start runs the server and connects to it.
func (s *testServer) start(t *testing.T) {
	s.run(t)
	var err error
	s.conn, err = nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	s.JetStream, err = jetstream.New(s.conn)
	require.NoError(t, err)
}

func (s *testServer) close() {
	s.conn.Close()
	s.stop()
}

var (
	modelRuns  = flag.Int("model.runs", 10, "the number of runs of TestAgainstAModel")
	modelSteps = flag.Int("model.steps", 100, "the number of steps of each of them")
)

// A random script is performed by the library and by a model. A failing seed is in the name of the
// subtest, and CHANGEFEED_SEED=... in the environment runs that one alone.
func TestAgainstAModel(t *testing.T) {
	t.Parallel()
	first, runs, reached := rand.Uint64(), *modelRuns, make(map[string]int)
	replay := os.Getenv("CHANGEFEED_SEED")
	if replay != "" {
		var err error
		first, err = strconv.ParseUint(replay, 10, 64)
		require.NoError(t, err)
		runs = 1
	}
	for i := range runs {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			runScript(t, rand.New(rand.NewPCG(seed, seed)), reached)
		})
		if !ok {
			return
		}
	}
	t.Log(reached)
}

func runScript(t *testing.T, random *rand.Rand, reached map[string]int) {
	s := &script{T: t, Rand: random, reached: reached, every: 1 + random.IntN(50), buffer: 100_000}
	if s.IntN(3) == 0 {
		s.buffer = 1 + s.IntN(20)
	}
	s.server = &testServer{dir: t.TempDir()}
	if s.IntN(2) == 0 {
		s.server.payload, s.large = 160_000, 60_000
	}
	s.note("every %d, buffer %d, large %d", s.every, s.buffer, s.large)
	s.server.start(t)
	defer s.server.close()
	defer func() {
		s.tolerant.Store(true)
		for _, m := range s.members {
			if m.replica != nil {
				m.replica.Close()
			}
		}
		if s.publisher != nil {
			s.publisher.Close()
		}
		if t.Failed() {
			t.Log(strings.Join(s.log[max(0, len(s.log)-40):], "\n"))
		}
	}()
	s.source = newMember(t, 0, newTables())
	s.model = model{state: s.source.present(), commits: make(map[changefeed.Position][]modelChange)}
	s.remember()
	s.run(*modelSteps)
}
