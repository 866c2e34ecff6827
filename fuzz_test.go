package changefeed

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// The corpus of each target, in testdata/fuzz, runs with go test. To look further:
//
//	go test -run - -fuzz FuzzTable -fuzzminimizetime 1x
//
// Bytes are dice: each decides one choice of the code under test.

// fuzzDice returns the dice that data is; when it is used up, they show 0.
func fuzzDice(data *[]byte) func(n int) int {
	return func(n int) int {
		if len(*data) == 0 {
			return 0
		}
		b := (*data)[0]
		*data = (*data)[1:]
		return int(b) * max(1, n/256) % n
	}
}

// FuzzTable does what the bytes say to a table and to its model.
func FuzzTable(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1024)] // what is longer finds nothing more
		synctest.Test(t, func(t *testing.T) {
			r := newModelRun(t, fuzzDice(&data), make(map[string]int))
			for len(data) > 0 {
				r.step()
			}
			r.finish()
		})
	})
}

// FuzzRing does what the bytes say to a ring and to its model.
func FuzzRing(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1024)]
		roll := fuzzDice(&data)
		m := newRingModel(t, roll(2) == 0, roll, make(map[string]int))
		for len(data) > 0 {
			m.step()
		}
		m.finish()
	})
}

// FuzzRow takes a JSON document as a row: an edit gets an equal copy that shares
// nothing with the stored row, and one that changes nothing is no change.
func FuzzRow(f *testing.F) {
	for _, doc := range []string{
		`{}`, `null`, `{"a": null}`, `{"a": 1.5, "b": "text", "c": true}`, `{"a": [], "b": {}}`,
		`{"a": [1, [2, [3]], {"b": [4]}]}`, `{"a": {"b": {"c": [{"d": "e"}, null, false]}}}`,
		`{"": {"": ""}}`, `{"a": [[], [[]], [{}]]}`, `{"id": 1, "players": ["Bob", "Alice"], "score": {"Bob": 3}}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var doc, same map[string]any
		if json.Unmarshal(data, &doc) != nil || json.Unmarshal(data, &same) != nil {
			return
		}
		docs := NewTable("docs", func(*map[string]any) int { return 0 })
		_, err := docs.Insert(doc)
		require.NoError(t, err)

		c, err := docs.Update(0, func(*map[string]any) {})
		require.NoError(t, err)
		require.Equal(t, None, c.Kind)

		c, err = docs.Update(0, func(row *map[string]any) {
			require.Equal(t, same, *row)
			scribble(*row)
			*row = map[string]any{"scribbled": *row}
		})
		require.NoError(t, err)
		require.Equal(t, Update, c.Kind)
		require.Equal(t, same, *c.Old)
		require.Equal(t, same, doc)
	})
}

// scribble writes over all that v refers to.
func scribble(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, elem := range v {
			scribble(elem)
			v[key] = "scribbled"
		}
		if v != nil {
			v["scribble"] = true
		}
	case []any:
		for i, elem := range v {
			scribble(elem)
			v[i] = "scribbled"
		}
	}
}

// fuzzParts does what the bytes say to two tables and to their models: see partRun.
func fuzzParts(f *testing.F, weights partWeights, kinds []string) {
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1024)]
		synctest.Test(t, func(t *testing.T) {
			r := newSelectionRun(t, weights, fuzzDice(&data), make(map[string]int))
			r.kinds = kinds
			for len(data) > 0 {
				r.step()
			}
			r.finish()
		})
	})
}

// FuzzIndex is of writes to tables with indexes, reads of parts of these, and feeds of
// them.
func FuzzIndex(f *testing.F) {
	kinds := slices.DeleteFunc(partKinds(), func(kind string) bool { return !strings.Contains(kind, "Index") })
	fuzzParts(f, partWeights{write: 20, transact: 1, read: 12, follow: 6, other: 8}, kinds)
}

// FuzzTransaction is of transactions, also such as fail, and feeds with all options.
func FuzzTransaction(f *testing.F) {
	fuzzParts(f, partWeights{write: 2, transact: 10, read: 16, follow: 6, other: 4}, partKinds())
}
