package user

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	passwdFile = "etc/passwd"
	groupFile  = "etc/group"

	maxFileSize = 16 << 20 // bytes
	maxLineSize = 1 << 20  // bytes; a group may have many members
)

const errNotDir = unix.ENOTDIR

// scan calls f with each line of the file name in root until f returns false.
// The line is valid during the call. A file that does not exist has no lines.
func scan(root *os.File, name string, f func(line []byte) bool) error {
	file, err := open(root, name)
	if err != nil {
		if isMissing(err) {
			return nil
		}
		return fmt.Errorf("read /%s of the container: %w", name, err)
	}
	defer file.Close()
	if err := scanLines(file, f); err != nil {
		return fmt.Errorf("read /%s of the container: %w", name, err)
	}
	return nil
}

// open opens a regular file under root for reading.
func open(root *os.File, name string) (*os.File, error) {
	// O_PATH first: opening a device or a fifo can block or do worse.
	// Links in the image are followed, inside the root.
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	path, err := openat2(root, name, &how)
	if err != nil {
		return nil, err
	}
	defer unix.Close(path)

	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, invalid("not a regular file")
	}
	if st.Size > maxFileSize {
		return nil, invalid(fmt.Sprintf("%d bytes, more than %d", st.Size, maxFileSize))
	}
	// The same file, not the same name: the descriptor is what was checked.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openat2 retries what the kernel asks to retry: EINTR, and EAGAIN when a
// rename raced with a "..".
func openat2(root *os.File, name string, how *unix.OpenHow) (int, error) {
	conn, err := root.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, openErr := -1, error(unix.EAGAIN)
	err = conn.Control(func(dir uintptr) {
		for range 32 {
			fd, openErr = unix.Openat2(int(dir), name, how)
			if openErr != unix.EAGAIN && openErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("openat2", openErr)
}

// scanLines is scan for a reader; it reads at most maxFileSize bytes.
func scanLines(r io.Reader, f func(line []byte) bool) error {
	limited := &io.LimitedReader{R: r, N: maxFileSize + 1} // the file may have grown
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 4096), maxLineSize)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if !f(line) {
			return nil
		}
	}
	if limited.N <= 0 {
		return invalid(fmt.Sprintf("more than %d bytes", maxFileSize))
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return invalid(fmt.Sprintf("a line has more than %d bytes", maxLineSize))
	}
	return lines.Err()
}

// passwdEntry is a line of passwd(5):
//
//	name:password:uid:gid:comment:home:shell
type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

func parsePasswd(line []byte) (passwdEntry, bool) {
	f := bytes.SplitN(line, []byte{':'}, 8)
	if len(f) < 4 || len(f[0]) == 0 {
		return passwdEntry{}, false
	}
	uid, ok1 := parseID(f[2])
	gid, ok2 := parseID(f[3])
	if !ok1 || !ok2 {
		return passwdEntry{}, false
	}
	e := passwdEntry{name: string(f[0]), uid: uid, gid: gid, home: "/"}
	if len(f) > 5 && len(f[5]) > 0 && bytes.IndexByte(f[5], 0) < 0 {
		e.home = string(f[5])
	}
	return e, true
}

// groupEntry is a line of group(5):
//
//	name:password:gid:member,member
type groupEntry struct {
	name    string
	gid     uint32
	members []byte
}

func parseGroup(line []byte) (groupEntry, bool) {
	f := bytes.SplitN(line, []byte{':'}, 5)
	if len(f) < 3 || len(f[0]) == 0 {
		return groupEntry{}, false
	}
	gid, ok := parseID(f[2])
	if !ok {
		return groupEntry{}, false
	}
	e := groupEntry{name: string(f[0]), gid: gid}
	if len(f) > 3 {
		e.members = f[3]
	}
	return e, true
}

// has reports whether name is a member. It must be called while the line that e
// came from is valid.
func (e groupEntry) has(name string) bool {
	for member := range strings.SplitSeq(string(e.members), ",") {
		if strings.TrimSpace(member) == name {
			return true
		}
	}
	return false
}

// parseID accepts what a passwd file should have: decimal digits in 0..MaxID.
func parseID(b []byte) (uint32, bool) {
	s := string(b)
	if !allDigits(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}
