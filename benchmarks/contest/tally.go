package contest

import "time"

// A Tally is what one reader has got. It looks at every change, as a reader does, and
// keeps what tells whether all came.
type Tally struct {
	Changes int // that came
	Sum     int // of their versions, and of those of the present rows
	Last    int // version that came: the highest, for some mix those of a transaction
	Deletes int // among the changes
	Lost    int // changes that the feed said it dropped
	Wakes   int // how often something was there

	Present     int       // rows that were there at the beginning
	First, Full time.Time // when the first and when all of them had come

	Until   int    // the version that is enough
	OnWake  func() // unless nil, called when something has come
	OnReady func() // unless nil, called when all present rows have come

	_ [64]byte // tallies of two readers do not share a cache line
}

// See is told of an insert or update.
func (t *Tally) See(version int) {
	t.Changes++
	t.Sum += version
	t.Last = max(t.Last, version)
}

// Gone is told of a delete.
func (t *Tally) Gone() {
	t.Changes++
	t.Deletes++
}

// Was is told of a row that was there at the beginning.
func (t *Tally) Was(version int) {
	if t.Present == 0 {
		t.First = time.Now()
	}
	t.Present++
	t.Sum += version
}

// Ready is told that all present rows have come.
func (t *Tally) Ready() {
	t.Full = time.Now()
	if t.OnReady != nil {
		t.OnReady()
	}
}

// More is told that everything has been seen that was there. It returns whether the
// reader goes on.
func (t *Tally) More() bool {
	t.Wakes++
	if t.OnWake != nil {
		t.OnWake()
	}
	return t.Last < t.Until
}
