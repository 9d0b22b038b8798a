package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestDir(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a/b")
	if ids, err := List(root); err != nil || len(ids) != 0 {
		t.Errorf("list of a missing root: %v, error %v", ids, err)
	}
	d, err := Create(root, "c1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(root, "c1"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second create: got %v, want AlreadyExists", err)
	}
	if _, err := Read(root, "c1"); !errdefs.IsNotFound(err) {
		t.Errorf("read before save: got %v, want NotFound", err)
	}
	want := &Record{ID: "c1", PID: 7, StartTime: 9, Cgroups: map[string]string{"": "/x"}}
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(root, "c1")
	if err != nil || got.PID != 7 || got.StartTime != 9 || got.Cgroups[""] != "/x" {
		t.Errorf("got %+v, error %v", got, err)
	}
	// A second Open waits for the lock, and finds the directory gone.
	opened := make(chan error, 1)
	go func() {
		_, err := Open(root, "c1")
		opened <- err
	}()
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; !errdefs.IsNotFound(err) {
		t.Errorf("open of a removed container: got %v, want NotFound", err)
	}
	if ids, err := List(root); err != nil || len(ids) != 0 {
		t.Errorf("list: %v, error %v", ids, err)
	}
}

func TestRead_damaged(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "c1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "c1", recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(root, "c1"); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v, want DataLoss", err)
	}
}

func TestValidateID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "A_+-.9": true, "": false, ".": false, "..": false, "a/b": false, "a b": false, "ä": false,
		strings.Repeat("x", 255): true, strings.Repeat("x", 256): false,
	} {
		if err := ValidateID(id); (err == nil) != ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want valid=%v", id, err, ok)
		}
	}
}

func TestParseStat(t *testing.T) {
	tail := " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"
	for line, want := range map[string]Process{
		"1 (sh) S" + tail:         {StartTime: 4711},
		"1 (a) b) (c) R" + tail:   {StartTime: 4711},
		"1 (zombie) Z" + tail:     {StartTime: 4711, Dead: true},
		"1 (x) X" + tail + "\n":   {StartTime: 4711, Dead: true},
		"99 (new\nline) S" + tail: {StartTime: 4711},
	} {
		if got, err := parseStat([]byte(line)); err != nil || got != want {
			t.Errorf("%q: got %+v, error %v", line, got, err)
		}
	}
	for _, line := range []string{"", "1 sh S", "1 (sh) S 1 2", "1 (sh) S" + strings.Replace(tail, "4711", "x", 1)} {
		if _, err := parseStat([]byte(line)); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

func TestRecord_Alive(t *testing.T) {
	self, err := ReadProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		r    Record
		want bool
	}{
		{Record{PID: os.Getpid(), StartTime: self.StartTime}, true},
		{Record{PID: os.Getpid(), StartTime: self.StartTime + 1}, false}, // another process has the pid
		{Record{}, false},
		{Record{PID: 1 << 30}, false},
	} {
		if got := tt.r.Alive(); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.r, got, tt.want)
		}
	}
}
