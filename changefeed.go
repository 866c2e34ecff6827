package changefeed

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Change is one write to a row of a table. The write returns it, and subscribers
// receive it.
//
// Old and New point to stored rows. These never change again, and must not be modified.
type Change[V any] struct {
	Seq  uint64 // position in the table's history: 1, 2, 3, ... without gaps
	Kind Kind
	Old  *V // the row before, or nil for an insert
	New  *V // the row after, or nil for a delete
}

// Row returns the row that the change is about: New, or Old for a delete. It returns nil
// for [Ready], and for the zero Change, which comes with an error.
func (c Change[V]) Row() *V {
	if c.New == nil {
		return c.Old
	}
	return c.New
}

// String returns Seq, Kind and the rows in one line:
//
//	7 update {1 Bob} -> {1 Alice}
//
// It omits a Seq of 0 and a row that is nil. A row is formatted as fmt formats V, or by
// the String method of *V if there is one. A row that is a string is quoted.
func (c Change[V]) String() string {
	text := c.Kind.String()
	if c.Seq > 0 {
		text = fmt.Sprintf("%d %v", c.Seq, c.Kind)
	}
	switch row := c.Row(); {
	case row == nil:
		return text
	case c.Old == nil || c.Old == row:
		return text + " " + rowText(row)
	}
	return text + " " + rowText(c.Old) + " -> " + rowText(c.New)
}

func rowText[V any](row *V) string {
	if s, ok := any(row).(fmt.Stringer); ok {
		return fmt.Sprint(s) // unlike s.String(), it survives a panic
	}
	return quoted(*row)
}

// MarshalJSON returns c as RethinkDB writes a change, without Seq and Kind:
// {"state": "ready"} for [Ready], {"new_val": ...} for [Initial], and
// {"old_val": ..., "new_val": ...} for the other kinds. A row that is nil is null.
func (c Change[V]) MarshalJSON() ([]byte, error) {
	switch c.Kind {
	case Initial:
		return json.Marshal(struct {
			New *V `json:"new_val"`
		}{c.New})
	case Ready:
		return []byte(`{"state":"ready"}`), nil
	}
	return json.Marshal(struct {
		Old *V `json:"old_val"`
		New *V `json:"new_val"`
	}{c.Old, c.New})
}

// changeJSON is a Change in JSON. A row is nil if its key is missing, and null if
// there is no such row.
type changeJSON struct {
	Old   json.RawMessage `json:"old_val"`
	New   json.RawMessage `json:"new_val"`
	State *string         `json:"state"`
	Error *string         `json:"error"`
}

// UnmarshalJSON is the inverse of [Change.MarshalJSON]. It sets Kind, Old and New, and
// sets Seq to 0, because the JSON has none. The rows are new values, so the rows that
// c pointed to before are not written to.
//
// The Kind follows from the keys and from the rows that are not null:
//
//   - {"state": "ready"} is [Ready].
//   - new_val without old_val is [Initial].
//   - With both keys, new_val alone is [Insert] and old_val alone is [Delete].
//   - Two rows are [Update], or [None] if they are equal rows of a [Table]. New is then
//     Old, as in the Change that the write returned.
//   - Two nulls are the zero Change, whose Kind is None.
//
// Two things do not survive the round trip. A row that is itself null in JSON, for
// example a nil map, becomes no row. An update of fields that the JSON of a row omits
// becomes None.
//
// Unknown keys are ignored, and JSON null leaves c as it is, as encoding/json does with a
// struct. Anything else is an error, for example the JSON of a [SkippedError] or another
// state. After an error, c is unchanged. A reader of lines that may contain notices first
// looks for the key error.
func (c *Change[V]) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	next, err := parseChange[V](data)
	if err != nil {
		return fmt.Errorf("changefeed: unmarshal a change: %w", err)
	}
	*c = next
	return nil
}

func parseChange[V any](data []byte) (c Change[V], err error) {
	var in changeJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return c, err
	}
	switch {
	case in.Error != nil:
		return c, fmt.Errorf("the JSON is an error: %q", *in.Error)
	case in.State != nil && *in.State != Ready.String():
		return c, fmt.Errorf("unknown state %q; must be %q", *in.State, Ready)
	case in.State != nil && (in.Old != nil || in.New != nil):
		return c, errors.New("both a state and a row; must be one of the two")
	case in.State != nil:
		return Change[V]{Kind: Ready}, nil
	case in.New == nil:
		return c, errors.New(`no "new_val" and no "state"`)
	}
	if c.New, err = parseRow[V](in.New); err != nil {
		return c, fmt.Errorf("new_val: %w", err)
	}
	if in.Old == nil {
		c.Kind = Initial
		return c, nil
	}
	if c.Old, err = parseRow[V](in.Old); err != nil {
		return c, fmt.Errorf("old_val: %w", err)
	}
	c.Kind = kindOf(c.Old, c.New)
	if c.Kind == Update && chooseEqual[V]()(c.Old, c.New) {
		c.Kind, c.New = None, c.Old
	}
	return c, nil
}

// parseRow returns nil for null, even if null is a value of V.
func parseRow[V any](data []byte) (row *V, err error) {
	err = json.Unmarshal(data, &row)
	return row, err
}

// A Kind is the effect of a write on its row. Initial and Ready are not writes: see
// [IncludeInitial] and [Resync].
type Kind uint8

const (
	None    Kind = iota // no change: the row that was written is equal to the stored one
	Insert              // the row is new
	Update              // the row replaces another one
	Delete              // the row is removed
	Initial             // the row was there when the feed began
	Ready               // all Initial changes have been delivered
)

var kindNames = [...]string{
	None: "none", Insert: "insert", Update: "update", Delete: "delete", Initial: "initial", Ready: "ready",
}

// String returns "none", "insert", "update", "delete", "initial" or "ready".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// MarshalText returns the text of [Kind.String]. It returns an error if k is not one of
// the constants.
func (k Kind) MarshalText() ([]byte, error) {
	if int(k) >= len(kindNames) {
		return nil, fmt.Errorf("changefeed: marshal %v: no such kind", k)
	}
	return []byte(k.String()), nil
}

// UnmarshalText is the inverse of [Kind.MarshalText]. It returns an error, and leaves k
// unchanged, if text is not the name of a Kind.
func (k *Kind) UnmarshalText(text []byte) error {
	i := slices.Index(kindNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("changefeed: unmarshal kind %q: must be one of %s", text, strings.Join(kindNames[:], ", "))
	}
	*k = Kind(i)
	return nil
}

// kindOf returns the Kind of the change from old to new, which are not equal. Either may
// be nil. If both are, it is None.
func kindOf[V any](old, new *V) Kind {
	switch {
	case old == nil && new == nil:
		return None
	case old == nil:
		return Insert
	case new == nil:
		return Delete
	}
	return Update
}

// within returns c relative to a selection that contains the row before the change, after
// it, or both.
func (c Change[V]) within(before, after bool) Change[V] {
	switch {
	case after && !before && c.Kind == Update:
		c.Kind, c.Old = Insert, nil
	case before && !after && c.Kind == Update:
		c.Kind, c.New = Delete, nil
	}
	return c
}
