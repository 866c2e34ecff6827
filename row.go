package changefeed

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"sync"
	"time"
)

// How a table copies and compares its rows is settled once, when it is made, by
// the type of the rows alone. The rules are in chooseCopy and chooseEqual. The package
// documentation and Table state them for users.

// chooseCopy returns the function that makes the copy which an update may edit.
func chooseCopy[V any]() func(row *V) *V {
	switch t, p := reflect.TypeFor[V](), reflect.TypeFor[*V](); {
	case has[interface{ Clone() V }](p): // also for a method on V itself
		return func(row *V) *V {
			return new(any(row).(interface{ Clone() V }).Clone())
		}
	case has[interface{ Clone() *V }](p):
		return func(row *V) *V { return any(row).(interface{ Clone() *V }).Clone() }
	case has[interface{ Clone() V }](t): // V is a pointer or an interface: *V has no methods
		return copyUnlessNil(func(row *V) *V { return new(any(*row).(interface{ Clone() V }).Clone()) })
	case has[interface{ Clone() *V }](t):
		return copyUnlessNil(func(row *V) *V { return any(*row).(interface{ Clone() *V }).Clone() })
	case isFlat(t):
		return func(row *V) *V { return new(*row) }
	}
	return func(row *V) *V {
		dst := new(*row)
		deepCopy(reflect.ValueOf(row), reflect.ValueOf(dst))
		return dst
	}
}

// chooseEqual returns the function that decides whether a write is no change.
func chooseEqual[V any]() func(a, b *V) bool {
	switch t, p := reflect.TypeFor[V](), reflect.TypeFor[*V](); {
	case has[interface{ Equal(V) bool }](p):
		return func(a, b *V) bool { return any(a).(interface{ Equal(V) bool }).Equal(*b) }
	case has[interface{ Equal(*V) bool }](p):
		return func(a, b *V) bool { return any(a).(interface{ Equal(*V) bool }).Equal(b) }
	case has[interface{ Equal(V) bool }](t):
		return equalUnlessNil(func(a, b *V) bool { return any(*a).(interface{ Equal(V) bool }).Equal(*b) })
	case has[interface{ Equal(*V) bool }](t):
		return equalUnlessNil(func(a, b *V) bool { return any(*a).(interface{ Equal(*V) bool }).Equal(b) })
	case isStrictlyComparable(t) && isFlat(t) && !hasClone[V]():
		// Where a copy does not share what the row's pointers point to, == would find a
		// row different from its unedited copy.
		return func(a, b *V) bool { return any(*a) == any(*b) }
	}
	return func(a, b *V) bool { return deepEqual(reflect.ValueOf(a), reflect.ValueOf(b)) }
}

// copyUnlessNil returns clone for rows of a pointer or interface type. A nil row has no
// method to call.
func copyUnlessNil[V any](clone func(row *V) *V) func(row *V) *V {
	return func(row *V) *V {
		if isNil(row) {
			return new(V)
		}
		return clone(row)
	}
}

// equalUnlessNil is copyUnlessNil for comparisons.
func equalUnlessNil[V any](equal func(a, b *V) bool) func(a, b *V) bool {
	return func(a, b *V) bool {
		if isNil(a) || isNil(b) {
			return isNil(a) && isNil(b)
		}
		return equal(a, b)
	}
}

// isNil reports whether a row of a pointer or interface type is nil.
func isNil[V any](row *V) bool { return reflect.ValueOf(row).Elem().IsNil() }

// hasClone reports whether V makes its own copies.
func hasClone[V any]() bool {
	t, p := reflect.TypeFor[V](), reflect.TypeFor[*V]()
	return has[interface{ Clone() V }](p) || has[interface{ Clone() *V }](p) ||
		has[interface{ Clone() V }](t) || has[interface{ Clone() *V }](t)
}

// has reports whether t has the methods of I.
func has[I any](t reflect.Type) bool { return t.Implements(reflect.TypeFor[I]()) }

// isStrictlyComparable reports whether == on values of t compares all of them and
// cannot panic: there is no interface inside.
func isStrictlyComparable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface:
		return false
	case reflect.Array:
		return isStrictlyComparable(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if !isStrictlyComparable(f.Type) {
				return false
			}
		}
		return true
	default:
		return t.Comparable()
	}
}

// isFlat reports whether an assignment copies all of a value of t that a copier
// would: only fields that a copier leaves alone hold a map, slice, pointer or interface.
func isFlat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Pointer, reflect.Interface:
		return false
	case reflect.Array:
		return isFlat(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if isCopied(f) && !isFlat(f.Type) {
				return false
			}
		}
	}
	return true
}

// isCopied reports whether a copier goes into a struct's field. It goes into exported
// fields, and into embedded structs and pointers to structs, whose fields are promoted.
func isCopied(f reflect.StructField) bool {
	switch t := f.Type; {
	case f.IsExported() || !f.Anonymous:
		return f.IsExported()
	case t.Kind() == reflect.Pointer:
		return t.Elem().Kind() == reflect.Struct && !isKnownByAddress(t)
	default:
		return t.Kind() == reflect.Struct
	}
}

// isKnownByAddress reports whether values are known by their address, so that a copy is
// no substitute. t is a pointer type or the type of a value in an interface. Errors are
// compared with sentinels. Contexts are canceled, and locks locked, at the original.
// Package time compares the addresses of locations, and allocates more for a timer than
// its type shows.
func isKnownByAddress(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[*time.Location](), reflect.TypeFor[*time.Timer](), reflect.TypeFor[*time.Ticker]():
		return true
	}
	return has[error](t) || has[context.Context](t) ||
		t.Kind() == reflect.Pointer && holdsLock(t.Elem())
}

// isDistinct reports whether t is a pointer type whose values are compared by address.
// Looking into a context or behind a lock would race with its users, and two contexts of
// equal content are not the same context. Errors and locations are compared by content.
func isDistinct(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && (has[context.Context](t) || holdsLock(t.Elem()))
}

// holdsLock reports whether t or a part of t is a lock, as sync.Mutex, sync.WaitGroup and
// atomic.Int64 are: go vet reports copies of them. An array of no elements is not a lock.
// Messages of protobuf have one so that go vet reports their copies, too.
func holdsLock(t reflect.Type) bool {
	if has[sync.Locker](reflect.PointerTo(t)) {
		return true
	}
	switch t.Kind() {
	case reflect.Array:
		return t.Len() > 0 && holdsLock(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if holdsLock(f.Type) {
				return true
			}
		}
	}
	return false
}

// isPlainData reports whether t hides nothing: it is not a struct, or all its fields are
// exported or promoted. The methods of a struct that hides a field may rely on its
// address, or on the only reference to something, as those of big.Int do. The type of an
// exported field may hide something. An assignment copies it, as it does in a row.
func isPlainData(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return true
	}
	for f := range t.Fields() {
		switch {
		case f.IsExported() || f.Name == "_":
		case !isCopied(f), f.Type.Kind() == reflect.Struct && !isPlainData(f.Type):
			return false
		}
	}
	return true
}

// A treatment is how a copier treats the values of a type.
type treatment struct {
	flat     bool  // an assignment copies them
	flatElem bool  // of a map, slice or pointer: an assignment copies its elements
	shared   bool  // they are known by their address
	distinct bool  // two of them are never equal, whatever they contain
	kept     bool  // an interface keeps the value that it holds
	fields   []int // of a struct: the fields that an assignment does not copy
}

var treatments sync.Map // of *treatment by reflect.Type

// treatmentOf returns the treatment of a type, which it settles once.
func treatmentOf(t reflect.Type) *treatment {
	if known, ok := treatments.Load(t); ok {
		return known.(*treatment)
	}
	how := &treatment{flat: isFlat(t), shared: isKnownByAddress(t), distinct: isDistinct(t)}
	how.kept = how.flat || how.shared
	switch t.Kind() {
	case reflect.Map, reflect.Slice:
		how.flatElem = isFlat(t.Elem())
	case reflect.Pointer:
		how.flatElem = isFlat(t.Elem())
		how.kept = how.kept || !isPlainData(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); isCopied(f) && !isFlat(f.Type) {
				how.fields = append(how.fields, i)
			}
		}
	}
	treatments.Store(t, how)
	return how
}

// A copier makes a plain copy of a row a deep one. It copies maps, slices, and the values
// behind pointers and interfaces, as far as exported and promoted fields lead. The copy
// shares channels, functions, map keys and the references in other unexported fields. It
// also shares values that are known by their address and, in an interface, a pointer to
// anything but plain data. A map, slice or pointer that stands in two places of one type
// does so in the copy too, so a row may contain itself. Slices must have one length for
// that: slices of one array that differ in length become slices of two.
//
// A row may be deeper than a stack. The copier therefore keeps a list of the copies that
// it must still fill. It recurses only into the fields of a struct and the elements of an
// array, because their types limit the depth.
type copier struct {
	seen  map[reference]reflect.Value // the copies made
	todo  []copying
	boxes []box // outer before inner
}

// A copying is a copy whose content is still that of the original. A map's copy is empty,
// and from is the original.
type copying struct{ from, to reflect.Value }

// A box is a value to be stored in an interface, or in a map under a key. A stored value
// cannot be edited, so the boxes are stored last, and the inner before the outer.
type box struct{ place, key, value reflect.Value }

// A reference is a map, slice or pointer that was met. An address alone would not
// do: a struct and its first field have the same. The type is an address, too, because
// that is quicker to hash than a [reflect.Type].
type reference struct {
	address, typ uintptr
	len          int
}

func referenceOf(v reflect.Value) reference {
	ref := reference{address: v.Pointer(), typ: reflect.ValueOf(v.Type()).Pointer()}
	if v.Kind() != reflect.Pointer {
		ref.len = v.Len()
	}
	return ref
}

// deepCopy makes the plain copy that to points to, of the row that from points to, a
// deep one.
func deepCopy(from, to reflect.Value) {
	c := copier{seen: map[reference]reflect.Value{referenceOf(from): to}}
	c.copyRow(to.Elem())
	for len(c.todo) > 0 {
		last := len(c.todo) - 1
		next := c.todo[last]
		c.todo = c.todo[:last]
		c.fill(next.from, next.to)
	}
	for _, b := range slices.Backward(c.boxes) {
		c.store(b)
	}
}

// copyRow is detach of a row. If the row is a pointer, its target is the row itself and is
// copied even if it is known by its address. Otherwise an edit would change the old row.
func (c *copier) copyRow(row reflect.Value) {
	p := row
	if row.Kind() == reflect.Interface {
		p = row.Elem()
	}
	switch {
	case p.Kind() != reflect.Pointer || p.IsNil():
		c.detach(row)
	case row.Kind() == reflect.Pointer || !treatmentOf(p.Type()).shared:
		row.Set(c.makeCopy(p))
	}
}

// detach replaces the references in v by references to copies. v must be addressable.
func (c *copier) detach(v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface:
		if !v.IsNil() {
			c.detachHeld(v, v.Elem())
		}
	case reflect.Array:
		if !treatmentOf(v.Type()).flat {
			for i := range v.Len() {
				c.detach(v.Index(i))
			}
		}
	case reflect.Struct:
		for _, i := range treatmentOf(v.Type()).fields {
			c.detach(v.Field(i))
		}
	case reflect.Map, reflect.Slice, reflect.Pointer:
		if v.IsNil() {
			return
		}
		if !v.CanSet() { // an embedded pointer to an unexported struct
			v = reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem()
		}
		v.Set(c.copyOf(v))
	}
}

// detachHeld is detach of an interface and of the value that it holds.
func (c *copier) detachHeld(v, held reflect.Value) {
	switch kind, kept := held.Kind(), treatmentOf(held.Type()).kept; {
	case kind == reflect.Pointer && kept:
		c.boxes = append(c.boxes, box{place: v, value: held}) // see store
	case kept:
	case kind == reflect.Struct || kind == reflect.Array:
		copied := reflect.New(held.Type()).Elem()
		copied.Set(held)
		c.boxes = append(c.boxes, box{place: v, value: copied})
		c.todo = append(c.todo, copying{to: copied})
	case !held.IsNil():
		v.Set(c.copyOf(held))
	}
}

// copyOf returns the copy of a map, a slice or the target of a pointer, or v if the copy
// shares it.
func (c *copier) copyOf(v reflect.Value) reflect.Value {
	if dst, ok := c.seen[referenceOf(v)]; ok {
		return dst
	}
	if v.Kind() == reflect.Pointer && treatmentOf(v.Type()).shared {
		return v
	}
	return c.makeCopy(v)
}

// makeCopy makes the only copy of a map, a slice or the target of a pointer.
func (c *copier) makeCopy(v reflect.Value) (dst reflect.Value) {
	flat := treatmentOf(v.Type()).flatElem
	ref := referenceOf(v)
	switch v.Kind() {
	case reflect.Map:
		v = reflect.ValueOf(v.Interface()) // v itself may be where the copy is put
		dst = reflect.MakeMapWithSize(v.Type(), v.Len())
		if flat {
			for elems := v.MapRange(); elems.Next(); {
				dst.SetMapIndex(elems.Key(), elems.Value())
			}
		}
	case reflect.Slice:
		dst = reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(dst, v)
	default:
		dst = reflect.New(v.Type().Elem())
		if dst.Type() != v.Type() { // a named pointer type
			dst = dst.Convert(v.Type())
		}
		dst.Elem().Set(v.Elem())
	}
	c.seen[ref] = dst
	if !flat {
		c.todo = append(c.todo, copying{v, dst})
	}
	return dst
}

// fill detaches the content of a copy.
func (c *copier) fill(from, to reflect.Value) {
	switch to.Kind() {
	case reflect.Map:
		elem := reflect.New(to.Type().Elem()).Elem()
		for elems := from.MapRange(); elems.Next(); {
			elem.SetIterValue(elems)
			outer := len(c.boxes)
			c.boxes = append(c.boxes, box{to, elems.Key(), elem})
			c.detach(elem)
			if len(c.boxes) == outer+1 { // it holds no other box
				c.store(c.boxes[outer])
				c.boxes = c.boxes[:outer]
			} else {
				elem = reflect.New(elem.Type()).Elem()
			}
		}
	case reflect.Slice:
		for i := range to.Len() {
			c.detach(to.Index(i))
		}
	case reflect.Pointer:
		c.detach(to.Elem())
	default: // the value of an interface
		c.detach(to)
	}
}

// store puts a box where it belongs. A pointer that an interface keeps is shared, unless
// it also stands where it is copied.
func (c *copier) store(b box) {
	switch {
	case b.key.IsValid():
		b.place.SetMapIndex(b.key, b.value)
	case b.value.Kind() != reflect.Pointer:
		b.place.Set(b.value)
	default:
		if dst, ok := c.seen[referenceOf(b.value)]; ok {
			b.place.Set(dst)
		}
	}
}

// A comparer compares two values as [reflect.DeepEqual] does. It has a list in place of
// recursion, as a copier has. Values are equal if all pairs of their parts are equal, so
// the order of the comparisons does not matter. Each pair is compared once.
type comparer struct {
	seen map[comparison]struct{}
	todo [][2]reflect.Value // pairs of references, or of the values of interfaces
}

// A comparison is two references of one type and length.
type comparison struct {
	a reference
	b uintptr
}

// deepEqual is [reflect.DeepEqual] of the pointers to two rows, except that it compares
// contexts and what holds a lock by their addresses. If the rows are pointers themselves,
// their targets are the rows.
func deepEqual(a, b reflect.Value) bool {
	var c comparer
	if e := a.Elem(); e.Kind() == reflect.Pointer && !e.IsNil() && !b.Elem().IsNil() {
		a, b = e, b.Elem()
	}
	equal := a.Pointer() == b.Pointer() || c.equal(a.Elem(), b.Elem())
	for equal && len(c.todo) > 0 {
		last := len(c.todo) - 1
		next := c.todo[last]
		c.todo = c.todo[:last]
		equal = c.equalElems(next[0], next[1])
	}
	return equal
}

// equal compares two values of one type, and puts their references on the list.
func (c *comparer) equal(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Array:
		for i := range a.Len() {
			if !c.equal(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !c.equal(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Func:
		return a.IsNil() && b.IsNil()
	case reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		return c.equalHeld(a.Elem(), b.Elem())
	case reflect.Map, reflect.Slice, reflect.Pointer:
		return c.equalReferences(a, b)
	default:
		return a.Equal(b)
	}
}

// equalHeld compares the values of two interfaces.
func (c *comparer) equalHeld(a, b reflect.Value) bool {
	switch {
	case a.Type() != b.Type():
		return false
	case a.Kind() == reflect.Array || a.Kind() == reflect.Struct:
		c.todo = append(c.todo, [2]reflect.Value{a, b})
		return true
	}
	return c.equal(a, b)
}

// equalReferences compares two maps, slices or pointers.
func (c *comparer) equalReferences(a, b reflect.Value) bool {
	switch {
	case a.IsNil() || b.IsNil():
		return a.IsNil() && b.IsNil()
	case a.Kind() != reflect.Pointer && a.Len() != b.Len():
		return false
	case a.Pointer() == b.Pointer():
		return true
	case treatmentOf(a.Type()).distinct:
		return false
	}
	switch a.Type().Elem().Kind() {
	case reflect.Array, reflect.Struct, reflect.Interface, reflect.Map, reflect.Slice, reflect.Pointer:
		if c.seen == nil {
			c.seen = make(map[comparison]struct{})
		}
		before := len(c.seen)
		c.seen[comparison{referenceOf(a), b.Pointer()}] = struct{}{}
		if len(c.seen) > before {
			c.todo = append(c.todo, [2]reflect.Value{a, b})
		}
		return true
	default: // the elements have no references
		return c.equalElems(a, b)
	}
}

// equalElems compares the elements of two maps or slices of one length, the targets of two
// pointers, or the values of two interfaces.
func (c *comparer) equalElems(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Map:
		for elems := a.MapRange(); elems.Next(); {
			other := b.MapIndex(elems.Key())
			if !other.IsValid() || !c.equal(elems.Value(), other) {
				return false
			}
		}
		return true
	case reflect.Slice:
		if a.Type().Elem().Kind() == reflect.Uint8 {
			return bytes.Equal(a.Bytes(), b.Bytes())
		}
		for i := range a.Len() {
			if !c.equal(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		return c.equal(a.Elem(), b.Elem())
	default:
		return c.equal(a, b)
	}
}
