package remote

import (
	"context"
	"errors"
	"io"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// containerStore implements containers.Store.
type containerStore struct {
	client containersapi.ContainersClient
}

var _ containers.Store = containerStore{}

func newContainerStore(conn *grpc.ClientConn) containerStore {
	return containerStore{containersapi.NewContainersClient(conn)}
}

func (s containerStore) Get(ctx context.Context, id string) (containers.Container, error) {
	resp, err := s.client.Get(ctx, &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return containers.Container{}, errgrpc.ToNative(err)
	}
	return containerOf(resp.GetContainer()), nil
}

// List streams, so that many containers do not exceed the size of a message. A
// server without the stream is asked for the list.
func (s containerStore) List(ctx context.Context, filters ...string) ([]containers.Container, error) {
	req := &containersapi.ListContainersRequest{Filters: filters}
	list, err := s.stream(ctx, req)
	if err == nil || !errdefs.IsNotImplemented(err) {
		return list, err
	}
	resp, err := s.client.List(ctx, req)
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	for _, c := range resp.GetContainers() {
		list = append(list, containerOf(c))
	}
	return list, nil
}

func (s containerStore) stream(ctx context.Context, req *containersapi.ListContainersRequest) ([]containers.Container, error) {
	session, err := s.client.ListStream(ctx, req)
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	var list []containers.Container
	for {
		msg, err := session.Recv()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, errgrpc.ToNative(err)
		}
		list = append(list, containerOf(msg.GetContainer()))
	}
}

func (s containerStore) Create(ctx context.Context, c containers.Container) (containers.Container, error) {
	resp, err := s.client.Create(ctx, &containersapi.CreateContainerRequest{Container: protoContainer(c)})
	if err != nil {
		return containers.Container{}, errgrpc.ToNative(err)
	}
	return containerOf(resp.GetContainer()), nil
}

func (s containerStore) Update(ctx context.Context, c containers.Container, fieldpaths ...string) (containers.Container, error) {
	resp, err := s.client.Update(ctx, &containersapi.UpdateContainerRequest{Container: protoContainer(c), UpdateMask: mask(fieldpaths)})
	if err != nil {
		return containers.Container{}, errgrpc.ToNative(err)
	}
	return containerOf(resp.GetContainer()), nil
}

func (s containerStore) Delete(ctx context.Context, id string) error {
	_, err := s.client.Delete(ctx, &containersapi.DeleteContainerRequest{ID: id})
	return errgrpc.ToNative(err)
}

// imageStore implements images.Store.
type imageStore struct{ client imagesapi.ImagesClient }

var _ images.Store = imageStore{}

func newImageStore(conn *grpc.ClientConn) imageStore {
	return imageStore{imagesapi.NewImagesClient(conn)}
}

func (s imageStore) Get(ctx context.Context, name string) (images.Image, error) {
	resp, err := s.client.Get(ctx, &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return images.Image{}, errgrpc.ToNative(err)
	}
	return imageOf(resp.GetImage()), nil
}

func (s imageStore) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	resp, err := s.client.List(ctx, &imagesapi.ListImagesRequest{Filters: filters})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	var list []images.Image
	for _, img := range resp.GetImages() {
		list = append(list, imageOf(img))
	}
	return list, nil
}

func (s imageStore) Create(ctx context.Context, img images.Image) (images.Image, error) {
	resp, err := s.client.Create(ctx, &imagesapi.CreateImageRequest{Image: protoImage(img), SourceDateEpoch: epochOf(ctx)})
	if err != nil {
		return images.Image{}, errgrpc.ToNative(err)
	}
	return imageOf(resp.GetImage()), nil
}

func (s imageStore) Update(ctx context.Context, img images.Image, fieldpaths ...string) (images.Image, error) {
	resp, err := s.client.Update(ctx, &imagesapi.UpdateImageRequest{
		Image: protoImage(img), UpdateMask: mask(fieldpaths), SourceDateEpoch: epochOf(ctx)})
	if err != nil {
		return images.Image{}, errgrpc.ToNative(err)
	}
	return imageOf(resp.GetImage()), nil
}

func (s imageStore) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	var o images.DeleteOptions
	for _, opt := range opts {
		if err := opt(ctx, &o); err != nil {
			return err
		}
	}
	req := &imagesapi.DeleteImageRequest{Name: name, Sync: o.Synchronous}
	if o.Target != nil {
		req.Target = protoDescriptor(*o.Target)
	}
	_, err := s.client.Delete(ctx, req)
	return errgrpc.ToNative(err)
}

// namespaceStore implements namespaces.Store.
type namespaceStore struct {
	client namespacesapi.NamespacesClient
}

var _ namespaces.Store = namespaceStore{}

func newNamespaceStore(conn *grpc.ClientConn) namespaceStore {
	return namespaceStore{namespacesapi.NewNamespacesClient(conn)}
}

func (s namespaceStore) Create(ctx context.Context, name string, labels map[string]string) error {
	_, err := s.client.Create(ctx, &namespacesapi.CreateNamespaceRequest{Namespace: &namespacesapi.Namespace{Name: name, Labels: labels}})
	return errgrpc.ToNative(err)
}

func (s namespaceStore) Labels(ctx context.Context, name string) (map[string]string, error) {
	resp, err := s.client.Get(ctx, &namespacesapi.GetNamespaceRequest{Name: name})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return resp.GetNamespace().GetLabels(), nil
}

func (s namespaceStore) SetLabel(ctx context.Context, name, key, value string) error {
	_, err := s.client.Update(ctx, &namespacesapi.UpdateNamespaceRequest{
		Namespace:  &namespacesapi.Namespace{Name: name, Labels: map[string]string{key: value}},
		UpdateMask: mask([]string{"labels." + key}),
	})
	return errgrpc.ToNative(err)
}

func (s namespaceStore) List(ctx context.Context) ([]string, error) {
	resp, err := s.client.List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	var names []string
	for _, ns := range resp.GetNamespaces() {
		names = append(names, ns.GetName())
	}
	return names, nil
}

func (s namespaceStore) Delete(ctx context.Context, name string, opts ...namespaces.DeleteOpts) error {
	info := namespaces.DeleteInfo{Name: name}
	for _, opt := range opts {
		if err := opt(ctx, &info); err != nil {
			return err
		}
	}
	_, err := s.client.Delete(ctx, &namespacesapi.DeleteNamespaceRequest{Name: name})
	return errgrpc.ToNative(err)
}

func protoContainer(c containers.Container) *containersapi.Container {
	m := &containersapi.Container{
		ID: c.ID, Labels: c.Labels, Image: c.Image,
		Runtime: &containersapi.Container_Runtime{Name: c.Runtime.Name, Options: protoAny(c.Runtime.Options)},
		Spec:    protoAny(c.Spec), Snapshotter: c.Snapshotter, SnapshotKey: c.SnapshotKey, Sandbox: c.SandboxID,
		CreatedAt: timestamp(c.CreatedAt), UpdatedAt: timestamp(c.UpdatedAt),
	}
	if len(c.Extensions) > 0 {
		m.Extensions = make(map[string]*anypb.Any, len(c.Extensions))
		for k, v := range c.Extensions {
			m.Extensions[k] = protoAny(v)
		}
	}
	return m
}

func containerOf(m *containersapi.Container) containers.Container {
	c := containers.Container{
		ID: m.GetID(), Labels: m.GetLabels(), Image: m.GetImage(),
		Runtime: containers.RuntimeInfo{Name: m.GetRuntime().GetName(), Options: anyOf(m.GetRuntime().GetOptions())},
		Spec:    anyOf(m.GetSpec()), Snapshotter: m.GetSnapshotter(), SnapshotKey: m.GetSnapshotKey(), SandboxID: m.GetSandbox(),
		CreatedAt: timeOf(m.GetCreatedAt()), UpdatedAt: timeOf(m.GetUpdatedAt()),
	}
	if len(m.GetExtensions()) > 0 {
		c.Extensions = make(map[string]typeurl.Any, len(m.GetExtensions()))
		for k, v := range m.GetExtensions() {
			c.Extensions[k] = anyOf(v)
		}
	}
	return c
}

func protoImage(img images.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name: img.Name, Labels: img.Labels, Target: protoDescriptor(img.Target),
		CreatedAt: timestamp(img.CreatedAt), UpdatedAt: timestamp(img.UpdatedAt),
	}
}

func imageOf(m *imagesapi.Image) images.Image {
	d := m.GetTarget()
	return images.Image{
		Name: m.GetName(), Labels: m.GetLabels(),
		Target: ocispec.Descriptor{
			MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations(),
		},
		CreatedAt: timeOf(m.GetCreatedAt()), UpdatedAt: timeOf(m.GetUpdatedAt()),
	}
}

func protoDescriptor(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

// epochOf returns the time that reproducible builds want, nil for none.
func epochOf(ctx context.Context) *timestamppb.Timestamp {
	if t := epoch.FromContext(ctx); t != nil {
		return timestamppb.New(*t)
	}
	return nil
}

// mask returns nil, which means all fields, for no paths.
func mask(paths []string) *fieldmaskpb.FieldMask {
	if len(paths) == 0 {
		return nil
	}
	return &fieldmaskpb.FieldMask{Paths: paths}
}

// timestamp returns nil for the zero time, so that it comes back as zero.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}

// anyOf returns a nil interface for nil, not one that holds a nil pointer.
func anyOf(a *anypb.Any) typeurl.Any {
	if a == nil {
		return nil
	}
	return a
}

func protoAny(a typeurl.Any) *anypb.Any {
	if a == nil {
		return nil
	}
	return typeurl.MarshalProto(a)
}
