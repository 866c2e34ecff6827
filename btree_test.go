package changefeed

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"
)

// The snapshots of a table are clones of its tree. T3 and T5 therefore depend on google/btree,
// which must keep a tree and its clones apart, whichever goroutine writes to any of them.
// These tests check that, also for clones of clones.

// An item is a key of a tree and the number of the write that stored it.
type item struct{ key, write int }

// A modelledTree is a tree, and a map that had the same writes.
type modelledTree struct {
	tree  *btree.BTreeG[item]
	model map[int]int
}

func newModelledTree(degree int) *modelledTree {
	return &modelledTree{btree.NewG(degree, func(a, b item) bool { return a.key < b.key }), make(map[int]int)}
}

func (m *modelledTree) clone() *modelledTree {
	return &modelledTree{m.tree.Clone(), maps.Clone(m.model)}
}

// write makes a random write to tree and model. In turn, most writes of some hundreds
// insert, and then most delete.
func (m *modelledTree) write(r *rand.Rand, keys, number int) {
	key := r.IntN(keys)
	if deletes := 3 + 4*(max(number, -number)/(4*keys)%2); r.IntN(10) < deletes {
		m.tree.Delete(item{key: key})
		delete(m.model, key)
		return
	}
	m.tree.ReplaceOrInsert(item{key, number})
	m.model[key] = number
}

// holds reports whether the tree has the items of the model, in order, both ways.
func (m *modelledTree) holds() bool {
	items := make([]item, 0, len(m.model))
	m.tree.Ascend(func(i item) bool { items = append(items, i); return true })
	if len(items) != len(m.model) || m.tree.Len() != len(m.model) {
		return false
	}
	for i, it := range items {
		if write, ok := m.model[it.key]; !ok || write != it.write || i > 0 && items[i-1].key >= it.key {
			return false
		}
	}
	back := len(items)
	m.tree.Descend(func(i item) bool { back--; return back >= 0 && items[back] == i })
	return back == 0
}

func TestBTreeKeepsATreeAndItsClonesApart(t *testing.T) {
	for _, test := range []struct{ degree, keys, trees, writes, every int }{
		{2, 40, 36, 5_000, 8},            // up to five levels, which merge and steal all the time
		{degree, 5_000, 24, 30_000, 500}, // three levels
	} {
		r := newRand(t)
		trees := []*modelledTree{newModelledTree(test.degree)}
		for n := range test.writes {
			// The first tree gets every second write, as a table's tree does. Clones live for a while.
			m := trees[0]
			if r.IntN(2) == 0 {
				m = trees[r.IntN(len(trees))]
			}
			m.write(r, test.keys, n)
			if r.IntN(test.every) == 0 {
				if c := m.clone(); len(trees) < test.trees {
					trees = append(trees, c)
				} else {
					trees[1+r.IntN(test.trees-1)] = c
				}
			}
			if n%test.every == 0 {
				for i, m := range trees {
					require.True(t, m.holds(), "degree %d, tree %d of %d after write %d", test.degree, i, len(trees), n)
				}
			}
		}
		require.Len(t, trees, test.trees)
	}
}

func TestBTreeKeepsATreeAndItsClonesApartWhenGoroutinesUseThem(t *testing.T) {
	for _, degree := range []int{2, degree} {
		t.Run(strconv.Itoa(degree), func(t *testing.T) {
			const walkers, writes, every = 12, 4_000, 20
			r, m, keys := newRand(t), newModelledTree(degree), 30*degree
			var wg sync.WaitGroup
			defer wg.Wait()
			running := make(chan struct{}, walkers)
			for n := range writes {
				m.write(r, keys, n)
				if n%every != 0 {
					continue
				}
				running <- struct{}{}
				walked, written, seed := m.clone(), m.clone(), r.Uint64()
				wg.Go(func() {
					defer func() { <-running }()
					r := rand.New(rand.NewPCG(seed, 0))
					for range 3 { // the original and the other clone are written meanwhile
						written.write(r, keys, -n)
						if !walked.holds() || !written.holds() {
							t.Errorf("a clone was changed by a write to another tree after write %d", n)
						}
					}
				})
			}
			wg.Wait()
			require.True(t, m.holds())
		})
	}
}
