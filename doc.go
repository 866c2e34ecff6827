// Package changefeed provides a typed, ordered, in-memory table whose writes can be
// followed. [Table.Changes] returns a stream of every insert, update and delete, with
// the old and the new row:
//
//	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })
//
//	feed := games.Changes(ctx) // subscribed: no later write is missed
//	go func() {
//		for c, err := range feed {
//			if err != nil {
//				log.Print(err) // skipped changes, or why the feed ended
//				continue
//			}
//			fmt.Println(c.Kind, c.Old, "->", c.New)
//		}
//	}()
//
//	games.Insert(Game{ID: 1})
//	games.Update(1, func(g *Game) { g.Player1 = "Bob" })
//	games.Delete(1)
//
// # Guarantees
//
// The changes of a table are numbered 1, 2, 3 and so on, without gaps, in the order in
// which they were made ([Change.Seq]). A subscriber receives the changes made after its
// subscription in that order, each at most once.
//
// A subscriber that is too slow for its buffer loses the oldest changes. It receives one
// [*SkippedError] in their place, with their exact number, before the first change after
// them. If N changes are unread and the buffer holds n, the next read yields the oldest
// change when N <= n. Otherwise it yields a SkippedError with Count N-n, and then the n
// newest changes. The changes delivered, skipped and still buffered add up to those made
// since the subscription.
//
// A feed without a SkippedError, applied to the rows that were there when it began,
// yields the rows of the table.
//
// A write never waits, blocks or fails because of a subscriber. A change is stored once
// for each followed part of the table that contains its row. A write therefore costs the
// same for one and for ten thousand subscribers to a part, whether they read or not. If
// some are waiting, the write wakes only a few. [Squash] is an exception.
//
// [Transact] makes several writes, to one table or several, or none of them. Readers see
// them all at once. [Read] reads several tables at one moment, without a lock.
//
// # Rows
//
// A row passed to a table belongs to it, with everything that the row refers to. A
// stored row never changes again, because a write stores another row in its place. Rows
// can therefore be read without locking, and must not be modified. With the build tag
// changefeed_debug, the package panics when it finds a modified row.
//
// [Table.Update] and [Table.Compute] pass a deep copy to their function. It shares values
// that are known by their address: errors, contexts, *time.Location, timers, locks and
// types that contain one, channels, functions, map keys, and pointers in interfaces to
// structs with unexported fields. It also shares whatever unexported fields refer to, so
// a row with its own maps or slices there needs a method Clone() V or Clone() *V, on
// either receiver, which replaces the copy. A row also needs one for a pointer into its
// own slice, and for a type whose methods modify it in place, such as [math/big.Int].
//
// A write that leaves a row equal to the old one is no change: see [Table].
//
// # Following a table
//
// The loop runs in its own goroutine, at its own pace. It can break, and a later range
// resumes. Always use both loop variables, because an error comes with the zero Change.
//
// [Stream.Filter] selects the changes that a subscriber wants. Old or New can be nil:
//
//	raised := games.Changes(ctx).Filter(func(c changefeed.Change[Game]) bool {
//		return c.Kind == changefeed.Update && c.New.Score > c.Old.Score
//	})
//
// A subscriber that keeps a copy of the rows uses [IncludeInitial], and [OnOverflow] with
// [Resync]. It stores New for each change, removes the row for a Delete, and clears the
// copy at a SkippedError. A subscriber that must not miss a change uses a larger [Buffer]
// and [Fail]. [Table.Batches] yields several changes at a time.
//
// # Selections
//
// A [Selection] is a part of a table. Its feed reports changes relative to the selection.
// A row that starts to match is an Insert, and a row that stops matching is a Delete,
// whatever the write was:
//
//	byTeam := changefeed.NewIndex(players, "team", func(p *Player) string { return p.Team })
//	red := byTeam.Equal("red").Where(func(p *Player) bool { return p.Score > 0 })
//	for c, err := range red.Changes(ctx, changefeed.IncludeInitial()) {
//
// A Filter is different, because it sees changes and not rows. When a player leaves the
// team, only Old matches.
//
// # Views
//
// A [View] is a table whose rows follow from those of other tables or views, its sources. A write to a
// source updates its views before it returns. Readers and feeds see the source and its views change at
// one moment:
//
//	best := changefeed.Top(byScore, "best", 10) // the rows with the largest values of an index, in rank order
//	teams := changefeed.Group(players, "teams", func(p *Player) string { return p.Team },
//		func(sum *int, p *Player, sign int) { *sum += sign * p.Score }) // sign is -1 to remove a row
//
// [Select] filters rows and transforms them. [Group] and [Count] have a row for each group of rows. [Join]
// and [LeftJoin] combine each row with the row that it refers to. [Top] and [Bottom] have the first rows
// by an index, and [TopEach] and [BottomEach] have those of each group. A view is read, indexed and
// followed like a table, and can be a source of further views. [Ranked] adds ranks to the feed of a view.
// [Table.Views] lists the views of a table with their costs.
//
// # Options
//
// Options can be combined with each other and with every selection. One pair is refused,
// and some pairs interact:
//
//	After, IncludeInitial    refused with ErrInvalidOption
//	OnOverflow, Squash       OnOverflow is for After and Reset alone
//	Buffer, Squash           Buffer has no effect
//	IncludeInitial, Squash   the first set is of the changes after Ready
//	After, Squash            the retained changes come one by one
//	Poll, Squash             nothing can be read before the set is due
//
// A feed of a row, range or index value reads the changes of its rows, and a predicate
// does not alter that. Buffer, [FeedInfo] and SkippedError count the changes that are read.
//
// # Resuming
//
// [Track] gives access to the [Position] of a feed, and [After] resumes there, with the
// changes that [Table.Retain] retains. With [Resync], it takes every position, also the zero
// one of a first start, and may begin with a SkippedError and the present rows.
//
// # Several tables, and replicas
//
// [Commits] follows several tables in one order, and yields each write or transaction as
// one element. [Table.Restore] gives a new table rows and history of another one, also of
// another process. [Table.Apply] keeps it a replica. [Table.Reset] replaces its contents.
//
// # Around a table
//
// [Table.Info] and [Table.Feeds] have figures. The package web sends rows and changes to browsers,
// and its package inspect shows a running program. The module durable stores tables in a file, nats
// keeps replicas of them in other processes, and prometheus reports metrics.
//
// # Concurrency
//
// All methods of a table are safe for concurrent use. A stream is for one goroutine at a time.
// Loop bodies, stages and predicates of selections run in the loop's goroutine, without a
// lock. They can be slow, and use tables. There are two exceptions, which run under the lock:
// predicates in Transact, and the predicate of a selection that is the source of a view.
//
// Other functions can run under a table's lock: those passed to Update, Compute and
// [Transact], key and compare functions, index values, definitions of views, Clone and Equal. They must be
// quick and must call no table: see [Table]. Inside Transact, use [Table.In], [View.In] and
// [Selection.In].
//
// No goroutine stays. Short ones start when a context ends, a Squash is due, or a write
// notifies several feeds, and to drop old rows.
//
// # Shutting down
//
// To end one feed at once and discard its buffer, cancel its context. To let all feeds
// finish, stop the writers, [Table.Drop] the table, and wait for the loops. Each receives
// everything buffered, and then [ErrTableDropped].
//
// # Memory
//
// Unread changes are stored once for all subscribers to a part of the table. A stalled
// subscriber holds at most as many as its buffer, with their old rows, and those with which
// After resumes. With Squash it holds one change for each row. A range, Read, and a feed
// before Ready hold a snapshot: at most one earlier row for each row. [Table.Retain] retains
// changes for later feeds. The garbage collector ends a subscription whose stream is
// unreachable.
//
// # Differences from RethinkDB
//
// Events, write rules and JSON follow RethinkDB's changefeeds, except:
//
//   - A full buffer drops the oldest changes one by one, not the whole queue.
//   - A filter cannot swallow the notice of skipped changes.
//   - A dropped table still delivers the changes that are buffered.
//   - A stream can resume. A notice can end or restart it.
//   - Initial rows come before all changes, followed by one Ready.
//   - The feed of a missing row begins with Ready alone, without a null.
//   - Squash never overflows, and its wait is never cut short.
//   - A missing row is an error to Update, Replace and Delete.
//   - A row with several values in an index comes once.
//   - A panic in a user's function reaches the caller.
//   - Views take the place of order_by.limit, joins and aggregates. In a feed of [Top], the row that is
//     pushed out is a Delete, and the new row is an Insert.
//   - Everything is typed, in process and in memory, without a server or query language.
package changefeed
