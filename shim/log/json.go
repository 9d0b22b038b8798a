package log

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math/bits"
	"time"
	"unicode/utf8"
)

// jsonFormat is the json-file format.
type jsonFormat struct {
	attrs []byte // `"attrs":{...},` or nothing

	// suffix is all that follows the text in a record of a whole line: the
	// escaped newline, then the rest. Records of one Write share it.
	suffix [numStreams][]byte
}

const (
	jsonPrefix  = `{"log":"`
	jsonNewline = `\n`
)

func newJSONFormat(attrs map[string]string) (*jsonFormat, error) {
	f := &jsonFormat{}
	if len(attrs) > 0 {
		b, err := json.Marshal(attrs)
		if err != nil {
			return nil, err
		}
		f.attrs = append(append([]byte(`"attrs":`), b...), ',')
	}
	return f, nil
}

func (f *jsonFormat) begin(t time.Time) {
	for s := range numStreams {
		b := append(f.suffix[s][:0], jsonNewline+`","stream":"`...)
		b = append(b, s.String()...)
		b = append(b, `",`...)
		b = append(b, f.attrs...)
		b = append(b, `"time":"`...)
		b = t.UTC().AppendFormat(b, time.RFC3339Nano)
		f.suffix[s] = append(b, "\"}\n"...)
	}
}

func (f *jsonFormat) append(dst []byte, s Stream, text []byte, part *partial) []byte {
	dst = append(dst, jsonPrefix...)
	dst = appendEscaped(dst, text)
	suffix := f.suffix[s]
	if part != nil && !part.last {
		suffix = suffix[len(jsonNewline):]
	}
	return append(dst, suffix...)
}

func (f *jsonFormat) wholeSize(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, 4096)
	for end := size; end > 0; {
		start := max(0, end-int64(len(buf)))
		part := buf[:end-start]
		if _, err := r.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

const hexDigits = "0123456789abcdef"

// appendEscaped adds text as the inside of a JSON string. Invalid UTF-8 becomes
// U+FFFD, and the characters that are unsafe in HTML or JavaScript are escaped,
// as encoding/json does.
//
// Docker compatibility: a tab is \u0009, as in Docker's files.
func appendEscaped(dst, text []byte) []byte {
	for len(text) > 0 {
		n := plainPrefix(text)
		dst = append(dst, text[:n]...)
		text = text[n:]
		if len(text) == 0 {
			break
		}
		c := text[0]
		if c < utf8.RuneSelf {
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			text = text[1:]
			continue
		}
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			dst = append(dst, '\\', 'u', '2', '0', '2', hexDigits[r&15])
		default:
			dst = append(dst, text[:size]...)
		}
		text = text[size:]
	}
	return dst
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plainPrefix returns how many bytes at the start of text go into a JSON string
// as they are. It looks at eight bytes at a time: the top bit of each byte of
// the masks below is set for a byte that needs escaping, and perhaps, by a
// borrow, for bytes after it, which does not matter to the first.
func plainPrefix(text []byte) int {
	n := 0
	for len(text)-n >= 8 {
		w := binary.LittleEndian.Uint64(text[n:])
		// (x - ones) & ^x has the top bit where x is zero; x >= 0x80 is caught by w itself.
		special := w | // not ASCII
			(w-0x20*ones) & ^w | // control
			zeroBytes(w^'"'*ones) |
			zeroBytes(w^'\\'*ones) |
			zeroBytes(w&^(0x02*ones)^'<'*ones) | // '<' is 0x3c and '>' is 0x3e
			zeroBytes(w^'&'*ones)
		if special &= highs; special != 0 {
			return n + bits.TrailingZeros64(special)/8
		}
		n += 8
	}
	for n < len(text) && isPlain(text[n]) {
		n++
	}
	return n
}

func zeroBytes(x uint64) uint64 { return (x - ones) & ^x }

func isPlain(c byte) bool {
	return c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}
