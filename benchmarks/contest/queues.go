package contest

import (
	"slices"
	"sync"
)

// Queues is a map, a mutex and an unbounded queue for each reader. The reader takes
// everything that is in its queue at once.
var Queues = Contestant{
	Name: "queues",
	Traits: Traits{
		Use:     "by hand: map, mutex, a slice a reader, who takes all that is in it",
		Old:     "yes",
		Feed:    "every change, in order",
		Slow:    "its queue grows without bound",
		Initial: "a copy made under the lock",
		OneKey:  "a map from key to queues",
	},
	Open: func() Store {
		t := &queueTable{byHand: byHand{rows: make(map[int]*Row)}, keys: make(map[int][]*queue)}
		t.publish = func(key int, c change) {
			for _, q := range t.all {
				q.push(c)
			}
			for _, q := range t.keys[key] {
				q.push(c)
			}
		}
		return t
	},
}

type queueTable struct {
	byHand
	all  []*queue
	keys map[int][]*queue
}

// A queue holds the unread changes of one reader.
type queue struct {
	mu      sync.Mutex
	some    sync.Cond
	changes []change
	closed  bool
}

func newQueue() *queue {
	q := new(queue)
	q.some.L = &q.mu
	return q
}

func (q *queue) push(c change) {
	q.mu.Lock()
	q.changes = append(q.changes, c)
	q.mu.Unlock()
	q.some.Signal()
}

// take waits until the queue has changes, takes all of them, and leaves the empty slice
// spare there. It returns nil when the queue is closed.
func (q *queue) take(spare []change) []change {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.changes) == 0 && !q.closed {
		q.some.Wait()
	}
	if q.closed {
		return nil
	}
	changes := q.changes
	q.changes = spare
	return changes
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.some.Signal()
}

func (t *queueTable) Follow() Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.followLocked()
}

func (t *queueTable) FollowPresent() Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.followLocked()
	f.present = t.rowsLocked()
	return f
}

func (t *queueTable) followLocked() *queueFeed {
	f := &queueFeed{table: t, key: everything, queue: newQueue()}
	t.all = append(t.all, f.queue)
	return f
}

func (t *queueTable) FollowKey(key int) Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &queueFeed{table: t, key: key, queue: newQueue()}
	t.keys[key] = append(t.keys[key], f.queue)
	return f
}

type queueFeed struct {
	table   *queueTable
	key     int
	queue   *queue
	spare   []change // the slice that was taken last, emptied
	present []*Row   // the rows at the start, until they are read
}

func (f *queueFeed) Read(t *Tally) {
	if f.present != nil {
		for _, row := range f.present {
			t.Was(row.Version)
		}
		t.Ready()
		f.present = nil
	}
	for {
		changes := f.queue.take(f.spare[:0])
		if changes == nil {
			return
		}
		for _, c := range changes {
			c.tell(t)
		}
		clear(changes) // otherwise the queue would retain old rows
		if f.spare = changes; !t.More() {
			return
		}
	}
}

func (f *queueFeed) Close() {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	without := func(queues []*queue) []*queue {
		return slices.DeleteFunc(queues, func(q *queue) bool { return q == f.queue })
	}
	if f.key == everything {
		f.table.all = without(f.table.all)
	} else if f.table.keys[f.key] = without(f.table.keys[f.key]); len(f.table.keys[f.key]) == 0 {
		delete(f.table.keys, f.key)
	}
	f.queue.close()
}
