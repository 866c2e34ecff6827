package natsfeed

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A feed is what a publisher and its replicas share: the log, which is a stream of JetStream, and the
// snapshots, which are objects of an object store.
type feed struct {
	js        jetstream.JetStream
	name      string
	subject   string
	log       jetstream.Stream
	snapshots jetstream.ObjectStore
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
		return nil, errors.New("no tables")
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

// attempt is for how long one attempt waits for an answer. JetStream does not answer while a cluster
// has no leader.
const attempt = 2 * time.Second

// persist calls do until it succeeds, fails for good, or ctx ends. It waits a little longer before
// each attempt.
func persist(ctx context.Context, do func(ctx context.Context) error) error {
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		short, cancel := context.WithTimeout(ctx, attempt)
		err := do(short)
		cancel()
		if err == nil || !isTemporary(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(delay):
		}
	}
}

// errNotPublished says that there is no log, or no snapshot, yet.
var errNotPublished = errors.New("nobody has published it yet")

// isTemporary reports whether the cause of an error may go away by itself: there is no connection, no
// leader, or no answer.
func isTemporary(err error) bool {
	for _, temporary := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionReconnecting, nats.ErrDisconnected,
		nats.ErrNoServers, errNotPublished, jetstream.ErrNoStreamResponse, jetstream.ErrAsyncPublishTimeout, jetstream.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, temporary) {
			return true
		}
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.Code == 503 || api.Code == 500)
}

// open opens the log and the snapshots. If create is true, it makes those that do not exist, and
// otherwise it waits for them.
func (f *feed) open(ctx context.Context, create bool) error {
	replicas := f.replicas
	return persist(ctx, func(ctx context.Context) (err error) {
		if f.log, err = f.js.Stream(ctx, f.streamName()); errors.Is(err, jetstream.ErrStreamNotFound) && create {
			f.log, err = f.js.CreateStream(ctx, jetstream.StreamConfig{
				Name:       f.streamName(),
				Subjects:   []string{f.subject},
				Storage:    jetstream.FileStorage,
				Replicas:   replicas,
				DenyDelete: true,
			})
		}
		if err != nil {
			return err
		}
		if f.snapshots, err = f.js.ObjectStore(ctx, f.streamName()); errors.Is(err, jetstream.ErrBucketNotFound) && create {
			f.snapshots, err = f.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
				Bucket:   f.streamName(),
				Storage:  jetstream.FileStorage,
				Replicas: replicas,
			})
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound) {
			err = errNotPublished
		}
		return err
	})
}

func (f *feed) streamName() string { return "changefeed_" + f.name }

// lastMessage returns the last message of the log, or nil if there is none.
func (f *feed) lastMessage(ctx context.Context) (message *jetstream.RawStreamMsg, err error) {
	err = persist(ctx, func(ctx context.Context) error {
		message, err = f.log.GetLastMsgForSubject(ctx, f.subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			message, err = nil, nil
		}
		return err
	})
	return message, err
}

// errFellOff says that messages are missing at the beginning of the log.
var errFellOff = errors.New("the log has not all of the messages")

// readLog calls receive with each message from the one numbered next on, until it returns an error,
// or ctx ends. JetStream goes on silently behind messages that were purged.
func (f *feed) readLog(ctx context.Context, next uint64, receive func(sequence uint64, message []byte) error) error {
	var consumer jetstream.Consumer
	err := persist(ctx, func(ctx context.Context) error {
		info, err := f.log.Info(ctx)
		if err == nil && info.State.FirstSeq > next {
			err = errFellOff
		}
		if err == nil {
			consumer, err = f.log.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
				DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next,
			})
		}
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
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		m, err := messages.Next()
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		switch sequence := meta.Sequence.Stream; {
		case sequence < next:
			continue
		case sequence > next:
			return errFellOff
		}
		if err := receive(next, m.Data()); err != nil {
			return err
		}
		next++
	}
}

// published returns the positions of the tables after the last message of the log, and its sequence
// number.
func (f *feed) published(ctx context.Context) (at begin, sequence uint64, err error) {
	message, err := f.lastMessage(ctx)
	if message == nil || err != nil {
		return nil, 0, err
	}
	err = persist(ctx, func(attempt context.Context) error {
		numbers, err := f.snapshotNumbers(attempt)
		if err != nil {
			return err
		}
		at, sequence = make(begin), 0
		if len(numbers) > 0 {
			if at, err = f.snapshotLineages(attempt, numbers[0]); err != nil {
				return err
			}
			sequence = numbers[0]
		} // otherwise the publisher has ended before it made one, and the log is whole
		if sequence >= message.Sequence {
			return nil
		}
		var d decoder
		err = f.readLog(ctx, sequence+1, func(n uint64, data []byte) error {
			b, c, err := d.decode(data)
			if err != nil {
				return fmt.Errorf("the message %d is damaged: %w", n, err)
			}
			if b != nil {
				at = b
			}
			for _, p := range c {
				at.extend(p.table, changefeed.Position{History: p.history, Seq: p.last()})
			}
			if sequence = n; n >= message.Sequence {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errFellOff) {
			err = errNotPublished // a newer snapshot comes
		}
		if errors.Is(err, errEnough) {
			err = nil
		}
		return err
	})
	return at, sequence, err
}

var errEnough = errors.New("enough")

// has reports whether a position is in a history that has the names.
func has(lineage []changefeed.Position, p changefeed.Position) bool {
	return slices.ContainsFunc(lineage, func(name changefeed.Position) bool {
		return name.History == p.History && p.Seq <= name.Seq
	})
}

func last(lineage []changefeed.Position) changefeed.Position { return lineage[len(lineage)-1] }
