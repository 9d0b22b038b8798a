package runc

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/fork"
	"lighter/runc/plan"
)

// nsFlags are the clone flags of the namespaces, in the order in which they are
// joined. The user namespace comes first: its privileges are needed for those
// that it owns.
var nsFlags = []struct {
	kind specs.LinuxNamespaceType
	flag uint64
	file string // in /proc/PID/ns
}{
	{specs.UserNamespace, unix.CLONE_NEWUSER, "user"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "ipc"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "uts"},
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "net"},
	{specs.PIDNamespace, unix.CLONE_NEWPID, "pid"},
	{specs.TimeNamespace, unix.CLONE_NEWTIME, "time"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "cgroup"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "mnt"},
}

// namespaces decides which namespaces the clone makes, which the child joins, and
// which it makes itself.
//
//	new             made by clone3; if a user namespace is joined, by the child
//	                after that, so that it owns them
//	cgroup, new     made by the child, which is in its control group by then
//	time, new       made by a thread of the parent, which sets its offsets; with a
//	                user namespace by the child, which forks again to get into it
//	by path         joined by the child
//	pid, by path    a thread of the parent joins it for the fork; if a user
//	                namespace is joined, the child does and forks again
func (c *creation) namespaces() error {
	in := c.in
	byType := map[specs.LinuxNamespaceType]*specs.LinuxNamespace{}
	for i := range c.spec.Linux.Namespaces {
		n := &c.spec.Linux.Namespaces[i]
		byType[n.Type] = n
	}
	user := byType[specs.UserNamespace]
	joinUser := user != nil && user.Path != ""
	for _, ns := range nsFlags {
		n := byType[ns.kind]
		if n == nil {
			continue
		}
		if n.Path != "" {
			f, err := os.Open(n.Path)
			if err != nil {
				return fmt.Errorf("linux.namespaces: %s: %w: %w", n.Type, err, errdefs.ErrInvalidArgument)
			}
			if err := checkNamespace(f, ns.flag); err != nil {
				f.Close()
				return fmt.Errorf("linux.namespaces: %s: %q: %w", n.Type, n.Path, err)
			}
			if ns.kind != specs.UserNamespace && ours(f, ns.file) {
				// To join it again would take privileges that the child may have
				// given up with the host's user namespace.
				f.Close()
				continue
			}
			if ns.kind == specs.PIDNamespace && !joinUser {
				c.request.PIDNamespace = f
				continue
			}
			in.Fork = in.Fork || ns.kind == specs.PIDNamespace
			c.files[plan.JoinFile(n.Type)] = f
			in.Join = append(in.Join, plan.Join{Type: n.Type, Flag: ns.flag})
			continue
		}
		switch {
		case ns.kind == specs.CgroupNamespace:
			in.Unshare |= ns.flag
		case ns.kind == specs.TimeNamespace && user != nil:
			// Made by the child, it belongs to the user namespace. Only a new process
			// gets into it; that must not be the second one of a new pid namespace.
			in.Unshare |= ns.flag | c.request.Namespaces&unix.CLONE_NEWPID
			c.request.Namespaces &^= unix.CLONE_NEWPID
			in.Fork, in.TimeOffsets = true, timeOffsets(c.spec.Linux.TimeOffsets)
		case ns.kind == specs.TimeNamespace:
			c.request.NewTime, c.request.TimeOffsets = true, timeOffsets(c.spec.Linux.TimeOffsets)
		case joinUser:
			in.Unshare |= ns.flag
			in.Fork = in.Fork || ns.kind == specs.PIDNamespace
		default:
			c.request.Namespaces |= ns.flag
		}
	}
	if user != nil && user.Path == "" {
		in.Wait = true
		c.userNS.made = true
		c.userNS.uid, c.userNS.gid = c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings
	}
	return nil
}

// checkNamespace verifies that f is a namespace of the type flag. What is given by
// path comes from another program.
func checkNamespace(f *os.File, flag uint64) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var kind int
	cerr := c.Control(func(fd uintptr) { kind, err = unix.IoctlRetInt(int(fd), unix.NS_GET_NSTYPE) })
	if cerr != nil {
		err = cerr
	}
	if err != nil || uint64(kind) != flag {
		return fmt.Errorf("not a namespace of this type: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// ours reports whether f is the namespace of that name that this process is in.
func ours(f *os.File, name string) bool {
	their, err := f.Stat()
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/thread-self/ns/" + name)
	return err == nil && os.SameFile(their, own)
}

func timeOffsets(m map[string]specs.LinuxTimeOffset) string {
	var b strings.Builder
	for _, clock := range []string{"monotonic", "boottime"} {
		if o, ok := m[clock]; ok {
			fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
		}
	}
	return b.String()
}

// userSpace is the user namespace of a container, and those made for id-mapped
// mounts.
type userSpace struct {
	made     bool
	uid, gid []specs.LinuxIDMapping
	// cache holds a namespace for each pair of mappings.
	cache map[string]*os.File
}

// write sets the id maps of the process's user namespace.
func (u *userSpace) write(pid int) error {
	return writeMaps(pid, u.uid, u.gid)
}

func writeMaps(pid int, uid, gid []specs.LinuxIDMapping) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	if os.Geteuid() == 0 {
		for _, m := range []struct {
			file string
			ids  []specs.LinuxIDMapping
		}{{"uid_map", uid}, {"gid_map", gid}} {
			if err := os.WriteFile(dir+m.file, []byte(formatMap(m.ids)), 0); err != nil {
				return fmt.Errorf("write %s: %w", m.file, err)
			}
		}
		return nil
	}
	// Without privileges a user may map itself alone; more takes the set-uid
	// helpers, which read /etc/subuid.
	if single(uid, os.Geteuid()) && single(gid, os.Getegid()) {
		for _, f := range [][2]string{{"setgroups", "deny"}, {"uid_map", formatMap(uid)}, {"gid_map", formatMap(gid)}} {
			if err := os.WriteFile(dir+f[0], []byte(f[1]), 0); err != nil {
				return fmt.Errorf("write %s: %w", f[0], err)
			}
		}
		return nil
	}
	for _, m := range []struct {
		helper string
		ids    []specs.LinuxIDMapping
	}{{"newuidmap", uid}, {"newgidmap", gid}} {
		args := []string{strconv.Itoa(pid)}
		for _, i := range m.ids {
			args = append(args, fmt.Sprint(i.ContainerID), fmt.Sprint(i.HostID), fmt.Sprint(i.Size))
		}
		if out, err := exec.Command(m.helper, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("write id map: %s: %w: %s", m.helper, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func single(ids []specs.LinuxIDMapping, id int) bool {
	return len(ids) == 1 && ids[0].Size == 1 && int(ids[0].HostID) == id
}

func formatMap(ids []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, i := range ids {
		fmt.Fprintf(&b, "%d %d %d\n", i.ContainerID, i.HostID, i.Size)
	}
	return b.String()
}

// forMount returns a user namespace with the mappings of an id-mapped mount: its
// own, or the container's. The file belongs to u.
func (u *userSpace) forMount(m *specs.Mount, s *specs.Spec) (*os.File, error) {
	uid, gid := m.UIDMappings, m.GIDMappings
	if len(uid) == 0 {
		uid, gid = s.Linux.UIDMappings, s.Linux.GIDMappings
	}
	if path := joinedUser(s); path != "" && len(uid) == 0 && len(gid) == 0 {
		return u.joined(path)
	}
	if len(uid) == 0 || len(gid) == 0 {
		return nil, fmt.Errorf("id mapping of mount %q: no mappings are given: %w", m.Destination, errdefs.ErrInvalidArgument)
	}
	key := formatMap(uid) + "/" + formatMap(gid)
	if f := u.cache[key]; f != nil {
		return f, nil
	}
	f, err := makeUserNS(uid, gid)
	if err != nil {
		return nil, fmt.Errorf("id mapping of mount %q: %w", m.Destination, err)
	}
	if u.cache == nil {
		u.cache = map[string]*os.File{}
	}
	u.cache[key] = f
	return f, nil
}

// joined returns the user namespace that the container joins, whose mappings an
// id-mapped mount without any takes.
func (u *userSpace) joined(path string) (*os.File, error) {
	if f := u.cache[path]; f != nil {
		return f, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	if u.cache == nil {
		u.cache = map[string]*os.File{}
	}
	u.cache[path] = f
	return f, nil
}

// joinedUser returns the path of the user namespace that a container joins, if any.
func joinedUser(s *specs.Spec) string {
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return n.Path
		}
	}
	return ""
}

func makeUserNS(uid, gid []specs.LinuxIDMapping) (*os.File, error) {
	p, err := plan.Parked()
	if err != nil {
		return nil, err
	}
	child, err := fork.Start(fork.Request{Plan: p, Namespaces: unix.CLONE_NEWUSER, Private: true})
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = child.Kill()
		_ = child.Reap()
		child.Close()
	}()
	if err := writeMaps(child.PID, uid, gid); err != nil {
		return nil, err
	}
	return os.Open("/proc/" + strconv.Itoa(child.PID) + "/ns/user")
}

func (u *userSpace) close() {
	for _, f := range u.cache {
		f.Close()
	}
}

// namespacesOf returns the clone flags of those namespaces of a process that
// differ from this process's own.
func namespacesOf(pid int) (uint64, error) {
	var flags uint64
	for _, ns := range nsFlags {
		var own, other unix.Stat_t
		if err := unix.Stat("/proc/self/ns/"+ns.file, &own); err != nil {
			continue // the kernel does not have it
		}
		path := "/proc/" + strconv.Itoa(pid) + "/ns/" + ns.file
		if err := unix.Stat(path, &other); err != nil {
			return 0, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		if own.Ino != other.Ino || own.Dev != other.Dev {
			flags |= ns.flag
		}
	}
	return flags, nil
}
