// Package local builds containerd.Services in the process: storage on disk,
// the event bus, and the tasks with their shims. It is a wiring package: cmd may
// import it, components may not.
//
//	<Root>/           package-level comment of Storage
//	<Root>/uuid       identity of this installation
//	<State>/io.containerd.runtime.v2.task/<namespace>/<id>   see package task
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"

	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
	"lighter/containerd/diff"
	"lighter/containerd/event"
	"lighter/containerd/rpc"
	"lighter/containerd/task"
	"lighter/internal/identity"
	"lighter/internal/version"
)

// tasksDir is where a stock containerd keeps its bundles, so that its running
// shims are found after a switch.
const tasksDir = "io.containerd.runtime.v2.task"

// Config is what Local needs.
type Config struct {
	// Root is the directory of all that survives a reboot, State of what does
	// not. Both are made, mode 0700.
	Root, State string
	// Address is the gRPC socket path as shims are told it; they send their
	// events to Address + ".ttrpc", whose listener the caller gives to
	// ServeShims.
	Address string
	// ShimDirs are searched for shim programs before $PATH; nil means the
	// directory of the running program.
	ShimDirs []string
	// ShimEnv is added to the environment of shims ("KEY=value").
	ShimEnv []string
	// RemapIDs is StorageConfig.RemapIDs.
	RemapIDs bool
	// Debug has shims log more.
	Debug bool
	Log   *slog.Logger
}

// Local is containerd in this process. It is safe for concurrent use.
type Local struct {
	services *containerd.Services
	storage  *Storage
	tasks    *task.Manager
	bus      *event.Bus
	shims    *ttrpc.Server
	uuid     string
	log      *slog.Logger
}

// New opens what is on disk and reconnects to the shims that are running. The
// caller ends it with Close.
//
// Errors: Unavailable while another process uses Root.
func New(ctx context.Context, cfg Config) (_ *Local, err error) {
	l := &Local{bus: event.NewBus(), log: cfg.Log}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start containerd: %w", err), l.Close(ctx))
		}
	}()
	for _, dir := range []string{cfg.Root, cfg.State} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o700); err != nil { // made by another version (CVE-2024-25621)
			return nil, err
		}
	}
	if l.storage, err = OpenStorage(StorageConfig{
		Root: cfg.Root, Log: cfg.Log, Events: l.bus, RemapIDs: cfg.RemapIDs,
	}); err != nil {
		return nil, err
	}
	if l.uuid, err = identity.Load(filepath.Join(cfg.Root, "uuid")); err != nil {
		return nil, err
	}
	dirs := cfg.ShimDirs
	if dirs == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		dirs = []string{filepath.Dir(self)}
	}
	if l.tasks, err = task.New(ctx, task.Config{
		State: filepath.Join(cfg.State, tasksDir), Address: cfg.Address,
		Containers: l.storage.Containers, Events: l.bus,
		ShimDirs: dirs, ShimEnv: cfg.ShimEnv, Debug: cfg.Debug, Log: cfg.Log,
	}); err != nil {
		return nil, err
	}
	if l.shims, err = ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(rpc.TTRPCErrors(cfg.Log))); err != nil {
		return nil, err
	}
	ttrpcevents.RegisterTTRPCEventsService(l.shims, shimEvents{l.tasks})
	l.services = containerd.Services{
		Namespaces: l.storage.Namespaces, Content: l.storage.Content, Images: l.storage.Images,
		Containers: l.storage.Containers, Leases: l.storage.Leases,
		Diff: diff.New(l.storage.Content, cfg.Log), Events: l.bus, Tasks: l.tasks, Version: build{},
	}.WithSnapshotters(l.storage.Snapshotters)
	return l, nil
}

// Services returns the joint. It must not be used after Close.
func (l *Local) Services() *containerd.Services { return l.services }

// UUID identifies this installation; it survives restarts.
func (l *Local) UUID() string { return l.uuid }

// Snapshotters returns the names that Services.Snapshotter knows, sorted.
func (l *Local) Snapshotters() []string {
	var names []string
	for name := range l.storage.Snapshotters {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// RuntimeInfo asks the shim of runtime what it can do, see task.Manager.
func (l *Local) RuntimeInfo(ctx context.Context, runtime string, options typeurl.Any) (*types.RuntimeInfo, error) {
	return l.tasks.RuntimeInfo(ctx, runtime, options)
}

// GC removes what nothing references and returns when it is gone.
func (l *Local) GC(ctx context.Context) error { return l.storage.GC(ctx) }

// ServeShims takes the events of shims from listener until Close, then returns
// nil. The listener must be reachable by root alone, it is closed at the end.
func (l *Local) ServeShims(listener net.Listener) error {
	err := l.shims.Serve(context.Background(), listener)
	if errors.Is(err, ttrpc.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve shims: %w", err)
}

// Close stops everything but the shims and their containers, which go on. It
// waits for what is under way as long as ctx allows.
func (l *Local) Close(ctx context.Context) error {
	var errs []error
	if l.shims != nil {
		// Close, not Shutdown: shims keep their connections open for ever. An event
		// cut off is sent again to the next run.
		errs = append(errs, l.shims.Close())
	}
	if l.tasks != nil {
		errs = append(errs, l.tasks.Close(ctx))
	}
	if l.storage != nil {
		errs = append(errs, l.storage.Close())
	}
	return errors.Join(errs...)
}

// shimEvents is the service that shims publish to.
type shimEvents struct{ to events.Forwarder }

func (s shimEvents) Forward(ctx context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	e := r.GetEnvelope()
	env := &events.Envelope{Namespace: e.GetNamespace(), Topic: e.GetTopic(), Event: e.GetEvent()}
	if e.GetTimestamp().IsValid() {
		env.Timestamp = e.GetTimestamp().AsTime()
	}
	return &emptypb.Empty{}, s.to.Forward(ctx, env)
}

// build is the containerd.Version of this program.
type build struct{}

func (build) Version(context.Context) (string, string, error) {
	return version.Version, version.GitCommit, nil
}
