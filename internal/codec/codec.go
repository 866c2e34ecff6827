// Package codec encodes rows for the packages that store or send them. A codec of the user's may
// fail, panic, or be wrong.
package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// A Codec encodes rows of type V, and decodes rows of its own version and of earlier ones.
type Codec[V any] struct {
	// Encode and Decode are the functions of the present version. Decode does not keep data.
	Encode func(row *V) ([]byte, error)
	Decode func(data []byte, row *V) error

	// JSON reports whether they are those of encoding/json.
	JSON bool

	// Version is the number of the present version. Older has the functions of earlier ones.
	Version int
	Older   map[int]func(data []byte, row *V) error
}

// JSON returns the codec of encoding/json, with version 0.
func JSON[V any]() Codec[V] {
	return Codec[V]{
		Encode: func(row *V) ([]byte, error) { return json.Marshal(row) },
		Decode: func(data []byte, row *V) error { return json.Unmarshal(data, row) },
		JSON:   true,
	}
}

// Check returns an error for a codec that cannot work, whatever the rows are.
func (c *Codec[V]) Check() error {
	if c.Encode == nil || c.Decode == nil {
		return errors.New("nil function in Encoding")
	}
	if c.Version < 0 {
		return fmt.Errorf("negative Version %d", c.Version)
	}
	for version, decode := range c.Older {
		if version < 0 || version >= c.Version || decode == nil {
			return fmt.Errorf("rows of Version %d with a function for version %d that is nil, or not for an earlier version", c.Version, version)
		}
	}
	if c.JSON {
		_, err := c.Encoded(new(V))
		if e, ok := errors.AsType[*json.UnsupportedTypeError](err); ok {
			return fmt.Errorf("rows of type %v: %w", reflect.TypeFor[V](), e)
		}
	}
	return nil
}

// Encoded returns an encoded row, which is not nil. A panic is an error.
func (c *Codec[V]) Encoded(row *V) (data []byte, err error) {
	defer Recover(&err)
	if data, err = c.Encode(row); data == nil {
		data = []byte{}
	}
	return data, err
}

// Decodes reports whether rows of a version can be decoded.
func (c *Codec[V]) Decodes(version int) bool {
	return version == c.Version || c.Older[version] != nil
}

// Decoded returns a decoded row of a version that can be decoded. A panic is an error.
func (c *Codec[V]) Decoded(version int, data []byte) (row V, err error) {
	defer Recover(&err)
	decode := c.Decode
	if version != c.Version {
		decode = c.Older[version]
	}
	err = decode(data, &row)
	return row, err
}

// Recover makes a panic an error. It is for a function that calls functions of the user's, and is
// called by defer.
func Recover(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("panic: %v", v)
	}
}
