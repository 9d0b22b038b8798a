// Package session is one invocation of the docker command line: its streams,
// its configuration and its connection to an engine.
package session

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lighter/internal/atomicfile"
)

// Session is shared by the commands of one invocation. It belongs to one
// goroutine until Client has been called.
type Session struct {
	In       *os.File
	Out, Err io.Writer
	// Hosts are the values of -H; without one DOCKER_HOST or the default socket
	// is used.
	Hosts     []string
	TLS       TLS
	Context   string // of -c
	ConfigDir string // of --config
	LogLevel  string
	Debug     bool

	client client.APIClient
	file   *configfile.ConfigFile
	log    *slog.Logger
}

// StatusError ends the program with a code. Text, if there is any, goes to
// standard error first.
type StatusError struct {
	Code int
	Text string
}

func (e *StatusError) Error() string { return e.Text }

// Config returns config.json; a missing file is an empty one.
func (s *Session) Config() *configfile.ConfigFile {
	if s.file == nil {
		file, err := config.Load(s.Dir())
		if err != nil {
			fmt.Fprintln(s.Err, "WARNING:", err)
		}
		s.file = file
	}
	return s.file
}

// Dir is the directory of config.json, contexts and plugins.
func (s *Session) Dir() string {
	if s.ConfigDir != "" {
		return s.ConfigDir
	}
	if dir := os.Getenv(config.EnvOverrideConfigDir); dir != "" {
		return dir
	}
	return config.Dir()
}

// Log is for what a user asked to see with -D or --log-level; it goes to
// standard error.
func (s *Session) Log() *slog.Logger {
	if s.log == nil {
		s.log = slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: s.Level()}))
	}
	return s.log
}

// Level is the least level that is logged.
func (s *Session) Level() slog.Level {
	switch {
	case s.Debug || s.LogLevel == "debug" || s.LogLevel == "trace":
		return slog.LevelDebug
	case s.LogLevel == "warn" || s.LogLevel == "warning":
		return slog.LevelWarn
	case s.LogLevel == "error" || s.LogLevel == "fatal" || s.LogLevel == "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// DetachKeys returns flag, or the configured keys when it is empty.
func (s *Session) DetachKeys(flag string) string {
	if flag != "" {
		return flag
	}
	return s.Config().DetachKeys
}

// InIsTerminal and OutIsTerminal report whether a person is at the other end.
func (s *Session) InIsTerminal() bool { return term.IsTerminal(int(s.In.Fd())) }

// OutIsTerminal reports whether standard output is a terminal.
func (s *Session) OutIsTerminal() bool {
	f, ok := s.Out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Size returns the terminal's height and width in characters; zeros without one.
func (s *Session) Size() (height, width uint) {
	f, ok := s.Out.(*os.File)
	if !ok {
		return 0, 0
	}
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return uint(h), uint(w)
}

// Exactly, AtLeast and NoArgs check a command's arguments in Docker's words.
func Exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argumentError(cmd, fmt.Sprintf("requires %d %s", n, plural(n, "argument")))
	}
}

// AtLeast wants n arguments or more.
func AtLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argumentError(cmd, fmt.Sprintf("requires at least %d %s", n, plural(n, "argument")))
	}
}

// Between wants from low to high arguments.
func Between(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && len(args) <= high {
			return nil
		}
		return argumentError(cmd, fmt.Sprintf("requires at least %d and at most %d %s", low, high, plural(high, "argument")))
	}
}

// NoArgs wants none.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return fmt.Errorf("docker: unknown command: %s %s\n\nUsage:  %s\n\nRun '%s --help' for more information", cmd.CommandPath(), args[0], cmd.UseLine(), cmd.CommandPath())
	}
	return argumentError(cmd, "accepts no arguments")
}

// Help answers a command that lacks its verb: on standard error, with success.
func Help(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	return cmd.Help()
}

func argumentError(cmd *cobra.Command, what string) error {
	return fmt.Errorf("docker: '%s' %s\n\nUsage:  %s\n\nRun '%s --help' for more information", cmd.CommandPath(), what, cmd.UseLine(), cmd.CommandPath())
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// Each calls f for every name, prints a name when f succeeded, and reports all
// failures: the exit code is 1 when there is any.
func (s *Session) Each(names []string, f func(name string) error) error {
	var failed []error
	for _, name := range names {
		if err := f(name); err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintln(s.Out, name)
	}
	return errors.Join(failed...)
}

// Timeout reads a -t/--time flag: nil when it was not given.
func Timeout(cmd *cobra.Command, name string) (*int, error) {
	f := cmd.Flags().Lookup(name)
	if f == nil || !f.Changed {
		return nil, nil
	}
	n, err := strconv.Atoi(f.Value.String())
	return &n, err
}

// Filters parses --filter values, key=value each.
func Filters(values []string) (client.Filters, error) {
	f := make(client.Filters)
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, fmt.Errorf("invalid argument %q for \"-f, --filter\" flag: bad format of filter (expected name=value)", v)
		}
		f.Add(strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value))
	}
	return f, nil
}

// CopyOutput copies a container's output, framed unless it is a terminal's.
func (s *Session) CopyOutput(r io.Reader, tty bool) error {
	return s.copyOutput(r, Streams{TTY: tty, Stdout: true, Stderr: true})
}

// Save copies r to the file at path, or to standard output when path is "". A
// file is written under another name first, so that a failure leaves none.
func (s *Session) Save(path string, r io.Reader) error {
	if path == "" {
		_, err := io.Copy(s.Out, r)
		return err
	}
	return atomicfile.WriteFrom(path, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// Confirm asks before something is removed; force answers yes.
func (s *Session) Confirm(force bool, warning string) (bool, error) {
	if force {
		return true, nil
	}
	fmt.Fprintf(s.Out, "%s\nAre you sure you want to continue? [y/N] ", warning)
	var answer string
	if _, err := fmt.Fscanln(s.In, &answer); err != nil && answer == "" {
		return false, nil
	}
	return strings.EqualFold(answer, "y"), nil
}
