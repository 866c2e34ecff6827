package contest

import (
	"iter"
	"sync"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// StateDB is Cilium's. Readers loop over Next of Table.Changes and wait for its watch
// channel, as in its README. They receive all changes since the last call together. Its
// README proposes a rate limit for tables with much traffic. There is none here, because
// changes would arrive later, and more of them would be merged.
var StateDB = Contestant{
	Name:   "statedb",
	Module: "github.com/cilium/statedb",
	Traits: Traits{
		Use:     "`Modify` and commit; readers loop over `Changes`, `Next` and the watch channel",
		Old:     "no",
		Feed:    "several changes of a row come as one",
		Slow:    "gets the newest state; deleted rows are kept for it",
		Initial: "`Changes` begins with them: a snapshot, no gap, nothing double",
		OneKey:  "`GetWatch`, as often as it closes",
		Merges:  true,
	},
	Open: openStateDB,
}

var stateKey = statedb.Index[*Row, int]{
	Name:       "key",
	FromObject: func(r *Row) index.KeySet { return index.NewKeySet(index.Int(r.Key)) },
	FromKey:    index.Int,
	Unique:     true,
}

// TableHeader implements an interface that statedb requires of a row.
func (*Row) TableHeader() []string { return []string{"Text"} }

// TableRow implements an interface that statedb requires of a row.
func (r *Row) TableRow() []string { return []string{r.Text} }

type stateTable struct {
	db    *statedb.DB
	table statedb.RWTable[*Row]
}

func openStateDB() Store {
	db := statedb.New()
	table, err := statedb.NewTable(db, "rows", stateKey)
	must(err)
	must(db.Start()) // starts the collector of deleted rows
	return &stateTable{db, table}
}

// write runs f in a transaction.
func (t *stateTable) write(f func(txn statedb.WriteTxn)) {
	txn := t.db.WriteTxn(t.table)
	defer txn.Abort() // does nothing after Commit
	f(txn)
	txn.Commit()
}

func (t *stateTable) Load(rows []Row) {
	t.write(func(txn statedb.WriteTxn) {
		for _, row := range rows {
			t.put(txn, row)
		}
	})
}

func (t *stateTable) Insert(row Row) {
	t.write(func(txn statedb.WriteTxn) { t.put(txn, row) })
}

func (t *stateTable) put(txn statedb.WriteTxn, row Row) {
	_, _, err := t.table.Insert(txn, &row)
	must(err)
}

func (t *stateTable) Update(key, version int) {
	t.write(func(txn statedb.WriteTxn) { t.modify(txn, key, version) })
}

func (t *stateTable) UpdateAll(keys []int, version int) {
	t.write(func(txn statedb.WriteTxn) {
		for i, key := range keys {
			t.modify(txn, key, version+i)
		}
	})
}

func (t *stateTable) modify(txn statedb.WriteTxn, key, version int) {
	_, _, err := t.table.Modify(txn, &Row{Key: key, Version: version}, func(old, new *Row) *Row {
		new.Text = old.Text
		return new
	})
	must(err)
}

func (t *stateTable) Delete(key int) {
	t.write(func(txn statedb.WriteTxn) {
		_, _, err := t.table.Delete(txn, &Row{Key: key})
		must(err)
	})
}

func (t *stateTable) Get(key int) (Row, bool) {
	row, _, ok := t.table.Get(t.db.ReadTxn(), stateKey.Query(key))
	if !ok {
		return Row{}, false
	}
	return *row, true
}

func (t *stateTable) All() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for row := range t.table.All(t.db.ReadTxn()) {
			if !yield(*row) {
				return
			}
		}
	}
}

func (t *stateTable) Follow() Feed {
	f := t.FollowPresent().(*stateFeed)
	for range f.initial() { // a new iterator begins with the present rows
	}
	f.present = nil
	return f
}

func (t *stateTable) FollowPresent() Feed {
	txn := t.db.WriteTxn(t.table)
	changes, err := t.table.Changes(txn)
	must(err)
	return &stateFeed{db: t.db, changes: changes, present: txn.Commit(), closed: make(chan struct{})}
}

func (t *stateTable) FollowKey(key int) Feed {
	f := &stateKeyFeed{db: t.db, table: t.table, query: stateKey.Query(key), closed: make(chan struct{})}
	_, _, f.watch, _ = t.table.GetWatch(t.db.ReadTxn(), f.query)
	return f
}

func (t *stateTable) Close() { must(t.db.Stop()) }

type stateFeed struct {
	db      *statedb.DB
	changes statedb.ChangeIterator[*Row]
	present statedb.ReadTxn // the rows at the start, until they are read
	closed  chan struct{}
	reading sync.Mutex // keeps the iterator from being closed while it is read
}

func (f *stateFeed) initial() iter.Seq2[statedb.Change[*Row], statedb.Revision] {
	rows, _ := f.changes.Next(f.present)
	return rows
}

func (f *stateFeed) Read(t *Tally) {
	f.reading.Lock()
	defer f.reading.Unlock()
	if f.present != nil {
		for row := range f.initial() {
			t.Was(row.Object.Version)
		}
		t.Ready()
		f.present = nil
	}
	for {
		some := false
		changes, watch := f.changes.Next(f.db.ReadTxn())
		for change := range changes {
			some = true
			if change.Deleted {
				t.Gone()
			} else {
				t.See(change.Object.Version)
			}
		}
		if some && !t.More() {
			return
		}
		select {
		case <-watch:
		case <-f.closed:
			return
		}
	}
}

func (f *stateFeed) Close() {
	close(f.closed)
	f.reading.Lock()
	defer f.reading.Unlock()
	f.changes.Close()
}

type stateKeyFeed struct {
	db     *statedb.DB
	table  statedb.Table[*Row]
	query  statedb.Query[*Row]
	watch  <-chan struct{}
	closed chan struct{}
}

func (f *stateKeyFeed) Read(t *Tally) {
	for {
		select {
		case <-f.watch:
		case <-f.closed:
			return
		}
		var row *Row
		var ok bool
		if row, _, f.watch, ok = f.table.GetWatch(f.db.ReadTxn(), f.query); ok {
			t.See(row.Version)
		} else {
			t.Gone()
		}
		if !t.More() {
			return
		}
	}
}

func (f *stateKeyFeed) Close() { close(f.closed) }
