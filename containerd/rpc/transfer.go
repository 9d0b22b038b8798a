package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	api "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	transferapi "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
	"lighter/containerd/image"
	"lighter/internal/registry"
)

// transferServer moves images between registries, archives of the client and the
// store, at the client's request:
//
//	from \ to         registry   image store   export stream
//	registry                     pull
//	image store       push       tag           export
//	import stream                import        echo
type transferServer struct {
	api.UnimplementedTransferServer
	services *containerd.Services
	streams  *streams
}

// Transfer does one move. Commit point: the image record, or the registry's
// answer to the last manifest.
func (s *transferServer) Transfer(ctx context.Context, r *api.TransferRequest) (_ *emptypb.Empty, err error) {
	var src, dst proto.Message
	if src, err = endpoint(r.GetSource().GetTypeUrl(), r.GetSource().GetValue()); err != nil {
		return nil, fmt.Errorf("transfer: source: %w", err)
	}
	if dst, err = endpoint(r.GetDestination().GetTypeUrl(), r.GetDestination().GetValue()); err != nil {
		return nil, fmt.Errorf("transfer: destination: %w", err)
	}
	report := &progressStream{}
	if id := r.GetOptions().GetProgressStream(); id != "" {
		if report.to, err = s.streams.get(ctx, id); err != nil {
			return nil, fmt.Errorf("transfer: progress: %w", err)
		}
		defer report.to.close()
	}
	ctx, release, err := image.WithLease(ctx, s.services)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	return &emptypb.Empty{}, s.move(ctx, src, dst, report)
}

func (s *transferServer) move(ctx context.Context, src, dst proto.Message, report *progressStream) error {
	switch src := src.(type) {
	case *transferapi.OCIRegistry:
		if dst, ok := dst.(*transferapi.ImageStore); ok {
			return s.pull(ctx, src, dst, report)
		}
	case *transferapi.ImageStore:
		switch dst := dst.(type) {
		case *transferapi.OCIRegistry:
			return s.push(ctx, src, dst, report)
		case *transferapi.ImageStore:
			return s.tag(ctx, src, dst)
		case *transferapi.ImageExportStream:
			return s.export(ctx, src, dst, report)
		}
	case *transferapi.ImageImportStream:
		switch dst := dst.(type) {
		case *transferapi.ImageStore:
			return s.load(ctx, src, dst, report)
		case *transferapi.ImageExportStream:
			return s.echo(ctx, src, dst)
		}
	}
	return fmt.Errorf("transfer from %s to %s: %w", src.ProtoReflect().Descriptor().Name(), dst.ProtoReflect().Descriptor().Name(), errdefs.ErrNotImplemented)
}

// endpoint decodes one side of a transfer.
func endpoint(typeURL string, value []byte) (proto.Message, error) {
	for _, m := range []proto.Message{
		&transferapi.OCIRegistry{}, &transferapi.ImageStore{}, &transferapi.ImageImportStream{}, &transferapi.ImageExportStream{},
	} {
		if name := string(m.ProtoReflect().Descriptor().FullName()); typeURL != name && !strings.HasSuffix(typeURL, "/"+name) {
			continue
		}
		if err := proto.Unmarshal(value, m); err != nil {
			return nil, invalid("%w", err)
		}
		return m, nil
	}
	return nil, fmt.Errorf("type %q: %w", typeURL, errdefs.ErrNotImplemented)
}

// pull fetches the image for the platforms asked for, or all it has, and unpacks
// it where asked to. The record is written when all of it is there.
func (s *transferServer) pull(ctx context.Context, src *transferapi.OCIRegistry, dst *transferapi.ImageStore, report *progressStream) error {
	ref := src.GetReference()
	resolver, err := s.resolver(ctx, src)
	if err != nil {
		return fmt.Errorf("pull %q: %w", ref, err)
	}
	report.root = ref
	report.send("Resolving from "+ref, "", nil, 0, 0)
	wanted := platformsOf(dst.GetPlatforms())
	if len(wanted) == 0 {
		if _, wanted, err = image.Inspect(ctx, resolver, ref); err != nil {
			return fmt.Errorf("pull %q: %w", ref, err)
		}
	}
	choices := make([]*ocispec.Platform, 0, len(wanted)+1)
	for i := range wanted {
		choices = append(choices, &wanted[i])
	}
	if len(choices) == 0 { // not an index: whatever it is for
		choices = append(choices, nil)
	}
	var target ocispec.Descriptor
	for _, p := range choices {
		unpacks := unpacksFor(dst.GetUnpacks(), p)
		o := image.PullOptions{
			Resolver: resolver, Platform: p, NoUnpack: len(unpacks) == 0, Progress: report.event,
			Record: func(_ context.Context, r image.Pulled) error { target = r.Target; return nil },
		}
		if len(unpacks) > 0 {
			o.Snapshotter = unpacks[0]
		}
		pulled, err := image.Pull(ctx, s.services, ref, o)
		if err != nil {
			return err
		}
		for i := 1; i < len(unpacks); i++ {
			if _, err := image.Unpack(ctx, s.services, pulled.Manifest, unpacks[i], report.event); err != nil {
				return err
			}
		}
	}
	if err := s.record(ctx, dst, target, storeNames(dst, target.Digest), report); err != nil {
		return fmt.Errorf("pull %q: %w", ref, err)
	}
	report.send("Completed pull from "+ref, "", nil, 0, 0)
	return nil
}

// unpacksFor returns the snapshotters to unpack the platform into.
func unpacksFor(list []*transferapi.UnpackConfiguration, p *ocispec.Platform) []string {
	var names []string
	for _, u := range list {
		if u.GetPlatform() != nil && p != nil && !platforms.Only(platformsOf([]*types.Platform{u.GetPlatform()})[0]).Match(*p) {
			continue
		}
		names = append(names, u.GetSnapshotter())
	}
	return names
}

// push sends the image, or its manifests for the platforms asked for.
func (s *transferServer) push(ctx context.Context, src *transferapi.ImageStore, dst *transferapi.OCIRegistry, report *progressStream) error {
	ref := dst.GetReference()
	img, err := s.services.Images.Get(ctx, src.GetName())
	if err != nil {
		return fmt.Errorf("push %q: %w", ref, err)
	}
	resolver, err := s.resolver(ctx, dst)
	if err != nil {
		return fmt.Errorf("push %q: %w", ref, err)
	}
	targets := []ocispec.Descriptor{img.Target}
	if wanted := platformsOf(src.GetPlatforms()); len(wanted) > 0 && images.IsIndexType(img.Target.MediaType) {
		targets = nil
		all, err := image.Manifests(ctx, s.services.Content, img.Target)
		if err != nil {
			return fmt.Errorf("push %q: %w", ref, err)
		}
		match := platforms.Any(wanted...)
		for _, m := range all {
			if m.Present && m.Desc.Platform != nil && match.Match(*m.Desc.Platform) {
				targets = append(targets, m.Desc)
			}
		}
		if len(targets) != 1 {
			return fmt.Errorf("push %q: %d of its manifests are for the platforms, one can have the name: %w", ref, len(targets), errdefs.ErrInvalidArgument)
		}
	}
	report.root = ref
	report.send("Uploading to "+ref, "", nil, 0, 0)
	if err := image.Push(ctx, s.services, ref, targets[0], image.PushOptions{Resolver: resolver, Progress: report.event}); err != nil {
		return err
	}
	report.send("Completed push to "+ref, "", nil, 0, 0)
	return nil
}

func (s *transferServer) tag(ctx context.Context, src, dst *transferapi.ImageStore) error {
	img, err := s.services.Images.Get(ctx, src.GetName())
	if err != nil {
		return fmt.Errorf("tag image: %w", err)
	}
	return s.record(ctx, dst, img.Target, storeNames(dst, img.Target.Digest), &progressStream{})
}

// load imports the client's archive. Its images get the names that they have in
// it, as far as the references of dst let them; the archive's index gets dst's own.
func (s *transferServer) load(ctx context.Context, src *transferapi.ImageImportStream, dst *transferapi.ImageStore, report *progressStream) error {
	if src.GetForceCompress() {
		return fmt.Errorf("import images: compression of layers: %w", errdefs.ErrNotImplemented)
	}
	in, err := s.streams.get(ctx, src.GetStream())
	if err != nil {
		return fmt.Errorf("import images: %w", err)
	}
	defer in.close()
	report.send("Importing", "", nil, 0, 0)
	index, loaded, err := image.ImportIndex(ctx, s.services, &streamReader{clientStream: in})
	if err != nil {
		return err
	}
	if err := s.unpack(ctx, dst, loaded, report); err != nil {
		return err
	}
	if names := storeNames(dst, index.Digest); len(names) > 0 {
		if err := s.record(ctx, dst, index, names, report); err != nil {
			return err
		}
	}
	for _, l := range loaded {
		if names := importNames(dst.GetExtraReferences(), l); len(names) > 0 {
			if err := s.record(ctx, dst, l.Target, names, report); err != nil {
				return err
			}
		}
	}
	report.send("Completed import", "", nil, 0, 0)
	return nil
}

// unpack unpacks the imported manifests for the platforms that dst names.
func (s *transferServer) unpack(ctx context.Context, dst *transferapi.ImageStore, loaded []image.Loaded, report *progressStream) error {
	for _, u := range dst.GetUnpacks() {
		match := platforms.DefaultStrict()
		if u.GetPlatform() != nil {
			match = platforms.Only(platformsOf([]*types.Platform{u.GetPlatform()})[0])
		}
		for _, l := range loaded {
			all, err := image.Manifests(ctx, s.services.Content, l.Target)
			if err != nil {
				return err
			}
			for _, m := range all {
				if !m.Present || !image.IsImage(m.Document) {
					continue
				}
				p := m.Desc.Platform
				if p == nil {
					var cfg ocispec.Image
					if err := image.ReadConfig(ctx, s.services.Content, m.Document.Config, &cfg); err != nil {
						return err
					}
					p = &cfg.Platform
				}
				if !match.Match(*p) {
					continue
				}
				if _, err := image.Unpack(ctx, s.services, m.Desc, u.GetSnapshotter(), report.event); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// export writes an archive of the images to the client.
func (s *transferServer) export(ctx context.Context, src *transferapi.ImageStore, dst *transferapi.ImageExportStream, report *progressStream) error {
	if dst.GetSkipCompatibilityManifest() || dst.GetSkipNonDistributable() {
		return fmt.Errorf("export images: leaving out Docker's manifest or non-distributable layers: %w", errdefs.ErrNotImplemented)
	}
	names := []string{}
	if src.GetName() != "" {
		names = append(names, src.GetName())
	}
	for _, ref := range src.GetExtraReferences() {
		if ref.GetIsPrefix() {
			return fmt.Errorf("export images: by prefix %q: %w", ref.GetName(), errdefs.ErrNotImplemented)
		}
		names = append(names, ref.GetName())
	}
	wanted := platformsOf(dst.GetPlatforms())
	match := platforms.All
	if len(wanted) > 0 && !dst.GetAllPlatforms() {
		match = platforms.Ordered(wanted...)
	}
	store := partOf{Store: s.services.Content, hidden: map[digest.Digest]bool{}}
	var list []image.Exported
	for _, name := range names {
		img, err := s.services.Images.Get(ctx, name)
		if err != nil {
			return fmt.Errorf("export images: %w", err)
		}
		all, err := image.Manifests(ctx, s.services.Content, img.Target)
		if err != nil {
			return fmt.Errorf("export image %q: %w", name, err)
		}
		for _, m := range all {
			if p := m.Desc.Platform; p != nil && !match.Match(*p) {
				store.hidden[m.Desc.Digest] = true
			}
		}
		list = append(list, image.Exported{Target: img.Target, Names: []string{name}})
	}
	out, err := s.streams.get(ctx, dst.GetStream())
	if err != nil {
		return fmt.Errorf("export images: %w", err)
	}
	defer out.close()
	report.send("Exporting", "", nil, 0, 0)
	if err := image.Export(ctx, store, &streamWriter{clientStream: out}, list, match); err != nil {
		return err
	}
	report.send("Completed export", "", nil, 0, 0)
	return nil
}

// partOf is a store without some of its blobs.
type partOf struct {
	content.Store
	hidden map[digest.Digest]bool
}

func (p partOf) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if p.hidden[d] {
		return content.Info{}, fmt.Errorf("content %s: %w", d, errdefs.ErrNotFound)
	}
	return p.Store.Info(ctx, d)
}

func (p partOf) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if p.hidden[desc.Digest] {
		return nil, fmt.Errorf("content %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return p.Store.ReaderAt(ctx, desc)
}

// echo gives the client its bytes back: clients test the transport with it.
func (s *transferServer) echo(ctx context.Context, src *transferapi.ImageImportStream, dst *transferapi.ImageExportStream) error {
	in, err := s.streams.get(ctx, src.GetStream())
	if err != nil {
		return err
	}
	defer in.close()
	out, err := s.streams.get(ctx, dst.GetStream())
	if err != nil {
		return err
	}
	defer out.close()
	if src.GetMediaType() != dst.GetMediaType() {
		return invalid("echo of %q as %q", src.GetMediaType(), dst.GetMediaType())
	}
	_, err = io.Copy(&streamWriter{clientStream: out}, &streamReader{clientStream: in})
	return err
}

// record writes the image records of target.
func (s *transferServer) record(ctx context.Context, dst *transferapi.ImageStore, target ocispec.Descriptor, names []string, report *progressStream) error {
	if len(names) == 0 {
		return invalid("no name for image %s", target.Digest)
	}
	for _, name := range names {
		if _, err := image.Record(ctx, s.services, images.Image{Name: name, Target: target, Labels: dst.GetLabels()}); err != nil {
			return err
		}
		report.send("saved", name, &target, 0, 0)
	}
	return nil
}

// storeNames are the names that dst gives to what is put in as a whole.
func storeNames(dst *transferapi.ImageStore, d digest.Digest) []string {
	var names []string
	if dst.GetName() != "" {
		names = append(names, dst.GetName())
	}
	for _, ref := range dst.GetExtraReferences() {
		switch {
		case ref.GetAddDigest():
			names = append(names, ref.GetName()+"@"+d.String())
		case !ref.GetIsPrefix():
			names = append(names, ref.GetName())
		}
	}
	return names
}

// importNames are the names of an image of an archive: those that it has there,
// completed by a prefix if they are but tags. A name outside of the prefix counts
// only if the reference lets it overwrite.
func importNames(refs []*transferapi.ImageReference, l image.Loaded) []string {
	var names []string
	for _, ref := range refs {
		prefix := ref.GetName()
		if !ref.GetIsPrefix() || prefix == "" {
			continue
		}
		found := false
		for _, name := range l.Names {
			switch {
			case !strings.ContainsAny(name, "/:@"):
				name = prefix + ":" + name
			case !ref.GetAllowOverwrite() && !inPrefix(name, prefix):
				continue
			}
			found = true
			names = append(names, name)
		}
		if ref.GetAddDigest() && (!found || !ref.GetSkipNamedDigest()) {
			names = append(names, prefix+"@"+l.Target.Digest.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// inPrefix reports whether name is in the repository or the path prefix.
func inPrefix(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (rest == "" || strings.ContainsRune("/:@", rune(rest[0])))
}

// resolver makes the registry client that r describes. Credentials, which the
// client is asked for, go to the registry of the reference alone.
func (s *transferServer) resolver(ctx context.Context, r *transferapi.OCIRegistry) (remotes.Resolver, error) {
	o := r.GetResolver()
	if o.GetHttpDebug() != transferapi.HTTPDebug_DISABLED {
		return nil, fmt.Errorf("logs of HTTP requests: %w", errdefs.ErrNotImplemented)
	}
	host, _, ok := strings.Cut(r.GetReference(), "/")
	if !ok {
		return nil, invalid("reference %q names no registry", r.GetReference())
	}
	opts := registry.Options{CertsDir: o.GetHostDir(), Host: host, Header: http.Header{}}
	for k, v := range o.GetHeaders() {
		opts.Header.Set(k, v)
	}
	switch scheme := o.GetDefaultScheme(); scheme {
	case "", "https":
	case "http":
		opts.Insecure = []string{host}
	default:
		return nil, invalid("scheme %q is neither http nor https", scheme)
	}
	if id := o.GetAuthStream(); id != "" {
		if err := s.credentials(ctx, id, r.GetReference(), &opts); err != nil {
			return nil, fmt.Errorf("ask for credentials: %w", err)
		}
	}
	return registry.NewResolver(ctx, opts), nil
}

func (s *transferServer) credentials(ctx context.Context, id, ref string, opts *registry.Options) error {
	c, err := s.streams.get(ctx, id)
	if err != nil {
		return err
	}
	defer c.close()
	host := opts.Host
	if host == "docker.io" {
		host = "registry-1.docker.io"
	}
	if err := c.send(&transferapi.AuthRequest{Host: host, Reference: ref}); err != nil {
		return err
	}
	m, err := c.conn.Recv()
	if err != nil {
		return err
	}
	var resp transferapi.AuthResponse
	if err := typeurl.UnmarshalTo(m, &resp); err != nil {
		return invalid("%w", err)
	}
	switch resp.GetAuthType() {
	case transferapi.AuthType_NONE:
	case transferapi.AuthType_CREDENTIALS:
		opts.User, opts.Secret = resp.GetUsername(), resp.GetSecret()
	case transferapi.AuthType_REFRESH:
		opts.Secret = resp.GetSecret()
	case transferapi.AuthType_HEADER:
		opts.Header.Set("Authorization", resp.GetSecret())
	default:
		return invalid("credentials of type %v", resp.GetAuthType())
	}
	return nil
}

// progressStream tells the client how a transfer goes. A client that has gone is
// not told: the transfer's context says so too. The zero value tells nobody.
type progressStream struct {
	to   *clientStream
	root string // name of what the layers belong to

	mu sync.Mutex // one message at a time
}

func (p *progressStream) send(event, name string, desc *ocispec.Descriptor, current, total int64) {
	if p.to == nil {
		return
	}
	m := &transferapi.Progress{Event: event, Name: name, Progress: current, Total: total}
	if desc != nil {
		m.Desc = protoDescriptor(*desc)
	}
	if name != "" && p.root != "" && name != p.root {
		m.Parents = []string{p.root}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.to.send(m)
}

// event is an image.Progress in the words of containerd's clients.
func (p *progressStream) event(e image.Event) {
	words := map[image.Phase]string{
		image.Exists: "already exists", image.Downloaded: "complete", image.Done: "extracted",
		image.Pushed: "complete", image.Mounted: "already exists",
	}
	word, ok := words[e.Phase]
	if !ok {
		word = string(e.Phase)
	}
	name := p.root
	if e.Phase != image.Resolved {
		name = "layer-" + e.Desc.Digest.String()
		if images.IsManifestType(e.Desc.MediaType) {
			name = "manifest-" + e.Desc.Digest.String()
		}
	}
	p.send(word, name, &e.Desc, e.Current, max(e.Total, e.Desc.Size))
}

func platformsOf(list []*types.Platform) []ocispec.Platform {
	out := make([]ocispec.Platform, 0, len(list))
	for _, p := range list {
		out = append(out, platforms.Normalize(ocispec.Platform{
			OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(), OSVersion: p.GetOsVersion(), OSFeatures: p.GetOsFeatures(),
		}))
	}
	return out
}
