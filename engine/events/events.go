// Package events is the engine's event bus: what happened to containers,
// images, volumes and networks, kept in a short history and sent to whoever
// watches.
//
// Publishing never blocks: a subscriber that does not read loses its
// subscription, not the publisher its time.
package events

import (
	"maps"
	"strings"
	"sync"
	"time"

	api "github.com/moby/moby/api/types/events"
)

const (
	// historySize is how many past events a new subscriber can ask for.
	historySize = 256
	// queueSize bounds the events that wait for one subscriber. When it is
	// full the subscription ends (Subscription.Lagged).
	queueSize = 1024
)

// Filters are the terms of an event query: the values of a key are alternatives,
// the keys must all match. The keys are those of the Engine API: action event
// config container daemon image label network node plugin scope secret service
// type volume.
type Filters map[string]map[string]bool

// Bus distributes events. Make it with New. It is safe for concurrent use.
type Bus struct {
	mu          sync.Mutex // guards the fields below
	history     []api.Message
	next        int // index in history that the next event replaces, once full
	subscribers map[*Subscription]struct{}
	last        time.Time
	closed      bool
}

// Subscription receives events until Close, a full queue, or the end of the bus.
type Subscription struct {
	// C delivers the events in order; it is closed when the subscription ends.
	C <-chan api.Message

	bus     *Bus
	c       chan api.Message
	match   matcher
	ended   bool // guarded by bus.mu
	lagging bool // guarded by bus.mu
}

// New returns an empty bus.
func New() *Bus {
	return &Bus{subscribers: make(map[*Subscription]struct{})}
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
		s.sendLocked(m)
	}
}

// Subscribe returns the past events between since and until that match, and a
// subscription to those that follow. A zero since asks for no history; a zero
// until for no upper bound. The caller closes the subscription.
func (b *Bus) Subscribe(since, until time.Time, filters Filters) ([]api.Message, *Subscription) {
	s := &Subscription{bus: b, c: make(chan api.Message, queueSize), match: newMatcher(filters)}
	s.C = s.c
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
	if b.closed {
		s.endLocked()
	} else {
		b.subscribers[s] = struct{}{}
	}
	return past, s
}

// Subscribers returns how many subscriptions are open.
func (b *Bus) Subscribers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subscribers)
}

// Close ends every subscription. Later events are still recorded.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subscribers {
		s.endLocked()
	}
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.endLocked()
}

// Lagged reports whether the subscription ended because its reader was too slow.
func (s *Subscription) Lagged() bool {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.lagging
}

func (s *Subscription) sendLocked(m api.Message) {
	if !s.match.matches(m) {
		return
	}
	select {
	case s.c <- m:
	default:
		s.lagging = true
		s.endLocked()
	}
}

func (s *Subscription) endLocked() {
	if s.ended {
		return
	}
	s.ended = true
	delete(s.bus.subscribers, s)
	close(s.c)
}

// matcher decides whether an event fits Filters.
type matcher struct{ filters Filters }

func newMatcher(f Filters) matcher {
	m := matcher{filters: make(Filters, len(f))}
	for key, values := range f {
		m.filters[key] = maps.Clone(values)
	}
	return m
}

// objectTypes are the filter keys that name an object of that type by ID or name.
var objectTypes = []api.Type{
	api.ConfigEventType, api.ContainerEventType, api.DaemonEventType, api.ImageEventType,
	api.NetworkEventType, api.NodeEventType, api.PluginEventType, api.SecretEventType,
	api.ServiceEventType, api.VolumeEventType,
}

func (m matcher) matches(ev api.Message) bool {
	f := m.filters
	if !has(f["type"], string(ev.Type)) || !has(f["scope"], ev.Scope) {
		return false
	}
	if !m.matchesAction(f["event"], ev) || !m.matchesAction(f["action"], ev) {
		return false
	}
	for term := range f["label"] {
		key, value, withValue := strings.Cut(term, "=")
		got, ok := ev.Actor.Attributes[key]
		if !ok || withValue && got != value {
			return false
		}
	}
	// Terms on objects of several types are alternatives: an event is about one.
	asked, fits := false, false
	for _, typ := range objectTypes {
		terms := f[string(typ)]
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
func (m matcher) matchesAction(terms map[string]bool, ev api.Message) bool {
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
