// Command runc is the OCI runtime: it creates and runs containers from bundles as
// the OCI runtime specification defines them. Its command line, exit codes and log
// format are those of the program whose name it bears, for the engines that
// execute it; the work is done by package lighter/runc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lighter/internal/linux/selfexec"
	"lighter/runc"
	"lighter/runc/plan"
	"lighter/runc/spec"
)

// version is the release of the interface that this program implements, in the
// numbering of the original; product and its version are Lighter's own.
const (
	version        = "1.5.0"
	product        = "Lighter"
	productVersion = "0.1.0"
)

// exitCode is an error that only sets the exit status: the program has run.
type exitCode int

func (e exitCode) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// app is what the commands share.
type app struct {
	rt   *runc.Runtime
	root string
	// rootGiven says that --root names root.
	rootGiven bool
	log       *slog.Logger
	stdout    io.Writer
	// failure is the exit status of an error.
	failure int
}

// command is a verb of the command line.
type command struct {
	name, args, usage string
	// forks says that it makes container processes: the program is sealed first.
	forks bool
	run   func(ctx context.Context, a *app, fs *flagSet, args []string) error
	flags func(fs *flagSet)
	// failure is the exit status when it fails, if not 1.
	failure int
	hidden  bool
}

func main() { os.Exit(start(os.Args[1:])) }

func start(args []string) int {
	// A runtime lives for milliseconds: collecting garbage is not worth it.
	debug.SetGCPercent(-1)
	selfexec.RestoreLimits()
	g := newFlagSet("runc")
	var logPath, logFormat, root string
	var debugLog, help, showVersion, ignoredBool bool
	var rootless string
	g.bool(&debugLog, "debug", "", "enable debug logging")
	g.string(&logPath, "log", "", "FILE", "write log to FILE (default: stderr)")
	g.string(&logFormat, "log-format", "", "text|json", "log format (default: text)")
	g.string(&root, "root", "", "DIR", "directory of container state (default: /run/runc)")
	g.bool(&ignoredBool, "systemd-cgroup", "", "not available: control groups are made in cgroupfs")
	g.string(&rootless, "rootless", "", "auto|true|false", "run without root privileges (default: auto)")
	g.bool(&help, "help", "h", "show help")
	g.bool(&showVersion, "version", "v", "print the version")
	rest, err := g.parse(args, true)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runc:", err)
		return 1
	}
	switch {
	case showVersion:
		printVersion(os.Stdout)
		return 0
	case help || len(rest) == 0 || rest[0] == "help" || rest[0] == "h":
		return printHelp(g, rest)
	}
	cmd := find(rest[0])
	if cmd == nil {
		// Docker compatibility: callers look for the first words.
		fmt.Fprintf(os.Stderr, "No help topic for '%s'\n", rest[0])
		return 3
	}
	rootGiven := root != ""
	if !rootGiven {
		root = defaultRoot()
	}
	log, closeLog, err := openLog(logPath, logFormat, debugLog)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runc:", err)
		return 1
	}
	defer closeLog()
	a := &app{root: root, rootGiven: rootGiven, log: log, stdout: os.Stdout, failure: max(cmd.failure, 1)}
	fail := func(err error) int {
		var code exitCode
		if errors.As(err, &code) {
			return int(code)
		}
		var step *plan.StepError
		if errors.As(err, &step) && step.Step.Nr == unix.SYS_EXECVE {
			// Docker compatibility: runc prints this and nothing else.
			if fmt.Fprintln(os.Stderr, step); logPath != "" {
				log.Error(err.Error())
			}
			return a.failure
		}
		log.Error(err.Error())
		if logPath != "" {
			// Callers read the log; people read this.
			fmt.Fprintln(os.Stderr, err)
		}
		return a.failure
	}
	if ignoredBool {
		return fail(errors.New("--systemd-cgroup: the systemd cgroup driver is not available in this runtime: use cgroupfs"))
	}
	switch rootless {
	case "", "auto", "true", "false":
	default:
		return fail(fmt.Errorf("--rootless: invalid value %q", rootless))
	}
	fs := newFlagSet("runc " + cmd.name)
	fs.bool(&help, "help", "h", "show help")
	if cmd.flags != nil {
		cmd.flags(fs)
	}
	operands, err := fs.parse(rest[1:], cmd.name == "exec" || cmd.name == "ps")
	if err != nil {
		return fail(fmt.Errorf("%s: %w", cmd.name, err))
	}
	if help {
		fmt.Printf("NAME:\n   runc %s - %s\n\nUSAGE:\n   runc %s [command options] %s\n\nOPTIONS:\n%s", cmd.name, cmd.usage, cmd.name, cmd.args, fs.usage())
		return 0
	}
	if cmd.forks {
		if err := selfexec.Seal(); err != nil {
			return fail(err)
		}
	}
	a.root, err = filepath.Abs(root)
	if err != nil {
		return fail(err)
	}
	a.rt = runc.New(runc.Config{Root: a.root, Log: log})
	if err := cmd.run(context.Background(), a, fs, operands); err != nil {
		return fail(err)
	}
	return 0
}

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); os.Geteuid() != 0 && dir != "" {
		return filepath.Join(dir, "runc")
	}
	return "/run/runc"
}

func printVersion(w io.Writer) {
	fmt.Fprintf(w, "runc version %s\nproduct: %s %s\nspec: %s\ngo: %s\n", version, product, productVersion, spec.Version, runtime.Version())
}

func printHelp(g *flagSet, rest []string) int {
	if len(rest) > 1 {
		if c := find(rest[1]); c != nil {
			fs := newFlagSet(c.name)
			if c.flags != nil {
				c.flags(fs)
			}
			fmt.Printf("NAME:\n   runc %s - %s\n\nUSAGE:\n   runc %s [command options] %s\n\nOPTIONS:\n%s", c.name, c.usage, c.name, c.args, fs.usage())
			return 0
		}
		fmt.Fprintf(os.Stderr, "runc: no such command: %q\n", rest[1])
		return 1
	}
	fmt.Printf("NAME:\n   runc - Open Container Initiative runtime (%s)\n\nUSAGE:\n   runc [global options] command [command options] [arguments...]\n\nVERSION:\n   %s\n\nCOMMANDS:\n", product, version)
	for i := range commands() {
		if c := commands()[i]; !c.hidden {
			fmt.Printf("   %-12s %s\n", c.name, c.usage)
		}
	}
	fmt.Printf("\nGLOBAL OPTIONS:\n%s", g.usage())
	return 0
}

func find(name string) *command {
	list := commands()
	for i := range list {
		if list[i].name == name {
			return &list[i]
		}
	}
	return nil
}

// openLog returns the logger that --log and --log-format ask for.
func openLog(path, format string, debugLog bool) (*slog.Logger, func() error, error) {
	var w io.Writer = os.Stderr
	closeLog := func() error { return nil }
	if path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, nil, err
		}
		w, closeLog = f, f.Close
	}
	level := slog.LevelInfo
	if debugLog {
		level = slog.LevelDebug
	}
	switch format {
	case "", "text":
		return slog.New(&textHandler{w: w, level: level}), closeLog, nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: replaceAttr})), closeLog, nil
	}
	return nil, nil, fmt.Errorf("--log-format: invalid format %q (must be text or json)", format)
}

// replaceAttr gives records the keys and level names that callers of runc parse:
// level, msg, time.
func replaceAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		return slog.String(slog.LevelKey, levelName(a.Value.Any().(slog.Level)))
	}
	return a
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	}
	return "error"
}

// textHandler writes records as runc does to a file or terminal: time, level and
// message as key=value.
type textHandler struct {
	w     io.Writer
	level slog.Level
	attrs []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "time=%q level=%s msg=%q", r.Time.Format("2006-01-02T15:04:05Z07:00"), levelName(r.Level), r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%q", a.Key, a.Value.String())
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	b.WriteByte('\n')
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{w: h.w, level: h.level, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// WithGroup is not used by this program: groups are flattened.
func (h *textHandler) WithGroup(string) slog.Handler { return h }

// printJSON writes v with the given indent.
func printJSON(w io.Writer, v any, indent string) error {
	e := json.NewEncoder(w)
	e.SetIndent("", indent)
	return e.Encode(v)
}
