package contest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
)

// A View is what a contestant keeps equal to its orders with every write.
type View string

// The views. An index is none, but a view can be made of one.
const (
	NoView     View = "no view"
	SelectView View = "select" // the ID and the amount of each order
	GroupView  View = "group"  // the number of orders of each customer, and the sum of their amounts
	JoinView   View = "join"   // each order with its customer
	IndexOnly  View = "index"  // no view, but an index by amount
	TopView    View = "top 10" // the ten orders with the largest amounts, beside an index by amount
)

// AllViews are all of them.
func AllViews() []View { return []View{NoView, SelectView, GroupView, JoinView, IndexOnly, TopView} }

// TopSize is the number of rows of TopView.
const TopSize = 10

// Orders are a table of orders, and one view of it. One goroutine writes.
type Orders interface {
	// Update makes a single, committed write, which changes an order's amount.
	Update(id, amount int)

	// Settle returns when the view has all writes.
	Settle()

	// Lines returns the rows of the view in any order, or nil if there is no view.
	Lines() []Line

	// Close ends background work.
	Close()
}

// FollowedOrders are Orders whose view can be followed.
type FollowedOrders interface {
	Orders

	// Follow subscribes n followers to the changes of the view. Each calls got with the number
	// of changes that it has received. If got is nil, the followers do not read. stop ends them.
	Follow(n int, got func(changes int)) (stop func())
}

// An Order is a row of 100 bytes without the customer's name, which orders share.
type Order struct {
	ID       int
	Customer string
	Amount   int
	Note     string
}

// A Customer is a row that orders refer to by its name.
type Customer struct{ Name, Country string }

// A Line is a row of any of the views. The fields that the view does not have are zero.
type Line struct {
	Order             int
	Customer, Country string
	Orders, Amount    int
}

// SortLines sorts the rows of a view.
func SortLines(lines []Line) {
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Customer, b.Customer))
	})
}

// LinesOf returns the rows that a view of orders and customers must have, sorted.
func LinesOf(view View, orders []Order, customers []Customer) []Line {
	var lines []Line
	switch view {
	case SelectView:
		for _, o := range orders {
			lines = append(lines, Line{Order: o.ID, Amount: o.Amount})
		}
	case GroupView:
		sums := make(map[string]Line)
		for _, o := range orders {
			sum := sums[o.Customer]
			sums[o.Customer] = Line{Customer: o.Customer, Orders: sum.Orders + 1, Amount: sum.Amount + o.Amount}
		}
		for _, sum := range sums {
			lines = append(lines, sum)
		}
	case JoinView:
		countries := make(map[string]string)
		for _, c := range customers {
			countries[c.Name] = c.Country
		}
		for _, o := range orders {
			lines = append(lines, Line{Order: o.ID, Customer: o.Customer, Country: countries[o.Customer], Amount: o.Amount})
		}
	case TopView:
		sorted := slices.SortedFunc(slices.Values(orders), func(a, b Order) int {
			return cmp.Or(cmp.Compare(b.Amount, a.Amount), cmp.Compare(b.ID, a.ID))
		})
		for _, o := range sorted[:min(TopSize, len(sorted))] {
			lines = append(lines, Line{Order: o.ID, Amount: o.Amount})
		}
	}
	SortLines(lines)
	return lines
}

const (
	customerCount = 100
	noteLen       = 52
)

// The amounts of the first TopSize orders are HighAmount and more, and those of the others are below
// LowAmount.
const (
	LowAmount  = 1_000_000
	HighAmount = 1_000_000_000
)

// NewOrders returns n orders in random order, and the customers that they refer to. Their IDs are
// those below n.
func NewOrders(n int) ([]Order, []Customer) {
	customers := make([]Customer, customerCount)
	for i := range customers {
		customers[i] = Customer{fmt.Sprint("customer ", i), fmt.Sprint("country ", i%10)}
	}
	random := rand.New(rand.NewPCG(seed1, seed2))
	orders := make([]Order, n)
	for i, id := range random.Perm(n) {
		amount := random.IntN(LowAmount)
		if id < TopSize {
			amount += HighAmount
		}
		note := fmt.Sprintf("%-*d", noteLen, id)
		orders[i] = Order{id, customers[random.IntN(customerCount)].Name, amount, note}
	}
	return orders, customers
}

// A brief is a row of SelectView that is kept by hand.
type brief struct{ ID, Amount int }

func (b *brief) line() Line { return Line{Order: b.ID, Amount: b.Amount} }

// A total is a row of GroupView that is kept by hand.
type total struct {
	Customer       string
	Orders, Amount int
}

func (t *total) line() Line { return Line{Customer: t.Customer, Orders: t.Orders, Amount: t.Amount} }

// A bill is a row of JoinView that is kept by hand.
type bill struct {
	Order    *Order
	Customer *Customer
}

// Equal and Clone make a table compare and copy the pointers, because stored rows never change.
func (b bill) Equal(other bill) bool { return b == other }
func (b bill) Clone() bill           { return b }

func (b *bill) line() Line {
	return Line{Order: b.Order.ID, Customer: b.Customer.Name, Country: b.Customer.Country, Amount: b.Order.Amount}
}
