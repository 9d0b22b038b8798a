package engine

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// A manifest or config with missing, null or contradicting parts fails the pull and
// nothing else (CVE-2021-21285).
func TestMalformedImages(t *testing.T) {
	testenv.Need(t, testenv.Root)
	sum := func(s string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))) }
	const mediaType = "application/vnd.docker.distribution.manifest.v2+json"
	layer := "not read"
	descriptor := func(kind, body string) string {
		return fmt.Sprintf(`{"mediaType":%q,"size":%d,"digest":%q}`, kind, len(body), sum(body))
	}
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + sum(layer) + `"]}}`
	manifest := func(config, layers string) string {
		return `{"schemaVersion":2,"mediaType":"` + mediaType + `","config":` + config + `,"layers":` + layers + `}`
	}
	good := descriptor("application/vnd.docker.container.image.v1+json", config)
	one := descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)
	configs := []string{
		config, "null", "{}", "[]", `"x"`, `{"os":"linux","architecture":"amd64","rootfs":null}`, `{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":null}}`,
		`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]},"history":[{},{},{}]}`,
		`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + sum("a") + `","` + sum("b") + `"]},"history":null}`,
		`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["x"]}}`, `{"config":7}`,
	}
	documents := []string{
		"null", "{}", "[]", manifest("null", "[]"), manifest("null", "null"), manifest(good, "null"), manifest(good, "[null]"), manifest(good, "[{}]"),
		manifest(good, "7"), manifest(good, "["+strings.Replace(one, `"size":8`, `"size":-8`, 1)+"]"), manifest(strings.Replace(good, "sha256:", "sha256:../", 1), "["+one+"]"),
		manifest(good, "["+strings.TrimSuffix(strings.Repeat(one+",", 20000), ",")+"]"),
	}
	blobs := map[string]string{sum(layer): layer}
	for _, c := range configs {
		blobs[sum(c)] = c
		documents = append(documents, manifest(descriptor("application/vnd.docker.container.image.v1+json", c), "["+one+"]"))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body string
		_, tag, _ := strings.Cut(r.URL.Path, "/manifests/")
		if i, err := strconv.Atoi(strings.TrimPrefix(tag, "t")); err == nil && i < len(documents) {
			body = documents[i]
		} else if body = blobs[filepath.Base(r.URL.Path)]; body == "" {
			for _, d := range documents {
				if sum(d) == filepath.Base(r.URL.Path) {
					body = d
				}
			}
		}
		switch {
		case body == "" && r.URL.Path != "/v2/":
			http.NotFound(w, r)
			return
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Docker-Content-Digest", sum(body))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	d := harness.Start(t, harness.Options{})
	pid := d.Pid()
	for i, doc := range documents {
		r := d.Docker("pull", "-q", fmt.Sprintf("%s/box:t%d", strings.TrimPrefix(srv.URL, "http://"), i))
		if r.Code == 0 || r.Stderr == "" {
			t.Errorf("%.200s: %d, %q", doc, r.Code, r.Stderr)
		}
	}
	if out := d.OK("images", "-aq"); out != "" || d.Pid() != pid || strings.Contains(d.Log(), "panic") {
		t.Errorf("images %q, daemon %d, then %d", out, pid, d.Pid())
	}
}

// A number that a client asks for is no size to allocate (CVE-2023-2253).
func TestHugeNumbers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "--name", "ctr", "busybox", "echo", "line")
	resident := func() (kilobytes int) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(raw), "VmHWM:")
		if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
			t.Fatal(err)
		}
		return kilobytes
	}
	before := resident()
	for path, want := range map[string]int{
		"/containers/json?all=1&limit=2147483647":            200,
		"/containers/json?all=1&limit=9223372036854775807":   200,
		"/containers/json?limit=99999999999999999999":        400,
		"/containers/ctr/logs?stdout=1&tail=2147483647":      200,
		"/containers/ctr/logs?stdout=1&tail=9999999999":      200,
		"/images/search?term=127.0.0.1:1/x&limit=2147483647": 400,
		"/events?since=0&until=1":                            200,
		"/containers/ctr/resize?h=4294967295&w=4294967295":   404, // not by GET
	} {
		if a := d.Request(t, http.MethodGet, "/v1.47"+path, ""); a.Status != want {
			t.Errorf("%s = %d: %.200s, want %d", path, a.Status, a.Body, want)
		}
	}
	if grown := resident() - before; grown > 64<<10 {
		t.Errorf("the daemon took %d KiB more", grown)
	}
}

// Whoever asks for signed images gets none that was not verified (CVE-2015-9258).
func TestContentTrust(t *testing.T) {
	testenv.Need(t, testenv.Root)
	t.Setenv("DOCKER_CONTENT_TRUST", "1")
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	const want = "content trust is not supported"
	for _, args := range [][]string{{"pull", "busybox"}, {"push", "busybox"}, {"run", "--rm", "busybox", "true"}, {"create", "busybox"}, {"run", "--disable-content-trust=false", "busybox", "true"}} {
		if r := d.Docker(args...); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%q: %d, %q", args, r.Code, r.Stderr)
		}
	}
	d.OK("run", "--rm", "--disable-content-trust", "busybox", "true")
}
