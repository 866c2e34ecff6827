package changefeed

import (
	"context"
	"fmt"
	"time"
)

// DefaultBuffer is the number of changes buffered for a subscriber without [Buffer].
const DefaultBuffer = 100_000

// A FeedOption is an option of Changes and Batches. If an option is given twice, the last
// one counts. A stream with an invalid value or a refused combination yields
// [ErrInvalidOption] as its only pair.
//
// Options can be combined with each other and with every selection, except [After] with
// [IncludeInitial], which is refused. Each option says how others change it. Options in the
// package documentation lists these cases. [Commits] takes some of them.
//
// A feed of a row, range or index value reads the changes of its rows, and a feed of the
// table reads all changes. A predicate does not alter that. [Buffer], [FeedInfo] and
// [SkippedError] count the changes that are read.
type FeedOption func(*feedConfig)

type feedConfig struct {
	name     string
	buffer   int
	batch    int // maximum length of a batch, 1 for Changes
	initial  bool
	after    *Position
	track    *Feed
	squashes bool
	wait     time.Duration
	overflow Overflow
	polls    bool
	wake     chan<- struct{}
}

// about returns the options that the figures of a feed show, or nil if it has none of them.
func (c *feedConfig) about(filters bool) *about {
	a := about{c.name, c.overflow, c.polls, filters}
	if a == (about{}) {
		return nil
	}
	return &a
}

// Buffer sets how many changes are buffered for the subscriber. The default is
// [DefaultBuffer]. If n is below 1, the stream yields [ErrInvalidOption] and ends. An n above
// 1<<43 counts as 1<<43.
//
// A buffer uses memory only for the changes in it. Changes that several subscribers to
// one part of a table have not read yet are stored once for all of them. With [Squash],
// Buffer has no effect.
func Buffer(n int) FeedOption { return func(c *feedConfig) { c.buffer = n } }

// Named gives the subscriber a name for [Table.Feeds].
func Named(name string) FeedOption { return func(c *feedConfig) { c.name = name } }

// IncludeInitial makes a stream begin with the present rows. It yields
//
//   - first, a change of Kind [Initial] for each row, with the row as New and Seq 0, in
//     the order of the selection's All
//   - then one change of Kind [Ready], without a row, with the Seq of the last change
//     that the rows show
//   - then the changes after that one.
//
// Nothing is missed and nothing comes twice. Stages see changes of both kinds.
//
// The position of Ready is the first one to save for [After]. A feed that ends before
// Ready has no position: the next one begins again.
//
// The rows are those of a snapshot, which takes the same time for many rows as for few
// and delays no writer. The feed holds it until Ready, outside its [Buffer]. If the
// buffer overflows before Ready, the notice comes after Ready.
//
// With [Squash], the first set is of the changes after Ready. IncludeInitial cannot be
// combined with After.
func IncludeInitial() FeedOption { return func(c *feedConfig) { c.initial = true } }

// After makes a stream resume after a position, with the changes that the table still
// retains: see [Table.Retain]. The position to save is that of [Feed.Position].
//
// If some of the changes are no longer retained, the stream begins with one
// [*SkippedError] that counts them. [OnOverflow] then decides what follows: [Fail] ends the
// feed, and [Resync] continues with the present rows. The zero Position is before the first
// change of the table.
//
// A position that is not in the table's history cannot be resumed from. It is of another table,
// after a change that the table left out when it forked (see [Table.Fork]), or after a change
// that is still to come. The stream yields [ErrOtherHistory] and ends. A dropped table retains
// nothing, so the stream yields [ErrTableDropped] alone.
//
// With Resync, After takes every position. One that is not in the table's history is like the
// zero Position. With the zero Position, the stream begins with a SkippedError, which counts
// all changes of the table so far and may count none, and with the present rows. So the same
// loop is right for a program that starts for the first time, and for one that saved its
// position a moment ago, long ago, or in another table. At a SkippedError, the loop discards
// its copy of the rows. At any other error the feed has ended, and the loop keeps its copy and
// the position that it saved last.
//
// The retained changes are held for the feed until it has read them, outside its [Buffer].
// While it reads them, it selects its own among all changes of the table. [FeedInfo] and the
// first SkippedError count all of them, also those of rows that are not selected. The changes
// that are made meanwhile are in the buffer. With [Squash], the retained changes come one by
// one, and only those after them are squashed. Otherwise a consumer that has a part of a set
// would miss the delete of a row that was inserted in that part.
//
// After cannot be combined with [IncludeInitial], because a subscriber that resumes has the
// rows at the position already.
func After(p Position) FeedOption { return func(c *feedConfig) { c.after = &p } }

// Squash makes a stream yield sets of changes, and not every change. A set has one change
// for each row that has changed since the last set, however often it was written. Old is
// the row at the last set, and New is the row now. A row that is as it was at the last
// set is left out. The Seq of each change is that of the last change to the row, and the
// changes of a set come in the order of Seq.
//
// A set begins with the first change after the last set. The loop takes it when it asks
// for the next change, but not before wait has passed since that first change, even if
// the table is dropped meanwhile. To get each set as a whole, for example to draw a screen
// once, use Batches with math.MaxInt.
//
// The feed holds one change for each row, and never overflows. It costs each write to its
// rows an operation on a B-tree of the feed's own. If Equal of the rows panics, the panic
// reaches the loop's caller, and the change that it was about counts as delivered.
//
// If wait is negative, the stream yields [ErrInvalidOption].
func Squash(wait time.Duration) FeedOption {
	return func(c *feedConfig) { c.squashes, c.wait = true, wait }
}

// An Overflow selects what a stream does when its [Buffer] was full and changes were
// dropped: see [OnOverflow].
type Overflow uint8

const (
	Skip   Overflow = iota // yield a SkippedError, and continue with the changes that are left
	Fail                   // yield a SkippedError, and end
	Resync                 // yield a SkippedError, and continue as [IncludeInitial] begins: present rows, Ready, changes
)

// String returns "skip", "fail" or "resync".
func (p Overflow) String() string {
	switch p {
	case Skip:
		return "skip"
	case Fail:
		return "fail"
	case Resync:
		return "resync"
	}
	return fmt.Sprintf("Overflow(%d)", uint8(p))
}

// OnOverflow sets what a stream does when changes were dropped. The default is [Skip].
//
// With [Skip], a loop that takes longer for one element than the writers take to fill the buffer
// gets a SkippedError each time, and hardly ever a change.
//
// With [Fail], the SkippedError is the final error, and everything still buffered is
// discarded.
//
// With [Resync], the SkippedError also counts the changes that were still buffered,
// because the present rows show them. A consumer discards its copy of the rows at the
// SkippedError, and stores the rows that follow. If the buffer is too small for the time
// that this takes, the stream begins again and again. A feed that ends before Ready has
// no position: the next one begins again. A dropped table has no rows to continue with, so
// Resync is then like Skip.
//
// A feed with [Squash] never overflows. OnOverflow then decides what follows if the position of
// [After] is too old, and what follows a [Table.Reset], as it does in all feeds.
func OnOverflow(p Overflow) FeedOption {
	return func(c *feedConfig) { c.overflow = p }
}

// Poll makes a stream that never waits. A range ends without an error when there is
// nothing to read. Then wake gets one value as soon as there is something to read. The
// final error counts as something to read. After it, wake gets nothing more, except a value
// that was on its way. If a loop breaks while something is left, wake gets its value
// immediately. So range first, then wait for wake.
//
// The send never blocks. The channel wake must have room for one value, or some values
// are lost. Several feeds may share it, and it may be nil. A wake channel that its owner
// has closed notifies nobody any more. It affects no writer and no other feed. A stream
// that is garbage collected notifies nobody.
//
// With [Squash], a set that is not due is nothing to read. wake gets its value when the
// set is due.
//
// A range continues for as long as writes come. To do other work in between, break after
// some changes, and range again when wake gets its value.
//
// With Poll, one goroutine can follow several feeds, tickers and channels in a select
// loop, and a test can expect "these changes and no others" without waiting.
//
// A waiting loop that is woken wakes others, but a feed with Poll does not. If several such
// feeds are to be notified, a short-lived goroutine notifies them.
func Poll(wake chan<- struct{}) FeedOption {
	return func(c *feedConfig) { c.polls, c.wake = true, wake }
}

// newFeedConfig checks the arguments of a function that follows tables.
func newFeedConfig(ctx context.Context, function string, opts []FeedOption) (feedConfig, error) {
	if ctx == nil {
		panic(fmt.Sprintf("changefeed: %s: nil context; pass context.Background() if nothing cancels the feed", function))
	}
	c := feedConfig{buffer: DefaultBuffer, batch: 1}
	for _, opt := range opts {
		if opt == nil {
			panic(fmt.Sprintf("changefeed: %s: nil option; leave it out", function))
		}
		opt(&c)
	}
	if c.track != nil {
		c.track.tracked.Store(nil) // it does not keep an earlier feed if this one is refused
	}
	return c, c.check()
}

func (c *feedConfig) check() error {
	switch {
	case c.batch < 1:
		return fmt.Errorf("%w: Batches with max %d: must be at least 1", ErrInvalidOption, c.batch)
	case c.buffer < 1:
		return fmt.Errorf("%w: Buffer(%d): must be at least 1", ErrInvalidOption, c.buffer)
	case c.wait < 0:
		return fmt.Errorf("%w: Squash(%v): must not be negative", ErrInvalidOption, c.wait)
	case c.overflow > Resync:
		return fmt.Errorf("%w: OnOverflow(%v): must be Skip, Fail or Resync", ErrInvalidOption, c.overflow)
	case c.after != nil && c.initial:
		return fmt.Errorf("%w: After with IncludeInitial: a stream begins either after a position or with the present rows", ErrInvalidOption)
	}
	return nil
}
