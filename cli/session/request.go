package session

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
)

const (
	// maxAnswer bounds a decoded answer, in bytes.
	maxAnswer = 64 << 20
	// maxFailure bounds the text of an error, in bytes.
	maxFailure = 64 << 10
)

// Request sends a request that the Engine API's client has no method for: what
// this engine adds to the API. A body is an archive. The caller closes the body
// of the response. An error that the engine answers reads as the client's errors
// do and has their class; an engine that does not know the request answers with
// one of class NotFound or InvalidArgument.
func (s *Session) Request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	return s.request(ctx, method, path, query, "application/x-tar", body)
}

// Get is Request for an answer in JSON, which it decodes into v.
func (s *Session) Get(ctx context.Context, path string, query url.Values, v any) error {
	resp, err := s.request(ctx, http.MethodGet, path, query, "", nil)
	return decode(resp, err, v)
}

// Post is Get with a body in JSON.
func (s *Session) Post(ctx context.Context, path string, query url.Values, body, v any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := s.request(ctx, http.MethodPost, path, query, "application/json", bytes.NewReader(data))
	return decode(resp, err, v)
}

func decode(resp *http.Response, err error, v any) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(v)
}

func (s *Session) request(ctx context.Context, method, path string, query url.Values, contentType string, body io.Reader) (*http.Response, error) {
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
	u := url.URL{Scheme: "http", Host: "docker", Path: "/v" + c.ClientVersion() + path, RawQuery: query.Encode()}
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
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	class := errhttp.ToNative(resp.StatusCode)
	if class == nil {
		class = cerrdefs.ErrUnknown
	}
	var answer struct{ Message string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxFailure)).Decode(&answer); err != nil || answer.Message == "" {
		answer.Message = fmt.Sprintf("%s: this engine does not have %s", resp.Status, path)
	}
	return nil, &refused{"Error response from daemon: " + answer.Message, class}
}

// refused is an error that the engine answered, with its class.
type refused struct {
	text  string
	class error
}

func (e *refused) Error() string { return e.text }
func (e *refused) Unwrap() error { return e.class }
