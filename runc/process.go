//lint:file-ignore SA1019 prestart hooks are deprecated, and still part of the specification.

package runc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/runc/plan"
	"lighter/runc/rootfs"
	"lighter/runc/seccomp"
	"lighter/runc/state"
	"lighter/runc/user"
)

const defaultUmask = 0o022

// process translates the configuration of init.
func (c *creation) process(gate bool) error {
	hooks := c.spec.Hooks
	c.in.WaitMounted = len(c.spec.Linux.NetDevices) > 0 ||
		hooks != nil && len(hooks.Prestart)+len(hooks.CreateRuntime)+len(hooks.CreateContainer) > 0
	p, err := c.r.translate(c.spec.Process, c.spec, c.in.NewUser)
	if err != nil {
		return err
	}
	c.in.Process = p
	p.Gate, p.PreserveFDs, p.Tasks = gate, c.opts.PreserveFDs, c.tasks
	p.Personality, p.Memory = c.spec.Linux.Personality, c.spec.Linux.MemoryPolicy
	p.KeepGroups = c.in.Rootless && len(p.Groups) == 0
	p.Affinity = allCPUs()
	if c.in.Wait {
		p.OOMScoreAdj = nil // written by the parent, in adopt
	}
	if c.in.NewUser && len(p.Rlimits) > 0 {
		// Raising a limit takes a privilege outside of the user namespace.
		p.Rlimits, p.WaitRlimits = nil, true
	}
	if p.Env, err = c.r.environment(c.spec.Process, c.files[plan.RootFile], c.rec.Rootfs); err != nil {
		return err
	}
	if gate {
		for name, file := range map[string]string{plan.GateFile: state.GateFile, plan.ExecStatusFile: state.StatusFile} {
			f, err := c.dir.Fifo(file)
			if err != nil {
				return err
			}
			c.files[name] = f
		}
	}
	c.console, err = stdio(p, c.opts.Stdio, c.files, hostUID(p.UID, c.spec.Linux.UIDMappings))
	return err
}

// oomScore writes oom_score_adj of a waiting child.
func (c *creation) oomScore(pid int) error {
	return writeOOMScore(pid, c.spec.Process.OOMScoreAdj)
}

func writeOOMScore(pid int, score *int) error {
	if score == nil {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(*score)), 0)
	if err != nil && os.Geteuid() != 0 && errors.Is(err, unix.EACCES) {
		return nil // an unprivileged process cannot make itself a lesser target
	}
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	return nil
}

// setRlimits sets the limits of a child in a user namespace.
func (c *creation) setRlimits(pid int) error {
	for _, l := range c.spec.Process.Rlimits {
		id, err := plan.RlimitID(l.Type)
		if err != nil {
			return err
		}
		if err := unix.Prlimit(pid, int(id), &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set %s to %d:%d: %w", l.Type, l.Soft, l.Hard, err)
		}
	}
	return nil
}

// translate makes a plan.Process from p, a process of a container of s.
func (r *Runtime) translate(p *specs.Process, s *specs.Spec, newUser bool) (*plan.Process, error) {
	out := &plan.Process{
		Args: p.Args, Cwd: p.Cwd, Umask: defaultUmask, UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids,
		NoNewPrivs: p.NoNewPrivileges, Rlimits: p.Rlimits, Scheduler: p.Scheduler, IOPriority: p.IOPriority,
		Terminal: p.Terminal, Console: p.ConsoleSize, OOMScoreAdj: p.OOMScoreAdj,
	}
	if p.User.Umask != nil {
		out.Umask = *p.User.Umask & 0o777
	}
	have, err := boundingSet()
	if err != nil {
		return nil, err
	}
	if newUser {
		have = 1<<len(plan.CapNames) - 1
		if n, err := lastCap(); err == nil {
			have = 1<<(n+1) - 1
		}
	}
	out.Have = have
	caps, left, lost := plan.ParseCaps(p.Capabilities, have)
	if len(left) > 0 {
		r.log.Warn("capabilities are unknown or not available, and left out", "capabilities", left)
	}
	for _, name := range lost {
		// Docker compatibility: the words are runc's.
		r.log.Warn("can't raise ambient capability " + name + ": it is not both permitted and inheritable")
	}
	out.Caps = caps
	if p.ApparmorProfile != "" {
		switch {
		case apparmorEnabled():
			out.AppArmor = p.ApparmorProfile
		case p.ApparmorProfile != "unconfined":
			return nil, fmt.Errorf("process.apparmorProfile: AppArmor is not enabled on this host: %w", errdefs.ErrInvalidArgument)
		}
	}
	if p.SelinuxLabel != "" {
		if !selinuxEnabled() {
			return nil, fmt.Errorf("process.selinuxLabel: SELinux is not enabled on this host: %w", errdefs.ErrInvalidArgument)
		}
		out.SELinux = p.SelinuxLabel
	}
	if s.Linux.Seccomp != nil {
		prog, err := seccomp.Compile(s.Linux.Seccomp)
		if err != nil {
			return nil, fmt.Errorf("linux.seccomp: %w", err)
		}
		if prog != nil && len(prog.Filter) > 0 {
			flags := prog.Flags
			if prog.Listener {
				flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
			}
			r.log.Debug(fmt.Sprintf("seccomp filter flags: %d", flags), "instructions", len(prog.Filter))
			out.Filter = &plan.Filter{Program: prog.Filter, Flags: prog.Flags, Listener: prog.Listener}
		}
	}
	return out, nil
}

// environment completes the environment of p. HOME comes from the container's
// passwd file, of which root is the root directory; nil opens path.
func (r *Runtime) environment(p *specs.Process, root *os.File, path string) ([]string, error) {
	home := ""
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "HOME="); ok {
			home = v
		}
	}
	if home == "" {
		if root == nil {
			f, err := os.Open(path)
			if err != nil {
				return nil, fmt.Errorf("find home directory: %w", err)
			}
			defer f.Close()
			root = f
		}
		var err error
		if home, err = user.Home(root, p.User.UID); err != nil || home == "" {
			home = "/" // as for a user that is not in the file
		}
	}
	return plan.Environment(p.Env, home), nil
}

// stdio fills in what the child's standard descriptors are. With a terminal it
// returns this end of the socket that the master arrives on.
func stdio(p *plan.Process, s Stdio, files map[string]*os.File, owner int) (*os.File, error) {
	if p.Terminal {
		if s.Console == nil {
			return nil, fmt.Errorf("process.terminal: nobody takes the console: %w", errdefs.ErrInvalidArgument)
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socketpair", err)
		}
		files[plan.ConsoleFile] = os.NewFile(uintptr(pair[1]), "console")
		p.Newlines = s.Newlines
		return os.NewFile(uintptr(pair[0]), "console"), nil
	}
	for i, f := range []*os.File{s.In, s.Out, s.Err} {
		var st unix.Stat_t
		if f != nil {
			// The program gets a file that blocks (Fd sees to that), at a number that
			// no dup3 of the plan overwrites before it is used.
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				return nil, fmt.Errorf("standard descriptor %d: %w", i, err)
			}
		}
		if f == nil || rootfs.IsNull(&st) {
			if files[plan.NullFile] == nil {
				null, err := rootfs.OpenNull()
				if err != nil {
					return nil, err
				}
				files[plan.NullFile] = null
			}
			continue
		}
		d, err := dup(f)
		if err != nil {
			return nil, fmt.Errorf("standard descriptor %d: %w", i, err)
		}
		files[plan.StdioFiles[i]] = d
		p.Stdio[i] = true
		// So that the program can open /dev/stdout. Files and devices that others
		// own are left alone (CVE-2024-21626's neighbours: the host's /dev/null).
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFIFO, unix.S_IFSOCK:
			p.ChownStdio[i] = int(st.Uid) != owner
		}
	}
	return nil, nil
}

// hostUID returns the host's id of a container's user, or -1.
func hostUID(uid uint32, ids []specs.LinuxIDMapping) int {
	if len(ids) == 0 {
		return int(uid)
	}
	for _, m := range ids {
		if uid >= m.ContainerID && uid-m.ContainerID < m.Size {
			return int(m.HostID + uid - m.ContainerID)
		}
	}
	return -1
}

// allCPUs is a mask of every CPU: the kernel cuts it down to the cpuset, so that a
// container does not inherit the affinity of whoever made it.
func allCPUs() []byte {
	mask := make([]byte, 1024/8)
	for i := range mask {
		mask[i] = 0xff
	}
	return mask
}
