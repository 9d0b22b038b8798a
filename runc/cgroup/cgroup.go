package cgroup

import (
	"context"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Manager owns the control groups of one container: one directory per mounted
// hierarchy on v1, one directory in all on v2.
//
// Directories are found by path at every call and nothing is kept open between
// calls, so a Manager needs no Close and the one that Load makes from stored
// paths is as good as the one that created them. Its methods may be called from
// several goroutines; concurrent calls of Set are the caller's to order.
//
// Every method that works on the group of a container whose directories are
// gone returns an error of class NotFound, except Destroy, Kill and Pids, for
// which "no group" is the wanted state.
type Manager interface {
	// Create makes the directories (and missing parents) and applies res, which
	// may be nil. An existing directory is used if it is empty and not frozen
	// and refused with FailedPrecondition otherwise. If Create fails it has
	// removed the directories it made.
	//
	// Devices start from deny-all, then come res.Devices in order, then the
	// default devices of the runtime specification (config-linux.md), which
	// every container has.
	//
	// PermissionDenied means that this process may not make control groups
	// there; a rootless caller that asked for no limits can go on without.
	Create(res *specs.LinuxResources) error

	// Add moves the process (all its threads) into the group.
	Add(pid int) error

	// Set applies the fields of res that are present, and leaves the others as
	// they are. The device list is the exception: if res.Devices is not nil it
	// replaces the whole list, without a moment in which an allowed device is
	// refused. If Set fails, what came before the failure stays set.
	Set(res *specs.LinuxResources) error

	// Fd opens the group's directory, for clone3 with CLONE_INTO_CGROUP. The
	// caller closes it. It returns errors.ErrUnsupported on v1 and hybrid,
	// where a process is in several hierarchies: use Add there.
	Fd() (*os.File, error)

	// Paths returns the directory of each controller ("memory", "name=systemd");
	// on v2 there is one, under the key "". It is what Load takes. Controllers
	// that share a hierarchy share a directory. The map is the caller's.
	Paths() map[string]string

	// Pids returns the processes of the group and of the groups below it, as
	// seen from this process's pid namespace.
	Pids() ([]int, error)

	// Freeze stops (true) or continues (false) all processes of the group and
	// returns when the kernel says that it is done. If ctx ends first, a freeze
	// is taken back.
	Freeze(ctx context.Context, frozen bool) error

	// Frozen reports whether the group is frozen or about to be.
	Frozen() (bool, error)

	// Kill sends SIGKILL to every process of the group and the groups below it,
	// those that are being forked included. It does not wait for their end.
	Kill(ctx context.Context) error

	// Destroy removes the group and the groups below it. It is idempotent. The
	// processes must be dead or dying: removal is retried while the kernel says
	// EBUSY, for at most destroyTimeout.
	Destroy(ctx context.Context) error

	// Stats reads the group's counters. Those of controllers that the host does
	// not have are zero.
	Stats() (*Stats, error)
}

// Mode is the arrangement of control groups on this host.
type Mode int

const (
	// V1 is a hierarchy per controller (or a few).
	V1 Mode = iota + 1
	// Hybrid is V1 with a v2 hierarchy, which has no controllers, beside it.
	Hybrid
	// V2 is the unified hierarchy.
	V2
)

// String returns "v1", "hybrid" or "v2".
func (m Mode) String() string {
	switch m {
	case V1:
		return "v1"
	case Hybrid:
		return "hybrid"
	case V2:
		return "v2"
	}
	return "unknown"
}
