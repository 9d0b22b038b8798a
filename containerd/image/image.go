// Package image moves images between registries, archives, the content store
// and snapshots. It works on containerd.Services, in the process or over gRPC.
//
// A pull is one pass: manifests are read and verified, then the layers are
// fetched in parallel, resuming what an earlier attempt left, and unpacked in
// order while later ones still arrive. Snapshots are named by chain ID. All of
// it happens under a lease, so that the garbage collector takes nothing before
// the image record refers to it:
//
//	record -> index -> manifest -> config -> snapshot (gc.ref.snapshot)
//	                            -> layers
//
// The record is written last, when all that it needs is there: an image that is
// listed is whole.
package image

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
)

// Phase is a step of a blob's or image's way.
type Phase string

// The phases, in order of appearance.
const (
	Resolved    Phase = "resolved"    // the reference names Desc
	Selected    Phase = "selected"    // the manifest Desc is what the platform needs
	Waiting     Phase = "waiting"     // layer Desc is to be fetched
	Exists      Phase = "exists"      // blob Desc was there before
	Downloading Phase = "downloading" // Current of Total bytes
	Downloaded  Phase = "downloaded"
	Extracting  Phase = "extracting" // Current of Total compressed bytes
	Done        Phase = "done"       // layer Desc is unpacked
	Uploading   Phase = "uploading"
	Pushed      Phase = "pushed"
	Mounted     Phase = "mounted" // from the repository From
)

// Event reports progress.
type Event struct {
	Phase          Phase
	Desc           ocispec.Descriptor
	Current, Total int64
	From           string
}

// Progress receives events, one at a time.
type Progress func(Event)

// serial makes p safe for concurrent use; nil becomes a no-op.
func serial(p Progress) Progress {
	if p == nil {
		return func(Event) {}
	}
	var mu sync.Mutex // guards calls of p
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		p(e)
	}
}

// leaseTime is how long an operation's lease lasts if the process dies.
const leaseTime = 24 * time.Hour

// cleanupTime bounds what is undone after ctx has ended.
const cleanupTime = 30 * time.Second

// WithLease returns ctx under a lease that holds what is created with it.
// Release ends the lease; it works after ctx has ended. A ctx that is under a
// lease already is returned as it is. If the process dies, what the lease holds is
// garbage at the next Abandon.
func WithLease(ctx context.Context, svc *containerd.Services) (_ context.Context, release func() error, err error) {
	return withLease(ctx, svc, leases.WithLabel(labelOperation, "true"))
}

// labelOperation marks leases whose operation nobody goes on with.
const labelOperation = "lighter/operation"

// Abandon ends the leases of operations that a killed process was at. The leases
// of pulls stay for their time: the next pull goes on with what they hold.
func Abandon(ctx context.Context, svc *containerd.Services) error {
	stale, err := svc.Leases.List(ctx, fmt.Sprintf("labels.%q==true", labelOperation))
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, lease := range stale {
		if err := svc.Leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("release lease: %w", err)
		}
	}
	return nil
}

func withLease(ctx context.Context, svc *containerd.Services, opts ...leases.Opt) (_ context.Context, release func() error, err error) {
	if _, ok := leases.FromContext(ctx); ok {
		return ctx, func() error { return nil }, nil
	}
	lease, err := svc.Leases.Create(ctx, append(opts, leases.WithRandomID(), leases.WithExpiration(leaseTime))...)
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	release = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if err := svc.Leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("release lease: %w", err)
		}
		return nil
	}
	return leases.WithLease(ctx, lease.ID), release, nil
}

// Record creates the image record img, or points an existing one to its target.
func Record(ctx context.Context, svc *containerd.Services, img images.Image) (images.Image, error) {
	for {
		created, err := svc.Images.Create(ctx, img)
		if err == nil {
			return created, nil
		}
		if !errdefs.IsAlreadyExists(err) {
			return images.Image{}, fmt.Errorf("create image %q: %w", img.Name, err)
		}
		fields := []string{"target"}
		for k := range img.Labels {
			fields = append(fields, "labels."+k)
		}
		updated, err := svc.Images.Update(ctx, img, fields...)
		if err == nil {
			return updated, nil
		}
		if !errdefs.IsNotFound(err) { // else it was deleted meanwhile
			return images.Image{}, fmt.Errorf("update image %q: %w", img.Name, err)
		}
	}
}

// invalid returns an InvalidArgument error about an image from outside.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

// checkDescriptor validates what a document from outside says of a blob.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return invalid("digest %.80q: %w", d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 && d.Digest.Algorithm() != digest.SHA512 {
		return invalid("digest %.80q: algorithm is not supported", d.Digest)
	}
	if d.Size < 0 {
		return invalid("blob %s has the size %d", d.Digest, d.Size)
	}
	return nil
}

func uniqueID() string { return rand.Text() }

// joinLabels returns a map with the entries of all maps, later ones winning.
func joinLabels(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}
