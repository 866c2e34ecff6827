package changefeed

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// The corpus of each target runs with go test; to look further:
//
//	go test -run - -fuzz FuzzTable -fuzzminimizetime 1x
//
// Bytes are dice: each decides one choice of the code under test.

// fuzzDice returns the dice that data is; when it is used up, they show 0.
func fuzzDice(data *[]byte) func(n int) int {
	return func(n int) int {
		if len(*data) == 0 {
			return 0
		}
		b := (*data)[0]
		*data = (*data)[1:]
		return int(b) * max(1, n/256) % n
	}
}

// addDice adds n random throws of 8 to 512 bytes to a corpus.
func addDice(f *testing.F, n uint64) {
	for i := range n {
		random := rand.New(rand.NewPCG(i, i)) // always the same: a corpus is no sample
		data := make([]byte, 8<<(i%7))
		for j := range data {
			data[j] = byte(random.Uint32())
		}
		f.Add(data)
	}
}

// FuzzTable does what the bytes say to a table and to its model.
func FuzzTable(f *testing.F) {
	addDice(f, 28)
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1024)] // what is longer finds nothing more
		synctest.Test(t, func(t *testing.T) {
			r := newModelRun(t, fuzzDice(&data), make(map[string]int))
			for len(data) > 0 {
				r.step()
			}
			r.finish()
		})
	})
}

// A fuzzWindow is a window, and what it promises in the plainest form: the bounded
// buffer of its own that it looks like.
type fuzzWindow struct {
	window[int]
	unread               []int
	dropped              uint64 // from unread, not told yet
	delivered, told      uint64
	parked, woken, ended bool
}

// push is what an append means to a reader.
func (w *fuzzWindow) push(v int) {
	w.unread = append(w.unread, v)
	if len(w.unread) > int(w.limit) {
		w.unread = w.unread[1:]
		w.dropped++
	}
}

// ready reports whether there is a reason not to wait.
func (w *fuzzWindow) ready() bool { return len(w.unread) > 0 || w.ended || w.ring.isClosed() }

// FuzzRing does what the bytes say to a ring and to a buffer for each window.
func FuzzRing(f *testing.F) {
	addDice(f, 56)
	f.Fuzz(func(t *testing.T, data []byte) {
		roll := fuzzDice(&data)
		var r ring[int]
		var windows []*fuzzWindow
		appended := 0

		// wake takes note of who was woken by a call of wake. F3
		wake := func(n int) {
			r.wake(n)
			for _, w := range windows {
				w.woken = len(w.wakeup) > 0
			}
		}
		// run lets a woken window go on, which wakes two more.
		run := func(w *fuzzWindow) {
			<-w.wakeup
			w.parked, w.woken = false, false
			wake(2)
		}
		for len(data) > 0 {
			op := roll(16)
			if op < 2 { // append a few, or more than a page
				for range []int{1, 2, 9, 40, 300}[roll(5)] {
					if r.isClosed() {
						break // append after close is not allowed
					}
					r.append(appended)
					for _, w := range windows {
						if !w.ended {
							w.push(appended)
						}
					}
					appended++
				}
				wake(1)
			}
			if op == 7 && !r.isClosed() { // R1, R3
				for i := range []int{1, 9, 300}[roll(3)] {
					r.put(-i)
				}
				r.takeBack()
			}
			if op == 2 && len(windows) < 20 && !r.isClosed() {
				w := new(fuzzWindow)
				r.open(&w.window, []uint64{1, 2, 8, 60, 300, DefaultBuffer}[roll(6)])
				windows = append(windows, w)
			}
			if op == 3 && roll(16) == 0 {
				r.close()
				wake(1)
			}
			if len(windows) == 0 {
				continue
			}
			w := windows[roll(len(windows))]
			switch {
			case op == 4:
				w.close()
				w.ended, w.unread, w.dropped = true, nil, 0
				w.woken = len(w.wakeup) > 0
				require.Equal(t, w.parked, w.woken)
			case w.woken:
				run(w)
			case w.parked: // until it is woken
			case op == 5:
				w.parked = w.park()
				require.Equal(t, w.ready(), !w.parked)
			default:
				n := []int{1, 2, 50, 500}[roll(4)]
				if op == 6 {
					fuzzTake(t, w, n)
					n = 1
				}
				for range n {
					fuzzRead(t, w)
				}
				require.True(t, w.ended || w.drained() == (r.isClosed() && len(w.unread) == 0))
			}
			fuzzUsage(t, &r, windows)
		}
		// Who has something to read, and who is to end, is awake when all who were
		// woken have gone on.
		for again := true; again; {
			again = false
			for _, w := range windows {
				if w.woken {
					run(w)
					again = true
				}
			}
		}
		for _, w := range windows {
			require.False(t, w.parked && w.ready())
		}
	})
}

// fuzzRead compares a read: what was lost is told once, before the oldest element
// that is still there.
func fuzzRead(t *testing.T, w *fuzzWindow) {
	v, skipped, ok := w.readNext()
	require.Equal(t, w.dropped, skipped)
	require.Equal(t, len(w.unread) > 0 && w.dropped == 0, ok)
	if ok {
		require.Equal(t, w.unread[0], v)
		w.unread = w.unread[1:]
		w.delivered++
	}
	w.told += skipped
	w.dropped = 0
}

// fuzzTake compares several that are taken: the oldest ones, and some if there are any,
// but for those to which a read must come first.
func fuzzTake(t *testing.T, w *fuzzWindow, n int) {
	some := w.take(t.Context(), []int{-1}, n)[1:]
	require.LessOrEqual(t, len(some), n)
	require.LessOrEqual(t, len(some), len(w.unread))
	if w.dropped > 0 {
		require.Empty(t, some)
	}
	require.True(t, slices.Equal(w.unread[:len(some)], some))
	if p := w.page.Load(); p != nil && w.dropped == 0 && w.pos.Load() < p.end() {
		require.True(t, len(some) == n || len(w.unread) == len(some), "more could be taken")
	}
	w.unread = w.unread[len(some):]
	w.delivered += uint64(len(some))
}

// fuzzUsage compares what the windows say of themselves (R2), and looks whether the
// ring holds more than they need (R3).
func fuzzUsage(t *testing.T, r *ring[int], windows []*fuzzWindow) {
	needed := len(r.pages) < 2
	for _, w := range windows {
		if w.ended {
			continue
		}
		require.Equal(t, usage{
			limit:     w.limit,
			passed:    w.start + w.delivered + w.told,
			delivered: w.delivered,
			skipped:   w.told + w.dropped,
			buffered:  uint64(len(w.unread)),
		}, w.usage())
		oldest, tail := r.pages[0], r.tail.Load()
		needed = needed || w.pos.Load() <= oldest.end() && tail.first < oldest.end()+w.limit
	}
	require.True(t, needed, "the oldest page is one that nobody may still read")
}

// FuzzRow takes a JSON document as a row: an edit gets an equal copy that shares
// nothing with the stored row, and one that changes nothing is no change.
func FuzzRow(f *testing.F) {
	for _, doc := range []string{
		`{}`, `null`, `{"a": null}`, `{"a": 1.5, "b": "text", "c": true}`, `{"a": [], "b": {}}`,
		`{"a": [1, [2, [3]], {"b": [4]}]}`, `{"a": {"b": {"c": [{"d": "e"}, null, false]}}}`,
		`{"": {"": ""}}`, `{"a": [[], [[]], [{}]]}`, `{"id": 1, "players": ["Bob", "Alice"], "score": {"Bob": 3}}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var doc, same map[string]any
		if json.Unmarshal(data, &doc) != nil || json.Unmarshal(data, &same) != nil {
			return
		}
		docs := NewTable("docs", func(*map[string]any) int { return 0 })
		_, err := docs.Insert(doc)
		require.NoError(t, err)

		c, err := docs.Update(0, func(*map[string]any) {})
		require.NoError(t, err)
		require.Equal(t, None, c.Kind)

		c, err = docs.Update(0, func(row *map[string]any) {
			require.Equal(t, same, *row)
			scribble(*row)
			*row = map[string]any{"scribbled": *row}
		})
		require.NoError(t, err)
		require.Equal(t, Update, c.Kind)
		require.Equal(t, same, *c.Old)
		require.Equal(t, same, doc)
	})
}

// scribble writes over all that v refers to.
func scribble(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, elem := range v {
			scribble(elem)
			v[key] = "scribbled"
		}
		if v != nil {
			v["scribble"] = true
		}
	case []any:
		for i, elem := range v {
			scribble(elem)
			v[i] = "scribbled"
		}
	}
}

// fuzzParts does what the bytes say to two tables and to their models: see partRun.
func fuzzParts(f *testing.F, weights partWeights, kinds []string) {
	addDice(f, 28)
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1024)]
		synctest.Test(t, func(t *testing.T) {
			r := newPartRun(t, weights, fuzzDice(&data), make(map[string]int))
			r.kinds = kinds
			for len(data) > 0 {
				r.step()
			}
			r.finish()
		})
	})
}

// FuzzIndex is of writes to tables with indexes, reads of parts of these, and feeds of
// them.
func FuzzIndex(f *testing.F) {
	kinds := slices.DeleteFunc(partKinds(), func(kind string) bool { return !strings.Contains(kind, "Index") })
	fuzzParts(f, partWeights{write: 20, transact: 1, read: 12, follow: 6, other: 8}, kinds)
}

// FuzzTransaction is of transactions, also such as fail, and feeds with all options.
func FuzzTransaction(f *testing.F) {
	fuzzParts(f, partWeights{write: 2, transact: 10, read: 16, follow: 6, other: 4}, partKinds())
}
