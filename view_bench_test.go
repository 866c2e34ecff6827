package changefeed

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The time of a write to a table with views, as a ratio to the same write without views.
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

// The time of a write to a table of a million rows while another goroutine makes a Join and a Group of it:
//
//   - longest-ms is the longest write.
//   - longest/quiet is its ratio to the longest write while nobody else uses the table.
//   - longest/busy is its ratio to the longest write while another goroutine writes to the table all the time.
//   - 99.9%/quiet is the ratio of the 99.9th percentile to that while nobody else uses the table.
//   - creation-ratio is the time to make the views, as a ratio to the time to insert the rows.
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
	update := func(n int) {
		if _, err := orders.Update(n*7919%rows, func(o *order) { o.Score++ }); err != nil {
			panic(err)
		}
	}
	// during calls f while another goroutine writes. It returns the sorted times of the writes, and the time of f.
	during := func(f func()) (writes []time.Duration, total time.Duration) {
		done, result := make(chan struct{}), make(chan []time.Duration)
		go func() {
			var times []time.Duration
			for n := 0; ; n++ {
				select {
				case <-done:
					result <- times
					return
				default:
				}
				began := time.Now()
				update(n)
				times = append(times, time.Since(began))
				time.Sleep(50 * time.Microsecond)
			}
		}()
		began := time.Now()
		f()
		total = time.Since(began)
		close(done)
		writes = <-result
		slices.Sort(writes)
		return writes, total
	}
	longest := func(writes []time.Duration) float64 { return float64(writes[len(writes)-1]) }
	long := func(writes []time.Duration) float64 { return float64(writes[len(writes)*999/1000]) }
	var making, times, toQuiet, toBusy, longToQuiet []float64
	for range b.N {
		var billed *View[int, Joined[order, customer]]
		beside, total := during(func() {
			billed = Join(orders, customers, "billed", func(o *order) string { return o.Player })
			Group(billed, "totals", func(j *Joined[order, customer]) string { return j.Right.Country },
				func(sum *int, j *Joined[order, customer], sign int) { *sum += sign * j.Left.Score })
		})
		billed.Drop()
		quiet, _ := during(func() { time.Sleep(total) })
		busy, _ := during(func() {
			began := time.Now()
			for n := 0; time.Since(began) < total; n++ {
				update(n)
			}
		})
		making = append(making, float64(total)/float64(inserting))
		times = append(times, longest(beside)/1e6)
		toQuiet = append(toQuiet, longest(beside)/longest(quiet))
		toBusy = append(toBusy, longest(beside)/longest(busy))
		longToQuiet = append(longToQuiet, long(beside)/long(quiet))
	}
	for unit, list := range map[string][]float64{
		"creation-ratio": making, "longest-ms": times, "longest/quiet": toQuiet, "longest/busy": toBusy, "99.9%/quiet": longToQuiet,
	} {
		slices.Sort(list)
		b.ReportMetric(list[len(list)/2], unit)
	}
}
