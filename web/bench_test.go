//go:build unix

package web_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/stretchr/testify/require"
)

// The environment variables of a process of clients: the server's address, and their number.
const (
	clientsOf     = "CHANGEFEED_WEB_ADDRESS"
	clientsNumber = "CHANGEFEED_WEB_CLIENTS"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(clientsOf); address != "" {
		n, _ := strconv.Atoi(os.Getenv(clientsNumber))
		if err := runClients(address, n); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runClients reads feeds, and prints a line for each event that all of them have got.
func runClients(address string, n int) error {
	events := make(chan error, 1024)
	for range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"); err != nil {
			return err
		}
		go func() {
			for lines := bufio.NewReader(conn); ; {
				line, err := lines.ReadSlice('\n')
				if err != nil {
					events <- err
				}
				if len(line) > 5 && string(line[:5]) == "data:" {
					events <- nil
				}
			}
		}()
	}
	out := bufio.NewWriter(os.Stdout)
	for got := 0; ; {
		if err := <-events; err != nil {
			return err
		}
		if got++; got%n == 0 {
			_, _ = out.WriteString("all\n")
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// cpu returns the processor time that this process has used.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// startClients starts a process of clients. The function that it returns waits until all of them have
// got n more events.
func startClients(b *testing.B, server *httptest.Server, clients int) (wait func(n int)) {
	self, err := os.Executable()
	require.NoError(b, err)
	child := exec.Command(self)
	child.Env = append(os.Environ(), clientsOf+"="+server.Listener.Addr().String(), fmt.Sprint(clientsNumber, "=", clients))
	stdout, err := child.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, child.Start())
	b.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	lines := bufio.NewScanner(stdout)
	return func(n int) {
		for range n {
			require.True(b, lines.Scan())
			require.Equal(b, "all", lines.Text())
		}
	}
}

const startEvents = 3 // reset, one row, ready

// Changes are sent to clients in another process. A burst of changes is made, and all clients get
// it, before the next one.
func BenchmarkFanOut(b *testing.B) {
	for _, clients := range []int{1, 100, 1000} {
		for _, burst := range []int{1, 64} {
			b.Run(fmt.Sprintf("clients=%d/burst=%d", clients, burst), func(b *testing.B) {
				players := newPlayers()
				_, err := players.Insert(player{1, "red", 0})
				require.NoError(b, err)
				server := serve(b, web.Changes(players.Selection()))
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				wait := startClients(b, server, clients)
				wait(startEvents)
				runtime.GC()
				runtime.ReadMemStats(&after)
				began, rounds := cpu(b), 0
				b.ReportAllocs()
				for b.Loop() {
					rounds++
					for range burst {
						_, _ = players.Update(1, func(p *player) { p.Score++ })
					}
					wait(burst)
				}
				b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/float64(clients)/1024, "KB/client")
				b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/float64(rounds*burst*clients), "cpu-ns/client/change")
			})
		}
	}
}

// The call of a write beside 1,000 clients, compared with one beside none: of a write that comes
// when all clients wait, and of those that come in a burst.
func BenchmarkWriter(b *testing.B) {
	const clients = 1000
	followed, alone := newPlayers(), newPlayers()
	for _, table := range []*changefeed.Table[int, player]{followed, alone} {
		_, err := table.Insert(player{1, "red", 0})
		require.NoError(b, err)
	}
	wait := startClients(b, serve(b, web.Changes(followed.Selection())), clients)
	wait(startEvents)
	for _, burst := range []int{1, 64} {
		b.Run(fmt.Sprintf("burst=%d", burst), func(b *testing.B) {
			var ours, other []time.Duration
			write := func(table *changefeed.Table[int, player], to *[]time.Duration) {
				for range burst {
					start := time.Now()
					_, _ = table.Update(1, func(p *player) { p.Score++ })
					*to = append(*to, time.Since(start))
				}
			}
			for b.Loop() {
				write(followed, &ours)
				wait(burst)
				write(alone, &other)
			}
			slices.Sort(ours)
			slices.Sort(other)
			b.ReportMetric(float64(ours[len(ours)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(other[len(other)/2].Nanoseconds()), "other-p50-ns")
			b.ReportMetric(float64(ours[len(ours)/2])/float64(other[len(other)/2]), "ratio")
		})
	}
}
