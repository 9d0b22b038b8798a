package builder

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Isolate finishes the namespaces that the process was started in: mounts made
// here stay here, and /proc shows the process's own PID namespace, which the
// runtime works in. It must run before any step.
func Isolate() error {
	if os.Getpid() != 1 {
		return errors.New("isolate build process: it must be the first of a PID namespace: dockerd starts it so")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
