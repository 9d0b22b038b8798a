// Package events is the engine's event bus: what happened to containers,
// images, volumes and networks, kept in a short history and sent to whoever
// watches.
//
// Publishing never blocks: a subscriber that does not read loses its
// subscription, not the publisher its time.
package events

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lighter/engine/label"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/events"
)

const (
	// historySize is how many past events a new subscriber can ask for.
	historySize = 256
	// queueSize bounds the events that wait for one subscriber. When it is
	// full the subscription ends.
	queueSize = 1024
)

// Bus distributes events. Make it with New. It is safe for concurrent use.
type Bus struct {
	mu          sync.Mutex // guards the fields below
	history     []api.Message
	next        int // index in history that the next event replaces, once full
	subscribers map[*subscription]struct{}
	last        time.Time
	published   uint64
	closed      bool
}

// subscription receives events until it ends: its context, its upper bound, a
// full queue, or the end of the bus.
type subscription struct {
	c     chan api.Message // queueSize; closed by endLocked
	match matcher
	ended bool // guarded by Bus.mu
}

// New returns an empty bus.
func New() *Bus {
	return &Bus{subscribers: make(map[*subscription]struct{})}
}

// Publish records an event of scope "local" that happened now and sends it to
// the subscribers. The attributes are copied. It never blocks.
func (b *Bus) Publish(typ api.Type, action api.Action, actor api.Actor) {
	actor.Attributes = maps.Clone(actor.Attributes)
	if actor.Attributes == nil {
		actor.Attributes = map[string]string{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if !now.After(b.last) {
		now = b.last.Add(1) // the time stamps order events, as "since" needs
	}
	b.last = now
	b.published++
	m := api.Message{
		Type: typ, Action: action, Actor: actor, Scope: "local",
		Time: now.Unix(), TimeNano: now.UnixNano(),
	}
	if len(b.history) < historySize {
		b.history = append(b.history, m)
	} else {
		b.history[b.next] = m
		b.next = (b.next + 1) % historySize
	}
	for s := range b.subscribers {
		b.sendLocked(s, m)
	}
}

// Subscribe returns a channel of the past events since since that match filters,
// followed by those to come, until until (zero: for ever) or until ctx ends,
// when it is closed. A zero since asks for no history. A subscriber that falls
// queueSize events behind is cut off: its channel closes.
//
// A filter that does not exist is an InvalidArgument.
func (b *Bus) Subscribe(ctx context.Context, since, until time.Time, filters map[string]map[string]bool) (<-chan api.Message, error) {
	match, err := newMatcher(filters)
	if err != nil {
		return nil, err
	}
	s := &subscription{c: make(chan api.Message, queueSize), match: match}
	past := b.join(s, since, until)
	if !until.IsZero() && !until.After(time.Now()) {
		b.leave(s)
	}
	out := make(chan api.Message) // unbuffered: s.c holds what waits
	go func() {                   // ends with ctx, until, or the bus; owned by the caller through ctx
		defer close(out)
		defer b.leave(s)
		var expired <-chan time.Time
		if !until.IsZero() {
			t := time.NewTimer(time.Until(until))
			defer t.Stop()
			expired = t.C
		}
		for _, m := range past {
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
		for {
			select {
			case m, ok := <-s.c:
				if !ok {
					return
				}
				select {
				case out <- m:
				case <-ctx.Done():
					return
				}
			case <-expired:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// join adds s and returns the history it asked for, in one step: no event is
// missed or seen twice.
func (b *Bus) join(s *subscription, since, until time.Time) []api.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []api.Message
	if !since.IsZero() {
		for i := range b.history {
			m := b.history[(b.next+i)%len(b.history)]
			at := time.Unix(0, m.TimeNano)
			if at.Before(since) || !until.IsZero() && at.After(until) || !s.match.matches(m) {
				continue
			}
			past = append(past, m)
		}
	}
	b.subscribers[s] = struct{}{}
	if b.closed {
		b.endLocked(s)
	}
	return past
}

func (b *Bus) leave(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endLocked(s)
}

// Subscribers returns how many subscriptions are open.
func (b *Bus) Subscribers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subscribers)
}

// Published is how many events there have been.
func (b *Bus) Published() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.published
}

// Close ends every subscription. Later events are still recorded.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subscribers {
		b.endLocked(s)
	}
}

func (b *Bus) sendLocked(s *subscription, m api.Message) {
	if !s.match.matches(m) {
		return
	}
	select {
	case s.c <- m:
	default: // too slow
		b.endLocked(s)
	}
}

func (b *Bus) endLocked(s *subscription) {
	if s.ended {
		return
	}
	s.ended = true
	delete(b.subscribers, s)
	close(s.c)
}

// matcher decides whether an event fits a query: the values of a key are
// alternatives (of label: all must match), the keys must all match.
type matcher map[string]map[string]bool

// keys are the filters of the Engine API's /events.
var keys = []string{
	"action", "config", "container", "daemon", "event", "image", "label", "network", "node",
	"plugin", "scope", "secret", "service", "type", "volume",
}

func newMatcher(filters map[string]map[string]bool) (matcher, error) {
	m := make(matcher, len(filters))
	for key, values := range filters {
		if !slices.Contains(keys, key) {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", key))
		}
		m[key] = maps.Clone(values)
	}
	return m, nil
}

// objectTypes are the filter keys that name an object of that type by ID or name.
var objectTypes = []api.Type{
	api.ConfigEventType, api.ContainerEventType, api.DaemonEventType, api.ImageEventType,
	api.NetworkEventType, api.NodeEventType, api.PluginEventType, api.SecretEventType,
	api.ServiceEventType, api.VolumeEventType,
}

func (m matcher) matches(ev api.Message) bool {
	if !has(m["type"], string(ev.Type)) || !has(m["scope"], ev.Scope) {
		return false
	}
	if !matchesAction(m["event"], ev) || !matchesAction(m["action"], ev) {
		return false
	}
	if !label.Match(ev.Actor.Attributes, maps.Keys(m["label"])) {
		return false
	}
	// Terms on objects of several types are alternatives: an event is about one.
	asked, fits := false, false
	for _, typ := range objectTypes {
		terms := m[string(typ)]
		if len(terms) == 0 {
			continue
		}
		asked = true
		if ev.Type == typ && namesObject(terms, ev) {
			fits = true
		}
		if typ == api.ImageEventType && ev.Type != typ && namesImage(terms, ev.Actor.Attributes["image"]) {
			fits = true
		}
	}
	return !asked || fits
}

// matchesAction compares an action, where a term without a colon also covers
// the actions that carry a value ("exec_create" covers "exec_create: ls").
func matchesAction(terms map[string]bool, ev api.Message) bool {
	if len(terms) == 0 || terms[string(ev.Action)] {
		return true
	}
	name, _, ok := strings.Cut(string(ev.Action), ":")
	return ok && terms[name]
}

func namesObject(terms map[string]bool, ev api.Message) bool {
	name := ev.Actor.Attributes["name"]
	for term := range terms {
		if term == "" {
			continue
		}
		if term == ev.Actor.ID || term == name || strings.HasPrefix(ev.Actor.ID, term) {
			return true
		}
	}
	return ev.Type == api.ImageEventType && (namesImage(terms, ev.Actor.ID) || namesImage(terms, name))
}

// namesImage compares image references with and without their tag.
func namesImage(terms map[string]bool, ref string) bool {
	if ref == "" {
		return false
	}
	return terms[ref] || terms[untagged(ref)]
}

func untagged(ref string) string {
	slash := strings.LastIndexByte(ref, '/')
	if colon := strings.LastIndexByte(ref, ':'); colon > slash {
		return ref[:colon]
	}
	return ref
}

// has reports whether no term was given or value is one of them.
func has(terms map[string]bool, value string) bool { return len(terms) == 0 || terms[value] }
