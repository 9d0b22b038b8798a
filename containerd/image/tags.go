package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"lighter/internal/registry"
)

const (
	maxTags     = 10000
	maxTagPages = 1000
	maxTagBody  = 4 << 20
)

// Tags lists the tags of the repository ("docker.io/library/busybox") at its
// registry.
func Tags(ctx context.Context, o registry.Options, repo string) ([]string, error) {
	host, path, _ := strings.Cut(repo, "/")
	ctx = registry.Silent(ctx)
	hosts, err := o.Hosts(ctx)(host)
	if err != nil {
		return nil, fmt.Errorf("list tags of %q: %w", repo, err)
	}
	var last error = errdefs.ErrNotFound
	for _, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityResolve) {
			continue
		}
		tags, err := listTags(docker.WithScope(ctx, "repository:"+path+":pull"), h, path)
		if err == nil {
			return tags, nil
		}
		last = err
	}
	return nil, fmt.Errorf("list tags of %q: %w", repo, last)
}

func listTags(ctx context.Context, h docker.RegistryHost, path string) ([]string, error) {
	var tags []string
	next := &url.URL{Scheme: h.Scheme, Host: h.Host, Path: h.Path + "/" + path + "/tags/list"}
	for range maxTagPages {
		var page struct {
			Tags []string `json:"tags"`
		}
		link, err := getTags(ctx, h, next, &page)
		if err != nil {
			return nil, err
		}
		if tags = append(tags, page.Tags...); len(tags) > maxTags {
			return nil, fmt.Errorf("more than %d tags: %w", maxTags, errdefs.ErrResourceExhausted)
		}
		target, _, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
		if !ok {
			return tags, nil
		}
		ref, err := next.Parse(target)
		if err != nil || ref.Host != next.Host || ref.Scheme != next.Scheme {
			return nil, invalid("registry continues its list of tags at %.80q", target)
		}
		next = ref
	}
	return tags, nil
}

// getTags reads one page, answering one authentication challenge.
func getTags(ctx context.Context, h docker.RegistryHost, u *url.URL, page any) (link string, err error) {
	var responses []*http.Response
	for range 3 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return "", err
		}
		for k, v := range h.Header {
			req.Header[k] = v
		}
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, req); err != nil {
				return "", err
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return "", err
		}
		if resp.StatusCode == http.StatusUnauthorized && h.Authorizer != nil {
			resp.Body.Close()
			responses = append(responses, resp)
			if err := h.Authorizer.AddResponses(ctx, responses); err != nil {
				return "", err
			}
			continue
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return "", errdefs.ErrNotFound
		}
		if resp.StatusCode != http.StatusOK {
			return "", remoteerrors.NewUnexpectedStatusErr(resp)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxTagBody+1))
		if err != nil {
			return "", err
		}
		if len(body) > maxTagBody {
			return "", invalid("list of tags has more than %d bytes", maxTagBody)
		}
		if err := json.Unmarshal(body, page); err != nil {
			return "", invalid("list of tags: %w", err)
		}
		return resp.Header.Get("Link"), nil
	}
	return "", docker.ErrInvalidAuthorization
}
