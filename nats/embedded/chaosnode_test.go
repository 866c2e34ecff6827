package embedded_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
)

// A node is a process of the chaos test. It follows a bank or publishes it. While it publishes, it
// makes transfers. In both roles it checks what it shows. Its parent writes commands to it, one a line,
// and reads events, one a line.
type node struct {
	name string
	js   jetstream.JetStream
	bank bank
	out  sync.Mutex

	buffer int // of the publisher

	replica   *natsfeed.Replica
	publisher *natsfeed.Publisher
	stopLoad  func()
	ended     chan *natsfeed.Publisher // gets those that have ended

	mu   sync.Mutex
	seen []sighting
}

type account struct {
	Number    int
	Balance   int
	Transfers int
}

type transfer struct {
	Number int // that of the change
	ID     string
}

type bank struct {
	accounts  *changefeed.Table[int, account]
	transfers *changefeed.Table[int, transfer]
}

// A sighting is a transfer that a feed has yielded.
type sighting struct {
	At       changefeed.Position
	Transfer transfer
}

const (
	nodeVariable = "CHANGEFEED_TEST_NODE"
	accountCount = 50
	balance      = 1000 // of each account at first
	writers      = 4
)

// An event is a line that a node writes.
type event struct {
	Kind      string // "role", "acked", "settled", "report", "note" or "failure"
	Text      string // the role, the note or the failure
	Sighting  sighting
	Positions []changefeed.Position
	Report    report
}

type report struct {
	Hash string // of the rows
	Seen int    // number of transfers that the feed has yielded
}

func newBank() bank {
	return bank{
		changefeed.NewTable("accounts", func(a *account) int { return a.Number }),
		changefeed.NewTable("transfers", func(t *transfer) int { return t.Number }),
	}
}

func (b bank) tables() []changefeed.AnyTable { return []changefeed.AnyTable{b.accounts, b.transfers} }

func (b bank) options(more ...natsfeed.Option) []natsfeed.Option {
	return append(more, natsfeed.Rows(b.accounts), natsfeed.Rows(b.transfers), natsfeed.Replicas(3), natsfeed.SnapshotEvery(500))
}

func (b bank) positions() []changefeed.Position {
	return []changefeed.Position{b.accounts.Position(), b.transfers.Position()}
}

// check returns an error if the accounts have another sum, or do not fit to the transfers.
func (b bank) check() error {
	return changefeed.Read(func(tx *changefeed.Tx) error {
		sum, made, rows := 0, 0, 0
		for _, a := range b.accounts.In(tx).All() {
			sum, made, rows = sum+a.Balance, made+a.Transfers, rows+1
		}
		if n := b.transfers.In(tx).Len(); rows > 0 && (sum != accountCount*balance || made != 2*n) {
			return fmt.Errorf("a sum of %d, and %d transfers of accounts with %d transfers", sum, made, n)
		}
		return nil
	}, b.tables()...)
}

// move makes a transfer.
func (b bank) move(id string) (at changefeed.Position, row transfer, err error) {
	from, to := rand.IntN(accountCount), rand.IntN(accountCount-1)
	if to >= from {
		to++
	}
	amount := 1 + rand.IntN(20)
	err = changefeed.Transact(func(tx *changefeed.Tx) error {
		for number, change := range map[int]int{from: -amount, to: amount} {
			if _, err := b.accounts.In(tx).Update(number, func(a *account) { a.Balance += change; a.Transfers++ }); err != nil {
				return err
			}
		}
		row = transfer{b.transfers.In(tx).Len() + 1, id}
		c, err := b.transfers.In(tx).Insert(row)
		at.Seq = c.Seq
		return err
	}, b.tables()...)
	return b.transfers.At(at.Seq), row, err
}

// runNode is the main function of a node.
func runNode(name, buffer, url string) {
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.Name(name))
	n := &node{name: name, bank: newBank(), ended: make(chan *natsfeed.Publisher, 10_000)}
	n.must(err)
	n.buffer, err = strconv.Atoi(buffer)
	n.must(err)
	n.js, err = jetstream.New(conn)
	n.must(err)
	go n.watch(changefeed.Commits(context.Background(), n.bank.tables()))
	commands := make(chan string)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			commands <- lines.Text()
		}
		os.Exit(0) // the parent has ended
	}()
	for {
		select {
		case command := <-commands:
			n.do(command)
		case p := <-n.ended:
			if p == n.publisher {
				n.demote()
			}
		}
	}
}

// demote makes the node a replica, when it has been fenced.
func (n *node) demote() {
	n.publisher.Close()
	n.stopLoad()
	n.publisher = nil
	n.follow()
}

func (n *node) do(command string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	switch command {
	case "publish":
		n.must(changefeed.Transact(func(tx *changefeed.Tx) error {
			for i := range accountCount {
				if _, err := n.bank.accounts.In(tx).Insert(account{Number: i, Balance: balance}); err != nil {
					return err
				}
			}
			return nil
		}, n.bank.accounts))
		n.publisher, err = natsfeed.Publish(ctx, n.js, "bank", n.options()...)
		n.must(err)
		n.load()
	case "follow":
		n.follow()
	case "promote":
		if n.publisher != nil { // another one was promoted meanwhile
			for p := range n.ended {
				if p == n.publisher {
					break
				}
			}
			n.demote()
		}
		n.publisher, err = n.replica.Promote(ctx)
		n.must(err)
		n.load()
	case "settle":
		if n.publisher != nil {
			n.stopLoad()
			n.must(n.publisher.Wait(ctx, n.bank.positions()...))
			n.say(event{Kind: "settled", Positions: n.bank.positions()})
		}
	default: // the positions that it must have for a report
		var positions []changefeed.Position
		n.must(json.Unmarshal([]byte(command), &positions))
		if n.publisher == nil {
			n.must(n.replica.Wait(ctx, positions...))
		}
		n.report()
	}
}

func (n *node) options() []natsfeed.Option {
	return n.bank.options(natsfeed.Buffer(n.buffer), natsfeed.OnError(func(err error) { n.say(event{Kind: "note", Text: err.Error()}) }))
}

func (n *node) follow() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	n.replica, err = natsfeed.Follow(ctx, n.js, "bank", n.options()...)
	n.must(err)
	n.say(event{Kind: "role", Text: "replica"})
}

// load makes transfers until the publisher ends, or stopLoad is called.
func (n *node) load() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	n.stopLoad = func() { cancel(); wg.Wait() }
	p := n.publisher
	for w := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				at, row, err := n.bank.move(fmt.Sprint(n.name, " ", w, " ", time.Now().UnixNano()))
				n.must(err)
				switch err := p.Wait(ctx, at); {
				case err == nil:
					n.say(event{Kind: "acked", Sighting: sighting{at, row}})
				case ctx.Err() != nil:
					return
				case errors.Is(err, natsfeed.ErrFenced), errors.Is(err, natsfeed.ErrClosed):
					n.ended <- p
					return
				default:
					n.must(err)
				}
				time.Sleep(5 * time.Millisecond) // so that the tables do not grow too fast
			}
		})
	}
	n.say(event{Kind: "role", Text: "publisher"})
}

// watch follows the tables. After each commit, a copy that is made of the changes alone must have the
// same sum, and so must the tables. No change may be missing.
func (n *node) watch(commits changefeed.Stream[changefeed.Commit]) {
	copied := make(map[int]int)
	ends := make(map[string]uint64)
	var skip []changefeed.Position // what the copy has already
	reload := func() {
		n.must(changefeed.Read(func(tx *changefeed.Tx) error {
			clear(copied)
			for _, a := range n.bank.accounts.In(tx).All() {
				copied[a.Number] = a.Balance
			}
			accounts, transfers := n.bank.accounts.In(tx).Lineage(), n.bank.transfers.In(tx).Lineage()
			skip = append(accounts, transfers...)
			ends["accounts"], ends["transfers"] = accounts[len(accounts)-1].Seq, transfers[len(transfers)-1].Seq
			return nil
		}, n.bank.tables()...))
	}
	for commit, err := range commits {
		if err != nil {
			reload()
			continue
		}
		for _, c := range commit {
			at := c.Position()
			if c.Seq <= ends[c.Table.Name()] && hasPosition(skip, at) {
				continue
			}
			if want := ends[c.Table.Name()] + 1; c.Seq != want {
				n.must(fmt.Errorf("change %v of %s, and not %d", at, c.Table.Name(), want))
			}
			ends[c.Table.Name()] = c.Seq
			switch row := c.New.(type) {
			case *account:
				copied[row.Number] = row.Balance
			case *transfer:
				n.mu.Lock()
				n.seen = append(n.seen, sighting{at, *row})
				n.mu.Unlock()
			}
		}
		sum := 0
		for _, balance := range copied {
			sum += balance
		}
		if len(copied) == accountCount && sum != accountCount*balance {
			n.must(fmt.Errorf("a feed with a sum of %d", sum))
		}
		n.must(n.bank.check())
	}
}

func hasPosition(lineage []changefeed.Position, at changefeed.Position) bool {
	for _, name := range lineage {
		if name.History == at.History && at.Seq <= name.Seq {
			return true
		}
	}
	return false
}

// report compares what the feed has yielded with the transfers of the final history.
func (n *node) report() {
	n.must(n.bank.check())
	lineage := n.bank.transfers.Lineage()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.seen {
		if !hasPosition(lineage, s.At) {
			continue // the process published it when it had been fenced already
		}
		if row, ok := n.bank.transfers.Get(int(s.At.Seq)); !ok || row != s.Transfer {
			n.must(fmt.Errorf("the feed had %v, and the table has %v", s, row))
		}
	}
	hash := sha256.New()
	for _, a := range n.bank.accounts.All() {
		fmt.Fprintln(hash, a)
	}
	for _, t := range n.bank.transfers.All() {
		fmt.Fprintln(hash, t)
	}
	fmt.Fprintln(hash, n.bank.accounts.Lineage(), lineage)
	n.say(event{Kind: "report", Report: report{hex.EncodeToString(hash.Sum(nil)), len(n.seen)}})
}

func (n *node) say(e event) {
	line, err := json.Marshal(&e)
	n.out.Lock()
	defer n.out.Unlock()
	_, err2 := os.Stdout.Write(append(line, '\n'))
	if err = cmp.Or(err, err2); err != nil {
		os.Exit(1)
	}
}

func (n *node) must(err error) {
	if err != nil {
		n.say(event{Kind: "failure", Text: err.Error()})
		os.Exit(1)
	}
}
