package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"lighter/cli/image"
	"lighter/cli/session"
)

// The exit codes of run and exec that are not the container's own.
const (
	codeDaemon        = 125 // the engine refused or failed
	codeNotExecutable = 126
	codeNotFound      = 127
)

func newCreateCommand(s *session.Session) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := o.create(cmd, s, args[0], args[1:])
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, id)
			return nil
		},
	}
	o.register(cmd.Flags())
	return cmd
}

func newRunCommand(s *session.Session) *cobra.Command {
	var o createOptions
	var sigProxy bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, s, args[0], args[1:], sigProxy, s.DetachKeys(detachKeys))
		},
	}
	fs := cmd.Flags()
	o.register(fs)
	fs.BoolVarP(&o.detach, "detach", "d", false, "Run container in background and print container ID")
	fs.BoolVar(&sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	fs.StringVar(&detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

// create pulls the image when the policy says so and creates the container. What
// the engine refuses is returned as it is.
func (o *createOptions) create(cmd *cobra.Command, s *session.Session, ref string, command []string) (string, error) {
	ctx := cmd.Context()
	if err := image.CheckTrust(cmd.Flags()); err != nil {
		return "", &session.StatusError{Code: codeDaemon, Text: err.Error()}
	}
	networking, err := o.build(cmd, ref, command)
	if err != nil {
		return "", &session.StatusError{Code: codeDaemon, Text: err.Error()}
	}
	var platform *ocispec.Platform
	if o.platform != "" {
		p, err := platforms.Parse(o.platform)
		if err != nil {
			return "", err
		}
		platform = &p
	}
	if o.cidfile != "" {
		if _, err := os.Stat(o.cidfile); err == nil {
			return "", &session.StatusError{Code: codeDaemon, Text: fmt.Sprintf("container ID file found, make sure the other container isn't running or delete %s", o.cidfile)}
		}
	}
	c, err := s.Client()
	if err != nil {
		return "", err
	}
	o.config.Env = s.WithProxies(c, o.config.Env)
	switch o.pull {
	case "always":
		if err := image.Pull(ctx, s, c, ref, o.platform, o.quiet, s.Err); err != nil {
			return "", err
		}
	case "missing", "never":
	default:
		return "", fmt.Errorf("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"", o.pull)
	}
	opts := client.ContainerCreateOptions{
		Config: &o.config, HostConfig: &o.host, NetworkingConfig: networking, Platform: platform, Name: o.name,
	}
	created, err := c.ContainerCreate(ctx, opts)
	if errdefs.IsNotFound(err) && o.pull == "missing" && imageMissing(ctx, c, ref) {
		fmt.Fprintf(s.Err, "Unable to find image '%s' locally\n", image.Familiar(ref))
		if err := image.Pull(ctx, s, c, ref, o.platform, o.quiet, s.Err); err != nil {
			return "", err
		}
		created, err = c.ContainerCreate(ctx, opts)
	}
	if err != nil {
		return "", err
	}
	for _, w := range created.Warnings {
		fmt.Fprintf(s.Err, "WARNING: %s\n", w)
	}
	if o.cidfile != "" {
		if err := os.WriteFile(o.cidfile, []byte(created.ID), 0o666); err != nil {
			return "", fmt.Errorf("failed to write the container ID to the file: %w", err)
		}
	}
	return created.ID, nil
}

// imageMissing tells a missing image from other things not found, such as a
// network.
func imageMissing(ctx context.Context, c client.APIClient, ref string) bool {
	_, err := c.ImageInspect(ctx, ref)
	return errdefs.IsNotFound(err)
}

// daemonError is how run, whose exit code is else that of the container, reports
// that there is none.
func daemonError(err error) error {
	return &session.StatusError{Code: codeDaemon, Text: "docker: " + err.Error() + "\n\nRun 'docker run --help' for more information"}
}

// startError picks the exit code that tells a shell why the command did not
// start. The API says it in words only, which are Docker's.
func startError(err error) error {
	text := err.Error()
	code := codeDaemon
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		code = codeNotFound
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"), strings.Contains(text, "exec format error"):
		code = codeNotExecutable
	}
	return &session.StatusError{Code: code, Text: "docker: " + text + "\n\nRun 'docker run --help' for more information"}
}

func (o *createOptions) run(cmd *cobra.Command, s *session.Session, ref string, command []string, sigProxy bool, detachKeys string) error {
	if o.tty && o.interactive && !o.detach && !s.InIsTerminal() {
		return &session.StatusError{Code: 1, Text: "the input device is not a TTY"}
	}
	if h, w := s.Size(); o.tty {
		o.host.ConsoleSize = [2]uint{h, w}
	}
	id, err := o.create(cmd, s, ref, command)
	if _, ok := errors.AsType[*session.StatusError](err); err != nil && !ok {
		return daemonError(err)
	}
	if err != nil {
		return err
	}
	c, err := s.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	if o.detach {
		if _, err := c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			return startError(err)
		}
		fmt.Fprintln(s.Out, id)
		return nil
	}
	f := foreground{
		id: id, tty: o.config.Tty, removed: o.host.AutoRemove, sigProxy: sigProxy && !o.tty,
		streams: session.Streams{
			TTY: o.config.Tty, Stdin: o.config.AttachStdin, Stdout: o.config.AttachStdout, Stderr: o.config.AttachStderr, DetachKeys: detachKeys,
		},
		start: true,
	}
	return f.run(ctx, s, c)
}

// foreground is a container whose streams are this program's, and whose exit
// code becomes this program's.
type foreground struct {
	id       string
	tty      bool
	start    bool // start it after attaching
	removed  bool // it removes itself: wait for that
	sigProxy bool
	streams  session.Streams
}

func (f *foreground) run(ctx context.Context, s *session.Session, c client.APIClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.ContainerAttach(ctx, f.id, client.ContainerAttachOptions{
		Stream: true, Stdin: f.streams.Stdin, Stdout: f.streams.Stdout, Stderr: f.streams.Stderr, DetachKeys: f.streams.DetachKeys,
	})
	if err != nil {
		return daemonError(err)
	}
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	if f.sigProxy {
		stop := session.ForwardSignals(func(name string) {
			_, err := c.ContainerKill(ctx, f.id, client.ContainerKillOptions{Signal: name})
			if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) && ctx.Err() == nil {
				fmt.Fprintln(s.Err, err)
			}
		})
		defer stop()
	}
	condition := container.WaitConditionNotRunning
	switch {
	case f.removed:
		condition = container.WaitConditionRemoved
	case f.start:
		condition = container.WaitConditionNextExit
	}
	// The wait is registered before the start, so that no exit is missed.
	exit := c.ContainerWait(ctx, f.id, client.ContainerWaitOptions{Condition: condition})

	pumped := make(chan error, 1)
	helpers.Go(func() { pumped <- s.Pump(ctx, conn.HijackedResponse, f.streams) })
	if f.start {
		if _, err := c.ContainerStart(ctx, f.id, client.ContainerStartOptions{}); err != nil {
			cancel()
			conn.Close()
			<-pumped
			if f.removed {
				waitRemoved(exit)
			}
			return startError(err)
		}
	}
	if f.tty && s.OutIsTerminal() {
		helpers.Go(func() {
			s.WatchSize(ctx, func(h, w uint) {
				c.ContainerResize(ctx, f.id, client.ContainerResizeOptions{Height: h, Width: w})
			})
		})
	}
	if err := <-pumped; err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return f.exitCode(ctx, c, exit)
}

// detachGrace is how long after the end of the output an exit is waited for
// before the container is asked whether it still runs: the user detached.
const detachGrace = 100 * time.Millisecond

func (f *foreground) exitCode(ctx context.Context, c client.APIClient, exit client.ContainerWaitResult) error {
	grace := time.NewTimer(detachGrace)
	defer grace.Stop()
	for {
		select {
		case res := <-exit.Result:
			if res.Error != nil {
				return &session.StatusError{Code: codeDaemon, Text: res.Error.Message}
			}
			if res.StatusCode != 0 {
				return &session.StatusError{Code: int(res.StatusCode)}
			}
			return nil
		case err := <-exit.Error:
			return &session.StatusError{Code: codeDaemon, Text: err.Error()}
		case <-grace.C:
			if !f.tty {
				continue // only a terminal's keys detach
			}
			state, err := c.ContainerInspect(ctx, f.id, client.ContainerInspectOptions{})
			if err == nil && state.Container.State.Running {
				return nil
			}
		}
	}
}

// waitRemoved lets a container that failed to start finish removing itself.
func waitRemoved(exit client.ContainerWaitResult) {
	select {
	case <-exit.Result:
	case <-exit.Error:
	case <-time.After(2 * time.Second):
	}
}
