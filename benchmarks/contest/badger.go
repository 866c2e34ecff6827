package contest

import (
	"context"
	"encoding/binary"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
)

// Badger is Dgraph's, in memory. It stores bytes, so writing encodes a row, and reading
// decodes the parts that are needed. Features that cost time and are of no use here are
// off: conflict detection, because there is one writer, compression, and its cache.
var Badger = Contestant{
	Name:   "badger",
	Module: "github.com/dgraph-io/badger/v4",
	Traits: Traits{
		Use:     "in memory, no conflict detection, compression or metrics; readers in `Subscribe`'s callback; rows encoded as bytes",
		Old:     "no",
		Feed:    "every change; those of a transaction in any order, of one row as one",
		Slow:    "the writer and all other readers wait for it",
		Initial: "`Subscribe`, then a read transaction; its version tells what came twice",
		OneKey:  "`Subscribe` with the whole key as prefix",
		Waits:   true,
	},
	Open: openBadger,
}

// The first bytes of keys.
const (
	badgerRow   = 'r' // followed by the row's key
	badgerProbe = 'p' // followed by a byte: see badgerFeed
)

type badgerTable struct {
	db    *badger.DB
	feeds atomic.Int64 // number of feeds that have started
}

func openBadger() Store {
	db, err := badger.Open(badger.DefaultOptions("").
		WithInMemory(true).
		WithLogger(nil).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithCompression(options.None).
		WithBlockCacheSize(0))
	must(err)
	return &badgerTable{db: db}
}

func badgerKey(key int) []byte {
	return binary.BigEndian.AppendUint64([]byte{badgerRow}, uint64(key))
}

func encode(row Row) []byte {
	value := make([]byte, 0, 8+len(row.Text))
	return append(binary.BigEndian.AppendUint64(value, uint64(row.Version)), row.Text...)
}

func version(value []byte) int { return int(binary.BigEndian.Uint64(value)) }

func decode(key, value []byte) Row {
	return Row{Key: int(binary.BigEndian.Uint64(key[1:])), Version: version(value), Text: string(value[8:])}
}

func (t *badgerTable) Load(rows []Row) {
	batch := t.db.NewWriteBatch()
	defer batch.Cancel()
	for _, row := range rows {
		must(batch.Set(badgerKey(row.Key), encode(row)))
	}
	must(batch.Flush())
}

func (t *badgerTable) Insert(row Row) {
	must(t.db.Update(func(txn *badger.Txn) error { return txn.Set(badgerKey(row.Key), encode(row)) }))
}

func (t *badgerTable) Update(key, version int) {
	must(t.db.Update(func(txn *badger.Txn) error { return updateBytes(txn, key, version) }))
}

func (t *badgerTable) UpdateAll(keys []int, version int) {
	must(t.db.Update(func(txn *badger.Txn) error {
		for i, key := range keys {
			if err := updateBytes(txn, key, version+i); err != nil {
				return err
			}
		}
		return nil
	}))
}

func updateBytes(txn *badger.Txn, key, version int) error {
	k := badgerKey(key)
	item, err := txn.Get(k)
	if err != nil {
		return err
	}
	value, err := item.ValueCopy(nil)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(value, uint64(version))
	return txn.Set(k, value)
}

func (t *badgerTable) Delete(key int) {
	must(t.db.Update(func(txn *badger.Txn) error { return txn.Delete(badgerKey(key)) }))
}

func (t *badgerTable) Get(key int) (row Row, ok bool) {
	err := t.db.View(func(txn *badger.Txn) error {
		k := badgerKey(key)
		item, err := txn.Get(k)
		if err != nil {
			return err
		}
		return item.Value(func(value []byte) error {
			row = decode(k, value)
			return nil
		})
	})
	if err == badger.ErrKeyNotFound {
		return Row{}, false
	}
	must(err)
	return row, true
}

func (t *badgerTable) All() iter.Seq[Row] {
	return func(yield func(Row) bool) { t.all(yield) }
}

// all calls yield for each row, until it returns false, and returns the version that
// the rows show.
func (t *badgerTable) all(yield func(Row) bool) (at uint64) {
	must(t.db.View(func(txn *badger.Txn) error {
		at = txn.ReadTs()
		opts := badger.DefaultIteratorOptions
		opts.Prefix = []byte{badgerRow}
		items := txn.NewIterator(opts)
		defer items.Close()
		for items.Rewind(); items.Valid(); items.Next() {
			item, more := items.Item(), true
			if err := item.Value(func(value []byte) error {
				more = yield(decode(item.Key(), value))
				return nil
			}); err != nil || !more {
				return err
			}
		}
		return nil
	}))
	return at
}

func (t *badgerTable) Follow() Feed { return t.follow([]byte{badgerRow}, false) }

func (t *badgerTable) FollowPresent() Feed { return t.follow([]byte{badgerRow}, true) }

func (t *badgerTable) FollowKey(key int) Feed { return t.follow(badgerKey(key), false) }

func (t *badgerTable) Close() { must(t.db.Close()) }

// A badgerFeed reads in the callback of Subscribe. A reader may enter it late, so the
// callback waits for Read to pass it a tally. The only sign that a subscription has begun
// is that something arrives. Probes are written for that purpose, and reach few others.
type badgerFeed struct {
	table   *badgerTable
	present bool // the rows at the start are still to be read
	begins  sync.Once
	begun   chan struct{}
	tallies chan *Tally // from Read to the callback
	enough  chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	ended   chan struct{}
	probed  chan struct{} // closed when no more probes will be written

	// Used by the callback only.
	tally *Tally
	after uint64 // the version of the present rows
}

func (t *badgerTable) follow(prefix []byte, present bool) Feed {
	f := &badgerFeed{
		table:   t,
		present: present,
		begun:   make(chan struct{}),
		tallies: make(chan *Tally),
		enough:  make(chan struct{}),
		ended:   make(chan struct{}),
		probed:  make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	probe := []byte{badgerProbe, byte(t.feeds.Add(1))}
	go func() {
		defer close(f.ended)
		// It ends with the error of the context or of the callback, which are the same.
		_ = t.db.Subscribe(f.ctx, f.see, []pb.Match{{Prefix: prefix}, {Prefix: probe}})
	}()
	go func() { // in a goroutine, because with another writer a probe may have to wait for Read
		defer close(f.probed)
		for {
			must(t.db.Update(func(txn *badger.Txn) error { return txn.Set(probe, nil) }))
			select {
			case <-f.begun:
				return
			case <-f.ended:
				return
			default:
			}
		}
	}()
	select {
	case <-f.begun:
	case <-f.ended:
		panic("badger: a subscription ended before it began")
	}
	return f
}

// see is the callback of Subscribe.
func (f *badgerFeed) see(list *badger.KVList) error {
	f.begins.Do(func() { close(f.begun) })
	some := false
	for _, kv := range list.Kv {
		if kv.Key[0] == badgerProbe {
			continue
		}
		if f.tally == nil {
			select {
			case f.tally = <-f.tallies:
			case <-f.ctx.Done():
				return f.ctx.Err()
			}
		}
		switch {
		case kv.Version <= f.after: // among the present rows
			continue
		case len(kv.Value) == 0:
			f.tally.Gone()
		default:
			f.tally.See(version(kv.Value))
		}
		some = true
	}
	if some && !f.tally.More() {
		f.tally = nil
		f.enough <- struct{}{}
	}
	return nil
}

func (f *badgerFeed) Read(t *Tally) {
	if f.present {
		f.present = false
		f.after = f.table.all(func(row Row) bool {
			t.Was(row.Version)
			return true
		})
		t.Ready()
	}
	select {
	case f.tallies <- t: // when something has arrived
		select {
		case <-f.enough:
		case <-f.ended:
		}
	case <-f.ended:
	}
}

func (f *badgerFeed) Close() {
	f.cancel()
	<-f.ended
	<-f.probed
}
