// Package system is docker's commands on the engine itself: version, info,
// events, inspect.
package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
	"lighter/internal/version"
)

// Commands returns the verbs on the engine.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newVersionCommand(s), newInfoCommand(s), newEventsCommand(s), newInspectCommand(s)}
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
				GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, BuildTime: version.BuildTime, Context: "default",
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
			fmt.Fprintf(w, "Client: %s CLI\n Version:    %s\n Context:    default\n\nServer:\n", version.Product, version.Version)
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

// lookup fetches the raw JSON of one kind of object.
type lookup struct {
	kind string
	get  func(name string) (json.RawMessage, error)
}

func newInspectCommand(s *session.Session) *cobra.Command {
	var kind, spec string
	var size bool
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NAME|ID [NAME|ID...]", Short: "Return low-level information on Docker objects", Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			lookups := []lookup{
				{"container", func(name string) (json.RawMessage, error) {
					r, err := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{Size: size})
					return r.Raw, err
				}},
				{"image", func(name string) (json.RawMessage, error) {
					var raw bytes.Buffer
					_, err := c.ImageInspect(ctx, name, client.ImageInspectWithRawResponse(&raw))
					return raw.Bytes(), err
				}},
				{"network", func(name string) (json.RawMessage, error) {
					r, err := c.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
					return r.Raw, err
				}},
				{"volume", func(name string) (json.RawMessage, error) {
					r, err := c.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
					return r.Raw, err
				}},
			}
			if kind != "" {
				lookups = slices.DeleteFunc(lookups, func(l lookup) bool { return l.kind != kind })
				if len(lookups) == 0 {
					return fmt.Errorf("unknown type: %q", kind)
				}
			}
			return inspect(s.Out, args, lookups, kind, spec)
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	fs.StringVar(&kind, "type", "", "Only inspect objects of the given type")
	fs.BoolVarP(&size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}

func inspect(w io.Writer, names []string, lookups []lookup, kind, spec string) error {
	var failed []error
	found := []json.RawMessage{}
	for _, name := range names {
		raw, err := first(name, lookups, kind)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if spec == "" || spec == "json" {
			found = append(found, raw)
			continue
		}
		// Through a map: templates then reach every field that the engine
		// sent, also those that this program does not know.
		var v any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return err
		}
		if err := format.Template(w, spec, v); err != nil {
			failed = append(failed, err)
		}
	}
	if spec == "json" {
		for _, raw := range found {
			fmt.Fprintln(w, string(bytes.TrimSpace(raw)))
		}
		return errors.Join(failed...)
	}
	if spec == "" {
		var b bytes.Buffer
		b.WriteByte('[')
		for i, raw := range found {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(raw)
		}
		b.WriteByte(']')
		var out bytes.Buffer
		if err := json.Indent(&out, b.Bytes(), "", "    "); err != nil {
			return err
		}
		fmt.Fprintln(w, out.String())
	}
	return errors.Join(failed...)
}

func first(name string, lookups []lookup, kind string) (json.RawMessage, error) {
	for _, l := range lookups {
		raw, err := l.get(name)
		if err == nil || !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
			return raw, err
		}
	}
	if kind == "" {
		kind = "object"
	}
	return nil, fmt.Errorf("error: no such %s: %s", kind, name)
}
