package plan

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// target appends the resolution of a mount point below the root, which is made if
// it is missing, and returns the register that holds its descriptor. exists, if
// not 0, is a buffer that receives its stat if it was there before.
func (b *builder) target(what, dest string, dir bool, resolve uint64, stat Buf) Reg {
	t := b.register("target")
	rel := relative(dest)
	flags := uint64(unix.O_PATH)
	if dir {
		flags |= unix.O_DIRECTORY
	}
	found, ready := b.label(), b.label()
	b.openResolve(what, b.root(), rel, flags, resolve, t, ignore(unix.ENOENT), onOK(found))
	d := b.ensureDir(what, path.Dir(rel))
	b.makeNode(what, d, path.Base(rel), dir)
	b.openResolve(what, b.root(), rel, flags, resolve, t)
	if stat != 0 {
		b.do(Jump, what, nil, onOK(ready))
	}
	b.place(found)
	if stat != 0 {
		b.call(what, unix.SYS_FSTAT, []Arg{reg(t), addr(stat)})
	}
	b.place(ready)
	return t
}

// ensureDir appends what makes the directory rel and returns the register that
// holds its descriptor.
func (b *builder) ensureDir(what, rel string) Reg {
	d := b.register("dir")
	if rel == "." {
		b.do(Set, what, []Arg{b.root()}, save(d))
		return d
	}
	found := b.label()
	b.open(what, b.root(), rel, unix.O_PATH|unix.O_DIRECTORY, d, ignore(unix.ENOENT), onOK(found))
	b.ensureDir(what, path.Dir(rel))
	b.makeNode(what, d, path.Base(rel), true)
	b.open(what, b.root(), rel, unix.O_PATH|unix.O_DIRECTORY, d)
	b.place(found)
	return d
}

// makeNode appends the making of a directory or an empty file.
func (b *builder) makeNode(what string, dir Reg, name string, isDir bool) {
	if isDir {
		b.call(what, unix.SYS_MKDIRAT, []Arg{reg(dir), b.string(name), shown(0o755, "0755")}, ignore(unix.EEXIST))
		return
	}
	b.call(what, unix.SYS_MKNODAT, []Arg{reg(dir), b.string(name), shown(unix.S_IFREG|0o644, "S_IFREG|0644"), num(0)}, ignore(unix.EEXIST))
}

// root is the descriptor of the container's root.
func (b *builder) root() Arg { return reg(b.register("root")) }

// relative turns an absolute path inside the container into one below its root.
func relative(p string) string {
	if r := strings.TrimPrefix(path.Clean("/"+p), "/"); r != "" {
		return r
	}
	return "."
}

// attach appends the move of a detached mount onto the descriptor in target.
func (b *builder) attach(what string, tree Arg, target Arg) {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	b.call(what, unix.SYS_MOVE_MOUNT, []Arg{tree, b.string(""), target, b.string(""), num(flags)})
}

// cloneTree appends open_tree(2) of a path as this process sees it.
func (b *builder) cloneTree(what, path string, recursive bool, to Reg) {
	flags := uint64(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.call(what, unix.SYS_OPEN_TREE, []Arg{cwdArg, b.string(path), shown(flags, "OPEN_TREE_CLONE")}, save(to))
}

// cloneFD appends open_tree(2) of a descriptor.
func (b *builder) cloneFD(what string, fd Arg, recursive bool, to Reg, opts ...option) {
	flags := uint64(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.call(what, unix.SYS_OPEN_TREE, []Arg{fd, b.string(""), shown(flags, "OPEN_TREE_CLONE")}, append(opts, save(to))...)
}

// setAttr appends mount_setattr(2) on a descriptor.
func (b *builder) setAttr(what string, tree Arg, recursive bool, set, clear, propagation uint64) {
	flags := uint64(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := Arg{Kind: Address, Buf: b.buffer(quads(set, clear, propagation, 0)), Form: MountAttr}
	b.call(what, unix.SYS_MOUNT_SETATTR, []Arg{tree, b.string(""), num(flags), attr, num(unix.MOUNT_ATTR_SIZE_VER0)})
}

// newFS appends the making of a detached mount of a file system and returns the
// register that holds it.
func (b *builder) newFS(what, fstype, source string, super, data []string, attrs uint64) Reg {
	fs, m := b.register("fs"), b.register("mount")
	set := func(cmd uint64, key, value string) {
		v := num(0)
		if cmd == unix.FSCONFIG_SET_STRING {
			v = b.string(value)
		}
		w := what
		if key != "source" {
			w += ": option " + strings.TrimSuffix(key+"="+value, "=")
		}
		b.call(w, unix.SYS_FSCONFIG, []Arg{reg(fs), num(cmd), b.string(key), v, num(0)})
	}
	b.call(what, unix.SYS_FSOPEN, []Arg{b.string(fstype), num(unix.FSOPEN_CLOEXEC)}, save(fs))
	if source != "" {
		set(unix.FSCONFIG_SET_STRING, "source", source)
	}
	for _, o := range super {
		set(unix.FSCONFIG_SET_FLAG, o, "")
	}
	for _, o := range data {
		if key, value, ok := strings.Cut(o, "="); ok {
			set(unix.FSCONFIG_SET_STRING, key, value)
		} else {
			set(unix.FSCONFIG_SET_FLAG, o, "")
		}
	}
	b.call(what, unix.SYS_FSCONFIG, []Arg{reg(fs), shown(unix.FSCONFIG_CMD_CREATE, "CREATE"), num(0), num(0), num(0)})
	b.call(what, unix.SYS_FSMOUNT, []Arg{reg(fs), num(unix.FSMOUNT_CLOEXEC), num(attrs)}, save(m))
	b.call(what, unix.SYS_CLOSE, []Arg{reg(fs)})
	return m
}

// MountFile is the name under which the parent passes the detached tree of the
// mount with that index.
func MountFile(i int) string { return fmt.Sprintf("mount-%d", i) }

// mount appends one mount of config.json.
func (c *compiler) mount(i int, m *specs.Mount, o *MountOptions, src Source) {
	b := c.b
	if src.Target != "" {
		moved := *m
		moved.Destination = src.Target
		m = &moved
	}
	what := fmt.Sprintf("mount %s on %s", describe(m, o), m.Destination)
	if relative(m.Destination) == "." {
		b.fail(fmt.Errorf("mounts[%d].destination: %q cannot be mounted over: %w", i, m.Destination, errInvalid))
		return
	}
	switch {
	case o.Bind && src.Privileged:
		index := b.register("index")
		b.do(Set, what, []Arg{num(uint64(i))}, save(index))
		b.send("ask for "+what, Mounting, index)
		b.wait("wait for "+what, SyncFile)
	case o.Bind && src.Inside != "":
		c.inside(i, m, o, src, what)
	case o.Bind:
		c.bind(i, m, o, src, what)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		c.cgroup(m, o, what)
	case m.Type == "":
		b.fail(fmt.Errorf("mounts[%d].type: is empty and the options do not say bind: %w", i, errInvalid))
	case src.Detached:
		t := b.target(what, m.Destination, true, inRoot, 0)
		b.attach(what, fileArg(MountFile(i)), reg(t))
		c.propagate(what, reg(t), m, o)
	default:
		c.filesystem(m, o, what)
	}
}

func describe(m *specs.Mount, o *MountOptions) string {
	if o.Bind {
		return m.Source
	}
	return m.Type
}

// filesystem appends the mount of a new file system.
func (c *compiler) filesystem(m *specs.Mount, o *MountOptions, what string) {
	b := c.b
	resolve, stat := uint64(inRoot), Buf(0)
	switch m.Type {
	case "proc", "sysfs":
		// A symbolic link in an image must not move them elsewhere.
		resolve |= unix.RESOLVE_NO_SYMLINKS
	case "tmpfs":
		stat = b.buffer(make([]byte, statSize))
		copy(b.p.Buffers[stat-1].Data[statMode:], words(0o1777))
		for _, d := range o.Data {
			if strings.HasPrefix(d, "mode=") {
				stat = 0
				break
			}
		}
	}
	attrs := o.Set
	data := o.Data
	if c.in.MountLabel != "" && (m.Type == "tmpfs" || m.Type == "mqueue" || m.Type == "devpts") {
		data = append(data[:len(data):len(data)], "context="+c.in.MountLabel)
	}
	where := what
	if resolve&unix.RESOLVE_NO_SYMLINKS != 0 {
		// Docker compatibility: the words are runc's.
		where = fmt.Sprintf("%s: filesystem %q must be mounted on ordinary directory", what, m.Type)
	}
	t := b.target(where, m.Destination, true, resolve, stat)
	// A read-only tmpfs, /dev above all, is filled first.
	late := m.Type == "tmpfs" && attrs&unix.MOUNT_ATTR_RDONLY != 0
	if late {
		attrs &^= unix.MOUNT_ATTR_RDONLY
	}
	fs := b.newFS(what, m.Type, m.Source, o.Super, data, attrs)
	if stat != 0 {
		b.call(what, unix.SYS_FCHMODAT, []Arg{reg(fs), b.string("."), word(stat, statMode)})
	}
	b.attach(what, reg(fs), reg(t))
	if late {
		c.readonlyLater(what, fs)
	}
	c.propagate(what, reg(fs), m, o)
}

// readonlyLater remembers a mount that becomes read-only when all is in place.
func (c *compiler) readonlyLater(what string, mnt Reg) {
	keep := c.b.register(fmt.Sprintf("readonly%d", len(c.late)))
	c.b.do(Set, what, []Arg{reg(mnt)}, save(keep))
	c.late = append(c.late, lateMount{what: what, mount: keep})
}

// propagate appends the propagation changes of an attached mount.
func (c *compiler) propagate(what string, tree Arg, m *specs.Mount, o *MountOptions) {
	for _, p := range o.Propagation {
		c.b.setAttr(what, tree, p.Recursive, 0, 0, p.Type)
	}
}

// bind appends a bind mount. Its tree has its attributes before it is attached.
func (c *compiler) bind(i int, m *specs.Mount, o *MountOptions, src Source, what string) {
	b := c.b
	tree := fileArg(MountFile(i))
	if !src.Detached {
		r := b.register("mount")
		b.cloneTree(what, m.Source, o.Recursive, r)
		tree = reg(r)
		c.bindAttrs(what, tree, o)
	}
	t := b.target(what, m.Destination, src.Dir, inRoot, 0)
	b.attach(what, tree, reg(t))
}

// bindAttrs appends the attributes of the detached tree of a bind mount.
func (c *compiler) bindAttrs(what string, tree Arg, o *MountOptions) {
	b := c.b
	for _, p := range BindPropagation(o, c.in.Spec.Linux.RootfsPropagation) {
		b.setAttr(what, tree, p.Recursive, 0, 0, p.Type)
	}
	if set, clear := o.BindAttr(); set|clear != 0 {
		b.setAttr(what, tree, false, set, clear, 0)
	}
	if o.RecSet|o.RecClear != 0 {
		b.setAttr(what, tree, true, o.RecSet, o.RecClear, 0)
	}
}

// inside appends a bind mount whose source is in the container's root. Whether it
// is a directory is known only then.
func (c *compiler) inside(i int, m *specs.Mount, o *MountOptions, src Source, what string) {
	b := c.b
	from, tree := b.register("source"), b.register("mount")
	file, attached := b.label(), b.label()
	copied := func() {
		b.cloneFD(what, reg(from), o.Recursive, tree)
		c.bindAttrs(what, reg(tree), o)
		if src.Mapped {
			b.idmap(what, reg(tree), o.RecIDMap, MapFile(i))
		}
	}
	b.open(what, b.root(), src.Inside, unix.O_PATH|unix.O_DIRECTORY, from, ignore(unix.ENOTDIR), onIgnored(file))
	copied()
	b.attach(what, reg(tree), reg(b.target(what, m.Destination, true, inRoot, 0)))
	b.do(Jump, what, nil, onOK(attached))
	b.place(file)
	b.open(what, b.root(), src.Inside, unix.O_PATH, from)
	copied()
	b.attach(what, reg(tree), reg(b.target(what, m.Destination, false, inRoot, 0)))
	b.place(attached)
}

// MapFile is the name under which the parent passes the user namespace of the id
// mapping of the mount with that index.
func MapFile(i int) string { return fmt.Sprintf("map-%d", i) }

// idmap appends the id mapping of a detached tree.
func (b *builder) idmap(what string, tree Arg, recursive bool, userNS string) {
	flags := uint64(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := b.buffer(quads(unix.MOUNT_ATTR_IDMAP, 0, 0, 0)) // struct mount_attr
	b.p.Buffers[attr-1].Slots = []Slot{{At: 24, Name: userNS}}
	b.call(what+": map ids", unix.SYS_MOUNT_SETATTR, []Arg{tree, b.string(""), num(flags),
		{Kind: Address, Buf: attr, Form: MountAttr}, num(unix.MOUNT_ATTR_SIZE_VER0)})
}

// CompileMount makes the plan of a helper of the parent that makes mount i of the
// container, for a Mounting message: it joins the container's mount namespace, the
// file JoinFile of that type, and does with the parent's privileges what the child
// could not.
func CompileMount(in *Container, i int) (*Plan, error) {
	c := &compiler{b: newBuilder(), in: in}
	b := c.b
	b.do(CloseOthers, "close descriptors of the parent", []Arg{num(0)})
	b.prctl("become non-dumpable", "PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE, 0)
	b.call("clear umask", unix.SYS_UMASK, []Arg{num(0)})
	b.call("join mount namespace", unix.SYS_SETNS, []Arg{fileArg(JoinFile(specs.MountNamespace)), num(unix.CLONE_NEWNS)})
	b.do(Set, "use root", []Arg{fileArg(RootFile)}, save(b.register("root")))
	src := in.Sources[i]
	src.Privileged = false
	c.mount(i, &in.Spec.Mounts[i], &in.Options[i], src)
	b.send("report the mount", Done, 0)
	b.call("exit", unix.SYS_EXIT_GROUP, []Arg{num(0)})
	return b.done()
}

// BindPropagation returns the propagation changes for the tree of a bind mount. A
// tree that was cloned in the host's mount namespace belongs to the peer groups
// of its source, so one that names nothing becomes a slave, unless the whole root
// is to be shared.
func BindPropagation(o *MountOptions, rootfs string) []Propagation {
	if len(o.Propagation) > 0 {
		return o.Propagation
	}
	switch rootfs {
	case "shared", "rshared":
		return nil
	case "private", "rprivate", "unbindable", "runbindable":
		return []Propagation{{Type: unix.MS_PRIVATE, Recursive: true}}
	}
	return []Propagation{{Type: unix.MS_SLAVE, Recursive: true}}
}

// cgroup appends a view of the container's control groups.
func (c *compiler) cgroup(m *specs.Mount, o *MountOptions, what string) {
	b := c.b
	if c.in.CgroupV2 {
		t := b.target(what, m.Destination, true, inRoot, 0)
		if len(c.in.Cgroups) == 1 {
			b.attach(what, fileArg(CgroupFile(c.in.Cgroups[0].Name)), reg(t))
			return
		}
		fs := b.newFS(what, "cgroup2", "cgroup", nil, nil, o.Set)
		b.attach(what, reg(fs), reg(t))
		return
	}
	t := b.target(what, m.Destination, true, inRoot, 0)
	fs := b.newFS(what, "tmpfs", "tmpfs", nil, []string{"mode=755"}, o.Set&^unix.MOUNT_ATTR_RDONLY)
	b.attach(what, reg(fs), reg(t))
	if o.Set&unix.MOUNT_ATTR_RDONLY != 0 {
		c.readonlyLater(what, fs)
	}
	for _, g := range c.in.Cgroups {
		b.call(what, unix.SYS_MKDIRAT, []Arg{reg(fs), b.string(g.Name), shown(0o755, "0755")})
		b.open(what, reg(fs), g.Name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, t)
		b.attach(fmt.Sprintf("mount cgroup %s on %s", g.Name, path.Join(m.Destination, g.Name)), fileArg(CgroupFile(g.Name)), reg(t))
		for _, l := range g.Links {
			b.call(what, unix.SYS_SYMLINKAT, []Arg{b.string(g.Name), reg(fs), b.string(l)})
		}
	}
}

// CgroupFile is the name under which the parent passes the detached tree of a
// control group.
func CgroupFile(name string) string { return "cgroup-" + name }
