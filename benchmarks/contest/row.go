package contest

import (
	"math/rand/v2"
	"strconv"
)

// A Row is the row that all contestants hold: 100 bytes with an int key and a string.
type Row struct {
	Key     int
	Version int // of the write that stored the row, or 0 if it was loaded
	Text    string
}

const textLen = 68

// NewRow returns the row that is loaded for the key.
func NewRow(key int) Row {
	text := make([]byte, textLen)
	for i := range text {
		text[i] = 'a' + byte((key+i)%26)
	}
	strconv.AppendInt(text[:0], int64(key), 10)
	return Row{Key: key, Text: string(text)}
}

// The seed of all random data, so that every contestant gets the same.
const seed1, seed2 = 20, 26

// RowsInOrder returns the rows with the keys below n, in the order of their keys.
func RowsInOrder(n int) []Row {
	rows := make([]Row, n)
	for key := range rows {
		rows[key] = NewRow(key)
	}
	return rows
}

// Rows returns the rows with the keys below n, in random order.
func Rows(n int) []Row {
	rows := make([]Row, n)
	for i, key := range rand.New(rand.NewPCG(seed1, seed2)).Perm(n) {
		rows[i] = NewRow(key)
	}
	return rows
}

// Keys returns n random keys below limit.
func Keys(n, limit int) []int {
	random := rand.New(rand.NewPCG(seed2, seed1))
	keys := make([]int, n)
	for i := range keys {
		keys[i] = random.IntN(limit)
	}
	return keys
}

// DistinctKeys returns n random keys below limit. Each run of 100 keys that begins at a
// multiple of 100 has no duplicates.
func DistinctKeys(n, limit int) []int {
	random := rand.New(rand.NewPCG(seed2, seed1))
	limit -= limit % 100
	keys := make([]int, 0, n+limit)
	for len(keys) < n {
		keys = append(keys, random.Perm(limit)...)
	}
	return keys[:n]
}
