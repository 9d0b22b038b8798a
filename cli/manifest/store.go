package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/cli/session"
	"lighter/internal/atomicfile"
)

// Media types that Docker has beside OCI's.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// record is a member of a list as it is stored and shown.
type record struct {
	Ref        string
	Descriptor ocispec.Descriptor
	Raw        []byte `json:",omitempty"`
	// One of them is Raw, parsed.
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// payload is the manifest, which has the digest of the descriptor.
func (r record) payload() ([]byte, error) {
	if len(r.Raw) == 0 {
		return nil, fmt.Errorf("manifest of %s was stored without its bytes: create the list anew", r.Ref)
	}
	if found := digest.FromBytes(r.Raw); found != r.Descriptor.Digest {
		return nil, fmt.Errorf("manifest of %s has digest %s, want %s: %w", r.Ref, found, r.Descriptor.Digest, errdefs.ErrDataLoss)
	}
	return r.Raw, nil
}

// store has a directory per list with a file per member, in Docker's format: the
// stock command line reads and writes the same ones.
type store struct{ root string }

func storeOf(s *session.Session) store { return store{filepath.Join(s.Dir(), "manifests")} }

// fileName is a reference as the name of a file.
func fileName(ref reference.Named) string {
	return strings.NewReplacer(":", "-", "/", "_").Replace(ref.String())
}

func (st store) dir(list reference.Named) string { return filepath.Join(st.root, fileName(list)) }

// list returns a list's members in the order of their names.
//
// Errors: NotFound; DataLoss when a file of it does not parse.
func (st store) list(list reference.Named) ([]record, error) {
	entries, err := os.ReadDir(st.dir(list))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noSuchManifest(list)
	} else if err != nil {
		return nil, err
	}
	records := make([]record, 0, len(entries))
	for _, e := range entries {
		r, err := read(filepath.Join(st.dir(list), e.Name()))
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

func (st store) get(list, member reference.Named) (record, error) {
	r, err := read(filepath.Join(st.dir(list), fileName(member)))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, noSuchManifest(member)
	}
	return r, err
}

func read(path string) (record, error) {
	var r record
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("read manifest file %s: %w: %w", path, errdefs.ErrDataLoss, err)
	}
	if _, err := reference.ParseNamed(r.Ref); err != nil {
		return r, fmt.Errorf("read manifest file %s: reference %q: %w: %w", path, r.Ref, errdefs.ErrDataLoss, err)
	}
	return r, nil
}

func (st store) save(list reference.Named, r record) error {
	named, err := reference.ParseNamed(r.Ref)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(st.dir(list), 0o755); err != nil {
		return err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(st.dir(list), fileName(named)), raw, 0o644)
}

func (st store) remove(list reference.Named) error {
	if _, err := os.Lstat(st.dir(list)); errors.Is(err, fs.ErrNotExist) {
		return noSuchManifest(list)
	}
	return os.RemoveAll(st.dir(list))
}

func noSuchManifest(ref reference.Named) error {
	return errdefs.ErrNotFound.WithMessage("No such manifest: " + ref.String())
}
