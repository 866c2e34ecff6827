//go:build unix

package durable

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fillDisk makes files fail to grow beyond the size of one of them, until makeRoom is called or the
// test ends.
func fillDisk(t *testing.T, path string) (makeRoom func()) {
	info, err := os.Stat(path)
	require.NoError(t, err)
	return limitFiles(t, uint64(info.Size()))
}

// limitFiles makes writes fail beyond a place in a file.
func limitFiles(t *testing.T, size uint64) (makeRoom func()) {
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	full := limit
	full.Cur = size
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full))
	makeRoom = func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)) }
	t.Cleanup(func() {
		makeRoom()
		signal.Reset(syscall.SIGXFSZ)
	})
	return makeRoom
}

// While the disk is full, Wait and the callback report it, and the tables go on working. When
// there is room again, the store writes what it could not write.
func TestAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	failed := make(chan error, 1)
	b := openBank(t, path, OnError(func(err error) {
		select {
		case failed <- err:
		default:
		}
	}), func(c *config) { c.retry = time.Millisecond })
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	makeRoom := fillDisk(t, path)
	id := 1
	pay := func(n int) {
		for range n {
			id++
			require.NoError(t, b.pay(transfer{id, "Ann", "Bob", 1}))
		}
	}
	for len(failed) == 0 {
		pay(100)
		_ = b.Wait(t.Context(), b.transfers.Position())
	}
	err := <-failed
	require.ErrorContains(t, err, "file too large")
	require.ErrorContains(t, err, "durable: "+path+": ")
	pay(100)
	require.ErrorContains(t, b.Wait(t.Context(), b.transfers.Position()), "file too large")
	<-failed // it has tried again

	makeRoom()
	for b.Wait(t.Context(), b.transfers.Position()) != nil {
		runtime.Gosched() // the last attempt was before there was room
	}
	pay(100)
	require.NoError(t, b.Close())
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())
}

// A store that is closed while the disk is full reports it. The next one forks.
func TestCloseOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path)
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	saved := b.transfers.Position()
	makeRoom := fillDisk(t, path)
	for id := range 5000 {
		require.NoError(t, b.pay(transfer{id + 2, "Ann", "Bob", 1}))
	}
	require.ErrorContains(t, b.Close(), "file too large")
	lost := b.transfers.Position()
	makeRoom()
	again := openBank(t, path)
	require.Equal(t, 2*again.transfers.Seq(), again.accounts.Seq())
	require.True(t, has(again.transfers.Lineage(), saved))
	require.False(t, has(again.transfers.Lineage(), lost))
	require.NoError(t, again.Close())
}

// A new name of a history, without a change, is written when there is room again.
func TestANameOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	b := openBank(t, path, func(c *config) { c.retry = time.Millisecond })
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	b.wait(t)
	makeRoom := limitFiles(t, 1)
	p := b.transfers.Fork()
	require.ErrorContains(t, b.Wait(t.Context(), p), "file too large")
	require.ErrorContains(t, b.Wait(t.Context(), p), "file too large")
	makeRoom()
	for b.Wait(t.Context(), p) != nil {
		runtime.Gosched() // an attempt has begun before there was room
	}
	require.NoError(t, b.Close())
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())
}

// A table that is new to the file, and for which there is no room, leaves all tables as they were.
func TestOpenOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	old := newBank()
	store, err := Open(path, old.tables()[:1])
	require.NoError(t, err)
	_, err = old.accounts.Insert(account{Owner: "Ann"})
	require.NoError(t, err)
	require.NoError(t, store.Close())

	b := newBank()
	for id := range 5000 {
		_, err := b.transfers.Insert(transfer{ID: id})
		require.NoError(t, err)
	}
	makeRoom := fillDisk(t, path)
	_, err = Open(path, b.tables())
	require.ErrorContains(t, err, "file too large")
	require.Zero(t, b.accounts.Seq())
	makeRoom()
	b.Store, err = Open(path, b.tables())
	require.NoError(t, err)
	require.Equal(t, 1, b.accounts.Len())
	require.NoError(t, b.Close())
	again := openBank(t, path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())
}
