package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
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

// A txTables is two tables of different types with an index each, one of them unique,
// and feeds of all kinds on them.
type txTables struct {
	uniqueBoard
	users *Table[string, selUser]
	mails *Index[string, string, selUser]

	gameFeeds []Stream[Change[game]]
	userFeeds []Stream[Change[selUser]]
}

// newTxTables returns them with three rows each. Row 4 and user Eve are followed, and
// not there.
func newTxTables(t *testing.T) *txTables {
	x := &txTables{uniqueBoard: newUniqueBoard(t), users: newUsers()}
	x.mails = NewIndex(x.users, "mail", func(u *selUser) string { return u.Mail })
	for _, name := range []string{"Ann", "Bob", "Carl"} {
		must[selUser](t)(x.users.Insert(selUser{name, "x"}))
	}
	for _, s := range []Selection[int, game]{
		x.all(), x.Row(1), x.Row(4), x.Range(1, 5), x.players.Equal("Bob"), x.scores.From(10), x.unique.Equal(10), x.Where(isBob),
	} {
		x.gameFeeds = append(x.gameFeeds, s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Poll(nil), Squash(0)))
	}
	for _, s := range []Selection[string, selUser]{x.users.all(), x.users.Row("bob"), x.users.Row("EVE"), x.users.From("a"), x.mails.Equal("x")} {
		x.userFeeds = append(x.userFeeds, s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Poll(nil), Squash(0)))
	}
	return x
}

// state tells all that a transaction may change.
func (x *txTables) state() []string {
	return slices.Concat(x.uniqueBoard.state(), tableLines(x.users), linesOf("mail", entriesOf(x.mails)))
}

// requireUntouched requires that all is as it was, to the keys as they were written.
func (x *txTables) requireUntouched(t *testing.T, was []string) {
	t.Helper()
	for _, mu := range []*tableMutex{&x.mu, &x.users.mu} {
		require.True(t, mu.TryLock(), "the lock must be free")
		mu.Unlock()
	}
	require.Equal(t, was, x.state())
	for _, feed := range x.gameFeeds {
		require.Empty(t, selTold(feed))
	}
	for _, feed := range x.userFeeds {
		require.Empty(t, kindsOf(feed))
	}
	var names []string
	for name := range x.users.All() {
		names = append(names, name)
	}
	require.Equal(t, []string{"Ann", "Bob", "Carl"}, names)
	for i, want := range []string{"1", "2", "3"} {
		require.Equal(t, want, fmt.Sprint(rowsOf(t, x.all().All())[i].ID))
	}
}

// "An error or a panic leaves every table, index, sequence and feed as they were", and
// so does runtime.Goexit; T4. The writes are of each kind, on rows that are there, that
// are not, that are followed and that are not, and several to one.
func TestATransactionThatFailsLeavesAllAsItWas(t *testing.T) {
	type writes func(games TxTable[int, game], users TxTable[string, selUser])
	ok := func(c any, err error) { require.NoError(t, err) }
	for _, test := range []struct {
		name string
		do   writes
	}{
		{"nothing", func(TxTable[int, game], TxTable[string, selUser]) {}},
		{"insert", func(games TxTable[int, game], users TxTable[string, selUser]) {
			ok(games.Insert(game{4, "Eve", 40}))
			ok(games.Insert(game{5, "Bob", 50}))
			ok(users.Insert(selUser{"Eve", "x"}))
			ok(users.Insert(selUser{"Dan", "x"}))
		}},
		{"delete", func(games TxTable[int, game], users TxTable[string, selUser]) {
			ok(games.Delete(1))
			ok(games.Delete(2))
			ok(users.Delete("Bob"))
			ok(users.Delete("Carl"))
		}},
		{"update, replace, compute", func(games TxTable[int, game], users TxTable[string, selUser]) {
			ok(games.Update(1, func(g *game) { g.Player, g.Score = "Ann", 1 }))
			ok(games.Replace(game{2, "Ann", 10}))
			ok(games.Compute(3, func(*game) *game { return nil }))
			ok(games.Compute(4, func(*game) *game { return &game{4, "Zoe", 20} }))
			ok(users.Update("Bob", func(u *selUser) { u.Mail = "y" }))
		}},
		{"there and back", func(games TxTable[int, game], users TxTable[string, selUser]) {
			ok(games.Delete(1))
			ok(games.Insert(game{1, "Bob", 10}))
			ok(games.Insert(game{4, "Eve", 40}))
			ok(games.Delete(4))
			ok(users.Delete("Bob"))
			ok(users.Insert(selUser{"Bob", "x"}))
		}},
		{"one row again and again", func(games TxTable[int, game], users TxTable[string, selUser]) {
			for i := range 1000 {
				ok(games.Upsert(game{1, []string{"Bob", "Ann"}[i%2], 100 + i}))
				ok(users.Upsert(selUser{"Bob", strconv.Itoa(i)}))
			}
		}},
		{"many rows", func(games TxTable[int, game], users TxTable[string, selUser]) {
			for i := range 1000 {
				ok(games.Insert(game{10 + i, "Bob", 100 + i}))
				ok(users.Insert(selUser{"user" + strconv.Itoa(i), "x"}))
			}
		}},
		{"read", func(games TxTable[int, game], users TxTable[string, selUser]) {
			ok(games.Upsert(game{1, "Zoe", 11}))
			require.Len(t, rowsOf(t, games.All()), 3)
			ok(games.Delete(2))
			require.Len(t, rowsOf(t, games.All()), 2)
		}},
		{"other letters, upsert", func(_ TxTable[int, game], users TxTable[string, selUser]) {
			ok(users.Upsert(selUser{"BOB", "x"}))
			ok(users.Upsert(selUser{"ann", "y"}))
		}},
		{"other letters, replace and update", func(_ TxTable[int, game], users TxTable[string, selUser]) {
			ok(users.Replace(selUser{"BOB", "y"}))
			ok(users.Update("ANN", func(u *selUser) { u.Name = "aNN" }))
			ok(users.Compute("carl", func(u *selUser) *selUser { return &selUser{"CARL", "y"} }))
		}},
		{"other letters, delete", func(_ TxTable[int, game], users TxTable[string, selUser]) {
			ok(users.Delete("BOB"))
			ok(users.Delete("ANN"))
			ok(users.Compute("carl", func(*selUser) *selUser { return nil }))
		}},
		{"other letters, insert", func(_ TxTable[int, game], users TxTable[string, selUser]) {
			ok(users.Delete("bOB"))
			ok(users.Insert(selUser{"BoB", "x"}))
			ok(users.Insert(selUser{"eve", "x"}))
			ok(users.Upsert(selUser{"EvE", "x"}))
		}},
	} {
		value := errors.New("the value that the caller gets")
		for how, fail := range map[string]func() error{
			"error":  func() error { return errTakenBack },
			"panic":  func() error { panic(value) },
			"Goexit": func() error { runtime.Goexit(); return nil },
		} {
			t.Run(test.name+", "+how, func(t *testing.T) {
				x := newTxTables(t)
				before := x.state()
				var err error
				var recovered any
				returned := false
				var wg sync.WaitGroup
				wg.Go(func() { // of its own, for Goexit ends it
					defer func() { recovered = recover() }()
					err = Transact(func(tx *Tx) error {
						test.do(x.In(tx), x.users.In(tx))
						return fail()
					}, x.users, x)
					returned = true
				})
				wg.Wait()
				require.Equal(t, how == "error", returned)
				switch how {
				case "error":
					require.True(t, err == errTakenBack, "as it is")
				case "panic":
					require.Same(t, value, recovered)
				}
				x.requireUntouched(t, before)
				x.requireIndexes(t)

				require.Equal(t, uint64(4), must[game](t)(x.Upsert(game{1, "Eve", 15})).Seq, "no number was used")
				require.Equal(t, uint64(4), must[selUser](t)(x.users.Upsert(selUser{"Bob", "y"})).Seq)
				require.Equal(t, "4~1", selTold(x.gameFeeds[0]))
				require.NoError(t, Transact(func(tx *Tx) error { // and the next one is a transaction as any
					test.do(x.In(tx), x.users.In(tx))
					return nil
				}, x, x.users))
				x.requireIndexes(t)
			})
		}
	}
}

// "fn sees its own writes", in Get, Len and All, and what they return; "all is
// published" when it succeeds, under the numbers that the writes returned.
func TestATransactionSeesItsOwnWrites(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{1, "Bob", 1}))
	feed := games.Changes(t.Context(), Poll(nil))
	var made []Change[game]
	require.NoError(t, Transact(func(tx *Tx) error {
		w := games.In(tx)
		write := func(c Change[game], err error) Change[game] {
			c = must[game](t)(c, err)
			if c.Kind != None {
				made = append(made, c)
				require.Equal(t, uint64(1+len(made)), c.Seq)
			}
			return c
		}
		see := func(want ...game) {
			t.Helper()
			require.Equal(t, len(want), w.Len())
			require.Equal(t, want, rowsOf(t, w.All()))
			for _, g := range want {
				got, ok := w.Get(g.ID)
				require.True(t, ok)
				require.Equal(t, g, got)
			}
			require.Empty(t, selTold(feed))
		}
		see(game{1, "Bob", 1})
		write(w.Insert(game{2, "Ann", 2}))
		see(game{1, "Bob", 1}, game{2, "Ann", 2})
		_, err := w.Insert(game{2, "Eve", 2})
		require.ErrorIs(t, err, ErrDuplicateKey)
		write(w.Update(2, func(g *game) { require.Equal(t, "Ann", g.Player); g.Score = 3 }))
		c := write(w.Delete(1))
		require.Equal(t, game{1, "Bob", 1}, *c.Old)
		see(game{2, "Ann", 3})
		_, ok := w.Get(1)
		require.False(t, ok)
		_, err = w.Replace(game{ID: 1})
		require.ErrorIs(t, err, ErrNotFound)
		write(w.Compute(1, func(old *game) *game { require.Nil(t, old); return &game{1, "Zoe", 9} }))
		require.Equal(t, None, write(w.Upsert(game{1, "Zoe", 9})).Kind)
		write(w.Replace(game{1, "Zoe", 10}))
		other := games.In(tx) // "In" again is the same table
		see(game{1, "Zoe", 10}, game{2, "Ann", 3})
		require.Equal(t, 2, other.Len())
		return nil
	}, games))
	require.Equal(t, uint64(6), games.Seq())
	require.Equal(t, 2, games.Len())
	pairs := take(feed, -1)
	require.Len(t, pairs, 5, "two writes to a row are two changes")
	for i, p := range pairs {
		require.True(t, made[i] == p.v && p.err == nil)
		if i > 0 && i < 2 {
			require.Same(t, made[i-1].New, p.v.Old)
		}
	}
}

// "All: a range sees the table as the transaction has made it when the range begins,
// and may write"; what it saw is not mixed with what is taken back.
func TestARangeInATransactionMayWrite(t *testing.T) {
	for _, result := range []error{nil, errTakenBack} {
		games := newGames()
		for id := range 200 {
			must[game](t)(games.Insert(game{ID: id}))
		}
		before := rowsOf(t, games.All())
		outside := games.All() // begun before, read after
		next, stop := iter.Pull2(outside)
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
			for range w.All() {
				break
			}
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

// Writes that fail inside, and whose errors fn ignores, change nothing; nor does a
// panic that fn recovers from. The others stand.
func TestFailedWritesInATransactionAreIgnored(t *testing.T) {
	u := newUniqueBoard(t)
	feed := u.Changes(t.Context(), Poll(nil))
	require.NoError(t, Transact(func(tx *Tx) error {
		w := u.In(tx)
		must[game](t)(w.Insert(game{4, "Eve", 40}))
		for _, test := range []struct {
			want  error
			text  string
			write func() (Change[game], error)
		}{
			{ErrDuplicateKey, `changefeed: insert into "games": duplicate primary key 4`, func() (Change[game], error) { return w.Insert(game{ID: 4}) }},
			{ErrDuplicateKey, `changefeed: upsert into "games": value 40 in unique index "rank" belongs to primary key 4, not to primary key 1`, func() (Change[game], error) { return w.Upsert(game{1, "Zoe", 40}) }},
			{ErrNotFound, `changefeed: replace in "games": no row with primary key 5`, func() (Change[game], error) { return w.Replace(game{ID: 5}) }},
			{ErrNotFound, `changefeed: delete from "games": no row with primary key 5`, func() (Change[game], error) { return w.Delete(5) }},
			{ErrNotFound, `changefeed: update in "games": no row with primary key 5`, func() (Change[game], error) { return w.Update(5, func(*game) {}) }},
			{ErrKeyChanged, `changefeed: update in "games": a write must not change primary key 4`, func() (Change[game], error) { return w.Update(4, func(g *game) { g.ID = 5 }) }},
			{ErrKeyChanged, `changefeed: compute in "games": a write must not change primary key 5`, func() (Change[game], error) {
				return w.Compute(5, func(*game) *game { return &game{ID: 6} })
			}},
		} {
			c, err := test.write()
			require.ErrorIs(t, err, test.want)
			require.EqualError(t, err, test.text)
			require.Zero(t, c)
		}
		require.PanicsWithValue(t, "in edit", func() { _, _ = w.Update(4, func(g *game) { g.Score = 1; panic("in edit") }) })
		must[game](t)(w.Update(4, func(g *game) { g.Score++ }))
		return nil
	}, u))
	require.Equal(t, "4+4 5~4", selTold(feed))
	got, _ := u.Get(4)
	require.Equal(t, game{4, "Eve", 41}, got)
	u.requireIndexes(t)
	u.outbox.requireEmpty(t)
}

// "Of each feed: a transaction's first change is not visible before its last": while fn
// runs nothing is; afterwards all is, also in a batch that would hold fewer, and in one
// set of a squash.
func TestATransactionIsNeverSplit(t *testing.T) {
	const n = 300 // more than a page
	for _, test := range []struct {
		name string
		opts []FeedOption
		want int // changes in the batch
	}{
		{"plain", nil, n},
		{"Squash", []FeedOption{Squash(0)}, n},
		{"IncludeInitial", []FeedOption{IncludeInitial()}, n},
		{"After", []FeedOption{After(1)}, n},
		{"After and Squash", []FeedOption{After(1), Squash(0)}, n},
		{"Resync", []FeedOption{OnOverflow(Resync)}, n},
	} {
		for _, max := range []int{1, 2, 256, 257, 1000} {
			for i, name := range []string{"Table", "Range", "Index", "Where"} {
				t.Run(fmt.Sprintf("%s, %s, at most %d", test.name, name, max), func(t *testing.T) {
					b := newBoard()
					b.Retain(1000)
					must[game](t)(b.Insert(game{-1, "Bob", 1}))
					s := []Selection[int, game]{b.all(), b.Range(-1, n), b.players.Equal("Bob"), b.Where(isBob)}[i]
					feed := s.Changes(t.Context(), append(test.opts, Poll(nil))...)
					batches := s.Batches(t.Context(), max, append(test.opts, Poll(nil))...)
					sizes := func() (sizes []int) {
						for batch, err := range batches {
							require.NoError(t, err)
							sizes = append(sizes, len(batch))
						}
						return sizes
					}
					if initial := len(take(feed, -1)); initial > 0 {
						require.NotEmpty(t, sizes())
						require.Equal(t, 2, initial)
					}
					require.NoError(t, Transact(func(tx *Tx) error {
						for id := range n {
							must[game](t)(b.In(tx).Insert(game{id, "Bob", id}))
							require.Empty(t, take(feed, -1))
							require.Empty(t, sizes())
						}
						return nil
					}, b))
					require.Len(t, take(feed, -1), n)
					require.Equal(t, []int{n}, sizes())

					must[game](t)(b.Delete(0))
					must[game](t)(b.Delete(1))
					if max == 1 {
						require.Equal(t, []int{1, 1}, sizes(), "single writes are divided")
					} else {
						require.Equal(t, []int{2}, sizes())
					}
				})
			}
		}
	}
}

// The same beside a writer: whoever reads until there is nothing more has seen whole
// transactions, of each kind of feed. Each transaction moves an amount from one row to
// another, so that the sum is always 0.
func TestTransactionsAreAtomicForAllFeeds(t *testing.T) {
	const rows, moves = 10, 2000
	seed := testSeed(t)
	for _, test := range []struct {
		name string
		opts []FeedOption
		max  int // of the batches; 0: Changes
	}{
		{"window", nil, 0},
		{"squash", []FeedOption{Squash(0)}, 0},
		{"batches of 1", nil, 1},
		{"batches of 5", nil, 5},
		{"squash, batches of 1", []FeedOption{Squash(0)}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			games := newGames()
			for id := range rows {
				must[game](t)(games.Insert(game{ID: id}))
			}
			opts := append(test.opts, Poll(nil), IncludeInitial())
			feed := games.From(0).Changes(t.Context(), opts...)
			batches := games.From(0).Batches(t.Context(), max(test.max, 1), opts...)
			scores, changed := make(map[int]int), 0
			see := func(c Change[game]) {
				if c.Kind != Ready {
					scores[c.New.ID] = c.New.Score
					changed++
				}
			}
			sum := func() (sum int) {
				for _, score := range scores {
					sum += score
				}
				return sum
			}
			var writing sync.WaitGroup
			done := make(chan struct{})
			writing.Go(func() {
				r := rand.New(rand.NewPCG(seed, 0))
				for range moves {
					err := Transact(func(tx *Tx) error {
						w := games.In(tx)
						from, to, by := r.IntN(rows), r.IntN(rows), 1+r.IntN(100)
						_, err1 := w.Update(from, func(g *game) { g.Score -= by })
						_, err2 := w.Update(to, func(g *game) { g.Score += by })
						return errors.Join(err1, err2)
					}, games)
					if err != nil {
						t.Error(err)
					}
				}
				close(done)
			})
			for last := false; !last; {
				select {
				case <-done:
					last = true
				default:
				}
				if test.max == 0 {
					for c, err := range feed {
						require.NoError(t, err)
						see(c)
					}
					require.Zero(t, sum(), "half of a transaction")
				} else {
					for batch, err := range batches {
						require.NoError(t, err)
						initial := slices.ContainsFunc(batch, func(c Change[game]) bool { return c.Kind == Initial })
						for _, c := range batch {
							see(c)
						}
						require.True(t, initial || sum() == 0, "half of a transaction in %d changes", len(batch))
					}
				}
			}
			writing.Wait()
			require.Greater(t, changed, rows)
			want := make(map[int]int)
			for id, g := range games.All() {
				want[id] = g.Score
			}
			require.Equal(t, want, scores)
		})
	}
}

// "Whoever has seen one of its changes and then reads any of its tables sees all of
// it": in the loop's body, the other table is where the transaction left it, or
// further.
func TestWhoSeesAChangeSeesTheWholeTransaction(t *testing.T) {
	const writes = 1000
	games, users := newGames(), newUsers()
	var loops sync.WaitGroup
	for _, opts := range [][]FeedOption{nil, {Squash(0)}} {
		feed, other := games.Row(1).Changes(t.Context(), opts...), users.Changes(t.Context(), opts...)
		loops.Go(func() {
			for c := range feed {
				u, _ := users.Get("user")
				if n, _ := strconv.Atoi(u.Mail); n < c.New.Score {
					t.Errorf("%d in games, but %d in users", c.New.Score, n)
				}
				if c.New.Score == writes {
					return
				}
			}
		})
		loops.Go(func() {
			for c := range other {
				n, _ := strconv.Atoi(c.New.Mail)
				if g, _ := games.Get(1); g.Score < n {
					t.Errorf("%d in users, but %d in games", n, g.Score)
				}
				if n == writes {
					return
				}
			}
		})
	}
	for n := range writes {
		require.NoError(t, Transact(func(tx *Tx) error {
			must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: n + 1}))
			must[selUser](t)(users.In(tx).Upsert(selUser{"user", strconv.Itoa(n + 1)}))
			return nil
		}, users, games))
	}
	loops.Wait()
}

// "all tables are locked in one global order (no deadlock, whatever order they are given
// in)", and a table twice counts once: many transactions at once, in all orders, with
// readers and single writes between them. No update is lost.
func TestTransactionsDoNotDeadlock(t *testing.T) {
	const goroutines, each = 8, 300
	a, b, c := newGames(), newUsers(), newGames()
	tables := []AnyTable{a, b, c}
	for _, games := range []*Table[int, game]{a, c} {
		must[game](t)(games.Insert(game{ID: 1}))
	}
	must[selUser](t)(b.Insert(selUser{"user", "0"}))
	seed := testSeed(t)
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for range each {
				var order []AnyTable
				for range 1 + r.IntN(2) { // some of them twice
					for _, i := range r.Perm(3) {
						order = append(order, tables[i])
					}
				}
				err := Transact(func(tx *Tx) error {
					_, err1 := a.In(tx).Update(1, func(g *game) { g.Score++ })
					_, err2 := b.In(tx).Update("user", func(u *selUser) {
						n, _ := strconv.Atoi(u.Mail)
						u.Mail = strconv.Itoa(n + 1)
					})
					_, err3 := c.In(tx).Update(1, func(g *game) { g.Score++ })
					return errors.Join(err1, err2, err3)
				}, order...)
				if err != nil {
					t.Error(err)
				}
				_, _ = c.Upsert(game{ID: 2 + i, Score: r.Int()})
				a.Get(1)
			}
		})
	}
	wg.Wait()
	for _, games := range []*Table[int, game]{a, c} {
		g, _ := games.Get(1)
		require.Equal(t, goroutines*each, g.Score)
	}
	u, _ := b.Get("user")
	require.Equal(t, strconv.Itoa(goroutines*each), u.Mail)
	require.Equal(t, uint64(1+goroutines*each), b.Seq())
}

// A transaction locks its tables in the order in which they were made, however they are
// given, so it holds none that comes after one for which it waits.
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
		for _, mu := range []*tableMutex{&second.mu, &third.mu} {
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

// "a dropped one fails before fn": with ErrTableDropped, and the others are untouched
// and free, whatever the order.
func TestATransactionOnADroppedTable(t *testing.T) {
	for i := range 3 {
		tables := []*Table[int, game]{newGames(), newGames(), newGames()}
		feed := tables[(i+1)%3].Changes(t.Context(), Poll(nil))
		tables[i].Drop()
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2, i}} {
			var given []AnyTable
			for _, j := range order {
				given = append(given, tables[j])
			}
			err := Transact(func(*Tx) error { t.Error("fn was called"); return nil }, given...)
			require.ErrorIs(t, err, ErrTableDropped)
			require.EqualError(t, err, `changefeed: transaction on "games": table dropped`)
			for _, table := range tables {
				require.True(t, table.mu.TryLock())
				require.False(t, table.inTx)
				table.mu.Unlock()
			}
		}
		must[game](t)(tables[(i+1)%3].Insert(game{ID: 1}))
		require.Equal(t, "+1", allOf(feed))
	}
}

// "What no run-time input can cause panics and says what to do": a nil function, a nil
// table, a nil transaction, a table that was not given, a use after the end; the tables
// are free and as they were.
func TestMisuseOfATransactionPanicsAndSaysWhatToDo(t *testing.T) {
	games, other := newGames(), NewTable("others", func(g *game) int { return g.ID })
	must[game](t)(games.Insert(game{ID: 1}))
	nothing := func(*Tx) error { t.Error("fn was called"); return nil }
	var old *Tx
	var w TxTable[int, game]
	before, beforeOther := stateOf(games), stateOf(other)
	for _, test := range []struct {
		text   string
		misuse func()
	}{
		{"changefeed: Transact: nil function; pass one that writes to the tables", func() { _ = Transact(nil, games) }},
		{"changefeed: Transact: nil table", func() { _ = Transact(nothing, games, nil) }},
		{"changefeed: Transact: nil table", func() { _ = Transact(nothing, (*Table[int, game])(nil), games) }},
		{"changefeed: Table.In: nil transaction; pass the one that Transact passes to its function", func() { games.In(nil) }},
		{`changefeed: Table.In: the table "others" is not in the transaction; pass it to Transact`, func() {
			_ = Transact(func(tx *Tx) error {
				must[game](t)(games.In(tx).Insert(game{ID: 2}))
				other.In(tx)
				return nil
			}, games)
		}},
		{`changefeed: Table.In: the table "games" is not in the transaction; pass it to Transact`, func() {
			_ = Transact(func(tx *Tx) error { games.In(tx); return nil })
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

	const ended = `changefeed: the table "games" is used in a transaction that has ended`
	for how, run := range map[string]func(fn func(tx *Tx) error){
		"success": func(fn func(tx *Tx) error) { require.NoError(t, Transact(fn, games)) },
		"error": func(fn func(tx *Tx) error) {
			require.Equal(t, errTakenBack, Transact(func(tx *Tx) error { _ = fn(tx); return errTakenBack }, games))
		},
		"panic": func(fn func(tx *Tx) error) {
			require.Panics(t, func() { _ = Transact(func(tx *Tx) error { _ = fn(tx); panic("in fn") }, games) })
		},
	} {
		var all iter.Seq2[int, game]
		run(func(tx *Tx) error {
			old, w = tx, games.In(tx)
			all = w.All()
			return nil
		})
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
			"All": func() {
				for range all {
					t.Error("a row")
				}
			},
		} {
			require.PanicsWithValue(t, ended, use, "%s after %s", name, how)
			requireState(t, before, games)
		}
	}
	require.NoError(t, Transact(func(*Tx) error { return nil }), "no tables: nothing to do")
	require.Equal(t, errTakenBack, Transact(func(*Tx) error { return errTakenBack }))
}

// A transaction larger than a feed's buffer: exactly the newest are left, after one
// notice with the exact count, wherever in a backlog, for the table and for a scope of
// its own; the rows and the others are unharmed.
func TestATransactionBeyondTheBuffer(t *testing.T) {
	for _, n := range []int{5, 8, 300, 2000} {
		for _, buffer := range []int{1, 3, 257, 5000} {
			t.Run(fmt.Sprintf("%d writes, a buffer of %d", n, buffer), func(t *testing.T) {
				games := newGames()
				insertRows(t, games, 2)
				feedWrites(t, games, 2)
				whole := games.Changes(t.Context(), Buffer(buffer), Poll(nil))
				row := games.Row(1).Changes(t.Context(), Buffer(buffer), Poll(nil))
				all := games.Row(1).Changes(t.Context(), Poll(nil))
				unread := games.Changes(t.Context(), Buffer(buffer), Poll(nil))
				feedWrites(t, games, 1)
				require.Equal(t, "4", allOf(whole))
				require.Equal(t, "4", allOf(row))
				require.NoError(t, Transact(func(tx *Tx) error {
					w := games.In(tx)
					for i := range n { // to row 1 and to another in turn
						must[game](t)(w.Upsert(game{ID: 1, Score: 5 + 2*i}))
						must[game](t)(w.Upsert(game{ID: 2, Score: 5 + 2*i}))
					}
					return nil
				}, games))
				end := 4 + 2*n
				require.Equal(t, strings.Join(overflowed(2*n, end, buffer), " "), allOf(whole))
				require.Equal(t, strings.Join(overflowed(2*n+1, end, buffer), " "), allOf(unread))

				var rows []string // those of row 1 have odd numbers
				for seq := 5; seq <= end; seq += 2 {
					rows = append(rows, strconv.Itoa(seq))
				}
				require.Equal(t, "4 "+strings.Join(rows, " "), allOf(all))
				if lost := n - buffer; lost > 0 {
					rows = slices.Insert(rows[lost:], 0, fmt.Sprintf("skip%d(5-%d)", lost, 4+2*lost))
				}
				require.Equal(t, strings.Join(rows, " "), allOf(row))
				for i, info := range games.Feeds() { // R2
					made := []int{2*n + 1, n + 1, n + 1, 2*n + 1}[i]
					require.Equal(t, made, int(info.Delivered)+int(info.Skipped)+info.Buffered)
				}
				feedWrites(t, games, 1)
				require.Equal(t, strconv.Itoa(end+1), allOf(row))
				runtime.KeepAlive([]any{whole, all, unread}) // or the collector ends them before Feeds
			})
		}
	}
}

// "A rollback calls no function of the user's", neither of a row nor of a key, of whatever
// index: one that would panic or return another value then does no harm. T4
func TestARollbackCallsNoFunction(t *testing.T) {
	type row struct {
		ID   int
		Name string
		Tags []string
	}
	for _, how := range []string{"error", "panic", "Goexit"} {
		t.Run(how, func(t *testing.T) {
			over, calls := false, 0
			call := func() {
				if over {
					calls++
					panic("called in a rollback")
				}
			}
			rows := NewTable("rows", func(r *row) int { call(); return r.ID })
			names := NewIndex(rows, "name", func(r *row) string { call(); return r.Name })
			tags := NewMultiIndex(rows, "tag", func(r *row) []string { call(); return r.Tags })
			unique, err := NewUniqueIndex(rows, "unique", func(r *row) string { call(); return r.Name })
			require.NoError(t, err)
			for i, name := range []string{"Ann", "Bob", "Carl"} {
				must[row](t)(rows.Insert(row{i, name, []string{name, "a", "z"}}))
			}
			absent := rows.Row(4).Changes(t.Context(), Poll(nil))
			var feeds []Stream[Change[row]]
			for _, s := range []Selection[int, row]{rows.all(), rows.From(1), names.Equal("Bob"), tags.From("a"), unique.Range("A", "D")} {
				feeds = append(feeds, s.Changes(t.Context(), Poll(nil)), s.Changes(t.Context(), Poll(nil), Squash(0)))
			}
			state := func() []string {
				return slices.Concat(tableLines(rows), linesOf("name", entriesOf(names)), linesOf("tag", entriesOf(tags)), linesOf("unique", entriesOf(unique)))
			}
			before := state()
			var wg sync.WaitGroup
			wg.Go(func() { // of its own, for Goexit ends it
				defer func() {
					if p := recover(); p != nil && p != errTakenBack {
						t.Error(p)
					}
				}()
				err := Transact(func(tx *Tx) error {
					w := rows.In(tx)
					for i := range 400 {
						must[row](t)(w.Upsert(row{i % 4, fmt.Sprint("new", i), []string{"b", fmt.Sprint(i % 10)}}))
					}
					must[row](t)(w.Update(1, func(r *row) { r.Tags = append(r.Tags, "a", "c") }))
					must[row](t)(w.Delete(2))
					must[row](t)(w.Delete(4 - 1))
					require.Len(t, maps.Collect(w.All()), 2) // the rows are cloned
					must[row](t)(w.Insert(row{2, "Dan", nil}))
					must[row](t)(w.Insert(row{4, "Eve", []string{"z"}}))
					over = true
					switch how {
					case "panic":
						panic(errTakenBack)
					case "Goexit":
						runtime.Goexit()
					}
					return errTakenBack
				}, rows)
				if err != errTakenBack {
					t.Error(err)
				}
			})
			wg.Wait()
			require.True(t, over)
			require.Zero(t, calls)
			over = false
			require.Equal(t, before, state())
			for _, feed := range append(feeds, absent) {
				require.Empty(t, kindsOf(feed))
			}
			must[row](t)(rows.Upsert(row{1, "Zoe", []string{"b"}}))
			requireIndex(t, names, func(r *row) []string { return []string{r.Name} })
			requireIndex(t, tags, func(r *row) []string { return r.Tags })
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
	for id := range 3 {
		must[game](t)(games.Insert(game{ID: id}))
	}
	before, beforeSeveral := entriesOf(once), entriesOf(several)
	require.Len(t, before, 3)
	require.Len(t, beforeSeveral, 6)
	require.Equal(t, errTakenBack, Transact(func(tx *Tx) error {
		for id := 3; id < 10; id++ {
			must[game](t)(games.In(tx).Insert(game{ID: id}))
		}
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
				must[game](t)(games.Insert(game{ID: 1}))
				must[game](t)(games.Insert(game{ID: 2}))
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
				require.False(t, games.inTx)
				games.outbox.requireEmpty(t)
				games.mu.Unlock()
				require.Empty(t, selTold(feeds[i]))
				if i != bad {
					requireState(t, before[i], games)
				}
				c := must[game](t)(games.Insert(game{ID: 4, Score: 9}))
				require.Equal(t, i != bad, c.Seq == 3)
				for _, e := range entriesOf(scores[i]) {
					require.Equal(t, e.key == 4, e.value == 9, "the plan of a write that was not taken back must not be left")
				}
			}
		})
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

// A transaction wakes those who wait, once in each ring and when all locks are free,
// and nobody whose part it does not touch; one that fails wakes nobody.
func TestATransactionWakesItsReadersOnce(t *testing.T) {
	inBubbles(t, func(t *testing.T) {
		games, others := newGames(), newGames()
		ctx, cancel := context.WithCancel(t.Context())
		wakes := make(map[string]chan struct{})
		polls := make(map[string]Stream[Change[game]])
		loops := make(map[string]*follower)
		for name, s := range map[string]Selection[int, game]{
			"Table": games.all(), "Row(1)": games.Row(1), "Row(2)": games.Row(2), "Range": games.Range(1, 3), "others": others.all(),
		} {
			for kind, opts := range map[string][]FeedOption{"": nil, ", squashed": {Squash(0)}} {
				wakes[name+kind] = make(chan struct{}, 100)
				polls[name+kind] = s.Changes(ctx, append(opts, Poll(wakes[name+kind]))...)
				require.Empty(t, selTold(polls[name+kind]))
				free := func(string) bool { games.Seq(); others.Seq(); return true }
				for i := range 5 {
					loops[fmt.Sprint(name, kind, i)] = follow(s.Changes(ctx, opts...), free)
				}
			}
		}
		synctest.Wait()
		transact := func(result error) {
			require.Equal(t, result, Transact(func(tx *Tx) error {
				for i := range 10 {
					must[game](t)(games.In(tx).Upsert(game{ID: 1, Score: i + 1}))
				}
				must[game](t)(others.In(tx).Upsert(game{ID: 1}))
				synctest.Wait()
				for name, wake := range wakes {
					require.Empty(t, wake, name)
				}
				return result
			}, games, others))
			synctest.Wait()
		}
		transact(errTakenBack)
		for name, wake := range wakes {
			require.Empty(t, wake, name)
		}
		for name, loop := range loops {
			require.Empty(t, loop.String(), name)
		}
		transact(nil)
		want := map[string]string{
			"Table": "+1 2 3 4 5 6 7 8 9 10", "Row(1)": "+1 2 3 4 5 6 7 8 9 10", "Row(2)": "", "Range": "+1 2 3 4 5 6 7 8 9 10", "others": "+1",
			"Table, squashed": "+10", "Row(1), squashed": "+10", "Row(2), squashed": "", "Range, squashed": "+10", "others, squashed": "+1",
		}
		require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(polls)))
		for name, told := range want {
			require.Len(t, wakes[name], min(1, len(told)), name)
			require.Equal(t, told, allOf(polls[name]), name)
			for i := range 5 {
				require.Equal(t, told, loops[fmt.Sprint(name, i)].String(), name)
			}
		}
		cancel()
	})
}

// What fn returns is what Transact returns, and not wrapped, also if it is an error of
// one of its writes.
func TestTheErrorOfATransactionIsReturnedAsItIs(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{ID: 1}))
	var inner error
	err := Transact(func(tx *Tx) error {
		must[game](t)(games.In(tx).Insert(game{ID: 2}))
		_, inner = games.In(tx).Insert(game{ID: 1})
		return inner
	}, games)
	require.True(t, err == inner)
	require.EqualError(t, err, `changefeed: insert into "games": duplicate primary key 1`)
	require.Equal(t, 1, games.Len())
	require.True(t, Transact(func(*Tx) error { return context.Canceled }, games) == context.Canceled)
}

// A feed that ends while a transaction is being made, and one that begins after it, do
// not disturb each other.
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
					for !slices.ContainsFunc(b.feeds.all(), func(s *subscription[int, game]) bool { return len(b.feeds.all()) == 1 }) {
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

// A function that a write of a transaction calls must not write to the table: the write
// would go on from a row that is not there any more. It panics, and the transaction is
// taken back (T4); where each write takes the lock, it would deadlock.
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
