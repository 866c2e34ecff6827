package natsfeed

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A feed is what a publisher and its replicas share: the log and the snapshots, which are streams of
// JetStream.
type feed struct {
	js        jetstream.JetStream
	name      string
	subject   string
	stream    jetstream.Stream
	snapshots jetstream.Stream
	config
	named map[string]table
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func newFeed(js jetstream.JetStream, name string, opts []Option) (*feed, error) {
	f := &feed{js: js, name: name, subject: "changefeed." + name, config: newConfig(opts), named: make(map[string]table)}
	if !validName.MatchString(name) {
		return nil, errors.New("a name has letters, digits, hyphens and underscores only, and at most 64 of them")
	}
	if len(f.tables) == 0 {
		return nil, errors.New("no tables: pass Rows")
	}
	if f.buffer < 1 || f.every < 1 || f.replicas < 1 {
		return nil, errors.New("the numbers in Buffer, SnapshotEvery and Replicas must be at least 1")
	}
	for _, t := range f.tables {
		name := t.any().Name()
		if f.named[name] != nil {
			return nil, fmt.Errorf("table %q: passed twice", name)
		}
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("table %q: %w", name, err)
		}
		f.named[name] = t
	}
	return f, nil
}

func (f *feed) anyTables() (list []changefeed.AnyTable) {
	for _, t := range f.tables {
		list = append(list, t.any())
	}
	return list
}

// heartbeat is how often JetStream says that there is no message. If it has not said so twice, the
// server is lost that sent the messages, and another one goes on.
const heartbeat = 500 * time.Millisecond

// attempt is for how long one attempt waits for an answer. JetStream does not answer while a cluster
// has no leader.
const attempt = time.Second

// patience is for how long attempts may fail before somebody is told.
const patience = 3 * time.Second

// persist calls do until it succeeds, fails for good, or ctx ends. It waits a little longer before
// each attempt. After some time, it reports each error that is another than the one before, but not
// that it waits for a publisher.
func (f *feed) persist(ctx context.Context, do func(ctx context.Context) error) error {
	reported, began := "", time.Now()
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		short, cancel := context.WithTimeout(ctx, attempt)
		err := do(short)
		cancel()
		if err == nil || ctx.Err() == nil && !isTemporary(err) {
			return err
		}
		waits := errors.Is(err, errNotPublished)
		if text := err.Error(); text != reported && !waits && ctx.Err() == nil && time.Since(began) > patience {
			f.onError(fmt.Errorf("natsfeed: %q: %w", f.name, err))
			reported = text
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(delay):
		}
	}
}

// errNotPublished says that there is no log, or no snapshot, yet.
var errNotPublished = errors.New("nobody has published it yet")

// isTemporary reports whether the cause of an error may go away by itself: there is no connection, no
// leader, no answer, or a snapshot was deleted because there is a newer one.
func isTemporary(err error) bool {
	for _, temporary := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionReconnecting, nats.ErrDisconnected,
		nats.ErrNoServers, errNotPublished, errIncomplete, errNotThere, jetstream.ErrNoStreamResponse, jetstream.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, temporary) {
			return true
		}
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.Code == 503 || api.Code == 500 || api.ErrorCode == noPeers)
}

// noPeers is the error code of JetStream for a cluster that does not have as many servers as it should
// have, for example because they have just been started.
const noPeers = 10005

// open opens the log and the snapshots. If create is true, it makes those that do not exist, and
// otherwise it waits for them.
func (f *feed) open(ctx context.Context, create bool) error {
	return f.persist(ctx, func(ctx context.Context) error { return f.tryOpen(ctx, create) })
}

func (f *feed) tryOpen(ctx context.Context, create bool) (err error) {
	stream, err := f.openStream(ctx, create, "changefeed_"+f.name, f.subject, false)
	if err != nil {
		return err
	}
	snapshots, err := f.openStream(ctx, create, "changefeed-snapshots_"+f.name, f.subject+inSnapshots+">", true)
	if err == nil {
		f.stream, f.snapshots = stream, snapshots
	}
	return err
}

// openStream opens a stream. If direct is true, any server answers a request for a message, and perhaps
// it does not have it yet.
func (f *feed) openStream(ctx context.Context, create bool, name, subjects string, direct bool) (jetstream.Stream, error) {
	stream, err := f.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if !create {
			return nil, errNotPublished
		}
		stream, err = f.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{subjects}, Storage: jetstream.FileStorage, Replicas: f.replicas, DenyDelete: true,
			AllowDirect: direct,
		})
	}
	return stream, err
}

// reopen makes the log and the snapshots again, if they do not exist any more.
func (f *feed) reopen(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	again := *f                  // what f has is only names, which are still right
	_ = again.tryOpen(ctx, true) // the next attempt reports that it did not help
}

// A logEnd is the end of the log: the last sequence number, and the header of the message that has it.
// If that message was purged, or is foreign, header is zero.
type logEnd struct {
	sequence uint64
	header   header
}

// findEnd returns the end of the log.
func (f *feed) findEnd(ctx context.Context) (end *logEnd, err error) {
	err = f.persist(ctx, func(ctx context.Context) error {
		end = new(logEnd)
		message, err := f.stream.GetLastMsgForSubject(ctx, f.subject)
		if err == nil {
			end.sequence = message.Sequence
			if _, err := end.header.parse(message.Data); err != nil && !errors.Is(err, errForeign) {
				end.header.kind = unknownKind
			}
			return nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
		info, err := f.stream.Info(ctx)
		if err == nil {
			end.sequence = info.State.LastSeq
		}
		return err
	})
	return end, err
}

// A fellOffError says that messages are missing at the beginning of the log.
type fellOffError struct{ first uint64 } // that is there

func (e *fellOffError) Error() string {
	return fmt.Sprintf("the first message that the log has is %d", e.first)
}

// readLog calls receive with each message from the one numbered next on, until it returns an error,
// or ctx ends. JetStream goes on silently behind messages that were purged, but readLog does not.
func (f *feed) readLog(ctx context.Context, next uint64, receive func(sequence uint64, message []byte) error) error {
	for {
		var consumer jetstream.Consumer
		err := f.persist(ctx, func(ctx context.Context) error {
			info, err := f.stream.Info(ctx)
			if err == nil && info.State.FirstSeq > next {
				err = &fellOffError{info.State.FirstSeq}
			}
			if err == nil {
				consumer, err = f.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
					DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next, AckPolicy: jetstream.AckNonePolicy,
					MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
				})
			}
			return err
		})
		if err != nil {
			return err
		}
		if next, err = readConsumer(ctx, consumer, next, receive); err != nil {
			return err
		}
	}
}

// readConsumer calls receive with the messages of a consumer. It returns the number of the next message
// when the consumer does not have it, or is gone.
func readConsumer(ctx context.Context, c jetstream.Consumer, next uint64, receive func(sequence uint64, message []byte) error) (uint64, error) {
	messages, err := c.Messages(jetstream.PullMaxMessages(maxPulled), jetstream.PullExpiry(10*heartbeat), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return next, err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return next, context.Cause(ctx)
		}
		if err != nil {
			return next, nil
		}
		meta, err := m.Metadata()
		if err != nil {
			return next, err
		}
		if meta.Sequence.Stream != next {
			return next, nil
		}
		if err := receive(next, m.Data()); err != nil {
			return next, err
		}
		next++
	}
}

// maxPulled is how many messages JetStream sends before it waits for the reader. Most have at most
// maxBatch bytes.
const maxPulled = 100

// A publication is what the publishers so far have left in JetStream.
type publication struct {
	end  logEnd   // of the log
	term uint64   // the last one
	next lineages // the end of the log, or nil behind a gap that is not closed
	safe lineages // what a new replica can have
	bare bool     // there is no snapshot: the publisher may have ended before it made one
}

// published reads the log from the newest snapshot on.
func (f *feed) published(ctx context.Context) (p *publication, err error) {
	var fell fellOffError
	var fellFrom place   // the snapshot behind which there were no messages up to fell.first
	var incomplete error // of the attempt before
	err = f.persist(ctx, func(context.Context) error {
		end, err := f.findEnd(ctx)
		if err != nil {
			return err
		}
		p = &publication{end: *end, next: make(lineages)}
		start := place{}
		s, err := f.openSnapshot(ctx, place{})
		if errors.Is(err, errIncomplete) && (incomplete == nil || err.Error() != incomplete.Error()) {
			incomplete = err // it may have been deleted because there is a newer one
			return err
		}
		if err == nil {
			start, p.next = s.place, s.lineages()
		} else if !lacksSnapshot(err) {
			return err
		}
		p.bare = err != nil
		p.term, p.safe = start.term, p.next.clone()
		next, gap := start.sequence+1, start.sequence > end.sequence // then the log has lost messages
		if fell.first > next && fellFrom == start {
			next, gap = fell.first, true // somebody else has deleted messages
		}
		if next > end.sequence {
			if gap {
				p.next = nil
			}
			return nil
		}
		var d decoder
		err = f.readLog(ctx, next, func(sequence uint64, message []byte) error {
			e, err := d.decode(message)
			if err != nil && !errors.Is(err, errForeign) {
				return fmt.Errorf("message %d is damaged: %w", sequence, err)
			}
			p.term = max(p.term, e.term)
			for name, l := range e.lineages {
				if e.kind == gapMessage || !p.next[name].has(l.last()) { // the snapshot may be later
					p.next[name] = l
				}
			}
			gap = e.kind == gapMessage || gap && e.kind != closeMessage
			for _, c := range e.commits {
				for _, part := range c {
					p.next.extend(part.table, changefeed.Position{History: part.history, Seq: part.last()})
				}
			}
			if !gap {
				p.safe = p.next.clone()
			}
			if sequence >= end.sequence {
				return errEnough
			}
			return nil
		})
		if e, ok := errors.AsType[*fellOffError](err); ok {
			fell, fellFrom = *e, start
			err = errNotPublished // there should be a newer snapshot
		}
		if errors.Is(err, errEnough) {
			err = nil
		}
		if gap {
			p.next = nil
		}
		return err
	})
	return p, err
}

var errEnough = errors.New("enough")
