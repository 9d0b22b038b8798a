package engine

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestBuildSources: contexts and files from elsewhere.
func TestBuildSources(t *testing.T) {
	slow(t)
	testenv.Need(t, testenv.Root, testenv.Program("git", "git"))
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	docker := harness.Bin(t, "docker")

	t.Run("git", func(t *testing.T) {
		repos := t.TempDir()
		server := gitServer(t, repos)
		work := repository(t, repos, "app", files{"Dockerfile": "FROM busybox\nCOPY data /data\nCMD [\"cat\", \"/data\"]\n", "data": "main", "sub/Dockerfile": "FROM busybox\nCOPY x /data\nCMD [\"cat\", \"/data\"]\n", "sub/x": "sub"}, nil)
		git(t, work, "tag", "v1")
		if err := os.WriteFile(filepath.Join(work, "data"), []byte("second"), 0o644); err != nil {
			t.Fatal(err)
		}
		git(t, work, "commit", "-qam", "two")
		git(t, work, "push", "-q", "--tags", filepath.Join(repos, "app.git"), "main")
		for ref, want := range map[string]string{"": "second", "#main": "second", "#v1": "main", "#main:sub": "sub", "#" + git(t, work, "rev-parse", "v1"): "main"} {
			d.OK("build", "-t", "git", server+"/app.git"+ref)
			if got := d.OK("run", "--rm", "git"); got != want {
				t.Errorf("%q gave %q, want %q", ref, got, want)
			}
			r := classicBuild(t, d, url.Values{"remote": {server + "/app.git" + ref}, "t": {"git:classic"}}, nil)
			if r.err != "" || r.status != http.StatusOK {
				t.Errorf("%q by the classic endpoint: %+v", ref, r)
				continue
			}
			if got := d.OK("run", "--rm", "git:classic"); got != want {
				t.Errorf("%q by the classic endpoint gave %q, want %q", ref, got, want)
			}
		}
		if r := d.Docker("build", server+"/none.git"); r.Code == 0 || !strings.Contains(r.Stderr, "not found") {
			t.Errorf("a repository that is not there: %+v", r)
		}
		if r := d.Docker("build", server+"/app.git#nowhere"); r.Code == 0 || !strings.Contains(r.Stderr, "repository does not contain ref nowhere") {
			t.Errorf("a ref that is not there: %+v", r)
		}
		d.OK("build", "-t", "added", files{"Dockerfile": "FROM busybox\nADD --keep-git-dir=true " + server + "/app.git#v1 /src\nCMD [\"sh\", \"-c\", \"cat /src/data; ls -d /src/.git\"]\n"}.dir(t))
		if got := d.OK("run", "--rm", "added"); got != "main/src/.git" {
			t.Errorf("ADD of a repository gave %q", got)
		}
	})
	t.Run("URL", func(t *testing.T) {
		context := files{"Dockerfile": "FROM busybox\nCOPY data /data\nCMD [\"cat\", \"/data\"]\n", "data": "tar"}.archive(t)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/ctx.tar":
				w.Write(context)
			case "/Dockerfile":
				io.WriteString(w, "FROM busybox\nRUN echo -n plain > /data\nCMD [\"cat\", \"/data\"]\n")
			case "/file":
				io.WriteString(w, "content")
			default:
				http.NotFound(w, r)
			}
		}))
		defer s.Close()
		for path, want := range map[string]string{"/ctx.tar": "tar", "/Dockerfile": "plain"} {
			d.OK("build", "-t", "url", s.URL+path)
			if got := d.OK("run", "--rm", "url"); got != want {
				t.Errorf("%s gave %q", path, got)
			}
			r := classicBuild(t, d, url.Values{"remote": {s.URL + path}, "t": {"url:classic"}}, nil)
			if r.err != "" || r.id == "" {
				t.Errorf("%s by the classic endpoint: %+v", path, r)
			} else if got := d.OK("run", "--rm", "url:classic"); got != want {
				t.Errorf("%s by the classic endpoint gave %q", path, got)
			}
		}
		if r := d.Docker("build", s.URL+"/none"); r.Code == 0 || !strings.Contains(r.Stderr, "404") {
			t.Errorf("a URL that is not there: %+v", r)
		}
		d.OK("build", files{"Dockerfile": "FROM busybox\nADD --checksum=" + digest.FromString("content").String() + " --chmod=600 " + s.URL + "/file /file\nRUN test \"$(cat /file) $(stat -c %a /file)\" = 'content 600'\n"}.dir(t))
		if r := d.Docker("build", files{"Dockerfile": "FROM busybox\nADD --checksum=" + digest.FromString("other").String() + " " + s.URL + "/file /file\n"}.dir(t)); r.Code == 0 || !strings.Contains(r.Stderr, "digest mismatch") {
			t.Errorf("a wrong checksum: %+v", r)
		}
	})
	t.Run("copy", func(t *testing.T) {
		dir := files{
			"Dockerfile": strings.Join([]string{
				"FROM busybox", "COPY --link --chown=7:8 --chmod=750 a/b/c.txt /linked/", "COPY --parents a/b/c.txt a/d.txt /parents/", "COPY --parents ./a/./b /pivot/",
				"COPY --exclude=*.md --exclude=skip docs /docs/", "ADD --link data.tar /tar/", "ADD --unpack=false data.tar /packed/",
				"RUN (stat -c '%u:%g %a' /linked/c.txt; find /parents /pivot /docs /tar /packed -type f | sort) > /list", `CMD ["cat", "/list"]`,
			}, "\n"),
			"a/b/c.txt": "", "a/d.txt": "", "docs/x.md": "", "docs/y": "", "docs/skip": "", "data.tar": string(files{"in": ""}.archive(t)),
		}.dir(t)
		d.OK("build", "-t", "copies", dir)
		want := "7:8 750\n/docs/y\n/packed/data.tar\n/parents/a/b/c.txt\n/parents/a/d.txt\n/pivot/b/c.txt\n/tar/in"
		if got := d.OK("run", "--rm", "copies"); got != want {
			t.Errorf("copies:\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("ignored", func(t *testing.T) {
		dir := files{
			"Dockerfile": "FROM busybox\nCOPY . /c\nRUN cd /c && find . -type f | sort > /list\nCMD [\"cat\", \"/list\"]\n", ".dockerignore": "# comment\n**/*.log\n/only\n!keep.log\nDockerfile*\n  spaced  \nd?r\n",
			"Dockerfile.other": "FROM busybox\nCOPY . /c\nRUN cd /c && find . -type f | sort > /list\nCMD [\"cat\", \"/list\"]\n", "Dockerfile.other.dockerignore": "*\n!dir\n",
			"x.log": "", "keep.log": "", "sub/y.log": "", "sub/only": "", "only": "", "spaced": "", "dir/z": "", "other": "",
		}.dir(t)
		for file, want := range map[string]string{"Dockerfile": "./.dockerignore\n./keep.log\n./other\n./sub/only", "Dockerfile.other": "./dir/z"} {
			d.OK("build", "-t", "ignored", "-f", filepath.Join(dir, file), dir)
			if got := d.OK("run", "--rm", "ignored"); got != want {
				t.Errorf("%s: the context has\n%s\nwant\n%s", file, got, want)
			}
		}
	})
	t.Run("named contexts", func(t *testing.T) {
		d.OK("tag", "busybox", "renamed:1")
		layout := filepath.Join(t.TempDir(), "layout")
		d.OK("build", "-o", "type=oci,tar=false,dest="+layout, files{"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "layout"}.dir(t))
		dir := files{"Dockerfile": "FROM base\nCOPY --from=oci /f /f\nCMD [\"cat\", \"/f\"]\n"}.dir(t)
		d.OK("build", "-t", "named", "--build-context", "base=docker-image://renamed:1", "--build-context", "oci=oci-layout://"+layout, dir)
		if got := d.OK("run", "--rm", "named"); got != "layout" {
			t.Errorf("named contexts gave %q", got)
		}
	})
	t.Run("ssh", func(t *testing.T) {
		testenv.Need(t, testenv.Program("ssh-agent", "openssh-client"), testenv.Program("ssh-keygen", "openssh-client"))
		dir, err := os.MkdirTemp("", "agent-") // short: it holds a socket
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		sock, key := dir+"/s", dir+"/key"
		agent := exec.Command("ssh-agent", "-D", "-a", sock)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		defer agent.Wait()
		defer agent.Process.Kill()
		harness.Eventually(t, buildTimeout, "the agent", func() bool { _, err := os.Stat(sock); return err == nil })
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		add := exec.Command("ssh-add", "-q", key)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		step := files{"Dockerfile": "FROM busybox\nRUN --mount=type=ssh,required=true,mode=0666 test -S $SSH_AUTH_SOCK && test \"$(stat -c %a $SSH_AUTH_SOCK)\" = 666\n"}.dir(t)
		d.OK("build", "--no-cache", "--ssh", "default="+sock, step)
		d.OK("build", "--no-cache", "--ssh", "default="+key, step)
		if r := d.Docker("build", "--no-cache", step); r.Code == 0 || !strings.Contains(r.Stderr, "ssh") {
			t.Errorf("a step that needs an agent, without one: %+v", r)
		}
	})
	t.Run("platforms", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY f-$TARGETARCH /f\n", "f-amd64": "amd64", "f-arm64": "arm64"}.dir(t)
		out := filepath.Join(t.TempDir(), "out")
		d.OK("build", "--platform", "linux/amd64,linux/arm64", "-o", out, dir)
		for _, arch := range []string{"amd64", "arm64"} {
			if raw, err := os.ReadFile(filepath.Join(out, "linux_"+arch, "f")); err != nil || string(raw) != arch {
				t.Errorf("%s: %q, %v", arch, raw, err)
			}
		}
		d.OK("build", "--platform", "linux/amd64,linux/arm64", "-t", "multi", dir)
		if got := d.OK("inspect", "-f", "{{.Architecture}}", "multi"); got != "amd64" {
			t.Errorf("the image's own platform is %q", got)
		}
		d.OK("build", "--platform", "linux/arm64", "-t", "arm", dir)
		if got := d.OK("inspect", "-f", "{{.Architecture}}", "arm"); got != "arm64" {
			t.Errorf("--platform linux/arm64 made %q", got)
		}
	})
	t.Run("displays", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM busybox\nRUN echo words\n"}.dir(t)
		r := d.Docker("build", "--no-cache", "--progress", "rawjson", dir)
		lines, words := 0, false
		for line := range strings.Lines(r.Stderr) {
			var status struct {
				Vertexes []struct{ Name string }
				Logs     []struct{ Data []byte }
			}
			if err := json.Unmarshal([]byte(line), &status); err != nil {
				t.Fatalf("rawjson: %v: %s", err, line)
			}
			for _, l := range status.Logs {
				words = words || strings.Contains(string(l.Data), "words")
			}
			lines++
		}
		if r.Code != 0 || lines < 3 || !words {
			t.Errorf("rawjson: %+v", r)
		}
		for _, args := range [][]string{{"-q"}, {"--progress", "quiet"}} {
			if r := d.Docker(append(append([]string{"build"}, args...), dir)...); r.Code != 0 || r.Stderr != "" || args[0] == "-q" && !strings.HasPrefix(r.Stdout, "sha256:") {
				t.Errorf("%q: %+v", args, r)
			}
		}
		if r := d.Docker("build", "--progress", "nonsense", dir); r.Code == 0 {
			t.Errorf("an unknown display: %+v", r)
		}
		results := t.TempDir()
		d.OK("build", "--iidfile", results+"/id", "--metadata-file", results+"/meta", "-t", "meta", dir)
		id, err := os.ReadFile(results + "/id")
		if err != nil || string(id) != d.OK("inspect", "-f", "{{.Id}}", "meta") {
			t.Errorf("--iidfile has %q, %v", id, err)
		}
		var meta map[string]any
		raw, err := os.ReadFile(results + "/meta")
		if err = errors.Join(err, json.Unmarshal(raw, &meta)); err != nil || meta["containerimage.digest"] != string(id) || meta["image.name"] != "docker.io/library/meta:latest" {
			t.Errorf("--metadata-file has %s, %v", raw, err)
		}
		if r := d.CLI(docker, "FROM busybox\nRUN false\n", "build", "--iidfile", results+"/none", "-"); r.Code == 0 {
			t.Errorf("a failing step: %+v", r)
		}
		if _, err := os.Stat(results + "/none"); err == nil {
			t.Error("a failed build wrote --iidfile")
		}
	})
}

// TestBuildResults: caches and images that go elsewhere, and what comes with them.
func TestBuildResults(t *testing.T) {
	slow(t)
	testenv.Need(t, testenv.Root)
	registry := harness.Registry(t)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	dir := files{"Dockerfile": "FROM busybox AS made\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nFROM busybox\nCOPY --from=made /uuid /uuid\nRUN echo a > /a\nCMD [\"cat\", \"/uuid\"]\n"}.dir(t)
	local := filepath.Join(t.TempDir(), "cache")

	for _, tc := range []struct{ name, to, from string }{
		{"registry", "type=registry,mode=max,ref=" + registry + "/cache:1", registry + "/cache:1"},
		{"local", "type=local,mode=max,dest=" + local, "type=local,src=" + local},
		{"inline", "type=inline", registry + "/inline:1"},
	} {
		t.Run("cache "+tc.name, func(t *testing.T) {
			d.OK("builder", "prune", "-af")
			image := registry + "/inline:1"
			d.OK("build", "-t", image, "--push", "--cache-to", tc.to, dir)
			first := d.OK("run", "--rm", "--pull", "always", image)
			d.OK("rmi", "-f", image)
			d.OK("builder", "prune", "-af")
			r := d.Docker("build", "--progress", "plain", "-t", "again", "--cache-from", tc.from, dir)
			if r.Code != 0 || !strings.Contains(r.Stderr, "CACHED") {
				t.Fatalf("build from the cache: %+v", r)
			}
			if got := d.OK("run", "--rm", "again"); got != first {
				t.Errorf("the cache was not used: %q, then %q", first, got)
			}
		})
	}
	t.Run("cache of nowhere", func(t *testing.T) {
		if r := d.Docker("build", "--cache-from", registry+"/none:1", dir); r.Code != 0 {
			t.Errorf("a cache that is not there must not fail the build: %+v", r)
		}
		if r := d.Docker("build", "--cache-to", "type=registry,ref=127.0.0.1:1/none", dir); r.Code == 0 || !strings.Contains(r.Stderr, "connection refused") {
			t.Errorf("a cache that can't be written: %+v", r)
		}
	})
	t.Run("vanished registry", func(t *testing.T) {
		if r := d.Docker("build", "--push", "-t", "127.0.0.1:1/none:1", dir); r.Code == 0 || !strings.Contains(r.Stderr, "connection refused") {
			t.Errorf("push to a registry that is gone: %+v", r)
		}
		if r := d.Docker("build", "-", "--pull"); r.Code == 0 {
			t.Errorf("no Dockerfile: %+v", r)
		}
		d.OK("build", dir)
	})
	t.Run("archives", func(t *testing.T) {
		out := t.TempDir()
		d.OK("build", "-t", "archived:1", "-o", "type=docker,dest="+out+"/docker.tar", dir)
		d.OK("build", "-t", "archived:2", "-o", "type=oci,dest="+out+"/oci.tar", "--annotation", "a=b", dir)
		d.OK("load", "-i", filepath.Join(out, "docker.tar"))
		if got := d.OK("run", "--rm", "archived:1"); len(got) != 36 {
			t.Errorf("the archive's image prints %q", got)
		}
		if names := entries(t, out+"/oci.tar"); !slices.Contains(names, "oci-layout") || !slices.Contains(names, "index.json") {
			t.Errorf("the OCI archive has %q", names)
		}
		d.OK("build", "-o", "type=tar,dest="+out+"/root.tar", dir)
		if names := entries(t, out+"/root.tar"); !slices.Contains(names, "uuid") {
			t.Errorf("the tar has %q", names)
		}
	})
	t.Run("attestations", func(t *testing.T) {
		layout := filepath.Join(t.TempDir(), "oci")
		d.OK("build", "--provenance", "mode=max", "--build-arg", "A=b", "-o", "type=oci,tar=false,dest="+layout, dir)
		found := false
		blobs, err := filepath.Glob(layout + "/blobs/sha256/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blobs {
			raw, err := os.ReadFile(b)
			if err != nil {
				t.Fatal(err)
			}
			var statement struct{ PredicateType string }
			if json.Unmarshal(raw, &statement) == nil && strings.HasPrefix(statement.PredicateType, "https://slsa.dev/provenance/") {
				found = true
			}
		}
		if !found {
			t.Errorf("no provenance among %d blobs", len(blobs))
		}
		d.OK("build", "--provenance", "true", "-t", "attested", dir)
		if got := d.OK("run", "--rm", "attested"); len(got) != 36 {
			t.Errorf("an image with provenance prints %q", got)
		}
	})
}

// entries are the names in a tar.
func entries(t testing.TB, path string) (names []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// TestBuildEndpoints: version 2 of POST /build, its cancel, and the limits of the
// cache.
func TestBuildEndpoints(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{Args: []string{"--config-file", gcConfig(t)}})
	d.Busybox()
	t.Run("version 2", func(t *testing.T) {
		for query, want := range map[string]string{"version=2": "needs a session", "version=3": "invalid version", "version=2&session=x&outputs={": "error reading outputs"} {
			a := d.RequestAs(t, http.MethodPost, "/v1.47/build?"+query, http.Header{}, nil)
			if text, _ := a.Message(); a.Status != http.StatusBadRequest || !strings.Contains(text, want) {
				t.Errorf("%s: %d %q, want 400 with %q", query, a.Status, text, want)
			}
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "FROM busybox\nRUN echo two\n") }))
		defer s.Close()
		id := withSession(t, d)
		a := d.RequestAs(t, http.MethodPost, "/v1.47/build?"+url.Values{"version": {"2"}, "session": {id}, "remote": {s.URL}, "t": {"two"}}.Encode(), http.Header{}, nil)
		if a.Status != http.StatusOK || !strings.Contains(a.Body, `"id":"moby.buildkit.trace"`) || !strings.Contains(a.Body, `"id":"moby.image.id","aux":{"ID":"sha256:`) {
			t.Errorf("version 2: %d %s", a.Status, a.Body)
		}
		d.OK("inspect", "two")
	})
	t.Run("cancel", func(t *testing.T) {
		ended := make(chan classicResult, 1)
		context := files{"Dockerfile": "FROM busybox\nRUN sleep 3456.789\n"}.archive(t)
		go func() { ended <- classicBuild(t, d, url.Values{"buildid": {"mine"}}, context) }()
		harness.Eventually(t, buildTimeout, "the step", func() bool { return running("sleep\x003456.789\x00") })
		if a := d.Request(t, http.MethodPost, "/v1.47/build/cancel?id=other", ""); a.Status != http.StatusOK {
			t.Errorf("cancel of no build: %+v", a)
		}
		if a := d.Request(t, http.MethodPost, "/v1.47/build/cancel", ""); a.Status != http.StatusBadRequest {
			t.Errorf("cancel without an ID: %+v", a)
		}
		if a := d.Request(t, http.MethodPost, "/v1.47/build/cancel?id=mine", ""); a.Status != http.StatusOK {
			t.Errorf("cancel: %+v", a)
		}
		if r := <-ended; !strings.Contains(r.err, "context canceled") {
			t.Errorf("the cancelled build: %+v", r)
		}
		harness.Eventually(t, buildTimeout, "the step's end", func() bool { return !running("sleep\x003456.789\x00") })
	})
	t.Run("killed step", func(t *testing.T) {
		ended := make(chan harness.Result, 1)
		dir := files{"Dockerfile": "FROM busybox\nRUN sleep 4567.891\n"}.dir(t)
		go func() { ended <- d.Docker("build", dir) }()
		harness.Eventually(t, buildTimeout, "the step", func() bool { return pidOf("sleep\x004567.891\x00") != 0 })
		if err := syscall.Kill(pidOf("sleep\x004567.891\x00"), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if r := <-ended; r.Code != 1 || !strings.Contains(r.Stderr, "exit code: 137") {
			t.Errorf("a build whose step was killed: %+v", r)
		}
		d.OK("build", files{"Dockerfile": "FROM busybox\nRUN true\n"}.dir(t))
	})
	t.Run("collection", func(t *testing.T) {
		for i := range 4 {
			d.OK("build", "-q", files{"Dockerfile": fmt.Sprintf("FROM busybox\nRUN --mount=type=cache,id=c%d,target=/c dd if=/dev/zero of=/c/f bs=1M count=4 2>/dev/null\n", i)}.dir(t))
		}
		harness.Eventually(t, buildTimeout, "the collection", func() bool {
			var usage struct{ BuildCache []struct{ Size int64 } }
			a := d.Request(t, http.MethodGet, "/v1.47/system/df?type=build-cache", "")
			if err := json.Unmarshal([]byte(a.Body), &usage); err != nil {
				t.Fatal(err)
			}
			var sum int64
			for _, u := range usage.BuildCache {
				sum += u.Size
			}
			return sum < 10<<20
		})
	})
}

// gcConfig is a daemon's configuration that keeps 6 MB of cache.
func gcConfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(`{"builder":{"gc":{"enabled":true,"policy":[{"all":true,"maxUsedSpace":"6MB"}]}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pidOf is a process with that command line, 0 for none.
func pidOf(cmdline string) (pid int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if raw, _ := os.ReadFile(f); string(raw) == cmdline {
			fmt.Sscan(filepath.Base(filepath.Dir(f)), &pid)
		}
	}
	return pid
}
