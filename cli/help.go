package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// usageTemplate lays help out as docker users know it: the synopsis, what the
// command does, its options, its subcommands.
const usageTemplate = `Usage:  {{.UseLine}}{{if .Short}}

{{.Short}}{{end}}{{if aliases .}}

Aliases:
  {{aliases .}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

{{if .HasParent}}Options{{else}}Global Options{{end}}:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

Run '{{.CommandPath}} COMMAND --help' for more information on a command.{{end}}
`

// setHelp gives root and all below it Docker's help.
func setHelp(root *cobra.Command) {
	cobra.AddTemplateFunc("aliases", aliases)
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(`{{.UsageString}}`)
	walk(root, func(cmd *cobra.Command) {
		cmd.DisableFlagsInUseLine = true
		cmd.Flags().SortFlags = true
	})
}

func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, f)
	}
}

func aliases(cmd *cobra.Command) string {
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
