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
	sent    uint64        // number of the last message that was sent
	offset  uint64        // the sequence number in the log of a message, less its number
	pending []sentMessage // those that are not acknowledged, in order
	size    int           // of these, in bytes
	next    begin         // the lineages after what was sent
	behind  bool          // the log does not lead to what the tables have
	changes int           // sent since the last snapshot
	due     bool          // a snapshot is needed, whatever the number of changes is
	begun   uint64        // the number of the last beginMessage, which a snapshot comes after
	taking  chan error    // the snapshot that is being made, or nil
	retry   <-chan time.Time
	forks   *time.Ticker // a Fork wakes nobody

	mu      sync.Mutex
	acked   begin         // the lineages after what was acknowledged
	number  uint64        // number of the last message that was acknowledged
	changed chan struct{} // closed when acked changes
	err     error
}

// A sentMessage is a message that JetStream has not acknowledged yet.
type sentMessage struct {
	data     []byte
	future   jetstream.PubAckFuture
	lineages begin                          // of a beginMessage
	ends     map[string]changefeed.Position // of a commitMessage
}

const (
	maxPending     = 4096
	maxPendingSize = 16 << 20
	ackTimeout     = 5 * time.Second
)

// Publish makes this process the publisher of tables under a name. It makes the log and the object
// store, if they do not exist. If somebody has published under the name before, the tables must have
// everything that is in the log. Otherwise it returns [ErrPublished], and the program follows the log
// instead, and promotes the replica: see [Replica.Promote]. ctx is for the start only.
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
	published, sequence, err := f.published(ctx)
	if err != nil {
		return nil, err
	}
	for name, lineage := range published {
		t := f.named[name]
		if t == nil {
			return nil, fmt.Errorf("table %q: %w: it was not passed", name, ErrPublished)
		}
		if at := last(lineage); !has(t.lineage(), at) && at.Seq > 0 {
			return nil, fmt.Errorf("table %q: %w: up to %v", name, ErrPublished, at)
		}
	}
	p, err := f.newPublisher(sequence)
	if err != nil {
		return nil, err
	}
	p.due = true
	return p, p.start(ctx)
}

// newPublisher returns a publisher whose first message comes after the one of the log that is numbered
// offset. It follows the tables already.
func (f *feed) newPublisher(offset uint64) (*Publisher, error) {
	async, err := asyncOf(f.js)
	if err != nil {
		return nil, err
	}
	p := &Publisher{
		feed: f, async: async, offset: offset, wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), behind: true,
		done: make(chan struct{}), changed: make(chan struct{}), acked: make(begin), forks: time.NewTicker(time.Second),
	}
	_, _ = rand.Read(p.id[:])
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.commits = changefeed.Commits(p.ctx, f.anyTables(), changefeed.Named("nats"), changefeed.Buffer(f.buffer), changefeed.Poll(p.wake))
	return p, nil
}

// start starts the goroutine, and waits until the log has the positions of the tables.
func (p *Publisher) start(ctx context.Context) error {
	begun := p.changed
	go p.run()
	select {
	case <-begun:
		return p.failure()
	case <-ctx.Done():
		p.Close()
		return context.Cause(ctx)
	}
}

// asyncOf returns a JetStream with the options of js, for messages whose acknowledgements come later.
func asyncOf(js jetstream.JetStream) (jetstream.JetStream, error) {
	opts := []jetstream.JetStreamOpt{
		jetstream.WithPublishAsyncMaxPending(2 * maxPending),
		jetstream.WithPublishAsyncTimeout(ackTimeout),
	}
	switch o := js.Options(); {
	case o.Domain != "":
		return jetstream.NewWithDomain(js.Conn(), o.Domain, opts...)
	case o.APIPrefix != "" && o.APIPrefix != jetstream.DefaultAPIPrefix:
		return jetstream.NewWithAPIPrefix(js.Conn(), o.APIPrefix, opts...)
	}
	return jetstream.New(js.Conn(), opts...)
}

// Close ends the publisher. Changes that are not acknowledged may be in the log, or not: see [Publisher.Wait].
func (p *Publisher) Close() {
	p.stop()
	<-p.done
}

func (p *Publisher) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Wait waits until JetStream has acknowledged the changes up to each of the positions.
func (p *Publisher) Wait(ctx context.Context, positions ...changefeed.Position) error {
	for _, position := range positions {
		for {
			p.mu.Lock()
			ok, changed, err := p.acked.has(position), p.changed, p.err
			p.mu.Unlock()
			if ok {
				break
			}
			if err == nil && !p.knows(position) {
				err = fmt.Errorf("%w: %v", changefeed.ErrOtherHistory, position)
			}
			if err != nil {
				return fmt.Errorf("natsfeed: wait for %q: %w", p.name, err)
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
	return nil
}

// knows reports whether a position is one of a table.
func (p *Publisher) knows(position changefeed.Position) bool {
	return slices.ContainsFunc(p.tables, func(t table) bool { return has(t.lineage(), position) })
}

// has reports whether a position is in the history of one of the tables.
func (b begin) has(position changefeed.Position) bool {
	for _, lineage := range b {
		if has(lineage, position) {
			return true
		}
	}
	return position.IsZero()
}

// extend makes a position the last one of a table.
func (b begin) extend(table string, at changefeed.Position) {
	lineage := b[table]
	if n := len(lineage); n > 0 && lineage[n-1].History == at.History {
		lineage[n-1].Seq = max(lineage[n-1].Seq, at.Seq)
		return
	}
	b[table] = append(lineage, at)
}

func (b begin) clone() begin {
	c := make(begin, len(b))
	for name, lineage := range b {
		c[name] = slices.Clone(lineage)
	}
	return c
}

// run is the goroutine of the publisher.
func (p *Publisher) run() {
	defer close(p.done)
	defer p.forks.Stop()
	for {
		err := p.send()
		if err == nil {
			err = p.snapshot()
		}
		if err == nil {
			err = p.wait()
		}
		for err != nil {
			if p.ctx.Err() != nil {
				err = ErrClosed
			}
			if !errors.Is(err, ErrClosed) {
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
			p.acked = m.lineages
		}
		for name, at := range m.ends {
			p.acked.extend(name, at)
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
			p.behind, p.due = true, true
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

// begin sends the present positions of the tables. Replicas that have other ones need a snapshot.
func (p *Publisher) begin() error {
	err := changefeed.Read(func(tx *changefeed.Tx) error {
		p.next = make(begin)
		for _, t := range p.tables {
			p.next[t.any().Name()] = t.lineageIn(tx)
		}
		return nil
	}, p.anyTables()...)
	if err != nil {
		return err
	}
	p.behind = false
	return p.sendBegin()
}

func (p *Publisher) sendBegin() error {
	lineages := p.next.clone()
	p.begun = p.sent + 1
	return p.put(beginMessage, lineages.append(nil), lineages, nil)
}

// sendNames sends the names that histories have got since, without a change.
func (p *Publisher) sendNames() error {
	renamed := false
	for _, t := range p.tables {
		name := t.any().Name()
		if live, sent := t.lineage(), p.next[name]; has(live, last(sent)) {
			for i, n := range live {
				if n.Seq > last(sent).Seq {
					live[i].Seq = last(sent).Seq
					live = live[:i+1]
					break
				}
			}
			if !slices.Equal(live, sent) {
				p.next[name], renamed = live, true
			}
		}
	}
	if renamed {
		return p.sendBegin()
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
		if has(p.next[name], at) {
			continue
		}
		if last(p.next[name]).History != at.History {
			if err := p.sendNames(); err != nil {
				return err
			}
			if last(p.next[name]).History != at.History {
				return fmt.Errorf("table %q: %w: %v", name, changefeed.ErrOtherHistory, at)
			}
		}
		t := p.named[name]
		row, err := t.encode(made)
		if err != nil {
			p.behind, p.due = true, true
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
		if err := p.put(partMessage, data[:most], nil, nil); err != nil {
			return err
		}
	}
	return p.put(commitMessage, data, nil, ends)
}

// maxPart is the size in bytes of what follows the header of a message.
func (p *Publisher) maxPart() int { return int(p.js.Conn().MaxPayload())/2 - headerSize }

// put sends a message.
func (p *Publisher) put(kind messageKind, data []byte, lineages begin, ends map[string]changefeed.Position) error {
	p.sent++
	h := header{kind, p.sent, p.id}
	m := sentMessage{data: append(h.append(make([]byte, 0, headerSize+len(data))), data...), lineages: lineages, ends: ends}
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

// resend finds out which messages are in the log, after an error, and sends the others again.
func (p *Publisher) resend() error {
	message, err := p.lastMessage(p.ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	number, offset := p.number, p.offset
	p.mu.Unlock()
	var sequence uint64
	var h header
	if message != nil {
		sequence = message.Sequence
		if _, err := h.parse(message.Data); err != nil {
			return err
		}
	}
	switch {
	case h.publisher == p.id && h.number >= number: // the messages up to that one are in the log
		p.mu.Lock()
		p.takeLocked(int(h.number - number))
		p.mu.Unlock()
		number = h.number
	case sequence == offset+number: // none of them is
	case sequence < offset+number: // the server has lost messages
		p.pending, p.size, p.behind, p.due = nil, 0, true, true
		p.offset = sequence - p.sent // it may wrap around
		p.mu.Lock()
		p.number = p.sent
		p.mu.Unlock()
		return nil
	default:
		return ErrFenced
	}
	for i := range p.pending {
		if err := p.post(&p.pending[i], number+1+uint64(i)); err != nil {
			return err
		}
	}
	return nil
}

// snapshot begins to make a snapshot, if it is time for one.
func (p *Publisher) snapshot() error {
	p.mu.Lock()
	number := p.number
	p.mu.Unlock()
	if p.taking != nil || p.retry != nil || number < p.begun {
		return nil
	}
	if !p.due {
		rows := 0
		for _, t := range p.tables {
			rows += t.any().Len()
		}
		if p.changes < max(p.every, rows) {
			return nil
		}
	}
	p.due, p.changes = false, 0
	after := p.offset + number
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
	return nil
}

// confirm waits until the log has all that a snapshot has. Otherwise the snapshot could have changes
// that no other publisher will ever have.
func (p *Publisher) confirm(s *snapshot) error {
	for _, t := range s.Tables {
		if err := p.Wait(p.ctx, last(t.Lineage)); err != nil {
			return err
		}
	}
	return nil
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
