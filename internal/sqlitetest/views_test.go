package sqlitetest

import (
	"fmt"

	"github.com/seed-637b77f9/changefeed"
)

// A line is a row of the view "lines".
type line struct{ ID, Double, Code int }

type (
	sum    = changefeed.Grouped[string, int]
	billed = changefeed.Joined[order, customer]
)

// The columns of rows, in the order in which the queries have them.

func (b text) order(o order) text {
	return b.int(o.ID).string(o.Customer).int(o.Amount).int(o.Parent).int(o.Code)
}

func (b text) customer(c *customer) text {
	if c == nil {
		return b.null().null()
	}
	return b.string(c.Name).string(c.Country)
}

func (b text) sum(s sum) text { return b.string(s.Group).int(s.Count).int(s.Value) }

func (b text) billed(j billed) text { return b.order(*j.Left).customer(j.Right) }

func (b text) orders(j changefeed.Joined[order, order]) text {
	if b = b.order(*j.Left); j.Right == nil {
		return b.null()
	}
	return b.int(j.Right.Amount)
}

func (b text) line(l line) text { return b.int(l.ID).int(l.Double).int(l.Code) }

func (b text) count(c changefeed.Counted[int]) text { return b.int(c.Group).int(c.Count) }

func (b text) names(c changefeed.Counted[string]) text { return b.string(c.Group).int(c.Count) }

func customerOf(o *order) string            { return o.Customer }
func amountOf(o *order) int                 { return o.Amount }
func parentOf(o *order) int                 { return o.Parent }
func idOf(o *order) int                     { return o.ID }
func itself(o *order) *order                { return o }
func addAmount(to *int, o *order, sign int) { *to += sign * o.Amount }

// addViews makes the views, and a check of each. Views have their rows in the order of their keys. Those that [Top]
// and the like make have them in the order of their ranks.
func (m *model) addViews() {
	orders, customers := m.orders.rows, m.customers.rows

	lines := view(m, changefeed.Select(orders, "lines", func(l *line) int { return l.ID }, func(o *order) *line {
		if o.Amount < 5 {
			return nil
		}
		return &line{o.ID, 2 * o.Amount, o.Code}
	}), text.line, `SELECT id, 2 * amount, code FROM orders WHERE amount >= 5 ORDER BY id`)
	_, err := changefeed.NewUniqueIndex(lines, "code", func(l *line) int { return l.Code })
	if err != nil {
		m.t.Fatal(err)
	}
	view(m, changefeed.Select(customers, "customers of NL", func(c *customer) string { return c.Name }, func(c *customer) *customer {
		if c.Country != "NL" {
			return nil
		}
		return c
	}), func(b text, c customer) text { return b.customer(&c) }, `SELECT name, country FROM customers WHERE country = 'NL' ORDER BY name`)

	// Group and Count.

	totals := view(m, changefeed.Group(orders, "totals", customerOf, addAmount), text.sum,
		`SELECT customer, COUNT(*), SUM(amount) FROM orders GROUP BY customer ORDER BY customer`)
	view(m, changefeed.Count(orders, "amounts", func(o *order) int { return o.Amount / 4 }), text.count,
		`SELECT amount / 4, COUNT(*) FROM orders GROUP BY 1 ORDER BY 1`)
	view(m, changefeed.Count(customers, "sizes of countries", func(c *customer) string { return c.Country }), text.names,
		`SELECT country, COUNT(*) FROM customers GROUP BY country ORDER BY country`)
	view(m, changefeed.Select(totals, "averages", func(s *sum) string { return s.Group }, func(s *sum) *sum {
		if s.Count < 2 {
			return nil
		}
		return &sum{Group: s.Group, Count: s.Count, Value: s.Value / s.Count}
	}), text.sum, `SELECT customer, COUNT(*), SUM(amount) / COUNT(*) FROM orders GROUP BY customer HAVING COUNT(*) > 1 ORDER BY customer`)
	view(m, changefeed.Count(totals, "sizes of totals", func(s *sum) int { return s.Value / 10 }), text.count,
		`SELECT total / 10, COUNT(*) FROM (SELECT SUM(amount) AS total FROM orders GROUP BY customer) GROUP BY 1 ORDER BY 1`)

	// Views of selections.

	big := func(o *order) bool { return o.Amount > 0 }
	view(m, changefeed.Group(orders.From(2).Where(big), "big totals", customerOf, addAmount), text.sum,
		`SELECT customer, COUNT(*), SUM(amount) FROM orders WHERE id >= 2 AND amount > 0 GROUP BY customer ORDER BY customer`)
	view(m, changefeed.Select(orders.Where(big).Where(func(o *order) bool { return o.Parent < 5 }), "big orders", idOf, itself), text.order,
		`SELECT * FROM orders WHERE amount > 0 AND parent < 5 ORDER BY id`)
	view(m, changefeed.Select(m.byAmount.Range(-5, 10), "middle orders", idOf, itself), text.order,
		`SELECT * FROM orders WHERE amount >= -5 AND amount < 10 ORDER BY id`)
	view(m, changefeed.Count(m.byName.Any("a", "b"), "orders of a and b", customerOf), text.names,
		`SELECT customer, COUNT(*) FROM orders WHERE customer IN ('a', 'b') GROUP BY customer ORDER BY customer`)
	view(m, changefeed.Select(orders.Rows(1, 3, 5, 99), "some orders", idOf, itself), text.order,
		`SELECT * FROM orders WHERE id IN (1, 3, 5, 99) ORDER BY id`)
	view(m, changefeed.Count(totals.Where(func(s *sum) bool { return s.Value > 0 }), "sizes", func(s *sum) int { return s.Count }), text.count,
		`SELECT n, COUNT(*) FROM (SELECT COUNT(*) AS n FROM orders GROUP BY customer HAVING SUM(amount) > 0) GROUP BY n ORDER BY n`)

	// Join and LeftJoin.

	const joined = `SELECT orders.*, name, country FROM orders `
	bills := view(m, changefeed.Join(orders, customers, "bills", customerOf), text.billed,
		joined+`JOIN customers ON name = customer ORDER BY id`)
	all := view(m, changefeed.LeftJoin(orders, customers, "all", customerOf), text.billed,
		joined+`LEFT JOIN customers ON name = customer ORDER BY id`)
	isNL := func(c *customer) bool { return c.Country == "NL" }
	view(m, changefeed.LeftJoin(orders.Where(big), customers.Where(isNL), "big of NL", customerOf), text.billed,
		joined+`LEFT JOIN customers ON name = customer AND country = 'NL' WHERE amount > 0 ORDER BY id`)
	view(m, changefeed.Join(orders.Range(0, 6), customers.From("Z"), "bills from Z", customerOf), text.billed,
		joined+`JOIN customers ON name = customer AND name >= 'Z' WHERE id >= 0 AND id < 6 ORDER BY id`)
	view(m, changefeed.LeftJoin(orders, orders, "parents", parentOf), text.orders,
		`SELECT a.*, b.amount FROM orders AS a LEFT JOIN orders AS b ON b.id = a.parent ORDER BY a.id`)
	view(m, changefeed.Join(orders, totals, "shares", customerOf), func(b text, j changefeed.Joined[order, sum]) text { return b.order(*j.Left).sum(*j.Right) },
		`SELECT *, customer, COUNT(*) OVER of_customer, SUM(amount) OVER of_customer FROM orders
		WINDOW of_customer AS (PARTITION BY customer) ORDER BY id`)
	view(m, changefeed.LeftJoin(customers, totals, "accounts", func(c *customer) string { return c.Name }), func(b text, j changefeed.Joined[customer, sum]) text {
		if b = b.customer(j.Left); j.Right == nil {
			return b.null()
		}
		return b.int(j.Right.Value)
	}, `SELECT name, country, total FROM customers LEFT JOIN (SELECT customer, SUM(amount) AS total FROM orders GROUP BY customer)
		ON customer = name ORDER BY name`)

	// A Group of a Join.

	countryOf := func(j *billed) string {
		if j.Right == nil {
			return "none"
		}
		return j.Right.Country
	}
	addBill := func(to *int, j *billed, sign int) { *to += sign * j.Left.Amount }
	view(m, changefeed.Group(bills, "countries", countryOf, addBill), text.sum,
		`SELECT country, COUNT(*), SUM(amount) FROM orders JOIN customers ON name = customer GROUP BY country ORDER BY country`)
	view(m, changefeed.Group(all, "all countries", countryOf, addBill), text.sum,
		`SELECT COALESCE(country, 'none') AS c, COUNT(*), SUM(amount) FROM orders LEFT JOIN customers ON name = customer GROUP BY c ORDER BY c`)

	// Top, Bottom, TopEach and BottomEach.

	var top, best *changefeed.View[int, order]
	for _, n := range []int{1, 3, 1000} {
		named := func(kind string) string { return fmt.Sprint(kind, " ", n) }
		limit := fmt.Sprintf(` LIMIT %d`, n)
		t := view(m, changefeed.Top(m.byAmount, named("top"), n), text.order, `SELECT * FROM orders ORDER BY amount DESC, id DESC`+limit)
		view(m, changefeed.Bottom(m.byAmount, named("bottom"), n), text.order, `SELECT * FROM orders ORDER BY amount, id`+limit)
		each := func(order string) string {
			return fmt.Sprintf(`SELECT id, customer, amount, parent, code FROM
				(SELECT *, ROW_NUMBER() OVER (PARTITION BY customer ORDER BY %s) AS place FROM orders)
				WHERE place <= %d ORDER BY customer, place`, order, n)
		}
		b := view(m, changefeed.TopEach(m.byAmount, named("top each"), n, customerOf), text.order, each(`amount DESC, id DESC`))
		view(m, changefeed.BottomEach(m.byAmount, named("bottom each"), n, customerOf), text.order, each(`amount, id`))
		if n == 3 {
			top = t
		}
		if n == 1 {
			best = b
		}
	}
	view(m, changefeed.Top(m.byCode, "small codes", 3), text.order, `SELECT * FROM orders ORDER BY code, id DESC LIMIT 3`)
	view(m, changefeed.BottomEach(m.byName, "first names", 2, func(o *order) int { return o.Amount / 10 }), text.order,
		`SELECT id, customer, amount, parent, code FROM
		(SELECT *, ROW_NUMBER() OVER (PARTITION BY amount / 10 ORDER BY customer, id) AS place FROM orders)
		WHERE place <= 2 ORDER BY amount / 10, place`)

	// Views of these, and these of other views. The rows of a view that is not a Top have no ranks.

	const topOrders = `(SELECT * FROM orders ORDER BY amount DESC, id DESC LIMIT 3)`
	const bestOrders = `(SELECT * FROM
		(SELECT *, ROW_NUMBER() OVER (PARTITION BY customer ORDER BY amount DESC, id DESC) AS place FROM orders) WHERE place = 1)`
	view(m, changefeed.Select(top, "top amounts", func(l *line) int { return l.ID }, func(o *order) *line { return &line{o.ID, 2 * o.Amount, o.Code} }), text.line,
		`SELECT id, 2 * amount, code FROM `+topOrders+` ORDER BY id`)
	selection(m, "even top", top.Where(func(o *order) bool { return o.Amount%2 == 0 }), text.order,
		`SELECT * FROM `+topOrders+` WHERE amount % 2 = 0 ORDER BY amount DESC, id DESC`)
	selection(m, "top from 2", top.From(2), text.order, `SELECT * FROM `+topOrders+` WHERE id >= 2 ORDER BY id`)
	view(m, changefeed.Group(top, "top totals", customerOf, addAmount), text.sum,
		`SELECT customer, COUNT(*), SUM(amount) FROM `+topOrders+` GROUP BY customer ORDER BY customer`)
	view(m, changefeed.LeftJoin(top, customers, "top bills", customerOf), text.billed,
		`SELECT o.*, name, country FROM `+topOrders+` AS o LEFT JOIN customers ON name = customer ORDER BY id`)
	view(m, changefeed.LeftJoin(orders, top, "top parents", parentOf), text.orders,
		`SELECT a.*, b.amount FROM orders AS a LEFT JOIN `+topOrders+` AS b ON b.id = a.parent ORDER BY a.id`)
	view(m, changefeed.Count(best, "best amounts", func(o *order) int { return o.Amount / 4 }), text.count,
		`SELECT amount / 4, COUNT(*) FROM `+bestOrders+` GROUP BY 1 ORDER BY 1`)
	view(m, changefeed.Bottom(changefeed.NewIndex(best, "amount", amountOf), "worst of the best", 2), text.order,
		`SELECT id, customer, amount, parent, code FROM `+bestOrders+` ORDER BY amount, id LIMIT 2`)
	view(m, changefeed.Top(changefeed.NewIndex(totals, "value", func(s *sum) int { return s.Value }), "best customers", 2), text.sum,
		`SELECT customer, COUNT(*), SUM(amount) AS total FROM orders GROUP BY customer ORDER BY total DESC, customer DESC LIMIT 2`)
	view(m, changefeed.TopEach(changefeed.NewIndex(bills, "amount", func(j *billed) int { return j.Left.Amount }), "best of countries", 2, countryOf), text.billed,
		`SELECT id, customer, amount, parent, code, name, country FROM
		(SELECT *, ROW_NUMBER() OVER (PARTITION BY country ORDER BY amount DESC, id DESC) AS place FROM orders JOIN customers ON name = customer)
		WHERE place <= 2 ORDER BY country, place`)
}
