package browsertest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/inspect"
	"github.com/stretchr/testify/require"
)

type item struct {
	ID    int
	Color string
	Score float64
}

// A shop has a table of items, which the inspector shows.
type shop struct {
	*testing.T
	items *changefeed.Table[int, item]
	url   string
}

// newShop has n items. Every third one is red, then green, then blue.
func newShop(t *testing.T, n int) *shop {
	s := &shop{T: t, items: changefeed.NewTable("items", func(i *item) int { return i.ID })}
	changefeed.NewIndex(s.items, "color", func(i *item) string { return i.Color })
	changefeed.NewIndex(s.items, "score", func(i *item) float64 { return i.Score })
	orders := changefeed.NewTable("orders", func(i *item) int { return i.ID })
	for id := range n {
		s.upsert(item{id, []string{"red", "green", "blue"}[id%3], float64(id) / 2})
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/changefeed/", inspect.Handler(s.items, orders))
	url, _ := serve(t, "127.0.0.1:0", mux)
	s.url = url + "/debug/changefeed/"
	return s
}

func (s *shop) upsert(i item) {
	s.Helper()
	_, err := s.items.Upsert(i)
	require.NoError(s, err)
}

// follow returns a feed that nobody reads yet.
func (s *shop) follow(name string, opts ...changefeed.FeedOption) changefeed.Stream[changefeed.Change[item]] {
	return s.items.Changes(s.Context(), append(opts, changefeed.Named(name))...)
}

// cells returns the texts of the cells of a row of a table.
func (p *tab) cells(row string) []string {
	p.Helper()
	return eval[[]string](p, fmt.Sprintf("[...document.querySelector(%s).cells].map((cell) => cell.textContent)", quote(row)))
}

// waitRow waits until the cells of a row begin with these texts.
func (p *tab) waitRow(row string, texts ...string) {
	p.Helper()
	p.wait(fmt.Sprintf("JSON.stringify([...(document.querySelector(%s)?.cells ?? [])].slice(0, %d).map((cell) => cell.textContent)) === JSON.stringify(%s)",
		quote(row), len(texts), quote(texts)))
}

// A feed that nobody reads is shown first, with what it has skipped.
func TestInspectorFindsFeeds(t *testing.T) {
	t.Parallel()
	s := newShop(t, 10)
	ctx, cancel := context.WithCancel(t.Context())
	fast := s.items.Changes(ctx, changefeed.Named("fast"), changefeed.Buffer(2000))
	slow := s.follow("slow", changefeed.Buffer(100))
	idle := s.items.Where(func(*item) bool { return false }).Changes(ctx, changefeed.Named("idle"))
	read := make(chan int, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c, err := range fast {
			if err == nil {
				read <- c.New.ID
			}
		}
	}()

	p := open(t, s.url, nil)
	p.waitText("#state", "live")
	p.wait(`document.querySelectorAll("#feeds tbody tr").length === 3`)
	p.waitRow("#tables tbody tr", "items", "10", "10")
	for n := range 1000 {
		s.upsert(item{n % 10, "red", float64(n + 1000)}) // an equal row is no change
	}
	for range 1000 {
		<-read
	}
	p.waitRow("#feeds tbody tr", "slow", "items", "all rows", "", "100 / 100", "1,000", "900", "0")
	require.True(t, eval[bool](p, `document.querySelector("#feeds tbody tr .fill").classList.contains("full")`))
	p.waitRow("#tables tbody tr", "items", "10", "1,010")
	p.wait(`document.querySelector("#tables svg.chart path").getAttribute("d")?.length > 10`)
	p.wait(`document.querySelector('#feeds [data-feed=fast]').cells[7].textContent === "1,000"`)
	require.Equal(t, []string{"0 / 2,000", "0", "0"}, p.cells("#feeds [data-feed=fast]")[4:7])

	// The feeds can be searched by name.
	p.run(`document.querySelector("#feed-filter input").focus()`)
	do(p, "type", chromedp.KeyEvent("idl"))
	p.wait(`[...document.querySelectorAll("#feeds tbody tr")].map((row) => row.dataset.feed).join() === "idle"`)
	do(p, "erase", chromedp.KeyEvent(strings.Repeat(kb.Backspace, 3)))
	p.wait(`document.querySelectorAll("#feeds tbody tr").length === 3`)

	// Once it has been read, the feed is not behind any more.
	skipped := 0
	for _, err := range slow {
		if err == nil {
			break
		}
		skipped++
	}
	require.Equal(t, 1, skipped)
	p.wait(`document.querySelector("#feeds [data-feed=slow]").cells[7].textContent === "1"`)
	require.Equal(t, "99 / 100", p.cells("#feeds [data-feed=slow]")[4])
	cancel()
	<-done
	p.wait(`!document.querySelector("#feeds [data-feed=fast]")`)
	for _, stream := range []changefeed.Stream[changefeed.Change[item]]{slow, idle} {
		for range stream { // a stream that is not used any more would have ended its feed
			break
		}
	}
}

// The changes show the old and the new row, and mark the fields that differ.
func TestInspectorShowsTransactions(t *testing.T) {
	t.Parallel()
	s := newShop(t, 3)
	p := open(t, s.url+"#changes", nil)
	p.waitText("#state", "live")
	s.upsert(item{1, "green", 77})
	p.wait(`document.querySelectorAll("#tail > li").length === 1`)
	// sides returns the texts of a change, with the fields that are marked in brackets.
	sides := func(change string) string {
		return eval[string](p, fmt.Sprintf(`[...document.querySelectorAll(%s + " .sides > div")].map((side) =>
			[...side.querySelectorAll("dd, p")].map((e) => e.matches(".differs") ? "[" + e.textContent + "]" : e.textContent).join(" ")).join(" -> ")`, quote(change)))
	}
	newest := "#tail > li:first-child"
	require.Equal(t, "updateitemsseq 4", p.text(newest+" h3"))
	require.Equal(t, "1 green [0.5] -> 1 green [77]", sides(newest))
	_, err := s.items.Delete(1)
	require.NoError(t, err)
	p.waitText(newest+" .kind", "delete")
	require.Equal(t, "[1] [green] [77] -> no row any more", sides(newest))
	s.upsert(item{9, "blue", 1})
	p.waitText(newest+" .kind", "insert")
	require.Equal(t, "no row before -> [9] [blue] [1]", sides(newest))
	p.waitText("#tail-count", "3 changes")

	// A transaction is one item of the list.
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for id := range 2 {
			if _, err := s.items.In(tx).Upsert(item{id, "grey", 0}); err != nil {
				return err
			}
		}
		return nil
	}, s.items))
	p.waitText("#tail-count", "5 changes")
	require.Equal(t, 2, eval[int](p, fmt.Sprintf(`document.querySelectorAll(%s + " .change").length`, quote(newest))))
	require.Equal(t, 4, eval[int](p, `document.querySelectorAll("#tail > li").length`))

	p.click("#pause")
	p.waitText("#state", "paused")
	require.Eventually(t, func() bool { return len(s.items.Feeds()) == 0 }, deadline, tick)
	s.upsert(item{1, "lost", 0})
	p.click("#pause")
	p.waitText("#state", "live")
	s.upsert(item{2, "seen", 0})
	p.wait(`document.querySelector("#tail").textContent.includes("seen")`)
	require.False(t, eval[bool](p, `document.querySelector("#tail").textContent.includes("lost")`))
	p.click("#clear")
	require.Equal(t, "", p.text("#tail"))

	// More changes than the page can show are counted.
	require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
		for n := range 5000 {
			if _, err := s.items.In(tx).Upsert(item{n % 10, "many", float64(n)}); err != nil {
				return err
			}
		}
		return nil
	}, s.items))
	for id := range 3000 {
		s.upsert(item{id % 10, "more", -float64(id)})
	}
	p.wait(`document.querySelector("#tail").textContent.includes("-2999")`)
	counts := eval[[]int](p, `document.querySelector("#tail-count").textContent.replaceAll(",", "").match(/\d+/g).map(Number)`)
	require.Len(t, counts, 2)
	require.Equal(t, 5000+3000, counts[0]+counts[1])
	require.LessOrEqual(t, eval[int](p, `document.querySelectorAll("#tail > li").length`), 100)

	// Without the inspector's page, nobody follows the table.
	p.run(`location.hash = "#overview"`)
	require.Eventually(t, func() bool { return len(s.items.Feeds()) == 0 }, deadline, tick)
}

// All links and inputs can be reached and used with the keyboard.
func TestInspectorByKeyboard(t *testing.T) {
	t.Parallel()
	s := newShop(t, 60)
	p := open(t, s.url, nil)
	p.waitText("#state", "live")
	// reach presses Tab, from the first link on, and returns what has the focus on the way.
	reach := func() (all []string) {
		p.run("document.querySelector('nav a').focus()")
		for range 50 {
			name := eval[string](p, `(() => {
				const e = document.activeElement;
				if (e === document.body) return "";
				if (getComputedStyle(e).outlineStyle === "none") return "no outline: " + e.outerHTML;
				return e.name || e.textContent;
			})()`)
			if name == "" || len(all) > 0 && name == all[0] {
				return all
			}
			all = append(all, name)
			do(p, "Tab", chromedp.KeyEvent(kb.Tab))
		}
		require.Fail(t, "Tab does not end", all)
		return nil
	}
	nav := []string{"Overview", "Rows", "Changes"}
	p.wait(`document.querySelectorAll("#tables tbody tr").length === 2`)
	require.Subset(t, reach(), append(nav, "items", "color", "score", "orders", "feeds"))

	// Enter on a link shows its part.
	p.run(`document.querySelector("nav a[data-part=rows]").focus()`)
	do(p, "Enter", chromedp.KeyEvent(kb.Enter))
	p.waitText("#row-count", "page 1, 50 rows")
	require.Subset(t, reach(), append(nav, "table", "by", "equal", "from", "to", "Show", "Next"))
	p.run(`document.querySelector("#next-rows").focus()`)
	do(p, "Enter", chromedp.KeyEvent(kb.Enter))
	p.waitText("#row-count", "page 2, 10 rows")

	p.run(`document.querySelector("nav a[data-part=changes]").focus()`)
	do(p, "Enter", chromedp.KeyEvent(kb.Enter))
	p.wait(`!document.querySelector("#changes").hidden`)
	require.Subset(t, reach(), append(nav, "table", "Pause", "Clear"))

	// What has the focus keeps it while the page shows what is new.
	p.run(`location.hash = "#overview"`)
	p.wait(`!document.querySelector("#overview").hidden`)
	p.run(`document.querySelector("#tables a").focus()`)
	s.upsert(item{1000, "red", 0})
	p.waitRow("#tables tbody tr", "items", "61")
	require.Equal(t, "items", eval[string](p, "document.activeElement.textContent"))
}
