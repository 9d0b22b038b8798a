//lint:file-ignore SA1019 prestart hooks are deprecated, and still part of the specification.

package runc

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// create makes a container and deletes it at the end of the test. It returns the
// ID and init's pid.
func (h *harness) create(s *specs.Spec) (string, int) {
	h.t.Helper()
	h.write(s)
	id := h.id()
	pid, err := h.rt.Create(h.t.Context(), id, CreateOptions{Bundle: h.bundle})
	must(h.t, err)
	h.t.Cleanup(func() {
		must(h.t, h.rt.Delete(context.Background(), id, true))
		reapAll()
	})
	return id, pid
}

func (h *harness) status(id string) specs.ContainerState {
	h.t.Helper()
	s, err := h.rt.State(h.t.Context(), id)
	must(h.t, err)
	return s.Status
}

// Every operation in every state: what it leads to, or that it is refused.
func TestLifecycle(t *testing.T) {
	h := newHarness(t)
	ctx := t.Context()
	id, pid := h.create(h.spec("sleep", "1000"))
	refused := func(op string, err error) {
		t.Helper()
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s of a %s container: got %v, want FailedPrecondition", op, h.status(id), err)
		}
	}
	expect := func(want specs.ContainerState) {
		t.Helper()
		if got := h.status(id); got != want {
			t.Fatalf("status %s, want %s", got, want)
		}
	}
	expect(specs.StateCreated)
	if _, err := h.rt.Create(ctx, id, CreateOptions{Bundle: h.bundle}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Create of a taken ID: got %v, want AlreadyExists", err)
	}
	refused("resume", h.rt.Resume(ctx, id))
	must(t, h.rt.Start(ctx, id))
	expect(specs.StateRunning)
	refused("start", h.rt.Start(ctx, id))
	refused("delete", h.rt.Delete(ctx, id, false))
	if pids, err := h.rt.Pids(ctx, id); err != nil || len(pids) != 1 || pids[0] != pid {
		t.Errorf("pids %v, error %v; want %d alone", pids, err, pid)
	}
	must(t, h.rt.Pause(ctx, id))
	expect(StatusPaused)
	refused("pause", h.rt.Pause(ctx, id))
	_, err := h.rt.Exec(ctx, id, ExecOptions{Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}})
	refused("exec", err)
	must(t, h.rt.Resume(ctx, id))
	expect(specs.StateRunning)
	must(t, h.rt.Kill(ctx, id, unix.SIGKILL, false))
	if code := wait(t, pid); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	expect(specs.StateStopped)
	refused("start", h.rt.Start(ctx, id))
	refused("pause", h.rt.Pause(ctx, id))
	_, err = h.rt.Exec(ctx, id, ExecOptions{Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}})
	refused("exec", err)
	if err := h.rt.Kill(ctx, id, unix.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill of a stopped container: got %v, want NotFound", err)
	}
	must(t, h.rt.Kill(ctx, id, unix.SIGKILL, true))
	must(t, h.rt.Delete(ctx, id, false))
	if err := h.rt.Delete(ctx, id, false); !errdefs.IsNotFound(err) {
		t.Errorf("second delete: got %v, want NotFound", err)
	}
	must(t, h.rt.Delete(ctx, id, true))
}

// A container that was created and not started is deleted without force, and one
// that runs or is paused with it.
func TestDelete_alive(t *testing.T) {
	h := newHarness(t)
	ctx := t.Context()
	for _, tt := range []struct {
		name  string
		setup func(id string) error
		force bool
	}{
		{"created", func(string) error { return nil }, false},
		{"running", func(id string) error { return h.rt.Start(ctx, id) }, true},
		{"paused", func(id string) error { return errors.Join(h.rt.Start(ctx, id), h.rt.Pause(ctx, id)) }, true},
		{"paused before start", func(id string) error { return h.rt.Pause(ctx, id) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, pid := h.create(h.spec("sleep", "1000"))
			must(t, tt.setup(id))
			must(t, h.rt.Delete(ctx, id, tt.force))
			if code := wait(t, pid); code != 137 {
				t.Errorf("exit code %d, want 137", code)
			}
		})
	}
}

// With the host's pid namespace init's children outlive it; kill and delete end
// them through the control group.
func TestDelete_leftovers(t *testing.T) {
	h := newHarness(t)
	ctx := t.Context()
	s := h.spec("sh", "-c", "sleep 1000 & exit 0")
	s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace)
	s.Linux.MaskedPaths = nil
	id, pid := h.create(s)
	must(t, h.rt.Start(ctx, id))
	wait(t, pid)
	pids, err := h.rt.Pids(ctx, id)
	must(t, err)
	if len(pids) != 1 {
		t.Fatalf("pids %v, want the sleep alone", pids)
	}
	must(t, h.rt.Delete(ctx, id, false))
	until(t, "end of the left process", func() bool {
		reapAll()
		raw, err := os.ReadFile("/proc/" + itoa(pids[0]) + "/stat")
		return err != nil || strings.Contains(string(raw), ") Z ")
	})
}

func TestExec(t *testing.T) {
	h := newHarness(t)
	ctx := t.Context()
	s := h.spec("sleep", "1000")
	id, _ := h.create(s)
	must(t, h.rt.Start(ctx, id))
	for _, tt := range []struct {
		name, script, want string
		code               int
		edit               func(*specs.Process)
	}{
		{name: "exit code", script: "exit 7", code: 7},
		{name: "only 0, 1, 2 are open", script: "cd /proc/self/fd; exec 9</dev/null; for f in *; do test -e $f && echo -n $f,; done", want: "0,1,2,9,"},
		{name: "namespaces of init", script: "for n in pid mnt net ipc uts cgroup; do test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done"},
		{name: "control groups of init", script: "read a </proc/1/cgroup; read b </proc/self/cgroup; test $a = $b && echo same", want: "same\n"},
		{name: "user", script: "id -u; id -G; pwd; echo $HOME $A", want: "1000\n1000 9\n/tmp\n/home/u b\n", edit: func(p *specs.Process) {
			p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{9}}
			p.Cwd, p.Env = "/tmp", append(p.Env, "A=b")
		}},
		{name: "capabilities of init", script: "grep CapBnd /proc/self/status", want: "CapBnd:\t00000000000000e3\n"},
		{name: "not traceable while it enters", script: "true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &specs.Process{Args: []string{"sh", "-c", tt.script}, Cwd: "/", Env: []string{"PATH=/bin"}}
			if tt.edit != nil {
				tt.edit(p)
			}
			r, err := h.capture(func(out *os.File) (int, error) {
				return h.rt.Exec(ctx, id, ExecOptions{Process: p, Stdio: Stdio{Out: out, Err: out}})
			})
			must(t, err)
			if r.out != tt.want || r.code != tt.code {
				t.Errorf("got %q, code %d; want %q, code %d", r.out, r.code, tt.want, tt.code)
			}
		})
	}
	for program, errno := range map[string]error{"foo": unix.ENOENT, "/etc/passwd": unix.EACCES} {
		_, err := h.rt.Exec(ctx, id, ExecOptions{Process: &specs.Process{Args: []string{program}, Cwd: "/"}})
		if !errors.Is(err, errno) {
			t.Errorf("exec of %s: got %v, want %v", program, err, errno)
		}
	}
	reapAll()
}

// A container in a user namespace is entered with all of its namespaces.
func TestExec_userNamespace(t *testing.T) {
	h := newHarness(t)
	m := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	s := h.spec("sleep", "1000")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	id, _ := h.create(s)
	must(t, h.rt.Start(t.Context(), id))
	r, err := h.capture(func(out *os.File) (int, error) {
		p := &specs.Process{Args: []string{"sh", "-c", "id -u; read a b c </proc/self/uid_map; echo $b"}, Cwd: "/", Env: []string{"PATH=/bin"}}
		return h.rt.Exec(t.Context(), id, ExecOptions{Process: p, Stdio: Stdio{Out: out, Err: out}})
	})
	must(t, err)
	if r.out != "0\n100000\n" {
		t.Errorf("got %q", r.out)
	}
}

// A container joins the namespaces of another, as in a pod, with and without a
// user namespace.
func TestCreate_joinNamespaces(t *testing.T) {
	h := newHarness(t)
	for _, user := range []bool{false, true} {
		t.Run(map[bool]string{false: "host user", true: "user namespace"}[user], func(t *testing.T) {
			m := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
			s := h.spec("sleep", "1000")
			if user {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
				s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
			}
			id, pid := h.create(s)
			must(t, h.rt.Start(t.Context(), id))
			for _, sharePID := range []bool{false, true} {
				s := h.spec()
				s.Hostname = ""
				if user {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
				}
				var join []string
				for i := range s.Linux.Namespaces {
					n := &s.Linux.Namespaces[i]
					file := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts", "user": "user"}[n.Type]
					if n.Type == specs.PIDNamespace && sharePID {
						file = "pid"
					}
					if file != "" {
						n.Path = "/proc/" + itoa(pid) + "/ns/" + file
						want, err := os.Readlink(n.Path)
						must(t, err)
						join = append(join, "test '"+want+"' = $(readlink /proc/self/ns/"+file+") || echo "+file)
					}
				}
				r := h.script(s, strings.Join(join, "; ")+"; hostname; echo $(($$ > 1))")
				want := "box\n" + map[bool]string{false: "0\n", true: "1\n"}[sharePID]
				if r.out != want {
					t.Errorf("shared pid namespace %v: got %q, want %q", sharePID, r.out, want)
				}
			}
		})
	}
}

func TestTerminal(t *testing.T) {
	h := newHarness(t)
	s := h.spec("sh", "-c", "tty; stty size; stat -c %t:%T /dev/console; read x; echo got $x; exit 5")
	s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Height: 31, Width: 77}
	h.write(s)
	id := h.id()
	var master *os.File
	pid, err := h.rt.Run(t.Context(), id, CreateOptions{Bundle: h.bundle, Stdio: Stdio{Console: func(f *os.File) error {
		master = f
		return nil
	}}})
	must(t, err)
	defer master.Close()
	_, err = master.WriteString("hello\n")
	must(t, err)
	raw, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	out := strings.ReplaceAll(strings.ReplaceAll(string(raw), "\r", ""), "hello\n", "")
	if want := "/dev/pts/0\n31 77\n88:0\ngot " + "hello"; !strings.HasPrefix(strings.ReplaceAll(string(raw), "\r", ""), "hello\n") && !strings.Contains(out, "31 77") {
		t.Errorf("got %q, want %q", raw, want)
	}
	for _, want := range []string{"/dev/pts/0\n", "31 77\n", "88:0\n", "got "} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
	if code := wait(t, pid); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	must(t, h.rt.Delete(t.Context(), id, false))
}

// Hooks run where and when the specification says, and their failure ends Create.
func TestHooks(t *testing.T) {
	h := newHarness(t)
	log := filepath.Join(t.TempDir(), "log")
	hook := func(name, script string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script, name}, Env: []string{"PATH=/bin:/usr/bin"}}}
	}
	write := `read s; case $s in *'"status":"'$1'"'*) ;; *) echo bad state $s;; esac >>` + log + `
		test -e ` + h.rootfs + `/proc/1 && in=inside || in=outside; echo $0 $in >>` + log
	s := h.spec("cat", "/dev/started")
	s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $0 >/dev/started", "startContainer"}}}}
	for _, p := range []struct {
		list         *[]specs.Hook
		name, status string
	}{
		{&s.Hooks.Prestart, "prestart", "creating"}, {&s.Hooks.CreateRuntime, "createRuntime", "creating"},
		{&s.Hooks.CreateContainer, "createContainer", "creating"}, {&s.Hooks.Poststart, "poststart", "running"},
		{&s.Hooks.Poststop, "poststop", "stopped"},
	} {
		*p.list = hook(p.name, write)
		(*p.list)[0].Args = append((*p.list)[0].Args, p.status)
	}
	h.write(s)
	id := h.id()
	r, err := h.capture(func(out *os.File) (int, error) {
		pid, err := h.rt.Create(t.Context(), id, CreateOptions{Bundle: h.bundle, Stdio: Stdio{Out: out}})
		if err != nil {
			return 0, err
		}
		return pid, h.rt.Start(t.Context(), id)
	})
	must(t, err)
	must(t, h.rt.Delete(t.Context(), id, false))
	if r.out != "startContainer\n" {
		t.Errorf("startContainer: got %q", r.out)
	}
	raw, err := os.ReadFile(log)
	must(t, err)
	want := "prestart outside\ncreateRuntime outside\ncreateContainer inside\npoststart outside\npoststop outside\n"
	if string(raw) != want {
		t.Errorf("hooks wrote\n%swant\n%s", raw, want)
	}

	timeout := 1
	for want, hook := range map[string]specs.Hook{
		"error running prestart hook #0: exit status 3, output: oops": {Path: "/bin/sh", Args: []string{"sh", "-c", "echo oops; exit 3"}},
		"hook ran for more than 1 seconds":                            {Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000"}, Timeout: &timeout},
		"exec /no/such: no such file or directory":                    {Path: "/no/such"},
	} {
		s := h.spec("true")
		s.Hooks = &specs.Hooks{Prestart: []specs.Hook{hook}}
		if _, err := h.run(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Run runs the hooks of Start too, and a container whose hook fails does not run.
func TestRun_hooks(t *testing.T) {
	h := newHarness(t)
	fails := []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"}}}
	for name, hooks := range map[string]*specs.Hooks{
		"startContainer": {StartContainer: fails},
		"poststart":      {Poststart: fails},
	} {
		s := h.spec("/bin/sh", "-c", "echo ran; sleep 1000")
		s.Hooks = hooks
		want := "error running " + name + " hook #1: exit status 3"
		if _, err := h.run(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	if list, err := h.rt.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// A caller that gives up while a hook hangs gets its error, and nothing is left.
func TestCreate_cancelled(t *testing.T) {
	h := newHarness(t)
	s := h.spec("true")
	ready := filepath.Join(t.TempDir(), "ready")
	s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo >" + ready + "; sleep 1000"}, Env: []string{"PATH=/bin"}}}}
	h.write(s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	id := h.id()
	go func() {
		_, err := h.rt.Create(ctx, id, CreateOptions{Bundle: h.bundle})
		done <- err
	}()
	until(t, "start of the hook", func() bool {
		_, err := os.Stat(ready)
		return err == nil
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	reapAll()
	if _, err := h.rt.State(t.Context(), id); !errdefs.IsNotFound(err) {
		t.Errorf("state: got %v, want NotFound", err)
	}
}
