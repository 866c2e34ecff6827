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

type order struct {
	ID       int
	Customer string
	Amount   int
	Before   int // the ID of another order
}

type customer struct {
	Name, Country string
}

type line struct {
	ID     int
	Double int
}

var (
	errRolledBack = errors.New("rolled back")
	errDefinition = errors.New("a definition has panicked")
)

// A viewModel is a graph of views over two tables. After each step, every view is compared with what its
// definition makes of its sources' rows, and every feed with its view.
type viewModel struct {
	t         *testing.T
	orders    *Table[int, order]
	customers *Table[string, customer]
	tables    []AnyTable // with the views
	calls     int        // of functions of definitions that are left before one panics
	feeds     []func()   // read a feed, and compare it with its view
	laws      []func(tx *Tx)
}

// call is called by each function of a definition.
func (m *viewModel) call() {
	if m.calls--; m.calls == 0 {
		panic(errDefinition)
	}
}

// orderOf and customerOf are the rows of the tables, by key.
func (m *viewModel) orderRows(tx *Tx) map[int]order { return rowsIn(tx, m.orders.Selection()) }

func rowsIn[K comparable, V any](tx *Tx, s Selection[K, V]) map[K]V {
	if tx == nil {
		return maps.Collect(s.All())
	}
	return maps.Collect(s.In(tx).All())
}

func viewRowsIn[K comparable, V any](tx *Tx, v *View[K, V]) map[K]V {
	if tx == nil {
		return maps.Collect(v.All())
	}
	return maps.Collect(v.In(tx).All())
}

// law adds a view, and the rows that it must have. V1
func law[K comparable, V any](m *viewModel, v *View[K, V], want func(tx *Tx) map[K]V) {
	m.tables = append(m.tables, v)
	m.laws = append(m.laws, func(tx *Tx) {
		m.t.Helper()
		require.Equal(m.t, want(tx), viewRowsIn(tx, v), "%v", v.Name())
	})
	fold(m, v.Selection())
}

// fold adds a feed. Its changes, folded over the rows that there are now, must be the rows. V2
func fold[K comparable, V any](m *viewModel, s Selection[K, V]) {
	rows, seq := maps.Collect(s.All()), s.table.Seq()
	batches := s.Batches(m.t.Context(), 1, Poll(nil))
	m.feeds = append(m.feeds, func() {
		for batch, err := range batches {
			require.NoError(m.t, err)
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
		require.Equal(m.t, maps.Collect(s.All()), rows, "%v", s.table.Name())
	})
}

func newViewModel(t *testing.T) *viewModel {
	m := &viewModel{
		t: t, orders: NewTable("orders", func(o *order) int { return o.ID }),
		customers: NewTable("customers", func(c *customer) string { return c.Name }),
	}
	m.tables = []AnyTable{m.orders, m.customers}
	for id := range 20 {
		_, err := m.orders.Insert(order{id, string(rune('A' + id%5)), 40 + 7*id, id / 2})
		require.NoError(t, err)
	}
	for _, name := range []string{"A", "B", "X"} {
		_, err := m.customers.Insert(customer{name, "NL"})
		require.NoError(t, err)
	}
	fold(m, m.orders.Selection())
	fold(m, m.customers.Selection())

	lines := Select(m.orders, "lines", func(l *line) int { return l.ID }, func(o *order) *line {
		m.call()
		if o.Amount < 50 {
			return nil
		}
		return &line{o.ID, 2 * o.Amount}
	})
	law(m, lines, func(tx *Tx) map[int]line {
		want := map[int]line{}
		for id, o := range m.orderRows(tx) {
			if o.Amount >= 50 {
				want[id] = line{id, 2 * o.Amount}
			}
		}
		return want
	})
	_, err := NewUniqueIndex(lines.table, "double", func(l *line) int { return l.Double })
	require.NoError(t, err)

	totals := Group(m.orders, "totals", func(o *order) string { return o.Customer }, func(sum *int, o *order, sign int) {
		m.call()
		*sum += sign * o.Amount
	})
	totalsOf := func(orders map[int]order) map[string]Grouped[string, int] {
		want := map[string]Grouped[string, int]{}
		for _, o := range orders {
			g := want[o.Customer]
			want[o.Customer] = Grouped[string, int]{o.Customer, g.Count + 1, g.Value + o.Amount}
		}
		return want
	}
	law(m, totals, func(tx *Tx) map[string]Grouped[string, int] { return totalsOf(m.orderRows(tx)) })

	isBig := func(o *order) bool { return o.Amount > 80 }
	big := Group(m.orders.From(5).Where(isBig), "big", func(o *order) string { return o.Customer }, func(sum *int, o *order, sign int) { *sum += sign * o.Amount })
	law(m, big, func(tx *Tx) map[string]Grouped[string, int] {
		orders := m.orderRows(tx)
		maps.DeleteFunc(orders, func(id int, o order) bool { return id < 5 || !isBig(&o) })
		return totalsOf(orders)
	})

	sizes := Count(totals, "sizes", func(g *Grouped[string, int]) int {
		m.call()
		return g.Value / 100
	})
	law(m, sizes, func(tx *Tx) map[int]Counted[int] {
		want := map[int]Counted[int]{}
		for _, g := range totalsOf(m.orderRows(tx)) {
			want[g.Value/100] = Counted[int]{g.Value / 100, want[g.Value/100].Count + 1}
		}
		return want
	})

	joinOf := func(tx *Tx, outer bool) map[int]Joined[order, customer] {
		want, customers := map[int]Joined[order, customer]{}, rowsIn(tx, m.customers.Selection())
		for id, o := range m.orderRows(tx) {
			if c, ok := customers[o.Customer]; ok {
				want[id] = Joined[order, customer]{&o, &c}
			} else if outer {
				want[id] = Joined[order, customer]{&o, nil}
			}
		}
		return want
	}
	ref := func(o *order) string {
		m.call()
		return o.Customer
	}
	billed := Join(m.orders, m.customers, "billed", ref)
	law(m, billed, func(tx *Tx) map[int]Joined[order, customer] { return joinOf(tx, false) })
	all := LeftJoin(m.orders, m.customers, "all", ref)
	law(m, all, func(tx *Tx) map[int]Joined[order, customer] { return joinOf(tx, true) })

	countries := Group(billed, "countries", func(j *Joined[order, customer]) string { return j.Right.Country },
		func(sum *int, j *Joined[order, customer], sign int) { *sum += sign * j.Left.Amount })
	law(m, countries, func(tx *Tx) map[string]Grouped[string, int] {
		want := map[string]Grouped[string, int]{}
		for _, j := range joinOf(tx, false) {
			g := want[j.Right.Country]
			want[j.Right.Country] = Grouped[string, int]{j.Right.Country, g.Count + 1, g.Value + j.Left.Amount}
		}
		return want
	})

	shares := Join(m.orders, totals, "shares", ref) // a diamond
	law(m, shares, func(tx *Tx) map[int]Joined[order, Grouped[string, int]] {
		want, orders := map[int]Joined[order, Grouped[string, int]]{}, m.orderRows(tx)
		totals := totalsOf(orders)
		for id, o := range orders {
			total := totals[o.Customer]
			want[id] = Joined[order, Grouped[string, int]]{&o, &total}
		}
		return want
	})

	before := Join(m.orders, m.orders, "before", func(o *order) int { return o.Before }) // with itself
	law(m, before, func(tx *Tx) map[int]Joined[order, order] {
		want, orders := map[int]Joined[order, order]{}, m.orderRows(tx)
		for id, o := range orders {
			if other, ok := orders[o.Before]; ok {
				want[id] = Joined[order, order]{&o, &other}
			}
		}
		return want
	})

	byAmount := NewIndex(m.orders, "amount", func(o *order) int { return o.Amount })
	ranked := func(tx *Tx) []order {
		return slices.SortedFunc(maps.Values(m.orderRows(tx)), func(a, b order) int { return cmp.Or(cmp.Compare(b.Amount, a.Amount), cmp.Compare(b.ID, a.ID)) })
	}
	for _, n := range []int{1, 3, 1000} {
		byID := func(rows []order) map[int]order {
			want := map[int]order{}
			for _, o := range rows[:min(n, len(rows))] {
				want[o.ID] = o
			}
			return want
		}
		law(m, Top(byAmount, fmt.Sprint("top ", n), n), func(tx *Tx) map[int]order { return byID(ranked(tx)) })
		law(m, Bottom(byAmount, fmt.Sprint("bottom ", n), n), func(tx *Tx) map[int]order {
			rows := ranked(tx)
			slices.Reverse(rows)
			return byID(rows)
		})
	}
	return m
}

// check checks all laws and feeds. If tx is not nil, it checks the laws in the transaction.
func (m *viewModel) check(tx *Tx) {
	m.t.Helper()
	for _, check := range m.laws {
		check(tx)
	}
	if tx == nil {
		for _, check := range m.feeds {
			check()
		}
	}
}

// state is what a failed write must not change. V4
func (m *viewModel) state() (info []TableInfo) {
	for _, t := range m.tables {
		info = append(info, t.Info())
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
func (m *viewModel) write(r *rand.Rand, orders tableWriter[int, order], customers tableWriter[string, customer]) (err error) {
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
	id, name := r.IntN(30), string(rune('A'+r.IntN(5)))
	switch r.IntN(5) {
	case 0:
		_, err = orders.Upsert(order{id, name, r.IntN(200), r.IntN(30)})
	case 1:
		_, err = orders.Delete(id)
	case 2:
		_, err = orders.Update(id, func(o *order) { o.Amount += r.IntN(30) })
	case 3:
		_, err = customers.Upsert(customer{name, []string{"NL", "FR"}[r.IntN(2)]})
	default:
		_, err = customers.Delete(name)
	}
	return err
}

func TestViewsAgainstAModel(t *testing.T) {
	m := newViewModel(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m.check(nil)
	ended := make(map[string]int)
	for range 1000 {
		before := m.state()
		if r.IntN(2) == 0 {
			if err := m.write(r, m.orders, m.customers); err != nil {
				require.Equal(t, before, m.state(), "V4: %v", err)
				ended[fmt.Sprintf("%T", err)]++
			}
			m.check(nil)
			continue
		}
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
		m.check(nil)
	}
	t.Log(ended)
	require.Len(t, ended, 5)
}
