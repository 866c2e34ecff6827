package changefeed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A caseless is a row with an Equal method.
type caseless struct{ Name string }

func (c caseless) Equal(d caseless) bool {
	return bytes.EqualFold([]byte(c.Name), []byte(d.Name))
}

// A Change marshals to {"old_val": ..., "new_val": ...} and the like, and comes back but
// for its Seq. "New is then Old", if the two are equal.
func TestAChangeAsJSON(t *testing.T) {
	bob, one := &game{ID: 1, Player: "Bob\n\"<>&\u2028", Score: -3}, &game{ID: 1}
	const bobs = `{"id":1,"player":"Bob\n\"\u003c\u003e\u0026\u2028","score":-3}`
	for _, test := range []struct {
		c    Change[game]
		json string
	}{
		{Change[game]{}, `{"old_val":null,"new_val":null}`},
		{Change[game]{0, None, one, one}, `{"old_val":{"id":1},"new_val":{"id":1}}`},
		{Change[game]{1, Insert, nil, one}, `{"old_val":null,"new_val":{"id":1}}`},
		{Change[game]{2, Update, bob, one}, `{"old_val":` + bobs + `,"new_val":{"id":1}}`},
		{Change[game]{math.MaxUint64, Delete, bob, nil}, `{"old_val":` + bobs + `,"new_val":null}`},
		{Change[game]{0, Initial, nil, bob}, `{"new_val":` + bobs + `}`},
		{Change[game]{3, Ready, nil, nil}, `{"state":"ready"}`},
	} {
		text, err := json.Marshal([]any{test.c, &test.c, map[string]Change[game]{"c": test.c}})
		require.NoError(t, err)
		require.Equal(t, "["+test.json+","+test.json+`,{"c":`+test.json+"}]", string(text))
		requireFromJSON(t, test.json, test.c)
	}
	row := *one
	c := Change[game]{4, Update, bob, &row}
	require.NoError(t, json.Unmarshal([]byte(`{"new_val":{"id":2}}`), &c))
	require.Equal(t, *one, row, "The rows are new values")
	_, err := json.Marshal(Change[func()]{New: new(func() {})})
	require.ErrorAs(t, err, new(*json.UnsupportedTypeError))
}

// requireFromJSON requires that a text is that of a change, without its Seq.
func requireFromJSON[V any](t *testing.T, text string, want Change[V]) {
	t.Helper()
	got := Change[V]{Seq: 7, Kind: 200, Old: new(V), New: new(V)}
	require.NoError(t, json.Unmarshal([]byte(text), &got), text)
	want.Seq = 0
	require.Equal(t, want, got, text)
	require.Equal(t, want.Old == want.New, got.Old == got.New, text)
}

// roundTrip requires that a change comes back from its JSON as want.
func roundTrip[V any](t *testing.T, c, want Change[V]) {
	t.Helper()
	text, err := json.Marshal(c)
	require.NoError(t, err)
	requireFromJSON(t, string(text), want)
}

// comesBack requires that the changes of two rows that differ come back from JSON.
func comesBack[V any](t *testing.T, a, b V) {
	t.Helper()
	for _, c := range []Change[V]{{1, Update, &a, &b}, {2, Delete, &b, nil}, {3, Initial, nil, &a}, {0, None, &b, &b}} {
		roundTrip(t, c, c)
	}
}

// "Two things do not survive the round trip": a row that is null in JSON, and an update of
// fields that the JSON omits.
func TestAChangeComesBackFromItsJSON(t *testing.T) {
	type nested struct {
		Scores map[string][]int
		Next   *nested
		Any    any
		Time   time.Time
	}
	comesBack(t, nested{Scores: map[string][]int{"": {}, "a": {1, 2}}},
		nested{Next: &nested{Any: []any{"x", nil, 1.5, map[string]any{}}}, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)})
	comesBack(t, "null", "\x00")
	comesBack(t, &game{}, &game{ID: 1})
	comesBack[any](t, map[string]any{"old_val": nil, "state": "ready", "error": "x"}, []any{nil})
	comesBack(t, Change[int]{Kind: Ready}, Change[int]{Kind: Initial, New: new(1)})

	type secret struct {
		Key    int
		Hidden int `json:"-"`
	}
	same, row, null := &secret{Key: 1}, &game{ID: 1}, (*game)(nil)
	roundTrip(t, Change[secret]{9, Update, &secret{1, 2}, &secret{1, 3}}, Change[secret]{Old: same, New: same})
	roundTrip(t, Change[*game]{1, Insert, nil, &null}, Change[*game]{})
	roundTrip(t, Change[*game]{2, Update, &row, &null}, Change[*game]{Kind: Delete, Old: &row})
	roundTrip(t, Change[*game]{0, Initial, nil, &null}, Change[*game]{Kind: Initial})
}

// The JSON may have been written by another program. "Unknown keys are ignored".
func TestAChangeFromOtherJSON(t *testing.T) {
	row, folded := &game{ID: 1}, &caseless{"a"}
	requireFromJSON(t, ` { "new_val" : {"player":"","id":1} , "old_val" : null } `, Change[game]{Kind: Insert, New: row})
	requireFromJSON(t, `{"type":"change","new_val":{"id":2},"old_val":{"id":1},"new_offset":null}`, Change[game]{0, Update, row, &game{ID: 2}})
	requireFromJSON(t, `{"old_val":{"id":1},"new_val":{"id":1,"more":[]}}`, Change[game]{Old: row, New: row})
	requireFromJSON(t, `{"state":null,"error":null,"new_val":{"id":1}}`, Change[game]{Kind: Initial, New: row})
	requireFromJSON(t, `{"new_val":null}`, Change[game]{Kind: Initial})
	requireFromJSON(t, `{"state":"ready","type":"state"}`, Change[game]{Kind: Ready})
	requireFromJSON(t, `{"old_val":{"Name":"a"},"new_val":{"Name":"A"}}`, Change[caseless]{Old: folded, New: folded})
}

// "Anything else is an error", and "after an error, c is unchanged".
func TestAChangeFromMalformedJSON(t *testing.T) {
	const at = "changefeed: unmarshal a change: "
	for _, test := range []struct{ text, want string }{
		{`{}`, at + `no "new_val" and no "state"`},
		{`{"old_val":null}`, at + `no "new_val" and no "state"`},
		{`{"state":"READY"}`, at + `unknown state "READY"; must be "ready"`},
		{`{"state":"ready","old_val":null}`, at + `both a state and a row; must be one of the two`},
		{`{"state":"ready","new_val":{"id":1}}`, at + `both a state and a row; must be one of the two`},
		{`{"error":"","old_val":null,"new_val":{"id":1}}`, at + `the JSON is an error: ""`},
		{`{"new_val":1}`, at + `new_val: json: cannot unmarshal number into Go value of type changefeed.game`},
		{`{"old_val":[],"new_val":{"id":1}}`, at + `old_val: json: cannot unmarshal array into Go value of type changefeed.game`},
		{`[]`, at + `json: cannot unmarshal array into Go value of type changefeed.changeJSON`},
		{`null`, ""}, // "as encoding/json does with a struct"
		{`{"new_val":`, `unexpected end of JSON input`},
	} {
		c := Change[game]{3, Update, &game{ID: 1}, &game{ID: 2}}
		was := c
		if err := json.Unmarshal([]byte(test.text), &c); test.want != "" || err != nil {
			require.EqualError(t, err, test.want, test.text)
		}
		require.True(t, was == c, "%s left %v", test.text, c)
	}
}

// FuzzChangeJSON takes any text as a Change: what can be read comes back from its own
// JSON, and what cannot leaves the Change as it was.
func FuzzChangeJSON(f *testing.F) {
	for _, text := range []string{
		`{"old_val":null,"new_val":{"id":1}}`, `{"old_val":{"id":1},"new_val":{"id":1,"player":"Bob"}}`,
		`{"old_val":{"a":[1,-0,1e300]},"new_val":null}`, `{"old_val":null,"new_val":null}`, `{"old_val":1,"new_val":1.0}`,
		`{"new_val":{"id":1}}`, `{"new_val":null}`, `{"state":"ready"}`, `{"state":"?"}`, `{"error":"?"}`, `{}`, `null`, `[]`,
		`{"NEW_VAL":"\ud800","old_val":"\ufffd"}`, `{"new_val":1,"new_val":2,"state":null}`, `{"old_val":0,"new_val":-0}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fuzzChangeJSON[any](t, text)
		fuzzChangeJSON[game](t, text)
		fuzzChangeJSON[*game](t, text)
	})
}

func fuzzChangeJSON[V any](t *testing.T, text []byte) {
	before := Change[V]{7, Insert, nil, new(V)}
	c := before
	if err := json.Unmarshal(text, &c); err != nil || string(bytes.TrimSpace(text)) == "null" {
		require.True(t, before == c)
		return
	}
	require.Zero(t, c.Seq)
	require.Equal(t, c.Kind == Insert || c.Kind == Delete, (c.Old == nil) != (c.New == nil) && c.Kind != Initial)
	roundTrip(t, c, c)
}

func TestAKindComesBackFromItsText(t *testing.T) {
	kinds := map[Kind][]Kind{None: {None, Insert, Update}, Delete: {Delete, Initial, Ready}}
	text, err := json.Marshal(kinds)
	require.NoError(t, err)
	require.Equal(t, `{"delete":["delete","initial","ready"],"none":["none","insert","update"]}`, string(text))
	var got map[Kind][]Kind
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, kinds, got)

	require.Equal(t, "Kind(6)", (Ready + 1).String())
	_, err = (Ready + 1).MarshalText()
	require.EqualError(t, err, "changefeed: marshal Kind(6): no such kind")
	for _, text := range []string{"", "Insert", "Kind(6)", "a\nb"} {
		k := Update
		require.EqualError(t, k.UnmarshalText([]byte(text)),
			fmt.Sprintf("changefeed: unmarshal kind %q: must be one of none, insert, update, delete, initial, ready", text))
		require.Equal(t, Update, k)
	}
}

// A badge is a row whose pointer has a String method.
type badge struct{ Name string }

func (b *badge) String() string { return "badge of " + b.Name }

// A mood is a row with a String method that panics.
type mood int

func (mood) String() string { panic("no mood") }

func TestAChangeInALogLine(t *testing.T) {
	bob, alice := &game{ID: 1, Player: "Bob"}, &game{ID: 1, Player: "Alice"}
	for _, test := range []struct {
		change any
		want   string
	}{
		{Change[game]{}, "none"},
		{Change[game]{0, None, bob, bob}, "none {1 Bob 0}"},
		{Change[game]{41, Insert, nil, bob}, "41 insert {1 Bob 0}"},
		{Change[game]{42, Update, bob, alice}, "42 update {1 Bob 0} -> {1 Alice 0}"},
		{Change[game]{43, Delete, alice, nil}, "43 delete {1 Alice 0}"},
		{Change[game]{0, Initial, nil, bob}, "initial {1 Bob 0}"},
		{Change[game]{44, Ready, nil, nil}, "44 ready"},
		{Change[*game]{1, Update, &bob, new((*game)(nil))}, "1 update &{1 Bob 0} -> <nil>"},
		{Change[string]{1, Update, new(""), new("a\nb")}, `1 update "" -> "a\nb"`},
		{Change[any]{1, Update, new(any), new(any("a"))}, `1 update <nil> -> "a"`},
		{Change[badge]{1, Update, &badge{"Bob"}, &badge{"Alice"}}, "1 update badge of Bob -> badge of Alice"},
	} {
		require.Equal(t, test.want, fmt.Sprint(test.change))
		require.Equal(t, test.want, fmt.Sprintf("%+v", test.change))
	}
	require.Contains(t, Change[mood]{1, Insert, nil, new(mood)}.String(), "1 insert %!v(PANIC=String method: no mood")
	require.Equal(t, "<nil>", fmt.Sprint((*Change[game])(nil)))
}

func TestAFeedInfoInALogLine(t *testing.T) {
	for want, info := range map[string]FeedInfo{
		`feed 9 "a\"b": buffered 3/100, delivered 17, skipped 2, seq 22, lag 5`:                          {ID: 9, Name: `a"b`, Buffered: 3, Capacity: 100, Delivered: 17, Skipped: 2, Seq: 22, Lag: 5},
		"feed 9 (squash 1s): buffered 3, delivered 17, skipped 2, seq 22, lag 3":                         {ID: 9, Buffered: 3, Delivered: 17, Skipped: 2, Seq: 22, Lag: 3, Squash: time.Second},
		"feed 9: initial rows to come, buffered 0/9, delivered 0, skipped 0, seq 22, lag 0":              {ID: 9, Initial: true, Capacity: 9, Seq: 22},
		"feed 9 of key = 7 (resync, poll): buffered 0/9, delivered 0, skipped 0, seq 0, lag 0":           {ID: 9, Capacity: 9, Selection: "key = 7", Overflow: Resync, Polls: true},
		`feed 9 of commits of "a", "b" (fail, poll): buffered 1/9, delivered 0, skipped 0, seq 0, lag 1`: {ID: 9, Buffered: 1, Lag: 1, Capacity: 9, Selection: `commits of "a", "b"`, Overflow: Fail, Polls: true, Commits: true},
	} {
		require.Equal(t, want, info.String())
	}
}

// "It does not wait for the table's lock, so a function that runs under the lock may log
// the table."
func TestATableInALogLine(t *testing.T) {
	games := newGames()
	insertRows(t, games, 1)
	must[game](t)(games.Upsert(game{ID: 1, Score: 1}))
	const want, locked = `table "games": rows 1, seq 2`, `table "games" (locked)`
	require.Equal(t, want, fmt.Sprintf("%+v", games))
	require.NoError(t, Transact(func(tx *Tx) error {
		require.Equal(t, locked, fmt.Sprint(games))
		_, err := games.In(tx).Update(1, func(*game) { require.Equal(t, locked, fmt.Sprint(games)) })
		return err
	}, games))
	games.mu.RLock() // as another read does
	require.Equal(t, want, fmt.Sprint(games))
	games.mu.RUnlock()
	games.Drop()
	require.Equal(t, `table "games": rows 0, seq 2, dropped`, games.String())
	require.Equal(t, "<nil>", fmt.Sprint((*Table[int, game])(nil)))
}
