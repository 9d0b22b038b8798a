// Package log writes the output of a container process to a log file, fast and
// without ever holding the process up.
//
// # json-file
//
// One JSON object per line, byte for byte as Docker writes it:
//
//	{"log":"text\n","stream":"stdout","attrs":{"k":"v"},"time":"2006-01-02T15:04:05.999999999Z"}
//
// # local
//
// Docker's "local" format: records of a protobuf message between two copies of
// its length, so that a file can be read in both directions.
//
//	length  4 bytes, big endian
//	message source=1 (string), time_nano=2 (varint), line=3 (bytes, without
//	        newline), partial=4 (bool), partial_log_metadata=5 (message of
//	        last=1 bool, id=2 string, ordinal=3 varint)
//	length  again
//
// # Lines
//
// A line over MaxLine bytes is written in pieces, each its own record. In
// json-file only the last piece ends in "\n"; in local each piece carries
// partial metadata. What follows the last newline when the stream ends is
// written as a piece too. All records made from one Write carry one time.
//
// # Rotation
//
// A file that has reached the maximum is renamed to path.1, that to path.2 and
// so on, and a new file is made: whoever follows the log can finish the old
// file by the descriptor he holds. With compression the rotated files are named
// path.1.gz and so on; path.1 exists until its compression is finished. With one
// file only, that file is truncated.
//
// A log that is held (Config.Hold) is the queue of somebody who delivers it: the
// file that rotation would delete is his to delete, when he is done with it.
//
// # Errors
//
// A failed write (a full disk) drops the records and is reported once; records
// are whole or absent, and writing goes on as soon as it succeeds again.
package log

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// MaxLine is the longest text of one record, in bytes; Docker's number.
const MaxLine = 16 << 10

// flushSize bounds the encoded records that are held before a write, in bytes.
const flushSize = 256 << 10

// Stream says where text came from.
type Stream uint8

// The streams of a process. A terminal has only Stdout.
const (
	Stdout Stream = iota
	Stderr
	numStreams
)

// String returns the stream's name in log records.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// Config describes a log file.
type Config struct {
	// Driver is "json-file" or "local".
	Driver string
	// Path is the absolute path of the live file.
	Path string
	// MaxBytes is the size at which the file is rotated; 0 means never.
	MaxBytes int64
	// MaxFiles is how many files are kept, the live one included; 0 means 1.
	MaxFiles int
	// Compress compresses rotated files with gzip.
	Compress bool
	// Hold makes Write wait, rather than delete the oldest file that is kept,
	// until somebody else has deleted it or Release is called. It needs
	// MaxFiles of two or more.
	Hold bool
	// Attrs are written into every json-file record.
	Attrs map[string]string
}

// Writer is an open log file. Its methods may be called from several
// goroutines; text of one stream must come from one.
type Writer struct {
	log      *slog.Logger
	released atomic.Bool

	mu      sync.Mutex // guards the fields below; held over writes to the file, whose order it makes
	file    *rotatingFile
	format  format
	streams [numStreams]splitter
	out     []byte
	dropped int64 // bytes of records lost since the last success
	failing bool
}

// splitter is the state of one stream between two calls of Write.
type splitter struct {
	held    []byte // the start of an unfinished line, shorter than MaxLine
	id      string // of the line whose pieces are being written, or ""
	ordinal int    // of the piece written last
}

// Open opens the log, appending to a file that exists. A record that a crash
// left torn at its end is cut off.
func Open(cfg Config, log *slog.Logger) (*Writer, error) {
	w, err := newWriter(cfg, log)
	if err != nil {
		return nil, err
	}
	if w.file, err = openRotating(cfg, w.format.wholeSize, &w.released, w.log); err != nil {
		return nil, err
	}
	return w, nil
}

// newWriter returns a Writer without a file.
func newWriter(cfg Config, log *slog.Logger) (*Writer, error) {
	w := &Writer{log: log.With("log", cfg.Path)}
	switch cfg.Driver {
	case "json-file":
		f, err := newJSONFormat(cfg.Attrs)
		if err != nil {
			return nil, fmt.Errorf("open log %q: %w", cfg.Path, err)
		}
		w.format = f
	case "local":
		w.format = &localFormat{}
	default:
		return nil, fmt.Errorf("open log: driver %q is not one that the shim writes: %w", cfg.Driver, errdefs.ErrInvalidArgument)
	}
	return w, nil
}

// Write appends p, read at t. It keeps nothing of p.
func (w *Writer) Write(s Stream, t time.Time, p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.format.begin(t)
	sp := &w.streams[s]
	if len(sp.held) > 0 {
		p = w.finishHeld(s, sp, p)
	}
	for len(p) > 0 {
		window := p[:min(len(p), MaxLine)]
		i := bytes.IndexByte(window, '\n')
		switch {
		case i >= 0:
			w.line(s, sp, p[:i])
			p = p[i+1:]
		case len(window) == MaxLine:
			w.piece(s, sp, window)
			p = p[MaxLine:]
		default:
			sp.held = append(sp.held, p...)
			p = nil
		}
	}
	w.flush()
}

// finishHeld completes the held start of a line with text from p and returns
// the rest of p.
func (w *Writer) finishHeld(s Stream, sp *splitter, p []byte) []byte {
	room := min(len(p), MaxLine-len(sp.held))
	i := bytes.IndexByte(p[:room], '\n')
	if i >= 0 {
		sp.held = append(sp.held, p[:i]...)
		w.line(s, sp, sp.held)
		p = p[i+1:]
	} else {
		sp.held = append(sp.held, p[:room]...)
		p = p[room:]
		if len(sp.held) < MaxLine {
			return p
		}
		w.piece(s, sp, sp.held)
	}
	sp.held = nil
	return p
}

// End writes what the stream held back for want of a newline.
func (w *Writer) End(s Stream, t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sp := &w.streams[s]
	if len(sp.held) == 0 {
		return
	}
	w.format.begin(t)
	w.piece(s, sp, sp.held)
	sp.held = nil
	w.flush()
}

// Release ends Config.Hold: from now on nothing waits, and the live file grows
// over its maximum rather than that a held one is deleted.
func (w *Writer) Release() { w.released.Store(true) }

// SetLimits changes Config.MaxBytes and MaxFiles. Files over the new number are
// deleted by the rotations that follow.
func (w *Writer) SetLimits(maxBytes int64, maxFiles int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.file.setLimits(maxBytes, maxFiles)
}

// Trim frees the buffers. Use it when the process is idle.
func (w *Writer) Trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = nil
}

// Close waits for a compression in progress and closes the file. Call End for
// each stream before.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.close()
}

// line adds the record of text that ends a line.
func (w *Writer) line(s Stream, sp *splitter, text []byte) {
	var part *partial
	if sp.id != "" {
		part = &partial{id: sp.id, ordinal: sp.ordinal + 1, last: true}
		sp.id, sp.ordinal = "", 0
	}
	w.out = w.format.append(w.out, s, text, part)
	w.recordAdded()
}

// piece adds the record of text that is followed by more of the same line.
func (w *Writer) piece(s Stream, sp *splitter, text []byte) {
	if sp.id == "" {
		var id [32]byte
		rand.Read(id[:]) // never fails: crypto/rand
		sp.id = hex.EncodeToString(id[:])
	}
	sp.ordinal++
	w.out = w.format.append(w.out, s, text, &partial{id: sp.id, ordinal: sp.ordinal})
	w.recordAdded()
}

// recordAdded writes the records out when it is time to.
func (w *Writer) recordAdded() {
	if len(w.out) >= flushSize || w.file.wouldFill(len(w.out)) {
		w.flush()
	}
}

func (w *Writer) flush() {
	if len(w.out) == 0 {
		return
	}
	err := w.file.write(w.out)
	switch {
	case err != nil:
		w.dropped += int64(len(w.out))
		if !w.failing {
			w.failing = true
			w.log.Warn("log records are dropped until writing succeeds again", "err", err)
		}
	case w.failing:
		w.log.Warn("log is written again", "droppedBytes", w.dropped)
		w.failing, w.dropped = false, 0
	}
	w.out = w.out[:0]
}

// partial says which piece of a long line a record is.
type partial struct {
	id      string
	ordinal int
	last    bool
}

// format encodes records.
type format interface {
	// begin sets the time of the records that follow.
	begin(t time.Time)
	// append adds the record of text, without its newline, to dst.
	append(dst []byte, s Stream, text []byte, part *partial) []byte
	// wholeSize returns how many bytes of a file are whole records, when a
	// crash may have torn the last one.
	wholeSize(r io.ReaderAt, size int64) (int64, error)
}
