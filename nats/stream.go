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

// has reports whether a position is in a history that has the names.
func has(lineage []changefeed.Position, p changefeed.Position) bool {
	return slices.ContainsFunc(lineage, func(name changefeed.Position) bool {
		return name.History == p.History && p.Seq <= name.Seq
	})
}

func last(lineage []changefeed.Position) changefeed.Position { return lineage[len(lineage)-1] }
