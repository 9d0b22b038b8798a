package ttrpc

import (
	"os"

	"lighter/shim/handover"
	"lighter/shim/wire"
)

// State is what another process image needs to go on as the same Server: Resume
// takes it. Files says which descriptors have to reach it, under the numbers
// that they have now.
type State struct {
	Listener int
	Conns    []ConnState
}

// ConnState is the state of a connection between two frames.
type ConnState struct {
	fd      int
	last    uint32
	waiting map[uint32]waitingCall
}

// State returns the Server's state. The gate must be closed, and stay so while
// the state is used.
func (s *Server) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{Listener: handover.FD(s.listener)}
	for c := range s.conns {
		c.mu.Lock()
		st.Conns = append(st.Conns, ConnState{handover.FD(c.file), c.last, c.waiting})
		c.mu.Unlock()
	}
	return st
}

// Files returns the descriptors.
func (st State) Files() []int {
	fds := []int{st.Listener}
	for _, c := range st.Conns {
		fds = append(fds, c.fd)
	}
	return fds
}

// Encode adds the fields of st to e.
func (st State) Encode(e *wire.Encoder) {
	e.Int(1, int64(st.Listener))
	for _, c := range st.Conns {
		e.Message(2, c.encode)
	}
}

func (c ConnState) encode(e *wire.Encoder) {
	e.Int(1, int64(c.fd))
	e.Uint(2, uint64(c.last))
	for stream, w := range c.waiting {
		e.Message(3, func(e *wire.Encoder) {
			e.Uint(1, uint64(stream))
			e.Time(2, w.deadline)
			e.Raw(3, w.encode())
		})
	}
}

// Decode takes the current field of d, which Encode has made.
func (st *State) Decode(d *wire.Decoder) {
	switch d.Field() {
	case 1:
		st.Listener = int(d.Int())
	case 2:
		c := ConnState{waiting: make(map[uint32]waitingCall)}
		d.Message(c.decode)
		st.Conns = append(st.Conns, c)
	}
}

func (c *ConnState) decode(d *wire.Decoder) {
	switch d.Field() {
	case 1:
		c.fd = int(d.Int())
	case 2:
		c.last = uint32(d.Uint())
	case 3:
		var stream uint32
		var w waitingCall
		var err error
		d.Message(func(d *wire.Decoder) {
			switch d.Field() {
			case 1:
				stream = uint32(d.Uint())
			case 2:
				w.deadline = d.Time()
			case 3:
				err = w.request.decode(d.Raw())
			}
		})
		if err == nil {
			c.waiting[stream] = w
		}
	}
}

// Resume is Serve for the descriptors and calls of another Server's state.
func Resume(st State, cfg Config) *Server {
	s := Serve(os.NewFile(uintptr(st.Listener), "socket"), cfg)
	for _, cs := range st.Conns {
		c := &conn{server: s, file: os.NewFile(uintptr(cs.fd), "connection"), last: cs.last}
		s.add(c)
		for stream, w := range cs.waiting {
			c.startWaiting(stream, w)
		}
	}
	return s
}
