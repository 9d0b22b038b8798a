package server

import (
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	containertypes "github.com/moby/moby/api/types/container"

	"lighter/engine/container"
)

func (s *Server) containerList(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	opts := container.ListOptions{All: r.flag("all"), Size: r.flag("size"), Filters: filters}
	if limit := r.query.Get("limit"); limit != "" {
		if opts.Limit, err = strconv.Atoi(limit); err != nil {
			return invalid("invalid limit %q: not a number", limit)
		}
	}
	list, err := s.backends.Containers.List(r.Context(), opts)
	if err != nil {
		return err
	}
	if list == nil {
		list = []containertypes.Summary{}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) containerCreate(w http.ResponseWriter, r *request) error {
	var body containertypes.CreateRequest
	if err := r.decode(&body, false); err != nil {
		return err
	}
	if !r.atLeast(44) && body.NetworkingConfig != nil && len(body.NetworkingConfig.EndpointsConfig) > 1 {
		return invalid("Container cannot be created with multiple network endpoints: %s",
			strings.Join(slices.Sorted(maps.Keys(body.NetworkingConfig.EndpointsConfig)), ", "))
	}
	if body.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	platform, err := r.platform()
	if err != nil {
		return err
	}
	created, err := s.backends.Containers.Create(r.Context(), container.CreateOptions{
		Name:             r.query.Get("name"),
		Config:           body.Config,
		HostConfig:       body.HostConfig,
		NetworkingConfig: body.NetworkingConfig,
		Platform:         platform,
	})
	if err != nil {
		return err
	}
	if created.Warnings == nil {
		created.Warnings = []string{}
	}
	return writeJSON(w, http.StatusCreated, created)
}

func (s *Server) containerInspect(w http.ResponseWriter, r *request) error {
	c, err := s.backends.Containers.Inspect(r.Context(), r.vars["name"], r.flag("size"))
	if err != nil {
		return err
	}
	if !r.atLeast(48) {
		c.ImageManifestDescriptor = nil
	}
	if r.atLeast(52) {
		return writeJSON(w, http.StatusOK, c)
	}
	return writeJSON(w, http.StatusOK, inspectBefore52(c))
}

func (s *Server) containerStart(w http.ResponseWriter, r *request) error {
	// Clients once sent a HostConfig here; an empty object is all that is still
	// allowed.
	const emptyBody = 7
	if r.ContentLength > emptyBody {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if id := r.query.Get("checkpoint"); id != "" {
		if !s.trial {
			return invalid("checkpoint is only supported in experimental mode")
		}
		return s.backends.Containers.StartFromCheckpoint(r.Context(), r.vars["name"], id, r.query.Get("checkpoint-dir"))
	}
	changed, err := s.backends.Containers.Start(r.Context(), r.vars["name"])
	return noContent(w, changed, err)
}

// noContent answers 204, or 304 when the container was in that state already.
func noContent(w http.ResponseWriter, changed bool, err error) error {
	if err != nil {
		return err
	}
	if !changed {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *request) stopOptions() (container.StopOptions, error) {
	timeout, err := r.seconds("t")
	return container.StopOptions{Signal: r.query.Get("signal"), Timeout: timeout}, err
}

func (s *Server) containerStop(w http.ResponseWriter, r *request) error {
	opts, err := r.stopOptions()
	if err != nil {
		return err
	}
	changed, err := s.backends.Containers.Stop(r.Context(), r.vars["name"], opts)
	return noContent(w, changed, err)
}

func (s *Server) containerRestart(w http.ResponseWriter, r *request) error {
	opts, err := r.stopOptions()
	if err != nil {
		return err
	}
	return noContent(w, true, s.backends.Containers.Restart(r.Context(), r.vars["name"], opts))
}

func (s *Server) containerKill(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Containers.Kill(r.Context(), r.vars["name"], r.query.Get("signal")))
}

func (s *Server) containerPause(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Containers.Pause(r.Context(), r.vars["name"]))
}

func (s *Server) containerUnpause(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Containers.Unpause(r.Context(), r.vars["name"]))
}

func (s *Server) containerRename(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Containers.Rename(r.Context(), r.vars["name"], r.query.Get("name")))
}

func (s *Server) containerRemove(w http.ResponseWriter, r *request) error {
	opts := container.RemoveOptions{Force: r.flag("force"), Volumes: r.flag("v"), Link: r.flag("link")}
	return noContent(w, true, s.backends.Containers.Remove(r.Context(), r.vars["name"], opts))
}

func (s *Server) containerPrune(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	report, err := s.backends.Containers.Prune(r.Context(), container.PruneOptions{Filters: filters})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, report)
}

func (s *Server) containerTop(w http.ResponseWriter, r *request) error {
	top, err := s.backends.Containers.Top(r.Context(), r.vars["name"], r.query.Get("ps_args"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, top)
}

func (s *Server) containerResize(w http.ResponseWriter, r *request) error {
	height, width, err := r.size()
	if err != nil {
		return err
	}
	return s.backends.Containers.Resize(r.Context(), r.vars["name"], height, width)
}

func (r *request) size() (height, width uint32, err error) {
	if height, err = parseSize(r.query.Get("h")); err != nil {
		return 0, 0, invalid("invalid resize height %q: %v", r.query.Get("h"), err)
	}
	if width, err = parseSize(r.query.Get("w")); err != nil {
		return 0, 0, invalid("invalid resize width %q: %v", r.query.Get("w"), err)
	}
	return height, width, nil
}

// parseSize reads a height or width. A whole number that is negative or too
// large is ErrRange, all else ErrSyntax.
func parseSize(value string) (uint32, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err == nil && n >= 0 && n <= math.MaxUint32 {
		return uint32(n), nil
	}
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return 0, strconv.ErrRange
	}
	return 0, strconv.ErrSyntax
}

func (s *Server) commit(w http.ResponseWriter, r *request) error {
	var config *containertypes.Config
	if err := r.decode(&config, true); err != nil {
		return err
	}
	id, err := s.backends.Containers.Commit(r.Context(), CommitOptions{
		Container: r.query.Get("container"),
		Repo:      r.query.Get("repo"),
		Tag:       r.query.Get("tag"),
		Comment:   r.query.Get("comment"),
		Author:    r.query.Get("author"),
		Pause:     r.flagOr("pause", true),
		Changes:   r.query["changes"],
		Config:    config,
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, containertypes.CommitResponse{ID: id})
}

// legacyInspect adds to an inspect response what clients before API 1.52 read:
// the default bridge endpoint's settings at the top of NetworkSettings.
type legacyInspect struct {
	containertypes.InspectResponse
	NetworkSettings *legacyNetworkSettings
}

type legacyNetworkSettings struct {
	*containertypes.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
}

func inspectBefore52(c containertypes.InspectResponse) legacyInspect {
	settings := &legacyNetworkSettings{NetworkSettings: c.NetworkSettings}
	if c.NetworkSettings != nil {
		if e := c.NetworkSettings.Networks["bridge"]; e != nil {
			settings.EndpointID = e.EndpointID
			settings.Gateway = addrString(e.Gateway)
			settings.GlobalIPv6Address = addrString(e.GlobalIPv6Address)
			settings.GlobalIPv6PrefixLen = e.GlobalIPv6PrefixLen
			settings.IPAddress = addrString(e.IPAddress)
			settings.IPPrefixLen = e.IPPrefixLen
			settings.IPv6Gateway = addrString(e.IPv6Gateway)
			settings.MacAddress = e.MacAddress.String()
		}
	}
	return legacyInspect{c, settings}
}

// addrString is the text of an address, "" for the zero one.
func addrString(a interface {
	IsValid() bool
	String() string
}) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// containerStats streams one sample a second, or sends one.
func (s *Server) containerStats(w http.ResponseWriter, r *request) error {
	stream := r.flagOr("stream", true)
	return s.streamStats(w, r, stream, r.flag("one-shot"))
}

// tail is the number of log lines asked for, -1 for all.
func tail(value string) (int, error) {
	if value == "" || strings.EqualFold(value, "all") {
		return -1, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0, invalid("invalid tail %q: a number of lines or \"all\" is wanted", value)
	}
	return n, nil
}
