package changefeed

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A shop is two tables with views of all kinds. Each function of a definition calls hook with its name.
type shop struct {
	t         *testing.T
	hook      func(function string)
	orders    *Table[int, order]
	customers *Table[string, customer]
	byAmount  *Index[int, int, order]

	lines     *View[int, line] // the orders above 50
	byDouble  *Index[int, int, line]
	totals    *View[string, Grouped[string, int]]
	counts    *View[string, Counted[string]]
	billed    *View[int, Joined[order, customer]]
	byCountry *Index[string, int, Joined[order, customer]]
	all       *View[int, Joined[order, customer]]
	countries *View[string, Grouped[string, int]] // of billed
	byValue   *Index[int, string, Grouped[string, int]]
	best      *View[int, order]
	worstEach *View[int, order]
	richest   *View[string, Grouped[string, int]] // of countries

	watched []watched
}

// A watched is a table or a view of a shop, with its feeds.
type watched struct {
	AnyTable
	rows  func(tx *Tx) string // the rows and those of the indexes, in JSON
	state func() any
	feeds []func() []string // each drains a feed, and returns the texts of its batches

	changes func() (n uint64, ended error) // drains another feed, and counts its changes
}

// functions are the names with which a shop calls hook.
var functions = []string{
	"Where", "Select f", "Select key", "Group by", "Group fold", "Count by", "Join ref", "right Where", "LeftJoin ref", "Group by of a Join",
	"Group fold of a Join", "index of a view", "unique index of a view", "index", "TopEach by", "index of a Group",
}

func newShop(t *testing.T) *shop {
	s := &shop{t: t, hook: func(string) {}}
	called := func(function string) { s.hook(function) }
	s.orders = NewTable("orders", func(o *order) int { return o.ID })
	s.customers = NewTable("customers", func(c *customer) string { return c.Name })
	for id := range 12 {
		must[order](t)(s.orders.Insert(order{id, string(rune('A' + id%4)), 40 + 7*id}))
	}
	for _, c := range []customer{{"A", "NL"}, {"B", "FR"}, {"C", "NL"}} {
		must[customer](t)(s.customers.Insert(c))
	}
	s.byAmount = NewIndex(s.orders, "amount", func(o *order) int { called("index"); return o.Score })
	by := func(name string) func(o *order) string {
		return func(o *order) string { called(name); return o.Player }
	}

	s.lines = Select(s.orders.Where(func(o *order) bool { called("Where"); return o.Score > 50 }), "lines",
		func(l *line) int { called("Select key"); return l.ID },
		func(o *order) *line { called("Select f"); return &line{ID: o.ID, Score: 2 * o.Score} })
	var err error
	s.byDouble, err = NewUniqueIndex(s.lines, "double", func(l *line) int { called("unique index of a view"); return l.Score })
	require.NoError(t, err)
	s.totals = Group(s.orders, "totals", by("Group by"), func(sum *int, o *order, sign int) { called("Group fold"); *sum += sign * o.Score })
	s.counts = Count(s.orders, "counts", by("Count by"))
	s.billed = Join(s.orders, s.customers.Where(func(c *customer) bool { called("right Where"); return c.Country != "" }), "billed", by("Join ref"))
	s.byCountry = NewIndex(s.billed, "country", func(j *Joined[order, customer]) string { called("index of a view"); return j.Right.Country })
	s.all = LeftJoin(s.orders, s.customers, "all", by("LeftJoin ref"))
	s.countries = Group(s.billed, "countries", func(j *Joined[order, customer]) string { called("Group by of a Join"); return j.Right.Country },
		func(sum *int, j *Joined[order, customer], sign int) {
			called("Group fold of a Join")
			*sum += sign * j.Left.Score
		})
	s.byValue = NewIndex(s.countries, "value", func(g *Grouped[string, int]) int { called("index of a Group"); return g.Value })
	s.best = Top(s.byAmount, "best", 3)
	s.worstEach = BottomEach(s.byAmount, "worst each", 1, by("TopEach by"))
	s.richest = Top(s.byValue, "richest", 1)
	return s
}

// watch follows all tables and views.
func (s *shop) watch() *shop {
	watch(s, s.orders, s.orders.Row(1), s.orders.Range(3, 7), s.byAmount.Equal(61), s.byAmount.From(0))
	watch(s, s.customers, s.customers.Row("A"))
	watch(s, s.lines, s.lines.Row(1), s.lines.Rows(1, 5, 9), s.lines.Range(3, 7), s.byDouble.Equal(122), s.byDouble.From(0))
	watch(s, s.totals, s.totals.Row("A"))
	watch(s, s.counts, s.counts.From("B"))
	watch(s, s.billed, s.billed.Row(1), s.billed.Range(3, 7), s.byCountry.Equal("NL"), s.byCountry.Any("NL", "FR"))
	watch(s, s.all, s.all.Row(3))
	watch(s, s.countries, s.countries.Row("NL"), s.byValue.Range(0, 300), s.byValue.From(0))
	watch(s, s.best, s.best.Row(11), s.best.From(10))
	watch(s, s.worstEach, s.worstEach.Row(0))
	watch(s, s.richest, s.richest.Row("NL"))
	for _, set := range [][]AnyTable{s.tables(), {s.lines}, {s.customers, s.richest}} {
		commits := Commits(s.t.Context(), set, Poll(nil))
		s.watched[0].feeds = append(s.watched[0].feeds, func() (texts []string) {
			for commit, err := range commits {
				require.NoError(s.t, err)
				var text strings.Builder
				for _, c := range commit {
					text.WriteString(fmt.Sprintf("%s %d %v %s; ", c.Table.Name(), c.Seq, c.Kind, s.text([]any{c.Old, c.New})))
				}
				texts = append(texts, text.String())
			}
			return texts
		})
	}
	require.Empty(s.t, s.delivered())
	return s
}

func (s *shop) tables() (tables []AnyTable) {
	for _, w := range s.watched {
		tables = append(tables, w.AnyTable)
	}
	return tables
}

// A followable is a *Table or a *View.
type followable[K, V any] interface {
	AnyTable
	Rows[K, V]
	Selection() Selection[K, V]
}

// watch follows a table or a view, and parts of it, in several ways.
func watch[K, V any](s *shop, t followable[K, V], parts ...Selection[K, V]) {
	w := watched{AnyTable: t, state: func() any { return stateOf(t.tableOf()) }}
	parts = append(parts, t.Selection())
	w.rows = func(tx *Tx) string {
		var texts []string
		if v, ok := any(t).(*View[K, V]); ok && tx != nil {
			v.In(tx) // so that the parts can be read in tx
		}
		for _, part := range parts {
			rows := part.All()
			if tx != nil {
				rows = part.In(tx).All()
			}
			texts = append(texts, s.text(slices.Collect(values(rows))))
		}
		return strings.Join(texts, "\n")
	}
	for _, part := range parts {
		w.feeds = append(w.feeds, drain(s, part.Batches(s.t.Context(), 1, Poll(nil))),
			drain(s, part.Batches(s.t.Context(), math.MaxInt, Poll(nil), Squash(0))))
	}
	changes := t.Selection().Changes(s.t.Context(), Poll(nil))
	w.changes = func() (n uint64, ended error) {
		for _, err := range changes {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	s.watched = append(s.watched, w)
}

func values[K, V any](rows iter.Seq2[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, row := range rows {
			if !yield(row) {
				return
			}
		}
	}
}

// drain returns a function that returns the texts of the batches which a feed that polls has.
func drain[V any](s *shop, batches Stream[[]Change[V]]) func() []string {
	return func() (texts []string) {
		for batch, err := range batches {
			require.NoError(s.t, err)
			var text strings.Builder
			for _, c := range batch {
				text.WriteString(fmt.Sprintf("%d %v %s; ", c.Seq, c.Kind, s.text(c)))
			}
			texts = append(texts, text.String())
		}
		return texts
	}
}

func (s *shop) text(v any) string {
	text, err := json.Marshal(v)
	require.NoError(s.t, err)
	return string(text)
}

// contents returns the rows of all tables, views and indexes, as they are in the transaction if tx is not nil.
func (s *shop) contents(tx *Tx) string {
	var texts []string
	for _, w := range s.watched {
		texts = append(texts, w.Name()+": "+w.rows(tx))
	}
	return strings.Join(texts, "\n")
}

// delivered reads what the feeds have, and returns their batches by the name of the feed.
func (s *shop) delivered() map[string][]string {
	delivered := map[string][]string{}
	for _, w := range s.watched {
		for i, feed := range w.feeds {
			if batches := feed(); batches != nil {
				delivered[fmt.Sprint(w.Name(), " ", i)] = batches
			}
		}
	}
	return delivered
}

// figures returns the figures of all tables and views, without their histories and without the figures of feeds.
func (s *shop) figures() (figures []TableInfo) {
	for _, w := range s.watched {
		info := w.Info()
		info.Position.History = HistoryID{}
		figures = append(figures, info)
	}
	return figures
}

// states returns the states of all tables and views.
func (s *shop) states() (states []any) {
	for _, w := range s.watched {
		states = append(states, w.state())
	}
	return states
}

// A shopWrite is a write to a shop. Each of them changes several views.
type shopWrite struct {
	name string
	do   func(orders tableWriter[int, order], customers tableWriter[string, customer]) error
}

var shopWrites = []shopWrite{
	{"insert of an order", func(orders tableWriter[int, order], _ tableWriter[string, customer]) error {
		_, err := orders.Upsert(order{20, "A", 200})
		return err
	}},
	{"update of an amount", func(orders tableWriter[int, order], _ tableWriter[string, customer]) error {
		_, err := orders.Update(1, func(o *order) { o.Score = 300 })
		return err
	}},
	{"move of an order", func(orders tableWriter[int, order], _ tableWriter[string, customer]) error {
		_, err := orders.Upsert(order{5, "C", 1})
		return err
	}},
	{"delete of an order", func(orders tableWriter[int, order], _ tableWriter[string, customer]) error {
		_, err := orders.Delete(11)
		return err
	}},
	{"insert of a customer", func(_ tableWriter[int, order], customers tableWriter[string, customer]) error {
		_, err := customers.Upsert(customer{"D", "BE"})
		return err
	}},
	{"move of a customer", func(_ tableWriter[int, order], customers tableWriter[string, customer]) error {
		_, err := customers.Upsert(customer{"A", "FR"})
		return err
	}},
	{"delete of a customer", func(_ tableWriter[int, order], customers tableWriter[string, customer]) error {
		_, err := customers.Delete("B")
		return err
	}},
}

// panics calls f, and makes the n-th call of a function of a definition panic. It reports whether there was an n-th call.
func (s *shop) panics(function string, n int, f func() error) (panicked bool) {
	s.hook = func(called string) {
		if called == function {
			if n--; n == 0 {
				panic(errDefinition)
			}
		}
	}
	defer func() {
		s.hook = func(string) {}
		if v := recover(); v != nil {
			require.Equal(s.t, errDefinition, v, "the panic must reach the caller as it is")
			panicked = true
		}
	}()
	require.NoError(s.t, f())
	return false
}

// A snapshotOfShop is the state that a failed write must leave as it was.
type snapshotOfShop struct {
	states   []any
	figures  []TableInfo
	contents string
}

func (s *shop) snapshot() snapshotOfShop {
	return snapshotOfShop{s.states(), s.figures(), s.contents(nil)}
}

// requireUnchanged requires that the shop is as it was, and that no feed has a change.
func (s *shop) requireUnchanged(was snapshotOfShop, why string) {
	s.t.Helper()
	require.Equal(s.t, was, s.snapshot(), why)
	require.Empty(s.t, s.delivered(), why)
}

// An outcomeOfShop is the state of a shop after a write that succeeds.
type outcomeOfShop struct {
	figures   []TableInfo
	contents  string
	delivered map[string][]string
}

func (s *shop) outcome() outcomeOfShop {
	return outcomeOfShop{s.figures(), s.contents(nil), s.delivered()}
}

// V4: a write that fails in a view leaves sources, views, sequence numbers and feeds as they were. Each write is tried
// until it succeeds. At each try, another call of a function panics. After the write has succeeded, the shop is like one
// in which no write has failed.
func TestV4PanicInASingleWrite(t *testing.T) {
	panics := map[string]int{}
	for _, write := range shopWrites {
		twin := newShop(t).watch()
		require.NoError(t, write.do(twin.orders, twin.customers))
		want := twin.outcome()
		for _, function := range functions {
			s := newShop(t).watch()
			was := s.snapshot()
			for n := 1; s.panics(function, n, func() error { return write.do(s.orders, s.customers) }); n++ {
				s.requireUnchanged(was, fmt.Sprintf("call %d of %s in the %s", n, function, write.name))
				panics[function]++
			}
			require.Equal(t, want, s.outcome(), "panics of %s in the %s", function, write.name)
		}
	}
	requireOutcomes(t, panics, functions...)
}

// V4: in a transaction, only the write that fails in a view is undone, and the transaction can continue. It commits the
// writes that have succeeded, as if no other write had been tried.
func TestV4PanicInATransaction(t *testing.T) {
	panics := map[string]int{}
	transact := func(s *shop, try func(tx *Tx, write shopWrite)) {
		require.NoError(t, Transact(func(tx *Tx) error {
			for i, write := range shopWrites {
				try(tx, write)
				if i == 3 {
					must[order](t)(s.orders.In(tx).Upsert(order{30, "D", 500})) // fails in no view
				}
			}
			return nil
		}, s.orders, s.customers))
	}
	twin := newShop(t).watch()
	transact(twin, func(tx *Tx, write shopWrite) {
		require.NoError(t, write.do(twin.orders.In(tx), twin.customers.In(tx)))
	})
	want := twin.outcome()
	for _, function := range functions {
		s := newShop(t).watch()
		transact(s, func(tx *Tx, write shopWrite) {
			was := s.contents(tx)
			for n := 1; s.panics(function, n, func() error { return write.do(s.orders.In(tx), s.customers.In(tx)) }); n++ {
				require.Equal(t, was, s.contents(tx), "call %d of %s in the %s", n, function, write.name)
				panics[function]++
			}
		})
		require.Equal(t, want, s.outcome(), "panics of %s", function)
	}
	requireOutcomes(t, panics, functions...)
}

// V4 for a panic that ends the transaction: everything is as it was.
func TestV4PanicEndsATransaction(t *testing.T) {
	for _, function := range functions {
		s := newShop(t).watch()
		was := s.snapshot()
		n := 0
		for more := true; more && n < 100; {
			n++
			more = s.panics(function, n, func() error {
				err := Transact(func(tx *Tx) error {
					for _, write := range shopWrites {
						if err := write.do(s.orders.In(tx), s.customers.In(tx)); err != nil {
							return err
						}
					}
					return errRolledBack
				}, s.orders, s.customers)
				require.Equal(t, errRolledBack, err)
				return nil
			})
			s.requireUnchanged(was, fmt.Sprintf("call %d of %s", n, function))
		}
		require.Greater(t, n, 1, function)
	}
}

// A rollback calls no function of a definition. Nor does undoing a failed write in a transaction that continues.
func TestRollbackCallsNoFunction(t *testing.T) {
	s := newShop(t).watch()
	was := s.snapshot()
	calls := 0
	s.hook = func(string) { calls++ }
	before := 0
	err := Transact(func(tx *Tx) error {
		for _, write := range shopWrites {
			require.NoError(t, write.do(s.orders.In(tx), s.customers.In(tx)))
		}
		before = calls
		return errRolledBack
	}, s.orders, s.customers)
	require.Equal(t, errRolledBack, err)
	require.Greater(t, before, 100)
	require.Equal(t, before, calls)
	s.requireUnchanged(was, "rolled back")

	// The value function of the last view is the last to be called. After its panic, nothing is called.
	panicked := false
	s.hook = func(function string) {
		require.False(t, panicked, "%s is called after a panic", function)
		if function == "index of a Group" {
			panicked = true
			panic(errDefinition)
		}
	}
	require.PanicsWithValue(t, errDefinition, func() { _, _ = s.customers.Upsert(customer{"A", "FR"}) })
	require.True(t, panicked)
	s.requireUnchanged(was, "panicked")
	panicked = false
	require.NoError(t, Transact(func(tx *Tx) error {
		require.PanicsWithValue(t, errDefinition, func() { _, _ = s.customers.In(tx).Upsert(customer{"A", "FR"}) })
		require.True(t, panicked)
		return nil
	}, s.customers))
	s.requireUnchanged(was, "panicked in a transaction")
}

// V4 for a unique index of a view that refuses a write. The error names the operation, and each table and key on the way
// to the index.
func TestV4UniqueIndexOfAView(t *testing.T) {
	s := newShop(t).watch()
	_, err := NewUniqueIndex(s.richest, "rank", func(*Grouped[string, int]) int { return 0 }) // it has one row
	require.NoError(t, err)
	was := s.snapshot()
	refuse := func(orders tableWriter[int, order]) {
		_, err := orders.Upsert(order{1, "A", 54})
		require.ErrorIs(t, err, ErrDuplicateKey)
		require.EqualError(t, err, `changefeed: upsert into "orders", primary key 1: in view "lines": value 108 in unique index "double" belongs to primary key 2, not to primary key 1`)
	}
	refuse(s.orders)
	s.requireUnchanged(was, "a single write")
	refused := func(tx *Tx) error {
		refuse(s.orders.In(tx))
		return nil
	}
	require.NoError(t, Transact(refused, s.orders))
	s.requireUnchanged(was, "a transaction with a failed write only")

	twin := newShop(t).watch()
	_, err = NewUniqueIndex(twin.richest, "rank", func(*Grouped[string, int]) int { return 0 })
	require.NoError(t, err)
	for _, shop := range []*shop{s, twin} {
		require.NoError(t, Transact(func(tx *Tx) error {
			for _, write := range shopWrites {
				if shop == s {
					require.NoError(t, refused(tx))
				}
				require.NoError(t, write.do(shop.orders.In(tx), shop.customers.In(tx)))
				if write.name == "update of an amount" { // 1 has another amount, and could take that of 2
					must[order](t)(shop.orders.In(tx).Update(1, func(o *order) { o.Score = 47 }))
				}
			}
			return nil
		}, shop.orders, shop.customers))
	}
	require.Equal(t, twin.outcome(), s.outcome())

	// The error names each view on the way.
	games := newGames()
	sums := Group(games, "sums", func(g *game) string { return g.Player }, func(sum *int, g *game, sign int) { *sum += sign * g.Score })
	same := Select(sums, "same", func(g *Grouped[string, int]) string { return g.Group }, func(g *Grouped[string, int]) *Grouped[string, int] { return g })
	_, err = NewUniqueIndex(same, "value", func(g *Grouped[string, int]) int { return g.Value })
	require.NoError(t, err)
	must[game](t)(games.Insert(game{1, "Ann", 5}))
	_, err = games.Insert(game{2, "Bob", 5})
	require.EqualError(t, err, `changefeed: insert into "games", primary key 2: in view "sums", view "same": value 5 in unique index "value" belongs to primary key "Ann", not to primary key "Bob"`)
	require.Equal(t, 1, sums.Len())
}

// A unique index of a view is checked at the end of a write. Meanwhile two rows of the view may have one value.
func TestUniqueIndexOfAViewAtTheEndOfAWrite(t *testing.T) {
	orders := NewTable("orders", func(o *order) int { return o.ID })
	customers := NewTable("customers", func(c *customer) string { return c.Name })
	billed := Join(orders, customers, "billed", func(o *order) string { return o.Player })
	sums := Group(billed, "sums", func(j *Joined[order, customer]) string { return j.Right.Country },
		func(sum *int, j *Joined[order, customer], sign int) { *sum += sign * j.Left.Score })
	_, err := NewUniqueIndex(sums, "sum", func(g *Grouped[string, int]) int { return g.Value })
	require.NoError(t, err)
	for _, c := range []customer{{"X", "at"}, {"Y", "de"}} {
		must[customer](t)(customers.Insert(c))
	}
	for _, o := range []order{{101, "X", 100}, {102, "X", 50}, {103, "Y", 100}} {
		must[order](t)(orders.Insert(o))
	}
	// The first order of X gives ch a sum of 100, which de has.
	must[customer](t)(customers.Upsert(customer{"X", "ch"}))
	ch, _ := sums.Get("ch")
	require.Equal(t, Grouped[string, int]{"ch", 2, 150}, ch)

	seq := sums.Seq()
	_, err = customers.Upsert(customer{"Y", "ch"}) // fine: one sum remains
	require.NoError(t, err)
	require.Greater(t, sums.Seq(), seq)
	_, err = customers.Upsert(customer{"Z", "fr"})
	require.NoError(t, err)
	_, err = orders.Insert(order{104, "Z", 250})
	require.EqualError(t, err, `changefeed: insert into "orders", primary key 104: in view "billed", view "sums": value 250 in unique index "sum" belongs to primary key "ch", not to primary key "fr"`)
}

// V3: what one write or one transaction changes is published together. Each feed of a table, of a view and of a part of
// one gets it as one batch, and Commits as one Commit.
func TestV3OneBatch(t *testing.T) {
	require1 := func(s *shop, what string) {
		for feed, batches := range s.delivered() {
			require.Len(t, batches, 1, "%s, feed %s", what, feed)
		}
	}
	changed := map[string]int{}
	s := newShop(t).watch()
	do := func(what string, f func()) {
		before := map[string]uint64{}
		for _, table := range s.tables() {
			before[table.Name()] = table.Info().Position.Seq
		}
		f()
		var commit string
		for feed, batches := range s.delivered() {
			require.Len(t, batches, 1, "%s, feed %s", what, feed)
			if feed == "orders 10" {
				commit = batches[0]
			}
		}
		require.NotEmpty(t, commit)
		for _, table := range s.tables() { // the Commit has all changes
			for seq := before[table.Name()] + 1; seq <= table.Info().Position.Seq; seq++ {
				require.Contains(t, commit, fmt.Sprintf("%s %d ", table.Name(), seq))
				changed[table.Name()]++
			}
		}
	}
	for _, write := range shopWrites {
		do(write.name, func() { require.NoError(t, write.do(s.orders, s.customers)) })
	}
	s = newShop(t).watch()
	do("a transaction", func() {
		require.NoError(t, Transact(func(tx *Tx) error {
			for _, write := range shopWrites {
				require.NoError(t, write.do(s.orders.In(tx), s.customers.In(tx)))
			}
			return nil
		}, s.orders, s.customers))
	})
	require1(s, "nothing")
	for _, table := range s.tables() {
		require.Greater(t, changed[table.Name()], 1, table.Name())
	}
}

// V3: a Commit of a source, a view of it and a view of that view has the changes of all three, and AnyChange.Table is the
// View, which makes the change typed.
func TestV3CommitsOfViews(t *testing.T) {
	games := newGames()
	high := Select(games, "high", func(l *line) int { return l.ID }, func(g *game) *line {
		if g.Score < 10 {
			return nil
		}
		return &line{ID: g.ID, Score: g.Score}
	})
	count := Count(high, "count", func(l *line) string { return strconv.Itoa(l.Score / 10) })
	commits := Commits(t.Context(), []AnyTable{count, games, high}, Poll(nil))
	next := func() (commit Commit) {
		t.Helper()
		n := 0
		for c, err := range commits {
			require.NoError(t, err)
			commit = slices.Clone(c)
			n++
		}
		require.Equal(t, 1, n)
		return commit
	}
	must[game](t)(games.Insert(game{ID: 1, Score: 15}))
	commit := next()
	require.Len(t, commit, 3)
	require.Same(t, games, commit[0].Table)
	require.Same(t, high, commit[1].Table)
	require.Same(t, count, commit[2].Table)
	_, ok := games.Typed(commit[1])
	require.False(t, ok)
	_, ok = high.Typed(commit[0])
	require.False(t, ok)
	c, ok := high.Typed(commit[1])
	require.True(t, ok)
	require.Equal(t, Change[line]{Seq: 1, Kind: Insert, New: &line{ID: 1, Score: 15}}, c)
	counted, ok := count.Typed(commit[2])
	require.True(t, ok)
	require.Equal(t, Change[Counted[string]]{Seq: 1, Kind: Insert, New: &Counted[string]{"1", 1}}, counted)
	require.Equal(t, "count: 1 insert {1 1}", commit[2].String())
	require.Equal(t, count.Position(), commit[2].Position())

	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(games.In(tx).Insert(game{ID: 2, Score: 5})) // not in the views
		must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: 25}))
		return nil
	}, games))
	var texts []string
	for _, c := range next() {
		texts = append(texts, c.String())
	}
	require.Equal(t, []string{
		"games: 2 insert {2  5}", "games: 3 update {1  15} -> {1  25}", "high: 2 update {1  15} -> {1  25}",
		"count: 2 delete {1 1}", "count: 3 insert {2 1}",
	}, texts)
}

// F3: a single write to a source, and a transaction, wake the loops that wait for the source, for its view, and for both.
func TestWritesWakeLoopsOfViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		games := newGames()
		same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
		source, view := follow(games.Changes(t.Context()), nil), follow(same.Changes(t.Context()), nil)
		commits := 0
		go func() {
			for range Commits(t.Context(), []AnyTable{games, same}) {
				commits++
			}
		}()
		synctest.Wait()
		for n, write := range []func(){func() { insertRows(t, games, 1) }, func() { transactWrites(t, games, 1) }} {
			write()
			synctest.Wait()
			require.Equal(t, []string{"+1", "+1 2"}[n], source.String())
			require.Equal(t, source.String(), view.String())
			require.Equal(t, n+1, commits)
		}
	})
}

// Domains are locked in the order of their ids, each once: a view has that of its source. If one of them was merged before
// it was locked, none stays locked.
func TestDomainsOfTables(t *testing.T) {
	first, second := newGames(), newGames()
	count := Count(first, "count", playerOf)
	tables := []txTable{first, second, count.table}
	for range 2 {
		domains := domainsOf(nil, tables)
		require.Len(t, domains, 2)
		require.Same(t, &first.mu.own, domains[0])
		require.Same(t, &second.mu.own, domains[1])
		slices.Reverse(tables)
	}

	domains := domainsOf(nil, tables)
	mergeDomains(first, second)
	require.False(t, domains.acquire((*domain).lock, (*domain).Unlock))
	require.True(t, domains[1].TryLock())
	domains[1].Unlock()
	require.Len(t, domainsOf(nil, tables), 1)
	insertRows(t, first, 1)
	insertRows(t, second, 1)
}

// V3: Read of sources and views sees one moment, while writers write.
func TestV3ReadSeesOneMoment(t *testing.T) {
	s := newShop(t).watch()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for g := range 3 {
		r := rand.New(rand.NewPCG(testSeed(t), uint64(g)))
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				move := func(orders tableWriter[int, order], customers tableWriter[string, customer]) {
					_, err := orders.Upsert(order{r.IntN(12), string(rune('A' + r.IntN(4))), r.IntN(1_000_000)})
					require.True(t, err == nil || errors.Is(err, ErrDuplicateKey))
					if r.IntN(4) == 0 {
						_, err = customers.Upsert(customer{string(rune('A' + r.IntN(4))), []string{"NL", "FR"}[r.IntN(2)]})
						require.NoError(t, err)
					}
				}
				if r.IntN(2) == 0 {
					move(s.orders, s.customers)
					continue
				}
				_ = Transact(func(tx *Tx) error {
					move(s.orders.In(tx), s.customers.In(tx))
					move(s.orders.In(tx), s.customers.In(tx))
					if r.IntN(3) == 0 {
						return errRolledBack
					}
					return nil
				}, s.orders, s.customers)
			}
		})
	}
	moments := map[string]bool{}
	for len(moments) < 100 {
		require.NoError(t, Read(func(tx *Tx) error {
			orders, customers := maps.Collect(s.orders.In(tx).All()), maps.Collect(s.customers.In(tx).All())
			var lines []line
			totals, countries := map[string]Grouped[string, int]{}, map[string]Grouped[string, int]{}
			add := func(to map[string]Grouped[string, int], group string, amount int) {
				to[group] = Grouped[string, int]{group, to[group].Count + 1, to[group].Value + amount}
			}
			billed := 0
			for _, o := range byKey(orders) {
				if o.Score > 50 {
					lines = append(lines, line{ID: o.ID, Score: 2 * o.Score})
				}
				add(totals, o.Player, o.Score)
				if c, ok := customers[o.Player]; ok {
					billed++
					j, ok := s.billed.In(tx).Get(o.ID)
					require.True(t, ok)
					require.Equal(t, Joined[order, customer]{&o, &c}, j)
					add(countries, c.Country, o.Score)
				}
			}
			require.Equal(t, lines, slices.Collect(values(s.lines.In(tx).All())))
			require.Equal(t, byKey(totals), slices.Collect(values(s.totals.In(tx).All())))
			require.Equal(t, byKey(countries), slices.Collect(values(s.countries.In(tx).All())))
			require.Equal(t, billed, s.billed.In(tx).Len())
			best := slices.Collect(values(s.byAmount.all().In(tx).Backward()))[:3]
			require.Equal(t, best, slices.Collect(values(s.best.In(tx).All())))
			moments[s.text(lines)] = true
			return nil
		}, s.tables()...))
	}
	close(stop)
	writers.Wait()
}

// V1 and V2 hold for a graph of all kinds of views in four phases, which come from Zero's tests. The phases remove all rows
// one by one, add them back, edit each row across every boundary, and edit it back. After each step, the views are compared
// with a recomputation. In the end they are as they were at first.
func TestFourPhases(t *testing.T) {
	m := newViewModel(t)
	r := newRand(t)
	views := func() (texts []string) {
		for _, v := range m.list {
			texts = append(texts, textOfView(t, v))
		}
		return texts
	}
	first := views()
	orders, customers := byKey(m.orderRows(nil)), byKey(maps.Collect(m.customers.All()))
	ids, names := r.Perm(len(orders)), r.Perm(len(customers))
	step := func(c Change[order], err error) {
		t.Helper()
		require.NoError(t, err)
		m.check(nil)
	}
	stepOfCustomer := func(c Change[customer], err error) {
		t.Helper()
		require.NoError(t, err)
		m.check(nil)
	}

	for i, id := range ids {
		step(m.orders.Delete(id))
		if i < len(names) {
			stepOfCustomer(m.customers.Delete(customers[names[i]].Name))
		}
	}
	for _, v := range m.list {
		require.Zero(t, v.table.Len(), v.name)
	}

	for i, id := range r.Perm(len(orders)) {
		step(m.orders.Insert(orders[id]))
		if i < len(names) {
			stepOfCustomer(m.customers.Insert(customers[names[i]]))
		}
	}
	require.Equal(t, first, views())

	edits := []func(o *order){
		func(o *order) { o.Player = "B" },                  // another group, and another join key
		func(o *order) { o.Player = "Z" },                  // a new group, and a join key without a row
		func(o *order) { o.Score = 49 - o.ID },             // below the threshold, and to the bottom
		func(o *order) { o.Score = 1000 + o.ID },           // to the top
		func(o *order) { o.Score = 81 },                    // across the predicate; refused if lines has it
		func(o *order) { o.Score = 8 * o.ID },              // joined with itself
		func(o *order) { o.Player, o.Score = "X", o.ID*2 }, // several at once
	}
	refused := 0
	for _, id := range ids {
		for _, edit := range edits {
			_, err := m.orders.Update(id, edit)
			if err != nil {
				require.ErrorIs(t, err, ErrDuplicateKey)
				refused++
			}
		}
		m.check(nil)
	}
	for _, c := range customers {
		stepOfCustomer(m.customers.Update(c.Name, func(c *customer) { c.Country = "FR" }))
	}
	for _, id := range ids {
		step(m.orders.Upsert(orders[id]))
	}
	for _, c := range customers {
		stepOfCustomer(m.customers.Replace(c))
	}
	require.Equal(t, first, views())

	// Each edit alone, and back.
	for _, i := range ids[:5] {
		for _, edit := range edits {
			if _, err := m.orders.Update(i, edit); err != nil {
				require.ErrorIs(t, err, ErrDuplicateKey)
				refused++
			}
			m.check(nil)
			step(m.orders.Replace(orders[i]))
			require.Equal(t, first, views())
		}
	}
	t.Logf("%d edits were refused", refused)
}

// textOfView returns the rows of a view in JSON.
func textOfView(t *testing.T, v *modelView) string {
	rows := reflect.ValueOf(v.table).MethodByName("All").Call(nil)[0]
	var list []any
	for _, row := range rows.Seq2() {
		list = append(list, row.Interface())
	}
	text, err := json.Marshal(list)
	require.NoError(t, err)
	return string(text)
}

// The same writes, split into transactions in different ways, give the same rows in all views. Rollbacks between them make
// no difference.
func TestSplitAndMerged(t *testing.T) {
	seed := testSeed(t)
	write := func(r *rand.Rand, orders tableWriter[int, order], customers tableWriter[string, customer]) {
		var err error
		id, name := r.IntN(30), string(rune('A'+r.IntN(5)))
		switch r.IntN(5) {
		case 0, 1:
			_, err = orders.Upsert(order{id, name, r.IntN(200)})
		case 2:
			_, err = orders.Delete(id)
		case 3:
			_, err = customers.Upsert(customer{name, []string{"NL", "FR"}[r.IntN(2)]})
		default:
			_, err = customers.Delete(name)
		}
		if err != nil {
			require.True(t, errors.Is(err, ErrNotFound) || errors.Is(err, ErrDuplicateKey), "%v", err)
		}
	}
	const writes = 300
	run := func(size func(r *rand.Rand) int, rollbacks bool) (views []string) {
		m := newViewModel(t)
		what, how := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		for left := writes; left > 0; {
			n := min(size(how), left)
			left -= n
			if rollbacks {
				require.Equal(t, errRolledBack, Transact(func(tx *Tx) error {
					for range n {
						write(how, m.orders.In(tx), m.customers.In(tx))
					}
					return errRolledBack
				}, m.orders, m.customers))
			}
			if n == 1 {
				write(what, m.orders, m.customers)
				continue
			}
			require.NoError(t, Transact(func(tx *Tx) error {
				for range n {
					write(what, m.orders.In(tx), m.customers.In(tx))
				}
				return nil
			}, m.orders, m.customers))
		}
		m.check(nil)
		for _, v := range m.list {
			views = append(views, v.name+": "+textOfView(t, v))
		}
		return views
	}
	want := run(func(*rand.Rand) int { return 1 }, false)
	require.Equal(t, want, run(func(*rand.Rand) int { return writes }, false))
	require.Equal(t, want, run(func(r *rand.Rand) int { return 1 + r.IntN(10) }, false))
	require.Equal(t, want, run(func(r *rand.Rand) int { return 1 + r.IntN(10) }, true))
	require.Equal(t, want, run(func(r *rand.Rand) int { return 1 }, true))
}

// A Select that leaves all rows as they are has the rows of its source. The sums and counts of all groups add up to those
// of the source. A Join of two tables by their keys has the same pairs whichever table is left.
func TestViewsMetamorphic(t *testing.T) {
	r := newRand(t)
	games, others := newGames(), NewTable("others", func(l *line) int { return l.ID })
	same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	sums := Group(games, "sums", func(g *game) string { return g.Player }, func(sum *int, g *game, sign int) { *sum += sign * g.Score })
	counts := Count(games, "counts", func(g *game) string { return strconv.Itoa(g.Score % 3) })
	oneWay := Join(games, others, "one way", func(g *game) int { return g.ID })
	otherWay := Join(others, games, "other way", func(l *line) int { return l.ID })
	changes, copied := games.Batches(t.Context(), 1, Poll(nil)), same.Batches(t.Context(), 1, Poll(nil))
	for range 1000 {
		id := r.IntN(20)
		switch r.IntN(6) {
		case 0:
			_, _ = games.Delete(id)
		case 1:
			_, _ = others.Delete(id)
		case 2:
			must[line](t)(others.Upsert(line{ID: id, Score: r.IntN(5)}))
		default:
			must[game](t)(games.Upsert(game{id, string(rune('A' + r.IntN(4))), r.IntN(10)}))
		}
		require.Equal(t, rowsOf(t, games.All()), rowsOf(t, same.All()))
		require.Equal(t, rowsOf(t, games.Backward()), rowsOf(t, same.Backward()))
		sum, count, counted := 0, 0, 0
		for _, g := range games.All() {
			sum -= g.Score
		}
		for _, g := range sums.All() {
			sum += g.Value
			count += g.Count
			require.Positive(t, g.Count)
		}
		for _, g := range counts.All() {
			counted += g.Count
		}
		require.Zero(t, sum)
		require.Equal(t, games.Len(), count)
		require.Equal(t, games.Len(), counted)
		require.Equal(t, oneWay.Len(), otherWay.Len())
		for id, j := range oneWay.All() {
			other, ok := otherWay.Get(id)
			require.True(t, ok)
			require.Same(t, j.Left, other.Right)
			require.Same(t, j.Right, other.Left)
		}
	}
	require.Equal(t, batchesOf(changes, -1), batchesOf(copied, -1), "the changes of a source are those of the same rows")
}

// V7: each source of a view was made before the view. The sources are those that the view follows.
func TestSourcesAreMadeBeforeTheirViews(t *testing.T) {
	s := newShop(t)
	for _, v := range []struct {
		view    txTable
		taps    []anyTap
		sources []txTable
	}{
		{s.lines.table, s.lines.table.taps, []txTable{s.orders}},
		{s.totals.table, s.totals.table.taps, []txTable{s.orders}},
		{s.billed.table, s.billed.table.taps, []txTable{s.orders, s.customers}},
		{s.countries.table, s.countries.table.taps, []txTable{s.billed.table}},
		{s.richest.table, s.richest.table.taps, []txTable{s.countries.table}},
		{s.worstEach.table, s.worstEach.table.taps, []txTable{s.orders}},
	} {
		var sources []txTable
		for _, p := range v.taps {
			sources = append(sources, p.sourceTable())
			require.Less(t, p.sourceTable().lockOrder(), v.view.lockOrder(), v.view.Name())
		}
		require.True(t, slices.Equal(v.sources, sources), v.view.Name())
	}
}

// V6: a write that leaves a view's row equal is no change of the view, and goes no further. The functions of the next view
// are not called.
func TestV6EqualRows(t *testing.T) {
	games := newGames()
	high := Select(games, "high", func(l *line) int { return l.ID }, func(g *game) *line { return &line{ID: g.ID, Score: g.Score / 10} })
	calls := 0
	count := Count(high, "count", func(l *line) string { calls++; return strconv.Itoa(l.Score) })
	must[game](t)(games.Insert(game{ID: 1, Score: 15}))
	all := Commits(t.Context(), []AnyTable{high, count}, Poll(nil))
	feed := high.Changes(t.Context(), Poll(nil))
	calls = 0
	row := stored(high.table, 1)
	must[game](t)(games.Upsert(game{ID: 1, Score: 19})) // the view's row stays
	require.Equal(t, None, must[game](t)(games.Upsert(game{ID: 1, Score: 19})).Kind)
	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: 12}))
		return nil
	}, games))
	require.Zero(t, calls)
	require.Same(t, row, stored(high.table, 1))
	require.EqualValues(t, 1, high.Seq())
	require.EqualValues(t, 1, count.Seq())
	require.Empty(t, take(all, 1))
	require.Empty(t, take(feed, 1))
	must[game](t)(games.Upsert(game{ID: 1, Score: 20}))
	require.Positive(t, calls)
	require.Len(t, take(all, -1), 1)
	require.Len(t, take(feed, -1), 1)
}

// A bankAccount is a row of the bank: Player is the owner, and Score the balance.
type bankAccount = game

// While goroutines transfer amounts and owners move, every reader of a Group of a Join finds the same sum over all groups.
// Run with -race.
func TestBank(t *testing.T) {
	const count, balance, goroutines = 20, 100, 8
	accounts := NewTable("accounts", func(a *bankAccount) int { return a.ID })
	owners := NewTable("owners", func(c *customer) string { return c.Name })
	for i := range 5 {
		must[customer](t)(owners.Insert(customer{fmt.Sprint(i), "NL"}))
	}
	for i := range count {
		must[bankAccount](t)(accounts.Insert(bankAccount{i, fmt.Sprint(i % 5), balance}))
	}
	joined := Join(accounts, owners, "joined", func(a *bankAccount) string { return a.Player })
	fold := func(sum *int, j *Joined[bankAccount, customer], sign int) { *sum += sign * j.Left.Score }
	countries := Group(joined, "countries", func(j *Joined[bankAccount, customer]) string { return j.Right.Country }, fold)
	total := Group(joined, "total", func(*Joined[bankAccount, customer]) string { return "all" }, fold)
	batches := countries.Batches(t.Context(), 1, Poll(nil))
	folded := maps.Collect(countries.All())

	stop := make(chan struct{})
	var writers sync.WaitGroup
	seed := testSeed(t)
	for g := range goroutines {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				from, to, amount := r.IntN(count), r.IntN(count), r.IntN(50)
				err := Transact(func(tx *Tx) error {
					in := accounts.In(tx)
					if _, err := in.Update(from, func(a *bankAccount) { a.Score -= amount }); err != nil {
						return err
					}
					if r.IntN(5) == 0 {
						return errRolledBack
					}
					_, err := in.Update(to, func(a *bankAccount) { a.Score += amount })
					return err
				}, accounts)
				require.True(t, err == nil || err == errRolledBack)
				if r.IntN(3) == 0 {
					_, err := owners.Upsert(customer{fmt.Sprint(r.IntN(5)), []string{"NL", "FR", "BE"}[r.IntN(3)]})
					require.NoError(t, err)
				}
			}
		})
	}
	sumOf := func(rows iter.Seq[Grouped[string, int]]) (sum int) {
		for g := range rows {
			sum += g.Value
		}
		return sum
	}
	began := countries.Seq()
	for countries.Seq() < began+1000 {
		got, ok := total.Get("all")
		require.True(t, ok)
		require.Equal(t, Grouped[string, int]{"all", count, count * balance}, got)
		require.Equal(t, count*balance, sumOf(values(countries.All())))
		require.Equal(t, count*balance, sumOf(values(countries.Backward())))
		require.NoError(t, Read(func(tx *Tx) error {
			require.Equal(t, count*balance, sumOf(values(countries.In(tx).All())))
			sum := 0
			for _, a := range accounts.In(tx).All() {
				sum += a.Score
			}
			require.Equal(t, count*balance, sum)
			return nil
		}, countries, accounts))
		for batch, err := range batches {
			require.NoError(t, err)
			for _, c := range batch {
				if c.New != nil {
					folded[c.New.Group] = *c.New
				} else {
					delete(folded, c.Old.Group)
				}
			}
			require.Equal(t, count*balance, sumOf(maps.Values(folded)), "after each batch")
			break
		}
	}
	close(stop)
	writers.Wait()
}

// A write is visible in a source and its views at once: after a reader has seen it in one of them, Get of the others sees
// it. The writes are updates, inserts and deletes. Run with -race.
func TestGetSeesSourcesAndViewsAtOnce(t *testing.T) {
	games := newGames()
	for i := range 50 { // so that it takes longer to publish a write
		Count(games.Row(1), fmt.Sprint("count ", i), scoreText)
	}
	same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return &game{g.ID, "", g.Score} })
	sums := Group(same, "sums", func(g *game) string { return strconv.Itoa(g.ID) }, func(sum *int, g *game, sign int) { *sum += sign * g.Score })
	must[game](t)(games.Insert(game{ID: 1}))
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { // row 2 has the score of row 1 if it is there
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if n%3 == 0 {
				must[game](t)(games.Upsert(game{ID: 1, Score: n}))
				continue
			}
			require.NoError(t, Transact(func(tx *Tx) error {
				must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: n}))
				if n%3 == 1 {
					must[game](t)(games.In(tx).Insert(game{ID: 2, Score: n}))
				} else {
					must[game](t)(games.In(tx).Delete(2))
				}
				return nil
			}, games))
		}
	})
	gets := []func(id int) int{
		func(id int) int { g, _ := games.Get(id); return g.Score },
		func(id int) int { g, _ := same.Get(id); return g.Score },
		func(id int) int { g, _ := sums.Get(strconv.Itoa(id)); return g.Value },
	}
	r := newRand(t)
	last, seconds := 0, 0
	for last < 2000 || seconds < 100 {
		get := gets[r.IntN(len(gets))]
		n := get(1)
		require.GreaterOrEqual(t, n, last)
		last = n
		if n := get(2); n > 0 {
			require.GreaterOrEqual(t, n, last, "it was deleted")
			last = n
			seconds++
		}
	}
	close(stop)
	writer.Wait()
}

// requireUnattached requires that a table has no view, and no index that only a view uses.
func requireUnattached[K, V any](t *testing.T, table *Table[K, V]) {
	t.Helper()
	table.mu.RLock()
	defer table.mu.RUnlock()
	require.Empty(t, table.dependents)
	require.Len(t, table.indexes, len(table.shownIndexes()))
}

// requireHiddenIndexes requires that the indexes which only views use have all rows, and nothing else.
func requireHiddenIndexes(t *testing.T, games *Table[int, game]) {
	t.Helper()
	games.mu.RLock()
	defer games.mu.RUnlock()
	checked := 0
	for _, x := range games.indexes {
		entries := 0
		has := func(c *cell[int, game]) bool {
			require.NotNil(t, c)
			require.NotNil(t, c.row.Load())
			entries++
			return true
		}
		switch x := x.(type) {
		case *Index[int, int, game]: // of a Join
			x.rows.tree.Ascend(func(e indexEntry[int, int]) bool { return has((*cell[int, game])(e.cell)) })
		case *Index[groupValue[string, int], int, game]: // of a TopEach
			x.rows.tree.Ascend(func(e indexEntry[groupValue[string, int], int]) bool { return has((*cell[int, game])(e.cell)) })
		}
		if x.isHidden() {
			checked++
			require.Equal(t, games.len, entries)
		}
	}
	require.Equal(t, 2, checked)
}

// V1 holds for views that are made while other goroutines write, commit and roll back. A view's Seq counts only the
// changes since the view was made.
func TestViewsMadeBesideWriters(t *testing.T) {
	const rows, goroutines = 2000, 4
	games, others := newGames(), NewTable("others", func(l *line) int { return l.ID })
	for id := range rows {
		must[game](t)(games.Insert(game{id, string(rune('A' + id%7)), id % 50}))
		must[line](t)(others.Insert(line{ID: id, Score: id}))
	}
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })

	stop := make(chan struct{})
	var writers sync.WaitGroup
	var begun atomic.Int64
	during := int64(0) // number of writes that were begun while a view was made
	seed := testSeed(t)
	for g := range goroutines {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		write := func(games tableWriter[int, game], others tableWriter[int, line]) {
			switch id := r.IntN(rows + 100); r.IntN(5) {
			case 0:
				_, _ = games.Delete(id)
			case 1:
				_, _ = others.Delete(id)
			case 2:
				must[line](t)(others.Upsert(line{ID: id, Score: r.IntN(5)}))
			default:
				must[game](t)(games.Upsert(game{id, string(rune('A' + r.IntN(8))), r.IntN(60)}))
			}
		}
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				begun.Add(1)
				if r.IntN(2) == 0 {
					write(games, others)
					continue
				}
				_ = Transact(func(tx *Tx) error {
					write(games.In(tx), others.In(tx))
					write(games.In(tx), others.In(tx))
					if r.IntN(2) == 0 {
						return errRolledBack
					}
					return nil
				}, games, others)
			}
		})
	}
	var infos []func() TableInfo
	made := func(v AnyTable) {
		before := begun.Load()
		first := v.Info().Position.Seq
		after := begun.Load()
		require.LessOrEqual(t, first, 8*uint64(after-before+goroutines), "%v: the rows with which it was made have no numbers", v.Name())
		infos = append(infos, v.Info)
	}
	check := func() {
		before := begun.Load()
		by := func(g *game) string {
			for range 5 {
				runtime.Gosched() // so that writers come to wait for the lock
			}
			return g.Player
		}
		same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { by(g); return g })
		sums := Group(games.Where(isOddGame), "sums", by, func(sum *int, g *game, sign int) { *sum += sign * g.Score })
		joined := LeftJoin(games, others.From(100), "joined", func(g *game) int { by(g); return g.ID })
		each := TopEach(scores, "each", 3, by)
		during += begun.Load() - before
		requireHiddenIndexes(t, games)
		best := Top(scores, "best", 10)
		for _, v := range []AnyTable{best, each} {
			made(v)
		}
		for begun.Load() < before+200 {
			runtime.Gosched()
		}
		require.NoError(t, Read(func(tx *Tx) error {
			all := slices.Collect(values(games.In(tx).All()))
			require.Equal(t, all, slices.Collect(values(same.In(tx).All())), "V1")
			right := maps.Collect(others.In(tx).All())
			want := map[string]Grouped[string, int]{}
			require.Equal(t, len(all), joined.In(tx).Len())
			for _, g := range all {
				if isOddGame(&g) {
					want[g.Player] = Grouped[string, int]{g.Player, want[g.Player].Count + 1, want[g.Player].Value + g.Score}
				}
				j, _ := joined.In(tx).Get(g.ID)
				require.Equal(t, g, *j.Left)
				l, ok := right[g.ID]
				if ok = ok && g.ID >= 100; ok {
					require.Equal(t, l, *j.Right)
				} else {
					require.Nil(t, j.Right)
				}
			}
			require.Equal(t, byKey(want), slices.Collect(values(sums.In(tx).All())), "V1")
			ranked := slices.SortedFunc(slices.Values(all), func(a, b game) int { return -byScore(a, b) })
			require.Equal(t, ranked[:10], slices.Collect(values(best.In(tx).All())), "V1")
			slices.SortStableFunc(ranked, func(a, b game) int { return strings.Compare(a.Player, b.Player) })
			count := map[string]int{}
			ranked = slices.DeleteFunc(ranked, func(g game) bool { count[g.Player]++; return count[g.Player] > 3 })
			require.Equal(t, ranked, slices.Collect(values(each.In(tx).All())), "V1")
			return nil
		}, games, others, same, sums, joined, each, best))
		for _, v := range []AnyTable{same, sums, joined, each, best} {
			info := v.Info()
			require.Equal(t, info.Position.Seq, info.Inserts+info.Updates+info.Deletes)
		}
		same.Drop()
		sums.Drop()
		joined.Drop()
		each.Drop()
		best.Drop()
		requireUnattached(t, games)
		requireUnattached(t, others)
	}
	for round := 0; round < 5 || during < 500; round++ {
		require.Less(t, round, 100)
		check()
	}
	t.Logf("%d writes while the views were made", during)
	close(stop)
	writers.Wait()
}

// A view's Seq counts the changes since it was made. The rows that it is made with have no numbers.
func TestViewIsMadeWithoutChanges(t *testing.T) {
	games := newGames()
	insertRows(t, games, slices.Collect(func(yield func(int) bool) {
		for id := range 200 {
			if !yield(id) {
				return
			}
		}
	})...)
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })
	for _, make := range []func() *View[int, game]{
		func() *View[int, game] {
			return Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
		},
		func() *View[int, game] { return Top(scores, "top", 1000) },
		func() *View[int, game] { return TopEach(scores, "top each", 1000, func(*game) string { return "all" }) },
	} {
		v := make()
		require.Equal(t, 200, v.Len())
		info := v.Info()
		require.Equal(t, TableInfo{Name: v.Name(), Rows: 200, Position: v.At(0)}, info)
		v.Retain(10)
		var tracked Feed
		feed := v.Changes(t.Context(), Poll(nil), Track(&tracked))
		require.Empty(t, take(feed, 1))
		require.Equal(t, v.At(0), tracked.Position())
		must[game](t)(games.Upsert(game{ID: 7, Score: int(games.Seq())}))
		require.EqualValues(t, 1, v.Seq())
		require.Equal(t, "1", wordsOf(feed, -1))
		require.Equal(t, "1", wordsOf(v.Changes(t.Context(), Poll(nil), After(v.At(0))), -1), "it is retained")
	}
}

// A panic in a definition while a view is made reaches the caller. The source then has no trace of the view.
func TestPanicWhileAViewIsMade(t *testing.T) {
	const rows = 200
	games, others := newGames(), NewTable("others", func(l *line) int { return l.ID })
	for id := range rows {
		must[game](t)(games.Insert(game{ID: id, Score: id}))
		must[line](t)(others.Insert(line{ID: id, Score: id}))
	}
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })
	calls, panicAt := 0, 0
	call := func() {
		if calls++; calls == panicAt {
			panic(errDefinition)
		}
	}
	making := false
	other := NewIndex(games, "other", func(g *game) int {
		if making {
			call()
		}
		return g.Score
	})
	makes := func(top func(x *Index[int, int, game], name string, n int) *View[int, game]) func() {
		return func() {
			making = true
			defer func() { making = false }()
			top(other, "v", rows)
		}
	}
	ref := func(g *game) int { call(); return g.ID % 10 }
	by := func(g *game) string { return strconv.Itoa(ref(g)) }
	same := func(g *game) *game { return g }
	key := func(g *game) int { return g.ID }
	fold := func(*int, *game, int) {}
	for name, make := range map[string]func(){
		"Select":      func() { Select(games, "v", key, func(g *game) *game { call(); return g }) },
		"Select key":  func() { Select(games, "v", func(g *game) int { call(); return g.ID }, same) },
		"Where":       func() { Select(games.Where(func(*game) bool { call(); return true }), "v", key, same) },
		"Group by":    func() { Group(games, "v", by, fold) },
		"Group fold":  func() { Group(games, "v", func(*game) string { return "all" }, func(*int, *game, int) { call() }) },
		"Count":       func() { Count(games, "v", by) },
		"Join":        func() { Join(games, others, "v", ref) },
		"LeftJoin":    func() { LeftJoin(games, others, "v", ref) },
		"right Where": func() { Join(games, others.Where(func(*line) bool { call(); return true }), "v", key) },
		"Top":         makes(Top[int, int, game]),
		"Bottom":      makes(Bottom[int, int, game]),
		"TopEach":     func() { TopEach(scores, "v", 1, by) },
		"BottomEach":  func() { BottomEach(scores, "v", 1, by) },
		"another Seq": func() {
			Select(games, "v", func(g *game) int { call(); return g.ID }, func(g *game) *game { call(); return g })
		},
		"with itself": func() { Join(games, games, "v", ref) },
		"of a Top":    func() { Count(Top(scores, "top", 1000), "v", by) },
	} {
		for _, panicAt = range []int{1, 2, growSize, growSize + 1, rows - 1, rows} {
			calls = 0
			require.PanicsWithValue(t, errDefinition, make, "%s, call %d", name, panicAt)
			if name == "of a Top" {
				require.Len(t, games.Views(), 1, "the Top")
				top := games.dependents[0].dependent.viewTable().(*Table[int, game])
				require.Empty(t, top.dependents)
				top.Drop()
			}
			requireUnattached(t, games)
			requireUnattached(t, others)
			calls = 0
			must[game](t)(games.Upsert(game{ID: panicAt % rows, Score: 1000 + int(games.Seq())}))
			must[line](t)(others.Upsert(line{ID: panicAt % rows, Score: int(others.Seq())}))
			require.Zero(t, calls)
		}
	}
	require.PanicsWithValue(t, `changefeed: Select: the row of "v" for the key 1 has the key 2; keep the key of the source`, func() {
		Select(games, "v", key, func(g *game) *game { return &game{ID: g.ID * 2} })
	})
	requireUnattached(t, games)
	require.Equal(t, []string{"score", "other"}, games.Info().Indexes)
}

// A view is in a transaction of its source, also if the source has got the lock of another table since.
func TestViewInATransactionAfterAJoin(t *testing.T) {
	others, games := newGames(), newGames()
	v := Select(games, "v", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	Join(others, games, "joined", func(g *game) int { return g.Score })
	require.NoError(t, Transact(func(tx *Tx) error {
		require.Zero(t, v.In(tx).Len())
		must[game](t)(games.In(tx).Insert(game{ID: 1}))
		require.Equal(t, 1, v.In(tx).Len())
		return nil
	}, games))
}

// If a source is dropped while a view is made, the view is dropped.
func TestSourceDroppedWhileAViewIsMade(t *testing.T) {
	const rows = 500
	during := 0
	for round := 0; during < 5; round++ {
		require.Less(t, round, 1000)
		games, others := newGames(), NewTable("others", func(l *line) int { return l.ID })
		for id := range rows {
			must[game](t)(games.Insert(game{ID: id, Score: id}))
		}
		scores := NewIndex(games, "score", func(g *game) int { return g.Score })
		calls := 0
		var dropper sync.WaitGroup
		ref := func(g *game) int {
			if calls++; calls == 10 {
				dropper.Go(games.Drop)
			}
			for range 10 {
				runtime.Gosched() // so that Drop comes to wait for the lock
			}
			return g.ID
		}
		by := func(g *game) string { return strconv.Itoa(ref(g)) }
		var v AnyTable
		switch round % 4 {
		case 0:
			v = Count(games, "v", by)
		case 1:
			v = LeftJoin(games, others, "v", ref)
		case 2:
			v = TopEach(scores, "v", 1, by)
		case 3:
			v = LeftJoin(others, games.Where(func(g *game) bool { ref(g); return true }), "v", func(l *line) int { return l.ID })
			for id := range 10 { // each looks for its right row
				must[line](t)(others.Insert(line{ID: id, Score: id}))
			}
		}
		dropper.Wait()
		if calls < rows && round%4 != 3 {
			during++
		}
		info := v.Info()
		require.True(t, info.Dropped)
		require.Zero(t, v.Len())
		require.Empty(t, games.Views())
		require.Empty(t, others.Views())
		requireUnattached(t, others)
		must[line](t)(others.Upsert(line{ID: 1, Score: 1}))
	}
}

// Drop of a view leaves its sources as they are, and drops its views. Drop of a source drops its views. Feeds end with
// ErrTableDropped, which names the view, after the buffered changes. A view of a dropped source is itself dropped, and is
// empty.
func TestDropOfViews(t *testing.T) {
	for _, dropped := range []string{"orders", "customers", "billed", "countries", "lines", "worst each", "best"} {
		s := newShop(t).watch()
		gone := map[string][]string{
			"orders":     {"orders", "lines", "totals", "counts", "billed", "all", "countries", "best", "worst each", "richest"},
			"customers":  {"customers", "billed", "all", "countries", "richest"},
			"billed":     {"billed", "countries", "richest"},
			"countries":  {"countries", "richest"},
			"lines":      {"lines"},
			"worst each": {"worst each"},
			"best":       {"best"},
		}[dropped]
		commits := map[string]Stream[Commit]{}
		for _, table := range s.tables() {
			commits[table.Name()] = Commits(t.Context(), []AnyTable{table}, Poll(nil))
		}
		before := s.figures()
		for _, write := range shopWrites {
			require.NoError(t, write.do(s.orders, s.customers))
		}
		for _, table := range s.tables() {
			if table.Name() == dropped {
				table.(interface{ Drop() }).Drop()
				table.(interface{ Drop() }).Drop() // does nothing
			}
		}
		for i, w := range s.watched {
			name := w.Name()
			isGone := slices.Contains(gone, name)
			info := w.Info()
			require.Equal(t, isGone, info.Dropped, "%s after Drop of %s", name, dropped)
			n, err := w.changes()
			require.Equal(t, info.Position.Seq-before[i].Position.Seq, n, "%s after Drop of %s", name, dropped)
			require.Positive(t, n)
			var last error
			for _, err := range commits[name] {
				last = err
			}
			if !isGone {
				require.NoError(t, err)
				require.NoError(t, last)
				require.Positive(t, w.Len())
				continue
			}
			require.ErrorIs(t, err, ErrTableDropped)
			require.EqualError(t, err, fmt.Sprintf("changefeed: changes of %q: table dropped", name))
			require.EqualError(t, last, fmt.Sprintf("changefeed: commits of %q: table dropped", name))
			require.Zero(t, w.Len())
		}
		names := func(views []ViewInfo) (names []string) {
			for _, v := range views {
				names = append(names, v.Name)
			}
			return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(gone, name) })
		}
		views := names(s.orders.Views())
		require.Len(t, s.orders.Views(), len(views), "no view that is gone")
		require.Len(t, s.customers.Views(), len(names(s.customers.Views())))
		if dropped != "orders" {
			_, err := s.orders.Upsert(order{50, "A", 77}) // the views that are left follow
			require.NoError(t, err)
			if !slices.Contains(gone, "totals") {
				got, _ := s.totals.Get("A")
				sum := 0
				for _, o := range s.orders.All() {
					if o.Player == "A" {
						sum += o.Score
					}
				}
				require.Equal(t, sum, got.Value)
			}
		}
	}

	// With all views dropped, nothing is left.
	s := newShop(t).watch()
	for _, v := range []interface{ Drop() }{s.all, s.worstEach, s.lines, s.totals, s.counts, s.billed, s.best} {
		v.Drop()
	}
	requireUnattached(t, s.orders)
	requireUnattached(t, s.customers)
	s.hook = func(function string) { require.Equal(t, "index", function) }
	for _, write := range shopWrites {
		require.NoError(t, write.do(s.orders, s.customers))
	}
}

// A view of a dropped table is itself dropped, and is empty.
func TestViewOfADroppedTable(t *testing.T) {
	games, others := newGames(), NewTable("others", func(l *line) int { return l.ID })
	must[game](t)(games.Insert(game{ID: 1}))
	must[line](t)(others.Insert(line{ID: 1, Score: 1}))
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })
	games.Drop()
	ref := func(g *game) int { panic("there is no row") }
	by := func(g *game) string { panic("there is no row") }
	same := Select(games, "same", func(g *game) int { return g.ID }, func(*game) *game { panic("there is no row") })
	for _, v := range []AnyTable{
		same, Select(same, "of a view", func(g *game) int { return g.ID }, func(g *game) *game { return g }),
		Group(games, "group", by, func(*int, *game, int) {}), Count(games, "count", by),
		Join(games, others, "left", ref), LeftJoin(others, games, "right", func(l *line) int { return l.ID }),
		Top(scores, "top", 1), Bottom(scores, "bottom", 1), TopEach(scores, "top each", 1, by), BottomEach(scores, "bottom each", 1, by),
	} {
		info := v.Info()
		require.True(t, info.Dropped, v.Name())
		require.Equal(t, TableInfo{Name: v.Name(), Dropped: true, Position: v.At(0)}, info)
		for _, err := range Commits(t.Context(), []AnyTable{v}) {
			require.ErrorIs(t, err, ErrTableDropped)
		}
	}
	requireUnattached(t, games)
	requireUnattached(t, others)
	require.Equal(t, "changefeed: changes of \"same\": table dropped", wordsErr(same.Changes(t.Context())))
	_, ok := same.Get(1)
	require.False(t, ok)
	require.ErrorIs(t, Transact(func(*Tx) error { return nil }, same), ErrTableDropped)
	must[line](t)(others.Upsert(line{ID: 1, Score: 2}))
}

// wordsErr returns the text of the only error of a stream.
func wordsErr[T any](s Stream[T]) string {
	pairs := take(s, -1)
	if len(pairs) != 1 || pairs[0].err == nil {
		return fmt.Sprint(pairs)
	}
	return pairs[0].err.Error()
}

// A running Read stays valid while views and their hidden indexes are dropped and made. It reads each index in the tree
// of that index.
func TestReadStaysValidWhileViewsAreDropped(t *testing.T) {
	s := newShop(t).watch()
	first := TopEach(s.byAmount, "first", 1, func(o *order) string { return strconv.Itoa(o.ID % 3) })
	byBefore := NewIndex(s.orders, "before", before)
	tables := append(s.tables(), first)
	now := func(tx *Tx) string {
		var before, top []order
		before = slices.Collect(values(byBefore.all().In(tx).All()))
		top = slices.Collect(values(first.In(tx).All()))
		return s.contents(tx) + s.text(before) + s.text(top)
	}
	require.NoError(t, Read(func(tx *Tx) error {
		was := now(tx)
		next, stop := iter.Pull2(byBefore.Backward())
		defer stop()
		_, _, ok := next()
		require.True(t, ok)
		for _, drop := range []func(){s.all.Drop, s.worstEach.Drop, s.billed.Drop, func() {
			must[order](t)(s.orders.Upsert(order{100, "A", 1000}))
		}, first.Drop, func() {
			TopEach(s.byAmount, "another", 2, func(o *order) string { return strconv.Itoa(o.ID % 2) })
			LeftJoin(s.orders, s.customers, "another", func(o *order) string { return o.Player })
		}, s.lines.Drop, s.totals.Drop, s.orders.Drop} {
			drop()
			require.Equal(t, was, now(tx))
		}
		left := 0
		for {
			if _, _, ok := next(); !ok {
				break
			}
			left++
		}
		require.Equal(t, 11, left)
		return nil
	}, tables...))
}

// Table.Views has the name and the kind of each view, and the numbers of changes of the table and of the view.
func TestTableViews(t *testing.T) {
	games, others := newGames(), NewTable("others", func(l *line) int { return l.ID })
	insertRows(t, games, 1, 2, 3)
	require.Empty(t, games.Views())
	high := Select(games.Where(isHigh), "high", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	scores := NewIndex(games, "score", func(g *game) int { return g.Score })
	ref := func(g *game) int { return g.Score }
	Group(games, "group", scoreText, func(*int, *game, int) {})
	Count(games, "count", scoreText)
	Join(games, others, "join", ref)
	LeftJoin(games, others, "left join", ref)
	Top(scores, "top", 1)
	Bottom(scores, "bottom", 1)
	TopEach(scores, "top each", 1, scoreText)
	BottomEach(scores, "bottom each", 1, scoreText)
	Count(high, "of high", scoreText)
	none := []ViewInfo{
		{Name: "high", Kind: "Select"},
		{Name: "group", Kind: "Group"},
		{Name: "count", Kind: "Count"},
		{Name: "join", Kind: "Join"},
		{Name: "left join", Kind: "LeftJoin"},
		{Name: "top", Kind: "Top"},
		{Name: "bottom", Kind: "Bottom"},
		{Name: "top each", Kind: "TopEach"},
		{Name: "bottom each", Kind: "BottomEach"},
	}
	zero := func(views []ViewInfo) []ViewInfo {
		for i := range views {
			views[i].Writes, views[i].Changes = 0, 0
		}
		return views
	}
	require.Equal(t, none, zero(games.Views()))
	require.Equal(t, []ViewInfo{{Name: "of high", Kind: "Count"}}, high.Views())
	require.Equal(t, []ViewInfo{{Name: "join", Kind: "Join"}, {Name: "left join", Kind: "LeftJoin"}}, others.Views())

	byName := func(views []ViewInfo, name string) ViewInfo {
		return views[slices.IndexFunc(views, func(v ViewInfo) bool { return v.Name == name })]
	}
	base := byName(games.Views(), "group").Writes
	must[game](t)(games.Upsert(game{ID: 1, Score: 5}))  // outside the predicate
	must[game](t)(games.Upsert(game{ID: 1, Score: 15})) // into it
	must[game](t)(games.Upsert(game{ID: 1, Score: 16}))
	must[line](t)(others.Insert(line{ID: 16, Score: 0}))
	require.Equal(t, ViewInfo{"high", "Select", 2, 2}, games.Views()[0])
	group := byName(games.Views(), "group")
	require.EqualValues(t, 3, group.Writes-base)
	require.EqualValues(t, 6, group.Changes, "each write moves a row to another group")
	require.Equal(t, ViewInfo{"join", "Join", 1, 1}, others.Views()[0])
	require.EqualValues(t, 1, byName(games.Views(), "join").Changes, "also those for other sources")
	require.Equal(t, ViewInfo{"of high", "Count", 2, 3}, high.Views()[0])
}

// NewIndex, NewMultiIndex and NewUniqueIndex index a view, and the feeds of their selections follow it.
func TestIndexesOfViews(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{1, "Ann", 5}))
	same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	b := board{
		same.table, NewIndex(same, "player", func(g *game) string { return g.Player }), NewIndex(same, "score", func(g *game) int { return g.Score }),
		NewMultiIndex(same, "digits", digits),
	}
	unique, err := NewUniqueIndex(same, "unique", func(g *game) int { return g.ID % 100 })
	require.NoError(t, err)
	require.Equal(t, []string{"player", "score", "digits", "unique"}, same.Info().Indexes)
	require.PanicsWithValue(t, `changefeed: NewIndex: the table "same" has an index "score" already; give each its own name`, func() {
		NewIndex(same, "score", func(g *game) int { return g.Score })
	})
	type feed struct {
		boardSelection
		follow func() error
	}
	m := &viewModel{t: t}
	var feeds []feed
	for _, selection := range boardSelections {
		feeds = append(feeds, feed{selection, foldSelection(m, selection.of(b))})
	}
	r := newRand(t)
	refused := 0
	for range 500 {
		switch id := r.IntN(10) + 100*r.IntN(2); r.IntN(4) {
		case 0:
			_, _ = games.Delete(id)
		default:
			_, err := games.Upsert(game{id, []string{"Ann", "Bob", ""}[r.IntN(3)], r.IntN(200)})
			if err != nil {
				require.ErrorIs(t, err, ErrDuplicateKey)
				refused++
			}
		}
		for _, f := range feeds {
			var want []game
			for _, g := range games.All() {
				if f.has(&g) {
					want = append(want, g)
				}
			}
			slices.SortFunc(want, f.order)
			require.Equal(t, want, rowsOf(t, f.of(b).All()), f.name)
			require.NoError(t, f.follow(), f.name)
		}
		require.Equal(t, games.Len(), unique.Len())
	}
	require.Positive(t, refused)

	for id := range games.All() {
		must[game](t)(games.Delete(id))
	}
	must[game](t)(games.Upsert(game{250, "same score", 7777}))
	must[game](t)(games.Upsert(game{251, "same score", 7777}))
	before := same.Info()
	_, err = NewUniqueIndex(same, "second", func(g *game) int { return g.Score })
	require.ErrorIs(t, err, ErrDuplicateKey)
	require.EqualError(t, err, `changefeed: new index of "same": value 7777 in unique index "second" belongs to primary key 250, not to primary key 251`)
	require.Equal(t, before, same.Info())
}

// foldSelection folds the changes of a part of a table over its rows.
func foldSelection[K comparable, V any](m *viewModel, s Selection[K, V]) func() error {
	rows := maps.Collect(s.All())
	changes := s.Changes(m.t.Context(), Poll(nil))
	return func() error {
		for c, err := range changes {
			if err != nil {
				return err
			}
			if c.New != nil {
				rows[s.table.key(c.New)] = *c.New
			} else {
				delete(rows, s.table.key(c.Old))
			}
		}
		require.Equal(m.t, maps.Collect(s.All()), rows)
		return nil
	}
}

// Restore and Reset of a source change the rows of its views that differ, and reset no view.
func TestRestoreAndResetOfSources(t *testing.T) {
	games := newGames()
	same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return &game{g.ID, g.Player, g.Score} })
	sums := Group(games, "sums", func(g *game) string { return g.Player }, func(sum *int, g *game, sign int) { *sum += sign * g.Score })
	past := func(rows ...game) Past[game] {
		return Past[game]{Lineage: []Position{{History: newHistoryID(), Seq: 100}}, Rows: slices.Values(rows)}
	}
	feed, ofSums := same.Batches(t.Context(), 1, Poll(nil)), sums.Batches(t.Context(), 1, Poll(nil))
	require.NoError(t, games.Restore(past(game{1, "Ann", 5}, game{2, "Bob", 6}, game{3, "Ann", 7})))
	require.Equal(t, "[+1 +2 +3]", batchesOf(feed, -1))
	require.Equal(t, []Grouped[string, int]{{"Ann", 2, 12}, {"Bob", 1, 6}}, slices.Collect(values(sums.All())))
	require.Len(t, take(ofSums, -1), 1)
	require.EqualValues(t, 100, games.Seq())
	require.EqualValues(t, 3, same.Seq())

	row, inSource := stored(same.table, 1), stored(games, 1)
	history := same.Position().History
	source := games.Changes(t.Context(), Poll(nil))
	require.NoError(t, games.Reset(past(game{1, "Ann", 5}, game{3, "Bob", 7}, game{4, "Cid", 1})))
	require.Equal(t, "[-4 5 +6]", batchesOf(feed, -1), "row 1 stays")
	require.Same(t, row, stored(same.table, 1))
	require.Same(t, inSource, stored(games, 1))
	require.Equal(t, history, same.Position().History)
	require.Equal(t, []Grouped[string, int]{{"Ann", 1, 5}, {"Bob", 1, 7}, {"Cid", 1, 1}}, slices.Collect(values(sums.All())))
	require.Len(t, take(ofSums, -1), 1)
	pairs := take(source, -1)
	require.Len(t, pairs, 1)
	skipped, ok := errors.AsType[*SkippedError](pairs[0].err)
	require.True(t, ok && skipped.Reset)
	require.ErrorIs(t, games.Restore(past()), ErrNotEmpty)
	must[game](t)(games.Upsert(game{1, "Ann", 8}))
	require.Equal(t, "[7]", batchesOf(feed, -1))
	got, _ := games.Get(1)
	require.Equal(t, game{1, "Ann", 8}, got)
	require.Equal(t, rowsOf(t, games.All()), rowsOf(t, same.All()))

	// V4 for a Reset that a view refuses, also in a transaction that goes on.
	_, err := NewUniqueIndex(same, "score", func(g *game) int { return g.Score })
	require.NoError(t, err)
	before, ofSame := stateOf(games), stateOf(same.table)
	require.ErrorIs(t, games.Reset(past(game{5, "Eve", 1}, game{6, "Eve", 1})), ErrDuplicateKey)
	requireState(t, before, games)
	requireState(t, ofSame, same.table)
	require.NoError(t, Transact(func(tx *Tx) error {
		require.ErrorIs(t, games.In(tx).Reset(past(game{5, "Eve", 1}, game{6, "Eve", 1})), ErrDuplicateKey)
		_, err := games.In(tx).Upsert(game{1, "Ann", 7})
		require.ErrorIs(t, err, ErrDuplicateKey, "a write after the Reset is checked")
		must[game](t)(games.In(tx).Upsert(game{1, "Ann", 9}))
		return nil
	}, games))
	require.Equal(t, "[8]", batchesOf(feed, -1))
	require.Equal(t, rowsOf(t, games.All()), rowsOf(t, same.All()))

	// The unique index is checked at the end of a Reset, so two rows can exchange their values.
	require.NoError(t, games.Reset(past(game{1, "Ann", 7}, game{3, "Bob", 9}, game{4, "Cid", 1})))
	require.Equal(t, "[9 10]", batchesOf(feed, -1))
}

// The documentation says: "If Reset returns an error, the table is as it was." Another Reset can therefore follow in the
// transaction. The same holds for a write that fails in a view (V4).
func TestResetAfterAFailureInAView(t *testing.T) {
	games := newGames()
	same := Select(games, "same", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	_, err := NewUniqueIndex(same, "score", func(g *game) int { return g.Score })
	require.NoError(t, err)
	must[game](t)(games.Insert(game{1, "Ann", 5}))
	past := func(rows ...game) Past[game] {
		return Past[game]{Lineage: []Position{{History: newHistoryID(), Seq: 100}}, Rows: slices.Values(rows)}
	}
	for name, fail := range map[string]func(in TxTable[int, game]) error{
		"Reset": func(in TxTable[int, game]) error { return in.Reset(past(game{5, "Eve", 1}, game{6, "Eve", 1})) },
		"Insert": func(in TxTable[int, game]) error {
			_, err := in.Insert(game{2, "Bob", 5})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, Transact(func(tx *Tx) error {
				require.ErrorIs(t, fail(games.In(tx)), ErrDuplicateKey)
				require.NotPanics(t, func() { require.NoError(t, games.In(tx).Reset(past(game{1, "Ann", 5}))) })
				return nil
			}, games))
		})
	}
}

// Reset of several sources in one transaction is one batch in a view of both. If it fails, all are as they were.
func TestResetOfSeveralSources(t *testing.T) {
	s := newShop(t).watch()
	orders := func(rows ...order) Past[order] {
		return Past[order]{Lineage: []Position{{History: newHistoryID(), Seq: 1000}}, Rows: slices.Values(rows)}
	}
	customers := Past[customer]{Lineage: []Position{{History: newHistoryID(), Seq: 1000}}, Rows: slices.Values([]customer{{"A", "BE"}, {"Z", "NL"}})}
	feed := s.billed.Batches(t.Context(), 1, Poll(nil))
	was := s.snapshot()
	require.ErrorIs(t, Transact(func(tx *Tx) error {
		require.NoError(t, s.customers.In(tx).Reset(customers))
		return s.orders.In(tx).Reset(orders(order{1, "A", 60}, order{2, "A", 60})) // a unique index of lines
	}, s.orders, s.customers), ErrDuplicateKey)
	s.requireUnchanged(was, "a Reset that failed")
	require.Empty(t, take(feed, 1))

	require.NoError(t, Transact(func(tx *Tx) error {
		require.NoError(t, s.customers.In(tx).Reset(customers))
		require.NoError(t, s.orders.In(tx).Reset(orders(order{1, "A", 60}, order{2, "Z", 70}, order{3, "B", 80})))
		got, ok := s.countries.In(tx).Get("BE") // the views are there before the commit
		require.True(t, ok)
		require.Equal(t, Grouped[string, int]{"BE", 1, 60}, got)
		require.Equal(t, 3, s.all.In(tx).Len())
		return nil
	}, s.orders, s.customers))
	require.Len(t, take(feed, -1), 1, "one batch")
	require.Equal(t, []line{{ID: 1, Score: 120}, {ID: 2, Score: 140}, {ID: 3, Score: 160}}, slices.Collect(values(s.lines.All())))
	require.Equal(t, []Grouped[string, int]{{"BE", 1, 60}, {"NL", 1, 70}}, slices.Collect(values(s.countries.All())))
	require.Equal(t, []order{{3, "B", 80}, {2, "Z", 70}, {1, "A", 60}}, slices.Collect(values(s.best.All())))
	require.Equal(t, 2, s.billed.Len())
	require.Equal(t, 3, s.all.Len())
}

// The views of a replica follow Apply, with one batch. If a view refuses one of the changes, none is applied.
func TestApplyToASourceOfViews(t *testing.T) {
	source, replica := newGames(), newGames()
	same := Select(replica, "same", func(g *game) int { return g.ID }, func(g *game) *game { return &game{g.ID, g.Player, g.Score} })
	changes := source.Batches(t.Context(), 1, Poll(nil))
	lineage := source.Lineage()
	require.NoError(t, replica.Restore(Past[game]{Lineage: lineage}))
	feed := same.Batches(t.Context(), 1, Poll(nil))
	apply := func() error {
		for batch, err := range changes {
			require.NoError(t, err)
			if err := replica.Apply(lineage[0].History, batch...); err != nil {
				return err
			}
		}
		return nil
	}
	insertRows(t, source, 1, 2)
	require.NoError(t, apply())
	require.Equal(t, "[+1] [+2]", batchesOf(feed, -1))
	transactWrites(t, source, 3)
	must[game](t)(source.Delete(2))
	require.NoError(t, apply())
	require.Equal(t, "[3 4 5] [-6]", batchesOf(feed, -1))
	require.Equal(t, rowsOf(t, source.All()), rowsOf(t, same.All()))

	_, err := NewUniqueIndex(same, "score", func(g *game) int { return g.Score })
	require.NoError(t, err)
	before, ofSame := stateOf(replica), stateOf(same.table)
	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(source.In(tx).Insert(game{ID: 3, Score: 100}))
		must[game](t)(source.In(tx).Insert(game{ID: 4, Score: 100}))
		return nil
	}, source))
	require.ErrorIs(t, apply(), ErrDuplicateKey)
	requireState(t, before, replica)
	requireState(t, ofSame, same.table)
	require.Empty(t, batchesOf(feed, -1))
}

// A write that reaches no view allocates nothing for views: Update allocates its row alone. That is so if no view has the
// row, and if all views were dropped.
func TestNoAllocationsWithoutViews(t *testing.T) {
	if reflect.TypeFor[rowGuard[int, game]]().Size() > 0 {
		t.Skip("with the tag changefeed_debug, the library takes more memory")
	}
	games := newGames()
	insertRows(t, games, 1, 2)
	update := func() { _, _ = games.Update(1, func(g *game) { g.Score++ }) }
	update()
	require.EqualValues(t, 1, testing.AllocsPerRun(100, update))
	v := Count(games, "count", scoreText)
	update()
	require.Greater(t, testing.AllocsPerRun(100, update), 1.0)
	v.Drop()
	update()
	require.EqualValues(t, 1, testing.AllocsPerRun(100, update))

	Bottom(NewIndex(games, "id", func(g *game) int { return -g.ID }), "newest", 1) // game 2
	Count(games.Where(func(g *game) bool { return g.ID == 2 }), "second", scoreText)
	Select(games.Range(2, 3), "range", func(g *game) int { return g.ID }, func(g *game) *game { return g })
	update()
	require.EqualValues(t, 1, testing.AllocsPerRun(100, update))
	for _, view := range games.Views() {
		require.Zero(t, view.Writes, view.Name)
	}
}
