package fleet

import (
	"context"
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/seed-637b77f9/changefeed/web/inspect"
)

//go:embed page
var files embed.FS

// Handler returns a handler for the page, its feeds, and the inspector:
//
//	GET /                           the page
//	GET /fleet                      the regions, and the number of devices, as JSON
//	GET /regions/changes            the feed of the totals of each region
//	GET /regions/{region}/changes   the feed of the devices of a region
//	GET /hottest/changes            the feed of the ten hottest devices
//	POST /cut?page=ID               ends the feeds whose address has the same parameter "page"
//	GET /debug/changefeed/          the inspector of the table and its views, for operators only
//
// A feed that was cut is resumed by the browser after two seconds.
func (f *Fleet) Handler() http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the name is valid
	}
	var feeds cutter
	region := web.ChangesFunc(f.inRegion, web.Squash(200*time.Millisecond), web.Retry(2*time.Second), web.Named("region"))
	totals := web.Changes(f.Totals.Selection(), web.Squash(200*time.Millisecond), web.Retry(2*time.Second), web.Named("totals"))
	hottest := web.Changes(f.Hottest.Selection(), web.Retry(2*time.Second), web.Named("hottest"))

	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.Handle("GET /changefeed.js", web.Script())
	mux.HandleFunc("GET /fleet", f.sendFleet)
	mux.Handle("GET /regions/changes", feeds.add(totals))
	mux.Handle("GET /regions/{region}/changes", feeds.add(region))
	mux.Handle("GET /hottest/changes", feeds.add(hottest))
	mux.HandleFunc("POST /cut", feeds.cut)
	mux.Handle("GET /debug/changefeed/", inspect.Handler(f.Devices, f.Totals, f.Hottest))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// inRegion chooses the devices of the region in the request's path.
func (f *Fleet) inRegion(r *http.Request) (s changefeed.Selection[int, Device], err error) {
	id := r.PathValue("region")
	if !slices.ContainsFunc(Regions, func(r Region) bool { return r.ID == id }) {
		return s, &web.StatusError{Status: http.StatusNotFound, Text: "there is no such region"}
	}
	return f.byRegion.Equal(id), nil
}

func (f *Fleet) sendFleet(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"devices": f.Devices.Len(), "regions": Regions}) // fails only if the client has gone
}

// A cutter ends the feeds of a page, as if the connection had been lost. A page has a random name.
type cutter struct {
	open sync.Map // from requests to the functions that end them
}

// add returns a handler whose requests can be cut.
func (c *cutter) add(feed http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		c.open.Store(r, cancel)
		defer c.open.Delete(r)
		feed.ServeHTTP(w, r.WithContext(ctx))
	})
}

// cut ends the feeds of a page.
func (c *cutter) cut(w http.ResponseWriter, r *http.Request) {
	page := r.URL.Query().Get("page")
	c.open.Range(func(request, cancel any) bool {
		if page != "" && request.(*http.Request).URL.Query().Get("page") == page {
			cancel.(context.CancelFunc)()
		}
		return true
	})
	w.WriteHeader(http.StatusNoContent)
}
