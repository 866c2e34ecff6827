package changefeedprom_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/seed-637b77f9/changefeed"
	changefeedprom "github.com/seed-637b77f9/changefeed/prometheus"
	"github.com/stretchr/testify/require"
)

type game struct{ ID, Score int }

func newGames(name string) *changefeed.Table[int, game] {
	return changefeed.NewTable(name, func(g *game) int { return g.ID })
}

func insert(t *testing.T, table *changefeed.Table[int, game], from, to int) {
	t.Helper()
	for id := from; id < to; id++ {
		_, err := table.Insert(game{ID: id})
		require.NoError(t, err)
	}
}

// read reads n elements of a stream, with Poll or more of them.
func read[T any](t *testing.T, feed changefeed.Stream[T], n int) {
	t.Helper()
	for _, err := range feed {
		if n--; n == 0 {
			break
		}
		if _, ok := errors.AsType[*changefeed.SkippedError](err); !ok {
			require.NoError(t, err)
		}
	}
	require.LessOrEqual(t, n, 0)
}

// keepAlive keeps streams until it is called. The feed of a stream that is garbage ends.
func keepAlive(streams ...any) { runtime.KeepAlive(streams) }

// names matches the names of metrics in a text.
var names = regexp.MustCompile(`\bchangefeed_[a-z_]+`)

// namesIn returns the names of metrics in a text, each once and in order.
func namesIn(text string) []string {
	found := names.FindAllString(text, -1)
	slices.Sort(found)
	return slices.Compact(found)
}

// described returns the names of the metrics that a collector describes.
func described(c prometheus.Collector) []string {
	ch := make(chan *prometheus.Desc, 100)
	c.Describe(ch)
	close(ch)
	var text strings.Builder
	for d := range ch {
		text.WriteString(regexp.MustCompile(`fqName: "\w+"`).FindString(d.String()))
	}
	return namesIn(text.String())
}

func TestExposition(t *testing.T) {
	t.Parallel()
	games, users := newGames("games"), newGames("users")
	games.Retain(3)
	insert(t, games, 0, 2)

	poll := changefeed.Poll(nil)
	audit := games.Changes(t.Context(), changefeed.Named("audit"), changefeed.Buffer(3), poll)
	ctx, cancel := context.WithCancel(t.Context())
	second := games.Changes(ctx, changefeed.Named("audit"), changefeed.Buffer(100), poll)
	row := games.Row(7).Changes(t.Context(), changefeed.Buffer(10), poll)
	squash := games.Changes(t.Context(), changefeed.Named("screen"), changefeed.Squash(0), poll)
	commits := changefeed.Commits(t.Context(), []changefeed.AnyTable{games, users}, changefeed.Named("store"), changefeed.Buffer(20), poll)

	insert(t, games, 2, 10) // seq 3 to 10
	_, err := games.Update(7, func(g *game) { g.Score++ })
	require.NoError(t, err)
	_, err = games.Delete(0)
	require.NoError(t, err)
	insert(t, users, 0, 1)
	read(t, audit, 2) // the notice of 7 changes, and a change
	read(t, second, 9)
	read(t, row, 1)
	read(t, squash, 4)
	read(t, commits, 1)

	c := changefeedprom.NewCollector(games, users)
	want := `
# HELP changefeed_feed_buffered_changes Changes waiting to be read.
# TYPE changefeed_feed_buffered_changes gauge
changefeed_feed_buffered_changes{feed="",table="games"} 1
changefeed_feed_buffered_changes{feed="audit",table="games"} 3
changefeed_feed_buffered_changes{feed="screen",table="games"} 5
changefeed_feed_buffered_changes{feed="store",table="games"} 10
changefeed_feed_buffered_changes{feed="store",table="users"} 10
# HELP changefeed_feed_capacity_changes Changes that the buffers can hold.
# TYPE changefeed_feed_capacity_changes gauge
changefeed_feed_capacity_changes{feed="",table="games"} 10
changefeed_feed_capacity_changes{feed="audit",table="games"} 103
changefeed_feed_capacity_changes{feed="screen",table="games"} 0
changefeed_feed_capacity_changes{feed="store",table="games"} 20
changefeed_feed_capacity_changes{feed="store",table="users"} 20
# HELP changefeed_feed_delivered_changes_total Changes that loops received.
# TYPE changefeed_feed_delivered_changes_total counter
changefeed_feed_delivered_changes_total{feed="",table="games"} 1
changefeed_feed_delivered_changes_total{feed="audit",table="games"} 10
changefeed_feed_delivered_changes_total{feed="screen",table="games"} 4
changefeed_feed_delivered_changes_total{feed="store",table="games"} 1
changefeed_feed_delivered_changes_total{feed="store",table="users"} 1
# HELP changefeed_feed_lag_changes Changes to the table since the last one that the slowest feed has read.
# TYPE changefeed_feed_lag_changes gauge
changefeed_feed_lag_changes{feed="",table="games"} 4
changefeed_feed_lag_changes{feed="audit",table="games"} 2
changefeed_feed_lag_changes{feed="screen",table="games"} 6
changefeed_feed_lag_changes{feed="store",table="games"} 10
changefeed_feed_lag_changes{feed="store",table="users"} 10
# HELP changefeed_feed_skipped_changes_total Changes that were skipped because a loop was too slow.
# TYPE changefeed_feed_skipped_changes_total counter
changefeed_feed_skipped_changes_total{feed="",table="games"} 0
changefeed_feed_skipped_changes_total{feed="audit",table="games"} 7
changefeed_feed_skipped_changes_total{feed="screen",table="games"} 0
changefeed_feed_skipped_changes_total{feed="store",table="games"} 0
changefeed_feed_skipped_changes_total{feed="store",table="users"} 0
# HELP changefeed_feeds Feeds of the table that have not ended.
# TYPE changefeed_feeds gauge
changefeed_feeds{feed="",table="games"} 1
changefeed_feeds{feed="audit",table="games"} 2
changefeed_feeds{feed="screen",table="games"} 1
changefeed_feeds{feed="store",table="games"} 1
changefeed_feeds{feed="store",table="users"} 1
# HELP changefeed_table_retained_changes Changes of the table with which a feed can resume.
# TYPE changefeed_table_retained_changes gauge
changefeed_table_retained_changes{table="games"} 3
changefeed_table_retained_changes{table="users"} 0
# HELP changefeed_table_rows Rows in the table.
# TYPE changefeed_table_rows gauge
changefeed_table_rows{table="games"} 9
changefeed_table_rows{table="users"} 1
# HELP changefeed_table_seq Sequence number of the table's last change. A reset may decrease it.
# TYPE changefeed_table_seq gauge
changefeed_table_seq{table="games"} 12
changefeed_table_seq{table="users"} 1
# HELP changefeed_table_writes_total Changes that writes to the table made.
# TYPE changefeed_table_writes_total counter
changefeed_table_writes_total{kind="delete",table="games"} 1
changefeed_table_writes_total{kind="delete",table="users"} 0
changefeed_table_writes_total{kind="insert",table="games"} 10
changefeed_table_writes_total{kind="insert",table="users"} 1
changefeed_table_writes_total{kind="update",table="games"} 1
changefeed_table_writes_total{kind="update",table="users"} 0
`
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want)))

	// When feeds end, the gauges go down and the counters stay.
	cancel()
	for range second {
	}
	want = `
# HELP changefeed_feeds Feeds of the table that have not ended.
# TYPE changefeed_feeds gauge
changefeed_feeds{feed="",table="games"} 1
changefeed_feeds{feed="audit",table="games"} 1
changefeed_feeds{feed="screen",table="games"} 1
changefeed_feeds{feed="store",table="games"} 1
changefeed_feeds{feed="store",table="users"} 1
# HELP changefeed_feed_capacity_changes Changes that the buffers can hold.
# TYPE changefeed_feed_capacity_changes gauge
changefeed_feed_capacity_changes{feed="",table="games"} 10
changefeed_feed_capacity_changes{feed="audit",table="games"} 3
changefeed_feed_capacity_changes{feed="screen",table="games"} 0
changefeed_feed_capacity_changes{feed="store",table="games"} 20
changefeed_feed_capacity_changes{feed="store",table="users"} 20
# HELP changefeed_feed_delivered_changes_total Changes that loops received.
# TYPE changefeed_feed_delivered_changes_total counter
changefeed_feed_delivered_changes_total{feed="",table="games"} 1
changefeed_feed_delivered_changes_total{feed="audit",table="games"} 10
changefeed_feed_delivered_changes_total{feed="screen",table="games"} 4
changefeed_feed_delivered_changes_total{feed="store",table="games"} 1
changefeed_feed_delivered_changes_total{feed="store",table="users"} 1
`
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want), namesIn(want)...))
	keepAlive(audit, row, squash, commits)
}

func TestLint(t *testing.T) {
	t.Parallel()
	games := newGames("games")
	feed := games.Changes(t.Context(), changefeed.Named("audit"), changefeed.Poll(nil))
	c := changefeedprom.NewCollector(games)
	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, 12, testutil.CollectAndCount(c), "each metric, and writes for each kind")
	keepAlive(feed)
}

// A registry refuses what it could not tell apart. The pedantic one checks what is collected, too.
func TestNames(t *testing.T) {
	t.Parallel()
	a, b, secondA := newGames("a"), newGames("b"), newGames("a")
	registry := prometheus.NewPedanticRegistry()
	gather := func(metrics int) {
		n, err := testutil.GatherAndCount(registry)
		require.NoError(t, err)
		require.Equal(t, metrics, n)
	}
	ofA := changefeedprom.NewCollector(a, a)
	require.NoError(t, registry.Register(ofA))
	require.NoError(t, registry.Register(changefeedprom.NewCollector(b)))
	require.NoError(t, registry.Register(changefeedprom.NewCollector()))
	gather(2 * 6)
	ofSecondA := changefeedprom.NewCollector(secondA)
	_, ok := errors.AsType[prometheus.AlreadyRegisteredError](registry.Register(ofSecondA))
	require.True(t, ok)
	require.True(t, registry.Unregister(ofA))
	gather(6)
	require.NoError(t, registry.Register(ofSecondA))
	gather(2 * 6)

	// With one more label, tables can have the same name.
	registry = prometheus.NewPedanticRegistry()
	for shard, table := range []*changefeed.Table[int, game]{a, secondA} {
		labels := prometheus.Labels{"shard": strconv.Itoa(shard)}
		require.NoError(t, prometheus.WrapRegistererWith(labels, registry).Register(changefeedprom.NewCollector(table)))
	}
	gather(2 * 6)

	require.PanicsWithValue(t, "changefeedprom: NewCollector: nil table", func() { changefeedprom.NewCollector(a, nil) })
	require.PanicsWithValue(t, `changefeedprom: NewCollector: two tables have the name "a"; make a collector for each, `+
		`and register each with another label: see prometheus.WrapRegistererWith`,
		func() { changefeedprom.NewCollector(a, b, secondA) })

	// A label must be UTF-8, but a name can be any string.
	broken := newGames("games\xff")
	one := broken.Changes(t.Context(), changefeed.Named("feed\xff"))
	two := broken.Changes(t.Context(), changefeed.Named("feed\xfe"))
	require.NoError(t, testutil.CollectAndCompare(changefeedprom.NewCollector(broken), strings.NewReader(`
# HELP changefeed_feeds Feeds of the table that have not ended.
# TYPE changefeed_feeds gauge
changefeed_feeds{feed="feed`+"\uFFFD"+`",table="games`+"\uFFFD"+`"} 2
`), "changefeed_feeds"))
	keepAlive(one, two)
}

// A dropped table has no rows. Its feeds are there until their loops have ended.
func TestDroppedTable(t *testing.T) {
	t.Parallel()
	games := newGames("games")
	feed := games.Changes(t.Context(), changefeed.Named("audit"), changefeed.Poll(nil))
	insert(t, games, 0, 3)
	games.Drop()
	c := changefeedprom.NewCollector(games)
	expect := func(buffered, feeds, delivered int) {
		want := fmt.Sprintf(`
# HELP changefeed_feed_buffered_changes Changes waiting to be read.
# TYPE changefeed_feed_buffered_changes gauge
changefeed_feed_buffered_changes{feed="audit",table="games"} %d
# HELP changefeed_feed_delivered_changes_total Changes that loops received.
# TYPE changefeed_feed_delivered_changes_total counter
changefeed_feed_delivered_changes_total{feed="audit",table="games"} %d
# HELP changefeed_feeds Feeds of the table that have not ended.
# TYPE changefeed_feeds gauge
changefeed_feeds{feed="audit",table="games"} %d
# HELP changefeed_table_rows Rows in the table.
# TYPE changefeed_table_rows gauge
changefeed_table_rows{table="games"} 0
`, buffered, delivered, feeds)
		require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want), namesIn(want)...))
	}
	expect(3, 1, 0)
	read(t, feed, 2)
	expect(1, 1, 2)
	for range feed {
	}
	expect(0, 0, 2) // what it read after the last collection is missed
}

// The writes of a view are the changes that it has made.
func TestView(t *testing.T) {
	t.Parallel()
	games := newGames("games")
	insert(t, games, 0, 3)
	scores := changefeed.Count(games, "scores", func(g *game) int { return g.Score })
	_, err := games.Update(2, func(g *game) { g.Score = 5 })
	require.NoError(t, err)
	const want = `
# HELP changefeed_table_rows Rows in the table.
# TYPE changefeed_table_rows gauge
changefeed_table_rows{table="games"} 3
changefeed_table_rows{table="scores"} 2
# HELP changefeed_table_writes_total Changes that writes to the table made.
# TYPE changefeed_table_writes_total counter
changefeed_table_writes_total{kind="delete",table="games"} 0
changefeed_table_writes_total{kind="delete",table="scores"} 0
changefeed_table_writes_total{kind="insert",table="games"} 3
changefeed_table_writes_total{kind="insert",table="scores"} 1
changefeed_table_writes_total{kind="update",table="games"} 1
changefeed_table_writes_total{kind="update",table="scores"} 1
`
	require.NoError(t, testutil.CollectAndCompare(changefeedprom.NewCollector(games, scores), strings.NewReader(want), namesIn(want)...))
}

// A stub is a table whose figures the test makes.
type stub struct {
	changefeed.AnyTable
	info  changefeed.TableInfo
	feeds []changefeed.FeedInfo
}

func (s *stub) Info() changefeed.TableInfo   { return s.info }
func (s *stub) Feeds() []changefeed.FeedInfo { return s.feeds }

// These are figures that a table has only for a moment, or seldom.
func TestFigures(t *testing.T) {
	t.Parallel()
	s := &stub{AnyTable: newGames("games")}
	s.info.Position.Seq = 100
	c := changefeedprom.NewCollector(s)
	type feeds = []changefeed.FeedInfo
	for _, step := range []struct {
		name                    string
		feeds                   feeds
		lag, delivered, skipped int
	}{
		{"two feeds", feeds{{ID: 2, Delivered: 5, Skipped: 3}, {ID: 4, Delivered: 7}}, 0, 12, 3},
		{"skipped was one too many", feeds{{ID: 2, Delivered: 6, Skipped: 2}, {ID: 4, Delivered: 7}}, 0, 13, 3},
		{"and grows by one", feeds{{ID: 2, Delivered: 6, Skipped: 3}, {ID: 4, Delivered: 7}}, 0, 13, 3},
		{"one was listed late, one ended", feeds{{ID: 3, Delivered: 1}, {ID: 4, Delivered: 8}, {ID: 5, Skipped: 9}}, 0, 15, 12},
		{"all ended", nil, 0, 15, 12},
		{"behind", feeds{{ID: 6, Lag: 2}, {ID: 7, Lag: 5}, {ID: 8, Lag: 1}}, 5, 15, 12},
		{"nothing buffered", feeds{{ID: 6, Seq: 50}}, 0, 15, 12},
	} {
		s.feeds = step.feeds
		require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(fmt.Sprintf(`
# HELP changefeed_feed_delivered_changes_total Changes that loops received.
# TYPE changefeed_feed_delivered_changes_total counter
changefeed_feed_delivered_changes_total{feed="",table="games"} %d
# HELP changefeed_feed_lag_changes Changes to the table since the last one that the slowest feed has read.
# TYPE changefeed_feed_lag_changes gauge
changefeed_feed_lag_changes{feed="",table="games"} %d
# HELP changefeed_feed_skipped_changes_total Changes that were skipped because a loop was too slow.
# TYPE changefeed_feed_skipped_changes_total counter
changefeed_feed_skipped_changes_total{feed="",table="games"} %d
`, step.delivered, step.lag, step.skipped)),
			"changefeed_feed_delivered_changes_total", "changefeed_feed_lag_changes", "changefeed_feed_skipped_changes_total"), step.name)
	}
}

// The documentation lists each metric, and no other.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	want := described(changefeedprom.NewCollector(newGames("games")))
	require.Len(t, want, 10)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.Equal(t, want, namesIn(string(readme)))
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	require.Equal(t, want, namesIn(string(doc)))

	// The first Go block is the beginning of the example, and the second its imports.
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, blocks, 2)
	require.Contains(t, strings.ReplaceAll(string(example), "\n\t", "\n"), "func ExampleNewCollector() {\n"+blocks[0][1])
	for line := range strings.Lines(blocks[1][1]) {
		require.Contains(t, string(example), line)
	}
}
