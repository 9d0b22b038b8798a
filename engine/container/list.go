package container

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/engine/label"

	"github.com/docker/go-units"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// List returns the containers that match, the last created first. It reads the
// disk only for opts.Size.
func (m *Manager) List(ctx context.Context, opts ListOptions) ([]api.Summary, error) {
	q, err := m.newQuery(ctx, &opts)
	if err != nil {
		return nil, err
	}
	list := []api.Summary{}
	entries := m.entries()
	aliases := linkAliases(entries)
	now := time.Now()
	for _, e := range entries {
		r := e.rec.Load()
		if q.before != "" {
			if r.ID == q.before {
				q.before = ""
			}
			continue
		}
		if q.since != "" && r.ID == q.since {
			break
		}
		if !r.State.active() && !opts.All && opts.Limit <= 0 || !q.matches(r) {
			continue
		}
		if opts.Limit > 0 && len(list) == opts.Limit {
			break
		}
		s := r.summary(now)
		s.Names = append(s.Names, aliases[r.ID]...)
		if opts.Size {
			if s.SizeRw, s.SizeRootFs, err = m.sizes(m.in(ctx), r); err != nil {
				if m.unknown(e) {
					continue // removed meanwhile
				}
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, nil
}

func (r *record) summary(now time.Time) api.Summary {
	s := api.Summary{
		ID: r.ID, Names: []string{r.Name}, Image: r.Config.Image, ImageID: r.ImageID,
		ImageManifestDescriptor: r.Manifest, Command: r.command(), Created: r.Created.Unix(),
		Ports: r.ports(), Labels: maps.Clone(r.Config.Labels),
		State: api.ContainerState(r.State.String()), Status: r.status(now),
		NetworkSettings: &api.NetworkSettingsSummary{Networks: r.networkSettings().Networks},
		Mounts:          r.apiMounts(),
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.HostConfig.NetworkMode = string(r.HostConfig.NetworkMode)
	s.HostConfig.Annotations = maps.Clone(r.HostConfig.Annotations)
	s.Health = &api.HealthSummary{Status: api.NoHealthcheck}
	if r.Health != nil {
		s.Health = &api.HealthSummary{Status: r.Health.Status, FailingStreak: r.Health.FailingStreak}
	}
	return s
}

// command returns the command line as ps shows it, with words quoted that hold
// blanks.
func (r *record) command() string {
	words := []string{r.Path}
	for _, arg := range r.Args {
		if strings.Contains(arg, " ") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// status returns the state in words.
func (r *record) status(now time.Time) string {
	ago := units.HumanDuration(now.Sub(r.FinishedAt))
	up := "Up " + units.HumanDuration(now.Sub(r.StartedAt))
	switch r.State {
	case Running:
		if r.Health != nil {
			word := string(r.Health.Status)
			if r.Health.Status == api.Starting {
				word = "health: starting"
			}
			return up + " (" + word + ")"
		}
		return up
	case Paused:
		return up + " (Paused)"
	case Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", r.ExitCode, ago)
	case Removing:
		return "Removal In Progress"
	case Dead:
		return "Dead"
	case Exited:
		return fmt.Sprintf("Exited (%d) %s ago", r.ExitCode, ago)
	}
	return "Created"
}

// ports returns the exposed and published ports in a stable order.
func (r *record) ports() []api.PortSummary {
	ports := []api.PortSummary{}
	if !r.State.active() || r.Network == nil {
		return ports
	}
	for port, bindings := range r.Network.Ports {
		if len(bindings) == 0 {
			ports = append(ports, api.PortSummary{PrivatePort: port.Num(), Type: string(port.Proto())})
		}
		for _, b := range bindings {
			public, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			ports = append(ports, api.PortSummary{IP: b.HostIP, PrivatePort: port.Num(), PublicPort: uint16(public), Type: string(port.Proto())})
		}
	}
	slices.SortFunc(ports, func(a, b api.PortSummary) int {
		if a.PrivatePort != b.PrivatePort {
			return int(a.PrivatePort) - int(b.PrivatePort)
		}
		if a.Type != b.Type {
			return strings.Compare(a.Type, b.Type)
		}
		if c := a.IP.Compare(b.IP); c != 0 {
			return c
		}
		return int(a.PublicPort) - int(b.PublicPort)
	})
	return ports
}

// listFilters are the filters that List knows.
var listFilters = []string{
	"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation",
	"label", "name", "network", "publish", "since", "status", "volume",
}

// query is a parsed list request.
type query struct {
	filters       map[string]map[string]bool
	before, since string // IDs
	exited        map[int]bool
	images        map[string]bool
	names         []*regexp.Regexp
	ports         map[string]map[string]bool // "publish" and "expose"
}

func (m *Manager) newQuery(ctx context.Context, opts *ListOptions) (*query, error) {
	q := &query{filters: opts.Filters, ports: map[string]map[string]bool{}}
	for _, key := range slices.Sorted(maps.Keys(opts.Filters)) {
		if !slices.Contains(listFilters, key) {
			return nil, invalid("invalid filter '%s'", key)
		}
	}
	for v := range q.filters["exited"] {
		code, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'exited=%s': %s", v, err)
		}
		if q.exited == nil {
			q.exited = map[int]bool{}
		}
		q.exited[code] = true
	}
	for v := range q.filters["status"] {
		if err := api.ValidateContainerState(api.ContainerState(v)); err != nil {
			return nil, invalid("invalid filter 'status=%s': %s", v, err)
		}
		opts.All = true
	}
	for v := range q.filters["health"] {
		if err := api.ValidateHealthStatus(api.HealthStatus(v)); err != nil {
			return nil, invalid("invalid filter 'health=%s': %s", v, err)
		}
	}
	for v := range q.filters["is-task"] {
		if _, err := strconv.ParseBool(v); err != nil {
			return nil, invalid("invalid filter 'is-task=[%s]'", v)
		}
	}
	for key, to := range map[string]*string{"before": &q.before, "since": &q.since} {
		for v := range q.filters[key] {
			e, err := m.lookup(v)
			if err != nil {
				return nil, err
			}
			*to = e.id
		}
	}
	for key := range map[string]bool{"publish": true, "expose": true} {
		if err := q.addPorts(key); err != nil {
			return nil, err
		}
	}
	for v := range q.filters["name"] {
		re, err := regexp.Compile(v) // linear in time, whatever the client sends
		if err != nil {
			re = regexp.MustCompile(regexp.QuoteMeta(v))
		}
		q.names = append(q.names, re)
	}
	return q, m.addAncestors(ctx, q)
}

// addAncestors resolves the filter "ancestor". An unknown image matches nothing.
func (m *Manager) addAncestors(ctx context.Context, q *query) error {
	if len(q.filters["ancestor"]) == 0 {
		return nil
	}
	q.images = map[string]bool{}
	for ref := range q.filters["ancestor"] {
		img, err := m.Images.Resolve(m.in(ctx), ref, nil)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		q.images[img.ID] = true
	}
	return nil
}

func (q *query) addPorts(key string) error {
	for v := range q.filters[key] {
		if strings.Contains(v, ":") {
			return invalid("filter for '%s' should not contain ':': %s", key, v)
		}
		ports, err := network.ParsePortRange(v)
		if err != nil {
			return invalid("error while looking up for %s %s: %s", key, v, err)
		}
		if q.ports[key] == nil {
			q.ports[key] = map[string]bool{}
		}
		for p := range ports.All() {
			q.ports[key][p.String()] = true
		}
	}
	return nil
}

func (q *query) matches(r *record) bool {
	f := q.filters
	if len(q.names) > 0 && !slices.ContainsFunc(q.names, func(re *regexp.Regexp) bool {
		return re.MatchString(r.Name) || re.MatchString(r.name())
	}) {
		return false
	}
	if ids := f["id"]; len(ids) > 0 && !anyKey(ids, func(id string) bool { return strings.HasPrefix(r.ID, id) }) {
		return false
	}
	if len(f["is-task"]) > 0 && !anyKey(f["is-task"], func(v string) bool { b, _ := strconv.ParseBool(v); return !b }) {
		return false // none of ours is a task of a service
	}
	if !label.Match(r.Config.Labels, maps.Keys(f["label"])) {
		return false
	}
	if q.exited != nil && (!q.exited[r.ExitCode] || r.State.active() || r.StartedAt.IsZero()) {
		return false
	}
	if s := f["status"]; len(s) > 0 && !s[r.State.String()] {
		return false
	}
	if h := f["health"]; len(h) > 0 {
		status := api.NoHealthcheck
		if r.Health != nil {
			status = r.Health.Status
		}
		if !h[string(status)] {
			return false
		}
	}
	if v := f["volume"]; len(v) > 0 && !slices.ContainsFunc(r.Mounts, func(p mountPoint) bool {
		return v[p.Destination] || p.Name != "" && v[p.Name] || p.Name == "" && v[p.Source]
	}) {
		return false
	}
	if q.images != nil && !q.images[r.ImageID] {
		return false
	}
	return q.matchesNetwork(r)
}

func (q *query) matchesNetwork(r *record) bool {
	if want := q.filters["network"]; len(want) > 0 {
		networks := r.networkSettings().Networks
		if !anyKey(want, func(ref string) bool {
			for name, s := range networks {
				if name == ref || s.NetworkID != "" && strings.HasPrefix(s.NetworkID, ref) {
					return true
				}
			}
			return false
		}) {
			return false
		}
	}
	if len(q.ports) == 0 {
		return true
	}
	return slices.ContainsFunc(r.ports(), func(p api.PortSummary) bool {
		return q.ports["publish"][fmt.Sprintf("%d/%s", p.PublicPort, p.Type)] ||
			q.ports["expose"][fmt.Sprintf("%d/%s", p.PrivatePort, p.Type)]
	})
}

func anyKey(terms map[string]bool, f func(string) bool) bool {
	for term := range terms {
		if f(term) {
			return true
		}
	}
	return false
}
