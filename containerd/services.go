// Package containerd is the supervisor as a library: content, snapshots,
// metadata, images, tasks, leases and events. Services is its joint: the same
// interfaces are built in the process (package local), spoken over gRPC
// (package remote) and served over gRPC (package rpc).
//
// Every call is made in a containerd namespace, carried by the context
// (containerd/v2/pkg/namespaces).
package containerd

import (
	"context"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Services are all that a client of containerd uses. The fields are safe for
// concurrent use.
type Services struct {
	Namespaces   namespaces.Store
	Content      content.Store
	Images       images.Store
	Containers   containers.Store
	Leases       leases.Manager
	Diff         Diff
	Events       Events
	Tasks        Tasks
	Version      Version
	snapshotters map[string]snapshots.Snapshotter
}

// DefaultSnapshotter is the snapshotter used when none is named.
const DefaultSnapshotter = "overlayfs"

// WithSnapshotters returns a copy of s with the named snapshotters.
func (s Services) WithSnapshotters(byName map[string]snapshots.Snapshotter) *Services {
	s.snapshotters = byName
	return &s
}

// Snapshotter returns the snapshotter called name, or nil. "" means
// DefaultSnapshotter.
func (s *Services) Snapshotter(name string) snapshots.Snapshotter {
	if name == "" {
		name = DefaultSnapshotter
	}
	return s.snapshotters[name]
}

// Diff applies and computes layers.
type Diff interface {
	diff.Applier
	diff.Comparer
}

// StreamDiff is a Diff that can apply a layer while it arrives. A Diff in the
// process is one.
type StreamDiff interface {
	Diff
	// ApplyStream is Apply for a layer whose bytes, as desc describes them, are read
	// from r. They need not have been verified: the caller discards what was made
	// if they turn out to be others.
	ApplyStream(ctx context.Context, desc ocispec.Descriptor, r io.Reader, mounts []mount.Mount, o StreamOptions) (ocispec.Descriptor, error)
}

// StreamOptions qualify ApplyStream.
type StreamOptions struct {
	// Lower, when set, gives the mounts of the layers below, topmost first, which
	// mounts does not show (snapshot.LabelStack). It is called at most once, when
	// something in the layer depends on them, and may wait for them.
	Lower func(ctx context.Context) ([]mount.Mount, error)
	// Progress is told how many bytes of r have been used; it may be nil.
	Progress func(n int64)
}

// Follower is a content.Writer whose bytes can be read while they are written.
// A store in the process has such writers.
type Follower interface {
	// Follow opens what has been written, for reading. The file ends where the
	// writer is; its bytes are not verified before Commit. The caller closes it. It
	// stays good after the writer's Commit, Close or Abort; Truncate empties it.
	Follow() (*os.File, error)
}

// Events is the event bus.
type Events interface {
	events.Publisher
	events.Forwarder
	events.Subscriber
}

// Version reports what serves the Services.
type Version interface {
	Version(ctx context.Context) (version, revision string, err error)
}

// Tasks runs containers. A task is the running instance of the container with
// the same ID; execID "" means its init process.
//
// Errors: NotFound for an unknown task or process, AlreadyExists for a second
// Create, FailedPrecondition for a wrong state, Unavailable when the shim is
// dead or does not answer.
type Tasks interface {
	// Create starts the container's shim and has it create the task; the init
	// process waits for Start.
	Create(ctx context.Context, id string, opts TaskCreate) (pid uint32, err error)
	// Start runs the init process or an exec added by Exec.
	Start(ctx context.Context, id, execID string) (pid uint32, err error)
	// Exec adds a process; Start runs it.
	Exec(ctx context.Context, id, execID string, opts TaskExec) error
	// Delete removes an exited exec, or an exited task with its shim, and
	// returns how it ended.
	Delete(ctx context.Context, id, execID string) (Exit, error)
	// State returns what the shim says of the process now.
	State(ctx context.Context, id, execID string) (TaskState, error)
	// List returns the tasks of the namespace.
	List(ctx context.Context) ([]TaskState, error)
	// Wait blocks until the process has exited or ctx ends.
	Wait(ctx context.Context, id, execID string) (Exit, error)
	// Kill signals the process, or with all every process of the task.
	Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error
	ResizePty(ctx context.Context, id, execID string, width, height uint32) error
	// CloseStdin ends the process's input.
	CloseStdin(ctx context.Context, id, execID string) error
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Pids(ctx context.Context, id string) ([]uint32, error)
	// Update sets resources, a *specs.LinuxResources as typeurl.Any.
	Update(ctx context.Context, id string, resources typeurl.Any) error
	// Metrics returns the task's cgroup statistics: a containerd/cgroups
	// cgroup1 or cgroup2 Metrics message.
	Metrics(ctx context.Context, id string) (typeurl.Any, error)
}

// TaskCreate are the inputs of Tasks.Create.
type TaskCreate struct {
	Stdin, Stdout, Stderr string // fifo paths or URIs, see internal/shimio
	Terminal              bool
	Rootfs                []mount.Mount
	Options               typeurl.Any // runtime options, nil for none
	RuntimePath           string      // shim binary, "" to look it up by the container's runtime name
}

// TaskExec are the inputs of Tasks.Exec.
type TaskExec struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
	Spec                  typeurl.Any // a *specs.Process
}

// Status is the state of a process.
type Status string

// The states, by the names of containerd's API.
const (
	StatusUnknown Status = "unknown"
	StatusCreated Status = "created"
	StatusRunning Status = "running"
	StatusStopped Status = "stopped"
	StatusPaused  Status = "paused"
	StatusPausing Status = "pausing"
)

// TaskState describes a process of a task.
type TaskState struct {
	ID, ExecID, Bundle    string
	Pid                   uint32
	Status                Status
	Stdin, Stdout, Stderr string
	Terminal              bool
	Exit                  Exit // meaningful when Status is StatusStopped
}

// Exit is how a process ended.
type Exit struct {
	Pid      uint32
	Code     uint32 // 128+n when ended by signal n
	ExitedAt time.Time
}
