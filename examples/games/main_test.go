package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The test binary is the program if the environment says so.
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

// Client 1 prints what it prints on RethinkDB's manual page, each change after its kind.
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
