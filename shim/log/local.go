package log

import (
	"encoding/binary"
	"io"
	"time"
)

// localFormat is Docker's "local" format; see the package comment.
type localFormat struct {
	nano uint64
}

// Field tags of the protobuf messages: number<<3 | wire type.
const (
	tagSource   = 1<<3 | 2
	tagTimeNano = 2 << 3
	tagLine     = 3<<3 | 2
	tagPartial  = 4 << 3
	tagMetadata = 5<<3 | 2

	tagLast    = 1 << 3
	tagID      = 2<<3 | 2
	tagOrdinal = 3 << 3
)

func (f *localFormat) begin(t time.Time) { f.nano = uint64(t.UnixNano()) }

func (f *localFormat) append(dst []byte, s Stream, text []byte, part *partial) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0) // the length, filled in below
	dst = appendBytes(dst, tagSource, s.String())
	dst = binary.AppendUvarint(append(dst, tagTimeNano), f.nano)
	if len(text) > 0 {
		dst = appendBytes(dst, tagLine, text)
	}
	if part != nil {
		dst = append(dst, tagPartial, 1)
		var meta []byte
		if part.last {
			meta = append(meta, tagLast, 1)
		}
		meta = appendBytes(meta, tagID, part.id)
		meta = binary.AppendUvarint(append(meta, tagOrdinal), uint64(part.ordinal))
		dst = appendBytes(dst, tagMetadata, meta)
	}
	size := uint32(len(dst) - start - 4)
	binary.BigEndian.PutUint32(dst[start:], size)
	return binary.BigEndian.AppendUint32(dst, size)
}

// wholeSize believes a file whose last record has its length on both sides;
// else it walks the records from the start.
func (f *localFormat) wholeSize(r io.ReaderAt, size int64) (int64, error) {
	if whole, err := recordEndsAt(r, size); whole || err != nil {
		return size, err
	}
	var n int64
	var head [4]byte
	for n+8 <= size {
		if _, err := r.ReadAt(head[:], n); err != nil {
			return 0, err
		}
		next := n + int64(binary.BigEndian.Uint32(head[:])) + 8
		if next > size {
			break
		}
		if whole, err := recordEndsAt(r, next); err != nil || !whole {
			return n, err
		}
		n = next
	}
	return n, nil
}

// recordEndsAt reports whether the lengths around a record that ends at end agree.
func recordEndsAt(r io.ReaderAt, end int64) (bool, error) {
	if end < 8 {
		return end == 0, nil
	}
	var head, tail [4]byte
	if _, err := r.ReadAt(tail[:], end-4); err != nil {
		return false, err
	}
	start := end - int64(binary.BigEndian.Uint32(tail[:])) - 8
	if start < 0 {
		return false, nil
	}
	if _, err := r.ReadAt(head[:], start); err != nil {
		return false, err
	}
	return head == tail, nil
}

func appendBytes[T string | []byte](dst []byte, tag byte, v T) []byte {
	dst = binary.AppendUvarint(append(dst, tag), uint64(len(v)))
	return append(dst, v...)
}
