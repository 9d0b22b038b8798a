package log

import (
	"bytes"
	"errors"
	"io"
)

// disorder is how far back from the point that a search has found reading
// starts, in bytes: see the package comment.
const disorder = 1 << 20

// skipToSince leaves out the files that end before Options.Since, and moves the
// first of the others to where the time begins.
func (r *Reader) skipToSince(files []source) ([]source, error) {
	for len(files) > 1 {
		fi, err := files[0].f.Stat()
		if err != nil {
			return nil, err
		}
		if !fi.ModTime().Before(r.o.Since) {
			break
		}
		files = files[1:]
	}
	if len(files) == 0 || files[0].gzip {
		return files, nil
	}
	if _, ok := r.format.(jsonLines); !ok {
		return files, nil // its records have no beginning that can be told from their text
	}
	f := files[0].f
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	offset, err := r.sinceOffset(f, end)
	if err != nil {
		return nil, err
	}
	_, err = f.Seek(offset, io.SeekStart)
	return files, err
}

// sinceOffset returns where a line starts such that the lines before it are
// older than Options.Since.
func (r *Reader) sinceOffset(f io.ReaderAt, end int64) (int64, error) {
	since := r.o.Since.UnixNano()
	low, high := int64(0), end // lines that start before low are older
	for high-low > disorder {
		mid := low + (high-low)/2
		at, ok, err := r.lineAfter(f, mid, high)
		if err != nil {
			return 0, err
		}
		if ok && r.rec.unixNano() < since {
			low = at
		} else {
			high = mid
		}
	}
	from := max(0, low-disorder)
	if from == 0 {
		return 0, nil
	}
	at, ok, err := r.lineAfter(f, from, end)
	if err != nil || !ok {
		return 0, err
	}
	return at, nil
}

// lineAfter reads the first whole line that starts after offset and before end
// into r.rec. ok is false when there is none.
func (r *Reader) lineAfter(f io.ReaderAt, offset, end int64) (at int64, ok bool, err error) {
	const probe = 8 << 10
	var buf []byte
	pos, started := offset, false
	for pos < end {
		chunk := make([]byte, min(probe, end-pos))
		n, err := f.ReadAt(chunk, pos)
		if err != nil && !errors.Is(err, io.EOF) || n == 0 {
			return 0, false, err
		}
		pos += int64(n)
		buf = append(buf, chunk[:n]...)
		for {
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				break
			}
			line := buf[:i+1]
			buf = buf[i+1:]
			if started && r.format.parse(line, &r.rec) {
				return pos - int64(len(buf)) - int64(len(line)), true, nil
			}
			started = true
		}
		if len(buf) > maxLineBytes {
			buf, started = nil, false
		}
	}
	return 0, false, nil
}
