package changefeed_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// A Player is the row of most examples.
type Player struct {
	Name, Team string
	Score      int
}

// newPlayers returns a table with some rows.
func newPlayers(rows ...Player) *changefeed.Table[string, Player] {
	players := changefeed.NewTable("players", func(p *Player) string { return p.Name })
	for _, row := range rows {
		players.Insert(row)
	}
	return players
}

// show prints a feed to its end. With Poll, that is where it would wait.
func show(feed changefeed.Stream[changefeed.Change[Player]]) {
	for c, err := range feed {
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(c.Kind, c.Old, "->", c.New)
	}
}

// play makes 6 changes.
func play(players *changefeed.Table[string, Player]) {
	players.Insert(Player{"Bob", "red", 10})
	players.Insert(Player{"Alice", "blue", 20})
	players.Update("Bob", func(p *Player) { p.Score = 30 })
	players.Update("Alice", func(p *Player) { p.Score = 15 })
	players.Update("Bob", func(p *Player) { p.Team = "blue" })
	players.Delete("Alice")
}

var ctx = context.Background()

// A loop in its own goroutine follows a table while another goroutine writes to it.
func Example() {
	type Player struct{ Name, Team string }
	players := changefeed.NewTable("players", func(p *Player) string { return p.Name })
	feed := players.Changes(context.Background()) // subscribed: no later write is missed
	var reader sync.WaitGroup
	reader.Go(func() {
		for c, err := range feed {
			if err != nil {
				fmt.Println(err) // skipped changes, or why the feed ended
				continue
			}
			fmt.Println(c.Kind, c.Old, "->", c.New)
		}
	})
	players.Insert(Player{"Bob", "red"})
	players.Update("Bob", func(p *Player) { p.Team = "blue" })
	players.Drop() // the feed delivers what is buffered, and then ends
	reader.Wait()
	// Output:
	// insert <nil> -> &{Bob red}
	// update &{Bob red} -> &{Bob blue}
	// changefeed: changes of "players": table dropped
}

// The changes that raise a player's score.
func ExampleStream_Filter_raisedScores() {
	players := newPlayers()
	raised := players.Changes(ctx, changefeed.Poll(nil)).Filter(func(c changefeed.Change[Player]) bool {
		return c.Kind == changefeed.Update && c.New.Score > c.Old.Score
	})
	play(players)
	show(raised)
	// Output:
	// update &{Bob red 10} -> &{Bob red 30}
}

// The changes of all rows that were or are in the red team. Either row can be nil.
func ExampleStream_Filter_redTeam() {
	players := newPlayers()
	isRed := func(p *Player) bool { return p != nil && p.Team == "red" }
	red := players.Changes(ctx, changefeed.Poll(nil)).Filter(func(c changefeed.Change[Player]) bool {
		return isRed(c.Old) || isRed(c.New)
	})
	play(players)
	show(red)
	// Output:
	// insert <nil> -> &{Bob red 10}
	// update &{Bob red 10} -> &{Bob red 30}
	// update &{Bob red 30} -> &{Bob blue 30}
}

// The inserts alone. Comparing the Kind also excludes initial rows and Ready, whose Old
// is nil as well.
func ExampleStream_Filter_inserts() {
	players := newPlayers(Player{"Carol", "red", 5})
	feed := players.Changes(ctx, changefeed.IncludeInitial(), changefeed.Poll(nil))
	inserts := feed.Filter(func(c changefeed.Change[Player]) bool {
		return c.Kind == changefeed.Insert
	})
	play(players)
	show(inserts)
	// Output:
	// insert <nil> -> &{Bob red 10}
	// insert <nil> -> &{Alice blue 20}
}

// A change as JSON.
func ExampleChange_MarshalJSON() {
	type Game struct {
		ID     int    `json:"id"`
		Player string `json:"player,omitempty"`
		Score  int    `json:"score,omitempty"`
	}
	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })
	feed := games.Changes(ctx, changefeed.Poll(nil))
	games.Insert(Game{ID: 1})
	games.Update(1, func(g *Game) { g.Player = "Bob" })
	games.Delete(1)
	for c, err := range feed {
		line, _ := json.Marshal(c)
		fmt.Println(string(line), err)
	}
	// Output:
	// {"old_val":null,"new_val":{"id":1}} <nil>
	// {"old_val":{"id":1},"new_val":{"id":1,"player":"Bob"}} <nil>
	// {"old_val":{"id":1,"player":"Bob"},"new_val":null} <nil>
}

// A subscriber that is too slow for its buffer learns what it missed.
func ExampleSkippedError() {
	players := newPlayers()
	feed := players.Changes(ctx, changefeed.Buffer(2), changefeed.Poll(nil))
	for score := range 5 {
		players.Upsert(Player{"Bob", "red", score})
	}
	for c, err := range feed {
		if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			fmt.Println("skipped", skipped.Count, "changes:", skipped.From, "to", skipped.To)
			continue // the feed goes on
		}
		if err != nil {
			fmt.Println("ended:", err)
			continue // the loop ends by itself
		}
		fmt.Println(c.Seq, c.New.Score)
	}
	// Output:
	// skipped 3 changes: 1 to 3
	// 4 3
	// 5 4
}

// A buffer of 1 keeps the newest change.
func ExampleBuffer() {
	players := newPlayers()
	feed := players.Changes(ctx, changefeed.Buffer(1), changefeed.Poll(nil))
	play(players) // makes 6 changes
	show(feed)
	// Output:
	// Changefeed cache over array size limit, skipped 5 elements.
	// delete &{Alice blue 15} -> <nil>
}

// A loop in its own goroutine ends when its context is done.
func ExampleTable_Changes() {
	players := newPlayers()
	ctx, cancel := context.WithCancelCause(context.Background())
	feed := players.Changes(ctx) // subscribe before the goroutine starts, and it misses nothing
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for c, err := range feed {
			if err != nil {
				fmt.Println("ended:", err)
				continue
			}
			fmt.Println(c.New.Name)
			cancel(errors.New("seen enough")) // usually called when the program shuts down
		}
	}()

	players.Insert(Player{"Bob", "red", 10})
	<-ended
	// Output:
	// Bob
	// ended: seen enough
}

// Update edits a deep copy. The old row stays as it was.
func ExampleTable_Update() {
	type Doc struct {
		ID   string
		Tags []string
	}
	docs := changefeed.NewTable("docs", func(d *Doc) string { return d.ID })
	docs.Insert(Doc{"a", []string{"new"}})

	c, err := docs.Update("a", func(d *Doc) {
		d.Tags[0] = "old"
		d.Tags = append(d.Tags, "read")
	})
	fmt.Println(*c.Old, err)
	fmt.Println(*c.New)

	_, err = docs.Update("b", func(*Doc) {})
	fmt.Println(err, errors.Is(err, changefeed.ErrNotFound))
	// Output:
	// {a [new]} <nil>
	// {a [old read]}
	// changefeed: update in "docs": no row with primary key "b" true
}

// A counter that is inserted with its first event and deleted with its last.
func ExampleTable_Compute() {
	type Counter struct {
		Name string
		N    int
	}
	counters := changefeed.NewTable("counters", func(c *Counter) string { return c.Name })
	add := func(name string, n int) changefeed.Kind {
		c, _ := counters.Compute(name, func(c *Counter) *Counter {
			if c == nil {
				c = &Counter{Name: name}
			}
			c.N += n
			if c.N == 0 {
				return nil
			}
			return c
		})
		return c.Kind
	}
	fmt.Println(add("open", 1), add("open", 1), add("open", 0), add("open", -2))
	// Output:
	// insert update none delete
}

// A range over All sees the table as it was when the range began. The loop holds no
// lock and may write.
func ExampleTable_All() {
	players := newPlayers(Player{"Bob", "red", 10}, Player{"Alice", "blue", 20})
	for name, p := range players.All() {
		players.Delete(name)
		fmt.Println(name, p.Score)
	}
	fmt.Println(players.Len())
	// Output:
	// Alice 20
	// Bob 10
	// 0
}

// The feeds of a table, and how far each is behind.
func ExampleTable_Feeds() {
	players := newPlayers()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	feed := players.Changes(ctx, changefeed.Named("screen"), changefeed.Buffer(3))
	for score := range 5 {
		players.Upsert(Player{"Bob", "red", score})
	}
	for _, err := range feed.Limit(1) { // the SkippedError and one change
		fmt.Println(err)
	}
	for _, f := range players.Feeds() {
		fmt.Printf("%s: %d delivered, %d skipped, %d of %d buffered, at %d of %d\n",
			f.Name, f.Delivered, f.Skipped, f.Buffered, f.Capacity, f.Seq, players.Seq())
	}
	// Output:
	// Changefeed cache over array size limit, skipped 2 elements.
	// <nil>
	// screen: 1 delivered, 2 skipped, 2 of 3 buffered, at 3 of 5
}

// After a Limit, the next range resumes where the last one stopped.
func ExampleStream_Limit() {
	players := newPlayers()
	feed := players.Changes(ctx)
	for _, name := range []string{"Alice", "Bob", "Carol"} {
		players.Insert(Player{Name: name})
	}
	for c, err := range feed.Limit(2) {
		fmt.Println(c.New.Name, err)
	}
	fmt.Println("pause")
	for c, err := range feed.Limit(1) {
		fmt.Println(c.New.Name, err)
	}
	// Output:
	// Alice <nil>
	// Bob <nil>
	// pause
	// Carol <nil>
}

// A stream with elements of another type.
func ExampleMap() {
	players := newPlayers()
	names := changefeed.Map(players.Changes(ctx), func(c changefeed.Change[Player]) string {
		return strings.ToUpper(c.Row().Name)
	})
	players.Insert(Player{"Bob", "red", 10})
	for name, err := range names.Limit(1) {
		fmt.Println(name, err)
	}
	// Output:
	// BOB <nil>
}

// Keys of any type, in any order.
func ExampleNewTableFunc() {
	type Event struct {
		At   time.Time
		What string
	}
	log := changefeed.NewTableFunc("log", func(e *Event) time.Time { return e.At }, time.Time.Compare)
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	log.Insert(Event{noon.Add(time.Hour), "coffee"})
	log.Insert(Event{noon, "lunch"})
	for at, e := range log.All() {
		fmt.Println(at.Format(time.TimeOnly), e.What)
	}
	// Output:
	// 12:00:00 lunch
	// 13:00:00 coffee
}

// One row, whether it exists yet or not.
func ExampleTable_Row() {
	players := newPlayers()
	bob := players.Row("Bob").Changes(ctx, changefeed.Poll(nil))
	players.Insert(Player{"Bob", "red", 10})
	players.Insert(Player{"Alice", "blue", 20}) // adds nothing to the feed
	players.Delete("Bob")
	show(bob)
	// Output:
	// insert <nil> -> &{Bob red 10}
	// delete &{Bob red 10} -> <nil>
}

// A range of keys includes the first key and excludes the second.
func ExampleTable_Range() {
	players := newPlayers(Player{Name: "Alice"}, Player{Name: "Bob"}, Player{Name: "Carol"}, Player{Name: "Dave"})
	middle := players.Range("Bob", "Dave")
	for name := range middle.Backward() {
		fmt.Println(name)
	}
	feed := middle.Changes(ctx, changefeed.Poll(nil))
	players.Delete("Carol")
	players.Delete("Dave")
	show(feed)
	fmt.Println(middle.Len())
	// Output:
	// Carol
	// Bob
	// delete &{Carol  0} -> <nil>
	// 1
}

// The rows for which a predicate holds. A row that starts to match is an insert, and a
// row that stops matching is a delete.
func ExampleTable_Where() {
	players := newPlayers(Player{"Bob", "red", 90})
	leaders := players.Where(func(p *Player) bool { return p.Score >= 100 })
	feed := leaders.Changes(ctx, changefeed.Poll(nil))
	for _, score := range []int{110, 120, 80} {
		players.Update("Bob", func(p *Player) { p.Score = score })
	}
	show(feed)
	// Output:
	// insert <nil> -> &{Bob red 110}
	// update &{Bob red 110} -> &{Bob red 120}
	// delete &{Bob red 120} -> <nil>
}

// The feed of all rows with one value in an index.
func ExampleIndex_Equal() {
	players := newPlayers(Player{"Bob", "blue", 10})
	byTeam := changefeed.NewIndex(players, "team", func(p *Player) string { return p.Team })
	feed := byTeam.Equal("red").Changes(ctx, changefeed.Poll(nil))
	players.Update("Bob", func(p *Player) { p.Team = "red" })
	show(feed)
	// Output:
	// insert <nil> -> &{Bob red 10}
}

// The rows in the order of an index: a leaderboard.
func ExampleIndex_From() {
	players := newPlayers(Player{"Alice", "blue", 20}, Player{"Bob", "red", 30}, Player{"Carol", "red", 5})
	byScore := changefeed.NewIndex(players, "score", func(p *Player) int { return p.Score })
	for name, p := range byScore.From(10).Backward() {
		fmt.Println(name, p.Score)
	}
	// Output:
	// Bob 30
	// Alice 20
}

// A row with several values.
func ExampleNewMultiIndex() {
	type Doc struct {
		ID   string
		Tags []string
	}
	docs := changefeed.NewTable("docs", func(d *Doc) string { return d.ID })
	byTag := changefeed.NewMultiIndex(docs, "tags", func(d *Doc) []string { return d.Tags })
	docs.Insert(Doc{"a", []string{"go", "db"}})
	docs.Insert(Doc{"b", []string{"go"}})
	for id := range byTag.Equal("go").All() {
		fmt.Println(id)
	}
	fmt.Println(byTag.Range("a", "z").Len(), "documents") // each is counted once
	// Output:
	// a
	// b
	// 2 documents
}

// A value that no two rows may share.
func ExampleNewUniqueIndex() {
	type User struct{ Name, Email string }
	users := changefeed.NewTable("users", func(u *User) string { return u.Name })
	_, err := changefeed.NewUniqueIndex(users, "email", func(u *User) string { return u.Email })
	fmt.Println(err)
	users.Insert(User{"Bob", "bob@example.com"})
	_, err = users.Insert(User{"Robert", "bob@example.com"})
	fmt.Println(err)
	fmt.Println(errors.Is(err, changefeed.ErrDuplicateKey), users.Len())
	// Output:
	// <nil>
	// changefeed: insert into "users": value "bob@example.com" in unique index "email" belongs to primary key "Bob", not to primary key "Robert"
	// true 1
}

// A cache: a copy of the rows that stays right, also after changes were skipped.
func ExampleIncludeInitial() {
	players := newPlayers(Player{"Alice", "blue", 20})
	feed := players.Changes(ctx, changefeed.IncludeInitial(), changefeed.OnOverflow(changefeed.Resync), changefeed.Buffer(1), changefeed.Poll(nil))
	players.Insert(Player{"Bob", "red", 10})
	players.Delete("Alice") // the buffer overflows
	cache := make(map[string]Player)
	for c, err := range feed {
		switch {
		case err != nil:
			clear(cache) // the present rows follow a notice, unless the table is dropped
		case c.Kind == changefeed.Delete:
			delete(cache, c.Old.Name)
		case c.Kind != changefeed.Ready: // Ready has no row: the cache is complete
			cache[c.New.Name] = *c.New
		}
	}
	fmt.Println(cache)
	// Output: map[Bob:{Bob red 10}]
}

// The present rows follow a notice of skipped changes. A copy of the rows starts again.
func ExampleOnOverflow() {
	players := newPlayers(Player{"Alice", "blue", 20})
	feed := players.Changes(ctx, changefeed.Buffer(2), changefeed.OnOverflow(changefeed.Resync), changefeed.Poll(nil))
	for score := range 3 {
		players.Upsert(Player{"Bob", "red", score})
	}
	players.Delete("Alice")
	show(feed)
	// Output:
	// Changefeed cache over array size limit, skipped 4 elements.
	// initial <nil> -> &{Bob red 2}
	// ready <nil> -> <nil>
}

// A program that caches a table, and resumes where it was. The same loop is right for the
// first start, for a position that the table still retains, for one that is too old, and for one
// of another table.
func ExampleAfter() {
	players := newPlayers(Player{"Bob", "red", 10})
	players.Retain(100)
	cache, saved := map[string]Player{}, changefeed.Position{} // to be stored together
	for range 2 {                                              // it is interrupted once
		var feed changefeed.Feed
		for c, err := range players.Changes(ctx, changefeed.After(saved), changefeed.OnOverflow(changefeed.Resync), changefeed.Track(&feed), changefeed.Poll(nil)) {
			var skipped *changefeed.SkippedError
			switch {
			case errors.As(err, &skipped):
				fmt.Println(err)
				clear(cache) // the present rows follow
			case err != nil:
				continue // the feed has ended: cache and saved stay
			case c.New != nil:
				cache[c.New.Name] = *c.New
			case c.Old != nil:
				delete(cache, c.Old.Name)
			}
			saved = feed.Position()
		}
		fmt.Println(cache)
		players.Update("Bob", func(p *Player) { p.Score = 20 })
	}
	// Output:
	// Changefeed cache over array size limit, skipped 1 elements.
	// map[Bob:{Bob red 10}]
	// map[Bob:{Bob red 20}]
}

// A feed resumes after change 5. Another one cannot resume after change 1, because the
// table no longer retains change 2. It begins again with the present rows.
func ExampleTable_Retain() {
	players := newPlayers()
	players.Retain(2) // the newest 2 changes
	play(players)     // makes 6 changes
	for _, seq := range []uint64{5, 1} {
		show(players.Changes(ctx, changefeed.After(players.At(seq)), changefeed.OnOverflow(changefeed.Resync), changefeed.Poll(nil)))
	}
	// Output:
	// delete &{Alice blue 15} -> <nil>
	// Changefeed cache over array size limit, skipped 5 elements.
	// initial <nil> -> &{Bob blue 30}
	// ready <nil> -> <nil>
}

// One change for each row, however often it was written since the loop last read.
func ExampleSquash() {
	players := newPlayers(Player{"Bob", "red", 10})
	feed := players.Changes(ctx, changefeed.Squash(0), changefeed.Poll(nil))
	for score := range 1000 {
		players.Upsert(Player{"Bob", "red", score})
	}
	players.Insert(Player{"Alice", "blue", 20})
	players.Delete("Alice")
	show(feed)
	// Output:
	// update &{Bob red 10} -> &{Bob red 999}
}

// Several changes at a time. Those of a transaction stay together.
func ExampleTable_Batches() {
	players := newPlayers()
	batches := players.Batches(ctx, 2, changefeed.Poll(nil))
	names := []string{"Alice", "Bob", "Carol"}
	for _, name := range names {
		players.Insert(Player{Name: name})
	}
	changefeed.Transact(func(tx *changefeed.Tx) error {
		for _, name := range names {
			if _, err := players.In(tx).Delete(name); err != nil {
				return err
			}
		}
		return nil
	}, players)
	for batch, err := range batches {
		fmt.Println(len(batch), "changes,", err)
	}
	// Output:
	// 2 changes, <nil>
	// 4 changes, <nil>
}

// One goroutine follows several feeds, a ticker and anything else in a select loop.
func ExamplePoll() {
	players := newPlayers()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wake := make(chan struct{}, 1) // has room for one value, and can be shared
	bob := players.Row("Bob").Changes(ctx, changefeed.Poll(wake))
	alice := players.Row("Alice").Changes(ctx, changefeed.Poll(wake))
	ticks := time.Tick(time.Hour)
	go func() { // elsewhere in the program
		players.Insert(Player{"Bob", "red", 10})
		players.Drop()
	}()

	feeds := []changefeed.Stream[changefeed.Change[Player]]{bob, alice}
	read := func() (ended int) {
		for _, feed := range feeds {
			for c, err := range feed { // reads what is there, and then ends
				if err != nil {
					ended++
					continue
				}
				fmt.Println(c.Kind, c.Row().Name)
			}
		}
		return ended
	}
	for read() < len(feeds) {
		select {
		case <-wake:
		case <-ticks:
			fmt.Println("tick")
		}
	}
	// Output:
	// insert Bob
}

// In a test: these changes, and no others.
func ExamplePoll_test() {
	players := newPlayers()
	feed := players.Changes(ctx, changefeed.Poll(nil))
	players.Insert(Player{"Bob", "red", 10})
	players.Upsert(Player{"Bob", "red", 10}) // equal: no change

	var got []changefeed.Kind
	for c, err := range feed { // ends without waiting
		if err != nil {
			fmt.Println("unexpected error:", err)
			continue
		}
		got = append(got, c.Kind)
	}
	fmt.Println(got)
	// Output:
	// [insert]
}

// All writes of a transaction are made, or none.
func ExampleTransact() {
	players := newPlayers(Player{"Bob", "red", 10})
	err := changefeed.Transact(func(tx *changefeed.Tx) error {
		players := players.In(tx) // a write to the table itself would deadlock here
		_, err1 := players.Update("Bob", func(p *Player) { p.Score -= 10 })
		_, err2 := players.Update("Carol", func(p *Player) { p.Score += 10 })
		return errors.Join(err1, err2) // an error or a panic rolls back both
	}, players)
	bob, _ := players.Get("Bob")
	fmt.Println(bob, err)
	// Output: {Bob red 10} changefeed: update in "players": no row with primary key "Carol"
}

// What is read in Read is of one moment, whatever is written meanwhile.
func ExampleRead() {
	players := newPlayers(Player{"Alice", "red", 10}, Player{"Bob", "red", 20})
	byTeam := changefeed.NewIndex(players, "team", func(p *Player) string { return p.Team })
	changefeed.Read(func(tx *changefeed.Tx) error {
		players.Delete("Bob") // does not wait
		alice, _ := players.In(tx).Get("Alice")
		fmt.Println(alice, "is one of", byTeam.Equal("red").In(tx).Len())
		return nil
	}, players)
	fmt.Println(players.Len(), "is left")
	// Output:
	// {Alice red 10} is one of 2
	// 1 is left
}

// Two tables in step.
func ExampleTransact_tables() {
	type Account struct {
		Owner   string
		Balance int
	}
	type Transfer struct {
		ID, Amount int
	}
	accounts := changefeed.NewTable("accounts", func(a *Account) string { return a.Owner })
	transfers := changefeed.NewTable("transfers", func(t *Transfer) int { return t.ID })
	accounts.Insert(Account{"Alice", 100})
	accounts.Insert(Account{"Bob", 0})

	pay := func(id, amount int) error {
		return changefeed.Transact(func(tx *changefeed.Tx) error {
			accounts, transfers := accounts.In(tx), transfers.In(tx)
			if _, err := transfers.Insert(Transfer{id, amount}); err != nil {
				return err
			}
			from, err := accounts.Update("Alice", func(a *Account) { a.Balance -= amount })
			if err != nil {
				return err
			}
			if from.New.Balance < 0 {
				return errors.New("not enough money") // rolls back both writes
			}
			_, err = accounts.Update("Bob", func(a *Account) { a.Balance += amount })
			return err
		}, accounts, transfers)
	}
	fmt.Println(pay(1, 70))
	fmt.Println(pay(2, 70))
	for _, a := range accounts.All() {
		fmt.Println(a)
	}
	fmt.Println(transfers.Len())
	// Output:
	// <nil>
	// not enough money
	// {Alice 30}
	// {Bob 70}
	// 1
}

// Commits delivers each transaction as one element, with its changes to all of the tables.
func ExampleCommits() {
	type Team struct {
		Name  string
		Score int
	}
	players := newPlayers(Player{"Bob", "red", 10})
	teams := changefeed.NewTable("teams", func(t *Team) string { return t.Name })
	teams.Insert(Team{"red", 10})
	feed := changefeed.Commits(ctx, []changefeed.AnyTable{players, teams}, changefeed.Poll(nil))

	changefeed.Transact(func(tx *changefeed.Tx) error {
		players.In(tx).Update("Bob", func(p *Player) { p.Score += 5 })
		teams.In(tx).Update("red", func(t *Team) { t.Score += 5 })
		return nil
	}, players, teams)
	players.Delete("Bob")

	for commit, err := range feed {
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("commit")
		for _, c := range commit {
			fmt.Println(" ", c)
			if c, ok := players.Typed(c); ok && c.Kind == changefeed.Delete {
				fmt.Println("  the score was", c.Old.Score)
			}
		}
	}
	// Output:
	// commit
	//   players: 2 update {Bob red 10} -> {Bob red 15}
	//   teams: 2 update {red 10} -> {red 15}
	// commit
	//   players: 3 delete {Bob red 15}
	//   the score was 15
}

// A program saves the rows with their position, and goes on with them when it is started again.
func ExampleTable_Restore() {
	players := newPlayers(Player{"Alice", "red", 20}, Player{"Bob", "red", 10})
	var rows []Player
	var lineage []changefeed.Position
	changefeed.Read(func(tx *changefeed.Tx) error { // both are of one moment
		players := players.In(tx)
		lineage = players.Lineage()
		for _, row := range players.All() {
			rows = append(rows, row)
		}
		return nil
	}, players)

	restarted := newPlayers()
	err := restarted.Restore(changefeed.Past[Player]{Lineage: lineage, Rows: slices.Values(rows)})
	fmt.Println(err, restarted)
	restarted.Retain(100)
	restarted.Delete("Bob")
	show(restarted.Changes(ctx, changefeed.After(players.Position()), changefeed.Poll(nil)))
	// Output:
	// <nil> table "players": rows 2, seq 2
	// delete &{Bob red 10} -> <nil>
}

// A replica begins with the rows of its source, and applies the source's changes. It can be in
// another process: the changes can be sent to it as JSON.
func ExampleTable_Apply() {
	source, replica := newPlayers(Player{"Bob", "red", 10}), newPlayers()
	feed := source.Batches(ctx, 1, changefeed.IncludeInitial(), changefeed.Poll(nil)) // each transaction by itself
	var rows []Player
	follow := func() {
		for batch, err := range feed {
			switch {
			case err != nil:
			case batch[0].Kind == changefeed.Initial:
				rows = append(rows, *batch[0].New)
			case batch[0].Kind == changefeed.Ready:
				at := source.At(batch[0].Seq)
				err = replica.Restore(changefeed.Past[Player]{Lineage: []changefeed.Position{at}, Rows: slices.Values(rows)})
			default:
				err = replica.Apply(source.Position().History, batch...)
			}
			if err != nil {
				fmt.Println(err)
			}
		}
	}
	follow()
	followers := replica.Changes(ctx, changefeed.Poll(nil))
	source.Update("Bob", func(p *Player) { p.Score = 20 })
	follow()
	show(followers)
	fmt.Println(replica.Position() == source.Position())
	// Output:
	// update &{Bob red 10} -> &{Bob red 20}
	// true
}

// Reset gives a table other rows while it is followed. OnOverflow says how a feed goes on.
func ExampleTable_Reset() {
	players, others := newPlayers(Player{"Bob", "red", 10}), newPlayers(Player{"Carol", "red", 30})
	feed := players.Changes(ctx, changefeed.OnOverflow(changefeed.Resync), changefeed.Poll(nil))
	err := players.Reset(changefeed.Past[Player]{
		Lineage: others.Lineage(),
		Rows:    slices.Values([]Player{{"Carol", "red", 30}}),
	})
	fmt.Println(err)
	for c, err := range feed {
		var skipped *changefeed.SkippedError
		if errors.As(err, &skipped) {
			fmt.Println("reset:", skipped.Reset)
			continue
		}
		fmt.Println(c)
	}
	// Output:
	// <nil>
	// reset: true
	// initial {Carol red 30}
	// 1 ready
}

// The rows with any of several values, for example to follow a user's groups.
func ExampleIndex_Any() {
	players := newPlayers(Player{"Alice", "blue", 20}, Player{"Bob", "red", 10}, Player{"Carol", "green", 5})
	byTeam := changefeed.NewIndex(players, "team", func(p *Player) string { return p.Team })
	teams := byTeam.Any("red", "blue")
	feed := teams.Changes(ctx, changefeed.Poll(nil))
	for name, player := range teams.All() {
		fmt.Println(name, player.Team)
	}
	players.Update("Carol", func(p *Player) { p.Team = "red" })
	players.Update("Bob", func(p *Player) { p.Team = "green" })
	show(feed)
	// Output:
	// Alice blue
	// Bob red
	// insert <nil> -> &{Carol red 5}
	// delete &{Bob red 10} -> <nil>
}

// An index over two values: the team, and in a team the players with the highest scores first.
func ExampleNewIndexFunc() {
	players := newPlayers(Player{"Alice", "red", 20}, Player{"Bob", "red", 30}, Player{"Carol", "blue", 5})
	type rank struct {
		team  string
		score int
	}
	ranking := changefeed.NewIndexFunc(players, "ranking", func(p *Player) rank { return rank{p.Team, p.Score} },
		func(a, b rank) int {
			return cmp.Or(cmp.Compare(a.team, b.team), cmp.Compare(b.score, a.score))
		})
	for _, player := range ranking.All() {
		fmt.Println(player)
	}
	// Output:
	// {Carol blue 5}
	// {Bob red 30}
	// {Alice red 20}
}

// The figures of a table and of its feeds, for example at /debug/vars.
func Example_expvar() {
	players := newPlayers(Player{"Bob", "red", 10})
	expvar.Publish("players", expvar.Func(func() any { return players.Info() }))
	expvar.Publish("players.feeds", expvar.Func(func() any { return players.Feeds() }))

	var info changefeed.TableInfo
	_ = json.Unmarshal([]byte(expvar.Get("players").String()), &info)
	fmt.Println(info)
	fmt.Println(expvar.Get("players.feeds"))
	// Output:
	// table "players": rows 1, seq 1, retained 0, indexes 0, feeds 0
	// []
}

// Live views: the two best players, and the total of each team. Each is kept by the writes to the players, and
// followed like a table.
func ExampleTop() {
	players := newPlayers(Player{"Ann", "red", 5}, Player{"Bob", "red", 10}, Player{"Carol", "blue", 7})
	best := changefeed.Top(changefeed.NewIndex(players, "score", func(p *Player) int { return p.Score }), "best", 2)
	teams := changefeed.Group(players, "teams", func(p *Player) string { return p.Team },
		func(sum *int, p *Player, sign int) { *sum += sign * p.Score })
	feed := best.Changes(ctx, changefeed.Poll(nil))
	players.Update("Ann", func(p *Player) { p.Score = 8 })
	show(feed)
	fmt.Println(teams.Get("red"))
	// Output:
	// delete &{Carol blue 7} -> <nil>
	// insert <nil> -> &{Ann red 8}
	// {red 2 18} true
}

// An Order of a customer.
type Order struct {
	ID       int
	Customer string
	Amount   int
}

// A Customer is the row to which orders refer.
type Customer struct{ Name, Country string }

func newOrders() (*changefeed.Table[int, Order], *changefeed.Table[string, Customer]) {
	orders := changefeed.NewTable("orders", func(o *Order) int { return o.ID })
	customers := changefeed.NewTable("customers", func(c *Customer) string { return c.Name })
	for _, c := range []Customer{{"Ann", "NL"}, {"Bob", "FR"}} {
		customers.Insert(c)
	}
	for _, o := range []Order{{1, "Ann", 10}, {2, "Bob", 20}, {3, "Ann", 5}, {4, "Carol", 50}} {
		orders.Insert(o)
	}
	return orders, customers
}

// The totals of each country. A customer who moves takes all orders along.
func ExampleJoin() {
	orders, customers := newOrders()
	billed := changefeed.Join(orders, customers, "billed", func(o *Order) string { return o.Customer })
	type row = changefeed.Joined[Order, Customer]
	totals := changefeed.Group(billed, "totals", func(r *row) string { return r.Right.Country },
		func(sum *int, r *row, sign int) { *sum += sign * r.Left.Amount })
	for country, total := range totals.All() {
		fmt.Println(country, total.Count, total.Value)
	}
	feed := totals.Changes(ctx, changefeed.Poll(nil))
	customers.Replace(Customer{"Bob", "NL"})
	for c := range feed {
		fmt.Println(c)
	}
	// Output:
	// FR 1 20
	// NL 2 15
	// 1 delete {FR 1 20}
	// 2 update {NL 2 15} -> {NL 3 35}
}

// A row for each order, also if the customer is not known.
func ExampleLeftJoin() {
	orders, customers := newOrders()
	for id, row := range changefeed.LeftJoin(orders, customers, "all", func(o *Order) string { return o.Customer }).All() {
		if row.Right == nil {
			fmt.Println(id, row.Left.Customer, "is not known")
		}
	}
	// Output: 4 Carol is not known
}

// A view in a transaction shows what the transaction has written so far.
func ExampleView_In() {
	orders, _ := newOrders()
	count := changefeed.Count(orders, "count", func(o *Order) string { return o.Customer })
	err := changefeed.Transact(func(tx *changefeed.Tx) error {
		orders.In(tx).Insert(Order{5, "Bob", 1})
		bob, _ := count.In(tx).Get("Bob")
		fmt.Println(bob.Count)
		return errors.New("too many")
	}, orders)
	bob, _ := count.Get("Bob")
	fmt.Println(bob.Count, err)
	// Output:
	// 2
	// 1 too many
}

// A view with other rows than its source has.
func ExampleSelect() {
	type Line struct {
		ID   int
		Text string
	}
	orders, _ := newOrders()
	big := changefeed.Select(orders, "big", func(l *Line) int { return l.ID }, func(o *Order) *Line {
		if o.Amount < 20 {
			return nil
		}
		return &Line{o.ID, fmt.Sprintf("%s pays %d", o.Customer, o.Amount)}
	})
	for _, line := range big.All() {
		fmt.Println(line.Text)
	}
	// Output:
	// Bob pays 20
	// Carol pays 50
}

// The largest order of each customer.
func ExampleTopEach() {
	orders, _ := newOrders()
	byAmount := changefeed.NewIndex(orders, "amount", func(o *Order) int { return o.Amount })
	largest := changefeed.TopEach(byAmount, "largest", 1, func(o *Order) string { return o.Customer })
	for id, o := range largest.All() {
		fmt.Println(o.Customer, id, o.Amount)
	}
	// Output:
	// Ann 1 10
	// Bob 2 20
	// Carol 4 50
}

// The latest order of each customer, by its number. BottomEach has the first.
func ExampleBottomEach() {
	orders, _ := newOrders()
	byID := changefeed.NewIndex(orders, "id", func(o *Order) int { return o.ID })
	for _, o := range changefeed.BottomEach(byID, "first", 1, func(o *Order) string { return o.Customer }).All() {
		fmt.Println(o.Customer, o.ID)
	}
	// Output:
	// Ann 1
	// Bob 2
	// Carol 4
}

// A list on a screen follows a view by the ranks of its rows.
func ExampleRanked() {
	players := newPlayers(Player{"Ann", "red", 5}, Player{"Bob", "red", 10}, Player{"Carol", "blue", 7})
	best := changefeed.Top(changefeed.NewIndex(players, "score", func(p *Player) int { return p.Score }), "best", 3)
	feed := changefeed.Ranked(ctx, best, changefeed.Poll(nil))
	players.Update("Ann", func(p *Player) { p.Score = 20 })
	var list []string
	for c := range feed {
		if c.OldRank > 0 {
			list = slices.Delete(list, c.OldRank-1, c.OldRank)
		}
		if c.NewRank > 0 {
			list = slices.Insert(list, c.NewRank-1, c.New.Name)
		}
		fmt.Println(c.OldRank, c.NewRank, list)
	}
	// Output:
	// 0 1 [Bob]
	// 0 2 [Bob Carol]
	// 0 3 [Bob Carol Ann]
	// 0 0 [Bob Carol Ann]
	// 3 1 [Ann Bob Carol]
}

// What the views of a table cost each write to it.
func ExampleTable_Views() {
	orders, _ := newOrders()
	byAmount := changefeed.NewIndex(orders, "amount", func(o *Order) int { return o.Amount })
	changefeed.Bottom(byAmount, "smallest", 2)
	changefeed.Count(orders, "count", func(o *Order) string { return o.Customer })
	orders.Delete(1)
	orders.Update(4, func(o *Order) { o.Amount = 60 }) // not one of the smallest
	for _, v := range orders.Views() {
		fmt.Printf("%s: %s of %d writes made %d changes\n", v.Name, v.Kind, v.Writes, v.Changes)
	}
	// Output:
	// smallest: Bottom of 1 writes made 2 changes
	// count: Count of 2 writes made 1 changes
}
