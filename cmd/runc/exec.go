package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/runc"
)

func execCommand() command {
	return command{
		name: "exec", args: "<container-id> <command> [command options]", usage: "execute new process inside the container",
		forks: true, flags: execFlags, run: runExec, failure: 255,
	}
}

func execFlags(fs *flagSet) {
	fs.string(new(string), "console-socket", "", "SOCKET", "unix socket that receives the master end of the console")
	fs.string(new(string), "pidfd-socket", "", "SOCKET", "unix socket that receives a pidfd of the process")
	fs.string(new(string), "cwd", "", "DIR", "current working directory in the container")
	fs.strings(new([]string), "env", "e", "NAME=VALUE", "set an environment variable")
	fs.bool(new(bool), "tty", "t", "allocate a pseudo-TTY")
	fs.string(new(string), "user", "u", "UID[:GID]", "user of the process")
	fs.strings(new([]string), "additional-gids", "g", "GID", "additional group of the process")
	fs.string(new(string), "process", "p", "FILE", "path of a process.json")
	fs.bool(new(bool), "detach", "d", "detach from the process")
	fs.string(new(string), "pid-file", "", "FILE", "file to write the process id to")
	fs.string(new(string), "process-label", "", "LABEL", "SELinux label of the process")
	fs.string(new(string), "apparmor", "", "PROFILE", "AppArmor profile of the process")
	fs.bool(new(bool), "no-new-privs", "", "set no_new_privs for the process")
	fs.strings(new([]string), "cap", "c", "CAP", "add a capability to the bounding set of the process")
	fs.int(new(int), "preserve-fds", "", "pass N additional descriptors to the process")
	fs.strings(new([]string), "cgroup", "", "PATH", "run the process in a sub-cgroup; CONTROLLER[,CONTROLLER...]:PATH on cgroup v1 for these alone")
	fs.bool(new(bool), "ignore-paused", "", "allow exec in a paused container")
}

func runExec(ctx context.Context, a *app, fs *flagSet, args []string) error {
	least := 2
	if fs.set["process"] {
		least = 1
	}
	if err := operands(args, least, -1); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	id, detach := args[0], fs.set["detach"]
	p, err := execProcess(ctx, a, fs, id, args[1:])
	if err != nil {
		return err
	}
	o := runc.ExecOptions{
		Process: p, IgnorePaused: fs.set["ignore-paused"], PIDFD: pidfdSender(fs),
		Stdio: runc.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Newlines: fs.value("console-socket", "") == ""},
	}
	if o.Cgroups, err = subgroups(fs.list("cgroup")); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if o.PreserveFDs, err = preserved(fs); err != nil {
		return err
	}
	tty := &terminal{}
	o.Stdio.Console = console(fs, tty)
	if err := checkConsole(fs, p, detach); err != nil {
		return err
	}
	defer tty.close()
	var sigs *signals
	if !detach {
		sigs = catch()
	}
	pid, err := a.rt.Exec(ctx, id, o)
	if err != nil {
		return err
	}
	if err := writePID(fs, pid); err != nil {
		return err
	}
	if detach {
		return nil
	}
	code, err := supervise(pid, sigs, tty)
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

// subgroups parses the values of --cgroup.
func subgroups(list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, v := range list {
		controllers, path, ok := strings.Cut(v, ":")
		if !ok {
			controllers, path = "", v
		}
		if _, twice := m[controllers]; twice {
			return nil, fmt.Errorf("--cgroup: %q is given twice", controllers)
		}
		m[controllers] = path
	}
	return m, nil
}

// execProcess makes the process of an exec: that of --process, or init's with what
// the flags change.
func execProcess(ctx context.Context, a *app, fs *flagSet, id string, args []string) (*specs.Process, error) {
	if path := fs.value("process", ""); path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("exec: %w", err)
		}
		p := &specs.Process{}
		if err := json.Unmarshal(raw, p); err != nil {
			return nil, fmt.Errorf("exec: process file %q: %w", path, err)
		}
		return p, nil
	}
	s, err := a.rt.Spec(ctx, id)
	if err != nil {
		return nil, err
	}
	p := s.Process
	p.Args, p.Terminal, p.ConsoleSize = args, fs.set["tty"], nil
	p.Cwd = fs.value("cwd", p.Cwd)
	p.SelinuxLabel = fs.value("process-label", p.SelinuxLabel)
	p.ApparmorProfile = fs.value("apparmor", p.ApparmorProfile)
	p.NoNewPrivileges = p.NoNewPrivileges || fs.set["no-new-privs"]
	p.Env = append(p.Env, fs.list("env")...)
	if v := fs.value("user", ""); v != "" {
		uid, gid, hasGID := strings.Cut(v, ":")
		if p.User.UID, err = parseID(uid); err != nil {
			return nil, fmt.Errorf("exec: --user: %w", err)
		}
		if hasGID {
			if p.User.GID, err = parseID(gid); err != nil {
				return nil, fmt.Errorf("exec: --user: %w", err)
			}
		}
	}
	for _, g := range fs.list("additional-gids") {
		n, err := parseID(g)
		if err != nil {
			return nil, fmt.Errorf("exec: --additional-gids: %w", err)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, n)
	}
	if add := fs.list("cap"); len(add) > 0 {
		c := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			c = *p.Capabilities
		}
		c.Bounding, c.Effective, c.Permitted = append(c.Bounding, add...), append(c.Effective, add...), append(c.Permitted, add...)
		if len(c.Inheritable) > 0 {
			// Only an inheritable capability can be ambient.
			c.Inheritable, c.Ambient = append(c.Inheritable, add...), append(c.Ambient, add...)
		}
		p.Capabilities = &c
	}
	return p, nil
}

// parseID parses a user or group ID: digits, never a name.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("invalid id %q", s)
	}
	return uint32(n), nil
}
