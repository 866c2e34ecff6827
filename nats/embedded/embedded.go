// Package embedded runs a NATS server in the process, for programs of one node and for tests. A
// program that connects to a cluster needs the package natsfeed only.
package embedded

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Server is a NATS server with JetStream in this process.
type Server struct {
	jetstream.JetStream // of a connection within the process
	server              *server.Server
	conn                *nats.Conn
}

// Start starts a server whose JetStream has its files in a directory. Nobody else can connect to it.
func Start(dir string) (*Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "changefeed", DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("embedded: the server does not start")
	}
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("embedded: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		s.Shutdown()
		return nil, fmt.Errorf("embedded: %w", err)
	}
	return &Server{js, s, conn}, nil
}

// Close closes the connection and ends the server.
func (s *Server) Close() {
	s.conn.Close()
	s.server.Shutdown()
	s.server.WaitForShutdown()
}
