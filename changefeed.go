package changefeed

import (
	"encoding/json"
	"fmt"
	"math"
)

// A Change is one write to a row of a table, as its subscribers see it and as the
// write returns it.
//
// Old and New point to the rows that the table stores. They never change again,
// and must not be changed by whoever gets them.
type Change[V any] struct {
	Seq  uint64 // position in the table's history: 1, 2, 3, ... without gaps
	Kind Kind
	Old  *V // the row before; nil for an insert
	New  *V // the row after; nil for a delete
}

// Row returns the row that the change is about: New, or Old for a delete; nil for
// [Ready], and for the zero Change, which comes with an error.
func (c Change[V]) Row() *V {
	if c.New == nil {
		return c.Old
	}
	return c.New
}

// MarshalJSON returns {"old_val": ..., "new_val": ...}, with null for a row that is
// not there; {"new_val": ...} for [Initial], and {"state": "ready"} for [Ready]. So
// RethinkDB writes a change: without Seq and Kind.
func (c Change[V]) MarshalJSON() ([]byte, error) {
	switch c.Kind {
	case Initial:
		return json.Marshal(struct {
			New *V `json:"new_val"`
		}{c.New})
	case Ready:
		return []byte(`{"state":"ready"}`), nil
	}
	return json.Marshal(struct {
		Old *V `json:"old_val"`
		New *V `json:"new_val"`
	}{c.Old, c.New})
}

// A Kind tells what a write did to its row.
type Kind uint8

const (
	None    Kind = iota // nothing: the row was and is equal to what was written
	Insert              // the row is new
	Update              // the row was there, and is another one now
	Delete              // the row is gone
	Initial             // no write: the row was there when the feed began; see [IncludeInitial]
	Ready               // no write: all rows that were there have come
)

// String returns "none", "insert", "update", "delete", "initial" or "ready".
func (k Kind) String() string {
	switch k {
	case None:
		return "none"
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Initial:
		return "initial"
	case Ready:
		return "ready"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// A FeedInfo tells how a subscriber is doing. Since it subscribed, or began by
// [After], Delivered + Skipped + Buffered changes were made to what it reads: see
// Options in the package documentation. Initial rows do not count: while some are to
// come, Buffered may be 0. A change counts as delivered when the loop gets it: to know
// when a consumer has handled one, have it say so.
//
// With [Squash], Buffered is the number of rows that wait to be told of, Delivered
// that of changes handed out, and Capacity is 0, for there is no limit; the figures
// are not of one moment.
type FeedInfo struct {
	Name      string // see [Named]
	Buffered  int    // changes waiting to be read
	Capacity  int    // of the buffer, see [Buffer] and [After]
	Delivered uint64 // changes handed to the loop
	Skipped   uint64 // changes lost, those included that no [SkippedError] has told of yet; a change being taken at that moment may count here
	Seq       uint64 // sequence number of the last change read, or told to be skipped, or made before the subscription
}

// Feeds tells of each subscription that has not ended, in the order in which they
// were made. After a drop, one stays listed until its loop has read the final error; when
// a context is done, for a moment. Each FeedInfo is exact, but they are not all of one
// moment. Feeds takes time in proportion to their number. A writer never waits that long:
// Feeds gives up its locks after a few subscriptions.
func (t *Table[K, V]) Feeds() []FeedInfo {
	infos := []FeedInfo{}
	for s := range t.feeds.oldestFirst() {
		u := s.usage()
		infos = append(infos, FeedInfo{
			Name:      s.name,
			Buffered:  int(u.buffered),
			Capacity:  int(min(u.limit, math.MaxInt)),
			Delivered: u.delivered,
			Skipped:   u.skipped,
			Seq:       u.passed,
		})
	}
	return infos
}
