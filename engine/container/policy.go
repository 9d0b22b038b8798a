package container

import (
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	api "github.com/moby/moby/api/types/container"
)

// What this engine can do beyond Docker's HostConfig travels in annotations: they
// come from the request alone, never from an image, inspect shows them, and an
// engine that does not know them ignores them.
const (
	// annotationOnUnhealthy says what to do when a container becomes unhealthy:
	// none, kill, restart or stop.
	annotationOnUnhealthy = "lighter.engine/health-on-failure"
	// annotationBackoff bounds the pauses of a restart policy: "1s..1m", or one
	// duration for a constant pause.
	annotationBackoff = "lighter.engine/restart-backoff"
)

// The actions of annotationOnUnhealthy.
const (
	unhealthyNone    = "none"
	unhealthyKill    = "kill"    // as if it had crashed: its restart policy applies
	unhealthyRestart = "restart" // whatever its policy is
	unhealthyStop    = "stop"    // for good, as docker stop does
)

// settlePolicy takes the options off the name of h's restart policy, as in
// "on-failure,backoff=1s..1m", and validates the annotations.
func settlePolicy(h *api.HostConfig) error {
	if err := splitPolicy(&h.RestartPolicy, &h.Annotations); err != nil {
		return err
	}
	if _, err := parseBackoff(h.Annotations[annotationBackoff]); err != nil {
		return err
	}
	switch action := h.Annotations[annotationOnUnhealthy]; action {
	case "", unhealthyNone, unhealthyKill, unhealthyRestart, unhealthyStop:
	default:
		return invalid("invalid action on a failing health check: %q: none, kill, restart and stop are known", action)
	}
	return nil
}

// splitPolicy moves the options in the name of p to annotations, which it may
// replace but does not change.
func splitPolicy(p *api.RestartPolicy, annotations *map[string]string) error {
	name, options, any := strings.Cut(string(p.Name), ",")
	if !any {
		return nil
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		if key != "backoff" {
			return invalid("invalid restart policy: unknown option %q: backoff=1s..1m is known", option)
		}
		if _, err := parseBackoff(value); err != nil || value == "" {
			return invalid("invalid restart policy: invalid backoff %q: two durations such as 1s..1m are wanted", value)
		}
		next := maps.Clone(*annotations)
		if next == nil {
			next = map[string]string{}
		}
		next[annotationBackoff] = value
		*annotations = next
	}
	p.Name = api.RestartPolicyMode(name)
	return nil
}

// backoff bounds the pauses of a restart policy.
type backoff struct{ first, last time.Duration }

var defaultBackoff = backoff{firstBackoff, maxBackoff}

func parseBackoff(s string) (backoff, error) {
	if s == "" {
		return defaultBackoff, nil
	}
	from, to, ranged := strings.Cut(s, "..")
	if !ranged {
		to = from
	}
	first, err := time.ParseDuration(from)
	last, err2 := time.ParseDuration(to)
	if err != nil || err2 != nil || first <= 0 || last < first {
		return defaultBackoff, invalid("invalid restart backoff %q: two durations such as 1s..1m are wanted", s)
	}
	return backoff{first, last}, nil
}

// backoff returns the bounds that r asks for.
func (r *record) backoff() backoff {
	b, err := parseBackoff(r.HostConfig.Annotations[annotationBackoff])
	if err != nil {
		return defaultBackoff // checked when it was given
	}
	return b
}

// next returns the pause after one of previous, 0 for none before.
func (b backoff) next(previous time.Duration) time.Duration {
	if previous < b.first {
		return b.first
	}
	return min(previous*2, b.last)
}

// onUnhealthy does what the container asks for when it becomes unhealthy. It
// returns at once: the probe that found it out must end before the container can.
func (m *Manager) onUnhealthy(e *entry, r *record) {
	action := r.HostConfig.Annotations[annotationOnUnhealthy]
	if action == "" || action == unhealthyNone {
		return
	}
	began := r.StartedAt
	m.wg.Go(func() {
		if now := e.rec.Load(); now.State != Running || !now.StartedAt.Equal(began) {
			return // another run already
		}
		m.Log.Info("container is unhealthy", "container", e.id, "action", action)
		var err error
		switch action {
		case unhealthyKill:
			err = m.signal(m.life, e, syscall.SIGKILL)
		case unhealthyStop:
			_, err = m.stop(m.life, e, StopOptions{}, true)
		case unhealthyRestart:
			err = m.Restart(m.life, e.id, StopOptions{})
		}
		if err != nil && !isConflict(err) && !isNotFound(err) {
			m.Log.Error("cannot end an unhealthy container", "container", e.id, "action", action, "err", err)
		}
	})
}

// dependency is a container that another one wants to have started before it.
type dependency struct {
	id        string
	condition string // of compose: service_started, service_healthy, service_completed_successfully
}

// Labels that compose writes.
const (
	labelProject   = "com.docker.compose.project"
	labelService   = "com.docker.compose.service"
	labelDependsOn = "com.docker.compose.depends_on"
)

// dependencies returns, by container ID, what each container is to be started
// after: what it is linked to, and what the labels of compose say. Circles are
// cut where they close.
func dependencies(all []*record) map[string][]dependency {
	services := map[[2]string][]string{} // project and service -> IDs
	for _, r := range all {
		l := r.Config.Labels
		if l[labelService] != "" {
			key := [2]string{l[labelProject], l[labelService]}
			services[key] = append(services[key], r.ID)
		}
	}
	deps := map[string][]dependency{}
	for _, r := range all {
		for _, l := range r.Links {
			deps[r.ID] = append(deps[r.ID], dependency{id: l.ID})
		}
		for spec := range strings.SplitSeq(r.Config.Labels[labelDependsOn], ",") {
			// service:condition:restart
			service, rest, _ := strings.Cut(spec, ":")
			condition, _, _ := strings.Cut(rest, ":")
			for _, id := range services[[2]string{r.Config.Labels[labelProject], service}] {
				if id != r.ID {
					deps[r.ID] = append(deps[r.ID], dependency{id, condition})
				}
			}
		}
	}
	const visiting, done = 1, 2
	seen := map[string]int{}
	var visit func(id string)
	visit = func(id string) {
		seen[id] = visiting
		deps[id] = slices.DeleteFunc(deps[id], func(d dependency) bool {
			if seen[d.id] == 0 {
				visit(d.id)
			}
			return seen[d.id] == visiting
		})
		seen[id] = done
	}
	for _, r := range all {
		if seen[r.ID] == 0 {
			visit(r.ID)
		}
	}
	return deps
}
