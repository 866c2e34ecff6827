package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What RethinkDB's manual page says client 1 prints.
func TestTheManualsFirstExample(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out))
	require.Equal(t, `{"old_val":null,"new_val":{"id":1}}
{"old_val":{"id":1},"new_val":{"id":1,"player1":"Bob"}}
{"old_val":{"id":1,"player1":"Bob"},"new_val":{"id":1,"player1":"Bob","player2":"Alice"}}
{"old_val":{"id":1,"player1":"Bob","player2":"Alice"},"new_val":null}
changefeed: changes of "games": table dropped
`, out.String())
}

var errFull = errors.New("disk full")

// A shortDisk takes n writes and no more.
type shortDisk struct{ n int }

func (d *shortDisk) Write(p []byte) (int, error) {
	if d.n--; d.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// Output that cannot be written, be it a change or the final error, is an error.
func TestOutputFails(t *testing.T) {
	for n := range 5 {
		require.ErrorIs(t, run(&shortDisk{n}), errFull, "after %d lines", n)
	}
	require.NoError(t, run(&shortDisk{5}))
}
