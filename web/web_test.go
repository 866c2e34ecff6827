package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/stretchr/testify/require"
)

type player struct {
	ID    int
	Team  string
	Score int
}

func newPlayers() *changefeed.Table[int, player] {
	return changefeed.NewTable("players", func(p *player) int { return p.ID })
}

// serve starts a server, which ends with the test, also if pages are open.
func serve(t testing.TB, handler http.Handler) *httptest.Server {
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// An event is a server-sent event, as a browser reads it.
type event struct{ name, id, data string }

// A page reads events as a browser does, and keeps the rows and the last ID.
type page struct {
	t      testing.TB
	id     string
	rows   map[int]player
	ready  bool
	cancel context.CancelFunc
	lines  *bufio.Scanner
	res    *http.Response
}

// open opens a feed. It resumes after the last ID, if there is one.
func (p *page) open(url string) *page {
	p.t.Helper()
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(p.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(p.t, err)
	if p.id != "" {
		req.Header.Set("Last-Event-ID", p.id)
	}
	p.res, err = http.DefaultClient.Do(req)
	require.NoError(p.t, err)
	p.t.Cleanup(p.close)
	p.lines = bufio.NewScanner(p.res.Body)
	return p
}

func (p *page) close() {
	p.cancel()
	_ = p.res.Body.Close()
}

// next returns the next event, or io.EOF. Comments and fields that make no event are passed over.
func (p *page) next() (e event, err error) {
	e.name = "message"
	hasData := false
	for p.lines.Scan() {
		field, value, _ := strings.Cut(p.lines.Text(), ": ")
		switch field {
		case "event":
			e.name = value
		case "id":
			p.id = value
		case "data":
			e.data += value
			hasData = true
		case "":
			if hasData {
				e.id = p.id
				return e, nil
			}
			e = event{name: "message"}
		case "retry":
		default:
			require.Equal(p.t, "", field)
		}
	}
	if err := p.lines.Err(); err != nil {
		return e, err
	}
	return e, io.EOF
}

// take reads an event, and does with the rows what the page's script does.
func (p *page) take() (event, error) {
	e, err := p.next()
	if err != nil {
		return e, err
	}
	switch e.name {
	case "reset":
		p.rows, p.ready = make(map[int]player), false
	case "ready":
		p.ready = true
	case "message":
		var c changefeed.Change[player]
		require.NoError(p.t, json.Unmarshal([]byte(e.data), &c), e.data)
		if c.New != nil {
			p.rows[c.New.ID] = *c.New
		} else {
			delete(p.rows, c.Old.ID)
		}
	}
	return e, nil
}

// takeUntil reads events until one with the name comes.
func (p *page) takeUntil(name string) event {
	p.t.Helper()
	for {
		e, err := p.take()
		require.NoError(p.t, err)
		if e.name == name {
			return e
		}
	}
}

func TestAFeed(t *testing.T) {
	players := newPlayers()
	_, _ = players.Insert(player{1, "red", 10})
	players.Retain(100)
	server := serve(t, web.Changes(players.Selection()))
	p := (&page{t: t}).open(server.URL)
	for header, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"} {
		require.Equal(t, want, p.res.Header.Get(header))
	}
	for _, want := range []event{
		{"reset", "0", `{"state":"initializing"}`},
		{"message", "0", `{"new_val":{"ID":1,"Team":"red","Score":10}}`},
		{"ready", players.Position().String(), `{"state":"ready"}`},
	} {
		e, err := p.take()
		require.NoError(t, err)
		require.Equal(t, want, e)
	}
	_, _ = players.Update(1, func(p *player) { p.Score++ })
	e, err := p.take()
	require.NoError(t, err)
	require.Equal(t, event{"message", players.Position().String(), `{"old_val":{"ID":1,"Team":"red","Score":10},"new_val":{"ID":1,"Team":"red","Score":11}}`}, e)
	p.close()
	_, _ = players.Delete(1)
	last := p.id
	p.open(server.URL)
	for _, want := range []event{
		{"resumed", last, "{}"},
		{"message", players.Position().String(), `{"old_val":{"ID":1,"Team":"red","Score":11},"new_val":null}`},
	} {
		e, err = p.take()
		require.NoError(t, err)
		require.Equal(t, want, e)
	}
	players.Drop()
	e = p.takeUntil("end")
	require.Equal(t, `{"error":"the table was dropped"}`, e.data)
	_, err = p.next()
	require.Equal(t, io.EOF, err)
}
