package main

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
)

// quietKeys sets a terminal so that keys can be read as soon as they are pressed, and are
// not shown. It returns a function that restores the old settings. It returns false if in
// and out are not both terminals, or if there is no stty, as on Windows.
func quietKeys(in, out *os.File) (restore func(), ok bool) {
	if !isDevice(in) || !isDevice(out) {
		return nil, false
	}
	before, err := stty(in, "-g")
	if err != nil {
		return nil, false
	}
	restore = func() {
		signal.Ignore(os.Interrupt) // another ^C must not kill stty
		_, _ = stty(in, before)     // fails only if the terminal is gone
	}
	if _, err := stty(in, "-icanon", "-echo", "min", "1", "time", "0"); err != nil {
		restore()
		return nil, false
	}
	return restore, true
}

// isDevice reports whether f is a terminal or another character device.
func isDevice(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// stty changes the settings of a terminal, or returns them. It returns an error if the
// file is not a terminal.
func stty(terminal *os.File, args ...string) (string, error) {
	cmd := exec.Command("stty", args...)
	cmd.Stdin = terminal
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// stopAtQ reads keys until one is a q, and then calls stop.
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
