package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	forwardapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/internal/shimio"
)

// These tests run the built program as containerd does, with real containers.
// They need root and a static busybox. LIGHTER_TEST_RUNTIMES adds OCI programs,
// separated by colons, to the built-in runtime. LIGHTER_TEST_SHIM names a built
// shim to test in place of the test's own copy.

func TestMain(m *testing.M) {
	// The program under test is this one.
	if os.Getenv("SHIM_TEST_MAIN") != "" {
		// Whatever a test does, it meets processes that change their image.
		os.Exit(runMain(pace{afterStart: time.Millisecond, after: time.Millisecond, eager: true}))
	}
	os.Exit(m.Run())
}

const testNamespace = "shimtest"

// env is a running shim.
type env struct {
	t       *testing.T
	ctx     context.Context
	id      string
	bundle  string
	address string
	root    string
	client  *ttrpc.Client
	task    task.TTRPCTaskService
	shimPid int
	topics  chan string
}

// Forward receives the shim's events.
func (e *env) Forward(_ context.Context, r *forwardapi.ForwardRequest) (*emptypb.Empty, error) {
	e.topics <- strings.TrimPrefix(r.Envelope.Topic, "/tasks/")
	return &emptypb.Empty{}, nil
}

// events waits for that many events.
func (e *env) events(n int) string {
	e.t.Helper()
	var list []string
	for range n {
		select {
		case s := <-e.topics:
			list = append(list, s)
		case <-time.After(10 * time.Second):
			return strings.Join(append(list, "(no more)"), " ")
		}
	}
	return strings.Join(list, " ")
}

func busybox(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skip("needs a static busybox")
	return ""
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make containers")
	}
}

func command(dir string, args ...string) *exec.Cmd {
	program := os.Getenv("LIGHTER_TEST_SHIM")
	if program == "" {
		program = "/proc/self/exe"
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SHIM_TEST_MAIN=1")
	return cmd
}

// newShim starts a shim the way containerd 2.3 does.
func newShim(t *testing.T, root string) *env {
	t.Helper()
	return newShimNamed(t, root, fmt.Sprintf("shimtest-%d", os.Getpid()))
}

// newShimNamed is newShim for a container with the given ID.
func newShimNamed(t *testing.T, root, id string) *env {
	t.Helper()
	needRoot(t)
	base, err := os.MkdirTemp("", "shim") // its name is short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	e := &env{t: t, ctx: ctx, id: id, root: root, topics: make(chan string, 100)}
	e.bundle = filepath.Join(base, e.id)
	if err := os.Mkdir(e.bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	sockets := filepath.Join(base, "s")
	eventSocket := filepath.Join(base, "events")
	l, err := net.Listen("unix", eventSocket)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	forwardapi.RegisterTTRPCEventsService(srv, e)
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(ctx, l) })
	t.Cleanup(func() { srv.Close(); serving.Wait() })
	params, err := proto.Marshal(&bootapi.BootstrapParams{
		InstanceID: e.id, Namespace: testNamespace, SocketDir: &sockets, ContainerdTtrpcAddress: eventSocket,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(e.bundle, "-namespace", testNamespace, "-id", e.id, "-address", "/x", "-publish-binary", "/y", "start")
	cmd.Stdin = bytes.NewReader(params)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil || result.Version != 3 || result.Protocol != "ttrpc" {
		t.Fatalf("start printed %q: %v", out, err)
	}
	e.address = strings.TrimPrefix(result.Address, "unix://")
	e.connect()
	t.Cleanup(e.stop)
	return e
}

func (e *env) connect() {
	e.t.Helper()
	conn, err := net.Dial("unix", e.address)
	if err != nil {
		e.t.Fatal(err)
	}
	e.client = ttrpc.NewClient(conn)
	e.task = task.NewTTRPCTaskClient(e.client)
	c, err := e.task.Connect(e.ctx, &task.ConnectRequest{ID: e.id})
	if err != nil {
		e.t.Fatal(err)
	}
	e.shimPid = int(c.ShimPid)
}

// stop ends the shim and checks that it is gone.
func (e *env) stop() {
	if syscall.Kill(e.shimPid, 0) != nil {
		return // ended by the test
	}
	e.task.Kill(e.ctx, &task.KillRequest{ID: e.id, Signal: 9, All: true})
	e.task.Wait(e.ctx, &task.WaitRequest{ID: e.id})
	e.task.Delete(e.ctx, &task.DeleteRequest{ID: e.id})
	pidfd, err := unix.PidfdOpen(e.shimPid, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	defer unix.Close(pidfd)
	e.task.Shutdown(e.ctx, &task.ShutdownRequest{ID: e.id})
	e.client.Close()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 10_000); n != 1 {
		e.t.Errorf("the shim has not ended: %v", err)
		syscall.Kill(e.shimPid, syscall.SIGKILL)
	}
	if _, err := os.Stat(e.address); !os.IsNotExist(err) {
		e.t.Errorf("the socket is left: %v", err)
	}
}

// writeBundle makes a bundle with busybox that runs a shell script.
func (e *env) writeBundle(script string, terminal bool, edit func(*specs.Spec)) {
	e.t.Helper()
	rootfs := filepath.Join(e.bundle, "rootfs")
	for _, dir := range []string{"bin", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	b, err := os.ReadFile(busybox(e.t))
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin", "busybox"), b, 0o755); err != nil {
		e.t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo", "stty", "yes", "head", "dd"} {
		os.Symlink("busybox", filepath.Join(rootfs, "bin", name))
	}
	spec := specs.Spec{
		Version: "1.0.2", // the newest that all stock runtimes take
		Root:    &specs.Root{Path: "rootfs"},
		Process: process(script, terminal),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + e.id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
	if edit != nil {
		edit(&spec)
	}
	b, err = json.Marshal(spec)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.bundle, "config.json"), b, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

func process(script string, terminal bool) *specs.Process {
	caps := []string{"CAP_KILL", "CAP_CHOWN"}
	return &specs.Process{
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/", Terminal: terminal,
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}
}

// create creates the container with a log and an attach socket.
func (e *env) create(program string, terminal bool) (log, attach string) {
	e.t.Helper()
	log, attach = filepath.Join(e.bundle, "x.log"), filepath.Join(e.bundle, "io.sock")
	opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: program, Root: e.root})
	if err != nil {
		e.t.Fatal(err)
	}
	_, err = e.task.Create(e.ctx, &task.CreateTaskRequest{
		ID: e.id, Bundle: e.bundle, Terminal: terminal, Options: opts,
		Stdout: shimio.Stdio{Stdin: true, LogDriver: "json-file", LogPath: log, AttachSocket: attach}.String(),
	})
	if err != nil {
		e.t.Fatalf("create: %v", errgrpc.ToNative(err))
	}
	return log, attach
}

func (e *env) startTask(execID string) {
	e.t.Helper()
	if _, err := e.task.Start(e.ctx, &task.StartRequest{ID: e.id, ExecID: execID}); err != nil {
		e.t.Fatalf("start: %v", errgrpc.ToNative(err))
	}
}

func (e *env) wait(execID string, want uint32) {
	e.t.Helper()
	r, err := e.task.Wait(e.ctx, &task.WaitRequest{ID: e.id, ExecID: execID})
	if err != nil {
		e.t.Fatalf("wait: %v", errgrpc.ToNative(err))
	}
	if r.ExitStatus != want {
		e.t.Errorf("exit status %d, want %d", r.ExitStatus, want)
	}
}

func (e *env) delete() {
	e.t.Helper()
	if _, err := e.task.Delete(e.ctx, &task.DeleteRequest{ID: e.id}); err != nil {
		e.t.Fatalf("delete: %v", errgrpc.ToNative(err))
	}
}

func logText(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all strings.Builder
	for dec := json.NewDecoder(f); ; {
		var rec struct{ Log string }
		if err := dec.Decode(&rec); err == io.EOF {
			return all.String()
		} else if err != nil {
			t.Fatal(err)
		}
		all.WriteString(rec.Log)
	}
}

// eachRuntime runs f with the built-in runtime and with each OCI program.
func eachRuntime(t *testing.T, f func(t *testing.T, program string)) {
	programs := []string{""}
	if list := os.Getenv("LIGHTER_TEST_RUNTIMES"); list != "" {
		programs = append(programs, strings.Split(list, ":")...)
	}
	for _, program := range programs {
		name := "built-in"
		if program != "" {
			name = filepath.Base(program)
		}
		t.Run(name, func(t *testing.T) { f(t, program) })
	}
}

func TestContainer(t *testing.T) {
	eachRuntime(t, func(t *testing.T, program string) {
		e := newShim(t, t.TempDir())
		e.writeBundle("echo out; echo err >&2; exit 7", false, nil)
		log, _ := e.create(program, false)
		stats, err := e.task.Stats(e.ctx, &task.StatsRequest{ID: e.id})
		if err != nil || !strings.HasPrefix(stats.Stats.GetTypeUrl(), "io.containerd.cgroups.v") {
			t.Errorf("stats %v, %v", stats, err)
		}
		e.startTask("")
		e.wait("", 7)
		if got := logText(t, log); len(got) != len("out\nerr\n") {
			t.Errorf("log %q", got)
		}
		e.delete()
		if got, want := e.events(4), "create start exit delete"; got != want {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

func TestExecAndKill(t *testing.T) {
	eachRuntime(t, func(t *testing.T, program string) {
		e := newShim(t, t.TempDir())
		e.writeBundle("exec sleep 1000", false, nil)
		_, attach := e.create(program, false)
		e.startTask("")
		spec, err := json.Marshal(process("cat; exit 5", false))
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.task.Exec(e.ctx, &task.ExecProcessRequest{
			ID: e.id, ExecID: "e", Stdout: shimio.Stdio{Stdin: true, StdinOnce: true}.String(),
			Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec},
		})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := shimio.Dial(e.ctx, attach, shimio.Request{Process: "e", Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		e.startTask("e")
		pids, err := e.task.Pids(e.ctx, &task.PidsRequest{ID: e.id})
		if err != nil || len(pids.Processes) < 2 {
			t.Errorf("pids %v, %v", pids, err)
		}
		io.WriteString(conn, "through the exec")
		conn.CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "through the exec" {
			t.Errorf("exec's output %q, %v", b, err)
		}
		e.wait("e", 5)
		if _, err := e.task.Kill(e.ctx, &task.KillRequest{ID: e.id, Signal: 9}); err != nil {
			t.Fatal(errgrpc.ToNative(err))
		}
		e.wait("", 137)
		_, err = e.task.Kill(e.ctx, &task.KillRequest{ID: e.id, Signal: 9})
		if !errdefs.IsNotFound(errgrpc.ToNative(err)) {
			t.Errorf("kill of an ended container: %v, want NotFound", err)
		}
		e.delete()
	})
}

func TestTerminal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, program string) {
		e := newShim(t, t.TempDir())
		e.writeBundle("read x; stty size; echo got $x", true, nil)
		_, attach := e.create(program, true)
		conn, err := shimio.Dial(e.ctx, attach, shimio.Request{Stdin: true, Stdout: true})
		if err != nil || !conn.TTY {
			t.Fatal(conn, err)
		}
		defer conn.Close()
		e.startTask("")
		if _, err := e.task.ResizePty(e.ctx, &task.ResizePtyRequest{ID: e.id, Width: 101, Height: 33}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "hello\n")
		b, err := io.ReadAll(conn)
		if !strings.Contains(string(b), "33 101\r\ngot hello\r\n") {
			t.Errorf("read %q, %v", b, err)
		}
		e.wait("", 0)
		e.delete()
	})
}

func TestStartErrors(t *testing.T) {
	eachRuntime(t, func(t *testing.T, program string) {
		e := newShim(t, t.TempDir())
		e.writeBundle("", false, func(s *specs.Spec) { s.Process.Args = []string{"/bin/nosuch"} })
		opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: program, Root: e.root})
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.task.Create(e.ctx, &task.CreateTaskRequest{ID: e.id, Bundle: e.bundle, Options: opts})
		if err == nil { // some runtimes find out at once
			_, err = e.task.Start(e.ctx, &task.StartRequest{ID: e.id})
		}
		if err == nil || !strings.Contains(err.Error(), "nosuch") {
			t.Errorf("start of a missing program: %v", err)
		}
	})
}

func TestRootfsMounts(t *testing.T) {
	eachRuntime(t, func(t *testing.T, program string) {
		e := newShim(t, t.TempDir())
		e.writeBundle("echo hello > /tmp/x; cat /tmp/x", false, nil)
		lower := filepath.Join(filepath.Dir(e.bundle), "lower")
		if err := os.Rename(filepath.Join(e.bundle, "rootfs"), lower); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(e.bundle, "rootfs"), 0o755); err != nil {
			t.Fatal(err)
		}
		opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: program, Root: e.root})
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.task.Create(e.ctx, &task.CreateTaskRequest{
			ID: e.id, Bundle: e.bundle, Options: opts,
			Stdout: "file://" + filepath.Join(e.bundle, "out"),
			Rootfs: []*types.Mount{{Type: "bind", Source: lower, Options: []string{"rbind", "rw"}}},
		})
		if err != nil {
			t.Fatal(errgrpc.ToNative(err))
		}
		e.startTask("")
		e.wait("", 0)
		if b, err := os.ReadFile(filepath.Join(e.bundle, "out")); string(b) != "hello\n" {
			t.Errorf("output %q, %v", b, err)
		}
		e.delete()
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), e.bundle) {
			t.Errorf("a mount is left: %v", err)
		}
	})
}

func TestOOM(t *testing.T) {
	e := newShim(t, t.TempDir())
	limit := int64(16 << 20)
	e.writeBundle("dd if=/dev/zero of=/dev/null bs=100M count=1", false, func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	})
	e.create("", false)
	e.startTask("")
	e.wait("", 137)
	e.delete()
	if got, want := e.events(5), "create start oom exit delete"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

// delete cleans up after a shim that was killed: it ends the container and tells
// how it ended.
func TestDeleteAfterDeadShim(t *testing.T) {
	eachRuntime(t, func(t *testing.T, program string) {
		e := newShim(t, t.TempDir())
		e.writeBundle("exec sleep 1000", false, nil)
		e.create(program, false)
		e.startTask("")
		st, err := e.task.State(e.ctx, &task.StateRequest{ID: e.id})
		if err != nil {
			t.Fatal(err)
		}
		init, err := unix.PidfdOpen(int(st.Pid), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(init)
		syscall.Kill(e.shimPid, syscall.SIGKILL)
		e.client.Close()

		out, err := command(e.bundle, "-namespace", testNamespace, "-id", e.id, "-address", "/x", "-bundle", e.bundle, "delete").Output()
		if err != nil {
			t.Fatal(err)
		}
		var resp task.DeleteResponse
		if err := proto.Unmarshal(out, &resp); err != nil || resp.Pid != st.Pid || resp.ExitStatus != 137 || resp.ExitedAt == nil {
			t.Errorf("delete printed %v, %v", &resp, err)
		}
		fds := []unix.PollFd{{Fd: int32(init), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 5000); n != 1 {
			t.Errorf("init is alive: %v", err)
		}
		if entries, _ := os.ReadDir(filepath.Join(e.root, testNamespace)); len(entries) > 0 {
			t.Errorf("the runtime's state is left: %v", entries)
		}
		if _, err := os.Stat(e.address); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
}

// A shim without a container ends with its last client: a containerd that is killed
// between Delete and Shutdown tells nobody.
func TestEndsWithItsLastClient(t *testing.T) {
	e := newShim(t, t.TempDir())
	pidfd, err := unix.PidfdOpen(e.shimPid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	e.client.Close()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("the shim has not ended: %v", err)
	}
}

// serve runs on a socket that is handed to it, and outlives its caller's pipes.
func TestServeOnInheritedSocket(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(dir, "-namespace", testNamespace, "-id", "x", "serve")
	cmd.ExtraFiles = []*os.File{f}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var waited sync.WaitGroup
	waited.Go(func() { err = cmd.Wait() })
	f.Close()
	l.Close()
	w.Close()
	r.Close()
	conn, derr := net.Dial("unix", path)
	if derr != nil {
		t.Fatal(derr)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	api := task.NewTTRPCTaskClient(client)
	resp, cerr := api.Connect(t.Context(), &task.ConnectRequest{ID: "x"})
	if cerr != nil || int(resp.ShimPid) != cmd.Process.Pid {
		t.Errorf("connect %v, %v", resp, cerr)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	cmd.Process.Signal(syscall.SIGTERM)
	if _, serr := api.Shutdown(t.Context(), &task.ShutdownRequest{ID: "x"}); serr != nil {
		t.Error(serr)
	}
	waited.Wait()
	if err != nil {
		t.Errorf("serve ended with %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
