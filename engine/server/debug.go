package server

import (
	"expvar"
	"net/http"
	"net/http/pprof"
)

// debugHandlers are the profiles of the process, served in debug mode only.
var debugHandlers = map[string]http.HandlerFunc{
	"/debug/vars":          expvar.Handler().ServeHTTP,
	"/debug/pprof/":        pprof.Index,
	"/debug/pprof/cmdline": pprof.Cmdline,
	"/debug/pprof/profile": pprof.Profile,
	"/debug/pprof/symbol":  pprof.Symbol,
	"/debug/pprof/trace":   pprof.Trace,
}

func (s *Server) debugRoutes(get func(pattern string, h handler)) {
	for pattern, serve := range debugHandlers {
		get(pattern, s.onlyDebugging(func(r *request) http.Handler { return serve }))
	}
	get("/debug/pprof/{name}", s.onlyDebugging(func(r *request) http.Handler { return pprof.Handler(r.vars["name"]) }))
}

func (s *Server) onlyDebugging(of func(*request) http.Handler) handler {
	return func(w http.ResponseWriter, r *request) error {
		if s.debug == nil || !s.debug() {
			return notFound("page not found")
		}
		of(r).ServeHTTP(w, r.Request)
		return nil
	}
}
