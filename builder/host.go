package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"

	"lighter/internal/buildlink"
)

// maxAnswerBytes bounds an answer of dockerd.
const maxAnswerBytes = 1 << 20

// host is dockerd as the build process sees it.
type host struct{ http http.Client }

func newHost(socket string) *host {
	return &host{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (h *host) connect(ctx context.Context, req buildlink.ConnectRequest) (buildlink.ConnectResponse, error) {
	var resp buildlink.ConnectResponse
	return resp, h.call(ctx, buildlink.PathConnect, req, &resp)
}

func (h *host) release(ctx context.Context, req buildlink.ReleaseRequest) error {
	return h.call(ctx, buildlink.PathRelease, req, nil)
}

func (h *host) record(ctx context.Context, req buildlink.RecordRequest) error {
	return h.call(ctx, buildlink.PathRecord, req, nil)
}

func (h *host) resolve(ctx context.Context, req buildlink.ResolveRequest) (buildlink.ResolveResponse, error) {
	var resp buildlink.ResolveResponse
	return resp, h.call(ctx, buildlink.PathResolve, req, &resp)
}

// call makes a request of dockerd. Errors keep their class.
func (h *host) call(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dockerd"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask dockerd: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("ask dockerd: %w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		var e buildlink.ErrorBody
		if json.Unmarshal(answer, &e) != nil || e.Message == "" {
			e.Message = resp.Status
		}
		return fmt.Errorf("%w: %w", errors.New(e.Message), errhttp.ToNative(resp.StatusCode))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}
