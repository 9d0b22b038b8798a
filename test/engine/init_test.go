package engine

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// initTimeout bounds the start of a program below docker-init.
const initTimeout = 20 * time.Second

// TestInit: with --init the program runs below an init that reaps and forwards.
func TestInit(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()

	t.Run("reaps", func(t *testing.T) {
		// The grandchild becomes init's when its parent ends, then ends itself.
		out := d.OK("run", "--rm", "--init", "busybox", "sh", "-c",
			`sh -c 'sleep 0.01 & echo $! >/orphan'; while [ -e /proc/$(cat /orphan) ]; do sleep 0.01; done; cat /proc/1/comm`)
		if out != "docker-init" {
			t.Errorf("process 1 is %q", out)
		}
	})
	t.Run("forwards the stop signal", func(t *testing.T) {
		d.OK("run", "-d", "--init", "--name", "trap", "busybox", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
		harness.Eventually(t, initTimeout, "the trap", func() bool { return d.OK("logs", "trap") == "ready" })
		d.OK("stop", "-t", "60", "trap")
		if got := d.OK("inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Init}}", "trap"); got != "9 true" {
			t.Errorf("exit code and Init = %s", got)
		}
	})
	t.Run("exit codes", func(t *testing.T) {
		for _, tc := range []struct {
			code int
			args []string
		}{{5, []string{"sh", "-c", "exit 5"}}, {127, []string{"no-such-program"}}, {126, []string{"/etc"}}} {
			if r := d.Docker(append([]string{"run", "--rm", "--init", "busybox"}, tc.args...)...); r.Code != tc.code {
				t.Errorf("run --init %q: exit code %d, want %d: %s", tc.args, r.Code, tc.code, r.Stderr)
			}
		}
	})
	t.Run("terminal", func(t *testing.T) {
		// The program is in the foreground of the terminal, or it could not read it.
		d.OK("run", "-dit", "--init", "--name", "tty", "busybox", "sh", "-c", "read line; echo got $line")
		harness.Eventually(t, initTimeout, "the terminal's foreground group to be the program's", func() bool {
			top := d.Docker("exec", "tty", "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | while read pid comm state ppid pgrp session tty tpgid rest; do echo $comm $pgrp $tpgid; done")
			for line := range strings.Lines(top.Stdout) {
				f := strings.Fields(line)
				if len(f) == 3 && f[0] == "(sh)" && f[1] == f[2] && f[1] != "1" {
					return true
				}
			}
			return false
		})
		d.OK("rm", "-f", "tty")
	})
	t.Run("read-only", func(t *testing.T) {
		path := harness.Bin(t, "docker-init")
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		r := d.Docker("run", "--rm", "--init", "busybox", "sh", "-c", "echo x >/sbin/docker-init || rm /sbin/docker-init || mv /bin/busybox /sbin/docker-init")
		if r.Code == 0 {
			t.Error("the container could change docker-init")
		}
		after, err := os.Stat(path)
		if err != nil || before.ModTime() != after.ModTime() || before.Size() != after.Size() {
			t.Errorf("docker-init of the host is %v (%v), was %v", after, err, before)
		}
	})
	t.Run("daemon default", func(t *testing.T) {
		d := harness.Start(t, harness.Options{Args: []string{"--init"}})
		d.Busybox()
		if got := d.OK("run", "--rm", "busybox", "cat", "/proc/1/comm"); got != "docker-init" {
			t.Errorf("process 1 is %q", got)
		}
		if got := d.OK("run", "--rm", "--init=false", "busybox", "cat", "/proc/1/comm"); got != "cat" {
			t.Errorf("with --init=false process 1 is %q", got)
		}
	})
}

// TestRefusedAtCreate: what no start could do is refused when it is asked for.
func TestRefusedAtCreate(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	for _, tc := range []struct{ config, host, want string }{
		{`"Hostname":"a\nb"`, `{}`, `invalid hostname: "a\nb"`},
		{`"Domainname":"a b"`, `{}`, `invalid domainname: "a b"`},
		{`"Volumes":{"/proc":{}}`, `{}`, `invalid mount destination "/proc": it cannot be mounted because it is inside /proc`},
		{`"User":""`, `{"Tmpfs":{"/proc/sys":""}}`, `invalid mount destination "/proc/sys": it cannot be mounted because it is inside /proc`},
		{`"User":""`, `{"ExtraHosts":["a\nb:1.2.3.4"]}`, `bad format for add-host: "a\nb:1.2.3.4"`},
		{`"User":""`, `{"Sysctls":{"kernel.panic":"1"}}`, `sysctl "kernel.panic" is not in a separate kernel namespace`},
		{`"User":""`, `{"NetworkMode":"container:none"}`, `joining network namespace of container: No such container: none`},
		{`"User":""`, `{"PidMode":"container:none"}`, `failed to join PID namespace: No such container: none`},
		{`"User":""`, `{"IpcMode":"container:none"}`, `failed to join IPC namespace: No such container: none`},
	} {
		a := d.Request(t, "POST", "/containers/create", `{"Image":"busybox","Cmd":["true"],`+tc.config+`,"HostConfig":`+tc.host+`}`)
		if text, _ := a.Message(); a.Status != http.StatusBadRequest || text != tc.want {
			t.Errorf("create with %s %s = %d %q, want 400 %q", tc.config, tc.host, a.Status, text, tc.want)
		}
	}
	if got := d.OK("ps", "-aq"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	a := d.Request(t, "POST", "/containers/create", `{"Image":"busybox","Cmd":["true"],"HostConfig":{"CpuPercent":5}}`)
	if a.Status != http.StatusCreated || !strings.Contains(a.Body, "linux does not support CPU percent. Percent discarded.") {
		t.Errorf("create with a CPU percentage = %d %s", a.Status, a.Body)
	}
}
