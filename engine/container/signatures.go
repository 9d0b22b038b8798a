package container

import (
	"context"
	"io"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

type Manager struct{}

func Open(ctx context.Context, deps Deps, cfg Config) (*Manager, error) { return &Manager{}, nil }

func (m *Manager) Close(ctx context.Context) error { return nil }

func (m *Manager) Create(ctx context.Context, opts CreateOptions) (api.CreateResponse, error) {
	return api.CreateResponse{}, errdefs.ErrNotImplemented
}
func (m *Manager) Inspect(ctx context.Context, ref string, size bool) (api.InspectResponse, error) {
	return api.InspectResponse{}, errdefs.ErrNotImplemented
}
func (m *Manager) List(ctx context.Context, opts ListOptions) ([]api.Summary, error) {
	return nil, errdefs.ErrNotImplemented
}
func (m *Manager) Start(ctx context.Context, ref string) (changed bool, err error) {
	return false, errdefs.ErrNotImplemented
}
func (m *Manager) Stop(ctx context.Context, ref string, opts StopOptions) (changed bool, err error) {
	return false, errdefs.ErrNotImplemented
}
func (m *Manager) Restart(ctx context.Context, ref string, opts StopOptions) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) Kill(ctx context.Context, ref, signal string) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) Pause(ctx context.Context, ref string) error   { return errdefs.ErrNotImplemented }
func (m *Manager) Unpause(ctx context.Context, ref string) error { return errdefs.ErrNotImplemented }
func (m *Manager) Rename(ctx context.Context, ref, newName string) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) Update(ctx context.Context, ref string, cfg api.UpdateConfig) (api.UpdateResponse, error) {
	return api.UpdateResponse{}, errdefs.ErrNotImplemented
}
func (m *Manager) Remove(ctx context.Context, ref string, opts RemoveOptions) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) Wait(ctx context.Context, ref string, condition api.WaitCondition) (<-chan WaitResult, error) {
	return nil, errdefs.ErrNotImplemented
}
func (m *Manager) Resize(ctx context.Context, ref string, height, width uint32) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) Attach(ctx context.Context, ref string, opts AttachOptions) (*AttachSession, error) {
	return nil, errdefs.ErrNotImplemented
}

// AttachSession is one client's connection to the streams of a process.
type AttachSession struct {
	TTY bool // raw bytes; else stdcopy frames
}

func (s *AttachSession) Serve(ctx context.Context, client Client) error {
	return errdefs.ErrNotImplemented
}

// LogStream is the output of Logs. The caller closes it.
type LogStream struct {
	TTY bool // raw bytes; else stdcopy frames
}

func (s *LogStream) WriteTo(w io.Writer) (int64, error) { return 0, errdefs.ErrNotImplemented }
func (s *LogStream) Close() error                       { return nil }

func (m *Manager) Logs(ctx context.Context, ref string, opts LogsOptions) (*LogStream, error) {
	return nil, errdefs.ErrNotImplemented
}
func (m *Manager) ExecCreate(ctx context.Context, ref string, req api.ExecCreateRequest) (id string, err error) {
	return "", errdefs.ErrNotImplemented
}
func (m *Manager) ExecStart(ctx context.Context, id string, opts ExecStartOptions) (*AttachSession, error) {
	return nil, errdefs.ErrNotImplemented
}
func (m *Manager) ExecInspect(ctx context.Context, id string) (api.ExecInspectResponse, error) {
	return api.ExecInspectResponse{}, errdefs.ErrNotImplemented
}
func (m *Manager) ExecResize(ctx context.Context, id string, height, width uint32) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) Top(ctx context.Context, ref, psArgs string) (api.TopResponse, error) {
	return api.TopResponse{}, errdefs.ErrNotImplemented
}
func (m *Manager) Stats(ctx context.Context, ref string) (api.StatsResponse, error) {
	return api.StatsResponse{}, errdefs.ErrNotImplemented
}
func (m *Manager) Changes(ctx context.Context, ref string) ([]api.FilesystemChange, error) {
	return nil, errdefs.ErrNotImplemented
}
func (m *Manager) Export(ctx context.Context, ref string, w io.Writer) error {
	return errdefs.ErrNotImplemented
}

// ArchiveStat, ArchiveGet and ArchivePut are docker cp.
func (m *Manager) ArchiveStat(ctx context.Context, ref, path string) (api.PathStat, error) {
	return api.PathStat{}, errdefs.ErrNotImplemented
}

// The tar stream must be closed.
func (m *Manager) ArchiveGet(ctx context.Context, ref, path string) (io.ReadCloser, api.PathStat, error) {
	return nil, api.PathStat{}, errdefs.ErrNotImplemented
}

// r is an uncompressed tar stream.
func (m *Manager) ArchivePut(ctx context.Context, ref, path string, r io.Reader, noOverwriteDirNonDir, copyUIDGID bool) error {
	return errdefs.ErrNotImplemented
}

// Source is what an image is committed from.
type Source struct {
	Snapshotter string
	SnapshotKey string // active snapshot; diff it against its parent
	ImageID     string // of the image that the container was created from
	Config      api.Config
}

// release thaws the container and must be called.
func (m *Manager) CommitSource(ctx context.Context, ref string, pause bool) (src *Source, release func(), err error) {
	return nil, nil, errdefs.ErrNotImplemented
}
func (m *Manager) Prune(ctx context.Context, opts PruneOptions) (api.PruneReport, error) {
	return api.PruneReport{}, errdefs.ErrNotImplemented
}

// ConnectNetwork and DisconnectNetwork change a container's networks, running or not.
func (m *Manager) ConnectNetwork(ctx context.Context, ref, networkRef string, settings *network.EndpointSettings) error {
	return errdefs.ErrNotImplemented
}
func (m *Manager) DisconnectNetwork(ctx context.Context, ref, networkRef string, force bool) error {
	return errdefs.ErrNotImplemented
}

// Count returns how many containers are in which state.
func (m *Manager) Count() Counts { return Counts{} }
