// Package remote builds containerd.Services over gRPC: from a stock containerd,
// or from one of ours in another process.
//
// Errors keep their class across the wire. The namespace and the lease of a
// call's context travel as headers.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

// maxMessageSize bounds a gRPC message, in bytes: the limit of the servers.
const maxMessageSize = 16 << 20

// Dial returns the services of the containerd that listens on the unix socket at
// address, a path or "unix://PATH", having waited until it answers or ctx ends.
// The closer ends the connection; until then it is made again whenever it
// breaks.
//
// Errors: InvalidArgument for another kind of address; Unavailable when there is
// no answer, with the last reason.
func Dial(ctx context.Context, address string) (*containerd.Services, io.Closer, error) {
	path := strings.TrimPrefix(address, "unix://")
	if !strings.HasPrefix(path, "/") {
		return nil, nil, fmt.Errorf("dial containerd: address %q is not the path of a unix socket: %w", address, errdefs.ErrInvalidArgument)
	}
	// Backing off for minutes is for servers far away; this one restarts.
	again := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}
	conn, err := grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize), grpc.MaxCallSendMsgSize(maxMessageSize)),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("dial containerd: %w", err)
	}
	names, err := snapshotters(ctx, conn)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("dial containerd at %s: %w", path, err), conn.Close())
	}
	return services(conn, names), conn, nil
}

// services puts the clients over conn together.
func services(conn *grpc.ClientConn, names []string) *containerd.Services {
	byName := make(map[string]snapshots.Snapshotter, len(names))
	for _, name := range names {
		byName[name] = snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), name)
	}
	return containerd.Services{
		Namespaces: newNamespaceStore(conn),
		Content:    contentproxy.NewContentStore(contentapi.NewContentClient(conn)),
		Images:     newImageStore(conn),
		Containers: newContainerStore(conn),
		Leases:     leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)),
		Diff:       diffproxy.NewDiffApplier(diffapi.NewDiffClient(conn)).(containerd.Diff),
		Events:     newEventClient(conn),
		Tasks:      newTaskClient(conn),
		Version:    versionClient{versionapi.NewVersionClient(conn)},
	}.WithSnapshotters(byName)
}

// snapshotters asks which there are, once the server has come up.
func snapshotters(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	resp, err := introspectionapi.NewIntrospectionClient(conn).Plugins(ctx,
		&introspectionapi.PluginsRequest{Filters: []string{"type==io.containerd.snapshotter.v1"}}, grpc.WaitForReady(true))
	if err != nil {
		if ctx.Err() != nil { // gRPC's error names the last failure to connect
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
		}
		return nil, errgrpc.ToNative(err)
	}
	var names []string
	for _, p := range resp.GetPlugins() {
		if p.GetInitErr() == nil {
			names = append(names, p.GetID())
		}
	}
	return names, nil
}

type versionClient struct{ client versionapi.VersionClient }

func (v versionClient) Version(ctx context.Context) (version, revision string, err error) {
	resp, err := v.client.Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", "", errgrpc.ToNative(err)
	}
	return resp.GetVersion(), resp.GetRevision(), nil
}
