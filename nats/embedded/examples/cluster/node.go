package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
)

const (
	feedName = "leaderboard"
	replicas = 3                     // servers that have the log and the lease
	leaseTTL = 2 * time.Second       // a failed publisher is replaced after this time
	pace     = 50 * time.Millisecond // between two writes
)

// A player is a row of the leaderboard.
type player struct {
	Name  string
	Score int
}

// A report is a line of JSON. A node prints one when its leaderboard or its role has changed.
type report struct {
	Role    role
	At      changefeed.Position
	Players []player // the best first
	Acked   *player  // a score that JetStream has just acknowledged, or nil
}

type role string

const (
	replica   role = "replica"
	publisher role = "publisher"
)

// A node has a replica of the leaderboard. While it holds the lease, it is the publisher.
type node struct {
	js      jetstream.JetStream
	lease   *lease
	players *changefeed.Table[string, player]
	opts    []natsfeed.Option

	mu   sync.Mutex
	role role
	out  *json.Encoder
}

// runNode runs a node until its standard input is closed, or ctx ends.
func runNode(ctx context.Context, name, urls string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	conn, err := nats.Connect(urls, nats.Name(name), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer conn.Close()

	n := &node{out: json.NewEncoder(os.Stdout), players: changefeed.NewTable("players", func(p *player) string { return p.Name })}
	n.opts = []natsfeed.Option{
		natsfeed.Rows(n.players), natsfeed.Replicas(replicas), natsfeed.OnError(func(err error) { log.Print(err) }),
	}
	if n.js, err = jetstream.New(conn); err != nil {
		return err
	}
	go n.show(n.players.Changes(ctx))
	n.lease, err = newLease(ctx, n.js, "leases", name, leaseTTL, replicas)
	for err == nil {
		err = n.serve(ctx)
		if errors.Is(err, errLeaseLost) || errors.Is(err, natsfeed.ErrFenced) {
			log.Print("does not publish any more: ", err)
			err = nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve follows the leaderboard until the node has the lease. Then it publishes until the lease is
// lost, or another node is promoted. By then, the table may have changes that are not in the log. The
// next call of serve discards them, because Follow resets the table.
func (n *node) serve(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	n.become(replica)
	following, stop := context.WithCancel(ctx)
	defer stop()
	followed := make(chan *natsfeed.Replica, 1)
	go func() {
		rep, err := natsfeed.Follow(following, n.js, feedName, n.opts...)
		if err != nil && following.Err() == nil {
			fail(err)
		}
		followed <- rep
	}()

	held, err := n.lease.acquire(ctx)
	stop() // Follow may still wait for the first publisher, which is this node
	rep := <-followed
	if rep != nil {
		defer rep.Close()
	}
	if err != nil {
		return err
	}
	pub, err := n.publish(held, rep)
	if held.Err() != nil {
		err = context.Cause(held) // and not whatever that has led to
	}
	if pub != nil {
		defer pub.Close()
	}
	if err != nil {
		return err
	}
	n.become(publisher)
	return n.play(held, pub)
}

// publish makes the node the publisher. rep is nil if the node did not have the time to follow, or if
// there was nothing to follow. ctx ends with the lease.
func (n *node) publish(ctx context.Context, rep *natsfeed.Replica) (*natsfeed.Publisher, error) {
	if rep == nil {
		pub, err := natsfeed.Publish(ctx, n.js, feedName, n.opts...)
		if !errors.Is(err, natsfeed.ErrPublished) {
			return pub, err
		}
		if rep, err = natsfeed.Follow(ctx, n.js, feedName, n.opts...); err != nil {
			return nil, err
		}
		defer rep.Close() // after Promote, it does nothing
	}
	return rep.Promote(ctx)
}

// play changes scores until ctx ends or the publisher fails. It waits for the acknowledgement of each.
func (n *node) play(ctx context.Context, pub *natsfeed.Publisher) error {
	names := []string{"Alice", "Bob", "Carol", "Dave", "Eve", "Frank"}
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		name := names[rand.IntN(len(names))]
		c, err := n.players.Compute(name, func(p *player) *player {
			if p == nil {
				p = &player{Name: name}
			}
			p.Score += 1 + rand.IntN(10)
			return p
		})
		if err != nil {
			return err
		}
		if err := pub.Wait(ctx, n.players.At(c.Seq)); err != nil {
			return err
		}
		n.print(c.New)
	}
}

// show prints the leaderboard after each change. It follows the table, so it goes on when a replica is
// promoted, and when the table is reset.
func (n *node) show(feed changefeed.Stream[changefeed.Change[player]]) {
	for _, err := range feed {
		if _, skipped := errors.AsType[*changefeed.SkippedError](err); err == nil || skipped {
			n.print(nil)
		}
	}
}

func (n *node) become(r role) {
	n.mu.Lock()
	n.role = r
	n.mu.Unlock()
	n.print(nil)
}

// print prints a report.
func (n *node) print(acked *player) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := report{Role: n.role, Acked: acked}
	_ = changefeed.Read(func(tx *changefeed.Tx) error {
		players := n.players.In(tx)
		for _, p := range players.All() {
			r.Players = append(r.Players, p)
		}
		lineage := players.Lineage()
		r.At = lineage[len(lineage)-1]
		return nil
	}, n.players)
	slices.SortStableFunc(r.Players, func(a, b player) int { return cmp.Compare(b.Score, a.Score) })
	_ = n.out.Encode(&r) // if it fails, the parent has ended, and so does the node
}
