package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/network"
	bkversion "github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/internal/buildlink"
)

// exporterMoby is the name by which Docker's clients ask for an image in the
// engine's store.
const exporterMoby = "moby"

// labelHostGateway tells clients what "host-gateway" is in extra hosts.
const labelHostGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// worker is BuildKit's worker with the engine's image store behind its exporters.
type worker struct{ *base.Worker }

// Exporter implements worker.Worker.
func (w worker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	switch name {
	case exporterMoby, client.ExporterImage:
		image, err := w.Worker.Exporter(client.ExporterImage, sm)
		if err != nil {
			return nil, err
		}
		return storeExporter{image}, nil
	}
	return w.Worker.Exporter(name, sm)
}

// storeExporter puts an image into the engine's store. It gives an image without
// a name the name of dangling ones.
type storeExporter struct{ exporter.Exporter }

// Resolve implements exporter.Exporter.
func (e storeExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	all := map[string]string{
		string(exptypes.OptKeyDanglingPrefix):    danglingPrefix,
		string(exptypes.OptKeyDanglingEmptyOnly): "true",
	}
	for k, v := range attrs {
		all[k] = v
	}
	// The first run of the image unpacks it: most images of a build are never run
	// on the host that built them.
	delete(all, string(exptypes.OptKeyUnpack))
	return e.Exporter.Resolve(ctx, id, all)
}

// newWorker makes the worker on the engine's stores.
func newWorker(ctx context.Context, cfg buildlink.Config, svc *containerd.Services, h *host, hosts docker.RegistryHosts) (_ worker, err error) {
	root := filepath.Join(cfg.Root, "worker")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return worker{}, err
	}
	id, err := base.ID(root)
	if err != nil {
		return worker{}, fmt.Errorf("identify worker: %w", err)
	}
	snapshotter := svc.Snapshotter(cfg.Snapshotter)
	if snapshotter == nil {
		return worker{}, fmt.Errorf("containerd has no snapshotter %q", cfg.Snapshotter)
	}
	providers := map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: newBridge(h, cfg.State),
		pb.NetMode_HOST:  network.NewHostProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}
	monitor, err := resources.NewMonitor()
	if err != nil {
		return worker{}, fmt.Errorf("open resource monitor: %w", err)
	}
	executor, err := runcexecutor.New(runcexecutor.Opt{
		Root:                filepath.Join(cfg.State, "steps"),
		CommandCandidates:   []string{cfg.Runtime},
		DefaultCgroupParent: cfg.CgroupParent,
		DNS:                 &oci.DNSConfig{Nameservers: cfg.DNS, SearchDomains: cfg.DNSSearch, Options: cfg.DNSOptions},
		ResourceMonitor:     monitor,
	}, providers)
	if err != nil {
		return worker{}, fmt.Errorf("open executor: %w", err)
	}
	md, err := openMetadata(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return worker{}, err
	}
	lm := leaseutil.WithNamespace(svc.Leases, cfg.Namespace)
	opt := base.WorkerOpt{
		ID:   id,
		Root: root,
		Labels: map[string]string{
			label.Executor:            "oci",
			label.Snapshotter:         cfg.Snapshotter,
			label.Network:             "bridge",
			label.ContainerdNamespace: cfg.Namespace,
			labelHostGateway:          firstOf(cfg.HostGateway),
		},
		Platforms:        append([]ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())}, archutil.SupportedPlatforms(true)...),
		GCPolicy:         gcPolicy(cfg.GC, root),
		BuildkitVersion:  client.BuildkitVersion{Package: bkversion.Package, Version: bkversion.Version, Revision: bkversion.Revision},
		NetworkProviders: providers,
		Executor:         executor,
		Snapshotter:      containerdsnapshot.NewSnapshotter(cfg.Snapshotter, snapshotter, cfg.Namespace, nil),
		ContentStore:     containerdsnapshot.NewContentStore(svc.Content, cfg.Namespace),
		Applier:          namespacedDiff{svc.Diff, cfg.Namespace},
		Differ:           namespacedDiff{svc.Diff, cfg.Namespace},
		ImageStore:       &imageStore{store: svc.Images, namespace: cfg.Namespace, host: h},
		RegistryHosts:    hosts,
		LeaseManager:     lm,
		GarbageCollect: func(ctx context.Context) (gc.Stats, error) {
			l, err := lm.Create(ctx)
			if err != nil {
				return nil, err
			}
			return nil, lm.Delete(ctx, leases.Lease{ID: l.ID}, leases.SynchronousDelete)
		},
		MetadataStore:   md,
		ResourceMonitor: monitor,
		MountPoolRoot:   filepath.Join(root, "cachemounts"),
	}
	opt.Platforms = uniquePlatforms(opt.Platforms)
	w, err := base.NewWorker(namespaces.WithNamespace(ctx, cfg.Namespace), opt)
	if err != nil {
		return worker{}, errors.Join(fmt.Errorf("open worker: %w", err), md.Close())
	}
	return worker{w}, nil
}

// openMetadata opens the metadata of the cache.
func openMetadata(path string) (*metadata.Store, error) {
	md, err := metadata.NewStore(path)
	if err != nil {
		return nil, fmt.Errorf("open cache metadata: %w", err)
	}
	return md, nil
}

// uniquePlatforms drops repetitions.
func uniquePlatforms(all []ocispec.Platform) []ocispec.Platform {
	seen := map[string]bool{}
	var unique []ocispec.Platform
	for _, p := range all {
		if name := platforms.FormatAll(p); !seen[name] {
			seen[name] = true
			unique = append(unique, p)
		}
	}
	return unique
}
