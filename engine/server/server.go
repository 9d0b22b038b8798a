package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/moby/moby/api/types/common"

	"lighter/engine/authz"
	"lighter/engine/events"
	"lighter/internal/version"
)

// maxHeaderBytes bounds a request's header.
const maxHeaderBytes = 1 << 20

// headerTimeout bounds the time a client takes to send a request's header.
const headerTimeout = 30 * time.Second

// Config says how the API is served.
type Config struct {
	// MinAPIVersion is the lowest version accepted; "" means version.APIMin.
	MinAPIVersion string
	// Experimental is reported to clients in every response.
	Experimental bool
	// Authorization is asked about each request; nil allows all.
	Authorization *authz.Chain
	// BuildKit reports whether clients are told to build with BuildKit; nil means
	// always.
	BuildKit func() bool
	// Debug reports whether /debug is served; nil means never.
	Debug func() bool
}

// Backends are what the routes call.
type Backends struct {
	Containers Containers
	Images     Images
	Networks   Networks
	Volumes    Volumes
	System     System
	Builds     Builds
	Events     *events.Bus
}

// Server serves the Engine API on any number of listeners.
type Server struct {
	backends Backends
	routes   []route
	min, max apiVersion
	header   http.Header // on every response
	authz    *authz.Chain
	buildKit func() bool
	trial    bool // experimental routes are served
	debug    func() bool
	log      *slog.Logger
	http     *http.Server
	stopping chan struct{} // closed by Shutdown: endless streams end

	mu       sync.Mutex // guards hijacked
	hijacked map[net.Conn]struct{}
	serving  sync.WaitGroup
}

// New returns a Server; Serve starts it.
func New(b Backends, cfg Config, log *slog.Logger) (*Server, error) {
	if cfg.MinAPIVersion == "" {
		cfg.MinAPIVersion = version.APIMin
	}
	lowest, ok := parseVersion(cfg.MinAPIVersion)
	if !ok || lowest.before(mustVersion(version.APIMin)) || mustVersion(version.APIMax).before(lowest) {
		return nil, fmt.Errorf("invalid minimum API version %q: must be between %s and %s",
			cfg.MinAPIVersion, version.APIMin, version.APIMax)
	}
	s := &Server{
		backends: b,
		min:      lowest,
		max:      mustVersion(version.APIMax),
		authz:    cfg.Authorization,
		buildKit: cfg.BuildKit,
		trial:    cfg.Experimental,
		debug:    cfg.Debug,
		log:      log,
		hijacked: make(map[net.Conn]struct{}),
		stopping: make(chan struct{}),
		header: http.Header{
			"Api-Version":         {version.APIMax},
			"Ostype":              {"linux"},
			"Docker-Experimental": {fmt.Sprint(cfg.Experimental)},
			"Server":              {"Docker/" + version.Version + " (linux)"},
		},
	}
	s.routes = s.table()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC of BuildKit's clients
	s.http = &http.Server{
		Protocols:         protocols,
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Serve answers clients of l until Shutdown; it then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops accepting, ends hijacked streams, and waits for the requests
// under way until ctx ends; those still running are then cut off. It is called
// once.
func (s *Server) Shutdown(ctx context.Context) error {
	close(s.stopping)
	s.mu.Lock()
	for c := range s.hijacked {
		c.Close()
	}
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.serving.Wait()
	return err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	s.serving.Add(1)
	defer s.serving.Done()
	for k, v := range s.header {
		w.Header()[k] = v
	}
	rw := &responseWriter{ResponseWriter: w}
	start := time.Now()
	err := s.serve(rw, hr)
	if err == nil {
		s.log.Debug("request", "method", hr.Method, "path", hr.URL.Path, "dur", time.Since(start))
		return
	}
	status := statusOf(err)
	level := slog.LevelDebug
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented {
		level = slog.LevelError
	}
	s.log.Log(hr.Context(), level, "request", "method", hr.Method, "path", hr.URL.Path, "status", status, "err", err)
	if rw.wrote {
		return
	}
	if status == http.StatusNotModified {
		rw.WriteHeader(status)
		return
	}
	if status == statusClientClosedRequest {
		status = http.StatusInternalServerError
	}
	if err := writeJSON(rw, status, common.ErrorResponse{Message: err.Error()}); err != nil {
		s.log.Debug("request", "err", err)
	}
}

// serve finds and runs the handler. A panic of the handler becomes an error:
// no input of one client ends the daemon for all.
func (s *Server) serve(w http.ResponseWriter, hr *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			s.log.Error("panic in a handler", "path", hr.URL.Path, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error while serving %s %s", hr.Method, hr.URL.Path)
		}
	}()
	r := &request{Request: hr, version: s.max}
	if isGRPC(hr) {
		return s.buildForward(w, r)
	}
	versionText, path := splitVersion(hr.URL.Path)
	if versionText != "" {
		v, ok := parseVersion(versionText)
		switch {
		case !ok:
			return invalid("invalid API version %q", versionText)
		case v.before(s.min):
			return invalid("client version %s is too old. Minimum supported API version is %d.%d, please upgrade your client to a newer version", versionText, s.min.major, s.min.minor)
		case s.max.before(v):
			return invalid("client version %s is too new. Maximum supported API version is %s", versionText, version.APIMax)
		}
		r.version = v
	}
	handle, vars := s.find(hr.Method, path)
	if handle == nil {
		return notFound("page not found")
	}
	r.vars = vars
	r.query = hr.URL.Query()
	if plugins := s.authz.Snapshot(); plugins != nil {
		return s.authorize(w, r, plugins, handle)
	}
	return handle(w, r)
}

// responseWriter remembers whether the response has begun.
type responseWriter struct {
	http.ResponseWriter
	wrote bool
}

func (w *responseWriter) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// flushing sends each write at once: for streams that a client follows.
type flushing struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func newFlushing(w http.ResponseWriter) flushing {
	return flushing{w, http.NewResponseController(w)}
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}
