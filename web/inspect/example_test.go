package inspect_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/inspect"
)

// A person opens /debug/changefeed/ in a browser. A program reads the same as JSON.
func ExampleHandler() {
	players := changefeed.NewTable("players", func(p *player) int { return p.ID })
	changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	_, _ = players.Insert(player{ID: 1, Name: "Ann", Team: "red"})
	_, _ = players.Insert(player{ID: 2, Name: "Bob", Team: "blue"})

	mux := http.NewServeMux()
	mux.Handle("/debug/changefeed/", inspect.Handler(players))
	server := httptest.NewServer(mux)
	defer server.Close()

	res, err := http.Get(server.URL + "/debug/changefeed/?view=rows&table=players&by=team&equal=red")
	if err != nil {
		panic(err)
	}
	defer func() { _ = res.Body.Close() }()
	page, _ := io.ReadAll(res.Body)
	fmt.Printf("%s", page)
	// Output:
	// {"table":"players","by":"team","next":"","rows":[
	// {"value":"red","key":1,"row":{"ID":1,"Name":"Ann","Team":"red"}}]}
}
