package changefeed

import (
	"errors"
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
func large(n int) bool    { return n > 2 }
func double(n int) int    { return 2 * n }
func next(n int) int      { return n + 1 }
func length(s string) int { return len(s) }

// A stage applies its function to elements, also to those that are the zero value, and
// passes errors through untouched.
func TestStages(t *testing.T) {
	type ints = Stream[int]
	in := []any{1, 2, errNotice, 3, 0, errNotice, errNotice, 5, 6, errFinal}
	for _, test := range []struct {
		name string
		put  func(s ints) ints
		want []any
	}{
		{"Filter", func(s ints) ints { return s.Filter(odd) }, []any{1, errNotice, 3, errNotice, errNotice, 5, errFinal}},
		{"Filter twice", func(s ints) ints { return s.Filter(odd).Filter(large) }, []any{errNotice, 3, errNotice, errNotice, 5, errFinal}},
		{"Map", func(s ints) ints { return s.Map(double) }, []any{2, 4, errNotice, 6, 0, errNotice, errNotice, 10, 12, errFinal}},
		{"Map twice", func(s ints) ints { return s.Map(double).Map(next) }, []any{3, 5, errNotice, 7, 1, errNotice, errNotice, 11, 13, errFinal}},
		{"Limit that is not reached", func(s ints) ints { return s.Limit(7) }, in},
		{"Limit of all elements", func(s ints) ints { return s.Limit(6) }, in[:9]},
		{"Limit", func(s ints) ints { return s.Limit(4) }, []any{1, 2, errNotice, 3, 0}},
		{"the smaller of two Limits", func(s ints) ints { return s.Limit(3).Limit(2) }, []any{1, 2}},
		{"Filter, Map", func(s ints) ints { return s.Filter(odd).Map(next) }, []any{2, errNotice, 4, errNotice, errNotice, 6, errFinal}},
		{"Map, Filter", func(s ints) ints { return s.Map(next).Filter(odd) }, []any{3, errNotice, 1, errNotice, errNotice, 7, errFinal}},
		{"Filter, Limit", func(s ints) ints { return s.Filter(odd).Limit(2) }, []any{1, errNotice, 3}},
		{"Limit, Filter", func(s ints) ints { return s.Limit(2).Filter(odd) }, []any{1}},
		{"Map to another type and back", func(s ints) ints {
			return Map(Map(s, strconv.Itoa).Filter(func(s string) bool { return s != "2" }), length)
		}, []any{1, errNotice, 1, 1, errNotice, errNotice, 1, 1, errFinal}},
	} {
		require.Equal(t, test.want, pairsOf(test.put(newSource(t, in...).stream)), test.name)
	}
}

// A nil element is an element, and so is one that is an error: only the error of a pair says
// that the pair is an error. Such a pair has the zero element, even if its source's pair has
// not.
func TestElementsAndErrors(t *testing.T) {
	one := 1
	in := &pairSource[*int]{t: t, pairs: []pair[*int]{{}, {v: &one}, {v: &one, err: errNotice}, {}, {err: errFinal}}}
	calls := 0
	isNil := Map(in.stream, func(p *int) bool { calls++; return p == nil })
	require.Equal(t, []any{true, false, errNotice, true, errFinal}, pairsOf(isNil))
	require.Equal(t, 3, calls)

	toNil := Map(newSource(t, 1, errNotice, errFinal).stream, func(int) error { return nil })
	require.Equal(t, []any{nil, errNotice, errFinal}, pairsOf(toNil))
	toError := Map(newSource(t, 1, errFinal).stream, func(int) error { return errNotice })
	require.Equal(t, []pair[error]{{v: errNotice}, {err: errFinal}}, take(toError, -1))
}

// A stage calls its function once for each element that comes to it, in the loop's time: not
// before the range, and not for elements behind a break.
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

// Limit ends with the n-th element, without waiting for another and without an error. Below
// 1 it ends at once. Its source can be ranged over again.
func TestLimitEndsWithTheLast(t *testing.T) {
	in := []any{1, errNotice, 2, errNotice, 3, errFinal}
	for n, ends := range map[int]int{math.MinInt: 0, 0: 0, 1: 1, 2: 3, 3: 5, 4: 6} {
		source := newSource(t, in...)
		limited := Stream[int](source.stream).Limit(n)
		require.Equal(t, in[:ends], pairsOf(limited), n)
		if ends < len(in) {
			require.Empty(t, pairsOf(limited), "Limit(%d) begins again", n)
			require.Equal(t, in[ends:], pairsOf(source.stream), n)
		}
	}
}

// Limit counts over all ranges of the stream that it returns, also an element at which the
// loop broke or panicked. Each Limit counts for itself.
func TestLimitCountsOverAllRanges(t *testing.T) {
	in := newSource(t, 1, 2, 3, errNotice, 4, 5, 6, errFinal)
	limited := Stream[int](in.stream).Limit(4)
	require.Equal(t, []pair[int]{{v: 1}}, take(limited, 1))
	require.Panics(t, func() {
		for range limited {
			panic("at 2")
		}
	})
	require.Equal(t, []pair[int]{{v: 3}, {err: errNotice}}, take(limited, 2))
	require.Equal(t, []pair[int]{{v: 4}}, take(limited, 1)) // a break at the last one is as good as the end
	require.Empty(t, pairsOf(limited))
	require.Equal(t, []any{5}, pairsOf(Stream[int](in.stream).Limit(1)))
	require.Equal(t, []any{6, errFinal}, pairsOf(in.stream))
}

// A feed's notices and its final error come through every stage, and no function is called
// for them. After the end, each range yields the final error.
func TestTheFinalErrorComesThroughStages(t *testing.T) {
	for _, stage := range feedStages {
		games := newGames()
		feed := stage.put(games.Changes(t.Context(), Buffer(2)), nothingToDo)
		feedWrites(t, games, 5)
		games.Drop()
		require.Equal(t, "skip3(1-3) 4 5 dropped", allOf(feed), stage.name)
		require.Equal(t, "dropped", allOf(feed), stage.name)

		invalid := stage.put(games.Changes(t.Context(), Buffer(0)), func() { t.Error("called for an error") })
		for range 2 {
			pairs := take(invalid, -1)
			require.Len(t, pairs, 1, stage.name)
			require.ErrorIs(t, pairs[0].err, ErrInvalidOption, stage.name)
		}
	}
}

// The loop that logs an error and continues sees each element and ends.
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
