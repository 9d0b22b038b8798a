package system

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
	"lighter/internal/version"
)

// versions is what docker version prints, and the data of its template.
type versions struct {
	Client clientVersion
	Server *serverVersion
}

type platform struct{ Name string }

type clientVersion struct {
	Platform          platform
	Version           string
	APIVersion        string `json:"ApiVersion"`
	DefaultAPIVersion string
	GitCommit         string
	GoVersion         string
	Os                string
	Arch              string
	BuildTime         string `json:",omitempty"`
	Context           string
}

type serverVersion struct {
	Platform      platform
	Components    []system.ComponentVersion
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	KernelVersion string `json:",omitempty"`
	Experimental  bool   `json:",omitempty"`
	BuildTime     string `json:",omitempty"`
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
			v := versions{Client: thisClient(s)}
			server, serverErr := c.ServerVersion(cmd.Context(), client.ServerVersionOptions{})
			if serverErr == nil {
				v.Server = asServer(server)
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
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

func thisClient(s *session.Session) clientVersion {
	return clientVersion{
		Platform: platform{version.Product + " CLI"}, Version: version.Version, DefaultAPIVersion: version.APIMax, GitCommit: version.GitCommit,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, BuildTime: builtAt(version.BuildTime), Context: s.ContextName(),
	}
}

// asServer takes what the engine says of itself from its Engine component,
// which is where newer engines say it.
func asServer(v client.ServerVersionResult) *serverVersion {
	sv := &serverVersion{
		Platform: platform{v.Platform.Name}, Components: v.Components, Version: v.Version, APIVersion: v.APIVersion,
		MinAPIVersion: v.MinAPIVersion, Os: v.Os, Arch: v.Arch,
	}
	for _, c := range v.Components {
		if c.Name == "Engine" {
			d := c.Details
			sv.GitCommit, sv.GoVersion, sv.KernelVersion, sv.BuildTime = d["GitCommit"], d["GoVersion"], d["KernelVersion"], d["BuildTime"]
			sv.Experimental = d["Experimental"] == "true"
		}
	}
	return sv
}

// builtAt is a time of a build as people read it.
func builtAt(text string) string {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at.Format(time.ANSIC)
	}
	return text
}

func printVersion(w io.Writer, v versions) {
	c := v.Client
	heading(w, "Client", c.Platform.Name)
	field := func(name, value string) { fmt.Fprintf(w, " %-19s%s\n", name+":", value) }
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
	fmt.Fprintln(w)
	heading(w, "Server", v.Server.Platform.Name)
	for _, component := range v.Server.Components {
		fmt.Fprintf(w, " %s:\n", component.Name)
		sub := func(name, value string) { fmt.Fprintf(w, "  %-18s%s\n", name+":", value) }
		sub("Version", component.Version)
		d := component.Details
		if component.Name != "Engine" {
			for _, name := range slices.Sorted(maps.Keys(d)) {
				sub(name, d[name])
			}
			continue
		}
		sub("API version", d["ApiVersion"]+" (minimum version "+d["MinAPIVersion"]+")")
		sub("Go version", d["GoVersion"])
		sub("Git commit", d["GitCommit"])
		sub("Built", builtAt(d["BuildTime"]))
		sub("OS/Arch", d["Os"]+"/"+d["Arch"])
		sub("Experimental", d["Experimental"])
	}
}

// heading starts a block, with the product's name if there is one.
func heading(w io.Writer, block, product string) {
	if product != "" {
		product = " " + product
	}
	fmt.Fprintf(w, "%s:%s\n", block, product)
}
