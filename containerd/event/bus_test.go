package event

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

func inNamespace(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, "ns") }

func TestPublishReachesMatchingSubscribersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(inNamespace(t.Context()))
		b := NewBus()
		all, allErrs := b.Subscribe(ctx)
		exits, _ := b.Subscribe(ctx, `topic=="/tasks/exit"`, `event.container_id==c7,topic=="/tasks/start"`)
		for i := range 20 {
			topic := "/tasks/start"
			var ev events.Event = &api.TaskStart{ContainerID: fmt.Sprint("c", i)}
			if i%2 == 0 {
				topic, ev = "/tasks/exit", &api.TaskExit{ContainerID: fmt.Sprint("c", i)}
			}
			if err := b.Publish(ctx, topic, ev); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			env := <-all
			ev, err := typeurl.UnmarshalAny(env.Event)
			if err != nil {
				t.Fatal(err)
			}
			if id := ev.(interface{ GetContainerID() string }).GetContainerID(); id != fmt.Sprint("c", i) {
				t.Errorf("event %d is of %s", i, id)
			}
			if env.Namespace != "ns" || env.Timestamp.IsZero() {
				t.Errorf("envelope = %+v, want namespace and time", env)
			}
		}
		for range 11 { // ten exits and the start of c7
			<-exits
		}
		cancel()
		if err, open := <-allErrs; err != nil || open {
			t.Errorf("errs = %v, open %v; want closed", err, open)
		}
		synctest.Wait()
		select {
		case env := <-exits:
			t.Errorf("filter let %v through", env)
		default:
		}
		if len(b.subs) != 0 {
			t.Errorf("%d subscriptions left", len(b.subs))
		}
	})
}

func TestSlowSubscriberEndsWithResourceExhausted(t *testing.T) {
	b := NewBus()
	b.queueLen = 4
	ctx, cancel := context.WithCancel(inNamespace(t.Context()))
	defer cancel()
	ch, errs := b.Subscribe(ctx)
	for range 100 {
		if err := b.Publish(ctx, "/tasks/oom", &api.TaskOOM{}); err != nil {
			t.Fatal(err)
		}
	}
	var got int
	for {
		select {
		case <-ch:
			got++
			continue
		case err := <-errs:
			if !errdefs.IsResourceExhausted(err) {
				t.Errorf("errs = %v, want ResourceExhausted", err)
			}
		}
		break
	}
	if got < 4 || got > 9 { // a batch in delivery and a full queue
		t.Errorf("received %d events, want the queued ones", got)
	}
}

func TestRefusals(t *testing.T) {
	b := NewBus()
	ctx := inNamespace(t.Context())
	for _, topic := range []string{"", "/", "tasks/exit", "/tasks//exit", "/tasks/ex it"} {
		if err := b.Publish(ctx, topic, &api.TaskOOM{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Publish(%q) = %v, want InvalidArgument", topic, err)
		}
	}
	if err := b.Publish(t.Context(), "/x", &api.TaskOOM{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Publish without a namespace = %v, want FailedPrecondition", err)
	}
	if err := b.Publish(ctx, "/x", &struct{ C chan int }{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Publish of an unknown type = %v, want InvalidArgument", err)
	}
	payload, _ := typeurl.MarshalAny(&api.TaskOOM{})
	for name, env := range map[string]*events.Envelope{
		"no time":      {Namespace: "ns", Topic: "/x", Event: payload},
		"no namespace": {Timestamp: time.Now(), Topic: "/x", Event: payload},
		"no topic":     {Timestamp: time.Now(), Namespace: "ns", Event: payload},
	} {
		if err := b.Forward(ctx, env); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Forward %s = %v, want InvalidArgument", name, err)
		}
	}
	_, errs := b.Subscribe(ctx, `topic=="`)
	if err := <-errs; !errdefs.IsInvalidArgument(err) {
		t.Errorf("Subscribe with a bad filter: %v, want InvalidArgument", err)
	}
}

func BenchmarkBus_Publish(b *testing.B) {
	bus := NewBus()
	ctx, cancel := context.WithCancel(inNamespace(b.Context()))
	defer cancel()
	ch, _ := bus.Subscribe(ctx)
	go func() {
		for {
			select {
			case <-ch:
			case <-ctx.Done():
				return
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if err := bus.Publish(ctx, "/tasks/exit", &api.TaskExit{ContainerID: "c"}); err != nil {
			b.Fatal(err)
		}
	}
}
