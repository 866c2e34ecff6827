package contest

// Channels is a map, a mutex and a buffered channel for each reader.
var Channels = Contestant{
	Name: "channels",
	Traits: Traits{
		Use:     "by hand: map, mutex, a channel of 1,024 a reader",
		Old:     "yes",
		Feed:    "every change, in order",
		Slow:    "the writer waits for it",
		Initial: "a copy made under the lock; the writer waits when the channel is full",
		OneKey:  "a map from key to channels",
		Waits:   true,
	},
	Open: func() Store {
		t := &channelTable{byHand: byHand{rows: make(map[int]*Row)}}
		t.publish = func(key int, c change) {
			t.hub.send(c)
			t.hub.sendKey(key, c)
		}
		return t
	},
}

type channelTable struct {
	byHand
	hub hub[change]
}

func (t *channelTable) Follow() Feed { return t.FollowKey(everything) }

func (t *channelTable) FollowKey(key int) Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &channelFeed{table: t, key: key, changes: t.hub.follow(key)}
}

func (t *channelTable) FollowPresent() Feed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &channelFeed{table: t, key: everything, changes: t.hub.follow(everything), present: t.rowsLocked()}
}

type channelFeed struct {
	table   *channelTable
	key     int
	changes chan change
	present []*Row // the rows at the start, until they are read
}

func (f *channelFeed) Read(t *Tally) {
	if f.present != nil {
		for _, row := range f.present {
			t.Was(row.Version)
		}
		t.Ready()
		f.present = nil
	}
	for c := range f.changes {
		c.tell(t)
		if !t.More() {
			return
		}
	}
}

func (f *channelFeed) Close() { f.table.hub.leave(f.key, f.changes, &f.table.mu) }
