package changefeed

import (
	"fmt"
	"iter"
	"reflect"
	"slices"

	"github.com/seed-637b77f9/changefeed/internal/inspection"
)

func init() {
	inspection.Orders = func(table any) []inspection.Order { return table.(AnyTable).anyTable().inspectionOrders() }
}

func (t *Table[K, V]) inspectionOrders() []inspection.Order {
	t.mu.RLock()
	defer t.mu.RUnlock()
	orders := []inspection.Order{keyOrder[K, V]{t}}
	for _, x := range t.shownIndexes() {
		orders = append(orders, x.inspectionOrder())
	}
	return orders
}

// A keyOrder is the [inspection.Order] of the primary keys.
type keyOrder[K, V any] struct{ table *Table[K, V] }

func (keyOrder[K, V]) Name() string { return "" }

func (keyOrder[K, V]) Types() (value, key reflect.Type) {
	return reflect.TypeFor[K](), reflect.TypeFor[K]()
}

func (o keyOrder[K, V]) Same(a, b inspection.Row) bool {
	return o.table.order(a.Key.(K), b.Key.(K)) == 0
}

func (o keyOrder[K, V]) Rows(in inspection.Interval) iter.Seq[inspection.Row] {
	return func(yield func(inspection.Row) bool) {
		t, keys := o.table, intervalOf[K](in)
		var last *K
		if in.After != nil {
			last = new(in.After.Key.(K))
			if keys.extent != point {
				keys = interval[K]{from: *last, extent: onwards}
			}
		}
		for key, row := range t.selection(keys).All() {
			if last != nil && t.order(key, *last) == 0 {
				continue
			}
			if in.To != nil && t.order(key, in.To.(K)) >= 0 || !yield(inspection.Row{Value: key, Key: key, Row: &row}) {
				return
			}
		}
	}
}

// An indexOrder is the [inspection.Order] of the values of an index.
type indexOrder[S, K, V any] struct{ *Index[S, K, V] }

func (x *Index[S, K, V]) inspectionOrder() inspection.Order { return indexOrder[S, K, V]{x} }

func (o indexOrder[S, K, V]) Name() string { return o.name }

func (indexOrder[S, K, V]) Types() (value, key reflect.Type) {
	return reflect.TypeFor[S](), reflect.TypeFor[K]()
}

func (o indexOrder[S, K, V]) Same(a, b inspection.Row) bool {
	return o.order(a.Value.(S), b.Value.(S)) == 0 && o.table.order(a.Key.(K), b.Key.(K)) == 0
}

func (o indexOrder[S, K, V]) Rows(in inspection.Interval) iter.Seq[inspection.Row] {
	return func(yield func(inspection.Row) bool) {
		part := &indexPart[S, K, V]{o.Index, intervalOf[S](in)}
		var last *indexEntry[S, K]
		if in.After != nil {
			last = &indexEntry[S, K]{value: in.After.Value.(S), key: in.After.Key.(K)}
		}
		s := Selection[K, V]{table: o.table, part: part}
		s.yieldRows(o.scanAfter(part, last), func(key K, row V) bool {
			if last != nil && o.table.order(key, last.key) == 0 {
				return true
			}
			listed := o.valuesOf(&row, nil)
			i := slices.IndexFunc(listed, func(v S) bool { return part.values.contains(v, o.order) })
			if i < 0 {
				panic(fmt.Sprintf("changefeed: the function of index %q does not return the same values again for the row with primary key %s", o.name, quoted(key)))
			}
			if in.To != nil && o.order(listed[i], in.To.(S)) >= 0 {
				return false
			}
			return yield(inspection.Row{Value: listed[i], Key: key, Row: &row})
		})
	}
}

// scanAfter begins a scan of the part's present rows. If last is not nil, it begins with the place
// of that entry.
func (o indexOrder[S, K, V]) scanAfter(p *indexPart[S, K, V], last *indexEntry[S, K]) *scan[K, V] {
	t := o.table
	t.mu.RLock()
	defer t.mu.RUnlock()
	if last == nil {
		return p.scan(nil, false)
	}
	return t.scan(nil, &walk[indexEntry[S, K], K, V]{tree: o.treeIn(nil), from: last, cellOf: p.cellOf})
}

// intervalOf returns the interval from From, or that of Equal.
func intervalOf[B any](in inspection.Interval) interval[B] {
	switch {
	case in.Equal != nil:
		return interval[B]{from: in.Equal.(B), extent: point}
	case in.From != nil:
		return interval[B]{from: in.From.(B), extent: onwards}
	}
	return interval[B]{extent: unbounded}
}
