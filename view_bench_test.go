package changefeed

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// What views cost a write to their source, as a ratio to the same write without them.
func BenchmarkViews(b *testing.B) {
	const rows, round = 10_000, 2000
	type bench struct {
		name   string
		orders *Table[int, order]
	}
	newOrders := func() *Table[int, order] {
		orders := NewTable("orders", func(o *order) int { return o.ID })
		for id := range rows {
			if _, err := orders.Insert(order{id, fmt.Sprint("customer ", id%100), id * 7919 % 10_000}); err != nil {
				b.Fatal(err)
			}
		}
		return orders
	}
	customers := NewTable("customers", func(c *customer) string { return c.Name })
	for i := range 100 {
		if _, err := customers.Insert(customer{fmt.Sprint("customer ", i), fmt.Sprint(i % 10)}); err != nil {
			b.Fatal(err)
		}
	}
	list := []*bench{{name: "none"}, {name: "select"}, {name: "group"}, {name: "join"}, {name: "index"}, {name: "index, top"}, {name: "3 groups"}, {name: "join, group, index, top"}}
	for i, x := range list {
		x.orders = newOrders()
		by := func(o *order) string { return o.Player }
		fold := func(sum *int, o *order, sign int) { *sum += sign * o.Score }
		amount := func(o *order) int { return o.Score }
		switch i {
		case 1:
			Select(x.orders, "lines", func(l *line) int { return l.ID }, func(o *order) *line { return &line{ID: o.ID, Score: o.Score} })
		case 2:
			Group(x.orders, "totals", by, fold)
		case 3:
			Join(x.orders, customers, "billed", by)
		case 4:
			NewIndex(x.orders, "amount", amount)
		case 5:
			Top(NewIndex(x.orders, "amount", amount), "best", 10)
		case 6:
			for i := range 3 {
				Group(x.orders, fmt.Sprint("totals ", i), by, fold)
			}
		case 7:
			billed := Join(x.orders, customers, "billed", by)
			countries := Group(billed, "countries", func(j *Joined[order, customer]) string { return j.Right.Country },
				func(sum *int, j *Joined[order, customer], sign int) { *sum += sign * j.Left.Score })
			Top(NewIndex(countries, "value", func(g *Grouped[string, int]) int { return g.Value }), "best", 3)
		}
	}
	times := make([][]float64, len(list))
	n := 0
	for range b.N {
		for i, x := range list {
			began := time.Now()
			for k := range round {
				n++
				if _, err := x.orders.Update((n+k*7919)%rows, func(o *order) { o.Score = (o.Score + n) % 9000 }); err != nil {
					b.Fatal(err)
				}
			}
			times[i] = append(times[i], float64(time.Since(began)))
		}
	}
	for i, x := range list {
		var ratios []float64
		for k := range times[i] {
			ratios = append(ratios, times[i][k]/times[0][k])
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], strings.ReplaceAll(x.name, " ", "-")+"-ratio")
	}
}

// The longest write to a table of a million rows while a Join and a Group of it are made, as a ratio to the longest write in as
// much time without, and the time to make them as a ratio to that of inserting the rows.
func BenchmarkViewCreation(b *testing.B) {
	const rows = 1_000_000
	customers := NewTable("customers", func(c *customer) string { return c.Name })
	for i := range 100 {
		if _, err := customers.Insert(customer{fmt.Sprint("customer ", i), fmt.Sprint(i % 10)}); err != nil {
			b.Fatal(err)
		}
	}
	orders := NewTable("orders", func(o *order) int { return o.ID })
	began := time.Now()
	for id := range rows {
		if _, err := orders.Insert(order{ID: id, Player: fmt.Sprint("customer ", id%100), Score: id}); err != nil {
			b.Fatal(err)
		}
	}
	inserting := time.Since(began)
	// during calls f while another goroutine writes, and returns the longest write and the time of f.
	during := func(f func()) (longest, total time.Duration) {
		done, result := make(chan struct{}), make(chan time.Duration)
		go func() {
			var longest time.Duration
			for n := 0; ; n++ {
				select {
				case <-done:
					result <- longest
					return
				default:
				}
				began := time.Now()
				if _, err := orders.Update(n*7919%rows, func(o *order) { o.Score++ }); err != nil {
					panic(err)
				}
				longest = max(longest, time.Since(began))
				time.Sleep(50 * time.Microsecond)
			}
		}()
		began := time.Now()
		f()
		total = time.Since(began)
		close(done)
		return <-result, total
	}
	var with, without, making []float64
	for range b.N {
		billed := (*View[int, Joined[order, customer]])(nil)
		longest, total := during(func() {
			billed = Join(orders, customers, "billed", func(o *order) string { return o.Player })
			Group(billed, "totals", func(j *Joined[order, customer]) string { return j.Right.Country },
				func(sum *int, j *Joined[order, customer], sign int) { *sum += sign * j.Left.Score })
		})
		billed.Drop()
		quiet, _ := during(func() { time.Sleep(total) })
		with, without, making = append(with, float64(longest)), append(without, float64(quiet)), append(making, float64(total)/float64(inserting))
	}
	slices.Sort(with)
	slices.Sort(without)
	slices.Sort(making)
	b.ReportMetric(with[len(with)/2]/without[len(without)/2], "longest-write-ratio")
	b.ReportMetric(with[len(with)/2]/1e6, "longest-write-ms")
	b.ReportMetric(making[len(making)/2], "creation-ratio")
}
