package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

// eachCommand is a verb that does one thing to each container named.
func eachCommand(s *session.Session, use, short string, do func(context.Context, client.APIClient, *cobra.Command, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			return s.Each(args, func(name string) error { return do(cmd.Context(), c, cmd, name) })
		},
	}
}

// stopFlags are those of stop and restart.
type stopFlags struct{ signal string }

func (f *stopFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.signal, "signal", "s", "", "Signal to send to the container")
	fs.IntP("timeout", "t", 0, "Seconds to wait before killing the container")
	fs.Int("time", 0, "Seconds to wait before killing the container")
	fs.MarkHidden("time")
}

func (f *stopFlags) timeout(cmd *cobra.Command) (*int, error) {
	if t, err := session.Timeout(cmd, "timeout"); t != nil || err != nil {
		return t, err
	}
	return session.Timeout(cmd, "time")
}

func newStopCommand(s *session.Session) *cobra.Command {
	var f stopFlags
	cmd := eachCommand(s, "stop [OPTIONS] CONTAINER [CONTAINER...]", "Stop one or more running containers",
		func(ctx context.Context, c client.APIClient, cmd *cobra.Command, name string) error {
			timeout, err := f.timeout(cmd)
			if err == nil {
				_, err = c.ContainerStop(ctx, name, client.ContainerStopOptions{Signal: f.signal, Timeout: timeout})
			}
			return err
		})
	f.register(cmd)
	return cmd
}

func newRestartCommand(s *session.Session) *cobra.Command {
	var f stopFlags
	cmd := eachCommand(s, "restart [OPTIONS] CONTAINER [CONTAINER...]", "Restart one or more containers",
		func(ctx context.Context, c client.APIClient, cmd *cobra.Command, name string) error {
			timeout, err := f.timeout(cmd)
			if err == nil {
				_, err = c.ContainerRestart(ctx, name, client.ContainerRestartOptions{Signal: f.signal, Timeout: timeout})
			}
			return err
		})
	f.register(cmd)
	return cmd
}

func newKillCommand(s *session.Session) *cobra.Command {
	var signal string
	cmd := eachCommand(s, "kill [OPTIONS] CONTAINER [CONTAINER...]", "Kill one or more running containers",
		func(ctx context.Context, c client.APIClient, _ *cobra.Command, name string) error {
			_, err := c.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: signal})
			return err
		})
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	return cmd
}

func newPauseCommand(s *session.Session) *cobra.Command {
	return eachCommand(s, "pause CONTAINER [CONTAINER...]", "Pause all processes within one or more containers",
		func(ctx context.Context, c client.APIClient, _ *cobra.Command, name string) error {
			_, err := c.ContainerPause(ctx, name, client.ContainerPauseOptions{})
			return err
		})
}

func newUnpauseCommand(s *session.Session) *cobra.Command {
	return eachCommand(s, "unpause CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers",
		func(ctx context.Context, c client.APIClient, _ *cobra.Command, name string) error {
			_, err := c.ContainerUnpause(ctx, name, client.ContainerUnpauseOptions{})
			return err
		})
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	var o client.ContainerRemoveOptions
	cmd := eachCommand(s, "rm [OPTIONS] CONTAINER [CONTAINER...]", "Remove one or more containers",
		func(ctx context.Context, c client.APIClient, _ *cobra.Command, name string) error {
			name = strings.Trim(name, "/")
			if name == "" {
				return errors.New("container name cannot be empty")
			}
			_, err := c.ContainerRemove(ctx, name, o)
			if o.Force && errdefs.IsNotFound(err) {
				fmt.Fprintln(s.Err, err)
				return nil
			}
			return err
		})
	cmd.Aliases = []string{"remove"}
	fs := cmd.Flags()
	fs.BoolVarP(&o.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	fs.BoolVarP(&o.RemoveVolumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	fs.BoolVarP(&o.RemoveLinks, "link", "l", false, "Remove the specified link")
	return cmd
}

func newRenameCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "rename CONTAINER NEW_NAME", Short: "Rename a container", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			if strings.TrimSpace(args[1]) == "" {
				return errors.New("new name cannot be blank")
			}
			_, err = c.ContainerRename(cmd.Context(), args[0], client.ContainerRenameOptions{NewName: args[1]})
			return err
		},
	}
}

func newWaitCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "wait CONTAINER [CONTAINER...]", Short: "Block until one or more containers stop, then print their exit codes",
		Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range args {
				exit := c.ContainerWait(cmd.Context(), name, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
				select {
				case res := <-exit.Result:
					fmt.Fprintln(s.Out, res.StatusCode)
				case err := <-exit.Error:
					failed = append(failed, err)
				}
			}
			return errors.Join(failed...)
		},
	}
}

func newLogsCommand(s *session.Session) *cobra.Command {
	o := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	var grep string
	cmd := &cobra.Command{
		Use: "logs [OPTIONS] CONTAINER", Short: "Fetch the logs of a container", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			ctr, err := c.ContainerInspect(cmd.Context(), args[0], client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			var logs io.ReadCloser
			if grep == "" {
				logs, err = c.ContainerLogs(cmd.Context(), ctr.Container.ID, o)
			} else {
				logs, err = grepLogs(cmd.Context(), s, ctr.Container.ID, grep, o)
			}
			if err != nil {
				return err
			}
			defer logs.Close()
			return s.CopyOutput(logs, ctr.Container.Config.Tty)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	fs.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	fs.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	fs.StringVar(&grep, "grep", "", "Show only the lines that match a regular expression (RE2)")
	fs.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	fs.StringVar(&o.Since, "since", "", "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)")
	fs.StringVar(&o.Until, "until", "", "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)")
	return cmd
}

func newPortCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "port CONTAINER [PRIVATE_PORT[/PROTO]]", Short: "List port mappings or a specific mapping for the container",
		Args: session.Between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			res, err := c.ContainerInspect(cmd.Context(), args[0], client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			ports := res.Container.NetworkSettings.Ports
			if len(args) == 2 {
				p, err := network.ParsePort(args[1])
				if err != nil {
					return err
				}
				bindings := ports[p]
				if len(bindings) == 0 {
					return fmt.Errorf("no public port '%s' published for %s", p, args[0])
				}
				for _, b := range bindings {
					fmt.Fprintln(s.Out, hostPort(b))
				}
				return nil
			}
			for _, p := range sortedPorts(ports) {
				for _, b := range ports[p] {
					fmt.Fprintf(s.Out, "%s -> %s\n", p, hostPort(b))
				}
			}
			return nil
		},
	}
}

func newTopCommand(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "top CONTAINER [ps OPTIONS]", Short: "Display the running processes of a container", Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			top, err := c.ContainerTop(cmd.Context(), args[0], client.ContainerTopOptions{Arguments: args[1:]})
			if err != nil {
				return err
			}
			var columns []format.Column
			var keys []string
			for i, title := range top.Titles {
				key := fmt.Sprintf("C%d", i)
				columns, keys = append(columns, format.Column{Key: key, Header: title}), append(keys, key)
			}
			var rows []map[string]string
			for _, p := range top.Processes {
				row := map[string]string{}
				for i, cell := range p {
					row[keys[min(i, len(keys)-1)]] = cell
				}
				rows = append(rows, row)
			}
			return format.Rows(s.Out, "", keys, columns, rows)
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func newCommitCommand(s *session.Session) *cobra.Command {
	var o client.ContainerCommitOptions
	pause := true
	cmd := &cobra.Command{
		Use: "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]", Short: "Create a new image from a container's changes",
		Args: session.Between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			if len(args) == 2 {
				o.Reference = args[1]
			}
			o.NoPause = o.NoPause || !pause
			res, err := c.ContainerCommit(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, res.ID)
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.Author, "author", "a", "", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")")
	fs.StringVarP(&o.Comment, "message", "m", "", "Commit message")
	fs.StringArrayVarP(&o.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	fs.BoolVarP(&pause, "pause", "p", true, "Pause container during commit")
	fs.MarkHidden("pause")
	fs.BoolVar(&o.NoPause, "no-pause", false, "Disable pausing container during commit")
	return cmd
}

func newDiffCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "diff CONTAINER", Short: "Inspect changes to files or directories on a container's filesystem", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			res, err := c.ContainerDiff(cmd.Context(), args[0], client.ContainerDiffOptions{})
			if err != nil {
				return err
			}
			for _, change := range res.Changes {
				fmt.Fprintf(s.Out, "%s %s\n", change.Kind, change.Path)
			}
			return nil
		},
	}
}

func newExportCommand(s *session.Session) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "export [OPTIONS] CONTAINER", Short: "Export a container's filesystem as a tar archive", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && s.OutIsTerminal() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			archive, err := c.ContainerExport(cmd.Context(), args[0], client.ContainerExportOptions{})
			if err != nil {
				return err
			}
			defer archive.Close()
			return s.Save(output, archive)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}
