package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// If RUN_GAMES is set, the test binary runs the program instead of the tests.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_GAMES") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestHelp(t *testing.T) {
	games := exec.Command(os.Args[0], "-h")
	games.Env = append(os.Environ(), "RUN_GAMES=1")
	out, err := games.CombinedOutput()
	require.NoError(t, err)
	require.Regexp(t, `^Games prints the changes of a table .*\.\n$`, string(out))
}

// Client 1 prints the same changes as on RethinkDB's manual page, each after its kind.
func TestTheManualsFirstExample(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out))
	require.Equal(t, `insert {"old_val":null,"new_val":{"id":1}}
update {"old_val":{"id":1},"new_val":{"id":1,"player1":"Bob"}}
update {"old_val":{"id":1,"player1":"Bob"},"new_val":{"id":1,"player1":"Bob","player2":"Alice"}}
delete {"old_val":{"id":1,"player1":"Bob","player2":"Alice"},"new_val":null}
changefeed: changes of "games": table dropped
`, out.String())
}

var errFull = errors.New("disk full")

// A shortDisk accepts n writes and fails all later ones.
type shortDisk struct{ n int }

func (d *shortDisk) Write(p []byte) (int, error) {
	if d.n--; d.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// If a change or the final error cannot be printed, run returns an error.
func TestOutputFails(t *testing.T) {
	for n := range 5 {
		require.ErrorIs(t, run(&shortDisk{n}), errFull, "after %d lines", n)
	}
	require.NoError(t, run(&shortDisk{5}))
}
