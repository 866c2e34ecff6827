package changefeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The model is the specification that runs: a table as a map, its history as a
// slice, a feed as a number that says how far it has read. What follows it in this
// file holds it against the library.

// A modelRow has all that a copy can get wrong: a slice and a map.
type modelRow doc

// errOops is what the user's functions of the model tests panic with.
var errOops = errors.New("oops")

// badScore makes modelKey panic.
const badScore = -1

func modelKey(row *modelRow) int {
	if row.Score == badScore {
		panic(errOops)
	}
	return row.ID
}

func (row *modelRow) copy() *modelRow {
	if row == nil {
		return nil
	}
	return &modelRow{ID: row.ID, Score: row.Score, Tags: slices.Clone(row.Tags), Attr: maps.Clone(row.Attr)}
}

// A model is a table. Its methods are those of a Table of the same name.
type model struct {
	rows    map[int]*modelRow
	history []Change[modelRow] // the change numbered s is history[s-1]
	feeds   []*modelFeed       // in order of subscription
	dropped bool
}

func (m *model) Insert(row modelRow) (Change[modelRow], error) {
	return m.write(modelKey(&row), func(old *modelRow) (*modelRow, error) {
		if old != nil {
			return nil, ErrDuplicateKey
		}
		return &row, nil
	})
}

func (m *model) Upsert(row modelRow) (Change[modelRow], error) {
	return m.write(modelKey(&row), func(*modelRow) (*modelRow, error) { return &row, nil })
}

func (m *model) Replace(row modelRow) (Change[modelRow], error) {
	return m.write(modelKey(&row), func(old *modelRow) (*modelRow, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		return &row, nil
	})
}

func (m *model) Update(key int, edit func(row *modelRow)) (Change[modelRow], error) {
	return m.write(key, func(old *modelRow) (*modelRow, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		row := old.copy()
		edit(row)
		return row, m.checkKey(key, row)
	})
}

func (m *model) Compute(key int, f func(old *modelRow) *modelRow) (Change[modelRow], error) {
	return m.write(key, func(old *modelRow) (*modelRow, error) {
		row := f(old.copy())
		return row, m.checkKey(key, row)
	})
}

func (m *model) Delete(key int) (Change[modelRow], error) {
	return m.write(key, func(old *modelRow) (*modelRow, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		return nil, nil
	})
}

func (m *model) checkKey(key int, row *modelRow) error {
	if row != nil && modelKey(row) != key {
		return ErrKeyChanged
	}
	return nil
}

// write is every write: next says what shall be in the place of the old row. A
// dropped table does not ask, an error or a panic of next leaves all as it was (T4),
// an equal row is no change, and any other change is the next in the history (T2).
func (m *model) write(key int, next func(old *modelRow) (*modelRow, error)) (Change[modelRow], error) {
	if m.dropped {
		return Change[modelRow]{}, ErrTableDropped
	}
	c := Change[modelRow]{Old: m.rows[key]}
	row, err := next(c.Old)
	if err != nil {
		return Change[modelRow]{}, err
	}
	c.New = row
	switch {
	case c.Old == nil && c.New == nil:
		return c, nil
	case c.Old == nil:
		c.Kind = Insert
	case c.New == nil:
		c.Kind = Delete
	case reflect.DeepEqual(c.Old, c.New):
		c.New = c.Old
		return c, nil
	default:
		c.Kind = Update
	}
	c.Seq = m.Seq() + 1
	m.history = append(m.history, c)
	if c.New == nil {
		delete(m.rows, key)
	} else {
		m.rows[key] = c.New
	}
	return c, nil
}

func (m *model) Drop() {
	m.dropped = true
	clear(m.rows)
}

func (m *model) Seq() uint64 { return uint64(len(m.history)) }

func (m *model) Feeds() []FeedInfo {
	infos := []FeedInfo{}
	for _, f := range m.feeds {
		if f.cause == nil && f.final == nil {
			infos = append(infos, f.now())
		}
	}
	return infos
}

func (m *model) Changes(name string, buffer int) *modelFeed {
	f := &modelFeed{model: m, info: FeedInfo{Name: name, Capacity: buffer, Seq: m.Seq()}, since: m.Seq()}
	switch {
	case buffer < 1:
		f.final = ErrInvalidOption
	case m.dropped:
		f.final = ErrTableDropped
	}
	m.feeds = append(m.feeds, f)
	return f
}

// A modelFeed is a subscriber: how far it is in the history is all there is to it.
type modelFeed struct {
	model *model
	info  FeedInfo // what it has passed: Skipped is what it was told, Buffered is 0
	since uint64   // sequence number at which it subscribed
	cause error    // of its context, once that is done
	final error    // once the feed has ended
}

// unread returns the number of changes that were made and that f has not passed.
func (f *modelFeed) unread() uint64 { return f.model.Seq() - f.info.Seq }

// now returns what Feeds tells of f.
func (f *modelFeed) now() FeedInfo {
	info := f.info
	info.Buffered = int(min(f.unread(), uint64(info.Capacity)))
	info.Skipped += f.unread() - uint64(info.Buffered)
	info.Lag = f.unread()
	return info
}

// ready reports whether a loop over f would get a pair, and not wait.
func (f *modelFeed) ready() bool {
	return f.final != nil || f.cause != nil || f.unread() > 0 || f.model.dropped
}

// next returns the pair that a loop gets next; f must be ready. With N unread and a
// buffer of n that is the oldest change if N <= n, else a SkippedError of N-n (F1).
// A context that is done wins over what is buffered, and what is buffered over a
// dropped table (F4).
func (f *modelFeed) next() (c Change[modelRow], err error) {
	unread, buffer := f.unread(), uint64(f.info.Capacity)
	switch {
	case f.final != nil:
	case f.cause != nil:
		f.final = f.cause
	case unread > buffer:
		skipped := unread - buffer
		notice := &SkippedError{skipped, f.info.Seq + 1, f.info.Seq + skipped, "model", f.info.Name, false}
		f.info.Skipped += skipped
		f.info.Seq = notice.To
		return c, notice
	case unread > 0:
		f.info.Delivered++
		f.info.Seq++
		return f.model.history[f.info.Seq-1], nil
	default:
		f.final = ErrTableDropped
	}
	return c, f.final
}

// A rowWriter is what a table, alone or in a transaction, and its model have in common.
type rowWriter[V any] interface {
	Insert(row V) (Change[V], error)
	Upsert(row V) (Change[V], error)
	Update(key int, edit func(row *V)) (Change[V], error)
	Replace(row V) (Change[V], error)
	Delete(key int) (Change[V], error)
	Compute(key int, f func(old *V) *V) (Change[V], error)
}

// A modelRun does the same to a table and to its model, and compares.
type modelRun struct {
	require.TestingT                 // without testing.T's Helper, which would take half the time
	roll             func(n int) int // the dice: 0 to n-1
	reached          map[string]int  // outcomes, counted over all runs

	table  *Table[int, modelRow]
	model  *model
	feeds  []*modelFollower
	made   []Change[modelRow] // the table's changes, as its writes returned them
	stored map[int]*modelRow  // made, folded over an empty table
}

// A modelFollower reads a stream of the table beside a feed of the model.
type modelFollower struct {
	*modelFeed
	stream Stream[Change[modelRow]]
	cancel context.CancelCauseFunc
	rows   map[int]*modelRow // what it read, folded over the rows at its subscription
	rest   uint64            // changes that were unread when it last broke off
}

func newModelRun(t *testing.T, roll func(n int) int, reached map[string]int) *modelRun {
	r := &modelRun{
		TestingT: t, roll: roll, reached: reached,
		table:  NewTable("model", modelKey),
		model:  &model{rows: map[int]*modelRow{}},
		stored: map[int]*modelRow{},
	}
	r.follow(DefaultBuffer) // a complete feed: never overtaken, cancelled or forgotten
	return r
}

// step does one random thing.
func (r *modelRun) step() {
	switch op := r.roll(64); {
	case op < 36:
		r.write()
	case op < 37:
		for range r.roll(200) {
			r.write()
		}
	case op < 50:
		f := r.feeds[r.roll(len(r.feeds))]
		n := 1 + r.roll(6)
		if r.roll(4) == 0 {
			n = math.MaxInt
		}
		r.read(f, n)
	case op < 55:
		buffer := []int{1, 2, 64, DefaultBuffer}[r.roll(4)]
		if r.roll(16) == 0 {
			buffer = -r.roll(2)
		}
		r.follow(buffer)
	case op < 56:
		r.cancel(r.feeds[r.roll(len(r.feeds))])
	case op < 57:
		if r.roll(16) == 0 {
			r.forget(r.roll(len(r.feeds)))
		}
	case op < 62:
		r.compareRows()
	case op < 63:
		r.writeInAll()
	case r.roll(16) == 0:
		r.drop()
	}
	r.compare()
}

// write makes a random write on both sides.
func (r *modelRun) write() {
	name, op := r.randomWrite()
	want, wantErr := attempt(func() (Change[modelRow], error) { return op(r.model) })
	got, err := attempt(func() (Change[modelRow], error) { return op(r.table) })
	if wantErr != nil {
		require.ErrorIs(r, err, wantErr, name)
		require.Zero(r, got, name)
		r.reached[name+": "+wantErr.Error()]++
		r.compareRows() // T4
		r.compare()
		return
	}
	require.NoError(r, err, name)
	require.Equal(r, want, got, name)
	r.reached[name+": "+got.Kind.String()]++
	if got.Kind == None {
		require.Same(r, got.Old, got.New) // both the stored row
		if got.Old != nil {
			require.Same(r, r.stored[got.Old.ID], got.Old)
		}
	} else {
		r.made = append(r.made, got)
		r.fold(r.stored, got)
	}
	r.compare()
}

// attempt is f, with a panic of errOops as an error.
func attempt[V any](f func() (Change[V], error)) (c Change[V], err error) {
	defer func() {
		if p := recover(); p == any(errOops) {
			err = errOops
		} else if p != nil {
			panic(p)
		}
	}()
	return f()
}

// randomWrite returns a write that does the same to whatever it is done to, and
// gives each rows of its own.
func (r *modelRun) randomWrite() (name string, op func(w rowWriter[modelRow]) (Change[modelRow], error)) {
	key, n := r.roll(8), r.roll(4)
	if r.roll(32) == 0 {
		n = badScore
	}
	switch r.roll(6) {
	case 0:
		return "Insert", func(w rowWriter[modelRow]) (Change[modelRow], error) { return w.Insert(newModelRow(key, n)) }
	case 1:
		return "Upsert", func(w rowWriter[modelRow]) (Change[modelRow], error) { return w.Upsert(newModelRow(key, n)) }
	case 2:
		return "Replace", func(w rowWriter[modelRow]) (Change[modelRow], error) { return w.Replace(newModelRow(key, n)) }
	case 3:
		return "Delete", func(w rowWriter[modelRow]) (Change[modelRow], error) { return w.Delete(key) }
	case 4:
		edit := modelEdits[r.roll(len(modelEdits))]
		return "Update", func(w rowWriter[modelRow]) (Change[modelRow], error) {
			return w.Update(key, func(row *modelRow) { edit(row, n) })
		}
	default:
		edit, remove := modelEdits[r.roll(len(modelEdits))], r.roll(4) == 0
		return "Compute", func(w rowWriter[modelRow]) (Change[modelRow], error) {
			return w.Compute(key, func(row *modelRow) *modelRow {
				if remove {
					return nil
				}
				if row == nil {
					row = &modelRow{ID: key}
				}
				edit(row, n)
				return row
			})
		}
	}
}

func newModelRow(key, n int) modelRow {
	row := modelRow{ID: key, Score: n}
	if n > 0 {
		row.Tags = []string{"a", "b", "c"}[:n]
		row.Attr = map[string]int{"n": n}
	}
	return row
}

// modelEdits are what an update does to its row. Those that go below its top level
// do it in place, so that they would be seen in the old row if it shared anything
// with the new one (T3).
var modelEdits = []func(row *modelRow, n int){
	func(*modelRow, int) {},
	func(row *modelRow, n int) { row.Score = n },
	func(row *modelRow, n int) { *row = newModelRow(row.ID, n) },
	func(row *modelRow, n int) { row.Tags = append(row.Tags[:min(1, len(row.Tags))], strconv.Itoa(n)) },
	setModelAttr,
	func(row *modelRow, _ int) { clear(row.Tags); clear(row.Attr) },
	func(row *modelRow, n int) { setModelAttr(row, n); row.ID++ },
	func(row *modelRow, n int) { setModelAttr(row, n); panic(errOops) },
}

func setModelAttr(row *modelRow, n int) {
	if row.Attr == nil {
		row.Attr = map[string]int{}
	}
	row.Attr["n"] = n
}

// fold applies a change to the rows that it was made to.
func (r *modelRun) fold(rows map[int]*modelRow, c Change[modelRow]) {
	key := c.Row().ID
	require.Same(r, rows[key], c.Old)
	if c.New == nil {
		delete(rows, key)
	} else {
		rows[key] = c.New
	}
}

// compare compares all that costs little.
func (r *modelRun) compare() {
	require.Equal(r, r.model.Seq(), r.table.Seq())
	require.Equal(r, len(r.model.rows), r.table.Len())
	infos := r.table.Feeds()
	for i := range infos {
		infos[i].ID = 0
	}
	if want := r.model.Feeds(); !slices.Equal(want, infos) { // faster than require
		require.Equal(r, want, infos)
	}
	since := make(map[string]uint64)
	for _, f := range r.model.feeds {
		since[f.info.Name] = f.since
	}
	for _, info := range infos { // R2
		require.Equal(r, r.table.Seq(), since[info.Name]+info.Delivered+info.Skipped+uint64(info.Buffered))
		if info.Buffered > maxPage {
			r.reached["more than a page is buffered"]++
		}
	}
}

// compareRows compares the rows, whichever way they are read.
func (r *modelRun) compareRows() {
	var want, all, backward, got []modelRow
	for _, key := range slices.Sorted(maps.Keys(r.model.rows)) {
		want = append(want, *r.model.rows[key])
	}
	for key, row := range r.table.All() {
		require.Equal(r, row.ID, key)
		all = append(all, row)
	}
	for _, row := range r.table.Backward() {
		backward = append(backward, row)
	}
	for key := range 10 {
		if row, ok := r.table.Get(key); ok {
			got = append(got, row)
		}
	}
	slices.Reverse(backward)
	require.Equal(r, want, all)
	require.Equal(r, want, backward)
	require.Equal(r, want, got)
}

// writeInAll writes while it ranges over the rows: the range sees them as they were
// when it began.
func (r *modelRun) writeInAll() {
	before := maps.Clone(r.model.rows)
	seen := 0
	for key, row := range r.table.All() {
		r.write()
		require.Equal(r, *before[key], row)
		seen++
	}
	require.Len(r, before, seen)
}

// follow subscribes, one time in 16 with a context that is done.
func (r *modelRun) follow(buffer int) {
	if len(r.feeds) >= 12 { // room for a new one
		r.feeds = slices.DeleteFunc(r.feeds, func(f *modelFollower) bool { return f.final != nil && f != r.feeds[0] })
	}
	name := fmt.Sprint("feed ", len(r.model.feeds))
	opts := []FeedOption{Named(name), Buffer(buffer)}
	if buffer == DefaultBuffer {
		opts = opts[:1]
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &modelFollower{
		modelFeed: r.model.Changes(name, buffer),
		stream:    r.table.Changes(ctx, opts...),
		cancel:    cancel,
		rows:      maps.Clone(r.stored),
	}
	r.feeds = append(r.feeds, f)
	if f.final != nil {
		r.reached["born ended: "+f.final.Error()]++
	}
}

// read reads up to n pairs, as far as there are any, with now and then a write or a
// cancellation in the loop's body.
func (r *modelRun) read(f *modelFollower, n int) {
	if !f.ready() {
		return // a range would wait
	}
	fails := r.roll(8) == 0
	defer func() {
		if p := recover(); p != nil && p != any(errOops) {
			panic(p)
		}
	}()
	defer func() { f.rest = f.unread() }()
	if f.final != nil {
		r.reached["read again after the end"]++
	}
	ended := false
	for got, err := range f.stream {
		require.False(r, ended, "a pair after the final error")
		r.expect(f, got, err)
		if ended = f.final != nil; ended {
			continue // the range ends by itself
		}
		switch r.roll(16) {
		case 0:
			r.write()
			r.reached["write in the loop's body"]++
		case 1:
			if r.roll(8) == 0 {
				r.cancel(f)
			}
		}
		if n--; n == 0 || !f.ready() {
			if fails {
				r.reached["panic in the loop's body"]++
				panic(errOops)
			}
			break
		}
	}
	require.Equal(r, f.final != nil, ended)
}

// expect compares a pair that a stream yielded with what the model yields, and folds
// it.
func (r *modelRun) expect(f *modelFollower, got Change[modelRow], err error) {
	want, wantErr := f.next()
	switch notice, skipped := wantErr.(*SkippedError); {
	case skipped:
		require.Zero(r, got)
		require.Equal(r, notice, err)
		for _, c := range r.made[notice.From-1 : notice.To] {
			r.fold(f.rows, c)
		}
		r.reached["overflow"]++
		if f.rest > 0 {
			r.reached["overflow in the middle of a backlog"]++
		}
	case wantErr != nil:
		require.Zero(r, got)
		require.ErrorIs(r, err, wantErr)
		r.reached["end: "+wantErr.Error()]++
		if f.unread() > 0 && wantErr == errModelCancelled {
			r.reached["cancelled with a backlog"]++
		}
	default:
		require.NoError(r, err)
		require.Equal(r, want.Seq, got.Seq)
		require.True(r, r.made[got.Seq-1] == got) // the same rows as the write returned
		r.fold(f.rows, got)
		if r.model.dropped {
			r.reached["read from a dropped table's backlog"]++
		}
	}
	f.rest = 0
	if f.since < r.model.Seq() && f.unread() == 0 { // F2: it has caught up
		require.True(r, maps.Equal(r.stored, f.rows))
		r.reached["caught up"]++
	}
}

var errModelCancelled = errors.New("cancelled")

// cancel ends a feed's context, and waits until the table has heard of it.
func (r *modelRun) cancel(f *modelFollower) {
	if f == r.feeds[0] {
		return
	}
	f.cancel(errModelCancelled)
	f.cause = errModelCancelled
	synctest.Wait()
}

// forget drops the last reference to a stream, and waits until the collector has
// seen it: the subscription is gone then.
func (r *modelRun) forget(i int) {
	f := r.feeds[i].modelFeed
	if i == 0 || f.final != nil {
		return
	}
	r.reached["forgotten"]++
	r.feeds = slices.Delete(r.feeds, i, i+1)
	f.cause = errors.New("forgotten")
	for range 1000 {
		runtime.GC()
		runtime.Gosched()
		if len(r.table.Feeds()) == len(r.model.Feeds()) {
			return
		}
	}
	require.Fail(r, "a forgotten feed is still subscribed")
}

func (r *modelRun) drop() {
	r.table.Drop()
	r.model.Drop()
}

// finish drops the table and reads all feeds to their ends.
func (r *modelRun) finish() {
	r.drop()
	r.compare()
	r.compareRows()
	for _, f := range r.feeds {
		for f.final == nil {
			r.read(f, math.MaxInt) // more than once: a loop's body may panic
		}
		r.read(f, math.MaxInt)
	}
	r.compare()
	require.ErrorIs(r, r.feeds[0].final, ErrTableDropped)
	require.Equal(r, r.model.Seq(), r.feeds[0].info.Delivered)
	require.Equal(r, r.model.history, r.made) // T3: rows handed out are what they were
}

// forSeeds runs a test with n random seeds. A failing one is in the name of its
// subtest; CHANGEFEED_SEED=... in the environment runs that one alone, and then the
// outcomes that it reached are not judged.
func forSeeds(t *testing.T, n int, outcomes []string, test func(t *testing.T, random *rand.Rand, reached map[string]int)) {
	first, reached := rand.Uint64(), make(map[string]int)
	replay := os.Getenv("CHANGEFEED_SEED")
	if replay != "" {
		var err error
		first, err = strconv.ParseUint(replay, 10, 64)
		require.NoError(t, err)
		n = 1
	}
	for i := range n {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			test(t, rand.New(rand.NewPCG(seed, seed)), reached)
		})
		if !ok {
			return
		}
	}
	if replay == "" {
		for _, outcome := range outcomes {
			require.NotZero(t, reached[outcome], "never reached: %s", outcome)
		}
	}
	t.Log(reached)
}

// modelOutcomes are what the runs of TestModel must reach.
func modelOutcomes() []string {
	outcomes := []string{
		"more than a page is buffered", "overflow", "overflow in the middle of a backlog", "caught up",
		"write in the loop's body", "panic in the loop's body", "cancelled with a backlog", "forgotten",
		"read from a dropped table's backlog", "read again after the end",
		"end: " + errModelCancelled.Error(), "end: " + ErrTableDropped.Error(), "end: " + ErrInvalidOption.Error(),
		"born ended: " + ErrTableDropped.Error(), "born ended: " + ErrInvalidOption.Error(),
	}
	for name, reached := range map[string][]any{
		"Insert":  {Insert, ErrDuplicateKey, ErrTableDropped, errOops},
		"Upsert":  {Insert, Update, None, ErrTableDropped, errOops},
		"Replace": {Update, None, ErrNotFound, ErrTableDropped, errOops},
		"Delete":  {Delete, ErrNotFound, ErrTableDropped},
		"Update":  {Update, None, ErrNotFound, ErrKeyChanged, ErrTableDropped, errOops},
		"Compute": {Insert, Update, Delete, None, ErrKeyChanged, ErrTableDropped, errOops},
	} {
		for _, outcome := range reached {
			outcomes = append(outcomes, fmt.Sprintf("%s: %v", name, outcome))
		}
	}
	return outcomes
}

// A table does what its model does, step by step: every sentence of the contract
// that is about one goroutine (T2, T3, T4, R2, F1, F2, F4).
func TestModel(t *testing.T) {
	t.Parallel()
	forSeeds(t, 200, modelOutcomes(), func(t *testing.T, random *rand.Rand, reached map[string]int) {
		synctest.Test(t, func(t *testing.T) {
			r := newModelRun(t, random.IntN, reached)
			for range 150 {
				r.step()
			}
			r.finish()
		})
	})
}

// The same history, read at the same moments through other buffers and through
// stages that do nothing, is the same history less exactly the gaps reported (F1).
// As in pebble's metamorphic tests there is no model here: the writes and the readers
// vouch for each other.
func TestModelOtherBuffersSameHistory(t *testing.T) {
	t.Parallel()
	outcomes := []string{"1 overflows", "2 overflows", "64 overflows", "100000 is complete"}
	forSeeds(t, 40, outcomes, func(t *testing.T, random *rand.Rand, reached map[string]int) {
		table := NewTable("model", modelKey)
		type reader struct {
			stream Stream[Change[modelRow]]
			pairs  []pair[Change[modelRow]]
		}
		buffers := []int{1, 2, 64, DefaultBuffer}
		var plain, staged []*reader
		for _, buffer := range buffers {
			stream := table.Changes(t.Context(), Buffer(buffer))
			plain = append(plain, &reader{stream: stream})
			stream = table.Changes(t.Context(), Buffer(buffer)).
				Filter(func(Change[modelRow]) bool { return true }).
				Map(func(c Change[modelRow]) Change[modelRow] { return c }).
				Limit(math.MaxInt)
			staged = append(staged, &reader{stream: stream})
		}
		writes := &modelRun{TestingT: t, roll: random.IntN}
		var made []Change[modelRow]
		for range 100 {
			for range random.IntN([]int{2, 10, 200}[random.IntN(3)]) {
				_, op := writes.randomWrite()
				if c, err := attempt(func() (Change[modelRow], error) { return op(table) }); err == nil && c.Kind != None {
					made = append(made, c)
				}
			}
			n := random.IntN(100)
			for i, info := range table.Feeds() {
				r := slices.Concat(plain, staged)[i/2+i%2*len(buffers)] // they subscribed in turn
				r.pairs = append(r.pairs, take(r.stream, min(n, info.Buffered))...)
			}
		}
		table.Drop()
		for i, buffer := range buffers {
			for _, r := range []*reader{plain[i], staged[i]} {
				r.pairs = append(r.pairs, take(r.stream, math.MaxInt)...)
			}
			require.Equal(t, plain[i].pairs, staged[i].pairs)

			last := len(plain[i].pairs) - 1
			require.ErrorIs(t, plain[i].pairs[last].err, ErrTableDropped)
			var whole []Change[modelRow]
			for _, p := range plain[i].pairs[:last] {
				if p.err == nil {
					whole = append(whole, p.v)
					continue
				}
				skipped, ok := errors.AsType[*SkippedError](p.err)
				require.True(t, ok)
				require.Equal(t, uint64(len(whole)+1), skipped.From)
				require.Equal(t, skipped.Count, skipped.To-skipped.From+1)
				whole = append(whole, made[skipped.From-1:skipped.To]...)
				reached[fmt.Sprint(buffer, " overflows")]++
			}
			require.Equal(t, made, whole)
			if last == len(made) {
				reached[fmt.Sprint(buffer, " is complete")]++
			}
		}
	})
}

// A modelHistory is what goroutines saw of one table.
type modelHistory struct {
	mu     sync.Mutex     // guards what follows
	made   []Change[game] // returned by the writes
	reads  []modelRead
	states []modelState
	counts map[string]int // outcomes reached
}

// A modelRead is what one feed handed out.
type modelRead struct {
	buffer           int
	earliest, latest uint64 // it subscribed at a sequence number from earliest to latest
	pairs            []pair[Change[game]]
}

// A modelState is what one range over the rows saw.
type modelState struct {
	earliest, latest uint64 // sequence number before and after
	rows             []game
}

func (h *modelHistory) record(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// write makes a random write.
func (h *modelHistory) write(t *testing.T, table *Table[int, game], random *rand.Rand) {
	key, n := random.IntN(12), random.IntN(3)
	row := game{ID: key, Score: n}
	var c Change[game]
	var err error
	op := random.IntN(6)
	switch op {
	case 0:
		c, err = table.Insert(row)
	case 1:
		c, err = table.Upsert(row)
	case 2:
		c, err = table.Update(key, func(g *game) { g.Score += n })
	case 3:
		c, err = table.Replace(row)
	case 4:
		c, err = table.Delete(key)
	default:
		c, err = table.Compute(key, func(old *game) *game {
			if old == nil {
				return &row
			}
			return nil
		})
	}
	h.record(func() {
		switch {
		case err == nil && c.Kind != None:
			h.made = append(h.made, c)
			h.counts[fmt.Sprint("write ", op, " ", c.Kind)]++
		case err != nil:
			assert.True(t, errors.Is(err, ErrDuplicateKey) || errors.Is(err, ErrNotFound), err)
		}
	})
}

// follow reads a feed to its end, breaking off and ranging again, and cancels it
// after n pairs.
func (h *modelHistory) follow(r modelRead, stream Stream[Change[game]], cancel func(), random *rand.Rand, n int) {
	for ended := false; !ended; {
		part := take(stream, 1+random.IntN(20))
		r.pairs = append(r.pairs, part...)
		err := part[len(part)-1].err
		ended = errors.Is(err, ErrTableDropped) || errors.Is(err, context.Canceled)
		if len(r.pairs) >= n {
			cancel()
		}
	}
	h.record(func() { h.reads = append(h.reads, r) })
}

// look reads the rows, and what Feeds tells of those that subscribed before the
// first write.
func (h *modelHistory) look(t *testing.T, table *Table[int, game]) {
	s := modelState{earliest: table.Seq()}
	for key, row := range table.All() {
		assert.Equal(t, key, row.ID)
		s.rows = append(s.rows, row)
	}
	s.latest = table.Seq()
	h.record(func() { h.states = append(h.states, s) })
	for _, info := range table.Feeds() {
		assert.LessOrEqual(t, info.Buffered, info.Capacity)
		if info.Name == "first" { // R2
			appended := info.Delivered + info.Skipped + uint64(info.Buffered)
			assert.LessOrEqual(t, s.latest, appended)
			assert.LessOrEqual(t, appended, table.Seq())
		}
	}
}

// replay checks that the changes that the writes returned are one history.
func (h *modelHistory) replay(t *testing.T) {
	slices.SortFunc(h.made, func(a, b Change[game]) int { return cmp.Compare(a.Seq, b.Seq) })
	rows := make(map[int]*game)
	found := make([]bool, len(h.states))
	compareStates := func(seq uint64) {
		for i, s := range h.states {
			found[i] = found[i] || s.earliest <= seq && seq <= s.latest && len(s.rows) == len(rows) &&
				!slices.ContainsFunc(s.rows, func(row game) bool { return rows[row.ID] == nil || *rows[row.ID] != row })
		}
	}
	compareStates(0)
	for i, c := range h.made {
		require.Equal(t, uint64(i+1), c.Seq)
		key := c.Row().ID
		require.True(t, rows[key] == c.Old, "%d: Old is not the row before", c.Seq)
		rows[key] = c.New
		if c.New == nil {
			delete(rows, key)
		}
		compareStates(c.Seq)
	}
	for i, s := range h.states {
		require.True(t, found[i], "a range over the rows saw what the table never was: %v", s)
	}
}

// check checks that a feed handed out the history from its subscription on, in
// order, less exactly what it said it skipped.
func (h *modelHistory) check(t *testing.T, r modelRead) {
	last := len(r.pairs) - 1
	at, started := r.latest, false
	start := func(seq uint64) {
		if !started {
			at, started = seq-1, true
			require.True(t, r.earliest <= at && at <= r.latest, "missed changes before it began, or saw older ones")
		}
		require.Equal(t, at+1, seq)
	}
	for _, p := range r.pairs[:last] {
		if p.err == nil {
			start(p.v.Seq)
			require.True(t, h.made[at] == p.v, "%d: not the change made", p.v.Seq)
			at++
			continue
		}
		skipped, ok := errors.AsType[*SkippedError](p.err)
		require.True(t, ok, p.err)
		start(skipped.From)
		require.Equal(t, skipped.To-skipped.From+1, skipped.Count)
		at = skipped.To
		h.counts[fmt.Sprint("gap with ", r.buffer)]++
	}
	if errors.Is(r.pairs[last].err, ErrTableDropped) {
		require.Equal(t, uint64(len(h.made)), at, "ended before it had all")
		h.counts["dropped"]++
	} else {
		h.counts["cancelled"]++
	}
}

// What goroutines do to one table at a time is one history, which its sequence
// numbers tell: the changes that all writes returned are numbered without gaps and
// replay, and whatever a feed or a range over the rows saw is a part or a state of it
// (T1, T2, R2, F1, F2, F3, F4).
func TestModelConcurrent(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed) // of the choices; what comes of them the scheduler decides
	var n uint64
	source := func() *rand.Rand {
		n++
		return rand.New(rand.NewPCG(seed, n))
	}
	table := newGames()
	h := modelHistory{counts: make(map[string]int)}
	var writers, others sync.WaitGroup
	var written atomic.Bool

	begin := make(chan struct{})
	buffers := []int{1, 2, 64, DefaultBuffer}
	for _, buffer := range buffers {
		r := modelRead{buffer: buffer}
		stream, random := table.Changes(t.Context(), Named("first"), Buffer(buffer)), source()
		others.Go(func() {
			<-begin
			h.follow(r, stream, func() {}, random, math.MaxInt)
		})
	}
	for random := source(); table.Seq() < 100; { // what the small buffers must skip
		h.write(t, table, random)
	}
	close(begin)
	for range 3 { // feeds that come and go
		random := source()
		others.Go(func() {
			for !written.Load() {
				ctx, cancel := context.WithCancel(t.Context())
				r := modelRead{buffer: buffers[random.IntN(len(buffers))], earliest: table.Seq()}
				stream := table.Changes(ctx, Buffer(r.buffer))
				r.latest = table.Seq()
				h.follow(r, stream, cancel, random, random.IntN(200))
				cancel()
			}
		})
	}
	writers.Go(func() { // not a writer, but like them done before the drop
		for range 300 {
			h.look(t, table)
			if g, ok := table.Get(3); ok {
				assert.Equal(t, 3, g.ID)
			}
			runtime.Gosched()
		}
	})
	for range 4 {
		random := source()
		writers.Go(func() {
			for i := range 3000 {
				h.write(t, table, random)
				if i > 400 && i%8 == 0 { // a rush, and then by turns, with one processor too
					runtime.Gosched()
				}
			}
		})
	}
	writers.Wait()
	written.Store(true)
	h.look(t, table) // the final state
	for table.allScope.ring.parked.Load() < int32(len(buffers)) {
		runtime.Gosched() // until at least the first feeds wait, so that the drop must wake several (F3)
	}
	table.Drop()
	others.Wait()

	h.replay(t)
	for _, r := range h.reads {
		h.check(t, r)
	}
	require.Zero(t, h.counts[fmt.Sprint("gap with ", DefaultBuffer)])
	for _, outcome := range []string{
		"write 0 insert", "write 1 insert", "write 1 update", "write 2 update", "write 3 update", "write 4 delete",
		"write 5 insert", "write 5 delete", "gap with 1", "gap with 2", "gap with 64", "dropped", "cancelled",
	} {
		require.NotZero(t, h.counts[outcome], "never reached: %s", outcome)
	}
	t.Log(len(h.states), "states,", len(h.reads), "feeds,", h.counts)
}
