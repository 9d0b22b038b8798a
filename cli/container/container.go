// Package container is docker's container commands, one file for a group of
// verbs. Commands returns them for the top level, where users type them.
package container

import (
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// Commands returns the verbs on containers.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{
		newRunCommand(s), newCreateCommand(s), newStartCommand(s), newAttachCommand(s), newExecCommand(s),
		newListCommand(s), newLogsCommand(s), newStopCommand(s), newRestartCommand(s), newKillCommand(s),
		newPauseCommand(s), newUnpauseCommand(s), newRenameCommand(s), newRemoveCommand(s), newWaitCommand(s),
		newPortCommand(s), newTopCommand(s), newCommitCommand(s), newDiffCommand(s), newExportCommand(s),
		newPruneCommand(s),
	}
}
