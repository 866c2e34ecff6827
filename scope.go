package changefeed

import "math/rand/v2"

// A scope is what feeds have in common that follow the same part of a table: one
// ring for those that read every change, and the squashes of those that do not. A
// write finds the scopes that its row is in by the row's key and by the values that
// it has in the indexes; it does not offer itself to each feed, nor to each scope.
//
// A table has one scope for all of it. The others come with their first feed and go
// with their last: that of one row stands in the row's [cell], those of
// ranges are in an [intervals].
//
// All fields but the ring's own are guarded by the table's lock.
type scope[K, V any] struct {
	ring     ring[Change[V]]
	squashes []*squash[K, V]
	feeds    int32 // that hold it

	was, is bool // while a write is made: its row was in the scope before, is in it after
}

// newScope returns the scope of a part of a table. Not all of the table's changes
// are in its ring, so their sequence numbers, which seqOf returns, are what tells the
// place of a feed.
func newScope[K, V any](seqOf func(c Change[V]) uint64) *scope[K, V] {
	return &scope[K, V]{ring: ring[Change[V]]{number: seqOf}}
}

func (s *scope[K, V]) addSquash(q *squash[K, V]) {
	q.place = len(s.squashes)
	s.squashes = append(s.squashes, q)
}

// removeSquash puts the last one in q's place.
func (s *scope[K, V]) removeSquash(q *squash[K, V]) {
	end := len(s.squashes) - 1
	last := s.squashes[end]
	s.squashes[q.place], last.place = last, q.place
	s.squashes[end] = nil
	s.squashes = s.squashes[:end]
}

// An event is a change as a scope's squashes see it.
type event[K, V any] struct {
	scope  *scope[K, V]
	key    K
	change Change[V]
}

// An outbox is what is to be done when a write, or a transaction, is published. It is
// guarded by the table's lock.
type outbox[K, V any] struct {
	rings   []*ring[Change[V]] // in which something was put
	events  []event[K, V]
	entered []*scope[K, V]  // scopes that a write comes upon by an index
	begun   []*squash[K, V] // whose publication has begun
}

// add takes note of a change for the feeds of s.
func (o *outbox[K, V]) add(s *scope[K, V], key K, c Change[V]) {
	if r := &s.ring; r.tail.Load() != nil {
		if !r.unpublished() {
			o.rings = append(o.rings, r)
		}
		r.put(c)
	}
	if len(s.squashes) > 0 {
		o.events = append(o.events, event[K, V]{s, key, c})
	}
}

// enter takes note that the row of the write under way was in s before it, or is in
// it after it. Several values of the row may lead to one scope.
func (o *outbox[K, V]) enter(s *scope[K, V], is bool) {
	if !s.was && !s.is {
		o.entered = append(o.entered, s)
	}
	s.was, s.is = s.was || !is, s.is || is
}

// addEntered adds c for the scopes that were entered, each as it sees it: a row that
// comes into a scope is an insert there, and one that leaves it a delete.
func (o *outbox[K, V]) addEntered(key K, c Change[V]) {
	for _, s := range o.entered {
		o.add(s, key, c.seenFrom(s.was, s.is))
		s.was, s.is = false, false
	}
	o.entered = emptied(o.entered)
}

// seenFrom returns the change of a row that was in a selection before it, or is in
// it after it, as the selection sees it.
func (c Change[V]) seenFrom(was, is bool) Change[V] {
	switch {
	case is && !was && c.Kind == Update:
		c.Kind, c.Old = Insert, nil
	case was && !is && c.Kind == Update:
		c.Kind, c.New = Delete, nil
	}
	return c
}

// publish shows the feeds what was added, so that none of them sees one of several
// changes without the others. It returns whom the caller has to wake when it holds no
// lock.
func (o *outbox[K, V]) publish() (w waking[V]) {
	for i := range o.events {
		e := &o.events[i]
		for _, s := range e.scope.squashes {
			if s.begin() {
				o.begun = append(o.begun, s)
			}
			s.add(e.key, e.change)
		}
	}
	for _, r := range o.rings {
		if r.unpublished() { // else its last window was closed meanwhile
			r.publish()
			w.add(r)
		}
	}
	for _, s := range o.begun {
		s.end()
	}
	o.empty()
	return w
}

// discard takes back what was added.
func (o *outbox[K, V]) discard() {
	for _, r := range o.rings {
		r.takeBack()
	}
	o.empty()
}

func (o *outbox[K, V]) empty() {
	o.rings = emptied(o.rings)
	if len(o.events) > 0 {
		o.events, o.begun = emptied(o.events), emptied(o.begun)
	}
}

// maxSpare is the number of elements for which space is kept that is not in use.
const maxSpare = 256

// emptied returns s without its elements, for others to come: nothing that they refer
// to is held, nor the space of many.
func emptied[E any](s []E) []E {
	if cap(s) > maxSpare {
		return nil
	}
	clear(s)
	return s[:0]
}

// A waking is the rings in which somebody waits for what was published.
type waking[V any] struct {
	first *ring[Change[V]] // most often there is none, or one
	more  []*ring[Change[V]]
}

// add takes note of a ring. One in which nobody waits now needs none: who comes to
// wait later looks at the ring's end first.
func (w *waking[V]) add(r *ring[Change[V]]) {
	switch {
	case r.parked.Load() == 0:
	case w.first == nil:
		w.first = r
	default:
		w.more = append(w.more, r)
	}
}

// wake wakes one in each ring. T6: one, whatever the crowd; without the table's
// lock, for who wakes wants to read.
func (w *waking[V]) wake() {
	if w.first == nil {
		return
	}
	w.first.wake(1)
	for _, r := range w.more {
		r.wake(1)
	}
}

// An interval is a part of an ordered set of keys or values.
type interval[B any] struct {
	from, to B
	extent   extent
}

type extent uint8

const (
	everything extent = iota
	onwards           // from, and what comes after it
	between           // from, and what comes after it and before to
	point             // from alone
)

// contains reports whether b is in the interval.
func (iv *interval[B]) contains(b B, order func(a, b B) int) bool {
	return iv.extent == everything || order(iv.from, b) <= 0 && !iv.endsBefore(b, order)
}

// endsBefore reports whether b lies behind the interval's last element.
func (iv *interval[B]) endsBefore(b B, order func(a, b B) int) bool {
	switch iv.extent {
	case between:
		return order(iv.to, b) <= 0
	case point:
		return order(iv.from, b) < 0
	}
	return false
}

// compareEnds compares where two intervals end.
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

// An intervals is a set of scopes, each of one interval, in which those that contain
// an element are found in time in proportion to their number and to the logarithm of
// the number of all: an interval tree, that is a treap in the order of where the
// intervals begin (and end), in which each node knows the furthest end below it.
type intervals[B, K, V any] struct {
	order func(a, b B) int
	seqOf func(c Change[V]) uint64 // see newScope
	root  *intervalNode[B, K, V]
}

type intervalNode[B, K, V any] struct {
	interval    interval[B]
	scope       *scope[K, V]
	priority    uint64                 // random; no lower one is above a higher one
	left, right *intervalNode[B, K, V] // earlier and later ones
	furthest    *interval[B]           // the one of the node and those below that ends last
}

func (t *intervals[B, K, V]) compare(a, b *interval[B]) int {
	if a.extent == everything || b.extent == everything {
		panic("changefeed: an interval tree is for intervals that begin somewhere")
	}
	if c := t.order(a.from, b.from); c != 0 {
		return c
	}
	return compareEnds(a, b, t.order)
}

// scope returns the scope of an interval, a new one if there is none.
func (t *intervals[B, K, V]) scope(iv *interval[B]) *scope[K, V] {
	for n := t.root; n != nil; {
		switch c := t.compare(iv, &n.interval); {
		case c == 0:
			return n.scope
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	n := &intervalNode[B, K, V]{interval: *iv, scope: newScope[K](t.seqOf), priority: rand.Uint64()}
	n.furthest = &n.interval
	t.root = t.insert(t.root, n)
	return n.scope
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

// remove takes the scope of an interval out.
func (t *intervals[B, K, V]) remove(iv *interval[B]) { t.root = t.removeBelow(t.root, iv) }

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

// merge returns a tree of all of a and, after them, all of b.
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

// update finds the furthest end again, when a node has got other children.
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

func (t *intervals[B, K, V]) findBelow(n *intervalNode[B, K, V], b B, visit func(s *scope[K, V])) {
	if n == nil || n.furthest.endsBefore(b, t.order) {
		return
	}
	t.findBelow(n.left, b, visit)
	if t.order(n.interval.from, b) > 0 {
		return // and so begin all to the right
	}
	if !n.interval.endsBefore(b, t.order) {
		visit(n.scope)
	}
	t.findBelow(n.right, b, visit)
}
