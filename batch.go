package changefeed

import "slices"

// A batcher is a [consumer] for a loop that receives changes in batches. It lives as long
// as its stream, not for one range: if a panic keeps changes from being delivered, the
// next range delivers them.
//
// changes[:kept] is the batch. changes[next:] has been read, but the predicate has not
// seen it yet. The elements between the two are no longer needed.
type batcher[K, V any] struct {
	feed  *feed[K, V]
	max   int
	yield func([]Change[V], error) bool // of the current range

	changes []Change[V]
	kept    int
	next    int
	used    int // this many elements of the array of changes may refer to rows
}

// batches is the feed's stream of batches.
func (f *feed[K, V]) batches(max int) Stream[[]Change[V]] {
	b := &batcher[K, V]{feed: f, max: max}
	return func(yield func([]Change[V], error) bool) {
		f.begin()
		b.yield = yield
		defer func() {
			b.yield = nil
			f.end(b)
		}()
		f.run(b)
	}
}

func (b *batcher[K, V]) drain(r reader[V]) bool {
	for {
		b.filter()
		if len(b.changes) == 0 {
			b.feed.handOutAll(0) // the predicate left all of it out
		}
		switch {
		case b.feed.ctx.Err() != nil:
			return true
		case b.kept >= b.max:
			if _, more := b.flush(); !more {
				return false
			}
			continue
		}
		r.take(b.feed.ctx, &b.changes, b.max-b.kept)
		if len(b.changes) == b.kept {
			return true
		}
	}
}

// filter moves the changes that were read to the batch, each as the feed reports it. It
// stops when the context is done.
func (b *batcher[K, V]) filter() {
	f := b.feed
	b.used = max(b.used, len(b.changes))
	if f.keepsAll() {
		b.kept, b.next = len(b.changes), len(b.changes)
		return
	}
	for b.next < len(b.changes) && f.ctx.Err() == nil {
		c := b.changes[b.next]
		b.next++ // first, because the predicate may panic
		if f.project(&c) {
			b.changes[b.kept] = c
			b.kept++
		}
	}
	if b.next == len(b.changes) {
		b.changes, b.next = b.changes[:b.kept], b.kept
	}
}

func (b *batcher[K, V]) add(c Change[V]) (more bool) {
	b.changes = append(b.changes, c)
	return b.filterAndFlush()
}

func (b *batcher[K, V]) addInitial(i *initialRows[K, V]) (more bool) {
	b.filter() // a panic may have left some
	for b.feed.ctx.Err() == nil {
		rows := i.take(max(b.max-b.kept, 1))
		if len(rows) == 0 {
			break
		}
		for _, row := range rows {
			b.changes = append(b.changes, Change[V]{Kind: Initial, New: row})
		}
		if !b.filterAndFlush() {
			return false
		}
	}
	return true
}

// filterAndFlush delivers the batch if it is full.
func (b *batcher[K, V]) filterAndFlush() (more bool) {
	b.filter()
	if b.kept < b.max {
		return true
	}
	_, more = b.flush()
	return more
}

func (b *batcher[K, V]) flush() (flushed, more bool) {
	if b.kept == 0 {
		b.release() // the next change may be far off
		return false, true
	}
	b.used = max(b.used, b.kept)
	b.feed.handOutAll(b.changes[b.kept-1].Seq)
	batch := b.changes[:b.kept]
	b.changes, b.kept, b.next = b.changes[:0], 0, 0
	return true, b.yield(slices.Clip(batch), nil) // the loop may modify it, and append to it
}

func (b *batcher[K, V]) fail(err error) bool {
	b.used = max(b.used, len(b.changes))
	b.kept, b.next = 0, 0
	b.release()
	return b.yield(nil, err)
}

// release clears the array of changes, or drops it if it is large. The batch must be empty.
func (b *batcher[K, V]) release() { b.changes, b.used = recycle(b.changes[:b.used]), 0 }

func (b *batcher[K, V]) pending() bool { return b.kept > 0 || b.next < len(b.changes) }
