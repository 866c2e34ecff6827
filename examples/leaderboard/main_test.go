package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// played returns the output of a game with the given number of writes. Followers have time
// to read every change.
func played(t *testing.T, inPlace bool, writes int) string {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		show := screen{out: &out, inPlace: inPlace}
		require.NoError(t, run(t.Context(), &show, writes, time.Second, rand.New(rand.NewPCG(1, 2))))
	})
	return out.String()
}

// If RUN_LEADERBOARD is set, the test binary runs the program instead of the tests.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_LEADERBOARD") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program returns a command that runs the program with the given arguments.
func program(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUN_LEADERBOARD=1")
	return cmd
}

func TestHelp(t *testing.T) {
	out, err := program(t, "-h").CombinedOutput()
	require.NoError(t, err)
	require.Regexp(t, `^Leaderboard shows the best three of six players, [^.]*\.\n`, string(out))
	require.Contains(t, string(out), "-writes int")
	for line := range strings.Lines(about) {
		require.LessOrEqual(t, len(line), 80, line)
	}
}

// Without a terminal, the program prints its description and then one line for each event.
func TestWithoutATerminal(t *testing.T) {
	out, err := program(t, "-writes", "20", "-every", "0").Output()
	require.NoError(t, err)
	require.Regexp(t, `^Leaderboard shows [^.]*\.\n\^C stops it\.\n\n(\w[\w ]*: .*\n)+$`, string(out))
	require.Equal(t, 3, strings.Count(string(out), "the game is over"))
}

// A game that is stopped ends at once, and the followers read all of its changes.
func TestStopped(t *testing.T) {
	const writes, players = 13, 6
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), (writes-1)*time.Hour+time.Minute)
		defer cancel()
		begun := time.Now()
		require.NoError(t, run(ctx, &screen{out: &out}, 1000, time.Hour, rand.New(rand.NewPCG(1, 2))))
		require.Less(t, time.Since(begun), writes*time.Hour)
	})
	changes := writes - len(unchanged(out.String(), players+writes))
	require.Contains(t, out.String(), fmt.Sprintf("log: change %d after", players+changes))
	require.Equal(t, changes, strings.Count(out.String(), "log: change"))
	require.Equal(t, 3, strings.Count(out.String(), "the game is over"))
}

func TestStopAtQ(t *testing.T) {
	for keys, rest := range map[string]string{"q": "", "Q": "", "xyzqxq": "xq"} {
		stopped := 0
		r := strings.NewReader(keys)
		stopAtQ(r, func() { stopped++ })
		require.Equal(t, 1, stopped, keys)
		require.Equal(t, len(rest), r.Len(), keys)
	}
	stopAtQ(strings.NewReader("xyz"), func() { require.Fail(t, "stopped without a q") })
}

// quietKeys leaves a file that is not a terminal alone.
func TestQuietKeysWithoutATerminal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/file")
	require.NoError(t, err)
	defer file.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	require.NoError(t, err)
	defer null.Close()
	for _, files := range [][2]*os.File{{file, null}, {null, file}, {null, null}} {
		_, ok := quietKeys(files[0], files[1])
		require.False(t, ok)
	}
}

// The follower that takes breaks neither misses a change nor sees one twice.
func TestTheLogGoesOnWhereItBrokeOff(t *testing.T) {
	const writes, players = 95, 6
	out := played(t, false, writes)
	var want []string
	for i := range writes - len(unchanged(out, players+writes)) {
		want = append(want, fmt.Sprintf("log: change %d after %d breaks", players+1+i, i/10))
	}
	require.Equal(t, want, regexp.MustCompile(`log: change \d+ after \d+ breaks`).FindAllString(out, -1))
	for _, who := range []string{"red team", "ranks", "log"} {
		require.Contains(t, out, who+": the game is over\n")
	}
}

// unchanged returns the numbers up to last that are missing in the log, because the write
// left its score equal.
func unchanged(out string, last int) (numbers []int) {
	for n := 7; n <= last; n++ {
		if !strings.Contains(out, fmt.Sprintf("change %d after", n)) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// The ranks start with those of equal scores. They then agree with the scores in the log of
// all changes: a list to which the messages are applied has the best players.
func TestTheRanksAreThoseOfTheScores(t *testing.T) {
	out := played(t, false, 200)
	require.Regexp(t, `ranks: Frank enters at rank 1\n(.*\n)*ranks: Eve enters at rank 2\n(.*\n)*ranks: Dave enters at rank 3\n`, out)
	scores := map[string]int{"Alice": 50, "Bob": 50, "Carol": 50, "Dave": 50, "Eve": 50, "Frank": 50}
	for _, line := range regexp.MustCompile(`log: .*: (\w+) \d+ -> (\d+)`).FindAllStringSubmatch(out, -1) {
		scores[line[1]], _ = strconv.Atoi(line[2])
	}
	names := slices.SortedFunc(maps.Keys(scores), func(a, b string) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(b, a))
	})

	var list []string
	happened := map[string]int{}
	for _, line := range regexp.MustCompile(`ranks: (\w+) (enters at|leaves|moves from) rank (?:(\d) to )?(\d)`).FindAllStringSubmatch(out, -1) {
		who, what := line[1], strings.Fields(line[2])[0]
		happened[what]++
		to, from := rank(line[4]), rank(line[3])
		if what == "leaves" {
			from = to
		}
		if what != "enters" {
			require.Equal(t, who, list[from-1], line[0])
			list = slices.Delete(list, from-1, from)
		}
		if what != "leaves" {
			list = slices.Insert(list, to-1, who)
		}
		require.LessOrEqual(t, len(list), 3)
	}
	require.Equal(t, names[:3], list)
	for _, what := range []string{"enters", "leaves", "moves"} {
		require.Greater(t, happened[what], 3, what)
	}
}

func rank(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// On a terminal, each picture is drawn over the previous one.
func TestATerminalIsDrawnInPlace(t *testing.T) {
	out := played(t, true, 30)
	pictures := strings.Split(out, "\x1b[7A")
	require.Greater(t, len(pictures), 30)
	for _, picture := range pictures {
		require.Equal(t, 7, strings.Count(picture, "\n"))
		require.Equal(t, 7, strings.Count(picture, "\x1b[2K"))
	}
	last := pictures[len(pictures)-1]
	before := 1 << 30
	rows := regexp.MustCompile(`(\d)  \w+ +(red|blue) +(\d+) #*\n`).FindAllStringSubmatch(last, -1)
	require.Len(t, rows, 3)
	for i, row := range rows {
		require.Equal(t, strconv.Itoa(i+1), row[1])
		score, err := strconv.Atoi(row[3])
		require.NoError(t, err)
		require.LessOrEqual(t, score, before)
		before = score
	}
}

// A game without pauses is logged completely, too, because the table is dropped only when
// everything has been read.
func TestAFastGameIsToldWhole(t *testing.T) {
	for range 50 {
		var out bytes.Buffer
		show := screen{out: &out}
		require.NoError(t, run(t.Context(), &show, 25, 0, rand.New(rand.NewPCG(1, 2))))
		require.Len(t, regexp.MustCompile(`log: change \d+ after`).FindAllString(out.String(), -1), 25-len(unchanged(out.String(), 31)))
		require.Contains(t, out.String(), "log: change 30 after")
	}
}
