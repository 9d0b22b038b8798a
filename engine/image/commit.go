package image

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
	"lighter/internal/compression"
)

// emptyLayer is the digest of a tar without entries.
const emptyLayer = digest.Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")

// undoTime bounds what is undone after ctx has ended.
const undoTime = 30 * time.Second

// Commit makes an image of a container's snapshot and returns its ID. What the
// container has changed becomes a layer on those of Parent; without changes
// there is none. Commit point: the image record.
func (s *Service) Commit(ctx context.Context, in CommitInput) (string, error) {
	named, err := repoTag(in.Ref, "")
	if err != nil {
		return "", err
	}
	cfg, err := ApplyChanges(in.Config, in.Changes)
	if err != nil {
		return "", err
	}
	var id digest.Digest
	err = s.withLease(s.ctx(ctx), func(ctx context.Context) error {
		base := variant{}
		labels := map[string]string{}
		if in.Parent != "" {
			parent, err := s.find(ctx, in.Parent)
			if err != nil {
				return err
			}
			var platform *ocispec.Platform
			if in.Platform.OS != "" {
				platform = &in.Platform
			}
			if base, err = s.choose(ctx, parent, in.Parent, platform); err != nil {
				return err
			}
			labels[labelParent] = parent.Target.Digest.String()
		}
		for k, v := range in.Labels {
			labels[k] = v
		}
		layer, diffID, err := s.diff(ctx, in.SnapshotKey)
		if err != nil {
			return err
		}
		created := now()
		img := dockerspec.DockerOCIImage{Image: base.config.Image, Config: cfg}
		if img.OS == "" {
			img.Platform = in.Platform
		}
		if img.OS == "" {
			img.Platform = ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
		}
		img.Created = &created
		if in.Author != "" {
			img.Author = in.Author
		}
		layers := slices.Clone(base.manifest.Document.Layers)
		img.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: slices.Clone(base.config.RootFS.DiffIDs)}
		empty := diffID == emptyLayer
		if !empty {
			layers = append(layers, layer)
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, diffID)
		}
		img.History = append(slices.Clone(base.config.History), ocispec.History{
			Created: &created, CreatedBy: in.CreatedBy, Author: img.Author, Comment: in.Comment, EmptyLayer: empty,
		})
		target, err := s.assemble(ctx, img, layers)
		if err != nil {
			return err
		}
		if _, err := cimage.Unpack(ctx, s.svc, target, s.snapshotter, nil); err != nil {
			return err
		}
		id = target.Digest
		name := danglingName(id)
		if named != nil {
			name = named.String()
		}
		return s.record(ctx, images.Image{Name: name, Target: target, Labels: labels})
	})
	if err != nil {
		return "", fmt.Errorf("commit container %q: %w", in.ContainerID, err)
	}
	if named != nil {
		s.event(s.ctx(ctx), events.ActionTag, ocispec.Descriptor{Digest: id, MediaType: ocispec.MediaTypeImageManifest},
			id.String(), familiarName(images.Image{Name: named.String()}))
	}
	return id.String(), nil
}

// diff writes the layer of what the active snapshot key has changed.
func (s *Service) diff(ctx context.Context, key string) (ocispec.Descriptor, digest.Digest, error) {
	none := ocispec.Descriptor{}
	sn := s.svc.Snapshotter(s.snapshotter)
	if sn == nil {
		return none, "", fmt.Errorf("snapshotter %q: %w", s.snapshotter, errdefs.ErrNotFound)
	}
	info, err := sn.Stat(ctx, key)
	if err != nil {
		return none, "", err
	}
	upper, err := sn.Mounts(ctx, key)
	if err != nil {
		return none, "", err
	}
	var lower []mount.Mount
	if info.Parent != "" {
		view := "commit-" + rand.Text()
		if lower, err = sn.View(ctx, view, info.Parent); err != nil {
			return none, "", err
		}
		defer s.dropSnapshot(ctx, sn, view)
	}
	layer, err := s.svc.Diff.Compare(ctx, lower, upper)
	if err != nil {
		return none, "", err
	}
	blob, err := s.content().Info(ctx, layer.Digest)
	if err != nil {
		return none, "", err
	}
	diffID, err := digest.Parse(blob.Labels[cimage.LabelUncompressed])
	if err != nil {
		return none, "", fmt.Errorf("differ gave layer %s no diff ID: %w", layer.Digest, err)
	}
	return layer, diffID, nil
}

// dropSnapshot removes a snapshot, also after ctx has ended. A failure leaves it
// to the collector once the lease is gone.
func (s *Service) dropSnapshot(ctx context.Context, sn snapshots.Snapshotter, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := sn.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("cannot remove snapshot", "snapshot", key, "err", err)
	}
}

// assemble stores config and manifest of an image whose layers are stored.
func (s *Service) assemble(ctx context.Context, img dockerspec.DockerOCIImage, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	b, err := json.Marshal(img)
	if err != nil {
		return none, err
	}
	cfg, err := cimage.WriteJSONBlob(ctx, s.content(), ocispec.MediaTypeImageConfig, b, nil)
	if err != nil {
		return none, err
	}
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    cfg,
		Layers:    layers,
	}
	if b, err = json.Marshal(m); err != nil {
		return none, err
	}
	return cimage.WriteJSONBlob(ctx, s.content(), m.MediaType, b, cimage.Document{Manifest: &m}.GCLabels())
}

// Import makes an image of one layer from the file tree in an archive, and
// returns its ID, which is also the message that out receives.
func (s *Service) Import(ctx context.Context, in ImportInput, out Progress) (string, error) {
	named, err := repoTag(in.Ref, "")
	if err != nil {
		return "", err
	}
	cfg, err := ApplyChanges(dockerspec.DockerOCIImageConfig{}, in.Changes)
	if err != nil {
		return "", err
	}
	platform := platforms.DefaultSpec()
	platform.OSVersion = ""
	if in.Platform != nil {
		platform = *in.Platform
	}
	if in.URL != "" {
		resp, err := s.fetchImport(ctx, in.URL, out)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		in.Source = resp.Body
	}
	var target ocispec.Descriptor
	err = s.withLease(s.ctx(ctx), func(ctx context.Context) error {
		layer, err := s.storeLayer(ctx, in.Source)
		if err != nil {
			return err
		}
		diffID, err := s.unpackOne(ctx, layer)
		if err != nil {
			return err
		}
		created := now()
		img := dockerspec.DockerOCIImage{Config: cfg}
		img.Platform = platform
		img.Created = &created
		img.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}
		img.History = []ocispec.History{{Created: &created, Comment: in.Message}}
		if target, err = s.assemble(ctx, img, []ocispec.Descriptor{layer}); err != nil {
			return err
		}
		if _, err := cimage.Unpack(ctx, s.svc, target, s.snapshotter, nil); err != nil {
			return err
		}
		name := danglingName(target.Digest)
		if named != nil {
			name = named.String()
		}
		return s.record(ctx, images.Image{Name: name, Target: target})
	})
	if err != nil {
		return "", fmt.Errorf("import image: %w", err)
	}
	id := target.Digest.String()
	out(jsonstream.Message{Status: id})
	s.event(s.ctx(ctx), events.ActionImport, target, id, id)
	return id, nil
}

// storeLayer stores an archive as a layer blob: as it is when it comes with gzip
// or zstd, else compressed with gzip.
func (s *Service) storeLayer(ctx context.Context, r io.Reader) (_ ocispec.Descriptor, err error) {
	none := ocispec.Descriptor{}
	src, kind, err := compression.Peek(r)
	if err != nil {
		return none, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip}
	if kind == compression.Zstd {
		desc.MediaType = ocispec.MediaTypeImageLayerZstd
	}
	ref := "import-" + rand.Text()
	w, err := content.OpenWriter(ctx, s.content(), content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{MediaType: desc.MediaType}))
	if err != nil {
		return none, err
	}
	defer func() {
		w.Close()
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		if aerr := s.content().Abort(ctx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = errors.Join(err, aerr)
		}
	}()
	in := boundedReader{ctx: ctx, r: src}
	if kind == compression.Gzip || kind == compression.Zstd {
		_, err = io.CopyBuffer(onlyWriter{w}, in, make([]byte, 1<<20))
	} else {
		err = recompress(w, in)
	}
	if err != nil {
		return none, err
	}
	status, err := w.Status()
	if err != nil {
		return none, err
	}
	desc.Digest, desc.Size = w.Digest(), status.Offset
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return none, err
	}
	return desc, nil
}

func recompress(w io.Writer, r io.Reader) error {
	plain, _, err := compression.NewReader(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	zw, err := compression.NewWriter(w, compression.Gzip)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{zw}, plain, make([]byte, 1<<20)); err != nil {
		return errors.Join(err, zw.Close())
	}
	return zw.Close()
}

// onlyWriter hides ReadFrom, so that the given buffer is used.
type onlyWriter struct{ io.Writer }

// boundedReader ends a long read with its operation.
type boundedReader struct {
	ctx context.Context // of the operation
	r   io.Reader
}

func (b boundedReader) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	return b.r.Read(p)
}

// unpackOne makes the snapshot of a first layer, and returns its diff ID, which
// only unpacking it tells.
func (s *Service) unpackOne(ctx context.Context, layer ocispec.Descriptor) (_ digest.Digest, err error) {
	sn := s.svc.Snapshotter(s.snapshotter)
	if sn == nil {
		return "", fmt.Errorf("snapshotter %q: %w", s.snapshotter, errdefs.ErrNotFound)
	}
	key := fmt.Sprintf("%s-%s import", snapshots.UnpackKeyPrefix, rand.Text())
	mounts, err := sn.Prepare(ctx, key, "")
	if err != nil {
		return "", err
	}
	plain, err := s.svc.Diff.Apply(ctx, layer, mounts)
	if err == nil {
		err = sn.Commit(ctx, plain.Digest.String(), key)
	}
	if err != nil {
		s.dropSnapshot(ctx, sn, key)
		if !errdefs.IsAlreadyExists(err) {
			return "", err
		}
	}
	_, err = s.content().Update(ctx, content.Info{
		Digest: layer.Digest, Labels: map[string]string{cimage.LabelUncompressed: plain.Digest.String()},
	}, "labels."+cimage.LabelUncompressed)
	return plain.Digest, err
}
