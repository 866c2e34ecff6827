package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A bank is the tables a and b, in which a score is an amount of money.
type bank [2]board

func newBank() (b bank) {
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

func (b bank) tables() []AnyTable { return []AnyTable{b[0].Table, b[1].Table} }

func (b bank) seqs() [2]uint64 { return [2]uint64{b[0].Seq(), b[1].Seq()} }

// A bankModel is a bank and all states that it has had. The sum of the scores is the same in
// each of them.
type bankModel struct {
	bank
	mu     sync.Mutex
	states map[[2]uint64][2][]game
	final  [2]uint64 // of the last state, once there will be no other
}

func newBankModel(t *testing.T) *bankModel {
	m := &bankModel{bank: newBank(), states: make(map[[2]uint64][2][]game)}
	for _, table := range m.bank {
		must[game](t)(table.Insert(game{ID: 1, Score: bankSum / 2}))
	}
	m.record()
	return m
}

func (m *bankModel) record() {
	var s [2][]game
	for i, table := range m.bank {
		for _, g := range table.All() {
			s[i] = append(s[i], g)
		}
	}
	m.states[m.seqs()] = s
}

// write makes a write or a transaction.
func (m *bankModel) write(random *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.record()
	table, id := m.bank[random.IntN(2)], random.IntN(8)
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
			from, to := m.bank[random.IntN(2)].In(tx), m.bank[random.IntN(2)].In(tx)
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

// compare compares a replica, which nobody else writes to, with the state that the bank had
// after the same changes.
func (m *bankModel) compare(replica bank) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := replica.seqs()
	want, ok := m.states[at]
	if !ok {
		return fmt.Errorf("the bank was never at %v", at)
	}
	for i, table := range replica {
		if p := table.Position(); p != m.bank[i].At(at[i]) {
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

// wire returns a commit of the bank's tables for the wire.
func (b bank) wire(commit Commit) (line wireCommit) {
	for _, c := range commit {
		table := c.Table.(*Table[int, game])
		typed, _ := table.Typed(c)
		line.Changes = append(line.Changes, wireChange{table.Name(), table.At(c.Seq), c.Kind, typed.Old, typed.New})
		if c.Kind == Ready { // there are no forks meanwhile
			names := table.Lineage()
			names[len(names)-1].Seq = c.Seq
			line.Lineages = append(line.Lineages, names)
		}
	}
	return line
}

// A bankReplica follows a source through a pipe.
type bankReplica struct {
	bank
	model    *bankModel
	overflow Overflow
	buffer   int
	ready    chan struct{} // closed when it has the rows for the first time
	done     chan struct{} // closed when it has come to the final state
	ended    chan struct{}

	rows    [2][]game // received, before Ready
	commits atomic.Int64
	reached map[string]int
}

func newBankReplica(m *bankModel, overflow Overflow, buffer int) *bankReplica {
	return &bankReplica{
		bank: newBank(), model: m, overflow: overflow, buffer: buffer, reached: make(map[string]int),
		ready: make(chan struct{}), done: make(chan struct{}), ended: make(chan struct{}),
	}
}

// follow makes the replica follow a source until the context is done.
func (r *bankReplica) follow(t *testing.T, ctx context.Context, source bank) {
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
				return
			}
		}
	}()
}

// send writes the lines of one feed. When commits were skipped, it returns, unless the feed goes
// on with the present rows.
func (r *bankReplica) send(ctx context.Context, to *json.Encoder, source bank) error {
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
func (r *bankReplica) receive(line wireCommit) (err error) {
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
		err = r.model.compare(r.bank)
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
func (r *bankReplica) refill(line wireCommit) error {
	isFirst := r.seqs() == [2]uint64{}
	err := Transact(func(tx *Tx) error {
		for i, table := range r.bank {
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
func (r *bankReplica) apply(line wireCommit) error {
	r.reached["applied"]++
	return Transact(func(tx *Tx) error {
		for _, c := range line.Changes {
			x := r.bank[strings.Index("ab", c.Table)].In(tx)
			if err := x.Apply(c.At.History, Change[game]{c.At.Seq, c.Kind, c.Old, c.New}); err != nil {
				return err
			}
		}
		return nil
	}, r.tables()...)
}

// bankFeeds returns, for each kind of feed, a function that describes what it delivers from now
// on.
func bankFeeds(t *testing.T, b bank) (feeds []func() string) {
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
	m := newBankModel(t)
	for range 20 {
		m.write(random)
	}
	m.bank[1].Fork()
	ctx, cancel := context.WithCancel(t.Context())
	first, second := newBankReplica(m, Fail, DefaultBuffer), newBankReplica(m, Fail, DefaultBuffer)
	first.follow(t, ctx, m.bank)
	<-first.ready
	second.follow(t, ctx, first.bank)
	<-second.ready
	var feeds [3][]func() string
	for i, b := range []bank{m.bank, first.bank, second.bank} {
		feeds[i] = bankFeeds(t, b)
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
	for i := range m.bank {
		require.Equal(t, m.bank[i].Lineage(), second.bank[i].Lineage())
	}
	require.Greater(t, first.reached["applied"], 100)
	require.Equal(t, first.reached, second.reached)
}

// finish makes the last write, and waits for the replicas.
func (m *bankModel) finish(t *testing.T, replicas ...*bankReplica) {
	m.mu.Lock()
	must[game](t)(m.bank[0].Insert(game{ID: 100}))
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
	for _, overflow := range []Overflow{Skip, Fail, Resync} {
		for _, buffer := range []int{1, 3, 10} {
			t.Run(fmt.Sprintf("%v, %d", overflow, buffer), func(t *testing.T) {
				random := newRand(t)
				m := newBankModel(t)
				ctx, cancel := context.WithCancel(t.Context())
				first, second := newBankReplica(m, overflow, buffer), newBankReplica(m, overflow, buffer)
				first.follow(t, ctx, m.bank)
				<-first.ready
				second.follow(t, ctx, first.bank)
				<-second.ready
				var readers sync.WaitGroup
				for _, r := range []*bankReplica{first, second} {
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
func (b bank) sum() (sum int) {
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
