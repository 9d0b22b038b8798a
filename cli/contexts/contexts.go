// Package contexts is docker context: the engines that a user has named. Their
// store is the one that every Docker command line reads.
package contexts

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	endpointtypes "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

const defaultDescription = "Current DOCKER_HOST based configuration"

// Command returns docker context with its verbs.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "context", Short: "Manage contexts", Args: session.NoArgs, RunE: session.Help}
	cmd.AddCommand(newCreateCommand(s), newUpdateCommand(s), newUseCommand(s), newListCommand(s), newInspectCommand(s),
		newRemoveCommand(s), newShowCommand(s), newExportCommand(s), newImportCommand(s))
	return cmd
}

// endpointHelp says what --docker takes.
const endpointHelp = `

Docker endpoint config:

NAME                DESCRIPTION
from                Copy named context's Docker endpoint configuration
host                Docker endpoint on which to connect
ca                  Trust certs signed only by this CA
cert                Path to TLS certificate file
key                 Path to TLS key file
skip-tls-verify     Skip TLS certificate validation

Example:

$ docker context %s my-context --description "some description" --docker "host=tcp://myserver:2376,ca=~/ca-file,cert=~/cert-file,key=~/key-file"`

func newCreateCommand(s *session.Session) *cobra.Command {
	var description, from string
	var endpoint map[string]string
	cmd := &cobra.Command{
		Use: "create [OPTIONS] CONTEXT", Short: "Create a context", Args: session.Exactly(1),
		Long: "Create a context" + fmt.Sprintf(endpointHelp, "create"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := create(s, args[0], description, from, endpoint, cmd.Flags().Changed("docker")); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, args[0])
			fmt.Fprintf(s.Err, "Successfully created context %q\n", args[0])
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&description, "description", "", "Description of the context")
	fs.StringToStringVar(&endpoint, "docker", nil, "set the docker endpoint")
	fs.StringVar(&from, "from", "", "create context from a named context")
	return cmd
}

func create(s *session.Session, name, description, from string, endpoint map[string]string, endpointGiven bool) error {
	st := s.Contexts()
	if err := checkNew(st, name); err != nil {
		return err
	}
	meta := store.Metadata{Name: name, Metadata: map[string]any{}, Endpoints: map[string]any{}}
	var ep docker.Endpoint
	var err error
	switch {
	case from != "" && endpointGiven:
		return errors.New("cannot use --docker flag when --from is set")
	case from != "" || !endpointGiven:
		if from == "" {
			from = s.ContextName()
		}
		if ep, err = endpointOf(s, from); err != nil {
			return err
		}
		if description == "" {
			description, err = descriptionOf(s, from)
		}
	default:
		ep, err = parseEndpoint(s, endpoint)
	}
	if err != nil {
		return err
	}
	if description != "" {
		meta.Metadata = map[string]any{"Description": description}
	}
	return save(st, meta, ep)
}

// save writes meta and the endpoint's TLS material; a new context whose
// material can't be written is removed again.
func save(st *store.ContextStore, meta store.Metadata, ep docker.Endpoint) error {
	meta.Endpoints[docker.DockerEndpoint] = ep.EndpointMeta
	_, err := st.GetMetadata(meta.Name)
	isNew := errdefs.IsNotFound(err)
	if err := st.CreateOrUpdate(meta); err != nil {
		return err
	}
	if err := st.ResetEndpointTLSMaterial(meta.Name, docker.DockerEndpoint, ep.TLSData.ToStoreTLSData()); err != nil {
		if isNew {
			err = errors.Join(err, st.Remove(meta.Name))
		}
		return err
	}
	return nil
}

func newUpdateCommand(s *session.Session) *cobra.Command {
	var description string
	var endpoint map[string]string
	cmd := &cobra.Command{
		Use: "update [OPTIONS] CONTEXT", Short: "Update a context", Args: session.Exactly(1),
		Long: "Update a context" + fmt.Sprintf(endpointHelp, "update"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, st := args[0], s.Contexts()
			if err := checkName(name); err != nil {
				return err
			}
			meta, err := st.GetMetadata(name)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("description") {
				m, _ := meta.Metadata.(map[string]any)
				m = maps.Clone(m)
				if m == nil {
					m = map[string]any{}
				}
				m["Description"] = description
				meta.Metadata = m
			}
			if cmd.Flags().Changed("docker") {
				ep, err := parseEndpoint(s, endpoint)
				if err != nil {
					return err
				}
				err = save(st, meta, ep)
				if err != nil {
					return err
				}
			} else if err := st.CreateOrUpdate(meta); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, name)
			fmt.Fprintf(s.Err, "Successfully updated context %q\n", name)
			return nil
		},
		ValidArgsFunction: Names(s, 1),
	}
	fs := cmd.Flags()
	fs.StringVar(&description, "description", "", "Description of the context")
	fs.StringToStringVar(&endpoint, "docker", nil, "set the docker endpoint")
	return cmd
}

func newUseCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "use CONTEXT", Short: "Set the current docker context", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if name != session.DefaultContext {
				if err := checkName(name); err != nil {
					return err
				}
				if _, err := s.Contexts().GetMetadata(name); err != nil {
					return err
				}
			}
			config := s.Config()
			if name == session.DefaultContext {
				config.CurrentContext = ""
			} else {
				config.CurrentContext = name
			}
			if err := config.Save(); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, name)
			fmt.Fprintf(s.Err, "Current context is now %q\n", name)
			if name != session.DefaultContext && hostFromEnv() {
				fmt.Fprintf(s.Err, "Warning: DOCKER_HOST environment variable overrides the active context. "+
					"To use %q, either set the global --context flag, or unset DOCKER_HOST environment variable.\n", name)
			}
			return nil
		},
		ValidArgsFunction: Names(s, 1),
	}
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm CONTEXT [CONTEXT...]", Short: "Remove one or more contexts", Args: session.AtLeast(1), Aliases: []string{"remove"},
		RunE: func(cmd *cobra.Command, args []string) error {
			st := s.Contexts()
			return s.Each(args, func(name string) error {
				if name == session.DefaultContext {
					return errors.New(`context "default" cannot be removed`)
				}
				if !force {
					if _, err := st.GetMetadata(name); errdefs.IsNotFound(err) {
						return fmt.Errorf("context %q does not exist", name)
					} else if err != nil {
						return err
					}
				}
				if name == s.ContextName() {
					if !force {
						return fmt.Errorf("context %q is in use, set -f flag to force remove", name)
					}
					if config := s.Config(); config.CurrentContext == name {
						config.CurrentContext = ""
						if err := config.Save(); err != nil {
							return err
						}
					}
				}
				return st.Remove(name)
			})
		},
		ValidArgsFunction: Names(s, 0),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of a context in use")
	return cmd
}

func newShowCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the name of the current context", Args: session.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(s.Out, s.ContextName())
			return nil
		},
	}
}

// Names completes with the names of contexts, at most limit of them; 0 is no
// limit.
func Names(s *session.Session, limit int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := store.Names(s.Contexts())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names = slices.DeleteFunc(append(names, session.DefaultContext), func(n string) bool { return slices.Contains(args, n) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

const namePattern = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"

func checkName(name string) error {
	switch ok, err := regexp.MatchString(namePattern, name); {
	case err != nil:
		return err
	case name == "":
		return errors.New("context name cannot be empty")
	case name == session.DefaultContext:
		return errors.New(`"default" is a reserved context name`)
	case !ok:
		return fmt.Errorf("context name %q is invalid, names are validated against regexp %q", name, namePattern)
	}
	return nil
}

func checkNew(st *store.ContextStore, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	_, err := st.GetMetadata(name)
	if err == nil {
		return fmt.Errorf("context %q already exists", name)
	}
	if !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// parseEndpoint reads the pairs of --docker.
func parseEndpoint(s *session.Session, pairs map[string]string) (docker.Endpoint, error) {
	var ep docker.Endpoint
	known := []string{"from", "host", "ca", "cert", "key", "skip-tls-verify"}
	var unknown []string
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		if !slices.Contains(known, k) {
			unknown = append(unknown, fmt.Sprintf("unrecognized config key: %s", k))
		}
	}
	if len(unknown) > 0 {
		return ep, fmt.Errorf("unable to create docker endpoint config: %s", strings.Join(unknown, "; "))
	}
	if from, ok := pairs["from"]; ok {
		ep, err := endpointOf(s, from)
		if err != nil {
			return ep, fmt.Errorf("unable to create docker endpoint config: %w", err)
		}
		return ep, nil
	}
	ep.Host = pairs["host"]
	var err error
	if skip := pairs["skip-tls-verify"]; skip != "" {
		if ep.SkipTLSVerify, err = strconv.ParseBool(skip); err != nil {
			return ep, fmt.Errorf("unable to create docker endpoint config: skip-tls-verify: %w", err)
		}
	}
	if ep.TLSData, err = endpointtypes.TLSDataFromFiles(pairs["ca"], pairs["cert"], pairs["key"]); err != nil {
		return ep, fmt.Errorf("unable to create docker endpoint config: %w", err)
	}
	// What does not fit together is found now, not at first use.
	opts, err := ep.ClientOpts()
	if err == nil {
		_, err = client.New(opts...)
	}
	if err != nil {
		return ep, fmt.Errorf("unable to create docker endpoint config: unable to apply docker endpoint options: %w", err)
	}
	return ep, nil
}

// endpointOf is the engine that the context called name leads to.
func endpointOf(s *session.Session, name string) (docker.Endpoint, error) {
	other := *s
	other.Context = name
	if name == session.DefaultContext {
		return s.DefaultEndpoint()
	}
	other.Hosts = nil
	return other.Endpoint()
}

func descriptionOf(s *session.Session, name string) (string, error) {
	if name == session.DefaultContext {
		return "", nil
	}
	meta, err := s.Contexts().GetMetadata(name)
	return description(meta), err
}

func description(meta store.Metadata) string {
	m, _ := meta.Metadata.(map[string]any)
	text, _ := m["Description"].(string)
	return text
}
