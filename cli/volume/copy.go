package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"lighter/cli/session"
)

func newCloneCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "clone VOLUME NEW_VOLUME", Short: "Copy a volume and what it holds", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := s.Request(cmd.Context(), http.MethodPost, path(args[0], "clone"), url.Values{"name": {args[1]}}, nil)
			if err != nil {
				return err
			}
			return printName(s, resp)
		},
	}
}

func newRenameCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "rename VOLUME NEW_NAME", Short: "Rename a volume that no container uses", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := s.Request(cmd.Context(), http.MethodPost, path(args[0], "rename"), url.Values{"name": {args[1]}}, nil)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		},
	}
}

func newExportCommand(s *session.Session) *cobra.Command {
	var output, compress string
	cmd := &cobra.Command{
		Use: "export [OPTIONS] VOLUME", Short: "Write what a volume holds as a tar archive (streamed to STDOUT by default)", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && s.OutIsTerminal() {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			q := url.Values{}
			if compress != "" {
				q.Set("compress", compress)
			}
			resp, err := s.Request(cmd.Context(), http.MethodGet, path(args[0], "export"), q, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return s.Save(output, resp.Body)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.Flags().StringVar(&compress, "compress", "", `Compress the archive ("gzip", "zstd")`)
	return cmd
}

func newImportCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "import VOLUME FILE|-", Short: "Extract a tar archive into a volume, which is made if there is none", Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in io.Reader = s.In
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			resp, err := s.Request(cmd.Context(), http.MethodPost, path(args[0], "import"), nil, in)
			if err != nil {
				return err
			}
			return printName(s, resp)
		},
	}
}

func path(volume, verb string) string { return "/volumes/" + volume + "/" + verb }

// printName prints the name of the volume that the engine answers with.
func printName(s *session.Session, resp *http.Response) error {
	defer resp.Body.Close()
	var v struct{ Name string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	_, err := fmt.Fprintln(s.Out, v.Name)
	return err
}
