package main

import (
	"strings"
	"testing"

	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/typeurl/v2"
)

func TestExposition(t *testing.T) {
	data, err := typeurl.MarshalAny(&cgroup2.Metrics{Memory: &cgroup2.MemoryStat{Usage: 4096}, Pids: &cgroup2.PidsStat{Current: 2}})
	if err != nil {
		t.Fatal(err)
	}
	var m exposition
	for _, id := range []string{"a", `b"\`} {
		if err := m.task(data, "container_id", id, "namespace", "n"); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	m.write(&b)
	for _, want := range []string{
		"# TYPE container_memory_usage_bytes gauge\ncontainer_memory_usage_bytes{container_id=\"a\",namespace=\"n\"} 4096\n",
		"container_pids_current{container_id=\"b\\\"\\\\\",namespace=\"n\"} 2\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, &b)
		}
	}
	if n := strings.Count(b.String(), "# TYPE container_pids_current "); n != 1 {
		t.Errorf("%d type lines, want one for each name", n)
	}
}
