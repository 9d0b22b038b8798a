package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Stock returns the path of a program of Debian's engine, which test/run unpacks.
// Without it the test is skipped, or fails where nothing may be missing.
func Stock(t testing.TB, program string) string {
	t.Helper()
	path := filepath.Join(stockDir(t), program)
	if _, err := os.Stat(path); err != nil {
		const remedy = "needs Debian's engine unpacked: run test/run integration"
		if os.Getenv("LIGHTER_TEST_STRICT") == "1" {
			t.Fatal(remedy)
		}
		t.Skip(remedy)
	}
	return path
}

// stockDir is where test/lib.sh puts Debian's engine.
func stockDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("LIGHTER_STOCK"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "lighter-test/stock/bin")
}

// Containerd is a private containerd, ours or a stock one.
type Containerd struct {
	Dir     string // everything below is in it
	Address string // of the gRPC socket

	t       testing.TB
	program string
	env     []string
	proc    *process
}

// StartContainerd runs program, with additions to its environment, until the test
// ends, and then audits that it left nothing behind.
func StartContainerd(t testing.TB, program string, env ...string) *Containerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "lighter-") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	c := &Containerd{Dir: dir, Address: dir + "/c.sock", t: t, program: program, env: env}
	config := "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\", " +
		"\"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.devmapper\"]\n"
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	before := takeAudit(t, dir)
	t.Cleanup(func() {
		if c.proc.running() {
			c.proc.stop(t)
		}
		if strings.HasPrefix(program, stockDir(t)) { // a stock one leaves it
			os.Remove(c.Address + ".ttrpc")
		}
		before.compare(t, dir)
		if t.Failed() {
			raw, _ := os.ReadFile(dir + "/log")
			t.Logf("containerd's log:\n%s", raw)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove containerd's directory: %v", err)
		}
	})
	c.Start()
	return c
}

// Start starts it, after Kill again, and waits until it answers.
func (c *Containerd) Start() {
	c.t.Helper()
	c.proc = startEnv(c.t, nil, c.Dir+"/log", c.env, c.program,
		"--config", c.Dir+"/config.toml", "--address", c.Address, "--root", c.Dir+"/root", "--state", c.Dir+"/state", "--log-level", "debug")
	c.proc.waitFor(c.t, c.Address)
}

// Kill ends it with SIGKILL.
func (c *Containerd) Kill() { c.proc.kill(c.t) }

// Ctr runs the stock ctr against it.
func (c *Containerd) Ctr(args ...string) Result {
	c.t.Helper()
	return c.CtrInput("", args...)
}

// CtrInput is Ctr with the given input.
func (c *Containerd) CtrInput(input string, args ...string) Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := c.CtrCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		fmt.Fprintf(&stderr, "\nctr %q did not end: %v\n", args, errors.Join(err, ctx.Err()))
		return Result{-1, stdout.String(), stderr.String()}
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// CtrCommand prepares the stock ctr against it.
func (c *Containerd) CtrCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, Stock(c.t, "ctr"), append([]string{"--address", c.Address}, args...)...)
}

// OK runs the stock ctr, fails the test unless it exits with 0, and returns its
// output without the final newline.
func (c *Containerd) OK(args ...string) string {
	c.t.Helper()
	r := c.Ctr(args...)
	if r.Code != 0 {
		c.t.Fatalf("ctr %q: exit code %d\nstdout: %s\nstderr: %s", args, r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Busybox is the name of the image that ImportBusybox imports.
const Busybox = "docker.io/library/busybox:latest"

// ImportBusybox imports a small image made of the machine's static busybox.
func (c *Containerd) ImportBusybox() {
	c.t.Helper()
	c.OK("images", "import", BusyboxArchive(c.t))
}

// BusyboxArchive writes an archive, as of docker save, with the image Busybox
// below the test's directory and returns its path.
func BusyboxArchive(t testing.TB) string {
	t.Helper()
	layer, err := os.ReadFile(BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(layer)
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := encode(map[string]any{
		"os": "linux", "architecture": "amd64",
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest := encode([]any{map[string]any{"Config": "config.json", "Layers": []string{"layer.tar"}, "RepoTags": []string{Busybox}}})
	path := filepath.Join(t.TempDir(), "busybox-image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for name, data := range map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": manifest} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}))
		_, werr := w.Write(data)
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
