package cli

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/contexts"
	"lighter/cli/format"
	"lighter/cli/session"
)

// names lists the objects that an argument may be.
type names func(context.Context, client.APIClient) ([]string, error)

// setCompletion has every command complete its arguments and flags with what
// the engine has. Verbs complete alike below their noun and at the top level.
func setCompletion(s *session.Session, root *cobra.Command) {
	running := containers(false, func(c container.Summary) bool {
		return c.State == container.StateRunning || c.State == container.StatePaused
	})
	all := containers(true, nil)
	startable := containers(true, func(c container.Summary) bool {
		return c.State == container.StateExited || c.State == container.StateCreated
	})
	active := containers(false, func(c container.Summary) bool { return c.State == container.StateRunning })
	paused := containers(false, func(c container.Summary) bool { return c.State == container.StatePaused })
	for verb, f := range map[string]cobra.CompletionFunc{
		"attach": limit(s, 1, active), "commit": limit(s, 1, all), "diff": limit(s, 1, all), "exec": limit(s, 1, active),
		"export": limit(s, 1, all), "kill": limit(s, 0, running), "logs": limit(s, 1, all), "pause": limit(s, 0, active),
		"port": limit(s, 1, running), "rename": limit(s, 1, all), "restart": limit(s, 0, all), "start": limit(s, 0, startable),
		"stats": limit(s, 0, running), "stop": limit(s, 0, running), "top": limit(s, 1, running), "unpause": limit(s, 0, paused),
		"update": limit(s, 0, all), "wait": limit(s, 0, running),
	} {
		complete(root, f, verb, "container "+verb)
	}
	complete(root, limit(s, 0, all), "rm", "container rm", "container inspect")
	complete(root, limit(s, 1, images), "run", "create", "container run", "container create", "history", "image history", "push", "image push",
		"tag", "image tag", "images", "image ls")
	complete(root, limit(s, 0, images), "rmi", "image rm", "save", "image save", "image inspect")
	complete(root, limit(s, 0, networks), "network rm", "network inspect")
	complete(root, limit(s, 0, volumes), "volume rm", "volume inspect", "volume update")
	complete(root, limit(s, 0, anything(all, images, networks, volumes)), "inspect")
	complete(root, func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return limit(s, 1, networks)(cmd, args, word)
		}
		return limit(s, 2, all)(cmd, args, word)
	}, "network connect", "network disconnect")
	walk(root, func(cmd *cobra.Command) { completeFlags(s, cmd, all) })
	if err := root.RegisterFlagCompletionFunc("context", contexts.Names(s, 0)); err != nil {
		panic("docker has no flag --context: " + err.Error())
	}
}

func complete(root *cobra.Command, f cobra.CompletionFunc, paths ...string) {
	for _, path := range paths {
		if cmd := lookup(root, path); cmd != nil && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = f
		}
	}
}

// lookup is the command with exactly this path below root, or nil.
func lookup(root *cobra.Command, path string) *cobra.Command {
	cmd := root
	for word := range strings.FieldsSeq(path) {
		i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
		if i < 0 {
			return nil
		}
		cmd = cmd.Commands()[i]
	}
	return cmd
}

// completeFlags completes the values of flags whose name says what they take.
func completeFlags(s *session.Session, cmd *cobra.Command, all names) {
	fixed := func(words ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
	for name, f := range map[string]cobra.CompletionFunc{
		"network":      limit(s, 0, networks),
		"volumes-from": limit(s, 0, all),
		"link":         limit(s, 0, all),
		"pull":         fixed("always", "missing", "never"),
		"restart":      fixed("always", "no", "on-failure", "unless-stopped"),
		"signal":       fixed("SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH"),
		"stop-signal":  fixed("SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"),
		"log-driver":   limit(s, 0, logDrivers),
		"ipc":          fixed("host", "none", "private", "shareable"),
		"cgroupns":     fixed("host", "private"),
		"platform":     fixed("linux/386", "linux/amd64", "linux/arm", "linux/arm/v7", "linux/arm64", "linux/ppc64le", "linux/riscv64", "linux/s390x"),
		"log-level":    fixed("debug", "info", "warn", "error", "fatal"),
		"format":       fixed("json", "table"),
		"type":         fixed("container", "image", "network", "volume"),
	} {
		if fl := cmd.LocalFlags().Lookup(name); fl == nil || fl.Value.Type() == "bool" {
			continue
		}
		if _, ok := cmd.GetFlagCompletionFunc(name); ok {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(cmd.CommandPath() + " --" + name + ": " + err.Error())
		}
	}
}

// limit completes with at most n arguments; 0 is no limit. What is given is
// not offered again.
func limit(s *session.Session, n int, list names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if n > 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		c, err := s.Client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		found, err := list(cmd.Context(), c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return slices.DeleteFunc(found, func(name string) bool { return slices.Contains(args, name) }), cobra.ShellCompDirectiveNoFileComp
	}
}

func containers(all bool, keep func(container.Summary) bool) names {
	return func(ctx context.Context, c client.APIClient) ([]string, error) {
		list, err := c.ContainerList(ctx, client.ContainerListOptions{All: all})
		if err != nil {
			return nil, err
		}
		var found []string
		for _, ctr := range list.Items {
			if keep != nil && !keep(ctr) {
				continue
			}
			if os.Getenv("DOCKER_COMPLETION_SHOW_CONTAINER_IDS") == "yes" {
				found = append(found, format.ShortID(ctr.ID))
			}
			for _, name := range ctr.Names {
				if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") { // the rest are links
					found = append(found, name)
				}
			}
		}
		return found, nil
	}
}

func images(ctx context.Context, c client.APIClient) ([]string, error) {
	list, err := c.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, img := range list.Items {
		found = append(found, img.RepoTags...)
	}
	return found, nil
}

func networks(ctx context.Context, c client.APIClient) ([]string, error) {
	list, err := c.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, n := range list.Items {
		if os.Getenv("DOCKER_COMPLETION_SHOW_NETWORK_IDS") == "yes" {
			found = append(found, format.ShortID(n.ID))
		}
		found = append(found, n.Name)
	}
	return found, nil
}

func volumes(ctx context.Context, c client.APIClient) ([]string, error) {
	list, err := c.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, v := range list.Items {
		found = append(found, v.Name)
	}
	return found, nil
}

func logDrivers(ctx context.Context, c client.APIClient) ([]string, error) {
	res, err := c.Info(ctx, client.InfoOptions{})
	return res.Info.Plugins.Log, err
}

// anything is what any of the lists has.
func anything(lists ...names) names {
	return func(ctx context.Context, c client.APIClient) ([]string, error) {
		var found []string
		for _, list := range lists {
			some, err := list(ctx, c)
			if err != nil {
				return nil, err
			}
			found = append(found, some...)
		}
		return found, nil
	}
}
