package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A lease is held by at most one node at a time. It is a key of a JetStream key-value bucket whose
// keys expire. The node that creates the key holds the lease, and renews the key. If the node fails,
// the key expires, and another node can create it.
//
// A lease decides which node tries to publish. It cannot keep two publishers apart. A process that is
// suspended in the middle of a write goes on with the write when its lease has expired. The log keeps
// them apart: when a replica is promoted, JetStream refuses the messages of the publisher before it.
type lease struct {
	bucket jetstream.KeyValue
	holder string
	ttl    time.Duration
}

const leaseKey = "publisher"

var errLeaseLost = errors.New("the lease is lost")

// newLease returns a lease for a holder. It makes the bucket, if it does not exist.
func newLease(ctx context.Context, js jetstream.JetStream, bucket, holder string, ttl time.Duration, replicas int) (*lease, error) {
	l := &lease{holder: holder, ttl: ttl}
	err := l.retry(ctx, func(ctx context.Context) (err error) {
		l.bucket, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, TTL: ttl, Replicas: replicas})
		return err
	})
	return l, err
}

// acquire waits until the holder has the lease. It returns a context that ends when the lease is lost.
// The lease is renewed until ctx ends. Then the key expires by itself.
func (l *lease) acquire(ctx context.Context) (held context.Context, err error) {
	var asked time.Time
	var revision uint64
	err = l.retry(ctx, func(ctx context.Context) (err error) {
		asked = time.Now()
		revision, err = l.bucket.Create(ctx, leaseKey, []byte(l.holder))
		return err
	})
	if err != nil {
		return nil, err
	}
	held, end := context.WithCancelCause(ctx)
	go l.renew(held, end, asked, revision)
	return held, nil
}

// renew renews the lease several times while it is valid. The lease's time counts from before the
// request. Therefore it ends here before it ends at the server.
func (l *lease) renew(held context.Context, end context.CancelCauseFunc, asked time.Time, revision uint64) {
	expiry := time.AfterFunc(time.Until(asked.Add(l.ttl)), func() { end(errLeaseLost) })
	defer expiry.Stop()
	for {
		select {
		case <-held.Done():
			return
		case <-time.After(l.ttl / 4):
		}
		asked = time.Now()
		attempt, cancel := context.WithTimeout(held, l.ttl/4)
		next, err := l.bucket.Update(attempt, leaseKey, []byte(l.holder), revision)
		cancel()
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			end(fmt.Errorf("%w: %w", errLeaseLost, err)) // the key has expired, and may be another holder's
		}
		if err == nil {
			revision = next
			expiry.Reset(time.Until(asked.Add(l.ttl)))
		}
	}
}

// retry calls do until it succeeds, or ctx ends. JetStream may have no leader for a while.
func (l *lease) retry(ctx context.Context, do func(ctx context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, l.ttl/4)
		err := do(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(l.ttl / 8):
		}
	}
}
