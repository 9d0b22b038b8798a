package remote

import (
	"context"
	"time"

	api "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/events/proxy"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"lighter/containerd"
)

// headerWait is how long Subscribe waits for the server to say that the
// subscription is in place. A stock server says so only with the first event.
const headerWait = 250 * time.Millisecond

// eventClient is the stock client but for Subscribe, which returns before the
// server has heard of it.
type eventClient struct {
	proxy.EventService
	client api.EventsClient
}

var _ containerd.Events = eventClient{}

func newEventClient(conn *grpc.ClientConn) eventClient {
	client := api.NewEventsClient(conn)
	return eventClient{proxy.NewRemoteEvents(client), client}
}

// Subscribe implements events.Subscriber. errs receives nil when ctx ended the
// subscription and is closed; ch stays open.
func (e eventClient) Subscribe(ctx context.Context, filters ...string) (<-chan *events.Envelope, <-chan error) {
	ch := make(chan *events.Envelope)
	errs := make(chan error, 1) // holds the one error, so that its sender never waits
	session, err := e.client.Subscribe(ctx, &api.SubscribeRequest{Filters: filters})
	if err != nil {
		errs <- errgrpc.ToNative(err)
		close(errs)
		return ch, errs
	}
	ready := make(chan struct{})
	go func() { // ends with ctx or the connection
		defer close(errs)
		_, _ = session.Header() // an error is that of Recv as well
		close(ready)
		for {
			env, err := session.Recv()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				errs <- errgrpc.ToNative(err)
				return
			}
			select {
			case ch <- &events.Envelope{
				Timestamp: timeOf(env.GetTimestamp()), Namespace: env.GetNamespace(), Topic: env.GetTopic(), Event: anyOf(env.GetEvent()),
			}:
			case <-ctx.Done():
				return
			}
		}
	}()
	timeout := time.NewTimer(headerWait)
	defer timeout.Stop()
	select {
	case <-ready:
	case <-timeout.C:
	case <-ctx.Done():
	}
	return ch, errs
}
