package changefeed

import (
	"errors"
	"slices"
)

// A batcher collects the changes of a feed for a loop that takes several at a time.
type batcher[K, V any] struct {
	feed *feed[K, V]
	max  int

	batch []Change[V] // to hand out
	taken []Change[V] // behind it: read, and not yet looked at; if the predicate panics, the next range goes on with it
	dirty int         // elements of batch's array, from its start, that may still refer to what was read
}

// A batchLoop is one range over the batches of a feed.
type batchLoop[K, V any] struct {
	*batcher[K, V]
	yield func([]Change[V], error) bool
}

// batches is the feed's stream of batches.
func (f *feed[K, V]) batches(max int) Stream[[]Change[V]] {
	b := &batcher[K, V]{feed: f, max: max}
	return func(yield func([]Change[V], error) bool) {
		l := &batchLoop[K, V]{b, yield}
		f.run(l.add, l)
	}
}

// deliver hands out what is in the window, as window.deliver does it with elements.
func (l *batchLoop[K, V]) deliver() bool {
	f := l.feed
	for f.ctx.Err() == nil {
		if len(l.taken) == 0 {
			if !l.flushIfFull() {
				return false
			}
			n := len(l.batch)
			all := f.sub.window.take(f.ctx, l.batch, max(1, l.max-n)) // 1: the transaction goes on, on another page
			l.batch, l.taken = all[:n], all[n:]
			l.dirty = max(l.dirty, len(all)) // also of what the predicate will not keep
			if len(l.taken) == 0 {
				return true
			}
		}
		l.see()
	}
	return true
}

// see moves what was taken to the batch, as the feed is to see it. It leaves off when
// the context is done.
func (l *batchLoop[K, V]) see() {
	f := l.feed
	if f.keep == nil {
		l.batch, l.taken = l.batch[:len(l.batch)+len(l.taken)], nil
		return
	}
	for len(l.taken) > 0 && f.ctx.Err() == nil {
		c := l.taken[0]
		l.taken = l.taken[1:]
		if f.see(&c) {
			l.batch = append(l.batch, c)
		}
	}
}

// left reports whether a panic has left something to hand out.
func (l *batchLoop[K, V]) left() bool { return len(l.batch) > 0 || len(l.taken) > 0 }

// add takes the next pair of the feed.
func (l *batchLoop[K, V]) add(c Change[V], err error) bool {
	if err != nil {
		return l.fail(err)
	}
	if l.feed.see(&c) {
		l.batch = append(l.batch, c)
	}
	return l.flushIfFull()
}

// fail hands out an error, after what comes before it.
func (l *batchLoop[K, V]) fail(err error) bool {
	f := l.feed
	if f.ctx.Err() != nil {
		l.batch, l.taken, l.dirty = nil, nil, 0
	}
	f.untold, _ = errors.AsType[*SkippedError](err) // F1, if the loop is left before; a final error comes again by itself
	if _, more := l.flush(); !more {
		return false
	}
	f.untold = nil
	l.release()
	return l.yield(nil, err)
}

// release lets go of what was read, and of the space of many, when there is no batch.
func (l *batchLoop[K, V]) release() { l.batch, l.dirty = emptied(l.batch[:l.dirty]), 0 }

func (l *batchLoop[K, V]) flushIfFull() (more bool) {
	if len(l.batch) < l.max || l.feed.joined() {
		return true
	}
	_, more = l.flush()
	return more
}

// flush hands out the batch, unless it is empty: then nothing may come for long.
func (l *batchLoop[K, V]) flush() (flushed, more bool) {
	if len(l.batch) == 0 {
		l.release()
		return false, true
	}
	l.dirty = max(l.dirty, len(l.batch))
	handed := l.batch
	l.batch = l.batch[:0] // the consumer has its elements until the loop goes on
	return true, l.yield(slices.Clip(handed), nil)
}
