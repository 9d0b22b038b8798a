package rpc

import (
	"context"

	api "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/events"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

type eventServer struct {
	api.UnimplementedEventsServer
	events containerd.Events
}

func (s *eventServer) Publish(ctx context.Context, r *api.PublishRequest) (*emptypb.Empty, error) {
	if r.GetEvent() == nil {
		return nil, invalid("publish event %q: it has no content", r.GetTopic())
	}
	return &emptypb.Empty{}, s.events.Publish(ctx, r.GetTopic(), r.GetEvent())
}

func (s *eventServer) Forward(ctx context.Context, r *api.ForwardRequest) (*emptypb.Empty, error) {
	e := r.GetEnvelope()
	return &emptypb.Empty{}, s.events.Forward(ctx, &events.Envelope{
		Timestamp: timeOf(e.GetTimestamp()), Namespace: e.GetNamespace(), Topic: e.GetTopic(), Event: anyOf(e.GetEvent()),
	})
}

// Subscribe sends the header when the subscription is in place, so that a client
// can know that it misses nothing from there on.
func (s *eventServer) Subscribe(r *api.SubscribeRequest, out api.Events_SubscribeServer) error {
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	ch, errs := s.events.Subscribe(ctx, r.GetFilters()...)
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case env := <-ch:
			if err := out.Send(&types.Envelope{
				Timestamp: timestamp(env.Timestamp), Namespace: env.Namespace, Topic: env.Topic, Event: protoAny(env.Event),
			}); err != nil {
				return err
			}
		case err := <-errs:
			if err == nil {
				err = out.Context().Err()
			}
			return err
		}
	}
}
