package build

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
)

// labelHostGateway is the worker's label that says what "host-gateway" is.
const labelHostGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// attrs are the options of the Dockerfile frontend that o asks for.
func (o *options) attrs(ctx context.Context, c *client.Client, proxies []string) (map[string]string, error) {
	a := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			a[key] = value
		}
	}
	set("target", o.target)
	set("platform", o.platform)
	set("cgroup-parent", o.cgroupParent)
	set("cpusetcpus", o.cpusetCPUs)
	set("cpusetmems", o.cpusetMems)
	for key, n := range map[string]int64{
		"shm-size": o.shmSize.Value(), "memory": o.memory.Value(), "memswap": o.swap.Value(),
		"cpushares": o.cpuShares, "cpuperiod": o.cpuPeriod, "cpuquota": o.cpuQuota,
	} {
		if n != 0 {
			a[key] = strconv.FormatInt(n, 10)
		}
	}
	for _, arg := range slices.Concat(proxies, o.buildArgs) {
		key, value, ok := strings.Cut(arg, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid key-value pair %q: empty key", arg)
		}
		if !ok {
			if value, ok = os.LookupEnv(key); !ok {
				continue
			}
		}
		a["build-arg:"+key] = value
	}
	for _, label := range o.labels {
		key, value, _ := strings.Cut(label, "=")
		a["label:"+key] = value
	}
	switch {
	case o.noCache:
		a["no-cache"] = ""
	case len(o.noCacheFilter) > 0:
		a["no-cache"] = strings.Join(o.noCacheFilter, ",")
	}
	if o.pull {
		a["image-resolve-mode"] = "pull"
	}
	switch o.network {
	case "", "default":
	case "host", "none":
		a["force-network-mode"] = o.network
	default:
		return nil, fmt.Errorf("network mode %q not supported by buildkit: default, none and host are", o.network)
	}
	if limits := o.ulimits.GetList(); len(limits) > 0 {
		var fields []string
		for _, u := range limits {
			fields = append(fields, u.String())
		}
		a["ulimit"] = strings.Join(fields, ",")
	}
	hosts, err := o.hosts(ctx, c)
	if err != nil {
		return nil, err
	}
	set("add-hosts", hosts)
	return a, o.attestations(a)
}

// hosts are the additional names in steps' /etc/hosts.
func (o *options) hosts(ctx context.Context, c *client.Client) (string, error) {
	var pairs []string
	for _, h := range o.addHosts {
		name, addr, ok := strings.Cut(h, "=")
		if !ok {
			name, addr, ok = strings.Cut(h, ":")
		}
		if !ok || name == "" || addr == "" {
			return "", fmt.Errorf("invalid host %s", h)
		}
		if addr != "host-gateway" {
			pairs = append(pairs, name+"="+strings.Trim(addr, "[]"))
			continue
		}
		workers, err := c.ListWorkers(ctx)
		if err != nil {
			return "", err
		}
		found := false
		for _, w := range workers {
			if ip := w.Labels[labelHostGateway]; ip != "" {
				pairs, found = append(pairs, name+"="+ip), true
				break
			}
		}
		if !found {
			return "", fmt.Errorf("unable to derive the IP value for host-gateway")
		}
	}
	if len(pairs) == 0 {
		return "", nil
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	err := w.Write(pairs)
	w.Flush()
	return strings.TrimSpace(b.String()), err
}

// attestations reads --attest and its shorthands.
func (o *options) attestations(a map[string]string) error {
	list := slices.Clone(o.attests)
	for kind, value := range map[string]string{"provenance": o.provenance, "sbom": o.sbom} {
		if value == "" {
			continue
		}
		if on, err := strconv.ParseBool(value); err == nil {
			list = append(list, fmt.Sprintf("type=%s,disabled=%t", kind, !on))
		} else {
			list = append(list, "type="+kind+","+value)
		}
	}
	for _, text := range list {
		fields, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			return fmt.Errorf("invalid attestation %q: %w", text, err)
		}
		kind, off, rest := "", false, []string{}
		for _, f := range fields {
			key, value, ok := strings.Cut(f, "=")
			switch {
			case !ok:
				return fmt.Errorf("invalid attestation %q: key=value is wanted", text)
			case key == "type":
				kind = value
			case key == "disabled":
				if off, err = strconv.ParseBool(value); err != nil {
					return fmt.Errorf("invalid attestation %q: %w", text, err)
				}
			default:
				rest = append(rest, f)
			}
		}
		if kind == "" {
			return fmt.Errorf("attestation type not specified")
		}
		if off {
			delete(a, "attest:"+kind)
			continue
		}
		a["attest:"+kind] = strings.Join(rest, ",")
	}
	return nil
}

// names are the tags in their full form, each once.
func (o *options) names() ([]string, error) {
	var names []string
	for _, t := range o.tags {
		ref, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, fmt.Errorf("invalid tag %q: %w", t, err)
		}
		if _, ok := ref.(reference.Canonical); ok {
			return nil, fmt.Errorf("invalid tag %q: build tag cannot contain a digest", t)
		}
		if name := reference.TagNameOnly(ref).String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}
