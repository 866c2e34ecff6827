package natsfeed

import "github.com/seed-637b77f9/changefeed"

// An Option is an option of [Publish] and [Follow]. At least one of them is [Rows].
type Option func(c *config)

type config struct {
	tables   []table
	replicas int
	buffer   int
	every    int // changes between snapshots
	onError  func(error)
}

// DefaultSnapshotEvery is the number of changes between two snapshots, without [SnapshotEvery].
const DefaultSnapshotEvery = 100_000

func newConfig(opts []Option) config {
	c := config{replicas: 1, buffer: changefeed.DefaultBuffer, every: DefaultSnapshotEvery, onError: func(error) {}}
	for _, opt := range opts {
		opt(&c)
	}
	return c
}

// Replicas sets on how many servers the log and the snapshots are, if Publish makes them. It is at
// most the number of servers of the cluster. With 3, they survive the loss of a server. The default
// is 1.
func Replicas(n int) Option { return func(c *config) { c.replicas = n } }

// Buffer sets how many changes may wait for JetStream. If it is too slow for them, the publisher
// makes a snapshot, with which all replicas begin anew. Nothing that came after is acknowledged before
// that, so while the buffer always fills up again in the time of a snapshot, Wait does not return. The
// default is [changefeed.DefaultBuffer].
func Buffer(n int) Option { return func(c *config) { c.buffer = n } }

// SnapshotEvery sets after how many changes a publisher makes a snapshot. It waits for as many changes
// as the tables have rows, if these are more. A log has the changes of at most two such intervals, and
// of the time that a snapshot takes. The default is [DefaultSnapshotEvery].
func SnapshotEvery(n int) Option { return func(c *config) { c.every = n } }

// OnError makes a publisher or a replica call f with each error that keeps it from going on, but not
// with those that are gone after three seconds. Without it, nobody learns of them. It tries again,
// except after [ErrFenced] and [changefeed.ErrTableDropped], which end it. A lost connection alone is
// not reported: see the handlers of nats.Conn. f is called by several goroutines, and must not call
// Close.
func OnError(f func(err error)) Option { return func(c *config) { c.onError = f } }
