package log

import (
	"bytes"
	"log/slog"

	"lighter/shim/handover"
	"lighter/shim/wire"
)

// State is what Resume needs to go on as the same Writer in another process image.
// File is a descriptor, -1 while there is none.
type State struct {
	File    int
	size    int64
	dropped int64
	failing bool
	// What SetLimits may have changed.
	maxBytes int64
	maxFiles int
	streams  [numStreams]splitter
}

// State returns the Writer's state, or ok false while a rotated file is being
// compressed. Nobody may write until the state has been used.
func (w *Writer) State() (st State, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file.compressions.Load() > 0 {
		return st, false
	}
	return State{
		File: handover.FD(w.file.f), size: w.file.size, dropped: w.dropped, failing: w.failing, streams: w.streams,
		maxBytes: w.file.cfg.MaxBytes, maxFiles: w.file.cfg.MaxFiles,
	}, true
}

// Encode adds the fields of st to e.
func (st State) Encode(e *wire.Encoder) {
	e.Int(1, int64(st.File))
	e.Int(2, st.size)
	e.Int(3, st.dropped)
	e.Bool(4, st.failing)
	e.Int(6, st.maxBytes)
	e.Int(7, int64(st.maxFiles))
	for i, sp := range st.streams {
		e.Message(5, func(e *wire.Encoder) {
			e.Int(1, int64(i))
			e.Raw(2, sp.held)
			e.Text(3, sp.id)
			e.Int(4, int64(sp.ordinal))
		})
	}
}

// Decode takes the current field of d, which Encode has made.
func (st *State) Decode(d *wire.Decoder) {
	switch d.Field() {
	case 1:
		st.File = int(d.Int())
	case 2:
		st.size = d.Int()
	case 3:
		st.dropped = d.Int()
	case 4:
		st.failing = d.Bool()
	case 6:
		st.maxBytes = d.Int()
	case 7:
		st.maxFiles = int(d.Int())
	case 5:
		var i int64
		var sp splitter
		d.Message(func(d *wire.Decoder) {
			switch d.Field() {
			case 1:
				i = d.Int()
			case 2:
				sp.held = bytes.Clone(d.Raw())
			case 3:
				sp.id = d.Text()
			case 4:
				sp.ordinal = int(d.Int())
			}
		})
		if i >= 0 && i < int64(numStreams) {
			st.streams[i] = sp
		}
	}
}

// Resume goes on with the log of another Writer that was opened with cfg.
func Resume(cfg Config, st State, log *slog.Logger) (*Writer, error) {
	w, err := newWriter(cfg, log)
	if err != nil {
		return nil, err
	}
	cfg.MaxBytes, cfg.MaxFiles = st.maxBytes, st.maxFiles
	w.file = resumeRotating(cfg, handover.File(st.File, cfg.Path), st.size, &w.released, w.log)
	w.dropped, w.failing, w.streams = st.dropped, st.failing, st.streams
	return w, nil
}
