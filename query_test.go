package changefeed

import (
	"errors"
	"iter"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

var errNotice, errFinal = errors.New("notice"), errors.New("final")

// A source is a stream that is no feed: it hands out pairs, goes on after a break,
// and counts how far it was read. A read behind its end is a failure, where a feed
// would wait.
type pairSource[T any] struct {
	t     *testing.T
	pairs []pair[T]
	read  int
}

func (s *pairSource[T]) stream(yield func(T, error) bool) {
	for {
		if s.read == len(s.pairs) {
			s.t.Error("read on: a feed would wait")
			return
		}
		p := s.pairs[s.read]
		s.read++
		if !yield(p.v, p.err) || errors.Is(p.err, errFinal) {
			return
		}
	}
}

// newSource makes a source of ints and errors.
func newSource(t *testing.T, pairs ...any) *pairSource[int] {
	s := &pairSource[int]{t: t}
	for _, p := range pairs {
		switch p := p.(type) {
		case int:
			s.pairs = append(s.pairs, pair[int]{v: p})
		case error:
			s.pairs = append(s.pairs, pair[int]{err: p})
		}
	}
	return s
}

// pairsOf is all that one range over s hands out.
func pairsOf[T any](s Stream[T]) []any {
	got := []any{}
	for v, err := range s {
		if err != nil {
			var zero T
			if any(v) != any(zero) {
				got = append(got, "an error with an element")
			}
			got = append(got, err)
		} else {
			got = append(got, v)
		}
	}
	return got
}

func odd(n int) bool      { return n%2 != 0 }
func double(n int) int    { return 2 * n }
func next(n int) int      { return n + 1 }
func length(s string) int { return len(s) }

// What each stage does with elements, and with errors: "Stages pass errors through
// untouched". Elements that are the zero value are elements.
func TestStages(t *testing.T) {
	in := []any{1, 2, errNotice, 3, 0, errNotice, errNotice, 5, 6, errFinal}
	for _, test := range []struct {
		name string
		put  func(s Stream[int]) Stream[int]
		want []any
	}{
		{
			"Filter", func(s Stream[int]) Stream[int] { return s.Filter(odd) },
			[]any{1, errNotice, 3, errNotice, errNotice, 5, errFinal},
		},
		{
			"Filter keeps nothing", func(s Stream[int]) Stream[int] { return s.Filter(func(int) bool { return false }) },
			[]any{errNotice, errNotice, errNotice, errFinal},
		},
		{
			"Map", func(s Stream[int]) Stream[int] { return s.Map(double) },
			[]any{2, 4, errNotice, 6, 0, errNotice, errNotice, 10, 12, errFinal},
		},
		{"Limit that is not reached", func(s Stream[int]) Stream[int] { return s.Limit(math.MaxInt) }, in},
		{"Limit that is one too many", func(s Stream[int]) Stream[int] { return s.Limit(7) }, in},
		{"Limit of all elements", func(s Stream[int]) Stream[int] { return s.Limit(6) }, in[:9]},
		{"Limit", func(s Stream[int]) Stream[int] { return s.Limit(4) }, []any{1, 2, errNotice, 3, 0}},
		{"the smallest of two Limits", func(s Stream[int]) Stream[int] { return s.Limit(3).Limit(2) }, []any{1, 2}},
		{
			"Filter, Map", func(s Stream[int]) Stream[int] { return s.Filter(odd).Map(next) },
			[]any{2, errNotice, 4, errNotice, errNotice, 6, errFinal},
		},
		{
			"Map, Filter", func(s Stream[int]) Stream[int] { return s.Map(next).Filter(odd) },
			[]any{3, errNotice, 1, errNotice, errNotice, 7, errFinal},
		},
		{"Filter, Limit", func(s Stream[int]) Stream[int] { return s.Filter(odd).Limit(2) }, []any{1, errNotice, 3}},
		{"Limit, Filter", func(s Stream[int]) Stream[int] { return s.Limit(2).Filter(odd) }, []any{1}},
		{"Map to another type and back", func(s Stream[int]) Stream[int] {
			return Map(Map(s, strconv.Itoa).Filter(func(s string) bool { return s != "2" }), length)
		}, []any{1, errNotice, 1, 1, errNotice, errNotice, 1, 1, errFinal}},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, pairsOf(test.put(newSource(t, in...).stream)))
		})
	}
}

// Stages compose without knowing of each other: two filters are one with both
// predicates, and f then g is one map.
func TestStagesCompose(t *testing.T) {
	in := []any{0, 1, errNotice, 2, 3, 4, 9, errFinal}
	big := func(n int) bool { return n > 2 }
	require.Equal(t,
		pairsOf(Stream[int](newSource(t, in...).stream).Filter(func(n int) bool { return odd(n) && big(n) })),
		pairsOf(Stream[int](newSource(t, in...).stream).Filter(odd).Filter(big)))
	require.Equal(t,
		pairsOf(Stream[int](newSource(t, in...).stream).Map(func(n int) int { return next(double(n)) })),
		pairsOf(Map(Map(newSource(t, in...).stream, double), next)))
}

// A nil element is an element: what tells an error is the error.
func TestMapOfNilElements(t *testing.T) {
	one := 1
	in := &pairSource[*int]{t: t, pairs: []pair[*int]{{}, {v: &one}, {err: errNotice}, {}, {err: errFinal}}}
	calls := 0
	isNil := Map(in.stream, func(p *int) bool { calls++; return p == nil })
	require.Equal(t, []any{true, false, errNotice, true, errFinal}, pairsOf(isNil))
	require.Equal(t, 3, calls)

	toNil := Map(newSource(t, 1, errNotice, errFinal).stream, func(int) error { return nil })
	require.Equal(t, []any{nil, errNotice, errFinal}, pairsOf(toNil))
	toError := Map(newSource(t, 1, errFinal).stream, func(int) error { return errNotice }) // as an element
	require.Equal(t, []pair[error]{{v: errNotice}, {err: errFinal}}, take(toError, -1))
}

// "An element comes with a nil error; an error comes with the zero element", also
// behind a Map whose function has no zero, and where the source breaks the rule.
func TestAnErrorComesWithTheZeroElement(t *testing.T) {
	in := &pairSource[int]{t: t, pairs: []pair[int]{{v: 1}, {v: 9, err: errNotice}, {err: errFinal}}}
	require.Equal(t, []pair[string]{{v: "1"}, {err: errNotice}, {err: errFinal}}, take(Map(in.stream, strconv.Itoa), -1))
}

// A stage calls its function once for each element that comes to it, in the
// loop's time: not before the range, and not for elements behind a break.
func TestStagesRunInTheLoopsTime(t *testing.T) {
	in := newSource(t, 1, 2, 3, 4, errFinal)
	var calls []int
	s := Stream[int](in.stream).Filter(func(n int) bool { calls = append(calls, n); return n > 1 }).
		Map(func(n int) int { calls = append(calls, -n); return n })
	require.Empty(t, calls)
	require.Equal(t, []pair[int]{{v: 2}}, take(s, 1))
	require.Equal(t, []int{1, 2, -2}, calls)
	require.Equal(t, 2, in.read)
	require.Equal(t, []any{3, 4, errFinal}, pairsOf(s))
	require.Equal(t, []int{1, 2, -2, 3, -3, 4, -4}, calls)
}

// "it ends with the n-th without waiting for another and without an error; below 1
// it ends at once; its source can be ranged on"
func TestLimitEndsWithTheLast(t *testing.T) {
	for _, test := range []struct {
		n    int
		want []any
		rest []any
	}{
		{math.MinInt, []any{}, []any{1, errNotice, 2, errNotice, 3, errFinal}},
		{-1, []any{}, []any{1, errNotice, 2, errNotice, 3, errFinal}},
		{0, []any{}, []any{1, errNotice, 2, errNotice, 3, errFinal}},
		{1, []any{1}, []any{errNotice, 2, errNotice, 3, errFinal}},
		{2, []any{1, errNotice, 2}, []any{errNotice, 3, errFinal}},
		{3, []any{1, errNotice, 2, errNotice, 3}, []any{errFinal}},
		{4, []any{1, errNotice, 2, errNotice, 3, errFinal}, nil},
	} {
		t.Run(strconv.Itoa(test.n), func(t *testing.T) {
			in := newSource(t, 1, errNotice, 2, errNotice, 3, errFinal)
			limited := Stream[int](in.stream).Limit(test.n)
			require.Equal(t, test.want, pairsOf(limited))
			if test.rest != nil {
				require.Empty(t, pairsOf(limited), "it does not begin again")
				require.Equal(t, test.rest, pairsOf(in.stream))
			}
		})
	}
}

// "Limit counts ... over all ranges of the stream it returns": one that broke, and
// one in whose body was a panic, had its element.
func TestLimitCountsOverAllRanges(t *testing.T) {
	in := newSource(t, 1, 2, 3, errNotice, 4, 5, errFinal)
	limited := Stream[int](in.stream).Limit(4)
	require.Equal(t, []pair[int]{{v: 1}}, take(limited, 1))
	require.Panics(t, func() {
		for range limited {
			panic("at 2")
		}
	})
	require.Equal(t, []pair[int]{{v: 3}, {err: errNotice}}, take(limited, 2))
	require.Equal(t, []pair[int]{{v: 4}}, take(limited, -1))
	require.Empty(t, pairsOf(limited))
	require.Equal(t, []any{5, errFinal}, pairsOf(in.stream))

	// A break at the last one is as good as the end.
	in = newSource(t, 1, 2, errFinal)
	limited = Stream[int](in.stream).Limit(1)
	require.Equal(t, []pair[int]{{v: 1}}, take(limited, 1))
	require.Empty(t, pairsOf(limited))

	// Each Limit counts for itself.
	in = newSource(t, 1, 2, 3, errFinal)
	require.Equal(t, []any{1}, pairsOf(Stream[int](in.stream).Limit(1)))
	require.Equal(t, []any{2}, pairsOf(Stream[int](in.stream).Limit(1)))
}

// Limit reads no more of a feed than it hands out.
func TestLimitReadsNoFurther(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context())
	feedWrites(t, games, 5)
	require.Equal(t, "1 2", feedAll(feed.Limit(2)))
	require.Equal(t, uint64(2), games.Feeds()[0].Delivered)
	require.Equal(t, "3 4 5", feedWords(feed, 3))
}

// The final error of a feed comes through every stage, each time.
func TestTheFinalErrorComesThroughStages(t *testing.T) {
	for _, stage := range feedStages {
		t.Run(stage.name, func(t *testing.T) {
			games := newGames()
			feed := stage.put(games.Changes(t.Context()), nothingToDo)
			feedWrites(t, games, 1)
			games.Drop()
			require.Equal(t, "1 dropped", feedAll(feed))
			require.Equal(t, "dropped", feedAll(feed))

			invalid := stage.put(games.Changes(t.Context(), Buffer(0)), func() { t.Error("called for an error") })
			for range 2 {
				pairs := take(invalid, -1)
				require.Len(t, pairs, 1)
				require.ErrorIs(t, pairs[0].err, ErrInvalidOption)
			}
		})
	}
}

// "if err != nil { log; continue } is always right": the loop sees each element and
// ends.
func TestTheUsualLoopIsRight(t *testing.T) {
	games := newGames()
	feed := games.Changes(t.Context(), Buffer(2)).Filter(func(c Change[game]) bool { return c.Kind == Update })
	feedWrites(t, games, 5)
	games.Drop()
	var scores []int
	var logged []string
	for c, err := range feed {
		if err != nil {
			logged = append(logged, err.Error())
			continue
		}
		scores = append(scores, c.New.Score)
	}
	require.Equal(t, []int{4, 5}, scores)
	require.Equal(t, []string{
		"Changefeed cache over array size limit, skipped 3 elements.",
		`changefeed: changes of "games": table dropped`,
	}, logged)
}

// A stage can be pulled, and stop breaks it off.
func TestAStageCanBePulled(t *testing.T) {
	in := newSource(t, 1, 2, errNotice, 3, errFinal)
	pull, stop := iter.Pull2(iter.Seq2[string, error](Map(Stream[int](in.stream).Filter(odd), strconv.Itoa)))
	v, err, ok := pull()
	require.Equal(t, "1", v)
	require.NoError(t, err)
	require.True(t, ok)
	v, err, ok = pull()
	require.Empty(t, v)
	require.Same(t, errNotice, err)
	require.True(t, ok)
	stop()
	_, _, ok = pull()
	require.False(t, ok)
	require.Equal(t, []any{3, errFinal}, pairsOf(in.stream))
}
