package contest

import (
	"context"
	"errors"
	"iter"

	"github.com/seed-637b77f9/changefeed"
)

// Changefeed is this library. Readers range over Changes, which costs them less than
// Batches does where each change is looked at.
var Changefeed = Contestant{
	Name:   "changefeed",
	Module: "github.com/seed-637b77f9/changefeed",
	Traits: Traits{
		Use:     "`Update`, `Transact`; readers range over `Changes`",
		Old:     "yes",
		Feed:    "every change, in order",
		Slow:    "drops the oldest, told how many and where; memory bounded",
		Initial: "`IncludeInitial`: a snapshot, no gap, nothing double",
		OneKey:  "`Row(key)`",
	},
	Open: func() Store {
		return &changefeedTable{changefeed.NewTable("rows", func(r *Row) int { return r.Key })}
	},
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

func (t *changefeedTable) Follow() Feed {
	ctx, cancel := context.WithCancel(context.Background())
	return &changefeedFeed{t.table.Changes(ctx), cancel}
}

func (t *changefeedTable) FollowKey(key int) Feed {
	ctx, cancel := context.WithCancel(context.Background())
	return &changefeedFeed{t.table.Row(key).Changes(ctx), cancel}
}

func (t *changefeedTable) FollowPresent() Feed {
	ctx, cancel := context.WithCancel(context.Background())
	return &changefeedFeed{t.table.Changes(ctx, changefeed.IncludeInitial()), cancel}
}

func (t *changefeedTable) Close() { t.table.Drop() }

type changefeedFeed struct {
	changes changefeed.Stream[changefeed.Change[Row]]
	cancel  context.CancelFunc
}

func (f *changefeedFeed) Read(t *Tally) {
	for c, err := range f.changes {
		if err != nil {
			skipped, ok := errors.AsType[*changefeed.SkippedError](err)
			if !ok {
				return
			}
			t.Lost += int(skipped.Count)
			continue
		}
		switch c.Kind {
		case changefeed.Initial:
			t.Was()
			continue
		case changefeed.Ready:
			t.Ready()
			continue
		case changefeed.Delete:
			t.Gone()
		default:
			t.See(c.New.Version)
		}
		if !t.More() {
			return
		}
	}
}

func (f *changefeedFeed) Close() { f.cancel() }
