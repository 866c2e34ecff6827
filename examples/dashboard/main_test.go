package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program ends at once when its context ends, while a client has open feeds, and another one a
// connection without a request.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	ended := make(chan int, 1)
	var stderr bytes.Buffer
	go func() { ended <- run(ctx, []string{"-addr", ":0", "-devices", "100"}, stdout, &stderr) }()
	url, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	url = strings.TrimSpace(url)
	require.Regexp(t, `^http://127\.0\.0\.1:[1-9]\d*$`, url)

	var feeds []io.Reader
	for _, path := range []string{"/regions/london/changes", "/regions/changes", "/hottest/changes"} {
		res, err := http.Get(url + path)
		require.NoError(t, err)
		defer res.Body.Close()
		lines := bufio.NewReader(res.Body)
		for line := ""; line != "event: ready\n"; {
			line, err = lines.ReadString('\n')
			require.NoError(t, err)
		}
		feeds = append(feeds, lines)
	}
	idle, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer idle.Close()

	cancel()
	for _, feed := range feeds {
		_, err := io.Copy(io.Discard, feed)
		require.NoError(t, err)
	}
	require.Equal(t, 0, <-ended)
	require.Empty(t, stderr.String())
}

func TestUsage(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, test := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"-h", 0, "Dashboard serves a page"},
		{"-x", 2, "not defined: -x"},
		{"x", 2, "-devices"},
		{"-devices 0", 2, "-devices"},
		{"-rate -1", 2, "-rate"},
		{"-addr x", 1, "dashboard: address x: missing port"},
		{"-addr " + taken.Addr().String(), 1, "dashboard: listen tcp"},
		{"-addr :0 -devices 10 -for 1ms", 0, ""},
	} {
		var stderr bytes.Buffer
		require.Equal(t, test.code, run(t.Context(), strings.Fields(test.args), io.Discard, &stderr), test.args)
		require.Contains(t, stderr.String(), test.stderr, test.args)
	}
}
