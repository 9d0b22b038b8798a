package rpc

import (
	"context"

	api "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type imageServer struct {
	api.UnimplementedImagesServer
	store images.Store
}

func (s *imageServer) Get(ctx context.Context, r *api.GetImageRequest) (*api.GetImageResponse, error) {
	img, err := s.store.Get(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return &api.GetImageResponse{Image: protoImage(img)}, nil
}

func (s *imageServer) List(ctx context.Context, r *api.ListImagesRequest) (*api.ListImagesResponse, error) {
	list, err := s.store.List(ctx, r.GetFilters()...)
	if err != nil {
		return nil, err
	}
	resp := &api.ListImagesResponse{}
	for _, img := range list {
		resp.Images = append(resp.Images, protoImage(img))
	}
	return resp, nil
}

func (s *imageServer) Create(ctx context.Context, r *api.CreateImageRequest) (*api.CreateImageResponse, error) {
	img, err := imageOf(r.GetImage())
	if err != nil {
		return nil, err
	}
	if img, err = s.store.Create(withEpoch(ctx, r.GetSourceDateEpoch()), img); err != nil {
		return nil, err
	}
	return &api.CreateImageResponse{Image: protoImage(img)}, nil
}

func (s *imageServer) Update(ctx context.Context, r *api.UpdateImageRequest) (*api.UpdateImageResponse, error) {
	img, err := imageOf(r.GetImage())
	if err != nil {
		return nil, err
	}
	if img, err = s.store.Update(withEpoch(ctx, r.GetSourceDateEpoch()), img, r.GetUpdateMask().GetPaths()...); err != nil {
		return nil, err
	}
	return &api.UpdateImageResponse{Image: protoImage(img)}, nil
}

func (s *imageServer) Delete(ctx context.Context, r *api.DeleteImageRequest) (*emptypb.Empty, error) {
	var opts []images.DeleteOpt
	if r.GetSync() {
		opts = append(opts, images.SynchronousDelete())
	}
	if r.GetTarget() != nil {
		target, err := descriptorOf(r.GetTarget())
		if err != nil {
			return nil, err
		}
		opts = append(opts, images.DeleteTarget(&target))
	}
	return &emptypb.Empty{}, s.store.Delete(ctx, r.GetName(), opts...)
}

// withEpoch puts the time that reproducible builds want into ctx.
func withEpoch(ctx context.Context, t *timestamppb.Timestamp) context.Context {
	if t == nil {
		return ctx
	}
	at := timeOf(t)
	return epoch.WithSourceDateEpoch(ctx, &at)
}

// protoImage returns the message of img.
func protoImage(img images.Image) *api.Image {
	return &api.Image{
		Name: img.Name, Labels: img.Labels, Target: protoDescriptor(img.Target),
		CreatedAt: timestamp(img.CreatedAt), UpdatedAt: timestamp(img.UpdatedAt),
	}
}

// imageOf reverses protoImage. Errors: InvalidArgument for a bad digest.
func imageOf(m *api.Image) (images.Image, error) {
	target, err := descriptorOf(m.GetTarget())
	return images.Image{
		Name: m.GetName(), Labels: m.GetLabels(), Target: target,
		CreatedAt: timeOf(m.GetCreatedAt()), UpdatedAt: timeOf(m.GetUpdatedAt()),
	}, err
}
