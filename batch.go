package changefeed

import "slices"

// A batcher is a [consumer] for a loop that takes several changes at a time. It lasts as
// long as its stream: what a panic kept from being handed over comes in the next range.
//
// The changes in front are the batch. Behind them are, from next on, those that were
// read and that the predicate has not seen; between the two, nothing of interest.
type batcher[K, V any] struct {
	feed  *feed[K, V]
	max   int
	yield func([]Change[V], error) bool // of the range under way

	changes []Change[V]
	kept    int // length of the batch
	next    int
	used    int // elements of changes' array, from its start, that may refer to rows
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

func (b *batcher[K, V]) drain(s source[V]) bool {
	for {
		b.filter()
		switch {
		case b.feed.ctx.Err() != nil:
			return true
		case b.kept >= b.max:
			if _, more := b.flush(); !more {
				return false
			}
			continue
		}
		s.take(b.feed.ctx, &b.changes, b.max-b.kept)
		if len(b.changes) == b.kept {
			return true
		}
	}
}

// project moves what was read to the batch, as the feed is to see it. It stops when
// the context is done.
func (b *batcher[K, V]) filter() {
	f := b.feed
	b.used = max(b.used, len(b.changes))
	if f.keep == nil {
		b.kept, b.next = len(b.changes), len(b.changes)
		return
	}
	for b.next < len(b.changes) && f.ctx.Err() == nil {
		c := b.changes[b.next]
		b.next++ // before, for the predicate may panic
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
	if !b.feed.project(&c) {
		return true
	}
	b.changes = append(b.changes, c)
	b.kept, b.next = len(b.changes), len(b.changes)
	if b.kept < b.max {
		return true
	}
	_, more = b.flush()
	return more
}

func (b *batcher[K, V]) flush() (flushed, more bool) {
	if b.kept == 0 {
		b.release() // nothing may come for long
		return false, true
	}
	b.used = max(b.used, b.kept)
	batch := b.changes[:b.kept]
	b.changes, b.kept, b.next = b.changes[:0], 0, 0
	return true, b.yield(slices.Clip(batch), nil) // the consumer has its elements until the loop goes on
}

func (b *batcher[K, V]) fail(err error) bool {
	b.used = max(b.used, len(b.changes))
	b.kept, b.next = 0, 0
	b.release()
	return b.yield(nil, err)
}

// release lets go of what was read, and of the space of many, when there is no batch.
func (b *batcher[K, V]) release() { b.changes, b.used = recycle(b.changes[:b.used]), 0 }

func (b *batcher[K, V]) pending() bool { return b.kept > 0 || b.next < len(b.changes) }
