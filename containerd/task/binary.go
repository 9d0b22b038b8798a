package task

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"lighter/internal/version"
)

// binaries finds shim programs and remembers what they are.
type binaries struct {
	dirs []string // searched before $PATH
	env  []string // for the programs
	log  *slog.Logger

	mu    sync.Mutex // guards the fields below
	asked map[fileID]*probe
	trees map[fileID]*readOnlyDir // by directory
}

// fileID is the identity of a file's content: an upgrade changes it.
type fileID struct {
	path       string
	dev, inode uint64
	mtime      int64 // ns
}

// maker is who made a shim, as far as it changes how it is started.
type maker int

const (
	stock  maker = iota // takes BootstrapParams on stdin
	legacy              // takes the runtime options on stdin: containerd before 2.3
	ours                // can be launched directly
)

// probe is the answer to "who made this shim?", asked once.
type probe struct {
	once  sync.Once
	maker maker
	err   error
}

func newBinaries(dirs, env []string, log *slog.Logger) *binaries {
	return &binaries{dirs: dirs, env: env, log: log,
		asked: make(map[fileID]*probe), trees: make(map[fileID]*readOnlyDir)}
}

// close lets go of the directories. Running shims keep their binaries.
func (b *binaries) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, t := range b.trees {
		if t.dir != nil {
			t.dir.Close()
		}
		delete(b.trees, id)
	}
}

// find returns the absolute path of the shim for runtime: a path, or a name such
// as "io.containerd.runc.v2", which stands for containerd-shim-runc-v2.
//
// Errors: InvalidArgument for a malformed name, NotFound when it is not
// installed.
func (b *binaries) find(runtime string) (string, error) {
	if filepath.IsAbs(runtime) {
		if _, err := os.Stat(runtime); err != nil {
			return "", fmt.Errorf("find shim: %w: %w", err, errdefs.ErrNotFound)
		}
		return runtime, nil
	}
	parts := strings.Split(runtime, ".")
	if len(parts) < 2 || strings.ContainsAny(runtime, "/\x00") || parts[len(parts)-1] == "" || parts[len(parts)-2] == "" {
		return "", fmt.Errorf("find shim: runtime %q is neither a name like io.containerd.runc.v2 nor an absolute path: %w",
			runtime, errdefs.ErrInvalidArgument)
	}
	name := "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
	for _, dir := range b.dirs {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("find shim of runtime %q: install %s beside the daemon or in its PATH: %w: %w",
			runtime, name, err, errdefs.ErrNotFound)
	}
	return path, nil
}

// makerOf finds out who made the shim at path, by running it with -v once for
// each content of the file.
func (b *binaries) makerOf(path string) (maker, error) {
	id, err := identify(path)
	if err != nil {
		return stock, fmt.Errorf("look at shim: %w", err)
	}
	b.mu.Lock()
	p := b.asked[id]
	if p == nil {
		p = &probe{}
		b.asked[id] = p
	}
	b.mu.Unlock()
	p.once.Do(func() {
		// Others wait for this answer too, so it does not end with one caller.
		ctx, cancel := context.WithTimeout(context.Background(), promptTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, "-v")
		cmd.Env = b.env
		cmd.WaitDelay = time.Second
		out := &boundedBuffer{limit: 4096, truncate: true}
		cmd.Stdout = out
		if err := cmd.Run(); err != nil {
			p.err = fmt.Errorf("ask shim %q for its version: %w", path, err)
		}
		p.maker = parseMaker(out.String())
	})
	if p.err != nil { // ask again next time
		b.mu.Lock()
		delete(b.asked, id)
		b.mu.Unlock()
	}
	return p.maker, p.err
}

// versionLine is how shims built with containerd's library print its version.
var versionLine = regexp.MustCompile(`(?m)^\s*Version:\s*v?(\d+)\.(\d+)`)

// parseMaker reads the answer to -v. Shims that say nothing known are taken for
// new, as a stock containerd takes them.
func parseMaker(out string) maker {
	if strings.Contains(out, version.Product) {
		return ours
	}
	if m := versionLine.FindStringSubmatch(out); m != nil {
		major, _ := strconv.Atoi(m[1])
		minor, _ := strconv.Atoi(m[2])
		if major == 1 || major == 2 && minor < 3 {
			return legacy
		}
	}
	return stock
}

// readOnlyDir is a detached read-only mount of a directory with programs.
type readOnlyDir struct {
	once sync.Once
	dir  *os.File // O_PATH; nil when the kernel refused
}

// readOnly returns a name under which the program at path can be executed such
// that the process's /proc/PID/exe can't be opened for writing, by nobody: it
// lies on a read-only mount that no mount namespace contains (CVE-2019-5736).
// When the kernel refuses that, it returns path, after one warning.
//
// The directory is cloned, not the file, so that the process keeps its name.
func (b *binaries) readOnly(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path // the execution reports it
	}
	id, err := identify(filepath.Dir(real))
	if err != nil {
		return path
	}
	id.mtime = 0 // the clone shows later changes of the directory
	b.mu.Lock()
	t := b.trees[id]
	if t == nil {
		t = &readOnlyDir{}
		b.trees[id] = t
	}
	b.mu.Unlock()
	t.once.Do(func() {
		dir, err := cloneReadOnly(id.path)
		if err != nil {
			b.log.Warn("can't make shims read-only, starting them from their path", "path", id.path, "err", err)
			return
		}
		t.dir = dir
	})
	if t.dir == nil {
		return path
	}
	// Our own descriptor, seen from outside: the child may have put another file
	// at its number by the time that it executes.
	clone := "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(t.dir.Fd())) + "/" + filepath.Base(real)
	a, aerr := os.Stat(clone)
	o, oerr := os.Stat(real)
	if aerr != nil || oerr != nil || !os.SameFile(a, o) {
		// A program that is a mount point itself is not in the clone.
		b.log.Warn("shim is not in the read-only clone of its directory, starting it from its path", "path", real)
		return path
	}
	return clone
}

// cloneReadOnly returns a detached read-only copy of the mount that shows dir.
func cloneReadOnly(dir string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	f := os.NewFile(uintptr(fd), dir)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		f.Close()
		return nil, os.NewSyscallError("mount_setattr", err)
	}
	return f, nil
}

func identify(path string) (fileID, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, fmt.Errorf("stat %q: %w", path, fs.ErrInvalid)
	}
	return fileID{path: path, dev: uint64(st.Dev), inode: st.Ino, mtime: fi.ModTime().UnixNano()}, nil
}

// errTooLong reports that a program printed more than it may.
var errTooLong = errors.New("output is too long")

// boundedBuffer keeps up to limit bytes and refuses more, or drops more when
// truncate is set.
type boundedBuffer struct {
	limit    int
	truncate bool
	buf      []byte
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), b.limit-len(b.buf))
	b.buf = append(b.buf, p[:n]...)
	if n < len(p) && !b.truncate {
		return n, errTooLong
	}
	return len(p), nil
}

func (b *boundedBuffer) String() string { return string(b.buf) }
