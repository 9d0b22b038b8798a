package image

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	cimage "lighter/containerd/image"
	registries "lighter/internal/registry"
)

// transferRef parses the name and the tag, possibly a digest, of a pull or push.
func transferRef(ref, tag string) (reference.Named, error) {
	if n := len(ref); n > 0 && ref[n-1] == ':' {
		ref = ref[:n-1] // Docker compatibility: "pull -a" of old clients
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, invalid("%s", err)
	}
	if tag != "" {
		if d, derr := digest.Parse(tag); derr == nil {
			named, err = reference.WithDigest(reference.TrimNamed(named), d)
		} else {
			named, err = reference.WithTag(reference.TrimNamed(named), tag)
		}
		if err != nil {
			return nil, invalid("%s", err)
		}
	}
	if reference.FamiliarName(named) == "scratch" {
		return nil, errdefs.ErrPermissionDenied.WithMessage("'scratch' is a reserved name")
	}
	return named, nil
}

// Pull fetches the image ref with tag, which may be a digest, and unpacks it.
// Without a tag and digest it pulls all tags of the repository. out receives
// Docker's messages.
//
// An image that loses its name to the pulled one stays, if need be as dangling.
// Two pulls of one reference take turns: the second finds everything there.
func (s *Service) Pull(ctx context.Context, ref, tag string, platform *ocispec.Platform, auth *registry.AuthConfig, out Progress) error {
	ctx = s.ctx(ctx)
	named, err := transferRef(ref, tag)
	if err != nil {
		return err
	}
	if !reference.IsNameOnly(named) {
		return s.pullOne(ctx, named, platform, auth, out)
	}
	tags, err := cimage.Tags(ctx, s.registryOptions(named, auth), named.Name())
	if err != nil {
		return registryError(named, err)
	}
	for _, t := range tags {
		tagged, err := reference.WithTag(named, t)
		if err != nil {
			s.log.Warn("registry lists an invalid tag", "image", named.Name(), "err", err)
			continue
		}
		if err := s.pullOne(ctx, tagged, platform, auth, out); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) pullOne(ctx context.Context, named reference.Named, platform *ocispec.Platform, auth *registry.AuthConfig, out Progress) error {
	key := named.String()
	if platform != nil {
		key += " " + platforms.FormatAll(*platform)
	}
	unlock, _, err := s.pulls.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()

	old, err := s.images().Get(ctx, named.String())
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	tagOrDigest := ""
	switch t := named.(type) {
	case reference.Digested:
		tagOrDigest = t.Digest().String()
	case reference.Tagged:
		tagOrDigest = t.Tag()
	}
	show := &pullMessages{out: out, from: "Pulling from " + reference.Path(named), tag: tagOrDigest}
	show.present = func(d ocispec.Descriptor) bool {
		_, err := s.content().Info(ctx, d.Digest)
		return err == nil
	}
	settings := s.settings.Load()
	pulled, err := cimage.Pull(ctx, s.svc, named.String(), cimage.PullOptions{
		Resolver:     registries.NewResolver(ctx, s.registryOptions(named, auth)),
		Platform:     platform,
		Snapshotter:  s.snapshotter,
		MaxDownloads: settings.MaxDownloads,
		Attempts:     settings.DownloadAttempts,
		Progress:     show.event,
		Record: func(ctx context.Context, p cimage.Pulled) error {
			return s.record(ctx, images.Image{Name: p.Name, Target: p.Target})
		},
	})
	if err != nil {
		return registryError(named, err)
	}
	familiar := reference.FamiliarString(named)
	out(jsonstream.Message{Status: "Digest: " + pulled.Target.Digest.String()})
	if old.Target.Digest == pulled.Target.Digest {
		out(jsonstream.Message{Status: "Status: Image is up to date for " + familiar})
	} else {
		out(jsonstream.Message{Status: "Status: Downloaded newer image for " + familiar})
	}
	s.event(ctx, events.ActionPull, pulled.Target, familiar, reference.FamiliarName(named))
	return nil
}

// registryOptions are those for the registry of named, with the credentials
// that the client sent for it.
func (s *Service) registryOptions(named reference.Named, auth *registry.AuthConfig) registries.Options {
	o := s.hostOptions(reference.Domain(named))
	if auth == nil || !sameRegistry(auth.ServerAddress, o.Host) {
		return o
	}
	switch {
	case auth.RegistryToken != "":
		o.Token = auth.RegistryToken
	case auth.IdentityToken != "":
		o.Secret = auth.IdentityToken
	default:
		o.User, o.Secret = auth.Username, auth.Password
	}
	return o
}

// hostOptions are those for a registry without credentials.
func (s *Service) hostOptions(host string) registries.Options {
	registry := s.settings.Load().Registry
	return registries.Options{
		CertsDir:  registry.CertsDir,
		Insecure:  registry.Insecure,
		Mirrors:   registry.Mirrors,
		UserAgent: registry.UserAgent,
		Host:      host,
	}
}

// progressPause is the least time between two messages about the bytes of a
// layer.
const progressPause = 100 * time.Millisecond

// pullMessages turns events into Docker's messages.
type pullMessages struct {
	out       Progress
	from, tag string
	present   func(ocispec.Descriptor) bool

	mu       sync.Mutex // guards the fields below, and calls of out
	begun    bool
	existing map[digest.Digest]bool // layers that were there before
	last     map[digest.Digest]time.Time
	done     map[digest.Digest]bool
}

func (p *pullMessages) event(e cimage.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last, p.existing, p.done = map[digest.Digest]time.Time{}, map[digest.Digest]bool{}, map[digest.Digest]bool{}
	}
	id := shortID(e.Desc.Digest.String())
	d := e.Desc.Digest
	finished := &jsonstream.Progress{HideCounts: true}
	switch e.Phase {
	case cimage.Selected:
		if !p.begun {
			p.begun = true
			p.out(jsonstream.Message{ID: p.tag, Status: p.from})
		}
	case cimage.Waiting:
		// A layer that is there needs no line of its own, as when nothing is new.
		if p.existing[d] = p.present(e.Desc); !p.existing[d] {
			p.out(jsonstream.Message{ID: id, Status: "Pulling fs layer"})
		}
	case cimage.Downloading, cimage.Extracting:
		status := "Downloading"
		if e.Phase == cimage.Extracting {
			status = "Extracting"
		}
		if t := time.Now(); t.Sub(p.last[d]) >= progressPause && !p.done[d] {
			p.last[d] = t
			p.out(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{Current: e.Current, Total: e.Total}})
		}
	case cimage.Downloaded:
		p.last[d] = time.Time{}
		p.out(jsonstream.Message{ID: id, Status: "Download complete", Progress: finished})
	case cimage.Done:
		if !p.existing[d] && !p.done[d] {
			p.out(jsonstream.Message{ID: id, Status: "Pull complete", Progress: finished})
		}
		p.done[d] = true
	}
}

// registryError gives what a registry said a class and Docker's words.
func registryError(named reference.Named, err error) error {
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"pull access denied for %s, repository does not exist or may require 'docker login'", reference.FamiliarName(named)))
	}
	list, ok := errors.AsType[docker.Errors](err)
	if !ok {
		if one, ok := errors.AsType[docker.Error](err); ok {
			list = docker.Errors{one}
		}
	}
	for _, e := range list {
		one, ok := errors.AsType[docker.Error](e)
		if !ok {
			continue
		}
		msg := one.Message
		if msg == "" {
			msg = one.Code.Message()
		}
		if detail, ok := one.Detail.(string); ok {
			msg += " - " + detail
		}
		switch one.Code {
		case docker.ErrorCodeUnauthorized:
			return errdefs.ErrUnauthenticated.WithMessage(msg)
		case docker.ErrorCodeDenied:
			return errdefs.ErrPermissionDenied.WithMessage(msg)
		case docker.ErrorCodeUnavailable:
			return errdefs.ErrUnavailable.WithMessage(msg)
		case docker.ErrorCodeTooManyRequests:
			return errdefs.ErrResourceExhausted.WithMessage(msg)
		case docker.ErrorCodeUnsupported:
			return errdefs.ErrNotImplemented.WithMessage(msg)
		}
	}
	if status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		switch status.StatusCode {
		case 401:
			return fmt.Errorf("%w: %w", errdefs.ErrUnauthenticated, err)
		case 403:
			return fmt.Errorf("%w: %w", errdefs.ErrPermissionDenied, err)
		case 429:
			return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
		case 502, 503, 504:
			return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
		}
	}
	return err
}
