package inspect

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/seed-637b77f9/changefeed/web/internal/sse"
)

//go:embed page
var page embed.FS

// Handler returns the handler of the inspector: see the package documentation. It can be registered
// under any path. Handler panics if a table is nil.
func Handler(tables ...changefeed.AnyTable) http.Handler {
	h := new(handler)
	for _, t := range tables {
		if t == nil {
			panic("inspect: nil table")
		}
		h.add(t)
	}
	return h
}

type handler struct {
	tables  []table
	servers sse.Shutdowns
}

// A table is a table under a name that no other one of the handler has.
type table struct {
	changefeed.AnyTable
	label string
}

func (h *handler) add(t changefeed.AnyTable) {
	label := t.Name()
	for n := 2; h.find(label) != nil; n++ {
		label = fmt.Sprintf("%s#%d", t.Name(), n)
	}
	h.tables = append(h.tables, table{t, label})
}

// find returns the table with a label, or nil.
func (h *handler) find(label string) *table {
	for i := range h.tables {
		if h.tables[i].label == label {
			return &h.tables[i]
		}
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return &web.StatusError{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET is allowed", http.StatusMethodNotAllowed)
		return
	}
	query := r.URL.Query()
	if file := query.Get("file"); file != "" {
		http.ServeFileFS(w, r, page, "page/"+file)
		return
	}
	if err := h.serveView(w, r, query); err != nil {
		status := http.StatusInternalServerError
		if e, ok := errors.AsType[*web.StatusError](err); ok {
			status = e.Status
		}
		http.Error(w, err.Error(), status)
	}
}

// serveView answers with the page, or with what it shows.
func (h *handler) serveView(w http.ResponseWriter, r *http.Request, query url.Values) error {
	format, view := query.Get("format"), query.Get("view")
	switch {
	case view == "tail":
		return h.serveTail(w, r, query)
	case format == "":
		http.ServeFileFS(w, r, page, "page/inspect.html")
		return nil
	case format != "json":
		return badRequest("the only format is json")
	case view == "":
		limit, err := number(query, "limit", 100, 1_000_000)
		if err != nil {
			return err
		}
		return writeJSON(w, h.overview(query.Get("feeds"), limit))
	case view == "rows":
		rows, err := h.rows(query)
		if err != nil {
			return err
		}
		return writeJSON(w, rows)
	}
	return badRequest("the only views are rows and tail")
}

// number returns the number that a parameter has, which is from 1 to most.
func number(query url.Values, name string, byDefault, most int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, badRequest("%s must be a number from 1 to %d", name, most)
	}
	return n, nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(data, '\n'))
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	return nil
}
