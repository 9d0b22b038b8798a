package session

import (
	"encoding/csv"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	endpointtypes "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"

	"lighter/internal/version"
)

// DefaultContext names the context that is not stored: flags and environment.
const DefaultContext = "default"

const (
	defaultHost    = "unix:///var/run/docker.sock"
	defaultPort    = "2375"
	defaultTLSPort = "2376"
)

// TLS is what the --tls flags say.
type TLS struct {
	Enabled, Verify bool
	// CA, Cert and Key are file names; "" is the default name, which need not
	// exist.
	CA, Cert, Key string
}

// Client returns the connection to the engine, made at the first call. The API
// version is negotiated with the first request.
func (s *Session) Client() (client.APIClient, error) {
	if s.client != nil {
		return s.client, nil
	}
	if len(s.Hosts) > 0 && s.Context != "" {
		return nil, errors.New("conflicting options: cannot specify both --host and --context")
	}
	ep, err := s.Endpoint()
	if err != nil {
		return nil, &StatusError{Code: 1, Text: "Failed to initialize: unable to resolve docker endpoint: " + err.Error()}
	}
	opts, err := ep.ClientOpts()
	if err != nil {
		return nil, err
	}
	headers, err := s.headers()
	if err != nil {
		return nil, err
	}
	opts = append(opts, client.WithUserAgent("Docker-Client/"+version.Version+" (linux; "+version.Product+")"))
	if len(headers) > 0 {
		opts = append(opts, client.WithHTTPHeaders(headers))
	}
	if s.Level() <= slog.LevelDebug {
		log := s.Log()
		log.Debug("Engine", "context", s.ContextName(), "host", ep.Host)
		opts = append(opts, client.WithHTTPResponseHook(func(r *http.Response) {
			if r != nil && r.Request != nil {
				log.Debug("Request", "method", r.Request.Method, "path", r.Request.URL.Path, "status", r.StatusCode)
			}
		}))
	}
	c, err := client.New(opts...)
	if err != nil {
		return nil, err
	}
	s.client = c
	return c, nil
}

// headers are those that every request carries: of the environment, else of
// config.json.
func (s *Session) headers() (map[string]string, error) {
	const name = "DOCKER_CUSTOM_HEADERS"
	env := os.Getenv(name)
	if env == "" {
		return s.Config().HTTPHeaders, nil
	}
	fields, err := csv.NewReader(strings.NewReader(env)).Read()
	if err != nil {
		return nil, fmt.Errorf("invalid custom headers from %s environment variable: value must be formatted as comma-separated key=value pairs", name)
	}
	headers := map[string]string{}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		key = strings.TrimSpace(key)
		if key == "" {
			return nil, fmt.Errorf("invalid custom headers from %s environment variable: value contains a key=value pair with an empty key: '%s'", name, f)
		}
		if !ok {
			return nil, fmt.Errorf("invalid custom headers from %s environment variable: missing \"=\" in key=value pair: '%s'", name, f)
		}
		headers[http.CanonicalHeaderKey(key)] = value
	}
	return headers, nil
}

// ContextName is the context that this invocation uses: of -c, else the default
// one when a host is named, else of DOCKER_CONTEXT, else of config.json.
func (s *Session) ContextName() string {
	switch env := os.Getenv("DOCKER_CONTEXT"); {
	case s.Context != "":
		return s.Context
	case len(s.Hosts) > 0, os.Getenv("DOCKER_HOST") != "":
		return DefaultContext
	case env != "":
		return env
	case s.Config().CurrentContext != "":
		return s.Config().CurrentContext
	}
	return DefaultContext
}

// Contexts is the store of contexts, which every Docker command line shares.
func (s *Session) Contexts() *store.ContextStore {
	return store.New(filepath.Join(s.Dir(), "contexts"), store.NewConfig(
		func() any { return &map[string]any{} },
		store.EndpointTypeGetter(docker.DockerEndpoint, func() any { return &docker.EndpointMeta{} }),
	))
}

// Endpoint is the engine of the context in use, with its TLS material.
func (s *Session) Endpoint() (docker.Endpoint, error) {
	name := s.ContextName()
	if name == DefaultContext {
		return s.DefaultEndpoint()
	}
	st := s.Contexts()
	meta, err := st.GetMetadata(name)
	if err != nil {
		return docker.Endpoint{}, err
	}
	ep, err := docker.EndpointFromContext(meta)
	if err != nil {
		return docker.Endpoint{}, err
	}
	return docker.WithTLSData(st, name, ep)
}

// DefaultEndpoint is the engine that flags and environment name, whatever the
// context.
func (s *Session) DefaultEndpoint() (docker.Endpoint, error) {
	if len(s.Hosts) > 1 {
		return docker.Endpoint{}, errors.New("specify only one -H")
	}
	host := os.Getenv("DOCKER_HOST")
	if len(s.Hosts) == 1 {
		host = s.Hosts[0]
	}
	useTLS := s.TLS.Enabled || s.TLS.Verify
	host, err := ParseHost(host, useTLS)
	if err != nil {
		return docker.Endpoint{}, err
	}
	ep := docker.Endpoint{EndpointMeta: docker.EndpointMeta{Host: host}}
	if !useTLS {
		return ep, nil
	}
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		dir = s.Dir()
	}
	ca, cert, key := s.TLS.CA, s.TLS.Cert, s.TLS.Key
	switch fallback := filepath.Join(dir, "ca.pem"); {
	case !s.TLS.Verify: // encrypted, but with whomever
		ca, ep.SkipTLSVerify = existing(ca, fallback), true
	case ca == "":
		ca = fallback
	}
	if ep.TLSData, err = endpointtypes.TLSDataFromFiles(ca, existing(cert, filepath.Join(dir, "cert.pem")), existing(key, filepath.Join(dir, "key.pem"))); err != nil {
		return docker.Endpoint{}, err
	}
	return ep, nil
}

// existing is given, or fallback when that is a file.
func existing(given, fallback string) string {
	if given != "" {
		return given
	}
	if _, err := os.Stat(fallback); err != nil {
		return ""
	}
	return fallback
}

// ParseHost completes what a user gave as the engine's address: the default
// socket for nothing, tcp for what has no scheme.
func ParseHost(text string, useTLS bool) (string, error) {
	text = strings.TrimSpace(text)
	port := defaultPort
	if useTLS {
		port = defaultTLSPort
	}
	if text == "" {
		if useTLS {
			return "tcp://localhost:" + port, nil
		}
		return defaultHost, nil
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "tcp", text
	}
	switch scheme {
	case "unix":
		if rest == "" {
			return defaultHost, nil
		}
		return "unix://" + rest, nil
	case "ssh", "fd", "npipe":
		return text, nil
	case "tcp":
		if rest == "" {
			rest = "localhost:" + port
		}
		u, err := url.Parse("tcp://" + rest)
		if err != nil || u.User != nil || u.RawQuery != "" {
			return "", fmt.Errorf("invalid bind address format: %s", text)
		}
		host, p := u.Hostname(), u.Port()
		if host == "" {
			host = "localhost"
		}
		if p == "" {
			p = port
		}
		return "tcp://" + net.JoinHostPort(host, p) + u.Path, nil
	}
	return "", fmt.Errorf("invalid bind address format: %s", text)
}
