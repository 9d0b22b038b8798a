package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"lighter/cli/builder"
	"lighter/cli/session"
)

// buildProgram is the program that builds, see cmd/docker-build.
const buildProgram = "docker-build"

// RunBuild runs a command line that builds and returns its exit code. It is the
// main of docker-build, which gets docker's own arguments.
func RunBuild(ctx context.Context, args []string, build func(*session.Session) *cobra.Command) int {
	s := &session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	globalFlags(s).words(args)
	root := newRootCommand(s)
	for _, noun := range []string{"image", "builder"} {
		parent := &cobra.Command{Use: noun}
		parent.AddCommand(build(s))
		root.AddCommand(parent)
	}
	root.AddCommand(build(s))
	setHelp(s, root)
	root.SetArgs(args)
	return exitCode(s, root.ExecuteContext(ctx))
}

// newBuildCommand is docker build as the other commands see it: it becomes the
// program that builds.
func newBuildCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:                "build [OPTIONS] PATH | URL | -",
		Short:              "Build an image from a Dockerfile",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := findBuildProgram()
			if err != nil {
				if slices.Contains(args, "--help") {
					return cmd.Help() // without the flags, but better than nothing
				}
				return err
			}
			s.Log().Debug("Build", "path", path)
			return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, append([]string{buildProgram}, os.Args[1:]...), os.Environ()))
		},
	}
}

// findBuildProgram looks beside this program, then in PATH.
func findBuildProgram() (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), buildProgram)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath(buildProgram)
	if err != nil {
		return "", fmt.Errorf("docker build needs the program %s beside docker or in PATH: %w", buildProgram, err)
	}
	return path, nil
}

// newBuilderCommand is docker builder: it manages what builds leave.
func newBuilderCommand(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "builder", Short: "Manage builds", Args: session.NoArgs, RunE: session.Help}
	cmd.AddCommand(newBuildCommand(s), builder.NewPruneCommand(s))
	return cmd
}
