package web

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
)

type score struct {
	Name   string
	Points int
}

// A change is encoded once for all clients, and present rows are not kept.
func TestRecentEventsAreShared(t *testing.T) {
	var r recent[score]
	for _, test := range []struct {
		change changefeed.Change[score]
		shared bool
	}{
		{changefeed.Change[score]{Seq: 7, Kind: changefeed.Insert, New: &score{"Ann", 1}}, true},
		{changefeed.Change[score]{Kind: changefeed.Initial, New: &score{"Ann", 1}}, false},
	} {
		one, err := r.event(test.change, changefeed.Position{})
		require.NoError(t, err)
		other, err := r.event(test.change, changefeed.Position{})
		require.NoError(t, err)
		require.Equal(t, test.shared, &one[0] == &other[0])
	}
}

// The event of a change is that of its own history, rows and kind, whatever another client had
// under its number.
func TestRecentEvents(t *testing.T) {
	var r recent[score]
	ann, bob := &score{"Ann", 1}, &score{"Bob", 2}
	one, other := changefeed.Position{History: [16]byte{1}, Seq: 7}, changefeed.Position{History: [16]byte{2}, Seq: 7}
	changes := []changefeed.Change[score]{
		{Seq: 7, Kind: changefeed.Update, Old: ann, New: bob},
		{Seq: 7, Kind: changefeed.Insert, New: bob},
		{Seq: 7, Kind: changefeed.Delete, Old: ann},
		{Seq: 7 + uint64(len(r.events)), Kind: changefeed.Insert, New: bob},
		{Kind: changefeed.Initial, New: ann},
		{Kind: changefeed.Initial, New: bob},
	}
	for range 2 {
		for _, c := range changes {
			for _, id := range []changefeed.Position{{}, one, other} {
				for range 2 {
					text, err := r.event(c, id)
					require.NoError(t, err)
					data, err := json.Marshal(c)
					require.NoError(t, err)
					want := "data: " + string(data) + "\n\n"
					if !id.IsZero() {
						want = "id: " + id.String() + "\n" + want
					}
					require.Equal(t, want, string(text))
				}
			}
		}
	}
}

// The event of a change for 1,000 clients, compared with encoding it for each.
func BenchmarkEvent(b *testing.B) {
	const clients = 1000
	change := func(seq int) changefeed.Change[score] {
		return changefeed.Change[score]{Seq: uint64(seq), Kind: changefeed.Update, Old: &score{"Ann", seq}, New: &score{"Ann", seq + 1}}
	}
	b.Run("shared", func(b *testing.B) {
		var r recent[score]
		b.ReportAllocs()
		for seq := 0; b.Loop(); seq++ {
			c := change(seq)
			for range clients {
				_, _ = r.event(c, changefeed.Position{Seq: c.Seq})
			}
		}
	})
	b.Run("each", func(b *testing.B) {
		b.ReportAllocs()
		for seq := 0; b.Loop(); seq++ {
			c := change(seq)
			for range clients {
				var r recent[score]
				_, _ = r.event(c, changefeed.Position{Seq: c.Seq})
			}
		}
	})
}

// Events are kept while there are clients.
func TestRecentEventsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scores := changefeed.NewTable("scores", func(s *score) string { return s.Name })
		h := Changes(scores.Selection()).(*changes[string, score])
		kept := func() (n int) {
			for i := range h.recent.events {
				if h.recent.events[i].Load() != nil {
					n++
				}
			}
			return n
		}
		var done []chan struct{}
		var cancels []context.CancelFunc
		for range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			}()
			done, cancels = append(done, ended), append(cancels, cancel)
		}
		synctest.Wait()
		for _, name := range []string{"Ann", "Bob"} {
			_, err := scores.Insert(score{name, 1})
			require.NoError(t, err)
		}
		for i, want := range []int{2, 0} {
			synctest.Wait()
			require.Equal(t, 2, kept())
			cancels[i]()
			<-done[i]
			require.Equal(t, want, kept())
		}
	})
}

// The end is the last event, also if the position has moved since the last one.
func TestNothingComesAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scores := changefeed.NewTable("scores", func(s *score) string { return s.Name })
		w, ended := httptest.NewRecorder(), make(chan struct{})
		go func() {
			defer close(ended)
			Changes(scores.Row("Ann")).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
		}()
		synctest.Wait()
		_, err := scores.Insert(score{"Bob", 1})
		require.NoError(t, err)
		scores.Drop()
		<-ended
		require.True(t, strings.HasSuffix(w.Body.String(), "event: end\ndata: {\"error\":\"the table was dropped\"}\n\n"), w.Body.String())
	})
}
