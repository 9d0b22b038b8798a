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
	"net"
	"strings"
	"sync"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	forwardapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"lighter/shim"
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
	queue   []*types.Envelope
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
			p.log.Debug("event waits for containerd", "topic", env.Topic, "err", err)
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
func (p *Publisher) head() (env *types.Envelope, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		env = p.queue[0]
	}
	return env, p.closed
}

// pop removes env, unless the full queue has dropped it meanwhile.
func (p *Publisher) pop(env *types.Envelope) {
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

func (p *Publisher) send(client *ttrpc.Client, env *types.Envelope) (*ttrpc.Client, error) {
	ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
	defer cancel()
	if client == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.address)
		if err != nil {
			return nil, err
		}
		client = ttrpc.NewClient(conn)
	}
	if _, err := forwardapi.NewTTRPCEventsClient(client).Forward(ctx, &forwardapi.ForwardRequest{Envelope: env}); err != nil {
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

func (p *Publisher) envelope(ev shim.Event) (*types.Envelope, error) {
	m, err := message(ev)
	if err != nil {
		return nil, err
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &types.Envelope{
		Timestamp: timestamppb.New(ev.Time),
		Namespace: p.namespace,
		Topic:     string(ev.Topic),
		Event:     &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: b},
	}, nil
}

// message turns an event into containerd's.
func message(ev shim.Event) (proto.Message, error) {
	switch ev.Topic {
	case shim.TopicCreate:
		m := &eventapi.TaskCreate{
			ContainerID: ev.ContainerID, Bundle: ev.Bundle, Pid: uint32(ev.Pid),
			IO: &eventapi.TaskIO{Stdin: ev.Stdin, Stdout: ev.Stdout, Stderr: ev.Stderr, Terminal: ev.Terminal},
		}
		for _, r := range ev.Rootfs {
			m.Rootfs = append(m.Rootfs, &types.Mount{Type: r.Type, Source: r.Source, Target: r.Target, Options: r.Options})
		}
		return m, nil
	case shim.TopicStart:
		return &eventapi.TaskStart{ContainerID: ev.ContainerID, Pid: uint32(ev.Pid)}, nil
	case shim.TopicOOM:
		return &eventapi.TaskOOM{ContainerID: ev.ContainerID}, nil
	case shim.TopicExit:
		id := ev.ExecID
		if id == "" {
			id = ev.ContainerID // so containerd names the init process here
		}
		return &eventapi.TaskExit{
			ContainerID: ev.ContainerID, ID: id, Pid: uint32(ev.Pid),
			ExitStatus: uint32(ev.ExitStatus), ExitedAt: timestamppb.New(ev.ExitedAt),
		}, nil
	case shim.TopicDelete:
		return &eventapi.TaskDelete{
			ContainerID: ev.ContainerID, Pid: uint32(ev.Pid),
			ExitStatus: uint32(ev.ExitStatus), ExitedAt: timestamppb.New(ev.ExitedAt),
		}, nil
	case shim.TopicExecAdded:
		return &eventapi.TaskExecAdded{ContainerID: ev.ContainerID, ExecID: ev.ExecID}, nil
	case shim.TopicExecStarted:
		return &eventapi.TaskExecStarted{ContainerID: ev.ContainerID, ExecID: ev.ExecID, Pid: uint32(ev.Pid)}, nil
	case shim.TopicPaused:
		return &eventapi.TaskPaused{ContainerID: ev.ContainerID}, nil
	case shim.TopicResumed:
		return &eventapi.TaskResumed{ContainerID: ev.ContainerID}, nil
	}
	return nil, fmt.Errorf("topic %q has no message", ev.Topic)
}
