package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// These tests work on the control groups of the host, below a group of their
// own at the top of each hierarchy, which they remove.

const testParent = "lighter-cgroup-test"

func TestMain(m *testing.M) {
	if arg := os.Getenv("CGROUP_TEST_CHILD"); arg != "" {
		child(arg)
		return
	}
	code := m.Run()
	removeTestParents()
	os.Exit(code)
}

func removeTestParents() {
	mounts, _ := hostMounts()
	for _, m := range mounts {
		path := filepath.Join(m.path, parentName())
		if _, err := os.Stat(path); err == nil {
			_ = destroy(context.Background(), []string{path})
		}
	}
}

func parentName() string { return testParent + "-" + strconv.Itoa(os.Getpid()) }

// child is the process that tests put into groups. It runs commands from its
// standard input and answers each with a line.
func child(string) {
	in := bufio.NewScanner(os.Stdin)
	var keep [][]byte
	for in.Scan() {
		f := strings.Fields(in.Text())
		answer := "ok"
		switch f[0] {
		case "open":
			fd, err := unix.Open(f[1], unix.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				answer = err.Error()
			}
			unix.Close(fd)
		case "eat": // bytes of memory
			n, _ := strconv.Atoi(f[1])
			b := make([]byte, n)
			for i := 0; i < n; i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		fmt.Println(answer)
	}
	_ = keep
}

// process is a child that this test started.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    io.Writer
	out   *bufio.Scanner
	ended chan error // has the result of Wait
}

func startProcess(t testing.TB) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CGROUP_TEST_CHILD=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out), ended: make(chan error, 1)}
	go func() { p.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		err := <-p.ended
		p.ended <- err
	})
	return p
}

// do sends a command and returns the answer, "" if the child ends first.
func (p *process) do(command string) string {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		p.t.Fatal(err)
	}
	if !p.out.Scan() {
		return ""
	}
	return p.out.Text()
}

func (p *process) waitEnd() error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		p.ended <- err
		return err
	case <-time.After(10 * time.Second):
		p.t.Fatal("the process does not end")
		return nil
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make control groups")
	}
}

// newManager returns a Manager for a new place of this test, which is removed
// after it.
func newManager(t testing.TB) Manager {
	t.Helper()
	needRoot(t)
	name := strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())
	m, err := New("/"+parentName()+"/"+name, "")
	if err != nil {
		t.Fatal(err)
	}
	return cleanManager(t, m)
}

// newUnified returns a Manager for the v2 hierarchy, which on a hybrid host has
// no controllers.
func newUnified(t testing.TB) *v2 {
	t.Helper()
	needRoot(t)
	mount := mountRoot
	switch HostMode() {
	case Hybrid:
		mount += "/unified"
	case V1:
		t.Skip("needs cgroup v2 to be mounted")
	}
	name := strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())
	m := &v2{mount: mount, path: filepath.Join(mount, parentName(), name)}
	cleanManager(t, m)
	return m
}

func cleanManager(t testing.TB, m Manager) Manager {
	t.Cleanup(func() {
		ctx := context.Background()
		if err := m.Kill(ctx); err != nil {
			t.Errorf("Kill: %v", err)
		}
		if err := m.Destroy(ctx); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		for c, path := range m.Paths() {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s is left: %v", c, path, err)
			}
		}
	})
	return m
}

// bothManagers runs f for the host's arrangement and for v2 if that is beside
// it.
func bothManagers(t *testing.T, f func(t *testing.T, m Manager)) {
	t.Run("host", func(t *testing.T) { f(t, newManager(t)) })
	if HostMode() == Hybrid {
		t.Run("unified", func(t *testing.T) { f(t, newUnified(t)) })
	}
}

func create(t testing.TB, m Manager, res *specs.LinuxResources) {
	t.Helper()
	if err := m.Create(res); err != nil {
		t.Fatal(err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestLifecycle(t *testing.T) {
	bothManagers(t, func(t *testing.T, m Manager) {
		ctx := t.Context()
		if pids, err := m.Pids(); err != nil || len(pids) != 0 {
			t.Errorf("Pids before Create = %v, %v", pids, err)
		}
		if err := m.Destroy(ctx); err != nil {
			t.Errorf("Destroy before Create: %v", err)
		}
		if err := m.Kill(ctx); err != nil {
			t.Errorf("Kill before Create: %v", err)
		}
		if _, err := m.Stats(); !errdefs.IsNotFound(err) {
			t.Errorf("Stats before Create: %v, want NotFound", err)
		}
		create(t, m, nil)
		p := startProcess(t)
		if err := m.Add(p.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		// Every hierarchy has it.
		own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		groups := parseOwn(own)
		for controller, path := range m.Paths() {
			if !strings.HasSuffix(path, groups[controller]) || groups[controller] == "/" {
				t.Errorf("%s: process is in %q, group is %q", controller, groups[controller], path)
			}
		}

		loaded, err := Load(m.Paths())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []Manager{m, loaded} {
			if pids, err := m.Pids(); err != nil || !slices.Equal(pids, []int{p.cmd.Process.Pid}) {
				t.Errorf("Pids = %v, %v, want %d", pids, err, p.cmd.Process.Pid)
			}
			if _, err := m.Stats(); err != nil {
				t.Errorf("Stats: %v", err)
			}
		}

		// A group that is in use is refused.
		err = m.Create(nil)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "container's cgroup is not empty") {
			t.Errorf("Create in use: %v", err)
		}
		if pids, _ := m.Pids(); len(pids) != 1 {
			t.Errorf("Pids after refused Create = %v", pids)
		}

		if err := loaded.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		if err := p.waitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("process ended with %v", err)
		}
		for range 2 {
			if err := loaded.Destroy(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFreeze(t *testing.T) {
	bothManagers(t, func(t *testing.T, m Manager) {
		ctx := t.Context()
		create(t, m, nil)
		p := startProcess(t)
		if err := m.Add(p.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if frozen, err := m.Frozen(); err != nil || frozen {
			t.Fatalf("Frozen = %v, %v", frozen, err)
		}
		for range 3 {
			if err := m.Freeze(ctx, true); err != nil {
				t.Fatal(err)
			}
			if frozen, err := m.Frozen(); err != nil || !frozen {
				t.Fatalf("Frozen = %v, %v", frozen, err)
			}
			if _, err := fmt.Fprintln(p.in, "hello"); err != nil {
				t.Fatal(err)
			}
			if err := m.Freeze(ctx, false); err != nil {
				t.Fatal(err)
			}
			if !p.out.Scan() || p.out.Text() != "ok" {
				t.Fatal("the process does not run after a thaw")
			}
		}
		// A frozen group can be killed.
		if err := m.Freeze(ctx, true); err != nil {
			t.Fatal(err)
		}
		if err := m.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		_ = p.waitEnd()
		if err := m.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		// An empty frozen group is refused.
		create(t, m, nil)
		if err := m.Freeze(ctx, true); err != nil {
			t.Fatal(err)
		}
		err := m.Create(nil)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "container's cgroup unexpectedly frozen") {
			t.Errorf("Create on a frozen group: %v", err)
		}
	})
}

func TestFreezeCancelled(t *testing.T) {
	m := newUnified(t)
	create(t, m, nil)
	p := startProcess(t)
	if err := m.Add(p.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Freeze(ctx, true); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	} else if err != nil {
		if frozen, _ := m.Frozen(); frozen {
			t.Error("still frozen after a cancelled Freeze")
		}
	}
	d, err := openDir(m.path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := waitEvent(ctx, d, "never 1"); !errors.Is(err, context.Canceled) {
		t.Errorf("waitEvent = %v", err)
	}
}

func TestSubgroups(t *testing.T) {
	bothManagers(t, func(t *testing.T, m Manager) {
		ctx := t.Context()
		create(t, m, nil)
		inner, outer := startProcess(t), startProcess(t)
		for _, p := range []*process{inner, outer} {
			if err := m.Add(p.cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
		}
		for controller, path := range m.Paths() {
			if controller == "cpuset" { // would need cpus and mems
				continue
			}
			sub := filepath.Join(path, "a", "b")
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(path, "c"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := writeIn(sub, "cgroup.procs", strconv.Itoa(inner.cmd.Process.Pid)); err != nil {
				t.Fatal(err)
			}
		}
		pids, err := m.Pids()
		want := []int{inner.cmd.Process.Pid, outer.cmd.Process.Pid}
		slices.Sort(want)
		if err != nil || !slices.Equal(pids, want) {
			t.Errorf("Pids = %v, %v, want %v", pids, err, want)
		}
		if err := m.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		if err := m.Destroy(ctx); err != nil { // waits for them
			t.Fatal(err)
		}
		_, _ = inner.waitEnd(), outer.waitEnd()
	})
}

func TestDestroyBusy(t *testing.T) {
	bothManagers(t, func(t *testing.T, m Manager) {
		create(t, m, nil)
		p := startProcess(t)
		if err := m.Add(p.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("had enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, cause)
		defer cancel()
		err := m.Destroy(ctx)
		if !errors.Is(err, unix.EBUSY) || !errors.Is(err, cause) {
			t.Errorf("Destroy of a busy group: %v", err)
		}
	})
}

func TestCreateUndo(t *testing.T) {
	m := newManager(t)
	res := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000-4001"}}
	if err := m.Create(res); err == nil {
		t.Fatal("Create with processors that do not exist succeeds")
	}
	for c, path := range m.Paths() {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %s is left: %v", c, path, err)
		}
	}
}

func TestKillForks(t *testing.T) {
	bothManagers(t, func(t *testing.T, m Manager) {
		create(t, m, &specs.LinuxResources{})
		cmd := exec.Command("/bin/sh", "-c", "read x; while :; do sh -c : & done")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := m.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in)
		for {
			if pids, err := m.Pids(); err != nil || len(pids) > 1 {
				break
			}
		}
		if err := m.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if err := m.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDevices(t *testing.T) {
	bothManagers(t, func(t *testing.T, m Manager) {
		allow := func(typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
			return specs.LinuxDeviceCgroup{Allow: true, Type: typ, Major: ptr(major), Minor: ptr(minor), Access: access}
		}
		node := func(major, minor uint32) string {
			path := filepath.Join(t.TempDir(), fmt.Sprintf("%d-%d", major, minor))
			if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
				t.Fatal(err)
			}
			return path
		}
		kmsg, null, zero := node(1, 11), node(1, 3), node(1, 5)
		const refused = "operation not permitted"
		check := func(p *process, path, want string) {
			t.Helper()
			if got := p.do("open " + path); got != want {
				t.Errorf("open %s: %q, want %q", filepath.Base(path), got, want)
			}
		}
		create(t, m, nil) // GHSA-g54h-m393-cpwq: no list is deny-all
		p := startProcess(t)
		check(p, kmsg, "ok")
		if err := m.Add(p.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		check(p, kmsg, refused)
		check(p, null, "ok")
		check(p, zero, "ok")

		set := func(list ...specs.LinuxDeviceCgroup) {
			t.Helper()
			if err := m.Set(&specs.LinuxResources{Devices: list}); err != nil {
				t.Fatal(err)
			}
		}
		set(specs.LinuxDeviceCgroup{Access: "rwm"}, allow("c", 1, 11, "rw"))
		check(p, kmsg, "ok")
		check(p, null, "ok")
		set(specs.LinuxDeviceCgroup{Access: "rwm"}, allow("c", 1, 11, "r"))
		check(p, kmsg, refused) // it opens for both
		set(specs.LinuxDeviceCgroup{Access: "rwm"}, allow("c", 1, -1, "rw"))
		check(p, kmsg, "ok")
		set()
		check(p, kmsg, "ok") // nil: not asked
		set([]specs.LinuxDeviceCgroup{}...)
		if err := m.Set(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{}}); err != nil {
			t.Fatal(err)
		}
		check(p, kmsg, refused)
		check(p, null, "ok")
		set(specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"})
		check(p, kmsg, "ok")
		set(specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"}, specs.LinuxDeviceCgroup{Type: "c", Major: ptr[int64](1), Minor: ptr[int64](11), Access: "w"})
		check(p, kmsg, refused)
		set(specs.LinuxDeviceCgroup{Access: "rwm"}, allow("c", 1, 11, "rw"))
		check(p, kmsg, "ok")
		set(specs.LinuxDeviceCgroup{Access: "rwm"})
		check(p, kmsg, refused)
	})
}

func BenchmarkManager_CreateDestroy(b *testing.B) {
	m := newManager(b)
	parent, err := New("/"+parentName()+"/parent", "")
	if err != nil {
		b.Fatal(err)
	}
	cleanManager(b, parent)
	create(b, parent, nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Create(dockerResources()); err != nil {
			b.Fatal(err)
		}
		if err := m.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkManager_Create(b *testing.B) {
	needRoot(b)
	var made []Manager
	i := 0
	for b.Loop() {
		m, err := New(fmt.Sprintf("/%s/bench-%d", parentName(), i), "")
		if err != nil {
			b.Fatal(err)
		}
		i++
		if err := m.Create(dockerResources()); err != nil {
			b.Fatal(err)
		}
		made = append(made, m)
	}
	for _, m := range made {
		if err := m.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkManager_Add(b *testing.B) {
	m := newManager(b)
	other, err := New("/"+parentName()+"/other", "")
	if err != nil {
		b.Fatal(err)
	}
	cleanManager(b, other)
	create(b, m, dockerResources())
	create(b, other, dockerResources())
	p := startProcess(b)
	for b.Loop() {
		if err := m.Add(p.cmd.Process.Pid); err != nil {
			b.Fatal(err)
		}
		m, other = other, m
	}
}

// dockerResources is what "docker run" without options asks for.
func dockerResources() *specs.LinuxResources {
	rule := func(allow bool, typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: typ, Major: &major, Minor: &minor, Access: access}
	}
	return &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			rule(true, "c", 1, 5, "rwm"), rule(true, "c", 1, 3, "rwm"), rule(true, "c", 1, 9, "rwm"), rule(true, "c", 1, 8, "rwm"),
			rule(true, "c", 5, 0, "rwm"), rule(true, "c", 5, 1, "rwm"), rule(false, "c", 10, 229, "rwm"), rule(false, "c", 10, 200, "rwm"),
		},
		Memory:  &specs.LinuxMemory{DisableOOMKiller: ptr(false)},
		CPU:     &specs.LinuxCPU{Shares: ptr[uint64](0)},
		Pids:    &specs.LinuxPids{Limit: ptr[int64](0)},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](0)},
	}
}
