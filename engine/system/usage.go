package system

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// LogObject is the type of disk usage that Docker does not have: container logs.
const LogObject system.DiskUsageObject = "log"

// Meters measure what takes space. One that is nil has nothing.
type Meters struct {
	Images     func(context.Context) (image.DiskUsage, error)
	Containers func(context.Context) ([]container.Summary, error) // with their sizes
	Volumes    func(context.Context) ([]volume.Volume, error)     // with their usage
	BuildCache func(context.Context) ([]build.CacheRecord, error)
	Logs       func(context.Context) (LogDiskUsage, error)
}

// LogDiskUsage is the space that the containers' logs take.
type LogDiskUsage struct {
	ActiveCount int64      `json:"ActiveCount,omitempty"` // of running containers
	TotalCount  int64      `json:"TotalCount,omitempty"`
	TotalSize   int64      `json:"TotalSize,omitempty"`   // bytes
	Reclaimable int64      `json:"Reclaimable,omitempty"` // by removing containers that do not run
	Items       []LogUsage `json:"Items,omitempty"`
}

// LogUsage is one log.
type LogUsage struct {
	Container string // ID
	Name      string
	Active    bool
	Size      int64
}

// DiskUsage is what the objects asked for take; the others are nil.
type DiskUsage struct {
	system.DiskUsage
	LogUsage *LogDiskUsage `json:"LogUsage,omitempty"`
}

// DiskUsage measures the objects that of names, all when it is empty. It reads
// the files of containers and volumes, which may take long.
func (s *Service) DiskUsage(ctx context.Context, of map[system.DiskUsageObject]bool) (DiskUsage, error) {
	var u DiskUsage
	asked := func(o system.DiskUsageObject) bool { return len(of) == 0 || of[o] }
	if asked(system.ImageObject) && s.meters.Images != nil {
		images, err := s.meters.Images(ctx)
		if err != nil {
			return u, fmt.Errorf("measure images: %w", err)
		}
		u.ImageUsage = &images
	}
	if asked(system.ContainerObject) && s.meters.Containers != nil {
		list, err := s.meters.Containers(ctx)
		if err != nil {
			return u, fmt.Errorf("measure containers: %w", err)
		}
		u.ContainerUsage = containerUsage(list)
	}
	if asked(system.VolumeObject) && s.meters.Volumes != nil {
		list, err := s.meters.Volumes(ctx)
		if err != nil {
			return u, fmt.Errorf("measure volumes: %w", err)
		}
		u.VolumeUsage = volumeUsage(list)
	}
	if asked(system.BuildCacheObject) {
		var list []build.CacheRecord
		if s.meters.BuildCache != nil {
			var err error
			if list, err = s.meters.BuildCache(ctx); err != nil {
				return u, fmt.Errorf("measure the build cache: %w", err)
			}
		}
		u.BuildCacheUsage = buildUsage(list)
	}
	if asked(LogObject) && s.meters.Logs != nil {
		logs, err := s.meters.Logs(ctx)
		if err != nil {
			return u, fmt.Errorf("measure logs: %w", err)
		}
		u.LogUsage = &logs
	}
	return u, nil
}

func containerUsage(list []container.Summary) *container.DiskUsage {
	u := &container.DiskUsage{TotalCount: int64(len(list)), Items: list}
	for _, c := range list {
		u.TotalSize += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			u.ActiveCount++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	return u
}

func volumeUsage(list []volume.Volume) *volume.DiskUsage {
	u := &volume.DiskUsage{TotalCount: int64(len(list)), Items: list}
	for _, v := range list {
		if v.UsageData == nil {
			continue
		}
		size := max(v.UsageData.Size, 0) // -1: unknown
		u.TotalSize += size
		if v.UsageData.RefCount > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += size
		}
	}
	return u
}

func buildUsage(list []build.CacheRecord) *build.DiskUsage {
	u := &build.DiskUsage{TotalCount: int64(len(list)), Items: list}
	for _, r := range list {
		if r.InUse {
			u.ActiveCount++
		}
		if r.Shared {
			continue // counted as an image's
		}
		u.TotalSize += r.Size
		if !r.InUse {
			u.Reclaimable += r.Size
		}
	}
	return u
}
