package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// WatchOOM reports that the kernel ran out of memory for the group at paths
// (Manager.Paths). A value is sent for each notification; those that arrive
// while one waits to be received are merged with it.
//
// The channel is closed when the watch ends: on v1 when the group is removed, on
// v2 when its last process has gone, and when ctx ends. The goroutine that sends
// ends with it. Errors: NotFound if the group is gone, NotImplemented if the host
// has no memory controller for it.
func WatchOOM(ctx context.Context, paths map[string]string) (<-chan struct{}, error) {
	var f *os.File
	var wait func(*os.File, func()) // sends notifications until the watch ends
	var err error
	if path, ok := paths["memory"]; ok {
		f, err = oomEvent1(path)
		wait = func(f *os.File, notify func()) { waitOOM1(f, path, notify) }
	} else if path, ok := paths[unifiedKey]; ok && len(paths) == 1 {
		seen, _ := oomKills(path) // before the watch, so that none is missed
		f, err = oomEvent2(path)
		wait = func(f *os.File, notify func()) { waitOOM2(f, path, seen, notify) }
	} else {
		err = fmt.Errorf("the host has no memory controller: %w", errdefs.ErrNotImplemented)
	}
	if err != nil {
		return nil, fmt.Errorf("watch for out of memory: %w", err)
	}
	events := make(chan struct{}, 1) // one waits, later ones merge with it
	// Past deadlines interrupt reads.
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	go func() {
		defer close(events)
		defer f.Close()
		defer stop()
		wait(f, func() {
			select {
			case events <- struct{}{}:
			default:
			}
		})
	}()
	return events, nil
}

// oomEvent1 registers an eventfd with v1's memory.oom_control.
func oomEvent1(path string) (*os.File, error) {
	d, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer d.close()
	control, err := d.openFile("memory.oom_control", unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(control)
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	if err := d.write("cgroup.event_control", fmt.Sprintf("%d %d", fd, control)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func waitOOM1(f *os.File, path string, notify func()) {
	buf := make([]byte, 8)
	for {
		if _, err := f.Read(buf); err != nil {
			return
		}
		// The kernel also notifies when the group is removed.
		if _, err := os.Stat(filepath.Join(path, "cgroup.event_control")); err != nil {
			return
		}
		notify()
	}
}

// oomEvent2 watches v2's memory.events, and cgroup.events for the end.
func oomEvent2(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, name := range []string{"memory.events", "cgroup.events"} {
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(path, name), unix.IN_MODIFY); err != nil {
			f.Close()
			var class error = errdefs.ErrNotImplemented
			if _, serr := os.Stat(path); serr != nil {
				class = errdefs.ErrNotFound
			}
			return nil, &fileError{op: "watch", path: filepath.Join(path, name), err: err, class: classOf(err, class)}
		}
	}
	return f, nil
}

// oomKills returns how many processes of the group were killed so far.
func oomKills(path string) (uint64, error) {
	text, err := readIn(path, "memory.events")
	if err != nil {
		return 0, err
	}
	v, err := parseFlat(text)
	return v["oom_kill"], err
}

func waitOOM2(f *os.File, path string, seen uint64, notify func()) {
	// Which file it was does not matter: both are read.
	buf := make([]byte, 64*int(unsafe.Sizeof(unix.InotifyEvent{})))
	for {
		if _, err := f.Read(buf); err != nil {
			return
		}
		n, err := oomKills(path)
		if err != nil {
			return
		}
		if n > seen {
			seen = n
			notify()
		}
		text, err := readIn(path, "cgroup.events")
		if err != nil || hasLine([]byte(text), "populated 0") {
			return
		}
	}
}
