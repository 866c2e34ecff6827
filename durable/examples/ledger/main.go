// Ledger keeps accounts and transfers in one file. Run it, kill it, and run it again:
//
//	go run ./examples/ledger -file ledger.db -transfers 0 &
//	kill -9 %1
//	go run ./examples/ledger -file ledger.db
//
// The sum of the accounts is always the same. An audit follows the transfers, and goes on where it
// was: no transfer is missing in it, and none is counted twice.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/durable"
)

type account struct {
	Number  int
	Balance int
}

type transfer struct {
	Number   int
	From, To int
	Amount   int
}

// A ledger is two tables that are kept in one file.
type ledger struct {
	accounts  *changefeed.Table[int, account]
	transfers *changefeed.Table[int, transfer]
	store     *durable.Store
}

const (
	accounts = 100
	balance  = 1000 // of each account at first
	writers  = 16
)

func openLedger(file string) (*ledger, error) {
	l := &ledger{
		accounts:  changefeed.NewTable("accounts", func(a *account) int { return a.Number }),
		transfers: changefeed.NewTable("transfers", func(t *transfer) int { return t.Number }),
	}
	var err error
	l.store, err = durable.Open(file, []durable.Table{durable.Rows(l.accounts), durable.Rows(l.transfers)},
		durable.Keep(100_000), durable.OnError(func(err error) { log.Print(err) }))
	if err != nil {
		return nil, err
	}
	return l, changefeed.Transact(func(tx *changefeed.Tx) error {
		table := l.accounts.In(tx)
		for number := range accounts {
			if table.Len() < accounts {
				if _, err := table.Insert(account{number, balance}); err != nil {
					return err
				}
			}
		}
		return nil
	}, l.accounts)
}

// transfer makes a transfer, and waits until it is on disk.
func (l *ledger) transfer(ctx context.Context, from, to, amount int) error {
	var at changefeed.Position
	err := changefeed.Transact(func(tx *changefeed.Tx) error {
		transfers := l.transfers.In(tx)
		c, err := transfers.Insert(transfer{transfers.Len() + 1, from, to, amount})
		if err != nil {
			return err
		}
		at = l.transfers.At(c.Seq)
		for number, amount := range map[int]int{from: -amount, to: amount} {
			if _, err := l.accounts.In(tx).Update(number, func(a *account) { a.Balance += amount }); err != nil {
				return err
			}
		}
		return nil
	}, l.accounts, l.transfers)
	if err != nil {
		return err
	}
	return l.store.Wait(ctx, at)
}

// write makes n transfers, or transfers until ctx is done if n is 0.
func (l *ledger) write(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := w; ctx.Err() == nil && (n == 0 || i < n); i += writers {
				from := rand.IntN(accounts)
				to := (from + 1 + rand.IntN(accounts-1)) % accounts
				if err := l.transfer(ctx, from, to, 1+rand.IntN(10)); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// An audit is what a consumer has made of the transfers up to a position. Both are saved together.
type audit struct {
	At        changefeed.Position
	Transfers int
	Amount    int
}

// follow brings the audit up to date with the transfers, and saves it every 1,000 transfers, until
// ctx is done. A poll ends when there is nothing more to read.
func (a *audit) follow(ctx context.Context, l *ledger, file string, opts ...changefeed.FeedOption) error {
	var feed changefeed.Feed
	opts = append(opts, changefeed.After(a.At), changefeed.OnOverflow(changefeed.Resync), changefeed.Track(&feed))
	saved := a.Transfers
	for c, err := range l.transfers.Changes(ctx, opts...) {
		if _, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			*a, saved = audit{}, 0 // the present transfers follow
			continue
		}
		if err != nil {
			return err
		}
		if c.New != nil {
			a.Transfers++
			a.Amount += c.New.Amount
		}
		if a.At = feed.Position(); a.Transfers-saved >= 1000 {
			if err := a.save(ctx, l, file); err != nil {
				return err
			}
			saved = a.Transfers
		}
	}
	return a.save(ctx, l, file)
}

// save saves the audit when the ledger is on disk up to it. Otherwise it could be ahead of a ledger
// that was killed.
func (a *audit) save(ctx context.Context, l *ledger, file string) error {
	if err := l.store.Wait(ctx, a.At); err != nil {
		return err
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func run() error {
	file := flag.String("file", "ledger.db", "the file of the ledger; the audit is beside it")
	transfers := flag.Int("transfers", 1000, "how many transfers to make, 0 for as many as there is time for")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	l, err := openLedger(*file)
	if err != nil {
		return err
	}
	var a audit
	text, err := os.ReadFile(*file + ".audit")
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Printf("%d transfers, %d of them audited\n", l.transfers.Len(), a.Transfers)

	following, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.follow(following, l, *file+".audit") }()
	err = l.write(ctx, *transfers)
	end()
	if followed := <-done; !errors.Is(followed, context.Canceled) {
		err = errors.Join(err, followed)
	}
	if err != nil {
		return errors.Join(err, l.store.Close())
	}
	if err := a.follow(context.Background(), l, *file+".audit", changefeed.Poll(nil)); err != nil {
		return err
	}

	sum, amount := 0, 0
	for _, a := range l.accounts.All() {
		sum += a.Balance
	}
	for _, t := range l.transfers.All() {
		amount += t.Amount
	}
	fmt.Printf("%d transfers, %d of them audited\n", l.transfers.Len(), a.Transfers)
	if sum != accounts*balance || a.Transfers != l.transfers.Len() || a.Amount != amount {
		return fmt.Errorf("the sum of the accounts is %d, the audit is %+v, and the transfers move %d", sum, a, amount)
	}
	fmt.Println("the sum is right, and so is the audit")
	return l.store.Close()
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
