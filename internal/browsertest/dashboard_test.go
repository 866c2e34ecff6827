package browsertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/seed-637b77f9/changefeed/durable"
	"github.com/seed-637b77f9/changefeed/examples/dashboard/fleet"
	"github.com/stretchr/testify/require"
)

// simulate runs the simulation of a fleet until the test ends, or until stop is called.
func simulate(t *testing.T, f *fleet.Fleet, updatesPerSecond int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, updatesPerSecond) }()
	stop = func() {
		cancel()
		if err, ok := <-done; ok {
			close(done)
			require.NoError(t, err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// serve serves a handler at an address until the test ends, or until stop is called.
func serve(t *testing.T, addr string, h http.Handler) (url string, stop func()) {
	listener, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	server := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Shutdown(ctx) // ends the feeds, and does not wait for them
		require.NoError(t, server.Close())
		if err, ok := <-done; ok {
			close(done)
			require.ErrorIs(t, err, http.ErrServerClosed)
		}
	}
	t.Cleanup(stop)
	return "http://" + listener.Addr().String(), stop
}

// newFleet returns a fleet of 1,000 devices.
func newFleet(t *testing.T) *fleet.Fleet {
	f := fleet.New()
	require.NoError(t, f.Populate(1000))
	return f
}

// hot makes a device of Frankfurt the hottest of all.
func hot(t *testing.T, f *fleet.Fleet, temperature float64) {
	for id, d := range f.Devices.All() {
		if d.Region == "frankfurt" {
			_, err := f.Devices.Update(id, func(d *fleet.Device) { d.Status, d.Temperature, d.Load = fleet.Hot, temperature, 1 })
			require.NoError(t, err)
			return
		}
	}
	require.Fail(t, "there is no device")
}

// count returns how many devices a region has.
func count(f *fleet.Fleet, region string) string {
	n := 0
	for _, d := range f.Devices.All() {
		if d.Region == region {
			n++
		}
	}
	return fmt.Sprint(n)
}

// waitChange waits until the element shows another text.
func (p *tab) waitChange(selector string) {
	p.Helper()
	p.wait(fmt.Sprintf("document.querySelector(%s).textContent !== %s", quote(selector), quote(p.text(selector))))
}

// requireViews waits until the page shows the totals of all regions, and the hottest devices in the
// order of their ranks.
func (p *tab) requireViews(f *fleet.Fleet) {
	p.Helper()
	var regions, hottest []string
	for _, r := range fleet.Regions {
		total, ok := f.Totals.Get(r.ID)
		require.True(p, ok)
		mean := float64(total.Value.Tenths) / 10 / float64(total.Count-total.Value.Offline)
		regions = append(regions, fmt.Sprintf("%s %.1f° %d hot", r.Name, mean, total.Value.Hot))
	}
	for _, d := range f.Hottest.All() {
		hottest = append(hottest, fmt.Sprintf("%d %s %.1f°", len(hottest)+1, d.Name, d.Temperature))
	}
	p.wait(fmt.Sprintf(`JSON.stringify([...document.querySelectorAll("#regions a")].map((link) => [...link.children].map((part) => part.textContent).join(" "))) === %s`,
		quote(quote(regions))))
	p.wait(fmt.Sprintf(`JSON.stringify([...document.querySelectorAll("#hottest tr")].map(({ cells }) => [0, 1, 3].map((i) => cells[i].textContent).join(" "))) === %s`,
		quote(quote(hottest))))
	total, _ := f.Totals.Get("frankfurt")
	p.wait(fmt.Sprintf(`[...document.querySelectorAll("#statuses b")].map((b) => b.textContent).join() === %s`,
		quote(fmt.Sprintf("%d,%d,%d,%d", total.Value.OK, total.Value.Warm, total.Value.Hot, total.Value.Offline))))
}

// The dashboard shows rows that change, resumes after its button has cut the connection, and follows
// the region that is chosen.
func TestDashboard(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := simulate(t, f, 500)
	url, _ := serve(t, "127.0.0.1:0", f.Handler())
	p := open(t, url, nil)
	p.waitText("#state", "live")
	p.waitText("#devices", count(f, "frankfurt"))
	p.waitText("#fleet", "1,000 devices in 10 regions")
	p.wait("document.querySelectorAll('#rows tr').length === 50 && document.querySelectorAll('#hottest tr').length === 10")
	for _, selector := range []string{"#rows .temperature", "#mean", "#hottest .temperature", "#rows", "#regions b"} {
		p.waitChange(selector)
	}
	p.wait("Number(document.querySelector('#rate').textContent) > 0")
	p.wait("document.querySelector('#means polyline').getAttribute('points').length > 20")
	require.Equal(t, "1 1 0", p.text("#connects")+" "+p.text("#resets")+" "+p.text("#resumed"))

	p.click("#cut")
	p.waitText("#connects", "2")
	p.waitText("#state", "live")
	p.wait("document.querySelector('#log').textContent.includes('Resumed after')")
	p.waitChange("#rows")
	require.Equal(t, "1", p.text("#resets"))
	require.NotEqual(t, "0", p.text("#resumed"))

	p.run(`document.querySelector("#region").focus()`)
	do(p, "choose Tokyo", chromedp.KeyEvent("Tok"))
	p.wait(`location.hash === "#tokyo" && document.title === "Tokyo · Fleet"`)
	p.wait(`document.querySelector("#rows").dataset.region === "tokyo" && document.querySelector("#state").textContent === "live"`)
	p.waitText("#devices", count(f, "tokyo"))
	p.wait(`[...document.querySelectorAll("#rows .device")].every((cell) => cell.textContent.startsWith("tok-"))`)
	require.Equal(t, "Tokyo", p.text("#regions [aria-current=true] span"))
	require.Equal(t, "1 1 Tokyo", p.text("#connects")+" "+p.text("#resets")+" "+p.text("#place"))

	p.click("#statuses [data-status=warm]")
	p.wait(`document.querySelector("#shown").textContent.includes("warm") && [...document.querySelectorAll("#rows .status")].every((cell) => cell.textContent === "warm")`)
	p.click("#statuses [data-status=warm]")
	p.wait(`!document.querySelector("#shown").textContent.includes("warm")`)

	p.click("#regions [href='#london']")
	p.wait(`document.querySelector("#rows").dataset.region === "london" && document.querySelector("#region").value === "london"`)
	p.run("history.go(-2)")
	p.wait(`document.querySelector("#rows").dataset.region === "frankfurt" && document.querySelector("#region").value === "frankfurt"`)
	p.waitChange("#rows")

	stop()
	p.requireViews(f)
}

// A page survives restarts of a server whose tables are durable. It resumes, unless it saw more than
// the disk did.
func TestRestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "fleet.db")
	// start starts a server with the fleet in a file.
	start := func(addr, file string) (f *fleet.Fleet, store *durable.Store, url string, stop func()) {
		f = fleet.New()
		store, err := durable.Open(file, []durable.Table{durable.Rows(f.Devices)}, durable.Keep(10_000))
		require.NoError(t, err)
		t.Cleanup(func() { _ = store.Close() })
		require.NoError(t, f.Populate(1000))
		stopRun := simulate(t, f, 0)
		url, stopServer := serve(t, addr, f.Handler())
		return f, store, url, func() {
			stopServer()
			stopRun()
			require.NoError(t, store.Close())
		}
	}

	f, _, url, stop := start("127.0.0.1:0", file)
	addr := url[len("http://"):]
	p := open(t, url, isNetworkError)
	p.waitText("#state", "live")
	p.waitText("#devices", count(f, "frankfurt"))
	hot(t, f, 97.1)
	p.waitText("#rows .temperature", "97.1°")

	stop()
	p.waitText("#state", "connecting")
	f, store, _, stop := start(addr, file)
	hot(t, f, 98.2)
	p.waitText("#rows .temperature", "98.2°")
	p.waitText("#hottest .temperature", "98.2°")
	p.waitText("#state", "live")
	require.Equal(t, "2 1", p.text("#connects")+" "+p.text("#resets"))

	// The page sees a change that the next server does not know.
	backup := filepath.Join(t.TempDir(), "backup.db")
	require.NoError(t, store.Wait(t.Context(), f.Devices.At(f.Devices.Seq())))
	w, err := os.Create(backup)
	require.NoError(t, err)
	require.NoError(t, errors.Join(store.Backup(w), w.Close()))
	hot(t, f, 99.3)
	p.waitText("#rows .temperature", "99.3°")
	stop()
	p.waitText("#state", "connecting")
	f, _, _, _ = start(addr, backup)
	p.waitText("#rows .temperature", "98.2°")
	p.waitText("#state", "live")
	require.Equal(t, "3 2", p.text("#connects")+" "+p.text("#resets"))
	hot(t, f, 96.4)
	p.waitText("#rows .temperature", "96.4°")
	p.waitText("#hottest .temperature", "96.4°")
}
