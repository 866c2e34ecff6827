package changefeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"
)

// The tables of the tests of Commits are called a, b and c.
type commitTables [3]*Table[int, game]

func newCommitTables() (tables commitTables) {
	for i := range tables {
		tables[i] = NewTable("abc"[i:i+1], func(g *game) int { return g.ID })
	}
	return tables
}

// anyChange is the inverse of Typed.
func anyChange[K, V any](t *Table[K, V], c Change[V]) AnyChange { return t.logged(new(t.logEntry(&c))) }

func (c commitTables) named(name byte) *Table[int, game] { return c[name-'a'] }

// set returns the tables with the names, in their order.
func (c commitTables) set(names string) (tables []AnyTable) {
	for i := range len(names) {
		tables = append(tables, c.named(names[i]))
	}
	return tables
}

// follow returns the commits to the tables with the names.
func (c commitTables) follow(ctx context.Context, names string, opts ...FeedOption) Stream[Commit] {
	return Commits(ctx, c.set(names), opts...)
}

// requireNoSets requires that the tables forget all sets.
func (c commitTables) requireNoSets(tb testing.TB) {
	tb.Helper()
	collected(tb, "a table refers to a set that nobody follows", func() bool {
		return !slices.ContainsFunc(c[:], func(t *Table[int, game]) bool { return t.sets.Load() != nil })
	})
}

// lastSet returns the set of a table that was made last.
func lastSet(t *Table[int, game]) *commitSet {
	sets := t.commitSets()
	return sets[len(sets)-1]
}

// commitOf describes what a loop over commits was handed. A commit is the words of its changes
// in brackets, each after the name of its table: see [wordOf].
func commitOf(commit Commit, err error) string {
	if err != nil {
		var table string
		_, _ = fmt.Sscanf(err.Error(), "changefeed: commits of %q: table dropped", &table)
		skipped, isNotice := errors.AsType[*SkippedError](err)
		switch {
		case commit != nil:
			return "an error with a commit"
		case errors.Is(err, ErrTableDropped):
			return "dropped-" + table
		case isNotice && *skipped == SkippedError{Count: skipped.Count, Feed: skipped.Feed}:
			return fmt.Sprintf("skip%d", skipped.Count)
		}
		return err.Error()
	}
	var words []string
	for _, c := range commit {
		typed, ok := c.Table.(*Table[int, game]).Typed(c)
		if !ok || c.String() != c.Table.Name()+": "+typed.String() {
			return fmt.Sprintf("%v is not %v", c, typed)
		}
		words = append(words, c.Table.Name()+wordOf(typed, nil))
	}
	return "[" + strings.Join(words, " ") + "]"
}

func commitsOf(s Stream[Commit], n int) string { return firstWords(describe(s, commitOf), n) }

// A commitTest is a test of one feed of commits, written as a script like that of a [feedTest].
// The words are those of [commitOf]. The commands are:
//
//	open TABLES     begins the feed, of the tables in that order
//	put ROWS        writes rows, in a transaction if there are several: a1 sets a new score in
//	                the row 1 of the table a, a1=5 sets the score 5, and a1- deletes the row
//	undo ROWS       writes rows in a transaction that fails
//	oops ROWS       writes rows in a transaction that panics
//	drop TABLE
//	info TABLES     gives the figures of the tables' feeds, without the IDs
//	read N, loop, break, at N COMMAND, panic, goexit and cancel are those of a feedTest
type commitTest struct {
	name, do string
	opts     []FeedOption
	polls    bool
}

// A commitScript is the state of a script that runs.
type commitScript struct {
	commitTables
	commitTest
	stepLog
	t      *testing.T
	ctx    context.Context
	cancel func()
	feed   Stream[Commit]
	at     map[int]string
	score  int
	breaks bool
}

func runCommitScripts(t *testing.T, tests ...commitTest) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				s := &commitScript{commitTables: newCommitTables(), commitTest: test, t: t, stepLog: newStepLog(), at: map[int]string{}, score: 1000}
				s.ctx, s.cancel = context.WithCancel(t.Context())
				if test.polls {
					s.opts = append(slices.Clip(s.opts), Poll(s.wake))
				}
				s.run(test.do)
			})
		})
	}
}

func (s *commitScript) run(script string) {
	s.steps(s.t, script, s.perform)
	s.cancel()
	synctest.Wait() // every loop has ended, or the bubble fails
	s.feed = nil
	s.requireNoSets(s.t)
}

func (s *commitScript) perform(command string) {
	verb, rest, _ := strings.Cut(command, " ")
	switch verb {
	case "open":
		s.feed = s.follow(s.ctx, rest, s.opts...)
	case "put":
		if !strings.Contains(rest, " ") {
			s.write(s.named(rest[0]), rest)
			return
		}
		require.NoError(s.t, s.transact(rest, nil))
	case "undo":
		require.Equal(s.t, errTakenBack, s.transact(rest, errTakenBack))
	case "oops":
		require.PanicsWithValue(s.t, errOops, func() { _ = s.transact(rest, errOops) })
	case "drop":
		s.named(rest[0]).Drop()
	case "info":
		for i := range len(rest) {
			for _, info := range s.named(rest[i]).Feeds() {
				s.got = append(s.got, brief(info))
			}
		}
	case "read":
		n := -1
		if rest != "" {
			n, _ = strconv.Atoi(rest)
		}
		s.read(n)
	case "loop":
		go s.read(-1)
	case "break":
		s.mu.Lock()
		s.breaks = true
		s.mu.Unlock()
	case "at":
		n, command, _ := strings.Cut(rest, " ")
		at, err := strconv.Atoi(n)
		require.NoError(s.t, err)
		s.at[at] = command
	case "panic":
		panic(errScript)
	case "goexit":
		runtime.Goexit()
	case "cancel":
		s.cancel()
	default:
		require.Fail(s.t, "no such command: "+command)
	}
}

// transact writes rows in a transaction of all tables, which ends with an error, or a panic if
// that is errOops.
func (s *commitScript) transact(rows string, result error) error {
	return Transact(func(tx *Tx) error {
		for row := range strings.FieldsSeq(rows) {
			s.write(s.named(row[0]).In(tx), row)
		}
		if result == errOops {
			panic(result)
		}
		return result
	}, s.set("cab")...)
}

func (s *commitScript) write(to rowWriter[game], row string) {
	text, isDelete := strings.CutSuffix(row[1:], "-")
	id, score, hasScore := strings.Cut(text, "=")
	key, err := strconv.Atoi(id)
	require.NoError(s.t, err)
	if isDelete {
		must[game](s.t)(to.Delete(key))
		return
	}
	s.score++
	next := s.score
	if hasScore {
		next, err = strconv.Atoi(score)
		require.NoError(s.t, err)
	}
	must[game](s.t)(to.Upsert(game{ID: key, Score: next}))
}

// read ranges over the feed up to n words, or until it ends.
func (s *commitScript) read(n int) {
	defer func() {
		if p := recover(); p == any(errScript) {
			s.got = append(s.got, "panic")
		} else if p != nil {
			panic(p)
		}
	}()
	count := 0
	for commit, err := range s.feed {
		s.mu.Lock()
		s.got = append(s.got, commitOf(commit, err))
		breaks := s.breaks
		s.breaks = false
		s.mu.Unlock()
		clear(commit) // the loop may modify it
		_ = append(commit, commit...)
		count++
		if command, ok := s.at[count]; ok {
			delete(s.at, count)
			s.perform(command)
		}
		if breaks || count == n {
			break
		}
	}
}

// A write or a transaction is one commit of all of its changes to the tables, in the order in
// which they were made. Changes to other tables, writes that change nothing, and transactions
// that fail are not in the stream.
func TestCommits(t *testing.T) {
	initial := []FeedOption{IncludeInitial()}
	buffer := func(n int, o Overflow) []FeedOption { return []FeedOption{Buffer(n), OnOverflow(o)} }
	runCommitScripts(t,
		commitTest{name: "order", polls: true, do: `
			put a1 b1; open ab; put a1; put b1 a1 b1 a2 b1-; put c1; put c1 b2 c2; read: [a2] [b2 a3 b3 a+4 b-4] [b+5]
			put a1=1 b1=1: wake; put a1=1; put a1=1 b1=1 c1=1; undo a1 b1; oops b1 a1 c1; put b1=1 a2- b1=1 a2
			read: [a5 b+6] [a-6 a+7]; read; put c1; read; put a1: wake; read: [a8]`},
		commitTest{name: "there and back", polls: true, do: "put a1=5; open a; put a1=6 a1=5; put a2 a2-; read: [a2 a3] [a+4 a-5]"},
		commitTest{name: "one table", polls: true, do: "open c; put a1; put c1 a1 c1; read: [c+1 c2]"},
		commitTest{name: "a table twice", polls: true, opts: initial, do: `
			put a1 b1 b2; open babab; info a: feed: initial rows to come, buffered 0/100000, delivered 0, skipped 0, seq 0
			put a1 b1; read: [brow1 brow2] [arow1] [bready2 aready1] [a2 b3]
			info ab: feed: buffered 0/100000, delivered 2, skipped 0, seq 0 feed: buffered 0/100000, delivered 2, skipped 0, seq 0; info c`},
		commitTest{name: "initial rows", polls: true, opts: initial, do: `
			put b3 b1 c2 c1; put c2-; open acb; put b1- a1 c2; put b2; read 1: [crow1] wake; read 1: [brow1 brow3] wake
			read 1: [aready0 cready3 bready2] wake; read: [b-3 a+1 c+4] [b+4]; read; put c1: wake; read: [c5]`},
		commitTest{name: "no initial rows", polls: true, opts: initial, do: "open abc; read: [aready0 bready0 cready0]; read; put a1: wake"},
		commitTest{name: "a panic pauses", polls: true, opts: initial, do: `
			put a1 b1; open ab; put a2 b2; put a3; at 1 panic; read: [arow1] panic wake; at 2 goexit; loop: [brow1] [aready1 bready1] wake
			at 1 panic; read: [a+2 b+2] panic wake; at 1 panic; read: [a+3] panic; drop a: wake; at 1 panic; read: dropped-a panic; read: dropped-a`},
		commitTest{name: "a loop that waits", do: `
			open ab; loop; put a1: [a+1]; put c1; undo a1; put a1 b1 c1: [a2 b+1]; break; put b1: [b2]; put b1; loop: [b3]; cancel: context canceled; read: context canceled`},
		commitTest{name: "writes in the body", polls: true, opts: initial, do: `
			put a1; open ab; at 1 put a1 b1; read: [arow1] [aready1 bready0] [a2 b+1]; put a1: wake; at 1 put b1; read: [a3] [b2]`},
		commitTest{name: "canceled before", do: "open ab; put a1; cancel; read: context canceled; read: context canceled; info ab"},
		commitTest{name: "canceled in the body", polls: true, do: `
			open ab; put a1; put b1; at 1 cancel; read: [a+1] context canceled; read: context canceled; info ab; drop b; read: context canceled`},
		commitTest{name: "canceled among the rows", opts: initial, do: "put a1 b1; open ab; at 1 cancel; loop: [arow1] context canceled; info a"},
		commitTest{name: "canceled at Ready", opts: initial, do: "put a1; open ab; at 2 cancel; loop: [arow1] [aready1 bready0] context canceled"},
		commitTest{name: "canceled while it polls", polls: true, do: "open ab; read; cancel: wake; read: context canceled; read: context canceled; drop a"},
		commitTest{name: "left at the last commit", polls: true, do: "open ab; put a1; read 1: [a+1]; drop a: wake; info b: feed: buffered 0/100000, delivered 1, skipped 0, seq 0; read: dropped-a; info b"},
		commitTest{name: "dropped with rows to come", polls: true, opts: initial, do: "put a1 b1; open ab; put a1; drop a; put b1; drop b; read: [arow1] [brow1] [aready1 bready1] [a2] dropped-a"},
		commitTest{name: "dropped while it waits", do: "open ab; loop; drop b: dropped-b; put a1; drop a; read: dropped-b; open ac; read: dropped-a; info abc"},
		commitTest{name: "dropped in the body", do: "open ab; put a1; put b1; at 1 drop a; loop: [a+1] [b+1] dropped-a"},

		commitTest{name: "overflow", polls: true, opts: buffer(3, Skip), do: `
			open ab; put a1; put a1 b1; put b1; info a: feed: buffered 3/3, delivered 0, skipped 1, seq 0; read 1: skip1 wake; read: [a2 b+1] [b2]
			put a1 b1: wake; put a1 b1; info b: feed: buffered 2/3, delivered 3, skipped 3, seq 0
			read: skip2 [a4 b4]; put a1 b1 a1: wake; read: [a5 b5 a6]
			put a1 b1 a1 b1: wake; read: skip4; read; put a1 b1 a1 b1: wake; put b1; read: skip4 [b10]
			put a1: wake; put a1 b1 a1 b1; put b1; put a1 b1 a1; read: skip6 [a14 b14 a15]; put a1 b1 a1 b1: wake; drop b; read: skip4 dropped-b`},
		commitTest{name: "Buffer(1)", polls: true, opts: buffer(1, Skip), do: "open ab; put a1 b1; put a1; put a1 b1; read: skip5; put a1: wake; put b1; read: skip1 [b3]"},
		commitTest{name: "Fail", polls: true, opts: buffer(2, Fail), do: "open ab; put a1 b1; read: [a+1 b+1]; put a1: wake; put a1 b1; read 1: skip1; read: skip1; info ab; put a1"},
		commitTest{name: "Fail, left before the notice", polls: true, opts: append(buffer(2, Fail), initial...), do: `
			put a1; open ab; put a1; put a1 b1; put a1; read 1: [arow1] wake; read 1: [aready1 bready0] wake; read: skip3; read: skip3`},
		commitTest{name: "Resync", polls: true, opts: buffer(2, Resync), do: `
			put b1; open ab; read; put a1: wake; put a1 b1; at 1 put a1 b1; read 1: skip3 wake; put b2; read: [arow1] [brow1] [aready2 bready2] skip3 [arow1] [brow1 brow2] [aready3 bready4]
			put a1: wake; read: [a4]; put a1 b1 a1: wake; drop b; read: skip3 dropped-b`},
	)
}

// Misuse panics, and options that are refused are errors. Neither leaves a set behind, and a
// Feed gives access to none.
func TestMisuseOfCommits(t *testing.T) {
	tables := newCommitTables()
	a, b := tables[0], tables[1]
	var noContext context.Context
	for want, call := range map[string]func(){
		"changefeed: Commits: nil context; pass context.Background() if nothing cancels the feed": func() { Commits(noContext, tables.set("ab")) },
		"changefeed: Commits: nil option; leave it out":                                           func() { Commits(t.Context(), tables.set("ab"), nil) },
		"changefeed: Commits: nil table":                                                          func() { Commits(t.Context(), []AnyTable{a, nil}) },
		"changefeed: nil table":                                                                   func() { Commits(t.Context(), []AnyTable{a, (*Table[int, game])(nil)}) },
		"changefeed: another range over the stream is running; call Commits once for each goroutine": func() {
			feed := tables.follow(t.Context(), "ab", IncludeInitial())
			for range feed {
				commitsOf(feed, 1)
			}
		},
	} {
		require.PanicsWithValue(t, want, call)
	}
	require.Panics(t, func() { tables.follow(t.Context(), "ab", Buffer(1), nil) })
	require.Panics(t, func() { tables.follow(panicsInDone{t.Context()}, "ab") })
	tables.requireNoSets(t)

	var tracked Feed
	for want, feed := range map[string]func() Stream[Commit]{
		"changefeed: commits: invalid option: Commits without a table": func() Stream[Commit] { return tables.follow(t.Context(), "", Track(&tracked)) },
		"changefeed: commits: invalid option: Buffer(0): must be at least 1": func() Stream[Commit] {
			return tables.follow(t.Context(), "ab", Track(&tracked), Buffer(0))
		},
		"changefeed: commits: invalid option: OnOverflow(Overflow(9)): must be Skip, Fail or Resync": func() Stream[Commit] {
			return tables.follow(t.Context(), "ab", Track(&tracked), OnOverflow(9))
		},
		"changefeed: commits: invalid option: Commits with After: a feed of commits has no position": func() Stream[Commit] {
			return tables.follow(t.Context(), "ab", Track(&tracked), After(a.At(0)))
		},
		"changefeed: commits: invalid option: Commits with Squash: commits are delivered as they were made": func() Stream[Commit] {
			return tables.follow(t.Context(), "ab", Track(&tracked), Squash(0))
		},
		"dropped-b": func() Stream[Commit] {
			b.Drop()
			return tables.follow(t.Context(), "ab", Track(&tracked))
		},
	} {
		valid := tables.follow(t.Context(), "a", Track(&tracked), Named("valid"))
		require.Equal(t, "valid", tracked.Info().Name)
		refused := feed()
		for range 2 {
			require.Equal(t, want, commitsOf(refused, -1))
		}
		require.Zero(t, tracked.Info())
		runtime.KeepAlive(valid)
	}
	tables.requireNoSets(t)
}

// panicsInDone is a context that panics when a feed hooks into it.
type panicsInDone struct{ context.Context }

func (panicsInDone) Done() <-chan struct{} { panic(errOops) }

// Typed is for changes of its own table. A zero AnyChange is no change.
func TestAnyChange(t *testing.T) {
	tables := newCommitTables()
	users := newUsers()
	feed := Commits(t.Context(), []AnyTable{users, tables[0]})
	made := must[user](t)(users.Insert(user{Name: "Bob"}))
	changed := must[user](t)(users.Upsert(user{"Bob", "x"}))
	i := 0
	for commit, err := range feed.Limit(2) {
		require.NoError(t, err)
		require.Len(t, commit, 1)
		typed, ok := users.Typed(commit[0])
		require.True(t, ok)
		require.Equal(t, []Change[user]{made, changed}[i], typed)
		require.Same(t, []*user{made.New, changed.New}[i], commit[0].New)
		require.Equal(t, i == 0, commit[0].Old == nil)
		_, ok = newUsers().Typed(commit[0])
		require.False(t, ok)
		other, ok := tables[0].Typed(commit[0])
		require.False(t, ok)
		require.Zero(t, other)
		i++
	}
	require.Equal(t, "none", AnyChange{}.String())
	require.Equal(t, "users: 2 update {Bob } -> {Bob x}", anyChange(users, changed).String())
	_, ok := users.Typed(AnyChange{})
	require.False(t, ok)
}

// Feeds lists a feed of commits under each of its tables, in the order of the IDs. A Feed gives
// access to its figures, also after its end.
func TestTheFiguresOfCommits(t *testing.T) {
	tables := newCommitTables()
	a, b := tables[0], tables[1]
	insertRows(t, a, 1)
	var tracked Feed
	require.Zero(t, tracked.Info())
	ctx, cancel := context.WithCancelCause(t.Context())
	first := a.Changes(t.Context(), Named("first"))
	second := tables.follow(t.Context(), "ab", Named("second"))
	third := b.Changes(t.Context(), Named("third"))
	fourth := tables.follow(ctx, "ca", Named("fourth"), Track(&tracked), Buffer(2), IncludeInitial())
	fifth := a.Changes(t.Context(), Named("fifth"))
	sixth := tables.follow(t.Context(), "ba", Named("sixth"))
	names := func(table *Table[int, game]) (names []string) {
		for _, info := range table.Feeds() {
			names = append(names, info.Name)
		}
		return names
	}
	require.Equal(t, []string{"first", "second", "fourth", "fifth", "sixth"}, names(a))
	require.Equal(t, []string{"second", "third", "sixth"}, names(b))
	require.Equal(t, []string{"fourth"}, names(tables[2]))
	require.Len(t, a.commitSets(), 2, "the order of the tables makes no difference")

	id := tracked.Info().ID
	require.Equal(t, a.Feeds()[2].ID, id)
	want := FeedInfo{ID: id, Name: "fourth", Capacity: 2, Initial: true}
	require.Equal(t, want, figures(tracked.Info()))
	insertRows(t, a, 2, 3, 4)
	want.Buffered, want.Skipped = 2, 1
	require.Equal(t, want, figures(tracked.Info()))
	require.Equal(t, "[arow1] [cready0 aready1]", commitsOf(fourth, 2))
	want.Initial = false
	require.Equal(t, want, figures(tracked.Info()))
	for commit, err := range fourth {
		if word := commitOf(commit, err); word == "skip1" {
			require.Equal(t, want, figures(tracked.Info()))
			continue
		}
		want.Buffered, want.Delivered = 1, 1
		require.Equal(t, want, figures(tracked.Info()), "in the body")
		break
	}
	require.Zero(t, tracked.Position())
	other := tables.follow(t.Context(), "ca", Named("other"))
	cancel(errFeedCause)
	for len(tables[2].Feeds()) > 1 {
		runtime.Gosched()
	}
	insertRows(t, a, 5, 6, 7)
	require.Equal(t, want, figures(tracked.Info()), "after the end")
	require.Equal(t, "the cause", commitsOf(fourth, -1))
	require.Equal(t, want, figures(tracked.Info()))
	require.Equal(t, []string{"first", "second", "fifth", "sixth", "other"}, names(a))
	for _, feed := range []any{first, second, third, fifth, sixth, other} {
		runtime.KeepAlive(feed)
	}
}

// A commitModel is the history of the changes to the tables a and b, beside the tables.
type commitModel struct {
	*testing.T
	commitTables
	random  *rand.Rand
	reached map[string]int
	commits []Commit
	ends    []uint64 // the number of changes up to the end of each commit
	score   int
	feeds   []*modelCommits
	dropped bool
}

// A modelCommits is a feed of commits beside its model: a number that says how far it has read.
type modelCommits struct {
	stream   Stream[Commit]
	cancel   func()
	tracked  Feed
	wake     chan struct{}
	overflow Overflow

	tables      []*Table[int, game]
	start, pos  uint64 // in the history
	info        FeedInfo
	rows        [][]*game // the initial rows to come, of each table
	ready       []uint64
	notice      uint64 // to be delivered next
	armed, over bool
	fold        map[commitRow]any // the rows, if known is true
	known       bool
}

// A commitRow names a row.
type commitRow struct {
	table string
	id    int
}

func (m *commitModel) total() uint64 {
	if len(m.ends) == 0 {
		return 0
	}
	return m.ends[len(m.ends)-1]
}

// write makes a commit of random size, which may have changes to c, too.
func (m *commitModel) write() {
	var commit Commit
	change := func(i int, to rowWriter[game]) {
		key := m.random.IntN(20)
		m.score++
		c, err := to.Compute(key, func(old *game) *game {
			if m.random.IntN(4) == 0 {
				return nil
			}
			return &game{ID: key, Score: m.score}
		})
		require.NoError(m, err)
		if i < 2 && c.Kind != None {
			commit = append(commit, anyChange(m.commitTables[i], c))
		}
	}
	if m.random.IntN(3) == 0 {
		i := m.random.IntN(3)
		change(i, m.commitTables[i])
	} else {
		n := 1 + m.random.IntN(6)
		if m.random.IntN(15) == 0 {
			n = m.random.IntN(900)
		}
		var result error
		if m.random.IntN(8) == 0 {
			result = errTakenBack
		}
		require.Equal(m, result, Transact(func(tx *Tx) error {
			for range n {
				i := m.random.IntN(3)
				change(i, m.commitTables[i].In(tx))
			}
			return result
		}, m.set("bac")...))
		if result != nil {
			commit = nil
		}
	}
	if len(commit) == 0 {
		return
	}
	m.ends = append(m.ends, m.total()+uint64(len(commit)))
	m.commits = append(m.commits, commit)
	for _, f := range m.feeds {
		if f.armed {
			f.armed = false
			m.awaitNotified()
			require.Equal(m, 1, notifications(f.wake))
		}
	}
}

// present makes f continue with the present rows.
func (m *commitModel) present(f *modelCommits) {
	f.info.Initial, f.rows, f.ready = true, nil, nil
	for _, table := range f.tables {
		f.rows, f.ready = append(f.rows, stateOf(table).rows), append(f.ready, table.Seq())
	}
}

func (m *commitModel) follow() {
	f := &modelCommits{overflow: Overflow(m.random.IntN(3)), start: m.total(), pos: m.total()}
	f.wake, f.fold = make(chan struct{}, 10), make(map[commitRow]any)
	names := []string{"ab", "ba"}[m.random.IntN(2)]
	f.tables = []*Table[int, game]{m.named(names[0]), m.named(names[1])}
	f.info.Capacity = 1 + m.random.IntN(5)
	if m.random.IntN(3) == 0 {
		f.info.Capacity = []int{255, 256, 257, 300, 600}[m.random.IntN(5)]
	}
	ctx, cancel := context.WithCancel(m.Context())
	f.cancel = cancel
	opts := []FeedOption{Track(&f.tracked), Buffer(f.info.Capacity), OnOverflow(f.overflow), Poll(f.wake)}
	if m.random.IntN(2) == 0 {
		opts = append(opts, IncludeInitial())
		m.present(f)
		f.known = true
	}
	f.stream = m.commitTables.follow(ctx, names, opts...)
	m.feeds = append(m.feeds, f)
}

// lost returns the number of changes that f can no longer read: whole commits.
func (m *commitModel) lost(f *modelCommits) uint64 {
	total, limit := m.total(), uint64(f.info.Capacity)
	if total-f.pos <= limit {
		return 0
	}
	i, _ := slices.BinarySearch(m.ends, total-limit)
	return m.ends[i] - f.pos
}

// requireInfo: every change is delivered, skipped or buffered. R2
func (m *commitModel) requireInfo(f *modelCommits) {
	if f.over {
		return
	}
	want, lost := f.info, m.lost(f)
	want.Skipped += lost
	want.Buffered = int(m.total() - f.pos - lost)
	got := figures(f.tracked.Info())
	got.ID = 0
	require.Equal(m, want, got)
	require.Equal(m, m.total()-f.start, got.Delivered+got.Skipped+uint64(got.Buffered))
}

// advance is what f does when it has nothing but commits to deliver.
func (m *commitModel) advance(f *modelCommits) {
	if f.notice > 0 || f.info.Initial {
		return
	}
	if f.notice = m.lost(f); f.notice == 0 {
		return
	}
	if m.reached["overflow: "+f.overflow.String()]++; f.overflow == Resync && !m.dropped {
		f.notice = m.total() - f.pos
		m.present(f)
	}
	f.pos += f.notice
	f.info.Skipped += f.notice
}

// receive compares what the loop over f received with the model.
func (m *commitModel) receive(f *modelCommits, commit Commit, err error) {
	m.advance(f)
	i, _ := slices.BinarySearch(m.ends, f.pos+1) // the next commit
	left := slices.IndexFunc(f.rows, func(rows []*game) bool { return len(rows) > 0 })
	switch {
	case f.notice > 0:
		require.Nil(m, commit)
		require.Equal(m, &SkippedError{Count: f.notice}, err)
		f.over = f.overflow == Fail
		f.notice, f.known = 0, f.info.Initial
		clear(f.fold)
	case f.info.Initial && left >= 0:
		require.NoError(m, err)
		require.LessOrEqual(m, len(commit), len(f.rows[left]))
		for _, c := range commit {
			require.Equal(m, AnyChange{Table: f.tables[left], Kind: Initial, New: f.rows[left][0]}, c)
			f.fold[commitRow{c.Table.Name(), f.rows[left][0].ID}] = c.New
			f.rows[left] = f.rows[left][1:]
		}
		m.reached["initial rows"]++
	case f.info.Initial:
		require.NoError(m, err)
		var ready Commit
		for i, table := range f.tables {
			ready = append(ready, AnyChange{Table: table, History: table.Position().History, Seq: f.ready[i], Kind: Ready})
		}
		require.Equal(m, ready, commit)
		f.info.Initial = false
	case i == len(m.commits):
		require.True(m, m.dropped, "nothing to read")
		require.Equal(m, "dropped-b", commitOf(commit, err))
		f.over = true
	default:
		require.NoError(m, err)
		if !slices.Equal(m.commits[i], commit) {
			require.Equal(m, m.commits[i], commit)
		}
		f.pos, f.info.Delivered = m.ends[i], f.info.Delivered+uint64(len(commit))
		if len(commit) > maxPage+1 {
			m.reached["more than a page"]++
		}
		for _, c := range commit {
			typed, _ := c.Table.(*Table[int, game]).Typed(c)
			if row := cmp.Or(typed.New, typed.Old); typed.New != nil {
				f.fold[commitRow{c.Table.Name(), row.ID}] = c.New
			} else {
				delete(f.fold, commitRow{c.Table.Name(), row.ID})
			}
		}
	}
	m.requireInfo(f)
}

// awaitNotified waits until the feeds of all sets are notified.
func (m *commitModel) awaitNotified() {
	for _, t := range m.commitTables {
		awaitNotified(t)
	}
}

// read ranges over f for up to n elements. The loop may write, and may panic.
func (m *commitModel) read(f *modelCommits, n int) {
	defer func() {
		if p := recover(); p != nil && p != any(errOops) {
			panic(p)
		}
		require.Zero(m, notifications(f.wake)-m.arm(f))
	}()
	f.armed = false
	over := f.over
	for commit, err := range f.stream {
		if over {
			require.Error(m, err)
			return
		}
		m.receive(f, commit, err)
		switch n--; {
		case n == 0:
			return
		case m.dropped:
		case m.random.IntN(6) == 0:
			m.write()
		case m.random.IntN(20) == 0:
			m.reached["panic"]++
			panic(errOops)
		}
	}
	if over || f.over {
		return
	}
	m.advance(f)
	require.Zero(m, f.notice)
	require.False(m, f.info.Initial)
	require.Equal(m, m.total(), f.pos, "everything was read")
	m.requireInfo(f)
	if f.known {
		m.reached["drained, with its rows"]++
		require.Equal(m, m.rows(), f.fold)
	}
}

// arm returns the number of notifications at the end of a range.
func (m *commitModel) arm(f *modelCommits) int {
	unread := f.info.Initial || f.pos < m.total() || m.dropped
	f.armed = !f.over && !unread
	if unread && !f.over {
		return 1
	}
	return 0
}

func (m *commitModel) rows() map[commitRow]any {
	rows := make(map[commitRow]any)
	for _, table := range m.commitTables[:2] {
		for _, row := range stateOf(table).rows {
			rows[commitRow{table.Name(), row.ID}] = row
		}
	}
	return rows
}

// A feed of commits delivers each commit as a whole, or counts all of it as skipped, for any
// sizes of commits and buffers, and wherever the loop breaks off. F1, F2, R2
func TestCommitsModel(t *testing.T) {
	t.Parallel()
	outcomes := []string{"overflow: skip", "overflow: fail", "overflow: resync", "initial rows", "more than a page", "panic", "drained, with its rows", "canceled"}
	forSeeds(t, 20, outcomes, func(t *testing.T, random *rand.Rand, reached map[string]int) {
		m := &commitModel{T: t, commitTables: newCommitTables(), random: random, reached: reached}
		for range 400 {
			switch op := random.IntN(10); {
			case op == 0 && len(m.feeds) < 6:
				m.follow()
			case op == 1 && len(m.feeds) > 3:
				i := random.IntN(len(m.feeds))
				f := m.feeds[i]
				m.feeds = slices.Delete(m.feeds, i, i+1)
				if f.cancel(); !f.over {
					require.Equal(t, "context canceled", commitsOf(f.stream, 1))
					reached["canceled"]++
				}
			case op < 6 || len(m.feeds) == 0:
				m.write()
			default:
				m.read(m.feeds[random.IntN(len(m.feeds))], 1+random.IntN(1<<random.IntN(6)))
			}
			for _, f := range m.feeds {
				m.requireInfo(f)
			}
		}
		m.commitTables[1].Drop()
		m.dropped = true
		for _, f := range m.feeds {
			m.awaitNotified()
			require.Equal(t, f.armed, notifications(f.wake) == 1)
			for f.known = false; !f.over; {
				m.read(f, 1+random.IntN(3))
			}
		}
		m.feeds = nil
		m.requireNoSets(t)
	})
}

// A commitReader reads feeds of commits beside writers, and remembers what it has read.
type commitReader struct {
	commitTables
	names string
	parts [][]Commit // without a gap in between
	next  map[string]uint64
	rows  map[commitRow]int // the scores in a and b
	known bool              // rows are those of the last commit
}

// receive compares a commit with those before it: no number is missing, and the sum of the
// scores stays the same.
func (r *commitReader) receive(commit Commit, err error) error {
	if err != nil {
		clear(r.next)
		clear(r.rows)
		r.known, r.parts = false, append(r.parts, nil)
		return nil
	}
	for _, c := range commit {
		typed, _ := c.Table.(*Table[int, game]).Typed(c)
		name := c.Table.Name()
		switch next, ok := r.next[name]; {
		case c.Kind == Initial:
		case c.Kind == Ready:
			r.next[name], r.known = c.Seq+1, true
		case ok && c.Seq != next:
			return fmt.Errorf("%v after the change %d", c, next-1)
		default:
			r.next[name] = c.Seq + 1
		}
		if typed.New != nil && name != "c" {
			r.rows[commitRow{name, typed.New.ID}] = typed.New.Score
		}
	}
	sum := 0
	for _, score := range r.rows {
		sum += score
	}
	if r.known && strings.Contains(r.names, "a") && strings.Contains(r.names, "b") && sum != bankSum {
		return fmt.Errorf("the sum is %d after %v", sum, commit)
	}
	if c := commit[0]; c.Kind != Initial && c.Kind != Ready {
		last := len(r.parts) - 1
		r.parts[last] = append(r.parts[last], slices.Clone(commit))
	}
	return nil
}

// bankSum is the sum of the scores in the tables a and b, in each of which are bankRows rows.
const (
	bankRows = 10
	bankSum  = 2 * bankRows * 100
)

func newBankTables(t *testing.T) commitTables {
	tables := newCommitTables()
	for _, table := range tables[:2] {
		for id := range bankRows {
			must[game](t)(table.Insert(game{ID: id, Score: 100}))
		}
	}
	return tables
}

// transfer moves an amount in a transaction on some of the tables, of which the last one may be
// c, where it writes, too.
func (c commitTables) transfer(names string, random *rand.Rand) error {
	amount := 1 + random.IntN(100)
	return Transact(func(tx *Tx) error {
		for i := range 2 + random.IntN(3) {
			from, to := names[random.IntN(len(names))], names[random.IntN(len(names))]
			if from == 'c' || to == 'c' {
				if _, err := c[2].In(tx).Upsert(game{ID: i, Score: random.Int()}); err != nil {
					return err
				}
				continue
			}
			_, err := c.named(from).In(tx).Update(random.IntN(bankRows), func(g *game) { g.Score -= amount })
			if err == nil {
				_, err = c.named(to).In(tx).Update(random.IntN(bankRows), func(g *game) { g.Score += amount })
			}
			if err != nil {
				return err
			}
		}
		if random.IntN(10) == 0 {
			return errTakenBack
		}
		return nil
	}, c.set(names)...)
}

// While transactions move amounts, feeds of overlapping sets of tables come and go. The sum is
// the same after each commit, and after initial rows. All feeds agree on the order of the
// commits, and have them as a whole. F1, F2, F3
func TestCommitsAgreeOnTheOrder(t *testing.T) {
	tables := newBankTables(t)
	all := tables.follow(t.Context(), "cba", Poll(nil), Buffer(10_000_000))
	ctx, cancel := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	var mu sync.Mutex
	var finished []*commitReader
	var read atomic.Int64
	seed := testSeed(t)
	for i := range 4 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := i; ctx.Err() == nil; n++ {
				r := &commitReader{commitTables: tables, names: []string{"ab", "bca", "b", "bc", "ba", "a"}[n%6], parts: make([][]Commit, 1)}
				r.next, r.rows = make(map[string]uint64), make(map[commitRow]int)
				r.read(t, ctx, random)
				mu.Lock()
				finished = append(finished, r)
				for _, part := range r.parts {
					read.Add(int64(len(part)))
				}
				mu.Unlock()
			}
		})
	}
	for i, names := range [][]string{{"ab", "a"}, {"ba", "b", "cab"}, {"b", "bc", "c", "ab"}} {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(seed, 100+uint64(i)))
			for n := 0; n < 20_000 && read.Load() < 4000; n++ {
				if err := tables.transfer(names[random.IntN(len(names))], random); err != nil && err != errTakenBack {
					t.Error(err)
				}
				if random.IntN(4) == 0 {
					_, _ = tables[2].Upsert(game{ID: 100, Score: random.Int()})
				}
				runtime.Gosched() // readers get their turn
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()

	type number struct {
		table AnyTable
		seq   uint64
	}
	var order []Commit
	indexes := make(map[number]int)
	for commit := range all {
		for _, c := range commit {
			indexes[number{c.Table, c.Seq}] = len(order)
		}
		order = append(order, slices.Clone(commit))
	}
	of := make(map[string][]Commit) // for each set of tables, the commits to them, or nil
	reached := make(map[string]int)
	for _, r := range finished {
		commits := of[r.names]
		if commits == nil {
			for _, commit := range order {
				commits = append(commits, slices.DeleteFunc(slices.Clone(commit), func(c AnyChange) bool { return !strings.Contains(r.names, c.Table.Name()) }))
			}
			of[r.names] = commits
		}
		next := 0
		for _, part := range r.parts {
			for i, commit := range part {
				at := indexes[number{commit[0].Table, commit[0].Seq}]
				require.True(t, slices.Equal(commits[at], commit), "a commit is divided: %v is not %v", commit, commits[at])
				require.GreaterOrEqual(t, at, next, "another order")
				for ; i > 0 && next < at; next++ {
					require.Empty(t, commits[next], "left out")
				}
				next = at + 1
				reached["commits"]++
			}
		}
		if len(r.parts) > 1 {
			reached["gaps"]++
		}
	}
	requireOutcomes(t, reached, "commits", "gaps")
	require.Equal(t, order[len(order)-1], of["bca"][len(order)-1])
	cancel()
}

// read makes a feed, and ranges over it some times.
func (r *commitReader) read(t *testing.T, ctx context.Context, random *rand.Rand) {
	wake := make(chan struct{}, 1)
	opts := []FeedOption{OnOverflow(Overflow(random.IntN(3))), Buffer([]int{1, 5, 50, DefaultBuffer}[random.IntN(4)])}
	if random.IntN(2) == 0 {
		opts = append(opts, IncludeInitial())
	}
	polls := random.IntN(2) == 0
	if polls {
		opts = append(opts, Poll(wake))
	}
	inner, cancel := context.WithCancel(ctx)
	if random.IntN(3) > 0 {
		defer cancel() // otherwise the stream is forgotten
	}
	context.AfterFunc(ctx, cancel)
	feed := r.follow(inner, r.names, opts...)
	for range 1 + random.IntN(10) {
		left := random.IntN(1 << random.IntN(11))
		for commit, err := range feed {
			final := errors.Is(err, context.Canceled)
			if problem := r.receive(commit, err); problem != nil {
				t.Error(problem)
				return
			}
			if err != nil && random.IntN(4) == 0 {
				return // a small buffer overflows again and again
			}
			if left--; left < 0 || final {
				break
			}
			if random.IntN(8) == 0 {
				runtime.Gosched()
			}
		}
		if ctx.Err() != nil {
			return
		}
		if polls && random.IntN(2) == 0 {
			select {
			case <-wake:
			case <-ctx.Done():
			}
		}
	}
}

// When a table is dropped beside writers, all feeds with it end with the same last commit. The
// tables forget them. F4
func TestDropBesideWritersEndsCommits(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	for run := range 20 {
		tables := newBankTables(t)
		var writers, readers, droppers sync.WaitGroup
		var stop atomic.Bool
		last := make([]uint64, 6) // numbers of changes to b
		ends := make([]string, 6)
		read := func(feed Stream[Commit]) (last uint64, end string) {
			for end == "" {
				for commit, err := range feed {
					for _, c := range commit {
						if c.Table == AnyTable(tables[1]) {
							last = c.Seq
						}
					}
					if err != nil {
						end = commitOf(commit, err)
					}
				}
				runtime.Gosched()
			}
			return last, end
		}
		for i := range last {
			opts := []FeedOption{Buffer(math.MaxInt)} // the writers may be faster for a long time
			if i%2 == 1 {
				opts = append(opts, Poll(nil))
			}
			feed := tables.follow(t.Context(), "ab", opts...)
			readers.Go(func() { last[i], ends[i] = read(feed) })
		}
		readers.Go(func() { // more come meanwhile, of another set, too
			for i := 0; ; i++ {
				feed := tables.follow(t.Context(), []string{"ab", "abc", "ba"}[i%3], IncludeInitial(), Buffer(1))
				if i%2 == 0 {
					for _, err := range feed {
						if err != nil {
							break
						}
					}
				}
				if end := commitsOf(feed, 1); strings.HasPrefix(end, "dropped-") {
					break
				}
			}
		})
		for i, names := range []string{"ab", "b", "a"} {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			writers.Go(func() {
				for !stop.Load() {
					_ = tables.transfer(names, random)
				}
			})
		}
		for tables[0].Seq() < 200 || tables[1].Seq() < 200 {
			runtime.Gosched()
		}
		dropped := []byte("ab")[:1+run%2]
		for _, name := range dropped {
			droppers.Go(tables.named(name).Drop)
		}
		droppers.Wait()
		seq := tables[1].Seq()
		readers.Wait()
		stop.Store(true)
		writers.Wait()
		for i := range last {
			require.LessOrEqual(t, last[i], seq, "a change after the drop")
			require.Equal(t, ends[0], ends[i])
			require.Equal(t, last[0], last[i])
			require.Contains(t, []string{"dropped-a", "dropped-b"}[:len(dropped)], ends[i])
		}
		require.Equal(t, "dropped-a", commitsOf(tables.follow(t.Context(), "bca"[run%2:]), -1))
		tables.requireNoSets(t)
	}
}

// A publication locks all sets, in one order, before it puts anything into any of them.
func TestAPublicationLocksAllSets(t *testing.T) {
	for name, write := range map[string]func(c commitTables){
		"write": func(c commitTables) { feedWrites(t, c[0], 1) },
		"transaction": func(c commitTables) {
			_ = Transact(func(tx *Tx) error { must[game](t)(c[0].In(tx).Insert(game{ID: 1})); return nil }, c.set("cba")...)
		},
	} {
		for held := range 2 {
			t.Run(fmt.Sprintf("%s/%d", name, held), func(t *testing.T) {
				tables := newCommitTables()
				feeds := []Stream[Commit]{tables.follow(t.Context(), "ab", Poll(nil)), tables.follow(t.Context(), "ac", Poll(nil))}
				sets := tables[0].commitSets()
				sets[held].mu.Lock()
				done := make(chan struct{})
				go func() { defer close(done); write(tables) }()
				for seen := 0; seen < 1000; runtime.Gosched() { // until it waits for the set
					free := sets[1-held].mu.TryLock()
					if free {
						sets[1-held].mu.Unlock()
					}
					require.Zero(t, sets[0].ring.end.Load()+sets[1].ring.end.Load(), "one of the sets has the change")
					require.True(t, free || held == 1, "another order")
					idle := tables[0].mu.TryLock()
					if idle {
						tables[0].mu.Unlock()
					}
					_, ok := tables[0].Get(1)
					require.False(t, ok, "a reader sees the row, and could write before the sets have it")
					if seen++; idle || free != (held == 0) {
						seen = 0
					}
				}
				sets[held].mu.Unlock()
				<-done
				for _, feed := range feeds {
					require.Equal(t, "[a+1]", commitsOf(feed, -1))
				}
			})
		}
	}
}

// The context may end, and a table be dropped, as soon as the loop has looked at the context.
// The final error is the context's cause, and no rows are held. F4
func TestAContextThatEndsBehindALoopOverCommits(t *testing.T) {
	for name, opts := range map[string][]FeedOption{
		"plain": nil, "rows": {IncludeInitial()}, "Resync": {Buffer(2), OnOverflow(Resync)},
	} {
		for _, drops := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/drops=%t", name, drops), func(t *testing.T) {
				words := func(n int) (got string, happened bool) { // if it happens after the loop has looked n times
					tables := newCommitTables()
					insertRows(t, tables[0], 0)
					for id := range 20 {
						insertRows(t, tables[1], id)
					}
					inner, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					looks := n
					ctx := &watchedContext{inner, func() {
						if looks++; looks != n {
							return
						}
						if happened = true; drops && tables[1].mu.TryLock() { // resync looks under the locks, too
							tables[1].mu.Unlock()
							insertRows(t, tables[1], 50)
							tables[1].Drop()
						}
						cancel(errFeedCause)
						for len(tables[0].Feeds()) > 0 { // until the subscription has ended
							runtime.Gosched()
						}
					}}
					feed := tables.follow(ctx, "ab", append(opts, Poll(nil))...)
					insertRows(t, tables[0], 1, 2)
					insertRows(t, tables[1], 30)
					looks = 0
					got = commitsOf(feed, -1)
					if happened {
						got = strings.TrimSuffix(got, "the cause")
						require.Equal(t, "the cause", commitsOf(feed, -1))
					}
					collected(t, "a snapshot is open", func() bool {
						tables[1].snapshots.mu.Lock()
						defer tables[1].snapshots.mu.Unlock()
						return len(tables[1].snapshots.open) == 0
					})
					return strings.TrimSpace(got), happened
				}
				whole, _ := words(0)
				n := 1
				for ; ; n++ {
					got, happened := words(n)
					if !happened {
						break
					}
					require.True(t, strings.HasPrefix(whole, got), "%q is not the beginning of %q, after it has looked %d times", got, whole, n)
				}
				require.Greater(t, n, 2, "it looks more often")
			})
		}
	}
}

// A commitsHeld tells whether what a feed of commits holds is still in memory.
type commitsHeld struct {
	sub  weak.Pointer[commitSubscription]
	set  weak.Pointer[commitSet]
	page weak.Pointer[page[logEntry]]
	row  weak.Pointer[game]
}

// F4: nothing of a feed stays behind when its context is done, when it has received its final
// error, or when its stream is garbage: no place in Feeds, no set, no page and no row.
func TestCommitsThatEndedHoldNothing(t *testing.T) {
	type feed = Stream[Commit]
	panicIn := func(n int) func(commitTables, feed, func()) {
		return func(_ commitTables, s feed, _ func()) {
			require.Panics(t, func() {
				for range s {
					if n--; n == 0 {
						panic(errOops)
					}
				}
			})
		}
	}
	for _, test := range []struct {
		name     string
		opts     []FeedOption
		end      func(tables commitTables, s feed, cancel func())
		forgets  bool
		rowsOnly bool // the feed goes on
	}{
		{name: "canceled, not ranged", end: func(_ commitTables, _ feed, cancel func()) { cancel() }},
		{name: "canceled and ranged", end: func(_ commitTables, s feed, cancel func()) { cancel(); commitsOf(s, -1) }},
		{name: "canceled in the middle", end: func(_ commitTables, s feed, cancel func()) { commitsOf(s, 1); cancel() }},
		{name: "canceled after a panic", end: func(c commitTables, s feed, cancel func()) { panicIn(1)(c, s, cancel); cancel() }},
		{name: "canceled under a lock", end: func(c commitTables, _ feed, cancel func()) {
			_ = Transact(func(*Tx) error {
				cancel()
				for len(c[1].Feeds()) > 0 {
					runtime.Gosched()
				}
				return nil
			}, c[0])
		}},
		{name: "failed under a lock", opts: []FeedOption{Buffer(1), OnOverflow(Fail)}, end: func(c commitTables, s feed, _ func()) {
			_ = Transact(func(*Tx) error { commitsOf(s, -1); return nil }, c[0])
		}},
		{name: "dropped and drained", end: func(c commitTables, s feed, _ func()) { c[1].Drop(); commitsOf(s, -1) }},
		{name: "failed", opts: []FeedOption{Buffer(1), OnOverflow(Fail)}, end: func(_ commitTables, s feed, _ func()) { commitsOf(s, -1) }},
		{name: "never ranged", forgets: true, end: func(commitTables, feed, func()) {}},
		{name: "broken off", forgets: true, end: func(_ commitTables, s feed, _ func()) { commitsOf(s, 1) }},
		{name: "panicked", forgets: true, end: panicIn(1)},
		{name: "pulled", forgets: true, end: func(_ commitTables, s feed, _ func()) {
			next, stop := iter.Pull2(iter.Seq2[Commit, error](s))
			_, _, _ = next()
			stop()
		}},
		{name: "limited", forgets: true, end: func(_ commitTables, s feed, _ func()) { commitsOf(s.Limit(1), -1) }},
		{name: "dropped and not drained", forgets: true, end: func(c commitTables, _ feed, _ func()) { c[0].Drop() }},
		{name: "rows to come, forgotten", opts: []FeedOption{IncludeInitial()}, forgets: true, end: func(_ commitTables, s feed, _ func()) { commitsOf(s, 1) }},
		{name: "rows to come, canceled", opts: []FeedOption{IncludeInitial()}, end: func(_ commitTables, s feed, cancel func()) { commitsOf(s, 1); cancel() }},
		{name: "at Ready", opts: []FeedOption{IncludeInitial(), Buffer(1)}, rowsOnly: true, end: func(_ commitTables, s feed, _ func()) { commitsOf(s, 4) }},
		{name: "drained", rowsOnly: true, opts: []FeedOption{Poll(nil)}, end: func(_ commitTables, s feed, _ func()) { commitsOf(s, -1) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tables := newCommitTables()
			insertRows(t, tables[0], 1)
			row := weak.Make(must[game](t)(tables[1].Insert(game{ID: 7})).New)
			s := tables.follow(ctx, "ab", test.opts...)
			set := lastSet(tables[0])
			held := commitsHeld{weak.Make(set.feeds.all()[0].(*commitSubscription)), weak.Make(set), weak.Make(set.ring.tail.Load()), row}
			must[game](t)(tables[1].Delete(7))
			feedWrites(t, tables[0], 2*maxPage)
			runtime.GC()
			require.NotNil(t, held.row.Value()) // or the test would show nothing
			test.end(tables, s, cancel)
			if test.forgets {
				s = nil
			}
			if !test.rowsOnly {
				tables.requireNoSets(t)
				collected(t, "a page is held", func() bool { return held.page.Value() == nil })
				collected(t, "Feeds() is not empty", func() bool { return len(tables[0].Feeds())+len(tables[1].Feeds()) == 0 })
			}
			if test.forgets {
				collected(t, "the context holds the subscription", func() bool { return held.sub.Value() == nil && held.set.Value() == nil })
			}
			collected(t, "a row is held", func() bool { return held.row.Value() == nil })
			runtime.KeepAlive(s)
			runtime.KeepAlive(tables)
			runtime.KeepAlive(ctx)
		})
	}
}

// A commit of a few changes allocates nothing for its reader. A write to a table that nobody
// follows allocates what it did before there were commits: the row.
func TestCommitsAllocateNothing(t *testing.T) {
	tables := newCommitTables()
	f, err := newCommitFeed(t.Context(), tables.set("ab"), nil)
	require.NoError(t, err)
	const n = 10_000
	for i := range 2*n + 2 { // a warm-up is read too
		require.NoError(t, Transact(func(tx *Tx) error {
			for _, table := range tables[:1+i%2] {
				must[game](t)(table.In(tx).Upsert(game{ID: 1, Score: i + 1}))
			}
			return nil
		}, tables.set("ab")...))
	}
	require.Less(t, testing.AllocsPerRun(1, func() { commitsOf(Stream[Commit](f.commits).Limit(n).Filter(func(Commit) bool { return false }), -1) })/n, 0.02)

	if unsafe.Sizeof(tables[0].guard) > 0 {
		return // the library's own checks allocate
	}
	score := 0
	update := func(g *game) { score++; g.Score = score }
	insertRows(t, tables[2], 1)
	require.EqualValues(t, 1, testing.AllocsPerRun(1000, func() { _, _ = tables[2].Update(1, update) }))
	runtime.KeepAlive(f)
}

// A change has the name that its table's history had when it was made, whenever it is read.
func TestCommitsHaveTheNamesOfTheirHistories(t *testing.T) {
	tables := newCommitTables()
	a, b := tables[0], tables[1]
	var want []Position
	insert := func(table *Table[int, game], id int) {
		must[game](t)(table.Insert(game{ID: id}))
		want = append(want, table.Position())
	}
	insert(a, 1)
	b.Fork()
	feed := tables.follow(t.Context(), "ab", IncludeInitial(), Poll(nil))
	want = []Position{{}, a.Position(), b.Position()}
	insert(a, 2)
	a.Fork()
	insert(a, 3)
	insert(b, 1)
	a.Fork()
	a.Fork()
	require.NoError(t, Transact(func(tx *Tx) error {
		must[game](t)(a.In(tx).Insert(game{ID: 4}))
		must[game](t)(b.In(tx).Insert(game{ID: 2}))
		return nil
	}, a, b))
	want = append(want, a.Position(), b.Position())
	positions := func() (got []Position) {
		for commit, err := range feed {
			if err != nil {
				require.EqualError(t, err, "Changefeed table was reset, skipped 1 elements.")
			}
			for _, c := range commit {
				got = append(got, c.Position())
			}
		}
		return got
	}
	require.Equal(t, want, positions())

	want = nil
	insert(a, 5)
	require.NoError(t, a.Reset(Past[game]{Lineage: []Position{{HistoryID{1}, 9}}}))
	require.Equal(t, HistoryID{1}, a.Position().History)
	want = nil
	insert(a, 5)
	insert(b, 3)
	require.Equal(t, want, positions())
}
