package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	"golang.org/x/sys/unix"

	"lighter/internal/buildlink"
	"lighter/internal/cleanup"
)

// maxAnswerBytes bounds the answer to a request of ours.
const maxAnswerBytes = 64 << 20

// process is a running docker-buildkitd.
type process struct {
	cmd      *exec.Cmd
	socket   string
	lifeline *os.File      // the process ends when it is closed
	done     chan struct{} // closed when the process has been reaped
	log      *slog.Logger
	http1    *http.Transport
	http2    *http.Transport // for gRPC
}

// start starts the process. It needs not be up when start returns: its socket
// takes connections already.
func (s *Service) start(ctx context.Context) (_ *process, err error) {
	if s.cfg.Program == "" {
		return nil, fmt.Errorf("docker-buildkitd is not installed beside dockerd nor in PATH: %w", errdefs.ErrNotImplemented)
	}
	if s.cfg.Link.Runtime == "" {
		return nil, fmt.Errorf("runc is not installed beside dockerd nor in PATH: %w", errdefs.ErrNotImplemented)
	}
	var undo cleanup.Stack
	defer func() { err = errors.Join(err, undo.Run()) }()
	link := s.cfg.Link
	if err := os.MkdirAll(link.State, 0o700); err != nil {
		return nil, err
	}
	if s.host == nil {
		if s.host, err = serveHost(filepath.Join(link.State, "host.sock"), s.deps); err != nil {
			return nil, err
		}
	}
	s.host.newProcess()
	link.Host = s.host.socket
	socket := filepath.Join(link.State, "build.sock")
	listener, err := listenForRoot(socket)
	if err != nil {
		return nil, err
	}
	defer listener.Close() // the process has its own descriptor
	inherited, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer inherited.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	defer r.Close()
	undo.Add(w.Close)
	config, err := json.Marshal(link)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.cfg.Program, link.State) // the argument tells people whose it is
	cmd.Stdin = bytes.NewReader(config)
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{inherited, r} // buildlink.ListenerFD, LifelineFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	undo.Release()
	s.host.setPID(cmd.Process.Pid)
	p := &process{cmd: cmd, socket: socket, lifeline: w, done: make(chan struct{}), log: s.deps.Log}
	p.http1, p.http2 = p.transport(false), p.transport(true)
	go p.reap()
	s.deps.Log.Info("build process started", "pid", cmd.Process.Pid)
	return p, nil
}

// listenForRoot listens on a socket that only root may use, in place of one that
// a killed process left.
func listenForRoot(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// transport speaks HTTP/1.1, or HTTP/2 without TLS, to the process.
func (p *process) transport(two bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!two)
	protocols.SetUnencryptedHTTP2(two)
	return &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		DisableKeepAlives:  !two, // the process may end between two requests
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
		},
	}
}

// reap waits for the process.
func (p *process) reap() {
	err := p.cmd.Wait()
	attrs := []any{"pid", p.cmd.Process.Pid}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	p.log.Info("build process ended", attrs...)
	p.lifeline.Close()
	p.http1.CloseIdleConnections()
	p.http2.CloseIdleConnections()
	close(p.done)
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process, cleanly if it does so in time.
func (p *process) stop() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.log.Warn("stop build process", "err", err)
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			p.log.Warn("kill build process", "err", err)
		}
		<-p.done
	}
}

// forward answers the request by the process: answers flow as they come, upgrades
// become raw streams, trailers of gRPC pass. It returns when the exchange has
// ended.
func (p *process) forward(w http.ResponseWriter, r *http.Request) error {
	transport := p.http1
	if isGRPC(r) {
		transport = p.http2
	}
	var failed error
	proxy := httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = "http", "build", "build"
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
	}
	if !served(&proxy, w, r) {
		failed = errors.New("the connection broke")
	}
	if failed == nil {
		return nil
	}
	if r.Context().Err() != nil {
		return context.Canceled
	}
	if r.URL.Path == "/build" && w.Header().Get("Content-Type") == "application/json" {
		// The answer has begun: without a last word clients take it for complete.
		const text = "the build process ended during the build: see the daemon's log, then try again"
		_, err := fmt.Fprintf(w, `{"errorDetail":{"message":%q},"error":%q}`+"\r\n", text, text)
		return errors.Join(failed, err)
	}
	return fmt.Errorf("the build process did not answer: see the daemon's log, then try again: %w: %w", failed, errdefs.ErrUnavailable)
}

// served serves the request; false says that the answer broke off.
func served(proxy *httputil.ReverseProxy, w http.ResponseWriter, r *http.Request) (whole bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
		}
	}()
	proxy.ServeHTTP(w, r)
	return true
}

// isGRPC tells a call of gRPC from a request of the Engine API.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// call makes a request of our own. Errors keep their class.
func (p *process) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://build"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := p.http1.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask the build process: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer resp.Body.Close()
	answer := io.LimitReader(resp.Body, maxAnswerBytes)
	if resp.StatusCode >= http.StatusBadRequest {
		var e buildlink.ErrorBody
		if json.NewDecoder(answer).Decode(&e) != nil || e.Message == "" {
			e.Message = resp.Status
		}
		return fmt.Errorf("%w: %w", errors.New(e.Message), errhttp.ToNative(resp.StatusCode))
	}
	return json.NewDecoder(answer).Decode(out)
}
