package compression

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRoundTrip(t *testing.T) {
	text := strings.Repeat("layer ", 100000)
	for _, kind := range []Kind{None, Gzip, Zstd} {
		t.Run("kind "+string(kind), func(t *testing.T) {
			var buf bytes.Buffer
			w, err := NewWriter(&buf, kind)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			r, got, err := NewReader(&buf)
			if err != nil || got != kind {
				t.Fatalf("kind %q, %v", got, err)
			}
			b, err := io.ReadAll(ReadAhead(r))
			if err != nil || string(b) != text {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	if _, kind, err := NewReader(strings.NewReader("\xfd7zXZ\x00....")); kind != Xz || !errdefs.IsNotImplemented(err) {
		t.Errorf("xz: %q, %v", kind, err)
	}
	if _, err := NewWriter(io.Discard, Bzip2); !errdefs.IsNotImplemented(err) {
		t.Errorf("write bzip2: %v", err)
	}
}

// TestBroken: a stream that is cut or damaged ends in an error, and leaves no
// goroutine behind that Close does not wait for.
func TestBroken(t *testing.T) {
	var buf bytes.Buffer
	w, _ := NewWriter(&buf, Gzip)
	io.WriteString(w, strings.Repeat("x", 1<<20))
	w.Close()
	whole := buf.Bytes()
	for name, b := range map[string][]byte{"cut": whole[:len(whole)/2], "no trailer": whole[:len(whole)-4], "magic only": whole[:3]} {
		t.Run(name, func(t *testing.T) {
			r, _, err := NewReader(bytes.NewReader(b))
			if err == nil {
				ahead := ReadAhead(r)
				_, err = io.Copy(io.Discard, ahead)
				ahead.Close()
			}
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}

// TestZstdWindow: a frame that asks for more memory than the bound is refused.
func TestZstdWindow(t *testing.T) {
	// Magic, descriptor without checksum, window descriptor for 2 GiB.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00}
	r, _, err := NewReader(bytes.NewReader(frame))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if err == nil {
		t.Error("accepted")
	}
}

func TestReadAheadClose(t *testing.T) {
	a := ReadAhead(zeros{})
	buf := make([]byte, 10)
	if _, err := io.ReadFull(a, buf); err != nil {
		t.Fatal(err)
	}
	a.Close() // must not hang although the source never ends
	want := errors.New("late")
	b := ReadAhead(io.MultiReader(strings.NewReader("ab"), failing{want}))
	defer b.Close()
	if got, err := io.ReadAll(b); string(got) != "ab" || !errors.Is(err, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
