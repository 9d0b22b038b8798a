package stdio

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"lighter/shim/reaper"
)

// Time limits of a logger program.
const (
	programReady = 30 * time.Second // to close its ready pipe
	programEnd   = 10 * time.Second // to end after its input has ended, before SIGTERM and again before SIGKILL
)

// logProgram is a logger that reads the process's pipes itself. The protocol is
// containerd's: CONTAINER_ID and CONTAINER_NAMESPACE in the environment; fd 3 is
// stdout, fd 4 is stderr, and the program closes fd 5 when it is ready.
type logProgram struct {
	cfg  Config
	deps Deps
	path string
	args []string

	pid  int
	exit <-chan reaper.Exit
	once sync.Once
}

func newLogProgram(cfg Config, deps Deps) (*logProgram, error) {
	u, err := url.Parse(cfg.Stdout)
	if err != nil {
		return nil, fmt.Errorf("parse stdout: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	p := &logProgram{cfg: cfg, deps: deps, path: u.Path}
	// Each key and value of the query is an argument, in the order written.
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		for i, s := range []string{key, value} {
			if s, err = url.QueryUnescape(s); err != nil {
				return nil, fmt.Errorf("parse stdout: %w: %w", err, errdefs.ErrInvalidArgument)
			}
			if i == 0 || s != "" {
				p.args = append(p.args, s)
			}
		}
	}
	return p, nil
}

// start starts the program and returns the writing ends for the process.
func (p *logProgram) start() (stdout, stderr *os.File, err error) {
	outR, outW, err := pipe(noEnd)
	if err != nil {
		return nil, nil, err
	}
	defer outR.Close()
	errR, errW, err := pipe(noEnd)
	if err != nil {
		outW.Close()
		return nil, nil, err
	}
	defer errR.Close()
	if err := p.run(outR, errR); err != nil {
		closeAll(outW, errW)
		return nil, nil, err
	}
	return outW, errW, nil
}

// startForTerminal starts the program and returns a sink to copy a console to.
func (p *logProgram) startForTerminal() (sink, error) {
	outR, outW, err := pipe(writeEnd)
	if err != nil {
		return nil, err
	}
	defer outR.Close()
	errR, errW, err := pipe(noEnd)
	if err != nil {
		outW.Close()
		return nil, err
	}
	defer errR.Close()
	errW.Close() // a terminal has one stream
	if err := p.run(outR, errR); err != nil {
		outW.Close()
		return nil, err
	}
	return &fifoSink{files: [2]*os.File{outW}}, nil
}

func (p *logProgram) run(stdout, stderr *os.File) error {
	readyR, readyW, err := pipe(readEnd)
	if err != nil {
		return err
	}
	defer readyR.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = append(os.Environ(), "CONTAINER_ID="+p.cfg.Container, "CONTAINER_NAMESPACE="+p.cfg.Namespace)
	cmd.ExtraFiles = []*os.File{stdout, stderr, readyW}
	p.pid, p.exit, err = p.deps.Reaper.Start(cmd)
	readyW.Close()
	if err != nil {
		return fmt.Errorf("start logger %q: %w", p.path, err)
	}
	readyR.SetReadDeadline(time.Now().Add(programReady))
	if _, err := readyR.Read(make([]byte, 1)); os.IsTimeout(err) {
		p.deps.Reaper.Signal(p.pid, syscall.SIGKILL)
		return fmt.Errorf("start logger %q: not ready after %s: %w", p.path, programReady, errdefs.ErrUnavailable)
	}
	select {
	case e := <-p.exit:
		p.exit = nil
		return fmt.Errorf("start logger %q: it exited with status %d: %w", p.path, e.Status, errdefs.ErrUnavailable)
	default:
		return nil
	}
}

// flush waits for the program to end, which it does when its input has.
func (p *logProgram) flush(ctx context.Context) {
	if p.exit == nil {
		return
	}
	select {
	case e := <-p.exit:
		p.exit = nil
		if e.Status != 0 {
			p.deps.Log.Warn("logger program ended with an error", "path", p.path, "status", e.Status)
		}
	case <-ctx.Done():
	}
}

// close ends the program.
func (p *logProgram) close() {
	p.once.Do(func() {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			ctx, cancel := context.WithTimeout(context.Background(), programEnd)
			p.flush(ctx)
			cancel()
			if p.exit == nil {
				return
			}
			p.deps.Reaper.Signal(p.pid, sig)
		}
	})
}
