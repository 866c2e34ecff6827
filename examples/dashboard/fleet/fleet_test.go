package fleet_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/examples/dashboard/fleet"
	"github.com/stretchr/testify/require"
)

func populated(t *testing.T, n int) *fleet.Fleet {
	f := fleet.New()
	require.NoError(t, f.Populate(n))
	require.Equal(t, n, f.Devices.Len())
	return f
}

// rows returns the rows of a selection, in their order.
func rows[K, V any](s changefeed.Selection[K, V]) (all []V) {
	for _, row := range s.All() {
		all = append(all, row)
	}
	return all
}

// run runs the simulation for a time.
func run(t *testing.T, f *fleet.Fleet, updatesPerSecond int, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	require.NoError(t, f.Run(ctx, updatesPerSecond))
}

// The simulation makes as many updates as it is told to.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := populated(t, 2000)
		before := f.Devices.Seq()
		run(t, f, 2000, 20*time.Second)
		require.InDelta(t, 40_000, f.Devices.Seq()-before, 40)
	})
}

// requireViews requires the views to have what the devices have.
func requireViews(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	devices := rows(f.Devices.Selection())
	totals := map[string]changefeed.Grouped[string, fleet.Total]{}
	for _, d := range devices {
		total := totals[d.Region]
		total.Group = d.Region
		total.Count++
		*map[fleet.Status]*int{
			fleet.OK: &total.Value.OK, fleet.Warm: &total.Value.Warm, fleet.Hot: &total.Value.Hot, fleet.Offline: &total.Value.Offline,
		}[d.Status]++
		total.Value.Tenths += int(math.Round(10 * d.Temperature))
		totals[d.Region] = total
	}
	require.Equal(t, totals, maps.Collect(f.Totals.All()))

	slices.SortFunc(devices, func(a, b fleet.Device) int {
		return cmp.Or(cmp.Compare(b.Temperature, a.Temperature), cmp.Compare(b.ID, a.ID))
	})
	require.Equal(t, devices[:min(10, len(devices))], rows(f.Hottest.Selection()))
}

// The totals and the hottest devices follow every update.
func TestViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{1, 5, 2000} { // also without devices in some regions
			f := populated(t, n)
			requireViews(t, f)
			for range 5 {
				run(t, f, 2000, time.Second)
				requireViews(t, f)
			}
			require.NotZero(t, f.Totals.Seq())
		}
	})
}

// A table that has rows, because it was restored, is not populated. The views have its rows.
func TestPopulateARestoredTable(t *testing.T) {
	old, f := populated(t, 20), fleet.New()
	require.NoError(t, f.Devices.Restore(changefeed.Past[fleet.Device]{
		Lineage: []changefeed.Position{old.Devices.Position()},
		Rows:    slices.Values(rows(old.Devices.Selection())),
	}))
	before := f.Devices.Seq()
	require.NoError(t, f.Populate(100))
	require.Equal(t, before, f.Devices.Seq())
	require.Equal(t, 20, f.Devices.Len())
	requireViews(t, f)

	require.ErrorContains(t, fleet.New().Run(t.Context(), 1), "no devices")
	f.Devices.Drop()
	require.ErrorIs(t, f.Populate(1), changefeed.ErrTableDropped)
}

// Devices of all regions and statuses are in a fleet, and a device that was encoded is decoded as an
// equal one.
func TestDevices(t *testing.T) {
	f := populated(t, 5000)
	regions, statuses := map[string]int{}, map[fleet.Status]int{}
	for _, d := range f.Devices.All() {
		regions[d.Region]++
		statuses[d.Status]++
		data, err := json.Marshal(d)
		require.NoError(t, err)
		var decoded fleet.Device
		require.NoError(t, json.Unmarshal(data, &decoded))
		require.Equal(t, d, decoded)
	}
	require.Len(t, regions, len(fleet.Regions))
	require.Greater(t, statuses[fleet.OK], statuses[fleet.Warm])
	require.Greater(t, statuses[fleet.Warm], statuses[fleet.Hot])
	require.NotZero(t, statuses[fleet.Offline])
}

func serve(t *testing.T, f *fleet.Fleet) *httptest.Server {
	server := httptest.NewServer(f.Handler())
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// A feed is an open response with the changes of rows.
type feed[V any] struct {
	*testing.T
	lines  *bufio.Scanner
	lastID string
}

func open[V any](t *testing.T, url, lastID string) *feed[V] {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	r.Header.Set("Last-Event-ID", lastID)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	require.Equal(t, http.StatusOK, res.StatusCode)
	return &feed[V]{t, bufio.NewScanner(res.Body), lastID}
}

// next returns the name and the new row of the next event. It returns io.EOF when the feed has ended.
func (f *feed[V]) next() (name string, row V, err error) {
	for f.lines.Scan() {
		field, value, _ := strings.Cut(f.lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "id":
			f.lastID = value
		case "data":
			var change struct {
				New V `json:"new_val"`
			}
			require.NoError(f, json.Unmarshal([]byte(value), &change))
			return name, change.New, nil
		}
	}
	return name, row, cmp.Or(f.lines.Err(), io.EOF)
}

// load reads events until the feed is live, and returns the rows.
func (f *feed[V]) load() (all []V) {
	name, _, err := f.next()
	require.NoError(f, err)
	require.Equal(f, "reset", name)
	for {
		name, row, err := f.next()
		require.NoError(f, err)
		if name == "ready" {
			return all
		}
		all = append(all, row)
	}
}

// requireNext requires the next event to be a change to row.
func (f *feed[V]) requireNext(row V) {
	f.Helper()
	name, got, err := f.next()
	require.NoError(f, err)
	require.Empty(f, name)
	require.Equal(f, row, got)
}

// cool changes the load of a device, and returns the row.
func cool(t *testing.T, f *fleet.Fleet, id int) fleet.Device {
	c, err := f.Devices.Update(id, func(d *fleet.Device) { d.Load = -1 })
	require.NoError(t, err)
	return *c.New
}

// The feed of a region has the devices of the region, and their changes.
func TestRegionFeed(t *testing.T) {
	f := populated(t, 100)
	server := serve(t, f)
	tokyo := f.Devices.Where(func(d *fleet.Device) bool { return d.Region == "tokyo" })
	feed := open[fleet.Device](t, server.URL+"/regions/tokyo/changes", "")
	require.ElementsMatch(t, rows(tokyo), feed.load())
	for id := range f.Devices.All() {
		cool(t, f, id)
	}
	for _, row := range tokyo.All() {
		feed.requireNext(row)
	}
}

// The feed of the totals begins with one row for each region, and then has the sums of an update.
func TestTotalsFeed(t *testing.T) {
	f := populated(t, 100)
	server := serve(t, f)
	feed := open[changefeed.Grouped[string, fleet.Total]](t, server.URL+"/regions/changes", "")
	require.Equal(t, rows(f.Totals.Selection()), feed.load())

	c, err := f.Devices.Update(1, func(d *fleet.Device) { d.Status, d.Temperature = fleet.Hot, 70 })
	require.NoError(t, err)
	want, ok := f.Totals.Get(c.New.Region)
	require.True(t, ok)
	feed.requireNext(want)
}

// The feed of the hottest devices begins with the hottest, and reports a device that becomes the
// hottest of all after the one that it pushes out.
func TestHottestFeed(t *testing.T) {
	f := populated(t, 100)
	server := serve(t, f)
	feed := open[fleet.Device](t, server.URL+"/hottest/changes", "")
	hottest := feed.load()
	require.Equal(t, rows(f.Hottest.Selection()), hottest)
	require.Len(t, hottest, 10)

	id := 1
	for slices.ContainsFunc(hottest, func(d fleet.Device) bool { return d.ID == id }) {
		id++
	}
	c, err := f.Devices.Update(id, func(d *fleet.Device) { d.Status, d.Temperature = fleet.Hot, 1000 })
	require.NoError(t, err)
	feed.requireNext(fleet.Device{}) // a delete has no new row
	feed.requireNext(*c.New)
	require.Equal(t, append([]fleet.Device{*c.New}, hottest[:9]...), rows(f.Hottest.Selection()))
}

// A cut ends the feeds of a page, and of no other. They resume with the changes since.
func TestCut(t *testing.T) {
	f := populated(t, 100)
	server := serve(t, f)
	cut := func(page string) {
		res, err := http.Post(server.URL+"/cut?page="+page, "", nil)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusNoContent, res.StatusCode)
	}
	region, hottest := server.URL+"/regions/frankfurt/changes", server.URL+"/hottest/changes"
	a := open[fleet.Device](t, region+"?page=a", "")
	aHottest := open[fleet.Device](t, hottest+"?page=a", "")
	aTotals := open[changefeed.Grouped[string, fleet.Total]](t, server.URL+"/regions/changes?page=a", "")
	b := open[fleet.Device](t, region+"?page=b", "")
	nobody := open[fleet.Device](t, region, "")
	id := a.load()[0].ID
	aHottest.load()
	aTotals.load()
	b.load()
	nobody.load()

	cut("a")
	cut("")
	cut("c")
	_, _, err := a.next()
	require.Equal(t, io.EOF, err)
	_, _, err = aHottest.next()
	require.Equal(t, io.EOF, err)
	_, _, err = aTotals.next()
	require.Equal(t, io.EOF, err)
	row := cool(t, f, id)
	b.requireNext(row)
	nobody.requireNext(row)
	a = open[fleet.Device](t, region+"?page=a", a.lastID)
	name, _, err := a.next()
	require.NoError(t, err)
	require.Equal(t, "resumed", name)
	a.requireNext(row)
}

// The handler serves the page and what it needs, with a policy for its contents.
func TestPage(t *testing.T) {
	server := serve(t, populated(t, 20))
	for _, test := range []struct {
		method, path string
		status       int
		kind, text   string
	}{
		{"GET", "/", 200, "text/html", "<title>Fleet</title>"},
		{"GET", "/style.css", 200, "text/css", "light dark"},
		{"GET", "/app.js", 200, "text/javascript", `from "./changefeed.js"`},
		{"GET", "/changefeed.js", 200, "text/javascript", "export function follow"},
		{"GET", "/fleet", 200, "application/json", `"devices":20`},
		{"GET", "/regions/atlantis/changes", 404, "text/plain", "there is no such region"},
		{"GET", "/favicon.ico", 404, "text/plain", "not found"},
		{"POST", "/hottest/changes", 405, "text/plain", "Not Allowed"},
		{"GET", "/cut", 404, "text/plain", "not found"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, server.URL+test.path, http.NoBody)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		name := fmt.Sprint(test.method, " ", test.path)
		require.Equal(t, test.status, res.StatusCode, name)
		require.Contains(t, res.Header.Get("Content-Type"), test.kind, name)
		require.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'self';", name)
		require.Contains(t, string(body), test.text, name)
	}
}

// The inspector shows the table of the fleet and its views.
func TestInspector(t *testing.T) {
	t.Parallel()
	server := serve(t, fleet.New())
	for path, want := range map[string][]string{
		"":             {"<!doctype html>"},
		"?format=json": {`"name":"devices"`, `"name":"totals"`, `"name":"hottest"`},
	} {
		res, err := http.Get(server.URL + "/debug/changefeed/" + path)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		for _, text := range want {
			require.Contains(t, string(body), text)
		}
	}
}
