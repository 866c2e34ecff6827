package changefeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A game is the row of most tests.
type game struct {
	ID     int    `json:"id"`
	Player string `json:"player,omitempty"`
	Score  int    `json:"score,omitempty"`
}

func newGames() *Table[int, game] {
	return NewTable("games", func(g *game) int { return g.ID })
}

// testSeed returns a seed for a test's random choices. The log of a failed test has
// it, and CHANGEFEED_SEED=n in the environment replays it.
func testSeed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("CHANGEFEED_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("CHANGEFEED_SEED=%d", seed)
	return seed
}

// newRand returns a source of random numbers whose seed is in the log of a failed test.
func newRand(t *testing.T) *rand.Rand { return rand.New(rand.NewPCG(testSeed(t), 0)) }

// requireOutcomes fails if one of the outcomes was not reached.
func requireOutcomes(t *testing.T, reached map[string]int, outcomes ...string) {
	t.Helper()
	t.Logf("outcomes: %v", reached)
	for _, o := range outcomes {
		require.Positive(t, reached[o], "outcome %q", o)
	}
}

// A pair is what a stream hands to a loop.
type pair[T any] struct {
	v   T
	err error
}

// take ranges over s until it has n pairs or s ends by itself.
func take[T any](s Stream[T], n int) (pairs []pair[T]) {
	if n == 0 {
		return nil
	}
	for v, err := range s {
		pairs = append(pairs, pair[T]{v, err})
		if len(pairs) == n {
			break
		}
	}
	return pairs
}

// must returns the Change of a write that does not fail.
func must[V any](t *testing.T) func(c Change[V], err error) Change[V] {
	return func(c Change[V], err error) Change[V] {
		t.Helper()
		require.NoError(t, err)
		return c
	}
}

// stored returns the row that a table stores.
func stored[K, V any](t *Table[K, V], key K) *V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.cellLocked(key).latest()
}

// A tableState is what a write changes, as T1 has it.
type tableState[V any] struct {
	rows     []*V
	seq, end uint64
	made     [Delete + 1]uint64
	feeds    []FeedInfo
}

func stateOf[K, V any](t *Table[K, V]) (s tableState[V]) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.rows.tree.Ascend(func(e entry[K]) bool {
		s.rows = append(s.rows, (*cell[K, V])(e.cell).row.Load())
		return true
	})
	s.seq, s.end, s.made, s.feeds = t.seq, t.allScope.ring.end.Load(), t.made, t.Feeds()
	return s
}

// requireState requires that a table is as it was: the very same rows, T3 and T4.
func requireState[K, V any](t *testing.T, was tableState[V], table *Table[K, V]) {
	t.Helper()
	require.True(t, table.mu.TryLock(), "the lock must be free")
	table.mu.Unlock()
	is := stateOf(table)
	require.True(t, slices.Equal(was.rows, is.rows), "the stored rows must be the same ones")
	require.Equal(t, was, is)
}

// A board is a table of games with an index of each kind.
type board struct {
	*Table[int, game]
	players *Index[string, int, game]
	scores  *Index[int, int, game]
	digits  *Index[int, int, game] // of the score; multi
}

func newBoard() board {
	games := newGames()
	return board{
		games,
		NewIndex(games, "player", func(g *game) string { return g.Player }),
		NewIndex(games, "score", func(g *game) int { return g.Score }),
		NewMultiIndex(games, "digits", digits),
	}
}

// digits returns the digits of a score, lowest first, as they come: some twice, and
// for 0 none.
func digits(g *game) (values []int) {
	for n := g.Score; n > 0; n /= 10 {
		values = append(values, n%10)
	}
	return values
}

// firstDigit returns the first of a score's digits from from, and before to.
func firstDigit(g *game, from, to int) (first int, ok bool) {
	for d := range 10 {
		if d >= from && d < to && slices.Contains(digits(g), d) {
			return d, true
		}
	}
	return 0, false
}

func byID(a, b game) int { return cmp.Compare(a.ID, b.ID) }

func byScore(a, b game) int { return cmp.Or(cmp.Compare(a.Score, b.Score), byID(a, b)) }

func byPlayer(a, b game) int {
	return cmp.Or(strings.Compare(a.Player, b.Player), byID(a, b))
}

func byDigit(from, to int) func(a, b game) int {
	return func(a, b game) int {
		first, _ := firstDigit(&a, from, to)
		second, _ := firstDigit(&b, from, to)
		return cmp.Or(cmp.Compare(first, second), byID(a, b))
	}
}

func isBob(g *game) bool { return g.Player == "Bob" }

func isHigh(g *game) bool { return g.Score >= 10 }

func isOddGame(g *game) bool { return g.ID%2 != 0 }

func always(*game) bool { return true }

func never(*game) bool { return false }

func hasDigit(d int) func(*game) bool {
	return func(g *game) bool { return slices.Contains(digits(g), d) }
}

// A boardSelection is a selection of a board's rows, and a description of it: it has the
// rows in its scope that its predicate keeps.
type boardSelection struct {
	name        string
	of          func(b board) Selection[int, game]
	scope, keep func(g *game) bool
	order       func(a, b game) int
}

// has reports whether the selection has a row.
func (s boardSelection) has(g *game) bool { return s.scope(g) && s.keep(g) }

// boardSelections are selections of each kind.
var boardSelections = []boardSelection{
	{"Table", func(b board) Selection[int, game] { return b.Selection() }, always, always, byID},
	{"Row(1)", func(b board) Selection[int, game] { return b.Row(1) }, func(g *game) bool { return g.ID == 1 }, always, byID},
	{"Row(5)", func(b board) Selection[int, game] { return b.Row(5) }, func(g *game) bool { return g.ID == 5 }, always, byID},
	{"missing Row", func(b board) Selection[int, game] { return b.Row(-1) }, never, always, byID},
	{"Rows(5, 1, 5, -1)", func(b board) Selection[int, game] { return b.Rows(5, 1, 5, -1) }, func(g *game) bool { return g.ID == 1 || g.ID == 5 }, always, byID},
	{"no Rows", func(b board) Selection[int, game] { return b.Rows() }, never, always, byID},
	{"Range(1, 5)", func(b board) Selection[int, game] { return b.Range(1, 5) }, func(g *game) bool { return g.ID >= 1 && g.ID < 5 }, always, byID},
	{"Range of all", func(b board) Selection[int, game] { return b.Range(math.MinInt, math.MaxInt) }, always, always, byID},
	{"Range before all", func(b board) Selection[int, game] { return b.Range(-10, -1) }, never, always, byID},
	{"Range after all", func(b board) Selection[int, game] { return b.Range(100_000, 100_001) }, never, always, byID},
	{"empty Range", func(b board) Selection[int, game] { return b.Range(3, 3) }, never, always, byID},
	{"inverted Range", func(b board) Selection[int, game] { return b.Range(5, 1) }, never, always, byID},
	{"From(5)", func(b board) Selection[int, game] { return b.From(5) }, func(g *game) bool { return g.ID >= 5 }, always, byID},
	{"From after all", func(b board) Selection[int, game] { return b.From(100_000) }, never, always, byID},
	{"From before all", func(b board) Selection[int, game] { return b.From(-1) }, always, always, byID},
	{"Where", func(b board) Selection[int, game] { return b.Where(isHigh) }, always, isHigh, byID},
	{"Where nothing", func(b board) Selection[int, game] { return b.Where(never) }, always, never, byID},
	{
		"Where chain", func(b board) Selection[int, game] { return b.Where(isHigh).Where(isBob).Where(isOddGame) },
		always, func(g *game) bool { return isHigh(g) && isBob(g) && isOddGame(g) }, byID,
	},
	{"Row(1).Where", func(b board) Selection[int, game] { return b.Row(1).Where(isHigh) }, func(g *game) bool { return g.ID == 1 }, isHigh, byID},
	{"From(2).Where", func(b board) Selection[int, game] { return b.From(2).Where(isBob) }, func(g *game) bool { return g.ID >= 2 }, isBob, byID},
	{"player Bob", func(b board) Selection[int, game] { return b.players.Equal("Bob") }, isBob, always, byPlayer},
	{"player nobody", func(b board) Selection[int, game] { return b.players.Equal("") }, func(g *game) bool { return g.Player == "" }, always, byPlayer},
	{
		"players A to B", func(b board) Selection[int, game] { return b.players.Range("A", "B") },
		func(g *game) bool { return strings.HasPrefix(g.Player, "A") }, always, byPlayer,
	},
	{"players from B", func(b board) Selection[int, game] { return b.players.From("B") }, func(g *game) bool { return g.Player >= "B" }, always, byPlayer},
	{
		"players Bob, Ann, nobody", func(b board) Selection[int, game] { return b.players.Any("Bob", "Ann", "", "Bob") },
		func(g *game) bool { return g.Player == "" || g.Player == "Ann" || g.Player == "Bob" }, always, byPlayer,
	},
	{"scores any of none", func(b board) Selection[int, game] { return b.scores.Any() }, never, always, byScore},
	{"score 15", func(b board) Selection[int, game] { return b.scores.Equal(15) }, func(g *game) bool { return g.Score == 15 }, always, byScore},
	{"scores 0 to 10", func(b board) Selection[int, game] { return b.scores.Range(0, 10) }, func(g *game) bool { return g.Score < 10 }, always, byScore},
	{"scores empty", func(b board) Selection[int, game] { return b.scores.Range(10, 10) }, never, always, byScore},
	{"scores inverted", func(b board) Selection[int, game] { return b.scores.Range(10, 0) }, never, always, byScore},
	{"scores from 10, Bob's", func(b board) Selection[int, game] { return b.scores.From(10).Where(isBob) }, isHigh, isBob, byScore},
	{"digit 5", func(b board) Selection[int, game] { return b.digits.Equal(5) }, hasDigit(5), always, byID},
	{
		"digits 1 to 5", func(b board) Selection[int, game] { return b.digits.Range(1, 5) },
		func(g *game) bool { _, ok := firstDigit(g, 1, 5); return ok }, always, byDigit(1, 5),
	},
	{
		"digits 5 and 1", func(b board) Selection[int, game] { return b.digits.Any(5, 1) },
		func(g *game) bool { return hasDigit(1)(g) || hasDigit(5)(g) }, always, func(a, b game) int {
			first := func(g *game) int {
				if hasDigit(1)(g) {
					return 1
				}
				return 5
			}
			return cmp.Or(cmp.Compare(first(&a), first(&b)), byID(a, b))
		},
	},
	{"digits from 0", func(b board) Selection[int, game] { return b.digits.From(0) }, func(g *game) bool { return g.Score > 0 }, always, byDigit(0, 10)},
	{"digits from 9", func(b board) Selection[int, game] { return b.digits.From(9) }, hasDigit(9), always, byID},
}

// rows returns the rows of a range, and requires that each comes under its key.
func rowsOf(tb testing.TB, seq iter.Seq2[int, game]) (rows []game) {
	tb.Helper()
	for id, g := range seq {
		require.Equal(tb, g.ID, id)
		rows = append(rows, g)
	}
	return rows
}

// insertRows inserts rows with the keys.
func insertRows(tb testing.TB, games *Table[int, game], keys ...int) {
	tb.Helper()
	for _, key := range keys {
		_, err := games.Insert(game{ID: key})
		require.NoError(tb, err)
	}
}

// feedWrites makes n changes to one row. The change numbered s sets the score s.
func feedWrites(tb testing.TB, games *Table[int, game], n int) {
	tb.Helper()
	for range n {
		_, err := games.Upsert(game{ID: 1, Score: int(games.Seq()) + 1})
		require.NoError(tb, err)
	}
}

// transactWrites is feedWrites in one transaction.
func transactWrites(tb testing.TB, games *Table[int, game], n int) {
	tb.Helper()
	seq := int(games.Seq())
	require.NoError(tb, Transact(func(tx *Tx) error {
		for i := range n {
			_, err := games.In(tx).Upsert(game{ID: 1, Score: seq + i + 1})
			require.NoError(tb, err)
		}
		return nil
	}, games))
}

// wordOf describes what a loop was handed in a word: 7 is an update with that number, +4
// an insert, -6 a delete, row7 the present row with key 7, ready8 is Ready, and
// skip3(4-6) a notice of three changes. Other errors stand as they are. A change whose
// rows do not fit its kind says so.
func wordOf(c Change[game], err error) string {
	rowless := c.Old == nil && c.New == nil
	switch {
	case err != nil && c != (Change[game]{}):
		return fmt.Sprintf("an error with the element %v", c)
	case errors.Is(err, ErrTableDropped):
		return "dropped"
	case err != nil:
		if skipped, ok := errors.AsType[*SkippedError](err); ok {
			return fmt.Sprintf("skip%d(%d-%d)", skipped.Count, skipped.From, skipped.To)
		}
		return err.Error()
	case c.Kind == Initial && c.Seq == 0 && c.Old == nil && c.New != nil:
		return fmt.Sprintf("row%d", c.New.ID)
	case c.Kind == Ready && rowless:
		return fmt.Sprintf("ready%d", c.Seq)
	case rowless || c.Kind != kindOf(c.Old, c.New):
		return fmt.Sprintf("%v of %v and %v", c.Kind, c.Old, c.New)
	}
	return [...]string{Insert: "+", Update: "", Delete: "-"}[c.Kind] + strconv.FormatUint(c.Seq, 10)
}

// wordsOf reads n pairs of s, or all until s ends, and describes them.
func wordsOf(s Stream[Change[game]], n int) string { return firstWords(describe(s, wordOf), n) }

// allOf is wordsOf to the end of s.
func allOf(s Stream[Change[game]]) string { return wordsOf(s, -1) }

// batchOf describes a batch: the words of its changes are in brackets.
func batchOf(batch []Change[game], err error) string {
	if err != nil {
		if batch != nil {
			return "an error with a batch"
		}
		return wordOf(Change[game]{}, err)
	}
	var words []string
	for _, c := range batch {
		words = append(words, wordOf(c, nil))
	}
	return "[" + strings.Join(words, " ") + "]"
}

// batchesOf is wordsOf for batches.
func batchesOf(s Stream[[]Change[game]], n int) string { return firstWords(describe(s, batchOf), n) }

// describe returns the words of a stream's pairs.
func describe[T any](s Stream[T], word func(v T, err error) string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for v, err := range s {
			if !yield(word(v, err)) {
				return
			}
		}
	}
}

// firstWords joins the first n words, or all of them if n is negative. It reads no more.
func firstWords(words iter.Seq[string], n int) string {
	if n == 0 {
		return ""
	}
	var first []string
	for word := range words {
		if first = append(first, word); len(first) == n {
			break
		}
	}
	return strings.Join(first, " ")
}

// writeWords describes the changes numbered from to to that [feedWrites] makes to a table.
func writeWords(from, to int) (words []string) {
	for s := from; s <= to; s++ {
		words = append(words, strconv.Itoa(s))
	}
	if from == 1 && to > 0 {
		words[0] = "+1" // the first inserts the row
	}
	return words
}

// unbatch is the stream of the changes of batches.
func unbatch(s Stream[[]Change[game]]) Stream[Change[game]] {
	return func(yield func(Change[game], error) bool) {
		for batch, err := range s {
			if err != nil {
				batch = []Change[game]{{}}
			}
			for _, c := range batch {
				if !yield(c, err) {
					return
				}
			}
		}
	}
}

// infoOf returns the figures of the table's first feed, without its ID.
func infoOf(games *Table[int, game]) FeedInfo {
	info := games.Feeds()[0]
	info.ID = 0
	return info
}

// figures returns i without what it tells of the selection and the options, and without the lag.
func figures(i FeedInfo) FeedInfo {
	i.Selection, i.Commits, i.Overflow, i.Squash, i.Polls, i.Lag = "", false, 0, 0, false, 0
	return i
}

// brief describes a feed by its name and its figures, apart from the lag.
func brief(i FeedInfo) string {
	var name string
	if i.Name != "" {
		name = fmt.Sprintf(" %q", i.Name)
	}
	i.Name, i.Selection = "", "" // which may contain what is cut at
	_, text, _ := strings.Cut(i.String(), ": ")
	text, _, _ = strings.Cut(text, ", lag ")
	return "feed" + name + ": " + text
}

// notifications returns how many values are in a channel, and takes them out.
func notifications(wake chan struct{}) (n int) {
	for len(wake) > 0 {
		<-wake
		n++
	}
	return n
}

// awaitNotified waits until the goroutines that notify the table's feeds have ended.
func awaitNotified[K, V any](t *Table[K, V]) {
	for s := range t.subscriptions() {
		awaitIdle(&s.scope.ring)
	}
	for _, s := range t.commitSets() {
		awaitIdle(&s.ring)
	}
}

func awaitIdle[T any](r *ring[T]) {
	for r.waker.Load() != wakerIdle {
		runtime.Gosched()
	}
}

// settledNotifications is like notifications, when all goroutines of the bubble wait.
func settledNotifications(wake chan struct{}) int {
	synctest.Wait()
	return notifications(wake)
}

// A follower ranges over a stream in a goroutine of its own and collects the words. In a
// bubble, a test may look at it after synctest.Wait.
type follower struct {
	stream Stream[Change[game]]
	mu     sync.Mutex // time, which may end a stream, orders nothing for the race detector
	words  []string
	body   func(word string) bool // unless nil, runs for each pair; false breaks
	ended  bool
}

func follow(s Stream[Change[game]], body func(word string) bool) *follower {
	f := &follower{stream: s, body: body}
	go f.run()
	return f
}

func (f *follower) run() {
	for c, err := range f.stream {
		word := wordOf(c, err)
		f.mu.Lock()
		f.words = append(f.words, word)
		f.mu.Unlock()
		if f.body != nil && !f.body(word) {
			break
		}
	}
	f.ended = true
}

func (f *follower) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.words, " ")
}

// inBubbles runs a test of waiting with one processor and with two.
func inBubbles(t *testing.T, test func(t *testing.T)) {
	for _, procs := range []int{1, 2} {
		t.Run(fmt.Sprintf("GOMAXPROCS=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			synctest.Test(t, test)
		})
	}
}

// collected runs the collector until what must become true is.
func collected(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for range 100 {
		if is() {
			return
		}
		runtime.GC()
		runtime.Gosched() // cleanups run in a goroutine of their own
	}
	require.Fail(tb, what)
}

// A feedTest is a test of one feed of a board, written as a script. A script is a list
// of steps, separated by semicolons or newlines. A step is a command, a colon, and the
// words (see [wordOf]) of what the feed gives while the command runs; without a colon,
// the feed must give nothing. With polls, the feed has [Poll], and the word wake stands
// for a notification. The commands are:
//
//	open            begins the feed
//	read N          ranges over the feed, and breaks after N words; without N, the feed
//	                must end by itself: it polls, or it has a final error
//	loop            ranges over the feed in a goroutine, while the next commands run
//	break           makes the loop break at its next word
//	at N COMMAND    runs the command in the body of the next range, at its Nth word
//	in N COMMAND    before open: gives the feed a predicate that keeps all rows, and runs
//	                the command in its Nth call
//	panic, goexit   of at and in: leave the range; a panic is a word
//	info            gives the text of Feeds
//	position        gives the number of the feed's position, or none
//	resume          opens a feed after that position
//	put KEYS        inserts rows
//	set KEY SCORE   replaces a row, or inserts it
//	delete KEYS     deletes rows
//	write N         makes N changes to the row 1
//	tx COMMANDS     runs commands of these four in a transaction; commas separate them
//	retain N, drop, cancel, and sleep DURATION do what they say
//
// The script runs in a bubble of [synctest], so that time does not pass, but for sleep.
type feedTest struct {
	name  string
	of    func(b board) Selection[int, game] // nil: the whole table
	max   int                                // of Batches; 0: Changes
	opts  []FeedOption
	after *int // a position in the table's history, for After
	polls bool
	do    string
}

// runScripts runs each test with one processor and with two.
func runScripts(t *testing.T, tests ...feedTest) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T) { newFeedScript(t, test).run(test.do) })
		})
	}
}

// A stepLog has the words that loops have got in a step of a script.
type stepLog struct {
	wake chan struct{} // of feeds that poll

	mu  sync.Mutex // guards got, and the fields of a script that loops use
	got []string
}

func newStepLog() stepLog { return stepLog{wake: make(chan struct{}, 100)} }

// steps performs the commands of a script. It requires that each step gives the words that the
// script has after the colon, and a word for each notification.
func (l *stepLog) steps(t *testing.T, script string, perform func(command string)) {
	for step := range strings.FieldsFuncSeq(script, func(r rune) bool { return r == ';' || r == '\n' }) {
		command, want, _ := strings.Cut(strings.TrimSpace(step), ":")
		if command == "" {
			continue
		}
		perform(command)
		synctest.Wait()
		l.mu.Lock()
		got := l.got
		l.got = nil
		l.mu.Unlock()
		for range notifications(l.wake) {
			got = append(got, "wake")
		}
		require.Equal(t, strings.TrimSpace(want), strings.Join(got, " "), "%s, in %s", step, script)
	}
}

// A feedScript is the state of a script that runs.
type feedScript struct {
	board
	feedTest
	stepLog
	t      *testing.T
	ctx    context.Context
	cancel func()
	feed   Feed
	words  iter.Seq[string] // ranges over the feed

	at, in map[int]string // commands for the body, by the number of the word, and for the predicate
	calls  int            // of the predicate
	breaks bool
	writes int
}

func newFeedScript(t *testing.T, test feedTest) *feedScript {
	s := &feedScript{board: newBoard(), feedTest: test, t: t, stepLog: newStepLog(), at: map[int]string{}, in: map[int]string{}}
	s.opts = append(slices.Clip(s.opts), Track(&s.feed))
	s.ctx, s.cancel = context.WithCancel(t.Context())
	if s.polls {
		s.opts = append(slices.Clip(s.opts), Poll(s.wake))
	}
	return s
}

func (s *feedScript) run(script string) {
	s.steps(s.t, script, s.perform)
	s.cancel()
	synctest.Wait() // every loop has ended, or the bubble fails
}

// perform runs a command.
func (s *feedScript) perform(command string) {
	verb, rest, _ := strings.Cut(command, " ")
	switch verb {
	case "open":
		if s.after != nil {
			s.opts = append(s.opts, After(s.At(uint64(*s.after))))
		}
		s.open()
	case "resume":
		s.opts = append(s.opts, After(s.feed.Position()))
		s.open()
	case "position":
		word := "none"
		if p := s.feed.Position(); !p.IsZero() {
			word = fmt.Sprint(p.Seq)
		}
		s.mu.Lock()
		s.got = append(s.got, word)
		s.mu.Unlock()
	case "read":
		if rest == "" {
			rest = "-1"
		}
		s.read(s.number(rest))
	case "loop":
		go s.read(-1)
	case "break":
		s.mu.Lock()
		s.breaks = true
		s.mu.Unlock()
	case "at":
		n, command, _ := strings.Cut(rest, " ")
		s.at[s.number(n)] = command
	case "in":
		n, command, _ := strings.Cut(rest, " ")
		s.in[s.number(n)] = command
	case "panic":
		panic(errScript)
	case "goexit":
		runtime.Goexit()
	case "info":
		var texts []string
		for _, info := range s.Feeds() {
			texts = append(texts, brief(info))
		}
		s.got = append(s.got, fmt.Sprint(texts))
	case "tx":
		require.NoError(s.t, Transact(func(tx *Tx) error {
			for c := range strings.SplitSeq(rest, ", ") {
				s.write(s.In(tx), c)
			}
			return nil
		}, s.Table))
	case "retain":
		s.Retain(s.number(rest))
	case "drop":
		s.Drop()
	case "cancel":
		s.cancel()
	case "sleep":
		d, err := time.ParseDuration(rest)
		require.NoError(s.t, err)
		time.Sleep(d)
	default:
		s.write(s.Table, command)
	}
}

// write runs a command that writes.
func (s *feedScript) write(to rowWriter[game], command string) {
	verb, rest, _ := strings.Cut(command, " ")
	var args []int
	for arg := range strings.FieldsSeq(rest) {
		args = append(args, s.number(arg))
	}
	switch verb {
	case "put":
		for _, key := range args {
			must[game](s.t)(to.Insert(game{ID: key}))
		}
	case "set":
		must[game](s.t)(to.Upsert(game{ID: args[0], Score: args[1]}))
	case "delete":
		for _, key := range args {
			must[game](s.t)(to.Delete(key))
		}
	case "write":
		for range args[0] {
			s.writes++
			must[game](s.t)(to.Upsert(game{ID: 1, Score: 1000 + s.writes}))
		}
	default:
		require.Fail(s.t, "no such command: "+command)
	}
}

func (s *feedScript) number(text string) int {
	n, err := strconv.Atoi(text)
	require.NoError(s.t, err)
	return n
}

func (s *feedScript) open() {
	of := s.Selection()
	if s.of != nil {
		of = s.of(s.board)
	}
	if len(s.in) > 0 {
		of = of.Where(s.keep)
	}
	if s.max == 0 {
		s.words = describe(of.Changes(s.ctx, s.opts...), wordOf)
	} else {
		s.words = describe(of.Batches(s.ctx, s.max, s.opts...), batchOf)
	}
}

// errScript is what a script panics with.
var errScript = errors.New("the script panics")

// keep is the predicate.
func (s *feedScript) keep(*game) bool {
	s.calls++
	if command, ok := s.in[s.calls]; ok {
		s.perform(command)
	}
	return true
}

// read ranges over the feed up to n words, or until it ends.
func (s *feedScript) read(n int) {
	defer func() {
		if p := recover(); p == any(errScript) {
			s.got = append(s.got, "panic")
		} else if p != nil {
			panic(p)
		}
	}()
	count := 0
	for word := range s.words {
		s.mu.Lock()
		s.got = append(s.got, word)
		breaks := s.breaks
		s.breaks = false
		s.mu.Unlock()
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

// The scripts themselves: each command, and what the words say.
func TestScripts(t *testing.T) {
	row2 := func(b board) Selection[int, game] { return b.Row(2) }
	runScripts(t,
		feedTest{name: "the whole table", opts: []FeedOption{Buffer(2)}, do: `
			put 1 2; open; write 1; set 2 5; delete 2; info: [feed: buffered 2/2, delivered 0, skipped 1, seq 2]
			read 1: skip1(3-3)
			loop: 4 -5; write 1: 6; break; tx put 3, delete 3, write 2: skip2(7-8)
			drop; read: 9 10 dropped; read: dropped`},
		feedTest{name: "polls", of: row2, polls: true, opts: []FeedOption{IncludeInitial()}, do: `
			put 1 2; open; at 1 set 2 7; read: row2 ready2 3; put 3; set 2 1: wake; read: 5; cancel: wake; read: context canceled`},
		feedTest{name: "batches", max: 2, after: new(1), do: `
			retain 5; put 1 2 3 4; open; loop: [+2 +3] [+4]; sleep 1s; cancel: context canceled`},
		feedTest{name: "panics", do: `
			in 2 panic; open; put 1 2 3; at 1 goexit; loop: +1; read: panic; at 1 panic; read: +3 panic`},
	)
}

// A doc is a row with values of several types, for indexes.
// A doc has the fields of a [modelRow], too, because the compiler makes a copy of the library for each layout of rows.
type doc struct {
	ID    int
	Name  string
	Value float64
	Tags  []string
	Score int
	Attr  map[string]int
}

func newDocs() *Table[int, doc] { return NewTable("docs", func(d *doc) int { return d.ID }) }

// A blob is a row large enough to show in the size of the heap. The first number is its key.
type blob [20]float64

func newBlobs() *Table[float64, blob] {
	return NewTable("blobs", func(b *blob) float64 { return b[0] })
}

// A user is a row with a key that is a string.
type user struct{ Name, Country string }

// newUsers returns a table in the order of the names in lower case: the names Bob and
// BOB are the same key.
func newUsers() *Table[string, user] {
	return NewTableFunc("users", func(u *user) string { return u.Name },
		func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
}
