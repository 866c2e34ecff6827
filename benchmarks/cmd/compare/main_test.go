package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/seed-637b77f9/changefeed/benchmarks/report"
	"github.com/seed-637b77f9/changefeed/benchmarks/workload"
)

// A run writes its file and pictures, and the file can be shown again with the same
// figures.
func TestCompare(t *testing.T) {
	var tables, progress, again bytes.Buffer
	out := filepath.Join(t.TempDir(), "new", "results")
	c := comparison{
		scale: workload.Scale{
			Rounds:  2,
			Rows:    100,
			FanOuts: []workload.Audience{{Subscribers: 1, Writes: 100}, {Subscribers: 10, Writes: 100}},
			Writes:  400,
		},
		quick:    true,
		out:      out,
		tables:   &tables,
		progress: &progress,
	}
	require.NoError(t, c.measure("changefeed,channels,bare channel", "fanout,latency"))
	require.Contains(t, tables.String(), "| Single updates, by subscribers: 10 |")
	require.Contains(t, tables.String(), "**Quick")
	require.Contains(t, progress.String(), "round 2 of 2  latency")

	files, err := filepath.Glob(filepath.Join(out, "*-quick.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	r, err := report.Read(files[0])
	require.NoError(t, err)
	require.Equal(t, 2, r.Rounds)
	require.Len(t, r.Results[0].Rounds, 2)
	for _, name := range []string{"fanout", "latency"} {
		require.FileExists(t, filepath.Join(out, name+"-quick.svg"))
	}
	require.NoFileExists(t, filepath.Join(out, "memory-quick.svg"))

	all, err := os.ReadDir(out)
	require.NoError(t, err)
	for _, file := range all { // .gitignore lists these suffixes
		require.Regexp(t, `-quick\.(json|svg)$`, file.Name())
	}

	picture := filepath.Join(out, "fanout-quick.svg")
	before, err := os.ReadFile(picture)
	require.NoError(t, err)
	require.NoError(t, os.Remove(picture))
	c.tables = &again
	require.NoError(t, c.again(files[0]))
	require.Equal(t, tables.String(), again.String())
	after, err := os.ReadFile(picture)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

func TestNamed(t *testing.T) {
	c := comparison{}
	require.ErrorContains(t, c.measure("nobody", ""), `no "nobody" among changefeed, statedb`)
	require.ErrorContains(t, c.measure("", "nothing"), `no "nothing" among writes`)
}

func TestProfiled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cpu.prof")
	ran := false
	require.NoError(t, profiled(file, func() error {
		ran = true
		return nil
	}))
	require.True(t, ran)
	require.FileExists(t, file)
}
