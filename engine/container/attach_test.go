package container

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	api "github.com/moby/moby/api/types/container"
)

func TestAttachPassesInput(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.createWith(m, "cat", func(c *api.Config, _ *api.HostConfig) { c.OpenStdin, c.StdinOnce = true, true }, "cat")
	session, err := m.Attach(bg, "cat", AttachOptions{Stdin: true, Stdout: true, Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(strings.NewReader("one\ntwo\n"))
	served := make(chan error, 1)
	go func() { served <- session.Serve(bg, client) }()
	w.start(m, "cat")
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if got := client.out.String(); !strings.Contains(got, "one\n") || !strings.Contains(got, "two\n") {
		t.Errorf("output = %q", got)
	}
	if res := w.wait(m, "cat", api.WaitConditionNotRunning); res.StatusCode != 0 {
		t.Errorf("status = %+v", res)
	}
}

func TestDetachKeysEndTheSessionOnly(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	w.createWith(m, "tty", func(c *api.Config, _ *api.HostConfig) { c.OpenStdin, c.Tty = true, true }, "cat")
	w.start(m, "tty")
	session, err := m.Attach(bg, "tty", AttachOptions{Stdin: true, Stdout: true, Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	defer pw.Close()
	served := make(chan error, 1)
	go func() { served <- session.Serve(bg, newClient(pr)) }()
	pw.Write([]byte("x\x10y\x10"))
	pw.Write([]byte("\x11"))
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v", err)
	}
	if s := w.state(m, "tty"); s != Running {
		t.Errorf("state = %v after a detach", s)
	}
}

func TestKeyReader(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		detached bool
	}{
		{"abc", "abc", false},
		{"a\x10b", "a\x10b", false},
		{"a\x10\x11b", "a", true},
		{"a\x10\x10\x11b", "a\x10", true},
		{"a\x10", "a\x10", false},
	} {
		for _, chunk := range []int{1, 3, 64} {
			r := &keyReader{r: &chunks{[]byte(tt.in), chunk}, keys: defaultDetachKeys}
			var out bytes.Buffer
			_, err := io.Copy(&out, onlyReader{r})
			if got := errors.Is(err, errDetached); got != tt.detached || out.String() != tt.want {
				t.Errorf("%q by %d: %q, detached %v, want %q, %v", tt.in, chunk, out.String(), got, tt.want, tt.detached)
			}
		}
	}
}

type chunks struct {
	data []byte
	n    int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(len(c.data), c.n)])
	c.data = c.data[n:]
	return n, nil
}
