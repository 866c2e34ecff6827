// Leaderboard shows the best three of six players, whose scores change at random. It redraws
// them in place until the game is over, or until q or ^C is pressed. Without a terminal, or
// without stty, it prints a line for each event instead.
//
// The best three are a view of the table of players. Three goroutines follow the game, each
// in its own way. One follows an index value (a team), beginning with the present rows. One
// follows the ranks of the view. One follows all changes of the table. It ends its
// subscription after every tenth change, and resumes with a new one after the last change
// that it read.
//
//	go run ./examples/leaderboard
//	go run ./examples/leaderboard -writes 20 -every 0 | cat
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// A Player is a row of the leaderboard.
type Player struct {
	Name  string
	Team  string
	Score int
}

const about = `Leaderboard shows the best three of six players, whose scores change at random,
and the output of three goroutines that follow the game: the points of a team,
who moves from which rank to which, and every change.
`

func main() {
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, about)
		flag.PrintDefaults()
	}
	writes := flag.Int("writes", 200, "number of score changes")
	every := flag.Duration("every", 100*time.Millisecond, "pause between changes")
	seed := flag.Uint64("seed", rand.Uint64(), "seed of the random changes")
	flag.Parse()
	if err := onStdio(*writes, *every, rand.New(rand.NewPCG(*seed, 0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// onStdio runs the game on the standard streams, until its end or until somebody stops it.
func onStdio(writes int, every time.Duration, random *rand.Rand) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	fmt.Print(about)
	restore, ok := quietKeys(os.Stdin, os.Stdout)
	if !ok {
		fmt.Print("^C stops it.\n\n")
		return run(ctx, &screen{out: os.Stdout}, writes, every, random)
	}
	defer restore()
	go stopAtQ(os.Stdin, cancel)
	fmt.Print("q or ^C stops it.\n\n")
	defer fmt.Print("\nThe game is over.\n")
	return run(ctx, &screen{out: os.Stdout, inPlace: true}, writes, every, random)
}

// run plays the game and starts its followers. It ends the game when ctx is done or all
// writes are made, and returns when the followers have read everything.
func run(ctx context.Context, show *screen, writes int, every time.Duration, random *rand.Rand) error {
	players := changefeed.NewTable("players", func(p *Player) string { return p.Name })
	teams := changefeed.NewIndex(players, "team", func(p *Player) string { return p.Team })
	byScore := changefeed.NewIndex(players, "score", func(p *Player) int { return p.Score })
	best := changefeed.Top(byScore, "best", 3)
	players.Retain(1000) // for the follower that resumes after a break
	show.best = best
	for i, name := range []string{"Alice", "Bob", "Carol", "Dave", "Eve", "Frank"} {
		p := Player{Name: name, Team: []string{"red", "blue"}[i%2], Score: 50}
		if _, err := players.Insert(p); err != nil {
			return err
		}
	}

	// The subscriptions are made before the first write, so nothing is missed. The feeds end
	// with the table and not with ctx. Otherwise unread changes would be lost.
	forever := context.Background()
	red := teams.Equal("red").Changes(forever, changefeed.IncludeInitial(), changefeed.Named("red team"))
	ranks := changefeed.Ranked(forever, best, changefeed.Named("ranks"))
	start := players.Position()

	var followers sync.WaitGroup
	followers.Go(func() { followTeam(show, red) })
	followers.Go(func() { followRanks(show, ranks) })
	var logged atomic.Uint64
	followers.Go(func() { followWithBreaks(show, players, start, &logged) })
	if err := play(ctx, players, writes, every, random); err != nil {
		return err
	}
	for logged.Load() < players.Seq() && players.Seq() > start.Seq {
		time.Sleep(time.Millisecond) // wait for the log, because a dropped table retains nothing for it to resume with
	}
	players.Drop() // ends every feed once it has delivered its buffered changes
	followers.Wait()
	return nil
}

// play changes scores, and sometimes a player's team, until all writes are made or ctx is
// done.
func play(ctx context.Context, players *changefeed.Table[string, Player], writes int, every time.Duration, random *rand.Rand) error {
	names := make([]string, 0, players.Len())
	for name := range players.All() {
		names = append(names, name)
	}
	for range writes {
		if ctx.Err() != nil {
			return nil
		}
		_, err := players.Update(names[random.IntN(len(names))], func(p *Player) {
			p.Score = max(0, p.Score+random.IntN(41)-18)
			if random.IntN(20) == 0 {
				p.Team = map[string]string{"red": "blue", "blue": "red"}[p.Team]
			}
		})
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
	return nil
}

// followTeam shows the team's total. If a player joins the team, the feed reports an
// insert. If a player leaves the team, it reports a delete.
func followTeam(show *screen, changes changefeed.Stream[changefeed.Change[Player]]) {
	total := 0
	for c, err := range changes {
		if err != nil {
			show.ended("red team", err)
			continue
		}
		if c.Old != nil {
			total -= c.Old.Score
		}
		if c.New != nil {
			total += c.New.Score
		}
		if c.Kind != changefeed.Initial { // all of them come before Ready
			show.say("red team", fmt.Sprintf("%d points", total))
		}
	}
}

// followRanks shows the players who enter or leave the best three, and those who move to
// another rank. If one player enters and another leaves, the one who leaves is reported first.
func followRanks(show *screen, changes changefeed.Stream[changefeed.RankedChange[Player]]) {
	for c, err := range changes {
		switch {
		case err != nil:
			show.ended("ranks", err)
		case c.OldRank == c.NewRank: // Ready, or a score that changes no rank
		case c.OldRank == 0:
			show.say("ranks", fmt.Sprintf("%s enters at rank %d", c.New.Name, c.NewRank))
		case c.NewRank == 0:
			show.say("ranks", fmt.Sprintf("%s leaves rank %d", c.Old.Name, c.OldRank))
		default:
			show.say("ranks", fmt.Sprintf("%s moves from rank %d to %d", c.New.Name, c.OldRank, c.NewRank))
		}
	}
}

// followWithBreaks follows all changes after a position. It ends its subscription after every
// tenth change, like a client whose connection fails, and resumes with a new one. It stores the
// number of the last change in logged.
func followWithBreaks(show *screen, players *changefeed.Table[string, Player], saved changefeed.Position, logged *atomic.Uint64) {
	for breaks, ended := 0, false; !ended; breaks++ {
		ctx, cancel := context.WithCancel(context.Background())
		read := 0
		var feed changefeed.Feed
		for c, err := range players.Changes(ctx, changefeed.After(saved), changefeed.Track(&feed), changefeed.Named("log")) {
			saved = feed.Position()
			logged.Store(saved.Seq)
			if skipped, ok := errors.AsType[*changefeed.SkippedError](err); ok {
				show.say("log", fmt.Sprintf("missed %d changes", skipped.Count)) // no longer retained
				continue
			}
			if err != nil {
				show.ended("log", err)
				ended = true
				continue
			}
			show.say("log", fmt.Sprintf("change %d after %d breaks: %s %d -> %d", c.Seq, breaks, c.New.Name, c.Old.Score, c.New.Score))
			if read++; read == 10 {
				break
			}
		}
		cancel()
	}
}

// A screen shows the followers' messages. In place, it shows the newest message of each
// follower below the best players. Otherwise it prints the messages line by line.
type screen struct {
	best    *changefeed.View[string, Player]
	inPlace bool

	mu    sync.Mutex // guards the fields below
	out   io.Writer
	said  map[string]string // the newest message of each follower
	lines int               // the number of lines that were drawn last
}

func (s *screen) say(who, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inPlace {
		fmt.Fprintf(s.out, "%s: %s\n", who, what)
		return
	}
	if s.said == nil {
		s.said = make(map[string]string)
	}
	s.said[who] = what
	s.drawLocked()
}

// ended shows the error that ended a follower. In place, it shows nothing.
func (s *screen) ended(who string, err error) {
	if errors.Is(err, changefeed.ErrTableDropped) {
		err = errors.New("the game is over")
	}
	if !s.inPlace {
		s.say(who, err.Error())
	}
}

func (s *screen) drawLocked() {
	var lines []string
	for _, p := range s.best.All() { // in the order of their ranks
		lines = append(lines, fmt.Sprintf("%d  %-6s %-4s %4d %s", len(lines)+1, p.Name, p.Team, p.Score, strings.Repeat("#", min(p.Score/5, 40))))
	}
	if len(lines) == 0 {
		return // the table is dropped, and the last picture stays
	}
	lines = append(lines, "")
	for _, who := range []string{"red team", "ranks", "log"} {
		lines = append(lines, fmt.Sprintf("%-8s %s", who, s.said[who]))
	}
	if s.lines > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA", s.lines) // cursor up
	}
	for _, line := range lines {
		fmt.Fprintf(s.out, "\x1b[2K%s\n", line) // clear the old line first
	}
	s.lines = len(lines)
}
