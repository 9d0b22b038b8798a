package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"lighter/containerd"
	"lighter/containerd/snapshot"
)

// layerSource is where the layers of an image come from.
type layerSource interface {
	// open returns the bytes of layer i, which may still be arriving. Reading ends
	// with errAnew if it has to be opened again.
	open(ctx context.Context, i int) (io.ReadCloser, error)
	// stored waits until layer i is in the store, verified.
	stored(ctx context.Context, i int) error
}

// stack unpacks the layers of an image at the same time. Each is extracted into
// a snapshot without a parent; they are committed from the bottom to the top, each
// naming its parent. A layer that depends on those below (a directory that it does
// not describe, a hard link to one of their files) waits for them at that point.
//
// Only extracting takes a slot, and slots are taken from the bottom to the top, by
// layers that do not wait for another: so the lowest unfinished one always goes on.
type stack struct {
	u      *unpacker
	sn     snapshots.Snapshotter
	diff   containerd.StreamDiff
	src    layerSource
	base   digest.Digest // committed snapshot below layers[0], ""
	layers []*stackLayer
	slots  chan struct{} // one value per layer that is being extracted

	mu       sync.Mutex // guards the fields below
	baseView []mount.Mount
	drop     []string // keys of snapshots to remove in the end
}

type stackLayer struct {
	index     int // in the manifest
	desc      ocispec.Descriptor
	diffID    digest.Digest
	chain     digest.Digest
	key       string
	mounts    []mount.Mount // set before extracted is closed
	extracted chan struct{} // closed when the files are complete
	committed chan struct{} // closed when the snapshot chain exists
}

// run makes all snapshots. Its files are not synced.
func (s *stack) run(ctx context.Context) (err error) {
	s.slots = make(chan struct{}, min(max(runtime.GOMAXPROCS(0)+1, 2), 4))
	defer func() {
		for _, key := range s.drop {
			err = errors.Join(err, s.u.drop(ctx, s.sn, key))
		}
	}()
	group, gctx := errgroup.WithContext(ctx)
	for n, l := range s.layers {
		if s.enter(gctx) != nil {
			break // the group knows why, or the caller
		}
		group.Go(func() error {
			if err := s.layer(gctx, n); err != nil {
				return fmt.Errorf("unpack layer %s: %w", l.desc.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (s *stack) enter(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stack) leave() { <-s.slots }

// layer makes the snapshot of layers[n]. It gives up the slot that its caller took.
func (s *stack) layer(ctx context.Context, n int) error {
	l := s.layers[n]
	err := s.extract(ctx, n)
	if errors.Is(err, errAnew) {
		s.leave()
		err = s.src.stored(ctx, l.index)
		if eerr := s.enter(context.WithoutCancel(ctx)); err == nil && eerr == nil {
			err = s.extract(ctx, n)
		}
	}
	s.leave()
	if err != nil {
		return err
	}
	close(l.extracted)
	if err := s.src.stored(ctx, l.index); err != nil {
		return err
	}
	if err := addLabels(ctx, s.u.svc.Content, l.desc, map[string]string{LabelUncompressed: l.diffID.String()}); err != nil {
		return err
	}
	parent := s.base
	if n > 0 {
		parent = s.layers[n-1].chain
		if err := wait(ctx, s.layers[n-1].committed); err != nil {
			return err
		}
	}
	opts := snapshot.Deferred(s.sn)
	if parent != "" {
		opts = append(opts, snapshots.WithParent(parent.String()))
	}
	err = s.sn.Commit(ctx, l.chain.String(), l.key, opts...)
	switch {
	case err == nil:
	case errdefs.IsAlreadyExists(err):
		// Another unpacker was first. The layers above may still look at our files.
		s.remove(l.key)
	default:
		s.remove(l.key)
		return err
	}
	close(l.committed)
	s.u.progress(Event{Phase: Done, Desc: l.desc})
	return nil
}

func (s *stack) remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop = append(s.drop, key)
}

// extract fills a new snapshot with layers[n] and checks what it was.
func (s *stack) extract(ctx context.Context, n int) (err error) {
	l := s.layers[n]
	r, err := s.src.open(ctx, l.index)
	if err != nil {
		return err
	}
	defer r.Close()
	key := fmt.Sprintf("%s-%s %s", snapshots.UnpackKeyPrefix, uniqueID(), l.chain)
	opts := append(snapshot.Stacked(s.sn), snapshot.Deferred(s.sn)...)
	mounts, err := s.sn.Prepare(ctx, key, "", mergeLabels(opts))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.remove(key)
		}
	}()
	o := containerd.StreamOptions{Progress: func(done int64) {
		s.u.progress(Event{Phase: Extracting, Desc: l.desc, Current: min(done, l.desc.Size), Total: l.desc.Size})
	}}
	if n > 0 || s.base != "" {
		o.Lower = func(ctx context.Context) ([]mount.Mount, error) { return s.lower(ctx, n) }
	}
	plain, err := s.diff.ApplyStream(ctx, l.desc, r, mounts, o)
	if err != nil {
		return err
	}
	if plain.Digest != l.diffID {
		return invalid("layer unpacks to %s, the config says %s", plain.Digest, l.diffID)
	}
	l.key, l.mounts = key, mounts
	return nil
}

// mergeLabels makes one option of several that each set labels.
func mergeLabels(opts []snapshots.Opt) snapshots.Opt {
	return func(info *snapshots.Info) error {
		labels := map[string]string{}
		for _, opt := range opts {
			var one snapshots.Info
			if err := opt(&one); err != nil {
				return err
			}
			labels = joinLabels(labels, one.Labels)
		}
		info.Labels = joinLabels(info.Labels, labels)
		return nil
	}
}

// lower waits until all layers below layers[n] are extracted and returns their
// mounts, the topmost first. The caller's slot is free meanwhile.
func (s *stack) lower(ctx context.Context, n int) ([]mount.Mount, error) {
	s.leave()
	mounts, err := s.waitLower(ctx, n)
	if eerr := s.enter(context.WithoutCancel(ctx)); eerr != nil { // the caller leaves
		err = errors.Join(err, eerr)
	}
	return mounts, err
}

func (s *stack) waitLower(ctx context.Context, n int) ([]mount.Mount, error) {
	var mounts []mount.Mount
	for i := n - 1; i >= 0; i-- {
		if err := wait(ctx, s.layers[i].extracted); err != nil {
			return nil, err
		}
		mounts = append(mounts, s.layers[i].mounts...)
	}
	if s.base == "" {
		return mounts, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.baseView == nil {
		key := fmt.Sprintf("%s-%s lower", snapshots.UnpackKeyPrefix, uniqueID())
		view, err := s.sn.View(ctx, key, s.base.String(), snapshot.Deferred(s.sn)...)
		if err != nil {
			return nil, err
		}
		s.baseView, s.drop = view, append(s.drop, key)
	}
	return append(mounts, s.baseView...), nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
