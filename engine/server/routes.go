package server

import (
	"net/http"

	containertypes "github.com/moby/moby/api/types/container"
	networktypes "github.com/moby/moby/api/types/network"
	volumetypes "github.com/moby/moby/api/types/volume"

	"lighter/engine/container"
)

// table lists the routes. The first match wins, so a literal path stands before
// a pattern that would match it too.
func (s *Server) table() []route {
	var t []route
	add := func(method, pattern string, h handler) { t = append(t, newRoute(method, pattern, h)) }
	get := func(pattern string, h handler) { add(http.MethodGet, pattern, h) }
	post := func(pattern string, h handler) { add(http.MethodPost, pattern, h) }
	remove := func(pattern string, h handler) { add(http.MethodDelete, pattern, h) }

	add(http.MethodHead, "/_ping", s.ping)
	get("/_ping", s.ping)
	get("/version", s.version)
	get("/info", s.info)
	get("/events", s.events)
	get("/system/df", s.diskUsage)
	post("/auth", s.registryLogin)

	s.debugRoutes(get)

	get("/containers/json", s.containerList)
	post("/containers/create", s.containerCreate)
	post("/containers/prune", s.containerPrune)
	get("/containers/{name}/json", s.containerInspect)
	get("/containers/{name}/logs", s.containerLogs)
	get("/containers/{name}/top", s.containerTop)
	get("/containers/{name}/stats", s.containerStats)
	get("/containers/{name}/changes", s.containerChanges)
	get("/containers/{name}/export", s.containerExport)
	add(http.MethodHead, "/containers/{name}/archive", s.archiveStat)
	get("/containers/{name}/archive", s.archiveGet)
	add(http.MethodPut, "/containers/{name}/archive", s.archivePut)
	post("/containers/{name}/start", s.containerStart)
	post("/containers/{name}/stop", s.containerStop)
	post("/containers/{name}/restart", s.containerRestart)
	post("/containers/{name}/kill", s.containerKill)
	post("/containers/{name}/pause", s.containerPause)
	post("/containers/{name}/unpause", s.containerUnpause)
	post("/containers/{name}/rename", s.containerRename)
	post("/containers/{name}/update", s.containerUpdate)
	post("/containers/{name}/reconfigure", s.containerReconfigure)
	post("/containers/{name}/resize", s.containerResize)
	post("/containers/{name}/attach", s.containerAttach)
	get("/containers/{name}/attach/ws", s.containerAttachWebSocket)
	get("/containers/{name}/checkpoints", s.experimental(s.checkpointList))
	post("/containers/{name}/checkpoints", s.experimental(s.checkpointCreate))
	remove("/containers/{name}/checkpoints/{checkpoint}", s.experimental(s.checkpointRemove))
	post("/containers/{name}/wait", s.containerWait)
	post("/containers/{name}/exec", s.execCreate)
	remove("/containers/{name}", s.containerRemove)
	post("/commit", s.commit)

	post("/exec/{id}/start", s.execStart)
	post("/exec/{id}/resize", s.execResize)
	get("/exec/{id}/json", s.execInspect)

	get("/images/json", s.imageList)
	post("/images/create", s.imageCreate)
	post("/images/load", s.imageLoad)
	post("/images/prune", s.imagePrune)
	get("/images/get", s.imageSave)
	get("/images/{name}/get", s.imageSave)
	get("/images/{name}/json", s.imageInspect)
	get("/images/{name}/history", s.imageHistory)
	get("/images/search", s.imageSearch)
	get("/images/{name}/attestations", s.imageAttestations)
	get("/distribution/{name}/json", s.distributionInspect)
	post("/images/{name}/tag", s.imageTag)
	post("/images/{name}/push", s.imagePush)
	remove("/images/{name}", s.imageRemove)

	post("/build", s.buildForward)
	post("/build/prune", s.buildPrune)
	post("/build/cancel", s.buildForward)
	post("/session", s.buildForward)
	post("/grpc", s.buildForward)

	get("/networks", s.networkList)
	get("/networks/", s.networkList)
	post("/networks/create", s.networkCreate)
	post("/networks/prune", s.networkPrune)
	post("/networks/{id}/connect", s.networkConnect)
	post("/networks/{id}/disconnect", s.networkDisconnect)
	get("/networks/{id}", s.networkInspect)
	remove("/networks/{id}", s.networkRemove)

	get("/volumes", s.volumeList)
	post("/volumes/create", s.volumeCreate)
	post("/volumes/prune", s.volumePrune)
	get("/volumes/{name}/export", s.volumeExport)
	get("/volumes/{name}", s.volumeInspect)
	post("/volumes/{name}/rename", s.volumeRename)
	post("/volumes/{name}/clone", s.volumeClone)
	post("/volumes/{name}/import", s.volumeImport)
	remove("/volumes/{name}", s.volumeRemove)

	// Parts of the Engine API that this engine does not have say so, rather
	// than pretend that the path is unknown.
	for _, missing := range []struct{ method, pattern, what string }{
		{http.MethodGet, "/plugins", "managing plugins"},
		{http.MethodGet, "/swarm", "clustering"},
		{http.MethodPost, "/swarm/init", "clustering"},
		{http.MethodPost, "/swarm/join", "clustering"},
		{http.MethodGet, "/nodes", "clustering"},
		{http.MethodGet, "/services", "clustering"},
		{http.MethodGet, "/tasks", "clustering"},
		{http.MethodGet, "/secrets", "clustering"},
		{http.MethodGet, "/configs", "clustering"},
	} {
		add(missing.method, missing.pattern, func(http.ResponseWriter, *request) error {
			return notImplemented("%s is not implemented by this version of the engine", missing.what)
		})
	}
	return t
}

func (s *Server) networkList(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	list, err := s.backends.Networks.List(r.Context(), filters)
	if err != nil {
		return err
	}
	if list == nil {
		list = []networktypes.Inspect{}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) networkInspect(w http.ResponseWriter, r *request) error {
	n, err := s.backends.Networks.Inspect(r.Context(), r.vars["id"])
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, n)
}

func (s *Server) networkCreate(w http.ResponseWriter, r *request) error {
	var req networktypes.CreateRequest
	if err := r.decode(&req, false); err != nil {
		return err
	}
	created, err := s.backends.Networks.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, created)
}

func (s *Server) networkPrune(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	report, err := s.backends.Networks.Prune(r.Context(), filters)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, report)
}

func (s *Server) networkRemove(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Networks.Remove(r.Context(), r.vars["id"]))
}

func (s *Server) networkConnect(_ http.ResponseWriter, r *request) error {
	var req networktypes.ConnectRequest
	if err := r.decode(&req, false); err != nil {
		return err
	}
	return s.backends.Containers.ConnectNetwork(r.Context(), req.Container, r.vars["id"], req.EndpointConfig)
}

func (s *Server) networkDisconnect(_ http.ResponseWriter, r *request) error {
	var req networktypes.DisconnectRequest
	if err := r.decode(&req, false); err != nil {
		return err
	}
	return s.backends.Containers.DisconnectNetwork(r.Context(), req.Container, r.vars["id"], req.Force)
}

func (s *Server) volumeList(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	list, err := s.backends.Volumes.List(r.Context(), filters)
	if err != nil {
		return err
	}
	if list.Volumes == nil {
		list.Volumes = []volumetypes.Volume{}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) volumeInspect(w http.ResponseWriter, r *request) error {
	v, err := s.backends.Volumes.Inspect(r.Context(), r.vars["name"])
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, v)
}

func (s *Server) volumeCreate(w http.ResponseWriter, r *request) error {
	var req volumetypes.CreateRequest
	if err := r.decode(&req, true); err != nil {
		return err
	}
	v, err := s.backends.Volumes.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, v)
}

func (s *Server) volumeRemove(w http.ResponseWriter, r *request) error {
	return noContent(w, true, s.backends.Volumes.Remove(r.Context(), r.vars["name"], r.flag("force")))
}

func (s *Server) volumePrune(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	if !r.atLeast(42) { // which knew no difference between anonymous volumes and others
		if filters == nil {
			filters = map[string]map[string]bool{}
		}
		filters["all"] = map[string]bool{"true": true}
	}
	report, err := s.backends.Volumes.Prune(r.Context(), filters)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, report)
}

// containerReconfigure is an addition of this engine.
func (s *Server) containerReconfigure(w http.ResponseWriter, r *request) error {
	var change container.Reconfiguration
	if err := r.decode(&change, false); err != nil {
		return err
	}
	warnings, err := s.backends.Containers.Reconfigure(r.Context(), r.vars["name"], change)
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return writeJSON(w, http.StatusOK, containertypes.UpdateResponse{Warnings: warnings})
}

func (s *Server) containerUpdate(w http.ResponseWriter, r *request) error {
	var cfg containertypes.UpdateConfig
	if err := r.decode(&cfg, false); err != nil {
		return err
	}
	updated, err := s.backends.Containers.Update(r.Context(), r.vars["name"], cfg)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, updated)
}
