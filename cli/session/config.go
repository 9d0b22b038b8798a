package session

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/client"
)

// WithProxies returns env with the proxies that config.json has for the
// engine's host, in both cases; what env sets or names stays.
func (s *Session) WithProxies(c client.APIClient, env []string) []string {
	given := map[string]*string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		given[name] = &value
	}
	all := s.Config().ParseProxyConfig(c.DaemonHost(), maps.Clone(given))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if _, ok := given[name]; !ok {
			env = append(env, name+"="+*all[name])
		}
	}
	return env
}

// PruneFilters returns f with config.json's pruneFilters added. A label that f
// asks for, or excludes, is not asked the other way round.
func (s *Session) PruneFilters(f client.Filters) client.Filters {
	for _, filter := range s.Config().PruneFilters {
		key, value, ok := strings.Cut(filter, "=")
		if !ok {
			continue
		}
		opposite := map[string]string{"label": "label!", "label!": "label"}[key]
		if opposite == "" || !f[opposite][value] {
			f.Add(key, value)
		}
	}
	return f
}
