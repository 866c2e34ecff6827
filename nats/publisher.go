package natsfeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A Publisher sends the changes of tables to JetStream: see [Publish].
type Publisher struct {
	*feed
	commits changefeed.Stream[changefeed.Commit]
	wake    chan struct{}
	urgent  chan struct{} // somebody waits
	stop    context.CancelFunc
	ctx     context.Context // until Close
	done    chan struct{}

	// These belong to the goroutine.
	log     *logWriter
	commit  commit                         // the last one, whose memory is used again
	batch   []byte                         // the commits of the next message
	ends    map[string]changefeed.Position // the last changes in it, by table
	next    lineages                       // what the log leads to, with the batch
	behind  bool                           // the tables are not there
	changes int                            // published since the last snapshot
	due     bool                           // a snapshot is needed, whatever the number of changes is
	gap     uint64                         // the number of the last gapMessage, if it is not closed, or 0
	taking  chan error                     // the snapshot that is being made, or nil
	taken   uint64                         // the number of the last message that it certainly has
	retry   <-chan time.Time               // when a snapshot is tried again
	ticker  *time.Ticker                   // for what wakes nobody: a Fork, and another publisher

	mu      sync.Mutex
	began   bool          // the log has the positions of the tables
	logged  lineages      // what the log leads to
	safe    lineages      // if not nil, what a new replica could have: there is a gap before logged
	changed chan struct{} // closed when one of these changes
	trouble error         // the last one, for Publish
	err     error
}

// maxBatch is the size in bytes from which on a message takes no more commits.
const maxBatch = 128 << 10

// A publisher is busy after at least busyFrom changes since it last had nothing to do. It then gathers
// more of them for a moment, unless somebody waits. So there are fewer messages, and they take less of
// the processors from the writers (BenchmarkWriter).
const (
	busyFrom = 32
	gathers  = 2 * time.Millisecond
)

// Publish makes this process the publisher of tables under a name. It makes the streams for the log
// and the snapshots, if they do not exist. It returns when JetStream has all rows.
//
// If somebody has published under the name before, the tables must have everything that JetStream has.
// Otherwise Publish returns [ErrPublished], and the program follows the log, and promotes the replica:
// see [Replica.Promote]. The publisher before is fenced. The histories of the tables get new names, as
// by [changefeed.Table.Fork].
//
// ctx is for the start only. Give it a timeout, because Publish tries until it ends.
func Publish(ctx context.Context, js jetstream.JetStream, name string, opts ...Option) (*Publisher, error) {
	f, err := newFeed(js, name, opts)
	if err != nil {
		return nil, publishError(name, err)
	}
	p, err := f.publish(ctx)
	if err != nil {
		return nil, publishError(name, err)
	}
	return p, nil
}

func publishError(name string, err error) error {
	return fmt.Errorf("natsfeed: publish %q: %w", name, err)
}

func (f *feed) publish(ctx context.Context) (*Publisher, error) {
	if err := f.open(ctx, true); err != nil {
		return nil, err
	}
	published, err := f.published(ctx)
	if err != nil {
		return nil, err
	}
	for name, l := range published.safe {
		t := f.named[name]
		if t == nil {
			return nil, fmt.Errorf("table %q: %w: it was not passed", name, ErrPublished)
		}
		if at := l.last(); !t.lineage().has(at) && at.Seq > 0 {
			return nil, fmt.Errorf("table %q: %w: up to %v", name, ErrPublished, at)
		}
	}
	if len(published.safe) > 0 {
		f.fork()
	}
	p := f.newPublisher(newRandomID(), published)
	go p.run()
	if err := p.waitFor(ctx, func() (bool, error) { return p.began && p.safe == nil, p.trouble }); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// fork gives the histories of the tables new names. The publisher before may have shown changes to
// others that are not in the log.
func (f *feed) fork() {
	for _, t := range f.tables {
		t.fork()
	}
}

// newPublisher returns a publisher that goes on from what was published. It follows the tables already.
func (f *feed) newPublisher(id randomID, published *publication) *Publisher {
	p := &Publisher{
		feed: f, wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), done: make(chan struct{}),
		log:  newLogWriter(f, id, max(published.term+1, uint64(time.Now().Unix())), &published.end),
		ends: make(map[string]changefeed.Position), next: published.next.clone(), behind: true, due: published.bare,
		ticker: time.NewTicker(time.Second), logged: published.safe.clone(), changed: make(chan struct{}),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.commits = changefeed.Commits(p.ctx, f.anyTables(), changefeed.Named("nats"), changefeed.Buffer(f.buffer), changefeed.Poll(p.wake))
	return p
}

// Close ends the publisher. It does not publish what is left: to lose nothing, stop the writers first,
// and [Publisher.Wait] for the positions of the tables.
func (p *Publisher) Close() {
	p.stop()
	<-p.done
}

// Done returns a channel that is closed when the publisher has ended: after [ErrFenced], when a table
// is dropped, and after Close.
func (p *Publisher) Done() <-chan struct{} { return p.done }

// Err returns the reason why the publisher has ended, and nil before that.
func (p *Publisher) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Wait waits until JetStream has acknowledged the changes up to each of the positions, so that they
// remain if this process ends. A position of another history is an error,
// [changefeed.ErrOtherHistory].
func (p *Publisher) Wait(ctx context.Context, positions ...changefeed.Position) error {
	if err := p.waitHas(ctx, p.acknowledged, positions...); err != nil {
		return fmt.Errorf("natsfeed: wait for %q: %w", p.name, err)
	}
	return nil
}

// acknowledged returns the lineages that a new replica could have. The caller has p.mu.
func (p *Publisher) acknowledged() lineages {
	if p.safe != nil {
		return p.safe
	}
	return p.logged
}

// waitHas waits until lineages, which it gets with p.mu, have positions of the tables.
func (p *Publisher) waitHas(ctx context.Context, get func() lineages, positions ...changefeed.Position) error {
	for _, position := range positions {
		err := p.waitFor(ctx, func() (bool, error) {
			ok := get().has(position)
			if !ok && !slices.ContainsFunc(p.tables, func(t table) bool { return t.lineage().mayHave(position) }) {
				return false, fmt.Errorf("%w: %v", changefeed.ErrOtherHistory, position)
			}
			return ok, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// waitFor waits until a condition holds, which it calls with p.mu.
func (p *Publisher) waitFor(ctx context.Context, condition func() (bool, error)) error {
	for {
		p.mu.Lock()
		ok, err := condition()
		changed := p.changed
		if p.err != nil {
			err = p.err
		}
		p.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case p.urgent <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run is the goroutine of the publisher.
func (p *Publisher) run() {
	defer close(p.done)
	defer p.ticker.Stop()
	for {
		before := p.changes
		err := p.publish()
		if err == nil {
			published := p.changes - before
			p.snapshot()
			err = p.wait(published >= busyFrom && published < p.buffer/10)
		}
		if p.ctx.Err() != nil {
			err = ErrClosed
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrClosed) && !errors.Is(err, changefeed.ErrOtherHistory) { // after a Reset, it begins anew
			p.report(err)
		}
		if errors.Is(err, ErrClosed) || errors.Is(err, ErrFenced) || errors.Is(err, changefeed.ErrTableDropped) {
			p.end(err)
			return
		}
		if errors.Is(err, errLost) {
			p.next = nil
			p.move(func() { p.safe = make(lineages) })
		}
		p.behind = true
	}
}

// report reports an error after which the publisher goes on, or ends.
func (p *Publisher) report(err error) {
	p.move(func() { p.trouble = err })
	p.onError(publishError(p.name, err))
}

// end ends the publisher with an error, from which it does not recover.
func (p *Publisher) end(err error) {
	p.stop()
	if p.taking != nil {
		<-p.taking
	}
	p.mu.Lock()
	p.err = err
	close(p.changed)
	p.mu.Unlock()
}

// wait waits until there is something to do. If the publisher is busy, it lets changes gather.
func (p *Publisher) wait(busy bool) error {
	wake, gathered := p.wake, (<-chan time.Time)(nil)
	if busy {
		wake, gathered = nil, time.After(gathers)
	}
	select {
	case <-wake:
	case <-gathered:
	case <-p.urgent:
		return p.publishNames()
	case <-p.ticker.C:
		return cmp.Or(p.publishNames(), p.log.check(p.ctx))
	case err := <-p.taking:
		p.taking = nil
		if err != nil {
			if !errors.Is(err, changefeed.ErrOtherHistory) { // a Reset has come in between
				p.report(fmt.Errorf("snapshot: %w", err))
			}
			p.due, p.retry = true, time.After(time.Second)
		} else if p.gap > 0 && p.taken >= p.gap {
			return p.close()
		}
	case <-p.retry:
		p.retry = nil
	case <-p.ctx.Done():
	}
	return nil
}

// publish publishes the commits that are ready.
func (p *Publisher) publish() error {
	if p.behind {
		if err := p.begin(); err != nil {
			return err
		}
	}
	for commit, err := range p.commits {
		if err == nil {
			err = p.add(commit)
		}
		if err != nil {
			err = errors.Join(p.flush(), err)
		} else if len(p.batch) >= maxBatch {
			err = p.flush()
		}
		if _, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			p.next = nil
			err = p.begin()
		}
		if err != nil {
			return err
		}
	}
	return p.flush()
}

// begin publishes the present positions of the tables. If the log does not lead there, replicas need a
// snapshot, and nothing is acknowledged until there is one.
func (p *Publisher) begin() error {
	present := make(lineages)
	err := changefeed.Read(func(tx *changefeed.Tx) error {
		for _, t := range p.tables {
			present[t.any().Name()] = t.lineageIn(tx)
		}
		return nil
	}, p.anyTables()...)
	if err != nil {
		return err
	}
	kind := namesMessage
	if !p.next.leadTo(present) {
		kind, p.due, p.gap = gapMessage, true, p.log.number+1
		p.mu.Lock()
		if p.safe == nil {
			p.safe = p.logged.clone()
		}
		p.mu.Unlock()
	}
	p.next = present
	if err := p.publishLineages(kind); err != nil {
		return err
	}
	p.behind = false
	return nil
}

// publishLineages publishes the positions that the log leads to.
func (p *Publisher) publishLineages(kind messageKind) error {
	if err := p.log.append(p.ctx, kind, p.next.json()); err != nil {
		return err
	}
	p.move(func() { p.began, p.logged = true, p.next.clone() })
	return nil
}

// close ends the gap before a snapshot. Its message is in the log only if nobody was promoted before
// there was the snapshot.
func (p *Publisher) close() error {
	if err := p.publishLineages(closeMessage); err != nil {
		return err
	}
	p.gap = 0
	p.move(func() { p.safe = nil })
	return nil
}

// move changes what others wait for.
func (p *Publisher) move(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

// publishNames publishes the names that histories have got since, without a change.
func (p *Publisher) publishNames() error {
	renamed := false
	for _, t := range p.tables {
		name := t.any().Name()
		live, published := t.lineage(), p.next[name]
		if !live.has(published.last()) {
			continue
		}
		if live = live.upTo(published.last().Seq); !slices.Equal(live, published) {
			p.next[name], renamed = live, true
		}
	}
	if renamed {
		return p.publishLineages(namesMessage)
	}
	return nil
}

// add adds a commit to the batch. Changes that the last gapMessage shows already are left out.
func (p *Publisher) add(made changefeed.Commit) error {
	c := p.commit[:0]
	for i := range made {
		change := &made[i]
		name, at := change.Table.Name(), change.Position()
		if p.next[name].has(at) {
			continue
		}
		if p.next[name].last().History != at.History {
			if err := p.flush(); err != nil {
				return err
			}
			if err := p.publishNames(); err != nil {
				return err
			}
			if p.next[name].last().History != at.History {
				return fmt.Errorf("table %q: %w: %v", name, changefeed.ErrOtherHistory, at)
			}
		}
		row, err := p.named[name].encode(change)
		if err != nil {
			return err
		}
		c = c.with(name, p.named[name].version(), at, encodedChange{change.Kind, row})
	}
	if p.commit = c; len(made) > 64 {
		p.commit = nil // it may be large
	}
	for i := range c {
		at := changefeed.Position{History: c[i].history, Seq: c[i].last()}
		p.next.extend(c[i].table, at)
		p.ends[c[i].table] = at
		p.changes += len(c[i].changes)
	}
	if len(c) > 0 {
		p.batch = c.append(p.batch)
	}
	return nil
}

// flush publishes the batch.
func (p *Publisher) flush() error {
	if len(p.batch) == 0 {
		return nil
	}
	data := p.batch
	if p.batch = p.batch[:0]; cap(p.batch) > 8*maxBatch {
		p.batch = nil
	}
	defer clear(p.ends)
	if err := p.log.append(p.ctx, commitMessage, data); err != nil {
		return err
	}
	p.move(func() {
		for name, at := range p.ends {
			p.logged.extend(name, at)
		}
	})
	return nil
}

// snapshot begins to make a snapshot, if it is time for one.
func (p *Publisher) snapshot() {
	if p.taking != nil || p.retry != nil {
		return
	}
	if !p.due && (p.changes < p.every || p.changes < p.rows()) {
		return
	}
	p.due, p.changes, p.taken = false, 0, p.log.number
	after := p.log.place()
	taking := make(chan error, 1)
	p.taking = taking
	go func() {
		err := p.writeSnapshot(p.ctx, after, p.confirm)
		if err == nil {
			err = p.deleteSnapshots(p.ctx)
		}
		taking <- err
		close(taking)
	}()
}

// rows returns the number of rows of all tables. It waits for writers.
func (p *Publisher) rows() (n int) {
	for _, t := range p.tables {
		n += t.any().Len()
	}
	return n
}

// confirm waits until the log has all that a snapshot has. Otherwise the snapshot could have changes
// that no other publisher will ever have.
func (p *Publisher) confirm(s *snapshot) error {
	return p.waitHas(p.ctx, func() lineages { return p.logged }, s.ends()...)
}
