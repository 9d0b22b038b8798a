package containerd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"testing"

	"lighter/test/harness"
)

// The sockets that the configuration opens beside the API: profiles, as stock ctr
// reads them, and Prometheus's metrics.
func TestDebugAndMetrics(t *testing.T) {
	c := ours(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	config := fmt.Sprintf("version = 3\n[debug]\naddress = %q\n[metrics]\naddress = %q\n", c.Dir+"/debug.sock", address)
	if err := os.WriteFile(c.Dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Kill()
	c.Start()
	c.OK("run", "-d", harness.Busybox, "measured", "sleep", "1000")

	resp, err := http.Get("http://" + address + "/v1/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, body)
	}
	for _, want := range []string{
		`(?m)^# TYPE containerd_build_info_total counter$`,
		`(?m)^process_resident_memory_bytes [1-9]`,
		`(?m)^container_pids(_current)?\{container_id="measured",namespace="default"\} 1$`,
		`(?m)^container_memory_usage(_usage)?_bytes\{container_id="measured",namespace="default"\} [1-9]`,
	} {
		if !regexp.MustCompile(want).Match(body) {
			t.Errorf("metrics lack %s:\n%s", want, body)
		}
	}
	out := c.OK("pprof", "--debug-socket", c.Dir+"/debug.sock", "goroutines")
	if !bytes.Contains([]byte(out), []byte("goroutine")) {
		t.Errorf("profile of goroutines: %.200q", out)
	}
	c.OK("tasks", "delete", "--force", "measured")
	c.OK("containers", "delete", "measured")
}
