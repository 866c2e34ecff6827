package changefeedprom

import (
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seed-637b77f9/changefeed"
)

// NewCollector returns a collector for the tables. It can be used by several goroutines at once.
//
// A table that is passed twice counts once. NewCollector panics if a table is nil, and if two of
// the tables have the same name.
func NewCollector(tables ...changefeed.AnyTable) prometheus.Collector {
	c := new(collector)
	byName := make(map[string]changefeed.AnyTable)
	for _, t := range tables {
		if t == nil {
			panic("changefeedprom: NewCollector: nil table")
		}
		name := label(t.Name())
		other, ok := byName[name]
		if ok && other != t {
			panic(fmt.Sprintf("changefeedprom: NewCollector: two tables have the name %q; make a collector for each, "+
				"and register each with another label: see prometheus.WrapRegistererWith", name))
		}
		if !ok {
			byName[name] = t
			c.tables = append(c.tables, newTableCollector(t, name))
		}
	}
	return c
}

// A collector is what NewCollector returns.
type collector struct{ tables []*tableCollector }

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, t := range c.tables {
		for _, d := range t.descs {
			ch <- d
		}
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.tables {
		for _, m := range t.collect() {
			ch <- m
		}
	}
}

// A metric is an index in metrics.
type metric int

const (
	tableRows metric = iota
	tableSeq
	tableWrites
	tableRetained
	feedCount
	feedBuffered
	feedCapacity
	feedLag
	feedDelivered
	feedSkipped
)

// byFeed are the variable labels of the metrics of feeds.
var byFeed = []string{"feed"}

var metrics = [...]struct {
	name   string
	help   string
	kind   prometheus.ValueType
	labels []string
}{
	tableRows:     {"changefeed_table_rows", "Rows in the table.", prometheus.GaugeValue, nil},
	tableSeq:      {"changefeed_table_seq", "Sequence number of the table's last change. A reset may decrease it.", prometheus.GaugeValue, nil},
	tableWrites:   {"changefeed_table_writes_total", "Changes that writes to the table made.", prometheus.CounterValue, []string{"kind"}},
	tableRetained: {"changefeed_table_retained_changes", "Changes of the table with which a feed can resume.", prometheus.GaugeValue, nil},
	feedCount:     {"changefeed_feeds", "Feeds of the table that have not ended.", prometheus.GaugeValue, byFeed},
	feedBuffered:  {"changefeed_feed_buffered_changes", "Changes waiting to be read.", prometheus.GaugeValue, byFeed},
	feedCapacity:  {"changefeed_feed_capacity_changes", "Changes that the buffers can hold.", prometheus.GaugeValue, byFeed},
	feedLag:       {"changefeed_feed_lag_changes", "Changes to the table since the last one that the slowest feed has read.", prometheus.GaugeValue, byFeed},
	feedDelivered: {"changefeed_feed_delivered_changes_total", "Changes that loops received.", prometheus.CounterValue, byFeed},
	feedSkipped:   {"changefeed_feed_skipped_changes_total", "Changes that were skipped because a loop was too slow.", prometheus.CounterValue, byFeed},
}

// A tableCollector collects the metrics of one table.
//
// The count of a feed is lost when the feed ends, so a counter cannot be the sum of what
// [changefeed.AnyTable] lists. Instead it adds up by how much each count has grown since the
// last collection. That needs the last counts of the feeds that have not ended, but nothing of
// those that have.
type tableCollector struct {
	table changefeed.AnyTable
	descs [len(metrics)]*prometheus.Desc

	// mu is held from the listing of the feeds until they are added up. Otherwise a collection
	// that runs in parallel could add an older list after a newer one, and count again what
	// ended in between.
	mu     sync.Mutex
	last   []feedCounts // of the feeds in the last list, in the order of their ids
	groups map[string]*group
}

// A feedCounts is the counts of one feed. They never decrease.
type feedCounts struct {
	id                 uint64
	delivered, skipped uint64
}

// A group is the feeds with one name.
type group struct {
	feeds, buffered, capacity, lag uint64 // of the feeds in the last list
	delivered, skipped             uint64 // of all feeds that were ever in a list
}

func newTableCollector(t changefeed.AnyTable, name string) *tableCollector {
	c := &tableCollector{table: t, groups: make(map[string]*group)}
	for i, m := range metrics {
		c.descs[i] = prometheus.NewDesc(m.name, m.help, m.labels, prometheus.Labels{"table": name})
	}
	return c
}

func (c *tableCollector) collect() []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.table.Info()
	c.addUp(c.table.Feeds())

	var list []prometheus.Metric
	add := func(m metric, value uint64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(c.descs[m], metrics[m].kind, float64(value), labels...))
	}
	add(tableRows, uint64(info.Rows))
	add(tableSeq, info.Position.Seq)
	add(tableWrites, info.Inserts, changefeed.Insert.String())
	add(tableWrites, info.Updates, changefeed.Update.String())
	add(tableWrites, info.Deletes, changefeed.Delete.String())
	add(tableRetained, uint64(info.Retained))
	for name, g := range c.groups {
		add(feedCount, g.feeds, name)
		add(feedBuffered, g.buffered, name)
		add(feedCapacity, g.capacity, name)
		add(feedLag, g.lag, name)
		add(feedDelivered, g.delivered, name)
		add(feedSkipped, g.skipped, name)
	}
	return list
}

// addUp updates the groups with the feeds of a table, which are in the order of their IDs.
func (c *tableCollector) addUp(infos []changefeed.FeedInfo) {
	for _, g := range c.groups {
		g.feeds, g.buffered, g.capacity, g.lag = 0, 0, 0, 0
	}
	last := c.last
	c.last = make([]feedCounts, 0, len(infos))
	for i := range infos {
		f := &infos[i]
		for len(last) > 0 && last[0].id < f.ID { // has ended
			last = last[1:]
		}
		before := feedCounts{id: f.ID}
		if len(last) > 0 && last[0].id == f.ID {
			before = last[0]
		}
		now := before
		now.delivered = max(now.delivered, f.Delivered)
		now.skipped = max(now.skipped, f.Skipped) // for a moment, it may include a change that is being delivered
		c.last = append(c.last, now)

		g := c.group(label(f.Name))
		g.feeds++
		g.buffered += uint64(f.Buffered)
		g.capacity += uint64(f.Capacity)
		g.lag = max(g.lag, f.Lag)
		g.delivered += now.delivered - before.delivered
		g.skipped += now.skipped - before.skipped
	}
}

func (c *tableCollector) group(name string) *group {
	g := c.groups[name]
	if g == nil {
		g = new(group)
		c.groups[name] = g
	}
	return g
}

// label returns a name as the value of a label, which must be UTF-8.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }
