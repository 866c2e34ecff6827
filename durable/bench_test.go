package durable

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
)

const benchRows = 10_000

func newAccounts() *changefeed.Table[int, transfer] {
	return changefeed.NewTable("transfers", func(t *transfer) int { return t.ID })
}

// Writers that wait for the disk after each write. With keep, the file keeps the newest changes.
func BenchmarkWait(b *testing.B) {
	for _, writers := range []int{1, 64, 512} {
		for _, keep := range []int{0, DefaultKeep} {
			b.Run(fmt.Sprintf("writers=%d/keep=%d", writers, keep), func(b *testing.B) {
				table := newAccounts()
				for id := range benchRows {
					_, err := table.Insert(transfer{ID: id})
					require.NoError(b, err)
				}
				store, err := Open(filepath.Join(b.TempDir(), "bench.db"), []Table{Rows(table)}, Keep(keep))
				require.NoError(b, err)
				latencies := make([][]time.Duration, writers)
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ResetTimer()
				var all sync.WaitGroup
				for w := range writers {
					all.Go(func() {
						for i := w; left.Add(-1) >= 0; i += writers {
							start := time.Now()
							c, err := table.Update(i%benchRows, func(t *transfer) { t.Amount++ })
							if err == nil {
								err = store.Wait(context.Background(), table.At(c.Seq))
							}
							if err != nil {
								b.Error(err)
								return
							}
							latencies[w] = append(latencies[w], time.Since(start))
						}
					})
				}
				all.Wait()
				b.StopTimer()
				l := slices.Concat(latencies...)
				slices.Sort(l)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
				b.ReportMetric(float64(l[len(l)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(l[len(l)*99/100].Microseconds())/1000, "p99-ms")
				require.NoError(b, store.Close())
			})
		}
	}
}

// A write to a table of a store that nobody waits for, compared with one to a table without a
// store: as fast as can be, and at 50,000 writes a second. Without a store, the other core has
// nothing to do.
func BenchmarkWrite(b *testing.B) {
	for _, every := range []time.Duration{0, 20 * time.Microsecond} {
		b.Run(fmt.Sprintf("every=%v", every), func(b *testing.B) {
			newTable := func() *changefeed.Table[int, transfer] {
				table := newAccounts()
				for id := range benchRows {
					_, err := table.Insert(transfer{ID: id})
					require.NoError(b, err)
				}
				return table
			}
			stored, alone := newTable(), newTable()
			store, err := Open(filepath.Join(b.TempDir(), "bench.db"), []Table{Rows(stored)})
			require.NoError(b, err)
			const round = 25_000
			write := func(table *changefeed.Table[int, transfer], times []time.Duration) []time.Duration {
				next := time.Now()
				for i := range round {
					for next = next.Add(every); every > 0 && time.Now().Before(next); {
					}
					start := time.Now()
					_, _ = table.Update(i*7%benchRows, func(t *transfer) { t.Amount++ })
					times = append(times, time.Since(start))
				}
				return times
			}
			var ours, other []time.Duration
			for b.Loop() {
				ours = write(stored, ours)
				require.NoError(b, store.Wait(b.Context(), stored.Position()))
				other = write(alone, other)
			}
			require.NoError(b, store.Close())
			mean := func(times []time.Duration) float64 {
				var sum time.Duration
				for _, t := range times {
					sum += t
				}
				return float64(sum.Nanoseconds()) / float64(len(times))
			}
			p50 := func(times []time.Duration) float64 {
				slices.Sort(times)
				return float64(times[len(times)/2].Nanoseconds())
			}
			b.ReportMetric(mean(ours), "ns/write")
			b.ReportMetric(mean(other), "other-ns/write")
			b.ReportMetric(mean(ours)/mean(other), "ratio")
			b.ReportMetric(p50(ours)/p50(other), "p50-ratio")
		})
	}
}

// A million rows are stored and restored.
func BenchmarkOpen(b *testing.B) {
	const rows = 1_000_000
	path := filepath.Join(b.TempDir(), "bench.db")
	table := newAccounts()
	for id := range rows {
		_, err := table.Insert(transfer{ID: id, From: "Ann", To: "Bob", Amount: id})
		require.NoError(b, err)
	}
	start := time.Now()
	store, err := Open(path, []Table{Rows(table)})
	require.NoError(b, err)
	b.ReportMetric(time.Since(start).Seconds(), "s-to-store")
	require.NoError(b, store.Close())
	for b.Loop() {
		table := newAccounts()
		store, err := Open(path, []Table{Rows(table)})
		require.NoError(b, err)
		require.Equal(b, rows, table.Len())
		b.StopTimer()
		require.NoError(b, store.Close())
		b.StartTimer()
	}
}
