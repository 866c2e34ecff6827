package changefeed

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// A Change is one write to a row of a table, as its subscribers see it and as the
// write returns it.
//
// Old and New point to the rows that the table stores. They never change again,
// and must not be changed by whoever gets them.
type Change[V any] struct {
	Seq  uint64 // position in the table's history: 1, 2, 3, ... without gaps
	Kind Kind
	Old  *V // the row before; nil for an insert
	New  *V // the row after; nil for a delete
}

// Row returns the row that the change is about: New, or Old for a delete; nil for
// the zero Change, which comes with an error.
func (c Change[V]) Row() *V {
	if c.New == nil {
		return c.Old
	}
	return c.New
}

// MarshalJSON returns {"old_val": ..., "new_val": ...}, with null for a row that
// is not there, as RethinkDB writes a change: without Seq and Kind.
func (c Change[V]) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Old *V `json:"old_val"`
		New *V `json:"new_val"`
	}{c.Old, c.New})
}

// A Kind tells what a write did to its row.
type Kind uint8

const (
	None   Kind = iota // nothing: the row was and is equal to what was written
	Insert             // the row is new
	Update             // the row was there, and is another one now
	Delete             // the row is gone
)

// String returns "none", "insert", "update" or "delete".
func (k Kind) String() string {
	switch k {
	case None:
		return "none"
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// DefaultBuffer is the number of changes buffered for a subscriber, as in
// RethinkDB.
const DefaultBuffer = 100_000

// A FeedOption is an option of [Table.Changes]. Of an option that is given twice,
// the last one counts.
type FeedOption func(*feedConfig)

type feedConfig struct {
	name   string
	buffer int
}

// Buffer sets how many changes are buffered for the subscriber, in place of
// [DefaultBuffer]. If n is below 1, the stream yields [ErrInvalidOption] and ends.
//
// A buffer costs memory only for what is in it, and changes that several
// subscribers of a table have not read yet are held once for all of them.
func Buffer(n int) FeedOption { return func(c *feedConfig) { c.buffer = n } }

// Named gives the subscriber a name for [Table.Feeds].
func Named(name string) FeedOption { return func(c *feedConfig) { c.name = name } }

func newFeedConfig(opts []FeedOption) (feedConfig, error) {
	c := feedConfig{buffer: DefaultBuffer}
	for _, opt := range opts {
		if opt == nil {
			panic("changefeed: Table.Changes: nil option; leave it out")
		}
		opt(&c)
	}
	if c.buffer < 1 {
		return c, fmt.Errorf("%w: Buffer(%d): must be at least 1", ErrInvalidOption, c.buffer)
	}
	return c, nil
}

// Changes subscribes to the table and returns the stream of all changes made from
// now on, in the order of their sequence numbers: it follows RethinkDB's
// table.changes(). A write made before the first range is not lost.
//
// A range waits when there is nothing to read. To break out of the loop pauses it:
// ranging again goes on after the last change handed out, and so it does after a
// panic in the loop's body. The stream is for one goroutine at a time: a second
// range while one runs panics. It holds no lock while the loop's body runs, so the
// body may write to the same table.
//
// Of the changes not yet handed to the loop the newest are buffered, up to
// [Buffer]. Where older ones had to make room, the stream yields a [*SkippedError]
// and goes on. The writers never wait for a subscriber.
//
// The subscription ends, and with it the range, with one of these errors, which is
// then the only pair of every later range:
//
//   - the cause of ctx, when ctx is done. This comes before anything still buffered.
//   - [ErrTableDropped], when the table is dropped, after everything still buffered.
//   - [ErrInvalidOption], at once, for an option that cannot be.
//
// It also ends when the stream is garbage, so one that is forgotten costs nothing
// once the collector has seen it; but cancel ctx where you can. Changes panics if
// ctx is nil.
func (t *Table[K, V]) Changes(ctx context.Context, opts ...FeedOption) Stream[Change[V]] {
	if ctx == nil {
		panic("changefeed: Table.Changes: nil context; pass context.Background() to follow without an end")
	}
	config, err := newFeedConfig(opts)
	s := &subscription[V]{feeds: &t.feeds, table: t.name, name: config.name}
	if err == nil {
		err = t.subscribe(s, config.buffer)
	}
	if err != nil {
		return failed[Change[V]](fmt.Errorf("changefeed: changes of %q: %w", t.name, err))
	}
	t.feeds.add(s)
	return newFeed(ctx, s).changes
}

// A subscription is what a table and a context know of a subscriber.
type subscription[V any] struct {
	window window[Change[V]]
	feeds  *feedSet[V]
	table  string
	name   string
	number uint64 // in order of subscription
	seq    uint64 // of the last change before the subscription
	unhook func() bool
}

// end ends the subscription, from any goroutine. To end it again does nothing. F4
func (s *subscription[V]) end() {
	s.feeds.remove(s)
	s.window.close()
}

// seqAt returns the sequence number of the change at a position in the ring, which
// holds every change of the table since the subscription.
func (s *subscription[V]) seqAt(pos uint64) uint64 { return s.seq + 1 + pos - s.window.start }

// forget is end for a subscription that its context did not end: it also takes the
// context's hook back.
func (s *subscription[V]) forget() {
	s.unhook()
	s.end()
}

// A feed is the subscriber's side of a subscription, which a stream owns. Its ring,
// the table and the context refer to the subscription only, so that the feed is
// garbage when its stream is. Of each feed it holds:
//
//	F1  Its changes come in sequence order, each at most once; a gap is told once,
//	    with its exact size, before the first change after it.
//	F2  Subscribing and its position are one step: nothing is missed, nothing double.
//	F3  Who waits while there is something to read is woken, also when others leave
//	    or are slow.
//	F4  After the context is done or the table dropped, every waiting loop ends;
//	    nothing of it stays behind.
type feed[V any] struct {
	ctx     context.Context
	sub     *subscription[V]
	ranging atomic.Bool
	final   error // nil until the feed has ended
}

func newFeed[V any](ctx context.Context, sub *subscription[V]) *feed[V] {
	f := &feed[V]{ctx: ctx, sub: sub}
	sub.unhook = context.AfterFunc(ctx, sub.end)
	runtime.AddCleanup(f, (*subscription[V]).forget, sub)
	return f
}

// changes is the feed's stream.
func (f *feed[V]) changes(yield func(Change[V], error) bool) {
	if !f.ranging.CompareAndSwap(false, true) {
		panic("changefeed: a second range over a stream while one runs; call Changes for each goroutine")
	}
	defer f.ranging.Store(false) // this also keeps f from being collected until here
	w := &f.sub.window
	for f.final == nil {
		if !w.deliver(f.ctx, yield) {
			return
		}
		if f.ctx.Err() != nil {
			f.finish(context.Cause(f.ctx))
			break
		}
		from := f.sub.seqAt(w.pos.Load())
		switch c, skipped, ok := w.read(); {
		case ok:
			if !yield(c, nil) {
				return
			}
		case skipped > 0: // F1
			if !yield(Change[V]{}, &SkippedError{Count: skipped, From: from, To: c.Seq - 1}) {
				return
			}
		case w.drained() && f.ctx.Err() == nil: // else w may be closed, and have missed some
			f.finish(fmt.Errorf("changefeed: changes of %q: %w", f.sub.table, ErrTableDropped))
		default:
			w.wait()
		}
	}
	yield(Change[V]{}, f.final)
}

func (f *feed[V]) finish(err error) {
	f.final = err
	f.sub.forget()
}

// A FeedInfo tells how a subscriber is doing. Since it subscribed, Delivered +
// Skipped + Buffered changes were made.
type FeedInfo struct {
	Name      string // see [Named]
	Buffered  int    // changes waiting to be read
	Capacity  int    // of the buffer, see [Buffer]
	Delivered uint64 // changes handed to the loop
	Skipped   uint64 // changes lost, those included that no [SkippedError] has told of yet; a change being taken at that moment may count here
	Seq       uint64 // sequence number of the last change read, or told to be skipped, or made before the subscription
}

// Feeds tells of each subscription that has not ended, in the order in which they
// were made. After a drop, one stays listed until its loop has read the final error. Each FeedInfo
// is exact, but they are not all of one moment. Feeds takes time in proportion to
// their number; a writer does not wait for more than one of them.
func (t *Table[K, V]) Feeds() []FeedInfo {
	subs := t.feeds.all()
	infos := make([]FeedInfo, len(subs))
	for i, s := range subs {
		u := s.window.usage()
		infos[i] = FeedInfo{
			Name:      s.name,
			Buffered:  int(u.buffered),
			Capacity:  int(s.window.limit),
			Delivered: u.delivered,
			Skipped:   u.skipped,
			Seq:       s.seqAt(u.pos) - 1,
		}
	}
	return infos
}

// A feedSet is the set of a table's subscriptions. It has a lock of its own, so that
// no writer waits for who lists them, and a subscription can end while the table's
// lock is held. The zero value is empty.
type feedSet[V any] struct {
	mu     sync.Mutex // a leaf; guards what follows
	set    map[*subscription[V]]struct{}
	number uint64 // of the last one added
}

func (f *feedSet[V]) add(s *subscription[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.set == nil {
		f.set = make(map[*subscription[V]]struct{})
	}
	f.number++
	s.number = f.number
	f.set[s] = struct{}{}
}

func (f *feedSet[V]) remove(s *subscription[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, s)
}

// all returns the subscriptions, oldest first.
func (f *feedSet[V]) all() []*subscription[V] {
	f.mu.Lock()
	subs := slices.Collect(maps.Keys(f.set))
	f.mu.Unlock()
	slices.SortFunc(subs, func(a, b *subscription[V]) int { return cmp.Compare(a.number, b.number) })
	return subs
}
