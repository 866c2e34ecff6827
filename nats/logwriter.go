package natsfeed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A logWriter appends messages to the log, one at a time. JetStream takes a message only if it comes
// after the last one that the logWriter knows. So the messages from the first one on are in the log one
// after the other, with those of nobody else between them.
type logWriter struct {
	*feed
	id     randomID
	first  uint64 // its first term
	term   uint64
	number uint64 // of the last message
	last   logEnd // the end of the log, which the next message comes after
}

func newLogWriter(f *feed, id randomID, term uint64, end *logEnd) *logWriter {
	return &logWriter{feed: f, id: id, first: term, term: term, last: *end}
}

// place returns that of the last message.
func (w *logWriter) place() place { return place{w.term, w.last.sequence} }

// errLost says that the log has lost messages that JetStream had acknowledged.
var errLost = errors.New("JetStream has lost messages that it had acknowledged")

// append appends a message, or several if it is too large for one. It tries until it succeeds, or ctx
// ends. If somebody else has published, it returns ErrFenced. After errLost, the next message begins a
// term.
func (w *logWriter) append(ctx context.Context, kind messageKind, data []byte) error {
	for most := int(w.js.Conn().MaxPayload())/2 - headerSize; len(data) > most; data = data[most:] {
		if err := w.appendOne(ctx, partMessage, data[:most]); err != nil {
			return err
		}
	}
	return w.appendOne(ctx, kind, data)
}

func (w *logWriter) appendOne(ctx context.Context, kind messageKind, data []byte) error {
	h := header{kind, w.term, w.number + 1, w.id}
	message := append(h.append(make([]byte, 0, headerSize+len(data))), data...)
	began := time.Now()
	for delay := time.Duration(0); ; delay = min(2*delay+10*time.Millisecond, time.Second) {
		sequence, err := w.try(ctx, message)
		if isRefused(err) {
			sequence, err = w.find(ctx, h) // an earlier attempt may have succeeded
		}
		switch {
		case err == nil && sequence > 0:
			w.number, w.last = h.number, logEnd{sequence, h}
			return nil
		case err == nil:
			continue
		case ctx.Err() != nil || errors.Is(err, ErrFenced) || errors.Is(err, errLost):
			return err
		}
		if time.Since(began) > patience {
			w.onError(publishError(w.name, err))
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			w.reopen(ctx) // somebody may have deleted the stream
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// try attempts to append a message once.
func (w *logWriter) try(ctx context.Context, message []byte) (sequence uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	ack, err := w.js.PublishMsg(ctx, &nats.Msg{Subject: w.subject, Data: message}, jetstream.WithExpectLastSequence(w.last.sequence))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// check returns ErrFenced or errLost if the log has another end than the logWriter knows.
func (w *logWriter) check(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	info, err := w.stream.Info(short)
	if err != nil || info.State.LastSeq == w.last.sequence {
		return nil // the next message finds out
	}
	_, err = w.find(ctx, header{})
	return err
}

// isRefused reports whether JetStream has refused a message, because the last one is another than the
// publisher expected.
func isRefused(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// find looks for a message behind those that the logWriter knows. If it is not there, and neither is
// one of anybody else, find returns 0.
func (w *logWriter) find(ctx context.Context, h header) (sequence uint64, err error) {
	end, err := w.findEnd(ctx)
	if err != nil {
		return 0, err
	}
	present := end.header
	isOlder := present == header{} || present.publisher == w.id || present.kind < fenceMessage && present.term < w.first
	if end.sequence < w.last.sequence && isOlder {
		w.term, w.last = w.term+1, *end
		return 0, fmt.Errorf("%w: those after %d", errLost, end.sequence)
	}
	if end.sequence < w.last.sequence || end.sequence == w.last.sequence && present != w.last.header && present != (header{}) {
		return 0, ErrFenced // it has lost messages, and has others since
	}
	for n := w.last.sequence + 1; n <= end.sequence; n++ {
		present, err := w.header(ctx, n)
		if errors.Is(err, errForeign) {
			w.onError(publishError(w.name, fmt.Errorf("message %d: %w", n, err)))
			w.last = logEnd{sequence: n}
			continue
		}
		if err != nil {
			return 0, err
		}
		switch {
		case present == h:
			sequence = n
		case present.publisher == w.id: // a late attempt of Promote, or a message that seemed to be lost
			w.last = logEnd{n, present}
		default:
			return 0, ErrFenced
		}
	}
	return sequence, nil
}

// header returns the header of a message.
func (w *logWriter) header(ctx context.Context, sequence uint64) (h header, err error) {
	err = w.persist(ctx, func(ctx context.Context) error {
		m, err := w.stream.GetMsg(ctx, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return ErrFenced // only a publisher deletes messages
		}
		if err != nil {
			return err
		}
		if _, err = h.parse(m.Data); err != nil && !errors.Is(err, errForeign) {
			return ErrFenced // by a publisher of another version
		}
		return err
	})
	return h, err
}
