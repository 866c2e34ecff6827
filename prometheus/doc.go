// Package changefeedprom reports tables of [changefeed] and their feeds to Prometheus.
//
//	registry.MustRegister(changefeedprom.NewCollector(players, games))
//
// A [changefeed.View] is passed and reported like a table.
//
// The file grafana.json beside this package is a dashboard for its metrics.
//
// The name of the package is not that of its directory, because its users also import the package
// prometheus of the client library.
//
// # Metrics
//
// Each metric has the label table, which is the name of the table:
//
//	changefeed_table_rows                   gauge    rows in the table
//	changefeed_table_seq                    gauge    sequence number of the last change
//	changefeed_table_writes_total           counter  changes that writes made; kind is insert, update or delete
//	changefeed_table_retained_changes       gauge    changes with which a feed can resume
//	changefeed_feeds                        gauge    feeds that have not ended
//	changefeed_feed_buffered_changes        gauge    changes waiting to be read
//	changefeed_feed_capacity_changes        gauge    capacity of the buffers
//	changefeed_feed_lag_changes             gauge    how far behind the slowest feed is
//	changefeed_feed_delivered_changes_total counter  changes that loops received
//	changefeed_feed_skipped_changes_total   counter  changes that were skipped because a loop was too slow
//
// # Feeds
//
// The last six metrics also have the label feed, which is the name of the feed: see
// [changefeed.Named]. Feeds of one table with the same name are added up. Only their lag is not a
// sum, but that of the slowest. Feeds without a name are added up with the empty label,
// which is the same to Prometheus as no label. The number of time series therefore depends on the
// number of names, not on the number of feeds. The collector reports a name for ever after it has
// seen it once, so do not put the number of a user or of a request into a name.
//
// A feed of [changefeed.Commits] counts in each of its tables, with its changes to all of them, so
// do not add it up over tables. A feed with [changefeed.Squash] has no capacity. A feed with a
// predicate also counts the changes that it reads and does not select.
//
// The counters never decrease, even when feeds end. A counter contains what the collector has seen.
// It misses what a feed did between the last collection and its end. A feed that begins and ends
// between two collections is not counted. The first collection counts all that the feeds have done
// before. A feed may count one skipped change too many: see [changefeed.FeedInfo].
//
// A feed that ends when it overflows, as with [changefeed.Fail], may thus never be seen to skip
// anything. Its loop gets the error, and should count it.
//
// The lag is [changefeed.FeedInfo.Lag]: the number of changes to the table since the last one that
// the feed has read. It includes changes that the feed has skipped, or does not select. It is 0 if
// nothing is buffered. For a feed of Commits it is the number of changes in the buffer.
//
// # Alerts
//
// A loop is too slow, and misses changes:
//
//	rate(changefeed_feed_skipped_changes_total[5m]) > 0
//
// A loop has been behind its table for a while:
//
//	min_over_time(changefeed_feed_lag_changes[5m]) > 1000
//
// The buffers of a name are filling, on average. The capacity of feeds with Squash is 0:
//
//	changefeed_feed_buffered_changes / (changefeed_feed_capacity_changes > 0) > 0.5
//
// Changes that a feed never had are not skipped: a feed that begins with the present rows, or resumes
// with them, counts from there on.
//
// # Tables
//
// The label table is constant, so several collectors of different tables can be registered in one
// registry. A dropped table is reported without rows. To stop that, unregister its collector.
//
// A registry refuses a second collector of a table, or of one with the same name. If tables have
// the same name, make a collector for each, and register all collectors with one more label: see
// [prometheus.WrapRegistererWith].
//
// # Cost
//
// A collection waits for at most one write or transaction a table. It takes linear time in the
// number of feeds, 1.2x as long as [changefeed.Table.Feeds] (BenchmarkCollect). The number of rows
// makes no difference, and no writer waits for the whole collection. A collector uses 24 bytes for
// each feed.
package changefeedprom
