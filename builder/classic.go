package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/moby/api/types/registry"

	configtypes "github.com/docker/cli/cli/config/types"

	"lighter/internal/compression"
)

// Bounds of what a client of the classic endpoint sends.
const (
	maxContextBytes    = 64 << 30
	maxDockerfileBytes = 4 << 20
)

const defaultDockerfile = "Dockerfile"

// classic answers version 1 of POST /build: the context comes as a tar in the
// body, or from a URL; the answer is text as the builder of old wrote it. The
// build itself is BuildKit's, with a session of its own for the context and for
// the client's registry credentials.
func (b *Builder) classic(w http.ResponseWriter, r *http.Request) error {
	req, err := parseRequest(r.URL.Query(), b.cfg, true)
	if err != nil {
		return err
	}
	auths, err := registryAuths(r.Header.Get("X-Registry-Config"))
	if err != nil {
		return err
	}
	var steps []string
	uploads := uploadprovider.New()
	if req.remote == "" {
		spool, err := b.spool(r.Body)
		if err != nil {
			return err
		}
		defer os.Remove(spool.Name())
		if steps, err = dockerfileOf(spool, req); err != nil {
			spool.Close()
			return err
		}
		req.solve.FrontendAttrs["context"] = uploads.Add(spool) // closed by the upload
	} else if req.solve.FrontendAttrs["context"], err = remoteContext(req.remote); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return err
	}
	s.Allow(uploads)
	s.Allow(authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: func(_ context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (configtypes.AuthConfig, error) {
			return auths[host], nil
		},
	}))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, b.dialSession) }()
	defer func() {
		s.Close()
		<-done
	}()
	req.solve.Session = s.ID()

	out := newMessages(w)
	progress := newSteps(out, steps, req.quiet)
	resp, err := b.solve(ctx, req, progress.update)
	progress.finish(err == nil)
	if err != nil {
		return out.fail(err)
	}
	id := resp[exptypes.ExporterImageDigestKey]
	if err := out.write(map[string]any{"aux": map[string]string{"ID": id}}); err != nil {
		return err
	}
	if req.quiet {
		out.text("%s\n", id)
		return nil
	}
	out.text("Successfully built %s\n", shortID(id))
	for _, t := range req.tags {
		ref, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return err
		}
		out.text("Successfully tagged %s\n", reference.FamiliarString(ref))
	}
	return nil
}

// shortID is the part of an ID that people read.
func shortID(id string) string {
	_, hex, _ := strings.Cut(id, ":")
	return hex[:min(12, len(hex))]
}

// dialSession connects a session of this process to the session manager.
func (b *Builder) dialSession(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		if err := b.sessions.HandleConn(ctx, theirs, meta); err != nil {
			b.log.Debug("serve session", "err", err)
		}
		theirs.Close()
	}()
	return ours, nil
}

// spool keeps a context on disk: it is read twice. The caller removes the file.
func (b *Builder) spool(body io.Reader) (_ *os.File, err error) {
	dir := filepath.Join(b.cfg.Root, "contexts")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := copyBounded(f, body, maxContextBytes); err != nil {
		return nil, fmt.Errorf("receive build context: %w", err)
	}
	return f, nil
}

// dockerfileOf finds the Dockerfile in a context and returns its instructions;
// a context that is not an archive is a Dockerfile itself. f is at its start
// afterwards.
func dockerfileOf(f *os.File, req *buildRequest) ([]string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	name := req.dockerfile
	if name == "" {
		name = defaultDockerfile
	}
	plain, _, err := compression.NewReader(f)
	if err != nil {
		return nil, invalid("read build context: %v", err)
	}
	defer plain.Close()
	var text []byte
	for tr := tar.NewReader(plain); text == nil; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, invalid("Cannot locate specified Dockerfile: %s", name)
		}
		if err != nil {
			return nil, invalid("read build context: %v", err)
		}
		if path.Clean("/"+h.Name) != path.Clean("/"+filepath.ToSlash(name)) {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			break // a link: the frontend follows it, inside the context
		}
		if text, err = io.ReadAll(io.LimitReader(tr, maxDockerfileBytes)); err != nil {
			return nil, invalid("read Dockerfile: %v", err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			return nil, invalid("the Dockerfile (%s) cannot be empty", name)
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil || text == nil {
		return nil, err
	}
	return parseSteps(text)
}

// parseSteps returns the instructions of a Dockerfile as they stand there. One
// that another frontend reads ("# syntax=") is not judged here.
func parseSteps(text []byte) ([]string, error) {
	if _, _, _, ok := parser.DetectSyntax(text); ok {
		return nil, nil
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, invalid("%v", err)
	}
	if _, _, err := instructions.Parse(tree.AST, nil); err != nil {
		return nil, invalid("%v", err)
	}
	var steps []string
	for _, n := range tree.AST.Children {
		steps = append(steps, n.Original)
	}
	return steps, nil
}

// remoteContext checks the URL of a context: git repositories and what HTTP has.
func remoteContext(remote string) (string, error) {
	if strings.HasPrefix(remote, "-") {
		return "", invalid("invalid context %q", remote)
	}
	u, err := url.Parse(remote)
	if err == nil {
		switch u.Scheme {
		case "http", "https", "git", "ssh":
			return remote, nil
		}
	}
	if strings.HasPrefix(remote, "github.com/") || strings.HasPrefix(remote, "git@") {
		return remote, nil
	}
	return "", invalid("invalid context %q: a URL or a git repository is wanted", remote)
}

// registryAuths decodes the credentials of registries that clients send along.
func registryAuths(header string) (map[string]configtypes.AuthConfig, error) {
	auths := map[string]configtypes.AuthConfig{}
	if header == "" {
		return auths, nil
	}
	raw, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		return nil, invalid("invalid X-Registry-Config: %v", err)
	}
	var given map[string]registry.AuthConfig
	if err := json.Unmarshal(raw, &given); err != nil {
		return nil, invalid("invalid X-Registry-Config: it is not JSON")
	}
	for host, a := range given {
		c := configtypes.AuthConfig{
			Username: a.Username, Password: a.Password, Auth: a.Auth, ServerAddress: a.ServerAddress,
			IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
		}
		auths[host] = c
		if host == "https://index.docker.io/v1/" {
			auths["registry-1.docker.io"] = c
		}
	}
	return auths, nil
}

// explain is err as people read it, with the exit code of a step that failed.
func explain(err error) (string, int) {
	if exit, ok := errors.AsType[*gatewayapi.ExitError](err); ok && exit.ExitCode != gatewayapi.UnknownExitStatus {
		if op, ok := errors.AsType[*solvererrors.OpError](err); ok && op.Op != nil {
			if run, ok := op.Op.Op.(*pb.Op_Exec); ok {
				return fmt.Sprintf("The command '%s' returned a non-zero code: %d", strings.Join(run.Exec.Meta.Args, " "), exit.ExitCode), int(exit.ExitCode)
			}
		}
	}
	if errdefs.IsCanceled(err) {
		return "context canceled", 0
	}
	return err.Error(), 0
}
