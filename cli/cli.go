// Package cli is docker as a library: the command line, made of a package per
// noun. It sees an engine through the Engine API alone.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lighter/cli/session"
	"lighter/internal/version"
)

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, args []string) int {
	s := &session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	return exitCode(s, run(ctx, s, args))
}

// exitCode reports err, if any, and returns the exit code that it means.
func exitCode(s *session.Session, err error) int {
	if err == nil {
		return 0
	}
	if status, ok := errors.AsType[*session.StatusError](err); ok {
		if status.Text != "" {
			fmt.Fprintln(s.Err, status.Text)
		}
		return status.Code
	}
	fmt.Fprintln(s.Err, err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return 125
	}
	return 1
}

// run gives a command line to a plugin, or to the command that it names.
func run(ctx context.Context, s *session.Session, args []string) error {
	words := globalFlags(s).words(args)
	if err := setLogLevel(s); err != nil {
		return err
	}
	word := ""
	if len(words) > 0 {
		word = words[0]
	}
	root := newRoot(s, word)
	if strings.HasPrefix(word, cobra.ShellCompRequestCmd) {
		setCompletion(s, root)
	}
	done, err := dispatch(ctx, s, root, args, words)
	if done || err != nil {
		return err
	}
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// usageError is a flag that does not parse: Docker's exit code for it is 125.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// newRootCommand is docker with its global flags, without commands.
func newRootCommand(s *session.Session) *cobra.Command {
	root := &cobra.Command{
		Use:               "docker [OPTIONS] COMMAND [ARG...]",
		Short:             "A self-sufficient runtime for containers",
		SilenceUsage:      true,
		SilenceErrors:     true,
		TraverseChildren:  true,
		Args:              unknownCommand,
		RunE:              session.Help,
		Version:           fmt.Sprintf("%s, build %s (%s)", version.Version, version.GitCommit, version.Product),
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetVersionTemplate("Docker version {{.Version}}\n")
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w\n\nUsage:  %s\n\nRun '%s --help' for more information", err, cmd.UseLine(), cmd.CommandPath())}
	})
	root.PersistentFlags().BoolP("help", "h", false, "Print usage")
	root.PersistentFlags().MarkShorthandDeprecated("help", "use --help")
	root.Flags().AddFlagSet(globalFlags(s).FlagSet)
	return root
}

// newRoot is the command tree; see commands for word.
func newRoot(s *session.Session, word string) *cobra.Command {
	root := newRootCommand(s)
	root.AddCommand(commands(s, word)...)
	root.SetHelpCommand(newHelpCommand())
	setHelp(s, root)
	return root
}

// newHelpCommand is docker help: with the name of a command, that one's help.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about the command", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || found == nil || len(rest) > 0 {
				return fmt.Errorf("unknown help topic: %s", strings.Join(rest, " "))
			}
			return found.Help()
		},
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknown(args[0], nil)
}

// unknown is the error for a word that is no command; reason, if not nil, says
// why the plugin of that name is none either.
func unknown(word string, reason error) error {
	if reason != nil {
		return fmt.Errorf("docker: unknown command: docker %s (its plugin is not valid: %w)\n\nRun 'docker --help' for more information", word, reason)
	}
	return fmt.Errorf("docker: unknown command: docker %s\n\nRun 'docker --help' for more information", word)
}
