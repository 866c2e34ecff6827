package changefeed

import (
	"math/rand/v2"
	"slices"
)

// An interval is a part of an ordered set of keys or values.
type interval[B any] struct {
	from, to B
	extent   extent
}

type extent uint8

const (
	unbounded extent = iota // all elements
	onwards                 // from and all elements after it
	between                 // from and all elements after it, but before to
	point                   // only from
)

// contains reports whether b is in the interval.
func (iv *interval[B]) contains(b B, order func(a, b B) int) bool {
	return iv.extent == unbounded || order(iv.from, b) <= 0 && !iv.endsBefore(b, order)
}

// endsBefore reports whether b is after the interval's last element.
func (iv *interval[B]) endsBefore(b B, order func(a, b B) int) bool {
	switch iv.extent {
	case between:
		return order(iv.to, b) <= 0
	case point:
		return order(iv.from, b) < 0
	}
	return false
}

// compareEnds compares the ends of two intervals.
func compareEnds[B any](a, b *interval[B], order func(a, b B) int) int {
	end := func(iv *interval[B]) (to B, side int) {
		switch iv.extent {
		case between:
			return iv.to, 0
		case point:
			return iv.from, 1
		}
		return to, 2
	}
	aTo, aSide := end(a)
	bTo, bSide := end(b)
	if aSide == 2 || bSide == 2 {
		return aSide - bSide
	}
	if c := order(aTo, bTo); c != 0 {
		return c
	}
	return aSide - bSide
}

// An intervals is a set of scopes, each for one interval, or for several points. Finding the scopes that contain
// an element takes time in proportion to their number, and to the logarithm of the number
// of all scopes.
//
// It is an interval tree: a treap in the order of the intervals' starts, and then of their
// ends. Each node stores the furthest end of itself and all nodes below it.
type intervals[B, K, V any] struct {
	order func(a, b B) int
	seqOf func(c Change[V]) uint64 // see newScope
	root  *intervalNode[B, K, V]
}

type intervalNode[B, K, V any] struct {
	interval    interval[B]
	scope       *scope[K, V]           // of the interval, or nil
	sets        []*scope[K, V]         // of sets of points of which the interval is one
	priority    uint64                 // random, and at least that of both children
	left, right *intervalNode[B, K, V] // earlier and later intervals
	furthest    *interval[B]           // of this node and all below it, the interval that ends last
}

func (t *intervals[B, K, V]) compare(a, b *interval[B]) int {
	if a.extent == unbounded || b.extent == unbounded {
		panic("changefeed: an interval tree cannot hold an unbounded interval")
	}
	if c := t.order(a.from, b.from); c != 0 {
		return c
	}
	return compareEnds(a, b, t.order)
}

// scope returns the scope of an interval. If there is none, it adds a new one.
func (t *intervals[B, K, V]) scope(iv *interval[B]) *scope[K, V] {
	n := t.node(iv)
	if n.scope == nil {
		n.scope = newScope[K](t.seqOf)
	}
	return n.scope
}

// remove removes the scope of an interval.
func (t *intervals[B, K, V]) remove(iv *interval[B]) {
	n := t.node(iv)
	n.scope = nil
	t.removeUnused(n)
}

// addTo adds the scope of a set of points to one of them. removeFrom undoes that.
func (t *intervals[B, K, V]) addTo(iv *interval[B], s *scope[K, V]) {
	n := t.node(iv)
	n.sets = append(n.sets, s)
}

func (t *intervals[B, K, V]) removeFrom(iv *interval[B], s *scope[K, V]) {
	n := t.node(iv)
	n.sets = slices.DeleteFunc(n.sets, func(other *scope[K, V]) bool { return other == s })
	t.removeUnused(n)
}

// node returns the node of an interval. If there is none, it adds a new one.
func (t *intervals[B, K, V]) node(iv *interval[B]) *intervalNode[B, K, V] {
	for n := t.root; n != nil; {
		switch c := t.compare(iv, &n.interval); {
		case c == 0:
			return n
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	n := &intervalNode[B, K, V]{interval: *iv, priority: rand.Uint64()}
	n.furthest = &n.interval
	t.root = t.insert(t.root, n)
	return n
}

func (t *intervals[B, K, V]) removeUnused(n *intervalNode[B, K, V]) {
	if n.scope == nil && len(n.sets) == 0 {
		t.root = t.removeBelow(t.root, &n.interval)
	}
}

func (t *intervals[B, K, V]) insert(at, n *intervalNode[B, K, V]) *intervalNode[B, K, V] {
	if at == nil {
		return n
	}
	if t.compare(&n.interval, &at.interval) < 0 {
		at.left = t.insert(at.left, n)
		if l := at.left; l.priority > at.priority { // rotate
			at.left, l.right = l.right, at
			t.update(at)
			at = l
		}
	} else {
		at.right = t.insert(at.right, n)
		if r := at.right; r.priority > at.priority {
			at.right, r.left = r.left, at
			t.update(at)
			at = r
		}
	}
	t.update(at)
	return at
}

func (t *intervals[B, K, V]) removeBelow(at *intervalNode[B, K, V], iv *interval[B]) *intervalNode[B, K, V] {
	if at == nil {
		return nil
	}
	switch c := t.compare(iv, &at.interval); {
	case c == 0:
		return t.merge(at.left, at.right)
	case c < 0:
		at.left = t.removeBelow(at.left, iv)
	default:
		at.right = t.removeBelow(at.right, iv)
	}
	t.update(at)
	return at
}

// merge returns a tree of all nodes of a and b. All of a must come before b.
func (t *intervals[B, K, V]) merge(a, b *intervalNode[B, K, V]) *intervalNode[B, K, V] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = t.merge(a.right, b)
		t.update(a)
		return a
	default:
		b.left = t.merge(a, b.left)
		t.update(b)
		return b
	}
}

// update computes the furthest end of a node whose children have changed.
func (t *intervals[B, K, V]) update(n *intervalNode[B, K, V]) {
	n.furthest = &n.interval
	for _, child := range []*intervalNode[B, K, V]{n.left, n.right} {
		if child != nil && compareEnds(n.furthest, child.furthest, t.order) < 0 {
			n.furthest = child.furthest
		}
	}
}

// find calls visit for the scope of each interval that contains b.
func (t *intervals[B, K, V]) find(b B, visit func(s *scope[K, V])) { t.findBelow(t.root, b, visit) }

func (n *intervalNode[B, K, V]) visit(visit func(s *scope[K, V])) {
	if n.scope != nil {
		visit(n.scope)
	}
	for _, s := range n.sets {
		visit(s)
	}
}

func (t *intervals[B, K, V]) findBelow(n *intervalNode[B, K, V], b B, visit func(s *scope[K, V])) {
	if n == nil || n.furthest.endsBefore(b, t.order) {
		return
	}
	t.findBelow(n.left, b, visit)
	if t.order(n.interval.from, b) > 0 {
		return // n begins after b, and all nodes to the right begin no earlier
	}
	if !n.interval.endsBefore(b, t.order) {
		n.visit(visit)
	}
	t.findBelow(n.right, b, visit)
}

// A pointSet is a part's keys or values if there are several, and its scope. The scope is in the
// node of each point. All feeds of a Selection share it, because they share the part.
type pointSet[B, K, V any] struct {
	points []B          // in order, each once
	scope  *scope[K, V] // nil: it is not followed; guarded by the table's lock
}

// sortedSet returns a copy of the elements, in order, each once.
func sortedSet[B any](elements []B, order func(a, b B) int) []B {
	set := slices.SortedFunc(slices.Values(elements), order)
	return slices.CompactFunc(set, func(a, b B) bool { return order(a, b) == 0 })
}

func (p *pointSet[B, K, V]) scopeIn(t *intervals[B, K, V]) *scope[K, V] {
	if p.scope == nil {
		p.scope = newScope[K](t.seqOf)
		for _, b := range p.points {
			t.addTo(&interval[B]{from: b, extent: point}, p.scope)
		}
	}
	return p.scope
}

func (p *pointSet[B, K, V]) forgetScopeIn(t *intervals[B, K, V]) {
	for _, b := range p.points {
		t.removeFrom(&interval[B]{from: b, extent: point}, p.scope)
	}
	p.scope = nil
}
