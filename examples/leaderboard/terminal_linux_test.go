package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// A pty is a terminal without a window. Writing to keyboard presses keys, and reading from
// it returns the text that a window would show.
type pty struct {
	*testing.T
	keyboard, terminal *os.File
}

func newPty(t *testing.T) pty {
	keyboard := open(t, "/dev/ptmx")
	raw, err := keyboard.SyscallConn()
	require.NoError(t, err)
	ioctl := func(request uintptr) (value int32) {
		err := raw.Control(func(fd uintptr) {
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&value)))
			require.Zero(t, errno)
		})
		require.NoError(t, err)
		return value
	}
	ioctl(syscall.TIOCSPTLCK) // with the value 0, which unlocks it
	return pty{t, keyboard, open(t, fmt.Sprint("/dev/pts/", ioctl(syscall.TIOCGPTN)))}
}

// open opens a terminal for the test. Reads fail after a minute, until the file is passed
// to another program.
func open(t *testing.T, name string) *os.File {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	require.NoError(t, f.SetReadDeadline(time.Now().Add(time.Minute)))
	return f
}

func (p pty) press(keys string) {
	_, err := p.keyboard.WriteString(keys)
	require.NoError(p, err)
}

// until reads and returns the output, up to and including text.
func (p pty) until(text string) string {
	var shown strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(shown.String(), text); {
		_, err := p.keyboard.Read(b)
		require.NoError(p, err, "shown: %q", shown.String())
		shown.Write(b)
	}
	return shown.String()
}

// set returns the terminal's settings.
func (p pty) set() string {
	how, err := stty(p.terminal, "-g")
	require.NoError(p, err)
	return how
}

// Until the settings are restored, a key can be read as soon as it is pressed, and is not
// shown.
func TestQuietKeys(t *testing.T) {
	p := newPty(t)
	before := p.set()
	restore, ok := quietKeys(p.terminal, p.terminal)
	require.True(t, ok)
	p.press("x")
	key := make([]byte, 2)
	n, err := open(t, p.terminal.Name()).Read(key)
	require.NoError(t, err)
	require.Equal(t, "x", string(key[:n]))
	_, err = p.terminal.WriteString("text")
	require.NoError(t, err)
	require.Equal(t, "text", p.until("text"))

	restore()
	require.Equal(t, before, p.set())
	p.press("y")
	require.Equal(t, "y", p.until("y"))
}

// On a terminal, the program ends at q and ^C, does not show the keys, and restores the
// terminal.
func TestOnATerminal(t *testing.T) {
	for _, last := range []string{"q", "Q", "\x03", "\x03\x03\x03", "q\x03"} {
		t.Run(fmt.Sprintf("%q", last), func(t *testing.T) {
			p := newPty(t)
			before := p.set()
			cmd := program(t, "-writes", "1000000", "-every", "10ms")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = p.terminal, p.terminal, p.terminal
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			require.NoError(t, cmd.Start())
			shown := p.until("q or ^C stops it.\r\n\r\n")
			require.True(t, strings.HasPrefix(shown, "Leaderboard shows "), shown)
			shown = p.until("log ")
			p.press("xyz\n")
			shown += p.until("log ")
			shown += p.until("log ")
			p.press(last)
			shown += p.until("The game is over.\r\n")
			require.NoError(t, cmd.Wait())
			require.NotContains(t, shown, "xyz")
			require.NotContains(t, shown, "^C")
			require.Equal(t, before, p.set())
		})
	}
}
