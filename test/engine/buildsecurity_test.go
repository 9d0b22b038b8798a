package engine

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// slow leaves a test to "make test-all": builds of all kinds take longer than the
// quick run has.
func slow(t testing.TB) {
	t.Helper()
	if os.Getenv("LIGHTER_TEST_SLOW") == "" {
		t.Skip("it takes long: set LIGHTER_TEST_SLOW=1, or run make test-all")
	}
}

// canary is a directory of the host that no build may read or change.
type canary struct{ dir string }

const canaryText = "h0st-s3cret-of-the-canary"

func newCanary(t testing.TB) canary {
	t.Helper()
	// Short and without the test's name: it goes into Dockerfiles.
	dir, err := os.MkdirTemp("", "canary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, text := range map[string]string{"secret": canaryText, "empty": "", "hosts": "", "resolv.conf": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return canary{dir}
}

// check fails the test when the directory is not as it was.
func (c canary) check(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("the host's directory was changed: %v, %v", entries, err)
	}
	if raw, err := os.ReadFile(filepath.Join(c.dir, "secret")); err != nil || string(raw) != canaryText {
		t.Errorf("the host's file was changed: %q, %v", raw, err)
	}
}

// evilArchive is a tar whose entries lead out of where it is unpacked.
func evilArchive(t testing.TB, c canary, more ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range append(more,
		tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: c.dir},
		tar.Header{Name: "out/planted", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../.." + c.dir},
		tar.Header{Name: "up/planted2", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: "../../../../../../../.." + c.dir + "/planted3", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: c.dir + "/planted4", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: c.dir + "/secret"},
	) {
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// gitServer serves the repositories below dir over HTTP.
func gitServer(t testing.TB, dir string) string {
	t.Helper()
	testenv.Need(t, testenv.Program("git", "git"))
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	})
	t.Cleanup(s.Close)
	return s.URL
}

// git runs git in dir as somebody, without the machine's configuration.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repository makes name.git below dir with the files, and links by their target.
func repository(t testing.TB, dir, name string, content files, links map[string]string) string {
	t.Helper()
	work := content.dir(t)
	for at, target := range links {
		if err := os.Symlink(target, filepath.Join(work, at)); err != nil {
			t.Fatal(err)
		}
	}
	git(t, work, "init", "-q")
	git(t, work, "add", "-A")
	git(t, work, "commit", "-qm", "one")
	git(t, work, "clone", "-q", "--bare", ".", filepath.Join(dir, name+".git"))
	return work
}

// recordGit puts a git before the machine's that notes its arguments.
func recordGit(t testing.TB) (log string) {
	t.Helper()
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\nfor a; do printf '%%s\\0' \"$a\" >> %s; done\nexec %s \"$@\"\n", log, real)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

// TestBuildGitSecurity: nothing that a URL or a repository says becomes an option
// of git, or leads out of the checkout.
func TestBuildGitSecurity(t *testing.T) {
	slow(t)
	testenv.Need(t, testenv.Root, testenv.Program("git", "git"))
	log := recordGit(t)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	c := newCanary(t)
	repos := t.TempDir()
	server := gitServer(t, repos)
	repository(t, repos, "good", files{"Dockerfile": "FROM busybox\nCOPY data /data\n", "data": "git", "sub/Dockerfile": "FROM busybox\nCOPY x /x\n", "sub/x": "sub"}, map[string]string{
		"abs": "/", "up": "../../../../../../../../..", "leak": c.dir + "/secret", "linked": "sub",
	})

	t.Run("CVE-2019-13139", func(t *testing.T) {
		planted := filepath.Join(c.dir, "planted")
		for _, u := range []string{
			server + "/good.git#--upload-pack=touch " + planted + ";", server + "/good.git#-u./x:.", server + "/good.git#main:--help",
			"git://-oProxyCommand=touch " + planted + "/r.git", "ssh://-oProxyCommand=touch " + planted + "/r.git", "git@-oProxyCommand=touch:r.git",
			"ext::sh -c touch% " + planted, "file://" + repos + "/good.git", server + "/good.git#main\n--upload-pack=x", "--upload-pack=touch " + planted,
		} {
			if r := d.Docker("build", u); r.Code == 0 {
				t.Errorf("docker build %q succeeded", u)
			}
			if r := classicBuild(t, d, url.Values{"remote": {u}}, nil); r.status == http.StatusOK && r.err == "" {
				t.Errorf("remote=%q succeeded", u)
			}
		}
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for arg := range strings.SplitSeq(string(raw), "\x00") {
			if strings.HasPrefix(arg, "-") && (strings.Contains(arg, "upload-pack=") || strings.Contains(arg, "ProxyCommand") || strings.HasPrefix(arg, "-u.") || strings.HasPrefix(arg, "--help")) || strings.HasPrefix(arg, "ext::") {
				t.Errorf("git got %q", arg)
			}
		}
		c.check(t)
	})
	t.Run("GHSA-hw3h-2gp9-cxpv", func(t *testing.T) {
		repository(t, repos, "head", files{"Dockerfile": "FROM scratch\nCOPY . /\n"}, nil)
		bare := filepath.Join(repos, "head.git")
		id := git(t, bare, "rev-parse", "main")
		const branch = "refs/heads/--upload-pack=touch-planted"
		if err := errors.Join(os.WriteFile(filepath.Join(bare, branch), []byte(id+"\n"), 0o644), os.WriteFile(filepath.Join(bare, "HEAD"), []byte("ref: "+branch+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		d.Docker("build", server+"/head.git")
		raw, err := os.ReadFile(log)
		if err != nil || strings.Contains(string(raw), "\x00--upload-pack=touch-planted") {
			t.Errorf("git got the branch as an option, %v", err)
		}
	})
	t.Run("CVE-2026-33748", func(t *testing.T) {
		for _, sub := range []string{"abs", "up", "main:abs", "main:up", "main:sub/../../../etc", "main:abs/etc", "main:leak", "main:../..", "main:linked/../../.."} {
			u := server + "/good.git#" + sub
			if !strings.Contains(sub, ":") {
				u = server + "/good.git#main:" + sub + c.dir
			}
			out := filepath.Join(t.TempDir(), "out")
			d.CLI(harness.Bin(t, "docker"), "FROM scratch\nCOPY . /\n", "build", "-f", "-", "-o", out, u)
			refuseText(t, out, canaryText)
			if _, err := os.Stat(filepath.Join(out, "passwd")); err == nil {
				t.Errorf("%s: the host's /etc is the context", u)
			}
		}
		d.OK("build", server+"/good.git#main:sub")
	})
	t.Run("CVE-2022-39253", func(t *testing.T) {
		work := repository(t, repos, "module", files{"Dockerfile": "FROM scratch\nCOPY . /\n"}, nil)
		hostRepo := t.TempDir()
		repository(t, hostRepo, "host", files{"secret": canaryText}, nil)
		git(t, work, "submodule", "add", "-q", "file://"+hostRepo+"/host.git", "mod")
		git(t, work, "commit", "-qm", "two")
		git(t, work, "push", "-q", filepath.Join(repos, "module.git"), "main")
		hooks := filepath.Join(repos, "module.git", "hooks")
		if err := os.WriteFile(filepath.Join(hooks, "post-checkout"), []byte("#!/bin/sh\ntouch "+c.dir+"/planted\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if r := d.Docker("build", "-o", out, server+"/module.git"); r.Code == 0 {
			t.Errorf("a submodule of a host's path was fetched: %+v", r)
		}
		refuseText(t, out, canaryText)
		c.check(t)
	})
	t.Run("CVE-2026-44517", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		d.Docker("build", "-o", out, files{"Dockerfile": "FROM busybox AS got\nADD " + server + "/good.git /got\nRUN mkdir /read; cat /got/leak /got/up" + c.dir + "/secret > /read/x; true\nFROM scratch\nCOPY --from=got /read /\n"}.dir(t))
		refuseText(t, out, canaryText)
		for _, source := range []string{"leak", "up" + c.dir + "/secret", "abs" + c.dir + "/secret"} {
			out := filepath.Join(t.TempDir(), "out")
			d.CLI(harness.Bin(t, "docker"), "FROM scratch\nCOPY "+source+" /x\n", "build", "-f", "-", "-o", out, server+"/good.git")
			refuseText(t, out, canaryText)
		}
	})
	t.Run("CVE-2023-26054", func(t *testing.T) {
		const token = "t0ken-of-the-user"
		u := strings.Replace(server, "http://", "http://user:"+token+"@", 1) + "/good.git"
		dir := t.TempDir()
		archive, cache := filepath.Join(dir, "oci"), filepath.Join(dir, "cache")
		d.OK("build", "-t", "tokens", u)
		if r := d.Docker("build", "--provenance", "mode=max", u); r.Code == 0 || !strings.Contains(r.Stderr, "would contain the password") {
			t.Errorf("full provenance with a password in the context's URL: %+v", r)
		}
		d.OK("build", "--provenance", "mode=min", "-o", "type=oci,tar=false,dest="+archive, "--cache-to", "type=local,mode=max,dest="+cache, u)
		if r := classicBuild(t, d, url.Values{"remote": {u}}, nil); r.err != "" || r.status != http.StatusOK {
			t.Errorf("classic build: %+v", r)
		}
		refuseText(t, archive, token)
		refuseText(t, cache, token)
		refuseText(t, d.Dir+"/dockerd.log", token)
		if text := d.OK("history", "--no-trunc", "tokens") + d.OK("inspect", "tokens"); strings.Contains(text, token) {
			t.Errorf("the token is in the image:\n%s", text)
		}
	})
}

// refuseText fails the test for every file below path that has the text.
func refuseText(t testing.TB, path, text string) {
	t.Helper()
	err := filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err == nil && bytes.Contains(raw, []byte(text)) {
			t.Errorf("%s has %q", path, text)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestBuildPathSecurity: no link in a context, an image or a mount leads a build
// to the host's files.
func TestBuildPathSecurity(t *testing.T) {
	slow(t)
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	c := newCanary(t)
	build := func(t *testing.T, dockerfile string, args ...string) harness.Result {
		t.Helper()
		return d.Docker(append(append([]string{"build", "--progress", "plain", "--no-cache"}, args...), files{"Dockerfile": dockerfile, "data": "d"}.dir(t))...)
	}
	// must says what a step that ran prints; the canary's text is never among it.
	must := func(t *testing.T, r harness.Result, code int, want string) {
		t.Helper()
		if r.Code != code || !strings.Contains(r.Stderr, want) || strings.Contains(r.Stderr+r.Stdout, canaryText) {
			t.Errorf("build: %+v, want code %d and %q", r, code, want)
		}
		c.check(t)
	}

	t.Run("CVE-2014-9357", func(t *testing.T) {
		fake := "FROM busybox\nRUN for p in xz unxz xzcat gzip unpigz zstd bzip2; do mkdir -p /usr/bin /bin; rm -f /bin/$p; printf '#!/bin/busybox sh\\n/bin/busybox touch /pwned\\n' > /usr/bin/$p; chmod 755 /usr/bin/$p; cp /usr/bin/$p /bin/$p; done\n"
		context := files{"Dockerfile": fake + "ADD a.tar.xz /xz/\nADD a.tar.bz2 /bz/\nRUN test ! -e /pwned && cat /xz/hello /bz/hello\n"}
		for name, text := range map[string]string{"a.tar.xz": helloXZ, "a.tar.bz2": helloBzip2} {
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			context[name] = string(raw)
		}
		must(t, d.Docker("build", "--progress", "plain", context.dir(t)), 0, "hello")
		if r := classicBuild(t, d, nil, context.archive(t)); r.err != "" {
			t.Errorf("classic: %+v", r)
		}
		if _, err := os.Stat("/pwned"); err == nil {
			t.Error("a program of the image ran on the host")
		}
	})
	t.Run("CVE-2020-10696", func(t *testing.T) {
		archive := evilArchive(t, c, tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-tar")
			w.Write(archive)
		}))
		defer s.Close()
		d.Docker("build", s.URL+"/ctx.tar")
		d.CLI(harness.Bin(t, "docker"), string(archive), "build", "-")
		classicBuild(t, d, nil, archive)
		classicBuild(t, d, url.Values{"remote": {s.URL + "/ctx.tar"}}, nil)
		c.check(t)
		dir := files{"Dockerfile": "FROM busybox\nRUN ln -s " + c.dir + " /work\nCOPY f /work/f\nADD good.tar /work/\nRUN cat " + c.dir + "/f " + c.dir + "/g\n", "f": "inside-1\n", "good.tar": string(files{"g": "inside-2\n"}.archive(t))}.dir(t)
		must(t, d.Docker("build", "--progress", "plain", dir), 0, "inside-2")
		evil := files{"Dockerfile": "FROM busybox\nADD evil.tar /\nRUN true\n", "evil.tar": string(archive)}.dir(t)
		d.Docker("build", evil)
		c.check(t)
	})
	t.Run("CVE-2021-29136", func(t *testing.T) {
		for _, name := range []string{".", "/."} {
			for _, kind := range []byte{tar.TypeSymlink, tar.TypeFifo, tar.TypeLink} {
				archive := evilArchive(t, c, tar.Header{Name: name, Typeflag: kind, Linkname: c.dir})
				dir := files{"Dockerfile": "FROM scratch\nADD evil.tar /\n", "evil.tar": string(archive)}.dir(t)
				d.Docker("build", dir)
				c.check(t)
			}
		}
	})
	t.Run("CVE-2022-4122", func(t *testing.T) {
		dir := files{"Dockerfile": "FROM scratch\nCOPY . /\n", "data": ""}.dir(t)
		out := filepath.Join(t.TempDir(), "out")
		for link, target := range map[string]string{".dockerignore": c.dir + "/secret", "leak": c.dir + "/secret", "leakdir": c.dir} {
			if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		must(t, d.Docker("build", "--progress", "plain", "-o", out, dir), 0, "")
		refuseText(t, out, canaryText)
		if r := d.CLI(harness.Bin(t, "docker"), "FROM scratch\nCOPY leak /x\n", "build", "-f", "-", dir); r.Code == 0 || strings.Contains(r.Stderr, canaryText) {
			t.Errorf("COPY of a link out of the context: %+v", r)
		}
		link := files{"x": ""}.dir(t)
		if err := os.Symlink(c.dir+"/secret", filepath.Join(link, "Dockerfile")); err != nil {
			t.Fatal(err)
		}
		if r := d.Docker("build", link); r.Code == 0 || strings.Contains(r.Stderr, canaryText) {
			t.Errorf("a Dockerfile that links out of the context: %+v", r)
		}
	})
	t.Run("CVE-2024-1753", func(t *testing.T) {
		dockerfile := "FROM busybox AS stage\nRUN rmdir /mnt 2>/dev/null; ln -s / /mnt\nFROM busybox\nRUN --mount=type=bind,from=stage,source=/mnt,target=/x,rw ls /x/bin/busybox && ! ls /x" + c.dir + " && touch /x/planted\n"
		must(t, build(t, dockerfile), 0, "/x/bin/busybox")
		dockerfile = "FROM busybox AS stage\nRUN ln -s " + c.dir + " /out\nFROM busybox\nRUN --mount=type=bind,from=stage,source=/out,target=/x,rw cat /x/secret\n"
		must(t, build(t, dockerfile), 1, "")
		must(t, build(t, "FROM busybox AS stage\nRUN ln -s "+c.dir+"/secret /out\nFROM busybox\nCOPY --from=stage /out /x\nRUN cat /x\n"), 1, "")
	})
	t.Run("CVE-2024-9407", func(t *testing.T) {
		must(t, build(t, "FROM busybox\nRUN --mount=type=bind,bind-propagation=shared,target=/x true\n"), 1, "unexpected key")
		must(t, build(t, "FROM busybox\nRUN --mount=\"type=bind,target=/x\",rbind,dev true\n"), 1, "")
	})
	t.Run("CVE-2024-9675", func(t *testing.T) {
		for _, id := range []string{"../../../../../../.." + c.dir, c.dir, "y,source=/"} {
			must(t, build(t, "FROM busybox\nRUN --mount=type=cache,id="+id+",target=/x cat /x/secret; ls -A /x | wc -l | sed s/^/has:/ && touch /x/planted\n"), 0, "has:0")
		}
		for _, source := range []string{c.dir, "../../../../../../.." + c.dir} {
			must(t, build(t, "FROM busybox\nRUN --mount=type=cache,id=z,source="+source+",target=/x cat /x/secret\n"), 1, c.dir+": no such file or directory")
		}
	})
	t.Run("CVE-2024-11218", func(t *testing.T) { raceMounts(t, d, c, "bind,from=shared,rw") })
	t.Run("CVE-2024-23651", func(t *testing.T) { raceMounts(t, d, c, "cache,id=raced") })
	t.Run("CVE-2024-23652", func(t *testing.T) {
		dir := c.dir + "/"
		must(t, build(t, "FROM busybox\nRUN --mount=type=bind,target=/a/empty mv /a /b && ln -s "+dir+" /a\n"), 0, "")
		must(t, build(t, "FROM busybox\nRUN --mount=type=tmpfs,target=/a/b/empty mv /a/b /c && ln -s "+dir+" /a/b\n"), 0, "")
		must(t, build(t, "FROM busybox\nRUN --mount=type=secret,id=s,target=/a/empty mv /a /b; ln -s "+dir+" /a\n", "--secret", "id=s,src="+c.dir+"/hosts"), 0, "")
	})
	t.Run("GHSA-2f5p-x9ph-g97x", func(t *testing.T) {
		must(t, build(t, "FROM busybox\nRUN mv /etc /etc2; ln -s "+c.dir+" /etc\nRUN true\n"), 0, "")
		must(t, build(t, "FROM busybox\nRUN rm -rf /etc; ln -s "+c.dir+" /etc; true\nRUN cat /etc/secret\n"), 1, "")
	})
	t.Run("CVE-2026-93320", func(t *testing.T) {
		special := "FROM busybox AS s\nRUN mknod /fifo p && mknod /block b 8 0 && mknod /zero c 1 5\n"
		must(t, build(t, special+"FROM s\nCOPY data /fifo\nCOPY data /block\nCOPY <<x /zero\ntext\nx\nRUN cat /fifo /block /zero\n"), 0, "text")
		must(t, build(t, special+"FROM busybox\nCOPY --from=s /fifo /block /zero /to/\nRUN ls -l /to\n"), 0, "fifo")
		dir := files{"Dockerfile": "FROM busybox\nADD fifo /x\nCOPY . /y\n"}.dir(t)
		if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644), unix.Mknod(filepath.Join(dir, "block"), unix.S_IFBLK|0o644, 8<<8)); err != nil {
			t.Fatal(err)
		}
		if r := d.Docker("build", dir); r.Code < 0 {
			t.Errorf("a context with a fifo: %+v", r)
		}
		ignore := files{"Dockerfile": "FROM busybox\nCOPY . /\n"}.dir(t)
		if err := unix.Mkfifo(filepath.Join(ignore, ".dockerignore"), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := d.Docker("build", ignore); r.Code < 0 {
			t.Errorf("a fifo as .dockerignore: %+v", r)
		}
		c.check(t)
	})
	t.Run("CVE-2024-24557", func(t *testing.T) {
		// Two images with the same history: a secret is no part of it.
		dir := files{"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=s cp /run/secrets/s /got\nCMD [\"cat\", \"/got\"]\n"}.dir(t)
		secrets := files{"bad": "bad", "good": "good"}.dir(t)
		d.OK("build", "-t", "bad", "--secret", "id=s,src="+secrets+"/bad", dir)
		d.OK("builder", "prune", "-af")
		d.OK("build", "-t", "good", "--secret", "id=s,src="+secrets+"/good", dir)
		if got := d.OK("run", "--rm", "good"); got != "good" {
			t.Errorf("the step was not run: an image of the same history gave %q", got)
		}
	})
	t.Run("GHSA-mgqf-486f-49vp", func(t *testing.T) {
		size := int64(64 << 20)
		if os.Getenv("LIGHTER_TEST_SLOW") != "" {
			size = 1 << 30
		}
		for _, name := range []string{".dockerignore", "Dockerfile"} {
			dir := files{"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": ""}.dir(t)
			if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
				t.Fatal(err)
			}
			if r := d.Docker("build", dir); r.Code != 1 {
				t.Errorf("a huge %s: %+v", name, r)
			}
			if rss := peakMiB(t, buildProcess(d)); rss > 200 {
				t.Errorf("a huge %s: the build process had %d MiB", name, rss)
			}
		}
		nested := "FROM busybox AS s0\n"
		for i := range 1000 {
			nested += fmt.Sprintf("FROM s%d AS s%d\nENV A%d=b\n", i, i+1, i)
		}
		if r := build(t, nested); r.Code < 0 {
			t.Errorf("1000 nested stages: %+v", r)
		}
	})
}

// Archives of a file "hello" that has its name.
const (
	helloXZ    = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/AGhdADQZSe6N1/i4P8k3Mt7I1YCE/+ChAQA0NW9WKiwiMhUfVZwl/pxdbKKojryDd9enFhft8Zp57n1nN/EMxjHE7D5LVGaRpS0EKZhMaCfHCPpxux9Uehs3a80iFudGA6w+r1pDWpZlOoEAAAylRZsHzTzgAAGEAYBQAAAoM/H6scRn+wIAAAAABFla"
	helloBzip2 = "QlpoOTFBWSZTWf22EGsAAHR7hMkQAERAAH+AAAhiRJ4AAACACCAAdQ0SPU2UA9EGT1BJU8ppo0ZADQV+7k7oQRgAkUIlNL4E7EkDKTD1ZrQW7lM8OTksnoddkVZujMYf0dRYXAoKi7WjERCERB+LuSKcKEh+2wg1gA=="
)

// peakMiB is the most memory that the process had.
func peakMiB(t testing.TB, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// raceMounts has one step swap a directory for a link to the canary while others
// mount it.
func raceMounts(t *testing.T, d *harness.Daemon, c canary, mount string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "FROM busybox AS shared\nRUN mkdir /dir /cache\nFROM busybox AS swap\nRUN --mount=type=%s,target=/w cd /w; mkdir -p dir; for i in $(seq 300); do mv dir was; ln -s %s dir; rm dir; mv was dir; done\n", mount, c.dir)
	readers := 12
	for i := range readers {
		fmt.Fprintf(&b, "FROM busybox AS r%d\nRUN --mount=type=%s,source=dir,target=/w if [ -e /w/secret ]; then cat /w/secret; touch /w/planted; fi; echo %d > /r\n", i, mount, i)
	}
	b.WriteString("FROM scratch\nCOPY --from=swap /bin/sh /sh\n")
	for i := range readers {
		fmt.Fprintf(&b, "COPY --from=r%d /r /r%d\n", i, i)
	}
	r := d.Docker("build", "--progress", "plain", "--no-cache", files{"Dockerfile": b.String()}.dir(t))
	// A mount that meets the link may fail: then the step does.
	if r.Code < 0 || strings.Contains(r.Stderr, canaryText) {
		t.Errorf("a step saw the host: %+v", r)
	}
	c.check(t)
}

// TestBuildHostileEnvironment: what dockerd was started with reaches no step and
// decides about no path; what a build is given in secret stays nowhere.
func TestBuildHostileEnvironment(t *testing.T) {
	testenv.Need(t, testenv.Root)
	const marker, secret = "m4rker-of-the-daemon", "s3cret-of-the-build"
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.StopDockerd()
	hostile := t.TempDir()
	t.Setenv("TMPDIR", hostile)
	t.Setenv("LIGHTER_TEST_MARKER", marker)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	d.StartDockerd()
	if _, err := unix.InotifyAddWatch(watch, hostile, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	if err := os.WriteFile(filepath.Join(keys, "s"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	context := files{"Dockerfile": strings.Join([]string{
		"FROM busybox", "RUN cat /proc/*/environ /proc/1/environ > /env; env >> /env; ! grep -q m4rker-of /env",
		"RUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null", "RUN --mount=type=secret,id=s,env=S test -n \"$S\"",
		"RUN --mount=type=bind,rw,target=/c echo wr1tten-'to'-a-bind > /c/x",
	}, "\n"), "data": ""}.dir(t)

	t.Run("CVE-2021-3602", func(t *testing.T) {
		d.OK("build", "-t", "env", "--secret", "id=s,src="+keys+"/s", "--provenance", "mode=max", context)
	})
	t.Run("CVE-2020-27534", func(t *testing.T) {
		buf := make([]byte, 4096)
		if n, err := unix.Read(watch, buf); n > 0 || !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("files were made in the daemon's TMPDIR: %q, %v", buf[:max(n, 0)], err)
		}
		pid := buildProcess(d)
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
			t.Errorf("the build process works in %q, %v", cwd, err)
		}
	})
	t.Run("CVE-2025-0495", func(t *testing.T) {
		for _, to := range []string{"type=s3,region=r,bucket=b,secret_access_key=" + secret} {
			if r := d.Docker("build", "--cache-to", to, "--cache-from", to, context); r.Code == 0 || strings.Contains(r.Stderr, secret) {
				t.Errorf("--cache-to %s: %+v", to, r)
			}
		}
	})
	d.StopDockerd()
	t.Run("CVE-2025-4953", func(t *testing.T) {
		refuseText(t, d.Dir, secret)
		refuseText(t, context, "wr1tten-to-a-bind")
		refuseText(t, hostile, "wr1tten-to-a-bind")
		err := filepath.WalkDir(filepath.Join(d.Dir, "data", "buildkit"), func(path string, e fs.DirEntry, err error) error {
			if err == nil && path == filepath.Join(d.Dir, "data", "buildkit") {
				if fi, err := e.Info(); err != nil || fi.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s is open to others: %v, %v", path, fi.Mode(), err)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	d.StartDockerd()
}
