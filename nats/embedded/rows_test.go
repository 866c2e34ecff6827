package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/seed-637b77f9/changefeed"
	natsfeed "github.com/seed-637b77f9/changefeed/nats"
	"github.com/stretchr/testify/require"
)

var errBad = errors.New("a bad row")

// picky encodes players as JSON. It refuses those of the team "bad", and panics for those of the team
// "worse".
func picky(p *player) ([]byte, error) {
	if err := judge(p); err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

func pickyDecode(data []byte, p *player) error {
	if err := json.Unmarshal(data, p); err != nil {
		return err
	}
	return judge(p)
}

func judge(p *player) error {
	switch p.Team {
	case "bad":
		return errBad
	case "worse":
		panic("oops")
	}
	return nil
}

func decodeJSON(data []byte, p *player) error { return json.Unmarshal(data, p) }

func encodeJSON(p *player) ([]byte, error) { return json.Marshal(p) }

// collect returns an option and the errors that it gets. The newest are dropped if nobody reads them.
func collect() (natsfeed.Option, <-chan error) {
	errs := make(chan error, 100)
	return natsfeed.OnError(func(err error) {
		select {
		case errs <- err:
		default:
		}
	}), errs
}

// await waits for an error that has all of the texts.
func await(t *testing.T, errs <-chan error, texts ...string) error {
	t.Helper()
	for ctx := within(t); ; {
		select {
		case err := <-errs:
			missing := false
			for _, text := range texts {
				missing = missing || !strings.Contains(err.Error(), text)
			}
			if !missing {
				return err
			}
			t.Log("another error:", err)
		case <-ctx.Done():
			require.Fail(t, "no such error", "%q", texts)
		}
	}
}

// The publisher reports a row that it cannot encode. Nobody waits for it, and when the row is another
// one, or gone, the replicas have what the publisher has.
func TestARowThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	for team, text := range map[string]string{"bad": errBad.Error(), "worse": "panic: oops"} {
		t.Run(team, func(t *testing.T) {
			s := start(t)
			from, to := newTables(), newTables()
			onError, errs := collect()
			codec := natsfeed.Encoding(picky, decodeJSON)
			p, err := natsfeed.Publish(within(t), s, "league", natsfeed.Rows(from.players, codec), natsfeed.Rows(from.games), onError)
			require.NoError(t, err)
			t.Cleanup(p.Close)
			r, err := natsfeed.Follow(within(t), s, "league", to.options(fail(t))...)
			require.NoError(t, err)
			t.Cleanup(r.Close)

			_, err = from.games.Insert(game{1, "Ann"})
			require.NoError(t, err)
			same(t, r, from, to)
			before := to.positions()
			_, err = from.players.Insert(player{"Bob", team, 1})
			require.NoError(t, err)
			await(t, errs, `"league"`, `table "players"`, "change 1", text)
			await(t, errs, `"league"`, "snapshot", `table "players"`, "key Bob", text)
			for id := range 100 {
				_, err = from.games.Upsert(game{id, "Bob"})
				require.NoError(t, err)
			}
			require.Equal(t, before, to.positions())
			_, err = from.players.Update("Bob", func(p *player) { p.Team = "red" })
			require.NoError(t, err)
			same(t, r, from, to)

			_, err = from.players.Upsert(player{"Bob", team, 2})
			require.NoError(t, err)
			await(t, errs, "change 3", text)
			_, err = from.players.Delete("Bob") // whose change has the row
			require.NoError(t, err)
			same(t, r, from, to)
			late, lateReplica := follow(t, s, fail(t))
			same(t, lateReplica, from, late)
		})
	}
}

// A table whose rows cannot be encoded is not published: there is no snapshot to begin with.
func TestPresentRowsThatCannotBeEncoded(t *testing.T) {
	s := start(t)
	from := newTables()
	_, err := from.players.Insert(player{"Bob", "bad", 1})
	require.NoError(t, err)
	opts := []natsfeed.Option{natsfeed.Rows(from.players, natsfeed.Encoding(picky, decodeJSON)), natsfeed.Rows(from.games)}
	_, err = natsfeed.Publish(within(t), s, "league", opts...)
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, `snapshot: table "players": the row with key Bob`)
	_, err = from.players.Update("Bob", func(p *player) { p.Team = "red" })
	require.NoError(t, err)
	p, err := natsfeed.Publish(within(t), s, "league", opts...)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	to, r := follow(t, s, fail(t))
	same(t, r, from, to)
}

// A replica reports a row that it cannot decode, and stays as it is.
func TestARowThatCannotBeDecoded(t *testing.T) {
	t.Parallel()
	for team, text := range map[string]string{"bad": errBad.Error(), "worse": "panic: oops"} {
		t.Run(team, func(t *testing.T) {
			s := start(t)
			from, to := newTables(), newTables()
			publish(t, s, from, fail(t))
			onError, errs := collect()
			options := to.options(onError)
			options[1] = natsfeed.Rows(to.players, natsfeed.Encoding(encodeJSON, pickyDecode))
			r, err := natsfeed.Follow(within(t), s, "league", options...)
			require.NoError(t, err)
			t.Cleanup(r.Close)
			good, goodReplica := follow(t, s, fail(t))
			before := to.positions()
			require.NoError(t, changefeed.Transact(func(tx *changefeed.Tx) error {
				_, err := from.games.In(tx).Insert(game{1, "Bob"})
				require.NoError(t, err)
				_, err = from.players.In(tx).Insert(player{"Bob", team, 1})
				return err
			}, from.games, from.players))
			for range 2 {
				await(t, errs, `follow "league"`, `table "players"`, "cannot be decoded", text)
				require.Equal(t, before, to.positions())
				require.Zero(t, to.games.Len()) // no half of the commit
			}
			same(t, goodReplica, from, good)

			// The first snapshot of another log has the row.
			p, err := natsfeed.Publish(within(t), s, "cup", from.options(fail(t))...)
			require.NoError(t, err)
			t.Cleanup(p.Close)
			_, err = natsfeed.Follow(within(t), s, "cup", options...)
			require.ErrorContains(t, err, `table "players": a row cannot be decoded: `+text)
			require.Equal(t, before, to.positions())
		})
	}
}

// An older publisher's rows are decoded by the function of their version, those of messages and those of
// snapshots. A replica of another version that has no function for it stays as it is.
func TestVersions(t *testing.T) {
	type oldPlayer struct{ Name, Nickname string }
	s := start(t)
	players := changefeed.NewTable("players", func(p *oldPlayer) string { return p.Name })
	_, err := players.Insert(oldPlayer{"Ann", "The Fox"})
	require.NoError(t, err)
	p, err := natsfeed.Publish(within(t), s, "league", natsfeed.Rows(players, natsfeed.Version[oldPlayer](1, nil)), fail(t))
	require.NoError(t, err)
	t.Cleanup(p.Close)

	to := newTables().players
	r, err := natsfeed.Follow(within(t), s, "league", fail(t), natsfeed.Rows(to, natsfeed.Version(2, map[int]func([]byte, *player) error{
		1: func(data []byte, p *player) error {
			var old oldPlayer
			err := json.Unmarshal(data, &old)
			*p = player{old.Name, old.Nickname, 7}
			return err
		},
	})))
	require.NoError(t, err)
	t.Cleanup(r.Close)
	_, err = players.Insert(oldPlayer{"Bob", "Bobby"})
	require.NoError(t, err)
	_, err = players.Update("Ann", func(p *oldPlayer) { p.Nickname = "Annie" })
	require.NoError(t, err)
	require.NoError(t, r.Wait(within(t), players.Position()))
	want := newTables().players
	for _, row := range []player{{"Ann", "Annie", 7}, {"Bob", "Bobby", 7}} {
		_, err = want.Insert(row)
		require.NoError(t, err)
	}
	equalRows(t, want, to)
	_, err = players.Delete("Ann")
	require.NoError(t, err)
	_, err = want.Delete("Ann")
	require.NoError(t, err)
	require.NoError(t, r.Wait(within(t), players.Position()))
	equalRows(t, want, to)

	other := newTables().players
	for _, version := range []int{0, 2} {
		_, err := natsfeed.Follow(within(t), s, "league", natsfeed.Rows(other, natsfeed.Version[player](version, nil)))
		require.ErrorContains(t, err, `table "players": a row has the version 1, for which there is no function`)
		require.Zero(t, other.Len())
	}
}

// Rows of a version that comes later are reported, too.
func TestAMessageOfAnUnknownVersion(t *testing.T) {
	s := start(t)
	from, to := newTables(), newTables()
	p, err := natsfeed.Publish(within(t), s, "league", natsfeed.Rows(from.players, natsfeed.Version[player](1, nil)), fail(t))
	require.NoError(t, err)
	t.Cleanup(p.Close)
	onError, errs := collect()
	r, err := natsfeed.Follow(within(t), s, "league", natsfeed.Rows(to.players), onError)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	_, err = from.players.Insert(player{"Ann", "red", 1})
	require.NoError(t, err)
	await(t, errs, `table "players": change 1: a row has the version 1, for which there is no function`)
	require.Zero(t, to.players.Len())
	require.Zero(t, to.players.Seq())
}

func TestOptionsThatAreRefused(t *testing.T) {
	s := start(t)
	from := newTables()
	channels := changefeed.NewTable("channels", func(c *struct {
		ID int
		C  chan int
	},
	) int {
		return c.ID
	})
	older := map[int]func([]byte, *player) error{1: decodeJSON}
	for text, opts := range map[string][]natsfeed.Option{
		"no tables":                               nil,
		`table "players": passed twice`:           {natsfeed.Rows(from.players), natsfeed.Rows(newTables().players)},
		`table "channels": rows of type `:         {natsfeed.Rows(channels)},
		`table "players": nil function`:           {natsfeed.Rows(from.players, natsfeed.Encoding[player](nil, decodeJSON))},
		`table "players": negative`:               {natsfeed.Rows(from.players, natsfeed.Version[player](-1, nil))},
		`table "players": rows of Version 1 with`: {natsfeed.Rows(from.players, natsfeed.Version(1, older))},
	} {
		_, err := natsfeed.Publish(within(t), s, "league", opts...)
		require.ErrorContains(t, err, `natsfeed: publish "league": `+text)
		_, err = natsfeed.Follow(within(t), s, "league", opts...)
		require.ErrorContains(t, err, `natsfeed: follow "league": `+text)
	}
	for _, name := range []string{"", "a.b", "a b", "*", ">", "ä", "a/b", strings.Repeat("x", 65)} {
		_, err := natsfeed.Publish(within(t), s, name, from.options()...)
		require.ErrorContains(t, err, "a name has letters")
		_, err = natsfeed.Follow(within(t), s, name, from.options()...)
		require.ErrorContains(t, err, "a name has letters")
	}
	p, err := natsfeed.Publish(within(t), s, strings.Repeat("x", 64), from.options(fail(t))...)
	require.NoError(t, err)
	p.Close()
}

// The publisher and its replicas must pass the same tables.
func TestOtherTables(t *testing.T) {
	s := start(t)
	from, to := newTables(), newTables()
	extra := changefeed.NewTable("extra", func(g *game) int { return g.ID })
	p := publish(t, s, from, fail(t))
	_, err := to.games.Insert(game{1, "Bob"})
	require.NoError(t, err)

	_, err = natsfeed.Follow(within(t), s, "league", natsfeed.Rows(to.games))
	require.ErrorContains(t, err, `table "players": it is published, but was not passed to Follow`)
	_, err = natsfeed.Follow(within(t), s, "league", to.options(natsfeed.Rows(extra))...)
	require.ErrorContains(t, err, `table "extra": it is not published`)
	require.Equal(t, 1, to.games.Len()) // neither changed it

	onError, errs := collect()
	_, r := follow(t, s, onError)
	_, err = from.players.Insert(player{"Ann", "red", 1})
	require.NoError(t, err)
	require.NoError(t, p.Wait(within(t), from.positions()...))
	require.NoError(t, r.Wait(within(t), from.positions()...))
	p.Close()
	_, err = natsfeed.Publish(within(t), s, "league", natsfeed.Rows(from.games))
	require.ErrorIs(t, err, natsfeed.ErrPublished)
	require.ErrorContains(t, err, `table "players"`)

	// A table that comes later is one that the replicas before it do not know.
	publish(t, s, from, natsfeed.Rows(extra), fail(t))
	await(t, errs, `table "extra": it is published, but was not passed to Follow`)
}

// Follow waits for the first publisher.
func TestFollowBeforePublish(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	to := newTables()
	_, err := natsfeed.Follow(ctx, s, "league", to.options()...)
	require.ErrorIs(t, err, context.Canceled)

	from, followed := newTables(), make(chan error)
	go func() {
		r, err := natsfeed.Follow(within(t), s, "league", to.options()...)
		if err == nil {
			t.Cleanup(r.Close)
			err = r.Wait(within(t), from.positions()...)
		}
		followed <- err
	}()
	publish(t, s, from, fail(t))
	require.NoError(t, <-followed)
}

// A message that looks like that of another publisher fences the publisher, even if it makes no sense.
// Replicas report it and stay as they are.
func TestADamagedMessage(t *testing.T) {
	t.Parallel()
	var term string // of the log
	message := func(kind byte, data ...string) []byte {
		return []byte("cf\x01" + string(rune(kind)) + term + "number 9somebody" + strings.Join(data, ""))
	}
	commit := func(table string, of changefeed.HistoryID, changes string) []byte {
		return message(5, "\x01", string(rune(len(table))), table, "\x00", string(of[:]), changes)
	}
	for name, test := range map[string]struct {
		message func(from tables) []byte
		text    string
	}{
		"another format":                 {func(tables) []byte { return []byte("cf\x09" + string(message(5)[3:])) }, "is damaged: the format has version 9"},
		"an unknown kind":                {func(tables) []byte { return message(9) }, "is damaged: it is of an unknown kind 9"},
		"a begin message without tables": {func(tables) []byte { return message(1, "[]") }, "is damaged: json"},
		"a table without a lineage":      {func(tables) []byte { return message(1, `{"games":[]}`) }, `is damaged: table "games" has no lineage`},
		"a name that is too long":        {func(tables) []byte { return message(5, "\x01\xc8games") }, "is damaged: too short"},
		"a commit with too many changes": {func(from tables) []byte {
			return commit("games", from.games.At(0).History, "\x02\xff\xff\xff\xff\x0f")
		}, "is damaged: too short"},
		"a change of an unknown kind": {func(from tables) []byte {
			return commit("games", from.games.At(0).History, "\x02\x01\x09\x08{\"ID\":1}")
		}, "must be an insert, update or delete"},
		"a row that is cut off": {func(from tables) []byte {
			return commit("games", from.games.At(0).History, "\x02\x01\x01\x07{\"ID\":1")
		}, `table "games": change 2: a row cannot be decoded`},
		"an update without a row": {func(from tables) []byte {
			return commit("games", from.games.At(0).History, "\x02\x01\x02\x08{\"ID\":5}")
		}, "there is no row of change 2"},
		"a gap": {func(from tables) []byte {
			return commit("games", from.games.At(0).History, "\x03\x01\x01\x08{\"ID\":5}")
		}, changefeed.ErrGap.Error()},
		"another history": {func(tables) []byte {
			return commit("games", changefeed.HistoryID{1}, "\x02\x01\x01\x08{\"ID\":5}")
		}, changefeed.ErrOtherHistory.Error()},
		"another table": {func(from tables) []byte {
			return commit("other", from.games.At(0).History, "\x02\x01\x01\x08{\"ID\":5}")
		}, `table "other": it is published, but was not passed to Follow`},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			from := newTables()
			onError, errs := collect()
			p := publish(t, s, from, onError)
			onReplicaError, replicaErrs := collect()
			to, r := follow(t, s, onReplicaError)
			_, err := from.games.Insert(game{1, "Ann"})
			require.NoError(t, err)
			same(t, r, from, to)

			log, err := s.Stream(within(t), "changefeed_league")
			require.NoError(t, err)
			last, err := log.GetLastMsgForSubject(within(t), "changefeed.league")
			require.NoError(t, err)
			term = string(last.Data[4:12])
			_, err = s.Publish(within(t), "changefeed.league", test.message(from))
			require.NoError(t, err)
			before := to.positions()
			err = await(t, replicaErrs, `follow "league"`, test.text)
			if errors.Is(err, changefeed.ErrOtherHistory) || errors.Is(err, changefeed.ErrGap) || errors.Is(err, changefeed.ErrDiverged) {
				await(t, replicaErrs, `follow "league"`, test.text) // it has begun anew with a snapshot, and has come to the message again
			}
			_, err = from.games.Insert(game{2, "Bob"})
			require.NoError(t, err)
			require.ErrorIs(t, p.Wait(within(t), from.positions()...), natsfeed.ErrFenced)
			await(t, errs, natsfeed.ErrFenced.Error())
			require.NoError(t, r.Wait(within(t), before...))
			require.Equal(t, before, to.positions())
			require.Equal(t, 1, to.games.Len())
		})
	}
}

// A message of another program is passed over, and reported.
func TestAForeignMessage(t *testing.T) {
	for _, foreign := range []string{"", "cf", "hello", strings.Repeat("hello ", 10)} {
		s := start(t)
		from := newTables()
		onError, errs := collect()
		p := publish(t, s, from, onError)
		onReplicaError, replicaErrs := collect()
		to, r := follow(t, s, onReplicaError)
		for id := range 3 {
			_, err := s.Publish(within(t), "changefeed.league", []byte(foreign))
			require.NoError(t, err)
			_, err = from.games.Insert(game{ID: id})
			require.NoError(t, err)
			require.NoError(t, p.Wait(within(t), from.positions()...))
			await(t, errs, "not of a publisher")
			await(t, replicaErrs, "not of a publisher")
			same(t, r, from, to)
		}
		_, err := s.Publish(within(t), "changefeed.league", []byte(foreign))
		require.NoError(t, err)
		promoted, err := r.Promote(within(t))
		require.NoError(t, err)
		t.Cleanup(promoted.Close)
		require.NoError(t, promoted.Wait(within(t), to.positions()...))
	}
}
