package image

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"

	cimage "lighter/containerd/image"
	registries "lighter/internal/registry"
)

// Distribution asks the registry of ref what it has under that name. Nothing is
// stored.
func (s *Service) Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (registry.DistributionInspect, error) {
	none := registry.DistributionInspect{}
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return none, invalid("%s", err)
	}
	named, ok := parsed.(reference.Named)
	if !ok {
		return none, invalid("unknown image reference format: %s", ref)
	}
	named = reference.TagNameOnly(named)
	desc, platforms, err := cimage.Inspect(ctx, registries.NewResolver(ctx, s.registryOptions(named, auth)), named.String())
	if err != nil {
		return none, registryError(named, err)
	}
	return registry.DistributionInspect{Descriptor: desc, Platforms: platforms}, nil
}

// Bounds of a search's limit.
const (
	defaultSearchLimit = 25
	maxSearchLimit     = 100
)

// Search asks an index for repositories: Docker Hub, or the registry that the term
// begins with ("host:5000/name"). limit 0 means the default. Filters are
// is-official, is-automated and stars.
func (s *Service) Search(ctx context.Context, term string, limit int, f Filters, auth *registry.AuthConfig) ([]registry.SearchResult, error) {
	for key := range f {
		if key != "is-official" && key != "is-automated" && key != "stars" {
			return nil, invalid("invalid filter '%s'", key)
		}
	}
	official, err := f.optional("is-official")
	if err != nil {
		return nil, err
	}
	automated, err := f.optional("is-automated")
	if err != nil {
		return nil, err
	}
	stars := 0
	for _, v := range f.values("stars") {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'stars=[%s]'", v)
		}
		stars = max(stars, n)
	}
	if limit == 0 {
		limit = defaultSearchLimit
	}
	if limit < 1 || limit > maxSearchLimit {
		return nil, invalid("limit %d is outside the range of [1, %d]", limit, maxSearchLimit)
	}
	if strings.Contains(term, "://") {
		return nil, invalid("invalid repository name: repository name (%s) should not have a scheme", term)
	}
	host, name := "docker.io", term
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, name = loginHost(first), rest
	}
	if host == "docker.io" {
		name = strings.TrimPrefix(name, "library/")
	}
	if strings.ContainsAny(host, " \t\r\n@?#\\") {
		return nil, invalid("invalid registry address %q", host)
	}
	o := s.hostOptions(host)
	if auth != nil && sameRegistry(auth.ServerAddress, host) {
		o.User, o.Secret = auth.Username, auth.Password
	}
	raw, err := cimage.Search(ctx, o, url.Values{"q": {name}, "n": {strconv.Itoa(limit)}}.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct {
		Results []struct { // nothing is automated any more, whatever an index says
			Name        string `json:"name"`
			Description string `json:"description"`
			StarCount   int    `json:"star_count"`
			IsOfficial  bool   `json:"is_official"`
		} `json:"results"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("index of %s answers something else than search results: %v", host, err))
	}
	out := []registry.SearchResult{}
	if automated != nil && *automated {
		return out, nil // nothing is any more
	}
	for _, r := range answer.Results {
		if official != nil && r.IsOfficial != *official || r.StarCount < stars {
			continue
		}
		out = append(out, registry.SearchResult{Name: r.Name, Description: r.Description, StarCount: r.StarCount, IsOfficial: r.IsOfficial})
		if len(out) == limit {
			break
		}
	}
	return out, nil
}

// optional returns the one value of a boolean filter, nil when it is not given.
func (f Filters) optional(key string) (*bool, error) {
	if len(f[key]) == 0 {
		return nil, nil
	}
	v, err := f.boolean(key, false)
	return &v, err
}

// maxImportRedirects bounds where the URL of an import may lead.
const maxImportRedirects = 5

// fetchImport opens the archive at the URL of an import. Without a scheme it is
// http, as in Docker.
func (s *Service) fetchImport(ctx context.Context, raw string, out Progress) (*http.Response, error) {
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, invalid("unsupported import source %q: only http and https URLs are fetched", raw)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, invalid("import source %q: %s", raw, err)
	}
	req.Header.Set("User-Agent", s.settings.Load().Registry.UserAgent)
	client := &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxImportRedirects {
			return invalid("import source redirects more than %d times", maxImportRedirects)
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return invalid("import source leads from https to %s", req.URL.Scheme)
		}
		return nil
	}}
	out(jsonstream.Message{Status: "Downloading from " + u.Redacted()})
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch import: %w: %w", errdefs.ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		msg := fmt.Sprintf("fetch import: got HTTP status code %d for %s", resp.StatusCode, u.Redacted())
		if resp.StatusCode == http.StatusNotFound {
			return nil, errdefs.ErrNotFound.WithMessage(msg)
		}
		return nil, errdefs.ErrUnavailable.WithMessage(msg)
	}
	return resp, nil
}
