package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/socket"
	"golang.org/x/term"

	"lighter/cli/session"
)

// forcedAfter is how many signals end docker although its plugin goes on.
const forcedAfter = 3

// Run runs the plugin with the arguments that docker was given and returns a
// *session.StatusError with its exit code if that is not 0.
//
// On a terminal the plugin gets the user's signals itself. Else the first
// signal closes the plugin's socket, which asks it to end; the third kills it.
func (p Plugin) Run(ctx context.Context, s *session.Session, args []string) error {
	cmd := exec.Command(p.Path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
	cmd.Env = append(os.Environ(), metadata.ReexecEnvvar+"="+os.Args[0])
	server, err := socket.NewPluginServer(nil)
	if err == nil { // without it a plugin only misses the wish to end
		defer server.Close()
		cmd.Env = append(cmd.Env, socket.EnvKey+"="+server.Addr().String())
	}
	signals := make(chan os.Signal, forcedAfter)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	s.Log().Debug("Plugin", "path", p.Path, "args", args)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start plugin %s: %w", p.Name, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	onTerminal := s.InIsTerminal() || term.IsTerminal(int(os.Stderr.Fd()))
	for got := 0; ; {
		select {
		case err := <-exited:
			return exitStatus(err)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), cmd.Process.Kill(), <-exited)
		case <-signals:
			got++
			if got >= forcedAfter {
				fmt.Fprintf(s.Err, "got %d SIGTERM/SIGINTs, forcefully exiting\n", forcedAfter)
				return errors.Join(cmd.Process.Kill(), exitStatus(<-exited))
			}
			if !onTerminal {
				server.Close()
			}
		}
	}
}

// exitStatus is the plugin's end as docker's own.
func exitStatus(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &session.StatusError{Code: 128 + int(ws.Signal())}
	}
	return &session.StatusError{Code: exit.ExitCode()}
}
