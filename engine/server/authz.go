package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"

	"lighter/engine/authz"
)

// maxHeldResponse is how much of a response waits for the plugins' answer, in
// bytes: a longer one is judged by its beginning.
const maxHeldResponse = 64 << 10

// authorize serves the request if the plugins allow it, and lets its response out
// if they allow that.
func (s *Server) authorize(w http.ResponseWriter, r *request, plugins *authz.Plugins, handle handler) error {
	ask := &authz.Request{
		RequestMethod:  r.Method,
		RequestURI:     r.RequestURI,
		RequestHeaders: plainHeaders(r.Header, "X-Registry-Auth", "X-Registry-Config"),
	}
	if r.TLS != nil {
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			ask.User, ask.UserAuthNMethod = certs[0].Subject.CommonName, "TLS"
			for _, c := range certs {
				ask.RequestPeerCertificates = append(ask.RequestPeerCertificates, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
			}
		}
	}
	if err := holdBody(r, ask); err != nil {
		return err
	}
	if err := plugins.Before(r.Context(), ask); err != nil {
		return err
	}
	held := &heldResponse{w: w, header: http.Header{}, decide: func(h *heldResponse) error {
		ask.ResponseStatusCode = h.status
		ask.ResponseHeaders = plainHeaders(h.header)
		ask.ResponseBody = h.body.Bytes()
		return plugins.After(context.WithoutCancel(r.Context()), ask)
	}}
	for k, v := range w.Header() {
		held.header[k] = v
	}
	err := handle(held, r)
	if err != nil && !held.released && held.status == 0 {
		return err // an error response tells nothing that a plugin could want to hide
	}
	return errors.Join(err, held.release())
}

// holdBody reads the body that a handler would decode as JSON, so that plugins
// and handler see the same bytes. What is too long to show is refused, rather
// than let through unseen (CVE-2024-41110). Archives and other streams are not
// shown, nor are credentials.
func holdBody(r *request, ask *authz.Request) error {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if media, _, err := mime.ParseMediaType(ct); err == nil && media != "application/json" {
			return nil
		}
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxJSONBody+1))
	if err != nil {
		return invalid("read the request body: %v", err)
	}
	if len(raw) > maxJSONBody {
		// As in decode: a client sends all of it before it looks for an answer.
		_, _ = io.CopyN(io.Discard, r.Body, maxJSONBody)
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("authorization denied: the request body is larger than %d bytes and can't be shown to the plugins", maxJSONBody))
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	if _, path := splitVersion(r.URL.Path); path != "/auth" {
		ask.RequestBody = raw
	}
	return nil
}

func plainHeaders(h http.Header, without ...string) map[string]string {
	out := make(map[string]string, len(h))
next:
	for k, v := range h {
		for _, w := range without {
			if strings.EqualFold(k, w) {
				continue next
			}
		}
		if len(v) > 0 {
			out[k] = v[0]
		}
	}
	return out
}

// heldResponse keeps a response back until the plugins have allowed it: when the
// handler is done, flushes, hijacks, or has written maxHeldResponse.
type heldResponse struct {
	w        http.ResponseWriter
	header   http.Header
	status   int
	body     bytes.Buffer
	decide   func(*heldResponse) error
	released bool
	err      error // the plugins' no
}

func (h *heldResponse) Header() http.Header { return h.header }

func (h *heldResponse) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldResponse) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	if h.released {
		if h.err != nil {
			return 0, h.err
		}
		return h.w.Write(p)
	}
	h.body.Write(p)
	if h.body.Len() > maxHeldResponse {
		if err := h.release(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// release asks the plugins, once, and sends what was held if they allow it.
func (h *heldResponse) release() error {
	if h.released {
		return h.err
	}
	h.released = true
	if h.status == 0 {
		h.status = http.StatusOK
	}
	if h.err = h.decide(h); h.err != nil {
		return h.err
	}
	for k, v := range h.header {
		h.w.Header()[k] = v
	}
	h.w.WriteHeader(h.status)
	_, h.err = h.w.Write(h.body.Bytes())
	h.body = bytes.Buffer{}
	return h.err
}

// FlushError implements what http.ResponseController looks for.
func (h *heldResponse) FlushError() error {
	if err := h.release(); err != nil {
		return err
	}
	return http.NewResponseController(h.w).Flush()
}

// Hijack implements http.Hijacker.
func (h *heldResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if h.released {
		return nil, nil, errors.New("the response has begun")
	}
	h.released = true
	h.status = http.StatusSwitchingProtocols
	if h.err = h.decide(h); h.err != nil {
		return nil, nil, h.err
	}
	if rw, ok := h.w.(*responseWriter); ok {
		rw.wrote = true
	}
	return http.NewResponseController(h.w).Hijack()
}
