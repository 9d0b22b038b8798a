package image_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd/image"
	"lighter/containerd/image/imagetest"
	"lighter/internal/registry"
	"lighter/internal/tlstest"
)

// TestMirrorOfHostsFile: hosts.toml gives any registry a mirror, which may be in the
// clear when the file says so and never sees the registry's credentials.
func TestMirrorOfHostsFile(t *testing.T) {
	img := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "a", Body: "a"}))
	var asked, secrets atomic.Int32
	content := &liar{img: img}
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			secrets.Add(1)
		}
		content.ServeHTTP(w, r)
	}))
	defer mirror.Close()
	const host = "registry.invalid:5000"
	dir := t.TempDir()
	file := filepath.Join(dir, host, "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "server = \"https://" + host + "\"\n[host.\"" + mirror.URL + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	svc, _ := imagetest.Services(t)
	pulled, err := image.Pull(testCtx(t), svc, host+"/r:latest", image.PullOptions{
		Resolver: registry.NewResolver(t.Context(), registry.Options{CertsDir: dir, Host: host, User: "user", Secret: "pass"}), NoUnpack: true,
	})
	if err != nil || pulled.Target.Digest != img.Manifest.Digest {
		t.Fatalf("pulled %+v, %v", pulled, err)
	}
	if asked.Load() == 0 || secrets.Load() != 0 {
		t.Errorf("the mirror was asked %d times, %d with credentials", asked.Load(), secrets.Load())
	}
}

// TestClientCertificate: a registry's directory in certs.d has the authority that
// it is verified by and the certificate that is shown to it.
func TestClientCertificate(t *testing.T) {
	img := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "a", Body: "a"}))
	dir := t.TempDir()
	server, client := tlstest.Make(t, dir)
	authority, err := os.ReadFile(server.CA)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	srv := httptest.NewUnstartedServer(&liar{img: img})
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	srv.StartTLS()
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "https://")
	certs := filepath.Join(dir, "certs.d", host)
	if err := os.MkdirAll(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	pull := func() error {
		svc, _ := imagetest.Services(t)
		_, err := image.Pull(testCtx(t), svc, host+"/r:latest", image.PullOptions{
			Resolver: registry.NewResolver(t.Context(), registry.Options{CertsDir: filepath.Dir(certs), Host: host}), NoUnpack: true,
		})
		return err
	}
	if err := pull(); err == nil {
		t.Error("a pull without the certificate succeeds")
	}
	for name, from := range map[string]string{"ca.crt": server.CA, "client.cert": client.Cert, "client.key": client.Key} {
		if err := os.Link(from, filepath.Join(certs, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pull(); err != nil {
		t.Error(err)
	}
}
