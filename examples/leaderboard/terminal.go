package main

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
)

// quietKeys sets a terminal so that it hands out keys as they are pressed, and does not
// show them. It returns a function that sets the terminal back. It returns false if in and
// out are not both a terminal, and where there is no stty, as on Windows.
func quietKeys(in, out *os.File) (restore func(), ok bool) {
	if !isDevice(in) || !isDevice(out) {
		return nil, false
	}
	before, err := stty(in, "-g")
	if err != nil {
		return nil, false
	}
	restore = func() {
		signal.Ignore(os.Interrupt) // one more ^C does not kill stty
		_, _ = stty(in, before)     // a terminal that is gone needs no restoring
	}
	if _, err := stty(in, "-icanon", "-echo", "min", "1", "time", "0"); err != nil {
		restore()
		return nil, false
	}
	return restore, true
}

// isDevice reports whether f is a terminal, or another device of characters.
func isDevice(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// stty sets a terminal, or returns how it is set. It fails if there is no terminal.
func stty(terminal *os.File, args ...string) (string, error) {
	cmd := exec.Command("stty", args...)
	cmd.Stdin = terminal
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// stopAtQ reads keys, and calls stop at a q.
func stopAtQ(keys io.Reader, stop func()) {
	var key [1]byte
	for {
		if _, err := keys.Read(key[:]); err != nil {
			return
		}
		if key[0] == 'q' || key[0] == 'Q' {
			stop()
			return
		}
	}
}
