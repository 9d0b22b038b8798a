package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/internal/tlstest"
	"lighter/test/harness"
)

// TestContextStoreIsShared has each command line read what the other wrote.
func TestContextStoreIsShared(t *testing.T) {
	dir := t.TempDir()
	docker := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "DOCKER_CONFIG=" + dir}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s %q: %v: %s", program, args, err, &stderr)
		}
		return string(out)
	}
	ours, stock := harness.Bin(t, "docker"), harness.StockDocker()
	if stock == "" { // the round trip is worth something without it too
		stock = ours
	}
	_, certs := tlstest.Make(t, dir)
	endpoint := "host=tcp://127.0.0.1:2376,ca=" + certs.CA + ",cert=" + certs.Cert + ",key=" + certs.Key
	docker(ours, "context", "create", "mine", "--docker", endpoint, "--description", "d")
	docker(stock, "context", "create", "theirs", "--docker", endpoint, "--description", "d")
	for _, name := range []string{"mine", "theirs", "default"} {
		if a, b := docker(ours, "context", "inspect", name), docker(stock, "context", "inspect", name); a != b {
			t.Errorf("inspect %s:\n%s\nstock:\n%s", name, a, b)
		}
	}
	docker(ours, "context", "use", "mine")
	if got := docker(stock, "context", "show"); got != "mine\n" {
		t.Errorf("stock shows %q", got)
	}
	docker(stock, "context", "use", "theirs")
	if a, b := docker(ours, "context", "ls"), docker(stock, "context", "ls"); a != b {
		t.Errorf("ls:\n%s\nstock:\n%s", a, b)
	}
	docker(ours, "context", "export", "mine", filepath.Join(dir, "archive"))
	docker(stock, "context", "import", "back", filepath.Join(dir, "archive"))
	if got := docker(ours, "context", "inspect", "-f", "{{json .TLSMaterial}}", "back"); got != `{"docker":["ca.pem","cert.pem","key.pem"]}`+"\n" {
		t.Errorf("TLS material after the round trip: %s", got)
	}
}

// TestConnections reaches an engine by every transport of the command line.
func TestConnections(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	docker, dir := harness.Bin(t, "docker"), t.TempDir()
	// A stand-in for ssh runs its last argument, the remote command line.
	ssh := "#!/bin/sh\necho \"$@\" >>" + dir + "/ssh.log\nfor line; do :; done\n" +
		"export DOCKER_HOST=" + d.Host + "\nexec sh -c \"exec " + docker + " ${line#docker}\"\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(ssh), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(env []string, args ...string) (string, string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), docker, args...)
		cmd.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "DOCKER_CONFIG=" + dir}, env...)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("docker %q: %v: %s", args, err, &stderr)
		}
		return stdout.String(), stderr.String()
	}
	name := strings.TrimSpace(d.OK("info", "-f", "{{.ID}}"))
	info := []string{"info", "-f", "{{.ID}}"}
	run(nil, "context", "create", "direct", "--docker", "host="+d.Host)
	run(nil, "context", "create", "far", "--docker", "host=ssh://user@host.test:222")
	for _, tc := range []struct {
		name string
		env  []string
		args []string
	}{
		{name: "flag", args: []string{"-H", d.Host}},
		{name: "environment", env: []string{"DOCKER_HOST=" + d.Host}},
		{name: "context", args: []string{"-c", "direct"}},
		{name: "DOCKER_CONTEXT", env: []string{"DOCKER_CONTEXT=direct"}},
		{name: "ssh", args: []string{"-H", "ssh://user@host.test"}},
		{name: "context over ssh", args: []string{"-c", "far"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if out, _ := run(tc.env, append(tc.args, info...)...); strings.TrimSpace(out) != name {
				t.Errorf("info = %q, want %q", out, name)
			}
		})
	}
	log, err := os.ReadFile(filepath.Join(dir, "ssh.log"))
	if err != nil || !strings.Contains(string(log), "-p 222") || !strings.Contains(string(log), "docker system dial-stdio") {
		t.Errorf("ssh was called with %s (%v)", log, err)
	}
	// --debug shows the requests.
	if _, stderr := run(nil, "-D", "-c", "direct", "ps"); !strings.Contains(stderr, "/containers/json") {
		t.Errorf("debug log: %s", stderr)
	}
}
