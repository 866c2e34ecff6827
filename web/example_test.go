package web_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
)

// The changes of one team are sent, and the first events of a client are printed.
func Example() {
	players := changefeed.NewTable("players", func(p *player) int { return p.ID })
	byTeam := changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	_, _ = players.Insert(player{ID: 1, Team: "red", Score: 10})
	_, _ = players.Insert(player{ID: 2, Team: "blue", Score: 20})

	mux := http.NewServeMux()
	mux.Handle("GET /changefeed.js", web.Script())
	mux.Handle("GET /teams/{team}", web.RowsFunc(func(r *http.Request) (changefeed.Selection[int, player], error) {
		return byTeam.Equal(r.PathValue("team")), nil
	}))
	mux.Handle("GET /teams/{team}/changes", web.ChangesFunc(func(r *http.Request) (changefeed.Selection[int, player], error) {
		return byTeam.Equal(r.PathValue("team")), nil
	}))
	server := httptest.NewServer(mux)
	defer server.Close()
	defer server.CloseClientConnections()

	res, err := http.Get(server.URL + "/teams/red/changes")
	if err != nil {
		panic(err)
	}
	id := regexp.MustCompile(`id: [\w-]{22}`) // the name of the history is random
	lines := bufio.NewScanner(res.Body)
	for range 14 {
		lines.Scan()
		fmt.Println(id.ReplaceAllString(lines.Text(), "id: HISTORY"))
		if lines.Text() == `data: {"state":"ready"}` {
			_, _ = players.Update(1, func(p *player) { p.Score++ })
		}
	}
	// Output:
	// retry: 2000
	//
	// event: reset
	// id: 0
	// data: {"state":"initializing"}
	//
	// data: {"new_val":{"ID":1,"Team":"red","Score":10}}
	//
	// event: ready
	// id: HISTORY.2
	// data: {"state":"ready"}
	//
	// id: HISTORY.3
	// data: {"old_val":{"ID":1,"Team":"red","Score":10},"new_val":{"ID":1,"Team":"red","Score":11}}
}
