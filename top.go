package changefeed

// A topView is the definition of [Top], [Bottom] and [TopEach]. Its rows are the stored rows of the
// source. P is the type of the values by which they are ranked.
type topView[P, K, V any] struct {
	ranked *Index[P, K, V] // of the source's table
	rank   *Index[P, K, V] // of the view, in the same order
	to     *Table[K, V]
	n      int
	bottom bool
	group  func(a, b P) bool // whether rows with these values are of one group; nil: all are
}

// Top makes a view of the n rows with the largest values in an index. Of rows with one value, those with
// the larger keys come first. The keys are those of the table.
//
// A row that leaves the view is a [Delete] in its feeds, and then the row that comes is an [Insert], in
// one batch. A row that stays is not reported. [View.All], [IncludeInitial] and [Resync] have the rows
// in the order of their ranks, the largest first.
//
// A write to a row that is and was outside costs one comparison. Others cost at most two more writes. Top
// panics if the index is one of [NewMultiIndex], or if n is below 1.
func Top[S, K, V any](x *Index[S, K, V], name string, n int) *View[K, V] {
	return newTop(x, name, n, false)
}

// Bottom is like [Top] but with the smallest values, the smallest first. Of rows with one value, those with
// the smaller keys come first.
func Bottom[S, K, V any](x *Index[S, K, V], name string, n int) *View[K, V] {
	return newTop(x, name, n, true)
}

func newTop[S, K, V any](x *Index[S, K, V], name string, n int, bottom bool) *View[K, V] {
	switch {
	case x == nil:
		panic("changefeed: Top: nil index")
	case x.multi:
		panic("changefeed: Top: the index can have several values for a row; use one of NewIndex")
	case n < 1:
		panic("changefeed: Top: n must be at least 1")
	}
	source := x.table
	d := &topView[S, K, V]{ranked: x, n: n, bottom: bottom, rank: &Index[S, K, V]{hidden: true}}
	d.to = newTable(name, source.key, source.order, func(a, b entry[K, V]) bool { return source.order(a.key, b.key) < 0 })
	d.to.keysDiffer = source.keysDiffer
	d.rank.init(d.to, "", x.values, x.order)
	source.mu.Lock()
	defer source.mu.Unlock()
	v := newView(d.to, &source.mu)
	d.walk(x, nil, func(e indexEntry[S, K, V]) bool {
		d.to.startLocked(e.key, e.cell.row.Load())
		return d.to.len < n
	})
	_ = mustIndex(d.rank, d.rank.buildLocked())
	v.detach = source.attachLocked(d, func(K, *V) {})
	return v
}

// walk calls visit with the entries of an index in the order of their ranks, or if after is not nil, with
// those behind it.
func (d *topView[P, K, V]) walk(x *Index[P, K, V], after *indexEntry[P, K, V], visit func(e indexEntry[P, K, V]) bool) {
	tree := x.rows.tree
	behind := func(e indexEntry[P, K, V]) bool {
		if after != nil && tree.Len() > 0 && x.compare(e, *after) == 0 {
			return true
		}
		return visit(e)
	}
	switch {
	case d.bottom && after == nil:
		tree.Ascend(behind)
	case d.bottom:
		tree.AscendGreaterOrEqual(*after, behind)
	case after == nil:
		tree.Descend(behind)
	default:
		tree.DescendLessOrEqual(*after, behind)
	}
}

// compare compares two entries of rows.
func (x *Index[S, K, V]) compare(a, b indexEntry[S, K, V]) int {
	if c := x.order(a.value, b.value); c != 0 {
		return c
	}
	return x.table.order(a.key, b.key)
}

// last returns the entry of the view's last row.
func (d *topView[P, K, V]) last() (e indexEntry[P, K, V], ok bool) {
	if d.bottom {
		return d.rank.rows.tree.Max()
	}
	return d.rank.rows.tree.Min()
}

// isBehind reports whether a row with a value and a key comes after an entry.
func (d *topView[P, K, V]) isBehind(value P, key K, e indexEntry[P, K, V]) bool {
	c := d.rank.compare(indexEntry[P, K, V]{value: value, key: key}, e)
	if d.bottom {
		return c > 0
	}
	return c < 0
}

func (d *topView[P, K, V]) follow(tx *Tx, key K, _, new *V) error {
	is := d.to.cellLocked(key).latest() != nil
	switch {
	case is:
		return d.leave(tx, key, new)
	case new == nil:
		return nil
	}
	if d.to.len < d.n {
		return d.to.setLocked(tx, key, new)
	}
	last, _ := d.last()
	if d.isBehind(d.ranked.valuesOf(new, nil)[0], key, last) {
		return nil
	}
	if err := d.to.setLocked(tx, last.key, nil); err != nil {
		return err
	}
	return d.to.setLocked(tx, key, new)
}

// leave makes a change to a row of the view, which may leave it.
func (d *topView[P, K, V]) leave(tx *Tx, key K, new *V) error {
	if new != nil {
		last, _ := d.last()
		if value := d.ranked.valuesOf(new, nil)[0]; !d.isBehind(value, key, last) {
			return d.to.setLocked(tx, key, new)
		}
	}
	// The row is not before the last one any more. All others of the view are before those outside.
	var next indexEntry[P, K, V]
	found := false
	d.walk(d.ranked, d.lastBut(key), func(e indexEntry[P, K, V]) bool {
		next, found = e, true
		return false
	})
	if found && d.to.order(next.key, key) == 0 {
		return d.to.setLocked(tx, key, new)
	}
	if err := d.to.setLocked(tx, key, nil); err != nil || !found {
		return err
	}
	return d.to.setLocked(tx, next.key, next.cell.latest())
}

// lastBut returns the entry of the view's last row other than that of key, or nil.
func (d *topView[P, K, V]) lastBut(key K) (last *indexEntry[P, K, V]) {
	visit := func(e indexEntry[P, K, V]) bool {
		if d.to.order(e.key, key) == 0 {
			return true
		}
		last = &e
		return false
	}
	if d.bottom {
		d.rank.rows.tree.Descend(visit)
	} else {
		d.rank.rows.tree.Ascend(visit)
	}
	return last
}
