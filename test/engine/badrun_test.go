package engine

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// A run that can't start says why, with Docker's exit code, and takes away all
// that it made on its way.
func TestBadRun(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		host := t.TempDir()
		file := filepath.Join(host, "file")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		loop := filepath.Join(host, "loop")
		if err := os.Symlink(loop, loop); err != nil {
			t.Fatal(err)
		}
		tcp, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		_, hostPort, err := net.SplitHostPort(tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		d.OK("run", "-d", "--name", "web", "-p", "18090:80", "-p", "18091-18092:90-91/udp", "busybox", "sleep", "1000")
		// Whatever the first start of all makes is made.
		d.OK("run", "--rm", "busybox", "true")
		d.Settle(t)
		for _, tc := range []struct {
			name   string
			args   []string
			code   int
			stderr string
		}{
			{"command not found", []string{"busybox", "no-such-program"}, 127, `exec: "no-such-program": executable file not found in $PATH`},
			{"path not found", []string{"busybox", "/no/such/program"}, 127, "no such file or directory"},
			{"not executable", []string{"busybox", "/etc/passwd"}, 126, "permission denied"},
			{"a directory", []string{"busybox", "/etc"}, 126, "permission denied"},
			{"no program format", []string{"-v", file + ":/x", "busybox", "sh", "-c", "chmod 755 /x; exec /x"}, 0, ""},
			{"workdir below a file", []string{"-w", "/etc/passwd/x", "busybox", "true"}, 125, "/etc/passwd/x is not a directory"},
			{"directory over a file", []string{"-v", host + ":/etc/passwd", "busybox", "true"}, 125, "Are you trying to mount a directory onto a file (or vice-versa)?"},
			{"unknown user", []string{"-u", "stranger", "busybox", "true"}, 125, "unable to find user stranger: no matching entries in passwd file"},
			{"unknown group", []string{"--group-add", "strangers", "busybox", "true"}, 125, "strangers"},
			{"unknown device", []string{"--device", "/dev/no-such-device", "busybox", "true"}, 127, `error gathering device information while adding custom device "/dev/no-such-device": no such file or directory`},
			{"unknown network", []string{"--network", "elsewhere", "busybox", "true"}, 125, "network elsewhere not found"},
			{"address outside the subnet", []string{"--ip", "10.9.8.7", "busybox", "true"}, 125, "user specified IP address is supported on user defined networks only"},
			{"unknown sysctl", []string{"--sysctl", "net.no.such=1", "busybox", "true"}, 127, ""},
			{"port of a container", []string{"-p", "18090:80", "busybox", "true"}, 125, "Bind for 0.0.0.0:18090 failed: port is already allocated"},
			{"a free port and one of a container", []string{"-p", "18093:1", "-p", "18092:2/udp", "busybox", "true"}, 125, "Bind for 0.0.0.0:18092 failed: port is already allocated"},
			{"port of a host process", []string{"-p", hostPort + ":80", "busybox", "true"}, 125, "address already in use"},
			{"address of another host", []string{"-p", "192.0.2.1:18094:80", "busybox", "true"}, 125, "cannot assign requested address"},
			{"port too large", []string{"-p", "70000:80", "busybox", "true"}, 125, "invalid"},
			{"protocol", []string{"-p", "80:80/icmp", "busybox", "true"}, 125, "invalid proto"},
			{"ranges of different length", []string{"-p", "18095-18096:80-85", "busybox", "true"}, 125, "invalid"},
			{"missing source with --mount", []string{"--mount", "type=bind,src=/no/such/source,dst=/mnt", "busybox", "true"}, 125, `invalid mount config for type "bind": bind source path does not exist: /no/such/source`},
			{"source is a link to itself", []string{"--mount", "type=bind,src=" + loop + ",dst=/mnt", "busybox", "true"}, 125, "too many levels of symbolic links"},
			{"source below a file", []string{"-v", file + "/x:/mnt", "busybox", "true"}, 125, "not a directory"},
			{"relative target", []string{"-v", host + ":relative", "busybox", "true"}, 125, "mount path must be absolute"},
			{"root as the target", []string{"-v", host + ":/", "busybox", "true"}, 125, "invalid specification: destination can't be '/'"},
			{"bad mode", []string{"-v", host + ":/mnt:sideways", "busybox", "true"}, 125, "invalid mode: sideways"},
			{"bad volume name", []string{"-v", "a!b:/mnt", "busybox", "true"}, 125, "includes invalid characters for a local volume name"},
			{"unknown mount field", []string{"--mount", "type=bind,nonsense=1", "busybox", "true"}, 125, "'nonsense' in 'nonsense=1'"},
			{"unknown mount type", []string{"--mount", "type=nonsense,dst=/mnt", "busybox", "true"}, 125, "nonsense"},
			{"unknown image", []string{"--pull", "never", "no-such-image"}, 125, "No such image: no-such-image:latest"},
			{"invalid image", []string{"UPPER", "true"}, 125, "invalid reference format: repository name (library/UPPER) must be lowercase"},
			{"container of the network", []string{"--network", "container:ghost", "busybox", "true"}, 125, "No such container: ghost"},
			{"container of the processes", []string{"--pid", "container:ghost", "busybox", "true"}, 125, "No such container: ghost"},
			{"volumes from nobody", []string{"--volumes-from", "ghost", "busybox", "true"}, 125, "No such container: ghost"},
			{"bad seccomp profile", []string{"--security-opt", "seccomp=" + file, "busybox", "true"}, 125, "compacting json for seccomp profile"},
			{"detached", []string{"-d", "busybox", "no-such-program"}, 127, "executable file not found in $PATH"},
			{"with a terminal", []string{"-d", "-t", "busybox", "no-such-program"}, 127, "executable file not found in $PATH"},
			{"with input", []string{"-i", "busybox", "no-such-program"}, 127, "executable file not found in $PATH"},
			{"too little memory to start", []string{"-m", "1", "busybox", "true"}, 125, "Minimum memory limit allowed is 6MB"},
			{"unknown flag", []string{"--no-such-flag", "busybox"}, 125, "unknown flag: --no-such-flag"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				d.Unchanged(t, func() {
					r := d.Docker(append([]string{"run", "--rm"}, tc.args...)...)
					if r.Code != tc.code || !strings.Contains(r.Stderr, tc.stderr) || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 4 {
						t.Errorf("docker run --rm %q:\n code %d, want %d\n stderr %q, want %q in it", tc.args, r.Code, tc.code, r.Stderr, tc.stderr)
					}
				})
			})
		}
		// The container that failed stays when nobody asked for its removal, and
		// leaves nothing but itself.
		if r := d.Docker("run", "--name", "kept", "-p", "18090:80", "busybox", "true"); r.Code != 125 {
			t.Errorf("run = %+v", r)
		}
		if got := d.OK("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "kept"); !strings.HasPrefix(got, "created 128 ") || !strings.Contains(got, "port is already allocated") {
			t.Errorf("state = %q", got)
		}
		d.Settle(t)
		d.Unchanged(t, func() {
			if r := d.Docker("start", "kept"); r.Code != 1 || !strings.Contains(r.Stderr, "port is already allocated") {
				t.Errorf("start = %+v", r)
			}
		})
		d.OK("rm", "-f", "web")
		d.OK("start", "-a", "kept")
		d.OK("rm", "kept")
	})
}

// A file system that was damaged behind the daemon's back fails the one
// container, with an error that names it.
func TestDamagedFiles(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("create", "--name", "whole", "busybox", "true")
	d.OK("run", "--name", "damaged", "busybox", "true")
	fs, err := filepath.Glob(d.Dir + "/data/containerd/daemon/snapshots/overlayfs/snapshots/*/fs/bin/busybox")
	if err != nil || len(fs) != 1 {
		t.Fatalf("the image's layer: %v, %v", fs, err)
	}
	d.Settle(t)
	layer := filepath.Dir(filepath.Dir(fs[0]))
	t.Run("layer gone", func(t *testing.T) {
		if err := os.Rename(layer, layer+".away"); err != nil {
			t.Fatal(err)
		}
		d.Unchanged(t, func() {
			got := d.Request(t, "POST", "/containers/damaged/start", "")
			if message, ok := got.Message(); got.Status != 500 && got.Status != 400 || !ok || !strings.Contains(message, "no such file or directory") {
				t.Errorf("start = %d %q", got.Status, got.Body)
			}
			if r := d.Docker("run", "--rm", "busybox", "true"); r.Code == 0 {
				t.Errorf("run = %+v", r)
			}
			if r := d.Docker("export", "-o", filepath.Join(t.TempDir(), "x"), "damaged"); r.Code != 1 {
				t.Errorf("export = %+v", r)
			}
			if r := d.Docker("commit", "damaged", "new"); r.Code != 1 {
				t.Errorf("commit = %+v", r)
			}
			if got := d.Request(t, "GET", "/containers/damaged/archive?path=/etc", ""); got.Status != 500 {
				t.Errorf("copy out = %+v", got)
			}
		})
		if err := os.Rename(layer+".away", layer); err != nil {
			t.Fatal(err)
		}
		d.OK("start", "-a", "damaged")
	})
	t.Run("layer is a file", func(t *testing.T) {
		if err := os.Rename(layer, layer+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(layer, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		d.Unchanged(t, func() {
			if r := d.Docker("start", "damaged"); r.Code != 1 || !strings.Contains(r.Stderr, layer+": not a directory") {
				t.Errorf("start = %+v", r)
			}
		})
		if err := os.Remove(layer); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(layer+".away", layer); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("empty image", func(t *testing.T) {
		empty := filepath.Join(t.TempDir(), "empty.tar")
		if err := os.WriteFile(empty, make([]byte, 1024), 0o644); err != nil {
			t.Fatal(err)
		}
		d.OK("import", empty, "empty")
		d.Unchanged(t, func() {
			if r := d.Docker("run", "--rm", "empty", "/bin/sh"); r.Code != 127 || !strings.Contains(r.Stderr, "no such file or directory") {
				t.Errorf("run = %+v", r)
			}
		})
		d.OK("rmi", "empty")
	})
	t.Run("archive cut off", func(t *testing.T) {
		whole, err := os.ReadFile(harness.BusyboxTar(t))
		if err != nil {
			t.Fatal(err)
		}
		cut := filepath.Join(t.TempDir(), "cut.tar")
		if err := os.WriteFile(cut, whole[:len(whole)/2], 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"import", cut, "new"}, {"load", "-i", cut}} {
			d.Unchanged(t, func() {
				if r := d.Docker(args...); r.Code != 1 || r.Stderr == "" {
					t.Errorf("docker %q = %+v", args, r)
				}
			})
		}
		d.Unchanged(t, func() {
			body := bytes.NewReader([]byte("this is no archive, however long it is read"))
			if got := d.RequestAs(t, "PUT", "/containers/damaged/archive?path=/tmp", http.Header{"Content-Type": {"application/x-tar"}}, body); got.Status != 400 && got.Status != 500 {
				t.Errorf("copy in = %+v", got)
			}
		})
	})
	d.OK("start", "-a", "whole")
	d.OK("rm", "whole", "damaged")
}
