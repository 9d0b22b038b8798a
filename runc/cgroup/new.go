package cgroup

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

var errLater = fmt.Errorf("control groups: %w", errors.Join(errors.ErrUnsupported, errdefs.ErrNotImplemented))

// New returns the Manager of the container id, whose groups are at cgroupsPath
// (see the package comment). It makes nothing.
func New(cgroupsPath, id string) (Manager, error) { return nil, errLater }

// Load returns the Manager for paths, which came from Manager.Paths.
func Load(paths map[string]string) (Manager, error) { return nil, errLater }

// HostMode looks at /sys/fs/cgroup and says how this host arranges its groups.
func HostMode() Mode { return Hybrid }

// WatchOOM reports that the kernel had to kill for want of memory in the group
// at paths. A value is sent for each notification; notifications that arrive
// while one is waiting are merged with it. The channel is closed when the group
// is removed or ctx ends.
func WatchOOM(ctx context.Context, paths map[string]string) (<-chan struct{}, error) {
	return nil, errLater
}
