package task

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"lighter/internal/cleanup"
	"lighter/internal/version"
)

// shimOOMScoreAdj keeps the kernel's OOM killer away from shims: each is small,
// and losing one loses a container.
const shimOOMScoreAdj = -998

const (
	logName  = "shim.log" // regular file: neither a full pipe nor our death stops the shim
	fifoName = "log"
)

// launch starts the shim server of one of our own shims directly:
//
//	manager                                   shim
//	socket, bind, listen
//	bootstrap.json
//	connect (queues in the backlog)
//	start: "serve", listener as fd 3    --->  accept on fd 3
//	first request                       --->  served when it has come up
//
// A crash between any two steps leaves a bundle whose socket refuses or whose
// shim knows no task; New removes either.
func (m *Manager) launch(ctx context.Context, t *task) (*shim, error) {
	var undo cleanup.Stack
	defer undo.Run()

	// A name of its own, not just "shim.sock": a shim removes its socket on its way
	// out, and by then a task of the same ID may have a new bundle and shim.
	var unique [6]byte
	rand.Read(unique[:])
	sock := t.bundle.file("shim-" + hex.EncodeToString(unique[:]) + ".sock")
	listener, err := listenUnix(sock)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	boot := bootstrap{Version: maxShimVersion, Address: "unix://" + sock, Protocol: "ttrpc"}
	if err := t.bundle.saveBootstrap(boot); err != nil {
		return nil, err
	}
	conn, err := dialUnix(ctx, sock)
	if err != nil {
		return nil, err
	}
	undo.Add(conn.Close)

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	log, err := os.OpenFile(t.bundle.file(logName), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	args := []string{t.binary, "-namespace", t.namespace, "-id", t.id, "-address", m.cfg.Address, "-bundle", t.bundle.path}
	if m.cfg.Debug {
		args = append(args, "-debug")
	}
	pidfd := -1
	proc, err := os.StartProcess(m.binaries.readOnly(t.binary), append(args, "serve"), &os.ProcAttr{
		Dir:   t.bundle.path,
		Env:   m.shimEnv(t.namespace),
		Files: []*os.File{null, null, log, listener},
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, err
	}
	t.started = true
	pid := proc.Pid
	proc.Release() // it is waited for by child
	c, err := newChild(pid, pidfd)
	if err != nil {
		return nil, err
	}
	m.adjustOOMScore(pid)
	undo.Release()
	s := &shim{child: c}
	m.attach(t, s, boot.Version, conn)
	return s, nil
}

// startVerb starts a shim of any make with its "start" verb and connects to the
// server that it left behind.
func (m *Manager) startVerb(ctx context.Context, t *task, maker maker, options typeurl.Any) (*shim, error) {
	stopLog, err := m.copyLog(t)
	if err != nil {
		return nil, err
	}
	undo := cleanup.Make(func() error { stopLog(); return nil })
	defer undo.Run()

	stdin, err := m.startInput(t, maker, options)
	if err != nil {
		return nil, err
	}
	t.started = true
	out, err := m.runVerb(ctx, t, stdin, "start")
	if err != nil {
		return nil, err
	}
	boot, err := parseBootstrap(out)
	if err != nil {
		return nil, err
	}
	if err := t.bundle.saveBootstrap(boot); err != nil {
		return nil, err
	}
	conn, err := dialShim(ctx, boot)
	if err != nil {
		return nil, err
	}
	undo.Release()
	s := &shim{stopLog: stopLog}
	m.attach(t, s, boot.Version, conn)
	return s, nil
}

// startInput is what the start verb of such a shim reads.
func (m *Manager) startInput(t *task, maker maker, options typeurl.Any) ([]byte, error) {
	if maker == legacy {
		if options == nil {
			return nil, nil
		}
		return proto.Marshal(toAny(options))
	}
	level := bootapi.LogLevel_LOG_LEVEL_INFO
	if m.cfg.Debug {
		level = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	params := &bootapi.BootstrapParams{
		InstanceID: t.id, Namespace: t.namespace, LogLevel: level,
		ContainerdVersion:     version.Version,
		ContainerdGrpcAddress: m.cfg.Address, ContainerdTtrpcAddress: m.ttrpcAddress(),
		ContainerdBinary: m.publishBinary,
	}
	if options != nil {
		if err := params.AddExtension(toAny(options)); err != nil {
			return nil, err
		}
	}
	return proto.Marshal(params)
}

// deleteVerb has the shim binary remove what is left of the task of a dead shim,
// killing its processes, and returns how init ended.
func (m *Manager) deleteVerb(ctx context.Context, t *task) (*api.DeleteResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	out, err := m.runVerb(ctx, t, nil, "delete")
	if err != nil {
		return nil, err
	}
	var resp api.DeleteResponse
	if err := proto.Unmarshal(out, &resp); err != nil {
		return nil, fmt.Errorf("shim's delete verb: %w", err)
	}
	return &resp, nil
}

// runVerb executes the shim binary in the bundle and returns what it printed. It
// is executed from its path, not from a read-only clone: shims of other makes
// execute os.Executable again to become a server, and a clone's has no name.
func (m *Manager) runVerb(ctx context.Context, t *task, stdin []byte, verb string) ([]byte, error) {
	args := []string{"-namespace", t.namespace, "-address", m.cfg.Address, "-publish-binary", m.publishBinary, "-id", t.id}
	if verb == "delete" {
		args = append(args, "-bundle", t.bundle.path)
	}
	if m.cfg.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.CommandContext(ctx, t.binary, append(args, verb)...)
	cmd.Dir = t.bundle.path
	cmd.Env = m.shimEnv(t.namespace)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // a server that kept our pipe open does not hold us
	stdout, stderr := &boundedBuffer{limit: maxSmallFile}, &boundedBuffer{limit: 64 << 10, truncate: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			err = fmt.Errorf("%s: %w", msg, err)
		}
		return nil, fmt.Errorf("shim's %s verb: %w", verb, err)
	}
	return stdout.buf, nil
}

// shimEnv is the whole environment of a shim. The daemon's own, with its
// secrets, stays here.
func (m *Manager) shimEnv(namespace string) []string {
	return append([]string{
		"GOMAXPROCS=2",
		"MAX_SHIM_VERSION=2", // of the start protocol: JSON or protobuf instead of a bare address
		"TTRPC_ADDRESS=" + m.ttrpcAddress(),
		"GRPC_ADDRESS=" + m.cfg.Address,
		"NAMESPACE=" + namespace,
	}, m.baseEnv...)
}

// baseEnvironment picks what programs need to run at all and adds extra.
func baseEnvironment(extra []string) []string {
	var env []string
	for _, key := range []string{
		"PATH", "HOME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR",
		"DBUS_SESSION_BUS_ADDRESS", // rootless runtimes reach systemd by it
		"GOTRACEBACK", "GODEBUG", "GOCOVERDIR",
	} {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	return append(env, extra...)
}

func (m *Manager) ttrpcAddress() string { return m.cfg.Address + ".ttrpc" }

func (m *Manager) adjustOOMScore(pid int) {
	f, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(shimOOMScoreAdj))
		f.Close()
	}
	if err != nil { // lowering it needs CAP_SYS_RESOURCE
		m.log.Debug("can't protect shim from the OOM killer", "pid", pid, "err", err)
	}
}

// copyLog makes the fifo that the shim logs to and copies its lines into our
// log, until the returned function is called.
func (m *Manager) copyLog(t *task) (stop func(), err error) {
	path := t.bundle.file(fifoName)
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// Open for writing as well: the shim's open never blocks and we see no end
	// of file before its start.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeNamedPipe == 0 {
		f.Close()
		return nil, fmt.Errorf("shim log %q is not a fifo: %w", path, errdefs.ErrFailedPrecondition)
	}
	log := m.log.With("namespace", t.namespace, "task", t.id)
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		lines := bufio.NewScanner(f)
		lines.Buffer(make([]byte, 0, 4096), 64<<10)
		for {
			for lines.Scan() {
				log.Info("shim log", "line", lines.Text())
			}
			if !errors.Is(lines.Err(), bufio.ErrTooLong) {
				return
			}
			lines = bufio.NewScanner(f)
			lines.Buffer(make([]byte, 0, 4096), 64<<10)
		}
	}()
	return func() { f.Close(); <-done }, nil
}

// toAny returns the protobuf form of a, nil for nil.
func toAny(a typeurl.Any) *anypb.Any {
	if a == nil {
		return nil
	}
	return typeurl.MarshalProto(a)
}
