package contest

import (
	"iter"
	"sync"
)

// A change is what people hand to their readers.
type change struct{ old, new *Row }

// tell tells t of the change.
func (c change) tell(t *Tally) {
	if c.new == nil {
		t.Gone()
	} else {
		t.See(c.new.Version)
	}
}

// byHand is what people write by hand: a map and a lock. How changes get to readers
// is publish's affair, which is called under the lock.
type byHand struct {
	mu      sync.RWMutex
	rows    map[int]*Row
	publish func(key int, c change)
}

func (t *byHand) Load(rows []Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = make(map[int]*Row, len(rows))
	for _, row := range rows {
		t.rows[row.Key] = &row
	}
}

func (t *byHand) Insert(row Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[row.Key] = &row
	t.publish(row.Key, change{nil, &row})
}

func (t *byHand) Update(key, version int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.updateLocked(key, version)
}

// UpdateAll is what a transaction is by hand, without a way back.
func (t *byHand) UpdateAll(keys []int, version int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, key := range keys {
		t.updateLocked(key, version+i)
	}
}

func (t *byHand) updateLocked(key, version int) {
	old := t.rows[key]
	row := *old
	row.Version = version
	t.rows[key] = &row
	t.publish(key, change{old, &row})
}

func (t *byHand) Delete(key int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.rows[key]
	delete(t.rows, key)
	t.publish(key, change{old, nil})
}

func (t *byHand) Get(key int) (Row, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if row := t.rows[key]; row != nil {
		return *row, true
	}
	return Row{}, false
}

// All copies the map's pointers, for a loop under the lock delays writers by all that
// it does.
func (t *byHand) All() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		t.mu.RLock()
		rows := t.rowsLocked()
		t.mu.RUnlock()
		for _, row := range rows {
			if !yield(*row) {
				return
			}
		}
	}
}

func (t *byHand) rowsLocked() []*Row {
	rows := make([]*Row, 0, len(t.rows))
	for _, row := range t.rows {
		rows = append(rows, row)
	}
	return rows
}

func (t *byHand) Close() {}
