// Package embedded runs a NATS server in the process, for programs of one node and for tests. Programs
// of several processes run nats-server -js, or a cluster of them, and need the package natsfeed only.
package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Server is a NATS server with JetStream in this process.
type Server struct {
	jetstream.JetStream // of a connection within the process
	server              *server.Server
	conn                *nats.Conn
	lock                *flock.Flock
}

// Start starts a server whose JetStream has its files in a directory, which it makes if there is none.
// Nobody else can connect to it. Another server in the same directory is an error, also in another
// process.
func Start(dir string) (*Server, error) {
	if dir == "" {
		return nil, errors.New("embedded: no directory")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "changefeed.lock"))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("embedded: another server runs in %s", dir)
	}
	s, err := start(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: %w", err), lock.Close())
	}
	s.lock = lock
	return s, nil
}

func start(dir string) (*Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "changefeed", DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, err
	}
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the server does not start")
	}
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		s.Shutdown()
		return nil, err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		s.Shutdown()
		return nil, err
	}
	return &Server{JetStream: js, server: s, conn: conn}, nil
}

// Close closes the connection and ends the server.
func (s *Server) Close() {
	s.conn.Close()
	s.server.Shutdown()
	s.server.WaitForShutdown()
	_ = s.lock.Close()
}
