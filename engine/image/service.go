// Package image is the engine's image noun: names, listings, pulls, archives
// and commits over the stores of containerd.
//
// An image is a containerd image record: a name that targets a manifest or an
// index. Its ID is the target's digest; several names may share one ID. An
// image that has lost its last tag but must stay is kept under a dangling name,
// "moby-dangling@sha256:...". Nothing else is stored: reads come from the
// records and from the content they refer to, of which configs and manifests
// (immutable, a few KiB) are cached by digest.
package image

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	cimage "lighter/containerd/image"
)

// Deps is what a Service is made of.
type Deps struct {
	Services    *containerd.Services
	Namespace   string // containerd namespace, "" means "moby"
	Snapshotter string // "" means containerd.DefaultSnapshotter
	Log         *slog.Logger
	Registry    RegistryConfig
	// MaxDownloads and MaxUploads bound the transfers of one pull or push; 0
	// means 3 and 5, Docker's defaults.
	MaxDownloads, MaxUploads int
	DownloadAttempts         int // as in Settings

	// Events receives an event of type "image" after each change; nil for none.
	// id is the image ID or the reference, as Docker has it for that action.
	Events func(action events.Action, id string, attrs map[string]string)
	// InUse returns the containers made from the image imageID or mounting it;
	// nil means that there are none. It must not call the Service.
	InUse func(imageID string) []ContainerRef
}

// ContainerRef names a container that uses an image.
type ContainerRef struct {
	ID      string
	Running bool
	// Image is the reference the container was created with.
	Image string
}

// RegistryConfig says how registries are reached.
type RegistryConfig struct {
	// Insecure are hosts ("reg:5000") and CIDRs that may speak plain HTTP or
	// show unverified certificates. 127.0.0.0/8 and ::1/128 always may.
	Insecure []string
	// Mirrors are base URLs that are asked before Docker Hub.
	Mirrors []string
	// CertsDir is searched for <host>/hosts.toml and <host>/*.crt; ""
	// means /etc/docker/certs.d.
	CertsDir string
	// UserAgent is sent with every request.
	UserAgent string
}

// Service implements the image operations of the Engine API. It is safe for
// concurrent use.
type Service struct {
	svc         *containerd.Services
	namespace   string
	snapshotter string
	log         *slog.Logger
	settings    atomic.Pointer[Settings]
	events      func(action events.Action, id string, attrs map[string]string)
	inUse       func(imageID string) []ContainerRef
	cache       *blobCache
	pulls       keyLock // by canonical reference and platform
	pruning     atomic.Bool
}

// New returns a Service over d.Services.
func New(d Deps) *Service {
	s := &Service{
		svc:         d.Services,
		namespace:   d.Namespace,
		snapshotter: d.Snapshotter,
		log:         d.Log,
		events:      d.Events,
		inUse:       d.InUse,
		cache:       newBlobCache(),
	}
	if s.namespace == "" {
		s.namespace = "moby"
	}
	if s.snapshotter == "" {
		s.snapshotter = containerd.DefaultSnapshotter
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.Reload(Settings{Registry: d.Registry, MaxDownloads: d.MaxDownloads, MaxUploads: d.MaxUploads, DownloadAttempts: d.DownloadAttempts})
	if s.events == nil {
		s.events = func(events.Action, string, map[string]string) {}
	}
	if s.inUse == nil {
		s.inUse = func(string) []ContainerRef { return nil }
	}
	return s
}

// Progress receives the messages of a long operation in order; it is never
// called concurrently. The edge writes them as a JSON stream.
type Progress func(jsonstream.Message)

// Image is an image resolved for one platform: what container creation needs.
type Image struct {
	ID       digest.Digest      // target of the record
	Name     string             // record that matched, "" when matched by ID and dangling
	Names    []string           // familiar names and tags of the ID
	Target   ocispec.Descriptor // index or manifest
	Manifest ocispec.Descriptor // manifest of the platform
	Config   dockerspec.DockerOCIImage
	Platform ocispec.Platform
	// ChainID is the committed snapshot to Prepare on, "" for an image without
	// layers. Unpacked says whether it exists; Unpack makes it.
	ChainID     digest.Digest
	Snapshotter string
	Unpacked    bool
	Labels      map[string]string
}

// CommitInput are the inputs of Commit.
type CommitInput struct {
	SnapshotKey string // active snapshot of the container
	Parent      string // image ID the container was made from, "" for none
	Config      dockerspec.DockerOCIImageConfig
	Changes     []string // Dockerfile instructions applied to Config
	Author      string
	Comment     string
	CreatedBy   string // command line for the history entry
	Platform    ocispec.Platform
	Ref         string // "repo[:tag]", "" for a dangling image
	ContainerID string
	// ContainerConfig is recorded with the image; it may be nil.
	Labels map[string]string // added to the image record
}

// ImportInput are the inputs of Import.
type ImportInput struct {
	Source   io.Reader // a tar, compressed or not
	URL      string    // where to fetch it, in place of Source
	Ref      string    // "repo[:tag]", "" for a dangling image
	Message  string
	Changes  []string
	Platform *ocispec.Platform // nil for the host's
}

// ctx returns ctx in the Service's containerd namespace.
func (s *Service) ctx(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.namespace)
}

func (s *Service) content() content.Store { return s.svc.Content }
func (s *Service) images() images.Store   { return s.svc.Images }

// now is the creation time given to new images.
func now() time.Time { return time.Now().UTC() }

// Abandon gives up what a killed engine was loading, committing or importing, so
// that its content is collected. Call it before the first operation.
func (s *Service) Abandon(ctx context.Context) error {
	return cimage.Abandon(s.ctx(ctx), s.svc)
}
