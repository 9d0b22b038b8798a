// Package registry reaches registries: it makes their clients, with what the user
// says of mirrors, certificates and credentials, and keeps what they carry from
// being led elsewhere.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/publicsuffix"
)

// Options say how registries are reached.
type Options struct {
	// CertsDir is searched for <host>/hosts.toml and <host>/*.crt, as Docker and
	// containerd have them; "" for none.
	CertsDir string
	// Insecure are hosts ("reg:5000") and CIDRs that may show unverified
	// certificates or speak plain HTTP. Loopback addresses always may.
	Insecure []string
	// Mirrors are base URLs asked before Docker Hub, for pulls.
	Mirrors   []string
	UserAgent string
	// Host is the registry that Credentials and Token are for, "docker.io" for
	// Docker Hub. They go nowhere else.
	Host string
	// Credentials are a user name and password, or "" and an identity token.
	User, Secret string
	// Token is sent as it is, as a bearer token.
	Token string
	// Header is sent to Host.
	Header http.Header

	// Authorizer are more options of what answers challenges.
	Authorizer []docker.AuthorizerOpt
}

// maxRedirects bounds how often a registry may send a request elsewhere.
const maxRedirects = 5

// NewResolver returns a resolver and transfer client for registries. Plain HTTP
// is spoken only to those that o says may: a failed TLS handshake with another
// is an error (CVE-2014-5277), as are a redirect and a token server that would
// downgrade to it (CVE-2019-10214, CVE-2026-33540).
func NewResolver(ctx context.Context, o Options) remotes.Resolver {
	header := http.Header{}
	if o.UserAgent != "" {
		header.Set("User-Agent", o.UserAgent)
	}
	return docker.NewResolver(docker.ResolverOptions{
		Hosts:   o.Hosts(Silent(ctx)),
		Headers: header,
		Tracker: docker.NewInMemoryTracker(),
	})
}

// Silent returns ctx with the logger that containerd's client uses turned off:
// what it has to say comes back as errors.
func Silent(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// Hosts returns the endpoints of registries, as containerd's client wants them.
func (o Options) Hosts(ctx context.Context) docker.RegistryHosts {
	return func(host string) ([]docker.RegistryHost, error) {
		insecure := o.insecure(host)
		opts := config.HostOptions{
			AuthorizerOpts: o.Authorizer,
			UpdateClient: func(c *http.Client) error {
				guard(c, Host(host), insecure)
				return nil
			},
		}
		if o.CertsDir != "" {
			opts.HostDir = config.HostDirFromRoot(o.CertsDir)
		}
		if host == o.Host && (o.User != "" || o.Secret != "") {
			own := Host(host)
			opts.Credentials = func(asked string) (string, string, error) {
				if asked != own {
					return "", "", nil
				}
				return o.User, o.Secret, nil
			}
		}
		if insecure {
			opts.DefaultTLS = &tls.Config{InsecureSkipVerify: true}
			opts.DefaultScheme = "https"
		}
		hosts, err := config.ConfigureHosts(ctx, opts)(host)
		if err != nil {
			return nil, err
		}
		for i := range hosts {
			if insecure && hosts[i].Host == host && hosts[i].Scheme == "https" {
				hosts[i].Client.Transport = docker.NewHTTPFallback(hosts[i].Client.Transport)
			}
		}
		for i, h := range hosts {
			if g, ok := h.Client.Transport.(guardTransport); ok && h.Scheme == "http" && h.Host != Host(host) {
				g.insecure = true // a mirror that hosts.toml wants in the clear
				hosts[i].Client = &http.Client{Transport: g, CheckRedirect: h.Client.CheckRedirect}
			}
		}
		if host == o.Host {
			for i := range hosts {
				if hosts[i].Host != Host(host) {
					continue
				}
				hosts[i].Header = hosts[i].Header.Clone()
				if hosts[i].Header == nil {
					hosts[i].Header = http.Header{}
				}
				for k, v := range o.Header {
					hosts[i].Header[http.CanonicalHeaderKey(k)] = v
				}
				if o.Token != "" {
					hosts[i].Header.Set("Authorization", "Bearer "+o.Token)
					hosts[i].Authorizer = nil
				}
			}
		}
		if host == "docker.io" {
			mirrors, err := o.mirrors(ctx)
			if err != nil {
				return nil, err
			}
			hosts = append(mirrors, hosts...)
		}
		return hosts, nil
	}
}

// Host returns the host name of the registry's endpoint.
func Host(host string) string {
	if host == "docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

func (o Options) mirrors(ctx context.Context) ([]docker.RegistryHost, error) {
	var all []docker.RegistryHost
	for _, m := range o.Mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("registry mirror %q: not an http or https URL: %w", m, errdefs.ErrInvalidArgument)
		}
		insecure := u.Scheme == "http" || o.insecure(u.Host)
		client := &http.Client{Transport: docker.DefaultHTTPTransport(&tls.Config{InsecureSkipVerify: insecure})}
		guard(client, u.Host, insecure)
		all = append(all, docker.RegistryHost{
			Client:       client,
			Authorizer:   docker.NewDockerAuthorizer(docker.WithAuthClient(client)),
			Host:         u.Host,
			Scheme:       u.Scheme,
			Path:         strings.TrimSuffix(u.Path, "/") + "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		})
	}
	return all, nil
}

// insecure reports whether the registry host ("name[:port]") is listed.
func (o Options) insecure(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	if docker.IsLocalhost(host) {
		return true
	}
	addr, addrErr := netip.ParseAddr(name)
	for _, entry := range o.Insecure {
		if entry == host || entry == name {
			return true
		}
		if p, err := netip.ParsePrefix(entry); err == nil && addrErr == nil && p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// guard keeps the requests of c, to a registry, its token server and where they
// redirect to, from being downgraded or led to the host's own services.
// host is the registry's.
func guard(c *http.Client, host string, insecure bool) {
	c.Transport = guardTransport{base: c.Transport, site: site(host), insecure: insecure}
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("registry redirects more than %d times: %w", maxRedirects, errdefs.ErrInvalidArgument)
		}
		return nil
	}
}

type guardTransport struct {
	base     http.RoundTripper
	site     string // of the registry
	insecure bool
}

var errDowngrade = errors.New("refused to send a request for a secure registry over plain HTTP")

// carriesSecret reports whether the request has the user's own credentials, be it
// in the header or in the form that a token server takes. A bearer token is for the
// registry that it was issued for.
func carriesSecret(r *http.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Basic") ||
		r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
}

// site is what a host ("name[:port]") and its token server have in common: the
// domain that somebody has registered, or all of an address or local name
// (CVE-2026-33990).
func site(host string) string {
	name := strings.ToLower((&url.URL{Host: host}).Hostname())
	if _, err := netip.ParseAddr(name); err == nil {
		return name
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return domain
	}
	return name
}

// RoundTrip implements http.RoundTripper.
func (g guardTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !g.insecure {
		if r.URL.Scheme != "https" {
			return nil, fmt.Errorf("%w: %s", errDowngrade, r.URL.Host)
		}
		if addr, err := netip.ParseAddr(r.URL.Hostname()); err == nil && (addr.IsLinkLocalUnicast() || addr.IsUnspecified()) {
			return nil, fmt.Errorf("refused to follow a registry to %s: %w", r.URL.Host, errdefs.ErrPermissionDenied)
		}
	}
	if carriesSecret(r) && site(r.URL.Host) != g.site {
		return nil, fmt.Errorf("refused to send the credentials for %s to %s: %w", g.site, r.URL.Host, errdefs.ErrPermissionDenied)
	}
	return g.base.RoundTrip(r)
}
