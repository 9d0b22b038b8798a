package metadata

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentsuite "github.com/containerd/containerd/v2/core/content/testsuite"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsuite "github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	localcontent "lighter/containerd/content"
	"lighter/containerd/snapshot"
)

func TestUpstreamContentSuite(t *testing.T) {
	shared, isolated := contentStoreFn(t, false), contentStoreFn(t, true)
	contentsuite.ContentSuite(t, "metadata", shared)
	contentsuite.ContentCrossNSSharedSuite(t, "metadata", shared)
	contentsuite.ContentCrossNSIsolatedSuite(t, "metadata", isolated)
	contentsuite.ContentSharedNSIsolatedSuite(t, "metadata", isolated)
}

func contentStoreFn(t *testing.T, isolated bool) contentsuite.StoreInitFn {
	return func(ctx context.Context, root string) (context.Context, content.Store, func() error, error) {
		blobs, err := localcontent.Open(filepath.Join(root, "content"), nil)
		if err != nil {
			return nil, nil, nil, err
		}
		db, err := Open(ctx, Config{Path: filepath.Join(root, "meta.db"), Blobs: blobs, Isolated: isolated, Log: testLog(t), GCDelay: never})
		if err != nil {
			return nil, nil, nil, err
		}
		n := 0
		ctx = contentsuite.SetContextWrapper(ctx, func(ctx context.Context, sharedNS bool) (context.Context, func(context.Context) error, error) {
			n++
			ns := "ns" + string(rune('a'+n))
			if sharedNS {
				if err := db.Namespaces().SetLabel(ctx, ns, labels.LabelSharedNamespace, "true"); err != nil {
					return nil, nil, err
				}
			}
			// A lease keeps what the suite writes without labels.
			return leased(namespaces.WithNamespace(ctx, ns), db), func(context.Context) error { return nil }, nil
		})
		return ctx, db.Content(), db.Close, nil
	}
}

func TestUpstreamSnapshotSuite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for name, open := range map[string]func(root string) (snapshot.Driver, error){
		"overlayfs": func(root string) (snapshot.Driver, error) {
			return snapshot.OpenOverlay(root, snapshot.OverlayOptions{})
		},
		"native": func(root string) (snapshot.Driver, error) { return snapshot.OpenNative(root) },
	} {
		t.Run(name, func(t *testing.T) {
			snapshotsuite.SnapshotterSuite(t, name, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				d, err := open(root)
				if err != nil {
					return nil, nil, err
				}
				blobs, err := localcontent.Open(filepath.Join(root, "content"), nil)
				if err != nil {
					return nil, nil, err
				}
				db, err := Open(ctx, Config{
					Path: filepath.Join(root, "meta.db"), Blobs: blobs, Snapshotters: map[string]snapshot.Driver{name: d}, Log: testLog(t),
				})
				if err != nil {
					return nil, nil, err
				}
				return db.Snapshotter(name), func() error {
					if err := db.Close(); err != nil {
						return err
					}
					return d.Close()
				}, nil
			})
		})
	}
}
