package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/seed-637b77f9/changefeed"
	bolt "go.etcd.io/bbolt"
)

// A change is a changefeed.Change for the file.
type change struct {
	at     changefeed.Position
	kind   changefeed.Kind
	first  bool // of its commit
	oldKey []byte
	old    []byte // the row before, when read from the file
	key    []byte
	row    []byte // the row after, as stored without its checksum
}

// appendRecord appends a change to a block. A record has the kind, whether the change is the first
// one of its commit, the key of the row, the row before and the row after. The last three are
// preceded by their lengths, plus one if there is one.
func appendRecord(block []byte, c *change) []byte {
	flags := byte(c.kind) << 1
	if c.first {
		flags |= 1
	}
	key := c.key
	if key == nil {
		key = c.oldKey
	}
	block = append(block, flags)
	for _, part := range [...][]byte{key, c.old, c.row} {
		if part == nil {
			block = append(block, 0)
			continue
		}
		block = binary.AppendUvarint(block, uint64(len(part))+1)
		block = append(block, part...)
	}
	return block
}

// parse reads the first record of a block that is not empty, and returns the rest of it. It does
// not fail for one that appendRecord has returned.
func (c *change) parse(block []byte) (rest []byte, err error) {
	c.kind, c.first = changefeed.Kind(block[0]>>1), block[0]&1 == 1
	rest = block[1:]
	for _, part := range []*[]byte{&c.key, &c.old, &c.row} {
		length, n := binary.Uvarint(rest)
		if n <= 0 || length > uint64(len(rest)-n)+1 {
			return nil, errors.New("too short")
		}
		rest = rest[n:]
		if length > 0 {
			*part = rest[: length-1 : length-1]
			rest = rest[length-1:]
		}
	}
	return rest, nil
}

func blockKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// A tableWriter writes to the buckets of a table, in one transaction of the file.
type tableWriter struct {
	*member
	rows, newest *bolt.Bucket
	find         *bolt.Cursor // in rows

	block    []byte // changes that are kept, for putBlock
	blockKey []byte
}

// maxBlock is the size in bytes from which a block is written while more changes follow.
const maxBlock = 64 << 10

func newTableWriter(file *bolt.Tx, m *member) (w *tableWriter, err error) {
	w = &tableWriter{member: m}
	if w.rows, err = file.CreateBucketIfNotExists(m.rowsName); err != nil {
		return nil, err
	}
	w.find = w.rows.Cursor()
	w.newest, err = file.CreateBucketIfNotExists(m.newestName)
	return w, err
}

// row returns a stored row, or nil.
func (w *tableWriter) row(key []byte) ([]byte, error) {
	found, data := w.find.Seek(key)
	if !slices.Equal(found, key) {
		return nil, nil
	}
	return unchecked(w.rowsName, key, data)
}

func (w *tableWriter) putRow(key, row []byte) error {
	return w.rows.Put(key, checked(w.rowsName, key, row))
}

// keep adds a change to the block.
func (w *tableWriter) keep(c *change) error {
	if len(w.block) == 0 {
		w.blockKey = blockKey(c.at.Seq)
	}
	w.block = appendRecord(w.block, c)
	if len(w.block) < maxBlock {
		return nil
	}
	return w.putBlock()
}

// putBlock writes the block.
func (w *tableWriter) putBlock() error {
	if len(w.block) == 0 {
		return nil
	}
	block := checked(w.newestName, w.blockKey, w.block)
	w.block = nil // the other one is in use until the end of the transaction
	return w.newest.Put(w.blockKey, block)
}

// deleteNewest deletes the blocks whose changes are all older than the one numbered seq.
func (w *tableWriter) deleteNewest(seq uint64) error {
	var old [][]byte
	c := w.newest.Cursor()
	for key, _ := c.First(); key != nil; {
		next, _ := c.Next()
		if next == nil || binary.BigEndian.Uint64(next) > seq {
			break
		}
		old = append(old, key)
		key = next
	}
	for _, key := range old {
		if err := w.newest.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// newestCommits yields the commits in the blocks of a table, up to the change numbered last. A
// commit whose beginning is not there any more is left out. It ends at a block that is damaged, and
// sets err.
func (f *file) newestCommits(tx *bolt.Tx, bucket []byte, last uint64, err *error) iter.Seq[[]change] {
	return func(yield func([]change) bool) {
		var commit []change
		next := uint64(0) // the number of the next change, or 0 before the first
		for key, block := range f.checkedIn(tx, bucket, err) {
			if len(key) != 8 || next > 0 && binary.BigEndian.Uint64(key) != next {
				*err = fmt.Errorf("%w: a block in %q has the key %x", ErrDamaged, bucket, key)
				return
			}
			for next = binary.BigEndian.Uint64(key); len(block) > 0; next++ {
				c := change{at: changefeed.Position{Seq: next}}
				var e error
				if block, e = c.parse(block); e != nil {
					*err = fmt.Errorf("%w: the change %d in %q is %w", ErrDamaged, next, bucket, e)
					return
				}
				if c.first && len(commit) > 0 {
					if !yield(commit) {
						return
					}
					commit = nil
				}
				if c.first || len(commit) > 0 {
					commit = append(commit, c)
				}
			}
		}
		if *err == nil && next > 0 && next != last+1 {
			*err = fmt.Errorf("%w: the last change in %q is %d, not %d", ErrDamaged, bucket, next-1, last)
		}
		if len(commit) > 0 && *err == nil {
			yield(commit)
		}
	}
}
