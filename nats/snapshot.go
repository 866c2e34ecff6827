package natsfeed

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A snapshot is an object with the rows of all tables at one moment. It begins with the length of its
// header and the header, as JSON. Then come the rows of each table. The object's name is the number
// of a message. The messages up to that one are in the rows. Later ones may be, too.
type snapshot struct {
	Format int             `json:"format"`
	Tables []tableSnapshot `json:"tables"`
}

type tableSnapshot struct {
	Name    string                `json:"name"`
	Version int                   `json:"version"`
	Lineage []changefeed.Position `json:"lineage"`
	Rows    int                   `json:"rows"`
}

// writeSnapshot writes a snapshot of the tables, which have the messages up to the one numbered after.
// Before the snapshot can be seen, it calls confirm.
func (f *feed) writeSnapshot(ctx context.Context, after uint64, confirm func(s *snapshot) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := changefeed.Read(func(tx *changefeed.Tx) error { return f.writeRows(tx, w, confirm) }, f.anyTables()...)
		written <- err
		_ = w.CloseWithError(err) // io.EOF if it is nil
	}()
	_, err := f.snapshots.Put(ctx, jetstream.ObjectMeta{Name: snapshotName(after)}, r)
	_ = r.CloseWithError(errors.New("the snapshot was not stored"))
	if e := <-written; e != nil {
		return e
	}
	return err
}

func snapshotName(after uint64) string { return strconv.FormatUint(after, 10) }

func (f *feed) writeRows(tx *changefeed.Tx, to io.Writer, confirm func(s *snapshot) error) error {
	w := bufio.NewWriterSize(to, 128<<10)
	s := snapshot{Format: formatVersion}
	for _, t := range f.tables {
		s.Tables = append(s.Tables, tableSnapshot{t.any().Name(), t.version(), t.lineageIn(tx), t.lenIn(tx)})
	}
	header, err := json.Marshal(&s)
	if err != nil {
		return err
	}
	if _, err := w.Write(appendBytes(nil, header)); err != nil {
		return err
	}
	for _, t := range f.tables {
		if err := t.write(tx, w); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), confirm(&s))
}

// snapshotNumbers returns the numbers of the snapshots, the newest first.
func (f *feed) snapshotNumbers(ctx context.Context) (numbers []uint64, err error) {
	err = persist(ctx, func(ctx context.Context) error {
		numbers = nil
		objects, err := f.snapshots.List(ctx)
		if errors.Is(err, jetstream.ErrNoObjectsFound) {
			return nil
		}
		for _, o := range objects {
			if n, err := strconv.ParseUint(o.Name, 10, 64); err == nil {
				numbers = append(numbers, n)
			}
		}
		return err
	})
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, err
}

// deleteSnapshots deletes the snapshots but the newest two, and the messages that the older one of
// these has.
func (f *feed) deleteSnapshots(ctx context.Context) error {
	numbers, err := f.snapshotNumbers(ctx)
	if err != nil || len(numbers) < 2 {
		return err
	}
	for _, n := range numbers[2:] {
		if err := f.snapshots.Delete(ctx, snapshotName(n)); err != nil {
			return err
		}
	}
	return f.log.Purge(ctx, jetstream.WithPurgeSequence(numbers[1]+1))
}

// snapshotLineages returns the lineages of the snapshot with a number.
func (f *feed) snapshotLineages(ctx context.Context, number uint64) (lineages begin, err error) {
	object, err := f.snapshots.Get(ctx, snapshotName(number))
	if err != nil {
		return nil, err
	}
	defer func() { _ = object.Close() }() // it is not read to its end
	s, err := readHeader(bufio.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("the snapshot %d is damaged: %w", number, err)
	}
	lineages = make(begin)
	for _, t := range s.Tables {
		lineages[t.Name] = t.Lineage
	}
	return lineages, nil
}

// readSnapshot reads the snapshot with a number. It returns a function that makes the tables what it
// has, and the lineages.
func (f *feed) readSnapshot(ctx context.Context, number uint64) (reset func(tx *changefeed.Tx) error, lineages begin, err error) {
	object, err := f.snapshots.Get(ctx, snapshotName(number))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, object.Close()) }()
	r := bufio.NewReaderSize(object, 128<<10)
	s, err := readHeader(r)
	if err != nil {
		return nil, nil, fmt.Errorf("the snapshot %d is damaged: %w", number, err)
	}
	lineages = make(begin)
	var resets []func(tx *changefeed.Tx) error
	for i := range s.Tables {
		t := &s.Tables[i]
		table := f.named[t.Name]
		if table == nil {
			return nil, nil, fmt.Errorf("table %q: it is published, but was not passed to Follow", t.Name)
		}
		reset, err := table.read(t, r)
		if err != nil {
			return nil, nil, err
		}
		resets = append(resets, reset)
		lineages[t.Name] = t.Lineage
	}
	if _, err := r.Peek(1); err != io.EOF { // only at the end is the digest of the object checked
		if err == nil {
			err = errors.New("it is too long")
		}
		return nil, nil, fmt.Errorf("the snapshot %d is damaged: %w", number, err)
	}
	for name := range f.named {
		if lineages[name] == nil {
			return nil, nil, fmt.Errorf("table %q: it is not published", name)
		}
	}
	return func(tx *changefeed.Tx) error {
		for _, reset := range resets {
			if err := reset(tx); err != nil {
				return err
			}
		}
		return nil
	}, lineages, nil
}

func readHeader(r *bufio.Reader) (s *snapshot, err error) {
	length, err := binary.ReadUvarint(r)
	if err == nil && length > maxRow {
		err = errors.New("the header is too long")
	}
	if err != nil {
		return nil, err
	}
	header := make([]byte, length)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	s = new(snapshot)
	if err := json.Unmarshal(header, s); err != nil {
		return nil, err
	}
	if s.Format != formatVersion {
		return nil, fmt.Errorf("the format has version %d, and not %d", s.Format, formatVersion)
	}
	return s, nil
}
