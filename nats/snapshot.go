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
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/seed-637b77f9/changefeed"
)

// A snapshot has the rows of all tables at one moment, and their newest commits. It begins with the
// length of its header and the header, as JSON. Then come the rows and the commits of each table: see
// rows.write. All of this is cut into parts, which are messages of a stream of their own. A part begins
// with its number. After the last part comes a message that says how many there are.
//
// It does not matter if an attempt to send a message succeeds although it seemed to fail. The message is
// then there twice, and whoever reads it passes over the second one.
type snapshot struct {
	Tables []tableSnapshot `json:"tables"`
}

// A snapshotEnd is the last message of a snapshot, as JSON.
type snapshotEnd struct {
	Format int    `json:"format"`
	Parts  uint64 `json:"parts"`
}

type tableSnapshot struct {
	Name    string  `json:"name"`
	Version int     `json:"version"`
	Lineage lineage `json:"lineage"`
	Rows    int     `json:"rows"`
}

// A snapshotName is the name of a snapshot, which no other one has. The messages of the log up to the
// place are in the rows. Later ones may be, too.
type snapshotName struct {
	place
	id randomID // of this attempt to make a snapshot
}

func (n snapshotName) String() string { return fmt.Sprintf("%d-%d-%x", n.term, n.sequence, n.id) }

func parseSnapshotName(text string) (n snapshotName, ok bool) {
	var id []byte
	_, _ = fmt.Sscanf(text, "%d-%d-%x", &n.term, &n.sequence, &id)
	copy(n.id[:], id)
	return n, n.String() == text // whatever was wrong, the text of n is another one
}

// The subjects of a snapshot's messages are the feed's subject, inSnapshots, its name, and one of these.
const (
	inSnapshots = ".snapshots."
	partSubject = ".part"
	endSubject  = ".end"
)

func (f *feed) snapshotSubject(n snapshotName) string { return f.subject + inSnapshots + n.String() }

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

// maxPart is the size in bytes of a part.
const maxPart = 256 << 10

// writeSnapshot writes a snapshot of the tables, which have the messages up to a place. Before the
// snapshot can be seen, it calls confirm.
func (f *feed) writeSnapshot(ctx context.Context, after place, confirm func(s *snapshot) error) error {
	subject := f.snapshotSubject(snapshotName{after, newRandomID()})
	return changefeed.Read(func(tx *changefeed.Tx) error {
		w := &partWriter{f, ctx, subject + partSubject, min(maxPart, int(f.js.Conn().MaxPayload())/2), 0}
		s, err := f.writeRows(tx, w)
		if err != nil {
			return err
		}
		if err := confirm(s); err != nil {
			return err
		}
		info, err := f.snapshots.Info(ctx, jetstream.WithSubjectFilter(w.subject))
		if err == nil && info.State.Subjects[w.subject] < w.number {
			err = errIncomplete // somebody has deleted the stream meanwhile
		}
		if err != nil {
			return err
		}
		end, err := json.Marshal(snapshotEnd{formatVersion, w.number})
		if err != nil {
			return err
		}
		return f.put(ctx, subject+endSubject, end)
	}, f.anyTables()...)
}

// put adds a message to the stream of the snapshots. It tries until it succeeds, or ctx ends.
func (f *feed) put(ctx context.Context, subject string, data []byte) error {
	return f.persist(ctx, func(short context.Context) error {
		_, err := f.js.PublishMsg(short, &nats.Msg{Subject: subject, Data: data})
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			f.reopen(ctx) // somebody may have deleted the stream
		}
		return err
	})
}

// A partWriter writes what it gets as the parts of a snapshot.
type partWriter struct {
	*feed
	ctx     context.Context
	subject string
	size    int
	number  uint64 // of the last part
}

func (w *partWriter) Write(data []byte) (n int, err error) {
	for chunk := range slices.Chunk(data, w.size) {
		w.number++
		part := append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(chunk)), w.number), chunk...)
		if err := w.put(w.ctx, w.subject, part); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

func (f *feed) writeRows(tx *changefeed.Tx, to *partWriter) (s *snapshot, err error) {
	w := bufio.NewWriterSize(to, to.size)
	s = new(snapshot)
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

// A listedSnapshot says which messages of a snapshot there are.
type listedSnapshot struct {
	snapshotName
	parts uint64 // at most: one that is there twice counts twice
	ended bool
}

// listSnapshots returns the snapshots, the newest first.
func (f *feed) listSnapshots(ctx context.Context) (list []*listedSnapshot, err error) {
	var info *jetstream.StreamInfo
	err = f.persist(ctx, func(ctx context.Context) (err error) {
		info, err = f.snapshots.Info(ctx, jetstream.WithSubjectFilter(f.subject+inSnapshots+">"))
		return err
	})
	if err != nil {
		return nil, err
	}
	named := make(map[snapshotName]*listedSnapshot)
	for subject, count := range info.State.Subjects {
		text, isPart := strings.CutSuffix(strings.TrimPrefix(subject, f.subject+inSnapshots), partSubject)
		text, isEnd := strings.CutSuffix(text, endSubject)
		name, ok := parseSnapshotName(text)
		if !ok {
			continue
		}
		l := named[name]
		if l == nil {
			l = &listedSnapshot{snapshotName: name}
			named[name], list = l, append(list, l)
		}
		if isPart {
			l.parts = count
		}
		l.ended = l.ended || isEnd
	}
	slices.SortFunc(list, func(a, b *listedSnapshot) int { return b.compare(a.place) })
	return list, nil
}

// deleteSnapshots deletes the snapshots but the newest two that are complete, and the messages of the
// log that the older one of these has. A snapshot that somebody is making may be newer.
func (f *feed) deleteSnapshots(ctx context.Context) error {
	list, err := f.listSnapshots(ctx)
	if err != nil {
		return err
	}
	var kept []uint64
	for _, l := range list {
		if l.ended && len(kept) < 2 {
			kept = append(kept, l.sequence)
		} else if len(kept) > 0 {
			if err := f.snapshots.Purge(ctx, jetstream.WithPurgeSubject(f.snapshotSubject(l.snapshotName)+".>")); err != nil {
				return err
			}
		}
	}
	if len(kept) < 2 {
		return nil
	}
	return f.stream.Purge(ctx, jetstream.WithPurgeSequence(min(kept[0], kept[1])+1))
}

// errIncomplete says that there is a snapshot, but not all of it.
var errIncomplete = errors.New("parts of the snapshot are missing")

// errNotThere says that a server does not have a message of a snapshot yet, or not any more.
var errNotThere = errors.New("a message of the snapshot is missing")

// lacksSnapshot reports whether an error says that there is no snapshot that is complete. errNotThere
// does not say that.
func lacksSnapshot(err error) bool {
	return errors.Is(err, errNotPublished) || errors.Is(err, errIncomplete)
}

// openSnapshot opens the newest snapshot that is complete. If there is none from a place on, it returns
// errNotPublished or errIncomplete.
func (f *feed) openSnapshot(ctx context.Context, from place) (r *snapshotReader, err error) {
	list, err := f.listSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	none := errNotPublished
	for _, l := range list {
		if l.compare(from) < 0 {
			break
		}
		if !l.ended {
			continue
		}
		r = &snapshotReader{feed: f, ctx: ctx, snapshotName: l.snapshotName}
		if err := r.readEnd(); err != nil {
			return nil, r.failure(err)
		}
		if l.parts < r.end.Parts {
			none = r.failure(errIncomplete)
			continue
		}
		if err := r.readHeader(); err != nil {
			return nil, r.failure(err)
		}
		return r, nil
	}
	return nil, none
}

// A snapshotReader reads a snapshot. As an [io.Reader], it reads the parts.
type snapshotReader struct {
	*feed
	ctx context.Context
	snapshotName
	snapshot
	end    snapshotEnd
	from   *bufio.Reader // reads the parts
	number uint64        // of the last part
	last   uint64        // its sequence number
	rest   []byte        // of it
}

// failure returns the error for which the snapshot cannot be read.
func (r *snapshotReader) failure(err error) error {
	return fmt.Errorf("the snapshot %v: %w", r.snapshotName, err)
}

func (r *snapshotReader) readEnd() error {
	m, err := r.get(1, endSubject)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(m.Data, &r.end); err != nil {
		return err
	}
	if r.end.Format != formatVersion {
		return fmt.Errorf("the format has version %d, and not %d", r.end.Format, formatVersion)
	}
	return nil
}

func (r *snapshotReader) readHeader() error {
	r.from = bufio.NewReaderSize(r, maxPart)
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
	for _, t := range r.Tables {
		if len(t.Lineage) == 0 {
			return fmt.Errorf("table %q has no lineage", t.Name)
		}
	}
	return nil
}

// get returns the first message that has a subject, from a sequence number on.
func (r *snapshotReader) get(from uint64, subject string) (m *jetstream.RawStreamMsg, err error) {
	err = r.persist(r.ctx, func(ctx context.Context) (err error) {
		m, err = r.snapshots.GetMsg(ctx, from, jetstream.WithGetMsgSubject(r.feed.snapshotSubject(r.snapshotName)+subject))
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = errNotThere
	}
	return m, err
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.number == r.end.Parts {
			return 0, io.EOF
		}
		m, err := r.get(r.last+1, partSubject)
		if err != nil {
			return 0, err
		}
		r.last = m.Sequence
		if len(m.Data) < 8 {
			return 0, errors.New("a part is too short")
		}
		switch number := binary.BigEndian.Uint64(m.Data); {
		case number > r.number+1:
			return 0, errNotThere
		case number == r.number+1:
			r.number, r.rest = number, m.Data[8:]
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// readRows reads the rows of a snapshot. It returns a function that makes the tables what it has.
func (f *feed) readRows(s *snapshotReader) (reset func(tx *changefeed.Tx) error, err error) {
	present := s.lineages()
	for name := range f.named {
		if present[name] == nil {
			return nil, fmt.Errorf("table %q: it is not published", name)
		}
	}
	var resets []func(tx *changefeed.Tx) error
	for i := range s.Tables {
		t := &s.Tables[i]
		table := f.named[t.Name]
		if table == nil {
			return nil, fmt.Errorf("table %q: it is published, but was not passed to Follow", t.Name)
		}
		reset, err := table.read(t, s.from)
		if err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		resets = append(resets, reset)
	}
	if _, err := s.from.Peek(1); err != io.EOF {
		return nil, cmp.Or(err, errors.New("it is too long"))
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
