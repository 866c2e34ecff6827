package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"github.com/stretchr/testify/require"
)

// scopeBounds are bounds of intervals, and elements: few, so that intervals share
// them. NaN comes first, and 0 and -0 are one, as in cmp.Compare.
var scopeBounds = []float64{
	math.NaN(), math.Inf(-1), -1, math.Copysign(0, -1), 0, 1, 2, 3, 4, math.Inf(1),
}

func randomInterval(r *rand.Rand) interval[float64] {
	bound := func() float64 { return scopeBounds[r.IntN(len(scopeBounds))] }
	return interval[float64]{from: bound(), to: bound(), extent: []extent{onwards, between, point}[r.IntN(3)]}
}

// naiveContains reports whether an interval contains b, in the words of its extents.
func naiveContains(iv interval[float64], b float64) bool {
	from, to := cmp.Compare(b, iv.from), cmp.Compare(b, iv.to)
	return [...]bool{onwards: from >= 0, between: from >= 0 && to < 0, point: from == 0}[iv.extent]
}

func sameInterval(a, b interval[float64]) bool {
	return a.extent == b.extent && cmp.Compare(a.from, b.from) == 0 && (a.extent != between || cmp.Compare(a.to, b.to) == 0)
}

// check requires that the tree below n is in order, a heap of priorities, and knows its ends.
func (t *intervals[B, K, V]) check(tb testing.TB, n *intervalNode[B, K, V]) (nodes []*intervalNode[B, K, V]) {
	if n == nil {
		return nil
	}
	furthest := &n.interval
	nodes = slices.Concat(t.check(tb, n.left), []*intervalNode[B, K, V]{n}, t.check(tb, n.right))
	for i, below := range nodes {
		require.LessOrEqual(tb, below.priority, n.priority, "no lower one is above a higher one")
		require.True(tb, i == 0 || t.compare(&nodes[i-1].interval, &below.interval) < 0, "in order, each once")
		if compareEnds(furthest, &below.interval, t.order) < 0 {
			furthest = &below.interval
		}
	}
	require.Zero(tb, compareEnds(furthest, n.furthest, t.order), "the furthest end")
	return nodes
}

// Intervals beside a plain list: whatever scopes come and go, the scopes of the intervals
// that contain an element are found, each once, and no others. The priorities decide on
// the tree's shape, and on nothing else.
func TestIntervalsAgainstAList(t *testing.T) {
	t.Parallel()
	for name, priority := range map[string]func(r *rand.Rand, n int) uint64{
		"as scope draws them": nil,
		"few":                 func(r *rand.Rand, _ int) uint64 { return r.Uint64N(3) },
		"ascending":           func(_ *rand.Rand, n int) uint64 { return uint64(n) },
	} {
		t.Run(name, func(t *testing.T) {
			r, reached := newRand(t), make(map[string]int)
			tree := intervals[float64, int, game]{order: cmp.Compare[float64]}
			type listed struct {
				interval interval[float64]
				scope    *scope[int, game]
			}
			var list []listed
			for step := range 3000 {
				iv := randomInterval(r)
				at := func() int { return slices.IndexFunc(list, func(l listed) bool { return sameInterval(iv, l.interval) }) }
				switch limit := []int{60, 5}[step/500%2]; {
				case r.IntN(limit) >= len(list): // come more often while there are few
					i := at()
					if i < 0 && priority != nil {
						n := &intervalNode[float64, int, game]{interval: iv, scope: newScope[int](seqOfGame), priority: priority(r, step)}
						n.furthest = &n.interval
						tree.root = tree.insert(tree.root, n)
						i, list = len(list), append(list, listed{iv, n.scope})
					}
					if s := tree.scope(&iv); i < 0 {
						list = append(list, listed{iv, s})
					} else {
						require.Same(t, list[i].scope, s)
						reached["there already"]++
					}
				case r.IntN(4) > 0:
					iv = list[r.IntN(len(list))].interval
					fallthrough
				default:
					tree.remove(&iv)
					if i := at(); i >= 0 {
						list = slices.Delete(list, i, i+1)
						reached[fmt.Sprint("removed, and then empty: ", len(list) == 0)]++
					} else {
						reached["removed what was not there"]++
					}
				}

				nodes := tree.check(t, tree.root)
				require.Len(t, nodes, len(list))
				for _, b := range scopeBounds {
					found := make(map[*scope[int, game]]bool)
					tree.find(b, func(s *scope[int, game]) {
						require.False(t, found[s], "each once")
						found[s] = true
					})
					for _, l := range list {
						require.Equal(t, naiveContains(l.interval, b), found[l.scope], "%v in %v", b, l.interval)
						require.Equal(t, found[l.scope], l.interval.contains(b, cmp.Compare[float64]))
						delete(found, l.scope)
					}
					require.Empty(t, found)
				}
			}
			requireOutcomes(t, reached, "there already", "removed, and then empty: true", "removed, and then empty: false", "removed what was not there")
		})
	}
}

// "The lookup takes time in the logarithm of the number of ranges and values", and in
// proportion to the number of those found.
func TestIntervalsAreFoundAmongMany(t *testing.T) {
	compared := 0
	tree := intervals[int, int, game]{order: func(a, b int) int { compared++; return cmp.Compare(a, b) }}
	const n = 10_000
	for i := range n { // in order, which would make a list of a plain tree
		tree.scope(&interval[int]{from: 10 * i, to: 10*i + 10, extent: between})
	}
	for _, wide := range []int{0, 1, 20} {
		for i := range wide {
			tree.scope(&interval[int]{from: -i, extent: onwards})
		}
		found := 0
		compared = 0
		tree.find(n*5, func(*scope[int, game]) { found++ })
		require.Equal(t, 1+wide, found)
		require.Less(t, compared, 40*(10+wide), "of %d", n)
	}
}

// requireEmpty requires that an outbox holds nothing, also not in the space that
// it leaves behind.
func (o *outbox[K, V]) requireEmpty(t *testing.T) {
	t.Helper()
	require.Zero(t, len(o.events)+len(o.rings)+len(o.touched)+len(o.started))
	for _, e := range o.events[:cap(o.events)] {
		require.True(t, e.scope == nil && e.change == Change[V]{}, "an event is held")
	}
	requireNone(t, o.rings)
	requireNone(t, o.started)
	requireNone(t, o.touched)
	require.LessOrEqual(t, cap(o.events), maxRecycledCap, "the space of a large transaction is held")
}

// requireNone requires that a slice's array holds no pointers.
func requireNone[E any](t *testing.T, s []*E) {
	t.Helper()
	require.False(t, slices.ContainsFunc(s[:cap(s)], func(e *E) bool { return e != nil }), "%T holds a pointer", s)
}

// When a write or a transaction is over, however it ends, the outbox holds nothing of
// it, and no scope or squash is left in the middle of something.
func TestTheOutboxKeepsNothing(t *testing.T) {
	write := func(w rowWriter[game], n int) {
		for i := range n {
			must[game](t)(w.Upsert(game{ID: i % 10, Player: []string{"Bob", "Ann"}[i%2], Score: i}))
		}
	}
	transact := func(n int, want error, end func() error) func(games *Table[int, game]) {
		return func(games *Table[int, game]) {
			_, err := attempt(func() (c Change[game], err error) {
				return c, Transact(func(tx *Tx) error { write(games.In(tx), n); return end() }, games)
			})
			require.Equal(t, want, err)
		}
	}
	commit, fail := func() error { return nil }, func() error { return errOops }
	for name, do := range map[string]func(games *Table[int, game]){
		"writes": func(games *Table[int, game]) { write(games, 50) },
		"a write that fails": func(games *Table[int, game]) {
			write(games, 1)
			_, err := games.Insert(game{ID: 0})
			require.Error(t, err)
		},
		"a transaction": transact(50, nil, commit), "a large transaction": transact(5000, nil, commit),
		"a transaction that fails": transact(50, errOops, fail), "a large transaction that fails": transact(5000, errOops, fail),
		"a transaction that panics": transact(50, errOops, func() error { panic(errOops) }),
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			players := NewIndex(games, "player", func(g *game) string { return g.Player })
			var feeds []Stream[Change[game]]
			for _, s := range []Selection[int, game]{games.Selection(), games.Row(1), games.Range(0, 5), players.Equal("Bob"), players.From("A")} {
				feeds = append(feeds, s.Changes(t.Context()), s.Changes(t.Context(), Squash(0)))
			}
			do(games)
			games.outbox.requireEmpty(t)
			for _, s := range games.allSubscriptions() {
				require.False(t, s.scope.before || s.scope.after)
				if s.squash != nil {
					require.False(t, s.squash.publishing)
					require.True(t, s.squash.mu.TryLock())
					s.squash.mu.Unlock()
				}
			}
			require.Equal(t, txState[int, game]{cells: games.tx.cells[:0]}, games.tx)
			require.Empty(t, games.snapshots.open)
			runtime.KeepAlive(feeds)
		})
	}
}

// When a feed has ended, its scope is garbage: the table's outbox does not hold the scope
// of the last write.
func TestAnEndedScopeIsReleased(t *testing.T) {
	games := newGames()
	players := NewIndex(games, "player", func(g *game) string { return g.Player })
	ctx, cancel := context.WithCancel(t.Context())
	feed := players.Equal("Bob").Changes(ctx)
	held := weak.Make(games.allSubscriptions()[0].scope)
	must[game](t)(games.Insert(game{ID: 1, Player: "Bob"}))
	require.Equal(t, "+1", wordsOf(feed, 1))
	runtime.GC()
	require.NotNil(t, held.Value(), "or the test would show nothing")
	cancel()
	feed = nil
	collected(t, "the scope is held", func() bool { return held.Value() == nil })
	runtime.KeepAlive(games)
}

// publish lists each ring in which a loop waits once, whatever the number of its changes.
func TestPublishNamesEachRingOnce(t *testing.T) {
	var o outbox[int, game]
	scopes := make([]*scope[int, game], 4)
	windows := make([]window[Change[game]], len(scopes))
	for i := range scopes {
		scopes[i] = newScope[int](seqOfGame)
		scopes[i].ring.openTableLocked(&windows[i], 10)
		require.True(t, i == 1 || windows[i].arm()) // no loop waits in the second
	}
	for seq := range uint64(5) {
		for i, s := range scopes[:3] { // nothing for the last one
			o.add(s, i, Change[game]{Seq: seq + 1, Kind: Insert, New: &game{ID: i}})
			require.Zero(t, s.ring.end.Load(), "nothing is seen before it is published")
		}
	}
	w := o.publish()
	require.Equal(t, append([]*ring[Change[game]]{w.first}, w.more...), []*ring[Change[game]]{&scopes[0].ring, &scopes[2].ring})
	w.wake()
	for i, want := range []struct{ end, parked, notified int }{{5, 0, 1}, {5, 0, 0}, {5, 0, 1}, {0, 1, 0}} {
		r := &scopes[i].ring
		require.Equal(t, want, struct{ end, parked, notified int }{int(r.end.Load()), int(r.parked.Load()), len(windows[i].wakeup)})
	}
	o.requireEmpty(t)
}

// scopeParts are selections of each kind. writeAround makes at least two changes to each
// but the inverted one. The rows 1 and 2 are there at first, and 3 is not.
var scopeParts = []struct {
	name string
	of   func(b board) Selection[int, game]
}{
	{"Row", func(b board) Selection[int, game] { return b.Row(1) }},
	{"Row missing", func(b board) Selection[int, game] { return b.Row(3) }},
	{"Row leaving", func(b board) Selection[int, game] { return b.Row(2) }},
	{"Rows", func(b board) Selection[int, game] { return b.Rows(3, 1) }},
	{"Range", func(b board) Selection[int, game] { return b.Range(1, 3) }},
	{"From", func(b board) Selection[int, game] { return b.From(1) }},
	{"Index.Equal", func(b board) Selection[int, game] { return b.scores.Equal(1) }},
	{"Index.Any", func(b board) Selection[int, game] { return b.scores.Any(9, 1) }},
	{"Index.Range", func(b board) Selection[int, game] { return b.scores.Range(0, 9) }},
	{"Index.From", func(b board) Selection[int, game] { return b.scores.From(0) }},
	{"Where", func(b board) Selection[int, game] { return b.Range(1, 3).Where(always) }},
	{"inverted Range", func(b board) Selection[int, game] { return b.Range(3, 1) }},
	{"Table", func(b board) Selection[int, game] { return b.Selection() }},
}

func newScopeBoard(t *testing.T) board {
	b := newBoard()
	insertRows(t, b.Table, 1, 2)
	return b
}

// writeAround deletes row 2, and inserts row 3.
func writeAround(t *testing.T, b board) {
	for _, row := range []game{{1, "Bob", 1}, {1, "Ann", 1}, {2, "Eve", 2}, {3, "", 1}, {3, "Eve", 1}} {
		must[game](t)(b.Upsert(row))
	}
	must[game](t)(b.Delete(2))
}

// scopeOfRow returns the scope of a row, or nil. The caller holds the table's lock.
func scopeOfRow[K, V any](t *Table[K, V], key K) *scope[K, V] {
	if c := t.cellLocked(key); c != nil {
		return c.scope
	}
	return nil
}

// leftovers describes the scopes, and what belongs to them, in a table and its indexes.
func leftovers(b board) (left []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows.tree.Ascend(func(e entry[int]) bool {
		if c := (*cell[int, game])(e.cell); c.row.Load() == nil || c.scope != nil {
			left = append(left, fmt.Sprintf("a cell for %d: %+v", e.key, c))
		}
		return true
	})
	for name, is := range map[string]bool{
		"a scope of a range":        b.ranges.root != nil,
		"a scope of an index":       b.players.scopes.root != nil || b.scores.scopes.root != nil || b.digits.scopes.root != nil,
		"pages of the table's ring": b.allScope.ring.tail.Load() != nil,
		"a squash":                  len(b.allScope.squashes) > 0,
	} {
		if is {
			left = append(left, name)
		}
	}
	return left
}

// A scope goes with its last feed (F4), whatever the feed and however it ends. No entry
// stays in the tree for a missing key, and no interval. Later writes are as without.
func TestAScopeWithoutSubscribersLeavesNothingBehind(t *testing.T) {
	type feed = Stream[Change[game]]
	ends := []struct {
		name  string
		opts  []FeedOption
		reads bool // the end needs a change
		end   func(b board, feed *feed, cancel func())
	}{
		{"cancelled, not ranged", nil, false, func(_ board, _ *feed, cancel func()) { cancel() }},
		{"cancelled and ranged", nil, false, func(_ board, feed *feed, cancel func()) {
			cancel()
			require.Equal(t, "context canceled", allOf(*feed))
		}},
		{"cancelled in the middle", nil, true, func(_ board, feed *feed, cancel func()) {
			for range *feed {
				cancel()
			}
		}},
		{"garbage", nil, false, func(_ board, feed *feed, _ func()) { *feed = nil }},
		{"dropped and drained", nil, false, func(b board, feed *feed, _ func()) {
			b.Drop()
			require.Regexp(t, "dropped$", allOf(*feed))
		}},
		{"dropped and cancelled", nil, false, func(b board, _ *feed, cancel func()) { b.Drop(); cancel() }},
		{"dropped and garbage", nil, false, func(b board, feed *feed, _ func()) { b.Drop(); *feed = nil }},
		{"Fail", []FeedOption{Buffer(1), OnOverflow(Fail)}, true, func(_ board, feed *feed, _ func()) {
			require.Regexp(t, `skip\d+\(\d+-\d+\)$`, allOf(*feed))
		}},
	}
	for _, part := range scopeParts {
		for kind, opts := range map[string][]FeedOption{
			"plain": nil, "Squash": {Squash(0)}, "IncludeInitial": {IncludeInitial()}, "all": {Squash(0), IncludeInitial(), Poll(make(chan struct{}, 1))},
		} {
			for _, end := range ends {
				if end.reads && part.name == "inverted Range" || end.opts != nil && kind != "plain" {
					continue // a squash does not overflow
				}
				t.Run(part.name+"/"+kind+"/"+end.name, func(t *testing.T) {
					b := newScopeBoard(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					feed := part.of(b).Changes(ctx, slices.Concat(opts, end.opts)...)
					require.True(t, part.name == "Table" || len(leftovers(b)) > 0, "or the test would show nothing")
					writeAround(t, b)
					end.end(b, &feed, cancel)
					collected(t, "something is left", func() bool { return len(leftovers(b)) == 0 && len(b.Feeds()) == 0 })
					if !strings.HasPrefix(end.name, "dropped") {
						require.Equal(t, 2, b.Len())
						require.Equal(t, Delete, must[game](t)(b.Delete(3)).Kind)
						require.Equal(t, Insert, must[game](t)(b.Insert(game{ID: 3})).Kind)
						require.Empty(t, leftovers(b))
					}
					runtime.KeepAlive(feed)
				})
			}
		}
	}
}

// Feeds of the same part share one scope. It goes with the last of them, and the next feed
// makes a new one.
func TestAScopeGoesWithItsLastFeed(t *testing.T) {
	for _, part := range scopeParts {
		if part.name == "Table" || part.name == "inverted Range" {
			continue // the table's scope stays, and the other sees nothing
		}
		t.Run(part.name, func(t *testing.T) {
			b := newScopeBoard(t)
			selection := part.of(b) // one of several keys or values has a scope of its own
			var feeds []Stream[Change[game]]
			var cancels []func()
			open := func(opts ...FeedOption) *scope[int, game] {
				ctx, cancel := context.WithCancel(t.Context())
				t.Cleanup(cancel)
				feeds, cancels = append(feeds, selection.Changes(ctx, opts...)), append(cancels, cancel)
				b.mu.Lock()
				defer b.mu.Unlock()
				subs := b.allSubscriptions()
				return subs[len(subs)-1].scope
			}
			first := open()
			require.Same(t, first, open(Squash(0)))
			require.Same(t, first, open(Poll(nil)))
			for left, i := range []int{1, 0} { // the first ends first
				cancels[i]()
				collected(t, "a feed is left", func() bool { return len(b.Feeds()) == 2-left })
				require.NotEmpty(t, leftovers(b))
			}
			require.Same(t, first, open(Poll(nil)))
			writeAround(t, b)
			want := allOf(feeds[2])
			require.NotEmpty(t, want)
			require.Equal(t, want, allOf(feeds[3]))

			cancels[2]()
			cancels[3]()
			collected(t, "something is left", func() bool { return len(leftovers(b)) == 0 })
			require.NotSame(t, first, open(Poll(nil)))
			require.Equal(t, b.Seq(), b.Feeds()[0].Seq)
		})
	}
}

// A feed with invalid options makes no scope.
func TestFeedsThatMakeNoScope(t *testing.T) {
	for _, part := range scopeParts {
		b := newScopeBoard(t)
		s := part.of(b)
		for _, opts := range [][]FeedOption{{Buffer(0)}, {After(Position{}), IncludeInitial()}, {Squash(-1)}} {
			pairs := take(s.Changes(t.Context(), opts...), 2)
			require.Len(t, pairs, 1)
			require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
		}
		require.ErrorIs(t, take(s.Changes(t.Context(), After(b.At(3))), 1)[0].err, ErrOtherHistory)
		require.Len(t, take(s.Batches(t.Context(), 0), 2), 1)
		require.Empty(t, leftovers(b))
		require.Empty(t, b.Feeds())
	}
}

// A forgotten stream of a selection is released as a table's is: no place in Feeds, no
// page, no row, no predicate, and the context holds nothing of it.
func TestAForgottenStreamOfASelectionIsReleased(t *testing.T) {
	for _, part := range scopeParts {
		if part.name == "inverted Range" {
			continue // has no rows
		}
		for _, use := range []struct {
			name string
			use  func(feed Stream[Change[game]])
		}{
			{"never ranged", func(Stream[Change[game]]) {}},
			{"broken off", func(feed Stream[Change[game]]) { take(feed, 1) }},
			{"panicked", func(feed Stream[Change[game]]) {
				require.Panics(t, func() {
					for range feed {
						panic("in the body")
					}
				})
			}},
			{"pulled", func(feed Stream[Change[game]]) {
				next, stop := iter.Pull2(iter.Seq2[Change[game], error](feed))
				_, _, _ = next()
				stop()
			}},
		} {
			t.Run(part.name+"/"+use.name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				b := newScopeBoard(t)
				keep, predicate := weakPredicate()
				feed := part.of(b).Where(keep).Changes(ctx)
				keep = nil
				sub := b.allSubscriptions()[0]
				held := feedHeld{sub: weak.Make(sub), page: weak.Make(sub.scope.ring.tail.Load())}
				sub = nil
				held.row = writeAlone(t, b)
				use.use(feed)
				runtime.GC()
				require.NotNil(t, held.page.Value(), "or the test would show nothing")
				require.NotNil(t, predicate.Value())
				runtime.KeepAlive(feed)
				feed = nil

				collected(t, "Feeds() is not empty", func() bool { return len(b.Feeds()) == 0 })
				collected(t, "a page is held", func() bool { return held.page.Value() == nil })
				collected(t, "a row is held", func() bool { return held.row.Value() == nil })
				collected(t, "the predicate is held", func() bool { return predicate.Value() == nil })
				collected(t, "the context holds the subscription", func() bool { return held.sub.Value() == nil })
				runtime.KeepAlive(b)
				runtime.KeepAlive(ctx)
			})
		}
	}
}

// weakPredicate returns a predicate that is true, and what it holds.
func weakPredicate() (keep func(*game) bool, held weak.Pointer[weakElement]) {
	e := new(weakElement)
	return func(*game) bool { return e != nil }, weak.Make(e)
}

// writeAlone makes the changes of writeAround and returns a row that only the feeds
// of Row 3 and of selections that include it hold.
func writeAlone(t *testing.T, b board) weak.Pointer[game] {
	writeAround(t, b)
	c := must[game](t)(b.Upsert(game{ID: 3, Score: 1}))
	must[game](t)(b.Delete(3))
	return weak.Make(c.New)
}

func seqOfGame(c Change[game]) uint64 { return c.Seq }
