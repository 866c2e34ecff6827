package changefeed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// A Player is the row of the examples after the first.
type Player struct {
	ID    int
	Name  string
	Score int
}

func newPlayers() *changefeed.Table[int, Player] {
	return changefeed.NewTable("players", func(p *Player) int { return p.ID })
}

// play writes to the table, and drops it.
func play(players *changefeed.Table[int, Player]) {
	players.Insert(Player{ID: 1, Name: "Bob", Score: 10})
	players.Insert(Player{ID: 2, Name: "Alice", Score: 20})
	players.Update(1, func(p *Player) { p.Score = 30 })
	players.Update(2, func(p *Player) { p.Score = 15 })
	players.Update(1, func(p *Player) { p.Name = "Robert" })
	players.Delete(2)
	players.Drop()
}

// show prints a stream to its end.
func show(changes changefeed.Stream[changefeed.Change[Player]]) {
	for c, err := range changes {
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(c.Seq, c.Kind, *c.Row())
	}
}

// The first example of RethinkDB's manual page: subscribe to the changes on a table.
func Example() {
	type Game struct {
		ID      int    `json:"id"`
		Player1 string `json:"player1,omitempty"`
		Player2 string `json:"player2,omitempty"`
	}
	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })

	feed := games.Changes(context.Background()) // subscribed from here on

	games.Insert(Game{ID: 1})
	games.Update(1, func(g *Game) { g.Player1 = "Bob" })
	games.Replace(Game{ID: 1, Player1: "Bob", Player2: "Alice"})
	games.Delete(1)
	games.Drop()

	for c, err := range feed { // mostly in a goroutine of its own
		if err != nil {
			fmt.Println(err)
			continue
		}
		line, _ := json.Marshal(c)
		fmt.Println(c.Kind, string(line))
	}

	// Output:
	// insert {"old_val":null,"new_val":{"id":1}}
	// update {"old_val":{"id":1},"new_val":{"id":1,"player1":"Bob"}}
	// update {"old_val":{"id":1,"player1":"Bob"},"new_val":{"id":1,"player1":"Bob","player2":"Alice"}}
	// delete {"old_val":{"id":1,"player1":"Bob","player2":"Alice"},"new_val":null}
	// changefeed: changes of "games": table dropped
}

// The second example of the manual page: all the changes that raise a player's score.
func ExampleStream_Filter_raisedScores() {
	players := newPlayers()
	raised := players.Changes(context.Background()).Filter(func(c changefeed.Change[Player]) bool {
		return c.Kind == changefeed.Update && c.New.Score > c.Old.Score
	})
	play(players)
	show(raised)

	// Output:
	// 3 update {1 Bob 30}
	// changefeed: changes of "players": table dropped
}

// The third example of the manual page: all the changes to Bob's rows.
func ExampleStream_Filter_bob() {
	players := newPlayers()
	isBob := func(p *Player) bool { return p != nil && p.Name == "Bob" }
	bob := players.Changes(context.Background()).Filter(func(c changefeed.Change[Player]) bool {
		return isBob(c.Old) || isBob(c.New)
	})
	play(players)
	show(bob)

	// Output:
	// 1 insert {1 Bob 10}
	// 3 update {1 Bob 30}
	// 5 update {1 Robert 30}
	// changefeed: changes of "players": table dropped
}

// The fourth example of the manual page: all the inserts on a table.
func ExampleStream_Filter_inserts() {
	players := newPlayers()
	inserts := players.Changes(context.Background()).Filter(func(c changefeed.Change[Player]) bool {
		return c.Old == nil
	})
	play(players)
	show(inserts)

	// Output:
	// 1 insert {1 Bob 10}
	// 2 insert {2 Alice 20}
	// changefeed: changes of "players": table dropped
}

// What a subscriber sees that was too slow for its buffer.
func ExampleSkippedError() {
	players := newPlayers()
	feed := players.Changes(context.Background(), changefeed.Buffer(2))
	for id := range 5 {
		players.Insert(Player{ID: id})
	}
	players.Drop()

	for c, err := range feed {
		if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			fmt.Println(err)
			fmt.Printf("numbers %d to %d\n", skipped.From, skipped.To) // read the table anew here
			continue
		}
		if err != nil {
			fmt.Println(err) // why the feed ended: its last pair
			continue
		}
		fmt.Println(c.Seq, c.New.ID)
	}

	// Output:
	// Changefeed cache over array size limit, skipped 3 elements.
	// numbers 1 to 3
	// 4 3
	// 5 4
	// changefeed: changes of "players": table dropped
}

// A loop in a goroutine of its own, until the context is done.
func ExampleTable_Changes() {
	players := newPlayers()
	ctx, cancel := context.WithCancelCause(context.Background())
	feed := players.Changes(ctx) // before the goroutine: it misses nothing
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for c, err := range feed {
			if err != nil {
				fmt.Println("ended:", err)
				continue
			}
			fmt.Println(c.New.Name)
			cancel(errors.New("seen enough")) // mostly elsewhere, at the program's end
		}
	}()

	players.Insert(Player{ID: 1, Name: "Bob"})
	<-ended

	// Output:
	// Bob
	// ended: seen enough
}

// An edit works on a copy that is deep enough: the old row stays the old row.
func ExampleTable_Update() {
	type Doc struct {
		ID   string
		Tags []string
		Attr map[string]int
	}
	docs := changefeed.NewTable("docs", func(d *Doc) string { return d.ID })
	docs.Insert(Doc{ID: "a", Tags: []string{"new"}, Attr: map[string]int{"views": 1}})

	c, err := docs.Update("a", func(d *Doc) {
		d.Tags = append(d.Tags, "read")
		d.Attr["views"]++
	})
	fmt.Println(*c.Old, err)
	fmt.Println(*c.New)

	_, err = docs.Update("b", func(*Doc) {})
	fmt.Println(err, errors.Is(err, changefeed.ErrNotFound))

	// Output:
	// {a [new] map[views:1]} <nil>
	// {a [new read] map[views:2]}
	// changefeed: update in "docs": no row with primary key "b" true
}

// A counter that comes into being with its first event and goes with its last.
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

// Rows in the order of their keys, as they were when the range began.
func ExampleTable_All() {
	players := newPlayers()
	for id, name := range []string{"Alice", "Bob"} {
		players.Insert(Player{ID: id, Name: name})
	}
	for id, p := range players.All() {
		players.Delete(id) // the loop holds no lock, and sees the rows all the same
		fmt.Println(id, p.Name)
	}
	fmt.Println(players.Len())

	// Output:
	// 0 Alice
	// 1 Bob
	// 0
}

// Who follows a table, and how far behind.
func ExampleTable_Feeds() {
	players := newPlayers()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	feed := players.Changes(ctx, changefeed.Named("screen"), changefeed.Buffer(3))
	for id := range 5 {
		players.Insert(Player{ID: id})
	}
	for _, err := range feed.Limit(1) { // the notice, and one change
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

// Stages go on where the loop left off.
func ExampleStream_Limit() {
	players := newPlayers()
	feed := players.Changes(context.Background())
	for id, name := range []string{"Alice", "Bob", "Carol"} {
		players.Insert(Player{ID: id, Name: name})
	}
	for c, err := range feed.Limit(2) {
		fmt.Println(c.New.Name, err)
	}
	fmt.Println("and then")
	for c, err := range feed.Limit(1) {
		fmt.Println(c.New.Name, err)
	}

	// Output:
	// Alice <nil>
	// Bob <nil>
	// and then
	// Carol <nil>
}

// A stream of another type.
func ExampleMap() {
	players := newPlayers()
	names := changefeed.Map(players.Changes(context.Background()), func(c changefeed.Change[Player]) string {
		return strings.ToUpper(c.Row().Name)
	})
	players.Insert(Player{ID: 1, Name: "Bob"})
	for name, err := range names.Limit(1) {
		fmt.Println(name, err)
	}

	// Output:
	// BOB <nil>
}

// Keys of any type, in an order of one's own.
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

// follow prints what a feed has to say, and does not wait for more.
func follow(feed changefeed.Stream[changefeed.Change[Player]]) {
	for c, err := range feed {
		switch {
		case err != nil:
			fmt.Println(err)
		case c.Row() == nil:
			fmt.Println(c.Kind)
		default:
			fmt.Println(c.Kind, *c.Row())
		}
	}
}

// One row, whether it is there or not.
func ExampleTable_Row() {
	players := newPlayers()
	bob := players.Row(1).Changes(context.Background(), changefeed.Poll(nil))
	players.Insert(Player{ID: 1, Name: "Bob"})
	players.Insert(Player{ID: 2, Name: "Alice"}) // costs the feed nothing
	players.Update(1, func(p *Player) { p.Score = 10 })
	players.Delete(1)
	follow(bob)

	// Output:
	// insert {1 Bob 0}
	// update {1 Bob 10}
	// delete {1 Bob 10}
}

// A range of keys, from the first and before the second.
func ExampleTable_Range() {
	players := newPlayers()
	for id := range 5 {
		players.Insert(Player{ID: id})
	}
	middle := players.Range(1, 4)
	fmt.Println(middle.Len())
	for id := range middle.Backward() {
		fmt.Println(id)
	}

	feed := middle.Changes(context.Background(), changefeed.Poll(nil))
	players.Delete(3)
	players.Delete(4)
	follow(feed)

	// Output:
	// 3
	// 3
	// 2
	// 1
	// delete {3  0}
}

// The rows for which a predicate holds: one that comes among them is an insert there,
// and one that goes is a delete.
func ExampleTable_Where() {
	players := newPlayers()
	leaders := players.Where(func(p *Player) bool { return p.Score >= 100 })
	feed := leaders.Changes(context.Background(), changefeed.Poll(nil))

	players.Insert(Player{ID: 1, Name: "Bob", Score: 90})
	players.Update(1, func(p *Player) { p.Score = 110 })
	players.Update(1, func(p *Player) { p.Score = 120 })
	players.Update(1, func(p *Player) { p.Score = 80 })
	follow(feed)

	// Output:
	// insert {1 Bob 110}
	// update {1 Bob 120}
	// delete {1 Bob 120}
}

// All rows with a value, without a look at the others.
func ExampleIndex_Equal() {
	players := newPlayers()
	byName := changefeed.NewIndex(players, "name", func(p *Player) string { return p.Name })
	feed := byName.Equal("Bob").Changes(context.Background(), changefeed.Poll(nil))

	play(players) // ends with Drop
	follow(feed)

	// Output:
	// insert {1 Bob 10}
	// update {1 Bob 30}
	// delete {1 Bob 30}
	// changefeed: changes of "players": table dropped
}

// Rows in the order of an index: a leaderboard.
func ExampleIndex_From() {
	players := newPlayers()
	byScore := changefeed.NewIndex(players, "score", func(p *Player) int { return p.Score })
	for id, score := range []int{15, 30, 5, 20} {
		players.Insert(Player{ID: id, Score: score})
	}
	for id, p := range byScore.From(10).Backward() {
		fmt.Println(id, p.Score)
	}

	// Output:
	// 1 30
	// 3 20
	// 0 15
}

// A row under several values.
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
	fmt.Println(byTag.Range("a", "z").Len(), "in all")

	// Output:
	// a
	// b
	// 2 in all
}

// A value that no two rows may share.
func ExampleNewUniqueIndex() {
	players := newPlayers()
	_, err := changefeed.NewUniqueIndex(players, "name", func(p *Player) string { return p.Name })
	fmt.Println(err)
	players.Insert(Player{ID: 1, Name: "Bob"})
	_, err = players.Insert(Player{ID: 2, Name: "Bob"})
	fmt.Println(err)
	fmt.Println(errors.Is(err, changefeed.ErrDuplicateKey), players.Len())

	// Output:
	// <nil>
	// changefeed: insert into "players": value "Bob" in unique index "name" belongs to primary key 1, not to primary key 2
	// true 1
}

// A copy of the rows that stays right.
func ExampleIncludeInitial() {
	players := newPlayers()
	players.Insert(Player{ID: 1, Name: "Bob"})
	players.Insert(Player{ID: 2, Name: "Alice"})

	feed := players.Changes(context.Background(), changefeed.IncludeInitial())
	players.Delete(1)
	players.Drop()

	rows := make(map[int]Player)
	for c, err := range feed {
		switch {
		case err != nil:
			fmt.Println(err)
		case c.Kind == changefeed.Ready:
			fmt.Println("ready at", c.Seq, "with", len(rows))
		case c.New == nil:
			delete(rows, c.Old.ID)
		default:
			rows[c.New.ID] = *c.New
		}
	}
	fmt.Println(rows)

	// Output:
	// ready at 2 with 2
	// changefeed: changes of "players": table dropped
	// map[2:{2 Alice 0}]
}

// Going on after a break, with what the table has held meanwhile.
func ExampleAfter() {
	players := newPlayers()
	players.Retain(3)
	for id := range 6 {
		players.Insert(Player{ID: id})
	}
	fmt.Println("after 4")
	follow(players.Changes(context.Background(), changefeed.After(4), changefeed.Poll(nil)))
	fmt.Println("after 1")
	follow(players.Changes(context.Background(), changefeed.After(1), changefeed.Poll(nil)))
	fmt.Println("after 9")
	follow(players.Changes(context.Background(), changefeed.After(9), changefeed.Poll(nil)))

	// Output:
	// after 4
	// insert {4  0}
	// insert {5  0}
	// after 1
	// Changefeed cache over array size limit, skipped 2 elements.
	// insert {3  0}
	// insert {4  0}
	// insert {5  0}
	// after 9
	// changefeed: changes of "players": invalid option: After(9): the table has only come to 6
}

// Only what has become of the rows since the loop last looked.
func ExampleSquash() {
	players := newPlayers()
	players.Insert(Player{ID: 1, Name: "Bob"})
	feed := players.Changes(context.Background(), changefeed.Squash(0), changefeed.Poll(nil))
	for score := range 1000 {
		players.Update(1, func(p *Player) { p.Score = score })
	}
	players.Insert(Player{ID: 2, Name: "Alice"})
	players.Delete(2)
	follow(feed)

	// Output:
	// update {1 Bob 999}
}

// A copy of the rows that begins anew when its feed was too slow.
func ExampleOnOverflow() {
	players := newPlayers()
	feed := players.Changes(context.Background(),
		changefeed.Buffer(2), changefeed.OnOverflow(changefeed.Resync), changefeed.Poll(nil))
	for id := range 3 {
		players.Insert(Player{ID: id})
		players.Update(id, func(p *Player) { p.Score = 10 })
	}
	follow(feed)

	// Output:
	// Changefeed cache over array size limit, skipped 6 elements.
	// initial {0  10}
	// initial {1  10}
	// initial {2  10}
	// ready
}

// Several changes at a time, a transaction's together.
func ExampleTable_Batches() {
	players := newPlayers()
	batches := players.Batches(context.Background(), 2, changefeed.Poll(nil))
	for id := range 3 {
		players.Insert(Player{ID: id})
	}
	changefeed.Transact(func(tx *changefeed.Tx) error {
		for id := range 3 {
			if _, err := players.In(tx).Delete(id); err != nil {
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

// One goroutine for feeds, tickers and whatever else there is.
func ExamplePoll() {
	players := newPlayers()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wake := make(chan struct{}, 1) // room for one value; feeds may share it
	bob := players.Row(1).Changes(ctx, changefeed.Poll(wake))
	alice := players.Row(2).Changes(ctx, changefeed.Poll(wake))
	ticks := time.Tick(time.Hour)
	go func() { // elsewhere in the program
		players.Insert(Player{ID: 1, Name: "Bob"})
		players.Drop()
	}()

	read := func() (ended bool) {
		for _, feed := range []changefeed.Stream[changefeed.Change[Player]]{bob, alice} {
			for c, err := range feed { // what is there; then it ends
				if err != nil {
					ended = true
					continue
				}
				fmt.Println(c.Kind, c.Row().Name)
			}
		}
		return ended
	}
	for !read() {
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
	feed := players.Changes(context.Background(), changefeed.Poll(nil))
	players.Insert(Player{ID: 1, Name: "Bob"})
	players.Upsert(Player{ID: 1, Name: "Bob"}) // equal: no change

	var got []changefeed.Kind
	for c, err := range feed { // ends when there is nothing more, without waiting
		if err != nil {
			fmt.Println("an error in place of a change:", err)
			continue
		}
		got = append(got, c.Kind)
	}
	fmt.Println(got)

	// Output:
	// [insert]
}

// Two rows of two tables, changed as one.
func ExampleTransact() {
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
			accounts, transfers := accounts.In(tx), transfers.In(tx) // in the tables' places: to use those here deadlocks
			if _, err := transfers.Insert(Transfer{id, amount}); err != nil {
				return err
			}
			from, err := accounts.Update("Alice", func(a *Account) { a.Balance -= amount })
			if err != nil {
				return err
			}
			if from.New.Balance < 0 {
				return errors.New("not enough money") // all is as it was
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
