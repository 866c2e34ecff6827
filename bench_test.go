package changefeed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"
)

// The figures that count are ratios within one run: a benchmark that compares runs
// both sides in turn, in rounds, and reports the median of each and the median of
// the rounds' ratios. ns/op and allocs/op are of the library's side, for a whole
// round where the benchmark reports ns/write, or a whole backlog; those of Parked
// and Latency include the pauses.

type bareEntry struct {
	key int
	row *game
}

// A bare is what a table is compared with: a B-tree under a lock, with rows and
// descents as in a table, and nothing else.
type bare struct {
	mu   sync.RWMutex
	tree *btree.BTreeG[bareEntry]
}

func newBare() *bare {
	return &bare{tree: btree.NewG(degree, func(a, b bareEntry) bool { return a.key < b.key })}
}

func (t *bare) insert(row game) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.tree.Get(bareEntry{key: row.ID}); !ok {
		t.tree.ReplaceOrInsert(bareEntry{key: row.ID, row: &row})
	}
}

func (t *bare) update(key int, edit func(*game)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.tree.Get(bareEntry{key: key}); ok {
		row := *e.row
		edit(&row)
		t.tree.ReplaceOrInsert(bareEntry{key: key, row: &row})
	}
}

func (t *bare) replace(row game) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.tree.Get(bareEntry{key: row.ID}); ok {
		t.tree.ReplaceOrInsert(bareEntry{key: row.ID, row: &row})
	}
}

func (t *bare) delete(key int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.tree.Get(bareEntry{key: key}); ok {
		t.tree.Delete(bareEntry{key: key})
	}
}

// all returns the rows, as Table.All does.
func (t *bare) all() iter.Seq2[int, game] {
	return func(yield func(int, game) bool) {
		t.mu.Lock()
		tree := t.tree.Clone()
		t.mu.Unlock()
		tree.Ascend(func(e bareEntry) bool { return yield(e.key, *e.row) })
	}
}

// A side is one side of a comparison; what is nil is left out, and only run timed.
type side struct {
	prepare, run, restore func(keys []int)
}

const round = 2000 // writes

// versus times a against c in rounds, on the same random keys below limit, each at
// most once a round.
func versus(b *testing.B, limit int, a, c side) {
	b.ReportAllocs()
	random := rand.New(rand.NewPCG(1, 2))
	keys := random.Perm(limit)
	timed := func(s side, keys []int, started, stopped func()) float64 {
		call(s.prepare, keys)
		started()
		start := time.Now()
		s.run(keys)
		ns := float64(time.Since(start)) / round
		stopped()
		call(s.restore, keys)
		return ns
	}
	var memStats runtime.MemStats
	readMemStats := func() { runtime.ReadMemStats(&memStats) } // as the timer does
	var as, cs, ratios []float64
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		from := random.IntN(limit - round)
		keys := keys[from : from+round]
		var ours, other float64
		if i%2 == 0 { // neither always finds the caches warm
			ours = timed(a, keys, b.StartTimer, b.StopTimer)
			other = timed(c, keys, readMemStats, readMemStats)
		} else {
			other = timed(c, keys, readMemStats, readMemStats)
			ours = timed(a, keys, b.StartTimer, b.StopTimer)
		}
		as, cs, ratios = append(as, ours), append(cs, other), append(ratios, ours/other)
		b.StartTimer()
	}
	b.ReportMetric(median(as), "ns/write")
	b.ReportMetric(median(cs), "other-ns/write")
	b.ReportMetric(median(ratios), "ratio")
}

func call(f func([]int), keys []int) {
	if f != nil {
		f(keys)
	}
}

func median(v []float64) float64 { return quantile(v, 0.5) }

func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}

// BenchmarkWrite: what a write costs over the tree and the lock that it needs in
// any case, without a feed.
func BenchmarkWrite(b *testing.B) {
	for _, rows := range []int{1e4, 1e6} {
		table, tree := newGames(), newBare()
		for i := range rows {
			table.Insert(game{ID: 2 * i})
			tree.insert(game{ID: 2 * i})
		}
		score := 0
		edit := func(g *game) { score++; g.Score = score }
		tableInsert := func(keys []int) {
			for _, k := range keys {
				table.Insert(game{ID: 2*k + 1})
			}
		}
		tableDelete := func(keys []int) {
			for _, k := range keys {
				table.Delete(2*k + 1)
			}
		}
		treeInsert := func(keys []int) {
			for _, k := range keys {
				tree.insert(game{ID: 2*k + 1})
			}
		}
		treeDelete := func(keys []int) {
			for _, k := range keys {
				tree.delete(2*k + 1)
			}
		}
		name := fmt.Sprintf("rows=%d", rows)
		b.Run("insert/"+name, func(b *testing.B) {
			versus(b, rows, side{run: tableInsert, restore: tableDelete}, side{run: treeInsert, restore: treeDelete})
		})
		b.Run("update/"+name, func(b *testing.B) {
			versus(b, rows,
				side{run: func(keys []int) {
					for _, k := range keys {
						table.Update(2*k, edit)
					}
				}},
				side{run: func(keys []int) {
					for _, k := range keys {
						tree.update(2*k, edit)
					}
				}})
		})
		b.Run("replace/"+name, func(b *testing.B) {
			versus(b, rows,
				side{run: func(keys []int) {
					for _, k := range keys {
						score++
						table.Replace(game{ID: 2 * k, Score: score})
					}
				}},
				side{run: func(keys []int) {
					for _, k := range keys {
						score++
						tree.replace(game{ID: 2 * k, Score: score})
					}
				}})
		})
		b.Run("delete/"+name, func(b *testing.B) {
			versus(b, rows, side{tableInsert, tableDelete, nil}, side{treeInsert, treeDelete, nil})
		})
	}
}

// BenchmarkGet: a Get, compared with a read of a Go map of rows under an RWMutex.
func BenchmarkGet(b *testing.B) {
	for _, rows := range []int{1e4, 1e6} {
		table, byID := newGames(), make(map[int]*game)
		var mu sync.RWMutex
		for id := range rows {
			table.Insert(game{ID: id, Score: id})
			byID[id] = &game{ID: id, Score: id}
		}
		sum := 0
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			versus(b, rows,
				side{run: func(keys []int) {
					for _, k := range keys {
						g, _ := table.Get(k)
						sum += g.Score
					}
				}},
				side{run: func(keys []int) {
					for _, k := range keys {
						mu.RLock()
						g := *byID[k]
						mu.RUnlock()
						sum += g.Score
					}
				}})
		})
		if sum == 0 {
			b.Fatal("nothing was read")
		}
	}
}

// A scoreboard is a table of 10,000 rows whose writes set rising scores.
type scoreboard struct {
	*Table[int, game]
	score int
}

const scoreboardRows = 10_000

func newScoreboard() *scoreboard {
	t := &scoreboard{Table: newGames()}
	for i := range scoreboardRows {
		t.Insert(game{ID: i})
	}
	return t
}

func (t *scoreboard) set(key int) {
	t.score++
	t.Update(key, func(g *game) { g.Score = t.score })
}

func (t *scoreboard) setAll(keys []int) {
	for _, k := range keys {
		t.set(k)
	}
}

// stalled returns a scoreboard with n subscribers whose buffers are full.
func stalled(ctx context.Context, n int) (*scoreboard, []Stream[Change[game]]) {
	t := newScoreboard()
	feeds := make([]Stream[Change[game]], n)
	for i := range feeds {
		feeds[i] = t.Changes(ctx)
	}
	for i := range DefaultBuffer + maxPage {
		t.set(i % scoreboardRows)
	}
	return t, feeds
}

// BenchmarkStalled: a write while nobody reads and all buffers are full, so that it
// drops. One subscriber is compared with none, and more with one.
func BenchmarkStalled(b *testing.B) {
	for _, n := range []int{0, 1, 100, 10_000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			table, feeds := stalled(b.Context(), n)
			against := 1
			if n < 2 {
				against = 0
			}
			other, otherFeeds := stalled(b.Context(), against)
			versus(b, scoreboardRows, side{run: table.setAll}, side{run: other.setAll})
			runtime.KeepAlive(feeds)
			runtime.KeepAlive(otherFeeds)
		})
	}
}

// BenchmarkStalledMemory: bytes held for subscribers that stalled, by 250,000
// writes with buffers of 100,000; the ratio is to one of them.
func BenchmarkStalledMemory(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			var one, all float64
			for b.Loop() {
				one, all = stalledBytes(1), stalledBytes(n)
			}
			b.ReportMetric(all, "B-held")
			b.ReportMetric(all/one, "ratio")
		})
	}
}

func stalledBytes(n int) float64 {
	t := newScoreboard()
	ctx, cancel := context.WithCancel(context.Background())
	before := heapBytes()
	feeds := make([]Stream[Change[game]], n)
	for i := range feeds {
		feeds[i] = t.Changes(ctx)
	}
	for i := range 250_000 {
		t.set(i % scoreboardRows)
	}
	held := float64(heapBytes() - before)
	runtime.KeepAlive(feeds)
	cancel()
	for len(t.Feeds()) > 0 { // or they would be part of what the next call finds
		runtime.Gosched()
	}
	return held
}

// BenchmarkParked: the call of a write while all subscribers wait, with a pause of
// 100 µs before it, and the time until all have the change; compared with a writer
// that wakes all of them itself.
func BenchmarkParked(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10_000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			ours, single, all := newAudience(n), newAudience(1), newAudience(n)
			defer ours.drop()
			defer single.drop()
			defer all.drop()
			wakeAll := func(t *scoreboard, key int) {
				t.score++
				t.writeAndPublish(key, func(old *game) (*game, error) {
					row := *old
					row.Score = t.score
					return &row, nil
				})
				wakeAllOf(&t.allScope.ring)
			}
			for b.Loop() {
				ours.write((*scoreboard).set)
				b.StopTimer()
				single.write((*scoreboard).set)
				all.write(wakeAll)
				b.StartTimer()
			}
			b.ReportMetric(quantile(ours.calls, 0.5), "p50-ns")
			b.ReportMetric(quantile(ours.calls, 0.99), "p99-ns")
			b.ReportMetric(median(ours.awake), "awake-ns")
			b.ReportMetric(median(all.calls), "all-p50-ns")
			b.ReportMetric(median(all.awake), "all-awake-ns")
			b.ReportMetric(median(ours.calls)/median(single.calls), "ratio-to-1")
			b.ReportMetric(median(all.calls)/median(ours.calls), "all-ratio")
		})
	}
}

// wakeAllOf wakes all windows that wait, from the writer's goroutine. All leave the
// queue first, so that none that wakes finds another to wake.
func wakeAllOf(r *ring[Change[game]]) {
	r.mu.Lock()
	var waiting []*window[Change[game]]
	for w := r.queue.front; w != nil; w = r.queue.front {
		w.leaveQueueLocked()
		waiting = append(waiting, w)
	}
	r.mu.Unlock()
	for _, w := range waiting {
		w.wakeup <- struct{}{}
	}
}

// An audience is a scoreboard with subscribers that read whatever comes, each in a
// goroutine of its own.
type audience struct {
	*scoreboard
	size         int
	got          atomic.Int64 // deliveries of the write under way
	all          chan time.Time
	done         sync.WaitGroup
	calls, awake []float64 // ns of each write's call, and until all had it
}

func newAudience(n int) *audience {
	c := &audience{scoreboard: newScoreboard(), size: n, all: make(chan time.Time, 1)}
	for range n {
		feed := c.Changes(context.Background())
		c.done.Go(func() {
			for _, err := range feed {
				if err != nil {
					return
				}
				if c.got.Add(1) == int64(n) {
					select {
					case c.all <- time.Now():
					default: // nobody asks
					}
				}
			}
		})
	}
	return c
}

// write waits until all wait, pauses, and times one write by set.
func (c *audience) write(set func(t *scoreboard, key int)) {
	c.rest()
	c.got.Store(0)
	start := time.Now()
	set(c.scoreboard, 0)
	c.calls = append(c.calls, float64(time.Since(start)))
	c.awake = append(c.awake, float64((<-c.all).Sub(start)))
}

// rest returns when all have waited for a while.
func (c *audience) rest() {
	for c.allScope.ring.parked.Load() != int32(c.size) {
		runtime.Gosched()
	}
	time.Sleep(100 * time.Microsecond)
}

func (c *audience) drop() {
	c.Drop()
	c.done.Wait()
}

// A hub is what people write by hand: a map, a mutex, and a channel of 1,024 each.
type hub struct {
	mu    sync.Mutex
	rows  map[int]*game
	chans []chan Change[game]
	seq   uint64
}

func newHub(n int) *hub {
	h := &hub{rows: make(map[int]*game)}
	for i := range scoreboardRows {
		h.rows[i] = &game{ID: i}
	}
	for range n {
		h.chans = append(h.chans, make(chan Change[game], 1024))
	}
	return h
}

func (h *hub) update(key int, edit func(*game)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.rows[key]
	row := *old
	edit(&row)
	h.rows[key] = &row
	h.seq++
	for _, ch := range h.chans {
		ch <- Change[game]{Seq: h.seq, Kind: Update, Old: old, New: &row}
	}
}

// BenchmarkFanOut: time a write until all subscribers have it, by Changes and by
// Batches of up to 64, the writer never pausing, over 10,000 writes; every delivery is
// counted. It is compared with channels, over at most 20 million sends: to 10,000
// subscribers, these are the sends of 2,000 writes.
func BenchmarkFanOut(b *testing.B) {
	const writes = 10_000
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var feeds, batches, channels, feedRatios, batchRatios []float64
			for b.Loop() {
				f := fanOutFeeds(b, n, writes, func(ctx context.Context, t *scoreboard) func() (got int, err error) {
					return counting(t.Changes(ctx), writes, func(Change[game]) int { return 1 })
				})
				b.StopTimer()
				t := fanOutFeeds(b, n, writes, func(ctx context.Context, t *scoreboard) func() (got int, err error) {
					return counting(t.Batches(ctx, 64), writes, func(batch []Change[game]) int { return len(batch) })
				})
				c := fanOutChannels(b, n, min(writes, 20_000_000/n))
				feeds, batches, channels = append(feeds, f), append(batches, t), append(channels, c)
				feedRatios, batchRatios = append(feedRatios, c/f), append(batchRatios, c/t)
				b.StartTimer()
			}
			b.ReportMetric(median(feeds), "ns/write")
			b.ReportMetric(median(batches), "batches-ns/write")
			b.ReportMetric(median(channels), "channels-ns/write")
			b.ReportMetric(median(feedRatios), "ratio")
			b.ReportMetric(median(batchRatios), "batches-ratio")
		})
	}
}

// counting returns a function that reads a feed until it has got so many changes.
func counting[T any](feed Stream[T], writes int, count func(v T) int) func() (got int, err error) {
	return func() (got int, err error) {
		for v, err := range feed {
			if err != nil {
				return got, err
			}
			if got += count(v); got >= writes {
				break
			}
		}
		return got, nil
	}
}

// fanOutFeeds returns the time a write, in ns. Each reader of a feed is what follow
// returns.
func fanOutFeeds(b *testing.B, n, writes int, follow func(ctx context.Context, t *scoreboard) (read func() (got int, err error))) float64 {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	t := newScoreboard()
	var wg sync.WaitGroup
	var total atomic.Int64
	for range n {
		read := follow(ctx, t)
		wg.Go(func() {
			got, err := read()
			if err != nil {
				b.Error(err)
			}
			total.Add(int64(got))
		})
	}
	start := time.Now()
	for i := range writes {
		t.set(i % scoreboardRows)
	}
	wg.Wait()
	if got := total.Load(); got != int64(n*writes) {
		b.Errorf("%d deliveries of %d", got, n*writes)
	}
	return float64(time.Since(start)) / float64(writes)
}

func fanOutChannels(b *testing.B, n, writes int) float64 {
	h := newHub(n)
	var wg sync.WaitGroup
	var total atomic.Int64
	for _, ch := range h.chans {
		wg.Go(func() {
			got := 0
			for range ch {
				got++
			}
			total.Add(int64(got))
		})
	}
	start := time.Now()
	for i := range writes {
		h.update(i%scoreboardRows, func(g *game) { g.Score = i })
	}
	for _, ch := range h.chans {
		close(ch)
	}
	wg.Wait()
	if got := total.Load(); got != int64(n*writes) {
		b.Errorf("%d deliveries of %d", got, n*writes)
	}
	return float64(time.Since(start)) / float64(writes)
}

// BenchmarkDrain: a change of a backlog through the range loop, compared with the
// hand-off of one through an unbuffered channel. allocs/op are those of 50,000
// changes: one of 16 bytes a page.
func BenchmarkDrain(b *testing.B) {
	for _, stages := range []int{0, 1, 3} {
		b.Run(fmt.Sprintf("stages=%d", stages), func(b *testing.B) {
			b.ReportAllocs()
			t := newScoreboard()
			feed := t.Changes(b.Context())
			stream := feed
			for range stages {
				stream = stream.Filter(func(c Change[game]) bool { return c.Kind == Update })
			}
			const backlog = 50_000
			var drains, ratios []float64
			for b.Loop() {
				b.StopTimer()
				for i := range backlog {
					t.set(i % scoreboardRows)
				}
				left := backlog
				b.StartTimer()
				start := time.Now()
				for _, err := range stream {
					if err != nil {
						b.Fatal(err)
					}
					if left--; left == 0 {
						break
					}
				}
				ns := float64(time.Since(start)) / backlog
				b.StopTimer()
				drains, ratios = append(drains, ns), append(ratios, handOff(backlog)/ns)
				b.StartTimer()
			}
			b.ReportMetric(median(drains), "ns/change")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

// BenchmarkTrack: a change of a backlog through a loop of a tracked feed, compared with one that
// is not tracked; and a call of Feed.Position while the loop waits.
func BenchmarkTrack(b *testing.B) {
	b.Run("change", func(b *testing.B) {
		drain := func(opts ...FeedOption) side {
			t := newScoreboard()
			feed := t.Changes(b.Context(), opts...)
			return side{
				prepare: func(keys []int) {
					for _, k := range keys {
						t.set(k)
					}
				},
				run: func(keys []int) {
					left := len(keys)
					for range feed {
						if left--; left == 0 {
							break
						}
					}
				},
			}
		}
		versus(b, scoreboardRows, drain(Track(new(Feed))), drain())
	})
	b.Run("Position", func(b *testing.B) {
		t := newScoreboard()
		var handle Feed
		feed := t.Row(1).Changes(b.Context(), Track(&handle), Poll(nil))
		for range feed {
		}
		for b.Loop() {
			if handle.Position().Seq != t.seq {
				b.Fatal("the feed has read everything")
			}
		}
		runtime.KeepAlive(feed)
	})
}

// BenchmarkResumed: a write beside 1,000 feeds of other rows that have resumed after a position,
// compared with a write without feeds.
func BenchmarkResumed(b *testing.B) {
	followed, alone := newScoreboard(), newScoreboard()
	followed.Retain(100)
	alone.Retain(100)
	for i := range 100 {
		followed.set(i)
		alone.set(i)
	}
	feeds := make([]Stream[Change[game]], 1000)
	for i := range feeds {
		feeds[i] = followed.Row(scoreboardRows+i).Changes(b.Context(), After(followed.At(followed.Seq()-50)), Poll(nil))
		for range feeds[i] {
		}
	}
	set := func(t *scoreboard) func(keys []int) {
		return func(keys []int) {
			for _, k := range keys {
				t.set(k)
			}
		}
	}
	versus(b, scoreboardRows, side{run: set(followed)}, side{run: set(alone)})
	runtime.KeepAlive(feeds)
}

// handOff returns the time of a hand-off through an unbuffered channel, in ns.
func handOff(n int) float64 {
	ch := make(chan Change[game])
	var wg sync.WaitGroup
	start := time.Now()
	wg.Go(func() {
		for range n {
			ch <- Change[game]{}
		}
	})
	for range n {
		<-ch
	}
	wg.Wait()
	return float64(time.Since(start)) / float64(n)
}

// BenchmarkLatency: from the call of a write to the body of a loop that waits for
// it, compared with the same update of the tree under a mutex and a send on a
// channel.
func BenchmarkLatency(b *testing.B) {
	b.ReportAllocs()
	t := newScoreboard()
	feed, feedGot := t.Changes(b.Context()), make(chan time.Time)
	go func() {
		for _, err := range feed {
			if err == nil {
				feedGot <- time.Now()
			}
		}
	}()
	tree := newBare()
	for i := range scoreboardRows {
		tree.insert(game{ID: i})
	}
	changes, chanGot := make(chan Change[game], 1024), make(chan time.Time)
	go func() {
		for range changes {
			chanGot <- time.Now()
		}
	}()
	defer close(changes)

	var feeds, channels []float64
	for i := 0; b.Loop(); i++ {
		key := i * 7919 % scoreboardRows
		time.Sleep(50 * time.Microsecond) // the readers wait by now
		start := time.Now()
		t.set(key)
		feeds = append(feeds, float64((<-feedGot).Sub(start)))

		time.Sleep(50 * time.Microsecond)
		start = time.Now()
		tree.update(key, func(g *game) { g.Score = i })
		changes <- Change[game]{Kind: Update}
		channels = append(channels, float64((<-chanGot).Sub(start)))
	}
	for _, q := range []float64{0.5, 0.99} {
		f, c := quantile(feeds, q), quantile(channels, q)
		b.ReportMetric(f, fmt.Sprintf("p%g-ns", q*100))
		b.ReportMetric(c, fmt.Sprintf("channel-p%g-ns", q*100))
		b.ReportMetric(f/c, fmt.Sprintf("ratio-p%g", q*100))
	}
}

// BenchmarkRowFeeds: a write beside 10,000 feeds of a row each, to a row that nobody
// follows and to one that is followed, compared with the same write to a table without
// feeds. The feeds have read all they got; a page of the ring is cold when a write comes
// to it.
func BenchmarkRowFeeds(b *testing.B) {
	const rows = 2 * scoreboardRows // even ones are followed
	newTable := func() *scoreboard {
		t := &scoreboard{Table: newGames()}
		for i := range rows {
			t.Insert(game{ID: i})
		}
		return t
	}
	for _, own := range []int{0, 1} {
		b.Run([]string{"others", "own"}[own], func(b *testing.B) {
			followed, alone := newTable(), newTable()
			feeds := make([]Stream[Change[game]], scoreboardRows)
			for i := range feeds {
				feeds[i] = followed.Row(2*i).Changes(b.Context(), Poll(nil))
			}
			set := func(t *scoreboard) func(keys []int) {
				return func(keys []int) {
					for _, k := range keys {
						t.set(2*k + 1 - own)
					}
				}
			}
			drain := func(keys []int) {
				if own == 1 {
					for _, k := range keys {
						for range feeds[k] {
						}
					}
				}
			}
			versus(b, scoreboardRows, side{run: set(followed), restore: drain}, side{run: set(alone)})
			runtime.KeepAlive(feeds)
		})
	}
}

// Restore of a million rows, in key order and in random order, compared with inserting them in
// the same order.
func BenchmarkRestore(b *testing.B) {
	const n = 1_000_000
	inKeyOrder := slices.Collect(func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	})
	for name, keys := range map[string][]int{"key order": inKeyOrder, "random order": rand.New(rand.NewPCG(1, 2)).Perm(n)} {
		b.Run(name, func(b *testing.B) {
			rows := func(yield func(game) bool) {
				for _, k := range keys {
					if !yield(game{ID: k}) {
						return
					}
				}
			}
			var rates, ratios []float64
			for b.Loop() {
				restored, inserted := newGames(), newGames()
				runtime.GC() // of the rounds before
				start := time.Now()
				if err := restored.Restore(Past[game]{Lineage: []Position{restored.At(n)}, Rows: rows}); err != nil {
					b.Fatal(err)
				}
				ours := time.Since(start)
				runtime.GC()
				start = time.Now()
				for row := range rows {
					inserted.Insert(row)
				}
				ratios = append(ratios, float64(ours)/float64(time.Since(start)))
				rates = append(rates, n/ours.Seconds())
			}
			b.ReportMetric(median(rates), "rows/s")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

// A write to a table that [Commits] follows, without and with feeds that do not read, compared
// with one to a table that nobody follows. The set has another table, too. With two
// sets, a second feed follows the table alone.
func BenchmarkCommits(b *testing.B) {
	newTable := func(rows int) *scoreboard {
		t := &scoreboard{Table: newGames()}
		for i := range rows {
			t.Insert(game{ID: i})
		}
		return t
	}
	for _, c := range []struct {
		sets, rows int
	}{{1, 10_000}, {2, 10_000}, {1, 1_000_000}} {
		b.Run(fmt.Sprintf("sets=%d/rows=%d", c.sets, c.rows), func(b *testing.B) {
			followed, alone, other := newTable(c.rows), newTable(c.rows), newTable(1)
			var feeds []Stream[Commit]
			for i := range c.sets {
				feeds = append(feeds, Commits(b.Context(), []AnyTable{followed.Table, other.Table}[:2-i]))
			}
			set := func(t *scoreboard) func(keys []int) {
				return func(keys []int) {
					for _, k := range keys {
						t.set(k)
					}
				}
			}
			versus(b, c.rows, side{run: set(followed)}, side{run: set(alone)})
			runtime.KeepAlive(feeds)
		})
	}
}

// BenchmarkRangeFeeds: a write beside 10,000 feeds of ranges, of which one, or none,
// is about the row; compared with the same write to a table without feeds.
func BenchmarkRangeFeeds(b *testing.B) {
	for _, own := range []int{0, 1} {
		b.Run([]string{"others", "own"}[own], func(b *testing.B) {
			followed, alone := newScoreboard(), newScoreboard()
			feeds := make([]Stream[Change[game]], scoreboardRows)
			for i := range feeds {
				from := i
				if own == 0 {
					from += scoreboardRows
				}
				feeds[i] = followed.Range(from, from+1).Changes(b.Context(), Buffer(1))
			}
			versus(b, scoreboardRows, side{run: followed.setAll}, side{run: alone.setAll})
			runtime.KeepAlive(feeds)
		})
	}
}

// BenchmarkScan: a row of a loop over all of them, which were inserted in random order,
// compared with the same loop over a clone of a bare tree.
func BenchmarkScan(b *testing.B) {
	for _, rows := range []int{1e4, 1e6} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			table, tree := newGames(), newBare()
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(rows) {
				table.Insert(game{ID: i, Score: 1})
				tree.insert(game{ID: i, Score: 1})
			}
			scan := func(all iter.Seq2[int, game]) float64 {
				start := time.Now()
				sum := 0
				for _, g := range all {
					sum += g.Score
				}
				ns := float64(time.Since(start)) / float64(rows)
				if sum != rows {
					b.Fatal(sum)
				}
				return ns
			}
			var scans, others, ratios []float64
			for i := 0; b.Loop(); i++ {
				var ours, other float64
				if i%2 == 0 {
					ours = scan(table.All())
				}
				b.StopTimer()
				other = scan(tree.all())
				b.StartTimer()
				if i%2 != 0 {
					ours = scan(table.All())
				}
				scans, others, ratios = append(scans, ours), append(others, other), append(ratios, ours/other)
			}
			b.ReportMetric(median(scans), "ns/row")
			b.ReportMetric(median(others), "other-ns/row")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

// BenchmarkIndex: a write that moves a row in an index of 100 values, and one that
// leaves it where it is, compared with one to a table without an index; and a read of
// one value's rows, compared with a read of as many rows by a range of keys.
func BenchmarkIndex(b *testing.B) {
	indexed, plain := newScoreboard(), newScoreboard()
	byScore := NewIndex(indexed.Table, "score", func(g *game) int { return g.Score % 100 })
	b.Run("write", func(b *testing.B) {
		versus(b, scoreboardRows, side{run: indexed.setAll}, side{run: plain.setAll})
	})
	b.Run("write that stays", func(b *testing.B) {
		stays := newScoreboard()
		NewIndex(stays.Table, "player", func(g *game) string { return g.Player })
		versus(b, scoreboardRows, side{run: stays.setAll}, side{run: plain.setAll})
	})
	b.Run("read", func(b *testing.B) {
		read := func(s func(key int) Selection[int, game]) func(keys []int) {
			return func(keys []int) {
				n := 0
				for _, k := range keys[:round/100] {
					for range s(k % 100).All() {
						n++
					}
				}
				if n == 0 {
					b.Error("nothing read")
				}
			}
		}
		versus(b, scoreboardRows,
			side{run: read(byScore.Equal)},
			side{run: read(func(k int) Selection[int, game] { return plain.Range(100*k, 100*k+100) })})
	})
}

// transact updates the rows with the keys in one transaction.
func (t *scoreboard) transact(keys []int) {
	err := Transact(func(tx *Tx) error {
		table := t.In(tx)
		for _, k := range keys {
			t.score++
			if _, err := table.Update(k, func(g *game) { g.Score = t.score }); err != nil {
				return err
			}
		}
		return nil
	}, t.Table)
	if err != nil {
		panic(err)
	}
}

// BenchmarkTransact: updates in transactions of 100, a row, compared with single ones.
// The writer does not pause, beside feeds that are read; or all of them wait before
// each 100, after a pause of 100 µs.
func BenchmarkTransact(b *testing.B) {
	const size = 100
	for _, readers := range []int{0, 1, 100} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			joined, single := newAudience(readers), newAudience(readers)
			defer joined.drop()
			defer single.drop()
			transact := func(keys []int) {
				for part := range slices.Chunk(keys, size) {
					joined.transact(part)
				}
			}
			versus(b, scoreboardRows, side{run: transact}, side{run: single.setAll})
		})
	}
	b.Run("writers=2", func(b *testing.B) {
		// Each of them sets the rows of one half.
		two := func(write func(t *scoreboard, keys []int)) side {
			table := newScoreboard()
			return side{run: func(keys []int) {
				var writers sync.WaitGroup
				for half := range slices.Chunk(keys, len(keys)/2) {
					writers.Go(func() {
						own := &scoreboard{table.Table, table.score}
						for part := range slices.Chunk(half, size) {
							write(own, part)
						}
					})
				}
				writers.Wait()
				table.score += len(keys)
			}}
		}
		versus(b, scoreboardRows, two((*scoreboard).transact), two((*scoreboard).setAll))
	})
	for _, readers := range []int{1, 100} {
		b.Run(fmt.Sprintf("waiting=%d", readers), func(b *testing.B) {
			joined, single := newAudience(readers), newAudience(readers)
			defer joined.drop()
			defer single.drop()
			keys := rand.New(rand.NewPCG(1, 2)).Perm(scoreboardRows)
			timed := func(t *audience, write func(keys []int)) float64 {
				t.rest()
				start := time.Now()
				write(keys[:size])
				return float64(time.Since(start)) / size
			}
			var joins, singles, ratios []float64
			for b.Loop() {
				j := timed(joined, joined.transact)
				s := timed(single, single.setAll)
				joins, singles, ratios = append(joins, j), append(singles, s), append(ratios, j/s)
				keys = append(keys[size:], keys[:size]...)
			}
			b.ReportMetric(median(joins), "ns/write")
			b.ReportMetric(median(singles), "other-ns/write")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

// BenchmarkIncludeInitial: with a million rows, the time from Changes to the first
// row, and the longest write while all rows are read, compared with the longest of as
// many writes without a reader.
func BenchmarkIncludeInitial(b *testing.B) {
	const rows = 1_000_000
	t := &scoreboard{Table: newGames()}
	for i := range rows {
		t.Insert(game{ID: i})
	}
	random := rand.New(rand.NewPCG(1, 2))
	// writes makes writes until done is closed, or n.
	writes := func(n int, done <-chan struct{}) (made int, longest float64) {
		for made < n {
			select {
			case <-done:
				return made, longest
			default:
			}
			key := random.IntN(rows)
			start := time.Now()
			t.set(key)
			longest = max(longest, float64(time.Since(start)))
			made++
		}
		return made, longest
	}
	var first, all, longest, alone, ratios []float64
	for b.Loop() {
		runtime.GC()
		ctx, cancel := context.WithCancel(b.Context())
		start := time.Now()
		feed := t.Changes(ctx, IncludeInitial())
		done := make(chan struct{})
		var firstRow, allRows float64
		go func() {
			defer close(done)
			n := 0
			for c, err := range feed {
				if err != nil {
					b.Error(err)
				}
				if n++; n == 1 {
					firstRow = float64(time.Since(start))
				}
				if c.Kind == Ready {
					break
				}
			}
			allRows = float64(time.Since(start))
			if n != rows+1 {
				b.Errorf("%d rows", n)
			}
		}()
		made, meanwhile := writes(rows, done)
		<-done
		cancel()
		runtime.GC()
		_, without := writes(made, nil)
		first, all = append(first, firstRow), append(all, allRows)
		longest, alone, ratios = append(longest, meanwhile), append(alone, without), append(ratios, meanwhile/without)
	}
	b.ReportMetric(median(first), "first-row-ns")
	b.ReportMetric(median(all), "all-rows-ns")
	b.ReportMetric(median(longest), "longest-write-ns")
	b.ReportMetric(median(alone), "alone-longest-ns")
	b.ReportMetric(median(ratios), "ratio")
}

// BenchmarkPoll: the call of a write while feeds that poll wait, all for one channel,
// which has no room: the ratio is to a write for which one waits.
func BenchmarkPoll(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("feeds=%d", n), func(b *testing.B) {
			wake := make(chan struct{}, 1)
			wake <- struct{}{}
			poll := func(n int) func() float64 {
				t := newScoreboard()
				feeds := make([]Stream[Change[game]], n)
				for i := range feeds {
					feeds[i] = t.Changes(b.Context(), Poll(wake))
				}
				return func() float64 {
					for _, feed := range feeds {
						for range feed {
						}
					}
					start := time.Now()
					t.set(0)
					return float64(time.Since(start))
				}
			}
			all, one := poll(n), poll(1)
			var alls, ratios []float64
			for b.Loop() {
				a := all()
				alls, ratios = append(alls, a), append(ratios, a/one())
			}
			b.ReportMetric(median(alls), "ns/write")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

// BenchmarkCompile: time to compile a program that uses tables with n types of rows. The library is compiled before. The
// compiler makes a copy of the library's generic code for each type.
func BenchmarkCompile(b *testing.B) {
	goBuild := func(args ...string) {
		out, err := exec.CommandContext(b.Context(), "go", append([]string{"build"}, args...)...).CombinedOutput()
		require.NoError(b, err, "%s", out)
	}
	goBuild(".")
	for _, types := range []int{1, 3} {
		b.Run(fmt.Sprintf("types=%d", types), func(b *testing.B) {
			dir := b.TempDir()
			program, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
			at, err := filepath.Abs("compiled/main.go") // there is no such file, except for the compiler
			require.NoError(b, err)
			replace, err := json.Marshal(map[string]any{"Replace": map[string]string{at: program}})
			require.NoError(b, err)
			require.NoError(b, os.WriteFile(overlay, replace, 0o600))
			for b.Loop() {
				var text bytes.Buffer
				fmt.Fprintln(&text, "package main\n\nimport \"github.com/seed-637b77f9/changefeed\"\n\nfunc main() {")
				for range types {
					row := fmt.Sprintf("struct { ID int; Field%d string }", rand.Uint64()) // so that no build is in the cache
					fmt.Fprintf(&text, "changefeed.NewTable(\"rows\", func(r *%s) int { return r.ID })\n", row)
				}
				fmt.Fprintln(&text, "}")
				require.NoError(b, os.WriteFile(program, text.Bytes(), 0o600))
				goBuild("-overlay", overlay, "-o", filepath.Join(dir, "program"), "./compiled")
			}
		})
	}
}
