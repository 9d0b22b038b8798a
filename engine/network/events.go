package network

import (
	"github.com/moby/moby/api/types/events"
)

// announce tells Config.Events what happened to a network.
func (m *Manager) announce(action events.Action, n *netw) {
	if m.cfg.Events != nil {
		m.cfg.Events(action, n.Network.ID, map[string]string{"name": n.Network.Name, "type": n.Network.Driver})
	}
}

// announceEndpoints tells Config.Events that a container joined or left the
// networks of endpoints.
func (m *Manager) announceEndpoints(action events.Action, containerID string, endpoints ...*endpointRecord) {
	if m.cfg.Events == nil {
		return
	}
	for _, ep := range endpoints {
		n := m.network(ep.NetworkID)
		m.cfg.Events(action, n.Network.ID, map[string]string{
			"container": containerID, "name": n.Network.Name, "type": n.Network.Driver,
		})
	}
}
