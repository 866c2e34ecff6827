//go:build changefeed_debug

package changefeed

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"
)

// With the build tag changefeed_debug, the types in this file check how a program uses
// its tables, and panic when they find misuse. Without the tag, those in debug_off.go
// take their place, and do nothing.

// A tableMutex is the lock of a table. It panics if a goroutine that holds it for writing
// locks it again, which would deadlock: user functions run under the lock, and must not
// call the table.
//
// It does not find a call by a compare function during a read, because a reader is not
// recorded. Nor does it find a call by another goroutine that the function waits for.
type tableMutex struct {
	sync.RWMutex
	table  atomic.Pointer[string] // the name of the table for which it is held, or was
	holder atomic.Uint64          // the goroutine that holds it for writing; 0: none, or one that runs no user function
}

// Lock is like [sync.RWMutex.Lock] but panics if the goroutine holds the lock.
func (m *tableMutex) Lock() {
	m.check("")
	m.RWMutex.Lock()
	m.holder.Store(goroutineID())
}

// Unlock is like [sync.RWMutex.Unlock].
func (m *tableMutex) Unlock() {
	m.holder.Store(0)
	m.RWMutex.Unlock()
}

// RLock is like [sync.RWMutex.RLock] but panics if the goroutine holds the lock.
func (m *tableMutex) RLock() {
	m.check("")
	m.RWMutex.RLock()
}

// check panics if the goroutine holds the lock and calls a table, whose name may be empty.
func (m *tableMutex) check(called string) {
	holder := m.holder.Load()
	if holder == 0 || holder != goroutineID() {
		return
	}
	held, what := *m.table.Load(), "the table"
	if called != "" && called != held {
		what = fmt.Sprintf("table %q, which shares the lock because of a view", called)
	}
	panic(fmt.Sprintf("changefeed: a function that runs under the lock of table %q calls %s, which would deadlock; inside Transact use Table.In, otherwise call the table before or after", held, what))
}

// A lockUser is a table that may share its lock with others.
type lockUser struct{ table string }

// check panics if the goroutine holds the lock.
func (u *lockUser) check(m *tableMutex) { m.check(u.table) }

// hold says that the lock is held for this table.
func (u *lockUser) hold(m *tableMutex) { m.table.Store(&u.table) }

// goroutineID returns the number that a stack trace has for this goroutine. It is never
// that of another goroutine, and never 0.
func goroutineID() uint64 {
	var trace [64]byte // goroutine 7 [running]: ...
	n := runtime.Stack(trace[:], false)
	id, err := strconv.ParseUint(string(bytes.Fields(trace[:n])[1]), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("changefeed: no goroutine number in %q", trace[:n]))
	}
	return id
}

// These are the types of package atomic. A test may set onAccess, which is called before each
// access to one of them.
type (
	atomicPointer[T any] struct{ p atomic.Pointer[T] }
	atomicUint64         struct{ n atomic.Uint64 }
	atomicBool           struct{ b atomic.Bool }
)

var onAccess atomic.Pointer[func(word any, store bool)]

func access(word any, store bool) {
	if f := onAccess.Load(); f != nil {
		(*f)(word, store)
	}
}

func (p *atomicPointer[T]) Load() *T {
	access(p, false)
	return p.p.Load()
}

func (p *atomicPointer[T]) Store(to *T) {
	access(p, true)
	p.p.Store(to)
}

func (n *atomicUint64) Load() uint64 {
	access(n, false)
	return n.n.Load()
}

func (n *atomicUint64) Store(to uint64) {
	access(n, true)
	n.n.Store(to)
}

func (f *atomicBool) Load() bool {
	access(f, false)
	return f.b.Load()
}

func (f *atomicBool) Store(to bool) {
	access(f, true)
	f.b.Store(to)
}

// A weakMap has a value for each row, as long as the row is in memory. It is safe for
// concurrent use.
type weakMap[V, T any] struct{ values sync.Map } // of *weakValue[V, T], by address: to make a weak pointer takes long

// A weakValue is the value of a row. Its address may be that of another row later.
type weakValue[V, T any] struct {
	row     weak.Pointer[V]
	address uintptr
	value   T
}

func (m *weakMap[V, T]) store(row *V, value T) {
	v := &weakValue[V, T]{weak.Make(row), uintptr(unsafe.Pointer(row)), value}
	m.values.Store(v.address, v)
	runtime.AddCleanup(row, func(v *weakValue[V, T]) { m.values.CompareAndDelete(v.address, v) }, v)
}

func (m *weakMap[V, T]) load(row *V) (value T, ok bool) {
	v, ok := m.values.Load(uintptr(unsafe.Pointer(row)))
	if !ok || v.(*weakValue[V, T]).row.Value() != row {
		return value, false
	}
	return v.(*weakValue[V, T]).value, true
}

// A rowGuard panics if a row was changed after the table stored it. It keeps a copy of
// each row, made as for an update. It compares the copy with another one when the row is
// read, written to and deleted, and before and after a loop has it in a change. (T3)
//
// It does not find a change
//
//   - of the parts that a row shares with its copy: see Rows in the package documentation.
//     A row's method Clone decides that for its type.
//   - that was undone in time, or of a row that nobody uses any more, for example because
//     the table was dropped.
//   - of a row with a NaN, a non-nil function or anything else that makes two copies of it
//     differ.
//
// A method Equal of the rows is not called, because it may ignore some fields.
//
// A row that a transaction stored stays guarded after a rollback. If Compute returned a
// pointer to it, the program must not change the row then, either.
type rowGuard[K, V any] struct {
	table  string
	key    func(row *V) K
	copy   func(row *V) *V
	equal  func(a, b *[]V) bool
	copies *weakMap[V, []V] // of one row each. It is not a part of the table, which the map's cleanups would hold
}

// begin begins to guard a new table. The table's key function checks its row from now on,
// because every loop that reads rows calls it.
func (g *rowGuard[K, V]) begin(t *Table[K, V]) {
	*g = rowGuard[K, V]{t.name, t.key, t.copy, chooseEqual[[]V](), new(weakMap[V, []V])} // a slice has no method Equal
	t.key = func(row *V) K {
		g.check(row)
		return g.key(row)
	}
	t.mu.user.table = t.name
	t.mu.user.hold(&t.mu.own.tableMutex)
}

// keep begins to guard a row that is about to be stored, or nil.
func (g *rowGuard[K, V]) keep(row *V) {
	if row == nil {
		return
	}
	if kept := g.copyOf(row); g.equal(&kept, new(g.copyOf(row))) {
		g.copies.store(row, kept)
	}
}

// check panics if a row, which may be nil, is guarded and was changed.
func (g *rowGuard[K, V]) check(row *V) {
	if row == nil {
		return
	}
	if kept, ok := g.copies.load(row); ok && !g.equal(&kept, new(g.copyOf(row))) {
		panic(fmt.Sprintf("changefeed: row %s of table %q was changed after it was stored; rows are read-only: use Update, or Clone the row first",
			quoted(g.key(&kept[0])), g.table))
	}
}

func (g *rowGuard[K, V]) copyOf(row *V) []V { return []V{*g.copy(row)} }

// changes returns the stream of s that checks the rows of each change.
func (g *rowGuard[K, V]) changes(s Stream[Change[V]]) Stream[Change[V]] {
	return func(yield func(Change[V], error) bool) {
		s(func(c Change[V], err error) bool {
			return g.checkAround(func() bool { return yield(c, err) }, c)
		})
	}
}

// batches is like changes, for batches.
func (g *rowGuard[K, V]) batches(s Stream[[]Change[V]]) Stream[[]Change[V]] {
	return func(yield func([]Change[V], error) bool) {
		s(func(batch []Change[V], err error) bool {
			return g.checkAround(func() bool { return yield(batch, err) }, slices.Clone(batch)...) // the loop may change batch
		})
	}
}

// guardCommits is like [rowGuard.batches], for commits.
func guardCommits(s Stream[Commit]) Stream[Commit] {
	return func(yield func(Commit, error) bool) {
		s(func(commit Commit, err error) bool {
			changes := slices.Clone(commit) // the loop may change commit
			check := func() {
				for _, c := range changes {
					c.Table.anyTable().(interface{ checkRows(AnyChange) }).checkRows(c)
				}
			}
			check()
			more := yield(commit, err)
			check()
			return more
		})
	}
}

func (t *Table[K, V]) checkRows(c AnyChange) {
	typed, _ := t.Typed(c)
	t.guard.check(typed.Old)
	t.guard.check(typed.New)
}

// checkAround checks the rows of changes before and after the body of a loop has them.
func (g *rowGuard[K, V]) checkAround(body func() (more bool), changes ...Change[V]) (more bool) {
	check := func() {
		for _, c := range changes {
			g.check(c.Old)
			g.check(c.New)
		}
	}
	check()
	more = body()
	check()
	return more
}

// An indexGuard panics if an index disagrees with its table.
type indexGuard[S, K, V any] struct {
	values *weakMap[V, []S] // of each row when it was stored; not a part of the index: see rowGuard
}

// plan checks the write that x has planned. The values of the old row must be those that
// it had when it was stored, and the index must have the row under each of them.
func (g *indexGuard[S, K, V]) plan(x *Index[S, K, V], old, new *V) {
	if g.values == nil {
		g.values = &weakMap[V, []S]{}
	}
	if old != nil {
		key := x.table.key(old)
		if stored, ok := g.values.load(old); ok && slices.CompareFunc(stored, x.old, x.order) != 0 {
			panic(fmt.Sprintf("changefeed: the function of index %q of table %q returned %v for row %s, and returns %v now for the same row; it must depend on the row alone",
				x.name, x.table.name, stored, quoted(key), x.old))
		}
		for _, v := range x.old {
			if e, ok := x.rows.tree.Get(indexEntry[S, K]{value: v, key: key}); !ok || (*cell[K, V])(e.cell).latest() != old {
				panic(fmt.Sprintf("changefeed: index %q of table %q does not have row %s under its value %s; if the compare function is a strict order, report a bug of changefeed",
					x.name, x.table.name, quoted(key), quoted(v)))
			}
		}
	}
	if new != nil {
		g.values.store(new, slices.Clone(x.new))
	}
}
