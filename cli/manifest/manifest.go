// Package manifest is the docker manifest command: lists of one image's manifests
// for several platforms, put together in files below the configuration directory
// and pushed to a registry without the engine.
package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"lighter/cli/session"
)

// Command is docker manifest.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "manifest", Short: "Manage Docker image manifests and manifest lists", Args: session.NoArgs, RunE: session.Help,
		Long: "Manage image manifests and manifest lists.\nA manifest list gives the images of several platforms one name.",
	}
	cmd.AddCommand(newCreateCommand(s), newInspectCommand(s), newAnnotateCommand(s), newPushCommand(s), newRemoveCommand(s))
	return cmd
}

// parse returns the name that the user gave, with the tag "latest" when it has
// neither tag nor digest.
func parse(name string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named), nil
}

func newCreateCommand(s *session.Session) *cobra.Command {
	var amend, insecure bool
	cmd := &cobra.Command{
		Use: "create MANIFEST_LIST MANIFEST [MANIFEST...]", Short: "Create a local manifest list for annotating and pushing to a registry",
		Args: session.AtLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return create(cmd.Context(), s, args[0], args[1:], amend, insecure)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&amend, "amend", "a", false, "Amend an existing manifest list")
	fs.BoolVar(&insecure, "insecure", false, "Allow communication with an insecure registry")
	return cmd
}

// create stores a list when all of its manifests are known.
func create(ctx context.Context, s *session.Session, name string, members []string, amend, insecure bool) error {
	list, err := parse(name)
	if err != nil {
		return fmt.Errorf("error parsing name for manifest list %s: %w", name, err)
	}
	lists := storeOf(s)
	switch _, err := lists.list(list); {
	case errdefs.IsNotFound(err):
	case err != nil:
		return err
	case !amend:
		return errors.New("refusing to amend an existing manifest list with no --amend flag")
	}
	records := make([]record, 0, len(members))
	for _, member := range members {
		named, err := parse(member)
		if err != nil {
			return fmt.Errorf("error parsing name for manifest %s: %w", member, err)
		}
		r, err := lists.get(list, named)
		if errdefs.IsNotFound(err) || err == nil && len(r.Raw) == 0 { // older command lines stored no bytes
			r, err = newRemote(ctx, s, named, insecure).manifest(ctx, named)
		}
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	for _, r := range records {
		if err := lists.save(list, r); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.Out, "Created manifest list %s\n", list)
	return nil
}

func newInspectCommand(s *session.Session) *cobra.Command {
	var insecure, verbose bool
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST", Short: "Display an image manifest, or manifest list", Args: session.Between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			named, err := parse(args[len(args)-1])
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return inspect(cmd.Context(), s, named, verbose, insecure)
			}
			list, err := parse(args[0])
			if err != nil {
				return err
			}
			r, err := storeOf(s).get(list, named)
			if err != nil {
				return err
			}
			return show(s, r, verbose)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&insecure, "insecure", false, "Allow communication with an insecure registry")
	fs.BoolVarP(&verbose, "verbose", "v", false, "Output additional info including layers and platform")
	return cmd
}

// inspect shows the local list called named, or what the registry has there.
func inspect(ctx context.Context, s *session.Session, named reference.Named, verbose, insecure bool) error {
	records, err := storeOf(s).list(named)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return err
	case verbose:
		return write(s, records, "\t")
	default:
		list, err := assemble(named, records)
		if err != nil {
			return err
		}
		return write(s, list, "   ")
	}
	remote := newRemote(ctx, s, named, insecure)
	desc, doc, err := remote.document(ctx, named)
	switch {
	case err != nil:
		return err
	case doc.Manifests == nil:
		r, err := remote.record(ctx, named, desc, doc)
		if err != nil {
			return err
		}
		return show(s, r, verbose)
	case verbose:
		records, err := remote.members(ctx, named, doc)
		if err != nil {
			return err
		}
		return write(s, records, "\t")
	}
	list := index{SchemaVersion: 2, MediaType: desc.MediaType, Manifests: []member{}}
	for _, d := range doc.Manifests {
		list.Manifests = append(list.Manifests, memberOf(d))
	}
	return write(s, list, "   ")
}

// show prints a manifest, when verbose with what is known of it.
func show(s *session.Session, r record, verbose bool) error {
	if verbose {
		return write(s, r, "\t")
	}
	raw, err := r.payload()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "\t"); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, out.String())
	return nil
}

func write(s *session.Session, v any, indent string) error {
	out, err := json.MarshalIndent(v, "", indent)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "%s\n", out)
	return nil
}

func newAnnotateCommand(s *session.Session) *cobra.Command {
	var p ocispec.Platform
	cmd := &cobra.Command{
		Use: "annotate [OPTIONS] MANIFEST_LIST MANIFEST", Short: "Add additional information to a local image manifest", Args: session.Exactly(2),
		RunE: func(_ *cobra.Command, args []string) error { return annotate(s, args[0], args[1], p) },
	}
	fs := cmd.Flags()
	fs.StringVar(&p.Architecture, "arch", "", "Set architecture")
	fs.StringVar(&p.OS, "os", "", "Set operating system")
	fs.StringSliceVar(&p.OSFeatures, "os-features", nil, "Set operating system feature")
	fs.StringVar(&p.OSVersion, "os-version", "", "Set operating system version")
	fs.StringVar(&p.Variant, "variant", "", "Set architecture variant")
	return cmd
}

// annotate sets what p has of a member's platform.
func annotate(s *session.Session, listName, member string, p ocispec.Platform) error {
	list, err := parse(listName)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest list %s: %w", listName, err)
	}
	named, err := parse(member)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest %s: %w", member, err)
	}
	lists := storeOf(s)
	r, err := lists.get(list, named)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("manifest for image %s does not exist in %s", member, listName)
	} else if err != nil {
		return err
	}
	if r.Descriptor.Platform == nil {
		r.Descriptor.Platform = &ocispec.Platform{}
	}
	old := r.Descriptor.Platform
	for to, value := range map[*string]string{
		&old.Architecture: p.Architecture, &old.OS: p.OS, &old.OSVersion: p.OSVersion, &old.Variant: p.Variant,
	} {
		if value != "" {
			*to = value
		}
	}
	for _, feature := range p.OSFeatures {
		if !slices.Contains(old.OSFeatures, feature) {
			old.OSFeatures = append(old.OSFeatures, feature)
		}
	}
	if !slices.Contains(ports[old.OS], old.Architecture) {
		return fmt.Errorf("manifest entry for image has unsupported os/arch combination: %s/%s", old.OS, old.Architecture)
	}
	return lists.save(list, r)
}

// ports are the architectures of the operating systems that Go runs on.
var ports = map[string][]string{
	"aix":       {"ppc64"},
	"android":   {"386", "amd64", "arm", "arm64"},
	"darwin":    {"386", "amd64", "arm", "arm64"},
	"dragonfly": {"amd64"},
	"freebsd":   {"386", "amd64", "arm", "arm64", "riscv64"},
	"illumos":   {"amd64"},
	"linux":     {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x"},
	"netbsd":    {"386", "amd64", "arm", "arm64"},
	"openbsd":   {"386", "amd64", "arm", "arm64", "ppc64", "riscv64"},
	"plan9":     {"386", "amd64", "arm"},
	"solaris":   {"amd64"},
	"wasip1":    {"wasm"},
	"windows":   {"386", "amd64", "arm", "arm64"},
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "rm MANIFEST_LIST [MANIFEST_LIST...]", Short: "Delete one or more manifest lists from local storage", Args: session.AtLeast(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var failed []error
			for _, name := range args {
				list, err := parse(name)
				if err == nil {
					err = storeOf(s).remove(list)
				}
				failed = append(failed, err)
			}
			return errors.Join(failed...)
		},
	}
}
