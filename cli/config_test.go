package cli

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/cli/session"
)

// invocation is docker run in the process against an engine that the test plays.
type invocation struct {
	t    *testing.T
	dir  string // DOCKER_CONFIG
	host string
}

// newInvocation serves engine on a socket and clears what the environment says
// about Docker.
func newInvocation(t *testing.T, engine http.Handler) invocation {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli-") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{
		"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION",
		"DOCKER_AUTH_CONFIG", "DOCKER_CUSTOM_HEADERS",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("DOCKER_CONFIG", dir)
	if engine == nil {
		engine = http.NotFoundHandler()
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.50")
		if r.URL.Path == "/_ping" {
			return
		}
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/v1.50")
		engine.ServeHTTP(w, r)
	})}}
	srv.Start()
	t.Cleanup(srv.Close)
	return invocation{t: t, dir: dir, host: "unix://" + filepath.Join(dir, "s")}
}

// docker runs one command line with stdin.
func (i invocation) docker(stdin string, args ...string) (stdout, stderr string, err error) {
	i.t.Helper()
	in, err := os.CreateTemp(i.t.TempDir(), "stdin")
	if err != nil {
		i.t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.WriteString(stdin); err != nil {
		i.t.Fatal(err)
	}
	if _, err := in.Seek(0, 0); err != nil {
		i.t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err = run(i.t.Context(), &session.Session{In: in, Out: &out, Err: &errs}, args)
	return out.String(), errs.String(), err
}

func (i invocation) write(name, text string, mode os.FileMode) {
	i.t.Helper()
	path := filepath.Join(i.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		i.t.Fatal(err)
	}
}

func (i invocation) read(name string) string {
	i.t.Helper()
	raw, err := os.ReadFile(filepath.Join(i.dir, name))
	if err != nil {
		i.t.Fatal(err)
	}
	return string(raw)
}

// authServer accepts the password "right" and gives a token to user "token".
func authServer(w http.ResponseWriter, r *http.Request) {
	var auth struct{ Username, Password, IdentityToken, ServerAddress string }
	if r.URL.Path != "/auth" || json.NewDecoder(r.Body).Decode(&auth) != nil {
		http.NotFound(w, r)
		return
	}
	switch {
	case auth.IdentityToken == "tok", auth.Password == "right" && auth.Username != "token":
		json.NewEncoder(w).Encode(map[string]string{"Status": "Login Succeeded"})
	case auth.Password == "right":
		json.NewEncoder(w).Encode(map[string]string{"Status": "Login Succeeded", "IdentityToken": "tok"})
	default:
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]string{"message": "unauthorized: incorrect username or password"})
	}
}

func TestLogin(t *testing.T) {
	i := newInvocation(t, http.HandlerFunc(authServer))
	for _, tc := range []struct {
		name, stdin, want, wantErr string
		args                       []string
	}{
		{name: "no user", stdin: "right", args: []string{"--password-stdin", "r.test"}, wantErr: "the --password-stdin option requires --username to be set"},
		{name: "both", stdin: "right", args: []string{"-u", "u", "-p", "x", "--password-stdin", "r.test"}, wantErr: "conflicting options: cannot specify both --password and --password-stdin"},
		{name: "no terminal", args: []string{"r.test"}, wantErr: "Error: Cannot perform an interactive login from a non TTY device"},
		{name: "wrong", stdin: "wrong", args: []string{"-u", "u", "--password-stdin", "r.test"}, wantErr: "unauthorized: incorrect username or password"},
		{name: "empty", args: []string{"-u", "u", "--password-stdin", "r.test"}, wantErr: "password is empty"},
		{name: "right", stdin: "right\n", args: []string{"-u", "u", "--password-stdin", "https://r.test/v1/"}, want: "Login Succeeded\n"},
		{name: "again", args: []string{"r.test"}, want: "Authenticating with existing credentials... [Username: u]\nLogin Succeeded\n\nInfo → To login with a different account, run 'docker logout' followed by 'docker login'\n"},
		{name: "Hub", args: []string{"-u", "token", "-p", "right"}, want: "Login Succeeded\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, _, err := i.docker(tc.stdin, append([]string{"-H", i.host, "login"}, tc.args...)...)
			if out != tc.want || (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("login = %q, %v; want %q, %q", out, err, tc.want, tc.wantErr)
			}
		})
	}
	var config struct {
		Auths map[string]struct{ Auth, IdentityToken string }
	}
	if err := json.Unmarshal([]byte(i.read("config.json")), &config); err != nil {
		t.Fatal(err)
	}
	if got := config.Auths["r.test"].Auth; got != "dTpyaWdodA==" {
		t.Errorf("auth = %q", got)
	}
	if got := config.Auths["https://index.docker.io/v1/"].IdentityToken; got != "tok" {
		t.Errorf("identity token = %q", got)
	}
	if _, _, err := i.docker("", "logout", "r.test"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(i.read("config.json"), "r.test") {
		t.Error("credentials are there after the logout")
	}
}

// helper is a credential helper that keeps what it is given in files.
const helper = `#!/bin/sh
cd "$DOCKER_CONFIG"
case $1 in
store) cat >stored; cp stored get ;;
get) cat >asked; cat get 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f get ;;
list) echo {} ;;
esac
`

func TestCredentialHelper(t *testing.T) {
	i := newInvocation(t, http.HandlerFunc(authServer))
	i.write("bin/docker-credential-test", helper, 0o700)
	t.Setenv("PATH", i.dir+"/bin:"+os.Getenv("PATH"))
	i.write("config.json", `{"credHelpers":{"r.test":"test"}}`, 0o600)
	if _, _, err := i.docker("right", "-H", i.host, "login", "-u", "u", "--password-stdin", "r.test"); err != nil {
		t.Fatal(err)
	}
	var stored struct{ ServerURL, Username, Secret string }
	if err := json.Unmarshal([]byte(i.read("stored")), &stored); err != nil {
		t.Fatal(err)
	}
	if stored.ServerURL != "r.test" || stored.Username != "u" || stored.Secret != "right" {
		t.Errorf("the helper got %+v", stored)
	}
	if strings.Contains(i.read("config.json"), "dTpyaWdodA==") {
		t.Error("config.json holds the password that the helper has")
	}
	if _, _, err := i.docker("", "-H", i.host, "login", "r.test"); err != nil {
		t.Errorf("log in with the helper's credentials: %v", err)
	}
	if _, _, err := i.docker("", "logout", "r.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(i.dir, "get")); err == nil {
		t.Error("logout did not erase the helper's credentials")
	}
}

// TestSearchSendsCredentials also covers HttpHeaders and the environment's.
func TestSearchSendsCredentials(t *testing.T) {
	var got http.Header
	i := newInvocation(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Write([]byte(`[{"name":"busybox","description":"small\nthing","star_count":7,"is_official":true}]`))
	}))
	i.write("config.json", `{"HttpHeaders":{"X-Meta":"file"},"auths":{"https://index.docker.io/v1/":{"auth":"dTpyaWdodA=="}}}`, 0o600)
	out, _, err := i.docker("", "-H", i.host, "search", "--format", "{{.Name}}|{{.Description}}|{{.StarCount}}|{{.IsOfficial}}", "busybox")
	if err != nil || out != "busybox|small thing|7|[OK]\n" {
		t.Errorf("search = %q, %v", out, err)
	}
	if got.Get("X-Meta") != "file" || !strings.HasPrefix(got.Get("X-Registry-Auth"), "eyJ") {
		t.Errorf("headers = %v", got)
	}
	t.Setenv("DOCKER_CUSTOM_HEADERS", `X-Env=a,"X-Two=b,c"`)
	if _, _, err := i.docker("", "-H", i.host, "search", "busybox"); err != nil {
		t.Fatal(err)
	}
	if got.Get("X-Env") != "a" || got.Get("X-Two") != "b,c" || got.Get("X-Meta") != "" {
		t.Errorf("headers of the environment = %v", got)
	}
	t.Setenv("DOCKER_CUSTOM_HEADERS", "nothing")
	if _, _, err := i.docker("", "-H", i.host, "search", "busybox"); err == nil {
		t.Error("a header without a value is taken")
	}
}

func TestProxies(t *testing.T) {
	var env []string
	i := newInvocation(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Env []string }
		json.NewDecoder(r.Body).Decode(&body)
		env = body.Env
		w.WriteHeader(http.StatusCreated)
		w.Write([]byte(`{"Id":"abc"}`))
	}))
	i.write("config.json", `{"proxies":{"default":{"httpProxy":"http://all"},"`+i.host+`":{"httpsProxy":"http://p:1","noProxy":"local"}}}`, 0o600)
	if _, _, err := i.docker("", "-H", i.host, "create", "-e", "no_proxy=mine", "busybox"); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(env, " "), "no_proxy=mine HTTPS_PROXY=http://p:1 NO_PROXY=local https_proxy=http://p:1"; got != want {
		t.Errorf("env = %s, want %s", got, want)
	}
}
