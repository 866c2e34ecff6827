package contest

import "github.com/seed-637b77f9/changefeed"

// Transact is this library without its views: a transaction writes to the orders and to a
// second table, which is the view.
var Transact = Contestant{
	Name:   "transact",
	Module: "github.com/seed-637b77f9/changefeed",
	Traits: Traits{Use: "views only, by hand: `Transact` over the table and one that is the view"},
	OpenView: func(view View, orders []Order, customers []Customer) Orders {
		t := &transactOrders{table: changefeed.NewTable("orders", func(o *Order) int { return o.ID })}
		t.tables = []changefeed.AnyTable{t.table}
		switch view {
		case NoView:
		case SelectView:
			t.keepBriefs()
		case GroupView:
			t.keepTotals()
		case JoinView:
			t.keepBills(loadCustomers(customers))
		default:
			return nil // a transaction cannot read the index
		}
		must(changefeed.Transact(func(tx *changefeed.Tx) error {
			for _, order := range orders {
				c, err := t.table.In(tx).Insert(order)
				if err != nil {
					return err
				}
				if t.keep == nil {
					continue
				}
				if err := t.keep(tx, c.Old, c.New); err != nil {
					return err
				}
			}
			return nil
		}, t.tables...))
		return t
	},
}

type transactOrders struct {
	table  *changefeed.Table[int, Order]
	tables []changefeed.AnyTable // of a transaction

	// keep makes a change of an order also that of the view. One of old and new may be nil.
	keep  func(tx *changefeed.Tx, old, new *Order) error
	lines func() []Line
}

func (t *transactOrders) keepBriefs() {
	view := changefeed.NewTable("briefs", func(b *brief) int { return b.ID })
	t.tables = append(t.tables, view)
	t.lines = func() []Line { return linesIn(view.All(), (*brief).line) }
	t.keep = func(tx *changefeed.Tx, old, new *Order) (err error) {
		if new == nil {
			_, err = view.In(tx).Delete(old.ID)
		} else {
			_, err = view.In(tx).Upsert(brief{new.ID, new.Amount})
		}
		return err
	}
}

func (t *transactOrders) keepTotals() {
	view := changefeed.NewTable("totals", func(t *total) string { return t.Customer })
	t.tables = append(t.tables, view)
	t.lines = func() []Line { return linesIn(view.All(), (*total).line) }
	add := func(tx *changefeed.Tx, o *Order, sign int) error {
		_, err := view.In(tx).Compute(o.Customer, func(sum *total) *total {
			if sum == nil {
				sum = &total{Customer: o.Customer}
			}
			sum.Orders += sign
			sum.Amount += sign * o.Amount
			if sum.Orders == 0 {
				return nil
			}
			return sum
		})
		return err
	}
	t.keep = func(tx *changefeed.Tx, old, new *Order) error {
		if old != nil && new != nil && old.Customer == new.Customer {
			_, err := view.In(tx).Update(new.Customer, func(sum *total) { sum.Amount += new.Amount - old.Amount })
			return err
		}
		if old != nil {
			if err := add(tx, old, -1); err != nil {
				return err
			}
		}
		if new != nil {
			return add(tx, new, 1)
		}
		return nil
	}
}

// keepBills has what a write to a customer would need: the index, and all tables in each
// transaction.
func (t *transactOrders) keepBills(customers *changefeed.Table[string, Customer]) {
	changefeed.NewIndex(t.table, "customer", func(o *Order) string { return o.Customer })
	view := changefeed.NewTable("bills", func(b *bill) int { return b.Order.ID })
	t.tables = append(t.tables, customers, view)
	t.lines = func() []Line { return linesIn(view.All(), (*bill).line) }
	t.keep = func(tx *changefeed.Tx, old, new *Order) (err error) {
		if old != nil && new != nil && old.Customer == new.Customer {
			_, err = view.In(tx).Compute(new.ID, func(row *bill) *bill {
				if row != nil {
					row.Order = new
				}
				return row
			})
			return err
		}
		if new != nil {
			if customer, ok := customers.In(tx).Get(new.Customer); ok {
				_, err = view.In(tx).Upsert(bill{new, &customer})
				return err
			}
			old = new
		}
		_, err = view.In(tx).Compute(old.ID, func(*bill) *bill { return nil })
		return err
	}
}

func (t *transactOrders) Update(id, amount int) {
	edit := func(o *Order) { o.Amount = amount }
	if t.keep == nil {
		_, err := t.table.Update(id, edit)
		must(err)
		return
	}
	must(changefeed.Transact(func(tx *changefeed.Tx) error {
		c, err := t.table.In(tx).Update(id, edit)
		if err != nil {
			return err
		}
		return t.keep(tx, c.Old, c.New)
	}, t.tables...))
}

func (t *transactOrders) Settle() {}

func (t *transactOrders) Lines() []Line {
	if t.lines == nil {
		return nil
	}
	return t.lines()
}

func (t *transactOrders) Close() { t.table.Drop() }
