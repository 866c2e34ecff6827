package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/internal/codec"
)

// A Table is a table of a store: see [Rows].
type Table interface {
	table() changefeed.AnyTable
	check() error

	// decodes reports whether rows of a version can be decoded.
	decodes(version int) bool
	version() int

	// change encodes a change of the table.
	change(c *changefeed.AnyChange) (change, error)

	// restore makes the table what is stored.
	restore(tx *changefeed.Tx, from *stored) error

	// present passes the rows of the table in [changefeed.Read] to put, in the order of the
	// table.
	present(tx *changefeed.Tx, put func(key, row []byte) error) error

	lineage() []changefeed.Position
	lineageIn(tx *changefeed.Tx) []changefeed.Position
	retain(n int)
	isDropped() bool

	export(tx *changefeed.Tx, lines *json.Encoder) error
	add(tx *changefeed.Tx, row []byte) error
}

// A stored is the contents of a table in the file, for [Table.restore].
type stored struct {
	lineage []changefeed.Position
	version int
	rows    iter.Seq2[[]byte, []byte] // keys and rows
	newest  iter.Seq[[]change]        // the newest commits
	err     error                     // why an iterator has ended early, or nil

	// What is to be stored again.
	moves   []move
	changes []change
}

// A move is a row that is stored again, perhaps under another key.
type move struct{ old, key, row []byte }

// A RowsOption is an option of [Rows]: [Encoding] or [Version].
type RowsOption[V any] func(c *codec.Codec[V])

// Encoding makes the store encode rows by a codec of the user's. The default is encoding/json.
// encode must not keep or change the row, and the slice that it returns belongs to the store.
// decode must not keep data. A row that was decoded must be equal to the row that was encoded. Both
// functions are called by one goroutine at a time.
func Encoding[V any](encode func(row *V) ([]byte, error), decode func(data []byte, row *V) error) RowsOption[V] {
	return func(c *codec.Codec[V]) { c.Encode, c.Decode, c.JSON = encode, decode, false }
}

// Version gives the rows a schema version, which is not negative. The default is 0. older has a
// function for each earlier version that a file may have. It decodes a row of that version. [Open]
// then stores all rows and the changes that are kept in the present version. Positions remain
// valid. The rows may have other keys than before.
func Version[V any](number int, older map[int]func(data []byte, row *V) error) RowsOption[V] {
	return func(c *codec.Codec[V]) { c.Version, c.Older = number, older }
}

// Rows makes a table a part of a store, under its name. It can be passed to one call of [Open], and
// to [Export] and [Import].
//
// Keys can be integers, floats, strings, bools, of a type with MarshalText, arrays of these, or
// structs of these whose fields are exported and not embedded. Integer and string keys are stored
// in the order of the table, which makes Open faster.
//
// Without [Encoding], a row is stored as encoding/json encodes it. Fields that are not exported are
// lost, and so are those tagged `json:"-"`. A number in an interface becomes a float64, and a
// [time.Time] loses its monotonic reading. What is not UTF-8 in a string is replaced, and in a key
// it is [ErrRow].
//
// While a table has a row that cannot be encoded, the store writes nothing of any table, and reports
// the row.
func Rows[K, V any](t *changefeed.Table[K, V], opts ...RowsOption[V]) Table {
	r := &rows[K, V]{t: t, codec: codec.JSON[V]()}
	for _, opt := range opts {
		opt(&r.codec)
	}
	r.encodeKey, r.err = keyEncoder[K]()
	return r
}

type rows[K, V any] struct {
	t          *changefeed.Table[K, V]
	codec      codec.Codec[V]
	encodeKey  func(key K) ([]byte, error)
	err        error
	decodesKey atomic.Bool // a decoded row has the key that was encoded
}

func (r *rows[K, V]) table() changefeed.AnyTable                        { return r.t }
func (r *rows[K, V]) lineage() []changefeed.Position                    { return r.t.Lineage() }
func (r *rows[K, V]) lineageIn(tx *changefeed.Tx) []changefeed.Position { return r.t.In(tx).Lineage() }
func (r *rows[K, V]) retain(n int)                                      { r.t.Retain(n) }
func (r *rows[K, V]) version() int                                      { return r.codec.Version }

// isDropped reports whether the table was dropped.
func (r *rows[K, V]) isDropped() bool {
	err := changefeed.Transact(func(*changefeed.Tx) error { return nil }, r.t)
	return errors.Is(err, changefeed.ErrTableDropped)
}

func (r *rows[K, V]) check() error {
	if r.err != nil {
		return r.err
	}
	return r.codec.Check()
}

func (r *rows[K, V]) decodes(version int) bool { return r.codec.Decodes(version) }

// key returns the stored key of a row.
func (r *rows[K, V]) key(row *V) (encoded []byte, err error) {
	var key K
	known := false
	defer func() {
		if err != nil {
			text := "unknown"
			if known {
				text = fmt.Sprint(key)
			}
			err = rowError(text, "encoded", err)
		}
	}()
	defer codec.Recover(&err)
	key = r.t.Key(row)
	known = true
	if s := reflect.ValueOf(&key).Elem(); r.codec.JSON && s.Kind() == reflect.String && !utf8.ValidString(s.String()) {
		return nil, errNotUTF8
	}
	return r.encodeKey(key)
}

// row returns a stored row, whose stored key is known.
func (r *rows[K, V]) row(key []byte, row *V) ([]byte, error) {
	data, err := r.codec.Encoded(row) // nil stands for no row
	if err != nil {
		return nil, rowError(keyText(key), "encoded", err)
	}
	return data, nil
}

// encoded returns the stored key and the stored row of a row.
func (r *rows[K, V]) encoded(row *V) (key, data []byte, err error) {
	if key, err = r.key(row); err != nil {
		return nil, nil, err
	}
	if data, err = r.row(key, row); err != nil || r.decodesKey.Load() {
		return key, data, err
	}
	return key, data, r.checkKey(key, data)
}

// checkKey returns an error if the decoded row has another key than the row had: a field that the
// codec leaves out, for example. One row whose key is not the zero one shows it.
func (r *rows[K, V]) checkKey(key, data []byte) error {
	row, err := r.codec.Decoded(r.codec.Version, data)
	if err != nil {
		return rowError(keyText(key), "decoded", err)
	}
	again, err := r.key(&row)
	if err != nil {
		return err
	}
	if !slices.Equal(key, again) {
		return rowError(keyText(key), "encoded", fmt.Errorf("it would be decoded as a row with key %s", keyText(again)))
	}
	if zero, err := r.key(new(V)); err == nil && !slices.Equal(key, zero) {
		r.decodesKey.Store(true)
	}
	return nil
}

func (r *rows[K, V]) change(c *changefeed.AnyChange) (e change, err error) {
	e.kind, e.at = c.Kind, c.Position()
	old, _ := c.Old.(*V)
	row, _ := c.New.(*V)
	if old != nil {
		if e.oldKey, err = r.key(old); err != nil {
			return e, err
		}
	}
	if row == nil {
		return e, nil
	}
	e.key, e.row, err = r.encoded(row)
	return e, err
}

func (r *rows[K, V]) present(tx *changefeed.Tx, put func(key, row []byte) error) error {
	for _, row := range r.t.In(tx).All() {
		key, data, err := r.encoded(&row)
		if err != nil {
			return err
		}
		if err := put(key, data); err != nil {
			return err
		}
	}
	return nil
}

// restore also stores a row again if its version is old, or if its key is not the one that the
// table would store it under: the program has another key function now.
func (r *rows[K, V]) restore(tx *changefeed.Tx, from *stored) error {
	isOld := from.version != r.codec.Version
	past := changefeed.Past[V]{Lineage: from.lineage}
	past.Rows = func(yield func(V) bool) {
		for old, data := range from.rows {
			v, err := r.codec.Decoded(from.version, data)
			if err != nil {
				from.err = rowError(keyText(old), "decoded", err)
				return
			}
			key, err := r.key(&v)
			if err == nil && (isOld || !slices.Equal(key, old)) {
				if data, err = r.row(key, &v); err == nil {
					from.moves = append(from.moves, move{old, key, data})
				}
			}
			if err != nil {
				from.err = err
				return
			}
			if !yield(v) {
				return
			}
		}
	}
	half := func(e *change, data *[]byte) *V {
		if *data == nil || from.err != nil {
			return nil
		}
		v, err := r.codec.Decoded(from.version, *data)
		if err != nil {
			from.err = rowError(keyText(e.key), "decoded", err)
		} else if isOld {
			*data, from.err = r.row(e.key, &v)
		}
		return &v
	}
	past.Newest = func(yield func([]changefeed.Change[V]) bool) {
		for commit := range from.newest {
			var changes []changefeed.Change[V]
			for _, e := range commit {
				changes = append(changes, changefeed.Change[V]{Seq: e.at.Seq, Kind: e.kind, Old: half(&e, &e.old), New: half(&e, &e.row)})
				if isOld {
					from.changes = append(from.changes, e)
				}
			}
			if from.err != nil || !yield(changes) {
				return
			}
		}
	}
	if err := r.t.In(tx).Restore(past); from.err == nil {
		return err
	}
	return from.err
}
