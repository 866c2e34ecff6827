//go:build changefeed_debug

package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"
)

// These are the tests of debug.go: each misuse panics with its message, and what is
// allowed does not.

// A guardedRow has all that a row can refer to.
type guardedRow struct {
	ID   int
	Tags []string
	Attr map[string]int
	Part *guardedRow
	Any  any
}

func newGuarded() guardedRow {
	return guardedRow{
		ID: 1, Tags: []string{"a", "b"}, Attr: map[string]int{"a": 1},
		Part: &guardedRow{Tags: []string{"a"}}, Any: []int{1},
	}
}

const guardedChanged = `changefeed: row 1 of table "guarded" was changed after it was stored; rows are read-only: use Update, or Clone the row first`

// A guardedTable has the row 1 and an index.
type guardedTable struct {
	*Table[int, guardedRow]
	tags *Index[string, int, guardedRow]
}

func newGuardedTable() guardedTable {
	t := NewTable("guarded", func(g *guardedRow) int { return g.ID })
	return guardedTable{t, NewMultiIndex(t, "tags", func(g *guardedRow) []string { return g.Tags })}
}

// first returns the first row of a sequence.
func first[K, V any](rows iter.Seq2[K, V]) (row V) {
	for _, row = range rows {
		break
	}
	return row
}

// requireChanged requires that f panics because of the row 1, and leaves the lock free.
func (t guardedTable) requireChanged(tb testing.TB, f func()) {
	tb.Helper()
	require.PanicsWithValue(tb, guardedChanged, f)
	require.True(tb, t.mu.TryLock(), "the lock must be free")
	t.mu.Unlock()
}

// A row that was changed behind the table's back is found, however the program got it
// and wherever it changed it.
func TestDebugFindsEachChangeOfARow(t *testing.T) {
	byGet := func(change func(g *guardedRow)) func(t guardedTable) {
		return func(t guardedTable) {
			g, _ := t.Get(1)
			change(&g)
		}
	}
	for name, change := range map[string]func(t guardedTable){
		"a slice's element":        byGet(func(g *guardedRow) { g.Tags[1] = "c" }),
		"a map's element":          byGet(func(g *guardedRow) { g.Attr["a"]++ }),
		"a new map element":        byGet(func(g *guardedRow) { g.Attr["b"] = 2 }),
		"through a pointer":        byGet(func(g *guardedRow) { g.Part.ID++ }),
		"a slice behind a pointer": byGet(func(g *guardedRow) { g.Part.Tags[0] = "c" }),
		"in an interface":          byGet(func(g *guardedRow) { g.Any.([]int)[0]++ }),
		"All":                      func(t guardedTable) { first(t.All()).Tags[0] = "c" },
		"Backward":                 func(t guardedTable) { first(t.Backward()).Tags[0] = "c" },
		"an index":                 func(t guardedTable) { first(t.tags.Equal("a").All()).Tags[0] = "c" },
		"a predicate": func(t guardedTable) {
			t.Where(func(g *guardedRow) bool { g.Part.ID++; return true }).Len()
		},
		"In": func(t guardedTable) {
			_ = Transact(func(tx *Tx) error {
				g, _ := t.In(tx).Get(1)
				g.Tags[0] = "c"
				return nil
			}, t)
		},
		"New of a write": func(t guardedTable) {
			c, _ := t.Update(1, func(g *guardedRow) { g.Part.ID = 7 })
			c.New.Part.ID = 8
		},
		"New itself": func(t guardedTable) {
			c, _ := t.Upsert(guardedRow{ID: 1})
			c.New.Tags = []string{"c"}
		},
		"the key": func(t guardedTable) {
			c, _ := t.Upsert(guardedRow{ID: 1})
			c.New.ID = 2
		},
		"a row that was inserted": func(t guardedTable) {
			g := newGuarded()
			_, _ = t.Delete(1)
			_, _ = t.Insert(g)
			g.Tags[0] = "c"
		},
		"a row that was computed": func(t guardedTable) {
			g := guardedRow{ID: 1}
			_, _ = t.Compute(1, func(*guardedRow) *guardedRow { return &g })
			g.Tags = []string{"c"}
		},
		"a row that an update kept": func(t guardedTable) {
			var kept *guardedRow
			_, _ = t.Update(1, func(g *guardedRow) { g.ID, kept = 1, g; g.Tags[0] = "c" })
			kept.Tags[0] = "d"
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := newGuardedTable()
			must[guardedRow](t)(table.Insert(newGuarded()))
			change(table)
			table.requireChanged(t, func() { table.Get(1) })
		})
	}
}

// Each use of a row finds that it was changed, and each write fails as a whole (T4).
func TestDebugChecksRowsWhereverTheyAreUsed(t *testing.T) {
	for name, use := range map[string]func(t guardedTable){
		"Get":        func(t guardedTable) { t.Get(1) },
		"All":        func(t guardedTable) { first(t.All()) },
		"Backward":   func(t guardedTable) { first(t.Backward()) },
		"Row":        func(t guardedTable) { first(t.Row(1).All()) },
		"Where":      func(t guardedTable) { t.Where(func(*guardedRow) bool { return false }).Len() },
		"Index":      func(t guardedTable) { first(t.tags.From("").All()) },
		"Upsert":     func(t guardedTable) { _, _ = t.Upsert(guardedRow{ID: 1}) },
		"Replace":    func(t guardedTable) { _, _ = t.Replace(guardedRow{ID: 1}) },
		"Update":     func(t guardedTable) { _, _ = t.Update(1, func(*guardedRow) {}) },
		"Compute":    func(t guardedTable) { _, _ = t.Compute(1, func(g *guardedRow) *guardedRow { return g }) },
		"Delete":     func(t guardedTable) { _, _ = t.Delete(1) },
		"Changes":    func(t guardedTable) { take(t.Changes(context.Background(), After(Position{})), 1) },
		"Initial":    func(t guardedTable) { take(t.Changes(context.Background(), IncludeInitial()), 1) },
		"In":         func(t guardedTable) { _ = Transact(func(tx *Tx) error { t.In(tx).Get(1); return nil }, t) },
		"In, Delete": func(t guardedTable) { _ = Transact(func(tx *Tx) error { _, err := t.In(tx).Delete(1); return err }, t) },
	} {
		t.Run(name, func(t *testing.T) {
			table := newGuardedTable()
			table.Retain(10)
			must[guardedRow](t)(table.Insert(newGuarded()))
			g, _ := table.Get(1)
			g.Attr["a"]++
			table.requireChanged(t, func() { use(table) })
			require.Equal(t, uint64(1), table.Seq())
			require.Equal(t, 1, table.Len())
		})
	}
}

// A row that is stored again is checked, too, also under another key or in another table.
func TestDebugChecksARowThatIsStoredAgain(t *testing.T) {
	table, other := newGuardedTable(), newGuardedTable()
	row := must[guardedRow](t)(table.Insert(newGuarded())).New
	store := func(key int) func() {
		return func() { _, _ = other.Compute(key, func(*guardedRow) *guardedRow { return row }) }
	}
	store(1)()
	require.Same(t, row, stored(other.Table, 1), "tables may share a row that nobody changes")
	row.ID = 2
	other.requireChanged(t, store(2))
	require.Equal(t, 1, other.Len())
}

// A change's rows are checked when a loop gets it, although the old row has left the
// table, and when the loop's body returns.
func TestDebugChecksTheRowsOfChanges(t *testing.T) {
	type feed = Stream[Change[guardedRow]]
	each := func(s feed, body func(c Change[guardedRow])) {
		for c, err := range s {
			require.NoError(t, err)
			body(c)
			break
		}
	}
	for name, read := range map[string]func(t guardedTable, body func(c Change[guardedRow])) func(){
		"Changes": func(t guardedTable, body func(c Change[guardedRow])) func() {
			s := t.Changes(context.Background())
			return func() { each(s, body) }
		},
		"Filter": func(t guardedTable, body func(c Change[guardedRow])) func() {
			s := t.Changes(context.Background()).Filter(func(c Change[guardedRow]) bool { return true })
			return func() { each(s, body) }
		},
		"Where": func(t guardedTable, body func(c Change[guardedRow])) func() {
			s := t.Row(1).Where(func(g *guardedRow) bool { return true }).Changes(context.Background())
			return func() { each(s, body) }
		},
		"Squash": func(t guardedTable, body func(c Change[guardedRow])) func() {
			s := t.Changes(context.Background(), Squash(0))
			return func() { each(s, body) }
		},
		"Batches": func(t guardedTable, body func(c Change[guardedRow])) func() {
			s := t.Batches(context.Background(), 10)
			return func() {
				for batch := range s {
					body(batch[0])
					clear(batch) // the loop may do this
					break
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(change bool, body func(c Change[guardedRow])) {
				table := newGuardedTable()
				must[guardedRow](t)(table.Insert(newGuarded()))
				next := read(table, body)
				c := must[guardedRow](t)(table.Update(1, func(g *guardedRow) { g.Part.ID++ }))
				if change {
					c.Old.Tags[0] = "c"
				}
				next()
			}
			unread := func(Change[guardedRow]) { t.Error("the body must not run") }
			require.PanicsWithValue(t, guardedChanged, func() { read(true, unread) })
			require.PanicsWithValue(t, guardedChanged, func() { read(false, func(c Change[guardedRow]) { c.New.Attr["a"]++ }) })
			require.PanicsWithValue(t, guardedChanged, func() { read(false, func(c Change[guardedRow]) { c.Old.ID++ }) })
			require.NotPanics(t, func() { read(false, func(c Change[guardedRow]) { c.Old, c.New = nil, &guardedRow{} }) })
		})
	}
}

// A program may change what it owns: what Update and Compute pass to their function, the
// top level of a row that it got by value, a batch, and a row that a write refused.
func TestDebugAllowsChangesOfWhatIsNotStored(t *testing.T) {
	table := newGuardedTable()
	batches := table.Batches(t.Context(), 10, Poll(nil))
	refused := newGuarded()
	must[guardedRow](t)(table.Insert(newGuarded()))
	_, err := table.Insert(refused)
	require.ErrorIs(t, err, ErrDuplicateKey)
	refused.Tags[0] = "c"
	scribbleOn := func(g *guardedRow) {
		g.Tags[0] = "d"
		g.Tags = append(g.Tags, "e")
		g.Attr["f"]++
		g.Part.Tags[0] = "g"
		g.Any.([]int)[0]++
	}
	for range 3 {
		must[guardedRow](t)(table.Update(1, scribbleOn))
		must[guardedRow](t)(table.Compute(1, func(g *guardedRow) *guardedRow { scribbleOn(g); return g }))
		require.NoError(t, Transact(func(tx *Tx) error {
			_, err := table.In(tx).Update(1, scribbleOn)
			return err
		}, table))
		require.Error(t, Transact(func(tx *Tx) error {
			_, _ = table.In(tx).Update(1, scribbleOn)
			return errors.New("undo it")
		}, table))
		g, _ := table.Get(1)
		g.ID, g.Tags, g.Part = 7, nil, nil
		for _, g := range table.All() {
			g.ID, g.Attr = 7, nil
		}
		for batch := range batches {
			for i := range batch {
				batch[i] = Change[guardedRow]{New: new(guardedRow)}
			}
		}
	}
	must[guardedRow](t)(table.Delete(1))
}

// A shy row hides its tags, so it has a Clone. Its Equal looks at nothing else.
type shy struct {
	ID   int
	Note *string
	tags []string
}

func (s shy) Clone() shy       { return shy{s.ID, new(*s.Note), slices.Clone(s.tags)} }
func (s shy) Equal(o shy) bool { return slices.Equal(s.tags, o.tags) }

// With a Clone, the guard sees all that Clone copies, and also the fields that Equal ignores.
func TestDebugChecksWhatCloneCopies(t *testing.T) {
	const changed = `changefeed: row 1 of table "shy" was changed after it was stored; rows are read-only: use Update, or Clone the row first`
	for name, change := range map[string]func(s *shy){
		"an unexported slice":        func(s *shy) { s.tags[0] = "b" },
		"a field that Equal ignores": func(s *shy) { *s.Note = "b" },
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable("shy", func(s *shy) int { return s.ID })
			must[shy](t)(table.Insert(shy{1, new("a"), []string{"a"}}))
			s, _ := table.Get(1)
			change(new(s.Clone()))
			require.NotPanics(t, func() { table.Get(1) })
			change(&s)
			require.PanicsWithValue(t, changed, func() { table.Get(1) })
		})
	}
}

// oneRow returns a table of one row: all rows have the same key.
func oneRow[V any]() *Table[int, V] { return NewTable("rows", func(*V) int { return 1 }) }

// A hitCount may be counted up by everyone that has it.
type hitCount struct{ n int }

// What a row shares with its copies may change, and rows whose copies differ are not
// checked.
func TestDebugDoesNotCheckWhatCopiesShareOrDiffersInThem(t *testing.T) {
	type row struct {
		F     float64
		Do    func()
		Tags  []string
		reads *hitCount
	}
	type job struct {
		Ctx context.Context
		Err error
		Mu  *sync.Mutex
	}
	for name, r := range map[string]row{
		"NaN":      {F: math.NaN(), Tags: []string{"a"}},
		"function": {Do: func() {}, Tags: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			table := oneRow[any]()
			must[any](t)(table.Insert(r))
			must[any](t)(table.Update(1, func(r *any) { (*r).(row).Tags[0] = "b" }))
			got, _ := table.Get(1)
			got.(row).Tags[0] = "c" // misuse that is not found
			require.NotPanics(t, func() { must[any](t)(table.Delete(1)) })
		})
	}
	t.Run("shared", func(t *testing.T) {
		table := oneRow[any]()
		must[any](t)(table.Insert(row{reads: new(hitCount)}))
		got, _ := table.Get(1)
		got.(row).reads.n++
		require.NotPanics(t, func() { must[any](t)(table.Delete(1)) })
	})
	t.Run("known by their address", func(t *testing.T) {
		table := oneRow[any]()
		ctx, cancel := context.WithCancel(t.Context())
		must[any](t)(table.Insert(job{ctx, errors.New("a"), new(sync.Mutex)}))
		got, _ := table.Get(1)
		got.(job).Mu.Lock()
		cancel()
		require.NotPanics(t, func() { must[any](t)(table.Delete(1)) })
	})
	t.Run("of no size", func(t *testing.T) {
		table := oneRow[struct{}]()
		must[struct{}](t)(table.Insert(struct{}{}))
		table.Get(1)
		must[struct{}](t)(table.Delete(1))
	})
}

// A weakMap does not take a row for an earlier one at the same address, whose value is still there.
func TestAWeakMapKnowsItsRows(t *testing.T) {
	var m weakMap[game, int]
	earlier, row := &game{ID: 1}, &game{ID: 2}
	m.store(earlier, 5)
	value, ok := m.load(earlier)
	require.True(t, ok)
	require.Equal(t, 5, value)
	left, _ := m.values.Load(uintptr(unsafe.Pointer(earlier)))
	m.values.Store(uintptr(unsafe.Pointer(row)), left)
	_, ok = m.load(row)
	require.False(t, ok)
	m.store(row, 6)
	value, ok = m.load(row)
	require.True(t, ok)
	require.Equal(t, 6, value)
	runtime.KeepAlive(earlier)
}

// The guard holds neither a row nor, when the row is garbage, its copy or values.
func TestDebugHoldsNoRow(t *testing.T) {
	table := newGuardedTable()
	row := weak.Make(must[guardedRow](t)(table.Insert(newGuarded())).New)
	address := uintptr(unsafe.Pointer(row.Value()))
	kept := func() (copied, valued bool) {
		_, copied = table.guard.copies.values.Load(address)
		_, valued = table.tags.guard.values.values.Load(address)
		return copied, valued
	}
	runtime.GC()
	require.NotNil(t, row.Value(), "or the test would show nothing")
	copied, valued := kept()
	require.True(t, copied && valued)
	must[guardedRow](t)(table.Delete(1))
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	collected(t, "a copy is held", func() bool {
		copied, valued := kept()
		return !copied && !valued
	})
}

// An index whose function returns something else for the same row is found by the next
// write to the row, which fails as a whole.
func TestDebugFindsAnIndexFunctionThatChangesItsMind(t *testing.T) {
	var offset int
	value := func(g *game) int { return g.Score + offset }
	values := func(g *game) []int {
		if offset == 0 {
			return []int{g.Score, 7}
		}
		return []int{g.Score}
	}
	for name, test := range map[string]struct {
		newIndex      func(games *Table[int, game])
		before, after string
	}{
		"NewIndex":       {func(games *Table[int, game]) { NewIndex(games, "index", value) }, "[5]", "[6]"},
		"NewUniqueIndex": {func(games *Table[int, game]) { _, _ = NewUniqueIndex(games, "index", value) }, "[5]", "[6]"},
		"fewer values":   {func(games *Table[int, game]) { NewMultiIndex(games, "index", values) }, "[5 7]", "[5]"},
	} {
		for _, late := range []bool{false, true} { // an index of a row that is there
			t.Run(fmt.Sprintf("%s, late=%t", name, late), func(t *testing.T) {
				offset = 0
				games := newGames()
				if !late {
					test.newIndex(games)
				}
				must[game](t)(games.Insert(game{ID: 1, Score: 5}))
				if late {
					test.newIndex(games)
				}
				offset = 1
				text := fmt.Sprintf(`changefeed: the function of index "index" of table "games" returned %s for row 1, and returns %s now for the same row; it must depend on the row alone`, test.before, test.after)
				before := stateOf(games)
				for _, write := range []func(w rowWriter[game]){
					func(w rowWriter[game]) { _, _ = w.Delete(1) },
					func(w rowWriter[game]) { _, _ = w.Update(1, func(g *game) { g.Player = "Bob" }) },
				} {
					require.PanicsWithValue(t, text, func() { write(games) })
					require.PanicsWithValue(t, text, func() {
						_ = Transact(func(tx *Tx) error { write(games.In(tx)); return nil }, games)
					})
				}
				requireState(t, before, games)
				offset = 0
				must[game](t)(games.Delete(1))
			})
		}
	}
}

// An entry that is missing, or has another row, is found before the write would remove it.
func TestDebugFindsAnEntryThatIsMissing(t *testing.T) {
	for name, damage := range map[string]func(x *Index[int, int, game]){
		"missing": func(x *Index[int, int, game]) { x.rows.remove(indexEntry[int, int]{value: 5, key: 1}) },
		"another row": func(x *Index[int, int, game]) {
			x.rows.put(indexEntry[int, int]{value: 5, key: 1, cell: unsafe.Pointer(new(cell[int, game]))})
		},
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			scores := NewIndex(games, "score", func(g *game) int { return g.Score })
			must[game](t)(games.Insert(game{ID: 1, Score: 5}))
			damage(scores)
			require.PanicsWithValue(t, `changefeed: index "score" of table "games" does not have row 1 under its value 5; if the compare function is a strict order, report a bug of changefeed`, func() {
				_, _ = games.Delete(1)
			})
			require.Equal(t, 1, games.Len())
		})
	}
}

// A function that runs under a table's lock and calls the table panics. It would wait for
// itself for ever.
func TestDebugFindsACallOfALockedTable(t *testing.T) {
	type games = *Table[int, game]
	const text = `changefeed: a function that runs under the lock of table "games" calls the table, which would deadlock; inside Transact use Table.In, otherwise call the table before or after`
	within := map[string]func(t games, call func()){
		"Transact": func(t games, call func()) { _ = Transact(func(*Tx) error { call(); return nil }, t) },
		"Transact with others": func(t games, call func()) {
			_ = Transact(func(*Tx) error { call(); return nil }, newGames(), t, newGames())
		},
		"Update":  func(t games, call func()) { _, _ = t.Update(1, func(*game) { call() }) },
		"Compute": func(t games, call func()) { _, _ = t.Compute(1, func(*game) *game { call(); return nil }) },
		"In, Update": func(t games, call func()) {
			_ = Transact(func(tx *Tx) error { _, err := t.In(tx).Update(1, func(*game) { call() }); return err }, t)
		},
		"NewIndex": func(t games, call func()) { NewIndex(t, "index", func(*game) int { call(); return 1 }) },
	}
	for name, call := range map[string]func(t games){
		"Read":     func(t games) { _ = Read(func(*Tx) error { return nil }, t) },
		"Len":      func(t games) { t.Len() },
		"Seq":      func(t games) { t.Seq() },
		"All":      func(t games) { first(t.All()) },
		"Backward": func(t games) { first(t.Backward()) },
		"Row":      func(t games) { first(t.Row(1).All()) },
		"Where":    func(t games) { t.Where(func(*game) bool { return true }).Len() },
		"Insert":   func(t games) { _, _ = t.Insert(game{ID: 2}) },
		"Upsert":   func(t games) { _, _ = t.Upsert(game{ID: 1}) },
		"Replace":  func(t games) { _, _ = t.Replace(game{ID: 1}) },
		"Update":   func(t games) { _, _ = t.Update(1, func(*game) {}) },
		"Compute":  func(t games) { _, _ = t.Compute(1, func(*game) *game { return nil }) },
		"Delete":   func(t games) { _, _ = t.Delete(1) },
		"Changes":  func(t games) { t.Changes(context.Background()) },
		"Batches":  func(t games) { t.Batches(context.Background(), 1) },
		"Retain":   func(t games) { t.Retain(1) },
		"Drop":     func(t games) { t.Drop() },
		"NewIndex": func(t games) { NewIndex(t, "second", func(*game) int { return 1 }) },
		"Transact": func(t games) { _ = Transact(func(*Tx) error { return nil }, newGames(), t) },
	} {
		for where, run := range within {
			t.Run(name+" within "+where, func(t *testing.T) {
				games := newGames()
				must[game](t)(games.Insert(game{ID: 1}))
				before := stateOf(games)
				require.PanicsWithValue(t, text, func() { run(games, func() { call(games) }) })
				requireState(t, before, games)
				require.Empty(t, games.indexes)
				call(games) // the lock knows no holder any more
			})
		}
	}
}

// Within a transaction a program may call what does not lock the table, another table,
// and the table from another goroutine, which waits.
func TestDebugAllowsCallsThatDoNotDeadlock(t *testing.T) {
	games, other := newGames(), newGames()
	must[game](t)(games.Insert(game{ID: 1}))
	began, read := make(chan struct{}), make(chan int)
	go func() {
		<-began
		read <- games.Len()
	}()
	require.NoError(t, Transact(func(tx *Tx) error {
		close(began)
		require.Equal(t, 1, games.In(tx).Len())
		require.Equal(t, "games", games.Name())
		require.Empty(t, games.Feeds())
		require.NotEmpty(t, games.String())
		must[game](t)(other.Insert(game{ID: 1}))
		_, err := games.In(tx).Insert(game{ID: 2})
		return err
	}, games))
	require.Equal(t, 2, <-read)
	for range games.All() {
		must[game](t)(games.Upsert(game{ID: 3}))
	}
}

// A function that runs under the lock of a table and calls another table panics if a view connects the two, because
// they share a lock then (V5). The message names both. A call between two tables that no view connects is not found.
func TestDebugNamesTheTablesThatShareALock(t *testing.T) {
	orders := NewTable("orders", func(o *order) int { return o.ID })
	customers := NewTable("customers", func(c *customer) string { return c.Name })
	must[order](t)(orders.Insert(order{ID: 1, Player: "Ann"}))
	must[customer](t)(customers.Insert(customer{Name: "Ann"}))
	_, err := orders.Update(1, func(o *order) { o.Score = customers.Len() })
	require.NoError(t, err)
	Join(orders, customers, "billed", func(o *order) string { return o.Player })
	const text = `changefeed: a function that runs under the lock of table %q calls table %q, which shares the lock because of a view, which would deadlock; inside Transact use Table.In, otherwise call the table before or after`
	require.PanicsWithValue(t, fmt.Sprintf(text, "orders", "customers"), func() {
		_, _ = orders.Update(1, func(o *order) { o.Score = customers.Len() })
	})
	require.PanicsWithValue(t, fmt.Sprintf(text, "customers", "orders"), func() {
		_, _ = customers.Update("Ann", func(*customer) { _, _ = orders.Delete(1) })
	})
	require.PanicsWithValue(t, fmt.Sprintf(text, "customers", "orders"), func() {
		_ = Transact(func(*Tx) error { orders.Seq(); return nil }, customers)
	})
	require.Equal(t, 1, orders.Len())
}
