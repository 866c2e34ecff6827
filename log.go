package changefeed

import "log/slog"

// LogValue returns Seq, Kind and the rows as a group. It omits a Seq of 0 and a row that is nil.
func (c Change[V]) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 4)
	if c.Seq > 0 {
		attrs = append(attrs, slog.Uint64("seq", c.Seq))
	}
	attrs = append(attrs, slog.String("kind", c.Kind.String()))
	if c.Old != nil {
		attrs = append(attrs, slog.Any("old", c.Old))
	}
	if c.New != nil {
		attrs = append(attrs, slog.Any("new", c.New))
	}
	return slog.GroupValue(attrs...)
}

// LogValue returns the fields as a group. It omits an empty Table, an empty Feed, and a Reset that
// is false.
func (e *SkippedError) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Uint64("skipped", e.Count), slog.Uint64("from", e.From), slog.Uint64("to", e.To)}
	if e.Table != "" {
		attrs = append(attrs, slog.String("table", e.Table))
	}
	if e.Feed != "" {
		attrs = append(attrs, slog.String("feed", e.Feed))
	}
	if e.Reset {
		attrs = append(attrs, slog.Bool("reset", true))
	}
	return slog.GroupValue(attrs...)
}

// LogValue returns the fields as a group. It omits what is empty, and options that have their
// default.
func (i FeedInfo) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Uint64("id", i.ID)}
	if i.Name != "" {
		attrs = append(attrs, slog.String("name", i.Name))
	}
	if i.Selection != "" {
		attrs = append(attrs, slog.String("selection", i.Selection))
	}
	if options := i.Options(); options != "" {
		attrs = append(attrs, slog.String("options", options))
	}
	if i.Initial {
		attrs = append(attrs, slog.Bool("initial", true))
	}
	attrs = append(attrs, slog.Int("buffered", i.Buffered))
	if i.Capacity > 0 {
		attrs = append(attrs, slog.Int("capacity", i.Capacity))
	}
	attrs = append(attrs, slog.Uint64("delivered", i.Delivered), slog.Uint64("skipped", i.Skipped), slog.Uint64("seq", i.Seq), slog.Uint64("lag", i.Lag))
	return slog.GroupValue(attrs...)
}

// LogValue returns the fields as a group. It omits a Dropped that is false.
func (i TableInfo) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("name", i.Name), slog.Int("rows", i.Rows), slog.Any("position", i.Position),
		slog.Uint64("inserts", i.Inserts), slog.Uint64("updates", i.Updates), slog.Uint64("deletes", i.Deletes),
		slog.Int("retained", i.Retained), slog.Any("indexes", i.Indexes), slog.Int("feeds", i.Feeds),
	}
	if i.Dropped {
		attrs = append(attrs, slog.Bool("dropped", true))
	}
	return slog.GroupValue(attrs...)
}

// LogValue returns the text of [Position.String].
func (p Position) LogValue() slog.Value { return slog.StringValue(p.String()) }
