package natsfeed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
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
	decoder decoder
	needed  uint64 // the number that a snapshot must have at least, or 0

	mu sync.Mutex
	// The goroutine alone changes these.
	next    uint64        // the sequence number of the next message
	resume  uint64        // the same, but of the first part of a commit that is not complete
	at      begin         // the lineages of the tables
	changed chan struct{} // closed when one of them changes
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
		r.decoder = decoder{}
		err := r.readLog(r.ctx, r.resume, r.receive)
		if errors.Is(err, errFellOff) {
			err = r.bootstrap()
		}
		if r.ctx.Err() != nil {
			r.end(ErrClosed)
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

func (r *Replica) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	close(r.changed)
}

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
		r.move(func() { r.next, r.resume, r.at = numbers[0]+1, numbers[0]+1, lineages })
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

// beginAnew is called if a message does not lead from what the tables have to what the publisher has.
// A snapshot that has it is needed.
func (r *Replica) beginAnew() error {
	r.needed = r.next
	return errFellOff
}

// receive takes a message.
func (r *Replica) receive(sequence uint64, message []byte) error {
	b, c, err := r.decoder.decode(message)
	if err != nil {
		return fmt.Errorf("the message %d is damaged: %w", sequence, err)
	}
	if b != nil {
		err = r.receiveBegin(b)
	}
	if err == nil && len(c) > 0 {
		err = r.receiveCommit(c)
	}
	if err == nil {
		r.move(func() {
			r.next = sequence + 1
			if len(r.decoder.parts) == 0 {
				r.resume = r.next
			}
		})
	}
	return err
}

// receiveBegin compares the positions of the tables with those of the publisher.
func (r *Replica) receiveBegin(lineages begin) error {
	for name, theirs := range lineages {
		mine := r.at[name]
		if len(mine) > 0 && has(mine, last(theirs)) {
			continue // a snapshot may be later than the message
		}
		if len(mine) == 0 || !has(theirs, last(mine)) || last(theirs).Seq != last(mine).Seq {
			return r.beginAnew()
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
			return r.beginAnew()
		}
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range missing {
		r.at.extend(p.table, changefeed.Position{History: p.history, Seq: p.last()})
	}
	return nil
}

// Promote makes the replica the publisher. It has everything that JetStream has acknowledged, and the
// publisher before it is refused from then on ([ErrFenced]). The histories of the tables get a new
// name, because that publisher may have shown changes to others that are not in the log: see
// [changefeed.Table.Fork]. Feeds of the tables go on, and so do the other replicas.
//
// Promote does not find out whether the other publisher is well. If two replicas are promoted, the
// later one remains. After an error, the replica goes on as one if it is [ErrClosed] or the context's
// error.
func (r *Replica) Promote(ctx context.Context) (*Publisher, error) {
	p, err := r.promote(ctx)
	if err != nil {
		return nil, fmt.Errorf("natsfeed: promote %q: %w", r.name, err)
	}
	return p, nil
}

func (r *Replica) promote(ctx context.Context) (*Publisher, error) {
	for {
		message, err := r.lastMessage(ctx)
		if err != nil {
			return nil, err
		}
		var last uint64
		if message != nil {
			last = message.Sequence
		}
		if err := r.waitNext(ctx, last+1); err != nil {
			return nil, err
		}
		fenced, err := r.fence(ctx, last)
		if err != nil {
			return nil, err
		}
		if fenced {
			r.stop()
			<-r.done
			for _, t := range r.tables {
				t.fork()
			}
			p, err := r.newPublisher(last + 1)
			if err != nil {
				return nil, err
			}
			return p, p.start(ctx)
		}
	}
}

// waitNext waits until the replica has the messages before the one with a number.
func (r *Replica) waitNext(ctx context.Context, next uint64) error {
	for {
		r.mu.Lock()
		ok, changed, err := r.next >= next, r.changed, r.err
		r.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fence adds a message to the log, after the last one. It returns false if that is not the last one
// any more.
func (r *Replica) fence(ctx context.Context, last uint64) (ok bool, err error) {
	h := header{kind: fenceMessage}
	_, _ = rand.Read(h.publisher[:])
	m := &nats.Msg{Subject: r.subject, Data: h.append(nil)}
	err = persist(ctx, func(ctx context.Context) error {
		_, err := r.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequence(last))
		return err
	})
	api, refused := errors.AsType[*jetstream.APIError](err)
	if !refused || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
		return err == nil, err
	}
	message, err := r.lastMessage(ctx)
	if err != nil || message == nil {
		return false, err
	}
	var present header
	_, err = present.parse(message.Data)
	return present == h, err // an earlier attempt, whose acknowledgement was lost
}
