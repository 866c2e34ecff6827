// Package contest holds the contestants of the comparison behind one small interface: this
// library, and the alternatives that a Go developer has. Each is in a file of its own. It
// is used as its documentation recommends, by someone who wants it to win.
package contest

import "iter"

// A Contestant is a way to hold rows and to follow their changes.
type Contestant struct {
	Name   string
	Module string // the module whose version is reported, or empty for code written by hand
	Traits Traits
	Open   func() Store // returns an empty store; nil: it is only here for its views

	// OpenView returns the orders with a view of them. It returns nil if the contestant has no
	// such view. OpenView is nil if it has none at all.
	OpenView func(view View, orders []Order, customers []Customer) Orders
}

// Traits describe how a contestant is used and what it cannot do. The report shows them
// beside its figures.
type Traits struct {
	Use     string `json:"use"`      // how it is used here
	Old     string `json:"old"`      // whether a change has the old row
	Feed    string `json:"feed"`     // whether a reader gets every change
	Slow    string `json:"slow"`     // what happens when a reader is too slow
	Initial string `json:"initial"`  // how a newcomer gets the present rows
	OneKey  string `json:"one_key"`  // how one key is followed
	Merges  bool   `json:"merges"`   // several changes of a row may come as one
	Waits   bool   `json:"waits"`    // a writer waits for a reader that is too slow
	IsFloor bool   `json:"is_floor"` // it holds no rows, and no contestant can beat it
}

// All are the contestants, in the order in which they are printed.
func All() []Contestant {
	return []Contestant{Changefeed, StateDB, MemDB, Badger, Channels, Queues, HandOff, Transact, Follower, Map}
}

// A Store holds rows and can be followed. One goroutine writes at a time. A failure is a
// panic, because it leaves nothing to compare.
type Store interface {
	// Update makes a single, committed write. It reads the row with the key, and
	// replaces it with a copy that has another version.
	Update(key, version int)

	// Follow subscribes to all changes that are made after it returns.
	Follow() Feed

	// Close ends the store's background work. All feeds must have been closed.
	Close()
}

// A Table is a Store with everything that the workloads need.
type Table interface {
	Store

	// Load inserts rows as fast as it can, in their order. It is called before the first
	// Follow.
	Load(rows []Row)

	Insert(row Row)
	Delete(key int)

	// UpdateAll updates the rows with the keys in one transaction, to version, version+1
	// and so on.
	UpdateAll(keys []int, version int)

	Get(key int) (Row, bool)

	// All returns all rows as they were at one moment.
	All() iter.Seq[Row]

	// FollowKey is like Follow, but for one row.
	FollowKey(key int) Feed

	// FollowPresent is like Follow, but begins with the present rows. No change is
	// missed or delivered twice between them and the changes.
	FollowPresent() Feed
}

// A Feed is a subscription of one reader. If nobody reads it, it has stalled.
type Feed interface {
	// Read passes everything that arrives to t, until t has enough or the feed is closed.
	Read(t *Tally)

	// Close ends the subscription, and releases a writer that waits for the reader. If
	// several readers have stalled, their feeds are closed at the same time.
	Close()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
