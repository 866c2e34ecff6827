package durable_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/durable"
)

type Player struct {
	Name  string
	Score int
}

func newPlayers() *changefeed.Table[string, Player] {
	return changefeed.NewTable("players", func(p *Player) string { return p.Name })
}

// The second run of a program goes on with the rows and the position of the first.
func Example() {
	dir, err := os.MkdirTemp("", "durable")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var saved changefeed.Position // of a consumer, which stores it with what it has made of the changes
	for run := range 2 {
		players := newPlayers()
		store, err := durable.Open(filepath.Join(dir, "players.db"), []durable.Table{durable.Rows(players)})
		if err != nil {
			log.Fatal(err)
		}
		for c, err := range players.Changes(context.Background(), changefeed.After(saved), changefeed.Poll(nil)) {
			fmt.Println("run", run, c, err)
		}
		saved = players.Position()
		players.Insert(Player{fmt.Sprint("Bob ", run), 10})
		if err := store.Wait(context.Background(), players.Position()); err != nil {
			log.Fatal(err)
		}
		if err := store.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// run 1 1 insert {Bob 0 10} <nil>
}

// Version 1 has another name for a field. It is opened with a file of version 0.
func ExampleVersion() {
	dir, err := os.MkdirTemp("", "durable")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "players.db")
	type oldPlayer struct {
		Name   string
		Points int
	}
	old := changefeed.NewTable("players", func(p *oldPlayer) string { return p.Name })
	store, err := durable.Open(file, []durable.Table{durable.Rows(old)})
	if err != nil {
		log.Fatal(err)
	}
	old.Insert(oldPlayer{"Bob", 10})
	store.Close()

	players := newPlayers()
	store, err = durable.Open(file, []durable.Table{durable.Rows(players, durable.Version(1, map[int]func([]byte, *Player) error{
		0: func(data []byte, p *Player) error {
			var old oldPlayer
			err := json.Unmarshal(data, &old)
			*p = Player{old.Name, old.Points}
			return err
		},
	}))})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	fmt.Println(players.Get("Bob"))
	// Output:
	// {Bob 10} true
}

// Rows as text, for people and for other programs.
func ExampleExport() {
	players := newPlayers()
	err := durable.Import(strings.NewReader(`{"table":"players","row":{"Name":"Bob","Score":10}}`), durable.Rows(players))
	if err != nil {
		log.Fatal(err)
	}
	players.Insert(Player{"Ann", 20})
	if err := durable.Export(os.Stdout, durable.Rows(players)); err != nil {
		log.Fatal(err)
	}
	// Output:
	// {"table":"players","row":{"Name":"Ann","Score":20}}
	// {"table":"players","row":{"Name":"Bob","Score":10}}
}
