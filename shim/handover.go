package shim

import (
	"fmt"

	"lighter/shim/oom"
	"lighter/shim/stdio"
	"lighter/shim/wire"
)

// ServiceState is what Resume needs to go on as the same Service in another
// process image.
type ServiceState struct {
	containers []containerState
}

// containerState is the state of a container that runs and has no execs.
type containerState struct {
	id, bundle string
	options    Options
	pid        int
	status     Status
	ownPidns   bool
	attach     int // descriptor of the attach socket, -1 for none
	attachPath string
	oom        *oom.State // nil if it is not watched
	io         stdio.State
}

// Handover returns the Service's state, or ok false if it cannot be handed over now.
// It can when containers run, no process of theirs has just ended, and nobody is
// attached. The gate must be closed, and stay so while the state is used.
func (s *Service) Handover() (st ServiceState, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.containers) == 0 {
		return st, false
	}
	for _, c := range s.containers {
		cs, ok := c.state()
		if !ok {
			return st, false
		}
		st.containers = append(st.containers, cs)
	}
	return st, true
}

func (c *container) state() (st containerState, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A runtime program's adapter has a memory of its own.
	if c.init == nil || len(c.execs) > 0 || c.options.BinaryName != "" {
		return st, false
	}
	init := c.init.snapshot()
	if init.Status != Running && init.Status != Paused || !c.service.deps.Reaper.Tracked(init.Pid) {
		return st, false
	}
	st = containerState{
		id: c.id, bundle: c.bundle, options: c.options, pid: init.Pid, status: init.Status,
		ownPidns: c.ownPidns, attach: -1,
	}
	if c.attach != nil {
		st.attach, st.attachPath = c.attach.Listener(), c.attach.Path()
	}
	if c.oomWatch != nil {
		w := c.oomWatch.State()
		st.oom = &w
	}
	st.io, ok = c.init.io.State()
	return st, ok
}

// Files returns the descriptors that have to reach the new image.
func (st ServiceState) Files() []int {
	var fds []int
	for _, c := range st.containers {
		if c.attach >= 0 {
			fds = append(fds, c.attach)
		}
		if c.oom != nil {
			fds = append(fds, c.oom.Event)
		}
		fds = append(fds, c.io.Files()...)
	}
	return fds
}

// Encode adds the fields of st to e.
func (st ServiceState) Encode(e *wire.Encoder) {
	for _, c := range st.containers {
		e.Message(1, c.encode)
	}
}

// Decode takes the current field of d, which Encode has made.
func (st *ServiceState) Decode(d *wire.Decoder) {
	if d.Field() == 1 {
		var c containerState
		d.Message(c.decode)
		st.containers = append(st.containers, c)
	}
}

func (c containerState) encode(e *wire.Encoder) {
	e.Text(1, c.id)
	e.Text(2, c.bundle)
	e.Message(3, c.options.encode)
	e.Int(4, int64(c.pid))
	e.Int(5, int64(c.status))
	e.Bool(6, c.ownPidns)
	e.Int(7, int64(c.attach))
	e.Text(8, c.attachPath)
	if c.oom != nil {
		e.Message(9, func(e *wire.Encoder) {
			e.Int(1, int64(c.oom.Event))
			e.Text(2, c.oom.Counts)
			e.Uint(3, c.oom.Seen)
		})
	}
	e.Message(10, c.io.Encode)
}

func (c *containerState) decode(d *wire.Decoder) {
	switch d.Field() {
	case 1:
		c.id = d.Text()
	case 2:
		c.bundle = d.Text()
	case 3:
		d.Message(c.options.decode)
	case 4:
		c.pid = int(d.Int())
	case 5:
		c.status = Status(d.Int())
	case 6:
		c.ownPidns = d.Bool()
	case 7:
		c.attach = int(d.Int())
	case 8:
		c.attachPath = d.Text()
	case 9:
		c.oom = &oom.State{}
		d.Message(func(d *wire.Decoder) {
			switch d.Field() {
			case 1:
				c.oom.Event = int(d.Int())
			case 2:
				c.oom.Counts = d.Text()
			case 3:
				c.oom.Seen = d.Uint()
			}
		})
	case 10:
		d.Message(c.io.Decode)
	}
}

func (o Options) encode(e *wire.Encoder) {
	e.Text(1, o.BinaryName)
	e.Text(2, o.Root)
	e.Bool(3, o.SystemdCgroup)
	e.Bool(4, o.NoPivotRoot)
	e.Bool(5, o.NoNewKeyring)
	e.Text(6, o.ShimCgroup)
	e.Uint(7, uint64(o.IOUID))
	e.Uint(8, uint64(o.IOGID))
}

func (o *Options) decode(d *wire.Decoder) {
	switch d.Field() {
	case 1:
		o.BinaryName = d.Text()
	case 2:
		o.Root = d.Text()
	case 3:
		o.SystemdCgroup = d.Bool()
	case 4:
		o.NoPivotRoot = d.Bool()
	case 5:
		o.NoNewKeyring = d.Bool()
	case 6:
		o.ShimCgroup = d.Text()
	case 7:
		o.IOUID = uint32(d.Uint())
	case 8:
		o.IOGID = uint32(d.Uint())
	}
}

// Resume returns a Service that goes on as the one whose state st is.
func Resume(deps Deps, st ServiceState) (*Service, error) {
	s := NewService(deps)
	for _, cs := range st.containers {
		if err := s.resume(cs); err != nil {
			return nil, fmt.Errorf("take over container %q: %w", cs.id, err)
		}
	}
	return s, nil
}

func (s *Service) resume(st containerState) error {
	rt, err := s.deps.Runtime(st.options)
	if err != nil {
		return err
	}
	c := &container{
		id: st.id, bundle: st.bundle, service: s, log: s.deps.Log.With("container", st.id),
		runtime: rt, options: st.options, ownPidns: st.ownPidns,
	}
	io, err := stdio.Resume(st.io, c.stdioDeps())
	if err != nil {
		return err
	}
	p := newProcess("", io, st.io.Config(), nil, s.deps.Reaper)
	p.id, p.status = st.pid, st.status
	c.init, c.attachInit = p, io
	if st.attach >= 0 {
		c.attach = stdio.ResumeServer(st.attachPath, st.attach, c.streams, c.stdioDeps())
	}
	if st.oom != nil {
		c.oomWatch = oom.Resume(*st.oom, s.deps.Gate, c.reportOOM)
	}
	s.mu.Lock()
	s.containers[c.id] = c
	s.mu.Unlock()
	exit := s.deps.Reaper.Track(p.id)
	s.pending.Go(func() { c.finishInit(p, <-exit) })
	return nil
}
