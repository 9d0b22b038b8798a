package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Request sends a request that the Engine API's client has no method for: what
// this engine adds to the API. The caller closes the body of the response. An
// error that the engine answers reads as the client's errors do.
func (s *Session) Request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	c, err := s.Client()
	if err != nil {
		return nil, err
	}
	dial := c.Dialer()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}
	// The dialer has done TLS if there is any.
	u := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	headers, err := s.headers()
	if err != nil {
		return nil, err
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	var answer struct{ Message string }
	const most = 64 << 10
	if err := json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&answer); err != nil || answer.Message == "" {
		return nil, fmt.Errorf("Error response from daemon: %s: this engine does not have %s", resp.Status, path) //nolint:staticcheck // the client's words
	}
	return nil, errors.New("Error response from daemon: " + answer.Message) //nolint:staticcheck // the client's words
}
