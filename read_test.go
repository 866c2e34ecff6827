package changefeed

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A readModel is a board and a map that has the same writes.
type readModel struct {
	board
	rows map[int]game
}

// write makes a random write to the map, and to w.
func (m *readModel) write(r *rand.Rand, w rowWriter[game]) {
	g := game{ID: r.IntN(150), Player: []string{"", "Ann", "Bob", "Eve"}[r.IntN(4)], Score: r.IntN(40)}
	if r.IntN(3) == 0 {
		delete(m.rows, g.ID)
		_, _ = w.Delete(g.ID)
		return
	}
	m.rows[g.ID] = g
	_, _ = w.Upsert(g)
}

func (m *readModel) sorted() []game { return slices.SortedFunc(maps.Values(m.rows), byID) }

// requireRead requires that everything that can be read in tx is the given rows.
func (m *readModel) requireRead(t *testing.T, tx *Tx, rows []game) {
	t.Helper()
	w := m.In(tx)
	boardSelections[0].requireRowsOf(t, rows, w)
	for _, s := range boardSelections {
		s.requireRowsOf(t, rows, s.of(m.board).In(tx))
	}
	for id := range 150 {
		i, want := slices.BinarySearchFunc(rows, id, func(g game, id int) int { return cmp.Compare(g.ID, id) })
		if g, ok := w.Get(id); ok != want || ok && g != rows[i] {
			require.Fail(t, "Get", "%d: %v, %t", id, g, ok)
		}
	}
}

// A begun is an iterator of which the first row has been read, and all rows that it must have.
type begun struct {
	next func() (int, game, bool)
	stop func()
	want []game
	got  []game
}

func beginRange(seq iter.Seq2[int, game], want []game) begun {
	b := begun{want: want}
	b.next, b.stop = iter.Pull2(seq)
	b.read(1)
	return b
}

func (b *begun) read(n int) {
	for range n {
		if _, g, ok := b.next(); ok {
			b.got = append(b.got, g)
		}
	}
}

func (b *begun) requireRest(t *testing.T) {
	t.Helper()
	b.read(200)
	b.stop()
	require.Equal(t, b.want, b.got)
}

// In a transaction, everything that is read has the writes so far. In Read, it has those made
// before Read began. Iterators stay at the moment at which they began, also if they outlive the
// function, and also if the transaction is rolled back.
func TestReadsInTransactAndInRead(t *testing.T) {
	r := newRand(t)
	for range 12 {
		m := &readModel{newBoard(), make(map[int]game)}
		feed := m.Row(7).Changes(t.Context()) // a cell that stays when its row is deleted
		for range 200 {
			m.write(r, m)
		}
		var iterators []begun
		begin := func(tx *Tx) {
			s := boardSelections[r.IntN(len(boardSelections))].of(m.board)
			seq := s.In(tx).All()
			if r.IntN(2) == 0 {
				seq = s.In(tx).Backward()
			}
			iterators = append(iterators, beginRange(seq, rowsOf(t, seq)))
		}
		readSome := func() {
			for i := range iterators {
				iterators[i].read(r.IntN(20))
			}
		}

		require.NoError(t, Read(func(tx *Tx) error {
			before := m.sorted()
			for range 3 {
				m.requireRead(t, tx, before)
				for range 40 {
					m.write(r, m)
				}
				begin(tx)
				readSome()
			}
			require.Equal(t, len(before), m.In(tx).Len())
			return nil
		}, m))

		result := []error{nil, errTakenBack}[r.IntN(2)]
		before, state := maps.Clone(m.rows), stateOf(m.Table)
		outside := beginRange(m.All(), m.sorted())
		require.Equal(t, result, Transact(func(tx *Tx) error {
			for range 3 {
				for range 30 {
					m.write(r, m.In(tx))
				}
				m.requireRead(t, tx, m.sorted())
				begin(tx)
				begin(tx)
				readSome()
				for range r.IntN(3) {
					i := r.IntN(len(iterators))
					iterators[i].requireRest(t)
					iterators = slices.Delete(iterators, i, i+1)
				}
			}
			return result
		}, m))
		if result != nil {
			require.Equal(t, state, stateOf(m.Table)) // goroutines that close snapshots may have the lock
			m.rows = before
		}
		for range 40 {
			m.write(r, m)
		}
		outside.requireRest(t)
		for _, i := range iterators {
			i.requireRest(t)
		}
		for _, s := range boardSelections {
			s.requireRows(t, m.board)
		}
		m.requireIndexes(t)
		requireClosed(t, m.Table)
		runtime.KeepAlive(feed)
	}
}

// A Get beside an open transaction returns the row before it, and does not wait. The Get may
// even be in the transaction, or in a function that a write calls.
func TestAGetBesideATransaction(t *testing.T) {
	a, b := newGames(), newGames()
	insertRows(t, a, 1, 2)
	insertRows(t, b, 1)
	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(a.In(tx).Update(1, func(g *game) {
			g.Score = 1
			now, _ := a.Get(1)
			require.Zero(t, now.Score)
		}))
		must[game](t)(a.In(tx).Delete(2))
		must[game](t)(a.In(tx).Insert(game{ID: 3}))
		must[game](t)(b.In(tx).Delete(1))
		must[game](t)(b.In(tx).Insert(game{ID: 1, Score: 1}))
		for _, games := range []*Table[int, game]{a, b} {
			g, ok := games.Get(1)
			require.Equal(t, game{ID: 1}, g)
			require.True(t, ok)
		}
		_, ok := a.Get(2)
		require.True(t, ok)
		_, ok = a.Get(3)
		require.False(t, ok)
		return nil
	}, a, b))
	for _, games := range []*Table[int, game]{a, b} {
		g, _ := games.Get(1)
		require.Equal(t, 1, g.Score)
	}
	_, ok := a.Get(2)
	require.False(t, ok)
	_, ok = a.Get(3)
	require.True(t, ok)

	// In a table of NewTableFunc, it waits.
	c := NewTableFunc("c", func(g *game) int { return g.ID }, func(a, b int) int { return a - b })
	insertRows(t, c, 1)
	got := make(chan game)
	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(c.In(tx).Update(1, func(g *game) { g.Score = 1 }))
		go func() {
			g, _ := c.Get(1)
			got <- g
		}()
		for range 100 {
			runtime.Gosched()
		}
		require.Empty(t, got)
		return nil
	}, c))
	require.Equal(t, 1, (<-got).Score)
}

// Read sees the tables at one moment, waits for nobody's loop, and ends with fn.
func TestReadSeesOneMoment(t *testing.T) {
	a, b := newBoard(), newBoard()
	insertRows(t, a.Table, 1, 2)
	insertRows(t, b.Table, 1)
	var late *Tx
	var all iter.Seq2[int, game]
	require.Equal(t, errTakenBack, Read(func(tx *Tx) error {
		late = tx
		x, y := a.In(tx), b.In(tx)
		all = x.All()
		must[game](t)(a.Delete(1))
		must[game](t)(a.Insert(game{ID: 1, Score: 2}))
		must[game](t)(a.Insert(game{ID: 3}))
		must[game](t)(b.Update(1, func(g *game) { g.Score = 2 }))
		b.Drop()
		for _, x := range []TxTable[int, game]{x, y} {
			g, ok := x.Get(1)
			require.Equal(t, game{ID: 1}, g)
			require.True(t, ok)
			_, ok = x.Get(3)
			require.False(t, ok)
		}
		require.Equal(t, []game{{ID: 1}, {ID: 2}}, rowsOf(t, all))
		require.Equal(t, []game{{ID: 1}}, rowsOf(t, y.Backward()))
		require.Equal(t, []int{2, 1}, []int{x.Len(), y.Len()})
		require.Equal(t, []int{2, 0}, []int{a.scores.Equal(0).In(tx).Len(), a.scores.Equal(2).In(tx).Len()})
		require.Equal(t, []int{1, 1}, []int{a.scores.Equal(2).Len(), a.scores.Equal(0).Where(func(g *game) bool { return g.ID == 3 }).Len()})
		return errTakenBack
	}, b, a, b))
	requireClosed(t, a.Table)
	requireClosed(t, b.Table)
	require.NoError(t, Read(func(tx *Tx) error {
		require.Zero(t, b.In(tx).Len())
		require.Empty(t, rowsOf(t, b.players.From("").In(tx).All()))
		return nil
	}, b))
	require.NoError(t, Read(func(*Tx) error { return nil }))

	const ended = `changefeed: the table "games" is used in a Transact or Read that has ended`
	for _, use := range []func(){
		func() { a.In(late) },
		func() { a.Row(1).In(late) },
		func() { _ = rowsOf(t, all) },
	} {
		require.PanicsWithValue(t, ended, use)
	}
}

// Misuse of Read panics, and leaves nothing open.
func TestMisuseOfReadPanicsAndSaysWhatToDo(t *testing.T) {
	b, other := newBoard(), NewTable("others", func(g *game) int { return g.ID })
	insertRows(t, b.Table, 1)
	state := stateOf(b.Table)
	const write = `changefeed: a write to the table "games" in Read; use Transact`
	in := func(f func(tx *Tx)) func() {
		return func() { _ = Read(func(tx *Tx) error { f(tx); return nil }, b) }
	}
	for _, test := range []struct {
		text   string
		misuse func()
	}{
		{"changefeed: Read: nil function; pass one that reads the tables", func() { _ = Read(nil, b) }},
		{"changefeed: Read: nil table", in(func(*Tx) { _ = Read(func(*Tx) error { return nil }, b, nil) })},
		{"changefeed: nil table", func() { _ = Read(func(*Tx) error { return nil }, (*Table[int, game])(nil)) }},
		{`changefeed: Table.In: the table "others" is not in the transaction; pass it to Transact or Read`, in(func(tx *Tx) { other.In(tx) })},
		{write, in(func(tx *Tx) { _, _ = b.In(tx).Insert(game{ID: 2}) })},
		{write, in(func(tx *Tx) { _, _ = b.In(tx).Upsert(game{ID: 2}) })},
		{write, in(func(tx *Tx) { _, _ = b.In(tx).Replace(game{ID: 1}) })},
		{write, in(func(tx *Tx) { _, _ = b.In(tx).Update(1, func(*game) {}) })},
		{write, in(func(tx *Tx) { _, _ = b.In(tx).Compute(1, func(*game) *game { return nil }) })},
		{write, in(func(tx *Tx) { _, _ = b.In(tx).Delete(1) })},
		{`changefeed: the index "late" of table "games" was made after Read began; make it before`, in(func(tx *Tx) {
			NewIndex(b.Table, "late", func(g *game) int { return g.ID }).Equal(1).In(tx).Len()
		})},
	} {
		require.PanicsWithValue(t, test.text, test.misuse)
		requireState(t, state, b.Table)
		requireClosed(t, b.Table)
	}
}

// The bank: eight goroutines only transfer, and some of their transactions are rolled back. The
// sums are the same at every look, by Read, by All and by feeds. What is seen of an account never
// goes backwards, by Get, by Read or by a feed, in one table and then in the other.
func TestTheBank(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			newBank(t).run(t)
		})
	}
}

// A bank has two accounts for each number, one in each table. A transfer moves an amount
// between two accounts of one table, and moves it back between those of the other. Both
// accounts of a number have the same version.
type bank struct {
	seed   uint64
	tables [2]*Table[int, account]
}

// An account is a row of the bank: Score is the balance, and Act the number of transfers.
type account = partRow

const (
	accounts  = 8
	balance   = 1000
	transfers = 400 // of each goroutine
)

func newBank(t *testing.T) *bank {
	b := &bank{seed: testSeed(t)}
	for i := range b.tables {
		b.tables[i] = NewTable("accounts", func(a *account) int { return a.ID })
		for id := range accounts {
			must[account](t)(b.tables[i].Insert(account{ID: id, Score: balance}))
		}
	}
	return b
}

func (b *bank) transfer(r *rand.Rand) error {
	from, to, amount, result := r.IntN(accounts), r.IntN(accounts), r.IntN(10), []error{nil, nil, errTakenBack}[r.IntN(3)]
	err := Transact(func(tx *Tx) error {
		for _, table := range b.tables {
			for _, id := range []int{from, to} {
				_, err := table.In(tx).Update(id, func(a *account) {
					a.Score -= amount
					a.Act++
					if result != nil {
						a.Act = -1
					}
				})
				if err != nil {
					return err
				}
				amount = -amount
				if r.IntN(3) == 0 {
					runtime.Gosched()
				}
			}
			amount = -amount
		}
		return result
	}, b.tables[1], b.tables[0])
	if err != result {
		return fmt.Errorf("%w, want %v", err, result)
	}
	return nil
}

// read looks at all accounts in one Read. Get has returned known before.
func (b *bank) read(known account) error {
	return Read(func(tx *Tx) error {
		for id, a := range b.tables[0].In(tx).All() {
			other, _ := b.tables[1].In(tx).Get(id)
			if a.Act != other.Act || a.Act < 0 || a.Score+other.Score != 2*balance {
				return fmt.Errorf("%+v and %+v", a, other)
			}
			if id == known.ID && a.Act < known.Act {
				return fmt.Errorf("Get has seen %+v, Read %+v", known, a)
			}
			if id%3 == 0 {
				runtime.Gosched()
			}
		}
		return errors.Join(checkSum(b.tables[0].In(tx).All()), checkSum(b.tables[1].In(tx).Backward()))
	}, b.tables[0], b.tables[1])
}

func checkSum(all iter.Seq2[int, account]) error {
	sum := 0
	for _, a := range all {
		sum += a.Score
	}
	if sum != accounts*balance {
		return fmt.Errorf("a sum of %d", sum)
	}
	return nil
}

// get looks at one account in both tables. last has the versions that were seen before.
func (b *bank) get(r *rand.Rand, last *[accounts]int) error {
	id, first := r.IntN(accounts), r.IntN(2)
	one, _ := b.tables[first].Get(id)
	other, _ := b.tables[1-first].Get(id)
	if one.Act < last[id] || other.Act < one.Act {
		return fmt.Errorf("account %d: version %d, and then %d and %d", id, last[id], one.Act, other.Act)
	}
	last[id] = other.Act
	return nil
}

// follow adds up the changes of one table until it is dropped. What it has seen, a Get of the
// other table finds.
func (b *bank) follow(i int, feed Stream[[]Change[account]]) (versions [accounts]int, err error) {
	sum := 0
	for batch, err := range feed {
		if err != nil {
			if !errors.Is(err, ErrTableDropped) || sum != 0 {
				return versions, fmt.Errorf("%w; a sum of %d", err, sum)
			}
			break
		}
		for _, c := range batch {
			id := c.New.ID
			if c.Old.Act != versions[id] || c.New.Act != versions[id]+1 {
				return versions, fmt.Errorf("%+v and %+v after version %d", c.Old, c.New, versions[id])
			}
			versions[id]++
			sum += c.New.Score - c.Old.Score
			if other, ok := b.tables[1-i].Get(id); ok && other.Act < c.New.Act {
				return versions, fmt.Errorf("the feed has seen %+v, Get %+v", c.New, other)
			}
		}
		if sum != 0 {
			return versions, fmt.Errorf("after a batch the sum is off by %d", sum)
		}
	}
	return versions, nil
}

func (b *bank) run(t *testing.T) {
	var writers, readers, followers sync.WaitGroup
	var ended atomic.Bool
	read := func(look func(r *rand.Rand) error) {
		r := rand.New(rand.NewPCG(b.seed, rand.Uint64()))
		readers.Go(func() {
			for last := false; !last; runtime.Gosched() {
				last = ended.Load()
				if err := look(r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var seen [2][accounts]int
	for i, table := range b.tables {
		feed := table.Batches(t.Context(), 64, Buffer(1<<20))
		followers.Go(func() {
			var err error
			if seen[i], err = b.follow(i, feed); err != nil {
				t.Error(err)
			}
		})
		var last [accounts]int
		read(func(r *rand.Rand) error { return b.get(r, &last) })
		read(func(*rand.Rand) error { return checkSum(table.All()) })
		read(func(r *rand.Rand) error {
			known, _ := table.Get(r.IntN(accounts))
			return b.read(known)
		})
	}
	for i := range uint64(8) {
		r := rand.New(rand.NewPCG(b.seed, i))
		writers.Go(func() {
			for range transfers {
				if err := b.transfer(r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	ended.Store(true)
	readers.Wait()
	for _, table := range b.tables {
		table.Drop()
	}
	followers.Wait()
	require.Equal(t, seen[0], seen[1])
	for _, table := range b.tables {
		requireClosed(t, table)
	}
}
