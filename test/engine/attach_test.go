package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"golang.org/x/net/websocket"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// streamLimit bounds what a test waits for on a stream.
const streamLimit = 30 * time.Second

// attached is a connection that was taken over from HTTP.
type attached struct {
	*net.UnixConn
	r      *bufio.Reader
	status int
	kind   string // content type
}

// takeOver sends a request whose answer is a stream.
func takeOver(t *testing.T, d *harness.Daemon, target, body string, upgrade bool) *attached {
	t.Helper()
	conn, err := net.Dial("unix", d.Dir+"/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(streamLimit))
	req, err := http.NewRequest(http.MethodPost, "http://docker"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if upgrade {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "tcp")
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	a := &attached{UnixConn: conn.(*net.UnixConn), r: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(a.r, req)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	a.status, a.kind = resp.StatusCode, resp.Header.Get("Content-Type")
	if a.status != http.StatusOK && a.status != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: status %d: %s", target, a.status, text)
	}
	return a
}

func (a *attached) Read(p []byte) (int, error) { return a.r.Read(p) }

// rest reads plain bytes to the end of the stream.
func (a *attached) rest(t *testing.T) string {
	t.Helper()
	all, err := io.ReadAll(a)
	if err != nil {
		t.Errorf("read the stream: %v after %q", err, all)
	}
	return string(all)
}

// split reads stdcopy frames to the end of the stream.
func (a *attached) split(t *testing.T) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, a); err != nil {
		t.Errorf("read frames: %v", err)
	}
	return out.String(), errs.String()
}

// create makes a container by the API and returns its ID.
func create(t *testing.T, d *harness.Daemon, name, body string) {
	t.Helper()
	if a := d.Request(t, "POST", "/containers/create?name="+name, body); a.Status != http.StatusCreated {
		t.Fatalf("create %s: %d %s", name, a.Status, a.Body)
	}
}

func startContainer(t *testing.T, d *harness.Daemon, name string) {
	t.Helper()
	if a := d.Request(t, "POST", "/containers/"+name+"/start", ""); a.Status != http.StatusNoContent {
		t.Fatalf("start %s: %d %s", name, a.Status, a.Body)
	}
}

func TestAttachStreams(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	const both = "?stream=1&stdin=1&stdout=1&stderr=1"

	t.Run("ways to take a connection over", func(t *testing.T) {
		for _, c := range []struct {
			name, prefix string
			tty, upgrade bool
			status       int
			kind         string
		}{
			{"framed101", "", false, true, 101, "application/vnd.docker.multiplexed-stream"},
			{"framed200", "", false, false, 200, "application/vnd.docker.raw-stream"},
			{"framed141", "/v1.41", false, true, 101, "application/vnd.docker.raw-stream"},
			{"tty101", "", true, true, 101, "application/vnd.docker.raw-stream"},
			{"tty200", "", true, false, 200, "application/vnd.docker.raw-stream"},
		} {
			tty := "false"
			if c.tty {
				tty = "true"
			}
			create(t, d, c.name, `{"Image":"busybox","Tty":`+tty+`,"OpenStdin":true,"StdinOnce":true,"Cmd":["sh","-c","read x; echo got $x; echo bad >&2"]}`)
			a := takeOver(t, d, c.prefix+"/containers/"+c.name+"/attach"+both, "", c.upgrade)
			if a.status != c.status || a.kind != c.kind {
				t.Errorf("%s: %d %s, want %d %s", c.name, a.status, a.kind, c.status, c.kind)
			}
			startContainer(t, d, c.name)
			if _, err := io.WriteString(a, "in\n"); err != nil {
				t.Fatal(err)
			}
			if c.tty {
				if got, want := a.rest(t), "in\r\ngot in\r\nbad\r\n"; got != want {
					t.Errorf("%s: %q, want %q", c.name, got, want)
				}
				continue
			}
			if out, errs := a.split(t); out != "got in\n" || errs != "bad\n" {
				t.Errorf("%s: stdout %q stderr %q", c.name, out, errs)
			}
		}
	})

	t.Run("half-close ends the input, not the output", func(t *testing.T) {
		create(t, d, "half", `{"Image":"busybox","OpenStdin":true,"StdinOnce":true,"Cmd":["sh","-c","cat; echo after"]}`)
		a := takeOver(t, d, "/containers/half/attach"+both, "", true)
		startContainer(t, d, "half")
		io.WriteString(a, "a line\n")
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if out, _ := a.split(t); out != "a line\nafter\n" {
			t.Errorf("stdout %q", out)
		}
	})

	t.Run("input stays open after a client without StdinOnce", func(t *testing.T) {
		create(t, d, "often", `{"Image":"busybox","OpenStdin":true,"Cmd":["sh","-c","while read x; do echo got $x; [ $x = end ] && exit 7; done"]}`)
		startContainer(t, d, "often")
		for _, word := range []string{"one", "end"} {
			a := takeOver(t, d, "/containers/often/attach"+both, "", true)
			io.WriteString(a, word+"\n")
			want := "got " + word + "\n"
			frame := make([]byte, 8+len(want))
			if _, err := io.ReadFull(a, frame); err != nil || string(frame[8:]) != want {
				t.Errorf("read %q, %v; want %q", frame, err, want)
			}
			a.Close()
		}
		if got := d.OK("wait", "often"); got != "7" {
			t.Errorf("exit code %s, want 7", got)
		}
	})

	t.Run("many clients, of which one does not read", func(t *testing.T) {
		create(t, d, "many", `{"Image":"busybox","OpenStdin":true,"Cmd":["sh","-c","read x; yes 0123456789abcdef | head -c 8000000; echo; echo the end"]}`)
		lazy := takeOver(t, d, "/containers/many/attach?stream=1&stdout=1", "", true)
		var readers []*attached
		for range 4 {
			readers = append(readers, takeOver(t, d, "/containers/many/attach"+both, "", true))
		}
		startContainer(t, d, "many")
		io.WriteString(readers[0], "go\n")
		lengths := make(chan int, len(readers))
		for _, a := range readers {
			go func() {
				var out bytes.Buffer
				stdcopy.StdCopy(&out, io.Discard, a)
				if !strings.HasSuffix(out.String(), "the end\n") {
					out.Reset()
				}
				lengths <- out.Len()
			}()
		}
		for range readers {
			if got, want := <-lengths, 8000000+1+len("the end\n"); got != want {
				t.Errorf("a reader got %d bytes, want %d", got, want)
			}
		}
		if got := d.OK("wait", "many"); got != "0" {
			t.Errorf("exit code %s", got)
		}
		lazy.Close()
	})

	t.Run("sizes of the terminal before and after the start", func(t *testing.T) {
		create(t, d, "sized", `{"Image":"busybox","Tty":true,"OpenStdin":true,"HostConfig":{"ConsoleSize":[31,77]},"Cmd":["sh","-c","stty size; read x; stty size"]}`)
		if a := d.Request(t, "POST", "/containers/sized/resize?h=9&w=9", ""); a.Status != http.StatusConflict {
			t.Errorf("resize before the start: %d %s", a.Status, a.Body)
		}
		a := takeOver(t, d, "/containers/sized/attach"+both, "", true)
		startContainer(t, d, "sized")
		line, err := a.r.ReadString('\n')
		if line != "31 77\r\n" || err != nil {
			t.Errorf("the first size is %q, %v", line, err)
		}
		if a := d.Request(t, "POST", "/containers/sized/resize?h=50&w=132", ""); a.Status != http.StatusOK {
			t.Errorf("resize: %d %s", a.Status, a.Body)
		}
		io.WriteString(a, "\n")
		if got, want := a.rest(t), "\r\n50 132\r\n"; got != want {
			t.Errorf("after the resize %q, want %q", got, want)
		}
	})

	t.Run("only output that was asked for", func(t *testing.T) {
		create(t, d, "some", `{"Image":"busybox","Cmd":["sh","-c","echo out; echo bad >&2"]}`)
		a := takeOver(t, d, "/containers/some/attach?stream=1&stderr=1", "", true)
		startContainer(t, d, "some")
		if out, errs := a.split(t); out != "" || errs != "bad\n" {
			t.Errorf("stdout %q stderr %q", out, errs)
		}
		// The log of one that has ended.
		a = takeOver(t, d, "/containers/some/attach?logs=1&stdout=1", "", true)
		if out, errs := a.split(t); out != "out\n" || errs != "" {
			t.Errorf("log: stdout %q stderr %q", out, errs)
		}
	})
}

// dialWebSocket attaches to a container over WebSocket.
func dialWebSocket(t *testing.T, d *harness.Daemon, target string) *websocket.Conn {
	t.Helper()
	cfg, err := websocket.NewConfig("ws://docker"+target, "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", d.Dir+"/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(streamLimit))
	ws, err := websocket.NewClient(cfg, conn)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return ws
}

// expectMessages reads messages until they make up want.
func expectMessages(t *testing.T, ws *websocket.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(ws, got); err != nil || string(got) != want {
		t.Fatalf("messages %q, %v; want %q", got[:n], err, want)
	}
}

func expectEnd(t *testing.T, ws *websocket.Conn) {
	t.Helper()
	if rest, err := io.ReadAll(ws); err != nil || len(rest) > 0 {
		t.Errorf("at the end %q, %v", rest, err)
	}
}

func TestAttachWebSocket(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	const ws = "/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"

	t.Run("text and binary input, output of both streams", func(t *testing.T) {
		create(t, d, "talk", `{"Image":"busybox","OpenStdin":true,"StdinOnce":true,"Cmd":["sh","-c","read a; echo 1 $a; read b; echo 2 $b >&2; read c; exit 9"]}`)
		c := dialWebSocket(t, d, "/containers/talk"+ws)
		startContainer(t, d, "talk")
		if err := websocket.Message.Send(c, "text\n"); err != nil {
			t.Fatal(err)
		}
		var frame string
		kind := websocket.Codec{Unmarshal: func(data []byte, payloadType byte, _ any) error {
			frame = string(data)
			if payloadType != websocket.BinaryFrame {
				return fmt.Errorf("payload type %d", payloadType)
			}
			return nil
		}}
		if err := kind.Receive(c, nil); err != nil || frame != "1 text\n" {
			t.Fatalf("message %q, %v", frame, err)
		}
		if err := websocket.Message.Send(c, []byte("binary\n")); err != nil {
			t.Fatal(err)
		}
		expectMessages(t, c, "2 binary\n")
		// The end of the connection is the end of the input.
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if got := d.OK("wait", "talk"); got != "9" {
			t.Errorf("exit code %s, want 9", got)
		}
	})
	t.Run("the log, then what follows", func(t *testing.T) {
		d.OK("run", "-d", "-i", "--name", "logged", "busybox", "sh", "-c", "echo early; read x; echo late")
		harness.Eventually(t, streamLimit, "the first line", func() bool { return d.OK("logs", "logged") == "early" })
		c := dialWebSocket(t, d, "/v1.40/containers/logged"+ws+"&logs=1")
		expectMessages(t, c, "early\n")
		io.WriteString(c, "\n")
		expectMessages(t, c, "late\n")
		expectEnd(t, c)
	})
	t.Run("detach keys", func(t *testing.T) {
		d.OK("run", "-d", "-i", "-t", "--name", "keys", "busybox", "cat")
		c := dialWebSocket(t, d, "/containers/keys"+ws+"&detachKeys=ctrl-a,x")
		io.WriteString(c, "y\n")
		expectMessages(t, c, "y\r\ny\r\n")
		io.WriteString(c, "\x01x")
		expectEnd(t, c)
		if got := d.OK("inspect", "-f", "{{.State.Running}}", "keys"); got != "true" {
			t.Errorf("running after detach: %s", got)
		}
	})
	t.Run("a client that leaves takes its session along", func(t *testing.T) {
		d.OK("run", "-d", "--name", "quiet", "busybox", "sleep", "1000")
		d.Unchanged(t, func() {
			c := dialWebSocket(t, d, "/containers/quiet/attach/ws?stream=1&stdout=1")
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("refusals", func(t *testing.T) {
		for target, want := range map[string]int{
			"/containers/none/attach/ws":                     http.StatusNotFound,
			"/containers/keys/attach/ws?detachKeys=ctrl-,.,": http.StatusBadRequest,
			"/containers/keys/attach/ws?stream=1":            http.StatusBadRequest, // no WebSocket
		} {
			if a := d.Request(t, "GET", target, ""); a.Status != want {
				t.Errorf("%s: %d %s, want %d", target, a.Status, a.Body, want)
			}
		}
		cfg, _ := websocket.NewConfig("ws://docker/containers/none/attach/ws", "http://localhost")
		conn, err := net.Dial("unix", d.Dir+"/docker.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var dial *websocket.ProtocolError
		if _, err := websocket.NewClient(cfg, conn); !errors.As(err, &dial) {
			t.Errorf("attach to an unknown container: %v", err)
		}
	})
}
