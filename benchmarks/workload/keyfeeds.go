package workload

import (
	"fmt"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// The tables of KeyFeeds.
var (
	KeyFeedTime  = Table{Title: "Updates beside feeds of a row each", Unit: "ns a write, until its reader has it"}
	KeyFeedWakes = Table{Title: "Wake-ups of readers", Unit: "a write"}
)

// KeyFeeds measures updates with many readers that follow one row each.
var KeyFeeds = Workload{
	Name:  "key-feeds",
	Title: "Feeds on one key each",
	About: "Follow every row by a feed of its own, and update the rows in random order, over and over, as fast as it goes, until all have been read.",
	Cases: func(s Scale) []Case {
		return []Case{{
			Name: Count(s.KeyFeeds) + " feeds",
			Run:  func(c contest.Contestant) ([]Figure, error) { return keyFeeds(c, s.KeyFeeds, s.Writes) },
		}}
	},
}

func keyFeeds(c contest.Contestant, feeds, writes int) ([]Figure, error) {
	table := openTable(c, feeds)
	if table == nil {
		return nil, nil
	}
	defer table.Close()
	writes -= writes % feeds // the same number for each row
	keys := contest.DistinctKeys(writes, feeds)
	last, sums := make([]int, feeds), make([]int, feeds) // last version and sum of versions, by key
	for i, key := range keys {
		last[key] = feeds + i + 1
		sums[key] += feeds + i + 1
	}

	readers := &audience{contestant: c}
	for key := range feeds {
		readers.feeds = append(readers.feeds, table.FollowKey(key))
	}
	defer readers.close()
	readers.read(0, func(key int, t *contest.Tally) { t.Until = key + 1 })
	for key := range feeds { // each reader reads one change before the timed part
		table.Update(key, key+1)
	}
	if err := readers.wait(); err != nil {
		return nil, err
	}
	readers.read(0, func(key int, t *contest.Tally) { t.Until = last[key] })

	start := time.Now()
	for i, key := range keys {
		table.Update(key, feeds+i+1)
	}
	err := readers.wait()
	elapsed := time.Since(start)
	if err != nil {
		return nil, err
	}

	wakes, came, each := 0, 0, writes/feeds
	for key, t := range readers.tallies {
		complete := t.Changes == each && t.Sum == sums[key]
		if !complete && (t.Changes >= each || !c.Traits.Merges) {
			return nil, fmt.Errorf("%s: the reader of key %d got %d changes of %d", c.Name, key, t.Changes, each)
		}
		wakes, came = wakes+t.Wakes, came+t.Changes
	}
	column := Count(feeds) + " feeds"
	merged := 1 - float64(came)/float64(writes)
	return []Figure{
		{Table: KeyFeedTime, Column: column, Value: perOp(elapsed, writes), Merged: merged},
		{Table: KeyFeedWakes, Column: column, Value: float64(wakes) / float64(writes), Merged: merged},
	}, nil
}
