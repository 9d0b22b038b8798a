package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"lighter/internal/shimio"
)

// The defaults of a health check and the bounds of what is kept of it.
const (
	defaultProbeInterval = 30 * time.Second
	defaultProbeTimeout  = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultProbeRetries  = 3
	maxProbeOutput       = 4096
	maxProbeLog          = 5
	// probeStartLimit bounds the start of a probe, which its own timeout does
	// not include.
	probeStartLimit = 30 * time.Second
)

// probeCommand returns the command of r's health check, nil for none.
func probeCommand(r *record) []string {
	h := r.Config.Healthcheck
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	switch h.Test[0] {
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		shell := r.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return slices.Concat(shell, h.Test[1:])
	}
	return nil
}

func hasHealthcheck(r *record) bool { return probeCommand(r) != nil }

func startingHealth() *api.Health {
	return &api.Health{Status: api.Starting, Log: []*api.HealthcheckResult{}}
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// startHealth probes a running container in the background until stopHealth.
func (m *Manager) startHealth(e *entry) {
	r := e.rec.Load()
	if !hasHealthcheck(r) {
		return
	}
	ctx, cancel := context.WithCancel(m.life)
	done := make(chan struct{})
	e.mu.Lock()
	e.unhealth = func() {
		cancel()
		<-done
	}
	e.mu.Unlock()
	m.wg.Go(func() {
		defer close(done)
		defer cancel()
		m.probeLoop(ctx, e, r)
	})
}

// stopHealth ends the probes of e and waits for the one that runs to be given up.
func (m *Manager) stopHealth(e *entry) {
	e.mu.Lock()
	stop := e.unhealth
	e.unhealth = nil
	e.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (m *Manager) probeLoop(ctx context.Context, e *entry, r *record) {
	h := r.Config.Healthcheck
	for {
		pause := orDefault(h.Interval, defaultProbeInterval)
		now := e.rec.Load()
		if time.Since(r.StartedAt) < h.StartPeriod && now.Health != nil && now.Health.Status == api.Starting {
			pause = orDefault(h.StartInterval, defaultStartInterval)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		began := time.Now()
		result := m.probe(ctx, e, r)
		if ctx.Err() != nil {
			return
		}
		result.Start = began
		m.noteProbe(e, result)
	}
}

// probe runs the check once.
func (m *Manager) probe(ctx context.Context, e *entry, r *record) *api.HealthcheckResult {
	out := &boundedBuffer{}
	code, prepared, err := m.runProbe(ctx, e, r, out)
	if m.HealthChecked != nil && ctx.Err() == nil {
		m.HealthChecked(prepared, err)
	}
	result := &api.HealthcheckResult{ExitCode: code, Output: out.String(), End: time.Now()}
	if errors.Is(err, context.DeadlineExceeded) {
		result.ExitCode = -1
		text := fmt.Sprintf("Health check exceeded timeout (%v)", orDefault(r.Config.Healthcheck.Timeout, defaultProbeTimeout))
		if result.Output != "" {
			text += ": " + result.Output
		}
		result.Output = text
	} else if err != nil {
		result.ExitCode, result.Output = -1, err.Error()
	}
	return result
}

// runProbe runs the check's command as a hidden exec and returns its exit code and
// how long it took to start. A
// command that outlives the timeout is killed. It returns at once when ctx ends:
// the container's end, which may be the reason, waits for it.
func (m *Manager) runProbe(ctx context.Context, e *entry, r *record, out io.Writer) (code int, prepared time.Duration, err error) {
	began := time.Now()
	x := m.addExec(r, api.ExecCreateRequest{Cmd: probeCommand(r), AttachStdout: true, AttachStderr: true}, nil, true)
	m.publish(r, execAction(events.ActionExecCreate, x), "execID", x.id)
	s := &AttachSession{Raw: true, m: m, e: e, execID: x.id, ready: make(chan *shimio.Conn, 1)} // raw: both streams in one text
	defer s.Close()
	if err := x.claim(); err != nil {
		return -1, 0, err
	}
	startCtx, cancel := context.WithTimeout(ctx, probeStartLimit)
	defer cancel()
	started := make(chan error, 1)
	m.wg.Go(func() { started <- m.startExec(startCtx, x, e, s) })
	select {
	case err := <-started:
		if err != nil {
			return -1, time.Since(began), err
		}
	case <-ctx.Done():
		return -1, time.Since(began), ctx.Err()
	}
	prepared = time.Since(began)
	runCtx, cancel := context.WithTimeout(ctx, orDefault(r.Config.Healthcheck.Timeout, defaultProbeTimeout))
	defer cancel()
	copied := make(chan struct{})
	go func() { // ends with runCtx
		defer close(copied)
		s.copyOut(runCtx, out) // a cut output is still an output
	}()
	select {
	case <-x.done:
	case <-runCtx.Done():
		killed := make(chan struct{})
		m.wg.Go(func() {
			defer close(killed)
			killCtx, cancel := m.detached(ctx, signalLimit)
			defer cancel()
			if err := m.Services.Tasks.Kill(killCtx, e.id, x.id, syscall.SIGKILL, false); err != nil && !gone(err) {
				m.Log.Warn("cannot kill a health check", "container", e.id, "exec", x.id, "err", err)
			}
		})
		select {
		case <-killed:
		case <-ctx.Done():
		}
		<-copied
		return -1, prepared, runCtx.Err()
	}
	<-copied
	x.mu.Lock()
	defer x.mu.Unlock()
	return *x.exitCode, prepared, nil
}

// noteProbe adds a result to the container's health. It is best effort on disk.
func (m *Manager) noteProbe(e *entry, result *api.HealthcheckResult) {
	var before api.HealthStatus
	r, err := m.change(e, func(r *record) error {
		if r.State != Running || r.Health == nil {
			return errNotProbed
		}
		before = r.Health.Status
		r.Health = nextHealth(r, result)
		return nil
	})
	if err == nil && r.Health.Status != before {
		m.publish(r, events.ActionHealthStatus+": "+events.Action(r.Health.Status))
		if r.Health.Status == api.Unhealthy {
			m.onUnhealthy(e, r)
		}
	}
}

var errNotProbed = errors.New("the container does not run any more")

// nextHealth returns r's health after result.
func nextHealth(r *record, result *api.HealthcheckResult) *api.Health {
	h := *r.Health
	h.Log = append(slices.Clone(h.Log[max(0, len(h.Log)+1-maxProbeLog):]), result)
	if result.ExitCode == 0 {
		h.Status, h.FailingStreak = api.Healthy, 0
		return &h
	}
	check := r.Config.Healthcheck
	if h.Status == api.Starting && result.Start.Sub(r.StartedAt) < check.StartPeriod {
		return &h
	}
	retries := check.Retries
	if retries <= 0 {
		retries = defaultProbeRetries
	}
	if h.FailingStreak++; h.FailingStreak >= retries {
		h.Status = api.Unhealthy
	}
	return &h
}

// boundedBuffer keeps the first maxProbeOutput bytes.
type boundedBuffer struct {
	mu        sync.Mutex // guards the fields below
	buf       bytes.Buffer
	truncated bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	keep := min(len(p), maxProbeOutput-b.buf.Len())
	b.buf.Write(p[:keep])
	b.truncated = b.truncated || keep < len(p)
	return len(p), nil
}

func (b *boundedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.truncated {
		return b.buf.String() + "..."
	}
	return b.buf.String()
}
