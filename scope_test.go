package changefeed

import (
	"cmp"
	"context"
	"errors"
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
	iv := interval[float64]{from: bound(), extent: []extent{onwards, between, point}[r.IntN(3)]}
	if iv.extent == between {
		iv.to = bound()
	}
	return iv
}

// naiveContains says what an interval contains in the words of its extents.
func naiveContains(iv interval[float64], b float64) bool {
	from, to := cmp.Compare(b, iv.from), cmp.Compare(b, iv.to)
	switch iv.extent {
	case onwards:
		return from >= 0
	case between:
		return from >= 0 && to < 0
	case point:
		return from == 0
	}
	return true
}

func sameInterval(a, b interval[float64]) bool {
	return a.extent == b.extent && cmp.Compare(a.from, b.from) == 0 && (a.extent != between || cmp.Compare(a.to, b.to) == 0)
}

// All extents with all bounds, also those that contain nothing.
func TestAnIntervalContainsWhatItSays(t *testing.T) {
	reached := make(map[string]int)
	check := func(iv interval[float64], b float64) {
		require.Equal(t, naiveContains(iv, b), iv.contains(b, cmp.Compare[float64]), "%v in %v", b, iv)
		reached[fmt.Sprint(iv.extent, naiveContains(iv, b))]++
	}
	for _, b := range scopeBounds {
		check(interval[float64]{extent: unbounded}, b)
		for _, from := range scopeBounds {
			check(interval[float64]{from: from, extent: onwards}, b)
			check(interval[float64]{from: from, extent: point}, b)
			for _, to := range scopeBounds {
				check(interval[float64]{from: from, to: to, extent: between}, b)
			}
		}
	}
	requireOutcomes(t, reached, "0 true", "1 true", "1 false", "2 true", "2 false", "3 true", "3 false")
}

// check requires that a tree is in order, a heap of priorities, and knows its ends.
func (t *intervals[B, K, V]) check(tb testing.TB, n *intervalNode[B, K, V]) (nodes []*intervalNode[B, K, V]) {
	if n == nil {
		return nil
	}
	furthest := &n.interval
	for _, child := range []*intervalNode[B, K, V]{n.left, n.right} {
		if child == nil {
			continue
		}
		require.LessOrEqual(tb, child.priority, n.priority, "no lower one is above a higher one")
	}
	nodes = slices.Concat(t.check(tb, n.left), []*intervalNode[B, K, V]{n}, t.check(tb, n.right))
	for i, node := range nodes {
		require.True(tb, i == 0 || t.compare(&nodes[i-1].interval, &node.interval) < 0, "in order, each once")
		if compareEnds(furthest, &node.interval, t.order) < 0 {
			furthest = &node.interval
		}
	}
	require.Zero(tb, compareEnds(furthest, n.furthest, t.order), "the furthest end")
	return nodes
}

// The tree beside a plain list, run step by step: whatever comes and goes in whatever
// order, the scopes of the intervals that contain an element are found, each once,
// and no others. The priorities decide on the tree's shape, and on nothing else.
func TestIntervalsAgainstAList(t *testing.T) {
	type node = intervalNode[float64, int, game]
	for name, priority := range map[string]func(r *rand.Rand, n int) uint64{
		"as scope draws them": nil,
		"random":              func(r *rand.Rand, _ int) uint64 { return r.Uint64() },
		"few":                 func(r *rand.Rand, _ int) uint64 { return r.Uint64N(3) },
		"all equal":           func(*rand.Rand, int) uint64 { return 0 },
		"ascending":           func(_ *rand.Rand, n int) uint64 { return uint64(n) },
		"descending":          func(_ *rand.Rand, n int) uint64 { return -uint64(n) },
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
						n := &node{interval: iv, scope: newScope[int](seqOfGame), priority: priority(r, step)}
						n.furthest = &n.interval
						tree.root = tree.insert(tree.root, n)
						i, list = len(list), append(list, listed{iv, n.scope})
					}
					s := tree.scope(&iv)
					if i < 0 {
						list = append(list, listed{iv, s})
						reached["made"]++
					} else {
						require.Same(t, list[i].scope, s)
						reached["there already"]++
					}
				case r.IntN(4) > 0:
					iv = list[r.IntN(len(list))].interval
					fallthrough
				default:
					tree.remove(&iv)
					if i := at(); i < 0 {
						reached["removed what was not there"]++
					} else {
						list = slices.Delete(list, i, i+1)
						reached["removed"]++
					}
				}

				nodes := tree.check(t, tree.root)
				require.Len(t, nodes, len(list))
				for _, n := range nodes {
					require.True(t, slices.ContainsFunc(list, func(l listed) bool {
						return l.scope == n.scope && sameInterval(l.interval, n.interval)
					}), "each scope has its interval, and each interval its scope")
				}
				if len(list) == 0 {
					require.Nil(t, tree.root)
					reached["empty"]++
				}
				for _, b := range scopeBounds {
					found := make(map[*scope[int, game]]bool)
					tree.find(b, func(s *scope[int, game]) {
						require.False(t, found[s], "each once")
						found[s] = true
					})
					for _, l := range list {
						require.Equal(t, naiveContains(l.interval, b), found[l.scope], "%v in %v", b, l.interval)
						delete(found, l.scope)
						reached[fmt.Sprint("contains: ", naiveContains(l.interval, b))]++
					}
					require.Empty(t, found)
				}
			}
			requireOutcomes(t, reached, "there already", "removed", "removed what was not there",
				"empty", "contains: true", "contains: false")
		})
	}
}

// "Range feeds are found without offering each write to every one of them when there
// are many": in time in proportion to the logarithm of their number, and to that of
// those found.
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

// Change.within: a row that starts to match is an Insert, and a row that stops matching
// is a Delete, whatever the write was.
func TestAChangeAsASelectionSeesIt(t *testing.T) {
	old, is := &game{ID: 1}, &game{ID: 1, Score: 1}
	update := Change[game]{7, Update, old, is}
	for _, test := range []struct {
		c       Change[game]
		was, is bool
		want    Change[game]
	}{
		{update, true, true, update},
		{update, false, true, Change[game]{7, Insert, nil, is}},
		{update, true, false, Change[game]{7, Delete, old, nil}},
		{Change[game]{7, Insert, nil, is}, false, true, Change[game]{7, Insert, nil, is}},
		{Change[game]{7, Delete, old, nil}, true, false, Change[game]{7, Delete, old, nil}},
		{Change[game]{0, Initial, nil, is}, false, true, Change[game]{0, Initial, nil, is}},
	} {
		require.True(t, test.want == test.c.within(test.was, test.is), "%v, %t to %t", test.c, test.was, test.is)
	}
	require.Equal(t, Change[game]{7, Update, old, is}, update)
}

// requireEmpty requires that an outbox holds nothing, also not in the space that
// it leaves behind.
func (o *outbox[K, V]) requireEmpty(t *testing.T) {
	t.Helper()
	require.Empty(t, o.events)
	require.Empty(t, o.rings)
	require.Empty(t, o.touched)
	require.Empty(t, o.begun)
	for _, e := range o.events[:cap(o.events)] {
		require.True(t, e.scope == nil && e.change == Change[V]{}, "an event is held")
	}
	for _, r := range o.rings[:cap(o.rings)] {
		require.True(t, r == nil, "a ring is held")
	}
	for _, q := range o.begun[:cap(o.begun)] {
		require.True(t, q == nil, "a squash is held")
	}
	for _, s := range o.touched[:cap(o.touched)] {
		require.True(t, s == nil, "a scope is held")
	}
	require.LessOrEqual(t, cap(o.events), maxRecycledCap, "the space of a large transaction is held")
}

// When a write or a transaction is over, however it ends, the outbox holds nothing of
// it, and no scope or squash is left in the middle of something.
func TestTheOutboxKeepsNothing(t *testing.T) {
	abort := errors.New("abort")
	write := func(n int) func(w rowWriter[game]) {
		return func(w rowWriter[game]) {
			for i := range n {
				must[game](t)(w.Upsert(game{ID: i % 10, Player: []string{"Bob", "Ann"}[i%2], Score: i}))
			}
		}
	}
	for _, test := range []struct {
		name string
		do   func(games *Table[int, game])
	}{
		{"writes", func(games *Table[int, game]) { write(50)(games) }},
		{"a write that fails", func(games *Table[int, game]) {
			write(1)(games)
			_, err := games.Insert(game{ID: 0})
			require.Error(t, err)
		}},
		{"a transaction", func(games *Table[int, game]) {
			require.NoError(t, Transact(func(tx *Tx) error { write(50)(games.In(tx)); return nil }, games))
		}},
		{"a large transaction", func(games *Table[int, game]) {
			require.NoError(t, Transact(func(tx *Tx) error { write(5000)(games.In(tx)); return nil }, games))
		}},
		{"a transaction that fails", func(games *Table[int, game]) {
			require.Equal(t, abort, Transact(func(tx *Tx) error { write(50)(games.In(tx)); return abort }, games))
		}},
		{"a large transaction that fails", func(games *Table[int, game]) {
			require.Equal(t, abort, Transact(func(tx *Tx) error { write(5000)(games.In(tx)); return abort }, games))
		}},
		{"a transaction that panics", func(games *Table[int, game]) {
			require.PanicsWithValue(t, "in fn", func() {
				_ = Transact(func(tx *Tx) error { write(50)(games.In(tx)); panic("in fn") }, games)
			})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			players := NewIndex(games, "player", func(g *game) string { return g.Player })
			var feeds []Stream[Change[game]]
			for _, s := range []Selection[int, game]{games.all(), games.Row(1), games.Range(0, 5), players.Equal("Bob"), players.From("A")} {
				feeds = append(feeds, s.Changes(t.Context()), s.Changes(t.Context(), Squash(0)))
			}
			test.do(games)
			games.outbox.requireEmpty(t)
			for _, s := range games.feeds.all() {
				require.False(t, s.scope.before)
				require.False(t, s.scope.after)
				if s.squash != nil {
					require.False(t, s.squash.publishing)
					require.True(t, s.squash.mu.TryLock())
					s.squash.mu.Unlock()
				}
			}
			require.Empty(t, games.undo)
			require.False(t, games.inTx)
			runtime.KeepAlive(feeds)
		})
	}
}

// What an index's feed was about is garbage when the feed has ended: the table's
// outbox does not hold the scope that it came upon last.
func TestAnEndedScopeIsReleased(t *testing.T) {
	games := newGames()
	players := NewIndex(games, "player", func(g *game) string { return g.Player })
	ctx, cancel := context.WithCancel(t.Context())
	feed := players.Equal("Bob").Changes(ctx)
	held := weak.Make(games.feeds.all()[0].scope)
	must[game](t)(games.Insert(game{ID: 1, Player: "Bob"}))
	require.Equal(t, "+1", wordsOf(feed, 1))
	runtime.GC()
	require.NotNil(t, held.Value(), "or the test would show nothing")
	cancel()
	feed = nil
	collected(t, "the scope is held", func() bool { return held.Value() == nil })
	runtime.KeepAlive(games)
}

// Those who wait are woken once in each ring, whatever the number of its events, and
// a ring in which nobody waits is not looked at.
func TestPublishNamesEachRingOnce(t *testing.T) {
	var o outbox[int, game]
	scopes := make([]*scope[int, game], 4)
	windows := make([]window[Change[game]], len(scopes))
	for i := range scopes {
		scopes[i] = newScope[int](seqOfGame)
		scopes[i].ring.openTableLocked(&windows[i], 10)
		if i != 1 {
			require.True(t, windows[i].arm())
		}
	}
	for seq := range uint64(5) { // nothing for the last one
		for i, s := range scopes[:3] {
			o.add(s, i, Change[game]{Seq: seq + 1, Kind: Insert, New: &game{ID: i}})
		}
	}
	for i := range scopes {
		require.Zero(t, scopes[i].ring.end.Load(), "nothing is seen before it is published")
	}
	w := o.publish()
	require.Equal(t, append([]*ring[Change[game]]{w.first}, w.more...), []*ring[Change[game]]{&scopes[0].ring, &scopes[2].ring})
	for i, end := range []uint64{5, 5, 5, 0} {
		require.Equal(t, end, scopes[i].ring.end.Load())
	}
	w.wake()
	for i, parked := range []int64{0, 0, 0, 1} {
		require.Equal(t, parked, scopes[i].ring.parked.Load())
	}
	for i, owed := range []int{1, 0, 1, 0} {
		require.Len(t, windows[i].wakeup, owed)
	}
	o.requireEmpty(t)
}

// scopeParts are selections of each kind, with feeds of which writeAround fills the
// buffers. The rows 1 and 2 are there; 3 is not.
var scopeParts = []struct {
	name string
	part func(games *Table[int, game], scores *Index[int, int, game]) Selection[int, game]
}{
	{"Row", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.Row(1) }},
	{"Row missing", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.Row(3) }},
	{"Row leaving", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.Row(2) }},
	{"Range", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.Range(1, 3) }},
	{"From", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.From(1) }},
	{"Index.Equal", func(_ *Table[int, game], scores *Index[int, int, game]) Selection[int, game] { return scores.Equal(1) }},
	{"Index.Range", func(_ *Table[int, game], scores *Index[int, int, game]) Selection[int, game] {
		return scores.Range(0, 9)
	}},
	{"Index.From", func(_ *Table[int, game], scores *Index[int, int, game]) Selection[int, game] { return scores.From(0) }},
	{"Where", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] {
		return games.Range(1, 3).Where(func(*game) bool { return true })
	}},
	{"inverted Range", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.Range(3, 1) }},
	{"Table", func(games *Table[int, game], _ *Index[int, int, game]) Selection[int, game] { return games.all() }},
}

func newScopeGames(t *testing.T) (*Table[int, game], *Index[int, int, game]) {
	games := newGames()
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })
	must[game](t)(games.Insert(game{ID: 1, Score: 1}))
	must[game](t)(games.Insert(game{ID: 2, Score: 2}))
	return games, scores
}

// writeAround makes at least two changes to each selection in scopeParts but the
// inverted one, and deletes row 2.
func writeAround(t *testing.T, games *Table[int, game]) {
	must[game](t)(games.Upsert(game{ID: 1, Score: 1, Player: "Bob"}))
	must[game](t)(games.Upsert(game{ID: 1, Score: 1, Player: "Ann"}))
	must[game](t)(games.Upsert(game{ID: 2, Score: 2, Player: "Eve"}))
	must[game](t)(games.Delete(2))
	must[game](t)(games.Insert(game{ID: 3, Score: 1}))
	must[game](t)(games.Delete(3))
}

// scopeOfRow returns the scope of a row, or nil. The caller holds the table's lock.
func scopeOfRow[K, V any](t *Table[K, V], key K) *scope[K, V] {
	if c := t.cellLocked(key); c != nil {
		return c.scope
	}
	return nil
}

// leftovers tells what is left of scopes in a table and its index.
func leftovers(games *Table[int, game], scores *Index[int, int, game]) (left string) {
	games.mu.Lock()
	defer games.mu.Unlock()
	games.rows.tree.Ascend(func(e entry[int, game]) bool {
		if e.cell.row == nil {
			left += fmt.Sprintf("an entry without a row for %d; ", e.key)
		}
		if e.cell.scope != nil {
			left += fmt.Sprintf("a scope at %d; ", e.key)
		}
		return true
	})
	if games.ranges.root != nil {
		left += "a scope of a range; "
	}
	if scores.scopes.root != nil {
		left += "a scope of the index; "
	}
	if games.allScope.ring.tail.Load() != nil {
		left += "pages of the table's ring; "
	}
	if len(games.allScope.squashes) > 0 {
		left += "a squash; "
	}
	return left
}

// "A scope without subscribers leaves nothing behind" (F4): no entry in the tree for
// a missing key, no scope, empty interval trees, whatever the feed and however it
// ends. Writes before and after the end are as they would be without.
func TestAScopeWithoutSubscribersLeavesNothingBehind(t *testing.T) {
	const dropped = "dropped"
	ends := []struct {
		name string
		opts []FeedOption
		end  func(games *Table[int, game], feed *Stream[Change[game]], cancel func())
	}{
		{"cancelled, not ranged", nil, func(_ *Table[int, game], _ *Stream[Change[game]], cancel func()) { cancel() }},
		{"cancelled and ranged", nil, func(_ *Table[int, game], feed *Stream[Change[game]], cancel func()) {
			cancel()
			require.Equal(t, "context canceled", allOf(*feed))
		}},
		{"cancelled in the middle", nil, func(_ *Table[int, game], feed *Stream[Change[game]], cancel func()) {
			for range *feed {
				cancel()
			}
		}},
		{"garbage", nil, func(_ *Table[int, game], feed *Stream[Change[game]], _ func()) { *feed = nil }},
		{dropped + " and drained", nil, func(games *Table[int, game], feed *Stream[Change[game]], _ func()) {
			games.Drop()
			require.True(t, strings.HasSuffix(allOf(*feed), "dropped"))
		}},
		{dropped + " and cancelled", nil, func(games *Table[int, game], _ *Stream[Change[game]], cancel func()) {
			games.Drop()
			cancel()
		}},
		{dropped + " and garbage", nil, func(games *Table[int, game], feed *Stream[Change[game]], _ func()) {
			games.Drop()
			*feed = nil
		}},
		{"Fail", []FeedOption{Buffer(1), OnOverflow(Fail)}, func(_ *Table[int, game], feed *Stream[Change[game]], _ func()) {
			require.Regexp(t, `skip\d+\(\d+-\d+\)$`, allOf(*feed))
		}},
	}
	kinds := []struct {
		name string
		opts []FeedOption
	}{
		{"plain", nil},
		{"Squash", []FeedOption{Squash(0)}},
		{"IncludeInitial", []FeedOption{IncludeInitial()}},
		{"Poll", []FeedOption{Poll(nil)}},
		{"Squash,IncludeInitial,Poll", []FeedOption{Squash(0), IncludeInitial(), Poll(make(chan struct{}, 1))}},
	}
	for _, part := range scopeParts {
		for _, kind := range kinds {
			for _, end := range ends {
				if end.opts != nil && (kind.name != "plain" || part.name == "inverted Range") {
					continue // a squash does not overflow, nor does what nothing is written to
				}
				t.Run(part.name+"/"+kind.name+"/"+end.name, func(t *testing.T) {
					games, scores := newScopeGames(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					feed := part.part(games, scores).Changes(ctx, slices.Concat(kind.opts, end.opts)...)
					if part.name != "Table" {
						require.NotEmpty(t, leftovers(games, scores), "or the test would show nothing")
					}
					writeAround(t, games)
					if kind.name == "IncludeInitial" && part.name == "inverted Range" {
						require.Len(t, take(feed, 1), 1) // Ready, so that the loops have their say
					}
					if end.name == "cancelled in the middle" && (part.name == "inverted Range" || kind.name == "Squash" && part.name == "Row missing") {
						cancel() // there is nothing in the middle of which it might be
					}
					end.end(games, &feed, cancel)
					collected(t, "something is left", func() bool {
						return leftovers(games, scores) == "" && len(games.Feeds()) == 0
					})
					if strings.HasPrefix(end.name, dropped) {
						return
					}
					require.Equal(t, 1, games.Len())
					require.Equal(t, Insert, must[game](t)(games.Insert(game{ID: 3})).Kind)
					require.Equal(t, Delete, must[game](t)(games.Delete(3)).Kind)
					require.Empty(t, leftovers(games, scores))
					runtime.KeepAlive(feed)
				})
			}
		}
	}
}

// One scope, one ring: feeds of the same part share it, it goes with the last of them,
// and comes anew with the next.
func TestAScopeGoesWithItsLastFeed(t *testing.T) {
	for _, part := range scopeParts {
		if part.name == "Table" || part.name == "inverted Range" {
			continue // it stays; it sees nothing
		}
		t.Run(part.name, func(t *testing.T) {
			games, scores := newScopeGames(t)
			scopeOf := func() *scope[int, game] {
				games.mu.Lock()
				defer games.mu.Unlock()
				subs := games.feeds.all()
				return subs[len(subs)-1].scope
			}
			var scopes []*scope[int, game]
			var feeds []Stream[Change[game]]
			var cancels []func()
			for i := range 3 {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				opts := [][]FeedOption{nil, {Squash(0)}, {Poll(nil)}}[i]
				feeds = append(feeds, part.part(games, scores).Changes(ctx, opts...))
				scopes, cancels = append(scopes, scopeOf()), append(cancels, cancel)
			}
			require.Same(t, scopes[0], scopes[1])
			require.Same(t, scopes[0], scopes[2])
			for left, i := range []int{1, 0} { // the first ends first
				cancels[i]()
				collected(t, "a feed is left", func() bool { return len(games.Feeds()) == 2-left })
				require.NotEmpty(t, leftovers(games, scores))
			}
			ctx, cancel := context.WithCancel(t.Context())
			feeds = append(feeds, part.part(games, scores).Changes(ctx, Poll(nil)))
			require.Same(t, scopes[0], scopeOf())
			writeAround(t, games)
			want := allOf(feeds[2])
			require.NotEmpty(t, want)
			require.Equal(t, want, allOf(feeds[3]))

			cancels[2]()
			cancel()
			collected(t, "something is left", func() bool { return leftovers(games, scores) == "" })
			before := games.Seq()
			again := part.part(games, scores).Changes(t.Context(), Poll(nil))
			require.NotSame(t, scopes[0], scopeOf())
			require.Equal(t, before, games.Feeds()[0].Seq)
			must[game](t)(games.Upsert(game{ID: 2, Score: 2}))
			writeAround(t, games)
			require.NotEmpty(t, allOf(again), "it follows as the first did")
		})
	}
}

// A feed with After reads the table's changes, so it makes no scope of its own; one
// that cannot be makes none at all.
func TestFeedsThatMakeNoScope(t *testing.T) {
	for _, part := range scopeParts {
		t.Run(part.name, func(t *testing.T) {
			games, scores := newScopeGames(t)
			s := part.part(games, scores)
			for _, opts := range [][]FeedOption{
				{Buffer(0)},
				{After(3)},
				{After(1), IncludeInitial()},
				{Squash(-1)},
				{Squash(0), OnOverflow(Fail)},
			} {
				pairs := take(s.Changes(t.Context(), opts...), 2)
				require.Len(t, pairs, 1)
				require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
			}
			batches := take(s.Batches(t.Context(), 0), 2)
			require.Len(t, batches, 1)
			require.ErrorIs(t, batches[0].err, ErrInvalidOption)
			require.Empty(t, leftovers(games, scores))
			require.Empty(t, games.Feeds())

			games.Retain(1)
			after := s.Changes(t.Context(), After(2), Poll(nil))
			require.Equal(t, "pages of the table's ring; ", leftovers(games, scores))
			runtime.KeepAlive(after)
		})
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
				games, scores := newScopeGames(t)
				keep, predicate := weakPredicate()
				feed := part.part(games, scores).Where(keep).Changes(ctx)
				keep = nil
				sub := games.feeds.all()[0]
				held := feedHeld{sub: weak.Make(sub), page: weak.Make(sub.scope.ring.tail.Load())}
				sub = nil
				held.row = writeAlone(t, games)
				use.use(feed)
				runtime.GC()
				require.NotNil(t, held.page.Value(), "or the test would show nothing")
				require.NotNil(t, predicate.Value())
				runtime.KeepAlive(feed)
				feed = nil

				collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
				collected(t, "a page is held", func() bool { return held.page.Value() == nil })
				collected(t, "a row is held", func() bool { return held.row.Value() == nil })
				collected(t, "the predicate is held", func() bool { return predicate.Value() == nil })
				collected(t, "the context holds the subscription", func() bool { return held.sub.Value() == nil })
				runtime.KeepAlive(games)
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
// of Row 3 and of what includes it hold.
func writeAlone(t *testing.T, games *Table[int, game]) weak.Pointer[game] {
	writeAround(t, games)
	c := must[game](t)(games.Insert(game{ID: 3, Score: 1}))
	must[game](t)(games.Delete(3))
	return weak.Make(c.New)
}

func seqOfGame(c Change[game]) uint64 { return c.Seq }
