package server

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types"
	eventtypes "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
)

func (s *Server) ping(w http.ResponseWriter, r *request) error {
	h := w.Header()
	h.Set("Builder-Version", "2") // BuildKit
	if s.buildKit != nil && !s.buildKit() {
		h.Set("Builder-Version", "1")
	}
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := io.WriteString(w, "OK")
	return err
}

func (s *Server) version(w http.ResponseWriter, r *request) error {
	v, err := s.backends.System.Version(r.Context())
	if err != nil {
		return err
	}
	v.MinAPIVersion = fmt.Sprintf("%d.%d", s.min.major, s.min.minor)
	return writeJSON(w, http.StatusOK, v)
}

// event is an event on the wire: the message and, for clients before API 1.52,
// the fields that container and image events once consisted of.
type event struct {
	eventtypes.Message
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
}

func (s *Server) events(w http.ResponseWriter, r *request) error {
	since, err := r.time("since")
	if err != nil {
		return err
	}
	until, err := r.time("until")
	if err != nil {
		return err
	}
	filters, err := r.filters()
	if err != nil {
		return err
	}
	messages, err := s.backends.Events.Subscribe(r.Context(), since, until, filters)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", eventsMediaType(r))
	w.WriteHeader(http.StatusOK)
	out := newFlushing(w)
	if err := out.c.Flush(); err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	var before []byte // each record
	if w.Header().Get("Content-Type") == types.MediaTypeJSONSequence {
		before = []byte{0x1e} // RFC 7464
	}
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			e := event{Message: m}
			if !r.atLeast(52) && (m.Type == eventtypes.ContainerEventType || m.Type == eventtypes.ImageEventType) {
				e.Status, e.ID, e.From = string(m.Action), m.Actor.ID, m.Actor.Attributes["image"]
			}
			if _, err := w.Write(before); err != nil {
				return nil // the client left
			}
			if err := enc.Encode(e); err != nil {
				return nil
			}
		case <-s.stopping:
			return nil
		}
	}
}

// eventsMediaType is the form of the stream: of those that the client accepts,
// the one that it names first.
func eventsMediaType(r *request) string {
	if !r.atLeast(52) {
		return types.MediaTypeJSON
	}
	for _, header := range r.Header.Values("Accept") {
		for accept := range strings.SplitSeq(header, ",") {
			media, _, _ := mime.ParseMediaType(accept)
			switch media {
			case types.MediaTypeNDJSON, types.MediaTypeJSONLines, types.MediaTypeJSONSequence:
				return media
			}
		}
	}
	return types.MediaTypeJSON
}

// registryLogin answers POST /auth: it asks the registry whether it takes the
// credentials.
func (s *Server) registryLogin(w http.ResponseWriter, r *request) error {
	var auth registry.AuthConfig
	if err := r.decode(&auth, false); err != nil {
		return err
	}
	answer, err := s.backends.Images.Login(r.Context(), auth)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}
