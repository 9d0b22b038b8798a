package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/spf13/cobra"

	"lighter/cli/plugin"
	"lighter/cli/session"
)

// dispatch runs the plugin that words ask for, if they ask for one; done tells
// that it has. Only that plugin is looked at: the command tree's own commands
// cost no search.
func dispatch(ctx context.Context, s *session.Session, root *cobra.Command, args, words []string) (done bool, err error) {
	if len(words) == 0 {
		return false, nil
	}
	word := words[0]
	switch {
	case strings.HasPrefix(word, cobra.ShellCompRequestCmd):
		return completePlugin(ctx, s, root, args, words[1:])
	case word == "help" && len(words) > 1:
		word = words[1]
	case word == "builder":
		target := s.Config().Aliases["builder"]
		if target == "" {
			break
		}
		if builtin(root, target) {
			return true, fmt.Errorf("not allowed to alias with builtin %q as target", target)
		}
		p, err := plugin.Find(ctx, s, target)
		if err != nil {
			break // the plugin is gone: the built-in command remains
		}
		at := len(args) - len(words)
		return true, p.Run(ctx, s, append(append(args[:at:at], target), words[1:]...))
	}
	if builtin(root, word) {
		return false, nil
	}
	p, err := plugin.Find(ctx, s, word)
	switch {
	case errors.Is(err, plugin.ErrNotFound):
		return false, nil
	case err != nil:
		return true, unknown(word, err)
	case words[0] == "help":
		return true, p.Run(ctx, s, append(words[1:len(words):len(words)], "--help"))
	}
	return true, p.Run(ctx, s, args)
}

// completePlugin hands the shell's question to the plugin whose command line
// it is about. With the first word still open, the plugins join the choice.
func completePlugin(ctx context.Context, s *session.Session, root *cobra.Command, args, line []string) (done bool, err error) {
	words := globalFlags(s).words(line)
	switch {
	case len(words) <= 1:
		addPlugins(ctx, s, root)
		return false, nil
	case builtin(root, words[0]):
		return false, nil
	}
	p, err := plugin.Find(ctx, s, words[0])
	if err != nil {
		return false, nil
	}
	return true, p.Run(ctx, s, args)
}

// builtin reports whether docker itself has the command.
func builtin(root *cobra.Command, name string) bool {
	switch name {
	case "help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
		return true
	}
	for _, cmd := range root.Commands() {
		if cmd.Name() == name || cmd.HasAlias(name) {
			return true
		}
	}
	return false
}

// addPlugins gives root a stub for every plugin, so that help and completion
// list them.
func addPlugins(ctx context.Context, s *session.Session, root *cobra.Command) {
	all, err := plugin.All(ctx, s, func(name string) bool { return builtin(root, name) })
	if err != nil {
		s.Log().Debug("Plugins", "error", err)
		return
	}
	for _, p := range all {
		notes := map[string]string{
			metadata.CommandAnnotationPlugin: "true", metadata.CommandAnnotationPluginVendor: p.Vendor, metadata.CommandAnnotationPluginVersion: p.Version,
		}
		if p.Err != nil {
			notes[metadata.CommandAnnotationPluginInvalid] = p.Err.Error()
		}
		root.AddCommand(&cobra.Command{
			Use: p.Name, Short: p.ShortDescription, Hidden: p.Hidden, Annotations: notes, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				return p.Run(cmd.Context(), s, append([]string{p.Name}, args...))
			},
		})
	}
}
