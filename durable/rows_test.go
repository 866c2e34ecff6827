package durable

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
)

// Two keys have the same encoding only if they are the same key, and the encodings of integers,
// floats and strings are in the order of the keys.
func TestStoredKeys(t *testing.T) {
	requireKeys(t, cmp.Compare[int], math.MinInt, -300, -1, 0, 1, 255, 256, math.MaxInt)
	requireKeys(t, cmp.Compare[int8], -128, -1, 0, 1, 127)
	requireKeys(t, cmp.Compare[uint64], 0, 1, 255, 256, math.MaxUint64)
	requireKeys(t, cmp.Compare[float64], math.NaN(), math.Inf(-1), -1.5, -math.SmallestNonzeroFloat64, 0, 1, math.Inf(1))
	requireKeys(t, cmp.Compare[string], "", "\x00", "a", "a\x00", "ab", "b", strings.Repeat("c", 5000), strings.Repeat("c", 5000)+"d")
	type name string
	requireKeys(t, cmp.Compare[name], "", "a", "b")
	type seat struct {
		Row  string
		Seat int
	}
	requireKeys(t, nil, seat{}, seat{"a", 1}, seat{"a", 2}, seat{"a1", 2})
	requireKeys(t, nil, false, true)
	requireKeys(t, nil, [2]float64{1, 2}, [2]float64{1, 2.5})
	requireKeys(t, nil, [2]bool{}, [2]bool{true, false}, [2]bool{false, true})
	requireKeys(t, nil, netip.MustParseAddr("::1"), netip.MustParseAddr("1.2.3.4"))
	requireKeys(t, nil, time.Unix(0, 1).UTC(), time.Unix(0, 2).UTC())
	for _, encoder := range []func() error{
		func() error { _, err := keyEncoder[struct{ a int }](); return err },
		func() error { _, err := keyEncoder[*int](); return err },
		func() error { _, err := keyEncoder[any](); return err },
		func() error { _, err := keyEncoder[struct{ A []int }](); return err },
		func() error { _, err := keyEncoder[struct{ account }](); return err },
	} {
		require.ErrorContains(t, encoder(), "cannot be stored")
	}
}

func requireKeys[K any](t *testing.T, order func(a, b K) int, keys ...K) {
	t.Helper()
	encode, err := keyEncoder[K]()
	require.NoError(t, err)
	for i, a := range keys {
		ea, err := encode(a)
		require.NoError(t, err)
		require.NotEmpty(t, ea)
		require.LessOrEqual(t, len(ea), 2*maxKey)
		if text := fmt.Sprint(a); order != nil && len(text) > 0 && len(text) < 100 {
			require.Contains(t, keyText(ea), strings.Trim(fmt.Sprintf("%q", text), `"`))
		}
		for j, b := range keys {
			eb, err := encode(b)
			require.NoError(t, err)
			require.Equal(t, i == j, bytes.Equal(ea, eb), "%v and %v", a, b)
			if order != nil {
				require.Equal(t, order(a, b), bytes.Compare(ea, eb), "%v and %v", a, b)
			}
		}
	}
}

// A key that is the same to the table, but not the same value, takes the place of the other one.
func TestKeysThatTheTableTakesForOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	open := func() (*changefeed.Table[string, account], *Store) {
		table := changefeed.NewTableFunc("accounts", func(a *account) string { return a.Owner },
			func(a, b string) int { return cmp.Compare(strings.ToLower(a), strings.ToLower(b)) })
		store, err := Open(path, []Table{Rows(table)})
		require.NoError(t, err)
		return table, store
	}
	table, store := open()
	for _, owner := range []string{"bob", "Ann", "BOB", "Bob"} {
		_, err := table.Upsert(account{Owner: owner})
		require.NoError(t, err)
	}
	require.NoError(t, store.Close())
	again, store := open()
	require.Equal(t, []account{{Owner: "Ann"}, {Owner: "Bob"}}, rowsIn(again))
	_, err := again.Delete("bOb")
	require.NoError(t, err)
	require.NoError(t, store.Close())
	again, store = open()
	require.Equal(t, []account{{Owner: "Ann"}}, rowsIn(again))
	require.NoError(t, store.Close())
}

// A file with rows and changes of an older version, or under keys that the program does not make
// any more, is stored again by Open.
func TestVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	type score struct {
		Name   string
		Points int
	}
	open := func(key func(*score) string, opts ...RowsOption[score]) (*changefeed.Table[string, score], *Store) {
		table := changefeed.NewTable("scores", key)
		store, err := Open(path, []Table{Rows(table, opts...)})
		require.NoError(t, err)
		return table, store
	}
	name := func(s *score) string { return s.Name }
	table, store := open(name)
	start := table.Position()
	for _, s := range []score{{"Ann", 1}, {"Bob", 2}, {"Ann", 3}} {
		_, err := table.Upsert(s)
		require.NoError(t, err)
	}
	require.NoError(t, store.Close())
	want := []score{{"Ann", 3}, {"Bob", 2}}

	csv := Encoding(
		func(s *score) ([]byte, error) { return fmt.Appendf(nil, "%s,%d", s.Name, s.Points), nil },
		func(data []byte, s *score) error {
			name, points, _ := strings.Cut(string(data), ",")
			s.Name = name
			_, err := fmt.Sscan(points, &s.Points)
			return err
		})
	fromJSON := func(data []byte, s *score) error { return json.Unmarshal(data, s) }
	for range 2 { // the second time there is nothing of version 0
		table, store = open(name, csv, Version(1, map[int]func([]byte, *score) error{0: fromJSON}))
		require.Equal(t, want, rowsIn(table))
		changes, err := changesAfter(table, start)
		require.NoError(t, err)
		require.Len(t, changes, 3)
		require.Equal(t, &score{"Ann", 1}, changes[2].Old)
		require.NoError(t, store.Close())
		fromJSON = func([]byte, *score) error { return errors.New("called") }
	}
	table, store = open(func(s *score) string { return fmt.Sprint(s.Points) }, csv, Version[score](1, nil))
	require.Equal(t, []score{{"Bob", 2}, {"Ann", 3}}, rowsIn(table))
	_, err := table.Delete("3")
	require.NoError(t, err)
	require.NoError(t, store.Close())
	table, store = open(func(s *score) string { return fmt.Sprint(s.Points) }, csv, Version[score](1, nil))
	require.Equal(t, []score{{"Bob", 2}}, rowsIn(table))
	require.NoError(t, store.Close())
}

// A row that cannot be encoded is reported, with its key. When it is gone, all is stored.
func TestARowThatCannotBeEncoded(t *testing.T) {
	type number struct {
		ID    int
		Value float64
	}
	path := filepath.Join(t.TempDir(), "file.db")
	table := changefeed.NewTable("numbers", func(n *number) int { return n.ID })
	store, err := Open(path, []Table{Rows(table)}, func(c *config) { c.retry = time.Millisecond })
	require.NoError(t, err)
	for id, value := range []float64{1, math.NaN(), 3} {
		_, err := table.Insert(number{id, value})
		require.NoError(t, err)
	}
	err = store.Wait(t.Context(), table.Position())
	require.ErrorIs(t, err, ErrRow)
	require.EqualError(t, err, "durable: "+path+`: table "numbers": row with key 1 cannot be encoded: json: unsupported value: NaN`)
	_, err = table.Delete(1)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	again := changefeed.NewTable("numbers", func(n *number) int { return n.ID })
	var progress []Progress
	store, err = Open(path, []Table{Rows(again)}, OnProgress(func(p Progress) { progress = append(progress, p) }))
	require.NoError(t, err)
	require.Equal(t, []number{{0, 1}, {2, 3}}, rowsIn(again))
	require.Equal(t, table.Lineage(), again.Lineage())
	require.Equal(t, []Progress{{"numbers", 0, 2}, {"numbers", 2, 2}}, progress)
	require.NoError(t, store.Close())
}

func TestExportAndImport(t *testing.T) {
	b := newBank()
	require.NoError(t, b.pay(transfer{1, "Ann", "Bob", 10}))
	var text bytes.Buffer
	require.NoError(t, Export(&text, b.tables()...))
	require.Equal(t, `{"table":"accounts","row":{"Owner":"Ann","Balance":-10}}
{"table":"accounts","row":{"Owner":"Bob","Balance":10}}
{"table":"transfers","row":{"ID":1,"From":"Ann","To":"Bob","Amount":10}}
`, text.String())
	lines := slices.Collect(strings.Lines(text.String()))

	other := newBank()
	require.NoError(t, Import(strings.NewReader(text.String()), other.tables()...))
	require.Equal(t, rowsIn(b.accounts), rowsIn(other.accounts))
	require.Equal(t, rowsIn(b.transfers), rowsIn(other.transfers))
	for _, test := range []struct{ text, want string }{
		{lines[0], `durable: import: line 1: changefeed: insert into "accounts": duplicate primary key "Ann"`},
		{`{"table":"accounts","row":{"Owner":"Eve"}}` + "\n" + `{"table":"other","row":{}}`, `durable: import: line 2: table "other" was not passed`},
		{`{"table":"accounts","row":{"Owner":"Eve"}}` + "\n" + `{"table":"accounts","row":7}`, `durable: import: line 2: table "accounts": json: cannot unmarshal number into Go value of type durable.account`},
		{`{"table":"accounts","row":null}`, `durable: import: line 1: table "accounts": no row`},
		{`{"table":"accounts"}`, `durable: import: line 1: table "accounts": no row`},
		{`{"table":"accounts","row":{"Owner":"Eve"}}` + "\n" + `{"table":`, `durable: import: line 2: unexpected EOF`},
	} {
		require.EqualError(t, Import(strings.NewReader(test.text), other.tables()...), test.want)
		require.Equal(t, 2, other.accounts.Len())
	}
	require.NoError(t, Import(strings.NewReader(""), other.tables()...))
	require.EqualError(t, Import(strings.NewReader(""), Rows(b.accounts), Rows(other.accounts)), `durable: import: table "accounts": passed twice`)
}

// A key that JSON would make another one is refused, so that the file can be opened again.
func TestAKeyThatIsNotUTF8(t *testing.T) {
	b := openBank(t, filepath.Join(t.TempDir(), "bank.db"), func(c *config) { c.retry = time.Millisecond })
	for _, owner := range []string{"\xff", "\xfe", `\ufffd`, "\ufffd"} {
		_, err := b.accounts.Insert(account{Owner: owner})
		require.NoError(t, err)
	}
	require.ErrorIs(t, b.Wait(t.Context(), b.accounts.Position()), ErrRow)
	for _, owner := range []string{"\xff", "\xfe"} {
		_, err := b.accounts.Delete(owner)
		require.NoError(t, err)
	}
	require.NoError(t, b.Close())
	again := openBank(t, b.path)
	requireSame(t, b, again)
	require.NoError(t, again.Close())

	encode, err := keyEncoder[[1]string]()
	require.NoError(t, err)
	_, err = encode([1]string{"\xff"})
	require.ErrorIs(t, err, errNotUTF8)
	for _, valid := range []string{`\ufffd`, "\ufffd", `\\ufffd`} {
		_, err = encode([1]string{valid})
		require.NoError(t, err)
	}
}

// A row whose key is not in its encoding, and a type that JSON cannot encode, are refused before
// anything is lost.
func TestRowsThatDoNotComeBack(t *testing.T) {
	type hidden struct {
		ID    int `json:"-"`
		Value int
	}
	table := changefeed.NewTable("hidden", func(h *hidden) int { return h.ID })
	path := filepath.Join(t.TempDir(), "file.db")
	store, err := Open(path, []Table{Rows(table)}, func(c *config) { c.retry = time.Millisecond })
	require.NoError(t, err)
	_, err = table.Insert(hidden{0, 1})
	require.NoError(t, err)
	require.NoError(t, store.Wait(t.Context(), table.Position()))
	_, err = table.Insert(hidden{5, 1})
	require.NoError(t, err)
	err = store.Wait(t.Context(), table.Position())
	require.ErrorIs(t, err, ErrRow)
	require.ErrorContains(t, err, `row with key 5 cannot be encoded: it would be decoded as a row with key 0`)
	require.ErrorIs(t, store.Close(), ErrRow)

	type called struct {
		ID int
		Do func()
	}
	calls := changefeed.NewTable("calls", func(c *called) int { return c.ID })
	_, err = Open(path, []Table{Rows(calls)})
	require.ErrorContains(t, err, `table "calls": rows of type durable.called: json: unsupported type: func()`)

	for _, older := range []map[int]func([]byte, *hidden) error{{1: func([]byte, *hidden) error { return nil }}, {0: nil}, {-1: func([]byte, *hidden) error { return nil }}} {
		_, err = Open(path, []Table{Rows(table, Version(1, older))})
		require.ErrorContains(t, err, "Version 1 with a function for version")
	}
}

// A row whose encoding has no bytes is a row, also among the changes that are kept.
func TestAnEmptyEncoding(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	open := func() (*changefeed.Table[int, int], *Store) {
		table := changefeed.NewTable("numbers", func(n *int) int { return *n })
		store, err := Open(path, []Table{Rows(table, Encoding(
			func(n *int) ([]byte, error) {
				if *n == 0 {
					return nil, nil
				}
				return fmt.Append(nil, *n), nil
			},
			func(data []byte, n *int) error { *n, _ = strconv.Atoi(string(data)); return nil },
		))})
		require.NoError(t, err)
		return table, store
	}
	table, store := open()
	start := table.Position()
	for _, n := range []int{0, 1} {
		_, err := table.Insert(n)
		require.NoError(t, err)
	}
	require.NoError(t, store.Wait(t.Context(), table.Position()))
	_, err := table.Delete(0)
	require.NoError(t, err)
	want, err := changesAfter(table, start)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	table, store = open()
	require.Equal(t, []int{1}, rowsIn(table))
	got, err := changesAfter(table, start)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, store.Close())
}

// After a failure, a call of Wait waits for the next attempt, so its error is not an old one.
func TestWaitAfterAFailure(t *testing.T) {
	b := openBank(t, filepath.Join(t.TempDir(), "bank.db"), func(c *config) { c.retry = time.Millisecond })
	_, err := b.accounts.Insert(account{Owner: "\xff"})
	require.NoError(t, err)
	require.ErrorIs(t, b.Wait(t.Context(), b.accounts.Position()), ErrRow)
	for range 100 {
		_, err = b.accounts.Delete("\xff")
		require.NoError(t, err)
		b.wait(t)
		_, err = b.accounts.Insert(account{Owner: "\xff"})
		require.NoError(t, err)
		require.ErrorIs(t, b.Wait(t.Context(), b.accounts.Position()), ErrRow)
	}
	require.ErrorIs(t, b.Close(), ErrRow)
}

// A panic in a function of a row is reported as an error of the row.
func TestAKeyThatPanics(t *testing.T) {
	panics := new(atomic.Bool)
	table := changefeed.NewTableFunc("keys", func(k *panicKey) panicKey { return *k },
		func(a, b panicKey) int { return cmp.Compare(a.N, b.N) })
	store, err := Open(filepath.Join(t.TempDir(), "file.db"), []Table{Rows(table)}, func(c *config) { c.retry = time.Millisecond })
	require.NoError(t, err)
	panics.Store(true)
	_, err = table.Insert(panicKey{1, panics})
	require.NoError(t, err)
	require.ErrorContains(t, store.Wait(t.Context(), table.Position()), "cannot be encoded: panic: oops")
	require.ErrorIs(t, store.Close(), ErrRow)

	failing := changefeed.NewTable("failing", func(n *int) int {
		if panics.Load() && *n == 7 {
			panic("oops")
		}
		return *n
	})
	panics.Store(false)
	_, err = failing.Insert(7)
	require.NoError(t, err)
	panics.Store(true)
	_, err = Open(filepath.Join(t.TempDir(), "other.db"), []Table{Rows(failing)})
	require.ErrorContains(t, err, "panic: oops")
	require.NotErrorIs(t, err, ErrDamaged)
}

type panicKey struct {
	N      int
	panics *atomic.Bool
}

func (k panicKey) MarshalText() ([]byte, error) {
	if k.panics.Load() {
		panic("oops")
	}
	return fmt.Append(nil, k.N), nil
}
