package container

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"lighter/containerd"
	"lighter/internal/shimio"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// --- tasks: the supervisor, the shim and the programs

type fakeTasks struct {
	containerd.Tasks // what no test calls
	t                *testing.T
	specs            *fakeSpecs
	mu               sync.Mutex
	m                map[string]*fakeTask
	wedged           map[string]chan struct{} // Create of that container hangs
	nextPid          uint32
}

type fakeTask struct {
	id       string
	listener *net.UnixListener
	paused   bool
	procs    map[string]*fakeProc
}

type fakeProc struct {
	args    []string
	tty     bool
	stdio   shimio.Stdio
	signals chan syscall.Signal
	started bool
	done    chan struct{}
	exit    containerd.Exit
	pid     uint32

	mu       sync.Mutex
	attached []*fakeConn
	stdin    *io.PipeReader
	stdinW   *io.PipeWriter
	logFile  *os.File
}

type fakeConn struct {
	*net.UnixConn
	req shimio.Request
}

func (f *fakeTasks) proc(id, exec string) (*fakeProc, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t, ok := f.m[id]; ok {
		if p, ok := t.procs[exec]; ok {
			return p, nil
		}
	}
	return nil, fmt.Errorf("task %s %s: %w", id, exec, errdefs.ErrNotFound)
}

func newFakeProc(args []string, tty bool, stdio shimio.Stdio) *fakeProc {
	p := &fakeProc{args: args, tty: tty, stdio: stdio, signals: make(chan syscall.Signal, 16), done: make(chan struct{})}
	p.stdin, p.stdinW = io.Pipe()
	return p
}

func (f *fakeTasks) Create(_ context.Context, id string, opts containerd.TaskCreate) (uint32, error) {
	f.mu.Lock()
	wedge := f.wedged[id]
	f.mu.Unlock()
	if wedge != nil {
		<-wedge
	}
	c, err := f.specs.Get(context.Background(), id)
	if err != nil {
		return 0, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
		return 0, err
	}
	stdio, err := shimio.Parse(opts.Stdout)
	if err != nil {
		return 0, err
	}
	t := &fakeTask{id: id, procs: map[string]*fakeProc{}}
	if t.listener, err = shimio.Listen(stdio.AttachSocket); err != nil {
		return 0, err
	}
	p := newFakeProc(spec.Process.Args, opts.Terminal, stdio)
	if stdio.LogPath != "" {
		if p.logFile, err = os.OpenFile(stdio.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640); err != nil {
			return 0, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[id]; ok {
		return 0, errdefs.ErrAlreadyExists
	}
	f.nextPid++
	p.pid = f.nextPid
	t.procs[""] = p
	f.m[id] = t
	go f.serve(t)
	return p.pid, nil
}

func (f *fakeTasks) serve(t *fakeTask) {
	for {
		conn, err := t.listener.AcceptUnix()
		if err != nil {
			return
		}
		var req shimio.Request
		rest, err := shimio.ReadLine(conn, &req)
		if err != nil {
			conn.Close()
			continue
		}
		p, err := f.proc(t.id, req.Process)
		if err != nil {
			io.WriteString(conn, `{"error":"no such process"}`+"\n")
			conn.Close()
			continue
		}
		p.mu.Lock()
		select {
		case <-p.done:
			io.WriteString(conn, `{"error":"process has exited"}`+"\n")
			conn.Close()
		default:
			fmt.Fprintf(conn, "{\"tty\":%v}\n", p.tty)
			p.attached = append(p.attached, &fakeConn{conn, req})
			if req.Stdin && p.stdio.Stdin {
				go func() {
					io.Copy(p.stdinW, rest)
					if p.stdio.StdinOnce {
						p.stdinW.Close()
					}
				}()
			}
		}
		p.mu.Unlock()
	}
}

func (p *fakeProc) print(stream string, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.logFile != nil {
		line, _ := json.Marshal(map[string]any{"log": text, "stream": stream, "time": time.Now().UTC()})
		p.logFile.Write(append(line, '\n'))
	}
	for _, c := range p.attached {
		if stream == "stdout" && !c.req.Stdout || stream == "stderr" && !c.req.Stderr {
			continue
		}
		data := []byte(text)
		if c.req.Framed {
			head := make([]byte, 8)
			head[0] = 1
			if stream == "stderr" {
				head[0] = 2
			}
			binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
			data = append(head, data...)
		}
		c.Write(data)
	}
}

// run is the program: its first argument says which.
func (p *fakeProc) run() uint32 {
	arg := func(i int) string {
		if i < len(p.args) {
			return p.args[i]
		}
		return ""
	}
	switch p.args[0] {
	case "exit":
		code, _ := strconv.Atoi(arg(1))
		return uint32(code)
	case "echo":
		p.print("stdout", arg(1)+"\n")
		return 0
	case "both":
		p.print("stdout", "out\n")
		p.print("stderr", "err\n")
		return 3
	case "cat":
		go func() {
			<-p.signals
			p.stdin.CloseWithError(io.EOF)
			p.stdinW.Close()
		}()
		r := bufio.NewReader(p.stdin)
		for {
			line, err := r.ReadString('\n')
			if line != "" {
				p.print("stdout", line)
			}
			if err != nil {
				return 0
			}
		}
	}
	for sig := range p.signals { // sleep and stubborn
		if sig == syscall.SIGKILL || p.args[0] != "stubborn" && sig != syscall.SIGHUP {
			return 128 + uint32(sig)
		}
	}
	return 0
}

func (f *fakeTasks) Start(_ context.Context, id, exec string) (uint32, error) {
	p, err := f.proc(id, exec)
	if err != nil {
		return 0, err
	}
	switch p.args[0] {
	case "missing":
		p.end(127)
		return 0, errors.New(`exec: "missing": executable file not found in $PATH`)
	case "denied":
		p.end(126)
		return 0, errors.New(`exec: "denied": permission denied`)
	}
	f.mu.Lock()
	p.started = true
	f.mu.Unlock()
	go func() { p.end(p.run()) }()
	return p.pid, nil
}

func (p *fakeProc) end(code uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = containerd.Exit{Pid: p.pid, Code: code, ExitedAt: time.Now()}
	for _, c := range p.attached {
		c.Close()
	}
	if p.logFile != nil {
		p.logFile.Close()
	}
	close(p.done)
}

func (f *fakeTasks) Exec(_ context.Context, id, exec string, opts containerd.TaskExec) error {
	if _, err := f.proc(id, ""); err != nil {
		return err
	}
	var spec specs.Process
	if err := json.Unmarshal(opts.Spec.GetValue(), &spec); err != nil {
		return err
	}
	stdio, err := shimio.Parse(opts.Stdout)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextPid++
	p := newFakeProc(spec.Args, opts.Terminal, stdio)
	p.pid = f.nextPid
	f.m[id].procs[exec] = p
	return nil
}

func (f *fakeTasks) Delete(_ context.Context, id, exec string) (containerd.Exit, error) {
	p, err := f.proc(id, exec)
	if err != nil {
		return containerd.Exit{}, err
	}
	select {
	case <-p.done:
	default:
		if p.started {
			return containerd.Exit{}, errdefs.ErrFailedPrecondition
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if exec == "" {
		f.m[id].listener.Close()
		delete(f.m, id)
	} else {
		delete(f.m[id].procs, exec)
	}
	return p.exit, nil
}

func (f *fakeTasks) status(p *fakeProc, paused bool) containerd.Status {
	select {
	case <-p.done:
		return containerd.StatusStopped
	default:
	}
	switch {
	case !p.started:
		return containerd.StatusCreated
	case paused:
		return containerd.StatusPaused
	}
	return containerd.StatusRunning
}

func (f *fakeTasks) State(_ context.Context, id, exec string) (containerd.TaskState, error) {
	p, err := f.proc(id, exec)
	if err != nil {
		return containerd.TaskState{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return containerd.TaskState{ID: id, ExecID: exec, Pid: p.pid, Status: f.status(p, f.m[id].paused), Exit: p.exit}, nil
}

func (f *fakeTasks) List(context.Context) ([]containerd.TaskState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []containerd.TaskState
	for id, t := range f.m {
		p := t.procs[""]
		all = append(all, containerd.TaskState{ID: id, Pid: p.pid, Status: f.status(p, t.paused), Exit: p.exit})
	}
	return all, nil
}

func (f *fakeTasks) Wait(ctx context.Context, id, exec string) (containerd.Exit, error) {
	p, err := f.proc(id, exec)
	if err != nil {
		return containerd.Exit{}, err
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return containerd.Exit{}, ctx.Err()
	}
}

func (f *fakeTasks) Kill(_ context.Context, id, exec string, sig syscall.Signal, all bool) error {
	p, err := f.proc(id, exec)
	if err != nil {
		return err
	}
	if f.status(p, false) == containerd.StatusStopped {
		return errdefs.ErrNotFound
	}
	if !p.started {
		if sig == syscall.SIGKILL {
			p.end(137)
		}
		return nil
	}
	p.signals <- sig
	return nil
}

func (f *fakeTasks) Pause(_ context.Context, id string) error  { return f.setPaused(id, true) }
func (f *fakeTasks) Resume(_ context.Context, id string) error { return f.setPaused(id, false) }
func (f *fakeTasks) setPaused(id string, v bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.m[id]
	if !ok {
		return errdefs.ErrNotFound
	}
	t.paused = v
	return nil
}
func (f *fakeTasks) ResizePty(context.Context, string, string, uint32, uint32) error { return nil }
func (f *fakeTasks) Update(context.Context, string, typeurl.Any) error               { return nil }
func (f *fakeTasks) Pids(_ context.Context, id string) ([]uint32, error) {
	return []uint32{uint32(os.Getpid())}, nil
}

func (f *fakeTasks) running() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for id := range f.m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// pipeClient is an attached client in memory.
type pipeClient struct {
	in  io.Reader
	out *lockedBuffer
	eof chan struct{}
	one sync.Once
}

func newClient(in io.Reader) *pipeClient {
	return &pipeClient{in: in, out: &lockedBuffer{}, eof: make(chan struct{})}
}
func (c *pipeClient) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *pipeClient) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *pipeClient) CloseWrite() error           { c.one.Do(func() { close(c.eof) }); return nil }

type lockedBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	return len(p), nil
}
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}
