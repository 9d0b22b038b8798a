package rpc

import (
	"context"

	api "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/typeurl/v2"

	"lighter/containerd"
)

type diffServer struct {
	api.UnimplementedDiffServer
	diff containerd.Diff
}

func (s *diffServer) Apply(ctx context.Context, r *api.ApplyRequest) (*api.ApplyResponse, error) {
	desc, err := descriptorOf(r.GetDiff())
	if err != nil {
		return nil, err
	}
	var opts []diff.ApplyOpt
	if len(r.GetPayloads()) > 0 {
		payloads := make(map[string]typeurl.Any, len(r.GetPayloads()))
		for k, v := range r.GetPayloads() {
			payloads[k] = anyOf(v)
		}
		opts = append(opts, diff.WithPayloads(payloads))
	}
	if r.GetSyncFs() {
		opts = append(opts, diff.WithSyncFs(true))
	}
	applied, err := s.diff.Apply(ctx, desc, mountsOf(r.GetMounts()), opts...)
	if err != nil {
		return nil, err
	}
	return &api.ApplyResponse{Applied: protoDescriptor(applied)}, nil
}

func (s *diffServer) Diff(ctx context.Context, r *api.DiffRequest) (*api.DiffResponse, error) {
	opts := []diff.Opt{diff.WithMediaType(r.GetMediaType()), diff.WithReference(r.GetRef())}
	if r.GetLabels() != nil {
		opts = append(opts, diff.WithLabels(r.GetLabels()))
	}
	if r.GetSourceDateEpoch() != nil {
		at := timeOf(r.GetSourceDateEpoch())
		opts = append(opts, diff.WithSourceDateEpoch(&at))
	}
	desc, err := s.diff.Compare(ctx, mountsOf(r.GetLeft()), mountsOf(r.GetRight()), opts...)
	if err != nil {
		return nil, err
	}
	return &api.DiffResponse{Diff: protoDescriptor(desc)}, nil
}
