package container

import (
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

// CheckpointCommand is docker checkpoint, which an engine in experimental mode
// answers.
func CheckpointCommand(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "checkpoint", Short: "Manage checkpoints", Args: session.NoArgs, RunE: session.Help}
	cmd.AddCommand(newCheckpointCreateCommand(s), newCheckpointListCommand(s), newCheckpointRemoveCommand(s))
	return cmd
}

const checkpointDirUsage = "Use a custom checkpoint storage directory"

func newCheckpointCreateCommand(s *session.Session) *cobra.Command {
	var dir string
	var leaveRunning bool
	cmd := &cobra.Command{
		Use: "create [OPTIONS] CONTAINER CHECKPOINT", Short: "Create a checkpoint from a running container", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			opts := client.CheckpointCreateOptions{CheckpointID: args[1], CheckpointDir: dir, Exit: !leaveRunning}
			if _, err := c.CheckpointCreate(cmd.Context(), args[0], opts); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, args[1])
			return nil
		},
	}
	cmd.Flags().BoolVar(&leaveRunning, "leave-running", false, "Leave the container running after checkpoint")
	cmd.Flags().StringVar(&dir, "checkpoint-dir", "", checkpointDirUsage)
	return cmd
}

func newCheckpointListCommand(s *session.Session) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS] CONTAINER", Short: "List checkpoints for a container", Aliases: []string{"list"}, Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			list, err := c.CheckpointList(cmd.Context(), args[0], client.CheckpointListOptions{CheckpointDir: dir})
			if err != nil {
				return err
			}
			var rows []map[string]string
			for _, item := range list.Items {
				rows = append(rows, map[string]string{"Name": item.Name})
			}
			return format.Rows(s.Out, "", []string{"Name"}, []format.Column{{Key: "Name", Header: "CHECKPOINT NAME"}}, rows)
		},
	}
	cmd.Flags().StringVar(&dir, "checkpoint-dir", "", checkpointDirUsage)
	return cmd
}

func newCheckpointRemoveCommand(s *session.Session) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] CONTAINER CHECKPOINT", Short: "Remove a checkpoint", Aliases: []string{"remove"}, Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			_, err = c.CheckpointRemove(cmd.Context(), args[0], client.CheckpointRemoveOptions{CheckpointID: args[1], CheckpointDir: dir})
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "checkpoint-dir", "", checkpointDirUsage)
	return cmd
}
