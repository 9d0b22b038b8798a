package server

import (
	"net/http"

	"lighter/internal/compression"
)

// What this engine adds to the Engine API's volumes.

func (s *Server) volumeRename(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Volumes.Rename(r.Context(), r.vars["name"], r.query.Get("name")))
}

func (s *Server) volumeClone(w http.ResponseWriter, r *request) error {
	v, err := s.backends.Volumes.Clone(r.Context(), r.vars["name"], r.query.Get("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, v)
}

func (s *Server) volumeImport(w http.ResponseWriter, r *request) error {
	v, err := s.backends.Volumes.Import(r.Context(), r.vars["name"], r.Body)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, v)
}

func (s *Server) volumeExport(w http.ResponseWriter, r *request) error {
	kind := compression.Kind(r.query.Get("compress"))
	if kind != compression.None && kind != compression.Gzip && kind != compression.Zstd {
		return invalid("invalid compression %q: gzip and zstd are known", kind)
	}
	if _, err := s.backends.Volumes.Inspect(r.Context(), r.vars["name"]); err != nil {
		return err
	}
	return s.backends.Volumes.Export(r.Context(), r.vars["name"], &tarWriter{w}, kind)
}
