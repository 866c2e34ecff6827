package contest

import (
	"slices"
	"sync"
)

// HandOff sends a version over a channel and does nothing else. It has no row, no lock and
// no order, and shows the lowest possible latency.
var HandOff = Contestant{
	Name: "bare channel",
	Traits: Traits{
		Use:     "a channel send a reader, without any row: the floor of latency",
		Old:     "no",
		Feed:    "version numbers",
		Slow:    "the writer waits for it",
		Initial: "no",
		OneKey:  "no",
		Waits:   true,
		IsFloor: true,
	},
	Open: func() Store { return new(handOff) },
}

type handOff struct {
	mu    sync.Mutex // guards chans against concurrent Follow and Close
	chans []chan int
}

func (h *handOff) Update(_, version int) {
	for _, ch := range h.chans {
		ch <- version
	}
}

func (h *handOff) Follow() Feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := make(chan int, channelLen)
	h.chans = append(h.chans, ch)
	return &handOffFeed{h, ch}
}

func (h *handOff) Close() {}

type handOffFeed struct {
	from     *handOff
	versions chan int
}

func (f *handOffFeed) Read(t *Tally) {
	for version := range f.versions {
		t.See(version)
		if !t.More() {
			return
		}
	}
}

// Close must not be called during a write.
func (f *handOffFeed) Close() {
	f.from.mu.Lock()
	defer f.from.mu.Unlock()
	f.from.chans = slices.DeleteFunc(f.from.chans, func(c chan int) bool { return c == f.versions })
	close(f.versions)
}
