// Cluster shows a leaderboard in three processes. One is the publisher, which changes the scores. The
// others are replicas. Three NATS servers, also in processes of their own, connect them:
//
//	go run ./examples/cluster
//
// The program kills the publisher. A replica is promoted, and goes on with the scores. The program
// checks that no acknowledged write is lost. Then it starts the killed node again, as a replica. All
// of this takes about 8 seconds.
//
// A node is in node.go, and the lease that decides which node publishes is in lease.go. The flags run
// one node, with any servers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/seed-637b77f9/changefeed/nats/embedded/internal/cluster"
)

const (
	limit  = time.Minute            // for all of it
	enough = 20                     // changes between two steps
	every  = 500 * time.Millisecond // is how often a node's leaderboard is shown
)

// A child is the process of a node.
type child struct {
	name   string
	cmd    *exec.Cmd
	last   report // the last one that it has printed
	shown  time.Time
	killed bool
	ended  bool
}

// An event is a report of a child. It is nil if the process has ended.
type event struct {
	child  *child
	report *report
}

// A demo runs the nodes, and checks what they report.
type demo struct {
	ctx    context.Context
	urls   string // of the servers
	nodes  []*child
	events chan event
	acked  map[string]int // the acknowledged score of each player
	writes int            // that were acknowledged
	group  sync.WaitGroup
}

func run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("it takes too long"))
	defer cancel()
	dir, err := os.MkdirTemp("", "changefeed-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	say("start three servers and three nodes")
	servers, err := cluster.Start(dir, replicas, false)
	if err != nil {
		return err
	}
	defer servers.Close()

	d := &demo{ctx: ctx, urls: servers.URL(), events: make(chan event), acked: make(map[string]int)}
	defer d.group.Wait()
	defer cancel() // the nodes end
	for _, name := range []string{"node1", "node2", "node3"} {
		c := &child{name: name}
		d.nodes = append(d.nodes, c)
		if err := d.start(c); err != nil {
			return err
		}
	}
	for range 2 { // first until they follow, and then for some changes
		if err := d.agree(); err != nil {
			return err
		}
	}

	killed := d.publisher()
	say("kill the publisher, %s", killed.name)
	if err := d.kill(killed); err != nil {
		return err
	}
	if err := d.agree(); err != nil {
		return err
	}
	say("start %s again", killed.name)
	if err := d.start(killed); err != nil {
		return err
	}
	return d.agree()
}

func say(format string, args ...any) { fmt.Printf("-- "+format+"\n", args...) }

// start starts a node, which ends when its standard input is closed.
func (d *demo) start(c *child) error {
	cmd := exec.CommandContext(d.ctx, os.Args[0], "-node", c.name, "-servers", d.urls)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, 5*time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	*c = child{name: c.name, cmd: cmd}
	d.group.Go(func() {
		for lines := json.NewDecoder(stdout); ; {
			r := new(report)
			if lines.Decode(r) != nil {
				break
			}
			d.send(event{c, r})
		}
		_ = cmd.Wait() // the node has printed its error
		d.send(event{c, nil})
	})
	return nil
}

func (d *demo) send(e event) {
	select {
	case d.events <- e:
	case <-d.ctx.Done():
	}
}

// kill kills a node, and waits for all that it has printed.
func (d *demo) kill(c *child) error {
	c.killed = true
	if err := c.cmd.Process.Kill(); err != nil {
		return err
	}
	return d.await("the end of "+c.name, func() bool { return c.ended })
}

// agree waits until there are enough further changes, and all nodes have the same leaderboard.
func (d *demo) agree() error {
	from := uint64(0)
	for _, c := range d.nodes {
		from = max(from, c.last.At.Seq)
	}
	err := d.await("the nodes to have the same leaderboard", func() bool {
		p := d.publisher()
		return p != nil && p.last.At.Seq >= from+enough && !slices.ContainsFunc(d.nodes, func(c *child) bool {
			return !c.ended && (c.last.At != p.last.At || !slices.Equal(c.last.Players, p.last.Players))
		})
	})
	if err == nil {
		say("the nodes have the same leaderboard after change %d", d.publisher().last.At.Seq)
	}
	return err
}

// publisher returns the node that is the publisher, or nil.
func (d *demo) publisher() *child {
	for _, c := range d.nodes {
		if !c.ended && c.last.Role == publisher {
			return c
		}
	}
	return nil
}

// await takes events until a condition is true.
func (d *demo) await(what string, condition func() bool) error {
	for !condition() {
		select {
		case e := <-d.events:
			if err := d.take(e.child, e.report); err != nil {
				return err
			}
		case <-d.ctx.Done():
			return fmt.Errorf("while waiting for %s: %w", what, context.Cause(d.ctx))
		}
	}
	return nil
}

// take takes a report. A node that becomes the publisher must have all acknowledged writes. Scores only
// rise, so it is enough to compare the last one of each player.
func (d *demo) take(c *child, r *report) error {
	if c.ended = r == nil; c.ended {
		if !c.killed {
			return fmt.Errorf("%s has ended", c.name)
		}
		return nil
	}
	changed := r.Role != c.last.Role
	c.last = *r
	if changed && r.Role == publisher {
		scores := make(map[string]int)
		for _, p := range r.Players {
			scores[p.Name] = p.Score
		}
		for name, score := range d.acked {
			if scores[name] < score {
				return fmt.Errorf("%s was promoted without the score %d of %s", c.name, score, name)
			}
		}
		say("%s becomes the publisher, and has all %d acknowledged writes", c.name, d.writes)
	}
	if r.Acked != nil {
		d.writes++
		d.acked[r.Acked.Name] = max(d.acked[r.Acked.Name], r.Acked.Score)
	}
	if changed || time.Since(c.shown) >= every {
		c.shown = time.Now()
		fmt.Printf("%s  %-9s  %4d", c.name, r.Role, r.At.Seq)
		for _, p := range r.Players[:min(3, len(r.Players))] {
			fmt.Printf("  %-5s %3d", p.Name, p.Score)
		}
		fmt.Println()
	}
	return nil
}

func main() {
	cluster.Main()
	log.SetFlags(0)
	node := flag.String("node", "", "run one node with this name, until the standard input is closed")
	servers := flag.String("servers", "", "the addresses of the NATS servers of the node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *node != "" {
		log.SetPrefix(*node + " ")
		err = runNode(ctx, *node, *servers)
	} else {
		err = run(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}
