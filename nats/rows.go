package natsfeed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/internal/codec"
)

// A table is a table that is published or followed: see [Rows].
type table interface {
	any() changefeed.AnyTable
	check() error
	seq() uint64
	lineage() lineage
	lineageIn(tx *changefeed.Tx) lineage
	lenIn(tx *changefeed.Tx) int

	// version is the version of the rows that it encodes.
	version() int

	// encode returns the row of a message for a change.
	encode(c *changefeed.AnyChange) ([]byte, error)

	// apply makes those changes of a part that come after the one numbered after.
	apply(tx *changefeed.Tx, p *part, after uint64) error

	fork()
	forkTo(p changefeed.Position) error

	// write writes the present rows, and the newest commits: those that the table retains.
	write(tx *changefeed.Tx, w *bufio.Writer) error

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
	if t == nil {
		panic("natsfeed: Rows: nil Table")
	}
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

func (r *rows[K, V]) any() changefeed.AnyTable            { return r.t }
func (r *rows[K, V]) check() error                        { return r.codec.Check() }
func (r *rows[K, V]) seq() uint64                         { return r.t.Seq() }
func (r *rows[K, V]) lineage() lineage                    { return r.t.Lineage() }
func (r *rows[K, V]) lineageIn(tx *changefeed.Tx) lineage { return r.t.In(tx).Lineage() }
func (r *rows[K, V]) lenIn(tx *changefeed.Tx) int         { return r.t.In(tx).Len() }
func (r *rows[K, V]) fork()                               { r.t.Fork() }
func (r *rows[K, V]) forkTo(p changefeed.Position) error  { return r.t.ForkTo(p) }
func (r *rows[K, V]) version() int                        { return r.codec.Version }

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
		row, err := decoded(&r.codec, p.version, c.row)
		if err != nil {
			return fmt.Errorf("table %q: change %d: %w", r.t.Name(), seq, err)
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

// In a snapshot, each row has its length before it. After the rows come the newest commits. A commit
// begins with the number of its changes and the Seq of the first one. A change has its kind, the old row
// and the new row. An insert has no old row, and a delete no new one. In place of a commit that cannot
// be encoded is the number forget, and the commits before it are of no use. A 0 ends the commits.
const forget = math.MaxUint64

func (r *rows[K, V]) write(tx *changefeed.Tx, w *bufio.Writer) error {
	for key, row := range r.t.In(tx).All() {
		if err := r.writeRow(w, &row); err != nil {
			return fmt.Errorf("the row with key %v: %w", key, err)
		}
	}
	var encoded bytes.Buffer
	for commit := range r.newest(r.lineageIn(tx)) {
		encoded.Reset()
		if err := r.writeCommit(bufio.NewWriter(&encoded), commit); err != nil {
			encoded.Reset()
			encoded.Write(binary.AppendUvarint(nil, forget))
		}
		if _, err := w.Write(encoded.Bytes()); err != nil {
			return err
		}
	}
	return writeNumbers(w, 0)
}

func (r *rows[K, V]) writeCommit(w *bufio.Writer, commit []changefeed.Change[V]) error {
	if err := writeNumbers(w, uint64(len(commit)), commit[0].Seq); err != nil {
		return err
	}
	for _, c := range commit {
		if err := w.WriteByte(byte(c.Kind)); err != nil {
			return err
		}
		for _, row := range []*V{c.Old, c.New} {
			if row == nil {
				continue
			}
			if err := r.writeRow(w, row); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

func writeNumbers(w *bufio.Writer, numbers ...uint64) error {
	var buffer []byte
	for _, n := range numbers {
		buffer = binary.AppendUvarint(buffer, n)
	}
	_, err := w.Write(buffer)
	return err
}

func (r *rows[K, V]) writeRow(w *bufio.Writer, row *V) error {
	data, err := r.codec.Encoded(row)
	if err != nil {
		return fmt.Errorf("it cannot be encoded: %w", err)
	}
	if err := writeNumbers(w, uint64(len(data))); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// newest yields the commits that the table retains, up to the end of a lineage.
func (r *rows[K, V]) newest(of lineage) iter.Seq[[]changefeed.Change[V]] {
	return func(yield func([]changefeed.Change[V]) bool) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var feed changefeed.Feed
		commits := r.t.Batches(ctx, 1, changefeed.After(changefeed.Position{}), changefeed.Poll(nil), changefeed.Track(&feed))
		for commit, err := range commits {
			if err != nil {
				continue // changes that are not retained
			}
			if !of.has(feed.Position()) || !yield(commit) {
				return
			}
		}
	}
}

func (r *rows[K, V]) read(s *tableSnapshot, from *bufio.Reader) (reset func(tx *changefeed.Tx) error, err error) {
	d := rowReader[V]{codec: &r.codec, version: s.Version, from: from}
	past := changefeed.Past[V]{Lineage: s.Lineage}
	var rows []V
	for range s.Rows {
		row := d.row()
		if d.err != nil {
			return nil, d.err
		}
		rows = append(rows, *row)
	}
	var newest [][]changefeed.Change[V]
	for n := d.number(); n > 0; n = d.number() {
		if n == forget {
			newest = nil
			continue
		}
		var commit []changefeed.Change[V]
		first := d.number()
		for i := range n {
			c := changefeed.Change[V]{Seq: first + i, Kind: changefeed.Kind(d.byte())}
			if c.Kind != changefeed.Insert {
				c.Old = d.row()
			}
			if c.Kind != changefeed.Delete {
				c.New = d.row()
			}
			if d.err != nil {
				return nil, d.err
			}
			commit = append(commit, c)
		}
		newest = append(newest, commit)
	}
	if d.err != nil {
		return nil, d.err
	}
	past.Rows, past.Newest = slices.Values(rows), slices.Values(newest)
	return func(tx *changefeed.Tx) error { return r.t.In(tx).Reset(past) }, nil
}

// A rowReader reads what rows.write has written. After an error, all reads return zero.
type rowReader[V any] struct {
	codec   *codec.Codec[V]
	version int
	from    *bufio.Reader
	data    []byte
	err     error
}

func (d *rowReader[V]) number() (n uint64) {
	if d.err == nil {
		n, d.err = binary.ReadUvarint(d.from)
	}
	return n
}

func (d *rowReader[V]) byte() (b byte) {
	if d.err == nil {
		b, d.err = d.from.ReadByte()
	}
	return b
}

func (d *rowReader[V]) row() *V {
	length := d.number()
	if d.err == nil && length > maxRow {
		d.err = errors.New("a row is too long")
	}
	if d.err != nil {
		return nil
	}
	if d.data, d.err = readBytes(d.from, length, d.data); d.err != nil {
		return nil
	}
	row, err := decoded(d.codec, d.version, d.data)
	d.err = err
	return &row
}

// readBytes reads a number of bytes, into a buffer that it may use. It does not believe a number that is
// too large.
func readBytes(from io.Reader, n uint64, buffer []byte) ([]byte, error) {
	const believed = 1 << 20
	if n <= believed {
		buffer = slices.Grow(buffer[:0], int(n))[:n]
		_, err := io.ReadFull(from, buffer)
		return buffer, err
	}
	data, err := io.ReadAll(io.LimitReader(from, int64(n)))
	if err == nil && uint64(len(data)) < n {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

// decoded returns a decoded row of a version.
func decoded[V any](c *codec.Codec[V], version int, data []byte) (row V, err error) {
	if !c.Decodes(version) {
		return row, fmt.Errorf("a row has the version %d, for which there is no function", version)
	}
	if row, err = c.Decoded(version, data); err != nil {
		err = fmt.Errorf("a row cannot be decoded: %w", err)
	}
	return row, err
}

// maxRow is the length in bytes that a row of a snapshot may have.
const maxRow = 1 << 30
