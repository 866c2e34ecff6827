package durable

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
)

// The environment variables of a child: the file, and the kind of its writers.
const (
	childFile = "CHANGEFEED_DURABLE_FILE"
	childKind = "CHANGEFEED_DURABLE_KIND"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		if err := runChild(path, os.Getenv(childKind)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runChild makes transfers until the process is killed. It prints a line "wait POSITION" for each
// transfer that is on disk, and "feed POSITION" for each that a feed has seen.
//
// The writers of the kind "waits" wait after each transfer. Those of "bursts" make more transfers
// than the store's buffer has room for before they wait. With "feed", a feed sees each change
// before the disk does.
func runChild(path, kind string) error {
	b := newBank()
	opts := []Option{Keep(200)}
	if kind == "bursts" {
		opts = append(opts, Buffer(20))
	}
	var err error
	if b.Store, err = Open(path, b.tables(), opts...); err != nil {
		return err
	}
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	say("open")
	if kind == "feed" {
		var at changefeed.Feed
		feed := b.transfers.Changes(context.Background(), changefeed.Track(&at))
		go func() {
			for range feed {
				say("feed %v", at.Position())
			}
		}()
	}
	var writers sync.WaitGroup
	failed := make(chan error, 8)
	for w := range cap(failed) {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(w)))
			for {
				for range map[string]int{"bursts": 50}[kind] + 1 {
					from := r.IntN(10)
					to := (from + 1 + r.IntN(9)) % 10
					if err := b.pay(transfer{0, fmt.Sprint(from), fmt.Sprint(to), 1 + r.IntN(100)}); err != nil {
						failed <- err
						return
					}
				}
				p := b.transfers.Position()
				if err := b.Wait(context.Background(), p); err != nil {
					failed <- err
					return
				}
				say("wait %v", p)
			}
		})
	}
	return <-failed
}

// A process that is killed at a random moment leaves a file with all that Wait has confirmed, and
// with whole transactions only. Feeds resume, and positions of changes that the file lacks are
// refused.
func TestKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bank.db")
	self, err := os.Executable()
	require.NoError(t, err)
	lost, resumed := 0, 0
	var waited changefeed.Position
	rounds := 120
	if testing.Short() {
		rounds = 9
	}
	for round := range rounds {
		kind := []string{"waits", "bursts", "feed"}[round%3]
		child := exec.Command(self)
		child.Env = append(os.Environ(), childFile+"="+path, childKind+"="+kind)
		child.Stderr = os.Stderr
		stdout, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		lines := bufio.NewScanner(stdout)
		require.True(t, lines.Scan())
		require.Equal(t, "open", lines.Text())
		if round == 0 {
			_, err := Open(path, newBank().tables())
			require.ErrorIs(t, err, ErrLocked)
		}
		kill := time.AfterFunc(time.Duration(rand.IntN(40_000))*time.Microsecond, func() { _ = child.Process.Kill() })
		var seen changefeed.Position
		before := waited
		for lines.Scan() {
			word, text, _ := strings.Cut(lines.Text(), " ")
			to := map[string]*changefeed.Position{"wait": &waited, "feed": &seen}[word]
			require.NotNil(t, to, lines.Text())
			var p changefeed.Position
			if p.UnmarshalText([]byte(text)) == nil && p.Seq > to.Seq { // the last line may be cut
				*to = p
			}
		}
		_ = child.Wait()
		kill.Stop()

		if round%5 == 4 && seen.IsZero() {
			continue // the next child finds the file as this one has left it
		}
		b := openBank(t, path, Keep(200))
		requireSums(t, b)
		require.True(t, waited.IsZero() || has(b.transfers.Lineage(), waited), "round %d: %v was confirmed, and the file has %v", round, waited, b.transfers.Lineage())
		if !seen.IsZero() {
			changes, err := changesAfter(b.transfers, seen)
			restored := b.transfers.Seq()
			switch {
			case seen.Seq > restored:
				require.ErrorIs(t, err, changefeed.ErrOtherHistory)
				lost++
			default:
				if _, ok := errors.AsType[*changefeed.SkippedError](err); !ok {
					require.NoError(t, err)
					require.Len(t, changes, int(restored-seen.Seq))
				}
				resumed++
			}
		}
		if kind == "waits" && waited != before && b.transfers.Seq()-waited.Seq < 200 { // nothing was skipped since
			changes, err := changesAfter(b.transfers, waited)
			require.NoError(t, err)
			require.Len(t, changes, int(b.transfers.Seq()-waited.Seq))
		}
		require.NoError(t, b.Close())
	}
	require.Greater(t, waited.Seq, uint64(rounds))
	t.Log(lost, "feeds had seen changes that the disk never got;", resumed, "resumed")
}

// requireSums requires that each transfer is in the balances, and that no number is missing.
func requireSums(t *testing.T, b *bank) {
	t.Helper()
	want := make(map[string]int)
	ids := 0
	for id, transfer := range b.transfers.All() {
		ids++
		require.Equal(t, ids, id, "no transfer is missing")
		want[transfer.From] -= transfer.Amount
		want[transfer.To] += transfer.Amount
	}
	got := make(map[string]int)
	for owner, account := range b.accounts.All() {
		got[owner] = account.Balance
	}
	require.Equal(t, want, got)
	require.Equal(t, uint64(ids), b.transfers.Seq())
	require.Equal(t, 2*b.transfers.Seq(), b.accounts.Seq())
}
