package events

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"

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
	var start eventapi.TaskStart
	if err := proto.Unmarshal(first.Event.Value, &start); err != nil {
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

func TestEveryTopicHasAMessage(t *testing.T) {
	for _, topic := range []shim.Topic{
		shim.TopicCreate, shim.TopicStart, shim.TopicOOM, shim.TopicExit, shim.TopicDelete,
		shim.TopicExecAdded, shim.TopicExecStarted, shim.TopicPaused, shim.TopicResumed,
	} {
		m, err := message(shim.Event{Topic: topic, ContainerID: "c", ExecID: "e"})
		if err != nil {
			t.Errorf("%s: %v", topic, err)
			continue
		}
		f := m.ProtoReflect().Descriptor().Fields().ByName("container_id")
		if f == nil || fmt.Sprint(m.ProtoReflect().Get(f)) != "c" {
			t.Errorf("%s: no container in %v", topic, m)
		}
	}
	if _, err := message(shim.Event{Topic: "/x"}); err == nil {
		t.Error("an unknown topic has a message")
	}
}
