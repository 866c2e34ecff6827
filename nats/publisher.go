package natsfeed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A Publisher sends the changes of tables to JetStream: see [Publish].
type Publisher struct {
	*feed
	async   jetstream.JetStream // whose pending messages are this publisher's alone
	id      publisherID
	commits changefeed.Stream[changefeed.Commit]
	wake    chan struct{}
	urgent  chan struct{} // Wait was called
	stop    context.CancelFunc
	ctx     context.Context // until Close
	done    chan struct{}

	// These belong to the goroutine.
	term    uint64
	before  header        // of the message before the first one
	sent    uint64        // number of the last message that was sent
	offset  uint64        // the sequence number in the log of a message, less its number
	pending []sentMessage // those that are not acknowledged, in order
	size    int           // of these, in bytes
	next    lineages      // what the log leads to, with what was sent
	behind  bool          // the tables are not there: a beginMessage is needed
	changes int           // sent since the last snapshot
	due     bool          // a snapshot is needed, whatever the number of changes is
	gap     uint64        // the number of the last beginMessage that the log does not lead to, or 0
	taking  chan error    // the snapshot that is being made, or nil
	taken   uint64        // the number of the last message that it certainly has
	retry   <-chan time.Time
	forks   *time.Ticker // a Fork wakes nobody

	mu      sync.Mutex
	number  uint64        // number of the last message that was acknowledged
	logged  lineages      // what was acknowledged leads to
	safe    lineages      // if not nil, what a new replica could have: there is a gap before logged
	changed chan struct{} // closed when one of these changes
	err     error
}

// A sentMessage is a message that JetStream has not acknowledged yet.
type sentMessage struct {
	data     []byte
	future   jetstream.PubAckFuture
	lineages lineages                       // of a beginMessage
	closes   uint64                         // of a beginMessage: the gap that is closed
	ends     map[string]changefeed.Position // of a commitMessage
}

const (
	maxPending     = 4096
	maxPendingSize = 16 << 20
	ackTimeout     = 2 * time.Second
)

// Publish makes this process the publisher of tables under a name. It makes the log and the object
// store, if they do not exist. It returns when JetStream has all rows. If somebody has published under
// the name before, the tables must have everything that JetStream has. Otherwise Publish returns
// [ErrPublished], and the program follows the log instead, and promotes the replica: see
// [Replica.Promote]. ctx is for the start only.
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
	published, term, end, err := f.published(ctx)
	if err != nil {
		return nil, err
	}
	for name, l := range published {
		t := f.named[name]
		if t == nil {
			return nil, fmt.Errorf("table %q: %w: it was not passed", name, ErrPublished)
		}
		if at := l.last(); !t.lineage().has(at) && at.Seq > 0 {
			return nil, fmt.Errorf("table %q: %w: up to %v", name, ErrPublished, at)
		}
	}
	p := f.newPublisher(published, term, end)
	go p.run()
	if err := p.waitFor(ctx, func() (bool, error) { return p.number > 0 && p.safe == nil, nil }); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// newPublisher returns a publisher whose first message comes after the end of the log, which leads to
// published. It follows the tables already.
func (f *feed) newPublisher(published lineages, term uint64, end *logEnd) *Publisher {
	p := &Publisher{
		feed: f, async: asyncOf(f.js), wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), done: make(chan struct{}),
		term: term + 1, before: end.header, offset: end.sequence, next: published.clone(), behind: true,
		forks: time.NewTicker(time.Second), logged: published.clone(), changed: make(chan struct{}),
	}
	_, _ = rand.Read(p.id[:])
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.commits = changefeed.Commits(p.ctx, f.anyTables(), changefeed.Named("nats"), changefeed.Buffer(f.buffer), changefeed.Poll(p.wake))
	return p
}

// asyncOf returns a JetStream like js, whose pending messages are one publisher's alone.
func asyncOf(js jetstream.JetStream) jetstream.JetStream {
	opts := []jetstream.JetStreamOpt{
		jetstream.WithPublishAsyncMaxPending(2 * maxPending),
		jetstream.WithPublishAsyncTimeout(ackTimeout),
	}
	o := js.Options()
	async, err := jetstream.New(js.Conn(), opts...)
	if o.Domain != "" {
		async, err = jetstream.NewWithDomain(js.Conn(), o.Domain, opts...)
	} else if o.APIPrefix != "" {
		async, err = jetstream.NewWithAPIPrefix(js.Conn(), o.APIPrefix, opts...)
	}
	if err != nil {
		panic(err) // the options of js are valid
	}
	return async
}

// Close ends the publisher. Changes that are not acknowledged may be in the log, or not: see [Publisher.Wait].
func (p *Publisher) Close() {
	p.stop()
	<-p.done
}

// Wait waits until JetStream has acknowledged the changes up to each of the positions, so that they
// remain if this process ends.
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
			if !ok && !slices.ContainsFunc(p.tables, func(t table) bool { return t.lineage().has(position) }) {
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
	defer p.forks.Stop()
	for {
		err := p.send()
		if err == nil {
			p.snapshot()
			err = p.wait()
		}
		for err != nil {
			if p.ctx.Err() != nil {
				err = ErrClosed
			}
			if !errors.Is(err, ErrClosed) && !isRefused(err) { // resend finds out why it was refused
				p.onError(publishError(p.name, err))
			}
			if errors.Is(err, ErrClosed) || errors.Is(err, ErrFenced) || errors.Is(err, changefeed.ErrTableDropped) {
				p.end(err)
				return
			}
			select {
			case <-p.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			err = p.resend()
		}
	}
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

// wait waits until there is something to do.
func (p *Publisher) wait() error {
	wake := p.wake
	var acked <-chan *jetstream.PubAck
	var failed <-chan error
	if len(p.pending) > 0 {
		acked, failed = p.pending[0].future.Ok(), p.pending[0].future.Err()
		if p.isFull() {
			wake = nil
		}
	}
	select {
	case <-wake:
	case <-p.urgent:
		return p.sendNames()
	case <-p.forks.C:
		return p.sendNames()
	case <-acked:
		p.take()
	case err := <-failed:
		return err
	case err := <-p.taking:
		p.taking = nil
		if err != nil {
			p.onError(publishError(p.name, fmt.Errorf("snapshot: %w", err)))
			p.due, p.retry = true, time.After(time.Second)
		} else if p.gap > 0 && p.taken >= p.gap {
			return p.sendBegin(p.gap)
		}
	case <-p.retry:
		p.retry = nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	return nil
}

func (p *Publisher) isFull() bool { return len(p.pending) >= maxPending || p.size >= maxPendingSize }

// take takes the first pending message, which was acknowledged, and those after it that were, too.
func (p *Publisher) take() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 1
	for ; n < len(p.pending); n++ {
		select {
		case <-p.pending[n].future.Ok():
			continue
		default:
		}
		break
	}
	p.takeLocked(n)
}

// takeLocked takes the first n pending messages.
func (p *Publisher) takeLocked(n int) {
	for i := range p.pending[:n] {
		m := &p.pending[i]
		if m.lineages != nil {
			p.logged = m.lineages
		}
		for name, at := range m.ends {
			p.logged.extend(name, at)
		}
		if m.closes > 0 && m.closes == p.gap {
			p.gap, p.safe = 0, nil
		}
		p.size -= len(m.data)
	}
	p.pending = slices.Delete(p.pending, 0, n)
	p.number += uint64(n)
	close(p.changed)
	p.changed = make(chan struct{})
}

// send sends the commits that are ready, as long as not too many messages are pending.
func (p *Publisher) send() error {
	if p.behind {
		if err := p.begin(); err != nil {
			return err
		}
	}
	if p.isFull() {
		return nil
	}
	for commit, err := range p.commits {
		if _, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			return p.begin()
		} else if err != nil {
			return err
		}
		if err := p.sendCommit(commit); err != nil {
			return err
		}
		if p.isFull() {
			break
		}
	}
	return nil
}

// begin sends the present positions of the tables. If the log does not lead there, replicas need a
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
	if !p.next.leadTo(present) {
		p.due, p.gap = true, p.sent+1
		p.mu.Lock()
		if p.safe == nil {
			p.safe = p.logged.clone()
		}
		p.mu.Unlock()
	}
	p.next, p.behind = present, false
	return p.sendBegin(0)
}

// sendBegin sends the positions of the tables. closes is the number of the gap that has a snapshot, or
// 0. That message is acknowledged only if nobody else was promoted before there was the snapshot.
func (p *Publisher) sendBegin(closes uint64) error {
	return p.put(beginMessage, p.next.json(), sentMessage{lineages: p.next.clone(), closes: closes})
}

// sendNames sends the names that histories have got since, without a change.
func (p *Publisher) sendNames() error {
	renamed := false
	for _, t := range p.tables {
		name := t.any().Name()
		live, sent := t.lineage(), p.next[name]
		if !live.has(sent.last()) {
			continue
		}
		if live = live.upTo(sent.last().Seq); !slices.Equal(live, sent) {
			p.next[name], renamed = live, true
		}
	}
	if renamed {
		return p.sendBegin(0)
	}
	return nil
}

// sendCommit sends a commit. Changes that the last beginMessage shows already are left out.
func (p *Publisher) sendCommit(commit changefeed.Commit) error {
	var c commitOf
	ends := make(map[string]changefeed.Position)
	for i := range commit {
		made := &commit[i]
		name, at := made.Table.Name(), made.Position()
		if p.next[name].has(at) {
			continue
		}
		if p.next[name].last().History != at.History {
			if err := p.sendNames(); err != nil {
				return err
			}
			if p.next[name].last().History != at.History {
				return fmt.Errorf("table %q: %w: %v", name, changefeed.ErrOtherHistory, at)
			}
		}
		t := p.named[name]
		row, err := t.encode(made)
		if err != nil {
			p.behind = true
			return err
		}
		c.add(name, t.version(), at, change{made.Kind, row})
		p.next.extend(name, at)
		ends[name] = at
		p.changes++
	}
	if len(c.commit) == 0 {
		return nil
	}
	data := c.commit.append(nil)
	for most := p.maxPart(); len(data) > most; data = data[most:] {
		if err := p.put(partMessage, data[:most], sentMessage{}); err != nil {
			return err
		}
	}
	return p.put(commitMessage, data, sentMessage{ends: ends})
}

// maxPart is the size in bytes of what follows the header of a message.
func (p *Publisher) maxPart() int { return int(p.js.Conn().MaxPayload())/2 - headerSize }

// put sends a message.
func (p *Publisher) put(kind messageKind, data []byte, m sentMessage) error {
	p.sent++
	h := header{kind, p.term, p.sent, p.id}
	m.data = append(h.append(make([]byte, 0, headerSize+len(data))), data...)
	p.pending = append(p.pending, m)
	p.size += len(m.data)
	return p.post(&p.pending[len(p.pending)-1], p.sent)
}

// post sends a message with a number. JetStream refuses it if it does not come after the one before.
func (p *Publisher) post(m *sentMessage, number uint64) (err error) {
	m.future, err = p.async.PublishMsgAsync(&nats.Msg{
		Subject: p.subject,
		Data:    m.data,
		Header:  nats.Header{jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(p.offset+number-1, 10)}},
	})
	return err
}

// isRefused reports whether JetStream has refused a message, because the last one is another than the
// publisher expected.
func isRefused(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// resend finds out which messages are in the log, after an error, and sends the others again.
func (p *Publisher) resend() error {
	end, err := p.findEnd(p.ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	acked := p.number
	p.mu.Unlock()
	switch h := end.header; {
	case h == header{} && end.sequence == p.offset+acked: // the last message was purged
	case h == p.before && acked == 0:
	case h.publisher == p.id && h.number >= acked: // the messages up to that one are in the log
		p.mu.Lock()
		p.takeLocked(int(h.number - acked))
		p.mu.Unlock()
		acked = h.number
	case h == header{} || h == p.before || h.publisher == p.id:
		return p.restart(end.sequence)
	default:
		return ErrFenced
	}
	for i := range p.pending {
		if err := p.post(&p.pending[i], acked+1+uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

// restart begins a term behind the end of a log that has lost messages which were acknowledged.
func (p *Publisher) restart(sequence uint64) error {
	p.onError(publishError(p.name, fmt.Errorf("JetStream has lost the messages from %d on, which it had acknowledged", sequence+1)))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending, p.size, p.number = nil, 0, p.sent
	p.offset = sequence - p.sent // it may wrap around
	p.term++
	p.next, p.behind = nil, true
	return nil
}

// snapshot begins to make a snapshot, if it is time for one.
func (p *Publisher) snapshot() {
	p.mu.Lock()
	number := p.number
	p.mu.Unlock()
	if p.taking != nil || p.retry != nil || p.behind || number < p.gap || number == 0 {
		return
	}
	if !p.due {
		rows := 0
		for _, t := range p.tables {
			rows += t.any().Len()
		}
		if p.changes < max(p.every, rows) {
			return
		}
	}
	p.due, p.changes, p.taken = false, 0, number
	after := place{p.term, p.offset + number}
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

// confirm waits until the log has all that a snapshot has. Otherwise the snapshot could have changes
// that no other publisher will ever have.
func (p *Publisher) confirm(s *snapshot) error {
	return p.waitHas(p.ctx, func() lineages { return p.logged }, s.ends()...)
}

// A commitOf is a commit that is being made.
type commitOf struct{ commit commit }

// add adds the next change.
func (c *commitOf) add(table string, version int, at changefeed.Position, change change) {
	if n := len(c.commit); n > 0 {
		if p := &c.commit[n-1]; p.table == table && p.history == at.History && p.last()+1 == at.Seq {
			p.changes = append(p.changes, change)
			return
		}
	}
	c.commit = append(c.commit, part{table, version, at.History, at.Seq, nil})
	c.commit[len(c.commit)-1].changes = append(c.commit[len(c.commit)-1].changes, change)
}
