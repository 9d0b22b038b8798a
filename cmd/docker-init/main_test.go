package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The test's own executable is docker-init when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_DOCKER_INIT") != "" || os.Args[0] == foreground {
		main()
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "TEST_DOCKER_INIT=1")
	return cmd
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stderr string
	}{
		{"the program's", []string{"--", "/bin/sh", "-c", "exit 7"}, 7, ""},
		{"without dashes", []string{"/bin/sh", "-c", "exit 3"}, 3, ""},
		{"looked up", []string{"--", "true"}, 0, ""},
		{"a signal", []string{"--", "/bin/sh", "-c", "kill -9 $$"}, 137, ""},
		{"no such program", []string{"--", "no-such-program"}, 127, "docker-init: exec no-such-program: no such file or directory\n"},
		{"no such path", []string{"--", dir + "/none"}, 127, "no such file or directory\n"},
		{"not executable", []string{"--", plain}, 126, "permission denied\n"},
		{"a directory", []string{"--", dir}, 126, "permission denied\n"},
		{"nothing", []string{"--"}, 1, "docker-init: no program to run\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := command(c.args...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code = %d, want %d", got, c.code)
			}
			if !strings.HasSuffix(stderr.String(), c.stderr) || c.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stderr = %q, want the end %q", stderr.String(), c.stderr)
			}
		})
	}
}

// A signal goes to the program, which may do with it what it likes; the program
// does not share docker-init's process group.
func TestForwardsSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGWINCH, syscall.Signal(40)} {
		t.Run(sig.String(), func(t *testing.T) {
			name := map[syscall.Signal]string{
				syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP", syscall.SIGUSR1: "USR1", syscall.SIGWINCH: "WINCH",
				syscall.Signal(40): "40",
			}[sig]
			cmd := command("--", "/bin/sh", "-c", "trap 'exit 42' "+name+"; echo ready; while :; do sleep 0.01; done")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != 42 {
				t.Errorf("exit code = %d, want the trap's 42", got)
			}
		})
	}
}

func TestForwarded(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGTTOU} {
		if forwarded(sig) {
			t.Errorf("forwarded(%s) = true", sig)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGCONT} {
		if !forwarded(sig) {
			t.Errorf("forwarded(%s) = false", sig)
		}
	}
}
