package durable

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

type account struct {
	Owner   string
	Balance int
}

type transfer struct {
	ID     int
	From   string
	To     string
	Amount int
}

// A bank is two tables of a store.
type bank struct {
	accounts  *changefeed.Table[string, account]
	transfers *changefeed.Table[int, transfer]
	*Store
}

func newBank() *bank {
	return &bank{
		accounts:  changefeed.NewTable("accounts", func(a *account) string { return a.Owner }),
		transfers: changefeed.NewTable("transfers", func(t *transfer) int { return t.ID }),
	}
}

func (b *bank) tables() []Table { return []Table{Rows(b.accounts), Rows(b.transfers)} }

func openBank(t testing.TB, path string, opts ...Option) *bank {
	t.Helper()
	b := newBank()
	var err error
	b.Store, err = Open(path, b.tables(), opts...)
	require.NoError(t, err)
	return b
}

// pay makes a transfer in one transaction. The ID 0 stands for the next one.
func (b *bank) pay(t transfer) error {
	return changefeed.Transact(func(tx *changefeed.Tx) error {
		accounts := b.accounts.In(tx)
		for owner, amount := range map[string]int{t.From: -t.Amount, t.To: t.Amount} {
			_, err := accounts.Compute(owner, func(a *account) *account {
				if a == nil {
					a = &account{Owner: owner}
				}
				a.Balance += amount
				return a
			})
			if err != nil {
				return err
			}
		}
		transfers := b.transfers.In(tx)
		if t.ID == 0 {
			t.ID = transfers.Len() + 1
		}
		_, err := transfers.Insert(t)
		return err
	}, b.accounts, b.transfers)
}

func (b *bank) wait(t testing.TB) {
	t.Helper()
	require.NoError(t, b.Wait(t.Context(), b.accounts.Position(), b.transfers.Position()))
}

func rowsIn[K, V any](t *changefeed.Table[K, V]) (rows []V) {
	for _, row := range t.All() {
		rows = append(rows, row)
	}
	return rows
}

// requireSame requires that the tables of two banks are the same, with their histories.
func requireSame(t testing.TB, want, got *bank) {
	t.Helper()
	require.Equal(t, rowsIn(want.accounts), rowsIn(got.accounts))
	require.Equal(t, rowsIn(want.transfers), rowsIn(got.transfers))
	require.Equal(t, want.accounts.Lineage(), got.accounts.Lineage())
	require.Equal(t, want.transfers.Lineage(), got.transfers.Lineage())
}

// changesAfter returns what a feed yields that resumes after a position.
func changesAfter[K, V any](t *changefeed.Table[K, V], p changefeed.Position) (changes []changefeed.Change[V], err error) {
	for c, e := range t.Changes(context.Background(), changefeed.After(p), changefeed.Poll(nil)) {
		if e != nil {
			return changes, e
		}
		changes = append(changes, c)
	}
	return changes, nil
}

func TestAStoreRestoresWhatItWasClosedWith(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	empty := b.accounts.Position()
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	middle := b.accounts.Position()
	require.NoError(t, b.pay(transfer{-2, "Bob", "Eve", 5}))
	_, err := b.accounts.Delete("Ann")
	require.NoError(t, err)
	b.wait(t)
	require.NoError(t, b.Close())
	require.ErrorIs(t, b.Close(), ErrClosed)
	require.NoError(t, b.Wait(t.Context(), b.accounts.Position()))

	again := openBank(t, path)
	requireSame(t, b, again)
	all, err := changesAfter(again.accounts, empty)
	require.NoError(t, err)
	require.Len(t, all, 5)
	want, err := changesAfter(b.accounts, middle)
	require.NoError(t, err)
	require.Len(t, want, 3)
	got, err := changesAfter(again.accounts, middle)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.True(t, slices.EqualFunc(all[2:], got, func(a, b changefeed.Change[account]) bool { return a == b }))
	require.NoError(t, again.Close())
}

// After an unclean end the histories are forked.
func TestAStoreThatWasNotClosedForks(t *testing.T) {
	dir := t.TempDir()
	b := openBank(t, filepath.Join(dir, "bank.db"))
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	saved := b.transfers.Position()
	backup := backupOf(t, b, dir)
	require.NoError(t, b.pay(transfer{2, "Ann", "Bob", 10}))
	lost := b.transfers.Position()
	require.NoError(t, b.Close())

	again := openBank(t, backup)
	require.Equal(t, 1, again.transfers.Len())
	require.NoError(t, again.pay(transfer{3, "Ann", "Bob", 1}))
	_, err := changesAfter(again.transfers, lost)
	require.ErrorIs(t, err, changefeed.ErrOtherHistory)
	changes, err := changesAfter(again.transfers, saved)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	require.ErrorIs(t, again.Wait(t.Context(), lost), changefeed.ErrOtherHistory)
	require.NoError(t, again.Close())
}

func backupOf(t testing.TB, b *bank, dir string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "backup")
	require.NoError(t, err)
	require.NoError(t, b.Backup(f))
	require.NoError(t, f.Close())
	return f.Name()
}

// The file keeps the newest changes that Keep asks for, and not many more: however many changes a
// batch has, however long their rows are, and when the commit at the limit has several changes.
func TestKeep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path, Keep(10))
	rowOf := map[int]string{0: "", 1: strings.Repeat("x", maxBlock/4)}
	for size := range 40 {
		for range size {
			require.NoError(t, b.pay(transfer{0, "Ann", "Bob" + rowOf[size%2], 1}))
		}
		if size%3 == 0 {
			b.wait(t)
			continue
		}
		require.NoError(t, b.Close())
		again := openBank(t, path, Keep(10))
		requireSame(t, b, again)
		requireKept(t, b.accounts, again.accounts)
		requireKept(t, b.transfers, again.transfers)
		b = again
	}
	require.NoError(t, b.Close())
	require.Len(t, b.transfers.Lineage(), 1)
	inFile(t, path, func(tx *bolt.Tx) {
		blocks := 0
		require.NoError(t, tx.Bucket(newestBucket("transfers")).ForEach(func(_, _ []byte) error { blocks++; return nil }))
		require.Positive(t, blocks)
		require.LessOrEqual(t, blocks, 10)
	})

	b = openBank(t, path, Keep(1))
	require.NoError(t, b.pay(transfer{0, "Ann", "Bob", 1}))
	require.NoError(t, b.Close())
	inFile(t, path, func(tx *bolt.Tx) { // only the last block is left, and it is lost
		key, _ := tx.Bucket(newestBucket("transfers")).Cursor().First()
		require.Equal(t, blockKey(b.transfers.Seq()), key)
		require.NoError(t, tx.DeleteBucket(newestBucket("transfers")))
	})
	_, err := Open(path, newBank().tables())
	require.ErrorIs(t, err, ErrDamaged)
}

// Blocks of changes of which one is missing are damage.
func TestAMissingBlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	for range 5 {
		require.NoError(t, b.pay(transfer{0, "Ann", "Bob", 1}))
		b.wait(t)
	}
	require.NoError(t, b.Close())
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, seq := range []uint64{3, 5} {
		require.NoError(t, os.WriteFile(path, good, 0o600))
		inFile(t, path, func(tx *bolt.Tx) {
			require.NoError(t, tx.Bucket(newestBucket("transfers")).Delete(blockKey(seq)))
		})
		_, err := Open(path, newBank().tables())
		require.ErrorIs(t, err, ErrDamaged)
	}
}

// inFile changes a file that no store has open.
func inFile(t *testing.T, path string, change func(tx *bolt.Tx)) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { change(tx); return nil }))
	require.NoError(t, db.Close())
}

// A history with more names than the file keeps has positions that can be waited for, old and new.
func TestVeryManyNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{0, "Ann", "Bob", 1}))
	first := b.transfers.Position()
	for range maxNames + 5 {
		b.transfers.Fork()
	}
	b.wait(t)
	require.NoError(t, b.Wait(t.Context(), b.transfers.Fork()))
	require.NoError(t, b.pay(transfer{0, "Ann", "Bob", 1}))
	b.wait(t)
	require.NoError(t, b.Wait(t.Context(), first))
	require.NoError(t, b.Close())
	again := openBank(t, path)
	lineage := b.transfers.Lineage()
	require.Equal(t, lineage[len(lineage)-maxNames:], again.transfers.Lineage())
	require.NoError(t, again.Close())
}

// requireKept requires that a table that was restored has the newest 10 changes.
func requireKept[K, V any](t *testing.T, want, got *changefeed.Table[K, V]) {
	t.Helper()
	after := got.At(got.Seq() - min(10, got.Seq()))
	all, err := changesAfter(want, after)
	require.NoError(t, err)
	kept, err := changesAfter(got, after)
	require.NoError(t, err)
	require.Equal(t, all, kept)
}

// Where the disk has fallen behind further than the buffer, the present rows are stored. A commit
// that is larger than the buffer is such a case.
func TestAStoreCatchesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path, Buffer(5))
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	before := b.transfers.Position()
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for id := range 10 {
			if _, err := b.transfers.In(tx).Insert(transfer{ID: 10 + id}); err != nil {
				return err
			}
		}
		return nil
	}, b.transfers))
	b.wait(t)
	after := b.transfers.Position()
	require.NoError(t, b.pay(transfer{2, "Ann", "Bob", 10}))
	require.NoError(t, b.Close())

	again := openBank(t, path, Buffer(5))
	requireSame(t, b, again)
	_, err := changesAfter(again.transfers, before)
	skipped, ok := errors.AsType[*changefeed.SkippedError](err)
	require.True(t, ok, "the changes that are kept begin anew")
	require.Equal(t, uint64(10), skipped.Count)
	changes, err := changesAfter(again.transfers, after)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	require.NoError(t, again.Close())
}

// The names of a history are those in the file, also if the table forks or is reset while the
// store follows it.
func TestAStoreFollowsForksAndResets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.transfers.Fork()
	require.NoError(t, b.pay(transfer{2, "Ann", "Bob", 10}))
	b.wait(t)
	b.accounts.Fork() // no change comes after it
	require.NoError(t, b.Close())
	for range 2 {
		again := openBank(t, path)
		requireSame(t, b, again)
		b = again
		lost := b.transfers.At(100)
		require.NoError(t, b.transfers.Reset(changefeed.Past[transfer]{
			Lineage: []changefeed.Position{{History: newHistoryID(), Seq: 5}}, Rows: slices.Values([]transfer{{ID: 7}}),
		}))
		require.ErrorIs(t, b.Wait(t.Context(), lost), changefeed.ErrOtherHistory)
		b.wait(t)
		require.NoError(t, b.pay(transfer{8, "Ann", "Bob", 10}))
		require.NoError(t, b.Close())
	}
}

// A table that is dropped is stored up to the drop, and the store goes on with the others.
func TestADroppedTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	_, err := b.transfers.Insert(transfer{ID: 2})
	require.NoError(t, err)
	want, lineage := rowsIn(b.transfers), b.transfers.Lineage()
	b.transfers.Drop()
	require.NoError(t, b.Wait(t.Context(), lineage[0]))
	for range 10 {
		_, err = b.accounts.Update("Ann", func(a *account) { a.Balance++ })
		require.NoError(t, err)
	}
	require.NoError(t, b.Wait(t.Context(), b.accounts.Position()))
	_, err = b.accounts.Insert(account{Owner: "Eve"})
	require.NoError(t, err)
	for !has(b.members[0].durable.Load().names, b.accounts.Position()) {
		runtime.Gosched() // the store writes it, although nobody waits
	}
	b.accounts.Drop()
	require.NoError(t, b.Close())
	again := openBank(t, path)
	require.Equal(t, want, rowsIn(again.transfers))
	require.Equal(t, lineage, again.transfers.Lineage())
	require.Equal(t, b.accounts.Lineage(), again.accounts.Lineage())
	ann, _ := again.accounts.Get("Ann")
	require.Equal(t, 0, ann.Balance)
	require.NoError(t, again.Close())
}

// Views are not in the file. They follow the rows that Open restores, and the writes after it.
func TestViewsOfStoredTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	for i := range 200 {
		require.NoError(t, b.pay(transfer{i + 1, fmt.Sprint(i % 7), fmt.Sprint(i % 11), i}))
	}
	require.NoError(t, b.Close())

	b = newBank()
	to := func(t *transfer) string { return t.To }
	type views struct {
		sums   *changefeed.View[string, changefeed.Grouped[string, int]]
		joined *changefeed.View[int, changefeed.Joined[transfer, account]]
	}
	define := func(when string) views {
		return views{
			changefeed.Group(b.transfers, "sums "+when, to, func(sum *int, t *transfer, sign int) { *sum += sign * t.Amount }),
			changefeed.Join(b.transfers, b.accounts, "joined "+when, to),
		}
	}
	before := define("before")
	var err error
	b.Store, err = Open(path, b.tables())
	require.NoError(t, err)
	after := define("after")
	requireRight := func() {
		sums := make(map[string]int)
		for _, transfer := range b.transfers.All() {
			sums[transfer.To] += transfer.Amount
		}
		for _, v := range []views{before, after} {
			require.Equal(t, len(sums), v.sums.Len())
			for _, row := range v.sums.All() {
				require.Equal(t, sums[row.Group], row.Value, row.Group)
			}
			require.Equal(t, b.transfers.Len(), v.joined.Len())
			for _, row := range v.joined.All() {
				account, _ := b.accounts.Get(row.Left.To)
				require.Equal(t, account, *row.Right)
			}
		}
	}
	requireRight()
	require.NoError(t, b.pay(transfer{0, "3", "4", 1000}))
	requireRight()
	b.wait(t)
	require.NoError(t, b.Close())
	requireSame(t, b, openBank(t, path))
}

// Each misuse of Open has an error that names the file, and changes neither tables nor file.
func TestFilesThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	_, err := Open(path, newBank().tables())
	require.ErrorIs(t, err, ErrLocked)
	require.EqualError(t, err, "durable: "+path+": the file is locked by another store")
	require.NoError(t, b.Close())
	good, err := os.ReadFile(path)
	require.NoError(t, err)

	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("not a store\n", 1000)), 0o600))
	bbolt := filepath.Join(dir, "bbolt")
	db, err := bolt.Open(bbolt, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("other")); return err }))
	require.NoError(t, db.Close())

	newTables := func(opts ...RowsOption[transfer]) (*bank, []Table) {
		b := newBank()
		return b, []Table{Rows(b.accounts), Rows(b.transfers, opts...)}
	}
	never := func([]byte, *transfer) error { return errors.New("never") }
	for _, test := range []struct {
		name   string
		path   string
		rows   []RowsOption[transfer]
		tables func(tables []Table) []Table
		is     error
		want   string
	}{
		{name: "text", path: text, is: ErrForeign, want: "not a file of this version of durable: invalid database"},
		{name: "another program", path: bbolt, is: ErrForeign, want: "not a file of this version of durable"},
		{name: "unknown table", tables: func(t []Table) []Table { return t[:1] }, is: ErrUnknownTable, want: `table "transfers": the file has a table that was not passed to Open; pass it, or use Forget`},
		{name: "no tables", tables: func([]Table) []Table { return nil }, want: "no tables"},
		{name: "a table twice", tables: func(t []Table) []Table { return append(t, t[0]) }, want: `table "accounts": passed twice`},
		{name: "unknown version", rows: []RowsOption[transfer]{Version[transfer](2, nil)}, is: ErrUnknownVersion, want: `table "transfers": rows of an unknown version 0; the present one is 2`},
		{
			name: "a row that cannot be decoded", rows: []RowsOption[transfer]{Encoding(func(*transfer) ([]byte, error) { return nil, nil }, never)}, is: ErrRow,
			want: `table "transfers": row with key 1 cannot be decoded: never`,
		},
		{name: "a nil function", rows: []RowsOption[transfer]{Encoding[transfer](nil, nil)}, want: `table "transfers": nil function in Encoding`},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, tables := newTables(test.rows...)
			if test.tables != nil {
				tables = test.tables(tables)
			}
			path := cmp.Or(test.path, path)
			_, err := Open(path, tables)
			require.EqualError(t, err, "durable: "+path+": "+test.want)
			require.True(t, test.is == nil || errors.Is(err, test.is))
			require.Zero(t, b.accounts.Seq())
			if test.path == "" {
				now, err := os.ReadFile(path)
				require.NoError(t, err)
				require.True(t, bytes.Equal(good, now), "the file was changed")
			}
		})
	}
	_, err = Open(path, newBank().tables(), OnProgress(func(Progress) { panic("oops") }))
	require.EqualError(t, err, "durable: "+path+": panic: oops")
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())
	_, err = again.transfers.Insert(transfer{ID: 9})
	require.NoError(t, err)
	_, err = Open(path, again.tables())
	require.ErrorIs(t, err, changefeed.ErrNotEmpty)

	one := newBank()
	store, err := Open(path, one.tables()[:1], Forget("transfers"))
	require.NoError(t, err)
	require.NoError(t, store.Close())
	all := openBank(t, path)
	require.Equal(t, rowsIn(b.accounts), rowsIn(all.accounts))
	require.Zero(t, all.transfers.Len())
	require.NoError(t, all.Close())
}

// Whatever bytes of a file are wrong, Open reports it, or restores what was there at some time.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "bank.db")
	b := openBank(t, path)
	for id := range 300 {
		require.NoError(t, b.pay(transfer{id + 1, "Ann", "Bob", 10}))
	}
	require.NoError(t, b.Close())
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	reported := 0
	for n := range 400 {
		bad := slices.Clone(good)
		if n%10 == 0 {
			bad = bad[:r.IntN(len(bad))]
		} else {
			at := r.IntN(len(bad))
			for i := range bad[at:min(at+1+r.IntN(200), len(bad))] {
				bad[at+i] = byte(r.Uint32())
			}
		}
		if len(bad) == 0 {
			continue
		}
		damaged := filepath.Join(dir, fmt.Sprint("damaged ", n)) // a damaged file may remain locked
		require.NoError(t, os.WriteFile(damaged, bad, 0o600))
		again := newBank()
		if again.Store, err = Open(damaged, again.tables()); err != nil {
			reported++
			require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign), err)
			continue
		}
		// If bbolt's last root is damaged, the file is as it was before the last transaction.
		want, got := rowsIn(b.transfers), rowsIn(again.transfers)
		require.True(t, slices.Equal(want[:len(got)], got))
		require.Equal(t, 2*again.transfers.Seq(), again.accounts.Seq())
		require.True(t, len(got) == len(want) || !has(again.transfers.Lineage(), b.transfers.Position()))
		_ = again.Close()
	}
	require.Greater(t, reported, 50)
}

// A Reset that keeps the position may have changed all rows.
func TestAResetToTheSamePosition(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	for id := range 6 {
		require.NoError(t, b.pay(transfer{id + 1, "Ann", "Bob", 10}))
	}
	b.wait(t)
	require.NoError(t, b.transfers.Reset(changefeed.Past[transfer]{Lineage: b.transfers.Lineage(), Rows: slices.Values([]transfer{{ID: 7}})}))
	require.NoError(t, b.Close())
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.transfers.Reset(changefeed.Past[transfer]{Lineage: []changefeed.Position{again.transfers.At(3)}}))
	for id := range 3 {
		require.NoError(t, again.pay(transfer{id + 10, "Ann", "Bob", 10}))
	}
	require.NoError(t, again.Close())
	last := openBank(t, path)
	requireSame(t, again, last)
	require.NoError(t, last.Close())
}

// A name of a history without a change is stored as soon as somebody waits for it.
func TestWaitForANameOfAHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	first := b.transfers.Fork()
	require.NoError(t, b.Wait(t.Context(), first))
	var second changefeed.Position // a name without a change
	for n := range 20 {
		second = b.transfers.Fork()
		b.transfers.Fork()
		require.NoError(t, b.pay(transfer{2 + n, "Ann", "Bob", 1}))
		b.wait(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.NoError(t, b.Wait(ctx, second))
	}
	backup := backupOf(t, b, t.TempDir())
	require.NoError(t, b.Close())
	again := openBank(t, backup)
	for p, want := range map[changefeed.Position]int{first: 20, second: 1} {
		changes, err := changesAfter(again.transfers, p)
		require.NoError(t, err)
		require.Len(t, changes, want)
	}
	require.NoError(t, again.Close())
}

// Two tables of a store can have one history. Both must be on disk then.
func TestWaitForTablesOfOneHistory(t *testing.T) {
	newTable := func(name string) *changefeed.Table[int, transfer] {
		return changefeed.NewTable(name, func(t *transfer) int { return t.ID })
	}
	a, b := newTable("a"), newTable("b")
	require.NoError(t, b.Restore(changefeed.Past[transfer]{Lineage: a.Lineage()}))
	never := Encoding(func(*transfer) ([]byte, error) { return nil, errors.New("never") }, func([]byte, *transfer) error { return nil })
	store, err := Open(filepath.Join(t.TempDir(), "file.db"), []Table{Rows(a), Rows(b, never)})
	require.NoError(t, err)
	_, err = a.Insert(transfer{ID: 1})
	require.NoError(t, err)
	require.NoError(t, store.Wait(t.Context(), a.Position()))
	_, err = b.Insert(transfer{ID: 1})
	require.NoError(t, err)
	require.ErrorIs(t, store.Wait(t.Context(), b.Position()), ErrRow)
	require.ErrorIs(t, store.Close(), ErrRow)
}

// Close ends although writers go on.
func TestCloseBesideWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path, Buffer(2))
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = b.pay(transfer{0, "Ann", "Bob", 1})
				}
			}
		})
	}
	for b.transfers.Seq() < 100 {
		runtime.Gosched()
	}
	p := b.transfers.Position()
	require.NoError(t, b.Close())
	close(stop)
	writers.Wait()
	again := openBank(t, path)
	require.True(t, has(again.transfers.Lineage(), p))
	require.Equal(t, 2*again.transfers.Seq(), again.accounts.Seq())
	require.NoError(t, again.Close())
}

// A file that is not the one that was opened is not written to.
func TestAFileThatIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	moved := filepath.Join(dir, "moved")
	require.NoError(t, os.Rename(path, moved))
	for _, replace := range []func() error{
		func() error { return nil },
		func() error { return openBank(t, path).Close() },
		func() error { return os.WriteFile(path, nil, 0o600) },
	} {
		require.NoError(t, replace())
		require.Error(t, b.reopen())
		_ = os.Remove(path)
	}
	require.NoError(t, os.Rename(moved, path))
	require.NoError(t, b.reopen())
	require.NoError(t, b.pay(transfer{2, "Ann", "Bob", 10}))
	require.NoError(t, b.Close())
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())
}

// A table of a million rows is stored and restored, with a commit that is larger than the buffer
// and changes one row of each page.
func TestAMillionRows(t *testing.T) {
	t.Parallel()
	const count = 1_000_000
	path := filepath.Join(t.TempDir(), "rows.db")
	newTable := func() *changefeed.Table[int, int] {
		return changefeed.NewTable("rows", func(row *int) int { return *row / 10 })
	}
	table := newTable()
	numbers := func(yield func(int) bool) {
		for i := range count {
			if !yield(i * 10) {
				return
			}
		}
	}
	require.NoError(t, table.Restore(changefeed.Past[int]{Lineage: []changefeed.Position{table.At(count)}, Rows: numbers}))
	store, err := Open(path, []Table{Rows(table)}, Buffer(1000))
	require.NoError(t, err)
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for id := 0; id < count; id += 50 {
			if _, err := table.In(tx).Update(id, func(row *int) { *row++ }); err != nil {
				return err
			}
		}
		return nil
	}, table))
	require.NoError(t, store.Close())
	again := newTable()
	rows := -1
	store, err = Open(path, []Table{Rows(again)}, OnProgress(func(p Progress) {
		require.Equal(t, count, p.Total)
		require.Greater(t, p.Rows, rows)
		rows = p.Rows
	}))
	require.NoError(t, err)
	require.Equal(t, count, rows)
	require.Equal(t, table.Lineage(), again.Lineage())
	require.True(t, slices.Equal(rowsIn(table), rowsIn(again)))
	require.NoError(t, store.Close())
}

// A stored row that is damaged while the store runs is stored again from the table.
func TestAStoredRowThatIsDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	failures := make(chan error, 1)
	b := openBank(t, path, func(c *config) { c.retry = time.Millisecond }, OnError(func(err error) { failures <- err }))
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	require.NoError(t, b.file.db.Update(func(tx *bolt.Tx) error {
		rows := tx.Bucket(rowsBucket("transfers"))
		key, _ := rows.Cursor().First()
		return rows.Put(key, []byte("damaged"))
	}))
	_, err := b.transfers.Update(1, func(t *transfer) { t.Amount++ })
	require.NoError(t, err)
	require.ErrorIs(t, <-failures, ErrDamaged)
	b.wait(t)
	require.NoError(t, b.Close())
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())
}

// The names without a change before a change are in the lineage, also if nothing was written between.
func TestNamesBeforeAChange(t *testing.T) {
	table := changefeed.NewTable("transfers", func(t *transfer) int { return t.ID })
	m := member{Table: Rows(table), next: tableMeta{Lineage: table.Lineage()}}
	table.Fork()
	table.Fork()
	c, err := table.Insert(transfer{1, "Ann", "Bob", 10})
	require.NoError(t, err)
	m.extend(table.At(c.Seq))
	require.Equal(t, table.Lineage(), m.next.Lineage)
}
