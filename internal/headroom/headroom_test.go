package headroom

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 7 {
		t.Errorf("size = %d, want 7: the file looks longer than it is", st.Size)
	}
	if got := st.Blocks * 512; got < bytes {
		t.Errorf("%d bytes are reserved, want at least %d", got, bytes)
	}
}

// A reader changes nothing, and what does not exist is said as os does.
func TestOpenFileReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if _, err := OpenFile(path, os.O_RDONLY, 0); !os.IsNotExist(err) {
		t.Errorf("OpenFile() of no file = %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks != 0 {
		t.Errorf("a file opened for reading has %d blocks, %v, want none", st.Blocks, err)
	}
}
