package server

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	containertypes "github.com/moby/moby/api/types/container"
)

func (s *Server) containerChanges(w http.ResponseWriter, r *request) error {
	changes, err := s.backends.Containers.Changes(r.Context(), r.vars["name"])
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, changes)
}

func (s *Server) containerExport(w http.ResponseWriter, r *request) error {
	return s.backends.Containers.Export(r.Context(), r.vars["name"], &tarWriter{w})
}

func (r *request) archivePath() (string, error) {
	path := r.query.Get("path")
	if path == "" {
		return "", invalid("bad parameter: 'path' cannot be empty")
	}
	return path, nil
}

// setPathStat describes the path in the header that docker cp reads.
func setPathStat(w http.ResponseWriter, stat containertypes.PathStat) error {
	raw, err := json.Marshal(stat)
	if err != nil {
		return err
	}
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(raw))
	return nil
}

func (s *Server) archiveStat(w http.ResponseWriter, r *request) error {
	path, err := r.archivePath()
	if err != nil {
		return err
	}
	stat, err := s.backends.Containers.ArchiveStat(r.Context(), r.vars["name"], path)
	if err != nil {
		return err
	}
	return setPathStat(w, stat)
}

func (s *Server) archiveGet(w http.ResponseWriter, r *request) error {
	path, err := r.archivePath()
	if err != nil {
		return err
	}
	archive, stat, err := s.backends.Containers.ArchiveGet(r.Context(), r.vars["name"], path)
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := setPathStat(w, stat); err != nil {
		return err
	}
	_, err = io.Copy(&tarWriter{w}, archive)
	return err
}

func (s *Server) archivePut(_ http.ResponseWriter, r *request) error {
	path, err := r.archivePath()
	if err != nil {
		return err
	}
	return s.backends.Containers.ArchivePut(r.Context(), r.vars["name"], path, r.Body,
		r.flag("noOverwriteDirNonDir"), r.flag("copyUIDGID"))
}
