package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"lighter/cli/session"
	"lighter/internal/registry"
)

// mountLabel before a registry's name names repositories of it that have a blob.
const mountLabel = "containerd.io/distribution.source."

func newPushCommand(s *session.Session) *cobra.Command {
	var insecure, purge bool
	cmd := &cobra.Command{
		Use: "push [OPTIONS] MANIFEST_LIST", Short: "Push a manifest list to a repository", Args: session.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := parse(args[0])
			if err != nil {
				return err
			}
			records, err := storeOf(s).list(list)
			if err != nil {
				return err
			}
			if err := push(cmd.Context(), s, list, records, insecure); err != nil || !purge {
				return err
			}
			return storeOf(s).remove(list)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&insecure, "insecure", false, "Allow push to an insecure registry")
	fs.BoolVarP(&purge, "purge", "p", false, "Remove the local manifest list after push")
	return cmd
}

// index is a list as it is pushed.
type index struct {
	SchemaVersion int      `json:"schemaVersion"`
	MediaType     string   `json:"mediaType"`
	Manifests     []member `json:"manifests"`
}

// member is a manifest as a list has it. Docker compatibility: the order of the
// fields is its, so that both make the same list of the same members.
type member struct {
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	Digest      digest.Digest     `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    ocispec.Platform  `json:"platform"`
}

func memberOf(d ocispec.Descriptor) member {
	m := member{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, Annotations: d.Annotations}
	if d.Platform != nil {
		m.Platform = *d.Platform
	}
	return m
}

// assemble makes the list of records. Docker compatibility: it is of the kind of
// its first member.
func assemble(list reference.Named, records []record) (index, error) {
	out := index{SchemaVersion: 2, MediaType: dockerList, Manifests: []member{}}
	if len(records) > 0 && records[0].Descriptor.MediaType == ocispec.MediaTypeImageManifest {
		out.MediaType = ocispec.MediaTypeImageIndex
	}
	for _, r := range records {
		named, err := reference.ParseNamed(r.Ref)
		if err != nil {
			return out, err
		}
		if from, to := reference.Domain(named), reference.Domain(list); from != to {
			return out, fmt.Errorf("cannot use source images from a different registry than the target image: %s != %s", from, to)
		}
		if err := r.Descriptor.Digest.Validate(); err != nil {
			return out, fmt.Errorf("digest parse of image %q failed: %w", r.Ref, err)
		}
		out.Manifests = append(out.Manifests, memberOf(r.Descriptor))
	}
	return out, nil
}

// push sends the members that are in other repositories, then the list. The list
// exists in the registry when all that it names does.
func push(ctx context.Context, s *session.Session, list reference.Named, records []record, insecure bool) error {
	if len(records) == 0 {
		return fmt.Errorf("%s not found", list)
	}
	out, err := assemble(list, records)
	if err != nil {
		return err
	}
	for _, r := range records {
		if p := r.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return fmt.Errorf("manifest %s must have an OS and Architecture to be pushed to a registry", r.Ref)
		}
	}
	remote := newRemote(ctx, s, list, insecure)
	if remote.err != nil {
		return remote.err
	}
	ctx = registry.Silent(ctx)
	for _, r := range records {
		source, err := reference.ParseNamed(r.Ref)
		if err != nil {
			return err
		}
		if source.Name() == list.Name() {
			continue
		}
		if err := remote.copy(ctx, s, r, source, list); err != nil {
			return fmt.Errorf("push %s: %w", r.Ref, err)
		}
	}
	raw, err := json.MarshalIndent(out, "", "   ")
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: out.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := remote.put(ctx, list, desc, raw); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, desc.Digest)
	return nil
}

// copy gives the list's repository what it lacks of a member: its blobs, by mount
// where the registry does that, and its manifest.
func (r *remote) copy(ctx context.Context, s *session.Session, from record, source, list reference.Named) error {
	raw, err := from.payload()
	if err != nil {
		return err
	}
	doc, err := parseDocument(raw, from.Descriptor.MediaType)
	if err != nil {
		return err
	}
	for _, blob := range doc.blobs() {
		if len(blob.URLs) > 0 {
			continue // it is elsewhere
		}
		if err := r.copyBlob(ctx, blob, source, list); err != nil {
			return fmt.Errorf("error mounting %s to %s: %w", blob.Digest, list, err)
		}
	}
	target, err := reference.WithDigest(reference.TrimNamed(list), from.Descriptor.Digest)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: from.Descriptor.MediaType, Digest: from.Descriptor.Digest, Size: int64(len(raw))}
	if err := r.put(ctx, target, desc, raw); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "Pushed ref %s with digest: %s\n", target, desc.Digest)
	return nil
}

func (r *remote) copyBlob(ctx context.Context, blob ocispec.Descriptor, source, list reference.Named) error {
	pusher, err := r.resolver.Pusher(ctx, list.String())
	if err != nil {
		return err
	}
	blob.Annotations = maps.Clone(blob.Annotations)
	if blob.Annotations == nil {
		blob.Annotations = map[string]string{}
	}
	blob.Annotations[mountLabel+reference.Domain(source)] = reference.Path(source)
	w, err := pusher.Push(ctx, blob)
	if errdefs.IsAlreadyExists(err) {
		return nil // there, or mounted now
	} else if err != nil {
		return err
	}
	defer w.Close()
	fetcher, err := r.resolver.Fetcher(ctx, source.String())
	if err != nil {
		return err
	}
	body, err := fetcher.Fetch(ctx, blob)
	if err != nil {
		return err
	}
	defer body.Close()
	return content.Copy(ctx, w, body, blob.Size, blob.Digest)
}

// put sends a document.
func (r *remote) put(ctx context.Context, ref reference.Named, desc ocispec.Descriptor, raw []byte) error {
	pusher, err := r.resolver.Pusher(ctx, ref.String())
	if err != nil {
		return err
	}
	w, err := pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	} else if err != nil {
		return err
	}
	defer w.Close()
	return content.Copy(ctx, w, bytes.NewReader(raw), desc.Size, desc.Digest)
}
