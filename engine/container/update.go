package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// Update changes the limits and the restart policy of a container, of a running
// one at once. Fields that are zero stay as they are.
func (m *Manager) Update(ctx context.Context, ref string, cfg api.UpdateConfig) (api.UpdateResponse, error) {
	resp := api.UpdateResponse{Warnings: []string{}}
	e, err := m.lookup(ref)
	if err != nil {
		return resp, err
	}
	resp.Warnings = append(resp.Warnings, m.kernel.adapt(&cfg.Resources)...)
	if err := checkResources(&cfg.Resources, true); err != nil {
		return resp, err
	}
	var options map[string]string // of the policy, as annotations
	if cfg.RestartPolicy.Name != "" {
		if err := splitPolicy(&cfg.RestartPolicy, &options); err != nil {
			return resp, err
		}
		if err := api.ValidateRestartPolicy(cfg.RestartPolicy); err != nil {
			return resp, invalid("%s", err)
		}
	}
	if err := e.acquire(ctx); err != nil {
		return resp, err
	}
	defer e.release()
	r := e.rec.Load()
	if r.State == Removing || r.State == Dead {
		return resp, conflict("Cannot update container %s: container is marked for removal and cannot be \"update\".", r.ID)
	}
	next := *r.HostConfig
	if err := mergeResources(&next.Resources, &cfg.Resources); err != nil {
		return resp, err
	}
	if cfg.RestartPolicy.Name != "" {
		if next.AutoRemove && !cfg.RestartPolicy.IsNone() {
			return resp, invalid("Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		next.RestartPolicy = cfg.RestartPolicy
		next.Annotations = maps.Clone(next.Annotations)
		delete(next.Annotations, annotationBackoff)
		if value := options[annotationBackoff]; value != "" {
			if next.Annotations == nil {
				next.Annotations = map[string]string{}
			}
			next.Annotations[annotationBackoff] = value
		}
	}
	ctx, cancel := m.detached(ctx, startLimit)
	defer cancel()
	if r.State.hasTask() {
		limits, err := resources(&next.Resources)
		if err != nil {
			return resp, err
		}
		data, err := json.Marshal(limits)
		if err != nil {
			return resp, fmt.Errorf("encode resources: %w", err)
		}
		if err := m.Services.Tasks.Update(ctx, r.ID, anyOf(urlResources, data)); err != nil {
			return resp, fmt.Errorf("Cannot update container %s: %w", r.ID, err)
		}
	}
	r, err = m.commit(ctx, e, func(r *record) error { r.HostConfig = &next; return nil })
	if err != nil {
		return resp, err
	}
	m.publish(r, events.ActionUpdate)
	return resp, nil
}

// mergeResources sets in to what with asks for.
func mergeResources(to, with *api.Resources) error {
	if to.NanoCPUs > 0 && (with.CPUPeriod != 0 || with.CPUQuota != 0) {
		return conflict("Conflicting options: CPU Period or CPU Quota cannot be updated as NanoCPUs has already been set")
	}
	if with.NanoCPUs > 0 && (to.CPUPeriod > 0 || to.CPUQuota > 0) {
		return conflict("Conflicting options: NanoCPUs cannot be updated as CPU Period or CPU Quota has already been set")
	}
	for _, f := range []struct{ to, with *int64 }{
		{&to.CPUShares, &with.CPUShares}, {&to.NanoCPUs, &with.NanoCPUs},
		{&to.CPUPeriod, &with.CPUPeriod}, {&to.CPUQuota, &with.CPUQuota},
		{&to.CPURealtimePeriod, &with.CPURealtimePeriod}, {&to.CPURealtimeRuntime, &with.CPURealtimeRuntime},
		{&to.MemoryReservation, &with.MemoryReservation},
	} {
		if *f.with != 0 {
			*f.to = *f.with
		}
	}
	if with.BlkioWeight != 0 {
		to.BlkioWeight = with.BlkioWeight
	}
	if with.CpusetCpus != "" {
		to.CpusetCpus = with.CpusetCpus
	}
	if with.CpusetMems != "" {
		to.CpusetMems = with.CpusetMems
	}
	if with.Memory != 0 {
		if to.MemorySwap > 0 && with.Memory > to.MemorySwap && with.MemorySwap == 0 {
			return conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
		}
		to.Memory = with.Memory
	}
	if with.MemorySwap != 0 {
		to.MemorySwap = with.MemorySwap
	}
	if with.PidsLimit != nil {
		to.PidsLimit = with.PidsLimit
	}
	if with.MemorySwappiness != nil {
		to.MemorySwappiness = with.MemorySwappiness
	}
	return nil
}

// writeNetworkFilesInPlace rewrites hosts and resolv.conf of a running container.
// The files are mounted into it, so that a new file would not be seen.
func (m *Manager) writeNetworkFilesInPlace(id string, a *NetworkAllocation) error {
	for name, data := range map[string][]byte{"hosts": a.Hosts, "resolv.conf": a.ResolvConf} {
		if data == nil {
			continue
		}
		if err := overwrite(filepath.Join(m.dir(id), name), data); err != nil {
			return err
		}
	}
	return nil
}

// overwrite replaces the content of a file and keeps the file.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
