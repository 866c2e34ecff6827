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
