package changefeedprom_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	changefeedprom "github.com/seed-637b77f9/changefeed/prometheus"
	"github.com/stretchr/testify/require"
)

// The panels of the dashboard use each metric that the collector has, and no other.
func TestDashboard(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("grafana.json")
	require.NoError(t, err)
	type datasource struct{ Type, UID string }
	var dashboard struct {
		Inputs []struct {
			Name, Type, PluginID string
		} `json:"__inputs"`
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Type, Definition string
				Datasource             datasource
			}
		}
		Panels []struct {
			ID                       int
			Title, Type, Description string
			Datasource               datasource
			GridPos                  struct{ X, Y, W, H int }
			Targets                  []struct {
				Datasource datasource
				Expr       string
			}
		}
	}
	require.NoError(t, json.Unmarshal(data, &dashboard))
	require.Equal(t, 42, dashboard.SchemaVersion)
	require.Len(t, dashboard.Inputs, 1)
	require.Equal(t, "DS_PROMETHEUS", dashboard.Inputs[0].Name)
	require.Equal(t, "prometheus", dashboard.Inputs[0].PluginID)
	source := datasource{"prometheus", "${DS_PROMETHEUS}"}

	metrics := described(changefeedprom.NewCollector(newGames("games")))
	known := map[string]bool{"__rate_interval": true}
	for _, v := range dashboard.Templating.List {
		known[v.Name] = true
		if v.Type == "query" {
			require.Equal(t, source, v.Datasource, v.Name)
			require.Subset(t, metrics, namesIn(v.Definition))
		}
	}
	require.True(t, known["DS_PROMETHEUS"], "a dashboard that is provisioned has no inputs")

	var exprs strings.Builder
	ids, places := make(map[int]bool), make(map[[2]int]bool)
	for _, p := range dashboard.Panels {
		require.NotEmpty(t, p.Title)
		require.NotEmpty(t, p.Description, p.Title)
		require.Equal(t, source, p.Datasource, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		ids[p.ID], places[[2]int{p.GridPos.X, p.GridPos.Y}] = true, true
		for _, target := range p.Targets {
			require.Equal(t, source, target.Datasource, p.Title)
			exprs.WriteString(target.Expr + "\n")
			for _, name := range namesIn(target.Expr) {
				isRate := strings.Contains(target.Expr, "rate("+name)
				require.Equal(t, strings.HasSuffix(name, "_total"), isRate, "%s: the rate of a counter, and of no gauge", p.Title)
			}
		}
	}
	require.Len(t, ids, len(dashboard.Panels))
	require.Len(t, places, len(dashboard.Panels))
	require.Equal(t, metrics, namesIn(exprs.String()))
	for _, variable := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(exprs.String(), -1) {
		require.True(t, known[variable[1]], variable[1])
	}
}
