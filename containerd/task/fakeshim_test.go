package task

import (
	"context"
	"errors"
	"flag"
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

	eventapi "github.com/containerd/containerd/api/events"
	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The test binary is the shim as well: fakeShimEnv in its environment says which
// kind, fakeDirEnv where it notes what it did.
const (
	fakeShimEnv = "LIGHTER_TEST_SHIM" // "ours" or "stock"
	fakeDirEnv  = "LIGHTER_TEST_DIR"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(fakeShimEnv); kind != "" {
		if err := fakeShimMain(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fakeShimMain(kind string) error {
	fs := flag.NewFlagSet("shim", flag.ContinueOnError)
	versionFlag := fs.Bool("v", false, "")
	infoFlag := fs.Bool("info", false, "")
	id := fs.String("id", "", "")
	namespace := fs.String("namespace", "", "")
	fs.String("address", "", "")
	fs.String("publish-binary", "", "")
	fs.Bool("debug", false, "")
	bundle := fs.String("bundle", "", "")
	socket := fs.String("socket", "", "")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	switch {
	case *versionFlag:
		note("version", "")
		if kind == "ours" {
			fmt.Println("containerd-shim-runc-v2: Lighter 1.0")
		} else {
			fmt.Println("containerd-shim-runc-v2:\n  Version: v2.3.0")
		}
		return nil
	case *infoFlag:
		stdin, _ := io.ReadAll(os.Stdin)
		out, err := proto.Marshal(&types.RuntimeInfo{Name: fmt.Sprint("fake with ", len(stdin), " bytes of options")})
		os.Stdout.Write(out)
		return err
	}
	switch action := fs.Arg(0); action {
	case "serve":
		if strings.HasPrefix(*id, "die-on-start") {
			return errors.New("last words of the shim")
		}
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err != nil {
			return err
		}
		return newFakeShim(*id, *namespace, *bundle, 3).serve(l)
	case "start":
		return fakeStart(*id, *namespace)
	case "daemon": // what the start verb leaves behind
		l, err := net.Listen("unix", *socket)
		if err != nil {
			return err
		}
		ready := os.NewFile(3, "ready")
		ready.Write([]byte("x"))
		ready.Close()
		return newFakeShim(*id, *namespace, *bundle, 2).serve(l)
	case "delete":
		note("deleted", *namespace+"/"+*id)
		out, err := proto.Marshal(&api.DeleteResponse{Pid: 42, ExitStatus: 137, ExitedAt: timestamppb.Now()})
		os.Stdout.Write(out)
		return err
	default:
		return fmt.Errorf("unknown action %q", action)
	}
}

// fakeStart is the start verb of a shim of another make: it checks its input,
// daemonizes a server that speaks version 2 though version 3 is announced, and
// prints a protobuf.
func fakeStart(id, namespace string) error {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var params bootapi.BootstrapParams
	if err := proto.Unmarshal(stdin, &params); err != nil {
		return err
	}
	if params.GetInstanceID() != id || params.GetNamespace() != namespace || params.GetContainerdTtrpcAddress() != os.Getenv("TTRPC_ADDRESS") {
		return fmt.Errorf("bootstrap parameters %v do not match the arguments", &params)
	}
	if strings.HasPrefix(id, "fail-start") {
		return errors.New("no such luck")
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	socket := filepath.Join(os.Getenv(fakeDirEnv), id+".sock")
	os.Remove(socket) // of a dead one
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-id", id, "-namespace", namespace, "-bundle", wd, "-socket", socket, "daemon")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		return err
	}
	out, err := proto.Marshal(&bootapi.BootstrapResult{Version: 3, Address: "unix://" + socket, Protocol: "ttrpc"})
	os.Stdout.Write(out)
	return err
}

// note appends a line to a file of the test's directory.
func note(name, line string) {
	f, err := os.OpenFile(filepath.Join(os.Getenv(fakeDirEnv), name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}

type fakeProcess struct {
	pid    uint32
	status taskapi.Status
	code   uint32
	exit   chan struct{}
}

// fakeShim keeps processes that exist only in its memory.
type fakeShim struct {
	id, namespace, bundle string
	version               int
	stop                  chan struct{}
	events                ttrpcevents.TTRPCEventsService

	mu    sync.Mutex
	procs map[string]*fakeProcess
}

func newFakeShim(id, namespace, bundle string, version int) *fakeShim {
	return &fakeShim{id: id, namespace: namespace, bundle: bundle, version: version,
		stop: make(chan struct{}), procs: make(map[string]*fakeProcess)}
}

func (f *fakeShim) serve(l net.Listener) error {
	note("pids", fmt.Sprint(f.id, " ", os.Getpid()))
	if conn, err := net.Dial("unix", os.Getenv("TTRPC_ADDRESS")); err == nil {
		f.events = ttrpcevents.NewTTRPCEventsClient(ttrpc.NewClient(conn))
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	if f.version == 2 {
		// The messages are those of version 3, only the name differs.
		server.Register("containerd.task.v2.Task", map[string]ttrpc.Method{
			"Create": method(f.Create), "Start": method(f.Start), "Kill": method(f.Kill), "Wait": method(f.Wait),
			"Delete": method(f.Delete), "State": method(f.State), "Shutdown": method(f.Shutdown), "Exec": method(f.Exec),
		})
	} else {
		api.RegisterTTRPCTaskService(server, f)
	}
	go server.Serve(context.Background(), l)
	<-f.stop
	server.Shutdown(context.Background())
	return nil
}

func method[Req, Resp any](f func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, decode func(any) error) (any, error) {
		req := new(Req)
		if err := decode(req); err != nil {
			return nil, err
		}
		return f(ctx, req)
	}
}

func (f *fakeShim) publish(topic string, event proto.Message) {
	if f.events == nil {
		return
	}
	payload, err := anypb.New(event)
	if err != nil {
		panic(err)
	}
	payload.TypeUrl = strings.TrimPrefix(payload.TypeUrl, "type.googleapis.com/")
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f.events.Forward(ctx, &ttrpcevents.ForwardRequest{Envelope: &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: f.namespace, Topic: topic, Event: payload,
	}})
}

func (f *fakeShim) get(id, execID string) (*fakeProcess, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.procs[execID]
	if p == nil {
		return nil, status.Errorf(codes.NotFound, "process %s %s: not found", id, execID)
	}
	return p, nil
}

func (f *fakeShim) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	switch {
	case strings.HasPrefix(f.id, "die-on-create"):
		fmt.Fprintln(os.Stderr, "last words of the shim")
		os.Exit(3)
	case strings.HasPrefix(f.id, "hang-on-create"):
		<-f.stop
	case strings.HasPrefix(f.id, "bad-spec"):
		return nil, status.Error(codes.InvalidArgument, "spec is bad: invalid argument")
	}
	if r.GetBundle() != f.bundle {
		return nil, status.Errorf(codes.Internal, "bundle %s, started in %s", r.GetBundle(), f.bundle)
	}
	if _, err := os.Stat(filepath.Join(f.bundle, "config.json")); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.procs[""] = &fakeProcess{pid: 1000, status: taskapi.Status_CREATED, exit: make(chan struct{})}
	f.mu.Unlock()
	f.publish("/tasks/create", &eventapi.TaskCreate{ContainerID: f.id, Pid: 1000})
	return &api.CreateTaskResponse{Pid: 1000}, nil
}

func (f *fakeShim) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	p, err := f.get(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	p.status = taskapi.Status_RUNNING
	f.mu.Unlock()
	f.publish("/tasks/start", &eventapi.TaskStart{ContainerID: f.id, Pid: p.pid})
	return &api.StartResponse{Pid: p.pid}, nil
}

func (f *fakeShim) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	p, err := f.get(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	p.status, p.code = taskapi.Status_STOPPED, 128+r.GetSignal()
	close(p.exit)
	f.mu.Unlock()
	id := r.GetExecID()
	if id == "" {
		id = f.id
	}
	f.publish("/tasks/exit", &eventapi.TaskExit{ContainerID: f.id, ID: id, Pid: p.pid, ExitStatus: p.code, ExitedAt: timestamppb.Now()})
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	p, err := f.get(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	<-p.exit
	return &api.WaitResponse{ExitStatus: p.code, ExitedAt: timestamppb.Now()}, nil
}

func (f *fakeShim) Delete(ctx context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	p, err := f.get(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.status == taskapi.Status_RUNNING {
		return nil, status.Error(codes.FailedPrecondition, "process is running: failed precondition")
	}
	delete(f.procs, r.GetExecID())
	return &api.DeleteResponse{Pid: p.pid, ExitStatus: p.code, ExitedAt: timestamppb.Now()}, nil
}

func (f *fakeShim) State(ctx context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	p, err := f.get(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.StateResponse{ID: r.GetID(), Bundle: f.bundle, Pid: p.pid, Status: p.status, ExitStatus: p.code,
		ExitedAt: timestamppb.Now(), ExecID: r.GetExecID(), Stdout: "/out"}, nil
}

func (f *fakeShim) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.procs[r.GetExecID()] != nil {
		return nil, status.Error(codes.AlreadyExists, "exec: already exists")
	}
	f.procs[r.GetExecID()] = &fakeProcess{pid: uint32(1000 + len(f.procs)), status: taskapi.Status_CREATED, exit: make(chan struct{})}
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) Pids(ctx context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	return &api.PidsResponse{Processes: []*taskapi.ProcessInfo{{Pid: 1000}, {Pid: 1001}}}, nil
}

func (f *fakeShim) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	return &api.StatsResponse{Stats: &anypb.Any{TypeUrl: "fake", Value: []byte{1}}}, nil
}

func (f *fakeShim) Shutdown(ctx context.Context, r *api.ShutdownRequest) (*emptypb.Empty, error) {
	close(f.stop)
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) setStatus(s taskapi.Status) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.procs[""].status = s
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) Pause(context.Context, *api.PauseRequest) (*emptypb.Empty, error) {
	return f.setStatus(taskapi.Status_PAUSED)
}

func (f *fakeShim) Resume(context.Context, *api.ResumeRequest) (*emptypb.Empty, error) {
	return f.setStatus(taskapi.Status_RUNNING)
}

func (f *fakeShim) ResizePty(_ context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	note("calls", fmt.Sprintf("resize %s %dx%d", r.GetExecID(), r.GetWidth(), r.GetHeight()))
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) CloseIO(_ context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	note("calls", fmt.Sprintf("closeio %s %v", r.GetExecID(), r.GetStdin()))
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) Update(_ context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	note("calls", "update "+string(r.GetResources().GetValue()))
	return &emptypb.Empty{}, nil
}

func (f *fakeShim) Checkpoint(context.Context, *api.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "checkpoint: not implemented")
}

func (f *fakeShim) Connect(context.Context, *api.ConnectRequest) (*api.ConnectResponse, error) {
	return &api.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}
