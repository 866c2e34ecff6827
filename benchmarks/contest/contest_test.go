package contest

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const manyWrites = 5000

// each runs f for each contestant that holds rows.
func each(t *testing.T, f func(t *testing.T, c Contestant, table Table)) {
	for _, c := range All() {
		if c.Traits.IsFloor || c.Open == nil {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			store := c.Open()
			defer store.Close()
			f(t, c, store.(Table))
		})
	}
}

func TestRows(t *testing.T) {
	each(t, func(t *testing.T, _ Contestant, table Table) {
		table.Load(Rows(200))
		table.Delete(7)
		table.Insert(NewRow(200))
		table.Update(8, 1)
		table.UpdateAll([]int{9, 10, 11}, 2)

		want := make(map[int]Row)
		for key := range 201 {
			want[key] = NewRow(key)
		}
		delete(want, 7)
		for key, version := range map[int]int{8: 1, 9: 2, 10: 3, 11: 4} {
			row := want[key]
			row.Version = version
			want[key] = row
		}
		got := make(map[int]Row)
		for row := range table.All() {
			got[row.Key] = row
		}
		require.Equal(t, want, got)
		for key, row := range want {
			got, ok := table.Get(key)
			require.True(t, ok)
			require.Equal(t, row, got)
		}
		_, ok := table.Get(7)
		require.False(t, ok)
	})
}

func TestRow(t *testing.T) {
	require.Len(t, NewRow(123456).Text, textLen)
	require.NotEqual(t, NewRow(1).Text, NewRow(2).Text)
	require.Equal(t, Rows(50), Rows(50))
	require.Equal(t, Keys(50, 1000), Keys(50, 1000))
	keys := DistinctKeys(1000, 250)
	require.Len(t, keys, 1000)
	for chunk := range slices.Chunk(keys, 100) {
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(chunk))), 100)
	}
}

// read reads the feed up to the version until.
func read(feed Feed, until int) *Tally {
	t := &Tally{Until: until}
	feed.Read(t)
	return t
}

// Every reader receives all changes since it followed, and no earlier ones. If the
// contestant merges changes, the reader receives at least the last one.
func TestFollow(t *testing.T) {
	each(t, func(t *testing.T, c Contestant, table Table) {
		table.Load(Rows(100))
		table.Update(1, 1)
		feeds := []Feed{table.Follow(), table.Follow(), table.Follow()}
		tallies := make(chan *Tally)
		for _, feed := range feeds {
			go func() { tallies <- read(feed, manyWrites) }()
		}
		sum := 0
		for i, key := range Keys(manyWrites-1, 100) {
			table.Update(key, i+2)
			sum += i + 2
		}
		for range feeds {
			got := <-tallies
			require.Equal(t, manyWrites, got.Last)
			require.Zero(t, got.Lost)
			if c.Traits.Merges {
				require.LessOrEqual(t, got.Changes, manyWrites-1)
			} else {
				require.Equal(t, manyWrites-1, got.Changes)
				require.Equal(t, sum, got.Sum)
			}
		}
		for _, feed := range feeds {
			feed.Close()
		}
	})
}

// A reader that stopped can continue later.
func TestKinds(t *testing.T) {
	each(t, func(t *testing.T, _ Contestant, table Table) {
		table.Load(Rows(10))
		feed := table.Follow()
		defer feed.Close()

		table.Delete(3)
		table.Delete(4)
		table.Insert(NewRow(4)) // statedb reports a delete and an insert, or only an insert
		table.Update(5, 1)
		got := read(feed, 1)
		require.Equal(t, 1, got.Last)
		require.Contains(t, []int{1, 2}, got.Deletes)

		table.UpdateAll([]int{6, 7, 8}, 2)
		got = read(feed, 4)
		require.Equal(t, 3, got.Changes)
		require.Equal(t, 2+3+4, got.Sum)
		require.Equal(t, 4, got.Last)
	})
}

func TestFollowKey(t *testing.T) {
	each(t, func(t *testing.T, _ Contestant, table Table) {
		table.Load(Rows(300))
		for _, key := range []int{1, 255, 256} {
			feed := table.FollowKey(key)
			for other := range 300 {
				if other != key {
					table.Update(other, 1000)
				}
			}
			table.Update(key, 1)
			require.Equal(t, 1, read(feed, 1).Sum)
			table.UpdateAll([]int{0, key, 299}, 2)
			require.Equal(t, 3, read(feed, 3).Sum)
			feed.Close()
		}
	})
}

// A newcomer receives the present rows, and then the changes made since.
func TestFollowPresent(t *testing.T) {
	each(t, func(t *testing.T, _ Contestant, table Table) {
		table.Load(Rows(1000))
		table.Update(0, 1)
		feed := table.FollowPresent()
		defer feed.Close()
		table.Update(1, 2)
		ready := make(chan struct{})
		got := &Tally{Until: 3, OnReady: func() { close(ready) }}
		done := make(chan struct{})
		go func() {
			defer close(done)
			feed.Read(got)
		}()
		<-ready
		table.Update(2, 3)
		<-done
		require.Equal(t, 1000, got.Present)
		require.False(t, got.First.After(got.Full))
		require.Equal(t, 3, got.Last)
		require.Equal(t, 1+2+3, got.Sum, "each version once, as a present row or as a change")
	})
}

// Closing a feed ends its reader, and releases a writer that waits for it.
func TestClose(t *testing.T) {
	each(t, func(t *testing.T, c Contestant, table Table) {
		table.Load(Rows(10))
		read, stalled := table.Follow(), table.Follow()
		reader := make(chan struct{})
		go func() {
			defer close(reader)
			read.Read(&Tally{Until: math.MaxInt})
		}()
		writer := make(chan struct{})
		go func() {
			defer close(writer)
			for i := range 2 * manyWrites {
				table.Update(i%10, i+1)
			}
		}()
		select {
		case <-writer:
			require.False(t, c.Traits.Waits)
		case <-time.After(2 * time.Second):
			require.True(t, c.Traits.Waits)
		}
		stalled.Close()
		<-writer
		read.Close()
		<-reader
	})
}

// Changefeed counts the changes that it drops.
func TestLost(t *testing.T) {
	table := Changefeed.Open().(Table)
	defer table.Close()
	table.Load(Rows(10))
	feed := table.Follow()
	defer feed.Close()
	const writes = 150_000
	for i := range writes {
		table.Update(i%10, i+1)
	}
	got := read(feed, writes)
	require.Equal(t, 50_000, got.Lost)
	require.Equal(t, 100_000, got.Changes)
}

func TestHandOff(t *testing.T) {
	h := HandOff.Open()
	defer h.Close()
	feed := h.Follow()
	for i := range 10 {
		h.Update(0, i+1)
	}
	got := read(feed, 10)
	require.Equal(t, 10, got.Changes)
	require.Equal(t, 55, got.Sum)
	feed.Close()
}
