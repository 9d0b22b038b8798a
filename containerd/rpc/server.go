// Package rpc serves containerd.Services over gRPC with the API of containerd's
// clients. It translates messages and maps errors; the transfer service, which has
// the server do what clients did, puts package image behind messages.
//
// Every call runs in the namespace, and under the lease, that its headers name.
// What is missing from the API is not registered, so that clients get
// Unimplemented and fall back: mounts and sandboxes.
package rpc

import (
	"context"
	"log/slog"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

// MaxMessageSize bounds a gRPC message in either direction, in bytes. Clients
// use the same.
const MaxMessageSize = 16 << 20

// Config is what a server needs.
type Config struct {
	Services *containerd.Services
	// Snapshotters are the names that Services.Snapshotter knows.
	Snapshotters []string
	// UUID identifies the installation.
	UUID string
	// RuntimeInfo asks the shim of a runtime what it can do; nil when that is not
	// known.
	RuntimeInfo func(ctx context.Context, runtime string, options typeurl.Any) (*types.RuntimeInfo, error)
	// Life ends the calls that wait for events or exits, which would keep a
	// graceful stop from ending; nil means never.
	Life context.Context
	Log  *slog.Logger
}

// New returns a server of all services. The caller serves it and stops it.
func New(cfg Config) *grpc.Server {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxMessageSize), grpc.MaxSendMsgSize(MaxMessageSize),
		grpc.UnaryInterceptor(unary(cfg.Life, cfg.Log)), grpc.StreamInterceptor(stream(cfg.Life, cfg.Log)),
	)
	containersapi.RegisterContainersServer(s, &containerServer{store: cfg.Services.Containers})
	contentapi.RegisterContentServer(s, &contentServer{store: cfg.Services.Content})
	diffapi.RegisterDiffServer(s, &diffServer{diff: cfg.Services.Diff})
	eventsapi.RegisterEventsServer(s, &eventServer{events: cfg.Services.Events})
	imagesapi.RegisterImagesServer(s, &imageServer{store: cfg.Services.Images})
	introspectionapi.RegisterIntrospectionServer(s, newIntrospectionServer(cfg))
	leasesapi.RegisterLeasesServer(s, &leaseServer{manager: cfg.Services.Leases})
	namespacesapi.RegisterNamespacesServer(s, &namespaceServer{store: cfg.Services.Namespaces})
	snapshotsapi.RegisterSnapshotsServer(s, &snapshotServer{services: cfg.Services})
	tasksapi.RegisterTasksServer(s, &taskServer{tasks: cfg.Services.Tasks, log: cfg.Log})
	open := newStreams()
	streamingapi.RegisterStreamingServer(s, open)
	transferapi.RegisterTransferServer(s, &transferServer{services: cfg.Services, streams: open})
	versionapi.RegisterVersionServer(s, &versionServer{version: cfg.Services.Version})
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	return s
}

type versionServer struct {
	versionapi.UnimplementedVersionServer
	version containerd.Version
}

func (s *versionServer) Version(ctx context.Context, _ *emptypb.Empty) (*versionapi.VersionResponse, error) {
	version, revision, err := s.version.Version(ctx)
	if err != nil {
		return nil, err
	}
	return &versionapi.VersionResponse{Version: version, Revision: revision}, nil
}
