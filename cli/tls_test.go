package cli

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/tlstest"
)

func TestTLS(t *testing.T) {
	i := newInvocation(t, nil)
	serverFiles, client := tlstest.Make(t, i.dir)
	pair, err := tls.LoadX509KeyPair(serverFiles.Cert, serverFiles.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(serverFiles.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.50")
		w.Write([]byte("[]"))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.StartTLS()
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "https://")
	flags := []string{"--tlscacert", client.CA, "--tlscert", client.Cert, "--tlskey", client.Key}
	i.want("tls\n", "", "context", "create", "tls", "--docker", "host=tcp://"+addr+",ca="+client.CA+",cert="+client.Cert+",key="+client.Key)
	i.want("loose\n", "", "context", "create", "loose", "--docker", "host=tcp://"+addr+",skip-tls-verify=1,cert="+client.Cert+",key="+client.Key)
	i.want("", "no such file", "context", "create", "none", "--docker", "host=tcp://"+addr+",ca=/none")
	i.want("", "unable to create docker endpoint config", "context", "create", "none", "--docker", "host=tcp://"+addr+",cert="+client.Cert+",key="+serverFiles.Key)
	_, other := tlstest.Make(t, filepath.Join(i.dir, "other"))
	for _, tc := range []struct {
		name string
		env  map[string]string
		args []string
		ok   bool
	}{
		{name: "flags", args: append([]string{"--tlsverify", "-H", "tcp://" + addr}, flags...), ok: true},
		{name: "not verified", args: []string{"--tls", "-H", addr, "--tlscert", client.Cert, "--tlskey", client.Key}, ok: true},
		{name: "no client certificate", args: []string{"--tls", "-H", addr}},
		{name: "another authority", args: append([]string{"--tlsverify", "-H", addr}, "--tlscacert", other.CA, "--tlscert", client.Cert, "--tlskey", client.Key)},
		{name: "another client", args: append([]string{"--tlsverify", "-H", addr}, "--tlscacert", client.CA, "--tlscert", other.Cert, "--tlskey", other.Key)},
		{name: "environment", env: map[string]string{"DOCKER_HOST": "tcp://" + addr, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": filepath.Dir(client.CA)}, ok: true},
		{name: "no authority", env: map[string]string{"DOCKER_HOST": "tcp://" + addr, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": i.dir + "/none"}},
		{name: "context", args: []string{"-c", "tls"}, ok: true},
		{name: "loose context", args: []string{"-c", "loose"}, ok: true},
		{name: "plain", args: []string{"-H", addr}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			if _, _, err := i.docker("", append(tc.args, "ps")...); (err == nil) != tc.ok {
				t.Errorf("ps: %v", err)
			}
		})
	}
}
