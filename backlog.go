package changefeed

import (
	"context"
	"sync/atomic"
)

// A backlog is the retained changes with which a resumed feed begins: those after the position
// of [After], up to the subscription. It shares the pages of the table's ring, whose published
// slots are not written again (R1). So the backlog is complete from the start, however much is
// written meanwhile, and the changes after it come from the scope of the feed's own part.
//
// The table's ring has all changes of the table. So a change's Seq and the position after it
// differ by the same number for all changes of a backlog.
//
// close and usage are for any goroutine. The other methods are for the reader.
type backlog[V any] struct {
	from    uint64                             // the Seq of the position that was given to After
	skipped uint64                             // number of changes after from that were not retained
	read    atomic.Uint64                      // the Seq of the last change that was read, or reported as skipped
	to      uint64                             // the Seq of the table's last change at the subscription
	offset  uint64                             // the position after a change, less its Seq (it may wrap around)
	pages   atomic.Pointer[[]*page[Change[V]]] // from the page of the next change on, or nil: nothing to read
}

// newBacklogTableLocked returns the backlog of a feed that resumes after from in a table whose
// last change is to. The table's ring is r.
func newBacklogTableLocked[V any](r *ring[Change[V]], from, to uint64) *backlog[V] {
	b := &backlog[V]{from: from, to: to, offset: r.end.Load() - to}
	pages, first := r.retainedPagesTableLocked(to - from)
	b.skipped = first - b.offset - from
	b.read.Store(from)
	if len(pages) > 0 {
		b.pages.Store(&pages)
	}
	return b
}

// unread reports whether there is a change to read. b may be nil.
func (b *backlog[V]) unread() bool { return b != nil && b.pages.Load() != nil }

// deliver calls yield with each change that is left: see [source].
func (b *backlog[V]) deliver(ctx context.Context, yield func(Change[V], error) bool) bool {
	for pages := b.pages.Load(); pages != nil && ctx.Err() == nil; pages = b.pages.Load() {
		p := (*pages)[0]
		c := p.slots[b.slot(p, b.read.Load())]
		b.move(pages, 1)
		if !yield(c, nil) {
			return false
		}
	}
	return true
}

// take appends up to n of the changes that are left, and the rest of the last one's
// transaction: see [source].
func (b *backlog[V]) take(ctx context.Context, to *[]Change[V], n int) {
	if ctx.Err() != nil {
		return
	}
	for pages := b.pages.Load(); pages != nil && n > 0; pages = b.pages.Load() {
		p := (*pages)[0]
		i, slots := b.slot(p, b.read.Load()), min(uint64(len(p.slots)), b.slot(p, b.to))
		j := p.transactionEnd(i+min(uint64(n), slots-i)-1) + 1
		taken := p.slots[i:min(j, slots)]
		*to = append(*to, taken...)
		b.move(pages, uint64(len(taken)))
		if n -= len(taken); j > slots {
			n = max(n, 1) // the transaction goes on on the next page
		}
	}
}

// slot returns the slot of p, or of a page after it, that has the change after the one numbered
// seq.
func (b *backlog[V]) slot(p *page[Change[V]], seq uint64) uint64 { return seq + b.offset - p.first }

// move counts n changes of the first page as read.
func (b *backlog[V]) move(pages *[]*page[Change[V]], n uint64) {
	switch read := b.read.Add(n); read {
	case b.to:
		b.pages.CompareAndSwap(pages, nil)
	case (*pages)[0].end() - b.offset:
		(*pages)[0] = nil
		rest := (*pages)[1:]
		b.pages.CompareAndSwap(pages, &rest) // unless it was closed
	}
}

// reportSkipped is called when the notice of the skipped changes is delivered, before any is
// read. b may be nil.
func (b *backlog[V]) reportSkipped() {
	if b != nil {
		b.read.CompareAndSwap(b.from, b.from+b.skipped) // otherwise it is another notice
	}
}

// usage is like [window.usage]. b may be nil.
func (b *backlog[V]) usage() (u usage) {
	if b == nil {
		return u
	}
	u.passed, u.skipped = b.read.Load(), b.skipped
	next := max(u.passed, b.from+b.skipped)
	u.delivered = next - b.from - b.skipped
	u.buffered = b.to - next
	return u
}

// close drops the changes that are left. b may be nil.
func (b *backlog[V]) close() {
	if b != nil {
		b.pages.Store(nil)
	}
}
