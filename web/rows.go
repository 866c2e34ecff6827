package web

import (
	"net/http"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web/internal/sse"
)

// PositionHeader is the header with the position of the rows that the handler of [Rows] sends. A
// feed that is opened with it as the parameter "after" goes on from there.
const PositionHeader = "Changefeed-Position"

// Rows returns a handler that sends the present rows of a selection as a JSON array, in the order of
// the selection. All of them are of one moment. The header [PositionHeader] has its position, which
// is the ETag, too. A client that reads slowly holds a snapshot meanwhile: see [changefeed.Read].
func Rows[K, V any](s changefeed.Selection[K, V], opts ...Option) http.Handler {
	return &rows[K, V]{source: source[K, V]{newConfig(opts), always(s)}, tagged: true}
}

// RowsFunc is like [Rows] but calls choose for the selection that a request asks for, as
// [ChangesFunc] does. There is no ETag, and nothing is cached, because the same URL may have other
// rows for another user.
func RowsFunc[K, V any](choose func(r *http.Request) (changefeed.Selection[K, V], error), opts ...Option) http.Handler {
	return &rows[K, V]{source: source[K, V]{newConfig(opts), choose}}
}

type rows[K, V any] struct {
	source[K, V]
	tagged bool // with an ETag, because all requests have the same selection
}

func (h *rows[K, V]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, ok := h.accept(w, r)
	if !ok {
		return
	}
	err := changefeed.Read(func(tx *changefeed.Tx) error {
		lineage := s.Table().In(tx).Lineage()
		position := lineage[len(lineage)-1].String()
		header := w.Header()
		header.Set(PositionHeader, position)
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Type", "application/json")
		header.Set("X-Content-Type-Options", "nosniff")
		if tag := `"` + position + `"`; h.tagged {
			header.Set("ETag", tag)
			header.Set("Cache-Control", "no-cache")
			if r.Header.Get("If-None-Match") == tag {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
		}
		if r.Method == http.MethodHead {
			return nil
		}
		return h.write(w, s.In(tx))
	}, s.Table())
	if err != nil {
		h.logger.Debug("web: rows not sent", "client", r.RemoteAddr, "error", err)
		panic(http.ErrAbortHandler) // so that the client does not take a part for the whole
	}
}

// write writes rows as a JSON array, one row in a line.
func (h *rows[K, V]) write(w http.ResponseWriter, s changefeed.TxSelection[K, V]) error {
	out := sse.NewWriter(w, h.deadline)
	out.Begin()
	defer out.End()
	out.Text = append(out.Text, '[')
	comma := ""
	for key, row := range s.All() {
		data, err := encode(&row)
		if err != nil {
			h.logger.Error("web: a row cannot be encoded", "key", key, "error", err)
			return err
		}
		out.Text = append(append(append(out.Text, comma...), '\n'), data...)
		comma = ","
		if err := out.Added(); err != nil {
			return err
		}
	}
	out.Text = append(out.Text, "\n]\n"...)
	return out.Write()
}
