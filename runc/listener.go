package runc

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/pidfd"
	"lighter/runc/fork"
	"lighter/runc/state"
)

// sendListener sends descriptor fd, a seccomp listener, of the child or of its child
// pid to the agent of the profile.
//
// Implements OCI runtime-spec v1.3 config-linux.md#seccomp, the container process
// state.
func sendListener(profile *specs.LinuxSeccomp, rec *state.Record, child *fork.Child, pid, fd int, status specs.ContainerState) error {
	if profile.ListenerPath == "" {
		return fmt.Errorf("linux.seccomp.listenerPath: is required by SCMP_ACT_NOTIFY: %w", errdefs.ErrInvalidArgument)
	}
	owner := child.PIDFD()
	if pid != child.PID {
		var err error
		if owner, err = pidfd.Open(pid); err != nil {
			return fmt.Errorf("take seccomp listener: %w", err)
		}
		defer owner.Close()
	}
	listener, err := pidfd.File(owner, fd)
	if err != nil {
		return fmt.Errorf("take seccomp listener: %w", err)
	}
	defer listener.Close()
	raw, err := json.Marshal(specs.ContainerProcessState{
		Version: rec.OCIVersion, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: profile.ListenerMetadata,
		State: rec.OCI(status),
	})
	if err != nil {
		return fmt.Errorf("send seccomp listener: %w", err)
	}
	if err := SendFile(profile.ListenerPath, raw, listener); err != nil {
		// Docker compatibility: the words are runc's.
		return fmt.Errorf("failed to connect with seccomp agent: %w", err)
	}
	return nil
}

// SendFile sends data and a descriptor over the unix socket at path.
func SendFile(path string, data []byte, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("send descriptor: %w", &os.PathError{Op: "connect", Path: path, Err: err})
	}
	c, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	cerr := c.Control(func(n uintptr) { err = unix.Sendmsg(fd, data, unix.UnixRights(int(n)), nil, 0) })
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("send descriptor to %q: %w", path, err)
	}
	return nil
}
