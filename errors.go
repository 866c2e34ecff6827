package changefeed

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Errors that writes, transactions and streams return. A returned error wraps one of them,
// and names the operation, the table and the key. Use [errors.Is] to distinguish them.
var (
	// ErrDuplicateKey is returned when an insert names a key that is in the table, even
	// if the rows are equal. [Table.Upsert] inserts or replaces. It is also returned when
	// a row would get a value that another row has in a unique index, and by
	// [NewUniqueIndex] when two rows share a value already. Two rows of a [Past] with one key
	// are a duplicate, too.
	ErrDuplicateKey = errors.New("duplicate primary key")

	// ErrNotFound is returned when an update, replace or delete names a key that is not
	// in the table.
	ErrNotFound = errors.New("no row with primary key")

	// ErrKeyChanged is returned when the function passed to [Table.Update] or
	// [Table.Compute] gives the row another key, and by [Table.Apply] for an update whose rows
	// have different keys. To move a row, delete it and insert it.
	ErrKeyChanged = errors.New("a write must not change primary key")

	// ErrTableDropped is returned when a write or a transaction names a table that was
	// dropped. It also ends the streams of the table's changes, after everything that
	// they still have buffered.
	ErrTableDropped = errors.New("table dropped")

	// ErrOtherHistory is yielded by a stream whose [After] has a position that is not in the
	// table's history: see [Table.Fork]. [Table.Apply] returns it for a change that is not in the
	// table's history.
	ErrOtherHistory = errors.New("position of another history")

	// ErrGap is returned by [Table.Apply] when changes are missing between the table's last
	// change and the next one to apply. [Table.Restore] and [Table.Reset] return it when changes
	// of Past.Newest are missing.
	ErrGap = errors.New("changes are missing")

	// ErrDiverged is returned by [Table.Apply] when the old row of a change is not the row
	// that is stored.
	ErrDiverged = errors.New("the table has diverged from its source, primary key")

	// ErrNotEmpty is returned by [Table.Restore] for a table that was written to, or that is
	// followed. [Table.Reset] replaces its rows.
	ErrNotEmpty = errors.New("the table was written to or is followed; Reset replaces its rows")

	// ErrInvalidOption is yielded by a stream when a [FeedOption] has a value that is not
	// allowed, or when options cannot be combined.
	ErrInvalidOption = errors.New("invalid option")
)

// A SkippedError is the notice of skipped changes. A stream yields one when the subscriber
// was too slow: its buffer was full, and the oldest changes in it were dropped for new
// ones. With [After], a SkippedError also reports the changes after the position that the
// table no longer retains. With After and [Resync], it also says that a feed begins anew with
// the present rows, and with [Table.Reset], that the table has other rows. Count may then be 0.
// The stream yields it where the skipped changes would have come, and continues after it, except
// with [OnOverflow] and [Fail].
//
// Its text and its JSON are those of RethinkDB's overflow notice, which names neither
// table nor feed. After a Reset they say so.
type SkippedError struct {
	Count    uint64 // number of changes skipped here, which no other SkippedError counts
	From, To uint64 // first and last sequence number of the gap in which they lie
	Table    string // name of the table, empty with [Commits]
	Feed     string // name of the feed, empty without [Named]

	// Reset says that all rows of the table were replaced: see [Table.Reset]. From is a number
	// of the history before that, and To one of the history after it.
	Reset bool
}

// Error returns the notice with the number of skipped changes.
func (e *SkippedError) Error() string {
	reason := "cache over array size limit"
	if e.Reset {
		reason = "table was reset"
	}
	return fmt.Sprintf("Changefeed %s, skipped %d elements.", reason, e.Count)
}

// MarshalJSON returns {"error": "..."} with the text of Error.
func (e *SkippedError) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Error string `json:"error"`
	}{e.Error()})
}

// A keyError is a failed write. Its text is formatted only when Error is called, because
// a missing row may be the normal case of a program.
type keyError struct {
	op, table string
	key       any
	err       error
}

func (e *keyError) Error() string { return "changefeed: " + e.text() }

func (e *keyError) text() string {
	key := quoted(e.key)
	if inner, ok := e.err.(*keyError); ok { // in a view
		return fmt.Sprintf("%s %q, primary key %s: %s", e.op, e.table, key, inner.text())
	}
	if errors.Is(e.err, ErrTableDropped) {
		return fmt.Sprintf("%s %q: %v, primary key %s", e.op, e.table, e.err, key)
	}
	return fmt.Sprintf("%s %q: %v %s", e.op, e.table, e.err, key)
}

func (e *keyError) Unwrap() error { return e.err }

// A pathError is a keyError that is a part of a longer text.
type pathError struct{ *keyError }

func (e pathError) Error() string { return e.text() }

// quoted returns the text of a key or a value, in quotes if it is a string.
func quoted(v any) string {
	text := fmt.Sprint(v)
	if reflect.ValueOf(v).Kind() == reflect.String {
		text = fmt.Sprintf("%q", text)
	}
	return text
}

// A uniqueError reports that a row has the value of another row in a unique index. The
// error that wraps it appends the row's primary key to its text.
type uniqueError struct {
	index string
	value any
	owner any // the primary key of the other row
}

func (e *uniqueError) Error() string {
	return fmt.Sprintf("value %s in unique index %q belongs to primary key %s, not to primary key",
		quoted(e.value), e.index, quoted(e.owner))
}

func (e *uniqueError) Unwrap() error { return ErrDuplicateKey }
