// Package image is docker's image commands.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lighter/cli/format"
	"lighter/cli/inspect"
	"lighter/cli/session"
)

// Commands returns the verbs on images.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{
		newListCommand(s), newPullCommand(s), newPushCommand(s), newTagCommand(s), newRemoveCommand(s),
		newImportCommand(s), newLoadCommand(s), newSaveCommand(s), newHistoryCommand(s),
	}
}

// Management returns those verbs on images that exist below the noun only.
func Management(s *session.Session) []*cobra.Command {
	var platform string
	inspection := inspect.Command(s, "IMAGE", "Display detailed information on one or more images", inspect.Image(&platform))
	inspection.Flags().StringVar(&platform, "platform", "", `Inspect a specific platform of the multi-platform image. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return []*cobra.Command{inspection, newPruneCommand(s), newDiffCommand(s), newExploreCommand(s)}
}

// Familiar is the reference as users write it, with its tag.
func Familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// Pull pulls ref and shows the progress on out, nothing when quiet.
func Pull(ctx context.Context, s *session.Session, c client.APIClient, ref, platform string, quiet bool, out io.Writer) error {
	return pull(ctx, s, c, ref, client.ImagePullOptions{}, platform, quiet, out)
}

func pull(ctx context.Context, s *session.Session, c client.APIClient, ref string, opts client.ImagePullOptions, platform string, quiet bool, out io.Writer) error {
	if platform != "" {
		p, err := platforms.Parse(platform)
		if err != nil {
			return err
		}
		opts.Platforms = []ocispec.Platform{p}
	}
	auth, err := credentials(s, ref)
	if err != nil {
		return err
	}
	opts.RegistryAuth = auth
	stream, err := c.ImagePull(ctx, ref, opts)
	if err != nil {
		return err
	}
	defer stream.Close()
	if quiet {
		out = io.Discard
	}
	return showProgress(stream, out, s.OutIsTerminal() && !quiet)
}

// credentials are those that config.json or a helper has for ref's registry,
// encoded for the X-Registry-Auth header.
func credentials(s *session.Session, ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("invalid reference format: %w", err)
	}
	host := reference.Domain(named)
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	auth, err := s.Config().GetAuthConfig(host)
	if err != nil {
		return "", err
	}
	return authconfig.Encode(registry.AuthConfig{
		Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
		ServerAddress: auth.ServerAddress, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	})
}

func newPullCommand(s *session.Session) *cobra.Command {
	var platform string
	var quiet, all bool
	cmd := &cobra.Command{
		Use: "pull [OPTIONS] NAME[:TAG|@DIGEST]", Short: "Download an image from a registry", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := CheckTrust(cmd.Flags()); err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			named, err := reference.ParseNormalizedNamed(args[0])
			if err != nil {
				return fmt.Errorf("invalid reference format: %w", err)
			}
			if all {
				if !reference.IsNameOnly(named) {
					return errors.New("tag can't be used with --all-tags/-a")
				}
				return pull(cmd.Context(), s, c, args[0], client.ImagePullOptions{All: true}, platform, quiet, s.Out)
			}
			if reference.IsNameOnly(named) && !quiet {
				fmt.Fprintln(s.Out, "Using default tag: latest")
			}
			if err := Pull(cmd.Context(), s, c, args[0], platform, quiet, s.Out); err != nil {
				return err
			}
			fmt.Fprintln(s.Out, reference.TagNameOnly(named))
			return nil
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all-tags", "a", false, "Download all tagged images in the repository")
	fs.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	fs.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
	withoutTrust(fs)
	return cmd
}

func newPushCommand(s *session.Session) *cobra.Command {
	var quiet, all bool
	var platform string
	cmd := &cobra.Command{
		Use: "push [OPTIONS] NAME[:TAG]", Short: "Upload an image to a registry", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := CheckTrust(cmd.Flags()); err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			auth, err := credentials(s, args[0])
			if err != nil {
				return err
			}
			opts := client.ImagePushOptions{RegistryAuth: auth, All: all}
			if platform != "" {
				p, err := platforms.Parse(platform)
				if err != nil {
					return err
				}
				opts.Platform = &p
			}
			named, err := reference.ParseNormalizedNamed(args[0])
			switch {
			case err != nil:
				return fmt.Errorf("invalid reference format: %w", err)
			case all && !reference.IsNameOnly(named):
				return errors.New("tag can't be used with --all-tags/-a")
			case !all && reference.IsNameOnly(named) && !quiet:
				fmt.Fprintln(s.Out, "Using default tag: latest")
			}
			stream, err := c.ImagePush(cmd.Context(), args[0], opts)
			if err != nil {
				return err
			}
			defer stream.Close()
			out := s.Out
			if quiet {
				out = io.Discard
			}
			return showProgress(stream, out, s.OutIsTerminal() && !quiet)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all-tags", "a", false, "Push all tags of an image to the repository")
	fs.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	fs.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Push a platform-specific manifest as a single-platform image to the registry")
	withoutTrust(fs)
	return cmd
}

// withoutTrust keeps old scripts going: the flag has had no meaning since
// content trust left the command line, and using it says so.
func withoutTrust(fs *pflag.FlagSet) {
	fs.Bool("disable-content-trust", true, "Skip image verification")
	if err := fs.MarkDeprecated("disable-content-trust", "content trust is no longer supported"); err != nil {
		panic(err)
	}
}

// parsePlatforms reads the values of --platform.
func parsePlatforms(texts []string) ([]ocispec.Platform, error) {
	list := make([]ocispec.Platform, 0, len(texts))
	for _, text := range texts {
		p, err := platforms.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("invalid platform: %w", err)
		}
		list = append(list, p)
	}
	return list, nil
}

func newTagCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			_, err = c.ImageTag(cmd.Context(), client.ImageTagOptions{Source: args[0], Target: args[1]})
			return err
		},
	}
}

func newRemoveCommand(s *session.Session) *cobra.Command {
	var force, noPrune bool
	var only []string
	cmd := &cobra.Command{
		Use: "rmi [OPTIONS] IMAGE [IMAGE...]", Short: "Remove one or more images", Args: session.AtLeast(1),
		Aliases: []string{"remove"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			list, err := parsePlatforms(only)
			if err != nil {
				return err
			}
			var failed []error
			for _, ref := range args {
				res, err := c.ImageRemove(cmd.Context(), ref, client.ImageRemoveOptions{Force: force, PruneChildren: !noPrune, Platforms: list})
				if err != nil {
					failed = append(failed, err)
					continue
				}
				for _, r := range res.Items {
					if r.Deleted != "" {
						fmt.Fprintln(s.Out, "Deleted:", r.Deleted)
					} else {
						fmt.Fprintln(s.Out, "Untagged:", r.Untagged)
					}
				}
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents")
	cmd.Flags().StringSliceVar(&only, "platform", nil, `Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	return cmd
}

func newImportCommand(s *session.Session) *cobra.Command {
	var o client.ImageImportOptions
	var platform string
	cmd := &cobra.Command{
		Use: "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]", Short: "Import the contents from a tarball to create a filesystem image",
		Args: session.Between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			source := client.ImageImportSource{Source: s.In, SourceName: "-"}
			switch {
			case args[0] == "-":
			case strings.Contains(args[0], "://"):
				source = client.ImageImportSource{SourceName: args[0]}
			default:
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				source.Source = f
			}
			if platform != "" {
				if o.Platform, err = platforms.Parse(platform); err != nil {
					return err
				}
			}
			ref := ""
			if len(args) == 2 {
				ref = args[1]
			}
			stream, err := c.ImageImport(cmd.Context(), source, ref, o)
			if err != nil {
				return err
			}
			defer stream.Close()
			return showProgress(stream, s.Out, s.OutIsTerminal())
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&o.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	fs.StringVarP(&o.Message, "message", "m", "", "Set commit message for imported image")
	fs.StringVar(&platform, "platform", "", "Set platform if server is multi-platform capable")
	return cmd
}

func newLoadCommand(s *session.Session) *cobra.Command {
	var input string
	var quiet bool
	var only []string
	cmd := &cobra.Command{
		Use: "load [OPTIONS]", Short: "Load an image from a tar archive or STDIN", Args: session.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var source io.Reader = s.In
			switch {
			case input != "":
				f, err := os.Open(input)
				if err != nil {
					return err
				}
				defer f.Close()
				source = f
			case s.InIsTerminal():
				return errors.New("requested load from stdin, but stdin is empty")
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			opts := []client.ImageLoadOption{client.ImageLoadWithQuiet(quiet || !s.OutIsTerminal())}
			list, err := parsePlatforms(only)
			if err != nil {
				return err
			}
			if len(list) > 0 {
				opts = append(opts, client.ImageLoadWithPlatforms(list...))
			}
			stream, err := c.ImageLoad(cmd.Context(), source, opts...)
			if err != nil {
				return err
			}
			defer stream.Close()
			return showProgress(stream, s.Out, s.OutIsTerminal())
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	cmd.Flags().StringSliceVar(&only, "platform", nil, `Load only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8").`)
	return cmd
}

func newSaveCommand(s *session.Session) *cobra.Command {
	var output string
	var only []string
	cmd := &cobra.Command{
		Use: "save [OPTIONS] IMAGE [IMAGE...]", Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args: session.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && s.OutIsTerminal() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			var opts []client.ImageSaveOption
			list, err := parsePlatforms(only)
			if err != nil {
				return err
			}
			if len(list) > 0 {
				opts = append(opts, client.ImageSaveWithPlatforms(list...))
			}
			archive, err := c.ImageSave(cmd.Context(), args, opts...)
			if err != nil {
				return err
			}
			defer archive.Close()
			return s.Save(output, archive)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.Flags().StringSliceVar(&only, "platform", nil, `Save only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8")`)
	return cmd
}

func newHistoryCommand(s *session.Session) *cobra.Command {
	var noTrunc, quiet bool
	human := true
	var spec, platform string
	cmd := &cobra.Command{
		Use: "history [OPTIONS] IMAGE", Short: "Show the history of an image", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Client()
			if err != nil {
				return err
			}
			var opts []client.ImageHistoryOption
			if platform != "" {
				p, err := platforms.Parse(platform)
				if err != nil {
					return fmt.Errorf("invalid platform: %w", err)
				}
				opts = append(opts, client.ImageHistoryWithPlatform(p))
			}
			res, err := c.ImageHistory(cmd.Context(), args[0], opts...)
			if err != nil {
				return err
			}
			columns := []format.Column{
				{Key: "ID", Header: "IMAGE"}, {Key: "CreatedSince", Header: "CREATED"}, {Key: "CreatedAt", Header: "CREATED AT"},
				{Key: "CreatedBy", Header: "CREATED BY"}, {Key: "Size", Header: "SIZE"}, {Key: "Comment", Header: "COMMENT"},
			}
			var rows []map[string]string
			for _, h := range res.Items {
				id, by := h.ID, strings.ReplaceAll(h.CreatedBy, "\t", " ")
				if !noTrunc {
					id, by = format.ShortID(id), format.Ellipsis(by, 45)
				}
				if quiet {
					fmt.Fprintln(s.Out, id)
					continue
				}
				created := time.Unix(h.Created, 0)
				size := fmt.Sprint(h.Size)
				since := created.Format(time.RFC3339)
				if human {
					size, since = units.HumanSizeWithPrecision(float64(h.Size), 3), units.HumanDuration(time.Since(created))+" ago"
				}
				rows = append(rows, map[string]string{
					"ID": id, "CreatedSince": since, "CreatedAt": created.Format(time.RFC3339), "CreatedBy": by, "Size": size, "Comment": h.Comment,
				})
			}
			if quiet {
				return nil
			}
			return format.Rows(s.Out, spec, []string{"ID", "CreatedSince", "CreatedBy", "Size", "Comment"}, columns, rows)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	fs.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
	fs.StringVar(&platform, "platform", "", `Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
	fs.BoolVarP(&human, "human", "H", true, "Print sizes and dates in human readable format")
	fs.StringVar(&spec, "format", "", "Format output using a custom template")
	return cmd
}
