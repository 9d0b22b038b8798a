package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	containertypes "github.com/moby/moby/api/types/container"

	"github.com/containerd/errdefs"
)

// patience bounds what a test waits for; it is never reached when all is well.
const patience = 30 * time.Second

// Whatever a client sends on whatever route, it gets a status and Docker's error
// shape, and nothing of it stays. There are no backends: a handler that asks one
// panics, which has to end in an ordinary answer too.
func TestHostileRequests(t *testing.T) {
	s, err := New(Backends{}, Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	before, files := runtime.NumGoroutine(), openFiles(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()

	huge := `{"Name":"` + strings.Repeat("x", maxJSONBody) + `"}`
	for _, rt := range s.routes {
		target := "/v1.56"
		for i, part := range rt.pattern {
			if i%2 == 1 {
				part = "x"
			}
			target += part
		}
		for name, raw := range map[string]string{
			"broken JSON":      head(rt.method, target, "Content-Type: application/json", 5) + `{"a":`,
			"an array":         head(rt.method, target, "Content-Type: application/json", 2) + `[]`,
			"a number":         head(rt.method, target, "Content-Type: application/json", 1) + `7`,
			"two values":       head(rt.method, target, "Content-Type: application/json", 4) + `{}{}`,
			"another type":     head(rt.method, target, "Content-Type: text/plain", 2) + `{}`,
			"a malformed type": head(rt.method, target, "Content-Type: ;;;", 2) + `{}`,
			"less than said":   head(rt.method, target, "Content-Type: application/json", 100) + `{`,
			"bad query":        head(rt.method, target+"?filters=%7B&since=x&until=-&h=a&w=&t=z&limit=q&platform=//&type=%00", "", 0),
			"huge JSON":        head(rt.method, target, "Content-Type: application/json", len(huge)) + huge,
		} {
			status, body, err := exchange(t, l.Addr().String(), rt.method, raw)
			if err != nil {
				if name != "huge JSON" { // which a handler that wants no body leaves unread
					t.Errorf("%s %s with %s: %v", rt.method, target, name, err)
				}
				continue
			}
			if status < 200 || status > 599 {
				t.Errorf("%s %s with %s: status %d", rt.method, target, name, status)
			}
			var e map[string]string
			if status >= 400 && rt.method != http.MethodHead && (json.Unmarshal([]byte(body), &e) != nil || len(e) != 1 || e["message"] == "") {
				t.Errorf("%s %s with %s: status %d, body %q", rt.method, target, name, status, body)
			}
		}
	}

	ctx := t.Context()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before || openFiles(t) > files {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines and %d files are left of %d and %d\n%s", runtime.NumGoroutine(), openFiles(t), before, files, stacks[:runtime.Stack(stacks, true)])
		}
		<-tick.C
	}
}

func head(method, target, header string, length int) string {
	if header != "" {
		header += "\r\n"
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n", method, target, header, length)
}

// exchange sends raw, says that no more follows, and reads the response.
func exchange(t *testing.T, addr, method, raw string) (status int, body string, err error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, raw); err != nil {
		return 0, "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Whatever the body is, decoding it succeeds or is the client's fault.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"Image":"a","Cmd":"b"}`, "{}{}", "[", "null", "\x00", `{"HostConfig":{"Memory":1e99}}`, strings.Repeat("[", 20000)} {
		f.Add("application/json", seed)
	}
	f.Add("application/json; charset=\x00", "{}")
	f.Add("text/plain", "{}")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		hr := &http.Request{
			Method: http.MethodPost, Header: http.Header{"Content-Type": {contentType}},
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}
		var v containertypes.CreateRequest
		if err := (&request{Request: hr}).decode(&v, false); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("decode(%q, %q) = %v", contentType, body, err)
		}
	})
}

func FuzzFilters(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"label":["a","b"]}`, `{"label":{"a":true}}`, `{"label":{"a":1}}`, "[]", "null", `"x"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := parseFilters(raw); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("parseFilters(%q) = %v", raw, err)
		}
	})
}
