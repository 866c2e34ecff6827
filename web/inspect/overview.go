package inspect

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// An overview is what the first part of the page shows.
type overview struct {
	Time   time.Time   `json:"time"`
	Tables []tableView `json:"tables"`
	Feeds  feedList    `json:"feeds"`
}

type tableView struct {
	Name     string   `json:"name"`
	Rows     int      `json:"rows"`
	Seq      uint64   `json:"seq"`
	Position string   `json:"position"`
	Inserts  uint64   `json:"inserts"`
	Updates  uint64   `json:"updates"`
	Deletes  uint64   `json:"deletes"`
	Retained int      `json:"retained"`
	Indexes  []string `json:"indexes"`
	Feeds    int      `json:"feeds"`
	Dropped  bool     `json:"dropped,omitempty"`
}

// A feedList is the feeds that are furthest behind.
type feedList struct {
	Total   int        `json:"total"`   // of all tables
	Matched int        `json:"matched"` // those that were asked for
	List    []feedView `json:"list"`
}

type feedView struct {
	ID        uint64 `json:"id"`
	Name      string `json:"name"`
	Table     string `json:"table,omitempty"` // empty for a feed of commits of several tables
	Selection string `json:"selection"`
	Options   string `json:"options"`
	Initial   bool   `json:"initial,omitempty"`
	Buffered  int    `json:"buffered"`
	Capacity  int    `json:"capacity,omitempty"` // 0: there is no limit
	Delivered uint64 `json:"delivered"`
	Skipped   uint64 `json:"skipped"`
	Position  string `json:"position,omitempty"`
	Lag       uint64 `json:"lag"` // changes of the table since the one that the feed read last
}

// A feed is a feed of a table.
type feed struct {
	changefeed.FeedInfo
	table *table
}

// isFull returns 1 if the buffer of a feed is full, so that the next change drops one, and 0 otherwise.
// More changes than that are retained ones, with which the feed resumes: see [changefeed.After].
func (f *feed) isFull() int {
	if f.Capacity > 0 && f.Buffered == f.Capacity {
		return 1
	}
	return 0
}

// overview returns the figures of all tables, and of limit feeds that contain the text.
func (h *handler) overview(text string, limit int) *overview {
	o := &overview{Time: time.Now(), Tables: []tableView{}}
	var feeds []*feed
	for i := range h.tables {
		t := &h.tables[i]
		o.Tables = append(o.Tables, viewOfTable(t, t.Info()))
		for _, f := range t.Feeds() {
			feeds = append(feeds, &feed{f, t})
		}
	}
	// A feed of commits is one of each of its tables.
	slices.SortStableFunc(feeds, func(a, b *feed) int { return cmp.Compare(a.ID, b.ID) })
	feeds = slices.CompactFunc(feeds, func(a, b *feed) bool { return a.ID == b.ID })
	o.Feeds.Total = len(feeds)
	if text != "" {
		feeds = slices.DeleteFunc(feeds, func(f *feed) bool {
			return !strings.Contains(f.Name, text) && !strings.Contains(f.Selection, text)
		})
	}
	o.Feeds.Matched = len(feeds)
	slices.SortStableFunc(feeds, func(a, b *feed) int {
		return cmp.Or(b.isFull()-a.isFull(), cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.Buffered, a.Buffered), cmp.Compare(b.Skipped, a.Skipped))
	})
	o.Feeds.List = []feedView{}
	for _, f := range feeds[:min(len(feeds), limit)] {
		o.Feeds.List = append(o.Feeds.List, viewOfFeed(f))
	}
	return o
}

func viewOfTable(t *table, i changefeed.TableInfo) tableView {
	return tableView{
		Name: t.label, Rows: i.Rows, Seq: i.Position.Seq, Position: i.Position.String(),
		Inserts: i.Inserts, Updates: i.Updates, Deletes: i.Deletes,
		Retained: i.Retained, Indexes: append([]string{}, i.Indexes...), Feeds: i.Feeds, Dropped: i.Dropped,
	}
}

func viewOfFeed(f *feed) feedView {
	v := feedView{
		ID: f.ID, Name: f.Name, Selection: f.Selection, Options: f.Options(), Initial: f.Initial,
		Buffered: f.Buffered, Capacity: f.Capacity, Delivered: f.Delivered, Skipped: f.Skipped, Lag: f.Lag,
	}
	if !f.Commits {
		v.Table, v.Position = f.table.label, f.table.At(f.Seq).String()
	}
	return v
}
