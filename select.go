package changefeed

import "fmt"

// A selectView is the definition of [Select].
type selectView[K, V, W any] struct {
	from tap[K, V]
	to   *Table[K, W]
	make func(row *V) *W
}

// Select makes a view that has the row f(row) for each row of a source. If f returns nil, the view has no row for
// that row of the source.
//
// The view has the keys of the source. The function key returns the key of a row of the view, which must be the
// key of the source's row. If it is another key, Select panics, or the write that calls f.
//
// The row that f returns belongs to the view, with everything that the row refers to. f may return the source's row
// itself. [View] says what f and key may do. The name is for messages.
//
// A write to the source writes at most one row of the view. Select panics if the source or a function is nil.
func Select[W, K, V any](s Source[K, V], name string, key func(row *W) K, f func(row *V) *W) *View[K, W] {
	if key == nil || f == nil {
		panic("changefeed: Select: nil function")
	}
	d := &selectView[K, V, W]{from: newTap(s, "Select"), make: f}
	d.to = newViewTable(d.from.selection.table, name, key)
	return growView(d.to, &d.from, d)
}

func (d *selectView[K, V, W]) viewTable() txTable { return d.to }

func (d *selectView[K, V, W]) follow(tx *Tx, key K, _, new *V) {
	if new == nil {
		d.to.setLocked(tx, key, nil)
		return
	}
	row := d.make(new)
	if row != nil && d.to.order(d.to.key(row), key) != 0 {
		panic(fmt.Sprintf("changefeed: Select: the row of %q for the key %s has the key %s; keep the key of the source",
			d.to.name, quoted(key), quoted(d.to.key(row))))
	}
	d.to.setLocked(tx, key, row)
}
