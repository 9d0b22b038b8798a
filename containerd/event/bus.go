// Package event is the event bus: what happens to containers, images and tasks
// reaches every subscriber in the order of publication.
//
// # Delivery
//
// Publishing never blocks and never waits for a subscriber. Each subscriber has
// a queue of at most QueueLen events. A subscriber that falls further behind is
// ended with a ResourceExhausted error instead of silently losing events: it
// knows that it must list the state again and subscribe anew. Events are not
// stored; one published without a subscriber is gone.
package event

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	// The payloads must be known to the type registry, so that filters can look
	// into events that shims forward.
	_ "github.com/containerd/containerd/api/events"
)

// QueueLen is how many events a subscriber may fall behind. An envelope is about
// 300 bytes, so a queue is bounded by roughly 2.5 MB.
const QueueLen = 8192

// Bus is an event bus. The zero value is not usable, see NewBus. It is safe for
// concurrent use.
type Bus struct {
	queueLen int
	now      func() time.Time

	mu   sync.Mutex // guards subs
	subs map[*subscription]struct{}
}

var (
	_ events.Publisher  = (*Bus)(nil)
	_ events.Forwarder  = (*Bus)(nil)
	_ events.Subscriber = (*Bus)(nil)
)

// NewBus returns a bus without subscribers. It owns no goroutines of its own;
// those of a subscription end with its context.
func NewBus() *Bus {
	return &Bus{queueLen: QueueLen, now: time.Now, subs: make(map[*subscription]struct{})}
}

// Publish sends event under topic to the subscribers, stamped with the time and
// the namespace of ctx.
//
// Errors: FailedPrecondition without a namespace, InvalidArgument for a topic
// that is not "/" followed by identifiers or an event of an unknown type.
func (b *Bus) Publish(ctx context.Context, topic string, event events.Event) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return fmt.Errorf("publish event %q: %w", topic, err)
	}
	if err := validateTopic(topic); err != nil {
		return fmt.Errorf("publish event %q: %w", topic, err)
	}
	payload, err := typeurl.MarshalAny(event)
	if err != nil {
		return fmt.Errorf("publish event %q: encode %T: %w: %w", topic, event, err, errdefs.ErrInvalidArgument)
	}
	b.deliver(&events.Envelope{
		Timestamp: b.now().UTC(), Namespace: namespace, Topic: topic, Event: payload,
	})
	return nil
}

// Forward sends an envelope made elsewhere, by a shim for example. The envelope
// must not be changed afterwards.
//
// Errors: InvalidArgument for a missing time, a bad namespace or a bad topic.
func (b *Bus) Forward(_ context.Context, env *events.Envelope) error {
	if err := validateEnvelope(env); err != nil {
		return fmt.Errorf("forward event %q: %w", env.Topic, err)
	}
	b.deliver(env)
	return nil
}

// Subscribe returns the events that match any of filters (all events when there
// are none), in order, until ctx ends. The subscription is in place when
// Subscribe returns.
//
// When it ends, errs receives why (nil when ctx ended it, ResourceExhausted when
// the receiver fell more than QueueLen events behind, InvalidArgument for a bad
// filter) and is closed; ch stays open. Envelopes are shared and read-only.
func (b *Bus) Subscribe(ctx context.Context, fs ...string) (ch <-chan *events.Envelope, errs <-chan error) {
	out := make(chan *events.Envelope)
	errq := make(chan error, 1) // holds the one error, so that its sender never waits
	match, err := filters.ParseAll(fs...)
	if err != nil {
		errq <- fmt.Errorf("subscribe to events: filter: %w: %w", err, errdefs.ErrInvalidArgument)
		close(errq)
		return out, errq
	}
	s := &subscription{match: match, limit: b.queueLen, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	go func() { // ends with ctx or by overflow
		defer close(errq)
		err := s.run(ctx, out)
		b.mu.Lock()
		delete(b.subs, s)
		b.mu.Unlock()
		if err != nil {
			errq <- err
		}
	}()
	return out, errq
}

// deliver holds the lock over all pushes: that is what makes the order the same
// for everyone. A push only appends, it waits for nobody.
func (b *Bus) deliver(env *events.Envelope) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.push(env)
	}
}

// subscription is one subscriber's queue.
type subscription struct {
	match filters.Filter
	limit int
	wake  chan struct{} // capacity 1: a pending wake-up covers all pushes before it

	mu       sync.Mutex // guards the fields below; taken after Bus.mu
	queue    []*events.Envelope
	overflow bool
}

func (s *subscription) push(env *events.Envelope) {
	if !s.match.Match(env) {
		return
	}
	s.mu.Lock()
	if len(s.queue) >= s.limit {
		s.overflow = true
	} else if !s.overflow {
		s.queue = append(s.queue, env)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (s *subscription) take() (batch []*events.Envelope, overflow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.queue = s.queue, nil
	return batch, s.overflow
}

// run moves events from the queue to out. On overflow it still delivers what was
// queued before, so the receiver knows exactly up to where it has seen all.
func (s *subscription) run(ctx context.Context, out chan<- *events.Envelope) error {
	for {
		batch, overflow := s.take()
		for _, env := range batch {
			select {
			case out <- env:
			case <-ctx.Done():
				return nil
			}
		}
		if overflow {
			return fmt.Errorf("subscriber fell %d events behind: list the state again and subscribe anew: %w",
				s.limit, errdefs.ErrResourceExhausted)
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func validateEnvelope(env *events.Envelope) error {
	if err := identifiers.Validate(env.Namespace); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	if err := validateTopic(env.Topic); err != nil {
		return err
	}
	if env.Timestamp.IsZero() {
		return fmt.Errorf("timestamp is missing: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func validateTopic(topic string) error {
	rest, ok := strings.CutPrefix(topic, "/")
	if !ok || rest == "" {
		return fmt.Errorf("topic %q does not start with a slash and a name: %w", topic, errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if err := identifiers.Validate(part); err != nil {
			return fmt.Errorf("topic %q: %w", topic, err)
		}
	}
	return nil
}
