package web_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/stretchr/testify/require"
)

// A page that loses its connection after any event, and connects again at any time, has the rows of
// the table. In between the table is written to, reset and forked.
func TestAPageThatLosesItsConnection(t *testing.T) {
	resumed, reset := 0, 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		players := newPlayers()
		players.Retain(60)
		options := []web.Option{web.Buffer(10)}
		if seed%3 == 0 {
			options = append(options, web.Squash(0))
		}
		selection := players.Selection()
		if seed%2 == 0 {
			selection = players.Where(func(p *player) bool { return p.Team == "red" })
		}
		server := serve(t, web.Changes(selection, options...))
		p := &page{t: t}
		write := func() {
			for range r.IntN(5) * r.IntN(6) {
				id := r.IntN(10)
				switch r.IntN(40) {
				case 0:
					players.Fork()
				case 1:
					past := changefeed.Past[player]{Lineage: []changefeed.Position{players.At(players.Seq())}}
					for _, row := range players.All() {
						if row.ID != id {
							past.Rows = func(yield func(player) bool) { yield(row) }
						}
					}
					require.NoError(t, players.Reset(past))
				default:
					if r.IntN(3) == 0 {
						_, _ = players.Delete(id)
					} else {
						_, _ = players.Upsert(player{id, []string{"red", "blue"}[r.IntN(2)], r.IntN(1000)})
					}
				}
			}
		}
		for range 40 {
			p.open(server.URL)
			for i := range r.IntN(12) {
				write()
				_, _ = players.Upsert(player{r.IntN(10), "red", 1000 + r.IntN(1<<30)}) // so that an event comes
				e, err := p.take()
				require.NoError(t, err)
				switch {
				case i > 0:
				case e.name == "reset":
					reset++
				default:
					require.Equal(t, "resumed", e.name)
					resumed++
				}
			}
			p.close()
			write()
		}
		// The last event is the insert of a row that nobody else writes.
		p.open(server.URL)
		_, err := players.Insert(player{99, "red", 0})
		require.NoError(t, err)
		for p.rows[99].ID == 0 || !p.ready {
			_, err := p.take()
			require.NoError(t, err)
		}
		require.Equal(t, maps.Collect(selection.All()), p.rows, "seed %d", seed)
		p.close()
	}
	require.Greater(t, resumed, 50)
	require.Greater(t, reset, 50)
}

// A pipe is a server and its clients in one process, without a network, so that synctest controls
// their time.
type pipe struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipe) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipe) Addr() net.Addr { return &net.TCPAddr{} }

// get begins a request, and returns its response as lines.
func (p *pipe) get(t *testing.T, header string) (net.Conn, *bufio.Reader) {
	client, server := net.Pipe()
	p.conns <- server
	_, err := fmt.Fprintf(client, "GET / HTTP/1.1\r\nHost: pipe\r\n%s\r\n", header)
	require.NoError(t, err)
	lines := bufio.NewReader(client)
	return client, lines
}

// readUntil reads lines until one contains the text.
func readUntil(t *testing.T, lines *bufio.Reader, text string) string {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		if strings.Contains(line, text) {
			return line
		}
	}
}

// A heartbeat comes when nothing else has come for its time, and carries a new position.
func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		players := newPlayers()
		p := newPipe()
		server := &http.Server{Handler: web.Changes(players.Row(1), web.Heartbeat(time.Minute))}
		go func() { _ = server.Serve(p) }()
		client, lines := p.get(t, "")
		readUntil(t, lines, "ready")
		began := time.Now()
		readUntil(t, lines, ":\n")
		require.Equal(t, time.Minute, time.Since(began))
		_, _ = players.Insert(player{ID: 2}) // not selected
		require.Contains(t, readUntil(t, lines, "id: "), players.Position().String())
		require.Equal(t, 2*time.Minute, time.Since(began))
		time.Sleep(30 * time.Second)
		_, _ = players.Insert(player{ID: 1})
		readUntil(t, lines, "data: ")
		began = time.Now()
		readUntil(t, lines, ":\n")
		require.Equal(t, time.Minute, time.Since(began))
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})
}

// A client that stops reading is dropped after the deadline. Then it holds nothing any more.
func TestAClientThatStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		players := newPlayers()
		p := newPipe()
		server := &http.Server{Handler: web.Changes(players.Selection(), web.Deadline(time.Minute), web.Heartbeat(time.Hour)), WriteTimeout: time.Second, ReadTimeout: time.Second}
		go func() { _ = server.Serve(p) }()
		client, lines := p.get(t, "")
		readUntil(t, lines, "ready")
		time.Sleep(30 * time.Minute) // the server's own timeouts do not matter
		require.Len(t, players.Feeds(), 1)
		_, _ = players.Insert(player{ID: 1})
		synctest.Wait()
		time.Sleep(59 * time.Second)
		require.Len(t, players.Feeds(), 1)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Empty(t, players.Feeds())
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})
}

// Shutdown of the server ends all feeds at once, also those that begin later on a connection.
func TestShutdown(t *testing.T) {
	players := newPlayers()
	server := serve(t, web.Changes(players.Selection()))
	var pages []*page
	for range 20 {
		pages = append(pages, (&page{t: t}).open(server.URL))
	}
	for _, p := range pages {
		p.takeUntil("ready")
	}
	require.NoError(t, server.Config.Shutdown(t.Context()))
	for _, p := range pages {
		_, err := p.next()
		require.Equal(t, io.EOF, err)
	}
	require.Empty(t, players.Feeds())
}

// A thousand clients get all changes, in the same order.
func TestAThousandClients(t *testing.T) {
	players := newPlayers()
	_, _ = players.Insert(player{ID: 1})
	server := serve(t, web.Changes(players.Selection()))
	var pages sync.WaitGroup
	for range 1000 {
		p := (&page{t: t}).open(server.URL)
		pages.Go(func() {
			defer p.close()
			for seen := -1; seen < 20; {
				e, err := p.take()
				if err != nil {
					t.Error(err)
					return
				}
				if !p.ready || e.name != "message" {
					seen = p.rows[1].Score
					continue
				}
				if p.rows[1].Score != seen+1 {
					t.Error(seen, e)
					return
				}
				seen = p.rows[1].Score
			}
		})
	}
	for range 20 {
		_, _ = players.Update(1, func(p *player) { p.Score++ })
	}
	pages.Wait()
}

// Requests that cannot be answered get a status and a sentence.
func TestBadRequests(t *testing.T) {
	players := newPlayers()
	_, _ = players.Insert(player{ID: 1})
	choose := func(r *http.Request) (changefeed.Selection[int, player], error) {
		switch r.URL.Query().Get("team") {
		case "secret":
			return changefeed.Selection[int, player]{}, &web.StatusError{Status: http.StatusForbidden, Text: "not for you"}
		case "other":
			return changefeed.Selection[int, player]{}, errors.New("unknown team " + r.URL.Query().Get("team"))
		}
		return players.Selection(), nil
	}
	feed, rows := web.ChangesFunc(choose), web.RowsFunc(choose)
	for _, test := range []struct {
		handler      http.Handler
		method, path string
		id           string
		status       int
		body         string
	}{
		{feed, "POST", "/", "", 405, "only GET is allowed"},
		{rows, "POST", "/", "", 405, "only GET is allowed"},
		{feed, "GET", "/?team=secret", "", 403, "not for you"},
		{rows, "GET", "/?team=secret", "", 403, "not for you"},
		{feed, "GET", "/?team=other", "", 400, "the request does not choose any rows"},
		{feed, "GET", "/?after=<script>", "", 400, "the Last-Event-ID, or the parameter after, is not the position of a feed"},
		{feed, "GET", "/", "x.1", 400, "the Last-Event-ID, or the parameter after, is not the position of a feed"},
		{feed, "HEAD", "/", "", 200, ""},
		{rows, "HEAD", "/", "", 200, ""},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(test.method, test.path, nil)
		if test.id != "" {
			r.Header.Set("Last-Event-ID", test.id)
		}
		test.handler.ServeHTTP(w, r)
		require.Equal(t, test.status, w.Code)
		require.Equal(t, test.body, strings.TrimSpace(w.Body.String()))
	}
	for _, origin := range []string{"*", "https://a.example/", "a.example", ""} {
		require.PanicsWithValue(t, "web: AllowOrigin("+origin+"): the value must be like https://example.com", func() { web.AllowOrigin(origin) })
	}
	require.PanicsWithValue(t, "web: Buffer(0): the value must be at least 1", func() { web.Buffer(0) })
	var zero changefeed.Selection[int, player]
	require.PanicsWithValue(t, "web: the Selection is zero", func() { web.Changes(zero) })
	require.PanicsWithValue(t, "web: the chosen Selection is zero", func() {
		chosen := web.RowsFunc(func(*http.Request) (changefeed.Selection[int, player], error) { return zero, nil })
		chosen.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	})
}

// A middleware that wraps the response can make it impossible to send events.
func TestAResponseThatCannotBeFlushed(t *testing.T) {
	players := newPlayers()
	var log strings.Builder
	feed := web.Changes(players.Selection(), web.Logger(slog.New(slog.NewTextHandler(&log, nil))))
	for _, wrap := range []func(http.Handler) http.Handler{
		func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "") },
		func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
		},
	} {
		log.Reset()
		w := httptest.NewRecorder()
		wrap(feed).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 500, w.Code)
		const text = "events cannot be sent, because a middleware's http.ResponseWriter has neither Flush nor Unwrap"
		require.Equal(t, text, strings.TrimSpace(w.Body.String()))
		require.Contains(t, log.String(), "level=ERROR msg=\"web: "+text+"\"")
		require.Empty(t, players.Feeds())
	}
}

// The position of the header and that of the parameter "after" are those of a feed.
func TestRows(t *testing.T) {
	players := newPlayers()
	players.Retain(100)
	want := []player{}
	for id := range 5000 {
		want = append(want, player{id, "red", id})
		_, _ = players.Insert(want[id])
	}
	mux := http.NewServeMux()
	mux.Handle("GET /rows", web.Rows(players.Selection()))
	mux.Handle("GET /changes", web.Changes(players.Selection()))
	server := serve(t, mux)
	res, err := http.Get(server.URL + "/rows")
	require.NoError(t, err)
	var got []player
	require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
	require.Equal(t, want, got)
	position := res.Header.Get(web.PositionHeader)
	require.Equal(t, players.Position().String(), position)

	_, _ = players.Delete(7)
	p := (&page{t: t}).open(server.URL + "/changes?after=" + position)
	e, err := p.next()
	require.NoError(t, err)
	require.Equal(t, event{"resumed", "", "{}"}, e)
	e, err = p.next()
	require.NoError(t, err)
	require.Equal(t, `{"old_val":{"ID":7,"Team":"red","Score":7},"new_val":null}`, e.data)
	p.close()

	for tag, status := range map[string]int{res.Header.Get("ETag"): 200, `"` + players.Position().String() + `"`: 304} {
		req, err := http.NewRequest(http.MethodGet, server.URL+"/rows", nil)
		require.NoError(t, err)
		req.Header.Set("If-None-Match", tag)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.Equal(t, status, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
}

// The same URL may have other rows for another user, so only the rows of Rows have an ETag.
func TestRowsOfAnotherUser(t *testing.T) {
	players := newPlayers()
	_, _ = players.Insert(player{1, "red", 1})
	byTeam := changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	h := web.RowsFunc(func(r *http.Request) (changefeed.Selection[int, player], error) {
		return byTeam.Equal(r.Header.Get("Cookie")), nil
	})
	for team, want := range map[string]string{"red": "[\n{\"ID\":1,\"Team\":\"red\",\"Score\":1}\n]\n", "blue": "[\n]\n"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", team)
		r.Header.Set("If-None-Match", `"`+players.Position().String()+`"`)
		h.ServeHTTP(w, r)
		require.Equal(t, want, w.Body.String())
		require.Empty(t, w.Header().Get("ETag"))
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	}
}

type oddRow struct {
	ID    int
	Value any
}

type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("no value") }

// A row that cannot be encoded ends a feed, and breaks the answer of Rows off.
func TestARowThatCannotBeEncoded(t *testing.T) {
	for cause, value := range map[string]any{"unsupported value: NaN": math.NaN(), "panic: no value": panicking{}} {
		rows := changefeed.NewTable("rows", func(r *oddRow) int { return r.ID })
		_, _ = rows.Insert(oddRow{1, value})
		var log strings.Builder
		options := web.Logger(slog.New(slog.NewTextHandler(&log, nil)))
		w := httptest.NewRecorder()
		web.Changes(rows.Selection(), options).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Contains(t, w.Body.String(), "event: end\ndata: {\"error\":\"a row cannot be encoded\"}\n\n")
		require.PanicsWithValue(t, http.ErrAbortHandler, func() {
			web.Rows(rows.Selection(), options).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		})
		require.Equal(t, 2, strings.Count(log.String(), cause))
	}
}

func TestScript(t *testing.T) {
	get := func(tag string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/changefeed.js", nil)
		r.Header.Set("If-None-Match", tag)
		web.Script().ServeHTTP(w, r)
		return w
	}
	w := get("")
	require.Equal(t, 200, w.Code)
	require.Equal(t, "text/javascript; charset=utf-8", w.Header().Get("Content-Type"))
	require.Contains(t, w.Body.String(), "export function follow(url, options)")
	require.Equal(t, 304, get(w.Header().Get("ETag")).Code)
}

// A feed has a name in the figures of its table.
func TestNamed(t *testing.T) {
	players := newPlayers()
	p := (&page{t: t}).open(serve(t, web.Changes(players.Selection(), web.Named("board"))).URL)
	p.takeUntil("ready")
	require.Equal(t, "board", players.Feeds()[0].Name)
}

func TestMaxClients(t *testing.T) {
	players := newPlayers()
	server := serve(t, web.Changes(players.Selection(), web.MaxClients(2), web.Retry(5*time.Second)))
	one, two := (&page{t: t}).open(server.URL), (&page{t: t}).open(server.URL)
	one.takeUntil("ready")
	two.takeUntil("ready")
	res, err := http.Get(server.URL)
	require.NoError(t, err)
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "6", res.Header.Get("Retry-After"))
	require.NoError(t, res.Body.Close())
	two.close()
	for three := (&page{t: t}).open(server.URL); three.res.StatusCode != 200; three.open(server.URL) {
		require.Equal(t, 503, three.res.StatusCode) // the handler has not noticed yet
	}
}

// Only the origins that were asked for may read a feed from pages of theirs.
func TestOrigins(t *testing.T) {
	players := newPlayers()
	handler := web.Changes(players.Selection(), web.AllowOrigin("https://example.com"))
	for origin, want := range map[string]string{"https://example.com": "https://example.com", "https://other.com": "", "": ""} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("HEAD", "/", nil)
		r.Header.Set("Origin", origin)
		handler.ServeHTTP(w, r)
		require.Equal(t, want, w.Header().Get("Access-Control-Allow-Origin"))
		require.Equal(t, "Origin", w.Header().Get("Vary"))
	}
	w := httptest.NewRecorder()
	web.Changes(players.Selection()).ServeHTTP(w, httptest.NewRequest("HEAD", "/", nil))
	require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
}

// Feeds work over HTTP/2, and behind middleware that compresses.
func TestHTTP2AndGzip(t *testing.T) {
	players := newPlayers()
	_, _ = players.Insert(player{ID: 1})
	feed := web.Changes(players.Selection())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := &gzipWriter{ResponseWriter: w, z: gzip.NewWriter(w)}
		feed.ServeHTTP(z, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	req, err := http.NewRequest(http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	require.Equal(t, 2, res.ProtoMajor)
	z, err := gzip.NewReader(res.Body)
	require.NoError(t, err)
	p := &page{t: t, lines: bufio.NewScanner(z)}
	p.takeUntil("ready")
	_, _ = players.Delete(1)
	p.takeUntil("message")
	require.Empty(t, p.rows)
	_, _ = players.Insert(player{ID: 1, Team: strings.Repeat("x", 20_000)}) // it fills the buffer, and nothing follows
	p.takeUntil("message")
	require.Len(t, p.rows[1].Team, 20_000)
	require.NoError(t, res.Body.Close())
}

type gzipWriter struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (w *gzipWriter) Write(data []byte) (int, error) { return w.z.Write(data) }
func (w *gzipWriter) Unwrap() http.ResponseWriter    { return w.ResponseWriter }
func (w *gzipWriter) FlushError() error {
	return errors.Join(w.z.Flush(), http.NewResponseController(w.ResponseWriter).Flush())
}

// Whatever a client sends as a position, it gets a bad request, or the rows.
func FuzzLastEventID(f *testing.F) {
	players := newPlayers()
	players.Retain(10)
	for id := range 20 {
		_, _ = players.Insert(player{ID: id})
	}
	for _, id := range []string{"", "0", players.Position().String(), players.At(3).String(), players.At(1 << 40).String(), "x", "\n"} {
		f.Add(id)
	}
	handler := web.Changes(players.Selection())
	f.Fuzz(func(t *testing.T, id string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Last-Event-ID", id)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		handler.ServeHTTP(w, r.WithContext(ctx))
		var p changefeed.Position
		if id == "0" || p.UnmarshalText([]byte(id)) == nil {
			require.Equal(t, 200, w.Code)
		} else {
			require.Equal(t, 400, w.Code)
			require.NotContains(t, w.Body.String(), "event")
		}
	})
}
