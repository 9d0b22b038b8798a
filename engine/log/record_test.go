package log

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// frame is a record in the local format.
func frame(stream, text string, at time.Time, part *Partial) []byte {
	field := func(msg []byte, n int, data []byte) []byte {
		return append(binary.AppendUvarint(append(msg, byte(n<<3|2)), uint64(len(data))), data...)
	}
	msg := field(nil, fieldSource, []byte(stream))
	msg = binary.AppendUvarint(append(msg, fieldTime<<3), uint64(at.UnixNano()))
	msg = field(msg, fieldLine, []byte(text))
	if part != nil {
		last := uint64(0)
		if part.Last {
			last = 1
		}
		meta := binary.AppendUvarint([]byte{fieldLast << 3}, last)
		meta = field(meta, fieldID, []byte(part.ID))
		meta = binary.AppendUvarint(append(meta, fieldOrdinal<<3), uint64(part.Ordinal))
		msg = field(append(msg, fieldPartial<<3, 1), fieldMetadata, meta)
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(len(msg)))
	return binary.BigEndian.AppendUint32(append(out, msg...), uint32(len(msg)))
}

func TestLocalFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "container.log")
	var old, live bytes.Buffer
	for i := range 40 {
		w, stream := &old, "stdout"
		if i >= 20 {
			w = &live
		}
		if i%3 == 2 {
			stream = "stderr"
		}
		w.Write(frame(stream, fmt.Sprintf("line %d", i), start.Add(time.Duration(i)*time.Second), nil))
	}
	live.Write(frame("stdout", "one, ", start.Add(time.Minute), &Partial{ID: "x", Ordinal: 1}))
	live.Write(frame("stdout", "two", start.Add(time.Minute), &Partial{ID: "x", Ordinal: 2, Last: true}))
	torn := frame("stdout", "torn", start.Add(time.Minute), nil)
	live.Write(torn[:len(torn)-2])
	zip(t, path+".1.gz", old.String())
	put(t, path, live.String())
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"all":    {Options{Stdout: true, Stderr: true, Raw: true, Tail: -1}, texts(0, 40, "") + "one, two\n"},
		"tail":   {Options{Stdout: true, Stderr: true, Raw: true, Tail: 3}, "line 39\none, two\n"},
		"gzip":   {Options{Stderr: true, Raw: true, Tail: 9}, texts(12, 40, "stderr")},
		"since":  {Options{Stdout: true, Raw: true, Tail: -1, Since: start.Add(38 * time.Second)}, "line 39\none, two\n"},
		"grep":   {Options{Stdout: true, Stderr: true, Raw: true, Tail: -1, Grep: regexp.MustCompile(`7$`)}, "line 7\nline 17\nline 27\nline 37\n"},
		"framed": {Options{Stderr: true, Timestamps: true, Tail: 1}, "\x02\x00\x00\x00\x00\x00\x00\x272026-01-02T03:04:43.000000000Z line 38\n"},
	} {
		r, err := Open(path, "local", tt.o)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := r.Copy(context.Background(), &out); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if out.String() != tt.want {
			t.Errorf("%s: got %q, want %q", name, out.String(), tt.want)
		}
	}
}

// The quick parser and encoding/json read the same.
func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{
		line(1), line(2), `{"log":"a\tb\\\"\u00e9\ud83d\ude00\u2028 \ud800\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}` + "\n",
		`{"log":"","stream":"stderr","time":"2024-02-29T23:59:59Z"}` + "\n",
		`{"stream":"stderr","log":"odd order\n","time":"2024-02-29T23:59:59+01:00"}` + "\n",
		`{"log":"x","stream":"stdout","attrs":{"time":"a\"b"},"time":"2024-02-29T23:59:59.000000001Z"}` + "\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !strings.HasSuffix(s, "\n") || strings.Count(s, "\n") != 1 || !json.Valid([]byte(s)) {
			return // not a line
		}
		var quick, slow record
		if !quick.parseUsual([]byte(s)) || !slow.parseAny([]byte(s)) {
			return
		}
		if string(quick.text) != string(slow.text) && strings.ToValidUTF8(string(quick.text), "\ufffd") != string(slow.text) || quick.stderr != slow.stderr {
			t.Errorf("%q: %q %v, encoding/json reads %q %v", s, quick.text, quick.stderr, slow.text, slow.stderr)
		}
		if quick.unixNano() != slow.unixNano() {
			t.Errorf("%q: time %d, encoding/json reads %d", s, quick.unixNano(), slow.unixNano())
		}
	})
}

// bigLog writes a log of 80-byte lines, a millisecond apart.
func bigLog(t testing.TB, path string, size int64) (lines int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := strings.Repeat("x", 70)
	var b bytes.Buffer
	for written := int64(0); written < size; lines++ {
		fmt.Fprintf(&b, `{"log":"%09d%s\n","stream":"stdout","time":"%s"}`+"\n", lines, text, start.Add(time.Duration(lines)*time.Millisecond).Format(time.RFC3339Nano))
		if b.Len() > 1<<20 {
			written += int64(b.Len())
			b.WriteTo(f)
		}
	}
	b.WriteTo(f)
	return lines
}

func TestSinceFindsItsLineInABigLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x-json.log")
	n := bigLog(t, path, 32<<20)
	for _, from := range []int{0, 1, n / 3, n / 2, n - 1} {
		since := start.Add(time.Duration(from) * time.Millisecond)
		for _, tail := range []int{-1, n - from, n} {
			c := &checked{}
			r, err := Open(path, "json-file", Options{Stdout: true, Raw: true, Tail: tail, Since: since})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Copy(context.Background(), c); err != nil {
				t.Fatal(err)
			}
			r.Close()
			if c.first != fmt.Sprintf("%09d", from) || c.n != int64(n-from)*80 {
				t.Errorf("since line %d, tail %d: starts at %q with %d bytes, want %d", from, tail, c.first, c.n, (n-from)*80)
			}
		}
	}
}

// checked remembers the first nine bytes.
type checked struct {
	first string
	n     int64
}

func (c *checked) Write(p []byte) (int, error) {
	if c.n == 0 {
		c.first = string(p[:9])
	}
	c.n += int64(len(p))
	return len(p), nil
}

// BenchmarkRead counts bytes of text.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x-json.log")
	n := bigLog(b, path, 256<<20)
	for name, o := range map[string]Options{
		"framed":     {Stdout: true, Tail: -1},
		"timestamps": {Stdout: true, Tail: -1, Timestamps: true},
		"grep":       {Stdout: true, Tail: -1, Grep: regexp.MustCompile("12345x")},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(n) * 80)
			for b.Loop() {
				r, err := Open(path, "json-file", o)
				if err != nil {
					b.Fatal(err)
				}
				if err := r.Copy(context.Background(), io.Discard); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}

// BenchmarkSince is the time to the first line of a late start in a 1 GiB log.
func BenchmarkSince(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x-json.log")
	n := bigLog(b, path, 1<<30)
	for b.Loop() {
		r, err := Open(path, "json-file", Options{Stdout: true, Tail: -1, Since: start.Add(time.Duration(n-10) * time.Millisecond)})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Copy(context.Background(), io.Discard); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
