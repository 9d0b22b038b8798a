package contexts

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/inspect"
	"lighter/cli/session"
	"lighter/internal/atomicfile"
)

func newListCommand(s *session.Session) *cobra.Command {
	var quiet bool
	var spec string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: "List contexts", Args: session.NoArgs, Aliases: []string{"list"},
		RunE: func(*cobra.Command, []string) error {
			current, currentFound := s.ContextName(), false
			items, err := list(s)
			if err != nil {
				return err
			}
			rows := make([]map[string]any, 0, len(items))
			for _, meta := range items {
				row := map[string]any{"Name": meta.Name, "Description": description(meta), "Current": meta.Name == current, "DockerEndpoint": "", "Error": ""}
				if ep, err := docker.EndpointFromContext(meta); err != nil {
					row["Error"] = err.Error()
				} else {
					row["DockerEndpoint"] = ep.Host
				}
				currentFound = currentFound || meta.Name == current
				rows = append(rows, row)
			}
			if !currentFound {
				_, err := s.Contexts().GetMetadata(current)
				if err != nil {
					rows = append(rows, map[string]any{"Name": current, "Current": true, "Description": "", "DockerEndpoint": "", "Error": err.Error()})
				}
			}
			if quiet {
				for _, r := range rows {
					fmt.Fprintln(s.Out, r["Name"])
				}
				return nil
			}
			if err := printList(s, spec, rows); err != nil {
				return err
			}
			if hostFromEnv() && s.Context == "" {
				fmt.Fprintln(s.Err, "Warning: DOCKER_HOST environment variable overrides the active context. "+
					"To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable.")
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show context names")
	cmd.Flags().StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}

func printList(s *session.Session, spec string, rows []map[string]any) error {
	if spec == "json" {
		for _, r := range rows {
			if err := format.Template(s.Out, "json", r); err != nil {
				return err
			}
		}
		return nil
	}
	cells := make([]map[string]string, 0, len(rows))
	for _, r := range rows {
		cell := map[string]string{
			"Description": format.Ellipsis(r["Description"].(string), 60), "DockerEndpoint": r["DockerEndpoint"].(string),
			"Error": format.Ellipsis(r["Error"].(string), 45), "Current": strconv.FormatBool(r["Current"].(bool)), "Name": r["Name"].(string),
		}
		if spec == "" || spec == "table" {
			if r["Current"].(bool) {
				cell["Name"] += " *"
			}
		}
		cells = append(cells, cell)
	}
	return format.Rows(s.Out, spec, []string{"Name", "Description", "DockerEndpoint", "Error"}, []format.Column{
		{Key: "Name", Header: "NAME"}, {Key: "Description", Header: "DESCRIPTION"}, {Key: "DockerEndpoint", Header: "DOCKER ENDPOINT"},
		{Key: "Error", Header: "ERROR"}, {Key: "Current", Header: "CURRENT"},
	}, cells)
}

// list is all contexts with the default one, by name.
func list(s *session.Session) ([]store.Metadata, error) {
	stored, err := s.Contexts().List()
	if err != nil {
		return nil, err
	}
	def, err := defaultMetadata(s)
	if err != nil {
		return nil, err
	}
	i, _ := slices.BinarySearchFunc(stored, def.Name, func(m store.Metadata, name string) int {
		switch {
		case m.Name < name:
			return -1
		case m.Name > name:
			return 1
		}
		return 0
	})
	return slices.Insert(stored, i, def), nil
}

func defaultMetadata(s *session.Session) (store.Metadata, error) {
	ep, err := s.DefaultEndpoint()
	return store.Metadata{
		Name: session.DefaultContext, Metadata: map[string]any{"Description": defaultDescription},
		Endpoints: map[string]any{docker.DockerEndpoint: ep.EndpointMeta},
	}, err
}

// hostFromEnv reports whether the environment wins over the chosen context.
func hostFromEnv() bool { return os.Getenv("DOCKER_HOST") != "" }

func newInspectCommand(s *session.Session) *cobra.Command {
	var spec string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [CONTEXT] [CONTEXT...]", Short: "Display detailed information on one or more contexts", Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{s.ContextName()}
			}
			return inspect.Print(s.Out, args, spec, func(name string) (inspect.Object, error) {
				raw, err := describe(s, name)
				return inspect.Object{Raw: raw}, err
			})
		},
		ValidArgsFunction: Names(s, 0),
	}
	cmd.Flags().StringVarP(&spec, "format", "f", "", "Format output using a custom template")
	return cmd
}

// describe is what inspect shows of a context.
func describe(s *session.Session, name string) (json.RawMessage, error) {
	out := struct {
		Name        string
		Metadata    any
		Endpoints   map[string]any
		TLSMaterial map[string]store.EndpointFiles
		Storage     store.StorageInfo
	}{Name: name, TLSMaterial: map[string]store.EndpointFiles{}}
	if name == session.DefaultContext {
		meta, err := defaultMetadata(s)
		if err != nil {
			return nil, err
		}
		out.Metadata, out.Endpoints = map[string]any{}, meta.Endpoints
		out.Storage = store.StorageInfo{MetadataPath: "<IN MEMORY>", TLSPath: "<IN MEMORY>"}
		return json.Marshal(out)
	}
	st := s.Contexts()
	meta, err := st.GetMetadata(name)
	if err != nil {
		return nil, err
	}
	out.Metadata, out.Endpoints, out.Storage = meta.Metadata, meta.Endpoints, st.GetStorageInfo(name)
	if out.TLSMaterial, err = st.ListTLSFiles(name); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

func newExportCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "export [OPTIONS] CONTEXT [FILE|-]", Short: "Export a context to a tar archive FILE or a tar stream on STDOUT.", Args: session.Between(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			name, file := args[0], args[0]+".dockercontext"
			if len(args) == 2 {
				file = args[1]
			}
			if name != session.DefaultContext {
				if err := checkName(name); err != nil {
					return err
				}
			}
			r, err := export(s, name)
			if err != nil {
				return err
			}
			defer r.Close()
			if file == "-" {
				if s.OutIsTerminal() {
					return fmt.Errorf("cowardly refusing to export to a terminal, specify a file path")
				}
				_, err := io.Copy(s.Out, r)
				return err
			}
			if _, err := os.Lstat(file); err == nil {
				return &os.PathError{Op: "open", Path: file, Err: os.ErrExist}
			}
			if err := atomicfile.WriteFrom(file, 0o600, func(w io.Writer) error {
				_, err := io.Copy(w, r)
				return err
			}); err != nil {
				return err
			}
			fmt.Fprintf(s.Err, "Written file %q\n", file)
			return nil
		},
		ValidArgsFunction: Names(s, 1),
	}
}

// export is the archive of a context. The default one has no place in the
// store: it is exported from a store of its own that holds nothing else.
func export(s *session.Session, name string) (io.ReadCloser, error) {
	if name != session.DefaultContext {
		if _, err := s.Contexts().GetMetadata(name); err != nil {
			return nil, err
		}
		return store.Export(name, s.Contexts()), nil
	}
	ep, err := s.DefaultEndpoint()
	if err != nil {
		return nil, err
	}
	return store.Export(name, onlyDefault{s: s, files: ep.TLSData.ToStoreTLSData()}), nil
}

// onlyDefault is a store.Reader of the default context.
type onlyDefault struct {
	s     *session.Session
	files *store.EndpointTLSData // nil without TLS
}

func (d onlyDefault) GetMetadata(string) (store.Metadata, error) { return defaultMetadata(d.s) }

func (d onlyDefault) ListTLSFiles(string) (map[string]store.EndpointFiles, error) {
	if d.files == nil {
		return nil, nil
	}
	var names store.EndpointFiles
	for name := range d.files.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return map[string]store.EndpointFiles{docker.DockerEndpoint: names}, nil
}

func (d onlyDefault) GetTLSData(_, _, file string) ([]byte, error) { return d.files.Files[file], nil }

func newImportCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "import CONTEXT FILE|-", Short: "Import a context from a tar or zip file", Args: session.Exactly(2),
		RunE: func(_ *cobra.Command, args []string) error {
			st := s.Contexts()
			if err := checkNew(st, args[0]); err != nil {
				return err
			}
			in := s.In
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			if err := store.Import(args[0], st, in); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, args[0])
			fmt.Fprintf(s.Err, "Successfully imported context %q\n", args[0])
			return nil
		},
	}
}
