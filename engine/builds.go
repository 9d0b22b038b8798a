package engine

import (
	"context"
	"os"

	buildtypes "github.com/moby/moby/api/types/build"
	api "github.com/moby/moby/api/types/container"

	"lighter/engine/network"
	"lighter/internal/buildlink"
)

// buildNetworks is the network manager as builds see it.
type buildNetworks struct{ *network.Manager }

// Join implements build.Networks: steps are on the network that containers are
// on by default.
func (n buildNetworks) Join(ctx context.Context, id string, ns *os.File) ([]string, error) {
	a, err := n.Allocate(ctx, network.Request{ContainerID: id, Name: id, Mode: api.NetworkMode("default")})
	if err != nil {
		return nil, err
	}
	if err := n.ConnectNamespace(ctx, id, ns); err != nil {
		if rerr := n.Release(ctx, id); rerr != nil {
			return nil, rerr
		}
		return nil, err
	}
	var addresses []string
	for _, ep := range a.Endpoints {
		if ep.IPAddress.IsValid() {
			addresses = append(addresses, ep.IPAddress.String())
		}
	}
	return addresses, nil
}

// Leave implements build.Networks.
func (n buildNetworks) Leave(ctx context.Context, id string) error { return n.Release(ctx, id) }

// buildCache lists the build cache for disk usage.
func (e *Engine) buildCache(ctx context.Context) ([]buildtypes.CacheRecord, error) {
	usage, err := e.builds.Usage(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]buildtypes.CacheRecord, 0, len(usage))
	for _, u := range usage {
		list = append(list, cacheRecord(u))
	}
	return list, nil
}

func cacheRecord(u buildlink.Usage) buildtypes.CacheRecord {
	return buildtypes.CacheRecord{
		ID: u.ID, Parents: u.Parents, Type: u.Type, Description: u.Description, InUse: u.InUse, Shared: u.Shared,
		Size: u.Size, CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt, UsageCount: u.UsageCount,
	}
}
