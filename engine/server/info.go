package server

import (
	"encoding/json"
	"net/http"

	"github.com/moby/moby/api/types/system"
)

func (s *Server) info(w http.ResponseWriter, r *request) error {
	info, err := s.backends.System.Info(r.Context())
	if err != nil {
		return err
	}
	if r.atLeast(53) {
		return writeJSON(w, http.StatusOK, info)
	}
	old, err := infoBefore53(r, info)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, old)
}

// infoBefore53 is what clients of older versions get: fields that came later are
// not there, fields that have gone since are.
func infoBefore53(r *request, info system.Info) (map[string]any, error) {
	raw, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	// Numbers have gone through float64, which holds all but these exactly.
	m["MemTotal"] = info.MemTotal
	for _, f := range []struct {
		minor int // the version that brought it
		name  string
	}{{53, "NRI"}, {50, "DiscoveredDevices"}, {49, "FirewallBackend"}, {46, "Containerd"}} {
		if !r.atLeast(f.minor) {
			delete(m, f.name)
		}
	}
	if !r.atLeast(50) {
		m["BridgeNfIptables"], m["BridgeNfIp6tables"] = false, false
	}
	if !r.atLeast(49) {
		for _, name := range []string{"ContainerdCommit", "RuncCommit", "InitCommit"} {
			if c, ok := m[name].(map[string]any); ok {
				c["Expected"] = c["ID"]
			}
		}
		if c, ok := m["RegistryConfig"].(map[string]any); ok {
			c["AllowNondistributableArtifactsCIDRs"], c["AllowNondistributableArtifactsHostnames"] = nil, nil
		}
	}
	if runtimes, ok := m["Runtimes"].(map[string]any); ok && !r.atLeast(44) {
		for _, rt := range runtimes {
			if rt, ok := rt.(map[string]any); ok {
				delete(rt, "status")
			}
		}
	}
	if !r.atLeast(42) {
		m["KernelMemory"], m["KernelMemoryTCP"] = false, false
		m["ClusterStore"], m["ClusterAdvertise"] = "", ""
	}
	return m, nil
}
