// Package linearizability checks with porcupine that all reads and writes of tables appear to
// happen one after the other, each at some time from its call to its return. It is a module of
// its own, so that the library does not depend on porcupine.
package linearizability

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
)

// keys is the number of rows. Half of them are in each of two tables.
const keys = 4

// A state is the values of the rows; 0 is no row.
type state [keys]int

type row struct{ Key, Value int }

type operation string

const (
	get      operation = "get"
	upsert   operation = "upsert"
	remove   operation = "delete"
	transact operation = "transact"
	rollBack operation = "roll back"
	read     operation = "read" // both tables in Read
	scan     operation = "scan" // one table by All
)

type input struct {
	operation
	key int
	to  state // what a write makes of the rows; -1: as it is
}

// An output is what a read returned, or whether a delete found the row.
type output struct {
	state
	found bool
}

// model says what an operation does to a state, and whether its output is right.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(before, in, out any) (bool, any) {
		s, i, o := before.(state), in.(input), out.(output)
		switch i.operation {
		case get:
			return o.state[i.key] == s[i.key], s
		case scan:
			half := i.key / 2 * 2
			return o.state[half] == s[half] && o.state[half+1] == s[half+1], s
		case read:
			return o.state == s, s
		case remove:
			if o.found != (s[i.key] != 0) {
				return false, s
			}
		case rollBack:
			return true, s
		}
		for key, value := range i.to {
			if value >= 0 {
				s[key] = value
			}
		}
		return true, s
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %+v", in, out) },
}

var errRollBack = errors.New("roll back")

// A system is two tables that hold the rows.
type system [2]*changefeed.Table[int, row]

func newSystem() (s system) {
	for i := range s {
		s[i] = changefeed.NewTable("rows", func(r *row) int { return r.Key })
	}
	return s
}

func (s system) of(key int) *changefeed.Table[int, row] { return s[key/2] }

// do makes an operation.
func (s system) do(in input) (out output) {
	switch in.operation {
	case get:
		r, _ := s.of(in.key).Get(in.key)
		out.state[in.key] = r.Value
	case scan:
		for key, r := range s.of(in.key).All() {
			out.state[key] = r.Value
			runtime.Gosched()
		}
	case read:
		_ = changefeed.Read(func(tx *changefeed.Tx) error {
			for key := range keys {
				r, _ := s.of(key).In(tx).Get(key)
				out.state[key] = r.Value
				runtime.Gosched()
			}
			return nil
		}, s[1], s[0])
	case upsert:
		_, _ = s.of(in.key).Upsert(row{in.key, in.to[in.key]})
	case remove:
		_, err := s.of(in.key).Delete(in.key)
		out.found = err == nil
	case transact, rollBack:
		_ = changefeed.Transact(func(tx *changefeed.Tx) error {
			for key, value := range in.to {
				t := s.of(key).In(tx)
				if value < 0 {
					continue
				}
				_, _ = t.Upsert(row{key, -1}) // which nobody may see
				runtime.Gosched()
				if value == 0 {
					_, _ = t.Delete(key)
				} else {
					_, _ = t.Upsert(row{key, value})
				}
			}
			if in.operation == rollBack {
				return errRollBack
			}
			return nil
		}, s[0], s[1])
	}
	return out
}

// newInput returns a random input. A write stores the value.
func newInput(r *rand.Rand, value int) input {
	operations := []operation{get, get, get, upsert, remove, transact, rollBack, read, scan}
	in := input{operations[r.IntN(len(operations))], r.IntN(keys), state{-1, -1, -1, -1}}
	switch in.operation {
	case upsert:
		in.to[in.key] = value
	case remove:
		in.to[in.key] = 0
	case transact, rollBack:
		for key := range in.to {
			in.to[key] = []int{-1, 0, value}[r.IntN(3)]
		}
	}
	return in
}

// Every history of five clients is linearizable.
func TestReadsAndWritesAreLinearizable(t *testing.T) {
	const clients, operations, histories = 5, 60, 100
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, procs := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			for n := range histories {
				s := newSystem()
				var clock, values atomic.Int64
				var wg sync.WaitGroup
				done := make([][]porcupine.Operation, clients)
				for client := range clients {
					r := rand.New(rand.NewPCG(seed, uint64(n*clients+client)))
					wg.Go(func() {
						for range operations {
							in := newInput(r, int(values.Add(1)))
							if r.IntN(2) == 0 {
								runtime.Gosched()
							}
							call := clock.Add(1)
							out := s.do(in)
							done[client] = append(done[client], porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: clock.Add(1)})
						}
					})
				}
				wg.Wait()
				var history []porcupine.Operation
				for _, d := range done {
					history = append(history, d...)
				}
				require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(model, history, time.Minute), "history %d", n)
			}
		})
	}
}

// The check can fail: a get of a row that was never written is no linearizable history.
func TestTheModelRefusesAWrongHistory(t *testing.T) {
	op := func(call int64, in input, out output) porcupine.Operation {
		return porcupine.Operation{Input: in, Call: call, Output: out, Return: call + 1}
	}
	write := op(0, input{upsert, 1, state{-1, 5, -1, -1}}, output{})
	for value, ok := range map[int]bool{5: true, 0: false, 4: false} {
		seen := op(2, input{operation: get, key: 1}, output{state: state{0, value}})
		require.Equal(t, ok, porcupine.CheckOperations(model, []porcupine.Operation{write, seen}), value)
	}
}
