package changefeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/big"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A rowTest is the evidence for one sort of rows.
type rowTest struct {
	name string
	run  func(t *testing.T)
}

// oneRow returns a table of one row: all rows have the same key.
func oneRow[V any]() *Table[int, V] {
	return NewTableFunc("rows", func(*V) int { return 1 }, cmp.Compare[int])
}

// A ledger has every row that a table handed out and what it should be for ever.
type ledger[V any] struct{ handed, golden []*V }

func (l *ledger[V]) add(handed, golden *V) {
	l.handed, l.golden = append(l.handed, handed), append(l.golden, golden)
}

func (l *ledger[V]) check(t *testing.T) {
	t.Helper()
	for i, row := range l.handed {
		require.Equal(t, l.golden[i], row, "T3: row %d was changed", i)
	}
}

// editing returns the test of rows that fresh makes, of which no two share
// anything, and of edits of them, with the functions that a table of such rows
// has. Every edit changes the row, and no row that was there before; whatever
// changes nothing is no change. (It makes no table, for the compiler takes half a
// second for each new type of one; TestWritesEditCopies does.)
func editing[V any](name string, fresh func() V, edits ...func(*V)) rowTest {
	return rowTest{name, func(t *testing.T) {
		copied, equal := chooseCopy[V](), chooseEqual[V]()
		var l ledger[V]
		is := edited(fresh, nil)
		for n := range len(edits) + 1 {
			l.add(is, edited(fresh, edits[:n]))
			require.True(t, equal(is, copied(is)), "update nothing after %d edits", n)
			require.True(t, equal(is, edited(fresh, edits[:n])), "upsert an equal row after %d edits", n)
			require.True(t, equal(is, is) && equal(is, new(*is)), "upsert the row itself after %d edits", n)
			if n == len(edits) {
				break
			}
			lost := copied(is) // an edit that panics leaves no trace
			edits[n](lost)
			l.check(t)

			old := is
			is = copied(old)
			edits[n](is)
			require.False(t, equal(old, is), "edit %d is a change", n)
			requireAsDeepEqual(t, old, is)
			requireAsDeepEqual(t, is, copied(is))
			l.check(t)
		}
		l.check(t)
	}}
}

// edited returns a row that has had the edits, made without a table.
func edited[V any](fresh func() V, edits []func(*V)) *V {
	row := fresh()
	for _, edit := range edits {
		edit(&row)
	}
	return &row
}

// writing is editing by the writes of a table.
func writing[V any](name string, fresh func() V, edits ...func(*V)) rowTest {
	return rowTest{name, func(t *testing.T) {
		var l ledger[V]
		table := oneRow[V]()
		feed := table.Changes(t.Context())
		c := must[V](t)(table.Insert(fresh()))
		l.add(c.New, edited(fresh, nil))
		for n := range len(edits) + 1 {
			is := stored(table, 1)
			equal := func() *V { return edited(fresh, edits[:n]) }
			for what, write := range map[string]func() (Change[V], error){
				"update nothing":               func() (Change[V], error) { return table.Update(1, func(*V) {}) },
				"upsert an equal row":          func() (Change[V], error) { return table.Upsert(*equal()) },
				"replace by an equal row":      func() (Change[V], error) { return table.Replace(*equal()) },
				"compute the row as it came":   func() (Change[V], error) { return table.Compute(1, func(old *V) *V { return old }) },
				"compute an equal row":         func() (Change[V], error) { return table.Compute(1, func(*V) *V { return equal() }) },
				"compute the very stored row":  func() (Change[V], error) { return table.Compute(1, func(*V) *V { return is }) },
				"update to an equal other row": func() (Change[V], error) { return table.Update(1, func(row *V) { *row = *equal() }) },
			} {
				c := must[V](t)(write())
				require.Equal(t, None, c.Kind, "%s after %d edits", what, n)
				require.Zero(t, c.Seq, what)
				require.True(t, c.Old == is && c.New == is, what)
			}
			l.check(t)
			if n == len(edits) {
				break
			}
			require.Panics(t, func() { _, _ = table.Update(1, func(row *V) { edits[n](row); panic("stop") }) })
			l.check(t)

			var c Change[V]
			if n%2 == 0 {
				c = must[V](t)(table.Update(1, edits[n]))
			} else {
				c = must[V](t)(table.Compute(1, func(old *V) *V { edits[n](old); return old }))
			}
			require.Equal(t, Update, c.Kind, "edit %d", n)
			require.True(t, c.Old == is && c.New == stored(table, 1))
			l.add(c.New, edited(fresh, edits[:n+1]))
			l.check(t)
		}
		must[V](t)(table.Delete(1))
		for _, p := range take(feed, len(edits)+2) {
			require.NoError(t, p.err)
			if p.v.New != nil {
				l.add(p.v.New, edited(fresh, edits[:p.v.Seq-1]))
			}
			if p.v.Old != nil {
				l.add(p.v.Old, edited(fresh, edits[:p.v.Seq-2]))
			}
		}
		require.Len(t, l.handed, 3*(len(edits)+1))
		l.check(t)
	}}
}

type (
	strs    []string
	attrs   map[string]int
	counter *int
	shape   interface{ Area() int }
	square  struct{ Side int }
	poly    struct{ Sides []int }
)

func (s square) Area() int { return s.Side * s.Side }
func (p *poly) Area() int  { return len(p.Sides) }

type inner struct {
	Tags []string
	Attr map[string]int
	P    *int
}

type base struct{ inner } // unexported and embedded, twice

// Exported is embedded in rows by pointer.
type Exported struct{ Tags []string }

type flat struct {
	ID    int
	Name  string
	Score float64
	At    time.Time
	Grid  [2][2]int
	In    struct{ A, B int }
	Done  chan int
	note  string
}

type embedded struct {
	base
	*Exported
	strs
	ID int
}

// pointed is embedded, with what it refers to, by pointers to unexported structs.
type pointed struct {
	*base
	*counted
	nested
	*cycle
}

type (
	counted struct{ n int }
	nested  struct{ *when }
	cycle   struct {
		*cycle
		N int
	}
	guarded struct {
		sync.Mutex
		N int
	}
	opaque struct { // an object: it hides a field
		Tags []string
		n    int
		Self any
	}
)

func newPointed() pointed {
	r := pointed{&base{newInner()}, &counted{1}, nested{&when{At: new(aTime)}}, &cycle{N: 1}}
	r.cycle.cycle = r.cycle
	return r
}

func newOpaque() *opaque {
	o := &opaque{Tags: []string{"a"}}
	o.Self = o
	return o
}

type named struct {
	S strs
	A attrs
	C counter
	L []strs
	I any
	J any
}

type when struct {
	At *time.Time
	In struct{ p *int }
}

type rich struct {
	Tags   []string
	Attr   map[string]int
	P      *int
	In     inner
	Ptr    *inner
	Deep   map[string][]*inner
	Matrix [][]int
	Array  [2][]int
	Any    any
	Shape  shape
	Keys   map[[1]string]map[int][]byte
	PP     **int
	Nested struct{ L []struct{ M map[int]int } }
}

func newInner() inner {
	return inner{Tags: append(make([]string, 0, 8), "a", "b"), Attr: map[string]int{"k": 1}, P: new(1)}
}

func newRich() rich {
	r := rich{
		Tags: append(make([]string, 0, 8), "a"), Attr: map[string]int{"k": 1}, P: new(1), In: newInner(), Ptr: new(newInner()),
		Deep:   map[string][]*inner{"x": {new(newInner()), nil}},
		Matrix: [][]int{{1}, nil, {}},
		Array:  [2][]int{{1}, {2}},
		Any:    map[string]any{"l": []any{1, map[string]any{"x": 1}}},
		Shape:  &poly{Sides: []int{1}},
		Keys:   map[[1]string]map[int][]byte{{"x"}: {1: []byte("abc")}},
		PP:     new(new(1)),
	}
	r.Nested.L = append(r.Nested.L, struct{ M map[int]int }{map[int]int{1: 1}})
	return r
}

// A link is a row that leads back to itself.
type link struct {
	Name string
	Next *link
	All  map[string]any
	List []any
}

func newLink() *link {
	a := &link{Name: "a"}
	a.Next = &link{Name: "b", Next: a}
	a.All = map[string]any{"a": a}
	a.All["all"] = a.All
	a.List = []any{a, nil}
	a.List[1] = a.List
	return a
}

type alias struct {
	A, B   *int
	S, T   []int
	M, N   map[int]int
	Prefix []int // of S
	First  *int  // of S
}

func newAlias() alias {
	p, s, m := new(1), []int{1, 2, 3}, map[int]int{1: 1}
	return alias{p, p, s, s, m, m, s[:2], &s[0]}
}

var (
	aChan = make(chan int)
	aTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("here", 3600))
)

var richEdits = []func(*rich){
	func(r *rich) { r.Tags = append(r.Tags, "x") },
	func(r *rich) { r.Tags[0] = "y" },
	func(r *rich) { r.Attr["k"] = 2 },
	func(r *rich) { delete(r.Attr, "k") },
	func(r *rich) { *r.P++ },
	func(r *rich) { r.In.Tags = append(r.In.Tags[:1], "z") },
	func(r *rich) { r.In.Attr["new"]++ },
	func(r *rich) { *r.In.P++ },
	func(r *rich) { r.Ptr.Tags[1] = "" },
	func(r *rich) { *r.Ptr.P++ },
	func(r *rich) { r.Deep["x"][0].Attr["k"]++ },
	func(r *rich) { r.Deep["x"][1] = r.Ptr },
	func(r *rich) { *r.Deep["x"][1].P++ },
	func(r *rich) { r.Matrix[0][0]++ },
	func(r *rich) { r.Array[1][0]++ },
	func(r *rich) { r.Any.(map[string]any)["l"].([]any)[1].(map[string]any)["x"] = "y" },
	func(r *rich) { r.Any = []any{&square{1}} },
	func(r *rich) { r.Any.([]any)[0].(*square).Side++ },
	func(r *rich) { r.Shape.(*poly).Sides[0]++ },
	func(r *rich) { r.Shape = square{2} },
	func(r *rich) { r.Keys[[1]string{"x"}][1][0] = 'z' },
	func(r *rich) { **r.PP++ },
	func(r *rich) { r.Nested.L[0].M[1]++ },
	func(r *rich) { *r = rich{} },
	func(r *rich) { r.Tags = []string{} }, // nil and empty are not equal
	func(r *rich) { r.Tags, r.Attr = nil, map[string]int{} },
	func(r *rich) { r.Ptr = new(inner) },
}

func newDocument() map[string]any {
	return map[string]any{"id": 1.0, "tags": []any{"a"}, "sub": map[string]any{"n": nil, "t": true}}
}

var documentEdits = []func(*map[string]any){
	func(r *map[string]any) { (*r)["x"] = "y" },
	func(r *map[string]any) { (*r)["tags"].([]any)[0] = "b" },
	func(r *map[string]any) { (*r)["tags"] = append((*r)["tags"].([]any), "c") },
	func(r *map[string]any) { (*r)["sub"].(map[string]any)["n"] = 1 },
	func(r *map[string]any) { delete((*r)["sub"].(map[string]any), "n") },
}

var linkEdits = []func(**link){
	func(r **link) { (*r).Next.Next.Name = "x" },
	func(r **link) { (*r).Next.Next = &link{Next: *r} },
	func(r **link) { (*r).Next.Next.Next.Name = "y" },
}

// T3: "a deep copy by reflection, so that row.Tags = append(row.Tags, "x") and
// row.Attr["k"] = "v" in an edit do what they seem to do and the old row stays the
// old row"; "a write that leaves the row equal to what it was is no change".
func TestEditsChangeTheNewRowAndNeverAnOldOne(t *testing.T) {
	for _, test := range []rowTest{
		editing("int", func() int { return 1 }, func(r *int) { *r = 2 }, func(r *int) { *r = 1 }),
		editing("string", func() string { return "" }, func(r *string) { *r += "x" }),
		editing("zero size", func() struct{} { return struct{}{} }),
		editing("array of none", func() [0][]int { return [0][]int{} }),
		editing("time", func() time.Time { return aTime }, func(r *time.Time) { *r = r.Add(1) }),
		editing("flat", func() flat { return flat{ID: 1, At: aTime, Done: aChan} },
			func(r *flat) { r.Name = "x" },
			func(r *flat) { r.At = r.At.Add(time.Hour) },
			func(r *flat) { r.Grid[1][0]++ },
			func(r *flat) { r.In.B++ },
			func(r *flat) { r.note = "y" },
			func(r *flat) { r.Done = nil }),
		editing("rich", newRich, richEdits...),
		editing("nil and empty", func() rich {
			return rich{Tags: []string{}, Attr: map[string]int{}, Matrix: [][]int{}, Any: []any(nil), Shape: (*poly)(nil)}
		},
			func(r *rich) { r.Attr["k"] = 1 },
			func(r *rich) { r.Matrix = append(r.Matrix, nil) },
			func(r *rich) { r.Any = (map[string]any)(nil) },
			func(r *rich) { r.Any = nil }),
		editing("embedded", func() embedded { return embedded{base{newInner()}, &Exported{[]string{"a"}}, strs{"a"}, 1} },
			func(r *embedded) { r.base.Tags[0] = "x" },
			func(r *embedded) {
				r.Attr["k"]++
				*r.P++
			},
			func(r *embedded) { r.Exported.Tags = append(r.Exported.Tags, "x") }),
		editing("embedded pointers", newPointed,
			func(r *pointed) { r.Tags[0] = "x" },
			func(r *pointed) { r.base.Attr["k"]++ },
			func(r *pointed) { *r.P++ },
			func(r *pointed) { r.counted.n++ },
			func(r *pointed) { *r.At = r.At.Add(1) },
			func(r *pointed) { r.cycle.cycle.cycle.N++ },
			func(r *pointed) { r.base, r.cycle.cycle = nil, nil }),
		editing("named", func() named {
			return named{strs{"a"}, attrs{"a": 1}, new(1), []strs{{"a"}}, strs{"a"}, counter(new(1))}
		},
			func(r *named) { r.S[0], r.A["a"], *r.C, r.L[0][0] = "x", 2, 2, "x" },
			func(r *named) { r.I.(strs)[0] = "x" },
			func(r *named) { *r.J.(counter)++ }),
		editing("named slice row", func() strs { return strs{"a"} },
			func(r *strs) { *r = append(*r, "b") }, func(r *strs) { (*r)[0] = "x" }, func(r *strs) { *r = nil }),
		editing("named map row", func() attrs { return attrs{"a": 1} },
			func(r *attrs) { (*r)["b"] = 1 }, func(r *attrs) { clear(*r) }, func(r *attrs) { *r = nil }),
		editing("named pointer row", func() counter { return new(1) }, func(r *counter) { **r++ }),
		editing("document", newDocument, documentEdits...),
		editing("pointer row", func() *inner { return new(newInner()) },
			func(r **inner) { (*r).Attr["k"]++ },
			func(r **inner) { (*r).Tags = append((*r).Tags, "x") },
			func(r **inner) { (*r).P = nil },
			func(r **inner) { *r = nil },
			func(r **inner) { *r = new(inner) }),
		editing("pointer to flat", func() *game { return &game{ID: 1} }, func(r **game) { (*r).Score++ }),
		editing("pointer to a lock", func() *guarded { return &guarded{N: 1} }, func(r **guarded) { (*r).N++ }),
		editing("pointer to pointer", func() **int { return new(new(1)) }, func(r ***int) { ***r++ }),
		editing("interface row", func() shape { return &poly{[]int{1}} },
			func(r *shape) { (*r).(*poly).Sides[0]++ },
			func(r *shape) { *r = square{3} },
			func(r *shape) { *r = nil },
			func(r *shape) { *r = (*poly)(nil) }),
		editing("any row", func() any { return []any{1, []int{1}} },
			func(r *any) { (*r).([]any)[1].([]int)[0]++ },
			func(r *any) { *r = 1 },
			func(r *any) { *r = 1.0 }),
		editing("any row that is an object", func() any { return newOpaque() },
			func(r *any) { (*r).(*opaque).Tags[0] = "x" },
			func(r *any) { (*r).(*opaque).Self.(*opaque).n++ }),
		editing("cycle behind a struct", func() link { return *newLink() },
			func(r *link) { r.Next.Name = "x" },
			func(r *link) { r.Next.Next.Next.Name += "y" },
			func(r *link) { r.All["new"] = 1 },
			func(r *link) { r.List[0].(*link).All["all"].(map[string]any)["newer"] = 1 },
			func(r *link) { r.List[1].([]any)[0].(*link).Name = "z" }),
		editing("cycle", newLink, linkEdits...),
		editing("two that are one", newAlias,
			func(r *alias) { *r.A++ }, // the golden row has B changed too
			func(r *alias) { r.S[2]++ },
			func(r *alias) { r.N[1]++ }),
		editing("unexported referents", func() when { return when{At: new(aTime)} },
			func(r *when) { *r.At = r.At.UTC() }),
	} {
		t.Run(test.name, test.run)
	}
}

// The same through a table: what Update and Compute hand out, what the writes
// return and what subscribers get.
func TestWritesEditCopies(t *testing.T) {
	for _, test := range []rowTest{
		writing("rich", newRich, richEdits...),
		writing("document", newDocument, documentEdits...),
		writing("cycle", newLink, linkEdits...),
	} {
		t.Run(test.name, test.run)
	}
}

// What two places refer to is one thing in the copy too, and not the old thing.
func TestCopiesKeepWhatIsSharedWithinARow(t *testing.T) {
	old := new(newAlias())
	is := chooseCopy[alias]()(old)
	require.Same(t, is.A, is.B)
	require.Same(t, &is.S[0], &is.T[0])
	require.Equal(t, reflect.ValueOf(is.M).Pointer(), reflect.ValueOf(is.N).Pointer())
	require.NotSame(t, old.A, is.A)
	require.NotSame(t, &old.S[0], &is.S[0])
	require.NotEqual(t, reflect.ValueOf(old.M).Pointer(), reflect.ValueOf(is.M).Pointer())

	got := *chooseCopy[*link]()(new(newLink()))
	require.Same(t, got, got.Next.Next)
	require.Same(t, got, got.All["a"])
	require.Same(t, got, got.List[0])
	require.Equal(t, reflect.ValueOf(got.All).Pointer(), reflect.ValueOf(got.All["all"]).Pointer())

	type owned struct {
		Box   struct{ Owner any } // an object that an interface alone would share
		Boxes map[string]any
		Owner *opaque
	}
	o := newOpaque()
	row := &owned{struct{ Owner any }{o}, map[string]any{"o": struct{ Owner any }{o}}, o}
	own := chooseCopy[owned]()(row)
	require.NotSame(t, o, own.Owner)
	require.Same(t, own.Owner, own.Owner.Self)
	require.Same(t, own.Owner, own.Box.Owner)
	require.Equal(t, struct{ Owner any }{own.Owner}, own.Boxes["o"])
}

// An edit that appends does not write behind the end of an old row's slice, where
// another row, or whoever made it, may have something.
func TestCopiesOfSlicesHaveNoRoomOfTheOldOnes(t *testing.T) {
	old := new(newInner())
	is := chooseCopy[inner]()(old)
	is.Tags = append(is.Tags, "x")
	require.Equal(t, []string{"a", "b", ""}, old.Tags[:3])
}

// "What other unexported fields refer to" is shared, and so are channels, functions and
// map keys.
func TestCopiesShareWhatUnexportedFieldsReferTo(t *testing.T) {
	type hidden struct {
		Tags []string
		tags []string
		p    *int
		Done chan int
		In   struct{ m map[int]int }
		Keys map[*int]int
		base *inner
		strs
		shape
		*guarded
	}
	old := &hidden{
		Tags: []string{"a"}, tags: []string{"a"}, p: new(1), Done: aChan, Keys: map[*int]int{new(1): 1},
		base: new(inner), strs: strs{"a"}, shape: &square{}, guarded: new(guarded),
	}
	old.In.m = map[int]int{1: 1}
	is := chooseCopy[hidden]()(old)
	require.True(t, chooseEqual[hidden]()(old, is))
	require.NotSame(t, &old.Tags[0], &is.Tags[0])
	require.Same(t, &old.tags[0], &is.tags[0])
	require.Same(t, old.p, is.p)
	require.Equal(t, old.Done, is.Done)
	require.Equal(t, reflect.ValueOf(old.In.m).Pointer(), reflect.ValueOf(is.In.m).Pointer())
	require.Equal(t, old.Keys, is.Keys, "the keys are the same pointers")
	require.Same(t, old.base, is.base)
	require.Same(t, &old.strs[0], &is.strs[0])
	require.Same(t, old.shape, is.shape)
	require.Same(t, old.guarded, is.guarded)
}

// A request has a context, and so it is one.
type request struct {
	context.Context
	Tags []string
}

// An errCode is an error that is compared with ==.
type errCode struct{ P *int }

func (errCode) Error() string { return "code" }

// "It shares what is known by its address: errors, contexts, ..."
func TestCopiesShareWhatIsKnownByItsAddress(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	timer, ticker := time.NewTimer(time.Hour), time.NewTicker(time.Hour)
	defer timer.Stop()
	defer ticker.Stop()
	path := &fs.PathError{Op: "open", Path: "a", Err: fs.ErrNotExist}
	type hidden struct {
		N int
		_ [1]struct{ sync.RWMutex }
	}
	type blank struct {
		_ struct{}
		P *int
	}
	type embedsOpaque struct{ opaque }
	type unlocked struct {
		_ [0]sync.Mutex
		P *int
	}

	const shared, copied = true, false
	for _, test := range []rowTest{
		keeping("sentinel", io.EOF, shared),
		keeping("error with exported fields", error(path), shared),
		keeping("error in any", any(path), shared),
		keeping("pointer to an error", path, shared),
		keeping("wrapped error", fmt.Errorf("read: %w", io.EOF), shared),
		keeping("joined errors", errors.Join(io.EOF, path), shared),
		keeping("error that is a struct", error(errCode{new(1)}), shared),
		keeping("context", ctx, shared),
		keeping("context in any", any(context.WithValue(ctx, errCode{}, 1)), shared),
		keeping("context that is a struct", context.Context(struct{ context.Context }{ctx}), shared),
		keeping("pointer to a context", &request{Context: ctx}, shared),
		keeping("time.Local", time.Local, shared),
		keeping("location in any", any(aTime.Location()), shared),
		keeping("timer", timer, shared),
		keeping("ticker in any", any(ticker), shared),
		keeping("mutex", new(sync.Mutex), shared),
		keeping("lock in an interface", sync.Locker(new(sync.RWMutex)), shared),
		keeping("struct with a Lock method", new(guarded), shared),
		keeping("struct with a lock inside", new(hidden), shared),
		keeping("locks", new([2]sync.WaitGroup), shared),
		keeping("atomic", new(atomic.Int64), shared),
		keeping("atomic in any", any(new(atomic.Bool)), shared),
		keeping("big.Int in any", any(big.NewInt(1)), shared),
		keeping("big.Int in an interface", fmt.Stringer(big.NewInt(1)), shared),
		keeping("object in any", any(newOpaque()), shared),
		keeping("object with an embedded one in any", any(new(embedsOpaque)), shared),

		keeping("pointer to a big.Int", big.NewInt(1), copied),
		keeping("pointer to a time", new(aTime), copied),
		keeping("pointer to an object", &opaque{}, copied),
		keeping("pointer to an error interface", new(io.EOF), copied),
		keeping("pointer to a struct without a lock", new(unlocked), copied),
		keeping("pointer to plain data in any", any(&when{At: new(aTime)}), copied),
		keeping("pointer to plain data in an interface", shape(&poly{[]int{1}}), copied),
		keeping("pointer to plain data with embedded pointers in any", any(new(newPointed())), copied),
		keeping("pointer to plain data with a blank field in any", any(&blank{P: new(1)}), copied),
		keeping("pointer to a number in any", any(new(1)), copied),
		keeping("pointer to a slice in any", any(&[]int{1}), copied),
		keeping("pointer to a pointer in any", any(new(big.NewInt(1))), copied),
		keeping("struct in any", any(plainCode{new(1)}), copied),
	} {
		t.Run(test.name, test.run)
	}
}

type plainCode errCode // but not an error

// keeping returns the test of whether a copy has v itself, wherever it stands.
func keeping[T any](name string, v T, shared bool) rowTest {
	type row struct {
		F T
		L []T
		M map[string]struct{ F T }
		A any
	}
	return rowTest{name, func(t *testing.T) {
		old := &row{v, []T{v}, map[string]struct{ F T }{"v": {v}}, []any{v}}
		is := chooseCopy[row]()(old)
		for _, got := range []any{is.F, is.L[0], is.M["v"].F} {
			require.Equal(t, shared, got == any(v))
		}
		if reflect.TypeFor[T]().Kind() == reflect.Interface {
			require.Equal(t, shared, is.A.([]any)[0] == any(v))
		}
		requireAsDeepEqual(t, old, is)
		require.True(t, chooseEqual[row]()(old, is))
	}}
}

// What is known by its address still works in a row of which something else was edited,
// and may be in use while it is edited: see the race detector.
func TestUpdatesLeaveAloneWhatIsKnownByItsAddress(t *testing.T) {
	type job struct {
		N   int
		Ctx context.Context
		Loc *time.Location
		Err error
		Use *guarded
	}
	sentinel := &fs.PathError{Op: "open", Path: "a", Err: fs.ErrNotExist}
	ctx, cancel := context.WithCancel(t.Context())
	use := new(guarded)
	table := oneRow[job]()
	must[job](t)(table.Insert(job{0, ctx, time.Local, fmt.Errorf("job: %w", sentinel), use}))

	var users sync.WaitGroup
	users.Go(func() {
		for range 100 {
			_, done := context.WithCancel(ctx)
			done()
			use.Lock()
			use.N++
			use.Unlock()
		}
	})
	for range 100 {
		must[job](t)(table.Update(1, func(r *job) { r.N++ }))
	}
	users.Wait()
	row := stored(table, 1)
	require.NoError(t, row.Ctx.Err())
	cancel()
	require.ErrorIs(t, row.Ctx.Err(), context.Canceled)
	require.Same(t, time.Local, row.Loc)
	require.ErrorIs(t, row.Err, sentinel)
	require.Equal(t, 100, row.Use.N)
}

// The depth of a row is not limited by that of a stack.
func TestUpdateOfALongList(t *testing.T) {
	type node struct {
		N    int
		Next *node
	}
	last := func(n *node) *node {
		for n.Next != nil {
			n = n.Next
		}
		return n
	}
	var list node
	for n := range 1_000_000 {
		list = node{n, new(list)}
	}
	table := oneRow[node]()
	must[node](t)(table.Insert(list))
	c := must[node](t)(table.Update(1, func(r *node) { last(r).N = 1 }))
	require.Equal(t, Update, c.Kind)
	require.Zero(t, last(c.Old).N)
	require.Equal(t, 1, last(c.New).N)
}

func TestWritesOfDeepRows(t *testing.T) {
	stack := debug.SetMaxStack(1 << 20)
	t.Cleanup(func() { debug.SetMaxStack(stack) })

	type tree []tree
	type maps map[int]maps
	type chain struct{ *chain }
	type held struct{ Any any }
	for name, grow := range map[string]func(any) any{
		"slices":            func(row any) any { inner, _ := row.(tree); return tree{inner} },
		"maps":              func(row any) any { inner, _ := row.(maps); return maps{1: inner} },
		"embedded pointers": func(row any) any { inner, _ := row.(*chain); return &chain{inner} },
		"pointers":          func(row any) any { return &row },
		"structs":           func(row any) any { return held{row} },
		"arrays":            func(row any) any { return [1]any{row} },
		"slices of any":     func(row any) any { return []any{row} },
		"maps of structs":   func(row any) any { return map[int]held{1: {row}} },
		"structs of maps":   func(row any) any { return held{map[int]any{1: row}} },
	} {
		t.Run(name, func(t *testing.T) {
			deep := func() (row any) {
				for range 20_000 {
					row = grow(row)
				}
				return row
			}
			table := oneRow[any]()
			must[any](t)(table.Insert(deep()))
			require.True(t, must[any](t)(table.Upsert(deep())).Kind == None)
			require.True(t, must[any](t)(table.Update(1, func(*any) {})).Kind == None)
			require.True(t, must[any](t)(table.Update(1, func(row *any) { *row = grow(*row) })).Kind == Update)
		})
	}
}

// A withClone copies what its unexported pointer points to.
type withClone struct {
	ID int
	n  *int
}

func (c withClone) Clone() withClone { return withClone{c.ID, new(*c.n)} }

// An edit that changes nothing is no change, also where Clone makes new pointers.
func TestAnUneditedCloneIsEqual(t *testing.T) {
	old := &withClone{1, new(2)}
	require.True(t, chooseEqual[withClone]()(old, chooseCopy[withClone]()(old)))
	require.False(t, chooseEqual[withClone]()(old, &withClone{1, new(3)}))
}

// A row that contains itself contains its copy.
func TestCopiesOfARowThatContainsItself(t *testing.T) {
	type node struct {
		Name string
		Next *node
	}
	old := &node{Name: "a"}
	old.Next = old
	is := chooseCopy[node]()(old)
	require.NotSame(t, old, is)
	require.Same(t, is, is.Next)
}

// "A row with a NaN or a non-nil func is never equal."
func TestRowsWithNaNOrFunctionsAreNeverEqual(t *testing.T) {
	f := func() {}
	nan := math.NaN
	for _, test := range []rowTest{
		neverEqual("float", nan),
		neverEqual("flat", func() struct{ F float64 } { return struct{ F float64 }{nan()} }),
		neverEqual("complex", func() [1]complex128 { return [1]complex128{complex(0, nan())} }),
		neverEqual("slice", func() []float64 { return []float64{nan()} }),
		neverEqual("map", func() map[string]any { return map[string]any{"x": nan()} }),
		neverEqual("map key", func() map[float64]int { return map[float64]int{nan(): 1} }),
		neverEqual("pointer", func() *float64 { return new(nan()) }),
		neverEqual("func", func() struct{ F func() } { return struct{ F func() }{f} }),
		neverEqual("unexported func", func() struct{ f func() } { return struct{ f func() }{f} }),
		neverEqual("any func", func() any { return f }),
	} {
		t.Run(test.name, test.run)
	}
	require.True(t, chooseEqual[[1]func()]()(new([1]func()), new([1]func())), "nil functions are equal")
}

func neverEqual[V any](name string, fresh func() V) rowTest {
	return rowTest{name, func(t *testing.T) {
		row, copied, equal := new(fresh()), chooseCopy[V](), chooseEqual[V]()
		requireAsDeepEqual(t, row, row)
		requireAsDeepEqual(t, row, copied(row))
		require.False(t, equal(row, copied(row)), "update nothing")
		require.False(t, equal(row, new(fresh())), "upsert the same")
	}}
}

// What that is in a table: each write is a change.
func TestWritesOfRowsThatAreNeverEqualAreChanges(t *testing.T) {
	fresh := func() map[string]any { return map[string]any{"x": math.NaN()} }
	table := oneRow[map[string]any]()
	must[map[string]any](t)(table.Insert(fresh()))
	for seq, write := range []func() (Change[map[string]any], error){
		func() (Change[map[string]any], error) { return table.Update(1, func(*map[string]any) {}) },
		func() (Change[map[string]any], error) {
			return table.Compute(1, func(old *map[string]any) *map[string]any { return old })
		},
		func() (Change[map[string]any], error) { return table.Upsert(fresh()) },
		func() (Change[map[string]any], error) { return table.Replace(fresh()) },
	} {
		c := must[map[string]any](t)(write())
		require.Equal(t, Update, c.Kind)
		require.Equal(t, uint64(seq+2), c.Seq)
		require.NotSame(t, c.Old, c.New)
	}
}

// Contexts and values that hold a lock are equal if they are the same. reflect.DeepEqual
// looks into them. A row that is a pointer and holds a lock is compared by its content.
func TestRowsComparedByAddress(t *testing.T) {
	type job struct {
		Ctx context.Context
		Use *guarded
	}
	newJob := func() job {
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		return job{ctx, new(guarded)}
	}
	a, b := newJob(), newJob()
	equal := chooseEqual[job]()
	require.True(t, reflect.DeepEqual(a, b))
	require.True(t, equal(&a, new(a)))
	require.False(t, equal(&a, &job{b.Ctx, a.Use}))
	require.False(t, equal(&a, &job{a.Ctx, b.Use}))
	require.True(t, chooseEqual[*guarded]()(&a.Use, &b.Use))
}

// == is for types that are strictly comparable and refer to nothing that a copy
// does not share; reflect.DeepEqual for all others.
func TestEqualRows(t *testing.T) {
	type secret struct {
		ID int
		p  *int
	}
	for _, test := range []rowTest{
		comparing("a zero has no sign", struct{ F float64 }{0}, struct{ F float64 }{math.Copysign(0, -1)}, true),
		comparing("times are compared as values", flat{At: aTime}, flat{At: aTime.UTC()}, false),
		comparing("times are compared as values by ==", [1]time.Time{aTime}, [1]time.Time{aTime.UTC()}, false),
		comparing("a time itself has a method", aTime, aTime.UTC(), true),
		comparing("what unexported pointers point to by ==", secret{1, new(1)}, secret{1, new(1)}, false),
		comparing("what exported pointers point to", struct{ P *int }{new(1)}, struct{ P *int }{new(1)}, true),
		comparing("channels", struct{ C chan int }{aChan}, struct{ C chan int }{make(chan int)}, false),
		comparing("nil and an empty slice", struct{ S []int }{}, struct{ S []int }{[]int{}}, false),
		comparing("nil and an empty map", struct{ M attrs }{}, struct{ M attrs }{attrs{}}, false),
		comparing("interfaces with what == would panic on", struct{ A any }{[]int{1}}, struct{ A any }{[]int{1}}, true),
		comparing("an array of interfaces", [1]any{[]int{1}}, [1]any{[]int{2}}, false),
		comparing("unexported interfaces with what == would panic on", struct{ a any }{[]int{1}}, struct{ a any }{[]int{1}}, true),
		comparing("unexported arrays of interfaces", struct{ a [1]any }{[1]any{[]int{1}}}, struct{ a [1]any }{[1]any{[]int{1}}}, true),
		comparing("interfaces of two types", struct{ A any }{1}, struct{ A any }{int8(1)}, false),
		comparing("unexported fields", struct{ s []int }{[]int{1}}, struct{ s []int }{[]int{2}}, false),
		comparing("unexported fields by ==", struct{ s int }{1}, struct{ s int }{2}, false),
		comparing("unexported maps, slices and channels", hiddenReferents(1), hiddenReferents(1), true),
		comparing("unexported maps of others", hiddenReferents(1), hiddenReferents(2), false),
		comparing("what has another length", [][]int{{1}, {2}}, [][]int{{1}, {2, 3}}, false),
		comparing("maps of other keys", map[int][]int{1: nil}, map[int][]int{2: nil}, false),
		comparing("nil and a pointer", []*inner{nil}, []*inner{{}}, false),
		comparing("structs in interfaces", []any{struct{ P *int }{new(1)}}, []any{struct{ P *int }{new(2)}}, false),
		comparing("one slice with a NaN", [][]float64{nans}, [][]float64{nans}, true),
		comparing("cycles of two lengths", []*cycle{newCycle(2)}, []*cycle{newCycle(3)}, true),
		comparing("a cycle and its beginning", []*cycle{newCycle(2)}, []*cycle{{&cycle{nil, 1}, 1}}, false),
		comparing("blank fields by ==", struct{ _, A int }{A: 1}, struct{ _, A int }{A: 1}, true),
	} {
		t.Run(test.name, test.run)
	}
}

func comparing[V any](name string, a, b V, equal bool) rowTest {
	return rowTest{name, func(t *testing.T) {
		require.Equal(t, equal, chooseEqual[V]()(&a, &b))
		requireAsDeepEqual(t, &a, &b)
		requireAsDeepEqual(t, &b, &a)
	}}
}

// requireAsDeepEqual requires that deepEqual says what [reflect.DeepEqual] says.
func requireAsDeepEqual[V any](t *testing.T, a, b *V) {
	t.Helper()
	require.Equal(t, reflect.DeepEqual(a, b), deepEqual(reflect.ValueOf(a), reflect.ValueOf(b)))
}

var nans = []float64{math.NaN()}

func newCycle(n int) *cycle {
	first := &cycle{N: 1}
	first.cycle = first
	for range n - 1 {
		first.cycle = &cycle{first.cycle, 1}
	}
	return first
}

func hiddenReferents(n int) any {
	return struct {
		m map[any][]int
		s [][]byte
		p **int
		c chan int
		f func()
	}{map[any][]int{"k": {n}}, [][]byte{{1}}, new(new(1)), aChan, nil}
}

// The rows below have methods by which a table copies or compares them. Clone
// counts; Equal leaves the note out, and letters' case.
type (
	clones  struct{ Cloned, Value int }
	cloneVV clones // Clone() V on V, and so on
	cloneVP clones
	clonePV clones
	clonePP clones

	names   struct{ Name, Note string }
	equalVV names // Equal(V) on V, and so on
	equalVP names
	equalPV names
	equalPP names
)

func (r cloneVV) Clone() cloneVV   { return cloneVV{r.Cloned + 1, r.Value} }
func (r cloneVP) Clone() *cloneVP  { return &cloneVP{r.Cloned + 1, r.Value} }
func (r *clonePV) Clone() clonePV  { return clonePV{r.Cloned + 1, r.Value} }
func (r *clonePP) Clone() *clonePP { return &clonePP{r.Cloned + 1, r.Value} }

func (r equalVV) Equal(o equalVV) bool   { return strings.EqualFold(r.Name, o.Name) }
func (r equalVP) Equal(o *equalVP) bool  { return strings.EqualFold(r.Name, o.Name) }
func (r *equalPV) Equal(o equalPV) bool  { return strings.EqualFold(r.Name, o.Name) }
func (r *equalPP) Equal(o *equalPP) bool { return strings.EqualFold(r.Name, o.Name) }

// Pointer rows, of which *V is a pointer to a pointer.
type (
	clonePtr struct{ Cloned, Value int }
	equalPtr struct{ Name, Note string }
)

func (r *clonePtr) Clone() **clonePtr       { return new(&clonePtr{r.Cloned + 1, r.Value}) }
func (r *equalPtr) Equal(o **equalPtr) bool { return strings.EqualFold(r.Name, (*o).Name) }

// Interface rows.
type (
	cloner    interface{ Clone() cloner }
	clonerPtr interface{ Clone() *clonerPtr }
	equaler   interface{ Equal(equaler) bool }
	equalerP  interface{ Equal(*equalerP) bool }

	asCloner    clones
	asClonerPtr clones
	asEqualer   names
	asEqualerP  names
)

func (r asCloner) Clone() cloner { return asCloner{r.Cloned + 1, r.Value} }
func (r asClonerPtr) Clone() *clonerPtr {
	return new(clonerPtr(asClonerPtr{r.Cloned + 1, r.Value}))
}
func (r asEqualer) Equal(o equaler) bool    { return strings.EqualFold(r.Name, o.(asEqualer).Name) }
func (r asEqualerP) Equal(o *equalerP) bool { return strings.EqualFold(r.Name, (*o).(asEqualerP).Name) }

// Promoted methods of an embedded type that are of another type's rows.
type embedsBoth struct {
	cloneVV
	equalVV
	Tags []string
}

// "V's method Clone() V or Clone() *V, on either receiver, where there is one";
// "How to copy and compare is settled once, in NewTable", by V alone.
func TestUpdatesCopyRowsByTheirCloneMethod(t *testing.T) {
	for _, test := range []rowTest{
		cloning("Clone() V of V", cloneVV{}, func(r *cloneVV, by int) int { r.Value += by; return r.Cloned }, 1),
		cloning("Clone() *V of V", cloneVP{}, func(r *cloneVP, by int) int { r.Value += by; return r.Cloned }, 1),
		cloning("Clone() V of *V", clonePV{}, func(r *clonePV, by int) int { r.Value += by; return r.Cloned }, 1),
		cloning("Clone() *V of *V", clonePP{}, func(r *clonePP, by int) int { r.Value += by; return r.Cloned }, 1),
		cloning("Clone() *T of T, V is *T", &cloneVP{}, func(r **cloneVP, by int) int { (*r).Value += by; return (*r).Cloned }, 1),
		cloning("Clone() *T of *T, V is *T", &clonePP{}, func(r **clonePP, by int) int { (*r).Value += by; return (*r).Cloned }, 1),
		cloning("Clone() **T of *T, V is *T", &clonePtr{}, func(r **clonePtr, by int) int { (*r).Value += by; return (*r).Cloned }, 1),
		cloning("Clone() V, V an interface", cloner(asCloner{}), func(r *cloner, by int) int {
			v := (*r).(asCloner)
			*r = asCloner{v.Cloned, v.Value + by}
			return v.Cloned
		}, 1),
		cloning("Clone() *V, V an interface", clonerPtr(asClonerPtr{}), func(r *clonerPtr, by int) int {
			v := (*r).(asClonerPtr)
			*r = asClonerPtr{v.Cloned, v.Value + by}
			return v.Cloned
		}, 1),

		// These have no such method of V, so they are copied as others are.
		cloning("Clone() T, V is *T", &cloneVV{}, func(r **cloneVV, by int) int { (*r).Value += by; return (*r).Cloned }, 0),
		cloning("a Clone of what is in an interface", any(cloneVV{}), func(r *any, by int) int {
			v := (*r).(cloneVV)
			*r = cloneVV{v.Cloned, v.Value + by}
			return v.Cloned
		}, 0),
		cloning("a Clone of a field", struct{ F *clonePP }{&clonePP{}}, func(r *struct{ F *clonePP }, by int) int {
			r.F.Value += by
			return r.F.Cloned
		}, 0),
		cloning("a Clone of what is embedded", embedsBoth{}, func(r *embedsBoth, by int) int { r.Value += by; return r.Cloned }, 0),
	} {
		t.Run(test.name, test.run)
	}
}

// cloning returns the test of rows of which each copy counts itself clones higher.
// touch adds to a row's value and returns that count.
func cloning[V any](name string, first V, touch func(row *V, by int) int, clones int) rowTest {
	return rowTest{name, func(t *testing.T) {
		copied, equal := chooseCopy[V](), chooseEqual[V]()
		old := &first
		is := copied(old)
		touch(is, 1)
		require.Equal(t, clones, touch(is, 0))
		require.Zero(t, touch(new(*old), 0))
		require.Equal(t, 2*clones, touch(copied(is), 0))
		require.False(t, equal(old, is), "T3: the old row is as it was")
	}}
}

// "V's method Equal(V) bool or Equal(*V) bool, on either receiver, where there is one"
func TestWritesCompareRowsByTheirEqualMethod(t *testing.T) {
	for _, test := range []rowTest{
		equating("Equal(V) of V", func(a, b string) equalVV { return equalVV{a, b} }, true),
		equating("Equal(*V) of V", func(a, b string) equalVP { return equalVP{a, b} }, true),
		equating("Equal(V) of *V", func(a, b string) equalPV { return equalPV{a, b} }, true),
		equating("Equal(*V) of *V", func(a, b string) equalPP { return equalPP{a, b} }, true),
		equating("Equal(*T) of T, V is *T", func(a, b string) *equalVP { return &equalVP{a, b} }, true),
		equating("Equal(*T) of *T, V is *T", func(a, b string) *equalPP { return &equalPP{a, b} }, true),
		equating("Equal(**T) of *T, V is *T", func(a, b string) *equalPtr { return &equalPtr{a, b} }, true),
		equating("Equal(V), V an interface", func(a, b string) equaler { return asEqualer{a, b} }, true),
		equating("Equal(*V), V an interface", func(a, b string) equalerP { return asEqualerP{a, b} }, true),

		equating("Equal(T), V is *T", func(a, b string) *equalVV { return &equalVV{a, b} }, false),
		equating("an Equal of what is in an interface", func(a, b string) any { return equalVV{a, b} }, false),
		equating("an Equal of a field", func(a, b string) struct{ F equalPP } { return struct{ F equalPP }{equalPP{a, b}} }, false),
		equating("an Equal of what is embedded", func(a, b string) embedsBoth { return embedsBoth{equalVV: equalVV{a, b}} }, false),
	} {
		t.Run(test.name, test.run)
	}
}

// equating returns the test of rows that are equal by their method, or not, if
// their names differ in letters' case or their notes differ.
func equating[V any](name string, row func(name, note string) V, method bool) rowTest {
	return rowTest{name, func(t *testing.T) {
		equal := chooseEqual[V]()
		require.True(t, equal(new(row("Bob", "first")), new(row("Bob", "first"))))
		require.Equal(t, method, equal(new(row("Bob", "first")), new(row("BOB", "second"))))
		require.False(t, equal(new(row("Bob", "first")), new(row("Ann", "first"))))
	}}
}

// Both methods in a table: a row that is equal by its method stays.
func TestWritesUseTheMethodsOfRows(t *testing.T) {
	clones := oneRow[clonePP]()
	must[clonePP](t)(clones.Insert(clonePP{}))
	must[clonePP](t)(clones.Update(1, func(r *clonePP) { r.Value++ }))
	must[clonePP](t)(clones.Compute(1, func(r *clonePP) *clonePP { return r }))
	require.Equal(t, clonePP{Cloned: 2, Value: 1}, *stored(clones, 1))

	names := oneRow[equalPP]()
	old := must[equalPP](t)(names.Insert(equalPP{"Bob", "first"})).New
	for _, write := range []func(equalPP) (Change[equalPP], error){names.Upsert, names.Replace} {
		require.Equal(t, Change[equalPP]{0, None, old, old}, must[equalPP](t)(write(equalPP{"BOB", "second"})))
		require.Same(t, old, stored(names, 1))
		require.Equal(t, equalPP{"Bob", "first"}, *old)
	}
	require.Equal(t, Update, must[equalPP](t)(names.Upsert(equalPP{"Ann", "first"})).Kind)
}
