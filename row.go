package changefeed

import (
	"bytes"
	"reflect"
)

// How a table copies and compares its rows is settled once, when it is made, by
// the type of the rows alone. The rules, which the package documentation gives to
// users, are in chooseCopy and chooseEqual.

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
		return func(row *V) *V {
			return new(any(*row).(interface{ Clone() V }).Clone())
		}
	case has[interface{ Clone() *V }](t):
		return func(row *V) *V { return any(*row).(interface{ Clone() *V }).Clone() }
	case isFlat(t):
		return func(row *V) *V { return new(*row) }
	}
	return func(row *V) *V {
		dst := new(*row)
		from, to := reflect.ValueOf(row), reflect.ValueOf(dst)
		c := copier{seen: map[reference]reflect.Value{referenceOf(from): to}}
		c.detach(to.Elem())
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
		return func(a, b *V) bool { return any(*a).(interface{ Equal(V) bool }).Equal(*b) }
	case has[interface{ Equal(*V) bool }](t):
		return func(a, b *V) bool { return any(*a).(interface{ Equal(*V) bool }).Equal(b) }
	case isStrictlyComparable(t) && isFlat(t) && !hasClone[V]():
		// Where a copy does not share what the row's pointers point to, == would find a
		// row different from its unedited copy.
		return func(a, b *V) bool { return any(*a) == any(*b) }
	}
	return func(a, b *V) bool { return deepEqual(reflect.ValueOf(a), reflect.ValueOf(b)) }
}

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
// would: there is no map, slice, pointer or interface in it but behind unexported
// fields.
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

// isCopied reports whether a copier goes into a struct's field. It cannot set an
// unexported one, but the exported fields of an embedded struct it can.
func isCopied(f reflect.StructField) bool {
	return f.IsExported() || f.Anonymous && f.Type.Kind() == reflect.Struct
}

// A copier makes a plain copy of a value a deep one: it copies the maps, slices and
// what pointers and interfaces lead to, as far as exported fields go. A map, slice
// or pointer that stands in two places does so in the copy too, so a value may
// contain itself. Shared are channels, functions, map keys, what unexported fields
// refer to, and what an interface holds that only its methods can reach into: many
// such values, io.EOF among them, are known by their address.
type copier struct {
	seen map[reference]reflect.Value // the copies made
}

// A reference is a map, slice or pointer that was met. An address alone would not
// do: a struct and its first field have the same.
type reference struct {
	address uintptr
	len     int
	typ     reflect.Type
}

func referenceOf(v reflect.Value) reference {
	ref := reference{address: v.Pointer(), typ: v.Type()}
	if v.Kind() != reflect.Pointer {
		ref.len = v.Len()
	}
	return ref
}

// isHandle reports whether t is a pointer to a struct that has no exported field.
func isHandle(t reflect.Type) bool {
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return false
	}
	for f := range t.Elem().Fields() {
		if isCopied(f) {
			return false
		}
	}
	return true
}

// detach puts copies in place of all that v, which it can set, refers to.
func (c *copier) detach(v reflect.Value) {
	if isFlat(v.Type()) {
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		if !v.IsNil() && !isHandle(v.Elem().Type()) {
			elem := reflect.New(v.Elem().Type()).Elem()
			elem.Set(v.Elem())
			c.detach(elem)
			v.Set(elem)
		}
	case reflect.Array:
		for i := range v.Len() {
			c.detach(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if isCopied(v.Type().Field(i)) {
				c.detach(v.Field(i))
			}
		}
	default: // a map, slice or pointer
		if !v.IsNil() {
			v.Set(c.copyOf(v))
		}
	}
}

// copyOf returns a copy of a map, a slice or what a pointer points to.
func (c *copier) copyOf(v reflect.Value) reflect.Value {
	ref := referenceOf(v)
	if dst, ok := c.seen[ref]; ok {
		return dst
	}
	switch v.Kind() {
	case reflect.Map:
		dst := reflect.MakeMapWithSize(v.Type(), v.Len())
		c.seen[ref] = dst // before its elements: they may refer to it
		for key, elem := range v.Seq2() {
			copied := reflect.New(elem.Type()).Elem()
			copied.Set(elem)
			c.detach(copied)
			dst.SetMapIndex(key, copied)
		}
		return dst
	case reflect.Slice:
		dst := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		c.seen[ref] = dst
		reflect.Copy(dst, v)
		if !isFlat(v.Type().Elem()) {
			for i := range dst.Len() {
				c.detach(dst.Index(i))
			}
		}
		return dst
	default:
		dst := reflect.New(v.Type().Elem())
		c.seen[ref] = dst
		dst.Elem().Set(v.Elem())
		c.detach(dst.Elem())
		return dst
	}
}

// A comparer compares two values as [reflect.DeepEqual] does, with a list in place of
// recursion, because a row may be deeper than a stack. Values are equal if all pairs of their parts are, so the
// order in which pairs are compared does not matter, and each is compared once.
type comparer struct {
	seen map[comparison]bool
	todo [][2]reflect.Value // pairs of references, or of what interfaces hold
}

// A comparison is two references of one type and length.
type comparison struct {
	a reference
	b uintptr
}

// deepEqual is [reflect.DeepEqual] of the pointers to two rows.
func deepEqual(a, b reflect.Value) bool {
	var c comparer
	equal := a.Pointer() == b.Pointer() || c.equal(a.Elem(), b.Elem())
	for equal && len(c.todo) > 0 {
		last := len(c.todo) - 1
		next := c.todo[last]
		c.todo = c.todo[:last]
		equal = c.equalElems(next[0], next[1])
	}
	return equal
}

// equal compares two values of one type, and puts what they refer to on the list.
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

// equalHeld compares what two interfaces hold.
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
	}
	switch a.Type().Elem().Kind() {
	case reflect.Array, reflect.Struct, reflect.Interface, reflect.Map, reflect.Slice, reflect.Pointer:
		if p := (comparison{referenceOf(a), b.Pointer()}); !c.seen[p] {
			if c.seen == nil {
				c.seen = make(map[comparison]bool)
			}
			c.seen[p] = true
			c.todo = append(c.todo, [2]reflect.Value{a, b})
		}
		return true
	default: // they lead nowhere
		return c.equalElems(a, b)
	}
}

// equalElems compares what is in two maps, slices or interfaces of one length, or what
// two pointers point to.
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
