package container

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	api "github.com/moby/moby/api/types/container"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
	"lighter/engine/log/driver"
	"lighter/internal/shimio"
)

// How long a remote receiver gets for what is left of a log.
const (
	removeGrace = 10 * time.Second // before the log is deleted
	closeGrace  = 2 * time.Second  // before the engine ends: the next one goes on
)

// settleLog fills in the engine's log driver and options and validates them.
func (m *Manager) settleLog(h *api.HostConfig) error {
	c := &h.LogConfig
	if c.Type == "" {
		c.Type = m.cfg.DefaultLogDriver
	}
	if c.Config == nil {
		c.Config = map[string]string{}
	}
	own := maps.Clone(c.Config)
	for key, value := range m.cfg.DefaultLogOpts {
		if _, given := own[key]; given {
			continue
		}
		// The options of the cache are the engine's for every driver.
		if c.Type == m.cfg.DefaultLogDriver || c.Type != "none" && strings.HasPrefix(key, "cache-") {
			c.Config[key] = value
		}
	}
	return driver.Check(c.Type, c.Config)
}

// logFile returns the log that the shim writes for r.
func (m *Manager) logFile(r *record) driver.File {
	f, err := driver.FileOf(r.LogDriver, r.HostConfig.LogConfig.Config)
	if err != nil { // checked at create
		m.Log.Warn("ignore log options", "container", r.ID, "err", err)
		if f, err = driver.FileOf(r.LogDriver, nil); err != nil {
			return driver.File{}
		}
	}
	return f.Limit(m.settings().LogLimit)
}

// logReadable reports whether docker logs may show r's log.
func logReadable(r *record) bool {
	f, err := driver.FileOf(r.LogDriver, r.HostConfig.LogConfig.Config)
	return err != nil || f.Readable
}

// logPath returns the path of the log file, "" for none.
func (m *Manager) logPath(r *record) string {
	dir := m.dir(r.ID)
	switch r.LogDriver {
	case "none":
		return ""
	case "json-file":
		return filepath.Join(dir, r.ID+"-json.log")
	case "local":
		return filepath.Join(dir, "local-logs", "container.log")
	}
	return filepath.Join(dir, "local-logs", "container-cached.log")
}

// shownLogPath is what inspect tells of logPath.
//
// Docker compatibility: only json-file's format is meant for others to read.
func (m *Manager) shownLogPath(r *record) string {
	if r.LogDriver != "json-file" {
		return ""
	}
	return m.logPath(r)
}

// logInfo is what a log driver may know of r.
func logInfo(r *record) driver.Info {
	host, _ := os.Hostname() // of a machine without a name it is empty
	return driver.Info{
		ID: r.ID, Name: r.name(), ImageID: r.ImageID, ImageName: r.Config.Image,
		Command: strings.Join(append([]string{r.Path}, r.Args...), " "), Path: r.Path, Args: r.Args,
		Created: r.Created, Env: r.Config.Env, Labels: r.Config.Labels, Hostname: host,
		Options: r.HostConfig.LogConfig.Config, DaemonName: "docker",
	}
}

// logAttrs returns what the log options add to every line of a json-file.
func logAttrs(r *record) map[string]string {
	info := logInfo(r)
	attrs := info.Attributes(nil)
	if tag, err := info.Tag(""); err == nil && tag != "" {
		attrs["tag"] = tag
	}
	if len(attrs) == 0 {
		return nil
	}
	return attrs
}

// openSink connects to the receiver of r's log driver, nil for a driver that has
// none. One that can't be reached keeps the container from starting, as with
// Docker, unless the options say otherwise.
func (m *Manager) openSink(ctx context.Context, r *record) (delivery.Sink, error) {
	f := m.logFile(r)
	if f.Format == "local" {
		if err := os.MkdirAll(filepath.Dir(m.logPath(r)), 0o700); err != nil {
			return nil, fmt.Errorf("create log directory: %w", err)
		}
	}
	if !f.Remote {
		if _, err := new(driver.Info{Options: r.HostConfig.LogConfig.Config, ID: r.ID, ImageID: r.ImageID}).Tag(""); err != nil {
			return nil, fmt.Errorf("failed to create task for container: failed to initialize logging driver: %w", err)
		}
		return nil, nil
	}
	m.deliveries.stop(r.ID, 0) // of the run before; the new one goes on where it ends
	if !driver.MustReach(r.LogDriver, r.HostConfig.LogConfig.Config) {
		return nil, nil
	}
	sink, err := driver.Open(ctx, r.LogDriver, logInfo(r))
	if err != nil {
		return nil, fmt.Errorf("failed to create task for container: failed to initialize logging driver: %w", err)
	}
	return sink, nil
}

// deliver starts to deliver e's log, if its driver is a remote one, until the
// current run has ended and all is sent. It owns sink, which may be nil.
func (m *Manager) deliver(e *entry, sink delivery.Sink) {
	r := e.rec.Load()
	f := m.logFile(r)
	path := m.logPath(r)
	if !f.Remote {
		return
	}
	e.mu.Lock()
	ended := e.exited
	e.mu.Unlock()
	if ended == nil {
		if !delivery.Pending(path) {
			return
		}
		ended = make(chan struct{})
		close(ended)
	}
	cfg := delivery.Config{
		Path: path, Keep: f.MaxFiles,
		Open: func(ctx context.Context) (delivery.Sink, error) { return driver.Open(ctx, r.LogDriver, logInfo(r)) },
	}
	if !f.Readable {
		cfg.Keep = 1
	}
	driver.Configure(&cfg, r.LogDriver, r.HostConfig.LogConfig.Config)
	fwd, err := delivery.Start(cfg, sink, ended, m.Log.With("container", r.ID))
	if err != nil {
		m.Log.Error("the log of a container is not delivered", "container", r.ID, "err", err)
		if sink != nil {
			sink.Close()
		}
		return
	}
	m.deliveries.add(r.ID, fwd)
}

// deliveries are the forwarders that run, by container.
type deliveries struct {
	mu   sync.Mutex // guards the fields below
	byID map[string]*delivery.Forwarder
}

func (d *deliveries) add(id string, f *delivery.Forwarder) {
	d.mu.Lock()
	if d.byID == nil {
		d.byID = make(map[string]*delivery.Forwarder)
	}
	before := d.byID[id]
	d.byID[id] = f
	d.mu.Unlock()
	if before != nil {
		before.Close(0)
	}
}

// stop ends the delivery of a container's log, if there is one.
func (d *deliveries) stop(id string, grace time.Duration) {
	d.mu.Lock()
	f := d.byID[id]
	delete(d.byID, id)
	d.mu.Unlock()
	if f != nil {
		f.Close(grace)
	}
}

func (d *deliveries) close() {
	d.mu.Lock()
	all := d.byID
	d.byID = nil
	d.mu.Unlock()
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(func() { f.Close(closeGrace) })
	}
	wg.Wait()
}

// limitLogs makes all containers keep to a Config.LogLimit that has changed.
func (m *Manager) limitLogs() {
	m.wg.Go(func() {
		for _, e := range m.entries() {
			if e.rec.Load().State.hasTask() {
				m.limitRunning(e)
			} else {
				m.limitStopped(e)
			}
		}
	})
}

// limitRunning makes the shim of a container that runs keep to Config.LogLimit.
func (m *Manager) limitRunning(e *entry) {
	r := e.rec.Load()
	f := m.logFile(r)
	if f.Format == "" {
		return
	}
	limits := shimio.LogLimits{MaxBytes: f.MaxBytes, MaxFiles: f.MaxFiles}
	ctx, cancel := context.WithTimeout(m.life, undoLimit)
	defer cancel()
	conn, err := shimio.Dial(ctx, m.attachSocket(r.ID), shimio.Request{LogLimits: &limits})
	if err != nil {
		m.Log.Warn("cannot limit the log of a running container", "container", r.ID, "err", err)
		return
	}
	conn.Close()
}

// limitStopped shortens the log of a container that does not run to
// Config.LogLimit.
func (m *Manager) limitStopped(e *entry) {
	r := e.rec.Load()
	f := m.logFile(r)
	limit := m.settings().LogLimit
	if limit <= 0 || f.Format == "" || f.Remote { // what is to be delivered has a limit of its own
		return
	}
	if err := e.acquire(m.life); err != nil {
		return
	}
	defer e.release()
	if e.rec.Load().State.hasTask() {
		return
	}
	if err := ctrlog.Shorten(m.logPath(r), f.Format, limit); err != nil {
		m.Log.Warn("cannot limit the log of a container", "container", r.ID, "err", err)
	}
}
