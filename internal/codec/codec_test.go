package codec

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

type row struct{ Name string }

func TestJSON(t *testing.T) {
	c := JSON[row]()
	require.NoError(t, c.Check())
	data, err := c.Encoded(&row{"Bob"})
	require.NoError(t, err)
	require.JSONEq(t, `{"Name":"Bob"}`, string(data))
	got, err := c.Decoded(0, data)
	require.NoError(t, err)
	require.Equal(t, row{"Bob"}, got)
	_, err = c.Decoded(0, []byte("{"))
	require.Error(t, err)
	never := JSON[chan int]()
	require.ErrorContains(t, never.Check(), "chan int")
}

func TestVersions(t *testing.T) {
	c := JSON[row]()
	c.Version = 2
	c.Older = map[int]func(data []byte, r *row) error{1: func(data []byte, r *row) error {
		r.Name = string(data)
		return nil
	}}
	require.NoError(t, c.Check())
	require.True(t, c.Decodes(2))
	require.True(t, c.Decodes(1))
	require.False(t, c.Decodes(0))
	got, err := c.Decoded(1, []byte("Ann"))
	require.NoError(t, err)
	require.Equal(t, row{"Ann"}, got)
	for _, version := range []int{-1, 2, 3} {
		c.Older = map[int]func(data []byte, r *row) error{version: c.Older[1]}
		require.Error(t, c.Check())
	}
	c.Older, c.Version = nil, -1
	require.ErrorContains(t, c.Check(), "negative")
	c.Encode = nil
	require.ErrorContains(t, c.Check(), "nil function")
}

// A codec of the user's may panic, and encode a row as nothing.
func TestACodecOfTheUsers(t *testing.T) {
	c := Codec[row]{
		Encode: func(r *row) ([]byte, error) {
			if r.Name == "bad" {
				panic("oops")
			}
			return nil, nil
		},
		Decode: func([]byte, *row) error { panic(errors.New("oops")) },
	}
	require.NoError(t, c.Check())
	data, err := c.Encoded(&row{"Bob"})
	require.NoError(t, err)
	require.NotNil(t, data)
	_, err = c.Encoded(&row{"bad"})
	require.ErrorContains(t, err, "panic: oops")
	_, err = c.Decoded(0, nil)
	require.ErrorContains(t, err, "panic: oops")
}
