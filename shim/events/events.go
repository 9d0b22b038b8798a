// Package events delivers a shim's events to containerd, in order, over ttrpc.
// It is an adapter: it turns shim.Event into containerd's messages.
//
// Events wait in a bounded queue while containerd is away and are sent when it
// is back. A full queue drops its oldest event, which containerd then learns
// from the state of the tasks. Publishing never blocks.
package events

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"lighter/shim"
	"lighter/shim/ttrpc"
	"lighter/shim/wire"
)

// Bounds of the delivery.
const (
	queueSize   = 1024 // events
	callTimeout = 5 * time.Second
	retryMin    = 50 * time.Millisecond
	retryMax    = 5 * time.Second
	idleTimeout = 2 * time.Second // after which the connection is closed
)

// Publisher sends events. Make it with New; Close stops it.
type Publisher struct {
	namespace string
	address   string
	log       *slog.Logger

	mu      sync.Mutex // guards the fields below
	queue   []*envelope
	dropped int
	closed  bool
	wake    chan struct{} // capacity 1: something to do
	kick    chan struct{} // capacity 1: containerd is there again

	ctx  context.Context // the Publisher's life
	stop context.CancelFunc
	done sync.WaitGroup
}

// New returns a Publisher for the ttrpc socket at address, a path or unix://
// URI. With an empty address events are dropped.
func New(namespace, address string, log *slog.Logger) *Publisher {
	p := &Publisher{
		namespace: namespace, address: strings.TrimPrefix(address, "unix://"), log: log,
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if p.address != "" {
		p.done.Go(p.run)
	}
	return p
}

// Publish queues an event.
func (p *Publisher) Publish(ev shim.Event) {
	if p.address == "" {
		return
	}
	env, err := p.envelope(ev)
	if err != nil {
		p.log.Error("event does not encode", "topic", ev.Topic, "err", err)
		return
	}
	p.mu.Lock()
	if len(p.queue) >= queueSize {
		p.queue = append(p.queue[:0], p.queue[1:]...)
		p.dropped++
	}
	p.queue = append(p.queue, env)
	p.mu.Unlock()
	notify(p.wake)
}

// Idle reports whether every event has been sent.
func (p *Publisher) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) == 0
}

// Kick has events that wait for containerd sent now. Call it when containerd
// has shown that it is there.
func (p *Publisher) Kick() { notify(p.kick) }

// Close sends what is queued, for as long as ctx lasts, and stops.
func (p *Publisher) Close(ctx context.Context) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	notify(p.wake)
	p.Kick()
	cancel := context.AfterFunc(ctx, p.stop)
	p.done.Wait()
	cancel()
	p.stop()
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run sends the queue. It alone holds the connection.
func (p *Publisher) run() {
	var client *ttrpc.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	retry := retryMin
	for {
		env, closed := p.head()
		switch {
		case env != nil:
			var err error
			if client, err = p.send(client, env); err == nil {
				p.pop(env)
				retry = retryMin
				continue
			}
			if closed {
				return // one attempt each: containerd asks for states when it is back
			}
			p.log.Debug("event waits for containerd", "topic", env.topic, "err", err)
			if !p.pause(retry) {
				return
			}
			retry = min(2*retry, retryMax)
		case closed:
			return
		default:
			if client = p.waitForWork(client); p.ctx.Err() != nil {
				return
			}
		}
	}
}

// head returns the oldest event, which stays queued until it has been sent.
func (p *Publisher) head() (env *envelope, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		env = p.queue[0]
	}
	return env, p.closed
}

// pop removes env, unless the full queue has dropped it meanwhile.
func (p *Publisher) pop(env *envelope) {
	p.mu.Lock()
	if len(p.queue) > 0 && p.queue[0] == env {
		p.queue = p.queue[1:]
	}
	dropped := 0
	if len(p.queue) == 0 {
		p.queue = nil
		dropped, p.dropped = p.dropped, 0
	}
	p.mu.Unlock()
	if dropped > 0 {
		p.log.Warn("events were dropped while containerd was away", "events", dropped)
	}
}

func (p *Publisher) send(client *ttrpc.Client, env *envelope) (*ttrpc.Client, error) {
	ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
	defer cancel()
	if client == nil {
		var err error
		if client, err = ttrpc.Dial(ctx, p.address); err != nil {
			return nil, err
		}
	}
	if _, err := client.Call(ctx, "containerd.services.events.ttrpc.v1.Events", "Forward", env.request); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// pause waits before the next attempt. It reports false when p is stopped.
func (p *Publisher) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.kick:
	case <-p.ctx.Done():
		return false
	}
	return true
}

// waitForWork waits for an event. A connection that is not used is closed: an
// idle shim holds none.
func (p *Publisher) waitForWork(client *ttrpc.Client) *ttrpc.Client {
	var idle <-chan time.Time
	if client != nil {
		t := time.NewTimer(idleTimeout)
		defer t.Stop()
		idle = t.C
	}
	for {
		select {
		case <-p.wake:
			return client
		case <-p.ctx.Done():
			return client
		case <-idle:
			client.Close()
			client, idle = nil, nil
		}
	}
}

// envelope is an event on its way.
type envelope struct {
	topic   shim.Topic
	request []byte // an encoded ForwardRequest
}

func (p *Publisher) envelope(ev shim.Event) (*envelope, error) {
	name, event, err := message(ev)
	if err != nil {
		return nil, err
	}
	var e wire.Encoder
	e.Message(1, func(e *wire.Encoder) {
		e.Time(1, ev.Time)
		e.Text(2, p.namespace)
		e.Text(3, string(ev.Topic))
		e.Any(4, wire.Any{Type: "containerd.events." + name, Value: event})
	})
	return &envelope{topic: ev.Topic, request: e.Bytes()}, nil
}

// message turns an event into containerd's, of which it returns the name. Field
// numbers are those of containerd's events/task.proto.
func message(ev shim.Event) (name string, event []byte, err error) {
	var e wire.Encoder
	e.Text(1, ev.ContainerID)
	switch ev.Topic {
	case shim.TopicCreate:
		name = "TaskCreate"
		e.Text(2, ev.Bundle)
		for _, r := range ev.Rootfs {
			e.Message(3, func(e *wire.Encoder) {
				e.Text(1, r.Type)
				e.Text(2, r.Source)
				e.Text(3, r.Target)
				for _, o := range r.Options {
					e.Element(4, o)
				}
			})
		}
		e.Message(4, func(e *wire.Encoder) {
			e.Text(1, ev.Stdin)
			e.Text(2, ev.Stdout)
			e.Text(3, ev.Stderr)
			e.Bool(4, ev.Terminal)
		})
		e.Uint(6, uint64(ev.Pid))
	case shim.TopicStart:
		name = "TaskStart"
		e.Uint(2, uint64(ev.Pid))
	case shim.TopicOOM:
		name = "TaskOOM"
	case shim.TopicExit:
		name = "TaskExit"
		if ev.ExecID == "" {
			e.Text(2, ev.ContainerID) // so containerd names the init process here
		}
		e.Text(2, ev.ExecID)
		e.Uint(3, uint64(ev.Pid))
		e.Uint(4, uint64(ev.ExitStatus))
		e.Time(5, ev.ExitedAt)
	case shim.TopicDelete:
		name = "TaskDelete"
		e.Uint(2, uint64(ev.Pid))
		e.Uint(3, uint64(ev.ExitStatus))
		e.Time(4, ev.ExitedAt)
	case shim.TopicExecAdded:
		name = "TaskExecAdded"
		e.Text(2, ev.ExecID)
	case shim.TopicExecStarted:
		name = "TaskExecStarted"
		e.Text(2, ev.ExecID)
		e.Uint(3, uint64(ev.Pid))
	case shim.TopicPaused:
		name = "TaskPaused"
	case shim.TopicResumed:
		name = "TaskResumed"
	default:
		return "", nil, fmt.Errorf("topic %q has no message", ev.Topic)
	}
	return name, e.Bytes(), nil
}
