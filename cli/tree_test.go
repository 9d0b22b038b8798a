package cli

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/cli/session"
)

var update = flag.Bool("update", false, "write what the tree has into testdata/flags.tsv")

const flagTable = "testdata/flags.tsv"

// TestFlags holds the command tree to its table: a command, or a flag with its
// shorthand, type and default, that scripts rely on is not lost. The tree may
// have more.
func TestFlags(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", "/config")
	t.Setenv("DOCKER_DEFAULT_PLATFORM", "")
	for _, name := range []string{"DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"} {
		t.Setenv(name, "")
	}
	have := flagRows(newRoot(&session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, ""))
	if *update {
		if err := os.WriteFile(flagTable, []byte(strings.Join(have, "\n")+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	table, err := os.ReadFile(flagTable)
	if err != nil {
		t.Fatal(err)
	}
	for want := range strings.Lines(string(table)) {
		if want = strings.TrimSuffix(want, "\n"); !slices.Contains(have, want) {
			t.Errorf("lost or changed: %s", want)
		}
	}
}

// flagRows is the tree as lines: a command's path, and per flag also its name,
// shorthand, type and default.
func flagRows(root *cobra.Command) []string {
	var rows []string
	walk(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		rows = append(rows, path)
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			rows = append(rows, fmt.Sprintf("%s\t--%s\t%s\t%s\t%s", path, f.Name, f.Shorthand, f.Value.Type(), f.DefValue))
		})
	})
	slices.Sort(rows)
	return rows
}

// TestHelpOfEveryCommand sees that no command's help is empty or fails.
func TestHelpOfEveryCommand(t *testing.T) {
	i := newInvocation(t, nil)
	walk(newRoot(&session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, ""), func(cmd *cobra.Command) {
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		out, _, err := i.docker("", args...)
		if err != nil || !strings.HasPrefix(out, "Usage:  docker") || cmd.Short == "" {
			t.Errorf("docker %q = %q, %v", args, out, err)
		}
	})
}

// TestPartialTree sees that the tree built for one word has the same command
// as the whole one.
func TestPartialTree(t *testing.T) {
	s := &session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	for _, cmd := range newRoot(s, "").Commands() {
		part := newRoot(s, cmd.Name())
		found := lookup(part, cmd.Name())
		if found == nil {
			t.Errorf("no command %s in its own tree", cmd.Name())
			continue
		}
		whole := newRoot(s, "")
		for _, other := range whole.Commands() {
			if other.Name() != cmd.Name() {
				whole.RemoveCommand(other)
			}
		}
		for _, other := range part.Commands() {
			if other.Name() != cmd.Name() {
				part.RemoveCommand(other)
			}
		}
		if got, want := flagRows(part), flagRows(whole); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", cmd.Name(), got, want)
		}
	}
}
