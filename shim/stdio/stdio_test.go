package stdio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"lighter/internal/shimio"
	"lighter/shim/reaper"
)

const testTimeout = 20 * time.Second

// env is an IO with an attach socket.
type env struct {
	t    *testing.T
	io   *IO
	path string
	log  string
}

func newEnv(t *testing.T, s shimio.Stdio, terminal bool) *env {
	t.Helper()
	e := &env{t: t, path: filepath.Join(t.TempDir(), "io.sock"), log: filepath.Join(t.TempDir(), "x.log")}
	if s.LogDriver != "" {
		s.LogPath = e.log
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	e.io, err = New(Config{Container: "c", Terminal: terminal, Stdout: s.String()}, Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := Serve(e.path, func(process string) (*IO, error) {
		if process != "" {
			return nil, fmt.Errorf("no exec %q", process)
		}
		return e.io, nil
	}, Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.io.Close()
		srv.Close()
		srv.Wait()
		if _, err := os.Stat(e.path); !os.IsNotExist(err) {
			t.Errorf("the attach socket is left: %v", err)
		}
	})
	return e
}

func (e *env) dial(req shimio.Request) *shimio.Conn {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	c, err := shimio.Dial(ctx, e.path, req)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testTimeout))
	return c
}

// start runs a shell script on the IO and drains when it has ended, for which
// end waits.
func (e *env) start(script string) (end func()) {
	e.t.Helper()
	in, out, errOut, err := e.io.Open()
	if err != nil {
		e.t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	if in != nil {
		cmd.Stdin = in
	}
	cmd.Stdout, cmd.Stderr = out, errOut
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.io.CloseChild()
	var done sync.WaitGroup
	done.Go(func() {
		kill := time.AfterFunc(testTimeout, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
		e.io.Drain(2 * time.Second)
	})
	return done.Wait
}

func (e *env) readAll(c *shimio.Conn) string {
	e.t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		e.t.Errorf("read: %v", err)
	}
	return string(b)
}

func (e *env) logged() string {
	e.t.Helper()
	f, err := os.Open(e.log)
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	var all strings.Builder
	dec := json.NewDecoder(f)
	for {
		var rec struct{ Log, Stream string }
		if err := dec.Decode(&rec); err == io.EOF {
			return all.String()
		} else if err != nil {
			e.t.Fatal(err)
		}
		all.WriteString(rec.Log)
	}
}

// unframe splits stdcopy frames by stream.
func unframe(t *testing.T, s string) (out, err string) {
	t.Helper()
	var streams [3]strings.Builder
	for b := []byte(s); len(b) > 0; {
		if len(b) < 8 || b[0] < 1 || b[0] > 2 || b[1]|b[2]|b[3] != 0 {
			t.Fatalf("bad frame %q", b[:min(len(b), 20)])
		}
		n := binary.BigEndian.Uint32(b[4:])
		streams[b[0]].Write(b[8 : 8+n])
		b = b[8+n:]
	}
	return streams[1].String(), streams[2].String()
}

func TestAttachBeforeStartGetsEverything(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "json-file"}, false)
	framed := e.dial(shimio.Request{Stdout: true, Stderr: true, Framed: true})
	raw := e.dial(shimio.Request{Stdout: true})
	onlyErr := e.dial(shimio.Request{Stderr: true})
	end := e.start("echo first; echo problem >&2; printf last")
	end()
	out, errOut := unframe(t, e.readAll(framed))
	if out != "first\nlast" || errOut != "problem\n" {
		t.Errorf("framed %q and %q", out, errOut)
	}
	if got := e.readAll(raw); got != "first\nlast" {
		t.Errorf("raw stdout %q", got)
	}
	if got := e.readAll(onlyErr); got != "problem\n" {
		t.Errorf("raw stderr %q", got)
	}
	if got := e.logged(); len(got) != len("first\nproblem\nlast") {
		t.Errorf("log %q", got)
	}
}

func TestAttachAfterStart(t *testing.T) {
	e := newEnv(t, shimio.Stdio{Stdin: true}, false)
	end := e.start("read x; echo got $x")
	c := e.dial(shimio.Request{Stdin: true, Stdout: true})
	io.WriteString(c, "hello\n")
	if got := e.readAllUntil(c, "got hello\n"); got != "got hello\n" {
		t.Errorf("read %q", got)
	}
	end()
}

func (e *env) readAllUntil(c *shimio.Conn, want string) string {
	e.t.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(c, b)
	if err != nil {
		e.t.Errorf("read %q: %v", b[:n], err)
	}
	return string(b[:n])
}

func TestAttachAfterExitIsRefused(t *testing.T) {
	e := newEnv(t, shimio.Stdio{}, false)
	e.start("true")()
	_, err := shimio.Dial(t.Context(), e.path, shimio.Request{Stdout: true})
	if err == nil || !strings.Contains(err.Error(), "exited") {
		t.Errorf("attach after exit: %v", err)
	}
	_, err = shimio.Dial(t.Context(), e.path, shimio.Request{Process: "nobody"})
	if err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("attach to an unknown exec: %v", err)
	}
}

func TestStdinOnceEndsWithFirstClient(t *testing.T) {
	for _, half := range []bool{true, false} {
		t.Run(fmt.Sprint("half-close ", half), func(t *testing.T) {
			e := newEnv(t, shimio.Stdio{Stdin: true, StdinOnce: true, LogDriver: "json-file"}, false)
			c := e.dial(shimio.Request{Stdin: true, Stdout: true})
			end := e.start("cat; echo end")
			io.WriteString(c, "text\n")
			if half {
				c.CloseWrite()
				if got := e.readAll(c); got != "text\nend\n" {
					t.Errorf("read %q", got)
				}
			} else {
				c.Close()
			}
			end()
			if got := e.logged(); got != "text\nend\n" {
				t.Errorf("log %q", got)
			}
		})
	}
}

func TestStdinStaysOpenOverClients(t *testing.T) {
	e := newEnv(t, shimio.Stdio{Stdin: true, LogDriver: "json-file"}, false)
	end := e.start("read a; read b; read c; echo $a $b $c")
	for i, half := range []bool{true, false} {
		c := e.dial(shimio.Request{Stdin: true, Stdout: true})
		fmt.Fprintf(c, "%d\n", i)
		if half {
			c.CloseWrite()
		} else {
			c.Close()
		}
	}
	c := e.dial(shimio.Request{Stdin: true, Stdout: true})
	io.WriteString(c, "x\n")
	end()
	if got := strings.Fields(e.logged()); len(got) != 3 {
		t.Errorf("log %q, want three words", got)
	}
}

func TestCloseStdinReachesProcess(t *testing.T) {
	e := newEnv(t, shimio.Stdio{Stdin: true}, false)
	end := e.start("cat >/dev/null")
	e.io.CloseStdin()
	end()
}

func TestProcessWithoutStdinReadsEnd(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "json-file"}, false)
	c := e.dial(shimio.Request{Stdin: true, Stdout: true})
	end := e.start("cat; echo end")
	io.WriteString(c, "ignored")
	if got := e.readAll(c); got != "end\n" {
		t.Errorf("read %q", got)
	}
	end()
}

// Unread input must not turn the client's end of output into an error.
func TestOutputEndsCleanlyWithUnreadInput(t *testing.T) {
	e := newEnv(t, shimio.Stdio{Stdin: true}, false)
	c := e.dial(shimio.Request{Stdin: true, Stdout: true})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	end := e.start("echo hi")
	end()
	if got := e.readAll(c); got != "hi\n" {
		t.Errorf("read %q", got)
	}
	writer.Wait()
}

const megabytes = 8

// A client that reads nothing while the process writes gets all the same bytes
// when it does, held up by no more than the process.
func TestSlowClientLosesNothing(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "json-file"}, false)
	slow := e.dial(shimio.Request{Stdout: true, Framed: true})
	fast := e.dial(shimio.Request{Stdout: true})
	end := e.start(fmt.Sprintf("yes 0123456789abcde | head -c %d", megabytes<<20))
	var got string
	var reading sync.WaitGroup
	reading.Go(func() { got = e.readAll(fast) })
	// The fast one stops too once the slow one's buffer is full; then the slow one reads.
	b := make([]byte, 100)
	if _, err := io.ReadFull(slow, b); err != nil {
		t.Fatal(err)
	}
	rest := e.readAll(slow)
	reading.Wait()
	end()
	out, _ := unframe(t, string(b)+rest)
	want := strings.Repeat("0123456789abcde\n", megabytes<<16)
	if out != want || got != want {
		t.Errorf("slow client got %d bytes, fast one %d, want %d", len(out), len(got), len(want))
	}
	if n := len(e.logged()); n != len(want) {
		t.Errorf("log has %d bytes, want %d", n, len(want))
	}
}

// The end of the process is not held up by a client that never reads.
func TestStuckClientDoesNotDelayExitOrLog(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "json-file"}, false)
	e.dial(shimio.Request{Stdout: true})
	const size = 1<<20 + 300<<10 // more than the client's buffers, so that the process waits for it
	end := e.start(fmt.Sprintf("yes 0123456789abcde | head -c %d; exit 0", size))
	start := time.Now()
	end()
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("drained after %s", d)
	}
	if n := len(e.logged()); n != size {
		t.Errorf("log has %d bytes, want %d", n, size)
	}
}

// A process that inherits the pipes does not hold up the exit.
func TestDrainIsBounded(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "json-file"}, false)
	in, out, errOut, err := e.io.Open()
	if err != nil || in != nil {
		t.Fatal(in, err)
	}
	held, err := unix.Dup(int(out.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(held)
	fmt.Fprint(out, "text")
	fmt.Fprint(errOut, "more\n")
	e.io.CloseChild()
	e.io.Drain(50 * time.Millisecond)
	e.io.Close()
	if got := e.logged(); len(got) != len("textmore\n") {
		t.Errorf("log %q", got)
	}
}

func TestTerminal(t *testing.T) {
	e := newEnv(t, shimio.Stdio{Stdin: true, StdinOnce: true, LogDriver: "json-file"}, true)
	c := e.dial(shimio.Request{Stdin: true, Stdout: true})
	if !c.TTY {
		t.Error("the response does not tell of a terminal")
	}
	if _, _, _, err := e.io.Open(); err != nil {
		t.Fatal(err)
	}
	if err := e.io.Resize(100, 40); err != nil { // before there is a terminal
		t.Fatal(err)
	}
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.io.Console(master); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "stty size; read x; echo got $x; read y; stty size; echo also $y")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	io.WriteString(c, "hello\n")
	if got := e.readAllUntil(c, "40 100\r\nhello\r\ngot hello\r\n"); !strings.Contains(got, "got hello") {
		t.Errorf("read %q", got)
	}
	c.Close() // a detach: StdinOnce means nothing for a terminal
	if err := e.io.Resize(90, 30); err != nil {
		t.Fatal(err)
	}
	again := e.dial(shimio.Request{Stdin: true, Stdout: true})
	io.WriteString(again, "more\n")
	cmd.Wait()
	e.io.Drain(2 * time.Second)
	if got := e.readAll(again); !strings.Contains(got, "30 90\r\nalso more\r\n") {
		t.Errorf("read %q", got)
	}
	if got := e.logged(); !strings.Contains(got, "also more\r\n") {
		t.Errorf("log %q", got)
	}
}

func TestFifos(t *testing.T) {
	dir := t.TempDir()
	paths := make(map[string]string)
	for _, name := range []string{"in", "out", "err"} {
		paths[name] = filepath.Join(dir, name)
		if err := unix.Mkfifo(paths[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	streams, err := New(Config{Stdin: paths["in"], Stdout: paths["out"], Stderr: paths["err"]}, Deps{Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, io: streams}
	defer streams.Close()
	end := e.start("cat; echo end >&2")
	var out, errOut []byte
	var reading sync.WaitGroup
	for name, to := range map[string]*[]byte{"out": &out, "err": &errOut} {
		reading.Go(func() { *to, _ = os.ReadFile(paths[name]) })
	}
	// Input stays open over clients until CloseStdin and the last of them.
	for i := range 2 {
		if err := os.WriteFile(paths["in"], fmt.Appendf(nil, "line %d\n", i), 0); err != nil {
			t.Fatal(err)
		}
	}
	streams.CloseStdin()
	end()
	reading.Wait()
	if string(out) != "line 0\nline 1\n" || string(errOut) != "end\n" {
		t.Errorf("stdout %q, stderr %q", out, errOut)
	}
}

func TestFileScheme(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "out.log")
	streams, err := New(Config{Stdout: "file://" + path}, Deps{Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, io: streams}
	e.start("echo out; echo err >&2; cat")()
	streams.Close()
	if b, err := os.ReadFile(path); len(b) != len("out\nerr\n") {
		t.Errorf("%q, %v", b, err)
	}
}

func TestLoggerProgram(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		t.Run(fmt.Sprint("terminal ", terminal), func(t *testing.T) {
			dir := t.TempDir()
			prog := filepath.Join(dir, "logger")
			script := "#!/bin/sh\nexec 5>&-\n(echo $CONTAINER_ID $CONTAINER_NAMESPACE $@; cat <&3; cat <&4) >" + dir + "/tmp\nmv " + dir + "/tmp " + dir + "/out\n"
			if err := os.WriteFile(prog, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			r := reaper.New()
			ctx, cancel := context.WithCancel(context.Background())
			sig := make(chan os.Signal, 1)
			signal.Notify(sig, unix.SIGCHLD)
			var done sync.WaitGroup
			done.Go(func() { r.Run(ctx, sig) })
			defer func() { signal.Stop(sig); cancel(); done.Wait() }()
			streams, err := New(Config{Container: "c1", Namespace: "ns", Terminal: terminal,
				Stdout: "binary://" + prog + "?b=2&a=1&flag"}, Deps{Log: slog.Default(), Reaper: r})
			if err != nil {
				t.Fatal(err)
			}
			_, out, errOut, err := streams.Open()
			if err != nil {
				t.Fatal(err)
			}
			if terminal {
				master, slave, err := pty.Open()
				if err != nil {
					t.Fatal(err)
				}
				if err := streams.Console(master); err != nil {
					t.Fatal(err)
				}
				io.WriteString(slave, "text\n")
				slave.Close()
			} else {
				io.WriteString(out, "text\n")
				io.WriteString(errOut, "problem\n")
			}
			streams.CloseChild()
			streams.Drain(10 * time.Second)
			streams.Close()
			want := "c1 ns b 2 a 1 flag\ntext\nproblem\n"
			if terminal {
				want = "c1 ns b 2 a 1 flag\ntext\r\n"
			}
			if b, err := os.ReadFile(dir + "/out"); string(b) != want {
				t.Errorf("got %q, %v, want %q", b, err, want)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, stdout := range []string{"nosuch:///x", "shimlog:/?bad=1", "file:relative", filepath.Join(t.TempDir(), "missing", "fifo")} {
		if streams, err := New(Config{Stdout: stdout}, Deps{Log: slog.Default()}); err == nil {
			streams.Close()
			t.Errorf("New with stdout %q succeeds", stdout)
		}
	}
}

func TestOversizedRequestIsRefused(t *testing.T) {
	e := newEnv(t, shimio.Stdio{}, false)
	_, err := shimio.Dial(t.Context(), e.path, shimio.Request{Process: strings.Repeat("x", shimio.MaxLine)})
	if err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want a refusal", err)
	}
}

// A file that is not seen through the poller would be a bug of pipe.
func TestPipeEnds(t *testing.T) {
	r, w, err := pipe(readEnd)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(r, w)
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error("our end is not pollable:", err)
	}
	flags, err := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the process's end has flags %#x, %v, want it blocking", flags, err)
	}
}

func BenchmarkIO_Log80(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "stdio")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := shimio.Stdio{LogDriver: "json-file", LogPath: dir + "/x.log", LogMaxBytes: 64 << 20, LogMaxFiles: 2}
	streams, err := New(Config{Stdout: s.String()}, Deps{Log: slog.Default()})
	if err != nil {
		b.Fatal(err)
	}
	_, out, _, err := streams.Open()
	if err != nil {
		b.Fatal(err)
	}
	chunk := bytes.Repeat([]byte(strings.Repeat("a log line of text ", 4)+"end\n"), 800)[:64000]
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := out.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	streams.CloseChild()
	streams.Drain(testTimeout)
	streams.Close()
}

// A client that reads a byte now and then lags in a file, and is disconnected
// when that is full: the process does not wait for it.
func TestLaggingClientStallsNobody(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "local"}, false)
	lagging := e.dial(shimio.Request{Stdout: true})
	fast := e.dial(shimio.Request{Stdout: true})
	const size = spillMax + 8<<20
	end := e.start(fmt.Sprintf("yes 0123456789abcde | head -c %d", size))
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if _, err := lagging.Read(make([]byte, 1)); err != nil {
					return
				}
			}
		}
	})
	start := time.Now()
	var n int
	reading.Go(func() { n = len(e.readAll(fast)) })
	end()
	close(stop)
	reading.Wait()
	if d := time.Since(start); d > stuckAfter/2 {
		t.Errorf("the output took %s", d)
	}
	if n != size {
		t.Errorf("the other client has %d bytes, want %d", n, size)
	}
}

// What has collected in the file reaches a client that goes on reading.
func TestSpillKeepsOrder(t *testing.T) {
	e := newEnv(t, shimio.Stdio{LogDriver: "local"}, false)
	slow := e.dial(shimio.Request{Stdout: true})
	fast := e.dial(shimio.Request{Stdout: true})
	const lines = 1 << 20
	end := e.start(fmt.Sprintf("seq %d", lines))
	if n := len(e.readAll(fast)); n < lines*6 {
		t.Errorf("the fast client has %d bytes", n)
	}
	got := e.readAll(slow)
	end()
	in := bufio.NewScanner(strings.NewReader(got))
	n := 0
	for in.Scan() {
		if n++; in.Text() != strconv.Itoa(n) {
			t.Fatalf("line %d is %q", n, in.Text())
		}
	}
	if n != lines {
		t.Errorf("the slow client has %d lines, want %d", n, lines)
	}
}
