package changefeed

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"weak"

	"github.com/stretchr/testify/require"
)

// "One token of at most 43 characters" that is read back exactly, and nothing else is read.
func TestPositionText(t *testing.T) {
	var id HistoryID
	for i := range id {
		id[i] = byte(0xff - i)
	}
	name := id.String()
	require.Len(t, name, 22)
	for _, p := range []Position{{}, {id, 0}, {id, 7}, {id, math.MaxUint64}, {HistoryID{}, 7}} {
		text, err := p.MarshalText()
		require.NoError(t, err)
		require.Equal(t, p.String(), string(text))
		require.LessOrEqual(t, len(text), 43)
		require.Regexp(t, `^[A-Za-z0-9_.-]*$`, string(text))
		require.Equal(t, p.IsZero(), len(text) == 0)
		read := Position{id, 99}
		require.NoError(t, read.UnmarshalText(text))
		require.Equal(t, p, read)
	}
	for _, text := range []string{
		name, name + ".", name + ".-1", name + ".+1", name + ".01", name + ". 1", name + ".1 ", name + ".1.1", name + ".18446744073709551616",
		"." + name, ".1", "1", " ", name[1:] + ".1", name + "A.1", name[:21] + "_.1", name[:21] + "\n.1", strings.Repeat("A", 22) + ".0", name[:21] + "=.1",
		strings.Repeat("x", 1000),
	} {
		read := Position{id, 99}
		err := read.UnmarshalText([]byte(text))
		require.ErrorContains(t, err, "changefeed: unmarshal position", text)
		require.Less(t, len(err.Error()), 200)
		require.Equal(t, Position{id, 99}, read, "unchanged")
	}
	type saved struct{ At Position }
	data, err := json.Marshal([]saved{{Position{id, 7}}, {}})
	require.NoError(t, err)
	require.Equal(t, `[{"At":"`+name+`.7"},{"At":""}]`, string(data))
	var read []saved
	require.NoError(t, json.Unmarshal(data, &read))
	require.Equal(t, []saved{{Position{id, 7}}, {}}, read)
}

// FuzzPosition: whatever is read is written as the same text.
func FuzzPosition(f *testing.F) {
	f.Add("")
	f.Add(Position{newHistoryID(), 12}.String())
	f.Add("AAAAAAAAAAAAAAAAAAAAAA.0")
	f.Add("AAAAAAAAAAAAAAAAAAAAA\n.1")
	f.Fuzz(func(t *testing.T, text string) {
		var p Position
		if p.UnmarshalText([]byte(text)) == nil {
			require.Equal(t, text, p.String())
		} else {
			require.Zero(t, p)
		}
	})
}

// A position is taken by a table that has the same changes up to it, and by no other.
func TestAPositionBelongsToAHistory(t *testing.T) {
	games, other := newGames(), newGames()
	games.Retain(1000)
	other.Retain(1000)
	type named struct {
		Position
		good bool
	}
	r := newRand(t)
	positions := []named{{Position{}, true}, {other.At(0), false}, {Position{HistoryID{}, 1}, false}}
	first := games.At(0).History
	for range 20 {
		for range r.IntN(4) {
			feedWrites(t, games, 1)
			feedWrites(t, other, 1)
			positions = append(positions, named{games.Position(), true}, named{other.Position(), false})
		}
		left := games.Position()
		now := games.Fork()
		require.Equal(t, left.Seq, now.Seq)
		require.NotEqual(t, left.History, now.History)
		require.Equal(t, now, games.Position())
		positions = append(positions, named{now, true}, named{Position{left.History, left.Seq + 1}, false})
		require.Equal(t, now, games.Lineage()[len(games.Lineage())-1])
		require.Equal(t, left, games.Lineage()[len(games.Lineage())-2])
	}
	require.Equal(t, first, games.Lineage()[0].History)
	require.Len(t, games.Lineage(), 21)
	games.Lineage()[0] = Position{} // a copy
	positions = append(positions, named{games.At(games.Seq() + 1), false})
	for _, p := range positions {
		got := take(games.Changes(t.Context(), After(p.Position), Poll(nil)), -1)
		if !p.good {
			require.Len(t, got, 1)
			require.ErrorIs(t, got[0].err, ErrOtherHistory)
			require.ErrorContains(t, got[0].err, `changes of "games"`)
			require.ErrorContains(t, got[0].err, p.String())
			continue
		}
		require.Len(t, got, int(games.Seq()-p.Seq))
		for i, pair := range got {
			require.NoError(t, pair.err)
			require.Equal(t, p.Seq+uint64(i)+1, pair.v.Seq)
		}
	}
}

// What a Feed says at each moment.
func TestFeedPosition(t *testing.T) {
	row2 := func(b board) Selection[int, game] { return b.Row(2) }
	high := func(b board) Selection[int, game] { return b.Where(isHigh) }
	tests := []feedTest{
		{name: "changes", polls: true, do: `
			put 1 2; open; position: 2; put 3 4 5; position: 2; at 1 position; read 1: +3 3; position: 3
			at 1 position; read: +4 4 +5; position: 5; write 1; position: 5; read: 6; position: 6`},
		{name: "a panic", polls: true, do: `open; put 1 2; at 1 panic; read: +1 panic; position: 1; read: +2; position: 2`},
		{name: "others' changes", of: row2, polls: true, do: `
			open; put 1 2 3; position: 0; at 1 position; read: +2 2; position: 3; write 5; position: 8; set 2 1; write 1; position: 8
			read: 9; position: 10; cancel; write 1; read: context canceled; position: 10`},
		{name: "it waits", of: row2, do: `open; loop; put 1 2: +2; position: 2; write 5; position: 7; cancel: context canceled; write 1; position: 7`},
		{name: "the end in the body", of: row2, do: `open; put 1 2 3; at 1 cancel; read: +2 context canceled; position: 3`},
		{name: "the end before the rest", of: row2, do: `open; put 1 2 3; set 2 1; at 1 cancel; read: +2 context canceled; position: 2`},
		{name: "a drop", polls: true, do: `open; put 1 2; drop; read: +1 +2 dropped; position: 2`},
		{name: "a predicate", of: high, polls: true, do: `
			open; set 1 5; set 2 15; set 3 5; at 1 position; read 1: +2 2; position: 2; read; position: 3`},
		{name: "initial rows", polls: true, opts: []FeedOption{IncludeInitial()}, do: `
			position: none; put 1 2; open; position: none; put 3; at 1 position; at 2 position; at 3 position
			read 3: row1 none row2 none ready2 2; position: 2; read: +3; position: 3`},
		{name: "initial rows in batches", max: 2, polls: true, opts: []FeedOption{IncludeInitial()}, do: `
			put 1 2 3; open; put 4; at 1 position; at 2 position; read 2: [row1 row2] none [row3 ready3] 3; read: [+4]; position: 4`},
		{name: "batches", max: 3, polls: true, do: `
			open; put 1 2 3 4; position: 0; at 1 position; read 1: [+1 +2 +3] 3; position: 3; at 1 position; read: [+4] 4`},
		{name: "batches of a predicate", of: high, max: 2, polls: true, do: `
			open; set 1 15; set 2 5; set 3 15; set 4 5; set 5 15; at 1 position; read 1: [+1 +3] 3; position: 3; at 1 position; read: [+5] 5`},
		{name: "a batch that is thrown away", max: 3, do: `
			in 2 cancel; open; put 1 2 3; read: context canceled; position: 0`},
		{name: "skip", polls: true, opts: []FeedOption{Buffer(2)}, do: `
			open; put 1 2 3 4; position: 0; at 1 position; read 1: skip2(1-2) 2; position: 2; read 1: +3; position: 3; put 5 6 7
			position: 3; read 1: skip2(4-5); position: 5; read: +6 +7; position: 7`},
		{name: "skip after a batch", max: 9, polls: true, opts: []FeedOption{Buffer(2)}, do: `
			in 2 put 3 4 5; open; put 1 2; at 1 position; at 2 position; read: [+1 +2] 2 skip1(3-3) 3 [+4 +5]; position: 5`},
		{name: "fail", polls: true, opts: []FeedOption{Buffer(2), OnOverflow(Fail)}, do: `
			open; put 1; read: +1; put 2 3 4; read: skip1(2-2); position: 1; write 1; position: 1`},
		{name: "resync", polls: true, opts: []FeedOption{Buffer(2), OnOverflow(Resync)}, do: `
			open; put 1; read: +1; put 2 3 4; at 1 position; at 2 position; at 6 position
			read: skip3(2-4) none row1 none row2 row3 row4 ready4 4; position: 4`},
		{name: "squash", polls: true, opts: []FeedOption{Squash(0)}, do: `
			open; put 1 2 3; position: 0; at 1 position; at 2 position; read 2: +1 0 +2 0; position: 0; put 4; at 1 position; at 2 position
			read: +3 3 +4 4; position: 4; put 5; delete 5; position: 6; read; position: 6`},
		{name: "squash in batches", max: 2, polls: true, opts: []FeedOption{Squash(0)}, do: `
			open; put 1 2 3; at 1 position; at 2 position; read: [+1 +2] 0 [+3] 3`},
		{name: "squash to nothing", polls: true, opts: []FeedOption{Squash(0)}, do: `
			open; put 1; set 2 5; read: +1 +2; put 3; set 2 6; set 2 5; at 1 position; read: +3 2; position: 5`},
		{name: "after", of: row2, polls: true, after: new(1), do: `
			retain 9; put 1 2 3; open; position: 1; put 4; set 2 1; at 1 position; read 1: +2 2; position: 2; at 1 position; read: 5 5; position: 5`},
		{name: "after what is not retained", polls: true, after: new(1), do: `
			retain 2; put 1 2 3 4; open; position: 1; at 1 position; read 1: skip1(2-2) 2; position: 2; read: +3 +4; position: 4`},
		{name: "after a gap, the end before its notice", after: new(1), do: `put 1 2 3; open; position: 1; cancel; read: context canceled; position: 1`},
		{name: "after a gap, fail", polls: true, opts: []FeedOption{OnOverflow(Fail)}, after: new(1), do: `
			retain 2; put 1 2 3 4; open; read: skip1(2-2); position: 1; write 1; position: 1`},
		{name: "after a gap, resync", polls: true, opts: []FeedOption{OnOverflow(Resync)}, after: new(1), do: `
			retain 2; put 1 2 3 4; open; position: 1; at 1 position; read: skip3(2-4) none row1 row2 row3 row4 ready4; position: 4`},
	}
	for i := range tests {
		if test := &tests[i]; test.polls {
			test.polls, test.opts = false, append(test.opts, Poll(nil))
		}
	}
	runScripts(t, tests...)
}

// Feed.Info is the FeedInfo of the feed, and stays what it was at its end.
func TestFeedInfoOfATrackedFeed(t *testing.T) {
	var feed, other Feed
	require.Zero(t, feed.Info())
	require.Zero(t, feed.Position())
	games := newGames()
	require.Panics(t, func() { Track(nil) })
	others := newGames()
	for _, refused := range []FeedOption{Buffer(0), After(others.At(1))} {
		others.Changes(t.Context(), Track(&feed))
		require.NotZero(t, feed.Info())
		stream := others.Changes(t.Context(), Track(&feed), refused)
		require.Zero(t, feed.Info())
		require.Zero(t, feed.Position())
		require.Error(t, take(stream, 1)[0].err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	stream := games.Changes(ctx, Track(&feed), Named("a"), Buffer(2), Poll(nil))
	second := games.Changes(t.Context(), Track(&other), IncludeInitial(), Poll(nil))
	require.NotEqual(t, feed.Info().ID, other.Info().ID)
	require.True(t, other.Info().Initial)
	feedWrites(t, games, 5)
	take(stream, 2)
	info := feed.Info()
	require.Equal(t, FeedInfo{ID: info.ID, Name: "a", Buffered: 1, Capacity: 2, Delivered: 1, Skipped: 3, Seq: 4}, figures(info))
	require.Equal(t, []FeedInfo{info, other.Info()}, games.Feeds())
	allOf(second)
	require.False(t, other.Info().Initial)
	cancel()
	allOf(stream)
	feedWrites(t, games, 5)
	require.Equal(t, info, feed.Info())
	require.EqualValues(t, 4, feed.Position().Seq)
	games.Changes(t.Context(), Track(&feed))
	last := feed.Info()
	require.NotEqual(t, info.ID, last.ID, "the feed that was made last")
	feedWrites(t, games, 5)
	last.Buffered, last.Lag = 5, 5
	collected(t, "the stream is held", func() bool { return len(games.Feeds()) == 1 })
	require.Equal(t, last, feed.Info())
	require.Equal(t, last.Seq, feed.Position().Seq)
	runtime.KeepAlive(second)
}

// Feeds lists a tracked feed while it is made, and its position can be taken while it ends. Run
// with -race.
func TestATrackedFeedBeginsAndEndsBesideOthers(t *testing.T) {
	t.Parallel()
	games := newGames()
	var feed Feed
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, look := range []func(){
		func() { games.Feeds() }, func() { feed.Position() }, func() { feed.Info() }, func() { _, _ = games.Upsert(game{ID: 1, Score: int(games.Seq())}) },
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					look()
				}
			}
		})
	}
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		opts := [][]FeedOption{nil, {IncludeInitial()}, {Squash(0)}, {After(games.At(0)), OnOverflow(Resync)}}[i%4]
		stream := games.Changes(ctx, append(opts, Track(&feed), Poll(nil))...)
		take(stream, 3)
		cancel()
		take(stream, 1)
	}
	close(stop)
	wg.Wait()
}

// A transaction of a backlog is delivered in one batch, wherever its pages end.
func TestABacklogDoesNotDivideTransactions(t *testing.T) {
	for _, before := range []int{0, 1, 100, 250, 254, 255, 256} {
		games := newGames()
		games.Retain(2000)
		feedWrites(t, games, before)
		transactWrites(t, games, 600)
		feedWrites(t, games, 3)
		for _, max := range []int{1, 2, 300, 700} {
			var sizes []int
			for batch, err := range games.Batches(t.Context(), max, After(games.At(uint64(before))), Poll(nil)) {
				require.NoError(t, err)
				sizes = append(sizes, len(batch))
			}
			require.Equal(t, map[int][]int{1: {600, 1, 1, 1}, 2: {600, 2, 1}, 300: {600, 3}, 700: {603}}[max], sizes)
		}
	}
}

// The backlog of a feed that has ended is not held by its stream, or by its Feed.
func TestABacklogIsReleasedAtTheEnd(t *testing.T) {
	games := newGames()
	games.Retain(10)
	row := func() weak.Pointer[game] { return weak.Make(must[game](t)(games.Upsert(game{ID: 1, Score: 1})).New) }()
	feedWrites(t, games, 5)
	var feed Feed
	ctx, cancel := context.WithCancel(t.Context())
	stream := games.Row(2).Changes(ctx, After(games.At(0)), Track(&feed))
	games.Retain(0)
	runtime.GC()
	runtime.GC()
	require.NotNil(t, row.Value(), "or the test would show nothing")
	cancel()
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	runtime.KeepAlive(stream)
	runtime.KeepAlive(games)
	require.Zero(t, feed.Position().Seq)
}

// A position that another goroutine takes at any moment does not include an unread change, also
// while the change is being published.
func TestAPositionTakenWhileAChangeIsPublished(t *testing.T) {
	for _, opts := range [][]FeedOption{nil, {Squash(0)}} {
		games := newGames()
		const others = 100
		feeds := make([]Stream[Change[game]], others) // rings, of which that of row 0 comes last
		for i := range feeds {
			feeds[i] = games.Row(i+1).Changes(t.Context(), Poll(nil))
		}
		var feed Feed
		stream := games.Row(0).Changes(t.Context(), append(opts, Track(&feed), Poll(nil))...)
		for score := range 200 {
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for last := uint64(0); ; {
					select {
					case <-stop:
						return
					default:
					}
					seq := feed.Position().Seq
					if seq < last {
						t.Errorf("position %d after %d", seq, last)
					}
					last = seq
				}
			})
			require.NoError(t, Transact(func(tx *Tx) error {
				for i := range others + 1 {
					must[game](t)(games.In(tx).Upsert(game{ID: others - i, Score: score}))
				}
				return nil
			}, games))
			close(stop)
			wg.Wait()
			require.Less(t, feed.Position().Seq, games.Seq(), "the change of row 0 is unread")
			take(stream, -1)
			require.Equal(t, games.Position(), feed.Position())
			for _, f := range feeds {
				take(f, -1)
			}
		}
	}
}

// A hookContext calls hook in its n-th call of Err, which still returns the error from before.
type hookContext struct {
	context.Context
	n    int
	hook func()
}

func (c *hookContext) Err() error {
	err := c.Context.Err()
	if c.n--; c.n == 0 {
		c.hook()
	}
	return err
}

func wholeBoard(b board) Selection[int, game] { return b.Selection() }

// The context of a feed may end at any step. The position is still that of the last change that
// the loop got.
func TestAPositionWhenTheContextEndsAtAnyStep(t *testing.T) {
	row1 := func(b board) Selection[int, game] { return b.Row(1) }
	row1Where := func(b board) Selection[int, game] { return b.Row(1).Where(always) }
	where := func(b board) Selection[int, game] { return b.Where(always) }
	for name, test := range map[string]struct {
		of    func(b board) Selection[int, game]
		after bool
		batch int
		opts  []FeedOption
	}{
		"changes": {wholeBoard, false, 0, nil}, "a row's": {row1, false, 0, nil},
		"batches": {wholeBoard, false, 3, nil}, "a row's batches": {row1, false, 3, nil},
		"backlog": {wholeBoard, true, 0, nil}, "a row's backlog": {row1, true, 0, nil},
		"batches of a backlog":       {wholeBoard, true, 3, nil},
		"batches of a row's backlog": {row1, true, 3, nil},
		"a backlog before a squash":  {wholeBoard, true, 0, []FeedOption{Squash(0)}},
		"in batches before a squash": {wholeBoard, true, 3, []FeedOption{Squash(0)}},
		"a predicate":                {where, false, 0, nil},
		"batches of a predicate":     {where, false, 3, nil},
		"a predicate's backlog":      {row1Where, true, 0, nil},
		"batches of its backlog":     {row1Where, true, 3, nil},
	} {
		for n := range 60 {
			for _, breaks := range []bool{false, true} {
				b := newBoard()
				b.Retain(1000)
				inner, cancel := context.WithCancel(t.Context())
				var sub *subscription[int, game]
				ctx := &hookContext{inner, 0, func() {
					cancel()
					for len(b.Feeds()) > 0 || sub.backlog.unread() || sub.squash == nil && sub.window.page.Load() != nil {
						runtime.Gosched()
					}
				}}
				var feed Feed
				opts := append([]FeedOption{Track(&feed), Poll(nil)}, test.opts...)
				if test.after {
					opts = append(opts, After(b.Position()))
					feedWrites(t, b.Table, 10)
				}
				stream := unbatched(test.of(b), ctx, test.batch, opts)
				sub = b.allSubscriptions()[0]
				if !test.after {
					feedWrites(t, b.Table, 10)
				}
				ctx.n = n
				last := uint64(0)
				for batch, err := range stream {
					if err != nil {
						break
					}
					last = batch[len(batch)-1].Seq
					require.Equal(t, last, feed.Position().Seq, "%s, in the body, n=%d", name, n)
					if breaks && ctx.n < 0 {
						break
					}
				}
				require.Equal(t, last, feed.Position().Seq, "%s, n=%d", name, n)
				cancel()
			}
		}
	}
}

// A position of another table does not become one of this table before the notice says that the
// rows begin again.
func TestAForeignPositionBeforeItsNotice(t *testing.T) {
	games := newGames()
	games.Retain(100)
	insertRows(t, games, 1)
	for _, p := range []Position{{}, newGames().Position(), games.At(9)} {
		ctx, cancel := context.WithCancel(t.Context())
		var feed Feed
		stream := games.Changes(ctx, After(p), OnOverflow(Resync), Track(&feed), Poll(nil))
		require.Zero(t, feed.Position())
		cancel()
		require.Equal(t, "context canceled", allOf(stream))
		require.Zero(t, feed.Position())
	}
}

// A stream whose predicate refers to it is released, also if it resumes.
func TestAStreamThatItsPredicateRefersToIsReleased(t *testing.T) {
	type owner struct{ stream Stream[Change[game]] }
	for _, opts := range [][]FeedOption{nil, {After(Position{})}} {
		games := newGames()
		games.Retain(10)
		feedWrites(t, games, 3)
		func() {
			o := new(owner)
			o.stream = games.Where(func(*game) bool { return o.stream != nil }).Changes(context.Background(), opts...)
			require.NotNil(t, o.stream)
		}()
		collected(t, "the feed is held", func() bool { return len(games.Feeds()) == 0 })
	}
}

// The rest of a set is not held by the Feed of a stream that is garbage.
func TestAFeedDoesNotHoldTheRestOfASet(t *testing.T) {
	games := newGames()
	var feed Feed
	row := func() weak.Pointer[game] {
		stream := games.Changes(context.Background(), Track(&feed), Squash(0), Poll(nil))
		insertRows(t, games, 1, 2)
		take(stream, 1)
		row := weak.Make(stored(games, 2))
		must[game](t)(games.Delete(2))
		return row
	}()
	collected(t, "the row is held", func() bool { return row.Value() == nil })
	require.Zero(t, feed.Position().Seq, "the set was not read to its end")
}

// A resumer reads a selection by one feed after another, each of which resumes from the
// position of the one before.
type resumer struct {
	testing.TB
	rand  *rand.Rand
	of    Selection[int, game]
	batch int // of Batches, or 0
	opts  []FeedOption

	saved Position
	got   func(c Change[game], err error)
}

// save requires that a position does not go back, except to zero.
func (r *resumer) save(p Position) {
	if !p.IsZero() {
		require.GreaterOrEqual(r, p.Seq, r.saved.Seq)
	}
	r.saved = p
}

// read reads up to n elements by one feed, and ends in one of the ways in which a loop ends. It
// reports whether it has read everything.
func (r *resumer) read(n int, body func()) (all bool) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var feed Feed
	opts := append([]FeedOption{After(r.saved), Track(&feed), Poll(nil)}, r.opts...)
	stream := unbatched(r.of, ctx, r.batch, opts)
	end := r.rand.IntN(4)
	inBody := r.rand.IntN(2) == 0 // it saves the position in the body only, unless all is read
	defer func() {
		if p := recover(); p != nil && p != any(errOops) {
			panic(p)
		}
		if all || !inBody {
			r.save(feed.Position())
		}
	}()
	for batch, err := range stream {
		if ctx.Err() != nil {
			require.ErrorIs(r, err, context.Canceled)
			break
		}
		if err != nil {
			r.got(Change[game]{}, err)
		}
		for _, c := range batch {
			r.got(c, nil)
		}
		if inBody {
			r.save(feed.Position())
		}
		body()
		if n--; n > 0 {
			continue
		}
		switch end {
		case 0:
			panic(errOops)
		case 1:
			cancel()
		default:
			return false
		}
	}
	return ctx.Err() == nil
}

// readAll reads until nothing is left.
func (r *resumer) readAll() {
	for !r.read(math.MaxInt, func() {}) {
	}
}

func unbatched(of Selection[int, game], ctx context.Context, batch int, opts []FeedOption) Stream[[]Change[game]] {
	if batch > 0 {
		return of.Batches(ctx, batch, opts...)
	}
	return Map(of.Changes(ctx, opts...), func(c Change[game]) []Change[game] { return []Change[game]{c} })
}

// writeSome writes to a few rows, sometimes in a transaction.
func writeSome(tb testing.TB, r *rand.Rand, games *Table[int, game]) {
	write := func(to rowWriter[game]) {
		id := r.IntN(8)
		if r.IntN(3) == 0 {
			_, _ = to.Delete(id) // it may not be there
			return
		}
		_, err := to.Upsert(game{ID: id, Player: []string{"Ann", "Bob", ""}[r.IntN(3)], Score: r.IntN(30)})
		require.NoError(tb, err)
	}
	if r.IntN(3) > 0 {
		write(games)
		return
	}
	require.NoError(tb, Transact(func(tx *Tx) error {
		for range r.IntN(6) {
			write(games.In(tx))
		}
		return nil
	}, games))
}

// An unbrokenFeed is a feed beside a resumer of the same selection.
type unbrokenFeed struct {
	*resumer
	unbroken Stream[Change[game]]
	changes  []Change[game] // that the resumer got
}

func newUnbrokenFeed(t *testing.T, random *rand.Rand, of Selection[int, game]) *unbrokenFeed {
	u := &unbrokenFeed{unbroken: of.Changes(t.Context(), Poll(nil), Buffer(1_000_000))}
	u.resumer = &resumer{TB: t, rand: random, of: of, batch: random.IntN(4), saved: of.table.Position(), got: func(c Change[game], err error) {
		require.NoError(t, err)
		u.changes = append(u.changes, c)
	}}
	return u
}

// compare reads both feeds to their ends.
func (u *unbrokenFeed) compare(name string) {
	u.readAll()
	var want []Change[game]
	for c, err := range u.unbroken {
		require.NoError(u, err)
		want = append(want, c)
	}
	require.Equal(u, want, u.changes, "%s, batches of %d", name, u.batch)
}

// What was delivered before a position and what After of it delivers are together what an
// unbroken feed delivers, wherever the loops ended, any number of times.
func TestResumedFeedsAreOneFeed(t *testing.T) {
	random := newRand(t)
	for run := range 600 {
		b := newBoard()
		b.Retain(100_000)
		for range random.IntN(30) {
			writeSome(t, random, b.Table)
		}
		s := boardSelections[run%len(boardSelections)]
		u := newUnbrokenFeed(t, random, s.of(b))
		write := func() {
			for range random.IntN(4) {
				writeSome(t, random, b.Table)
			}
			if random.IntN(8) == 0 {
				b.Fork()
			}
		}
		for range 1 + random.IntN(12) {
			write()
			if u.read(1+random.IntN(6), write) {
				require.Equal(t, b.Position(), u.saved, s.name)
			}
		}
		u.compare(s.name)
	}
}

// The same beside a writer that does not stop.
func TestResumedFeedsAreOneFeedBesideAWriter(t *testing.T) {
	t.Parallel()
	random := newRand(t)
	for _, s := range boardSelections {
		b := newBoard()
		b.Retain(1_000_000)
		u := newUnbrokenFeed(t, random, s.of(b))
		writes := rand.New(rand.NewPCG(random.Uint64(), 0))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 2000 {
				writeSome(t, writes, b.Table)
			}
		}()
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
				u.read(1+random.IntN(30), func() {})
			}
		}
		u.compare(s.name)
	}
}

// With Squash, Resync or small buffers, rows folded over any number of resumptions are those of
// the selection once a feed is drained, also if a program loses what it had since an earlier
// save.
func TestResumedFeedsFoldToTheSelection(t *testing.T) {
	t.Parallel()
	random := newRand(t)
	for run := range 600 {
		b := newBoard()
		b.Retain([]int{0, 5, 30, 100_000}[random.IntN(4)])
		s := boardSelections[run%len(boardSelections)]
		opts := []FeedOption{OnOverflow(Resync)}
		if random.IntN(2) == 0 {
			opts = append(opts, Squash(0))
		}
		if random.IntN(2) == 0 {
			opts = append(opts, Buffer(1+random.IntN(4)))
		}
		rows := map[int]game{}
		r := &resumer{TB: t, rand: random, of: s.of(b), batch: random.IntN(4), opts: opts, got: func(c Change[game], err error) {
			switch {
			case err != nil:
				require.IsType(t, (*SkippedError)(nil), err)
				clear(rows)
			case c.Kind == Ready:
			case c.New == nil:
				delete(rows, c.Old.ID)
			default:
				rows[c.New.ID] = *c.New
			}
		}}
		write := func() {
			for range random.IntN(6) {
				writeSome(t, random, b.Table)
			}
		}
		type state struct {
			rows  map[int]game
			saved Position
		}
		states := []state{{map[int]game{}, Position{}}}
		for range 1 + random.IntN(12) {
			write()
			r.read(1+random.IntN(6), write)
			states = append(states, state{maps.Clone(rows), r.saved})
			if random.IntN(3) == 0 {
				earlier := states[random.IntN(len(states))]
				rows, r.saved = maps.Clone(earlier.rows), earlier.saved
			}
		}
		r.readAll()
		want := maps.Collect(s.of(b).All())
		require.Equal(t, want, rows, fmt.Sprintf("%s, batches of %d", s.name, r.batch))
	}
}
