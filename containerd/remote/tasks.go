package remote

import (
	"context"
	"fmt"
	"syscall"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"

	"lighter/containerd"
)

// taskClient implements containerd.Tasks.
type taskClient struct{ client api.TasksClient }

var _ containerd.Tasks = taskClient{}

func newTaskClient(conn *grpc.ClientConn) taskClient { return taskClient{api.NewTasksClient(conn)} }

func (c taskClient) Create(ctx context.Context, id string, opts containerd.TaskCreate) (uint32, error) {
	req := &api.CreateTaskRequest{
		ContainerID: id, Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Terminal: opts.Terminal,
		Options: protoAny(opts.Options), RuntimePath: opts.RuntimePath,
	}
	for _, m := range opts.Rootfs {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	resp, err := c.client.Create(ctx, req)
	return resp.GetPid(), errgrpc.ToNative(err)
}

func (c taskClient) Start(ctx context.Context, id, execID string) (uint32, error) {
	resp, err := c.client.Start(ctx, &api.StartRequest{ContainerID: id, ExecID: execID})
	return resp.GetPid(), errgrpc.ToNative(err)
}

func (c taskClient) Exec(ctx context.Context, id, execID string, opts containerd.TaskExec) error {
	_, err := c.client.Exec(ctx, &api.ExecProcessRequest{
		ContainerID: id, ExecID: execID, Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr,
		Terminal: opts.Terminal, Spec: protoAny(opts.Spec),
	})
	return errgrpc.ToNative(err)
}

func (c taskClient) Delete(ctx context.Context, id, execID string) (containerd.Exit, error) {
	var resp *api.DeleteResponse
	var err error
	if execID == "" {
		resp, err = c.client.Delete(ctx, &api.DeleteTaskRequest{ContainerID: id})
	} else {
		resp, err = c.client.DeleteProcess(ctx, &api.DeleteProcessRequest{ContainerID: id, ExecID: execID})
	}
	if err != nil {
		return containerd.Exit{}, errgrpc.ToNative(err)
	}
	return containerd.Exit{Pid: resp.GetPid(), Code: resp.GetExitStatus(), ExitedAt: timeOf(resp.GetExitedAt())}, nil
}

// State leaves Bundle empty: the API does not carry it.
func (c taskClient) State(ctx context.Context, id, execID string) (containerd.TaskState, error) {
	resp, err := c.client.Get(ctx, &api.GetRequest{ContainerID: id, ExecID: execID})
	if err != nil {
		return containerd.TaskState{}, errgrpc.ToNative(err)
	}
	return stateOf(id, execID, resp.GetProcess()), nil
}

func (c taskClient) List(ctx context.Context) ([]containerd.TaskState, error) {
	resp, err := c.client.List(ctx, &api.ListTasksRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	list := make([]containerd.TaskState, len(resp.GetTasks()))
	for i, p := range resp.GetTasks() {
		list[i] = stateOf(p.GetID(), "", p) // stock servers leave ContainerID empty
	}
	return list, nil
}

// Wait returns an Exit without a Pid: the API does not carry it.
func (c taskClient) Wait(ctx context.Context, id, execID string) (containerd.Exit, error) {
	resp, err := c.client.Wait(ctx, &api.WaitRequest{ContainerID: id, ExecID: execID})
	if err != nil {
		return containerd.Exit{}, errgrpc.ToNative(err)
	}
	return containerd.Exit{Code: resp.GetExitStatus(), ExitedAt: timeOf(resp.GetExitedAt())}, nil
}

func (c taskClient) Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	_, err := c.client.Kill(ctx, &api.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(sig), All: all})
	return errgrpc.ToNative(err)
}

func (c taskClient) ResizePty(ctx context.Context, id, execID string, width, height uint32) error {
	_, err := c.client.ResizePty(ctx, &api.ResizePtyRequest{ContainerID: id, ExecID: execID, Width: width, Height: height})
	return errgrpc.ToNative(err)
}

func (c taskClient) CloseStdin(ctx context.Context, id, execID string) error {
	_, err := c.client.CloseIO(ctx, &api.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
	return errgrpc.ToNative(err)
}

func (c taskClient) Pause(ctx context.Context, id string) error {
	_, err := c.client.Pause(ctx, &api.PauseTaskRequest{ContainerID: id})
	return errgrpc.ToNative(err)
}

func (c taskClient) Resume(ctx context.Context, id string) error {
	_, err := c.client.Resume(ctx, &api.ResumeTaskRequest{ContainerID: id})
	return errgrpc.ToNative(err)
}

func (c taskClient) Pids(ctx context.Context, id string) ([]uint32, error) {
	resp, err := c.client.ListPids(ctx, &api.ListPidsRequest{ContainerID: id})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	pids := make([]uint32, len(resp.GetProcesses()))
	for i, p := range resp.GetProcesses() {
		pids[i] = p.GetPid()
	}
	return pids, nil
}

func (c taskClient) Update(ctx context.Context, id string, resources typeurl.Any) error {
	_, err := c.client.Update(ctx, &api.UpdateTaskRequest{ContainerID: id, Resources: protoAny(resources)})
	return errgrpc.ToNative(err)
}

// Metrics is NotFound also for a task whose shim did not answer: the API leaves
// both out.
func (c taskClient) Metrics(ctx context.Context, id string) (typeurl.Any, error) {
	resp, err := c.client.Metrics(ctx, &api.MetricsRequest{Filters: []string{"id==" + id}})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	for _, m := range resp.GetMetrics() {
		if m.GetID() == id {
			return anyOf(m.GetData()), nil
		}
	}
	return nil, fmt.Errorf("metrics of task %q: %w", id, errdefs.ErrNotFound)
}

func stateOf(id, execID string, p *taskapi.Process) containerd.TaskState {
	s := containerd.TaskState{
		ID: id, ExecID: execID, Pid: p.GetPid(), Status: statuses[p.GetStatus()],
		Stdin: p.GetStdin(), Stdout: p.GetStdout(), Stderr: p.GetStderr(), Terminal: p.GetTerminal(),
	}
	if s.Status == "" {
		s.Status = containerd.StatusUnknown
	}
	if s.Status == containerd.StatusStopped {
		s.Exit = containerd.Exit{Pid: p.GetPid(), Code: p.GetExitStatus(), ExitedAt: timeOf(p.GetExitedAt())}
	}
	return s
}

var statuses = map[taskapi.Status]containerd.Status{
	taskapi.Status_CREATED: containerd.StatusCreated,
	taskapi.Status_RUNNING: containerd.StatusRunning,
	taskapi.Status_STOPPED: containerd.StatusStopped,
	taskapi.Status_PAUSED:  containerd.StatusPaused,
	taskapi.Status_PAUSING: containerd.StatusPausing,
}
