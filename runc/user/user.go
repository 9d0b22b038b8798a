// Package user looks up users and groups in the passwd and group files of a
// container's root file system.
package user

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// User is who a container's process runs as.
type User struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary, from the group file; without GID, sorted
	Home   string   // "/" if the passwd file does not say
}

// Home returns the home directory of uid.
func Home(root *os.File, uid uint32) (string, error) {
	return "", fmt.Errorf("look up home: %w", errdefs.ErrNotImplemented)
}

// Resolve looks up spec, "user[:group]" in names or numbers.
func Resolve(root *os.File, spec string) (User, error) {
	return User{}, fmt.Errorf("look up user: %w", errdefs.ErrNotImplemented)
}

// Groups looks up the ids of groups given as names or numbers.
func Groups(root *os.File, names []string) ([]uint32, error) {
	return nil, fmt.Errorf("look up groups: %w", errdefs.ErrNotImplemented)
}
