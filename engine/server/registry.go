package server

import (
	"net/http"
	"strconv"

	"lighter/engine/image"
)

// imageSearch answers GET /images/search.
func (s *Server) imageSearch(w http.ResponseWriter, r *request) error {
	limit := 0
	if raw := r.query.Get("limit"); raw != "" {
		n, err := strconv.Atoi(raw)
		if err != nil {
			return invalid("invalid limit specified: %v", err)
		}
		limit = n
	}
	filters, err := r.filters()
	if err != nil {
		return err
	}
	list, err := s.backends.Images.Search(r.Context(), r.query.Get("term"), limit, filters, r.registryAuth())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list)
}

// distributionInspect answers GET /distribution/{name}/json.
func (s *Server) distributionInspect(w http.ResponseWriter, r *request) error {
	found, err := s.backends.Images.Distribution(r.Context(), r.vars["name"], r.registryAuth())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, found)
}

// imageAttestations answers GET /images/{name}/attestations.
func (s *Server) imageAttestations(w http.ResponseWriter, r *request) error {
	platform, err := r.platformJSON()
	if err != nil {
		return err
	}
	list, err := s.backends.Images.Attestations(r.Context(), r.vars["name"], image.AttestationOptions{
		Platform: platform, Types: r.query["type"], Statement: r.flag("statement"),
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list)
}
