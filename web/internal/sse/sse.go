// Package sse writes server-sent events, and other long responses, in parts. Each part has a
// deadline of its own.
package sse

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"time"
	"weak"
)

// A Writer writes a response in parts. It is for one goroutine.
type Writer struct {
	// Text is what is to be written. It is used from Begin to End, and appended to.
	Text []byte

	w        http.ResponseWriter
	control  *http.ResponseController
	deadline time.Duration
	buffer   *buffer
	written  bool // something was written since Begin
}

// size is the size in bytes from which Text is written while more is ready.
const size = 16 << 10

// A buffer has room for the last event, too, if it is not very long.
type buffer [size + 4<<10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// NewWriter returns a writer of a response whose client may take the time of the deadline to receive
// each part.
func NewWriter(w http.ResponseWriter, deadline time.Duration) *Writer {
	return &Writer{w: w, control: http.NewResponseController(w), deadline: deadline}
}

var errCannotFlush = errors.New("events cannot be sent, because a middleware's http.ResponseWriter has neither Flush nor Unwrap")

// BeginEvents prepares the response for events. It returns an error, and writes nothing, if the
// response cannot be sent in parts.
func (w *Writer) BeginEvents() error {
	if !canFlush(w.w) {
		return errCannotFlush
	}
	_ = w.control.SetReadDeadline(time.Time{}) // the server's ReadTimeout would end the request
	header := w.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no") // nginx
	return nil
}

// canFlush reports whether [http.ResponseController.Flush] would find a method to call. To call it
// would send the headers.
func canFlush(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Flusher, interface{ FlushError() error }:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// Begin takes a buffer for Text. End must follow. Between the two, a client costs a buffer, and
// at other times it does not.
func (w *Writer) Begin() {
	w.buffer = buffers.Get().(*buffer)
	w.Text, w.written = w.buffer[:0], false
}

// End returns the buffer.
func (w *Writer) End() {
	buffers.Put(w.buffer)
	w.Text, w.buffer = nil, nil
}

// IsEmpty reports whether nothing was added since Begin.
func (w *Writer) IsEmpty() bool { return len(w.Text) == 0 && !w.written }

// Added writes Text if it has become long.
func (w *Writer) Added() error {
	if len(w.Text) < size {
		return nil
	}
	return w.Write()
}

// Write writes Text.
func (w *Writer) Write() error { return w.write(func() error { return nil }) }

// Flush writes Text, and sends what was written to the client.
func (w *Writer) Flush() error { return w.write(w.control.Flush) }

// write writes Text and calls then, with the deadline. In HTTP/2, a deadline that is left would end
// the response when it comes, even if nothing is being written.
func (w *Writer) write(then func() error) error {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.deadline))
	_, err := w.w.Write(w.Text)
	w.Text, w.written = w.Text[:0], true
	if err == nil {
		err = then()
	}
	if err == nil {
		_ = w.control.SetWriteDeadline(time.Time{})
	}
	return err
}

// Follow calls send with the text that begins a feed, and then whenever wake gets a value or ctx is
// done, until send returns an error, which Follow returns. After a time without that, it passes the
// text of a heartbeat.
func Follow(ctx context.Context, begin string, wake <-chan struct{}, heartbeat time.Duration, send func(text string) error) error {
	timer := time.NewTimer(heartbeat)
	defer timer.Stop()
	for text := begin; ; {
		if err := send(text); err != nil {
			return err
		}
		text = ""
		timer.Reset(heartbeat)
		select {
		case <-wake:
		case <-ctx.Done():
		case <-timer.C:
			text = ":\n\n"
		}
	}
}

// shutdowns has a context for each server that has called Context. It is done when Shutdown of the
// server is called. The keys are weak pointers, so that the servers can be collected.
var shutdowns sync.Map // from weak.Pointer[http.Server] to context.Context

// Context returns the context of a request. It also ends when Shutdown of the server is called, and
// its cause is then [http.ErrServerClosed]. The caller must call cancel at the end of the request.
//
// The first request to a server that calls Context does not hear of a Shutdown that has begun before.
func Context(r *http.Request) (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancelCause(r.Context())
	stop := onShutdown(r, func() { end(http.ErrServerClosed) })
	return ctx, func() {
		stop()
		end(nil)
	}
}

// onShutdown calls f when the server of a request is shut down, until stop is called.
func onShutdown(r *http.Request, f func()) (stop func() bool) {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return func() bool { return true }
	}
	key := weak.Make(server)
	ctx, ok := shutdowns.Load(key)
	if !ok {
		c, cancel := context.WithCancel(context.Background())
		if ctx, ok = shutdowns.LoadOrStore(key, c); ok {
			cancel()
		} else {
			server.RegisterOnShutdown(cancel)
			runtime.AddCleanup(server, func(key weak.Pointer[http.Server]) { shutdowns.Delete(key) }, key)
		}
	}
	return context.AfterFunc(ctx.(context.Context), f)
}
