package container

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
)

func TestParseBackoff(t *testing.T) {
	for in, want := range map[string]backoff{
		"": defaultBackoff, "1s..1m": {time.Second, time.Minute}, "2s": {2 * time.Second, 2 * time.Second},
	} {
		if got, err := parseBackoff(in); got != want || err != nil {
			t.Errorf("parseBackoff(%q) = %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "1s..", "..1s", "0..1s", "2s..1s", "-1s", "1s..1m..2m"} {
		if got, err := parseBackoff(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("parseBackoff(%q) = %v, %v", in, got, err)
		}
	}
}

func TestBackoffNext(t *testing.T) {
	b, pause := backoff{time.Second, 5 * time.Second}, time.Duration(0)
	var got []time.Duration
	for range 4 {
		pause = b.next(pause)
		got = append(got, pause/time.Second)
	}
	if !slices.Equal(got, []time.Duration{1, 2, 4, 5}) {
		t.Errorf("pauses = %v", got)
	}
}

func TestSplitPolicy(t *testing.T) {
	shared := map[string]string{"a": "b"}
	h := api.HostConfig{RestartPolicy: api.RestartPolicy{Name: "on-failure,backoff=1s..1m", MaximumRetryCount: 5}, Annotations: shared}
	if err := settlePolicy(&h); err != nil || h.RestartPolicy.Name != "on-failure" || h.Annotations[annotationBackoff] != "1s..1m" || h.Annotations["a"] != "b" {
		t.Errorf("settlePolicy() = %v, %+v", err, h)
	}
	if len(shared) != 1 {
		t.Errorf("the request's annotations became %v", shared)
	}
	for _, name := range []string{"always,", "always,backoff", "always,backoff=", "always,backoff=x", "always,jitter=1"} {
		h := api.HostConfig{RestartPolicy: api.RestartPolicy{Name: api.RestartPolicyMode(name)}}
		if err := settlePolicy(&h); !errdefs.IsInvalidArgument(err) {
			t.Errorf("settlePolicy(%q) = %v", name, err)
		}
	}
	h = api.HostConfig{Annotations: map[string]string{annotationOnUnhealthy: "explode"}}
	if err := settlePolicy(&h); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown action = %v", err)
	}
}

func TestDependencies(t *testing.T) {
	rec := func(id, service, on string, links ...link) *record {
		labels := map[string]string{labelProject: "p", labelService: service}
		if on != "" {
			labels[labelDependsOn] = on
		}
		return &record{ID: id, Config: &api.Config{Labels: labels}, Links: links}
	}
	other := rec("other", "db", "")
	other.Config.Labels[labelProject] = "q"
	deps := dependencies([]*record{
		rec("web", "web", "db:service_healthy:false,cache:service_started:true,none:service_started:false"),
		rec("db1", "db", ""), rec("db2", "db", ""), other,
		rec("cache", "cache", "", link{ID: "db1"}),
		rec("x", "x", "y:service_started:false"), rec("y", "y", "x:service_started:false"), rec("self", "self", "self"),
	})
	if got := deps["web"]; !slices.Equal(got, []dependency{{"db1", "service_healthy"}, {"db2", "service_healthy"}, {"cache", "service_started"}}) {
		t.Errorf("web: %v", got)
	}
	if got := deps["cache"]; !slices.Equal(got, []dependency{{id: "db1"}}) {
		t.Errorf("cache: %v", got)
	}
	if len(deps["x"])+len(deps["y"]) != 1 || len(deps["self"]) != 0 {
		t.Errorf("circles: %v %v %v", deps["x"], deps["y"], deps["self"])
	}
}
