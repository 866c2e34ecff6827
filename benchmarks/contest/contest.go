// Package contest holds the contestants of the comparison: this library, and what a
// Go developer would use in its place, behind one small interface. Each is in a file
// of its own, used as its documentation recommends, by someone who wants it to win.
package contest

import "iter"

// A Contestant is a way to hold rows and to follow what becomes of them.
type Contestant struct {
	Name   string
	Module string // the one whose version counts; empty: a few lines written by hand
	Traits Traits
	Open   func() Store // an empty one
}

// Traits say what stands beside a contestant's figures: how it was used, and what it
// cannot do.
type Traits struct {
	Use     string `json:"use"`      // how it is used here
	Old     string `json:"old"`      // whether a change has the old row
	Feed    string `json:"feed"`     // whether a reader gets every change
	Slow    string `json:"slow"`     // what happens when a reader is too slow
	Initial string `json:"initial"`  // how a newcomer gets the present rows
	OneKey  string `json:"one_key"`  // how one key is followed
	Merges  bool   `json:"merges"`   // several changes of a row may come as one
	Waits   bool   `json:"waits"`    // a writer waits for a reader that is too slow
	IsFloor bool   `json:"is_floor"` // it holds no rows: what no contestant can beat
}

// All are the contestants, in the order in which they are printed.
func All() []Contestant {
	return []Contestant{Changefeed, StateDB, MemDB, Badger, Channels, Queues, HandOff}
}

// A Store holds rows and is followed. One goroutine writes at a time. A failure is a
// panic, for it leaves nothing to compare.
type Store interface {
	// Update makes a single, committed write: it reads the row with the key, and
	// puts a copy with another version in its place.
	Update(key, version int)

	// Follow subscribes to all changes that are made after it returns.
	Follow() Feed

	// Close ends what runs in the background. All feeds are closed before.
	Close()
}

// A Table is a Store with all that the workloads ask for.
type Table interface {
	Store

	// Load inserts rows as fast as it can, before anybody follows.
	Load(rows []Row)

	Insert(row Row)
	Delete(key int)

	// UpdateAll updates the rows with the keys in one transaction, to version and
	// those that follow it.
	UpdateAll(keys []int, version int)

	Get(key int) (Row, bool)

	// All are the rows, all as at one time.
	All() iter.Seq[Row]

	// FollowKey is Follow for one row.
	FollowKey(key int) Feed

	// FollowPresent is Follow with the present rows first, and nothing missed or
	// double between them and the changes.
	FollowPresent() Feed
}

// A Feed is what one reader reads. One that is not read has stalled.
type Feed interface {
	// Read tells t of everything that comes, until t has enough or the feed is
	// closed.
	Read(t *Tally)

	// Close ends the subscription, and the wait of a writer for its reader. Where
	// several readers have stalled, their feeds are closed at once.
	Close()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
