package taskrpc_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	forwardapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/internal/shimio"
	"lighter/shim"
	"lighter/shim/events"
	"lighter/shim/reaper"
	"lighter/shim/shimtest"
	"lighter/shim/taskrpc"
	ours "lighter/shim/ttrpc"
)

// containerd receives events.
type containerd struct {
	topics chan string
	exits  chan *eventapi.TaskExit
}

func (c *containerd) Forward(_ context.Context, r *forwardapi.ForwardRequest) (*emptypb.Empty, error) {
	c.topics <- r.Envelope.Namespace + r.Envelope.Topic
	if v, err := typeurl.UnmarshalAny(r.Envelope.Event); err == nil {
		if exit, ok := v.(*eventapi.TaskExit); ok {
			c.exits <- exit
		}
	}
	return &emptypb.Empty{}, nil
}

func serve(t *testing.T, path string, register func(*ttrpc.Server)) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	register(srv)
	var done sync.WaitGroup
	done.Go(func() { srv.Serve(context.Background(), l) })
	return func() { srv.Close(); done.Wait() }
}

type env struct {
	t         *testing.T
	ctx       context.Context
	client    *ttrpc.Client
	runtime   *shimtest.Runtime
	publisher *events.Publisher
	eventPath string
	daemon    *containerd
	options   chan shim.Options
}

func newEnv(t *testing.T) *env {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir := t.TempDir()
	e := &env{
		t: t, runtime: shimtest.New(), eventPath: filepath.Join(dir, "events.sock"),
		daemon:  &containerd{topics: make(chan string, 100), exits: make(chan *eventapi.TaskExit, 100)},
		options: make(chan shim.Options, 10),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	e.ctx = ctx
	r := reaper.New()
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGCHLD)
	var done sync.WaitGroup
	done.Go(func() { r.Run(ctx, sigs) })
	e.publisher = events.New("ns", e.eventPath, log)
	svc := shim.NewService(shim.Deps{
		Namespace: "ns", Reaper: r, Publish: e.publisher.Publish, Log: log,
		Runtime: func(o shim.Options) (shim.Runtime, error) {
			e.options <- o
			return e.runtime, nil
		},
	})
	path := filepath.Join(dir, "shim.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	l.SetUnlinkOnClose(false)
	l.Close()
	if err != nil {
		t.Fatal(err)
	}
	api := taskrpc.New(svc, e.publisher.Kick, func() {})
	srv := ours.Serve(f, ours.Config{Handle: api.Handle, Waits: taskrpc.Waits, Log: log})
	conn, err := net.Dial("unix", filepath.Join(dir, "shim.sock"))
	if err != nil {
		t.Fatal(err)
	}
	e.client = ttrpc.NewClient(conn)
	t.Cleanup(func() {
		e.client.Close()
		srv.Close(10 * time.Second)
		e.publisher.Close(ctx)
		signal.Stop(sigs)
		cancel()
		done.Wait()
	})
	return e
}

func (e *env) bundle(script string) string {
	e.t.Helper()
	dir := e.t.TempDir()
	if err := shimtest.WriteBundle(dir, script, false); err != nil {
		e.t.Fatal(err)
	}
	return dir
}

func (e *env) topic() string {
	e.t.Helper()
	select {
	case s := <-e.daemon.topics:
		return s
	case <-e.ctx.Done():
		e.t.Fatal("no event")
		return ""
	}
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The whole life of a container over version 2 and version 3, and its events in
// order.
func TestRoundTrip(t *testing.T) {
	e := newEnv(t)
	stop := serve(t, e.eventPath, func(srv *ttrpc.Server) { forwardapi.RegisterTTRPCEventsService(srv, e.daemon) })
	defer stop()
	v2 := taskv2.NewTTRPCTaskClient(e.client)
	v3 := taskv3.NewTTRPCTaskClient(e.client)

	opts := ok[typeurl.Any](t)(typeurl.MarshalAny(&options.Options{Root: "/r", BinaryName: "b", IoUid: 0, ShimCgroup: ""}))
	created := ok[*taskv3.CreateTaskResponse](t)(v3.Create(e.ctx, &taskv3.CreateTaskRequest{
		ID: "c", Bundle: e.bundle("sleep 100; exit 1"), Stdout: shimio.Stdio{}.String(),
		Options: &anypb.Any{TypeUrl: opts.GetTypeUrl(), Value: opts.GetValue()},
	}))
	if got, want := <-e.options, (shim.Options{Root: "/r", BinaryName: "b"}); got != want {
		t.Errorf("options %+v, want %+v", got, want)
	}
	started := ok[*taskv2.StartResponse](t)(v2.Start(e.ctx, &taskv2.StartRequest{ID: "c"}))
	if started.Pid != created.Pid {
		t.Errorf("pids %d and %d differ", started.Pid, created.Pid)
	}
	state := ok[*taskv3.StateResponse](t)(v3.State(e.ctx, &taskv3.StateRequest{ID: "c"}))
	if state.Status != tasktypes.Status_RUNNING || state.Pid != created.Pid || state.ExitedAt != nil {
		t.Errorf("state %v", state)
	}
	conn := ok[*taskv2.ConnectResponse](t)(v2.Connect(e.ctx, &taskv2.ConnectRequest{ID: "c"}))
	if conn.ShimPid != uint32(os.Getpid()) || conn.TaskPid != created.Pid || !strings.HasPrefix(conn.Version, "Lighter") {
		t.Errorf("connect %v", conn)
	}

	spec, err := json.Marshal(shimtest.Process("exit 5", false))
	if err != nil {
		t.Fatal(err)
	}
	ok[*emptypb.Empty](t)(v3.Exec(e.ctx, &taskv3.ExecProcessRequest{ID: "c", ExecID: "e",
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec}}))
	ok[*taskv3.StartResponse](t)(v3.Start(e.ctx, &taskv3.StartRequest{ID: "c", ExecID: "e"}))
	if w := ok[*taskv2.WaitResponse](t)(v2.Wait(e.ctx, &taskv2.WaitRequest{ID: "c", ExecID: "e"})); w.ExitStatus != 5 || w.ExitedAt == nil {
		t.Errorf("exec's exit %v", w)
	}
	pids := ok[*taskv3.PidsResponse](t)(v3.Pids(e.ctx, &taskv3.PidsRequest{ID: "c"}))
	if len(pids.Processes) != 2 {
		t.Errorf("pids %v", pids)
	} else if v, err := typeurl.UnmarshalAny(pids.Processes[1].Info); err != nil || v.(*options.ProcessDetails).ExecID != "e" {
		t.Errorf("exec's details %v, %v", v, err)
	}
	ok[*taskv2.DeleteResponse](t)(v2.Delete(e.ctx, &taskv2.DeleteRequest{ID: "c", ExecID: "e"}))

	limit := int64(1 << 20)
	res, err := json.Marshal(specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	if err != nil {
		t.Fatal(err)
	}
	ok[*emptypb.Empty](t)(v3.Update(e.ctx, &taskv3.UpdateTaskRequest{ID: "c",
		Resources: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: res}}))
	if got := e.runtime.Updated("c"); got == nil || *got.Memory.Limit != limit {
		t.Errorf("updated to %+v", got)
	}
	ok[*emptypb.Empty](t)(v3.Pause(e.ctx, &taskv3.PauseRequest{ID: "c"}))
	ok[*emptypb.Empty](t)(v2.Resume(e.ctx, &taskv2.ResumeRequest{ID: "c"}))
	ok[*emptypb.Empty](t)(v2.CloseIO(e.ctx, &taskv2.CloseIORequest{ID: "c", Stdin: true}))
	ok[*emptypb.Empty](t)(v3.Kill(e.ctx, &taskv3.KillRequest{ID: "c", Signal: 9, All: true}))
	if w := ok[*taskv3.WaitResponse](t)(v3.Wait(e.ctx, &taskv3.WaitRequest{ID: "c"})); w.ExitStatus != 137 {
		t.Errorf("exit %v", w)
	}
	if d := ok[*taskv3.DeleteResponse](t)(v3.Delete(e.ctx, &taskv3.DeleteRequest{ID: "c"})); d.ExitStatus != 137 || d.Pid != created.Pid || d.ExitedAt == nil {
		t.Errorf("delete %v", d)
	}
	ok[*emptypb.Empty](t)(v2.Shutdown(e.ctx, &taskv2.ShutdownRequest{ID: "c"}))

	for _, want := range []string{"create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"} {
		if got := e.topic(); got != "ns/tasks/"+want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
	for _, want := range []string{"e", "c"} {
		if got := <-e.daemon.exits; got.ID != want || got.ContainerID != "c" {
			t.Errorf("exit event %v, want that of %q", got, want)
		}
	}
}

func TestErrorClasses(t *testing.T) {
	e := newEnv(t)
	c := taskv3.NewTTRPCTaskClient(e.client)
	class := func(what string, err error, is func(error) bool) {
		t.Helper()
		if !is(errgrpc.ToNative(err)) {
			t.Errorf("%s: %v has the wrong class", what, err)
		}
	}
	_, err := c.State(e.ctx, &taskv3.StateRequest{ID: "none"})
	class("state", err, errdefs.IsNotFound)
	_, err = c.Checkpoint(e.ctx, &taskv3.CheckpointTaskRequest{ID: "none"})
	class("checkpoint", err, errdefs.IsNotImplemented)
	_, err = c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Checkpoint: "/x"})
	class("restore", err, errdefs.IsNotImplemented)
	_, err = c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Options: &anypb.Any{TypeUrl: "some.Options"}})
	class("options", err, errdefs.IsInvalidArgument)
	_, err = c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Bundle: e.t.TempDir()})
	class("empty bundle", err, errdefs.IsInvalidArgument)
	_, err = c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Bundle: e.bundle("true"), Stdout: "/missing/fifo"})
	class("missing fifo", err, errdefs.IsNotFound)
	_, err = c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Bundle: e.bundle("true")})
	class("create", err, func(err error) bool { return err == nil })
	_, err = c.Exec(e.ctx, &taskv3.ExecProcessRequest{ID: "c", ExecID: "e", Spec: &anypb.Any{TypeUrl: "x"}})
	class("exec", err, errdefs.IsInvalidArgument)
	_, err = c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Bundle: e.bundle("true")})
	class("create twice", err, errdefs.IsAlreadyExists)
	c.Delete(e.ctx, &taskv3.DeleteRequest{ID: "c"})
}

// Events wait while containerd is away, and are sent in order when it is back.
func TestEventsSurviveContainerdsAbsence(t *testing.T) {
	e := newEnv(t)
	c := taskv3.NewTTRPCTaskClient(e.client)
	register := func(srv *ttrpc.Server) { forwardapi.RegisterTTRPCEventsService(srv, e.daemon) }

	ok[*taskv3.CreateTaskResponse](t)(c.Create(e.ctx, &taskv3.CreateTaskRequest{ID: "c", Bundle: e.bundle("exit 2")}))
	stop := serve(t, e.eventPath, register)
	ok[*taskv3.ConnectResponse](t)(c.Connect(e.ctx, &taskv3.ConnectRequest{ID: "c"}))
	if got := e.topic(); got != "ns/tasks/create" {
		t.Errorf("event %q", got)
	}
	stop()
	ok[*taskv3.StartResponse](t)(c.Start(e.ctx, &taskv3.StartRequest{ID: "c"}))
	ok[*taskv3.WaitResponse](t)(c.Wait(e.ctx, &taskv3.WaitRequest{ID: "c"}))
	ok[*taskv3.DeleteResponse](t)(c.Delete(e.ctx, &taskv3.DeleteRequest{ID: "c"}))
	stop = serve(t, e.eventPath, register)
	defer stop()
	ok[*taskv3.ConnectResponse](t)(c.Connect(e.ctx, &taskv3.ConnectRequest{ID: "c"}))
	for _, want := range []string{"start", "exit", "delete"} {
		if got := e.topic(); got != "ns/tasks/"+want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
}
