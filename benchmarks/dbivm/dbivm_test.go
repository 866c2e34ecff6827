// Package dbivm compares a Group with that of TanStack's db-ivm, which keeps views of rows in JavaScript.
package dbivm

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

type order struct {
	ID     int
	Group  string
	Amount int
}

// BenchmarkOneGroup: the median time of a change to one of 10,000 rows, whose sum is kept, compared with that of
// db-ivm in a process of its own, before or after. It needs node, and db-ivm, which npm install gets.
func BenchmarkOneGroup(b *testing.B) {
	const rows, changes = 10_000, 1000
	orders := changefeed.NewTable("orders", func(o *order) int { return o.ID })
	total := 0
	for id := range rows {
		if _, err := orders.Insert(order{id, "all", id}); err != nil {
			b.Fatal(err)
		}
		total += id
	}
	totals := changefeed.Group(orders, "totals", func(o *order) string { return o.Group },
		func(sum *int, o *order, sign int) { *sum += sign * o.Amount })

	var ours, theirs, ratios []float64
	for i := range b.N {
		began := time.Now()
		for n := range changes {
			if _, err := orders.Update(n*7919%rows, func(o *order) { o.Amount++ }); err != nil {
				b.Fatal(err)
			}
		}
		our := float64(time.Since(began)) / changes
		total += changes
		if all, _ := totals.Get("all"); all.Value != total {
			b.Fatalf("the sum is %d, not %d", all.Value, total)
		}

		printed, err := exec.CommandContext(b.Context(), "node", "main.mjs", fmt.Sprint(rows), fmt.Sprint(changes)).CombinedOutput()
		if err != nil {
			b.Fatalf("round %d: %v: %s", i, err, printed)
		}
		their, err := strconv.ParseFloat(strings.TrimSpace(string(printed)), 64)
		if err != nil {
			b.Fatal(err)
		}
		ours, theirs, ratios = append(ours, our), append(theirs, their), append(ratios, their/our)
	}
	median := func(list []float64) float64 {
		slices.Sort(list)
		return list[len(list)/2]
	}
	b.ReportMetric(median(ours), "ns/write")
	b.ReportMetric(median(theirs), "db-ivm-ns/write")
	b.ReportMetric(median(ratios), "ratio")
}
