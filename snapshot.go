package changefeed

import (
	"cmp"
	"slices"
	"sync"
	"unsafe"
)

// A snapshot is the table as of a moment, which is a number that grows with each change. While
// it is open, a write that replaces a row keeps the earlier one in the row's cell. Readers of
// one moment share a snapshot.
//
// An earlier row is kept for the newest snapshot that is open when the row is replaced. When
// that snapshot closes, the row is handed down to the next older one, unless the cell has a
// row for it already. If nobody needs the row, it is dropped. So a cell has at most one
// earlier row for each snapshot that is open or closing.
type snapshot[K, V any] struct {
	set     *snapshots[K, V]
	moment  uint64
	readers int             // guarded by set.mu
	kept    [][]*cell[K, V] // the cells with a row for this snapshot, each once, up to roundSize together
}

// roundSize is the number of cells in which a closing snapshot drops rows before it lets
// writers have the table's lock.
const roundSize = 256

// A snapshots is the set of a table's open snapshots. It is changed with mu held, and the
// table's lock for reading. A writer, which holds the table's lock for writing, needs no mu.
type snapshots[K, V any] struct {
	table   *domainLock
	mu      sync.Mutex        // a leaf, held for a few steps, or for those of a round
	open    []*snapshot[K, V] // oldest first
	closing []*snapshot[K, V] // not open any more, with rows that are still kept
}

// take returns the snapshot of the table as it is at the moment. The table's lock must be held,
// and no transaction running. Each take is followed by a release.
func (l *snapshots[K, V]) take(moment uint64) *snapshot[K, V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.newest()
	if s == nil || s.moment != moment {
		s = &snapshot[K, V]{set: l, moment: moment}
		l.open = append(l.open, s)
	}
	s.readers++
	return s
}

// newest returns the newest open snapshot, or nil.
func (l *snapshots[K, V]) newest() *snapshot[K, V] {
	if n := len(l.open); n > 0 {
		return l.open[n-1]
	}
	return nil
}

// retain adds a reader. It returns false if the snapshot has none any more.
func (s *snapshot[K, V]) retain() bool {
	s.set.mu.Lock()
	defer s.set.mu.Unlock()
	if s.readers == 0 {
		return false
	}
	s.readers++
	return true
}

// release removes a reader. If it was the last one, the snapshot closes. release does not
// wait for the table's lock: a loop may end while its own goroutine holds it. If the lock is
// taken, or if there is more than one round to do, a goroutine closes the snapshot.
func (s *snapshot[K, V]) release() {
	if !s.set.removeReader(s) {
		return
	}
	if s.set.table.TryRLock() && !s.set.closeRound() {
		return
	}
	go func() {
		for more := true; more; {
			s.set.table.RLock()
			more = s.set.closeRound()
		}
	}()
}

// removeReader reports whether the reader was the last one.
func (l *snapshots[K, V]) removeReader(s *snapshot[K, V]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.readers--
	return s.readers == 0
}

// closeRound closes the snapshots without readers. It drops or hands down up to roundSize
// rows, and reports whether there are more. It unlocks the table.
func (l *snapshots[K, V]) closeRound() (more bool) {
	defer l.table.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = slices.DeleteFunc(l.open, func(s *snapshot[K, V]) bool {
		if s.readers == 0 && len(s.kept) > 0 {
			l.closing = append(l.closing, s)
		}
		return s.readers == 0
	})
	end := len(l.closing) - 1
	if end < 0 {
		return false
	}
	s := l.closing[end]
	older := l.nextOlder(s)
	last := len(s.kept) - 1
	for _, c := range s.kept[last] {
		c.handDown(s, older)
	}
	s.kept[last] = nil
	s.kept = s.kept[:last]
	if last == 0 {
		l.closing[end] = nil
		l.closing = l.closing[:end]
	}
	return len(l.closing) > 0
}

// nextOlder returns the newest of the open snapshots that are older than s, or nil.
func (l *snapshots[K, V]) nextOlder(s *snapshot[K, V]) *snapshot[K, V] {
	i, _ := slices.BinarySearchFunc(l.open, s.moment, func(o *snapshot[K, V], moment uint64) int { return cmp.Compare(o.moment, moment) })
	if i == 0 {
		return nil
	}
	return l.open[i-1]
}

// replace publishes a row in a cell, after it has kept the earlier one for the newest snapshot.
func (l *snapshots[K, V]) replace(c *cell[K, V], row *V) {
	if earlier := c.versions.Load(); l.needRow(earlier) {
		c.versions.Store(l.keep(c, earlier))
	}
	c.row.Store(row)
}

// needRow reports whether the published row of a cell is in the newest snapshot, given the
// cell's earlier rows.
func (l *snapshots[K, V]) needRow(earlier *version) bool {
	s := l.newest()
	return s != nil && (earlier == nil || earlier.keptFor.Load() < s.moment)
}

// keep returns a version of the cell's published row for the newest snapshot, before the
// earlier rows of the cell.
func (l *snapshots[K, V]) keep(c *cell[K, V], earlier *version) *version {
	s := l.newest()
	v := &version{row: unsafe.Pointer(c.row.Load())}
	v.keptFor.Store(s.moment)
	v.next.Store(earlier)
	s.addKept(c)
	return v
}

func (s *snapshot[K, V]) addKept(c *cell[K, V]) {
	last := len(s.kept) - 1
	if last < 0 || len(s.kept[last]) == roundSize {
		s.kept = append(s.kept, nil)
		last++
	}
	s.kept[last] = append(s.kept[last], c)
}

// handDown gives the row that is kept for s to the next older snapshot, or drops it if that
// has a row or is nil. Others may read the versions meanwhile. It makes no difference to
// them: no open snapshot lies between the two, and a version that is dropped still leads to
// the earlier ones.
func (c *cell[K, V]) handDown(s, older *snapshot[K, V]) {
	link := &c.versions
	for v := link.Load(); v.keptFor.Load() != s.moment; v = link.Load() {
		link = &v.next
	}
	v := link.Load()
	next := v.next.Load()
	if older != nil && (next == nil || next.keptFor.Load() < older.moment) {
		v.keptFor.Store(older.moment)
		older.addKept(c)
	} else {
		link.Store(next)
	}
}
