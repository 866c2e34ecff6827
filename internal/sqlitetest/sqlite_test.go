package sqlitetest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
	"zombiezen.com/go/sqlite"
)

type order struct {
	ID       int
	Customer string
	Amount   int
	Parent   int // the ID of another order
	Code     int
}

type customer struct{ Name, Country string }

var (
	names     = []string{"", "A", "Z", "a", "ab", "b", "é"}
	countries = []string{"", "FR", "NL"}

	errRolledBack = errors.New("rolled back")
)

// schema makes the database. An index of the view "lines" is unique, as codes is. %s is the collation of names.
var schema = []string{
	`CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, amount INTEGER NOT NULL, parent INTEGER NOT NULL, code INTEGER NOT NULL)`,
	`CREATE TABLE customers (name TEXT PRIMARY KEY COLLATE %s, country TEXT NOT NULL)`,
	`CREATE UNIQUE INDEX codes ON orders (code) WHERE amount >= 5`,
}

type operation string

const (
	insert  operation = "insert"
	upsert  operation = "upsert"
	replace operation = "replace"
	update  operation = "update"
	remove  operation = "delete"
)

var operations = []operation{insert, upsert, upsert, replace, update, update, remove}

// orderWrites and customerWrites are the statements. Parameter n is column n of the row.
var (
	orderWrites = map[operation]string{
		insert: `INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5)`,
		upsert: `INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE
			SET customer = excluded.customer, amount = excluded.amount, parent = excluded.parent, code = excluded.code`,
		replace: `UPDATE orders SET customer = ?2, amount = ?3, parent = ?4, code = ?5 WHERE id = ?1`,
		update:  `UPDATE orders SET amount = amount + ?3 WHERE id = ?1`,
		remove:  `DELETE FROM orders WHERE id = ?1`,
	}
	customerWrites = map[operation]string{
		insert:  `INSERT INTO customers VALUES (?1, ?2)`,
		upsert:  `INSERT INTO customers VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET name = excluded.name, country = excluded.country`,
		replace: `UPDATE customers SET name = ?1, country = ?2 WHERE name = ?1`,
		update:  `UPDATE customers SET country = ?2 WHERE name = ?1`,
		remove:  `DELETE FROM customers WHERE name = ?1`,
	}
)

// A writer is a table, also in a transaction.
type writer[K, V any] interface {
	Insert(row V) (changefeed.Change[V], error)
	Upsert(row V) (changefeed.Change[V], error)
	Replace(row V) (changefeed.Change[V], error)
	Update(key K, edit func(row *V)) (changefeed.Change[V], error)
	Delete(key K) (changefeed.Change[V], error)
	Reset(p changefeed.Past[V]) error
}

// A twin is a table, and the table of the database that must have the same rows.
type twin[K, V any] struct {
	db     database
	rows   *changefeed.Table[K, V]
	name   string
	writes map[operation]*sqlite.Stmt
	bind   func(stmt *sqlite.Stmt, row *V) // the columns, of which some statements have only the first ones
	edit   func(row, by *V)                // does what the statement of update does
	same   func(a, b *V) bool              // whether they have one key
	saved  changefeed.Past[V]              // earlier contents
}

func newTwin[K, V any](db database, rows *changefeed.Table[K, V], writes map[operation]string) *twin[K, V] {
	w := &twin[K, V]{db: db, rows: rows, name: rows.Name(), writes: make(map[operation]*sqlite.Stmt)}
	for op, query := range writes {
		w.writes[op] = db.prepare(query)
	}
	return w
}

// in returns the table in a transaction, or the table if tx is nil.
func (w *twin[K, V]) in(tx *changefeed.Tx) writer[K, V] {
	if tx == nil {
		return w.rows
	}
	return w.rows.In(tx)
}

// write makes a write twice. Both tables must have the same outcome.
func (w *twin[K, V]) write(tx *changefeed.Tx, op operation, row V) error {
	want, err := w.writeSQL(op, &row), error(nil)
	switch to, key := w.in(tx), w.rows.Key(&row); op {
	case insert:
		_, err = to.Insert(row)
	case upsert:
		_, err = to.Upsert(row)
	case replace:
		_, err = to.Replace(row)
	case update:
		_, err = to.Update(key, func(r *V) { w.edit(r, &row) })
	case remove:
		_, err = to.Delete(key)
	}
	require.ErrorIs(w.db.t, err, want, "%s of %+v", op, row)
	return want
}

func (w *twin[K, V]) writeSQL(op operation, row *V) error {
	w.bind(w.writes[op], row)
	return w.db.write(w.writes[op])
}

// save saves the present contents, for a reset to them.
func (w *twin[K, V]) save() {
	var rows []V
	for _, row := range w.rows.All() {
		rows = append(rows, row)
	}
	w.saved = changefeed.Past[V]{Lineage: w.rows.Lineage(), Rows: slices.Values(rows)}
}

// reset resets the table, and replaces the rows of the database.
func (w *twin[K, V]) reset(tx *changefeed.Tx, to changefeed.Past[V]) error {
	w.db.run("SAVEPOINT reset")
	var want error
	w.db.run("DELETE FROM " + w.name)
	for row := range to.Rows {
		if want = w.writeSQL(insert, &row); want != nil {
			break
		}
	}
	require.ErrorIs(w.db.t, w.in(tx).Reset(to), want)
	if want != nil {
		w.db.run("ROLLBACK TO reset")
	}
	w.db.run("RELEASE reset")
	return want
}

// A check compares a view with a query.
type check struct {
	name, query string
	stmt        *sqlite.Stmt
	all         func(b text, tx *changefeed.Tx) text
	backward    func(tx *changefeed.Tx) iter.Seq[text] // the texts of the rows, each until the next
	len         func(tx *changefeed.Tx) int

	got, want, before text
	changed           int // number of times that the query had other rows than the last time
}

// A model is two twins, and views of their tables.
type model struct {
	database
	r         *rand.Rand
	keys      int // number of orders that there can be
	orders    *twin[int, order]
	customers *twin[string, customer]
	byAmount  *changefeed.Index[int, int, order]
	byCode    *changefeed.Index[int, int, order] // the smallest last
	byName    *changefeed.Index[string, int, order]

	checks  []*check
	dirty   bool // the database has changed since the last comparison
	views   []changefeed.AnyTable
	drops   []func()
	changed map[string]int // check.changed, by name, of views that were dropped
	steps   []string       // since the views were made
	outcome map[string]int
}

// foldCase compares names as SQLite's collation NOCASE does.
func foldCase(a, b string) int {
	lower := func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return strings.Compare(strings.Map(lower, a), strings.Map(lower, b))
}

// newModel returns a model without rows and views. collation is BINARY or NOCASE.
func newModel(t *testing.T, r *rand.Rand, collation string, keys int) *model {
	m := &model{database: newDatabase(t), r: r, keys: keys, changed: make(map[string]int), outcome: make(map[string]int)}
	for _, query := range schema {
		m.run(strings.Replace(query, "%s", collation, 1))
	}
	orders := changefeed.NewTable("orders", func(o *order) int { return o.ID })
	name := func(c *customer) string { return c.Name }
	customers := changefeed.NewTable("customers", name)
	if collation == "NOCASE" {
		customers = changefeed.NewTableFunc("customers", name, foldCase)
	}
	m.byAmount = changefeed.NewIndex(orders, "amount", func(o *order) int { return o.Amount })
	m.byCode = changefeed.NewIndexFunc(orders, "code", func(o *order) int { return o.Code }, func(a, b int) int { return cmp.Compare(b, a) })
	m.byName = changefeed.NewIndex(orders, "customer", func(o *order) string { return o.Customer })

	m.orders = newTwin(m.database, orders, orderWrites)
	m.orders.bind = func(stmt *sqlite.Stmt, o *order) {
		n := stmt.BindParamCount()
		stmt.BindInt64(1, int64(o.ID))
		if n > 1 {
			stmt.BindText(2, o.Customer)
			stmt.BindInt64(3, int64(o.Amount))
		}
		if n > 3 {
			stmt.BindInt64(4, int64(o.Parent))
			stmt.BindInt64(5, int64(o.Code))
		}
	}
	m.orders.same = func(a, b *order) bool { return a.ID == b.ID }
	m.orders.edit = func(o, by *order) { o.Amount += by.Amount }
	m.customers = newTwin(m.database, customers, customerWrites)
	m.customers.bind = func(stmt *sqlite.Stmt, c *customer) {
		stmt.BindText(1, c.Name)
		if stmt.BindParamCount() > 1 {
			stmt.BindText(2, c.Country)
		}
	}
	m.customers.same = func(a, b *customer) bool {
		return a.Name == b.Name || collation == "NOCASE" && foldCase(a.Name, b.Name) == 0
	}
	m.customers.edit = func(c, by *customer) { c.Country = by.Country }
	return m
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// Half of the parents are no orders.
func (m *model) order() order {
	return order{m.r.IntN(m.keys) - 3, pick(m.r, names), m.r.IntN(40) - 15, m.r.IntN(2*m.keys) - 3, m.r.IntN(4 * m.keys)}
}

func (m *model) customer() customer { return customer{pick(m.r, names), pick(m.r, countries)} }

// fill makes writes before there are views.
func (m *model) fill(n int) {
	for range n {
		if o := m.order(); m.orders.writeSQL(insert, &o) == nil {
			_, err := m.orders.rows.Insert(o)
			require.NoError(m.t, err)
		}
	}
	for range 4 {
		_ = m.customers.write(nil, upsert, m.customer())
	}
}

// add adds a check of a view, or of a selection of one. in returns it in a transaction.
func add[K, V any, R rows[K, V], T rows[K, V]](m *model, name string, v R, in func(tx *changefeed.Tx) T, query string, columns func(b text, row V) text) {
	of := func(tx *changefeed.Tx) rows[K, V] {
		if tx == nil {
			return v
		}
		return in(tx)
	}
	var line text
	m.checks = append(m.checks, &check{
		name: name, query: query, stmt: m.prepare(query),
		all: func(b text, tx *changefeed.Tx) text {
			for _, row := range of(tx).All() {
				b = columns(b.row(), row)
			}
			return b
		},
		backward: func(tx *changefeed.Tx) iter.Seq[text] {
			return func(yield func(text) bool) {
				for _, row := range of(tx).Backward() {
					line = columns(line[:0].row(), row)
					if !yield(line) {
						return
					}
				}
			}
		},
		len: func(tx *changefeed.Tx) int { return of(tx).Len() },
	})
}

// rows is a view or a selection, also in a transaction.
type rows[K, V any] interface {
	All() iter.Seq2[K, V]
	Backward() iter.Seq2[K, V]
	Len() int
}

// view adds a view. It returns the view.
func view[K, V any](m *model, v *changefeed.View[K, V], columns func(b text, row V) text, query string) *changefeed.View[K, V] {
	m.views, m.drops = append(m.views, v), append(m.drops, v.Drop)
	add[K, V](m, v.Name(), v, v.In, query, columns)
	return v
}

// selection adds a selection of a view.
func selection[K, V any](m *model, name string, s changefeed.Selection[K, V], columns func(b text, row V) text, query string) {
	add[K, V](m, name, s, s.In, query, columns)
}

// compare compares all views with the database. If tx is not nil, it compares the views in the transaction.
func (m *model) compare(tx *changefeed.Tx) {
	for _, c := range m.checks {
		if m.dirty {
			c.want, c.before = m.query(c.before[:0], c.stmt), c.want
			if !bytes.Equal(c.want, c.before) {
				c.changed++
			}
		}
		c.compare(m, tx)
	}
	m.dirty = false
}

func (c *check) compare(m *model, tx *changefeed.Tx) {
	c.got = c.all(c.got[:0], tx)
	if !bytes.Equal(c.want, c.got) {
		m.fail(c, tx, string(c.got))
	}
	if n := c.len(tx); n != bytes.Count(c.want, []byte("\n")) {
		m.fail(c, tx, fmt.Sprintf("Len() = %d", n))
	}
	if m.r.IntN(8) > 0 {
		return
	}
	rest := []byte(c.want)
	for line := range c.backward(tx) {
		var ok bool
		if rest, ok = bytes.CutSuffix(rest, line); !ok {
			m.fail(c, tx, fmt.Sprintf("Backward: %s", line))
		}
	}
	if len(rest) > 0 {
		m.fail(c, tx, fmt.Sprintf("Backward: no row before %s", rest))
	}
}

// fail reports a view that differs from the database.
func (m *model) fail(c *check, tx *changefeed.Tx, got string) {
	m.t.Logf("the last of %d steps since the views were made:\n%s", len(m.steps), strings.Join(m.steps[max(0, len(m.steps)-12):], "\n"))
	m.t.Logf("in a transaction: %v\n%s", tx != nil, c.query)
	require.Equal(m.t, string(c.want), got, "view %s", c.name)
	m.t.FailNow()
}

func (m *model) note(format string, args ...any) {
	m.steps = append(m.steps, fmt.Sprintf(format, args...))
}

// write makes a random write to one of the tables.
func (m *model) write(tx *changefeed.Tx, toCustomers bool) {
	op, err := pick(m.r, operations), error(nil)
	if toCustomers {
		c := m.customer()
		m.note("%s %+v", op, c)
		err = m.customers.write(tx, op, c)
	} else {
		o := m.order()
		m.note("%s %+v", op, o)
		err = m.orders.write(tx, op, o)
	}
	m.ended(tx, string(op), err)
}

// ended counts an outcome.
func (m *model) ended(tx *changefeed.Tx, op string, err error) {
	if tx != nil {
		op += " in a transaction"
	}
	if err != nil {
		op += ": " + err.Error()
	} else {
		m.dirty = true
	}
	m.outcome[op]++
}

// reset resets a table to earlier or to other rows.
func (m *model) reset(tx *changefeed.Tx, ofCustomers bool) {
	var err error
	if ofCustomers {
		err = resetTwin(m, m.customers, tx, m.customer)
	} else {
		err = resetTwin(m, m.orders, tx, m.order)
	}
	m.ended(tx, "reset", err)
}

func resetTwin[K, V any](m *model, w *twin[K, V], tx *changefeed.Tx, random func() V) error {
	if w.saved.Rows != nil && m.r.IntN(2) == 0 {
		m.note("reset %s to rows saved before", w.name)
		return w.reset(tx, w.saved)
	}
	var to []V
	other := changefeed.NewTable("", func(n *int) int { return *n })
	for range m.r.IntN(m.keys) {
		row := random()
		if slices.ContainsFunc(to, func(r V) bool { return w.same(&r, &row) }) && m.r.IntN(25) > 0 {
			continue
		}
		to = append(to, row)
		_, err := other.Insert(len(to))
		require.NoError(m.t, err)
	}
	m.note("reset %s to %+v", w.name, to)
	return w.reset(tx, changefeed.Past[V]{Lineage: other.Lineage(), Rows: slices.Values(to)})
}

// step makes a step.
func (m *model) step() {
	switch n := m.r.IntN(100); {
	case n < 60:
		m.write(nil, m.r.IntN(4) == 0)
	case n < 63:
		m.reset(nil, m.r.IntN(3) == 0)
	case n < 65:
		m.orders.save()
		m.customers.save()
	default:
		m.transact()
	}
}

// transact makes a transaction over both tables, which it may roll back.
func (m *model) transact() {
	var written, reset [2]bool
	m.run("BEGIN")
	m.note("begin")
	err := changefeed.Transact(func(tx *changefeed.Tx) error {
		for range m.r.IntN(6) {
			table := m.r.IntN(2)
			switch {
			case reset[table]: // a table cannot be used after its reset
			case !written[table] && m.r.IntN(20) == 0:
				reset[table] = true
				m.reset(tx, table == 1)
			default:
				written[table] = true
				m.write(tx, table == 1)
			}
			if m.r.IntN(3) == 0 {
				m.compare(tx)
			}
		}
		if m.r.IntN(3) == 0 {
			return errRolledBack
		}
		return nil
	}, m.customers.rows, m.orders.rows)
	if err != nil {
		require.Equal(m.t, errRolledBack, err)
		m.run("ROLLBACK")
		m.dirty = true
		m.note("rollback")
	} else {
		m.run("COMMIT")
		m.note("commit")
	}
	m.ended(nil, "transact", err)
}

// play makes views, steps, and comparisons.
func (m *model) play(steps int) {
	m.steps, m.dirty = nil, true
	m.addViews()
	m.compare(nil)
	for range steps {
		m.step()
		if m.r.IntN(8) == 0 {
			err := changefeed.Read(func(tx *changefeed.Tx) error {
				m.compare(tx)
				return nil
			}, m.views...)
			require.NoError(m.t, err)
		} else {
			m.compare(nil)
		}
	}
}

// dropViews drops all views in a random order.
func (m *model) dropViews() {
	for _, i := range m.r.Perm(len(m.drops)) {
		m.drops[i]()
	}
	require.Empty(m.t, m.orders.rows.Views())
	require.Empty(m.t, m.customers.rows.Views())
	for _, c := range m.checks {
		require.Zero(m.t, c.len(nil), "%s", c.name)
		m.changed[c.name] += c.changed
	}
	m.checks, m.views, m.drops = nil, nil, nil
}

func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("CHANGEFEED_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("CHANGEFEED_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestViewsAgainstSQLite(t *testing.T) {
	r := newRand(t)
	changed, outcome := make(map[string]int), make(map[string]int)
	for _, round := range []struct {
		collation           string
		keys, filled, steps int
	}{
		{"BINARY", 8, 0, 1200},
		{"BINARY", 30, 20, 1000},
		{"BINARY", 200, 200, 300}, // more than a view takes at a time while it is made
		{"NOCASE", 30, 20, 500},
	} {
		if testing.Short() {
			round.steps /= 10
		}
		t.Run(fmt.Sprint(round.collation, " ", round.keys), func(t *testing.T) {
			m := newModel(t, r, round.collation, round.keys)
			m.fill(round.filled)
			for range 2 {
				m.play(round.steps / 2)
				m.dropViews()
			}
			for name, n := range m.changed {
				changed[name] += n
			}
			for name, n := range m.outcome {
				outcome[name] += n
			}
		})
	}
	if t.Failed() || testing.Short() {
		return
	}
	t.Logf("changed: %v", changed)
	t.Logf("outcomes: %v", outcome)
	for _, name := range []string{
		"insert", "upsert", "replace", "update", "delete", "reset", "transact", "transact: " + errRolledBack.Error(),
		"insert: duplicate primary key", "upsert: duplicate primary key", "reset: duplicate primary key",
		"replace: no row with primary key", "update: no row with primary key", "delete: no row with primary key",
		"upsert in a transaction: duplicate primary key", "delete in a transaction: no row with primary key", "reset in a transaction",
	} {
		require.Positive(t, outcome[name], "outcome %q", name)
	}
	for name, n := range changed {
		require.Greater(t, n, 50, "the rows of %s hardly ever changed", name)
	}
}

// Every comparison can fail: each query notices rows that only the database has.
func TestEveryComparisonCanFail(t *testing.T) {
	m := newModel(t, newRand(t), "BINARY", 8)
	m.addViews()
	m.compare(nil)
	for _, o := range []order{{3, "a", 8, 3, 1}, {1, "a", 6, 1, 2}} {
		require.NoError(t, m.orders.writeSQL(insert, &o))
	}
	require.NoError(t, m.customers.writeSQL(insert, &customer{"a", "NL"}))
	for _, c := range m.checks {
		require.NotEqual(t, string(m.query(nil, c.stmt)), string(c.all(nil, nil)), "%s", c.name)
	}
}
