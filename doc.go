// Package changefeed holds live state in a typed, ordered, in-memory table whose
// every write can be followed. It brings RethinkDB's table.changes() into one Go
// process: a stream of the old and the new row of every insert, update, replace
// and delete, read with a range loop.
//
//	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })
//
//	feed := games.Changes(ctx) // subscribed from here on
//	go func() {
//		for c, err := range feed {
//			if err != nil {
//				log.Print(err) // skipped changes; in the end, why the feed ended
//				continue
//			}
//			fmt.Println(c.Kind, c.Old, c.New)
//		}
//	}()
//
//	games.Insert(Game{ID: 1})
//	games.Update(1, func(g *Game) { g.Player1 = "Bob" })
//	games.Delete(1)
//
// # What is promised
//
// Formally: the changes of a table are numbered 1, 2, 3, ... without gaps, in the
// order in which they were made ([Change.Seq]). A subscriber gets those after its
// subscription in that order, each at most once. Where it is missing some, because
// its buffer was full, it gets one [*SkippedError] in their place, with their exact
// number, before the first change after them. With N changes unread and a buffer
// of n, the next read yields nothing special if N <= n, and else the notice of N-n
// before the n newest; this holds at any time, also in the middle of a backlog.
// Since it subscribed, what was delivered, skipped and is still buffered add up to
// what was written. A subscription ends when its context is done, and then at
// once; or when the table is dropped, and then after all that is buffered.
//
// Less formally: there is one true history, and you see all of it, or you are told
// exactly where you do not. Apply a feed without a notice to the rows that were
// there when it began, and you have the rows of the table.
//
// A loop that has much to read, or that pays for each turn (a query, a message), takes
// what is ready several at a time by [Table.Batches], without waiting for more.
//
// The writer never waits, blocks or fails because of a subscriber, and what it
// does costs the same with one subscriber of a part of the table and with ten
// thousand: a change is stored once for each part that its row is in. It also costs
// the same whether they read or not, but for the waking of one that waits. A feed with
// [Squash] is the exception: it costs each write to its rows an operation on a B-tree
// of its own.
//
// # Rows
//
// A row handed to the table belongs to it from then on, with all that it refers
// to, and a stored row never changes again: a write puts another one in its place.
// So nobody needs a lock to read a row, and in turn nobody may write to one. What
// [Table.Get] and [Table.All] return is a copy whose top level is the caller's and
// below which it is read-only; [Change.Old] and [Change.New] point to the stored
// rows and are read-only altogether. So let V be a struct: where it is a pointer, a
// map or a slice itself, it has no top level, and to change what Get returned would
// change the stored row behind the table's back, without an event.
//
// The functions handed to [Table.Update] and [Table.Compute] get a copy that they
// may edit. It is made by
//
//   - V's method Clone() V or Clone() *V, on either receiver, where there is one;
//   - a plain copy, if V holds no map, slice, pointer or interface in exported or
//     promoted fields;
//   - otherwise a deep copy by reflection.
//
// A deep copy copies maps, slices, and the values behind pointers and interfaces, as far
// as exported and promoted fields lead. It shares values that are known by their address:
// errors, contexts, a [time.Location], [time.Timer] or [time.Ticker], a target of a
// pointer that is or contains a lock (a [sync.Locker]), and, in an interface, a pointer to
// a struct with unexported fields. It also shares channels, functions, the keys of maps,
// and the references in other unexported fields.
//
// Give a row a Clone if edits change something that is shared, if a pointer points into
// a slice of the row, or if methods of a field's type change it in place, as those of
// [math/big.Int] do.
//
// A write that leaves a row equal to what it was is no change. Rows are equal by
//
//   - V's method Equal(V) bool or Equal(*V) bool, on either receiver, where there is
//     one;
//   - ==, where V is strictly comparable (there is no interface inside) and an update
//     gets a plain copy of it;
//   - else as by [reflect.DeepEqual], which compares what pointers point to.
//
// Two [time.Time] of one instant are equal by == and DeepEqual only if location and
// monotonic reading are, too: store t.UTC().Round(0), or give the row an Equal.
// A row with a NaN or with a function that is not nil is never equal to another (but
// DeepEqual does not look into a slice, map or pointer that both rows share). Which
// of these is used is settled by V alone, when the table is made. A deep copy
// and a deep comparison cost as reflection does; give a row that is written often
// a Clone and an Equal. Neither limits the depth of a row: a linked list of a million
// nodes does not overflow the stack.
//
// # Following
//
// [Table.Changes] returns a [Stream]. It subscribes before it returns, so nothing
// is missed between it and the loop. The loop runs in its own goroutine, at its
// own pace; it may break off and go on later. Always range over both values: an
// error comes with the zero Change.
//
// A subscriber that wants only some of the changes adds a stage to the stream:
//
//	raised := games.Changes(ctx).Filter(func(c changefeed.Change[Game]) bool {
//		return c.Kind == changefeed.Update && c.New.Score > c.Old.Score
//	})
//
// Stages never see an error: a notice of skipped changes passes through all of
// them. A predicate must expect Old or New to be nil.
//
// A subscriber that keeps a copy of the rows begins with [IncludeInitial], and
// has the stream begin so again after a notice with [OnOverflow] and [Resync]. Apply
// each change as "the row is now New" (or gone, for a delete), and forget all rows
// at a [*SkippedError]. One that must not miss a single change takes a larger
// [Buffer], and [Fail].
//
// # Parts of a table
//
// A [Selection] is a part of a table: one row, a range of keys, an index's value or
// range of values, and the rows of any of these, or of the table, for which a
// predicate holds. It is read and followed as the table is, and its feed is about
// the selection: a row that comes into it is an Insert, and one that leaves it a
// Delete, whatever the write was.
//
//	byTeam := changefeed.NewIndex(players, "team", func(p *Player) string { return p.Team })
//	red := byTeam.Equal("red").Where(func(p *Player) bool { return p.Score > 0 })
//	for c, err := range red.Changes(ctx, changefeed.IncludeInitial()) {
//
// This is not what a Filter behind Changes does, which sees changes and not rows: a
// change by which a row leaves the team has an Old that is in it, and a New that is
// not.
//
// A write finds the feeds that it concerns by its row's key and its values in the
// indexes. Feeds of other rows cost it nothing, and those of other ranges and values
// no more than the search for its own, in the logarithm of their number.
// Predicates cannot be found so: they run in the loop, which reads what a feed
// without the predicate would.
//
// # Options
//
// What a feed reads, and Buffer, FeedInfo and SkippedError count:
//
//	selection                       changes of                  with After
//	Table, Table.Where              the table                   the table
//	Row, Range, From                its rows                    the table
//	Index.Equal, Range, From        its rows                    the table
//	any of them with Where          what it is without Where    the table
//
// All options go with all selections, with Batches as with Changes, and with each
// other, as follows (a row's option with a column's):
//
//	                 Buffer   IncludeInitial  After      Squash     OnOverflow  Poll
//	Named            yes      yes             yes        yes        yes         yes
//	Buffer                    yes (1)         yes (2)    no use     yes         yes
//	IncludeInitial                            refused    yes (3)    yes         yes
//	After                                                yes (4)    yes (5)     yes
//	Squash                                                          refused     yes (6)
//	OnOverflow                                                                  yes
//
//	(1) The rows are held outside the buffer; a notice comes after Ready.
//	(2) Until the feed has caught up, the buffer is larger by what Retain holds.
//	(3) The first set is of the changes after Ready's Seq.
//	(4) What is held is squashed while Changes subscribes; a notice comes before it.
//	(5) Also for what is no longer held: Fail ends the feed, Resync begins it anew.
//	(6) A set that is not due is nothing to read; wake gets its value when it is.
//
// Refused combinations, and values that an option does not take, yield
// [ErrInvalidOption] as the only pair of the stream.
//
// # Transactions
//
// [Transact] makes several writes, to one table or to several, as one: all of them or
// none. Each is a change of its own, and no feed sees the first before it can see the
// last. With [Table.Batches] a loop gets them together.
//
// # Concurrency
//
// All methods of a table are safe for concurrent use. The functions handed to
// Update and Compute run while the table is locked, and so may the key function (which
// loops over rows call, too, without the lock), Clone and Equal: they must be quick, and
// one that calls the table deadlocks. Stages and loop bodies run without a lock, in the
// goroutine of the loop; they may be slow, and may call the table. So do predicates of
// selections. A stream is for one goroutine at a time: call Changes once for each. The
// package starts no goroutine that stays; for a moment one runs when a subscription's
// context ends (in package context), another if the table is locked then, one when the
// wait of a [Squash] is over (in package time), and one when many feeds that [Poll] are
// to be told of a write.
//
// # Shutting down
//
// To end one feed at once, end its context: what it has buffered is discarded. To have
// all feeds read what is there, stop the writers, [Table.Drop] the table, and wait for
// the loops: each gets all that it has buffered, and then [ErrTableDropped]. A single
// feed reads to the end of what is there with [Poll].
//
// # Memory
//
// A table holds its rows; a ring of pages holds the changes that some subscriber
// may still read, once for all subscribers of one part of the table, and the table's
// ring those that [Table.Retain] asks for. One that stalled holds at most as many
// changes as its buffer takes, and the old rows that they refer to. A feed with Squash
// holds one change a row, and one with IncludeInitial a snapshot until Ready. A subscription
// ends with its context; one whose stream is garbage is released by the collector.
//
// # Differences from RethinkDB
//
//   - A full buffer drops the oldest changes, one by one. RethinkDB discards the whole
//     queue, the newest change included.
//   - A filter cannot swallow the notice of skipped changes.
//   - When the table is dropped, what was buffered is still delivered.
//   - A stream can go on after a position, and notices can end it or make it begin anew.
//   - Initial rows come before all changes, joined by one Ready.
//   - Squash never overflows, and hands out a row that is what it was before not at all.
//   - A missing row is an error to Update, Replace and Delete, not a skipped write.
//   - Everything is typed, in process, and in memory: there is no server, no query
//     language, no persistence.
package changefeed
