package server

import (
	"net/http"
	"strings"
)

// handler answers one route. An error that it returns before writing becomes
// the response; a later one is only logged.
type handler func(w http.ResponseWriter, r *request) error

// route is a method and a path pattern. A pattern has literal text and
// variables, "{name}"; a variable matches greedily and may contain slashes,
// as image names do.
type route struct {
	method  string
	pattern []string // literals at even, variable names at odd indexes
	handle  handler
}

func newRoute(method, pattern string, h handler) route {
	var parts []string
	for rest := pattern; ; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			return route{method, append(parts, rest), h}
		}
		end := open + strings.IndexByte(rest[open:], '}')
		parts = append(parts, rest[:open], rest[open+1:end])
		rest = rest[end+1:]
	}
}

// match returns the variables of path, or false.
func (rt *route) match(path string) (map[string]string, bool) {
	rest, ok := strings.CutPrefix(path, rt.pattern[0])
	if !ok {
		return nil, false
	}
	if len(rt.pattern) == 1 {
		return nil, rest == ""
	}
	vars := make(map[string]string, 1)
	for i := 1; i < len(rt.pattern); i += 2 {
		literal := rt.pattern[i+1]
		var end int
		switch {
		case i+2 < len(rt.pattern) && literal != "":
			end = strings.LastIndex(rest, literal)
		case strings.HasSuffix(rest, literal):
			end = len(rest) - len(literal)
		default:
			end = -1
		}
		if end <= 0 {
			return nil, false
		}
		vars[rt.pattern[i]] = rest[:end]
		rest = rest[end+len(literal):]
	}
	return vars, true
}

// splitVersion takes "/v1.41" off the path. Without one, version is "".
func splitVersion(path string) (version, rest string) {
	after, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return "", path
	}
	version, _, _ = strings.Cut(after, "/")
	if version == "" || strings.Trim(version, "0123456789.") != "" {
		return "", path
	}
	return version, after[len(version):]
}

// find returns the handler for the request line, or nil.
func (s *Server) find(method, path string) (handler, map[string]string) {
	for i := range s.routes {
		rt := &s.routes[i]
		if rt.method != method {
			continue
		}
		if vars, ok := rt.match(path); ok {
			return rt.handle, vars
		}
	}
	return nil, nil
}
