// Games is the first example of RethinkDB's manual page on changes, line for
// line: one client follows the changes of a table, and prints them, while a
// second client writes to it. In place of two connections to a server there are
// two goroutines and one table.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/seed-637b77f9/changefeed"
)

// A Game is a row of the table games; its primary key is ID.
type Game struct {
	ID      int    `json:"id"`
	Player1 string `json:"player1,omitempty"`
	Player2 string `json:"player2,omitempty"`
}

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(w io.Writer) error {
	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })

	// Client 1. It is subscribed when Changes returns, so it misses nothing, however
	// late its goroutine begins.
	feed := games.Changes(context.Background())
	client1 := make(chan error, 1)
	go func() { client1 <- follow(w, feed) }()

	// Client 2. It never waits for client 1.
	_, err1 := games.Insert(Game{ID: 1})
	_, err2 := games.Update(1, func(g *Game) { g.Player1 = "Bob" })
	_, err3 := games.Replace(Game{ID: 1, Player1: "Bob", Player2: "Alice"})
	_, err4 := games.Delete(1)
	games.Drop() // client 1 gets an error, after all changes before it

	return errors.Join(err1, err2, err3, err4, <-client1)
}

// follow prints what comes on a feed, until it ends: changes as JSON, errors as
// text. It returns an error only where it cannot print.
func follow(w io.Writer, feed changefeed.Stream[changefeed.Change[Game]]) error {
	changes := json.NewEncoder(w)
	for change, err := range feed {
		if err != nil {
			_, err = fmt.Fprintln(w, err)
		} else {
			err = changes.Encode(change)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
