package engine

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/test/harness"
)

// putImage puts an image without layers into a registry and returns its digest.
func putImage(t *testing.T, host, repo, tag, arch string) string {
	t.Helper()
	do := func(method, url, mediaType, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, url, resp.Status)
		}
	}
	sum := func(s string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))) }
	base := "http://" + host + "/v2/" + repo
	config := `{"os":"linux","architecture":"` + arch + `","rootfs":{"type":"layers","diff_ids":[]}}`
	resp, err := http.Post(base+"/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	do(http.MethodPut, resp.Header.Get("Location")+"&digest="+sum(config), "application/octet-stream", config)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",`+
		`"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":%q,"size":%d},"layers":[]}`, sum(config), len(config))
	do(http.MethodPut, base+"/manifests/"+tag, "application/vnd.docker.distribution.manifest.v2+json", manifest)
	return sum(manifest)
}

// TestManifest: a list is made of images of two repositories, its files are those
// of the stock command line, and what is pushed can be read by both.
func TestManifest(t *testing.T) {
	host, dir := harness.Registry(t), t.TempDir()
	amd, arm := putImage(t, host, "team/box", "amd", "amd64"), putImage(t, host, "other/box", "arm", "arm64")
	run := func(program string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"manifest"}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "DOCKER_CONFIG=" + dir}
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	ours, stock := harness.Bin(t, "docker"), harness.StockDocker()
	if stock == "" {
		stock = ours
	}
	ok := func(program string, args ...string) string {
		t.Helper()
		out, err := run(program, args...)
		if err != nil {
			t.Fatalf("%s manifest %q: %v: %s", program, args, err, out)
		}
		return out
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := run(ours, args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("manifest %q: %v: %s, want %q", args, err, out, want)
		}
	}
	list, first, second := host+"/team/box:all", host+"/team/box:amd", host+"/other/box:arm"
	if out := ok(ours, "create", list, first, second); out != "Created manifest list "+list {
		t.Errorf("create said %q", out)
	}
	refused("refusing to amend an existing manifest list", "create", list, first)
	refused("no such manifest: "+host+"/team/box:none", "create", host+"/team/half:1", first, host+"/team/box:none")
	if _, err := os.Stat(filepath.Join(dir, "manifests", strings.NewReplacer(":", "-", "/", "_").Replace(host+"/team/half:1"))); err == nil {
		t.Error("half a list was stored")
	}
	refused("unsupported os/arch combination: linux/z80", "annotate", "--arch", "z80", list, second)
	refused("does not exist in "+list, "annotate", "--arch", "arm", list, host+"/team/box:none")
	ok(ours, "annotate", "--variant", "v8", "--os-features", "a,b", list, second)
	for _, args := range [][]string{
		{"inspect", list}, {"inspect", "-v", list}, {"inspect", list, second}, {"inspect", "-v", list, second},
		{"inspect", "--insecure", first}, {"inspect", "--insecure", "-v", first},
	} {
		if a, b := ok(ours, args...), ok(stock, args...); a != b {
			t.Errorf("%q:\n%s\nstock:\n%s", args, a, b)
		}
	}
	pushed := ok(ours, "push", "--purge", list)
	if !strings.HasPrefix(pushed, "Pushed ref "+host+"/team/box@"+arm+" with digest: "+arm+"\nsha256:") {
		t.Errorf("push said %q", pushed)
	}
	for _, args := range [][]string{{"inspect", "--insecure", list}, {"inspect", "--insecure", "-v", list}} {
		if a, b := ok(ours, args...), ok(stock, args...); a != b {
			t.Errorf("after the push %q:\n%s\nstock:\n%s", args, a, b)
		}
	}
	var found ocispec.Index
	if err := json.Unmarshal([]byte(ok(ours, "inspect", list)), &found); err != nil || len(found.Manifests) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	got := map[string]*ocispec.Platform{}
	for _, m := range found.Manifests {
		got[m.Digest.String()] = m.Platform
	}
	if p := got[arm]; p == nil || p.Architecture != "arm64" || p.Variant != "v8" || len(p.OSFeatures) != 2 {
		t.Errorf("%s is %+v", arm, p)
	}
	if p := got[amd]; p == nil || p.Architecture != "amd64" {
		t.Errorf("%s is %+v", amd, p)
	}
	// Lists of one command line are the other's.
	ok(stock, "create", "--insecure", list, first)
	ok(ours, "create", "--amend", list, host+"/team/box@"+arm)
	if a, b := ok(ours, "push", list), ok(stock, "push", "--insecure", list); a != b {
		t.Errorf("pushed %s, stock %s", a, b)
	}
	refused("is a manifest list", "create", host+"/team/nested:1", list)
	ok(ours, "create", "elsewhere.invalid/box:1", first)
	refused("cannot use source images from a different registry", "push", "elsewhere.invalid/box:1")
	ok(ours, "rm", list)
	refused("No such manifest: "+list, "rm", list)
}
