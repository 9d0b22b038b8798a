package engine

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/registry"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestDistribution: what a registry has is told without pulling it.
func TestDistribution(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	ref := harness.Registry(t) + "/team/box:1"
	d.OK("tag", "busybox", ref)
	d.OK("push", ref)
	id := d.OK("inspect", "--format", "{{.Id}}", "busybox")
	d.OK("rmi", ref)
	a := d.Request(t, http.MethodGet, "/v1.47/distribution/"+ref+"/json", "")
	var found registry.DistributionInspect
	if err := json.Unmarshal([]byte(a.Body), &found); a.Status != http.StatusOK || err != nil {
		t.Fatalf("%+v, %v", a, err)
	}
	if found.Descriptor.Digest.String() != id || found.Descriptor.MediaType != ocispec.MediaTypeImageManifest || found.Descriptor.Size == 0 ||
		len(found.Platforms) != 1 || found.Platforms[0].OS != "linux" {
		t.Errorf("found %+v, want the image %s", found, id)
	}
	if out := d.OK("images", "-q", ref); out != "" {
		t.Errorf("it was stored: %s", out)
	}
	for name, want := range map[string]int{ref + "9": 404, "UPPER:1": 400, strings.TrimPrefix(id, "sha256:"): 400} {
		if a := d.Request(t, http.MethodGet, "/v1.47/distribution/"+name+"/json", ""); a.Status != want {
			t.Errorf("distribution of %q = %+v, want %d", name, a, want)
		}
	}
}

// TestSearch: a term that names a registry is asked for there, by the protocol of
// registry version 1, with that registry's credentials only.
func TestSearch(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	answer := `{"query":"box","num_results":3,"results":[
		{"name":"busybox","description":"small","star_count":9,"is_official":true},
		{"name":"team/box","description":"other","star_count":3,"is_automated":true},
		{"name":"box","description":"","star_count":1}]}`
	var asked *http.Request
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/search" {
			http.NotFound(w, r)
			return
		}
		asked = r
		fmt.Fprint(w, answer)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	if out := d.OK("search", "--limit", "7", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}.", host+"/box"); out != "busybox 9 [OK].\nteam/box 3 .\nbox 1 ." {
		t.Errorf("search = %q", out)
	}
	if q := asked.URL.Query(); q.Get("q") != "box" || q.Get("n") != "7" || asked.Header.Get("Authorization") != "" {
		t.Errorf("asked %s with %q", asked.URL, asked.Header)
	}
	for filter, want := range map[string]string{"stars=3": "busybox\nteam/box", "is-official=true": "busybox", "is-official=false": "team/box\nbox", "is-automated=true": ""} {
		if out := d.OK("search", "--filter", filter, "--format", "{{.Name}}", host+"/box"); out != want {
			t.Errorf("search with %s = %q, want %q", filter, out, want)
		}
	}
	for _, target := range []string{"?limit=101&term=", "?limit=-1&term=", "?limit=x&term=", "?filters=%7B%22other%22%3A%5B%221%22%5D%7D&term=", "?term=http://"} {
		if a := d.Request(t, http.MethodGet, "/v1.47/images/search"+target+host+"/box", ""); a.Status != http.StatusBadRequest {
			t.Errorf("%s = %+v", target, a)
		}
	}
	answer = "<html>"
	if r := d.Docker("search", host+"/box"); r.Code != 1 || !strings.Contains(r.Stderr, "something else than search results") {
		t.Errorf("search of HTML = %+v", r)
	}
	if r := d.Docker("search", host+"/v9/../box"); r.Code == 0 && asked.URL.Path != "/v1/search" {
		t.Errorf("a term changed the path: %s", asked.URL)
	}
}

// TestImportURL: an image is imported from where a URL leads.
func TestImportURL(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	archive, err := os.ReadFile(harness.BusyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/rootfs.tar":
			w.Write(archive)
		case "/moved":
			http.Redirect(w, r, "/rootfs.tar", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/html":
			fmt.Fprint(w, "<html>login</html>")
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	d.OK("import", "--change", `CMD ["echo", "imported"]`, srv.URL+"/moved", "from:url")
	if got := d.OK("run", "--rm", "from:url"); got != "imported" {
		t.Errorf("run = %q", got)
	}
	d.Settle(t)
	for path, want := range map[string]string{"/none": "404", "/loop": "redirects more than", "/html": "archive"} {
		d.Unchanged(t, func() {
			if r := d.Docker("import", srv.URL+path, "bad:1"); r.Code != 1 || !strings.Contains(r.Stderr, want) {
				t.Errorf("import of %s = %+v, want %q", path, r, want)
			}
		})
	}
}

// TestAttestations: in-toto statements of a loaded index are listed with the image
// that they speak of.
func TestAttestations(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	saved := filepath.Join(t.TempDir(), "saved.tar")
	d.OK("save", "-o", saved, "busybox")
	files := readTar(t, saved)
	put := func(mediaType string, v any) ocispec.Descriptor {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		files["blobs/sha256/"+desc.Digest.Encoded()] = b
		return desc
	}
	var top ocispec.Index
	if err := json.Unmarshal(files["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	image := top.Manifests[0]
	image.Annotations = nil
	statement := put("application/vnd.in-toto+json", map[string]string{"_type": "https://in-toto.io/Statement/v0.1"})
	statement.Annotations = map[string]string{"in-toto.io/predicate-type": "https://spdx.dev/Document"}
	attestation := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, map[string]any{}), Layers: []ocispec.Descriptor{statement},
	})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.Digest.String(),
	}
	index := put(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image, attestation},
	})
	index.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/attested:1"}
	top.Manifests = []ocispec.Descriptor{index}
	b, err := json.Marshal(top)
	if err != nil {
		t.Fatal(err)
	}
	files["index.json"] = b
	delete(files, "manifest.json")
	d.OK("load", "-i", writeTar(t, files))
	if got := d.OK("run", "--rm", "attested:1", "echo", "yes"); got != "yes" {
		t.Errorf("run = %q", got)
	}
	type item struct {
		PredicateType string
		Descriptor    ocispec.Descriptor
		Statement     json.RawMessage
	}
	get := func(query string) (list []item) {
		a := d.Request(t, http.MethodGet, "/v1.55/images/attested:1/attestations"+query, "")
		if err := json.Unmarshal([]byte(a.Body), &list); a.Status != http.StatusOK || err != nil {
			t.Fatalf("%+v, %v", a, err)
		}
		return list
	}
	if list := get(""); len(list) != 1 || list[0].PredicateType != "https://spdx.dev/Document" || list[0].Descriptor.Digest != statement.Digest || list[0].Statement != nil {
		t.Errorf("attestations %+v", list)
	}
	if list := get("?statement=1&type=https://spdx.dev/Document"); len(list) != 1 || !strings.Contains(string(list[0].Statement), "in-toto.io/Statement") {
		t.Errorf("with the statement %+v", list)
	}
	if list := get("?type=other"); len(list) != 0 {
		t.Errorf("of another type %+v", list)
	}
	if a := d.Request(t, http.MethodGet, "/v1.55/images/none/attestations", ""); a.Status != http.StatusNotFound {
		t.Errorf("of no image %+v", a)
	}
}

func readTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err != nil {
			return files
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(tr); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			files[h.Name] = b.Bytes()
		}
	}
}

func writeTar(t *testing.T, files map[string][]byte) string {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for name, body := range files {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSkopeo: Debian's skopeo reads what we push and save, and we what it does.
func TestSkopeo(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Program("skopeo", "skopeo"))
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	host := harness.Registry(t)
	id := d.OK("inspect", "--format", "{{.Id}}", "busybox")
	dir := t.TempDir()
	skopeo := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	d.OK("tag", "busybox", host+"/ours:1")
	d.OK("push", host+"/ours:1")
	if got := skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+host+"/ours:1"); got != id {
		t.Errorf("skopeo finds %s, want %s", got, id)
	}
	saved := filepath.Join(dir, "saved.tar")
	d.OK("save", "-o", saved, "busybox")
	for _, to := range []string{"oci:" + dir + "/layout:1", "oci-archive:" + dir + "/oci.tar:from/skopeo:oci"} {
		skopeo("copy", "-q", "docker-archive:"+saved, to)
	}
	skopeo("copy", "-q", "--src-tls-verify=false", "docker://"+host+"/ours:1", "docker-archive:"+dir+"/docker.tar:from/skopeo:docker")
	d.OK("load", "-i", filepath.Join(dir, "oci.tar"))
	d.OK("load", "-i", filepath.Join(dir, "docker.tar"))
	skopeo("copy", "-q", "--dest-tls-verify=false", "--dest-compress-format", "zstd", "docker-archive:"+saved, "docker://"+host+"/theirs:zstd")
	skopeo("copy", "-q", "--dest-tls-verify=false", "--format", "v2s2", "docker-archive:"+saved, "docker://"+host+"/theirs:v2s2")
	for _, ref := range []string{"from/skopeo:docker", host + "/theirs:zstd", host + "/theirs:v2s2"} {
		if got := d.OK("run", "--rm", ref, "echo", "ran"); got != "ran" {
			t.Errorf("run of %s = %q", ref, got)
		}
	}
}
