package image_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd/image"
	"lighter/containerd/image/imagetest"
	"lighter/internal/registry"
)

// TestCredentialsStayHome: a user's password goes to the registry's own site only,
// wherever its challenge names a token server (CVE-2026-33990, CVE-2026-33540,
// CVE-2026-65388), and never to a URL of a descriptor (CVE-2020-15157).
func TestCredentialsStayHome(t *testing.T) {
	var secrets, asked atomic.Int32
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_ = r.ParseForm()
		if r.Header.Get("Authorization") != "" || r.Form.Get("password") != "" || r.Form.Get("refresh_token") != "" {
			secrets.Add(1)
		}
		fmt.Fprint(w, `{"token":"t","access_token":"t"}`)
	}))
	defer evil.Close()
	// Another name for another host.
	away := strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)
	for name, c := range map[string]struct {
		realm, user, secret string
	}{
		"basic to another host":          {away + "/token", "user", "pass"},
		"identity token to another host": {away + "/token", "", "identity"},
		"link-local":                     {"http://169.254.169.254/token", "user", "pass"},
		"file":                           {"file:///etc/passwd", "user", "pass"},
		"none":                           {"", "user", "pass"},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="s",scope="repository:r:pull"`, c.realm))
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer reg.Close()
			host := strings.TrimPrefix(reg.URL, "http://")
			svc, _ := imagetest.Services(t)
			_, err := image.Pull(testCtx(t), svc, host+"/r:latest", image.PullOptions{
				Resolver: registry.NewResolver(t.Context(), registry.Options{Host: host, User: c.user, Secret: c.secret}), NoUnpack: true,
			})
			if err == nil {
				t.Error("no error")
			}
			if secrets.Load() != 0 || asked.Load() != 0 {
				t.Errorf("the other host was asked %d times, %d with credentials; %v", asked.Load(), secrets.Load(), err)
			}
		})
	}
	t.Run("urls of a layer", func(t *testing.T) {
		asked.Store(0)
		img := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "a", Body: "a"}))
		d := img.Doc.Layers[0]
		body := img.Blobs[d.Digest]
		d.URLs = []string{away + "/layer"}
		img = imagetest.WithLayer(t, img, d, body)
		delete(img.Blobs, d.Digest)
		reg := httptest.NewServer(&liar{img: img})
		defer reg.Close()
		svc, _ := imagetest.Services(t)
		host := strings.TrimPrefix(reg.URL, "http://")
		_, err := image.Pull(testCtx(t), svc, host+"/r:latest", image.PullOptions{
			Resolver: registry.NewResolver(t.Context(), registry.Options{Host: host, User: "user", Secret: "pass"}), NoUnpack: true,
		})
		if err == nil || asked.Load() != 0 {
			t.Errorf("the URL was asked %d times; %v", asked.Load(), err)
		}
	})
}

// TestTokenServerOfTheSite: a token server of the same site gets the credentials.
func TestTokenServerOfTheSite(t *testing.T) {
	img := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "a", Body: "a"}))
	content := &liar{img: img}
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "user" || pass != "pass" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token":"good"}`)
	}))
	defer tokens.Close()
	reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="s",scope="repository:r:pull"`, tokens.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		content.ServeHTTP(w, r)
	}))
	defer reg.Close()
	host := strings.TrimPrefix(reg.URL, "http://")
	svc, _ := imagetest.Services(t)
	for _, secret := range []string{"wrong", "pass"} {
		_, err := image.Pull(testCtx(t), svc, host+"/r:latest", image.PullOptions{
			Resolver: registry.NewResolver(t.Context(), registry.Options{Host: host, User: "user", Secret: secret}), NoUnpack: true,
		})
		if (err == nil) != (secret == "pass") {
			t.Errorf("pull with the password %q: %v", secret, err)
		}
	}
}

// TestEndlessDocuments: what a registry sends without end is read up to a bound only
// (CVE-2017-11468).
func TestEndlessDocuments(t *testing.T) {
	img := imagetest.New(t, ocispec.ImageConfig{}, imagetest.Layer(t, imagetest.File{Name: "a", Body: "a"}))
	const bound = 64 << 20
	for name, part := range map[string]string{"manifest": "/manifests/", "config": img.Doc.Config.Digest.String(), "error": "error"} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			l := &liar{img: img, tamper: func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if r.Method != http.MethodGet || part != "error" && !strings.Contains(r.URL.Path, part) {
					return false
				}
				if part == "error" {
					w.WriteHeader(http.StatusForbidden)
				}
				chunk := bytes.Repeat([]byte(" "), 1<<20)
				for sent.Load() < 4*bound {
					n, err := w.Write(chunk)
					sent.Add(int64(n))
					if err != nil {
						return true
					}
				}
				return true
			}}
			reg := httptest.NewServer(l)
			defer reg.Close()
			svc, _ := imagetest.Services(t)
			_, err := image.Pull(testCtx(t), svc, strings.TrimPrefix(reg.URL, "http://")+"/r:latest", image.PullOptions{Resolver: resolver(t), NoUnpack: true})
			if err == nil {
				t.Error("no error")
			}
			if sent.Load() > bound {
				t.Errorf("%d MiB were read before: %v", sent.Load()>>20, err)
			}
		})
	}
}

// TestOneViewOfADocument: a document means one thing, whoever reads it and by
// whatever type it is served (CVE-2014-8179, CVE-2021-41190, CVE-2024-3727).
func TestOneViewOfADocument(t *testing.T) {
	good := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` +
		strings.Repeat("a", 64) + `","size":2},"layers":[]}`
	parse := func(doc, mediaType string) error {
		_, err := image.ParseDocument([]byte(doc), ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(doc)})
		return err
	}
	if err := parse(good, ocispec.MediaTypeImageManifest); err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{
		"trailing data":      good + `{}`,
		"byte order mark":    "\ufeff" + good,
		"payload wrapper":    `{"payload":"e30","signatures":[]}`,
		"index and manifest": strings.Replace(good, `"layers":[]`, `"layers":[],"manifests":[]`, 1),
		"schema 1 fields":    strings.Replace(good, `"layers":[]`, `"layers":[],"fsLayers":[]`, 1),
		"another media type": strings.Replace(good, "image.manifest", "image.index", 1),
		"path for a digest":  strings.Replace(good, "sha256:"+strings.Repeat("a", 64), "sha256:../../x", 1),
		"upper case digest":  strings.Replace(good, strings.Repeat("a", 64), strings.Repeat("A", 64), 1),
		"short digest":       strings.Replace(good, strings.Repeat("a", 64), strings.Repeat("a", 63), 1),
		"md5":                strings.Replace(good, "sha256:"+strings.Repeat("a", 64), "md5:"+strings.Repeat("a", 32), 1),
		"no digest":          strings.Replace(good, "sha256:"+strings.Repeat("a", 64), "", 1),
		"negative size":      strings.Replace(good, `"size":2`, `"size":-2`, 1),
		"null":               "null",
		"null config":        strings.Replace(good, `"config":{`, `"config":null,"x":{`, 1),
	} {
		if parse(doc, ocispec.MediaTypeImageManifest) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if parse(good, ocispec.MediaTypeImageIndex) == nil {
		t.Error("a manifest served as an index is taken for one")
	}
}
