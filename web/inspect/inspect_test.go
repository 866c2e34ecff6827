package inspect_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/inspect"
	"github.com/stretchr/testify/require"
)

type player struct {
	ID   int
	Name string
	Team string
	Tags []string `json:",omitempty"`
}

func newPlayers() *changefeed.Table[int, player] {
	return changefeed.NewTable("players", func(p *player) int { return p.ID })
}

// get answers a request as the handler does.
func get(t testing.TB, h http.Handler, query string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/?"+query, nil))
	return w
}

// getJSON decodes the answer to a request.
func getJSON[T any](t testing.TB, h http.Handler, query string) (v T) {
	t.Helper()
	w := get(t, h, "format=json&"+query)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
	return v
}

type overview struct {
	Tables []struct {
		Name                      string
		Rows, Retained, Feeds     int
		Seq                       uint64
		Position                  changefeed.Position
		Inserts, Updates, Deletes uint64
		Indexes                   []string
		Dropped                   bool
	}
	Feeds struct {
		Total, Matched int
		List           []struct {
			Name, Table, Selection, Options string
			Initial                         bool
			Buffered, Capacity              int
			Delivered, Skipped, Lag         uint64
			Position                        changefeed.Position
		}
	}
}

func TestOverview(t *testing.T) {
	players, games := newPlayers(), changefeed.NewTable("games", func(g *string) string { return *g })
	byTeam := changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	players.Retain(5)
	h := inspect.Handler(players, games, players)

	feeds := []changefeed.FeedOption{changefeed.Named("full"), changefeed.Buffer(10)}
	full := players.Changes(t.Context(), feeds...)
	idle := games.Changes(t.Context(), changefeed.Named("idle"), changefeed.Squash(time.Second), changefeed.Poll(nil))
	behind := byTeam.Equal("red").Changes(t.Context(), changefeed.Named("behind"), changefeed.OnOverflow(changefeed.Resync), changefeed.IncludeInitial())
	both := changefeed.Commits(t.Context(), []changefeed.AnyTable{players, games}, changefeed.Named("both"))
	for id := range 50 {
		_, err := players.Insert(player{ID: id, Team: []string{"red", "blue"}[id%2]})
		require.NoError(t, err)
	}
	_, err := players.Delete(3)
	require.NoError(t, err)

	o := getJSON[overview](t, h, "")
	require.Len(t, o.Tables, 3)
	first := o.Tables[0]
	require.Equal(t, "players games players#2", first.Name+" "+o.Tables[1].Name+" "+o.Tables[2].Name)
	require.Equal(t, []any{49, 5, uint64(51), uint64(50), uint64(0), uint64(1), 3}, []any{first.Rows, first.Retained, first.Seq, first.Inserts, first.Updates, first.Deletes, first.Feeds})
	require.Equal(t, players.Position(), first.Position)
	require.Equal(t, []string{"team"}, first.Indexes)
	require.Equal(t, []string{}, o.Tables[1].Indexes)

	require.Equal(t, 4, o.Feeds.Total)
	var names []string
	for _, f := range o.Feeds.List {
		names = append(names, f.Name)
	}
	require.Equal(t, []string{"full", "both", "behind", "idle"}, names)
	f := o.Feeds.List[0]
	require.Equal(t, []any{"players", "", "", 10, 10, uint64(41), uint64(51)}, []any{f.Table, f.Selection, f.Options, f.Buffered, f.Capacity, f.Skipped, f.Lag})
	require.Equal(t, players.At(0), f.Position)
	f = o.Feeds.List[1]
	require.Equal(t, []any{"", `commits of "players", "games"`, 51, uint64(51)}, []any{f.Table, f.Selection, f.Buffered, f.Lag})
	f = o.Feeds.List[2]
	require.Equal(t, []any{`team = "red"`, "resync", true, 25}, []any{f.Selection, f.Options, f.Initial, f.Buffered})
	f = o.Feeds.List[3]
	require.Equal(t, []any{"games", "squash 1s, poll", 0, 0, uint64(0)}, []any{f.Table, f.Options, f.Buffered, f.Capacity, f.Lag})

	o = getJSON[overview](t, h, "feeds=red&limit=7")
	require.Equal(t, []any{4, 1, "behind"}, []any{o.Feeds.Total, o.Feeds.Matched, o.Feeds.List[0].Name})
	o = getJSON[overview](t, h, "limit=1")
	require.Equal(t, []any{4, 4, 1}, []any{o.Feeds.Total, o.Feeds.Matched, len(o.Feeds.List)})

	games.Drop()
	require.True(t, getJSON[overview](t, h, "").Tables[1].Dropped)
	runtime.KeepAlive([]any{full, idle, behind, both})
	require.Equal(t, `{"time":`, get(t, inspect.Handler(), "format=json").Body.String()[:8])
	require.PanicsWithValue(t, "inspect: nil table", func() { inspect.Handler(nil) })
}

type rowPage struct {
	Table, By, Next string
	Rows            []struct{ Value, Key, Row json.RawMessage }
}

// keysOf reads all pages of a query.
func keysOf(t *testing.T, h http.Handler, query string) (keys []string) {
	t.Helper()
	for after, pages := "", 0; ; pages++ {
		p := getJSON[rowPage](t, h, "view=rows&"+query+"&after="+after)
		for _, row := range p.Rows {
			keys = append(keys, string(row.Key))
		}
		if after = p.Next; after == "" {
			return keys
		}
		require.Less(t, pages, 1000)
	}
}

func TestRows(t *testing.T) {
	players := newPlayers()
	changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	changefeed.NewMultiIndex(players, "tags", func(p *player) []string { return p.Tags })
	changefeed.NewIndexFunc(players, "length", func(p *player) time.Duration { return time.Duration(len(p.Name)) }, func(a, b time.Duration) int { return int(a - b) })
	h := inspect.Handler(players)
	var all, red, tagged []string
	for id := range 200 {
		p := player{ID: id, Name: strings.Repeat("x", id%7), Team: []string{"red", "blue"}[id%2]}
		if id%3 == 0 {
			p.Tags = []string{"a", "b"}
			tagged = append(tagged, fmt.Sprint(id))
		}
		if p.Team == "red" {
			red = append(red, fmt.Sprint(id))
		}
		all = append(all, fmt.Sprint(id))
		_, err := players.Insert(p)
		require.NoError(t, err)
	}
	for query, want := range map[string][]string{
		"":                          all,
		"limit=1":                   all,
		"limit=199":                 all,
		"limit=200":                 all,
		"equal=7":                   {"7"},
		"equal=700":                 nil,
		"from=190":                  all[190:],
		"to=9":                      all[:9],
		"from=60&to=130&limit=7":    all[60:130],
		"by=team&equal=red&limit=9": red,
		"by=team&from=red":          red,
		"by=team&to=b":              nil,
		"by=tags&limit=5":           tagged,
		"by=tags&equal=b":           tagged,
		"by=tags&from=c":            nil,
		"by=length&equal=6&limit=2": {"6", "13", "20", "27", "34", "41", "48", "55", "62", "69", "76", "83", "90", "97", "104", "111", "118", "125", "132", "139", "146", "153", "160", "167", "174", "181", "188", "195"},
	} {
		require.Equal(t, want, keysOf(t, h, "table=players&"+query), query)
	}
	p := getJSON[rowPage](t, h, "view=rows&table=players&by=team&equal=blue&limit=1")
	require.Equal(t, `"blue" 1 {"ID":1,"Name":"x","Team":"blue"}`, fmt.Sprintf("%s %s %s", p.Rows[0].Value, p.Rows[0].Key, p.Rows[0].Row))
	require.Equal(t, "players team", p.Table+" "+p.By)

	for query, want := range map[string]string{
		"view=rows&table=games":                      "404 there is no such table",
		"view=rows":                                  "404 there is no such table",
		"view=rows&table=players&by=name":            "404 the table has no such index",
		"view=rows&table=players&equal=x":            "400 equal is not a value of type int",
		"view=rows&table=players&from=1.5":           "400 from is not a value of type int",
		"view=rows&table=players&equal=1&to=3":       "400 equal cannot be combined with from and to",
		"view=rows&table=players&to=":                "400 to is not a value of type int",
		"view=rows&table=players&by=length&equal=1s": "400 equal is not a value of type time.Duration",
		"view=rows&table=players&after=x":            "400 after is not the cursor of a page",
		"view=rows&table=players&after=" + p.Next:    "400 after is not the cursor of a page",
		"view=rows&table=players&limit=0":            "400 limit must be a number from 1 to 1000",
		"view=rows&table=players&limit=1001":         "400 limit must be a number from 1 to 1000",
		"limit=x":                                    "400 limit must be a number from 1 to 1000000",
		"view=columns":                               "400 the only views are rows and tail",
	} {
		w := get(t, h, "format=json&"+query)
		require.Equal(t, want, fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String())), query)
	}
	require.Equal(t, http.StatusBadRequest, get(t, h, "format=xml").Code)
	players.Drop()
	require.Empty(t, keysOf(t, h, "table=players"))
}

// A code is a key that is read and written as text.
type code struct{ n int }

func (c code) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "c%d", c.n), nil }
func (c *code) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "c%d", &c.n)
	return err
}

type oddRow struct {
	Code  code
	Value any
}

type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("oops") }

// Keys and rows of all types are shown, also those that have no JSON.
func TestOddRows(t *testing.T) {
	table := changefeed.NewTableFunc("odd", func(r *oddRow) code { return r.Code }, func(a, b code) int { return a.n - b.n })
	for i, v := range []any{1, math.NaN(), make(chan int), panicking{}, errors.New("an error")} {
		_, err := table.Insert(oddRow{code{i}, v})
		require.NoError(t, err)
	}
	h := inspect.Handler(table)
	require.Equal(t, []string{`"c0"`, `"c1"`, `"c2"`, `"c3"`, `"c4"`}, keysOf(t, h, "table=odd&limit=1"))
	require.Equal(t, []string{`"c3"`}, keysOf(t, h, "table=odd&equal=c3"))
	p := getJSON[rowPage](t, h, "view=rows&table=odd")
	for i, want := range []string{`{"Code":"c0","Value":1}`, "unsupported value: NaN", "unsupported type: chan int", "panic: oops", `{"Code":"c4","Value":{}}`} {
		require.Contains(t, string(p.Rows[i].Row), want)
	}

	floats := changefeed.NewTable("floats", func(f *float64) float64 { return *f })
	for _, f := range []float64{math.NaN(), 1, 2} {
		_, err := floats.Insert(f)
		require.NoError(t, err)
	}
	h = inspect.Handler(floats)
	require.Len(t, keysOf(t, h, "table=floats"), 3)
	w := get(t, h, "format=json&view=rows&table=floats&limit=1")
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "there are more rows, but the key of the last one cannot be encoded")
}

func TestThePage(t *testing.T) {
	h := inspect.Handler(newPlayers())
	for query, contentType := range map[string]string{"": "text/html", "file=inspect.js": "text/javascript", "file=inspect.css": "text/css"} {
		w := get(t, h, query)
		require.Equal(t, http.StatusOK, w.Code)
		require.Contains(t, w.Header().Get("Content-Type"), contentType)
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'self'")
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		for _, elsewhere := range []string{"//cdn", "https://"} {
			require.NotContains(t, w.Body.String(), elsewhere)
		}
	}
	for _, file := range []string{"x", "../inspect.go", "..%2finspect.go", "/", ".", "inspect.html/.."} {
		require.Equal(t, http.StatusNotFound, get(t, h, "file="+file).Code, file)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
}

// lines reads the changes that a server sends.
type lines struct {
	read *bufio.Scanner
}

func tail(t *testing.T, server *httptest.Server, query string) lines {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/?view=tail&"+query, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	t.Cleanup(func() { _ = res.Body.Close() })
	l := lines{bufio.NewScanner(res.Body)}
	require.Equal(t, "event: open {}", l.event())
	return l
}

// event returns the name of the next event, if it has one, and its data.
func (l lines) event() string {
	var parts []string
	for l.read.Scan() && l.read.Text() != "" {
		parts = append(parts, strings.TrimPrefix(l.read.Text(), "data: "))
	}
	return strings.Join(parts, " ")
}

func TestTail(t *testing.T) {
	players, games := newPlayers(), changefeed.NewTable("games", func(g *string) string { return *g })
	server := httptest.NewServer(inspect.Handler(players, games))
	t.Cleanup(server.Close) // it waits for the bodies, which are closed before it, also when the test fails
	all, one := tail(t, server, ""), tail(t, server, url.Values{"table": {"games"}}.Encode())

	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		_, err := players.In(tx).Insert(player{ID: 1, Name: "<Ann>"})
		require.NoError(t, err)
		_, err = games.In(tx).Insert("chess")
		require.NoError(t, err)
		return nil
	}, players, games))
	require.Equal(t, `[{"table":"players","seq":1,"kind":"insert","new":{"ID":1,"Name":"\u003cAnn\u003e","Team":""}},{"table":"games","seq":1,"kind":"insert","new":"chess"}]`, all.event())
	require.Equal(t, `[{"table":"games","seq":1,"kind":"insert","new":"chess"}]`, one.event())
	_, err := games.Delete("chess")
	require.NoError(t, err)
	require.Equal(t, `[{"table":"games","seq":2,"kind":"delete","old":"chess"}]`, one.event())
	require.Equal(t, `[{"table":"games","seq":2,"kind":"delete","old":"chess"}]`, all.event())

	for id := range 1000 {
		_, err := players.Upsert(player{ID: id, Name: "new"})
		require.NoError(t, err)
	}
	for seen, skipped := 0, 0; seen+skipped < 1000; seen++ {
		var n struct{ Count int }
		if text, ok := strings.CutPrefix(all.event(), "event: skipped "); ok {
			require.NoError(t, json.Unmarshal([]byte(text), &n))
			skipped += n.Count - 1
		}
	}
	games.Drop()
	require.Equal(t, "event: end {}", one.event())
	require.False(t, one.read.Scan())

	for _, query := range []string{"table=games", "table=x"} {
		res, err := http.Get(server.URL + "/?view=tail&" + query)
		require.NoError(t, err)
		require.Equal(t, http.StatusNotFound, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
	require.NoError(t, server.Config.Shutdown(context.Background()), "it ends the feeds")
	for all.read.Scan() {
		require.NotEqual(t, "event: end", all.read.Text(), "the page connects again")
	}
}

// While the page takes its time, at most so many changes wait for it.
func TestTailIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		players := newPlayers()
		h := inspect.Handler(players)
		ctx, cancel := context.WithCancel(t.Context())
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/?view=tail", nil))
		}()
		for id := range 10_000 {
			time.Sleep(time.Millisecond / 10) // 1 s for all
			_, err := players.Insert(player{ID: id})
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		cancel()
		<-done
		sent := strings.Count(w.Body.String(), `"seq"`)
		require.LessOrEqual(t, sent, 1400)
		require.GreaterOrEqual(t, sent, 800)
		var skipped int
		for line := range strings.Lines(w.Body.String()) {
			var n struct{ Count int }
			if text, ok := strings.CutPrefix(line, `data: {"count"`); ok {
				require.NoError(t, json.Unmarshal([]byte(`{"count"`+text), &n))
				skipped += n.Count
			}
		}
		require.Equal(t, 10_000, sent+skipped)
	})
}
