package inspect_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	bigmath "math/big"
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
	h := inspect.Handler(players, games, players, newPlayers())

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
		"view=rows":                                  "400 the parameter table is missing",
		"view=rows&table=":                           "404 there is no such table",
		"view=tail&table=":                           "404 there is no such table",
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
	Code   code
	Value  any
	Secret string `json:"-"`
}

type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("oops") }

type list struct{ Next *list }

// Rows that have no JSON are shown as the reason, and the others as they are. A row's hidden fields
// are not shown.
func TestOddRows(t *testing.T) {
	cycle := map[string]any{}
	cycle["self"] = []any{cycle}
	var long *list
	for range 10_000 {
		long = &list{long}
	}
	tests := []struct {
		value any
		want  string
	}{
		{1, `{"Code":"c0","Value":1}`},
		{math.NaN(), `{"error":"json: unsupported value: NaN"}`},
		{make(chan int), `{"error":"json: unsupported type: chan int"}`},
		{panicking{}, `{"error":"panic: oops"}`},
		{errors.New("an error"), `{"Code":"c4","Value":{}}`},
		{cycle, `{"error":"*inspect_test.oddRow is nested more than 1000 levels deep"}`},
		{long, `{"error":"*inspect_test.oddRow is nested more than 1000 levels deep"}`},
		{[]any{nil, time.Time{}, []byte("x")}, `{"Code":"c7","Value":[null,"0001-01-01T00:00:00Z","eA=="]}`},
	}
	table := changefeed.NewTableFunc("odd", func(r *oddRow) code { return r.Code }, func(a, b code) int { return a.n - b.n })
	h := inspect.Handler(table)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	changes := tail(t, server, "")
	for i, test := range tests {
		_, err := table.Insert(oddRow{code{i}, test.value, "hidden"})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf(`[{"table":"odd","seq":%d,"kind":"insert","new":%s}]`, i+1, test.want), changes.event())
	}
	require.Len(t, keysOf(t, h, "table=odd&limit=1"), len(tests))
	require.Equal(t, []string{`"c3"`}, keysOf(t, h, "table=odd&equal=c3"))
	body := get(t, h, "view=rows&table=odd").Body.String()
	for i, test := range tests {
		require.Contains(t, body, fmt.Sprintf(`{"value":"c%d","key":"c%d","row":%s}`, i, i, test.want))
	}
}

// A big has methods that only a pointer to it has.
type big struct{ bigmath.Int }

func bigOf(n int64) (b big) {
	b.SetInt64(n)
	return b
}

// The limit of encoding/json is that of a row, and not of what has rows in it.
func TestDeepRows(t *testing.T) {
	rows := changefeed.NewTable("rows", func(r *json.RawMessage) int { return len(*r) })
	h := inspect.Handler(rows)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	changes := tail(t, server, "")
	for i, levels := range []int{10_000, 10_001} {
		want := strings.Repeat("[", levels) + strings.Repeat("]", levels)
		_, err := rows.Insert(json.RawMessage(want))
		require.NoError(t, err)
		if levels > 10_000 {
			want = `{"error":"json: error calling MarshalJSON for type *json.RawMessage: invalid character '[' exceeded max depth"}`
		}
		require.Contains(t, get(t, h, "view=rows&table=rows").Body.String(), `"row":`+want+"}")
		require.Equal(t, fmt.Sprintf(`[{"table":"rows","seq":%d,"kind":"insert","new":%s}]`, i+1, want), changes.event())
	}
}

// A color has a text that is not read back.
type color int

func (c color) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "color %d", c), nil }

// A hidden value's JSON does not have all of it.
type hidden struct {
	A int
	B int `json:"-"`
}

// A keyRow is a row with a key of any type.
type keyRow struct{ Key any }

// pages returns how many rows a table of n rows with keys has on its pages, in either order.
func pages[K any](t *testing.T, compare func(a, b K) int, keys ...K) {
	t.Helper()
	key := func(r *keyRow) K { return r.Key.(K) }
	table := changefeed.NewTableFunc("rows", key, compare)
	changefeed.NewIndexFunc(table, "key", key, compare)
	for _, k := range keys {
		_, err := table.Insert(keyRow{k})
		require.NoError(t, err)
	}
	h := inspect.Handler(table)
	for _, by := range []string{"", "&by=key"} {
		for limit := 1; limit <= len(keys); limit++ {
			require.Len(t, keysOf(t, h, fmt.Sprint("table=rows&limit=", limit, by)), len(keys), "%T, %d a page%s", keys[0], limit, by)
		}
	}
}

// All rows of a table are on its pages, also if the JSON of their keys does not lead back to them.
func TestPagesOfOddKeys(t *testing.T) {
	pages(t, cmp.Compare, math.NaN(), math.Inf(-1), -0.5, 0, 1, math.Inf(1))
	pages(t, strings.Compare, "", "\x00", "<b>", "a\xff1", "a\xff2", "a\ufffd", "b\n", "c")
	pages(t, func(a, b any) int { return a.(int) - b.(int) }, any(1), any(2), any(3))
	pages(t, cmp.Compare[color], 1, 2, 3, 4)
	pages(t, func(a, b hidden) int { return cmp.Or(a.A-b.A, a.B-b.B) }, hidden{1, 1}, hidden{1, 2}, hidden{2, 0}, hidden{2, 1})
	pages(t, func(a, b *int) int { return *a - *b }, new(1), new(2), new(3))
	pages(t, func(a, b big) int { return a.Cmp(&b.Int) }, bigOf(1), bigOf(2), bigOf(3))
	pages(t, time.Time.Compare, time.Unix(0, 1), time.Unix(0, 2), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(12001, 1, 1, 0, 0, 0, 0, time.UTC))
}

// What a request contains reaches a user's functions only if it is a key.
func TestRequestsForNil(t *testing.T) {
	table := changefeed.NewTableFunc("rows", func(r *keyRow) *int { return r.Key.(*int) }, func(a, b *int) int { return *a - *b })
	for n := range 3 {
		_, err := table.Insert(keyRow{&n})
		require.NoError(t, err)
	}
	h := inspect.Handler(table)
	cursor := func(text string) string { return "after=" + base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for query, want := range map[string]string{
		"equal=null":                     "400 equal is not a value of type *int",
		"from=null":                      "400 from is not a value of type *int",
		cursor(`{"Row":[null,null]}`):    "400 after is not the cursor of a page",
		cursor(`{"Row":[1]}`):            "400 after is not the cursor of a page",
		cursor(`{"Skip":-1}`):            "400 after is not the cursor of a page",
		cursor(`7`):                      "400 after is not the cursor of a page",
		cursor(`{"Row":[1,1]}`):          `200 {"table":"rows","by":"","next":"","rows":[` + "\n" + `{"value":2,"key":2,"row":{"Key":2}}]}`,
		cursor(`{"Skip":2}`):             `200 {"table":"rows","by":"","next":"","rows":[` + "\n" + `{"value":2,"key":2,"row":{"Key":2}}]}`,
		cursor(`{"Skip":20}`):            `200 {"table":"rows","by":"","next":"","rows":[]}`,
		cursor(`{"Row":[0,0],"Skip":1}`): `200 {"table":"rows","by":"","next":"","rows":[` + "\n" + `{"value":2,"key":2,"row":{"Key":2}}]}`,
	} {
		w := get(t, h, "view=rows&table=rows&"+query)
		require.Equal(t, want, fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String())), query)
	}
}

func TestNamesOfTables(t *testing.T) {
	named := func(name string) changefeed.AnyTable {
		return changefeed.NewTable(name, func(p *player) int { return p.ID })
	}
	h := inspect.Handler(named(""), named("a\xff"), named("a\ufffd"), named(""))
	for i, want := range []string{"(no name)", "a\ufffd", "a\ufffd#2", "(no name)#2"} {
		require.Equal(t, want, getJSON[overview](t, h, "").Tables[i].Name)
		require.Empty(t, keysOf(t, h, "table="+url.QueryEscape(want)))
	}
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

// event returns the name of the next event, if it has one, and its data. A heartbeat is no event.
func (l lines) event() string {
	var parts []string
	for l.read.Scan() && (l.read.Text() != "" || len(parts) == 0) {
		if text := l.read.Text(); text != "" && text != ":" {
			parts = append(parts, strings.TrimPrefix(text, "data: "))
		}
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
	require.Equal(t, `event: dropped {"tables":["games"]}`, one.event())
	require.Equal(t, "event: end {}", one.event())
	require.False(t, one.read.Scan())
	require.Equal(t, `event: dropped {"tables":["games"]}`, all.event())
	_, err = players.Delete(7)
	require.NoError(t, err)
	require.Contains(t, all.event(), `"kind":"delete"`, "of the table that is left")

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

// A view is shown like a table.
func TestViews(t *testing.T) {
	players := newPlayers()
	teams := changefeed.Count(players, "teams", func(p *player) string { return p.Team })
	changefeed.NewIndex(teams, "size", func(c *changefeed.Counted[string]) int { return c.Count })
	newest := changefeed.Top(changefeed.NewIndex(players, "id", func(p *player) int { return p.ID }), "newest", 1)
	h := inspect.Handler(players, teams, newest)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	all, one := tail(t, server, ""), tail(t, server, url.Values{"table": {"teams"}}.Encode())
	for id, team := range []string{"red", "red", "blue"} {
		_, err := players.Insert(player{ID: id, Team: team})
		require.NoError(t, err)
	}
	for _, want := range []string{
		`[{"table":"players","seq":1,"kind":"insert","new":{"ID":0,"Name":"","Team":"red"}},{"table":"teams","seq":1,"kind":"insert","new":{"group":"red","count":1}},{"table":"newest","seq":1,"kind":"insert","new":{"ID":0,"Name":"","Team":"red"}}]`,
		`[{"table":"players","seq":2,"kind":"insert","new":{"ID":1,"Name":"","Team":"red"}},{"table":"teams","seq":2,"kind":"update","old":{"group":"red","count":1},"new":{"group":"red","count":2}},{"table":"newest","seq":2,"kind":"delete","old":{"ID":0,"Name":"","Team":"red"}},{"table":"newest","seq":3,"kind":"insert","new":{"ID":1,"Name":"","Team":"red"}}]`,
	} {
		require.Equal(t, want, all.event())
	}
	require.Equal(t, `[{"table":"teams","seq":1,"kind":"insert","new":{"group":"red","count":1}}]`, one.event())

	o := getJSON[overview](t, h, "")
	require.Equal(t, []any{"teams", 2, []string{"size"}}, []any{o.Tables[1].Name, o.Tables[1].Rows, o.Tables[1].Indexes})
	require.Equal(t, []any{"newest", 1, uint64(5), uint64(3), uint64(2)}, []any{o.Tables[2].Name, o.Tables[2].Rows, o.Tables[2].Seq, o.Tables[2].Inserts, o.Tables[2].Deletes})
	require.Equal(t, []string{`"blue"`, `"red"`}, keysOf(t, h, "table=teams&limit=1"))
	require.Equal(t, []string{`"blue"`}, keysOf(t, h, "table=teams&by=size&equal=1"))
	require.Equal(t, []string{"2"}, keysOf(t, h, "table=newest"))
	players.Drop()
	require.True(t, getJSON[overview](t, h, "").Tables[2].Dropped)
}

// A middleware that wraps the response can make it impossible to send changes.
func TestATailThatCannotBeFlushed(t *testing.T) {
	players := newPlayers()
	w := httptest.NewRecorder()
	inspect.Handler(players).ServeHTTP(struct{ http.ResponseWriter }{w}, httptest.NewRequest(http.MethodGet, "/?view=tail", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "neither Flush nor Unwrap")
	require.Empty(t, players.Feeds())
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
