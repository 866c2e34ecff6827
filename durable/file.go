package durable

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/seed-637b77f9/changefeed"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// A file is a bbolt file with these buckets:
//
//	changefeed     "store": a storeMeta
//	tables         for each table its name: a tableMeta
//	rows:NAME      for each row of a table its key: the row, checked
//	newest:NAME    for the newest changes, in blocks, the number of a block's first one: the
//	               records of the block's changes, checked
//
// The metas are JSON, checked. What is checked ends with a checksum of the bucket's name, the
// key and the value.
type file struct {
	db   *bolt.DB
	user bool // code of the user's runs, so that a panic does not come from the file
}

const format = "changefeed durable 1"

var (
	storeBucket = []byte("changefeed")
	storeKey    = []byte("store")
	tableBucket = []byte("tables")
)

func rowsBucket(table string) []byte   { return []byte("rows:" + table) }
func newestBucket(table string) []byte { return []byte("newest:" + table) }

type storeMeta struct {
	Format string   `json:"format"`
	Clean  bool     `json:"clean"`  // the store was closed, and nobody has opened it since
	Tables []string `json:"tables"` // the names in the bucket tables
	Store  string   `json:"store"`  // of the store that has opened it last, a name of its own
}

type tableMeta struct {
	Version int                   `json:"version"` // of the rows
	Rows    int                   `json:"rows"`    // their number
	Lineage []changefeed.Position `json:"lineage"` // the last one is the position of the rows
}

// at returns the position of the rows.
func (m *tableMeta) at() changefeed.Position { return m.Lineage[len(m.Lineage)-1] }

func (m tableMeta) clone() tableMeta {
	m.Lineage = slices.Clone(m.Lineage)
	return m
}

// lockTimeout is for how long Open waits for another store to unlock the file.
const lockTimeout = time.Second

// openFile opens the file, or makes it if create is true.
func openFile(path string, create bool) (*file, error) {
	f := new(file)
	err := f.guard(func() (err error) { // a panic leaves the file locked
		f.db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
				if !create {
					flag &^= os.O_CREATE
				}
				return os.OpenFile(name, flag, perm)
			},
		})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	case errors.Is(err, bolterrors.ErrChecksum), err != nil && strings.HasPrefix(err.Error(), "file size too small"): // bbolt has no name for it
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return nil, err
	}
	return f, nil
}

// guard calls a function that reads the file. bbolt panics, or reads outside of the file, if
// pages are damaged. guard returns that as an error, and a panic of the user's code as another
// one.
func (f *file) guard(read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch v := recover(); {
		case v == nil:
		case f.user:
			err = fmt.Errorf("panic: %v", v)
		default:
			err = fmt.Errorf("%w: a page cannot be read: %v", ErrDamaged, v)
		}
	}()
	return read()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(bucket, key, value []byte) uint32 {
	sum := crc32.Update(0, castagnoli, bucket)
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, value)
}

const checksumSize = 4

// checked appends the checksum to the value of a key.
func checked(bucket, key, value []byte) []byte {
	return binary.LittleEndian.AppendUint32(value, checksum(bucket, key, value))
}

// unchecked returns the value that checked was called with.
func unchecked(bucket, key, data []byte) ([]byte, error) {
	n := len(data) - checksumSize
	if n < 0 || binary.LittleEndian.Uint32(data[n:]) != checksum(bucket, key, data[:n]) {
		return nil, fmt.Errorf("%w: the checksum of key %s in %q is wrong", ErrDamaged, keyText(key), bucket)
	}
	return data[:n:n], nil
}

// checkedIn yields the values in a bucket, without their checksums, to code of the user's. It ends
// at a wrong checksum, and sets err.
func (f *file) checkedIn(tx *bolt.Tx, bucket []byte, err *error) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		f.user = false
		b := tx.Bucket(bucket)
		if b == nil {
			*err = fmt.Errorf("%w: %q is not there", ErrDamaged, bucket)
			return
		}
		c := b.Cursor()
		var before []byte
		for key, data := c.First(); key != nil; key, data = c.Next() {
			value, e := unchecked(bucket, key, data)
			if e == nil && before != nil && bytes.Compare(before, key) >= 0 {
				e = fmt.Errorf("%w: key %s in %q comes after key %s", ErrDamaged, keyText(key), bucket, keyText(before))
			}
			before = key
			if e != nil {
				*err = e
				return
			}
			f.user = true
			if !yield(key, value) {
				return
			}
			f.user = false
		}
		f.user = true
	}
}

// putMeta stores a meta.
func putMeta(tx *bolt.Tx, bucket, key []byte, meta any) error {
	b, err := tx.CreateBucketIfNotExists(bucket)
	if err != nil {
		return err
	}
	data, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	return b.Put(key, checked(bucket, key, data))
}

// getMeta reads a meta. It returns false if there is none.
func getMeta(tx *bolt.Tx, bucket, key []byte, meta any) (ok bool, err error) {
	b := tx.Bucket(bucket)
	if b == nil {
		return false, nil
	}
	data := b.Get(key)
	if data == nil {
		return false, nil
	}
	if data, err = unchecked(bucket, key, data); err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, meta); err != nil {
		return false, fmt.Errorf("%w: %q in %q: %w", ErrDamaged, key, bucket, err)
	}
	return true, nil
}
