// Package taskrpc serves a shim.Service as containerd's Task API over ttrpc. It
// is an adapter: it translates messages and maps errors.
package taskrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"lighter/internal/version"
	"lighter/shim"
	"lighter/shim/metrics"
	"lighter/shim/reaper"
)

// The two names of the service. Their messages are the same on the wire, so
// that one set of types serves both; those of v3 would pull in grpc.
const (
	serviceV2 = "containerd.task.v2.Task"
	serviceV3 = "containerd.task.v3.Task"
)

// Server is the Task API of a shim.
type Server struct {
	shim *shim.Service
	// connected is called when a containerd makes itself known.
	connected func()
	// busy is called after each request.
	busy func()
}

// Register adds the Task API, versions 2 and 3, to srv. connected is called
// when containerd connects, busy after each request.
func Register(srv *ttrpc.Server, s *shim.Service, connected, busy func()) {
	t := &Server{shim: s, connected: connected, busy: busy}
	desc := &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State":      method(t, t.state),
		"Create":     method(t, t.create),
		"Start":      method(t, t.start),
		"Delete":     method(t, t.delete),
		"Pids":       method(t, t.pids),
		"Pause":      method(t, t.pause),
		"Resume":     method(t, t.resume),
		"Checkpoint": method(t, t.checkpoint),
		"Kill":       method(t, t.kill),
		"Exec":       method(t, t.exec),
		"ResizePty":  method(t, t.resizePty),
		"CloseIO":    method(t, t.closeIO),
		"Update":     method(t, t.update),
		"Wait":       method(t, t.wait),
		"Stats":      method(t, t.stats),
		"Connect":    method(t, t.connect),
		"Shutdown":   method(t, t.shutdown),
	}}
	srv.RegisterService(serviceV2, desc)
	srv.RegisterService(serviceV3, desc)
}

// method adapts f to ttrpc and its errors to the wire.
func method[Req, Resp any](t *Server, f func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		defer t.busy()
		resp, err := f(ctx, req)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && !errdefs.IsNotFound(err) {
				err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
			}
			return nil, errgrpc.ToGRPC(err)
		}
		return resp, nil
	}
}

func (t *Server) create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if r.Checkpoint != "" || r.ParentCheckpoint != "" {
		return nil, fmt.Errorf("create container %q: restoring a checkpoint is not supported: %w", r.ID, errdefs.ErrNotImplemented)
	}
	opts, err := Options(r.Options)
	if err != nil {
		return nil, fmt.Errorf("create container %q: %w", r.ID, err)
	}
	req := shim.CreateRequest{
		ID: r.ID, Bundle: r.Bundle, Terminal: r.Terminal,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Options: opts,
	}
	for _, m := range r.Rootfs {
		req.Rootfs = append(req.Rootfs, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	pid, err := t.shim.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(pid)}, nil
}

func (t *Server) start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	pid, err := t.shim.Start(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

func (t *Server) delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	exit, err := t.shim.Delete(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return DeleteResponse(exit), nil
}

// DeleteResponse is the message that tells how a process ended.
func DeleteResponse(e reaper.Exit) *taskapi.DeleteResponse {
	return &taskapi.DeleteResponse{Pid: uint32(e.Pid), ExitStatus: uint32(e.Status), ExitedAt: timestamp(e)}
}

// timestamp is nil for a process that never ran.
func timestamp(e reaper.Exit) *timestamppb.Timestamp {
	if e.At.IsZero() {
		return nil
	}
	return timestamppb.New(e.At)
}

func (t *Server) exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	var p specs.Process
	if err := decode(r.Spec, "Process", &p); err != nil {
		return nil, fmt.Errorf("add exec %q: %w", r.ExecID, err)
	}
	return empty(t.shim.Exec(ctx, shim.ExecRequest{
		ID: r.ID, ExecID: r.ExecID, Terminal: r.Terminal,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Process: &p,
	}))
}

var statuses = map[shim.Status]tasktypes.Status{
	shim.Created: tasktypes.Status_CREATED,
	shim.Running: tasktypes.Status_RUNNING,
	shim.Paused:  tasktypes.Status_PAUSED,
	shim.Stopped: tasktypes.Status_STOPPED,
	shim.Deleted: tasktypes.Status_STOPPED,
}

func (t *Server) state(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	s, err := t.shim.State(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.StateResponse{
		ID: s.ID, ExecID: s.ExecID, Bundle: s.Bundle, Pid: uint32(s.Pid), Status: statuses[s.Status],
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal,
		ExitStatus: uint32(s.Exit.Status), ExitedAt: timestamp(s.Exit),
	}, nil
}

func (t *Server) wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	exit, err := t.shim.Wait(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: uint32(exit.Status), ExitedAt: timestamp(exit)}, nil
}

func (t *Server) kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	return empty(t.shim.Kill(ctx, r.ID, r.ExecID, syscall.Signal(r.Signal), r.All))
}

func (t *Server) pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return empty(t.shim.Pause(ctx, r.ID))
}

func (t *Server) resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return empty(t.shim.Resume(ctx, r.ID))
}

func (t *Server) checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint container %q: checkpoints are not supported: %w", r.ID, errdefs.ErrNotImplemented)
}

func (t *Server) pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	list, err := t.shim.Pids(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	resp := &taskapi.PidsResponse{}
	for _, p := range list {
		info := &tasktypes.ProcessInfo{Pid: uint32(p.Pid)}
		if p.ExecID != "" {
			if info.Info, err = encode(&options.ProcessDetails{ExecID: p.ExecID}); err != nil {
				return nil, err
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

func (t *Server) resizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return empty(t.shim.ResizePty(r.ID, r.ExecID, r.Width, r.Height))
}

func (t *Server) closeIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	if !r.Stdin {
		return &emptypb.Empty{}, nil
	}
	return empty(t.shim.CloseStdin(r.ID, r.ExecID))
}

func (t *Server) update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	var res specs.LinuxResources
	if err := decode(r.Resources, "LinuxResources", &res); err != nil {
		return nil, fmt.Errorf("update container %q: %w", r.ID, err)
	}
	return empty(t.shim.Update(ctx, r.ID, &res))
}

func (t *Server) stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	paths, err := t.shim.CgroupPaths(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := metrics.Read(paths)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", r.ID, err)
	}
	return &taskapi.StatsResponse{Stats: stats}, nil
}

func (t *Server) connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	t.connected()
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: version.Product + " " + version.Version}
	// Without a container the answer is still who we are.
	pid, err := t.shim.InitPid(r.ID)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	resp.TaskPid = uint32(pid)
	return resp, nil
}

func (t *Server) shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	t.shim.Shutdown()
	return &emptypb.Empty{}, nil
}

// Options decodes runtime options, of which nil is the default.
func Options(a *anypb.Any) (shim.Options, error) {
	if a == nil || a.TypeUrl == "" {
		return shim.Options{}, nil
	}
	switch name := typeName(a); name {
	case "containerd.runc.v1.Options":
		var o options.Options
		if err := proto.Unmarshal(a.Value, &o); err != nil {
			return shim.Options{}, fmt.Errorf("decode runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return shim.Options{
			BinaryName: o.BinaryName, Root: o.Root, SystemdCgroup: o.SystemdCgroup,
			NoPivotRoot: o.NoPivotRoot, NoNewKeyring: o.NoNewKeyring, ShimCgroup: o.ShimCgroup,
			IOUID: o.IoUid, IOGID: o.IoGid,
		}, nil
	case "runtimeoptions.v1.Options":
		var o runtimeoptions.Options
		if err := proto.Unmarshal(a.Value, &o); err != nil {
			return shim.Options{}, fmt.Errorf("decode runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if o.ConfigPath != "" || len(o.ConfigBody) > 0 {
			return shim.Options{}, fmt.Errorf("runtime options of type %q are not understood: use containerd.runc.v1.Options: %w", o.TypeUrl, errdefs.ErrInvalidArgument)
		}
		return shim.Options{}, nil
	default:
		return shim.Options{}, fmt.Errorf("runtime options of type %q are not understood: use containerd.runc.v1.Options: %w", name, errdefs.ErrInvalidArgument)
	}
}

// typeName is the message's name, without a host or path before it.
func typeName(a *anypb.Any) string {
	return a.TypeUrl[strings.LastIndexByte(a.TypeUrl, '/')+1:]
}

// decode decodes an OCI type, which travels as JSON.
func decode(a *anypb.Any, name string, v any) error {
	if a == nil || typeName(a) != name {
		return fmt.Errorf("message has the type %q, not %q: %w", a.GetTypeUrl(), name, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(a.Value, v); err != nil {
		return fmt.Errorf("decode %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func encode(m proto.Message) (*anypb.Any, error) {
	b, err := proto.Marshal(m)
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: b}, err
}

func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
