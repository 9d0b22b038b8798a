// Package system is docker's commands on the engine itself: version, info,
// events, inspect.
package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/inspect"
	"lighter/cli/session"
	"lighter/internal/version"
)

// Commands returns the verbs on the engine.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newInfoCommand(s), newEventsCommand(s)}
}

// Management returns those verbs that exist below the noun only.
func Management(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newDialStdioCommand(s)}
}

// TopLevel returns the verbs that belong to no noun.
func TopLevel(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newVersionCommand(s), newInspectCommand(s)}
}

// versions is what docker version prints, and the data of its template.
type versions struct {
	Client clientVersion
	Server *client.ServerVersionResult
}

type clientVersion struct {
	Platform                                           struct{ Name string }
	Version, APIVersion, DefaultAPIVersion             string
	GitCommit, GoVersion, Os, Arch, BuildTime, Context string
}

func newVersionCommand(s *session.Session) *cobra.Command {
	var spec string
	cmd := &cobra.Command{
		Use: "version [OPTIONS]", Short: "Show the Docker version information", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			v := versions{Client: clientVersion{
				Version: version.Version, DefaultAPIVersion: version.APIMax, GitCommit: version.GitCommit,
				GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, BuildTime: version.BuildTime, Context: s.ContextName(),
			}}
			v.Client.Platform.Name = version.Product + " CLI"
			server, serverErr := c.ServerVersion(cmd.Context(), client.ServerVersionOptions{})
			if serverErr == nil {
				v.Server = &server
			}
			v.Client.APIVersion = c.ClientVersion()
			if spec != "" {
				if err := format.Template(s.Out, spec, v); err != nil {
					return err
				}
				return serverErr
			}
			printVersion(s.Out, v)
			return serverErr
		},
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

func printVersion(w io.Writer, v versions) {
	c := v.Client
	fmt.Fprintf(w, "Client: %s\n", c.Platform.Name)
	field := func(name, value string) { fmt.Fprintf(w, " %-18s%s\n", name+":", value) }
	field("Version", c.Version)
	api := c.APIVersion
	if api != c.DefaultAPIVersion {
		api += " (downgraded from " + c.DefaultAPIVersion + ")"
	}
	field("API version", api)
	field("Go version", c.GoVersion)
	field("Git commit", c.GitCommit)
	field("Built", c.BuildTime)
	field("OS/Arch", c.Os+"/"+c.Arch)
	field("Context", c.Context)
	if v.Server == nil {
		return
	}
	fmt.Fprintf(w, "\nServer: %s\n", v.Server.Platform.Name)
	for _, component := range v.Server.Components {
		fmt.Fprintf(w, " %s:\n", component.Name)
		sub := func(name, value string) {
			if value != "" {
				fmt.Fprintf(w, "  %-17s%s\n", name+":", value)
			}
		}
		sub("Version", component.Version)
		d := component.Details
		if d["ApiVersion"] != "" {
			sub("API version", d["ApiVersion"]+" (minimum version "+d["MinAPIVersion"]+")")
		}
		sub("Go version", d["GoVersion"])
		sub("Git commit", d["GitCommit"])
		sub("Built", d["BuildTime"])
		if d["Os"] != "" {
			sub("OS/Arch", d["Os"]+"/"+d["Arch"])
		}
		sub("Experimental", d["Experimental"])
	}
}

func newInfoCommand(s *session.Session) *cobra.Command {
	var spec string
	cmd := &cobra.Command{
		Use: "info [OPTIONS]", Short: "Display system-wide information", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			res, err := c.Info(cmd.Context(), client.InfoOptions{})
			if err != nil {
				return err
			}
			info := res.Info
			if spec != "" {
				return format.Template(s.Out, spec, info)
			}
			w := s.Out
			fmt.Fprintf(w, "Client: %s CLI\n Version:    %s\n Context:    %s\n Debug Mode: %t\n\nServer:\n", version.Product, version.Version, s.ContextName(), s.Debug)
			line := func(name string, value any) { fmt.Fprintf(w, " %s: %v\n", name, value) }
			line("Containers", info.Containers)
			fmt.Fprintf(w, "  Running: %d\n  Paused: %d\n  Stopped: %d\n", info.ContainersRunning, info.ContainersPaused, info.ContainersStopped)
			line("Images", info.Images)
			line("Server Version", info.ServerVersion)
			line("Storage Driver", info.Driver)
			for _, kv := range info.DriverStatus {
				fmt.Fprintf(w, "  %s: %s\n", kv[0], kv[1])
			}
			line("Logging Driver", info.LoggingDriver)
			line("Cgroup Driver", info.CgroupDriver)
			line("Cgroup Version", info.CgroupVersion)
			fmt.Fprintf(w, " Plugins:\n  Volume: %s\n  Network: %s\n  Log: %s\n", strings.Join(info.Plugins.Volume, " "), strings.Join(info.Plugins.Network, " "), strings.Join(info.Plugins.Log, " "))
			line("Swarm", info.Swarm.LocalNodeState)
			line("Runtimes", strings.Join(slices.Sorted(maps.Keys(info.Runtimes)), " "))
			line("Default Runtime", info.DefaultRuntime)
			line("Init Binary", info.InitBinary)
			line("containerd version", info.ContainerdCommit.ID)
			line("runc version", info.RuncCommit.ID)
			fmt.Fprintln(w, " Security Options:")
			for _, o := range info.SecurityOptions {
				fmt.Fprintf(w, "  %s\n", strings.TrimPrefix(strings.ReplaceAll(o, ",", "\n   "), "name="))
			}
			line("Kernel Version", info.KernelVersion)
			line("Operating System", info.OperatingSystem)
			line("OSType", info.OSType)
			line("Architecture", info.Architecture)
			line("CPUs", info.NCPU)
			line("Total Memory", fmt.Sprintf("%.4gGiB", float64(info.MemTotal)/(1<<30)))
			line("Name", info.Name)
			line("ID", info.ID)
			line("Docker Root Dir", info.DockerRootDir)
			line("Debug Mode", info.Debug)
			line("Experimental", info.ExperimentalBuild)
			if info.FirewallBackend != nil {
				line("Firewall Backend", info.FirewallBackend.Driver)
			}
			line("Live Restore Enabled", info.LiveRestoreEnabled)
			for _, warning := range info.Warnings {
				fmt.Fprintln(s.Err, warning)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

func newEventsCommand(s *session.Session) *cobra.Command {
	var o client.EventsListOptions
	var filters []string
	var spec string
	cmd := &cobra.Command{
		Use: "events [OPTIONS]", Short: "Get real time events from the server", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			o.Filters = f
			c, err := s.Client()
			if err != nil {
				return err
			}
			res := c.Events(cmd.Context(), o)
			for {
				select {
				case m := <-res.Messages:
					if err := printEvent(s.Out, spec, m); err != nil {
						return err
					}
				case err := <-res.Err:
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
			}
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Since, "since", "", "Show all events created since timestamp")
	fs.StringVar(&o.Until, "until", "", "Stream events until this timestamp")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "Filter output based on conditions provided")
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}

func printEvent(w io.Writer, spec string, m events.Message) error {
	if spec != "" {
		return format.Template(w, spec, m)
	}
	at := time.Unix(m.Time, 0)
	if m.TimeNano != 0 {
		at = time.Unix(0, m.TimeNano)
	}
	text := fmt.Sprintf("%s %s %s %s", at.Format("2006-01-02T15:04:05.000000000Z07:00"), m.Type, m.Action, m.Actor.ID)
	if len(m.Actor.Attributes) > 0 {
		var attrs []string
		for _, k := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
			attrs = append(attrs, k+"="+m.Actor.Attributes[k])
		}
		text += " (" + strings.Join(attrs, ", ") + ")"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

func newInspectCommand(s *session.Session) *cobra.Command {
	var kind, spec string
	var size, verbose bool
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NAME|ID [NAME|ID...]", Short: "Return low-level information on Docker objects", Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			lookups := []inspect.Lookup{
				{Kind: "container", Get: inspect.Container(&size)}, {Kind: "image", Get: inspect.Image},
				{Kind: "network", Get: inspect.Network(&verbose)}, {Kind: "volume", Get: inspect.Volume},
			}
			if kind != "" {
				lookups = slices.DeleteFunc(lookups, func(l inspect.Lookup) bool { return l.Kind != kind })
				if len(lookups) == 0 {
					return fmt.Errorf("unknown type: %q", kind)
				}
			}
			return inspect.Print(s.Out, args, spec, func(name string) (json.RawMessage, error) {
				return inspect.First(cmd.Context(), c, name, lookups, kind)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	fs.StringVar(&kind, "type", "", "Only inspect objects of the given type")
	fs.BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}
