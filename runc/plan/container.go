package plan

import (
	"encoding/binary"
	"fmt"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Container is the input of Compile: a validated config.json and what the parent
// has found out and prepared for it.
type Container struct {
	ID   string
	Spec *specs.Spec
	// Root is the absolute path, on the host, at which the root is attached in
	// the container's mount namespace. RootDetached says that the parent passes
	// the root as the detached tree RootFile.
	Root         string
	RootDetached bool
	// Sources has an element for each mount of Spec.
	Sources []Source
	// Options has the parsed options of each mount of Spec.
	Options []MountOptions
	// Cgroups are the control groups that a mount of type cgroup shows; the
	// parent passes each as a detached tree. Empty on v2 means a mount of the
	// file system itself.
	Cgroups  []CgroupDir
	CgroupV2 bool

	// Namespaces are the CLONE_NEW* flags that the clone makes; Join are the
	// namespaces to enter, in order, and Unshare are made after that. Fork says
	// that joining or unsharing a pid namespace needs another fork.
	Namespaces, Unshare uint64
	Join                []Join
	Fork                bool
	// TimeOffsets, if not empty, are written to timens_offsets of an unshared time
	// namespace.
	TimeOffsets string
	// NewUser says that the child is in a user namespace other than the
	// parent's.
	NewUser bool
	// Rootless says that the parent has no privileges: the child makes detached
	// trees itself.
	Rootless bool
	// Wait makes the child wait for the parent first, WaitMounted once its
	// mounts are in place.
	Wait, WaitMounted bool

	Process      *Process
	MountLabel   string
	NoPivot      bool
	NoNewKeyring bool
	// HostMounts says that there is no mount namespace of the container: what it
	// mounts is the caller's, and chroot takes the place of pivot_root.
	HostMounts bool
	// HostProcs are the host's mounts of proc and sysfs, which NoPivot hides.
	HostProcs []string
}

// Source is what the parent knows of a mount.
type Source struct {
	// Detached says that the parent passes it as the tree MountFile.
	Detached bool
	// Dir says that it is a directory.
	Dir bool
	// Inside, if not empty, is the path below the container's root of the source
	// of a bind mount: it is resolved when the mounts before it are in place.
	Inside string
	// Mapped says that the parent passes a user namespace, MapFile, whose id maps
	// the tree gets. Privileged says that the child has not the privilege for
	// that: the parent makes the mount when a Mounting message asks for it.
	Mapped, Privileged bool
	// Target is where the mount goes, if it is not the destination: what the
	// destination means when dangling symbolic links of the root are followed.
	Target string
}

// CgroupDir is a hierarchy in the container's view of its control groups.
type CgroupDir struct {
	// Name of the directory; Links are symbolic links to it.
	Name  string
	Links []string
}

// Join is a namespace that the child enters through the descriptor JoinFile.
type Join struct {
	Type specs.LinuxNamespaceType
	// Flag is its CLONE_NEW* flag.
	Flag uint64
}

// Names of the descriptors that a container's plan takes.
const (
	// RootFile is the detached tree of the root.
	RootFile = "root"
	// NullTree is a detached tree of the host's /dev/null.
	NullTree = "null-tree"
)

// JoinFile is the name under which the parent passes a namespace.
func JoinFile(t specs.LinuxNamespaceType) string { return "ns-" + string(t) }

// DeviceFile is the name under which the parent passes a tree of a device.
func DeviceFile(p string) string { return "device-" + p }

type compiler struct {
	b    *builder
	in   *Container
	late []lateMount
}

// lateMount is a mount that becomes read-only at the end.
type lateMount struct {
	what  string
	mount Reg
}

// Compile makes the plan of a container's init process.
//
// Implements OCI runtime-spec v1.3 config.md and config-linux.md, as far as the
// child does it. Errors are InvalidArgument and name the field.
func Compile(in *Container) (*Plan, error) {
	c := &compiler{b: newBuilder(), in: in}
	b, spec, p := c.b, in.Spec, in.Process
	b.begin(p, in.Rootless)
	b.join(p)
	if in.Wait {
		b.wait("wait for the id maps", SyncFile)
	}
	b.self(p)
	c.namespaces()
	c.root()
	for i := range spec.Mounts {
		c.mount(i, &spec.Mounts[i], &in.Options[i], in.Sources[i])
	}
	c.devices()
	if p.Terminal {
		c.console()
	}
	if rel := relative(p.Cwd); rel != "." {
		b.ensureDir("make working directory "+p.Cwd, rel)
	}
	sysctl := c.sysctlHandle()
	if in.WaitMounted {
		b.send("report that mounts are in place", Mounted, 0)
		b.wait("wait for hooks", SyncFile)
	}
	c.enter()
	for _, l := range c.late {
		b.setAttr(l.what+" read-only", reg(l.mount), false, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
	c.sysctls(sysctl)
	c.masks()
	if spec.Root.Readonly {
		b.setAttr("make root read-only", b.root(), false, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
	b.become(p)
	return b.done()
}

// namespaces appends what enters and makes namespaces that clone did not, and sets
// what belongs to them.
func (c *compiler) namespaces() {
	b, in := c.b, c.in
	b.call("start a session", unix.SYS_SETSID, nil)
	for _, j := range in.Join {
		b.call(fmt.Sprintf("join %s namespace", j.Type), unix.SYS_SETNS, []Arg{fileArg(JoinFile(j.Type)), num(j.Flag)})
	}
	if in.Unshare != 0 {
		b.call("make namespaces", unix.SYS_UNSHARE, []Arg{num(in.Unshare)})
	}
	if in.TimeOffsets != "" {
		b.writeSelf("set offsets of time namespace", "timens_offsets", in.TimeOffsets)
	}
	if in.Fork {
		b.fork()
	}
	if in.NewUser {
		b.rootOfNamespace()
	}
	if in.Rootless {
		b.prctl("become non-dumpable", "PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE, 0)
	}
	if !in.NoNewKeyring {
		b.keyring(in.ID)
	}
	if h := in.Spec.Hostname; h != "" {
		b.call("set host name "+h, unix.SYS_SETHOSTNAME, []Arg{b.string(h), num(uint64(len(h)))})
	}
	if d := in.Spec.Domainname; d != "" {
		b.call("set domain name "+d, unix.SYS_SETDOMAINNAME, []Arg{b.string(d), num(uint64(len(d)))})
	}
}

// fork appends the step to a new process, a sibling, which goes on; the old one
// reports its pid and ends.
func (b *builder) fork() {
	child := b.label()
	pid := b.register("pid")
	const flags = unix.CLONE_PARENT | uint64(unix.SIGCHLD)
	b.do(Fork, "fork into the pid namespace", []Arg{shown(flags, "CLONE_PARENT|SIGCHLD")}, save(pid), onOK(child))
	b.send("report forked process", Forked, pid)
	b.call("exit", unix.SYS_EXIT_GROUP, []Arg{num(0)})
	b.place(child)
	b.call("start a session", unix.SYS_SETSID, nil)
}

// keyring appends a new session keyring, so that the host's is out of reach. A
// kernel or seccomp profile without keyrings has nothing to protect.
func (b *builder) keyring(id string) {
	ring, none := b.register("keyring"), b.label()
	const joinSession, setPerm = 1, 5
	// What a new session keyring has (all for its possessor; view, read and link
	// for its owner) and search for its owner: processes that change user and
	// come back find their keys.
	const perm = 0x3f1b0000
	b.call("join session keyring", unix.SYS_KEYCTL, []Arg{shown(joinSession, "JOIN_SESSION_KEYRING"), b.string("_ses." + id)},
		save(ring), ignore(unix.ENOSYS, unix.EPERM, unix.EACCES), onIgnored(none))
	b.call("set access to session keyring", unix.SYS_KEYCTL, []Arg{shown(setPerm, "SETPERM"), reg(ring), num(perm)},
		ignore(unix.EACCES))
	b.place(none)
}

// root appends the attachment of the root file system.
func (c *compiler) root() {
	b, in := c.b, c.in
	if !in.HostMounts {
		// Nothing that happens here may reach the host.
		b.call("make mounts private", unix.SYS_MOUNT, []Arg{num(0), b.string("/"), num(0),
			shown(unix.MS_REC|unix.MS_PRIVATE, "MS_REC|MS_PRIVATE"), num(0)})
	}
	b.call("clear umask", unix.SYS_UMASK, []Arg{num(0)})
	root := b.register("root")
	if in.RootDetached {
		b.do(Set, "use root", []Arg{fileArg(RootFile)}, save(root))
	} else {
		b.cloneTree("clone root "+in.Root, in.Root, true, root)
	}
	b.call("attach root at "+in.Root, unix.SYS_MOVE_MOUNT, []Arg{reg(root), b.string(""), cwdArg, b.string(in.Root), num(unix.MOVE_MOUNT_F_EMPTY_PATH)})
	b.call("enter root", unix.SYS_FCHDIR, []Arg{reg(root)})
	if !in.RootDetached {
		b.call("make root a slave mount", unix.SYS_MOUNT, []Arg{num(0), b.string("."), num(0),
			shown(unix.MS_REC|unix.MS_SLAVE, "MS_REC|MS_SLAVE"), num(0)})
	}
}

// enter appends the change into the new root, after which the host's is gone.
func (c *compiler) enter() {
	b, in := c.b, c.in
	b.call("enter root", unix.SYS_FCHDIR, []Arg{b.root()})
	switch {
	case in.HostMounts:
		b.call("change root", unix.SYS_CHROOT, []Arg{b.string(".")})
	case in.NoPivot:
		for _, p := range in.HostProcs {
			b.call("hide "+p, unix.SYS_UMOUNT2, []Arg{b.string(p), num(unix.MNT_DETACH)}, ignore(unix.EINVAL, unix.EPERM, unix.ENOENT))
		}
		b.call("move root to /", unix.SYS_MOUNT, []Arg{b.string("."), b.string("/"), num(0), shown(unix.MS_MOVE, "MS_MOVE"), num(0)})
		b.call("change root", unix.SYS_CHROOT, []Arg{b.string(".")})
	default:
		b.call("pivot root", unix.SYS_PIVOT_ROOT, []Arg{b.string("."), b.string(".")})
		b.call("detach the old root", unix.SYS_UMOUNT2, []Arg{b.string("."), shown(unix.MNT_DETACH, "MNT_DETACH")})
	}
	b.call("enter root", unix.SYS_CHDIR, []Arg{b.string("/")})
	if name := in.Spec.Linux.RootfsPropagation; name != "" && !in.HostMounts {
		rest, rec := strings.CutPrefix(name, "r")
		flags, ok := propagations[rest]
		if !ok || !rec {
			flags, ok = propagations[name]
			rec = false
		}
		if !ok {
			b.fail(fmt.Errorf("linux.rootfsPropagation: unknown value %q: %w", name, errInvalid))
			return
		}
		if rec {
			flags |= unix.MS_REC
		}
		b.call("make root "+name, unix.SYS_MOUNT, []Arg{num(0), b.string("/"), num(0), num(flags), num(0)})
	}
}

// sysctlHandle appends a private procfs, through which sysctls are written:
// whatever is mounted on the container's /proc does not matter. It returns 0 if
// there are no sysctls.
func (c *compiler) sysctlHandle() Reg {
	if len(c.in.Spec.Linux.Sysctl) == 0 {
		return 0
	}
	keep := c.b.register("procfs")
	fs := c.b.newFS("mount private procfs", "proc", "", nil, nil, 0)
	c.b.do(Set, "keep private procfs", []Arg{reg(fs)}, save(keep))
	return keep
}

func (c *compiler) sysctls(procfs Reg) {
	b := c.b
	for _, key := range sortedKeys(c.in.Spec.Linux.Sysctl) {
		value := c.in.Spec.Linux.Sysctl[key]
		what := fmt.Sprintf("set sysctl %s to %q", key, value)
		fd := b.register("sysctl")
		const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
		b.openResolve(what, reg(procfs), "sys/"+SysctlPath(key), unix.O_WRONLY, resolve, fd)
		b.call(what, unix.SYS_WRITE, []Arg{reg(fd), b.string(value), num(uint64(len(value)))}, least(uint64(min(len(value), 1))))
		b.call(what, unix.SYS_CLOSE, []Arg{reg(fd)})
	}
}

// SysctlPath returns the file below /proc/sys of a sysctl. Both notations of
// sysctl(8) are taken: in "net.ipv4.conf.eth0/1.x" the slash stands for a dot.
func SysctlPath(key string) string {
	dot, slash := strings.IndexByte(key, '.'), strings.IndexByte(key, '/')
	if slash >= 0 && (dot < 0 || slash < dot) {
		return key
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(key)
}

// masks appends masked and read-only paths.
//
// A masked file is covered by /dev/null, which the parent has verified by its
// device number; masked directories by one empty read-only tmpfs
// (CVE-2025-31133).
func (c *compiler) masks() {
	b, l := c.b, c.in.Spec.Linux
	t, copied := b.register("target"), b.register("copy")
	for _, p := range l.ReadonlyPaths {
		what := "make " + p + " read-only"
		end := b.label()
		b.open(what, b.root(), relative(p), unix.O_PATH, t, ignore(unix.ENOENT, unix.ENOTDIR), onIgnored(end))
		b.cloneFD(what, reg(t), true, copied)
		b.setAttr(what, reg(copied), false, unix.MOUNT_ATTR_RDONLY, 0, 0)
		b.attach(what, reg(copied), reg(t))
		b.place(end)
	}
	if len(l.MaskedPaths) == 0 {
		return
	}
	empty := b.register("empty")
	fs := b.newFS("make empty directory", "tmpfs", "tmpfs", nil, []string{"nr_blocks=1", "nr_inodes=1", "mode=755"},
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	b.do(Set, "keep empty directory", []Arg{reg(fs)}, save(empty))
	seen := map[string]bool{}
	for _, p := range l.MaskedPaths {
		if seen[p] {
			continue
		}
		seen[p] = true
		what := "mask " + p
		dir, end := b.label(), b.label()
		missing := ignore(unix.ENOENT, unix.ENOTDIR)
		b.open(what, b.root(), relative(p), unix.O_PATH|unix.O_DIRECTORY, t, missing, onOK(dir))
		b.open(what, b.root(), relative(p), unix.O_PATH, t, missing, onIgnored(end))
		c.cover(what, c.null(), t, copied)
		b.do(Jump, what, nil, onOK(end))
		b.place(dir)
		c.cover(what, reg(empty), t, copied)
		b.place(end)
	}
}

// cover appends the attachment of a copy of tree on target. Before Linux 6.15 a
// detached tree cannot be copied: then the first use attaches the tree itself,
// which from there on can be.
func (c *compiler) cover(what string, tree Arg, target, copied Reg) {
	b := c.b
	cloned := b.label()
	b.cloneFD(what, tree, false, copied, ignore(unix.EINVAL), onOK(cloned))
	b.do(Set, what, []Arg{tree}, save(copied))
	b.place(cloned)
	b.attach(what, reg(copied), reg(target))
}

// null is the tree of /dev/null.
func (c *compiler) null() Arg {
	if !c.in.Rootless {
		return fileArg(NullTree)
	}
	return reg(c.b.register("null"))
}

// defaultDevices are those of the runtime specification, config-linux.md#default-devices.
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// Devices returns the devices that a container of spec has: those of spec, and the
// default ones that spec does not replace. It is empty when spec binds a /dev.
func Devices(spec *specs.Spec, options []MountOptions) []specs.LinuxDevice {
	for i, m := range spec.Mounts {
		if relative(m.Destination) == "dev" && options[i].Bind {
			return nil
		}
	}
	list := make([]specs.LinuxDevice, 0, len(spec.Linux.Devices)+len(defaultDevices))
	seen := map[string]bool{}
	for _, d := range spec.Linux.Devices {
		seen[path.Clean(d.Path)] = true
		list = append(list, d)
	}
	for _, d := range defaultDevices {
		if !seen[d.Path] {
			list = append(list, d)
		}
	}
	return list
}

// devices appends device nodes and the links of /dev.
func (c *compiler) devices() {
	b, in := c.b, c.in
	if in.Rootless {
		b.cloneTree("find /dev/null", "/dev/null", false, b.register("null"))
	}
	list := Devices(in.Spec, in.Options)
	if len(list) == 0 {
		return
	}
	dev := b.ensureDir("make /dev", "dev")
	keep := b.register("dev")
	b.do(Set, "keep /dev", []Arg{reg(dev)}, save(keep))
	for i := range list {
		c.device(&list[i], keep)
	}
	for _, l := range [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}} {
		b.call("link /dev/"+l[1], unix.SYS_SYMLINKAT, []Arg{b.string(l[0]), reg(keep), b.string(l[1])}, ignore(unix.EEXIST))
	}
	for _, d := range list {
		if path.Clean(d.Path) == "/dev/ptmx" {
			return
		}
	}
	b.call("link /dev/ptmx", unix.SYS_UNLINKAT, []Arg{reg(keep), b.string("ptmx"), num(0)}, ignore(unix.ENOENT))
	b.call("link /dev/ptmx", unix.SYS_SYMLINKAT, []Arg{b.string("pts/ptmx"), reg(keep), b.string("ptmx")})
}

// device appends one device node, made in a directory that is held by descriptor.
func (c *compiler) device(d *specs.LinuxDevice, dev Reg) {
	b := c.b
	what := "make device " + d.Path
	rel := relative(d.Path)
	dir, name := dev, path.Base(rel)
	if path.Dir(rel) != "dev" {
		dir = b.ensureDir(what, path.Dir(rel))
	}
	if c.in.NewUser || c.in.Rootless {
		// A user namespace cannot make devices: the host's are bound.
		b.makeNode(what, dir, name, false)
		t, tree := b.register("target"), fileArg(DeviceFile(d.Path))
		b.openResolve(what, reg(dir), name, unix.O_PATH|unix.O_NOFOLLOW, inRoot, t)
		if c.in.Rootless {
			r := b.register("mount")
			b.cloneTree(what, d.Path, false, r)
			tree = reg(r)
		}
		b.attach(what, tree, reg(t))
		return
	}
	var kind uint32
	switch d.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind = unix.S_IFIFO
	default:
		b.fail(fmt.Errorf("linux.devices: %s: unknown type %q: %w", d.Path, d.Type, errInvalid))
		return
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	rdev := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	if kind == unix.S_IFIFO {
		rdev = 0
	}
	made, own := b.label(), b.label()
	b.call(what, unix.SYS_MKNODAT, []Arg{reg(dir), b.string(name), shown(uint64(kind|mode), d.Type+"|0"+strconv.FormatUint(uint64(mode), 8)),
		shown(rdev, strconv.FormatInt(d.Major, 10)+":"+strconv.FormatInt(d.Minor, 10))}, ignore(unix.EEXIST), onOK(made))
	// The image has it: it must be this very device.
	t, stat := b.register("target"), b.space(statSize)
	b.openResolve(what, reg(dir), name, unix.O_PATH|unix.O_NOFOLLOW, inRoot, t)
	b.call(what, unix.SYS_FSTAT, []Arg{reg(t), addr(stat)})
	b.do(Assert, what, []Arg{word(stat, statRdev), num(uint64(uint32(rdev))), shown(uint64(unix.EEXIST), "EEXIST")})
	b.do(Jump, what, nil, onOK(own))
	b.place(made)
	if d.UID != nil || d.GID != nil {
		uid, gid := signed(-1), signed(-1)
		if d.UID != nil {
			uid = num(uint64(*d.UID))
		}
		if d.GID != nil {
			gid = num(uint64(*d.GID))
		}
		if uid.N != 0 || gid.N != 0 {
			b.call(what, unix.SYS_FCHOWNAT, []Arg{reg(dir), b.string(name), uid, gid, num(unix.AT_SYMLINK_NOFOLLOW)})
		}
	}
	b.place(own)
}

// console appends a pty of the container's own devpts, which becomes /dev/console
// and the standard descriptors.
func (c *compiler) console() {
	b := c.b
	slave := b.pty(c.in.Process, b.root())
	what := "bind /dev/console"
	dir := b.ensureDir(what, "dev")
	t, tree := b.register("target"), b.register("mount")
	b.makeNode(what, dir, "console", false)
	// Never through a link that an image put there.
	b.openResolve(what, reg(dir), "console", unix.O_PATH|unix.O_NOFOLLOW, inRoot, t)
	b.cloneFD(what, reg(slave), false, tree)
	b.attach(what, reg(tree), reg(t))
	b.controlTerminal(slave)
}

// pty appends the making of a pty from dev/pts/ptmx below root, sends the master
// to the parent and returns the register of the slave.
func (b *builder) pty(p *Process, root Arg) Reg {
	const what = "open console"
	master, slave := b.register("master"), b.register("slave")
	b.open(what, root, "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, master)
	// It must be the real thing: the directory is the container's.
	stat, fs := b.space(statSize), b.space(statfsSize)
	b.call(what, unix.SYS_FSTATFS, []Arg{reg(master), addr(fs)})
	b.do(Assert, what, []Arg{word(fs, statfsType), shown(unix.DEVPTS_SUPER_MAGIC, "devpts"), shown(uint64(unix.ENOTTY), "ENOTTY")})
	b.call(what, unix.SYS_FSTAT, []Arg{reg(master), addr(stat)})
	b.do(Assert, what, []Arg{word(stat, statRdev), num(unix.Mkdev(5, 2)), shown(uint64(unix.ENOTTY), "ENOTTY")})
	unlock := b.buffer(words(0))
	b.call("unlock console", unix.SYS_IOCTL, []Arg{reg(master), shown(unix.TIOCSPTLCK, "TIOCSPTLCK"), addr(unlock)})
	b.call("open console", unix.SYS_IOCTL, []Arg{reg(master), shown(unix.TIOCGPTPEER, "TIOCGPTPEER"),
		num(unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC)}, save(slave))
	if p.Console != nil {
		size := make([]byte, 8) // struct winsize
		binary.NativeEndian.PutUint16(size[0:], uint16(p.Console.Height))
		binary.NativeEndian.PutUint16(size[2:], uint16(p.Console.Width))
		b.call("set size of console", unix.SYS_IOCTL, []Arg{reg(slave), shown(unix.TIOCSWINSZ, "TIOCSWINSZ"), addr(b.buffer(size))})
	}
	if p.Newlines {
		b.call("keep newlines", unix.SYS_IOCTL, []Arg{reg(slave), shown(unix.TCSETS, "TCSETS"), addr(b.buffer(newlineTermios()))})
	}
	b.call("give console to the user", unix.SYS_FCHOWN, []Arg{reg(slave), num(uint64(p.UID)), signed(-1)})
	b.sendFD("send console to the parent", ConsoleFile, master)
	return slave
}

// newlineTermios returns a struct termios with the settings of a new terminal,
// except that newlines are passed on as they are (no ONLCR).
func newlineTermios() []byte {
	b := words(
		unix.ICRNL|unix.IXON,
		unix.OPOST,
		unix.B38400|unix.CS8|unix.CREAD|unix.HUPCL,
		unix.ISIG|unix.ICANON|unix.ECHO|unix.ECHOE|unix.ECHOK|unix.ECHOCTL|unix.ECHOKE|unix.IEXTEN,
	)
	var cc [19]byte
	for i, c := range map[int]byte{
		unix.VINTR: 'C' & 0x1f, unix.VQUIT: '\\' & 0x1f, unix.VERASE: 0x7f, unix.VKILL: 'U' & 0x1f, unix.VEOF: 'D' & 0x1f,
		unix.VMIN: 1, unix.VSTART: 'Q' & 0x1f, unix.VSTOP: 'S' & 0x1f, unix.VSUSP: 'Z' & 0x1f, unix.VREPRINT: 'R' & 0x1f,
		unix.VDISCARD: 'O' & 0x1f, unix.VWERASE: 'W' & 0x1f, unix.VLNEXT: 'V' & 0x1f,
	} {
		cc[i] = c
	}
	const line = 0 // N_TTY
	return append(append(b, line), cc[:]...)
}

// controlTerminal appends what makes slave the controlling terminal and 0, 1, 2.
func (b *builder) controlTerminal(slave Reg) {
	b.call("set controlling terminal", unix.SYS_IOCTL, []Arg{reg(slave), shown(unix.TIOCSCTTY, "TIOCSCTTY"), num(0)})
	for i, name := range StdioFiles {
		b.call("install "+name, unix.SYS_DUP3, []Arg{reg(slave), num(uint64(i)), num(0)})
	}
}

// sendFD appends sendmsg(2) of one descriptor, with one byte of data.
func (b *builder) sendFD(what, socket string, fd Reg) {
	control := b.space(unix.CmsgSpace(4))
	data := b.p.Buffers[control-1].Data
	copy(data, quads(uint64(unix.CmsgLen(4)))) // struct cmsghdr
	copy(data[8:], words(unix.SOL_SOCKET, unix.SCM_RIGHTS))
	b.do(Set, what, []Arg{reg(fd)}, store(control, unix.CmsgLen(0)))
	iov := b.buffer(quads(0, 1))
	b.ref(iov, 0, b.space(1))
	msg := b.buffer(quads(0, 0, 0, 1, 0, uint64(len(data)), 0)) // struct msghdr
	b.ref(msg, 16, iov)
	b.ref(msg, 32, control)
	b.call(what, unix.SYS_SENDMSG, []Arg{fileArg(socket), addr(msg), num(0)}, least(1))
}
