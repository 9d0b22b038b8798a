package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

type taskServer struct {
	api.UnimplementedTasksServer
	tasks containerd.Tasks
	log   *slog.Logger
}

func (s *taskServer) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	if r.GetCheckpoint() != nil {
		return nil, fmt.Errorf("create task %q from a checkpoint: %w", r.GetContainerID(), errdefs.ErrNotImplemented)
	}
	if r.GetTaskApiAddress() != "" {
		return nil, fmt.Errorf("create task %q on another task API: %w", r.GetContainerID(), errdefs.ErrNotImplemented)
	}
	pid, err := s.tasks.Create(ctx, r.GetContainerID(), containerd.TaskCreate{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		Rootfs: mountsOf(r.GetRootfs()), Options: anyOf(r.GetOptions()), RuntimePath: r.GetRuntimePath(),
	})
	if err != nil {
		return nil, err
	}
	return &api.CreateTaskResponse{ContainerID: r.GetContainerID(), Pid: pid}, nil
}

func (s *taskServer) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	pid, err := s.tasks.Start(ctx, r.GetContainerID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	return &api.StartResponse{Pid: pid}, nil
}

func (s *taskServer) Delete(ctx context.Context, r *api.DeleteTaskRequest) (*api.DeleteResponse, error) {
	exit, err := s.tasks.Delete(ctx, r.GetContainerID(), "")
	if err != nil {
		return nil, err
	}
	return protoExit(r.GetContainerID(), exit), nil
}

func (s *taskServer) DeleteProcess(ctx context.Context, r *api.DeleteProcessRequest) (*api.DeleteResponse, error) {
	if r.GetExecID() == "" {
		return nil, invalid("delete process of task %q: no exec ID", r.GetContainerID())
	}
	exit, err := s.tasks.Delete(ctx, r.GetContainerID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	return protoExit(r.GetExecID(), exit), nil
}

func protoExit(id string, e containerd.Exit) *api.DeleteResponse {
	return &api.DeleteResponse{ID: id, Pid: e.Pid, ExitStatus: e.Code, ExitedAt: timestamp(e.ExitedAt)}
}

func (s *taskServer) Get(ctx context.Context, r *api.GetRequest) (*api.GetResponse, error) {
	state, err := s.tasks.State(ctx, r.GetContainerID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	return &api.GetResponse{Process: protoProcess(state)}, nil
}

func (s *taskServer) List(ctx context.Context, _ *api.ListTasksRequest) (*api.ListTasksResponse, error) {
	list, err := s.tasks.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &api.ListTasksResponse{}
	for _, state := range list {
		resp.Tasks = append(resp.Tasks, protoProcess(state))
	}
	return resp, nil
}

func (s *taskServer) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.tasks.Kill(ctx, r.GetContainerID(), r.GetExecID(), syscall.Signal(r.GetSignal()), r.GetAll())
}

func (s *taskServer) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.GetExecID() == "" {
		return nil, invalid("exec in task %q: no exec ID", r.GetContainerID())
	}
	return &emptypb.Empty{}, s.tasks.Exec(ctx, r.GetContainerID(), r.GetExecID(), containerd.TaskExec{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(), Spec: anyOf(r.GetSpec()),
	})
}

func (s *taskServer) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.tasks.ResizePty(ctx, r.GetContainerID(), r.GetExecID(), r.GetWidth(), r.GetHeight())
}

func (s *taskServer) CloseIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	if !r.GetStdin() { // there is nothing else to close
		return &emptypb.Empty{}, nil
	}
	return &emptypb.Empty{}, s.tasks.CloseStdin(ctx, r.GetContainerID(), r.GetExecID())
}

func (s *taskServer) Pause(ctx context.Context, r *api.PauseTaskRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.tasks.Pause(ctx, r.GetContainerID())
}

func (s *taskServer) Resume(ctx context.Context, r *api.ResumeTaskRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.tasks.Resume(ctx, r.GetContainerID())
}

func (s *taskServer) ListPids(ctx context.Context, r *api.ListPidsRequest) (*api.ListPidsResponse, error) {
	pids, err := s.tasks.Pids(ctx, r.GetContainerID())
	if err != nil {
		return nil, err
	}
	resp := &api.ListPidsResponse{}
	for _, pid := range pids {
		resp.Processes = append(resp.Processes, &taskapi.ProcessInfo{Pid: pid})
	}
	return resp, nil
}

func (s *taskServer) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	if r.GetResources() == nil {
		return nil, invalid("update task %q: no resources", r.GetContainerID())
	}
	return &emptypb.Empty{}, s.tasks.Update(ctx, r.GetContainerID(), anyOf(r.GetResources()))
}

func (s *taskServer) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	exit, err := s.tasks.Wait(ctx, r.GetContainerID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	return &api.WaitResponse{ExitStatus: exit.Code, ExitedAt: timestamp(exit.ExitedAt)}, nil
}

// Metrics answers for the tasks that match the filters over id and namespace.
// One that has ended, or does not answer, is left out.
func (s *taskServer) Metrics(ctx context.Context, r *api.MetricsRequest) (*api.MetricsResponse, error) {
	match, err := filters.ParseAll(r.GetFilters()...)
	if err != nil {
		return nil, invalid("task metrics: filter: %w", err)
	}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.tasks.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &api.MetricsResponse{}
	for _, t := range list {
		if !match.Match(filters.AdapterFunc(func(path []string) (string, bool) {
			switch {
			case len(path) == 1 && path[0] == "id":
				return t.ID, true
			case len(path) == 1 && path[0] == "namespace":
				return namespace, true
			}
			return "", false
		})) {
			continue
		}
		now := time.Now()
		data, err := s.tasks.Metrics(ctx, t.ID)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			s.log.Debug("no metrics of a task", "task", t.ID, "err", err)
			continue
		}
		resp.Metrics = append(resp.Metrics, &types.Metric{Timestamp: timestamp(now), ID: t.ID, Data: protoAny(data)})
	}
	return resp, nil
}

var statuses = map[containerd.Status]taskapi.Status{
	containerd.StatusCreated: taskapi.Status_CREATED,
	containerd.StatusRunning: taskapi.Status_RUNNING,
	containerd.StatusStopped: taskapi.Status_STOPPED,
	containerd.StatusPaused:  taskapi.Status_PAUSED,
	containerd.StatusPausing: taskapi.Status_PAUSING,
}

// protoProcess returns the message of a state. Its ID is that of the process, as
// stock clients expect.
func protoProcess(s containerd.TaskState) *taskapi.Process {
	id := s.ExecID
	if id == "" {
		id = s.ID
	}
	return &taskapi.Process{
		ContainerID: s.ID, ID: id, Pid: s.Pid, Status: statuses[s.Status],
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal,
		ExitStatus: s.Exit.Code, ExitedAt: timestamp(s.Exit.ExitedAt),
	}
}
