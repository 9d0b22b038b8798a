package engine

import (
	"context"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	networktypes "github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/engine/container"
	"lighter/engine/image"
	"lighter/engine/network"
	"lighter/engine/server"
)

// images is the image service as containers see it.
type images struct{ *image.Service }

// Resolve implements container.Images.
func (i images) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (*container.Image, error) {
	img, err := i.Service.Resolve(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	if !img.Unpacked {
		if err := i.Unpack(ctx, img); err != nil {
			return nil, err
		}
	}
	return &container.Image{
		ID:         img.ID.String(),
		Name:       img.Name,
		ChainID:    img.ChainID.String(),
		Config:     img.Config,
		Descriptor: withPlatform(img),
	}, nil
}

// withPlatform describes the image's manifest, and names the platform that its
// configuration is for, as the Engine API does.
func withPlatform(img image.Image) *ocispec.Descriptor {
	d := img.Manifest
	if d.Platform == nil {
		d.Platform = &ocispec.Platform{
			OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant,
			OSVersion: img.Config.OSVersion, OSFeatures: img.Config.OSFeatures,
		}
	}
	return &d
}

// networks is the network manager as containers see it.
type networks struct {
	*network.Manager
	meter *meter
}

// Allocate implements container.Networks.
func (n networks) Allocate(ctx context.Context, req container.NetworkRequest) (*container.NetworkAllocation, error) {
	defer n.meter.network.Since("allocate", time.Now())
	a, err := n.Manager.Allocate(ctx, network.Request{
		ContainerID:  req.ID,
		Name:         req.Name,
		Hostname:     req.Hostname,
		DomainName:   req.Domainname,
		Mode:         req.Mode,
		Endpoints:    req.Endpoints,
		ExposedPorts: req.ExposedPorts,
		PortBindings: req.PortBindings,
		PublishAll:   req.PublishAll,
		DNS:          req.DNS,
		DNSSearch:    req.DNSSearch,
		DNSOptions:   req.DNSOptions,
		ExtraHosts:   req.ExtraHosts,
		Keep:         req.Keep,
	})
	if err != nil {
		return nil, err
	}
	return allocation(a), nil
}

func allocation(a *network.Allocation) *container.NetworkAllocation {
	return &container.NetworkAllocation{
		SandboxID: a.SandboxID, SandboxKey: a.SandboxKey, Ports: a.Ports, Networks: a.Endpoints,
		Hosts: a.Hosts, ResolvConf: a.ResolvConf, Warnings: a.Warnings,
	}
}

// Release implements container.Networks.
func (n networks) Release(ctx context.Context, id string) error {
	defer n.meter.network.Since("release", time.Now())
	return n.Manager.Release(ctx, id)
}

// NetworkName implements container.Networks.
func (n networks) NetworkName(ctx context.Context, ref string) (string, error) {
	found, err := n.Manager.Inspect(ctx, ref)
	return found.Name, err
}

// ConnectRunning implements container.Networks.
func (n networks) ConnectRunning(ctx context.Context, id string, pid int, ref string, settings *networktypes.EndpointSettings) (*container.NetworkAllocation, error) {
	defer n.meter.network.Since("connect", time.Now())
	a, err := n.Manager.ConnectRunning(ctx, id, pid, ref, settings)
	if err != nil {
		return nil, err
	}
	return allocation(a), nil
}

// DisconnectRunning implements container.Networks.
func (n networks) DisconnectRunning(ctx context.Context, id string, pid int, ref string, force bool) (*container.NetworkAllocation, error) {
	defer n.meter.network.Since("disconnect", time.Now())
	a, err := n.Manager.DisconnectRunning(ctx, id, pid, ref, force)
	if err != nil {
		return nil, err
	}
	return allocation(a), nil
}

// containers adds to the container manager what concerns images too.
type containers struct {
	*container.Manager
	images *image.Service
}

// Commit makes an image of a container's file system and configuration.
func (c containers) Commit(ctx context.Context, opts server.CommitOptions) (string, error) {
	source, release, err := c.CommitSource(ctx, opts.Container, opts.Pause)
	if err != nil {
		return "", err
	}
	defer release()
	config := &source.Config
	if opts.Config != nil {
		config = mergeConfig(opts.Config, config)
	}
	ref := opts.Repo
	if opts.Tag != "" {
		ref += ":" + opts.Tag
	}
	return c.images.Commit(ctx, image.CommitInput{
		SnapshotKey: source.SnapshotKey,
		Parent:      source.ImageID,
		Config:      imageConfig(config),
		Changes:     opts.Changes,
		Author:      opts.Author,
		Comment:     opts.Comment,
		CreatedBy:   strings.Join(append(append([]string{}, source.Config.Entrypoint...), source.Config.Cmd...), " "),
		Ref:         ref,
		ContainerID: opts.Container,
	})
}

// mergeConfig is the configuration of a commit: what the request gives, and for
// the rest what the container has.
func mergeConfig(given, base *api.Config) *api.Config {
	merged := *given
	if merged.User == "" {
		merged.User = base.User
	}
	if len(merged.ExposedPorts) == 0 {
		merged.ExposedPorts = base.ExposedPorts
	}
	have := map[string]bool{}
	for _, kv := range merged.Env {
		key, _, _ := strings.Cut(kv, "=")
		have[key] = true
	}
	for _, kv := range base.Env {
		if key, _, _ := strings.Cut(kv, "="); !have[key] {
			merged.Env = append(merged.Env, kv)
		}
	}
	labels := map[string]string{}
	for _, set := range []map[string]string{base.Labels, merged.Labels} {
		for k, v := range set {
			labels[k] = v
		}
	}
	merged.Labels = labels
	if len(merged.Entrypoint) == 0 {
		if len(merged.Cmd) == 0 {
			merged.Cmd = base.Cmd
		}
		merged.Entrypoint = base.Entrypoint
	}
	if merged.WorkingDir == "" {
		merged.WorkingDir = base.WorkingDir
	}
	if len(merged.Volumes) == 0 {
		merged.Volumes = base.Volumes
	}
	if merged.Healthcheck == nil {
		merged.Healthcheck = base.Healthcheck
	}
	if merged.StopSignal == "" {
		merged.StopSignal = base.StopSignal
	}
	if len(merged.Shell) == 0 {
		merged.Shell = base.Shell
	}
	if len(merged.OnBuild) == 0 {
		merged.OnBuild = base.OnBuild
	}
	return &merged
}

// imageConfig is the part of a container's configuration that images carry.
func imageConfig(c *api.Config) dockerspec.DockerOCIImageConfig {
	ports := make(map[string]struct{}, len(c.ExposedPorts))
	for p := range c.ExposedPorts {
		ports[p.String()] = struct{}{}
	}
	if len(ports) == 0 {
		ports = nil
	}
	return dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			User:         c.User,
			ExposedPorts: ports,
			Env:          c.Env,
			Entrypoint:   c.Entrypoint,
			Cmd:          c.Cmd,
			Volumes:      c.Volumes,
			WorkingDir:   c.WorkingDir,
			Labels:       c.Labels,
			StopSignal:   c.StopSignal,
		},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{
			Healthcheck: (*dockerspec.HealthcheckConfig)(c.Healthcheck),
			OnBuild:     c.OnBuild,
			Shell:       c.Shell,
		},
	}
}
