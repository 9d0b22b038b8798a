package builder

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/util/entitlements"

	"lighter/internal/buildlink"
)

// invalid is an error that the client can mend.
func invalid(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

// classed is an error with an exact text and a class.
type classed struct {
	text  string
	class error
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

// buildRequest is a POST /build.
type buildRequest struct {
	id         string // the client's name of the build, for cancel
	session    string
	remote     string
	dockerfile string
	tags       []string
	quiet      bool
	solve      *controlapi.SolveRequest
}

// parseRequest reads the parameters that both versions of the endpoint have.
// classic says that the result always is an image in the engine's store.
func parseRequest(q url.Values, cfg buildlink.Config, classic bool) (*buildRequest, error) {
	r := &buildRequest{
		id: q.Get("buildid"), session: q.Get("session"), remote: q.Get("remote"), dockerfile: q.Get("dockerfile"), quiet: flag(q, "q"),
		solve: &controlapi.SolveRequest{Ref: identity.NewID(), Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}, Cache: &controlapi.CacheOptions{}},
	}
	if flag(q, "squash") {
		return nil, invalid("squash is not supported: use a multi-stage build to keep layers out of the image")
	}
	if iso := q.Get("isolation"); iso != "" && iso != "default" {
		return nil, invalid("invalid isolation %q: Linux has only \"default\"", iso)
	}
	if len(q["securityopt"]) > 0 {
		return nil, invalid("the daemon on Linux does not support --security-opt for builds")
	}
	attrs := r.solve.FrontendAttrs
	if r.dockerfile != "" {
		attrs["filename"] = r.dockerfile
	}
	if v := q.Get("target"); v != "" {
		attrs["target"] = v
	}
	if flag(q, "nocache") {
		attrs["no-cache"] = ""
	}
	if v := q.Get("pull"); v != "" && v != "0" && v != "false" {
		attrs[keyResolveMode] = "pull"
	}
	if v := q.Get("platform"); v != "" {
		for p := range strings.SplitSeq(v, ",") {
			if _, err := platforms.Parse(p); err != nil {
				return nil, invalid("%v", err)
			}
		}
		attrs["platform"] = v
	}
	if err := parseMaps(q, attrs); err != nil {
		return nil, err
	}
	if err := parseLimits(q, attrs); err != nil {
		return nil, err
	}
	if err := r.parseNetwork(q, cfg); err != nil {
		return nil, err
	}
	if err := r.parseTags(q["t"]); err != nil {
		return nil, err
	}
	return r, r.parseOutputs(q, classic)
}

// flag reads a boolean as Docker's API has it.
func flag(q url.Values, key string) bool {
	switch strings.ToLower(strings.TrimSpace(q.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// parseMaps reads the parameters that are JSON.
func parseMaps(q url.Values, attrs map[string]string) error {
	if v := q.Get("buildargs"); v != "" {
		var args map[string]*string
		if err := json.Unmarshal([]byte(v), &args); err != nil {
			return invalid("error reading build args: %v", err)
		}
		for k, arg := range args {
			if arg != nil {
				attrs["build-arg:"+k] = *arg
			}
		}
	}
	if v := q.Get("labels"); v != "" {
		var labels map[string]string
		if err := json.Unmarshal([]byte(v), &labels); err != nil {
			return invalid("error reading labels: %v", err)
		}
		for k, l := range labels {
			attrs["label:"+k] = l
		}
	}
	if v := q.Get("ulimits"); v != "" {
		var limits []*units.Ulimit
		if err := json.Unmarshal([]byte(v), &limits); err != nil {
			return invalid("error reading ulimit settings: %v", err)
		}
		var fields []string
		for _, u := range limits {
			fields = append(fields, u.String())
		}
		attrs["ulimit"] = strings.Join(fields, ",")
	}
	return nil
}

// parseLimits reads the resources of steps.
func parseLimits(q url.Values, attrs map[string]string) error {
	for _, key := range []string{"memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "shmsize"} {
		v := q.Get(key)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return invalid("%s: %v", key, err)
		}
		if n == 0 {
			continue // not set, as clients send it
		}
		if key == "shmsize" {
			key = "shm-size"
		}
		attrs[key] = strconv.FormatInt(n, 10)
	}
	for _, key := range []string{"cpusetcpus", "cpusetmems"} {
		if v := q.Get(key); v != "" {
			attrs[key] = v
		}
	}
	if v := q.Get("cgroupparent"); v != "" {
		attrs["cgroup-parent"] = v
	}
	return nil
}

// parseNetwork reads network mode and extra hosts.
func (r *buildRequest) parseNetwork(q url.Values, cfg buildlink.Config) error {
	switch mode := q.Get("networkmode"); mode {
	case "", "default", "bridge":
	case "none":
		r.solve.FrontendAttrs["force-network-mode"] = mode
	case "host":
		r.solve.FrontendAttrs["force-network-mode"] = mode
		r.solve.Entitlements = append(r.solve.Entitlements, entitlements.EntitlementNetworkHost.String())
	default:
		return invalid("network mode %q not supported by buildkit: default, none and host are", mode)
	}
	var hosts []string
	for _, h := range q["extrahosts"] {
		name, addr, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return invalid("invalid host %q: NAME:ADDRESS is wanted", h)
		}
		if addr == "host-gateway" {
			for _, gw := range cfg.HostGateway {
				hosts = append(hosts, name+"="+gw)
			}
			continue
		}
		ip, err := netip.ParseAddr(strings.Trim(addr, "[]"))
		if err != nil {
			return invalid("invalid IP address in add-host: %q", addr)
		}
		hosts = append(hosts, name+"="+ip.String())
	}
	if len(hosts) > 0 {
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		if err := w.Write(hosts); err != nil {
			return err
		}
		w.Flush()
		r.solve.FrontendAttrs["add-hosts"] = strings.TrimSpace(b.String())
	}
	return nil
}

// parseTags reads the names of the result, each once.
func (r *buildRequest) parseTags(tags []string) error {
	seen := map[string]bool{}
	for _, t := range tags {
		if t == "" {
			continue
		}
		ref, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return invalid("invalid tag %q: %v", t, err)
		}
		if _, ok := ref.(reference.Canonical); ok {
			return invalid("build tag cannot contain a digest")
		}
		if name := reference.TagNameOnly(ref).String(); !seen[name] {
			seen[name] = true
			r.tags = append(r.tags, name)
		}
	}
	return nil
}

// parseOutputs reads where the result and the cache go, and where the cache
// comes from.
func (r *buildRequest) parseOutputs(q url.Values, classic bool) error {
	if v := q.Get("cachefrom"); v != "" {
		var refs []string
		if err := json.Unmarshal([]byte(v), &refs); err != nil {
			return invalid("error reading cache-from: %v", err)
		}
		for _, ref := range refs {
			r.solve.Cache.Imports = append(r.solve.Cache.Imports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
	}
	type output struct {
		Type  string
		Attrs map[string]string
	}
	var outputs []output
	if v := q.Get("outputs"); v != "" && !classic {
		if err := json.Unmarshal([]byte(v), &outputs); err != nil {
			return invalid("error reading outputs: %v", err)
		}
		if len(outputs) > 1 {
			return invalid("multiple outputs not supported")
		}
	}
	if len(outputs) == 0 {
		outputs = []output{{Type: exporterMoby}}
	}
	for _, o := range outputs {
		if o.Attrs == nil {
			o.Attrs = map[string]string{}
		}
		switch o.Type {
		case "cacheonly":
			continue
		case exporterMoby, client.ExporterImage:
			if len(r.tags) > 0 {
				o.Attrs["name"] = strings.Join(r.tags, ",")
			}
		}
		r.solve.Exporters = append(r.solve.Exporters, &controlapi.Exporter{Type: o.Type, Attrs: o.Attrs})
	}
	if inline, ok := r.solve.FrontendAttrs["build-arg:BUILDKIT_INLINE_CACHE"]; ok {
		if on, err := strconv.ParseBool(inline); err == nil && on {
			r.solve.Cache.Exports = append(r.solve.Cache.Exports, &controlapi.CacheOptionsEntry{Type: "inline"})
		}
	}
	return nil
}
