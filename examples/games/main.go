// Games is the first example of RethinkDB's manual page on changes, line for line. One
// client follows the changes of a table and prints them, while a second client writes to
// it. The clients are two goroutines and share the table, where RethinkDB has two
// connections to a server.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/seed-637b77f9/changefeed"
)

// A Game is a row of the table games. Its primary key is ID.
type Game struct {
	ID      int    `json:"id"`
	Player1 string `json:"player1,omitempty"`
	Player2 string `json:"player2,omitempty"`
}

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Games prints the changes of a table while another goroutine writes to it: the first example of RethinkDB's manual page on changes.")
	}
	flag.Parse()
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(w io.Writer) error {
	games := changefeed.NewTable("games", func(g *Game) int { return g.ID })

	// Client 1. It is subscribed as soon as Changes returns, so it misses nothing even if
	// its goroutine starts late.
	feed := games.Changes(context.Background())
	client1 := make(chan error, 1)
	go func() { client1 <- follow(w, feed) }()

	// Client 2. It never waits for client 1.
	_, err1 := games.Insert(Game{ID: 1})
	_, err2 := games.Update(1, func(g *Game) { g.Player1 = "Bob" })
	_, err3 := games.Replace(Game{ID: 1, Player1: "Bob", Player2: "Alice"})
	_, err4 := games.Delete(1)
	games.Drop() // client 1 receives an error after all changes

	return errors.Join(err1, err2, err3, err4, <-client1)
}

// follow prints the changes of a feed, each as its kind and JSON, and its errors as text.
// It returns nil when the feed ends, or an error if it cannot print.
func follow(w io.Writer, feed changefeed.Stream[changefeed.Change[Game]]) error {
	for change, err := range feed {
		if err != nil {
			_, err = fmt.Fprintln(w, err)
		} else {
			err = printChange(w, change)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printChange(w io.Writer, change changefeed.Change[Game]) error {
	line, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%v %s\n", change.Kind, line)
	return err
}
