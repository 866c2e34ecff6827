package natsfeed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A Replica keeps tables replicas of those that somebody publishes: see [Follow].
type Replica struct {
	*feed
	ctx  context.Context // until Close
	stop context.CancelFunc
	done chan struct{}

	// These belong to the goroutine.
	next   uint64 // the sequence number of the next message
	needed uint64 // the number that a snapshot must have at least, or 0
	parts  []byte // of a commit whose last part is to come
	from   publisherID

	mu      sync.Mutex
	at      begin         // the lineages of the tables
	changed chan struct{} // closed when at changes
	err     error
}

// Follow makes tables replicas of those that are published under a name. It returns when they have the
// rows. Whatever was in them before is gone: see [changefeed.Table.Reset]. ctx is for the start only.
func Follow(ctx context.Context, js jetstream.JetStream, name string, opts ...Option) (*Replica, error) {
	f, err := newFeed(js, name, opts)
	if err == nil {
		err = f.open(ctx, false)
	}
	if err != nil {
		return nil, followError(name, err)
	}
	r := &Replica{feed: f, done: make(chan struct{}), changed: make(chan struct{})}
	r.ctx, r.stop = context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, r.stop)
	if err := r.bootstrap(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		r.stop()
		return nil, followError(name, err)
	}
	if !stop() {
		return nil, followError(name, context.Cause(ctx))
	}
	go r.run()
	return r, nil
}

func followError(name string, err error) error {
	return fmt.Errorf("natsfeed: follow %q: %w", name, err)
}

// Close ends the replication. The tables remain as they are.
func (r *Replica) Close() {
	r.stop()
	<-r.done
}

// Wait waits until the replica has each of the positions.
func (r *Replica) Wait(ctx context.Context, positions ...changefeed.Position) error {
	for _, position := range positions {
		for {
			r.mu.Lock()
			ok, changed, err := r.at.has(position), r.changed, r.err
			r.mu.Unlock()
			if ok {
				break
			}
			if err != nil {
				return fmt.Errorf("natsfeed: wait for %q: %w", r.name, err)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// run is the goroutine of the replica.
func (r *Replica) run() {
	defer close(r.done)
	for {
		err := r.follow()
		if errors.Is(err, errFellOff) {
			err = r.bootstrap()
		}
		if r.ctx.Err() != nil {
			r.mu.Lock()
			r.err = ErrClosed
			close(r.changed)
			r.mu.Unlock()
			return
		}
		if err != nil {
			r.onError(followError(r.name, err))
			select {
			case <-r.ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// errFellOff says that the log does not lead from what the tables have to the present.
var errFellOff = errors.New("the log has not all of the messages")

// bootstrap makes the tables those of the newest snapshot. If there is none that is new enough, it
// waits for one.
func (r *Replica) bootstrap() error {
	return persist(r.ctx, func(context.Context) error {
		numbers, err := r.snapshotNumbers(r.ctx)
		if err != nil {
			return err
		}
		if len(numbers) == 0 || numbers[0] < r.needed {
			return errNotPublished
		}
		reset, lineages, err := r.readSnapshot(r.ctx, numbers[0])
		if errors.Is(err, jetstream.ErrObjectNotFound) {
			return errNotPublished // it was deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := changefeed.Transact(reset, r.anyTables()...); err != nil {
			return err
		}
		r.next, r.parts = numbers[0]+1, nil
		r.move(func() { r.at = lineages })
		return nil
	})
}

// move changes the positions that Wait compares with.
func (r *Replica) move(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// follow reads the log until that fails.
func (r *Replica) follow() error {
	var consumer jetstream.Consumer
	err := persist(r.ctx, func(ctx context.Context) error {
		info, err := r.log.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.FirstSeq > r.next {
			return r.fallOff(info.State.FirstSeq - 1)
		}
		consumer, err = r.log.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next,
		})
		return err
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(r.ctx, messages.Stop)()
	for {
		m, err := messages.Next()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		switch sequence := meta.Sequence.Stream; {
		case sequence < r.next:
			continue
		case sequence > r.next: // JetStream goes on silently behind what was purged
			return r.fallOff(sequence - 1)
		}
		if err := r.receive(m.Data()); err != nil {
			return err
		}
		r.next++
	}
}

// fallOff is called if the messages up to the one with a number are not in the log, or do not help.
func (r *Replica) fallOff(number uint64) error {
	r.needed = number
	return errFellOff
}

// receive takes a message.
func (r *Replica) receive(message []byte) error {
	var h header
	data, err := h.parse(message)
	if err != nil {
		return fmt.Errorf("the message %d is damaged: %w", r.next, err)
	}
	if h.publisher != r.from || h.kind == beginMessage {
		r.from, r.parts = h.publisher, nil
	}
	switch h.kind {
	case beginMessage:
		lineages, err := parseBegin(data)
		if err != nil {
			return fmt.Errorf("the message %d is damaged: %w", r.next, err)
		}
		return r.receiveBegin(lineages)
	case partMessage:
		r.parts = append(r.parts, data...)
	case commitMessage:
		if len(r.parts) > 0 {
			data = append(r.parts, data...)
			r.parts = nil
		}
		c, err := parseCommit(data)
		if err != nil {
			return fmt.Errorf("the message %d is damaged: %w", r.next, err)
		}
		return r.receiveCommit(c)
	default:
		return fmt.Errorf("the message %d is of an unknown kind %d", r.next, h.kind)
	}
	return nil
}

// receiveBegin compares the positions of the tables with those of the publisher.
func (r *Replica) receiveBegin(lineages begin) error {
	for name, theirs := range lineages {
		mine := r.at[name]
		if len(mine) > 0 && has(mine, last(theirs)) {
			continue // a snapshot may be later than the message
		}
		if len(mine) == 0 || !has(theirs, last(mine)) || last(theirs).Seq != last(mine).Seq {
			return r.fallOff(r.next)
		}
		i := slices.IndexFunc(theirs, func(p changefeed.Position) bool { return p.History == last(mine).History })
		for _, p := range theirs[i+1:] {
			if err := r.named[name].forkTo(p); err != nil {
				return err
			}
		}
		r.move(func() { r.at[name] = theirs })
	}
	return nil
}

// receiveCommit makes the changes of a commit, all at one moment. A snapshot may have them already.
func (r *Replica) receiveCommit(c commit) error {
	var tables []changefeed.AnyTable
	var missing commit
	for _, p := range c {
		t := r.named[p.table]
		if t == nil {
			return fmt.Errorf("table %q: it is published, but was not passed to Follow", p.table)
		}
		if has(r.at[p.table], changefeed.Position{History: p.history, Seq: p.last()}) {
			continue
		}
		missing = append(missing, p)
		if !slices.Contains(tables, t.any()) {
			tables = append(tables, t.any())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	err := changefeed.Transact(func(tx *changefeed.Tx) error {
		for i := range missing {
			p := &missing[i]
			if err := r.named[p.table].apply(tx, p, max(last(r.at[p.table]).Seq, p.first-1)); err != nil {
				return err
			}
		}
		return nil
	}, tables...)
	for _, cause := range []error{changefeed.ErrOtherHistory, changefeed.ErrGap, changefeed.ErrDiverged} {
		if errors.Is(err, cause) {
			r.onError(followError(r.name, err))
			return r.fallOff(r.next)
		}
	}
	if err != nil {
		return err
	}
	r.move(func() {
		for _, p := range missing {
			r.at.extend(p.table, changefeed.Position{History: p.history, Seq: p.last()})
		}
	})
	return nil
}
