package changefeed

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Changes, notices, figures and positions are logged as groups and texts.
func TestLogValues(t *testing.T) {
	bob, alice := &doc{ID: 1}, &doc{ID: 2}
	p := Position{History: HistoryID{1}, Seq: 7}
	for _, test := range []struct {
		value any
		want  string
	}{
		{Change[doc]{Seq: 7, Kind: Update, Old: bob, New: alice}, "v.seq=7 v.kind=update v.old=" + logText(bob) + " v.new=" + logText(alice)},
		{Change[doc]{Kind: Initial, New: bob}, "v.kind=initial v.new=" + logText(bob)},
		{Change[doc]{Seq: 3, Kind: Ready}, "v.seq=3 v.kind=ready"},
		{&SkippedError{Count: 2, From: 3, To: 4}, "v.skipped=2 v.from=3 v.to=4"},
		{&SkippedError{Count: 2, From: 3, To: 4, Table: "games", Feed: "audit", Reset: true}, "v.skipped=2 v.from=3 v.to=4 v.table=games v.feed=audit v.reset=true"},
		{FeedInfo{ID: 1, Buffered: 2, Delivered: 3, Skipped: 4, Seq: 5, Lag: 6}, `v.id=1 v.options="squash 0s" v.buffered=2 v.delivered=3 v.skipped=4 v.seq=5 v.lag=6`},
		{FeedInfo{ID: 1, Name: "audit", Selection: "key = 7", Initial: true, Capacity: 9}, `v.id=1 v.name=audit v.selection="key = 7" v.initial=true v.buffered=0 v.capacity=9 v.delivered=0 v.skipped=0 v.seq=0 v.lag=0`},
		{TableInfo{Name: "games", Rows: 1, Position: p, Inserts: 2, Updates: 3, Deletes: 1, Retained: 4, Indexes: []string{"player"}, Feeds: 5}, "v.name=games v.rows=1 v.position=" + p.String() + " v.inserts=2 v.updates=3 v.deletes=1 v.retained=4 v.indexes=[player] v.feeds=5"},
		{TableInfo{Dropped: true}, `v.name="" v.rows=0 v.position="" v.inserts=0 v.updates=0 v.deletes=0 v.retained=0 v.indexes=[] v.feeds=0 v.dropped=true`},
		{p, "v=" + p.String()},
	} {
		var out strings.Builder
		slog.New(slog.NewTextHandler(&out, nil)).Info("", "v", test.value)
		_, got, _ := strings.Cut(strings.TrimSpace(out.String()), `msg="" `)
		require.Equal(t, test.want, got)
	}
}

// logText returns a row as a text handler formats it.
func logText(row any) string {
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "v", row)
	_, text, _ := strings.Cut(strings.TrimSpace(out.String()), "v=")
	return text
}
