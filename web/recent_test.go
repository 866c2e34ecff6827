package web

import (
	"encoding/json"
	"testing"

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
