package contest

import "time"

// A Tally counts what one reader has received. It looks at every change, as a reader does,
// and its sums show whether all changes arrived.
type Tally struct {
	Changes int // number of changes received
	Sum     int // of the versions of changes and present rows
	Last    int // highest version received, because some mix the versions of a transaction
	Deletes int // number of deletes among the changes
	Lost    int // number of changes that the feed reported as dropped
	Wakes   int // how often the reader found something

	Present     int       // number of rows present at the start
	First, Full time.Time // when the first and when all of them had arrived

	Until   int    // the reader may stop at this version
	OnWake  func() // unless nil, called when something has arrived
	OnReady func() // unless nil, called when all present rows have arrived

	_ [64]byte // keeps the tallies of two readers on different cache lines
}

// See adds an insert or update.
func (t *Tally) See(version int) {
	t.Changes++
	t.Sum += version
	t.Last = max(t.Last, version)
}

// Gone adds a delete.
func (t *Tally) Gone() {
	t.Changes++
	t.Deletes++
}

// Was adds a row that was present at the start.
func (t *Tally) Was(version int) {
	if t.Present == 0 {
		t.First = time.Now()
	}
	t.Present++
	t.Sum += version
}

// Ready records that all present rows have arrived.
func (t *Tally) Ready() {
	t.Full = time.Now()
	if t.OnReady != nil {
		t.OnReady()
	}
}

// More is called when the reader has read everything that was available. It reports
// whether the reader is to continue.
func (t *Tally) More() bool {
	t.Wakes++
	if t.OnWake != nil {
		t.OnWake()
	}
	return t.Last < t.Until
}
