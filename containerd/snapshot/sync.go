package snapshot

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// syncer syncs a file system for many callers at once: whoever comes while a sync
// runs shares the next one, for the running one may have passed its files already.
type syncer struct {
	// dir stays open for good. The kernel reports a write-back error to each file
	// description that was open when it happened, once; one opened for the sync
	// would miss those of before.
	dir    *os.File
	syncFS func() error // syncs the file system of dir
	runs   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	running bool
	next    *flight // what the callers wait for that the running sync does not serve; nil if none
}

// flight is one sync and its outcome, valid once done is closed.
type flight struct {
	done chan struct{}
	err  error
}

func openSyncer(path string) (*syncer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &syncer{dir: f, syncFS: func() error { return syncFS(f) }}, nil
}

// Sync returns when all that was written to the file system before the call is on
// disk. When ctx ends first it returns that error and the sync goes on for others.
func (s *syncer) Sync(ctx context.Context) error {
	s.mu.Lock()
	if s.next == nil {
		s.next = &flight{done: make(chan struct{})}
	}
	mine := s.next
	if !s.running {
		s.running = true
		s.runs.Go(s.run) // ends when nobody waits any more
	}
	s.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *syncer) run() {
	for {
		s.mu.Lock()
		f := s.next
		s.next = nil
		if f == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		f.err = s.syncFS()
		close(f.done)
	}
}

func syncFS(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if syncErr = unix.Syncfs(int(fd)); syncErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("syncfs", syncErr)
}

// Close waits for a sync that is under way and closes the directory. No Sync may
// begin meanwhile.
func (s *syncer) Close() error {
	s.runs.Wait()
	return s.dir.Close()
}
