package changefeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// This is to the second half of the library what model_test.go is to the first: two
// tables as maps and their histories as slices, selections as functions of a row, a
// feed as a list of what it reads and a number that says how far it has come. What is
// found by trees, pages and intervals there is found by looking at everything here.

// A partRow has values for a single-valued, a unique and a multi-valued index.
type partRow struct {
	ID, Team, Seat, Score int
	Tags                  uint8 // a set of 0 to 4
	Act                   int   // the last of several goroutines' transactions that wrote it
}

// badTeam makes the function of an index panic.
const badTeam = -1

func (row *partRow) team() int {
	if row.Team == badTeam {
		panic(errOops)
	}
	return row.Team
}

func (row *partRow) seat() int { return row.Seat }

// tags returns the row's tags in an order of no use, and each twice.
func (row *partRow) tags() (tags []int) {
	for tag := 4; tag >= 0; tag-- {
		if row.Tags>>tag&1 == 1 {
			tags = append(tags, tag, tag)
		}
	}
	return tags
}

// A partTable is a table and its model.
type partTable struct {
	*Table[int, partRow]
	team, tags, seat *Index[int, int, partRow]

	rows    map[int]*partRow  // those that the table stores; as they were, once it is dropped
	history []Change[partRow] // the change numbered s is history[s-1]
	acts    []int             // of each change, the write or transaction that made it
	held    []uint64          // what Retain holds
	retain  int
	dropped bool
}

// rowsAt returns the rows after a change, by making all changes again.
func (t *partTable) rowsAt(seq uint64) map[int]*partRow {
	rows := make(map[int]*partRow)
	for _, c := range t.history[:seq] {
		if c.New == nil {
			delete(rows, c.Old.ID)
		} else {
			rows[c.New.ID] = c.New
		}
	}
	return rows
}

// A partSelection is a selection and its model.
type partSelection struct {
	Selection[int, partRow]
	kind  string
	table *partTable
	in    func(row *partRow) bool // without the predicate
	keep  func(row *partRow) bool // the predicate
	value func(row *partRow) int  // what the rows are ordered by, before their keys
}

// of returns the selection of some rows, in the order of All.
func (s *partSelection) of(rows map[int]*partRow) (selected []*partRow) {
	for _, row := range rows {
		if s.in(row) && s.keep(row) {
			selected = append(selected, row)
		}
	}
	slices.SortFunc(selected, func(a, b *partRow) int {
		return cmp.Or(cmp.Compare(s.value(a), s.value(b)), cmp.Compare(a.ID, b.ID))
	})
	return selected
}

// partSeen is a change as a selection sees it, or one of Kind None if it does not.
func project(c Change[partRow], selects func(row *partRow) bool) Change[partRow] {
	was := c.Old != nil && selects(c.Old)
	is := c.New != nil && selects(c.New)
	switch {
	case was && is:
		return Change[partRow]{Seq: c.Seq, Kind: Update, Old: c.Old, New: c.New}
	case is:
		return Change[partRow]{Seq: c.Seq, Kind: Insert, New: c.New}
	case was:
		return Change[partRow]{Seq: c.Seq, Kind: Delete, Old: c.Old}
	}
	return Change[partRow]{}
}

// partOptions are the options of a feed.
type partOptions struct {
	batch       int // its max; 0: not a feed of batches
	initial     bool
	after       *Position
	squash      bool
	wait        time.Duration
	overflow    Overflow
	hasOverflow bool
	polls       bool
	wakes       bool
	buffer      int
}

// refused returns the names of options that cannot be, or nothing.
func (o *partOptions) refused() []string {
	switch {
	case o.batch < 0:
		return []string{"Batches"}
	case o.buffer < 1:
		return []string{"Buffer"}
	case o.after != nil && o.initial:
		return []string{"After", "IncludeInitial"}
	}
	return nil
}

// A partFeed is a feed and its model.
type partFeed struct {
	partOptions
	stream Stream[[]Change[partRow]] // changes one by one, or batches
	handle *Feed
	saved  uint64 // the last position's number
	cancel context.CancelCauseFunc
	wake   chan struct{}

	name  string
	sel   *partSelection
	reads func(row *partRow) bool // the rows of the scope
	keep  func(row *partRow) bool // and those of them that are handed out

	lost     *SkippedError     // what was not retained, to come first
	start    []Change[partRow] // Initial and Ready to come
	backlog  []partEntry       // what was retained, to come before log
	log      []partEntry       // all that the feed reads
	recorded int               // how much of the history is in log
	at       int               // how much of log it has passed
	passed   uint64            // sequence number
	begun    uint64            // the sequence number at the subscription
	reported uint64
	count    uint64 // delivered

	set    []partEntry // what is left of it
	whole  bool        // it must not be split
	due    time.Time
	sets   int
	act    int         // of what it passed last; of a set, a number of its own; 0: nobody's
	gap    []partEntry // what the last notice told of
	cause  error       // of its context, once that is done
	final  error
	armed  bool // to be woken
	tokens int  // in wake

	view map[int]*partRow // what it handed out, folded over the rows at its beginning
}

type partEntry struct {
	Change[partRow]
	act int
}

// record puts what was written into the log.
func (f *partFeed) record() {
	if f.final != nil {
		return
	}
	t := f.sel.table
	for ; f.recorded < len(t.history); f.recorded++ {
		c := project(t.history[f.recorded], f.reads)
		if c.Kind == None {
			continue
		}
		if f.wait > 0 && len(f.changed()) == 0 {
			f.due = time.Now().Add(f.wait)
		}
		f.log = append(f.log, partEntry{c, t.acts[f.recorded]})
	}
	f.notifyIfReady()
}

// notifyIfReady notifies the feed if there is something to do.
func (f *partFeed) notifyIfReady() {
	something := f.at < len(f.log)
	if f.squash {
		changed := len(f.changed())
		something = changed > 0 && !time.Now().Before(f.due) || f.sel.table.dropped && changed == 0
	}
	if f.armed && (something || f.cause != nil || f.sel.table.dropped && !f.squash) {
		f.armed = false
		f.tokens = 1
		awaitNotified(f.sel.table.Table)
	}
}

// changed returns the rows that have changed since the last set, but not those that
// came and went.
func (f *partFeed) changed() []partEntry {
	byKey := make(map[int]*partEntry)
	for _, e := range f.log[f.at:] {
		key := e.Row().ID
		if row := byKey[key]; row != nil {
			row.New, row.Seq = e.New, e.Seq
		} else {
			byKey[key] = &e
		}
	}
	var changed []partEntry
	for _, e := range byKey {
		if e.Old != nil || e.New != nil {
			changed = append(changed, *e)
		}
	}
	slices.SortFunc(changed, func(a, b partEntry) int { return cmp.Compare(a.Seq, b.Seq) })
	return changed
}

// step passes one element: ok, if there is one. It is of Kind None if the feed's rows
// are not in it.
func (f *partFeed) step() (c Change[partRow], err error, ok bool) { //nolint:revive // as a stream has it, and ok
	unread := len(f.log) - f.at
	f.act, f.gap = 0, nil
	switch {
	case f.final != nil:
	case f.cause != nil:
		f.final = f.cause
	case f.lost != nil:
		if f.overflow == Fail {
			f.final = f.lost
		}
		f.passed = f.lost.To
		err, f.lost = f.lost, nil
		return c, err, true
	case len(f.start) > 0:
		c, f.start = f.start[0], f.start[1:]
		return c, nil, true
	case len(f.backlog) > 0:
		e := f.backlog[0]
		f.backlog = f.backlog[1:]
		f.count++
		f.passed, f.act = e.Seq, e.act
		if len(f.backlog) == 0 {
			f.passed = f.begun
		}
		return project(e.Change, f.selects), nil, true
	case f.squash:
		return f.stepSquash()
	case unread > f.buffer:
		return c, f.skip(), true
	case unread > 0:
		e := f.log[f.at]
		f.at++
		f.count++
		f.passed, f.act = e.Seq, e.act
		return project(e.Change, f.keep), nil, true
	case f.sel.table.dropped:
		f.final = ErrTableDropped
	default:
		return c, nil, false
	}
	return c, f.final, true
}

// skip passes what the buffer did not hold. "Count counts changes of what the feed
// reads. From is one more than the Seq last passed, To one less than the next held."
func (f *partFeed) skip() *SkippedError {
	next := len(f.log) - f.buffer
	t := f.sel.table
	notice := &SkippedError{From: f.passed + 1, Table: t.Name(), Feed: f.name}
	switch {
	case f.overflow == Resync && !t.dropped:
		next = len(f.log)
		notice.To = uint64(len(t.history))
		f.start = f.initialRows()
	default:
		notice.To = f.log[next].Seq - 1
	}
	f.gap = f.log[f.at:next]
	notice.Count = uint64(len(f.gap))
	f.reported += notice.Count
	f.at, f.passed = next, notice.To
	if f.overflow == Fail {
		f.final = notice
	}
	return notice
}

func (f *partFeed) initialRows() (start []Change[partRow]) {
	for _, row := range f.sel.of(f.sel.table.rows) {
		start = append(start, Change[partRow]{Kind: Initial, New: row})
	}
	return append(start, Change[partRow]{Kind: Ready, Seq: uint64(len(f.sel.table.history))})
}

func (f *partFeed) stepSquash() (c Change[partRow], err error, ok bool) { //nolint:revive // see step
	if len(f.set) == 0 {
		changed := f.changed()
		switch {
		case len(changed) == 0 && f.sel.table.dropped:
			f.final = ErrTableDropped
			return c, f.final, true
		case len(changed) == 0 || time.Now().Before(f.due):
			return c, nil, false
		}
		f.set = changed
		f.whole = f.joined()
		f.at = len(f.log)
		f.sets++
	}
	c, f.set = f.set[0].Change, f.set[1:]
	if f.whole {
		f.act = -f.sets
	}
	if c.Old != nil && c.New != nil && *c.Old == *c.New {
		return Change[partRow]{}, nil, true
	}
	f.count++
	return project(c, f.keep), nil, true
}

// joined reports whether changes of one transaction are in the set to come. Those after
// which no row was left in it do not count.
func (f *partFeed) joined() (joined bool) {
	for i := f.at; i < len(f.log); i++ {
		if i+1 < len(f.log) && f.log[i+1].act == f.log[i].act {
			joined = true
			continue
		}
		until := *f
		until.log = f.log[:i+1]
		if len(until.changed()) == 0 {
			joined = false
		}
	}
	return joined
}

// next passes all up to an element that is handed out, or an error; ok, if there is
// one.
func (f *partFeed) next() (c Change[partRow], err error, ok bool) { //nolint:revive // see step
	for c, err, ok = f.step(); ok && err == nil && c.Kind == None; {
		c, err, ok = f.step()
	}
	return c, err, ok
}

// peek returns what next would return, of a feed that may wait for it.
func (f *partFeed) peek(waits bool) (c Change[partRow], err error, ok bool) { //nolint:revive // see step
	ahead := *f
	if waits {
		ahead.due = time.Time{}
	}
	return ahead.next()
}

// skipHidden passes what is not handed out before the next element that is, or the error.
func (f *partFeed) skipHidden() {
	for {
		ahead := *f
		if c, err, ok := ahead.step(); !ok || err != nil || c.Kind != None {
			return
		}
		f.step()
	}
}

// continues reports whether what the feed passed last belongs together with what it
// would pass next.
func (f *partFeed) continues() bool {
	if len(f.backlog) > 0 {
		return f.act != 0 && f.backlog[0].act == f.act
	}
	if f.squash {
		return f.act != 0 && len(f.set) > 0
	}
	overflows := len(f.log)-f.at > f.buffer
	return f.act != 0 && f.at < len(f.log) && f.log[f.at].act == f.act && !overflows
}

// info is what Feeds tells. Delivered + Skipped + Buffered is what was appended (R2),
// but not of a squash, of which buffered is the number of rows.
func (f *partFeed) info() FeedInfo {
	info := FeedInfo{Name: f.name, Initial: len(f.start) > 0, Delivered: f.count, Skipped: f.reported}
	if f.squash {
		info.Buffered = len(f.backlog) + len(f.set) + len(f.changed())
		return info
	}
	info.Capacity, info.Seq = f.buffer, f.passed
	info.Buffered = min(len(f.log)-f.at, f.buffer)
	info.Skipped += uint64(len(f.log) - f.at - info.Buffered)
	info.Buffered += len(f.backlog)
	return info
}

// equal returns the number of rows of a squash that are what they were.
func (f *partFeed) equal() (n int) {
	for _, e := range slices.Concat(f.set, f.changed()) {
		if e.Old != nil && e.New != nil && *e.Old == *e.New {
			n++
		}
	}
	return n
}

// A partWrite is a write to a table, and what it shall put in the place of a row.
type partWrite struct {
	name string
	key  int
	do   func(w rowWriter[partRow]) (Change[partRow], error)
	next func(old *partRow) (*partRow, error)
}

// A partRun does the same to two tables and to their models, and compares.
type selectionRun struct {
	require.TestingT
	roll    func(n int) int
	reached map[string]int

	weights partWeights
	kinds   []string // of selections
	tables  [2]*partTable
	feeds   []*partFeed
	named   int
	act     int
	now     time.Time
	inside  bool // a loop's body runs, or a transaction
}

// partWeights say how often a run does what.
type partWeights struct{ write, transact, read, follow, other int }

func newSelectionRun(t *testing.T, weights partWeights, roll func(n int) int, reached map[string]int) *selectionRun {
	r := &selectionRun{TestingT: t, weights: weights, kinds: partKinds(), roll: roll, reached: reached, now: time.Now()}
	for i := range r.tables {
		t := &partTable{
			Table: NewTable(fmt.Sprint("table ", i), func(row *partRow) int { return row.ID }),
			rows:  map[int]*partRow{},
		}
		r.tables[i] = t
		for id := range roll(8) { // rows that were there before the indexes
			r.write(t, t, r.randomWrite("Insert", partRow{ID: id, Seat: id, Team: roll(4), Tags: uint8(roll(32))}))
		}
		var err error
		t.team = NewIndex(t.Table, "team", (*partRow).team)
		t.tags = NewMultiIndex(t.Table, "tags", (*partRow).tags)
		t.seat, err = NewUniqueIndex(t.Table, "seat", (*partRow).seat)
		require.NoError(r, err)
	}
	t.Cleanup(func() { // after a failure, nothing of the bubble is left to the collector
		for _, f := range r.feeds {
			f.cancel(errModelCancelled)
		}
		synctest.Wait()
	})
	return r
}

func (r *selectionRun) randomTable() *partTable { return r.tables[r.roll(2)] }

// step does one random thing.
func (r *selectionRun) step() {
	w := &r.weights
	op := r.roll(w.write + w.transact + w.read + w.follow + w.other)
	is := func(weight int) bool {
		op -= weight
		return op < 0
	}
	switch {
	case is(w.write):
		n := 1
		if r.roll(24) == 0 {
			n = r.roll(100)
		}
		for t := r.randomTable(); n > 0; n-- {
			r.writeAlone(t)
		}
	case is(w.transact):
		r.transact()
	case is(w.read):
		if len(r.feeds) > 0 {
			n := 1 + r.roll(6)
			if r.roll(3) == 0 {
				n = math.MaxInt
			}
			r.read(r.feeds[r.roll(len(r.feeds))], n)
		}
	case is(w.follow):
		r.follow()
	default:
		r.other()
	}
	r.compare()
}

func (r *selectionRun) other() {
	t := r.randomTable()
	switch r.roll(16) {
	case 15:
		t.Fork()
	case 0, 1, 2:
		n := []int{-1, 0, 1, 3, 10, 60}[r.roll(6)]
		t.Retain(n)
		t.retain = max(n, 0)
		t.held = t.held[max(0, len(t.held)-t.retain):]
	case 3:
		if len(r.feeds) > 0 {
			r.cancelFeed(r.feeds[r.roll(len(r.feeds))])
		}
	case 4:
		if r.roll(12) == 0 {
			r.drop(t)
		}
	case 5, 6, 7:
		time.Sleep(time.Duration(1+r.roll(4)) * time.Second / 2) // of the bubble's clock
		r.tick()
	default:
		r.compareRows(t, 3)
	}
}

// tick takes note that time has gone by.
func (r *selectionRun) tick() {
	synctest.Wait() // for timers
	r.now = time.Now()
	for _, f := range r.feeds {
		f.notifyIfReady()
	}
}

// randomRow returns a row that may be in any selection, and one time in 24 one that
// an index cannot take.
func (r *selectionRun) randomRow() partRow {
	row := partRow{ID: r.roll(10), Team: r.roll(4), Seat: r.roll(12), Score: r.roll(4), Tags: uint8(r.roll(32))}
	if r.roll(24) == 0 {
		row.Team = badTeam
	}
	return row
}

var partWriteNames = []string{"Insert", "Upsert", "Replace", "Delete", "Update", "Update", "Compute", "Compute"}

// partEdits are what an update does to a row, by another one.
var partEdits = []func(row *partRow, by partRow){
	func(*partRow, partRow) {},
	func(row *partRow, by partRow) { row.Team = by.Team },
	func(row *partRow, by partRow) { row.Seat = by.Seat },
	func(row *partRow, by partRow) { row.Tags = by.Tags },
	func(row *partRow, by partRow) { row.Score = by.Score },
	func(row *partRow, by partRow) { by.ID = row.ID; *row = by },
	func(row *partRow, by partRow) { by.ID = row.ID + 1; *row = by },
	func(row *partRow, by partRow) { *row = by; panic(errOops) },
}

func (r *selectionRun) randomWrite(name string, row partRow) partWrite {
	w := partWrite{name: name, key: row.ID}
	switch name {
	case "Insert":
		w.do = func(w rowWriter[partRow]) (Change[partRow], error) { return w.Insert(row) }
		w.next = func(old *partRow) (*partRow, error) {
			if old != nil {
				return nil, ErrDuplicateKey
			}
			return &row, nil
		}
	case "Upsert":
		w.do = func(w rowWriter[partRow]) (Change[partRow], error) { return w.Upsert(row) }
		w.next = func(*partRow) (*partRow, error) { return &row, nil }
	case "Replace":
		w.do = func(w rowWriter[partRow]) (Change[partRow], error) { return w.Replace(row) }
		w.next = func(old *partRow) (*partRow, error) { return &row, found(old) }
	case "Delete":
		w.do = func(w rowWriter[partRow]) (Change[partRow], error) { return w.Delete(row.ID) }
		w.next = func(old *partRow) (*partRow, error) { return nil, found(old) }
	case "Update":
		edit := partEdits[r.roll(len(partEdits))]
		w.do = func(w rowWriter[partRow]) (Change[partRow], error) {
			return w.Update(row.ID, func(old *partRow) { edit(old, row) })
		}
		w.next = func(old *partRow) (*partRow, error) {
			if old == nil {
				return nil, ErrNotFound
			}
			edited := *old
			edit(&edited, row)
			return &edited, sameKey(edited.ID, row.ID)
		}
	case "Compute":
		edit, remove := partEdits[r.roll(len(partEdits))], r.roll(4) == 0
		compute := func(old *partRow) *partRow {
			if remove {
				return nil
			}
			computed := partRow{ID: row.ID, Seat: row.Seat}
			if old != nil {
				computed = *old
			}
			edit(&computed, row)
			return &computed
		}
		w.do = func(w rowWriter[partRow]) (Change[partRow], error) { return w.Compute(row.ID, compute) }
		w.next = func(old *partRow) (*partRow, error) {
			computed := compute(old)
			if computed == nil {
				return nil, nil
			}
			return computed, sameKey(computed.ID, row.ID)
		}
	}
	return w
}

func found(row *partRow) error {
	if row == nil {
		return ErrNotFound
	}
	return nil
}

func sameKey(a, b int) error {
	if a != b {
		return ErrKeyChanged
	}
	return nil
}

// want returns what a write must do to the table's rows, but for its Seq.
func (t *partTable) want(w partWrite) (c Change[partRow], err error) {
	if t.dropped {
		return c, ErrTableDropped
	}
	c.Old = t.rows[w.key]
	if c.New, err = w.next(c.Old); err != nil {
		return Change[partRow]{}, err
	}
	switch {
	case c.Old == nil && c.New == nil:
		return c, nil
	case c.Old == nil:
		c.Kind = Insert
	case c.New == nil:
		c.Kind = Delete
		return c, nil
	case *c.Old == *c.New:
		c.New = c.Old
		return c, nil
	default:
		c.Kind = Update
	}
	c.New.team()
	for key, other := range t.rows {
		if key != w.key && other.Seat == c.New.Seat {
			return Change[partRow]{}, errPartSeat
		}
	}
	return c, nil
}

// errPartSeat is what a write must fail with if it would break the unique index.
var errPartSeat = fmt.Errorf("seat: %w", ErrDuplicateKey)

// write makes a write on both sides.
func (r *selectionRun) write(t *partTable, w rowWriter[partRow], op partWrite) {
	want, wantErr := attempt(func() (Change[partRow], error) { return t.want(op) })
	got, err := attempt(func() (Change[partRow], error) { return op.do(w) })
	if wantErr != nil {
		require.ErrorIs(r, err, cmp.Or(errors.Unwrap(wantErr), wantErr), op.name)
		if wantErr == errPartSeat {
			require.ErrorContains(r, err, `unique index "seat"`)
		}
		require.Zero(r, got)
		r.reached[op.name+": "+wantErr.Error()]++
		return
	}
	require.NoError(r, err, op.name)
	r.reached[op.name+": "+got.Kind.String()]++
	require.Equal(r, want.Kind, got.Kind, op.name)
	require.True(r, want.Old == got.Old, "%s: Old is not the row that was stored", op.name)
	if got.Kind == None {
		require.True(r, got.Old == got.New && got.Seq == 0)
		return
	}
	require.Equal(r, want.New, got.New, op.name)
	require.Equal(r, uint64(len(t.history)+1), got.Seq)
	t.history = append(t.history, got)
	t.acts = append(t.acts, r.act)
	if got.New == nil {
		delete(t.rows, op.key)
	} else {
		t.rows[op.key] = got.New
	}
}

func (r *selectionRun) writeAlone(t *partTable) {
	r.act++
	before := len(t.history)
	r.write(t, t, r.randomWrite(partWriteNames[r.roll(len(partWriteNames))], r.randomRow()))
	if len(t.history) == before {
		r.compareRows(t, 1) // T4
	}
	r.commit(t, before)
	r.compare()
}

// commit publishes what was written since.
func (r *selectionRun) commit(t *partTable, since int) {
	for _, c := range t.history[since:] {
		t.held = append(t.held, c.Seq)
	}
	t.held = t.held[max(0, len(t.held)-t.retain):]
	for _, f := range r.feeds {
		if f.sel.table == t {
			f.record()
		}
	}
}

// transact makes writes in a transaction, which fails half of the time. T1, T4
func (r *selectionRun) transact() {
	r.act++
	given := [][]int{{0}, {1}, {0, 1}, {1, 0}, {1, 0, 1}}[r.roll(5)]
	var tables []AnyTable
	var dropped bool
	type state struct {
		rows map[int]*partRow
		seq  int
	}
	before := make(map[*partTable]state)
	for _, i := range given {
		t := r.tables[i]
		tables = append(tables, t.Table)
		before[t] = state{maps.Clone(t.rows), len(t.history)}
		dropped = dropped || t.dropped
	}
	fate := r.roll(6)
	called := false
	_, err := attempt(func() (Change[partRow], error) {
		return Change[partRow]{}, Transact(func(tx *Tx) error {
			called = true
			for range r.roll(8) {
				t := r.tables[given[r.roll(len(given))]]
				in := t.In(tx)
				r.write(t, in, r.randomWrite(partWriteNames[r.roll(len(partWriteNames))], r.randomRow()))
				r.compareInside(t, in)
			}
			switch fate {
			case 0, 1:
				return errPartFate
			case 2:
				panic(errOops)
			}
			return nil
		}, tables...)
	})
	var wantErr error
	switch {
	case dropped:
		wantErr = ErrTableDropped
		require.False(r, called)
	case fate < 2:
		wantErr = errPartFate
	case fate == 2:
		wantErr = errOops
	}
	if wantErr == nil {
		require.NoError(r, err)
	} else {
		require.ErrorIs(r, err, wantErr)
	}
	written := 0
	for t, was := range before {
		written += min(1, len(t.history)-was.seq)
		if wantErr != nil { // all is as it was
			t.rows, t.history, t.acts = was.rows, t.history[:was.seq], t.acts[:was.seq]
		}
	}
	for _, i := range slices.Compact(slices.Sorted(slices.Values(given))) {
		t := r.tables[i]
		r.compareRows(t, 2)
		r.commit(t, before[t].seq)
	}
	r.compare()
	r.reached[fmt.Sprintf("transaction over %d of %d tables: %v", written, len(before), wantErr)]++
}

var errPartFate = errors.New("the transaction is to fail")

// compareInside compares what a transaction sees.
func (r *selectionRun) compareInside(t *partTable, in TxTable[int, partRow]) {
	require.Equal(r, len(t.rows), in.Len())
	key := r.roll(10)
	row, ok := in.Get(key)
	require.Equal(r, t.rows[key] != nil, ok)
	if ok {
		require.Equal(r, *t.rows[key], row)
	}
	if r.roll(4) == 0 {
		rows := maps.Collect(in.All())
		require.Len(r, rows, len(t.rows))
		for key, row := range rows {
			require.Equal(r, *t.rows[key], row)
		}
	}
}

// randomSelection returns one of any kind, which may well be empty.
func (r *selectionRun) randomSelection(t *partTable) *partSelection {
	s := &partSelection{table: t, kind: r.kinds[r.roll(len(r.kinds))], keep: func(*partRow) bool { return true }, value: func(*partRow) int { return 0 }}
	kind, where := strings.CutSuffix(s.kind, ".Where")
	from, to := r.roll(12), r.roll(13)
	bounds := func(v int) bool { return from <= v && v < to }
	some := make([]int, r.roll(5)) // some of them twice
	for i := range some {
		some[i] = r.roll(12)
	}
	shapes := []func(v int) bool{
		func(v int) bool { return v == from }, bounds, func(v int) bool { return v >= from }, func(v int) bool { return slices.Contains(some, v) },
	}

	byKey := func(accept func(v int) bool) { s.in = func(row *partRow) bool { return accept(row.ID) } }
	byIndex := func(x *Index[int, int, partRow], values func(row *partRow) []int, domain int) {
		from, to = from%domain, to%(domain+1)
		shape := map[string]int{"Equal": 0, "Range": 1, "From": 2, "Any": 3}[kind[strings.LastIndex(kind, ".")+1:]]
		s.Selection = [...]func() Selection[int, partRow]{
			func() Selection[int, partRow] { return x.Equal(from) },
			func() Selection[int, partRow] { return x.Range(from, to) },
			func() Selection[int, partRow] { return x.From(from) },
			func() Selection[int, partRow] {
				return x.Any(slices.DeleteFunc(slices.Clone(some), func(v int) bool { return v >= domain })...)
			},
		}[shape]()
		s.in = func(row *partRow) bool { return slices.ContainsFunc(values(row), shapes[shape]) }
		s.value = func(row *partRow) int {
			return slices.Min(slices.DeleteFunc(values(row), func(v int) bool { return !shapes[shape](v) }))
		}
	}
	index, _, _ := strings.Cut(kind, ".")
	switch index {
	case "Table":
		s.Selection = t.Selection()
		s.in = func(*partRow) bool { return true }
	case "Row":
		s.Selection = t.Row(from)
		byKey(shapes[0])
	case "Rows":
		s.Selection = t.Rows(some...)
		byKey(shapes[3])
	case "Range":
		s.Selection = t.Range(from, to)
		byKey(shapes[1])
	case "From":
		s.Selection = t.From(from)
		byKey(shapes[2])
	case "Index":
		byIndex(t.team, func(row *partRow) []int { return []int{row.Team} }, 4)
	case "MultiIndex":
		byIndex(t.tags, (*partRow).tags, 5)
	case "UniqueIndex":
		byIndex(t.seat, func(row *partRow) []int { return []int{row.Seat} }, 12)
	}
	if where {
		s.keep = func(row *partRow) bool { return row.Score >= 1 }
		s.Selection = s.Where(s.keep)
		if r.roll(4) == 0 {
			odd := func(row *partRow) bool { return row.Seat%2 == 1 }
			s.Selection = s.Where(odd)
			s.keep = func(row *partRow) bool { return odd(row) && row.Score >= 1 }
		}
	}
	return s
}

// compareRows compares n random selections of a table, and the table.
func (r *selectionRun) compareRows(t *partTable, n int) {
	compare := func(s *partSelection) {
		var want []partRow
		if !t.dropped {
			for _, row := range s.of(t.rows) {
				want = append(want, *row)
			}
		}
		var all, backward []partRow
		for key, row := range s.All() {
			require.Equal(r, row.ID, key)
			all = append(all, row)
		}
		for _, row := range s.Backward() {
			backward = append(backward, row)
		}
		slices.Reverse(backward)
		require.True(r, slices.Equal(want, all), "%s: %v is not %v", s.kind, all, want)
		require.True(r, slices.Equal(want, backward), "%s backward: %v is not %v", s.kind, backward, want)
		require.Equal(r, len(want), s.Len(), s.kind)
		if len(want) > 1 {
			r.reached["read: "+s.kind]++
		}
	}
	for range n {
		compare(r.randomSelection(t))
	}
	everything := &partSelection{
		Selection: t.team.From(0), kind: "all of an index",
		in: func(*partRow) bool { return true }, keep: func(*partRow) bool { return true }, value: (*partRow).team,
	}
	compare(everything)
	rows := maps.Collect(t.All())
	present := t.rows
	if t.dropped {
		present = nil
	}
	require.Len(r, rows, len(present))
	for key, row := range rows {
		require.Equal(r, *present[key], row)
	}
}

// compare compares all that costs little.
func (r *selectionRun) compare() {
	for _, t := range r.tables {
		rows := len(t.rows)
		if t.dropped {
			rows = 0
		}
		require.Equal(r, uint64(len(t.history)), t.Seq())
		require.Equal(r, rows, t.Len())
		var want []FeedInfo
		var of []*partFeed
		for _, f := range r.feeds {
			if f.sel.table == t && f.cause == nil && f.final == nil {
				want = append(want, f.info())
				of = append(of, f)
			}
		}
		infos := t.Feeds()
		require.Equal(r, len(want), len(infos))
		last := uint64(0)
		for i, f := range of {
			if f.squash { // it says less, and equal rows may count until they are left out
				require.LessOrEqual(r, infos[i].Seq, t.Seq())
				require.LessOrEqual(r, infos[i].Buffered, want[i].Buffered)
				require.GreaterOrEqual(r, infos[i].Buffered, want[i].Buffered-f.equal())
				want[i].Seq, want[i].Buffered = infos[i].Seq, infos[i].Buffered
			}
			require.Greater(r, infos[i].ID, last)
			last = infos[i].ID
			infos[i].ID = 0
			behind := uint64(0)
			if want[i].Buffered > 0 {
				behind = max(t.Seq()-want[i].Seq, uint64(want[i].Buffered))
			}
			require.Equal(r, behind, infos[i].Lag)
			infos[i] = figures(infos[i])
			if want[i] != infos[i] {
				require.Equal(r, want[i], infos[i])
			}
		}
	}
	for _, f := range r.feeds {
		if f.tokens != len(f.wake) { // "wake gets one value when something is [buffered]"
			require.Equal(r, f.tokens, len(f.wake), f.name)
		}
	}
}

// randomOptions returns options of which one time in 8 some cannot be.
func (r *selectionRun) randomOptions(t *partTable) (o partOptions) {
	seq := uint64(len(t.history))
	o.buffer = []int{1, 2, 5, 64, DefaultBuffer, DefaultBuffer}[r.roll(6)]
	begin := r.roll(8)
	o.initial = begin < 3
	if begin >= 5 {
		back := r.roll(12)
		if begin == 7 {
			back = r.roll(int(seq) + 1)
		}
		o.after = new(Position)
		if t.Table != nil {
			*o.after = r.positionAt(t, seq-min(seq, uint64(back)))
		}
	}
	if r.roll(3) == 0 {
		o.squash, o.wait = true, []time.Duration{0, 0, time.Second, 3 * time.Second}[r.roll(4)]
	}
	if r.roll(2) == 0 {
		o.hasOverflow, o.overflow = true, Overflow(r.roll(3))
	}
	if r.roll(3) == 0 {
		o.batch = []int{1, 2, 3, 100}[r.roll(4)]
	}
	o.polls = r.roll(2) == 0
	o.wakes = o.polls && r.roll(2) == 0
	switch r.roll(32) {
	case 0:
		o.buffer = -r.roll(2)
	case 1:
		o.batch = -1
	case 2:
		o.initial, o.after = true, new(Position)
	}
	return o
}

// positionAt returns a position after a change, under one of the names that the history had
// then or has got since, or sometimes a position of another kind.
func (r *selectionRun) positionAt(t *partTable, seq uint64) Position {
	lineage := t.Lineage()
	switch r.roll(12) {
	case 0:
		return Position{}
	case 1:
		return r.tables[1-slices.Index(r.tables[:], t)].At(seq)
	case 2:
		return Position{lineage[r.roll(len(lineage))].History, seq}
	case 3:
		return t.At(uint64(len(t.history) + 1))
	}
	return t.At(seq)
}

// has reports whether the table's history has a position.
func (t *partTable) has(p Position) bool {
	if p.IsZero() {
		return true
	}
	for _, name := range t.Lineage() {
		if name.History == p.History {
			return p.Seq <= name.Seq
		}
	}
	return false
}

// follow subscribes to a random selection with random options.
func (r *selectionRun) follow() {
	if len(r.feeds) >= 14 { // room for a new one
		for _, f := range r.feeds[:4] {
			r.cancelFeed(f)
		}
		r.feeds = slices.DeleteFunc(r.feeds, func(f *partFeed) bool { return f.final != nil || f.cause != nil })
	}
	t := r.randomTable()
	r.named++
	f := &partFeed{partOptions: r.randomOptions(t), sel: r.randomSelection(t)}
	f.name = fmt.Sprintf("feed %d of %s with %+v", r.named, f.sel.kind, f.partOptions)

	f.handle = new(Feed)
	opts := []FeedOption{Named(f.name), Track(f.handle)}
	if f.buffer != DefaultBuffer {
		opts = append(opts, Buffer(f.buffer))
	}
	if f.initial {
		opts = append(opts, IncludeInitial())
	}
	if f.after != nil {
		opts = append(opts, After(*f.after))
	}
	if f.squash {
		opts = append(opts, Squash(f.wait))
	}
	if f.hasOverflow {
		opts = append(opts, OnOverflow(f.overflow))
	}
	if f.wakes {
		f.wake = make(chan struct{}, 1)
	}
	if f.polls {
		opts = append(opts, Poll(f.wake))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f.cancel = cancel
	born := r.roll(24) == 0
	if born {
		cancel(errModelCancelled)
	}
	isTable := f.sel.kind == "Table"
	switch {
	case f.batch == 0 && isTable:
		f.stream = onePart(t.Changes(ctx, opts...))
	case f.batch == 0:
		f.stream = onePart(f.sel.Changes(ctx, opts...))
	case isTable:
		f.stream = t.Batches(ctx, f.batch, opts...)
	default:
		f.stream = f.sel.Batches(ctx, f.batch, opts...)
	}
	synctest.Wait() // for a context that is done
	f.begin(born)
	r.feeds = append(r.feeds, f)
	if f.final != nil {
		r.reached["born ended: "+f.final.Error()]++
		if names := f.refused(); names != nil {
			_, err, _ := take1(f.stream)
			for _, name := range names {
				require.ErrorContains(r, err, name)
			}
			r.reached[fmt.Sprint("refused: ", names)]++
		}
	}
}

func onePart(s Stream[Change[partRow]]) Stream[[]Change[partRow]] {
	return Map(s, func(c Change[partRow]) []Change[partRow] { return []Change[partRow]{c} })
}

// take1 returns the next pair of a stream, which must not have to wait.
func take1[T any](s Stream[T]) (v T, err error, ok bool) { //nolint:revive // as a stream has it, and ok
	for v, err = range s {
		return v, err, true
	}
	return v, nil, false
}

// begin subscribes the model.
func (f *partFeed) begin(cancelled bool) {
	t := f.sel.table
	seq := uint64(len(t.history))
	switch {
	case f.refused() != nil:
		f.final = ErrInvalidOption
		return
	case t.dropped:
		f.final = ErrTableDropped
		return
	case f.after != nil && f.overflow != Resync && !t.has(*f.after):
		f.final = ErrOtherHistory
		return
	case cancelled:
		f.cause = errModelCancelled
	}
	f.reads, f.keep = f.sel.in, f.sel.keep
	f.view = make(map[int]*partRow)
	f.passed, f.begun, f.recorded = seq, seq, len(t.history)
	if f.sel.kind == "Table" || f.sel.kind == "Table.Where" {
		f.reads = func(*partRow) bool { return true }
	}
	switch {
	case f.initial:
		f.start = f.initialRows()
	case f.after == nil:
		f.fill(t.rows)
	default:
		f.beginAfter(*f.after)
	}
}

// selects reports whether a row is in the feed's selection.
func (f *partFeed) selects(row *partRow) bool { return f.sel.in(row) && f.sel.keep(row) }

func (f *partFeed) fill(rows map[int]*partRow) {
	for _, row := range f.sel.of(rows) {
		f.view[row.ID] = row
	}
}

// beginAfter begins with the changes of the table that are retained after a position.
func (f *partFeed) beginAfter(after Position) {
	t := f.sel.table
	if !t.has(after) {
		after = Position{}
	}
	f.fill(t.rowsAt(after.Seq))
	first := uint64(len(t.history)) // the last one that is not held
	if len(t.held) > 0 {
		first = t.held[0] - 1
	}
	first = max(first, after.Seq)
	f.passed = after.Seq
	if f.overflow == Resync && (after.IsZero() || first > after.Seq) {
		f.lost = &SkippedError{f.begun - after.Seq, after.Seq + 1, f.begun, t.Name(), f.name, false}
		f.start, f.passed = f.initialRows(), f.begun
		return
	}
	if first > after.Seq {
		f.lost = &SkippedError{first - after.Seq, after.Seq + 1, first, t.Name(), f.name, false}
		f.reported = f.lost.Count
	}
	for i := first; i < f.begun; i++ {
		f.backlog = append(f.backlog, partEntry{t.history[i], t.acts[i]})
	}
}

// cancelFeed ends a feed's context, and waits until the table has heard of it.
func (r *selectionRun) cancelFeed(f *partFeed) {
	f.cancel(errModelCancelled)
	synctest.Wait()
	if f.final == nil && f.cause == nil {
		f.cause = errModelCancelled
		f.notifyIfReady()
	}
}

func (r *selectionRun) drop(t *partTable) {
	t.Drop()
	t.dropped = true
	for _, f := range r.feeds {
		if f.sel.table == t && f.final == nil && f.cause == nil {
			f.notifyIfReady()
		}
	}
}

// read reads up to n times, as far as there is something, with now and then a write
// or a cancellation in the loop's body.
func (r *selectionRun) read(f *partFeed, n int) {
	for again := true; again; {
		if _, _, ok := f.peek(true); !ok && !f.polls {
			return // a range would wait
		}
		again = r.readOnce(f, &n)
	}
}

// readOnce ranges over the feed. It is to be called again if the feed knows more than
// it has handed out, so that the model would not know when it came to know it.
func (r *selectionRun) readOnce(f *partFeed, n *int) (again bool) {
	if f.wake != nil { // whatever there is, the range sees to it
		select {
		case <-f.wake:
			r.reached["woken"]++
		default:
		}
		f.tokens, f.armed = 0, false
	}
	fails := r.roll(8) == 0
	defer func() {
		if p := recover(); p != nil && p != any(errOops) {
			panic(p)
		}
	}()
	ended, broken := false, false
	defer func() {
		if broken {
			f.leaves(again)
		}
	}()
	for got, err := range f.stream {
		require.False(r, ended, "a pair after the final error")
		r.expect(f, got, err)
		if ended = f.final != nil; ended {
			continue // the range ends by itself
		}
		_, errNext, _ := f.peek(false)
		knows := f.batch > 0 && err == nil && errNext != nil
		if !knows {
			r.loopBody(f)
		}
		*n--
		if _, _, ok := f.peek(true); *n <= 0 || !ok && !f.polls || knows && r.roll(2) == 0 {
			again, broken = knows, true
			if knows {
				r.reached["broken off between a batch and an error"]++
			}
			if fails {
				r.reached["panic in the loop's body"]++
				panic(errOops)
			}
			break
		}
	}
	require.Equal(r, f.final != nil, ended)
	if !ended && !broken {
		r.expectNothing(f)
	}
	return again
}

func (r *selectionRun) loopBody(f *partFeed) {
	if r.inside {
		return
	}
	r.inside = true
	defer func() { r.inside = false }()
	switch r.roll(20) {
	case 0, 1:
		r.writeAlone(f.sel.table)
		r.reached["write in the loop's body"]++
	case 2:
		r.transact()
	case 3:
		if r.roll(8) == 0 {
			r.cancelFeed(f)
			r.reached["cancelled in the loop's body"]++
		}
	}
}

// leaves takes note that a range broke off: the user of one that polls is told at once
// if there is more, of which knows is a part that the feed has passed.
func (f *partFeed) leaves(knows bool) {
	switch {
	case f.wake == nil || f.final != nil:
	case f.squash && len(f.set) > 0: // equal rows may be all that is left
		f.tokens = len(f.wake)
		f.armed = f.tokens == 0
	case knows || f.lost != nil || len(f.start) > 0 || len(f.backlog) > 0:
		f.tokens = 1
	default:
		f.armed = true
		f.notifyIfReady()
	}
}

// expectNothing takes note that a range over a feed that polls has ended: there is
// nothing to read. It also has caught up then.
func (r *selectionRun) expectNothing(f *partFeed) {
	require.True(r, f.polls, "%s ended without an error", f.name)
	c, err, ok := f.peek(false)
	require.False(r, ok, "%s: a range ended before %v, %v", f.name, c, err)
	f.skipHidden()
	f.armed = f.wake != nil
	f.notifyIfReady()
	if !f.squash || !time.Now().Before(f.due) { // otherwise a set may be left
		require.Equal(r, f.sel.table.Position(), f.handle.Position(), f.name)
	}
	r.reached["polled to the end"]++
	r.checkView(f)
}

// expect compares what a stream yielded with what the model yields, and folds it.
func (r *selectionRun) expect(f *partFeed, got []Change[partRow], err error) {
	at := r.now
	if ahead := *f; f.due.After(at) {
		ahead.due = time.Now().Add(time.Hour)
		if _, _, ok := ahead.next(); !ok {
			at = f.due
			r.reached["waited for a set"]++
		}
	}
	if now := time.Now(); !now.Equal(r.now) {
		r.tick()
	}
	require.True(r, at.Equal(r.now), "%s: at %v, not %v", f.name, r.now, at)
	switch {
	case err != nil:
		require.Empty(r, got)
		r.expectError(f, err)
	case f.batch == 0:
		require.Len(r, got, 1)
		r.expectChange(f, got[0])
	default:
		r.expectBatch(f, got)
	}
	r.checkView(f)
	r.checkPosition(f, got, err)
}

// checkPosition checks the position of a feed whose loop has got a pair.
func (r *selectionRun) checkPosition(f *partFeed, got []Change[partRow], err error) {
	p := f.handle.Position()
	if f.final != nil || p.IsZero() {
		none := len(f.start) > 0 || err == nil && got[len(got)-1].Kind == Initial
		require.True(r, f.final != nil || none, "%s: no position", f.name)
		return
	}
	require.Equal(r, f.sel.table.At(p.Seq), p)
	require.GreaterOrEqual(r, p.Seq, f.saved, "%s: it goes back", f.name)
	require.LessOrEqual(r, p.Seq, uint64(len(f.sel.table.history)))
	f.saved = p.Seq
	switch {
	case err != nil:
		require.Empty(r, f.start)
		require.Equal(r, err.(*SkippedError).To, p.Seq, f.name)
	case f.squash: // the number of a set
	case f.batch == 0:
		require.Equal(r, got[0].Seq, p.Seq, f.name)
	default:
		require.GreaterOrEqual(r, p.Seq, got[len(got)-1].Seq, f.name)
		if next, _, ok := f.peek(false); ok && next.Seq > 0 {
			require.Less(r, p.Seq, next.Seq, f.name)
		}
	}
	r.reached["a position"]++
}

func (r *selectionRun) expectChange(f *partFeed, got Change[partRow]) {
	want, err, ok := f.next()
	require.True(r, ok && err == nil, "%s: %v, where %v is to come", f.name, got, err)
	require.True(r, want == got, "%s (%s): %v is not %v", f.name, f.sel.kind, got, want)
	r.fold(f, got)
	r.reached[got.Kind.String()+" of "+strings.TrimSuffix(f.sel.kind, ".Where")]++
	if f.squash {
		r.reached["squashed"]++
	}
	if f.after != nil {
		r.reached["went on after"]++
	}
}

// expectBatch: "what is ready, 1 to max changes; a transaction is never split: a batch
// exceeds max rather than do so."
func (r *selectionRun) expectBatch(f *partFeed, got []Change[partRow]) {
	require.NotEmpty(r, got)
	act := 0
	for i, c := range got {
		if i >= f.batch {
			require.True(r, act != 0, "%s: %d in a batch of at most %d", f.name, len(got), f.batch)
		}
		r.expectChange(f, c)
		if i >= f.batch {
			require.Equal(r, act, f.act, "%s: a batch of more than %d that is not of one transaction", f.name, f.batch)
			r.reached["a batch exceeds its max"]++
		}
		act = f.act
	}
	if len(got) < f.batch { // what was ready
		c, err, ok := f.peek(false)
		require.False(r, ok && err == nil, "%s: a batch of %d ends before %v", f.name, len(got), c)
		f.skipHidden()
		return
	}
	for f.continues() {
		c, err, ok := f.step()
		require.True(r, ok && err == nil && c.Kind == None, "%s: a batch splits a transaction before %v", f.name, c)
	}
}

func (r *selectionRun) expectError(f *partFeed, err error) {
	lost := f.lost
	_, want, ok := f.next()
	require.True(r, ok && want != nil, "%s: %v", f.name, err)
	notice, skipped := want.(*SkippedError)
	if !skipped {
		require.ErrorIs(r, err, want)
		r.reached["end: "+want.Error()]++
		return
	}
	require.Equal(r, notice, err, f.name)
	r.reached[fmt.Sprintf("gap: %v", f.overflow)]++
	if lost != nil {
		r.reached["gap: after what is held"]++
	}
	switch {
	case f.final != nil:
	case len(f.start) > 0:
		clear(f.view)
	case lost != nil:
		for _, c := range f.sel.table.history[notice.From-1 : notice.To] {
			r.foldSkipped(f, c)
		}
	default:
		for _, e := range f.gap {
			r.foldSkipped(f, e.Change)
		}
	}
}

func (r *selectionRun) foldSkipped(f *partFeed, c Change[partRow]) {
	if c = project(c, f.selects); c.Kind != None {
		r.fold(f, c)
	}
}

// fold applies a change to what a feed has handed out.
func (r *selectionRun) fold(f *partFeed, c Change[partRow]) {
	switch c.Kind {
	case Ready:
		rows := maps.Clone(f.view)
		clear(f.view)
		f.fill(f.sel.table.rowsAt(c.Seq))
		require.True(r, maps.Equal(f.view, rows), "%s: the initial rows are not those at %d", f.name, c.Seq)
		return
	case Initial:
		require.Zero(r, c.Seq)
	}
	old := f.view[c.Row().ID]
	if c.Kind == Initial || c.Kind == Insert {
		require.True(r, old == nil && c.Old == nil && c.New != nil)
	} else {
		require.True(r, old == c.Old || f.squash && *old == *c.Old, "%s: %v was %v before", f.name, c, old)
	}
	if c.New == nil {
		require.Equal(r, Delete, c.Kind)
		delete(f.view, c.Old.ID)
	} else {
		f.view[c.New.ID] = c.New
	}
}

// checkView checks the law: what a feed has handed out until there is nothing more,
// folded over the rows that it began with, is the selection as it is.
func (r *selectionRun) checkView(f *partFeed) {
	if _, err, ok := f.peek(true); f.final != nil || f.cause != nil || ok && !errors.Is(err, ErrTableDropped) {
		return
	}
	rows := f.sel.of(f.sel.table.rows)
	require.Len(r, f.view, len(rows), f.name)
	for _, row := range rows {
		seen := f.view[row.ID]
		require.True(r, seen == row || f.squash && seen != nil && *seen == *row, "%s (%s): %v is %v", f.name, f.sel.kind, seen, row)
	}
	if f.at == 0 && f.after == nil {
		return
	}
	for name, is := range map[string]bool{
		"initial": f.initial, "after": f.after != nil, "squash": f.squash, "wait": f.wait > 0, "batches": f.batch > 0,
		"resync": f.overflow == Resync && f.reported > 0, "gap": f.overflow == Skip && f.reported > 0,
		"initial, squash": f.initial && f.squash, "after, squash": f.after != nil && f.squash, "batches, squash": f.batch > 0 && f.squash,
		"after, resync": f.after != nil && f.overflow == Resync && f.reported > 0, "batches, resync": f.batch > 0 && f.overflow == Resync && f.reported > 0,
		f.sel.kind: true,
	} {
		if is {
			r.reached["caught up: "+name]++
		}
	}
}

// finish drops the tables and reads all feeds to their ends.
func (r *selectionRun) finish() {
	r.weights = partWeights{}
	for _, t := range r.tables {
		r.drop(t)
		r.compareRows(t, 2)
	}
	r.compare()
	for _, f := range r.feeds {
		for f.final == nil {
			r.read(f, math.MaxInt)  // more than once: a loop's body may panic
			time.Sleep(time.Second) // and a set may not be due
			r.tick()
		}
		r.read(f, math.MaxInt)
	}
	r.compare()
}

// partKinds returns the kinds of selections.
func partKinds() (kinds []string) {
	for _, kind := range []string{"Table", "Row", "Rows", "Range", "From"} {
		kinds = append(kinds, kind, kind+".Where")
	}
	for _, kind := range []string{"Index", "MultiIndex", "UniqueIndex"} {
		for _, shape := range []string{".Equal", ".Any", ".Range", ".From"} {
			kinds = append(kinds, kind+shape, kind+shape+".Where")
		}
	}
	return kinds
}

// partOutcomes are what the runs of TestSelectionModel must reach.
func partOutcomes() []string {
	outcomes := []string{
		"caught up: initial", "caught up: after", "caught up: squash", "caught up: wait", "caught up: batches",
		"caught up: resync", "caught up: gap", "caught up: initial, squash", "caught up: after, squash",
		"caught up: batches, squash", "caught up: after, resync", "caught up: batches, resync",
		"gap: skip", "gap: fail", "gap: resync", "gap: after what is held", "a batch exceeds its max",
		"broken off between a batch and an error", "panic in the loop's body", "write in the loop's body",
		"cancelled in the loop's body", "polled to the end", "woken", "waited for a set",
		"end: " + errModelCancelled.Error(), "end: " + ErrTableDropped.Error(), "end: " + ErrInvalidOption.Error(),
		"born ended: " + ErrTableDropped.Error(), "born ended: " + ErrInvalidOption.Error(),
		"born ended: " + ErrOtherHistory.Error(), "a position",
		"refused: [Batches]", "refused: [Buffer]", "refused: [After IncludeInitial]",
	}
	for _, err := range []error{nil, errPartFate, errOops} {
		for _, n := range []string{"1 of 1", "1 of 2", "2 of 2"} {
			outcomes = append(outcomes, fmt.Sprintf("transaction over %s tables: %v", n, err))
		}
	}
	outcomes = append(outcomes, fmt.Sprintf("transaction over 0 of 1 tables: %v", ErrTableDropped), fmt.Sprintf("transaction over 0 of 2 tables: %v", ErrTableDropped))
	for _, kind := range partKinds() {
		outcomes = append(outcomes, "caught up: "+kind)
		for _, change := range []Kind{Insert, Update, Delete, Initial, Ready} {
			outcomes = append(outcomes, fmt.Sprintf("%v of %s", change, strings.TrimSuffix(kind, ".Where")))
		}
		if kind != "Row" && kind != "Row.Where" && kind != "UniqueIndex.Equal" && kind != "UniqueIndex.Equal.Where" {
			outcomes = append(outcomes, "read: "+kind)
		}
	}
	for name, reached := range map[string][]any{
		"Insert":  {Insert, ErrDuplicateKey, errPartSeat, ErrTableDropped, errOops},
		"Upsert":  {Insert, Update, errPartSeat, ErrTableDropped, errOops},
		"Replace": {Update, ErrNotFound, errPartSeat, ErrTableDropped, errOops},
		"Delete":  {Delete, ErrNotFound, ErrTableDropped},
		"Update":  {Update, None, ErrNotFound, ErrKeyChanged, errPartSeat, ErrTableDropped, errOops},
		"Compute": {Insert, Update, Delete, None, ErrKeyChanged, errPartSeat, ErrTableDropped, errOops},
	} {
		for _, outcome := range reached {
			outcomes = append(outcomes, fmt.Sprintf("%s: %v", name, outcome))
		}
	}
	return outcomes
}

// Selections, indexes, transactions and feeds with all options do what their models
// do, step by step: every sentence of section 3 of DESIGN that is about one goroutine
// (T1, T2, T4, R2, F1, F2, F4). The laws are in checkView, fold and expectBatch.
func TestSelectionModel(t *testing.T) {
	t.Parallel()
	seed, reached := testSeed(t), make(map[string]int)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 120 {
		synctest.Test(t, func(t *testing.T) {
			r := newSelectionRun(t, partWeights{write: 12, transact: 4, read: 16, follow: 8, other: 4}, random.IntN, reached)
			for range 200 {
				r.step()
			}
			r.finish()
		})
	}
	requireOutcomes(t, reached, partOutcomes()...)
}

// What follows is of several goroutines. A partHistory is what they did to two tables
// and saw of them.
type partHistory struct {
	t      *testing.T
	tables [2]*partTable // their models are filled by replay

	mu     sync.Mutex // guards what follows
	made   [2][]partEntry
	reads  []*partRead
	counts map[string]int // outcomes reached
}

// partStamp is the key of the row that the transactions over both tables number
// themselves in, in each table, and partWorth the sum of the scores of both.
const (
	partStamp = 11
	partWorth = 100
)

// A partRead is what one feed handed out.
type partRead struct {
	partOptions
	sel              *partSelection
	earliest, latest uint64    // it begins at a sequence number from earliest to latest
	begun            [2]uint64 // it subscribed between these
	handle           *Feed
	saved            uint64 // the last position's number
	stream           Stream[[]Change[partRow]]
	pairs            []pair[[]Change[partRow]]
}

func (h *partHistory) record(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// write makes a random write that leaves the scores as they are.
func (h *partHistory) write(table int, random *rand.Rand) {
	t := h.tables[table]
	key, team, tags := random.IntN(partStamp), random.IntN(4), uint8(random.IntN(32))
	var c Change[partRow]
	var err error
	switch random.IntN(3) {
	case 0:
		c, err = t.Update(key, func(row *partRow) { row.Team = team })
	case 1:
		c, err = t.Update(key, func(row *partRow) { row.Tags = tags; row.Seat = key })
	default:
		c, err = t.Compute(key, func(old *partRow) *partRow {
			switch {
			case old == nil:
				return &partRow{ID: key, Team: team, Seat: key, Tags: tags}
			case old.Score == 0:
				return nil
			}
			return old
		})
	}
	h.record(func() {
		if err != nil {
			assert.ErrorIs(h.t, err, ErrNotFound)
		} else if c.Kind != None {
			h.made[table] = append(h.made[table], partEntry{Change: c})
			h.counts["write: "+c.Kind.String()]++
		}
	})
}

// transact moves a score from one row to another, of the same table or not, numbers
// the transaction in both tables, and fails in between one time in three.
func (h *partHistory) transact(random *rand.Rand) {
	var made [2][]partEntry
	fate := random.IntN(9)
	given := []AnyTable{h.tables[0].Table, h.tables[1].Table}
	random.Shuffle(2, func(i, j int) { given[i], given[j] = given[j], given[i] })
	_, err := attempt(func() (Change[partRow], error) {
		return Change[partRow]{}, Transact(func(tx *Tx) error {
			in := [2]TxTable[int, partRow]{h.tables[0].In(tx), h.tables[1].In(tx)}
			stamp, _ := in[0].Get(partStamp)
			act := stamp.Act + 1
			compute := func(table, key, score int) error {
				c, err := in[table].Compute(key, func(old *partRow) *partRow {
					if old == nil {
						old = &partRow{ID: key, Seat: key, Team: random.IntN(4), Tags: uint8(random.IntN(32))}
					}
					old.Score += score
					old.Act = act
					return old
				})
				made[table] = append(made[table], partEntry{c, act})
				return err
			}
			amount := 1 + random.IntN(3)
			err := compute(random.IntN(2), random.IntN(partStamp), -amount)
			switch fate {
			case 0:
				return errPartFate
			case 1:
				panic(errOops)
			}
			err = errors.Join(err, compute(random.IntN(2), random.IntN(partStamp), amount), compute(0, partStamp, 0), compute(1, partStamp, 0))
			if fate == 2 {
				return errPartFate
			}
			return err
		}, given...)
	})
	h.record(func() {
		if fate < 3 {
			assert.Error(h.t, err)
		} else if assert.NoError(h.t, err) {
			h.made[0], h.made[1] = append(h.made[0], made[0]...), append(h.made[1], made[1]...)
		}
		h.counts[fmt.Sprint("transaction: ", err)]++
	})
}

// audit reads both tables at one moment. T1
func (h *partHistory) audit() {
	worth, stamps := 0, [2]int{}
	err := Transact(func(tx *Tx) error {
		for i, t := range h.tables {
			for key, row := range t.In(tx).All() {
				worth += row.Score
				if key == partStamp {
					stamps[i] = row.Act
				}
			}
		}
		return nil
	}, h.tables[1], h.tables[0])
	assert.NoError(h.t, err)
	assert.Equal(h.t, partWorth, worth)
	assert.Equal(h.t, stamps[0], stamps[1])
}

// open subscribes to a random part of a table, with random options. Those of some
// numbers have a small buffer, those of others small batches.
func (h *partHistory) open(ctx context.Context, random *rand.Rand, number int) *partRead {
	r := &selectionRun{kinds: partKinds(), roll: random.IntN}
	t := h.tables[random.IntN(2)]
	f := &partRead{sel: r.randomSelection(t)}
	f.earliest = t.Seq()
	for f.partOptions = r.randomOptions(&partTable{}); f.refused() != nil; {
		f.partOptions = r.randomOptions(&partTable{})
	}
	f.wait /= 1000
	switch number % 4 {
	case 0:
		f.batch = 1 + random.IntN(2)
	case 1, 2:
		f.buffer = 1 + random.IntN(2)
		f.squash, f.wait = false, 0
		f.hasOverflow, f.overflow = true, Overflow(number/4%3)
	case 3:
		if number%16 == 7 { // four that are there to the end
			f.squash, f.wait = true, time.Duration(number)*time.Microsecond
		}
	}
	f.handle = new(Feed)
	opts := []FeedOption{Buffer(f.buffer), Track(f.handle)}
	if f.after != nil {
		f.after = new(t.At(f.earliest - min(f.earliest, uint64(random.IntN(100)))))
		opts = append(opts, After(*f.after))
	}
	if f.squash {
		f.initial = f.after == nil // so that it is known where it begins
		opts = append(opts, Squash(f.wait))
	}
	if f.initial {
		opts = append(opts, IncludeInitial())
	}
	if f.hasOverflow {
		opts = append(opts, OnOverflow(f.overflow))
	}
	var wake chan struct{}
	if f.wakes {
		wake = make(chan struct{}, 1)
		opts = append(opts, Poll(wake))
	}
	if f.batch > 0 {
		f.stream = f.sel.Batches(ctx, f.batch, opts...)
	} else {
		f.stream = onePart(f.sel.Changes(ctx, opts...))
	}
	if f.wakes {
		f.stream = awakened(f.stream, wake)
	}
	f.latest = t.Seq()
	f.begun = [2]uint64{f.earliest, f.latest}
	if f.after != nil {
		f.earliest, f.latest = f.after.Seq, f.after.Seq
	}
	return f
}

// awakened makes a stream that waits of one that polls.
func awakened[T any](s Stream[T], wake <-chan struct{}) Stream[T] {
	return func(yield func(T, error) bool) {
		for {
			for v, err := range s {
				if !yield(v, err) || isFinal(err) {
					return
				}
			}
			<-wake
		}
	}
}

func isFinal(err error) bool {
	return errors.Is(err, ErrTableDropped) || errors.Is(err, context.Canceled) || errors.Is(err, ErrInvalidOption)
}

// follow reads a feed to its end, breaking off and ranging again, and cancels it
// after n pairs. "Whoever has seen one of a transaction's changes and then reads any
// of its tables sees all of it."
func (h *partHistory) follow(f *partRead, cancel func(), random *rand.Rand, n int) {
	for ended := false; !ended; {
		left := 1 + random.IntN(20)
		for got, err := range f.stream {
			f.pairs = append(f.pairs, pair[[]Change[partRow]]{slices.Clone(got), err})
			_, skipped := errors.AsType[*SkippedError](err)
			ended = isFinal(err) || skipped && f.overflow == Fail
			if ended {
				break
			}
			f.checkPosition(h.t, got)
			for _, c := range got {
				h.look(c, random)
			}
			if len(f.pairs) == n {
				cancel()
			}
			if left--; left == 0 {
				break
			}
			if random.IntN(4) == 0 {
				runtime.Gosched()
			}
		}
	}
	h.record(func() { h.reads = append(h.reads, f) })
}

// checkPosition checks the position of a feed whose loop has got a pair.
func (f *partRead) checkPosition(t *testing.T, got []Change[partRow]) {
	p := f.handle.Position()
	if p.IsZero() {
		return
	}
	assert.GreaterOrEqual(t, p.Seq, f.saved)
	f.saved = p.Seq
	if !f.squash && len(got) > 0 {
		assert.GreaterOrEqual(t, p.Seq, got[len(got)-1].Seq)
	}
}

// look reads a table of the transaction that wrote a row.
func (h *partHistory) look(c Change[partRow], random *rand.Rand) {
	if c.New == nil || c.New.Act == 0 {
		return
	}
	t := h.tables[random.IntN(2)]
	var stamp partRow
	var ok bool
	switch random.IntN(4) {
	case 0:
		stamp, ok = t.Get(partStamp)
	case 1:
		for _, stamp = range t.From(partStamp).All() {
			ok = true
		}
	case 2:
		for _, stamp = range t.seat.Equal(partStamp).Backward() {
			ok = true
		}
	default:
		for _, stamp = range t.Row(partStamp).All() {
			ok = true
		}
	}
	if ok { // else it is dropped
		assert.GreaterOrEqual(h.t, stamp.Act, c.New.Act)
	}
}

// replay makes histories of what was written: those of a transaction together.
func (h *partHistory) replay() {
	for i, t := range h.tables {
		slices.SortFunc(h.made[i], func(a, b partEntry) int { return cmp.Compare(a.Seq, b.Seq) })
		last := 0
		for seq, e := range h.made[i] {
			require.Equal(h.t, uint64(seq+1), e.Seq)
			require.True(h.t, t.rows[e.Row().ID] == e.Old, "%d: Old is not the row before", e.Seq)
			if e.New == nil {
				delete(t.rows, e.Old.ID)
			} else {
				t.rows[e.New.ID] = e.New
			}
			require.True(h.t, e.act == 0 || e.act == last || e.act == last+1, "%d: not in its transaction", e.Seq)
			last = max(last, e.act)
			t.history, t.acts = append(t.history, e.Change), append(t.acts, e.act)
		}
	}
}

// A partCheck goes through the history beside what a feed handed out.
type partCheck struct {
	*partRead
	*testing.T
	counts  map[string]int
	reads   func(row *partRow) bool // the rows of the scope
	selects func(row *partRow) bool // and those of them that are handed out
	exact   bool                    // these are the same

	at      uint64
	rows    map[int]*partRow // at that number
	view    map[int]*partRow // what was handed out, folded
	started bool
	initial []*partRow

	maybeRead uint64 // the number of changes that advance has passed and that the feed may have read
}

// check checks what a feed handed out against the history.
func (h *partHistory) check(f *partRead) {
	c := &partCheck{
		partRead: f, T: h.t, counts: h.counts, rows: make(map[int]*partRow), view: make(map[int]*partRow),
		reads:   f.sel.in,
		selects: func(row *partRow) bool { return f.sel.in(row) && f.sel.keep(row) },
	}
	table := strings.HasPrefix(f.sel.kind, "Table")
	c.exact = !strings.HasSuffix(f.sel.kind, ".Where") && (table || f.after == nil)
	if table {
		c.reads = func(*partRow) bool { return true }
	}
	last := len(f.pairs) - 1
	for i, p := range f.pairs {
		switch notice, skipped := errors.AsType[*SkippedError](p.err); {
		case p.err == nil:
			c.batches(i)
			for _, change := range p.v {
				c.change(change)
			}
		case skipped:
			next := f.pairs[min(i+1, last)].v
			c.skipped(notice, len(next) > 0 && (next[0].Kind == Initial || next[0].Kind == Ready))
			require.Equal(c, i == last, f.overflow == Fail)
		default:
			require.Equal(c, last, i)
			c.end(p.err)
		}
	}
}

// start sets where a feed began of which only its first pair tells.
func (c *partCheck) start(seq uint64) {
	if c.started {
		return
	}
	c.started = true
	require.True(c, c.earliest <= seq, "it began too early: %d", seq)
	c.advance(min(c.latest, seq))
	for _, row := range c.sel.of(c.rows) {
		c.view[row.ID] = row
	}
}

// advance makes the changes up to seq, and returns the number of those that the feed reads, and
// those that it hands out. A feed with After reads all changes until it was subscribed, which
// was at one of the numbers in begun.
func (c *partCheck) advance(seq uint64) (read int, seen []Change[partRow]) {
	require.LessOrEqual(c, c.at, seq)
	c.maybeRead = 0
	for ; c.at < seq; c.at++ {
		change := c.sel.table.history[c.at]
		if change.New == nil {
			delete(c.rows, change.Old.ID)
		} else {
			c.rows[change.New.ID] = change.New
		}
		switch {
		case project(change, c.reads).Kind != None || c.after != nil && c.at < c.begun[0]:
			read++
		case c.after != nil && c.at < c.begun[1]:
			c.maybeRead++
		}
		if change = project(change, c.selects); change.Kind != None {
			seen = append(seen, change)
		}
	}
	return read, seen
}

func (c *partCheck) change(got Change[partRow]) {
	c.counts[got.Kind.String()]++
	switch {
	case got.Kind == Initial:
		c.initial = append(c.initial, got.New)
		return
	case got.Kind == Ready: // F2
		if !c.started {
			require.True(c, c.earliest <= got.Seq && got.Seq <= c.latest)
			c.started = true
			c.advance(got.Seq)
		}
		require.Equal(c, c.at, got.Seq)
		rows := c.sel.of(c.rows)
		require.True(c, slices.Equal(rows, c.initial), "%s: not the rows at %d, or not in order", c.sel.kind, got.Seq)
		for _, row := range rows {
			c.view[row.ID] = row
		}
		c.initial = nil
		return
	}
	c.start(got.Seq - 1)
	require.Empty(c, c.initial)
	require.Less(c, c.at, got.Seq)
	_, seen := c.advance(got.Seq)
	if !c.squash { // F1
		require.Len(c, seen, 1, "%s missed changes before %d", c.sel.kind, got.Seq)
		require.True(c, seen[0] == got, "%s: %v is not %v", c.sel.kind, got, seen[0])
	}
	key := got.Row().ID
	old := c.view[key]
	require.True(c, old == got.Old || c.squash && old != nil && got.Old != nil && *old == *got.Old, "Old is not the row as it was handed out")
	require.True(c, got.New == nil || got.New == c.rows[key], "New is not the row at that number")
	require.True(c, got.New != nil || c.rows[key] == nil || !c.selects(c.rows[key]))
	require.False(c, got.Old != nil && got.New != nil && *got.Old == *got.New)
	if got.New == nil {
		delete(c.view, key)
	} else {
		c.view[key] = got.New
	}
}

// skipped checks a notice. After one with which the feed begins anew, it forgets its
// rows.
func (c *partCheck) skipped(notice *SkippedError, resyncs bool) {
	c.start(notice.From - 1)
	if c.exact {
		require.Equal(c, c.at+1, notice.From, "not where it left off")
	}
	_, seen := c.advance(notice.From - 1)
	require.Empty(c, seen, "%s missed changes before a gap", c.sel.kind)
	read, seen := c.advance(notice.To)
	require.GreaterOrEqual(c, notice.Count, uint64(read))
	require.LessOrEqual(c, notice.Count, uint64(read)+c.maybeRead)
	if history := c.sel.table.history[c.at:]; len(history) > 0 && !resyncs && c.overflow != Resync && c.after == nil {
		require.NotEqual(c, None, project(history[0], c.reads).Kind, "a gap goes on behind its end")
	}
	c.counts["gap: "+c.overflow.String()]++
	if resyncs {
		require.Equal(c, Resync, c.overflow)
		clear(c.view)
		return
	}
	for _, change := range seen {
		if change.New == nil {
			delete(c.view, change.Old.ID)
		} else {
			c.view[change.New.ID] = change.New
		}
	}
}

// end checks that a feed of a dropped table has handed out all.
func (c *partCheck) end(err error) {
	if !errors.Is(err, ErrTableDropped) {
		require.ErrorIs(c, err, context.Canceled)
		c.counts["cancelled"]++
		return
	}
	history := uint64(len(c.sel.table.history))
	c.start(history)
	if _, seen := c.advance(history); !c.squash {
		require.Empty(c, seen, "%s ended before it had all", c.sel.kind)
	}
	rows := c.sel.of(c.rows)
	require.Len(c, c.view, len(rows))
	for _, row := range rows {
		require.Equal(c, *row, *c.view[row.ID])
	}
	for name, is := range map[string]bool{
		c.sel.kind: true, "initial": c.partOptions.initial, "after": c.after != nil, "squash": c.squash, "wait": c.wait > 0, "batches": c.batch > 0, "wakes": c.wakes,
	} {
		if is {
			c.counts["complete: "+name]++
		}
	}
}

// batches checks where a batch begins: not within a transaction, or a set of one, if
// changes came before it. And it has at most as many changes as it may.
func (c *partCheck) batches(i int) {
	got := c.pairs[i].v
	require.NotEmpty(c, got)
	acts := c.sel.table.acts
	joined := func(a, b Change[partRow]) bool {
		return a.Seq > 0 && b.Seq > 0 && a.Kind != Ready && acts[a.Seq-1] != 0 && acts[a.Seq-1] == acts[b.Seq-1]
	}
	if c.batch == 0 {
		return
	}
	if before := c.pairs[max(0, i-1)]; i > 0 && before.err == nil {
		require.False(c, joined(before.v[len(before.v)-1], got[0]), "%s: a transaction is split", c.sel.kind)
	}
	if len(got) > c.batch && !c.squash {
		c.counts["a batch exceeds its max"]++
		for j := c.batch; j < len(got); j++ {
			require.True(c, joined(got[j-1], got[j]), "%s: a batch of more than %d that is not of one transaction", c.sel.kind, c.batch)
		}
	}
}

// What goroutines do to two tables at a time, one by one and in transactions, is one
// history for each, in which no transaction is torn; and whatever feeds of any part,
// with any options, make of it, folds into what that part was. A transaction is there
// as a whole for whoever has seen any of it (T1, T2, T4, F1, F2, F3, F4).
func TestSelectionModelConcurrent(t *testing.T) {
	t.Parallel()
	seed := testSeed(t) // of the choices; what comes of them the scheduler decides
	var n uint64
	source := func() *rand.Rand {
		n++
		return rand.New(rand.NewPCG(seed, n))
	}
	h := &partHistory{t: t, counts: make(map[string]int)}
	for i := range h.tables {
		table := &partTable{Table: NewTable(fmt.Sprint("table ", i), func(row *partRow) int { return row.ID }), rows: make(map[int]*partRow)}
		table.team = NewIndex(table.Table, "team", (*partRow).team)
		table.tags = NewMultiIndex(table.Table, "tags", (*partRow).tags)
		var err error
		table.seat, err = NewUniqueIndex(table.Table, "seat", (*partRow).seat)
		require.NoError(t, err)
		table.Retain(60)
		for _, row := range []partRow{{ID: 0, Score: partWorth / 2}, {ID: partStamp, Seat: partStamp}} {
			c, err := table.Insert(row)
			require.NoError(t, err)
			h.made[i] = append(h.made[i], partEntry{Change: c})
		}
		h.tables[i] = table
	}

	var writers, others sync.WaitGroup
	var written atomic.Bool
	begin := make(chan struct{})
	for i := range 60 { // feeds that are there to the end
		random := source()
		f := h.open(t.Context(), random, i)
		others.Go(func() {
			<-begin
			h.follow(f, func() {}, random, math.MaxInt)
		})
	}
	for random := source(); h.tables[0].Seq() < 200 || h.tables[1].Seq() < 200; { // what small buffers must skip
		h.write(0, random)
		h.write(1, random)
		h.transact(random)
	}
	close(begin)
	for range 4 { // feeds that come and go
		random := source()
		others.Go(func() {
			for !written.Load() {
				ctx, cancel := context.WithCancel(t.Context())
				h.follow(h.open(ctx, random, 3), cancel, random, 1+random.IntN(30))
				cancel()
			}
		})
	}
	for i := range 4 {
		random := source()
		writers.Go(func() {
			for j := range 1500 {
				switch random.IntN(8) {
				case 0:
					h.audit()
				case 1, 2, 3:
					h.write(i%2, random)
				default:
					h.transact(random)
				}
				if j > 100 && j%8 == 0 { // a rush, and then by turns, with one processor too
					runtime.Gosched()
				}
			}
		})
	}
	writers.Wait()
	written.Store(true)
	h.audit()
	for _, table := range h.tables {
		table.Drop()
	}
	others.Wait()

	h.replay()
	for _, f := range h.reads {
		h.check(f)
	}
	for _, table := range h.tables {
		require.Empty(t, table.Feeds())
	}
	outcomes := []string{
		"write: insert", "write: update", "write: delete", "transaction: <nil>", "transaction: oops", "transaction: " + errPartFate.Error(),
		"insert", "update", "delete", "initial", "ready", "gap: skip", "gap: fail", "gap: resync", "a batch exceeds its max", "cancelled",
	}
	for _, name := range []string{"initial", "after", "squash", "wait", "batches", "wakes"} {
		outcomes = append(outcomes, "complete: "+name)
	}
	requireOutcomes(t, h.counts, outcomes...)
	t.Log(len(h.reads), "feeds,", len(h.made[0]), "and", len(h.made[1]), "changes")
}

// insertBoth inserts two games in one transaction.
func insertBoth(t *testing.T, table *Table[int, game], a, b game) {
	require.NoError(t, Transact(func(tx *Tx) error {
		_, errA := table.In(tx).Insert(a)
		_, errB := table.In(tx).Insert(b)
		return errors.Join(errA, errB)
	}, table))
}

// A batch is handed out before a notice that comes after it. To break off there, or to
// panic, pauses the stream: the notice is told in the next range. F1
func TestBatchesBreakBeforeNotice(t *testing.T) {
	for _, policy := range []Overflow{Skip, Fail, Resync} {
		for _, panics := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, panics=%v", policy, panics), func(t *testing.T) {
				table := newGames()
				_, err := table.Insert(game{ID: 1})
				require.NoError(t, err)
				feed := table.Batches(t.Context(), 100, IncludeInitial(), Buffer(1), OnOverflow(policy), Poll(nil))
				for score := range 5 { // the buffer overflows before the rows are read
					_, err := table.Upsert(game{ID: 1, Score: 1 + score})
					require.NoError(t, err)
				}
				if panics {
					require.Panics(t, func() {
						for range feed {
							panic(errOops)
						}
					})
				} else {
					require.Len(t, take(feed, 1), 1)
				}
				notice := &SkippedError{Count: 4, From: 2, To: 5, Table: "games"}
				if policy == Resync {
					notice.Count, notice.To = 5, 6
				}
				require.Equal(t, []pair[[]Change[game]]{{nil, notice}}, take(feed, 1))
			})
		}
	}
}

// Ready does not belong together with a transaction after it.
func TestBatchesReadyBeforeTransaction(t *testing.T) {
	table := newGames()
	feed := table.Batches(t.Context(), 1, IncludeInitial(), Poll(nil))
	insertBoth(t, table, game{ID: 1}, game{ID: 2})
	var lens []int
	for batch, err := range feed {
		require.NoError(t, err)
		lens = append(lens, len(batch))
	}
	require.Equal(t, []int{1, 2}, lens)
}

// A loop over initial rows may cancel its context and break off.
func TestInitialCancelAndBreak(t *testing.T) {
	table := newGames()
	insertBoth(t, table, game{ID: 1}, game{ID: 2})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	feed := table.Changes(ctx, IncludeInitial())
	for c, err := range feed {
		require.NoError(t, err)
		require.Equal(t, Initial, c.Kind)
		cancel()
		break
	}
	require.Equal(t, []pair[Change[game]]{{Change[game]{}, context.Canceled}}, take(feed, 2))
}

// "A transaction is never split", nor is the set of a squash that has one in it; what
// was written one by one is.
func TestBatchesSquashTransaction(t *testing.T) {
	lens := func(feed Stream[[]Change[game]]) (lens []int) {
		for batch, err := range feed {
			require.NoError(t, err)
			lens = append(lens, len(batch))
		}
		return lens
	}
	table := newGames()
	table.Retain(10)
	feed := table.Batches(t.Context(), 1, Squash(0), Poll(nil))
	insertBoth(t, table, game{ID: 1}, game{ID: 2})
	require.Equal(t, []int{2}, lens(feed))
	after := table.Batches(t.Context(), 1, Squash(0), Poll(nil), After(table.At(0)))
	require.Equal(t, []int{2}, lens(after))

	for id := range 2 {
		_, err := table.Upsert(game{ID: 1 + id, Score: 1})
		require.NoError(t, err)
	}
	require.Equal(t, []int{1, 1}, lens(feed))
	after = table.Batches(t.Context(), 1, Squash(0), Poll(nil), After(table.At(2)))
	require.Equal(t, []int{1, 1}, lens(after))
}

// A set that is not to be split ends where it ends, also if the rest of it is equal to
// what it was: the batch does not go on into the next set.
func TestBatchesSquashEqualRest(t *testing.T) {
	table := newGames()
	insertBoth(t, table, game{ID: 1}, game{ID: 2})
	written := false
	feed := table.Where(func(row *game) bool {
		if row.ID == 1 && !written { // when the set was taken
			written = true
			_, err := table.Insert(game{ID: 3})
			require.NoError(t, err)
		}
		return true
	}).Batches(t.Context(), 1, Squash(0), Poll(nil))
	require.NoError(t, Transact(func(tx *Tx) error {
		_, err1 := table.In(tx).Upsert(game{ID: 1, Score: 1})
		_, err2 := table.In(tx).Upsert(game{ID: 2, Score: 1})
		_, err3 := table.In(tx).Upsert(game{ID: 2})
		return errors.Join(err1, err2, err3)
	}, table))
	var ids [][]int
	for batch, err := range feed {
		require.NoError(t, err)
		ids = append(ids, nil)
		for _, c := range batch {
			ids[len(ids)-1] = append(ids[len(ids)-1], c.New.ID)
		}
	}
	require.Equal(t, [][]int{{1}, {3}}, ids)
}

// A batch "is the stream's own copy, valid until the next element": after a break there
// was none yet.
func TestBatchesValidAfterBreak(t *testing.T) {
	table := newGames()
	feed := table.Batches(t.Context(), 10)
	insertBoth(t, table, game{ID: 1}, game{ID: 2})
	var got []Change[game]
	for batch, err := range feed {
		require.NoError(t, err)
		got = batch
		break
	}
	require.Len(t, got, 2)
	for i, c := range got {
		require.Equal(t, &game{ID: 1 + i}, c.New)
	}
}

// What a failed transaction leaves is what was there, also the spelling of a key that
// another one is equal to. T4
func TestTransactRollbackOfKey(t *testing.T) {
	users := newUsers()
	must[user](t)(users.Insert(user{Name: "Bob"}))
	require.ErrorIs(t, Transact(func(tx *Tx) error {
		c, err := users.In(tx).Upsert(user{Name: "BOB"})
		require.NoError(t, err)
		require.Equal(t, Update, c.Kind)
		return errOops
	}, users), errOops)
	require.Equal(t, map[string]user{"Bob": {Name: "Bob"}}, maps.Collect(users.All()))
}

// "Initial rows come in the order of the selection's All", also those after a gap of a
// feed that began After a position.
func TestResyncAfterInOrder(t *testing.T) {
	table := newGames()
	scores := NewIndex(table, "score", func(g *game) int { return g.Score })
	table.Retain(1)
	for id := range 5 {
		_, err := table.Insert(game{ID: id, Score: 5 - id})
		require.NoError(t, err)
	}
	var want, got []int
	for id := range scores.From(2).All() {
		want = append(want, id)
	}
	for c := range scores.From(2).Changes(t.Context(), After(table.At(0)), OnOverflow(Resync), Poll(nil)) {
		if c.Kind == Initial {
			got = append(got, c.New.ID)
		}
	}
	require.Equal(t, []int{3, 2, 1, 0}, want)
	require.Equal(t, want, got)
}

// Retain holds "exactly the newest n": what lies beside them on a page is not handed
// out, whatever the buffer.
func TestAfterExactlyRetained(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 5, 8, 20} {
		for _, buffer := range []int{1, 2, 5, DefaultBuffer} {
			table := newGames()
			table.Retain(n)
			for score := range 20 {
				_, err := table.Upsert(game{ID: 1, Score: 1 + score})
				require.NoError(t, err)
			}
			for after := range uint64(21) {
				held := max(after, uint64(20-n))
				var want, got []pair[uint64]
				if held > after {
					want = append(want, pair[uint64]{0, &SkippedError{held - after, after + 1, held, "games", "", false}})
				}
				for seq := held + 1; seq <= 20; seq++ {
					want = append(want, pair[uint64]{seq, nil})
				}
				for c, err := range table.Changes(t.Context(), After(table.At(after)), Buffer(buffer), Poll(nil)) {
					got = append(got, pair[uint64]{c.Seq, err})
				}
				require.Equal(t, want, got, "Retain(%d), Buffer(%d), After(%d)", n, buffer, after)
			}
		}
	}
}
