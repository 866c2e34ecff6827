package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

var errTakenBack = errors.New("taken back")

// "If fn returns an error, Transact rolls the writes back", and "if fn panics, it rolls them
// back, too", or ends its goroutine: "every table, index, sequence number and feed is then
// as it was", to the spelling of keys that are equal. T4
func TestATransactionThatFailsLeavesAllAsItWas(t *testing.T) {
	type inGames = TxTable[int, game]
	type inUsers = TxTable[string, user]
	ok := func(_ any, err error) { require.NoError(t, err) }
	value := errors.New("the value that the caller gets")
	for name, write := range map[string]func(games inGames, users inUsers){
		"no writes": func(inGames, inUsers) {},
		"writes of each kind": func(games inGames, users inUsers) {
			ok(games.Insert(game{4, "Eve", 40})) // a feed follows the rows 1 and 4
			ok(games.Insert(game{5, "Bob", 50}))
			ok(games.Delete(1))
			ok(games.Update(2, func(g *game) { g.Player, g.Score = "Ann", 1 }))
			ok(games.Compute(3, func(*game) *game { return nil }))
			ok(users.Insert(user{"Dan", "x"}))
			ok(users.Delete("BOB"))
			ok(users.Replace(user{"ANN", "y"}))
			ok(users.Compute("carl", func(*user) *user { return &user{"CARL", "y"} }))
		},
		"there and back": func(games inGames, users inUsers) {
			ok(games.Delete(1))
			ok(games.Insert(game{1, "Bob", 10}))
			ok(games.Insert(game{4, "Eve", 40}))
			ok(games.Delete(4))
			ok(users.Delete("bOB"))
			ok(users.Insert(user{"BoB", "x"}))
			ok(users.Insert(user{"eve", "x"}))
			ok(users.Upsert(user{"EvE", "x"}))
		},
		"many writes": func(games inGames, users inUsers) {
			for i := range 1000 {
				ok(games.Upsert(game{1, []string{"Bob", "Ann"}[i%2], 100 + i}))
				ok(games.Insert(game{10 + i, "Bob", 100 + i}))
				ok(users.Upsert(user{"Bob", strconv.Itoa(i)}))
			}
		},
	} {
		for how, fail := range map[string]func() error{
			"error":  func() error { return errTakenBack },
			"panic":  func() error { panic(value) },
			"Goexit": func() error { runtime.Goexit(); return nil },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				b, users := newBoard(), newUsers()
				for i, name := range []string{"Ann", "Bob", "Carl"} {
					must[game](t)(b.Insert(game{i + 1, "Bob", 10 * (i + 1)}))
					must[user](t)(users.Insert(user{name, "x"}))
				}
				var feeds []Stream[Change[game]]
				for _, s := range []Selection[int, game]{b.Selection(), b.Row(1), b.Row(4), b.Range(1, 5), b.players.Equal("Bob"), b.Where(isBob)} {
					feeds = append(feeds, s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Poll(nil), Squash(0)))
				}
				userFeed := users.Changes(t.Context(), Poll(nil))
				requireNoChange := func() {
					for _, feed := range feeds {
						require.Empty(t, allOf(feed))
					}
					require.Empty(t, take(userFeed, -1))
				}
				games, beforeUsers := stateOf(b.Table), stateOf(users)
				var err error
				returned, recovered := runAside(func() {
					err = Transact(func(tx *Tx) error {
						write(b.In(tx), users.In(tx))
						requireNoChange()
						return fail()
					}, users, b)
				})
				require.Equal(t, how == "error", returned)
				require.True(t, how != "error" || err == errTakenBack, "the error is returned as it is")
				require.True(t, how != "panic" || recovered == any(value))
				requireState(t, games, b.Table)
				requireState(t, beforeUsers, users)
				requireNoChange()
				b.requireIndexes(t)
				require.Equal(t, []string{"Ann", "Bob", "Carl"}, slices.Sorted(maps.Keys(maps.Collect(users.All()))))

				require.Equal(t, uint64(4), must[game](t)(b.Upsert(game{1, "Bob", 15})).Seq, "no number was used")
				require.Equal(t, "4", allOf(feeds[0]))
				require.NoError(t, Transact(func(tx *Tx) error { // the next transaction
					write(b.In(tx), users.In(tx))
					return nil
				}, b, users))
				b.requireIndexes(t)
			})
		}
	}
}

// "A range sees the table with the writes of the transaction up to the beginning of the
// range. The loop's body may write to the table." A range that began before the transaction
// sees none of its writes.
func TestARangeInATransactionMayWrite(t *testing.T) {
	for _, result := range []error{nil, errTakenBack} {
		games := newGames()
		insertRows(t, games, newRand(t).Perm(200)...)
		before := rowsOf(t, games.All())
		next, stop := iter.Pull2(games.All()) // begun before, read after
		_, first, _ := next()
		require.Equal(t, result, Transact(func(tx *Tx) error {
			w := games.In(tx)
			must[game](t)(w.Delete(199))
			var got []game
			for id, g := range w.All() {
				require.Equal(t, game{ID: id}, g)
				got = append(got, g)
				must[game](t)(w.Delete(id))
				must[game](t)(w.Upsert(game{ID: (id + 1) % 199, Score: 1}))
				must[game](t)(w.Insert(game{ID: 1000 + id}))
				if id == 100 {
					require.Equal(t, w.Len(), len(rowsOf(t, w.All())), "a range within sees what was written until here")
				}
			}
			require.Equal(t, before[:199], got)
			return result
		}, games))
		rest := []game{first}
		for _, g, ok := next(); ok; _, g, ok = next() {
			rest = append(rest, g)
		}
		stop()
		require.Equal(t, before, rest)
		if result != nil {
			require.Equal(t, before, rowsOf(t, games.All()), "no snapshot of what was taken back is left")
		}
		require.Equal(t, games.Len(), len(rowsOf(t, games.All())))
	}
}

// A write that fails or panics changes nothing in the transaction, which may go on. The
// error that fn returns is returned as it is.
func TestFailedWritesInATransaction(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	feed := games.Changes(t.Context(), Poll(nil))
	var failed error
	write := func(tx *Tx) error {
		w := games.In(tx)
		must[game](t)(w.Insert(game{ID: 4}))
		_, failed = w.Insert(game{ID: 1})
		require.ErrorIs(t, failed, ErrDuplicateKey)
		require.PanicsWithValue(t, "in edit", func() { _, _ = w.Update(4, func(g *game) { g.Score = 7; panic("in edit") }) })
		must[game](t)(w.Update(4, func(g *game) { g.Score++ }))
		return nil
	}
	require.True(t, Transact(func(tx *Tx) error { _ = write(tx); return failed }, games) == failed)
	require.NoError(t, Transact(write, games))
	require.Equal(t, "+2 3", allOf(feed))
	require.Equal(t, []game{{ID: 1}, {ID: 4, Score: 1}}, rowsOf(t, games.All()))
}

// "No feed can yield the first change of a transaction before it can yield the last", and a
// batch has all of them, however few it may have.
func TestATransactionIsNeverSplit(t *testing.T) {
	const n = 300 // more than a page
	for name, opts := range map[string][]FeedOption{
		"plain": nil, "Squash": {Squash(0)}, "IncludeInitial": {IncludeInitial()}, "After": nil,
		"After and Squash": {Squash(0)}, "Resync": {OnOverflow(Resync)},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard()
			b.Retain(1000)
			must[game](t)(b.Insert(game{-1, "Bob", 1}))
			if strings.HasPrefix(name, "After") {
				opts = append(opts, After(b.At(1)))
			}
			limits := []int{1, 2, 256, 257, 1000}
			var feeds []Stream[[]Change[game]]
			for _, s := range []Selection[int, game]{b.Selection(), b.Range(-1, n), b.players.Equal("Bob"), b.Where(isBob)} {
				for _, limit := range limits {
					feeds = append(feeds, s.Batches(t.Context(), limit, append(opts, Poll(nil))...))
				}
			}
			requireSizes := func(want func(limit int) []int) {
				t.Helper()
				for i, feed := range feeds {
					var sizes []int
					for batch, err := range feed {
						require.NoError(t, err)
						sizes = append(sizes, len(batch))
					}
					require.Equal(t, want(limits[i%len(limits)]), sizes, "feed %d", i)
				}
			}
			nothing := func(int) []int { return nil }
			divided := func(limit int) []int {
				if limit == 1 {
					return []int{1, 1}
				}
				return []int{2}
			}
			if name == "IncludeInitial" {
				requireSizes(divided)
			}
			require.NoError(t, Transact(func(tx *Tx) error {
				for id := range n {
					must[game](t)(b.In(tx).Insert(game{id, "Bob", id}))
				}
				requireSizes(nothing)
				return nil
			}, b))
			requireSizes(func(int) []int { return []int{n} })
			must[game](t)(b.Delete(0))
			must[game](t)(b.Delete(1))
			requireSizes(divided) // single writes are divided
		})
	}
}

// A transaction locks its tables in the order in which they were made, however they are
// given, so it holds none that comes after one for which it waits: transactions do not
// deadlock. "A table that is passed twice counts once."
func TestATransactionHoldsNoTableWhileItWaitsForAnEarlierOne(t *testing.T) {
	first, second, third := newGames(), newUsers(), newGames()
	var seen []uint64
	for _, tables := range [][]AnyTable{{first, second, third}, {third, second, first}, {second, third, first, second, third}} {
		require.NoError(t, Transact(func(tx *Tx) error {
			seen = nil
			for _, t := range tx.tables {
				seen = append(seen, t.lockOrder())
			}
			return nil
		}, tables...))
		require.Equal(t, []uint64{first.lockID, second.lockID, third.lockID}, seen, "in order, each once")
	}
	first.mu.Lock()
	began := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		close(began)
		_ = Transact(func(*Tx) error { return nil }, third, second, first)
	})
	<-began
	for range 100 {
		for _, mu := range []*domainLock{&second.mu, &third.mu} {
			if !mu.TryLock() {
				first.mu.Unlock()
				t.Fatal("a later table is locked")
			}
			mu.Unlock()
		}
		runtime.Gosched()
	}
	first.mu.Unlock()
	wg.Wait()
}

// "If one of the tables is dropped, Transact returns [ErrTableDropped] and does not call
// fn." The other tables are as they were.
func TestATransactionOnADroppedTable(t *testing.T) {
	for i := range 3 {
		tables := []*Table[int, game]{newGames(), newGames(), newGames()}
		tables[i].Drop()
		err := Transact(func(*Tx) error { t.Error("fn was called"); return nil }, tables[2], tables[0], tables[1])
		require.EqualError(t, err, `changefeed: transaction on "games": table dropped`)
		require.ErrorIs(t, err, ErrTableDropped)
		for j, table := range tables {
			require.False(t, table.tx.running())
			_, err := table.Insert(game{ID: 1})
			require.Equal(t, i == j, err != nil)
		}
	}
}

// Misuse panics, and leaves the tables free and as they were.
func TestMisuseOfATransactionPanicsAndSaysWhatToDo(t *testing.T) {
	games, other := newGames(), NewTable("others", func(g *game) int { return g.ID })
	insertRows(t, games, 1)
	before, beforeOther := stateOf(games), stateOf(other)
	nothing := func(*Tx) error { t.Error("fn was called"); return nil }
	for _, test := range []struct {
		text   string
		misuse func()
	}{
		{"changefeed: Transact: nil function; pass one that writes to the tables", func() { _ = Transact(nil, games) }},
		{"changefeed: Transact: nil table", func() { _ = Transact(nothing, games, nil) }},
		{"changefeed: nil table", func() { _ = Transact(nothing, (*Table[int, game])(nil), games) }},
		{"changefeed: Table.In: nil transaction; pass the one that Transact or Read passes to its function", func() { games.In(nil) }},
		{`changefeed: Table.In: the table "others" is not in the transaction; pass it to Transact or Read`, func() {
			_ = Transact(func(tx *Tx) error {
				must[game](t)(games.In(tx).Insert(game{ID: 2}))
				other.In(tx)
				return nil
			}, games)
		}},
		{"changefeed: Table.Update: nil function; pass one that edits the row", func() {
			_ = Transact(func(tx *Tx) error { _, err := games.In(tx).Update(1, nil); return err }, games)
		}},
		{"changefeed: Table.Compute: nil function; pass one that returns the new row", func() {
			_ = Transact(func(tx *Tx) error { _, err := games.In(tx).Compute(1, nil); return err }, games)
		}},
	} {
		require.PanicsWithValue(t, test.text, test.misuse)
		requireState(t, before, games)
		requireState(t, beforeOther, other)
	}

	var old *Tx
	var w TxTable[int, game]
	var all iter.Seq2[int, game]
	enter := func(tx *Tx) { old, w, all = tx, games.In(tx), games.In(tx).All() }
	for how, run := range map[string]func(){
		"success": func() { require.NoError(t, Transact(func(tx *Tx) error { enter(tx); return nil }, games)) },
		"error":   func() { require.Error(t, Transact(func(tx *Tx) error { enter(tx); return errTakenBack }, games)) },
		"panic": func() {
			require.Panics(t, func() { _ = Transact(func(tx *Tx) error { enter(tx); panic("in fn") }, games) })
		},
	} {
		run()
		for name, use := range map[string]func(){
			"In":      func() { games.In(old) },
			"Insert":  func() { _, _ = w.Insert(game{ID: 2}) },
			"Upsert":  func() { _, _ = w.Upsert(game{ID: 1, Score: 1}) },
			"Update":  func() { _, _ = w.Update(1, func(*game) { t.Error("edit was called") }) },
			"Replace": func() { _, _ = w.Replace(game{ID: 1, Score: 1}) },
			"Delete":  func() { _, _ = w.Delete(1) },
			"Compute": func() { _, _ = w.Compute(1, func(*game) *game { t.Error("f was called"); return nil }) },
			"Get":     func() { w.Get(1) },
			"Len":     func() { w.Len() },
			"All":     func() { _ = maps.Collect(all) },
		} {
			require.PanicsWithValue(t, `changefeed: the table "games" is used in a Transact or Read that has ended`, use, "%s after %s", name, how)
			requireState(t, before, games)
		}
	}
	require.NoError(t, Transact(func(*Tx) error { return nil }), "Without a table, it only calls fn")
	require.Equal(t, errTakenBack, Transact(func(*Tx) error { return errTakenBack }))
}

// Of a transaction larger than a feed's buffer exactly the newest changes are left, after
// one notice with the exact count.
func TestATransactionBeyondTheBuffer(t *testing.T) {
	runScripts(t,
		feedTest{name: "with a backlog", opts: []FeedOption{Buffer(3)}, do: `
			write 3; open; write 1; read 1: 4; write 1; tx write 10; read 2: skip8(5-12) 13
			tx write 2; drop; read: skip1(14-14) 15 16 17 dropped`},
		feedTest{name: "of one row", of: func(b board) Selection[int, game] { return b.Row(1) }, opts: []FeedOption{Buffer(2)}, do: `
			open; tx put 1, put 2, set 1 5, set 2 5, set 1 6, set 2 6, set 1 7; drop; read: skip2(1-4) 5 7 dropped`},
		feedTest{name: "over many pages", opts: []FeedOption{Buffer(257)}, do: `
			write 3; open; tx write 2000; drop; read: skip1743(4-1746) ` + strings.Join(writeWords(1747, 2003), " ") + " dropped"},
	)
}

// A rollback calls no function of a row, of a key or of an index. T4
func TestARollbackCallsNoFunction(t *testing.T) {
	for _, how := range []string{"error", "panic", "Goexit"} {
		t.Run(how, func(t *testing.T) {
			over := false
			call := func() { require.False(t, over, "called in a rollback") }
			docs := NewTable("docs", func(d *doc) int { call(); return d.ID })
			names := NewIndex(docs, "name", func(d *doc) string { call(); return d.Name })
			tags := NewMultiIndex(docs, "tag", func(d *doc) []string { call(); return d.Tags })
			unique, err := NewUniqueIndex(docs, "unique", func(d *doc) string { call(); return d.Name })
			require.NoError(t, err)
			for i, name := range []string{"Ann", "Bob", "Carl"} {
				must[doc](t)(docs.Insert(doc{ID: i, Name: name, Tags: []string{name, "a", "z"}}))
			}
			var feeds []Stream[Change[doc]]
			for _, s := range []Selection[int, doc]{docs.Selection(), docs.Row(4), docs.From(1), names.Equal("Bob"), tags.From("a"), unique.Range("A", "D")} {
				feeds = append(feeds, s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Poll(nil), Squash(0)))
			}
			before := stateOf(docs)
			runAside(func() {
				_ = Transact(func(tx *Tx) error {
					w := docs.In(tx)
					for i := range 400 {
						must[doc](t)(w.Upsert(doc{ID: i % 4, Name: fmt.Sprint("new", i), Tags: []string{"b", fmt.Sprint(i % 10)}}))
					}
					must[doc](t)(w.Update(1, func(d *doc) { d.Tags = append(d.Tags, "a", "c") }))
					must[doc](t)(w.Delete(2))
					must[doc](t)(w.Delete(3))
					require.Len(t, maps.Collect(w.All()), 2) // the rows are cloned
					must[doc](t)(w.Insert(doc{ID: 2, Name: "Dan"}))
					must[doc](t)(w.Insert(doc{ID: 4, Name: "Eve", Tags: []string{"z"}}))
					over = true
					switch how {
					case "panic":
						panic(errTakenBack)
					case "Goexit":
						runtime.Goexit()
					}
					return errTakenBack
				}, docs)
			})
			require.True(t, over)
			over = false
			requireState(t, before, docs)
			for _, feed := range feeds {
				require.Empty(t, take(feed, -1))
			}
			for _, x := range []*Index[string, int, doc]{names, unique} {
				requireIndex(t, x, func(d *doc) []string { return []string{d.Name} })
			}
			requireIndex(t, tags, func(d *doc) []string { return d.Tags })
		})
	}
}

// A rollback takes back the values that a write put into an index, whatever the index's
// function returns for the row afterwards.
func TestARollbackTakesBackTheValuesThatWereWritten(t *testing.T) {
	games := newGames()
	next := 0
	value := func(*game) int { next++; return next }
	once := NewIndex(games, "once", value)
	several := NewMultiIndex(games, "several", func(g *game) []int { return []int{value(g), value(g)} })
	insertRows(t, games, 0, 1, 2)
	before, beforeSeveral := entriesOf(once), entriesOf(several)
	require.Equal(t, errTakenBack, Transact(func(tx *Tx) error {
		must[game](t)(games.In(tx).Insert(game{ID: 3}))
		must[game](t)(games.In(tx).Insert(game{ID: 4}))
		return errTakenBack
	}, games))
	require.Equal(t, before, entriesOf(once))
	require.Equal(t, beforeSeveral, entriesOf(several))
}

// A panic in the rollback of one table, which only a compare function can cause, reaches
// the caller. The other tables are rolled back, before and after that one, and all are
// free. T4
func TestAPanicInTheRollbackOfATableLeavesNoOtherOneHalfDone(t *testing.T) {
	for bad := range 3 {
		t.Run(fmt.Sprint("table ", bad), func(t *testing.T) {
			over, value := false, errors.New("in compare")
			var tables []*Table[int, game]
			var given []AnyTable
			var feeds []Stream[Change[game]]
			var before []tableState[game]
			var scores []*Index[int, int, game]
			for i := range 3 {
				games := NewTableFunc("games", func(g *game) int { return g.ID }, func(a, b int) int {
					if over && i == bad {
						panic(value)
					}
					return a - b
				})
				scores = append(scores, NewIndex(games, "score", func(g *game) int { return g.Score }))
				insertRows(t, games, 1, 2)
				feeds = append(feeds, games.Changes(t.Context(), Poll(nil)))
				tables, given, before = append(tables, games), append(given, games), append(before, stateOf(games))
			}
			require.PanicsWithValue(t, value, func() {
				_ = Transact(func(tx *Tx) error {
					for _, games := range tables {
						w := games.In(tx)
						must[game](t)(w.Insert(game{ID: 3}))
						must[game](t)(w.Update(1, func(g *game) { g.Score = 1 }))
						must[game](t)(w.Delete(2))
					}
					over = true
					return errTakenBack
				}, given...)
			})
			over = false
			for i, games := range tables {
				require.True(t, games.mu.TryLock(), "the lock of table %d must be free", i)
				require.False(t, games.tx.running())
				games.outbox.requireEmpty(t)
				games.mu.Unlock()
				require.Empty(t, allOf(feeds[i]))
				if i != bad {
					requireState(t, before[i], games)
				}
				c := must[game](t)(games.Insert(game{ID: 4, Score: 9}))
				require.Equal(t, uint64(3), c.Seq)
				for _, e := range entriesOf(scores[i]) { // that of the bad table may have entries without a row
					require.Equal(t, e.key == 4, e.value == 9, "the plan of a write that was not taken back must not be left")
				}
			}
		})
	}
}

// A panic at the end of a transaction that has committed, which only a compare function can cause, reaches the caller. The
// transaction has ended in all tables, and they are free.
func TestAPanicAtTheEndOfATransactionLeavesNoTableInIt(t *testing.T) {
	for bad := range 3 {
		over, value := false, errors.New("in compare")
		var tables []*Table[int, game]
		var given []AnyTable
		for i := range 3 {
			games := NewTableFunc("games", func(g *game) int { return g.ID }, func(a, b int) int {
				if over && i == bad {
					panic(value)
				}
				return a - b
			})
			insertRows(t, games, 1, 2)
			tables, given = append(tables, games), append(given, games)
		}
		require.PanicsWithValue(t, value, func() {
			_ = Transact(func(tx *Tx) error {
				for _, games := range tables {
					must[game](t)(games.In(tx).Delete(2)) // its cell is removed at the end
				}
				over = true
				return nil
			}, given...)
		})
		over = false
		for i, games := range tables {
			require.True(t, games.mu.TryLock(), "the lock of table %d must be free", i)
			require.False(t, games.tx.running(), "table %d", i)
			games.mu.Unlock()
			require.Equal(t, 1, games.Len())
			insertRows(t, games, 2, 3)
		}
	}
}

// What a large transaction needed is released when it is over, also if it is taken
// back: neither the rows that it replaced nor the space for its list is held, and in an
// index neither their values nor the space for those.
func TestALargeTransactionLeavesNoSpaceBehind(t *testing.T) {
	for _, result := range []error{nil, errTakenBack} {
		games := newGames()
		NewIndex(games, "score", func(g *game) int { return g.Score })
		NewMultiIndex(games, "digits", digits)
		must[game](t)(games.Insert(game{ID: 1}))
		feed := games.Changes(t.Context(), Buffer(1))
		held := heldBy(func() {
			require.Equal(t, result, Transact(func(tx *Tx) error {
				for i := range 100_000 {
					must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: i + 1}))
				}
				return result
			}, games))
		})
		require.Less(t, held, 500_000, "the transaction ends with %v", result)
		runtime.KeepAlive(feed)
		runtime.KeepAlive(games)
	}
}

// A transaction wakes the loops that wait, once in each ring and when all locks are free, and
// none whose part it does not touch. One that fails wakes none.
func TestATransactionWakesItsReadersOnce(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games, others := newGames(), newGames()
		insertRows(t, games, 1, 2)
		insertRows(t, others, 1)
		ctx, cancel := context.WithCancel(t.Context())
		type readers struct {
			want, squashed string
			loops          []*follower
			wakes          []chan struct{}
			s              Selection[int, game]
		}
		tests := []*readers{
			{want: "3 4 5", squashed: "5", s: games.Selection()},
			{want: "3 4 5", squashed: "5", s: games.Row(1)},
			{want: "", squashed: "", s: games.Row(2)},
			{want: "3 4 5", squashed: "5", s: games.Range(1, 3)},
			{want: "2", squashed: "2", s: others.Selection()},
		}
		free := func(string) bool { games.Seq(); others.Seq(); return true }
		var polls []Stream[Change[game]]
		for _, r := range tests {
			for _, opts := range [][]FeedOption{nil, {Squash(0)}} {
				wake := make(chan struct{}, 100)
				poll := r.s.Changes(ctx, append(opts, Poll(wake))...)
				require.Empty(t, allOf(poll))
				r.wakes, polls = append(r.wakes, wake), append(polls, poll)
				for range 5 {
					r.loops = append(r.loops, follow(r.s.Changes(ctx, opts...), free))
				}
			}
		}
		synctest.Wait()
		requireRead := func(done bool) {
			synctest.Wait()
			for _, r := range tests {
				for i, loop := range r.loops {
					want := []string{r.want, r.squashed}[i/5]
					if !done {
						want = ""
					}
					require.Equal(t, want, loop.String())
					require.Len(t, r.wakes[i/5], min(1, len(want)))
				}
			}
		}
		for _, result := range []error{errTakenBack, nil} {
			require.Equal(t, result, Transact(func(tx *Tx) error {
				for i := range 3 {
					must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: i + 1}))
				}
				must[game](t)(others.In(tx).Upsert(game{ID: 1, Score: 1}))
				requireRead(false)
				return result
			}, games, others))
			requireRead(result == nil)
		}
		cancel()
		runtime.KeepAlive(polls)
	})
}

// A feed that ends during a transaction, and one that begins after it, do not disturb each
// other.
func TestAFeedThatEndsDuringATransaction(t *testing.T) {
	for _, commit := range []bool{true, false} {
		b := newBoard()
		ctx, cancel := context.WithCancel(t.Context())
		ending := []Stream[Change[game]]{
			b.Changes(ctx), b.Row(1).Changes(ctx), b.Range(0, 5).Changes(ctx), b.players.Equal("Bob").Changes(ctx, Squash(0)), b.digits.From(0).Changes(ctx),
		}
		staying := b.Range(0, 5).Changes(t.Context(), Poll(nil))
		var result error
		if !commit {
			result = errTakenBack
		}
		require.Equal(t, result, Transact(func(tx *Tx) error {
			for i := range 20 {
				must[game](t)(b.In(tx).Upsert(game{1, "Bob", i + 1}))
				if i == 10 {
					cancel()
					for len(b.allSubscriptions()) > 1 {
						runtime.Gosched()
					}
				}
			}
			return result
		}, b))
		for _, feed := range ending {
			require.Equal(t, "context canceled", allOf(feed))
		}
		collected(t, "a scope is left", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return scopeOfRow(b.Table, 1) == nil && b.players.scopes.root == nil && b.digits.scopes.root == nil
		})
		later := b.Changes(t.Context(), Poll(nil))
		made := must[game](t)(b.Upsert(game{1, "Ann", 99}))
		require.Equal(t, wordOf(made, nil), allOf(later))
		if commit {
			require.Equal(t, strings.Join(writeWords(1, 21), " "), allOf(staying))
		} else {
			require.Equal(t, "+1", allOf(staying))
		}
		b.requireIndexes(t)
	}
}

// A write in a function that another write to the table calls panics, because the outer
// write would continue with a row that is not stored any more. The transaction is rolled
// back. T4
func TestAWriteWithinAWriteOfATransactionPanics(t *testing.T) {
	for _, nested := range []func(x TxTable[int, game]){
		func(x TxTable[int, game]) { _, _ = x.Delete(1) },
		func(x TxTable[int, game]) { _, _ = x.Update(1, func(g *game) { g.Score = 50 }) },
		func(x TxTable[int, game]) { _, _ = x.Insert(game{ID: 2}) },
	} {
		games := newGames()
		players := NewIndex(games, "score", func(g *game) int { return g.Score })
		must[game](t)(games.Insert(game{ID: 1, Score: 1}))
		before := stateOf(games)
		require.PanicsWithValue(t, `changefeed: a function that a write to the table "games" calls writes to the same table; write before or after it`, func() {
			_ = Transact(func(tx *Tx) error {
				x := games.In(tx)
				_, err := x.Update(1, func(g *game) {
					nested(x)
					g.Score = 2
				})
				return err
			}, games)
		})
		requireState(t, before, games)
		require.Equal(t, 1, players.From(0).Len())
		must[game](t)(games.Insert(game{ID: 2})) // the table is as good as before
	}
}

// The end of a feed does not wait for the table's lock: its loop ends at once, and its
// scope goes when the lock is free.
func TestAFeedEndsWhileTheTableIsLocked(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{ID: 1}))
	ctx, cancel := context.WithCancel(t.Context())
	loops := []Stream[Change[game]]{
		games.Changes(ctx), games.Row(1).Changes(ctx), games.Range(1, 2).Changes(ctx), games.Changes(ctx, Squash(0)),
	}
	must[game](t)(games.Update(1, func(g *game) {
		g.Score = 1
		cancel()
		for _, loop := range loops {
			require.Equal(t, "context canceled", allOf(loop))
		}
	}))
	collected(t, "the scopes", func() bool {
		games.mu.RLock()
		defer games.mu.RUnlock()
		return scopeOfRow(games, 1) == nil && games.ranges.root == nil && len(games.allScope.squashes) == 0
	})
}
