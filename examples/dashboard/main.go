// Dashboard serves a page that shows a fleet of 50,000 simulated devices live, with 2,000 updates a
// second:
//
//	go run ./examples/dashboard
//
// The page follows the devices of one region with the package web. It also follows two views: the
// totals of each region, and the ten hottest devices of all. Its button cuts the connection, and the
// page resumes with the changes that it has missed. The table and its views are shown at
// /debug/changefeed/, by the package web/inspect.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/seed-637b77f9/changefeed/examples/dashboard/fleet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns its exit code: 2 for bad usage, and 1 for other errors.
// An interrupt cancels ctx, and is not an error.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("dashboard", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "Dashboard serves a page that shows a fleet of simulated devices live.")
		flags.PrintDefaults()
	}
	addr := flags.String("addr", "127.0.0.1:8080", "`address` of the server; without a host it is that of this machine alone")
	devices := flags.Int("devices", 50_000, "number of devices")
	rate := flags.Int("rate", 2000, "updates a second")
	end := flags.Duration("for", 0, "`time` after which the program ends, or 0 for never")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0 || *devices < 1 || *rate < 0 || *end < 0:
		flags.Usage()
		return 2
	}
	if *end > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *end)
		defer cancel()
	}
	if err := serve(ctx, *addr, *devices, *rate, stdout); err != nil {
		fmt.Fprintln(stderr, "dashboard:", err)
		return 1
	}
	return 0
}

// serve runs the simulation and the server until ctx ends.
func serve(ctx context.Context, addr string, devices, rate int, stdout io.Writer) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port))
	if err != nil {
		return err
	}
	f := fleet.New()
	if err := f.Populate(devices); err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: 10 * time.Second}
	if _, err := fmt.Fprintf(stdout, "http://%v\n", listener.Addr()); err != nil {
		return errors.Join(err, listener.Close())
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	simulated, served := make(chan error, 1), make(chan error, 1)
	go func() {
		defer cancel()
		simulated <- f.Run(ctx, rate)
	}()
	go func() {
		defer cancel()
		served <- server.Serve(listener)
	}()
	<-ctx.Done()
	return errors.Join(shutdown(server), <-simulated, ignoreClosed(<-served))
}

// shutdown ends the server, and with it the feeds. It gives [http.Server.Shutdown] 200 ms, and then closes all
// connections. Shutdown would otherwise wait for seconds for a connection on which a browser has sent no request.
func shutdown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if server.Shutdown(ctx) == nil {
		return nil
	}
	return server.Close()
}

// ignoreClosed returns an error of Serve, unless it is that of a server that was shut down.
func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
