package rpc

import (
	"context"
	"fmt"
	"os"
	"runtime"

	api "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// The plugin that stands for the shims, by which clients ask for the features of
// a runtime.
const (
	runtimePluginType = "io.containerd.runtime.v2"
	runtimePluginID   = "task"
)

type introspectionServer struct {
	api.UnimplementedIntrospectionServer
	cfg     Config
	plugins []*api.Plugin
}

// newIntrospectionServer describes the parts of the program as the plugins that
// clients know: they look for snapshotters and the differ by them.
func newIntrospectionServer(cfg Config) *introspectionServer {
	here := []*types.Platform{{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
	s := &introspectionServer{cfg: cfg}
	add := func(typ, id string, platforms []*types.Platform) {
		s.plugins = append(s.plugins, &api.Plugin{Type: typ, ID: id, Platforms: platforms})
	}
	add("io.containerd.content.v1", "content", nil)
	for _, name := range cfg.Snapshotters {
		add("io.containerd.snapshotter.v1", name, here)
	}
	add("io.containerd.metadata.v1", "bolt", nil)
	add("io.containerd.differ.v1", "walking", here)
	add("io.containerd.event.v1", "exchange", nil)
	add("io.containerd.gc.v1", "scheduler", nil)
	add("io.containerd.streaming.v1", "manager", nil)
	add("io.containerd.transfer.v1", "local", here)
	add(runtimePluginType, runtimePluginID, here)
	for _, id := range []string{"containers", "content", "diff", "events", "healthcheck", "images", "introspection",
		"leases", "namespaces", "snapshots", "streaming", "tasks", "transfer", "version"} {
		add("io.containerd.grpc.v1", id, nil)
	}
	return s
}

func (s *introspectionServer) Plugins(_ context.Context, r *api.PluginsRequest) (*api.PluginsResponse, error) {
	match, err := filters.ParseAll(r.GetFilters()...)
	if err != nil {
		return nil, invalid("list plugins: filter: %w", err)
	}
	resp := &api.PluginsResponse{}
	for _, p := range s.plugins {
		if match.Match(filters.AdapterFunc(func(path []string) (string, bool) {
			switch {
			case len(path) == 1 && path[0] == "type":
				return p.GetType(), true
			case len(path) == 1 && path[0] == "id":
				return p.GetID(), true
			}
			return "", false
		})) {
			resp.Plugins = append(resp.Plugins, p)
		}
	}
	return resp, nil
}

func (s *introspectionServer) Server(context.Context, *emptypb.Empty) (*api.ServerResponse, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return nil, fmt.Errorf("look up pid namespace: %w", err)
	}
	return &api.ServerResponse{UUID: s.cfg.UUID, Pid: uint64(os.Getpid()), Pidns: st.Ino}, nil
}

func (s *introspectionServer) PluginInfo(ctx context.Context, r *api.PluginInfoRequest) (*api.PluginInfoResponse, error) {
	for _, p := range s.plugins {
		if p.GetType() != r.GetType() || p.GetID() != r.GetID() {
			continue
		}
		resp := &api.PluginInfoResponse{Plugin: p}
		if r.GetOptions() == nil {
			return resp, nil
		}
		if p.GetType() != runtimePluginType || s.cfg.RuntimeInfo == nil {
			return nil, fmt.Errorf("plugin %s.%s has no further information: %w", r.GetType(), r.GetID(), errdefs.ErrNotImplemented)
		}
		var req types.RuntimeRequest
		if err := typeurl.UnmarshalTo(r.GetOptions(), &req); err != nil {
			return nil, invalid("plugin info: options: %w", err)
		}
		info, err := s.cfg.RuntimeInfo(ctx, req.GetRuntimePath(), anyOf(req.GetOptions()))
		if err != nil {
			return nil, err
		}
		value, err := proto.Marshal(info)
		if err != nil {
			return nil, fmt.Errorf("plugin info: %w", err)
		}
		resp.Extra = &anypb.Any{TypeUrl: string(info.ProtoReflect().Descriptor().FullName()), Value: value}
		return resp, nil
	}
	return nil, fmt.Errorf("plugin %s.%s: %w", r.GetType(), r.GetID(), errdefs.ErrNotFound)
}
