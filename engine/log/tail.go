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
		offset, _, err = scanBack(r.files[n-1].f, end, 0, nil)
		return n - 1, offset, err
	}
	for i := len(r.files) - 1; i >= 0; i-- {
		s := r.files[i]
		var n int
		if s.gzip {
			offset, n = tailGzip(s, left, r.counts)
		} else {
			end, err := s.f.Seek(0, io.SeekEnd)
			if err != nil {
				return 0, 0, err
			}
			if offset, n, err = scanBack(s.f, end, left, r.counts); err != nil {
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
	rec, ok := parse(line)
	if !ok {
		return false
	}
	yes, _ := r.o.wants(&rec)
	return yes
}

const backChunk = 32 << 10

// scanBack reads f backwards from end until it has seen want lines that count and
// returns where the first of them starts and how many there were. With want 0 it
// finds the start of the unfinished line at the end.
func scanBack(f io.ReaderAt, end int64, want int, count func([]byte) bool) (int64, int, error) {
	var tail []byte // the bytes from pos on that belong to a line whose start is not seen yet
	pos, seen := end, 0
	first := true // the text after the last newline is no line
	for pos > 0 {
		n := min(pos, backChunk)
		chunk := make([]byte, n, int(n)+len(tail))
		if _, err := f.ReadAt(chunk, pos-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		pos -= n
		chunk = append(chunk, tail...)
		for {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			start := pos + int64(i) + 1
			line := chunk[i+1:]
			chunk = chunk[:i]
			if first {
				first = false
				if want == 0 {
					return start, 0, nil
				}
			} else if count(line) {
				if seen++; seen == want {
					return start, seen, nil
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
	return 0, seen, nil
}

// tailGzip returns the number of the line at which the last want lines begin that
// count, and how many there are.
func tailGzip(s source, want int, count func([]byte) bool) (int64, int) {
	defer s.f.Seek(0, io.SeekStart)
	z, err := gzip.NewReader(s.f)
	if err != nil {
		return 0, 0
	}
	var at []int64 // a ring of the numbers of the last want lines
	lines := &lineReader{r: z}
	n, seen := int64(0), 0
	for {
		line, err := lines.next()
		if err != nil {
			break
		}
		if count(line) {
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
	lines := &lineReader{r: z}
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
