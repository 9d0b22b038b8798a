package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/plugin"
	"lighter/cli/session"
)

// clientInfo is what docker info says of the command line.
type clientInfo struct {
	Debug bool
	clientVersion
	Plugins  []pluginInfo
	Warnings []string
}

// pluginInfo is a plugin as docker info lists it.
type pluginInfo struct {
	SchemaVersion    string   `json:",omitempty"`
	Vendor           string   `json:",omitempty"`
	Version          string   `json:",omitempty"`
	ShortDescription string   `json:",omitempty"`
	Name             string   `json:",omitempty"`
	Path             string   `json:",omitempty"`
	Err              string   `json:",omitempty"`
	ShadowedPaths    []string `json:",omitempty"`
}

// info is the data of docker info's template.
type info struct {
	*system.Info `json:",omitempty"`
	ServerErrors []string    `json:",omitempty"`
	ClientInfo   *clientInfo `json:",omitempty"`
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
			data := info{Info: &system.Info{}, ClientInfo: &clientInfo{Debug: s.Debug, clientVersion: thisClient(s)}}
			// Plugins are asked only when they are shown.
			if spec == "" || strings.Contains(spec, "ClientInfo") || spec == "json" || strings.Contains(spec, "json .") {
				if data.ClientInfo.Plugins, err = pluginInfos(cmd.Context(), s, cmd.Root()); err != nil {
					return err
				}
			}
			// A template of the client's side alone needs no engine.
			var serverErr error
			if spec == "" || spec == "json" || strings.ReplaceAll(spec, ".ClientInfo", "") == spec || strings.Count(spec, "{{") > strings.Count(spec, ".ClientInfo") {
				res, err := c.Info(cmd.Context(), client.InfoOptions{})
				data.Info, serverErr = &res.Info, err
			}
			if serverErr != nil {
				data.Info, data.ServerErrors = &system.Info{}, []string{serverErr.Error()}
			}
			if spec != "" {
				return errors.Join(format.Template(s.Out, spec, data), serverErr)
			}
			printClient(s, data.ClientInfo)
			fmt.Fprintln(s.Out, "\nServer:")
			if serverErr != nil {
				return serverErr
			}
			printServer(s.Out, data.Info)
			fmt.Fprintln(s.Out)
			for _, warning := range data.Warnings {
				fmt.Fprintln(s.Err, warning)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

func pluginInfos(ctx context.Context, s *session.Session, root *cobra.Command) ([]pluginInfo, error) {
	all, err := plugin.All(ctx, s, func(name string) bool {
		return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
	})
	if err != nil {
		return nil, err
	}
	infos := make([]pluginInfo, 0, len(all))
	for _, p := range all {
		i := pluginInfo{
			SchemaVersion: p.SchemaVersion, Vendor: p.Vendor, Version: p.Version, ShortDescription: p.ShortDescription,
			Name: p.Name, Path: p.Path, ShadowedPaths: p.Shadowed,
		}
		if p.Err != nil {
			i.Err = p.Err.Error()
		}
		infos = append(infos, i)
	}
	return infos, nil
}

func printClient(s *session.Session, c *clientInfo) {
	heading(s.Out, "Client", c.Platform.Name)
	fmt.Fprintf(s.Out, " Version:    %s\n Context:    %s\n Debug Mode: %t\n", c.Version, c.Context, c.Debug)
	listed := false
	for _, p := range c.Plugins {
		if p.Err != "" {
			fmt.Fprintf(s.Err, "WARNING: Plugin %q is not valid: %s\n", p.Path, p.Err)
			continue
		}
		if !listed {
			fmt.Fprintln(s.Out, " Plugins:")
			listed = true
		}
		fmt.Fprintf(s.Out, "  %s: %s (%s)\n", p.Name, p.ShortDescription, p.Vendor)
		if p.Version != "" {
			fmt.Fprintf(s.Out, "    Version:  %s\n", p.Version)
		}
		fmt.Fprintf(s.Out, "    Path:     %s\n", p.Path)
	}
}

func printServer(w io.Writer, i *system.Info) {
	line := func(name string, value any) { fmt.Fprintf(w, " %s: %v\n", name, value) }
	given := func(name, value string) {
		if value != "" {
			line(name, value)
		}
	}
	block := func(name string, lines []string) {
		if len(lines) == 0 {
			return
		}
		fmt.Fprintf(w, " %s:\n  %s\n", name, strings.Join(lines, "\n  "))
	}
	line("Containers", i.Containers)
	fmt.Fprintf(w, "  Running: %d\n  Paused: %d\n  Stopped: %d\n", i.ContainersRunning, i.ContainersPaused, i.ContainersStopped)
	line("Images", i.Images)
	given("Server Version", i.ServerVersion)
	line("Storage Driver", i.Driver)
	for _, kv := range i.DriverStatus {
		fmt.Fprintf(w, "  %s: %s\n", kv[0], kv[1])
	}
	given("Logging Driver", i.LoggingDriver)
	given("Cgroup Driver", i.CgroupDriver)
	given("Cgroup Version", i.CgroupVersion)
	fmt.Fprintf(w, " Plugins:\n  Volume: %s\n  Network: %s\n", strings.Join(i.Plugins.Volume, " "), strings.Join(i.Plugins.Network, " "))
	if len(i.Plugins.Authorization) > 0 {
		fmt.Fprintf(w, "  Authorization: %s\n", strings.Join(i.Plugins.Authorization, " "))
	}
	fmt.Fprintf(w, "  Log: %s\n", strings.Join(i.Plugins.Log, " "))
	block("CDI spec directories", i.CDISpecDirs)
	line("Swarm", i.Swarm.LocalNodeState)
	if i.Swarm.LocalNodeState != swarm.LocalNodeStateInactive && i.Swarm.LocalNodeState != "" {
		fmt.Fprintf(w, "  NodeID: %s\n  Is Manager: %t\n", i.Swarm.NodeID, i.Swarm.ControlAvailable)
		if i.Swarm.ControlAvailable {
			fmt.Fprintf(w, "  Managers: %d\n  Nodes: %d\n", i.Swarm.Managers, i.Swarm.Nodes)
		}
	}
	line("Runtimes", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "))
	line("Default Runtime", i.DefaultRuntime)
	line("Init Binary", i.InitBinary)
	line("containerd version", i.ContainerdCommit.ID)
	line("runc version", i.RuncCommit.ID)
	line("init version", i.InitCommit.ID)
	if len(i.SecurityOptions) > 0 {
		fmt.Fprintln(w, " Security Options:")
		for _, o := range i.SecurityOptions {
			for k, part := range strings.Split(o, ",") {
				name, value, _ := strings.Cut(part, "=")
				switch {
				case k == 0:
					fmt.Fprintf(w, "  %s\n", value)
				case name == "profile":
					fmt.Fprintf(w, "   Profile: %s\n", value)
				default:
					fmt.Fprintf(w, "   %s: %s\n", name, value)
				}
			}
		}
	}
	given("Kernel Version", i.KernelVersion)
	given("Operating System", i.OperatingSystem)
	given("OSType", i.OSType)
	given("Architecture", i.Architecture)
	line("CPUs", i.NCPU)
	line("Total Memory", units.BytesSize(float64(i.MemTotal)))
	given("Name", i.Name)
	given("ID", i.ID)
	line("Docker Root Dir", i.DockerRootDir)
	line("Debug Mode", i.Debug)
	if i.Debug {
		fmt.Fprintf(w, "  File Descriptors: %d\n  Goroutines: %d\n  System Time: %s\n  EventsListeners: %d\n", i.NFd, i.NGoroutines, i.SystemTime, i.NEventsListener)
	}
	given("HTTP Proxy", i.HTTPProxy)
	given("HTTPS Proxy", i.HTTPSProxy)
	given("No Proxy", i.NoProxy)
	block("Labels", i.Labels)
	line("Experimental", i.ExperimentalBuild)
	if r := i.RegistryConfig; r != nil {
		var insecure []string
		for _, name := range slices.Sorted(maps.Keys(r.IndexConfigs)) {
			if !r.IndexConfigs[name].Secure {
				insecure = append(insecure, name)
			}
		}
		for _, p := range r.InsecureRegistryCIDRs {
			insecure = append(insecure, p.String())
		}
		block("Insecure Registries", insecure)
		block("Registry Mirrors", r.Mirrors)
	}
	line("Live Restore Enabled", i.LiveRestoreEnabled)
	given("Product License", i.ProductLicense)
	if len(i.DefaultAddressPools) > 0 {
		fmt.Fprintln(w, " Default Address Pools:")
		for _, p := range i.DefaultAddressPools {
			fmt.Fprintf(w, "   Base: %s, Size: %d\n", p.Base, p.Size)
		}
	}
	if i.FirewallBackend != nil {
		line("Firewall Backend", i.FirewallBackend.Driver)
		for _, kv := range i.FirewallBackend.Info {
			fmt.Fprintf(w, "  %s: %s\n", kv[0], kv[1])
		}
	}
}
