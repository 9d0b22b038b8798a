package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/containerd"
	"lighter/engine/log/delivery"
	"lighter/internal/atomicfile"
	"lighter/internal/cleanup"
	"lighter/internal/shimio"
)

const (
	// startLimit bounds a start, which goes on when its caller has left.
	startLimit = 2 * time.Minute
	// attachLimit bounds the handshake with the shim's attach socket.
	attachLimit = 10 * time.Second
)

// The exit codes of a container that could not be started.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitNotStarted    = 128
)

// Start runs the container. changed is false when it runs already. A cancelled
// ctx has no effect once the container's turn has come.
//
// A failure leaves nothing behind but its text and exit code in the container's
// state: 127 for a program that does not exist, 126 for one that cannot be
// executed, both InvalidArgument; 128 for anything else.
func (m *Manager) Start(ctx context.Context, ref string) (changed bool, err error) {
	e, err := m.lookup(ref)
	if err != nil {
		return false, err
	}
	return m.startByUser(ctx, e)
}

func (m *Manager) startByUser(ctx context.Context, e *entry) (bool, error) {
	if s := e.rec.Load().State; s == Running || s == Restarting {
		return false, nil
	}
	if m.isClosing() {
		return false, errdefs.ErrUnavailable.WithMessage("the engine is shutting down")
	}
	if err := e.acquire(ctx); err != nil {
		return false, err
	}
	changed, err := m.startHeld(ctx, e, true)
	e.release()
	if err != nil && e.rec.Load().HostConfig.AutoRemove && !errdefs.IsConflict(err) {
		m.autoRemove(e)
	}
	return changed, err
}

// startHeld starts e, whose operation slot the caller holds. byUser resets what
// a restart policy counts.
func (m *Manager) startHeld(ctx context.Context, e *entry, byUser bool) (changed bool, err error) {
	r := e.rec.Load()
	if r.State == Running || r.State == Restarting && byUser {
		return false, nil
	}
	if _, ok := transitions[r.State][evStart]; !ok {
		return false, refusal(r, evStart)
	}
	ctx, cancel := m.detached(ctx, startLimit)
	defer cancel()
	run, err := m.launch(ctx, e, r)
	if err != nil {
		m.startFailed(ctx, e, err)
		return false, err
	}
	r, written, err := m.changeBatch(e, func(r *record) error {
		r.State = transitions[r.State][evStart] // checked above; the slot keeps others out
		r.Pid, r.StartedAt, r.FinishedAt = run.pid, run.startedAt, time.Time{}
		r.ExitCode, r.Error, r.OOMKilled, r.Network = 0, "", false, run.network
		if byUser {
			r.RestartCount, r.ManuallyStopped = 0, false
		}
		if hasHealthcheck(r) {
			r.Health = startingHealth()
		} else {
			r.Health = nil
		}
		return nil
	})
	if err != nil {
		return false, errors.Join(err, run.closeSink())
	}
	e.mu.Lock()
	e.exited = make(chan struct{})
	if byUser {
		e.backoff = 0
	}
	e.mu.Unlock()
	m.publish(r, events.ActionStart)
	m.refreshLinks(r)
	m.deliver(e, run.sink)
	m.watch(e)
	m.startHealth(e)
	if !r.HostConfig.AutoRemove { // whose record means nothing after a power cut
		// The run itself is safe with its shim; this keeps the promise of a
		// restart policy over a power cut.
		if err := m.store.flush(ctx, written); err != nil {
			m.Log.Error("cannot store that a container was started", "container", e.id, "err", err)
		}
	}
	return true, nil
}

// startFailed records why a start failed and ends what waited for it.
func (m *Manager) startFailed(ctx context.Context, e *entry, cause error) {
	var failed *startError
	code := exitNotStarted
	if errors.As(cause, &failed) {
		code = failed.code
	}
	_, err := m.commit(ctx, e, func(r *record) error {
		r.Error, r.ExitCode, r.Network, r.Pid = cause.Error(), code, nil, 0
		return nil
	})
	if err != nil {
		m.Log.Error("cannot store why a start failed", "container", e.id, "err", err)
	}
	e.dropPending()
}

// launched is a run that has begun.
type launched struct {
	pid       int
	startedAt time.Time
	network   *NetworkAllocation
	sink      delivery.Sink // of a remote log driver, or nil
}

func (l *launched) closeSink() error {
	if l.sink == nil {
		return nil
	}
	return l.sink.Close()
}

// launch does the work of a start. On an error all is undone.
func (m *Manager) launch(ctx context.Context, e *entry, r *record) (run launched, err error) {
	undo := &cleanup.Stack{}
	defer func() {
		if undoErr := undo.Run(); undoErr != nil {
			m.Log.Error("cannot undo a failed start", "container", r.ID, "err", undoErr)
		}
	}()
	// The undo of a step has its own deadline: ctx may be what failed.
	onFailure := func(f func(ctx context.Context) error) {
		undo.Add(func() error {
			ctx, cancel := m.detached(ctx, undoLimit)
			defer cancel()
			return f(ctx)
		})
	}
	if err := m.prepareFiles(r); err != nil {
		return run, err
	}
	onFailure(func(context.Context) error { return m.removeRunDir(r.ID) })

	in := specInput{cgroupV2: cgroupV2(), namespaces: map[specs.LinuxNamespaceType]string{}}
	fileOwner, err := m.joinNamespaces(r, &in)
	if err != nil {
		return run, err
	}
	if in.devices, err = hostDevices(r.HostConfig); err != nil {
		return run, err
	}
	sn, err := m.snapshotter(r)
	if err != nil {
		return run, err
	}
	layers, err := sn.Mounts(ctx, r.ID)
	if err != nil {
		return run, fmt.Errorf("find the file system of container %s: %w", r.ID, err)
	}
	if in.user, err = m.settleUser(r, layers); err != nil {
		return run, err
	}
	if run.sink, err = m.openSink(ctx, r); err != nil {
		return run, err
	}
	onFailure(func(context.Context) error { return run.closeSink() })
	asked := r
	onFailure(func(context.Context) error { return m.unmountVolumes(asked) })
	if r, err = m.mountVolumes(ctx, r); err != nil {
		return run, err
	}
	sources, err := m.openSources(ctx, r, &in)
	if err != nil {
		return run, err
	}
	defer closeAll(sources)
	linked, err := m.linkedHosts(r)
	if err != nil {
		return run, err
	}
	if run.network, err = m.allocateNetwork(ctx, r, linked); err != nil {
		return run, err
	}
	in.env = m.linkEnvironment(r)
	if run.network != nil {
		onFailure(func(ctx context.Context) error { return m.Networks.Release(ctx, r.ID) })
	}
	in.files = append(in.files, m.ownFiles(r, fileOwner)...)
	spec, err := m.spec(m.withHostnameOf(r, fileOwner), in)
	if err != nil {
		return run, err
	}
	if err := m.storeSpec(ctx, r, spec); err != nil {
		return run, err
	}
	options, err := m.runtimeOptions(r.HostConfig.Runtime)
	if err != nil {
		return run, err
	}
	pid, err := m.Services.Tasks.Create(ctx, r.ID, containerd.TaskCreate{
		Stdout: m.stdio(r).String(), Terminal: r.Config.Tty, Rootfs: layers, Options: options,
	})
	if err != nil {
		return run, startFailure(err)
	}
	onFailure(func(ctx context.Context) error { return m.destroyTask(ctx, r.ID) })
	if run.network != nil {
		if err := m.Networks.Connect(ctx, r.ID, int(pid)); err != nil {
			return run, networkError(err)
		}
	}
	if err := m.connectPending(ctx, e); err != nil {
		return run, err
	}
	onFailure(func(context.Context) error { e.setAttachable(false); return nil })
	run.pid, run.startedAt = int(pid), time.Now().UTC()
	if _, err := m.Services.Tasks.Start(ctx, r.ID, ""); err != nil {
		return run, startFailure(err)
	}
	undo.Release()
	for _, p := range r.Mounts {
		if p.Type == mount.TypeVolume {
			m.Volumes.PublishMount(p.Name, r.ID, p.Destination, p.RW)
		}
	}
	return run, nil
}

// prepareFiles makes the directories and files of the engine that the container
// mounts, and missing sources of bind mounts that are to be made.
func (m *Manager) prepareFiles(r *record) error {
	if err := os.MkdirAll(m.runDir(r.ID), 0o700); err != nil {
		return fmt.Errorf("create runtime directory: %w", err)
	}
	hostname := []byte(r.Config.Hostname + "\n")
	if err := atomicfile.WriteVolatile(filepath.Join(m.dir(r.ID), "hostname"), hostname, 0o644); err != nil {
		return err
	}
	for _, p := range r.Mounts {
		if p.Type != mount.TypeBind {
			continue
		}
		_, err := os.Stat(p.Source)
		if errors.Is(err, os.ErrNotExist) && p.CreateDir {
			err = os.MkdirAll(p.Source, 0o755)
			if err != nil {
				return fmt.Errorf("error while creating mount source path '%s': %w", p.Source, err)
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			return invalid("invalid mount config for type %q: bind source path does not exist: %s", p.Type, p.Source)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ownFiles returns the mounts of hosts, hostname and resolv.conf of container
// owner, which is r or whose network r shares.
func (m *Manager) ownFiles(r *record, owner string) []specs.Mount {
	if r.Config.NetworkDisabled {
		return nil
	}
	var mounts []specs.Mount
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		source := filepath.Join(m.dir(owner), name)
		if _, err := os.Stat(source); err != nil {
			continue
		}
		mounts = append(mounts, specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: source, Options: []string{"rbind", "rprivate"},
		})
	}
	return mounts
}

// allocateNetwork asks for the container's addresses and writes the files that
// tell of them and of the linked containers. It returns nil for a container without a network of its own.
func (m *Manager) allocateNetwork(ctx context.Context, r *record, linked []string) (*NetworkAllocation, error) {
	if !r.hasNetwork() {
		return nil, nil
	}
	h := r.HostConfig
	got, err := m.Networks.Allocate(ctx, NetworkRequest{
		ID: r.ID, Name: r.name(), Hostname: r.Config.Hostname, Domainname: r.Config.Domainname,
		Mode: h.NetworkMode, Endpoints: r.Endpoints,
		ExposedPorts: r.Config.ExposedPorts, PortBindings: h.PortBindings, PublishAll: h.PublishAllPorts,
		DNS: h.DNS, DNSSearch: h.DNSSearch, DNSOptions: h.DNSOptions,
		ExtraHosts: slices.Concat(h.ExtraHosts, linked), Keep: r.Former.addresses(),
	})
	if err != nil {
		return nil, networkError(err)
	}
	if err := m.writeNetworkFiles(r.ID, got); err != nil {
		return nil, errors.Join(err, m.Networks.Release(ctx, r.ID))
	}
	for _, w := range got.Warnings {
		m.Log.Warn("network of a container", "container", r.ID, "warning", w)
	}
	return got, nil
}

func (m *Manager) writeNetworkFiles(id string, a *NetworkAllocation) error {
	for name, data := range map[string][]byte{"hosts": a.Hosts, "resolv.conf": a.ResolvConf} {
		if data == nil {
			continue
		}
		// Not synced: made anew at every start.
		if err := atomicfile.WriteVolatile(filepath.Join(m.dir(id), name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withHostnameOf returns r with the host name of the container whose network it
// shares.
func (m *Manager) withHostnameOf(r *record, owner string) *record {
	e, err := m.lookup(owner)
	if err != nil || owner == r.ID {
		return r
	}
	other := e.rec.Load().Config
	named, config := *r, *r.Config
	config.Hostname, config.Domainname = other.Hostname, other.Domainname
	named.Config = &config
	return &named
}

// hasNetwork reports whether r has a network of its own while it runs.
func (r *record) hasNetwork() bool {
	return !r.HostConfig.NetworkMode.IsContainer() && !r.Config.NetworkDisabled
}

func networkError(err error) error {
	return fmt.Errorf("failed to set up container networking: %w", err)
}

// storeSpec writes the containerd record that the task is made from.
func (m *Manager) storeSpec(ctx context.Context, r *record, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	c := containers.Container{
		ID: r.ID, Image: r.Config.Image, SnapshotKey: r.ID, Snapshotter: r.Snapshotter,
		Labels:  map[string]string{labelContainer: r.ID},
		Runtime: containers.RuntimeInfo{Name: m.runtimeName(r.HostConfig.Runtime)},
		Spec:    anyOf(urlSpec, data),
	}
	if c.Snapshotter == "" {
		c.Snapshotter = containerd.DefaultSnapshotter
	}
	store := m.Services.Containers
	if r.StartedAt.IsZero() && r.Error == "" { // the first start
		_, err = store.Create(ctx, c)
	} else {
		_, err = store.Update(ctx, c, "spec", "image", "labels")
		if errdefs.IsNotFound(err) {
			_, err = store.Create(ctx, c)
		}
	}
	if errdefs.IsAlreadyExists(err) {
		_, err = store.Update(ctx, c, "spec", "image", "labels")
	}
	if err != nil {
		return fmt.Errorf("store spec: %w", err)
	}
	return nil
}

// stdio says where the shim takes input from and puts output.
func (m *Manager) stdio(r *record) shimio.Stdio {
	s := shimio.Stdio{
		Stdin: r.Config.OpenStdin, StdinOnce: r.Config.OpenStdin && r.Config.StdinOnce,
		AttachSocket: m.attachSocket(r.ID),
	}
	f := m.logFile(r)
	if f.Format != "" {
		s.LogDriver, s.LogPath = f.Format, m.logPath(r)
		s.LogMaxBytes, s.LogMaxFiles, s.LogCompress = f.MaxBytes, f.MaxFiles, f.Compress
		s.LogHold = f.Remote && f.Blocking
	}
	if f.Format == "json-file" {
		s.LogAttrs = logAttrs(r)
	}
	return s
}

// startError is a start that the runtime refused.
type startError struct {
	text string
	code int
}

func (e *startError) Error() string { return e.text }

// Unwrap gives the class: a program that cannot run is the request's fault.
func (e *startError) Unwrap() error {
	if e.code == exitNotStarted {
		return errdefs.ErrUnknown
	}
	return errdefs.ErrInvalidArgument
}

// runtimeRoot is where the runtime keeps its state: with this engine's own, so
// that engines with roots of their own share nothing.
func (m *Manager) runtimeRoot() string { return filepath.Join(m.cfg.ExecRoot, "runtime-runc") }

// startFailure turns the error of creating or starting a task into one with an
// exit code.
//
// Docker compatibility: runtimes behind a stock shim tell what happened only in
// words, and the docker CLI in turn looks for these words in ours.
func startFailure(err error) error {
	text := oneLine(err.Error())
	lower := strings.ToLower(text)
	has := func(errno syscall.Errno) bool { return strings.Contains(lower, errno.Error()) }
	code := exitNotStarted
	switch {
	case has(syscall.EACCES):
		code = exitNotExecutable
	case has(syscall.EISDIR):
		text += ": " + syscall.EACCES.Error()
		code = exitNotExecutable
	case has(syscall.ENOTDIR):
		text += ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type"
		code = exitNotFound
	case strings.Contains(lower, "executable file not found"), has(syscall.ENOENT):
		code = exitNotFound
	case has(syscall.ENOEXEC):
		code = exitNotExecutable
	}
	return &startError{"failed to create task for container: " + text, code}
}

// oneLine drops what transports append to a message: the name of its class, after
// a colon or as a line of its own. "permission denied" stays, as it may be the
// kernel's.
func oneLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	for _, class := range []error{errdefs.ErrNotFound, errdefs.ErrUnknown, errdefs.ErrInvalidArgument} {
		text = strings.TrimSuffix(text, ": "+class.Error())
	}
	return text
}

// destroyTask ends and deletes a task in whatever state it is.
func (m *Manager) destroyTask(ctx context.Context, id string) error {
	if err := m.Services.Tasks.Kill(ctx, id, "", syscall.SIGKILL, true); err != nil && !gone(err) {
		m.Log.Debug("cannot kill task", "container", id, "err", err)
	}
	if _, err := m.Services.Tasks.Wait(ctx, id, ""); err != nil && !gone(err) {
		return err
	}
	if _, err := m.Services.Tasks.Delete(ctx, id, ""); err != nil && !gone(err) {
		return err
	}
	return nil
}

// gone reports whether err says that a process is not there any more.
func gone(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) }
