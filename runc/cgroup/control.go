package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// destroyTimeout bounds the wait for dying processes. A process can be in
	// the kernel for long (a hung NFS server); then the group stays and Destroy
	// can be called again.
	destroyTimeout = 5 * time.Second
	// killFreezeTimeout bounds the attempt to freeze a group before it is
	// killed. A process in uninterruptible sleep does not freeze on v1.
	killFreezeTimeout = 500 * time.Millisecond
	// killRounds bounds how often a group that could not be frozen is killed
	// again because it forked meanwhile.
	killRounds = 100
)

// pause waits for d or the end of ctx, whichever is first, and returns ctx's
// error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Freeze implements Manager.
func (m *v1) Freeze(ctx context.Context, frozen bool) error {
	d, err := m.open("freezer", "freezer state")
	if err != nil {
		return err
	}
	defer d.close()
	if !frozen {
		return d.write("freezer.state", "THAWED")
	}
	if err := freeze1(ctx, d); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", d.path, err), d.write("freezer.state", "THAWED"))
	}
	return nil
}

// freeze1 writes FROZEN until the kernel has frozen all. Reading the state is
// what makes the kernel look again, and a process that was forked meanwhile is
// not always caught by the first write.
func freeze1(ctx context.Context, d dir) error {
	wait := 10 * time.Microsecond
	for try := 0; ; try++ {
		if try%8 == 0 {
			if err := d.write("freezer.state", "FROZEN"); err != nil {
				return err
			}
		}
		state, err := d.readString("freezer.state")
		if err != nil {
			return err
		}
		switch state {
		case "FROZEN":
			return nil
		case "FREEZING":
		default: // someone thawed it
			try = -1
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 10*time.Millisecond)
	}
}

// Frozen implements Manager.
func (m *v1) Frozen() (bool, error) {
	path := m.path("freezer")
	if path == "" {
		return false, nil
	}
	state, err := readIn(path, "freezer.state")
	if err != nil {
		return false, fmt.Errorf("read freezer state: %w", err)
	}
	return state == "FROZEN" || state == "FREEZING", nil
}

func readIn(path, name string) (string, error) {
	d, err := openDir(path)
	if err != nil {
		return "", err
	}
	defer d.close()
	return d.readString(name)
}

// Freeze implements Manager.
func (m *v2) Freeze(ctx context.Context, frozen bool) error {
	d, err := openDir(m.path)
	if err != nil {
		return err
	}
	defer d.close()
	if !frozen {
		return d.write("cgroup.freeze", "0")
	}
	if err := d.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	if err := waitEvent(ctx, d, "frozen 1"); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", d.path, err), d.write("cgroup.freeze", "0"))
	}
	return nil
}

// waitEvent waits until cgroup.events has line.
func waitEvent(ctx context.Context, d dir, line string) error {
	events, err := d.openFile("cgroup.events", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(events)
	// A pipe to be woken by when ctx ends: poll knows nothing of contexts.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer func() {
		if stop() {
			w.Close()
		}
	}()
	for {
		// Reading resets the event, so none is lost between this and the poll.
		if _, err := unix.Seek(events, 0, 0); err != nil {
			return os.NewSyscallError("lseek", err)
		}
		text, err := d.readFD(events, "cgroup.events")
		if err != nil {
			return err
		}
		if hasLine(text, line) {
			return nil
		}
		fds := []unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
		if _, err := retry(func() (int, error) { return unix.Poll(fds, -1) }); err != nil {
			return os.NewSyscallError("poll", err)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

func hasLine(text []byte, line string) bool {
	for l := range bytes.Lines(text) {
		if string(bytes.TrimSpace(l)) == line {
			return true
		}
	}
	return false
}

// Frozen implements Manager.
func (m *v2) Frozen() (bool, error) {
	state, err := readIn(m.path, "cgroup.freeze")
	if err != nil {
		return false, fmt.Errorf("read freezer state: %w", err)
	}
	return state == "1", nil
}

// Kill implements Manager. On v1 no process of the group may be running while
// it is killed, or it could fork faster than we read; and none may stay frozen
// after, or it would not die.
func (m *v1) Kill(ctx context.Context) error {
	fctx, cancel := context.WithTimeoutCause(ctx, killFreezeTimeout, errors.New("processes do not freeze"))
	defer cancel()
	_ = m.Freeze(fctx, true) // without it there are more rounds, at worst
	err := killAll(ctx, m.Pids)
	if path := m.path("freezer"); path != "" {
		if terr := writeIn(path, "freezer.state", "THAWED"); !errors.Is(terr, unix.ENOENT) {
			err = errors.Join(err, terr)
		}
	}
	return err
}

// Kill implements Manager.
func (m *v2) Kill(ctx context.Context) error {
	err := writeIn(m.path, "cgroup.kill", "1")
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err): // no group
		return nil
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP): // EOPNOTSUPP: threaded
		return fmt.Errorf("kill control group: %w", err)
	}
	// Linux before 5.14.
	fctx, cancel := context.WithTimeoutCause(ctx, killFreezeTimeout, errors.New("processes do not freeze"))
	defer cancel()
	_ = m.Freeze(fctx, true)
	err = killAll(ctx, m.Pids)
	if terr := writeIn(m.path, "cgroup.freeze", "0"); !errors.Is(terr, unix.ENOENT) {
		err = errors.Join(err, terr)
	}
	return err
}

// killAll sends SIGKILL to the processes that list returns until it returns no
// new one. A pid may be another process by the time it is used, so each is held
// by a pidfd first and must then still be listed.
func killAll(ctx context.Context, list func() ([]int, error)) error {
	killed := make(map[int]bool)
	for range killRounds {
		pids, err := list()
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return killed[pid] })
		if len(pids) == 0 {
			return nil
		}
		if err := killListed(pids, list, killed); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("kill control group: it forks faster than it can be killed: %w", errdefs.ErrUnavailable)
}

func killListed(pids []int, list func() ([]int, error), killed map[int]bool) error {
	fds := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := retry(func() (int, error) { return unix.PidfdOpen(pid, 0) })
		if err == unix.ESRCH {
			continue
		}
		if err == unix.EMFILE || err == unix.ENFILE {
			break // the next round takes the rest
		}
		if err != nil {
			return fmt.Errorf("kill process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
		}
		fds[pid] = fd
	}
	still, err := list()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := fds[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", pid, os.NewSyscallError("pidfd_send_signal", err))
		}
		killed[pid] = true
	}
	return nil
}

// destroy removes the groups at paths with those below them.
func destroy(ctx context.Context, paths []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, destroyTimeout, fmt.Errorf("processes are still in it: %w", errdefs.ErrFailedPrecondition))
	defer cancel()
	wait := time.Millisecond
	for {
		var left []string
		var busy error
		for _, path := range paths {
			err := removeTree(path)
			switch {
			case err == nil:
			case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY):
				left, busy = append(left, path), err
			default:
				return fmt.Errorf("remove control group: %w", err)
			}
		}
		if len(left) == 0 {
			return nil
		}
		paths = left
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("remove control group: %w: %w", busy, err)
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
}

// removeTree removes the group at path, and those below it if there are any.
func removeTree(path string) error {
	err := rmdir(path)
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	d, oerr := openDir(path)
	if oerr != nil {
		return ignoreGone(oerr)
	}
	defer d.close()
	if below, derr := removeChildren(d); derr != nil || !below {
		return errors.Join(derr, err)
	}
	return rmdir(path)
}

// removeChildren removes the groups below d and reports whether there were any.
// One that is busy does not keep it from the others.
func removeChildren(d dir) (bool, error) {
	names, err := d.children()
	if err != nil {
		return false, ignoreGone(err)
	}
	var errs []error
	for _, name := range names {
		c, err := d.child(name)
		if err != nil {
			errs = append(errs, ignoreGone(err))
			continue
		}
		_, err = removeChildren(c)
		c.close()
		errs = append(errs, err)
		_, err = retry(func() (int, error) { return 0, unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) })
		if err != nil && err != unix.ENOENT {
			errs = append(errs, &fileError{op: "remove", path: c.path, err: err, class: classOf(err, nil)})
		}
	}
	return len(names) > 0, errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
