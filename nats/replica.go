package natsfeed

import (
	"cmp"
	"context"
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

	promoting sync.Mutex

	// These belong to the goroutine.
	decoder decoder
	resume  uint64 // the sequence number of the next message, or of the first part of a commit that is not complete
	needed  place  // which the next snapshot must have at least
	refused uint64 // the sequence number of the last message that the tables could not take

	mu      sync.Mutex
	next    place         // the next message, in the term of the last one. The goroutine alone changes it
	at      lineages      // of the tables. The goroutine alone changes it
	target  uint64        // the sequence number that Follow or Promote waits for, or 0
	final   bool          // the replica has all that it can get up to the target
	changed chan struct{} // closed when one of these changes
	trouble error         // the last one, for Follow
	err     error
}

// Follow makes tables replicas of those that are published under a name. It waits for somebody to
// publish them, and returns when the tables have everything that JetStream had acknowledged to the
// publisher before the call: see [Publisher.Wait]. ctx is for the start only. Give it a timeout, because
// Follow tries until it ends.
//
// What was in the tables before is gone: see [changefeed.Table.Reset]. From then on, nobody else may
// write to them. After another write, a change of the publisher may be lost, until the replica notices
// the write with the next change, and begins anew with a snapshot.
func Follow(ctx context.Context, js jetstream.JetStream, name string, opts ...Option) (*Replica, error) {
	f, err := newFeed(js, name, opts)
	if err != nil {
		return nil, followError(name, err)
	}
	r, err := f.follow(ctx)
	if err != nil {
		return nil, followError(name, err)
	}
	return r, nil
}

func followError(name string, err error) error {
	return fmt.Errorf("natsfeed: follow %q: %w", name, err)
}

func (f *feed) follow(ctx context.Context) (*Replica, error) {
	if err := f.open(ctx, false); err != nil {
		return nil, err
	}
	end, err := f.findEnd(ctx)
	if err != nil {
		return nil, err
	}
	r := &Replica{feed: f, done: make(chan struct{}), target: end.sequence, changed: make(chan struct{})}
	r.ctx, r.stop = context.WithCancel(context.Background())
	go r.run()
	if err := r.waitFor(ctx, func() (bool, error) { return r.hasTarget(), r.trouble }); err != nil {
		r.Close()
		return nil, err
	}
	r.move(func() { r.target = 0 })
	return r, nil
}

// hasTarget reports whether the replica has the messages up to the target, or all of them that it can
// get. The caller has r.mu.
func (r *Replica) hasTarget() bool { return r.next.sequence > r.target || r.final }

// Close ends the replication. The tables remain as they are.
func (r *Replica) Close() {
	r.stop()
	<-r.done
}

// Done returns a channel that is closed when the replica has ended: after [Replica.Promote], when a
// table is dropped, and after Close.
func (r *Replica) Done() <-chan struct{} { return r.done }

// Err returns the reason why the replica has ended, and nil before that.
func (r *Replica) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Wait waits until the replica has each of the positions. It returns [changefeed.ErrOtherHistory] for
// a position after which the history has gone on without the change. A position of an unknown history
// may still come, by a Reset of the publisher's tables.
func (r *Replica) Wait(ctx context.Context, positions ...changefeed.Position) error {
	for _, position := range positions {
		err := r.waitFor(ctx, func() (bool, error) {
			if r.at.has(position) {
				return true, nil
			}
			for _, l := range r.at {
				if l.isPast(position) {
					return false, fmt.Errorf("%w: %v", changefeed.ErrOtherHistory, position)
				}
			}
			return false, nil
		})
		if err != nil {
			return fmt.Errorf("natsfeed: wait for %q: %w", r.name, err)
		}
	}
	return nil
}

// Behind asks JetStream how many messages of the log the replica does not have yet. A message has one
// commit, or many.
func (r *Replica) Behind(ctx context.Context) (messages uint64, err error) {
	info, err := r.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("natsfeed: behind of %q: %w", r.name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(info.State.LastSeq+1, r.next.sequence) - r.next.sequence, nil
}

// waitFor waits until a condition holds, which it calls with r.mu.
func (r *Replica) waitFor(ctx context.Context, condition func() (bool, error)) error {
	for {
		r.mu.Lock()
		ok, err := condition()
		changed := r.changed
		if r.err != nil {
			err = r.err
		}
		r.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run is the goroutine of the replica.
func (r *Replica) run() {
	defer close(r.done)
	var err error = &beginAnewError{}
	for {
		if anew, ok := errors.AsType[*beginAnewError](err); ok {
			r.needed = anew.needed
			err = r.persist(r.ctx, func(context.Context) error { return r.bootstrap() })
		}
		if err == nil {
			err = r.read()
		}
		if r.ctx.Err() != nil {
			err = ErrClosed
		}
		if _, ok := errors.AsType[*beginAnewError](err); ok {
			continue
		}
		if !errors.Is(err, ErrClosed) {
			r.onError(followError(r.name, err))
		}
		if errors.Is(err, ErrClosed) || errors.Is(err, changefeed.ErrTableDropped) {
			r.move(func() { r.err = err })
			return
		}
		r.move(func() { r.trouble = err })
		select {
		case <-r.ctx.Done():
		case <-time.After(time.Second):
		}
		if err = nil; r.resume == 0 {
			err = &beginAnewError{}
		}
	}
}

// A beginAnewError says that the log does not lead on from what the tables have, so that they need a
// snapshot.
type beginAnewError struct{ needed place }

func (e *beginAnewError) Error() string { return "the tables need a snapshot" }

// read takes the messages of the log.
func (r *Replica) read() error {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	go func() { cancel(r.watchEnd(ctx)) }()
	r.decoder = decoder{}
	err := r.readLog(ctx, r.resume, r.receive)
	if fell, ok := errors.AsType[*fellOffError](err); ok {
		err = &beginAnewError{place{r.next.term, fell.first - 1}}
	}
	return err
}

// watchEnd returns a beginAnewError when the log has lost messages that the replica has, and goes on
// in a later term. JetStream does not say so.
func (r *Replica) watchEnd(ctx context.Context) error {
	var known time.Time // when the last message came that was found to be in order
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(attempt):
		}
		short, cancel := context.WithTimeout(ctx, attempt)
		info, err := r.stream.Info(short)
		cancel()
		if err != nil || info.State.LastTime.Equal(known) {
			continue
		}
		end, err := r.findEnd(ctx)
		if err != nil {
			return err
		}
		r.mu.Lock()
		next := r.next
		r.mu.Unlock()
		if end.sequence < next.sequence && end.header.term > next.term {
			return &beginAnewError{place{end.header.term, 0}}
		}
		known = info.State.LastTime
	}
}

// bootstrap makes the tables those of the newest snapshot. If it is not new enough, it returns
// errNotPublished.
func (r *Replica) bootstrap() error {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	s, err := r.openSnapshot(r.ctx, r.needed)
	if lacksSnapshot(err) && target > 0 && len(r.at) > 0 {
		published, e := r.published(r.ctx)
		if err = cmp.Or(e, err); e == nil && r.at.include(published.safe) {
			r.move(func() { r.final = r.target == target }) // perhaps nobody makes the snapshot any more
		}
	}
	if err != nil {
		return err
	}
	reset, err := r.readRows(s)
	if err != nil {
		return s.failure(err)
	}
	at := r.at
	r.move(func() { r.at = nil }) // the snapshot may lack a position of at, and then Wait must wait for it again
	if err := changefeed.Transact(reset, r.anyTables()...); err != nil {
		r.move(func() { r.at = at })
		return err
	}
	r.resume = s.sequence + 1
	r.move(func() { r.next, r.at = place{s.term, r.resume}, s.lineages() })
	return nil
}

// move changes what others wait for.
func (r *Replica) move(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// receive takes a message.
func (r *Replica) receive(sequence uint64, message []byte) error {
	e, damage := r.decoder.decode(message)
	if errors.Is(damage, errForeign) {
		r.onError(followError(r.name, fmt.Errorf("message %d: %w", sequence, damage)))
	} else if damage != nil {
		return fmt.Errorf("message %d is damaged: %w", sequence, damage)
	}
	term, err := r.next.term, error(nil)
	switch e.kind {
	case gapMessage:
		return &beginAnewError{place{e.term, sequence}}
	case namesMessage, closeMessage:
		term, err = e.term, r.receiveNames(e.lineages)
	case partMessage, commitMessage:
		if e.term != term {
			return &beginAnewError{place{e.term, 0}} // messages of the term are missing
		}
		for _, c := range e.commits {
			if err = r.receiveCommit(c); err != nil {
				break
			}
		}
	}
	if isDiverged(err) {
		anew := &beginAnewError{} // any snapshot may help
		if r.refused == sequence {
			anew.needed = place{e.term, sequence}
		}
		r.refused = sequence
		r.onError(followError(r.name, err))
		return anew
	}
	if err != nil {
		return err
	}
	if len(r.decoder.parts) == 0 {
		r.resume = sequence + 1
	}
	r.move(func() { r.next = place{term, sequence + 1} })
	return nil
}

// isDiverged reports whether the reason for an error is that a table is not what it should be.
func isDiverged(err error) bool {
	return errors.Is(err, changefeed.ErrOtherHistory) || errors.Is(err, changefeed.ErrGap) || errors.Is(err, changefeed.ErrDiverged)
}

// receiveNames gives the histories of the tables the names that those of the publisher have.
func (r *Replica) receiveNames(published lineages) error {
	for name, theirs := range published {
		mine := r.at[name]
		if mine.has(theirs.last()) {
			continue // a snapshot may be later than the message
		}
		names, ok := mine.leadsTo(theirs)
		if !ok {
			return fmt.Errorf("table %q: %w: to %v", name, changefeed.ErrGap, theirs.last())
		}
		for _, p := range names {
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
		if r.at[p.table].has(changefeed.Position{History: p.history, Seq: p.last()}) {
			continue
		}
		if seq := t.seq(); seq != r.at[p.table].last().Seq {
			return fmt.Errorf("table %q: %w: somebody has written to it", p.table, changefeed.ErrDiverged)
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
			if err := r.named[p.table].apply(tx, p, max(r.at[p.table].last().Seq, p.first-1)); err != nil {
				return err
			}
		}
		return nil
	}, tables...)
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
// publisher before it is refused from then on ([ErrFenced]). The histories of the tables get new names,
// because that publisher may have shown changes to others that are not in the log: see
// [changefeed.Table.Fork]. Feeds of the tables go on, and so do the other replicas. The Replica itself
// is closed.
//
// Promote refuses the other publisher first. Then it takes the messages that the replica does not have
// yet, so the one that is nearest to the end of the log is the fastest to promote: see
// [Replica.Behind]. Promote does not find out whether the other publisher is well. If two replicas are
// promoted, the later one remains. After an error other than [ErrClosed], the replica goes on as one,
// and perhaps nobody is the publisher: promote it again, or another one.
func (r *Replica) Promote(ctx context.Context) (*Publisher, error) {
	r.promoting.Lock()
	defer r.promoting.Unlock()
	p, err := r.promote(ctx)
	if err != nil {
		return nil, fmt.Errorf("natsfeed: promote %q: %w", r.name, err)
	}
	return p, nil
}

func (r *Replica) promote(ctx context.Context) (*Publisher, error) {
	if err := cmp.Or(r.Err(), ctx.Err()); err != nil {
		return nil, err
	}
	h := header{kind: fenceMessage, publisher: newRandomID()}
	var fence uint64
	err := r.persist(ctx, func(ctx context.Context) error {
		ack, err := r.js.PublishMsg(ctx, &nats.Msg{Subject: r.subject, Data: h.append(nil)})
		if err == nil {
			fence = ack.Sequence
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	r.move(func() { r.target, r.final = fence, false })
	if err := r.waitFor(ctx, func() (bool, error) { return r.hasTarget(), nil }); err != nil {
		r.move(func() { r.target = 0 })
		return nil, err
	}
	r.Close()
	r.feed.fork()
	published := &publication{end: logEnd{fence, h}, term: max(r.next.term, r.needed.term), next: r.at, safe: r.at}
	if r.final || r.next.sequence != fence+1 {
		published.next = nil // the log does not lead to what the tables have
	}
	p := r.newPublisher(h.publisher, published)
	go p.run()
	return p, nil
}
