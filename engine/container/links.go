package container

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// link is a tie of a container on the default bridge to another: the other's
// addresses stand in its hosts file under Alias.
type link struct {
	ID    string `json:"id"` // of the container that is linked to
	Alias string `json:"alias"`
}

// parseLink reads "name[:alias]".
func parseLink(s string) (name, alias string, err error) {
	if s == "" {
		return "", "", invalid("empty string specified for links")
	}
	name, alias, named := strings.Cut(s, ":")
	if name == "" || named && alias == "" || strings.Contains(alias, ":") {
		return "", "", invalid("bad format for links: %s", s)
	}
	if !named {
		alias = name
	}
	// Docker compatibility: inspect shows "/name:/parent/alias", which may come
	// back in a create.
	if strings.HasPrefix(name, "/") {
		alias = alias[strings.LastIndexByte(alias, '/')+1:]
	}
	if alias = strings.TrimPrefix(alias, "/"); checkHostname("alias", alias) != nil || alias == "" || strings.Contains(alias, "/") {
		return "", "", invalid("bad format for links: %s", s)
	}
	return name, alias, nil
}

// resolveLinks finds the containers that r asks to be linked to. On a network
// that the user made names resolve without links: there they are aliases of the
// endpoint.
func (m *Manager) resolveLinks(r *record) error {
	h := r.HostConfig
	if len(h.Links) == 0 {
		return nil
	}
	if h.NetworkMode.IsHost() {
		return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	if h.NetworkMode.IsUserDefined() {
		if s := r.Endpoints[string(h.NetworkMode)]; s != nil && len(s.Links) == 0 {
			s.Links = slices.Clone(h.Links)
		}
		return nil
	}
	for _, spec := range h.Links {
		name, alias, err := parseLink(spec)
		if err != nil {
			return err
		}
		e, err := m.lookup(name)
		for err == nil && e.rec.Load().HostConfig.NetworkMode.IsContainer() { // its addresses are another's
			e, err = m.lookup(e.rec.Load().HostConfig.NetworkMode.ConnectedContainer())
		}
		if err != nil { // not NotFound, which clients take for a missing image
			return wrap("could not get container for "+name, invalid("%s", err))
		}
		if e.rec.Load().HostConfig.NetworkMode.IsHost() {
			return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		}
		if i := slices.IndexFunc(r.Links, func(l link) bool { return l.Alias == alias }); i >= 0 {
			if r.Links[i].ID != e.id {
				return conflict("Conflict. The link alias %q is used twice", alias)
			}
			continue
		}
		r.Links = append(r.Links, link{ID: e.id, Alias: alias})
	}
	h.Links = nil // inspect shows those of the record
	return nil
}

// linkedHosts returns the hosts entries, as "name:address", of the containers
// that r is linked to, which must run on the default bridge.
func (m *Manager) linkedHosts(r *record) ([]string, error) {
	var hosts []string
	for _, l := range r.Links {
		e, err := m.lookup(l.ID)
		if err != nil {
			continue // removed since: the link went with it
		}
		other := e.rec.Load()
		if !other.State.hasTask() {
			return nil, conflict("Cannot link to a non running container: %s AS /%s/%s", other.Name, r.name(), l.Alias)
		}
		settings := other.bridgeSettings()
		if settings == nil {
			return nil, conflict("Cannot link to %s, as it does not belong to the default network", other.Name)
		}
		for _, name := range linkNames(l, other) {
			hosts = append(hosts, name+":"+settings.IPAddress.String())
			if settings.GlobalIPv6Address.IsValid() {
				hosts = append(hosts, name+":"+settings.GlobalIPv6Address.String())
			}
		}
	}
	return hosts, nil
}

// linkNames are the names under which a linked container is known: the alias,
// its host name and its name.
func linkNames(l link, other *record) []string {
	names := []string{l.Alias}
	for _, name := range []string{other.Config.Hostname, other.name()} {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// bridgeSettings returns what r has on the default bridge, nil for nothing.
func (r *record) bridgeSettings() *network.EndpointSettings {
	if r.Network == nil {
		return nil
	}
	s := r.Network.Networks[network.NetworkBridge]
	if s == nil || !s.IPAddress.IsValid() {
		return nil
	}
	return s
}

// refreshLinks tells the running containers that are linked to r its address,
// which may differ from that of its last run.
func (m *Manager) refreshLinks(r *record) {
	settings := r.bridgeSettings()
	if settings == nil {
		return
	}
	for _, e := range m.entries() {
		parent := e.rec.Load()
		if !parent.State.hasTask() {
			continue
		}
		for _, l := range parent.Links {
			if l.ID != r.ID {
				continue
			}
			if err := setHosts(filepath.Join(m.dir(e.id), "hosts"), linkNames(l, r), settings.IPAddress.String()); err != nil {
				m.Log.Warn("cannot tell a linked container the new address", "container", e.id, "err", err)
			}
		}
	}
}

// maxHosts bounds a hosts file, which a container can write.
const maxHosts = 1 << 20

// setHosts gives the lines of a hosts file that end in one of names the address,
// in place: the file is mounted.
func setHosts(path string, names []string, addr string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	f.Close()
	if err != nil {
		return err
	}
	if len(text) > maxHosts {
		return fmt.Errorf("%s is larger than %d bytes", path, maxHosts)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i, line := range lines {
		fields := strings.Fields(line)
		old4 := len(fields) == 2 && !strings.Contains(fields[0], ":")
		if old4 && slices.Contains(names, fields[1]) {
			lines[i] = addr + "\t" + fields[1] + "\n"
		}
	}
	return overwrite(path, []byte(strings.Join(lines, "")))
}

// linkEnvironment returns the variables that links set: Docker has them no more
// unless the daemon's environment asks for it.
func (m *Manager) linkEnvironment(r *record) []string {
	if !m.cfg.LegacyLinkEnv {
		return nil
	}
	var env []string
	for _, l := range r.Links {
		e, err := m.lookup(l.ID)
		if err != nil {
			continue
		}
		other := e.rec.Load()
		settings := other.bridgeSettings()
		if settings == nil {
			continue
		}
		prefix := strings.ToUpper(strings.ReplaceAll(l.Alias, "-", "_"))
		ip := settings.IPAddress.String()
		ports := slices.SortedFunc(maps.Keys(other.Config.ExposedPorts), func(a, b network.Port) int {
			return strings.Compare(fmt.Sprintf("%05d%s", a.Num(), a.Proto()), fmt.Sprintf("%05d%s", b.Num(), b.Proto()))
		})
		if len(ports) > 0 {
			env = append(env, fmt.Sprintf("%s_PORT=%s://%s:%d", prefix, ports[0].Proto(), ip, ports[0].Num()))
		}
		for _, p := range ports {
			each := fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Num(), strings.ToUpper(string(p.Proto())))
			env = append(env,
				fmt.Sprintf("%s=%s://%s:%d", each, p.Proto(), ip, p.Num()),
				fmt.Sprintf("%s_ADDR=%s", each, ip),
				fmt.Sprintf("%s_PORT=%d", each, p.Num()),
				fmt.Sprintf("%s_PROTO=%s", each, p.Proto()))
		}
		env = append(env, fmt.Sprintf("%s_NAME=%s/%s", prefix, r.Name, l.Alias))
		for _, kv := range other.Config.Env {
			if key, _, _ := strings.Cut(kv, "="); key != "HOME" && key != "PATH" {
				env = append(env, prefix+"_ENV_"+kv)
			}
		}
	}
	return env
}

// apiLinks returns r's links as inspect shows them.
func (m *Manager) apiLinks(r *record) []string {
	var links []string
	for _, l := range r.Links {
		if e, err := m.lookup(l.ID); err == nil {
			links = append(links, fmt.Sprintf("%s:%s/%s", e.rec.Load().Name, r.Name, l.Alias))
		}
	}
	return links
}

// linkAliases returns, by container ID, the names that links give: "/parent/alias".
func linkAliases(all []*entry) map[string][]string {
	names := map[string][]string{}
	for _, e := range all {
		r := e.rec.Load()
		for _, l := range r.Links {
			names[l.ID] = append(names[l.ID], r.Name+"/"+l.Alias)
		}
	}
	return names
}

// removeLink removes the link with the name parent/alias. What a running parent
// has in its hosts file stays until it starts again.
func (m *Manager) removeLink(name string) error {
	parent, alias, ok := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if !ok || alias == "" {
		return invalid("Conflict, cannot remove the default link name of the container")
	}
	e, err := m.lookup(parent)
	if err != nil {
		return invalid("Cannot get parent /%s for link /%s/%s", parent, parent, alias)
	}
	b := e.rec.Load()
	if !slices.ContainsFunc(b.Links, func(l link) bool { return l.Alias == alias }) {
		return notFound("No such link: /%s/%s", parent, alias)
	}
	_, err = m.commit(m.life, e, func(r *record) error {
		r.Links = slices.DeleteFunc(slices.Clone(r.Links), func(l link) bool { return l.Alias == alias })
		return nil
	})
	return err
}
