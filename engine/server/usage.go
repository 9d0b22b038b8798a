package server

import (
	"net/http"

	"github.com/moby/moby/api/types/build"
	containertypes "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	systemtypes "github.com/moby/moby/api/types/system"
	volumetypes "github.com/moby/moby/api/types/volume"

	"lighter/engine/system"
)

// legacyUsage is what GET /system/df answered before API 1.52.
type legacyUsage struct {
	LayersSize  int64                    `json:"LayersSize"`
	Images      []imagetypes.Summary     `json:"Images,omitzero"`
	Containers  []containertypes.Summary `json:"Containers,omitzero"`
	Volumes     []volumetypes.Volume     `json:"Volumes,omitzero"`
	BuildCache  []build.CacheRecord      `json:"BuildCache,omitzero"`
	BuilderSize *int64                   `json:"BuilderSize,omitempty"` // before API 1.42
}

func (s *Server) diskUsage(w http.ResponseWriter, r *request) error {
	of, err := usageObjects(r)
	if err != nil {
		return err
	}
	u, err := s.backends.System.DiskUsage(r.Context(), of)
	if err != nil {
		return err
	}
	verbose := r.flag("verbose") && r.atLeast(52)
	legacy := legacyUsageOf(u)
	if !r.atLeast(52) {
		if !r.atLeast(42) {
			var size int64
			if u.BuildCacheUsage != nil {
				size = u.BuildCacheUsage.TotalSize
			}
			legacy.BuilderSize = &size
		}
		return writeJSON(w, http.StatusOK, legacy)
	}
	if verbose {
		return writeJSON(w, http.StatusOK, u)
	}
	withoutItems(&u)
	return writeJSON(w, http.StatusOK, struct {
		legacyUsage
		system.DiskUsage
	}{legacy, u})
}

// usageObjects reads the parameter type; the version before which it did not
// exist ignored it.
func usageObjects(r *request) (map[systemtypes.DiskUsageObject]bool, error) {
	of := map[systemtypes.DiskUsageObject]bool{}
	if !r.atLeast(42) {
		return of, nil
	}
	for _, value := range r.query["type"] {
		switch o := systemtypes.DiskUsageObject(value); o {
		case systemtypes.ContainerObject, systemtypes.ImageObject, systemtypes.VolumeObject, systemtypes.BuildCacheObject, system.LogObject:
			of[o] = true
		default:
			return nil, invalid("unknown object type: %s", value)
		}
	}
	return of, nil
}

func legacyUsageOf(u system.DiskUsage) legacyUsage {
	var l legacyUsage
	if u.ImageUsage != nil {
		l.LayersSize, l.Images = u.ImageUsage.TotalSize, notNil(u.ImageUsage.Items)
	}
	if u.ContainerUsage != nil {
		l.Containers = notNil(u.ContainerUsage.Items)
	}
	if u.VolumeUsage != nil {
		l.Volumes = notNil(u.VolumeUsage.Items)
	}
	if u.BuildCacheUsage != nil {
		l.BuildCache = notNil(u.BuildCacheUsage.Items)
	}
	return l
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// withoutItems takes the single objects out of u, which owns its parts.
func withoutItems(u *system.DiskUsage) {
	if u.ImageUsage != nil {
		u.ImageUsage.Items = nil
	}
	if u.ContainerUsage != nil {
		u.ContainerUsage.Items = nil
	}
	if u.VolumeUsage != nil {
		u.VolumeUsage.Items = nil
	}
	if u.BuildCacheUsage != nil {
		u.BuildCacheUsage.Items = nil
	}
	if u.LogUsage != nil {
		u.LogUsage.Items = nil
	}
}
