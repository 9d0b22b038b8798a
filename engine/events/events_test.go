package events

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/events"
)

func actor(id, name, image string) api.Actor {
	return api.Actor{ID: id, Attributes: map[string]string{"name": name, "image": image, "tier": "web"}}
}

func TestHistoryThenLive(t *testing.T) {
	b := New()
	for i := range historySize + 10 {
		b.Publish(api.ContainerEventType, api.ActionCreate, api.Actor{ID: strconv.Itoa(i)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := b.Subscribe(ctx, time.Unix(1, 0), time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Publish(api.ContainerEventType, api.ActionStart, api.Actor{ID: "live"})
	var last int64
	for i := range historySize {
		m := <-ch
		if m.Actor.ID != strconv.Itoa(i+10) {
			t.Fatalf("event %d is of %s: the oldest must have gone", i, m.Actor.ID)
		}
		if m.TimeNano <= last || m.Time != m.TimeNano/1e9 || m.Scope != "local" {
			t.Errorf("event %+v after %d", m, last)
		}
		last = m.TimeNano
	}
	if m := <-ch; m.Actor.ID != "live" {
		t.Errorf("live event = %+v", m)
	}
	cancel()
	for range ch {
	}
	b.Close()
	if n := b.Subscribers(); n != 0 {
		t.Errorf("%d subscribers are left", n)
	}
}

func TestUntilEnds(t *testing.T) {
	b := New()
	b.Publish(api.ContainerEventType, api.ActionCreate, api.Actor{ID: "a"})
	ch, err := b.Subscribe(t.Context(), time.Unix(1, 0), time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range ch { // closes by itself
		n++
	}
	if n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	b := New()
	ch, err := b.Subscribe(t.Context(), time.Time{}, time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range queueSize + 10 {
		b.Publish(api.ContainerEventType, api.ActionStart, api.Actor{})
	}
	n := 0
	for range ch {
		n++
	}
	if n == 0 || n > queueSize+1 {
		t.Errorf("%d events came through", n)
	}
}

func TestFilters(t *testing.T) {
	for _, tt := range []struct {
		filters map[string]map[string]bool
		want    bool
	}{
		{nil, true},
		{map[string]map[string]bool{"type": {"container": true}}, true},
		{map[string]map[string]bool{"type": {"image": true}}, false},
		{map[string]map[string]bool{"event": {"exec_create": true}}, true},
		{map[string]map[string]bool{"event": {"exec_create: ls": true}}, true},
		{map[string]map[string]bool{"event": {"exec": true}}, false},
		{map[string]map[string]bool{"container": {"abc": true}}, true},
		{map[string]map[string]bool{"container": {"web-1": true}}, true},
		{map[string]map[string]bool{"container": {"zzz": true}}, false},
		{map[string]map[string]bool{"container": {"zzz": true, "web-1": true}}, true},
		{map[string]map[string]bool{"container": {"zzz": true}, "image": {"img": true}}, true},
		{map[string]map[string]bool{"image": {"img:1": true}}, true},
		{map[string]map[string]bool{"volume": {"abc": true}}, false},
		{map[string]map[string]bool{"label": {"tier": true}}, true},
		{map[string]map[string]bool{"label": {"tier=web": true}}, true},
		{map[string]map[string]bool{"label": {"tier=db": true}}, false},
		{map[string]map[string]bool{"scope": {"swarm": true}}, false},
	} {
		m, err := newMatcher(tt.filters)
		if err != nil {
			t.Fatal(err)
		}
		ev := api.Message{Type: api.ContainerEventType, Action: "exec_create: ls", Scope: "local", Actor: actor("abcdef", "web-1", "img:1")}
		if got := m.matches(ev); got != tt.want {
			t.Errorf("%v matches: %v, want %v", tt.filters, got, tt.want)
		}
	}
	if _, err := New().Subscribe(t.Context(), time.Time{}, time.Time{}, map[string]map[string]bool{"bogus": {"x": true}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown filter: %v", err)
	}
}
