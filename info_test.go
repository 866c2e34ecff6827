package changefeed

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed/internal/inspection"
	"github.com/stretchr/testify/require"
)

func TestTableInfo(t *testing.T) {
	t.Parallel()
	games := newGames()
	require.Equal(t, TableInfo{Name: "games", Position: games.Position()}, games.Info())
	NewIndex(games, "player", func(g *game) string { return g.Player })
	games.Retain(2)
	for id := range 3 {
		must[game](t)(games.Insert(game{ID: id}))
	}
	must[game](t)(games.Upsert(game{ID: 1, Score: 1}))
	must[game](t)(games.Upsert(game{ID: 1, Score: 1})) // no change
	must[game](t)(games.Delete(2))
	_, err := games.Insert(game{ID: 1})
	require.ErrorIs(t, err, ErrDuplicateKey)
	want := TableInfo{
		Name: "games", Rows: 2, Position: games.At(5), Inserts: 3, Updates: 1, Deletes: 1, Retained: 2,
		Indexes: []string{"player"},
	}
	require.Equal(t, want, games.Info())

	// A transaction counts when it commits.
	for _, failure := range []error{errors.New("failure"), nil} {
		err := Transact(func(tx *Tx) error {
			for id := 10; id < 13; id++ {
				must[game](t)(games.In(tx).Insert(game{ID: id}))
			}
			must[game](t)(games.In(tx).Delete(10))
			return failure
		}, games)
		require.Equal(t, failure, err)
		if failure != nil {
			require.Equal(t, want, games.Info())
		}
	}
	want.Rows, want.Position.Seq, want.Inserts, want.Deletes = 4, 9, 6, 2
	require.Equal(t, want, games.Info())

	other := newGames()
	one, both := games.Changes(t.Context()), Commits(t.Context(), []AnyTable{games, other})
	want.Feeds = 2
	require.Equal(t, want, games.Info())
	require.Equal(t, 1, other.Info().Feeds)

	// A Reset makes no change.
	require.NoError(t, games.Reset(Past[game]{Lineage: []Position{other.At(7)}, Rows: slices.Values([]game{{ID: 1}})}))
	want.Rows, want.Position, want.Retained = 1, other.At(7), 0
	require.Equal(t, want, games.Info())
	require.Equal(t, `table "games": rows 1, seq 7, retained 0, indexes 1, feeds 2`, games.Info().String())

	games.Drop()
	want.Rows, want.Dropped = 0, true
	require.Equal(t, want, games.Info())
	require.Equal(t, `table "games": rows 0, seq 7, retained 0, indexes 1, feeds 2, dropped`, games.Info().String())
	for range one {
	}
	for range both {
	}
	require.Zero(t, games.Info().Feeds)
}

// The figures of a feed tell what it follows, and with which options.
func TestFeedInfoTellsWhatIsFollowed(t *testing.T) {
	t.Parallel()
	games, users := newGames(), NewTable("users", func(u *user) string { return u.Name })
	byPlayer := NewIndex(games, "player", func(g *game) string { return g.Player })
	where := func(*game) bool { return true }
	for want, s := range map[string]Selection[int, game]{
		"":                                 games.Selection(),
		"where":                            games.Where(where),
		"key = 7":                          games.Row(7),
		"key = 7, where":                   games.Row(7).Where(where),
		"3 <= key < 7":                     games.Range(3, 7),
		"key >= 3":                         games.From(3),
		"key in (1, 2)":                    games.Rows(2, 1),
		"key in (1, 2, 3 and 2 more)":      games.Rows(1, 2, 3, 4, 5),
		`player = "Bob"`:                   byPlayer.Equal("Bob"),
		`"A" <= player < "C"`:              byPlayer.Range("A", "C"),
		`player >= "A"`:                    byPlayer.From("A"),
		`player in ("A", "B"), where`:      byPlayer.Any("B", "A").Where(where),
		"player = \"" + nine(64) + "\"":    byPlayer.Equal(nine(100)),
		"player in ()":                     byPlayer.Any(),
		"player in (\"" + nine(64) + "\")": byPlayer.Any(nine(65)),
	} {
		var f Feed
		s.Changes(t.Context(), Track(&f), Poll(nil))
		require.Equal(t, want, f.Info().Selection)
	}
	info := func(opts ...FeedOption) FeedInfo {
		var f Feed
		games.Changes(t.Context(), append(opts, Track(&f))...)
		i := f.Info()
		require.Positive(t, i.ID)
		i.ID = 0
		return i
	}
	require.Equal(t, FeedInfo{Capacity: DefaultBuffer}, info())
	require.Equal(t, FeedInfo{Capacity: 3, Name: "audit", Overflow: Resync, Polls: true}, info(Buffer(3), Named("audit"), OnOverflow(Resync), Poll(nil)))
	require.Equal(t, FeedInfo{Squash: time.Second}, info(Squash(time.Second)))

	var f Feed
	Commits(t.Context(), []AnyTable{games, users}, Track(&f), Named("both"), OnOverflow(Fail))
	i := f.Info()
	require.Equal(t, FeedInfo{ID: i.ID, Capacity: DefaultBuffer, Name: "both", Overflow: Fail, Commits: true, Selection: `commits of "games", "users"`}, i)
}

func nine(n int) string { return strings.Repeat("9", n) }

// Pages of any size, one after the other, have the rows of an interval, in order, each once.
func TestInspectionReadsPages(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	docs := newDocs()
	NewIndex(docs, "name", func(d *doc) string { return d.Name })
	NewMultiIndex(docs, "tags", func(d *doc) []string { return d.Tags })
	tags := []string{"a", "b", "c", "d"}
	for id := range 60 {
		rng.Shuffle(len(tags), func(i, j int) { tags[i], tags[j] = tags[j], tags[i] })
		must[doc](t)(docs.Insert(doc{ID: id, Name: tags[0], Tags: slices.Clone(tags[:rng.IntN(4)])}))
	}
	orders := inspection.Orders(AnyTable(docs))
	require.Len(t, orders, 3)
	value, key := orders[1].Types()
	require.Equal(t, "string int", fmt.Sprint(value, " ", key))

	for _, order := range orders {
		bounds := []any{nil, "a", "b", "d", "e"}
		if order.Name() == "" {
			bounds = []any{nil, 0, 17, 59, 60}
		}
		for _, from := range bounds {
			for _, to := range bounds {
				for _, equal := range []bool{false, true} {
					in := inspection.Interval{From: from, To: to}
					if equal {
						in = inspection.Interval{Equal: from}
					}
					var want []inspection.Row
					for id, d := range docs.All() {
						values := map[string][]any{"": {id}, "name": {d.Name}, "tags": nil}[order.Name()]
						if order.Name() == "tags" {
							for _, tag := range slices.Sorted(slices.Values(d.Tags)) {
								values = append(values, tag)
							}
						}
						for _, v := range values {
							if from != nil && (less(v, from) || equal && v != from) {
								continue
							}
							if equal || to == nil || less(v, to) {
								want = append(want, inspection.Row{Value: v, Key: id, Row: &d})
							}
							break // it is listed at the first value that is not too small
						}
					}
					slices.SortStableFunc(want, func(a, b inspection.Row) int {
						switch {
						case less(a.Value, b.Value):
							return -1
						case less(b.Value, a.Value):
							return 1
						}
						return 0
					})
					size := 1 + rng.IntN(20)
					var got []inspection.Row
					for page := 0; ; page++ {
						n := 0
						for row := range order.Rows(in) {
							got = append(got, row)
							if n++; n == size {
								break
							}
						}
						if n == 0 {
							break
						}
						in.After = &got[len(got)-1]
						require.Less(t, page, 100)
					}
					require.Equal(t, want, got, "%q from %v to %v, equal %v", order.Name(), from, to, equal)
				}
			}
		}
	}

	// The row after which a page begins need not be there any more.
	in := inspection.Interval{After: &inspection.Row{Value: 17, Key: 17}}
	must[doc](t)(docs.Delete(17))
	for row := range orders[0].Rows(in) {
		require.Equal(t, 18, row.Key)
		break
	}
	docs.Drop()
	for _, order := range inspection.Orders(docs) {
		for range order.Rows(inspection.Interval{}) {
			t.Fatal("a dropped table has no rows")
		}
	}
}

func less(a, b any) bool {
	if a, ok := a.(int); ok {
		return a < b.(int)
	}
	return a.(string) < b.(string)
}
