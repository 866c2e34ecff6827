package contest

import (
	"context"
	"errors"
	"iter"

	"github.com/seed-637b77f9/changefeed"
)

// Changefeed is this library. Readers range over Batches, with which a change takes them a
// third of the time or less (BenchmarkFanOut of the library).
var Changefeed = Contestant{
	Name:   "changefeed",
	Module: "github.com/seed-637b77f9/changefeed",
	Traits: Traits{
		Use:     "`Update`, `Transact`; readers range over `Batches` of up to 64",
		Old:     "yes",
		Feed:    "every change, in order",
		Slow:    "drops the oldest, told how many and where; memory bounded",
		Initial: "`IncludeInitial`: a snapshot, no gap, nothing double",
		OneKey:  "`Row(key)`",
	},
	Open: func() Store {
		return &changefeedTable{changefeed.NewTable("rows", func(r *Row) int { return r.Key })}
	},
	OpenView: openChangefeedOrders,
}

type changefeedTable struct{ table *changefeed.Table[int, Row] }

func (t *changefeedTable) Load(rows []Row) {
	must(changefeed.Transact(func(tx *changefeed.Tx) error {
		table := t.table.In(tx)
		for _, row := range rows {
			if _, err := table.Insert(row); err != nil {
				return err
			}
		}
		return nil
	}, t.table))
}

func (t *changefeedTable) Insert(row Row) {
	_, err := t.table.Insert(row)
	must(err)
}

func (t *changefeedTable) Update(key, version int) {
	_, err := t.table.Update(key, func(r *Row) { r.Version = version })
	must(err)
}

func (t *changefeedTable) Delete(key int) {
	_, err := t.table.Delete(key)
	must(err)
}

func (t *changefeedTable) UpdateAll(keys []int, version int) {
	must(changefeed.Transact(func(tx *changefeed.Tx) error {
		table := t.table.In(tx)
		for i, key := range keys {
			if _, err := table.Update(key, func(r *Row) { r.Version = version + i }); err != nil {
				return err
			}
		}
		return nil
	}, t.table))
}

func (t *changefeedTable) Get(key int) (Row, bool) { return t.table.Get(key) }

func (t *changefeedTable) All() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for _, row := range t.table.All() {
			if !yield(row) {
				return
			}
		}
	}
}

func (t *changefeedTable) Follow() Feed { return follow(t.table.Batches) }

func (t *changefeedTable) FollowKey(key int) Feed { return follow(t.table.Row(key).Batches) }

func (t *changefeedTable) FollowPresent() Feed {
	return follow(t.table.Batches, changefeed.IncludeInitial())
}

func (t *changefeedTable) Close() { t.table.Drop() }

type changefeedFeed struct {
	batches changefeed.Stream[[]changefeed.Change[Row]]
	cancel  context.CancelFunc
}

// batchSize is the longest batch. Copying a batch of this size costs little for each
// change, and the batches of 1,000 readers (2 MB) fit into the processor's caches.
const batchSize = 64

func follow(
	batches func(ctx context.Context, max int, opts ...changefeed.FeedOption) changefeed.Stream[[]changefeed.Change[Row]],
	opts ...changefeed.FeedOption,
) *changefeedFeed {
	ctx, cancel := context.WithCancel(context.Background())
	return &changefeedFeed{batches(ctx, batchSize, opts...), cancel}
}

func (f *changefeedFeed) Read(t *Tally) {
	for batch, err := range f.batches {
		if err != nil {
			skipped, ok := errors.AsType[*changefeed.SkippedError](err)
			if !ok {
				return
			}
			t.Lost += int(skipped.Count)
			continue
		}
		some := false
		for i := range batch {
			switch c := &batch[i]; c.Kind {
			case changefeed.Initial:
				t.Was(c.New.Version)
				continue
			case changefeed.Ready:
				t.Ready()
				continue
			case changefeed.Delete:
				t.Gone()
			default:
				t.See(c.New.Version)
			}
			some = true
		}
		if some && !t.More() {
			return
		}
	}
}

func (f *changefeedFeed) Close() { f.cancel() }
