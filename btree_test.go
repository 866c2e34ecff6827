package changefeed

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"
)

// The snapshots of a table are clones of its tree, so T3 and T5 stand on google/btree
// keeping a tree and its clones apart, clones of clones included, whatever is written
// to any of them and by whichever goroutine. These tests hold it to that.

// An item is a key of a tree and the number of the write that put it there.
type item struct{ key, write int }

// A modelledTree is a tree beside a plain map that had the same writes.
type modelledTree struct {
	tree       *btree.BTreeG[item]
	model      map[int]int
	generation int // 0, and one more than the tree that it was cloned from
}

func newModelledTree(degree int) *modelledTree {
	less := func(a, b item) bool { return a.key < b.key }
	return &modelledTree{tree: btree.NewG(degree, less), model: make(map[int]int)}
}

func (m *modelledTree) clone() *modelledTree {
	return &modelledTree{m.tree.Clone(), maps.Clone(m.model), m.generation + 1}
}

// write makes one random write to tree and model, and returns what it did. Trees
// grow with few deletes in 10 and shrink with many.
func (m *modelledTree) write(r *rand.Rand, keys, deletes, number int) string {
	key := r.IntN(keys)
	old, had := m.model[key]
	if r.IntN(10) >= deletes {
		m.tree.ReplaceOrInsert(item{key, number})
		m.model[key] = number
		if had {
			return "replace"
		}
		return "insert"
	}
	switch r.IntN(20) { // of an empty tree, the zero item: its key is not in the model either
	case 0:
		least, _ := m.tree.DeleteMin()
		delete(m.model, least.key)
		return "delete min"
	case 1:
		most, _ := m.tree.DeleteMax()
		delete(m.model, most.key)
		return "delete max"
	}
	m.tree.Delete(item{key, old})
	delete(m.model, key)
	if had {
		return "delete"
	}
	return "delete nothing"
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
		{2, 40, 36, 5_000, 8}, // trees of up to five levels, that merge and steal all the time
		{3, 100, 24, 3_000, 8},
		{degree, 5_000, 24, 30_000, 500}, // three levels
	} {
		t.Run(strconv.Itoa(test.degree), func(t *testing.T) {
			r := newRand(t)
			did := make(map[string]int)
			trees := []*modelledTree{newModelledTree(test.degree)}
			for n := range test.writes {
				deletes := 3
				if n/(4*test.keys)%2 == 1 {
					deletes = 7
				}
				// One tree in two writes is the first, as a table's is; clones live on for a while.
				m := trees[0]
				if r.IntN(2) == 0 {
					m = trees[r.IntN(len(trees))]
				}
				did[m.write(r, test.keys, deletes, n)]++
				if r.IntN(test.every) == 0 {
					c := m.clone()
					if len(trees) < test.trees {
						trees = append(trees, c)
					} else {
						trees[1+r.IntN(test.trees-1)] = c
					}
					did["clone"]++
					if c.generation > 2 {
						did["clone of a clone's clone"]++
					}
				}
				if n%test.every == 0 {
					for i, m := range trees {
						require.True(t, m.holds(), "tree %d of %d after write %d", i, len(trees), n)
					}
				}
			}
			require.Len(t, trees, test.trees)
			for _, outcome := range []string{
				"insert", "replace", "delete", "delete nothing", "delete min", "delete max",
				"clone", "clone of a clone's clone",
			} {
				require.Positive(t, did[outcome], outcome)
			}
		})
	}
}

func TestBTreeKeepsATreeAndItsClonesApartWhenGoroutinesUseThem(t *testing.T) {
	for _, degree := range []int{2, degree} {
		t.Run(strconv.Itoa(degree), func(t *testing.T) {
			const walkers, writes, every = 12, 4_000, 20
			r := newRand(t)
			keys := 30 * degree
			var wg sync.WaitGroup
			defer wg.Wait()
			running := make(chan struct{}, walkers)
			m := newModelledTree(degree)
			for n := range writes {
				deletes := 3 + 4*(n/(4*keys)%2)
				m.write(r, keys, deletes, n)
				if n%every != 0 {
					continue
				}
				running <- struct{}{}
				walked, written := m.clone(), m.clone()
				seed := r.Uint64()
				wg.Go(func() {
					defer func() { <-running }()
					r := rand.New(rand.NewPCG(seed, 0))
					for range 3 { // the original and the other clone are written meanwhile
						if !walked.holds() {
							t.Errorf("a clone that nobody writes changed after write %d", n)
						}
						written.write(r, keys, 5, -n)
						if !written.holds() {
							t.Errorf("a clone with a writer of its own changed by another's after write %d", n)
						}
					}
				})
			}
			wg.Wait()
			require.True(t, m.holds())
		})
	}
}

// The writer's own node memory is reused after a delete: a clone must not hold it.
func TestBTreeRecyclesNoNodeOfAClone(t *testing.T) {
	m := newModelledTree(2)
	var clones []*modelledTree
	for n := range 200 {
		m.tree.ReplaceOrInsert(item{n, n})
		m.model[n] = n
	}
	for n := range 200 { // each delete frees nodes, each insert takes them again
		clones = append(clones, m.clone())
		m.tree.Delete(item{key: n})
		delete(m.model, n)
		m.tree.ReplaceOrInsert(item{1000 + n, n})
		m.model[1000+n] = n
	}
	require.False(t, slices.ContainsFunc(clones, func(c *modelledTree) bool { return !c.holds() }))
}
