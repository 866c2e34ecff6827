package changefeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// versionsOf returns the cells of a table that have versions, also cells whose row is deleted,
// with the snapshot that each version is kept for, and the number of snapshots. It requires
// that each of these snapshots knows the cell once, and no other.
func versionsOf[K, V any](tb testing.TB, t *Table[K, V]) (found map[*cell[K, V]][]uint64, snapshots int) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	found = make(map[*cell[K, V]][]uint64)
	note := func(c *cell[K, V]) {
		if _, known := found[c]; known || c.versions.Load() == nil {
			return
		}
		for v := c.versions.Load(); v != nil; v = v.next.Load() {
			require.Nil(tb, v.tx)
			found[c] = append(found[c], v.keptFor.Load())
		}
	}
	t.rows.tree.Ascend(func(e entry[K]) bool { note((*cell[K, V])(e.cell)); return true })
	known := make(map[*cell[K, V]][]uint64)
	for _, s := range slices.Backward(slices.Concat(t.snapshots.open, t.snapshots.closing)) {
		for _, round := range s.kept {
			require.LessOrEqual(tb, len(round), roundSize)
			for _, c := range round {
				note(c)
				known[c] = append(known[c], s.moment)
			}
		}
	}
	for _, seqs := range known {
		slices.SortFunc(seqs, func(a, b uint64) int { return int(b) - int(a) })
	}
	require.True(tb, maps.EqualFunc(known, found, slices.Equal), "known %v, found %v", known, found)
	return found, len(t.snapshots.open) + len(t.snapshots.closing)
}

// requireVersions requires that no cell has more than one earlier row for each snapshot.
func requireVersions[K, V any](tb testing.TB, t *Table[K, V]) {
	tb.Helper()
	versions, snapshots := versionsOf(tb, t)
	for _, seqs := range versions {
		require.LessOrEqual(tb, len(seqs), snapshots)
		for i, seq := range seqs {
			require.True(tb, i == 0 || seq < seqs[i-1])
		}
	}
}

// requireClosed requires that all snapshots close, if need be by goroutines of their own, and
// that no earlier row is left then.
func requireClosed[K, V any](tb testing.TB, t *Table[K, V]) {
	tb.Helper()
	collected(tb, "a snapshot is open", func() bool {
		versions, snapshots := versionsOf(tb, t)
		return len(versions)+snapshots == 0
	})
}

// A snapshotModel is a table, its scans, and what each of them has to read.
type snapshotModel struct {
	board
	scans []modelledScan
}

type modelledScan struct {
	*scan[int, game]
	want []game
	got  []game
}

// write writes to one of a few rows.
func (m *snapshotModel) write(r *rand.Rand, to rowWriter[game]) {
	id := r.IntN(12)
	if r.IntN(3) == 0 {
		_, _ = to.Delete(id)
	} else {
		_, _ = to.Upsert(game{ID: id, Player: "Ann", Score: r.IntN(100)})
	}
}

// Scans read what was there when they began, whatever is written meanwhile, and in whatever
// order they end. A cell has at most one earlier row for each open snapshot.
func TestScansBesideWrites(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 60 {
		m := snapshotModel{board: newBoard()}
		feed := m.Row(3).Changes(t.Context()) // a cell that stays when the row is deleted
		for range 400 {
			switch n := r.IntN(10); n {
			default:
				m.write(r, m)
			case 0, 1:
				err := []error{nil, errTakenBack}[r.IntN(2)]
				require.Equal(t, err, Transact(func(tx *Tx) error {
					for range r.IntN(5) {
						m.write(r, m.In(tx))
					}
					return err
				}, m))
			case 2, 3:
				parts := []Selection[int, game]{m.Selection(), m.From(5), m.Range(2, 7), m.players.Equal("Ann"), m.scores.From(30), m.digits.Range(2, 5), m.Row(3)}
				part, backward := parts[r.IntN(len(parts))], r.IntN(2) == 0
				rows := part.All()
				if backward {
					rows = part.Backward()
				}
				m.scans = append(m.scans, modelledScan{part.scan(backward), rowsOf(t, rows), nil})
			case 4, 5:
				if len(m.scans) == 0 {
					continue
				}
				i := r.IntN(len(m.scans))
				s := &m.scans[i]
				ended := true
				s.each(func() bool {
					for _, row := range s.rows {
						s.got = append(s.got, *row)
					}
					ended = false
					return false
				})
				require.True(t, slices.Equal(s.want[:len(s.got)], s.got))
				if !ended {
					continue
				}
				require.Len(t, s.got, len(s.want))
				s.close()
				m.scans = slices.Delete(m.scans, i, i+1)
			case 6:
				if n := len(m.scans); n > 5 { // some do not read to the end
					m.scans[n/2].close()
					m.scans = slices.Delete(m.scans, n/2, n/2+1)
				}
			}
			requireVersions(t, m.Table)
		}
		r.Shuffle(len(m.scans), func(i, j int) { m.scans[i], m.scans[j] = m.scans[j], m.scans[i] })
		for _, s := range m.scans {
			s.close()
			requireVersions(t, m.Table)
		}
		requireClosed(t, m.Table)
		m.requireIndexes(t)
		runtime.KeepAlive(feed)
	}
}

// Beside a newcomer that stalls, and any number of short scans, each row is kept once.
func TestEarlierRowsAreBounded(t *testing.T) {
	const rows = 50
	r, games := newRand(t), newGames()
	for id := range rows {
		insertRows(t, games, id)
	}
	write := func(id int) { must[game](t)(games.Update(id, func(g *game) { g.Score++ })) }
	scanAndWrite := func(id int) {
		for range games.All() {
			write(id)
			break
		}
	}
	newcomer := games.Changes(t.Context(), IncludeInitial(), Buffer(1))
	write(0)
	for i := range 100_000 {
		scanAndWrite(i % rows)
		write((i + 7) % rows)
	}
	kept, snapshots := versionsOf(t, games)
	require.Len(t, kept, rows)
	for _, seqs := range kept {
		require.Equal(t, []uint64{rows}, seqs)
	}
	require.Equal(t, 1, snapshots)

	var stops []func()
	for range 10 { // that stay, and others that come and go
		next, stop := iter.Pull2(games.All())
		next()
		stops = append(stops, stop)
		for range 200 {
			scanAndWrite(r.IntN(rows))
		}
		_, snapshots := versionsOf(t, games)
		require.Equal(t, 1+len(stops), snapshots)
		requireVersions(t, games)
	}
	for _, i := range r.Perm(len(stops)) {
		stops[i]()
		requireVersions(t, games)
	}
	kept, _ = versionsOf(t, games)
	require.Len(t, kept, rows)
	for c := range newcomer {
		if c.Kind == Ready {
			break
		}
		require.Zero(t, c.New.Score, "it gets the rows of when it began")
	}
	requireClosed(t, games)
}

// Beside a newcomer that stalls, short scans do not add to memory.
func TestEarlierRowsDoNotAccumulate(t *testing.T) {
	blobs := newBlobs()
	const rows = 1000
	for id := range rows {
		must[blob](t)(blobs.Insert(blob{float64(id)}))
	}
	newcomer := blobs.Changes(t.Context(), IncludeInitial(), Buffer(1))
	churn := func() {
		for id := range rows {
			for range blobs.All() {
				must[blob](t)(blobs.Update(float64(id), func(b *blob) { b[1]++ }))
				break
			}
		}
	}
	churn()
	kept, _ := versionsOf(t, blobs)
	require.Len(t, kept, rows, "the newcomer needs them")
	held := heldBy(func() {
		for range 20 {
			churn()
		}
	})
	require.Less(t, held, 500*rows, "%d if each churn kept a row", 20*160*rows)
	runtime.KeepAlive(newcomer)
}

// A snapshot is closed when nobody reads it any more, however that comes.
func TestSnapshotsClose(t *testing.T) {
	b := newBoard()
	for id := range 300 {
		must[game](t)(b.Insert(game{ID: id, Player: "Ann"}))
	}
	write := func() {
		must[game](t)(b.Update(3, func(g *game) { g.Score++ }))
		_, snapshots := versionsOf(t, b.Table)
		require.NotZero(t, snapshots)
	}
	for name, all := range map[string]iter.Seq2[int, game]{
		"All": b.All(), "Backward": b.Backward(), "Range": b.Range(1, 200).All(), "index": b.players.Equal("Ann").Backward(), "Where": b.Where(isOddGame).All(),
	} {
		for how, read := range map[string]func(){
			"to the end": func() {
				for range all {
					write()
				}
			},
			"break": func() {
				for range all {
					write()
					break
				}
			},
			"panic": func() {
				defer func() { require.Equal(t, "in the loop", recover()) }()
				for range all {
					write()
					panic("in the loop")
				}
			},
			"Goexit": func() {
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					for range all {
						write()
						runtime.Goexit()
					}
				})
			},
			"Pull": func() {
				next, stop := iter.Pull2(all)
				next()
				write()
				stop()
			},
			"in a transaction": func() {
				next, stop := iter.Pull2(all)
				next()
				write()
				require.NoError(t, Transact(func(*Tx) error { stop(); return nil }, b))
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				read()
				requireClosed(t, b.Table)
			})
		}
	}
	for name, read := range map[string]func(ctx context.Context, cancel func()){
		"Len": func(context.Context, func()) {
			require.PanicsWithValue(t, "in keep", func() { b.Where(func(*game) bool { write(); return panicWith("in keep") }).Len() })
		},
		"Read": func(context.Context, func()) { _ = Read(func(*Tx) error { write(); return nil }, b) },
		"Read, panic": func(context.Context, func()) {
			require.Panics(t, func() { _ = Read(func(*Tx) error { write(); panic("in fn") }, b) })
		},
		"Ready": func(ctx context.Context, _ func()) {
			for c := range b.Changes(ctx, IncludeInitial()) {
				if c.Kind == Ready {
					break
				}
				write()
			}
		},
		"Ready, Batches": func(ctx context.Context, _ func()) {
			for batch := range b.Batches(ctx, 70, IncludeInitial()) {
				if slices.ContainsFunc(batch, func(c Change[game]) bool { return c.Kind == Ready }) {
					break
				}
				write()
			}
		},
		"canceled before the range": func(ctx context.Context, cancel func()) {
			b.Changes(ctx, IncludeInitial())
			write()
			cancel()
		},
		"canceled in the loop": func(ctx context.Context, cancel func()) {
			n := 0
			for _, err := range b.players.From("").Changes(ctx, IncludeInitial()) {
				if n++; err == nil {
					write()
				}
				cancel()
			}
			require.Equal(t, 2, n)
		},
		"canceled after the range": func(ctx context.Context, cancel func()) {
			for range b.Changes(ctx, IncludeInitial()) {
				write()
				break
			}
			cancel()
		},
		"resynchronized and canceled": func(ctx context.Context, cancel func()) {
			feed := b.Changes(ctx, Buffer(1), OnOverflow(Resync))
			for range 3 {
				must[game](t)(b.Update(3, func(g *game) { g.Score++ }))
			}
			for _, err := range feed {
				if err == nil {
					write()
					break
				}
			}
			cancel()
		},
		"forgotten": func(ctx context.Context, _ func()) {
			for range b.players.From("").Changes(ctx, IncludeInitial()) {
				write()
				break
			}
		},
		"a failed feed": func(ctx context.Context, _ func()) {
			_ = allOf(b.Changes(ctx, IncludeInitial(), After(Position{})))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			read(ctx, cancel)
			requireClosed(t, b.Table)
		})
	}
}

// A snapshot with many rows closes in rounds, between which others get the lock. It also does
// so if the lock is taken when the last reader ends.
func TestASnapshotClosesInRounds(t *testing.T) {
	const rows = 4*roundSize + 7
	games := newGames()
	for id := range rows {
		insertRows(t, games, id)
	}
	older, newer := games.Selection().scan(false), games.Selection().scan(false)
	for id := range rows {
		must[game](t)(games.Update(id, func(g *game) { g.Score++ }))
		if id == 0 {
			newer.close()
			newer = games.Selection().scan(false)
		}
	}
	require.Len(t, games.snapshots.open, 2)
	require.Len(t, newer.snapshot.kept, 5)
	newer.snapshot.readers-- // as its last reader does
	for left := 4; left >= 0; left-- {
		games.mu.RLock()
		require.Equal(t, left > 0, games.snapshots.closeRound())
		require.Len(t, newer.snapshot.kept, left)
		requireVersions(t, games)
		must[game](t)(games.Update(rows-1, func(g *game) { g.Score++ }))
	}
	versions, snapshots := versionsOf(t, games)
	require.Equal(t, 1, snapshots)
	require.Len(t, versions, rows, "they are handed down")

	done := make(chan struct{})
	require.NoError(t, Transact(func(*Tx) error {
		older.close() // does not wait
		close(done)
		return nil
	}, games))
	<-done
	requireClosed(t, games)
}

// Readers and writers at full speed: each scan sees the same sum.
func TestScansBesideTransfers(t *testing.T) {
	const rows, score = 600, 10
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			seed, games := testSeed(t), newGames()
			for id := range rows {
				must[game](t)(games.Insert(game{ID: id, Score: score}))
			}
			var writers, readers sync.WaitGroup
			for i := range uint64(2) {
				r := rand.New(rand.NewPCG(seed, i))
				writers.Go(func() {
					for range 3000 {
						from, to := r.IntN(rows), r.IntN(rows)
						_ = Transact(func(tx *Tx) error {
							g := games.In(tx)
							_, err1 := g.Update(from, func(g *game) { g.Score-- })
							_, err2 := g.Update(to, func(g *game) { g.Score++ })
							return errors.Join(err1, err2)
						}, games)
					}
				})
			}
			written := make(chan struct{})
			for i := range 3 {
				readers.Go(func() {
					for last := false; !last; {
						select {
						case <-written:
							last = true
						default:
						}
						sum, n := 0, 0
						for _, g := range games.All() {
							sum += g.Score
							if n++; n%50 < i {
								runtime.Gosched()
							}
						}
						if sum != rows*score || n != rows {
							t.Errorf("a sum of %d in %d rows", sum, n)
						}
					}
				})
			}
			writers.Wait()
			close(written)
			readers.Wait()
			requireClosed(t, games)
		})
	}
}

// In a table of NewTableFunc, a Get looks into the tree while a range clones it. T5
func TestAGetBesideAClone(t *testing.T) {
	games := NewTableFunc("games", func(g *game) int { return g.ID }, func(a, b int) int { return a - b })
	insertRows(t, games, 1, 2, 3)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 2000 {
				if _, ok := games.Get(2); !ok {
					t.Error("the row is there all the time")
				}
			}
		})
		wg.Go(func() {
			for id := range 500 {
				for range games.All() {
				}
				_, _ = games.Upsert(game{ID: 10 + id})
			}
		})
	}
	wg.Wait()
	requireClosed(t, games)
}
