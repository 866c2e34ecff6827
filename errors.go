package changefeed

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// The conditions that a caller can meet. What is returned wraps one of them and
// says which operation on which table met it, and with which key; tell them apart
// with [errors.Is].
var (
	// ErrDuplicateKey: an insert of a row whose key is in the table, be the rows
	// equal or not; [Table.Upsert] inserts or replaces. Or a write that would give a
	// row the value that another has in a unique index.
	ErrDuplicateKey = errors.New("duplicate primary key")

	// ErrNotFound: an update, replace or delete of a row that is not in the table.
	ErrNotFound = errors.New("no row with primary key")

	// ErrKeyChanged: a function handed to [Table.Update] or [Table.Compute] gave the
	// row another key. To move a row, delete it and insert it.
	ErrKeyChanged = errors.New("a write must not change primary key")

	// ErrTableDropped: the table was dropped. It ends the streams of the table's
	// changes, after everything that they still had buffered.
	ErrTableDropped = errors.New("table dropped")

	// ErrInvalidOption: a [FeedOption] was given a value that it does not take, or
	// options that cannot be combined.
	ErrInvalidOption = errors.New("invalid option")
)

// A SkippedError reports that a subscriber was too slow: its buffer was full, and
// the oldest changes in it made room for new ones. It also reports the changes after
// the position of an [After] that the table no longer retains. The stream yields it
// where the skipped changes would have come, and continues after it, except with
// [OnOverflow] and [Fail].
//
// Its text and its JSON are those of RethinkDB's overflow notice, which names neither
// table nor feed. RethinkDB discards the whole queue. Here the newest changes survive.
type SkippedError struct {
	Count    uint64 // changes skipped here; no other SkippedError counts them
	From, To uint64 // first and last sequence number of the gap that they lie in
	Table    string // name of the table
	Feed     string // name of the feed; empty without [Named]
}

func (e *SkippedError) Error() string {
	return fmt.Sprintf("Changefeed cache over array size limit, skipped %d elements.", e.Count)
}

// MarshalJSON returns {"error": "..."} with the text of Error.
func (e *SkippedError) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Error string `json:"error"`
	}{e.Error()})
}

// A keyError is a failed write. Its text is made when it is asked for, for a
// missing row may be the normal case of a program.
type keyError struct {
	op, table string
	key       any
	err       error
}

func (e *keyError) Error() string {
	key := quoted(e.key)
	if errors.Is(e.err, ErrTableDropped) {
		return fmt.Sprintf("changefeed: %s %q: %v, primary key %s", e.op, e.table, e.err, key)
	}
	return fmt.Sprintf("changefeed: %s %q: %v %s", e.op, e.table, e.err, key)
}

func (e *keyError) Unwrap() error { return e.err }

// quoted returns the text of a key or a value, in quotes if it is a string.
func quoted(v any) string {
	text := fmt.Sprint(v)
	if reflect.ValueOf(v).Kind() == reflect.String {
		text = fmt.Sprintf("%q", text)
	}
	return text
}

// A uniqueError is a row whose value in a unique index is another's. The primary key
// of the row follows its text.
type uniqueError struct {
	index string
	value any
	owner any // the primary key of the other
}

func (e *uniqueError) Error() string {
	return fmt.Sprintf("value %s in unique index %q belongs to primary key %s, not to primary key",
		quoted(e.value), e.index, quoted(e.owner))
}

func (e *uniqueError) Unwrap() error { return ErrDuplicateKey }
