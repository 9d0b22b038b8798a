package engine

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// syslogServer collects the texts of messages, and can be down.
type syslogServer struct {
	path string
	l    net.Listener

	mu    sync.Mutex
	lines []string
	conns []net.Conn
}

func (s *syslogServer) up(t *testing.T) {
	t.Helper()
	var err error
	if s.l, err = net.Listen("unix", s.path); err != nil {
		t.Fatal(err)
	}
	l := s.l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go func() {
				in := bufio.NewScanner(conn)
				for in.Scan() {
					_, text, _ := strings.Cut(in.Text(), "]: ")
					s.mu.Lock()
					s.lines = append(s.lines, text)
					s.mu.Unlock()
				}
			}()
		}
	}()
}

func (s *syslogServer) down() {
	s.l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *syslogServer) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, " ")
}

// The lines of a remote driver reach its receiver over an outage of that and a
// kill of the engine, and docker logs shows them all the while.
func TestRemoteLogSurvives(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{Args: []string{"--live-restore"}})
	d.Busybox()
	server := &syslogServer{path: d.Dir + "/syslog"}
	server.up(t)
	defer server.down()
	say := func(n int) { d.OK("exec", "ctr", "sh", "-c", fmt.Sprintf("echo x > /go%d", n)) }
	d.OK("run", "-d", "--name", "ctr", "--log-driver", "syslog", "--log-opt", "syslog-address=unix://"+server.path,
		"busybox", "sh", "-c", "mkfifo /go1 /go2 /go3; echo ready; read x < /go1; echo one; read x < /go2; echo two; read x < /go3; echo three; exec sleep 1000")
	delivered := func(want string) {
		t.Helper()
		harness.Eventually(t, 30*time.Second, "delivery of "+want, func() bool { return server.got() == want })
	}
	delivered("ready")
	say(1)
	delivered("ready one")
	server.down()
	if err := os.Remove(server.path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	say(2)
	waitLog(t, d, "ctr", "ready\none\ntwo\n")
	d.Kill()
	d.StartDockerd()
	say(3)
	waitLog(t, d, "ctr", "ready\none\ntwo\nthree\n")
	server.up(t)
	delivered("ready one two three")
	d.OK("rm", "-f", "ctr")
}

func TestLogDriverOptions(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	for _, tt := range []struct{ args, want string }{
		{"--log-driver nope", "logger: no log driver named 'nope' is registered"},
		{"--log-driver local --log-opt labels=x", "unknown log opt 'labels' for log driver local"},
		{"--log-driver gelf", "gelf-address is a required parameter"},
		{"--log-opt mode=x", "logger: logging mode not supported: x"},
		{"--log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:1", "failed to create task for container: failed to initialize logging driver: dial tcp 127.0.0.1:1: connect: connection refused"},
		{"--log-driver journald", "failed to create task for container: failed to initialize logging driver: journald is not enabled on this host"},
	} {
		args := append(append([]string{"run", "--rm"}, strings.Fields(tt.args)...), "busybox", "true")
		if strings.HasSuffix(tt.args, "journald") && exists("/run/systemd/journal/socket") {
			continue
		}
		r := d.Docker(args...)
		if r.Code != 125 || !strings.Contains(r.Stderr, "Error response from daemon: "+tt.want) {
			t.Errorf("%s: code %d, %q, want %q", tt.args, r.Code, r.Stderr, tt.want)
		}
	}
	if got := d.OK("ps", "-aq"); got != "" {
		t.Errorf("refused containers are left behind: %q", got)
	}
	d.OK("run", "--name", "loc", "--log-driver", "local", "busybox", "sh", "-c", "echo out; echo err >&2")
	if r := d.Docker("logs", "loc"); r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("logs of the driver local: %q, %q", r.Stdout, r.Stderr)
	}
	if got := d.OK("inspect", "--format", "{{.HostConfig.LogConfig.Type}} [{{.LogPath}}]", "loc"); got != "local []" {
		t.Errorf("inspect shows %q", got)
	}
	d.OK("run", "--name", "non", "--log-driver", "none", "busybox", "echo", "x")
	if r := d.Docker("logs", "non"); r.Code == 0 || !strings.Contains(r.Stderr, "configured logging driver does not support reading") {
		t.Errorf("logs of the driver none: %d, %q", r.Code, r.Stderr)
	}
	d.OK("run", "--name", "tagged", "--label", "team=a", "--label", "tier=b", "-e", "STAGE=prod", "--log-opt", "labels-regex=^t", "--log-opt", "env=STAGE",
		"--log-opt", "tag={{.Name}}", "busybox", "echo", "hello")
	if got, want := d.OK("logs", "--details", "tagged"), "STAGE=prod,tag=tagged,team=a,tier=b hello"; got != want {
		t.Errorf("details: %q, want %q", got, want)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestGrepLogs(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "--name", "ctr", "busybox", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; echo a warning >&2")
	if got, want := d.OK("logs", "--grep", "e 1", "ctr"), "line 1\nline 10\nline 11\nline 12"; got != want {
		t.Errorf("grep: %q, want %q", got, want)
	}
	if got, want := d.OK("logs", "--grep", "1$|2$", "--tail", "2", "--since", "1h", "ctr"), "line 11\nline 12"; got != want {
		t.Errorf("grep of the tail: %q, want %q", got, want)
	}
	if r := d.Docker("logs", "--grep", "warn", "ctr"); r.Stderr != "a warning\n" || r.Stdout != "" {
		t.Errorf("grep of stderr: %q, %q", r.Stdout, r.Stderr)
	}
	if r := d.Docker("logs", "--grep", "[", "ctr"); r.Code != 1 || !strings.Contains(r.Stderr, "Error response from daemon: invalid grep pattern: ") {
		t.Errorf("bad pattern: %d, %q", r.Code, r.Stderr)
	}
}

// A limit in daemon.json bounds new logs, those of running containers and those
// that are there.
func TestContainerLogLimit(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	file := filepath.Join(dir, "daemon.json")
	put := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("{}")
	d := harness.Start(t, harness.Options{Args: []string{"--live-restore", "--config-file", file}})
	d.Busybox()
	const fill = "yes 0123456789012345678901234567890123456789 | head -n 40000"
	d.OK("run", "--name", "stopped", "busybox", "sh", "-c", fill)
	d.OK("run", "-d", "--name", "running", "busybox", "sh", "-c", "mkfifo /go; echo up; read x < /go;"+strings.Repeat(fill+";", 4)+" echo done; exec sleep 1000")
	size := func(name string) (total int64) {
		logs, _ := filepath.Glob(d.OK("inspect", "--format", "{{.LogPath}}", name) + "*")
		for _, path := range logs {
			if fi, err := os.Stat(path); err == nil {
				total += fi.Size()
			}
		}
		return total
	}
	if n := size("stopped"); n < 3<<20 {
		t.Fatalf("the log has %d bytes before there is a limit", n)
	}
	put(`{"container-log-limit": "1m"}`)
	d.Kill()
	d.StartDockerd()
	const limit = 1<<20 + 512<<10 // and what one write may be over
	harness.Eventually(t, 20*time.Second, "the stopped container's log to be shortened", func() bool { return size("stopped") <= limit })
	if got := d.OK("logs", "--tail", "1", "stopped"); got != "0123456789012345678901234567890123456789" {
		t.Errorf("last line %q", got)
	}
	d.OK("exec", "running", "sh", "-c", "echo > /go")
	harness.Eventually(t, 30*time.Second, "the end of the output", func() bool { return d.OK("logs", "--tail", "1", "running") == "done" })
	if n := size("running"); n > limit {
		t.Errorf("the running container's log has %d bytes", n)
	}
	d.OK("run", "--name", "new", "busybox", "sh", "-c", fill)
	if n := size("new"); n > limit {
		t.Errorf("a new container's log has %d bytes", n)
	}
	put(`{"container-log-limit": "256k"}`)
	if err := syscall.Kill(d.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	const less = 256<<10 + 128<<10
	harness.Eventually(t, 20*time.Second, "the logs to keep to the limit of a reload", func() bool { return size("stopped") <= less && size("new") <= less })
	d.OK("start", "new")
	d.OK("wait", "new")
	if n := size("new"); n > less {
		t.Errorf("after the reload a container's log has %d bytes", n)
	}
	d.OK("rm", "-f", "running")
}

// Followers of a log that rotates and is compressed see each line once.
func TestFollowOverRotation(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	const n = 30000
	d.OK("run", "-d", "--name", "ctr", "--log-opt", "max-size=200k", "--log-opt", "max-file=40", "--log-opt", "compress=true",
		"busybox", "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", n))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := d.Command(ctx, harness.Bin(t, "docker"), "logs", "-f", "ctr")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	i := 0
	for ; in.Scan(); i++ {
		if want := fmt.Sprintf("line %d", i); in.Text() != want {
			t.Fatalf("follower reads %q, want %q", in.Text(), want)
		}
	}
	if err := cmd.Wait(); err != nil || i != n {
		t.Errorf("follower has %d lines, %v, want %d", i, err, n)
	}
}
