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
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// "each can be read (All, Len)": the rows that belong to it, each once, in the order
// of the keys or of value and key; Backward is the opposite. Keys that are followed
// and not there are no rows.
func TestSelectionsReadTheirRows(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000} {
		for _, followed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d rows, followed=%t", n, followed), func(t *testing.T) {
				r, b := newRand(t), newBoard()
				var feeds []Stream[Change[game]]
				if followed {
					for id := -3; id < 2*n+3; id++ {
						feeds = append(feeds, b.Row(id).Changes(t.Context()))
					}
				}
				var all []game
				for _, id := range r.Perm(2 * n)[:n] { // half of the keys are not there
					g := game{ID: id, Player: []string{"", "Ann", "Bob", "Eve"}[r.IntN(4)], Score: r.IntN(30)}
					all = append(all, g)
					must[game](t)(b.Insert(g))
				}
				for _, test := range boardSelections {
					want := slices.DeleteFunc(slices.Clone(all), func(g game) bool { return !test.keep(&g) })
					slices.SortFunc(want, test.order)
					if len(want) == 0 {
						want = nil
					}
					s := test.of(b)
					require.Equal(t, want, rowsOf(t, s.All()), test.name)
					require.Equal(t, len(want), s.Len(), test.name)
					slices.Reverse(want)
					require.Equal(t, want, rowsOf(t, s.Backward()), test.name)

					for _, seq := range []iter.Seq2[int, game]{s.All(), s.Backward()} {
						for range 2 { // a sequence can be ranged again, also after a break
							seen := 0
							for range seq {
								if seen++; seen == 40 {
									break
								}
							}
							require.Equal(t, min(40, len(want)), seen, test.name)
						}
					}
				}
				runtime.KeepAlive(feeds)
			})
		}
	}
}

// "All takes time in proportion to the rows selected, and to the logarithm of the
// number of all": followed keys that are not there, and not in the range, cost
// nothing, nor do the rows beyond it.
func TestSelectionsDoNotWalkBeyondTheirEnd(t *testing.T) {
	compared := 0
	games := NewTableFunc("games", func(g *game) int { return g.ID }, func(a, b int) int { compared++; return cmp.Compare(a, b) })
	var feeds []Stream[Change[game]]
	for id := range 3000 {
		if id%1000 == 0 {
			must[game](t)(games.Insert(game{ID: id}))
		} else if id > 1000 {
			feeds = append(feeds, games.Row(id).Changes(t.Context()))
		}
	}
	for _, test := range []struct {
		name string
		read func()
	}{
		{"All", func() { require.Len(t, rowsOf(t, games.Range(990, 1001).All()), 1) }},
		{"Backward", func() { require.Len(t, rowsOf(t, games.Range(1995, 2001).Backward()), 1) }},
		{"Len", func() { require.Equal(t, 1, games.Range(990, 1001).Len()) }},
	} {
		compared = 0
		test.read()
		require.Less(t, compared, 200, test.name)
	}
	runtime.KeepAlive(feeds)
}

// Float keys and bounds: NaN is the lowest, 0 and -0 are one.
func TestSelectionsOfFloatKeys(t *testing.T) {
	type point struct{ X float64 }
	points := NewTable("points", func(p *point) float64 { return p.X })
	nan, inf, minus0 := math.NaN(), math.Inf(1), math.Copysign(0, -1)
	for _, x := range []float64{1, nan, minus0, -inf, inf, 2} {
		must[point](t)(points.Insert(point{x}))
	}
	for name, test := range map[string]struct {
		s    Selection[float64, point]
		want []float64
	}{
		"Row(NaN)":        {points.Row(nan), []float64{nan}},
		"Row(0)":          {points.Row(0), []float64{minus0}},
		"Range(NaN, 0)":   {points.Range(nan, 0), []float64{nan, -inf}},
		"Range(0, NaN)":   {points.Range(0, nan), nil},
		"Range(NaN, NaN)": {points.Range(nan, nan), nil},
		"Range(-0, 2)":    {points.Range(minus0, 2), []float64{minus0, 1}},
		"Range(-0, 0)":    {points.Range(minus0, 0), nil},
		"From(NaN)":       {points.From(nan), []float64{nan, -inf, minus0, 1, 2, inf}},
		"From(0)":         {points.From(0), []float64{minus0, 1, 2, inf}},
		"From(Inf)":       {points.From(inf), []float64{inf}},
	} {
		var forward, backward []float64
		for x := range test.s.All() {
			forward = append(forward, x)
		}
		for x := range test.s.Backward() {
			backward = append(backward, x)
		}
		slices.Reverse(backward)
		equal := func(a, b float64) bool { return cmp.Compare(a, b) == 0 }
		require.True(t, slices.EqualFunc(test.want, forward, equal), "%s: %v", name, forward)
		require.True(t, slices.EqualFunc(test.want, backward, equal), "%s: %v", name, backward)
		require.Equal(t, len(test.want), test.s.Len(), name)
	}

	feed := points.Row(nan).Changes(t.Context(), Poll(nil))
	zero := points.Range(0, 1).Changes(t.Context(), Poll(nil))
	must[point](t)(points.Delete(nan))
	must[point](t)(points.Delete(0))
	must[point](t)(points.Insert(point{minus0}))
	require.Equal(t, []Kind{Delete}, kindsOf(feed))
	require.Equal(t, []Kind{Delete, Insert}, kindsOf(zero))
}

// kindsOf returns the kinds of the changes that a stream that polls has.
func kindsOf[V any](s Stream[Change[V]]) (kinds []Kind) {
	for c, err := range s {
		if err != nil {
			return append(kinds, None)
		}
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

type selUser struct{ Name, Mail string }

// newUsers returns a table in the order of names in lower case, in which Bob and BOB
// are one.
func newUsers() *Table[string, selUser] {
	return NewTableFunc("users", func(u *selUser) string { return u.Name },
		func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
}

// Keys of NewTableFunc: the selections go by compare, and show the key as it is in the
// row written last.
func TestSelectionsOfNewTableFunc(t *testing.T) {
	users := newUsers()
	mails := NewIndex(users, "mail", func(u *selUser) string { return u.Mail })
	feeds := map[string]Stream[Change[selUser]]{}
	for name, s := range map[string]Selection[string, selUser]{
		"Row": users.Row("bOB"), "Range": users.Range("B", "c"), "From": users.From("bob"), "mail": mails.Equal("x"),
	} {
		feeds[name] = s.Changes(t.Context(), Poll(nil))
	}
	keys := func(s Selection[string, selUser]) (keys []string) {
		for key, u := range s.All() {
			require.Equal(t, u.Name, key)
			keys = append(keys, key)
		}
		var backward []string
		for key := range s.Backward() {
			backward = append(backward, key)
		}
		slices.Reverse(backward)
		require.Equal(t, keys, backward)
		return keys
	}
	require.Empty(t, keys(users.Row("Bob")))
	must[selUser](t)(users.Insert(selUser{"Bob", "x"}))
	must[selUser](t)(users.Insert(selUser{"ann", "x"}))
	must[selUser](t)(users.Insert(selUser{"Carl", "y"}))
	require.Equal(t, []string{"Bob"}, keys(users.Row("BOB")))
	require.Equal(t, []string{"Bob"}, keys(users.Range("B", "c")))
	require.Equal(t, []string{"Bob", "Carl"}, keys(users.From("BOB")))
	require.Equal(t, []string{"ann", "Bob"}, keys(mails.Equal("x")))
	must[selUser](t)(users.Upsert(selUser{"BOB", "x"}))
	require.Equal(t, []string{"BOB"}, keys(users.Row("bob")))
	require.Equal(t, []string{"BOB"}, keys(users.Range("b", "C")))
	require.Equal(t, []string{"ann", "BOB"}, keys(mails.Equal("x")))
	must[selUser](t)(users.Delete("boB"))
	require.Empty(t, keys(users.Row("bob")))
	require.Equal(t, []string{"ann"}, keys(mails.Equal("x")))
	for name, want := range map[string][]Kind{
		"Row": {Insert, Update, Delete}, "Range": {Insert, Update, Delete},
		"From": {Insert, Insert, Update, Delete}, "mail": {Insert, Insert, Update, Delete},
	} {
		require.Equal(t, want, kindsOf(feeds[name]), name)
	}
}

// "snapshot taken when a range begins", of each selection; "no lock is held while the
// loop body runs: the body may write to the same table".
func TestARangeOfASelectionSeesItAsItWas(t *testing.T) {
	for _, test := range boardSelections {
		for name, walk := range map[string]func(Selection[int, game]) iter.Seq2[int, game]{
			"All": Selection[int, game].All, "Backward": Selection[int, game].Backward,
		} {
			t.Run(test.name+" "+name, func(t *testing.T) {
				b := newBoard()
				seq := walk(test.of(b))
				for id := range 200 {
					must[game](t)(b.Insert(game{ID: id, Player: []string{"Bob", "Ann"}[id/2%2], Score: id % 17}))
				}
				want := rowsOf(t, seq)
				var got []game
				for _, g := range seq {
					got = append(got, g)
					for i := range 5 { // rows come, go and change places, before and behind
						id := (g.ID + i*i*i + 200 - 3) % 200
						must[game](t)(b.Upsert(game{ID: id, Player: []string{"Bob", "Ann"}[i%2], Score: 5 + 5*i}))
					}
					must[game](t)(b.Upsert(game{ID: 200 + g.ID, Player: "Bob", Score: 15}))
					if len(got) == len(want)-1 {
						b.Drop()
						break
					}
					must[game](t)(b.Delete(g.ID))
				}
				require.Equal(t, want[:len(got)], got)
				require.GreaterOrEqual(t, len(got)+1, len(want))
			})
		}
	}
}

// selWord puts down in a word what a selection's loop was handed: 3+1 is the change
// numbered 3, by which row 1 came; ~ is for an update and - for a row that left, =1 for
// an initial row, and ready3 for Ready.
func selWord(c Change[game], err error) string {
	if err != nil {
		return wordOf(c, err)
	}
	switch {
	case c.Kind == Insert && c.Old == nil && c.New != nil:
		return fmt.Sprintf("%d+%d", c.Seq, c.New.ID)
	case c.Kind == Update && c.Old != nil && c.New != nil && c.Old.ID == c.New.ID:
		return fmt.Sprintf("%d~%d", c.Seq, c.New.ID)
	case c.Kind == Delete && c.Old != nil && c.New == nil:
		return fmt.Sprintf("%d-%d", c.Seq, c.Old.ID)
	case c.Kind == Initial && c.Old == nil && c.New != nil && c.Seq == 0:
		return fmt.Sprintf("=%d", c.New.ID)
	case c.Kind == Ready && c.Old == nil && c.New == nil:
		return fmt.Sprintf("ready%d", c.Seq)
	}
	return fmt.Sprintf("a change that cannot be: %v", c)
}

// selTold puts down what a stream that polls, or that ends, has.
func selTold(s Stream[Change[game]]) string {
	var words []string
	for c, err := range s {
		words = append(words, selWord(c, err))
	}
	return strings.Join(words, " ")
}

// batchTold is selTold for batches.
func batchTold(s Stream[[]Change[game]]) string {
	var words []string
	for batch, err := range s {
		if err != nil {
			words = append(words, wordOf(Change[game]{}, err))
		}
		for _, c := range batch {
			words = append(words, selWord(c, nil))
		}
	}
	return strings.Join(words, " ")
}

// "A selection's feed is about the selection: a row that comes into it is an Insert
// (Old nil), one that leaves it a Delete (New nil), whatever the write was"; Seq is
// always the write's, and the rows are the stored ones (T3).
func TestRowsEnterAndLeaveSelections(t *testing.T) {
	writes := []func(w board) (Change[game], error){
		func(w board) (Change[game], error) { return w.Insert(game{1, "Bob", 5}) },
		func(w board) (Change[game], error) { return w.Insert(game{2, "Ann", 10}) },
		func(w board) (Change[game], error) { return w.Update(1, func(g *game) { g.Score = 15 }) },
		func(w board) (Change[game], error) { return w.Update(1, func(g *game) { g.Player = "Ann" }) },
		func(w board) (Change[game], error) { return w.Upsert(game{2, "Ann", 1}) },
		func(w board) (Change[game], error) { return w.Replace(game{1, "Bob", 15}) },
		func(w board) (Change[game], error) { return w.Delete(2) },
		func(w board) (Change[game], error) {
			return w.Compute(2, func(*game) *game { return &game{2, "Bob", 25} })
		},
		func(w board) (Change[game], error) { return w.Delete(1) },
	}
	const row1, row2 = "1+1 3~1 4~1 6~1 9-1", "2+2 5~2 7-2 8+2"
	tests := map[string]string{
		"Table":  "1+1 2+2 3~1 4~1 5~2 6~1 7-2 8+2 9-1",
		"Row(1)": row1, "Row(5)": "", "Row(-1)": "",
		"Range(1, 5)":      "1+1 2+2 3~1 4~1 5~2 6~1 7-2 8+2 9-1",
		"Range of all":     "1+1 2+2 3~1 4~1 5~2 6~1 7-2 8+2 9-1",
		"Range before all": "", "Range after all": "", "empty Range": "", "inverted Range": "",
		"From(5)": "", "From after all": "", "From before all": "1+1 2+2 3~1 4~1 5~2 6~1 7-2 8+2 9-1",
		"Where":         "2+2 3+1 4~1 5-2 6~1 8+2 9-1",
		"Where nothing": "",
		"Where chain":   "3+1 4-1 6+1 9-1",
		"Row(1).Where":  "3+1 4~1 6~1 9-1",
		"From(2).Where": "8+2",
		"player Bob":    "1+1 3~1 4-1 6+1 8+2 9-1", "player nobody": "",
		"players A to B": "2+2 4+1 5~2 6-1 7-2", "players from B": "1+1 3~1 4-1 6+1 8+2 9-1",
		"score 15":       "3+1 4~1 6~1 9-1",
		"scores 0 to 10": "1+1 3-1 5+2 7-2", "scores empty": "", "scores inverted": "",
		"scores from 10, Bob's": "3+1 4-1 6+1 8+2 9-1",
		"digit 5":               "1+1 3~1 4~1 6~1 8+2 9-1",
		"digits 1 to 5":         "2+2 3+1 4~1 5~2 6~1 7-2 8+2 9-1",
		"digits from 0":         "1+1 2+2 3~1 4~1 5~2 6~1 7-2 8+2 9-1",
		"digits from 9":         "",
	}
	require.Len(t, boardSelections, len(tests))
	for _, test := range boardSelections {
		t.Run(test.name, func(t *testing.T) {
			want, ok := tests[test.name]
			require.True(t, ok)
			b := newBoard()
			b.Retain(100)
			s := test.of(b)
			poll := Poll(nil)
			var made []Change[game]
			sameRows := func(c Change[game], err error) {
				require.NoError(t, err)
				if c.Old != nil {
					require.Same(t, made[c.Seq-1].Old, c.Old)
				}
				if c.New != nil {
					require.Same(t, made[c.Seq-1].New, c.New)
				}
			}
			plain, atOnce := s.Changes(t.Context(), poll), s.Changes(t.Context(), poll)
			squashed, batches := s.Changes(t.Context(), Squash(0), poll), s.Batches(t.Context(), 2, poll)
			initial := s.Changes(t.Context(), IncludeInitial(), poll)
			require.Equal(t, "ready0", selTold(initial))
			var words, squashes []string
			for _, write := range writes {
				made = append(made, must[game](t)(write(b)))
				for c, err := range atOnce {
					sameRows(c, err)
					words = append(words, selWord(c, err))
				}
				for c, err := range squashed {
					sameRows(c, err)
					squashes = append(squashes, selWord(c, err))
				}
			}
			require.Equal(t, want, strings.Join(words, " "))
			require.Equal(t, want, strings.Join(squashes, " "))
			require.Equal(t, want, selTold(plain), "as a backlog")
			require.Equal(t, want, batchTold(batches))
			require.Equal(t, want, selTold(initial))
			require.Equal(t, want, selTold(s.Changes(t.Context(), After(0), poll)), "from the table's history")
			require.Equal(t, want, batchTold(s.Batches(t.Context(), 3, After(0), poll)))
			b.Drop()
			require.Equal(t, "dropped", selTold(plain))
		})
	}
}

// Row 2's feed, which boardSelections has not: it comes, goes, and comes again. "A Row
// feed may be opened on a missing key; it sees the row come and go."
func TestARowFeedOnAMissingKey(t *testing.T) {
	games := newGames()
	feed := games.Row(2).Changes(t.Context(), Poll(nil))
	initial := games.Row(2).Changes(t.Context(), Poll(nil), IncludeInitial())
	require.Equal(t, "", selTold(feed))
	require.Equal(t, "ready0", selTold(initial), "Row on a missing key: only Ready")
	_, ok := games.Get(2)
	require.False(t, ok)
	require.Zero(t, games.Len())
	require.Empty(t, rowsOf(t, games.All()))
	require.Empty(t, rowsOf(t, games.Backward()))
	for _, write := range []func() (Change[game], error){
		func() (Change[game], error) { return games.Delete(2) },
		func() (Change[game], error) { return games.Replace(game{ID: 2}) },
		func() (Change[game], error) { return games.Update(2, func(*game) { t.Error("edit was called") }) },
	} {
		_, err := write()
		require.ErrorIs(t, err, ErrNotFound)
	}
	for round := range 3 {
		seq := 3*round + 1
		must[game](t)(games.Insert(game{ID: 2}))
		_, err := games.Insert(game{ID: 2})
		require.ErrorIs(t, err, ErrDuplicateKey)
		must[game](t)(games.Upsert(game{ID: 2, Score: 1}))
		require.Equal(t, 1, games.Len())
		require.Len(t, rowsOf(t, games.All()), 1)
		must[game](t)(games.Delete(2))
		require.Zero(t, games.Len())
		want := fmt.Sprintf("%d+2 %d~2 %d-2", seq, seq+1, seq+2)
		require.Equal(t, want, selTold(feed))
		require.Equal(t, want, selTold(initial))
	}
	require.Equal(t, None, must[game](t)(games.Compute(2, func(old *game) *game { return old })).Kind)
	require.Equal(t, "", selTold(feed))
}

// The law of selections: initial rows folded with the changes are the selection as it
// is, whatever was written and whatever the selection (F1, F2); Old is what the feed
// said last (T3).
func TestFoldedFeedsAreTheirSelections(t *testing.T) {
	r, reached := newRand(t), make(map[string]int)
	b := newBoard()
	type follower struct {
		name     string
		squashed bool
		s        Selection[int, game]
		stream   Stream[Change[game]]
		rows     map[int]*game
	}
	var followers []*follower
	begin := func() {
		for _, test := range boardSelections {
			for name, opt := range map[string]FeedOption{"": Buffer(1000), ", squashed": Squash(0)} {
				s := test.of(b)
				followers = append(followers, &follower{
					test.name + name, name != "", s, s.Changes(t.Context(), opt, IncludeInitial(), Poll(nil)), make(map[int]*game),
				})
			}
		}
	}
	begin()
	for step := range 2000 {
		id := r.IntN(8)
		row := game{ID: id, Player: []string{"", "Ann", "Bob", "Eve"}[r.IntN(4)], Score: r.IntN(3) * r.IntN(20)}
		switch r.IntN(4) {
		case 0:
			_, _ = b.Delete(id)
		case 1:
			_, _ = b.Update(id, func(g *game) { g.Score = row.Score })
		default:
			_, _ = b.Upsert(row)
		}
		if step == 1000 {
			begin() // some of them with rows that are there
		}
		if r.IntN(5) > 0 {
			continue
		}
		for _, f := range followers {
			last := uint64(0)
			for c, err := range f.stream {
				require.NoError(t, err, f.name)
				reached[c.Kind.String()]++
				if c.Kind == Ready {
					continue
				}
				require.Equal(t, f.rows[c.Row().ID], c.Old, "%s: %s", f.name, selWord(c, err))
				if !f.squashed { // which leaves out a row that became an equal one
					require.True(t, c.Old == f.rows[c.Row().ID], "%s: %s", f.name, selWord(c, err))
				}
				require.True(t, c.Seq == 0 || c.Seq > last, "F1")
				last = c.Seq
				if f.rows[c.Row().ID] = c.New; c.New == nil {
					delete(f.rows, c.Row().ID)
				}
			}
			want := make(map[int]game)
			maps.Insert(want, f.s.All())
			got := make(map[int]game)
			for id, g := range f.rows {
				got[id] = *g
			}
			require.Equal(t, want, got, f.name)
		}
	}
	requireOutcomes(t, reached, "insert", "update", "delete", "initial", "ready")
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

// "A write to one key wakes nobody else": those who wait in another scope are not
// even run.
func TestAWriteWakesNobodyElse(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		b := newBoard()
		must[game](t)(b.Insert(game{1, "Bob", 5}))
		ctx, cancel := context.WithCancel(t.Context())
		type waiter struct {
			name     string
			follower *follower
			looked   *atomic.Int64
		}
		var waiters []waiter
		for name, s := range map[string]Selection[int, game]{
			"Row(1)": b.Row(1), "Row(2)": b.Row(2), "Range(1, 2)": b.Range(1, 2), "Range(2, 3)": b.Range(2, 3), "From(2)": b.From(2),
			"Bob": b.players.Equal("Bob"), "Ann": b.players.Equal("Ann"), "5 to 6": b.scores.Range(5, 6), "6 on": b.scores.From(6),
		} {
			for kind, opts := range map[string][]FeedOption{"": nil, ", squashed": {Squash(0)}, ", initial": {IncludeInitial()}} {
				looked := new(atomic.Int64)
				counted := countedContext{ctx, looked}
				waiters = append(waiters, waiter{name + kind, follow(s.Changes(counted, opts...), nil), looked})
			}
		}
		synctest.Wait()
		parked := func() (parked int64) {
			rings := make(map[*ring[Change[game]]]bool)
			for _, s := range b.feeds.all() {
				if r := &s.scope.ring; !rings[r] {
					parked += r.parked.Load()
				}
				rings[&s.scope.ring] = true
			}
			return parked
		}
		require.Equal(t, int64(len(waiters)*2/3), parked(), "all but the squashed")
		for seq, step := range []struct {
			write func() (Change[game], error)
			wakes string
		}{
			{func() (Change[game], error) { return b.Insert(game{3, "Eve", 0}) }, "From(2)"},
			{func() (Change[game], error) { return b.Upsert(game{1, "Bob", 7}) }, "Row(1) Range(1, 2) Bob 5 to 6 6 on"},
			{func() (Change[game], error) { return b.Upsert(game{1, "Zoe", 7}) }, "Row(1) Range(1, 2) Bob 6 on"},
			{func() (Change[game], error) { return b.Insert(game{2, "Ann", 0}) }, "Row(2) Range(2, 3) From(2) Ann"},
			{func() (Change[game], error) { return b.Delete(3) }, "From(2)"},
			{func() (Change[game], error) { return b.Upsert(game{2, "Ann", 0}) }, ""}, // no change
		} {
			before := make([]int64, len(waiters))
			for i, w := range waiters {
				before[i] = w.looked.Load()
			}
			must[game](t)(step.write())
			synctest.Wait()
			for i, w := range waiters {
				name, _, _ := strings.Cut(w.name, ", s")
				name, _, _ = strings.Cut(name, ", i")
				if strings.Contains(step.wakes, name) {
					require.Greater(t, w.looked.Load(), before[i], "%s, write %d", w.name, seq)
					require.True(t, strings.HasSuffix(w.follower.String(), fmt.Sprint(seq+2)), "%s: %s", w.name, w.follower)
				} else {
					require.Equal(t, before[i], w.looked.Load(), "%s, write %d", w.name, seq)
				}
			}
			require.Equal(t, int64(len(waiters)*2/3), parked())
		}
		cancel()
		synctest.Wait()
		require.Zero(t, parked())
		for _, w := range waiters {
			require.True(t, w.follower.ended)
		}
	})
}

// "predicates run on the reader's side, on snapshots, never under a lock": one may read
// and write the table, and those of feeds never run in a write.
func TestPredicatesRunOnTheReadersSide(t *testing.T) {
	games := newGames()
	calls := 0
	keep := func(g *game) bool {
		calls++
		require.True(t, games.mu.TryLock(), "no lock is held")
		games.mu.Unlock()
		must[game](t)(games.Upsert(game{ID: 100, Score: calls}))
		return isOddGame(g)
	}
	s := games.Range(0, 10).Where(keep)
	feeds := []Stream[Change[game]]{
		s.Changes(t.Context(), Poll(nil)),
		s.Changes(t.Context(), Squash(0), Poll(nil)),
		s.Changes(t.Context(), IncludeInitial(), Poll(nil)),
	}
	batches := s.Batches(t.Context(), 2, Poll(nil))
	for id := range 4 {
		must[game](t)(games.Insert(game{ID: id}))
	}
	require.Zero(t, calls, "in a write, or in Changes")
	require.Len(t, rowsOf(t, s.All()), 2)
	require.Len(t, rowsOf(t, s.Backward()), 2)
	require.Equal(t, 2, s.Len())
	for _, want := range []string{"2+1 4+3", "2+1 4+3", "ready0 2+1 4+3"} {
		require.Equal(t, want, selTold(feeds[0]))
		feeds = feeds[1:]
	}
	require.Equal(t, "2+1 4+3", batchTold(batches))
	require.Equal(t, 4*(3+4), calls, "for each row or change once")
}

// A predicate that panics leaves the loop as the loop's body would: the panic reaches
// the caller, no lock is held, and the next range goes on after the row or change that
// it was asked about; nothing else is lost.
func TestAPredicateThatPanics(t *testing.T) {
	type selection = Selection[int, game]
	for _, test := range []struct {
		name    string
		opts    []FeedOption
		batches bool
		want    string
	}{
		{"Changes", nil, false, "5+1 | 7+3 8+4 dropped"},
		{"After", []FeedOption{After(4)}, false, "5+1 | 7+3 8+4 dropped"},
		{"IncludeInitial", []FeedOption{IncludeInitial()}, false, "=11 | =13 =14 ready4 5+1 | 7+3 8+4 dropped"},
		{"Squash", []FeedOption{Squash(0)}, false, "5+1 | 7+3 8+4 dropped"},
		{"Batches", nil, true, "| 5+1 7+3 8+4 dropped"},
		{"Batches and IncludeInitial", []FeedOption{IncludeInitial()}, true, "| | =11 =13 =14 ready4 5+1 7+3 8+4 dropped"},
		{"Batches and Squash", []FeedOption{Squash(0)}, true, "| 5+1 7+3 8+4 dropped"},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			games.Retain(100)
			for id := range 4 {
				must[game](t)(games.Insert(game{ID: 11 + id}))
			}
			s := games.From(0).Where(func(g *game) bool {
				if g.ID%10 == 2 {
					panic("about 2")
				}
				return true
			})
			var read func(word func(c Change[game], err error))
			if test.batches {
				batches := s.Batches(t.Context(), 100, test.opts...)
				read = func(word func(c Change[game], err error)) {
					for batch, err := range batches {
						for _, c := range batch {
							word(c, nil)
						}
						if err != nil {
							word(Change[game]{}, err)
						}
					}
				}
			} else {
				stream := s.Changes(t.Context(), test.opts...)
				read = func(word func(c Change[game], err error)) {
					for c, err := range stream {
						word(c, err)
					}
				}
			}
			for id := range 4 {
				must[game](t)(games.Insert(game{ID: 1 + id}))
			}
			games.Drop()
			var words []string
			for range 3 {
				func() {
					defer func() {
						if v := recover(); v != nil {
							require.Equal(t, "about 2", v)
							words = append(words, "|")
						}
					}()
					read(func(c Change[game], err error) { words = append(words, selWord(c, err)) })
				}()
				require.True(t, games.mu.TryLock(), "the lock is free")
				games.mu.Unlock()
				if words[len(words)-1] == "dropped" {
					break
				}
			}
			require.Equal(t, test.want, strings.Join(words, " "))
			require.Empty(t, games.Feeds())
		})
	}

	games := newGames()
	for id := range 3 {
		must[game](t)(games.Insert(game{ID: id}))
	}
	s := games.Where(func(g *game) bool { return g.ID != 1 || g.Score != 0 || panicWith("about 1") })
	for name, read := range map[string]func(s selection) int{
		"All":      func(s selection) int { return len(rowsOf(t, s.All())) },
		"Backward": func(s selection) int { return len(rowsOf(t, s.Backward())) },
		"Len":      selection.Len,
	} {
		must[game](t)(games.Upsert(game{ID: 1}))
		before := stateOf(games)
		require.PanicsWithValue(t, "about 1", func() { read(s) }, name)
		requireState(t, before, games)
		must[game](t)(games.Upsert(game{ID: 1, Score: 1}))
		require.Equal(t, 3, read(s), name)
	}
}

func panicWith(v any) bool { panic(v) }

// "Buffer, Buffered, Delivered and Skipped count before the predicate"
func TestAFeedOfWhereCountsBeforeThePredicate(t *testing.T) {
	games := newGames()
	feed := games.Range(0, 10).Where(isOddGame).Changes(t.Context(), Buffer(4), Poll(nil))
	for id := range 10 {
		must[game](t)(games.Insert(game{ID: id}))
		must[game](t)(games.Insert(game{ID: 100 + id}))
	}
	require.Equal(t, FeedInfo{Buffered: 4, Capacity: 4, Skipped: 6}, games.Feeds()[0])
	require.Equal(t, "skip6(1-12) 15+7 19+9", selTold(feed))
	require.Equal(t, FeedInfo{Capacity: 4, Delivered: 4, Skipped: 6, Seq: 19}, games.Feeds()[0])
	runtime.KeepAlive(feed) // or the collector ends it before Feeds
}

// Reads of a selection of a dropped table find it empty; its feeds yield
// ErrTableDropped alone, whenever the selection was made, and leave nothing behind.
func TestSelectionsOfADroppedTable(t *testing.T) {
	for _, test := range boardSelections {
		t.Run(test.name, func(t *testing.T) {
			b := newBoard()
			must[game](t)(b.Insert(game{1, "Bob", 15}))
			must[game](t)(b.Insert(game{5, "Ann", 5}))
			earlier := test.of(b)
			feed := earlier.Changes(t.Context(), IncludeInitial())
			initial := earlier.Len()
			for range 2 {
				b.Drop()
				for _, s := range []Selection[int, game]{earlier, test.of(b)} {
					require.Empty(t, rowsOf(t, s.All()))
					require.Empty(t, rowsOf(t, s.Backward()))
					require.Zero(t, s.Len())
					for _, opts := range [][]FeedOption{nil, {IncludeInitial()}, {Squash(0)}, {After(0)}, {Poll(nil)}, {OnOverflow(Resync)}} {
						stream := s.Changes(t.Context(), opts...)
						require.Equal(t, "dropped", selTold(stream))
						require.Equal(t, "dropped", selTold(stream), "the only pair of every later range")
						require.Equal(t, "dropped", batchTold(s.Batches(t.Context(), 1, opts...)))
					}
				}
			}
			require.Len(t, b.Feeds(), 1)
			pairs := take(feed, -1)
			require.Len(t, pairs, initial+2, "a feed that was there has its rows, Ready, and the end")
			require.Equal(t, Ready, pairs[initial].v.Kind)
			require.ErrorIs(t, pairs[initial+1].err, ErrTableDropped)
			require.Empty(t, b.Feeds())
			require.Nil(t, b.ranges.root)
			require.Nil(t, b.players.scopes.root)
			require.Nil(t, b.scores.scopes.root)
			require.Zero(t, b.rows.tree.Len())
		})
	}
}

// "What no run-time input can cause panics and says what to do"
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
	require.Zero(t, games.rows.tree.Len(), "to make a selection does nothing")
	require.True(t, games.mu.TryLock())
}

// A Row feed's scope is found by the write's key: what is written to other keys is not
// even put into it, so that it holds nothing and its buffer does not overflow.
func TestAWriteGoesOnlyToItsOwnScopes(t *testing.T) {
	r, b := rand.New(rand.NewPCG(1, 2)), newBoard()
	must[game](t)(b.Insert(game{1, "Bob", 5}))
	feed := b.Row(1).Changes(t.Context(), Buffer(2), Poll(nil))
	bobs := b.players.Equal("Bob").Changes(t.Context(), Buffer(2), Poll(nil))
	for range 1000 {
		must[game](t)(b.Upsert(game{2 + r.IntN(50), "Ann", r.IntN(100)}))
	}
	for _, info := range b.Feeds() {
		require.Equal(t, FeedInfo{Capacity: 2, Seq: 1}, info)
	}
	last := must[game](t)(b.Upsert(game{1, "Bob", 6})).Seq
	require.Equal(t, fmt.Sprintf("%d~1", last), selTold(feed))
	require.Equal(t, fmt.Sprintf("%d~1", last), selTold(bobs))
}
