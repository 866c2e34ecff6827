package changefeed

import (
	"fmt"
	"time"
)

// DefaultBuffer is the number of changes buffered for a subscriber, as in
// RethinkDB.
const DefaultBuffer = 100_000

// A FeedOption is an option of Changes and Batches. Of an option that is given
// twice, the last one counts. All of them can be combined with each other and with
// every selection, but for [After] with [IncludeInitial], and [OnOverflow] with
// [Squash]: the stream yields [ErrInvalidOption] then, and ends. The package
// documentation has a table of what the combinations mean.
type FeedOption func(*feedConfig)

type feedConfig struct {
	name        string
	buffer      int
	batch       int // the longest one; of Changes 1
	initial     bool
	after       *uint64
	squashes    bool
	wait        time.Duration
	overflow    Overflow
	hasOverflow bool
	polls       bool
	wake        chan<- struct{}
}

// Buffer sets how many changes are buffered for the subscriber, in place of
// [DefaultBuffer]. If n is below 1, the stream yields [ErrInvalidOption] and ends.
//
// A buffer costs memory only for what is in it, and changes that several
// subscribers of one part of a table have not read yet are held once for all of
// them. A feed with [Squash] has no use for it.
func Buffer(n int) FeedOption { return func(c *feedConfig) { c.buffer = n } }

// Named gives the subscriber a name for [Table.Feeds].
func Named(name string) FeedOption { return func(c *feedConfig) { c.name = name } }

// IncludeInitial makes a stream begin with the present rows: first a change of Kind
// [Initial] for each, with the row as New and Seq 0, in the order of the selection's
// All; then one of Kind [Ready] without a row, whose Seq is that of the last change
// that the rows show; then the changes after that one. Nothing is missed and nothing
// comes twice. It follows RethinkDB's include_initial and include_states.
//
// A position to go on from with [After] may be saved from Ready on.
//
// The rows are those of a snapshot, which takes the same time for many as for few
// and delays no writer. The feed holds it until Ready, outside its [Buffer]. If the
// buffer overflows meanwhile, the notice comes after Ready.
//
// Stages see both kinds. IncludeInitial cannot be combined with [After].
func IncludeInitial() FeedOption { return func(c *feedConfig) { c.initial = true } }

// After makes a stream begin after the change numbered seq: with those that
// [Table.Retain] still holds. If some are not held any more, it begins with one
// [*SkippedError] that counts them, and [OnOverflow] says what follows. A seq that
// the table has not reached is [ErrInvalidOption], for it belongs to another table.
// A dropped table holds nothing: the stream yields [ErrTableDropped] alone, whatever
// it missed.
//
// The position to save is the Seq of the last change handled, or of Ready. A selection
// that seldom changes falls behind the table so: where that matters, take a newer one,
// [Table.Seq] read before a range with [Poll] that came to its end. Give each attempt a
// context of its own, and end it before the next.
//
// What is held when the feed begins does not take the place of what comes after it:
// until the feed has caught up once, its buffer is larger by the number that Retain was
// given. A feed with After reads all of the table's changes, whatever its selection, and
// looks for its own among them: FeedInfo and SkippedError count those of the table.
//
// After cannot be combined with [IncludeInitial]: the rows at seq are yours.
func After(seq uint64) FeedOption { return func(c *feedConfig) { c.after = &seq } }

// Squash makes a stream of sets in place of all changes: of each row that has
// changed since the last set one change, with the Old of then and the New of now,
// however often it was written. Rows that are what they were are left out. The
// changes of a set come in the order of their numbers, which are those of the last
// change to each row.
//
// A set begins with the first change after the last one, and is taken when the loop
// asks for it, wait later at the earliest (also if the table is dropped meanwhile). To
// get each set whole, for a screen to draw it once, use Batches with math.MaxInt. The
// feed holds one change a row and never overflows, and costs each write to its rows an
// operation on a B-tree of its own. If the rows' Equal panics, which then reaches the
// loop's caller, the change that it was about counts as handed out.
//
// A negative wait is [ErrInvalidOption], and so is [OnOverflow] with Squash. It follows
// RethinkDB's squash.
func Squash(wait time.Duration) FeedOption {
	return func(c *feedConfig) { c.squashes, c.wait = true, wait }
}

// An Overflow is what a stream does when its [Buffer] was full and changes had to be
// dropped.
type Overflow uint8

const (
	Skip   Overflow = iota // it yields a SkippedError, and goes on with the changes that are left
	Fail                   // it yields a SkippedError, and ends
	Resync                 // it yields a SkippedError, and goes on as [IncludeInitial] begins: present rows, Ready, changes
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

// OnOverflow sets what a stream does when changes had to be dropped, in place of
// [Skip].
//
// With [Fail] the SkippedError is the final error, and what was still buffered is
// discarded. With [Resync] the SkippedError also counts what was still buffered, for
// the present rows show it; a consumer forgets its rows at the SkippedError and takes
// those that follow. A buffer that is too small for the time that takes makes it begin
// again and again. A table that was dropped has no rows to go on with, so there
// Resync is as Skip.
func OnOverflow(p Overflow) FeedOption {
	return func(c *feedConfig) { c.overflow, c.hasOverflow = p, true }
}

// Poll makes a stream that never waits: a range ends, without an error, when there
// is nothing to read. Then wake gets one value as soon as there is something, which
// includes the final error; after a loop that broke off, at once if something is left.
// So range first, then wait. The send never blocks: wake must have room for one value,
// or some are lost. Several feeds may share it, and it may be nil.
//
// A range goes on for as long as writes come; to see to other things too, break off
// after some changes, and come back when wake says so.
//
// With Poll, one goroutine can follow several feeds, tickers and channels in a select
// loop, and a test can say "these changes and no others" without waiting.
//
// A feed that polls does not wake others as a loop that waits does. If many of them
// wait, a write tells a few, and a short goroutine the others.
func Poll(wake chan<- struct{}) FeedOption {
	return func(c *feedConfig) { c.polls, c.wake = true, wake }
}

func newFeedConfig(opts []FeedOption) (feedConfig, error) {
	c := feedConfig{buffer: DefaultBuffer, batch: 1}
	for _, opt := range opts {
		if opt == nil {
			panic("changefeed: Changes: nil option; leave it out")
		}
		opt(&c)
	}
	return c, c.check()
}

func (c *feedConfig) check() error {
	switch {
	case c.batch < 1:
		return fmt.Errorf("%w: Batches of at most %d: must be at least 1", ErrInvalidOption, c.batch)
	case c.buffer < 1:
		return fmt.Errorf("%w: Buffer(%d): must be at least 1", ErrInvalidOption, c.buffer)
	case c.wait < 0:
		return fmt.Errorf("%w: Squash(%v): must not be negative", ErrInvalidOption, c.wait)
	case c.overflow > Resync:
		return fmt.Errorf("%w: OnOverflow(%v): must be Skip, Fail or Resync", ErrInvalidOption, c.overflow)
	case c.after != nil && c.initial:
		return fmt.Errorf("%w: After with IncludeInitial: a stream begins after a position or with the present rows", ErrInvalidOption)
	case c.hasOverflow && c.squashes:
		return fmt.Errorf("%w: OnOverflow with Squash: a squashed feed never overflows", ErrInvalidOption)
	}
	return nil
}
