package server

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/checkpoint"
	containertypes "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	networktypes "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	volumetypes "github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/engine/container"
	"lighter/engine/image"
	enginesystem "lighter/engine/system"
	"lighter/internal/compression"
)

// Containers are the container and exec routes' needs; engine/container's
// Manager has them.
type Containers interface {
	Create(ctx context.Context, opts container.CreateOptions) (containertypes.CreateResponse, error)
	Inspect(ctx context.Context, ref string, size bool) (containertypes.InspectResponse, error)
	List(ctx context.Context, opts container.ListOptions) ([]containertypes.Summary, error)
	Start(ctx context.Context, ref string) (changed bool, err error)
	Stop(ctx context.Context, ref string, opts container.StopOptions) (changed bool, err error)
	Restart(ctx context.Context, ref string, opts container.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	Remove(ctx context.Context, ref string, opts container.RemoveOptions) error
	Wait(ctx context.Context, ref string, condition containertypes.WaitCondition) (<-chan container.WaitResult, error)
	Resize(ctx context.Context, ref string, height, width uint32) error
	Attach(ctx context.Context, ref string, opts container.AttachOptions) (*container.AttachSession, error)
	Logs(ctx context.Context, ref string, opts container.LogsOptions) (*container.LogStream, error)
	Top(ctx context.Context, ref, psArgs string) (containertypes.TopResponse, error)
	Stats(ctx context.Context, ref string) (containertypes.StatsResponse, error)
	Prune(ctx context.Context, opts container.PruneOptions) (containertypes.PruneReport, error)
	Commit(ctx context.Context, opts CommitOptions) (id string, err error)

	Reconfigure(ctx context.Context, ref string, change container.Reconfiguration) ([]string, error)
	Update(ctx context.Context, ref string, cfg containertypes.UpdateConfig) (containertypes.UpdateResponse, error)
	Changes(ctx context.Context, ref string) ([]containertypes.FilesystemChange, error)
	Export(ctx context.Context, ref string, w io.Writer) error
	ArchiveStat(ctx context.Context, ref, path string) (containertypes.PathStat, error)
	ArchiveGet(ctx context.Context, ref, path string) (io.ReadCloser, containertypes.PathStat, error)
	ArchivePut(ctx context.Context, ref, path string, archive io.Reader, noOverwriteDirNonDir, copyUIDGID bool) error
	ConnectNetwork(ctx context.Context, ref, network string, settings *networktypes.EndpointSettings) error
	DisconnectNetwork(ctx context.Context, ref, network string, force bool) error

	Checkpoints(ctx context.Context, ref, dir string) ([]checkpoint.Summary, error)
	CreateCheckpoint(ctx context.Context, ref string, req checkpoint.CreateRequest) error
	RemoveCheckpoint(ctx context.Context, ref, id, dir string) error
	StartFromCheckpoint(ctx context.Context, ref, id, dir string) error

	ExecCreate(ctx context.Context, ref string, req containertypes.ExecCreateRequest) (id string, err error)
	ExecStart(ctx context.Context, id string, opts container.ExecStartOptions) (*container.AttachSession, error)
	ExecInspect(ctx context.Context, id string) (containertypes.ExecInspectResponse, error)
	ExecResize(ctx context.Context, id string, height, width uint32) error
}

// CommitOptions are the inputs of Containers.Commit.
type CommitOptions struct {
	Container, Repo, Tag, Comment, Author string
	Pause                                 bool
	Changes                               []string
	Config                                *containertypes.Config
}

// Images are the image routes' needs; engine/image's Service has them.
type Images interface {
	List(ctx context.Context, opts image.ListOptions) ([]imagetypes.Summary, error)
	Inspect(ctx context.Context, ref string, opts image.InspectOptions) (imagetypes.InspectResponse, error)
	History(ctx context.Context, ref string, platform *ocispec.Platform) ([]imagetypes.HistoryResponseItem, error)
	Tag(ctx context.Context, source, repo, tag string) error
	Remove(ctx context.Context, ref string, opts image.RemoveOptions) ([]imagetypes.DeleteResponse, error)
	Pull(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out image.Progress) error
	Push(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out image.Progress) error
	Load(ctx context.Context, archive io.Reader, platforms []ocispec.Platform, quiet bool, out image.Progress) error
	Save(ctx context.Context, names []string, platforms []ocispec.Platform, w io.Writer) error
	Import(ctx context.Context, in image.ImportInput, out image.Progress) (id string, err error)
	Prune(ctx context.Context, filters image.Filters) (image.PruneReport, error)
	Login(ctx context.Context, auth registry.AuthConfig) (registry.AuthResponse, error)
	Search(ctx context.Context, term string, limit int, filters image.Filters, auth *registry.AuthConfig) ([]registry.SearchResult, error)
	Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (registry.DistributionInspect, error)
	Attestations(ctx context.Context, ref string, opts image.AttestationOptions) ([]imagetypes.AttestationStatement, error)
}

// Networks are the network routes' needs; engine/network's Manager has them.
type Networks interface {
	List(ctx context.Context, filters map[string]map[string]bool) ([]networktypes.Inspect, error)
	Inspect(ctx context.Context, ref string) (networktypes.Inspect, error)
	Create(ctx context.Context, req networktypes.CreateRequest) (networktypes.CreateResponse, error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, filters map[string]map[string]bool) (networktypes.PruneReport, error)
}

// Volumes are the volume routes' needs; engine/volume's Store has them.
type Volumes interface {
	List(ctx context.Context, filters map[string]map[string]bool) (volumetypes.ListResponse, error)
	Inspect(ctx context.Context, name string) (volumetypes.Volume, error)
	Create(ctx context.Context, req volumetypes.CreateRequest) (volumetypes.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	Prune(ctx context.Context, filters map[string]map[string]bool) (volumetypes.PruneReport, error)
	Rename(ctx context.Context, name, to string) error
	Clone(ctx context.Context, name, to string) (volumetypes.Volume, error)
	Import(ctx context.Context, name string, archive io.Reader) (volumetypes.Volume, error)
	Export(ctx context.Context, name string, w io.Writer, kind compression.Kind) error
}

// System describes the daemon.
type System interface {
	Info(ctx context.Context) (system.Info, error)
	Version(ctx context.Context) (system.VersionResponse, error)
	DiskUsage(ctx context.Context, of map[system.DiskUsageObject]bool) (enginesystem.DiskUsage, error)
}
