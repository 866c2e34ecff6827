package durable

import (
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// An Option is an option of [Open].
type Option func(c *config)

type config struct {
	keep     int
	buffer   int
	progress func(Progress)
	onError  func(error)
	forget   []string
	retry    time.Duration // between attempts to write
}

// DefaultKeep is the number of changes of each table that a file keeps, without [Keep].
const DefaultKeep = 1000

func newConfig(opts []Option) config {
	c := config{keep: DefaultKeep, buffer: changefeed.DefaultBuffer, retry: time.Second}
	for _, opt := range opts {
		opt(&c)
	}
	return c
}

// Keep keeps the newest n changes of each table in the file, and calls its Retain with n. A feed
// can then be resumed across a restart, by After with a position that is at most n changes old.
// Each commit is kept whole or not at all, so a larger one than n is not kept. 0 keeps none, which
// makes commits cheaper, and does not call Retain. The default is [DefaultKeep].
func Keep(n int) Option { return func(c *config) { c.keep = n } }

// Buffer sets how many changes may wait for the disk. If it is too slow for them, the store
// writes all present rows of the tables in one transaction of the file. The changes that are kept
// for feeds begin anew then. The default is [changefeed.DefaultBuffer].
func Buffer(n int) Option { return func(c *config) { c.buffer = n } }

// OnError makes the store call f with each error of the disk, and of a row that cannot be encoded,
// in a goroutine of the store. f should return soon, and must not call Close. The tables go on
// working, and the store tries again every second.
func OnError(f func(err error)) Option { return func(c *config) { c.onError = f } }

// A Progress says how far Open has come.
type Progress struct {
	Table       string // the name of the table that is being restored
	Rows, Total int    // its rows that were restored, and all of its rows
}

// OnProgress makes Open call f at the beginning and at the end of each table, and after every few
// thousand rows. f must not use the tables.
func OnProgress(f func(p Progress)) Option { return func(c *config) { c.progress = f } }

// Forget makes Open delete tables from the file that are not passed to it. Names of others have no
// effect, so the option can stay.
func Forget(names ...string) Option { return func(c *config) { c.forget = append(c.forget, names...) } }
