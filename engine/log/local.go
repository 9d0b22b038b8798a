package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// localFrames is the "local" format: messages between two copies of their
// length, see package lighter/shim/log.
type localFrames struct{}

const frameBytes = 8 // of the two lengths

func (localFrames) split(data []byte) int {
	if len(data) < frameBytes {
		return 0
	}
	n := int64(binary.BigEndian.Uint32(data))
	if n > maxLineBytes {
		return -1
	}
	if int64(len(data)) < n+frameBytes {
		return 0
	}
	if !bytes.Equal(data[:4], data[n+4:n+frameBytes]) {
		return -1
	}
	return int(n + frameBytes)
}

// The fields of a message, and of the partial metadata in it.
const (
	fieldSource, fieldTime, fieldLine, fieldPartial, fieldMetadata = 1, 2, 3, 4, 5

	fieldLast, fieldID, fieldOrdinal = 1, 2, 3
)

func (localFrames) parse(raw []byte, r *record) bool {
	r.attrs, r.timed, r.part, r.text = nil, true, Partial{}, nil
	partial, source := false, false
	ok := eachField(raw[4:len(raw)-4], func(field int, n uint64, data []byte) bool {
		switch field {
		case fieldSource:
			r.stderr, source = string(data) == "stderr", true
		case fieldTime:
			r.nanos = int64(n)
		case fieldLine:
			r.text = data
		case fieldPartial:
			partial = n != 0
		case fieldMetadata:
			return eachField(data, func(field int, n uint64, data []byte) bool {
				switch field {
				case fieldLast:
					r.part.Last = n != 0
				case fieldID:
					r.part.ID = string(data)
				case fieldOrdinal:
					r.part.Ordinal = int(n)
				}
				return true
			})
		}
		return true
	})
	if !ok || !source {
		return false
	}
	if !partial || r.part.Last {
		r.unescaped = append(append(r.unescaped[:0], r.text...), '\n')
		r.text = r.unescaped
	}
	return true
}

// eachField calls f for the fields of a protobuf message, with a number or with
// bytes. It reports whether the message is well-formed and f accepted all.
func eachField(msg []byte, f func(field int, n uint64, data []byte) bool) bool {
	for len(msg) > 0 {
		tag, size := binary.Uvarint(msg)
		if size <= 0 {
			return false
		}
		msg = msg[size:]
		n, size := binary.Uvarint(msg)
		if size <= 0 {
			return false
		}
		msg = msg[size:]
		var data []byte
		switch tag & 7 {
		case 0:
		case 2:
			if n > uint64(len(msg)) {
				return false
			}
			data, msg = msg[:n], msg[n:]
		default:
			return false
		}
		if !f(int(tag>>3), n, data) {
			return false
		}
	}
	return true
}

// backFrames is scanBack for the local format. A torn end, of which the lengths
// do not agree, is found by walking the file from its start.
func backFrames(f io.ReaderAt, end int64, want int, count func([]byte) bool) (int64, int, error) {
	w := &window{f: f}
	whole, err := w.wholeEnd(end)
	if err != nil || want == 0 {
		return whole, 0, err
	}
	pos, seen := whole, 0
	for pos > 0 {
		raw, err := w.before(pos)
		if err != nil {
			return 0, 0, err
		}
		if raw == nil {
			return pos, seen, nil // damaged: what comes before can't be reached
		}
		pos -= int64(len(raw))
		if count(raw) {
			if seen++; seen == want {
				return pos, seen, nil
			}
		}
	}
	return 0, seen, nil
}

// window reads a file backwards in large pieces.
type window struct {
	f     io.ReaderAt
	start int64
	buf   []byte
}

// get returns the bytes from start to end.
func (w *window) get(start, end int64) ([]byte, error) {
	if start < w.start || end > w.start+int64(len(w.buf)) {
		from := max(0, min(start, end-backChunk))
		if int64(cap(w.buf)) < end-from {
			w.buf = make([]byte, end-from)
		}
		w.start, w.buf = from, w.buf[:end-from]
		if _, err := w.f.ReadAt(w.buf, from); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return w.buf[start-w.start : end-w.start], nil
}

// before returns the record that ends at end, nil when there is none.
func (w *window) before(end int64) ([]byte, error) {
	if end < frameBytes {
		return nil, nil
	}
	tail, err := w.get(end-4, end)
	if err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(tail)) + frameBytes
	if n > end || n > maxLineBytes+frameBytes {
		return nil, nil
	}
	raw, err := w.get(end-n, end)
	if err != nil || !bytes.Equal(raw[:4], raw[n-4:]) {
		return nil, err
	}
	return raw, nil
}

// wholeEnd returns where the last whole record of the first end bytes ends.
func (w *window) wholeEnd(end int64) (int64, error) {
	if raw, err := w.before(end); raw != nil || err != nil || end == 0 {
		return end, err
	}
	in := &recordReader{r: io.NewSectionReader(w.f, 0, end), format: localFrames{}}
	at := int64(0)
	for {
		raw, err := in.next()
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return 0, err
		}
		at += int64(len(raw))
	}
}
