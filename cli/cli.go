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

	"lighter/cli/container"
	"lighter/cli/image"
	"lighter/cli/network"
	"lighter/cli/session"
	"lighter/cli/system"
	"lighter/cli/volume"
	"lighter/internal/version"
)

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, args []string) int {
	s := &session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	root := newRoot(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
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

// usageError is a flag that does not parse: Docker's exit code for it is 125.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func newRoot(s *session.Session) *cobra.Command {
	root := &cobra.Command{
		Use:              "docker [OPTIONS] COMMAND [ARG...]",
		Short:            "A self-sufficient runtime for containers",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true,
		Args:             unknownCommand,
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:          fmt.Sprintf("%s, build %s (%s)", version.Version, version.GitCommit, version.Product),
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: true,
		},
	}
	root.SetVersionTemplate("Docker version {{.Version}}\n")
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w\n\nUsage:  %s\n\nRun '%s --help' for more information", err, cmd.UseLine(), cmd.CommandPath())}
	})
	// Without a shorthand: run's -h is the host name.
	root.PersistentFlags().Bool("help", false, "Print usage")
	fs := root.Flags()
	fs.StringArrayVarP(&s.Hosts, "host", "H", nil, "Daemon socket to connect to")
	fs.StringVar(&s.ConfigDir, "config", "", "Location of client config files")
	fs.BoolVarP(&s.Debug, "debug", "D", false, "Enable debug mode")
	fs.BoolP("version", "v", false, "Print version information and quit")

	groups := []struct {
		name, short string
		commands    func(*session.Session) []*cobra.Command
		rename      map[string]string // top-level verb -> name below the noun
	}{
		{"container", "Manage containers", container.Commands, map[string]string{"ps": "ls"}},
		{"image", "Manage images", image.Commands, map[string]string{"images": "ls", "rmi": "rm"}},
		{"system", "Manage Docker", system.Commands, nil},
	}
	for _, g := range groups {
		noun := &cobra.Command{Use: g.name, Short: g.short, Args: session.NoArgs, RunE: help}
		for _, cmd := range g.commands(s) {
			if !cmd.Hidden && (g.name != "system" || cmd.Name() != "") {
				cmd.Aliases = nil // those belong below the noun
				root.AddCommand(cmd)
			}
		}
		for _, cmd := range g.commands(s) { // a command has one parent: a second set
			cmd.Hidden = false
			if name, ok := g.rename[cmd.Name()]; ok {
				cmd.Use = name + strings.TrimPrefix(cmd.Use, cmd.Name())
			}
			noun.AddCommand(cmd)
		}
		root.AddCommand(noun)
	}
	root.AddCommand(network.Command(s), volume.Command(s))
	setHelp(root)
	return root
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("docker: unknown command: docker %s\n\nRun 'docker --help' for more information", args[0])
}
