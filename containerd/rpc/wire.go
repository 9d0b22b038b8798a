package rpc

import (
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

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

func mountsOf(ms []*types.Mount) []mount.Mount {
	out := make([]mount.Mount, len(ms))
	for i, m := range ms {
		out[i] = mount.Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()}
	}
	return out
}

func protoMounts(ms []mount.Mount) []*types.Mount {
	out := make([]*types.Mount, len(ms))
	for i, m := range ms {
		out[i] = &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}

// descriptorOf checks the digest: it comes from outside and names files.
func descriptorOf(d *types.Descriptor) (ocispec.Descriptor, error) {
	out := ocispec.Descriptor{
		MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations(),
	}
	if out.Digest != "" {
		if err := out.Digest.Validate(); err != nil {
			return out, invalid("descriptor: digest %q: %w", d.GetDigest(), err)
		}
	}
	return out, nil
}

func protoDescriptor(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func digestOf(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", invalid("digest %q: %w", s, err)
	}
	return d, nil
}
