package changefeed

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// A HistoryID is the random name of a table's history. Each table has its own, and gets a new
// one when it forks: see [Table.Fork]. [Table.Restore] and [Table.Reset] give a table that of
// another one.
type HistoryID [16]byte

func newHistoryID() (id HistoryID) {
	rand.Read(id[:]) // never fails
	return id
}

// String returns 22 characters, which are the ID in the base64 alphabet for URLs.
func (id HistoryID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// A Position is a place in a table's history: after the change numbered Seq. A feed can be
// resumed from a position, also by another process that has the same table: see [After].
//
// The zero Position is before the first change of every table. It stands for having seen
// nothing yet.
type Position struct {
	History HistoryID
	Seq     uint64
}

// IsZero reports whether p is the zero Position.
func (p Position) IsZero() bool { return p == Position{} }

// String returns p as one token of at most 43 characters, which are letters, digits, '-', '_'
// and '.'. It can be used in a URL, or as the ID of a server-sent event. The text of the zero
// Position is empty.
func (p Position) String() string {
	if p.IsZero() {
		return ""
	}
	return p.History.String() + "." + strconv.FormatUint(p.Seq, 10)
}

// MarshalText returns the text of [Position.String].
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of [Position.MarshalText]. It returns an error, and leaves p
// unchanged, if text is not exactly the text of a Position.
func (p *Position) UnmarshalText(text []byte) error {
	parsed, ok := parsePosition(string(text))
	if !ok {
		const longest = 43
		return fmt.Errorf("changefeed: unmarshal position %q: must be the text of a Position", text[:min(len(text), longest+1)])
	}
	*p = parsed
	return nil
}

func parsePosition(text string) (p Position, ok bool) {
	history, seq, _ := strings.Cut(text, ".")
	if id, err := base64.RawURLEncoding.DecodeString(history); err == nil {
		copy(p.History[:], id)
	}
	p.Seq, _ = strconv.ParseUint(seq, 10, 64)
	return p, p.String() == text // whatever was wrong, the text of p is another one
}

// A lineage is the names of a table's history, the oldest first. The Seq of each is that of
// the last change under the name. The last one is the present name. In a [Past], its Seq is that
// of the rows. In a table it is out of date, because the table has a Seq of its own: see upTo.
type lineage []Position

// present returns the present name.
func (l lineage) present() HistoryID { return l[len(l)-1].History }

// includes reports whether a name is one of the history.
func (l lineage) includes(name HistoryID) bool {
	return slices.ContainsFunc(l, func(p Position) bool { return p.History == name })
}

// has reports whether a position is in the history of a table whose last change is numbered
// seq.
func (l lineage) has(p Position, seq uint64) bool {
	if p.IsZero() {
		return true
	}
	for i, name := range l {
		if name.History == p.History {
			if i < len(l)-1 {
				seq = name.Seq
			}
			return p.Seq <= seq
		}
	}
	return false
}

// end returns the number of the last change under a name other than the present one.
func (l lineage) end(name HistoryID) uint64 {
	return l[slices.IndexFunc(l, func(p Position) bool { return p.History == name })].Seq
}

// A history is the history of a table, from the beginning or a Reset to the next Reset.
type history struct {
	names     atomic.Pointer[lineage] // changes under the table's lock
	published atomic.Uint64           // the table's Seq, once the changes up to it are in all rings and squashes
}

// newHistory returns the history of a table that has come to the end of the names.
func newHistory(names lineage) *history {
	h := new(history)
	h.names.Store(&names)
	h.published.Store(names[len(names)-1].Seq)
	return h
}

func (h *history) position(seq uint64) Position {
	return Position{History: h.names.Load().present(), Seq: seq}
}

// lineageNow returns the present lineage, which must not be modified.
func (t *Table[K, V]) lineageNow() lineage { return *t.history.Load().names.Load() }

// momentLocked returns the number of a snapshot that is taken now.
func (t *Table[K, V]) momentLocked() uint64 { return t.seq + t.ahead }

// Position returns the table's present position: after its last change.
func (t *Table[K, V]) Position() Position {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.At(t.seq)
}

// At returns the position after the change numbered seq in the present history, for example the
// Seq that a write has returned. It does not check whether the table has such a change, and does
// not wait. A loop saves [Feed.Position], which is also correct after a [Table.Reset].
func (t *Table[K, V]) At(seq uint64) Position {
	return t.history.Load().position(seq)
}

// Fork gives the table's history a new name from here on, and returns the present position
// under it. The sequence numbers go on. Positions from before the fork remain valid. Under the
// earlier name, positions after the fork are refused: see [After].
//
// A program needs Fork when it makes a table again from a copy that may lack the last changes.
// Others may have seen these changes and saved a position after them. The table will make other
// changes with the same numbers. Without the fork, such a position would seem to be valid.
//
// Each fork uses 24 bytes for as long as the table lives.
func (t *Table[K, V]) Fork() Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forkLocked(newHistoryID())
}

// ForkTo is like [Table.Fork], but the new name is that of a fork of another table. A replica whose
// source has forked after the change that the replica has last can thus follow it further: see
// [Table.Apply]. p is the position that Fork returned. If the table is at p already, ForkTo does
// nothing.
//
// Possible errors: [ErrGap] if the table's last change is not that of p, [ErrOtherHistory] if the
// table had the name before, or if there is none, and [ErrTableDropped].
func (t *Table[K, V]) ForkTo(p Position) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.forkToLocked(p); err != nil {
		return fmt.Errorf("changefeed: fork %q to %v: %w", t.name, p, err)
	}
	return nil
}

func (t *Table[K, V]) forkToLocked(p Position) error {
	switch {
	case t.dropped:
		return ErrTableDropped
	case p.Seq != t.seq:
		return fmt.Errorf("%w: the table's last change is %d", ErrGap, t.seq)
	case p == t.At(t.seq):
		return nil
	case p.History == (HistoryID{}) || t.lineageNow().includes(p.History):
		return ErrOtherHistory
	}
	t.forkLocked(p.History)
	return nil
}

func (t *Table[K, V]) forkLocked(name HistoryID) Position {
	p := Position{History: name, Seq: t.seq}
	next := append(t.lineageNow().upTo(t.seq), p)
	t.history.Load().names.Store(&next)
	t.setHandleLocked()
	return p
}

// Lineage returns the names of the table's history, the oldest first. Each comes with the
// number of the last change under it, so the last element is the present position. A copy of
// the table that is to accept the same positions needs them.
func (t *Table[K, V]) Lineage() []Position {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.lineageNow().upTo(t.seq)
}

// upTo returns a copy of the names of a table whose last change is numbered seq.
func (l lineage) upTo(seq uint64) lineage {
	l = slices.Clone(l)
	l[len(l)-1].Seq = seq
	return l
}
