package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/seed-637b77f9/changefeed/web"
	"github.com/seed-637b77f9/changefeed/web/internal/sse"
)

const (
	tailBuffer    = 200                    // changes that a page gets at a time
	tailInterval  = 200 * time.Millisecond // and how often
	tailHeartbeat = 15 * time.Second
	tailDeadline  = 30 * time.Second
)

// A changeView is a change, as the page gets it. A commit is an array of them.
type changeView struct {
	Table string          `json:"table"`
	Seq   uint64          `json:"seq"`
	Kind  string          `json:"kind"`
	Old   json.RawMessage `json:"old,omitempty"`
	New   json.RawMessage `json:"new,omitempty"`
}

// serveTail sends the commits to a table, or to all tables, until the client leaves.
func (h *handler) serveTail(w http.ResponseWriter, r *http.Request, query url.Values) error {
	tables := h.tables
	if name := query.Get("table"); name != "" {
		t := h.find(name)
		if t == nil {
			return &web.StatusError{Status: http.StatusNotFound, Text: "there is no such table"}
		}
		tables = []table{*t}
	}
	labels := make(map[changefeed.AnyTable]string)
	var followed []changefeed.AnyTable
	for _, t := range tables {
		if !t.Info().Dropped {
			labels[t.AnyTable] = t.label
			followed = append(followed, t.AnyTable)
		}
	}
	if len(followed) == 0 {
		return &web.StatusError{Status: http.StatusNotFound, Text: "there is no table that is not dropped"}
	}
	ctx, cancel := h.servers.Context(r)
	defer cancel()
	out := sse.NewWriter(w, tailDeadline)
	out.BeginEvents()
	if r.Method == http.MethodHead {
		return nil
	}
	wake := make(chan struct{}, 1)
	commits := changefeed.Commits(ctx, followed, changefeed.Buffer(tailBuffer), changefeed.Poll(wake), changefeed.Named("inspect"))
	_ = sse.Follow(ctx, "event: open\ndata: {}\n\n", wake, tailHeartbeat, func(text string) error {
		if err := sendTail(out, commits, labels, text); err != nil {
			return err
		}
		return wait(ctx, tailInterval) // more changes than the buffer holds in this time are skipped
	})
	return nil
}

// wait waits for a time, or until the end of ctx, whose error it does not return.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// sendTail sends a text and the commits that are ready.
func sendTail(out *sse.Writer, commits changefeed.Stream[changefeed.Commit], labels map[changefeed.AnyTable]string, text string) error {
	out.Begin()
	defer out.End()
	out.Text = append(out.Text, text...)
	sent := 0
	for commit, err := range commits {
		if err != nil {
			skipped, ok := errors.AsType[*changefeed.SkippedError](err)
			if !ok {
				if errors.Is(err, changefeed.ErrTableDropped) {
					out.Text = append(out.Text, "event: end\ndata: {}\n\n"...)
				}
				return errors.Join(err, out.Flush())
			}
			out.Text = fmt.Appendf(out.Text, "event: skipped\ndata: {\"count\":%d,\"reset\":%t}\n\n", skipped.Count, skipped.Reset)
			continue
		}
		views := make([]changeView, 0, len(commit))
		for _, c := range commit {
			views = append(views, changeView{labels[c.Table], c.Seq, c.Kind.String(), rowOf(c.Old), rowOf(c.New)})
		}
		data, _ := json.Marshal(views) // their rows are encoded already
		out.Text = fmt.Appendf(out.Text, "data: %s\n\n", data)
		if err := out.Added(); err != nil {
			return err
		}
		if sent += len(commit); sent >= tailBuffer {
			break // wake gets a value if there is more
		}
	}
	if out.IsEmpty() {
		return nil
	}
	return out.Flush()
}

func rowOf(row any) json.RawMessage {
	if row == nil {
		return nil
	}
	return jsonOf(row)
}
