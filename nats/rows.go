package natsfeed

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/internal/codec"
)

// A table is a table that is published or followed: see [Rows].
type table interface {
	any() changefeed.AnyTable
	check() error
	lineage() []changefeed.Position
	lineageIn(tx *changefeed.Tx) []changefeed.Position
	lenIn(tx *changefeed.Tx) int

	// version is the version of the rows that it encodes.
	version() int
	decodes(version int) bool

	// encode returns the row of a message for a change.
	encode(c *changefeed.AnyChange) ([]byte, error)

	// apply makes those changes of a part that come after the one numbered after.
	apply(tx *changefeed.Tx, p *part, after uint64) error

	fork()
	forkTo(p changefeed.Position) error

	// write writes the present rows, each with its length before it.
	write(tx *changefeed.Tx, w io.Writer) error

	// read reads what write has written, and returns a function that makes it the table's rows.
	read(s *tableSnapshot, r *bufio.Reader) (reset func(tx *changefeed.Tx) error, err error)
}

// A RowsOption is an option of [Rows]: [Encoding] or [Version].
type RowsOption[V any] func(c *codec.Codec[V])

// Encoding makes a table's rows be sent by a codec of the user's. The default is encoding/json.
// encode must not keep or change the row, and the slice that it returns belongs to this package.
// decode must not keep data. Both functions are called by one goroutine at a time.
func Encoding[V any](encode func(row *V) ([]byte, error), decode func(data []byte, row *V) error) RowsOption[V] {
	return func(c *codec.Codec[V]) { c.Encode, c.Decode, c.JSON = encode, decode, false }
}

// Version gives the rows a schema version, which is not negative. The default is 0. older has a
// function for each earlier version that the stream may have. It decodes a row of that version. All
// replicas must know a version before a publisher uses it.
func Version[V any](number int, older map[int]func(data []byte, row *V) error) RowsOption[V] {
	return func(c *codec.Codec[V]) { c.Version, c.Older = number, older }
}

// Rows is the option that makes a table one of those that are published or followed, under its name.
//
// Without [Encoding], a row is sent as encoding/json encodes it. Fields that are not exported are
// lost, and so are those tagged `json:"-"`. A number in an interface becomes a float64, and a
// [time.Time] loses its monotonic reading.
func Rows[K, V any](t *changefeed.Table[K, V], opts ...RowsOption[V]) Option {
	r := &rows[K, V]{t: t, codec: codec.JSON[V]()}
	for _, opt := range opts {
		opt(&r.codec)
	}
	return func(c *config) { c.tables = append(c.tables, r) }
}

type rows[K, V any] struct {
	t     *changefeed.Table[K, V]
	codec codec.Codec[V]
}

func (r *rows[K, V]) any() changefeed.AnyTable                          { return r.t }
func (r *rows[K, V]) check() error                                      { return r.codec.Check() }
func (r *rows[K, V]) lineage() []changefeed.Position                    { return r.t.Lineage() }
func (r *rows[K, V]) lineageIn(tx *changefeed.Tx) []changefeed.Position { return r.t.In(tx).Lineage() }
func (r *rows[K, V]) lenIn(tx *changefeed.Tx) int                       { return r.t.In(tx).Len() }
func (r *rows[K, V]) fork()                                             { r.t.Fork() }
func (r *rows[K, V]) forkTo(p changefeed.Position) error                { return r.t.ForkTo(p) }
func (r *rows[K, V]) version() int                                      { return r.codec.Version }
func (r *rows[K, V]) decodes(version int) bool                          { return r.codec.Decodes(version) }

func (r *rows[K, V]) encode(c *changefeed.AnyChange) ([]byte, error) {
	row, _ := c.New.(*V)
	if row == nil {
		row, _ = c.Old.(*V)
	}
	data, err := r.codec.Encoded(row)
	if err != nil {
		return nil, fmt.Errorf("table %q: the row of change %d cannot be encoded: %w", r.t.Name(), c.Seq, err)
	}
	return data, nil
}

func (r *rows[K, V]) apply(tx *changefeed.Tx, p *part, after uint64) error {
	table := r.t.In(tx)
	for i := range p.changes {
		c := &p.changes[i]
		seq := p.first + uint64(i)
		if seq <= after {
			continue
		}
		row, err := r.decoded(p.version, c.row)
		if err != nil {
			return err
		}
		made := changefeed.Change[V]{Seq: seq, Kind: c.kind}
		if c.kind != changefeed.Delete {
			made.New = &row
		}
		if c.kind != changefeed.Insert {
			old, ok := table.Get(r.t.Key(&row))
			if !ok {
				return fmt.Errorf("%w: there is no row of change %d", changefeed.ErrDiverged, seq)
			}
			made.Old = &old
		}
		if err := table.Apply(p.history, made); err != nil {
			return err
		}
	}
	return nil
}

func (r *rows[K, V]) decoded(version int, data []byte) (V, error) {
	if !r.codec.Decodes(version) {
		return *new(V), fmt.Errorf("table %q: a row has the version %d, for which there is no function", r.t.Name(), version)
	}
	row, err := r.codec.Decoded(version, data)
	if err != nil {
		err = fmt.Errorf("table %q: a row cannot be decoded: %w", r.t.Name(), err)
	}
	return row, err
}

func (r *rows[K, V]) write(tx *changefeed.Tx, w io.Writer) error {
	var buffer []byte
	for key, row := range r.t.In(tx).All() {
		data, err := r.codec.Encoded(&row)
		if err != nil {
			return fmt.Errorf("table %q: the row with key %v cannot be encoded: %w", r.t.Name(), key, err)
		}
		buffer = appendBytes(buffer[:0], data)
		if _, err := w.Write(buffer); err != nil {
			return err
		}
	}
	return nil
}

func (r *rows[K, V]) read(s *tableSnapshot, from *bufio.Reader) (reset func(tx *changefeed.Tx) error, err error) {
	var list []V
	var data []byte
	for range s.Rows {
		length, err := binary.ReadUvarint(from)
		if err == nil && length > maxRow {
			err = errors.New("a row is too long")
		}
		if err == nil {
			data = slices.Grow(data[:0], int(length))[:length]
			_, err = io.ReadFull(from, data)
		}
		if err != nil {
			return nil, fmt.Errorf("the snapshot is damaged: %w", err)
		}
		row, err := r.decoded(s.Version, data)
		if err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return func(tx *changefeed.Tx) error {
		return r.t.In(tx).Reset(changefeed.Past[V]{Lineage: s.Lineage, Rows: slices.Values(list)})
	}, nil
}

// maxRow is the length in bytes that a row may have.
const maxRow = 1 << 30
