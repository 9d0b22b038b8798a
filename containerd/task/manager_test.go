package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
	"lighter/containerd/event"
)

// patience bounds every wait of a test; a loaded machine needs some.
const patience = 30 * time.Second

// fakeContainers has every container, with a spec.
type fakeContainers struct{ containers.Store }

func (fakeContainers) Get(_ context.Context, id string) (containers.Container, error) {
	if strings.HasPrefix(id, "unknown") {
		return containers.Container{}, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	self, err := os.Executable()
	return containers.Container{
		ID:      id,
		Spec:    &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.2.0"}`)},
		Runtime: containers.RuntimeInfo{Name: self, Options: &anypb.Any{TypeUrl: "test.Options", Value: []byte("o")}},
	}, err
}

// env is a Manager over fake shims, which can be restarted.
type env struct {
	t    *testing.T
	ctx  context.Context
	dir  string
	cfg  Config
	bus  *event.Bus
	m    *Manager
	seen chan *events.Envelope
}

// target is what the shims' events reach: the Manager of the moment.
type target struct {
	mu sync.Mutex
	m  *Manager
}

func (f *target) Forward(ctx context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	m := f.m
	f.mu.Unlock()
	if m == nil {
		return nil, errdefs.ErrUnavailable
	}
	e := r.GetEnvelope()
	return &emptypb.Empty{}, m.Forward(ctx, &events.Envelope{
		Timestamp: e.GetTimestamp().AsTime(), Namespace: e.GetNamespace(), Topic: e.GetTopic(), Event: e.GetEvent()})
}

func newEnv(t *testing.T, kind string) *env {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "test"), 2*patience)
	e := &env{t: t, ctx: ctx, dir: dir, bus: event.NewBus(), seen: make(chan *events.Envelope, 1000)}
	e.cfg = Config{
		State: filepath.Join(dir, "state", strings.Repeat("long", 30)), Address: filepath.Join(dir, "c.sock"),
		Containers: fakeContainers{}, Events: e.bus,
		ShimEnv: []string{fakeShimEnv + "=" + kind, fakeDirEnv + "=" + dir},
		Log:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	l, err := net.Listen("unix", e.cfg.Address+".ttrpc")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	to := &target{}
	ttrpcevents.RegisterTTRPCEventsService(server, to)
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(context.Background(), l) }()
	ch, _ := e.bus.Subscribe(ctx)
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case env := <-ch:
				e.seen <- env
			case <-ctx.Done():
				return
			}
		}
	}()
	e.open(to)
	t.Cleanup(func() {
		if err := e.m.Close(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
		<-served
		cancel()
		<-collected
		e.killShims()
	})
	return e
}

func (e *env) open(to *target) {
	e.t.Helper()
	m, err := New(e.ctx, e.cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	e.m = m
	if to != nil {
		to.mu.Lock()
		to.m = m
		to.mu.Unlock()
	}
}

// restart makes a new Manager, as a restarted daemon does.
func (e *env) restart(whileDown func()) {
	e.t.Helper()
	if err := e.m.Close(e.ctx); err != nil {
		e.t.Fatal(err)
	}
	whileDown()
	e.open(nil)
}

// pid returns the pid of the shim that serves id.
func (e *env) pid(id string) int {
	e.t.Helper()
	for _, line := range e.notes("pids") {
		if name, pid, ok := strings.Cut(line, " "); ok && name == id {
			n, err := strconv.Atoi(pid)
			if err != nil {
				e.t.Fatal(err)
			}
			return n
		}
	}
	e.t.Fatalf("no shim has served %q", id)
	return 0
}

func (e *env) notes(name string) []string {
	data, err := os.ReadFile(filepath.Join(e.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// killShims ends the shims that the test left, by their own record.
func (e *env) killShims() {
	for _, line := range e.notes("pids") {
		_, pid, ok := strings.Cut(line, " ")
		if n, err := strconv.Atoi(pid); ok && err == nil {
			if link, err := os.ReadFile("/proc/" + pid + "/environ"); err == nil && strings.Contains(string(link), fakeDirEnv+"="+e.dir) {
				syscall.Kill(n, syscall.SIGKILL)
				syscall.Wait4(n, nil, 0, nil)
			}
		}
	}
}

// expect waits for an event with topic of container id and returns it.
func (e *env) expect(topic, id string) any {
	e.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case env := <-e.seen:
			ev, err := typeurl.UnmarshalAny(env.Event)
			if err != nil {
				e.t.Fatal(err)
			}
			if env.Topic == topic && ev.(interface{ GetContainerID() string }).GetContainerID() == id {
				return ev
			}
		case <-timeout:
			e.t.Fatalf("no event %s of %q", topic, id)
		}
	}
}

func (e *env) create(id string) *task {
	e.t.Helper()
	if _, err := e.m.Create(e.ctx, id, containerd.TaskCreate{Stdout: "/out"}); err != nil {
		e.t.Fatal(err)
	}
	t, err := e.m.lookup(e.ctx, id)
	if err != nil {
		e.t.Fatal(err)
	}
	return t
}

func (e *env) run(id string) *task {
	e.t.Helper()
	t := e.create(id)
	if _, err := e.m.Start(e.ctx, id, ""); err != nil {
		e.t.Fatal(err)
	}
	return t
}

// nothingLeft checks that the Manager keeps nothing of id.
func (e *env) nothingLeft(id string) {
	e.t.Helper()
	if _, err := e.m.State(e.ctx, id, ""); !errdefs.IsNotFound(err) {
		e.t.Errorf("State after removal = %v, want NotFound", err)
	}
	entries, err := os.ReadDir(filepath.Join(e.cfg.State, "test"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.t.Fatal(err)
	}
	if len(entries) != 0 {
		e.t.Errorf("bundles left: %v", entries)
	}
}

func TestLifecycle(t *testing.T) {
	for _, kind := range []string{"ours", "stock"} {
		t.Run(kind, func(t *testing.T) {
			e := newEnv(t, kind)
			task := e.create("c1")
			if s, err := e.m.State(e.ctx, "c1", ""); err != nil || s.Status != containerd.StatusCreated || s.Pid != 1000 || s.ID != "c1" || s.Bundle != task.bundle.path {
				t.Errorf("State = %+v, %v, want created", s, err)
			}
			if _, err := e.m.Create(e.ctx, "c1", containerd.TaskCreate{}); !errdefs.IsAlreadyExists(err) {
				t.Errorf("second Create = %v, want AlreadyExists", err)
			}
			if pid, err := e.m.Start(e.ctx, "c1", ""); err != nil || pid != 1000 {
				t.Fatalf("Start = %d, %v", pid, err)
			}
			e.expect("/tasks/start", "c1")
			if err := e.m.Exec(e.ctx, "c1", "x1", containerd.TaskExec{}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.m.Start(e.ctx, "c1", "x1"); err != nil {
				t.Fatal(err)
			}
			if list, err := e.m.List(e.ctx); err != nil || len(list) != 1 || list[0].Status != containerd.StatusRunning {
				t.Errorf("List = %+v, %v", list, err)
			}
			if list, err := e.m.List(namespaces.WithNamespace(e.ctx, "other")); err != nil || len(list) != 0 {
				t.Errorf("List of another namespace = %+v, %v", list, err)
			}
			if _, err := e.m.Delete(e.ctx, "c1", ""); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Delete of a running task = %v, want FailedPrecondition", err)
			}
			for _, execID := range []string{"x1", ""} {
				waited := make(chan containerd.Exit, 1)
				go func() {
					exit, err := e.m.Wait(e.ctx, "c1", execID)
					if err != nil {
						t.Error(err)
					}
					waited <- exit
				}()
				if err := e.m.Kill(e.ctx, "c1", execID, syscall.SIGTERM, false); err != nil {
					t.Fatal(err)
				}
				if exit := <-waited; exit.Code != 143 || exit.Pid < 1000 || exit.ExitedAt.IsZero() {
					t.Errorf("Wait(%q) = %+v, want 143", execID, exit)
				}
				if s, err := e.m.State(e.ctx, "c1", execID); err != nil || s.Status != containerd.StatusStopped || s.Exit.Code != 143 {
					t.Errorf("State(%q) = %+v, %v, want stopped", execID, s, err)
				}
				if exit, err := e.m.Delete(e.ctx, "c1", execID); err != nil || exit.Code != 143 {
					t.Errorf("Delete(%q) = %+v, %v", execID, exit, err)
				}
			}
			e.nothingLeft("c1")
			if got := e.notes("version"); len(got) != 1 {
				t.Errorf("the binary was asked %d times for its version, want once", len(got))
			}
			if got := e.notes("deleted"); got[0] != "" {
				t.Errorf("delete verb ran for a healthy shim: %v", got)
			}
			e.create("c1") // the ID is free
		})
	}
}

func TestLaunchedShimIsProtected(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: clones a mount")
	}
	e := newEnv(t, "ours")
	e.run("c1")
	proc := "/proc/" + strconv.Itoa(e.pid("c1"))
	// Opening it for writing says "text file busy" as long as it runs; what counts
	// is the mount that a descriptor kept beyond that would lie on.
	var fs unix.Statfs_t
	if err := unix.Statfs(proc+"/exe", &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("%s/exe: %v, mount flags %#x, want read-only", proc, err, fs.Flags)
	}
	comm, err := os.ReadFile(proc + "/comm")
	if err != nil || !strings.HasPrefix(string(comm), "task.test") {
		t.Errorf("name of the process = %q, %v", comm, err)
	}
	if sid, err := unix.Getsid(e.pid("c1")); err != nil || sid != e.pid("c1") {
		t.Errorf("session = %d, %v, want its own", sid, err)
	}
	socks, err := filepath.Glob(filepath.Join(e.cfg.State, "test", "c1", "shim-*.sock"))
	if err != nil || len(socks) != 1 {
		t.Fatalf("sockets = %v, %v, want one", socks, err)
	}
	if fi, err := os.Stat(socks[0]); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", fi, err)
	}
	if fi, err := os.Stat(filepath.Join(e.cfg.State, "test", "c1")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("bundle: %v, %v, want mode 0700", fi, err)
	}
	environ, err := os.ReadFile(proc + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	for kv := range strings.SplitSeq(strings.TrimRight(string(environ), "\x00"), "\x00") {
		key, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"GOMAXPROCS", "MAX_SHIM_VERSION", "TTRPC_ADDRESS", "GRPC_ADDRESS", "NAMESPACE",
			"PATH", "HOME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR", "GOCOVERDIR", "GODEBUG", "GOTRACEBACK", fakeShimEnv, fakeDirEnv}, key) {
			t.Errorf("shim inherited %q", key)
		}
	}
}

func TestShimDeath(t *testing.T) {
	for _, kind := range []string{"ours", "stock"} {
		t.Run(kind, func(t *testing.T) {
			e := newEnv(t, kind)
			task := e.run("c1")
			if err := e.m.Exec(e.ctx, "c1", "x1", containerd.TaskExec{}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.m.Start(e.ctx, "c1", "x1"); err != nil {
				t.Fatal(err)
			}
			waited := make(chan containerd.Exit, 2)
			for _, execID := range []string{"", "x1"} {
				go func() {
					exit, err := e.m.Wait(e.ctx, "c1", execID)
					if err != nil {
						t.Error(err)
					}
					waited <- exit
				}()
			}
			if err := syscall.Kill(e.pid("c1"), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if ev := e.expect("/tasks/exit", "c1").(*eventapi.TaskExit); ev.GetID() != "x1" || ev.GetExitStatus() != 137 {
				t.Errorf("first exit = %v, want the exec's", ev)
			}
			if ev := e.expect("/tasks/exit", "c1").(*eventapi.TaskExit); ev.GetID() != "c1" || ev.GetExitStatus() != 137 || ev.GetPid() != 1000 {
				t.Errorf("second exit = %v, want init's", ev)
			}
			e.expect("/tasks/delete", "c1")
			for range 2 {
				if exit := <-waited; exit.Code != 137 {
					t.Errorf("Wait = %+v, want 137", exit)
				}
			}
			<-task.gone
			e.nothingLeft("c1")
			if got := e.notes("deleted"); len(got) != 1 || got[0] != "test/c1" {
				t.Errorf("delete verb ran for %q, want once for test/c1", got)
			}
			if _, err := os.Lstat(filepath.Join(e.dir, "c1.sock")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the shim's socket: %v, want it removed", err)
			}
			if task.shim.child != nil {
				if err := syscall.Kill(task.shim.child.pid, 0); err != syscall.ESRCH {
					t.Errorf("shim was not reaped: %v", err)
				}
			}
		})
	}
}

func TestRestartReconnects(t *testing.T) {
	for _, kind := range []string{"ours", "stock"} {
		t.Run(kind, func(t *testing.T) {
			e := newEnv(t, kind)
			e.run("alive")
			e.run("dead")
			e.run("exited")
			if err := e.m.Exec(e.ctx, "alive", "x1", containerd.TaskExec{}); err != nil {
				t.Fatal(err)
			}
			if err := e.m.Kill(e.ctx, "exited", "", syscall.SIGINT, false); err != nil {
				t.Fatal(err)
			}
			e.restart(func() {
				pid := e.pid("dead")
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				syscall.Wait4(pid, nil, 0, nil) // ECHILD where it is not our child
				for {                           // its socket refuses when it is really gone
					if _, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/exe"); err != nil {
						break
					}
				}
				if err := os.MkdirAll(filepath.Join(e.cfg.State, "test", ".half-removed", "rootfs"), 0o700); err != nil {
					t.Fatal(err)
				}
			})
			if ev := e.expect("/tasks/exit", "dead").(*eventapi.TaskExit); ev.GetExitStatus() != 137 {
				t.Errorf("exit of the dead = %v, want 137", ev)
			}
			e.expect("/tasks/delete", "dead")
			if s, err := e.m.State(e.ctx, "alive", ""); err != nil || s.Status != containerd.StatusRunning || s.Stdout != "/out" {
				t.Errorf("State = %+v, %v, want running", s, err)
			}
			if s, err := e.m.State(e.ctx, "alive", "x1"); err != nil || s.Status != containerd.StatusCreated {
				t.Errorf("State of the exec = %+v, %v, want created", s, err)
			}
			if exit, err := e.m.Wait(e.ctx, "exited", ""); err != nil || exit.Code != 130 {
				t.Errorf("Wait for the exited = %+v, %v, want 130", exit, err)
			}
			if exit, err := e.m.Delete(e.ctx, "exited", ""); err != nil || exit.Code != 130 {
				t.Errorf("Delete of the exited = %+v, %v, want 130", exit, err)
			}
			if err := e.m.Kill(e.ctx, "alive", "", syscall.SIGTERM, false); err != nil {
				t.Fatal(err)
			}
			if exit, err := e.m.Wait(e.ctx, "alive", ""); err != nil || exit.Code != 143 {
				t.Errorf("Wait = %+v, %v, want 143", exit, err)
			}
			if _, err := e.m.Delete(e.ctx, "alive", ""); err != nil {
				t.Error(err)
			}
			if _, err := e.m.Create(e.ctx, "dead", containerd.TaskCreate{}); err != nil {
				t.Errorf("Create of the buried = %v", err)
			}
			if entries, err := os.ReadDir(filepath.Join(e.cfg.State, "test")); err != nil || len(entries) != 1 {
				t.Errorf("bundles = %v, %v, want one", entries, err)
			}
		})
	}
}

// A process that is being killed still accepts connections for a moment.
func TestShimThatDiesDuringReconnectIsAnnounced(t *testing.T) {
	e := newEnv(t, "ours")
	e.restart(func() {
		b, err := makeBundle(filepath.Join(e.cfg.State, "test", "c1"), []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(e.dir, "dying.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan struct{})
		go func() {
			defer close(accepted)
			if conn, err := l.Accept(); err == nil {
				conn.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-accepted })
		if err := b.saveBootstrap(bootstrap{Version: 3, Address: "unix://" + socket, Protocol: "ttrpc"}); err != nil {
			t.Fatal(err)
		}
	})
	if ev := e.expect("/tasks/exit", "c1").(*eventapi.TaskExit); ev.GetExitStatus() != 137 {
		t.Errorf("exit = %v, want 137", ev)
	}
	e.expect("/tasks/delete", "c1")
	if task, err := e.m.lookup(e.ctx, "c1"); err == nil {
		<-task.gone
	}
	e.nothingLeft("c1")
}

func TestRestartRemovesShimWithoutTask(t *testing.T) {
	e := newEnv(t, "ours")
	ctx, cancel := context.WithCancel(e.ctx)
	errs := make(chan error, 1)
	go func() {
		_, err := e.m.Create(ctx, "hang-on-create", containerd.TaskCreate{})
		errs <- err
	}()
	for e.notes("pids")[0] == "" { // the shim has come up
		select {
		case err := <-errs:
			t.Fatal(err)
		case <-e.ctx.Done():
			t.Fatal("no shim")
		default:
		}
	}
	e.restart(func() {})
	cancel()
	if err := <-errs; err == nil {
		t.Error("Create succeeded across a restart")
	}
	task, err := e.m.lookup(e.ctx, "hang-on-create")
	if err == nil {
		<-task.gone
	}
	e.nothingLeft("hang-on-create")
}

func TestHungShimDelaysNobody(t *testing.T) {
	e := newEnv(t, "ours")
	e.run("hung")
	e.run("well")
	pid := e.pid("hung")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(pid, nil, syscall.WUNTRACED, nil); err != nil { // until it has stopped
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := e.m.State(e.ctx, "hung", ""); !errdefs.IsUnavailable(err) {
		t.Errorf("State of the hung = %v, want Unavailable", err)
	}
	if s, err := e.m.State(e.ctx, "well", ""); err != nil || s.Status != containerd.StatusRunning {
		t.Errorf("State of the other = %+v, %v", s, err)
	}
	list, err := e.m.List(e.ctx)
	if err != nil || len(list) != 2 || list[0].Status != containerd.StatusRunning {
		t.Errorf("List = %+v, %v, want both as last known", list, err)
	}
	if d := time.Since(start); d > 5*stateTimeout {
		t.Errorf("took %v", d)
	}
	e.restart(func() {}) // a new daemon keeps it as well
	if list, err := e.m.List(e.ctx); err != nil || len(list) != 2 || list[0].Status != containerd.StatusUnknown {
		t.Errorf("List after a restart = %+v, %v, want the hung as unknown", list, err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if s, err := e.m.State(e.ctx, "hung", ""); err != nil || s.Status != containerd.StatusRunning {
		t.Errorf("State after SIGCONT = %+v, %v, want running", s, err)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		kind, id string
		is       func(error) bool
		says     string
	}{
		{"ours", "unknown", errdefs.IsNotFound, "unknown"},
		{"ours", "bad/id", errdefs.IsInvalidArgument, "bad/id"},
		{"ours", "bad-spec", errdefs.IsInvalidArgument, "spec is bad"},
		{"ours", "die-on-create", errdefs.IsUnavailable, "last words"},
		{"ours", "die-on-start", errdefs.IsUnavailable, "last words"},
		{"stock", "bad-spec", errdefs.IsInvalidArgument, "spec is bad"},
		{"stock", "fail-start", func(err error) bool { return err != nil }, "no such luck"},
	} {
		t.Run(tt.kind+" "+tt.id, func(t *testing.T) {
			e := newEnv(t, tt.kind)
			_, err := e.m.Create(e.ctx, tt.id, containerd.TaskCreate{})
			if !tt.is(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Create = %v, want another class or %q", err, tt.says)
			}
			if task, err := e.m.lookup(e.ctx, tt.id); err == nil {
				<-task.gone
			}
			e.nothingLeft(tt.id)
		})
	}
}

func TestCancelledCreateEndsShim(t *testing.T) {
	e := newEnv(t, "ours")
	ctx, cancel := context.WithCancelCause(e.ctx)
	cause := errors.New("client has gone")
	go func() {
		for e.notes("pids")[0] == "" && e.ctx.Err() == nil {
		}
		cancel(cause)
	}()
	if _, err := e.m.Create(ctx, "hang-on-create", containerd.TaskCreate{}); !errors.Is(err, cause) {
		t.Errorf("Create = %v, want the cause", err)
	}
	if task, err := e.m.lookup(e.ctx, "hang-on-create"); err == nil {
		<-task.gone
	}
	e.nothingLeft("hang-on-create")
	if err := e.m.Close(e.ctx); err != nil { // waits for the shim's end
		t.Fatal(err)
	}
	if err := syscall.Kill(e.pid("hang-on-create"), 0); err != syscall.ESRCH {
		t.Errorf("shim is still there: %v", err)
	}
}

func TestEventOfAFormerTaskIsNotBelieved(t *testing.T) {
	e := newEnv(t, "ours")
	e.run("c1")
	payload, err := typeurl.MarshalAny(&eventapi.TaskExit{ContainerID: "c1", ID: "c1", Pid: 999, ExitStatus: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.m.Forward(e.ctx, &events.Envelope{Timestamp: time.Now(), Namespace: "test", Topic: "/tasks/exit", Event: payload}); err != nil {
		t.Fatal(err)
	}
	if s, err := e.m.State(e.ctx, "c1", ""); err != nil || s.Status != containerd.StatusRunning {
		t.Errorf("State = %+v, %v, want running", s, err)
	}
}

func TestConcurrentCreateHasOneWinner(t *testing.T) {
	e := newEnv(t, "ours")
	var mu sync.Mutex
	var wins int
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := e.m.Create(e.ctx, "c1", containerd.TaskCreate{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				wins++
			} else if !errdefs.IsAlreadyExists(err) {
				t.Errorf("Create = %v, want AlreadyExists", err)
			}
		})
	}
	wg.Wait()
	if wins != 1 {
		t.Errorf("%d creates succeeded, want 1", wins)
	}
}

func TestCallsReachTheShim(t *testing.T) {
	e := newEnv(t, "ours")
	e.run("c1")
	if err := e.m.ResizePty(e.ctx, "c1", "x", 80, 24); err != nil {
		t.Error(err)
	}
	if err := e.m.CloseStdin(e.ctx, "c1", "x"); err != nil {
		t.Error(err)
	}
	if err := e.m.Update(e.ctx, "c1", &anypb.Any{Value: []byte("res")}); err != nil {
		t.Error(err)
	}
	if got, want := e.notes("calls"), []string{"resize x 80x24", "closeio x true", "update res"}; !slices.Equal(got, want) {
		t.Errorf("calls = %q, want %q", got, want)
	}
	if pids, err := e.m.Pids(e.ctx, "c1"); err != nil || !slices.Equal(pids, []uint32{1000, 1001}) {
		t.Errorf("Pids = %v, %v", pids, err)
	}
	if a, err := e.m.Metrics(e.ctx, "c1"); err != nil || a.GetTypeUrl() != "fake" {
		t.Errorf("Metrics = %v, %v", a, err)
	}
	if err := e.m.Pause(e.ctx, "c1"); err != nil {
		t.Error(err)
	}
	if s, err := e.m.State(e.ctx, "c1", ""); err != nil || s.Status != containerd.StatusPaused {
		t.Errorf("State = %+v, %v, want paused", s, err)
	}
	if err := e.m.Resume(e.ctx, "c1"); err != nil {
		t.Error(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := e.m.RuntimeInfo(e.ctx, self, nil); err != nil || info.GetName() != "fake with 0 bytes of options" {
		t.Errorf("RuntimeInfo = %v, %v", info, err)
	}
	for name, call := range map[string]func() error{
		"Start":  func() error { _, err := e.m.Start(e.ctx, "none", ""); return err },
		"State":  func() error { _, err := e.m.State(e.ctx, "c1", "none"); return err },
		"Wait":   func() error { _, err := e.m.Wait(e.ctx, "c1", "none"); return err },
		"Kill":   func() error { return e.m.Kill(e.ctx, "c1", "none", 9, false) },
		"Delete": func() error { _, err := e.m.Delete(e.ctx, "none", ""); return err },
	} {
		if err := call(); !errdefs.IsNotFound(err) {
			t.Errorf("%s of the unknown = %v, want NotFound", name, err)
		}
	}
	if _, err := e.m.List(context.Background()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("List without a namespace = %v, want FailedPrecondition", err)
	}
}

func BenchmarkManager_CreateDelete(b *testing.B) {
	b.Run("ours", func(b *testing.B) { benchmarkCreateDelete(b, "ours") })
	b.Run("stock", func(b *testing.B) { benchmarkCreateDelete(b, "stock") })
}

func benchmarkCreateDelete(b *testing.B, kind string) {
	dir := b.TempDir()
	ctx := namespaces.WithNamespace(b.Context(), "test")
	m, err := New(ctx, Config{
		State: filepath.Join(dir, "state"), Address: filepath.Join(dir, "c.sock"), Containers: fakeContainers{}, Events: event.NewBus(),
		ShimEnv: []string{fakeShimEnv + "=" + kind, fakeDirEnv + "=" + dir}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close(context.Background())
	for b.Loop() {
		if _, err := m.Create(ctx, "c", containerd.TaskCreate{}); err != nil {
			b.Fatal(err)
		}
		if _, err := m.Delete(ctx, "c", ""); err != nil {
			b.Fatal(err)
		}
	}
}
