//go:build changefeed_debug

package changefeed

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A row that a loop over commits changes is found after its body, and one that was changed
// before is not handed out. The loop may change the commit itself.
func TestDebugChecksTheRowsOfCommits(t *testing.T) {
	table, other := newGuardedTable(), newGames()
	for name, test := range map[string]struct {
		unread bool
		body   func(c *AnyChange)
	}{
		"New":              {body: func(c *AnyChange) { c.New.(*guardedRow).Attr["a"]++ }},
		"Old":              {body: func(c *AnyChange) { c.Old.(*guardedRow).ID++ }},
		"before the range": {unread: true, body: func(*AnyChange) { t.Error("the body must not run") }},
		"the commit":       {body: func(c *AnyChange) { *c = AnyChange{New: new(guardedRow)} }},
	} {
		t.Run(name, func(t *testing.T) {
			must[guardedRow](t)(table.Upsert(newGuarded()))
			commits := Commits(t.Context(), []AnyTable{other, table}, Poll(nil))
			var changed Change[guardedRow]
			require.NoError(t, Transact(func(tx *Tx) error {
				must[game](t)(other.In(tx).Upsert(game{ID: 1, Score: int(table.In(tx).table.seq)}))
				changed = must[guardedRow](t)(table.In(tx).Update(1, func(g *guardedRow) { g.Part.ID++ }))
				return nil
			}, table, other))
			if test.unread {
				changed.Old.Tags[0] = "c"
			}
			read := func() {
				for commit := range commits {
					test.body(&commit[len(commit)-1])
				}
			}
			if name == "the commit" {
				require.NotPanics(t, read)
			} else {
				table.requireChanged(t, read)
			}
			table = newGuardedTable()
		})
	}
}

// Commits of a table whose lock the goroutine holds panics, and leaves the other tables free.
func TestDebugFindsCommitsOfALockedTable(t *testing.T) {
	before, games, after := newGames(), newGames(), newGames()
	const text = `changefeed: a function that runs under the lock of table "games" calls the table, which would deadlock; inside Transact use Table.In, otherwise call the table before or after`
	require.NoError(t, Transact(func(*Tx) error {
		require.PanicsWithValue(t, text, func() { Commits(context.Background(), []AnyTable{after, games, before}) })
		return nil
	}, games))
	for _, table := range []*Table[int, game]{before, games, after} {
		require.True(t, table.mu.TryLock(), "the lock must be free")
		table.mu.Unlock()
		require.Nil(t, table.sets.Load())
	}
}
