package build

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/moby/buildkit/client"
	bkbuild "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	engine "github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"lighter/cli/session"
	"lighter/internal/atomicfile"
)

// run is docker build.
func run(ctx context.Context, s *session.Session, o *options) (err error) {
	if err := o.refuse(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	api, err := s.Client()
	if err != nil {
		return err
	}
	if _, err := api.Ping(ctx, engine.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return err
	}
	c, err := client.New(ctx, "",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return api.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return api.DialHijack(ctx, "/session", proto, meta)
		}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()

	so := client.SolveOpt{Frontend: "dockerfile.v0", AllowedEntitlements: o.allow}
	if so.FrontendAttrs, err = o.attrs(ctx, c, s.WithProxies(api, nil)); err != nil {
		return err
	}
	if o.network == "host" {
		so.AllowedEntitlements = append(so.AllowedEntitlements, "network.host")
	}
	if err := o.attach(s, &so); err != nil {
		return err
	}
	remove, err := o.sources(s.In, &so)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if o.call != "build" {
		return o.ask(ctx, s, c, so)
	}
	names, err := o.names()
	if err != nil {
		return err
	}
	var stored bool
	if so.Exports, stored, err = o.exports(names); err != nil {
		return err
	}
	resp, err := solve(ctx, s, o, func(ctx context.Context, status chan *client.SolveStatus) (*client.SolveResponse, error) {
		return c.Solve(ctx, nil, so, status)
	})
	if err != nil {
		return explain(s, err)
	}
	return o.report(s, resp.ExporterResponse, stored)
}

// refuse says what of the builder of old there is no more, and sets what flags
// abbreviate.
func (o *options) refuse() error {
	switch {
	case o.squash:
		return errors.New("squash is not supported: use a multi-stage build to keep layers out of the image")
	case len(o.securityOpts) > 0:
		return errors.New("the daemon on Linux does not support --security-opt for builds: see RUN --security and --allow")
	case o.isolation != "" && o.isolation != "default":
		return fmt.Errorf("invalid isolation %q: Linux has only \"default\"", o.isolation)
	}
	if o.check {
		if o.call != "build" && o.call != "check" {
			return errors.New("--check and --call can't be used together")
		}
		o.call = "check"
	}
	switch o.call {
	case "", "build":
		o.call = "build"
	case "check", "lint", "outline", "targets", "subrequests.describe":
	default:
		return fmt.Errorf("invalid call %q: build, check, outline and targets are known", o.call)
	}
	if o.progress == "" {
		o.progress = os.Getenv("BUILDKIT_PROGRESS")
	}
	if o.progress == "none" || o.quiet {
		o.progress = string(progressui.QuietMode)
	}
	return nil
}

// attach gives the session what the build may ask for.
func (o *options) attach(s *session.Session, so *client.SolveOpt) error {
	so.Session = append(so.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(s.Config()),
	}))
	if len(o.secrets) > 0 {
		secrets, err := bkbuild.ParseSecret(o.secrets)
		if err != nil {
			return fmt.Errorf("could not parse secrets: %w", err)
		}
		so.Session = append(so.Session, secrets)
	}
	if len(o.ssh) > 0 {
		agents, err := bkbuild.ParseSSH(o.ssh)
		if err != nil {
			return fmt.Errorf("could not parse ssh: %w", err)
		}
		provider, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return fmt.Errorf("could not parse ssh: %w", err)
		}
		so.Session = append(so.Session, provider)
	}
	var err error
	if so.CacheImports, err = cacheEntries(o.cacheFrom, bkbuild.ParseImportCache); err != nil {
		return err
	}
	so.CacheExports, err = cacheEntries(o.cacheTo, bkbuild.ParseExportCache)
	return err
}

// solve runs f and shows the progress that it reports.
func solve(ctx context.Context, s *session.Session, o *options, f func(context.Context, chan *client.SolveStatus) (*client.SolveResponse, error)) (*client.SolveResponse, error) {
	display, err := progressui.NewDisplay(s.Err, progressui.DisplayMode(o.progress))
	if err != nil {
		return nil, err
	}
	status := make(chan *client.SolveStatus)
	var resp *client.SolveResponse
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		resp, err = f(groupCtx, status)
		return err
	})
	group.Go(func() error {
		// Not with ctx: the last words of a cancelled build are shown too.
		_, err := display.UpdateFrom(context.WithoutCancel(ctx), status)
		return err
	})
	return resp, group.Wait()
}

// explain shows where in the Dockerfile the build failed.
func explain(s *session.Session, err error) error {
	for _, source := range solvererrors.Sources(err) {
		if perr := source.Print(s.Err); perr != nil {
			s.Log().Debug("print source", "err", perr)
		}
	}
	if errors.Is(err, context.Canceled) {
		return &session.StatusError{Code: 130, Text: "ERROR: failed to build: failed to solve: Canceled: context canceled"}
	}
	return &session.StatusError{Code: 1, Text: "ERROR: failed to build: " + err.Error()}
}

// report writes what the build made to the files and the stream asked for.
func (o *options) report(s *session.Session, result map[string]string, stored bool) error {
	id := result[exptypes.ExporterImageDigestKey]
	if o.iidFile != "" {
		if id == "" {
			return errors.New("cannot write --iidfile: the build's output has no image ID")
		}
		if err := atomicfile.Write(o.iidFile, []byte(id), 0o644); err != nil {
			return err
		}
	}
	if o.metadataFile != "" {
		raw, err := json.MarshalIndent(metadata(result), "", "  ")
		if err != nil {
			return err
		}
		if err := atomicfile.Write(o.metadataFile, raw, 0o644); err != nil {
			return err
		}
	}
	if o.quiet && stored {
		fmt.Fprintln(s.Out, id)
	}
	return nil
}

// metadata is the exporter's response with the JSON in it decoded.
func metadata(result map[string]string) map[string]any {
	m := map[string]any{}
	for k, v := range result {
		m[k] = v
		raw, err := base64.StdEncoding.DecodeString(v)
		if err != nil || !json.Valid(raw) || !strings.HasPrefix(strings.TrimSpace(string(raw)), "{") {
			continue
		}
		m[k] = json.RawMessage(raw)
	}
	return m
}

// ask has the frontend tell about the Dockerfile in place of building it.
func (o *options) ask(ctx context.Context, s *session.Session, c *client.Client, so client.SolveOpt) error {
	request := o.call
	switch request {
	case "check", "lint":
		request = lint.RequestLint
	case "outline", "targets":
		request = "frontend." + request
	case "subrequests.describe":
		request = "frontend.subrequests.describe"
	}
	attrs := so.FrontendAttrs
	attrs["requestid"] = request
	attrs["frontend.caps"] = "moby.buildkit.frontend.subrequests"
	frontend := so.Frontend
	so.Frontend, so.FrontendAttrs, so.Internal = "", nil, true
	var answer map[string][]byte
	_, err := solve(ctx, s, o, func(ctx context.Context, status chan *client.SolveStatus) (*client.SolveResponse, error) {
		return c.Build(ctx, so, "docker", func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
			res, err := gw.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: attrs})
			if err == nil {
				answer = res.Metadata
			}
			return res, err
		}, status)
	})
	if err != nil {
		return explain(s, err)
	}
	if request == lint.RequestLint {
		return printLint(s.Out, answer["result.json"])
	}
	_, err = s.Out.Write(answer["result.txt"])
	return err
}

// printLint shows the warnings of a check; there being some is an error.
func printLint(out io.Writer, raw []byte) error {
	var results lint.LintResults
	if err := json.Unmarshal(raw, &results); err != nil {
		return fmt.Errorf("read the check's result: %w", err)
	}
	if len(results.Warnings) == 0 && results.Error == nil {
		_, err := fmt.Fprintln(out, "Check complete, no warnings found.")
		return err
	}
	n := len(results.Warnings)
	noun := "warnings have"
	if n == 1 {
		noun = "warning has"
	}
	fmt.Fprintf(out, "Check complete, %d %s been found!\n", n, noun)
	if err := lint.PrintLintViolations(raw, out, nil); err != nil {
		return err
	}
	return &session.StatusError{Code: 1}
}
