package container

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPlace(t *testing.T) {
	file, dir, contents := source{name: "f"}, source{name: "d", isDir: true}, source{isDir: true}
	missing, there := target{path: "/p/x"}, target{path: "/p/x", exists: true}
	folder := target{path: "/p/x", exists: true, isDir: true}
	missingDir, fileAsDir := missing, there
	missingDir.dirWanted, fileAsDir.dirWanted = true, true
	for _, tc := range []struct {
		name         string
		src          source
		dst          target
		dir, newName string
		fails        bool
	}{
		{"file to a new name", file, missing, "/p", "x", false},
		{"file over a file", file, there, "/p", "x", false},
		{"file into a directory", file, folder, "/p/x", "f", false},
		{"file to a directory that is missing", file, missingDir, "", "", true},
		{"file to a file written as a directory", file, fileAsDir, "", "", true},
		{"directory to a new name", dir, missing, "/p", "x", false},
		{"directory to a new name with a slash", dir, missingDir, "/p", "x", false},
		{"directory over a file", dir, there, "", "", true},
		{"directory into a directory", dir, folder, "/p/x", "d", false},
		{"contents to a new name", contents, missing, "/p", "x", false},
		{"contents into a directory", contents, folder, "/p/x", "", false},
	} {
		d, n, err := place(tc.src, tc.dst)
		if d != tc.dir || n != tc.newName || err != nil != tc.fails {
			t.Errorf("%s: %q, %q, %v; want %q, %q", tc.name, d, n, err, tc.dir, tc.newName)
		}
	}
}

func TestParseLocation(t *testing.T) {
	for arg, want := range map[string]location{
		"c:/x": {"c", "/x"}, "c:x:y": {"c", "x:y"}, "/a:b": {path: "/a:b"}, "./a:b": {path: "./a:b"}, "../a:b": {path: "../a:b"},
		"f": {path: "f"}, "-": {path: "-"}, ":x": {path: ":x"},
	} {
		if got := parseLocation(arg); got != want {
			t.Errorf("parseLocation(%q) = %+v, want %+v", arg, got, want)
		}
	}
}

func TestRenamer(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		isDir    bool
		entry    string
		want     string // "": skipped
	}{
		{"f", "g", false, "f", "g"}, {"f", "g", false, "other", ""}, {"f", "g", false, "f/x", ""}, {"f", "g", false, "../f", "g"},
		{"d", "e", true, "d/", "e"}, {"d", "e", true, "d/x", "e/x"}, {"d", "", true, "d/x", "x"}, {"d", "", true, "d/", ""},
		{"", "e", true, "./", "e"}, {"", "e", true, "x", "e/x"}, {"", "", true, "../../x", "x"},
	} {
		if got, _ := renamer(tc.from, tc.to, tc.isDir)(tc.entry); got != tc.want {
			t.Errorf("renamer(%q, %q)(%q) = %q, want %q", tc.from, tc.to, tc.entry, got, tc.want)
		}
	}
}

func TestLocalTarget(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("new", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if got, err := localTarget(filepath.Join(dir, "dangling")); err != nil || got.path != filepath.Join(dir, "new") || got.exists {
		t.Errorf("a link to nothing: %+v, %v", got, err)
	}
	if _, err := localTarget(filepath.Join(dir, "none/x")); err == nil {
		t.Error("a missing parent directory was accepted")
	}
}
