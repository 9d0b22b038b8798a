// Package authz asks authorization plugins whether a request may be served and
// whether its response may be sent. All plugins must allow; a plugin that cannot
// be asked, or whose answer cannot be understood, denies.
//
// Implements the authorization plugin protocol: AuthZPlugin.AuthZReq and
// AuthZPlugin.AuthZRes.
package authz

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"lighter/engine/plugin"
)

// Request is what a plugin is told. The response fields are for AuthZRes.
type Request struct {
	User                    string            `json:"User,omitempty"`
	UserAuthNMethod         string            `json:"UserAuthNMethod,omitempty"`
	RequestMethod           string            `json:"RequestMethod,omitempty"`
	RequestURI              string            `json:"RequestURI,omitempty"`
	RequestBody             []byte            `json:"RequestBody,omitempty"`
	RequestHeaders          map[string]string `json:"RequestHeaders,omitempty"`
	RequestPeerCertificates [][]byte          `json:"RequestPeerCertificates,omitempty"` // PEM
	ResponseBody            []byte            `json:"ResponseBody,omitempty"`
	ResponseHeaders         map[string]string `json:"ResponseHeaders,omitempty"`
	ResponseStatusCode      int               `json:"ResponseStatusCode,omitempty"`
}

// answer is what a plugin says.
type answer struct {
	Allow bool   `json:"Allow"`
	Msg   string `json:"Msg,omitempty"`
	Err   string `json:"Err,omitempty"`
}

// Chain is the plugins in the order in which they are asked. The zero value has
// none and allows all. It is safe for concurrent use.
type Chain struct {
	dirs    plugin.Dirs
	timeout time.Duration
	plugins atomic.Pointer[[]*plugin.Plugin]
}

// NewChain returns a Chain without plugins that finds them in dirs. A call takes
// at most timeout; 0 means plugin.DefaultTimeout.
func NewChain(dirs plugin.Dirs, timeout time.Duration) *Chain {
	return &Chain{dirs: dirs, timeout: timeout}
}

// Set replaces the plugins. When one cannot be found and activated nothing
// changes.
func (c *Chain) Set(ctx context.Context, names []string) error {
	list := make([]*plugin.Plugin, 0, len(names))
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		p, err := plugin.Find(c.dirs, name, c.timeout)
		if err == nil {
			err = p.Activate(ctx, "authz")
		}
		if err != nil {
			return fmt.Errorf("validate authorization plugin %s: %w", name, err)
		}
		list = append(list, p)
	}
	c.plugins.Store(&list)
	return nil
}

// Snapshot returns the plugins as they are now, so that one request meets the
// same plugins before and after; nil when there are none.
func (c *Chain) Snapshot() *Plugins {
	if c == nil {
		return nil
	}
	if list := c.plugins.Load(); list != nil && len(*list) > 0 {
		return &Plugins{*list}
	}
	return nil
}

// Plugins decide on one request.
type Plugins struct{ list []*plugin.Plugin }

// Before asks whether the request may be served.
//
// Errors: PermissionDenied when a plugin says no; Internal when one can't be
// asked.
func (p *Plugins) Before(ctx context.Context, r *Request) error {
	for _, one := range p.list {
		if err := ask(ctx, one, "AuthZPlugin.AuthZReq", r); err != nil {
			return err
		}
	}
	return nil
}

// After asks, the last plugin first, whether the response may be sent.
func (p *Plugins) After(ctx context.Context, r *Request) error {
	for i := len(p.list) - 1; i >= 0; i-- {
		if err := ask(ctx, p.list[i], "AuthZPlugin.AuthZRes", r); err != nil {
			return err
		}
	}
	return nil
}

func ask(ctx context.Context, p *plugin.Plugin, method string, r *Request) error {
	var a answer
	if err := p.Call(ctx, method, r, &a); err != nil {
		return fmt.Errorf("plugin %s failed with error: %w", p.Name(), err)
	}
	if a.Err != "" {
		return fmt.Errorf("plugin %s failed with error: %s", p.Name(), a.Err)
	}
	if !a.Allow {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("authorization denied by plugin %s: %s", p.Name(), a.Msg))
	}
	return nil
}
