package contest

import (
	"iter"
	"sync"
)

// A change is the message that code written by hand passes to its readers.
type change struct{ old, new *Row }

// tell adds the change to t.
func (c change) tell(t *Tally) {
	if c.new == nil {
		t.Gone()
	} else {
		t.See(c.new.Version)
	}
}

// byHand is the usual code written by hand: a map and a lock. publish, which is called
// under the lock, passes changes to the readers.
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

// UpdateAll is the nearest thing to a transaction. It cannot be rolled back.
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

// All copies the map's pointers, because a loop under the lock would delay writers by
// everything that its body does.
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
