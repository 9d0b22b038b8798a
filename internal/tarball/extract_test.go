package tarball

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/internal/testenv"
)

// entry is a header with its contents.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}
func dirEntry(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}
func symlink(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, ""}
}
func hardlink(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o777}, ""}
}
func (e entry) mode(m int64) entry { e.Mode = m; return e }

func archiveOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1700000000, 0)
		}
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func openRoot(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func extract(t testing.TB, root string, archive []byte, o Options) error {
	t.Helper()
	_, err := Extract(t.Context(), openRoot(t, root), bytes.NewReader(archive), o)
	return err
}

// own makes the entries' owner that of the test when it is not root.
func own(o Options) Options {
	if os.Geteuid() != 0 {
		o.Owner = &Owner{os.Getuid(), os.Getgid()}
	}
	return o
}

// snapshot describes all of a tree but the times of directories.
func snapshot(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		desc := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			desc += fmt.Sprintf(" %d.%09d %q", st.Mtim.Sec, st.Mtim.Nsec, b)
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			desc += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			desc += fmt.Sprintf(" %d", st.Rdev)
		}
		out[rel] = desc
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEvil extracts hostile archives next to a canary tree, in each mode: what
// is outside the root never changes, neither its contents nor its attributes.
// CVE-2014-6407, 2021-29136, 2021-32760, 2025-47290, 2026-17106.
func TestEvil(t *testing.T) {
	big := strings.Repeat("a/", 3000)
	cases := map[string]struct {
		entries []entry
		reject  bool // must be an InvalidArgument or system call error
	}{
		"dot dot":                     {[]entry{file("../canary/f", "x")}, true},
		"dot dot inside":              {[]entry{file("a/../../canary/f", "x")}, true},
		"absolute":                    {[]entry{file("/canary/f", "x")}, false},
		"absolute link then file":     {[]entry{symlink("l", "CANARY"), file("l/f", "x")}, false},
		"relative link then file":     {[]entry{symlink("l", "../canary"), file("l/f", "x")}, false},
		"link then file over it":      {[]entry{symlink("l", "CANARY/f"), file("l", "x")}, false},
		"link then dir over it":       {[]entry{symlink("l", "CANARY"), dirEntry("l").mode(0o777)}, false},
		"link chain":                  {[]entry{symlink("a", "CANARY"), symlink("b", "a"), file("b/f", "x")}, false},
		"link in parent":              {[]entry{dirEntry("d"), symlink("d/l", "../../canary"), file("d/l/new", "x")}, false},
		"parent replaced":             {[]entry{file("d/x", "1"), symlink("d", "CANARY"), file("d/f", "x")}, false},
		"parent replaced and back":    {[]entry{file("d/x", "1"), symlink("d", "CANARY"), dirEntry("d"), file("d/f", "x")}, false},
		"self link":                   {[]entry{symlink("l", "l"), file("l/f", "x")}, true},
		"hard link absolute":          {[]entry{hardlink("h", "CANARY/f"), file("h", "x")}, true},
		"hard link dot dot":           {[]entry{hardlink("h", "../canary/f")}, true},
		"hard link through link":      {[]entry{symlink("l", "CANARY"), hardlink("h", "l/f")}, true},
		"hard link to link, written":  {[]entry{symlink("l", "CANARY/f"), hardlink("h", "l"), file("h", "x")}, false},
		"hard link to root":           {[]entry{hardlink("h", ".")}, true},
		"root as link":                {[]entry{symlink(".", "CANARY"), file("f", "x")}, true},
		"root as link, slash":         {[]entry{symlink("./", "CANARY")}, true},
		"root as file":                {[]entry{{tar.Header{Typeflag: tar.TypeFifo, Name: "/."}, ""}}, true},
		"proc link":                   {[]entry{symlink("l", "/proc/self/cwd"), file("l/f", "x")}, false},
		"proc fd link":                {[]entry{symlink("l", "/proc/self/root/CANARY"), file("l/f", "x")}, false},
		"mode through link":           {[]entry{symlink("l", "CANARY/f"), {tar.Header{Typeflag: tar.TypeLink, Name: "l2", Linkname: "l", Mode: 0o7777, Uid: 1, Gid: 1}, ""}}, false},
		"whiteout of parent":          {[]entry{file(".wh...", "")}, true},
		"whiteout of self":            {[]entry{file(".wh..", "")}, true},
		"whiteout of nothing":         {[]entry{file(".wh.", "")}, true},
		"whiteout through link":       {[]entry{symlink("l", "CANARY"), file("l/.wh.f", "")}, false},
		"opaque through link":         {[]entry{symlink("l", "../canary"), file("l/.wh..wh..opq", "")}, false},
		"below a whiteout":            {[]entry{file(".wh.x/f", "")}, true},
		"NUL":                         {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"path": "a/b"}}, ""}}, false},
		"long component":              {[]entry{file(strings.Repeat("x", 300), "x")}, true},
		"long path":                   {[]entry{file(big+"f", "x")}, true},
		"empty link":                  {[]entry{{tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: strings.Repeat("y", 5000)}, ""}}, true},
		"trailing slash link":         {[]entry{symlink("l", "CANARY/"), file("l/f/", "x")}, false},
		"unicode slash":               {[]entry{file("..\u2215canary\u2215f", "x")}, false},
		"negative owner":              {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: -1}, ""}}, true},
		"owner that is no owner":      {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1}, ""}}, true},
		"device out of range":         {[]entry{{tar.Header{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1 << 20, Devminor: 3}, ""}}, true},
		"link, dir, file, same name":  {[]entry{symlink("l", "CANARY"), dirEntry("l"), file("l/f", "x"), symlink("l", "CANARY"), file("l/f", "x")}, false},
		"dir attributes through link": {[]entry{dirEntry("d"), symlink("d/up", ".."), dirEntry("d/up/../../canary").mode(0o777)}, false},
		"overlay attributes":          {[]entry{{tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/canary"}}, ""}}, false},
		"security label":              {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.security.selinux": "x"}}, ""}}, false},
		"empty attribute name":        {[]entry{{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.": "x"}}, ""}}, false},
		"many links":                  {manyLinks(45), true},
		"file below file":             {[]entry{file("f", "x"), file("f/g", "x")}, true},
	}
	for name, c := range cases {
		for mode, o := range map[string]Options{"plain": {}, "flat": {Whiteouts: Delete}, "overlay": {Whiteouts: Overlay}, "dir": {Dir: "sub"}} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				top := t.TempDir()
				root, canary := filepath.Join(top, "root"), filepath.Join(top, "canary")
				for _, d := range []string{filepath.Join(root, "sub"), canary} {
					if err := os.MkdirAll(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(canary, "f"), []byte("canary"), 0o640); err != nil {
					t.Fatal(err)
				}
				before := snapshot(t, canary)
				names, _ := os.ReadDir(top)
				var entries []entry
				for _, e := range c.entries {
					e.Linkname = strings.ReplaceAll(e.Linkname, "CANARY", canary)
					entries = append(entries, e)
				}
				var buf bytes.Buffer
				tw := tar.NewWriter(&buf)
				for _, e := range entries {
					e.Size = int64(len(e.body))
					if err := tw.WriteHeader(&e.Header); err != nil {
						t.Skipf("the tar writer refuses to make this: %v", err)
					}
					fmt.Fprint(tw, e.body)
				}
				tw.Close()
				err := extract(t, root, buf.Bytes(), own(o))
				if after := snapshot(t, canary); !maps.Equal(before, after) {
					t.Errorf("canary changed (error %v):\nbefore %v\nafter  %v", err, before, after)
				}
				if now, _ := os.ReadDir(top); len(now) != len(names) {
					t.Errorf("something was made beside the root: %v", now)
				}
				whiteouts := strings.Contains(name, "hiteout") || strings.Contains(name, "opaque")
				if c.reject && err == nil && !(o.Whiteouts == Literal && whiteouts) {
					t.Error("accepted")
				}
			})
		}
	}
}

func manyLinks(n int) []entry {
	var out []entry
	for i := range n {
		out = append(out, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)))
	}
	return append(out, dirEntry(fmt.Sprintf("l%d", n)), file("l0/f", "x"))
}

// TestAttributes extracts one of each kind with its attributes.
func TestAttributes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	root := t.TempDir()
	when := time.Unix(1600000000, 123456789)
	pax := func(h tar.Header) entry { h.Format = tar.FormatPAX; h.ModTime = when; return entry{h, ""} }
	long := strings.Repeat("long/", 60) + strings.Repeat("n", 200)
	suid := file("suid", "#!")
	suid.Mode, suid.Uid, suid.Gid = 0o6755, 1000, 1001
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	capped := file("caps", "bin")
	capped.Uid, capped.PAXRecords = 5, map[string]string{"SCHILY.xattr.security.capability": caps, "SCHILY.xattr.user.a": "b"}
	capped.Format = tar.FormatPAX
	entries := []entry{
		pax(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711}),
		pax(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o2775, Gid: 50}),
		pax(tar.Header{Typeflag: tar.TypeReg, Name: "d/plain", Mode: 0o600}),
		pax(tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "d", Uid: 7, Gid: 8}),
		pax(tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o622}),
		pax(tar.Header{Typeflag: tar.TypeChar, Name: "c", Mode: 0o666, Devmajor: 1, Devminor: 5}),
		pax(tar.Header{Typeflag: tar.TypeBlock, Name: "b", Mode: 0o660, Devmajor: 7, Devminor: 300}),
		suid, capped,
		hardlink("h", "suid"),
		file(long, "deep"),
	}
	if err := extract(t, root, archiveOf(t, entries...), Options{Whiteouts: Delete}); err != nil {
		t.Fatal(err)
	}
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	checks := []struct {
		name           string
		mode, uid, gid uint32
	}{
		{"", unix.S_IFDIR | 0o711, 0, 0},
		{"d", unix.S_IFDIR | 0o2775, 0, 50},
		{"d/plain", unix.S_IFREG | 0o600, 0, 0}, // not the group of its setgid directory
		{"s", unix.S_IFLNK | 0o777, 7, 8},
		{"p", unix.S_IFIFO | 0o622, 0, 0},
		{"c", unix.S_IFCHR | 0o666, 0, 0},
		{"b", unix.S_IFBLK | 0o660, 0, 0},
		{"suid", unix.S_IFREG | 0o6755, 1000, 1001},
		{long, unix.S_IFREG | 0o644, 0, 0},
	}
	for _, c := range checks {
		st := stat(c.name)
		if st.Mode != c.mode || st.Uid != c.uid || st.Gid != c.gid {
			t.Errorf("%q: got %o %d:%d, want %o %d:%d", c.name, st.Mode, st.Uid, st.Gid, c.mode, c.uid, c.gid)
		}
	}
	for _, name := range []string{"", "d", "d/plain", "s", "p", "c"} {
		if st := stat(name); st.Mtim.Nano() != when.UnixNano() {
			t.Errorf("%q: mtime %d, want %d", name, st.Mtim.Nano(), when.UnixNano())
		}
	}
	if st := stat("b"); st.Rdev != unix.Mkdev(7, 300) {
		t.Errorf("device %d", st.Rdev)
	}
	if a, b := stat("suid"), stat("h"); a.Ino != b.Ino {
		t.Error("hard link is another file")
	}
	buf := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(root, "caps"), "security.capability", buf); err != nil || n == 0 {
		t.Errorf("capability: %d bytes, %v", n, err)
	}
	if n, err := unix.Getxattr(filepath.Join(root, "caps"), "user.a", buf); err != nil || string(buf[:n]) != "b" {
		t.Errorf("user.a: %q, %v", buf[:n], err)
	}
}

// TestWhiteoutsFlat holds layers applied to a flat tree to the image-spec: a
// whiteout removes what was below, never what its own layer brings.
func TestWhiteoutsFlat(t *testing.T) {
	lower := archiveOf(t, file("keep", ""), file("gone", ""), file("d/old", ""), file("d/sub/old", ""), file("r/a/b", ""), file("t/x", ""))
	upper := archiveOf(t,
		file(".wh.gone", ""), file(".wh.never", ""),
		file("d/new", ""), file("d/sub/new", ""), file("d/.wh..wh..opq", ""), file("d/.wh..wh..opq", ""),
		file("r/a/mine", ""), file(".wh.r", ""),
		file(".wh.t", ""), file("t/y", ""),
		file(".wh..wh.plnk/x", ""), file(".wh..wh.aufs", ""),
	)
	root := t.TempDir()
	for _, layer := range [][]byte{lower, upper} {
		if err := extract(t, root, layer, own(Options{Whiteouts: Delete})); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for p, desc := range snapshot(t, root) {
		if strings.HasPrefix(desc, "100") {
			got = append(got, p)
		}
	}
	slices.Sort(got)
	want := []string{"d/new", "d/sub/new", "keep", "r/a/mine", "t/y"}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

// TestOverlay applies layers to upper directories and reads them back through
// the flat form: both must agree, also where a layer relies on directories,
// links and files of those below.
func TestOverlay(t *testing.T) {
	testenv.Need(t, testenv.Root)
	layers := [][]byte{
		archiveOf(t, dirEntry("usr/lib").mode(0o751), symlink("lib", "usr/lib"), file("usr/lib/a", "a"),
			dirEntry("etc").mode(0o700), file("etc/conf", "c"), file("opt/x/y", "1"), symlink("abs", "/usr"), file("data/f", "f"),
			symlink("up", "opt/x/../../etc")),
		archiveOf(t, file("lib/b", "b"), file("abs/lib/c", "c"), file("up/d", "d"), hardlink("etc/conf2", "etc/conf"),
			file(".wh.opt", ""), file("opt/z", "2"), file("data/.wh.f", ""), file("data/g", "g")),
		archiveOf(t, file("lib/.wh.a", ""), file("etc/.wh..wh..opq", ""), file("etc/only", "o"), dirEntry("data").mode(0o711)),
	}
	flat := t.TempDir()
	var lowers []*os.File
	var dirs []string
	for i, l := range layers {
		if err := extract(t, flat, l, Options{Whiteouts: Delete}); err != nil {
			t.Fatalf("flat layer %d: %v", i, err)
		}
		upper := t.TempDir()
		if err := os.Chmod(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := extract(t, upper, l, Options{Whiteouts: Overlay, Lower: lowers}); err != nil {
			t.Fatalf("overlay layer %d: %v", i, err)
		}
		lowers = append([]*os.File{openRoot(t, upper)}, lowers...)
		dirs = append([]string{upper}, dirs...)
	}
	merged := t.TempDir()
	if err := unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")); err != nil {
		t.Skipf("no overlayfs: %v", err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	got, want := snapshot(t, merged), snapshot(t, flat)
	delete(got, ".")
	delete(want, ".")
	for _, name := range slices.Sorted(maps.Keys(joined(got, want))) {
		if got[name] != want[name] {
			t.Errorf("%q: overlay %q, flat %q", name, got[name], want[name])
		}
	}
	if st := got["usr/lib"]; !strings.HasPrefix(st, "40751") {
		t.Errorf("directory copied from below lost its mode: %q", st)
	}
}

func joined(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// TestLimits holds the bounds on archives that expand (CVE-2017-14992,
// CVE-2025-58183).
func TestLimits(t *testing.T) {
	tests := map[string]struct {
		archive []byte
		o       Options
	}{
		"bytes":   {archiveOf(t, file("a", strings.Repeat("x", 600)), file("b", strings.Repeat("x", 600))), Options{MaxBytes: 1000}},
		"entries": {archiveOf(t, file("a", ""), file("b", ""), file("c", "")), Options{MaxEntries: 2}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := extract(t, t.TempDir(), tt.archive, own(tt.o)); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
	for name, body := range map[string][]byte{
		"not a tar": bytes.Repeat([]byte("not a tar "), 200),
		"truncated": archiveOf(t, file("a", strings.Repeat("x", 5000)))[:2000],
	} {
		t.Run(name, func(t *testing.T) {
			if err := extract(t, t.TempDir(), body, own(Options{})); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}

// TestLinear: repeated whiteouts and replacements cost no more than the plain
// entries do (CVE-2026-95838). The bound is on system calls' effect, not time:
// a quadratic extractor needs minutes for this.
func TestLinear(t *testing.T) {
	const n = 5000
	var entries []entry
	for i := range n {
		entries = append(entries, file(fmt.Sprintf("d/f%d", i), ""))
	}
	for range n {
		entries = append(entries, file("d/.wh..wh..opq", ""))
	}
	for i := range 1000 {
		entries = append(entries, dirEntry("swap"), dirEntry(fmt.Sprintf("swap/%d", i)), file("swap", ""))
	}
	archive := archiveOf(t, entries...)
	for _, w := range []Whiteouts{Delete, Overlay} {
		if w == Overlay && os.Geteuid() != 0 {
			continue // sets trusted attributes
		}
		start := time.Now()
		if err := extract(t, t.TempDir(), archive, own(Options{Whiteouts: w})); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > time.Minute {
			t.Errorf("whiteouts %d: took %v", w, d)
		}
	}
}

// TestDeep removes and replaces a tree deeper than there are descriptors.
func TestDeep(t *testing.T) {
	deep := strings.Repeat("d/", 1800) + "f"
	archive := archiveOf(t, file(deep, "x"), file("d", "now a file"))
	root := t.TempDir()
	if err := extract(t, root, archive, own(Options{})); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "d")); err != nil || string(b) != "now a file" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestKeepKinds(t *testing.T) {
	root := t.TempDir()
	if err := extract(t, root, archiveOf(t, dirEntry("d"), file("f", "")), own(Options{})); err != nil {
		t.Fatal(err)
	}
	for _, e := range []entry{file("d", ""), dirEntry("f")} {
		if err := extract(t, root, archiveOf(t, e), own(Options{KeepKinds: true})); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want InvalidArgument", e.Name, err)
		}
	}
}

func TestSparse(t *testing.T) {
	// A PAX 1.0 sparse file: 1 MiB of which only the last 4 KiB are data.
	const size = 1 << 20
	m := fmt.Sprintf("1\n%d\n4096\n", size-4096)
	body := m + strings.Repeat("\x00", 512-len(m)) + strings.Repeat("z", 4096)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	// archive/tar refuses to write these records; they go in by hand.
	records := ""
	for k, v := range map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": fmt.Sprint(size)} {
		rec := " " + k + "=" + v + "\n"
		n := len(rec) + 2
		records += fmt.Sprint(n) + rec
	}
	tw.Flush()
	writeRaw(&buf, "pax", 'x', records)
	writeRaw(&buf, "GNUSparseFile.0/sparse", '0', body)
	buf.Write(make([]byte, 1024))
	root := t.TempDir()
	if err := extract(t, root, buf.Bytes(), own(Options{})); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "sparse"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size || st.Blocks*512 > 128<<10 {
		t.Errorf("size %d, %d bytes allocated", st.Size, st.Blocks*512)
	}
	b, _ := os.ReadFile(filepath.Join(root, "sparse"))
	if len(b) != size || b[0] != 0 || b[size-1] != 'z' {
		t.Error("contents differ")
	}
}

func writeRaw(buf *bytes.Buffer, name string, kind byte, body string) {
	var h [512]byte
	copy(h[:], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", len(body)))
	copy(h[136:], "00000000000\x00")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	buf.Write(h[:])
	buf.WriteString(body)
	if r := len(body) % 512; r > 0 {
		buf.Write(make([]byte, 512-r))
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	_, err := Extract(ctx, openRoot(t, t.TempDir()), bytes.NewReader(archiveOf(t, file("a", "b"))), own(Options{}))
	if !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(archiveOf(f, file("a/b", "x"), symlink("l", "/etc"), file("l/x", "y"), file(".wh.a", "")), uint8(2))
	f.Add(archiveOf(f, dirEntry("d"), hardlink("h", "d"), file("d/.wh..wh..opq", "")), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, mode uint8) {
		top := t.TempDir()
		root := filepath.Join(top, "root")
		for _, d := range []string{root, filepath.Join(top, "canary")} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t, filepath.Join(top, "canary"))
		o := Options{Whiteouts: Whiteouts(mode % 3), MaxBytes: 1 << 20, MaxEntries: 1000, Owner: &Owner{os.Getuid(), os.Getgid()}}
		_ = extract(t, root, b, o)
		if now, _ := os.ReadDir(top); len(now) != 2 || !maps.Equal(before, snapshot(t, filepath.Join(top, "canary"))) {
			t.Errorf("escaped: %v", now)
		}
	})
}

func BenchmarkExtract(b *testing.B) {
	var entries []entry
	for i := range 5000 {
		entries = append(entries, file(fmt.Sprintf("usr/share/d%d/f%d", i/50, i), strings.Repeat("x", 4000)))
	}
	archive := archiveOf(b, entries...)
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		b.StartTimer()
		if err := extract(b, dir, archive, own(Options{Whiteouts: Delete})); err != nil {
			b.Fatal(err)
		}
	}
}
