package rpc

import (
	"context"
	"fmt"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

type snapshotServer struct {
	api.UnimplementedSnapshotsServer
	services *containerd.Services
}

func (s *snapshotServer) snapshotter(name string) (snapshots.Snapshotter, error) {
	if name == "" {
		return nil, invalid("snapshotter is not named")
	}
	sn := s.services.Snapshotter(name)
	if sn == nil {
		return nil, invalid("snapshotter %q is not loaded", name)
	}
	return sn, nil
}

// labelled are the options for labels, which a client may set freely.
func labelled(labels map[string]string) []snapshots.Opt {
	if labels == nil {
		return nil
	}
	return []snapshots.Opt{snapshots.WithLabels(labels)}
}

func (s *snapshotServer) Prepare(ctx context.Context, r *api.PrepareSnapshotRequest) (*api.PrepareSnapshotResponse, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Prepare(ctx, r.GetKey(), r.GetParent(), labelled(r.GetLabels())...)
	if err != nil {
		return nil, err
	}
	return &api.PrepareSnapshotResponse{Mounts: protoMounts(mounts)}, nil
}

func (s *snapshotServer) View(ctx context.Context, r *api.ViewSnapshotRequest) (*api.ViewSnapshotResponse, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	mounts, err := sn.View(ctx, r.GetKey(), r.GetParent(), labelled(r.GetLabels())...)
	if err != nil {
		return nil, err
	}
	return &api.ViewSnapshotResponse{Mounts: protoMounts(mounts)}, nil
}

func (s *snapshotServer) Mounts(ctx context.Context, r *api.MountsRequest) (*api.MountsResponse, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(ctx, r.GetKey())
	if err != nil {
		return nil, err
	}
	return &api.MountsResponse{Mounts: protoMounts(mounts)}, nil
}

func (s *snapshotServer) Commit(ctx context.Context, r *api.CommitSnapshotRequest) (*emptypb.Empty, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	opts := labelled(r.GetLabels())
	if r.GetParent() != "" {
		opts = append(opts, snapshots.WithParent(r.GetParent()))
	}
	return &emptypb.Empty{}, sn.Commit(ctx, r.GetName(), r.GetKey(), opts...)
}

func (s *snapshotServer) Remove(ctx context.Context, r *api.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, sn.Remove(ctx, r.GetKey())
}

func (s *snapshotServer) Stat(ctx context.Context, r *api.StatSnapshotRequest) (*api.StatSnapshotResponse, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	info, err := sn.Stat(ctx, r.GetKey())
	if err != nil {
		return nil, err
	}
	return &api.StatSnapshotResponse{Info: proxy.InfoToProto(info)}, nil
}

func (s *snapshotServer) Update(ctx context.Context, r *api.UpdateSnapshotRequest) (*api.UpdateSnapshotResponse, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	if r.GetInfo() == nil {
		return nil, invalid("update snapshot: no info")
	}
	info, err := sn.Update(ctx, proxy.InfoFromProto(r.GetInfo()), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &api.UpdateSnapshotResponse{Info: proxy.InfoToProto(info)}, nil
}

func (s *snapshotServer) List(r *api.ListSnapshotsRequest, out api.Snapshots_ListServer) error {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return err
	}
	batch := &api.ListSnapshotsResponse{}
	err = sn.Walk(out.Context(), func(_ context.Context, info snapshots.Info) error {
		batch.Info = append(batch.Info, proxy.InfoToProto(info))
		if len(batch.Info) < batchLen {
			return nil
		}
		full := batch
		batch = &api.ListSnapshotsResponse{}
		return out.Send(full)
	}, r.GetFilters()...)
	if err != nil || len(batch.Info) == 0 {
		return err
	}
	return out.Send(batch)
}

func (s *snapshotServer) Usage(ctx context.Context, r *api.UsageRequest) (*api.UsageResponse, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	usage, err := sn.Usage(ctx, r.GetKey())
	if err != nil {
		return nil, err
	}
	return proxy.UsageToProto(usage), nil
}

func (s *snapshotServer) Cleanup(ctx context.Context, r *api.CleanupRequest) (*emptypb.Empty, error) {
	sn, err := s.snapshotter(r.GetSnapshotter())
	if err != nil {
		return nil, err
	}
	c, ok := sn.(snapshots.Cleaner)
	if !ok {
		return nil, fmt.Errorf("snapshotter %q does not implement cleanup: %w", r.GetSnapshotter(), errdefs.ErrNotImplemented)
	}
	return &emptypb.Empty{}, c.Cleanup(ctx)
}
