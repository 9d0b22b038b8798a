package log

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.FixedZone("x", 3600))

func open(t *testing.T, cfg Config) *Writer {
	t.Helper()
	if cfg.Driver == "" {
		cfg.Driver = "json-file"
	}
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "x.log")
	}
	w, err := Open(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestJSONFileBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	w := open(t, Config{Path: path, Attrs: map[string]string{"b": "2", "a": "1"}})
	w.Write(Stdout, testTime, []byte("one\ntwo <&>\t\"\\\r\x01\xff\u2028é\nrest"))
	w.Write(Stderr, testTime, []byte("err\n"))
	w.Write(Stdout, testTime, []byte(" of it\n\nlast"))
	w.End(Stdout, testTime)
	w.End(Stderr, testTime)
	w.Close()
	rec := func(text, stream string) string {
		return `{"log":"` + text + `","stream":"` + stream + `","attrs":{"a":"1","b":"2"},"time":"2026-03-04T04:06:07.89Z"}` + "\n"
	}
	want := rec(`one\n`, "stdout") +
		rec(`two \u003c\u0026\u003e\u0009\"\\\r\u0001\ufffd\u2028é\n`, "stdout") +
		rec(`err\n`, "stderr") +
		rec(`rest of it\n`, "stdout") + rec(`\n`, "stdout") + rec(`last`, "stdout")
	if got := content(t, path); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLongLinesAreSplit(t *testing.T) {
	for _, length := range []int{MaxLine - 1, MaxLine, MaxLine + 1, 3*MaxLine + 7} {
		for _, step := range []int{1000, MaxLine, MaxLine + 1, 1 << 20} {
			t.Run(fmt.Sprintf("%d by %d", length, step), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "x.log")
				w := open(t, Config{Path: path})
				text := strings.Repeat("x", length) + "\nnext\n"
				for p := []byte(text); len(p) > 0; p = p[min(step, len(p)):] {
					w.Write(Stdout, testTime, p[:min(step, len(p))])
				}
				w.Close()
				var got []int
				for _, line := range records(t, path) {
					got = append(got, len(line))
				}
				var want []int
				for n := length; ; n -= MaxLine {
					if n < MaxLine {
						want = append(want, n+1)
						break
					}
					want = append(want, MaxLine)
				}
				want = append(want, len("next\n"))
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("record lengths %v, want %v", got, want)
				}
			})
		}
	}
}

func records(t *testing.T, path string) []string {
	t.Helper()
	var list []string
	dec := json.NewDecoder(strings.NewReader(content(t, path)))
	for {
		var rec struct{ Log, Stream, Time string }
		err := dec.Decode(&rec)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, rec.Log)
	}
}

func TestEscapeAgreesWithEncodingJSON(t *testing.T) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i), 'a', byte(i))
	}
	all = append(all, "\u2028\u2029\U0001f600\xf0\x9f\x98"...)
	for pad := range 9 {
		for n := 0; n <= len(all); n++ {
			checkEscape(t, append(bytes.Repeat([]byte{'p'}, pad), all[:n]...))
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("plain text \x1f\x20\x7f\x80"))
	f.Fuzz(func(t *testing.T, text []byte) { checkEscape(t, text) })
}

func checkEscape(t *testing.T, text []byte) {
	t.Helper()
	got := `"` + string(appendEscaped(nil, text)) + `"`
	want, err := json.Marshal(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var a, b string
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	json.Unmarshal(want, &b)
	if a != b {
		t.Fatalf("%q is written as %s, want %s", text, got, want)
	}
}

func TestRotation(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprint("compress ", compress), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.log")
			w := open(t, Config{Path: path, MaxBytes: 1000, MaxFiles: 3, Compress: compress})
			const lines = 100
			for i := range lines {
				w.Write(Stdout, testTime, fmt.Appendf(nil, "line %d\nsecond %d\n", i, i))
			}
			w.Close()
			all := ""
			for _, name := range []string{path + ".2", path + ".1", path} {
				b := content(t, name+ext(compress && name != path))
				if compress && name != path {
					zr, err := gzip.NewReader(strings.NewReader(b))
					if err != nil {
						t.Fatal(err)
					}
					plain, err := io.ReadAll(zr)
					if err != nil {
						t.Fatal(err)
					}
					b = string(plain)
				}
				if len(b) > 1100 {
					t.Errorf("%s has %d bytes, want about 1000", name, len(b))
				}
				all += b
			}
			// What is there is the end of everything, without a gap.
			n := strings.Count(all, "\n")
			var want string
			for i := range lines {
				for _, text := range []string{"line", "second"} {
					want += fmt.Sprintf(`{"log":"%s %d\n","stream":"stdout","time":"2026-03-04T04:06:07.89Z"}`+"\n", text, i)
				}
			}
			if !strings.HasSuffix(want, all) || n < 25 {
				t.Errorf("%d records that are not the last of what was written:\n%s", n, all)
			}
			names, _ := filepath.Glob(path + "*")
			if len(names) != 3 {
				t.Errorf("files %q, want three", names)
			}
		})
	}
}

func ext(gz bool) string {
	if gz {
		return ".gz"
	}
	return ""
}

// A reader that has the live file open sees each record once, over rotations.
func TestFollowerReadsOldFileToItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	w := open(t, Config{Path: path, MaxBytes: 300, MaxFiles: 2})
	w.Write(Stdout, testTime, []byte("a\n"))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 5 {
		w.Write(Stdout, testTime, []byte("b\n"))
	}
	w.Close()
	b, err := io.ReadAll(f)
	if err != nil || !bytes.HasSuffix(b, []byte("}\n")) || bytes.Count(b, []byte("\n")) < 2 {
		t.Errorf("the old file reads as %q, %v", b, err)
	}
}

func TestSingleFileIsTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	w := open(t, Config{Path: path, MaxBytes: 200})
	for range 20 {
		w.Write(Stdout, testTime, []byte("text\n"))
	}
	w.Close()
	if n := len(content(t, path)); n > 300 {
		t.Errorf("%d bytes, want about 200", n)
	}
	records(t, path)
}

func TestTornRecordIsCutOff(t *testing.T) {
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.log")
			write := func(text string) {
				w := open(t, Config{Driver: driver, Path: path})
				w.Write(Stdout, testTime, []byte(text))
				w.Close()
			}
			write("one\n")
			whole := content(t, path)
			for cut := range len(whole) {
				os.WriteFile(path, []byte(whole+whole[:cut]), 0o600)
				write("one\n")
				if got := content(t, path); got != whole+whole {
					t.Fatalf("after %d torn bytes: %q", cut, got)
				}
			}
		})
	}
}

func TestLocalFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	w := open(t, Config{Driver: "local", Path: path})
	w.Write(Stderr, testTime, []byte("hi\n"+strings.Repeat("y", MaxLine+1)+"\n"))
	w.Close()
	b := []byte(content(t, path))
	var messages [][]byte
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		messages = append(messages, b[4:4+n])
		if end := binary.BigEndian.Uint32(b[4+n:]); end != n {
			t.Fatalf("lengths %d and %d differ", n, end)
		}
		b = b[8+n:]
	}
	if len(messages) != 3 {
		t.Fatalf("%d messages, want 3", len(messages))
	}
	want := "\x0a\x06stderr\x10" + string(binary.AppendUvarint(nil, uint64(testTime.UnixNano()))) + "\x1a\x02hi"
	if string(messages[0]) != want {
		t.Errorf("first message %q, want %q", messages[0], want)
	}
	// Both pieces carry the same id, and their ordinals; the second is the last.
	meta := func(m []byte) []byte { return m[bytes.LastIndex(m, []byte("\x20\x01\x2a"))+4:] }
	first, second := meta(messages[1]), meta(messages[2])
	if len(first) != 68 || string(first[66:]) != "\x18\x01" || string(second[:2]) != "\x08\x01" ||
		string(second[2:68]) != string(first[:66]) || string(second[68:]) != "\x18\x02" {
		t.Errorf("metadata %q and %q", first, second)
	}
}

func TestFullDiskDropsWholeRecordsAndRecovers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	w := open(t, Config{Path: path})
	w.Write(Stdout, testTime, []byte("before\n"))
	// A descriptor without write permission fails as a full disk does.
	good := w.file.f
	bad, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.file.f = bad
	w.Write(Stdout, testTime, []byte("lost\nlost\n"))
	w.file.f = good
	bad.Close()
	w.Write(Stdout, testTime, []byte("after\n"))
	w.Close()
	if got := records(t, path); fmt.Sprint(got) != "[before\n after\n]" {
		t.Errorf("records %q", got)
	}
}

// On a file system that is full a write is cut short; what it wrote is taken back.
func TestShortWriteLeavesNoTornRecord(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("cannot mount a small tmpfs: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "x.log")
	w := open(t, Config{Path: path})
	for range 10 {
		w.Write(Stdout, testTime, bytes.Repeat([]byte("some text\n"), 200))
	}
	if len(records(t, path)) == 0 || !w.failing {
		t.Error("the disk did not fill up")
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	w.file.size = 0
	w.Write(Stdout, testTime, []byte("after\n"))
	w.Close()
	if got := records(t, path); fmt.Sprint(got) != "[after\n]" {
		t.Errorf("records %q", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	os.Symlink("/dev/null", filepath.Join(dir, "link"))
	for _, cfg := range []Config{
		{Driver: "syslog", Path: filepath.Join(dir, "x")},
		{Driver: "json-file", Path: filepath.Join(dir, "missing", "x")},
		{Driver: "json-file", Path: filepath.Join(dir, "link")},
		{Driver: "json-file", Path: "/dev/null"},
	} {
		if w, err := Open(cfg, slog.Default()); err == nil {
			w.Close()
			t.Errorf("Open(%+v) succeeds", cfg)
		}
	}
}

func BenchmarkWriter_Write80(b *testing.B) {
	for _, driver := range []string{"json-file", "local"} {
		b.Run(driver, func(b *testing.B) {
			dir := b.TempDir()
			if _, err := os.Stat("/dev/shm"); err == nil {
				if d, err := os.MkdirTemp("/dev/shm", "log"); err == nil {
					dir = d
					defer os.RemoveAll(d)
				}
			}
			w, err := Open(Config{Driver: driver, Path: filepath.Join(dir, "x.log"), MaxBytes: 64 << 20, MaxFiles: 2}, slog.Default())
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			chunk := bytes.Repeat([]byte(strings.Repeat("a log line of text ", 4)+"end\n"), 800)
			chunk = chunk[:64000]
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				w.Write(Stdout, time.Now(), chunk)
			}
		})
	}
}

// A held log waits for its oldest file to be taken away, and for nothing once it
// is released.
func TestHold(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.log")
	w, err := Open(Config{Driver: "local", Path: path, MaxBytes: 1000, MaxFiles: 2, Hold: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	text := bytes.Repeat([]byte("x"), 600)
	write := func() { w.Write(Stdout, time.Now(), append(text[:len(text):len(text)], '\n')) }
	for range 4 {
		write() // two full files
	}
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		write()
	}()
	select {
	case <-blocked:
		t.Fatal("a record was written over the file that is held")
	case <-time.After(5 * holdPause):
	}
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	<-blocked
	write()
	go w.Release()
	write()
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Errorf("the held file is gone: %v", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() < 1800 {
		t.Errorf("the live file has %v, %v: the last record is missing", fi.Size(), err)
	}
}
