package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/moby/api/types/jsonstream"
	"google.golang.org/protobuf/proto"
)

// IDs of the auxiliary messages of a build's answer.
const (
	auxTrace = "moby.buildkit.trace" // a protobuf StatusResponse in base64
	auxImage = "moby.image.id"
)

// build answers POST /build.
func (b *Builder) build(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	switch version := q.Get("version"); version {
	case "", "1":
		return b.classic(w, r)
	case "2":
	default:
		return invalid("invalid version %q", version)
	}
	req, err := parseRequest(q, b.cfg, false)
	if err != nil {
		return err
	}
	switch {
	case req.remote == "upload-request":
		return fmt.Errorf("uploading a context beside the session is not implemented: send it through the session: %w", errdefs.ErrNotImplemented)
	case req.session == "":
		return invalid("a build of version 2 needs a session")
	case req.remote != "" && req.remote != "client-session":
		req.solve.FrontendAttrs["context"] = req.remote
	}
	req.solve.Session = req.session
	out := newMessages(w)
	resp, err := b.solve(r.Context(), req, out.trace)
	if err != nil {
		return out.fail(err)
	}
	if id := resp[exptypes.ExporterImageDigestKey]; id != "" {
		return out.aux(auxImage, map[string]string{"ID": id})
	}
	return nil
}

// solve runs the build and gives its progress to each, one at a time. What it
// returns is the exporter's response.
func (b *Builder) solve(ctx context.Context, req *buildRequest, each func(*controlapi.StatusResponse)) (map[string]string, error) {
	if err := refusePublishedPassword(req.solve); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if req.id != "" {
		b.mu.Lock()
		if b.builds[req.id] != nil {
			b.mu.Unlock()
			return nil, invalid("build %q is running already", req.id)
		}
		b.builds[req.id] = cancel
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.builds, req.id)
		}()
	}
	// The progress ends by itself when the solver has no more to tell, but not
	// when the solver refuses the build before it begins.
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		stream := &statusStream{localStream{watch}, each}
		if err := b.control.Status(&controlapi.StatusRequest{Ref: req.solve.Ref}, stream); err != nil && watch.Err() == nil {
			b.log.Debug("follow build", "err", err)
		}
	})
	resp, err := b.control.Solve(ctx, req.solve)
	if err != nil {
		stop()
	}
	wg.Wait()
	if err != nil {
		return nil, err
	}
	return resp.ExporterResponse, nil
}

// statusStream gives what Control.Status sends to a function.
type statusStream struct {
	localStream
	each func(*controlapi.StatusResponse)
}

// Send implements the stream of Control.Status.
func (s *statusStream) Send(m *controlapi.StatusResponse) error {
	s.each(m)
	return nil
}

// SendMsg implements grpc.ServerStream.
func (s *statusStream) SendMsg(m any) error {
	status, ok := m.(*controlapi.StatusResponse)
	if !ok {
		return fmt.Errorf("send message: %T is no status", m)
	}
	return s.Send(status)
}

// messages writes the answer of a build, a stream of JSON objects, each flushed.
type messages struct {
	mu  sync.Mutex // guards w
	w   http.ResponseWriter
	err error // of writing: the client is gone
}

func newMessages(w http.ResponseWriter) *messages {
	w.Header().Set("Content-Type", "application/json")
	return &messages{w: w}
}

func (m *messages) write(v any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, m.err = m.w.Write(append(line, '\r', '\n')); m.err == nil {
		m.err = http.NewResponseController(m.w).Flush()
	}
	return m.err
}

// text writes output for people.
func (m *messages) text(format string, args ...any) {
	_ = m.write(jsonstream.Message{Stream: fmt.Sprintf(format, args...)}) // kept in m.err
}

func (m *messages) aux(id string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	msg := json.RawMessage(raw)
	return m.write(jsonstream.Message{ID: id, Aux: &msg})
}

// trace writes the progress for BuildKit's clients.
func (m *messages) trace(s *controlapi.StatusResponse) {
	raw, err := proto.Marshal(s)
	if err == nil {
		_ = m.aux(auxTrace, raw) // kept in m.err
	}
}

// fail writes what the build failed of. The status is sent already.
func (m *messages) fail(err error) error {
	if errors.Is(err, context.Canceled) {
		err = context.Canceled
	}
	return m.write(errorMessage(err))
}

// errorMessage is err as the stream has it.
func errorMessage(err error) map[string]any {
	text, code := explain(err)
	detail := map[string]any{"message": text}
	if code != 0 {
		detail["code"] = code
	}
	return map[string]any{"errorDetail": detail, "error": text}
}

// copyBounded copies at most limit bytes.
func copyBounded(w io.Writer, r io.Reader, limit int64) error {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = invalid("the build context is larger than %d bytes", limit)
	}
	return err
}
