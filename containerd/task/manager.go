package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"lighter/containerd"
)

// Config is what a Manager needs.
type Config struct {
	// State is the directory of the bundles. It is made, mode 0700; a tmpfs is
	// best: tasks do not survive a reboot.
	State string
	// Address is our gRPC address as shims are told it, a socket path. They
	// publish their events over ttrpc to Address + ".ttrpc", where the Manager's
	// Forward must be served.
	Address string
	// Containers gives the spec and the runtime of a task.
	Containers containers.Store
	// Events receives the events of shims and those about dead shims.
	Events Bus
	// ShimDirs are searched for shims before $PATH.
	ShimDirs []string
	// ShimEnv is added to the environment of shims ("KEY=value").
	ShimEnv []string
	// PublishBinary is told to shims as the program whose publish verb delivers
	// events; "" means the running program.
	PublishBinary string
	// Debug has shims log more.
	Debug bool
	Log   *slog.Logger
}

// Bus is what the Manager does with events.
type Bus interface {
	events.Publisher
	events.Forwarder
}

// Manager implements containerd.Tasks. It is safe for concurrent use.
type Manager struct {
	cfg           Config
	log           *slog.Logger
	binaries      *binaries
	baseEnv       []string
	publishBinary string

	life   context.Context // of background work; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup // background work; added to under mu while not closed

	mu     sync.Mutex // guards the fields below; taken before task.mu
	tasks  map[key]*task
	closed bool
}

type key struct{ namespace, id string }

var (
	_ containerd.Tasks = (*Manager)(nil)
	_ events.Forwarder = (*Manager)(nil)
)

// New returns a Manager that has found the shims of a former run: it is
// reconnected to those alive, also to those that do not answer now, and buries
// the dead in the background. It takes at most a few seconds, whatever shims do.
//
// The caller ends it with Close.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return nil, fmt.Errorf("start task manager: %w", err)
	}
	// Sockets and specs lie below: also narrow what another version left wider
	// (CVE-2024-25621).
	if err := os.Chmod(cfg.State, 0o700); err != nil {
		return nil, fmt.Errorf("start task manager: %w", err)
	}
	state, err := filepath.Abs(cfg.State) // shims run in other directories
	if err != nil {
		return nil, fmt.Errorf("start task manager: %w", err)
	}
	cfg.State = state
	m := &Manager{cfg: cfg, log: cfg.Log.With("component", "task"), tasks: make(map[key]*task)}
	m.baseEnv = baseEnvironment(cfg.ShimEnv)
	m.binaries = newBinaries(cfg.ShimDirs, m.baseEnv, m.log)
	m.publishBinary = cfg.PublishBinary
	if m.publishBinary == "" {
		if m.publishBinary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("start task manager: %w", err)
		}
	}
	m.life, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := m.reload(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start task manager: %w", err), m.Close(ctx))
	}
	return m, nil
}

// Close lets go of all shims, which go on running, and waits for background work
// as long as ctx allows. Calls that come later fail with Unavailable.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	tasks := make([]*task, 0, len(m.tasks))
	for _, t := range m.tasks {
		tasks = append(tasks, t)
	}
	m.mu.Unlock()
	m.cancel()
	for _, t := range tasks {
		t.mu.Lock()
		s := t.shim
		t.mu.Unlock()
		if s != nil {
			s.close()
		}
	}
	done := make(chan struct{})
	go func() { m.work.Wait(); close(done) }()
	select {
	case <-done:
		m.binaries.close()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close task manager: %w", context.Cause(ctx))
	}
}

// background runs f unless the Manager is closed, and reports whether it does.
func (m *Manager) background(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.work.Go(f)
	return true
}

// lookup returns the task of ctx's namespace, in any phase but gone.
func (m *Manager) lookup(ctx context.Context, id string) (*task, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("task manager is closed: %w", errdefs.ErrUnavailable)
	}
	t := m.tasks[key{namespace, id}]
	if t == nil {
		return nil, fmt.Errorf("task %q: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

// connected returns the task and its shim, for a call to it.
func (m *Manager) connected(ctx context.Context, id string) (*task, *shim, error) {
	t, err := m.lookup(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.phase {
	case live:
		return t, t.shim, nil
	case creating:
		return nil, nil, fmt.Errorf("task %q is being created: %w", id, errdefs.ErrFailedPrecondition)
	}
	return nil, nil, fmt.Errorf("task %q: shim is dead, its processes are being killed: %w", id, errdefs.ErrUnavailable)
}

// reserve enters a new task, so that nobody else makes one with its ID. It waits
// for one that is on its way out.
func (m *Manager) reserve(ctx context.Context, namespace, id string) (*task, error) {
	k := key{namespace, id}
	t := m.newTask(namespace, id)
	for {
		m.mu.Lock()
		old := m.tasks[k]
		if m.closed {
			m.mu.Unlock()
			return nil, fmt.Errorf("task manager is closed: %w", errdefs.ErrUnavailable)
		}
		if old == nil {
			m.tasks[k] = t
			m.mu.Unlock()
			return t, nil
		}
		m.mu.Unlock()
		old.mu.Lock()
		leaving := old.phase == dying || old.phase == gone
		old.mu.Unlock()
		if !leaving {
			return nil, fmt.Errorf("task %q: %w", id, errdefs.ErrAlreadyExists)
		}
		select {
		case <-old.gone:
		case <-m.life.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (m *Manager) newTask(namespace, id string) *task {
	return &task{
		namespace: namespace, id: id,
		bundle: bundle{path: filepath.Join(m.cfg.State, namespace, id)},
		gone:   make(chan struct{}),
		procs:  make(map[string]*process),
	}
}

// forget is the last step of a task: its ID is free again.
func (m *Manager) forget(t *task) {
	m.mu.Lock()
	delete(m.tasks, key{t.namespace, t.id})
	m.mu.Unlock()
	if t.advance(removed) {
		close(t.gone)
	}
}

// reload brings back the tasks of a former run.
func (m *Manager) reload(ctx context.Context) error {
	spaces, err := os.ReadDir(m.cfg.State)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(64) // each waits for a socket, not for a processor
	for _, space := range spaces {
		if !space.IsDir() || identifiers.Validate(space.Name()) != nil {
			continue
		}
		dir := filepath.Join(m.cfg.State, space.Name())
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case strings.HasPrefix(e.Name(), "."):
				if err := sweep(path); err != nil {
					m.log.Warn("can't remove the rest of a task", "path", path, "err", err)
				}
			case e.IsDir() && identifiers.Validate(e.Name()) == nil:
				t := m.newTask(space.Name(), e.Name())
				m.mu.Lock()
				m.tasks[key{t.namespace, t.id}] = t
				m.mu.Unlock()
				g.Go(func() error { m.revive(ctx, t); return nil })
			}
		}
	}
	return g.Wait()
}
