package contest

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync"

	"github.com/hashicorp/go-memdb"
)

// MemDB is HashiCorp's. It has no feed. The list of changes that a transaction with
// TrackChanges returns is sent over channels, under a lock that keeps the order.
var MemDB = Contestant{
	Name:   "go-memdb",
	Module: "github.com/hashicorp/go-memdb",
	Traits: Traits{
		Use:     "`TrackChanges`; each commit's `Changes` sent whole over a channel of 1,024 a reader; an index of its own in place of a reflecting one",
		Old:     "yes",
		Feed:    "every change; those of a transaction by key, of one row as one",
		Slow:    "the writer waits for it",
		Initial: "a snapshot taken under the lock; the writer waits when the channel is full",
		OneKey:  "a map from key to channels",
		Waits:   true,
	},
	Open: openMemDB,
}

// A keyIndex indexes rows by key, in order.
type keyIndex struct{}

func (keyIndex) FromArgs(args ...any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments in place of a key", len(args))
	}
	key, ok := args[0].(int)
	if !ok {
		return nil, fmt.Errorf("%T in place of a key", args[0])
	}
	return binary.BigEndian.AppendUint64(nil, uint64(key)), nil
}

func (keyIndex) FromObject(obj any) (bool, []byte, error) {
	return true, binary.BigEndian.AppendUint64(nil, uint64(obj.(*Row).Key)), nil
}

const memTableName, memIndexName = "rows", "id"

type memTable struct {
	db *memdb.MemDB

	mu  sync.Mutex // keeps the changes in the order of the commits
	hub hub[memdb.Changes]
}

func openMemDB() Store {
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		memTableName: {Name: memTableName, Indexes: map[string]*memdb.IndexSchema{
			memIndexName: {Name: memIndexName, Unique: true, Indexer: keyIndex{}},
		}},
	}})
	must(err)
	return &memTable{db: db}
}

// write runs f in a transaction, and sends its changes to the readers.
func (t *memTable) write(f func(txn *memdb.Txn)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	txn := t.db.Txn(true)
	defer txn.Abort() // does nothing after Commit
	if !t.hub.followed() {
		f(txn)
		txn.Commit()
		return
	}
	txn.TrackChanges()
	f(txn)
	txn.Commit()
	changes := txn.Changes()
	t.hub.send(changes)
	if len(t.hub.keys) > 0 {
		for i, c := range changes {
			t.hub.sendKey(rowOf(c).Key, changes[i:i+1])
		}
	}
}

func rowOf(c memdb.Change) *Row {
	if c.Deleted() {
		return c.Before.(*Row)
	}
	return c.After.(*Row)
}

func (t *memTable) Load(rows []Row) {
	t.write(func(txn *memdb.Txn) {
		for _, row := range rows {
			must(txn.Insert(memTableName, &row))
		}
	})
}

func (t *memTable) Insert(row Row) {
	t.write(func(txn *memdb.Txn) { must(txn.Insert(memTableName, &row)) })
}

func (t *memTable) Update(key, version int) {
	t.write(func(txn *memdb.Txn) { update(txn, key, version) })
}

func (t *memTable) UpdateAll(keys []int, version int) {
	t.write(func(txn *memdb.Txn) {
		for i, key := range keys {
			update(txn, key, version+i)
		}
	})
}

func update(txn *memdb.Txn, key, version int) {
	old, err := txn.First(memTableName, memIndexName, key)
	must(err)
	row := *old.(*Row)
	row.Version = version
	must(txn.Insert(memTableName, &row))
}

func (t *memTable) Delete(key int) {
	t.write(func(txn *memdb.Txn) { must(txn.Delete(memTableName, &Row{Key: key})) })
}

func (t *memTable) Get(key int) (Row, bool) {
	row, err := t.db.Txn(false).First(memTableName, memIndexName, key)
	must(err)
	if row == nil {
		return Row{}, false
	}
	return *row.(*Row), true
}

func (t *memTable) All() iter.Seq[Row] { return memRows(t.db.Txn(false)) }

func memRows(txn *memdb.Txn) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		rows, err := txn.Get(memTableName, memIndexName)
		must(err)
		for row := rows.Next(); row != nil; row = rows.Next() {
			if !yield(*row.(*Row)) {
				return
			}
		}
	}
}

func (t *memTable) Follow() Feed { return t.FollowKey(everything) }

func (t *memTable) FollowKey(key int) Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &memFeed{table: t, key: key, changes: t.hub.follow(key)}
}

func (t *memTable) FollowPresent() Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &memFeed{table: t, key: everything, changes: t.hub.follow(everything), present: t.db.Txn(false)}
}

func (t *memTable) Close() {}

type memFeed struct {
	table   *memTable
	key     int
	changes chan memdb.Changes
	present *memdb.Txn // the rows at the start, until they are read
}

func (f *memFeed) Read(t *Tally) {
	if f.present != nil {
		for row := range memRows(f.present) {
			t.Was(row.Version)
		}
		t.Ready()
		f.present = nil
	}
	for changes := range f.changes {
		for i := range changes {
			if c := &changes[i]; c.Deleted() {
				t.Gone()
			} else {
				t.See(c.After.(*Row).Version)
			}
		}
		if !t.More() {
			return
		}
	}
}

func (f *memFeed) Close() { f.table.hub.leave(f.key, f.changes, &f.table.mu) }
