package image

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/internal/registry"
)

// Inspect asks a registry what ref is, and for which platforms, without storing
// anything.
//
// Errors: as for Pull.
func Inspect(ctx context.Context, resolver remotes.Resolver, ref string) (ocispec.Descriptor, []ocispec.Platform, error) {
	desc, all, err := inspect(registry.Silent(ctx), resolver, ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("inspect %q: %w", ref, err)
	}
	return desc, all, nil
}

func inspect(ctx context.Context, resolver remotes.Resolver, ref string) (desc ocispec.Descriptor, all []ocispec.Platform, err error) {
	name, desc, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return desc, nil, err
	}
	desc = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	remote, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return desc, nil, err
	}
	b, err := download(ctx, remote, desc, 0)
	if err != nil {
		return desc, nil, err
	}
	doc, err := ParseDocument(b, desc)
	if err != nil {
		return desc, nil, err
	}
	if doc.Index != nil {
		for _, m := range doc.Index.Manifests {
			if m.Platform != nil {
				all = append(all, *m.Platform)
			}
		}
		return desc, all, nil
	}
	if !images.IsConfigType(doc.Manifest.Config.MediaType) {
		return desc, nil, nil // an artifact has no platform
	}
	if b, err = download(ctx, remote, doc.Manifest.Config, 0); err != nil {
		return desc, nil, err
	}
	var cfg ocispec.Image
	if err := strictJSON(b, &cfg); err != nil {
		return desc, nil, fmt.Errorf("parse config %s: %w", doc.Manifest.Config.Digest, err)
	}
	if cfg.OS != "" || cfg.Architecture != "" {
		all = append(all, cfg.Platform)
	}
	return desc, all, nil
}

// maxSearchBody bounds the answer to a search, in bytes.
const maxSearchBody = 4 << 20

// searchHost is where Docker Hub answers searches.
const searchHost = "index.docker.io"

// Search sends the query, which is encoded, to the index of o.Host, by the search
// protocol of registry version 1, and returns its JSON answer. o's user name and
// password go along.
//
// Errors: Unauthenticated when the index refuses them; NotFound when the host has
// no index.
func Search(ctx context.Context, o registry.Options, query string) ([]byte, error) {
	ctx = registry.Silent(ctx)
	o.Mirrors = nil
	hosts, err := o.Hosts(ctx)(o.Host)
	if err != nil {
		return nil, fmt.Errorf("search %s: %w", o.Host, err)
	}
	for _, h := range hosts {
		if h.Host != registry.Host(o.Host) {
			continue
		}
		host := h.Host
		if o.Host == "docker.io" {
			host = searchHost
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.Scheme+"://"+host+"/v1/search?"+query, nil)
		if err != nil {
			return nil, fmt.Errorf("search %s: %w", o.Host, err)
		}
		req.Header.Set("User-Agent", o.UserAgent)
		for k, v := range o.Header {
			req.Header[http.CanonicalHeaderKey(k)] = v
		}
		if o.User != "" {
			req.SetBasicAuth(o.User, o.Secret)
		}
		b, err := search(h.Client, req)
		if err != nil {
			return nil, fmt.Errorf("search %s: %w", o.Host, err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("search %s: the registry has no endpoint: %w", o.Host, errdefs.ErrInvalidArgument)
}

func search(client *http.Client, req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("unexpected status code %d: %w", resp.StatusCode, errdefs.ErrUnauthenticated)
	case http.StatusNotFound:
		return nil, fmt.Errorf("unexpected status code %d: %w", resp.StatusCode, errdefs.ErrNotFound)
	default:
		return nil, fmt.Errorf("unexpected status code %d: %w", resp.StatusCode, errdefs.ErrUnavailable)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxSearchBody+1))
	if err == nil && len(b) > maxSearchBody {
		err = invalid("the answer has more than %d bytes", maxSearchBody)
	}
	return b, err
}
