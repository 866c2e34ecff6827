package changefeed

import (
	"sync"
	"unsafe"

	"github.com/google/btree"
)

// degree is the degree of the B-trees. A node has up to 63 elements.
const degree = 32

// An entry is an element of the table's tree: a cell and its key. In the table's order, the
// key is equal to that of the row in the cell. It may still be another value, if the order
// treats several values as one key.
//
// The type of an entry does not depend on the type of the rows. The compiler therefore makes one copy of
// the B-tree for each type of keys. Copies for each type of rows would take much longer to compile.
type entry[K any] struct {
	key  K
	cell unsafe.Pointer // a *cell[K, V]
}

func entryOf[K, V any](c *cell[K, V]) entry[K] { return entry[K]{c.key, unsafe.Pointer(c)} }

// A tree is a B-tree, and a clone of it for readers. put, remove, clear and take are called
// with the table's lock held for writing. get and freeze need the lock for reading at least.
// mu keeps get and freeze apart, because Clone writes to the tree that it reads.
type tree[E any] struct {
	less   btree.LessFunc[E]
	tree   *btree.BTreeG[E]
	mu     sync.RWMutex     // no other lock is taken while it is held
	frozen *btree.BTreeG[E] // a clone of tree as it is now, or nil
}

// init makes the tree empty, in the order of less.
func (s *tree[E]) init(less btree.LessFunc[E]) {
	s.less, s.tree = less, btree.NewG(degree, less)
}

// put adds an element. It returns the element that it replaced, if there was one.
func (s *tree[E]) put(e E) (replaced E, ok bool) {
	s.frozen = nil
	return s.tree.ReplaceOrInsert(e)
}

// remove removes an element, and returns it.
func (s *tree[E]) remove(e E) (removed E, ok bool) {
	s.frozen = nil
	return s.tree.Delete(e)
}

func (s *tree[E]) clear() {
	s.frozen = nil
	s.tree.Clear(false)
}

// take takes over the elements of another tree, which has the same order and is not used any
// more. A clone that readers have stays as it is.
func (s *tree[E]) take(from *tree[E]) { s.tree, s.frozen = from.tree, nil }

func (s *tree[E]) get(e E) (E, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tree.Get(e)
}

// freeze returns a clone of the tree as it is now. Nobody writes to the clone, and other
// readers get the same one until the tree changes. put and remove then copy the nodes that
// they touch, each once. T5
func (s *tree[E]) freeze() *btree.BTreeG[E] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == nil {
		s.frozen = s.tree.Clone()
	}
	return s.frozen
}
