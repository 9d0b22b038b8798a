package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"lighter/internal/registry"
)

// maxLoginBody is how much of an answer is read for the connection's sake, in
// bytes.
const maxLoginBody = 64 << 10

// Login asks the registry o.Host whether it takes o's credentials. It returns
// the identity token that the registry gave in exchange for them, "" when it
// gave none.
//
// Errors: Unauthenticated when the registry refuses them.
func Login(ctx context.Context, o registry.Options) (identityToken string, err error) {
	ctx = registry.Silent(ctx)
	o.Mirrors = nil
	o.Authorizer = []docker.AuthorizerOpt{docker.WithFetchRefreshToken(func(_ context.Context, token string, _ *http.Request) {
		identityToken = token
	})}
	hosts, err := o.Hosts(ctx)(o.Host)
	if err != nil {
		return "", err
	}
	for _, h := range hosts {
		if h.Host != registry.Host(o.Host) {
			continue
		}
		err := login(ctx, h, o.User != "" || o.Secret != "")
		return identityToken, err
	}
	return "", fmt.Errorf("registry %s has no endpoint: %w", o.Host, errdefs.ErrInvalidArgument)
}

// login requests the registry's base, answering its challenges when there are
// credentials to answer with.
func login(ctx context.Context, h docker.RegistryHost, credentials bool) error {
	target := h.Scheme + "://" + h.Host + h.Path + "/"
	var answers []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return err
		}
		req.Header = h.Header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, req); err != nil {
				return refusal(target, err)
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, maxLoginBody)
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusOK:
			return nil
		case resp.StatusCode != http.StatusUnauthorized:
			return fmt.Errorf("login attempt to %s failed with status: %s", target, resp.Status)
		case h.Authorizer == nil || len(answers) > 0 || !credentials:
			return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("login attempt to %s failed with status: %s", target, resp.Status))
		}
		answers = append(answers, resp)
		if err := h.Authorizer.AddResponses(ctx, answers); err != nil {
			return refusal(target, err)
		}
	}
}

// refusal gives what a token server said of the credentials its class and
// Docker's words.
func refusal(target string, err error) error {
	denied := errors.Is(err, docker.ErrInvalidAuthorization)
	if status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		denied = status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden
	}
	if denied {
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("Get %q: unauthorized: incorrect username or password", target))
	}
	return fmt.Errorf("Get %q: %w", target, err)
}
