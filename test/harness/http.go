package harness

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Answer is an HTTP response, read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Message is the text of an error response, which must be a JSON object that
// has it and nothing else; "" and false when it is not.
func (a Answer) Message() (text string, ok bool) {
	var body map[string]string
	if a.Header.Get("Content-Type") != "application/json" || json.Unmarshal([]byte(a.Body), &body) != nil || len(body) != 1 {
		return "", false
	}
	text, ok = body["message"]
	return text, ok
}

// maxAnswer bounds the body of a response, in bytes.
const maxAnswer = 64 << 20

// Request sends one HTTP request over the daemon's socket, with a JSON body when
// there is one, and returns the response.
func (d *Daemon) Request(t testing.TB, method, target, body string) Answer {
	t.Helper()
	header := http.Header{}
	if body != "" {
		header.Set("Content-Type", "application/json")
	}
	return d.RequestAs(t, method, target, header, strings.NewReader(body))
}

// RequestAs is Request with the header and the body given.
func (d *Daemon) RequestAs(t testing.TB, method, target string, header http.Header, body io.Reader) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+target, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.Dir+"/docker.sock")
		},
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		t.Errorf("%s %s: read the response: %v", method, target, err)
	}
	return Answer{resp.StatusCode, resp.Header, string(raw)}
}
