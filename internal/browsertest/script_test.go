package browsertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/stretchr/testify/require"
)

// A row has a name whose characters JSON and HTML escape.
type row struct {
	ID    int    `json:"id"`
	Name  string `json:"name"`
	Score int    `json:"score"`
}

func newRow(id, score int) row {
	return row{id, fmt.Sprintf(`<b>"%d" & ü</b>`, id), score}
}

// page follows a table. It counts what the script tells it, and keeps a copy of the rows that it
// makes of the changes alone.
const page = `<!doctype html>
<title>script</title>
<link rel="icon" href="data:,">
<script type="module">
import { follow } from "/changefeed.js";

window.sources = [];
window.EventSource = class extends EventSource {
  constructor(...args) {
    super(...args);
    sources.push(this);
  }
};
window.states = [];
window.calls = [];
window.wrong = []; // calls whose row before is not the one of the call before
window.onchange = () => {};
window.onstate = () => {};
window.timers = 0;
const start = window.setTimeout;
window.setTimeout = (...args) => {
  timers++;
  return start(...args);
};
const copy = new Map();
const json = (rows) => JSON.stringify([...rows.values()].sort((a, b) => a.id - b.id));

window.feed = follow("/changes", {
  key: (row) => row.id,
  change(before, now, feed) {
    const id = (now ?? before).id;
    if (JSON.stringify(copy.get(id) ?? null) !== JSON.stringify(before)) wrong.push([before, now]);
    if (now) copy.set(id, now);
    else copy.delete(id);
    calls.push([before, now]);
    window.onchange(feed);
  },
  state(state, feed) {
    states.push(state);
    window.onstate(state, feed);
  },
});
window.follow = follow;
window.rows = () => json(feed.rows);
window.copied = () => json(copy);
window.count = (state) => states.filter((s) => s === state).length;
</script>
`

// A site serves the page and the table that it follows.
type site struct {
	*testing.T
	table    *changefeed.Table[int, row]
	url      string
	server   *httptest.Server
	down     atomic.Bool  // it answers requests for changes with the status 503
	requests atomic.Int64 // for changes
	refused  atomic.Int64
	wasCut   atomic.Bool
	thrown   string // in the errors that the page throws on purpose
}

// newSite serves a table of three rows.
func newSite(t *testing.T, opts ...web.Option) *site {
	s := &site{T: t, table: changefeed.NewTable("rows", func(r *row) int { return r.ID })}
	s.table.Retain(100_000)
	for id := range 3 {
		s.upsert(newRow(id, 0))
	}
	changes := web.Changes(s.table.Selection(), append([]web.Option{web.Retry(50 * time.Millisecond)}, opts...)...)
	mux := http.NewServeMux()
	mux.Handle("GET /changefeed.js", web.Script())
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(page)) })
	mux.HandleFunc("GET /changes", func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if s.down.Load() {
			s.refused.Add(1)
			http.Error(w, "try again later", http.StatusServiceUnavailable)
			return
		}
		changes.ServeHTTP(w, r)
	})
	s.server = httptest.NewServer(mux)
	s.url = s.server.URL
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

// cut ends all connections, as a proxy that is restarted does.
func (s *site) cut() {
	s.wasCut.Store(true)
	s.server.CloseClientConnections()
}

func (s *site) upsert(r row) {
	s.Helper()
	_, err := s.table.Upsert(r)
	require.NoError(s, err)
}

func (s *site) delete(id int) {
	s.Helper()
	_, err := s.table.Delete(id)
	require.NoError(s, err)
}

// rows returns the rows of the table, by key.
func (s *site) rows() []row {
	rows := []row{}
	for _, r := range s.table.All() {
		rows = append(rows, r)
	}
	return rows
}

// A call is the rows before and after a change.
type call [2]*row

// script is a tab with the page of a site.
type script struct {
	*tab
	site *site
}

func (s *site) open() script {
	s.Helper()
	p := script{open(s.T, s.url, func(m chromedp.ConsoleMessage) bool {
		return s.wasCut.Load() && isNetworkError(m) || s.thrown != "" && strings.Contains(fmt.Sprint(m), s.thrown)
	}), s}
	p.wait(`window.feed?.state === "live"`)
	p.run("calls.length = states.length = 0")
	return p
}

// waitRows waits until the page has the rows of the table.
func (p script) waitRows() {
	p.Helper()
	want := "JSON.stringify(" + quote(p.site.rows()) + ")"
	p.wait("rows() === " + want + " && copied() === " + want)
	require.Equal(p, "[]", eval[string](p.tab, "JSON.stringify(wrong)"))
}

func (p script) calls() []call {
	p.Helper()
	return eval[[]call](p.tab, "calls")
}

func (p script) states() []string {
	p.Helper()
	return eval[[]string](p.tab, "states")
}

// The page has the rows of the table, and is called for each change.
func TestRows(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := script{open(t, s.url, nil), s}
	p.wait(`window.feed?.state === "live"`)
	p.waitRows()
	require.Equal(t, []string{"connecting", "loading", "live"}, p.states())
	require.Len(t, p.calls(), 3)
	p.run("calls.length = 0")

	s.upsert(newRow(7, 1))
	s.upsert(newRow(1, 2))
	s.delete(2)
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for _, r := range []row{newRow(2, 3), newRow(1, 4)} {
			if _, err := s.table.In(tx).Upsert(r); err != nil {
				return err
			}
		}
		return nil
	}, s.table))
	p.waitRows()
	require.Equal(t, []call{
		{nil, new(newRow(7, 1))},
		{new(newRow(1, 0)), new(newRow(1, 2))},
		{new(newRow(2, 0)), nil},
		{nil, new(newRow(2, 3))},
		{new(newRow(1, 2)), new(newRow(1, 4))},
	}, p.calls())
	require.Len(t, p.states(), 3)
}

// A page loses its connection five times while the table is written to. It gets each change once, and
// never all rows again.
func TestResume(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open()
	stop, written := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { written <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			n++
			if _, err := s.table.Upsert(newRow(n%50, n)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for n := 1; n <= 5; n++ {
		calls := eval[int](p.tab, "calls.length")
		s.cut()
		p.wait(fmt.Sprintf(`count("live") === %d && calls.length > %d`, n, calls))
	}
	close(stop)
	n := <-written
	p.waitRows()
	require.Len(t, p.calls(), n)
	require.Equal(t, slices.Repeat([]string{"connecting", "live"}, 5), p.states())
	require.EqualValues(t, 6, s.requests.Load())
}

// After a reset of the table, the page is called for the rows that differ.
func TestTableReset(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open()
	past := changefeed.Past[row]{
		Lineage: []changefeed.Position{changefeed.NewTable("other", func(r *row) int { return r.ID }).At(10)},
		Rows:    slices.Values([]row{newRow(0, 0), newRow(1, 5), newRow(9, 0)}),
	}
	require.NoError(t, s.table.Reset(past))
	p.wait(`count("live") === 1`)
	p.waitRows()
	require.ElementsMatch(t, []call{
		{new(newRow(2, 0)), nil},
		{new(newRow(1, 0)), new(newRow(1, 5))},
		{nil, new(newRow(9, 0))},
	}, p.calls())
	require.Equal(t, []string{"loading", "live"}, p.states())

	s.upsert(newRow(1, 6))
	p.waitRows()
	require.Len(t, p.calls(), 4)
	s.cut() // the position in the new history counts
	p.wait(`count("live") === 2`)
	s.upsert(newRow(1, 7))
	p.waitRows()
	require.Equal(t, []string{"loading", "live", "connecting", "live"}, p.states())
	require.EqualValues(t, 2, s.requests.Load())
}

// After more changes than the buffer holds, the page is called for the rows that differ.
func TestOverflow(t *testing.T) {
	t.Parallel()
	s := newSite(t, web.Buffer(10))
	p := s.open()
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for score := range 100 {
			for id := range 2 {
				if _, err := s.table.In(tx).Upsert(newRow(id, score+1)); err != nil {
					return err
				}
			}
		}
		return nil
	}, s.table))
	p.wait(`count("live") === 1`)
	p.waitRows()
	require.ElementsMatch(t, []call{
		{new(newRow(0, 0)), new(newRow(0, 100))},
		{new(newRow(1, 0)), new(newRow(1, 100))},
	}, p.calls())
	require.Equal(t, []string{"loading", "live"}, p.states())
}

// When the table is dropped, the feed ends with the rows that it has, and does not connect again.
func TestDrop(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open()
	s.upsert(newRow(5, 5))
	want := s.rows()
	s.table.Drop()
	p.wait(`feed.state === "ended"`)
	require.True(t, eval[bool](p.tab, "rows() === JSON.stringify("+quote(want)+")"))
	require.Equal(t, []string{"ended"}, p.states())
	require.Equal(t, "the table was dropped", eval[string](p.tab, "feed.error"))
	require.Len(t, p.calls(), 1)
	require.True(t, eval[bool](p.tab, "sources.length === 1 && sources[0].readyState === EventSource.CLOSED"))
	p.run("feed.pause(), feed.resume()")
	require.Equal(t, []string{"ended"}, p.states())
	require.Equal(t, 1, eval[int](p.tab, "sources.length"))
}

// waitFeeds waits until the table has n feeds.
func (s *site) waitFeeds(n int) {
	s.Helper()
	require.Eventually(s, func() bool { return s.table.Info().Feeds == n }, deadline, tick)
}

// A feed that pauses has no connection, and gets the changes since when it resumes.
func TestPause(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open()
	p.run("feed.resume()") // does nothing
	p.run("feed.pause()")
	s.waitFeeds(0)
	require.Equal(t, []string{"paused"}, p.states())
	for n := range 100 {
		s.upsert(newRow(n%4, n+1))
	}
	s.delete(2)
	require.Empty(t, p.calls())
	p.run("feed.pause()")
	p.run("feed.resume()")
	p.wait(`feed.state === "live"`)
	p.waitRows()
	require.Equal(t, []string{"paused", "connecting", "live"}, p.states())
	require.Len(t, p.calls(), 101)

	// The table does not retain as many changes as a second pause takes.
	p.run("feed.pause(); calls.length = states.length = 0")
	s.waitFeeds(0)
	s.table.Retain(10)
	for n := range 100 {
		s.upsert(newRow(1, n+1000))
	}
	s.delete(0)
	p.run("feed.resume()")
	p.wait(`feed.state === "live"`)
	p.waitRows()
	require.Equal(t, []string{"connecting", "loading", "live"}, p.states())
	require.Len(t, p.calls(), 2)

	// A feed that pauses and resumes at once follows the table once.
	p.run("calls.length = states.length = 0; for (let i = 0; i < 3; i++) { feed.pause(); feed.resume(); }")
	p.wait(`feed.state === "live"`)
	s.upsert(newRow(1, 1))
	p.waitRows()
	require.Len(t, p.calls(), 1)
	s.waitFeeds(1)
}

// A feed that is closed in a call for a change stays closed, whichever change it is.
func TestCloseInACall(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"close", "pause"} {
		state := map[string]string{"close": "ended", "pause": "paused"}[method]
		t.Run(method+" after a change", func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.open()
			p.run("window.onchange = (feed) => feed." + method + "()")
			s.upsert(newRow(1, 1))
			p.wait("calls.length > 0")
			s.waitFeeds(0)
			require.Equal(t, []string{state}, p.states())
		})
		t.Run(method+" after a reset", func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.open()
			p.run("window.onchange = (feed) => feed." + method + "()")
			require.NoError(t, s.table.Reset(changefeed.Past[row]{Lineage: s.table.Lineage(), Rows: slices.Values([]row{newRow(1, 9)})}))
			p.wait("calls.length > 0")
			s.waitFeeds(0)
			require.Equal(t, []string{"loading", state}, p.states())
		})
		t.Run(method+" after a lost connection", func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := s.open()
			p.run("timers = 0; window.onstate = (state, feed) => state === \"connecting\" && feed." + method + "()")
			s.cut()
			p.wait("states.length > 0")
			require.Equal(t, []string{"connecting", state}, p.states())
			require.Equal(t, []int{1, 0}, eval[[]int](p.tab, "[sources.length, timers]"), "it does not connect again")
		})
	}
}

// An error of the page's function does not keep the others from being called.
func TestAnErrorInACall(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.thrown = "on purpose"
	p := s.open()
	p.run("window.onchange = () => { throw new Error(\"on purpose\"); }")
	s.upsert(newRow(1, 1))
	p.wait("calls.length === 1")
	require.NoError(t, s.table.Reset(changefeed.Past[row]{Lineage: s.table.Lineage(), Rows: slices.Values([]row{newRow(1, 9), newRow(7, 7)})}))
	p.wait(`feed.state === "live" && calls.length === 5`)
	p.waitRows()
	require.Equal(t, []string{"loading", "live"}, p.states())
}

func TestKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.thrown = "follow: the function key returned undefined for a row"
	p := s.open()
	message := `(() => { try { follow("/changes", {}); return ""; } catch (error) { return error.message; } })()`
	require.Equal(t, "follow: the option key must be a function", eval[string](p.tab, message))
	p.run(`window.errors = []; addEventListener("error", (event) => errors.push(event.message))`)
	p.run(`window.other = follow("/changes", { key: (row) => row.ID })`)
	p.wait("errors.length === 3")
	require.Equal(t, "Uncaught Error: follow: the function key returned undefined for a row", eval[string](p.tab, "errors[0]"))
	p.run("other.close()")
}

// While a proxy answers with an error, the script connects again by itself, because browsers do not.
func TestServiceUnavailable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.open()
	s.down.Store(true)
	s.cut()
	require.Eventually(t, func() bool { return s.refused.Load() >= 2 }, deadline, tick)
	p.wait("sources.length >= 2 && sources.every((source) => source.readyState === EventSource.CLOSED)")
	require.Equal(t, []string{"connecting"}, p.states())
	s.upsert(newRow(1, 1))
	s.delete(2)
	s.down.Store(false)
	p.wait(`feed.state === "live"`)
	p.waitRows()
	require.Equal(t, []call{{new(newRow(1, 0)), new(newRow(1, 1))}, {new(newRow(2, 0)), nil}}, p.calls())
	require.Equal(t, []string{"connecting", "live"}, p.states())
	s.waitFeeds(1)
}
