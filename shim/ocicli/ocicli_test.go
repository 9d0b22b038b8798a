package ocicli

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/shim"
)

func TestCgroupPaths(t *testing.T) {
	const v1 = "25 30 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"26 30 0:23 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
	const v2 = "27 30 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	for name, c := range map[string]struct {
		mounts, memberships string
		want                map[string]string
	}{
		"hybrid": {v1 + v2, "2:memory:/a\n1:cpu,cpuacct:/b\n0::/c\n", map[string]string{
			"memory": "/sys/fs/cgroup/memory/a", "cpu": "/sys/fs/cgroup/cpu,cpuacct/b", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/b"}},
		"unified": {v2, "0::/c/d\n", map[string]string{"": "/sys/fs/cgroup/unified/c/d"}},
		"root is a part": {"27 30 0:24 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/outer/c\n",
			map[string]string{"": "/sys/fs/cgroup/c"}},
		"nothing": {"", "0::/c\n", map[string]string{}},
	} {
		if got := joinCgroups(c.memberships, cgroupMounts(c.mounts)); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// program writes an OCI program that records its arguments.
func program(t *testing.T, script string) (*Runtime, string) {
	t.Helper()
	dir := t.TempDir()
	args := filepath.Join(dir, "args")
	path := filepath.Join(dir, "oci")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"$@\" >>"+args+"\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Program: path, Root: "/r", NoPivotRoot: true})
	if err != nil {
		t.Fatal(err)
	}
	return r, args
}

func TestVerbs(t *testing.T) {
	r, file := program(t, `case "$*" in *" ps "*) echo "[1,2]";; *" update "*) cat >&2; esac`)
	ctx := context.Background()
	if err := errors.Join(r.Start(ctx, "c"), r.Kill(ctx, "c", syscall.SIGTERM, true), r.Pause(ctx, "c"),
		r.Resume(ctx, "c"), r.Update(ctx, "c", nil), r.Delete(ctx, "c", true)); err != nil {
		t.Fatal(err)
	}
	if pids, err := r.Pids(ctx, "c"); err != nil || len(pids) != 2 {
		t.Errorf("pids %v, %v", pids, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "--root /r --log ") {
			t.Errorf("arguments %q", line)
		}
		_, verb, _ := strings.Cut(strings.TrimSpace(line), " --log-format json ")
		got = append(got, verb)
	}
	want := "start c,kill --all c 15,pause c,resume c,update --resources - c,delete --force c,ps --format json c"
	if strings.Join(got, ",") != want {
		t.Errorf("verbs\n%s, want\n%s", strings.Join(got, ","), want)
	}
}

func TestFailureTellsTheReason(t *testing.T) {
	r, _ := program(t, `
log=$4
echo '{"level":"info","msg":"not this"}' >$log
echo '{"level":"error","msg":"the reason"}' >>$log
exit 1`)
	dir := t.TempDir()
	if _, err := r.Create(t.Context(), "c", shim.CreateOptions{Bundle: dir}); err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("create: %v", err)
	}
	// Neither does the program know the container.
	if err := r.Kill(t.Context(), "c", unix.SIGKILL, false); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("kill: %v, want NotFound", err)
	}
	if err := r.Delete(t.Context(), "c", true); err != nil {
		t.Errorf("forced delete of an unknown container: %v", err)
	}
	if err := r.Delete(t.Context(), "c", false); err == nil {
		t.Error("delete of an unknown container succeeds")
	}
}

func TestNewNeedsProgram(t *testing.T) {
	if _, err := New(Config{Program: "/nonexistent/runc"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("New: %v, want NotFound", err)
	}
}
