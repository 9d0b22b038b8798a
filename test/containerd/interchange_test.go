// Package containerd tests our containerd, shim and runtime with stock peers on
// the other side of each joint.
package containerd

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// ours starts our containerd, which finds our shim beside it.
func ours(t *testing.T) *harness.Containerd {
	testenv.Need(t, testenv.Root)
	harness.Stock(t, "ctr")
	c := harness.StartContainerd(t, harness.Bin(t, "containerd"))
	c.ImportBusybox()
	return c
}

// wants checks one command line of ctr.
func wants(t *testing.T, r harness.Result, code int, stdout string) {
	t.Helper()
	if r.Code != code || r.Stdout != stdout {
		t.Errorf("exit code %d, output %q, want %d, %q\nstderr: %s", r.Code, r.Stdout, code, stdout, r.Stderr)
	}
}

// exercise runs containers through any stack: what a user of ctr does. The
// runtime is that of the flags.
func exercise(t *testing.T, c *harness.Containerd, flags ...string) {
	run := func(args ...string) []string { return append(append([]string{"run"}, flags...), args...) }
	wants(t, c.Ctr(run("--rm", harness.Busybox, "hello", "echo", "hello")...), 0, "hello\n")
	wants(t, c.Ctr(run("--rm", harness.Busybox, "seven", "sh", "-c", "exit 7")...), 7, "")
	wants(t, c.CtrInput("typed\n", run("--rm", harness.Busybox, "cat", "sh", "-c", "read x; echo got $x")...), 0, "got typed\n")
	wants(t, c.Ctr(run("--rm", "--env", "A=b", "--cwd", "/tmp", "--read-only", harness.Busybox, "env", "sh", "-c", "echo $A $PWD; : >/x")...), 1, "b /tmp\n")

	c.OK(run("-d", harness.Busybox, "stays", "sleep", "1000")...)
	wants(t, c.Ctr("tasks", "exec", "--exec-id", "e1", "stays", "echo", "inside"), 0, "inside\n")
	wants(t, c.Ctr("tasks", "exec", "--exec-id", "e2", "stays", "sh", "-c", "exit 3"), 3, "")
	c.OK("tasks", "pause", "stays")
	status := func() string {
		for line := range strings.Lines(c.OK("tasks", "ls")) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "stays" {
				return f[2]
			}
		}
		return ""
	}
	if got := status(); got != "PAUSED" {
		t.Errorf("status %q, want PAUSED", got)
	}
	c.OK("tasks", "resume", "stays")
	if got := c.OK("tasks", "ps", "stays"); len(strings.Split(got, "\n")) != 2 {
		t.Errorf("processes:\n%s\nwant one", got)
	}
	if got := c.OK("tasks", "metrics", "stays"); !strings.Contains(got, "pids.current") && !strings.Contains(got, "memory") {
		t.Errorf("metrics:\n%s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	attached := c.CtrCommand(ctx, "tasks", "attach", "stays")
	if err := attached.Start(); err != nil {
		t.Fatal(err)
	}
	c.OK("tasks", "kill", "-s", "SIGKILL", "stays")
	if attached.Wait(); attached.ProcessState.ExitCode() != 137 {
		t.Errorf("attach exits with %d, want 137", attached.ProcessState.ExitCode())
	}
	// The client that was attached may have deleted the task.
	harness.Eventually(t, 10*time.Second, "the end of the task", func() bool { s := status(); return s == "" || s == "STOPPED" })
	c.Ctr("tasks", "delete", "stays")
	c.OK("containers", "delete", "stays")
}

// Stock ctr, our containerd, our shim.
func TestCtr(t *testing.T) {
	c := ours(t)
	exercise(t, c)
	exercise(t, c, "--snapshotter", "native")
	if got := c.OK("tasks", "ls", "-q"); got != "" {
		t.Errorf("tasks %q are left", got)
	}
}

func TestCtrStores(t *testing.T) {
	c := ours(t)
	if got := c.OK("version"); !strings.Contains(got, "Server:") {
		t.Errorf("version:\n%s", got)
	}
	if got := c.OK("plugins", "ls"); !regexp.MustCompile(`(?m)^io\.containerd\.snapshotter\.v1\s+overlayfs\s.*\bok\b`).MatchString(got) {
		t.Errorf("plugins:\n%s", got)
	}
	if got := c.OK("images", "check", "-q"); got != harness.Busybox {
		t.Errorf("whole images: %q", got)
	}
	digests := strings.Fields(c.OK("content", "ls", "-q"))
	if len(digests) != 3 {
		t.Fatalf("content %q, want manifest, config and layer", digests)
	}
	c.OK("content", "label", digests[0], "a=b")
	if got := c.OK("content", "ls", "-q", "labels.a==b"); got != digests[0] {
		t.Errorf("content with a label: %q, want %q", got, digests[0])
	}
	r := c.CtrInput("some bytes", "content", "ingest", "--expected-size", "10", "ref1")
	wants(t, r, 0, "")
	other := "sha256:" + strings.Repeat("0", 64)
	if r := c.CtrInput("other", "content", "ingest", "--expected-digest", other, "ref2"); r.Code == 0 {
		t.Error("content that is not of its digest is committed")
	}

	c.OK("snapshots", "prepare", "s1")
	c.OK("snapshots", "commit", "s2", "s1")
	// Unlike a view of ctr's, this is not garbage.
	c.OK("snapshots", "prepare", "s3", "s2")
	if got := c.OK("snapshots", "tree"); !strings.Contains(got, " s2\n  \\_ s3") {
		t.Errorf("tree:\n%s", got)
	}
	if r := c.Ctr("snapshots", "rm", "s2"); r.Code == 0 || !strings.Contains(r.Stderr, "failed precondition") {
		t.Errorf("removal of a parent: %d, %s", r.Code, r.Stderr)
	}
	c.OK("snapshots", "rm", "s3")
	c.OK("snapshots", "rm", "s2")

	c.OK("leases", "create", "--id", "l1", "x=y")
	if got := c.OK("leases", "ls", "-q"); got != "l1" {
		t.Errorf("leases %q", got)
	}
	c.OK("leases", "rm", "l1")

	c.OK("namespaces", "create", "other", "a=b")
	c.OK("namespaces", "label", "other", "c=d")
	if got := c.OK("namespaces", "ls"); !strings.Contains(got, "a=b,c=d") {
		t.Errorf("namespaces:\n%s", got)
	}
	if got := c.OK("-n", "other", "images", "ls", "-q"); got != "" {
		t.Errorf("images of another namespace: %q", got)
	}
	c.OK("namespaces", "rm", "other")
	if r := c.Ctr("namespaces", "rm", "default"); r.Code == 0 || !strings.Contains(r.Stderr, "failed precondition") {
		t.Errorf("removal of a namespace in use: %d, %s", r.Code, r.Stderr)
	}
	if r := c.Ctr("run", "--rm", "--runtime", "/none", harness.Busybox, "x", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "not found") {
		t.Errorf("a runtime that is not there: %d, %s", r.Code, r.Stderr)
	}
}

func TestCtrImages(t *testing.T) {
	c := ours(t)
	reg := harness.Registry(t)
	name := reg + "/busybox:1"
	c.OK("images", "tag", harness.Busybox, name)
	c.OK("images", "push", "--plain-http", name)
	before := c.OK("images", "ls", "name=="+name)
	archive := filepath.Join(t.TempDir(), "out.tar")
	c.OK("images", "export", archive, name)
	c.OK("images", "rm", "--sync", name, harness.Busybox)
	if got := c.OK("content", "ls", "-q"); got != "" {
		t.Errorf("content without an image: %q", got)
	}
	c.OK("images", "pull", "--plain-http", name)
	if got := c.OK("images", "ls", "name=="+name); got != before {
		t.Errorf("after push and pull:\n%s\nbefore:\n%s", got, before)
	}
	wants(t, c.Ctr("run", "--rm", name, "pulled", "echo", "pulled"), 0, "pulled\n")
	c.OK("images", "rm", "--sync", name)
	c.OK("images", "import", archive)
	if got := c.OK("images", "ls", "name=="+name); got != before {
		t.Errorf("after export and import:\n%s\nbefore:\n%s", got, before)
	}
	dir := t.TempDir()
	c.OK("images", "mount", name, dir)
	if _, err := os.Stat(dir + "/bin/busybox"); err != nil {
		t.Error(err)
	}
	c.OK("images", "unmount", "--rm", dir)
}

// Every change is an event, in order.
func TestCtrEvents(t *testing.T) {
	c := ours(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := c.CtrCommand(ctx, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	lines := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- strings.Fields(s.Text())[5]
		}
		close(lines)
	}()
	// ctr does not say when it listens: label the image until it hears of one.
	harness.Eventually(t, 30*time.Second, "an event", func() bool {
		c.OK("images", "label", harness.Busybox, "a=b")
		return len(lines) > 0
	})
	c.OK("run", "--rm", harness.Busybox, "e", "true")
	var got []string
	for topic := range lines {
		if topic != "/images/update" {
			got = append(got, topic)
		}
		if topic == "/containers/delete" {
			break
		}
	}
	want := []string{"/snapshot/prepare", "/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/snapshot/remove", "/containers/delete"}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// Stock containerd, our shim with our runtime.
func TestStockContainerdOurShim(t *testing.T) {
	testenv.Need(t, testenv.Root)
	bin := filepath.Dir(harness.Bin(t, "containerd-shim-runc-v2"))
	c := harness.StartContainerd(t, harness.Stock(t, "containerd"), "PATH="+bin+":"+os.Getenv("PATH"))
	c.ImportBusybox()
	exercise(t, c)
	// Our runtime also as a program, which a stock shim would run.
	exercise(t, c, "--runc-binary", harness.Bin(t, "runc"))
}

// Our containerd, stock shim with stock runc and with ours.
func TestStockShim(t *testing.T) {
	testenv.Need(t, testenv.Root)
	stock := filepath.Dir(harness.Stock(t, "containerd-shim-runc-v2"))
	raw, err := os.ReadFile(harness.Bin(t, "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "containerd") // not beside our shim
	if err := os.WriteFile(alone, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	c := harness.StartContainerd(t, alone, "PATH="+stock+":"+os.Getenv("PATH"))
	c.ImportBusybox()
	exercise(t, c, "--runc-binary", harness.Stock(t, "runc"))
	exercise(t, c, "--runc-binary", harness.Bin(t, "runc"))
}

// Stock dockerd on our containerd. It asks for the runtime "runc", a program.
func TestStockDockerd(t *testing.T) {
	testenv.Need(t, testenv.Root)
	harness.Stock(t, "dockerd")
	path := "PATH=" + filepath.Dir(harness.Bin(t, "runc")) + ":" + os.Getenv("PATH")
	c := harness.StartContainerd(t, harness.Bin(t, "containerd"), path)
	dir := c.Dir + "/docker"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/daemon.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.CommandContext(ctx, harness.Stock(t, "dockerd"), "--config-file", dir+"/daemon.json", "--containerd", c.Address,
		"--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--host", "unix://"+dir+"/s.sock",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--init-path", harness.Bin(t, "docker-init"))
	daemon.Stdout, daemon.Stderr = log, log
	daemon.Env = append(os.Environ(), path)
	daemon.Cancel = func() error { return daemon.Process.Signal(os.Interrupt) }
	daemon.WaitDelay = 30 * time.Second
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { daemon.Wait(); close(ended) }()
	t.Cleanup(func() {
		<-ended
		exec.Command("umount", "-l", dir+"/exec/netns/default").Run() // dockerd leaves it
		if raw, err := os.ReadFile(dir + "/log"); t.Failed() && err == nil {
			t.Logf("dockerd's log:\n%s", raw)
		}
	})
	defer func() { cancel(); <-ended }()
	harness.Eventually(t, 30*time.Second, "dockerd", func() bool {
		conn, err := net.Dial("unix", dir+"/s.sock")
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	docker := func(code int, want string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, harness.Stock(t, "docker"), args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+dir+"/s.sock", "DOCKER_CONFIG="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != code || want != "*" && string(out) != want {
			t.Errorf("docker %q: %v, output %q, want %d, %q\n%s", args, err, out, code, want, stderr.String())
		}
	}
	docker(0, "*", "import", harness.BusyboxTar(t), "busybox:latest")
	docker(0, "hello\n", "run", "--rm", "--network", "none", "busybox", "echo", "hello")
	docker(5, "", "run", "--rm", "--network", "host", "busybox", "sh", "-c", "exit 5")
	docker(0, "*", "run", "-d", "--name", "stays", "--network", "none", "--memory", "64m", "busybox", "sh", "-c", "echo out; sleep 1000")
	docker(0, "inside\n", "exec", "stays", "echo", "inside")
	docker(0, "*", "pause", "stays")
	docker(0, "*", "unpause", "stays")
	docker(0, "*", "stats", "--no-stream", "stays")
	docker(0, "out\n", "logs", "stays")
	docker(0, "stays\n", "restart", "-t", "0", "stays")
	docker(0, "*", "top", "stays")
	docker(0, "stays\n", "rm", "-f", "stays")
	if got := c.OK("-n", "moby", "containers", "ls", "-q"); got != "" {
		t.Errorf("containers %q are left", got)
	}
}
