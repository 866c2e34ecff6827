package natsfeed

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A snapshot is an object with the rows of all tables at one moment, and their newest commits. It
// begins with the length of its header and the header, as JSON. Then come the rows and the commits of
// each table: see rows.write. The object's name is a place in the log. The messages up to that one are
// in the rows. Later ones may be, too.
type snapshot struct {
	Format int             `json:"format"`
	Tables []tableSnapshot `json:"tables"`
}

type tableSnapshot struct {
	Name    string  `json:"name"`
	Version int     `json:"version"`
	Lineage lineage `json:"lineage"`
	Rows    int     `json:"rows"`
}

func (s *snapshot) lineages() lineages {
	ls := make(lineages)
	for _, t := range s.Tables {
		ls[t.Name] = t.Lineage
	}
	return ls
}

// ends returns the positions of the rows.
func (s *snapshot) ends() (ends []changefeed.Position) {
	for _, t := range s.Tables {
		ends = append(ends, t.Lineage.last())
	}
	return ends
}

// A transfer is the context of writing or reading a snapshot. It ends if JetStream takes or gives
// nothing for some time. nats.go itself does not notice that a part was sent to a server that is lost.
type transfer struct {
	context.Context
	timer *time.Timer // runs while JetStream has to do something
	end   context.CancelFunc
}

const maxStall = 5 * time.Second

var errStalled = fmt.Errorf("the transfer of a snapshot has stalled: %w", nats.ErrTimeout)

func newTransfer(ctx context.Context) *transfer {
	ctx, cancel := context.WithCancelCause(ctx)
	return &transfer{ctx, time.AfterFunc(maxStall, func() { cancel(errStalled) }), func() { cancel(nil) }}
}

// Deadline returns a time that is always soon. While nats.go waits for a part of an object, it does not
// notice that the context has ended, but it waits no longer than until its deadline.
func (t *transfer) Deadline() (deadline time.Time, ok bool) { return time.Now().Add(heartbeat), true }

func (t *transfer) start() { t.timer.Reset(maxStall) }

func (t *transfer) pause() { t.timer.Stop() }

// failure returns the reason why the context has ended, instead of an error that came of it.
func (t *transfer) failure(err error) error {
	if err != nil && t.Err() != nil {
		return context.Cause(t)
	}
	return err
}

// A transferWriter and a transferReader run the timer of a transfer while they write and read.
type transferWriter struct {
	io.Writer
	*transfer
}

func (w transferWriter) Write(p []byte) (int, error) {
	w.start()
	defer w.pause()
	return w.Writer.Write(p)
}

type transferReader struct {
	io.Reader
	*transfer
}

func (r transferReader) Read(p []byte) (int, error) {
	r.start()
	defer r.pause()
	for {
		n, err := r.Reader.Read(p)
		if n > 0 || r.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// writeSnapshot writes a snapshot of the tables, which have the messages up to a place. Before the
// snapshot can be seen, it calls confirm.
func (f *feed) writeSnapshot(ctx context.Context, after place, confirm func(s *snapshot) error) error {
	t := newTransfer(ctx)
	defer t.end()
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := changefeed.Read(func(tx *changefeed.Tx) error {
			s, err := f.writeRows(tx, transferWriter{w, t})
			if err != nil {
				return err
			}
			return confirm(s)
		}, f.anyTables()...)
		written <- err
		t.start()
		_ = w.CloseWithError(err) // io.EOF if it is nil
	}()
	_, err := f.snapshots.Put(t, jetstream.ObjectMeta{
		Name: after.String(),
		Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(min(128<<10, f.js.Conn().MaxPayload()/2))},
	}, r)
	err = t.failure(err)
	_ = r.CloseWithError(err) // so that nobody writes any more
	return cmp.Or(<-written, err)
}

func (p place) String() string { return fmt.Sprintf("%d-%d", p.term, p.sequence) }

func parsePlace(text string) (p place, ok bool) {
	_, _ = fmt.Sscanf(text, "%d-%d", &p.term, &p.sequence)
	return p, p.String() == text // whatever was wrong, the text of p is another one
}

func (f *feed) writeRows(tx *changefeed.Tx, to io.Writer) (s *snapshot, err error) {
	w := bufio.NewWriterSize(to, 128<<10)
	s = &snapshot{Format: formatVersion}
	for _, t := range f.tables {
		s.Tables = append(s.Tables, tableSnapshot{t.any().Name(), t.version(), t.lineageIn(tx), t.lenIn(tx)})
	}
	header, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(appendBytes(nil, header)); err != nil {
		return nil, err
	}
	for _, t := range f.tables {
		if err := t.write(tx, w); err != nil {
			return nil, fmt.Errorf("table %q: %w", t.any().Name(), err)
		}
	}
	return s, w.Flush()
}

// snapshotPlaces returns the places of the snapshots, the newest first.
func (f *feed) snapshotPlaces(ctx context.Context) (places []place, err error) {
	err = f.persist(ctx, func(ctx context.Context) error {
		places = nil
		objects, err := f.snapshots.List(ctx)
		if errors.Is(err, jetstream.ErrNoObjectsFound) {
			return nil
		}
		for _, o := range objects {
			if p, ok := parsePlace(o.Name); ok {
				places = append(places, p)
			}
		}
		return err
	})
	slices.SortFunc(places, func(p, q place) int { return q.compare(p) })
	return places, err
}

// deleteSnapshots deletes the snapshots but the newest two, and the messages that the older one of
// these has.
func (f *feed) deleteSnapshots(ctx context.Context) error {
	places, err := f.snapshotPlaces(ctx)
	if err != nil || len(places) < 2 {
		return err
	}
	for _, p := range places[2:] {
		if err := f.snapshots.Delete(ctx, p.String()); err != nil {
			return err
		}
	}
	return f.stream.Purge(ctx, jetstream.WithPurgeSequence(min(places[0].sequence, places[1].sequence)+1))
}

// openSnapshot opens the newest snapshot. If there is none from a place on, it returns
// errNotPublished.
func (f *feed) openSnapshot(ctx context.Context, from place) (r *snapshotReader, err error) {
	places, err := f.snapshotPlaces(ctx)
	if err != nil {
		return nil, err
	}
	if len(places) == 0 || places[0].compare(from) < 0 {
		return nil, errNotPublished
	}
	r = &snapshotReader{transfer: newTransfer(ctx), store: f.snapshots, at: places[0]}
	r.object, err = r.store.Get(r.transfer, r.at.String())
	if err != nil {
		r.end()
		return nil, r.failure(err)
	}
	r.from = bufio.NewReaderSize(transferReader{r.object, r.transfer}, 128<<10)
	if err := r.readHeader(); err != nil {
		return nil, r.close(ctx, err)
	}
	return r, nil
}

// A snapshotReader reads a snapshot. The caller closes it.
type snapshotReader struct {
	snapshot
	*transfer
	store  jetstream.ObjectStore
	at     place
	object jetstream.ObjectResult
	from   *bufio.Reader
}

// close closes the snapshot, and returns the reason for an error of reading it.
func (r *snapshotReader) close(ctx context.Context, err error) error {
	err = r.failure(err)
	_ = r.object.Close()
	r.end()
	if err != nil {
		if _, e := r.store.GetInfo(ctx, r.at.String()); errors.Is(e, jetstream.ErrObjectNotFound) {
			err = e // it was deleted meanwhile
		}
		return fmt.Errorf("the snapshot %v: %w", r.at, err)
	}
	return nil
}

func (r *snapshotReader) readHeader() error {
	length, err := binary.ReadUvarint(r.from)
	if err == nil && length > maxRow {
		err = errors.New("the header is too long")
	}
	if err != nil {
		return err
	}
	header, err := readBytes(r.from, length, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(header, &r.snapshot); err != nil {
		return err
	}
	if r.Format != formatVersion {
		return fmt.Errorf("the format has version %d, and not %d", r.Format, formatVersion)
	}
	for _, t := range r.Tables {
		if len(t.Lineage) == 0 {
			return fmt.Errorf("table %q has no lineage", t.Name)
		}
	}
	return nil
}

// readRows reads the rest of a snapshot. It returns a function that makes the tables what it has.
func (f *feed) readRows(r *snapshotReader) (reset func(tx *changefeed.Tx) error, err error) {
	present := r.lineages()
	for name := range f.named {
		if present[name] == nil {
			return nil, fmt.Errorf("table %q: it is not published", name)
		}
	}
	var resets []func(tx *changefeed.Tx) error
	for i := range r.Tables {
		t := &r.Tables[i]
		table := f.named[t.Name]
		if table == nil {
			return nil, fmt.Errorf("table %q: it is published, but was not passed to Follow", t.Name)
		}
		reset, err := table.read(t, r.from)
		if err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		resets = append(resets, reset)
	}
	if _, err := r.from.Peek(1); err != io.EOF { // only at the end is the digest of the object checked
		if err == nil {
			err = errors.New("it is too long")
		}
		return nil, err
	}
	return func(tx *changefeed.Tx) error {
		for _, reset := range resets {
			if err := reset(tx); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
