package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A bind mount whose source is in the container's root shows what earlier mounts
// have put there, in every combination of user namespace and id mapping.
func TestRun_mountInside(t *testing.T) {
	h := newHarness(t)
	src := t.TempDir()
	must(t, os.Chmod(src, 0o755))
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("hello"), 0o644))
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	for _, user := range []bool{false, true} {
		for _, mapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("user namespace %v, id mapping %v", user, mapped), func(t *testing.T) {
				s := h.spec()
				if user {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
					s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
				}
				must(t, os.RemoveAll(filepath.Join(h.rootfs, "mnt")))
				for _, d := range []string{"mnt", "dir", "file"} {
					must(t, os.MkdirAll(filepath.Join(h.rootfs, d), 0o755))
					must(t, os.Chown(filepath.Join(h.rootfs, d), 100000, 100000))
				}
				inside := []specs.Mount{
					{Destination: "/dir", Source: filepath.Join(h.rootfs, "mnt"), Options: []string{"rbind"}},
					// The destination on the host means the same.
					{Destination: filepath.Join(h.rootfs, "file/f"), Source: filepath.Join(h.rootfs, "mnt/f"), Options: []string{"bind"}},
				}
				want := "65534 65534 hello"
				switch {
				case mapped:
					want = map[bool]string{true: "0 0 hello", false: "100000 100000 hello"}[user]
					for i := range inside {
						inside[i].UIDMappings, inside[i].GIDMappings = ids, ids
					}
				case !user:
					want = "0 0 hello"
				}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: src, Options: []string{"rbind"}})
				s.Mounts = append(s.Mounts, inside...)
				if r := h.script(s, `echo $(stat -c %u /dir/f) $(stat -c %u /file/f) $(cat /file/f)`); r.out != want+"\n" {
					t.Errorf("got %q, want %q", r.out, want)
				}
			})
		}
	}
}

// The target of a mount is made where dangling links of the root lead, and never
// outside of it.
func TestRun_mountDangling(t *testing.T) {
	h := newHarness(t)
	outside := t.TempDir()
	file := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(file, []byte("hello"), 0o644))
	must(t, os.MkdirAll(filepath.Join(h.rootfs, "links"), 0o755))
	for name, to := range map[string]string{
		"last": "/tmp/made", "middle": "../tmp/a/b", "chain": "/links/last2", "last2": "../../../../../../tmp/c",
		"up": strings.Repeat("../", 20) + outside[1:], "loop": "loop",
	} {
		must(t, os.Symlink(to, filepath.Join(h.rootfs, "links", name)))
	}
	for dest, made := range map[string]string{
		"/links/last": "/tmp/made", "/links/middle/x/f": "/tmp/a/b/x/f", "/links/chain": "/tmp/c", "/links/up/f": outside + "/f",
	} {
		s := h.spec()
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dest, Source: file, Options: []string{"bind"}})
		r := h.script(s, "cat "+made+"; grep -c ' "+made+" ' /proc/self/mountinfo")
		if r.out != "hello1\n" {
			t.Errorf("%s: got %q at %s", dest, r.out, made)
		}
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
		t.Errorf("made outside of the root: %v, %v", list, err)
	}
	s := h.spec("true")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/links/loop", Source: file, Options: []string{"bind"}})
	if _, err := h.run(s); err == nil {
		t.Error("a loop of links is a target")
	}
}

func TestRun_tmpfsMode(t *testing.T) {
	h := newHarness(t)
	dir := filepath.Join(h.rootfs, "t")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.Chmod(dir, 0o710))
	s := h.spec()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs"})
	if r := h.script(s, "stat -c %a /t; grep ' /t ' /proc/self/mounts"); !strings.HasPrefix(r.out, "710\n") || !strings.Contains(r.out, "mode=710") {
		t.Errorf("got %q", r.out)
	}
}

// A link in place of /proc, which could make the runtime write elsewhere, is
// refused (CVE-2019-16884 and CVE-2023-28642's).
func TestRun_procIsALink(t *testing.T) {
	h := newHarness(t)
	must(t, os.Remove(filepath.Join(h.rootfs, "proc")))
	must(t, os.Symlink("/tmp", filepath.Join(h.rootfs, "proc")))
	_, err := h.run(h.spec("true"))
	if err == nil || !strings.Contains(err.Error(), "must be mounted on ordinary directory") {
		t.Errorf("got %v", err)
	}
}

// An id mapping without ids takes those of the user namespace that is joined.
func TestRun_idmapOfJoinedNamespace(t *testing.T) {
	h := newHarness(t)
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s := h.spec("sleep", "1000")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	id, pid := h.create(s)
	must(t, h.rt.Start(t.Context(), id))
	src := t.TempDir()
	must(t, os.Chmod(src, 0o755))
	must(t, os.Mkdir(filepath.Join(h.rootfs, "m"), 0o755)) // of the host's root
	s = h.spec()
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/" + itoa(pid) + "/ns/user"})
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: src, Options: []string{"bind", "idmap"}})
	if r := h.script(s, "stat -c %u /m"); r.out != "0\n" {
		t.Errorf("owner is %q, want 0", r.out)
	}
}

// A container without a mount namespace has its root by chroot; a process that is
// added has it too.
func TestRun_hostMounts(t *testing.T) {
	h := newHarness(t)
	s := h.spec("sleep", "1000")
	var rest []specs.LinuxNamespace
	for _, n := range s.Linux.Namespaces {
		if n.Type != specs.MountNamespace {
			rest = append(rest, n)
		}
	}
	s.Linux.Namespaces = rest
	h.write(s)
	if _, err := h.rt.Create(t.Context(), h.id(), CreateOptions{Bundle: h.bundle}); err == nil {
		t.Error("masked paths in the host's mount namespace were accepted")
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	// The mounts stay.
	unmount := func() error { return unix.Unmount(h.rootfs, unix.MNT_DETACH) }
	t.Cleanup(func() { _ = unmount() })
	id, _ := h.create(s)
	must(t, h.rt.Start(t.Context(), id))
	r, err := h.capture(func(out *os.File) (int, error) {
		p := &specs.Process{Args: []string{"sh", "-c", "echo /*; pwd"}, Cwd: "/", Env: []string{"PATH=/bin"}}
		return h.rt.Exec(t.Context(), id, ExecOptions{Process: p, Stdio: Stdio{Out: out, Err: out}})
	})
	must(t, err)
	if want := "/bin /dev /etc /proc /root /sys /tmp\n/\n"; r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
	must(t, unmount())
}

// What the options of a bind mount make of its source's attributes. A user
// namespace cannot take away what the host has set.
func TestRun_bindAttributes(t *testing.T) {
	h := newHarness(t)
	src := t.TempDir()
	must(t, unix.Mount("tmpfs", src, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(src, unix.MNT_DETACH) })
	must(t, os.Mkdir(filepath.Join(h.rootfs, "m"), 0o755))
	must(t, os.Chmod(src, 0o755))
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	const ro, nosuid, nodev, noexec = unix.MS_RDONLY, unix.MS_NOSUID, unix.MS_NODEV, unix.MS_NOEXEC
	for _, tt := range []struct {
		host          uintptr
		options       string
		want, wantLow string // without and with a user namespace; "" is refused
	}{
		{ro | noexec | unix.MS_RELATIME, "", "ro,noexec,relatime", "ro,noexec,relatime"},
		{ro | noexec | unix.MS_RELATIME, "dev", "rw,relatime", "ro,noexec,relatime"},
		{ro | unix.MS_RELATIME, "nosuid,nodev", "rw,nosuid,nodev,relatime", "ro,nosuid,nodev,relatime"},
		{ro | unix.MS_RELATIME, "rw,nosuid", "rw,nosuid,relatime", ""},
		{nodev | nosuid | unix.MS_NOATIME, "ro", "ro,noatime", "ro,nosuid,nodev,noatime"},
		{nodev | unix.MS_NOATIME, "dev,atime", "rw,noatime", ""},
		{unix.MS_NOATIME, "norelatime", "rw,noatime", "rw,noatime"},
		{unix.MS_NOATIME, "relatime", "rw,relatime", ""},
		{unix.MS_NOATIME, "nodiratime", "rw,nodiratime,relatime", ""},
		{unix.MS_NOATIME, "nodiratime,strictatime", "rw,nodiratime", ""},
		{unix.MS_NODIRATIME | unix.MS_RELATIME, "strictatime", "rw", ""},
		{unix.MS_STRICTATIME, "ro", "ro", "ro"},
	} {
		must(t, unix.Mount("", src, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_STRICTATIME, ""))
		must(t, unix.Mount("", src, "", unix.MS_BIND|unix.MS_REMOUNT|tt.host, ""))
		for user, want := range map[bool]string{false: tt.want, true: tt.wantLow} {
			s := h.spec("sh", "-c", `while read a b c d e f g; do test $e = /m && echo -n $f; done </proc/self/mountinfo`)
			if user {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
				s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			}
			options := append([]string{"bind", "rprivate"}, strings.FieldsFunc(tt.options, func(r rune) bool { return r == ',' })...)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: src, Options: options})
			r, err := h.run(s)
			if want == "" && !errors.Is(err, unix.EPERM) || want != "" && (err != nil || r.out != want) {
				t.Errorf("%#x with %q, user namespace %v: got %q, %v; want %q", tt.host, tt.options, user, r.out, err, want)
			}
		}
	}
}
