package builder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/inline"
	"github.com/moby/buildkit/cache/remotecache/local"
	"github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	bkworker "github.com/moby/buildkit/worker"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"

	"lighter/containerd"
	"lighter/internal/buildlink"
	"lighter/internal/cleanup"
)

// maxMessageBytes bounds a gRPC message of a client.
const maxMessageBytes = 16 << 20

// Builder solves builds. Serve answers clients; Close ends it.
type Builder struct {
	log      *slog.Logger
	cfg      buildlink.Config
	sessions *session.Manager
	control  *control.Controller
	worker   worker
	grpc     *grpc.Server
	raw      *handoff // connections that left HTTP for gRPC

	mu     sync.Mutex                    // guards builds
	builds map[string]context.CancelFunc // by build ID
}

// Open makes a Builder on svc with dockerd at cfg.Host. svc stays the caller's.
func Open(ctx context.Context, cfg buildlink.Config, svc *containerd.Services, log *slog.Logger) (_ *Builder, err error) {
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run())
		}
	}()
	for _, dir := range []string{cfg.Root, filepath.Join(cfg.State, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	hosts := registryHosts(cfg.Registry)
	w, err := newWorker(ctx, cfg, svc, newHost(cfg.Host), hosts)
	if err != nil {
		return nil, err
	}
	workers := &bkworker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	undo.Add(workers.Close)
	gatewayFrontend, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(cfg.Root, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	undo.Add(cache.Close)
	history, err := boltutil.SafeOpen(filepath.Join(cfg.Root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	undo.Add(history.Close)
	stopping := make(chan struct{})
	c, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": preferLocal{forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build)},
			"gateway.v0":    preferLocal{gatewayFrontend},
		},
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registry.ResolveCacheExporterFunc(sessions, hosts),
			"local":    local.ResolveCacheExporterFunc(sessions),
			"inline":   inline.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registry.ResolveCacheImporterFunc(sessions, w.ContentStore(), hosts),
			"local":    local.ResolveCacheImporterFunc(sessions),
		},
		CacheManager:   solver.NewCacheManager(ctx, "local", cache, bkworker.NewCacheResultStorage(workers)),
		Entitlements:   cfg.Entitlements,
		HistoryDB:      history,
		CacheStore:     cache,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		HistoryConfig:  historyConfig(cfg.History),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   stopping,
	})
	if err != nil {
		return nil, fmt.Errorf("open solver: %w", err)
	}
	undo.Release()
	b := &Builder{
		log: log, cfg: cfg, sessions: sessions, control: c, worker: w,
		grpc: grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes),
			// Errors carry where in the Dockerfile they arose.
			grpc.ChainUnaryInterceptor(printable, grpcerrors.UnaryServerInterceptor, guardSolve), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor)),
		raw:    newHandoff(),
		builds: map[string]context.CancelFunc{},
	}
	c.Register(b.grpc)
	return b, nil
}

// Serve answers HTTP and gRPC clients of l until ctx ends.
func (b *Builder) Serve(ctx context.Context, l net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: b.handler(), Protocols: protocols, ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug)}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.grpc.Serve(b.raw); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			b.log.Error("serve gRPC", "err", err)
		}
	})
	stop := context.AfterFunc(ctx, func() { server.Close() })
	err := server.Serve(l)
	stop()
	b.grpc.Stop()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close ends the solver and closes its databases.
func (b *Builder) Close() error { return b.control.Close() }

// preferLocal is a frontend that takes a base image from the engine's store when
// it is there, as docker build does, unless the client asked for a pull.
type preferLocal struct{ frontend.Frontend }

// Solve implements frontend.Frontend.
func (f preferLocal) Solve(ctx context.Context, llb frontend.FrontendLLBBridge, exec executor.Executor, opts map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	all := map[string]string{}
	for k, v := range opts {
		all[k] = v
	}
	if mode := all[keyResolveMode]; mode == "" || mode == "default" {
		all[keyResolveMode] = "local"
	}
	return f.Frontend.Solve(ctx, llb, exec, all, inputs, sid, sm)
}

// keyResolveMode is the frontends' option for where base images come from.
const keyResolveMode = "image-resolve-mode"
