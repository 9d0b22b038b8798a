// Package oom tells when the kernel kills a process of a cgroup for want of
// memory.
package oom

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"lighter/shim/handover"
)

// ErrNoController is the error of Watch for cgroups without a memory controller.
var ErrNoController = errors.New("no memory controller")

// Watcher counts the kills in one cgroup.
type Watcher struct {
	gate   *handover.Gate
	event  *os.File // an eventfd (v1) or inotify (v2): readable when something happened
	counts string   // the file that has the number of kills
	report func()
	done   sync.WaitGroup

	mu   sync.Mutex // guards seen; held over the read of counts and over report, which it orders
	seen uint64
}

// Watch calls report, from a goroutine of its own, for each time that it sees
// more kills than before. paths are cgroup directories as Runtime.CgroupPaths
// returns them. The gate is entered while it reports; nil for none. Close ends it.
func Watch(paths map[string]string, gate *handover.Gate, report func()) (*Watcher, error) {
	w := &Watcher{report: report, gate: gate}
	var err error
	// A hybrid system has an empty v2 hierarchy beside the v1 controllers.
	if dir, ok := paths["memory"]; ok {
		w.counts = filepath.Join(dir, "memory.oom_control")
		w.event, err = watchControl(dir)
	} else if dir, ok := paths[""]; ok {
		w.counts = filepath.Join(dir, "memory.events")
		w.event, err = watchFile(w.counts)
	} else {
		return nil, ErrNoController
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoController, err)
	}
	if err != nil {
		return nil, fmt.Errorf("watch for out of memory: %w", err)
	}
	if w.seen, err = w.kills(); err != nil {
		w.event.Close()
		return nil, fmt.Errorf("watch for out of memory: %w", err)
	}
	w.done.Go(w.run)
	return w, nil
}

// Close reports what happened until now and ends the watch. It waits for a
// report in progress.
func (w *Watcher) Close() {
	w.look()
	w.event.Close()
	w.done.Wait()
}

func (w *Watcher) run() {
	rc, err := w.event.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 512) // an eventfd gives 8 bytes, inotify at most a few events
	for {
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			w.gate.Enter()
			_, rerr = unix.Read(int(fd), buf)
			if rerr == unix.EAGAIN {
				w.gate.Leave()
				return false
			}
			return true
		})
		if err != nil {
			return
		}
		if rerr == nil {
			w.look()
		}
		w.gate.Leave()
		if rerr != nil && rerr != unix.EINTR {
			return
		}
	}
}

// State is what Resume needs to go on as the same Watcher in another process
// image. Event is a descriptor.
type State struct {
	Event  int
	Counts string
	Seen   uint64
}

// State returns the Watcher's state. The gate must be closed.
func (w *Watcher) State() State {
	return State{Event: handover.FD(w.event), Counts: w.counts, Seen: w.seen}
}

// Resume goes on with the watch of another Watcher.
func Resume(st State, gate *handover.Gate, report func()) *Watcher {
	w := &Watcher{event: handover.File(st.Event, "oom"), counts: st.Counts, seen: st.Seen, report: report, gate: gate}
	w.done.Go(w.run)
	return w
}

func (w *Watcher) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.kills()
	if err != nil || n <= w.seen {
		return // the cgroup is gone, or something else happened in it
	}
	w.seen = n
	w.report()
}

// kills reads the number of kills: a line "oom_kill N" on v1 and v2.
func (w *Watcher) kills() (uint64, error) {
	b, err := os.ReadFile(w.counts)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == "oom_kill" {
			return strconv.ParseUint(string(f[1]), 10, 64)
		}
	}
	return 0, nil
}

// watchFile watches a file of cgroup v2, which reports changes as modifications.
func watchFile(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// watchControl connects an eventfd to memory.oom_control of cgroup v1.
func watchControl(dir string) (*os.File, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		event.Close()
		return nil, err
	}
	return event, nil
}
