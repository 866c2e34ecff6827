package embedded_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/seed-637b77f9/changefeed/nats/embedded"
)

// A publisher and a replica, which are in one process here. Then the publisher fails.
func ExampleStart() {
	type Player struct {
		Name  string
		Score int
	}
	newPlayers := func() *changefeed.Table[string, Player] {
		return changefeed.NewTable("players", func(p *Player) string { return p.Name })
	}
	check := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "changefeed-")
	check(err)
	defer func() { check(os.RemoveAll(dir)) }()
	js, err := embedded.Start(dir)
	check(err)
	defer js.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	players := newPlayers()
	pub, err := natsfeed.Publish(ctx, js, "games", natsfeed.Rows(players))
	check(err)
	defer pub.Close()

	replica := newPlayers()
	rep, err := natsfeed.Follow(ctx, js, "games", natsfeed.Rows(replica))
	check(err)
	feed := replica.Changes(ctx, changefeed.Poll(nil))

	c, err := players.Insert(Player{"Bob", 10})
	check(err)
	position := players.At(c.Seq)
	check(pub.Wait(ctx, position))
	check(rep.Wait(ctx, position))

	pub, err = rep.Promote(ctx)
	check(err)
	c, err = replica.Update("Bob", func(p *Player) { p.Score = 20 })
	check(err)
	check(pub.Wait(ctx, replica.At(c.Seq)))
	pub.Close()
	for c, err := range feed {
		check(err)
		fmt.Println(c)
	}
	// Output:
	// 1 insert {Bob 10}
	// 2 update {Bob 10} -> {Bob 20}
}
