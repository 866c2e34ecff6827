package changefeed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A ledger is the tables a and b, in which a score is an amount of money.
type ledger [2]board

func newLedger() (b ledger) {
	for i := range b {
		games := NewTable("ab"[i:i+1], func(g *game) int { return g.ID })
		games.Retain(1_000_000)
		b[i] = board{
			games,
			NewIndex(games, "player", func(g *game) string { return g.Player }),
			NewIndex(games, "score", func(g *game) int { return g.Score }),
			NewMultiIndex(games, "digits", digits),
		}
	}
	return b
}

func (b ledger) tables() []AnyTable { return []AnyTable{b[0].Table, b[1].Table} }

func (b ledger) seqs() [2]uint64 { return [2]uint64{b[0].Seq(), b[1].Seq()} }

// A ledgerModel is a ledger and all states that it has had. The sum of the scores is the same in
// each of them.
type ledgerModel struct {
	ledger
	mu     sync.Mutex
	states map[[2]uint64][2][]game
	final  [2]uint64 // of the last state, once there will be no other
}

func newLedgerModel(t *testing.T) *ledgerModel {
	m := &ledgerModel{ledger: newLedger(), states: make(map[[2]uint64][2][]game)}
	for _, table := range m.ledger {
		must[game](t)(table.Insert(game{ID: 1, Score: bankSum / 2}))
	}
	m.record()
	return m
}

func (m *ledgerModel) record() {
	var s [2][]game
	for i, table := range m.ledger {
		for _, g := range table.All() {
			s[i] = append(s[i], g)
		}
	}
	m.states[m.seqs()] = s
}

// write makes a write or a transaction.
func (m *ledgerModel) write(random *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.record()
	table, id := m.ledger[random.IntN(2)], random.IntN(8)
	name := []string{"Ann", "Bob", ""}[random.IntN(3)]
	switch random.IntN(4) {
	case 0:
		_, _ = table.Update(id, func(g *game) { g.Player = name }) // the row may not be there
		return
	case 1: // a row without money comes or goes
		_, _ = table.Compute(id, func(g *game) *game {
			if g == nil {
				return &game{ID: id, Player: name}
			}
			if g.Score == 0 {
				return nil
			}
			return g
		})
		return
	}
	_ = Transact(func(tx *Tx) error {
		for range random.IntN(4) {
			from, to := m.ledger[random.IntN(2)].In(tx), m.ledger[random.IntN(2)].In(tx)
			g, _ := from.Get(id)
			amount := random.IntN(g.Score + 1)
			switch {
			case g.Score == 0:
			case random.IntN(4) == 0:
				amount = g.Score
				_, _ = from.Delete(id)
			default:
				_, _ = from.Update(id, func(g *game) { g.Score -= amount })
			}
			id = random.IntN(8)
			_, _ = to.Compute(id, func(g *game) *game {
				if g == nil {
					g = &game{ID: id}
				}
				g.Score += amount
				return g
			})
		}
		if random.IntN(10) == 0 {
			return errTakenBack
		}
		return nil
	}, m.tables()...)
}

// compare compares a replica, which nobody else writes to, with the state that the ledger had
// after the same changes.
func (m *ledgerModel) compare(replica ledger) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := replica.seqs()
	want, ok := m.states[at]
	if !ok {
		return fmt.Errorf("the ledger was never at %v", at)
	}
	for i, table := range replica {
		if p := table.Position(); p != m.ledger[i].At(at[i]) {
			return fmt.Errorf("the position is %v", p)
		}
		if err := compareBoard(want[i], table); err != nil {
			return fmt.Errorf("at %v: %w", at, err)
		}
	}
	return nil
}

// compareBoard compares the rows of all selections.
func compareBoard(want []game, b board) error {
	for _, s := range boardSelections {
		rows := slices.DeleteFunc(slices.Clone(want), func(g game) bool { return !s.has(&g) })
		slices.SortFunc(rows, s.order)
		var got []game
		for _, g := range s.of(b).All() {
			got = append(got, g)
		}
		if !slices.Equal(rows, got) {
			return fmt.Errorf("%s of %q: %v, not %v", s.name, b.Name(), got, rows)
		}
	}
	return nil
}

// A wireCommit is a commit, or the beginning of the present rows, as a line of JSON.
type wireCommit struct {
	Begins   bool         `json:"begins,omitempty"`
	Changes  []wireChange `json:"changes,omitempty"`
	Lineages [][]Position `json:"lineages,omitempty"` // of the tables, with Ready
}

type wireChange struct {
	Table string   `json:"table"`
	At    Position `json:"at"`
	Kind  Kind     `json:"kind"`
	Old   *game    `json:"old"`
	New   *game    `json:"new"`
}

// wire returns a commit of the ledger's tables for the wire.
func (b ledger) wire(commit Commit) (line wireCommit) {
	for _, c := range commit {
		table := c.Table.(*Table[int, game])
		typed, _ := table.Typed(c)
		line.Changes = append(line.Changes, wireChange{table.Name(), c.Position(), c.Kind, typed.Old, typed.New})
		if c.Kind == Ready { // there are no forks meanwhile
			names := table.Lineage()
			names[len(names)-1].Seq = c.Seq
			line.Lineages = append(line.Lineages, names)
		}
	}
	return line
}

// A ledgerReplica follows a source through a pipe.
type ledgerReplica struct {
	ledger
	model    *ledgerModel
	overflow Overflow
	buffer   int
	ready    chan struct{} // closed when it has the rows for the first time
	done     chan struct{} // closed when it has come to the final state
	ended    chan struct{}

	rows    [2][]game // received, before Ready
	commits atomic.Int64
	reached map[string]int
}

func newLedgerReplica(m *ledgerModel, overflow Overflow, buffer int) *ledgerReplica {
	return &ledgerReplica{
		ledger: newLedger(), model: m, overflow: overflow, buffer: buffer, reached: make(map[string]int),
		ready: make(chan struct{}), done: make(chan struct{}), ended: make(chan struct{}),
	}
}

// follow makes the replica follow a source until the context is done, which it is after an error.
// follow returns when the replica has the rows.
func (r *ledgerReplica) follow(t *testing.T, ctx context.Context, cancel func(), source ledger) {
	from, to := io.Pipe()
	go func() {
		for ctx.Err() == nil && r.send(ctx, json.NewEncoder(to), source) == nil {
		}
		_ = to.Close()
	}()
	go func() {
		defer close(r.ended)
		defer from.Close()
		for lines := json.NewDecoder(from); ; {
			var line wireCommit
			err := lines.Decode(&line)
			if err == io.EOF {
				return
			}
			if err == nil {
				err = r.receive(line)
			}
			if err != nil {
				t.Error(err)
				cancel()
				return
			}
		}
	}()
	select {
	case <-r.ready:
	case <-r.ended:
	}
}

// send writes the lines of one feed. When commits were skipped, it returns, unless the feed goes
// on with the present rows.
func (r *ledgerReplica) send(ctx context.Context, to *json.Encoder, source ledger) error {
	if err := to.Encode(wireCommit{Begins: true}); err != nil {
		return err
	}
	for commit, err := range Commits(ctx, source.tables(), IncludeInitial(), OnOverflow(r.overflow), Buffer(r.buffer)) {
		line := wireCommit{Begins: true}
		if err == nil {
			line = source.wire(commit)
		} else if _, ok := errors.AsType[*SkippedError](err); !ok || r.overflow != Resync {
			return nil
		}
		if err := to.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// receive does what a line says.
func (r *ledgerReplica) receive(line wireCommit) (err error) {
	switch {
	case line.Begins:
		r.rows = [2][]game{}
		return nil
	case line.Changes[0].Kind == Initial:
		for _, c := range line.Changes {
			i := strings.Index("ab", c.Table)
			r.rows[i] = append(r.rows[i], *c.New)
		}
		return nil
	case line.Lineages != nil:
		err = r.refill(line)
	default:
		err = r.apply(line)
	}
	if err == nil {
		err = r.model.compare(r.ledger)
	}
	r.commits.Add(1)
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	if r.seqs() == r.model.final {
		select {
		case <-r.done:
		default:
			close(r.done)
		}
	}
	return err
}

// refill gives both tables the rows that were received.
func (r *ledgerReplica) refill(line wireCommit) error {
	isFirst := r.seqs() == [2]uint64{}
	err := Transact(func(tx *Tx) error {
		for i, table := range r.ledger {
			p := Past[game]{Lineage: line.Lineages[i], Rows: slices.Values(r.rows[i])}
			refill := table.In(tx).Reset
			if isFirst {
				refill = table.In(tx).Restore
			}
			if err := refill(p); err != nil {
				return err
			}
		}
		return nil
	}, r.tables()...)
	if isFirst {
		close(r.ready)
	} else {
		r.reached["reset"]++
	}
	return err
}

// apply makes the changes of a commit.
func (r *ledgerReplica) apply(line wireCommit) error {
	r.reached["applied"]++
	return Transact(func(tx *Tx) error {
		for _, c := range line.Changes {
			x := r.ledger[strings.Index("ab", c.Table)].In(tx)
			if err := x.Apply(c.At.History, Change[game]{c.At.Seq, c.Kind, c.Old, c.New}); err != nil {
				return err
			}
		}
		return nil
	}, r.tables()...)
}

// ledgerFeeds returns, for each kind of feed, a function that describes what it delivers from now
// on.
func ledgerFeeds(t *testing.T, b ledger) (feeds []func() string) {
	opts := []FeedOption{Poll(nil), Buffer(1_000_000)}
	add := func(opts ...FeedOption) {
		for _, table := range b {
			for _, s := range boardSelections {
				changes, batches := s.of(table).Changes(t.Context(), opts...), s.of(table).Batches(t.Context(), 1, opts...)
				feeds = append(feeds, func() string { return s.name + " " + textOf(changes) }, func() string { return s.name + " " + textOf(batches) })
			}
		}
	}
	add(opts...)
	commits := Commits(t.Context(), b.tables(), opts...)
	from := [2]Position{b[0].Position(), b[1].Position()}
	return append(feeds, func() string { return textOf(commits) }, func() string {
		var text []string
		for i, table := range b {
			text = append(text, textOf(table.Batches(t.Context(), 1, append(opts, After(from[i]))...)))
		}
		return strings.Join(text, "\n")
	})
}

// textOf describes the elements of a stream that polls, with their rows.
func textOf[T any](s Stream[T]) string {
	var text strings.Builder
	for v, err := range s {
		fmt.Fprintln(&text, v, err)
	}
	return text.String()
}

// A replica, and a replica of that, are fed through pipes. They are equal to the source after
// each commit, and all feeds deliver the same.
func TestReplicas(t *testing.T) {
	random := newRand(t)
	m := newLedgerModel(t)
	for range 20 {
		m.write(random)
	}
	m.ledger[1].Fork()
	ctx, cancel := context.WithCancel(t.Context())
	first, second := newLedgerReplica(m, Fail, DefaultBuffer), newLedgerReplica(m, Fail, DefaultBuffer)
	first.follow(t, ctx, cancel, m.ledger)
	second.follow(t, ctx, cancel, first.ledger)
	var feeds [3][]func() string
	for i, b := range []ledger{m.ledger, first.ledger, second.ledger} {
		feeds[i] = ledgerFeeds(t, b)
	}
	for range 300 {
		m.write(random)
	}
	m.finish(t, first, second)
	cancel()
	<-second.ended
	for i, want := range feeds[0] {
		text := want()
		require.Equal(t, text, feeds[1][i](), "the replica")
		require.Equal(t, text, feeds[2][i](), "the replica of the replica")
	}
	for i := range m.ledger {
		require.Equal(t, m.ledger[i].Lineage(), second.ledger[i].Lineage())
	}
	require.Greater(t, first.reached["applied"], 100)
	require.Equal(t, first.reached, second.reached)
}

// finish makes the last write, and waits for the replicas.
func (m *ledgerModel) finish(t *testing.T, replicas ...*ledgerReplica) {
	m.mu.Lock()
	must[game](t)(m.ledger[0].Insert(game{ID: 100}))
	m.record()
	m.final = m.seqs()
	m.mu.Unlock()
	for _, r := range replicas {
		select {
		case <-r.done:
		case <-r.ended:
		}
	}
}

// The same with buffers that are too small. Readers of the replicas see the same sum at every
// moment.
func TestReplicasThatAreTooSlow(t *testing.T) {
	t.Parallel()
	for _, overflow := range []Overflow{Skip, Fail, Resync} {
		for _, buffer := range []int{1, 3, 10} {
			t.Run(fmt.Sprintf("%v, %d", overflow, buffer), func(t *testing.T) {
				random := newRand(t)
				m := newLedgerModel(t)
				ctx, cancel := context.WithCancel(t.Context())
				first, second := newLedgerReplica(m, overflow, buffer), newLedgerReplica(m, overflow, buffer)
				first.follow(t, ctx, cancel, m.ledger)
				second.follow(t, ctx, cancel, first.ledger)
				var readers sync.WaitGroup
				for _, r := range []*ledgerReplica{first, second} {
					readers.Go(func() {
						for ctx.Err() == nil {
							if sum := r.sum(); sum != bankSum {
								t.Errorf("the sum is %d", sum)
								return
							}
							runtime.Gosched()
						}
					})
				}
				for n := 0; n < 3000 && (second.commits.Load() < 60 || n < 100); n++ {
					m.write(random)
					runtime.Gosched() // replicas get their turn
				}
				m.finish(t, first, second)
				cancel()
				<-first.ended
				<-second.ended
				readers.Wait()
				t.Log(first.reached, second.reached)
			})
		}
	}
}

// sum returns the sum of the scores at one moment.
func (b ledger) sum() (sum int) {
	_ = Read(func(tx *Tx) error {
		for _, g := range b[0].scores.From(0).In(tx).All() {
			sum += g.Score
		}
		for _, g := range b[1].In(tx).All() {
			sum += g.Score
		}
		return nil
	}, b.tables()...)
	return sum
}

// Read uses its tables while a transaction resets them.
func TestReadBesideAReset(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1, 2)
	require.NoError(t, Read(func(view *Tx) error {
		return Transact(func(tx *Tx) error {
			require.NoError(t, games.In(tx).Reset(Past[game]{Lineage: []Position{games.At(7)}}))
			require.Equal(t, 2, games.In(view).Len())
			return nil
		}, games)
	}, games))
	require.Zero(t, games.Len())
}

// newReplica returns a replica of a source, with the rows that it has now.
func newReplica(t *testing.T, source board) board {
	replica := newBoard()
	replica.Retain(1_000_000)
	p := Past[game]{Lineage: source.Lineage()}
	if source.Len() > 0 {
		p.Rows = slices.Values(rowsOf(t, source.All()))
	}
	require.NoError(t, replica.Restore(p))
	return replica
}

// Changes are applied in runs of any length, in any number of calls. Those that the replica has,
// also from the same call, are left out: they change nothing.
func TestApplyAgain(t *testing.T) {
	random := newRand(t)
	reached := make(map[string]int)
	for range 60 {
		source := newBoard()
		for range random.IntN(10) {
			writeSome(t, random, source.Table)
		}
		replica, begin := newReplica(t, source), int(source.Seq())
		feed := replica.Changes(t.Context(), Poll(nil))
		stream := source.Changes(t.Context(), Poll(nil))
		states := map[int][]game{begin: rowsOf(t, source.All())}
		var changes []Change[game]
		for range 1 + random.IntN(40) {
			if id := random.IntN(8); random.IntN(3) == 0 {
				_, _ = source.Delete(id) // it may not be there
			} else {
				must[game](t)(source.Upsert(game{ID: id, Player: []string{"Ann", "Bob", ""}[random.IntN(3)], Score: random.IntN(30)}))
			}
			states[int(source.Seq())] = rowsOf(t, source.All())
		}
		for c, err := range stream {
			require.NoError(t, err)
			changes = append(changes, c)
		}
		last := begin + len(changes)
		for seq := begin; seq < last; {
			from := begin + random.IntN(seq-begin+1)
			to := min(from+1+random.IntN(20), last)
			was := stateOf(replica.Table)
			run := changes[from-begin : to-begin]
			for len(run) > 0 {
				n := 1 + random.IntN(len(run))
				again := slices.Concat(run[:n], run[random.IntN(n):n])
				require.NoError(t, applyIn(random.IntN(3), replica.Table, source.Position().History, again...))
				run = run[n:]
			}
			if to <= seq {
				requireState(t, was, replica.Table)
				reached["no change"]++
				continue
			}
			reached["applied"]++
			seq = to
			require.Equal(t, source.At(uint64(seq)), replica.Position())
			require.NoError(t, compareBoard(states[seq], replica))
		}
		for _, c := range changes {
			got := take(feed, 1)
			require.Len(t, got, 1)
			require.Equal(t, c, got[0].v)
		}
		require.Empty(t, take(feed, -1))
	}
	requireOutcomes(t, reached, "applied", "no change")
}

// applyIn applies changes with Table.Apply, or with one or several calls in a transaction.
func applyIn[K, V any](way int, t *Table[K, V], of HistoryID, changes ...Change[V]) error {
	if way == 0 {
		return t.Apply(of, changes...)
	}
	return Transact(func(tx *Tx) error {
		if way == 1 {
			return t.In(tx).Apply(of, changes...)
		}
		for _, c := range changes {
			_ = t.In(tx).Apply(of, c) // Transact returns the error
		}
		return nil
	}, t)
}

func inserted(seq uint64, row game) Change[game] { return Change[game]{seq, Insert, nil, &row} }

func updated(seq uint64, old, row game) Change[game] { return Change[game]{seq, Update, &old, &row} }

func deleted(seq uint64, old game) Change[game] { return Change[game]{seq, Delete, &old, nil} }

// If a change cannot be applied, nothing is, wherever it stands among the changes of a call or
// of a transaction.
func TestChangesThatCannotBeApplied(t *testing.T) {
	source := newBoard()
	insertRows(t, source.Table, 1, 2)
	before := source.Position().History
	source.Fork()
	must[game](t)(source.Update(1, func(g *game) { g.Player, g.Score = "Bob", 7 }))
	insertRows(t, source.Table, 3)
	of, unknown := source.Position().History, HistoryID{1}
	bob := game{ID: 1, Player: "Bob", Score: 7}
	newKind := func(k Kind, c Change[game]) Change[game] { c.Kind = k; return c }
	diverged := "change {SEQ}: the table has diverged from its source, primary key "
	other := ": the stored row is not the old row of the change"
	missing := "change {SEQ}: changes are missing: the last change of the table is {LAST}"
	unique := `change {SEQ}: value "Bob" in unique index "unique" belongs to primary key 1, not to primary key `
	misfit := "change {SEQ}: must be an insert, update or delete with the rows of its kind, but is "
	for _, test := range []struct {
		name string
		of   HistoryID
		bad  Change[game] // 1 is the next number
		is   error
		want string
	}{
		{"gap", of, inserted(2, game{ID: 9}), ErrGap, missing},
		{"large gap", of, inserted(1<<63, game{ID: 9}), ErrGap, missing},
		{"missing row", of, updated(1, game{ID: 9}, game{ID: 9, Score: 1}), ErrDiverged, diverged + "9: no row is stored"},
		{"missing row of a delete", of, deleted(1, game{ID: 9}), ErrDiverged, diverged + "9: no row is stored"},
		{"other row", of, updated(1, game{ID: 1}, bob), ErrDiverged, diverged + "1" + other},
		{"other row of a delete", of, deleted(1, game{ID: 1, Player: "Bob"}), ErrDiverged, diverged + "1" + other},
		{"insert of a row that is there", of, inserted(1, bob), ErrDiverged, diverged + "1: a row is stored already"},
		{"key", of, updated(1, bob, game{ID: 2}), ErrKeyChanged, "change {SEQ}: a write must not change primary key 1"},
		{"unique index", of, inserted(1, game{ID: 9, Player: "Bob", Score: 7}), ErrDuplicateKey, unique + "9"},
		{"unique index of an update", of, updated(1, game{ID: 2}, game{ID: 2, Player: "Bob"}), ErrDuplicateKey, unique + "2"},
		{"unknown history", unknown, inserted(1, game{ID: 9}), ErrOtherHistory, "position of another history: " + unknown.String() + ", the table's is " + of.String()},
		{"zero history", HistoryID{}, inserted(1, game{ID: 9}), ErrOtherHistory, "position of another history: " + HistoryID{}.String() + ", the table's is " + of.String()},
		{"history that ended", before, updated(1, game{ID: 1}, bob), ErrOtherHistory, "change {SEQ}: position of another history: " + before.String() + " ends at change 2"},
		{"zero Change", of, Change[game]{}, nil, "change {SEQ}: must have a sequence number: none"},
		{"None", of, Change[game]{1, None, &bob, &bob}, nil, misfit + "{SEQ} none {1 Bob 7}"},
		{"Initial", of, newKind(Initial, inserted(1, game{ID: 9})), nil, misfit + "{SEQ} initial {9  0}"},
		{"Ready", of, Change[game]{Seq: 1, Kind: Ready}, nil, misfit + "{SEQ} ready"},
		{"Insert without a row", of, Change[game]{Seq: 1, Kind: Insert}, nil, misfit + "{SEQ} insert"},
		{"Insert with two rows", of, newKind(Insert, updated(1, bob, bob)), nil, misfit + "{SEQ} insert {1 Bob 7} -> {1 Bob 7}"},
		{"Update with one row", of, newKind(Update, inserted(1, bob)), nil, misfit + "{SEQ} update {1 Bob 7}"},
		{"Delete with a new row", of, newKind(Delete, inserted(1, bob)), nil, misfit + "{SEQ} delete {1 Bob 7}"},
		{"another Kind", of, newKind(9, inserted(1, bob)), nil, misfit + "{SEQ} Kind(9) {1 Bob 7}"},
		{"Seq 0", of, inserted(0, game{ID: 9}), nil, "change {SEQ}: must have a sequence number: insert {9  0}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			other := newGames()
			replica := newReplica(t, source)
			NewUniqueIndex(replica.Table, "unique", func(g *game) string { return cmp.Or(g.Player, fmt.Sprint(g.ID)) })
			open := []Stream[Change[game]]{replica.Changes(t.Context(), Poll(nil)), replica.players.Equal("Bob").Changes(t.Context(), Squash(0), Poll(nil)), other.Changes(t.Context(), Poll(nil))}
			was, otherWas, rows := stateOf(replica.Table), stateOf(other), rowsOf(t, replica.All())
			seq := replica.Seq()
			old := inserted(1, game{ID: 1})
			fine := func(n uint64) Change[game] { return inserted(seq+n, game{ID: 100 + int(n)}) }
			bad := func(n uint64) Change[game] {
				c := test.bad
				if c.Seq > 0 {
					c.Seq += seq + n - 1
				}
				return c
			}
			ann := game{ID: 1, Player: "Ann", Score: 4}
			for good, changes := range map[uint64][]Change[game]{ // by the number of changes before the bad one
				0: {bad(1), fine(2)},
				1: {old, fine(1), bad(2)},
				4: {fine(1), updated(seq+2, bob, ann), updated(seq+3, ann, bob), deleted(seq+4, game{ID: 3}), bad(5), fine(6)},
			} {
				history := test.of
				if history == before && good > 0 {
					continue // the others are not of this history
				}
				want := strings.NewReplacer("{SEQ}", fmt.Sprint(bad(good+1).Seq), "{LAST}", fmt.Sprint(seq+good)).Replace(test.want)
				want = `changefeed: apply to "games": ` + want
				check := func(err error) {
					t.Helper()
					require.EqualError(t, err, want)
					require.True(t, test.is == nil || errors.Is(err, test.is))
					requireState(t, was, replica.Table)
					requireState(t, otherWas, other)
					require.NoError(t, compareBoard(rows, replica))
				}
				check(replica.Apply(history, changes...))
				check(applyIn(2, replica.Table, history, changes...))
				for _, ignores := range []bool{false, true} {
					check(Transact(func(tx *Tx) error {
						must[game](t)(other.In(tx).Insert(game{ID: 5}))
						err := replica.In(tx).Apply(history, changes...)
						require.EqualError(t, err, want)
						if !ignores {
							return err
						}
						must[game](t)(other.In(tx).Insert(game{ID: 6}))
						require.Equal(t, err, replica.In(tx).Apply(of, fine(9)), "the first error")
						return nil
					}, other, replica))
				}
				require.Equal(t, errOops, Transact(func(tx *Tx) error {
					_ = replica.In(tx).Apply(history, changes...)
					return errOops
				}, replica), "the error of the function comes first")
				requireState(t, was, replica.Table)
			}
			for _, s := range open {
				require.Empty(t, take(s, -1))
			}
			require.NoError(t, replica.Apply(of, old, fine(1)), "the next transaction has no part in the failure")
			require.NoError(t, replica.Apply(before, old))
		})
	}
}

// A trap panics when a function has been called some times.
type trap struct {
	at   string
	left int
}

func (t *trap) pass(at string) {
	if t.at == at {
		if t.left--; t.left == 0 {
			panic(errOops)
		}
	}
}

// A panic in a function of the user leaves the table as it was, also if the function of Transact
// recovers from it.
func TestApplyPanics(t *testing.T) {
	row := func(id, value int, trap *trap) *touchy {
		return &touchy{id, value, &calls{equal: func() { trap.pass("equal") }}}
	}
	for _, at := range []string{"key", "equal", "index", "unique", "compare"} {
		trap := new(trap)
		newTable := func() *Table[int, touchy] {
			table := NewTableFunc("traps", func(r *touchy) int { trap.pass("key"); return r.ID },
				func(a, b int) int { trap.pass("compare"); return cmp.Compare(a, b) })
			NewIndex(table, "value", func(r *touchy) int { trap.pass("index"); return r.Value })
			NewUniqueIndex(table, "unique", func(r *touchy) int { trap.pass("unique"); return r.ID })
			return table
		}
		source := newTable()
		for id := range 4 {
			_, err := source.Insert(*row(id, 1, trap))
			require.NoError(t, err)
		}
		of := source.Position().History
		changes := []Change[touchy]{
			{5, Insert, nil, row(7, 1, trap)},
			{6, Update, row(2, 1, trap), row(2, 5, trap)},
			{7, Update, row(7, 1, trap), row(7, 1, trap)},
			{8, Delete, row(3, 1, trap), nil},
			{9, Delete, row(2, 5, trap), nil},
		}
		for n := 1; ; n++ {
			replica, other := newTable(), newGames()
			require.NoError(t, replica.Restore(Past[touchy]{Lineage: source.Lineage(), Rows: func(yield func(touchy) bool) {
				source.All()(func(_ int, r touchy) bool { return yield(r) })
			}}))
			was, otherWas := stateOf(replica), stateOf(other)
			apply := func(call func() error) (panicked bool) {
				defer func() {
					trap.at = ""
					if panicked = recover() != nil; at == "compare" && replica.Seq() == 9 {
						panicked = false // the panic came after the commit
					} else if panicked {
						requireState(t, was, replica)
					}
				}()
				trap.at, trap.left = at, n
				require.NoError(t, call())
				return false
			}
			if !apply(func() error { return replica.Apply(of, changes...) }) {
				require.Greater(t, n, 3, at)
				break
			}
			err := Transact(func(tx *Tx) error {
				must[game](t)(other.In(tx).Insert(game{ID: 1}))
				require.True(t, func() (panicked bool) {
					defer func() { panicked, trap.at = recover() != nil, "" }()
					trap.at, trap.left = at, n
					_ = replica.In(tx).Apply(of, changes...)
					return false
				}())
				require.EqualError(t, replica.In(tx).Apply(of), `changefeed: apply to "traps": panicked`)
				_, err := replica.In(tx).Delete(1)
				require.NoError(t, err)
				return nil
			}, replica, other)
			require.EqualError(t, err, `changefeed: apply to "traps": panicked`)
			requireState(t, was, replica)
			requireState(t, otherWas, other)
			require.NoError(t, replica.Apply(of, changes...), "once it does not panic")
			require.Equal(t, uint64(9), replica.Seq())
		}
	}
}

// An update of a field that a codec leaves out is made and published with its number. A replica of
// the replica gets it, too.
func TestApplyPublishesUpdatesThatChangeNothing(t *testing.T) {
	newTable := func() (*Table[int, game], Stream[Change[game]], Stream[Change[game]], Stream[Commit]) {
		table := newGames()
		players := NewIndex(table, "player", func(g *game) string { return g.Player })
		require.NoError(t, table.Restore(Past[game]{Lineage: []Position{{HistoryID{1}, 0}}}))
		return table, table.Changes(t.Context(), Poll(nil)), players.Equal("Ann").Changes(t.Context(), Poll(nil)),
			Commits(t.Context(), []AnyTable{table}, Poll(nil))
	}
	decoded := func(g *game) *game { // from a text without the score
		if g == nil {
			return nil
		}
		return &game{ID: g.ID, Player: g.Player}
	}
	source, changes, _, _ := newTable()
	must[game](t)(source.Insert(game{1, "Ann", 10}))
	must[game](t)(source.Update(1, func(g *game) { g.Score = 20 }))
	must[game](t)(source.Delete(1))
	for _, name := range []string{"the replica", "the replica of it"} {
		replica, next, ann, commits := newTable()
		for c, err := range changes {
			require.NoError(t, err)
			require.NoError(t, replica.Apply(HistoryID{1}, Change[game]{c.Seq, c.Kind, decoded(c.Old), decoded(c.New)}), name)
		}
		require.Equal(t, "1 insert {1 Ann 0} <nil>\n2 update {1 Ann 0} -> {1 Ann 0} <nil>\n3 delete {1 Ann 0} <nil>\n", textOf(ann), name)
		require.Equal(t, "[games: 1 insert {1 Ann 0}] <nil>\n[games: 2 update {1 Ann 0} -> {1 Ann 0}] <nil>\n[games: 3 delete {1 Ann 0}] <nil>\n",
			textOf(commits), name)
		require.Equal(t, source.Position(), replica.Position())
		changes = next
	}
}

// Old is compared as the rows say. The stored row itself is published as Old, and the row of the
// change becomes the stored one.
func TestApplyKeepsTheRowsOfTheTable(t *testing.T) {
	for _, way := range []int{0, 1, 2} {
		table := NewTable("rows", (*touchy).key)
		of := table.Position().History
		feed := table.Changes(t.Context(), Poll(nil))
		rows := []*touchy{{1, 1, nil}, {1, 2, nil}, {1, 2, nil}}
		equal := func(i int) *touchy { return new(*rows[i]) }
		require.NoError(t, applyIn(way, table, of, Change[touchy]{1, Insert, nil, rows[0]}, Change[touchy]{2, Update, equal(0), rows[1]},
			Change[touchy]{3, Update, equal(1), rows[2]}, Change[touchy]{4, Update, rows[2], rows[2]}, Change[touchy]{5, Delete, equal(2), nil}))
		stored := []*touchy{nil, rows[0], rows[1], rows[2], rows[2], nil}
		got := take(feed, -1)
		require.Len(t, got, 5)
		for i, c := range got {
			require.True(t, c.v.Old == stored[i] && c.v.New == stored[i+1], "%v", c.v)
		}
	}
}

// A row that is not equal to itself can be inserted by Apply, but neither updated nor deleted.
func TestApplyToARowThatIsNeverEqual(t *testing.T) {
	table := NewTable("rows", func(*blob) float64 { return 1 })
	of := table.Position().History
	nan := blob{math.NaN()}
	require.NoError(t, table.Apply(of, Change[blob]{1, Insert, nil, &nan}))
	was := stateOf(table)
	for _, c := range []Change[blob]{{2, Update, &nan, &blob{1}}, {2, Delete, &nan, nil}} {
		err := table.Apply(of, c)
		require.ErrorIs(t, err, ErrDiverged)
		require.EqualError(t, err, `changefeed: apply to "rows": change 2: the table has diverged from its source, primary key 1: the stored row is not the old row of the change`)
		requireState(t, was, table)
	}
}

// Apply of no changes is an error of its history or of its table alone. In Read it panics as a
// write does, and after a Reset in the same transaction as every use does.
func TestMisuseOfApply(t *testing.T) {
	games := newGames()
	of := games.Position().History
	require.NoError(t, games.Apply(of))
	require.EqualError(t, games.Apply(HistoryID{}), `changefeed: apply to "games": position of another history: AAAAAAAAAAAAAAAAAAAAAA, the table's is `+of.String())
	require.NoError(t, Read(func(tx *Tx) error {
		require.PanicsWithValue(t, `changefeed: a write to the table "games" in Read; use Transact`, func() { _ = games.In(tx).Apply(of, inserted(1, game{})) })
		return nil
	}, games))
	var x TxTable[int, game]
	require.NoError(t, Transact(func(tx *Tx) error {
		x = games.In(tx)
		_, err := x.Compute(1, func(*game) *game {
			require.PanicsWithValue(t, `changefeed: a function that a write to the table "games" calls writes to the same table; write before or after it`, func() { _ = x.Apply(of, inserted(1, game{})) })
			return nil
		})
		return err
	}, games))
	require.PanicsWithValue(t, `changefeed: the table "games" is used in a Transact or Read that has ended`, func() { _ = x.Apply(of) })
	require.NoError(t, Transact(func(tx *Tx) error {
		x = games.In(tx)
		require.NoError(t, x.Reset(Past[game]{Lineage: []Position{{of, 0}}}))
		require.PanicsWithValue(t, `changefeed: the table "games" is used after a Restore or Reset in the same transaction`, func() { _ = x.Apply(of) })
		return nil
	}, games))
	require.Zero(t, games.Seq())
	games.Drop()
	for _, changes := range [][]Change[game]{nil, {inserted(1, game{})}, {{}}} {
		for way, op := range []string{"apply to", "transaction on"} {
			err := applyIn(way, games, of, changes...)
			require.ErrorIs(t, err, ErrTableDropped)
			require.EqualError(t, err, fmt.Sprintf("changefeed: %s %q: table dropped", op, "games"))
		}
	}
}

// The source and the replica fork, and others write to the replica.
func TestApplyAfterForksAndOtherWrites(t *testing.T) {
	source := newBoard()
	insertRows(t, source.Table, 1, 2)
	old := source.Position().History
	replica := newReplica(t, source)
	source.Fork()
	of := source.Position().History
	c := must[game](t)(source.Insert(game{ID: 3}))
	require.ErrorIs(t, replica.Apply(of, c), ErrOtherHistory, "the replica does not know of the fork")
	require.NoError(t, replica.Apply(old, c), "it cannot know that the name is another")
	require.NoError(t, replica.Reset(Past[game]{Lineage: source.Lineage(), Rows: slices.Values(rowsOf(t, source.All()))}))
	require.NoError(t, replica.Apply(of, inserted(2, game{}), inserted(3, game{})), "left out")
	require.NoError(t, replica.Apply(old, inserted(2, game{})), "left out")
	require.ErrorIs(t, replica.Apply(old, inserted(3, game{})), ErrOtherHistory)
	require.NoError(t, replica.Apply(of, inserted(4, game{ID: 4})))
	require.Equal(t, []Position{{old, 2}, {of, 4}}, replica.Lineage())

	next := replica.Fork()
	for range 2 {
		require.NoError(t, replica.Apply(of, inserted(4, game{ID: 4})), "left out")
		require.NoError(t, replica.Apply(old, inserted(1, game{ID: 4})), "left out")
		require.EqualError(t, replica.Apply(of, inserted(4, game{ID: 4}), inserted(5, game{ID: 5})),
			`changefeed: apply to "games": change 5: position of another history: `+of.String()+" ends at change 4")
		require.NoError(t, replica.Apply(next.History, inserted(5, game{ID: 5})), "a change of its own, again")
	}

	insertRows(t, replica.Table, 6) // without Fork
	require.NoError(t, replica.Apply(next.History, inserted(6, game{ID: 7})), "taken for a change that it has")
	require.ErrorIs(t, replica.Apply(next.History, inserted(7, game{ID: 6})), ErrDiverged)
	require.NoError(t, replica.Apply(next.History, inserted(7, game{ID: 8})))
	require.Equal(t, []game{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4}, {ID: 5}, {ID: 6}, {ID: 8}}, rowsOf(t, replica.All()))
}

// The loop of a replica's feed applies the changes to the next replica, beside readers, feeds that
// come and go, and Apply of changes that the replica has.
func TestAChainOfReplicas(t *testing.T) {
	random := newRand(t)
	chain := []board{newBoard()}
	for i := range 3 {
		chain = append(chain, newReplica(t, chain[i]))
	}
	of := chain[0].Position().History
	ctx, cancel := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	for i, replica := range chain[1:] {
		stream := chain[i].Batches(ctx, 1)
		loops.Go(func() {
			last := []Change[game]{}
			for batch, err := range stream {
				if err == nil {
					err = errors.Join(replica.Apply(of, last...), replica.Apply(of, batch...), replica.Apply(of, batch...))
					last = slices.Clone(batch)
				}
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
			}
		})
		loops.Go(func() {
			for ctx.Err() == nil {
				rows := rowsOf(t, replica.players.From("").All())
				_ = replica.Position()
				_, _ = replica.Get(len(rows))
				take(replica.Range(2, 5).Changes(ctx, IncludeInitial(), Poll(nil)), 5)
				runtime.Gosched()
			}
		})
	}
	done := chain[3].Changes(ctx)
	for range 200 {
		writeSome(t, random, chain[0].Table)
	}
	end := must[game](t)(chain[0].Insert(game{ID: 100}))
	for c, err := range done {
		if err != nil || c.Seq == end.Seq {
			require.NoError(t, err)
			break
		}
	}
	cancel()
	loops.Wait()
	for _, replica := range chain {
		require.NoError(t, compareBoard(rowsOf(t, chain[0].All()), replica))
		require.Equal(t, chain[0].Lineage(), replica.Lineage())
	}
}

// A replica takes the names that its source has got, and its feeds go on.
func TestForkTo(t *testing.T) {
	source := newBoard()
	insertRows(t, source.Table, 1, 2)
	replica := newReplica(t, source)
	feed := replica.Changes(t.Context(), Poll(nil))
	first, forked := source.Position(), source.Fork()
	c := must[game](t)(source.Insert(game{ID: 3}))
	second := source.Fork()

	require.ErrorIs(t, replica.ForkTo(second), ErrGap)
	require.NoError(t, replica.ForkTo(forked))
	require.NoError(t, replica.ForkTo(forked), "again")
	require.NoError(t, replica.Apply(forked.History, c))
	require.ErrorIs(t, replica.ForkTo(forked), ErrGap)
	require.NoError(t, replica.ForkTo(second))
	require.Equal(t, source.Lineage(), replica.Lineage())
	require.Equal(t, "+3", allOf(feed))
	for _, refused := range []Position{{first.History, 3}, {forked.History, 3}, {HistoryID{}, 3}} {
		require.ErrorIs(t, replica.ForkTo(refused), ErrOtherHistory)
	}
	require.EqualError(t, replica.ForkTo(forked), fmt.Sprintf(`changefeed: fork "games" to %v: changes are missing: the table's last change is 3`, forked))
	require.Equal(t, source.Lineage(), replica.Lineage())
	replica.Drop()
	require.ErrorIs(t, replica.ForkTo(Position{HistoryID{1}, 3}), ErrTableDropped)
}
