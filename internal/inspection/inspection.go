// Package inspection lets package web/inspect read the rows of tables whose types it does not
// know. It is not for others, because it gives up the types.
package inspection

import (
	"iter"
	"reflect"
)

// Orders returns the orders in which the rows of a table can be read: first that of the primary
// keys, and then that of each index. The argument is a changefeed.AnyTable. Package changefeed
// sets Orders.
var Orders func(table any) []Order

// An Order is the order of a table's rows by primary key, or by the values of an index.
type Order interface {
	// Name returns the name of the index, or an empty string for the order of the keys.
	Name() string

	// Types returns the type of the values by which the rows are ordered, and that of the keys.
	Types() (value, key reflect.Type)

	// Same reports whether two rows have the same place in the order. It panics if one of them has
	// a nil value or key.
	Same(a, b Row) bool

	// Rows returns the rows in an interval, at the moment at which a range begins. A range holds
	// a snapshot, and no lock.
	Rows(in Interval) iter.Seq[Row]
}

// An Interval is a part of an order. Its values have the type of the order's values. Nil is no
// value.
type Interval struct {
	Equal any // only rows with this value, without From and To
	From  any // only rows with this value, and greater ones
	To    any // only rows with smaller values

	After *Row // only rows after this one, which need not be there any more
}

// A Row is a row of a table, and its place in an order.
type Row struct {
	Value any // the value by which it is ordered
	Key   any
	Row   any // a pointer to the stored row, which must not be modified
}
