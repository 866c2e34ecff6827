package changefeed

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// The random models (model_test.go) compare what each write returns and what it does to
// the rows. The tests here are of what they do not show.

// "Get returns a copy of the row", and "everything that the row refers to belongs to the
// table". T3
func TestGetReturnsAShallowCopy(t *testing.T) {
	docs := newDocs()
	must[doc](t)(docs.Insert(doc{ID: 1, Tags: []string{"a"}}))
	got, ok := docs.Get(1)
	require.True(t, ok)
	require.Same(t, &stored(docs, 1).Tags[0], &got.Tags[0])
	got.ID, got.Tags = 2, nil
	require.Equal(t, doc{ID: 1, Tags: []string{"a"}}, *stored(docs, 1))
	got, ok = docs.Get(2)
	require.False(t, ok)
	require.Zero(t, got)
}

// "Keys for which it returns zero are one key. The table keeps the key of the row that was
// written last."
func TestKeysThatCompareAsZeroAreOneKey(t *testing.T) {
	users := newUsers()
	must[user](t)(users.Insert(user{"bob", ""}))
	must[user](t)(users.Insert(user{"Ann", ""}))
	_, err := users.Insert(user{"BOB", ""})
	require.ErrorIs(t, err, ErrDuplicateKey)
	for name, write := range map[string]func() (Change[user], error){
		"Bob": func() (Change[user], error) { return users.Upsert(user{"Bob", ""}) },
		"BoB": func() (Change[user], error) { return users.Replace(user{"BoB", ""}) },
		"BOB": func() (Change[user], error) { return users.Update("bob", func(u *user) { u.Name = "BOB" }) },
		"bOB": func() (Change[user], error) {
			return users.Compute("bob", func(u *user) *user { u.Name = "bOB"; return u })
		},
	} {
		require.Equal(t, Update, must[user](t)(write()).Kind)
		var keys []string
		for key, u := range users.All() {
			require.Equal(t, u.Name, key)
			keys = append(keys, key)
		}
		require.Equal(t, []string{"Ann", name}, keys)
	}
	must[user](t)(users.Delete("boB"))
	_, ok := users.Get("bob")
	require.False(t, ok)
}

// "Keys are in the order of [cmp.Compare], so all NaN are one key, the lowest", as 0 and -0
// are one.
func TestFloatKeysAreComparedWithCmpCompare(t *testing.T) {
	blobs := newBlobs()
	nan, otherNaN := math.NaN(), math.Float64frombits(math.Float64bits(math.NaN())^1)
	for _, x := range []float64{1, math.Inf(-1), nan, 0} {
		must[blob](t)(blobs.Insert(blob{x}))
	}
	for _, x := range []float64{otherNaN, math.Copysign(0, -1)} {
		_, err := blobs.Insert(blob{x})
		require.ErrorIs(t, err, ErrDuplicateKey)
	}
	must[blob](t)(blobs.Update(otherNaN, func(row *blob) { row[1] = 5 }))
	got, _ := blobs.Get(nan)
	require.EqualValues(t, 5, got[1])
	var keys []float64
	for x := range blobs.All() {
		keys = append(keys, x)
	}
	require.Equal(t, "[NaN -Inf 0 1]", fmt.Sprint(keys))
	must[blob](t)(blobs.Delete(otherNaN))
	require.Equal(t, 3, blobs.Len())
}

// A range is in the order of keys, and sees the table as it was when the range began. No
// lock is held while the loop's body runs.
func TestARangeSeesTheTableAsItWasWhenItBegan(t *testing.T) {
	const n = 500
	for name, all := range map[string]func(*Table[int, game]) iter.Seq2[int, game]{
		"All": (*Table[int, game]).All, "Backward": (*Table[int, game]).Backward,
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			rows := all(games)
			insertRows(t, games, newRand(t).Perm(n)...) // before the range begins
			seen := 0
			for id, g := range rows {
				want := seen
				if name == "Backward" {
					want = n - 1 - seen
				}
				require.Equal(t, want, id)
				require.Equal(t, game{ID: want}, g)
				if seen++; seen < n/2 {
					must[game](t)(games.Delete(id))
					for _, other := range []int{n + id, (id + 1) % n, (id + n - 1) % n} {
						must[game](t)(games.Upsert(game{ID: other, Player: "written"}))
					}
				} else if seen == n/2 {
					require.Len(t, maps.Collect(games.All()), games.Len(), "an inner range sees what was written")
					games.Drop()
				}
			}
			require.Equal(t, n, seen)
			require.Empty(t, maps.Collect(rows), "a dropped table is empty")
		})
	}
}

// A clone of the tree is made for a range, and is kept until a key comes or goes.
func TestACloneIsKeptUntilAKeyComesOrGoes(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1, 2)
	games.Get(1)
	games.Len()
	games.All()
	require.Nil(t, games.rows.frozen, "neither a write nor these reads make one")
	read := func() {
		for range games.Backward() {
			break
		}
	}
	read()
	kept := games.rows.frozen
	require.NotNil(t, kept)
	_, err := games.Insert(game{ID: 1})
	require.Error(t, err)
	must[game](t)(games.Upsert(game{ID: 1}))
	must[game](t)(games.Upsert(game{ID: 1, Score: 1}))
	require.Same(t, kept, games.rows.frozen, "neither an error nor an update changes the keys")
	for _, write := range []func(){
		func() { must[game](t)(games.Upsert(game{ID: 3})) },
		func() { must[game](t)(games.Delete(3)) },
		games.Drop,
	} {
		read()
		require.NotNil(t, games.rows.frozen)
		write()
		require.Nil(t, games.rows.frozen)
	}
}

// A write to a row that is there leaves the tree and the indexes as they are, also while
// others read: they find the earlier row in the cell.
func TestAnUpdateChangesOnlyTheCell(t *testing.T) {
	games := newGames()
	players := NewIndex(games, "player", func(g *game) string { return g.Player })
	must[game](t)(games.Insert(game{ID: 1, Player: "Ann"}))
	c := games.cellLocked(1)
	score := 0
	write := func() {
		score++
		change := must[game](t)(games.Update(1, func(g *game) { g.Score = score }))
		indexed, _ := players.rows.tree.Min()
		require.Same(t, c, (*cell[int, game])(indexed.cell))
		require.Same(t, c, games.cellLocked(1))
		require.Same(t, change.New, c.row.Load())
	}
	for _, read := range []iter.Seq2[int, game]{games.All(), players.Equal("Ann").All(), games.All()} {
		write()
		require.Nil(t, c.versions.Load())
		for _, g := range read {
			was := c.row.Load()
			trees := []any{games.rows.frozen, players.rows.frozen}
			write()
			write()
			require.Equal(t, trees, []any{games.rows.frozen, players.rows.frozen})
			require.Same(t, was, (*game)(c.versions.Load().row))
			require.Nil(t, c.versions.Load().next.Load(), "the snapshot needs one row")
			require.Equal(t, score-2, g.Score)
		}
		require.Nil(t, c.versions.Load())
	}
}

// "From now on it is empty". "Dropping a table again does nothing." Nothing is retained any
// more.
func TestADroppedTableIsEmpty(t *testing.T) {
	games := newGames()
	games.Retain(1)
	insertRows(t, games, 1)
	for range 2 {
		games.Drop()
		require.Equal(t, "games", games.Name())
		require.Zero(t, games.Len())
		require.Equal(t, uint64(1), games.Seq(), "There are no changes for the rows that the table had")
		require.Empty(t, maps.Collect(games.All()))
	}
	require.False(t, games.allScope.ring.keeps())
}

func TestMisuseOfATablePanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	before := stateOf(games)
	const noKey = "changefeed: NewTable: nil key function; pass one that returns a row's primary key"
	require.PanicsWithValue(t, noKey, func() { NewTable[int, game]("games", nil) })
	require.PanicsWithValue(t, noKey, func() { NewTableFunc[int, game]("games", nil, cmp.Compare[int]) })
	require.PanicsWithValue(t, "changefeed: NewTableFunc: nil compare function; pass one, or use NewTable for ordered keys",
		func() { NewTableFunc("games", func(g *game) int { return g.ID }, nil) })
	require.PanicsWithValue(t, "changefeed: Table.Update: nil function; pass one that edits the row",
		func() { _, _ = games.Update(1, nil) })
	require.PanicsWithValue(t, "changefeed: Table.Compute: nil function; pass one that returns the new row",
		func() { _, _ = games.Compute(1, nil) })
	requireState(t, before, games)
}

// A touchy row calls its functions where the table calls the row's methods.
type touchy struct {
	ID, Value int
	calls     *calls
}

type calls struct{ key, equal, clone func() }

// on returns r after a call of the function that of returns, if there is one.
func (r *touchy) on(of func(c *calls) func()) *touchy {
	if r.calls != nil {
		if f := of(r.calls); f != nil {
			f()
		}
	}
	return r
}

func (r *touchy) key() int { return r.on(func(c *calls) func() { return c.key }).ID }

func (r *touchy) Clone() *touchy { return new(*r.on(func(c *calls) func() { return c.clone })) }

func (r *touchy) Equal(other *touchy) bool {
	other.on(func(c *calls) func() { return c.equal })
	return r.ID == other.ID && r.Value == other.Value
}

// runAside runs f in a goroutine of its own, which [runtime.Goexit] may end. It reports
// whether f returned, and the value of its panic.
func runAside(f func()) (returned bool, recovered any) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { recovered = recover() }()
		f()
		returned = true
	})
	wg.Wait()
	return returned, recovered
}

// "A panic in a user's function leaves them as they were, too, and reaches the caller", and
// so does [runtime.Goexit], which t.FailNow calls. T4
func TestWritesThatPanicLeaveTheTableAsItWas(t *testing.T) {
	type touchies = *Table[int, touchy]
	value := errors.New("the value that the caller gets")
	for name, write := range map[string]func(table touchies, fail func()){
		"key in Insert": func(table touchies, fail func()) { _, _ = table.Insert(touchy{ID: 3, calls: &calls{key: fail}}) },
		"key in Update": func(table touchies, fail func()) {
			_, _ = table.Update(1, func(r *touchy) { r.calls = &calls{key: fail} })
		},
		"key in Compute": func(table touchies, fail func()) {
			_, _ = table.Compute(3, func(*touchy) *touchy { return &touchy{calls: &calls{key: fail}} })
		},
		"edit": func(table touchies, fail func()) { _, _ = table.Update(1, func(r *touchy) { r.Value = 9; fail() }) },
		"f": func(table touchies, fail func()) {
			_, _ = table.Compute(1, func(r *touchy) *touchy { r.Value = 9; fail(); return r })
		},
		"Equal":           func(table touchies, fail func()) { _, _ = table.Upsert(touchy{ID: 1, calls: &calls{equal: fail}}) },
		"Clone in Update": func(table touchies, _ func()) { _, _ = table.Update(2, func(*touchy) { t.Error("edit was called") }) },
		"Clone in Compute": func(table touchies, _ func()) {
			_, _ = table.Compute(2, func(r *touchy) *touchy { t.Error("f was called"); return r })
		},
	} {
		for how, fail := range map[string]func(){"panics": func() { panic(value) }, "exits": runtime.Goexit} {
			t.Run(name+" "+how, func(t *testing.T) {
				table := NewTable("touchy", (*touchy).key)
				failed, ready := false, false
				fails := func() { failed = true; fail() }
				must[touchy](t)(table.Insert(touchy{ID: 1}))
				must[touchy](t)(table.Insert(touchy{ID: 2, calls: &calls{clone: func() {
					if ready { // with the tag changefeed_debug, Insert clones the row
						fails()
					}
				}}}))
				feed := table.Changes(t.Context())
				before := stateOf(table)
				ready = true
				returned, recovered := runAside(func() { write(table, fails) })
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
