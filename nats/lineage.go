package natsfeed

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/seed-637b77f9/changefeed"
)

// A lineage is the names of a table's history, as [changefeed.Table.Lineage] returns them. It is not
// empty.
type lineage []changefeed.Position

// last returns the position that the lineage leads to.
func (l lineage) last() changefeed.Position { return l[len(l)-1] }

// has reports whether a position is in the history. The lineage may be empty.
func (l lineage) has(p changefeed.Position) bool {
	return slices.ContainsFunc(l, func(name changefeed.Position) bool {
		return name.History == p.History && p.Seq <= name.Seq
	})
}

// mayHave reports whether the history has a position, or may still come to it.
func (l lineage) mayHave(p changefeed.Position) bool {
	return l.has(p) || p.History == l.last().History
}

// isPast reports whether a position is of a name that the history has had, but after another name came.
func (l lineage) isPast(p changefeed.Position) bool {
	return !l.mayHave(p) && slices.ContainsFunc(l, func(name changefeed.Position) bool { return name.History == p.History })
}

// leadsTo returns the names that a table at the end of l must get to be at the end of another lineage.
// If it also needs changes, or has changes that are not in the other one, ok is false.
func (l lineage) leadsTo(other lineage) (names []changefeed.Position, ok bool) {
	if len(l) == 0 || !other.has(l.last()) || other.last().Seq != l.last().Seq {
		return nil, false
	}
	i := slices.IndexFunc(other, func(p changefeed.Position) bool { return p.History == l.last().History })
	return other[i+1:], true
}

// upTo returns the names that the history had after the change numbered seq.
func (l lineage) upTo(seq uint64) lineage {
	for i, name := range l {
		if name.Seq > seq {
			l = slices.Clone(l[:i+1])
			l[i].Seq = seq
			return l
		}
	}
	return l
}

// lineages are those of all tables, by name.
type lineages map[string]lineage

func (ls lineages) json() []byte {
	data, _ := json.Marshal(ls) // positions have texts
	return data
}

func parseLineages(data []byte) (ls lineages, err error) {
	err = json.Unmarshal(data, &ls)
	for name, l := range ls {
		if len(l) == 0 && err == nil {
			err = fmt.Errorf("table %q has no lineage", name)
		}
	}
	return ls, err
}

func (ls lineages) clone() lineages {
	c := make(lineages, len(ls))
	for name, l := range ls {
		c[name] = slices.Clone(l)
	}
	return c
}

// has reports whether a position is in the history of one of the tables.
func (ls lineages) has(p changefeed.Position) bool {
	for _, l := range ls {
		if l.has(p) {
			return true
		}
	}
	return p.IsZero()
}

// include reports whether ls have the ends of others. The end of an empty table may be missing.
func (ls lineages) include(others lineages) bool {
	for name, other := range others {
		if at := other.last(); at.Seq > 0 && !ls[name].has(at) {
			return false
		}
	}
	return true
}

// leadTo reports whether tables at the end of ls need at most names to be at the end of others.
func (ls lineages) leadTo(others lineages) bool {
	for name, other := range others {
		if _, ok := ls[name].leadsTo(other); !ok {
			return false
		}
	}
	return true
}

// extend makes a position the last one of a table, if its history does not have it.
func (ls lineages) extend(table string, at changefeed.Position) {
	l := ls[table]
	if l.has(at) {
		return
	}
	if n := len(l); n > 0 && l[n-1].History == at.History {
		l[n-1].Seq = at.Seq
		return
	}
	ls[table] = append(l, at)
}
