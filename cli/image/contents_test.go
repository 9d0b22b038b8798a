package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"
)

type entry struct {
	name, body string
	kind       byte // 0: a file, or a directory when the name ends in a slash
	link       string
}

func archiveOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: 0o644, Size: int64(len(e.body))}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func saved(t *testing.T, layers ...[]byte) []byte {
	t.Helper()
	entries := []entry{{name: "blobs/"}}
	var names, history []string
	for i, l := range layers {
		name := fmt.Sprintf("blobs/sha256/%064d", i)
		names, history = append(names, `"`+name+`"`), append(history, fmt.Sprintf(`{"created_by":"step %d"}`, i))
		if i%2 == 1 { // compressed or not
			var b bytes.Buffer
			zw := gzip.NewWriter(&b)
			zw.Write(l)
			zw.Close()
			l = b.Bytes()
		}
		entries = append(entries, entry{name: name, body: string(l)})
	}
	history = append(history, `{"created_by":"CMD","empty_layer":true}`)
	entries = append(entries, entry{name: "blobs/sha256/config", body: `{"config":{"Cmd":["a"]},"history":[` + strings.Join(history, ",") + `]}`},
		entry{name: "manifest.json", body: `[{"Config":"blobs/sha256/config","Layers":[` + strings.Join(names, ",") + `]}]`})
	return archiveOf(t, entries...)
}

func TestLayers(t *testing.T) {
	base := archiveOf(t, entry{name: "{odd"}, entry{name: "etc/"}, entry{name: "etc/a", body: "12345"}, entry{name: "etc/b", body: "123"},
		entry{name: "var/"}, entry{name: "var/log/"}, entry{name: "var/log/x", body: "1234567"}, entry{name: "opt/"}, entry{name: "opt/o", body: "1"})
	second := archiveOf(t, entry{name: "etc/"}, entry{name: "etc/a", body: "changed"}, entry{name: "etc/.wh.b"}, entry{name: "new", body: "n"},
		entry{name: "hard", kind: tar.TypeLink, link: "new"}, entry{name: ".wh.var"}, entry{name: "opt", kind: tar.TypeSymlink, link: "etc"})
	third := archiveOf(t, entry{name: "etc/.wh..wh..opq"}, entry{name: "etc/a", body: "again"})
	image, err := readArchive(bytes.NewReader(saved(t, base, second, third)))
	if err != nil {
		t.Fatal(err)
	}
	all, effects := image.apply()
	var paths []string
	for _, c := range compare(nil, all) {
		paths = append(paths, c.Path)
	}
	if got := strings.Join(paths, " "); got != "/etc /etc/a /hard /new /opt /{odd" {
		t.Errorf("files %s", got)
	}
	want := []string{
		"step 0 size 16 +9 ~0 -0 wasted 0:",
		// etc/a 5, etc/b 3, var/log/x 7, opt/o 1
		"step 1 size 8 +2 ~2 -5 wasted 16: C/etc/a D/etc/b A/hard A/new C/opt D/opt/o D/var D/var/log D/var/log/x",
		"step 2 size 5 +0 ~1 -0 wasted 7: C/etc/a",
	}
	for i, e := range effects {
		got := fmt.Sprintf("%s size %d +%d ~%d -%d wasted %d:", e.CreatedBy, e.Size, e.Added, e.Changed, e.Removed, e.Wasted)
		for _, c := range e.Changes {
			if i > 0 {
				got += " " + c.Kind + c.Path
			}
		}
		if got != want[i] {
			t.Errorf("layer %d:\n%s\nwant\n%s", i, got, want[i])
		}
	}
	one, err := readArchive(bytes.NewReader(saved(t, base)))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := one.apply()
	var diff []string
	for _, c := range compare(before, all) {
		diff = append(diff, c.Kind+c.Path)
	}
	if got := strings.Join(diff, " "); got != "C/etc/a D/etc/b A/hard A/new C/opt D/opt/o D/var D/var/log D/var/log/x" {
		t.Errorf("diff %s", got)
	}
	config := one.config.Config
	config.Cmd, config.User = []string{"b"}, "root"
	fields, err := compareConfig(one.config.Config, config)
	if err != nil || len(fields) != 2 || fields[0].Field != "Cmd" || string(fields[1].Before) != "null" {
		t.Errorf("config %s, %v", fields, err)
	}
}

func TestBadArchives(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":        nil,
		"not one":      []byte("<html>"),
		"no manifest":  archiveOf(t, entry{name: "a", body: "{}"}),
		"two images":   archiveOf(t, entry{name: "manifest.json", body: `[{},{}]`}),
		"no config":    archiveOf(t, entry{name: "manifest.json", body: `[{"Config":"c"}]`}),
		"no layer":     archiveOf(t, entry{name: "c", body: "{}"}, entry{name: "manifest.json", body: `[{"Config":"c","Layers":["l"]}]`}),
		"broken layer": archiveOf(t, entry{name: "blobs/sha256/1", body: strings.Repeat("x", 2000)}),
	} {
		if _, err := readArchive(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
