package stdio

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/shim/handover"
)

// chunkSize is how much is read at once, in bytes.
const chunkSize = 128 << 10

// afterStop bounds what is read from a pipe after stop, in bytes: what it can
// have held when the process ended.
const afterStop = 2 * pipeSize

// chunks are read buffers. A pump that waits holds none.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// source is one pipe or console that a pump reads.
type source struct {
	f *os.File
	// exited, for a terminal, is closed when the process has ended: until then
	// a terminal that nobody holds open may be opened again.
	exited  <-chan struct{}
	gate    *handover.Gate
	stopped atomic.Bool
	once    sync.Once
}

// copy calls f with each chunk until the end. The buffer is valid during f.
func (s *source) copy(f func(p []byte)) {
	rc, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	left := afterStop
	for left > 0 {
		n, err := readChunk(rc, s.gate, f)
		if s.stopped.Load() {
			left -= max(n, 0)
		}
		switch {
		case n > 0:
		case errors.Is(err, unix.EIO) && s.exited != nil:
			select {
			case <-s.exited:
				return
			case <-time.After(hangupPause):
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.rest(f, left)
			return
		default:
			return
		}
	}
}

// hangupPause is how often a terminal that nobody holds open is looked at.
const hangupPause = 100 * time.Millisecond

// rest reads what is there without waiting.
func (s *source) rest(f func(p []byte), limit int) {
	rc, err := s.f.SyscallConn()
	if err != nil {
		return
	}
	for limit > 0 {
		n := 0
		s.gate.Enter()
		rc.Control(func(fd uintptr) {
			buf := chunks.Get().(*[chunkSize]byte)
			defer chunks.Put(buf)
			n, err = unix.Read(int(fd), buf[:])
			if n > 0 {
				f(buf[:n])
			}
		})
		s.gate.Leave()
		if n <= 0 {
			return
		}
		limit -= n
	}
}

// stop makes copy return after what is there to be read now.
func (s *source) stop() {
	s.stopped.Store(true)
	s.f.SetReadDeadline(time.Unix(1, 0))
}

func (s *source) close() { s.once.Do(func() { s.f.Close() }) }

// readChunk waits for data and passes it to f. It holds a buffer only while
// there is data, and is inside the gate for as long. At the end n is 0 and err nil.
func readChunk(rc syscall.RawConn, gate *handover.Gate, f func(p []byte)) (n int, err error) {
	var buf *[chunkSize]byte
	rerr := rc.Read(func(fd uintptr) bool {
		gate.Enter()
		buf = chunks.Get().(*[chunkSize]byte)
		for {
			n, err = unix.Read(int(fd), buf[:])
			if err != unix.EINTR {
				break
			}
		}
		if err == unix.EAGAIN {
			chunks.Put(buf)
			gate.Leave()
			return false
		}
		return true
	})
	if rerr != nil {
		return 0, rerr
	}
	defer gate.Leave()
	if n > 0 {
		f(buf[:n])
	}
	chunks.Put(buf)
	return n, err
}

// pollable returns f as a file that the runtime's poller serves, so that reads
// can be interrupted and no thread is held. It closes f.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := rc.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// pipeEnd names an end of a pipe.
type pipeEnd int

const (
	readEnd pipeEnd = iota
	writeEnd
	noEnd
)

// pipe makes a pipe whose end ours is served by the poller. The other end is in
// blocking mode, as a process expects of its standard files.
func pipe(ours pipeEnd) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if ours != noEnd {
		err = unix.SetNonblock(fds[ours], true)
	}
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "|0"), os.NewFile(uintptr(fds[1]), "|1"), nil
}

// setPipeSize makes a pipe hold size bytes; 0 leaves it. Over the user's limit
// it stays as it is.
func setPipeSize(f *os.File, size int) {
	if size == 0 {
		return
	}
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
	}
}

// winsize is the size of a terminal in characters.
type winsize struct{ width, height uint16 }

func (w *winsize) apply(console *os.File) error {
	rc, err := console.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: w.height, Col: w.width})
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("ioctl TIOCSWINSZ", err)
}
