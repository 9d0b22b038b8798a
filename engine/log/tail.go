package log

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
)

// findTail returns the file and the offset in it at which the last Options.Tail
// records begin that are asked for. For a compressed file the offset counts lines
// instead of bytes. It reads the files backwards, no further than it must.
func (r *Reader) findTail() (first int, offset int64, err error) {
	left := r.o.Tail
	if left == 0 {
		n := len(r.files)
		if n == 0 {
			return 0, 0, nil
		}
		end, err := r.files[n-1].f.Seek(0, io.SeekEnd)
		if err != nil {
			return 0, 0, err
		}
		// A line that is being written belongs to what follows.
		offset, _, err = r.scanBack(r.files[n-1].f, end, 0, nil)
		return n - 1, offset, err
	}
	for i := len(r.files) - 1; i >= 0; i-- {
		s := r.files[i]
		var n int
		if s.gzip {
			offset, n = r.tailGzip(s, left)
		} else {
			end, err := s.f.Seek(0, io.SeekEnd)
			if err != nil {
				return 0, 0, err
			}
			if offset, n, err = r.scanBack(s.f, end, left, r.counts); err != nil {
				return 0, 0, err
			}
		}
		left -= n
		if left <= 0 {
			return i, offset, nil
		}
	}
	return 0, 0, nil
}

// counts reports whether a line is one of those that tail counts.
func (r *Reader) counts(line []byte) bool {
	if !r.format.parse(line, &r.rec) {
		return false
	}
	yes, _ := r.o.wants(&r.rec)
	return yes
}

// scanBack reads f backwards from end until it has seen want records that count
// and returns where the first of them starts and how many there were. With want 0
// it finds the start of the unfinished record at the end.
func (r *Reader) scanBack(f io.ReaderAt, end int64, want int, count func([]byte) bool) (int64, int, error) {
	if _, ok := r.format.(localFrames); ok {
		return backFrames(f, end, want, count)
	}
	var floor int64
	if want > 0 && !r.o.Since.IsZero() {
		var err error
		if floor, err = r.sinceOffset(f, end); err != nil {
			return 0, 0, err
		}
	}
	return backLines(f, floor, end, want, count)
}

const backChunk = 128 << 10

// backLines is scanBack for the json-file format. It reads no further than to
// floor, where a line starts.
func backLines(f io.ReaderAt, floor, end int64, want int, count func([]byte) bool) (int64, int, error) {
	var tail []byte // the bytes from pos on of a line whose start is not seen yet
	pos, seen := end, 0
	first := true // the text after the last newline is no line
	for pos > floor {
		n := min(pos-floor, backChunk)
		chunk := make([]byte, n, int(n)+len(tail))
		if _, err := f.ReadAt(chunk, pos-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		pos -= n
		chunk = append(chunk, tail...)
		if first {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 && len(chunk) > maxLineBytes {
				chunk = nil
			}
			if i < 0 {
				tail = chunk
				continue
			}
			first, chunk = false, chunk[:i+1]
			if want == 0 {
				return pos + int64(len(chunk)), 0, nil
			}
		}
		for len(chunk) > 0 {
			i := bytes.LastIndexByte(chunk[:len(chunk)-1], '\n')
			if i < 0 {
				break
			}
			line := chunk[i+1:]
			chunk = chunk[:i+1]
			if count(line) {
				if seen++; seen == want {
					return pos + int64(len(chunk)), seen, nil
				}
			}
		}
		tail = chunk
		if len(tail) > maxLineBytes {
			tail = nil // no writer's work; its rest will not parse either
		}
	}
	if !first && want > 0 && count(tail) {
		seen++
	}
	return floor, seen, nil
}

// tailGzip returns the number of the line at which the last want lines begin that
// count, and how many there are.
func (r *Reader) tailGzip(s source, want int) (int64, int) {
	defer s.f.Seek(0, io.SeekStart)
	z, err := gzip.NewReader(s.f)
	if err != nil {
		return 0, 0
	}
	var at []int64 // a ring of the numbers of the last want lines
	lines := r.reader(z)
	n, seen := int64(0), 0
	for {
		line, err := lines.next()
		if err != nil {
			break
		}
		if r.counts(line) {
			if len(at) < min(want, maxTailRing) {
				at = append(at, n)
			} else {
				at[seen%len(at)] = n
			}
			seen++
		}
		n++
	}
	if len(at) == 0 {
		return n, 0
	}
	if seen > len(at) {
		return at[seen%len(at)], len(at)
	}
	return at[0], seen
}

// maxTailRing bounds the memory of a tail over compressed files, in lines.
const maxTailRing = 1 << 20

// copyGzipTail writes the lines of s from number from on.
func (r *Reader) copyGzipTail(ctx context.Context, w io.Writer, s source, from int64) error {
	z, err := gzip.NewReader(s.f)
	if err != nil {
		return nil // torn: nothing of it was counted
	}
	lines := r.reader(z)
	for n := int64(0); ; n++ {
		line, err := lines.next()
		if err != nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if n < from {
			continue
		}
		if err := r.emit(w, line); err != nil {
			return err
		}
	}
}
