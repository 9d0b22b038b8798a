package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/linux/selfexec"
	"lighter/runc"
)

// commands are the verbs, in the order of the help text. A list is made anew at
// each call so that nothing is shared.
func commands() []command {
	return []command{
		{name: "checkpoint", args: "<container-id>", usage: "checkpoint a running container (not implemented)", run: notImplemented("checkpoint")},
		createCommand(),
		{name: "delete", args: "<container-id>", usage: "delete any resources held by the container", flags: deleteFlags, run: runDelete},
		{name: "events", args: "<container-id>", usage: "display container events such as OOM notifications, cpu, memory, and IO usage statistics", flags: eventsFlags, run: runEvents},
		execCommand(),
		{name: "features", usage: "show the enabled features", run: runFeatures},
		{name: "kill", args: "<container-id> [signal]", usage: "send a signal (default: SIGTERM) to the container's init process", flags: killFlags, run: runKill},
		{name: "list", usage: "list containers", flags: listFlags, run: runList},
		{name: "pause", args: "<container-id>", usage: "suspend all processes inside the container", run: runPause},
		{name: "plan", usage: "print the system calls that set the bundle's container up", flags: planFlags, run: runPlan},
		{name: "ps", args: "<container-id> [ps options]", usage: "display the processes running inside a container", flags: psFlags, run: runPs},
		{name: "restore", args: "<container-id>", usage: "restore a container from a checkpoint (not implemented)", run: notImplemented("restore")},
		{name: "resume", args: "<container-id>", usage: "resume all processes that have been paused", run: runResume},
		runCommand(),
		{name: "spec", usage: "create a new specification file", flags: specFlags, run: runSpec},
		{name: "start", args: "<container-id>", usage: "execute the program of a created container", run: runStart},
		{name: "state", args: "<container-id>", usage: "output the state of a container", run: runState},
		{name: "update", args: "<container-id>", usage: "update container resource constraints", flags: updateFlags, run: runUpdate},
	}
}

func notImplemented(what string) func(context.Context, *app, *flagSet, []string) error {
	return func(context.Context, *app, *flagSet, []string) error {
		return fmt.Errorf("%s: not implemented", what)
	}
}

func runStart(ctx context.Context, a *app, _ *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	info, err := a.rt.Info(ctx, args[0])
	if err != nil {
		return err
	}
	if info.StartHooks {
		// They are processes of ours inside the container.
		if err := selfexec.Seal(); err != nil {
			return err
		}
	}
	return a.rt.Start(ctx, args[0])
}

func runPause(ctx context.Context, a *app, _ *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	return a.rt.Pause(ctx, args[0])
}

func runResume(ctx context.Context, a *app, _ *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	return a.rt.Resume(ctx, args[0])
}

func deleteFlags(fs *flagSet) {
	fs.bool(new(bool), "force", "f", "kill the container if it is running; no error if it does not exist")
}

func runDelete(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	return a.rt.Delete(ctx, args[0], fs.set["force"])
}

func killFlags(fs *flagSet) {
	fs.bool(new(bool), "all", "a", "signal all processes of the container")
}

func runKill(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 1, 2); err != nil {
		return err
	}
	sig := unix.SIGTERM
	if len(args) == 2 {
		var err error
		if sig, err = parseSignal(args[1]); err != nil {
			return err
		}
	}
	return a.rt.Kill(ctx, args[0], sig, fs.set["all"])
}

func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("invalid signal %q", s)
		}
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	const rtmin, rtmax = 34, 64
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+")); err == nil && rtmin+n <= rtmax {
			return syscall.Signal(rtmin + n), nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "-")); err == nil && rtmax-n >= rtmin {
			return syscall.Signal(rtmax - n), nil
		}
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

// stateJSON is the state as `runc state` and `runc list` print it.
type stateJSON struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func toState(i runc.Info) stateJSON {
	s := stateJSON{
		Version: i.OCIVersion, ID: i.ID, PID: i.PID, Status: string(i.Status), Bundle: i.Bundle, Rootfs: i.Rootfs,
		Created: i.Created, Annotations: i.Annotations,
	}
	if i.Status == specs.StateStopped {
		s.PID = 0
	}
	if u, err := user.LookupId(strconv.Itoa(i.UID)); err == nil && i.UID != 0 {
		s.Owner = u.Username
	}
	return s
}

func runState(ctx context.Context, a *app, _ *flagSet, args []string) error {
	if err := operands(args, 1, 1); err != nil {
		return err
	}
	info, err := a.rt.Info(ctx, args[0])
	if err != nil {
		return err
	}
	return printJSON(a.stdout, toState(info), "  ")
}

func listFlags(fs *flagSet) {
	fs.string(new(string), "format", "f", "table|json", "output format (default: table)")
	fs.bool(new(bool), "quiet", "q", "display only container IDs")
}

func runList(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 0, 0); err != nil {
		return err
	}
	if a.rootGiven {
		// A root that was named and is not there is a mistake; the default one is
		// made by the first container.
		if _, err := os.Stat(a.root); err != nil {
			return err
		}
	}
	list, err := a.rt.List(ctx)
	if err != nil {
		return err
	}
	rows := make([]stateJSON, 0, len(list))
	for _, i := range list {
		rows = append(rows, toState(i))
	}
	switch format := fs.value("format", "table"); {
	case fs.set["quiet"]:
		for _, s := range rows {
			fmt.Fprintln(a.stdout, s.ID)
		}
	case format == "json":
		return json.NewEncoder(a.stdout).Encode(rows)
	case format == "table":
		w := tabwriter.NewWriter(a.stdout, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, s := range rows {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.PID, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
		}
		return w.Flush()
	default:
		return fmt.Errorf("invalid format option %q", format)
	}
	return nil
}

func psFlags(fs *flagSet) {
	fs.string(new(string), "format", "f", "table|json", "output format (default: table)")
}

func runPs(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 1, -1); err != nil {
		return err
	}
	// Docker compatibility: flags may follow the container ID, unlike ps's own.
	pids, err := a.rt.Pids(ctx, args[0])
	if err != nil {
		return err
	}
	if pids == nil {
		pids = []int{}
	}
	switch format := fs.value("format", "table"); format {
	case "json":
		return json.NewEncoder(a.stdout).Encode(pids)
	case "table":
	default:
		return fmt.Errorf("invalid format option %q", format)
	}
	psArgs := args[1:]
	if len(psArgs) == 0 {
		psArgs = []string{"-ef"}
	}
	out, err := exec.Command("ps", psArgs...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ps: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return filterPs(a.stdout, string(out), pids)
}

// filterPs copies the head of ps's output and the lines of pids.
func filterPs(w io.Writer, out string, pids []int) error {
	lines := strings.Split(out, "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Fprintln(w, lines[0])
	for _, l := range lines[1:] {
		fields := strings.Fields(l)
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Fprintln(w, l)
		}
	}
	return nil
}

func planFlags(fs *flagSet) {
	fs.string(new(string), "bundle", "b", "DIR", "path of the bundle (default: the current directory)")
	fs.string(new(string), "format", "f", "text|json", "output format (default: text)")
}

func runPlan(ctx context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 0, 1); err != nil {
		return err
	}
	bundle := fs.value("bundle", ".")
	if len(args) == 1 {
		bundle = args[0]
	}
	p, err := a.rt.Plan(ctx, bundle)
	if err != nil {
		return err
	}
	if fs.value("format", "text") == "json" {
		return printJSON(a.stdout, p, "  ")
	}
	_, err = io.WriteString(a.stdout, p.String())
	return err
}

func specFlags(fs *flagSet) {
	fs.string(new(string), "bundle", "b", "DIR", "path of the bundle (default: the current directory)")
	fs.bool(new(bool), "rootless", "", "generate a configuration for a rootless container")
}

func runSpec(_ context.Context, a *app, fs *flagSet, args []string) error {
	if err := operands(args, 0, 0); err != nil {
		return err
	}
	path := filepath.Join(fs.value("bundle", "."), "config.json")
	raw, err := json.MarshalIndent(exampleSpec(fs.set["rootless"]), "", "\t")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("file %s exists: remove it first", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	return errors.Join(err, f.Close())
}
