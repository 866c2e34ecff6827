package contest

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each contestant's views are what their definitions make of the orders.
func TestViews(t *testing.T) {
	for _, c := range All() {
		if c.OpenView == nil {
			continue
		}
		for _, view := range AllViews() {
			t.Run(c.Name+", "+string(view), func(t *testing.T) {
				orders, customers := NewOrders(300)
				store := c.OpenView(view, slices.Clone(orders), customers)
				if store == nil {
					t.Skip("it has no such view")
				}
				defer store.Close()
				for i, key := range Keys(2000, len(orders)) {
					orders[key].Amount = i * 7919 % 10_000
					store.Update(orders[key].ID, orders[key].Amount)
					if i%100 > 0 || view == NoView || view == IndexOnly {
						continue
					}
					store.Settle()
					lines := store.Lines()
					SortLines(lines)
					require.Equal(t, LinesOf(view, orders, customers), lines)
				}
			})
		}
	}
}

// Changes by hand that no workload makes are made right, too.
func TestViewsByHand(t *testing.T) {
	orders, customers := NewOrders(100)
	for _, view := range AllViews()[1:] {
		hand := newHandView(view, customers)
		for i := range orders {
			hand.keep(nil, &orders[i])
		}
		if view == IndexOnly {
			require.Equal(t, len(orders), hand.index.Len())
			continue
		}
		rest := slices.Clone(orders)
		for i := range rest {
			moved := rest[i]
			moved.Customer = customers[i%7].Name
			hand.keep(&orders[i], &moved)
			rest[i] = moved
		}
		for i, out := range rest[:50] {
			hand.keep(&out, nil)
			lines := hand.lines()
			SortLines(lines)
			require.Equal(t, LinesOf(view, rest[i+1:], customers), lines)
		}
	}
}

// Each follower receives all changes of a view.
func TestFollowView(t *testing.T) {
	orders, customers := NewOrders(100)
	store := Changefeed.OpenView(GroupView, orders, customers).(FollowedOrders)
	defer store.Close()
	var got atomic.Int64
	all := make(chan struct{})
	stop := store.Follow(3, func(changes int) {
		if got.Add(int64(changes)) == 30 {
			close(all)
		}
	})
	stopStalled := store.Follow(2, nil)
	for i := range 10 {
		store.Update(i, -1)
	}
	<-all
	stop()
	stopStalled()
}
