// Package sse writes server-sent events, and other long responses, in parts. Each part has a
// deadline of its own.
package sse

import (
	"context"
	"net/http"
	"sync"
	"time"
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

// BeginEvents prepares the response for events.
func (w *Writer) BeginEvents() {
	_ = w.control.SetReadDeadline(time.Time{}) // the server's ReadTimeout would end the request
	header := w.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no") // nginx
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
func (w *Writer) Write() error {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.deadline))
	_, err := w.w.Write(w.Text)
	w.Text, w.written = w.Text[:0], true
	return err
}

// Flush writes Text, and sends what was written to the client.
func (w *Writer) Flush() error {
	if err := w.Write(); err != nil {
		return err
	}
	return w.control.Flush()
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

// Shutdowns knows which of the servers that a handler has seen were shut down. A zero Shutdowns is
// ready to use.
type Shutdowns struct{ contexts sync.Map } // by *http.Server, done when Shutdown is called

// Context returns the context of a request. It also ends when Shutdown of the server is called, and
// its cause is then [http.ErrServerClosed]. The caller must call cancel at the end of the request.
func (s *Shutdowns) Context(r *http.Request) (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancelCause(r.Context())
	stop := s.onShutdown(r, func() { end(http.ErrServerClosed) })
	return ctx, func() {
		stop()
		end(nil)
	}
}

// onShutdown calls f when the server of a request is shut down, until stop is called.
func (s *Shutdowns) onShutdown(r *http.Request, f func()) (stop func() bool) {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return func() bool { return true }
	}
	ctx, ok := s.contexts.Load(server)
	if !ok {
		c, cancel := context.WithCancel(context.Background())
		if ctx, ok = s.contexts.LoadOrStore(server, c); ok {
			cancel()
		} else {
			server.RegisterOnShutdown(cancel)
		}
	}
	return context.AfterFunc(ctx.(context.Context), f)
}
