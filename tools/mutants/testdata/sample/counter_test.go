package sample

import (
	"errors"
	"testing"
)

func TestAdd(t *testing.T) {
	c := Counter[int]{max: 2}
	for range 2 {
		if err := c.Add(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Add(); !errors.Is(err, ErrFull) || c.n != 2 {
		t.Fatal(err, c.n)
	}
}

func TestReset(t *testing.T) {
	c := Counter[int]{n: 2}
	c.Reset()
	if c.n != 0 {
		t.Fatal(c.n)
	}
}

func TestAddAll(t *testing.T) {
	var c Counter[int]
	c.AddAll(1, 2)
	if c.n != 3 {
		t.Fatal(c.n)
	}
}

func TestMax(t *testing.T) {
	if Max(1, 2) != 2 {
		t.Fatal()
	}
}
