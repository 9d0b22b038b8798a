package cli

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"lighter/cli/session"
)

// usageTemplate lays help out as docker users know it: the synopsis, what the
// command does, its options, its subcommands.
const usageTemplate = `Usage:  {{synopsis .}}{{with or .Long .Short}}

{{.}}{{end}}{{if aliases .}}

Aliases:
  {{aliases .}}{{end}}{{range groups .}}

{{.Title}}:{{range .Commands}}
  {{rpad (label .) .NamePadding}} {{.Short}}{{end}}{{end}}{{range invalid .}}{{if eq .N 0}}

Invalid Plugins:{{end}}
  {{rpad .Name .Padding}} {{.Reason}}{{end}}{{if .HasAvailableLocalFlags}}

{{if .HasParent}}Options{{else}}Global Options{{end}}:
{{options . | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

Run '{{.CommandPath}} COMMAND --help' for more information on a command.{{end}}{{if not .HasParent}}

For more help on how to use Docker, head to https://docs.docker.com/go/guides/{{end}}
`

// aliasesKey annotates a command with all the ways to call it.
const aliasesKey = "aliases"

// common are the verbs that the root's help lists first, in this order.
var common = []string{"run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"}

// swarm are the nouns of clusters, which the root's help lists apart.
var swarm = []string{"config", "node", "secret", "service", "stack", "swarm"}

// group is a part of the list of subcommands.
type group struct {
	Title    string
	Commands []*cobra.Command
}

func groups(cmd *cobra.Command) []group {
	top, nouns, rest := group{Title: "Common Commands"}, group{Title: "Management Commands"}, group{Title: "Commands"}
	cluster := group{Title: "Swarm Commands"}
	hideLegacy := os.Getenv("DOCKER_HIDE_LEGACY_COMMANDS") != ""
	for _, sub := range cmd.Commands() { // sorted by name
		switch {
		case !sub.IsAvailableCommand():
		case cmd.HasParent():
			rest.Commands = append(rest.Commands, sub)
		case slices.Contains(common, sub.Name()):
			top.Commands = append(top.Commands, sub)
		case sub.Annotations[metadata.CommandAnnotationPluginInvalid] != "":
		case slices.Contains(swarm, sub.Name()):
			cluster.Commands = append(cluster.Commands, sub)
		case sub.HasSubCommands(), isPlugin(sub):
			nouns.Commands = append(nouns.Commands, sub)
		case hideLegacy && sub.Annotations[aliasesKey] != "":
		default:
			rest.Commands = append(rest.Commands, sub)
		}
	}
	slices.SortFunc(top.Commands, func(a, b *cobra.Command) int {
		return slices.Index(common, a.Name()) - slices.Index(common, b.Name())
	})
	return slices.DeleteFunc([]group{top, nouns, cluster, rest}, func(g group) bool { return len(g.Commands) == 0 })
}

func isPlugin(cmd *cobra.Command) bool {
	return cmd.Annotations[metadata.CommandAnnotationPlugin] != ""
}

// label is a command's name, marked when a plugin provides it.
func label(cmd *cobra.Command) string {
	if isPlugin(cmd) {
		return cmd.Name() + "*"
	}
	return cmd.Name()
}

// unusable is a plugin that help lists with the reason.
type unusable struct {
	N, Padding   int
	Name, Reason string
}

func invalid(cmd *cobra.Command) []unusable {
	var list []unusable
	for _, sub := range cmd.Commands() {
		if reason := sub.Annotations[metadata.CommandAnnotationPluginInvalid]; reason != "" {
			list = append(list, unusable{N: len(list), Padding: sub.NamePadding(), Name: sub.Name(), Reason: reason})
		}
	}
	return list
}

// options describes a command's flags as wide as the terminal.
func options(cmd *cobra.Command) string {
	width := 80
	if w, _, err := term.GetSize(0); err == nil && w > 0 {
		width = w
	}
	return cmd.LocalFlags().FlagUsagesWrapped(width - 1)
}

func synopsis(cmd *cobra.Command) string {
	switch {
	case !cmd.HasParent():
		return cmd.CommandPath() + " [OPTIONS] COMMAND"
	case cmd.HasSubCommands():
		return cmd.CommandPath() + " COMMAND"
	}
	return cmd.UseLine()
}

// setHelp gives root and all below it Docker's help.
func setHelp(s *session.Session, root *cobra.Command) {
	cobra.AddTemplateFunc("label", label)
	cobra.AddTemplateFunc("invalid", invalid)
	cobra.AddTemplateFunc("options", options)
	cobra.AddTemplateFunc("aliases", aliases)
	cobra.AddTemplateFunc("groups", groups)
	cobra.AddTemplateFunc("synopsis", synopsis)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(`{{.UsageString}}`)
	walk(root, func(cmd *cobra.Command) {
		cmd.DisableFlagsInUseLine = true
		cmd.Flags().SortFlags = true
		if cmd.Flags().ShorthandLookup("h") != nil { // run's host name
			cmd.Flags().Bool("help", false, "Print usage")
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() != "stringArray" {
				return
			}
			f.Value, f.DefValue = named{f.Value, "list"}, ""
			if f.Name == "filter" {
				f.Value = named{f.Value, "filter"}
			}
		})
	})
	root.PersistentFlags().Lookup("help").Hidden = true
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if !cmd.HasParent() {
			ctx := cmd.Context()
			if ctx == nil {
				ctx = context.Background()
			}
			addPlugins(ctx, s, cmd)
		}
		help(cmd, args)
	})
}

// named is a flag's value that help calls by another name.
type named struct {
	pflag.Value
	kind string
}

func (n named) Type() string { return n.kind }

func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, f)
	}
}

func aliases(cmd *cobra.Command) string {
	if all := cmd.Annotations[aliasesKey]; all != "" {
		return all
	}
	if len(cmd.Aliases) == 0 {
		return ""
	}
	prefix := strings.TrimSuffix(cmd.CommandPath(), cmd.Name())
	names := []string{cmd.CommandPath()}
	for _, a := range cmd.Aliases {
		names = append(names, prefix+a)
	}
	return strings.Join(names, ", ")
}
