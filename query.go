package changefeed

import "sync/atomic"

// A Stream is a sequence of elements and errors, to be read with a range loop:
//
//	for v, err := range stream {
//		if err != nil {
//			log.Print(err)
//			continue
//		}
//		// use v
//	}
//
// An element comes with a nil error, and an error comes with the zero element. An error
// need not end the stream. After a [SkippedError] it usually continues. An error that
// ends it is its last pair, so the loop above is always right. A loop with one variable
// (for v := range stream) is a bug: it takes the zero element that comes with an error
// for a real one.
//
// The loop runs in the caller's goroutine, and no lock is held while its body runs. Whether
// a range waits, how it ends and whether the stream can be ranged over again depends on
// the source: see [Table.Changes].
//
// Stages are chained behind a stream: [Stream.Filter], [Stream.Map], [Stream.Limit] and the
// function [Map]. They run in the loop's goroutine, for one element at a time. They pass
// errors through untouched, and never pass an error to a user's function. A panic in
// such a function reaches the loop's caller. There is no Count, Reduce, Sort or Group,
// because a stream of changes does not end, so they would not return. [Group], [Count] and [Top] make
// views, whose rows are the results at any time.
//
// To pull from a stream, use iter.Pull2(iter.Seq2[T, error](stream)). Call stop in the
// end, because the range counts as running until then.
type Stream[T any] func(yield func(T, error) bool)

// Filter returns the stream of the elements for which keep returns true, and of all
// errors. It panics if keep is nil.
func (s Stream[T]) Filter(keep func(T) bool) Stream[T] {
	if keep == nil {
		panic("changefeed: Stream.Filter: nil function; pass the predicate of the elements to keep")
	}
	return func(yield func(T, error) bool) {
		s(func(v T, err error) bool {
			if err == nil && !keep(v) {
				return true
			}
			return yield(v, err)
		})
	}
}

// Map returns the stream of f(v) for each element v, and of all errors. It panics if f is
// nil. For elements of another type, use the function [Map].
func (s Stream[T]) Map(f func(T) T) Stream[T] { return Map(s, f) }

// Limit returns the stream of the first n elements, and of the errors before the last of
// them. It counts the elements of all of its ranges together. It ends with the n-th
// element, without waiting for another and without an error. If n is below 1, it ends at
// once. The stream s can then be ranged over again.
func (s Stream[T]) Limit(n int) Stream[T] {
	var left atomic.Int64 // atomic, so that a second range at the same time meets the panic of s, not a data race
	left.Store(int64(n))
	return func(yield func(T, error) bool) {
		if left.Load() < 1 {
			return
		}
		s(func(v T, err error) bool {
			if err != nil {
				return yield(v, err)
			}
			last := left.Add(-1) < 1
			return yield(v, nil) && !last
		})
	}
}

// Map returns the stream of f(v) for each element v of s, and of all errors of s. It
// panics if f is nil.
func Map[T, U any](s Stream[T], f func(T) U) Stream[U] {
	if f == nil {
		panic("changefeed: Map: nil function; pass the function to apply to each element")
	}
	return func(yield func(U, error) bool) {
		s(func(v T, err error) bool {
			if err != nil {
				var zero U
				return yield(zero, err)
			}
			return yield(f(v), nil)
		})
	}
}

// failed returns a stream of which every range yields err and ends.
func failed[T any](err error) Stream[T] {
	return func(yield func(T, error) bool) {
		var zero T
		yield(zero, err)
	}
}
