package snapshot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// mappedRoot returns the host's owner of uid and gid 0 by the mapping labels
// ("container:host:size[,...]"). ok is false without the labels.
func mappedRoot(labels map[string]string) (uid, gid int, ok bool, err error) {
	uids, hasUIDs := labels[snapshots.LabelSnapshotUIDMapping]
	gids, hasGIDs := labels[snapshots.LabelSnapshotGIDMapping]
	if !hasUIDs && !hasGIDs {
		return 0, 0, false, nil
	}
	if uid, err = hostRoot(uids); err != nil {
		return 0, 0, false, fmt.Errorf("label %q: %w", snapshots.LabelSnapshotUIDMapping, err)
	}
	if gid, err = hostRoot(gids); err != nil {
		return 0, 0, false, fmt.Errorf("label %q: %w", snapshots.LabelSnapshotGIDMapping, err)
	}
	return uid, gid, true, nil
}

func hostRoot(mapping string) (int, error) {
	for line := range strings.SplitSeq(mapping, ",") {
		fields := strings.Split(line, ":")
		if len(fields) != 3 {
			return 0, fmt.Errorf("mapping %q is not container:host:size: %w", line, errdefs.ErrInvalidArgument)
		}
		var n [3]uint64
		for i, f := range fields {
			var err error
			if n[i], err = strconv.ParseUint(f, 10, 32); err != nil {
				return 0, fmt.Errorf("mapping %q: %w: %w", line, err, errdefs.ErrInvalidArgument)
			}
		}
		if n[0] == 0 && n[2] > 0 {
			return int(n[1]), nil
		}
	}
	return 0, fmt.Errorf("mapping %q does not map 0: %w", mapping, errdefs.ErrInvalidArgument)
}

func owner(path string) (uid, gid int, err error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("stat %q: no owner: %w", path, errdefs.ErrInternal)
	}
	return int(st.Uid), int(st.Gid), nil
}
