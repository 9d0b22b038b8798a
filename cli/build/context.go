package build

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	bkbuild "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/tonistiigi/fsutil"
)

// maxDockerfileBytes bounds a Dockerfile on standard input.
const maxDockerfileBytes = 4 << 20

// sources gives the solve what it builds from: the context, the Dockerfile and
// named contexts. The caller removes what remove does, when the build has ended.
func (o *options) sources(stdin io.Reader, so *client.SolveOpt) (remove func() error, err error) {
	var scratch []string
	remove = func() error {
		var errs []error
		for _, dir := range scratch {
			errs = append(errs, os.RemoveAll(dir))
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	so.LocalMounts = map[string]fsutil.FS{}
	mount := func(name, dir string) error {
		f, err := fsutil.NewFS(dir)
		so.LocalMounts[name] = f
		return err
	}
	fromStdin := func(r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, maxDockerfileBytes+1))
		if err == nil && len(text) > maxDockerfileBytes {
			err = fmt.Errorf("the Dockerfile on standard input is larger than %d bytes", maxDockerfileBytes)
		}
		if err != nil {
			return err
		}
		dir, err := os.MkdirTemp("", "docker-build-")
		if err != nil {
			return err
		}
		scratch = append(scratch, dir)
		so.FrontendAttrs["filename"] = "Dockerfile"
		return errors.Join(os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o600), mount("dockerfile", dir))
	}

	switch {
	case o.context == "-" && o.file == "-":
		return remove, errors.New("invalid argument: can't use stdin for both build context and dockerfile")
	case o.context == "-":
		in := bufio.NewReader(stdin)
		if head, err := in.Peek(512); len(head) == 0 {
			return remove, fmt.Errorf("failed to peek context header from STDIN: %w", err)
		} else if isArchive(head) {
			uploads := uploadprovider.New()
			so.FrontendAttrs["context"] = uploads.Add(io.NopCloser(in))
			so.Session = append(so.Session, uploads)
			if o.file != "" {
				so.FrontendAttrs["filename"] = o.file
			}
			break
		}
		if o.file != "" {
			return remove, errors.New("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
		}
		empty, err := os.MkdirTemp("", "docker-build-")
		if err != nil {
			return remove, err
		}
		scratch = append(scratch, empty)
		if err := errors.Join(mount("context", empty), fromStdin(in)); err != nil {
			return remove, err
		}
	case isRemote(o.context):
		so.FrontendAttrs["context"] = o.context
		switch o.file {
		case "":
		case "-":
			if err := fromStdin(stdin); err != nil {
				return remove, err
			}
			so.FrontendAttrs["dockerfilekey"] = "dockerfile"
		default:
			so.FrontendAttrs["filename"] = o.file
		}
	default:
		if err := o.localSources(stdin, so, mount, fromStdin); err != nil {
			return remove, err
		}
	}
	return remove, o.namedContexts(so, mount)
}

// localSources is a context in a directory.
func (o *options) localSources(stdin io.Reader, so *client.SolveOpt, mount func(name, dir string) error, fromStdin func(io.Reader) error) error {
	fi, err := os.Stat(o.context)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unable to prepare context: path %q not found", o.context)
	}
	if err != nil {
		return fmt.Errorf("unable to prepare context: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("unable to prepare context: path %q is not a directory", o.context)
	}
	if err := mount("context", o.context); err != nil {
		return err
	}
	if o.file == "-" {
		return fromStdin(stdin)
	}
	dockerfile := o.file
	if dockerfile == "" {
		dockerfile = filepath.Join(o.context, "Dockerfile")
		if _, err := os.Lstat(dockerfile); err != nil {
			// Docker compatibility: a lower-case name is good enough.
			if lower := filepath.Join(o.context, "dockerfile"); exists(lower) {
				dockerfile = lower
			}
		}
	}
	dir := filepath.Dir(dockerfile)
	if !exists(dir) {
		return fmt.Errorf("unable to prepare context: path %q not found", dir)
	}
	so.FrontendAttrs["filename"] = filepath.Base(dockerfile)
	return mount("dockerfile", dir)
}

// namedContexts are --build-context.
func (o *options) namedContexts(so *client.SolveOpt, mount func(name, dir string) error) error {
	for _, c := range o.buildContexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("invalid context value: %s, expected key=value", c)
		}
		name = strings.ToLower(name)
		switch {
		case isRemote(value), strings.HasPrefix(value, "docker-image://"), strings.HasPrefix(value, "target:"):
			so.FrontendAttrs["context:"+name] = value
		case strings.HasPrefix(value, "oci-layout://"):
			path, ref := strings.TrimPrefix(value, "oci-layout://"), "latest"
			if i := strings.LastIndexAny(path, "@:"); i > strings.LastIndexByte(path, '/') {
				path, ref = path[:i], path[i:]
			} else {
				ref = ":" + ref
			}
			stores, err := bkbuild.ParseOCILayout([]string{name + "=" + path})
			if err != nil {
				return fmt.Errorf("open OCI layout of context %s: %w", name, err)
			}
			if so.OCIStores == nil {
				so.OCIStores = stores
			} else {
				so.OCIStores[name] = stores[name]
			}
			if ref, err = layoutDigest(path, ref); err != nil {
				return fmt.Errorf("find image of context %s: %w", name, err)
			}
			so.FrontendAttrs["context:"+name] = "oci-layout://" + name + ref
		default:
			if fi, err := os.Stat(value); err != nil {
				return fmt.Errorf("failed to get build context %s: %w", name, err)
			} else if !fi.IsDir() {
				return fmt.Errorf("failed to get build context %s: %s is not a directory", name, value)
			}
			local := name
			if local == "context" || local == "dockerfile" {
				local = "_" + name
			}
			if err := mount(local, value); err != nil {
				return err
			}
			so.FrontendAttrs["context:"+name] = "local:" + local
		}
	}
	return nil
}

// layoutDigest is the reference in an OCI layout, ":TAG" or "@DIGEST", as a digest,
// which is all that the engine accepts. "latest" also is
// the only image of a layout that has no tags.
func layoutDigest(path, ref string) (string, error) {
	tag, ok := strings.CutPrefix(ref, ":")
	if !ok {
		return ref, nil
	}
	index := ociindex.NewStoreIndex(path)
	desc, err := index.Get(tag)
	if err == nil && desc == nil && tag == "latest" {
		desc, err = index.GetSingle()
	}
	if err != nil {
		return "", err
	}
	if desc == nil {
		return "", fmt.Errorf("%s has no image %q", path, tag)
	}
	return "@" + desc.Digest.String(), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// isRemote says whether the engine fetches the context.
func isRemote(context string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "ssh://", "git@", "github.com/"} {
		if strings.HasPrefix(context, prefix) {
			return !exists(context)
		}
	}
	return false
}

// isArchive tells a tar, compressed or not, by its first bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) >= 262 && string(head[257:262]) == "ustar"
}
