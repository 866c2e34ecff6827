package changefeed

import (
	"cmp"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A hashModel is a hash index of integers beside a map.
type hashModel struct {
	*testing.T
	*hashIndex[int]
	roll    func(n int) int // the dice: 0 to n-1
	keys    int             // the keys that come and go are 0 to keys-1
	newest  int             // and those up to newest, of which each comes once
	cells   map[int]*int
	reached map[string]int
}

// newHashModel returns a model whose index has a good hash function or a bad one, of which
// the slots are in long runs.
func newHashModel(t *testing.T, roll func(n int) int, reached map[string]int) *hashModel {
	m := &hashModel{T: t, hashIndex: newHashIndex[int](), roll: roll, cells: make(map[int]*int), reached: reached}
	m.keys, m.newest = []int{20, 100, 5000}[roll(3)], 10_000
	if roll(2) == 0 {
		m.hash = func(k int) uint64 { return uint64(k)<<32 | uint64(k*97%13*10) }
	}
	return m
}

// step changes a few neighboring keys, or lets new keys come and old ones go.
func (m *hashModel) step() {
	switch key := m.roll(m.keys); m.roll(10) {
	default:
		for k := key; k < min(key+1+m.roll(40), m.keys); k++ {
			m.change(k, true)
		}
	case 0, 1, 2:
		for k := key; k < min(key+1+m.roll(40), m.keys); k++ {
			m.change(k, false)
		}
	case 3:
		for range m.roll(100) {
			m.newest++
			m.change(m.newest, true)
			m.change(m.newest-20, false)
		}
	}
	if m.roll(200) == 0 {
		m.clear()
		clear(m.cells)
	}
}

// change puts the key's cell, if there is none, or removes it.
func (m *hashModel) change(k int, puts bool) {
	if puts && m.cells[k] != nil {
		return
	}
	places, s := len(*m.directory.Load()), m.segment(m.hash(k))
	used, live := s.used, s.live
	if puts {
		c := new(k)
		m.put(c)
		m.cells[k] = c
	} else {
		m.remove(k)
		delete(m.cells, k)
	}
	now := m.segment(m.hash(k))
	switch {
	case len(*m.directory.Load()) > places:
		m.reached["larger directory"]++
	case now.depth > s.depth:
		m.reached["split"]++
	case now != s:
		m.reached["dead cells dropped"]++
	case puts && used == s.used:
		m.reached["dead slot used again"]++
	case puts:
		m.reached["put"]++
	case live == s.live:
		m.reached["removed what was not there"]++
	case used == s.used:
		m.reached["left dead"]++
	case used-s.used > 1:
		m.reached["several emptied"]++
	default:
		m.reached["emptied"]++
	}
	require.Same(m, m.cells[k], m.get(k))
}

// check compares all keys, and the figures of the segments.
func (m *hashModel) check() {
	for k := -1; k <= m.newest; k++ {
		if c := m.get(k); c != m.cells[k] {
			require.Same(m, m.cells[k], c, "key %d", k)
		}
	}
	live := 0
	directory := *m.directory.Load()
	for i := range directory {
		s := directory[i].Load()
		require.Same(m, directory[i&(1<<s.depth-1)].Load(), s, "the directory has a segment at each place of its hashes")
		if i >= 1<<s.depth {
			continue
		}
		used, alive := 0, 0
		for j := range s.slots {
			switch c := s.slots[j].Load(); c {
			case nil:
			case m.dead:
				used++
				require.NotNil(m, s.slots[(j+1)%segmentSize].Load(), "a dead cell before an empty slot")
			default:
				used, alive = used+1, alive+1
			}
		}
		require.Equal(m, []int{used, alive}, []int{s.used, s.live})
		require.LessOrEqual(m, used, segmentFull)
		live += alive
	}
	require.Equal(m, len(m.cells), live)
}

// A hash index is a map of keys to cells, through whatever segments it gets.
func TestAHashIndexIsAMap(t *testing.T) {
	t.Parallel()
	rng, reached := newRand(t), make(map[string]int)
	for range 40 {
		m := newHashModel(t, rng.IntN, reached)
		for range 20 {
			for range 20 {
				m.step()
			}
			m.check()
		}
	}
	requireOutcomes(t, reached, "larger directory", "split", "dead cells dropped", "dead slot used again", "put",
		"removed what was not there", "left dead", "emptied", "several emptied")
}

// FuzzHash does what the bytes say to a hash index and to a map.
func FuzzHash(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1024)]
		m := newHashModel(t, fuzzDice(&data), make(map[string]int))
		for len(data) > 0 {
			m.step()
		}
		m.check()
	})
}

// All kinds of keys are found, equal keys are one key, and all NaN are one key.
func TestHashIndexKeys(t *testing.T) {
	nan := math.Float64frombits(math.Float64bits(math.NaN()) ^ 1)
	requireHashKeys(t, []float64{0, 1, -1, math.Inf(1), math.NaN()}, math.Copysign(0, -1), nan)
	requireHashKeys(t, []string{"", "a", "\x00", "long enough to be in memory"}, string([]byte{'a'}))
	requireHashKeys(t, []int8{0, 1, -1, 127, -128})
	requireHashKeys(t, []uint16{0, 1, 65535})
	requireHashKeys(t, []int32{0, 1, -1, math.MinInt32})
	requireHashKeys(t, []uint64{0, 1, math.MaxUint64, 1 << 32, 1 << 63})
	type id int
	requireHashKeys(t, []id{0, 1, -1, math.MaxInt})
}

// requireHashKeys requires that keys are different keys, and that others are among them.
func requireHashKeys[K cmp.Ordered](t *testing.T, keys []K, others ...K) {
	x := newHashIndex[K]()
	cells := make([]*K, len(keys))
	for i, k := range keys {
		require.Nil(t, x.get(k))
		cells[i] = new(k)
		x.put(cells[i])
	}
	for i, k := range keys {
		require.Same(t, cells[i], x.get(k))
	}
	for _, k := range others {
		require.NotNil(t, x.get(k), "%v", k)
		x.remove(k)
		require.Nil(t, x.get(k), "%v", k)
		c := new(k)
		x.put(c)
		require.Same(t, c, x.get(k))
	}
}

// Readers without a lock find what is there all the time and do not find what never is,
// while other keys come and go, and segments are replaced.
func TestAHashIndexIsReadWhileItGrows(t *testing.T) {
	const keys = 3000
	for _, procs := range []int{1, 2, 8} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		x := newHashIndex[int]()
		cells := make([]*int, keys)
		for k := range keys {
			cells[k] = new(3 * k)
		}
		for _, c := range cells[:10] {
			x.put(c)
		}
		var readers sync.WaitGroup
		grown := make(chan struct{})
		for range 2 {
			readers.Go(func() {
				for last := false; !last; {
					select {
					case <-grown:
						last = true
					default:
					}
					for _, c := range cells[:10] {
						if x.get(*c) != c || x.get(*c+1) != nil {
							t.Errorf("key %d", *c)
						}
						if found := x.get(*c + 2); found != nil && *found != *c+2 {
							t.Errorf("key %d in place of %d", *found, *c+2)
						}
					}
					runtime.Gosched()
				}
			})
		}
		for round := range 3 {
			for k := range keys {
				if k >= 10 && round != 1 {
					x.put(cells[k])
				} else if k >= 10 {
					x.remove(3 * k)
				}
				come := 3*(k%10) + 2
				x.put(new(come))
				x.remove(come)
			}
			runtime.Gosched()
		}
		close(grown)
		readers.Wait()
		for _, c := range cells {
			require.Same(t, c, x.get(*c))
		}
	}
}

// A write replaces one segment at most. The time of a put does not depend on the number of
// keys, except that the directory is copied when its size doubles.
func TestAHashIndexGrowsBySegments(t *testing.T) {
	x := newHashIndex[int]()
	segments := func() map[*segment[int]]bool {
		set := make(map[*segment[int]]bool)
		directory := *x.directory.Load()
		for i := range directory {
			set[directory[i].Load()] = true
		}
		return set
	}
	before := segments()
	for k := range 20_000 {
		x.put(new(k))
		if k%7 > 0 {
			continue
		}
		now := segments()
		gone := slices.DeleteFunc(slices.Collect(maps.Keys(before)), func(s *segment[int]) bool { return now[s] })
		require.LessOrEqual(t, len(gone), 7)
		before = now
	}
	require.Less(t, len(*x.directory.Load()), 20*len(before), "places in the directory")
}

// Keys with a common factor are as well spread as others.
func TestAHashIndexSpreadsKeys(t *testing.T) {
	t.Parallel()
	const keys = 20_000
	for shift := range 48 {
		x := newHashIndex[int]()
		for k := range keys {
			x.put(new(k << shift))
		}
		places := len(*x.directory.Load())
		require.LessOrEqual(t, places, 8*keys/segmentFull, "the directory, of keys times 1<<%d", shift)
		steps := 0
		for k := range keys {
			hash := x.hash(k << shift)
			s := x.segment(hash)
			for i := hash; *s.slots[i%segmentSize].Load() != k<<shift; i++ {
				steps++
			}
		}
		require.Less(t, steps, 5*keys, "the search for keys times 1<<%d", shift)
	}
}

// Consecutive keys, of which the most common tables consist, fill the segments as well as random
// ones do, which need about two slots for a key.
func TestAHashIndexOfConsecutiveKeys(t *testing.T) {
	t.Parallel()
	const keys = 1_000_000
	x := newHashIndex[int]()
	cells := make([]int, keys)
	for k := range cells {
		cells[k] = k
		x.put(&cells[k])
	}
	segments := make(map[*segment[int]]bool)
	directory := *x.directory.Load()
	for i := range directory {
		segments[directory[i].Load()] = true
	}
	require.Less(t, len(segments)*segmentSize, 3*keys, "slots")
}
