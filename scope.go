package changefeed

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

	before, after bool // while a write is made: its row was in the scope before, is in it after
}

// newScope returns the scope of a part of a table. Not all of the table's changes
// are in its ring, so their sequence numbers, which seqOf returns, are what tells the
// place of a feed.
func newScope[K, V any](seqOf func(c Change[V]) uint64) *scope[K, V] {
	return &scope[K, V]{ring: ring[Change[V]]{seqOf: seqOf}}
}

func (s *scope[K, V]) addSquash(q *squash[K, V]) {
	q.index = len(s.squashes)
	s.squashes = append(s.squashes, q)
}

// removeSquash puts the last one in q's place.
func (s *scope[K, V]) removeSquash(q *squash[K, V]) {
	end := len(s.squashes) - 1
	last := s.squashes[end]
	s.squashes[q.index], last.index = last, q.index
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
	touched []*scope[K, V]  // scopes that a write comes upon by an index
	begun   []*squash[K, V] // whose publication has begun
}

// add takes note of a change for the feeds of s.
func (o *outbox[K, V]) add(s *scope[K, V], key K, c Change[V]) {
	if r := &s.ring; r.keeps() {
		if !r.unpublished() {
			o.rings = append(o.rings, r)
		}
		r.putTableLocked(c)
	}
	if len(s.squashes) > 0 {
		o.events = append(o.events, event[K, V]{s, key, c})
	}
}

// enter takes note that the row of the write under way was in s before it, or is in
// it after it. Several values of the row may lead to one scope.
func (o *outbox[K, V]) touch(s *scope[K, V], is bool) {
	if !s.before && !s.after {
		o.touched = append(o.touched, s)
	}
	s.before, s.after = s.before || !is, s.after || is
}

// addEntered adds c for the scopes that were entered, each as it sees it: a row that
// comes into a scope is an insert there, and one that leaves it a delete.
func (o *outbox[K, V]) addTouched(key K, c Change[V]) {
	for _, s := range o.touched {
		o.add(s, key, c.within(s.before, s.after))
		s.before, s.after = false, false
	}
	o.touched = recycle(o.touched)
}

// publish shows the feeds what was added, so that none of them sees one of several
// changes without the others. It returns whom the caller has to wake when it holds no
// lock.
func (o *outbox[K, V]) publish() (w wakeList[V]) {
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
			r.publishTableLocked()
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
		r.discardTableLocked()
	}
	o.empty()
}

func (o *outbox[K, V]) empty() {
	o.rings = recycle(o.rings)
	if len(o.events) > 0 {
		o.events, o.begun = recycle(o.events), recycle(o.begun)
	}
}

// maxSpare is the number of elements for which space is kept that is not in use.
const maxRecycledCap = 256

// emptied returns s without its elements, for others to come: nothing that they refer
// to is held, nor the space of many.
func recycle[E any](s []E) []E {
	if cap(s) > maxRecycledCap {
		return nil
	}
	clear(s)
	return s[:0]
}

// A waking is the rings in which somebody waits for what was published.
type wakeList[V any] struct {
	first *ring[Change[V]] // most often there is none, or one
	more  []*ring[Change[V]]
}

// add takes note of a ring. One in which nobody waits now needs none: who comes to
// wait later looks at the ring's end first.
func (w *wakeList[V]) add(r *ring[Change[V]]) {
	switch {
	case !r.hasWaiting():
	case w.first == nil:
		w.first = r
	default:
		w.more = append(w.more, r)
	}
}

// wake wakes one in each ring. T6: one, whatever the crowd; without the table's
// lock, for who wakes wants to read.
func (w *wakeList[V]) wake() {
	if w.first == nil {
		return
	}
	w.first.wake(1)
	for _, r := range w.more {
		r.wake(1)
	}
}
