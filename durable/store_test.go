package durable

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
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
