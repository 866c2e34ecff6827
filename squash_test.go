package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// "a million updates of ten rows while nobody reads are ten changes and no notice",
// however small the buffer.
func TestSquashOfAMillionUpdates(t *testing.T) {
	const rows, updates = 10, 1_000_000
	games := newGames()
	for i := range rows {
		insertRows(t, games, i)
	}
	feed := games.Changes(t.Context(), Squash(0), Buffer(1))
	for i := range updates {
		_, _ = games.Upsert(game{ID: i % rows, Score: i + 1})
	}
	require.Equal(t, []FeedInfo{{Buffered: rows, Seq: rows}}, games.Feeds())
	games.Drop()
	pairs := take(feed, -1)
	require.Len(t, pairs, rows+1)
	for i, p := range pairs[:rows] {
		require.Equal(t, pair[Change[game]]{v: Change[game]{
			Seq:  uint64(updates + i + 1),
			Kind: Update,
			Old:  &game{ID: i},
			New:  &game{ID: i, Score: updates - rows + i + 1},
		}}, p)
	}
	require.ErrorIs(t, pairs[rows].err, ErrTableDropped)
}

// squashDo makes writes to rows that are named by a letter: a+ inserts, a1 sets the
// score 1, a- deletes.
func squashDo(tb testing.TB, games *Table[int, game], writes string) {
	tb.Helper()
	for w := range strings.FieldsSeq(writes) {
		key := int(w[0]-'a') + 1
		var err error
		switch w[1] {
		case '+':
			_, err = games.Insert(game{ID: key})
		case '-':
			_, err = games.Delete(key)
		default:
			_, err = games.Replace(game{ID: key, Score: int(w[1] - '0')})
		}
		require.NoError(tb, err, w)
	}
}

// "all rows changed since the last set, each once, Old as at the last set, New as now,
// equal ones left out, in order of their newest Seq". The rows a, b and c are there
// at first, and three changes are made.
func TestSquashedSets(t *testing.T) {
	for _, test := range []struct {
		name, writes, want string
	}{
		{"nothing", "", ""},
		{"an update", "a1", "4"},
		{"updates", "a1 a2 a3", "6"},
		{"an update and back", "a1 a0", ""},
		{"an insert", "d+", "+4"},
		{"an insert and updates", "d+ d1 d2", "+6"},
		{"an insert and a delete", "d+ d-", ""},
		{"an insert, updates and a delete", "d+ d1 d2 d-", ""},
		{"it came, went and came", "d+ d- d+", "+6"},
		{"a delete", "a-", "-4"},
		{"updates and a delete", "a1 a2 a-", "-6"},
		{"a delete and an insert", "a- a+", ""},
		{"a delete and an insert of another", "a- a+ a1", "6"},
		{"it went, came and went", "a- a+ a-", "-6"},
		{"in order of the newest", "a1 b1 c1 a2 d+ b2", "6 7 +8 9"},
		{"in order of the newest, not of keys", "c1 b1 a1", "4 5 6"},
		{"one vanishes last", "a1 d+ d-", "4"},
		{"some vanish", "d+ a1 d- b1 c- a0", "7 -8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			squashDo(t, games, "a+ b+ c+")
			feed := games.Changes(t.Context(), Squash(0), Poll(nil))
			squashDo(t, games, test.writes)
			require.Equal(t, test.want, allOf(feed))
			require.Empty(t, allOf(feed), "each once")
			infos := games.Feeds()
			require.Equal(t, FeedInfo{Delivered: uint64(len(strings.Fields(test.want))), Seq: infos[0].Seq}, infos[0])
			if test.want != "" {
				require.Equal(t, games.Seq(), infos[0].Seq, "all is read")
			}
			next := games.Seq() + 1
			must[game](t)(games.Upsert(game{ID: 3, Score: 9}))
			word := allOf(feed)
			require.Equal(t, fmt.Sprint(next), word[1:], "the next set begins anew")
		})
	}
}

// The old row of a set is that of the set before, and the new one the stored one: the
// same rows, not copies.
func TestSquashedRowsAreTheStoredOnes(t *testing.T) {
	games := newGames()
	squashDo(t, games, "a+")
	feed := games.Changes(t.Context(), Squash(0))
	first := stored(games, 1)
	squashDo(t, games, "a1 a2")
	second := stored(games, 1)
	require.Equal(t, []pair[Change[game]]{{v: Change[game]{3, Update, first, second}}}, take(feed, 1))
	squashDo(t, games, "a3 a4")
	p := take(feed, 1)[0]
	require.Same(t, second, p.v.Old)
	require.Same(t, stored(games, 1), p.v.New)
}

// A squashNote is a row whose Equal does not look at its note, and panics at will.
type squashNote struct {
	ID, Score int
	Note      string
}

func (n squashNote) Equal(other squashNote) bool {
	if n.Note == "panic" && other.Note == "panic too" {
		panic("in Equal")
	}
	return n.Score == other.Score && n.ID == other.ID
}

// "equal ones left out": by the row's own Equal, as for a write.
func TestSquashLeavesOutWhatIsEqualByTheRowsEqual(t *testing.T) {
	notes := NewTable("notes", func(n *squashNote) int { return n.ID })
	write := func(id, score int, note string) {
		_, err := notes.Upsert(squashNote{id, score, note})
		require.NoError(t, err)
	}
	write(1, 1, "a")
	write(2, 1, "a")
	feed := notes.Changes(t.Context(), Squash(0), Poll(nil))
	write(1, 2, "b")
	write(2, 2, "b")
	write(1, 1, "c")
	pairs := take(feed, -1)
	require.Len(t, pairs, 1)
	require.Equal(t, Change[squashNote]{4, Update, &squashNote{2, 1, "a"}, &squashNote{2, 2, "b"}}, pairs[0].v)
	require.Equal(t, FeedInfo{Delivered: 1, Seq: 5}, notes.Feeds()[0])
}

// A panic in Equal reaches the loop's caller; its change counts as handed out, as with
// a stage, and the rest of the set is not lost. No lock is held.
func TestAPanicInEqualWhileASetIsHandedOut(t *testing.T) {
	notes := NewTable("notes", func(n *squashNote) int { return n.ID })
	write := func(id, score int, note string) {
		_, err := notes.Upsert(squashNote{id, score, note})
		require.NoError(t, err)
	}
	for id := range 3 {
		write(id, 1, "panic")
	}
	feed := notes.Changes(t.Context(), Squash(0), Poll(nil))
	for id := range 3 {
		write(id, 2, "b")
		note := "c"
		if id == 1 {
			note = "panic too"
		}
		write(id, 3, note) // compared with the row at the last set by the reader alone
	}
	var got []uint64
	read := func() {
		for c, err := range feed {
			require.NoError(t, err)
			got = append(got, c.Seq)
		}
	}
	require.PanicsWithValue(t, "in Equal", read)
	require.Equal(t, []uint64{5}, got)
	info := notes.Feeds()[0]
	require.Equal(t, FeedInfo{Buffered: 1, Delivered: 1, Seq: info.Seq}, info)
	write(0, 4, "d")
	read()
	require.Equal(t, []uint64{5, 9, 10}, got)
}

// A row that came and went is not held, and what was handed out neither. "It holds at
// most one change a row".
func TestSquashHoldsOneChangeARow(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Squash(0), Poll(nil))
	q := games.feeds.all()[0].squash
	rowOf := func(c Change[game], err error) weak.Pointer[game] {
		require.NoError(t, err)
		return weak.Make(c.New)
	}
	vanished := rowOf(games.Insert(game{ID: 7}))
	squashDo(t, games, "g-")
	require.Zero(t, q.rows.Len())
	require.Zero(t, games.Feeds()[0].Buffered)
	collected(t, "a row that vanished is held", func() bool { return vanished.Value() == nil })

	between := rowOf(games.Insert(game{ID: 7, Score: 1}))
	squashDo(t, games, "g2 g3")
	collected(t, "a row between is held", func() bool { return between.Value() == nil })
	require.Equal(t, "+5", allOf(feed))
	last := weak.Make(stored(games, 7))
	squashDo(t, games, "g-")
	require.NotNil(t, last.Value())
	require.Equal(t, "-6", allOf(feed))
	collected(t, "a row that was handed out is held", func() bool { return last.Value() == nil })
	runtime.KeepAlive(feed)

	blobs := newBlobs()
	_, err := blobs.Insert(feedBlob{ID: 1})
	require.NoError(t, err)
	squashed := blobs.Changes(t.Context(), Squash(0))
	require.Less(t, heldBy(func() { writeBlobs(t, blobs, 10_000) }), 10_000)
	runtime.KeepAlive(squashed)
}

// squashed puts down the set that the changes make in a selection's eyes. A feed of a
// table reads all changes, one of a part those of its scope; the predicate sees what
// was squashed.
func (s optionSelection) squashed(changes []Change[game], scope func(row *game) bool) (words []string) {
	set := make(map[int]Change[game])
	for _, c := range changes {
		c, ok := optionProject(c, scope)
		if !ok {
			continue
		}
		key := c.Row().ID
		if before, ok := set[key]; ok {
			c.Old = before.Old
		}
		set[key] = c
		if c.Old == nil && c.New == nil {
			delete(set, key)
		}
	}
	for _, c := range slices.SortedFunc(maps.Values(set), func(a, b Change[game]) int { return cmp.Compare(a.Seq, b.Seq) }) {
		if c.Old != nil && c.New != nil && *c.Old == *c.New {
			continue
		}
		if c, ok := optionProject(c, s.keep); ok {
			words = append(words, wordOf(c, nil))
		}
	}
	return words
}

// The sets of every selection, whatever was read when: the fold of them is the
// selection, also from its initial rows, and after a position.
func TestSquashOfEverySelection(t *testing.T) {
	random := newRand(t)
	everything := func(*game) bool { return true }
	for _, sel := range optionSelections {
		t.Run(sel.name, func(t *testing.T) {
			for _, begin := range []string{"", "IncludeInitial", "After"} {
				games := newOptionGames()
				games.Retain(100)
				var changes []Change[game] // since the last set
				write := func(n int) {
					for range n {
						changes = append(changes, games.change(t, random))
					}
				}
				write(20)
				fold := optionFold{rows: sel.content(games)}
				var want []string
				opts := []FeedOption{Squash(0), Poll(nil)}
				scope := sel.scope
				switch begin {
				case "IncludeInitial":
					want = append(sel.rows(games), "ready20")
					clear(fold.rows)
					opts = append(opts, IncludeInitial())
					changes = nil
				case "After":
					changes = nil
					write(10)
					opts = append(opts, After(20))
					scope = func(row *game) bool { return true } // all of the table's, and then those of the selection
					sel.keep = func(keep func(row *game) bool) func(row *game) bool {
						return func(row *game) bool { return sel.scope(row) && keep(row) }
					}(sel.keep)
				default:
					changes = nil
				}
				if sel.name == "Where" {
					scope = everything
				}
				feed := sel.of(games).Changes(t.Context(), opts...)
				for range 30 {
					write(random.IntN(12))
					want = append(want, sel.squashed(changes, scope)...)
					changes = nil
					for c, err := range feed {
						fold.take(t, c, err)
					}
					require.Equal(t, want, fold.words, begin)
					require.Equal(t, sel.content(games), fold.rows, begin)
					require.Equal(t, 0, games.Feeds()[0].Buffered)
				}
			}
		})
	}
}

// A set is taken as a whole: a break or a panic in the middle of it leaves the rest
// as it was then, and what is written meanwhile is of the next set.
func TestABreakInTheMiddleOfASet(t *testing.T) {
	for _, panics := range []bool{false, true} {
		for at := 1; at <= 3; at++ {
			games := newGames()
			squashDo(t, games, "a+ b+ c+")
			feed := games.Changes(t.Context(), Squash(0), Poll(nil))
			squashDo(t, games, "a1 b1 c1")
			var got []string
			func() {
				defer func() { _ = recover() }()
				for c, err := range feed {
					if got = append(got, wordOf(c, err)); len(got) < at {
						continue
					}
					squashDo(t, games, "a2 b2 c2 c3")
					require.Equal(t, []FeedInfo{{Buffered: 3 - at + 3, Delivered: uint64(at), Seq: uint64(3 + at)}}, games.Feeds())
					if panics {
						panic("in the body")
					}
					break
				}
			}()
			rest := take(feed, 3-at)
			for i, p := range rest {
				require.Equal(t, game{ID: at + i + 1, Score: 1}, *p.v.New, "as it was then")
				got = append(got, wordOf(p.v, p.err))
			}
			require.Equal(t, "4 5 6 | 7 8 10", strings.Join(got, " ")+" | "+allOf(feed))
		}
	}
}

// A squashClock is a table in a bubble, and when a loop was handed what.
type squashClock struct {
	*Table[int, game]
	mu    sync.Mutex
	begun time.Time
	told  []string
}

func newSquashClock() *squashClock { return &squashClock{Table: newGames(), begun: time.Now()} }

// note puts down a pair and the seconds since the beginning.
func (c *squashClock) note(change Change[game], err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, fmt.Sprintf("%v:%s", time.Since(c.begun).Seconds(), wordOf(change, err)))
}

func (c *squashClock) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.told, " ")
}

// squashEvent is what is done at a second.
type squashEvent struct {
	at     float64
	writes string // or drop, or cancel
}

// squashTimes are sets and when they are due, with a wait of ten seconds: "wait is how
// long after the first change a set is handed out at the earliest".
var squashTimes = []struct {
	name   string
	events []squashEvent
	want   string
}{
	{"one change", []squashEvent{{1, "a1"}}, "11:2"},
	{"the first counts", []squashEvent{{1, "a1"}, {5, "a2"}, {10.9, "b+"}}, "11:3 11:+4"},
	{"two sets", []squashEvent{{1, "a1"}, {11.5, "a2"}, {13, "a3"}}, "11:2 21.5:4"},
	{"at the moment it is due", []squashEvent{{1, "a1"}, {11.25, "b+"}}, "11:2 21.25:+3"},
	{"a long pause", []squashEvent{{100, "a1"}}, "110:2"},
	{"what vanished begins no set", []squashEvent{{1, "b+ b-"}, {5, "a1"}}, "15:4"},
	{"what vanishes late begins no set", []squashEvent{{1, "b+"}, {2, "b-"}, {5, "a1"}}, "15:4"},
	{"what vanished, and nothing else", []squashEvent{{1, "b+"}, {2, "b-"}}, ""},
	{"vanished twice", []squashEvent{{1, "b+"}, {2, "b-"}, {3, "b+"}, {4, "b-"}, {12, "a1"}}, "22:6"},
	{"an equal row is due, and left out", []squashEvent{{1, "a1 a0"}, {12, "a1"}}, "22:4"},
	{"drop while nothing waits", []squashEvent{{3, "drop"}}, "3:dropped"},
	{"drop before a set is due", []squashEvent{{1, "a1"}, {3, "drop"}}, "11:2 11:dropped"},
	{"drop after what vanished", []squashEvent{{1, "b+"}, {2, "b-"}, {3, "drop"}}, "3:dropped"},
	{"cancel while nothing waits", []squashEvent{{3, "cancel"}}, "3:context canceled"},
	{"cancel before a set is due", []squashEvent{{1, "a1"}, {3, "cancel"}}, "3:context canceled"},
	{"cancel after a drop", []squashEvent{{1, "a1"}, {3, "drop"}, {4, "cancel"}}, "4:context canceled"},
}

func (c *squashClock) run(t *testing.T, events []squashEvent, cancel func()) {
	for _, e := range events {
		time.Sleep(time.Until(c.begun.Add(time.Duration(e.at * float64(time.Second)))))
		switch e.writes {
		case "drop":
			c.Drop()
		case "cancel":
			cancel()
		default:
			squashDo(t, c.Table, e.writes)
		}
		synctest.Wait()
	}
	time.Sleep(time.Hour)
}

// A waiting loop is woken exactly when a set is due, and not before. F3, F4
func TestSquashWaits(t *testing.T) {
	for _, test := range squashTimes {
		t.Run(test.name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T) {
				clock := newSquashClock()
				squashDo(t, clock.Table, "a+")
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					for c, err := range clock.Changes(ctx, Squash(10*time.Second)) {
						clock.note(c, err)
					}
				}()
				clock.run(t, test.events, cancel)
				require.Equal(t, test.want, clock.String())
			})
		})
	}
}

// With Poll, wake gets a value exactly when there is something to read: "wake gets one
// value when something is". Whoever ranges then finds something, each time.
func TestSquashPolls(t *testing.T) {
	for _, test := range squashTimes {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := newSquashClock()
				squashDo(t, clock.Table, "a+")
				ctx, cancel := context.WithCancel(t.Context())
				wake := make(chan struct{}, 1)
				feed := clock.Changes(ctx, Squash(10*time.Second), Poll(wake))
				require.Empty(t, allOf(feed))
				over := make(chan struct{})
				go func() {
					for {
						select {
						case <-over:
							return
						case <-wake:
						}
						any := false
						for c, err := range feed {
							any = true
							clock.note(c, err)
						}
						if !any && !strings.Contains(test.name, "left out") {
							t.Errorf("woken for nothing at %v", time.Since(clock.begun).Seconds())
						}
					}
				}()
				clock.run(t, test.events, cancel)
				close(over)
				require.Equal(t, test.want, clock.String())
			})
		})
	}
}

// A set that is due is handed out when the loop asks for it, also if nobody waited
// when it came to be due; a polling range before that finds nothing.
func TestSquashIsReadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		games := newGames()
		feed := games.Changes(t.Context(), Squash(10*time.Second), Poll(nil))
		squashDo(t, games, "a+")
		time.Sleep(10*time.Second - time.Nanosecond)
		require.Empty(t, allOf(feed))
		time.Sleep(time.Nanosecond)
		require.Equal(t, "+1", allOf(feed))
		squashDo(t, games, "a1")
		time.Sleep(time.Minute)
		squashDo(t, games, "a2")
		require.Equal(t, "3", allOf(feed), "of the first change on")
		squashDo(t, games, "a3")
		require.Empty(t, allOf(feed))
		games.Drop()
		require.Empty(t, allOf(feed), "what is pending is due before the end")
		time.Sleep(10 * time.Second)
		require.Equal(t, "4 dropped", allOf(feed))
		require.Equal(t, "dropped", allOf(feed))
	})
}

// Sets of one scope with waits of their own, beside a feed that gets each change: each
// is woken when its set is due, and none for another's. F3
func TestSquashesWithDifferentWaits(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		var loops []*follower
		for wait := range 6 {
			loops = append(loops, follow(games.Row(1).Changes(t.Context(), Squash(time.Duration(wait)*time.Second)), nil))
		}
		each := follow(games.Row(1).Changes(t.Context()), nil)
		synctest.Wait()
		for round := range 3 {
			feedWrites(t, games, 1)
			for second := range 7 {
				synctest.Wait()
				for wait, loop := range loops {
					sets := round
					if second >= wait {
						sets++
					}
					require.Len(t, strings.Fields(loop.String()), sets, "wait %d, second %d", wait, second)
				}
				time.Sleep(time.Second)
			}
		}
		require.Equal(t, "+1 2 3", each.String())
		games.Drop()
		synctest.Wait()
		for _, loop := range loops {
			require.Equal(t, "+1 2 3 dropped", loop.String())
		}
	})
}

// The first set after a position is what was changed since, in one with what comes
// before the first read, after a notice of what is not held. It is due at once.
func TestSquashAfter(t *testing.T) {
	for _, test := range []struct {
		name   string
		retain int
		after  uint64
		wait   time.Duration
		want   string
	}{
		{"all is held", 100, 0, 0, "+4 +6 +7"},
		{"some is held", 100, 4, 0, "+6 7"},
		{"the last", 100, 5, 0, "6 7"},
		{"at the end", 100, 6, 0, "7"},
		{"some is lost", 4, 0, 0, "skip2(1-2) 4 +6 7"},
		{"all is lost", 0, 0, 0, "skip6(1-6) 7"},
		{"due at once", 100, 4, time.Hour, "+6 7"},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			games.Retain(test.retain)
			squashDo(t, games, "a+ b+ a1 a2 c+ c1") // 1 to 6
			feed := games.Changes(t.Context(), After(test.after), Squash(test.wait), Poll(nil))
			squashDo(t, games, "b1") // 7
			require.Equal(t, test.want, allOf(feed))
			if test.wait > 0 {
				squashDo(t, games, "b2")
				require.Empty(t, allOf(feed), "but the next set is not")
			}
		})
	}
}

// FeedInfo.Seq is that "of the last change read, reported as skipped, or made before the
// subscription", and Skipped counts the skipped changes, also where After begins a
// squashed feed: a position saved from it must not leave out what was not read.
func TestFeedsTellsOfSquashAfter(t *testing.T) {
	games := newGames()
	games.Retain(3)
	squashDo(t, games, "a+ b+ c+ d+ e+")
	feed := games.Changes(t.Context(), After(1), Squash(0), Poll(nil))
	require.Equal(t, []FeedInfo{{Buffered: 3, Skipped: 1, Seq: 1}}, games.Feeds())
	require.Equal(t, "skip1(2-2) +3", wordsOf(feed, 2))
	require.Equal(t, []FeedInfo{{Buffered: 2, Delivered: 1, Skipped: 1, Seq: 3}}, games.Feeds())
	require.Equal(t, "+4 +5", allOf(feed))
	require.Equal(t, []FeedInfo{{Delivered: 3, Skipped: 1, Seq: 5}}, games.Feeds())
}

// Rows first, then sets of what came after them. F2
func TestSquashWithIncludeInitial(t *testing.T) {
	for at := range 5 {
		games := newGames()
		squashDo(t, games, "a+ b+ c+")
		feed := games.Changes(t.Context(), Squash(0), IncludeInitial(), Poll(nil))
		squashDo(t, games, "a1 a2 b-")
		got := wordsOf(feed, at)
		squashDo(t, games, "d+ d- b+ c-")
		if at > 0 {
			got += " "
		}
		got += allOf(feed)
		want := "row1 row2 row3 ready3 5 -10"
		if at == 4 {
			require.Equal(t, want, got)
			continue
		}
		require.Equal(t, want, got, "at %d", at)
	}
}

// "So is a set of Squash, if some of it came of a transaction": a batch of it is not
// divided; without a transaction it is.
func TestABatchOfASquashedTransactionIsNotSplit(t *testing.T) {
	transact := func(games *Table[int, game], keys ...int) {
		require.NoError(t, Transact(func(tx *Tx) error {
			for _, key := range keys {
				_, err := games.In(tx).Upsert(game{ID: key, Score: 9})
				require.NoError(t, err)
			}
			return nil
		}, games))
	}
	for _, test := range []struct {
		name  string
		write func(games *Table[int, game])
		want  string
	}{
		{"single writes", func(games *Table[int, game]) { squashDo(t, games, "a+ b+ c+") }, "[+1 +2] [+3]"},
		{"a transaction", func(games *Table[int, game]) { transact(games, 1, 2, 3) }, "[+1 +2 +3]"},
		{"a transaction after others", func(games *Table[int, game]) {
			squashDo(t, games, "d+")
			transact(games, 1, 2)
		}, "[+1 +2 +3]"},
		{"a transaction of one write", func(games *Table[int, game]) {
			transact(games, 1)
			squashDo(t, games, "b+ c+")
		}, "[+1 +2] [+3]"},
		{"the next set is divided again", func(games *Table[int, game]) {
			transact(games, 1, 2, 3)
			squashDo(t, games, "d+")
		}, "[+1 +2 +3 +4]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newOptionGames()
			all := games.Batches(t.Context(), 2, Squash(0), Poll(nil))
			part := games.players.Equal("").Batches(t.Context(), 2, Squash(0), Poll(nil))
			test.write(games.Table)
			require.Equal(t, test.want, batchesOf(all, -1))
			require.Equal(t, test.want, batchesOf(part, -1))
			next := int(games.Seq()) + 1
			squashDo(t, games.Table, "x+ y+ z+")
			want := fmt.Sprintf("[+%d +%d] [+%d]", next, next+1, next+2)
			require.Equal(t, want, batchesOf(all, -1))
		})
	}
}

// "Of each feed: a transaction's first change is not visible before its last": a set
// has all of it or none, also while others write. Run with -race.
func TestASetHasAllOfATransaction(t *testing.T) {
	games := newGames()
	insertRows(t, games, 0, 1)
	feed := games.Changes(t.Context(), Squash(0))
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 2000 {
			err := Transact(func(tx *Tx) error {
				for key := range 2 {
					if _, err := games.In(tx).Replace(game{ID: key, Score: i + 1}); err != nil {
						return err
					}
				}
				return nil
			}, games)
			if err != nil {
				t.Error(err)
			}
		}
		games.Drop()
	})
	var last [2]int
	sets := 0
	for c, err := range feed {
		if err != nil {
			require.ErrorIs(t, err, ErrTableDropped)
			break
		}
		require.Equal(t, last[c.New.ID], c.Old.Score)
		last[c.New.ID] = c.New.Score
		if c.New.ID == 1 {
			require.Equal(t, last[0], last[1])
			sets++
		}
	}
	writer.Wait()
	require.Equal(t, [2]int{2000, 2000}, last)
	require.Positive(t, sets)
}

// F4: nothing stays behind a squashed feed that has ended: no place in Feeds, no
// squash in the scope, no scope, no timer, no row, although the stream is held.
func TestAnEndedSquashHoldsNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(games *Table[int, game], feed Stream[Change[game]], cancel func())
	}{
		{"cancelled, not ranged", func(_ *Table[int, game], _ Stream[Change[game]], cancel func()) { cancel() }},
		{"cancelled and ranged", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			cancel()
			allOf(feed)
		}},
		{"cancelled in the middle of a set, and ranged", func(_ *Table[int, game], feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
			allOf(feed)
		}},
		{"dropped and drained", func(games *Table[int, game], feed Stream[Change[game]], _ func()) {
			games.Drop()
			allOf(feed)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, part := range []bool{false, true} {
				ctx, cancel := context.WithCancel(t.Context())
				games := newGames()
				sel := games.all()
				if part {
					sel = games.Range(0, 10)
				}
				feed := sel.Changes(ctx, Squash(0))
				insertRows(t, games, 1, 5)
				row := weak.Make(stored(games, 5))
				test.end(games, feed, cancel)
				cancel()
				collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
				collected(t, "a squash or a scope is left", func() bool {
					games.mu.RLock()
					defer games.mu.RUnlock()
					return len(games.allScope.squashes) == 0 && games.ranges.root == nil
				})
				_, _ = games.Delete(5)
				collected(t, "a row is held", func() bool { return row.Value() == nil })
				runtime.KeepAlive(feed)
				runtime.KeepAlive(games)
			}
		})
	}
}

// What comes to a squash when its subscription has just ended is not kept: the backlog
// of After, and a change of a writer that has not learnt of it. F4
func TestAnEndedSquashTakesNothing(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Squash(0))
	q := games.feeds.all()[0].squash
	q.close()
	earlier := q.newRows()
	earlier.add(1, Change[game]{Seq: 1, New: &game{ID: 1}})
	q.prepend(earlier)
	require.Zero(t, q.rows.Len(), "a backlog")
	squashDo(t, games, "a+")
	require.Zero(t, q.rows.Len(), "a change")
	runtime.KeepAlive(feed)
}

// A writer pays nothing for the ring of a scope that has squashes only.
func TestSquashNeedsNoRing(t *testing.T) {
	games := newGames()
	feed := games.Row(1).Changes(t.Context(), Squash(0))
	all := games.Changes(t.Context(), Squash(0))
	feedWrites(t, games, 10)
	require.Empty(t, games.allScope.ring.pages)
	require.Empty(t, scopeOfRow(games, 1).ring.pages)
	runtime.KeepAlive(feed)
	runtime.KeepAlive(all)
}

// Fast and slow readers of sets beside several writers: each folds to the table, and
// sees the history of each row joined (T2, T3). Run with -race.
func TestSquashesBesideWriters(t *testing.T) {
	const writers, each = 3, 1500
	games := newGames()
	var loops, writing sync.WaitGroup
	folds := make([]map[int]game, 4)
	for i := range folds {
		feed := games.Changes(t.Context(), Squash(0), IncludeInitial())
		if i == 3 {
			feed = games.Changes(t.Context(), Squash(time.Microsecond))
		}
		folds[i] = make(map[int]game)
		loops.Go(func() {
			for c, err := range feed {
				switch {
				case err != nil || c.Kind == Ready:
					continue
				case c.Old != nil && *c.Old != folds[i][c.Old.ID]:
					t.Errorf("old row %v in place of %v", *c.Old, folds[i][c.Old.ID])
				}
				if c.New == nil {
					delete(folds[i], c.Old.ID)
				} else {
					folds[i][c.New.ID] = *c.New
				}
				for range i {
					runtime.Gosched()
				}
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				key := n % 5
				_, err := games.Compute(key, func(g *game) *game {
					if g != nil && n%3 == 0 {
						return nil
					}
					return &game{ID: key, Score: 10*n + w + 1}
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	content := maps.Collect(games.All())
	games.Drop()
	loops.Wait()
	for i, fold := range folds {
		require.Equal(t, content, fold, "reader %d", i)
	}
}

// A transaction that left no row in the set has no part in it: the set may be split.
func TestATransactionThatVanishedJoinsNothing(t *testing.T) {
	for _, after := range []bool{false, true} {
		games := newGames()
		games.Retain(10)
		follow := func(opts ...FeedOption) Stream[[]Change[game]] {
			return games.Batches(t.Context(), 1, append(opts, Squash(0), Poll(nil))...)
		}
		feed := follow()
		require.NoError(t, Transact(func(tx *Tx) error {
			must[game](t)(games.In(tx).Insert(game{ID: 1}))
			must[game](t)(games.In(tx).Delete(1))
			return nil
		}, games))
		insertRows(t, games, 2, 3)
		if after {
			feed = follow(After(0))
		}
		require.Equal(t, "[+3] [+4]", batchesOf(feed, -1), "after=%t", after)
	}
}
