package durable

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/seed-637b77f9/changefeed"
	bolt "go.etcd.io/bbolt"
)

// A Store keeps tables in a file. Its methods can be called by any goroutine.
type Store struct {
	id       string // a name of its own, which is in the file
	path     string
	config   config
	members  []*member
	memberOf map[changefeed.AnyTable]*member
	stop     chan struct{} // closed by Close
	done     chan struct{} // closed when the follower has ended

	waiting atomic.Int64  // calls of Wait that wait
	urgent  chan struct{} // gets a value when one begins to wait

	mu      sync.Mutex
	changed chan struct{} // closed when something that Wait looks at has changed, and replaced
	attempt int           // the number of the attempt to write that began last
	err     error         // why that one, or the one before it, has failed, or nil
	failed  int           // the number of the attempt that err is of
	closed  bool          // Close was called
	ended   error         // what Close returns, once done is closed

	fileMu sync.RWMutex // guards file, which is replaced after a failure
	file   *file

	follower follower
}

// A member is a table of a store.
type member struct {
	Table
	name string

	rowsName, newestName []byte // of its buckets

	durable atomic.Pointer[lineageOnDisk]
	dropped atomic.Bool

	// The follower's.
	meta   tableMeta // as stored; its lineage is not modified
	next   tableMeta // with the changes of the batch
	commit int       // the last one with a change of the table
	until  changefeed.Position
}

// A lineageOnDisk is the lineage of the rows on disk.
type lineageOnDisk struct{ names []changefeed.Position }

// Open opens a file, or makes it, and restores the tables from it: their rows, sequence numbers
// and histories, and the newest changes that [Keep] asks for. From then on, the store writes all
// changes of the tables to the file.
//
// Tables that are in the file must be new: nobody has written to them, and nobody follows them. A
// table that is not in the file is added with the rows that it has. If a table cannot be restored,
// Open returns an error. All tables and the file are then as they were, except for what [Keep] does.
// If another store has the file open, Open tries for a second. Writers of the tables wait for Open.
//
// If the last store of the file was not closed, feeds may have seen changes that the file lacks.
// Therefore Open forks the histories then: see [changefeed.Table.Fork]. Positions of changes that
// the file lacks are refused from then on.
func Open(path string, tables []Table, opts ...Option) (*Store, error) {
	s := &Store{
		id: newHistoryID().String(), path: path, config: newConfig(opts), memberOf: make(map[changefeed.AnyTable]*member),
		stop: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}), urgent: make(chan struct{}, 1),
	}
	if err := s.open(tables); err != nil {
		return nil, fileError(path, err)
	}
	go s.run()
	return s, nil
}

func (s *Store) open(tables []Table) (err error) {
	if err := s.addMembers(tables); err != nil {
		return err
	}
	if s.file, err = openFile(s.path, true); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.file.db.Close())
		}
	}()
	if s.config.keep > 0 {
		for _, m := range s.members {
			m.retain(s.config.keep)
		}
	}
	err = changefeed.Transact(func(tx *changefeed.Tx) error {
		return s.file.guard(func() error {
			return s.file.db.Update(func(file *bolt.Tx) error { return s.restore(tx, file) })
		})
	}, s.tables()...)
	if err != nil {
		return err
	}
	s.committed()
	s.follow()
	// Changes that were made since the transaction are in no feed. After an error, run tries again.
	_ = s.catchUp()
	return nil
}

func (s *Store) addMembers(tables []Table) error {
	all, err := anyTables(tables)
	if err != nil {
		return err
	}
	for i, t := range tables {
		m := &member{Table: t, name: all[i].Name()}
		m.rowsName, m.newestName = rowsBucket(m.name), newestBucket(m.name)
		if m.name == "" {
			return errors.New("a table without a name")
		}
		if err := t.check(); err != nil {
			return tableError(m.name, err)
		}
		m.durable.Store(&lineageOnDisk{})
		s.members = append(s.members, m)
		s.memberOf[all[i]] = m
	}
	switch {
	case len(tables) == 0:
		return errors.New("no tables")
	case s.config.keep < 0:
		return fmt.Errorf("Keep(%d): must not be negative", s.config.keep)
	case s.config.buffer < 1:
		return fmt.Errorf("Buffer(%d): must be at least 1", s.config.buffer)
	}
	return nil
}

// tables returns the tables that were not dropped.
func (s *Store) tables() (tables []changefeed.AnyTable) {
	for _, m := range s.members {
		if !m.dropped.Load() {
			tables = append(tables, m.table())
		}
	}
	return tables
}

// restore restores the tables that are in the file, and marks the file as one that was not
// closed.
func (s *Store) restore(tx *changefeed.Tx, file *bolt.Tx) error {
	var meta storeMeta
	known, err := getMeta(file, storeBucket, storeKey, &meta)
	if err != nil {
		return err
	}
	const firstTx = 2 // of a file that is new
	switch first, _ := file.Cursor().First(); {
	case known && meta.Format != format, !known && first != nil:
		return ErrForeign
	case !known && file.ID() > firstTx:
		return fmt.Errorf("%w: it is empty", ErrDamaged)
	}
	if err := s.forgetTables(file, meta.Tables); err != nil {
		return err
	}
	for _, m := range s.members {
		ok, err := getMeta(file, tableBucket, []byte(m.name), &m.meta)
		switch {
		case err != nil:
			return err
		case slices.Contains(meta.Tables, m.name) && (!ok || len(m.meta.Lineage) == 0):
			return tableError(m.name, fmt.Errorf("%w: it has no history", ErrDamaged))
		case !ok: // it is new to the file
			if err := s.writePresent(tx, file, m, pruned(m.lineageIn(tx))); err != nil {
				return tableError(m.name, err)
			}
			continue
		}
		if !m.decodes(m.meta.Version) {
			return tableError(m.name, fmt.Errorf("%w %d; the present one is %d", ErrUnknownVersion, m.meta.Version, m.version()))
		}
		m.next = m.meta.clone()
		m.next.Version = m.version()
		if !meta.Clean {
			m.next.Lineage = pruned(append(slices.Clip(m.meta.Lineage), changefeed.Position{History: newHistoryID(), Seq: m.meta.at().Seq}))
		}
		if err := s.restoreTable(tx, file, m); err != nil {
			return tableError(m.name, err)
		}
		if err := putMeta(file, tableBucket, []byte(m.name), &m.next); err != nil {
			return err
		}
	}
	return putMeta(file, storeBucket, storeKey, s.meta(false))
}

// meta returns the storeMeta of the store.
func (s *Store) meta(clean bool) storeMeta {
	meta := storeMeta{Format: format, Clean: clean, Store: s.id}
	for _, m := range s.members {
		meta.Tables = append(meta.Tables, m.name)
	}
	return meta
}

// forgetTables deletes the tables that are to be forgotten. It returns an error for others that
// are not members.
func (s *Store) forgetTables(file *bolt.Tx, names []string) error {
	for _, name := range names {
		if slices.ContainsFunc(s.members, func(m *member) bool { return m.name == name }) {
			continue
		}
		if !slices.Contains(s.config.forget, name) {
			return tableError(name, ErrUnknownTable)
		}
		if err := errors.Join(file.Bucket(tableBucket).Delete([]byte(name)), deleteBucket(file, rowsBucket(name)), deleteBucket(file, newestBucket(name))); err != nil {
			return err
		}
	}
	return nil
}

func deleteBucket(file *bolt.Tx, name []byte) error {
	if file.Bucket(name) == nil {
		return nil
	}
	return file.DeleteBucket(name)
}

// restoreTable restores a table with the lineage of m.next.
func (s *Store) restoreTable(tx *changefeed.Tx, file *bolt.Tx, m *member) error {
	from := stored{lineage: m.next.Lineage, version: m.meta.Version}
	report := func(rows int) {
		if s.config.progress != nil {
			s.config.progress(Progress{Table: m.name, Rows: rows, Total: m.meta.Rows})
		}
	}
	from.rows = func(yield func(key, row []byte) bool) {
		n := 0
		report(n)
		for key, row := range s.file.checkedIn(file, m.rowsName, &from.err) {
			if !yield(key, row) {
				return
			}
			if n++; n%4096 == 0 {
				report(n)
			}
		}
		if from.err == nil && n != m.meta.Rows {
			from.err = fmt.Errorf("%w: it has %d rows of %d", ErrDamaged, n, m.meta.Rows)
		}
		report(n)
	}
	from.newest = func(yield func([]change) bool) {
		if s.config.keep > 0 && from.err == nil {
			s.file.newestCommits(file, m.newestName, m.meta.at().Seq, &from.err)(yield)
		}
	}
	s.file.user = true
	err := m.restore(tx, &from)
	s.file.user = false
	if errors.Is(err, changefeed.ErrNotEmpty) {
		return fmt.Errorf("make a new table for each Open: %w", err)
	}
	if err != nil {
		return err
	}
	if s.config.keep == 0 || m.meta.Version != m.version() {
		if err := deleteBucket(file, m.newestName); err != nil {
			return err
		}
	}
	return s.storeAgain(file, m, &from)
}

// storeAgain stores the rows and changes that restore has encoded again.
func (s *Store) storeAgain(file *bolt.Tx, m *member, from *stored) error {
	w, err := newTableWriter(file, m)
	if err != nil {
		return err
	}
	for _, move := range from.moves {
		if err := w.rows.Delete(move.old); err != nil {
			return err
		}
	}
	for _, move := range from.moves {
		if err := w.putRow(move.key, move.row); err != nil {
			return err
		}
	}
	for _, c := range from.changes {
		if err := w.keep(&c); err != nil {
			return err
		}
	}
	return w.putBlock()
}

// maxNames is the number of names of a history that a file keeps. Each unclean end adds one.
const maxNames = 1000

func pruned(lineage []changefeed.Position) []changefeed.Position {
	return lineage[max(0, len(lineage)-maxNames):]
}

func newHistoryID() (id changefeed.HistoryID) {
	_, _ = rand.Read(id[:]) // never fails: see crypto/rand
	return id
}

// Wait waits until the tables are on disk up to the positions, which are positions of tables of
// the store. A writer waits for its change with [changefeed.Table.At] and the Seq that the write
// has returned, or with the table's Position. Many writers that wait share one write to the disk.
// One position of a transaction stands for all of it. A write that changes nothing returns the Seq
// 0, for which Wait does not wait: if the row was written a moment ago, use the table's Position.
//
// If the next write to the disk fails, Wait returns the error. The store tries again every second,
// so a later Wait may succeed. Other errors are:
//
//   - the cause of ctx, if it is done
//   - [ErrClosed], if the store is closed before the position is on disk
//   - [changefeed.ErrOtherHistory], if a position is not in the history of a table
//   - [changefeed.ErrTableDropped], if the table was dropped before the position was on disk
//
// In Transact on one of the tables, Wait blocks forever, whatever ctx is. A Reset that keeps the
// names of the history gives old positions to new rows. Wait may then return before the new rows
// are on disk.
func (s *Store) Wait(ctx context.Context, positions ...changefeed.Position) error {
	for _, p := range positions {
		if err := s.wait(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) wait(ctx context.Context, p changefeed.Position) error {
	if p.IsZero() {
		return nil
	}
	found := false
	for _, m := range s.members { // replicas have the same history
		if has(m.durable.Load().names, p) {
			found = true
			continue
		}
		if !has(m.lineage(), p) {
			continue
		}
		found = true
		if err := s.waitFor(ctx, m, p); err != nil {
			return err
		}
	}
	if !found {
		return fileError(s.path, fmt.Errorf("%w: %v", changefeed.ErrOtherHistory, p))
	}
	return nil
}

// waitFor waits for a position of a table.
func (s *Store) waitFor(ctx context.Context, m *member, p changefeed.Position) error {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	s.mu.Lock()
	attempt := s.attempt // an error of this one may be of a row that was replaced since
	s.mu.Unlock()
	for {
		s.mu.Lock()
		changed, failed, err, ended := s.changed, s.failed, s.err, s.hasEnded()
		s.mu.Unlock()
		durable := m.durable.Load().names
		if has(durable, p) {
			return nil
		}
		live := m.lineage()
		switch {
		case isPruned(durable, live, p):
			return nil
		case err != nil && (failed > attempt || ended):
			return err
		case m.dropped.Load():
			return fileError(s.path, tableError(m.name, changefeed.ErrTableDropped))
		case ended:
			return fileError(s.path, ErrClosed)
		case !has(live, p): // the table was reset
			return fileError(s.path, fmt.Errorf("%w: %v", changefeed.ErrOtherHistory, p))
		}
		select {
		case s.urgent <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isPruned reports whether a position of a table has a name that is older than those on disk.
func isPruned(durable, live []changefeed.Position, p changefeed.Position) bool {
	is := func(id changefeed.HistoryID) func(changefeed.Position) bool {
		return func(name changefeed.Position) bool { return name.History == id }
	}
	return len(durable) == maxNames && has(live, p) &&
		slices.IndexFunc(live, is(p.History)) < slices.IndexFunc(live, is(durable[0].History))
}

// hasEnded reports whether nothing will be written any more.
func (s *Store) hasEnded() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// has reports whether a position is in a history.
func has(lineage []changefeed.Position, p changefeed.Position) bool {
	return slices.ContainsFunc(lineage, func(name changefeed.Position) bool {
		return name.History == p.History && p.Seq <= name.Seq
	})
}

// Close writes what is left, marks the file as one that was closed, and closes it. Nobody may
// write to the tables from then on: such changes would not be in the file, and the next store of
// the file would not know that somebody may have seen them. Close returns an error if something
// could not be written. A second call returns [ErrClosed].
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fileError(s.path, ErrClosed)
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	s.report(s.ended)
	return s.ended
}

// Backup writes a copy of the file, as it is on disk at one moment. The tables go on working. When
// the file must grow, the store waits for the end of the backup. Close waits, too. w must
// therefore not wait for the store. The copy can be opened as a file of its own. Since it may lack
// the last changes, [Open] forks its histories. w is not synced: write to a file of another name,
// sync and rename it.
func (s *Store) Backup(w io.Writer) error {
	s.fileMu.RLock()
	defer s.fileMu.RUnlock()
	if s.file == nil {
		return fileError(s.path, ErrClosed)
	}
	err := s.file.db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fileError(s.path, fmt.Errorf("backup: %w", err))
	}
	return nil
}

// report wakes everyone in Wait, with the error of the last attempt to write, or nil.
func (s *Store) report(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.failed = err, s.attempt
	close(s.changed)
	s.changed = make(chan struct{})
}
