// Cluster runs a leaderboard in three processes, each with a copy of it. One is the publisher, and the
// others are replicas. They are connected by a cluster of three NATS servers, which run in processes
// of their own, too:
//
//	go run ./examples/cluster
//
// It kills the publisher. One of the replicas is promoted, and no score that was acknowledged is lost.
// The node that was killed starts again, and is a replica.
//
// The file node.go is what a program of yours would do, and lease.go decides which node publishes.
// The nodes can also run on other servers: see the flags.
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
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/seed-637b77f9/changefeed/nats/embedded/internal/cluster"
)

const (
	limit  = time.Minute            // for all of it
	every  = 500 * time.Millisecond // is how often the leaderboard of a node is shown
	enough = 25                     // changes to wait for, before the next step
)

// A child is the process of a node.
type child struct {
	name    string
	cmd     *exec.Cmd
	last    report // the last one that it has printed
	shown   time.Time
	running bool
	killed  bool
}

// An event is a report of a child, or its end.
type event struct {
	child  *child
	report report
	ended  bool
	err    error // of the end
}

// A demo runs the nodes, and checks what they report.
type demo struct {
	ctx    context.Context
	urls   string // of the servers
	nodes  []*child
	events chan event
	acked  map[string]int // the score of each player that was acknowledged last
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
	say("start three servers")
	servers, err := cluster.Start(dir, replicas, false)
	if err != nil {
		return err
	}
	defer servers.Close()

	d := &demo{ctx: ctx, urls: servers.URL(), events: make(chan event), acked: make(map[string]int)}
	defer d.group.Wait()
	defer cancel()
	say("start three nodes")
	for _, name := range []string{"node1", "node2", "node3"} {
		c := &child{name: name}
		d.nodes = append(d.nodes, c)
		if err := d.start(c); err != nil {
			return err
		}
	}
	if err := d.agree(enough); err != nil {
		return err
	}

	killed := d.publisher()
	say("kill the publisher, which is %s", killed.name)
	if err := d.kill(killed); err != nil {
		return err
	}
	if err := d.await("a replica to be promoted", func() bool { return d.publisher() != nil }); err != nil {
		return err
	}
	say("%s was promoted, and has all acknowledged scores", d.publisher().name)
	if err := d.agree(d.publisher().last.At.Seq + enough); err != nil {
		return err
	}

	say("start %s again", killed.name)
	if err := d.start(killed); err != nil {
		return err
	}
	if err := d.agree(d.publisher().last.At.Seq + enough); err != nil {
		return err
	}
	say("end")
	return nil
}

func say(format string, args ...any) { fmt.Printf("-- "+format+"\n", args...) }

// start starts a node, which ends when its standard input is closed.
func (d *demo) start(c *child) error {
	c.cmd = exec.CommandContext(d.ctx, os.Args[0], "-node", c.name, "-servers", d.urls)
	c.cmd.Stderr = os.Stderr
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	c.cmd.Cancel = stdin.Close
	c.cmd.WaitDelay = 5 * time.Second // then it is killed
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.running, c.killed, c.last = true, false, report{}
	d.group.Go(func() {
		lines := json.NewDecoder(stdout)
		for {
			var r report
			if lines.Decode(&r) != nil {
				break // the process has ended
			}
			d.send(event{child: c, report: r})
		}
		d.send(event{child: c, ended: true, err: c.cmd.Wait()})
	})
	return nil
}

func (d *demo) send(e event) {
	select {
	case d.events <- e:
	case <-d.ctx.Done():
	}
}

// kill kills a node, and waits for all that it has reported.
func (d *demo) kill(c *child) error {
	c.killed = true
	if err := c.cmd.Process.Kill(); err != nil {
		return err
	}
	return d.await("the end of "+c.name, func() bool { return !c.running })
}

// agree waits until all nodes have the same leaderboard, with more than seq changes.
func (d *demo) agree(seq uint64) error {
	return d.await("the nodes to have the same leaderboard", func() bool {
		p := d.publisher()
		if p == nil || p.last.At.Seq <= seq {
			return false
		}
		for _, c := range d.nodes {
			if c.running && (c.last.At != p.last.At || !reflect.DeepEqual(c.last.Players, p.last.Players)) {
				return false
			}
		}
		return true
	})
}

// publisher returns the node that is the publisher, or nil if there is none.
func (d *demo) publisher() *child {
	for _, c := range d.nodes {
		if c.running && c.last.Role == publisher {
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
			if err := d.take(e); err != nil {
				return err
			}
		case <-d.ctx.Done():
			return fmt.Errorf("while waiting for %s: %w", what, context.Cause(d.ctx))
		}
	}
	return nil
}

// take takes an event. A node that becomes the publisher must have all acknowledged scores.
func (d *demo) take(e event) error {
	c, r := e.child, e.report
	if e.ended {
		c.running = false
		if !c.killed {
			return fmt.Errorf("%s has ended: %w", c.name, e.err)
		}
		return nil
	}
	changed := r.Role != c.last.Role
	c.last = r
	if r.Role == publisher && changed {
		scores := make(map[string]int)
		for _, p := range r.Players {
			scores[p.Name] = p.Score
		}
		for name, score := range d.acked {
			if scores[name] < score {
				return fmt.Errorf("%s becomes the publisher, but %s has a score of %d, and not of %d", c.name, name, scores[name], score)
			}
		}
	}
	if r.Acked != nil {
		d.acked[r.Acked.Name] = max(d.acked[r.Acked.Name], r.Acked.Score)
	}
	if changed || time.Since(c.shown) >= every {
		c.shown = time.Now()
		fmt.Printf("%s %-9s %4d", c.name, r.Role, r.At.Seq)
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
