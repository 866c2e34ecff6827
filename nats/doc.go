// Package natsfeed keeps replicas of tables of [changefeed] in other processes, by NATS JetStream. One
// process publishes the tables. The others follow them:
//
//	// in the process that writes to the tables
//	pub, err := natsfeed.Publish(ctx, js, "games", natsfeed.Rows(players), natsfeed.Rows(games))
//
//	// in each of the others
//	rep, err := natsfeed.Follow(ctx, js, "games", natsfeed.Rows(players), natsfeed.Rows(games))
//
// js is a JetStream of the package github.com/nats-io/nats.go/jetstream, of a connection to a server
// or a cluster. The package embedded beside this one runs a server in the process.
//
// A replica is an ordinary table. It is read, followed and indexed like any other. It has the history
// and the sequence numbers of its source, so the position of a feed is valid in all replicas, and a
// browser can go on at another server. Only the publisher's process writes to the tables.
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
// # What is in JetStream
//
// A commit, that is a write or a transaction, is one message of a stream, so no replica ever shows a
// half of it. A commit that is too large for one message is several, and a replica takes it when it has
// the last. Beside the stream is an object store with snapshots of all tables. A new replica begins
// with the newest snapshot, and so does one whose connection was lost for so long that the stream does
// not have all of the messages any more. Its followers get the notice of a [changefeed.Table.Reset].
// The publisher makes a snapshot whenever there have been enough changes ([SnapshotEvery]), and then
// deletes the messages before the snapshot that was the newest until then.
//
// # One publisher
//
// Each message names the one that it must come after. If somebody else has published in between,
// JetStream refuses it, and the publisher ends with [ErrFenced]. So there is one order of commits,
// which all replicas have.
//
// If the publisher fails, [Replica.Promote] makes a replica the publisher. It has everything that
// JetStream has acknowledged. The publisher before it may have shown changes to its own process that
// JetStream never got. To go on, it follows the tables, which resets them.
package natsfeed
