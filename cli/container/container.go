// Package container is docker's container commands, one file for a group of
// verbs. Commands returns them for the top level, where users type them.
package container

import (
	"github.com/spf13/cobra"

	"lighter/cli/inspect"
	"lighter/cli/session"
)

// Commands returns the verbs on containers.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{
		newRunCommand(s), newCreateCommand(s), newStartCommand(s), newAttachCommand(s), newExecCommand(s),
		newListCommand(s), newLogsCommand(s), newStopCommand(s), newRestartCommand(s), newKillCommand(s),
		newPauseCommand(s), newUnpauseCommand(s), newRenameCommand(s), newRemoveCommand(s), newWaitCommand(s),
		newPortCommand(s), newTopCommand(s), newCommitCommand(s), newDiffCommand(s), newExportCommand(s),
		newCopyCommand(s), newStatsCommand(s), newUpdateCommand(s), newWhyCommand(s),
	}
}

// Management returns those verbs on containers that exist below the noun only.
func Management(s *session.Session) []*cobra.Command {
	var size bool
	inspection := inspect.Command(s, "CONTAINER", "Display detailed information on one or more containers", inspect.Container(&size))
	inspection.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes")
	return []*cobra.Command{inspection, newPruneCommand(s)}
}
