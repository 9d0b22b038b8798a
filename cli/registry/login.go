// Package registry is docker's commands on registries: login, logout, search.
package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lighter/cli/session"
)

// Hub is the key of Docker Hub's credentials.
const Hub = "https://index.docker.io/v1/"

// maxSecret bounds a password read from standard input, in bytes.
const maxSecret = 64 << 10

// Commands returns login, logout and search.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{newLoginCommand(s), newLogoutCommand(s), newSearchCommand(s)}
}

// login is what the user gave.
type login struct {
	server, user, password string
	fromStdin              bool
}

func newLoginCommand(s *session.Session) *cobra.Command {
	var o login
	cmd := &cobra.Command{
		Use: "login [OPTIONS] [SERVER]", Short: "Authenticate to a registry", Args: session.Between(0, 1),
		Long: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.server = args[0]
			}
			fs := cmd.Flags()
			switch {
			case fs.Changed("password") && o.fromStdin:
				return errors.New("conflicting options: cannot specify both --password and --password-stdin")
			case fs.Changed("password") && o.password == "":
				return errors.New("password is empty")
			case fs.Changed("username") && o.user == "":
				return errors.New("username is empty")
			case o.fromStdin && o.user == "":
				return errors.New("the --password-stdin option requires --username to be set")
			}
			if o.fromStdin || o.password == "-" {
				secret, err := io.ReadAll(io.LimitReader(s.In, maxSecret))
				if err != nil {
					return err
				}
				o.password = strings.TrimSuffix(strings.TrimSuffix(string(secret), "\n"), "\r")
				if o.password == "" {
					return errors.New("password is empty")
				}
			} else if o.password != "" {
				fmt.Fprintln(s.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
			}
			return runLogin(cmd.Context(), s, o)
		},
		ValidArgsFunction: completeServers(s),
	}
	fs := cmd.Flags()
	fs.StringVarP(&o.user, "username", "u", "", "Username")
	fs.StringVarP(&o.password, "password", "p", "", "Password or Personal Access Token (PAT)")
	fs.BoolVar(&o.fromStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	return cmd
}

func runLogin(ctx context.Context, s *session.Session, o login) error {
	address := key(o.server)
	c, err := s.Client()
	if err != nil {
		return err
	}
	store := s.Config().GetCredentialsStore(address)
	if o.user == "" && o.password == "" {
		stored, err := store.Get(address)
		if err == nil && (stored.Username != "" && stored.Password != "" || stored.IdentityToken != "") {
			fmt.Fprintf(s.Out, "Authenticating with existing credentials... [Username: %s]\n", stored.Username)
			stored.ServerAddress = address
			if err := authenticate(ctx, s, c, stored); err == nil {
				fmt.Fprintln(s.Out, "\nInfo → To login with a different account, run 'docker logout' followed by 'docker login'")
				return nil
			} else if !s.InIsTerminal() {
				return err
			}
			fmt.Fprintln(s.Err, "Login did not succeed, error: the stored credentials were refused")
			o.user = ""
		}
	}
	if err := o.ask(s); err != nil {
		return err
	}
	return authenticate(ctx, s, c, types.AuthConfig{Username: o.user, Password: o.password, ServerAddress: address})
}

// ask completes the name and the password from the terminal.
func (o *login) ask(s *session.Session) error {
	if o.user != "" && o.password != "" {
		return nil
	}
	if !s.InIsTerminal() {
		return &session.StatusError{Code: 1, Text: "Error: Cannot perform an interactive login from a non TTY device"}
	}
	if o.user == "" {
		fmt.Fprint(s.Out, "Username: ")
		line, err := bufio.NewReader(io.LimitReader(s.In, maxSecret)).ReadString('\n')
		if o.user = strings.TrimSpace(line); o.user == "" {
			return errors.Join(errors.New("username is required"), eofIsNone(err))
		}
	}
	if o.password == "" {
		fmt.Fprint(s.Out, "Password: ")
		secret, err := term.ReadPassword(int(s.In.Fd()))
		fmt.Fprintln(s.Out)
		if o.password = string(secret); o.password == "" {
			return errors.Join(errors.New("password is required"), eofIsNone(err))
		}
	}
	return nil
}

func eofIsNone(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// authenticate has the engine try the credentials and stores what it accepted:
// an identity token takes the password's place.
func authenticate(ctx context.Context, s *session.Session, c client.APIClient, auth types.AuthConfig) error {
	res, err := c.RegistryLogin(ctx, client.RegistryLoginOptions{
		Username: auth.Username, Password: auth.Password, ServerAddress: auth.ServerAddress,
		IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	})
	if err != nil {
		return err
	}
	if token := res.Auth.IdentityToken; token != "" {
		auth.Password, auth.IdentityToken = "", token
	}
	config := s.Config()
	if config.CredentialsStore == "" && !config.ContainsAuth() {
		config.CredentialsStore = credentials.DetectDefaultStore("")
	}
	if err := config.GetCredentialsStore(auth.ServerAddress).Store(auth); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	if res.Auth.Status != "" {
		fmt.Fprintln(s.Out, res.Auth.Status)
	}
	return nil
}

// key is the name of a server's credentials.
func key(server string) string {
	switch host := credentials.ConvertToHostname(server); host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return Hub
	default:
		return host
	}
}

func newLogoutCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "logout [SERVER]", Short: "Log out from a registry", Args: session.Between(0, 1),
		Long: "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
		RunE: func(_ *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			address := key(name)
			fmt.Fprintf(s.Out, "Removing login credentials for %s\n", address)
			addresses := []string{address}
			if address != Hub { // older command lines stored the scheme too
				addresses = append(addresses, name, "http://"+address, "https://"+address)
			}
			var failed []error
			for i, a := range addresses {
				if i > 0 && a == address {
					continue
				}
				if err := s.Config().GetCredentialsStore(a).Erase(a); err != nil {
					failed = append(failed, fmt.Errorf("%s: %w", a, err))
				}
			}
			if len(failed) == len(addresses) {
				return fmt.Errorf("could not erase credentials:\n%w", errors.Join(failed...))
			}
			return nil
		},
		ValidArgsFunction: completeServers(s),
	}
}

// completeServers completes with the registries that credentials are stored of.
func completeServers(s *session.Session) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for name := range s.Config().AuthConfigs {
			names = append(names, name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
