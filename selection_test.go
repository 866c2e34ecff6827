package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A rowReader is a selection, or one in a transaction or in Read.
type rowReader interface {
	All() iter.Seq2[int, game]
	Backward() iter.Seq2[int, game]
	Len() int
}

// requireRows requires that a selection of a board has those of the table's rows that belong
// to it, each once and in order. Backward has the opposite order.
func (s boardSelection) requireRows(t *testing.T, b board) {
	t.Helper()
	var rows []game
	for _, row := range stateOf(b.Table).rows {
		if row != nil {
			rows = append(rows, *row)
		}
	}
	s.requireRowsOf(t, rows, s.of(b))
}

// requireRowsOf requires the same of a selection of the given rows.
func (s boardSelection) requireRowsOf(t *testing.T, rows []game, selection rowReader) {
	t.Helper()
	want := slices.SortedFunc(slices.Values(slices.DeleteFunc(slices.Clone(rows), func(g game) bool { return !s.has(&g) })), s.order)
	require.Equal(t, len(want), selection.Len(), s.name)
	for _, seq := range []iter.Seq2[int, game]{selection.All(), selection.Backward()} {
		seq(func(int, game) bool { return false }) // a sequence can be ranged over again, also after a break
		got := rowsOf(t, seq)
		require.True(t, slices.Equal(want, got), "%s: %v is not %v", s.name, got, want)
		slices.Reverse(want) // for Backward
	}
}

// A selection has the rows that belong to it. Keys that are followed and have no row are
// no rows.
func TestSelectionsReadTheirRows(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000} {
		r, b := newRand(t), newBoard()
		var feeds []Stream[Change[game]]
		for id := -3; id < 2*n+3; id++ {
			feeds = append(feeds, b.Row(id).Changes(t.Context()))
		}
		for _, id := range r.Perm(2 * n)[:n] { // half of the keys have no row
			must[game](t)(b.Insert(game{ID: id, Player: []string{"", "Ann", "Bob", "Eve"}[r.IntN(4)], Score: r.IntN(30)}))
		}
		require.Equal(t, n, b.Len())
		for _, s := range boardSelections {
			s.requireRows(t, b)
		}
		runtime.KeepAlive(feeds)
	}
}

// "A range takes time in proportion to the number of rows selected, before predicates, and
// to the logarithm of the number of all rows." Rows and followed keys outside of the range
// cost nothing.
func TestAReadLooksAtItsRowsOnly(t *testing.T) {
	compared, keys := 0, 0
	games := NewTableFunc("games", func(g *game) int { keys++; return g.ID }, func(a, b int) int { compared++; return cmp.Compare(a, b) })
	scores := NewMultiIndex(games, "score", func(g *game) []int { return []int{g.Score, g.Score + 1} })
	insertRows(t, games, 0, 1000, 2000)
	var feeds []Stream[Change[game]]
	for id := 1001; id < 3000; id++ {
		feeds = append(feeds, games.Row(id).Changes(t.Context()))
	}
	for i := range 5000 {
		must[game](t)(games.Insert(game{ID: 10_000 + i, Score: 10 * i}))
	}
	for _, test := range []struct {
		s    Selection[int, game]
		rows int
	}{{games.Range(990, 1001), 1}, {games.Range(1995, 2001), 1}, {scores.Range(20_000, 20_100), 10}} {
		for name, read := range map[string]func() int{
			"All":      func() int { return len(rowsOf(t, test.s.All())) },
			"Backward": func() int { return len(rowsOf(t, test.s.Backward())) },
			"Len":      test.s.Len,
		} {
			compared, keys = 0, 0
			require.Equal(t, test.rows, read(), name)
			require.LessOrEqual(t, keys, test.rows, name)
			require.Less(t, compared, 200, name)
		}
	}
	runtime.KeepAlive(feeds)
}

// kindsOf returns the kinds of the changes that are ready in a stream that polls.
func kindsOf[V any](s Stream[Change[V]]) (kinds []Kind) {
	for c, err := range s {
		if err != nil {
			return append(kinds, None)
		}
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// Selections of a table made with NewTableFunc compare keys with its function, and yield
// the key of the row that was written last.
func TestSelectionsOfNewTableFunc(t *testing.T) {
	users := newUsers()
	countries := NewIndex(users, "country", func(u *user) string { return u.Country })
	selections := []Selection[string, user]{users.Row("bOB"), users.Range("B", "c"), users.From("bob"), countries.Equal("x")}
	var feeds []Stream[Change[user]]
	for _, s := range selections {
		feeds = append(feeds, s.Changes(t.Context(), Poll(nil)))
	}
	requireNames := func(want ...string) {
		t.Helper()
		for i, s := range selections {
			var forward, backward []string
			for key, u := range s.All() {
				require.Equal(t, u.Name, key)
				forward = append(forward, key)
			}
			for key := range s.Backward() {
				backward = append(backward, key)
			}
			require.Equal(t, want[i], strings.Join(forward, " "))
			slices.Reverse(backward)
			require.Equal(t, forward, backward)
		}
	}
	requireNames("", "", "", "")
	for _, u := range []user{{"Bob", "x"}, {"ann", "x"}, {"Carl", "y"}} {
		must[user](t)(users.Insert(u))
	}
	requireNames("Bob", "Bob", "Bob Carl", "ann Bob")
	must[user](t)(users.Upsert(user{"BOB", "x"}))
	requireNames("BOB", "BOB", "BOB Carl", "ann BOB")
	must[user](t)(users.Delete("boB"))
	requireNames("", "", "Carl", "ann")
	for i, want := range []string{"[insert update delete]", "[insert update delete]", "[insert insert update delete]", "[insert insert update delete]"} {
		require.Equal(t, want, fmt.Sprint(kindsOf(feeds[i])))
	}
}

// "A range sees the table as it is when the range begins", whatever the loop's body writes,
// and holds no lock. A row that is moved ahead of the loop does not come twice.
func TestARangeOfASelectionSeesItAsItWas(t *testing.T) {
	for _, test := range boardSelections {
		b := newBoard()
		s := test.of(b)
		for name, seq := range map[string]iter.Seq2[int, game]{"All": s.All(), "Backward": s.Backward()} {
			for id := range 200 {
				must[game](t)(b.Upsert(game{ID: id, Player: []string{"Bob", "Ann"}[id/2%2], Score: id % 17}))
			}
			want := rowsOf(t, seq)
			var got []game
			for _, g := range seq {
				got = append(got, g)
				require.LessOrEqual(t, len(got), len(want), "%s of %s", name, test.name)
				for i := range 5 { // rows come, go and change places, before and behind
					must[game](t)(b.Upsert(game{ID: (g.ID + i*i*i + 200 - 3) % 200, Player: []string{"Bob", "Ann"}[i%2], Score: 5 + 5*i}))
				}
				must[game](t)(b.Upsert(game{ID: 200 + g.ID, Player: "Bob", Score: 15}))
				must[game](t)(b.Delete(g.ID))
			}
			require.Equal(t, want, got, "%s of %s", name, test.name)
		}
	}
}

// "A selection's feed reports changes relative to the selection": a row that starts to
// match is an Insert, and a row that stops matching is a Delete.
func TestFeedsOfSelections(t *testing.T) {
	for _, test := range []struct {
		name string
		of   func(b board) Selection[int, game]
		want string
	}{
		{"Row", func(b board) Selection[int, game] { return b.Row(1) }, "+1 3 5 -8 dropped"},
		{"missing Row", func(b board) Selection[int, game] { return b.Row(9) }, "dropped"},
		{"Range", func(b board) Selection[int, game] { return b.Range(2, 5) }, "+2 4 -6 +7 dropped"},
		{"Where", func(b board) Selection[int, game] { return b.Where(isHigh) }, "+2 +3 -4 -5 +7 dropped"},
		{"Equal", func(b board) Selection[int, game] { return b.scores.Equal(15) }, "+3 -5 dropped"},
		{"Range of an index", func(b board) Selection[int, game] { return b.scores.Range(0, 10) }, "+1 -3 +4 +5 -6 -8 dropped"},
		{"From and Where", func(b board) Selection[int, game] { return b.scores.From(10).Where(isOddGame) }, "+3 -5 dropped"},
		{"one of several values", func(b board) Selection[int, game] { return b.digits.Equal(5) }, "+3 5 +7 -8 dropped"},
		{"several values of a row", func(b board) Selection[int, game] { return b.digits.Range(1, 3) }, "+2 +3 4 -5 -6 +7 dropped"},
	} {
		const writes = "put 1; set 2 12; set 1 15; set 2 1; set 1 5; delete 2; set 2 25; delete 1"
		runScripts(t,
			feedTest{name: test.name, of: test.of, do: "open; " + writes + "; drop; read: " + test.want},
			feedTest{name: test.name + ", After", of: test.of, after: new(0), do: "retain 10; " + writes + "; open; drop; read: " + test.want})
	}
	odd := func(b board) Selection[int, game] { return b.Range(0, 10).Where(isOddGame) }
	runScripts(t,
		feedTest{name: "a row comes, goes and comes again", of: func(b board) Selection[int, game] { return b.Row(2) }, opts: []FeedOption{IncludeInitial()}, do: `
			open; loop: ready0; put 2: +1; set 2 1: 2; delete 2: -3; put 2: +4; delete 2: -5`},
		feedTest{name: "Buffer and FeedInfo count before the predicate", of: odd, opts: []FeedOption{Buffer(4)}, do: `
			open; put 0 100 1 101 2 102 3 103 4 104 5 105 6 106 7 107 8 108 9 109; info: [feed: buffered 4/4, delivered 0, skipped 6, seq 0]
			read 3: skip6(1-12) +15 +19; info: [feed: buffered 0/4, delivered 4, skipped 6, seq 19]`},
		feedTest{name: "a feed of a row reads no other row", of: func(b board) Selection[int, game] { return b.Row(1) }, opts: []FeedOption{Buffer(2)}, do: `
			put 1; open; put 2 3 4 5; set 2 7; info: [feed: buffered 0/2, delivered 0, skipped 0, seq 1]; set 1 6; read 1: 7`},
		feedTest{name: "a feed of a value reads no other row", of: func(b board) Selection[int, game] { return b.scores.Equal(9) }, opts: []FeedOption{Buffer(2)}, do: `
			put 1; open; put 2 3 4 5; set 2 7; info: [feed: buffered 0/2, delivered 0, skipped 0, seq 1]; set 1 9; read 1: +7`},
	)
}

// A countedContext counts how often a loop looks at it, which it does at each turn.
type countedContext struct {
	context.Context
	looked *atomic.Int64
}

func (c countedContext) Err() error {
	c.looked.Add(1)
	return c.Context.Err()
}

// A write wakes only the loops whose selection it changes. The others do not even run.
func TestAWriteWakesNobodyElse(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		b := newBoard()
		must[game](t)(b.Insert(game{1, "Bob", 5}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		type waiter struct {
			name     string
			follower *follower
			looked   *atomic.Int64
		}
		var waiters []waiter
		for name, s := range map[string]Selection[int, game]{
			"row1": b.Row(1), "row2": b.Row(2), "range1": b.Range(1, 2), "range2": b.Range(2, 3), "from2": b.From(2),
			"bob": b.players.Equal("Bob"), "ann": b.players.Equal("Ann"), "score5": b.scores.Range(5, 6), "score6": b.scores.From(6),
		} {
			for _, opts := range [][]FeedOption{nil, {Squash(0)}, {IncludeInitial()}} {
				looked := new(atomic.Int64)
				waiters = append(waiters, waiter{name, follow(s.Changes(countedContext{ctx, looked}, opts...), nil), looked})
			}
		}
		for seq, step := range []struct {
			write func() (Change[game], error)
			wakes string
		}{
			{func() (Change[game], error) { return b.Insert(game{3, "Eve", 0}) }, "from2"},
			{func() (Change[game], error) { return b.Upsert(game{1, "Bob", 7}) }, "row1 range1 bob score5 score6"},
			{func() (Change[game], error) { return b.Upsert(game{1, "Zoe", 7}) }, "row1 range1 bob score6"},
			{func() (Change[game], error) { return b.Insert(game{2, "Ann", 0}) }, "row2 range2 from2 ann"},
			{func() (Change[game], error) { return b.Delete(3) }, "from2"},
			{func() (Change[game], error) { return b.Upsert(game{2, "Ann", 0}) }, ""}, // no change
		} {
			synctest.Wait()
			var before []int64
			for _, w := range waiters {
				before = append(before, w.looked.Load())
			}
			must[game](t)(step.write())
			synctest.Wait()
			woken, want := make(map[string]int), make(map[string]int)
			for i, w := range waiters {
				if w.looked.Load() > before[i] {
					require.True(t, strings.HasSuffix(w.follower.String(), fmt.Sprint(seq+2)), "%s: %s", w.name, w.follower)
					woken[w.name]++
				}
			}
			for name := range strings.FieldsSeq(step.wakes) {
				want[name] = 3
			}
			require.Equal(t, want, woken, "write %d", seq+2)
		}
	})
}

// Predicates "run in the goroutine of the loop, without a lock. They can be slow, and can
// use tables." A write calls none.
func TestPredicatesRunOnTheReadersSide(t *testing.T) {
	games := newGames()
	calls := 0
	s := games.Range(0, 10).Where(func(g *game) bool {
		calls++
		require.True(t, games.mu.TryLock(), "no lock is held")
		games.mu.Unlock()
		must[game](t)(games.Upsert(game{ID: 100, Score: calls}))
		return isOddGame(g)
	})
	feeds := []Stream[Change[game]]{
		s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Squash(0), Poll(nil)),
		unbatch(s.Batches(t.Context(), 2, Poll(nil))), s.Changes(t.Context(), IncludeInitial(), Poll(nil)),
	}
	insertRows(t, games, 0, 1, 2, 3)
	require.Zero(t, calls, "in a write, or in Changes")
	require.Len(t, rowsOf(t, s.All()), 2)
	require.Len(t, rowsOf(t, s.Backward()), 2)
	require.Equal(t, 2, s.Len())
	for i, want := range []string{"+2 +4", "+2 +4", "+2 +4", "ready0 +2 +4"} {
		require.Equal(t, want, allOf(feeds[i]))
	}
	require.Equal(t, 4*(3+4), calls, "once for each row or change")
}

func panicWith(v any) bool { panic(v) }

// "A panic in it reaches the loop's caller, and the change that it was about counts as
// delivered." No lock is held then, and nothing else is lost.
func TestAPredicateThatPanics(t *testing.T) {
	for _, test := range []struct {
		name    string
		batches bool
		opts    []FeedOption
		want    string
	}{
		{"Changes", false, nil, "+5 | +7 +8 dropped"},
		{"After 4", false, nil, "+5 | +7 +8 dropped"},
		{"After 0", false, nil, "+1 | +3 +4 +5 | +7 +8 dropped"},
		{"IncludeInitial", false, []FeedOption{IncludeInitial()}, "row11 | row13 row14 ready4 +5 | +7 +8 dropped"},
		{"Squash", false, []FeedOption{Squash(0)}, "+5 | +7 +8 dropped"},
		{"Batches", true, nil, "| +5 +7 +8 dropped"},
		{"Batches and IncludeInitial", true, []FeedOption{IncludeInitial()}, "| | row11 row13 row14 ready4 +5 +7 +8 dropped"},
		{"Batches and Squash", true, []FeedOption{Squash(0)}, "| +5 +7 +8 dropped"},
	} {
		games := newGames()
		games.Retain(100)
		insertRows(t, games, 11, 12, 13, 14)
		s := games.From(0).Where(func(g *game) bool { return g.ID%10 != 2 || panicWith("about 2") })
		var stream Stream[Change[game]]
		var after uint64
		if _, err := fmt.Sscanf(test.name, "After %d", &after); err == nil {
			test.opts = append(test.opts, After(games.At(after)))
		}
		if test.batches {
			stream = unbatch(s.Batches(t.Context(), 100, test.opts...))
		} else {
			stream = s.Changes(t.Context(), test.opts...)
		}
		insertRows(t, games, 1, 2, 3, 4)
		games.Drop()
		var words []string
		for i := 0; i < 3 && !slices.Contains(words, "dropped"); i++ {
			func() {
				defer func() {
					if v := recover(); v != nil {
						require.Equal(t, "about 2", v)
						words = append(words, "|")
					}
				}()
				for c, err := range stream {
					words = append(words, wordOf(c, err))
				}
			}()
			require.True(t, games.mu.TryLock(), "the lock is free")
			games.mu.Unlock()
		}
		require.Equal(t, test.want, strings.Join(words, " "), test.name)
		require.Empty(t, games.Feeds())
	}

	games := newGames()
	insertRows(t, games, 0, 1, 2)
	s := games.Where(func(g *game) bool { return g.ID != 1 || panicWith("about 1") })
	before := stateOf(games)
	for name, read := range map[string]func(){
		"All": func() { rowsOf(t, s.All()) }, "Backward": func() { rowsOf(t, s.Backward()) }, "Len": func() { s.Len() },
	} {
		require.PanicsWithValue(t, "about 1", read, name)
		requireState(t, before, games)
	}
}

// Selections of a dropped table and its indexes are empty, and their feeds yield only
// ErrTableDropped, whether they and the indexes were made before or after Drop. An older
// feed has its rows first. Nothing is left behind.
func TestSelectionsOfADroppedTable(t *testing.T) {
	for _, test := range boardSelections {
		b := newBoard()
		must[game](t)(b.Insert(game{1, "Bob", 15}))
		must[game](t)(b.Insert(game{5, "Ann", 5}))
		earlier := test.of(b)
		n, feed := earlier.Len(), earlier.Changes(t.Context(), IncludeInitial())
		b.Drop()
		unique, err := NewUniqueIndex(b.Table, "late score", func(g *game) int { return g.Score })
		require.NoError(t, err)
		late := board{b.Table, NewIndex(b.Table, "late player", func(g *game) string { return g.Player }), unique, NewMultiIndex(b.Table, "late digits", digits)}
		for _, s := range []Selection[int, game]{earlier, test.of(b), test.of(late)} {
			require.Empty(t, rowsOf(t, s.All()), test.name)
			require.Empty(t, rowsOf(t, s.Backward()), test.name)
			require.Zero(t, s.Len(), test.name)
			for _, opts := range [][]FeedOption{nil, {IncludeInitial()}, {Squash(0)}, {After(Position{})}, {Poll(nil)}, {OnOverflow(Resync)}} {
				stream := s.Changes(t.Context(), opts...)
				require.Equal(t, "dropped", allOf(stream), test.name)
				require.Equal(t, "dropped", allOf(stream), "the only pair of every later range")
				require.Equal(t, "dropped", batchesOf(s.Batches(t.Context(), 1, opts...), -1), test.name)
			}
		}
		require.Len(t, b.Feeds(), 1)
		require.Regexp(t, fmt.Sprintf(`^(row\d ){%d}ready2 dropped$`, n), allOf(feed))
		require.Empty(t, b.Feeds())
		require.True(t, b.ranges.root == nil && b.players.scopes.root == nil && b.scores.scopes.root == nil && b.digits.scopes.root == nil)
		require.Zero(t, b.rows.tree.Len()+b.players.rows.tree.Len()+b.scores.rows.tree.Len()+b.digits.rows.tree.Len())
	}
}

// Misuse of a selection panics, and the message says what to do.
func TestMisuseOfASelectionPanicsAndSaysWhatToDo(t *testing.T) {
	games := newGames()
	const noPredicate = "changefeed: Where: nil function; pass the predicate of the rows to select"
	const noContext = "changefeed: Changes: nil context; pass context.Background() if nothing cancels the feed"
	require.PanicsWithValue(t, noPredicate, func() { games.Where(nil) })
	require.PanicsWithValue(t, noPredicate, func() { games.Row(1).Where(nil) })
	var ctx context.Context
	require.PanicsWithValue(t, noContext, func() { games.Row(1).Changes(ctx) })
	require.PanicsWithValue(t, noContext, func() { games.Row(1).Batches(ctx, 1) })
	require.PanicsWithValue(t, "changefeed: Changes: nil option; leave it out", func() { games.Row(1).Changes(t.Context(), nil) })
	require.Empty(t, games.Feeds())
	require.Zero(t, games.rows.tree.Len(), "making a selection does nothing")
	require.True(t, games.mu.TryLock())
	games.mu.Unlock()

	opts := make([]FeedOption, 0, 1)
	games.Row(1).Batches(t.Context(), 1, opts...)
	require.Nil(t, opts[:1][0], "Batches must not write into the caller's options")
}
