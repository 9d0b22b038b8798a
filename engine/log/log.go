// Package log reads the json-file log of a container: the last lines, a span of
// time, and all that follows, across rotation. The shim writes it, see
// internal/shimio.
//
// # The format
//
// A file holds one JSON object per line:
//
//	{"log":"text\n","stream":"stdout","attrs":{"tag":"x"},"time":"2026-01-02T15:04:05.999999999Z"}
//
// A text without a final newline is part of a longer line. Rotation renames
// <file> to <file>.1, which became <file>.2 before, and so on; rotated files may
// be compressed to <file>.n.gz. The last line of the live file may be torn,
// while it is written or by a crash: it is left for later, or skipped.
package log

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
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
	// Raw writes the texts alone, as for a terminal; else each text is a frame
	// of the Engine API's multiplexed stream.
	Raw bool
	// Follow goes on at the end of the log until Done is closed and all that was
	// written before is read. A nil Done follows until the context ends.
	Follow bool
	Done   <-chan struct{}
}

// record is a line of the log.
type record struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs"`
	Time   time.Time         `json:"time"`
}

func parse(line []byte) (record, bool) {
	var r record
	err := json.Unmarshal(line, &r)
	return r, err == nil && r.Stream != ""
}

// wants reports whether r is asked for. done says that no later record can be.
func (o *Options) wants(r *record) (yes, done bool) {
	if !o.Until.IsZero() && r.Time.After(o.Until) {
		return false, true
	}
	if !o.Since.IsZero() && r.Time.Before(o.Since) {
		return false, false
	}
	return r.Stream == "stdout" && o.Stdout || r.Stream == "stderr" && o.Stderr, false
}

// timeFormat is RFC 3339 with all nine digits of the nanoseconds.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// append appends r to buf as o wants it shown.
func (o *Options) append(buf []byte, r *record) []byte {
	start := len(buf)
	if !o.Raw {
		stream := byte(streamStdout)
		if r.Stream == "stderr" {
			stream = streamStderr
		}
		buf = append(buf, stream, 0, 0, 0, 0, 0, 0, 0)
	}
	head := len(buf)
	if o.Details {
		buf = append(append(buf, details(r.Attrs)...), ' ')
	}
	if o.Timestamps {
		// Docker compatibility: the time comes first, also before details.
		stamp := append(r.Time.UTC().AppendFormat(nil, timeFormat), ' ')
		buf = slices.Insert(buf, head, stamp...)
	}
	buf = append(buf, r.Log...)
	if !o.Raw {
		binary.BigEndian.PutUint32(buf[start+4:], uint32(len(buf)-head))
	}
	return buf
}

func details(attrs map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		pairs = append(pairs, url.QueryEscape(key)+"="+url.QueryEscape(attrs[key]))
	}
	return strings.Join(pairs, ",")
}

// lineReader yields the lines of a file. It keeps an unfinished last line until
// more of it comes.
type lineReader struct {
	r       io.Reader
	buf     []byte // what was read and not yet returned
	start   int    // of the next line in buf
	skip    bool   // in a line that is too long
	scanned int    // bytes of buf after start without a newline
}

const readChunk = 64 << 10

// next returns the next line without its newline, valid until the next call, or
// io.EOF when the file has no complete line more for now.
func (l *lineReader) next() ([]byte, error) {
	for {
		if i := bytes.IndexByte(l.buf[l.start+l.scanned:], '\n'); i >= 0 {
			end := l.start + l.scanned + i
			line := l.buf[l.start:end]
			l.start, l.scanned = end+1, 0
			if l.skip {
				l.skip = false
				continue
			}
			return line, nil
		}
		l.scanned = len(l.buf) - l.start
		if l.scanned > maxLineBytes {
			l.start, l.scanned, l.skip = len(l.buf), 0, true
		}
		if l.start > 0 {
			l.buf = l.buf[:copy(l.buf, l.buf[l.start:])]
			l.start = 0
		}
		l.buf = slices.Grow(l.buf, readChunk)
		n, err := l.r.Read(l.buf[len(l.buf) : len(l.buf)+readChunk])
		l.buf = l.buf[:len(l.buf)+n]
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// drop forgets an unfinished line: the file was cut or is not written any more.
func (l *lineReader) drop() { l.buf, l.start, l.scanned, l.skip = l.buf[:0], 0, 0, false }
