package changefeed

import (
	"cmp"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"
)

// "Every write returns the change it made", and its subscribers get the same one.
func TestWritesReturnTheChangeTheyMade(t *testing.T) {
	type games = *Table[int, game]
	bob, ann, eve := &game{ID: 1, Player: "Bob"}, &game{ID: 1, Player: "Ann"}, &game{ID: 2, Player: "Eve"}
	for _, test := range []struct {
		name     string
		write    func(games) (Change[game], error)
		kind     Kind
		old, new *game
	}{
		{"insert", func(g games) (Change[game], error) { return g.Insert(*eve) }, Insert, nil, eve},
		{"upsert what is not there", func(g games) (Change[game], error) { return g.Upsert(*eve) }, Insert, nil, eve},
		{"upsert what is there", func(g games) (Change[game], error) { return g.Upsert(*ann) }, Update, bob, ann},
		{"upsert an equal row", func(g games) (Change[game], error) { return g.Upsert(*bob) }, None, bob, bob},
		{"update", func(g games) (Change[game], error) {
			return g.Update(1, func(row *game) { row.Player = "Ann" })
		}, Update, bob, ann},
		{"update nothing", func(g games) (Change[game], error) {
			return g.Update(1, func(*game) {})
		}, None, bob, bob},
		{"update there and back", func(g games) (Change[game], error) {
			return g.Update(1, func(row *game) { row.Player = "Ann"; row.Player = "Bob" })
		}, None, bob, bob},
		{"replace", func(g games) (Change[game], error) { return g.Replace(*ann) }, Update, bob, ann},
		{"replace by an equal row", func(g games) (Change[game], error) { return g.Replace(*bob) }, None, bob, bob},
		{"delete", func(g games) (Change[game], error) { return g.Delete(1) }, Delete, bob, nil},
		{"compute what is not there", func(g games) (Change[game], error) {
			return g.Compute(2, func(old *game) *game {
				if old != nil {
					return nil
				}
				return new(*eve)
			})
		}, Insert, nil, eve},
		{"compute another row", func(g games) (Change[game], error) {
			return g.Compute(1, func(*game) *game { return new(*ann) })
		}, Update, bob, ann},
		{"compute by editing", func(g games) (Change[game], error) {
			return g.Compute(1, func(old *game) *game { old.Player = "Ann"; return old })
		}, Update, bob, ann},
		{"compute by editing what is not returned", func(g games) (Change[game], error) {
			return g.Compute(1, func(old *game) *game { old.Player = "Eve"; return new(*ann) })
		}, Update, bob, ann},
		{"compute the row as it came", func(g games) (Change[game], error) {
			return g.Compute(1, func(old *game) *game { return old })
		}, None, bob, bob},
		{"compute an equal row", func(g games) (Change[game], error) {
			return g.Compute(1, func(*game) *game { return new(*bob) })
		}, None, bob, bob},
		{"compute nil", func(g games) (Change[game], error) {
			return g.Compute(1, func(*game) *game { return nil })
		}, Delete, bob, nil},
		{"compute nil for nil", func(g games) (Change[game], error) {
			return g.Compute(2, func(old *game) *game { return old })
		}, None, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			first := must[game](t)(games.Insert(*bob))
			require.Equal(t, Change[game]{1, Insert, nil, bob}, first)
			feed := games.Changes(t.Context())
			before, snapshot := stateOf(games), frozen(games)

			c := must[game](t)(test.write(games))
			want := Change[game]{2, test.kind, test.old, test.new}
			if test.kind == None {
				want.Seq = 0
			}
			require.Equal(t, want, c)
			if test.old != nil {
				require.Same(t, first.New, c.Old, "Old is the stored row")
			}
			require.Equal(t, *bob, *first.New, "T3")
			if test.kind == None {
				require.True(t, c.Old == c.New, "Old and New both the stored row")
				requireState(t, before, games)
				require.Same(t, snapshot, frozen(games), "no change: the snapshot is still good")
				return
			}
			require.Equal(t, uint64(2), games.Seq())
			require.True(t, stored(games, c.Row().ID) == c.New, "New is the stored row")
			require.NotSame(t, snapshot, frozen(games))

			read := take(feed.Limit(1), 2)
			require.Len(t, read, 1)
			require.NoError(t, read[0].err)
			require.True(t, c == read[0].v, "subscribers get the Change that the write returned")
		})
	}
}

// A deleted row can come again, and its history goes on.
func TestDeletedKeysCanBeInsertedAgain(t *testing.T) {
	games := newGames()
	for round := range uint64(3) {
		c := must[game](t)(games.Insert(game{ID: 1}))
		require.Equal(t, Change[game]{2*round + 1, Insert, nil, &game{ID: 1}}, c)
		require.Equal(t, 1, games.Len())
		d := must[game](t)(games.Delete(1))
		require.Equal(t, Change[game]{2*round + 2, Delete, c.New, nil}, d)
		require.Zero(t, games.Len())
	}
}

// "Get: a shallow copy"
func TestGetReturnsAShallowCopy(t *testing.T) {
	type row struct {
		ID   int
		Tags []string
	}
	rows := NewTable("rows", func(r *row) int { return r.ID })
	must[row](t)(rows.Insert(row{1, []string{"a"}}))

	got, ok := rows.Get(1)
	require.True(t, ok)
	require.Equal(t, row{1, []string{"a"}}, got)
	require.Same(t, &stored(rows, 1).Tags[0], &got.Tags[0])
	got.ID, got.Tags = 2, nil
	require.Equal(t, row{1, []string{"a"}}, *stored(rows, 1), "T3")

	got, ok = rows.Get(2)
	require.False(t, ok)
	require.Zero(t, got)
}

// A write that got a row's key changed is not made (ErrKeyChanged is in
// errors_test.go); one that keeps the key in other letters is.
func TestNewTableFuncTakesKeysThatCompareAsZeroForOne(t *testing.T) {
	type user struct{ Name, Mail string }
	users := NewTableFunc("users", func(u *user) string { return u.Name },
		func(a, b string) int { return cmp.Compare(strings.ToLower(a), strings.ToLower(b)) })
	keys := func() (keys []string) {
		for key, u := range users.All() {
			require.Equal(t, u.Name, key, "the key is that of the row written last")
			keys = append(keys, key)
		}
		return keys
	}
	must[user](t)(users.Insert(user{"bob", ""}))
	must[user](t)(users.Insert(user{"Ann", ""}))
	require.Equal(t, []string{"Ann", "bob"}, keys())

	_, err := users.Insert(user{"BOB", ""})
	require.ErrorIs(t, err, ErrDuplicateKey)
	require.Equal(t, Update, must[user](t)(users.Upsert(user{"Bob", ""})).Kind, "its key is another, though one with the old")
	require.Equal(t, []string{"Ann", "Bob"}, keys())
	must[user](t)(users.Replace(user{"BoB", ""}))
	require.Equal(t, []string{"Ann", "BoB"}, keys())
	must[user](t)(users.Update("bob", func(u *user) { u.Name = "BOB" }))
	require.Equal(t, []string{"Ann", "BOB"}, keys())
	must[user](t)(users.Compute("bob", func(u *user) *user { u.Name = "bOB"; return u }))
	require.Equal(t, []string{"Ann", "bOB"}, keys())
	got, ok := users.Get("BOb")
	require.True(t, ok)
	require.Equal(t, user{"bOB", ""}, got)
	must[user](t)(users.Delete("bob"))
	require.Equal(t, []string{"Ann"}, keys())
}

// "Keys are compared with cmp.Compare": all NaN are one key, the lowest, as 0 and -0 are one.
func TestFloatKeysAreComparedWithCmpCompare(t *testing.T) {
	type point struct{ X, Y float64 }
	equal := func(a, b point) bool { return a.Y == b.Y && cmp.Compare(a.X, b.X) == 0 }
	points := NewTable("points", func(p *point) float64 { return p.X })
	nan, otherNaN := math.NaN(), math.Float64frombits(math.Float64bits(math.NaN())^1)
	require.True(t, math.IsNaN(otherNaN))
	for _, x := range []float64{1, math.Inf(-1), nan, 0} {
		must[point](t)(points.Insert(point{X: x}))
	}
	_, err := points.Insert(point{X: otherNaN})
	require.ErrorIs(t, err, ErrDuplicateKey)
	_, err = points.Insert(point{X: math.Copysign(0, -1)})
	require.ErrorIs(t, err, ErrDuplicateKey)
	must[point](t)(points.Update(otherNaN, func(p *point) { p.Y = 5 }))
	got, ok := points.Get(nan)
	require.True(t, ok)
	require.True(t, equal(point{nan, 5}, got))

	var xs []float64
	for x := range points.All() {
		xs = append(xs, x)
	}
	require.True(t, slices.EqualFunc([]float64{nan, math.Inf(-1), 0, 1}, xs, func(a, b float64) bool {
		return cmp.Compare(a, b) == 0
	}), xs)
	must[point](t)(points.Delete(otherNaN))
	require.Equal(t, 3, points.Len())
}

func TestAllAndBackwardReturnTheRowsInTheOrderOfKeys(t *testing.T) {
	for _, n := range []int{0, 1, 100_000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			r, games := newRand(t), newGames()
			for _, id := range r.Perm(n) {
				must[game](t)(games.Insert(game{ID: id, Score: -id}))
			}
			require.Equal(t, "games", games.Name())
			require.Equal(t, n, games.Len())
			require.Equal(t, uint64(n), games.Seq())

			next := 0
			for id, g := range games.All() {
				if id != next || g != (game{ID: id, Score: -id}) {
					require.Equal(t, next, id)
					require.Equal(t, game{ID: id, Score: -id}, g)
				}
				next++
			}
			require.Equal(t, n, next)
			for id, g := range games.Backward() {
				next--
				if id != next || g != (game{ID: id, Score: -id}) {
					require.Equal(t, next, id)
					require.Equal(t, game{ID: id, Score: -id}, g)
				}
			}
			require.Zero(t, next)

			for name, rows := range map[string]iter.Seq2[int, game]{"All": games.All(), "Backward": games.Backward()} {
				for range 2 { // a sequence can be ranged again
					seen := 0
					for range rows {
						if seen++; seen == min(n, 70) { // on the second page of the tree
							break
						}
					}
					require.Equal(t, min(n, 70), seen, name)
				}
			}
		})
	}
}

// "key order; snapshot taken when a range begins", and no lock held while the body runs.
func TestARangeSeesTheTableAsItWasWhenItBegan(t *testing.T) {
	for name, walk := range map[string]func(*Table[int, game]) iter.Seq2[int, game]{
		"All": (*Table[int, game]).All, "Backward": (*Table[int, game]).Backward,
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			const n = 500
			rows := walk(games)
			for id := range n { // after All returned, before the range begins
				must[game](t)(games.Insert(game{ID: id}))
			}
			seen := 0
			for id, g := range rows {
				require.Equal(t, game{ID: id}, g)
				seen++
				must[game](t)(games.Delete(id))
				must[game](t)(games.Upsert(game{ID: n + id}))
				must[game](t)(games.Upsert(game{ID: (id + 1) % n, Player: "written"}))
				must[game](t)(games.Upsert(game{ID: (id + n - 1) % n, Player: "written"}))
				if seen == n/2 {
					inner := 0
					for range games.All() { // sees what was written until here
						inner++
					}
					require.Equal(t, games.Len(), inner)
				}
				if seen == n-1 {
					games.Drop()
					break
				}
			}
			require.Equal(t, n-1, seen)
			for range rows {
				t.Fatal("a dropped table is empty")
			}
		})
	}
}

func TestARangeGoesOnWhenTheTableIsDropped(t *testing.T) {
	games := newGames()
	for id := range 300 {
		must[game](t)(games.Insert(game{ID: id}))
	}
	seen := 0
	for id := range games.All() {
		require.Equal(t, seen, id)
		games.Drop()
		seen++
	}
	require.Equal(t, 300, seen)
}

// A snapshot is "kept until the next write, never taken per write".
func TestASnapshotIsKeptUntilTheNextWrite(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{ID: 1}))
	must[game](t)(games.Upsert(game{ID: 2}))
	require.Nil(t, games.rows.snapshot, "writes take none")
	games.Get(1)
	games.Len()
	games.All()
	require.Nil(t, games.rows.snapshot, "nor do reads before a range begins")

	for range games.All() {
	}
	kept := games.rows.snapshot
	require.NotNil(t, kept)
	for range games.Backward() {
		break
	}
	_, err := games.Insert(game{ID: 1})
	require.Error(t, err)
	must[game](t)(games.Upsert(game{ID: 1}))
	require.Same(t, kept, games.rows.snapshot, "neither an error nor an equal row is a change")

	for _, write := range []func(){
		func() { must[game](t)(games.Upsert(game{ID: 3})) },
		func() { must[game](t)(games.Upsert(game{ID: 3, Score: 1})) },
		func() { must[game](t)(games.Delete(3)) },
		games.Drop,
	} {
		frozen(games)
		write()
		require.Nil(t, games.rows.snapshot)
	}
}

// A write to a row that is there leaves tree and indexes as they are, unless a clone
// may have the row's cell: of the tree, or of an index.
func TestACellIsWrittenToUntilACloneMayHaveIt(t *testing.T) {
	games := newGames()
	players := NewIndex(games, "player", func(g *game) string { return g.Player })
	must[game](t)(games.Insert(game{ID: 1, Player: "Ann"}))
	cells := func() [2]*cell[int, game] {
		indexed, _ := players.rows.tree.Min()
		return [2]*cell[int, game]{games.cellLocked(1), indexed.cell}
	}
	score := 0
	write := func() {
		score++
		c := must[game](t)(games.Update(1, func(g *game) { g.Score = score }))
		require.Same(t, c.New, cells()[0].row)
	}
	is := cells()
	require.Same(t, is[0], is[1])
	for _, read := range []iter.Seq2[int, game]{games.All(), players.Equal("Ann").All(), games.All()} {
		write()
		require.Equal(t, is, cells())
		require.Same(t, is[0], cells()[0])

		for _, g := range read {
			was := *is[0]
			write()
			require.Equal(t, was, *is[0], "a clone may have it")
			require.Equal(t, score-1, g.Score)
		}
		next := cells()
		require.NotSame(t, is[0], next[0])
		require.Same(t, next[0], next[1])
		is = next
	}
	write()
	require.Same(t, is[0], cells()[0])
}

// "Every write on a dropped table fails with ErrTableDropped; reads find it empty."
// The failed writes are in errors_test.go.
func TestADroppedTableIsEmpty(t *testing.T) {
	games := newGames()
	games.Retain(1)
	c := must[game](t)(games.Insert(game{ID: 1, Player: "Bob"}))
	feed := games.Changes(t.Context())
	for range 2 { // "again: nothing"
		games.Drop()
		require.Equal(t, "games", games.Name())
		require.Zero(t, games.Len())
		require.Equal(t, uint64(1), games.Seq(), "no changes for the rows that it had")
		_, ok := games.Get(1)
		require.False(t, ok)
		for range games.All() {
			t.Fatal("a row")
		}
		for range games.Backward() {
			t.Fatal("a row")
		}
	}
	require.Equal(t, game{ID: 1, Player: "Bob"}, *c.New, "T3")
	pairs := take(feed, 2)
	require.Len(t, pairs, 1)
	require.ErrorIs(t, pairs[0].err, ErrTableDropped)
	require.False(t, games.allScope.ring.keeps(), "what Retain asked for")
}

// "What no run-time input can cause panics and says what to do"
func TestMisuseOfATablePanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{ID: 1}))
	before := stateOf(games)
	for text, misuse := range map[string]func(){
		"changefeed: NewTable: nil key function; pass one that returns a row's primary key": func() {
			NewTable[int, game]("games", nil)
		},
		"changefeed: NewTableFunc: nil compare function; pass one, or use NewTable for ordered keys": func() {
			NewTableFunc("games", func(g *game) int { return g.ID }, nil)
		},
		"changefeed: Table.Update: nil function; pass one that edits the row": func() {
			_, _ = games.Update(1, nil)
		},
		"changefeed: Table.Compute: nil function; pass one that returns the new row": func() {
			_, _ = games.Compute(1, nil)
		},
	} {
		require.PanicsWithValue(t, text, misuse)
	}
	require.PanicsWithValue(t, "changefeed: NewTable: nil key function; pass one that returns a row's primary key", func() {
		NewTableFunc[int, game]("games", nil, cmp.Compare[int])
	})
	games2 := newGames()
	require.Panics(t, func() { _, _ = games2.Update(1, nil) }, "whether there is such a row or not")
	requireState(t, before, games)
}

// A touchy row calls its functions where the table calls the row's methods.
type touchy struct {
	ID, Value         int
	key, equal, clone func()
}

func (r *touchy) do(f func()) *touchy {
	if f != nil {
		f()
	}
	return r
}

func (r *touchy) Clone() *touchy { return new(*r.do(r.clone)) }
func (r *touchy) Equal(other *touchy) bool {
	return r.ID == other.do(other.equal).ID && r.Value == other.Value
}

// "If edit, f, key, Equal or Clone panics, the panic reaches the caller, the lock is
// free and the table is as it was" (T4); so it is when one of them calls
// runtime.Goexit, as t.FailNow does.
func TestWritesThatPanicLeaveTheTableAsItWas(t *testing.T) {
	for name, write := range map[string]func(table *Table[int, touchy], fail func()){
		"key in Insert":  func(table *Table[int, touchy], fail func()) { _, _ = table.Insert(touchy{ID: 3, key: fail}) },
		"key in Upsert":  func(table *Table[int, touchy], fail func()) { _, _ = table.Upsert(touchy{ID: 1, key: fail}) },
		"key in Replace": func(table *Table[int, touchy], fail func()) { _, _ = table.Replace(touchy{ID: 1, key: fail}) },
		"key in Update":  func(table *Table[int, touchy], fail func()) { _, _ = table.Update(1, func(r *touchy) { r.key = fail }) },
		"edit": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Update(1, func(r *touchy) { r.Value = 9; fail() })
		},
		"Equal in Upsert": func(table *Table[int, touchy], fail func()) { _, _ = table.Upsert(touchy{ID: 1, equal: fail}) },
		"Equal in Replace": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Replace(touchy{ID: 1, equal: fail})
		},
		"Equal in Update": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Update(1, func(r *touchy) { r.equal = fail })
		},
		"Clone in Update": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Update(2, func(r *touchy) { t.Error("edit was called") })
		},
		"Clone in Compute": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Compute(2, func(r *touchy) *touchy { t.Error("f was called"); return r })
		},
		"f for a row": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Compute(1, func(r *touchy) *touchy { r.Value = 9; fail(); return r })
		},
		"f for no row": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Compute(3, func(r *touchy) *touchy { fail(); return r })
		},
		"key in Compute": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Compute(3, func(r *touchy) *touchy { return &touchy{ID: 3, key: fail} })
		},
		"Equal in Compute": func(table *Table[int, touchy], fail func()) {
			_, _ = table.Compute(1, func(r *touchy) *touchy { return &touchy{ID: 1, equal: fail} })
		},
	} {
		value := errors.New("the value that the caller gets")
		for how, fail := range map[string]func(){
			"panics": func() { panic(value) },
			"exits":  runtime.Goexit,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				table := NewTable("touchy", func(r *touchy) int { return r.do(r.key).ID })
				failed, ready := false, false
				fails := func() { failed = true; fail() }
				must[touchy](t)(table.Insert(touchy{ID: 1}))
				must[touchy](t)(table.Insert(touchy{ID: 2, clone: func() {
					if ready { // with the tag changefeed_debug, Insert clones the row
						fails()
					}
				}}))
				feed := table.Changes(t.Context())
				before := stateOf(table)
				require.Len(t, before.feeds, 1)

				var recovered any
				returned := false
				var wg sync.WaitGroup
				ready = true
				wg.Go(func() { // of its own, for Goexit ends it
					defer func() { recovered = recover() }()
					write(table, fails)
					returned = true
				})
				wg.Wait()
				ready = false
				require.True(t, failed, "the function was called")
				require.False(t, returned)
				if how == "panics" {
					require.Same(t, value, recovered)
				}

				requireState(t, before, table)
				require.Zero(t, stored(table, 1).Value, "T3")
				c := must[touchy](t)(table.Upsert(touchy{ID: 1, Value: 5}))
				require.Equal(t, uint64(3), c.Seq, "no number was used")
				require.True(t, c == take(feed, 1)[0].v)
			})
		}
	}
}

func TestChangeRowIsNewOrOldForADelete(t *testing.T) {
	old, is := &game{ID: 1}, &game{ID: 1, Score: 1}
	require.Same(t, is, Change[game]{Kind: Insert, New: is}.Row())
	require.Same(t, is, Change[game]{Kind: Update, Old: old, New: is}.Row())
	require.Same(t, old, Change[game]{Kind: Delete, Old: old}.Row())
	require.Nil(t, Change[game]{}.Row())
}

func TestKindsHaveNames(t *testing.T) {
	for kind, name := range map[Kind]string{
		None: "none", Insert: "insert", Update: "update", Delete: "delete",
		Initial: "initial", Ready: "ready", Ready + 1: "Kind(6)", 255: "Kind(255)",
	} {
		require.Equal(t, name, kind.String())
	}
	require.Zero(t, None, "the Kind of the zero Change")
}

// "A Change marshals to {"old_val": ..., "new_val": ...}, null explicit."
func TestChangesMarshalAsInRethinkDB(t *testing.T) {
	old, is := &game{ID: 1, Player: "Bob"}, &game{ID: 1}
	insert := Change[game]{1, Insert, nil, is}
	pointerRow := Change[*game]{1, Update, &old, new((*game)(nil))}
	for _, test := range []struct {
		v    any
		json string
	}{
		{insert, `{"old_val":null,"new_val":{"id":1}}`},
		{&insert, `{"old_val":null,"new_val":{"id":1}}`},
		{Change[game]{2, Update, old, is}, `{"old_val":{"id":1,"player":"Bob"},"new_val":{"id":1}}`},
		{Change[game]{3, Delete, old, nil}, `{"old_val":{"id":1,"player":"Bob"},"new_val":null}`},
		{Change[game]{0, None, is, is}, `{"old_val":{"id":1},"new_val":{"id":1}}`},
		{Change[game]{}, `{"old_val":null,"new_val":null}`},
		{pointerRow, `{"old_val":{"id":1,"player":"Bob"},"new_val":null}`},
		{[]Change[game]{insert}, `[{"old_val":null,"new_val":{"id":1}}]`},
		{map[string]any{"c": insert, "p": &insert}, `{"c":{"old_val":null,"new_val":{"id":1}},"p":{"old_val":null,"new_val":{"id":1}}}`},
		{struct {
			C Change[game]
			P *Change[game] `json:",omitempty"`
		}{C: insert}, `{"C":{"old_val":null,"new_val":{"id":1}}}`},
	} {
		text, err := json.Marshal(test.v)
		require.NoError(t, err)
		require.Equal(t, test.json, string(text))
	}
	_, err := json.Marshal(Change[func()]{New: new(func() {})})
	require.ErrorAs(t, err, new(*json.UnsupportedTypeError))
}

// T1, T2 and T4 under all at once: what the writes returned, put in the order of
// Seq, is a history that a plain map can replay; every reader saw a state of it,
// between the ones it found when it began and when it had begun; and the
// subscribers got the very same changes.
func TestConcurrentWritesAndReadsHaveOneHistory(t *testing.T) {
	const writers, readers, writes, keys = 4, 3, 1500, 12
	games := newGames()
	seed := testSeed(t)
	var number atomic.Int64 // makes each row written one of a kind

	type view struct { // what a reader saw
		rows     map[int]game
		from, to uint64
		key      int // of the one row that was read; -1: all were
	}
	changes := make([][]Change[game], writers)
	nothing := make([]int, writers) // writes that failed or changed nothing
	views := make([][]view, readers)
	feed := games.Changes(t.Context(), Buffer(writers*writes))
	var fed []Change[game]

	var writing, reading, first sync.WaitGroup
	first.Add(readers)
	for w := range writers {
		writing.Go(func() {
			first.Wait() // or one processor might end the writers before the readers begin
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for range writes {
				row := game{ID: r.IntN(keys), Score: int(number.Add(1))}
				var c Change[game]
				var err error
				switch r.IntN(7) {
				case 0:
					c, err = games.Insert(row)
				case 1:
					c, err = games.Upsert(row)
				case 2:
					c, err = games.Replace(row)
				case 3:
					c, err = games.Update(row.ID, func(g *game) { g.Score = row.Score })
				case 4:
					c, err = games.Delete(row.ID)
				case 5:
					c, err = games.Compute(row.ID, func(old *game) *game {
						if old != nil {
							return nil
						}
						return &row
					})
				case 6:
					c, err = games.Update(row.ID, func(g *game) {})
				}
				if c.Kind == None { // an error comes with the zero Change
					nothing[w]++
					if err != nil && c != (Change[game]{}) || err == nil && (c.Seq != 0 || c.Old == nil || c.Old != c.New) {
						t.Errorf("%v with %v", c, err)
					}
					continue
				}
				changes[w] = append(changes[w], c)
			}
		})
	}
	done := make(chan struct{})
	for i := range readers {
		reading.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(writers+i)))
			for last := false; !last; {
				select {
				case <-done:
					last = true // one more view, of the end
				default:
				}
				v := view{rows: make(map[int]game), from: games.Seq(), key: -1}
				switch r.IntN(3) {
				case 0:
					v.key = r.IntN(keys)
					if g, ok := games.Get(v.key); ok {
						v.rows[v.key] = g
					}
				case 1:
					maps.Insert(v.rows, games.All())
				case 2:
					maps.Insert(v.rows, games.Backward())
				}
				if v.to = games.Seq(); len(views[i]) < 2000 || last {
					views[i] = append(views[i], v)
				}
				if len(views[i]) == 1 {
					first.Done()
				}
			}
		})
	}
	following := make(chan struct{})
	go func() {
		defer close(following)
		for c, err := range feed {
			if err != nil {
				return
			}
			fed = append(fed, c)
		}
	}()
	writing.Wait()
	close(done)
	reading.Wait()
	final := maps.Collect(games.All())
	games.Drop()
	<-following

	history := slices.Concat(changes...)
	slices.SortFunc(history, func(a, b Change[game]) int { return cmp.Compare(a.Seq, b.Seq) })
	require.True(t, slices.Equal(history, fed), "the feed has what the writes returned, in order")
	for w := range writers {
		require.Positive(t, nothing[w])
		require.True(t, slices.IsSortedFunc(changes[w], func(a, b Change[game]) int { return cmp.Compare(a.Seq, b.Seq) }))
	}

	open := slices.Concat(views...) // and not yet found in the history
	total := len(open)
	kinds := make(map[Kind]int)
	rows := make(map[int]*game)
	state := make(map[int]game)
	match := func(seq uint64) {
		open = slices.DeleteFunc(open, func(v view) bool {
			if seq < v.from || seq > v.to {
				return false
			}
			if v.key < 0 {
				return maps.Equal(v.rows, state)
			}
			seen, saw := v.rows[v.key]
			is, there := state[v.key]
			return saw == there && seen == is
		})
	}
	match(0)
	for i, c := range history {
		require.Equal(t, uint64(i+1), c.Seq, "1, 2, 3, ... without gaps")
		kinds[c.Kind]++
		id := c.Row().ID
		require.True(t, rows[id] == c.Old, "Old is the row that was stored when change %d was made", c.Seq)
		switch c.Kind {
		case Insert:
			require.Nil(t, c.Old)
			require.NotNil(t, c.New)
		case Update:
			require.NotNil(t, c.Old)
			require.Equal(t, c.Old.ID, c.New.ID)
		case Delete:
			require.Nil(t, c.New)
		}
		if rows[id], state[id] = c.New, *c.Row(); c.New == nil {
			delete(rows, id)
			delete(state, id)
		}
		match(c.Seq)
	}
	require.Equal(t, final, state)
	require.Empty(t, open, "%d of %d reads saw what never was", len(open), total)
	for _, kind := range []Kind{Insert, Update, Delete} {
		require.Positive(t, kinds[kind], kind)
	}
	require.Greater(t, total, readers)
}

// frozen returns the tree as the table's readers get it.
func frozen[K, V any](t *Table[K, V]) *btree.BTreeG[entry[K, V]] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows.frozenLocked(true)
}
