package changefeedprom_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/seed-637b77f9/changefeed"
	changefeedprom "github.com/seed-637b77f9/changefeed/prometheus"
)

type Player struct {
	Name  string
	Score int
}

var players = changefeed.NewTable("players", func(p *Player) string { return p.Name })

func ExampleNewCollector() {
	registry := prometheus.NewRegistry()
	registry.MustRegister(changefeedprom.NewCollector(players))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	players.Insert(Player{Name: "Bob"})
	players.Update("Bob", func(p *Player) { p.Score++ })

	recorder := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	fmt.Print(recorder.Body)
	// Output:
	// # HELP changefeed_table_retained_changes Changes of the table with which a feed can resume.
	// # TYPE changefeed_table_retained_changes gauge
	// changefeed_table_retained_changes{table="players"} 0
	// # HELP changefeed_table_rows Rows in the table.
	// # TYPE changefeed_table_rows gauge
	// changefeed_table_rows{table="players"} 1
	// # HELP changefeed_table_seq Sequence number of the table's last change. A reset may decrease it.
	// # TYPE changefeed_table_seq gauge
	// changefeed_table_seq{table="players"} 2
	// # HELP changefeed_table_writes_total Changes that writes to the table made.
	// # TYPE changefeed_table_writes_total counter
	// changefeed_table_writes_total{kind="delete",table="players"} 0
	// changefeed_table_writes_total{kind="insert",table="players"} 1
	// changefeed_table_writes_total{kind="update",table="players"} 1
}
