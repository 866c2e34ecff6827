package changefeed

import (
	"context"
	"errors"
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

// editing tests rows that fresh makes, of which no two share anything, and edits of copies
// of them: every edit changes the row, and no row that was there
// before. A row is equal to its copy, to itself and to a row that had the same edits.
func editing[V any](t *testing.T, name string, fresh func() V, edits ...func(*V)) {
	edited := func(n int) *V { // a row after the first n edits
		row := fresh()
		for _, edit := range edits[:n] {
			edit(&row)
		}
		return &row
	}
	t.Run(name, func(t *testing.T) {
		copied, equal := chooseCopy[V](), chooseEqual[V]()
		is := edited(0)
		rows := []*V{is}
		for n, edit := range edits {
			next := copied(is)
			require.True(t, equal(is, next) && equal(is, edited(n)) && equal(is, new(*is)), "before edit %d", n)
			requireAsDeepEqual(t, is, next)
			edit(next)
			require.False(t, equal(is, next), "edit %d is a change", n)
			requireAsDeepEqual(t, is, next)
			is, rows = next, append(rows, next)
			for i, row := range rows {
				require.Equal(t, edited(i), row, "T3: edit %d changed row %d", n, i)
			}
		}
	})
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
	At   time.Time
	In   struct{ A, B int }
	Done chan int
	note string
}

type embedded struct {
	base
	*Exported
	strs
}

// pointed is embedded, with what it refers to, by pointers to unexported structs.
type pointed struct {
	*base
	nested
	*cycle
}

type (
	nested struct{ *when }
	cycle  struct {
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
	r := pointed{&base{newInner()}, nested{&when{At: new(aTime)}}, &cycle{N: 1}}
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
}

func newInner() inner {
	return inner{Tags: append(make([]string, 0, 8), "a", "b"), Attr: map[string]int{"k": 1}, P: new(1)}
}

func newRich() rich {
	return rich{
		Tags: append(make([]string, 0, 8), "a"), Attr: map[string]int{"k": 1}, P: new(1), In: newInner(), Ptr: new(newInner()),
		Deep:   map[string][]*inner{"x": {new(newInner()), nil}},
		Matrix: [][]int{{1}, nil, {}},
		Array:  [2][]int{{1}, {2}},
		Any:    map[string]any{"l": []any{1, map[string]any{"x": 1}}},
		Shape:  &poly{Sides: []int{1}},
		Keys:   map[[1]string]map[int][]byte{{"x"}: {1: []byte("abc")}},
	}
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

// "edit may append to a slice, set an entry of a map and write through a pointer, where
// exported fields lead to it." T3
func TestEditsChangeTheNewRowAndNeverAnOldOne(t *testing.T) {
	editing(t, "int", func() int { return 1 }, func(r *int) { *r = 2 })
	editing(t, "flat", func() flat { return flat{At: aTime, Done: aChan} },
		func(r *flat) { r.In.B++ },
		func(r *flat) { r.note = "y" },
		func(r *flat) { r.Done = nil })
	editing(t, "rich", newRich,
		func(r *rich) { r.Tags = append(r.Tags, "x") },
		func(r *rich) { r.Tags[0] = "y" },
		func(r *rich) { r.Attr["k"] = 2 },
		func(r *rich) { *r.P++ },
		func(r *rich) { r.In.Tags = append(r.In.Tags[:1], "z") },
		func(r *rich) { r.Ptr.Tags[1] = "" },
		func(r *rich) { r.Deep["x"][0].Attr["k"]++ },
		func(r *rich) { r.Deep["x"][1] = r.Ptr },
		func(r *rich) { *r.Deep["x"][1].P++ },
		func(r *rich) { r.Matrix[0][0]++ },
		func(r *rich) { r.Array[1][0]++ },
		func(r *rich) { r.Any.(map[string]any)["l"].([]any)[1].(map[string]any)["x"] = "y" },
		func(r *rich) { r.Any = []any{&square{1}} },
		func(r *rich) { r.Any.([]any)[0].(*square).Side++ },
		func(r *rich) { r.Shape.(*poly).Sides[0]++ },
		func(r *rich) { r.Keys[[1]string{"x"}][1][0] = 'z' },
		func(r *rich) { *r = rich{} },
		func(r *rich) { r.Tags = []string{} }) // nil and empty are not equal
	editing(t, "nil and empty", func() rich {
		return rich{Tags: []string{}, Attr: map[string]int{}, Matrix: [][]int{}, Any: []any(nil), Shape: (*poly)(nil)}
	},
		func(r *rich) { r.Any = (map[string]any)(nil) },
		func(r *rich) { r.Any = nil })
	editing(t, "embedded", func() embedded { return embedded{base{newInner()}, &Exported{[]string{"a"}}, strs{"a"}} },
		func(r *embedded) { r.base.Tags[0] = "x" },
		func(r *embedded) { r.Exported.Tags = append(r.Exported.Tags, "x") })
	editing(t, "embedded pointers", newPointed,
		func(r *pointed) { r.Tags[0] = "x" },
		func(r *pointed) { *r.P++ },
		func(r *pointed) { *r.At = r.At.Add(1) },
		func(r *pointed) { r.cycle.cycle.cycle.N++ },
		func(r *pointed) { r.base, r.cycle.cycle = nil, nil })
	editing(t, "named", func() named {
		return named{strs{"a"}, attrs{"a": 1}, new(1), []strs{{"a"}}, strs{"a"}, counter(new(1))}
	},
		func(r *named) { r.S[0], r.A["a"], *r.C, r.L[0][0] = "x", 2, 2, "x" },
		func(r *named) { r.I.(strs)[0] = "x" },
		func(r *named) { *r.J.(counter)++ })
	editing(t, "named map row", func() attrs { return attrs{"a": 1} },
		func(r *attrs) { (*r)["b"] = 1 }, func(r *attrs) { clear(*r) }, func(r *attrs) { *r = nil })
	editing(t, "named pointer row", func() counter { return new(1) }, func(r *counter) { **r++ })
	editing(t, "document", func() map[string]any {
		return map[string]any{"id": 1.0, "tags": []any{"a"}, "sub": map[string]any{"n": nil, "t": true}}
	},
		func(r *map[string]any) { (*r)["x"] = "y" },
		func(r *map[string]any) { (*r)["tags"].([]any)[0] = "b" },
		func(r *map[string]any) { (*r)["sub"].(map[string]any)["n"] = 1 })
	editing(t, "pointer row", func() *inner { return new(newInner()) },
		func(r **inner) { (*r).Attr["k"]++ },
		func(r **inner) { (*r).P = nil },
		func(r **inner) { *r = nil })
	editing(t, "pointer to a lock", func() *guarded { return &guarded{N: 1} }, func(r **guarded) { (*r).N++ })
	editing(t, "interface row", func() shape { return &poly{[]int{1}} },
		func(r *shape) { (*r).(*poly).Sides[0]++ },
		func(r *shape) { *r = square{3} },
		func(r *shape) { *r = nil })
	editing(t, "any row", func() any { return []any{1, []int{1}} },
		func(r *any) { (*r).([]any)[1].([]int)[0]++ },
		func(r *any) { *r = 1 })
	editing(t, "any row that is an object", func() any { return newOpaque() },
		func(r *any) { (*r).(*opaque).Tags[0] = "x" },
		func(r *any) { (*r).(*opaque).Self.(*opaque).n++ })
	editing(t, "cycle behind a struct", func() link { return *newLink() },
		func(r *link) { r.Next.Next.Next.Name += "y" },
		func(r *link) { r.List[0].(*link).All["all"].(map[string]any)["newer"] = 1 },
		func(r *link) { r.List[1].([]any)[0].(*link).Name = "z" })
	editing(t, "cycle", newLink,
		func(r **link) { (*r).Next.Next = &link{Next: *r} },
		func(r **link) { (*r).Next.Next.Next.Name = "y" })
	editing(t, "two that are one", newAlias,
		func(r *alias) { *r.A++ }, // the golden row has B changed too
		func(r *alias) { r.S[2]++ },
		func(r *alias) { r.N[1]++ })
	editing(t, "unexported referents", func() when { return when{At: new(aTime)} },
		func(r *when) { *r.At = r.At.UTC() })
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

	self := &link{}
	self.Next = self
	own := chooseCopy[link]()(self)
	require.True(t, own != self && own.Next == own, "A row that contains itself contains its copy.")
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
	boxed := chooseCopy[owned]()(row)
	require.NotSame(t, o, boxed.Owner)
	require.Same(t, boxed.Owner, boxed.Owner.Self)
	require.Same(t, boxed.Owner, boxed.Box.Owner)
	require.Equal(t, struct{ Owner any }{boxed.Owner}, boxed.Boxes["o"])
}

// An edit that appends does not write behind the end of an old row's slice, where another
// row, or the program, may have something.
func TestCopiesOfSlicesHaveNoRoomOfTheOldOnes(t *testing.T) {
	old := new(newInner())
	is := chooseCopy[inner]()(old)
	is.Tags = append(is.Tags, "x")
	require.Equal(t, []string{"a", "b", ""}, old.Tags[:3])
}

// The copy "shares whatever unexported fields refer to", and "channels, functions, map keys".
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
	require.True(t, &old.tags[0] == &is.tags[0] && &old.strs[0] == &is.strs[0])
	require.True(t, old.p == is.p && old.Done == is.Done && old.base == is.base && old.shape == is.shape && old.guarded == is.guarded)
	require.Equal(t, reflect.ValueOf(old.In.m).Pointer(), reflect.ValueOf(is.In.m).Pointer())
	require.Equal(t, old.Keys, is.Keys, "the keys are the same pointers")
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
	path := &fs.PathError{Op: "open", Path: "a", Err: fs.ErrNotExist}
	type hidden struct {
		_ [1]struct{ sync.RWMutex }
	}
	type blank struct {
		_ [0]sync.Mutex
		P *int
	}
	type embedsOpaque struct{ opaque }
	const shared, copied = true, false
	keeping(t, "error with exported fields", error(path), shared)
	keeping(t, "pointer to an error", path, shared)
	keeping(t, "joined errors", errors.Join(io.EOF, path), shared)
	keeping(t, "error that is a struct", error(errCode{new(1)}), shared)
	keeping(t, "context in any", any(context.WithValue(t.Context(), errCode{}, 1)), shared)
	keeping(t, "pointer to a context", &request{Context: t.Context()}, shared)
	keeping(t, "time.Local", time.Local, shared)
	keeping(t, "location in any", any(aTime.Location()), shared)
	keeping(t, "timer", time.NewTimer(time.Hour), shared)
	keeping(t, "ticker in any", any(time.NewTicker(time.Hour)), shared)
	keeping(t, "lock in an interface", sync.Locker(new(sync.RWMutex)), shared)
	keeping(t, "struct with a Lock method", new(guarded), shared)
	keeping(t, "struct with a lock inside", new(hidden), shared)
	keeping(t, "locks", new([2]sync.WaitGroup), shared)
	keeping(t, "atomic", new(atomic.Int64), shared)
	keeping(t, "big.Int in any", any(big.NewInt(1)), shared)
	keeping(t, "object in any", any(newOpaque()), shared)
	keeping(t, "object with an embedded one in any", any(new(embedsOpaque)), shared)

	keeping(t, "pointer to a big.Int", big.NewInt(1), copied)
	keeping(t, "pointer to an object", &opaque{}, copied)
	keeping(t, "pointer to an error interface", new(io.EOF), copied)
	keeping(t, "pointer to a struct without a lock", new(blank), copied)
	keeping(t, "pointer to plain data in any", any(&when{At: new(aTime)}), copied)
	keeping(t, "pointer to plain data in an interface", shape(&poly{[]int{1}}), copied)
	keeping(t, "pointer to plain data with embedded pointers in any", any(new(newPointed())), copied)
	keeping(t, "pointer to plain data with a blank field in any", any(&blank{P: new(1)}), copied)
	keeping(t, "pointer to a pointer in any", any(new(big.NewInt(1))), copied)
	keeping(t, "struct in any", any(plainCode{new(1)}), copied)
}

type plainCode errCode // but not an error

// keeping tests whether a copy has v itself, wherever it stands.
func keeping[T any](t *testing.T, name string, v T, shared bool) {
	type row struct {
		F T
		L []T
		M map[string]struct{ F T }
		A any
	}
	t.Run(name, func(t *testing.T) {
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
	})
}

// A job refers to what may be in use while its row is edited.
type job struct {
	N   int
	Ctx context.Context
	Use *guarded
}

// What is known by its address may be in use while a row is edited: see the race detector.
func TestUpdatesLeaveAloneWhatIsKnownByItsAddress(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	row, copied, equal := &job{0, ctx, new(guarded)}, chooseCopy[job](), chooseEqual[job]()
	use := row.Use
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
		next := copied(row)
		next.N++
		require.False(t, equal(row, next))
		row = next
	}
	users.Wait()
	cancel()
	require.ErrorIs(t, row.Ctx.Err(), context.Canceled)
	require.Equal(t, 100, row.Use.N)
}

// "Neither limits the depth of a row: a linked list of a million nodes does not overflow
// the stack."
func TestDeepRows(t *testing.T) {
	stack := debug.SetMaxStack(1 << 20)
	t.Cleanup(func() { debug.SetMaxStack(stack) })

	type tree []tree
	type maps map[int]maps
	type chain struct{ *chain }
	type held struct{ Any any }
	type list struct{ Next *list }
	copied, equal := chooseCopy[any](), chooseEqual[any]()
	for name, grow := range map[string]func(any) any{
		"slices":            func(row any) any { inner, _ := row.(tree); return tree{inner} },
		"maps":              func(row any) any { inner, _ := row.(maps); return maps{1: inner} },
		"embedded pointers": func(row any) any { inner, _ := row.(*chain); return &chain{inner} },
		"linked list":       func(row any) any { inner, _ := row.(*list); return &list{inner} },
		"pointers":          func(row any) any { return &row },
		"structs":           func(row any) any { return held{row} },
		"arrays":            func(row any) any { return [1]any{row} },
		"slices of any":     func(row any) any { return []any{row} },
		"maps of structs":   func(row any) any { return map[int]held{1: {row}} },
	} {
		t.Run(name, func(t *testing.T) {
			row := new(any)
			for range 20_000 {
				*row = grow(*row)
			}
			is := copied(row)
			require.True(t, equal(row, is))
			*is = grow(*is)
			require.False(t, equal(row, is))
		})
	}
}

// A withClone copies what its unexported pointer points to.
type withClone struct{ n *int }

func (c withClone) Clone() withClone { return withClone{new(*c.n)} }

// An edit that changes nothing is no change, also where Clone makes new pointers.
func TestAnUneditedCloneIsEqual(t *testing.T) {
	old := &withClone{new(2)}
	require.True(t, chooseEqual[withClone]()(old, chooseCopy[withClone]()(old)))
	require.False(t, chooseEqual[withClone]()(old, &withClone{new(3)}))
}

// "A row with a NaN or a non-nil func is never equal."
func TestRowsWithNaNOrFunctionsAreNeverEqual(t *testing.T) {
	f := func() {}
	nan := math.NaN
	neverEqual(t, "flat", func() struct{ F float64 } { return struct{ F float64 }{nan()} })
	neverEqual(t, "slice", func() []float64 { return []float64{nan()} })
	neverEqual(t, "map", func() map[string]any { return map[string]any{"x": nan()} })
	neverEqual(t, "pointer", func() *float64 { return new(nan()) })
	neverEqual(t, "func", func() struct{ F func() } { return struct{ F func() }{f} })
	neverEqual(t, "unexported func", func() struct{ f func() } { return struct{ f func() }{f} })
	require.True(t, chooseEqual[[1]func()]()(new([1]func()), new([1]func())), "nil functions are equal")
}

func neverEqual[V any](t *testing.T, name string, fresh func() V) {
	t.Run(name, func(t *testing.T) {
		row, copied, equal := new(fresh()), chooseCopy[V](), chooseEqual[V]()
		requireAsDeepEqual(t, row, row)
		requireAsDeepEqual(t, row, copied(row))
		require.False(t, equal(row, copied(row)), "update nothing")
		require.False(t, equal(row, new(fresh())), "upsert the same")
	})
}

// Contexts and values that hold a lock are equal if they are the same. reflect.DeepEqual
// looks into them. A row that is a pointer and holds a lock is compared by its content.
func TestRowsComparedByAddress(t *testing.T) {
	newJob := func() job { return job{0, context.WithValue(t.Context(), errCode{}, 1), new(guarded)} }
	a, b := newJob(), newJob()
	equal := chooseEqual[job]()
	require.True(t, reflect.DeepEqual(a, b))
	require.True(t, equal(&a, new(a)))
	require.False(t, equal(&a, &job{0, b.Ctx, a.Use}))
	require.False(t, equal(&a, &job{0, a.Ctx, b.Use}))
	require.True(t, chooseEqual[*guarded]()(&a.Use, &b.Use))
}

// == is for types that are strictly comparable and refer to nothing that a copy
// does not share; reflect.DeepEqual for all others.
func TestEqualRows(t *testing.T) {
	type secret struct{ p *int }
	comparing(t, "a zero has no sign", struct{ F float64 }{0}, struct{ F float64 }{math.Copysign(0, -1)}, true)
	comparing(t, "times are compared as values", flat{At: aTime}, flat{At: aTime.UTC()}, false)
	comparing(t, "a time itself has a method", aTime, aTime.UTC(), true)
	comparing(t, "what unexported pointers point to by ==", secret{new(1)}, secret{new(1)}, false)
	comparing(t, "channels", struct{ C chan int }{aChan}, struct{ C chan int }{make(chan int)}, false)
	comparing(t, "nil and an empty slice", struct{ S []int }{}, struct{ S []int }{[]int{}}, false)
	comparing(t, "interfaces with what == would panic on", struct{ A any }{[]int{1}}, struct{ A any }{[]int{1}}, true)
	comparing(t, "unexported arrays of interfaces", struct{ a [1]any }{[1]any{[]int{1}}}, struct{ a [1]any }{[1]any{[]int{1}}}, true)
	comparing(t, "interfaces of two types", struct{ A any }{1}, struct{ A any }{int8(1)}, false)
	comparing(t, "unexported maps, slices and channels", hiddenReferents(1), hiddenReferents(1), true)
	comparing(t, "unexported maps of others", hiddenReferents(1), hiddenReferents(2), false)
	comparing(t, "what has another length", [][]int{{1}, {2}}, [][]int{{1}, {2, 3}}, false)
	comparing(t, "maps of other keys", map[int][]int{1: nil}, map[int][]int{2: nil}, false)
	comparing(t, "nil and a pointer", []*inner{nil}, []*inner{{}}, false)
	comparing(t, "structs in interfaces", []any{struct{ P *int }{new(1)}}, []any{struct{ P *int }{new(2)}}, false)
	comparing(t, "one slice with a NaN", [][]float64{nans}, [][]float64{nans}, true)
	comparing(t, "cycles of two lengths", []*cycle{newCycle(2)}, []*cycle{newCycle(3)}, true)
	comparing(t, "a cycle and its beginning", []*cycle{newCycle(2)}, []*cycle{{&cycle{nil, 1}, 1}}, false)
	comparing(t, "blank fields by ==", struct{ _, A int }{A: 1}, struct{ _, A int }{A: 1}, true)
}

func comparing[V any](t *testing.T, name string, a, b V, equal bool) {
	t.Run(name, func(t *testing.T) {
		require.Equal(t, equal, chooseEqual[V]()(&a, &b))
		requireAsDeepEqual(t, &a, &b)
		requireAsDeepEqual(t, &b, &a)
	})
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

// fields are those of the rows below, which have methods by which a table copies and
// compares them. Clone counts. Equal leaves out the note, and the case of letters.
type fields struct {
	Name, Note string
	Clones     int
}

func (f fields) cloned() fields       { return fields{f.Name, f.Note, f.Clones + 1} }
func (f fields) equals(o fields) bool { return strings.EqualFold(f.Name, o.Name) }

type (
	methodsVV struct{ fields } // Clone() V and Equal(V) of V, and so on
	methodsVP struct{ fields }
	methodsPV struct{ fields }
	methodsPP struct{ fields }
	methodsP  struct{ fields } // of rows that are pointers: *V is a pointer to a pointer
	methodsI  interface {      // of rows that are interfaces
		Clone() methodsI
		Equal(methodsI) bool
	}
	methodsIP interface {
		Clone() *methodsIP
		Equal(*methodsIP) bool
	}
	isI      struct{ fields }
	isIP     struct{ fields }
	inField  struct{ F *methodsPP }
	promoted struct {
		methodsVV
		Tags []string
	}
)

func (r methodsVV) Clone() methodsVV         { return methodsVV{r.cloned()} }
func (r methodsVV) Equal(o methodsVV) bool   { return r.equals(o.fields) }
func (r methodsVP) Clone() *methodsVP        { return &methodsVP{r.cloned()} }
func (r methodsVP) Equal(o *methodsVP) bool  { return r.equals(o.fields) }
func (r *methodsPV) Clone() methodsPV        { return methodsPV{r.cloned()} }
func (r *methodsPV) Equal(o methodsPV) bool  { return r.equals(o.fields) }
func (r *methodsPP) Clone() *methodsPP       { return &methodsPP{r.cloned()} }
func (r *methodsPP) Equal(o *methodsPP) bool { return r.equals(o.fields) }
func (r *methodsP) Clone() **methodsP        { return new(&methodsP{r.cloned()}) }
func (r *methodsP) Equal(o **methodsP) bool  { return r.equals((*o).fields) }
func (r isI) Clone() methodsI                { return isI{r.cloned()} }
func (r isI) Equal(o methodsI) bool          { return r.equals(o.(isI).fields) }
func (r isIP) Clone() *methodsIP             { return new(methodsIP(isIP{r.cloned()})) }
func (r isIP) Equal(o *methodsIP) bool       { return r.equals((*o).(isIP).fields) }

// Rows are copied and compared with "V's method", "on either receiver", and "V alone
// decides": neither what a row contains nor the type behind a pointer.
func TestRowsAreCopiedAndComparedByTheirMethods(t *testing.T) {
	const has, hasNot = true, false
	methods(t, "methods of V, with V", func(f fields) methodsVV { return methodsVV{f} }, has)
	methods(t, "methods of V, with *V", func(f fields) methodsVP { return methodsVP{f} }, has)
	methods(t, "methods of *V, with V", func(f fields) methodsPV { return methodsPV{f} }, has)
	methods(t, "methods of *V, with *V", func(f fields) methodsPP { return methodsPP{f} }, has)
	methods(t, "V is *T, methods of T, with *T", func(f fields) *methodsVP { return &methodsVP{f} }, has)
	methods(t, "V is *T, methods of *T, with *T", func(f fields) *methodsPP { return &methodsPP{f} }, has)
	methods(t, "V is *T, methods of *T, with **T", func(f fields) *methodsP { return &methodsP{f} }, has)
	methods(t, "V is an interface, with V", func(f fields) methodsI { return isI{f} }, has)
	methods(t, "V is an interface, with *V", func(f fields) methodsIP { return isIP{f} }, has)

	methods(t, "V is *T, methods of T, with T", func(f fields) *methodsVV { return &methodsVV{f} }, hasNot)
	methods(t, "what is in an interface", func(f fields) any { return methodsVV{f} }, hasNot)
	methods(t, "what is in a field", func(f fields) inField { return inField{&methodsPP{f}} }, hasNot)
	methods(t, "what is embedded", func(f fields) promoted { return promoted{methodsVV: methodsVV{f}} }, hasNot)
}

func methods[V any](t *testing.T, name string, row func(f fields) V, has bool) {
	t.Run(name, func(t *testing.T) {
		copied, equal := chooseCopy[V](), chooseEqual[V]()
		clones := 0
		if has {
			clones = 2
		}
		old := new(row(fields{"Bob", "first", 0}))
		require.Equal(t, row(fields{"Bob", "first", clones}), *copied(copied(old)))
		require.Equal(t, row(fields{"Bob", "first", 0}), *old, "T3")
		require.NotSame(t, old, copied(old))
		require.True(t, equal(old, new(row(fields{"Bob", "first", 0}))))
		require.Equal(t, has, equal(old, new(row(fields{"BOB", "second", 0}))))
		require.False(t, equal(old, new(row(fields{"Ann", "first", 0}))))
	})
}

// A nil row has no methods: it is copied as nil, and equals only another nil row.
func TestNilRowsAreNotAskedByTheirMethods(t *testing.T) {
	nilRows(t, methodsI(isI{}))
	nilRows(t, methodsIP(isIP{}))
	nilRows(t, &methodsVP{})
	nilRows(t, &methodsPP{})
}

func nilRows[V any](t *testing.T, row V) {
	var none V
	equal := chooseEqual[V]()
	require.Zero(t, *chooseCopy[V]()(&none))
	require.True(t, equal(&none, new(V)))
	require.False(t, equal(&none, &row))
	require.False(t, equal(&row, &none))
}
