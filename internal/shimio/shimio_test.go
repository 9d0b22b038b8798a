package shimio

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestStdioRoundTrip(t *testing.T) {
	for _, want := range []Stdio{
		{},
		{Stdin: true},
		{
			Stdin: true, StdinOnce: true, AttachSocket: "/run/a b/io.sock",
			LogDriver: "json-file", LogPath: "/var/lib/x/y-json.log", LogMaxBytes: 1 << 40,
			LogMaxFiles: 3, LogCompress: true, LogAttrs: map[string]string{"k&=": "v\n", "tag": "é"},
		},
	} {
		uri := want.String()
		if !Is(uri) {
			t.Errorf("Is(%q) = false", uri)
		}
		got, err := Parse(uri)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", uri, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for uri, want := range map[string]string{
		"binary:///bin/x":         "scheme",
		"shimlog:/?path=relative": "path",
		"shimlog:/?max-bytes=x":   "max-bytes",
		"shimlog:/?max-byte=1":    "unknown key",
	} {
		if _, err := Parse(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) error = %v, want it to name %q", uri, err, want)
		}
	}
	if Is("/run/fifo") || Is("shimlogger") {
		t.Error("Is accepts a path that is not a shimlog URI")
	}
}

func TestDialPerformsHandshakeOnLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "io.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode = %v, %v, want 0600", fi.Mode(), err)
	}
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		var req Request
		if _, err := ReadLine(c, &req); err != nil {
			served <- err
			return
		}
		_, err = io.WriteString(c, "{\"tty\":true}\nhello "+req.Process)
		served <- err
	}()
	c, err := Dial(context.Background(), path, Request{Process: "exec1"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello exec1" || !c.TTY {
		t.Errorf("read %q, %v, tty %v; want the greeting on a terminal", got, err, c.TTY)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
