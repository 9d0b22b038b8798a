package log

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// line is the i-th record: every third is of stderr, a second apart.
func line(i int) string {
	stream := "stdout"
	if i%3 == 2 {
		stream = "stderr"
	}
	return fmt.Sprintf(`{"log":"line %d\n","stream":%q,"attrs":{"k":"v w"},"time":%q}`+"\n", i, stream, start.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano))
}

func lines(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		b.WriteString(line(i))
	}
	return b.String()
}

func texts(from, to int, only string) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		if err := i%3 == 2; only == "" || (only == "stderr") == err {
			fmt.Fprintf(&b, "line %d\n", i)
		}
	}
	return b.String()
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func zip(t *testing.T, path, text string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	put(t, path, b.String())
}

func read(t *testing.T, path string, o Options) string {
	t.Helper()
	r, err := Open(path, "json-file", o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out bytes.Buffer
	if err := r.Copy(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x-json.log")
	zip(t, path+".2.gz", lines(0, 10))
	put(t, path+".1", lines(10, 20))
	put(t, path, lines(20, 30)+`{"log":"torn`)
	both := func(o Options) Options {
		o.Stdout, o.Stderr, o.Raw = true, true, true
		return o
	}
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"all":               {both(Options{Tail: -1}), texts(0, 30, "")},
		"none":              {both(Options{Tail: 0}), ""},
		"tail 1":            {both(Options{Tail: 1}), texts(29, 30, "")},
		"tail in live":      {both(Options{Tail: 7}), texts(23, 30, "")},
		"tail at its start": {both(Options{Tail: 10}), texts(20, 30, "")},
		"tail in rotated":   {both(Options{Tail: 15}), texts(15, 30, "")},
		"tail in gzip":      {both(Options{Tail: 24}), texts(6, 30, "")},
		"tail beyond":       {both(Options{Tail: 1000}), texts(0, 30, "")},
		"stderr":            {Options{Stderr: true, Raw: true, Tail: -1}, texts(0, 30, "stderr")},
		"tail of stderr":    {Options{Stderr: true, Raw: true, Tail: 2}, "line 26\nline 29\n"},
		"since":             {both(Options{Tail: -1, Since: start.Add(25 * time.Second)}), texts(25, 30, "")},
		"until":             {both(Options{Tail: -1, Until: start.Add(4 * time.Second)}), texts(0, 5, "")},
		"since until":       {both(Options{Tail: -1, Since: start.Add(8 * time.Second), Until: start.Add(12 * time.Second)}), texts(8, 13, "")},
		"details": {both(Options{Tail: 1, Details: true, Timestamps: true}),
			"2026-01-02T03:04:34.000000000Z k=v+w line 29\n"},
		"framed": {Options{Stdout: true, Stderr: true, Tail: 2},
			"\x01\x00\x00\x00\x00\x00\x00\x08line 28\n\x02\x00\x00\x00\x00\x00\x00\x08line 29\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := read(t, path, tt.o); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := read(t, filepath.Join(dir, "absent"), both(Options{Tail: -1})); got != "" {
		t.Errorf("an absent log reads as %q", got)
	}
}

func TestTailAcrossChunks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x-json.log")
	put(t, path, lines(0, 5000)) // several backward chunks
	for _, n := range []int{1, 2, 333, 1000, 4999, 5000, 5001} {
		got := read(t, path, Options{Stdout: true, Stderr: true, Raw: true, Tail: n})
		if want := texts(max(0, 5000-n), 5000, ""); got != want {
			t.Errorf("tail %d: %d bytes, want %d", n, len(got), len(want))
		}
	}
}

func TestHugeAndTornLinesAreSkipped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x-json.log")
	put(t, path, line(0)+strings.Repeat("x", 3*maxLineBytes)+"\n"+"{torn\n"+line(1))
	for _, n := range []int{-1, 2, 10} {
		if got := read(t, path, Options{Stdout: true, Stderr: true, Raw: true, Tail: n}); got != texts(0, 2, "") {
			t.Errorf("tail %d: %q", n, got)
		}
	}
}

// sink collects output and tells when it holds enough.
type sink struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{}
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(p)
	select {
	case s.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *sink) waitFor(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		got := s.buf.String()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.news:
		case <-deadline:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x-json.log")
	done := make(chan struct{})
	r, err := Open(path, "json-file", Options{Stdout: true, Stderr: true, Raw: true, Tail: -1, Follow: true, Done: done})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := &sink{news: make(chan struct{}, 1)}
	copied := make(chan error, 1)
	go func() { copied <- r.Copy(context.Background(), out) }()

	put(t, path, lines(0, 3)) // made after the follow began
	out.waitFor(t, texts(0, 3, ""))
	appendTo(t, path, line(3)[:20])
	appendTo(t, path, line(3)[20:])
	out.waitFor(t, texts(0, 4, ""))
	// Two rotations in a row, with lines before, between and after.
	appendTo(t, path, line(4))
	rotate(t, path, 1)
	put(t, path, lines(5, 7))
	rotate(t, path, 2)
	put(t, path, lines(7, 9))
	out.waitFor(t, texts(0, 9, ""))
	appendTo(t, path, line(9))
	close(done) // what was written before is still read
	if err := <-copied; err != nil {
		t.Error(err)
	}
	out.waitFor(t, texts(0, 10, ""))
}

func TestFollowSeesTruncation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x-json.log")
	put(t, path, lines(0, 5))
	ctx, cancel := context.WithCancel(context.Background())
	r, err := Open(path, "json-file", Options{Stdout: true, Stderr: true, Raw: true, Tail: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := &sink{news: make(chan struct{}, 1)}
	copied := make(chan error, 1)
	go func() { copied <- r.Copy(ctx, out) }()
	out.waitFor(t, texts(4, 5, ""))
	put(t, path, "")
	appendTo(t, path, line(5))
	out.waitFor(t, texts(4, 6, ""))
	cancel()
	if err := <-copied; err == nil {
		t.Error("a cancelled follow returned no error")
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// rotate shifts the files of a log of which n exist.
func rotate(t *testing.T, path string, n int) {
	t.Helper()
	for i := n; i > 0; i-- {
		from := path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", path, i-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", path, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(lines(0, 3)), 2)
	f.Add([]byte("{}\n\n{\"log\":1}\n"), -1)
	f.Fuzz(func(t *testing.T, data []byte, tail int) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Skip()
		}
		all := read(t, path, Options{Stdout: true, Stderr: true, Raw: true, Tail: -1})
		if got := read(t, path, Options{Stdout: true, Stderr: true, Raw: true, Tail: tail}); !strings.HasSuffix(all, got) {
			t.Errorf("tail %d is no tail: %q of %q", tail, got, all)
		}
	})
}

func BenchmarkReader_Tail(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x-json.log")
	if err := os.WriteFile(path, []byte(lines(0, 100_000)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r, err := Open(path, "json-file", Options{Stdout: true, Stderr: true, Tail: 100})
		if err != nil {
			b.Fatal(err)
		}
		var out bytes.Buffer
		if err := r.Copy(context.Background(), &out); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}
