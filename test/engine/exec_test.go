package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/moby/moby/api/types/container"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// execCreate prepares a process and returns its ID.
func execCreate(t *testing.T, d *harness.Daemon, name, body string) string {
	t.Helper()
	a := d.Request(t, "POST", "/containers/"+name+"/exec", body)
	var created struct{ Id string }
	if err := json.Unmarshal([]byte(a.Body), &created); err != nil || a.Status != http.StatusCreated {
		t.Fatalf("create exec: %d %s", a.Status, a.Body)
	}
	return created.Id
}

func execInspect(t *testing.T, d *harness.Daemon, id string) (x container.ExecInspectResponse) {
	t.Helper()
	a := d.Request(t, "GET", "/exec/"+id+"/json", "")
	if err := json.Unmarshal([]byte(a.Body), &x); err != nil || a.Status != http.StatusOK {
		t.Fatalf("inspect exec: %d %s", a.Status, a.Body)
	}
	return x
}

func TestExecStreams(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{Args: []string{"--live-restore"}})
	d.Busybox()
	d.OK("run", "-d", "--name", "host", "busybox", "sleep", "10000")

	t.Run("ways to take a connection over", func(t *testing.T) {
		for _, c := range []struct {
			tty, upgrade bool
			status       int
		}{{false, true, 101}, {false, false, 200}, {true, true, 101}, {true, false, 200}} {
			body := `{"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Cmd":["sh","-c","read x; echo got $x; echo bad >&2; exit 3"]`
			start := `{}`
			if c.tty {
				body += `,"Tty":true`
				start = `{"Tty":true}`
			}
			id := execCreate(t, d, "host", body+"}")
			a := takeOver(t, d, "/exec/"+id+"/start", start, c.upgrade)
			if a.status != c.status {
				t.Errorf("status %d, want %d", a.status, c.status)
			}
			io.WriteString(a, "in\n")
			if c.tty {
				if got, want := a.rest(t), "in\r\ngot in\r\nbad\r\n"; got != want {
					t.Errorf("%q, want %q", got, want)
				}
			} else if out, errs := a.split(t); out != "got in\n" || errs != "bad\n" {
				t.Errorf("stdout %q stderr %q", out, errs)
			}
			// The stream ends once the end is recorded.
			if x := execInspect(t, d, id); x.Running || x.ExitCode == nil || *x.ExitCode != 3 || x.ProcessConfig.Tty != c.tty {
				t.Errorf("after the end: %+v", x)
			}
		}
	})

	t.Run("half-close ends the input, not the output", func(t *testing.T) {
		id := execCreate(t, d, "host", `{"AttachStdin":true,"AttachStdout":true,"Cmd":["sh","-c","cat; echo after"]}`)
		a := takeOver(t, d, "/exec/"+id+"/start", "{}", true)
		io.WriteString(a, "a line\n")
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if out, _ := a.split(t); out != "a line\nafter\n" {
			t.Errorf("stdout %q", out)
		}
	})

	t.Run("what inspect shows", func(t *testing.T) {
		id := execCreate(t, d, "host", `{"AttachStdin":true,"AttachStdout":true,"Tty":true,"User":"0:0","Privileged":true,"DetachKeys":"ctrl-a,x","Cmd":["sleep","1000"]}`)
		x := execInspect(t, d, id)
		p := x.ProcessConfig
		if x.ID != id || x.Running || x.ExitCode != nil || x.Pid != 0 || !x.OpenStdin || !x.OpenStdout || x.OpenStderr ||
			p.Entrypoint != "sleep" || len(p.Arguments) != 1 || p.Arguments[0] != "1000" || !p.Tty || p.User != "0:0" || p.Privileged == nil || !*p.Privileged {
			t.Errorf("before the start: %+v %+v", x, p)
		}
		a := takeOver(t, d, "/exec/"+id+"/start", `{"Tty":true}`, true)
		harness.Eventually(t, streamLimit, "the exec to run", func() bool {
			x := execInspect(t, d, id)
			return x.Running && x.Pid > 0 && x.ExitCode == nil
		})
		if got := d.OK("inspect", "-f", "{{json .ExecIDs}}", "host"); got != `["`+id+`"]` {
			t.Errorf("ExecIDs %s", got)
		}
		if a := d.Request(t, "POST", "/exec/"+id+"/start", "{}"); a.Status != http.StatusConflict {
			t.Errorf("a second start: %d %s", a.Status, a.Body)
		}
		// The detach keys end the session and not the process.
		io.WriteString(a, "\x01x")
		a.rest(t)
		if x := execInspect(t, d, id); !x.Running {
			t.Errorf("after detach: %+v", x)
		}
		if err := syscall.Kill(execInspect(t, d, id).Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, streamLimit, "the exec to end", func() bool { return !execInspect(t, d, id).Running })
		if x := execInspect(t, d, id); x.ExitCode == nil || *x.ExitCode != 143 {
			t.Errorf("after SIGTERM: %+v", x)
		}
		events := d.OK("events", "--since", "5m", "--until", time.Now().Format(time.RFC3339Nano), "--filter", "container=host", "--format", "{{.Action}}")
		for _, want := range []string{"exec_create: sleep 1000", "exec_start: sleep 1000", "exec_detach", "exec_die"} {
			if !strings.Contains(events, want) {
				t.Errorf("no event %q in %s", want, events)
			}
		}
	})

	t.Run("sizes of the terminal", func(t *testing.T) {
		id := execCreate(t, d, "host", `{"AttachStdin":true,"AttachStdout":true,"Tty":true,"ConsoleSize":[21,61],"Cmd":["sh","-c","stty size; read x; stty size"]}`)
		for query, want := range map[string]string{
			"h=x&w=5": `invalid resize height "x": invalid syntax`,
			"h=5&w=x": `invalid resize width "x": invalid syntax`,
		} {
			a := d.Request(t, "POST", "/exec/"+id+"/resize?"+query, "")
			if text, _ := a.Message(); a.Status != http.StatusBadRequest || text != want {
				t.Errorf("resize?%s: %d %s", query, a.Status, a.Body)
			}
		}
		// A resize that comes before the start waits for it.
		early := make(chan int, 1)
		go func() { early <- d.Request(t, "POST", "/exec/"+id+"/resize?h=40&w=90", "").Status }()
		a := takeOver(t, d, "/exec/"+id+"/start", `{"Tty":true,"ConsoleSize":[22,62]}`, true)
		if line, err := a.r.ReadString('\n'); line != "22 62\r\n" && line != "40 90\r\n" || err != nil {
			t.Errorf("the first size is %q, %v", line, err)
		}
		if status := <-early; status != http.StatusOK {
			t.Errorf("resize at the start: %d", status)
		}
		if a := d.Request(t, "POST", "/exec/"+id+"/resize?h=50&w=132", ""); a.Status != http.StatusOK {
			t.Errorf("resize: %d %s", a.Status, a.Body)
		}
		io.WriteString(a, "\n")
		if got := a.rest(t); !strings.HasSuffix(got, "50 132\r\n") {
			t.Errorf("after the resize %q", got)
		}
	})

	t.Run("a program that is not there", func(t *testing.T) {
		id := execCreate(t, d, "host", `{"AttachStdout":true,"Cmd":["nosuchprogram"]}`)
		a := takeOver(t, d, "/exec/"+id+"/start", "{}", true)
		want := "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuchprogram\": executable file not found in $PATH\r\n"
		if out, _ := a.split(t); out != want {
			t.Errorf("the stream is %q, want %q", out, want)
		}
		if x := execInspect(t, d, id); x.Running || x.ExitCode == nil || *x.ExitCode != 127 {
			t.Errorf("after the failure: %+v", x)
		}
	})

	t.Run("a client that does not read", func(t *testing.T) {
		id := execCreate(t, d, "host", `{"AttachStdout":true,"Cmd":["sh","-c","yes | head -c 30000000"]}`)
		lazy := takeOver(t, d, "/exec/"+id+"/start", "{}", true)
		defer lazy.Close()
		if got := d.OK("exec", "host", "echo", "other"); got != "other" {
			t.Errorf("another exec: %q", got)
		}
	})

	t.Run("through the restart of the engine", func(t *testing.T) {
		id := execCreate(t, d, "host", `{"AttachStdout":true,"Cmd":["sh","-c","echo begun > /began; sleep 3000"]}`)
		takeOver(t, d, "/exec/"+id+"/start", "{}", true)
		harness.Eventually(t, streamLimit, "the exec to begin", func() bool { return d.Docker("exec", "host", "test", "-s", "/began").Code == 0 })
		d.StopDockerd()
		d.StartDockerd()
		// Docker too forgets it; the process goes on.
		if a := d.Request(t, "GET", "/exec/"+id+"/json", ""); a.Status != http.StatusNotFound {
			t.Errorf("inspect after the restart: %d %s", a.Status, a.Body)
		}
		if got := d.OK("exec", "host", "ps"); !strings.Contains(got, "sleep 3000") {
			t.Errorf("the process ended with the engine: %s", got)
		}
		if got := d.OK("exec", "host", "echo", "again"); got != "again" {
			t.Errorf("a new exec: %q", got)
		}
	})
}

// TestExecTerminal is exec -it on a real terminal.
func TestExecTerminal(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "-d", "--name", "host", "busybox", "sleep", "10000")
	eachCLI(t, func(t *testing.T, docker string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := d.Command(ctx, docker, "exec", "-it", "-e", "WORD=said", "-w", "/tmp", "host", "sh")
		term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 34, Cols: 102})
		if err != nil {
			t.Fatal(err)
		}
		defer term.Close()
		screen := newScreen(term)
		screen.send(t, "stty size; echo $WORD-$((1+1)); pwd\n")
		screen.waitFor(t, "said-2")
		harness.Eventually(t, streamLimit, "the size of the terminal", func() bool {
			screen.send(t, "stty size\n")
			return strings.Contains(screen.text(), "34 102")
		})
		if err := pty.Setsize(term, &pty.Winsize{Rows: 41, Cols: 121}); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, streamLimit, "the new size", func() bool {
			screen.send(t, "stty size\n")
			return strings.Contains(screen.text(), "41 121")
		})
		screen.send(t, "exit 6\n")
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 6 {
			t.Errorf("exit code = %d, want 6; screen %q", code, screen.text())
		}
		// The detach keys of the flag.
		cmd = d.Command(ctx, docker, "exec", "-it", "--detach-keys", "ctrl-a,d", "host", "sh", "-c", "echo up; sleep 2000")
		second, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		screen = newScreen(second)
		screen.waitFor(t, "up")
		screen.send(t, "\x01d")
		cmd.Wait()
		if got := d.OK("exec", "host", "ps"); !strings.Contains(got, "sleep 2000") {
			t.Errorf("the detached process ended: %s", got)
		}
	})
}

// TestStatsRedraw is docker stats on a real terminal: one table that changes.
func TestStatsRedraw(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "-d", "--name", "first", "busybox", "sleep", "10000")
	eachCLI(t, func(t *testing.T, docker string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := d.Command(ctx, docker, "stats")
		term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 160})
		if err != nil {
			t.Fatal(err)
		}
		defer term.Close()
		screen := newScreen(term)
		screen.waitFor(t, "first")
		// One that starts later comes in, one that goes leaves.
		d.OK("run", "-d", "--name", "second", "busybox", "sleep", "10000")
		screen.waitFor(t, "second")
		d.OK("rm", "-f", "second")
		harness.Eventually(t, streamLimit, "a table without the one that has gone", func() bool {
			text := screen.text()
			last := text[strings.LastIndex(text, "CONTAINER ID"):]
			return strings.Contains(last, "first") && !strings.Contains(last, "second")
		})
		if text := screen.text(); !strings.Contains(text, "\x1b[H") || strings.Count(text, "CONTAINER ID") < 3 {
			t.Errorf("the table is not drawn again in its place: %q", text)
		}
		screen.send(t, "\x03")
		cmd.Wait()
	})
}

// TestFollowLogsOverRestart follows a log while its container is started again.
func TestFollowLogsOverRestart(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "-d", "--name", "talker", "--stop-timeout", "0", "busybox", "sh", "-c", "echo run; exec sleep 10000")
	harness.Eventually(t, streamLimit, "the first run's line", func() bool { return d.OK("logs", "talker") == "run" })
	eachCLI(t, func(t *testing.T, docker string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := d.Command(ctx, docker, "logs", "-f", "--tail", "1", "talker")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "run" {
			t.Fatalf("read %q, %v", lines.Text(), lines.Err())
		}
		d.OK("restart", "talker")
		// As with Docker the following ends when the container stops.
		if lines.Scan() {
			t.Errorf("after the stop came %q", lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("logs -f: %v", err)
		}
		harness.Eventually(t, streamLimit, "the line of the second run", func() bool {
			return strings.HasSuffix(d.OK("logs", "talker"), "run\nrun")
		})
	})
}
