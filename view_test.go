package changefeed

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The rows of most tests of views are games, because the compiler makes a copy of the library for each type of rows.
type (
	order = game // Player is the customer, and Score the amount
	line  = game // of one order; Score is a multiple of the amount

	customer = user
)

// before returns the ID of another order, which need not exist.
func before(o *order) int { return o.Score / 8 }

var (
	errRolledBack = errors.New("rolled back")
	errDefinition = errors.New("a definition has panicked")
)

// A viewModel is a graph of views over two tables. After each step, every view is compared with the rows that its
// definition makes of the rows of its sources, and every feed with its view.
type viewModel struct {
	t         *testing.T
	orders    *Table[int, order]
	customers *Table[string, customer]
	calls     int      // a function of a definition panics at this call from now, or never if it is 0
	feeds     []func() // each reads a feed of a table, and compares it with the table
	list      []*modelView
}

// A modelView is a view that can be made and dropped.
type modelView struct {
	name string
	of   []*modelView
	make func()
	drop func()

	table AnyTable     // nil if the view is not made
	law   func(tx *Tx) // checks V1
	feed  func() error // checks V2, and returns the error that has ended the feed, or nil
}

// call is called by each function of a definition.
func (m *viewModel) call() {
	if m.calls--; m.calls == 0 {
		panic(errDefinition)
	}
}

// orderRows returns the rows of the orders, as they are in the transaction if tx is not nil.
func (m *viewModel) orderRows(tx *Tx) map[int]order { return rowsIn(tx, m.orders.Selection()) }

func rowsIn[K comparable, V any](tx *Tx, s Selection[K, V]) map[K]V {
	if tx == nil {
		return maps.Collect(s.All())
	}
	return maps.Collect(s.In(tx).All())
}

// viewRowsIn returns the rows in the order of All, and in that of Backward.
func viewRowsIn[K, V any](tx *Tx, v *View[K, V]) (rows, backward []V) {
	all, back := v.All, v.Backward
	if tx != nil {
		all, back = v.In(tx).All, v.In(tx).Backward
	}
	for _, row := range all() {
		rows = append(rows, row)
	}
	for _, row := range back() {
		backward = append(backward, row)
	}
	return rows, backward
}

// define adds a view of other views. want returns the rows that it must have, in their order.
func define[K comparable, V any](m *viewModel, of []*modelView, make func() *View[K, V], want func(tx *Tx) []V) *modelView {
	d := &modelView{of: of}
	d.make = func() {
		for _, source := range d.of {
			if source.table == nil {
				source.make()
			}
		}
		v := make()
		d.name, d.table, d.drop = v.Name(), v, v.Drop
		d.law = func(tx *Tx) {
			m.t.Helper()
			rows, backward := viewRowsIn(tx, v)
			require.Equal(m.t, want(tx), rows, "V1: %v", v.Name())
			slices.Reverse(backward)
			require.Equal(m.t, rows, backward, "V1: %v", v.Name())
		}
		d.feed = fold(m, v.Selection())
	}
	m.list = append(m.list, d)
	d.make()
	return d
}

// byKey returns the rows in the order of their keys.
func byKey[K cmp.Ordered, V any](rows map[K]V) (list []V) {
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, rows[key])
	}
	return list
}

// fold follows a part of a table. The function that it returns applies the changes of the feed to the rows that there
// were at first, and compares the result with the rows that there are. V2
func fold[K comparable, V any](m *viewModel, s Selection[K, V]) func() error {
	rows, seq := maps.Collect(s.All()), s.table.Seq()
	batches := s.Batches(m.t.Context(), 1, Poll(nil))
	return func() (ended error) {
		for batch, err := range batches {
			var skipped *SkippedError
			if errors.As(err, &skipped) && skipped.Reset {
				require.Contains(m.t, []AnyTable{m.orders, m.customers}, s.table.self, "a view is never reset")
				rows, seq = maps.Collect(s.All()), s.table.Seq()
				continue
			}
			if err != nil {
				require.ErrorIs(m.t, err, ErrTableDropped)
				ended = err
			}
			for _, c := range batch {
				seq++
				require.Equal(m.t, seq, c.Seq)
				if c.Old != nil {
					require.Equal(m.t, *c.Old, rows[s.table.key(c.Old)])
				}
				if c.New != nil {
					rows[s.table.key(c.New)] = *c.New
				} else {
					delete(rows, s.table.key(c.Old))
				}
			}
		}
		if ended == nil {
			require.Equal(m.t, maps.Collect(s.All()), rows, "V2: %v", s.table.Name())
		}
		return ended
	}
}

func newViewModel(t *testing.T) *viewModel {
	m := &viewModel{
		t: t, orders: NewTable("orders", func(o *order) int { return o.ID }),
		customers: NewTable("customers", func(c *customer) string { return c.Name }),
	}
	for id := range 20 {
		_, err := m.orders.Insert(order{id, string(rune('A' + id%5)), 40 + 7*id})
		require.NoError(t, err)
	}
	for _, name := range []string{"A", "B", "X"} {
		_, err := m.customers.Insert(customer{name, "NL"})
		require.NoError(t, err)
	}
	for _, feed := range []func() error{fold(m, m.orders.Selection()), fold(m, m.customers.Selection())} {
		m.feeds = append(m.feeds, func() { require.NoError(t, feed()) })
	}
	byCustomer := func(o *order) string {
		m.call()
		return o.Player
	}
	sum := func(sum *int, o *order, sign int) {
		m.call()
		*sum += sign * o.Score
	}

	var lines *View[int, line]
	define(m, nil, func() *View[int, line] {
		lines = Select(m.orders, "lines", func(l *line) int { return l.ID }, func(o *order) *line {
			m.call()
			if o.Score < 50 {
				return nil
			}
			return &line{ID: o.ID, Score: 2 * o.Score}
		})
		_, err := NewUniqueIndex(lines, "double", func(l *line) int { return l.Score })
		if err != nil {
			require.ErrorIs(t, err, ErrDuplicateKey)
		}
		return lines
	}, func(tx *Tx) []line {
		want := map[int]line{}
		for id, o := range m.orderRows(tx) {
			if o.Score >= 50 {
				want[id] = line{ID: id, Score: 2 * o.Score}
			}
		}
		return byKey(want)
	})

	var totals *View[string, Grouped[string, int]]
	totalsOf := func(orders map[int]order) map[string]Grouped[string, int] {
		want := map[string]Grouped[string, int]{}
		for _, o := range orders {
			g := want[o.Player]
			want[o.Player] = Grouped[string, int]{o.Player, g.Count + 1, g.Value + o.Score}
		}
		return want
	}
	ofTotals := define(m, nil, func() *View[string, Grouped[string, int]] {
		totals = Group(m.orders, "totals", byCustomer, sum)
		return totals
	}, func(tx *Tx) []Grouped[string, int] { return byKey(totalsOf(m.orderRows(tx))) })

	isBig := func(o *order) bool { return o.Score > 80 }
	define(m, nil, func() *View[string, Grouped[string, int]] {
		return Group(m.orders.From(5).Where(isBig), "big", byCustomer, sum)
	}, func(tx *Tx) []Grouped[string, int] {
		orders := m.orderRows(tx)
		maps.DeleteFunc(orders, func(id int, o order) bool { return id < 5 || !isBig(&o) })
		return byKey(totalsOf(orders))
	})

	define(m, []*modelView{ofTotals}, func() *View[int, Counted[int]] {
		return Count(totals, "sizes", func(g *Grouped[string, int]) int {
			m.call()
			return g.Value / 100
		})
	}, func(tx *Tx) []Counted[int] {
		want := map[int]Counted[int]{}
		for _, g := range totalsOf(m.orderRows(tx)) {
			want[g.Value/100] = Counted[int]{g.Value / 100, want[g.Value/100].Count + 1}
		}
		return byKey(want)
	})

	joinOf := func(tx *Tx, outer bool) map[int]Joined[order, customer] {
		want, customers := map[int]Joined[order, customer]{}, rowsIn(tx, m.customers.Selection())
		for id, o := range m.orderRows(tx) {
			if c, ok := customers[o.Player]; ok {
				want[id] = Joined[order, customer]{&o, &c}
			} else if outer {
				want[id] = Joined[order, customer]{&o, nil}
			}
		}
		return want
	}
	var billed *View[int, Joined[order, customer]]
	ofBilled := define(m, nil, func() *View[int, Joined[order, customer]] {
		billed = Join(m.orders, m.customers, "billed", byCustomer)
		return billed
	}, func(tx *Tx) []Joined[order, customer] { return byKey(joinOf(tx, false)) })
	define(m, nil, func() *View[int, Joined[order, customer]] {
		return LeftJoin(m.orders, m.customers, "all", byCustomer)
	}, func(tx *Tx) []Joined[order, customer] { return byKey(joinOf(tx, true)) })

	define(m, nil, func() *View[int, Joined[order, customer]] {
		return LeftJoin(m.orders.Where(isBig), m.customers.Where(func(c *customer) bool { return c.Country == "NL" }), "some", byCustomer)
	}, func(tx *Tx) []Joined[order, customer] {
		want := joinOf(tx, true)
		for id, j := range want {
			switch {
			case !isBig(j.Left):
				delete(want, id)
			case j.Right != nil && j.Right.Country != "NL":
				want[id] = Joined[order, customer]{j.Left, nil}
			}
		}
		return byKey(want)
	})

	countriesOf := func(tx *Tx) []Grouped[string, int] {
		want := map[string]Grouped[string, int]{}
		for _, j := range joinOf(tx, false) {
			g := want[j.Right.Country]
			want[j.Right.Country] = Grouped[string, int]{j.Right.Country, g.Count + 1, g.Value + j.Left.Score}
		}
		return byKey(want)
	}
	var countries *View[string, Grouped[string, int]]
	var byValue *Index[int, string, Grouped[string, int]]
	ofCountries := define(m, []*modelView{ofBilled}, func() *View[string, Grouped[string, int]] {
		countries = Group(billed, "countries", func(j *Joined[order, customer]) string { return j.Right.Country },
			func(sum *int, j *Joined[order, customer], sign int) {
				m.call()
				*sum += sign * j.Left.Score
			})
		byValue = NewIndex(countries, "value", func(g *Grouped[string, int]) int { return g.Value })
		return countries
	}, countriesOf)
	define(m, []*modelView{ofCountries}, func() *View[string, Grouped[string, int]] {
		return Top(byValue, "best country", 1)
	}, func(tx *Tx) []Grouped[string, int] {
		ranked := slices.SortedFunc(slices.Values(countriesOf(tx)), func(a, b Grouped[string, int]) int {
			return cmp.Or(cmp.Compare(b.Value, a.Value), cmp.Compare(b.Group, a.Group))
		})
		if len(ranked) == 0 {
			return nil
		}
		return ranked[:1]
	})

	sumOf := func(total *Grouped[string, int]) *customer { return &customer{total.Group, fmt.Sprint(total.Value)} }
	var sums *View[string, customer]
	ofSums := define(m, []*modelView{ofTotals}, func() *View[string, customer] {
		sums = Select(totals, "sums", func(c *customer) string { return c.Name }, func(total *Grouped[string, int]) *customer {
			m.call()
			return sumOf(total)
		})
		return sums
	}, func(tx *Tx) []customer {
		want := map[string]customer{}
		for name, total := range totalsOf(m.orderRows(tx)) {
			want[name] = *sumOf(&total)
		}
		return byKey(want)
	})

	define(m, []*modelView{ofSums}, func() *View[int, Joined[order, customer]] {
		return Join(m.orders, sums, "shares", byCustomer) // a diamond
	}, func(tx *Tx) []Joined[order, customer] {
		want, orders := map[int]Joined[order, customer]{}, m.orderRows(tx)
		totals := totalsOf(orders)
		for id, o := range orders {
			total := totals[o.Player]
			want[id] = Joined[order, customer]{&o, sumOf(&total)}
		}
		return byKey(want)
	})

	define(m, nil, func() *View[int, Joined[order, order]] {
		return Join(m.orders, m.orders, "before", before) // with itself
	}, func(tx *Tx) []Joined[order, order] {
		want, orders := map[int]Joined[order, order]{}, m.orderRows(tx)
		for id, o := range orders {
			if other, ok := orders[before(&o)]; ok {
				want[id] = Joined[order, order]{&o, &other}
			}
		}
		return byKey(want)
	})

	byAmount := NewIndex(m.orders, "amount", func(o *order) int { return o.Score })
	// ranked returns the first n orders, or those of each customer.
	ranked := func(tx *Tx, n int, bottom, each bool) []order {
		rows := slices.SortedFunc(maps.Values(m.orderRows(tx)), func(a, b order) int {
			c := cmp.Or(cmp.Compare(a.Score, b.Score), cmp.Compare(a.ID, b.ID))
			if !bottom {
				c = -c
			}
			if each {
				c = cmp.Or(cmp.Compare(a.Player, b.Player), c)
			}
			return c
		})
		count := map[string]int{}
		return slices.DeleteFunc(rows, func(o order) bool {
			group := ""
			if each {
				group = o.Player
			}
			count[group]++
			return count[group] > n
		})
	}
	for _, n := range []int{1, 3, 1000} {
		define(m, nil, func() *View[int, order] { return Top(byAmount, fmt.Sprint("top ", n), n) },
			func(tx *Tx) []order { return ranked(tx, n, false, false) })
		define(m, nil, func() *View[int, order] { return Bottom(byAmount, fmt.Sprint("bottom ", n), n) },
			func(tx *Tx) []order { return ranked(tx, n, true, false) })
		define(m, nil, func() *View[int, order] { return TopEach(byAmount, fmt.Sprint("top each ", n), n, byCustomer) },
			func(tx *Tx) []order { return ranked(tx, n, false, true) })
		define(m, nil, func() *View[int, order] { return BottomEach(byAmount, fmt.Sprint("bottom each ", n), n, byCustomer) },
			func(tx *Tx) []order { return ranked(tx, n, true, true) })
	}
	return m
}

// check checks all views and feeds. If tx is not nil, it checks the views in the transaction.
func (m *viewModel) check(tx *Tx) {
	m.t.Helper()
	for _, v := range m.list {
		if v.table == nil {
			continue
		}
		v.law(tx)
		if tx == nil {
			require.NoError(m.t, v.feed())
		}
	}
	if tx == nil {
		for _, check := range m.feeds {
			check()
		}
	}
}

// makeOrDrop makes a view, or drops it with all views of it.
func (m *viewModel) makeOrDrop(v *modelView) {
	if v.table == nil {
		v.make()
		return
	}
	v.drop()
	m.dropped(v)
}

func (m *viewModel) dropped(v *modelView) {
	require.True(m.t, v.table.Info().Dropped)
	require.Zero(m.t, v.table.Len())
	require.ErrorContains(m.t, v.feed(), fmt.Sprintf("%q: table dropped", v.name))
	v.table = nil
	for _, other := range m.list {
		if other.table != nil && slices.Contains(other.of, v) {
			m.dropped(other)
		}
	}
}

// state returns the figures that a failed write must not change. V4
func (m *viewModel) state() (info []TableInfo) {
	info = append(info, m.orders.Info(), m.customers.Info())
	for _, v := range m.list {
		if v.table != nil {
			info = append(info, v.table.Info())
		}
	}
	return info
}

// A tableWriter is a *Table or a TxTable.
type tableWriter[K, V any] interface {
	Upsert(row V) (Change[V], error)
	Delete(key K) (Change[V], error)
	Update(key K, edit func(row *V)) (Change[V], error)
}

// write makes a random write.
func (m *viewModel) write(r *rand.Rand, orders tableWriter[int, order], customers tableWriter[string, customer]) error {
	return m.panicking(r, func() (err error) {
		id, name := r.IntN(30), string(rune('A'+r.IntN(5)))
		switch r.IntN(5) {
		case 0:
			_, err = orders.Upsert(order{id, name, r.IntN(200)})
		case 1:
			_, err = orders.Delete(id)
		case 2:
			_, err = orders.Update(id, func(o *order) { o.Score += r.IntN(30) })
		case 3:
			_, err = customers.Upsert(customer{name, []string{"NL", "FR"}[r.IntN(2)]})
		default:
			_, err = customers.Delete(name)
		}
		return err
	})
}

// panicking calls f, and makes a function of a definition panic now and then.
func (m *viewModel) panicking(r *rand.Rand, f func() error) (err error) {
	defer func() {
		m.calls = 0
		if v := recover(); v != nil {
			require.Equal(m.t, errDefinition, v)
			err = errDefinition
		}
	}()
	if r.IntN(4) == 0 {
		m.calls = 1 + r.IntN(12)
	}
	return f()
}

// past returns random orders.
func (m *viewModel) past(r *rand.Rand) Past[order] {
	rows := map[int]order{}
	for range r.IntN(30) {
		id := r.IntN(30)
		rows[id] = order{id, string(rune('A' + r.IntN(5))), r.IntN(200)}
	}
	for id, o := range m.orderRows(nil) {
		if r.IntN(2) == 0 {
			rows[id] = o
		}
	}
	return Past[order]{Lineage: []Position{{History: newHistoryID(), Seq: 1000}}, Rows: maps.Values(rows)}
}

func TestViewsAgainstAModel(t *testing.T) {
	m := newViewModel(t)
	r := newRand(t)
	m.check(nil)
	ended := make(map[string]int)
	for range 1000 {
		before := m.state()
		switch what := r.IntN(20); {
		case what == 0:
			m.makeOrDrop(m.list[r.IntN(len(m.list))])
		case what == 1:
			if err := m.panicking(r, func() error { return m.orders.Reset(m.past(r)) }); err != nil {
				require.Equal(t, before, m.state(), "V4: %v", err)
				ended["reset"]++
			}
		case what < 10:
			if err := m.write(r, m.orders, m.customers); err != nil {
				require.Equal(t, before, m.state(), "V4: %v", err)
				ended[fmt.Sprintf("%T", err)]++
			}
		default:
			err := Transact(func(tx *Tx) error {
				for range r.IntN(6) {
					before, seq := m.orderRows(tx), m.orders.seq
					if err := m.write(r, m.orders.In(tx), m.customers.In(tx)); err != nil {
						require.Equal(t, before, m.orderRows(tx), "V4: %v", err)
						require.Equal(t, seq, m.orders.seq, "V4: %v", err)
						ended[fmt.Sprintf("in a transaction: %T", err)]++
					}
					m.check(tx)
				}
				if r.IntN(4) == 0 {
					return errRolledBack
				}
				return nil
			}, m.orders, m.customers)
			if err != nil {
				require.Equal(t, errRolledBack, err)
				require.Equal(t, before, m.state())
				ended["rolled back"]++
			}
		}
		m.check(nil)
	}
	t.Log(ended)
	require.Len(t, ended, 6)

	// When all views are dropped, the tables are as if there had never been a view.
	for _, v := range m.list {
		if v.table != nil {
			m.makeOrDrop(v)
		}
	}
	require.Nil(t, m.orders.dependents)
	require.Nil(t, m.customers.dependents)
	require.Len(t, m.orders.indexes, 1)
	require.Empty(t, m.orders.Views())
}
