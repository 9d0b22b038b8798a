package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/cli/session"
)

const goodPlugin = `#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
	echo '{"SchemaVersion":"0.1.0","Vendor":"V","Version":"v1","ShortDescription":"Says what it gets"}'
	exit
fi
echo "$0|$*|$DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND|${DOCKER_CLI_PLUGIN_SOCKET:+socket}"
exit 7
`

func TestPlugins(t *testing.T) {
	i := newInvocation(t, nil)
	extra := filepath.Join(i.dir, "extra")
	i.write("config.json", `{"cliPluginsExtraDirs":["`+extra+`"],"aliases":{"builder":"say"}}`, 0o600)
	i.write("cli-plugins/docker-say", goodPlugin, 0o700)
	i.write("extra/docker-say", "#!/bin/sh\nexit 9\n", 0o700) // in the shadow of the first
	i.write("extra/docker-more", goodPlugin, 0o700)
	i.write("cli-plugins/docker-ps", goodPlugin, 0o700)
	i.write("cli-plugins/docker-rude", "#!/bin/sh\necho no\n", 0o700)
	i.write("cli-plugins/docker-old", "#!/bin/sh\necho '{\"SchemaVersion\":\"9\",\"Vendor\":\"V\"}'\n", 0o700)
	i.write("cli-plugins/docker-UP", goodPlugin, 0o700)
	i.write("cli-plugins/docker-file", goodPlugin, 0o600)
	say := filepath.Join(i.dir, "cli-plugins", "docker-say")
	for _, tc := range []struct{ name, line, want, wantErr string }{
		{name: "all arguments", line: "-D -c default say -x a --help", want: say + "|-D -c default say -x a --help|" + os.Args[0] + "|socket\n"},
		{name: "extra directory", line: "more", want: filepath.Join(extra, "docker-more") + "|more|" + os.Args[0] + "|socket\n"},
		{name: "help", line: "help say x", want: say + "|say x --help|" + os.Args[0] + "|socket\n"},
		{name: "completion", line: "__complete say a", want: say + "|__complete say a|" + os.Args[0] + "|socket\n"},
		{name: "alias", line: "-D builder prune", want: say + "|-D say prune|" + os.Args[0] + "|socket\n"},
		{name: "no metadata", line: "rude", wantErr: "docker: unknown command: docker rude (its plugin is not valid: invalid metadata"},
		{name: "schema", line: "old", wantErr: `plugin SchemaVersion "9" is not valid, must be 0.1.0`},
		{name: "not executable", line: "file", wantErr: "failed to fetch metadata"},
		{name: "bad name", line: "UP", wantErr: "docker: unknown command: docker UP\n"},
		{name: "path", line: "../cli-plugins/docker-say", wantErr: "docker: unknown command"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, _, err := i.docker("", strings.Fields(tc.line)...)
			if out != tc.want {
				t.Errorf("docker %s = %q, want %q", tc.line, out, tc.want)
			}
			status, ok := errors.AsType[*session.StatusError](err)
			switch {
			case tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)):
				t.Errorf("error = %v, want %s", err, tc.wantErr)
			case tc.wantErr == "" && (!ok || status.Code != 7 || status.Text != ""):
				t.Errorf("status = %v, want 7 of the plugin", err)
			}
		})
	}
	help, _, err := i.docker("", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"  say*        Says what it gets\n", "  more*       Says what it gets\n", "Invalid Plugins:\n",
		"  ps          plugin \"ps\" duplicates builtin command\n", "  old         plugin SchemaVersion \"9\" is not valid, must be 0.1.0\n",
	} {
		if !strings.Contains(help, line) {
			t.Errorf("help lacks %q:\n%s", line, help)
		}
	}
	if out, _, err := i.docker("", "__complete", "sa"); err != nil || !strings.HasPrefix(out, "save\t") || !strings.Contains(out, "say\tSays what it gets\n") {
		t.Errorf("completion of a plugin's name = %q, %v", out, err)
	}
}
