package engine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// Real software in a real distribution: a Debian root made by debootstrap, a
// package installed through the bridge's masquerading, a commit, a server that
// other containers and the host talk to.
func TestRedisOnDebian(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("debootstrap", "debootstrap"))
	archive := debianTar(t)
	harness.Uplink(t)
	d := harness.Start(t, harness.Options{})
	d.OK("import", archive, "debian:bookworm")

	d.OK("run", "--name", "install", "debian:bookworm", "sh", "-c",
		"apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server")
	d.OK("commit", "--change", `CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]`, "install", "redis:test")
	d.OK("rm", "install")

	d.OK("run", "-d", "--name", "redis", "-p", "16379:6379", "redis:test")
	var reply string
	harness.Eventually(t, 30*time.Second, "redis on the published port", func() bool {
		reply = redis("127.0.0.1:16379", "SET", "key", "from the host")
		return reply == "+OK\r\n"
	})
	address := d.OK("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "redis")
	if got := d.OK("run", "--rm", "redis:test", "redis-cli", "-h", address, "GET", "key"); got != "from the host" {
		t.Errorf("another container reads %q", got)
	}
	d.OK("stop", "redis")
	if got := d.OK("logs", "redis"); !strings.Contains(got, "bye bye") {
		t.Errorf("redis did not end by itself:\n%s", got)
	}
	d.OK("rm", "redis")
}

// redis sends one command in RESP and returns the raw reply, "" on any failure.
func redis(addr string, args ...string) string {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintf(conn, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(a), a)
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// debianTar returns a minimal Debian root as a tar, made once and kept in the
// user's cache directory.
func debianTar(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "lighter-test")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "debian-bookworm.tar")
	if fi, err := os.Stat(path); err == nil && time.Since(fi.ModTime()) < 7*24*time.Hour {
		return path
	}
	// The machine's own network is needed: this process may be in another.
	root := filepath.Join(t.TempDir(), "root")
	harness.OnHostNetwork(t, func() {
		for _, cmd := range [][]string{
			{"debootstrap", "--variant=minbase", "bookworm", root},
			{"tar", "-C", root, "-cf", path + ".new", "."},
		} {
			if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", cmd[0], err, out[max(0, len(out)-2000):])
			}
		}
	})
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}
