package changefeed

// A scope is shared by all feeds that follow the same part of a table. It has one ring
// for the feeds that read every change, and the squashes of the feeds that do not. A
// write looks up the scopes of its row, by the row's key and by its values in the
// indexes. It does not visit the other scopes, nor the feeds.
//
// A table has one scope for all of its rows. Other scopes are made for their first feed
// and removed with their last one. The scope of a single row is in the row's [cell]. The
// scopes of ranges, and of several keys or values, are in an [intervals].
//
// All fields are guarded by the table's lock, except the ring's own.
type scope[K, V any] struct {
	ring     ring[Change[V]]
	squashes []*squash[K, V]
	feeds    int32 // number of feeds that use the scope

	// During a write: whether its row was in the scope before, and is in it after.
	before, after bool
}

// newScope returns the scope of a part of a table. Its ring does not get every change of
// the table. A position in the ring is therefore not a sequence number, and the ring needs
// seqOf, which returns that of a change.
func newScope[K, V any](seqOf func(c Change[V]) uint64) *scope[K, V] {
	return &scope[K, V]{ring: ring[Change[V]]{seqOf: seqOf}}
}

func (s *scope[K, V]) addSquash(q *squash[K, V]) {
	q.index = len(s.squashes)
	s.squashes = append(s.squashes, q)
}

// removeSquash removes q, and moves the last squash to q's position.
func (s *scope[K, V]) removeSquash(q *squash[K, V]) {
	end := len(s.squashes) - 1
	last := s.squashes[end]
	s.squashes[q.index], last.index = last, q.index
	s.squashes[end] = nil
	s.squashes = s.squashes[:end]
}

// An event is a change to be added to a scope's squashes.
type event[K, V any] struct {
	scope  *scope[K, V]
	key    K
	change Change[V]
}

// An outbox collects the changes of a write, or of a transaction, until they are
// published. It is guarded by the table's lock.
type outbox[K, V any] struct {
	rings   []*ring[Change[V]] // rings with unpublished changes
	events  []event[K, V]
	touched []*scope[K, V]   // scopes that the current write reaches through an index
	saved   *savepoint[K, V] // of the cascade that is under way, or nil
	started []*squash[K, V]  // squashes that the current publication has locked
}

// add adds a change for the feeds of s.
func (o *outbox[K, V]) add(s *scope[K, V], key K, c Change[V]) {
	if r := &s.ring; r.keeps() {
		if !r.unpublished() {
			o.rings = append(o.rings, r)
		}
		if o.saved != nil {
			o.saved.rings = append(o.saved.rings, savedRing[V]{r, r.next})
		}
		r.putTableLocked(c)
	}
	if len(s.squashes) > 0 {
		o.events = append(o.events, event[K, V]{s, key, c})
	}
}

// touch records that the row of the current write is in s: after the write if after is
// true, otherwise before it. Several values of the row may lead to the same scope.
func (o *outbox[K, V]) touch(s *scope[K, V], after bool) {
	if !s.before && !s.after {
		o.touched = append(o.touched, s)
	}
	s.before, s.after = s.before || !after, s.after || after
}

// addTouched adds c for the scopes that were touched, relative to each of them: a row that
// enters a scope is an insert there, and a row that leaves it is a delete.
func (o *outbox[K, V]) addTouched(key K, c Change[V]) {
	for _, s := range o.touched {
		o.add(s, key, c.within(s.before, s.after))
		s.before, s.after = false, false
	}
	o.touched = recycle(o.touched)
}

// publish publishes all changes that were added. No feed sees one of them without the
// others. The caller must call wake on the returned list when it holds no lock.
func (o *outbox[K, V]) publish() (w wakeList[V]) {
	if len(o.rings)+len(o.events) == 0 {
		return w
	}
	for i := range o.events {
		e := &o.events[i]
		for _, s := range e.scope.squashes {
			if s.begin() {
				o.started = append(o.started, s)
			}
			s.add(e.key, e.change)
		}
	}
	for _, r := range o.rings {
		if r.unpublished() { // otherwise the ring's last window was closed meanwhile
			r.publishTableLocked()
			w.add(r)
		}
	}
	for _, s := range o.started {
		s.end()
	}
	o.empty()
	return w
}

// discard drops all changes that were added.
func (o *outbox[K, V]) discard() {
	for _, r := range o.rings {
		r.discardTableLocked()
	}
	o.empty()
}

func (o *outbox[K, V]) empty() {
	o.rings = recycle(o.rings)
	if len(o.events) > 0 {
		o.events, o.started = recycle(o.events), recycle(o.started)
	}
}

// maxRecycledCap is the capacity of the largest array that recycle keeps.
const maxRecycledCap = 256

// recycle returns an empty slice to be filled again. It reuses the array of s unless that
// is large. It clears the array, so that nothing is retained that the elements refer to.
func recycle[E any](s []E) []E {
	if cap(s) > maxRecycledCap {
		return nil
	}
	clear(s)
	return s[:0]
}

// A wakeList lists the rings in which a loop waits for a change that was published.
type wakeList[V any] struct {
	first *ring[Change[V]] // usually the only one, or nil
	more  []*ring[Change[V]]
	sets  []*commitSet // that have the change
	views []func()     // wake the loops of the table's views, and of the table
}

// add adds a ring if a loop waits in it. If none does now, no wake is necessary: a loop
// that begins to wait later looks at the ring's end first.
func (w *wakeList[V]) add(r *ring[Change[V]]) {
	switch {
	case !r.hasWaiting():
	case w.first == nil:
		w.first = r
	default:
		w.more = append(w.more, r)
	}
}

// isEmpty reports whether no loop waits.
func (w *wakeList[V]) isEmpty() bool { return w.first == nil && w.sets == nil && w.views == nil }

// later returns wake. Only a list that is not empty then needs memory.
func (w wakeList[V]) later() func() { return w.wake }

// wake wakes one loop in each ring, however many wait (T6). The caller must not hold the
// table's lock, because a loop that wakes may use the table.
func (w *wakeList[V]) wake() {
	wakeSets(w.sets)
	for _, f := range w.views {
		f()
	}
	if w.first == nil {
		return
	}
	w.first.wake(1)
	for _, r := range w.more {
		r.wake(1)
	}
}
