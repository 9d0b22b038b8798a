package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"lighter/cli/container"
	"lighter/cli/contexts"
	"lighter/cli/image"
	"lighter/cli/manifest"
	"lighter/cli/network"
	"lighter/cli/registry"
	"lighter/cli/session"
	"lighter/cli/system"
	"lighter/cli/volume"
)

// noun is a management command whose verbs also exist at the top level.
type noun struct {
	name, short string
	verbs       func(*session.Session) []*cobra.Command // at the top level too
	below       func(*session.Session) []*cobra.Command // below the noun only
	rename      map[string]string                       // top-level verb -> name below the noun
	aliases     map[string][]string
}

// nouns are in the order of their cost.
func nouns() []noun {
	return []noun{
		{"system", "Manage Docker", system.Commands, system.Management, nil, nil},
		{"image", "Manage images", imageVerbs, image.Management,
			map[string]string{"images": "ls", "rmi": "rm"}, map[string][]string{"ls": {"list"}, "rm": {"remove"}}},
		{"container", "Manage containers", container.Commands, container.Management,
			map[string]string{"ps": "ls"}, map[string][]string{"ls": {"list", "ps"}, "rm": {"remove"}}},
	}
}

// imageVerbs are the verbs on images with the one that makes them.
func imageVerbs(s *session.Session) []*cobra.Command {
	return append(image.Commands(s), newBuildCommand(s))
}

// commands are docker's own. With a word, and if that names one of them, only
// this one is made: a command line pays for the command that it runs.
func commands(s *session.Session, word string) []*cobra.Command {
	switch word {
	case "", "info", "system": // which compare plugins with all names
	default:
		if cmd := single(s, word); cmd != nil {
			return []*cobra.Command{cmd}
		}
	}
	var all []*cobra.Command
	for _, n := range nouns() {
		all = append(append(all, n.topLevel(s)...), n.command(s))
	}
	all = append(append(all, system.TopLevel(s)...), registry.Commands(s)...)
	return append(all, network.Command(s), volume.Command(s), contexts.Command(s), newBuilderCommand(s), container.CheckpointCommand(s), manifest.Command(s))
}

// single is the command called word, nil if there is none.
func single(s *session.Session, word string) *cobra.Command {
	switch word {
	case "checkpoint":
		return container.CheckpointCommand(s)
	case "network":
		return network.Command(s)
	case "volume":
		return volume.Command(s)
	case "context":
		return contexts.Command(s)
	case "builder":
		return newBuilderCommand(s)
	case "manifest":
		return manifest.Command(s)
	}
	sets := []func(*session.Session) []*cobra.Command{system.TopLevel, registry.Commands}
	for _, n := range nouns() {
		if n.name == word {
			return n.command(s)
		}
		sets = append(sets, n.topLevel)
	}
	for _, set := range sets {
		for _, cmd := range set(s) {
			if cmd.Name() == word || cmd.HasAlias(word) {
				return cmd
			}
		}
	}
	return nil
}

// topLevel are the noun's verbs as commands of their own.
func (n noun) topLevel(s *session.Session) []*cobra.Command {
	verbs := n.verbs(s)
	for _, cmd := range verbs {
		verb := cmd.Name()
		cmd.Aliases, cmd.Annotations = nil, n.allNames(verb)
	}
	return verbs
}

// command is the noun with its verbs below it.
func (n noun) command(s *session.Session) *cobra.Command {
	parent := &cobra.Command{Use: n.name, Short: n.short, Args: session.NoArgs, RunE: session.Help}
	for _, cmd := range n.verbs(s) {
		verb := cmd.Name()
		cmd.Use = n.nameBelow(verb) + strings.TrimPrefix(cmd.Use, verb)
		cmd.Aliases, cmd.Annotations = n.aliases[cmd.Name()], n.allNames(verb)
		parent.AddCommand(cmd)
	}
	if n.below != nil {
		parent.AddCommand(n.below(s)...)
	}
	return parent
}

// nameBelow is the name that a top-level verb has below the noun.
func (n noun) nameBelow(verb string) string {
	if name, ok := n.rename[verb]; ok {
		return name
	}
	return verb
}

// allNames is the note that help lists all ways to call a verb from.
func (n noun) allNames(verb string) map[string]string {
	name := n.nameBelow(verb)
	names := []string{"docker " + n.name + " " + name}
	for _, alias := range n.aliases[name] {
		names = append(names, "docker "+n.name+" "+alias)
	}
	return map[string]string{aliasesKey: strings.Join(append(names, "docker "+verb), ", ")}
}
