package runc

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/runc/cgroup"
	"lighter/runc/plan"
	"lighter/runc/spec"
	"lighter/runc/state"
)

// Plan returns the plan of the container that Run would make of a bundle. Nothing
// is made, but what the plan depends on, such as the sources of bind mounts, is
// looked at.
func (r *Runtime) Plan(ctx context.Context, bundle string) (*plan.Plan, error) {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	s, _, err := spec.Load(bundle)
	if err != nil {
		return nil, err
	}
	c := &creation{
		r: r, id: "plan", opts: CreateOptions{Bundle: bundle}, spec: s, files: map[string]*os.File{},
		rec: &state.Record{ID: "plan", Rootfs: absolute(bundle, s.Root.Path)},
	}
	defer c.close()
	if err := c.mounts(); err != nil {
		return nil, err
	}
	if err := c.namespaces(); err != nil {
		return nil, err
	}
	c.in.CgroupV2 = cgroup.HostMode() == cgroup.V2
	group, err := cgroup.New(s.Linux.CgroupsPath, c.id)
	if err != nil {
		return nil, err
	}
	if !c.in.CgroupV2 {
		c.tasks = len(cgroupDirs(group.Paths(), false))
	}
	if !c.in.CgroupV2 || !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace }) {
		for _, g := range cgroupDirs(group.Paths(), c.in.CgroupV2) {
			c.in.Cgroups = append(c.in.Cgroups, g.CgroupDir)
		}
	}
	if s.Process.Terminal {
		c.opts.Stdio.Console = (*os.File).Close // never called
	}
	if err := c.process(false); err != nil {
		return nil, err
	}
	return plan.Compile(c.in)
}

// Spec returns the configuration that a container was created from. The caller
// owns it.
func (r *Runtime) Spec(ctx context.Context, id string) (*specs.Spec, error) {
	raw, err := state.Config(r.root, id)
	if err != nil {
		return nil, err
	}
	return spec.Parse(raw)
}

// Capabilities returns the names of the capabilities that are known, without
// "CAP_".
func Capabilities() []string { return slices.Clone(plan.CapNames) }

// MountOptions returns the names of the mount options that are known.
func MountOptions() []string { return plan.OptionNames() }

// debugPlan logs what a plan consists of; `runc plan` prints all of it.
func debugPlan(log *slog.Logger, id string, p *plan.Plan) {
	log.Debug("plan compiled", "container", id, "steps", len(p.Steps), "buffers", len(p.Buffers), "files", len(p.Files()))
}
