package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/moby/moby/api/types"
	containertypes "github.com/moby/moby/api/types/container"

	"lighter/engine/container"
)

func (s *Server) containerWait(w http.ResponseWriter, r *request) error {
	condition := containertypes.WaitCondition(r.query.Get("condition"))
	switch condition {
	case "":
		condition = containertypes.WaitConditionNotRunning
	case containertypes.WaitConditionNotRunning, containertypes.WaitConditionNextExit, containertypes.WaitConditionRemoved:
	default:
		return invalid("invalid condition: %q", string(condition))
	}
	result, err := s.backends.Containers.Wait(r.Context(), r.vars["name"], condition)
	if err != nil {
		return err
	}
	// The header goes out at once: it tells the client that the wait is
	// registered, so that it may start the container.
	w.Header().Set("Content-Type", types.MediaTypeJSON)
	w.WriteHeader(http.StatusOK)
	out := newFlushing(w)
	if err := out.c.Flush(); err != nil {
		return err
	}
	select {
	case res := <-result:
		reply := containertypes.WaitResponse{StatusCode: int64(res.StatusCode)}
		if res.Err != "" {
			reply.Error = &containertypes.WaitExitError{Message: res.Err}
		}
		return json.NewEncoder(out).Encode(reply)
	case <-r.Context().Done():
	case <-s.stopping:
	}
	return nil
}

func (s *Server) containerAttach(w http.ResponseWriter, r *request) error {
	session, err := s.backends.Containers.Attach(r.Context(), r.vars["name"], r.attachOptions())
	if err != nil {
		return err
	}
	return s.serveSession(w, r, session)
}

func (r *request) attachOptions() container.AttachOptions {
	return container.AttachOptions{
		Stdin:      r.flag("stdin"),
		Stdout:     r.flag("stdout"),
		Stderr:     r.flag("stderr"),
		Stream:     r.flag("stream"),
		Logs:       r.flag("logs"),
		DetachKeys: r.query.Get("detachKeys"),
	}
}

// serveSession hijacks the connection for an attach session, which ends with
// this call.
func (s *Server) serveSession(w http.ResponseWriter, r *request, session *container.AttachSession) error {
	defer session.Close()
	return s.hijack(w, r, !session.Raw, func(ctx context.Context, client *stream) error {
		return session.Serve(ctx, client)
	})
}

func (s *Server) containerLogs(w http.ResponseWriter, r *request) error {
	opts := container.LogsOptions{
		Stdout:     r.flag("stdout"),
		Stderr:     r.flag("stderr"),
		Follow:     r.flag("follow"),
		Timestamps: r.flag("timestamps"),
		Details:    r.flag("details"),
		Grep:       r.query.Get("grep"), // an addition of this engine
	}
	if !opts.Stdout && !opts.Stderr {
		return invalid("Bad parameters: you must choose at least one stream")
	}
	var err error
	if opts.Since, err = r.time("since"); err != nil {
		return err
	}
	if opts.Until, err = r.time("until"); err != nil {
		return err
	}
	if opts.Tail, err = tail(r.query.Get("tail")); err != nil {
		return err
	}
	logs, err := s.backends.Containers.Logs(r.Context(), r.vars["name"], opts)
	if err != nil {
		return err
	}
	defer logs.Close()
	contentType := types.MediaTypeRawStream
	if !logs.TTY && r.atLeast(42) {
		contentType = types.MediaTypeMultiplexedStream
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	if !opts.Follow {
		_, err = logs.WriteTo(w)
		return err
	}
	out := newFlushing(w)
	if err := out.c.Flush(); err != nil {
		return err
	}
	_, err = logs.WriteTo(out)
	return err
}

func (s *Server) execCreate(w http.ResponseWriter, r *request) error {
	var body containertypes.ExecCreateRequest
	if err := r.decode(&body, false); err != nil {
		return err
	}
	if len(body.Cmd) == 0 {
		return invalid("no exec command specified")
	}
	id, err := s.backends.Containers.ExecCreate(r.Context(), r.vars["name"], body)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, containertypes.ExecCreateResponse{ID: id})
}

func (s *Server) execStart(w http.ResponseWriter, r *request) error {
	var body containertypes.ExecStartRequest
	if err := r.decode(&body, true); err != nil {
		return err
	}
	session, err := s.backends.Containers.ExecStart(r.Context(), r.vars["id"], container.ExecStartOptions{
		Detach: body.Detach, TTY: body.Tty, ConsoleSize: body.ConsoleSize,
	})
	if err != nil {
		return err
	}
	if session == nil {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	return s.serveSession(w, r, session)
}

func (s *Server) execInspect(w http.ResponseWriter, r *request) error {
	e, err := s.backends.Containers.ExecInspect(r.Context(), r.vars["id"])
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, e)
}

func (s *Server) execResize(w http.ResponseWriter, r *request) error {
	height, width, err := r.size()
	if err != nil {
		return err
	}
	return s.backends.Containers.ExecResize(r.Context(), r.vars["id"], height, width)
}

// statsPeriod is the time between two samples of a stream.
const statsPeriod = time.Second

// streamStats sends samples, each carrying the one before it as precpu_stats.
// The first of a stream has none; a single reading that is not one-shot takes
// two, so that clients can compute a rate.
func (s *Server) streamStats(w http.ResponseWriter, r *request, stream, oneShot bool) error {
	sample, err := s.backends.Containers.Stats(r.Context(), r.vars["name"])
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", types.MediaTypeJSON)
	w.WriteHeader(http.StatusOK)
	enc := json.NewEncoder(newFlushing(w))
	if stream || oneShot {
		if err := enc.Encode(sample); err != nil || oneShot {
			return nil
		}
	}
	tick := time.NewTicker(statsPeriod)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-s.stopping:
			return nil
		case <-tick.C:
		}
		next, err := s.backends.Containers.Stats(r.Context(), r.vars["name"])
		if err != nil {
			return nil // removed meanwhile: the stream ends
		}
		next.PreCPUStats, next.PreRead = sample.CPUStats, sample.Read
		if err := enc.Encode(next); err != nil || !stream {
			return nil
		}
		sample = next
	}
}
