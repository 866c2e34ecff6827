package durable

import (
	"errors"
	"fmt"
)

// Errors of a store. A returned error wraps one of them, or one of the disk's. It names the
// file and, where there is one, the table and the key. Use [errors.Is] to distinguish them.
var (
	// ErrLocked is returned by [Open] when another process, or another store of this one, has
	// the file open.
	ErrLocked = errors.New("the file is locked by another store")

	// ErrForeign is returned by [Open] for a file that another program has written, or a later
	// version of this package.
	ErrForeign = errors.New("not a file of this version of durable")

	// ErrDamaged is returned by [Open] when a part of the file is not as it was written.
	ErrDamaged = errors.New("the file is damaged")

	// ErrUnknownTable is returned by [Open] when the file has a table that was not passed. The
	// option [Forget] deletes it.
	ErrUnknownTable = errors.New("the file has a table that was not passed to Open; pass it, or use Forget")

	// ErrUnknownVersion is returned by [Open] when the file has rows of a version that the
	// table's [Version] option does not name.
	ErrUnknownVersion = errors.New("rows of an unknown version")

	// ErrRow is returned for a row that cannot be encoded or decoded.
	ErrRow = errors.New("row")

	// ErrClosed is returned by the methods of a store that was closed.
	ErrClosed = errors.New("the store is closed")
)

// fileError names the file in an error.
func fileError(path string, err error) error {
	return fmt.Errorf("durable: %s: %w", path, err)
}

// tableError names the table in an error.
func tableError(table string, err error) error { return fmt.Errorf("table %q: %w", table, err) }

// rowError names the key of a row that could not be encoded or decoded.
func rowError(key, verb string, err error) error {
	return fmt.Errorf("%w with key %s cannot be %s: %w", ErrRow, key, verb, err)
}
