package changefeed

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that lies on two pages of the ring, and of which the buffer drops the
// first part while the batch before it is collected, is not delivered in part: what
// the reader did not get is in the notice.
func TestOverflowBetweenTwoPagesDividesNoTransaction(t *testing.T) {
	for _, test := range []struct {
		policy Overflow
		want   string
	}{
		{Skip, "[+1 =2] skip4(3-6) [=7 =8 =9 =10 =11 =12]"},
		{Fail, "[+1 =2] skip4(3-6)"},
		{Resync, "[+1 =2] skip10(3-12) [row1 ready12]"},
	} {
		games := newGames()
		overflowing := false
		feed := games.Where(func(row *game) bool {
			if row.Score == 2 && !overflowing { // the batch has what lies on the first page
				overflowing = true
				feedWrites(t, games, 6)
			}
			return true
		}).Batches(t.Context(), 100, Buffer(6), OnOverflow(test.policy), Poll(nil))
		feedWrites(t, games, 2)
		transactWrites(t, games, minPage) // two changes on the first page, two on the next one
		require.Equal(t, test.want, batchesOf(feed, -1), test.policy)
	}
}

// A transaction of any length is in one batch, wherever its pages end, also for a
// squash's backlog and where a transaction follows another.
func TestATransactionOverManyPagesIsOneBatch(t *testing.T) {
	for before := range 6 {
		for _, n := range []int{2, 3, 5, 8, 63, 64, 65, 300, 1000} {
			t.Run(fmt.Sprint(before, n), func(t *testing.T) {
				games := newGames()
				feed := games.Batches(t.Context(), 2)
				feedWrites(t, games, before)
				transactWrites(t, games, n)
				transactWrites(t, games, 2)
				games.Drop()
				whole := map[int]bool{}
				for batch, err := range feed {
					if err != nil {
						require.ErrorIs(t, err, ErrTableDropped)
						break
					}
					whole[len(batch)] = true
					for i, c := range batch[1:] {
						require.Equal(t, batch[i].Seq+1, c.Seq)
					}
				}
				require.True(t, whole[n] || whole[n+1], "%v", whole)
			})
		}
	}
}

// A context that ends while a batch is collected discards the batch, also where a
// transaction goes on on another page.
func TestAContextThatEndsBetweenTwoPages(t *testing.T) {
	games := newGames()
	ctx, cancel := context.WithCancel(t.Context())
	feed := games.Where(func(row *game) bool {
		if row.Score == 2 {
			cancel()
		}
		return true
	}).Batches(ctx, 100)
	feedWrites(t, games, 2)
	transactWrites(t, games, 500)
	require.Equal(t, "context canceled", batchesOf(feed, -1))
}
