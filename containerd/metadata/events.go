package metadata

import (
	"context"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// publish sends an event after its change was committed. The change stands
// whatever becomes of the event, so an error is logged and not returned.
func (db *DB) publish(ctx context.Context, topic string, event events.Event) {
	if db.events == nil {
		return
	}
	if err := db.events.Publish(context.WithoutCancel(ctx), topic, event); err != nil {
		db.log.Warn("event not published", "topic", topic, "err", err)
	}
}

func imageCreated(i images.Image) events.Event {
	return &apievents.ImageCreate{Name: i.Name, Labels: i.Labels}
}

func imageUpdated(i images.Image) events.Event {
	return &apievents.ImageUpdate{Name: i.Name, Labels: i.Labels}
}

func imageDeleted(name string) events.Event { return &apievents.ImageDelete{Name: name} }

func containerCreated(c containers.Container) events.Event {
	runtime := &apievents.ContainerCreate_Runtime{Name: c.Runtime.Name}
	if c.Runtime.Options != nil {
		runtime.Options = protoAny(c.Runtime.Options)
	}
	return &apievents.ContainerCreate{ID: c.ID, Image: c.Image, Runtime: runtime}
}

func containerUpdated(c containers.Container) events.Event {
	return &apievents.ContainerUpdate{ID: c.ID, Image: c.Image, Labels: c.Labels, SnapshotKey: c.SnapshotKey}
}

func containerDeleted(id string) events.Event { return &apievents.ContainerDelete{ID: id} }

func contentCreated(digest string, size int64, mediaType string) events.Event {
	return &apievents.ContentCreate{Digest: digest, Size: size, MediaType: mediaType}
}

func contentDeleted(digest string) events.Event { return &apievents.ContentDelete{Digest: digest} }

func snapshotPrepared(snapshotter, key, parent string) events.Event {
	return &apievents.SnapshotPrepare{Key: key, Parent: parent, Snapshotter: snapshotter}
}

func snapshotCommitted(snapshotter, key, name string) events.Event {
	return &apievents.SnapshotCommit{Key: key, Name: name, Snapshotter: snapshotter}
}

func snapshotRemoved(snapshotter, key string) events.Event {
	return &apievents.SnapshotRemove{Key: key, Snapshotter: snapshotter}
}

func namespaceCreated(name string, labels map[string]string) events.Event {
	return &apievents.NamespaceCreate{Name: name, Labels: labels}
}

func namespaceUpdated(name string, labels map[string]string) events.Event {
	return &apievents.NamespaceUpdate{Name: name, Labels: labels}
}

func namespaceDeleted(name string) events.Event { return &apievents.NamespaceDelete{Name: name} }

func inNamespace(ctx context.Context, ns string) context.Context {
	return namespaces.WithNamespace(ctx, ns)
}

func protoAny(a typeurl.Any) *anypb.Any {
	return &anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetValue()}
}
