package inspect

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
)

//go:embed page
var page embed.FS

// Handler returns the handler of the inspector: see the package documentation. It can be registered
// under any path. A table that is passed twice counts once. Handler panics if a table is nil.
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

type handler struct{ tables []table }

// A table is a table under a name that no other one of the handler has.
type table struct {
	changefeed.AnyTable
	label string
}

func (h *handler) add(t changefeed.AnyTable) {
	for _, other := range h.tables {
		if other.AnyTable == t {
			return
		}
	}
	name := cmp.Or(strings.ToValidUTF8(t.Name(), "\uFFFD"), "(no name)")
	label := name
	for n := 2; h.find(label) != nil; n++ {
		label = fmt.Sprintf("%s#%d", name, n)
	}
	h.tables = append(h.tables, table{t, label})
}

// table returns the table that a request names.
func (h *handler) table(query url.Values) (*table, error) {
	if t := h.find(query.Get("table")); t != nil {
		return t, nil
	}
	if !query.Has("table") {
		return nil, badRequest("the parameter table is missing")
	}
	return nil, &web.StatusError{Status: http.StatusNotFound, Text: "there is no such table"}
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
	case format != "" && format != "json":
		return badRequest("the only format is json")
	case view == "tail":
		return h.serveTail(w, r, query)
	case view == "rows":
		rows, err := h.rows(query)
		if err != nil {
			return err
		}
		return writeJSON(w, rows.appendJSON(nil))
	case view != "":
		return badRequest("the only views are rows and tail")
	case format == "":
		http.ServeFileFS(w, r, page, "page/inspect.html")
		return nil
	}
	limit, err := number(query, "limit", 100, 1_000_000)
	if err != nil {
		return err
	}
	return writeJSON(w, jsonOf(h.overview(query.Get("feeds"), limit)))
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

func writeJSON(w http.ResponseWriter, data []byte) error {
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(data); err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	return nil
}
