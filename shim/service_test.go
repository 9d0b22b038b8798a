package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/internal/shimio"
	"lighter/shim"
	"lighter/shim/reaper"
	"lighter/shim/shimtest"
)

const testTimeout = 30 * time.Second

// env is a Service with a fake runtime.
type env struct {
	*shim.Service
	t       *testing.T
	ctx     context.Context
	runtime *shimtest.Runtime
	events  chan shim.Event
}

func newEnv(t *testing.T) *env {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := reaper.New()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGCHLD)
	var done sync.WaitGroup
	done.Go(func() { r.Run(ctx, sigs) })
	e := &env{t: t, ctx: ctx, runtime: shimtest.New(), events: make(chan shim.Event, 100)}
	e.Service = shim.NewService(shim.Deps{
		Namespace: "ns",
		Runtime:   func(shim.Options) (shim.Runtime, error) { return e.runtime, nil },
		Reaper:    r,
		Publish:   func(ev shim.Event) { e.events <- ev },
		Log:       slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	t.Cleanup(func() {
		for _, id := range e.runtime.Containers() {
			e.Kill(ctx, id, "", syscall.SIGKILL, true)
			e.Wait(ctx, id, "")
			e.Delete(ctx, id, "")
		}
		if !e.Shutdown() {
			t.Error("containers are left")
		}
		e.Linger()
		signal.Stop(sigs)
		cancel()
		done.Wait()
	})
	return e
}

// create creates a container that runs a script, with a log.
func (e *env) create(id, script string) (pid int, log string) {
	e.t.Helper()
	dir := e.t.TempDir()
	if err := shimtest.WriteBundle(dir, script, false); err != nil {
		e.t.Fatal(err)
	}
	log = filepath.Join(dir, "x.log")
	pid, err := e.Create(e.ctx, shim.CreateRequest{ID: id, Bundle: dir, Stdout: shimio.Stdio{
		Stdin: true, LogDriver: "json-file", LogPath: log, AttachSocket: filepath.Join(dir, "io.sock"),
	}.String()})
	if err != nil {
		e.t.Fatal(err)
	}
	return pid, log
}

func (e *env) start(id, exec string) int {
	e.t.Helper()
	pid, err := e.Start(e.ctx, id, exec)
	if err != nil {
		e.t.Fatal(err)
	}
	return pid
}

func (e *env) wait(id, exec string, want int) {
	e.t.Helper()
	exit, err := e.Wait(e.ctx, id, exec)
	if err != nil {
		e.t.Fatal(err)
	}
	if exit.Status != want || exit.At.IsZero() {
		e.t.Errorf("exit %+v, want status %d", exit, want)
	}
}

func (e *env) delete(id, exec string, want int) {
	e.t.Helper()
	exit, err := e.Delete(e.ctx, id, exec)
	if err != nil {
		e.t.Fatal(err)
	}
	if exit.Status != want {
		e.t.Errorf("exit %+v, want status %d", exit, want)
	}
}

// topics returns the events so far, in order.
func (e *env) topics() string {
	var list []string
	for {
		select {
		case ev := <-e.events:
			s := strings.TrimPrefix(string(ev.Topic), "/tasks/")
			if ev.ExecID != "" {
				s += ":" + ev.ExecID
			}
			list = append(list, s)
		default:
			return strings.Join(list, " ")
		}
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
	dec := json.NewDecoder(f)
	for {
		var rec struct{ Log string }
		if err := dec.Decode(&rec); err == io.EOF {
			return all.String()
		} else if err != nil {
			t.Fatal(err)
		}
		all.WriteString(rec.Log)
	}
}

func TestLifecycle(t *testing.T) {
	e := newEnv(t)
	pid, log := e.create("c", "echo hello; exit 3")
	if st, err := e.State("c", ""); err != nil || st.Status != shim.Created || st.Pid != pid {
		t.Errorf("state %+v, %v", st, err)
	}
	if got := e.start("c", ""); got != pid {
		t.Errorf("pid %d, want %d", got, pid)
	}
	e.wait("c", "", 3)
	// What Wait tells of has been logged.
	if got := logText(t, log); got != "hello\n" {
		t.Errorf("log %q", got)
	}
	if st, err := e.State("c", ""); err != nil || st.Status != shim.Stopped || st.Exit.Status != 3 {
		t.Errorf("state %+v, %v", st, err)
	}
	if e.Shutdown() {
		t.Error("Shutdown with a container")
	}
	e.delete("c", "", 3)
	if got, want := e.topics(), "create start exit delete"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
	if _, err := e.State("c", ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("state after delete: %v", err)
	}
}

// However soon a process ends, its status and output are there and the events
// in order.
func TestFastExits(t *testing.T) {
	e := newEnv(t)
	for i := range 30 {
		id := fmt.Sprint("c", i)
		_, log := e.create(id, fmt.Sprintf("echo x; exit %d", i))
		e.start(id, "")
		e.wait(id, "", i)
		if got := logText(t, log); got != "x\n" {
			t.Errorf("log %q", got)
		}
		e.delete(id, "", i)
		if got, want := e.topics(), "create start exit delete"; got != want {
			t.Errorf("events %q, want %q", got, want)
		}
	}
}

func TestExec(t *testing.T) {
	e := newEnv(t)
	e.create("c", "exec sleep 100")
	e.start("c", "")
	attach := e.attachSocket("c")
	add := func(id, script string) {
		t.Helper()
		err := e.Exec(e.ctx, shim.ExecRequest{ID: "c", ExecID: id, Process: shimtest.Process(script, false),
			Stdout: shimio.Stdio{Stdin: true, StdinOnce: true}.String()})
		if err != nil {
			t.Fatal(err)
		}
	}
	add("e1", "cat; exit 4")
	if err := e.Exec(e.ctx, shim.ExecRequest{ID: "c", ExecID: "e1", Process: shimtest.Process("true", false)}); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second exec of the same name: %v", err)
	}
	conn, err := shimio.Dial(e.ctx, attach, shimio.Request{Process: "e1", Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	execPid := e.start("c", "e1")
	pids, err := e.Pids(e.ctx, "c")
	if err != nil || len(pids) != 2 || pids[1] != (shim.ProcessID{Pid: execPid, ExecID: "e1"}) {
		t.Errorf("pids %+v, %v", pids, err)
	}
	io.WriteString(conn, "hello")
	conn.CloseWrite()
	if b, err := io.ReadAll(conn); string(b) != "hello" {
		t.Errorf("exec's output %q, %v", b, err)
	}
	e.wait("c", "e1", 4)
	e.delete("c", "e1", 4)

	add("e2", "exec sleep 100")
	e.start("c", "e2")
	if _, err := e.Delete(e.ctx, "c", "e2"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("delete of a running exec: %v", err)
	}
	if err := e.Kill(e.ctx, "c", "e2", syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	e.wait("c", "e2", 143)
	if err := e.Kill(e.ctx, "c", "e2", syscall.SIGTERM, false); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("kill of an ended exec: %v", err)
	}

	// The exit of an exec that ends with its container comes first.
	add("e3", "exec sleep 100")
	e.start("c", "e3")
	add("e4", "never started")
	if err := e.Kill(e.ctx, "c", "", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	e.wait("c", "", 137)
	if _, err := e.Start(e.ctx, "c", "e4"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("start of an exec in a stopped container: %v", err)
	}
	e.delete("c", "", 137)
	want := "create start exec-added:e1 exec-started:e1 exit:e1 exec-added:e2 exec-started:e2 exit:e2 " +
		"exec-added:e3 exec-started:e3 exec-added:e4 exit:e3 exit delete"
	if got := e.topics(); got != want {
		t.Errorf("events\n%q, want\n%q", got, want)
	}
}

func (e *env) attachSocket(id string) string {
	e.t.Helper()
	st, err := e.State(id, "")
	if err != nil {
		e.t.Fatal(err)
	}
	s, err := shimio.Parse(st.Stdout)
	if err != nil {
		e.t.Fatal(err)
	}
	return s.AttachSocket
}

func TestDeleteOfCreated(t *testing.T) {
	e := newEnv(t)
	_, log := e.create("c", "echo no")
	e.delete("c", "", 137)
	if got := logText(t, log); got != "" {
		t.Errorf("log %q", got)
	}
	if got, want := e.topics(), "create exit delete"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestPauseAndWrongStates(t *testing.T) {
	e := newEnv(t)
	e.create("c", "exec sleep 100")
	wrong := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s: %v, want FailedPrecondition", what, err)
		}
	}
	wrong("pause of created", e.Pause(e.ctx, "c"))
	e.start("c", "")
	_, err := e.Start(e.ctx, "c", "")
	wrong("second start", err)
	wrong("resume of running", e.Resume(e.ctx, "c"))
	_, err = e.Delete(e.ctx, "c", "")
	wrong("delete of running", err)
	if err := e.Pause(e.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if st, _ := e.State("c", ""); st.Status != shim.Paused {
		t.Errorf("status %s, want paused", st.Status)
	}
	wrong("second pause", e.Pause(e.ctx, "c"))
	if err := e.Resume(e.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	wrong("resize without a terminal", e.ResizePty("c", "", 80, 24))
	if got, want := e.topics(), "create start paused resumed"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestFailures(t *testing.T) {
	e := newEnv(t)
	boom := fmt.Errorf("boom: %w", errdefs.ErrInvalidArgument)
	dir := t.TempDir()
	socket := filepath.Join(dir, "io.sock")
	req := shim.CreateRequest{ID: "c", Bundle: dir, Stdout: shimio.Stdio{AttachSocket: socket}.String()}
	if err := shimtest.WriteBundle(dir, "true", false); err != nil {
		t.Fatal(err)
	}
	e.runtime.Fail["create"] = boom
	if _, err := e.Create(e.ctx, req); !errors.Is(err, boom) {
		t.Errorf("create: %v", err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the attach socket is left: %v", err)
	}
	delete(e.runtime.Fail, "create")
	if _, err := e.Create(e.ctx, req); err != nil {
		t.Fatalf("create again: %v", err)
	}
	if _, err := e.Create(e.ctx, req); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("create twice: %v", err)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the first one's attach socket: %v", err)
	}

	e.runtime.Fail["exec"] = boom
	err := e.Exec(e.ctx, shim.ExecRequest{ID: "c", ExecID: "e", Process: shimtest.Process("true", false), Stdout: shimio.Stdio{}.String()})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := shimio.Dial(e.ctx, socket, shimio.Request{Process: "e", Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := e.Start(e.ctx, "c", "e"); !errors.Is(err, boom) {
		t.Errorf("exec: %v", err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Errorf("a client of a failed exec reads %q, %v", b, err)
	}
	e.delete("c", "e", reaper.StatusUnknown)

	e.runtime.Fail["start"] = boom
	if _, err := e.Start(e.ctx, "c", ""); !errors.Is(err, boom) {
		t.Errorf("start: %v", err)
	}
	if err := e.Kill(e.ctx, "c", "", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	e.wait("c", "", 137)
	e.runtime.Fail["delete"] = boom
	if _, err := e.Delete(e.ctx, "c", ""); !errors.Is(err, boom) {
		t.Errorf("delete: %v", err)
	}
	delete(e.runtime.Fail, "delete")
	e.delete("c", "", 137)
}

// Without a pid namespace the processes that init leaves behind are killed, so
// that they do not hold its output open.
func TestRestOfContainerIsKilled(t *testing.T) {
	e := newEnv(t)
	_, log := e.create("c", "sleep 1000 & echo started")
	e.start("c", "")
	begin := time.Now()
	e.wait("c", "", 0)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the exit took %s", d)
	}
	if got := logText(t, log); got != "started\n" {
		t.Errorf("log %q", got)
	}
}

func TestBundleTellsDeadShimsCleanUp(t *testing.T) {
	e := newEnv(t)
	dir := t.TempDir()
	if err := shimtest.WriteBundle(dir, "exit 9", false); err != nil {
		t.Fatal(err)
	}
	want := shim.Options{Root: "/some/root"}
	pid, err := e.Create(e.ctx, shim.CreateRequest{ID: "c", Bundle: dir, Options: want})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := shim.LoadOptions(dir); err != nil || got != want {
		t.Errorf("options %+v, %v", got, err)
	}
	if got := shim.LoadExit(dir); got.Pid != pid || got.Status != 137 {
		t.Errorf("exit of a created container %+v, want that of a killed one", got)
	}
	e.start("c", "")
	e.wait("c", "", 9)
	if got := shim.LoadExit(dir); got.Pid != pid || got.Status != 9 {
		t.Errorf("exit %+v, want status 9", got)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	e := newEnv(t)
	e.create("c", "exec sleep 100")
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if _, err := e.Wait(ctx, "c", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}
