// Package plugin finds and calls plugins of the first kind: programs beside the
// engine that serve JSON over HTTP on a socket, or that a file in a well-known
// directory names.
//
// Implements Docker's plugin discovery and handshake (Plugin.Activate).
package plugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	contentType = "application/vnd.docker.plugins.v1.2+json"
	// maxAnswer bounds what a plugin may answer, in bytes.
	maxAnswer = 8 << 20
	// maxSpec bounds a file that names a plugin, in bytes.
	maxSpec = 64 << 10
	// DefaultTimeout bounds a call.
	DefaultTimeout = 30 * time.Second
)

// Dirs are where plugins are looked for.
type Dirs struct {
	Sockets string   // <name>.sock, or <name>/<name>.sock
	Specs   []string // <name>.spec (an address) and <name>.json
}

// DefaultDirs are Docker's.
func DefaultDirs() Dirs {
	return Dirs{Sockets: "/run/docker/plugins", Specs: []string{"/etc/docker/plugins", "/usr/lib/docker/plugins"}}
}

// Plugin is a plugin that has been found. It is safe for concurrent use.
type Plugin struct {
	name    string
	base    string // of the URL
	client  *http.Client
	timeout time.Duration

	mu         sync.Mutex // guards implements
	implements []string   // nil before the handshake
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Find returns the plugin called name. It is not spoken to yet. Calls take at
// most timeout; 0 means DefaultTimeout.
//
// Errors: NotFound when there is none; InvalidArgument for a name that is none.
func Find(dirs Dirs, name string, timeout time.Duration) (*Plugin, error) {
	if !validName.MatchString(name) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid plugin name %q", name))
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	for _, path := range []string{filepath.Join(dirs.Sockets, name+".sock"), filepath.Join(dirs.Sockets, name, name+".sock")} {
		if fi, err := os.Stat(path); err == nil && fi.Mode().Type() == fs.ModeSocket {
			return at(name, "unix://"+path, nil, timeout)
		}
	}
	for _, dir := range dirs.Specs {
		for _, base := range []string{filepath.Join(dir, name), filepath.Join(dir, name, name)} {
			p, err := fromFiles(name, base, timeout)
			if !errors.Is(err, fs.ErrNotExist) {
				return p, err
			}
		}
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", name))
}

// Names lists the plugins that Find finds, sorted.
func Names(dirs Dirs) []string {
	var names []string
	add := func(dir string, extensions ...string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return // no directory, no plugins
		}
		for _, e := range entries {
			name, ext := e.Name(), filepath.Ext(e.Name())
			switch {
			case slices.Contains(extensions, ext):
				name = strings.TrimSuffix(name, ext)
			case !e.IsDir() || !slices.ContainsFunc(extensions, func(ext string) bool {
				_, err := os.Stat(filepath.Join(dir, name, name+ext))
				return err == nil
			}):
				continue
			}
			if validName.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	add(dirs.Sockets, ".sock")
	for _, dir := range dirs.Specs {
		add(dir, ".spec", ".json")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// fromFiles reads base.spec or base.json.
func fromFiles(name, base string, timeout time.Duration) (*Plugin, error) {
	raw, err := readSpec(base + ".spec")
	if err == nil {
		return at(name, strings.TrimSpace(string(raw)), nil, timeout)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if raw, err = readSpec(base + ".json"); err != nil {
		return nil, err
	}
	var spec struct {
		Addr      string
		TLSConfig *struct {
			InsecureSkipVerify        bool
			CAFile, CertFile, KeyFile string
		}
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("read plugin %s: %w", name, err)
	}
	var cfg *tls.Config
	if t := spec.TLSConfig; t != nil {
		cfg = &tls.Config{InsecureSkipVerify: t.InsecureSkipVerify, MinVersion: tls.VersionTLS12}
		if t.CAFile != "" {
			pem, err := os.ReadFile(t.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read plugin %s: %w", name, err)
			}
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("read plugin %s: no certificate in %s", name, t.CAFile)
			}
		}
		if t.CertFile != "" || t.KeyFile != "" {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("read plugin %s: %w", name, err)
			}
			cfg.Certificates = []tls.Certificate{pair}
		}
	}
	return at(name, spec.Addr, cfg, timeout)
}

func readSpec(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSpec))
}

// at makes the plugin at an address: unix://path, tcp://host:port or a URL.
func at(name, addr string, cfg *tls.Config, timeout time.Duration) (*Plugin, error) {
	u, err := url.Parse(addr)
	if err != nil || u.Scheme == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("plugin %s: invalid address %q", name, addr))
	}
	transport := &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	p := &Plugin{name: name, client: &http.Client{Transport: transport}, timeout: timeout}
	switch u.Scheme {
	case "unix":
		path := u.Path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		p.base = "http://plugin"
	case "tcp":
		p.base = "http://" + u.Host
		if cfg != nil {
			p.base = "https://" + u.Host
		}
	case "http", "https":
		p.base = strings.TrimSuffix(addr, "/")
	default:
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("plugin %s: unknown scheme in address %q", name, addr))
	}
	// A redirect would leave what the administrator has named.
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return p, nil
}

// Name is the plugin's name.
func (p *Plugin) Name() string { return p.name }

// Activate shakes hands, once, and sees that the plugin implements what.
//
// Errors: NotFound when it implements something else.
func (p *Plugin) Activate(ctx context.Context, what string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.implements == nil {
		var manifest struct{ Implements []string }
		if err := p.Call(ctx, "Plugin.Activate", nil, &manifest); err != nil {
			return err
		}
		p.implements = append([]string{}, manifest.Implements...)
	}
	if !slices.Contains(p.implements, what) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q does not implement the requested subsystem %s", p.name, what))
	}
	return nil
}

// Call sends in, nil for no body, as the method's JSON argument and decodes the
// answer into out. An answer that is no 200 is an error with the plugin's words.
func (p *Plugin) Call(ctx context.Context, method string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: encode the request: %w", method, err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+"/"+method, body)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	req.Header.Set("Accept", contentType)
	req.Header.Set("Content-Type", contentType)
	resp, err := p.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: plugin %s did not answer: %w", method, p.name, context.Cause(ctx))
		}
		return fmt.Errorf("%s: %w", method, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: read the answer: %w", method, err)
	case len(raw) > maxAnswer:
		return fmt.Errorf("%s: plugin %s answered more than %d bytes", method, p.name, maxAnswer)
	case resp.StatusCode != http.StatusOK:
		var e struct{ Err string }
		if json.Unmarshal(raw, &e) == nil && e.Err != "" {
			return fmt.Errorf("%s: %s", method, e.Err)
		}
		return fmt.Errorf("%s: plugin %s answered with status %s", method, p.name, resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: decode the answer of plugin %s: %w", method, p.name, err)
	}
	return nil
}
