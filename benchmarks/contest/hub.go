package contest

import (
	"slices"
	"sync"
)

// everything is used instead of a key by readers that follow all rows.
const everything = -1

// The lengths of the channels of readers that follow all rows, and of readers that follow
// one row, of which there are many.
const (
	channelLen    = 1024
	keyChannelLen = 16
)

// A hub holds the channels of all readers. It is guarded by its owner's lock.
type hub[T any] struct {
	all  []chan T
	keys map[int][]chan T
}

func (h *hub[T]) followed() bool { return len(h.all)+len(h.keys) > 0 }

func (h *hub[T]) follow(key int) chan T {
	if key == everything {
		ch := make(chan T, channelLen)
		h.all = append(h.all, ch)
		return ch
	}
	if h.keys == nil {
		h.keys = make(map[int][]chan T)
	}
	ch := make(chan T, keyChannelLen)
	h.keys[key] = append(h.keys[key], ch)
	return ch
}

// send sends v to the readers of all rows. It waits for readers whose channels are full.
func (h *hub[T]) send(v T) {
	for _, ch := range h.all {
		ch <- v
	}
}

func (h *hub[T]) sendKey(key int, v T) {
	for _, ch := range h.keys[key] {
		ch <- v
	}
}

// leave ends a subscription. A writer that waits for the reader holds the lock, so leave
// empties the channel first.
func (h *hub[T]) leave(key int, ch chan T, lock sync.Locker) {
	go func() {
		for range ch { // until the channel is closed
		}
	}()
	lock.Lock()
	defer lock.Unlock()
	without := func(chans []chan T) []chan T {
		return slices.DeleteFunc(chans, func(c chan T) bool { return c == ch })
	}
	if key == everything {
		h.all = without(h.all)
	} else if h.keys[key] = without(h.keys[key]); len(h.keys[key]) == 0 {
		delete(h.keys, key)
	}
	close(ch)
}
