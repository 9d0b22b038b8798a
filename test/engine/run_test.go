package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"lighter/test/harness"
)

func TestRun(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		host := t.TempDir()
		if err := os.WriteFile(filepath.Join(host, "file"), []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		eachCLI(t, func(t *testing.T, docker string) {
			for _, tc := range []struct {
				name, input    string
				args           []string
				code           int
				stdout, stderr string // exact, and a part
			}{
				{name: "output", args: []string{"run", "--rm", "busybox", "echo", "hi"}, stdout: "hi\n"},
				{name: "both streams", args: []string{"run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", stderr: "err"},
				{name: "exit code", args: []string{"run", "--rm", "busybox", "sh", "-c", "exit 7"}, code: 7},
				{name: "ended by a signal", args: []string{"run", "--rm", "busybox", "sh", "-c", "sleep 100 & kill -9 $!; wait $!"}, code: 137},
				{name: "stdin", input: "typed\n", args: []string{"run", "--rm", "-i", "busybox", "cat"}, stdout: "typed\n"},
				{name: "large stdin", input: strings.Repeat("0123456789abcde\n", 1<<16), args: []string{"run", "--rm", "-i", "busybox", "wc", "-c"}, stdout: "1048576\n"},
				{name: "large stdout", args: []string{"run", "--rm", "busybox", "sh", "-c", "yes 0123456789abcde | head -c 4194304 | tail -c 16"}, stdout: "0123456789abcde\n"},
				{name: "environment", args: []string{"run", "--rm", "-e", "A=b c", "busybox", "sh", "-c", `echo "$A $HOME $PATH"`}, stdout: "b c /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"},
				{name: "workdir", args: []string{"run", "--rm", "-w", "/new/dir", "busybox", "pwd"}, stdout: "/new/dir\n"},
				{name: "user by number", args: []string{"run", "--rm", "-u", "1234:5678", "busybox", "sh", "-c", "id -u; id -g"}, stdout: "1234\n5678\n"},
				{name: "user by name", args: []string{"run", "--rm", "-u", "nobody", "busybox", "id", "-u"}, stdout: "65534\n"},
				{name: "hostname", args: []string{"run", "--rm", "--hostname", "box", "busybox", "sh", "-c", "hostname; grep -c box /etc/hosts; cat /etc/hostname"}, stdout: "box\n1\nbox\n"},
				{name: "entrypoint", args: []string{"run", "--rm", "--entrypoint", "echo", "busybox", "a", "b"}, stdout: "a b\n"},
				{name: "bind", args: []string{"run", "--rm", "-v", host + ":/mnt", "busybox", "cat", "/mnt/file"}, stdout: "from the host\n"},
				{name: "read-only bind", args: []string{"run", "--rm", "-v", host + ":/mnt:ro", "busybox", "touch", "/mnt/x"}, code: 1, stderr: "Read-only file system"},
				{name: "volume", args: []string{"run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept >/data/f; cat /data/f"}, stdout: "kept\n"},
				{name: "tmpfs", args: []string{"run", "--rm", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", "grep ' /t ' /proc/mounts | cut -d' ' -f3"}, stdout: "tmpfs\n"},
				{name: "no network", args: []string{"run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net"}, stdout: "lo\n"},
				{name: "host network", args: []string{"run", "--rm", "--network", "host", "busybox", "sh", "-c", "ls -d /sys/class/net/docker0"}, stdout: "/sys/class/net/docker0\n"},
				{name: "bridge", args: []string{"run", "--rm", "busybox", "sh", "-c", "cat /sys/class/net/eth0/operstate; ip route | grep -c default"}, stdout: "up\n1\n"},
				{name: "pid namespace", args: []string{"run", "--rm", "busybox", "sh", "-c", "echo $$"}, stdout: "1\n"},
				{name: "read-only root", args: []string{"run", "--rm", "--read-only", "busybox", "touch", "/x"}, code: 1, stderr: "Read-only file system"},
				{name: "memory limit", args: []string{"run", "--rm", "-m", "64m", "busybox", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"}, stdout: "67108864\n"},
				{name: "pids limit", args: []string{"run", "--rm", "--pids-limit", "20", "busybox", "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"}, stdout: "20\n"},
				{name: "cpus", args: []string{"run", "--rm", "--cpus", "0.5", "busybox", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | cut -d' ' -f1"}, stdout: "50000\n"},
				{name: "default capabilities", args: []string{"run", "--rm", "busybox", "sh", "-c", "grep CapEff /proc/self/status"}, stdout: "CapEff:\t00000000a80425fb\n"},
				{name: "drop all", args: []string{"run", "--rm", "--cap-drop", "ALL", "busybox", "sh", "-c", "grep CapEff /proc/self/status"}, stdout: "CapEff:\t0000000000000000\n"},
				{name: "add one", args: []string{"run", "--rm", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", "grep CapEff /proc/self/status"}, stdout: "CapEff:\t0000000000001000\n"},
				{name: "seccomp by default", args: []string{"run", "--rm", "busybox", "sh", "-c", "grep Seccomp: /proc/self/status"}, stdout: "Seccomp:\t2\n"},
				{name: "privileged", args: []string{"run", "--rm", "--privileged", "busybox", "sh", "-c", "grep Seccomp: /proc/self/status; mount -t tmpfs t /tmp && echo mounted"}, stdout: "Seccomp:\t0\nmounted\n"},
				{name: "masked", args: []string{"run", "--rm", "busybox", "sh", "-c", "wc -c </proc/keys; ls /sys/firmware | wc -l"}, stdout: "0\n0\n"},
				{name: "descriptors", args: []string{"run", "--rm", "busybox", "sh", "-c", "exec ls /proc/self/fd"}, stdout: "0\n1\n2\n3\n"},
				{name: "not found", args: []string{"run", "--rm", "busybox", "no-such-program"}, code: 127, stderr: "executable file not found in $PATH"},
				{name: "path not found", args: []string{"run", "--rm", "busybox", "/no/such/program"}, code: 127, stderr: "no such file or directory"},
				{name: "not executable", args: []string{"run", "--rm", "busybox", "/etc/passwd"}, code: 126, stderr: "permission denied"},
				{name: "unknown image", args: []string{"run", "--rm", "--pull", "never", "no-such-image"}, code: 125, stderr: "No such image: no-such-image:latest"},
				{name: "unknown flag", args: []string{"run", "--no-such-flag", "busybox"}, code: 125, stderr: "unknown flag: --no-such-flag"},
				{name: "invalid name", args: []string{"run", "--name", "a/b", "busybox", "true"}, code: 125, stderr: "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
				{name: "invalid port", args: []string{"run", "-p", "x:80", "busybox", "true"}, code: 125, stderr: "invalid"},
				{name: "invalid volume path", args: []string{"run", "-v", host + ":relative", "busybox", "true"}, code: 125, stderr: "mount path must be absolute"},
				{name: "unknown user", args: []string{"run", "--rm", "-u", "stranger", "busybox", "true"}, code: 125, stderr: "unable to find user stranger: no matching entries in passwd file"},
				{name: "too little memory", args: []string{"run", "-m", "1m", "busybox", "true"}, code: 125, stderr: "Minimum memory limit allowed is 6MB"},
				{name: "unknown network", args: []string{"run", "--rm", "--network", "elsewhere", "busybox", "true"}, code: 125, stderr: "network elsewhere not found"},
			} {
				t.Run(tc.name, func(t *testing.T) {
					r := d.CLI(docker, tc.input, tc.args...)
					if r.Code != tc.code || tc.stdout != "" && r.Stdout != tc.stdout || !strings.Contains(r.Stderr, tc.stderr) {
						t.Errorf("docker %q:\n code %d, want %d\n stdout %q, want %q\n stderr %q, want %q in it",
							tc.args, r.Code, tc.code, tail(r.Stdout), tc.stdout, tail(r.Stderr), tc.stderr)
					}
				})
			}
		})
		if left := d.OK("ps", "-aq", "--filter", "status=created", "--filter", "status=exited"); left != "" {
			for id := range strings.FieldsSeq(left) {
				t.Errorf("left after failures: %s", d.OK("inspect", "--format", "{{.Name}} {{.Config.Cmd}} {{.State.Error}}", id))
			}
		}
		d.OK("volume", "rm", "data")
	})
}

// tail is the end of a long text.
func tail(s string) string { return s[max(0, len(s)-500):] }

func TestLifecycle(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		id := d.OK("run", "-d", "--name", "web", "busybox", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done")
		if got := d.OK("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"); got != id+" web running" {
			t.Errorf("ps = %q", got)
		}
		waitLog(t, d, "web", "up\n")
		if got := d.OK("exec", "web", "sh", "-c", "echo in; cat /proc/1/comm"); got != "in\nsh" {
			t.Errorf("exec = %q", got)
		}
		if r := d.Docker("exec", "web", "sh", "-c", "exit 9"); r.Code != 9 {
			t.Errorf("exec exit code = %d, want 9", r.Code)
		}
		if r := d.Docker("exec", "web", "no-such-program"); r.Code != 127 {
			t.Errorf("exec of a missing program: code %d, %q, want 127", r.Code, r.Stdout+r.Stderr)
		}
		if r := d.Docker("exec", "web", "/etc/passwd"); r.Code != 126 {
			t.Errorf("exec of a file without x: code %d, %q, want 126", r.Code, r.Stdout+r.Stderr)
		}
		if got := d.CLI(harness.Bin(t, "docker"), "typed", "exec", "-i", "web", "cat").Stdout; got != "typed" {
			t.Errorf("exec -i = %q", got)
		}
		if r := d.Docker("rm", "web"); r.Code != 1 || !strings.Contains(r.Stderr, "container is running") {
			t.Errorf("rm of a running container = %d %q", r.Code, r.Stderr)
		}
		if r := d.Docker("run", "--name", "web", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, `The container name "/web" is already in use by container "`+id) {
			t.Errorf("a second web = %d %q", r.Code, r.Stderr)
		}
		d.OK("stop", "web")
		if got := d.OK("wait", "web"); got != "3" {
			t.Errorf("wait = %q, want 3", got)
		}
		if got := d.OK("logs", "web"); got != "up\nbye" {
			t.Errorf("logs = %q", got)
		}
		if got := d.OK("ps", "-a", "--filter", "name=web", "--filter", "status=exited", "--format", "{{.Status}}"); !strings.HasPrefix(got, "Exited (3) ") {
			t.Errorf("status = %q", got)
		}
		d.OK("start", "web")
		waitLog(t, d, "web", "up\nbye\nup\n")
		d.OK("restart", "-t", "0", "web")
		waitLog(t, d, "web", "up\nbye\nup\nup\n")
		d.OK("kill", "-s", "TERM", "web")
		d.OK("wait", "web")
		if got := d.OK("logs", "--tail", "1", "web"); got != "bye" {
			t.Errorf("logs --tail 1 = %q", got)
		}
		if got := d.OK("logs", "-t", "--tail", "1", "web"); len(got) < len("2006-01-02T15:04:05.000000000Z bye") || !strings.HasSuffix(got, "Z bye") {
			t.Errorf("logs -t = %q", got)
		}
		d.OK("pause", d.OK("run", "-d", "--name", "paused", "busybox", "sleep", "100"))
		if got := d.OK("inspect", "--format", "{{.State.Status}}", "paused"); got != "paused" {
			t.Errorf("state = %q, want paused", got)
		}
		d.OK("unpause", "paused")
		d.OK("rename", "paused", "renamed")
		d.OK("rm", "-f", "renamed", "web")
		if got := d.OK("ps", "-aq"); got != "" {
			t.Errorf("ps -aq = %q after rm", got)
		}
	})
}

func waitLog(t *testing.T, d *harness.Daemon, name, want string) {
	t.Helper()
	var got string
	defer func() {
		if got != want {
			t.Errorf("logs of %s = %q, want %q", name, got, want)
		}
	}()
	harness.Eventually(t, 10*time.Second, fmt.Sprintf("the log of %s", name), func() bool {
		got = d.Docker("logs", name).Stdout
		return got == want
	})
}

func TestFollowLogs(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		d.OK("run", "-d", "--name", "talker", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done")
		if got, want := d.OK("logs", "-f", "talker"), "line 1\nline 2\nline 3\nline 4\nline 5"; got != want {
			t.Errorf("logs -f = %q, want %q", got, want)
		}
	})
}

func TestTerminal(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		eachCLI(t, func(t *testing.T, docker string) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := d.Command(ctx, docker, "run", "-it", "--name", "tty", "busybox", "sh")
			term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
			if err != nil {
				t.Fatal(err)
			}
			defer term.Close()
			screen := newScreen(term)
			screen.send(t, "tty; stty size; echo done-$((1+1))\n")
			screen.waitFor(t, "done-2")
			for _, want := range []string{"/dev/pts/0", "33 101"} {
				if !strings.Contains(screen.text(), want) {
					t.Errorf("the terminal shows %q, want %q in it", screen.text(), want)
				}
			}
			harness.Eventually(t, 10*time.Second, "the new size", func() bool {
				// Twice, so that each try is a change: the stock command line listens
				// for changes only some time after the shell has started.
				for _, rows := range []uint16{39, 40} {
					if err := pty.Setsize(term, &pty.Winsize{Rows: rows, Cols: 120}); err != nil {
						t.Fatal(err)
					}
				}
				screen.send(t, "stty size\n")
				return strings.Contains(screen.text(), "40 120")
			})
			// Ctrl-C ends the command, not the shell.
			screen.send(t, "sleep 1000\n")
			harness.Eventually(t, 10*time.Second, "the command to run", func() bool {
				return strings.Contains(d.OK("exec", "tty", "ps"), "sleep 1000")
			})
			screen.send(t, "\x03")
			screen.send(t, "echo alive-$((2+2))\n")
			screen.waitFor(t, "alive-4")
			// The detach keys leave it running.
			screen.send(t, "\x10\x11")
			if err := cmd.Wait(); err != nil {
				t.Errorf("detach: %v", err)
			}
			if got := d.OK("inspect", "--format", "{{.State.Running}}", "tty"); got != "true" {
				t.Errorf("running after detach = %s", got)
			}
			// Attach again and leave with a code.
			again := d.Command(ctx, docker, "attach", "tty")
			term2, err := pty.Start(again)
			if err != nil {
				t.Fatal(err)
			}
			defer term2.Close()
			screen2 := newScreen(term2)
			screen2.send(t, "\n")
			screen2.waitFor(t, "#")
			screen2.send(t, "exit 5\n")
			again.Wait()
			if code := again.ProcessState.ExitCode(); code != 5 {
				t.Errorf("attach's exit code = %d, want 5; screen %q", code, screen2.text())
			}
			d.OK("rm", "tty")
		})
	})
}

func TestSignalsReachTheProcess(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := d.Command(ctx, harness.Bin(t, "docker"), "run", "--rm", "--name", "signalled", "busybox", "sh", "-c", "trap 'exit 42' INT; echo ready; while :; do sleep 0.05; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 6)
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
			t.Fatalf("read %q, %v", line, err)
		}
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 42 {
			t.Errorf("exit code = %d, want 42", code)
		}
	})
}

func TestPublishedPorts(t *testing.T) {
	eachMode(t, func(t *testing.T, d *harness.Daemon) {
		echo := filepath.Join(t.TempDir(), "udpecho")
		build := exec.Command("go", "build", "-o", echo, "./testdata/udpecho")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		d.OK("run", "-d", "--name", "web", "-v", echo+":/udpecho", "-p", "127.0.0.1:18080:80", "-p", "18081:80", "-p", "5353:5353/udp", "busybox", "sh", "-c",
			"echo served >/var/www/index.html; /udpecho & exec httpd -f -h /var/www")
		for _, url := range []string{"http://127.0.0.1:18080/", "http://127.0.0.1:18081/", "http://[::1]:18081/"} {
			var body string
			var err error
			harness.Eventually(t, 10*time.Second, url, func() bool { body, err = fetch(url); return err == nil })
			if body != "served\n" {
				t.Errorf("GET %s = %q", url, body)
			}
		}
		conn, err := net.Dial("udp", "127.0.0.1:5353")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		reply := make([]byte, 16)
		harness.Eventually(t, 10*time.Second, "an answer over UDP", func() bool {
			conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := conn.Write([]byte("ping")); err != nil {
				return false
			}
			n, err := conn.Read(reply)
			return err == nil && string(reply[:n]) == "ping"
		})
		if got := d.OK("port", "web", "80"); !strings.Contains(got, "127.0.0.1:18080") || !strings.Contains(got, "0.0.0.0:18081") {
			t.Errorf("port = %q", got)
		}
		r := d.Docker("run", "--rm", "-p", "18081:80", "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Stderr, "port is already allocated") {
			t.Errorf("a port in use = %d %q", r.Code, r.Stderr)
		}
		d.OK("rm", "-f", "web")
		if body, err := fetch("http://127.0.0.1:18081/"); err == nil {
			t.Errorf("the port still serves %q after rm", body)
		}
	})
}

func fetch(url string) (string, error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(body), err
}
