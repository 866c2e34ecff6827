package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/internal/sse"
)

// Changes returns a handler that sends the present rows of a selection and its changes as
// server-sent events: see the package documentation.
func Changes[K, V any](s changefeed.Selection[K, V], opts ...Option) http.Handler {
	return ChangesFunc(always(s), opts...)
}

// ChangesFunc is like [Changes] but calls choose for the selection that a request asks for. If choose
// returns a [*StatusError], the handler answers with its status and text. After any other error
// it answers with the status 400, without the error's text.
//
// A request that resumes must choose what the request before it chose. Otherwise the page keeps rows
// that are not of its selection any more. A page whose user has changed must therefore follow anew.
func ChangesFunc[K, V any](choose func(r *http.Request) (changefeed.Selection[K, V], error), opts ...Option) http.Handler {
	return &changes[K, V]{source: source[K, V]{newConfig(opts), choose}}
}

type changes[K, V any] struct {
	source[K, V]
	clients atomic.Int64
	recent  recent[V]
}

// noPosition is the ID from a reset until the feed has a position again. A browser that has an empty
// one sends none, so the parameter "after" of the page's address would count again.
const noPosition = "0"

func (h *changes[K, V]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, ok := h.accept(w, r)
	if !ok {
		return
	}
	after, err := position(r)
	if err != nil {
		httpError(w, http.StatusBadRequest, "the Last-Event-ID, or the parameter after, is not the position of a feed")
		return
	}
	defer h.leave()
	if n := h.clients.Add(1); h.maxClients > 0 && n > int64(h.maxClients) {
		w.Header().Set("Retry-After", strconv.Itoa(int(h.retry/time.Second)+1))
		httpError(w, http.StatusServiceUnavailable, "too many clients")
		return
	}

	ctx, cancel := sse.Context(r)
	defer cancel()
	c := client[K, V]{handler: h, out: sse.NewWriter(w, h.deadline), wake: make(chan struct{}, 1), begins: after.IsZero(), resumes: !after.IsZero()}
	options := []changefeed.FeedOption{
		changefeed.After(after), changefeed.OnOverflow(changefeed.Resync), changefeed.Buffer(h.buffer),
		changefeed.Poll(c.wake), changefeed.Track(&c.feed), changefeed.Named(h.name),
	}
	if h.isSquashed {
		options = append(options, changefeed.Squash(h.squash))
	}
	if err := c.out.BeginEvents(); err != nil {
		h.logger.Error("web: "+err.Error(), "client", r.RemoteAddr)
		httpError(w, http.StatusInternalServerError, err.Error())
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	h.logger.Debug("web: feed begins", "table", s.Table().Name(), "client", r.RemoteAddr, "after", after)
	err = c.follow(ctx, s.Changes(ctx, options...))
	h.logger.Debug("web: feed ends", "table", s.Table().Name(), "client", r.RemoteAddr, "after", c.id, "cause", err)
}

// leave is called when a client has gone. Without clients, no event is kept.
func (h *changes[K, V]) leave() {
	if h.clients.Add(-1) == 0 {
		h.recent.clear()
	}
}

// A client is the feed of one request.
type client[K, V any] struct {
	handler *changes[K, V]
	feed    changefeed.Feed
	wake    chan struct{}
	out     *sse.Writer
	id      changefeed.Position // the last one that was sent
	begins  bool                // the first event will be a "reset" that nothing was lost before
	resumes bool                // the first event will be "resumed", or a "reset"
}

// follow sends the stream until it ends, and returns why.
func (c *client[K, V]) follow(ctx context.Context, stream changefeed.Stream[changefeed.Change[V]]) error {
	begin := fmt.Sprintf("retry: %d\n\n", c.handler.retry.Milliseconds())
	return sse.Follow(ctx, begin, c.wake, c.handler.heartbeat, func(text string) error { return c.send(stream, text) })
}

// send sends a text, and the changes that are ready.
func (c *client[K, V]) send(stream changefeed.Stream[changefeed.Change[V]], text string) (err error) {
	c.out.Begin()
	defer c.out.End()
	c.out.Text = append(c.out.Text, text...)
	for change, e := range stream {
		if err = c.add(change, e); err != nil {
			break
		}
		if err = c.out.Added(); err != nil {
			return err
		}
	}
	if err == nil {
		c.addResumed()
	}
	if c.out.IsEmpty() {
		return err
	}
	if p := c.feed.Position(); p != c.id && !p.IsZero() && !errors.Is(err, changefeed.ErrTableDropped) {
		c.id = p
		c.out.Text = fmt.Appendf(c.out.Text, "event: position\nid: %v\ndata: {}\n\n", p)
	}
	return errors.Join(err, c.out.Flush())
}

// add adds an element of the stream to out. It returns an error if the stream ends.
func (c *client[K, V]) add(change changefeed.Change[V], err error) error {
	switch {
	case err == nil:
		c.addResumed()
		return c.addChange(change)
	case errors.Is(err, changefeed.ErrTableDropped):
		c.out.Text = append(c.out.Text, "event: end\ndata: {\"error\":\"the table was dropped\"}\n\n"...)
		return err
	}
	skipped, ok := errors.AsType[*changefeed.SkippedError](err)
	if !ok {
		return err
	}
	data := []byte(`{"state":"initializing"}`)
	if !c.begins {
		data, _ = json.Marshal(skipped)
	}
	c.out.Text = fmt.Appendf(c.out.Text, "event: reset\nid: %s\ndata: %s\n\n", noPosition, data)
	c.id, c.begins, c.resumes = changefeed.Position{}, false, false
	return nil
}

// addResumed adds the event that says that the feed goes on after the position of the request.
func (c *client[K, V]) addResumed() {
	if c.resumes {
		c.resumes = false
		c.out.Text = append(c.out.Text, "event: resumed\ndata: {}\n\n"...)
	}
}

func (c *client[K, V]) addChange(change changefeed.Change[V]) error {
	p := c.feed.Position()
	if change.Kind == changefeed.Initial || p.Seq != change.Seq {
		p = changefeed.Position{}
	}
	text, err := c.handler.recent.event(change, p)
	if err != nil {
		c.handler.logger.Error("web: a row cannot be encoded", "change", change.Seq, "error", err)
		c.out.Text = append(c.out.Text, "event: end\ndata: {\"error\":\"a row cannot be encoded\"}\n\n"...)
		return err
	}
	c.out.Text = append(c.out.Text, text...)
	if !p.IsZero() {
		c.id = p
	}
	return nil
}

// A recent keeps the text of recent events, so that a change is encoded once for all clients.
type recent[V any] struct {
	events [256]atomic.Pointer[event[V]] // by Seq
}

type event[V any] struct {
	change changefeed.Change[V]
	id     changefeed.Position
	text   []byte
}

// event returns the text of an event. The position is its ID, if it is not zero.
func (r *recent[V]) event(c changefeed.Change[V], id changefeed.Position) ([]byte, error) {
	slot := &r.events[c.Seq%uint64(len(r.events))]
	isShared := c.Kind != changefeed.Initial && c.Kind != changefeed.Ready
	if e := slot.Load(); isShared && e != nil && e.change == c && e.id == id {
		return e.text, nil
	}
	data, err := encode(c)
	if err != nil {
		return nil, err
	}
	var text []byte
	if c.Kind == changefeed.Ready {
		text = append(text, "event: ready\n"...)
	}
	if !id.IsZero() {
		text = fmt.Appendf(text, "id: %v\n", id)
	}
	text = fmt.Appendf(text, "data: %s\n\n", data)
	if isShared {
		slot.Store(&event[V]{c, id, text})
	}
	return text, nil
}

func (r *recent[V]) clear() {
	for i := range r.events {
		r.events[i].Store(nil)
	}
}

// encode returns the JSON of a value. A panic of its methods is an error.
func encode(v any) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return json.Marshal(v)
}
