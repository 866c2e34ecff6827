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

// A keyIndex finds the cell of a key. It has the same cells as the table's tree. It refers to a
// cell by the cell's key: see [cellOf]. Its type does not depend on the type of the rows, so a view
// with the keys of another table has the same kind of index. All methods except find are called
// with the table's lock held.
type keyIndex[K any] interface {
	// find is like get, for a caller that does not hold the table's lock. A treeIndex takes the
	// lock. A hashIndex does not use it, so its find may also be called with the lock held.
	find(key K) *K

	get(key K) *K    // nil if there is no cell with the key
	put(cell *K)     // there is no cell with the key
	fill(cells []*K) // puts many into an empty index
	remove(key K)    // does nothing if there is no cell with the key
	clear()

	// another returns an empty keyIndex of the same kind, for the cells in rows, the tree of
	// another table. stage makes find use the cells of such an index from the moment at which a
	// transaction commits. After the commit, take takes these cells over.
	another(lock *domainLock, rows *tree[entry[K]]) keyIndex[K]
	stage(from keyIndex[K], tx *outcome)
	take(from keyIndex[K])
}

const (
	segmentSize = 128                 // slots, a power of two
	segmentFull = segmentSize * 5 / 8 // more slots than this are not used
)

// A hashIndex is an extendible hash table. It has one writer at a time, and get can run beside
// the writer without the table's lock.
//
// The upper half of a key's hash selects a segment in the directory. The lower half selects
// the slot of the segment where the search for the key begins. The search goes on from slot
// to slot until it comes to an empty one.
//
// A cell stays in its slot until it is removed, so a search finds every cell that is there all
// the time. When a cell is removed, its slot becomes empty only if the next slot is empty,
// because no search then needs to go on from it. Otherwise the slot gets the dead cell.
//
// A full segment is replaced by a new one, or by two with about half the keys each. The old
// segment is not changed any more. A reader that still has it finds the cells that were there
// when it was replaced. The index grows by one segment at a time. When the directory is too
// short, it is copied to one of twice the length, which takes less than a byte for each key.
type hashIndex[K cmp.Ordered] struct {
	hash      func(key K) uint64
	dead      *K                                          // the cell that takes the place of a removed one
	directory atomicPointer[[]atomic.Pointer[segment[K]]] // its length is a power of two

	staged atomicPointer[hashIndex[K]] // the index that find uses once staged.tx has committed, or nil
	tx     *outcome                    // if this index is staged in another: the transaction that stages it
}

// A segment has the cells of the keys whose hashes have the same lowest depth bits in
// their upper half.
type segment[K any] struct {
	depth uint8
	used  int                           // slots that are not empty
	live  int                           // slots with a cell that is not dead
	slots [segmentSize]atomicPointer[K] // the keys of the cells
}

func newHashIndex[K cmp.Ordered]() *hashIndex[K] {
	x := &hashIndex[K]{hash: chooseHash[K](), dead: new(K)}
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

func (x *hashIndex[K]) clear() {
	directory := make([]atomic.Pointer[segment[K]], 1)
	directory[0].Store(new(segment[K]))
	x.directory.Store(&directory)
}

func (x *hashIndex[K]) segment(hash uint64) *segment[K] {
	directory := *x.directory.Load()
	return directory[hash>>32&uint64(len(directory)-1)].Load()
}

func (x *hashIndex[K]) find(key K) *K {
	if s := x.staged.Load(); s != nil && s.tx.committed.Load() {
		x = s
	}
	return x.get(key)
}

func (x *hashIndex[K]) another(*domainLock, *tree[entry[K]]) keyIndex[K] {
	other := &hashIndex[K]{hash: x.hash, dead: x.dead}
	other.clear()
	return other
}

func (x *hashIndex[K]) stage(from keyIndex[K], tx *outcome) {
	s := from.(*hashIndex[K])
	s.tx = tx
	x.staged.Store(s)
}

// take stores the directory before it removes the staged index. A reader that does not find the
// staged index any more therefore finds its cells in the directory.
func (x *hashIndex[K]) take(from keyIndex[K]) {
	x.directory.Store(from.(*hashIndex[K]).directory.Load())
	x.staged.Store(nil)
}

func (x *hashIndex[K]) get(key K) *K {
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
func (x *hashIndex[K]) has(c *K, key K) bool {
	return (*c == key || *c != *c && key != key) && c != x.dead
}

func (x *hashIndex[K]) put(c *K) {
	hash := x.hash(*c)
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

func (x *hashIndex[K]) remove(key K) {
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

// fill makes as many segments as the cells need. Most of the segments then need not be rebuilt.
func (x *hashIndex[K]) fill(cells []*K) {
	depth := bits.Len(uint(len(cells) / (segmentSize / 2)))
	directory := make([]atomic.Pointer[segment[K]], 1<<depth)
	for i := range directory {
		directory[i].Store(&segment[K]{depth: uint8(depth)})
	}
	x.directory.Store(&directory)
	for _, c := range cells {
		x.put(c)
	}
}

// rebuild replaces a full segment, to which a hash leads. If leaving out the dead cells makes
// enough room, one new segment takes its place. Otherwise two do.
func (x *hashIndex[K]) rebuild(s *segment[K], hash uint64) {
	directory := *x.directory.Load()
	halves := [2]*segment[K]{{depth: s.depth}}
	halves[1] = halves[0]
	if s.live > segmentFull*3/4 {
		halves[0].depth++
		halves[1] = &segment[K]{depth: s.depth + 1}
		if len(directory) == 1<<s.depth {
			old := directory
			directory = make([]atomic.Pointer[segment[K]], 2*len(old))
			for i := range directory {
				directory[i].Store(old[i%len(old)].Load())
			}
		}
	}
	for i := range s.slots {
		if c := s.slots[i].Load(); c != nil && c != x.dead {
			h := x.hash(*c)
			halves[h>>32>>s.depth&1].add(h, c)
		}
	}
	for i := hash >> 32 & (1<<s.depth - 1); i < uint64(len(directory)); i += 1 << s.depth {
		directory[i].Store(halves[i>>s.depth&1])
	}
	x.directory.Store(&directory)
}

// add puts a cell into a segment that no reader has yet.
func (s *segment[K]) add(hash uint64, c *K) {
	i := hash
	for s.slots[i%segmentSize].Load() != nil {
		i++
	}
	s.slots[i%segmentSize].Store(c)
	s.used++
	s.live++
}

// A treeIndex finds the cell of a key in a table's tree, for keys of any type. The table itself
// puts cells into the tree and removes them, so most methods have nothing to do.
type treeIndex[K any] struct {
	table *domainLock // the table's lock, or nil if nobody else has the tree
	rows  *tree[entry[K]]
}

// find waits for the write or transaction that is running.
func (x treeIndex[K]) find(key K) *K {
	x.table.RLock()
	defer x.table.RUnlock()
	return x.get(key)
}

func (x treeIndex[K]) get(key K) *K {
	e, _ := x.rows.get(entry[K]{key: key})
	return (*K)(e.cell)
}

func (treeIndex[K]) another(lock *domainLock, rows *tree[entry[K]]) keyIndex[K] {
	return treeIndex[K]{lock, rows}
}

func (treeIndex[K]) put(*K)                      {}
func (treeIndex[K]) fill([]*K)                   {}
func (treeIndex[K]) remove(K)                    {}
func (treeIndex[K]) clear()                      {}
func (treeIndex[K]) stage(keyIndex[K], *outcome) {}
func (treeIndex[K]) take(keyIndex[K])            {}
