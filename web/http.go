package web

import (
	"errors"
	"net/http"
	"slices"

	"github.com/seed-637b77f9/changefeed"
)

// A StatusError makes the handlers of [ChangesFunc] and [RowsFunc] answer with a status and a text.
// The text must not contain what the request has sent.
type StatusError struct {
	Status int // 400 to 599
	Text   string
}

// Error returns the text.
func (e *StatusError) Error() string { return e.Text }

// httpError answers with a status and a sentence.
func httpError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}

// A source is the part that all handlers have: what they send.
type source[K, V any] struct {
	config
	choose func(r *http.Request) (changefeed.Selection[K, V], error)
}

// always returns a function that chooses s.
func always[K, V any](s changefeed.Selection[K, V]) func(r *http.Request) (changefeed.Selection[K, V], error) {
	if s.Table() == nil {
		panic("web: the Selection is zero")
	}
	return func(*http.Request) (changefeed.Selection[K, V], error) { return s, nil }
}

// accept returns the selection that a request asks for. If there is none, it answers.
func (c *source[K, V]) accept(w http.ResponseWriter, r *http.Request) (s changefeed.Selection[K, V], ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		httpError(w, http.StatusMethodNotAllowed, "only GET is allowed")
		return s, false
	}
	c.allowOrigin(w, r)
	s, err := c.choose(r)
	if err == nil && s.Table() != nil {
		return s, true
	}
	if err == nil {
		panic("web: the chosen Selection is zero")
	}
	status, text := http.StatusBadRequest, "the request does not choose any rows"
	if e, ok := errors.AsType[*StatusError](err); ok {
		status, text = e.Status, e.Text
	}
	c.logger.Debug("web: request refused", "client", r.RemoteAddr, "status", status, "error", err)
	httpError(w, status, text)
	return s, false
}

// allowOrigin sets the headers for a page of another origin.
func (c *config) allowOrigin(w http.ResponseWriter, r *http.Request) {
	if len(c.origins) == 0 {
		return
	}
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); slices.Contains(c.origins, origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", PositionHeader)
	}
}

// position returns the position after which a request resumes: that of the header
// Last-Event-ID, or else that of the parameter "after".
func position(r *http.Request) (p changefeed.Position, err error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("after")
	}
	if text == "" || text == noPosition {
		return p, nil
	}
	return p, p.UnmarshalText([]byte(text))
}
