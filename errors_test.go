package changefeed

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A returned error "wraps one of them, and names the operation, the table and the key",
// and "a failed write returns the zero Change", alone and in a transaction. T4
func TestFailedWritesSayOperationTableAndKey(t *testing.T) {
	type w = rowWriter[game]
	type change = Change[game]
	fails, rename := func(*game) { t.Error("the function was called") }, func(g *game) { g.ID = 7 }
	move := func(*game) *game { return &game{ID: 7} }
	for _, test := range []struct {
		op, text string
		is       error
		write    func(w w) (change, error)
	}{
		{"insert into", "duplicate primary key 1", ErrDuplicateKey, func(w w) (change, error) { return w.Insert(game{ID: 1, Score: 2}) }},
		{"insert into", "duplicate primary key 1", ErrDuplicateKey, func(w w) (change, error) { return w.Insert(game{ID: 1}) }}, // an equal row
		{"update in", "no row with primary key 2", ErrNotFound, func(w w) (change, error) { return w.Update(2, fails) }},
		{"replace in", "no row with primary key 2", ErrNotFound, func(w w) (change, error) { return w.Replace(game{ID: 2}) }},
		{"delete from", "no row with primary key 2", ErrNotFound, func(w w) (change, error) { return w.Delete(2) }},
		{"update in", "a write must not change primary key 1", ErrKeyChanged, func(w w) (change, error) { return w.Update(1, rename) }},
		{"compute in", "a write must not change primary key 1", ErrKeyChanged, func(w w) (change, error) { return w.Compute(1, move) }},
		{"compute in", "a write must not change primary key 2", ErrKeyChanged, func(w w) (change, error) { return w.Compute(2, move) }},
		{"insert into", "table dropped, primary key 2", ErrTableDropped, func(w w) (change, error) { return w.Insert(game{ID: 2}) }},
		{"upsert into", "table dropped, primary key 1", ErrTableDropped, func(w w) (change, error) { return w.Upsert(game{ID: 1}) }},
		{"replace in", "table dropped, primary key 1", ErrTableDropped, func(w w) (change, error) { return w.Replace(game{ID: 1}) }},
		{"update in", "table dropped, primary key 1", ErrTableDropped, func(w w) (change, error) { return w.Update(1, fails) }},
		{"compute in", "table dropped, primary key 1", ErrTableDropped, func(w w) (change, error) {
			return w.Compute(1, func(g *game) *game { fails(g); return nil })
		}},
		{"delete from", "table dropped, primary key 1", ErrTableDropped, func(w w) (change, error) { return w.Delete(1) }},
	} {
		t.Run(test.op+" "+test.text, func(t *testing.T) {
			table := NewTable("ta\"ble", func(g *game) int { return g.ID })
			insertRows(t, table, 1)
			before := stateOf(table)
			check := func(c change, err error) {
				require.Zero(t, c)
				require.EqualError(t, err, "changefeed: "+test.op+` "ta\"ble": `+test.text)
				for _, sentinel := range []error{ErrDuplicateKey, ErrNotFound, ErrKeyChanged, ErrTableDropped, ErrInvalidOption} {
					require.Equal(t, sentinel == test.is, errors.Is(err, sentinel), sentinel)
				}
				requireState(t, before, table)
			}
			if test.is == ErrTableDropped {
				table.Drop()
				before = stateOf(table)
			} else {
				var c change
				var err error
				require.NoError(t, Transact(func(tx *Tx) error { c, err = test.write(table.In(tx)); return nil }, table))
				check(c, err)
			}
			check(test.write(table))
		})
	}
}

// A code is a string with a String method.
type code string

func (c code) String() string { return "code " + string(c) }

// A key is in quotes if it is a string, and is formatted as fmt formats it.
func TestTheTextOfAKey(t *testing.T) {
	for _, test := range []struct {
		key  any
		text string
	}{
		{nil, `<nil>`},
		{"", `""`},
		{`a "b" 1` + "\n", `"a \"b\" 1\n"`},
		{code("x"), `"code x"`},
		{Insert, `insert`},
		{1.5, `1.5`},
		{badge{"Bob"}, `{Bob}`},
		{&badge{"Bob"}, `badge of Bob`},
		{(*badge)(nil), `<nil>`},
	} {
		require.EqualError(t, &keyError{"delete from", "keys", test.key, ErrNotFound},
			`changefeed: delete from "keys": no row with primary key `+test.text)
	}
}

// "Its text and its JSON are those of RethinkDB's overflow notice".
func TestASkippedErrorReadsAsRethinkDBsNotice(t *testing.T) {
	require.EqualError(t, &SkippedError{Count: 1<<64 - 1, From: 3, To: 9},
		"Changefeed cache over array size limit, skipped 18446744073709551615 elements.")
	require.EqualError(t, &SkippedError{Count: 2, Reset: true}, "Changefeed table was reset, skipped 2 elements.")
	text, err := json.Marshal(map[string]any{"e": &SkippedError{5, 3, 7, "games", "audit", false}, "nil": (*SkippedError)(nil)})
	require.NoError(t, err)
	require.Equal(t, `{"e":{"error":"Changefeed cache over array size limit, skipped 5 elements."},"nil":null}`, string(text))
}

// A notice names its table and its feed, however it comes about.
func TestASkippedErrorNamesTableAndFeed(t *testing.T) {
	for name, test := range map[string]struct {
		want SkippedError
		opts []FeedOption
	}{
		"skip":             {SkippedError{2, 1, 2, "games", "", false}, nil},
		"fail":             {SkippedError{2, 1, 2, "games", "a", false}, []FeedOption{Named("a"), OnOverflow(Fail)}},
		"resync":           {SkippedError{3, 1, 3, "games", "a", false}, []FeedOption{Named("a"), OnOverflow(Resync)}},
		"after":            {SkippedError{2, 1, 2, "games", "a", false}, []FeedOption{Named("a"), After(Position{})}},
		"after and squash": {SkippedError{2, 1, 2, "games", "a", false}, []FeedOption{Named("a"), After(Position{}), Squash(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			games.Retain(1)
			var feeds []Stream[Change[game]]
			subscribe := func() {
				opts := append(test.opts, Buffer(1), Poll(nil))
				feeds = append(feeds, games.Changes(t.Context(), opts...), unbatch(games.Where(always).Batches(t.Context(), 2, opts...)))
			}
			after := strings.HasPrefix(name, "after")
			if !after {
				subscribe()
			}
			insertRows(t, games, 1, 2, 3)
			if after {
				subscribe()
			}
			for _, feed := range feeds {
				var notices []error
				for _, err := range feed {
					if err != nil {
						notices = append(notices, err)
					}
				}
				require.Equal(t, []error{&test.want}, notices)
			}
		})
	}
}
