package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageTemplate lays help out as docker users know it: the synopsis, what the
// command does, its options, its subcommands.
const usageTemplate = `Usage:  {{synopsis .}}{{with or .Long .Short}}

{{.}}{{end}}{{if aliases .}}

Aliases:
  {{aliases .}}{{end}}{{range groups .}}

{{.Title}}:{{range .Commands}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

{{if .HasParent}}Options{{else}}Global Options{{end}}:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

Run '{{.CommandPath}} COMMAND --help' for more information on a command.{{end}}
`

// aliasesKey annotates a command with all the ways to call it.
const aliasesKey = "aliases"

// common are the verbs that the root's help lists first, in this order.
var common = []string{"run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"}

// group is a part of the list of subcommands.
type group struct {
	Title    string
	Commands []*cobra.Command
}

func groups(cmd *cobra.Command) []group {
	top, nouns, rest := group{Title: "Common Commands"}, group{Title: "Management Commands"}, group{Title: "Commands"}
	for _, sub := range cmd.Commands() { // sorted by name
		switch {
		case !sub.IsAvailableCommand():
		case cmd.HasParent():
			rest.Commands = append(rest.Commands, sub)
		case slices.Contains(common, sub.Name()):
			top.Commands = append(top.Commands, sub)
		case sub.HasSubCommands():
			nouns.Commands = append(nouns.Commands, sub)
		default:
			rest.Commands = append(rest.Commands, sub)
		}
	}
	slices.SortFunc(top.Commands, func(a, b *cobra.Command) int {
		return slices.Index(common, a.Name()) - slices.Index(common, b.Name())
	})
	return slices.DeleteFunc([]group{top, nouns, rest}, func(g group) bool { return len(g.Commands) == 0 })
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
func setHelp(root *cobra.Command) {
	cobra.AddTemplateFunc("aliases", aliases)
	cobra.AddTemplateFunc("groups", groups)
	cobra.AddTemplateFunc("synopsis", synopsis)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(`{{.UsageString}}`)
	walk(root, func(cmd *cobra.Command) {
		cmd.DisableFlagsInUseLine = true
		cmd.Flags().SortFlags = true
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
