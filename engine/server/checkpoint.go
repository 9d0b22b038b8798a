package server

import (
	"net/http"

	"github.com/moby/moby/api/types/checkpoint"
)

// experimental serves h only with an engine in experimental mode.
func (s *Server) experimental(h handler) handler {
	return func(w http.ResponseWriter, r *request) error {
		if !s.trial {
			return notImplemented("This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.")
		}
		return h(w, r)
	}
}

func (s *Server) checkpointList(w http.ResponseWriter, r *request) error {
	list, err := s.backends.Containers.Checkpoints(r.Context(), r.vars["name"], r.query.Get("dir"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) checkpointCreate(w http.ResponseWriter, r *request) error {
	var req checkpoint.CreateRequest
	if err := r.decode(&req, false); err != nil {
		return err
	}
	if err := s.backends.Containers.CreateCheckpoint(r.Context(), r.vars["name"], req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) checkpointRemove(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Containers.RemoveCheckpoint(r.Context(), r.vars["name"], r.vars["checkpoint"], r.query.Get("dir")))
}
