//go:build unix

package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded/internal/cluster"
	"github.com/stretchr/testify/require"
)

var (
	faults    = flag.Int("faults", 10, "number of faults in TestFaults")
	faultSeed = flag.Uint64("faultseed", rand.Uint64(), "seed of TestFaults")
)

// Three servers keep three copies of a log. Three processes have the tables, and one of them publishes
// transfers between accounts. Faults come one after the other. Nothing that was acknowledged is lost,
// nothing is there twice, no process ever shows another sum, and what a feed yields is the history that
// all processes have in the end.
func TestFaults(t *testing.T) {
	t.Parallel()
	t.Logf("-faultseed %d", *faultSeed)
	c := startChaos(t, *faultSeed)
	c.nodes[0].do("publish")
	c.progress()
	for _, n := range c.nodes[1:] {
		n.do("follow")
	}
	kinds := []struct {
		name string
		do   func()
	}{
		{"kill the server that leads the log", c.killLeader},
		{"kill the publisher", c.killPublisher},
		{"cut a connection", c.cut},
		{"stop the publisher, promote, and let it go on", c.stopPublisher},
		{"promote beside the publisher", func() { c.promote(c.other()) }},
	}
	for i := range *faults {
		kind := kinds[i%len(kinds)] // each kind as often, but in random order
		if i%len(kinds) == 0 {
			c.rand.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
			kind = kinds[0]
		}
		began := time.Now()
		kind.do()
		c.progress()
		t.Logf("%3d. %s: %v", i+1, kind.name, time.Since(began).Round(time.Millisecond))
	}
	c.finish()
}

// A chaos is the state of the test.
type chaos struct {
	t       *testing.T
	rand    *rand.Rand
	servers *cluster.Cluster
	js      jetstream.JetStream // of the test itself
	nodes   []*nodeProcess
	buffer  int // of a publisher
	current int // the node that was told last to publish

	mu      sync.Mutex
	acked   []sighting
	changed chan struct{} // closed when there is another event
}

// A nodeProcess is a node, seen from the test.
type nodeProcess struct {
	c     *chaos
	index int
	proxy *proxy
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{} // closed when the process has written its last event
	// These belong to c.mu.
	acks    int // since it was told last to publish
	settled *event
	report  *report
	killed  bool
}

func startChaos(t *testing.T, seed uint64) *chaos {
	servers, err := cluster.Start(filepath.Join(t.TempDir(), "cluster"), 3, false)
	require.NoError(t, err)
	t.Cleanup(servers.Close)
	c := &chaos{t: t, rand: rand.New(rand.NewPCG(seed, 0)), servers: servers, js: connect(t, servers.URL()), changed: make(chan struct{})}
	c.buffer = []int{8, 1000}[c.rand.IntN(2)] // 8 is too few while the servers elect a leader, so there are gaps
	t.Logf("a buffer of %d changes", c.buffer)
	for i := range 3 {
		n := &nodeProcess{c: c, index: i, proxy: startProxy(t, servers)}
		c.nodes = append(c.nodes, n)
		n.start()
		t.Cleanup(n.kill)
	}
	return c
}

func (n *nodeProcess) start() {
	cmd := exec.Command(os.Args[0], fmt.Sprint("node", n.index), fmt.Sprint(n.c.buffer))
	cmd.Env = append(os.Environ(), nodeVariable+"=nats://"+n.proxy.address())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(n.c.t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(n.c.t, err)
	require.NoError(n.c.t, cmd.Start())
	n.cmd, n.stdin, n.ended = cmd, stdin, make(chan struct{})
	n.killed = false
	go n.read(stdout, n.ended)
}

// read reads the events of the process.
func (n *nodeProcess) read(from io.Reader, ended chan struct{}) {
	defer close(ended)
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the last line of a killed process may be a part of one
			n.c.mu.Lock()
			if !n.killed {
				n.c.t.Errorf("node %d has ended", n.index)
			}
			n.c.mu.Unlock()
			return
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			n.c.t.Errorf("node %d: %q: %v", n.index, line, err)
			continue
		}
		n.c.take(n, &e)
	}
}

func (c *chaos) take(n *nodeProcess, e *event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case "acked":
		c.acked = append(c.acked, e.Sighting)
		n.acks++
	case "settled":
		n.settled = e
	case "report":
		n.report = &e.Report
	case "failure":
		c.t.Errorf("node %d: %s", n.index, e.Text)
	default:
		if testing.Verbose() {
			c.t.Logf("     node %d: %s %s", n.index, e.Kind, e.Text)
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait waits until a condition holds, which it calls with c.mu.
func (c *chaos) wait(what string, condition func() bool) {
	c.t.Helper()
	timeout := time.After(time.Minute)
	for {
		c.mu.Lock()
		ok, changed := condition(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			c.t.Fatalf("%s: not within a minute", what)
		}
		if c.t.Failed() {
			c.t.FailNow()
		}
	}
}

// progress waits until the publisher has got some more acknowledgements.
func (c *chaos) progress() {
	c.t.Helper()
	n := c.nodes[c.current]
	c.mu.Lock()
	enough := n.acks + 50
	c.mu.Unlock()
	c.wait("acknowledgements", func() bool { return n.acks >= enough })
}

func (n *nodeProcess) do(command string) {
	_, err := io.WriteString(n.stdin, command+"\n")
	require.NoError(n.c.t, err)
}

func (n *nodeProcess) kill() {
	n.c.mu.Lock()
	n.killed = true
	n.c.mu.Unlock()
	_ = n.cmd.Process.Kill()
	<-n.ended // before Wait closes the pipe
	_ = n.cmd.Wait()
}

// other returns a node that is not the publisher.
func (c *chaos) other() int { return (c.current + 1 + c.rand.IntN(2)) % 3 }

func (c *chaos) promote(i int) {
	c.current = i
	c.nodes[i].do("promote")
}

func (c *chaos) killPublisher() {
	old := c.nodes[c.current]
	old.kill()
	c.promote(c.other())
	old.start()
	old.do("follow")
}

func (c *chaos) stopPublisher() {
	old := c.nodes[c.current]
	require.NoError(c.t, old.cmd.Process.Signal(syscall.SIGSTOP))
	c.promote(c.other())
	c.progress()
	require.NoError(c.t, old.cmd.Process.Signal(syscall.SIGCONT))
}

// cut cuts a connection. Some of the time, the node cannot connect again for a second or two.
func (c *chaos) cut() {
	c.nodes[c.rand.IntN(3)].proxy.cut(time.Duration(max(0, c.rand.IntN(3000)-1000)) * time.Millisecond)
}

// killLeader kills the server that leads the log, and starts it again when the others go on.
func (c *chaos) killLeader() {
	leader := c.leader()
	require.NoError(c.t, c.servers.Kill(leader))
	c.progress()
	require.NoError(c.t, c.servers.Start(leader))
	require.Eventually(c.t, c.isCurrent, time.Minute, 20*time.Millisecond)
}

func (c *chaos) leader() (leader int) {
	require.Eventually(c.t, func() bool {
		info := c.info()
		for i := range c.servers.Len() {
			if info != nil && info.Leader == c.servers.Name(i) {
				leader = i
				return true
			}
		}
		return false
	}, time.Minute, 20*time.Millisecond)
	return leader
}

// isCurrent reports whether all servers have what the leader has.
func (c *chaos) isCurrent() bool {
	info := c.info()
	if info == nil || info.Leader == "" || len(info.Replicas) != 2 {
		return false
	}
	for _, r := range info.Replicas {
		if r.Offline || !r.Current {
			return false
		}
	}
	return true
}

func (c *chaos) info() *jetstream.ClusterInfo {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	s, err := c.js.Stream(ctx, "changefeed_bank")
	if err != nil {
		return nil
	}
	return s.CachedInfo().Cluster
}

// finish ends the load, and compares what everybody has.
func (c *chaos) finish() {
	publisher := c.nodes[c.current]
	publisher.do("settle")
	c.wait("settle", func() bool { return publisher.settled != nil })
	command, err := json.Marshal(publisher.settled.Positions)
	require.NoError(c.t, err)
	seen := 0
	for i := range c.nodes { // the publisher is the first
		n := c.nodes[(c.current+i)%len(c.nodes)]
		n.do(string(command))
		c.wait("report", func() bool { return n.report != nil })
		require.Equal(c.t, publisher.report.Hash, n.report.Hash)
		seen += n.report.Seen
	}
	final := newBank()
	r, err := natsfeed.Follow(within(c.t), c.js, "bank", final.options(fail(c.t))...)
	require.NoError(c.t, err)
	defer r.Close()
	require.NoError(c.t, r.Wait(within(c.t), publisher.settled.Positions...))
	require.NoError(c.t, final.check())
	ids := make(map[string]bool)
	for _, row := range final.transfers.All() {
		require.False(c.t, ids[row.ID], "%v is there twice", row)
		ids[row.ID] = true
	}
	lineage := final.transfers.Lineage()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.acked {
		require.True(c.t, hasPosition(lineage, s.At), "%v was acknowledged", s)
		row, _ := final.transfers.Get(s.Transfer.Number)
		require.Equal(c.t, s.Transfer, row)
	}
	c.t.Logf("%d transfers, of which %d were acknowledged to their writer; %d in feeds; %d histories",
		final.transfers.Len(), len(c.acked), seen, len(lineage))
}

// A proxy is what a node connects to, instead of a server.
type proxy struct {
	listener net.Listener
	servers  *cluster.Cluster
	mu       sync.Mutex
	conns    map[net.Conn]bool
	until    time.Time // no connections before
	next     int
}

func startProxy(t *testing.T, servers *cluster.Cluster) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, servers: servers, conns: make(map[net.Conn]bool)}
	t.Cleanup(func() { _ = l.Close(); p.cut(time.Hour) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.forward(conn)
		}
	}()
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// forward connects a node with the next server that can be reached.
func (p *proxy) forward(client net.Conn) {
	defer func() { _ = client.Close() }()
	p.mu.Lock()
	p.next++
	i, closed := p.next%p.servers.Len(), time.Now().Before(p.until)
	p.mu.Unlock()
	if closed {
		return
	}
	server, err := net.Dial("tcp", p.servers.Address(i))
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
		wg.Go(func() {
			_, _ = io.Copy(to, from)
			_, _ = client.Close(), server.Close()
		})
	}
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// cut closes all connections, and accepts none for some time.
func (p *proxy) cut(during time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = time.Now().Add(during)
	for conn := range p.conns {
		_ = conn.Close()
	}
}
