package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/containerd/snapshot"
)

// LabelUncompressed holds the diff ID of a layer blob.
const LabelUncompressed = "containerd.io/uncompressed"

// LabelSnapshotRef prefixes the label by which a config keeps its snapshot;
// the snapshotter's name follows.
const LabelSnapshotRef = "containerd.io/gc.ref.snapshot."

// Unpack makes the snapshots of the manifest desc, whose content must be in the
// store, and returns the chain ID of the last one, "" for an image without
// layers. Snapshots that exist are kept.
func Unpack(ctx context.Context, svc *containerd.Services, desc ocispec.Descriptor, snapshotter string, progress Progress) (digest.Digest, error) {
	ctx, release, err := WithLease(ctx, svc)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", desc.Digest, err)
	}
	chain, err := unpackStored(ctx, svc, desc, snapshotter, serial(progress))
	if err != nil {
		err = fmt.Errorf("unpack %s: %w", desc.Digest, err)
	}
	return chain, errors.Join(err, release())
}

func unpackStored(ctx context.Context, svc *containerd.Services, desc ocispec.Descriptor, snapshotter string, progress Progress) (digest.Digest, error) {
	doc, err := ReadDocument(ctx, svc.Content, desc)
	if err != nil {
		return "", err
	}
	if doc.Manifest == nil {
		return "", invalid("%s is not a manifest", desc.Digest)
	}
	var cfg ocispec.Image
	if err := ReadConfig(ctx, svc.Content, doc.Manifest.Config, &cfg); err != nil {
		return "", err
	}
	if err := checkConfig(cfg, *doc.Manifest); err != nil {
		return "", err
	}
	u := unpacker{svc: svc, name: snapshotter, progress: progress}
	return u.layers(ctx, *doc.Manifest, cfg.RootFS.DiffIDs, storedLayers{svc.Content, doc.Manifest.Layers})
}

// storedLayers are layers that are all in the store.
type storedLayers struct {
	store  content.Provider
	layers []ocispec.Descriptor
}

func (s storedLayers) open(ctx context.Context, i int) (io.ReadCloser, error) {
	ra, err := s.store.ReaderAt(ctx, s.layers[i])
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(ra), ra}, nil
}

func (storedLayers) stored(context.Context, int) error { return nil }

type unpacker struct {
	svc      *containerd.Services
	name     string // of the snapshotter
	progress Progress
}

// layers unpacks the layers of m, all at once where diff service and snapshotter
// can do that, brings them to the disk, and has the config keep the last snapshot.
func (u *unpacker) layers(ctx context.Context, m ocispec.Manifest, diffIDs []digest.Digest, src layerSource) (digest.Digest, error) {
	if u.name == "" {
		u.name = containerd.DefaultSnapshotter
	}
	sn := u.svc.Snapshotter(u.name)
	if sn == nil {
		return "", fmt.Errorf("snapshotter %q: %w", u.name, errdefs.ErrNotFound)
	}
	chains := identity.ChainIDs(append([]digest.Digest(nil), diffIDs...))
	have, err := u.existing(ctx, sn, chains)
	if err != nil {
		return "", err
	}
	parent := digest.Digest("")
	for i, layer := range m.Layers[:have] {
		u.progress(Event{Phase: Done, Desc: layer})
		parent = chains[i]
	}
	stream, ok := u.svc.Diff.(containerd.StreamDiff)
	if ok = ok && len(snapshot.Stacked(sn)) > 0; ok && have < len(m.Layers) {
		s := &stack{u: u, sn: sn, diff: stream, src: src, base: parent}
		for i := have; i < len(m.Layers); i++ {
			s.layers = append(s.layers, &stackLayer{
				index: i, desc: m.Layers[i], diffID: diffIDs[i], chain: chains[i],
				extracted: make(chan struct{}), committed: make(chan struct{}),
			})
		}
		if err := s.run(ctx); err != nil {
			return "", err
		}
		parent = chains[len(chains)-1]
	}
	for i := have; i < len(m.Layers) && !ok; i++ {
		if err := src.stored(ctx, i); err != nil {
			return "", err
		}
		if err := u.layer(ctx, sn, m.Layers[i], diffIDs[i], parent, chains[i]); err != nil {
			return "", fmt.Errorf("unpack layer %s: %w", m.Layers[i].Digest, err)
		}
		u.progress(Event{Phase: Done, Desc: m.Layers[i]})
		parent = chains[i]
	}
	// Also when nothing was made: another unpacker may not have synced yet.
	if err := snapshot.Sync(ctx, sn); err != nil {
		return "", fmt.Errorf("sync snapshots: %w", err)
	}
	if parent != "" {
		labels := map[string]string{LabelSnapshotRef + u.name: parent.String()}
		if err := addLabels(ctx, u.svc.Content, m.Config, labels); err != nil {
			return "", err
		}
	}
	return parent, nil
}

// existing returns how many of the chains have snapshots, and puts the last of
// those, which keeps its parents, under the lease: without that the collector
// could take it while the next layer is prepared.
func (u *unpacker) existing(ctx context.Context, sn snapshots.Snapshotter, chains []digest.Digest) (int, error) {
	for n := len(chains); n > 0; n-- {
		chain := chains[n-1].String()
		_, err := sn.Stat(ctx, chain)
		if err == nil {
			if id, ok := leases.FromContext(ctx); ok {
				resource := leases.Resource{ID: chain, Type: "snapshots/" + u.name}
				if err := u.svc.Leases.AddResource(ctx, leases.Lease{ID: id}, resource); err != nil {
					return 0, fmt.Errorf("lease snapshot %q: %w", chain, err)
				}
			}
			_, err = sn.Stat(ctx, chain) // it may have gone in between
		}
		if err == nil {
			return n, nil
		}
		if !errdefs.IsNotFound(err) {
			return 0, fmt.Errorf("stat snapshot %q: %w", chain, err)
		}
	}
	return 0, nil
}

// layer makes the snapshot chain on parent from layer. Another unpacker may do
// the same at the same time: the first to commit wins, both succeed.
func (u *unpacker) layer(ctx context.Context, sn snapshots.Snapshotter, layer ocispec.Descriptor, diffID, parent, chain digest.Digest) (err error) {
	key := fmt.Sprintf("%s-%s %s", snapshots.UnpackKeyPrefix, uniqueID(), chain)
	mounts, err := sn.Prepare(ctx, key, parent.String(), snapshot.Deferred(sn)...)
	if err != nil {
		if errdefs.IsAlreadyExists(err) { // a remote snapshotter has it
			_, err = sn.Stat(ctx, chain.String())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.drop(ctx, sn, key))
		}
	}()
	u.progress(Event{Phase: Extracting, Desc: layer, Total: layer.Size})
	progress := diff.WithProgress(func(d ocispec.Descriptor, n int64) {
		u.progress(Event{Phase: Extracting, Desc: layer, Current: n, Total: layer.Size})
	})
	plain, err := u.svc.Diff.Apply(ctx, layer, mounts, progress)
	if err != nil {
		return err
	}
	if plain.Digest != diffID {
		return invalid("layer unpacks to %s, the config says %s", plain.Digest, diffID)
	}
	if err := addLabels(ctx, u.svc.Content, layer, map[string]string{LabelUncompressed: diffID.String()}); err != nil {
		return err
	}
	if err := sn.Commit(ctx, chain.String(), key, snapshot.Deferred(sn)...); err != nil {
		if !errdefs.IsAlreadyExists(err) {
			return err
		}
		return u.drop(ctx, sn, key)
	}
	return nil
}

// drop removes an active snapshot, also after ctx has ended.
func (u *unpacker) drop(ctx context.Context, sn snapshots.Snapshotter, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := sn.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	return nil
}

// WriteJSONBlob stores the document b of the given type under labels and
// returns its descriptor.
func WriteJSONBlob(ctx context.Context, store content.Store, mediaType string, b []byte, labels map[string]string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, writeSmall(ctx, store, desc, b, labels)
}
