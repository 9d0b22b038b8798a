package log

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// watcher tells when something happens in the directory of a log: a file is
// written, made, renamed or removed there.
type watcher struct {
	f    *os.File
	c    chan struct{} // capacity 1: one notice stands for all since the last look
	done chan struct{}
	err  atomic.Pointer[error]
}

func newWatcher(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), mask); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), c: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run() // ends with close
	return w, nil
}

// run turns events, of which the content does not matter, into notices.
func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		_, err := w.f.Read(buf)
		if err != nil && !errors.Is(err, os.ErrClosed) {
			w.err.Store(&err)
		}
		select {
		case w.c <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (w *watcher) changed() <-chan struct{} { return w.c }

// failed returns why no more notices come, or nil.
func (w *watcher) failed() error {
	if err := w.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (w *watcher) close() error {
	err := w.f.Close()
	<-w.done
	return err
}
