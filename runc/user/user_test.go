package user

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const passwd = `# comment
root:x:0:0:root:/root:/bin/sh

daemon:*:1:1::/usr/sbin:
1000:x:0:0:a name of digits:/evil:/bin/sh
2147483648:x:0:0::/evil:
4294967296:x:0:0::/evil:
-1:x:0:0::/evil:
+1:x:0:0::/evil:
0x0:x:0:0::/evil:
broken:x:abc:0::/evil:
wrap:x:4294967296:0::/evil:
short:x
alice:x:1001:100:Alice:/home/alice:/bin/sh
alice:x:0:0:a second one:/evil:/bin/sh
bob:x:1002:100::
`

const group = `root:x:0:
users:x:100:
wheel:x:10:root,alice
audio:x:29: alice , bob
again:x:29:alice
1001:x:7:alice
empty::55:
bad:x:x:alice
neg:x:-5:alice
alicia:x:77:alicea,xalice
`

// testRoot makes a root directory with the given files.
func testRoot(t testing.TB, files map[string]string) *os.File {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return openDir(t, dir)
}

func openDir(t testing.TB, dir string) *os.File {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestResolve(t *testing.T) {
	root := testRoot(t, map[string]string{passwdFile: passwd, groupFile: group})
	tests := []struct {
		spec string
		want User
		err  string // substring
	}{
		{spec: "", want: User{0, 0, []uint32{0, 10}, "/root"}},
		{spec: "root", want: User{0, 0, []uint32{0, 10}, "/root"}},
		{spec: "0", want: User{0, 0, []uint32{0, 10}, "/root"}},
		{spec: "00", want: User{0, 0, []uint32{0, 10}, "/root"}},
		{spec: "alice", want: User{1001, 100, []uint32{100, 10, 29, 7}, "/home/alice"}},
		{spec: "1001", want: User{1001, 100, []uint32{100, 10, 29, 7}, "/home/alice"}},
		{spec: "alice:", want: User{1001, 100, []uint32{100, 10, 29, 7}, "/home/alice"}},
		{spec: "alice:wheel", want: User{1001, 10, []uint32{10}, "/home/alice"}},
		{spec: "alice:1001", want: User{1001, 1001, []uint32{1001}, "/home/alice"}},
		{spec: "alice:0", want: User{1001, 0, []uint32{0}, "/home/alice"}},
		{spec: "bob", want: User{1002, 100, []uint32{100, 29}, "/"}},
		{spec: ":wheel", want: User{0, 10, []uint32{10}, "/root"}},
		{spec: ":1", want: User{0, 1, []uint32{1}, "/root"}},
		{spec: "1:1", want: User{1, 1, []uint32{1}, "/usr/sbin"}},
		{spec: "0:5", want: User{0, 5, []uint32{5}, "/root"}},
		// Digits are an id even where the file has them as a name (CVE-2016-3697).
		{spec: "1000", want: User{1000, 0, []uint32{0}, "/"}},
		{spec: "2147483647", want: User{2147483647, 0, []uint32{0}, "/"}},
		{spec: "1000:2147483647", want: User{1000, 2147483647, []uint32{2147483647}, "/"}},
		// Out of range is an error, not a name (CVE-2024-40635).
		{spec: "2147483648", err: "must be in range 0-2147483647"},
		{spec: "4294967295", err: "must be in range"},
		{spec: "4294967296", err: "must be in range"},
		{spec: "18446744073709551616", err: "must be in range"},
		{spec: "1:4294967296", err: "must be in range"},
		{spec: "-1", err: "neither a name nor a decimal number"},
		{spec: "+1", err: "neither a name nor a decimal number"},
		{spec: "0x0", err: "neither a name nor a decimal number"},
		{spec: "1:-1", err: "neither a name nor a decimal number"},
		{spec: "a:b:c", err: "more than one colon"},
		// Lines that are not well-formed do not exist.
		{spec: "broken", err: "unable to find user broken: no matching entries in passwd file"},
		{spec: "wrap", err: "unable to find user wrap: no matching entries in passwd file"},
		{spec: "short", err: "unable to find user short: no matching entries in passwd file"},
		{spec: "nobody", err: "unable to find user nobody: no matching entries in passwd file"},
		{spec: "alice:nogroup", err: "unable to find group nogroup: no matching entries in group file"},
		{spec: "alice:bad", err: "unable to find group bad: no matching entries in group file"},
	}
	for _, tt := range tests {
		t.Run(tt.spec, func(t *testing.T) {
			got, err := Resolve(root, tt.spec)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("Resolve(%q) = %+v, %v; want error %q", tt.spec, got, err, tt.err)
				}
				if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
					t.Errorf("error %v has no class", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.UID != tt.want.UID || got.GID != tt.want.GID || got.Home != tt.want.Home || !slices.Equal(got.Groups, tt.want.Groups) {
				t.Errorf("Resolve(%q) = %+v, want %+v", tt.spec, got, tt.want)
			}
		})
	}
}

func TestResolveWithoutFiles(t *testing.T) {
	root := testRoot(t, nil)
	for _, spec := range []string{"", "0", "1000:1000"} {
		u, err := Resolve(root, spec)
		if err != nil || u.Home != "/" || len(u.Groups) != 1 {
			t.Errorf("Resolve(%q) = %+v, %v", spec, u, err)
		}
	}
	if _, err := Resolve(root, "root"); !errdefs.IsNotFound(err) {
		t.Errorf("Resolve(root) = %v, want NotFound", err)
	}
	// /etc is a file.
	if u, err := Resolve(testRoot(t, map[string]string{"etc": "x"}), "5"); err != nil || u.UID != 5 {
		t.Errorf("Resolve with /etc a file = %+v, %v", u, err)
	}
}

func TestHome(t *testing.T) {
	root := testRoot(t, map[string]string{passwdFile: passwd + "nul:x:9:9::/a\x00b:/bin/sh\n"})
	for uid, want := range map[uint32]string{0: "/root", 1: "/usr/sbin", 1001: "/home/alice", 1002: "/", 4242: "/", 9: "/", MaxID: "/"} {
		if got, err := Home(root, uid); got != want || err != nil {
			t.Errorf("Home(%d) = %q, %v, want %q", uid, got, err, want)
		}
	}
}

func TestGroups(t *testing.T) {
	root := testRoot(t, map[string]string{groupFile: group})
	got, err := Groups(root, []string{"audio", "1001", "wheel", "29", "again", "0", "wheel"})
	if want := []uint32{29, 1001, 10, 0}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Groups = %v, %v, want %v", got, err, want)
	}
	if got, err := Groups(root, nil); err != nil || len(got) != 0 {
		t.Errorf("Groups(nil) = %v, %v", got, err)
	}
	for name, want := range map[string]string{
		"nogroup": "unable to find group nogroup: no matching entries in group file",
		"":        "empty name",
		"a:b":     "more than one colon",
		"-5":      "neither a name",
	} {
		if _, err := Groups(root, []string{"0", name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Groups(%q) = %v, want %q", name, err, want)
		}
	}
	if _, err := Groups(root, make([]string, maxGroups+1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many groups: %v", err)
	}
}

// TestHostileFile is CVE-2024-9676 and CVE-2026-47262: what an image can put in
// the place of the passwd file neither blocks nor leads out of the root.
func TestHostileFile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("eve:x:0:0::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := func(target string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name  string
		make  func(t *testing.T, path string)
		class func(error) bool
	}{
		{"fifo", func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o666); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsInvalidArgument},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsInvalidArgument},
		{"socket", func(t *testing.T, path string) {
			if err := unix.Mknod(path, unix.S_IFSOCK|0o666, 0); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsInvalidArgument},
		{"sparse", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 5<<30); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsInvalidArgument},
		{"long line", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("a", maxLineSize+1)), 0o644); err != nil {
				t.Fatal(err)
			}
		}, errdefs.IsInvalidArgument},
		{"absolute link", link(outside), errdefs.IsNotFound},
		{"dotted link", link(strings.Repeat("../", 20) + outside[1:]), errdefs.IsNotFound},
		{"dangling link", link("nothing"), errdefs.IsNotFound},
		{"magic link", link("/proc/self/fd/0"), errdefs.IsNotFound},
		{"loop", link("passwd"), func(err error) bool { return errors.Is(err, unix.ELOOP) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			tt.make(t, filepath.Join(dir, passwdFile))
			root := openDir(t, dir)
			start := time.Now()
			u, err := Resolve(root, "eve")
			if err == nil || !tt.class(err) {
				t.Errorf("Resolve = %+v, %v", u, err)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	t.Run("device", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root to make a device")
		}
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(filepath.Join(dir, passwdFile), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
			t.Fatal(err)
		}
		if _, err := Resolve(openDir(t, dir), "eve"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Resolve = %v, want InvalidArgument", err)
		}
	})
	t.Run("link inside", func(t *testing.T) {
		root := testRoot(t, map[string]string{"usr/share/passwd": passwd})
		if err := os.Mkdir(filepath.Join(root.Name(), "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		link("/usr/share/passwd")(t, filepath.Join(root.Name(), passwdFile))
		if u, err := Resolve(root, "alice"); err != nil || u.UID != 1001 {
			t.Errorf("Resolve = %+v, %v", u, err)
		}
	})
}

func FuzzResolve(f *testing.F) {
	f.Add([]byte(passwd), []byte(group), "alice:wheel")
	f.Add([]byte("a:::"), []byte(":::"), ":")
	f.Add([]byte("x:x:0:0:\x00:\n"), []byte("g:x:4294967296:x\r\n"), "x")
	root := testRoot(f, map[string]string{passwdFile: "", groupFile: ""})
	f.Fuzz(func(t *testing.T, passwd, group []byte, spec string) {
		for name, text := range map[string][]byte{passwdFile: passwd, groupFile: group} {
			if err := os.WriteFile(filepath.Join(root.Name(), name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		u, err := Resolve(root, spec)
		if err != nil {
			return
		}
		if u.UID > MaxID || u.GID > MaxID {
			t.Errorf("id out of range: %+v", u)
		}
		if len(u.Groups) == 0 || u.Groups[0] != u.GID {
			t.Errorf("groups lack the primary: %+v", u)
		}
		if u.Home == "" || strings.ContainsRune(u.Home, 0) {
			t.Errorf("home %q", u.Home)
		}
		name, _, _ := strings.Cut(spec, ":")
		if allDigits(name) && strings.TrimLeft(name, "0") != "" && u.UID == 0 {
			t.Errorf("%q became root", spec)
		}
	})
}

func BenchmarkResolve(b *testing.B) {
	root := testRoot(b, map[string]string{passwdFile: passwd, groupFile: group})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Resolve(root, "alice"); err != nil {
			b.Fatal(err)
		}
	}
}
