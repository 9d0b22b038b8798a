package stdio

import (
	"errors"
	"os"

	"lighter/shim/handover"
	"lighter/shim/log"
	"lighter/shim/wire"
)

// State is what Resume needs to go on as the same IO in another process image.
// Numbers of files are descriptors, -1 for none.
type State struct {
	cfg     Config
	sources []sourceState
	console int
	sinks   [2]int // of a file or fifos
	input   inputState
	log     *log.State // nil without a log
}

// sourceState is a stream that a pump still reads.
type sourceState struct {
	fd     int
	stream log.Stream
}

type inputState struct {
	file, keeper, fifo int
	owned, closed      bool
}

// State returns the state of io, or ok false if it cannot be handed over now: its
// process has not been started or has ended, a client is attached, a rotated log
// is being compressed, or there is a logger program. The gate must be closed.
func (io *IO) State() (st State, ok bool) {
	io.mu.Lock()
	defer io.mu.Unlock()
	select {
	case <-io.exited:
		return st, false
	default:
	}
	if !io.opened || io.closed || io.program != nil || io.broker != nil && len(io.broker.attached()) > 0 {
		return st, false
	}
	st = State{cfg: io.cfg, console: handover.FD(io.console), sinks: [2]int{-1, -1}, input: io.in.state()}
	for i, src := range io.sources {
		if fd := handover.FD(src.f); fd >= 0 { // else it has ended
			st.sources = append(st.sources, sourceState{fd, io.streams[i]})
		}
	}
	switch out := io.out.(type) {
	case *broker:
		if out.log != nil {
			l, ok := out.log.State()
			if !ok {
				return st, false
			}
			st.log = &l
		}
	case *fifoSink:
		for i, f := range out.files {
			st.sinks[i] = handover.FD(f)
		}
	case *fileSink:
		st.sinks[0] = handover.FD(out.f)
	}
	return st, true
}

func (in *input) state() inputState {
	in.mu.Lock()
	defer in.mu.Unlock()
	return inputState{
		file: handover.FD(in.file), keeper: handover.FD(in.keeper), fifo: handover.FD(in.fifo),
		owned: in.owned, closed: in.closed,
	}
}

// Files returns the descriptors.
func (st State) Files() []int {
	all := []int{st.console, st.sinks[0], st.sinks[1], st.input.file, st.input.keeper, st.input.fifo}
	for _, s := range st.sources {
		all = append(all, s.fd)
	}
	if st.log != nil {
		all = append(all, st.log.File)
	}
	var fds []int
	for _, fd := range all {
		if fd >= 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Encode adds the fields of st to e.
func (st State) Encode(e *wire.Encoder) {
	e.Text(1, st.cfg.Namespace)
	e.Text(2, st.cfg.Container)
	e.Bool(3, st.cfg.Terminal)
	e.Text(4, st.cfg.Stdin)
	e.Text(5, st.cfg.Stdout)
	e.Text(6, st.cfg.Stderr)
	e.Int(7, int64(st.cfg.UID))
	e.Int(8, int64(st.cfg.GID))
	for _, s := range st.sources {
		e.Message(9, func(e *wire.Encoder) {
			e.Int(1, int64(s.fd))
			e.Int(2, int64(s.stream))
		})
	}
	e.Int(10, int64(st.console))
	e.Int(11, int64(st.sinks[0]))
	e.Int(12, int64(st.sinks[1]))
	e.Int(13, int64(st.input.file))
	e.Int(14, int64(st.input.keeper))
	e.Int(15, int64(st.input.fifo))
	e.Bool(16, st.input.owned)
	e.Bool(17, st.input.closed)
	if st.log != nil {
		e.Message(18, st.log.Encode)
	}
}

// Decode takes the current field of d, which Encode has made.
func (st *State) Decode(d *wire.Decoder) {
	switch d.Field() {
	case 1:
		st.cfg.Namespace = d.Text()
	case 2:
		st.cfg.Container = d.Text()
	case 3:
		st.cfg.Terminal = d.Bool()
	case 4:
		st.cfg.Stdin = d.Text()
	case 5:
		st.cfg.Stdout = d.Text()
	case 6:
		st.cfg.Stderr = d.Text()
	case 7:
		st.cfg.UID = int(d.Int())
	case 8:
		st.cfg.GID = int(d.Int())
	case 9:
		var s sourceState
		d.Message(func(d *wire.Decoder) {
			switch d.Field() {
			case 1:
				s.fd = int(d.Int())
			case 2:
				s.stream = log.Stream(d.Int())
			}
		})
		st.sources = append(st.sources, s)
	case 10:
		st.console = int(d.Int())
	case 11:
		st.sinks[0] = int(d.Int())
	case 12:
		st.sinks[1] = int(d.Int())
	case 13:
		st.input.file = int(d.Int())
	case 14:
		st.input.keeper = int(d.Int())
	case 15:
		st.input.fifo = int(d.Int())
	case 16:
		st.input.owned = d.Bool()
	case 17:
		st.input.closed = d.Bool()
	case 18:
		st.log = &log.State{}
		d.Message(st.log.Decode)
	}
}

// Config returns what the IO was made with.
func (st State) Config() Config { return st.cfg }

// Resume goes on as the IO whose state st is, and carries at once.
func Resume(st State, deps Deps) (*IO, error) {
	if deps.Busy == nil {
		deps.Busy = func() {}
	}
	io := &IO{cfg: st.cfg, deps: deps, opened: true, exited: make(chan struct{}), drained: make(chan struct{})}
	if err := io.resumeSink(st); err != nil {
		return nil, err
	}
	io.mu.Lock()
	defer io.mu.Unlock()
	// The console is one file, whatever it is used for.
	file := func(fd int, name string) *os.File {
		if fd >= 0 && fd == st.console {
			if io.console == nil {
				io.console = handover.File(fd, "console")
			}
			return io.console
		}
		return handover.File(fd, name)
	}
	file(st.console, "console")
	io.in.mu.Lock()
	io.in.file, io.in.owned, io.in.closed = file(st.input.file, "stdin"), st.input.owned, st.input.closed
	io.in.keeper, io.in.fifo = handover.File(st.input.keeper, "stdin"), handover.File(st.input.fifo, "stdin")
	if io.in.fifo != nil {
		io.in.startReaderLocked(deps)
	}
	io.in.mu.Unlock()
	for _, s := range st.sources {
		var exited <-chan struct{}
		if s.fd == st.console {
			exited = io.exited
		}
		io.pumpLocked(file(s.fd, s.stream.String()), s.stream, exited)
	}
	return io, nil
}

// resumeSink makes the sink anew, on the files that it had.
func (io *IO) resumeSink(st State) error {
	if s, is, err := io.cfg.shimlog(); is {
		if err != nil {
			return err
		}
		var w *log.Writer
		if st.log != nil {
			if w, err = log.Resume(logConfig(s), *st.log, io.deps.Log); err != nil {
				return err
			}
		}
		io.broker = newBroker(w, io.cfg.Terminal, s, &io.in)
		io.out = io.broker
		return nil
	}
	io.stdinPath = io.cfg.stdinPath()
	scheme, _, err := splitScheme(io.cfg.Stdout)
	switch {
	case err != nil:
		return err
	case scheme == "file":
		io.out = &fileSink{f: handover.File(st.sinks[0], "stdout")}
	case scheme == "" || scheme == "fifo":
		io.out = &fifoSink{files: [2]*os.File{handover.File(st.sinks[0], "stdout"), handover.File(st.sinks[1], "stderr")}}
	default:
		return errors.New("stdio of scheme " + scheme + " cannot be handed over")
	}
	return nil
}
