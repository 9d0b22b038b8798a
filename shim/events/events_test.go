package events

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	forwardapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"lighter/shim"
)

// While containerd is away the queue is bounded, and what is dropped is the
// oldest.
func TestQueueIsBounded(t *testing.T) {
	p := New("ns", filepath.Join(t.TempDir(), "nobody"), slog.New(slog.DiscardHandler))
	const extra = 10
	for i := range queueSize + extra {
		p.Publish(shim.Event{Topic: shim.TopicStart, ContainerID: "c", Pid: i})
	}
	p.mu.Lock()
	n, dropped, first := len(p.queue), p.dropped, p.queue[0]
	p.mu.Unlock()
	var r forwardapi.ForwardRequest
	var start eventapi.TaskStart
	if err := proto.Unmarshal(first.request, &r); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(r.Envelope.Event.Value, &start); err != nil {
		t.Fatal(err)
	}
	if n != queueSize || dropped != extra || start.Pid != extra {
		t.Errorf("%d queued, %d dropped, the first is %d", n, dropped, start.Pid)
	}
	// Close does not wait for a containerd that is not there.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p.Close(ctx)
	if ctx.Err() != nil {
		t.Error("Close waited")
	}
}

// Each event is encoded as containerd's own types would be.
func TestMessages(t *testing.T) {
	at := time.Unix(1700000000, 123456789)
	ev := shim.Event{
		ContainerID: "c", ExecID: "e", Pid: 7, ExitStatus: 137, ExitedAt: at, Bundle: "/b", Terminal: true,
		Stdin: "in", Stdout: "out", Stderr: "err",
		Rootfs: []shim.Mount{{Type: "overlay", Source: "s", Options: []string{"a", "b=c"}}},
	}
	for topic, want := range map[shim.Topic]proto.Message{
		shim.TopicCreate: &eventapi.TaskCreate{
			ContainerID: "c", Bundle: "/b", Pid: 7,
			IO:     &eventapi.TaskIO{Stdin: "in", Stdout: "out", Stderr: "err", Terminal: true},
			Rootfs: []*types.Mount{{Type: "overlay", Source: "s", Options: []string{"a", "b=c"}}},
		},
		shim.TopicStart:       &eventapi.TaskStart{ContainerID: "c", Pid: 7},
		shim.TopicOOM:         &eventapi.TaskOOM{ContainerID: "c"},
		shim.TopicExit:        &eventapi.TaskExit{ContainerID: "c", ID: "e", Pid: 7, ExitStatus: 137, ExitedAt: timestamppb.New(at)},
		shim.TopicDelete:      &eventapi.TaskDelete{ContainerID: "c", Pid: 7, ExitStatus: 137, ExitedAt: timestamppb.New(at)},
		shim.TopicExecAdded:   &eventapi.TaskExecAdded{ContainerID: "c", ExecID: "e"},
		shim.TopicExecStarted: &eventapi.TaskExecStarted{ContainerID: "c", ExecID: "e", Pid: 7},
		shim.TopicPaused:      &eventapi.TaskPaused{ContainerID: "c"},
		shim.TopicResumed:     &eventapi.TaskResumed{ContainerID: "c"},
	} {
		ev.Topic = topic
		name, b, err := message(ev)
		if full := string(want.ProtoReflect().Descriptor().FullName()); err != nil || "containerd.events."+name != full {
			t.Errorf("%s is a %s, %v, want %s", topic, name, err, full)
			continue
		}
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(b, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", topic, got, err, want)
		}
	}
	if _, _, err := message(shim.Event{Topic: "/x"}); err == nil {
		t.Error("an unknown topic has a message")
	}
	_, b, err := message(shim.Event{Topic: shim.TopicExit, ContainerID: "c"})
	var exit eventapi.TaskExit
	if err == nil {
		err = proto.Unmarshal(b, &exit)
	}
	if err != nil || exit.ID != "c" {
		t.Errorf("the exit of init names %q, %v", exit.ID, err)
	}
}
