package natsfeed

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/seed-637b77f9/changefeed"
)

// A message of the log begins with a header: two letters, the version of the format, the kind, the term,
// the number among the messages of its publisher, and the publisher's ID. So a publisher knows its own
// messages. The kind says what follows.
type header struct {
	kind      messageKind
	term      uint64
	number    uint64
	publisher randomID
}

type messageKind byte

const (
	// These have the lineages of all tables, as JSON. A term begins with one of them. A namesMessage
	// comes when histories have got names. A gapMessage comes when the tables are not where the
	// messages before it lead to, so replicas need a snapshot. A closeMessage comes when there is the
	// snapshot for the last gapMessage.
	namesMessage messageKind = iota + 1
	gapMessage
	closeMessage

	// Some partMessages come before a message that is too large. They have its first parts.
	partMessage

	// A commitMessage has commits.
	commitMessage

	// A fenceMessage is empty, and has the term 0. After it, JetStream refuses the messages of earlier
	// publishers.
	fenceMessage

	// An unknownKind is that of a message in another version of the format.
	unknownKind messageKind = 255
)

// A randomID is the name of a publisher, or of an attempt to make a snapshot.
type randomID [8]byte

func newRandomID() (id randomID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

const (
	letters       = "cf"
	formatVersion = 1
	headerSize    = len(letters) + 1 + 1 + 8 + 8 + len(randomID{})
)

// errForeign says that a message is not one of this package. Everybody passes over it.
var errForeign = errors.New("a message that is not of a publisher")

func (h *header) append(to []byte) []byte {
	to = append(append(to, letters...), formatVersion, byte(h.kind))
	to = binary.BigEndian.AppendUint64(to, h.term)
	to = binary.BigEndian.AppendUint64(to, h.number)
	return append(to, h.publisher[:]...)
}

// parse reads the header of a message, and returns the rest.
func (h *header) parse(message []byte) (rest []byte, err error) {
	rest, ok := bytes.CutPrefix(message, []byte(letters))
	if len(message) < headerSize || !ok {
		return nil, errForeign
	}
	if rest[0] != formatVersion {
		return nil, fmt.Errorf("the format has version %d, and not %d", rest[0], formatVersion)
	}
	h.kind = messageKind(rest[1])
	h.term = binary.BigEndian.Uint64(rest[2:])
	h.number = binary.BigEndian.Uint64(rest[10:])
	copy(h.publisher[:], rest[18:])
	return message[headerSize:], nil
}

// A place is one in the log: the message with a sequence number, in a term. JetStream may lose messages
// that it has acknowledged, for example if the power fails. The publisher then begins the next term.
// So a sequence number that is used again has a later place. Each publisher has terms of its own.
type place struct{ term, sequence uint64 }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.term, q.term), cmp.Compare(p.sequence, q.sequence))
}

// A commit is parts, in the order in which the changes were made. A part has the changes of one table
// between those of others. It begins with the table's name, the version of the rows, the history, and
// the number of its first change.
type commit []part

// A part is some changes of one table, which have consecutive numbers.
type part struct {
	table   string
	version int
	history changefeed.HistoryID
	first   uint64 // the Seq of the first change
	changes []encodedChange
}

// An encodedChange has an encoded row: the one after an insert or an update, and the one before a delete. An
// update does not change the key, so the row before it is that of the replica.
type encodedChange struct {
	kind changefeed.Kind
	row  []byte
}

func (p *part) last() uint64 { return p.first + uint64(len(p.changes)) - 1 }

// with returns the commit with one more change. The parts behind c's end are used again.
func (c commit) with(table string, version int, at changefeed.Position, change encodedChange) commit {
	if n := len(c); n == 0 || c[n-1].table != table || c[n-1].history != at.History || c[n-1].last()+1 != at.Seq {
		var changes []encodedChange
		if n < cap(c) {
			changes = c[:n+1][n].changes[:0]
		}
		c = append(c, part{table, version, at.History, at.Seq, changes})
	}
	p := &c[len(c)-1]
	p.changes = append(p.changes, change)
	return c
}

// append appends the number of parts, and the parts.
func (c commit) append(to []byte) []byte {
	to = binary.AppendUvarint(to, uint64(len(c)))
	for i := range c {
		p := &c[i]
		to = appendBytes(to, []byte(p.table))
		to = binary.AppendUvarint(to, uint64(p.version))
		to = append(to, p.history[:]...)
		to = binary.AppendUvarint(to, p.first)
		to = binary.AppendUvarint(to, uint64(len(p.changes)))
		for _, c := range p.changes {
			to = append(to, byte(c.kind))
			to = appendBytes(to, c.row)
		}
	}
	return to
}

func parseCommits(data []byte) (commits []commit, err error) {
	r := reader{data: data}
	for len(r.data) > 0 && !r.short {
		c := make(commit, r.count())
		for i := range c {
			p := &c[i]
			p.table, p.version = string(r.bytes()), int(r.uvarint())
			copy(p.history[:], r.next(uint64(len(p.history))))
			p.first = r.uvarint()
			p.changes = make([]encodedChange, r.count())
			for i := range p.changes {
				p.changes[i] = encodedChange{changefeed.Kind(r.byte()), r.bytes()}
			}
			if len(p.changes) == 0 {
				r.short = true // a part has a change
			}
		}
		commits = append(commits, c)
	}
	if r.short {
		return nil, errors.New("too short")
	}
	return commits, nil
}

func appendBytes(to, data []byte) []byte {
	return append(binary.AppendUvarint(to, uint64(len(data))), data...)
}

// A reader reads what the append functions have written. After the first read that finds too little,
// short is true, and all reads return zero.
type reader struct {
	data  []byte
	short bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if r.short || n <= 0 {
		r.short = true
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) next(n uint64) []byte {
	if r.short || n > uint64(len(r.data)) {
		r.short = true
		return nil
	}
	data := r.data[:n:n]
	r.data = r.data[n:]
	return data
}

func (r *reader) bytes() []byte { return r.next(r.uvarint()) }

func (r *reader) byte() byte {
	if b := r.next(1); len(b) > 0 {
		return b[0]
	}
	return 0
}

// count reads the number of things that follow, each of which has at least a byte.
func (r *reader) count() uint64 {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.short = true
		return 0
	}
	return n
}

// A decoder decodes the messages of a log, in order.
type decoder struct {
	parts []byte // of a message whose last part is to come
	from  randomID
	term  uint64
}

// An entry is what a message has: lineages, commits, or neither. They refer to the message.
type entry struct {
	header
	lineages lineages
	commits  []commit
}

func (d *decoder) decode(message []byte) (e entry, err error) {
	data, err := e.parse(message)
	if err != nil {
		return e, err
	}
	if e.publisher != d.from || e.term != d.term {
		d.from, d.term, d.parts = e.publisher, e.term, nil // the last part of an earlier message never comes
	}
	if e.kind == partMessage {
		d.parts = append(d.parts, data...)
		return e, nil
	}
	if len(d.parts) > 0 {
		data = append(d.parts, data...)
		d.parts = nil
	}
	switch e.kind {
	case namesMessage, gapMessage, closeMessage:
		e.lineages, err = parseLineages(data)
	case commitMessage:
		e.commits, err = parseCommits(data)
	case fenceMessage:
	default:
		err = fmt.Errorf("it is of an unknown kind %d", e.kind)
	}
	return e, err
}
