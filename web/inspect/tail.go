package inspect

import (
	"context"
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

// A tail is the commits to tables, as a page gets them.
type tail struct {
	ctx     context.Context
	out     *sse.Writer
	wake    chan struct{}
	tables  []table // those that are followed
	commits changefeed.Stream[changefeed.Commit]
}

// serveTail sends the commits to a table, or to all tables, until the client leaves.
func (h *handler) serveTail(w http.ResponseWriter, r *http.Request, query url.Values) error {
	ctx, cancel := sse.Context(r)
	defer cancel()
	t := &tail{ctx: ctx, out: sse.NewWriter(w, tailDeadline), wake: make(chan struct{}, 1), tables: h.tables}
	if query.Has("table") {
		one, err := h.table(query)
		if err != nil {
			return err
		}
		t.tables = []table{*one}
	}
	if t.leaveDropped(); len(t.tables) == 0 {
		return &web.StatusError{Status: http.StatusNotFound, Text: "the table was dropped, or there is none"}
	}
	if err := t.out.BeginEvents(); err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		return nil
	}
	t.follow()
	_ = sse.Follow(ctx, "event: open\ndata: {}\n\n", t.wake, tailHeartbeat, func(text string) error {
		if err := t.send(text); err != nil {
			return err
		}
		return wait(ctx, tailInterval) // more changes than the buffer holds in this time are skipped
	})
	return nil
}

// leaveDropped removes the tables that were dropped, and returns their labels.
func (t *tail) leaveDropped() (labels []string) {
	var left []table
	for _, one := range t.tables {
		if one.Info().Dropped {
			labels = append(labels, one.label)
		} else {
			left = append(left, one)
		}
	}
	t.tables = left
	return labels
}

func (t *tail) follow() {
	var tables []changefeed.AnyTable
	for _, one := range t.tables {
		tables = append(tables, one.AnyTable)
	}
	t.commits = changefeed.Commits(t.ctx, tables, changefeed.Buffer(tailBuffer), changefeed.Poll(t.wake), changefeed.Named("inspect"))
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

// send sends a text and the commits that are ready. When a table is dropped, it goes on with those
// that are left.
func (t *tail) send(text string) error {
	t.out.Begin()
	defer t.out.End()
	t.out.Text = append(t.out.Text, text...)
	err := t.read()
	for errors.Is(err, changefeed.ErrTableDropped) {
		t.out.Text = fmt.Appendf(t.out.Text, "event: dropped\ndata: {\"tables\":%s}\n\n", jsonOf(t.leaveDropped()))
		if len(t.tables) == 0 {
			t.out.Text = append(t.out.Text, "event: end\ndata: {}\n\n"...)
			break
		}
		t.follow()
		err = t.read()
	}
	if t.out.IsEmpty() {
		return err
	}
	return errors.Join(err, t.out.Flush())
}

// read adds the commits that are ready. It returns an error if the stream has ended, or the client
// has gone.
func (t *tail) read() error {
	sent := 0
	for commit, err := range t.commits {
		if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
			t.out.Text = fmt.Appendf(t.out.Text, "event: skipped\ndata: {\"count\":%d,\"reset\":%t}\n\n", skipped.Count, skipped.Reset)
			continue
		}
		if err != nil {
			return err
		}
		t.add(commit)
		if err := t.out.Added(); err != nil {
			return err
		}
		if sent += len(commit); sent >= tailBuffer {
			break // wake gets a value if there is more
		}
	}
	return nil
}

// add adds the event of a commit, whose data is an array of its changes.
func (t *tail) add(commit changefeed.Commit) {
	text := append(t.out.Text, "data: ["...)
	for i, c := range commit {
		if i > 0 {
			text = append(text, ',')
		}
		text = fmt.Appendf(text, `{"table":%s,"seq":%d,"kind":%q`, jsonOf(t.label(c.Table)), c.Seq, c.Kind)
		if c.Old != nil {
			text = append(append(text, `,"old":`...), jsonOf(c.Old)...)
		}
		if c.New != nil {
			text = append(append(text, `,"new":`...), jsonOf(c.New)...)
		}
		text = append(text, '}')
	}
	t.out.Text = append(text, "]\n\n"...)
}

// label returns the label of a table that is followed.
func (t *tail) label(of changefeed.AnyTable) string {
	for _, one := range t.tables {
		if one.AnyTable == of {
			return one.label
		}
	}
	return of.Name()
}
