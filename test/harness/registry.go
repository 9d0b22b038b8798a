package harness

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lighter/internal/testenv"
)

// Registry starts Debian's docker-registry on a free loopback port, with its
// storage below the test's directory, and returns its host:port.
func Registry(t testing.TB) string {
	t.Helper()
	return registry(t, "")
}

// PrivateRegistry is Registry for the user "me" with the password "secret".
func PrivateRegistry(t testing.TB) string {
	t.Helper()
	const users = "me:$2a$04$0e8VWFEWHdhQNHle.xDlTO84f0bxIGFOziIP0nUb.3VFyHpKpGnUa\n" // bcrypt of the password
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	return registry(t, fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n", path))
}

// registry starts one with more lines of configuration.
func registry(t testing.TB, more string) string {
	t.Helper()
	testenv.Need(t, testenv.Program("docker-registry", "docker-registry"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // the registry can't be handed a listener
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: %s\n  delete:\n    enabled: true\nhttp:\n  addr: %s\n%s", dir, addr, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, filepath.Join(dir, "registry.log"), "docker-registry", "serve", config)
	t.Cleanup(func() { p.kill(t) })
	Eventually(t, startTimeout, "the registry", func() bool {
		if !p.running() {
			raw, _ := os.ReadFile(p.log)
			t.Fatalf("docker-registry ended at its start: %v\n%s", p.err, raw)
		}
		resp, err := (&http.Client{Timeout: time.Second}).Get("http://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
	})
	return addr
}
