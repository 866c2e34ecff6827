package contest

import (
	"context"
	"iter"
	"sync"

	"github.com/seed-637b77f9/changefeed"
)

// changefeedOrders are orders with a view of the library.
type changefeedOrders struct {
	table  *changefeed.Table[int, Order]
	lines  func() []Line
	follow func(n int, got func(changes int)) (stop func())
}

func openChangefeedOrders(view View, orders []Order, customers []Customer) Orders {
	t := &changefeedOrders{table: loadOrders(orders)}
	byCustomer := func(o *Order) string { return o.Customer }
	byAmount := func(o *Order) int { return o.Amount }
	switch view {
	case SelectView:
		show(t, changefeed.Select(t.table, "briefs",
			func(b *brief) int { return b.ID },
			func(o *Order) *brief { return &brief{o.ID, o.Amount} }), (*brief).line)
	case GroupView:
		fold := func(sum *int, o *Order, sign int) { *sum += sign * o.Amount }
		show(t, changefeed.Group(t.table, "totals", byCustomer, fold), func(g *changefeed.Grouped[string, int]) Line {
			return Line{Customer: g.Group, Orders: g.Count, Amount: g.Value}
		})
	case JoinView:
		show(t, changefeed.Join(t.table, loadCustomers(customers), "bills", byCustomer), func(j *changefeed.Joined[Order, Customer]) Line {
			return Line{Order: j.Left.ID, Customer: j.Right.Name, Country: j.Right.Country, Amount: j.Left.Amount}
		})
	case IndexOnly:
		changefeed.NewIndex(t.table, "amount", byAmount)
	case TopView:
		index := changefeed.NewIndex(t.table, "amount", byAmount)
		show(t, changefeed.Top(index, "best", TopSize), (*Order).line)
	}
	return t
}

// line returns the order as a row of TopView.
func (o *Order) line() Line { return Line{Order: o.ID, Amount: o.Amount} }

// show makes t the orders of a view.
func show[K, V any](t *changefeedOrders, view *changefeed.View[K, V], line func(row *V) Line) {
	t.lines = func() []Line { return linesIn(view.All(), line) }
	t.follow = func(n int, got func(changes int)) (stop func()) { return followBatches(view.Batches, n, got) }
}

// followBatches follows a table or a view n times.
func followBatches[V any](
	batches func(ctx context.Context, max int, opts ...changefeed.FeedOption) changefeed.Stream[[]changefeed.Change[V]],
	n int, got func(changes int),
) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for range n {
		feed := batches(ctx, batchSize)
		if got == nil {
			continue
		}
		done.Go(func() {
			for batch, err := range feed {
				if err != nil {
					return // stopped
				}
				got(len(batch))
			}
		})
	}
	return func() {
		cancel()
		done.Wait()
	}
}

func linesIn[K, V any](rows iter.Seq2[K, V], line func(row *V) Line) []Line {
	var lines []Line
	for _, row := range rows {
		lines = append(lines, line(&row))
	}
	return lines
}

func loadOrders(orders []Order) *changefeed.Table[int, Order] {
	table := changefeed.NewTable("orders", func(o *Order) int { return o.ID })
	load(table, orders)
	return table
}

func loadCustomers(customers []Customer) *changefeed.Table[string, Customer] {
	table := changefeed.NewTable("customers", func(c *Customer) string { return c.Name })
	load(table, customers)
	return table
}

func load[K, V any](table *changefeed.Table[K, V], rows []V) {
	must(changefeed.Transact(func(tx *changefeed.Tx) error {
		in := table.In(tx)
		for _, row := range rows {
			if _, err := in.Insert(row); err != nil {
				return err
			}
		}
		return nil
	}, table))
}

func (t *changefeedOrders) Update(id, amount int) {
	_, err := t.table.Update(id, func(o *Order) { o.Amount = amount })
	must(err)
}

// Settle does nothing, because a write writes to the view before it returns.
func (t *changefeedOrders) Settle() {}

func (t *changefeedOrders) Lines() []Line {
	if t.lines == nil {
		return nil
	}
	return t.lines()
}

func (t *changefeedOrders) Follow(n int, got func(changes int)) (stop func()) {
	return t.follow(n, got)
}

func (t *changefeedOrders) Close() { t.table.Drop() }
