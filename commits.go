package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A Commit is one write, or one transaction, with all of its changes to the tables that are
// followed, in the order in which they were made. It is an element of the stream of [Commits].
// With [IncludeInitial] and [Resync], it can also be some present rows of one table, or one
// change of Kind [Ready] for each table.
type Commit []AnyChange

// An AnyChange is a [Change] of one of several tables.
//
// Old and New are pointers to stored rows: for a *Table[K, V], each is a *V, or nil.
// [Table.Typed] returns them with their type. The rows never change again, and must not be
// modified.
type AnyChange struct {
	Table   AnyTable
	History HistoryID // present name of the table's history when the change was made, or zero if Initial
	Seq     uint64    // sequence number in the history
	Kind    Kind
	Old     any // the row before, or nil for an insert
	New     any // the row after, or nil for a delete
}

// Position returns the position after the change.
func (c AnyChange) Position() Position { return Position{c.History, c.Seq} }

// String returns the table's name and the change, as [Change.String] formats it:
//
//	games: 7 update {1 Bob} -> {1 Alice}
func (c AnyChange) String() string {
	if c.Table == nil {
		return None.String()
	}
	return c.Table.Name() + ": " + c.Table.anyTable().changeText(c)
}

// Typed returns a change of this table with the type of its rows. It returns false if c is a
// change of another table.
func (t *Table[K, V]) Typed(c AnyChange) (Change[V], bool) {
	if c.Table != t.self {
		return Change[V]{}, false
	}
	before, _ := c.Old.(*V)
	after, _ := c.New.(*V)
	return Change[V]{Seq: c.Seq, Kind: c.Kind, Old: before, New: after}, true
}

// A logEntry is a change in the ring of a commitSet. It has half the size of an AnyChange, so a
// write to a table that is followed costs less (BenchmarkCommits).
type logEntry struct {
	table    *tableHandle
	seq      uint64
	old, new unsafe.Pointer // as in a Change of the table
}

// A tableHandle is a table under one name of its history, to which one word can refer.
type tableHandle struct {
	txTable
	history HistoryID
}

// setHandleLocked makes later changes have the present name of the table's history.
func (t *Table[K, V]) setHandleLocked() {
	t.handle = &tableHandle{t, t.lineageNow().present()}
}

func (t *Table[K, V]) logEntry(c *Change[V]) logEntry {
	return logEntry{t.handle, c.Seq, unsafe.Pointer(c.Old), unsafe.Pointer(c.New)}
}

// logged is the inverse of logEntry.
func (t *Table[K, V]) logged(e *logEntry) AnyChange {
	before, after := (*V)(e.old), (*V)(e.new)
	c := AnyChange{Table: t.self, History: e.table.history, Seq: e.seq, Kind: kindOf(before, after)}
	if before != nil {
		c.Old = before
	}
	if after != nil {
		c.New = after
	}
	return c
}

func (t *Table[K, V]) changeText(c AnyChange) string {
	typed, _ := t.Typed(c)
	return typed.String()
}

// Commits follows several tables together. It returns the stream of all writes and transactions
// made from now on that change at least one of the tables, each as one [Commit]. [Table.Changes]
// describes how a range behaves, how it ends, and what happens when the loop is too slow. This
// is what differs:
//
// All subscribers see the same order. Two streams, also of different tables, yield the commits
// that are in both in the same order. A transaction comes after every commit that it has read
// from. The sequence numbers of a table have no gaps, except where commits were skipped or the
// table was reset.
//
// A commit is valid until the loop continues. The loop may modify it, and append to it. Its
// delivery allocates nothing, unless it has hundreds of changes.
//
// These options can be used: [Named], [Buffer], [IncludeInitial], [OnOverflow], [Poll] and
// [Track].
//
//   - Buffer counts changes, not commits. A commit is never delivered in part: if one of its
//     changes is dropped, all of them are skipped. A commit with more changes than the buffer
//     has room for is always skipped.
//   - In the [*SkippedError], Count is the number of changes skipped, of all the tables. Table,
//     From and To are not set. After a [Table.Reset] of one or more of the tables, Reset is true,
//     and all unread commits are skipped, also those to other tables.
//   - With IncludeInitial, the stream begins with the present rows of all tables at one moment.
//     They come in the order of the tables that were passed. A commit has several of them, and
//     all of its rows are of one table. Then comes a commit with one change of Kind [Ready] for
//     each table, whose Seq is that of the last change that the table's rows show. [Resync]
//     continues in the same way.
//   - Track gives access to the figures. The feed has no position, and [After] cannot be used.
//
// When one of the tables is dropped, the feed ends after everything that is buffered, with an
// [ErrTableDropped] that names the table. Changes that are made to the others later are not in
// it.
//
// A table that is passed twice counts once. The stream yields [ErrInvalidOption] if there is no
// table. Commits panics if ctx, a table or an option is nil.
//
// A write to one of the tables stores its change once more for each set of tables with it that is
// followed, no matter how many subscribers follow the set (BenchmarkCommits). Commits to tables
// of one set wait for each other for a moment. Other tables pay nothing. To subscribe, to end, and
// to continue after an overflow with Resync, a feed takes the locks of all tables for a moment.
func Commits(ctx context.Context, tables []AnyTable, opts ...FeedOption) Stream[Commit] {
	f, err := newCommitFeed(ctx, tables, opts)
	if err != nil {
		return failed[Commit](err)
	}
	return guardCommits(f.commits)
}

// A commitSet is a set of tables that are followed together. It has one ring for all feeds of
// the same tables. Each of its tables refers to it while there is such a feed.
//
// A commit holds the locks of its tables. It locks mu of all sets that these
// tables are in before it publishes anything, and puts its changes into all of them before it
// unlocks any. Two commits with two sets in common therefore come in the same order in both.
type commitSet struct {
	id     uint64    // sets are locked in this order
	tables []txTable // in the order of their lockIDs
	feeds  feedSet
	open   int        // feeds that have not left, guarded by the locks of all tables
	held   domainList // the locked domains of the tables, guarded by these locks

	mu      sync.Mutex     // guards dropped, and puts into the ring. ring.mu comes after it
	ring    ring[logEntry] // an element continues if the next one is of the same commit
	dropped string         // the name of the table that was dropped first
}

// newCommitSet returns a set of tables, which are in the order of their lockIDs.
func newCommitSet(tables []txTable) *commitSet {
	s := &commitSet{tables: tables}
	s.feeds.subs = newFeedTree()
	s.ring.whole = true
	return s
}

// String describes the set: see [FeedInfo].
func (s *commitSet) String() string {
	var names []string
	for _, t := range s.tables {
		names = append(names, strconv.Quote(t.Name()))
	}
	return "commits of " + strings.Join(names, ", ")
}

// lastSetID is the id of the last set that was made.
var lastSetID atomic.Uint64

// A commitTable is a table as a commitSet sees it.
type commitTable interface {
	Name() string
	commitSets() []*commitSet
	setCommitSetsLocked(sets []*commitSet)
	wasResetLocked() bool // by the transaction that is running
	presentLocked() presentRows
	logged(e *logEntry) AnyChange
	changeText(c AnyChange) string
}

func (t *Table[K, V]) wasResetLocked() bool { return t.tx.refill != nil }

// commitSets returns the sets with this table that are followed, in the order of their ids.
func (t *Table[K, V]) commitSets() []*commitSet {
	if sets := t.sets.Load(); sets != nil {
		return *sets
	}
	return nil
}

func (t *Table[K, V]) setCommitSetsLocked(sets []*commitSet) {
	if len(sets) == 0 {
		t.sets.Store(nil) // so that a write finds out at once
	} else {
		t.sets.Store(&sets)
	}
}

// lockSets begins a commit to the sets, which are in the order of their ids. It is called before
// the rows of the commit are published. A write that depends on one of the rows therefore comes
// later in every set.
func lockSets(sets []*commitSet) {
	for _, s := range sets {
		s.mu.Lock()
	}
}

func unlockSets(sets []*commitSet) {
	for _, s := range sets {
		s.mu.Unlock()
	}
}

// beginCommitLocked locks the table's sets for a single write. In a transaction, it adds the
// change to the log, because the changes of all tables are published in the order in which
// they were made.
func (t *Table[K, V]) beginCommitLocked(sets []*commitSet, c *Change[V]) {
	if tx := t.tx.tx; tx != nil {
		tx.log = append(tx.log, t.logEntry(c))
		return
	}
	lockSets(sets)
	t.locked = sets
}

// publishCommitLocked publishes the change of a single write in the sets that it has locked, and
// unlocks them.
func (t *Table[K, V]) publishCommitLocked(c *Change[V]) (sets []*commitSet) {
	sets, t.locked = t.locked, nil
	for _, s := range sets {
		if !s.ring.isClosed() {
			s.ring.putTableLocked(t.logEntry(c))
			s.ring.publishTableLocked()
		}
	}
	unlockSets(sets)
	return sets
}

// setsLocked returns the sets of the transaction's tables, in the order of their ids. If the
// transaction has logged no change, these are the sets of the tables that it has reset.
func (tx *Tx) setsLocked() (sets []*commitSet) {
	if len(tx.log) == 0 && !tx.resets {
		return nil
	}
	for _, t := range tx.tables {
		if len(tx.log) > 0 || t.wasResetLocked() {
			sets = append(sets, t.commitSets()...)
		}
	}
	slices.SortFunc(sets, func(a, b *commitSet) int { return cmp.Compare(a.id, b.id) })
	return slices.Compact(sets)
}

// publishLocked publishes the transaction's changes in the set. If the transaction has reset one
// of the tables, all feeds report that first.
func (s *commitSet) publishLocked(tx *Tx) {
	if s.ring.isClosed() {
		return
	}
	wasReset := func(t txTable) bool { return t.wasResetLocked() && slices.Contains(s.tables, t) }
	if slices.ContainsFunc(tx.tables, wasReset) {
		s.ring.resetTableLocked(0, s, nil) // the marker can be anything but nil
	}
	for _, c := range tx.log {
		if slices.Contains(s.tables, c.table.txTable) {
			s.ring.putTableLocked(c)
		}
	}
	if s.ring.unpublished() {
		s.ring.publishTableLocked()
	}
}

// wakeSets wakes a loop of each set, after a publication.
func wakeSets(sets []*commitSet) {
	for _, s := range sets {
		if s.ring.hasWaiting() {
			s.ring.wake(1)
		}
	}
}

// drop ends the set's feeds after what is buffered, because a table is dropped.
func (s *commitSet) drop(table string) {
	s.mu.Lock()
	closed := s.ring.close()
	if closed {
		s.dropped = table
	}
	s.mu.Unlock()
	if closed {
		s.ring.wake(1)
	}
}

// droppedError returns the error of a feed whose ring is closed.
func (s *commitSet) droppedError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return commitsError(s.dropped, ErrTableDropped)
}

func commitsError(table string, err error) error {
	return fmt.Errorf("changefeed: commits of %q: %w", table, err)
}

// lockTables locks all tables, or none if a lock panics: see tableMutex in debug.go.
func (s *commitSet) lockTables() {
	s.held = lockDomains(nil, s.tables, (*domain).lock, (*domain).Unlock)
}

func (s *commitSet) unlockTables() {
	held := s.held
	s.held = nil
	held.release((*domain).Unlock)
}

// tryLockTables locks all tables, or none.
func (s *commitSet) tryLockTables() bool {
	held := domainsOf(nil, s.tables)
	if !held.acquire((*domain).TryLock, (*domain).Unlock) {
		return false
	}
	s.held = held
	return true
}

// findOrAddLocked returns the set of the same tables that is followed already. If there is none,
// it adds s to the tables, and returns it.
func (s *commitSet) findOrAddLocked() *commitSet {
	known := s.tables[0].commitSets() // a set is in all of its tables, or in none
	if i := slices.IndexFunc(known, func(other *commitSet) bool { return slices.Equal(other.tables, s.tables) }); i >= 0 {
		return known[i]
	}
	s.id = lastSetID.Add(1) // greater than those of all other sets of these tables, which are locked
	for _, t := range s.tables {
		t.setCommitSetsLocked(append(slices.Clip(t.commitSets()), s))
	}
	return s
}

// leaveLocked counts a feed less. After the last one, the tables forget the set.
func (s *commitSet) leaveLocked() {
	if s.open--; s.open > 0 {
		return
	}
	for _, t := range s.tables {
		t.setCommitSetsLocked(slices.DeleteFunc(slices.Clone(t.commitSets()), func(other *commitSet) bool { return other == s }))
	}
}

// A commitSubscription is the part of a feed of commits that the tables and the context refer
// to. It is to a commitFeed what a [subscription] is to a [feed].
type commitSubscription struct {
	window  window[logEntry]
	set     *commitSet
	about   *about
	id      uint64
	unhook  func() bool                   // stops the context from calling end
	initial atomic.Pointer[presentTables] // to be delivered before commits, or nil
	last    atomic.Pointer[FeedInfo]      // the figures when it ended
}

func (s *commitSubscription) number() uint64 { return s.id }

func (s *commitSubscription) position() Position { return Position{} }

func (s *commitSubscription) info() FeedInfo {
	u := s.window.usage()
	if last := s.last.Load(); last != nil { // stored before the window was closed
		return *last
	}
	u.passed = 0 // there is no sequence number of several tables
	info := u.info(s.id, s.initial.Load() != nil)
	info.Commits = true
	s.about.addTo(&info, s.set.String())
	return info
}

// end ends the subscription and wakes its loop: see [subscription.end].
func (s *commitSubscription) end() {
	if s.remove() {
		s.window.close()
		s.leave()
	}
}

// collected ends a subscription whose stream is garbage: see [subscription.collected].
func (s *commitSubscription) collected() {
	s.unhook()
	if s.remove() {
		s.window.closeQuietly()
		s.leave()
	}
}

// forget is like end, but also stops the context from calling end.
func (s *commitSubscription) forget() {
	if s.unhook != nil {
		s.unhook()
	}
	s.end()
}

func (s *commitSubscription) remove() (ok bool) {
	if ok = s.set.feeds.remove(s); ok {
		s.last.Store(new(s.info()))
	}
	return ok
}

// leave drops the remaining initial rows, and leaves the set. It does not wait for locks: see
// [subscription.leave].
func (s *commitSubscription) leave() {
	s.endInitial()
	if s.set.tryLockTables() {
		defer s.set.unlockTables()
		s.set.leaveLocked()
		return
	}
	go func() {
		s.set.lockTables()
		defer s.set.unlockTables()
		s.set.leaveLocked()
	}()
}

func (s *commitSubscription) endInitial() {
	if initial := s.initial.Swap(nil); initial != nil {
		for _, rows := range initial.tables {
			rows.close()
		}
	}
}

// A commitFeed is the subscriber's side of a feed of commits. It keeps the invariants of a
// [feed].
type commitFeed struct {
	ctx      context.Context
	sub      *commitSubscription
	tables   []txTable // as they were passed
	overflow Overflow
	polls    bool
	wake     chan<- struct{}
	ranging  atomic.Bool

	commit Commit        // its array is used for every commit
	read   []logEntry    // likewise
	notice *SkippedError // to be delivered next, or nil
	final  error         // nil until the feed has ended
}

func newCommitFeed(ctx context.Context, tables []AnyTable, opts []FeedOption) (*commitFeed, error) {
	tx := newTx("Commits", tables) // locks tables in the same order
	c, err := newFeedConfig(ctx, "Commits", opts)
	switch {
	case err != nil:
	case len(tables) == 0:
		err = fmt.Errorf("%w: Commits without a table", ErrInvalidOption)
	case c.after != nil:
		err = fmt.Errorf("%w: Commits with After: a feed of commits has no position", ErrInvalidOption)
	case c.squashes:
		err = fmt.Errorf("%w: Commits with Squash: commits are delivered as they were made", ErrInvalidOption)
	}
	if err != nil {
		return nil, fmt.Errorf("changefeed: commits: %w", err)
	}
	f := &commitFeed{ctx: ctx, overflow: c.overflow, polls: c.polls, wake: c.wake}
	for _, t := range tables {
		if table := t.anyTable(); !slices.Contains(f.tables, table) {
			f.tables = append(f.tables, table)
		}
	}
	if err := f.subscribe(newCommitSet(tx.tables), &c); err != nil {
		return nil, err
	}
	f.sub.unhook = endWith(ctx, f, f.sub)
	return f, nil
}

// subscribe adds the subscription to the set, or to the one of the same tables that is followed
// already. F2
func (f *commitFeed) subscribe(set *commitSet, c *feedConfig) error {
	set.lockTables()
	defer set.unlockTables()
	for _, t := range set.tables {
		if t.isDroppedLocked() {
			return commitsError(t.Name(), ErrTableDropped)
		}
	}
	set = set.findOrAddLocked()
	set.open++
	s := &commitSubscription{set: set, about: c.about(false)}
	f.sub = s
	s.window.notifyOn(c.wake)
	set.ring.openTableLocked(&s.window, uint64(c.buffer))
	if c.initial {
		f.beginInitialLocked()
	}
	set.feeds.add(s, &s.id)
	if c.track != nil {
		c.track.tracked.Store(new(trackedFeed(s)))
	}
	return nil
}

// beginInitialLocked makes the feed continue with the present rows of all tables.
func (f *commitFeed) beginInitialLocked() {
	initial := new(presentTables)
	for _, t := range f.tables {
		initial.tables = append(initial.tables, t.presentLocked())
	}
	f.sub.initial.Store(initial)
}

// commits is the feed's stream.
func (f *commitFeed) commits(yield func(Commit, error) bool) {
	f.begin()
	defer f.end()
	for f.final == nil {
		if f.ctx.Err() != nil {
			f.finish(context.Cause(f.ctx))
			break
		}
		if f.notice != nil {
			if !f.deliverNotice(yield) {
				return
			}
			continue
		}
		if initial := f.sub.initial.Load(); initial != nil {
			if !f.deliverInitial(initial, yield) {
				return
			}
			continue
		}
		w := &f.sub.window
		if w.take(f.ctx, &f.read, 1); len(f.read) > 0 {
			for i := range f.read {
				f.commit = append(f.commit, f.read[i].table.logged(&f.read[i]))
			}
			f.read = recycle(f.read)
			if !f.deliver(yield) {
				return
			}
			continue
		}
		switch {
		case f.ctx.Err() != nil || f.advance():
		case w.drained():
			if f.ctx.Err() == nil { // otherwise the window may have been closed before the ring
				f.finish(f.sub.set.droppedError())
			}
		case f.polls:
			return
		default:
			w.wait()
		}
	}
	yield(nil, f.final)
}

// begin starts a range. The caller must defer end.
func (f *commitFeed) begin() {
	if !f.ranging.CompareAndSwap(false, true) {
		panic("changefeed: another range over the stream is running; call Commits once for each goroutine")
	}
	if f.wake != nil {
		f.sub.window.disarm()
	}
}

// end ends a range: see [feed.end].
func (f *commitFeed) end() {
	defer f.ranging.Store(false) // also keeps f reachable until here
	f.commit = recycle(f.commit) // a panic in the loop's body may have left it
	if f.wake == nil || f.final != nil {
		return
	}
	if f.notice != nil || f.sub.initial.Load() != nil || !f.sub.window.arm() {
		notify(f.wake)
	}
}

// deliver delivers the commit.
func (f *commitFeed) deliver(yield func(Commit, error) bool) (more bool) {
	more = yield(slices.Clip(f.commit), nil)
	f.commit = recycle(f.commit)
	return more
}

// deliverNotice is like [feed.deliverNotice].
func (f *commitFeed) deliverNotice(yield func(Commit, error) bool) (more bool) {
	notice := f.notice
	if f.overflow == Fail {
		f.finish(notice)
		return true
	}
	f.notice = nil
	return yield(nil, notice)
}

// deliverInitial delivers the remaining initial rows, and Ready.
func (f *commitFeed) deliverInitial(initial *presentTables, yield func(Commit, error) bool) (more bool) {
	for ; initial.next < len(initial.tables); initial.next++ {
		if !initial.tables[initial.next].deliver(f, yield) {
			return false
		}
		if f.ctx.Err() != nil {
			return true
		}
	}
	f.sub.endInitial()
	for _, rows := range initial.tables {
		f.commit = append(f.commit, rows.ready())
	}
	return f.deliver(yield)
}

// advance makes the next commits ready. If commits were skipped, it sets the notice, and
// resynchronizes a feed with [Resync]. It returns false if there is nothing to read.
func (f *commitFeed) advance() bool {
	s := f.sub.window.advance()
	if s.skipped > 0 || s.reset != nil {
		f.notice = &SkippedError{Feed: f.sub.about.feedName()}
		f.note(s)
		if f.overflow == Resync {
			f.resync()
		}
	}
	return s.advanced
}

// resync is like [feed.resync].
func (f *commitFeed) resync() {
	set := f.sub.set
	set.lockTables()
	defer set.unlockTables()
	if slices.ContainsFunc(set.tables, txTable.isDroppedLocked) {
		return
	}
	s := f.sub.window.skipAllTableLocked(0)
	if !s.advanced {
		return // the context has ended the subscription
	}
	f.note(s)
	f.beginInitialLocked()
	if f.ctx.Err() != nil {
		f.sub.endInitial() // end may have come before
	}
}

// note adds what was skipped to the notice.
func (f *commitFeed) note(s step) {
	f.notice.Count += s.skipped
	f.notice.Reset = f.notice.Reset || s.reset != nil
}

// finish ends the feed with a final error. Unread commits are dropped.
func (f *commitFeed) finish(err error) {
	f.sub.forget()
	f.final = err
	f.notice = nil
	f.sub.endInitial() // resync may have set it after end cleared it
}

// A presentTables is the present rows that a feed of commits has yet to deliver.
type presentTables struct {
	tables []presentRows
	next   int // the first one that is not delivered. It belongs to the reader
}

// A presentRows is the present rows of one table.
type presentRows interface {
	// deliver delivers the rows that are left, several at a time, until the loop exits or the
	// context is done.
	deliver(f *commitFeed, yield func(Commit, error) bool) (more bool)

	ready() AnyChange
	close()
}

// A tableRows is the present rows of a Table.
type tableRows[K, V any] struct {
	table *Table[K, V]
	rows  *scan[K, V]
	at    Position // after the last change that the rows show
}

func (t *Table[K, V]) presentLocked() presentRows {
	return &tableRows[K, V]{t, t.allPart.scan(nil, false), t.At(t.seq)}
}

// deliver is a reader of the rows' snapshot, because the subscription may end meanwhile.
func (r *tableRows[K, V]) deliver(f *commitFeed, yield func(Commit, error) bool) (more bool) {
	if !r.rows.snapshot.retain() {
		return true // the subscription has ended
	}
	defer r.rows.snapshot.release()
	more = true
	r.rows.each(func() bool {
		for _, row := range r.rows.rows {
			f.commit = append(f.commit, AnyChange{Table: r.table.self, Kind: Initial, New: row})
		}
		more = f.deliver(yield)
		return more && f.ctx.Err() == nil
	})
	return more
}

func (r *tableRows[K, V]) ready() AnyChange {
	return AnyChange{Table: r.table.self, History: r.at.History, Seq: r.at.Seq, Kind: Ready}
}
func (r *tableRows[K, V]) close() { r.rows.close() }
