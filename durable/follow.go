package durable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seed-637b77f9/changefeed"
	bolt "go.etcd.io/bbolt"
)

// A batch is written while more changes are waiting, if it is one of these.
const (
	maxBatch     = 10_000   // changes
	maxAwaited   = 1000     // changes, while somebody waits
	maxBatchSize = 16 << 20 // bytes of rows
)

// A follower follows the tables, and writes their commits to the file in batches. It belongs to
// one goroutine, but first to Open.
type follower struct {
	feed   changefeed.Stream[changefeed.Commit]
	cancel context.CancelFunc
	wake   chan struct{}
	batch  []batchChange
	size   int  // of the rows in the batch, in bytes
	number int  // of the last commit that was added
	ending bool // Close waits
	behind bool // the file lacks changes that are not in the batch either
	reset  bool // rows may be others under the same position, because of a Reset
	failed bool // the last attempt to write has failed, so the file is to be opened again
}

type batchChange struct {
	change
	of         *member
	checkedRow []byte
}

// errDropped says that a table was dropped, so that the others are to be followed without it.
var errDropped = errors.New("a table was dropped")

// follow follows the tables that were not dropped.
func (s *Store) follow() {
	f := &s.follower
	if f.cancel != nil {
		f.cancel()
	}
	for _, m := range s.members {
		if m.isDropped() {
			m.dropped.Store(true)
		}
	}
	s.report(nil)
	if len(s.tables()) == 0 {
		f.feed, f.cancel, f.wake = func(func(changefeed.Commit, error) bool) {}, func() {}, nil
		return
	}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(context.Background())
	f.wake = make(chan struct{}, 1)
	f.feed = changefeed.Commits(ctx, s.tables(), changefeed.Named("durable"), changefeed.Buffer(s.config.buffer), changefeed.Poll(f.wake))
	f.behind = true
}

// run is the goroutine of the follower.
func (s *Store) run() {
	defer close(s.done)
	f := &s.follower
	defer func() { f.cancel() }()
	for {
		s.mu.Lock()
		s.attempt++
		s.mu.Unlock()
		err := s.write()
		wake, urgent := f.wake, s.urgent // a call of Wait may be for a name, without a change
		var retry <-chan time.Time
		if err != nil {
			err = fileError(s.path, err)
			s.report(err)
			if s.config.onError != nil {
				s.config.onError(err)
			}
			wake, urgent, retry = nil, nil, time.After(s.config.retry)
		}
		select {
		case <-wake:
		case <-urgent:
		case <-retry:
		case <-s.stop:
			s.ended = s.end()
			return
		}
	}
}

// end writes what is left, and closes the file.
func (s *Store) end() error {
	s.isEnding()
	err := s.write()
	if err == nil {
		err = s.update(s.markClean)
	}
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	err = errors.Join(err, s.file.db.Close())
	s.file = nil
	if err != nil {
		return fileError(s.path, err)
	}
	return nil
}

// markClean marks the file as closed. A dropped table whose last changes are not in the file is
// forked, because others may have seen them.
func (s *Store) markClean(file *bolt.Tx) error {
	for _, m := range s.members {
		if live := m.lineage(); m.dropped.Load() && live[len(live)-1].Seq != m.next.at().Seq {
			m.next.Lineage = pruned(append(m.next.Lineage, changefeed.Position{History: newHistoryID(), Seq: m.next.at().Seq}))
		}
		if err := putMeta(file, tableBucket, []byte(m.name), &m.next); err != nil {
			return err
		}
	}
	return putMeta(file, storeBucket, storeKey, s.meta(true))
}

// write writes all changes that there are.
func (s *Store) write() error {
	f := &s.follower
	if f.failed {
		if err := s.reopen(); err != nil {
			return err
		}
		f.failed = false
	}
	for {
		err := s.writeOnce()
		if errors.Is(err, errDropped) {
			s.follow()
			continue
		}
		return err
	}
}

// gatherTime is for how long changes are gathered that nobody waits for. The pages of the file are
// then written for more changes at a time, and writers are disturbed less.
const (
	gatherTime = 50 * time.Millisecond
	gatherStep = 5 * time.Millisecond
)

// writeOnce writes the changes that there are, and those that come while they are gathered.
func (s *Store) writeOnce() error {
	if s.follower.behind {
		if err := s.catchUp(); err != nil {
			return err
		}
	}
	if err := s.flush(); err != nil { // what could not be written before
		return err
	}
	for range gatherTime / gatherStep {
		if err := s.read(); err != nil {
			return err
		}
		if s.waiting.Load() > 0 || s.isEnding() {
			break
		}
		select {
		case <-time.After(gatherStep):
		case <-s.urgent:
		case <-s.stop:
		}
	}
	return s.flush()
}

// read adds the commits that there are to the batch. When the batch is large it is written.
func (s *Store) read() error {
	f := &s.follower
	for commit, err := range f.feed {
		if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			s.discard()
			f.reset = f.reset || skipped.Reset
			if err := s.catchUp(); err != nil {
				return err
			}
		} else if err != nil {
			if err := s.flush(); err != nil {
				return err
			}
			return errDropped
		}
		if err := s.add(commit); err != nil {
			s.discard()
			return err
		}
		if len(f.batch) >= maxBatch || f.size >= maxBatchSize || len(f.batch) >= maxAwaited && s.waiting.Load() > 0 {
			if err := s.flush(); err != nil {
				return err
			}
		}
		if s.isEnding() && !slices.ContainsFunc(s.members, (*member).isShort) {
			break // writers may go on for ever
		}
	}
	return nil
}

// isEnding reports whether Close was called.
func (s *Store) isEnding() bool {
	f := &s.follower
	if f.ending {
		return true
	}
	select {
	case <-s.stop:
	default:
		return false
	}
	f.ending = true
	for _, m := range s.members {
		l := m.lineage()
		m.until = l[len(l)-1]
	}
	return true
}

// isShort reports whether changes that were made before Close was called are to be added. A table
// that was reset since is not waited for.
func (m *member) isShort() bool {
	return !m.dropped.Load() && m.next.at().Seq < m.until.Seq && has(m.lineage(), m.until)
}

// discard discards the batch. The file is then behind.
func (s *Store) discard() {
	f := &s.follower
	clear(f.batch)
	f.batch, f.size = f.batch[:0], 0
	f.behind = true
	for _, m := range s.members {
		m.next = m.meta.clone()
	}
}

// add adds a commit to the batch. A commit that the file has already is left out.
func (s *Store) add(commit changefeed.Commit) error {
	f := &s.follower
	f.number++
	for i := range commit {
		c := &commit[i]
		m := s.memberOf[c.Table]
		at := c.Position()
		if has(m.next.Lineage, at) {
			continue
		}
		encoded, err := m.change(c)
		if err != nil {
			return tableError(m.name, err)
		}
		e := batchChange{change: encoded, of: m}
		e.first, m.commit = m.commit != f.number, f.number
		if e.row != nil {
			e.checkedRow = checked(m.rowsName, e.key, e.row)
			e.row = e.checkedRow[:len(e.row)] // one of them is enough
		}
		m.extend(at)
		f.batch = append(f.batch, e)
		f.size += len(e.row)
	}
	return nil
}

// extend makes the position of the next change the last one. Between it and the one before, the history
// may have got names without a change.
func (m *member) extend(at changefeed.Position) {
	if m.next.at().History != at.History {
		m.addNames()
	}
	if last := &m.next.Lineage[len(m.next.Lineage)-1]; last.History == at.History {
		last.Seq = at.Seq
	} else {
		m.next.Lineage = pruned(append(m.next.Lineage, at))
	}
}

// flush writes the batch in one transaction of the file.
func (s *Store) flush() error {
	f := &s.follower
	named := false // also by an attempt that has failed
	for _, m := range s.members {
		m.addNames()
		named = named || !slices.Equal(m.meta.Lineage, m.next.Lineage)
	}
	if len(f.batch) == 0 && !named {
		return nil
	}
	if err := s.update(s.writeBatch); err != nil {
		if !f.failed { // a stored row is damaged
			s.discard()
		}
		return err
	}
	s.committed()
	return nil
}

// addNames adds the names that the table's history has got since, up to the number of the last
// change in the batch. It does nothing if the table was reset meanwhile.
func (m *member) addNames() {
	live := m.lineage()
	if m.dropped.Load() || len(m.next.Lineage) == 0 || !has(live, m.next.at()) {
		return
	}
	seq := m.next.at().Seq
	for i, name := range live {
		if name.Seq > seq { // the name of the last change, or one that is later than that
			live[i].Seq = seq
			live = live[:i+1]
			break
		}
	}
	if live[len(live)-1] != m.next.at() {
		m.next.Lineage = pruned(live)
	}
}

func (s *Store) writeBatch(file *bolt.Tx) error {
	writers := make(map[*member]*tableWriter)
	for _, m := range s.members {
		m.next.Rows = m.meta.Rows
	}
	for i := range s.follower.batch {
		c := &s.follower.batch[i]
		w := writers[c.of]
		if w == nil {
			var err error
			if w, err = newTableWriter(file, c.of); err != nil {
				return err
			}
			writers[c.of] = w
		}
		if err := s.writeChange(w, c); err != nil {
			return tableError(c.of.name, err)
		}
	}
	for m, w := range writers {
		if err := errors.Join(w.putBlock(), w.deleteNewest(s.kept(m))); err != nil {
			return err
		}
	}
	for _, m := range s.members {
		if slices.Equal(m.meta.Lineage, m.next.Lineage) {
			continue
		}
		if err := putMeta(file, tableBucket, []byte(m.name), &m.next); err != nil {
			return err
		}
	}
	return nil
}

// kept returns the number of the first change that is kept, when the file has the batch.
func (s *Store) kept(m *member) uint64 {
	return max(m.next.at().Seq, uint64(s.config.keep)) - uint64(s.config.keep) + 1
}

func (s *Store) writeChange(w *tableWriter, c *batchChange) (err error) {
	if c.at.Seq >= s.kept(c.of) {
		if c.oldKey != nil {
			if c.old, err = w.row(c.oldKey); err != nil {
				return err
			}
		}
		if err := w.keep(&c.change); err != nil {
			return err
		}
		c.old = nil // not valid after the transaction
	}
	if c.oldKey != nil && !slices.Equal(c.oldKey, c.key) {
		if err := w.rows.Delete(c.oldKey); err != nil {
			return err
		}
	}
	switch {
	case c.oldKey == nil:
		c.of.next.Rows++
	case c.key == nil:
		c.of.next.Rows--
	}
	if c.key == nil {
		return nil
	}
	return w.rows.Put(c.key, c.checkedRow)
}

// catchUp writes the present rows of the tables of which the file does not have all changes. All
// of them are of one moment. The changes that the file keeps begin anew.
func (s *Store) catchUp() error {
	err := changefeed.Read(func(tx *changefeed.Tx) error {
		lineages := make(map[*member][]changefeed.Position)
		for _, m := range s.members {
			if m.dropped.Load() {
				continue
			}
			if m.isDropped() { // otherwise it was not when Read began
				return errDropped
			}
			if lineage := pruned(m.lineageIn(tx)); s.follower.reset || !slices.Equal(lineage, m.meta.Lineage) {
				lineages[m] = lineage
			}
		}
		if len(lineages) == 0 {
			return nil
		}
		return s.update(func(file *bolt.Tx) error {
			for m, lineage := range lineages {
				if err := s.writePresent(tx, file, m, lineage); err != nil {
					return tableError(m.name, err)
				}
			}
			return nil
		})
	}, s.tables()...)
	if err != nil {
		if !s.follower.failed {
			s.discard()
		}
		return err
	}
	s.follower.behind, s.follower.reset = false, false
	s.committed()
	return nil
}

func (s *Store) writePresent(tx *changefeed.Tx, file *bolt.Tx, m *member, lineage []changefeed.Position) error {
	if err := errors.Join(deleteBucket(file, m.rowsName), deleteBucket(file, m.newestName)); err != nil {
		return err
	}
	w, err := newTableWriter(file, m)
	if err != nil {
		return err
	}
	w.rows.FillPercent = 0.9 // they come in order
	m.next = tableMeta{Version: m.version(), Lineage: slices.Clone(lineage)}
	s.file.user = true
	err = m.present(tx, func(key, row []byte) error {
		s.file.user = false
		m.next.Rows++
		err := w.putRow(key, row)
		s.file.user = true
		return err
	})
	s.file.user = false
	if err != nil {
		return err
	}
	return putMeta(file, tableBucket, []byte(m.name), &m.next)
}

// update runs a transaction of the file. After an error of the disk, the next attempt begins
// with reopen.
func (s *Store) update(write func(file *bolt.Tx) error) error {
	var failed error
	err := s.file.guard(func() error {
		return s.file.db.Update(func(file *bolt.Tx) error {
			failed = write(file)
			return failed
		})
	})
	if err != nil && failed == nil {
		s.follower.failed = true
	}
	return err
}

// reopen opens the file again. After a failure it is not known whether the file has the batch, and
// the pages in memory may not be those of the file.
func (s *Store) reopen() error {
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	_ = s.file.db.Close()
	file, err := openFile(s.path, false)
	if err != nil {
		return err
	}
	s.file = file
	metas := make(map[*member]tableMeta)
	err = s.file.guard(func() error {
		return s.file.db.View(func(file *bolt.Tx) error {
			var meta storeMeta
			if _, err := getMeta(file, storeBucket, storeKey, &meta); err != nil {
				return err
			}
			if meta.Store != s.id {
				return fmt.Errorf("%w: it is not the one that was opened", ErrForeign)
			}
			for _, m := range s.members {
				var meta tableMeta
				if _, err := getMeta(file, tableBucket, []byte(m.name), &meta); err != nil {
					return err
				}
				metas[m] = meta
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	is := func(of func(m *member) tableMeta) bool {
		for m, meta := range metas {
			if !slices.Equal(meta.Lineage, of(m).Lineage) {
				return false
			}
		}
		return true
	}
	switch {
	case is(func(m *member) tableMeta { return m.meta }): // without the batch, or the present rows
		if s.follower.behind {
			s.discard()
		}
	case is(func(m *member) tableMeta { return m.next }):
		// Pages that could not be synced before may still be in memory only.
		if err := s.update(func(file *bolt.Tx) error { return putMeta(file, storeBucket, storeKey, s.meta(false)) }); err != nil {
			return err
		}
		s.committed()
	default:
		for m, meta := range metas {
			m.meta = meta
		}
		s.discard()
	}
	return nil
}

// committed records that the file has the batch.
func (s *Store) committed() {
	f := &s.follower
	clear(f.batch)
	f.batch, f.size = f.batch[:0], 0
	for _, m := range s.members {
		if len(m.next.Lineage) > 0 {
			m.meta, m.next = m.next, m.next.clone()
			m.durable.Store(&lineageOnDisk{m.meta.Lineage})
		}
	}
	s.report(nil)
}
