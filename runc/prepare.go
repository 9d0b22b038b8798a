package runc

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/cgroup"
	"lighter/runc/fork"
	"lighter/runc/plan"
	"lighter/runc/rootfs"
)

// mounts opens the detached trees that the child will attach.
func (c *creation) mounts() error {
	in := &plan.Container{
		ID: c.id, Spec: c.spec, Root: c.rec.Rootfs, Rootless: os.Geteuid() != 0,
		Sources: make([]plan.Source, len(c.spec.Mounts)), Options: make([]plan.MountOptions, len(c.spec.Mounts)),
		MountLabel: c.spec.Linux.MountLabel, NoPivot: c.opts.NoPivot, NoNewKeyring: c.opts.NoNewKeyring,
	}
	c.in = in
	for i := range c.spec.Mounts {
		o, err := plan.ParseOptions(&c.spec.Mounts[i])
		if err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
		in.Options[i] = o
		if o.Bind && !filepath.IsAbs(c.spec.Mounts[i].Source) {
			c.spec.Mounts[i].Source = absolute(c.opts.Bundle, c.spec.Mounts[i].Source)
		}
		if inside, ok := below(in.Root, c.spec.Mounts[i].Destination); ok {
			// Docker compatibility: runc takes the path on the host, too.
			c.spec.Mounts[i].Destination = inside
		}
	}
	if in.MountLabel != "" && !selinuxEnabled() {
		return fmt.Errorf("linux.mountLabel: SELinux is not enabled on this host: %w", errdefs.ErrInvalidArgument)
	}
	in.HostMounts = true
	for _, n := range c.spec.Linux.Namespaces {
		in.NewUser = in.NewUser || n.Type == specs.UserNamespace
		in.HostMounts = in.HostMounts && n.Type != specs.MountNamespace
	}
	if in.HostMounts {
		// On success they stay, as runc's do: the caller has asked for mounts in a
		// namespace of its own.
		c.undo.Add(func() error {
			if err := unix.Unmount(in.Root, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount root: %w", err)
			}
			return nil
		})
	}
	if in.NoPivot {
		if err := c.hostProcs(); err != nil {
			return err
		}
	}
	if in.Rootless {
		return c.rootlessMounts()
	}
	if len(c.opts.Rootfs) > 0 {
		if err := os.MkdirAll(in.Root, 0o711); err != nil {
			return fmt.Errorf("make mount point of root: %w", err)
		}
	}
	root, err := rootfs.Root(in.Root, c.opts.Rootfs)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("root.path: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	in.RootDetached = true
	c.files[plan.RootFile] = root
	for i := range c.spec.Mounts {
		if err := c.target(i, root); err != nil {
			return err
		}
		if err := c.source(i, root); err != nil {
			return err
		}
	}
	if len(c.spec.Linux.MaskedPaths) > 0 {
		null, err := rootfs.Null()
		if err != nil {
			return err
		}
		c.files[plan.NullTree] = null
	}
	if in.NewUser {
		for _, d := range plan.Devices(c.spec, in.Options) {
			tree, err := rootfs.Tree(d.Path, rootfs.HeldDevice)
			if err != nil {
				return fmt.Errorf("linux.devices: a user namespace cannot make devices, and the host's is not usable: %w", err)
			}
			c.files[plan.DeviceFile(d.Path)] = tree
		}
	}
	return nil
}

// rootlessMounts only finds out what the trees will be: the child, which has
// privileges in its user namespace, makes them.
func (c *creation) rootlessMounts() error {
	if len(c.opts.Rootfs) > 0 {
		return fmt.Errorf("mount root: needs root privileges: %w", errdefs.ErrNotImplemented)
	}
	for i := range c.spec.Mounts {
		m, o := &c.spec.Mounts[i], &c.in.Options[i]
		if o.IDMap || o.CopyUp {
			return fmt.Errorf("mounts[%d]: idmap and tmpcopyup need root privileges: %w", i, errdefs.ErrNotImplemented)
		}
		if !o.Bind {
			continue
		}
		fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, &os.PathError{Op: "open", Path: m.Source, Err: err})
		}
		f := os.NewFile(uintptr(fd), m.Source)
		dir, err := rootfs.IsDir(f)
		if err == nil {
			err = rootfs.Lock(f, m, o)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
		c.in.Sources[i].Dir = dir
	}
	return nil
}

// below reports whether the path p is below root, and where.
func below(root, p string) (string, bool) {
	rest, ok := strings.CutPrefix(filepath.Clean(p), root)
	return rest, ok && root != "/" && strings.HasPrefix(rest, "/")
}

// target looks up the destination of mount i in the root, as it is before any
// mount: where a dangling symbolic link leads, and which mode a tmpfs inherits.
// What it finds says which path is made; the child resolves it again, inside the
// root.
func (c *creation) target(i int, root *os.File) error {
	m, o := &c.spec.Mounts[i], &c.in.Options[i]
	for j := range i {
		if _, ok := below(filepath.Clean("/"+c.spec.Mounts[j].Destination), "/"+m.Destination); ok {
			return nil // what the root has there is hidden
		}
	}
	target, mode, err := rootfs.Target(root, m.Destination)
	if err != nil {
		return fmt.Errorf("mounts[%d].destination: %w", i, err)
	}
	if m.Type != "proc" && m.Type != "sysfs" {
		c.in.Sources[i].Target = target
	}
	if m.Type == "tmpfs" && mode != 0 && !slices.ContainsFunc(o.Data, func(d string) bool { return strings.HasPrefix(d, "mode=") }) {
		o.Data = append(o.Data, fmt.Sprintf("mode=%o", mode))
	}
	return nil
}

// source opens the tree of mount i if it is one that the parent makes.
func (c *creation) source(i int, root *os.File) error {
	m, o := &c.spec.Mounts[i], &c.in.Options[i]
	switch {
	case o.CopyUp:
		tree, err := rootfs.CopyUp(root, m, o)
		if err != nil {
			return err
		}
		c.files[plan.MountFile(i)] = tree
		c.in.Sources[i].Detached, c.in.Sources[i].Dir = true, true
	case o.Bind:
		var userNS *os.File
		if o.IDMap {
			var err error
			if userNS, err = c.userNS.forMount(m, c.spec); err != nil {
				return fmt.Errorf("mounts[%d]: %w", i, err)
			}
		}
		if inside, ok := below(c.in.Root, m.Source); ok && i > 0 {
			return c.insideSource(i, inside, userNS)
		}
		tree, dir, err := rootfs.Bind(m, o, c.spec.Linux.RootfsPropagation, userNS, c.in.NewUser)
		if err != nil {
			return err
		}
		c.files[plan.MountFile(i)] = tree
		c.in.Sources[i].Detached, c.in.Sources[i].Dir = true, dir
	}
	return nil
}

// insideSource prepares a bind mount of a part of the container's root, which may
// be an earlier mount.
func (c *creation) insideSource(i int, inside string, userNS *os.File) error {
	src := &c.in.Sources[i]
	src.Inside = inside
	if userNS == nil {
		return nil
	}
	f, err := dup(userNS)
	if err != nil {
		return err
	}
	c.files[plan.MapFile(i)] = f
	src.Mapped, src.Privileged = true, c.in.NewUser
	return nil
}

// mountFor makes mount i for a child that has not the privilege.
func (c *creation) mountFor(child *fork.Child, i int) error {
	if i >= len(c.in.Sources) || !c.in.Sources[i].Privileged {
		return fmt.Errorf("unexpected request for mount %d from init", i)
	}
	p, err := plan.CompileMount(c.in, i)
	if err != nil {
		return err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", child.PID))
	if err != nil {
		return fmt.Errorf("mounts[%d]: %w", i, err)
	}
	defer ns.Close()
	files := map[string]*os.File{plan.JoinFile(specs.MountNamespace): ns}
	for _, name := range []string{plan.RootFile, plan.MapFile(i)} {
		files[name] = c.files[name]
	}
	helper, err := fork.Start(fork.Request{Plan: p, Files: files, Private: true})
	if err != nil {
		return fmt.Errorf("mounts[%d]: %w", i, err)
	}
	defer helper.Close()
	if _, err = helper.Next(); err != nil {
		err = fmt.Errorf("mounts[%d]: %w", i, err)
	}
	return errors.Join(err, helper.Reap())
}

// cgroups opens the control groups: for the child to get into, and for a cgroup
// mount to show.
func (c *creation) cgroups() error {
	mode := cgroup.HostMode()
	c.in.CgroupV2 = mode == cgroup.V2
	if c.group != nil {
		var err error
		if c.tasks, err = enterGroup(c.group.Paths(), &c.request, c.files); err != nil {
			return err
		}
	}
	ownNS := false
	for _, n := range c.spec.Linux.Namespaces {
		ownNS = ownNS || n.Type == specs.CgroupNamespace
	}
	for i, m := range c.spec.Mounts {
		if m.Type != "cgroup" && m.Type != "cgroup2" {
			continue
		}
		if c.in.CgroupV2 && ownNS || c.group == nil {
			return nil
		}
		return c.cgroupTrees(c.in.Options[i].Set)
	}
	return nil
}

// cgroupTrees opens the container's own directory of every hierarchy.
func (c *creation) cgroupTrees(attrs uint64) error {
	for _, g := range cgroupDirs(c.group.Paths(), c.in.CgroupV2) {
		tree, err := rootfs.Tree(g.path, attrs)
		if err != nil {
			return fmt.Errorf("open control group: %w", err)
		}
		c.files[plan.CgroupFile(g.Name)] = tree
		c.in.Cgroups = append(c.in.Cgroups, g.CgroupDir)
	}
	return nil
}

// cgroupDir is a hierarchy with the container's directory in it.
type cgroupDir struct {
	plan.CgroupDir
	path string
}

// cgroupDirs returns the hierarchies of paths (see cgroup.Manager), sorted. A
// hierarchy is named as on the host; controllers that share one, such as cpu and
// cpuacct in "cpu,cpuacct", get links.
func cgroupDirs(paths map[string]string, v2 bool) []cgroupDir {
	const top = "/sys/fs/cgroup"
	byName := map[string]*cgroupDir{}
	for controller, dir := range paths {
		rel, err := filepath.Rel(top, dir)
		if err != nil || strings.HasPrefix(rel, "..") {
			continue
		}
		name, _, _ := strings.Cut(rel, "/")
		if v2 {
			name = "cgroup"
		}
		g := byName[name]
		if g == nil {
			g = &cgroupDir{CgroupDir: plan.CgroupDir{Name: name}, path: dir}
			byName[name] = g
		}
		if strings.Contains(name, ",") && controller != name {
			g.Links = append(g.Links, controller)
		}
	}
	list := make([]cgroupDir, 0, len(byName))
	for _, g := range byName {
		sort.Strings(g.Links)
		list = append(list, *g)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// hostProcs finds the host's mounts of proc and sysfs. With chroot in place of
// pivot_root the container could reach them: they are taken away.
func (c *creation) hostProcs() error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("find mounts of proc: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		left, right, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(left)
		fstype, _, _ := strings.Cut(right, " ")
		if ok && len(fields) > 4 && (fstype == "proc" || fstype == "sysfs") {
			c.in.HostProcs = append(c.in.HostProcs, unescape(fields[4]))
		}
	}
	return nil
}

// unescape reverses the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func selinuxEnabled() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}

func apparmorEnabled() bool {
	raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(raw) > 0 && raw[0] == 'Y'
}
