package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"testing"

	"github.com/stretchr/testify/require"
)

// otherPast returns a Past of a history that nobody else has.
func otherPast(seq uint64, rows ...game) Past[game] {
	return Past[game]{Lineage: []Position{{newHistoryID(), seq}}, Rows: slices.Values(rows)}
}

// pastOf returns the Past of a table as it is now. Newest has the changes that the table retains,
// of the last n.
func pastOf[K, V any](tb testing.TB, t *Table[K, V], n int) Past[V] {
	tb.Helper()
	p := Past[V]{Lineage: t.Lineage(), Rows: func(yield func(V) bool) {
		for _, row := range t.All() {
			if !yield(row) {
				return
			}
		}
	}}
	if n > 0 {
		var newest [][]Change[V]
		after := t.At(t.Seq() - min(t.Seq(), uint64(n)))
		for commit, err := range t.Batches(tb.Context(), 1, After(after), Poll(nil)) {
			if err == nil {
				newest = append(newest, slices.Clone(commit))
			}
		}
		p.Newest = slices.Values(newest)
	}
	return p
}

// requireTwins requires that two tables have the same rows, history and positions, and that feeds
// resume in the same way.
func requireTwins(t *testing.T, want, got board, lookups ...int) {
	t.Helper()
	require.Equal(t, want.Lineage(), got.Lineage())
	require.Equal(t, want.Position(), got.Position())
	require.Equal(t, want.Len(), got.Len())
	require.Equal(t, rowsOf(t, want.All()), rowsOf(t, got.All()))
	for _, s := range boardSelections {
		require.Equal(t, rowsOf(t, s.of(want).Backward()), rowsOf(t, s.of(got).Backward()), s.name)
	}
	for _, key := range lookups {
		wantRow, wantOK := want.Get(key)
		gotRow, gotOK := got.Get(key)
		require.Equal(t, wantRow, gotRow)
		require.Equal(t, wantOK, gotOK)
	}
	positions := append(want.Lineage(), Position{}, want.At(want.Seq()+1), newGames().Position())
	for back := range uint64(12) {
		positions = append(positions, want.At(want.Seq()-min(want.Seq(), back)))
	}
	for _, p := range positions {
		wants := batchesOf(want.Batches(t.Context(), 1, After(p), Poll(nil)), -1)
		require.Equal(t, wants, batchesOf(got.Batches(t.Context(), 1, After(p), Poll(nil)), -1), "after %v", p)
	}
}

// writeTwice makes the same random writes and transactions to two tables.
func writeTwice(t *testing.T, r *rand.Rand, n int, tables ...board) {
	t.Helper()
	for range n {
		var changes [][]Change[game]
		seed, transacts := r.Uint64(), r.IntN(3) == 0
		for _, b := range tables {
			r := rand.New(rand.NewPCG(seed, 0))
			var done []Change[game]
			write := func(to rowWriter[game]) {
				c, err := writeRandom(r, to)
				require.True(t, err == nil || errors.Is(err, ErrNotFound), err)
				done = append(done, c)
			}
			if transacts {
				require.NoError(t, Transact(func(tx *Tx) error {
					for range 1 + r.IntN(4) {
						write(b.In(tx))
					}
					return nil
				}, b.Table))
			} else {
				write(b.Table)
			}
			changes = append(changes, done)
		}
		for _, other := range changes[1:] {
			require.Equal(t, changes[0], other)
		}
	}
}

// writeRandom writes to one of a few rows.
func writeRandom(r *rand.Rand, to rowWriter[game]) (Change[game], error) {
	id := r.IntN(12) - 1
	if r.IntN(3) == 0 {
		return to.Delete(id)
	}
	return to.Upsert(game{ID: id, Player: []string{"", "Ann", "Bob", "Bo"}[r.IntN(4)], Score: r.IntN(30)})
}

// A table that was given the past of another one goes on as the other one does: with the same
// changes, the same positions and the same retained commits. So does one that had other rows and
// another history.
func TestATableWithThePastOfAnother(t *testing.T) {
	r := newRand(t)
	for run := range 30 {
		source, names := newBoard(), r.IntN(3)
		source.Retain(8)
		for range names {
			writeTwice(t, r, r.IntN(10), source)
			source.Fork()
		}
		writeTwice(t, r, r.IntN(20), source)
		past := pastOf(t, source.Table, 8)
		if run%3 == 0 {
			rows := slices.Collect(past.Rows)
			r.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
			past.Rows = slices.Values(rows)
		}
		restored, reset, late := newBoard(), newBoard(), board{Table: newGames()}
		for _, b := range []board{restored, reset, late} {
			b.Retain(8)
		}
		require.NoError(t, restored.Restore(past))
		require.NoError(t, late.Restore(past))
		late.players = NewIndex(late.Table, "player", func(g *game) string { return g.Player })
		late.scores = NewIndex(late.Table, "score", func(g *game) int { return g.Score })
		late.digits = NewMultiIndex(late.Table, "digits", digits)
		writeTwice(t, r, r.IntN(30), reset)
		old := reset.Position()
		require.NoError(t, reset.Reset(past))
		requireRefused(t, reset.Table, old)
		all := []board{source, restored, reset, late}
		for range 2 {
			for _, b := range all[1:] {
				requireTwins(t, source, b, -1, 0, 5, 100)
			}
			writeTwice(t, r, 10, all...)
		}
		for _, b := range all[1:] {
			requireTwins(t, source, b)
			requireClosed(t, b.Table)
		}
	}
}

// Tables of each kind and size.
func TestRestoreTables(t *testing.T) {
	r := newRand(t)
	for _, n := range []int{0, 1, 2, 63, 1000, 100_000} {
		rows := make([]game, n)
		for i := range rows {
			rows[i] = game{ID: 7 * i, Score: i % 10}
		}
		r.Shuffle(n, func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		games := newBoard()
		past := otherPast(uint64(n), rows...)
		require.NoError(t, games.Restore(past))
		require.Equal(t, past.Lineage, games.Lineage())
		require.Equal(t, past.Lineage[0], games.Position())
		require.Equal(t, n, games.Len())
		slices.SortFunc(rows, byID)
		require.True(t, slices.Equal(rows, rowsOf(t, games.All())))
		require.Equal(t, (n+9)/10, games.scores.Equal(0).Len())
		for i := range rows {
			row, ok := games.Get(rows[i].ID)
			if !ok || row != rows[i] {
				require.Fail(t, "Get", "%v: %v", rows[i], row)
			}
		}
		_, ok := games.Get(1)
		require.False(t, ok)
		require.EqualValues(t, n+1, must[game](t)(games.Insert(game{ID: 1})).Seq)
		for i := range min(n, 5000) {
			must[game](t)(games.Delete(rows[i].ID))
		}
		require.Equal(t, max(n-5000, 0)+1, games.Len())
	}

	floats := NewTable("floats", func(v *[2]float64) float64 { return v[0] })
	nan, minusZero := math.NaN(), math.Copysign(0, -1)
	require.NoError(t, floats.Restore(Past[[2]float64]{
		Lineage: []Position{{newHistoryID(), 4}}, Rows: slices.Values([][2]float64{{3, 1}, {nan, 2}, {minusZero, 3}, {-5, 4}}),
	}))
	for _, want := range [][2]float64{{3, 1}, {nan, 2}, {0, 3}, {-5, 4}} {
		row, ok := floats.Get(want[0])
		require.True(t, ok)
		require.Equal(t, want[1], row[1])
	}
	_, err := floats.Insert([2]float64{nan, 1})
	require.ErrorIs(t, err, ErrDuplicateKey)
	twice := Past[[2]float64]{Lineage: floats.Lineage(), Rows: slices.Values([][2]float64{{nan}, {1}, {nan}})}
	require.ErrorIs(t, floats.Reset(twice), ErrDuplicateKey)
	require.Equal(t, 4, floats.Len())

	users := newUsers()
	mails, err := NewUniqueIndex(users, "mail", func(u *user) string { return u.Mail })
	require.NoError(t, err)
	past := Past[user]{Lineage: []Position{{newHistoryID(), 9}}, Rows: slices.Values([]user{{"bob", "b"}, {"Ann", "a"}})}
	feed := users.Row("BOB").Changes(t.Context(), Poll(nil))
	require.ErrorIs(t, users.Restore(past), ErrNotEmpty)
	require.NoError(t, users.Reset(past))
	require.Equal(t, []user{{"Ann", "a"}, {"bob", "b"}}, usersOf(users.All()))
	require.Equal(t, []user{{"bob", "b"}}, usersOf(mails.Equal("b").All()))
	bob, ok := users.Get("BOB")
	require.True(t, ok)
	require.Equal(t, user{"bob", "b"}, bob)
	_, err = users.Insert(user{"Carl", "a"})
	require.ErrorContains(t, err, `belongs to primary key "Ann"`)
	must[user](t)(users.Upsert(user{"BoB", "c"}))
	got := take(feed, -1)
	require.Len(t, got, 2)
	require.True(t, isReset(got[0].err))
	require.Equal(t, user{"bob", "b"}, *got[1].v.Old)
	past.Rows = slices.Values([]user{{"bob", "b"}, {"BOB", "a"}})
	require.ErrorIs(t, users.Reset(past), ErrDuplicateKey)
}

func usersOf(seq iter.Seq2[string, user]) (rows []user) {
	for _, row := range seq {
		rows = append(rows, row)
	}
	return rows
}

// isReset reports whether an error is the notice of a Reset.
func isReset(err error) bool {
	notice, ok := errors.AsType[*SkippedError](err)
	return ok && notice.Reset
}

// requireRefused requires that no feed resumes from a position.
func requireRefused(t *testing.T, games *Table[int, game], p Position) {
	t.Helper()
	got := take(games.Changes(t.Context(), After(p), Poll(nil)), -1)
	require.Len(t, got, 1)
	require.ErrorIs(t, got[0].err, ErrOtherHistory)
}

// requireUntouched runs a Restore or Reset that fails, and requires that it leaves the table as it
// was. It returns the error, or what the function panicked with.
func requireUntouched[K, V any](t *testing.T, table *Table[K, V], f func() error) (err error) {
	t.Helper()
	was, lineage, history := stateOf(table), table.Lineage(), table.history.Load()
	done := make(chan struct{})
	go func() { // f may end it
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		err = errors.New("goexit")
		err = f()
	}()
	<-done
	require.Error(t, err)
	requireState(t, was, table)
	require.Equal(t, lineage, table.Lineage())
	require.Same(t, history, table.history.Load())
	require.Zero(t, table.tx)
	return err
}

// What Restore and Reset refuse, and everything that fails while they run, leaves the table as it
// was. Afterwards, they succeed.
func TestRestoreFails(t *testing.T) {
	id := func(n byte) HistoryID { return HistoryID{n} }
	rows := func(rows ...game) func(p *Past[game]) {
		return func(p *Past[game]) { p.Rows = slices.Values(rows) }
	}
	lineage := func(names ...Position) func(p *Past[game]) {
		return func(p *Past[game]) { p.Lineage = names }
	}
	newest := func(seqs ...uint64) func(p *Past[game]) { // 0 ends a commit
		var commits [][]Change[game]
		commit := []Change[game]{}
		for _, s := range append(seqs, 0) {
			if s == 0 {
				commits, commit = append(commits, commit), nil
			} else {
				commit = append(commit, Change[game]{Seq: s, Kind: Insert, New: &game{ID: int(s)}})
			}
		}
		return func(p *Past[game]) { p.Newest = slices.Values(commits) }
	}
	stops := func(stop func()) func(p *Past[game]) {
		return func(p *Past[game]) {
			p.Rows = func(yield func(game) bool) { _ = yield(game{ID: 1}) && yield(game{ID: 2}); stop() }
		}
	}
	oops := func() { panic(errOops) }
	for _, test := range []struct {
		name string
		bad  func(p *Past[game])
		is   error
		text string
	}{
		{"a primary key twice", rows(game{ID: 1, Player: "A"}, game{ID: 2, Player: "B"}, game{ID: 1, Player: "C"}), ErrDuplicateKey, "duplicate primary key 1"},
		{"a value twice", rows(game{ID: 1, Player: "A"}, game{ID: 2, Player: "A"}), ErrDuplicateKey, `value "A" in unique index "player"`},
		{"too many rows", rows(slices.Collect(gamesTo(8))...), nil, "8 rows after 7 changes"},
		{"no lineage", lineage(), nil, "without a Lineage"},
		{"a zero name", lineage(Position{id(0), 7}), nil, "zero HistoryID"},
		{"a zero name before", lineage(Position{id(0), 7}, Position{id(1), 7}), nil, "zero HistoryID"},
		{"a name twice", lineage(Position{id(1), 1}, Position{id(2), 2}, Position{id(1), 7}), nil, "twice"},
		{"a lineage that goes back", lineage(Position{id(1), 8}, Position{id(2), 7}), nil, "from 8 to 7"},
		{"a change is missing", newest(5, 7), ErrGap, "7 comes after 5"},
		{"a commit is missing", newest(4, 5, 0, 7), ErrGap, "7 comes after 5"},
		{"a change twice", newest(6, 0, 6, 7), ErrGap, "6 comes after 6"},
		{"changes without an end", newest(4, 5, 0, 6), ErrGap, "ends with 6, and the Lineage with 7"},
		{"changes beyond the end", newest(7, 8), ErrGap, "ends with 8, and the Lineage with 7"},
		{"changes that go back", newest(8, 7), ErrGap, "7 comes after 8"},
		{"a change without a number", func(p *Past[game]) { p.Newest = slices.Values([][]Change[game]{{{}}}) }, ErrGap, ""},
		{"changes after one without a number", func(p *Past[game]) { p.Newest = slices.Values([][]Change[game]{{{}, {Seq: 7}}}) }, ErrGap, ""},
		{"rows that panic", stops(oops), nil, "panic: oops"},
		{"rows that end their goroutine", stops(runtime.Goexit), nil, "goexit"},
		{"commits that panic", func(p *Past[game]) { p.Newest = func(func([]Change[game]) bool) { oops() } }, nil, "panic: oops"},
		{"commits that end their goroutine", func(p *Past[game]) { p.Newest = func(func([]Change[game]) bool) { runtime.Goexit() } }, nil, "goexit"},
		{"a key that panics", rows(game{ID: 1}, game{ID: badKey}), nil, "panic: oops"},
		{"a value that panics", rows(game{ID: 1, Player: "A"}, game{ID: 2, Player: badPlayer}), nil, "panic: oops"},
	} {
		for op, refill := range map[string]func(b *Table[int, game], p Past[game]) error{
			"restore": (*Table[int, game]).Restore,
			"reset":   (*Table[int, game]).Reset,
			"restore in a transaction": func(games *Table[int, game], p Past[game]) error {
				return Transact(func(tx *Tx) error { return games.In(tx).Restore(p) }, games)
			},
			"reset in a transaction": func(games *Table[int, game], p Past[game]) error {
				return Transact(func(tx *Tx) error { return games.In(tx).Reset(p) }, games)
			},
		} {
			t.Run(test.name+", "+op, func(t *testing.T) {
				games := NewTable("games", func(g *game) int {
					if g.ID == badKey {
						oops()
					}
					return g.ID
				})
				players, err := NewUniqueIndex(games, "player", func(g *game) string {
					if g.Player == badPlayer {
						oops()
					}
					return g.Player
				})
				require.NoError(t, err)
				games.Retain(3)
				resets := strings.HasPrefix(op, "reset")
				feed := Stream[Change[game]](nil)
				if resets {
					must[game](t)(games.Insert(game{ID: 5, Player: "E"}))
					feed = games.Changes(t.Context(), Poll(nil))
					must[game](t)(games.Insert(game{ID: 6, Player: "F"}))
				}
				past := otherPast(7, game{ID: 1, Player: "A"}, game{ID: 2, Player: "B"})
				good := past
				test.bad(&past)
				err = requireUntouched(t, games, func() error { return refill(games, past) })
				require.ErrorContains(t, err, test.text)
				if test.is != nil {
					require.ErrorIs(t, err, test.is)
				}
				if !strings.HasPrefix(test.text, "panic") && test.text != "goexit" {
					require.ErrorContains(t, err, "changefeed: "+op[:strings.IndexAny(op+" ", " ")]+` "games": `)
				}
				if resets {
					require.Equal(t, "+2", allOf(feed))
					require.Equal(t, 1, players.Equal("F").Len())
				}
				require.NoError(t, refill(games, good))
				require.Equal(t, 1, players.Equal("A").Len())
				require.EqualValues(t, 8, must[game](t)(games.Insert(game{ID: 5, Player: "E"})).Seq)
				require.Equal(t, 3, games.Len())
			})
		}
	}
}

const (
	badKey    = -12345
	badPlayer = "bad"
)

// gamesTo yields n games of different players.
func gamesTo(n int) iter.Seq[game] {
	return func(yield func(game) bool) {
		for i := 0; i < n && yield(game{ID: i, Player: strconv.Itoa(i)}); i++ {
		}
	}
}

// Restore is for new tables.
func TestRestoreOfATableInUse(t *testing.T) {
	for name, use := range map[string]func(ctx context.Context, games *Table[int, game]){
		"a row":              func(_ context.Context, games *Table[int, game]) { insertRows(t, games, 1) },
		"a row that is gone": func(_ context.Context, games *Table[int, game]) { insertRows(t, games, 1); _, _ = games.Delete(1) },
		"a feed":             func(ctx context.Context, games *Table[int, game]) { games.Changes(ctx) },
		"a feed of a row":    func(ctx context.Context, games *Table[int, game]) { games.Row(1).Changes(ctx, Squash(0)) },
		"commits":            func(ctx context.Context, games *Table[int, game]) { Commits(ctx, []AnyTable{newGames(), games}) },
		"a past":             func(_ context.Context, games *Table[int, game]) { require.NoError(t, games.Restore(otherPast(1))) },
	} {
		for _, when := range []string{"before", "while the rows are read", "in a transaction"} {
			t.Run(name+" "+when, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				games := newGames()
				past := otherPast(7, game{ID: 2})
				if when == "while the rows are read" {
					past.Rows = func(yield func(game) bool) { use(ctx, games); yield(game{ID: 2}) }
					require.ErrorIs(t, games.Restore(past), ErrNotEmpty)
				} else {
					use(ctx, games)
				}
				past.Rows = slices.Values([]game{{ID: 2}})
				restore := func() error { return games.Restore(past) }
				if when == "in a transaction" {
					restore = func() error { return Transact(func(tx *Tx) error { return games.In(tx).Restore(past) }, games) }
				}
				err := requireUntouched(t, games, restore)
				require.ErrorIs(t, err, ErrNotEmpty)
				require.EqualError(t, err, `changefeed: restore "games": the table is in use`)
				require.NoError(t, games.Reset(past))
				require.Equal(t, []game{{ID: 2}}, rowsOf(t, games.All()))
			})
		}
	}

	games := newGames()
	ctx, cancel := context.WithCancel(t.Context())
	games.Row(5).Changes(ctx)
	Commits(ctx, []AnyTable{games})
	cancel()
	collected(t, "the feeds have ended", func() bool { return len(games.Feeds()) == 0 && games.commitSets() == nil })
	games.Retain(3)
	games.Fork()
	require.NoError(t, games.Restore(otherPast(0)))
	require.NoError(t, games.Restore(otherPast(7)), "it is still empty")

	for _, when := range []string{"before", "while the rows are read"} {
		games = newGames()
		past := otherPast(7, game{ID: 1})
		if when == "before" {
			games.Drop()
		} else {
			past.Rows = func(yield func(game) bool) { games.Drop(); yield(game{ID: 1}) }
		}
		err := games.Reset(past)
		require.ErrorIs(t, err, ErrTableDropped)
		require.EqualError(t, err, `changefeed: reset "games": table dropped`)
		require.ErrorIs(t, requireUntouched(t, games, func() error { return games.Restore(past) }), ErrTableDropped)
		require.Zero(t, games.Len())
	}
}

// An index can be made while the rows are read. Its values are checked, too.
func TestRestoreBesideANewIndex(t *testing.T) {
	games := newGames()
	var players *Index[string, int, game]
	past := otherPast(7)
	past.Rows = func(yield func(game) bool) {
		if players == nil {
			players, _ = NewUniqueIndex(games, "player", func(g *game) string { return g.Player })
		}
		_ = yield(game{ID: 1, Player: "A"}) && yield(game{ID: 2, Player: "A"})
	}
	err := requireUntouched(t, games, func() error { return games.Restore(past) })
	require.ErrorIs(t, err, ErrDuplicateKey)
	require.ErrorContains(t, err, `changefeed: restore "games": value "A" in unique index "player"`)
	var scores *Index[int, int, game]
	require.NoError(t, games.Reset(Past[game]{Lineage: past.Lineage, Rows: func(yield func(game) bool) {
		scores = NewIndex(games, "score", func(g *game) int { return g.Score })
		_ = yield(game{1, "A", 5}) && yield(game{2, "B", 3})
	}}))
	require.Equal(t, []game{{2, "B", 3}, {1, "A", 5}}, rowsOf(t, scores.All()))
	require.Equal(t, []game{{1, "A", 5}}, rowsOf(t, players.Equal("A").All()))
}
