// Package harness starts the real programs for integration tests: a private
// daemon with its own roots and socket inside a network namespace of the test
// process, the docker command lines, and an audit that nothing is left behind.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// isolated marks the process that Main started in its own namespaces.
const isolated = "LIGHTER_TEST_ISOLATED"

// hostNetnsFD is the machine's network namespace in the isolated process.
const hostNetnsFD = 3

// Main runs m inside new network and mount namespaces, so that bridges, rules
// and mounts of the tests never meet those of the machine. Call it from
// TestMain. Without root it runs m as it is: the tests then skip themselves.
func Main(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(isolated) != "" {
		syscall.CloseOnExec(hostNetnsFD)
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "raise the loopback link:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		fmt.Fprintln(os.Stderr, "open the machine's network namespace:", err)
		os.Exit(1)
	}
	defer host.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.ExtraFiles = []*os.File{host} // hostNetnsFD in the child
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "start the tests in their own namespaces:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Bin returns the path of one of the five programs: from LIGHTER_BIN, else from
// bin/ at the root of the tree, where make puts them.
func Bin(t testing.TB, program string) string {
	t.Helper()
	dir := os.Getenv("LIGHTER_BIN")
	if dir == "" {
		dir = filepath.Join(root(t), "bin")
	}
	path := filepath.Join(dir, program)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make first", err)
	}
	return path
}

// root is the directory that holds go.mod.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test's directory")
	return ""
}

// StockDocker returns the path of a docker command line that is not ours, or "".
func StockDocker() string {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "docker")
		out, err := exec.Command(path, "--version").Output()
		if err == nil && !bytes.Contains(out, []byte("Lighter")) {
			return path
		}
	}
	return ""
}

// Daemon is a private dockerd, and with External a private containerd beside it.
type Daemon struct {
	Dir      string // everything below is in it
	Host     string // for DOCKER_HOST
	External bool
	Disk     *Disk // below the data root, with Options.DiskBytes

	t          testing.TB
	args       []string
	spawn      func(*exec.Cmd) error
	dockerd    *process
	containerd *process
}

// Options are how a Daemon is started.
type Options struct {
	// External runs containerd as a process of its own and has dockerd use it.
	External bool
	// DiskBytes gives the data root a file system of its own with that size.
	DiskBytes int64
	// Args are added to dockerd's.
	Args []string
	// Spawn, when there is one, starts the daemons in the place of exec.Cmd.Start.
	Spawn func(*exec.Cmd) error
}

// Start runs a daemon until the test ends, and then audits that it left
// nothing behind.
func Start(t testing.TB, o Options) *Daemon {
	t.Helper()
	// Not t.TempDir: its name is long, and socket paths are short.
	dir, err := os.MkdirTemp("", "lighter-")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Dir: dir, Host: "unix://" + dir + "/docker.sock", External: o.External, t: t, args: o.Args, spawn: o.Spawn}
	if o.DiskBytes > 0 {
		d.Disk = mountDisk(t, dir+"/data", o.DiskBytes)
	}
	before := takeAudit(t, dir)
	t.Cleanup(func() {
		d.Stop()
		before.compare(t, dir)
		d.Disk.unmount()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.Log())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the daemon's directory: %v", err)
		}
	})
	d.StartContainerd()
	d.StartDockerd()
	return d
}

// StartContainerd starts containerd when the daemon has an external one.
func (d *Daemon) StartContainerd() {
	d.t.Helper()
	if !d.External {
		return
	}
	sock := d.Dir + "/c.sock"
	d.containerd = start(d.t, d.spawn, d.Dir+"/containerd.log", Bin(d.t, "containerd"),
		"--config", "/dev/null", "--address", sock, "--root", d.Dir+"/croot", "--state", d.Dir+"/cstate", "--log-level", "debug")
	d.containerd.waitFor(d.t, sock)
}

// StartDockerd starts dockerd, after Kill or StopDockerd again, and waits until
// it answers.
func (d *Daemon) StartDockerd() {
	d.t.Helper()
	d.LaunchDockerd()
	d.dockerd.waitFor(d.t, d.Dir+"/docker.sock")
	// It listens before it serves.
	d.Request(d.t, "GET", "/_ping", "")
}

// LaunchDockerd is StartDockerd without the wait.
func (d *Daemon) LaunchDockerd() {
	d.t.Helper()
	args := []string{
		"--config-file", "/dev/null", "--data-root", d.Dir + "/data", "--exec-root", d.Dir + "/exec",
		"--pidfile", d.Dir + "/docker.pid", "--host", d.Host, "--debug",
	}
	if d.External {
		args = append(args, "--containerd", d.Dir+"/c.sock")
	}
	d.dockerd = start(d.t, d.spawn, d.Dir+"/dockerd.log", Bin(d.t, "dockerd"), append(args, d.args...)...)
}

// Dockerd is closed when dockerd ends.
func (d *Daemon) Dockerd() <-chan struct{} { return d.dockerd.done }

// Containerd is closed when the external containerd ends; nil without one.
func (d *Daemon) Containerd() <-chan struct{} {
	if d.containerd == nil {
		return nil
	}
	return d.containerd.done
}

// Pid is dockerd's process ID.
func (d *Daemon) Pid() int { return d.dockerd.cmd.Process.Pid }

// Kill ends dockerd with SIGKILL.
func (d *Daemon) Kill() { d.dockerd.kill(d.t) }

// KillContainerd ends the external containerd with SIGKILL.
func (d *Daemon) KillContainerd() { d.containerd.kill(d.t) }

// StopDockerd ends dockerd with SIGTERM; it must exit cleanly.
func (d *Daemon) StopDockerd() {
	d.t.Helper()
	d.dockerd.stop(d.t)
}

// Stop removes all containers and stops what runs.
func (d *Daemon) Stop() {
	d.t.Helper()
	if d.dockerd.running() {
		if ids := strings.Fields(d.Docker("ps", "-aq").Stdout); len(ids) > 0 {
			d.Docker(append([]string{"rm", "-f", "-v"}, ids...)...)
		}
		d.dockerd.stop(d.t)
	}
	if d.containerd.running() {
		d.containerd.stop(d.t)
	}
}

// Log returns what the daemons printed.
func (d *Daemon) Log() string {
	var all strings.Builder
	for _, name := range []string{"dockerd.log", "containerd.log"} {
		if raw, err := os.ReadFile(filepath.Join(d.Dir, name)); err == nil {
			fmt.Fprintf(&all, "== %s\n%s", name, raw)
		}
	}
	return all.String()
}

// Result is how a command line ended.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Docker runs our command line.
func (d *Daemon) Docker(args ...string) Result {
	d.t.Helper()
	return d.CLI(Bin(d.t, "docker"), "", args...)
}

// commandTimeout bounds one command line.
const commandTimeout = time.Minute

// CLI runs a docker command line against the daemon with the given input.
func (d *Daemon) CLI(program, input string, args ...string) Result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := d.Command(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		// Not fatal: the test that waits may be a part of the daemon's test.
		fmt.Fprintf(&stderr, "\ndocker %q did not end: %v\n", args, errors.Join(err, ctx.Err()))
		return Result{-1, stdout.String(), stderr.String()}
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// Command prepares a docker command line against the daemon.
func (d *Daemon) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.Host, "DOCKER_CONFIG="+d.Dir+"/cli", "DOCKER_CLI_HINTS=false")
	return cmd
}

// OK runs our command line, fails the test unless it exits with 0, and returns
// its output without the final newline.
func (d *Daemon) OK(args ...string) string {
	d.t.Helper()
	r := d.Docker(args...)
	if r.Code != 0 {
		d.t.Fatalf("docker %q: exit code %d\nstdout: %s\nstderr: %s", args, r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Busybox imports a small image made of the machine's static busybox.
func (d *Daemon) Busybox() {
	d.t.Helper()
	d.OK("import", BusyboxTar(d.t), "busybox:latest")
}

// process is a daemon under the test's control.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

// start runs a program, by spawn when that is not nil.
func start(t testing.TB, spawn func(*exec.Cmd) error, logPath, program string, args ...string) *process {
	t.Helper()
	return startEnv(t, spawn, logPath, nil, program, args...)
}

// startEnv is start with additions to the environment.
func startEnv(t testing.TB, spawn func(*exec.Cmd) error, logPath string, env []string, program string, args ...string) *process {
	t.Helper()
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{cmd: exec.Command(program, args...), log: logPath, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), env...)
	if spawn == nil {
		spawn = (*exec.Cmd).Start
	}
	if err := spawn(p.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

// startTimeout bounds the time until a daemon answers on its socket.
const startTimeout = 30 * time.Second

// waitFor returns when somebody answers on the socket.
func (p *process) waitFor(t testing.TB, socket string) {
	t.Helper()
	Eventually(t, startTimeout, "an answer on "+socket, func() bool {
		if !p.running() {
			raw, _ := os.ReadFile(p.log)
			t.Fatalf("%s ended at its start: %v\n%s", p.cmd.Path, p.err, raw)
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// Eventually polls until ok holds, and fails the test when it does not in time.
func Eventually(t testing.TB, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", timeout, what)
		}
	}
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	p.cmd.Process.Kill()
	<-p.done
}

// stopTimeout bounds a clean stop.
const stopTimeout = 30 * time.Second

func (p *process) stop(t testing.TB) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil {
			t.Errorf("%s after SIGTERM: %v", p.cmd.Path, p.err)
		}
	case <-time.After(stopTimeout):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.done
		t.Errorf("%s did not stop within %v of SIGTERM", p.cmd.Path, stopTimeout)
	}
}

// Tail returns at most the last n bytes of s.
func Tail(s string, n int) string { return s[max(0, len(s)-n):] }
