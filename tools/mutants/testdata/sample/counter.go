// Package sample has a few functions of every form that a mutant may be in.
package sample

import "errors"

// ErrFull is returned when a counter has reached its maximum.
var ErrFull = errors.New("full")

// A Counter counts up to a maximum.
type Counter[T ~int] struct{ n, max T }

// Add counts one.
func (c *Counter[T]) Add() error {
	// The maximum itself is allowed.
	if c.n >= c.max {
		return ErrFull // and changes nothing
	}

	c.n++
	return nil
}

// Reset begins anew.
func (c *Counter[T]) Reset() { c.n = 0 }

// AddAll counts all of some steps.
func (c *Counter[T]) AddAll(steps ...T) {
	for _, step := range steps {
		c.n += step
	}
}
