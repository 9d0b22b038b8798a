package reaper

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// run starts a Reaper for the test's own children.
func run(t *testing.T) *Reaper {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := New()
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGCHLD)
	var done sync.WaitGroup
	done.Go(func() { r.Run(ctx, ch) })
	t.Cleanup(func() { signal.Stop(ch); cancel(); done.Wait() })
	return r
}

func await(t *testing.T, ch <-chan Exit) Exit {
	t.Helper()
	select {
	case e := <-ch:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no exit")
		return Exit{}
	}
}

func TestStatus(t *testing.T) {
	r := run(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "kill -TERM $$": 143,
	} {
		pid, exit, err := r.Start(exec.Command("/bin/sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		if e := await(t, exit); e.Status != want || e.Pid != pid || e.At.IsZero() {
			t.Errorf("%q: %+v, want status %d of %d", script, e, want, pid)
		}
	}
}

// A process that ends before anybody tracks it is not lost, nor are the children
// that code in Do waits for itself.
func TestExitBeforeTrack(t *testing.T) {
	r := run(t)
	for range 50 {
		var exit <-chan Exit
		err := r.Do(func() error {
			cmd := exec.Command("/bin/sh", "-c", "exit 3")
			if err := cmd.Start(); err != nil {
				return err
			}
			// Another child, waited for here, says that the first has had its time.
			if err := exec.Command("/bin/true").Run(); err != nil {
				return err
			}
			var info unix.Siginfo
			if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				return err
			}
			exit = r.Track(cmd.Process.Pid)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if e := await(t, exit); e.Status != 3 {
			t.Fatalf("status %d, want 3", e.Status)
		}
	}
}

// A grandchild whose parent has gone is tracked like a child, as with an OCI
// program that starts a container and exits.
func TestOrphans(t *testing.T) {
	r := run(t)
	var exit <-chan Exit
	var pid int
	held, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	err = r.Do(func() error {
		// The orphan ends after its parent, which would reap it otherwise.
		defer release.Close()
		cmd := exec.Command("/bin/sh", "-c", "sh -c 'exec >&- 2>&-; read x <&3; exit 5' & echo $!")
		cmd.ExtraFiles = []*os.File{held}
		out, err := cmd.Output()
		if err != nil {
			return err
		}
		for _, c := range out {
			if c >= '0' && c <= '9' {
				pid = pid*10 + int(c-'0')
			}
		}
		exit = r.Track(pid)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if e := await(t, exit); e.Status != 5 || e.Pid != pid {
		t.Errorf("%+v, want status 5 of %d", e, pid)
	}
}

func TestUntrackedOrphanIsReapedAfterDo(t *testing.T) {
	r := run(t)
	var orphan int
	err := r.Do(func() error {
		cmd := exec.Command("/bin/true")
		if err := cmd.Start(); err != nil {
			return err
		}
		orphan = cmd.Process.Pid
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, orphan, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			return err
		}
		r.scan()
		if err := unix.Kill(orphan, 0); err != nil {
			t.Errorf("the child was reaped during Do: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for unix.Kill(orphan, 0) == nil {
		select {
		case <-deadline:
			t.Fatal("the orphan is still a zombie")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestSignal(t *testing.T) {
	r := run(t)
	pid, exit, err := r.Start(exec.Command("/bin/sleep", "100"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Signal(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := await(t, exit); e.Status != 137 {
		t.Errorf("status %d, want 137", e.Status)
	}
	if err := r.Signal(pid, syscall.SIGKILL); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("signal after exit: %v, want NotFound", err)
	}
}
