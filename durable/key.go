package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
)

// The first byte of a stored key says how the others are to be read. Keys with one first byte
// are in the order of the table.
const (
	intKey    = 'i' // 8 bytes, the most significant first, the sign bit inverted
	uintKey   = 'u' // 8 bytes, the most significant first
	floatKey  = 'f' // the same for the bits of a float64, of negative ones all bits inverted
	stringKey = 's' // the bytes
	textKey   = 't' // the text of an encoding.TextMarshaler
	jsonKey   = 'j' // JSON
)

// maxKey is the length of a text from which only its beginning and a hash of it are stored. bbolt
// refuses keys of more than 32 KiB. The rows have the whole key.
const maxKey = 1024

// keyEncoder returns a function that encodes keys of type K. No two keys have the same
// encoding. It returns an error for a type of which that cannot be said.
func keyEncoder[K any]() (func(key K) ([]byte, error), error) {
	t := reflect.TypeFor[K]()
	if _, ok := any(*new(K)).(encoding.TextMarshaler); ok && t.Kind() != reflect.Interface {
		return func(key K) ([]byte, error) {
			text, err := any(key).(encoding.TextMarshaler).MarshalText()
			return shortened(textKey, string(text)), err
		}, nil
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(key K) ([]byte, error) {
			return ordered(intKey, uint64(reflect.ValueOf(key).Int())^1<<63), nil
		}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return func(key K) ([]byte, error) { return ordered(uintKey, reflect.ValueOf(key).Uint()), nil }, nil
	case reflect.Float32, reflect.Float64:
		return func(key K) ([]byte, error) {
			return ordered(floatKey, floatBits(reflect.ValueOf(key).Float())), nil
		}, nil
	case reflect.String:
		return func(key K) ([]byte, error) { return shortened(stringKey, reflect.ValueOf(key).String()), nil }, nil
	case reflect.Bool:
		return func(key K) ([]byte, error) {
			return ordered(uintKey, map[bool]uint64{true: 1}[reflect.ValueOf(key).Bool()]), nil
		}, nil
	}
	if !isPlain(t) {
		return nil, fmt.Errorf("keys of type %v cannot be stored: use integers, floats, strings, bools, an encoding.TextMarshaler, or arrays of these, or structs of these whose fields are exported and not embedded", t)
	}
	return func(key K) ([]byte, error) {
		text, err := json.Marshal(key)
		if err == nil && hasReplacement(text) {
			err = errNotUTF8
		}
		return shortened(jsonKey, string(text)), err
	}, nil
}

// isPlain reports whether the JSON of a value of type t has all of the value.
func isPlain(t reflect.Type) bool {
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return t.Kind() != reflect.Interface
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return !t.Implements(reflect.TypeFor[json.Marshaler]())
	case reflect.Array:
		return isPlain(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !f.IsExported() || f.Anonymous || f.Tag.Get("json") != "" || !isPlain(f.Type) {
				return false
			}
		}
		return !t.Implements(reflect.TypeFor[json.Marshaler]())
	}
	return false
}

var errNotUTF8 = errors.New("a string is not UTF-8, so JSON would make it another one")

// hasReplacement reports whether encoding/json has replaced a part of a string that is not UTF-8.
func hasReplacement(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' {
			if bytes.HasPrefix(text[i:], []byte(`\ufffd`)) {
				return true
			}
			i++ // what is escaped
		}
	}
	return false
}

func ordered(kind byte, bits uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 9), kind), bits)
}

// floatBits returns bits in the order of [cmp.Compare]. All NaN are one key, the lowest, and 0
// and -0 are one.
func floatBits(f float64) uint64 {
	switch bits := math.Float64bits(f); {
	case f != f:
		return 0
	case f == 0:
		return 1 << 63
	case f < 0:
		return ^bits
	default:
		return bits | 1<<63
	}
}

// shortened returns a key with a text.
func shortened(kind byte, text string) []byte {
	if len(text) <= maxKey {
		return append([]byte{kind}, text...)
	}
	sum := sha256.Sum256([]byte(text))
	return append(append([]byte{kind}, text[:maxKey]...), sum[:]...)
}

// keyText returns a stored key for an error's text.
func keyText(key []byte) string {
	if len(key) == 0 {
		return `""`
	}
	switch kind, rest := key[0], key[1:]; {
	case kind == intKey && len(rest) == 8:
		return fmt.Sprint(int64(binary.BigEndian.Uint64(rest) ^ 1<<63))
	case kind == uintKey && len(rest) == 8:
		return fmt.Sprint(binary.BigEndian.Uint64(rest))
	case kind == floatKey && len(rest) == 8:
		bits := binary.BigEndian.Uint64(rest)
		if bits == 0 {
			return "NaN"
		}
		if bits>>63 == 0 {
			return fmt.Sprint(math.Float64frombits(^bits))
		}
		return fmt.Sprint(math.Float64frombits(bits &^ (1 << 63)))
	case kind == jsonKey:
		return string(rest)
	default:
		return fmt.Sprintf("%q", rest)
	}
}
