// Package durable keeps tables of [changefeed] in a file, so that they survive the end of the
// process, also by kill -9.
//
//	players := changefeed.NewTable("players", func(p *Player) string { return p.Name })
//	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })
//	store, err := durable.Open("games.db", []durable.Table{durable.Rows(players), durable.Rows(games)})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer store.Close()
//
// [Open] restores the tables. From then on the program uses them as before. The store follows
// them by [changefeed.Commits], and writes many commits in one transaction of the file. Writers
// never wait for the disk, unless they ask for it:
//
//	c, err := players.Update("Bob", func(p *Player) { p.Score++ })
//	if err != nil {
//		return err
//	}
//	err = store.Wait(ctx, players.At(c.Seq)) // until the change is on disk
//
// A [changefeed.View] is not stored. Make views after Open: that makes them again from the rows, in many
// short steps. A view that was made before Open is right, too, but Open then makes each of its rows in one
// transaction. Views begin new histories, so feeds of views do not resume across a restart.
//
// # What is in the file
//
// The file has the tables as they were at one place in the order of their commits. A transaction
// is in it with all of its changes to all of the tables, or not at all. All that [Store.Wait] has
// confirmed is in it. Commits that nobody has waited for can be missing after a crash: those of
// the last 50 milliseconds, or more if the disk is slow.
//
// The file also has the newest changes of each table ([Keep]) and the names of its history, so
// [changefeed.After] resumes feeds across a restart. After a crash, a feed may have seen changes
// that the disk never got. Its position is then refused with [changefeed.ErrOtherHistory], or
// replaced by the present rows with [changefeed.Resync]. A consumer never comes to this if it
// calls Wait with its position before it saves the position. A consumer that saves its position in a
// table of the same store, in the transaction with its results, needs no Wait. The file then has
// both or neither.
//
// If the disk falls behind further than the buffer ([Buffer]), the store writes all present rows
// in one transaction. The changes that are kept begin anew then, and after a row that cannot be
// encoded. After a [changefeed.Table.Reset] or a Drop of one of the tables, they begin anew for all
// tables whose changes the store has not read yet.
//
// A table that is dropped remains in the file, and the next Open restores it. If more changes were
// waiting than the buffer holds, the last ones before the drop are missing. The store goes on with
// the other tables. To delete a table from the file, do not pass it to Open, and use [Forget].
//
// # What a crash can do
//
// The file is one of [bbolt], which calls fdatasync before and after it writes the page that makes
// a transaction valid. After kill -9, the operating system still has everything that was written,
// and the tests of this package kill a process 120 times to prove that nothing that was confirmed is
// lost. They prove nothing about a loss of power. bbolt promises that a transaction which has
// ended survives that, too, if the disk keeps what it has synced. If the disk loses it, or if
// the page that was written last is damaged, the file can be as it was one transaction before, or
// damaged. Each row has a checksum, so [Open] finds damage ([ErrDamaged]). Take backups
// ([Store.Backup]).
//
// # Encodings
//
// Rows are stored as JSON. [Encoding] takes another codec. [Version] gives the encoding a number,
// with a function for each older one. With JSON, a new field needs no new version, because it is
// zero in old rows. A field that is renamed, removed or gets another type needs one, because
// encoding/json ignores what it does not know. Make a backup first: an older program cannot open
// the file any more.
//
// [bbolt]: https://pkg.go.dev/go.etcd.io/bbolt
package durable
