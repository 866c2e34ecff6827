package changefeed

import "github.com/google/btree"

// degree is that of the B-tree: a node has up to 63 rows.
const degree = 32

// An entry is a cell in the tree. In the table's order its key is equal to that of the
// row in the cell; where the order takes several for one it may be another, so what
// users see is the row's own.
type entry[K, V any] struct {
	key  K
	cell *cell[K, V]
}

// A cell is where a row stands in the tree and in the indexes. A write to the row
// finds its cell and puts another row into it; so it need not go through the trees a
// second time (BenchmarkWrite). The exception is a cell that a clone of a tree may have:
// it keeps its row, and the trees get a new cell.
type cell[K, V any] struct {
	row    *V           // T3; nil: there is none, but the key is followed
	scope  *scope[K, V] // of those who follow the row; nil: nobody does
	clones uint64       // the table's when the cell was made: a later clone has it
}

// content returns the row in the cell, if there is a cell.
func (c *cell[K, V]) rowOrNil() *V {
	if c == nil {
		return nil
	}
	return c.row
}

// A sorted is a B-tree and a clone of it to read from.
type tree[E any] struct {
	tree     *btree.BTreeG[E]
	snapshot *btree.BTreeG[E] // a clone of tree as it is, or nil
	clones   *uint64          // the table's
}

func (s *tree[E]) put(e E) {
	s.snapshot = nil
	s.tree.ReplaceOrInsert(e)
}

func (s *tree[E]) remove(e E) {
	s.snapshot = nil
	s.tree.Delete(e)
}

func (s *tree[E]) clear() {
	s.snapshot = nil
	s.tree.Clear(false)
}

// frozenLocked returns the tree as it is now, which nobody will write to. It is kept
// for others until the next write, and never made for a write, which would have to
// copy nodes each time. Without the right to clone, for which the table's lock must
// be held for writing, it may return nil.
func (s *tree[E]) frozenLocked(mayClone bool) *btree.BTreeG[E] {
	if s.snapshot == nil && mayClone {
		s.snapshot = s.tree.Clone() // T5: Clone writes to the tree that it reads
		*s.clones++
	}
	return s.snapshot
}
