package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"

	"lighter/internal/buildlink"
)

// maxRequestBytes bounds a request of the build process.
const maxRequestBytes = 4 << 20

// hostServer answers the requests that the build process makes of the engine.
type hostServer struct {
	socket string
	deps   Deps
	http   *http.Server
	served sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	pid    chan int   // holds the pid of the running process once it is known
	joined map[string]bool
}

// serveHost listens on socket. Close ends it.
func serveHost(socket string, deps Deps) (*hostServer, error) {
	l, err := listenForRoot(socket)
	if err != nil {
		return nil, err
	}
	h := &hostServer{socket: socket, deps: deps, joined: map[string]bool{}}
	mux := http.NewServeMux()
	mux.Handle("POST "+buildlink.PathConnect, answer(h, h.connect))
	mux.Handle("POST "+buildlink.PathRelease, answer(h, h.release))
	mux.Handle("POST "+buildlink.PathRecord, answer(h, func(ctx context.Context, req buildlink.RecordRequest) (struct{}, error) {
		return struct{}{}, deps.Images.RecordBuilt(ctx, req)
	}))
	mux.Handle("POST "+buildlink.PathResolve, answer(h, func(ctx context.Context, req buildlink.ResolveRequest) (buildlink.ResolveResponse, error) {
		return deps.Images.ResolveLocal(ctx, req.Ref)
	}))
	h.http = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(deps.Log.Handler(), slog.LevelDebug)}
	h.served.Go(func() {
		if err := h.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			deps.Log.Error("serve the build process", "err", err)
		}
	})
	return h, nil
}

// answer is a handler of JSON requests.
func answer[In, Out any](h *hostServer, f func(context.Context, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in In
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes)).Decode(&in)
		if err != nil {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		var out any
		if err == nil {
			out, err = f(r.Context(), in)
		}
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			h.deps.Log.Debug("request of the build process", "path", r.URL.Path, "err", err)
			w.WriteHeader(errhttp.ToHTTP(err))
			out = buildlink.ErrorBody{Message: err.Error()}
		}
		if err := json.NewEncoder(w).Encode(out); err != nil {
			h.deps.Log.Debug("answer the build process", "err", err)
		}
	})
}

// newProcess forgets the pid of the process before.
func (h *hostServer) newProcess() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pid = make(chan int, 1)
}

// setPID tells the pid of the process that was started.
func (h *hostServer) setPID(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pid <- pid
}

// connect joins a network namespace of the process to the network.
func (h *hostServer) connect(ctx context.Context, req buildlink.ConnectRequest) (buildlink.ConnectResponse, error) {
	var resp buildlink.ConnectResponse
	h.mu.Lock()
	known := h.pid
	h.mu.Unlock()
	var pid int
	select {
	case pid = <-known:
		known <- pid
	case <-ctx.Done():
		return resp, ctx.Err()
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", pid, req.NamespaceFD))
	if err != nil {
		return resp, err
	}
	defer ns.Close()
	h.mu.Lock()
	if h.joined[req.ID] {
		h.mu.Unlock()
		return resp, fmt.Errorf("connect %q: it is connected: %w", req.ID, errdefs.ErrAlreadyExists)
	}
	h.joined[req.ID] = true
	h.mu.Unlock()
	resp.Addresses, err = h.deps.Networks.Join(ctx, req.ID, ns)
	if err != nil {
		h.mu.Lock()
		delete(h.joined, req.ID)
		h.mu.Unlock()
	}
	return resp, err
}

func (h *hostServer) release(ctx context.Context, req buildlink.ReleaseRequest) (struct{}, error) {
	h.mu.Lock()
	ours := h.joined[req.ID]
	delete(h.joined, req.ID)
	h.mu.Unlock()
	if !ours {
		return struct{}{}, nil
	}
	return struct{}{}, h.deps.Networks.Leave(ctx, req.ID)
}

// releaseAll takes back the networks of a process that has ended.
func (h *hostServer) releaseAll() {
	h.mu.Lock()
	joined := h.joined
	h.joined = map[string]bool{}
	h.mu.Unlock()
	for id := range joined {
		if err := h.deps.Networks.Leave(context.Background(), id); err != nil {
			h.deps.Log.Warn("release network of a step", "id", id, "err", err)
		}
	}
}

func (h *hostServer) close() error {
	err := h.http.Close()
	h.served.Wait()
	return errors.Join(err, ignoreNotExist(os.Remove(h.socket)))
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
