package workload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// The tables of Views.
var (
	ViewTime  = Table{Title: "Update with a view", Unit: "ns a write, until the view has all"}
	ViewEach  = Table{Title: "Update with a view, one at a time", Unit: "ns a write, until the view has it"}
	ViewRatio = Table{Title: "What a view costs", Unit: "times a write without it, or with the index alone", Derived: true}
)

// Views measures updates of a table with a view.
var Views = Workload{
	Name:  "views",
	Title: "Live views",
	About: "Update random amounts of two tables of orders in turn, 2,000 at a time. One of them has a view, and both have its index. Figures are medians of the turns. Then the view is compared with its definition.",
	Cases: func(s Scale) []Case {
		pairs := []viewPair{
			{view: contest.SelectView, rows: s.Rows},
			{view: contest.GroupView, rows: s.Rows},
			{view: contest.JoinView, rows: s.Rows},
			{view: contest.TopView, rows: s.Rows},
			{view: contest.TopView, rows: s.Rows, inTop: true},
			{view: contest.GroupView, rows: s.Large},
		}
		var cases []Case
		for _, p := range pairs {
			cases = append(cases, Case{
				Name: p.String(),
				Run:  func(c contest.Contestant) ([]Figure, error) { return p.run(c, 4*s.Writes) },
			})
		}
		return cases
	},
}

// viewRound is the number of writes that one table gets before the other has its turn.
const viewRound = 2000

// A viewPair is a view that is compared with the same table without it.
type viewPair struct {
	view  contest.View
	rows  int
	inTop bool // the writes are to rows of TopView, and not to the others
}

func (p viewPair) String() string {
	name := string(p.view)
	if p.view == contest.TopView {
		name += map[bool]string{false: ", outside", true: ", inside"}[p.inTop]
	}
	return name + ", " + Count(p.rows) + " rows"
}

// base returns what the table without the view has.
func (p viewPair) base() contest.View {
	if p.view == contest.TopView {
		return contest.IndexOnly
	}
	return contest.NoView
}

// A sale is a write of a viewPair.
type sale struct{ id, amount int }

// sales returns n writes.
func (p viewPair) sales(n int) []sale {
	random := rand.New(rand.NewPCG(uint64(n), uint64(p.rows)))
	sales := make([]sale, n)
	for i := range sales {
		sales[i] = sale{contest.TopSize + random.IntN(p.rows-contest.TopSize), random.IntN(contest.LowAmount)}
		if p.inTop {
			sales[i].id = random.IntN(contest.TopSize)
			sales[i].amount += contest.HighAmount
		}
	}
	return sales
}

func (p viewPair) run(c contest.Contestant, writes int) ([]Figure, error) {
	if c.OpenView == nil {
		return nil, nil
	}
	orders, customers := contest.NewOrders(p.rows)
	with := c.OpenView(p.view, orders, customers)
	if with == nil {
		return nil, nil
	}
	defer with.Close()
	without := c.OpenView(p.base(), orders, customers)
	defer without.Close()
	collect()

	sales := p.sales(writes)
	var times, single, ratios []float64
	for round := range slices.Chunk(sales, viewRound) {
		a, b := sell(without, round), sell(with, round)
		times, ratios = append(times, perOp(b, len(round))), append(ratios, float64(b)/float64(a))
	}
	some := sales[:writes/4]
	for round := range slices.Chunk(some, viewRound/10) {
		start := time.Now()
		for _, s := range round {
			with.Update(s.id, s.amount)
			with.Settle()
		}
		single = append(single, perOp(time.Since(start), len(round)))
	}

	at := make(map[int]int, len(orders)) // by ID
	for i, o := range orders {
		at[o.ID] = i
	}
	for _, s := range slices.Concat(sales, some) {
		orders[at[s.id]].Amount = s.amount
	}
	if err := checkView(c, with, p.view, orders, customers); err != nil {
		return nil, err
	}
	figure := func(table Table, value float64) Figure {
		return Figure{Table: table, Column: p.String(), Value: value}
	}
	return []Figure{
		figure(ViewTime, middle(times)),
		figure(ViewEach, middle(single)),
		figure(ViewRatio, middle(ratios)),
	}, nil
}

// sell makes writes, and returns the time until the view has them.
func sell(orders contest.Orders, sales []sale) time.Duration {
	start := time.Now()
	for _, s := range sales {
		orders.Update(s.id, s.amount)
	}
	orders.Settle()
	return time.Since(start)
}

// checkView returns an error if the view is not what its definition makes of the orders.
func checkView(c contest.Contestant, of contest.Orders, view contest.View, orders []contest.Order, customers []contest.Customer) error {
	got, want := of.Lines(), contest.LinesOf(view, orders, customers)
	contest.SortLines(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: a wrong view: %s", c.Name, view)
	}
	return nil
}

// The tables of ViewFollowers.
var (
	FollowedTime  = Table{Title: "Update with a followed view", Unit: "ns a call"}
	FollowedRatio = Table{Title: "What many followers of a view cost", Unit: "times a write with one", Derived: true}
)

// ViewFollowers measures updates of a table whose view has followers.
var ViewFollowers = Workload{
	Name:  "view-followers",
	Title: "Followers of a live view",
	About: "Update random amounts of two tables of orders in turn. The view of one has many followers, and that of the other one. They have stalled; or all wait for each write, and only the call of the write is timed.",
	Cases: func(s Scale) []Case {
		var cases []Case
		for _, stalled := range []bool{true, false} {
			cases = append(cases, Case{
				Name: followedColumn(s.Followers, stalled),
				Run: func(c contest.Contestant) ([]Figure, error) {
					return followed(c, s, stalled)
				},
			})
		}
		return cases
	},
}

func followedColumn(n int, stalled bool) string {
	return Count(n) + map[bool]string{true: " stalled", false: " that wait"}[stalled]
}

// A crowd is orders with a view that is followed.
type crowd struct {
	orders contest.FollowedOrders
	size   int
	got    atomic.Int64  // changes of the write under way
	all    chan struct{} // notified when all followers have it
	stop   func()
}

// newCrowd returns orders with a view and n followers, or nil if the contestant has no such view.
func newCrowd(c contest.Contestant, rows, n int, stalled bool) *crowd {
	if c.OpenView == nil {
		return nil
	}
	orders, customers := contest.NewOrders(rows)
	store := c.OpenView(contest.GroupView, orders, customers)
	view, ok := store.(contest.FollowedOrders)
	if !ok {
		store.Close()
		return nil
	}
	r := &crowd{orders: view, size: n, all: make(chan struct{}, 1)}
	var got func(changes int)
	if !stalled {
		got = func(changes int) {
			if r.got.Add(int64(changes)) == int64(r.size) {
				r.got.Store(0)
				r.all <- struct{}{}
			}
		}
	}
	r.stop = view.Follow(n, got)
	return r
}

func (r *crowd) close() {
	r.stop()
	r.orders.Close()
}

// call makes a write, and returns the time of the call. It waits until all followers have it.
func (r *crowd) call(s sale) (float64, error) {
	work(100 * time.Microsecond)
	start := time.Now()
	r.orders.Update(s.id, s.amount)
	elapsed := time.Since(start)
	select {
	case <-r.all:
		return float64(elapsed), nil
	case <-time.After(tooLong):
		return 0, fmt.Errorf("a follower still waits for what was written %v ago", tooLong)
	}
}

func followed(c contest.Contestant, s Scale, stalled bool) ([]Figure, error) {
	many := newCrowd(c, s.Rows, s.Followers, stalled)
	if many == nil {
		return nil, nil
	}
	defer many.close()
	one := newCrowd(c, s.Rows, 1, stalled)
	defer one.close()
	collect()

	pair := viewPair{view: contest.GroupView, rows: s.Rows}
	var times []float64
	var ratio float64
	if stalled {
		var ratios []float64
		for round := range slices.Chunk(pair.sales(2*s.Writes), viewRound) {
			a, b := sell(one.orders, round), sell(many.orders, round)
			times, ratios = append(times, perOp(b, len(round))), append(ratios, float64(b)/float64(a))
		}
		ratio = middle(ratios)
	} else {
		var single []float64
		for _, s := range pair.sales(s.Writes / 20) {
			a, err := one.call(s)
			if err != nil {
				return nil, err
			}
			b, err := many.call(s)
			if err != nil {
				return nil, err
			}
			single, times = append(single, a), append(times, b)
		}
		ratio = middle(times) / middle(single)
	}
	column := followedColumn(s.Followers, stalled)
	return []Figure{
		{Table: FollowedTime, Column: column, Value: middle(times)},
		{Table: FollowedRatio, Column: column, Value: ratio},
	}, nil
}

// middle returns the median.
func middle(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
