package changefeed

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A city is a key with a name of its own.
type city int

func (c city) String() string { return [...]string{"Rome", "Oslo"}[c] }

// A code is a string with a String method.
type code string

func (c code) String() string { return "code " + string(c) }

// A place is a key that is a struct, with a String method of its pointer.
type place struct{ X, Y int }

func (p *place) String() string { return fmt.Sprintf("%d/%d", p.X, p.Y) }

// keyedRow is the row of the tables in these tests: any key.
type keyedRow[K any] struct {
	Key   K
	Value int
}

// An errorTest is a write and the error that it meets.
type errorTest struct {
	text string
	is   error
	do   func(t *testing.T, text string, is error)
}

// failing returns the test of a write on a table that has one row under the key
// there. The write must return an error that errors.Is finds in all ways, with the
// whole text, beside the zero Change, and leave the table as it was.
func failing[K any](
	text string, is error, there K, compare func(a, b K) int, write func(*Table[K, keyedRow[K]]) (Change[keyedRow[K]], error),
) errorTest {
	return errorTest{text, is, func(t *testing.T, text string, is error) {
		table := NewTableFunc("ta\"ble", func(r *keyedRow[K]) K { return r.Key }, compare)
		_, err := table.Insert(keyedRow[K]{Key: there})
		require.NoError(t, err)
		feed := table.Changes(t.Context())
		if errors.Is(is, ErrTableDropped) {
			table.Drop()
		}
		before := stateOf(table)

		c, err := write(table)
		require.Zero(t, c, "an error comes with the zero Change")
		require.EqualError(t, err, text)
		for _, sentinel := range []error{ErrDuplicateKey, ErrNotFound, ErrKeyChanged, ErrTableDropped, ErrInvalidOption} {
			require.Equal(t, sentinel == is, errors.Is(err, sentinel), sentinel)
		}
		require.ErrorIs(t, fmt.Errorf("wrapped: %w", err), is)
		requireState(t, before, table)
		table.Drop()
		pairs := take(feed, 2)
		require.Len(t, pairs, 1, "no event")
		require.ErrorIs(t, pairs[0].err, ErrTableDropped)
	}}
}

// "all met with errors.Is; what is returned wraps them and says operation, table and key"
func TestFailedWritesSayOperationTableAndKey(t *testing.T) {
	type ints = Table[int, keyedRow[int]]
	type intChange = Change[keyedRow[int]]
	type intRow = keyedRow[int]
	ofInt := func(text string, is error, write func(*ints) (intChange, error)) errorTest {
		return failing(text, is, 1, cmp.Compare[int], write)
	}
	never := func(*intRow) { panic("edit and f run once, if at all") }
	insert := func(r intRow) func(*ints) (intChange, error) {
		return func(t *ints) (intChange, error) { return t.Insert(r) }
	}
	for _, test := range []errorTest{
		ofInt(`changefeed: insert into "ta\"ble": duplicate primary key 1`, ErrDuplicateKey, insert(intRow{1, 2})),
		ofInt(`changefeed: insert into "ta\"ble": duplicate primary key 1`, ErrDuplicateKey, insert(intRow{1, 0})), // equal, but there
		ofInt(`changefeed: update in "ta\"ble": no row with primary key 2`, ErrNotFound, func(t *ints) (intChange, error) {
			return t.Update(2, never)
		}),
		ofInt(`changefeed: replace in "ta\"ble": no row with primary key 2`, ErrNotFound, func(t *ints) (intChange, error) {
			return t.Replace(intRow{2, 0})
		}),
		ofInt(`changefeed: delete from "ta\"ble": no row with primary key 2`, ErrNotFound, func(t *ints) (intChange, error) {
			return t.Delete(2)
		}),
		ofInt(`changefeed: update in "ta\"ble": a write must not change primary key 1`, ErrKeyChanged, func(t *ints) (intChange, error) {
			return t.Update(1, func(r *intRow) { r.Key = 2 })
		}),
		ofInt(`changefeed: compute in "ta\"ble": a write must not change primary key 1`, ErrKeyChanged, func(t *ints) (intChange, error) {
			return t.Compute(1, func(r *intRow) *intRow { r.Key = 2; return r })
		}),
		ofInt(`changefeed: compute in "ta\"ble": a write must not change primary key 2`, ErrKeyChanged, func(t *ints) (intChange, error) {
			return t.Compute(2, func(*intRow) *intRow { return &intRow{1, 5} })
		}),

		ofInt(`changefeed: insert into "ta\"ble": table dropped, primary key 2`, ErrTableDropped, insert(intRow{2, 0})),
		ofInt(`changefeed: upsert into "ta\"ble": table dropped, primary key 1`, ErrTableDropped, func(t *ints) (intChange, error) {
			return t.Upsert(intRow{1, 0})
		}),
		ofInt(`changefeed: replace in "ta\"ble": table dropped, primary key 1`, ErrTableDropped, func(t *ints) (intChange, error) {
			return t.Replace(intRow{1, 0})
		}),
		ofInt(`changefeed: update in "ta\"ble": table dropped, primary key 1`, ErrTableDropped, func(t *ints) (intChange, error) {
			return t.Update(1, never)
		}),
		ofInt(`changefeed: compute in "ta\"ble": table dropped, primary key 1`, ErrTableDropped, func(t *ints) (intChange, error) {
			return t.Compute(1, func(r *intRow) *intRow { never(r); return nil })
		}),
		ofInt(`changefeed: delete from "ta\"ble": table dropped, primary key 1`, ErrTableDropped, func(t *ints) (intChange, error) {
			return t.Delete(1)
		}),

		keyText(nil, `<nil>`),
		keyText("x", `"x"`),
		keyText("", `""`),
		keyText(`a "b" 1`+"\n", `"a \"b\" 1\n"`),
		keyText(code("x"), `"code x"`),
		keyText(city(1), `Oslo`),
		keyText(1.5, `1.5`),
		keyText(place{1, 2}, `{1 2}`),
		keyText(&place{1, 2}, `1/2`),
		keyText((*place)(nil), `<nil>`),
		keyText([2]string{"a", "b"}, `[a b]`),
	} {
		t.Run(test.text, func(t *testing.T) { test.do(t, test.text, test.is) })
	}
}

// keyText is the test of how a key is written.
func keyText(key any, text string) errorTest {
	compare := func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	return failing(`changefeed: insert into "ta\"ble": duplicate primary key `+text, ErrDuplicateKey, key, compare,
		func(t *Table[any, keyedRow[any]]) (Change[keyedRow[any]], error) {
			return t.Insert(keyedRow[any]{key, 1})
		})
}

// Error(): "Changefeed cache over array size limit, skipped X elements."
// MarshalJSON: {"error": "Changefeed cache over array size limit, skipped X elements."}
func TestASkippedErrorReadsAsRethinkDBsNotice(t *testing.T) {
	var err error = &SkippedError{Count: 1<<64 - 1, From: 3, To: 9}
	require.EqualError(t, err, "Changefeed cache over array size limit, skipped 18446744073709551615 elements.")

	err = fmt.Errorf("feed: %w", &SkippedError{5, 3, 7, "games", "audit"})
	skipped, ok := errors.AsType[*SkippedError](err)
	require.True(t, ok)
	require.Equal(t, &SkippedError{5, 3, 7, "games", "audit"}, skipped)
	const notice = `{"error":"Changefeed cache over array size limit, skipped 5 elements."}`
	for _, test := range []struct {
		v    any
		json string
	}{
		{skipped, notice},
		{[]error{skipped}, "[" + notice + "]"},
		{map[string]any{"e": skipped}, `{"e":` + notice + `}`},
		{&struct{ E *SkippedError }{skipped}, `{"E":` + notice + `}`},
		{(*SkippedError)(nil), "null"},
	} {
		text, err := json.Marshal(test.v)
		require.NoError(t, err)
		require.Equal(t, test.json, string(text))
	}
}

// Each feed's notice names its table and the feed, whichever way it comes about.
func TestASkippedErrorNamesTableAndFeed(t *testing.T) {
	for name, opts := range map[string][]FeedOption{
		"skip":             {},
		"fail":             {OnOverflow(Fail)},
		"resync":           {OnOverflow(Resync)},
		"after":            {After(0)},
		"after and squash": {After(0), Squash(0)},
	} {
		t.Run(name, func(t *testing.T) {
			games := newGames()
			games.Retain(1)
			opts := append(opts, Buffer(1), Poll(nil))
			if name != "skip" {
				opts = append(opts, Named(name))
			}
			want := SkippedError{Count: 2, From: 1, To: 2, Table: "games", Feed: name}
			var feed, batches iter.Seq[error]
			subscribe := func() {
				feed = errorsOf(games.Changes(t.Context(), opts...))
				batches = errorsOf(games.Where(func(*game) bool { return true }).Batches(t.Context(), 2, opts...))
			}
			afterwards := strings.HasPrefix(name, "after")
			if !afterwards {
				subscribe()
			}
			for id := range 3 {
				must[game](t)(games.Insert(game{ID: id}))
			}
			if afterwards {
				subscribe()
			}
			switch name {
			case "skip":
				want.Feed = ""
			case "resync":
				want.Count, want.To = 3, 3
			}
			require.Equal(t, []error{&want}, slices.Collect(feed))
			require.Equal(t, []error{&want}, slices.Collect(batches))
		})
	}
}

// errorsOf returns the errors of a stream.
func errorsOf[T any](s Stream[T]) iter.Seq[error] {
	return func(yield func(error) bool) {
		for _, err := range s {
			if err != nil && !yield(err) {
				return
			}
		}
	}
}
