package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

func newStartCommand(s *session.Session) *cobra.Command {
	var attach, interactive bool
	var detachKeys string
	var from client.ContainerStartOptions
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			if from.CheckpointID != "" {
				if len(args) > 1 {
					return errors.New("you cannot restore multiple containers at once")
				}
				_, err := c.ContainerStart(cmd.Context(), args[0], from)
				return err
			}
			if attach || interactive {
				if len(args) > 1 {
					return errors.New("you cannot start and attach multiple containers at once")
				}
				return attachTo(cmd.Context(), s, c, args[0], true, interactive, true, s.DetachKeys(detachKeys))
			}
			return s.Each(args, func(name string) error {
				_, err := c.ContainerStart(cmd.Context(), name, client.ContainerStartOptions{})
				return err
			})
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	fs.BoolVarP(&interactive, "interactive", "i", false, "Attach container's STDIN")
	fs.StringVar(&detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	fs.StringVar(&from.CheckpointID, "checkpoint", "", "Restore from this checkpoint")
	fs.StringVar(&from.CheckpointDir, "checkpoint-dir", "", "Use a custom checkpoint storage directory")
	return cmd
}

func newAttachCommand(s *session.Session) *cobra.Command {
	var noStdin, sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output, and error streams to a running container",
		Args:  session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			return attachTo(cmd.Context(), s, c, args[0], false, !noStdin, sigProxy, s.DetachKeys(detachKeys))
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	fs.BoolVar(&sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	fs.StringVar(&detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

func attachTo(ctx context.Context, s *session.Session, c client.APIClient, name string, start, stdin, sigProxy bool, detachKeys string) error {
	res, err := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	ctr := res.Container
	if !start {
		switch {
		case !ctr.State.Running:
			return errors.New("cannot attach to a stopped container, start it first")
		case ctr.State.Paused:
			return errors.New("cannot attach to a paused container, unpause it first")
		case ctr.State.Restarting:
			return errors.New("cannot attach to a restarting container, wait until it is running")
		}
	}
	stdin = stdin && ctr.Config.OpenStdin
	if ctr.Config.Tty && stdin && !s.InIsTerminal() {
		return errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")
	}
	f := foreground{
		id: ctr.ID, tty: ctr.Config.Tty, start: start, removed: start && ctr.HostConfig.AutoRemove,
		sigProxy: sigProxy && !ctr.Config.Tty,
		streams: session.Streams{
			TTY: ctr.Config.Tty, Stdin: stdin, Stdout: true, Stderr: true, DetachKeys: detachKeys,
		},
	}
	return f.run(context.WithoutCancel(ctx), s, c)
}

func newExecCommand(s *session.Session) *cobra.Command {
	var o client.ExecCreateOptions
	var interactive, detach bool
	var env, envFiles []string
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  session.AtLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.Env, err = environment(envFiles, env); err != nil {
				return err
			}
			o.Cmd, o.DetachKeys = args[1:], s.DetachKeys(o.DetachKeys)
			if !detach {
				o.AttachStdin, o.AttachStdout, o.AttachStderr = interactive, true, true
			}
			if o.TTY && interactive && !detach && !s.InIsTerminal() {
				return &session.StatusError{Code: 1, Text: "the input device is not a TTY"}
			}
			return execute(cmd.Context(), s, args[0], o, detach)
		},
	}
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	fs.BoolVarP(&interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	fs.BoolVarP(&o.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	fs.BoolVarP(&detach, "detach", "d", false, "Detached mode: run command in the background")
	fs.BoolVar(&o.Privileged, "privileged", false, "Give extended privileges to the command")
	fs.StringVarP(&o.User, "user", "u", "", "Username or UID (format: \"<name|uid>[:<group|gid>]\")")
	fs.StringVarP(&o.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	fs.StringArrayVarP(&env, "env", "e", nil, "Set environment variables")
	fs.StringArrayVar(&envFiles, "env-file", nil, "Read in a file of environment variables")
	fs.StringVar(&o.DetachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

func execute(ctx context.Context, s *session.Session, name string, o client.ExecCreateOptions, detach bool) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if h, w := s.Size(); o.TTY {
		o.ConsoleSize = client.ConsoleSize{Height: h, Width: w}
	}
	created, err := c.ExecCreate(ctx, name, o)
	if err != nil {
		return err
	}
	if detach {
		_, err := c.ExecStart(ctx, created.ID, client.ExecStartOptions{Detach: true, TTY: o.TTY})
		return err
	}
	conn, err := c.ExecAttach(ctx, created.ID, client.ExecAttachOptions{TTY: o.TTY, ConsoleSize: o.ConsoleSize})
	if err != nil {
		return err
	}
	if o.TTY && s.OutIsTerminal() {
		go s.WatchSize(ctx, func(h, w uint) { // ends with ctx
			c.ExecResize(ctx, created.ID, client.ExecResizeOptions{Height: h, Width: w})
		})
	}
	err = s.Pump(ctx, conn.HijackedResponse, session.Streams{
		TTY: o.TTY, Stdin: o.AttachStdin, Stdout: o.AttachStdout, Stderr: o.AttachStderr, DetachKeys: o.DetachKeys,
	})
	if err != nil {
		return err
	}
	res, err := c.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	if err != nil {
		return fmt.Errorf("read how the command ended: %w", err)
	}
	if res.ExitCode != 0 {
		return &session.StatusError{Code: res.ExitCode}
	}
	return nil
}
