// Package taskrpc serves a shim.Service as containerd's Task API over ttrpc. It
// is an adapter: it translates messages and maps errors.
package taskrpc

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/internal/version"
	"lighter/shim"
	"lighter/shim/metrics"
	"lighter/shim/reaper"
	"lighter/shim/wire"
)

// The two names of the service, whose messages are the same on the wire.
const (
	serviceV2 = "containerd.task.v2.Task"
	serviceV3 = "containerd.task.v3.Task"
)

// Server is the Task API of a shim.
type Server struct {
	shim *shim.Service
	// connected is called when a containerd makes itself known.
	connected func()
	// busy is called after each request.
	busy    func()
	methods map[string]method
}

// method answers a request in its encoded form.
type method func(ctx context.Context, req []byte, resp *wire.Encoder) error

// New returns the Task API, versions 2 and 3. connected is called when containerd
// connects, busy after each request.
func New(s *shim.Service, connected, busy func()) *Server {
	t := &Server{shim: s, connected: connected, busy: busy}
	t.methods = map[string]method{
		"State": t.state, "Create": t.create, "Start": t.start, "Delete": t.delete, "Pids": t.pids,
		"Pause": t.pause, "Resume": t.resume, "Checkpoint": t.checkpoint, "Kill": t.kill, "Exec": t.exec,
		"ResizePty": t.resizePty, "CloseIO": t.closeIO, "Update": t.update, waitMethod: t.wait,
		"Stats": t.stats, "Connect": t.connect, "Shutdown": t.shutdown,
	}
	return t
}

const waitMethod = "Wait"

// Waits reports whether a call of the method only waits for something.
func Waits(method string) bool { return method == waitMethod }

// Handle answers a call; see package ttrpc.
func (t *Server) Handle(ctx context.Context, service, name string, payload []byte) ([]byte, error) {
	if service != serviceV2 && service != serviceV3 {
		return nil, fmt.Errorf("service %v: %w", service, errdefs.ErrNotImplemented)
	}
	m, ok := t.methods[name]
	if !ok {
		return nil, fmt.Errorf("method %v: %w", name, errdefs.ErrNotImplemented)
	}
	defer t.busy()
	var resp wire.Encoder
	if err := m(ctx, payload, &resp); err != nil {
		return nil, err
	}
	return resp.Bytes(), nil
}

// malformed is the error for a request that does not decode.
func malformed(err error) error { return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument) }

func (t *Server) create(ctx context.Context, b []byte, resp *wire.Encoder) error {
	var r createRequest
	if err := r.decode(b); err != nil {
		return malformed(err)
	}
	if r.checkpoint != "" || r.parentCheckpoint != "" {
		return fmt.Errorf("create container %q: restoring a checkpoint is not supported: %w", r.ID, errdefs.ErrNotImplemented)
	}
	var err error
	if r.Options, err = Options(r.options); err != nil {
		return fmt.Errorf("create container %q: %w", r.ID, err)
	}
	pid, err := t.shim.Create(ctx, r.CreateRequest)
	resp.Uint(1, uint64(pid))
	return err
}

func (t *Server) start(ctx context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	pid, err := t.shim.Start(ctx, r.id, r.execID)
	resp.Uint(1, uint64(pid))
	return err
}

func (t *Server) delete(ctx context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	exit, err := t.shim.Delete(ctx, r.id, r.execID)
	encodeDeleted(resp, exit)
	return err
}

// DeleteResponse is the message that tells how a process ended.
func DeleteResponse(exit reaper.Exit) []byte {
	var e wire.Encoder
	encodeDeleted(&e, exit)
	return e.Bytes()
}

func encodeDeleted(e *wire.Encoder, exit reaper.Exit) {
	e.Uint(1, uint64(exit.Pid))
	encodeExit(e, 2, exit.Status, exit.At)
}

func (t *Server) exec(ctx context.Context, b []byte, _ *wire.Encoder) error {
	var r execRequest
	if err := r.decode(b); err != nil {
		return malformed(err)
	}
	var p specs.Process
	if err := decode(r.spec, "Process", &p); err != nil {
		return fmt.Errorf("add exec %q: %w", r.execID, err)
	}
	return t.shim.Exec(ctx, shim.ExecRequest{
		ID: r.id, ExecID: r.execID, Terminal: r.terminal,
		Stdin: r.stdin, Stdout: r.stdout, Stderr: r.stderr, Process: &p,
	})
}

func (t *Server) state(_ context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	s, err := t.shim.State(r.id, r.execID)
	encodeState(resp, s)
	return err
}

func (t *Server) wait(ctx context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	exit, err := t.shim.Wait(ctx, r.id, r.execID)
	encodeExit(resp, 1, exit.Status, exit.At)
	return err
}

func (t *Server) kill(ctx context.Context, b []byte, _ *wire.Encoder) error {
	var r target
	var signal syscall.Signal
	all := false
	err := r.decode(b, func(d *wire.Decoder) {
		switch d.Field() {
		case 3:
			signal = syscall.Signal(d.Uint())
		case 4:
			all = d.Bool()
		}
	})
	if err != nil {
		return malformed(err)
	}
	return t.shim.Kill(ctx, r.id, r.execID, signal, all)
}

func (t *Server) pause(ctx context.Context, b []byte, _ *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	return t.shim.Pause(ctx, r.id)
}

func (t *Server) resume(ctx context.Context, b []byte, _ *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	return t.shim.Resume(ctx, r.id)
}

func (t *Server) checkpoint(_ context.Context, b []byte, _ *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	return fmt.Errorf("checkpoint container %q: checkpoints are not supported: %w", r.id, errdefs.ErrNotImplemented)
}

func (t *Server) pids(ctx context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	list, err := t.shim.Pids(ctx, r.id)
	for _, p := range list {
		resp.Message(1, func(e *wire.Encoder) {
			e.Uint(1, uint64(p.Pid))
			if p.ExecID != "" {
				var details wire.Encoder
				details.Text(1, p.ExecID)
				e.Any(2, wire.Any{Type: "containerd.runc.v1.ProcessDetails", Value: details.Bytes()})
			}
		})
	}
	return err
}

func (t *Server) resizePty(_ context.Context, b []byte, _ *wire.Encoder) error {
	var r target
	var width, height uint32
	err := r.decode(b, func(d *wire.Decoder) {
		switch d.Field() {
		case 3:
			width = uint32(d.Uint())
		case 4:
			height = uint32(d.Uint())
		}
	})
	if err != nil {
		return malformed(err)
	}
	return t.shim.ResizePty(r.id, r.execID, width, height)
}

func (t *Server) closeIO(_ context.Context, b []byte, _ *wire.Encoder) error {
	var r target
	stdin := false
	err := r.decode(b, func(d *wire.Decoder) {
		if d.Field() == 3 {
			stdin = d.Bool()
		}
	})
	if err != nil {
		return malformed(err)
	}
	if !stdin {
		return nil
	}
	return t.shim.CloseStdin(r.id, r.execID)
}

func (t *Server) update(ctx context.Context, b []byte, _ *wire.Encoder) error {
	var id string
	var resources wire.Any
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			id = d.Text()
		case 2:
			resources = d.Any()
		}
	}
	if err := d.Err(); err != nil {
		return malformed(err)
	}
	var res specs.LinuxResources
	if err := decode(resources, "LinuxResources", &res); err != nil {
		return fmt.Errorf("update container %q: %w", id, err)
	}
	return t.shim.Update(ctx, id, &res)
}

func (t *Server) stats(ctx context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	paths, err := t.shim.CgroupPaths(ctx, r.id)
	if err != nil {
		return err
	}
	stats, err := metrics.Read(paths)
	if err != nil {
		return fmt.Errorf("container %q: %w", r.id, err)
	}
	resp.Any(1, stats)
	return nil
}

func (t *Server) connect(_ context.Context, b []byte, resp *wire.Encoder) error {
	var r target
	if err := r.decode(b, nil); err != nil {
		return malformed(err)
	}
	t.connected()
	// Without a container the answer is still who we are.
	pid, err := t.shim.InitPid(r.id)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	resp.Uint(1, uint64(os.Getpid()))
	resp.Uint(2, uint64(pid))
	resp.Text(3, version.Product+" "+version.Version)
	return nil
}

func (t *Server) shutdown(context.Context, []byte, *wire.Encoder) error {
	t.shim.Shutdown()
	return nil
}

// Options decodes runtime options, of which the zero Any is the default.
func Options(a wire.Any) (shim.Options, error) {
	switch name := typeName(a); name {
	case "":
		return shim.Options{}, nil
	case "containerd.runc.v1.Options":
		o, err := decodeOptions(a.Value)
		if err != nil {
			return shim.Options{}, fmt.Errorf("decode runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return o, nil
	case "runtimeoptions.v1.Options":
		var o criOptions
		if err := o.decode(a.Value); err != nil {
			return shim.Options{}, fmt.Errorf("decode runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if o.configPath != "" || len(o.configBody) > 0 {
			return shim.Options{}, fmt.Errorf("runtime options of type %q are not understood: use containerd.runc.v1.Options: %w", o.typeURL, errdefs.ErrInvalidArgument)
		}
		return shim.Options{}, nil
	default:
		return shim.Options{}, fmt.Errorf("runtime options of type %q are not understood: use containerd.runc.v1.Options: %w", name, errdefs.ErrInvalidArgument)
	}
}

// typeName is the message's name, without a host or path before it.
func typeName(a wire.Any) string {
	return a.Type[strings.LastIndexByte(a.Type, '/')+1:]
}

// decode decodes an OCI type, which travels as JSON.
func decode(a wire.Any, name string, v any) error {
	if typeName(a) != name {
		return fmt.Errorf("message has the type %q, not %q: %w", a.Type, name, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(a.Value, v); err != nil {
		return fmt.Errorf("decode %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return nil
}
