package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A ranker is a table of games with all views of ranks.
type ranker struct {
	*Table[int, game]
	scores *Index[int, int, game]
}

func newRanker(t *testing.T, rows ...game) ranker {
	games := newGames()
	for _, g := range rows {
		must[game](t)(games.Insert(g))
	}
	return ranker{games, NewIndex(games, "score", func(g *game) int { return g.Score })}
}

func playerOf(g *game) string { return g.Player }

// scoreText returns the score of a game as text, to group games by. Most groups in the tests are texts, because the
// compiler makes a copy of the library for each type of groups.
func scoreText(g *game) string { return strconv.Itoa(g.Score) }

// ranked returns the first n rows of the table. If each is true, it returns the first n of each player.
func (r ranker) ranked(n int, bottom, each bool) (rows []game) {
	all := r.scores.Backward()
	if bottom {
		all = r.scores.All()
	}
	count := map[string]int{}
	for _, g := range all {
		group := ""
		if each {
			group = g.Player
		}
		if count[group]++; count[group] <= n {
			rows = append(rows, g)
		}
	}
	if each {
		slices.SortStableFunc(rows, func(a, b game) int { return strings.Compare(a.Player, b.Player) })
	}
	return rows
}

// idsOf returns the keys of rows.
func idsOf(rows []game) (ids []int) {
	for _, g := range rows {
		ids = append(ids, g.ID)
	}
	return ids
}

// Top, Bottom, TopEach and BottomEach have the first n rows by value and key, also with n = 1, and of rows with one value.
// All is in the order of the ranks, and Backward in the reverse order. A write makes one batch in the feed. It is an
// update, or a delete of the row that is pushed out and then an insert of the new row. The other rows are untouched.
func TestTopAgainstAModel(t *testing.T) {
	type made struct {
		*View[int, game]
		n            int
		bottom, each bool
		batches      Stream[[]Change[game]]
	}
	rand := newRand(t)
	r := newRanker(t, game{1, "A", 5}, game{2, "A", 5}, game{3, "B", 4}, game{4, "", 9})
	var views []made
	for _, n := range []int{1, 2, 5, 1000} {
		for _, m := range []made{
			{View: Top(r.scores, fmt.Sprint("top ", n), n), n: n},
			{View: Bottom(r.scores, fmt.Sprint("bottom ", n), n), n: n, bottom: true},
			{View: TopEach(r.scores, fmt.Sprint("top each ", n), n, playerOf), n: n, each: true},
			{View: BottomEach(r.scores, fmt.Sprint("bottom each ", n), n, playerOf), n: n, bottom: true, each: true},
		} {
			m.batches = m.Batches(t.Context(), 1, Poll(nil))
			views = append(views, m)
		}
	}
	shapes := map[string]int{}
	for range 800 {
		before := map[string]map[int]*game{}
		for _, v := range views {
			rows := map[int]*game{}
			for id := range v.All() {
				rows[id] = stored(v.table, id)
			}
			before[v.Name()] = rows
		}
		moved := false
		switch id := rand.IntN(15); rand.IntN(4) {
		case 0:
			_, _ = r.Delete(id)
		case 1:
			old, _ := r.Get(id)
			c, err := r.Update(id, func(g *game) { g.Score = rand.IntN(4) })
			if err == nil && c.Kind == Update {
				require.Equal(t, old, *c.Old)
			}
		default:
			old, ok := r.Get(id)
			g := game{id, []string{"A", "B", ""}[rand.IntN(3)], rand.IntN(4)}
			must[game](t)(r.Upsert(g))
			moved = ok && old.Player != g.Player
		}
		for _, v := range views {
			want := r.ranked(v.n, v.bottom, v.each)
			require.Equal(t, want, rowsOf(t, v.All()), v.Name())
			slices.Reverse(want)
			require.Equal(t, want, rowsOf(t, v.Backward()), v.Name())

			var shape []string
			changed := map[int]bool{}
			n := 0
			for batch, err := range v.batches {
				require.NoError(t, err)
				n++
				for _, c := range batch {
					shape = append(shape, c.Kind.String())
					require.False(t, changed[c.Row().ID] && !moved, "each row changes once")
					changed[c.Row().ID] = true
				}
			}
			require.LessOrEqual(t, n, 1, "one batch")
			text := strings.Join(shape, " ")
			allowed := []string{"", "insert", "delete", "update", "delete insert"}
			if v.each && moved {
				allowed = append(allowed, "delete insert delete insert", "delete delete insert", "delete insert insert")
			}
			require.Contains(t, allowed, text, v.Name())
			shapes[text]++
			for id, row := range before[v.Name()] {
				if !changed[id] {
					require.Same(t, row, stored(v.table, id), "row %d of %s", id, v.Name())
				}
			}
		}
	}
	requireOutcomes(t, shapes, "", "insert", "delete", "update", "delete insert", "delete insert delete insert", "delete delete insert", "delete insert insert")
}

// The feed reports a Delete of the row that is pushed out, and then an Insert of the new row, in one batch. Of rows with
// one value, those with the larger keys come first.
func TestTopFeed(t *testing.T) {
	r := newRanker(t, game{ID: 1, Score: 10}, game{ID: 2, Score: 20}, game{ID: 3, Score: 30})
	best, worst := Top(r.scores, "best", 2), Bottom(r.scores, "worst", 2)
	feed, ofWorst := best.Batches(t.Context(), 1, Poll(nil)), worst.Batches(t.Context(), 1, Poll(nil))
	row3 := best.Row(3).Batches(t.Context(), 1, Poll(nil))
	step := func(want, wantWorst string, ids ...int) {
		t.Helper()
		text := func(s Stream[[]Change[game]]) string {
			var texts []string
			for batch, err := range s {
				require.NoError(t, err)
				texts = append(texts, fmt.Sprint(batch))
			}
			return strings.Join(texts, " ")
		}
		require.Equal(t, want, text(feed))
		require.Equal(t, wantWorst, text(ofWorst))
		require.Equal(t, ids, idsOf(rowsOf(t, best.All())))
	}
	step("", "", 3, 2)
	must[game](t)(r.Insert(game{ID: 4, Score: 25}))
	step("[1 delete {2  20} 2 insert {4  25}]", "", 3, 4)
	must[game](t)(r.Upsert(game{ID: 4, Score: 5}))
	step("[3 delete {4  25} 4 insert {2  20}]", "[1 delete {2  20} 2 insert {4  5}]", 3, 2)
	must[game](t)(r.Upsert(game{ID: 2, Score: 40}))
	step("[5 update {2  20} -> {2  40}]", "", 2, 3)
	must[game](t)(r.Delete(2))
	step("[6 delete {2  40} 7 insert {1  10}]", "", 3, 1)
	must[game](t)(r.Insert(game{ID: 5, Score: 10})) // a tie: the larger key is first
	step("[8 delete {1  10} 9 insert {5  10}]", "", 3, 5)
	must[game](t)(r.Insert(game{ID: 0, Score: 10})) // a tie: the smaller key is first in Bottom
	step("", "[3 delete {1  10} 4 insert {0  10}]", 3, 5)
	require.Empty(t, batchesOf(row3, -1), "row 3 was never touched")
	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(r.In(tx).Delete(3))
		must[game](t)(r.In(tx).Delete(5))
		require.Equal(t, []int{1, 0}, idsOf(rowsOf(t, best.In(tx).All())))
		require.Equal(t, []int{0, 1}, idsOf(rowsOf(t, best.In(tx).Backward())))
		require.Equal(t, 2, best.In(tx).Len())
		return nil
	}, r.Table))
	step("[10 delete {3  30} 11 insert {1  10} 12 delete {5  10} 13 insert {0  10}]", "", 1, 0)
	require.Equal(t, "[-10]", batchesOf(row3, -1))
	_, ok := best.Get(5)
	require.False(t, ok)
}

// Feeds that begin with the present rows have them in the order of the ranks: IncludeInitial, Resync and Commits, with a
// predicate, too. From, Range and Rows of a Top are in the order of the keys.
func TestTopOrders(t *testing.T) {
	r := newRanker(t, game{1, "A", 10}, game{2, "B", 40}, game{3, "A", 30}, game{4, "B", 20}, game{5, "A", 5})
	best := Top(r.scores, "best", 4)
	each := TopEach(r.scores, "each", 2, playerOf)
	worst := Bottom(r.scores, "worst", 4)
	for _, test := range []struct {
		s    Selection[int, game]
		want string
	}{
		{best.Selection(), "2 3 4 1"},
		{best.Where(isOddGame), "3 1"},
		{best.From(2), "2 3 4"},
		{best.Range(1, 4), "1 2 3"},
		{best.Range(1, 4).Where(isOddGame), "1 3"},
		{best.Rows(4, 1, 5), "1 4"},
		{best.Row(5), ""},
		{each.Selection(), "3 1 2 4"},
		{each.From(2), "2 3 4"},
		{worst.Selection(), "5 1 4 3"},
		{worst.Where(isOddGame), "5 1 3"},
		{worst.From(4), "4 5"},
		{NewIndex(best, "score", func(g *game) int { return g.Score }).From(20), "4 3 2"},
	} {
		text := func(ids []int) string { return strings.Trim(fmt.Sprint(ids), "[]") }
		require.Equal(t, test.want, text(idsOf(rowsOf(t, test.s.All()))))
		backward := rowsOf(t, test.s.Backward())
		slices.Reverse(backward)
		require.Equal(t, test.want, text(idsOf(backward)))
		require.Equal(t, len(backward), test.s.Len())
		initial := func(s Stream[Change[game]], skip bool) string {
			var ids []int
			for c, err := range s {
				if skip {
					require.Error(t, err)
					skip = false
					continue
				}
				require.NoError(t, err)
				if c.Kind == Initial {
					ids = append(ids, c.New.ID)
				}
			}
			return text(ids)
		}
		require.Equal(t, test.want, initial(test.s.Changes(t.Context(), IncludeInitial(), Poll(nil)), false))
		require.Equal(t, test.want, initial(test.s.Changes(t.Context(), After(Position{}), OnOverflow(Resync), Poll(nil)), true))
		require.NoError(t, Read(func(tx *Tx) error {
			require.Equal(t, test.want, text(idsOf(rowsOf(t, test.s.In(tx).All()))))
			return nil
		}, best, each, worst))
	}
	commits := Commits(t.Context(), []AnyTable{each, best}, IncludeInitial(), Poll(nil))
	var ids []int
	for commit, err := range commits {
		require.NoError(t, err)
		for _, c := range commit {
			if c.Kind == Initial {
				ids = append(ids, c.New.(*game).ID)
			}
		}
	}
	require.Equal(t, []int{3, 1, 2, 4, 2, 3, 4, 1}, ids)
}

// If n is at least the number of rows, Top has all rows in the order of the index's Backward, and Bottom has them in the
// order of its All. That also holds for a unique index, an index with another order, an index of a view, and one of a Top.
func TestTopOfAllRows(t *testing.T) {
	rand := newRand(t)
	r := newRanker(t)
	unique, err := NewUniqueIndex(r.Table, "unique", func(g *game) int { return -g.ID })
	require.NoError(t, err)
	lengths := NewIndexFunc(r.Table, "length", playerOf, func(a, b string) int { return len(a) - len(b) })
	same := Select(r.Where(isOddGame), "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	ofView := NewIndex(same, "score", func(g *game) int { return g.Score })
	top := Top(r.scores, "top", 7)
	ofTop := NewIndex(top, "player", playerOf)
	type both struct {
		index       func() (all, backward []game)
		top, bottom *View[int, game]
	}
	views := []both{
		bothOf(t, r.scores), bothOf(t, unique), bothOf(t, lengths), bothOf(t, ofView), bothOf(t, ofTop),
	}
	for range 500 {
		switch id := rand.IntN(20); rand.IntN(3) {
		case 0:
			_, _ = r.Delete(id)
		default:
			must[game](t)(r.Upsert(game{id, strings.Repeat("x", rand.IntN(3)) + string(rune('A'+rand.IntN(2))), rand.IntN(6)}))
		}
		for _, v := range views {
			all, backward := v.index()
			require.Equal(t, backward, rowsOf(t, v.top.All()))
			require.Equal(t, all, rowsOf(t, v.top.Backward()))
			require.Equal(t, all, rowsOf(t, v.bottom.All()))
			require.Equal(t, backward, rowsOf(t, v.bottom.Backward()))
		}
	}
}

func bothOf[S any](t *testing.T, x *Index[S, int, game]) struct {
	index       func() (all, backward []game)
	top, bottom *View[int, game]
} {
	return struct {
		index       func() (all, backward []game)
		top, bottom *View[int, game]
	}{
		func() (all, backward []game) { return rowsOf(t, x.All()), rowsOf(t, x.Backward()) },
		Top(x, "all by "+x.name, 1000), Bottom(x, "all by "+x.name, 1000),
	}
}

// A rankedList is a list of rows that follows the changes of [Ranked].
type rankedList struct {
	t    *testing.T
	rows []game
}

// apply makes a change: it removes the row at OldRank, and then inserts the new one at NewRank.
func (l *rankedList) apply(c RankedChange[game], err error) {
	l.t.Helper()
	if _, ok := errors.AsType[*SkippedError](err); ok {
		l.rows = nil
		require.Equal(l.t, RankedChange[game]{}, c)
		return
	}
	require.NoError(l.t, err)
	require.Equal(l.t, c.Old != nil, c.OldRank > 0, "%v", c)
	require.Equal(l.t, c.New != nil, c.NewRank > 0, "%v", c)
	if c.OldRank > 0 {
		require.Equal(l.t, *c.Old, l.rows[c.OldRank-1])
		l.rows = slices.Delete(l.rows, c.OldRank-1, c.OldRank)
	}
	if c.NewRank > 0 {
		l.rows = slices.Insert(l.rows, c.NewRank-1, *c.New)
	}
}

// The changes of Ranked, applied to a list, give the view's All. That holds with each option, after Resync, and for views
// in every kind of order. Breaking out of the loop pauses it.
func TestRankedAgainstAModel(t *testing.T) {
	rand := newRand(t)
	r := newRanker(t, game{1, "A", 5}, game{2, "B", 5}, game{3, "B", 4})
	same := Select(r.Where(isOddGame), "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	type follower struct {
		list   *rankedList
		view   *View[int, game]
		stream Stream[RankedChange[game]]
		name   string
	}
	var followers []follower
	for name, opts := range map[string][]FeedOption{
		"plain":            nil,
		"Buffer(2)":        {Buffer(2)},
		"Squash":           {Squash(0)},
		"Resync":           {OnOverflow(Resync), Buffer(1)},
		"Fail":             {OnOverflow(Fail)},
		"IncludeInitial":   {IncludeInitial(), Named("x")},
		"IncludeInitial 5": {IncludeInitial(), Buffer(5), Squash(0)},
	} {
		for _, v := range []*View[int, game]{
			Top(r.scores, "top", 4), Bottom(r.scores, "bottom", 4), TopEach(r.scores, "top each", 2, playerOf),
			BottomEach(r.scores, "bottom each", 2, playerOf), same,
		} {
			stream := Ranked(t.Context(), v, slices.Concat(opts, []FeedOption{Poll(nil)})...)
			followers = append(followers, follower{&rankedList{t: t}, v, stream, name + " of " + v.Name()})
		}
	}
	resyncs := map[string]int{}
	for step := range 300 {
		for range rand.IntN(4) {
			switch id := rand.IntN(12); rand.IntN(4) {
			case 0:
				_, _ = r.Delete(id)
			case 1:
				require.NoError(t, Transact(func(tx *Tx) error {
					for range 3 {
						must[game](t)(r.In(tx).Upsert(game{rand.IntN(12), []string{"A", "B"}[rand.IntN(2)], rand.IntN(5)}))
					}
					return nil
				}, r.Table))
			default:
				must[game](t)(r.Upsert(game{id, []string{"A", "B"}[rand.IntN(2)], rand.IntN(5)}))
			}
		}
		for _, f := range followers {
			if rand.IntN(3) == 0 && step < 299 {
				for c, err := range f.stream {
					f.list.apply(c, err)
					break
				}
				continue
			}
			for c, err := range f.stream {
				if err != nil {
					resyncs[f.name]++
				}
				f.list.apply(c, err)
			}
			require.Equal(t, rowsOf(t, f.view.All()), append([]game(nil), f.list.rows...), f.name)
		}
	}
	require.Positive(t, resyncs["Buffer(2) of top"], "Ranked resyncs without an option")
	require.Positive(t, resyncs["Resync of same"])
	require.Zero(t, resyncs["plain of top"])
}

// Ranked with Fail ends at an overflow. It ends with the error of the feed.
func TestRankedEnds(t *testing.T) {
	r := newRanker(t, game{ID: 1})
	best := Top(r.scores, "best", 2)
	stream := Ranked(t.Context(), best, OnOverflow(Fail), Buffer(1), Poll(nil))
	require.Len(t, take(stream, 2), 2) // the row, and Ready
	feedWrites(t, r.Table, 3)
	pairs := take(stream, -1)
	require.Len(t, pairs, 1)
	skipped, ok := errors.AsType[*SkippedError](pairs[0].err)
	require.True(t, ok)
	require.EqualValues(t, 2, skipped.Count)
	require.Equal(t, "best", skipped.Table)

	ctx, cancel := context.WithCancel(t.Context())
	stream = Ranked(ctx, best)
	cancel()
	require.ErrorIs(t, lastErr(stream), context.Canceled)

	stream = Ranked(t.Context(), best)
	best.Drop()
	require.ErrorIs(t, lastErr(stream), ErrTableDropped)
	require.EqualError(t, lastErr(Ranked(t.Context(), best)), `changefeed: changes of "best": table dropped`)
}

func lastErr[T any](s Stream[T]) (last error) {
	for _, err := range s {
		last = err
	}
	return last
}

// The text of a ranked change is that of the change, and the ranks.
func TestRankedChangeString(t *testing.T) {
	r := newRanker(t, game{ID: 1, Score: 10}, game{ID: 2, Score: 20})
	stream := Ranked(t.Context(), Top(r.scores, "best", 2), Poll(nil))
	texts := func() (texts []string) {
		for c, err := range stream {
			require.NoError(t, err)
			texts = append(texts, c.String())
		}
		return texts
	}
	require.Equal(t, []string{"initial {2  20}, rank 1", "initial {1  10}, rank 2", "ready"}, texts())
	must[game](t)(r.Upsert(game{ID: 1, Score: 30}))
	must[game](t)(r.Upsert(game{ID: 3, Score: 25}))
	must[game](t)(r.Upsert(game{ID: 3, Score: 26}))
	must[game](t)(r.Delete(1))
	require.Equal(t, []string{
		"1 update {1  10} -> {1  30}, rank 2 -> 1",
		"2 delete {2  20}, rank 2", "3 insert {3  25}, rank 2",
		"4 update {3  25} -> {3  26}, rank 2 -> 2",
		"5 delete {1  30}, rank 1", "6 insert {2  20}, rank 2",
	}, texts())
	require.Equal(t, "none", fmt.Sprint(RankedChange[game]{}))
}

// The JSON of a ranked change is that of RethinkDB with include_offsets. It can be decoded to the same change, without Seq.
func TestRankedChangeJSON(t *testing.T) {
	one, two := &game{ID: 1, Score: 10}, &game{ID: 1, Score: 20}
	for _, test := range []struct {
		c    RankedChange[game]
		want string
	}{
		{RankedChange[game]{Change[game]{Kind: Initial, New: one}, 0, 3}, `{"new_offset":2,"new_val":{"id":1,"score":10}}`},
		{RankedChange[game]{Change: Change[game]{Kind: Ready}}, `{"state":"ready"}`},
		{RankedChange[game]{Change[game]{Kind: Insert, New: one}, 0, 1}, `{"old_offset":null,"new_offset":0,"old_val":null,"new_val":{"id":1,"score":10}}`},
		{RankedChange[game]{Change[game]{Kind: Delete, Old: one}, 1, 0}, `{"old_offset":0,"new_offset":null,"old_val":{"id":1,"score":10},"new_val":null}`},
		{RankedChange[game]{Change[game]{Kind: Update, Old: one, New: two}, 12, 1}, `{"old_offset":11,"new_offset":0,"old_val":{"id":1,"score":10},"new_val":{"id":1,"score":20}}`},
		{RankedChange[game]{}, `{"old_offset":null,"new_offset":null,"old_val":null,"new_val":null}`},
	} {
		data, err := json.Marshal(test.c)
		require.NoError(t, err)
		require.JSONEq(t, test.want, string(data))
		require.Equal(t, test.want, string(data))
		back := RankedChange[game]{Change[game]{Seq: 7, Kind: Delete, Old: two}, 5, 5}
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, test.c, back)
		pointer, err := json.Marshal(&test.c)
		require.NoError(t, err)
		require.Equal(t, data, pointer)
	}

	was := RankedChange[game]{Change[game]{Kind: Delete, Old: two}, 5, 0}
	for _, bad := range []string{`{}`, `{"state":"x"}`, `{"old_offset":"x","old_val":null,"new_val":{"id":1}}`, `{"error":"x"}`, `7`} {
		c := was
		err := json.Unmarshal([]byte(bad), &c)
		require.ErrorContains(t, err, "changefeed: unmarshal a change: ", bad)
		require.Equal(t, was, c, "after an error, it is unchanged")
	}
	c := was
	require.NoError(t, json.Unmarshal([]byte("null"), &c))
	require.Equal(t, was, c)
}

// Skip and After cannot be used with Ranked, because the ranks would not be known.
func TestRankedRefusesOptions(t *testing.T) {
	r := newRanker(t)
	best := Top(r.scores, "best", 2)
	for _, test := range []struct {
		opts []FeedOption
		want string
	}{
		{[]FeedOption{OnOverflow(Skip)}, `changefeed: ranked changes of "best": invalid option: Skip or After: the ranks would not be known`},
		{[]FeedOption{After(best.Position())}, `changefeed: ranked changes of "best": invalid option: Skip or After: the ranks would not be known`},
		{[]FeedOption{Buffer(0)}, `changefeed: changes of "best": invalid option: Buffer(0): must be at least 1`},
		{[]FeedOption{OnOverflow(Skip), After(best.Position())}, `changefeed: ranked changes of "best": invalid option: Skip or After: the ranks would not be known`},
	} {
		pairs := take(Ranked(t.Context(), best, test.opts...), -1)
		require.Len(t, pairs, 1)
		require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
		require.EqualError(t, pairs[0].err, test.want)
	}
	require.Empty(t, best.Feeds())
	require.NotEmpty(t, take(Ranked(t.Context(), best, OnOverflow(Skip), OnOverflow(Fail), Poll(nil)), 1), "the last one counts")
}

// Wrong arguments of views panic with a message that says what to pass, and leave no trace.
func TestViewsRefuseArguments(t *testing.T) {
	r := newRanker(t)
	games := r.Table
	var none *Index[int, int, game]
	multi := NewMultiIndex(games, "digits", digits)
	key := func(g *game) int { return g.ID }
	same := func(g *game) *game { return g }
	fold := func(*int, *game, int) {}
	const (
		nilTop     = ": nil index; pass one of the table"
		multiTop   = ": a row can have several values in the index; pass one of NewIndex or NewUniqueIndex"
		nTop       = ": n must be at least 1"
		nilBy      = ": nil function; pass one that returns the group of a row"
		nilSource  = ": nil source; pass a table, a view or a selection"
		zeroSource = ": zero Selection; pass a table, a view or a selection"
		nilRef     = ": nil function; pass one that returns the key of the right row"
	)
	ctx := t.Context()
	var noContext context.Context
	best := Top(r.scores, "best", 1)
	for _, test := range []struct {
		want string
		do   func()
	}{
		{"Top" + nilTop, func() { Top(none, "v", 1) }},
		{"Bottom" + nilTop, func() { Bottom(none, "v", 1) }},
		{"TopEach" + nilTop, func() { TopEach(none, "v", 1, playerOf) }},
		{"BottomEach" + nilTop, func() { BottomEach(none, "v", 1, playerOf) }},
		{"Top" + multiTop, func() { Top(multi, "v", 1) }},
		{"Bottom" + multiTop, func() { Bottom(multi, "v", 1) }},
		{"TopEach" + multiTop, func() { TopEach(multi, "v", 1, playerOf) }},
		{"BottomEach" + multiTop, func() { BottomEach(multi, "v", 1, playerOf) }},
		{"Top" + nTop, func() { Top(r.scores, "v", 0) }},
		{"Bottom" + nTop, func() { Bottom(r.scores, "v", math.MinInt) }},
		{"TopEach" + nTop, func() { TopEach(r.scores, "v", -1, playerOf) }},
		{"BottomEach" + nTop, func() { BottomEach(r.scores, "v", 0, playerOf) }},
		{"TopEach" + nilBy, func() { TopEach[string](r.scores, "v", 1, nil) }},
		{"BottomEach" + nilBy, func() { BottomEach[string](r.scores, "v", 1, nil) }},
		{"Select: nil function", func() { Select(games, "v", nil, same) }},
		{"Select: nil function", func() { Select[game](games, "v", key, nil) }},
		{"Group: nil function", func() { Group[string](games, "v", nil, fold) }},
		{"Group: nil function", func() { Group[string, int](games, "v", playerOf, nil) }},
		{"Count: nil function", func() { Count[string](games, "v", nil) }},
		{"Join" + nilRef, func() { Join[int](games, games, "v", nil) }},
		{"LeftJoin" + nilRef, func() { LeftJoin[int](games, games, "v", nil) }},
		{"Select" + nilSource, func() { Select(Source[int, game](nil), "v", key, same) }},
		{"Group" + nilSource, func() { Group(Source[int, game](nil), "v", playerOf, fold) }},
		{"Count" + nilSource, func() { Count(Source[int, game](nil), "v", playerOf) }},
		{"Join" + nilSource, func() { Join(Source[int, game](nil), games, "v", key) }},
		{"LeftJoin" + nilSource, func() { LeftJoin(games, Source[int, game](nil), "v", key) }},
		{"Select" + zeroSource, func() { Select(Selection[int, game]{}, "v", key, same) }},
		{"Group" + zeroSource, func() { Group(Selection[int, game]{}, "v", playerOf, fold) }},
		{"Count" + zeroSource, func() { Count(Selection[int, game]{}, "v", playerOf) }},
		{"Join" + zeroSource, func() { Join(games, Selection[int, game]{}, "v", key) }},
		{"LeftJoin" + zeroSource, func() { LeftJoin(Selection[int, game]{}, games, "v", key) }},
		{"NewIndex: nil table", func() { NewIndex(Rows[int, game](nil), "v", key) }},
		{"NewIndex: nil table", func() { NewIndex((*Table[int, game])(nil), "v", key) }},
		{"Ranked: nil view", func() { Ranked(ctx, (*View[int, game])(nil)) }},
		{"Ranked: nil option; leave it out", func() { Ranked(ctx, best, nil) }},
		{"Ranked: nil context; pass context.Background() if nothing cancels the feed", func() { Ranked(noContext, best) }},
	} {
		require.PanicsWithValue(t, "changefeed: "+test.want, test.do)
	}
	require.Len(t, games.Views(), 1)
	require.Len(t, games.indexes, 2)

	err := Transact(func(tx *Tx) error {
		require.PanicsWithValue(t, `changefeed: Table.In: the table "best" is not in the transaction; pass it to Transact or Read`, func() { best.In(tx) })
		return nil
	}, newGames())
	require.NoError(t, err)
	require.NoError(t, Read(func(tx *Tx) error {
		require.PanicsWithValue(t, `changefeed: Table.In: the table "best" is not in the transaction; pass it to Transact or Read`, func() { best.In(tx) })
		return nil
	}, games))
	require.PanicsWithValue(t, "changefeed: Table.In: nil transaction; pass the one that Transact or Read passes to its function", func() { best.In(nil) })
	var ended *Tx
	require.NoError(t, Transact(func(tx *Tx) error { ended = tx; best.In(tx); return nil }, games))
	require.PanicsWithValue(t, `changefeed: the table "best" is used in a Transact or Read that has ended`, func() { best.In(ended) })
}

// A nil *Table or *View as a source panics with the message for a nil source, as a nil interface does.
func TestViewsRefuseNilPointers(t *testing.T) {
	key := func(g *game) int { return g.ID }
	for name, do := range map[string]func(){
		"Count: nil source; pass a table, a view or a selection":  func() { Count((*Table[int, game])(nil), "v", playerOf) },
		"Select: nil source; pass a table, a view or a selection": func() { Select((*View[int, game])(nil), "v", key, func(g *game) *game { return g }) },
		"NewIndex: nil table": func() { NewIndex((*View[int, game])(nil), "v", key) },
		"nil table":           func() { _ = Transact(func(*Tx) error { return nil }, (*View[int, game])(nil)) },
	} {
		t.Run(name, func(t *testing.T) { require.PanicsWithValue(t, "changefeed: "+name, do) })
	}
}

// In a transaction that holds a source of a view, selections of the view and of its indexes can be read, as the view can:
// see View.In.
func TestSelectionOfAViewInATransaction(t *testing.T) {
	r := newRanker(t, game{ID: 1, Score: 10}, game{ID: 2, Score: 20})
	best := Top(r.scores, "best", 2)
	require.NoError(t, Transact(func(tx *Tx) error {
		require.NotPanics(t, func() { require.Equal(t, 1, best.Where(isOddGame).In(tx).Len()) })
		return nil
	}, r.Table))
}

// A program can get the table of a view from a selection, but a write to that table panics.
func TestWritesToAViewPanic(t *testing.T) {
	games := newGames()
	all := Select(games, "all", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	table := all.Selection().Table()
	const text = `changefeed: a write to the view "all"; write to its sources`
	for _, write := range []func(){
		func() { _, _ = table.Insert(game{ID: 1}) },
		func() { _, _ = table.Delete(1) },
		func() { _ = table.Restore(Past[game]{}) },
		func() { _ = table.Apply(HistoryID{}) },
		func() {
			_ = Transact(func(tx *Tx) error { _, err := table.In(tx).Upsert(game{ID: 1}); return err }, games)
		},
		func() { _ = Transact(func(tx *Tx) error { return table.In(tx).Reset(Past[game]{}) }, table) },
	} {
		require.PanicsWithValue(t, text, write)
	}
	must[game](t)(games.Insert(game{ID: 1}))
	require.Equal(t, 1, all.Len())
}
