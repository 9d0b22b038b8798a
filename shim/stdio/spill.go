package stdio

import (
	"os"

	"golang.org/x/sys/unix"
)

// spillMax bounds what is kept in a file for a client that lags, in bytes.
const spillMax = 64 << 20

// spill is a queue of bytes in a file without a name. The zero value with a
// directory is an empty one; without a directory it takes nothing.
type spill struct {
	dir         string
	f           *os.File // nil while there is nothing in it
	read, wrote int64    // bytes since the file was made
}

func (s *spill) empty() bool { return s.read == s.wrote }

// add appends the parts, all or none; it is false when there is no room.
func (s *spill) add(parts ...[]byte) bool {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if s.dir == "" || s.wrote-s.read+int64(n) > spillMax {
		return false
	}
	if s.f == nil {
		fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			s.dir = "" // a file system that has no such files
			return false
		}
		s.f = os.NewFile(uintptr(fd), "spill")
	}
	at := s.wrote
	for _, p := range parts {
		if _, err := s.f.WriteAt(p, at); err != nil {
			return false // a full disk; what was written of it is written over
		}
		at += int64(len(p))
	}
	s.wrote = at
	return true
}

// take removes up to limit bytes from the front.
func (s *spill) take(limit int) ([]byte, error) {
	buf := make([]byte, min(int64(limit), s.wrote-s.read))
	if _, err := s.f.ReadAt(buf, s.read); err != nil {
		return nil, err
	}
	// What has been read gives its blocks back, where the file system can.
	if rc, err := s.f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) {
			unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.read, int64(len(buf)))
		})
	}
	s.read += int64(len(buf))
	if s.empty() {
		s.close()
	}
	return buf, nil
}

func (s *spill) close() {
	if s.f != nil {
		s.f.Close()
	}
	s.f, s.read, s.wrote = nil, 0, 0
}
