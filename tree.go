package changefeed

import "github.com/google/btree"

// degree is the degree of the B-trees. A node has up to 63 elements.
const degree = 32

// An entry is an element of the tree: a cell and its key. In the table's order, the key
// is equal to that of the row in the cell. It may still be another value, if the order
// treats several values as one key, so users see the row's own key.
type entry[K, V any] struct {
	key  K
	cell *cell[K, V]
}

// A cell holds a row. The hash index, the tree and the indexes share the row's cell. A write
// to the row finds the cell and stores another row in it, without a search in a tree
// (BenchmarkWrite). A cell that a clone of a tree may contain is an exception: it keeps its
// row, and the others get a new cell.
type cell[K, V any] struct {
	row    *V           // T3; nil if there is no row, but the key is followed
	key    K            // as in the cell's entry
	scope  *scope[K, V] // of the feeds of this row; nil if there is none
	clones uint64       // Table.clones when the cell was made; a later clone contains it
}

// rowOrNil returns the row in the cell, or nil if there is no row or no cell.
func (c *cell[K, V]) rowOrNil() *V {
	if c == nil {
		return nil
	}
	return c.row
}

// A tree is a B-tree, and a clone of it for readers.
type tree[E any] struct {
	tree     *btree.BTreeG[E]
	snapshot *btree.BTreeG[E] // a clone of tree as it is now, or nil
	clones   *uint64          // Table.clones
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

// frozenLocked returns a clone of the tree as it is now, to which nobody writes. The clone
// is kept for other readers until the next write. It is made for a reader and never by a
// write, because each write would then have to copy nodes.
//
// With mayClone, the table's lock must be held for writing. Without it, frozenLocked
// returns nil if there is no clone.
func (s *tree[E]) frozenLocked(mayClone bool) *btree.BTreeG[E] {
	if s.snapshot == nil && mayClone {
		s.snapshot = s.tree.Clone() // T5: Clone writes to the tree that it reads
		*s.clones++
	}
	return s.snapshot
}
