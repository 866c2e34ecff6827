package changefeed

import (
	"fmt"
	"reflect"
	"strings"
)

// A TableInfo describes a table at one moment: see [Table.Info].
type TableInfo struct {
	Name     string
	Rows     int
	Position Position // after the last change

	// The numbers of changes that writes to this table have made. Changes of [Table.Apply] count.
	// Changes that were rolled back do not, nor do those that led to the rows of [Table.Restore]
	// and [Table.Reset].
	Inserts, Updates, Deletes uint64

	Retained int      // number of changes with which a feed can resume: see [Table.Retain]
	Indexes  []string // their names, in the order in which they were made
	Feeds    int      // number of subscriptions that have not ended: see [Table.Feeds]
	Dropped  bool
}

// String returns the figures in one line:
//
//	table "games": rows 3, seq 7, retained 7, indexes 1, feeds 2
//
// It adds "dropped" for a dropped table.
func (i TableInfo) String() string {
	text := fmt.Sprintf("table %q: rows %d, seq %d, retained %d, indexes %d, feeds %d",
		i.Name, i.Rows, i.Position.Seq, i.Retained, len(i.Indexes), i.Feeds)
	if i.Dropped {
		text += ", dropped"
	}
	return text
}

// Info returns the figures of the table. It waits for at most one write or transaction, and takes
// the same time for many rows and feeds as for few.
func (t *Table[K, V]) Info() TableInfo {
	t.mu.RLock()
	defer t.mu.RUnlock()
	info := TableInfo{
		Name:     t.name,
		Rows:     t.len,
		Position: t.At(t.seq),
		Inserts:  t.made[Insert],
		Updates:  t.made[Update],
		Deletes:  t.made[Delete],
		Retained: t.allScope.ring.retained(),
		Feeds:    t.feeds.len(),
		Dropped:  t.dropped,
	}
	for _, x := range t.shownIndexes() {
		info.Indexes = append(info.Indexes, x.indexName())
	}
	for _, s := range t.commitSets() {
		info.Feeds += s.feeds.len()
	}
	return info
}

// A ViewInfo describes a view of a table: see [Table.Views].
type ViewInfo struct {
	Name    string
	Kind    string // the function that made the view, such as "Group"
	Writes  uint64 // number of changes of this table that have reached the view
	Changes uint64 // number of changes of the view since it was made, for all of its sources
}

// Views returns the figures of the table's views, in the order in which the views were made. It does not return views
// of these views. A [Join] of the table with itself comes twice. Like [Table.Info], Views waits for at most one write
// or transaction.
//
// A change does not reach a view if its rows are outside the selection that the view is made of, or outside a [Top].
// Writes also counts changes that were rolled back. In a view of one source, Changes divided by Writes says how many
// rows of the view a write changes on average. Each of them costs about as much as one more write.
func (t *Table[K, V]) Views() []ViewInfo {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var views []ViewInfo
	for _, p := range t.dependents {
		view := p.dependent.viewTable()
		views = append(views, ViewInfo{Name: view.Name(), Kind: p.kind, Writes: p.followed, Changes: view.changesLocked()})
	}
	return views
}

func (t *Table[K, V]) changesLocked() uint64 { return t.made[Insert] + t.made[Update] + t.made[Delete] }

// An about has the options of a feed that only its figures show.
type about struct {
	name     string
	overflow Overflow
	polls    bool
	filters  bool // the selection has a predicate
}

// feedName returns the name of a feed.
func (a *about) feedName() string {
	if a == nil {
		return ""
	}
	return a.name
}

// addTo adds a to the figures of a feed that follows a part of a table.
func (a *about) addTo(i *FeedInfo, part string) {
	i.Selection = part
	if a == nil {
		return
	}
	i.Name, i.Overflow, i.Polls = a.name, a.overflow, a.polls
	if a.filters {
		if part != "" {
			part += ", "
		}
		i.Selection = part + "where"
	}
}

func (p *keyPart[K, V]) String() string       { return p.keys.text("key") }
func (p *keysPart[K, V]) String() string      { return p.text("key") }
func (p *indexPart[S, K, V]) String() string  { return p.values.text(p.index.name) }
func (p *valuesPart[S, K, V]) String() string { return p.text(p.index.name) }

// text describes the interval. name is the name of its elements.
func (iv *interval[B]) text(name string) string {
	switch iv.extent {
	case onwards:
		return fmt.Sprintf("%s >= %s", name, shortText(iv.from))
	case between:
		return fmt.Sprintf("%s <= %s < %s", shortText(iv.from), name, shortText(iv.to))
	case point:
		return fmt.Sprintf("%s = %s", name, shortText(iv.from))
	}
	return ""
}

// text describes the set. name is the name of its points.
func (p *pointSet[B, K, V]) text(name string) string {
	const shown = 3
	var texts []string
	for _, b := range p.points[:min(len(p.points), shown)] {
		texts = append(texts, shortText(b))
	}
	more := ""
	if n := len(p.points) - shown; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%s in (%s%s)", name, strings.Join(texts, ", "), more)
}

// shortText is like quoted, but the text has at most 64 characters of the value.
func shortText(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%.64q", s)
	}
	if reflect.ValueOf(v).Kind() == reflect.String {
		return fmt.Sprintf("%.64q", fmt.Sprint(v))
	}
	return fmt.Sprintf("%.64s", fmt.Sprint(v))
}
