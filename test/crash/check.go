package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lighter/test/harness"
)

// objects are what the API lists, by name.
type objects struct {
	containers map[string]listed
	images     map[string]bool // by tag
	networks   map[string]bool
	volumes    map[string]bool
}

// listed is a container in a list.
type listed struct {
	state, status string
	networks      map[string]bool
}

// world is one daemon with what must not change: a container that runs, one that
// has ended, a network, a volume with a file, an image.
type world struct {
	t        testing.TB
	d        *harness.Daemon
	sup      *Supervisor
	dir      string // archives
	verbs    []verb
	base     harness.State
	tickPID  string
	startup  int // state-changing calls of dockerd's start
	logAt    int64
	recovery time.Duration // of the last restart
}

const (
	recoveryTimeout = 20 * time.Second // far beyond what is promised: machines are slow at times
	settleTimeout   = 10 * time.Second // I7, I10
	keepText        = "what the user wrote\n"
)

// ticker prints a number ten times a second.
const ticker = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"

// newWorld starts one; it ends, audited, with t.
func newWorld(t testing.TB, external bool) *world {
	t.Helper()
	sup := NewSupervisor()
	registry := harness.Registry(t)
	dir := t.TempDir()
	tar := harness.BusyboxTar(t)
	w := &world{t: t, sup: sup, dir: dir, verbs: generator(registry, dir)}
	w.d = harness.Start(t, harness.Options{External: external, Args: []string{"--live-restore"}, Spawn: sup.Spawn})
	d := w.d
	// The fixture is one layer beside busybox's.
	d.OK("import", tar, "busybox:latest")
	d.OK("run", "--name", "maker", "busybox", "sh", "-c", "echo fixture >/fixture; mkdir /many; for i in 1 2 3 4 5 6 7 8; do echo $i >/many/$i; done")
	d.OK("commit", "maker", registry+"/fixture:latest")
	d.OK("push", registry+"/fixture:latest")
	d.OK("save", "-o", filepath.Join(dir, "fixture.tar"), registry+"/fixture:latest")
	d.OK("rm", "maker")
	d.OK("rmi", registry+"/fixture:latest")
	for name, text := range map[string]string{"file": "copied\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(tar, filepath.Join(dir, "root.tar")); err != nil {
		t.Fatal(err)
	}

	d.OK("network", "create", "keepnet")
	d.OK("volume", "create", "keep")
	d.OK("run", "--rm", "-v", "keep:/v", "busybox", "sh", "-c", "echo what the user wrote >/v/file")
	d.OK("run", "-d", "--label", "keep", "--name", "tick", "--network", "keepnet", "-p", "18201:80", "-v", "keep:/v", "busybox", "sh", "-c", ticker)
	if r := d.Docker("run", "--label", "keep", "--name", "ended", "busybox", "sh", "-c", "exit 3"); r.Code != 3 {
		t.Fatalf("run = %+v, want 3", r)
	}
	w.tickPID = d.OK("inspect", "--format", "{{.State.Pid}}", "tick")
	sup.Ignore(shimOf(t, d.OK("inspect", "--format", "{{.Id}}", "tick")))
	// What a start leaves is a part of what is there.
	d.Kill()
	sup.Arm(Fault{Action: Observe})
	d.StartDockerd()
	for _, c := range sup.Disarm() {
		if c.Role == roleDockerd {
			w.startup++
		}
	}
	d.Settle(t)
	w.base = d.State(t)
	return w
}

// shimOf finds the process that supervises a container.
func shimOf(t testing.TB, id string) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		raw, err := os.ReadFile(dir + "/cmdline")
		if err == nil && bytes.Contains(raw, []byte(id)) && bytes.Contains(raw, []byte("containerd-shim")) {
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("no shim of %s", id)
	return 0
}

// get decodes what the API answers.
func (w *world) get(target string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), recoveryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://docker"+target, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", w.d.Dir+"/docker.sock")
		},
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", target, resp.StatusCode, raw)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(raw, into)
}

// look lists the objects.
func (w *world) look() (objects, error) {
	o := objects{map[string]listed{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	var containers []struct {
		Names           []string
		State, Status   string
		NetworkSettings struct{ Networks map[string]any }
	}
	var images []struct{ RepoTags []string }
	var networks []struct{ Name string }
	var volumes struct{ Volumes []struct{ Name string } }
	err := errors.Join(w.get("/containers/json?all=1", &containers), w.get("/images/json", &images),
		w.get("/networks", &networks), w.get("/volumes", &volumes))
	for _, c := range containers {
		l := listed{c.State, c.Status, map[string]bool{}}
		for n := range c.NetworkSettings.Networks {
			l.networks[n] = true
		}
		for _, name := range c.Names {
			o.containers[strings.TrimPrefix(name, "/")] = l
		}
	}
	for _, i := range images {
		for _, tag := range i.RepoTags {
			o.images[tag] = true
		}
	}
	for _, n := range networks {
		o.networks[n.Name] = true
	}
	for _, v := range volumes.Volumes {
		o.volumes[v.Name] = true
	}
	return o, err
}

// eventually polls until wrong returns "", and returns what it said last.
func eventually(timeout time.Duration, wrong func() string) string {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(timeout); ; <-tick.C {
		if s := wrong(); s == "" || time.Now().After(deadline) {
			return s
		}
	}
}

// restart starts dockerd, and first containerd if it ended, and waits for the
// first answer.
func (w *world) restart() string {
	if ended(w.d.Containerd()) {
		w.d.StartContainerd()
	}
	start := time.Now()
	if ended(w.d.Dockerd()) {
		w.d.LaunchDockerd()
	}
	wrong := eventually(recoveryTimeout, func() string {
		if err := w.get("/containers/json?all=1", nil); err != nil {
			return err.Error()
		}
		return ""
	})
	w.recovery = time.Since(start)
	if wrong != "" {
		return fmt.Sprintf("no answer %v after a restart: %s", recoveryTimeout, wrong)
	}
	return ""
}

func ended(done <-chan struct{}) bool {
	if done == nil {
		return false
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// bystanders checks what no fault of another container may change (P3, I3, I12).
func (w *world) bystanders(o objects) string {
	wrong := all(container("tick", "running"), container("ended", "exited"), member("tick", "keepnet", true),
		image("busybox:latest", true), network("keepnet", true), volume("keep", true))(o)
	if status := o.containers["ended"].status; wrong == "" && !strings.HasPrefix(status, "Exited (3)") {
		wrong = fmt.Sprintf("ended: %q, want exit code 3", status)
	}
	if pid, err := strconv.Atoi(w.tickPID); err != nil || state(pid) == 0 {
		wrong += "; the process of tick is gone"
	}
	raw, err := os.ReadFile(filepath.Join(w.d.Dir, "data/volumes/keep/_data/file"))
	if err != nil || string(raw) != keepText {
		wrong += fmt.Sprintf("; the volume's file is %q, %v", raw, err)
	}
	return strings.TrimPrefix(wrong, "; ")
}

// sequence checks that the log of tick has every number once (P4, I5).
func (w *world) sequence() string {
	r := w.d.Docker("logs", "tick")
	i := 0
	for line := range strings.Lines(r.Stdout) {
		i++
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err != nil || n != i {
			return fmt.Sprintf("line %d of tick's log is %q", i, line)
		}
	}
	if i == 0 {
		return fmt.Sprintf("tick's log is empty: %+v", r)
	}
	return ""
}

// screams returns the lines of the daemons' logs since the last call that no
// program may print (I11).
func (w *world) screams() string {
	log := w.d.Log()
	fresh := log[min(int(w.logAt), len(log)):]
	w.logAt = int64(len(log))
	for line := range strings.Lines(fresh) {
		for _, word := range []string{"panic:", "fatal error:", "DATA RACE", "concurrent map"} {
			if strings.Contains(line, word) {
				return "the daemon's log: " + line
			}
		}
	}
	return ""
}

// clean removes what a verb has made, and audits that all is as it was.
func (w *world) clean(o objects, resumes bool) []string {
	var problems []string
	do := func(args ...string) {
		if r := w.d.Docker(args...); r.Code != 0 {
			problems = append(problems, fmt.Sprintf("clean up: docker %q: %d %s", args, r.Code, r.Stderr))
		}
	}
	keep := []string{"tick", "ended", "busybox:latest", "keepnet", "keep", "bridge", "host", "none"}
	for name := range o.containers {
		if !slices.Contains(keep, name) {
			do("rm", "-f", "-v", name)
		}
	}
	for tag := range o.images {
		if !slices.Contains(keep, tag) && tag != "<none>:<none>" {
			do("rmi", tag)
		}
	}
	for name := range o.networks {
		if !slices.Contains(keep, name) {
			do("network", "rm", name)
		}
	}
	for name := range o.volumes {
		if !slices.Contains(keep, name) {
			do("volume", "rm", name)
		}
	}
	var diff []string
	eventually(settleTimeout, func() string {
		diff = slices.DeleteFunc(w.d.State(w.t).Since(w.base), func(line string) bool {
			return comesAndGoes(line) || resumes && strings.Contains(line, "/data/containerd/daemon/")
		})
		return strings.Join(diff, "\n")
	})
	for _, line := range diff {
		problems = append(problems, "left behind: "+line)
	}
	return problems
}

// comesAndGoes reports whether a line of the audit is a new instance of a daemon
// or of the command that the ticker runs.
func comesAndGoes(line string) bool {
	return strings.HasPrefix(line, "+ process ") &&
		(strings.Contains(line, "/dockerd --config-file") || strings.Contains(line, "/containerd --config") || strings.HasSuffix(line, " sleep 0.1"))
}
