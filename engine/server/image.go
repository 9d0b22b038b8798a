package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/engine/image"
)

func (s *Server) imageList(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	list, err := s.backends.Images.List(r.Context(), image.ListOptions{
		All:        r.flag("all"),
		Filters:    filters,
		SharedSize: r.flag("shared-size"),
		Manifests:  r.flag("manifests") && r.atLeast(47),
	})
	if err != nil {
		return err
	}
	if list == nil {
		list = []imagetypes.Summary{}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) imageInspect(w http.ResponseWriter, r *request) error {
	platform, err := r.platformJSON()
	if err != nil {
		return err
	}
	opts := image.InspectOptions{Platform: platform, Manifests: r.flag("manifests") && r.atLeast(48)}
	if opts.Manifests && platform != nil {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	img, err := s.backends.Images.Inspect(r.Context(), r.vars["name"], opts)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, img)
}

func (s *Server) imageHistory(w http.ResponseWriter, r *request) error {
	platform, err := r.platformJSON()
	if err != nil {
		return err
	}
	history, err := s.backends.Images.History(r.Context(), r.vars["name"], platform)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, history)
}

func (s *Server) imageTag(w http.ResponseWriter, r *request) error {
	if err := s.backends.Images.Tag(r.Context(), r.vars["name"], r.query.Get("repo"), r.query.Get("tag")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) imageRemove(w http.ResponseWriter, r *request) error {
	opts := image.RemoveOptions{Force: r.flag("force"), NoPrune: r.flag("noprune")}
	for _, raw := range r.query["platforms"] {
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(raw), &p); err != nil {
			return invalid("failed to parse platform: %v", err)
		}
		opts.Platforms = append(opts.Platforms, p)
	}
	removed, err := s.backends.Images.Remove(r.Context(), r.vars["name"], opts)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, removed)
}

func (s *Server) imagePrune(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	report, err := s.backends.Images.Prune(r.Context(), filters)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, imagetypes.PruneReport{
		ImagesDeleted: report.ImagesDeleted, SpaceReclaimed: report.SpaceReclaimed,
	})
}

// imageCreate pulls (fromImage) or imports (fromSrc).
func (s *Server) imageCreate(w http.ResponseWriter, r *request) error {
	platform, err := r.platform()
	if err != nil {
		return err
	}
	if from := r.query.Get("fromImage"); from != "" {
		return s.progress(w, func(out image.Progress) error {
			return s.backends.Images.Pull(r.Context(), from, r.query.Get("tag"), platform, r.registryAuth(), out)
		})
	}
	source := r.query.Get("fromSrc")
	if source == "" {
		return invalid("either fromImage or fromSrc is required")
	}
	url := ""
	if source != "-" {
		url = source
	}
	ref := r.query.Get("repo")
	if tag := r.query.Get("tag"); tag != "" {
		ref += ":" + tag
	}
	return s.progress(w, func(out image.Progress) error {
		_, err := s.backends.Images.Import(r.Context(), image.ImportInput{
			Source:   r.Body,
			URL:      url,
			Ref:      ref,
			Message:  r.query.Get("message"),
			Changes:  r.query["changes"],
			Platform: platform,
		}, out)
		return err
	})
}

func (s *Server) imagePush(w http.ResponseWriter, r *request) error {
	platform, err := r.platformJSON()
	if err != nil {
		return err
	}
	return s.progress(w, func(out image.Progress) error {
		return s.backends.Images.Push(r.Context(), r.vars["name"], r.query.Get("tag"), platform, r.registryAuth(), out)
	})
}

func (s *Server) imageLoad(w http.ResponseWriter, r *request) error {
	platforms, err := r.platformList()
	if err != nil {
		return err
	}
	quiet := r.flagOr("quiet", true)
	return s.progress(w, func(out image.Progress) error {
		return s.backends.Images.Load(r.Context(), r.Body, platforms, quiet, out)
	})
}

func (s *Server) imageSave(w http.ResponseWriter, r *request) error {
	names := r.query["names"]
	if name, ok := r.vars["name"]; ok {
		names = []string{name}
	}
	if len(names) == 0 {
		return invalid("at least one image name is required")
	}
	platforms, err := r.platformList()
	if err != nil {
		return err
	}
	return s.backends.Images.Save(r.Context(), names, platforms, &tarWriter{w})
}

// platformList reads the repeatable JSON form of platform.
func (r *request) platformList() ([]ocispec.Platform, error) {
	var list []ocispec.Platform
	for _, raw := range r.query["platform"] {
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(raw), &p); err != nil {
			return nil, invalid("failed to parse platform: %v", err)
		}
		list = append(list, p)
	}
	return list, nil
}

// tarWriter names the body's type when the first byte is written, so that an
// error before it still becomes a JSON response.
type tarWriter struct{ http.ResponseWriter }

func (t *tarWriter) Write(p []byte) (int, error) {
	t.Header().Set("Content-Type", "application/x-tar")
	return t.ResponseWriter.Write(p)
}

// progress runs op with a stream of progress messages as the response. The
// status goes out with the first message: an error before it is an ordinary
// error response, a later one is the stream's last message.
func (s *Server) progress(w http.ResponseWriter, op func(image.Progress) error) error {
	out := &progressStream{w: newFlushing(w), header: w.Header()}
	err := op(out.send)
	out.mu.Lock()
	defer out.mu.Unlock()
	if err == nil || !out.begun {
		return err
	}
	return errors.Join(err, out.write(jsonstream.Message{Error: &jsonstream.Error{Code: statusOf(err), Message: err.Error()}}))
}

// progressStream writes messages as JSON objects that end in CRLF.
type progressStream struct {
	w      io.Writer
	header http.Header

	mu    sync.Mutex // guards the fields below
	begun bool
	err   error // of an earlier write: the client is gone
}

func (p *progressStream) send(m jsonstream.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = p.write(m)
	}
}

// progressMessage repeats the error as the plain string that clients before the
// errorDetail object read.
type progressMessage struct {
	jsonstream.Message
	ErrorText string `json:"error,omitempty"`
}

func (p *progressStream) write(m jsonstream.Message) error {
	if !p.begun {
		p.begun = true
		p.header.Set("Content-Type", "application/json")
	}
	msg := progressMessage{Message: m}
	if m.Error != nil {
		msg.ErrorText = m.Error.Message
	}
	var line strings.Builder
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(msg); err != nil {
		return err
	}
	_, err := io.WriteString(p.w, strings.TrimSuffix(line.String(), "\n")+"\r\n")
	return err
}
