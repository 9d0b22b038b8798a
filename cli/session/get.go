package session

import (
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

// maxAnswer bounds what Get reads, in bytes.
const maxAnswer = 64 << 20

// Get asks the engine for what the Engine API's client has no call for, and
// decodes the answer into v. An engine that does not know it answers with an
// error of class NotFound or InvalidArgument.
func (s *Session) Get(ctx context.Context, path string, query url.Values, v any) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	dial := c.Dialer()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	defer transport.CloseIdleConnections()
	u := url.URL{Scheme: "http", Host: "docker", Path: "/v" + c.ClientVersion() + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	defer res.Body.Close()
	body := io.LimitReader(res.Body, maxAnswer)
	if res.StatusCode == http.StatusOK {
		return json.NewDecoder(body).Decode(v)
	}
	var failure struct{ Message string }
	if err := json.NewDecoder(body).Decode(&failure); err != nil || failure.Message == "" {
		failure.Message = http.StatusText(res.StatusCode)
	}
	class := errhttp.ToNative(res.StatusCode)
	if class == nil {
		class = cerrdefs.ErrUnknown
	}
	return fmt.Errorf("%s: %w", failure.Message, class)
}
