package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/build"

	"lighter/internal/buildlink"
)

// Builds are the build routes' needs; engine/build's Service has them.
type Builds interface {
	// Forward answers a request by the build process. r's path has no version.
	Forward(w http.ResponseWriter, r *http.Request) error
	Prune(ctx context.Context, req buildlink.Prune) (buildlink.PruneReport, error)
}

// buildForward passes a request through, until the exchange ends or the server
// does.
func (s *Server) buildForward(w http.ResponseWriter, r *request) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, path := splitVersion(r.URL.Path)
	hr := r.Request.Clone(ctx)
	hr.URL = &url.URL{Path: path, RawQuery: r.URL.RawQuery}
	return s.backends.Builds.Forward(w, hr)
}

// isGRPC tells a call of BuildKit's API from a request of the Engine's.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

func (s *Server) buildPrune(w http.ResponseWriter, r *request) error {
	req, err := pruneOf(r)
	if err != nil {
		return err
	}
	report, err := s.backends.Builds.Prune(r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, build.CachePruneReport{CachesDeleted: report.Deleted, SpaceReclaimed: report.SpaceReclaimed})
}

// pruneOf reads what to delete of the build cache.
func pruneOf(r *request) (buildlink.Prune, error) {
	req := buildlink.Prune{All: r.flag("all")}
	for _, size := range []struct {
		to    *int64
		names []string
	}{
		{&req.ReservedBytes, []string{"reserved-space", "keep-storage"}},
		{&req.MaxUsedBytes, []string{"max-used-space"}},
		{&req.MinFreeBytes, []string{"min-free-space"}},
	} {
		for _, name := range size.names {
			v := r.query.Get(name)
			if v == "" || *size.to != 0 {
				continue
			}
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return req, invalid("%s is in bytes and expects an integer, got %s", name, v)
			}
			*size.to = n
		}
	}
	filters, err := r.filters()
	if err != nil {
		return req, err
	}
	return req, cacheFilter(&req, filters)
}

// cacheFilter turns Docker's filters into one of containerd's syntax: all have
// to match.
func cacheFilter(req *buildlink.Prune, filters map[string]map[string]bool) error {
	var conditions []string
	for name, values := range filters {
		var list []string
		for v := range values {
			list = append(list, v)
		}
		if len(list) == 0 {
			continue
		}
		if len(list) > 1 {
			return invalid("%v", errors.New("filters expect only one value"))
		}
		value := list[0]
		switch name {
		case "until", "unused-for":
			d, err := age(value)
			if err != nil {
				return invalid("%q filter expects a duration (e.g., '24h') or a timestamp", name)
			}
			req.KeepDuration = d
		case "id", "parent":
			conditions = append(conditions, name+"~="+strconv.Quote(value))
		case "type", "description":
			conditions = append(conditions, name+"=="+strconv.Quote(value))
		case "inuse", "shared", "private":
			on := value == "" || isTrue(value)
			if on {
				conditions = append(conditions, name)
			} else {
				return invalid("%q filter can't be negated", name)
			}
		default:
			return invalid("invalid filter '%s'", name)
		}
	}
	slices.Sort(conditions)
	if len(conditions) > 0 {
		req.Filter = []string{strings.Join(conditions, ",")}
	}
	return nil
}

// age reads a duration, or how long ago a time was.
func age(value string) (time.Duration, error) {
	if d, err := time.ParseDuration(value); err == nil {
		return d, nil
	}
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return time.Since(t), nil
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	return time.Since(time.Unix(seconds, 0)), err
}
