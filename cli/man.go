package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/cli/session"
	"lighter/internal/atomicfile"
)

// WriteMan writes a manual page in section 1 for every command into dir.
func WriteMan(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var failed error
	walk(newRoot(&session.Session{In: os.Stdin, Out: io.Discard, Err: io.Discard}, ""), func(cmd *cobra.Command) {
		if failed != nil || cmd.Hidden {
			return
		}
		path := filepath.Join(dir, pageName(cmd)+".1")
		failed = atomicfile.WriteFrom(path, 0o644, func(w io.Writer) error {
			_, err := w.Write(manPage(cmd))
			return err
		})
	})
	return failed
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is the page of one command in the man(7) macros.
func manPage(cmd *cobra.Command) []byte {
	var b bytes.Buffer
	name := pageName(cmd)
	fmt.Fprintf(&b, ".TH %q 1 \"\" \"Lighter\" \"Docker commands\"\n", strings.ToUpper(name))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(synopsis(cmd)))
	description := cmd.Long
	if description == "" {
		description = cmd.Short
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n.nf\n%s\n.fi\n", roff(description))
	if all := aliases(cmd); all != "" {
		fmt.Fprintf(&b, ".SH ALIASES\n%s\n", roff(all))
	}
	cmd.InitDefaultHelpFlag()
	if flags := cmd.LocalFlags(); flags.HasAvailableFlags() {
		b.WriteString(".SH OPTIONS\n")
		flags.VisitAll(func(f *pflag.Flag) { manFlag(&b, f) })
	}
	for _, g := range groups(cmd) {
		fmt.Fprintf(&b, ".SH %s\n", strings.ToUpper(g.Title))
		for _, sub := range g.Commands {
			fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(pageName(sub)), roff(sub.Short))
		}
	}
	if cmd.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(pageName(cmd.Parent())))
	}
	return b.Bytes()
}

func manFlag(b *bytes.Buffer, f *pflag.Flag) {
	if f.Hidden || f.Deprecated != "" {
		return
	}
	b.WriteString(".TP\n.B ")
	if f.Shorthand != "" && f.ShorthandDeprecated == "" {
		b.WriteString(roff("-"+f.Shorthand) + ", ")
	}
	kind, usage := pflag.UnquoteUsage(f)
	b.WriteString(roff(strings.TrimSpace("--" + f.Name + " " + kind)))
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
		usage += fmt.Sprintf(" (default %s)", f.DefValue)
	}
	fmt.Fprintf(b, "\n%s\n", roff(usage))
}

// roff escapes what has a meaning in the page's language.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
