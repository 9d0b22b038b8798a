package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// asked is what an authorization plugin is told.
type asked struct {
	method                    string // of the plugin
	RequestMethod, RequestURI string
	RequestBody, ResponseBody []byte
	RequestHeaders            map[string]string
	ResponseStatusCode        int
}

// authorizer is an authorization plugin.
type authorizer struct {
	mu   sync.Mutex
	deny func(asked) bool
	log  []asked
}

func (a *authorizer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/Plugin.Activate" {
		io.WriteString(w, `{"Implements":["authz"]}`)
		return
	}
	in := asked{method: strings.TrimPrefix(r.URL.Path, "/AuthZPlugin.")}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = append(a.log, in)
	fmt.Fprintf(w, `{"Allow":%v,"Msg":"by rule"}`, a.deny == nil || !a.deny(in))
}

func (a *authorizer) set(deny func(asked) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deny, a.log = deny, nil
}

func (a *authorizer) saw(method string) []asked {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []asked
	for _, in := range a.log {
		if in.method == method {
			out = append(out, in)
		}
	}
	return out
}

// An authorization plugin sees each request and its response, can deny both, and
// what it cannot see is refused.
func TestAuthorization(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const dir = "/run/docker/plugins" // fixed by the protocol
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("lighter-test-%d", os.Getpid())
	path := filepath.Join(dir, name+".sock")
	l, err := net.Listen("unix", path) // closing it removes the file
	if err != nil {
		t.Fatal(err)
	}
	plugin := &authorizer{}
	srv := &http.Server{Handler: plugin}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	d := harness.Start(t, harness.Options{Args: []string{"--authorization-plugin", name}})
	d.Busybox()

	if got := d.OK("run", "--rm", "busybox", "echo", "hi"); got != "hi" {
		t.Errorf("an allowed run said %q", got)
	}
	if got := d.OK("info", "-f", "{{.Plugins.Authorization}}"); got != "["+name+"]" {
		t.Errorf("plugins = %s", got)
	}
	denied := func(method, target, body, want string, status int) {
		t.Helper()
		a := d.Request(t, method, target, body)
		if m, ok := a.Message(); a.Status != status || !ok || m != want {
			t.Errorf("%s %s = %d %s, want %d %q", method, target, a.Status, a.Body, status, want)
		}
	}
	byRule := "authorization denied by plugin " + name + ": by rule"

	plugin.set(func(in asked) bool {
		return in.method == "AuthZReq" && strings.Contains(string(in.RequestBody), "forbidden")
	})
	denied("POST", "/volumes/create", `{"Name":"forbidden"}`, byRule, 403)
	if got := d.OK("volume", "ls", "-q"); got != "" {
		t.Errorf("a denied request made the volume %q", got)
	}
	// A body without a content type, in chunks, is shown all the same.
	a := d.RequestAs(t, "POST", "/volumes/create", http.Header{}, io.MultiReader(strings.NewReader(`{"Name":"forbidden"}`)))
	if m, _ := a.Message(); a.Status != 403 || m != byRule {
		t.Errorf("a body in chunks = %d %s", a.Status, a.Body)
	}
	huge := `{"Name":"` + strings.Repeat("x", 9<<20) + `"}`
	if a := d.Request(t, "POST", "/volumes/create", huge); a.Status != 403 {
		t.Errorf("a huge body = %d %s", a.Status, a.Body)
	}

	plugin.set(func(in asked) bool { return in.method == "AuthZRes" && strings.HasSuffix(in.RequestURI, "/version") })
	denied("GET", "/v1.44/version", "", byRule, 403)
	denied("GET", "/no/such/path", "", "page not found", 404)
	if res := plugin.saw("AuthZRes"); len(res) != 1 || res[0].ResponseStatusCode != 200 || !strings.Contains(string(res[0].ResponseBody), "ApiVersion") {
		t.Errorf("responses shown = %+v", res)
	}

	plugin.set(nil)
	d.RequestAs(t, "POST", "/auth", http.Header{"Content-Type": {"application/json"}, "X-Registry-Auth": {"c2VjcmV0"}}, strings.NewReader(`{"password":"secret","serveraddress":"127.0.0.1:1"}`))
	for _, in := range plugin.saw("AuthZReq") {
		if len(in.RequestBody) > 0 || in.RequestHeaders["X-Registry-Auth"] != "" {
			t.Errorf("credentials shown to the plugin: %+v", in)
		}
	}

	// Without the plugin nothing goes, and a daemon does not start.
	srv.Close()
	if a := d.Request(t, "GET", "/version", ""); a.Status != 500 || !strings.Contains(a.Body, "plugin "+name+" failed with error") {
		t.Errorf("without the plugin: %d %s", a.Status, a.Body)
	}
	if l, err = net.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	again := &http.Server{Handler: plugin}
	go again.Serve(l)
	t.Cleanup(func() { again.Close() })
}
