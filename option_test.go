package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// An optionGames is a table of games with indexes.
type optionGames struct {
	*Table[int, game]
	players *Index[string, int, game]
	scores  *Index[int, int, game] // of a row: its score, and half of it
}

func newOptionGames() optionGames {
	games := newGames()
	return optionGames{
		games,
		NewIndex(games, "players", func(g *game) string { return g.Player }),
		NewMultiIndex(games, "scores", func(g *game) []int { return []int{g.Score, g.Score / 2, g.Score} }),
	}
}

// change makes a random change to one of six rows.
func (games optionGames) change(tb testing.TB, random *rand.Rand) Change[game] {
	tb.Helper()
	for {
		row := game{ID: random.IntN(6), Player: []string{"", "Ann", "Bob"}[random.IntN(3)], Score: random.IntN(6)}
		c, err := games.Compute(row.ID, func(*game) *game {
			if random.IntN(4) == 0 {
				return nil
			}
			return &row
		})
		require.NoError(tb, err)
		if c.Kind != None {
			return c
		}
	}
}

// An optionSelection is a selection, with what it is: the rows in its scope, and of
// those the ones that its predicate keeps.
type optionSelection struct {
	name  string
	of    func(games optionGames) Selection[int, game]
	scope func(row *game) bool
	keep  func(row *game) bool
}

// optionSelections are all kinds of selections.
var optionSelections = func() []optionSelection {
	all := func(*game) bool { return true }
	between := func(n, from, to int) bool { return from <= n && n < to }
	odd := func(row *game) bool { return row.Score%2 == 1 }
	return []optionSelection{
		{"Table", func(games optionGames) Selection[int, game] { return games.all() }, all, all},
		{"Row", func(games optionGames) Selection[int, game] { return games.Row(2) }, func(row *game) bool { return row.ID == 2 }, all},
		{"Row that never is", func(games optionGames) Selection[int, game] { return games.Row(9) }, func(row *game) bool { return false }, all},
		{"Range", func(games optionGames) Selection[int, game] { return games.Range(1, 4) }, func(row *game) bool { return between(row.ID, 1, 4) }, all},
		{"Range of none", func(games optionGames) Selection[int, game] { return games.Range(4, 1) }, func(row *game) bool { return false }, all},
		{"From", func(games optionGames) Selection[int, game] { return games.From(2) }, func(row *game) bool { return row.ID >= 2 }, all},
		{"Where", func(games optionGames) Selection[int, game] { return games.Where(odd) }, all, odd},
		{"Row.Where", func(games optionGames) Selection[int, game] { return games.Row(2).Where(odd) }, func(row *game) bool { return row.ID == 2 }, odd},
		{"Range.Where", func(games optionGames) Selection[int, game] { return games.Range(1, 4).Where(odd) }, func(row *game) bool { return between(row.ID, 1, 4) }, odd},
		{"Index.Equal", func(games optionGames) Selection[int, game] { return games.players.Equal("Ann") }, func(row *game) bool { return row.Player == "Ann" }, all},
		{"Index.Range", func(games optionGames) Selection[int, game] { return games.players.Range("", "Bob") }, func(row *game) bool { return row.Player < "Bob" }, all},
		{"Index.From", func(games optionGames) Selection[int, game] { return games.players.From("Ann") }, func(row *game) bool { return row.Player >= "Ann" }, all},
		{"Index.Where", func(games optionGames) Selection[int, game] { return games.players.From("Ann").Where(odd) }, func(row *game) bool { return row.Player >= "Ann" }, odd},
		{"MultiIndex.Equal", func(games optionGames) Selection[int, game] { return games.scores.Equal(2) }, func(row *game) bool { return row.Score == 2 || row.Score/2 == 2 }, all},
		{"MultiIndex.Range", func(games optionGames) Selection[int, game] { return games.scores.Range(1, 3) }, func(row *game) bool { return between(row.Score, 1, 3) || between(row.Score/2, 1, 3) }, all},
	}
}()

// rows puts down the selection's rows, in their order.
func (s optionSelection) rows(games optionGames) (words []string) {
	for key := range s.of(games).All() {
		words = append(words, fmt.Sprintf("row%d", key))
	}
	return words
}

// content returns the selection's rows.
func (s optionSelection) content(games optionGames) map[int]game {
	return maps.Collect(s.of(games).All())
}

// optionSeen is a change as a selection sees it that some rows are in; ok is false if
// it is none of it.
func optionProject(c Change[game], in func(row *game) bool) (seen Change[game], ok bool) {
	if c.Old != nil && !in(c.Old) {
		c.Old = nil
	}
	if c.New != nil && !in(c.New) {
		c.New = nil
	}
	switch {
	case c.Old == nil && c.New == nil:
		return c, false
	case c.Old == nil:
		c.Kind = Insert
	case c.New == nil:
		c.Kind = Delete
	default:
		c.Kind = Update
	}
	return c, true
}

// seen puts down the changes as the selection sees them.
func (s optionSelection) seen(changes []Change[game]) (words []string) {
	for _, c := range changes {
		if c, ok := optionProject(c, func(row *game) bool { return s.scope(row) && s.keep(row) }); ok {
			words = append(words, wordOf(c, nil))
		}
	}
	return words
}

// An optionFold is what a consumer makes of a feed: the rows, as it knows them.
type optionFold struct {
	rows  map[int]game
	words []string
}

// take takes a pair in, and fails if it does not fit what was taken in before.
func (f *optionFold) take(tb testing.TB, c Change[game], err error) {
	tb.Helper()
	f.words = append(f.words, wordOf(c, err))
	if err != nil {
		if _, ok := errors.AsType[*SkippedError](err); ok {
			clear(f.rows) // of a Resync feed
		}
		return
	}
	if c.Kind == Ready {
		return
	}
	row, ok := f.rows[c.Row().ID]
	require.Equal(tb, c.Old != nil, ok, "%s: is the row there? %v", wordOf(c, nil), f.words)
	if ok {
		require.Equal(tb, *c.Old, row, "%s: the row before %v", wordOf(c, nil), f.words)
	}
	if c.New == nil {
		delete(f.rows, c.Old.ID)
	} else {
		f.rows[c.New.ID] = *c.New
	}
}

// "first the present rows (Kind Initial), then one Ready, then changes"; "JSON
// {"new_val": ...} alone", and "{"state": "ready"}". F2
func TestIncludeInitial(t *testing.T) {
	games := newGames()
	insertRows(t, games, 3, 1, 2)
	feed := games.Changes(t.Context(), IncludeInitial())
	require.Equal(t, []FeedInfo{{Capacity: DefaultBuffer, Seq: 3}}, games.Feeds(), "the rows are outside the Buffer")
	insertRows(t, games, 4)
	must[game](t)(games.Delete(1))

	var kinds []Kind
	var text []string
	for _, p := range take(feed, 6) {
		require.NoError(t, p.err)
		kinds = append(kinds, p.v.Kind)
		line, err := json.Marshal(p.v)
		require.NoError(t, err)
		text = append(text, fmt.Sprint(p.v.Seq, " ", string(line)))
	}
	require.Equal(t, []Kind{Initial, Initial, Initial, Ready, Insert, Delete}, kinds)
	require.Equal(t, []string{
		`0 {"new_val":{"id":1}}`,
		`0 {"new_val":{"id":2}}`,
		`0 {"new_val":{"id":3}}`,
		`3 {"state":"ready"}`,
		`4 {"old_val":null,"new_val":{"id":4}}`,
		`5 {"old_val":{"id":1},"new_val":null}`,
	}, text)
	require.Equal(t, []FeedInfo{{Capacity: DefaultBuffer, Delivered: 2, Seq: 5}}, games.Feeds())
	require.Nil(t, Change[game]{Kind: Ready}.Row())
	runtime.KeepAlive(feed)
}

// Kinds and policies have the names that users print.
func TestOptionsSpeak(t *testing.T) {
	require.Equal(t, "initial ready", fmt.Sprint(Initial, " ", Ready))
	require.Equal(t, "skip fail resync Overflow(9)", fmt.Sprint(Skip, " ", Fail, " ", Resync, " ", Overflow(9)))
	require.Zero(t, Skip, "the default")
}

// The rows that are handed out are the stored ones, as Old and New are, and not
// copies.
func TestInitialRowsAreTheStoredOnes(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1, 2)
	for i, p := range take(games.Changes(t.Context(), IncludeInitial()), 2) {
		require.Same(t, stored(games, i+1), p.v.New)
	}
}

// F2, for every selection: whatever is written while rows are read is not in the rows
// and comes after Ready; "ranging again goes on after the last element handed out (so
// does a panic in the loop body)", at any row and at Ready.
func TestInitialRowsOfEverySelection(t *testing.T) {
	random := newRand(t)
	for _, sel := range optionSelections {
		t.Run(sel.name, func(t *testing.T) {
			for _, how := range []string{"goes on", "breaks", "panics"} {
				for at := 0; ; at++ {
					games := newOptionGames()
					for range 30 {
						games.change(t, random)
					}
					want := append(sel.rows(games), fmt.Sprintf("ready%d", games.Seq()))
					if at > len(want) {
						break
					}
					feed := sel.of(games).Changes(t.Context(), IncludeInitial())
					var changes []Change[game]
					write := func() {
						for range 5 {
							changes = append(changes, games.change(t, random))
						}
					}
					write()
					fold := optionFold{rows: make(map[int]game)}
					body := func() {
						for c, err := range feed {
							fold.take(t, c, err)
							if len(fold.words) != at {
								continue
							}
							write()
							switch how {
							case "breaks":
								return
							case "panics":
								panic("in the body")
							}
						}
					}
					if at == 0 {
						write()
					} else {
						func() {
							defer func() {
								if p := recover(); p != nil && p != "in the body" {
									panic(p)
								}
							}()
							if how == "goes on" { // it would wait, if nobody dropped the table
								for c, err := range feed.Limit(len(want)) {
									fold.take(t, c, err)
									if len(fold.words) == at {
										write()
									}
								}
								return
							}
							body()
						}()
					}
					content := sel.content(games)
					games.Drop()
					for c, err := range feed {
						fold.take(t, c, err)
					}
					want = append(append(want, sel.seen(changes)...), "dropped")
					require.Equal(t, want, fold.words, "%s at %d", how, at)
					require.Equal(t, content, fold.rows)
				}
			}
		})
	}
}

// "Row on missing key: only Ready", and so it is with a table without rows.
func TestInitialWithoutRowsIsReadyAlone(t *testing.T) {
	for _, sel := range optionSelections {
		games := newOptionGames()
		for range 3 {
			insertRows(t, games.Table, 2)
			must[game](t)(games.Delete(2))
		}
		feed := sel.of(games).Changes(t.Context(), IncludeInitial())
		games.Drop()
		require.Equal(t, "ready6 dropped", allOf(feed), sel.name)
	}
}

// "if the buffer overflows while the rows are being read, the notice comes after
// Ready": and so it does if it overflowed before. F1
func TestOverflowWhileInitialRowsAreRead(t *testing.T) {
	for at := range 4 {
		games := newGames()
		insertRows(t, games, 1, 2, 3)
		feed := games.Changes(t.Context(), IncludeInitial(), Buffer(2))
		got := wordsOf(feed, at)
		feedWrites(t, games, 5)
		games.Drop()
		got = strings.TrimSpace(got + " " + allOf(feed))
		require.Equal(t, "row1 row2 row3 ready3 skip3(4-6) 7 8 dropped", got, "at %d", at)
	}
}

// A drop takes nothing from the rows; "ctx done wins over buffered elements", and over
// rows, also if the loop breaks at the same moment. F4
func TestInitialRowsAndTheEndOfAFeed(t *testing.T) {
	all := []string{"row1", "row2", "row3", "ready3", "-4"}
	for at := range len(all) + 1 {
		for _, breaks := range []bool{false, true} {
			t.Run(fmt.Sprintf("at %d,break=%t", at, breaks), func(t *testing.T) {
				for _, ends := range []string{"drop", "cancel"} {
					games := newGames()
					insertRows(t, games, 1, 2, 3)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					feed := games.Changes(ctx, IncludeInitial())
					must[game](t)(games.Delete(3))
					end, want := games.Drop, append(slices.Clone(all), "dropped")
					if ends == "cancel" {
						end, want = cancel, append(slices.Clone(all[:at]), "context canceled")
					}
					if at == 0 {
						end()
					}
					var got []string
					for range 2 {
						for c, err := range feed {
							got = append(got, wordOf(c, err))
							if len(got) == at {
								end()
								if breaks {
									break
								}
							}
						}
					}
					if !breaks || at == 0 {
						want = append(want, want[len(want)-1]) // of the second range
					}
					require.Equal(t, want, got, ends)
					require.Empty(t, games.Feeds())
				}
			})
		}
	}
}

// optionSnapshot inserts a row that nobody holds, once it is deleted, but who has a
// snapshot with it.
func optionSnapshot(tb testing.TB, games *Table[int, game]) (release func() weak.Pointer[game]) {
	row := weak.Make(must[game](&testing.T{})(games.Insert(game{ID: 7})).New)
	return func() weak.Pointer[game] {
		_, err := games.Delete(7)
		require.NoError(tb, err)
		return row
	}
}

// "Until then the feed holds a snapshot": after Ready it does not, although the stream
// is held and goes on; and F4, "nothing of it stays behind" a feed that has ended.
func TestTheSnapshotIsReleased(t *testing.T) {
	for _, test := range []struct {
		name string
		use  func(feed Stream[Change[game]], cancel func())
		held bool
	}{
		{"not ranged", func(Stream[Change[game]], func()) {}, true},
		{"before Ready", func(feed Stream[Change[game]], _ func()) { wordsOf(feed, 2) }, true},
		{"after Ready", func(feed Stream[Change[game]], _ func()) { wordsOf(feed, 4) }, false}, // the notice: else its page would hold the delete
		{"cancelled, not ranged", func(_ Stream[Change[game]], cancel func()) { cancel() }, false},
		{"cancelled among the rows", func(feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
		}, false},
		{"cancelled and ranged", func(feed Stream[Change[game]], cancel func()) {
			wordsOf(feed, 1)
			cancel()
			allOf(feed)
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			games := newGames()
			insertRows(t, games, 1)
			deleted := optionSnapshot(t, games)
			feed := games.Changes(ctx, IncludeInitial(), Buffer(1))
			row := deleted()
			feedWrites(t, games, 2*maxPage) // the change is not held any more
			test.use(feed, cancel)
			if test.held {
				runtime.GC()
				runtime.GC()
				require.NotNil(t, row.Value())
			} else {
				collected(t, "the row is held", func() bool { return row.Value() == nil })
			}
			runtime.KeepAlive(feed)
			runtime.KeepAlive(games)
		})
	}
}

// A stream forgotten among its rows is released with its snapshot.
func TestAForgottenSnapshotIsReleased(t *testing.T) {
	games := newGames()
	deleted := optionSnapshot(t, games)
	feed := games.Changes(t.Context(), IncludeInitial(), Buffer(1))
	row := deleted()
	require.Empty(t, wordsOf(feed, 0))
	runtime.KeepAlive(feed)
	feed = nil
	collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(games)
}

// After Ready a range waits, and is woken, as without the option. F3
func TestAFeedWaitsAfterReady(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		insertRows(t, games, 1, 2)
		loop := follow(games.Changes(t.Context(), IncludeInitial()), nil)
		synctest.Wait()
		require.Equal(t, "row1 row2 ready2", loop.String())
		feedWrites(t, games, 1)
		synctest.Wait()
		require.Equal(t, "row1 row2 ready2 3", loop.String())
		games.Drop()
		synctest.Wait()
		require.Equal(t, "row1 row2 ready2 3 dropped", loop.String())
	})
}

// optionHeld puts down what a feed after a change must be told, of changes up to the
// one numbered end, of which those after floor are held.
func optionHeld(after, floor, end int) (words []string) {
	if floor > after {
		words = append(words, fmt.Sprintf("skip%d(%d-%d)", floor-after, after+1, floor))
	}
	return append(words, feedSeqs(max(after, floor)+1, end)...)
}

// "After: go on after that change; what is no longer held is one SkippedError";
// "Retain: hold exactly the newest n changes for After, also while nobody follows",
// and nothing more because somebody does.
func TestAfterAndRetainAreExact(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 2, 5, 12, 13, 40} {
		for _, written := range []int{0, 1, 3, 4, 5, 12, 30} {
			for _, followed := range []bool{false, true} {
				t.Run(fmt.Sprintf("Retain(%d),%d written,followed=%t", n, written, followed), func(t *testing.T) {
					games := newGames()
					var follower Stream[Change[game]]
					if followed {
						follower = games.Changes(t.Context())
					}
					games.Retain(n)
					feedWrites(t, games, written)
					floor := max(0, written-max(n, 0))
					var feeds []Stream[Change[game]]
					for seq := range written + 1 {
						feeds = append(feeds, games.Changes(t.Context(), After(uint64(seq))))
						infos := games.Feeds()
						require.Equal(t, FeedInfo{
							Buffered: written - max(seq, floor),
							Capacity: infos[len(infos)-1].Capacity,
							Skipped:  uint64(max(0, floor-seq)),
							Seq:      uint64(seq),
						}, infos[len(infos)-1])
					}
					feedWrites(t, games, 2)
					games.Drop()
					for seq, feed := range feeds {
						want := append(optionHeld(seq, floor, written+2), "dropped")
						require.Equal(t, strings.Join(want, " "), feedAll(feed), "After(%d)", seq)
					}
					runtime.KeepAlive(follower)
				})
			}
		}
	}
}

// After on a selection reads all of the table's changes, and tells of its own: "Count
// after a gap counts changes of what the feed reads (the table for Table, Where and
// After ...)".
func TestAfterOfEverySelection(t *testing.T) {
	random := newRand(t)
	for _, sel := range optionSelections {
		t.Run(sel.name, func(t *testing.T) {
			const held, written = 25, 30
			games := newOptionGames()
			games.Retain(held)
			contents := []map[int]game{{}}
			var changes []Change[game]
			for range written {
				changes = append(changes, games.change(t, random))
				contents = append(contents, sel.content(games))
			}
			var feeds []Stream[Change[game]]
			for seq := range written + 1 {
				feeds = append(feeds, sel.of(games).Changes(t.Context(), After(uint64(seq))))
			}
			for range 5 {
				changes = append(changes, games.change(t, random))
			}
			content := sel.content(games)
			games.Drop()
			for seq, feed := range feeds {
				fold := optionFold{rows: maps.Clone(contents[max(seq, written-held)])}
				first := max(seq, written-held)
				var want []string
				if first > seq {
					want = append(want, fmt.Sprintf("skip%d(%d-%d)", first-seq, seq+1, first))
					p := take(feed, 1)[0] // and the fold begins after it
					fold.words = append(fold.words, wordOf(p.v, p.err))
				}
				for c, err := range feed {
					fold.take(t, c, err)
				}
				want = append(append(want, sel.seen(changes[first:])...), "dropped")
				require.Equal(t, want, fold.words, "After(%d)", seq)
				require.Equal(t, content, fold.rows)
			}
		})
	}
}

// "a seq beyond the table's is an error that says so"
func TestAfterWhatIsNotYet(t *testing.T) {
	games := newGames()
	games.Retain(10)
	for written := range 2 {
		for _, seq := range []uint64{uint64(written) + 1, math.MaxUint64} {
			for _, sel := range []Selection[int, game]{games.all(), games.Row(1), games.Range(1, 5)} {
				feed := sel.Changes(t.Context(), After(seq))
				for range 2 {
					pairs := take(feed, -1)
					require.Len(t, pairs, 1)
					require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
					require.EqualError(t, pairs[0].err, fmt.Sprintf(
						`changefeed: changes of "games": invalid option: After(%d): the table is only at %d`, seq, written))
				}
			}
		}
		require.Empty(t, games.Feeds())
		feedWrites(t, games, 1)
	}
	games.Drop()
	require.Equal(t, "dropped", feedAll(games.Changes(t.Context(), After(0))))
}

// Where nothing is held, the notice comes at once, without a change after it, and the
// range waits then.
func TestAfterWhereNothingIsHeld(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		feedWrites(t, games, 5)
		loops := []*follower{
			follow(games.Changes(t.Context(), After(0)), nil),
			follow(games.Changes(t.Context(), After(3)), nil),
			follow(games.Changes(t.Context(), After(5)), nil),
			follow(games.Row(1).Changes(t.Context(), After(3)), nil),
		}
		tell := func(want ...string) {
			t.Helper()
			synctest.Wait()
			for i, loop := range loops {
				require.Equal(t, want[i], loop.String())
			}
		}
		tell("skip5(1-5)", "skip2(4-5)", "", "skip2(4-5)")
		feedWrites(t, games, 1)
		tell("skip5(1-5) 6", "skip2(4-5) 6", "6", "skip2(4-5) 6")
		games.Drop()
		tell("skip5(1-5) 6 dropped", "skip2(4-5) 6 dropped", "6 dropped", "skip2(4-5) 6 dropped")
	})
}

// "After of what is held never overflows: until it has caught up, its buffer is at
// least Retain." After that, Buffer counts.
func TestAfterIsBufferedUntilItHasCaughtUp(t *testing.T) {
	for _, polls := range []bool{false, true} {
		for _, read := range []int{0, 1, 9, 10} { // and then a break, which is not to have caught up
			synctest.Test(t, func(t *testing.T) {
				games := newGames()
				games.Retain(10)
				feedWrites(t, games, 10)
				options := []FeedOption{After(2), Buffer(2)}
				if polls {
					options = append(options, Poll(nil))
				}
				feed := games.Changes(t.Context(), options...)
				require.GreaterOrEqual(t, games.Feeds()[0].Capacity, 10)
				feedWrites(t, games, 2) // 12
				require.Equal(t, strings.Join(feedSeqs(3, 2+read), " "), feedWords(feed, read))
				if polls {
					require.Equal(t, strings.Join(feedSeqs(3+read, 12), " "), feedAll(feed))
				} else {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					loop := follow(feed, func(string) bool { return ctx.Err() == nil })
					synctest.Wait() // it has caught up, and waits
					require.Equal(t, strings.Join(feedSeqs(3+read, 12), " "), loop.String())
					cancel()
					feedWrites(t, games, 1) // 13: it breaks
					synctest.Wait()
					require.True(t, loop.ended)
				}
				require.Equal(t, 2, games.Feeds()[0].Capacity)
				from := int(games.Seq()) + 1
				feedWrites(t, games, 5)
				games.Drop()
				want := append(overflowed(5, from+4, 2), "dropped")
				require.Equal(t, strings.Join(want, " "), feedAll(feed))
			})
		}
	}
}

// "What is held when the feed begins is not lost after that", also when more is
// written before it was read: a table is seldom at rest.
func TestAfterKeepsWhatWasHeldWhileOthersWrite(t *testing.T) {
	games := newGames()
	games.Retain(5)
	feedWrites(t, games, 5)
	feed := games.Changes(t.Context(), After(0), Buffer(1))
	feedWrites(t, games, 1)
	games.Drop()
	require.Equal(t, "1 2 3 4 5 6 dropped", feedAll(feed))
}

// A Buffer that is larger than what Retain holds is as large as it is.
func TestAfterWithALargeBuffer(t *testing.T) {
	games := newGames()
	games.Retain(3)
	feedWrites(t, games, 3)
	feed := games.Changes(t.Context(), After(1), Buffer(100))
	require.GreaterOrEqual(t, games.Feeds()[0].Capacity, 100)
	feedWrites(t, games, 98)
	games.Drop()
	require.Equal(t, strings.Join(append(feedSeqs(2, 101), "dropped"), " "), feedAll(feed))
}

// "To call it again changes the number; of what is held already, the newest n stay":
// beside feeds that come and go, in whatever order.
func TestRetainChanges(t *testing.T) {
	random := newRand(t)
	reached := make(map[string]int)
	for range 60 {
		games := newGames()
		var followers []Stream[Change[game]]
		var cancels []func()
		retain, floor := 0, 0
		for range 20 {
			seq := int(games.Seq())
			switch random.IntN(5) {
			case 0:
				n := []int{-3, 0, 1, 3, 10, 100}[random.IntN(6)]
				if n > retain && retain > 0 {
					reached["grow"]++
				} else if 0 < n && n < retain {
					reached["shrink"]++
				} else if n <= 0 && retain > 0 {
					reached["stop"]++
				}
				games.Retain(n)
				floor = max(floor, seq-retain) // what an earlier call let go does not come back
				retain = max(n, 0)
			case 1:
				ctx, cancel := context.WithCancel(t.Context())
				cancels = append(cancels, cancel)
				followers = append(followers, games.Changes(ctx, Buffer(1+random.IntN(30))))
			case 2:
				for _, cancel := range cancels {
					cancel()
				}
				for len(games.Feeds()) > 0 {
					runtime.Gosched()
				}
				cancels = nil
			default:
				feedWrites(t, games, random.IntN(15))
			}
			seq = int(games.Seq())
			if retain > 0 && seq-retain < floor {
				reached["less than n, for it was let go"]++
			}
			after := random.IntN(seq + 1)
			want := optionHeld(after, max(floor, seq-retain), seq)
			got := feedAll(games.Changes(t.Context(), After(uint64(after)), Poll(nil)))
			require.Equal(t, strings.Join(want, " "), got, "Retain(%d) after %d of %d, floor %d", retain, after, seq, floor)
			collectOptionFeeds(games, len(cancels))
		}
		runtime.KeepAlive(followers)
	}
	requireOutcomes(t, reached, "grow", "shrink", "stop", "less than n, for it was let go")
}

// collectOptionFeeds ends the feeds of a table that are forgotten, all but n.
func collectOptionFeeds(games *Table[int, game], n int) {
	for _, s := range games.feeds.all()[n:] {
		s.forget()
	}
}

// Retain is called, feeds begin and changes are made at once: each feed goes on where
// it says, without a hole. Run with -race. F1, F2
func TestRetainWhileFeedsBegin(t *testing.T) {
	games := newGames()
	games.Retain(50)
	var writer, readers sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() {
		for i := range 5000 {
			_, _ = games.Upsert(game{ID: i % 3, Score: i + 1})
			if i%7 == 0 {
				games.Retain(20 + i%50)
			}
		}
		close(done)
	})
	for range 2 {
		readers.Go(func() {
			for over := false; !over; {
				select {
				case <-done:
					over = true
				default:
				}
				after := games.Seq()
				next := after + 1
				for c, err := range games.Changes(t.Context(), After(after), Poll(nil)) {
					if skipped, ok := errors.AsType[*SkippedError](err); ok {
						if skipped.From != next || skipped.To-skipped.From+1 != skipped.Count {
							t.Errorf("%+v before %d", skipped, next)
						}
						next = skipped.To + 1
						continue
					}
					if c.Seq != next {
						t.Errorf("%d in place of %d", c.Seq, next)
					}
					if next++; next > after+30 {
						break
					}
				}
				runtime.Gosched()
			}
		})
	}
	writer.Wait()
	readers.Wait()
}

// optionOverflowing is a table with three rows, of which three have changed twice
// since the feed began, whose buffer is of two changes.
func optionOverflowing(t *testing.T, sel func(games *Table[int, game]) Selection[int, game], opts ...FeedOption) (*Table[int, game], Stream[Change[game]], func()) {
	games := newGames()
	insertRows(t, games, 1, 2, 3)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	feed := sel(games).Changes(ctx, append(opts, Buffer(2))...)
	for i := range 6 {
		must[game](t)(games.Upsert(game{ID: 1 + i%3, Score: i + 1}))
	}
	return games, feed, cancel
}

// The three policies, exactly: Skip goes on with what is left; "Fail: the SkippedError
// is final; what was still buffered is discarded. Resync: the SkippedError, then the
// present rows as Initial, Ready, on."
func TestOnOverflow(t *testing.T) {
	all := func(games *Table[int, game]) Selection[int, game] { return games.all() }
	row := func(games *Table[int, game]) Selection[int, game] {
		return games.Row(2).Where(func(*game) bool { return true })
	}
	from := func(games *Table[int, game]) Selection[int, game] { return games.From(2) }
	missing := func(games *Table[int, game]) Selection[int, game] { return games.Row(1) }
	for _, test := range []struct {
		name  string
		of    func(games *Table[int, game]) Selection[int, game]
		opts  []FeedOption
		more  func(games *Table[int, game])
		want  string
		after string // a change
	}{
		{"default", all, nil, nil, "skip4(4-7) 8 9", "10"},
		{"Skip", all, []FeedOption{OnOverflow(Skip)}, nil, "skip4(4-7) 8 9", "10"},
		{"Fail", all, []FeedOption{OnOverflow(Fail)}, nil, "skip4(4-7)", "skip4(4-7)"},
		{"Resync", all, []FeedOption{OnOverflow(Resync)}, nil, "skip6(4-9) row1 row2 row3 ready9", "10"},
		{"the last wins", all, []FeedOption{OnOverflow(Fail), OnOverflow(Resync), OnOverflow(Skip)}, nil, "skip4(4-7) 8 9", "10"},
		{"Fail after initial rows", all, []FeedOption{OnOverflow(Fail), IncludeInitial()}, nil, "row1 row2 row3 ready3 skip4(4-7)", "skip4(4-7)"},
		{
			"Resync after initial rows", all,
			[]FeedOption{OnOverflow(Resync), IncludeInitial()},
			nil,
			"row1 row2 row3 ready3 skip6(4-9) row1 row2 row3 ready9", "10",
		},
		// A row's own changes alone count, and lie between the numbers. F1
		{"Resync of rows that did not overflow", row, []FeedOption{OnOverflow(Resync)}, nil, "5 8", "10"},
		{"Skip of a part", from, []FeedOption{OnOverflow(Skip)}, nil, "skip2(4-7) 8 9", "10"},
		{"Fail of a part", from, []FeedOption{OnOverflow(Fail)}, nil, "skip2(4-7)", "skip2(4-7)"},
		{"Resync of a part", from, []FeedOption{OnOverflow(Resync)}, nil, "skip4(4-9) row2 row3 ready9", "10"},
		{"Resync of a row that is gone", missing, []FeedOption{OnOverflow(Resync)}, func(games *Table[int, game]) {
			must[game](t)(games.Delete(1))
			must[game](t)(games.Delete(3))
		}, "skip3(4-11) ready11", ""},
		// "A table that was dropped has no rows to go on with, so there Resync is as Skip."
		{"Resync of a dropped table", all, []FeedOption{OnOverflow(Resync)}, (*Table[int, game]).Drop, "skip4(4-7) 8 9 dropped", "dropped"},
		{"Fail of a dropped table", all, []FeedOption{OnOverflow(Fail)}, (*Table[int, game]).Drop, "skip4(4-7)", "skip4(4-7)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			games, feed, cancel := optionOverflowing(t, test.of, append(test.opts, Poll(nil))...)
			if test.more != nil {
				test.more(games)
			}
			require.Equal(t, test.want, allOf(feed))
			_, _ = games.Upsert(game{ID: 2, Score: 99})
			require.Equal(t, test.after, allOf(feed), "after another change")
			if len(games.Feeds()) == 0 { // it ended
				cancel()
				require.Equal(t, test.after, allOf(feed), "after ctx is done, which is too late")
				return
			}
			if test.after != "" {
				require.Equal(t, games.Seq(), games.Feeds()[0].Seq)
			}
			runtime.KeepAlive(feed)
		})
	}
}

// "Fail: the SkippedError is final": the last pair of this range, the only pair of
// every later one, whether it breaks on it or not; "nothing of it stays behind". F4
func TestFailEndsTheFeed(t *testing.T) {
	for _, breaks := range []int{1, -1} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		games := newGames()
		feed := games.Changes(ctx, Buffer(1), OnOverflow(Fail))
		held := holdBacklog(t, games)
		first := take(feed, breaks)
		require.Len(t, first, 1)
		require.Equal(t, pair[Change[game]]{err: &SkippedError{Count: 1, From: 1, To: 1, Table: "games"}}, first[0])
		for range 2 {
			require.Equal(t, first, take(feed, breaks))
		}
		require.Empty(t, games.Feeds())
		require.Empty(t, games.allScope.ring.pages)
		require.False(t, held.sub.Value().unhook(), "the hook was in the context")
		collected(t, "a page is held", func() bool { return held.page.Value() == nil })
		collected(t, "a row is held", func() bool { return held.row.Value() == nil })
		runtime.KeepAlive(feed)
		runtime.KeepAlive(games)
	}
}

// A feed that fails in a scope of its own takes the scope along.
func TestFailLeavesNoScopeBehind(t *testing.T) {
	games := newOptionGames()
	for _, sel := range []Selection[int, game]{games.Row(1), games.Range(1, 3), games.scores.Equal(0)} {
		feed := sel.Changes(t.Context(), Buffer(1), OnOverflow(Fail))
		insertRows(t, games.Table, 1)
		must[game](t)(games.Delete(1))
		end := games.Seq()
		require.Equal(t, fmt.Sprintf("skip1(%d-%d)", end-1, end-1), feedAll(feed))
		require.Zero(t, games.rows.tree.Len())
		require.Nil(t, games.ranges.root)
		require.Nil(t, games.scores.scopes.root)
	}
}

// "Resync Count counts all unread and To = Ready.Seq", whatever is written while its
// notice is handled, which comes after Ready; and it may happen again while the rows
// are read: then there is a notice after Ready, and rows again. F1, F2
func TestResyncAgainWhileRowsAreRead(t *testing.T) {
	for at, want := range []string{
		"skip5(3-7) row1 row2 ready7 dropped",
		"skip5(3-7) row1 row2 ready7 skip5(8-12) row1 row2 ready12 dropped",
		"skip5(3-7) row1 row2 ready7 skip5(8-12) row1 row2 ready12 dropped",
		"skip5(3-7) row1 row2 ready7 skip5(8-12) row1 row2 ready12 dropped",
		"skip5(3-7) row1 row2 ready7 skip5(8-12) row1 row2 ready12 dropped",
	} {
		games := newGames()
		insertRows(t, games, 1, 2)
		feed := games.Changes(t.Context(), Buffer(2), OnOverflow(Resync))
		feedWrites(t, games, 5)
		var got []string
		for c, err := range feed {
			got = append(got, wordOf(c, err))
			if len(got) == at {
				feedWrites(t, games, 5)
			}
			if strings.HasPrefix(got[len(got)-1], "ready") && (at == 0 || len(got) > 4) {
				games.Drop()
			}
		}
		require.Equal(t, want, strings.Join(got, " "), "at %d", at)
	}
}

// A change or two while the rows are read are just changes after Ready.
func TestResyncGoesOnWithChanges(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1, 2)
	feed := games.Changes(t.Context(), Buffer(2), OnOverflow(Resync))
	feedWrites(t, games, 5)
	require.Equal(t, "skip5(3-7) row1", wordsOf(feed, 2))
	require.Equal(t, []FeedInfo{{Capacity: 2, Skipped: 5, Seq: 7}}, games.Feeds())
	feedWrites(t, games, 2)
	require.Equal(t, []FeedInfo{{Buffered: 2, Capacity: 2, Skipped: 5, Seq: 7}}, games.Feeds())
	games.Drop()
	require.Equal(t, "row2 ready7 8 9 dropped", allOf(feed))
}

// A snapshot of a Resync is released as that of IncludeInitial is.
func TestTheSnapshotOfAResyncIsReleased(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	deleted := optionSnapshot(t, games)
	feed := games.Changes(t.Context(), Buffer(1), OnOverflow(Resync))
	feedWrites(t, games, 2)
	require.Equal(t, "skip2(3-4) row1", wordsOf(feed, 2))
	row := deleted()
	feedWrites(t, games, 2*maxPage)
	runtime.GC()
	require.NotNil(t, row.Value())
	require.Equal(t, "row7 ready4", wordsOf(feed, 2))
	require.True(t, strings.HasPrefix(wordsOf(feed, 1), "skip")) // and it leaves the page with the delete
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(feed)
	runtime.KeepAlive(games)
}

// After with something that is not held any more is an overflow like another.
func TestAfterAndOnOverflow(t *testing.T) {
	for _, test := range []struct {
		policy Overflow
		want   string
	}{
		{Skip, "skip2(2-3) 4 5 dropped"},
		{Fail, "skip2(2-3)"},
		{Resync, "skip4(2-5) row1 ready5 dropped"},
	} {
		games := newGames()
		games.Retain(2)
		feedWrites(t, games, 5)
		feed := games.Changes(t.Context(), After(1), OnOverflow(test.policy), Buffer(1))
		var got []string
		for c, err := range feed {
			got = append(got, wordOf(c, err))
			if got[len(got)-1] == "ready5" || got[len(got)-1] == "5" {
				games.Drop()
			}
		}
		require.Equal(t, test.want, strings.Join(got, " "), test.policy)
	}
}

// Where nothing is lost, policies are the same, also after a position.
func TestOnOverflowWithoutOverflow(t *testing.T) {
	for _, policy := range []Overflow{Skip, Fail, Resync} {
		games := newGames()
		games.Retain(3)
		feedWrites(t, games, 3)
		feed := games.Changes(t.Context(), After(0), OnOverflow(policy))
		games.Drop()
		require.Equal(t, "+1 2 3 dropped", allOf(feed))
	}
}

// "Batches: what is ready, 1 to max changes"; "Initial and Ready count as changes
// here; errors come by themselves, in their place".
func TestBatches(t *testing.T) {
	for _, test := range []struct {
		name string
		max  int
		opts []FeedOption
		want string
	}{
		{"1", 1, nil, "[4] [5] [6] [7] [8] [9] dropped"},
		{"4", 4, nil, "[4 5 6 7] [8 9] dropped"},
		{"6", 6, nil, "[4 5 6 7 8 9] dropped"},
		{"7", 7, nil, "[4 5 6 7 8 9] dropped"},
		{"many", math.MaxInt, nil, "[4 5 6 7 8 9] dropped"},
		{"Initial and Ready", 3, []FeedOption{IncludeInitial()}, "[row1 row2 row3] [ready3 4 5] [6 7 8] [9] dropped"},
		{"Initial and Ready in one", 100, []FeedOption{IncludeInitial()}, "[row1 row2 row3 ready3 4 5 6 7 8 9] dropped"},
		{"Initial and Ready apart", 1, []FeedOption{IncludeInitial(), Buffer(1)}, "[row1] [row2] [row3] [ready3] skip5(4-8) [9] dropped"},
		{"overflow", 3, []FeedOption{Buffer(4)}, "skip2(4-5) [6 7 8] [9] dropped"},
		{"a gap between", 100, []FeedOption{Buffer(4), IncludeInitial()}, "[row1 row2 row3 ready3] skip2(4-5) [6 7 8 9] dropped"},
		{"Fail", 100, []FeedOption{Buffer(4), IncludeInitial(), OnOverflow(Fail)}, "[row1 row2 row3 ready3] skip2(4-5)"},
		{"After", 4, []FeedOption{After(1)}, "[+2 +3 4 5] [6 7 8 9] dropped"},
		{"After and a gap", 4, []FeedOption{After(0), Buffer(2)}, "[+1 +2 +3 4] [5 6 7 8] [9] dropped"},
		{"Squash", 2, []FeedOption{Squash(0)}, "[7 8] [9] dropped"},
		{"Squash and IncludeInitial", 2, []FeedOption{Squash(0), IncludeInitial()}, "[row1 row2] [row3 ready3] [7 8] [9] dropped"},
		{"Poll", 4, []FeedOption{Poll(nil)}, "[4 5 6 7] [8 9] dropped"},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			games.Retain(100)
			insertRows(t, games, 1, 2, 3)
			whole := games.Batches(t.Context(), test.max, test.opts...)
			where := games.Where(func(*game) bool { return true }).Batches(t.Context(), test.max, test.opts...)
			part := games.Range(0, 9).Batches(t.Context(), test.max, test.opts...)
			for i := range 6 {
				must[game](t)(games.Upsert(game{ID: 1 + i%3, Score: i + 1}))
			}
			games.Drop()
			require.Equal(t, test.want, batchesOf(whole, -1))
			require.Equal(t, test.want, batchesOf(where, -1))
			require.Equal(t, test.want, batchesOf(part, -1))
			require.Empty(t, games.Feeds())
		})
	}
}

// A batch is what is there when the loop asks: it does not wait for max.
func TestBatchesDoNotWaitForMore(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games := newGames()
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var told []string
		go func() {
			for batch, err := range games.Batches(ctx, 3) {
				mu.Lock()
				told = append(told, batchOf(batch, err))
				mu.Unlock()
			}
		}()
		tell := func(want string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, want, strings.Join(told, " "))
		}
		tell("")
		feedWrites(t, games, 1)
		tell("[+1]")
		transactWrites(t, games, 2)
		tell("[+1] [2 3]")
		transactWrites(t, games, 5)
		tell("[+1] [2 3] [4 5 6 7 8]")
		cancel()
		tell("[+1] [2 3] [4 5 6 7 8] context canceled")
	})
}

// "a transaction is never split: a batch exceeds max rather than do so", wherever
// pages end, and no batch is longer than that asks for.
func TestBatchesDoNotSplitATransaction(t *testing.T) {
	random := newRand(t)
	for _, max := range []int{1, 2, 3, 10, 300} {
		games := newOptionGames()
		all, part := games.Batches(t.Context(), max), games.players.From("").Batches(t.Context(), max)
		odd := games.Where(func(row *game) bool { return row.Score%2 == 1 }).Batches(t.Context(), max)
		initial := games.Batches(t.Context(), max, IncludeInitial())
		var ends []int // of the transactions
		for range 60 {
			transactWrites(t, games.Table, 1+random.IntN(1+random.IntN(40)))
			ends = append(ends, int(games.Seq()))
		}
		games.Drop()
		var want []string
		batch := 0
		from := 1
		for _, end := range ends {
			for seq := from; seq <= end; seq++ {
				batch++
				if word := fmt.Sprint(seq); batch == 1 {
					want = append(want, word)
				} else {
					want[len(want)-1] += " " + word
				}
				if batch >= max && seq == end { // not before its last
					batch = 0
				}
			}
			from = end + 1
		}
		for name, s := range map[string]Stream[[]Change[game]]{"all": all, "part": part, "initial": initial} {
			var got []string
			for batch, err := range s {
				if err != nil {
					require.ErrorIs(t, err, ErrTableDropped)
					break
				}
				if batch[0].Kind == Ready {
					if batch = batch[1:]; len(batch) == 0 {
						continue
					}
					want = nil // batches lie elsewhere: only that none is split counts
				}
				var words []string
				for _, c := range batch {
					words = append(words, fmt.Sprint(c.Seq))
				}
				got = append(got, strings.Join(words, " "))
				require.Contains(t, ends, int(batch[len(batch)-1].Seq), "%s: split", name)
			}
			if want != nil {
				require.Equal(t, want, got, "%s: max %d", name, max)
			}
			require.Equal(t, feedSeqs(1, from-1), strings.Fields(strings.Join(got, " ")))
		}
		seen := 0
		for batch, err := range odd {
			if err != nil {
				break
			}
			seen += len(batch)
			last := int(batch[len(batch)-1].Seq)
			next := slices.IndexFunc(ends, func(end int) bool { return end >= last })
			require.Less(t, ends[next]-last, 1+1, "split after %d, which ends at %d", last, ends[next]) // the one left out has an even score
		}
		require.Equal(t, from-1, seen) // each change comes to an odd score, or leaves it
	}
}

// Ready is no change of a transaction, wherever the feed began: on a page's first
// slot there is none before it.
func TestReadyIsNotPartOfATransaction(t *testing.T) {
	for _, policy := range []Overflow{Skip, Resync} {
		for written := range 14 { // across the ends of pages
			games := newGames()
			games.Retain(1) // so that pages are not begun anew
			feedWrites(t, games, written)
			feed := games.Batches(t.Context(), 1, IncludeInitial(), OnOverflow(policy), Buffer(6))
			rows, want := "", ""
			if written > 0 {
				rows = "[row1] "
			}
			transactWrites(t, games, 3)
			games.Drop()
			kinds := []string{"=", "=", "="}
			if written == 0 {
				kinds[0] = "+"
			}
			want = fmt.Sprintf("%s[ready%d] [%s%d =%d =%d] dropped", rows, written, kinds[0], written+1, written+2, written+3)
			require.Equal(t, want, batchesOf(feed, -1), "%d written", written)
		}
	}
	for unread := range 14 { // the same after a Resync
		games := newGames()
		feed := games.Batches(t.Context(), 1, OnOverflow(Resync), Buffer(1))
		feedWrites(t, games, unread+2)
		next := games.Changes(t.Context()) // begins a page where one is full
		require.Equal(t, fmt.Sprintf("skip%d(1-%d) [row1]", unread+2, unread+2), batchesOf(feed, 2))
		transactWrites(t, games, 1)
		games.Drop()
		require.Equal(t, fmt.Sprintf("[ready%d] [=%d] dropped", unread+2, unread+3), batchesOf(feed, -1))
		runtime.KeepAlive(next)
	}
}

// "max<1": ErrInvalidOption.
func TestBatchesOfLessThanOne(t *testing.T) {
	games := newGames()
	for _, max := range []int{0, -1} {
		for _, s := range []Stream[[]Change[game]]{
			games.Batches(t.Context(), max),
			games.Row(1).Batches(t.Context(), max),
			games.Batches(t.Context(), max, Buffer(0)),
		} {
			for range 2 {
				pairs := take(s, -1)
				require.Len(t, pairs, 1)
				require.Nil(t, pairs[0].v)
				require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
				require.EqualError(t, pairs[0].err, fmt.Sprintf(
					`changefeed: changes of "games": invalid option: Batches with max %d: must be at least 1`, max))
			}
		}
	}
	require.Equal(t, `changefeed: changes of "games": invalid option: Buffer(0): must be at least 1`,
		take(games.Batches(t.Context(), 1, Buffer(0)), -1)[0].err.Error())
	require.Empty(t, games.Feeds())
}

// "the slice is the stream's own copy, valid until the next element": the consumer may
// change it, and it is still there when the loop has been left.
func TestABatchIsTheConsumersUntilTheNext(t *testing.T) {
	games := newGames()
	feed := games.Batches(t.Context(), 2)
	feedWrites(t, games, 6)
	var first []Change[game]
	for batch := range feed {
		first = batch
		break
	}
	require.Equal(t, "[+1 2]", batchOf(first, nil), "nothing was asked for since")
	clear(first)
	first = append(first[:1], first...)
	require.Equal(t, "[3 4]", batchesOf(feed, 1))
	func() {
		defer func() { _ = recover() }()
		for batch := range feed {
			clear(batch)
			panic("in the body")
		}
	}()
	games.Drop()
	require.Equal(t, "dropped", batchesOf(feed, -1))
	require.NotEmpty(t, first)
}

// A stream of batches that waits or is paused holds nothing of what it handed out, nor
// does one that has ended of what it had put by.
func TestABatchIsNotHeld(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	games := newGames()
	for _, keep := range []func(g *game) bool{
		func(*game) bool { return true },
		func(g *game) bool { return g.ID == 1 },
	} {
		games := newGames()
		insertRows(t, games, 1)
		feed := games.Where(keep).Batches(ctx, 100, Poll(nil))
		feedWrites(t, games, 20)
		row := optionSnapshot(t, games)()
		require.NotEmpty(t, batchesOf(feed, -1))
		for range 2 * maxPage / 5 { // off the page; shorter batches do not write over it
			feedWrites(t, games, 5)
			batchesOf(feed, -1)
		}
		collected(t, "read, and held", func() bool { return row.Value() == nil })
		runtime.KeepAlive(feed)
		runtime.KeepAlive(games)
	}

	for _, drop := range []bool{false, true} { // a smaller batch follows in the same range, or the end
		t.Run(fmt.Sprintf("drop=%t", drop), func(t *testing.T) {
			games := newGames()
			feed := games.Batches(ctx, 100, Poll(nil))
			feedWrites(t, games, 20)
			row := optionSnapshot(t, games)()
			first := true
			for batch := range feed {
				if first {
					first = false
					require.Len(t, batch, 22)
					feedWrites(t, games, 1)
					if drop {
						games.Drop()
					}
				}
			}
			for range 2 * maxPage / 5 * len(games.Feeds()) { // off the page; shorter batches do not write over it
				feedWrites(t, games, 5)
				batchesOf(feed, -1)
			}
			collected(t, "handed out, and held", func() bool { return row.Value() == nil })
			runtime.KeepAlive(feed)
			runtime.KeepAlive(games)
		})
	}

	calls := 0
	where := games.Where(func(*game) bool {
		if calls++; calls == 2 {
			cancel()
		}
		return true
	}).Batches(ctx, 10)
	row := optionSnapshot(t, games)()
	require.Equal(t, "context canceled", batchesOf(where, -1))
	require.Equal(t, 2, calls)
	feedWrites(t, games, 1)
	collected(t, "put by, and held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(where)
	runtime.KeepAlive(games)
}

// A predicate that panics takes nothing from the batch that was being collected: the
// change on which it did counts as handed out, as with a stage, and no other is lost.
func TestAPanicInAPredicateLosesNoBatch(t *testing.T) {
	for at := 1; at <= 6; at++ {
		games := newGames()
		calls := 0
		feed := games.Where(func(row *game) bool {
			if row.ID == at {
				if calls++; calls == 1 {
					panic("in keep")
				}
			}
			return true
		}).Batches(t.Context(), 3)
		insertRows(t, games, 1, 2, 3, 4, 5, 6)
		games.Drop()
		var got []string
		func() {
			defer func() { require.Equal(t, "in keep", recover()) }()
			for batch, err := range feed {
				got = append(got, batchOf(batch, err))
			}
		}()
		for batch, err := range feed {
			got = append(got, batchOf(batch, err))
		}
		var left []string
		for seq := 1; seq <= 6; seq++ {
			if seq != at {
				left = append(left, fmt.Sprintf("+%d", seq))
			}
		}
		want := fmt.Sprintf("[%s] [%s] dropped", strings.Join(left[:3], " "), strings.Join(left[3:], " "))
		require.Equal(t, want, strings.Join(got, " "), "at %d", at)
	}
}

// After a panic in a predicate, who polls is told that something is left: changes that
// were read with it, and those before it.
func TestAPanicInAPredicateTellsWhoPolls(t *testing.T) {
	for at := 1; at <= 3; at++ {
		games := newGames()
		wake := make(chan struct{}, 10)
		panics := true
		feed := games.Where(func(row *game) bool {
			if row.ID == at && panics {
				panics = false
				panic("in keep")
			}
			return true
		}).Batches(t.Context(), 10, Poll(wake))
		insertRows(t, games, 1, 2, 3)
		require.PanicsWithValue(t, "in keep", func() { batchesOf(feed, -1) })
		require.Equal(t, 1, notifications(wake))
		require.NotEmpty(t, batchesOf(feed, -1))
		require.Zero(t, notifications(wake))
	}
}

// A panic in a predicate makes no batch longer than it may be, and what it left does not
// come when the context is done.
func TestAPanicInAPredicateKeepsToMax(t *testing.T) {
	for _, done := range []bool{false, true} {
		games := newGames()
		ctx, cancel := context.WithCancel(t.Context())
		panics := true
		feed := games.Where(func(row *game) bool {
			if row.ID == 2 && panics {
				panics = false
				panic("in keep")
			}
			return true
		}).Batches(ctx, 1, Poll(nil))
		insertBoth(t, games, game{ID: 1}, game{ID: 2})
		insertRows(t, games, 3)
		require.PanicsWithValue(t, "in keep", func() { batchesOf(feed, -1) })
		want := "[+1] [+3]"
		if done {
			cancel()
			want = "context canceled"
		}
		require.Equal(t, want, batchesOf(feed, -1))
		cancel()
	}
}

// F1: a gap is told, also if the loop breaks at the batch that comes before it, which
// was being collected when the gap was found; and so it is with the others' errors.
func TestBreakAtTheBatchBeforeAGap(t *testing.T) {
	for _, test := range []struct {
		policy Overflow
		want   string
	}{
		{Skip, "[+1] skip3(2-4) [5 6] dropped"},
		{Fail, "[+1] skip3(2-4)"},
		{Resync, "[+1] skip5(2-6) [row1 ready6] dropped"},
	} {
		for _, breaks := range []int{1, -1} {
			games := newGames()
			late := func() { feedWrites(t, games, 5) }
			feed := games.Where(func(*game) bool {
				if late != nil {
					write := late
					late = nil
					write() // among the changes of the batch
				}
				return true
			}).Batches(t.Context(), 10, Buffer(2), OnOverflow(test.policy), Poll(nil))
			feedWrites(t, games, 1)
			got := batchesOf(feed, breaks)
			if breaks < 0 {
				require.Equal(t, strings.TrimSuffix(test.want, " dropped"), got)
				continue
			}
			got += " " + batchesOf(feed, breaks)
			if test.policy != Fail {
				got += " " + batchesOf(feed, breaks)
				games.Drop()
				got += " " + batchesOf(feed, breaks)
			}
			require.Equal(t, test.want, got, test.policy)
		}
	}
}

// "ctx done wins over buffered elements", also over those of a batch that was not
// handed out, be it full.
func TestBatchesAndADoneContext(t *testing.T) {
	for at := 1; at <= 3; at++ {
		games := newGames()
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		feed := games.Where(func(*game) bool {
			if calls++; calls == at {
				cancel()
			}
			return true
		}).Batches(ctx, 3)
		insertRows(t, games, 1, 2, 3)
		require.Equal(t, "context canceled", batchesOf(feed, -1), "at %d", at)
		require.Equal(t, at, calls, "nobody is to get the others")
		require.Equal(t, "context canceled", batchesOf(feed, -1))
		require.Empty(t, games.Feeds())
	}
}

// "a range never waits: it ends, without error, when nothing is buffered; wake ... then
// gets one value, never blocking, when something is": a change, the end of ctx, a drop.
func TestPoll(t *testing.T) {
	for _, sel := range optionSelections {
		if strings.Contains(sel.name, "never") || strings.Contains(sel.name, "none") {
			continue
		}
		t.Run(sel.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				games := newOptionGames()
				ctx, cancel := context.WithCancelCause(t.Context())
				wake := make(chan struct{}, 10)
				feed := sel.of(games).Changes(ctx, Poll(wake))
				dropped := sel.of(games).Changes(t.Context(), Poll(wake))
				silent := sel.of(games).Changes(t.Context(), Poll(nil))
				ours := game{ID: 2, Player: "Ann", Score: 5} // and then 4, its half is 2
				if sel.name == "MultiIndex.Range" {
					ours.Score = 1
				}
				write := func(row game) {
					_, err := games.Upsert(row)
					require.NoError(t, err)
				}
				require.Zero(t, notifications(wake), "nobody ranged: nobody waits")
				require.Empty(t, allOf(feed))
				require.Empty(t, allOf(feed), "again")
				write(ours)
				synctest.Wait()
				require.Equal(t, 1, notifications(wake))
				must[game](t)(games.Delete(2))
				write(ours)
				require.Zero(t, notifications(wake), "once")
				require.Equal(t, "+1", wordsOf(feed, 1))
				require.Equal(t, 1, notifications(wake), "it broke off, and there is more")
				must[game](t)(games.Delete(2))
				require.Zero(t, notifications(wake), "once")
				require.Equal(t, "-2 +3 -4", allOf(feed))
				require.Empty(t, notifications(wake))
				write(game{ID: 2, Player: "Ann", Score: ours.Score}) // 5
				require.Equal(t, 1, notifications(wake))
				require.Equal(t, "+5", allOf(feed))

				cancel(errFeedCause)
				synctest.Wait()
				require.Equal(t, 1, notifications(wake), "for the final error")
				require.Equal(t, "the cause", allOf(feed))
				require.Equal(t, "the cause", allOf(feed))
				require.Equal(t, "+1 -2 +3 -4 +5", allOf(dropped))
				games.Drop()
				require.Equal(t, 1, notifications(wake), "for the drop")
				require.Equal(t, "dropped", allOf(dropped))
				require.Equal(t, "dropped", allOf(dropped))
				require.Equal(t, "+1 -2 +3 -4 +5 dropped", allOf(silent))
				require.Zero(t, notifications(wake))
				require.Empty(t, games.Feeds())
			})
		})
	}
}

// A feed that polls is not woken by what is not for it: "a write to one key wakes
// nobody else". A predicate is the reader's, so there it is.
func TestPollIsNotWokenByOthersRows(t *testing.T) {
	games := newOptionGames()
	wake := make(chan struct{}, 10)
	var feeds []Stream[Change[game]]
	for _, sel := range []Selection[int, game]{games.Row(1), games.Range(1, 3), games.From(1), games.players.Equal("Ann")} {
		feeds = append(feeds, sel.Changes(t.Context(), Poll(wake)))
	}
	where := games.Where(func(row *game) bool { return row.ID > 0 }).Changes(t.Context(), Poll(wake))
	for _, feed := range append(feeds, where) {
		require.Empty(t, allOf(feed))
	}
	insertRows(t, games.Table, 0)
	require.Equal(t, 1, notifications(wake), "the predicate's")
	require.Empty(t, allOf(where))
	insertRows(t, games.Table, 7)
	require.Equal(t, 2, notifications(wake), "From and the predicate")
	must[game](t)(games.Insert(game{ID: 1, Player: "Ann"}))
	require.Equal(t, 3, notifications(wake), "all but those")
	require.Equal(t, "+2 +3", allOf(feeds[2]))
}

// "never blocking": into a channel without room or a reader the send is not made, and
// the writer goes on; a shared one is enough for all. T6
func TestPollNeverBlocksTheWriter(t *testing.T) {
	games := newGames()
	shared := make(chan struct{}, 1)
	var feeds []Stream[Change[game]]
	for _, wake := range []chan struct{}{make(chan struct{}), shared, shared, shared} {
		feed := games.Changes(t.Context(), Poll(wake))
		require.Empty(t, allOf(feed))
		feeds = append(feeds, feed)
	}
	feedWrites(t, games, 2)
	require.Equal(t, 1, notifications(shared))
	for _, feed := range feeds {
		require.Equal(t, "1 2", feedAll(feed))
	}
	feedWrites(t, games, 1)
	require.Equal(t, 1, notifications(shared))
	games.Drop()
	for _, feed := range feeds {
		require.Equal(t, "3 dropped", feedAll(feed))
	}
}

// An overflow, initial rows and After are things to read like others.
func TestPollWithOtherOptions(t *testing.T) {
	wake := make(chan struct{}, 10)
	for _, test := range []struct {
		name string
		opts []FeedOption
		told []string // by ranges, of a table with 3 rows, after 0, 3 and 0 changes
	}{
		{"Buffer", []FeedOption{Buffer(1)}, []string{"", "skip2(4-5) 6", ""}},
		{"Fail", []FeedOption{Buffer(1), OnOverflow(Fail)}, []string{"", "skip2(4-5)", "skip2(4-5)"}},
		{"Resync", []FeedOption{Buffer(1), OnOverflow(Resync)}, []string{"", "skip3(4-6) row1 row2 row3 ready6", ""}},
		{"IncludeInitial", []FeedOption{IncludeInitial()}, []string{"row1 row2 row3 ready3", "4 5 6", ""}},
		{"After", []FeedOption{After(1)}, []string{"+2 +3", "4 5 6", ""}},
		{"Squash", []FeedOption{Squash(0)}, []string{"", "6", ""}},
		{"After and Squash", []FeedOption{After(2), Squash(0)}, []string{"+3", "6", ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			games.Retain(10)
			insertRows(t, games, 1, 2, 3)
			feed := games.Changes(t.Context(), append(test.opts, Poll(wake))...)
			require.Equal(t, test.told[0], allOf(feed))
			require.Zero(t, notifications(wake))
			feedWrites(t, games, 3)
			require.Equal(t, 1, notifications(wake))
			require.Equal(t, test.told[1], allOf(feed))
			require.Equal(t, test.told[2], allOf(feed))
			games.Drop()
			if len(games.Feeds()) > 0 { // it has not failed
				require.Equal(t, 1, notifications(wake))
			}
			runtime.KeepAlive(feed)
		})
	}
}

// Feeds that poll and feeds that wait, mixed: whoever waits is woken or told, by one
// write, and nobody twice. F3
func TestPollingAndWaitingFeedsTogether(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		const n = 6
		for polling := range 1 << n {
			games := newGames()
			ctx, cancel := context.WithCancel(t.Context())
			var loops []*follower
			var polls []Stream[Change[game]]
			var wakes []chan struct{}
			for i := range n {
				if polling>>i&1 == 0 {
					loops = append(loops, follow(games.Changes(ctx), nil))
				} else {
					wake := make(chan struct{}, 5)
					feed := games.Changes(ctx, Poll(wake))
					require.Empty(t, feedAll(feed))
					polls, wakes = append(polls, feed), append(wakes, wake)
				}
				synctest.Wait() // they queue in this order
			}
			feedWrites(t, games, 1)
			synctest.Wait()
			for _, loop := range loops {
				require.Equal(t, "+1", loop.String(), "polling: %06b", polling)
			}
			for i, wake := range wakes {
				require.Equal(t, 1, notifications(wake), "polling: %06b", polling)
				require.Equal(t, "1", feedAll(polls[i]))
			}
			cancel()
			synctest.Wait()
			for _, wake := range wakes {
				require.Equal(t, 1, notifications(wake))
			}
			require.Zero(t, games.allScope.ring.parked.Load())
		}
	})
}

// Thousands of feeds in one goroutine, which is told of each by one channel.
func TestThousandsOfPollingFeeds(t *testing.T) {
	const n = 3000
	games := newGames()
	wake := make(chan struct{}, 1)
	feeds := make([]Stream[Change[game]], n)
	for i := range feeds {
		feeds[i] = games.Row(i%1000).Changes(t.Context(), Poll(wake))
		require.Empty(t, feedAll(feeds[i]))
	}
	for round := range 3 {
		for key := range 1000 {
			_, err := games.Upsert(game{ID: key, Score: round + 1})
			require.NoError(t, err)
		}
		require.Equal(t, 1, notifications(wake))
		for i, feed := range feeds {
			require.Equal(t, strconv.Itoa(round*1000+i%1000+1), feedAll(feed))
		}
	}
	games.Drop()
	require.Equal(t, 1, notifications(wake))
}

// A forgotten feed that polls is released although the ring waits for it.
func TestAForgottenPollingFeedIsReleased(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}, {Squash(time.Hour)}, {IncludeInitial()}} {
		games := newGames()
		func() {
			feed := games.Row(1).Changes(t.Context(), append(opts, Poll(make(chan struct{})))...)
			allOf(feed)
			feedWrites(t, games, 1)
			allOf(feed)
			runtime.KeepAlive(feed)
		}()
		collected(t, "Feeds() is not empty", func() bool { return len(games.Feeds()) == 0 })
		collected(t, "its scope is left", func() bool {
			games.mu.RLock()
			defer games.mu.RUnlock()
			return scopeOfRow(games, 1) == nil
		})
	}
}

// "Combinations that make no sense ... yield ErrInvalidOption naming both"; values that
// an option does not take; "The same option twice: the last wins."
func TestOptionsThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []FeedOption
		want string // "": it is none
	}{
		{"After with IncludeInitial", []FeedOption{After(0), IncludeInitial()}, "After with IncludeInitial: a stream begins either after a position or with the present rows"},
		{"in the other order", []FeedOption{IncludeInitial(), After(0)}, "After with IncludeInitial: a stream begins either after a position or with the present rows"},
		{"OnOverflow with Squash", []FeedOption{OnOverflow(Fail), Squash(0)}, "OnOverflow with Squash: a squashed feed never overflows"},
		{"in the other order", []FeedOption{Squash(time.Second), OnOverflow(Resync)}, "OnOverflow with Squash: a squashed feed never overflows"},
		{"also the default", []FeedOption{Squash(0), OnOverflow(Skip)}, "OnOverflow with Squash: a squashed feed never overflows"},
		{"a negative wait", []FeedOption{Squash(-time.Second)}, "Squash(-1s): must not be negative"},
		{"the last is negative", []FeedOption{Squash(0), Squash(-1)}, "Squash(-1ns): must not be negative"},
		{"the last is not", []FeedOption{Squash(-1), Squash(0)}, ""},
		{"no policy", []FeedOption{OnOverflow(Resync + 1)}, "OnOverflow(Overflow(3)): must be Skip, Fail or Resync"},
		{"the last is none", []FeedOption{OnOverflow(Fail), OnOverflow(9)}, "OnOverflow(Overflow(9)): must be Skip, Fail or Resync"},
		{"the last is one", []FeedOption{OnOverflow(9), OnOverflow(Fail)}, ""},
		{"the last After", []FeedOption{After(99), After(0)}, ""},
		{"the last After is beyond", []FeedOption{After(0), After(99)}, "After(99): the table is only at 1"},
		{"Buffer with Squash", []FeedOption{Buffer(0), Squash(0)}, "Buffer(0): must be at least 1"},
		{"all that go together", []FeedOption{Buffer(1), Named("a"), IncludeInitial(), Squash(0), Poll(nil)}, ""},
		{"all others that do", []FeedOption{Buffer(1), Named("a"), After(0), OnOverflow(Fail), Poll(nil)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newOptionGames()
			feedWrites(t, games.Table, 1)
			for _, sel := range optionSelections {
				feed, batches := sel.of(games).Changes(t.Context(), test.opts...), sel.of(games).Batches(t.Context(), 3, test.opts...)
				if test.want == "" {
					require.Len(t, games.Feeds(), 2)
					runtime.KeepAlive(feed)
					runtime.KeepAlive(batches)
					collectOptionFeeds(games.Table, 0)
					continue
				}
				require.Empty(t, games.Feeds())
				for _, s := range []Stream[Change[game]]{feed, unbatch(batches)} {
					for range 2 {
						pairs := take(s, -1)
						require.Len(t, pairs, 1)
						require.Zero(t, pairs[0].v)
						require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
						require.EqualError(t, pairs[0].err, `changefeed: changes of "games": invalid option: `+test.want)
					}
				}
			}
		})
	}
}

// The last of an option given twice counts, for each of them.
func TestTheLastOptionWins(t *testing.T) {
	games := newGames()
	games.Retain(10)
	feedWrites(t, games, 3)
	first, last := make(chan struct{}, 1), make(chan struct{}, 1)
	after := games.Changes(t.Context(), After(0), After(2), Poll(first), Poll(last))
	require.Equal(t, "3", feedAll(after))
	squashed := games.Changes(t.Context(), Squash(time.Hour), Squash(0), Poll(nil))
	feedWrites(t, games, 2)
	require.Equal(t, []int{0, 1}, []int{len(first), len(last)})
	require.Equal(t, "5", feedAll(squashed))
	runtime.KeepAlive(after)
}

// "All options combine with all selections, or the combination is refused": the law of
// all of them is that who folds the feed has the selection's rows. F1, F2
func TestAllOptionsCombine(t *testing.T) {
	random := newRand(t)
	type choice struct {
		name string
		opt  FeedOption
	}
	nothing := choice{"", func(*feedConfig) {}}
	begins := []choice{nothing, {"IncludeInitial", IncludeInitial()}, {"After", After(10)}}
	squashes := []choice{nothing, {"Squash", Squash(0)}}
	policies := []choice{nothing, {"Skip", OnOverflow(Skip)}, {"Fail", OnOverflow(Fail)}, {"Resync", OnOverflow(Resync)}}
	polls := []choice{nothing, {"Poll", Poll(nil)}}
	buffers := []choice{nothing, {"Buffer(7)", Buffer(7)}}
	reached := make(map[string]int)
	for _, sel := range optionSelections {
		for _, begin := range begins {
			for _, squash := range squashes {
				for _, policy := range policies {
					for _, poll := range polls {
						for _, buffer := range buffers {
							for max := range 4 {
								if squash.name != "" && policy.name != "" {
									continue
								}
								if buffer.name != "" && squash.name == "" && (policy.name != "Resync" || poll.name == "") {
									continue // what is lost is lost, and after the drop Resync is as Skip
								}
								name := fmt.Sprint(sel.name, " ", begin.name, " ", squash.name, " ", policy.name, " ", poll.name, " ", buffer.name, " ", max)
								games := newOptionGames()
								games.Retain(100)
								var past map[int]game
								for i := range 14 {
									if i == 10 {
										past = sel.content(games)
									}
									games.change(t, random)
								}
								opts := []FeedOption{begin.opt, squash.opt, policy.opt, poll.opt, buffer.opt}
								var feed Stream[Change[game]]
								if max == 0 {
									feed = sel.of(games).Changes(t.Context(), opts...)
								} else {
									feed = unbatch(sel.of(games).Batches(t.Context(), max, opts...))
								}
								fold := optionFold{rows: past}
								switch begin.name {
								case "":
									fold.rows = sel.content(games)
								case "IncludeInitial":
									fold.rows = make(map[int]game)
								}
								read := func() {
									for c, err := range feed {
										fold.take(t, c, err)
									}
								}
								for range 3 {
									if poll.name != "" {
										read()
										require.Equal(t, sel.content(games), fold.rows, name)
									}
									for range 1 + random.IntN(9) {
										games.change(t, random)
									}
								}
								if poll.name != "" {
									read()
								}
								content := sel.content(games)
								games.Drop()
								read()
								require.Equal(t, "dropped", fold.words[len(fold.words)-1], name)
								require.Equal(t, content, fold.rows, name)
								for _, word := range fold.words {
									reached[word[:1]]++
								}
							}
						}
					}
				}
			}
		}
	}
	requireOutcomes(t, reached, "+", "=", "-", "r", "s", "d")
}

// A context that ends while a feed waits to begin anew comes before its notice, and
// nothing is held.
func TestResyncOfAFeedWhoseContextEnds(t *testing.T) {
	games := newGames()
	ctx, cancel := context.WithCancel(t.Context())
	feed := games.Changes(ctx, Buffer(2), OnOverflow(Resync))
	feedWrites(t, games, 10)
	sub := games.feeds.all()[0]
	told := make(chan string)
	games.mu.Lock()
	go func() { told <- feedAll(feed) }()
	for sub.window.skipped.Load() == 0 {
		runtime.Gosched() // until it has seen the gap, and waits for the lock
	}
	cancel()
	for sub.window.page.Load() != nil {
		runtime.Gosched()
	}
	games.mu.Unlock()
	require.Equal(t, "context canceled", <-told)
	require.Nil(t, sub.initial.Load())
}

// Numbers that no buffer will ever reach do not run over.
func TestAHugeBufferBesideRetain(t *testing.T) {
	games := newGames()
	games.Retain(10)
	feedWrites(t, games, 3)
	feed := games.Changes(t.Context(), After(0), Buffer(math.MaxInt))
	require.Equal(t, FeedInfo{Buffered: 3, Capacity: math.MaxInt}, games.Feeds()[0])
	require.Equal(t, "1 2 3", feedWords(feed, 3))
}
