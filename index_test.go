package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An indexed is a row in an index.
type indexed[S, K, V any] struct {
	value    S
	key      K
	row      *V
	previous []S // the row's previous value, if it has one
}

// entriesOf returns what an index holds.
func entriesOf[S cmp.Ordered, K, V any](x *Index[S, K, V]) (entries []indexed[S, K, V]) {
	x.table.mu.RLock()
	defer x.table.mu.RUnlock()
	x.rows.tree.Ascend(func(e indexEntry[S, K]) bool {
		var previous []S
		if e.previous != nil {
			previous = []S{*e.previous}
		}
		row := (*cell[K, V])(e.cell).row.Load()
		entries = append(entries, indexed[S, K, V]{e.value, e.key, row, previous})
		return true
	})
	return entries
}

// requireIndex requires that an index holds the stored rows under their values, each
// once and with the value before it, and nothing else. T1
func requireIndex[S cmp.Ordered, V any](t *testing.T, x *Index[S, int, V], values func(row *V) []S) {
	t.Helper()
	var want []indexed[S, int, V]
	same := func(a, b S) bool { return cmp.Compare(a, b) == 0 }
	x.table.mu.RLock()
	x.table.rows.tree.Ascend(func(e entry[int]) bool {
		if row := (*cell[int, V])(e.cell).row.Load(); row != nil {
			values := slices.CompactFunc(slices.Sorted(slices.Values(values(row))), same)
			for i, v := range values {
				want = append(want, indexed[S, int, V]{v, e.key, row, values[max(0, i-1):i]})
			}
		}
		return true
	})
	x.table.mu.RUnlock()
	order := func(a, b indexed[S, int, V]) int {
		return cmp.Or(cmp.Compare(a.value, b.value), cmp.Compare(a.key, b.key))
	}
	slices.SortFunc(want, order)
	require.True(t, slices.EqualFunc(want, entriesOf(x), func(a, b indexed[S, int, V]) bool {
		return order(a, b) == 0 && a.row == b.row && slices.EqualFunc(a.previous, b.previous, same)
	}), "index %s", x.name)
}

func (b board) requireIndexes(t *testing.T) {
	t.Helper()
	requireIndex(t, b.players, func(g *game) []string { return []string{g.Player} })
	requireIndex(t, b.scores, func(g *game) []int { return []int{g.Score} })
	requireIndex(t, b.digits, digits)
}

// Indexes follow every write, also if its transaction is rolled back. An index that is made
// of a table with rows has the entries that an older one has. T1, T4
func TestIndexesFollowEveryWrite(t *testing.T) {
	r, b, reached := newRand(t), newBoard(), make(map[string]int)
	absent := b.Row(3).Changes(t.Context()) // its key is in the tree of rows also without a row
	write := func(w rowWriter[game]) {
		row := game{r.IntN(10), []string{"", "Ann", "Bob"}[r.IntN(3)], r.IntN(200)}
		var c Change[game]
		var err error
		switch r.IntN(5) {
		case 0:
			c, err = w.Insert(row)
		case 1:
			c, err = w.Upsert(row)
		case 2:
			c, err = w.Update(row.ID, func(g *game) { g.Score = r.IntN(3) })
		case 3:
			c, err = w.Delete(row.ID)
		case 4:
			c, err = w.Compute(row.ID, func(*game) *game { return []*game{&row, nil}[r.IntN(2)] })
		}
		if err != nil {
			reached["error"]++
		}
		reached[c.Kind.String()]++
	}
	for range 1500 {
		write(b.Table)
		result := []error{nil, errOops}[r.IntN(2)]
		reached[fmt.Sprint(result)]++
		require.Equal(t, result, Transact(func(tx *Tx) error {
			for range r.IntN(5) {
				write(b.In(tx))
			}
			return result
		}, b))
		b.requireIndexes(t)
		if r.IntN(2) == 0 { // a read clones the trees
			boardSelections[r.IntN(len(boardSelections))].requireRows(t, b)
		}
	}
	requireOutcomes(t, reached, "error", "none", "insert", "update", "delete", "oops", "<nil>")

	for id := range 10 {
		must[game](t)(b.Upsert(game{id, "Bob", id}))
	}
	must[game](t)(b.Delete(3))
	players := NewIndex(b.Table, "players again", func(g *game) string { return g.Player })
	again := NewMultiIndex(b.Table, "digits again", digits)
	unique, err := NewUniqueIndex(b.Table, "unique", func(g *game) int { return g.Score })
	require.NoError(t, err)
	feed := unique.Equal(5).Changes(t.Context(), Poll(nil))
	for range 2 {
		require.Equal(t, entriesOf(b.players), entriesOf(players))
		require.Equal(t, entriesOf(b.digits), entriesOf(again))
		require.Equal(t, entriesOf(b.scores), entriesOf(unique))
		must[game](t)(b.Upsert(game{5, "Eve", 500}))
	}
	require.Equal(t, []Kind{Delete}, kindsOf(feed))
	runtime.KeepAlive(absent)
}

// "Reading a Range or From takes linear time in the number of selected values of all rows
// together": it calls no function, which would return all values of a row for each of them.
func TestAReadOfARowWithManyValuesCallsNoFunction(t *testing.T) {
	const n = 1000
	calls := 0
	games := newGames()
	multi := NewMultiIndex(games, "multi", func(g *game) (values []int) {
		calls++
		for v := range n {
			values = append(values, (7*v+g.Score)%n) // in no order
		}
		return values
	})
	insertRows(t, games, 0, 1, 2)
	for name, s := range map[string]Selection[int, game]{"From": multi.From(n / 2), "Range": multi.Range(n/2, n-1), "Equal": multi.Equal(3)} {
		overflowing := s.Changes(t.Context(), OnOverflow(Resync), Buffer(1), Poll(nil))
		for range 2 {
			must[game](t)(games.Update(0, func(g *game) { g.Score += n }))
		}
		for how, read := range map[string]func(){
			"All":            func() { require.Len(t, rowsOf(t, s.All()), 3) },
			"Backward":       func() { require.Len(t, rowsOf(t, s.Backward()), 3) },
			"Len":            func() { require.Equal(t, 3, s.Len()) },
			"IncludeInitial": func() { require.Len(t, take(s.Changes(t.Context(), IncludeInitial(), Poll(nil)), -1), 3+1) },
			"Resync":         func() { require.Len(t, take(overflowing, -1), 1+3+1) },
		} {
			calls = 0
			read()
			require.Zero(t, calls, "%s, %s", name, how)
		}
	}
}

// A uniqueBoard has games with unique scores, and an index before and after that.
type uniqueBoard struct {
	board
	unique *Index[int, int, game]
	late   *Index[string, int, game]
}

// newUniqueBoard returns one with the rows 1, 2 and 3 of the scores 10, 20 and 30.
func newUniqueBoard(t *testing.T) uniqueBoard {
	b := newBoard()
	unique, err := NewUniqueIndex(b.Table, "rank", func(g *game) int { return g.Score })
	require.NoError(t, err)
	u := uniqueBoard{b, unique, NewIndex(b.Table, "late", func(g *game) string { return g.Player })}
	for id := 1; id <= 3; id++ {
		must[game](t)(b.Insert(game{id, "Bob", 10 * id}))
	}
	return u
}

// linesOf tells of each element in a line, that of a pointer its address.
func linesOf[E any](what string, elements []E) (lines []string) {
	for _, e := range elements {
		lines = append(lines, fmt.Sprintf("%s %+v", what, e))
	}
	return lines
}

// tableLines tells all that a write may change of a table: keys as they are stored,
// which rows are there, sequence, and feeds.
func tableLines[K, V any](table *Table[K, V]) []string {
	state := stateOf(table)
	lines := []string{fmt.Sprintf("%d rows, seq %d, end %d", table.Len(), state.seq, state.end)}
	table.mu.RLock()
	defer table.mu.RUnlock()
	table.rows.tree.Ascend(func(e entry[K]) bool {
		c := (*cell[K, V])(e.cell)
		if row := c.row.Load(); row == nil { // then only the scope matters
			lines = append(lines, fmt.Sprintf("no row, scope %p", c.scope))
		} else {
			lines = append(lines, fmt.Sprintf("row %v %p, scope %p", table.key(row), row, c.scope))
		}
		return true
	})
	return slices.Concat(lines, linesOf("feed", state.feeds))
}

// state tells all that a write may change.
func (u uniqueBoard) state() []string {
	return slices.Concat(tableLines(u.Table),
		linesOf("player", entriesOf(u.players)), linesOf("score", entriesOf(u.scores)), linesOf("digit", entriesOf(u.digits)),
		linesOf("unique", entriesOf(u.unique)), linesOf("late", entriesOf(u.late)))
}

func (u uniqueBoard) requireState(t *testing.T, was []string) {
	t.Helper()
	require.True(t, u.mu.TryLock(), "the lock must be free")
	u.mu.Unlock()
	require.Equal(t, was, u.state())
}

// inTable runs a function that writes to a table, alone or in a transaction.
func inTable(games *Table[int, game], transacts bool, f func(w rowWriter[game])) {
	if !transacts {
		f(games)
		return
	}
	_ = Transact(func(tx *Tx) error { f(games.In(tx)); return nil }, games)
}

// "A write that would give a row the value of another row fails with ErrDuplicateKey and
// changes nothing. The error names the index."
func TestAUniqueIndexIsEnforced(t *testing.T) {
	type change = Change[game]
	const owned = `value 20 in unique index "rank" belongs to primary key 2, not to primary key `
	for _, test := range []struct {
		name  string
		write func(w rowWriter[game]) (change, error)
		err   string // empty: the write succeeds
	}{
		{"insert", func(w rowWriter[game]) (change, error) { return w.Insert(game{4, "Eve", 20}) }, `insert into "games": ` + owned + "4"},
		{"upsert", func(w rowWriter[game]) (change, error) { return w.Upsert(game{1, "Eve", 20}) }, `upsert into "games": ` + owned + "1"},
		{"replace", func(w rowWriter[game]) (change, error) { return w.Replace(game{1, "Eve", 20}) }, `replace in "games": ` + owned + "1"},
		{"update", func(w rowWriter[game]) (change, error) { return w.Update(1, func(g *game) { g.Score = 20 }) }, `update in "games": ` + owned + "1"},
		{"compute", func(w rowWriter[game]) (change, error) {
			return w.Compute(4, func(*game) *game { return &game{4, "Eve", 20} })
		}, `compute in "games": ` + owned + "4"},
		{"the owner has a low key", func(w rowWriter[game]) (change, error) { return w.Insert(game{4, "Eve", -50}) }, `insert into "games": ` +
			strings.ReplaceAll(strings.Replace(owned, "20", "-50", 1), "key 2", "key -5") + "4"},
		{"insert of another value", func(w rowWriter[game]) (change, error) { return w.Insert(game{4, "Eve", 25}) }, ""},
		{"upsert with its own", func(w rowWriter[game]) (change, error) { return w.Upsert(game{2, "Eve", 20}) }, ""},
		{"update to a new one", func(w rowWriter[game]) (change, error) { return w.Update(2, func(g *game) { g.Score = 21 }) }, ""},
	} {
		for _, transacts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Transact=%t", test.name, transacts), func(t *testing.T) {
				u := newUniqueBoard(t)
				must[game](t)(u.Insert(game{-5, "Low", -50}))
				feed := u.late.Equal("Eve").Changes(t.Context(), Poll(nil))
				before := u.state()
				var c change
				var err error
				inTable(u.Table, transacts, func(w rowWriter[game]) { c, err = test.write(w) })
				if test.err == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, "changefeed: "+test.err)
					require.ErrorIs(t, err, ErrDuplicateKey)
					require.Zero(t, c, "an error comes with the zero Change")
					u.requireState(t, before)
					require.Empty(t, allOf(feed))
				}
				u.requireIndexes(t)
				requireIndex(t, u.unique, func(g *game) []int { return []int{g.Score} })
				_, err = u.Insert(game{9, "Zoe", 30})
				require.ErrorIs(t, err, ErrDuplicateKey, "later writes are checked as before")
			})
		}
	}
}

// A unique index is checked at each write. Two rows swap their values by way of a third
// value, and no feed sees a part of that.
func TestRowsSwapUniqueValuesInATransaction(t *testing.T) {
	for _, result := range []error{errOops, nil} {
		u := newUniqueBoard(t)
		var feeds []Stream[Change[game]]
		for _, score := range []int{10, 20, -1} {
			feeds = append(feeds, u.unique.Equal(score).Changes(t.Context(), Poll(nil)))
		}
		before := u.state()
		require.Equal(t, result, Transact(func(tx *Tx) error {
			set := func(id, score int) error {
				_, err := u.In(tx).Update(id, func(g *game) { g.Score = score })
				return err
			}
			require.ErrorIs(t, set(1, 20), ErrDuplicateKey)
			require.NoError(t, set(1, -1))
			require.NoError(t, set(2, 10))
			require.ErrorIs(t, set(3, 10), ErrDuplicateKey)
			require.NoError(t, set(1, 20))
			require.Empty(t, allOf(feeds[0])+allOf(feeds[1])+allOf(feeds[2]))
			return result
		}, u))
		if result != nil {
			u.requireState(t, before)
			continue
		}
		requireIndex(t, u.unique, func(g *game) []int { return []int{g.Score} })
		for i, want := range []string{"-4 +5", "-5 +6", "+4 -6"} {
			require.Equal(t, want, allOf(feeds[i]))
		}
	}
}

// "If two rows of the table share a value, NewUniqueIndex returns ErrDuplicateKey and makes
// no index." Its name is free then.
func TestNewUniqueIndexOnATableWithDuplicates(t *testing.T) {
	games := newGames()
	for id, player := range []string{"Ann", "Bob", "Ann", "Bob"} {
		must[game](t)(games.Insert(game{ID: id, Player: player}))
	}
	before := stateOf(games)
	player := func(g *game) string { return g.Player }
	x, err := NewUniqueIndex(games, "player", player)
	require.Nil(t, x)
	require.ErrorIs(t, err, ErrDuplicateKey)
	require.EqualError(t, err, `changefeed: new index of "games": value "Ann" in unique index "player" belongs to primary key 0, not to primary key 2`)
	requireState(t, before, games)
	require.Empty(t, games.indexes)
	must[game](t)(games.Insert(game{ID: 5, Player: "Ann"}))
	require.Equal(t, 3, NewIndex(games, "player", player).Equal("Ann").Len())
}

// "Values are in the order of cmp.Compare": NaN is the lowest value, and one value. So are
// 0 and -0.
func TestFloatIndexValuesAreComparedWithCmpCompare(t *testing.T) {
	nan, otherNaN := math.NaN(), math.Float64frombits(math.Float64bits(math.NaN())^1)
	minus0, inf := math.Copysign(0, -1), math.Inf(1)
	docs := newDocs()
	value := func(d *doc) float64 { return d.Value }
	three := func(d *doc) []float64 { return []float64{d.Value, 0 * d.Value, d.Value} }
	values, twice := NewIndex(docs, "value", value), NewMultiIndex(docs, "twice", three)
	unique, err := NewUniqueIndex(docs, "unique", value)
	require.NoError(t, err)
	for id, v := range []float64{1, nan, minus0, -inf, inf} {
		must[doc](t)(docs.Insert(doc{ID: id, Value: v}))
	}
	for _, v := range []float64{nan, otherNaN, 0, minus0} {
		_, err = docs.Insert(doc{ID: 9, Value: v})
		require.ErrorIs(t, err, ErrDuplicateKey)
		require.ErrorContains(t, err, fmt.Sprintf("value %v in unique index", v))
	}
	requireIDs := func(s Selection[int, doc], want ...int) {
		t.Helper()
		var ids []int
		for id := range s.All() {
			ids = append(ids, id)
		}
		require.Equal(t, want, ids)
	}
	for _, x := range []*Index[float64, int, doc]{values, unique} {
		requireIDs(x.Equal(otherNaN), 1)
		requireIDs(x.Equal(0), 2)
		requireIDs(x.Equal(minus0), 2)
		requireIDs(x.Range(nan, 0), 1, 3)
		requireIDs(x.Range(0, nan))
		requireIDs(x.From(minus0), 2, 0, 4)
		requireIDs(x.From(nan), 1, 3, 2, 0, 4)
	}
	requireIDs(twice.Equal(0), 0, 2)      // 1 is under 1 and 0, and -0 under -0 and 0, which are one
	requireIDs(twice.Equal(nan), 1, 3, 4) // 0 times an infinity is NaN
	require.Len(t, entriesOf(twice), 2+1+1+2+2)

	feed, zero := values.Equal(nan).Changes(t.Context(), Poll(nil)), values.Range(0, 1).Changes(t.Context(), Poll(nil))
	for _, d := range []doc{{ID: 1, Value: otherNaN}, {ID: 1, Value: 2}, {ID: 0, Value: 0.5}} { // NaN is not equal to NaN: an update
		must[doc](t)(docs.Replace(d))
	}
	must[doc](t)(docs.Delete(2))
	require.Equal(t, []Kind{Update, Delete}, kindsOf(feed))
	require.Equal(t, []Kind{Insert, Delete}, kindsOf(zero))
	for _, x := range []*Index[float64, int, doc]{values, unique} {
		requireIndex(t, x, func(d *doc) []float64 { return []float64{d.Value} })
	}
	requireIndex(t, twice, three)
}

// Strings are in the order of their bytes. Messages quote them, also those of another type.
// The slice of values that a function returns is not modified, because it may be the row's.
func TestStringIndexValues(t *testing.T) {
	type tag string
	docs := newDocs()
	tags := NewMultiIndex(docs, "tag", func(d *doc) []string { return d.Tags })
	names, err := NewUniqueIndex(docs, "name", func(d *doc) tag { return tag(d.Name) })
	require.NoError(t, err)
	for id, s := range []string{"b", "", "é", "a\x00", "a", "ab", "B"} {
		must[doc](t)(docs.Insert(doc{ID: id, Name: s, Tags: []string{"c", s, "c"}}))
	}
	var got []string
	for _, d := range names.From("").All() {
		got = append(got, d.Name)
	}
	require.Equal(t, []string{"", "B", "a", "a\x00", "ab", "b", "é"}, got)
	require.Equal(t, 7, tags.Equal("c").Len())
	require.Equal(t, []string{"c", "b", "c"}, stored(docs, 0).Tags, "T3")
	_, err = docs.Upsert(doc{ID: 9, Name: "a\x00"})
	require.EqualError(t, err, `changefeed: upsert into "docs": value "a\x00" in unique index "name" belongs to primary key 3, not to primary key 9`)
}

// "If it panics during a write, the panic reaches the caller, and nothing was written" (T4).
// The same holds for runtime.Goexit. The index is between two others.
func TestAValueFunctionThatPanicsLeavesAllAsItWas(t *testing.T) {
	const bad = -1 // the score that fails
	for name, write := range map[string]func(w rowWriter[game]){
		"Insert":           func(w rowWriter[game]) { _, _ = w.Insert(game{4, "Eve", bad}) },
		"Upsert":           func(w rowWriter[game]) { _, _ = w.Upsert(game{1, "Eve", bad}) },
		"Update":           func(w rowWriter[game]) { _, _ = w.Update(1, func(g *game) { g.Score = bad }) },
		"Compute":          func(w rowWriter[game]) { _, _ = w.Compute(4, func(*game) *game { return &game{4, "Eve", bad} }) },
		"old row":          func(w rowWriter[game]) { _, _ = w.Delete(1) },
		"old row, Replace": func(w rowWriter[game]) { _, _ = w.Replace(game{1, "Eve", 5}) },
	} {
		for how, fail := range map[string]func(){"panics": func() { panic(errOops) }, "exits": runtime.Goexit} {
			for _, transacts := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, Transact=%t", name, how, transacts), func(t *testing.T) {
					b := newBoard()
					old := strings.HasPrefix(name, "old row")
					failed := false
					touchy := NewMultiIndex(b.Table, "touchy", func(g *game) []int {
						if g.Score == bad || old && g.ID == 1 && failed {
							failed = true
							fail()
						}
						return digits(g)
					})
					u := uniqueBoard{b, touchy, NewIndex(b.Table, "late", func(g *game) string { return g.Player })}
					must[game](t)(b.Insert(game{1, "Bob", 10}))
					must[game](t)(b.Insert(game{2, "Ann", 20}))
					var feeds []Stream[Change[game]]
					for _, s := range []Selection[int, game]{b.Selection(), b.Row(1), b.Row(4), u.late.Equal("Eve"), touchy.From(0)} {
						feeds = append(feeds, s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Squash(0), Poll(nil)))
					}
					failed = old
					before := u.state()

					var recovered any
					returned := false
					var wg sync.WaitGroup
					wg.Go(func() { // Goexit ends the goroutine
						defer func() { recovered = recover() }()
						inTable(b.Table, transacts, write)
						returned = true
					})
					wg.Wait()
					require.True(t, failed && !returned)
					if how == "panics" {
						require.Equal(t, errOops, recovered)
					}
					failed = false
					u.requireState(t, before)

					require.Equal(t, uint64(3), must[game](t)(b.Upsert(game{1, "Eve", 35})).Seq, "no number was used")
					b.requireIndexes(t)
					requireIndex(t, touchy, digits)
					for i, want := range []string{"3", "3", "", "+3", "3"} { // and nothing of the write that failed
						require.Equal(t, want, allOf(feeds[2*i]))
						require.Equal(t, want, allOf(feeds[2*i+1]))
					}
				})
			}
		}
	}
}

// If the function panics in NewIndex, there is no index, and its name is free.
func TestAValueFunctionThatPanicsInNewIndex(t *testing.T) {
	for name, newIndex := range map[string]func(games *Table[int, game], value func(g *game) int){
		"NewIndex":       func(games *Table[int, game], value func(g *game) int) { NewIndex(games, "score", value) },
		"NewUniqueIndex": func(games *Table[int, game], value func(g *game) int) { _, _ = NewUniqueIndex(games, "score", value) },
		"NewMultiIndex": func(games *Table[int, game], value func(g *game) int) {
			NewMultiIndex(games, "score", func(g *game) []int { return []int{value(g)} })
		},
	} {
		games := newGames()
		insertRows(t, games, 0, 1, 2)
		before := stateOf(games)
		bad := 2
		value := func(g *game) int {
			if g.ID == bad {
				panic(errOops)
			}
			return g.ID
		}
		require.PanicsWithValue(t, errOops, func() { newIndex(games, value) }, name)
		requireState(t, before, games)
		require.Empty(t, games.indexes, name)
		bad = -1
		newIndex(games, value)
		require.Len(t, games.indexes, 1, name)
	}
}

// Misuse of an index panics, and the message says what to do.
func TestMisuseOfAnIndexPanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	score := func(g *game) int { return g.Score }
	NewIndex(games, "score", score)
	before := stateOf(games)
	const (
		noTable    = "changefeed: NewIndex: nil table"
		noFunction = "changefeed: NewIndex: nil function; pass one that returns a row's value"
		twice      = `changefeed: NewIndex: the table "games" has an index "score" already; give each its own name`
	)
	for _, test := range []struct {
		text   string
		misuse func()
	}{
		{noTable, func() { NewIndex[int, int, game](nil, "x", score) }},
		{noTable, func() { NewMultiIndex[int, int, game](nil, "x", digits) }},
		{noTable, func() { _, _ = NewUniqueIndex[int, int, game](nil, "x", score) }},
		{noFunction, func() { NewIndex[int](games, "x", nil) }},
		{noFunction, func() { NewMultiIndex[int](games, "x", nil) }},
		{noFunction, func() { _, _ = NewUniqueIndex[int](games, "x", nil) }},
		{twice, func() { NewIndex(games, "score", score) }},
		{twice, func() { NewMultiIndex(games, "score", digits) }},
		{twice, func() { _, _ = NewUniqueIndex(games, "score", func(g *game) string { return g.Player }) }},
	} {
		require.PanicsWithValue(t, test.text, test.misuse)
		requireState(t, before, games)
		require.Len(t, games.indexes, 1)
	}
	NewIndex(newGames(), "score", score) // of another table
	NewIndex(games, "Score", score)
}

// What a write needed is released when it is over, also if it failed: neither the values
// of its row nor the space for many.
func TestAWriteLeavesNoValuesInAnIndex(t *testing.T) {
	const size = 1 << 20
	many := func(*game) []int { return make([]int, size) } // all of them are one value
	const bad = "bad"
	for name, write := range map[string]func(games *Table[int, game]){
		"a large value": func(games *Table[int, game]) {
			NewMultiIndex(games, "tag", func(g *game) []string { return []string{g.Player} })
			must[game](t)(games.Insert(game{ID: 1, Player: strings.Repeat("x", size)}))
			must[game](t)(games.Delete(1))
		},
		"many values": func(games *Table[int, game]) {
			NewMultiIndex(games, "many", many)
			must[game](t)(games.Insert(game{ID: 1}))
		},
		"many values in NewMultiIndex": func(games *Table[int, game]) {
			must[game](t)(games.Insert(game{ID: 1}))
			NewMultiIndex(games, "many", many)
		},
		"an error": func(games *Table[int, game]) {
			NewMultiIndex(games, "many", many)
			_, err := NewUniqueIndex(games, "unique", func(*game) int { return 0 })
			require.NoError(t, err)
			must[game](t)(games.Insert(game{ID: 1}))
			_, err = games.Insert(game{ID: 2})
			require.ErrorIs(t, err, ErrDuplicateKey)
		},
		"a panic": func(games *Table[int, game]) {
			NewMultiIndex(games, "many", func(g *game) []int {
				if g.Player == bad {
					panic(bad)
				}
				return many(g)
			})
			must[game](t)(games.Insert(game{ID: 1}))
			require.PanicsWithValue(t, bad, func() { _, _ = games.Upsert(game{ID: 1, Player: bad}) })
		},
		"a panic in a later index": func(games *Table[int, game]) {
			NewMultiIndex(games, "many", many)
			NewIndex(games, "bad", func(*game) int { panic(bad) })
			require.PanicsWithValue(t, bad, func() { _, _ = games.Insert(game{ID: 1}) })
		},
		"a transaction": func(games *Table[int, game]) {
			NewMultiIndex(games, "many", many)
			require.NoError(t, Transact(func(tx *Tx) error {
				must[game](t)(games.In(tx).Insert(game{ID: 1}))
				return nil
			}, games))
		},
		"a rollback": func(games *Table[int, game]) {
			NewMultiIndex(games, "tag", func(g *game) []string { return []string{g.Player} })
			require.Equal(t, errOops, Transact(func(tx *Tx) error {
				must[game](t)(games.In(tx).Insert(game{ID: 1, Player: strings.Repeat("x", size)}))
				return errOops
			}, games))
		},
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			held := heldBy(func() { write(games) })
			require.Less(t, held, size/2)
			runtime.KeepAlive(games)
		})
	}
}

// Reads through an index find each row once while the rows move between values. T1
func TestIndexesAreReadWhileRowsMove(t *testing.T) {
	t.Parallel()
	const rows, writes = 20, 1500
	b, seed := newBoard(), testSeed(t)
	for id := range rows {
		must[game](t)(b.Insert(game{id, "Ann", 10}))
	}
	var writing, reading sync.WaitGroup
	for w := range 2 {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for range writes {
				if _, err := b.Upsert(game{r.IntN(rows), []string{"Ann", "Bob"}[r.IntN(2)], 10 + r.IntN(80)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var done atomic.Bool
	for _, s := range []Selection[int, game]{b.players.From(""), b.scores.From(0), b.digits.Range(0, 10)} {
		reading.Go(func() {
			for last := false; !last; {
				last = done.Load()
				n, seen := 0, make(map[int]bool)
				for id := range s.All() {
					n++
					seen[id] = true
				}
				if n != rows || len(seen) != rows {
					t.Errorf("%d rows, %d of them different, of %d", n, len(seen), rows)
				}
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	b.requireIndexes(t)
}

// An index with an order of the user's, over values that are not ordered by themselves.
func TestIndexFuncs(t *testing.T) {
	visits := newDocs()
	timeOf := func(d *doc) time.Time {
		at, err := time.Parse(time.DateTime+" -07", d.Name)
		require.NoError(t, err)
		return at
	}
	at := NewIndexFunc(visits, "at", timeOf, time.Time.Compare)
	tags := NewMultiIndexFunc(visits, "tags", func(d *doc) []string { return d.Tags }, func(a, b string) int {
		return strings.Compare(strings.ToLower(a), strings.ToLower(b))
	})
	roomOf := func(d *doc) [2]int { return [2]int{int(d.Value), int(d.Value*10) % 10} }
	rooms, err := NewUniqueIndexFunc(visits, "room", roomOf, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	require.NoError(t, err)

	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	feed := at.Range(noon, noon.Add(time.Hour)).Changes(t.Context(), Poll(nil))
	for _, d := range []doc{
		{ID: 1, Name: "2026-11-26 12:01:00 +00", Value: 2.1, Tags: []string{"new", "NEW"}},
		{ID: 2, Name: "2026-11-26 13:00:00 +01", Value: 1.9, Tags: []string{"Old"}}, // at noon
		{ID: 3, Name: "2026-11-26 13:00:00 +00", Value: 1.1},
	} {
		must[doc](t)(visits.Insert(d))
	}
	ids := func(rows iter.Seq2[int, doc]) (ids []int) {
		for id := range rows {
			ids = append(ids, id)
		}
		return ids
	}
	require.Equal(t, []int{2}, ids(at.Equal(noon).All()))
	require.Equal(t, []int{2, 1, 3}, ids(at.All()))
	require.Equal(t, []int{3, 1, 2}, ids(at.Backward()))
	require.Equal(t, 3, at.Len())
	require.Equal(t, []int{1}, ids(tags.Equal("nEw").All()))
	require.Equal(t, []int{1, 2}, ids(tags.All()))
	require.Equal(t, []int{2, 1}, ids(tags.Backward()))
	require.Equal(t, 2, tags.Len(), "a row without a value is not in the index")
	require.Equal(t, []int{2, 1}, ids(rooms.Any([2]int{2, 1}, [2]int{1, 9}, [2]int{2, 1}).All()))
	_, err = visits.Insert(doc{ID: 4, Name: "2026-11-26 12:00:00 +00", Value: 1.9})
	require.ErrorIs(t, err, ErrDuplicateKey)
	require.ErrorContains(t, err, "room")
	require.Len(t, take(feed, -1), 2)

	for _, f := range []func(){
		func() { NewIndexFunc(visits, "x", timeOf, nil) },
		func() { NewMultiIndexFunc(visits, "x", func(d *doc) []string { return d.Tags }, nil) },
		func() { _, _ = NewUniqueIndexFunc(visits, "x", roomOf, nil) },
	} {
		require.PanicsWithValue(t, "changefeed: NewIndexFunc: nil compare function; pass one, or use NewIndex for ordered values", f)
	}
	require.Equal(t, 7, visits.Key(&doc{ID: 7}))
}

// Feeds of one Selection share their changes, and the scope goes with the last of them.
func TestFeedsOfOneSelectionOfSeveralShareAScope(t *testing.T) {
	b := newBoard()
	for _, s := range []Selection[int, game]{b.Rows(1, 2), b.digits.Any(1, 2)} {
		ctx, cancel := context.WithCancel(t.Context())
		first, second := s.Changes(ctx, Poll(nil)), s.Where(always).Changes(t.Context(), Poll(nil))
		subs := b.allSubscriptions()
		require.Len(t, subs, 2)
		require.Same(t, subs[0].scope, subs[1].scope)
		c := must[game](t)(b.Upsert(game{ID: 1, Score: 12})) // under both values, and delivered once
		require.Equal(t, []pair[Change[game]]{{v: c}}, take(first, -1))
		cancel()
		require.ErrorIs(t, take(first, 1)[0].err, context.Canceled)
		require.Equal(t, []pair[Change[game]]{{v: c}}, take(second, -1))
		subs[1].forget()
		b.mu.Lock()
		require.True(t, b.ranges.root == nil && b.digits.scopes.root == nil)
		b.mu.Unlock()
		_, err := b.Delete(1)
		require.NoError(t, err)
	}
}

// A whole index has the rows with all values, also negative ones, and those of many values.
func TestAWholeIndex(t *testing.T) {
	b := newBoard()
	for _, g := range []game{{1, "Bob", 5}, {2, "", -7}, {3, "Ann", 31}, {4, "Ann", 0}} {
		must[game](t)(b.Insert(g))
	}
	rows := maps.Collect(b.All())
	for name, test := range map[string]struct {
		all, backward iter.Seq2[int, game]
		len           int
		want          []int
	}{
		"scores":  {b.scores.All(), b.scores.Backward(), b.scores.Len(), []int{2, 4, 1, 3}},
		"players": {b.players.All(), b.players.Backward(), b.players.Len(), []int{2, 3, 4, 1}},
		"digits":  {b.digits.All(), b.digits.Backward(), b.digits.Len(), []int{3, 1}},
	} {
		var ids []int
		for id, g := range test.all {
			require.Equal(t, rows[id], g, name)
			ids = append(ids, id)
		}
		require.Equal(t, test.want, ids, name)
		require.Len(t, ids, test.len, name)
		ids = nil
		for id := range test.backward {
			ids = append(ids, id)
		}
		slices.Reverse(ids)
		require.Equal(t, test.want, ids, name)
	}
}
