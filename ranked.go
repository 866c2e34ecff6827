package changefeed

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// A RankedChange is a [Change] of a view with the ranks of its row: see [Ranked]. The first row has rank 1. OldRank is
// 0 if the row was not in the view before the change. NewRank is 0 if it is not in the view after the change.
type RankedChange[V any] struct {
	Change[V]
	OldRank, NewRank int
}

// String returns the text of the change and the ranks:
//
//	7 update {Bob 5} -> {Bob 9}, rank 3 -> 1
func (c RankedChange[V]) String() string {
	switch {
	case c.OldRank == 0 && c.NewRank == 0:
		return c.Change.String()
	case c.OldRank == 0:
		return fmt.Sprintf("%v, rank %d", c.Change, c.NewRank)
	case c.NewRank == 0:
		return fmt.Sprintf("%v, rank %d", c.Change, c.OldRank)
	}
	return fmt.Sprintf("%v, rank %d -> %d", c.Change, c.OldRank, c.NewRank)
}

// MarshalJSON returns the JSON of the change with old_offset and new_offset, as RethinkDB writes a change with
// include_offsets. An offset is the rank minus 1, or null if the rank is 0. [Ready] has no offsets, and [Initial] has
// only new_offset.
func (c RankedChange[V]) MarshalJSON() ([]byte, error) {
	switch c.Kind {
	case Initial:
		return json.Marshal(struct {
			At  *int `json:"new_offset"`
			New *V   `json:"new_val"`
		}{offsetOf(c.NewRank), c.New})
	case Ready:
		return c.Change.MarshalJSON()
	}
	return json.Marshal(struct {
		From *int `json:"old_offset"`
		To   *int `json:"new_offset"`
		Old  *V   `json:"old_val"`
		New  *V   `json:"new_val"`
	}{offsetOf(c.OldRank), offsetOf(c.NewRank), c.Old, c.New})
}

// UnmarshalJSON is the inverse of [RankedChange.MarshalJSON]: see [Change.UnmarshalJSON].
func (c *RankedChange[V]) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var next RankedChange[V]
	var offsets struct {
		From *int `json:"old_offset"`
		To   *int `json:"new_offset"`
	}
	if err := json.Unmarshal(data, &next.Change); err != nil {
		return err
	}
	if err := json.Unmarshal(data, &offsets); err != nil {
		return fmt.Errorf("changefeed: unmarshal a change: %w", err)
	}
	next.OldRank, next.NewRank = rankOf(offsets.From), rankOf(offsets.To)
	*c = next
	return nil
}

func offsetOf(rank int) *int {
	if rank == 0 {
		return nil
	}
	return new(rank - 1)
}

func rankOf(offset *int) int {
	if offset == nil {
		return 0
	}
	return *offset + 1
}

// Ranked follows a view, and adds to each change the ranks of its row before and after. The rank of a row is its
// position in [View.All], beginning with 1. A row is not reported if its rank changes only because other rows pass it.
//
// A program that keeps a list of the rows, such as a leaderboard, removes the row at OldRank, and then inserts the new
// row at NewRank. If one write deletes a row of the view and inserts another, the list has one row less between these
// two changes.
//
// The stream begins with the present rows, as with [IncludeInitial], in the order of their ranks. After skipped changes
// it begins with them again, as with [Resync]. With [OnOverflow] and [Fail] it ends instead. With [Skip] or [After] the
// ranks would not be known, so the stream yields only [ErrInvalidOption]. Otherwise it behaves like a stream of
// [View.Changes].
//
// The stream holds a pointer to each row of the view. The loop spends time on each change in proportion to the number
// of rows, because it moves pointers. The function of the index by which a view is ranked also runs in the loop's
// goroutine. Ranked panics if ctx, the view or an option is nil.
func Ranked[K, V any](ctx context.Context, v *View[K, V], opts ...FeedOption) Stream[RankedChange[V]] {
	if v == nil {
		panic("changefeed: Ranked: nil view")
	}
	opts = slices.Concat([]FeedOption{IncludeInitial(), OnOverflow(Resync)}, opts)
	if c, _ := newFeedConfig(ctx, "Ranked", opts); c.overflow == Skip || c.after != nil {
		return failed[RankedChange[V]](fmt.Errorf("changefeed: ranked changes of %q: %w: Skip or After: the ranks would not be known", v.Name(), ErrInvalidOption))
	}
	r := ranking[V]{compare: v.table.compareRanks()}
	changes := v.Changes(ctx, opts...)
	return func(yield func(RankedChange[V], error) bool) {
		for c, err := range changes {
			if err != nil {
				r.rows = nil // the present rows follow, or the feed has ended
			}
			if !yield(r.add(c), err) {
				return
			}
		}
	}
}

// compareRanks returns a function that compares two rows in the order of [Table.All].
func (t *Table[K, V]) compareRanks() func(a, b *V) int {
	if p, ok := t.allPart.(interface{ compareRanks(a, b *V) int }); ok {
		return p.compareRanks
	}
	return func(a, b *V) int { return t.order(t.key(a), t.key(b)) }
}

func (p *rankPart[P, K, V]) compareRanks(a, b *V) int {
	x := p.index
	c := x.compare(indexEntry[P, K]{value: x.value(a), key: x.table.key(a)}, indexEntry[P, K]{value: x.value(b), key: x.table.key(b)})
	if !p.bottom {
		c = -c
	}
	return c
}

// A ranking has the rows of a view as the feed has reported them, in the order of their ranks.
type ranking[V any] struct {
	compare func(a, b *V) int
	rows    []*V
}

// add applies a change to the rows, and returns the change with its ranks.
func (r *ranking[V]) add(c Change[V]) RankedChange[V] {
	ranked := RankedChange[V]{Change: c}
	if c.Old != nil {
		if i, ok := slices.BinarySearchFunc(r.rows, c.Old, r.compare); ok {
			r.rows = slices.Delete(r.rows, i, i+1)
			ranked.OldRank = i + 1
		}
	}
	if c.New != nil {
		i, _ := slices.BinarySearchFunc(r.rows, c.New, r.compare)
		r.rows = slices.Insert(r.rows, i, c.New)
		ranked.NewRank = i + 1
	}
	return ranked
}
