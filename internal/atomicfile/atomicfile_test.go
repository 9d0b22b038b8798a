package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteReplacesContentAndMode(t *testing.T) {
	for name, write := range map[string]func(string, []byte, os.FileMode) error{
		"durable": Write, "volatile": WriteVolatile,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			if err := write(path, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := write(path, []byte("new"), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != "new" {
				t.Errorf("content = %q, %v, want %q", got, err, "new")
			}
			fi, err := os.Stat(path)
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("mode = %v, %v, want 0600", fi.Mode(), err)
			}
		})
	}
}

func TestWriteFromFailureKeepsOldContent(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := Write(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("disk full")
	err := WriteFrom(path, 0o644, func(w io.Writer) error {
		io.WriteString(w, "half")
		return cause
	})
	if !errors.Is(err, cause) {
		t.Errorf("WriteFrom() = %v, want %v", err, cause)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("content = %q, want %q", got, "old")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v, want only the file", entries, err)
	}
}
