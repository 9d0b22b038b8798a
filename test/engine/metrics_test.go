package engine

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// Metrics have Docker's names and tell what happened; a signal has the daemon
// write its stacks.
func TestMetrics(t *testing.T) {
	testenv.Need(t, testenv.Root)
	addr := freePort(t)
	d := harness.Start(t, harness.Options{Args: []string{"--metrics-addr", addr}})
	d.Busybox()
	d.OK("run", "--rm", "busybox", "true")
	d.OK("run", "-d", "--name", "checked", "--health-cmd", "exit 1", "--health-interval", "100ms", "busybox", "sleep", "1000")
	harness.Eventually(t, commandLimit, "health checks to fail", func() bool {
		return d.OK("inspect", "-f", "{{.State.Health.Status}}", "checked") == "unhealthy"
	})
	d.OK("pause", "checked")
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("%s, %v, %q", resp.Status, err, resp.Header)
	}
	got := "\n" + string(raw)
	values := map[string]float64{}
	for line := range strings.Lines(got) {
		var value float64
		i := strings.LastIndexByte(line, ' ')
		if line[0] == '#' || i < 0 {
			continue
		}
		if _, err := fmt.Sscan(line[i+1:], &value); err != nil {
			t.Errorf("line %q: %v", line, err)
		}
		values[line[:i]] = value
	}
	for name, want := range map[string]float64{
		`engine_daemon_container_states_containers{state="paused"}`:                1,
		`engine_daemon_container_states_containers{state="running"}`:               0,
		`engine_daemon_container_actions_seconds_count{action="create"}`:           2,
		`engine_daemon_container_actions_seconds_count{action="start"}`:            2,
		`engine_daemon_container_actions_seconds_count{action="commit"}`:           0,
		`engine_daemon_container_actions_seconds_bucket{action="start",le="+Inf"}`: 2,
		`engine_daemon_network_actions_seconds_count{action="allocate"}`:           2,
		`engine_daemon_health_checks_failed_total`:                                 0, // they could be run
	} {
		if v, ok := values[name]; !ok || v != want {
			t.Errorf("%s = %v, %v, want %v", name, v, ok, want)
		}
	}
	for _, name := range []string{
		"engine_daemon_health_checks_total", "engine_daemon_health_check_start_duration_seconds_count", "engine_daemon_events_total",
		"engine_daemon_engine_cpus_cpus", "engine_daemon_engine_memory_bytes", "go_goroutines", "process_resident_memory_bytes",
		"process_cpu_seconds_total", "process_start_time_seconds", `engine_daemon_container_actions_seconds_sum{action="start"}`,
	} {
		if values[name] <= 0 {
			t.Errorf("%s = %v", name, values[name])
		}
	}
	if !strings.Contains(got, "\nengine_daemon_engine_info{") || !strings.Contains(got, `daemon_id="`+d.OK("info", "-f", "{{.ID}}")+`"`) {
		t.Error("no information on the engine")
	}

	if err := syscall.Kill(d.Pid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	const said = "goroutine stacks written to "
	harness.Eventually(t, commandLimit, "the stacks", func() bool { return strings.Contains(d.Log(), said) })
	_, path, _ := strings.Cut(d.Log(), said)
	path, _, _ = strings.Cut(strings.TrimRight(strings.SplitN(path, "\n", 2)[0], `"`), `"`)
	if dump, err := os.ReadFile(path); err != nil || !strings.Contains(string(dump), "goroutine 1 [") || !strings.HasPrefix(filepath.Base(path), "goroutine-stacks-") {
		t.Errorf("stacks in %q: %v", path, err)
	}

	if r := d.Docker("version"); r.Code != 0 { // it goes on
		t.Errorf("after the dump: %s", r.Stderr)
	}
}

// A transfer is tried as often as max-download-attempts says.
func TestDownloadAttempts(t *testing.T) {
	testenv.Need(t, testenv.Root)
	var tries atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case r.Method == http.MethodHead:
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
			w.Header().Set("Content-Length", "100")
		default:
			if r.Header.Get("Range") == "" { // else the same try goes on
				tries.Add(1)
			}
			w.Header().Set("Content-Length", "100") // more than it sends
			_, _ = io.WriteString(w, "{")
		}
	}))
	defer srv.Close()
	d := harness.Start(t, harness.Options{Args: []string{"--max-download-attempts", "2"}})
	if r := d.Docker("pull", strings.TrimPrefix(srv.URL, "http://")+"/box"); r.Code == 0 || r.Stderr == "" {
		t.Errorf("pull of a cut manifest: %d, %q", r.Code, r.Stderr)
	}
	if n := tries.Load(); n != 2 {
		t.Errorf("it was tried %d times", n)
	}
}
