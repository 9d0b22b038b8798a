package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// harness runs containers of a busybox bundle.
type harness struct {
	t      testing.TB
	rt     *Runtime
	root   string // state
	bundle string
	rootfs string
	n      int
}

func newHarness(t testing.TB) *harness {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces and mounts")
	}
	busybox := ""
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(p); err == nil {
			busybox = p
			break
		}
	}
	if busybox == "" {
		t.Skip("needs a static busybox in /bin or /usr/bin")
	}
	dir := t.TempDir()
	// A user namespace's root has to reach the bundle.
	for p := dir; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
	h := &harness{t: t, root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	h.rootfs = filepath.Join(h.bundle, "rootfs")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		must(t, os.MkdirAll(filepath.Join(h.rootfs, d), 0o755))
	}
	must(t, os.Link(busybox, filepath.Join(h.rootfs, "bin/busybox")), func() error {
		raw, err := os.ReadFile(busybox)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(h.rootfs, "bin/busybox"), raw, 0o755)
	})
	for _, a := range strings.Fields("sh true false ls cat sleep id echo mount env pwd ps touch stat readlink hostname tty stty kill grep umount mkdir test") {
		must(t, os.Symlink("busybox", filepath.Join(h.rootfs, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(h.rootfs, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n"), 0o644))
	h.rt = New(Config{Root: h.root, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return h
}

// must fails the test if err is not nil and the fallbacks do not help.
func must(t testing.TB, err error, fallback ...func() error) {
	t.Helper()
	for _, f := range fallback {
		if err != nil {
			err = f()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// spec returns a configuration much like Docker's that runs args.
func (h *harness) spec(args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"}
	return &specs.Spec{
		Version: "1.2.0", Root: &specs.Root{Path: "rootfs"}, Hostname: "box",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/sbin:/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware", "/proc/does-not-exist"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
		},
	}
}

// write stores s as the bundle's configuration.
func (h *harness) write(s *specs.Spec) {
	h.t.Helper()
	raw, err := json.Marshal(s)
	must(h.t, err)
	must(h.t, os.WriteFile(filepath.Join(h.bundle, "config.json"), raw, 0o644))
}

// id returns an unused container ID.
func (h *harness) id() string {
	h.n++
	return fmt.Sprintf("lighter-test-%d-%d", os.Getpid(), h.n)
}

// result is what a process did.
type result struct {
	code int
	out  string
}

// run runs a container to its end and deletes it.
func (h *harness) run(s *specs.Spec) (result, error) {
	h.t.Helper()
	return h.runWith(s, CreateOptions{})
}

func (h *harness) runWith(s *specs.Spec, o CreateOptions) (result, error) {
	h.t.Helper()
	h.write(s)
	id := h.id()
	var pid int
	r, err := h.capture(func(out *os.File) (int, error) {
		o.Bundle, o.Stdio.Out, o.Stdio.Err = h.bundle, out, out
		var err error
		pid, err = h.rt.Run(h.t.Context(), id, o)
		return pid, err
	})
	if err != nil {
		reapAll()
		return r, err
	}
	must(h.t, h.rt.Delete(context.Background(), id, true))
	return r, nil
}

// script runs sh -c in a container and fails the test if that is not possible.
func (h *harness) script(s *specs.Spec, text string) result {
	h.t.Helper()
	s.Process.Args = []string{"sh", "-c", text}
	r, err := h.run(s)
	must(h.t, err)
	return r
}

// capture starts a process with an output pipe and waits for its end.
func (h *harness) capture(start func(out *os.File) (int, error)) (result, error) {
	h.t.Helper()
	r, w, err := os.Pipe()
	must(h.t, err)
	defer r.Close()
	pid, err := start(w)
	w.Close()
	if err != nil {
		return result{}, err
	}
	var out bytes.Buffer
	_, err = io.Copy(&out, r)
	must(h.t, err)
	return result{code: wait(h.t, pid), out: out.String()}, nil
}

// wait reaps pid.
func wait(t testing.TB, pid int) int {
	t.Helper()
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		must(t, err)
		if ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
}

// reapAll reaps dead children, those of failed operations.
func reapAll() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
	}
}

// until waits for a condition that something outside of the test brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("%s did not happen", what)
		case <-tick.C:
		}
	}
}
