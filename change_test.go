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

// changesOf returns the changes that two rows can make. The rows differ.
func changesOf[V any](a, b *V) []Change[V] {
	return []Change[V]{
		{},
		{Kind: None, Old: a, New: a},
		{Seq: 1, Kind: Insert, New: a},
		{Seq: 2, Kind: Update, Old: a, New: b},
		{Seq: math.MaxUint64, Kind: Delete, Old: b},
		{Kind: Initial, New: b},
		{Seq: 3, Kind: Ready},
	}
}

// comesBack tests that the changes of each two of the rows come back from JSON.
func comesBack[V any](rows ...V) func(t *testing.T) {
	return func(t *testing.T) {
		for i := range rows {
			for j := range rows {
				if i == j {
					continue
				}
				for _, c := range changesOf(&rows[i], &rows[j]) {
					text, err := json.Marshal(c)
					require.NoError(t, err)
					got := Change[V]{Seq: 7, Kind: 200, Old: new(V), New: new(V)}
					require.NoError(t, json.Unmarshal(text, &got), string(text))
					want := c
					want.Seq = 0
					require.Equal(t, want, got, string(text))
					require.Equal(t, want.Old == want.New, got.Old == got.New, string(text))
				}
			}
		}
	}
}

func TestAChangeComesBackFromItsJSON(t *testing.T) {
	type nested struct {
		Scores map[string][]int
		Next   *nested
		Any    any
		Time   time.Time
	}
	t.Run("struct", comesBack(game{}, game{ID: 1}, game{1, "Bob\n\"<>&\u2028", -3}))
	t.Run("nested", comesBack(
		nested{}, nested{Scores: map[string][]int{"": {}, "a": {1, 2}}},
		nested{Next: &nested{Any: []any{"x", nil, 1.5, map[string]any{}}}, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)},
	))
	t.Run("Equal", comesBack(caseless{"a"}, caseless{"b"}))
	t.Run("string", comesBack("", "null", "\x00"))
	t.Run("number", comesBack(0, -1, math.MaxInt))
	t.Run("float", comesBack(0, 1.5, math.MaxFloat64, math.SmallestNonzeroFloat64))
	t.Run("bool", comesBack(false, true))
	t.Run("pointer", comesBack(&game{}, &game{ID: 1}))
	t.Run("map", comesBack(map[string]any{}, map[string]any{"old_val": nil, "state": "ready"}))
	t.Run("slice", comesBack([]int{}, []int{1}, []int{1, 2}))
	t.Run("bytes", comesBack([]byte{}, []byte("a")))
	t.Run("any", comesBack[any](false, "", map[string]any{"error": "x"}, []any{nil}))
	t.Run("raw", comesBack(json.RawMessage(`{}`), json.RawMessage(`"null"`)))
	t.Run("change", comesBack(Change[int]{Kind: Ready}, Change[int]{Kind: Initial, New: new(1)}))
}

// What MarshalJSON does not write comes back as the documentation says.
func TestAChangeWhoseRowsJSONDoesNotShow(t *testing.T) {
	type secret struct {
		Key    int
		Hidden int `json:"-"`
	}
	text, err := json.Marshal(Change[secret]{9, Update, &secret{1, 2}, &secret{1, 3}})
	require.NoError(t, err)
	var c Change[secret]
	require.NoError(t, json.Unmarshal(text, &c))
	require.Equal(t, Change[secret]{0, None, &secret{Key: 1}, &secret{Key: 1}}, c)
	require.Same(t, c.Old, c.New, "as the write returned it")

	row, null := &game{ID: 1}, (*game)(nil)
	for _, test := range []struct{ was, is Change[*game] }{
		{Change[*game]{1, Insert, nil, &null}, Change[*game]{}},
		{Change[*game]{2, Update, &row, &null}, Change[*game]{Kind: Delete, Old: &row}},
		{Change[*game]{3, Update, &null, &row}, Change[*game]{Kind: Insert, New: &row}},
		{Change[*game]{4, Delete, &null, nil}, Change[*game]{}},
		{Change[*game]{0, Initial, nil, &null}, Change[*game]{Kind: Initial}},
	} {
		text, err := json.Marshal(test.was)
		require.NoError(t, err)
		c := Change[*game]{5, Update, &row, &row}
		require.NoError(t, json.Unmarshal(text, &c))
		require.Equal(t, test.is, c, string(text))
	}
}

// Whatever writes the JSON, and whatever else it writes.
func TestAChangeFromOtherJSON(t *testing.T) {
	row := &game{ID: 1, Player: "Bob"}
	for text, want := range map[string]Change[game]{
		` { "new_val" : {"player":"Bob","id":1} , "old_val" : null } `: {Kind: Insert, New: row},
		`{"type":"change","new_val":{"id":2},"old_val":{"id":1,"player":"Bob"},"new_offset":null}`: {
			Kind: Update, Old: row, New: &game{ID: 2},
		},
		`{"old_val":{"id":1,"player":"Bob"},"new_val":{"player":"Bob","id":1,"more":[]}}`: {Old: row, New: row},
		`{"state":null,"error":null,"new_val":{"id":1,"player":"Bob"}}`:                   {Kind: Initial, New: row},
		`{"new_val":null}`:                 {Kind: Initial},
		`{"old_val":null,"new_val":null}`:  {},
		`{"state":"ready","type":"state"}`: {Kind: Ready},
	} {
		got := Change[game]{3, Delete, &game{}, nil}
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.Equal(t, want, got, text)
	}

	fold := Change[caseless]{}
	require.NoError(t, json.Unmarshal([]byte(`{"old_val":{"Name":"a"},"new_val":{"Name":"A"}}`), &fold))
	require.Equal(t, None, fold.Kind, "equal as a table of such rows compares them")
}

func TestAChangeFromMalformedJSON(t *testing.T) {
	const at = "changefeed: unmarshal a change: "
	for _, test := range []struct{ text, want string }{
		{`{}`, at + `no "new_val" and no "state"`},
		{`{"Seq":1,"Kind":2,"Old":{"id":1},"New":{"id":1}}`, at + `no "new_val" and no "state"`},
		{`{"old_val":{"id":1}}`, at + `no "new_val" and no "state"`},
		{`{"old_val":null}`, at + `no "new_val" and no "state"`},
		{`{"state":null}`, at + `no "new_val" and no "state"`},
		{`{"state":"initializing"}`, at + `unknown state "initializing"; must be "ready"`},
		{`{"state":""}`, at + `unknown state ""; must be "ready"`},
		{`{"state":"READY"}`, at + `unknown state "READY"; must be "ready"`},
		{`{"state":"ready","new_val":{"id":1}}`, at + `both a state and a row; must be one of the two`},
		{`{"state":"ready","old_val":null}`, at + `both a state and a row; must be one of the two`},
		{`{"state":1}`, at + `json: cannot unmarshal number into Go struct field changeJSON.state of type string`},
		{`{"error":"skipped 3 elements."}`, at + `the JSON is an error: "skipped 3 elements."`},
		{`{"error":"","old_val":null,"new_val":{"id":1}}`, at + `the JSON is an error: ""`},
		{`{"error":{}}`, at + `json: cannot unmarshal object into Go struct field changeJSON.error of type string`},
		{`{"new_val":1}`, at + `new_val: json: cannot unmarshal number into Go value of type changefeed.game`},
		{`{"old_val":[],"new_val":{"id":1}}`, at + `old_val: json: cannot unmarshal array into Go value of type changefeed.game`},
		{`{"old_val":{"id":1},"new_val":{"id":"x"}}`, at + `new_val: json: cannot unmarshal string into Go struct field game.id of type int`},
		{`[]`, at + `json: cannot unmarshal array into Go value of type changefeed.changeJSON`},
		{`"ready"`, at + `json: cannot unmarshal string into Go value of type changefeed.changeJSON`},
		{`{"new_val":`, `unexpected end of JSON input`},
		{``, `unexpected end of JSON input`},
	} {
		c := Change[game]{3, Update, &game{ID: 1}, &game{ID: 2}}
		was := c
		require.EqualError(t, json.Unmarshal([]byte(test.text), &c), test.want, test.text)
		require.True(t, was == c, "%s left %v", test.text, c)
	}
	notice, err := json.Marshal(&SkippedError{Count: 5})
	require.NoError(t, err)
	require.EqualError(t, json.Unmarshal(notice, new(Change[game])),
		at+`the JSON is an error: "Changefeed cache over array size limit, skipped 5 elements."`)
	require.ErrorAs(t, json.Unmarshal([]byte(`{"new_val":1}`), new(Change[game])), new(*json.UnmarshalTypeError))

	c := Change[game]{3, Update, &game{ID: 1}, &game{ID: 2}}
	was := c
	require.NoError(t, json.Unmarshal([]byte("null"), &c))
	require.True(t, was == c, "null is no change of a struct")
}

// What a feed writes as JSON is a copy of the table for who reads it, and reading into a
// Change writes to no row that it pointed to.
func TestAFeedAsJSON(t *testing.T) {
	games := newGames()
	must[game](t)(games.Insert(game{ID: 1}))
	feed := games.Changes(t.Context(), IncludeInitial(), Poll(nil))
	must[game](t)(games.Upsert(game{ID: 2, Player: "Bob"}))
	must[game](t)(games.Upsert(game{ID: 2, Player: "Alice"}))
	must[game](t)(games.Delete(1))
	last := must[game](t)(games.Insert(game{ID: 3}))
	var wire bytes.Buffer
	for c, err := range feed {
		require.NoError(t, err)
		require.NoError(t, json.NewEncoder(&wire).Encode(c))
	}

	rows, c, kinds := map[int]game{}, last, []Kind(nil)
	for decoder := json.NewDecoder(&wire); decoder.More(); {
		require.NoError(t, decoder.Decode(&c))
		kinds = append(kinds, c.Kind)
		switch {
		case c.Kind == Ready:
		case c.New == nil:
			delete(rows, c.Old.ID)
		default:
			rows[c.New.ID] = *c.New
		}
	}
	require.Equal(t, []Kind{Initial, Ready, Insert, Update, Delete, Insert}, kinds)
	require.Equal(t, map[int]game{2: {ID: 2, Player: "Alice"}, 3: {ID: 3}}, rows)
	stored, _ := games.Get(3)
	require.Equal(t, game{ID: 3}, stored)
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
		fuzzChangeJSON[map[string]any](t, text)
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
	again, err := json.Marshal(c)
	require.NoError(t, err)
	var same Change[V]
	require.NoError(t, json.Unmarshal(again, &same), string(again))
	require.Equal(t, c, same, string(again))
}

func TestAKindComesBackFromItsText(t *testing.T) {
	for k := range Kind(len(kindNames)) {
		text, err := k.MarshalText()
		require.NoError(t, err)
		require.Equal(t, k.String(), string(text))
		var got Kind = 200
		require.NoError(t, got.UnmarshalText(text))
		require.Equal(t, k, got)
	}

	counts := map[Kind]int{Insert: 2, Ready: 1}
	text, err := json.Marshal(map[string]any{"kinds": []Kind{None, Delete}, "counts": counts})
	require.NoError(t, err)
	require.Equal(t, `{"counts":{"insert":2,"ready":1},"kinds":["none","delete"]}`, string(text))
	var got struct {
		Kinds  []Kind
		Counts map[Kind]int
	}
	require.NoError(t, json.Unmarshal(text, &got))
	require.Equal(t, []Kind{None, Delete}, got.Kinds)
	require.Equal(t, counts, got.Counts)

	_, err = (Ready + 1).MarshalText()
	require.EqualError(t, err, "changefeed: marshal Kind(6): no such kind")
	for _, text := range []string{"", "Insert", "insert ", "Kind(6)", "1"} {
		k := Update
		require.ErrorContains(t, k.UnmarshalText([]byte(text)), "must be one of none, insert, update, delete, initial, ready")
		require.Equal(t, Update, k)
	}
	require.EqualError(t, new(Kind).UnmarshalText([]byte("a\nb")),
		`changefeed: unmarshal kind "a\nb": must be one of none, insert, update, delete, initial, ready`)
}

// A badge is a row whose pointer has a String method.
type badge struct{ Name string }

func (b *badge) String() string { return "badge of " + b.Name }

// A mood is a row with a String method, which panics for the zero mood.
type mood int

func (m mood) String() string { return [...]string{1: "glad"}[m][:1] }

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
		{Change[game]{Kind: Ready}, "ready"},
		{Change[game]{1, 200, nil, bob}, "1 Kind(200) {1 Bob 0}"},
		{&Change[game]{41, Insert, nil, bob}, "41 insert {1 Bob 0}"},
		{[]Change[game]{{1, Insert, nil, bob}, {}}, "[1 insert {1 Bob 0} none]"},
		{Change[*game]{1, Update, &bob, new((*game)(nil))}, "1 update &{1 Bob 0} -> <nil>"},
		{Change[string]{1, Update, new(""), new("a\nb")}, `1 update "" -> "a\nb"`},
		{Change[map[string]int]{1, Insert, nil, &map[string]int{"b": 2, "a": 1}}, "1 insert map[a:1 b:2]"},
		{Change[any]{1, Update, new(any), new(any("a"))}, `1 update <nil> -> "a"`},
		{Change[badge]{1, Update, &badge{"Bob"}, &badge{"Alice"}}, "1 update badge of Bob -> badge of Alice"},
		{Change[mood]{1, Insert, nil, new(mood(1))}, "1 insert g"},
	} {
		require.Equal(t, test.want, fmt.Sprint(test.change))
		require.Equal(t, test.want, fmt.Sprintf("%+v", test.change))
	}
	require.Contains(t, Change[mood]{1, Insert, nil, new(mood)}.String(), "1 insert %!v(PANIC=String method: ")
	require.Equal(t, "<nil>", fmt.Sprint((*Change[game])(nil)))
}

func TestAFeedInfoInALogLine(t *testing.T) {
	require.Equal(t, `feed "a\"b": buffered 3/100, delivered 17, skipped 2, seq 22`, FeedInfo{`a"b`, 3, 100, 17, 2, 22}.String())

	games := newGames()
	games.Changes(t.Context(), Buffer(2))
	games.Changes(t.Context(), Squash(0), Named("squashed"))
	for id := range 3 {
		must[game](t)(games.Insert(game{ID: id}))
	}
	require.Equal(t,
		`[feed: buffered 2/2, delivered 0, skipped 1, seq 0 feed "squashed": buffered 3, delivered 0, skipped 0, seq 0]`,
		fmt.Sprint(games.Feeds()))
}

// A table may be logged by functions that run under its lock, and by a loop beside.
func TestATableInALogLine(t *testing.T) {
	games := newGames()
	require.Equal(t, `table "games": rows 0, seq 0`, games.String())
	must[game](t)(games.Insert(game{ID: 1}))
	must[game](t)(games.Upsert(game{ID: 1, Score: 1}))
	const want, locked = `table "games": rows 1, seq 2`, `table "games" (locked)`
	require.Equal(t, want, fmt.Sprintf("%v", games))
	require.Equal(t, want, fmt.Sprintf("%+v", games))

	must[game](t)(games.Update(1, func(*game) { require.Equal(t, locked, fmt.Sprint(games)) }))
	must[game](t)(games.Compute(1, func(g *game) *game {
		require.Equal(t, locked, fmt.Sprint(games))
		return g
	}))
	require.NoError(t, Transact(func(tx *Tx) error {
		require.Equal(t, locked, fmt.Sprint(games))
		_, err := games.In(tx).Update(1, func(*game) { require.Equal(t, locked, fmt.Sprint(games)) })
		return err
	}, games))
	for range games.All() {
		require.Equal(t, want, fmt.Sprint(games))
	}
	games.mu.RLock() // as a read beside it does
	require.Equal(t, want, fmt.Sprint(games))
	games.mu.RUnlock()
	require.Equal(t, want, fmt.Sprint(games))

	games.Drop()
	require.Equal(t, `table "games": rows 0, seq 2, dropped`, games.String())
	require.True(t, games.mu.TryLock(), "the lock must be free")
	games.mu.Unlock()
	require.Equal(t, "<nil>", fmt.Sprint((*Table[int, game])(nil)))
}
