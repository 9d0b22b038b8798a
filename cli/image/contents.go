package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/internal/compression"
)

// Bounds of what is read of an image.
const (
	maxDocument = 8 << 20 // bytes of a config or manifest
	maxEntries  = 5000000 // of all layers
)

// file is a file of an image, as far as two of them are compared.
type file struct {
	kind     byte // type flag of tar; a hard link has that of its target
	size     int64
	mode     int64
	uid, gid int
	link     string // target of a symbolic link
	device   [2]int64
	sum      string // digest of the contents of a regular file
}

// contents are the files of an image, layer by layer.
type contents struct {
	config ocispec.Image
	layers []*layer // the lowest first
}

// layer is what one layer does: it puts files, by clean absolute path, and hides
// what is below.
type layer struct {
	name   string // its digest or path in the archive
	files  map[string]file
	hidden []string // paths removed from the layers below
	opaque []string // directories emptied of what is below
}

// read fetches the image from the engine as docker save would, and reads what its
// layers hold. Nothing is stored. It works with any engine.
func read(ctx context.Context, c client.APIClient, ref string, opts ...client.ImageSaveOption) (*contents, error) {
	rc, err := c.ImageSave(ctx, []string{ref}, opts...)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	got, err := readArchive(rc)
	if err != nil {
		return nil, fmt.Errorf("read image %q: %w", ref, err)
	}
	return got, nil
}

// readArchive reads an archive of docker save that holds one image.
func readArchive(r io.Reader) (*contents, error) {
	documents, layers, links := map[string][]byte{}, map[string]*layer{}, map[string]string{}
	budget := maxEntries
	tr := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeReg:
			buffered := bufio.NewReaderSize(tr, 64<<10)
			body := io.Reader(buffered)
			// A tar may begin with a brace as well.
			if head, _ := buffered.Peek(1); len(head) == 1 && (head[0] == '{' || head[0] == '[') && h.Size <= maxDocument {
				b, err := io.ReadAll(body)
				if err != nil {
					return nil, err
				}
				if json.Valid(b) {
					documents[name] = b
					continue
				}
				body = bytes.NewReader(b)
			}
			// What is neither a document nor a layer (VERSION of old archives) is not
			// referred to.
			l, err := readLayer(body, &budget)
			if err != nil && strings.HasPrefix(name, "blobs/") {
				return nil, fmt.Errorf("layer %q: %w", name, err)
			}
			if err == nil {
				layers[name] = l
			}
		}
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(documents["manifest.json"], &manifest); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(manifest) != 1 {
		return nil, fmt.Errorf("the archive holds %d images for one reference", len(manifest))
	}
	got := &contents{}
	if err := json.Unmarshal(documents[path.Clean(manifest[0].Config)], &got.config); err != nil {
		return nil, fmt.Errorf("config %q: %w", manifest[0].Config, err)
	}
	for _, name := range manifest[0].Layers {
		name = path.Clean(name)
		if target, ok := links[name]; ok {
			name = target
		}
		l, ok := layers[name]
		if !ok {
			return nil, fmt.Errorf("layer %q is not in the archive", name)
		}
		l.name = name
		if rest, ok := strings.CutPrefix(name, "blobs/"); ok {
			l.name = strings.Replace(rest, "/", ":", 1)
		}
		got.layers = append(got.layers, l)
	}
	return got, nil
}

func readLayer(r io.Reader, budget *int) (*layer, error) {
	plain, _, err := compression.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	l := &layer{files: map[string]file{}}
	tr := tar.NewReader(bufio.NewReaderSize(plain, 256<<10))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if *budget--; *budget < 0 {
			return nil, fmt.Errorf("more than %d files", maxEntries)
		}
		if err := l.add(h, tr); err != nil {
			return nil, err
		}
	}
	_, err = io.Copy(io.Discard, plain) // padding
	return l, err
}

func (l *layer) add(h *tar.Header, r io.Reader) error {
	name := path.Clean("/" + h.Name)
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	switch {
	case base == ".wh..wh..opq":
		l.opaque = append(l.opaque, dir)
		return nil
	case strings.HasPrefix(base, ".wh..wh."):
		return nil // of aufs
	case strings.HasPrefix(base, ".wh."):
		l.hidden = append(l.hidden, path.Join(dir, strings.TrimPrefix(base, ".wh.")))
		return nil
	case h.Typeflag == tar.TypeXGlobalHeader || name == "/":
		return nil
	case h.Typeflag == tar.TypeLink:
		target := l.files[path.Clean("/"+h.Linkname)]
		target.size = 0 // counted once
		l.files[name] = target
		return nil
	}
	f := file{kind: h.Typeflag, size: h.Size, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid}
	switch h.Typeflag {
	case tar.TypeReg:
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return err
		}
		f.sum = hex.EncodeToString(sum.Sum(nil))
	case tar.TypeSymlink:
		f.link = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		f.device = [2]int64{h.Devmajor, h.Devminor}
	}
	l.files[name] = f
	return nil
}

// change is a path that a layer or image adds ("A"), changes ("C") or removes
// ("D"), by the letters of docker diff.
type change struct {
	Kind string
	Path string
	Size int64 // of the file after it, or of the removed one
}

// effect is what a layer did to the files below it.
type effect struct {
	Layer                   string
	CreatedBy               string
	Size                    int64 // of its files
	Added, Changed, Removed int
	Wasted                  int64    // bytes of the layers below that it replaces or hides
	Changes                 []change `json:",omitempty"`
}

// apply puts the layers upon each other. It returns the files of the image and
// what each layer did.
func (c *contents) apply() (map[string]file, []effect) {
	all := map[string]file{}
	var effects []effect
	var by []string
	for _, h := range c.config.History {
		if !h.EmptyLayer {
			by = append(by, h.CreatedBy)
		}
	}
	for i, l := range c.layers {
		e := effect{Layer: l.name}
		if i < len(by) {
			e.CreatedBy = by[i]
		}
		gone := removedBy(l, all)
		for _, p := range gone {
			f := all[p]
			e.Wasted += f.size
			delete(all, p)
			if _, again := l.files[p]; !again {
				e.Removed++
				e.Changes = append(e.Changes, change{"D", p, f.size})
			}
		}
		removed := map[string]bool{}
		for _, p := range gone {
			removed[p] = true
		}
		for p, f := range l.files {
			old, was := all[p]
			kind := "A"
			switch {
			case removed[p]:
				kind = "C"
			case was && old == f && f.kind == tar.TypeDir:
				continue // every layer repeats the directories on the way
			case was:
				kind = "C"
				e.Wasted += old.size
			}
			if e.Size += f.size; kind == "A" {
				e.Added++
			} else {
				e.Changed++
			}
			e.Changes = append(e.Changes, change{kind, p, f.size})
		}
		for p, f := range l.files {
			all[p] = f
		}
		slices.SortFunc(e.Changes, func(a, b change) int { return strings.Compare(a.Path, b.Path) })
		effects = append(effects, e)
	}
	return all, effects
}

// removedBy lists the files of all that the layer hides: by whiteouts, by emptied
// directories, and below what is no directory any more.
func removedBy(l *layer, all map[string]file) (gone []string) {
	hidden := map[string]bool{} // path: whether the path itself goes, or what is below
	for _, p := range l.hidden {
		hidden[p] = true
	}
	for _, p := range l.opaque {
		if !hidden[p] {
			hidden[p] = false
		}
	}
	for p, f := range l.files {
		if old, ok := all[p]; ok && old.kind == tar.TypeDir && f.kind != tar.TypeDir && !hidden[p] {
			hidden[p] = false
		}
	}
	if len(hidden) == 0 {
		return nil
	}
	for p := range all {
		if hidden[p] {
			gone = append(gone, p)
			continue
		}
		for dir := path.Dir(p); ; dir = path.Dir(dir) {
			if _, ok := hidden[dir]; ok {
				gone = append(gone, p)
				break
			}
			if dir == "/" {
				break
			}
		}
	}
	sort.Strings(gone)
	return gone
}

// compare lists the differences between the files of two images.
func compare(a, b map[string]file) []change {
	out := []change{}
	for p, f := range a {
		if _, ok := b[p]; !ok {
			out = append(out, change{"D", p, f.size})
		}
	}
	for p, f := range b {
		old, ok := a[p]
		old.size, f.size = 0, 0 // a hard link's counts elsewhere; the digest tells
		switch {
		case !ok:
			out = append(out, change{"A", p, b[p].size})
		case old != f:
			out = append(out, change{"C", p, b[p].size})
		}
	}
	slices.SortFunc(out, func(x, y change) int { return strings.Compare(x.Path, y.Path) })
	return out
}

// configChange is a field of the image configuration that differs.
type configChange struct {
	Field         string
	Before, After json.RawMessage
}

// compareConfig lists the fields of the configurations that differ, by name.
func compareConfig(a, b ocispec.ImageConfig) ([]configChange, error) {
	fields := func(c ocispec.ImageConfig) (m map[string]json.RawMessage, err error) {
		raw, err := json.Marshal(c)
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		return m, err
	}
	before, err := fields(a)
	if err != nil {
		return nil, err
	}
	after, err := fields(b)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for n := range before {
		names[n] = true
	}
	for n := range after {
		names[n] = true
	}
	out := []configChange{}
	for n := range names {
		if !bytes.Equal(before[n], after[n]) {
			out = append(out, configChange{n, orNull(before[n]), orNull(after[n])})
		}
	}
	slices.SortFunc(out, func(x, y configChange) int { return strings.Compare(x.Field, y.Field) })
	return out, nil
}

func orNull(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("null")
	}
	return raw
}
