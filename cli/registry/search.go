package registry

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"lighter/cli/format"
	"lighter/cli/session"
)

func newSearchCommand(s *session.Session) *cobra.Command {
	var filters []string
	var spec string
	var limit int
	var noTrunc bool
	cmd := &cobra.Command{
		Use: "search [OPTIONS] TERM", Short: "Search Docker Hub for images", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := session.Filters(filters)
			if err != nil {
				return err
			}
			auth, err := Auth(s, indexOf(args[0]))
			if err != nil {
				return err
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			found, err := c.ImageSearch(cmd.Context(), args[0], client.ImageSearchOptions{RegistryAuth: auth, Filters: f, Limit: limit})
			if err != nil {
				return err
			}
			rows := make([]map[string]string, 0, len(found.Items))
			for _, r := range found.Items {
				description := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.Description)
				if !noTrunc {
					description = format.Ellipsis(description, 45)
				}
				official := ""
				if r.IsOfficial {
					official = "[OK]"
				}
				rows = append(rows, map[string]string{
					"Name": r.Name, "Description": description, "StarCount": strconv.Itoa(r.StarCount), "IsOfficial": official,
				})
			}
			return format.Rows(s.Out, spec, []string{"Name", "Description", "StarCount", "IsOfficial"}, []format.Column{
				{Key: "Name", Header: "NAME"}, {Key: "Description", Header: "DESCRIPTION"},
				{Key: "StarCount", Header: "STARS"}, {Key: "IsOfficial", Header: "OFFICIAL"},
			}, rows)
		},
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&filters, "filter", "f", nil, "Filter output based on conditions provided")
	fs.IntVar(&limit, "limit", 0, "Max number of search results")
	fs.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	fs.StringVar(&spec, "format", "", "Pretty-print search using a Go template")
	return cmd
}

// indexOf is the registry that a search term names, by Docker's rule for
// image names.
func indexOf(term string) string {
	host, _, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return Hub
	}
	return key(host)
}

// Auth is the X-Registry-Auth header with the credentials stored for a registry.
func Auth(s *session.Session, address string) (string, error) {
	auth, err := s.Config().GetAuthConfig(address)
	if err != nil {
		return "", fmt.Errorf("get credentials of %q: %w", address, err)
	}
	return authconfig.Encode(registry.AuthConfig{
		Username: auth.Username, Password: auth.Password, Auth: auth.Auth, ServerAddress: auth.ServerAddress,
		IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	})
}
