// Package natsfeed keeps replicas of tables of [changefeed] in other processes, by NATS JetStream. One
// process publishes the tables. The others follow them:
//
//	// in the process that writes to the tables
//	pub, err := natsfeed.Publish(ctx, js, "games", natsfeed.Rows(players), natsfeed.Rows(games))
//
//	// in each of the others
//	rep, err := natsfeed.Follow(ctx, js, "games", natsfeed.Rows(players), natsfeed.Rows(games))
//
// js is a JetStream, of a connection to a server (nats-server -js) or a cluster:
//
//	conn, err := nats.Connect("nats://host1,nats://host2,nats://host3", nats.MaxReconnects(-1))
//	js, err := jetstream.New(conn)
//
// The package embedded beside this one runs a server in the process.
//
// A replica is an ordinary table. It is read, followed and indexed like any other. It has the history
// and the sequence numbers of its source. So the position of a feed is valid in all replicas, and a
// browser can go on at another server. For that, each process calls [changefeed.Table.Retain] for the
// table with the same number. Only the publisher's process writes to the tables.
//
// # Starting
//
// A program that publishes tables of its own can find that they were published before, by a process
// that has ended. It then takes the rows over:
//
//	pub, err := natsfeed.Publish(ctx, js, "games", options...)
//	if errors.Is(err, natsfeed.ErrPublished) {
//		rep, err := natsfeed.Follow(ctx, js, "games", options...) // and handle err
//		pub, err = rep.Promote(ctx)
//	}
//
// The last process that does this is the publisher, and the ones before it end. See the section "One
// publisher".
//
// # Waiting
//
// Writers do not wait for JetStream, unless they ask for it. After a write, the publisher can wait until
// JetStream has it, and a replica until it has it, too:
//
//	c, err := players.Update("Bob", func(p *Player) { p.Score++ })
//	err = pub.Wait(ctx, players.At(c.Seq))
//	err = rep.Wait(ctx, position) // of a change that another process has made
//
// A Position has a text, which can be sent along with an answer, and come back with the next request.
//
// # What is in JetStream
//
// The log is a stream of JetStream. A message of it has the commits, which are writes and transactions,
// that were made while the message before it was on its way. A replica makes each commit at one moment,
// so nobody ever sees a half of one. Commits that are too large for a message are in several, and the
// replica waits for the last.
//
// A second stream has snapshots. A snapshot has the rows of all tables, and the changes that they retain
// ([changefeed.Table.Retain]). A new replica begins with the newest snapshot. A replica also begins anew
// if it was away for so long that the log lacks some of its messages. Its followers get the notice of a
// [changefeed.Table.Reset]. The publisher makes a snapshot whenever there have been enough changes
// ([SnapshotEvery]), and then deletes the messages before the snapshot that was the newest until then.
// Only a publisher may delete messages.
//
// For the name "games", the log is the stream changefeed_games, with the subject changefeed.games. The
// snapshots are in changefeed-snapshots_games, and their subjects begin with changefeed.games.snapshots.
// To delete a feed, end its publisher, and delete both. A publisher that runs makes them again.
//
// The rows are in JetStream as encoding/json encodes them, or as [Encoding] says. A row that cannot be
// encoded stops the publishing, until it is changed or deleted: [OnError] reports it, writers go on, and
// Wait waits.
//
// # One publisher
//
// Each message names the one that it must come after. If somebody else has published in between,
// JetStream refuses it, and the publisher ends with [ErrFenced]. So there is one order of commits,
// which all replicas have.
//
// If the publisher fails, [Replica.Promote] makes a replica the publisher. It has everything that
// JetStream has acknowledged. The publisher before it may have shown changes to its own process that
// JetStream never got. To go on, it follows the tables, which resets them. The program decides when to
// promote which replica. The example examples/cluster of the module embedded decides by a lease, which
// is a key of JetStream.
//
// # What survives
//
// JetStream acknowledges a message when a majority of the servers that keep it have it: one of one, or
// two of three ([Replicas]). By default, a server writes to the disk after that, at latest after
// two minutes. With "sync: always" in the configuration of its JetStream, it writes before.
//
//	what fails                   1 server     1, sync      3 servers    3, sync
//	the publisher's process      all          all          all          all
//	a server's process           all          all          all          all
//	the power of one server      all but 2m   all          all          all
//	the power of all servers     all but 2m   all          all but 2m   all
//	the disk of one server       nothing      nothing      all          all
//
// The table shows which acknowledged changes then remain. "All but 2m" is all but those of the last two
// minutes. If the publisher's process still runs, nothing is lost for good: it begins anew with a
// snapshot of the rows that it has, and so do the replicas. BENCHMARKS.md in the root has what each
// column costs.
//
// # Watching
//
// The publisher is a feed named "nats" in [changefeed.Table.Feeds]. Its buffered changes are those that
// JetStream does not have yet. [Replica.Behind] returns how far a replica is behind. [OnError] reports
// errors, and the channels of Done are closed when a publisher or a replica ends.
package natsfeed
