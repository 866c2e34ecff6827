package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
	t.Parallel()
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

	blobs := newBlobs()
	nan, minusZero := math.NaN(), math.Copysign(0, -1)
	require.NoError(t, blobs.Restore(Past[blob]{
		Lineage: []Position{{newHistoryID(), 4}}, Rows: slices.Values([]blob{{3, 1}, {nan, 2}, {minusZero, 3}, {-5, 4}}),
	}))
	for _, want := range []blob{{3, 1}, {nan, 2}, {0, 3}, {-5, 4}} {
		row, ok := blobs.Get(want[0])
		require.True(t, ok)
		require.Equal(t, want[1], row[1])
	}
	_, err := blobs.Insert(blob{nan, 1})
	require.ErrorIs(t, err, ErrDuplicateKey)
	twice := Past[blob]{Lineage: blobs.Lineage(), Rows: slices.Values([]blob{{nan}, {1}, {nan}})}
	require.ErrorIs(t, blobs.Reset(twice), ErrDuplicateKey)
	require.Equal(t, 4, blobs.Len())

	users := newUsers()
	countries, err := NewUniqueIndex(users, "country", func(u *user) string { return u.Country })
	require.NoError(t, err)
	past := Past[user]{Lineage: []Position{{newHistoryID(), 9}}, Rows: slices.Values([]user{{"bob", "b"}, {"Ann", "a"}})}
	feed := users.Row("BOB").Changes(t.Context(), Poll(nil))
	require.ErrorIs(t, users.Restore(past), ErrNotEmpty)
	require.NoError(t, users.Reset(past))
	require.Equal(t, []user{{"Ann", "a"}, {"bob", "b"}}, usersOf(users.All()))
	require.Equal(t, []user{{"bob", "b"}}, usersOf(countries.Equal("b").All()))
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
	require.False(t, table.tx.running())
	require.Nil(t, table.tx.refill)
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
				require.EqualError(t, err, `changefeed: restore "games": the table was written to or is followed; Reset replaces its rows`)
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

// Restore copies the slices that it gets, because the caller may use them again.
func TestRestoreKeepsNoSliceOfThePast(t *testing.T) {
	history := newGames().At(0).History
	names := []Position{{history, 3}}
	games := newGames()
	games.Retain(3)
	require.NoError(t, games.Restore(Past[game]{Lineage: names, Newest: func(yield func([]Change[game]) bool) {
		commit := make([]Change[game], 1)
		for seq := range uint64(3) {
			commit[0] = Change[game]{seq + 1, Insert, nil, &game{ID: int(seq)}}
			_ = yield(commit)
		}
	}}))
	names[0] = Position{}
	require.Equal(t, Position{history, 3}, games.Position())
	require.Equal(t, "+1 +2 +3", allOf(games.Changes(t.Context(), After(games.At(0)), Poll(nil))))
}

// In Read, the lineage is that of the rows, whatever happens meanwhile. In a transaction, it ends
// with the transaction's writes.
func TestTheLineageInReadIsOfItsMoment(t *testing.T) {
	games := newGames()
	feedWrites(t, games, 2)
	games.Fork()
	want := games.Lineage()
	require.NoError(t, Read(func(tx *Tx) error {
		for _, change := range []func(){
			func() { feedWrites(t, games, 1) },
			func() { games.Fork() },
			func() { require.NoError(t, games.Reset(otherPast(7))) },
		} {
			change()
			require.NotEqual(t, want, games.Lineage())
			require.Equal(t, want, games.In(tx).Lineage())
		}
		return nil
	}, games))
	want = games.Lineage()
	require.NoError(t, Transact(func(tx *Tx) error {
		require.Equal(t, want, games.In(tx).Lineage())
		c := must[game](t)(games.In(tx).Upsert(game{ID: 77, Score: 1}))
		require.Equal(t, []Position{games.At(c.Seq)}, games.In(tx).Lineage())
		return nil
	}, games))
}

// A resetScript is a [feedScript] with the command
//
//	reset SEQ KEYS     resets the table to rows with the keys, in another history
//	again SEQ KEYS     does so in the history that it has
//	old                gives the number of the feed's position if it is of the first history
//	resumes            tells whether a feed can resume from the feed's position
//	cells              gives the number of cells of the table
//
// The word reset3(4-6) stands for the notice of a Reset.
type resetScript struct {
	*feedScript
	first HistoryID
}

func resetWordOf(c Change[game], err error) string {
	word := wordOf(c, err)
	if isReset(err) {
		word = strings.Replace(word, "skip", "reset", 1)
	}
	return word
}

func (s *resetScript) run(script string) {
	s.steps(s.t, script, s.perform)
	s.cancel()
	synctest.Wait()
	require.Equal(s.t, s.Len(), s.rows.tree.Len(), "the cells of missing rows are gone")
	require.Nil(s.t, s.ranges.root)
	requireClosed(s.t, s.Table)
}

func (s *resetScript) perform(command string) {
	switch verb, rest, _ := strings.Cut(command, " "); verb {
	case "open":
		s.open()
	case "reset", "again":
		s.reset(verb == "again", rest)
	case "old":
		word := "none"
		if p := s.feed.Position(); p.History == s.first {
			word = fmt.Sprint(p.Seq)
		} else if !p.IsZero() {
			word = "new"
			require.Equal(s.t, s.At(0).History, p.History)
		}
		s.got = append(s.got, word)
	case "resumes":
		_, err, _ := take1(s.Changes(s.ctx, After(s.feed.Position()), Poll(nil)))
		s.got = append(s.got, strconv.FormatBool(!errors.Is(err, ErrOtherHistory)))
	case "cells":
		s.mu.Lock()
		s.got = append(s.got, fmt.Sprint(s.rows.tree.Len()))
		s.mu.Unlock()
	default:
		s.feedScript.perform(command)
	}
}

func (s *resetScript) open() {
	of := s.Selection()
	if s.of != nil {
		of = s.of(s.board)
	}
	opts := s.opts
	if s.after != nil {
		opts = append(slices.Clip(opts), After(s.At(uint64(*s.after))))
	}
	if s.max == 0 {
		s.words = describe(of.Changes(s.ctx, opts...), resetWordOf)
	} else {
		s.words = describe(of.Batches(s.ctx, s.max, opts...), func(batch []Change[game], err error) string {
			if err != nil {
				return resetWordOf(Change[game]{}, err)
			}
			return batchOf(batch, nil)
		})
	}
}

// reset gives each row its key as score.
func (s *resetScript) reset(again bool, args string) {
	var numbers []int
	for arg := range strings.FieldsSeq(args) {
		numbers = append(numbers, s.number(arg))
	}
	past := otherPast(uint64(numbers[0]))
	if again {
		past.Lineage[0].History = s.At(0).History
	}
	past.Rows = func(yield func(game) bool) {
		for _, key := range numbers[1:] {
			if !yield(game{ID: key, Score: key}) {
				return
			}
		}
	}
	require.NoError(s.t, s.Reset(past))
}

// What the followers of a table get that is reset: a notice in place of the changes that they have
// not read, if asked for the rows, and all changes after the Reset.
func TestReset(t *testing.T) {
	row := func(key int) func(b board) Selection[int, game] {
		return func(b board) Selection[int, game] { return b.Row(key) }
	}
	rows := func(b board) Selection[int, game] { return b.Rows(2, 9, 4) }
	low := func(b board) Selection[int, game] { return b.Range(1, 4) }
	odd := func(b board) Selection[int, game] { return b.Where(isOddGame) }
	five := func(b board) Selection[int, game] { return b.scores.Equal(5) }
	fives := func(b board) Selection[int, game] { return b.digits.Any(5, 6) }
	scores := func(b board) Selection[int, game] { return b.scores.Range(3, 6) }
	resync, fail := OnOverflow(Resync), OnOverflow(Fail)
	initial := IncludeInitial()
	tests := []feedTest{
		{name: "everything is unread", do: `put 1 2; open; put 3 4; reset 20 5 6; info: [feed: buffered 0/100000, delivered 0, skipped 2, seq 2]
			; old: 2; put 7; info: [feed: buffered 1/100000, delivered 0, skipped 2, seq 2]; read 1: reset2(3-20); old: new; position: 20
			; info: [feed: buffered 1/100000, delivered 0, skipped 2, seq 20]; read: +21; delete 5; read: -22; position: 22; resumes: true`},
		{name: "nothing is unread", do: `open; put 1 2; read: +1 +2; position: 2; reset 20 5; position: 2; old: 2; resumes: false; read: reset0(3-20); position: 20; resumes: true; write 1; read: +21`},
		{name: "before anything", do: `open; reset 0; read: reset0(1-0); position: 0; old: new; put 1; read: +1; position: 1`},
		{name: "to a lower number", do: `put 1 2 3; open; write 2; read 1: 4; write 1; reset 3 9; read: reset2(5-3); old: new; position: 3; put 1; read: +4; position: 4; reset 1; read: reset0(5-1); position: 1`},
		{name: "to the same number", do: `put 1 2 3; open; put 4; reset 4 9; read: reset1(4-4); put 1; read: +5; reset 5; put 1; read: reset0(6-5) +6; position: 6`},
		{name: "in the same history", do: `put 1 2; open; write 1; again 9 1 2; position: 2; resumes: true; read: reset1(3-9); old: 9; write 1; read: 10`},
		{name: "twice", do: `put 1; open; put 2 3; reset 20 1; put 2; reset 30 1; put 5; read: reset3(2-30) +31; reset 3; reset 2; reset 1; read: reset0(32-1); put 1; read: +2`},
		{name: "beyond the buffer", opts: []FeedOption{Buffer(2)}, do: `open; put 1 2 3; reset 20; put 1 2 3 4; info: [feed: buffered 2/2, delivered 0, skipped 5, seq 0]
			; read: reset5(1-22) +23 +24; info: [feed: buffered 0/2, delivered 2, skipped 5, seq 24]; put 5 6 7; read: skip1(25-25) +26 +27`},
		{name: "the rest of a page", do: `open; put 1 2 3; read 1: +1; reset 20 8; put 1 2 3 4 5 6; read: reset2(2-20) +21 +22 +23 +24 +25 +26`},
		{name: "batches", max: 2, do: `open; put 1 2 3; read 1: [+1 +2]; reset 20 5; tx put 6 7, write 1; put 8; read: reset1(3-20) [+21 +22 +23] [+24]`},
		{name: "batches, resync", max: 2, opts: []FeedOption{resync}, do: `open; put 1 2 3; reset 20 5 6; put 7; read: reset4(1-21) [row5 row6] [row7 ready21]; put 8; read: [+22]`},
		{name: "fail", opts: []FeedOption{fail}, do: `open; put 1; read: +1; reset 20 5; put 6; read: reset0(2-20); read: reset0(2-20); position: 1; old: 1; resumes: false`},
		{name: "fail with unread changes", opts: []FeedOption{fail}, of: row(1), do: `open; write 2; reset 20 1; write 1; read: reset2(1-20); position: 0`},
		{name: "resync", opts: []FeedOption{resync}, do: `put 1; open; put 2; old: 1; reset 20 5 6; old: 1; at 1 position; at 2 position; at 3 position; read: reset1(2-20) none row5 none row6 none ready20; old: new; position: 20; delete 5; read: -21`},
		{name: "resync with changes after the reset", opts: []FeedOption{resync}, do: `open; put 1 2; reset 20 5; put 6; info: [feed: buffered 1/100000, delivered 0, skipped 2, seq 0]; read 1: reset3(1-21); put 7; position: none; read 1: row5; reset 9 3; read: row6 ready21 reset1(22-9) row3 ready9; position: 9`},
		{name: "resync of nothing", opts: []FeedOption{resync}, of: low, do: `put 1; open; reset 20 9; read: reset0(2-20) ready20; put 1; read: +21`},
		{name: "present rows that were not read", opts: []FeedOption{initial}, do: `put 1 2 3; open; read 1: row1; write 1; reset 20 1 9; delete 1; position: none; read: row2 row3 ready3 reset1(4-20) -21; position: 21`},
		{name: "no present row was read", opts: []FeedOption{initial, resync}, do: `put 1 2; open; reset 9 9; old: none; read 3: row1 row2 ready2; old: 2; read 1: reset0(3-9); old: none; read: row9 ready9; old: new`},
		{name: "a backlog that was not read", after: new(1), do: `retain 9; put 1 2 3 4; open; put 5; old: 1; reset 20 9; put 1; old: 1; read 1: +2; old: 2; read: +3 +4 reset1(5-20) +21; position: 21`},
		{name: "a backlog to a lower number", of: low, after: new(1), do: `retain 9; put 1 2 3 4; open; put 5; reset 1 1; write 3; set 9 9; delete 1; read: +2 +3 reset0(5-1) 2 3 4 -6; position: 6`},
		{name: "a backlog with a gap", after: new(1), do: `retain 2; put 1 2 3 4; open; reset 9 2; put 1; read: skip1(2-2) +3 +4 reset0(5-9) +10; position: 10`},
		{name: "a backlog that is resynchronized", after: new(1), opts: []FeedOption{resync}, do: `retain 2; put 1 2 3 4; open; reset 9 2; put 1; old: 1; read: skip3(2-4) row1 row2 row3 row4 ready4 reset1(5-10) row1 row2 ready10; position: 10`},
		{name: "a backlog in batches", max: 2, after: new(1), do: `retain 9; put 1; tx put 2 3 4; put 5; open; reset 20 9; put 1; read: [+2 +3 +4] [+5] reset0(6-20) [+21]`},
		{name: "a row that is there", of: row(1), do: `put 1 2; open; write 2; put 3; reset 20 1 2; write 1; set 2 2; set 2 3; read: reset2(3-20) 21; delete 1; put 1; read: -23 +24`},
		{name: "a row that is there again", of: row(1), do: `open; put 1; delete 1; put 2; write 1; read: +1 -2 +4; reset 20 1; write 1; read: reset0(5-20) 21`},
		{name: "a row that comes", of: row(5), do: `put 1; cells: 1; open; cells: 2; reset 20 5; cells: 1; write 1; set 5 1; read: reset0(2-20) 22`},
		{name: "a row that goes", of: row(5), do: `put 5; cells: 1; open; write 1; reset 20 1 2; cells: 3; write 1; put 5; delete 5; cells: 3; read: reset0(2-20) +22 -23; position: 23`},
		{name: "a row that is missing", of: row(5), do: `put 1; open; cells: 2; reset 20 1 2; cells: 3; reset 10; cells: 1; reset 20 1; cells: 2; write 1; put 5; cells: 2; read: reset0(2-20) +22; cancel; read: context canceled; cells: 2`},
		{name: "a row, the end before the reset", of: row(5), do: `put 1; open; cells: 2; cancel; reset 20 1; cells: 1; read: context canceled`},
		{name: "a row, the end after the reset", of: row(5), do: `put 1; open; reset 20 1; cells: 2; cancel; cells: 1; read: context canceled`},
		{name: "a row, resync", of: row(5), opts: []FeedOption{resync}, do: `put 5; open; set 5 6; reset 20 5; read: reset1(2-20) row5 ready20; reset 30 4; read: reset0(21-30) ready30; put 5; read: +31`},
		{name: "a row, squash", of: row(5), opts: []FeedOption{Squash(0)}, do: `put 5; open; set 5 6; set 5 7; reset 20 4; cells: 2; write 1; read: reset1(2-20); put 5; set 5 1; read: +23`},
		{name: "a range", of: low, do: `open; put 1 9 2 8; read 1: +1; reset 20 1 9; put 7 3; delete 1; read: reset1(2-20) +22 -23; position: 23`},
		{name: "rows", of: rows, do: `open; put 2 3 4; read 1: +1; reset 20 2 3; put 9 1 4; delete 2 3; read: reset1(2-20) +21 +23 -24; position: 25`},
		{name: "rows, resync", of: rows, opts: []FeedOption{resync}, do: `open; put 2 3 4; reset 20 2 3 4; put 9; read: reset3(1-21) row2 row4 row9 ready21; delete 4; read: -22`},
		{name: "a predicate", of: odd, do: `open; put 1 2 3 4; reset 20 1 2; put 3 4; delete 1 2; read: reset4(1-20) +21 -23; position: 24`},
		{name: "a value", of: five, do: `set 1 5; open; set 2 5; set 1 1; reset 20 5 6; set 6 5; set 5 1; set 1 5; read: reset2(2-20) +21 -22 +23`},
		{name: "a value, resync", of: five, opts: []FeedOption{resync}, do: `open; set 2 5; reset 20 5 6; set 6 5; read: reset2(1-21) row5 row6 ready21; delete 6; read: -22`},
		{name: "a range of values", of: scores, do: `set 1 5; open; set 2 4; set 1 1; reset 20 5 6; set 6 3; set 5 4; set 5 9; set 9 9; read: reset2(2-20) +21 22 -23; position: 24`},
		{name: "several values", of: fives, do: `set 1 56; open; set 1 5; set 1 1; reset 20 5 7; set 7 55; set 5 1; read: reset2(2-20) +21 -22`},
		{name: "squash", opts: []FeedOption{Squash(0)}, do: `open; put 1 2; write 3; reset 20 1 5; put 6; write 2; info: [feed: buffered 2, delivered 0, skipped 2, seq 0]; old: 0; read 1: reset2(1-20)
			; position: 20; read: +21 23; position: 23; write 1; reset 3; reset 2 1; write 1; read: reset1(24-2) 3`},
		{name: "squash, the rest of a set", opts: []FeedOption{Squash(0)}, do: `open; put 1 2 3; read 1: +1; put 4; old: 0; reset 20 1; old: 0; delete 1; read 2: +2 +3; old: 3; read: reset1(4-20) -21; old: new; position: 21`},
		{name: "squash, a reset before and after a set", opts: []FeedOption{Squash(0)}, do: `open; reset 20 1; put 2 3; read 2: reset0(1-20) +21; reset 9; read: +22 reset0(23-9); position: 9; put 1; read: +10; position: 10`},
		{name: "squash in batches", max: 2, opts: []FeedOption{Squash(0)}, do: `open; tx put 1 2 3; reset 20 1; tx put 2, write 1; read: reset3(1-20) [+21 22]`},
		{name: "squash with a delay", opts: []FeedOption{Squash(time.Second)}, do: `open; put 1; sleep 500ms; reset 20 1; put 2; read: reset1(1-20); sleep 999ms; read; sleep 1ms; read: +21; reset 3; read: reset0(22-3)`},
		{name: "squash, resync", after: new(1), opts: []FeedOption{Squash(0), resync}, do: `retain 9; put 1 2; open; write 1; reset 20 4; put 5; read: +2 reset2(3-21) row4 row5 ready21; position: 21; put 6; read: +22`},
		{name: "squash, fail", after: new(1), opts: []FeedOption{Squash(0), fail}, do: `put 1; open; write 1; reset 20 4; put 5; read: reset1(2-20); position: 1`},
		{name: "a drop after it", do: `open; put 1; reset 20 1 2; put 3; drop; read: reset1(1-20) +21 dropped`},
		{name: "a drop after it, resync", opts: []FeedOption{resync}, do: `open; put 1; reset 20 1 2; put 3; drop; read: reset1(1-20) +21 dropped; position: 21`},
		{name: "a drop after it, squash", opts: []FeedOption{Squash(0)}, do: `open; put 1; reset 20 1 2; drop; read: reset1(1-20) dropped; position: 20`},
		{name: "a drop after it, squash with a delay", opts: []FeedOption{Squash(time.Hour)}, do: `open; put 1; reset 20 1 2; drop; read: reset1(1-20) dropped`},
		{name: "the end after it", do: `open; put 1; reset 20 1 2; old: 0; cancel; read: context canceled; old: 0`},
		{name: "the end after it, resync", opts: []FeedOption{resync}, do: `open; put 1; reset 20 1 2; read 2: reset1(1-20) row1; cancel; read: context canceled; position: none`},
		{name: "a loop breaks at the notice", do: `open; put 1; reset 20 1 2; put 3; read 1: reset1(1-20); reset 9 1; read: reset1(21-9)`},
	}
	for _, s := range []struct {
		name, sign string // of the change after which the row is not in the selection any more
		of         func(b board) Selection[int, game]
	}{
		{"all", "", nil},
		{"a row", "", row(5)},
		{"a range", "", func(b board) Selection[int, game] { return b.Range(5, 6) }},
		{"a value", "-", five},
	} {
		tests = append(tests,
			feedTest{name: "a loop waits, " + s.name, of: s.of, do: `open; loop; reset 20 5: reset0(1-20); position: 20; set 5 6: ` + s.sign + `21; reset 3: reset0(22-3); drop: dropped`},
			feedTest{name: "polls, " + s.name, of: s.of, polls: true, do: `open; read; reset 20 5: wake; reset 21 5; read 1: reset0(1-21); read; set 5 6: wake; read: ` + s.sign + `22; reset 3: wake; read: reset0(23-3)`},
			feedTest{name: "squash polls, " + s.name, of: s.of, polls: true, opts: []FeedOption{Squash(time.Second)}, do: `open; read; reset 20 5: wake; read: reset0(1-20); set 5 6; reset 30 5: wake; sleep 2s
				; read 1: reset1(21-30); set 5 6; sleep 1s: wake; read: ` + s.sign + `31; reset 30: wake; drop; read: reset0(32-30) dropped`})
	}
	for i := range tests {
		if test := &tests[i]; !test.polls && !strings.Contains(test.do, "loop") {
			test.opts = append(test.opts, Poll(nil))
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				s := &resetScript{feedScript: newFeedScript(t, test)}
				s.first = s.At(0).History
				s.run(test.do)
			})
		})
	}
}

// A Reset in the body of a loop: the rest of what the loop has not got is skipped.
func TestResetInALoop(t *testing.T) {
	for name, opts := range map[string][]FeedOption{"skip": nil, "resync": {OnOverflow(Resync)}, "squash": {Squash(0)}, "initial": {IncludeInitial()}} {
		games := newGames()
		insertRows(t, games, 8)
		feed := games.Changes(t.Context(), append(opts, Poll(nil))...)
		insertRows(t, games, 1, 2, 3)
		var words []string
		for c, err := range feed {
			words = append(words, resetWordOf(c, err))
			if len(words) <= 2 { // in the body, and in that of the notice or behind it
				require.NoError(t, games.Reset(otherPast(uint64(20*len(words)), game{ID: 5})))
				insertRows(t, games, 6)
			}
		}
		require.Equal(t, map[string]string{
			"skip":    "+2 reset2(3-20) reset1(21-40) +41",
			"resync":  "+2 reset3(3-21) row5 row6 ready21 reset1(22-41) row5 row6 ready41",
			"squash":  "+2 +3 +4 reset1(5-40) +41",
			"initial": "row8 ready1 reset4(2-40) +41",
		}[name], strings.Join(words, " "), name)
	}
}

// All followers of several tables begin anew when one of them is reset. What the same transaction
// writes to the others comes after it.
func TestResetBesideCommits(t *testing.T) {
	tables := newCommitTables()
	a, b, c := tables[0], tables[1], tables[2]
	wake := make(chan struct{}, 1)
	ab := tables.follow(t.Context(), "ab", Poll(wake))
	bc := tables.follow(t.Context(), "bc", Poll(nil))
	both := tables.follow(t.Context(), "ba", OnOverflow(Resync), Poll(nil))
	fails := tables.follow(t.Context(), "ab", OnOverflow(Fail), Poll(nil))
	begins := tables.follow(t.Context(), "ab", IncludeInitial(), Poll(nil))
	require.Empty(t, commitsOf(ab, -1))
	insertRows(t, a, 1)
	insertRows(t, b, 1)
	notifications(wake)
	require.Equal(t, "[a+1] [b+1]", commitsOf(ab, -1))
	insertRows(t, b, 2)
	notifications(wake)
	require.NoError(t, Transact(func(tx *Tx) error {
		written := must[game](t)
		written(b.In(tx).Insert(game{ID: 3}))
		require.NoError(t, a.In(tx).Reset(otherPast(20, game{ID: 5})))
		written(c.In(tx).Insert(game{ID: 4}))
		return nil
	}, a, b, c))
	notice := func(s Stream[Commit], count uint64) {
		t.Helper()
		got := take(s, 1)
		skipped, ok := errors.AsType[*SkippedError](got[0].err)
		require.True(t, ok, "%v", got)
		require.Equal(t, SkippedError{Count: count, Reset: true}, *skipped)
	}
	notice(ab, 1)
	require.Equal(t, "[b+3]", commitsOf(ab, -1))
	require.Equal(t, "[b+1] [b+2] [b+3 c+1]", commitsOf(bc, -1))
	notice(both, 4)
	require.Equal(t, "[brow1 brow2 brow3] [arow5] [bready3 aready20]", commitsOf(both, -1))
	notice(fails, 3)
	notice(fails, 3)
	require.Equal(t, "[aready0 bready0]", commitsOf(begins, 1))
	notice(begins, 3)
	require.Equal(t, "[b+3]", commitsOf(begins, -1))
	notifications(wake)
	require.NoError(t, a.Reset(otherPast(3)))
	require.Equal(t, 1, notifications(wake))
	insertRows(t, a, 1)
	notice(ab, 0)
	require.Equal(t, "[a+4]", commitsOf(ab, -1))
}

// A Reset in a transaction that fails has no effect, and after one that does not the table cannot
// be used in the transaction.
func TestResetInATransaction(t *testing.T) {
	a, b := newBoard(), newBoard()
	insertRows(t, a.Table, 1, 2)
	ctx := t.Context()
	feeds := []Stream[Change[game]]{a.Changes(ctx, Poll(nil)), a.Row(7).Changes(ctx, Poll(nil)), a.scores.Equal(7).Changes(ctx, Squash(0), Poll(nil))}
	past := otherPast(20, game{ID: 7, Score: 7})
	transact := func(fn func(x, y TxTable[int, game]) error) error {
		return Transact(func(tx *Tx) error { return fn(a.In(tx), b.In(tx)) }, a.Table, b.Table)
	}
	reset := func(then func(x TxTable[int, game])) func(x, y TxTable[int, game]) error {
		return func(x, y TxTable[int, game]) error {
			require.NoError(t, y.Restore(past))
			require.NoError(t, x.Reset(past))
			_, ok := a.Get(7)
			require.False(t, ok, "nobody sees it yet")
			then(x)
			return nil
		}
	}
	const used = `panic: changefeed: the table "games" is used after a Restore or Reset in the same transaction`
	insert := func(x TxTable[int, game]) { must[game](t)(x.Insert(game{ID: 9, Score: 7})) }
	reading := past
	for text, fn := range map[string]func(x, y TxTable[int, game]) error{
		"oops":        func(x, y TxTable[int, game]) error { _ = reset(func(TxTable[int, game]) {})(x, y); return errOops },
		"panic: oops": reset(func(TxTable[int, game]) { panic(errOops) }),
		"goexit":      reset(func(TxTable[int, game]) { runtime.Goexit() }),
		used:          reset(insert),
		used[:59]:     reset(func(x TxTable[int, game]) { x.Get(1) }),
		used[:60]:     reset(func(x TxTable[int, game]) { x.Len() }),
		used[:61]:     reset(func(x TxTable[int, game]) { rowsOf(t, x.All()) }),
		used[:62]:     reset(func(x TxTable[int, game]) { _ = x.Reset(past) }),
		used[:63]:     reset(func(x TxTable[int, game]) { _ = x.Restore(past) }),
		used[:64]:     reset(func(x TxTable[int, game]) { a.scores.Equal(1).In(x.tx).Len() }),
		"panic: changefeed: reset of the table \"games\" after a write": func(x, _ TxTable[int, game]) error { insert(x); return x.Reset(past) },
		"writes to the same table": func(x, _ TxTable[int, game]) error {
			reading.Rows = func(func(game) bool) { insert(x) }
			return x.Reset(reading)
		},
	} {
		for _, table := range []*Table[int, game]{a.Table, b.Table} {
			err := requireUntouched(t, table, func() error { return transact(fn) })
			require.ErrorContains(t, err, text)
		}
	}
	for _, feed := range feeds {
		require.Empty(t, allOf(feed))
	}
	// A range of the transaction outlives the Reset, and an error of Reset is not the end of the
	// transaction.
	var next func() (int, game, bool)
	var stop func()
	require.NoError(t, transact(func(x, y TxTable[int, game]) error {
		require.ErrorIs(t, x.Reset(otherPast(9, game{ID: 1}, game{ID: 1})), ErrDuplicateKey)
		next, stop = iter.Pull2(x.All())
		key, _, _ := next()
		require.Equal(t, 1, key)
		twice := past
		twice.Rows = func(yield func(game) bool) { // from the table itself
			for _, g := range x.All() {
				if !yield(game{ID: g.ID + 6, Score: 7}) {
					return
				}
			}
		}
		must[game](t)(y.Insert(game{ID: 3}))
		return x.Reset(twice)
	}))
	defer stop()
	key, _, ok := next()
	require.True(t, ok)
	require.Equal(t, 2, key)
	require.Equal(t, []game{{ID: 7, Score: 7}, {ID: 8, Score: 7}}, rowsOf(t, a.All()))
	require.Equal(t, []game{{ID: 3}}, rowsOf(t, b.All()))
	must[game](t)(a.Upsert(game{ID: 7, Score: 8}))
	require.Equal(t, "reset0(3-20) 21", allOfResets(feeds[0]))
	require.Equal(t, "reset0(3-20) 21", allOfResets(feeds[1]))
	require.Equal(t, "reset0(3-20) -21", allOfResets(feeds[2]))
}

func allOfResets(s Stream[Change[game]]) string { return firstWords(describe(s, resetWordOf), -1) }

// A view is the rows of a selection, as a feed's loop has folded them.
type foldedView struct {
	stream Stream[[]Change[game]]
	of     Selection[int, game]
	rows   map[int]game
	resets int
}

// read folds what the feed has. It returns the final error.
func (v *foldedView) read(t *testing.T) (final error) {
	for batch, err := range v.stream {
		switch _, isNotice := errors.AsType[*SkippedError](err); {
		case isReset(err):
			v.resets++
			clear(v.rows)
		case isNotice:
			clear(v.rows)
		case err != nil:
			final = err
		}
		for _, c := range batch {
			switch old, ok := v.rows[firstID(c)]; {
			case c.Kind == Ready:
			case c.New == nil:
				require.Equal(t, *c.Old, old)
				delete(v.rows, c.Old.ID)
			default:
				require.Equal(t, c.Kind == Update, ok, "%v", c)
				v.rows[c.New.ID] = *c.New
			}
		}
	}
	return final
}

func firstID(c Change[game]) int {
	for _, row := range []*game{c.Old, c.New} {
		if row != nil {
			return row.ID
		}
	}
	return 0
}

// require requires that the view is the selection's rows.
func (v *foldedView) require(t *testing.T, name string) {
	t.Helper()
	require.Equal(t, slices.SortedFunc(maps.Values(v.rows), byID), slices.SortedFunc(slices.Values(rowsOf(t, v.of.All())), byID), name)
}

func newFoldedView(ctx context.Context, r *rand.Rand, b board, s boardSelection) *foldedView {
	v := &foldedView{of: s.of(b), rows: make(map[int]game)}
	opts := []FeedOption{OnOverflow(Resync), Buffer(1 + r.IntN(30)), Poll(nil)}
	if r.IntN(2) == 0 {
		opts = append(opts, IncludeInitial())
	} else {
		opts = append(opts, After(Position{}))
		if r.IntN(2) == 0 {
			opts = append(opts, Squash(0))
		}
	}
	v.stream = v.of.Batches(ctx, 1+r.IntN(4), opts...)
	return v
}

// randomPast returns a Past of a few rows, at a lower or a higher number.
func randomPast(r *rand.Rand) Past[game] {
	var rows []game
	for id := range 12 {
		if r.IntN(2) == 0 {
			rows = append(rows, game{ID: id - 1, Player: []string{"", "Ann", "Bob"}[r.IntN(3)], Score: r.IntN(30)})
		}
	}
	return otherPast(uint64(len(rows)+r.IntN(50)), rows...)
}

// Feeds of each selection that resynchronize fold to the rows of the selection, also if the table
// is reset at any time.
func TestFeedsFoldToTheRowsAfterResets(t *testing.T) {
	r := newRand(t)
	for range 10 {
		b := newBoard()
		b.Retain(r.IntN(20))
		writeTwice(t, r, 10, b)
		ctx, cancel := context.WithCancel(t.Context())
		views := make([]*foldedView, len(boardSelections))
		for i, s := range boardSelections {
			views[i] = newFoldedView(ctx, r, b, s)
		}
		for range 60 {
			if r.IntN(4) == 0 {
				require.NoError(t, b.Reset(randomPast(r)))
			} else {
				writeTwice(t, r, r.IntN(8), b)
			}
			for i, v := range views {
				if r.IntN(2) == 0 {
					require.NoError(t, v.read(t))
					v.require(t, boardSelections[i].name)
				}
			}
		}
		cancel()
		for _, v := range views {
			require.ErrorIs(t, v.read(t), context.Canceled)
			require.Positive(t, v.resets)
		}
		collected(t, "the cells of missing rows are gone", func() bool {
			b.mu.RLock()
			defer b.mu.RUnlock()
			return b.rows.tree.Len() == b.len
		})
		requireClosed(t, b.Table)
	}
}

// A Read goes on while a transaction has reset the table and has not ended.
func TestReadBesideATransactionThatResets(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	require.NoError(t, Read(func(read *Tx) error {
		return Transact(func(tx *Tx) error {
			require.NoError(t, games.In(tx).Reset(otherPast(5, game{ID: 2})))
			require.NotPanics(t, func() { require.Equal(t, 1, games.In(read).Len()) })
			return nil
		}, games)
	}, games))
}

// Readers of every kind beside writers and Resets of two tables at one moment. The rows of a
// table have one player at any time, which is the name of its past, and both tables have the same.
func TestReadersBesideResets(t *testing.T) {
	t.Parallel()
	a, b := newBoard(), newBoard()
	past := func(n int) Past[game] {
		rows := make([]game, 50)
		for i := range rows {
			rows[i] = game{ID: i, Player: strconv.Itoa(n), Score: n}
		}
		return otherPast(uint64(50+n%3*100), rows...)
	}
	require.NoError(t, a.Restore(past(0)))
	require.NoError(t, b.Restore(past(0)))
	var group, writers sync.WaitGroup
	done := make(chan struct{})
	beside := func(f func()) {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					f()
				}
			}
		})
	}
	version := func(g game) int { n, _ := strconv.Atoi(g.Player); return n }
	same := func(games []game) int {
		for _, g := range games {
			if g.Player != games[0].Player {
				panic(fmt.Sprint("rows of two pasts: ", games[0], g))
			}
		}
		if len(games) < 50 {
			panic("a row is missing")
		}
		return version(games[0])
	}
	values := func(seq iter.Seq2[int, game]) []game { return slices.Collect(maps.Values(maps.Collect(seq))) }
	for i, tables := range [][2]board{{a, b}, {b, a}} {
		last := 0
		beside(func() { // whoever has seen a past in one table sees no older one in the other
			for _, games := range tables {
				g, ok := games.Get(7 * i)
				if !ok || version(g) < last {
					panic(fmt.Sprint(g, " after ", last))
				}
				last = version(g)
			}
		})
	}
	beside(func() { same(values(a.All())) })
	beside(func() { same(values(a.scores.All())) })
	beside(func() {
		_ = Read(func(tx *Tx) error {
			n := same(values(a.In(tx).All()))
			runtime.Gosched()
			if m := same(values(b.In(tx).All())); n != m || n != same(values(a.scores.Range(-1, math.MaxInt).In(tx).All())) {
				panic(fmt.Sprint("tables of two pasts: ", n, m))
			}
			g, _ := a.In(tx).Get(3)
			if version(g) != n {
				panic("Get")
			}
			return nil
		}, a.Table, b.Table)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := newRand(t)
	views := make([]*foldedView, len(boardSelections))
	for i, s := range boardSelections {
		views[i] = newFoldedView(ctx, r, a, s)
		if i%4 == 0 {
			beside(func() { require.NoError(t, views[i].read(t)); runtime.Gosched() })
		}
	}
	beside(func() { a.Row(7).Changes(ctx, Poll(nil)); a.Feeds() })
	for w := range 2 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 300 {
				_, _ = a.Update(r.IntN(50), func(g *game) { g.Score = r.IntN(1000) })
				_ = Transact(func(tx *Tx) error {
					_, err := b.In(tx).Update(r.IntN(50), func(g *game) { g.Score++ })
					return err
				}, a.Table, b.Table)
			}
		})
	}
	writers.Go(func() {
		for n := range 30 {
			require.NoError(t, Transact(func(tx *Tx) error {
				require.NoError(t, a.In(tx).Reset(past(n+1)))
				return b.In(tx).Reset(past(n + 1))
			}, b.Table, a.Table))
			runtime.Gosched()
		}
	})
	writers.Wait()
	close(done)
	group.Wait()
	for i, v := range views {
		require.NoError(t, v.read(t))
		v.require(t, boardSelections[i].name)
	}
	cancel()
	runtime.GC()
	requireClosed(t, a.Table)
	requireClosed(t, b.Table)
}

// A reset in places that the other tests do not come to.
func TestResetInCorners(t *testing.T) {
	past := func(games *Table[int, game], seq uint64, newest ...[]Change[game]) Past[game] {
		return Past[game]{Lineage: []Position{games.At(seq)}, Rows: slices.Values([]game{{ID: 9}}), Newest: slices.Values(newest)}
	}
	isReset := func(t *testing.T, count uint64, err error) {
		skipped, ok := errors.AsType[*SkippedError](err)
		require.True(t, ok, "%v", err)
		require.True(t, skipped.Reset)
		require.Equal(t, count, skipped.Count)
	}
	t.Run("the largest buffer", func(t *testing.T) {
		games := newGames()
		feed := games.Changes(t.Context(), Buffer(math.MaxInt), Poll(nil))
		insertRows(t, games, 1, 2)
		require.NoError(t, games.Reset(past(games, 5)))
		insertRows(t, games, 3)
		got := take(feed, -1)
		require.Len(t, got, 2)
		isReset(t, 2, got[0].err)
		require.Equal(t, uint64(6), got[1].v.Seq)
	})
	t.Run("newest changes of a table that is followed", func(t *testing.T) {
		games := newGames()
		games.Retain(10)
		feed := games.Changes(t.Context(), Poll(nil))
		newest := []Change[game]{inserted(4, game{ID: 8}), inserted(5, game{ID: 9})}
		require.NoError(t, games.Reset(past(games, 5, newest[:1], newest[1:])))
		got := take(feed, -1)
		require.Len(t, got, 1)
		isReset(t, 0, got[0].err)
		require.Equal(t, []pair[Change[game]]{{v: newest[0]}, {v: newest[1]}}, take(games.Changes(t.Context(), After(games.At(3)), Poll(nil)), -1))
	})
	t.Run("a reader before and one after, without a write", func(t *testing.T) {
		games := newGames()
		insertRows(t, games, 1)
		require.NoError(t, Read(func(tx *Tx) error {
			require.NoError(t, games.Reset(past(games, games.Seq())))
			require.Equal(t, []game{{ID: 9}}, rowsOf(t, games.All()))
			require.Equal(t, []game{{ID: 1}}, rowsOf(t, games.In(tx).All()))
			return nil
		}, games))
	})
	t.Run("Squash", func(t *testing.T) {
		games := newGames()
		var at Feed
		feed := games.Changes(t.Context(), Squash(0), Poll(nil), Track(&at))
		insertRows(t, games, 1)
		require.Len(t, take(feed, -1), 1)
		before := games.Position()
		insertRows(t, games, 2)
		require.NoError(t, games.Reset(Past[game]{Lineage: []Position{{HistoryID{1}, 5}}}))
		require.Equal(t, before, at.Position(), "until the notice")
		games.Drop()
		got := take(feed, 1)
		isReset(t, 1, got[0].err)
		require.Equal(t, Position{HistoryID{1}, 5}, at.Position())
		got = take(feed, -1)
		require.Len(t, got, 1)
		require.ErrorIs(t, got[0].err, ErrTableDropped)
	})
}
