package changefeed

// A game is the row of most tests.
type game struct {
	ID     int    `json:"id"`
	Player string `json:"player,omitempty"`
	Score  int    `json:"score,omitempty"`
}

func newGames() *Table[int, game] {
	return NewTable("games", func(g *game) int { return g.ID })
}

// A pair is what a stream hands to a loop.
type pair[T any] struct {
	v   T
	err error
}

// take ranges over s until it has n pairs or s ends by itself.
func take[T any](s Stream[T], n int) (pairs []pair[T]) {
	if n == 0 {
		return nil
	}
	for v, err := range s {
		pairs = append(pairs, pair[T]{v, err})
		if len(pairs) == n {
			break
		}
	}
	return pairs
}
