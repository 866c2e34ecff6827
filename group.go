package changefeed

import "cmp"

// Grouped is a row of [Group]: a group, the number of its rows, and the value that was folded from them. In JSON, its
// fields are group, count and reduction.
type Grouped[G, A any] struct {
	Group G   `json:"group"`
	Count int `json:"count"`
	Value A   `json:"reduction"`
}

// Counted is a row of [Count]: a group and the number of its rows.
type Counted[G any] struct {
	Group G   `json:"group"`
	Count int `json:"count"`
}

// A groupView is the definition of [Group] and [Count]. R is the type of its rows.
type groupView[G, K, V, R any] struct {
	from  tap[K, V]
	to    *Table[G, R]
	by    func(row *V) G
	first func(group G) R                           // the row of an empty group
	fold  func(to *R, row *V, sign int) (count int) // adds or removes a row, and returns the number of rows in the group
}

// Group makes a view with a row for each group of a source's rows. The function by returns the group of a row. The
// row of a group has the number of the group's rows, and a Value that fold computes. A group without rows has no row
// in the view.
//
// The Value of a new group is the zero value. fold changes it when a row of the source joins or leaves the group. If
// sign is 1, fold adds the row to the Value. If sign is -1, fold removes a row that it has added before. For a sum,
// fold is
//
//	func(sum *int, row *Order, sign int) { *sum += sign * row.Amount }
//
// fold can also be a method of the Value, such as (*Total).Add. The order in which rows are added and removed must
// make no difference, and to remove a row must undo what adding it did. fold must not modify the row.
//
// So a maximum is no fold: use [TopEach] with n = 1. Nor is a sum of floats, because x+y-x may differ from y: the errors
// add up, a large x can erase y, and a NaN stays until the group is empty. Sum integers instead, such as cents.
//
// A write to the source writes one row of the view, or two if it moves a row to another group. Each write to the view
// first copies the group's Value, as [Table.Update] copies a row. Group panics if the source or a function is nil. See
// [View] for what the functions may do.
//
// Row is the type of the view's rows. It is always Grouped[G, A], and the compiler infers it. It is a type parameter
// because a program then compiles faster.
func Group[G cmp.Ordered, A, K, V any, Row interface{ Grouped[G, A] }](s Source[K, V], name string, by func(row *V) G, fold func(value *A, row *V, sign int)) *View[G, Row] {
	if by == nil || fold == nil {
		panic("changefeed: Group: nil function")
	}
	d := &groupView[G, K, V, Row]{
		from:  newTap(s, "Group"),
		to:    NewTable(name, func(row *Row) G { return any(row).(*Grouped[G, A]).Group }),
		by:    by,
		first: func(group G) Row { return Row(Grouped[G, A]{Group: group}) },
		fold: func(row *Row, of *V, sign int) int {
			to := any(row).(*Grouped[G, A])
			to.Count += sign
			fold(&to.Value, of, sign)
			return to.Count
		},
	}
	return growView(d.to, &d.from, d)
}

// Count is like [Group] but without a Value. It makes a view with a row for each group of a source's rows, and the row
// has the number of the group's rows. The function by returns the group of a row.
// Row is Counted[G].
func Count[G cmp.Ordered, K, V any, Row interface{ Counted[G] }](s Source[K, V], name string, by func(row *V) G) *View[G, Row] {
	if by == nil {
		panic("changefeed: Count: nil function")
	}
	d := &groupView[G, K, V, Row]{
		from:  newTap(s, "Count"),
		to:    NewTable(name, func(row *Row) G { return any(row).(*Counted[G]).Group }),
		by:    by,
		first: func(group G) Row { return Row(Counted[G]{Group: group}) },
		fold: func(row *Row, _ *V, sign int) int {
			to := any(row).(*Counted[G])
			to.Count += sign
			return to.Count
		},
	}
	return growView(d.to, &d.from, d)
}

func (d *groupView[G, K, V, R]) viewTable() txTable { return d.to }

func (d *groupView[G, K, V, R]) follow(tx *Tx, _ K, old, new *V) {
	var was, is G
	if old != nil {
		was = d.by(old)
	}
	if new != nil {
		is = d.by(new)
	}
	if old != nil && new != nil && d.to.order(was, is) == 0 {
		d.change(tx, is, old, new)
		return
	}
	if old != nil {
		d.change(tx, was, old, nil)
	}
	if new != nil {
		d.change(tx, is, nil, new)
	}
}

// change removes the row out from a group, and adds the row in. One of them may be nil.
func (d *groupView[G, K, V, R]) change(tx *Tx, group G, out, in *V) {
	var made *R
	at := d.to.cellLocked(group)
	if stored := at.latest(); stored != nil {
		made = d.to.copy(stored)
	} else {
		made = new(d.first(group))
	}
	count := 0
	if out != nil {
		count = d.fold(made, out, -1)
	}
	if in != nil {
		count = d.fold(made, in, 1)
	}
	if count == 0 {
		made = nil
	}
	d.to.setCellLocked(tx, group, at, made)
}
