//go:build !changefeed_debug

package changefeed

import (
	"sync"
	"sync/atomic"
)

// Without the tag changefeed_debug, these take the place of the types in debug.go. They
// have no size, and the compiler removes the calls.

type tableMutex = sync.RWMutex

type lockUser struct{}

func (*lockUser) check(*tableMutex) {}
func (*lockUser) hold(*tableMutex)  {}

type (
	atomicPointer[T any] = atomic.Pointer[T]
	atomicUint64         = atomic.Uint64
	atomicBool           = atomic.Bool
)

type rowGuard[K, V any] struct{}

func (*rowGuard[K, V]) begin(*Table[K, V])                                {}
func (*rowGuard[K, V]) keep(*V)                                           {}
func (*rowGuard[K, V]) check(*V)                                          {}
func (*rowGuard[K, V]) changes(s Stream[Change[V]]) Stream[Change[V]]     { return s }
func (*rowGuard[K, V]) batches(s Stream[[]Change[V]]) Stream[[]Change[V]] { return s }

func guardCommits(s Stream[Commit]) Stream[Commit] { return s }

type indexGuard[S, K, V any] struct{}

func (*indexGuard[S, K, V]) plan(*Index[S, K, V], *V, *V) {}
