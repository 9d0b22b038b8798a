package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// TestCDI: devices that specifications of the host describe, by their names and
// as GPUs.
func TestCDI(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	specs := map[string]string{
		"acme.json": `{"cdiVersion":"0.6.0","kind":"acme.com/widget","devices":[
			{"name":"one","containerEdits":{"env":["WIDGET=one"],"deviceNodes":[{"path":"/dev/widget","hostPath":"/dev/zero"}],
				"mounts":[{"hostPath":"` + dir + `","containerPath":"/widget","options":["ro","rbind"]}]}}]}`,
		"nvidia.yaml": "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n" +
			"- name: \"0\"\n  containerEdits:\n    env: [GPU0=yes]\n- name: \"1\"\n  containerEdits:\n    env: [GPU1=yes]\n- name: all\n  containerEdits:\n    env: [GPUS=all]\n",
	}
	for name, text := range specs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := harness.Start(t, harness.Options{Args: []string{"--cdi-spec-dir", dir}})
	d.Busybox()
	for _, tc := range []struct {
		args   []string
		script string
		want   string // of standard output; with fails of standard error
		fails  bool
	}{
		{[]string{"--device", "acme.com/widget=one"}, "echo $WIDGET; head -c 3 /dev/widget | wc -c; ls /widget/acme.json", "one\n3\n/widget/acme.json\n", false},
		{[]string{"--device", "acme.com/widget=one", "--device", "/dev/null:/dev/mine"}, "echo x >/dev/mine && echo $WIDGET", "one\n", false},
		{[]string{"--gpus", "all"}, "echo $GPUS $GPU0", "all\n", false},
		{[]string{"--gpus", "2"}, "echo $GPU0 $GPU1", "yes yes\n", false},
		{[]string{"--gpus", "device=1"}, "echo $GPU0 $GPU1", "yes\n", false},
		{[]string{"--gpus", "driver=nvidia.cdi,device=nvidia.com/gpu=0"}, "echo $GPU0", "yes\n", false},
		{[]string{"--device", "acme.com/widget=two"}, "true", "unresolvable CDI devices acme.com/widget=two", true},
		{[]string{"--gpus", "driver=amd"}, "true", `could not select device driver "amd" with capabilities: [[gpu]]`, true},
		{[]string{"--gpus", "driver=other"}, "true", `could not select device driver "other" with capabilities: [[gpu]]`, true},
	} {
		r := d.Docker(append(append([]string{"run", "--rm"}, tc.args...), "busybox", "sh", "-c", tc.script)...)
		if tc.fails && (r.Code != 125 || !strings.Contains(r.Stderr, tc.want)) || !tc.fails && (r.Code != 0 || r.Stdout != tc.want) {
			t.Errorf("run %q = %d %q %q, want %q", tc.args, r.Code, r.Stdout, r.Stderr, tc.want)
		}
	}
	if got := d.Request(t, "GET", "/info", "").Body; !strings.Contains(got, `"ID":"acme.com/widget=one"`) || !strings.Contains(got, `"CDISpecDirs":["`+dir+`"]`) {
		t.Errorf("info does not tell of the devices: %s", got)
	}
	if got := d.OK("ps", "-aq"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// TestDevices: directories of devices and rules for those that come later.
func TestDevices(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	for _, tc := range []struct {
		args   []string
		script string
		want   string
	}{
		{[]string{"--device", "/dev/net:/dev/mynet"}, "ls /dev/mynet", "tun\n"},
		{[]string{"--device", "/dev/net/tun:/dev/net/mine:r"}, ": </dev/net/mine && echo may read; echo x 2>/dev/null >/dev/net/mine || echo denied", "may read\ndenied\n"},
		{[]string{"--device-cgroup-rule", "c 1:5 rwm", "--cap-add", "MKNOD"}, "mknod /z c 1 5 && head -c 2 /z | wc -c", "2\n"},
	} {
		if len(tc.args) > 1 && strings.HasPrefix(tc.args[1], "/dev/net") {
			if _, err := os.Stat("/dev/net/tun"); err != nil {
				continue // a machine without TUN
			}
		}
		r := d.Docker(append(append([]string{"run", "--rm"}, tc.args...), "busybox", "sh", "-c", tc.script)...)
		if r.Code != 0 || r.Stdout != tc.want {
			t.Errorf("run %q = %d %q %q, want %q", tc.args, r.Code, r.Stdout, r.Stderr, tc.want)
		}
	}
	for rule, want := range map[string]string{"x 1:2 r": "invalid device cgroup rule format: 'x 1:2 r'", "c 1 r": "invalid device cgroup rule format"} {
		if r := d.Docker("create", "--device-cgroup-rule", rule, "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("rule %q: %d %q", rule, r.Code, r.Stderr)
		}
	}
}
