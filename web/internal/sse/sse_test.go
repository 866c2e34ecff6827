package sse

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// A response remembers its deadline, and the one of each write and flush.
type response struct {
	*httptest.ResponseRecorder
	deadline time.Time
	during   []time.Time
}

func (r *response) SetWriteDeadline(t time.Time) error {
	r.deadline = t
	return nil
}

func (r *response) Write(data []byte) (int, error) {
	r.during = append(r.during, r.deadline)
	return r.ResponseRecorder.Write(data)
}

func (r *response) FlushError() error {
	r.during = append(r.during, r.deadline)
	return nil
}

// In HTTP/2, a deadline that is left ends the response, even if nothing is being written.
func TestADeadlineIsNotLeft(t *testing.T) {
	r := &response{ResponseRecorder: httptest.NewRecorder()}
	w := NewWriter(r, time.Minute)
	for _, write := range []func() error{w.Write, w.Flush} {
		w.Begin()
		w.Text = append(w.Text, 'x')
		require.NoError(t, write())
		w.End()
		require.Zero(t, r.deadline)
	}
	require.Len(t, r.during, 3)
	for _, deadline := range r.during {
		require.WithinDuration(t, time.Now().Add(time.Minute), deadline, 30*time.Second)
	}
}

func TestAServerIsKnownOnce(t *testing.T) {
	server := new(http.Server)
	key := weak.Make(server)
	request := func() *http.Request {
		ctx := context.WithValue(t.Context(), http.ServerContextKey, server)
		return httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	}
	var known any
	for range 3 {
		ctx, cancel := Context(request())
		require.NoError(t, ctx.Err())
		cancel()
		require.Error(t, ctx.Err())
		now, ok := shutdowns.Load(key)
		require.True(t, ok)
		if known == nil {
			known = now
		}
		require.Same(t, known, now)
	}
	ctx, cancel := Context(request())
	defer cancel()
	require.NoError(t, server.Shutdown(t.Context()))
	<-ctx.Done()
	require.Equal(t, http.ErrServerClosed, context.Cause(ctx))
	runtime.KeepAlive(server)
}

// What is known of a server goes with it.
func TestAServerIsCollected(t *testing.T) {
	key := func() weak.Pointer[http.Server] {
		server := new(http.Server)
		ctx := context.WithValue(t.Context(), http.ServerContextKey, server)
		_, cancel := Context(httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		cancel()
		return weak.Make(server)
	}()
	for ok := true; ok; _, ok = shutdowns.Load(key) {
		runtime.GC()
		runtime.Gosched()
	}
}
