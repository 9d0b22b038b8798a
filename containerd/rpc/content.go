package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// batchLen is how many records a message of a list stream holds: far below
	// MaxMessageSize with labels of usual length.
	batchLen = 100
	// readChunk is the size of the pieces in which a blob is sent, in bytes.
	readChunk = 1 << 20
)

type contentServer struct {
	api.UnimplementedContentServer
	store content.Store
}

func (s *contentServer) Info(ctx context.Context, r *api.InfoRequest) (*api.InfoResponse, error) {
	dgst, err := digestOf(r.GetDigest())
	if err != nil {
		return nil, err
	}
	info, err := s.store.Info(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return &api.InfoResponse{Info: protoInfo(info)}, nil
}

func (s *contentServer) Update(ctx context.Context, r *api.UpdateRequest) (*api.UpdateResponse, error) {
	dgst, err := digestOf(r.GetInfo().GetDigest())
	if err != nil {
		return nil, err
	}
	info, err := s.store.Update(ctx, content.Info{
		Digest: dgst, Size: r.GetInfo().GetSize(), Labels: r.GetInfo().GetLabels(),
		CreatedAt: timeOf(r.GetInfo().GetCreatedAt()), UpdatedAt: timeOf(r.GetInfo().GetUpdatedAt()),
	}, r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &api.UpdateResponse{Info: protoInfo(info)}, nil
}

func (s *contentServer) List(r *api.ListContentRequest, out api.Content_ListServer) error {
	batch := &api.ListContentResponse{}
	err := s.store.Walk(out.Context(), func(info content.Info) error {
		batch.Info = append(batch.Info, protoInfo(info))
		if len(batch.Info) < batchLen {
			return nil
		}
		full := batch
		batch = &api.ListContentResponse{}
		return out.Send(full)
	}, r.GetFilters()...)
	if err != nil || len(batch.Info) == 0 {
		return err
	}
	return out.Send(batch)
}

func (s *contentServer) Delete(ctx context.Context, r *api.DeleteContentRequest) (*emptypb.Empty, error) {
	dgst, err := digestOf(r.GetDigest())
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.store.Delete(ctx, dgst)
}

// Read sends the blob from the offset: Size bytes, or with 0 all. Reading beyond
// the end is OutOfRange; a range that ends beyond it ends at it.
func (s *contentServer) Read(r *api.ReadContentRequest, out api.Content_ReadServer) error {
	dgst, err := digestOf(r.GetDigest())
	if err != nil {
		return err
	}
	ra, err := s.store.ReaderAt(out.Context(), ocispec.Descriptor{Digest: dgst})
	if err != nil {
		return err
	}
	defer ra.Close()
	offset, size := r.GetOffset(), r.GetSize()
	if offset < 0 || size < 0 || offset > ra.Size() {
		return fmt.Errorf("read %d bytes at %d of %s, which has %d: %w", size, offset, dgst, ra.Size(), errdefs.ErrOutOfRange)
	}
	end := ra.Size()
	if size > 0 && size < end-offset {
		end = offset + size
	}
	// Two buffers would not help: a sent message is serialized when Send returns.
	buf := make([]byte, min(readChunk, end-offset))
	for offset < end {
		p := buf[:min(int64(len(buf)), end-offset)]
		n, err := ra.ReadAt(p, offset)
		if n < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("blob ends at %d: %w", offset+int64(n), errdefs.ErrDataLoss)
			}
			return fmt.Errorf("read %s: %w", dgst, err)
		}
		if err := out.Send(&api.ReadContentResponse{Offset: offset, Data: p}); err != nil {
			return err
		}
		offset += int64(n)
	}
	return nil
}

func (s *contentServer) Status(ctx context.Context, r *api.StatusRequest) (*api.StatusResponse, error) {
	st, err := s.store.Status(ctx, r.GetRef())
	if err != nil {
		return nil, err
	}
	return &api.StatusResponse{Status: protoStatus(st)}, nil
}

func (s *contentServer) ListStatuses(ctx context.Context, r *api.ListStatusesRequest) (*api.ListStatusesResponse, error) {
	list, err := s.store.ListStatuses(ctx, r.GetFilters()...)
	if err != nil {
		return nil, err
	}
	resp := &api.ListStatusesResponse{}
	for _, st := range list {
		resp.Statuses = append(resp.Statuses, protoStatus(st))
	}
	return resp, nil
}

func (s *contentServer) Abort(ctx context.Context, r *api.AbortRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.store.Abort(ctx, r.GetRef())
}

// Write is one ingest: every request is answered by the state of it. The stream
// holds the ref until it ends; what was written stays for the next one.
func (s *contentServer) Write(session api.Content_WriteServer) error {
	req, err := session.Recv()
	if err != nil {
		return err
	}
	w := &ingest{ref: req.GetRef(), total: req.GetTotal(), expected: digest.Digest(req.GetExpected())}
	if w.ref == "" {
		return invalid("write content: the first request has no ref")
	}
	if w.expected != "" {
		if err := w.expected.Validate(); err != nil {
			return invalid("write content: digest %q: %w", w.expected, err)
		}
	}
	w.writer, err = s.store.Writer(session.Context(), content.WithRef(w.ref),
		content.WithDescriptor(ocispec.Descriptor{Size: w.total, Digest: w.expected}))
	if err != nil {
		return err
	}
	defer w.writer.Close()
	for {
		resp, err := w.handle(session.Context(), req)
		if err != nil {
			return err
		}
		if err := session.Send(resp); err != nil {
			return err
		}
		if req.GetAction() == api.WriteAction_COMMIT {
			return nil
		}
		if req, err = session.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// ingest is the state of a Write stream.
type ingest struct {
	writer   content.Writer
	ref      string
	total    int64         // 0 for unknown
	expected digest.Digest // "" for unknown
}

func (w *ingest) handle(ctx context.Context, req *api.WriteContentRequest) (*api.WriteContentResponse, error) {
	if err := w.learn(req); err != nil {
		return nil, err
	}
	resp := &api.WriteContentResponse{Action: req.GetAction()}
	st, err := w.writer.Status()
	if err != nil {
		return nil, err
	}
	switch req.GetAction() {
	case api.WriteAction_STAT:
		resp.Digest = w.writer.Digest().String()
	case api.WriteAction_WRITE, api.WriteAction_COMMIT:
		if err := w.write(req, &st); err != nil {
			return nil, err
		}
		if req.GetAction() == api.WriteAction_COMMIT {
			var opts []content.Opt
			if req.GetLabels() != nil {
				opts = append(opts, content.WithLabels(req.GetLabels()))
			}
			if err := w.writer.Commit(ctx, w.total, w.expected, opts...); err != nil {
				return nil, err
			}
		}
		resp.Digest = w.writer.Digest().String()
	default:
		return nil, invalid("write content %q: unknown action %v", w.ref, req.GetAction())
	}
	resp.Offset, resp.Total = st.Offset, w.total
	resp.StartedAt, resp.UpdatedAt = timestamp(st.StartedAt), timestamp(st.UpdatedAt)
	return resp, nil
}

// learn takes what a later request adds, and refuses what contradicts.
func (w *ingest) learn(req *api.WriteContentRequest) error {
	if req.GetRef() != "" && req.GetRef() != w.ref {
		return invalid("write content %q: the ref changed to %q", w.ref, req.GetRef())
	}
	if n := req.GetTotal(); n > 0 {
		if w.total > 0 && n != w.total {
			return fmt.Errorf("write content %q: the total changed from %d to %d: %w", w.ref, w.total, n, errdefs.ErrFailedPrecondition)
		}
		w.total = n
	}
	if d := digest.Digest(req.GetExpected()); d != "" {
		if w.expected != "" && d != w.expected {
			return fmt.Errorf("write content %q: the digest changed from %s to %s: %w", w.ref, w.expected, d, errdefs.ErrFailedPrecondition)
		}
		if err := d.Validate(); err != nil {
			return invalid("write content %q: digest %q: %w", w.ref, d, err)
		}
		w.expected = d
	}
	return nil
}

// write puts the data of a request at its offset. What is there beyond that is
// cut off: so a client truncates. An offset beyond what is there is OutOfRange.
func (w *ingest) write(req *api.WriteContentRequest, st *content.Status) error {
	if len(req.GetData()) == 0 {
		return nil
	}
	if req.GetOffset() != st.Offset {
		if req.GetOffset() > st.Offset || req.GetOffset() < 0 {
			return fmt.Errorf("write content %q at %d: %d bytes are there: %w", w.ref, req.GetOffset(), st.Offset, errdefs.ErrOutOfRange)
		}
		if err := w.writer.Truncate(req.GetOffset()); err != nil {
			return fmt.Errorf("write content %q at %d: %w", w.ref, req.GetOffset(), err)
		}
		st.Offset = req.GetOffset()
	}
	if w.total > 0 && st.Offset+int64(len(req.GetData())) > w.total {
		return fmt.Errorf("write content %q: more than the %d bytes announced: %w", w.ref, w.total, errdefs.ErrOutOfRange)
	}
	n, err := w.writer.Write(req.GetData())
	st.Offset += int64(n)
	if err != nil {
		return fmt.Errorf("write content %q: %w", w.ref, err)
	}
	return nil
}

func protoInfo(info content.Info) *api.Info {
	return &api.Info{
		Digest: info.Digest.String(), Size: info.Size, Labels: info.Labels,
		CreatedAt: timestamp(info.CreatedAt), UpdatedAt: timestamp(info.UpdatedAt),
	}
}

func protoStatus(st content.Status) *api.Status {
	return &api.Status{
		Ref: st.Ref, Offset: st.Offset, Total: st.Total, Expected: st.Expected.String(),
		StartedAt: timestamp(st.StartedAt), UpdatedAt: timestamp(st.UpdatedAt),
	}
}
