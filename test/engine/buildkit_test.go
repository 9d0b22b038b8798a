package engine

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// buildTimeout bounds what a build process does by itself.
const buildTimeout = 30 * time.Second

// dir writes the files to a directory.
func (f files) dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range f {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBuild is docker build with our command line.
func TestBuild(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()

	t.Run("from scratch", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM scratch\nCOPY data /data\n", "data": "x"}.dir(t)
		id := d.OK("build", "-q", "-t", "scratch:1", dir)
		if got := d.OK("inspect", "-f", "{{.Id}}", "scratch:1"); got != id {
			t.Errorf("build -q printed %q, the image is %q", id, got)
		}
	})
	t.Run("features", func(t *testing.T) {
		dir := files{"Dockerfile": strings.Join([]string{
			"ARG BASE=busybox", "FROM ${BASE} AS base", "ARG WHO=nobody", "ENV GREETING=hello",
			"RUN <<EOT", "set -e", `echo "$GREETING $WHO" > /greeting`, "EOT",
			"FROM base AS mounts",
			"RUN --mount=type=bind,source=data,target=/in/data --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch cat /in/data > /bound && echo c > /cache/c && mount | grep -q 'tmpfs on /scratch'",
			"RUN --mount=type=secret,id=token,required=true test \"$(cat /run/secrets/token)\" = s3cret",
			"FROM base", "COPY --from=mounts /bound /bound", "COPY --chmod=640 data /mode", "COPY <<inline /inline", "made here", "inline",
			`CMD ["sh", "-c", "cat /greeting /bound /inline; ls -l /mode | cut -c1-10"]`,
		}, "\n"), "data": "content\n"}.dir(t)
		secret := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.OK("build", "-t", "features", "--build-arg", "WHO=you", "--label", "l=v", "--secret", "id=token,src="+secret, dir)
		if got := d.OK("run", "--rm", "features"); got != "hello you\ncontent\nmade here\n-rw-r-----" {
			t.Errorf("the image prints %q", got)
		}
		if history := d.OK("history", "--no-trunc", "features"); strings.Contains(history, "s3cret") {
			t.Errorf("the secret is in the history:\n%s", history)
		}
	})
	t.Run("networks", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM busybox\nRUN ls /sys/class/net > /default\nRUN --network=none ls /sys/class/net > /none\nCMD [\"cat\", \"/default\", \"/none\"]\n"}.dir(t)
		d.OK("build", "-t", "networks", dir)
		if got := strings.Fields(d.OK("run", "--rm", "networks")); strings.Join(got, " ") != "eth0 lo lo" {
			t.Errorf("interfaces of steps: %q, want those of the default network, then lo alone", got)
		}
		host := files{"Dockerfile": "FROM busybox\nRUN ls /sys/class/net/docker0\n"}.dir(t)
		d.OK("build", "--network", "host", host)
		if r := d.Docker("build", "--network", "nowhere", host); r.Code == 0 || !strings.Contains(r.Stderr, "not supported by buildkit") {
			t.Errorf("an unknown network: %+v", r)
		}
	})
	t.Run("cache", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nCOPY data /data\n", "data": "1"}.dir(t)
		first := d.OK("build", "-q", dir)
		if again := d.OK("build", "-q", dir); again != first {
			t.Errorf("an unchanged rebuild made %s of %s", again, first)
		}
		if fresh := d.OK("build", "-q", "--no-cache", dir); fresh == first {
			t.Error("--no-cache changed nothing")
		}
		if r := d.Docker("build", "--progress", "plain", dir); !strings.Contains(r.Stderr, "CACHED") {
			t.Errorf("no CACHED in %s", r.Stderr)
		}
	})
	t.Run("dockerignore", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM busybox\nCOPY . /ctx\nCMD [\"ls\", \"/ctx\"]\n", ".dockerignore": "*.tmp\nsub\n!sub/keep\n", "a.tmp": "", "b": "", "sub/c": "", "sub/keep": ""}.dir(t)
		d.OK("build", "-t", "ignore", dir)
		if got := strings.Fields(d.OK("run", "--rm", "ignore")); strings.Join(got, " ") != "Dockerfile b sub" {
			t.Errorf("the context has %q", got)
		}
	})
	t.Run("outputs", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM scratch\nCOPY data /sub/data\n", "data": "out"}.dir(t)
		out := filepath.Join(t.TempDir(), "out")
		d.OK("build", "-o", out, dir)
		if raw, err := os.ReadFile(filepath.Join(out, "sub", "data")); err != nil || string(raw) != "out" {
			t.Errorf("local output: %q, %v", raw, err)
		}
		archive := tar.NewReader(strings.NewReader(d.OK("build", "-o", "-", dir)))
		var names []string
		for {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
		}
		if strings.Join(names, " ") != "sub/ sub/data" {
			t.Errorf("tar output has %q", names)
		}
	})
	t.Run("other sources", func(t *testing.T) {
		if r := d.CLI(harness.Bin(t, "docker"), "FROM busybox\nRUN echo stdin > /x\n", "build", "-q", "-"); r.Code != 0 {
			t.Errorf("a Dockerfile on stdin: %+v", r)
		}
		context := files{"Dockerfile": "FROM busybox\nCOPY data /data\n", "data": "tar"}
		if r := d.CLI(harness.Bin(t, "docker"), string(context.archive(t)), "build", "-q", "-"); r.Code != 0 {
			t.Errorf("a tar on stdin: %+v", r)
		}
		named := files{"Dockerfile": "FROM busybox\nCOPY --from=other data /data\n"}.dir(t)
		d.OK("build", "--build-context", "other="+files{"data": "named"}.dir(t), named)
	})
	t.Run("refused", func(t *testing.T) {
		for name, tc := range map[string]struct {
			dockerfile string
			want       []string
		}{
			"syntax":         {"FROM busybox\nFROBNICATE x\n", []string{"dockerfile parse error on line 2", "FROBNICATE"}},
			"failing step":   {"FROM busybox\nRUN echo last words && exit 7\n", []string{"last words", "exit code: 7", "Dockerfile:2"}},
			"missing source": {"FROM busybox\nCOPY nothing /\n", []string{`"/nothing": not found`}},
			"missing stage":  {"FROM busybox\nCOPY --from=9 / /\n", []string{"invalid stage index 9"}},
			"insecure":       {"FROM busybox\nRUN --security=insecure true\n", []string{"security.insecure is not allowed"}},
		} {
			r := d.Docker("build", files{"Dockerfile": tc.dockerfile}.dir(t))
			for _, want := range tc.want {
				if r.Code != 1 || !strings.Contains(r.Stderr, want) {
					t.Errorf("%s: %+v, want %q", name, r, want)
				}
			}
		}
		if r := d.Docker("build", "/no/such/context"); r.Code != 1 || !strings.Contains(r.Stderr, `path "/no/such/context" not found`) {
			t.Errorf("a missing context: %+v", r)
		}
	})
	t.Run("check", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM busybox\ncopy x /\n"}.dir(t)
		if r := d.Docker("build", "--check", dir); r.Code != 1 || !strings.Contains(r.Stdout, "ConsistentInstructionCasing") {
			t.Errorf("check: %+v", r)
		}
	})
	t.Run("prune", func(t *testing.T) {
		if out := d.OK("builder", "prune", "-af"); !strings.Contains(out, "Total reclaimed space:") {
			t.Errorf("prune: %s", out)
		}
		if usage := d.Request(t, http.MethodGet, "/v1.47/system/df?type=build-cache", ""); strings.Contains(usage.Body, `"InUse":false`) {
			t.Errorf("after the prune the cache has %s", usage.Body)
		}
	})
}

// buildProcess returns the pid of the daemon's build process, 0 for none.
func buildProcess(d *harness.Daemon) int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		raw, _ := os.ReadFile(dir + "/cmdline")
		if program, rest, _ := strings.Cut(string(raw), "\x00"); strings.HasSuffix(program, "docker-buildkitd") && strings.HasPrefix(rest, d.Dir+"/") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	return 0
}

// TestBuildProcessDies: whoever is killed in the middle of a step, nothing of it
// goes on, and the next build is right.
func TestBuildProcessDies(t *testing.T) {
	testenv.Need(t, testenv.Root)
	for _, victim := range []string{"build process", "dockerd"} {
		t.Run(victim, func(t *testing.T) {
			d := harness.Start(t, harness.Options{})
			d.Busybox()
			dir := files{"Dockerfile": "FROM busybox\nRUN echo first > /first\nRUN test -e /first && if [ -e /go ]; then exit 0; fi; echo running; sleep 1234.5678\n"}.dir(t)
			ended := make(chan harness.Result, 1)
			go func() { ended <- d.Docker("build", "-t", "x", dir) }()
			harness.Eventually(t, buildTimeout, "the step", func() bool { return running("sleep\x001234.5678\x00") })
			if victim == "dockerd" {
				d.Kill()
			} else if err := syscall.Kill(buildProcess(d), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if r := <-ended; r.Code == 0 {
				t.Errorf("the build succeeded: %+v", r)
			}
			harness.Eventually(t, buildTimeout, "the step's end", func() bool { return !running("sleep\x001234.5678\x00") })
			if victim == "dockerd" {
				harness.Eventually(t, buildTimeout, "the build process's end", func() bool { return buildProcess(d) == 0 })
				d.StartDockerd()
			}
			d.OK("build", "-t", "y", files{"Dockerfile": "FROM busybox\nRUN echo first > /first\nRUN cat /first > /second\nCMD [\"cat\", \"/second\"]\n"}.dir(t))
			if got := d.OK("run", "--rm", "y"); got != "first" {
				t.Errorf("the image prints %q", got)
			}
		})
	}
}

// running says whether a process with that command line exists.
func running(cmdline string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if raw, _ := os.ReadFile(f); string(raw) == cmdline {
			return true
		}
	}
	return false
}

// TestBuildCancel: a cancelled build ends its step.
func TestBuildCancel(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	cmd := d.Command(t.Context(), harness.Bin(t, "docker"), "build", files{"Dockerfile": "FROM busybox\nRUN sleep 2345.6789\n"}.dir(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, buildTimeout, "the step", func() bool { return running("sleep\x002345.6789\x00") })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the cancelled build succeeded")
	}
	harness.Eventually(t, buildTimeout, "the step's end", func() bool { return !running("sleep\x002345.6789\x00") })
	d.OK("build", files{"Dockerfile": "FROM busybox\nRUN true\n"}.dir(t))
}

// TestBuildIdle: the process is gone when it has nothing to do, and comes again.
func TestBuildIdle(t *testing.T) {
	testenv.Need(t, testenv.Root)
	t.Setenv("LIGHTER_BUILD_IDLE", "10ms")
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	if buildProcess(d) != 0 {
		t.Error("there is a build process before the first build")
	}
	dir := files{"Dockerfile": "FROM busybox\nRUN echo a > /a\n"}.dir(t)
	first := d.OK("build", "-q", dir)
	harness.Eventually(t, buildTimeout, "the idle process's end", func() bool { return buildProcess(d) == 0 })
	if again := d.OK("build", "-q", dir); again != first {
		t.Errorf("after the idle stop the cache is lost: %s, then %s", first, again)
	}
}
