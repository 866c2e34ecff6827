package contest

import (
	"slices"
	"sync"
)

// everything, in place of a key, is for those who follow all rows.
const everything = -1

// Channels hold so much for a reader: of all rows, and of one row, for there are many.
const (
	channelLen    = 1024
	keyChannelLen = 16
)

// A hub is the channels of those who follow. Its owner's lock guards it.
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

// send waits for readers whose channels are full.
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

// leave ends a subscription. A writer that waits for its reader holds the lock, and
// goes on.
func (h *hub[T]) leave(key int, ch chan T, lock sync.Locker) {
	go func() {
		for range ch { // until it is closed
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
