package rpc

import (
	"context"

	api "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/core/leases"
	"google.golang.org/protobuf/types/known/emptypb"
)

type leaseServer struct {
	api.UnimplementedLeasesServer
	manager leases.Manager
}

func (s *leaseServer) Create(ctx context.Context, r *api.CreateRequest) (*api.CreateResponse, error) {
	opts := []leases.Opt{leases.WithRandomID()}
	if r.GetID() != "" {
		opts = []leases.Opt{leases.WithID(r.GetID())}
	}
	if len(r.GetLabels()) > 0 {
		opts = append(opts, leases.WithLabels(r.GetLabels()))
	}
	l, err := s.manager.Create(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &api.CreateResponse{Lease: protoLease(l)}, nil
}

func (s *leaseServer) Delete(ctx context.Context, r *api.DeleteRequest) (*emptypb.Empty, error) {
	var opts []leases.DeleteOpt
	if r.GetSync() {
		opts = append(opts, leases.SynchronousDelete)
	}
	return &emptypb.Empty{}, s.manager.Delete(ctx, leases.Lease{ID: r.GetID()}, opts...)
}

func (s *leaseServer) List(ctx context.Context, r *api.ListRequest) (*api.ListResponse, error) {
	list, err := s.manager.List(ctx, r.GetFilters()...)
	if err != nil {
		return nil, err
	}
	resp := &api.ListResponse{}
	for _, l := range list {
		resp.Leases = append(resp.Leases, protoLease(l))
	}
	return resp, nil
}

func (s *leaseServer) AddResource(ctx context.Context, r *api.AddResourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.manager.AddResource(ctx, leases.Lease{ID: r.GetID()}, resourceOf(r.GetResource()))
}

func (s *leaseServer) DeleteResource(ctx context.Context, r *api.DeleteResourceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.manager.DeleteResource(ctx, leases.Lease{ID: r.GetID()}, resourceOf(r.GetResource()))
}

func (s *leaseServer) ListResources(ctx context.Context, r *api.ListResourcesRequest) (*api.ListResourcesResponse, error) {
	list, err := s.manager.ListResources(ctx, leases.Lease{ID: r.GetID()})
	if err != nil {
		return nil, err
	}
	resp := &api.ListResourcesResponse{}
	for _, res := range list {
		resp.Resources = append(resp.Resources, &api.Resource{ID: res.ID, Type: res.Type})
	}
	return resp, nil
}

func resourceOf(r *api.Resource) leases.Resource {
	return leases.Resource{ID: r.GetID(), Type: r.GetType()}
}

func protoLease(l leases.Lease) *api.Lease {
	return &api.Lease{ID: l.ID, CreatedAt: timestamp(l.CreatedAt), Labels: l.Labels}
}
