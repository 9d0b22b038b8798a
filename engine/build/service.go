// Package build is the engine's build noun: it starts docker-buildkitd on the
// first request that needs it, passes requests through, gives it networks and
// takes its images, and stops it when it has been idle.
//
//	          acquire                     Close, or idle for Config.Idle
//	stopped ----------> running(users) ------------------------------> stopped
//	   ^                     |  the process ends by itself                |
//	   +---------------------+--------------------------------------------+
//
// The process has PID and mount namespaces of its own, so that nothing of a
// build outlives it; what the kernel does not clean up (networks, control
// groups, scratch files) is cleaned up here, when it has ended and when a
// daemon starts.
package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"lighter/internal/buildlink"
)

// Config is how builds run.
type Config struct {
	// Program is the path of docker-buildkitd; "" means that it is not installed.
	Program string
	// Idle is how long the process stays without work; 0 means DefaultIdle.
	Idle time.Duration
	// Link is what the process gets; its Host is set by New.
	Link buildlink.Config
}

// DefaultIdle is how long an idle build process stays.
const DefaultIdle = 5 * time.Minute

// stopTimeout bounds a clean end of the process; then it is killed.
const stopTimeout = 10 * time.Second

// Deps is what a Service works with.
type Deps struct {
	Networks Networks
	Images   Images
	Log      *slog.Logger
}

// Networks gives steps their network.
type Networks interface {
	// Join connects the network namespace to the default network as id.
	Join(ctx context.Context, id string, ns *os.File) (addresses []string, err error)
	// Leave undoes Join. It is idempotent.
	Leave(ctx context.Context, id string) error
}

// Images takes what builds make.
type Images interface {
	// RecordBuilt gives a stored image its names; none makes it dangling.
	RecordBuilt(ctx context.Context, req buildlink.RecordRequest) error
	// ResolveLocal finds an image by name, ID, or the beginning of an ID.
	ResolveLocal(ctx context.Context, ref string) (buildlink.ResolveResponse, error)
}

// Service runs builds. It is safe for concurrent use.
type Service struct {
	cfg  Config
	deps Deps
	host *hostServer

	starting sync.Mutex // held while a process starts or stops; before mu
	mu       sync.Mutex // guards the fields below
	proc     *process
	users    int // requests that need proc
	idle     *time.Timer
	closed   bool
}

// New returns a Service and removes what the build process of a killed daemon
// left.
func New(cfg Config, deps Deps) *Service {
	if cfg.Idle <= 0 {
		cfg.Idle = DefaultIdle
	}
	s := &Service{cfg: cfg, deps: deps}
	s.sweep()
	return s
}

// Forward answers a request of the Engine API, whose path must come without its
// version, by the build process.
func (s *Service) Forward(w http.ResponseWriter, r *http.Request) error {
	p, release, err := s.acquire(r.Context())
	if err != nil {
		return err
	}
	defer release()
	return p.forward(w, r)
}

// Usage lists the build cache. It does not start a build process where there
// never was one.
func (s *Service) Usage(ctx context.Context) ([]buildlink.Usage, error) {
	if s.unused() {
		return nil, nil
	}
	p, release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var usage []buildlink.Usage
	return usage, p.call(ctx, http.MethodGet, buildlink.PathUsage, nil, &usage)
}

// Prune deletes from the build cache.
func (s *Service) Prune(ctx context.Context, req buildlink.Prune) (buildlink.PruneReport, error) {
	var report buildlink.PruneReport
	if s.unused() {
		return report, nil
	}
	p, release, err := s.acquire(ctx)
	if err != nil {
		return report, err
	}
	defer release()
	return report, p.call(ctx, http.MethodPost, buildlink.PathPrune, req, &report)
}

// unused says that there has never been a build.
func (s *Service) unused() bool {
	_, err := os.Stat(s.cfg.Link.Root)
	return errors.Is(err, os.ErrNotExist)
}

// acquire returns the running process, started if need be. It stays until the
// last release.
func (s *Service) acquire(ctx context.Context) (*process, func(), error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.mu.Lock()
	p, closed := s.proc, s.closed
	if s.idle != nil {
		s.idle.Stop()
		s.idle = nil
	}
	s.mu.Unlock()
	if closed {
		return nil, nil, fmt.Errorf("build: the daemon is stopping: %w", errdefs.ErrUnavailable)
	}
	if p == nil || p.ended() {
		if p != nil {
			s.buried(p)
		}
		var err error
		if p, err = s.start(ctx); err != nil {
			return nil, nil, fmt.Errorf("start build process: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc = p
	s.users++
	var once sync.Once
	return p, func() { once.Do(s.release) }, nil
}

func (s *Service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users == 0 && !s.closed && s.proc != nil {
		s.idle = time.AfterFunc(s.cfg.Idle, s.stopIdle)
	}
}

// stopIdle stops the process unless someone came in the meantime.
func (s *Service) stopIdle() {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.mu.Lock()
	p := s.proc
	if s.users > 0 || p == nil {
		s.mu.Unlock()
		return
	}
	s.proc = nil
	s.mu.Unlock()
	p.stop()
	s.buried(p)
}

// buried cleans up after a process that has ended.
func (s *Service) buried(p *process) {
	<-p.done
	s.host.releaseAll()
	s.sweep()
}

// Close stops the process; builds that run are cancelled.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.idle != nil {
		s.idle.Stop()
	}
	s.mu.Unlock()
	s.starting.Lock()
	defer s.starting.Unlock()
	s.mu.Lock()
	p := s.proc
	s.proc = nil
	s.mu.Unlock()
	if p != nil {
		p.stop()
		s.buried(p)
	}
	if s.host != nil {
		return s.host.close()
	}
	return nil
}
