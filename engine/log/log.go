// Package log reads the log of a container: the last lines, a span of time, what
// matches a pattern, and all that follows, across rotation. The shim writes it,
// see internal/shimio.
//
// # The formats
//
// A json-file log holds one JSON object per line:
//
//	{"log":"text\n","stream":"stdout","attrs":{"tag":"x"},"time":"2026-01-02T15:04:05.999999999Z"}
//
// A text without a final newline is part of a longer line. Rotation renames
// <file> to <file>.1, which became <file>.2 before, and so on; rotated files may
// be compressed to <file>.n.gz. The last line of the live file may be torn,
// while it is written or by a crash: it is left for later, or skipped. A log of
// the format "local" is the same, of binary records.
//
// # Finding a time
//
// Records are in the order of time, so that the start of a span is searched by
// halving the file, and rotated files that end before it are not opened at all.
// A clock that was set back makes records stand out of order: those that the
// search steps over, more than 1 MiB before the point found, are not shown.
package log

import (
	"bytes"
	"encoding/binary"
	"io"
	"regexp"
	"slices"
	"time"
)

// maxLineBytes bounds one line of a log file: a writer splits texts at 16 KiB,
// of which JSON makes at most six times as much, and attributes come on top. A
// longer line is not the work of a writer and is skipped.
const maxLineBytes = 1 << 20

// The streams of a record, as the first byte of a frame.
const (
	streamStdout = 1
	streamStderr = 2
)

// Options select what is read and how it is shown.
type Options struct {
	Stdout, Stderr bool
	Since, Until   time.Time // zero for no bound
	Tail           int       // lines from the end, negative for all
	Timestamps     bool      // prefix each line with its time, RFC 3339 with nanoseconds
	Details        bool      // prefix each line with its attributes, URL-encoded
	// Grep, unless nil, selects the lines whose text it matches.
	Grep *regexp.Regexp
	// Raw writes the texts alone, as for a terminal; else each text is a frame
	// of the Engine API's multiplexed stream.
	Raw bool
	// Follow goes on at the end of the log until Done is closed and all that was
	// written before is read. A nil Done follows until the context ends.
	Follow bool
	Done   <-chan struct{}
}

// wants reports whether r is asked for. done says that no later record can be.
func (o *Options) wants(r *record) (yes, done bool) {
	if !o.Until.IsZero() && r.unixNano() > o.Until.UnixNano() {
		return false, true
	}
	if !o.Since.IsZero() && r.unixNano() < o.Since.UnixNano() {
		return false, false
	}
	if r.stderr && !o.Stderr || !r.stderr && !o.Stdout {
		return false, false
	}
	return o.Grep == nil || o.Grep.Match(bytes.TrimSuffix(r.text, []byte{'\n'})), false
}

// timeFormat is RFC 3339 with all nine digits of the nanoseconds.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// append appends r to buf as o wants it shown.
func (o *Options) append(buf []byte, r *record) []byte {
	start := len(buf)
	if !o.Raw {
		stream := byte(streamStdout)
		if r.stderr {
			stream = streamStderr
		}
		buf = append(buf, stream, 0, 0, 0, 0, 0, 0, 0)
	}
	head := len(buf)
	if o.Timestamps {
		// Docker compatibility: the time comes first, also before details.
		buf = append(r.appendTime(buf), ' ')
	}
	if o.Details {
		buf = append(append(buf, details(r.attrs)...), ' ')
	}
	buf = append(buf, r.text...)
	if !o.Raw {
		binary.BigEndian.PutUint32(buf[start+4:], uint32(len(buf)-head))
	}
	return buf
}

// recordReader yields the records of a file. It keeps an unfinished last one
// until more of it comes.
type recordReader struct {
	r      io.Reader
	format format
	buf    []byte // what was read and not yet returned is from start on
	start  int
	skip   bool  // in a line that is too long
	lost   bool  // the file is damaged from here on
	offset int64 // in the file, of start
}

const readChunk = 256 << 10

// next returns the next record as it is in the file, valid until the next call,
// or io.EOF when the file has no complete one more for now.
func (l *recordReader) next() ([]byte, error) {
	for {
		if l.lost {
			return nil, io.EOF
		}
		switch n := l.format.split(l.buf[l.start:]); {
		case n < 0:
			l.lost = true
			continue
		case n > 0:
			raw := l.buf[l.start : l.start+n]
			l.start += n
			l.offset += int64(n)
			if l.skip {
				l.skip = false
				continue
			}
			return raw, nil
		}
		if len(l.buf)-l.start > maxLineBytes {
			l.offset += int64(len(l.buf) - l.start)
			l.start, l.skip = len(l.buf), true
		}
		if l.start > 0 {
			l.buf = l.buf[:copy(l.buf, l.buf[l.start:])]
			l.start = 0
		}
		if cap(l.buf)-len(l.buf) < readChunk/2 {
			l.buf = slices.Grow(l.buf, readChunk)
		}
		n, err := l.r.Read(l.buf[len(l.buf):cap(l.buf)])
		l.buf = l.buf[:len(l.buf)+n]
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// rewind forgets an unfinished record: the file was cut, and is read again from
// its start.
func (l *recordReader) rewind() {
	l.buf, l.start, l.skip, l.lost, l.offset = l.buf[:0], 0, false, false, 0
}

// trim frees the buffer while there is nothing in it.
func (l *recordReader) trim() {
	if l.start == len(l.buf) {
		l.buf, l.start = nil, 0
	}
}
