package contest

import (
	"context"
	"sync"

	"github.com/google/btree"

	"github.com/seed-637b77f9/changefeed"
)

// Follower is this library without its views: a goroutine follows the table and keeps the
// view in a map. A write returns before the view has it.
var Follower = Contestant{
	Name:   "follower",
	Module: "github.com/seed-637b77f9/changefeed",
	Traits: Traits{Use: "views only, by hand: a goroutine reads `Batches` of up to 64, and updates a map under a mutex"},
	OpenView: func(view View, orders []Order, customers []Customer) Orders {
		t := &followerOrders{table: loadOrders(orders)}
		switch view {
		case NoView:
			return t
		case SelectView, GroupView:
			t.view = newHandView(view, customers)
		default:
			return nil // the feeds of two tables do not tell which changes belong together
		}
		t.changed.L = &t.mu
		var ctx context.Context
		ctx, t.cancel = context.WithCancel(context.Background())
		feed := t.table.Batches(ctx, batchSize, changefeed.IncludeInitial())
		t.done.Go(func() {
			for batch, err := range feed {
				if err != nil {
					if ctx.Err() == nil {
						panic(err)
					}
					return
				}
				t.keep(batch)
			}
		})
		t.Settle()
		return t
	},
}

type followerOrders struct {
	table  *changefeed.Table[int, Order]
	view   *handView // or nil
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex // guards view and the following
	ready   bool       // it has the rows that were there when it began
	seq     uint64     // of the last change that it has
	changed sync.Cond
}

func (t *followerOrders) keep(batch []changefeed.Change[Order]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range batch {
		c := &batch[i]
		if c.Kind == changefeed.Ready {
			t.ready = true
		} else {
			t.view.keep(c.Old, c.New)
		}
		t.seq = c.Seq
	}
	t.changed.Broadcast()
}

func (t *followerOrders) Update(id, amount int) {
	_, err := t.table.Update(id, func(o *Order) { o.Amount = amount })
	must(err)
}

func (t *followerOrders) Settle() {
	if t.view == nil {
		return
	}
	seq := t.table.Seq()
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.ready || t.seq < seq {
		t.changed.Wait()
	}
}

func (t *followerOrders) Lines() []Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view.lines()
}

func (t *followerOrders) Close() {
	if t.cancel != nil {
		t.cancel()
		t.done.Wait()
	}
	t.table.Drop()
}

// Map is the usual code written by hand: maps of orders and of the view's rows, and a lock for both.
var Map = Contestant{
	Name:   "map",
	Traits: Traits{Use: "views only, by hand: a map of the rows, one of the view, and a mutex"},
	OpenView: func(view View, orders []Order, customers []Customer) Orders {
		t := &mapOrders{orders: make(map[int]*Order, len(orders)), view: newHandView(view, customers)}
		for _, order := range orders {
			t.orders[order.ID] = &order
			t.view.keep(nil, &order)
		}
		return t
	},
}

type mapOrders struct {
	mu     sync.Mutex
	orders map[int]*Order
	view   *handView
}

func (t *mapOrders) Update(id, amount int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.orders[id]
	order := *old
	order.Amount = amount
	t.orders[id] = &order
	t.view.keep(old, &order)
}

func (t *mapOrders) Settle() {}

func (t *mapOrders) Lines() []Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view.lines()
}

func (t *mapOrders) Close() {}

// A handView is a view in maps. It has those that its kind needs. Its rows are changed where they
// are, and nobody is told.
type handView struct {
	kind      View
	briefs    map[int]*brief
	totals    map[string]*total
	bills     map[int]*bill
	customers map[string]*Customer
	billsOf   map[string]map[int]*bill // by customer, which a write to a customer would need
	index     *btree.BTreeG[brief]     // by amount
	top       []brief                  // the largest first
}

func newHandView(kind View, customers []Customer) *handView {
	v := &handView{kind: kind}
	switch kind {
	case SelectView:
		v.briefs = make(map[int]*brief)
	case GroupView:
		v.totals = make(map[string]*total)
	case JoinView:
		v.bills, v.billsOf = make(map[int]*bill), make(map[string]map[int]*bill)
		v.customers = make(map[string]*Customer)
		for _, c := range customers {
			v.customers[c.Name] = &c
			v.billsOf[c.Name] = make(map[int]*bill)
		}
	case IndexOnly, TopView:
		v.index = btree.NewG(32, brief.less)
	}
	return v
}

// less reports whether b comes before c in an index by amount.
func (b brief) less(c brief) bool {
	return b.Amount < c.Amount || b.Amount == c.Amount && b.ID < c.ID
}

// keep makes a change of an order also that of the view. One of old and new may be nil.
func (v *handView) keep(old, new *Order) {
	switch v.kind {
	case SelectView:
		v.keepBrief(old, new)
	case GroupView:
		if old != nil && new != nil && old.Customer == new.Customer {
			v.totals[new.Customer].Amount += new.Amount - old.Amount
			return
		}
		v.add(old, -1)
		v.add(new, 1)
	case JoinView:
		v.keepBill(old, new)
	case IndexOnly, TopView:
		v.keepIndex(old, new)
	}
}

func (v *handView) keepBrief(old, new *Order) {
	if new == nil {
		delete(v.briefs, old.ID)
	} else if row := v.briefs[new.ID]; row != nil {
		row.Amount = new.Amount
	} else {
		v.briefs[new.ID] = &brief{new.ID, new.Amount}
	}
}

// add takes an order into its group, or out of it. o may be nil.
func (v *handView) add(o *Order, sign int) {
	if o == nil {
		return
	}
	sum := v.totals[o.Customer]
	if sum == nil {
		sum = &total{Customer: o.Customer}
		v.totals[o.Customer] = sum
	}
	sum.Orders += sign
	sum.Amount += sign * o.Amount
	if sum.Orders == 0 {
		delete(v.totals, o.Customer)
	}
}

func (v *handView) keepBill(old, new *Order) {
	if old != nil && new != nil && old.Customer == new.Customer {
		if row := v.bills[new.ID]; row != nil {
			row.Order = new
		}
		return
	}
	if old != nil {
		delete(v.bills, old.ID)
		delete(v.billsOf[old.Customer], old.ID)
	}
	if new == nil {
		return
	}
	if customer := v.customers[new.Customer]; customer != nil {
		row := &bill{new, customer}
		v.bills[new.ID] = row
		v.billsOf[new.Customer][new.ID] = row
	}
}

func (v *handView) keepIndex(old, new *Order) {
	shown := false // whether one of the two is in the top
	if old != nil {
		at := brief{old.ID, old.Amount}
		v.index.Delete(at)
		shown = v.isTop(at)
	}
	if new != nil {
		at := brief{new.ID, new.Amount}
		v.index.ReplaceOrInsert(at)
		shown = shown || v.isTop(at)
	}
	if v.kind != TopView || !shown {
		return
	}
	v.top = v.top[:0]
	v.index.Descend(func(b brief) bool {
		v.top = append(v.top, b)
		return len(v.top) < TopSize
	})
}

// isTop reports whether an entry of the index belongs before the end of the top.
func (v *handView) isTop(b brief) bool {
	return len(v.top) < TopSize || !b.less(v.top[TopSize-1])
}

func (v *handView) lines() []Line {
	var lines []Line
	for _, row := range v.briefs {
		lines = append(lines, row.line())
	}
	for _, row := range v.totals {
		lines = append(lines, row.line())
	}
	for _, row := range v.bills {
		lines = append(lines, row.line())
	}
	for _, row := range v.top {
		lines = append(lines, row.line())
	}
	return lines
}
