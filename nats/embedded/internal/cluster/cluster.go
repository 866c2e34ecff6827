// Package cluster runs a cluster of NATS servers on the loopback interface, each in a process of its
// own, which can be killed. It is for tests and examples.
package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// variable is the environment variable that makes a process a server. It has the server's config.
const variable = "CHANGEFEED_TEST_SERVER"

// A config is what a server process needs to know.
type config struct {
	Name       string
	Dir        string
	Port       int   // for clients
	Routes     []int // the ports for the other servers; the first is that of this one
	SyncAlways bool
}

// Main must be called first by the main function, or TestMain, of a program that calls [Start]. In a
// process that is to be a server, it runs the server and does not return.
func Main() {
	text := os.Getenv(variable)
	if text == "" {
		return
	}
	if err := run(text); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(text string) error {
	var c config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	opts := &server.Options{
		ServerName: c.Name, Host: "127.0.0.1", Port: c.Port,
		JetStream: true, StoreDir: c.Dir, SyncAlways: c.SyncAlways, NoSigs: true, NoLog: true,
	}
	if len(c.Routes) > 1 {
		opts.Cluster = server.ClusterOpts{Name: "changefeed", Host: "127.0.0.1", Port: c.Routes[0], NoAdvertise: true}
	}
	for _, port := range c.Routes[1:] {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: address(port)})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	go s.Start()
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it, or ends
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// A Cluster is some servers.
type Cluster struct {
	dir     string
	always  bool
	clients []int
	routes  []int
	servers []*process
}

type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// Start starts n servers, which have their files in a directory. If syncAlways is true, they write
// each message to the disk before they acknowledge it.
func Start(dir string, n int, syncAlways bool) (*Cluster, error) {
	ports, err := freePorts(2 * n)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	c := &Cluster{dir, syncAlways, ports[:n], ports[n:], make([]*process, n)}
	for i := range n {
		if err := c.Start(i); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// freePorts returns ports on which nobody listens.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// URL returns the addresses of all servers, for nats.Connect.
func (c *Cluster) URL() string {
	var urls []string
	for i := range c.clients {
		urls = append(urls, "nats://"+c.Address(i))
	}
	return strings.Join(urls, ",")
}

// Address returns the address of a server, for clients.
func (c *Cluster) Address(i int) string { return address(c.clients[i]) }

// Len returns the number of servers.
func (c *Cluster) Len() int { return len(c.clients) }

// Name returns the name of a server.
func (c *Cluster) Name(i int) string { return fmt.Sprintf("server%d", i) }

// Start starts a server that was killed.
func (c *Cluster) Start(i int) error {
	cfg := config{Name: c.Name(i), Dir: filepath.Join(c.dir, c.Name(i)), Port: c.clients[i], SyncAlways: c.always}
	cfg.Routes = append(cfg.Routes, c.routes[i])
	for j, port := range c.routes {
		if j != i {
			cfg.Routes = append(cfg.Routes, port)
		}
	}
	text, err := json.Marshal(&cfg)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	c.servers[i] = &process{cmd, stdin}
	for range 600 {
		conn, err := net.Dial("tcp", c.Address(i))
		if err == nil {
			return conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("cluster: a server does not start")
}

// Kill kills a server, which has no time to write anything more.
func (c *Cluster) Kill(i int) error {
	p := c.servers[i]
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait() // says that it was killed
	_ = p.stdin.Close()
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// Close ends all servers.
func (c *Cluster) Close() {
	for _, p := range c.servers {
		if p != nil {
			_ = p.stdin.Close()
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	}
}
