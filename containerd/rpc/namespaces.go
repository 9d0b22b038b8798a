package rpc

import (
	"context"
	"slices"
	"strings"

	api "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/protobuf/types/known/emptypb"
)

type namespaceServer struct {
	api.UnimplementedNamespacesServer
	store namespaces.Store
}

func (s *namespaceServer) Get(ctx context.Context, r *api.GetNamespaceRequest) (*api.GetNamespaceResponse, error) {
	labels, err := s.store.Labels(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return &api.GetNamespaceResponse{Namespace: &api.Namespace{Name: r.GetName(), Labels: labels}}, nil
}

func (s *namespaceServer) List(ctx context.Context, r *api.ListNamespacesRequest) (*api.ListNamespacesResponse, error) {
	match := filters.Always
	if r.GetFilter() != "" {
		f, err := filters.Parse(r.GetFilter())
		if err != nil {
			return nil, invalid("list namespaces: filter: %w", err)
		}
		match = f.Match
	}
	names, err := s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &api.ListNamespacesResponse{}
	for _, name := range names {
		labels, err := s.store.Labels(ctx, name)
		if err != nil {
			return nil, err
		}
		if match(filters.AdapterFunc(func(path []string) (string, bool) {
			switch {
			case len(path) == 1 && path[0] == "name":
				return name, true
			case len(path) > 1 && path[0] == "labels":
				value, ok := labels[strings.Join(path[1:], ".")]
				return value, ok
			}
			return "", false
		})) {
			resp.Namespaces = append(resp.Namespaces, &api.Namespace{Name: name, Labels: labels})
		}
	}
	return resp, nil
}

func (s *namespaceServer) Create(ctx context.Context, r *api.CreateNamespaceRequest) (*api.CreateNamespaceResponse, error) {
	if err := s.store.Create(ctx, r.GetNamespace().GetName(), r.GetNamespace().GetLabels()); err != nil {
		return nil, err
	}
	return &api.CreateNamespaceResponse{Namespace: r.GetNamespace()}, nil
}

// Update sets labels: those that the mask names, or without a mask all that are
// given. An empty value removes a label.
func (s *namespaceServer) Update(ctx context.Context, r *api.UpdateNamespaceRequest) (*api.UpdateNamespaceResponse, error) {
	name, labels := r.GetNamespace().GetName(), r.GetNamespace().GetLabels()
	keys := r.GetUpdateMask().GetPaths()
	if r.GetUpdateMask() == nil || slices.Contains(keys, "labels") {
		keys = nil
		for k := range labels {
			keys = append(keys, "labels."+k)
		}
	}
	for _, path := range keys {
		key, ok := strings.CutPrefix(path, "labels.")
		if !ok {
			return nil, invalid("update namespace %q: field %q can't be set", name, path)
		}
		if err := s.store.SetLabel(ctx, name, key, labels[key]); err != nil {
			return nil, err
		}
	}
	updated, err := s.store.Labels(ctx, name)
	if err != nil {
		return nil, err
	}
	return &api.UpdateNamespaceResponse{Namespace: &api.Namespace{Name: name, Labels: updated}}, nil
}

func (s *namespaceServer) Delete(ctx context.Context, r *api.DeleteNamespaceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.store.Delete(ctx, r.GetName())
}
