package changefeed

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"unsafe"
)

// A keyIndex finds the cell of a key. It has the same cells as the table's tree. Methods are
// called with the table's lock held, except published.
type keyIndex[K, V any] interface {
	// published returns the published row of a key, or nil. The table's lock must not be
	// held for writing, except for a hashIndex, which does not use the lock.
	published(key K) *V

	get(key K) *cell[K, V] // nil: there is none
	put(c *cell[K, V])     // there is no cell with the key
	fill(cs []*cell[K, V]) // puts many into an empty index
	remove(key K)          // does nothing if there is no cell with the key
	clear()

	// another returns an empty keyIndex of the same kind, for the cells in a tree. stage makes
	// published use the cells of such an index from the moment at which a transaction commits.
	// Then take takes them over.
	another(rows *tree[entry[K]]) keyIndex[K, V]
	stage(from keyIndex[K, V], tx *outcome)
	take(from keyIndex[K, V])
}

const (
	segmentSize = 128                 // slots, a power of two
	segmentFull = segmentSize * 5 / 8 // more slots than this are not used
)

// A hashIndex is an extendible hash table. It has one writer at a time. get is correct also
// without the table's lock.
//
// The upper half of a key's hash selects a segment in the directory. The lower half selects
// the slot of the segment where the search for the key begins. The search goes on from slot
// to slot until it comes to an empty one.
//
// A cell stays in its slot until it is removed, so a reader that passes by finds every cell
// that is there all the time. A slot becomes empty only if the next slot is
// empty, because no search goes on behind it then. Otherwise it gets the dead cell.
//
// A full segment is replaced by a new one, or by two of half the keys each, and is not
// changed any more. A reader that still has it finds what was there when the reader began.
// So the index grows by one segment at a time. When the directory is full it is copied,
// which takes less than a byte for each key.
type hashIndex[K, V any] struct {
	*hashing[K]
	dead      *cell[K, V]
	directory atomicPointer[[]atomic.Pointer[segment[K, V]]] // its length is a power of two

	staged atomicPointer[hashIndex[K, V]] // takes the place of this one when its tx commits, or nil
	tx     *outcome
}

// A hashing is what a hashIndex needs to know of the keys. Indexes of tables with the same keys may share it.
type hashing[K any] struct {
	hash func(key K) uint64
	same func(a, b K) bool
}

func newHashing[K cmp.Ordered]() *hashing[K] {
	return &hashing[K]{chooseHash[K](), func(a, b K) bool { return a == b || a != a && b != b }}
}

// A segment has the cells of the keys whose hashes have the same lowest depth bits in
// their upper half.
type segment[K, V any] struct {
	depth uint8
	used  int // slots that are not empty
	live  int // of them, those with a cell that is not dead
	slots [segmentSize]atomicPointer[cell[K, V]]
}

func newHashIndex[K, V any](keys *hashing[K]) *hashIndex[K, V] {
	x := &hashIndex[K, V]{hashing: keys, dead: new(cell[K, V])}
	x.clear()
	return x
}

// chooseHash returns a hash function with a seed of its own. An integer takes two
// multiplications. All NaN are one key.
func chooseHash[K cmp.Ordered]() func(key K) uint64 {
	if kind := reflect.TypeFor[K]().Kind(); reflect.Int <= kind && kind <= reflect.Uintptr {
		seed := rand.Uint64()
		switch unsafe.Sizeof(*new(K)) {
		case 8:
			return func(k K) uint64 { return hashInt(*(*uint64)(unsafe.Pointer(&k)) ^ seed) }
		case 4:
			return func(k K) uint64 { return hashInt(uint64(*(*uint32)(unsafe.Pointer(&k))) ^ seed) }
		}
	}
	seed := maphash.MakeSeed()
	return func(k K) uint64 {
		if k != k {
			return 0
		}
		return maphash.Comparable(seed, k)
	}
}

func isFloat[K any]() bool {
	kind := reflect.TypeFor[K]().Kind()
	return kind == reflect.Float32 || kind == reflect.Float64
}

// hashInt spreads integers by the golden ratio, as Knuth's multiplicative hashing does. The
// upper half of a product also decides, so that keys with a common factor are spread, too. It
// multiplies twice, because one product spreads a million consecutive integers unevenly.
func hashInt(k uint64) uint64 {
	const goldenRatio = 0x9E3779B97F4A7C15
	hi, lo := bits.Mul64(k, goldenRatio)
	hi, lo = bits.Mul64(hi^lo, goldenRatio)
	return hi ^ lo
}

func (x *hashIndex[K, V]) clear() {
	directory := make([]atomic.Pointer[segment[K, V]], 1)
	directory[0].Store(new(segment[K, V]))
	x.directory.Store(&directory)
}

func (x *hashIndex[K, V]) segment(hash uint64) *segment[K, V] {
	directory := *x.directory.Load()
	return directory[hash>>32&uint64(len(directory)-1)].Load()
}

func (x *hashIndex[K, V]) published(key K) *V {
	if s := x.staged.Load(); s != nil && s.tx.committed.Load() {
		x = s
	}
	return x.get(key).published()
}

func (x *hashIndex[K, V]) another(*tree[entry[K]]) keyIndex[K, V] {
	other := &hashIndex[K, V]{hashing: x.hashing, dead: x.dead}
	other.clear()
	return other
}

func (x *hashIndex[K, V]) stage(from keyIndex[K, V], tx *outcome) {
	s := from.(*hashIndex[K, V])
	s.tx = tx
	x.staged.Store(s)
}

// take stores the directory before it removes the staged index, so a reader that does not find
// that index any more finds its cells.
func (x *hashIndex[K, V]) take(from keyIndex[K, V]) {
	x.directory.Store(from.(*hashIndex[K, V]).directory.Load())
	x.staged.Store(nil)
}

func (x *hashIndex[K, V]) get(key K) *cell[K, V] {
	hash := x.hash(key)
	s := x.segment(hash)
	for i := hash; ; i++ {
		c := s.slots[i%segmentSize].Load()
		if c == nil || x.has(c, key) {
			return c
		}
	}
}

// has reports whether c is the cell of a key.
func (x *hashIndex[K, V]) has(c *cell[K, V], key K) bool {
	return x.same(c.key, key) && c != x.dead
}

func (x *hashIndex[K, V]) put(c *cell[K, V]) {
	hash := x.hash(c.key)
	s := x.segment(hash)
	for i := hash; ; i++ {
		slot := &s.slots[i%segmentSize]
		switch slot.Load() {
		case nil:
			if s.used == segmentFull {
				x.rebuild(s, hash)
				x.put(c)
				return
			}
			s.used++
		case x.dead:
		default:
			continue
		}
		s.live++
		slot.Store(c)
		return
	}
}

func (x *hashIndex[K, V]) remove(key K) {
	hash := x.hash(key)
	s := x.segment(hash)
	for i := hash; ; i++ {
		c := s.slots[i%segmentSize].Load()
		if c == nil {
			return
		}
		if !x.has(c, key) {
			continue
		}
		s.live--
		s.slots[i%segmentSize].Store(x.dead)
		for s.slots[(i+1)%segmentSize].Load() == nil && s.slots[i%segmentSize].Load() == x.dead {
			s.slots[i%segmentSize].Store(nil)
			s.used--
			i--
		}
		return
	}
}

// fill makes as many segments as the cells need, most of which then need not be rebuilt.
func (x *hashIndex[K, V]) fill(cells []*cell[K, V]) {
	depth := bits.Len(uint(len(cells) / (segmentSize / 2)))
	directory := make([]atomic.Pointer[segment[K, V]], 1<<depth)
	for i := range directory {
		directory[i].Store(&segment[K, V]{depth: uint8(depth)})
	}
	x.directory.Store(&directory)
	for _, c := range cells {
		x.put(c)
	}
}

// rebuild replaces the segment of a hash, which is full. If it is enough to leave out the
// dead cells, one segment takes its place, and otherwise two.
func (x *hashIndex[K, V]) rebuild(s *segment[K, V], hash uint64) {
	directory := *x.directory.Load()
	halves := [2]*segment[K, V]{{depth: s.depth}}
	halves[1] = halves[0]
	if s.live > segmentFull*3/4 {
		halves[0].depth++
		halves[1] = &segment[K, V]{depth: s.depth + 1}
		if len(directory) == 1<<s.depth {
			old := directory
			directory = make([]atomic.Pointer[segment[K, V]], 2*len(old))
			for i := range directory {
				directory[i].Store(old[i%len(old)].Load())
			}
		}
	}
	for i := range s.slots {
		if c := s.slots[i].Load(); c != nil && c != x.dead {
			h := x.hash(c.key)
			halves[h>>32>>s.depth&1].add(h, c)
		}
	}
	for i := hash >> 32 & (1<<s.depth - 1); i < uint64(len(directory)); i += 1 << s.depth {
		directory[i].Store(halves[i>>s.depth&1])
	}
	x.directory.Store(&directory)
}

// add puts a cell into a segment that no reader has yet.
func (s *segment[K, V]) add(hash uint64, c *cell[K, V]) {
	i := hash
	for s.slots[i%segmentSize].Load() != nil {
		i++
	}
	s.slots[i%segmentSize].Store(c)
	s.used++
	s.live++
}

// A treeIndex finds the cell of a key in the tree, for keys of any type. The tree is a
// table's, which puts cells there and removes them.
type treeIndex[K, V any] struct {
	table *domainLock // nil: nobody else has the tree
	rows  *tree[entry[K]]
}

// published waits for the write or transaction that is running.
func (x treeIndex[K, V]) published(key K) *V {
	x.table.RLock()
	defer x.table.RUnlock()
	return x.get(key).published()
}

func (x treeIndex[K, V]) get(key K) *cell[K, V] {
	e, _ := x.rows.get(entry[K]{key: key})
	return (*cell[K, V])(e.cell)
}

func (treeIndex[K, V]) another(rows *tree[entry[K]]) keyIndex[K, V] {
	return treeIndex[K, V]{rows: rows}
}

func (treeIndex[K, V]) put(*cell[K, V])                {}
func (treeIndex[K, V]) fill([]*cell[K, V])             {}
func (treeIndex[K, V]) remove(K)                       {}
func (treeIndex[K, V]) clear()                         {}
func (treeIndex[K, V]) stage(keyIndex[K, V], *outcome) {}
func (treeIndex[K, V]) take(keyIndex[K, V])            {}
