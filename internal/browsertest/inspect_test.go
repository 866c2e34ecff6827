package browsertest

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/inspect"
	"github.com/stretchr/testify/require"
)

type player struct {
	ID    int
	Name  string
	Team  string
	Score int
}

// newPlayers returns a table of 200 players in two teams.
func newPlayers(t *testing.T) *changefeed.Table[int, player] {
	players := changefeed.NewTable("players", func(p *player) int { return p.ID })
	changefeed.NewIndex(players, "team", func(p *player) string { return p.Team })
	players.Retain(100)
	for id := range 200 {
		_, err := players.Insert(player{id, fmt.Sprint("Player ", id), []string{"red", "blue"}[id%2], id})
		require.NoError(t, err)
	}
	return players
}

// score changes the score of a player.
func score(t *testing.T, players *changefeed.Table[int, player], id, score int) {
	_, err := players.Update(id, func(p *player) { p.Score = score })
	require.NoError(t, err)
}

// The overview shows a slow feed that falls behind, and how many changes it skips.
func TestInspectorShowsASlowFeed(t *testing.T) {
	t.Parallel()
	players := newPlayers(t)
	slow := players.Changes(t.Context(), changefeed.Named("audit"), changefeed.Buffer(100))
	idle := players.Row(7).Changes(t.Context(), changefeed.Named("profile"), changefeed.Poll(nil))
	url, _ := serve(t, "127.0.0.1:0", inspect.Handler(players))
	p := open(t, url, nil)
	p.waitText("#state", "live")
	p.wait(`document.querySelectorAll("#feeds tbody tr").length === 2`)
	p.waitText("#tables tbody tr td:nth-child(2)", "200")

	cell := func(n int) string { return fmt.Sprintf("#feeds tbody tr:first-child td:nth-child(%d)", n) }
	for i := range 60 {
		score(t, players, 0, 1000+i)
	}
	p.waitText(cell(5), "60 / 100")
	p.waitText(cell(7), "0")
	for i := range 940 {
		score(t, players, 0, 2000+i)
	}
	p.waitText(cell(7), "900")
	require.Equal(t, "audit", p.text(cell(1)))
	require.Equal(t, "100 / 100", p.text(cell(5)))
	require.Equal(t, "1,000", p.text(cell(6)))
	require.True(t, eval[bool](p, `document.querySelector("#feeds .fill").classList.contains("full")`))
	require.Equal(t, "key = 7", p.text("#feeds tbody tr:last-child td:nth-child(3)"))
	p.waitText("#tables tbody tr td:nth-child(3)", "1,200")
	p.waitText("#tables tbody tr td:nth-child(8)", "100")

	do(p, "type", chromedp.SendKeys(chromedp.CSS("#feed-filter input"), "key = 7"))
	p.wait(`document.querySelectorAll("#feeds tbody tr").length === 1`)
	require.Equal(t, "profile", p.text(cell(1)))
	for range slow {
		break
	}
	for range idle {
		break
	}
}

// Rows are shown by page and by index value, and change when the table does.
func TestInspectorShowsRows(t *testing.T) {
	t.Parallel()
	players := newPlayers(t)
	url, _ := serve(t, "127.0.0.1:0", inspect.Handler(players))
	p := open(t, url, isNetworkError) // bad input is a request that fails
	first := "#row-table tbody tr:first-child td:nth-child(1)"
	p.waitText("#state", "live")

	// The keyboard reaches the table, its index, and the buttons.
	p.run(`document.querySelector("#tables a").focus()`)
	do(p, "follow the link", chromedp.KeyEvent("\r"))
	p.wait(`location.hash === "#rows?table=players"`)
	p.waitText(first, "0")
	p.waitText("#row-count", "page 1, 50 rows")
	p.press("#next-rows")
	p.waitText(first, "50")
	p.press("#next-rows")
	p.press("#previous-rows")
	p.waitText("#row-count", "page 2, 50 rows")
	p.waitText(first, "50")
	p.press("#first-rows")
	p.waitText(first, "0")

	score(t, players, 0, 4711)
	p.waitText("#row-table tbody tr:first-child td:nth-child(5)", "4711")
	p.wait(`document.querySelector("#row-table td.flash")?.textContent === "4711"`)
	_, err := players.Delete(0)
	require.NoError(t, err)
	p.waitText(first, "1")

	do(p, "choose", chromedp.SetValue(chromedp.CSS("#row-query [name=equal]"), "7"))
	p.press("#row-query button")
	p.waitText("#row-count", "page 1, 1 rows")
	p.waitText(first, "7")

	p.navigate(url + "#rows?table=players&by=team&equal=red")
	p.waitText(first, "red")
	p.wait(`[...document.querySelectorAll("#row-table tbody tr")].every((row) => row.cells[0].textContent === "red")`)
	p.navigate(url + "#rows?table=players&equal=seven")
	p.waitText("#row-error", "equal is not a value of type int")
	p.navigate(url + "#rows?table=players&from=700")
	p.waitText("#row-table td.none", "There are no such rows.")
	p.wait(`document.querySelector("#row-error").hidden`)
}

// The tail shows the old and the new row, and marks what differs.
func TestInspectorShowsChanges(t *testing.T) {
	t.Parallel()
	players := newPlayers(t)
	url, _ := serve(t, "127.0.0.1:0", inspect.Handler(players))
	p := open(t, url+"#changes", nil)
	p.waitText("#state", "live")
	score(t, players, 3, 33)
	p.waitText("#tail .old .differs + .differs", "3")
	p.waitText("#tail .new .differs + .differs", "33")
	require.Equal(t, 4, eval[int](p, `document.querySelectorAll("#tail .differs").length`))
	_, err := players.Delete(4)
	require.NoError(t, err)
	p.waitText("#tail li:first-child .new", "no row any more")
	_, err = players.Insert(player{ID: 1000})
	require.NoError(t, err)
	p.waitText("#tail li:first-child .old", "no row before")

	p.press("#pause")
	p.waitText("#state", "paused")
	for id := range 50 {
		score(t, players, 100+id, -1)
	}
	p.press("#clear")
	p.waitText("#tail-count", "")
	p.press("#pause")
	p.waitText("#state", "live")
	score(t, players, 5, 55)
	p.waitText("#tail li:first-child .new .differs + .differs", "55")
	p.waitText("#tail-count", "1 changes")
	players.Drop()
	p.waitText("#tail li:first-child", "The table players was dropped.")
}

// While a proxy answers with an error, the page connects again by itself, because browsers do not.
func TestInspectorComesBack(t *testing.T) {
	t.Parallel()
	players := newPlayers(t)
	h := inspect.Handler(players)
	var down atomic.Bool
	down.Store(true)
	url, _ := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() && r.URL.Query().Get("view") == "tail" {
			http.Error(w, "try again later", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	}))
	p := open(t, url+"#changes", isNetworkError)
	p.waitText("#state", "connection lost")
	down.Store(false)
	p.waitText("#state", "live")
	score(t, players, 3, 33)
	p.waitText("#tail .new .differs + .differs", "33")
}

// All pages fit on a screen, in light and dark. The pictures are for people: see CONTRIBUTING.md.
func TestScreenshots(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("BROWSERTEST_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	f := newFleet(t)
	simulate(t, f, 200)
	slow := f.Devices.Changes(t.Context(), changefeed.Named("audit"), changefeed.Buffer(1000))
	t.Cleanup(func() {
		for range slow { // the feed of a stream that is not used any more would end
			break
		}
	})
	inspector := inspect.Handler(f.Devices, f.Hottest)
	for _, page := range []struct {
		name    string
		handler http.Handler
		hash    string
		ready   string
	}{
		{"dashboard", f.Handler(), "", `document.querySelectorAll("#rows tr").length === 50 && document.querySelector("#means polyline").points.length > 3`},
		{"overview", inspector, "", `document.querySelector("#tables .chart path")?.getAttribute("d")?.split("L").length > 3`},
		{"rows", inspector, "#rows?table=devices&by=region&equal=tokyo", `document.querySelectorAll("#row-table tbody tr").length === 50`},
		{"changes", inspector, "#changes", `document.querySelectorAll("#tail li").length > 20`},
	} {
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{400, 1400} {
				name := fmt.Sprintf("%s-%s-%d", page.name, scheme, width)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					url, _ := serve(t, "127.0.0.1:0", page.handler) // a browser opens six connections to a server
					p := openBlank(t, nil)
					media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
					_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, media)
					require.NoError(t, err)
					do(p, "resize", chromedp.EmulateViewport(width, 900))
					p.navigate(url + page.hash)
					p.waitText("#state", "live")
					p.wait(page.ready)
					size := eval[[]int](p, "[document.documentElement.scrollWidth, innerWidth]")
					require.LessOrEqual(t, size[0], size[1], "it scrolls sideways")
					picture := do(p, name, chromedp.CaptureScreenshot())
					require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
					img, err := png.Decode(bytes.NewReader(picture))
					require.NoError(t, err)
					isDark, colors := looks(img)
					require.Equal(t, scheme == "dark", isDark)
					require.Greater(t, colors, 20)
				})
			}
		}
	}
}

// looks returns whether the corner of a picture is dark, and how many colors a picture has.
func looks(img image.Image) (isDark bool, colors int) {
	seen := make(map[[3]uint32]bool)
	bounds := img.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			r, g, b, _ := img.At(x, y).RGBA()
			seen[[3]uint32{r, g, b}] = true
		}
	}
	r, g, b, _ := img.At(bounds.Max.X-1, bounds.Max.Y-1).RGBA()
	return r+g+b < 3<<15, len(seen)
}
