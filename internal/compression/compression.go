// Package compression opens and makes the compressed streams that layers and
// archives come in. Everything is done in the process: no helper program is run
// on data from outside (CVE-2014-9357).
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// Kind is a compression format.
type Kind string

// The formats, by the suffixes of OCI media types where there is one.
const (
	None  Kind = ""
	Gzip  Kind = "gzip"
	Zstd  Kind = "zstd"
	Bzip2 Kind = "bzip2"
	Xz    Kind = "xz"
)

// maxZstdWindow bounds the memory that a zstd frame may ask for, the bound that
// the zstd program has by default.
const maxZstdWindow = 128 << 20

var magics = []struct {
	kind  Kind
	magic []byte
}{
	{Gzip, []byte{0x1f, 0x8b, 0x08}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{Bzip2, []byte("BZh")},
	{Xz, []byte{0xfd, '7', 'z', 'X', 'Z', 0x00}},
}

// Detect returns the format of a stream that begins with head, of which it
// wants ten bytes or all there are.
func Detect(head []byte) Kind {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.kind
		}
	}
	// A skippable frame (zstd:chunked, pzstd) may come first.
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18 {
		return Zstd
	}
	return None
}

// NewReader detects the format of r and returns the decompressed stream, which
// is r's own bytes when it is not compressed. Closing it frees the
// decompressor and leaves r open.
//
// Errors: NotImplemented for xz; InvalidArgument for a broken header. What is
// found broken later is returned by Read.
func NewReader(r io.Reader) (io.ReadCloser, Kind, error) {
	buf := bufio.NewReaderSize(r, 256<<10)
	head, err := buf.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, err
	}
	kind := Detect(head)
	rc, err := newReader(buf, kind)
	return rc, kind, err
}

// Peek detects the format of r without decompressing it, and returns a reader
// of all its bytes.
func Peek(r io.Reader) (io.Reader, Kind, error) {
	buf := bufio.NewReaderSize(r, 64<<10)
	head, err := buf.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, err
	}
	return buf, Detect(head), nil
}

func newReader(r io.Reader, kind Kind) (io.ReadCloser, error) {
	switch kind {
	case Gzip:
		zr, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("open gzip stream: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		return zr, nil
	case Zstd:
		zr, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("open zstd stream: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		return zr.IOReadCloser(), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case Xz:
		return nil, fmt.Errorf("open xz stream: %w: recompress it with gzip or zstd", errdefs.ErrNotImplemented)
	}
	return io.NopCloser(r), nil
}

// gzipBlock is what is compressed at a time, in bytes.
const gzipBlock = 512 << 10

// NewWriter returns a stream that compresses into w, blocks at the same time.
// Closing it writes the end of the stream and leaves w open. The levels are fast
// ones: a layer is compressed at about the speed of a disk, and is some six per cent
// larger than it could be.
//
// Errors: NotImplemented for formats that are only read.
func NewWriter(w io.Writer, kind Kind) (io.WriteCloser, error) {
	switch kind {
	case None:
		return nopCloser{w}, nil
	case Gzip:
		zw, err := pgzip.NewWriterLevel(w, pgzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		// The block size alone decides the bytes, not how many are made at once.
		return zw, zw.SetConcurrency(gzipBlock, min(runtime.GOMAXPROCS(0), 4))
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(2))
	}
	return nil, fmt.Errorf("compress with %s: %w", kind, errdefs.ErrNotImplemented)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
