package changefeed

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

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
	x.rows.tree.Ascend(func(e indexEntry[S, K, V]) bool {
		var previous []S
		if e.previous != nil {
			previous = []S{*e.previous}
		}
		entries = append(entries, indexed[S, K, V]{e.value, x.table.key(e.cell.row), e.cell.row, previous})
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
	x.table.rows.tree.Ascend(func(e entry[int, V]) bool {
		if row := e.cell.row; row != nil {
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

// Indexes follow every write, also those that a transaction takes back, and those made
// of a table with rows are those that were there before them.
func TestIndexesFollowEveryWrite(t *testing.T) {
	r, b, reached := newRand(t), newBoard(), make(map[string]int)
	absent := b.Row(3).Changes(t.Context()) // its key is in the tree of rows also without a row
	write := func(w rowWriter[game]) {
		row := game{r.IntN(10), []string{"", "Ann", "Bob"}[r.IntN(3)], r.IntN(200)}
		var c Change[game]
		var err error
		switch r.IntN(6) {
		case 0:
			c, err = w.Insert(row)
		case 1:
			c, err = w.Upsert(row)
		case 2:
			c, err = w.Replace(row)
		case 3:
			c, err = w.Update(row.ID, func(g *game) { g.Score = r.IntN(3) })
		case 4:
			c, err = w.Delete(row.ID)
		case 5:
			c, err = w.Compute(row.ID, func(old *game) *game {
				if old == nil {
					return &row
				}
				return nil
			})
		}
		if err != nil {
			reached["error"]++
		}
		reached[c.Kind.String()]++
	}
	for range 1500 {
		switch r.IntN(3) {
		case 0:
			write(b.Table)
		default:
			var result error
			if r.IntN(2) == 0 {
				result = errors.New("taken back")
				reached["taken back"]++
			}
			require.Equal(t, result, Transact(func(tx *Tx) error {
				for range r.IntN(5) {
					write(b.In(tx))
				}
				return result
			}, b))
		}
		b.requireIndexes(t)
	}
	requireOutcomes(t, reached, "error", "none", "insert", "update", "delete", "taken back")

	for id := range 10 {
		must[game](t)(b.Upsert(game{id, "Bob", id}))
	}
	must[game](t)(b.Delete(3))
	players := NewIndex(b.Table, "players again", func(g *game) string { return g.Player })
	again := NewMultiIndex(b.Table, "digits again", digits)
	unique, err := NewUniqueIndex(b.Table, "unique", func(g *game) int { return g.Score })
	require.NoError(t, err)
	require.Equal(t, entriesOf(b.players), entriesOf(players))
	require.Equal(t, entriesOf(b.digits), entriesOf(again))
	require.Equal(t, entriesOf(b.scores), entriesOf(unique))
	feed := unique.Equal(5).Changes(t.Context(), Poll(nil))
	must[game](t)(b.Update(5, func(g *game) { g.Score, g.Player = 500, "Eve" }))
	require.Equal(t, entriesOf(b.players), entriesOf(players))
	require.Equal(t, entriesOf(b.digits), entriesOf(again))
	require.Equal(t, entriesOf(b.scores), entriesOf(unique))
	require.Equal(t, []Kind{Delete}, kindsOf(feed))
	runtime.KeepAlive(absent)
}

// taggedDocs returns a table with an index of tags.
func taggedDocs(t *testing.T, docs ...doc) (*Table[int, doc], *Index[string, int, doc]) {
	table := newDocs()
	for _, d := range docs {
		must[doc](t)(table.Insert(d))
	}
	return table, NewMultiIndex(table, "tag", func(d *doc) []string { return d.Tags })
}

// "a row under several values; a value twice counts once"; "a row under several of
// its values comes once, at the first", in both directions.
func TestARowUnderSeveralValues(t *testing.T) {
	docs, tags := taggedDocs(t, doc{ID: 1, Tags: []string{"c", "a", "c"}}, doc{ID: 2, Tags: []string{"b"}}, doc{ID: 3, Tags: nil}, doc{ID: 4, Tags: []string{"b", "c", "b"}})
	require.Equal(t, []string{"c", "a", "c"}, stored(docs, 1).Tags, "T3: the function's slice is not put in order")
	require.Len(t, entriesOf(tags), 5)
	for _, test := range []struct {
		name string
		s    Selection[int, doc]
		want []int
	}{
		{"From(a)", tags.From("a"), []int{1, 2, 4}},
		{"From()", tags.From(""), []int{1, 2, 4}},
		{"From(b)", tags.From("b"), []int{2, 4, 1}}, // 1 comes at c
		{"From(d)", tags.From("d"), nil},
		{"Range(a, c)", tags.Range("a", "c"), []int{1, 2, 4}},
		{"Range(b, c)", tags.Range("b", "c"), []int{2, 4}},
		{"Range(b, d)", tags.Range("b", "d"), []int{2, 4, 1}},
		{"Equal(c)", tags.Equal("c"), []int{1, 4}},
		{"Equal(a)", tags.Equal("a"), []int{1}},
		{"Equal()", tags.Equal(""), nil},
	} {
		var forward, backward []int
		for id := range test.s.All() {
			forward = append(forward, id)
		}
		for id := range test.s.Backward() {
			backward = append(backward, id)
		}
		slices.Reverse(backward)
		require.Equal(t, test.want, forward, test.name)
		require.Equal(t, test.want, backward, test.name)
		require.Equal(t, len(test.want), test.s.Len(), test.name)
	}

	// A write is one change of a feed, whatever the number of values by which the row is
	// in its selection.
	feed, c := tags.Range("b", "d").Changes(t.Context(), Poll(nil)), tags.Equal("c").Changes(t.Context(), Poll(nil))
	set := func(tags ...string) {
		must[doc](t)(docs.Update(1, func(d *doc) { d.Tags = tags }))
	}
	set("b", "c", "c", "b") // in by c, in by both
	set("b")                // in by b
	set("a", "d")           // out
	set("c", "bb")          // in
	set()
	require.Equal(t, []Kind{Update, Update, Delete, Insert, Delete}, kindsOf(feed))
	require.Equal(t, []Kind{Update, Delete, Insert, Delete}, kindsOf(c))
	must[doc](t)(docs.Delete(4))
	must[doc](t)(docs.Delete(2))
	must[doc](t)(docs.Delete(3))
	require.Equal(t, []Kind{Delete, Delete}, kindsOf(feed))
	require.Equal(t, []Kind{Delete}, kindsOf(c))
	require.Empty(t, entriesOf(tags))
}

// The rows of a multi-valued index through random writes, some of them rolled back: each
// range has a row once, at its first value there, in both directions.
func TestARowWithSeveralValuesComesAtTheFirstThatIsSelected(t *testing.T) {
	const values, ids = 7, 12
	type row struct {
		ID   int
		Tags []int
	}
	r, reached := newRand(t), make(map[string]int)
	rows := NewTable("rows", func(r *row) int { return r.ID })
	tags := NewMultiIndex(rows, "tags", func(r *row) []int { return r.Tags })
	write := func(w rowWriter[row]) {
		id := r.IntN(ids)
		var err error
		switch r.IntN(4) {
		case 0:
			_, err = w.Compute(id, func(*row) *row { return nil })
		case 1:
			_, err = w.Upsert(row{id, r.Perm(values)[:r.IntN(values+1)]})
		default: // one value comes or goes
			_, err = w.Compute(id, func(old *row) *row {
				if old == nil {
					old = &row{ID: id}
				}
				tag := r.IntN(values)
				if i := slices.Index(old.Tags, tag); i >= 0 {
					old.Tags = slices.Delete(old.Tags, i, i+1)
				} else {
					old.Tags = append(old.Tags, tag)
				}
				return old
			})
		}
		require.NoError(t, err)
	}
	for range 1000 {
		switch r.IntN(3) {
		case 0:
			write(rows)
		case 1:
			reached["rolled back"]++
			require.Equal(t, errTakenBack, Transact(func(tx *Tx) error {
				for range 1 + r.IntN(5) {
					write(rows.In(tx))
				}
				return errTakenBack
			}, rows))
		default: // two writes between two reads, which clone the tree
			write(rows)
			write(rows)
		}
		requireIndex(t, tags, func(r *row) []int { return r.Tags })

		from, to := r.IntN(values+1), r.IntN(values+2)
		s := tags.Range(from, to)
		if to > values {
			s = tags.From(from)
		}
		type place struct{ value, id int }
		var want []place
		for id, row := range rows.All() {
			first := values
			for _, tag := range row.Tags {
				if tag >= from && tag < to {
					first = min(first, tag)
				}
				if tag < from && slices.Max(row.Tags) >= from {
					reached["has a value before the range"]++
				}
			}
			if first < values {
				want = append(want, place{first, id})
			}
		}
		slices.SortFunc(want, func(a, b place) int { return cmp.Or(a.value-b.value, a.id-b.id) })
		var forward, backward []int
		for id := range s.All() {
			forward = append(forward, id)
		}
		for id := range s.Backward() {
			backward = append(backward, id)
		}
		slices.Reverse(backward)
		require.True(t, slices.EqualFunc(want, forward, func(p place, id int) bool { return p.id == id }), "%v, but %v", want, forward)
		require.Equal(t, forward, backward)
		require.Equal(t, len(want), s.Len())
	}
	requireOutcomes(t, reached, "rolled back", "has a value before the range")
}

// A read takes linear time in the number of a row's values: it does not ask the function
// for them, which returns all of them, at each.
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
	for id := range 3 {
		must[game](t)(games.Insert(game{ID: id, Score: id}))
	}
	for name, s := range map[string]Selection[int, game]{
		"From": multi.From(0), "From the middle": multi.From(n / 2), "Range": multi.Range(n/2, n-1), "Equal": multi.Equal(3),
	} {
		overflowing := s.Changes(t.Context(), OnOverflow(Resync), Buffer(1), Poll(nil))
		must[game](t)(games.Update(0, func(g *game) { g.Score += n }))
		must[game](t)(games.Update(0, func(g *game) { g.Score += n }))
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

// "Reads through an index cost O(log n + result)": a read looks at the rows of the range
// and at no others.
func TestAReadThroughAnIndexLooksAtItsRowsOnly(t *testing.T) {
	calls := 0
	games := NewTable("games", func(g *game) int { calls++; return g.ID })
	scores := NewMultiIndex(games, "score", func(g *game) []int { return []int{g.Score, g.Score + 1} })
	for id := range 5000 {
		must[game](t)(games.Insert(game{ID: id, Score: 10 * id}))
	}
	for name, read := range map[string]func(s Selection[int, game]){
		"All":      func(s Selection[int, game]) { require.Len(t, rowsOf(t, s.All()), 10) },
		"Backward": func(s Selection[int, game]) { require.Len(t, rowsOf(t, s.Backward()), 10) },
		"Len":      func(s Selection[int, game]) { require.Equal(t, 10, s.Len()) },
	} {
		calls = 0
		read(scores.Range(20_000, 20_100))
		require.Equal(t, 10, calls, name)
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
	table.rows.tree.Ascend(func(e entry[K, V]) bool {
		if c := e.cell; c.row == nil { // then only the scope matters
			lines = append(lines, fmt.Sprintf("no row, scope %p", c.scope))
		} else {
			lines = append(lines, fmt.Sprintf("row %v %p, scope %p", table.key(c.row), c.row, c.scope))
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

// "unique and enforced (a write that would break it fails with ErrDuplicateKey naming
// the index, and changes nothing)": each of the six writes, by itself and in a
// transaction.
func TestAUniqueIndexIsEnforced(t *testing.T) {
	type write func(w rowWriter[game]) (Change[game], error)
	compute := func(key int, row *game) write {
		return func(w rowWriter[game]) (Change[game], error) {
			return w.Compute(key, func(*game) *game { return row })
		}
	}
	const breaks = `value 20 in unique index "rank" belongs to primary key 2, not to primary key `
	for _, test := range []struct {
		name  string
		write write
		kind  Kind
		err   string // unless it succeeds
	}{
		{"insert", func(w rowWriter[game]) (Change[game], error) { return w.Insert(game{4, "Eve", 20}) }, None, `insert into "games": ` + breaks + "4"},
		{"upsert what is not there", func(w rowWriter[game]) (Change[game], error) { return w.Upsert(game{4, "Eve", 20}) }, None, `upsert into "games": ` + breaks + "4"},
		{"upsert what is there", func(w rowWriter[game]) (Change[game], error) { return w.Upsert(game{1, "Eve", 20}) }, None, `upsert into "games": ` + breaks + "1"},
		{"replace", func(w rowWriter[game]) (Change[game], error) { return w.Replace(game{1, "Eve", 20}) }, None, `replace in "games": ` + breaks + "1"},
		{"update", func(w rowWriter[game]) (Change[game], error) {
			return w.Update(1, func(g *game) { g.Score, g.Player = 20, "Eve" })
		}, None, `update in "games": ` + breaks + "1"},
		{"compute what is not there", compute(4, &game{4, "Eve", 20}), None, `compute in "games": ` + breaks + "4"},
		{"compute what is there", compute(1, &game{1, "Eve", 20}), None, `compute in "games": ` + breaks + "1"},

		{"insert another", func(w rowWriter[game]) (Change[game], error) { return w.Insert(game{4, "Eve", 25}) }, Insert, ""},
		{"upsert with its own", func(w rowWriter[game]) (Change[game], error) { return w.Upsert(game{2, "Eve", 20}) }, Update, ""},
		{"upsert an equal row", func(w rowWriter[game]) (Change[game], error) { return w.Upsert(game{2, "Bob", 20}) }, None, ""},
		{"replace with another", func(w rowWriter[game]) (Change[game], error) { return w.Replace(game{2, "Bob", 21}) }, Update, ""},
		{"update with its own", func(w rowWriter[game]) (Change[game], error) {
			return w.Update(2, func(g *game) { g.Player = "Eve" })
		}, Update, ""},
		{"compute with its own", compute(2, &game{2, "Eve", 20}), Update, ""},
		{"compute nil", compute(2, nil), Delete, ""},
		{"delete", func(w rowWriter[game]) (Change[game], error) { return w.Delete(2) }, Delete, ""},
	} {
		check := func(t *testing.T, u uniqueBoard, write func(write) (Change[game], error)) {
			feeds := []Stream[Change[game]]{u.Changes(t.Context(), Poll(nil)), u.late.Equal("Eve").Changes(t.Context(), Poll(nil))}
			before := u.state()
			c, err := write(test.write)
			require.Equal(t, test.kind, c.Kind)
			if test.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, "changefeed: "+test.err)
				require.ErrorIs(t, err, ErrDuplicateKey)
				require.Zero(t, c, "an error comes with the zero Change")
			}
			if test.kind == None {
				u.requireState(t, before)
				for _, feed := range feeds {
					require.Empty(t, selTold(feed))
				}
			}
			u.requireIndexes(t)
			requireIndex(t, u.unique, func(g *game) []int { return []int{g.Score} })
			require.LessOrEqual(t, u.unique.Equal(20).Len(), 1)
			_, err = u.Insert(game{9, "Zoe", 30})
			require.ErrorIs(t, err, ErrDuplicateKey, "it is enforced from then on as before")
			must[game](t)(u.Insert(game{9, "Zoe", 99}))
		}
		t.Run(test.name, func(t *testing.T) {
			u := newUniqueBoard(t)
			check(t, u, func(write write) (Change[game], error) { return write(u.Table) })
		})
		t.Run(test.name+" in a transaction", func(t *testing.T) {
			u := newUniqueBoard(t)
			check(t, u, func(write write) (c Change[game], err error) {
				require.NoError(t, Transact(func(tx *Tx) error {
					c, err = write(u.In(tx))
					return nil
				}, u))
				return c, err
			})
		})
	}
}

// A unique index is enforced at each write: rows swap their values by way of a third,
// and no feed sees anything of that before the end.
func TestRowsSwapUniqueValuesInATransaction(t *testing.T) {
	u := newUniqueBoard(t)
	ten, twenty := u.unique.Equal(10).Changes(t.Context(), Poll(nil)), u.unique.Equal(20).Changes(t.Context(), Poll(nil))
	minus := u.unique.Equal(-1).Changes(t.Context(), Poll(nil))
	set := func(w rowWriter[game], id, score int) error {
		_, err := w.Update(id, func(g *game) { g.Score = score })
		return err
	}
	swap := func(result error) error {
		return Transact(func(tx *Tx) error {
			w := u.In(tx)
			require.ErrorIs(t, set(w, 1, 20), ErrDuplicateKey)
			require.NoError(t, set(w, 1, -1))
			require.NoError(t, set(w, 2, 10))
			require.ErrorIs(t, set(w, 3, 10), ErrDuplicateKey)
			require.NoError(t, set(w, 1, 20))
			require.Empty(t, selTold(ten)+selTold(twenty)+selTold(minus))
			return result
		}, u)
	}
	before := u.state()
	result := errors.New("no swap")
	require.Equal(t, result, swap(result))
	u.requireState(t, before)
	require.NoError(t, swap(nil))
	requireIndex(t, u.unique, func(g *game) []int { return []int{g.Score} })
	require.Equal(t, []game{{2, "Bob", 10}}, rowsOf(t, u.unique.Equal(10).All()))
	require.Equal(t, []game{{1, "Bob", 20}}, rowsOf(t, u.unique.Equal(20).All()))
	require.Equal(t, "4-1 5+2", selTold(ten))
	require.Equal(t, "5-2 6+1", selTold(twenty))
	require.Equal(t, "4+1 6-1", selTold(minus))

	require.NoError(t, Transact(func(tx *Tx) error { // a value that is given up is free
		w := u.In(tx)
		_, err := w.Delete(1)
		require.NoError(t, err)
		return set(w, 3, 20)
	}, u))
}

// "If two rows share one already, NewUniqueIndex returns ErrDuplicateKey, and there is
// no index."
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
	x = NewIndex(games, "player", player) // the name is free
	require.Equal(t, 3, x.Equal("Ann").Len())

	type reading struct {
		ID    int
		Value float64
	}
	readings := NewTable("readings", func(r *reading) int { return r.ID })
	must[reading](t)(readings.Insert(reading{1, math.NaN()}))
	must[reading](t)(readings.Insert(reading{2, math.NaN()}))
	_, err = NewUniqueIndex(readings, "value", func(r *reading) float64 { return r.Value })
	require.ErrorIs(t, err, ErrDuplicateKey, "all NaN are one value")
}

// NaN is the lowest value, and one value; so are 0 and -0.
func TestFloatIndexValuesAreComparedWithCmpCompare(t *testing.T) {
	type reading struct {
		ID    int
		Value float64
	}
	nan, otherNaN := math.NaN(), math.Float64frombits(math.Float64bits(math.NaN())^1)
	minus0, inf := math.Copysign(0, -1), math.Inf(1)
	readings := NewTable("readings", func(r *reading) int { return r.ID })
	value := NewIndex(readings, "value", func(r *reading) float64 { return r.Value })
	twice := NewMultiIndex(readings, "twice", func(r *reading) []float64 { return []float64{r.Value, 0 * r.Value, r.Value} })
	unique, err := NewUniqueIndex(readings, "unique", func(r *reading) float64 { return r.Value })
	require.NoError(t, err)
	for id, v := range []float64{1, nan, minus0, -inf, inf} {
		must[reading](t)(readings.Insert(reading{id, v}))
	}
	for _, v := range []float64{nan, otherNaN, 0, minus0} {
		_, err = readings.Insert(reading{9, v})
		require.ErrorIs(t, err, ErrDuplicateKey)
		require.ErrorContains(t, err, fmt.Sprintf("value %v in unique index", v))
	}
	ids := func(s Selection[int, reading]) (ids []int) {
		for id := range s.All() {
			ids = append(ids, id)
		}
		return ids
	}
	for name, x := range map[string]*Index[float64, int, reading]{"value": value, "unique": unique} {
		require.Equal(t, []int{1}, ids(x.Equal(otherNaN)), name)
		require.Equal(t, []int{2}, ids(x.Equal(0)), name)
		require.Equal(t, []int{2}, ids(x.Equal(minus0)), name)
		require.Equal(t, []int{1, 3}, ids(x.Range(nan, 0)), name)
		require.Empty(t, ids(x.Range(0, nan)), name)
		require.Equal(t, []int{2, 0, 4}, ids(x.From(minus0)), name)
		require.Equal(t, []int{1, 3, 2, 0, 4}, ids(x.From(nan)), name)
	}
	require.Equal(t, []int{0, 2}, ids(twice.Equal(0)), "1 under 1 and 0, -0 under -0 and 0, which are one")
	require.Equal(t, []int{1, 3, 4}, ids(twice.Equal(nan)), "0 times an infinity is NaN")
	require.Len(t, entriesOf(twice), 2+1+1+2+2)

	feed, zero := value.Equal(nan).Changes(t.Context(), Poll(nil)), value.Range(0, 1).Changes(t.Context(), Poll(nil))
	must[reading](t)(readings.Update(1, func(r *reading) { r.Value = otherNaN })) // NaN is not equal: an update
	must[reading](t)(readings.Update(1, func(r *reading) { r.Value = 2 }))
	must[reading](t)(readings.Replace(reading{0, 0.5})) // 0 is row 2's
	must[reading](t)(readings.Delete(2))
	require.Equal(t, []Kind{Update, Delete}, kindsOf(feed))
	require.Equal(t, []Kind{Insert, Delete}, kindsOf(zero))
	values := func(r *reading) []float64 { return []float64{r.Value} }
	requireIndex(t, value, values)
	requireIndex(t, unique, values)
	requireIndex(t, twice, func(r *reading) []float64 { return []float64{r.Value, 0 * r.Value, r.Value} })
}

// Strings are values byte by byte; a type of their own is quoted in messages too.
func TestStringIndexValues(t *testing.T) {
	type tag string
	type row struct {
		ID  int
		Tag tag
	}
	rows := NewTable("rows", func(r *row) int { return r.ID })
	tags, err := NewUniqueIndex(rows, "tag", func(r *row) tag { return r.Tag })
	require.NoError(t, err)
	for id, s := range []tag{"b", "", "é", "a\x00", "a", "ab", "B"} {
		must[row](t)(rows.Insert(row{id, s}))
	}
	var got []tag
	for _, r := range tags.From("").All() {
		got = append(got, r.Tag)
	}
	require.Equal(t, []tag{"", "B", "a", "a\x00", "ab", "b", "é"}, got)
	require.Equal(t, 3, tags.Range("a", "b").Len())
	require.Equal(t, 1, tags.Equal("").Len())
	_, err = rows.Upsert(row{9, "a\x00"})
	require.EqualError(t, err, `changefeed: upsert into "rows": value "a\x00" in unique index "tag" belongs to primary key 3, not to primary key 9`)
}

// "An index value function that panics is treated as key is" (T4): the panic reaches
// the caller, the lock is free, and the table, all indexes and all feeds are as they
// were; so it is with runtime.Goexit. The index under test is between two others.
func TestAValueFunctionThatPanicsLeavesAllAsItWas(t *testing.T) {
	const bad = -1 // the score that fails
	for name, write := range map[string]func(w rowWriter[game]){
		"Insert":          func(w rowWriter[game]) { _, _ = w.Insert(game{4, "Eve", bad}) },
		"Upsert":          func(w rowWriter[game]) { _, _ = w.Upsert(game{1, "Eve", bad}) },
		"Upsert new":      func(w rowWriter[game]) { _, _ = w.Upsert(game{4, "Eve", bad}) },
		"Replace":         func(w rowWriter[game]) { _, _ = w.Replace(game{1, "Eve", bad}) },
		"Update":          func(w rowWriter[game]) { _, _ = w.Update(1, func(g *game) { g.Score = bad }) },
		"Compute":         func(w rowWriter[game]) { _, _ = w.Compute(1, func(*game) *game { return &game{1, "Eve", bad} }) },
		"Compute new":     func(w rowWriter[game]) { _, _ = w.Compute(4, func(*game) *game { return &game{4, "Eve", bad} }) },
		"of the old row":  func(w rowWriter[game]) { _, _ = w.Delete(1) },
		"old row, Upsert": func(w rowWriter[game]) { _, _ = w.Upsert(game{1, "Eve", 5}) },
	} {
		value := errors.New("the value that the caller gets")
		for how, fail := range map[string]func(){"panics": func() { panic(value) }, "exits": runtime.Goexit} {
			for _, transacts := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, Transact=%t", name, how, transacts), func(t *testing.T) {
					b := newBoard()
					old := strings.Contains(name, "old row")
					failed := false
					touchy := NewMultiIndex(b.Table, "touchy", func(g *game) []int {
						if g.Score == bad || old && g.ID == 1 && failed {
							failed = true
							fail()
						}
						return digits(g)
					})
					u := uniqueBoard{b, nil, NewIndex(b.Table, "late", func(g *game) string { return g.Player })}
					u.unique = touchy
					must[game](t)(b.Insert(game{1, "Bob", 10}))
					must[game](t)(b.Insert(game{2, "Ann", 20}))
					feeds := []Stream[Change[game]]{
						b.Changes(t.Context(), Poll(nil)), b.Row(1).Changes(t.Context(), Poll(nil)), b.Row(4).Changes(t.Context(), Squash(0), Poll(nil)),
						u.late.Equal("Eve").Changes(t.Context(), Poll(nil)), touchy.From(0).Changes(t.Context(), Poll(nil)),
					}
					failed = old
					before := u.state()

					var recovered any
					returned := false
					var wg sync.WaitGroup
					wg.Go(func() { // of its own, for Goexit ends it
						defer func() { recovered = recover() }()
						if transacts {
							_ = Transact(func(tx *Tx) error { write(b.In(tx)); return nil }, b)
						} else {
							write(b.Table)
						}
						returned = true
					})
					wg.Wait()
					require.True(t, failed)
					require.False(t, returned)
					if how == "panics" {
						require.Same(t, value, recovered)
					}

					failed = false
					u.requireState(t, before)
					for _, feed := range feeds {
						require.Empty(t, selTold(feed))
					}
					require.Equal(t, uint64(3), must[game](t)(b.Upsert(game{1, "Eve", 35})).Seq, "no number was used")
					b.requireIndexes(t)
					requireIndex(t, touchy, digits)
					for i, want := range []string{"3~1", "3~1", "", "3+1", "3~1"} {
						require.Equal(t, want, selTold(feeds[i]))
					}
				})
			}
		}
	}
}

// The same in NewIndex: there is no index then, and its name is free.
func TestAValueFunctionThatPanicsInNewIndex(t *testing.T) {
	for name, newIndex := range map[string]func(games *Table[int, game], value func(g *game) int){
		"NewIndex":       func(games *Table[int, game], value func(g *game) int) { NewIndex(games, "score", value) },
		"NewUniqueIndex": func(games *Table[int, game], value func(g *game) int) { _, _ = NewUniqueIndex(games, "score", value) },
		"NewMultiIndex": func(games *Table[int, game], value func(g *game) int) {
			NewMultiIndex(games, "score", func(g *game) []int { return []int{value(g)} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			for id := range 3 {
				must[game](t)(games.Insert(game{ID: id, Score: id}))
			}
			before := stateOf(games)
			require.PanicsWithValue(t, "about 2", func() {
				newIndex(games, func(g *game) int {
					return 1 / min(1, max(1, g.Score)) * cmp.Or(g.Score, 0) * panicIf(g.Score == 2, "about 2")
				})
			})
			requireState(t, before, games)
			require.Empty(t, games.indexes)
			newIndex(games, func(g *game) int { return g.Score })
			require.Len(t, games.indexes, 1)
		})
	}
}

func panicIf(is bool, v any) int {
	if is {
		panic(v)
	}
	return 1
}

// "A name used twice or a nil function panics", and says what to do.
func TestMisuseOfAnIndexPanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{ID: 1}))
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
	require.Len(t, games.indexes, 2)
}

// "an index on a dropped table is empty", whether it was made before or after.
func TestAnIndexOfADroppedTableIsEmpty(t *testing.T) {
	u := newUniqueBoard(t)
	feed := u.players.Equal("Bob").Changes(t.Context())
	u.Drop()
	player := func(g *game) string { return g.Player }
	unique, err := NewUniqueIndex(u.Table, "after, unique", player)
	require.NoError(t, err)
	for name, x := range map[string]*Index[string, int, game]{
		"before": u.players, "after": NewIndex(u.Table, "after", player), "after, unique": unique,
		"after, multi": NewMultiIndex(u.Table, "after, multi", func(g *game) []string { return []string{g.Player} }),
	} {
		for _, s := range []Selection[int, game]{x.Equal("Bob"), x.Range("", "z"), x.From("")} {
			require.Zero(t, s.Len(), name)
			require.Empty(t, rowsOf(t, s.All()), name)
			require.Empty(t, rowsOf(t, s.Backward()), name)
			require.Equal(t, "dropped", selTold(s.Changes(t.Context())), name)
		}
		require.Empty(t, entriesOf(x))
	}
	require.Equal(t, "dropped", selTold(feed))
	_, err = u.Insert(game{ID: 1})
	require.ErrorIs(t, err, ErrTableDropped)
}

// What a write needed is released when it is over, also if it failed: neither the values
// of its row nor the space for many.
func TestAWriteLeavesNoValuesInAnIndex(t *testing.T) {
	const size = 1 << 20
	many := func(*doc) []int { return make([]int, size) } // all of them are one value
	const bad = "bad"
	for name, write := range map[string]func(docs *Table[int, doc]){
		"a large value": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "tag", func(d *doc) []string { return d.Tags })
			must[doc](t)(docs.Insert(doc{ID: 1, Tags: []string{strings.Repeat("x", size)}}))
			must[doc](t)(docs.Delete(1))
		},
		"many values": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "many", many)
			must[doc](t)(docs.Insert(doc{ID: 1}))
		},
		"many values in NewMultiIndex": func(docs *Table[int, doc]) {
			must[doc](t)(docs.Insert(doc{ID: 1}))
			NewMultiIndex(docs, "many", many)
		},
		"an error": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "many", many)
			_, err := NewUniqueIndex(docs, "unique", func(*doc) int { return 0 })
			require.NoError(t, err)
			must[doc](t)(docs.Insert(doc{ID: 1}))
			_, err = docs.Insert(doc{ID: 2})
			require.ErrorIs(t, err, ErrDuplicateKey)
		},
		"a panic": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "many", func(d *doc) []int {
				if len(d.Tags) > 0 {
					panic(bad)
				}
				return many(d)
			})
			must[doc](t)(docs.Insert(doc{ID: 1}))
			require.PanicsWithValue(t, bad, func() { _, _ = docs.Upsert(doc{ID: 1, Tags: []string{bad}}) })
		},
		"a panic in a later index": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "many", many)
			NewIndex(docs, "bad", func(*doc) int { panic(bad) })
			require.PanicsWithValue(t, bad, func() { _, _ = docs.Insert(doc{ID: 1}) })
		},
		"a transaction": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "many", many)
			require.NoError(t, Transact(func(tx *Tx) error {
				must[doc](t)(docs.In(tx).Insert(doc{ID: 1}))
				return nil
			}, docs))
		},
		"a rollback": func(docs *Table[int, doc]) {
			NewMultiIndex(docs, "tag", func(d *doc) []string { return d.Tags })
			require.Equal(t, errTakenBack, Transact(func(tx *Tx) error {
				must[doc](t)(docs.In(tx).Insert(doc{ID: 1, Tags: []string{strings.Repeat("x", size)}}))
				return errTakenBack
			}, docs))
		},
	} {
		t.Run(name, func(t *testing.T) {
			docs := newDocs()
			held := heldBy(func() { write(docs) })
			require.Less(t, held, size/2)
			runtime.KeepAlive(docs)
		})
	}
}

// A range over an index sees the rows as they were when it began, also if each of them
// is moved ahead of it: it ends, and has each once.
func TestRowsThatMoveAheadInAnIndexComeOnce(t *testing.T) {
	b := newBoard()
	for id := range 300 {
		must[game](t)(b.Insert(game{ID: id, Score: id}))
	}
	for name, s := range map[string]Selection[int, game]{"scores": b.scores.From(0), "digits": b.digits.From(0)} {
		want := rowsOf(t, s.All())
		var got []game
		for _, g := range s.All() {
			require.Less(t, len(got), 300)
			got = append(got, g)
			must[game](t)(b.Update(g.ID, func(g *game) { g.Score += 1000 }))
		}
		require.Equal(t, want, got, name)
		require.Equal(t, len(want), s.Len(), name)
	}
	b.requireIndexes(t)
}

// T1 under all at once: rows move between values, and whoever reads through an index
// finds each row once, in a state that was; a feed's fold ends as the index does.
func TestIndexesAreReadWhileRowsMove(t *testing.T) {
	const rows, writes = 20, 1500
	b, seed := newBoard(), testSeed(t)
	for id := range rows {
		must[game](t)(b.Insert(game{id, "Ann", 10}))
	}
	ann := b.players.Equal("Ann").Changes(t.Context(), IncludeInitial())
	var writing, reading, following sync.WaitGroup
	for w := range 2 {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for range writes {
				_, err := b.Upsert(game{r.IntN(rows), []string{"Ann", "Bob"}[r.IntN(2)], 10 + r.IntN(80)})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	reads := make([]int, 3)
	for i, s := range []Selection[int, game]{b.players.From(""), b.scores.From(0), b.digits.Range(0, 10)} {
		reading.Go(func() {
			for last := false; !last; reads[i]++ {
				select {
				case <-done:
					last = true
				default:
				}
				seen := make(map[int]bool)
				for id := range s.All() {
					if seen[id] {
						t.Errorf("row %d came twice", id)
					}
					seen[id] = true
				}
				if len(seen) != rows {
					t.Errorf("%d rows of %d", len(seen), rows)
				}
			}
		})
	}
	fold := make(map[int]game)
	following.Go(func() {
		for c, err := range ann {
			switch {
			case err != nil:
				return
			case c.Kind == Ready:
			case c.New == nil:
				delete(fold, c.Old.ID)
			default:
				fold[c.New.ID] = *c.New
			}
		}
	})
	writing.Wait()
	close(done)
	reading.Wait()
	b.requireIndexes(t)
	want := maps.Collect(b.players.Equal("Ann").All())
	b.Drop()
	following.Wait()
	require.Equal(t, want, fold)
	for _, n := range reads {
		require.Positive(t, n)
	}
}
