//go:build changefeed_debug

package changefeed

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The protocol between a writer and the readers that hold no lock, in every interleaving. The
// writer and each reader are coroutines. The writer gives way before it stores something that
// readers load, and a reader before it loads it.
//
// These tests run first, for their file is the first. A goroutine that another test left behind
// would call onAccess, too.

// A scheduler has coroutines, of which one runs at a time. The first is the writer.
type scheduler struct {
	resume []func() (word any, alive bool)
	words  []any // what each accesses next
	alive  []bool
	now    int
}

// start runs each thread to its first access. stop must be called.
func start(threads ...func()) (c *scheduler, stop func()) {
	c = &scheduler{words: make([]any, len(threads)), alive: make([]bool, len(threads))}
	yields := make([]func(any) bool, len(threads))
	onAccess.Store(new(func(word any, store bool) {
		if store == (c.now == 0) {
			yields[c.now](word)
		}
	}))
	var stops []func()
	for i, f := range threads {
		next, stop := iter.Pull(func(yield func(word any) bool) {
			yields[i] = yield
			f()
		})
		c.resume, stops = append(c.resume, next), append(stops, stop)
		c.step(i)
	}
	return c, func() {
		for _, stop := range stops {
			stop()
		}
		onAccess.Store(nil)
	}
}

// step makes the next access of a thread, which is alive.
func (c *scheduler) step(i int) {
	c.now = i
	c.words[i], c.alive[i] = c.resume[i]()
}

func (c *scheduler) finish() {
	for i := range c.alive {
		for c.alive[i] {
			c.step(i)
		}
	}
}

// A scenario is tables, and a writer and a reader that use them.
type scenario interface {
	write()
	read()
	check() error
}

// inEverySchedule runs the threads of a new scenario by each schedule. Accesses to different words
// may be in either order, and the outcome is the same. So of the schedules with the same
// outcome it runs one to the end. These are sleep sets, as in Godefroid's Partial-Order
// Methods for the Verification of Concurrent Systems.
func inEverySchedule(t *testing.T, newScenario func() scenario) {
	runs := 0
	for schedule, more := []bool(nil), true; more; {
		s := newScenario()
		taken, redundant := inSchedule(s, schedule)
		if !redundant {
			runs++
			if err := s.check(); err != nil {
				require.NoError(t, err, "schedule %v", taken)
			}
		}
		last := len(taken) - 1
		for last >= 0 && taken[last] {
			last--
		}
		if more = last >= 0; more {
			schedule = append(taken[:last:last], true)
		}
	}
	t.Log(runs, "schedules")
	require.Greater(t, runs, 5, "this is no check of every interleaving")
}

// inSchedule runs a scenario. The schedule says for each choice whether the writer goes first. At
// choices beyond it, the reader does. inSchedule returns the choices that were made, and
// whether another schedule has the same outcome.
//
// If the writer goes first, the reader sleeps until the writer stores the word that the reader
// is about to load. Until then, the reader might as well have gone first.
func inSchedule(s scenario, schedule []bool) (taken []bool, redundant bool) {
	c, stop := start(s.write, s.read)
	defer stop()
	asleep := false
	for c.alive[0] && c.alive[1] {
		if !asleep {
			asleep = len(taken) < len(schedule) && schedule[len(taken)]
			taken = append(taken, asleep)
		}
		if !asleep {
			c.step(1)
			continue
		}
		word := c.words[0]
		c.step(0)
		asleep = word != c.words[1]
	}
	if asleep && c.alive[1] {
		return taken, true
	}
	c.finish()
	return taken, false
}

// An accessHistory is the writes of one writer, which come one after the other, and what readers
// got meanwhile.
type accessHistory struct {
	clock  int
	states []state
	gets   []got
}

// A state is what a write makes of the tables, at some time from begin to end.
type state struct {
	values     map[byte]int // the row in each table; 0: none
	begin, end int
}

type got struct {
	table      byte
	value      int
	begin, end int
}

// tick returns the next time. It is an access of the writer, or of a reader.
func (h *accessHistory) tick(writer bool) int {
	access(h, writer)
	h.clock++
	return h.clock
}

// record makes a write that changes the given values.
func (h *accessHistory) record(write func(), values map[byte]int) {
	s := state{maps.Clone(h.states[len(h.states)-1].values), h.tick(true), 0}
	maps.Copy(s.values, values)
	h.states = append(h.states, s)
	write()
	h.states[len(h.states)-1].end = h.tick(true)
}

func (h *accessHistory) get(table byte, read func() int) {
	begin := h.tick(false)
	value := read()
	h.gets = append(h.gets, got{table, value, begin, h.tick(false)})
}

// check reports whether all writes and gets can have happened one after the other, each at
// some time from its begin to its end.
func (h *accessHistory) check() error {
	gets := slices.SortedFunc(slices.Values(h.gets), func(a, b got) int { return a.begin - b.begin })
	states := make([]int, len(gets))
	for i, g := range gets {
		at := 0 // the earliest possible
		for j, earlier := range gets[:i] {
			if earlier.end < g.begin {
				at = max(at, states[j])
			}
		}
		for at < len(h.states) && (h.states[at].values[g.table] != g.value || at+1 < len(h.states) && h.states[at+1].end < g.begin) {
			at++
		}
		if at == len(h.states) || h.states[at].begin > g.end {
			return fmt.Errorf("%+v; the states are %+v, all gets %+v", g, h.states, gets)
		}
		states[i] = at
	}
	return nil
}

// A getScenario is tables a and b with the row 1, whose score counts, a writer, and a reader that
// calls Get.
type getScenario struct {
	*accessHistory
	a, b   *Table[int, game]
	writer func(s *getScenario)
	reader string // the tables that it reads
	failed error
}

// newUncheckedGames returns a table that does not look for changed rows, which takes time.
func newUncheckedGames() *Table[int, game] {
	games := newGames()
	games.guard.equal = func(a, b *[]game) bool { return false }
	return games
}

func newGetScenario(writer func(s *getScenario), reader string) *getScenario {
	s := &getScenario{&accessHistory{}, newUncheckedGames(), newUncheckedGames(), writer, reader, nil}
	_, _ = s.a.Insert(game{ID: 1, Score: 1})
	_, _ = s.b.Insert(game{ID: 1, Score: 1})
	s.states = []state{{map[byte]int{'a': 1, 'b': 1}, 0, 0}}
	return s
}

func (s *getScenario) write() { s.writer(s) }

func (s *getScenario) read() {
	for i := range len(s.reader) {
		s.get(s.reader[i], func() int { return s.value(s.reader[i]) })
	}
}

func (s *getScenario) check() error { return errors.Join(s.failed, s.accessHistory.check()) }

func (s *getScenario) table(name byte) *Table[int, game] {
	if name == 'a' {
		return s.a
	}
	return s.b
}

func (s *getScenario) value(name byte) int {
	g, _ := s.table(name).Get(1)
	return g.Score
}

// set writes a value to a table, or deletes the row if it is 0.
func (s *getScenario) set(name byte, value int) {
	s.record(func() { setScore(s.table(name), value) }, map[byte]int{name: value})
}

func setScore(to rowWriter[game], value int) {
	if value == 0 {
		_, _ = to.Delete(1)
	} else {
		_, _ = to.Upsert(game{ID: 1, Score: value})
	}
}

// transact writes values to the tables in one transaction. Before each it writes one that
// nobody may see.
func (s *getScenario) transact(values map[byte]int) {
	s.record(func() { _ = Transact(s.writes(values, nil), s.a, s.b) }, values)
}

// rollBack rolls such a transaction back.
func (s *getScenario) rollBack(values map[byte]int) {
	_ = Transact(s.writes(values, errTakenBack), s.a, s.b)
}

// reset gives the tables new rows, with the values, in one transaction.
func (s *getScenario) reset(values map[byte]int) {
	s.record(func() { _ = Transact(s.resets(values, nil), s.a, s.b) }, values)
}

// rollBackReset rolls such a transaction back.
func (s *getScenario) rollBackReset(value int) {
	_ = Transact(s.resets(map[byte]int{'a': value, 'b': value}, errTakenBack), s.a, s.b)
}

func (s *getScenario) resets(values map[byte]int, err error) func(tx *Tx) error {
	return func(tx *Tx) error {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			var rows []game
			if values[name] > 0 {
				rows = append(rows, game{ID: 1, Score: values[name]})
			}
			table := s.table(name)
			s.failed = errors.Join(s.failed, table.In(tx).Reset(Past[game]{Lineage: []Position{table.At(9)}, Rows: slices.Values(rows)}))
		}
		return err
	}
}

func (s *getScenario) writes(values map[byte]int, err error) func(tx *Tx) error {
	return func(tx *Tx) error {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			setScore(s.table(name).In(tx), -1)
			setScore(s.table(name).In(tx), values[name])
		}
		return err
	}
}

// A Get returns a row that was published at some time while it ran. What a reader gets never
// goes backwards, also from table to table. Nobody gets a row that was rolled back.
func TestGetsInEveryInterleaving(t *testing.T) {
	for name, test := range map[string]struct {
		writer func(s *getScenario)
		reader string // the tables that it reads
	}{
		"writes":                     {func(s *getScenario) { s.set('a', 2); s.set('b', 2); s.set('a', 3) }, "abab"},
		"a row that goes and comes":  {func(s *getScenario) { s.set('a', 0); s.set('a', 2); s.set('a', 3) }, "aaaa"},
		"a transaction":              {func(s *getScenario) { s.transact(map[byte]int{'a': 2, 'b': 2}) }, "abab"},
		"a transaction, a write":     {func(s *getScenario) { s.transact(map[byte]int{'a': 2, 'b': 2}); s.set('a', 3) }, "aba"},
		"a transaction that deletes": {func(s *getScenario) { s.transact(map[byte]int{'a': 2, 'b': 0}); s.set('b', 3) }, "bab"},
		"a transaction that inserts": {func(s *getScenario) { s.set('a', 0); s.transact(map[byte]int{'a': 2, 'b': 2}) }, "aba"},
		"two transactions": {func(s *getScenario) {
			s.transact(map[byte]int{'a': 2, 'b': 2})
			s.transact(map[byte]int{'a': 3})
		}, "aba"},
		"a rollback": {func(s *getScenario) { s.rollBack(map[byte]int{'a': 2, 'b': 0}); s.set('a', 3) }, "aba"},
		"a rollback, a transaction": {func(s *getScenario) {
			s.rollBack(map[byte]int{'a': 2, 'b': 2})
			s.transact(map[byte]int{'a': 3, 'b': 3})
		}, "aba"},
		"the same row, rolled back and committed": {func(s *getScenario) {
			row := &game{ID: 1, Score: 2}
			insert := func(tx *Tx) { _, _ = s.a.In(tx).Compute(1, func(*game) *game { return row }) }
			_ = Transact(func(tx *Tx) error { insert(tx); return errTakenBack }, s.a)
			s.set('a', 0)
			s.record(func() { _ = Transact(func(tx *Tx) error { insert(tx); return nil }, s.a) }, map[byte]int{'a': 2})
		}, "aaa"},
		"a reset":                           {func(s *getScenario) { s.reset(map[byte]int{'a': 2, 'b': 2}) }, "abab"},
		"a reset, a write":                  {func(s *getScenario) { s.reset(map[byte]int{'a': 2, 'b': 2}); s.set('a', 3) }, "aba"},
		"a write, a reset that deletes":     {func(s *getScenario) { s.set('a', 2); s.reset(map[byte]int{'a': 0, 'b': 2}) }, "aba"},
		"a transaction, a reset, a write":   {func(s *getScenario) { s.transact(map[byte]int{'a': 2}); s.reset(map[byte]int{'a': 3}); s.set('a', 0) }, "aa"},
		"two resets":                        {func(s *getScenario) { s.reset(map[byte]int{'a': 2, 'b': 2}); s.reset(map[byte]int{'a': 3}) }, "aba"},
		"a reset that is rolled back":       {func(s *getScenario) { s.rollBackReset(2); s.set('a', 3) }, "aaa"},
		"a reset, rolled back, and another": {func(s *getScenario) { s.rollBackReset(2); s.reset(map[byte]int{'a': 3, 'b': 3}) }, "aba"},
		"beside a snapshot": {func(s *getScenario) {
			rows := s.a.Selection().scan(false)
			s.set('a', 2)
			s.transact(map[byte]int{'a': 3, 'b': 3})
			rows.close()
		}, "aba"},
	} {
		t.Run(name, func(t *testing.T) {
			inEverySchedule(t, func() scenario { return newGetScenario(test.writer, test.reader) })
		})
	}
}

// A snapshotScenario is a table with the row 1, a writer, and a reader of a snapshot.
type snapshotScenario struct {
	games  *Table[int, game]
	cell   *cell[int, game] // of the row
	script string
	score  int // of the row, as the writer has it
	scans  []*scan[int, game]
	older  *scan[int, game] // open all the time, of the score 10
	rows   *scan[int, game] // of the score 11, and read by the reader
	failed error
}

func newSnapshotScenario(script string) *snapshotScenario {
	s := &snapshotScenario{games: newUncheckedGames(), script: script, score: 10}
	_, _ = s.games.Insert(game{ID: 1, Score: s.score})
	s.cell = s.games.cellLocked(1)
	s.older = s.games.Selection().scan(false)
	s.upsert(s.games)
	s.rows = s.games.Selection().scan(false)
	return s
}

func (s *snapshotScenario) upsert(to rowWriter[game]) {
	s.score++
	_, _ = to.Upsert(game{ID: 1, Score: s.score})
}

func (s *snapshotScenario) read() {
	for range 2 {
		if row := s.cell.at(s.rows.snapshot.moment); row == nil || row.Score != 11 {
			s.failed = fmt.Errorf("the row is %v", row)
		}
	}
}

// write follows the script: w writes to the row, d deletes it, t is a transaction and b one
// that is rolled back, x writes to another row. o opens a snapshot, and a digit closes that
// one of those that are open.
func (s *snapshotScenario) write() {
	for _, c := range s.script {
		switch c {
		case 'w':
			s.upsert(s.games)
		case 'd':
			_, _ = s.games.Delete(1)
		case 'x':
			s.score++
			_, _ = s.games.Upsert(game{ID: 2, Score: s.score})
		case 't', 'b':
			_ = Transact(func(tx *Tx) error {
				s.upsert(s.games.In(tx))
				if c == 'b' {
					return errTakenBack
				}
				return nil
			}, s.games)
		case 'o':
			s.scans = append(s.scans, s.games.Selection().scan(false))
		default:
			s.scans[c-'0'].close()
			s.scans = slices.Delete(s.scans, int(c-'0'), int(c-'0')+1)
		}
	}
}

func (s *snapshotScenario) check() error {
	if s.failed != nil {
		return s.failed
	}
	c := s.cell
	for i, rows := range slices.Insert(s.scans, 0, s.rows, s.older) {
		if row := c.at(s.older.snapshot.moment); i < 2 && (row == nil || row.Score != 10) {
			return fmt.Errorf("the row of the older snapshot is %v, with %d closed", row, i)
		}
		rows.close()
	}
	if c.versions.Load() != nil || len(s.games.snapshots.open)+len(s.games.snapshots.closing) > 0 {
		return errors.New("something is left")
	}
	return nil
}

// A reader finds the row of its snapshot, whatever is written meanwhile, and whatever other
// snapshots are opened and closed. When all are closed, nothing is left.
func TestSnapshotsInEveryInterleaving(t *testing.T) {
	for _, script := range strings.Fields("www owow0w0w woowow00 owow1w0 tbt otobt0t0 dwod oowow0w0 xow0w xoxow1w0w xoxow0w0w xowxow10w odw0 oxdow0t0") {
		t.Run(script, func(t *testing.T) {
			inEverySchedule(t, func() scenario { return newSnapshotScenario(script) })
		})
	}
}

// A writer, two readers that call Get, and one of a snapshot, in random schedules.
func TestReadersInRandomInterleavings(t *testing.T) {
	r := newRand(t)
	for range 2000 {
		var scans []*scan[int, game]
		write := func(s *getScenario) {
			values := map[byte]int{'a': r.IntN(2) * r.IntN(1000), 'b': r.IntN(2) * r.IntN(1000)}
			switch r.IntN(8) {
			case 0, 1:
				name := "ab"[r.IntN(2)]
				s.set(name, values[name])
			case 2, 3:
				s.transact(values)
			case 4:
				s.rollBack(values)
			case 5, 6:
				scans = append(scans, s.a.Selection().scan(false))
			case 7:
				if n := len(scans); n > 0 {
					i := r.IntN(n)
					scans[i].close()
					scans = slices.Delete(scans, i, i+1)
				}
			}
		}
		s := newGetScenario(func(s *getScenario) {
			for range 6 {
				write(s)
			}
		}, "abaab")
		for range 3 {
			write(s)
		}
		rows, want := s.a.Selection().scan(false), s.value('a')
		c, stop := start(s.write, s.read, s.read, func() {
			got := 0
			rows.each(func() bool {
				for _, row := range rows.rows {
					got = row.Score
				}
				return true
			})
			if got != want {
				s.failed = fmt.Errorf("the score in the snapshot is %d, want %d", got, want)
			}
		})
		for slices.Contains(c.alive, true) {
			if i := r.IntN(len(c.alive)); c.alive[i] {
				c.step(i)
			}
		}
		stop()
		require.NoError(t, s.check())
		rows.close()
		for _, scan := range scans {
			requireVersions(t, s.a)
			scan.close()
		}
		requireVersions(t, s.a)
	}
}
