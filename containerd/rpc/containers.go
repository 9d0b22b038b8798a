package rpc

import (
	"context"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

type containerServer struct {
	api.UnimplementedContainersServer
	store containers.Store
}

func (s *containerServer) Get(ctx context.Context, r *api.GetContainerRequest) (*api.GetContainerResponse, error) {
	c, err := s.store.Get(ctx, r.GetID())
	if err != nil {
		return nil, err
	}
	return &api.GetContainerResponse{Container: protoContainer(c)}, nil
}

func (s *containerServer) List(ctx context.Context, r *api.ListContainersRequest) (*api.ListContainersResponse, error) {
	list, err := s.store.List(ctx, r.GetFilters()...)
	if err != nil {
		return nil, err
	}
	resp := &api.ListContainersResponse{}
	for _, c := range list {
		resp.Containers = append(resp.Containers, protoContainer(c))
	}
	return resp, nil
}

func (s *containerServer) ListStream(r *api.ListContainersRequest, out api.Containers_ListStreamServer) error {
	list, err := s.store.List(out.Context(), r.GetFilters()...)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := out.Send(&api.ListContainerMessage{Container: protoContainer(c)}); err != nil {
			return err
		}
	}
	return nil
}

func (s *containerServer) Create(ctx context.Context, r *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	c, err := s.store.Create(ctx, containerOf(r.GetContainer()))
	if err != nil {
		return nil, err
	}
	return &api.CreateContainerResponse{Container: protoContainer(c)}, nil
}

func (s *containerServer) Update(ctx context.Context, r *api.UpdateContainerRequest) (*api.UpdateContainerResponse, error) {
	if r.GetContainer().GetID() == "" {
		return nil, invalid("update container: no ID")
	}
	c, err := s.store.Update(ctx, containerOf(r.GetContainer()), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &api.UpdateContainerResponse{Container: protoContainer(c)}, nil
}

func (s *containerServer) Delete(ctx context.Context, r *api.DeleteContainerRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.store.Delete(ctx, r.GetID())
}

// protoContainer returns the message of c.
func protoContainer(c containers.Container) *api.Container {
	m := &api.Container{
		ID: c.ID, Labels: c.Labels, Image: c.Image,
		Runtime: &api.Container_Runtime{Name: c.Runtime.Name, Options: protoAny(c.Runtime.Options)},
		Spec:    protoAny(c.Spec), Snapshotter: c.Snapshotter, SnapshotKey: c.SnapshotKey,
		CreatedAt: timestamp(c.CreatedAt), UpdatedAt: timestamp(c.UpdatedAt), Sandbox: c.SandboxID,
	}
	if len(c.Extensions) > 0 {
		m.Extensions = make(map[string]*anypb.Any, len(c.Extensions))
		for k, v := range c.Extensions {
			m.Extensions[k] = protoAny(v)
		}
	}
	return m
}

// containerOf reverses protoContainer. A nil message is a zero
// container.
func containerOf(m *api.Container) containers.Container {
	c := containers.Container{
		ID: m.GetID(), Labels: m.GetLabels(), Image: m.GetImage(),
		Runtime: containers.RuntimeInfo{Name: m.GetRuntime().GetName(), Options: anyOf(m.GetRuntime().GetOptions())},
		Spec:    anyOf(m.GetSpec()), Snapshotter: m.GetSnapshotter(), SnapshotKey: m.GetSnapshotKey(),
		CreatedAt: timeOf(m.GetCreatedAt()), UpdatedAt: timeOf(m.GetUpdatedAt()), SandboxID: m.GetSandbox(),
	}
	if len(m.GetExtensions()) > 0 {
		c.Extensions = make(map[string]typeurl.Any, len(m.GetExtensions()))
		for k, v := range m.GetExtensions() {
			c.Extensions[k] = anyOf(v)
		}
	}
	return c
}
