package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"lighter/containerd"
)

// classes are all error classes with their gRPC code.
var classes = []struct {
	class error
	code  codes.Code
}{
	{errdefs.ErrInvalidArgument, codes.InvalidArgument},
	{errdefs.ErrNotFound, codes.NotFound},
	{errdefs.ErrAlreadyExists, codes.AlreadyExists},
	{errdefs.ErrConflict, codes.FailedPrecondition},
	{errdefs.ErrNotModified, codes.FailedPrecondition},
	{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
	{errdefs.ErrPermissionDenied, codes.PermissionDenied},
	{errdefs.ErrUnauthenticated, codes.Unauthenticated},
	{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
	{errdefs.ErrUnavailable, codes.Unavailable},
	{errdefs.ErrNotImplemented, codes.Unimplemented},
	{errdefs.ErrDataLoss, codes.DataLoss},
	{errdefs.ErrAborted, codes.Aborted},
	{errdefs.ErrOutOfRange, codes.OutOfRange},
	{errdefs.ErrInternal, codes.Internal},
	{errdefs.ErrUnknown, codes.Unknown},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// failing is a version service that fails as told.
type failing struct{ err error }

func (f *failing) Version(context.Context) (string, string, error) {
	if f.err == nil {
		panic("a bug with a secret: hunter2")
	}
	return "", "", f.err
}

func TestErrorClassesCrossTheWire(t *testing.T) {
	version := &failing{}
	for transport, call := range map[string]func(*testing.T) error{
		"grpc":  overGRPC(t, version),
		"ttrpc": overTTRPC(t, version),
	} {
		for _, c := range classes {
			for how, err := range map[string]error{
				"bare":    c.class,
				"wrapped": fmt.Errorf("commit %q: %w", "x", c.class),
				"inside":  fmt.Errorf("%w: and more words", c.class),
				"joined":  errors.Join(fmt.Errorf("commit: %w", c.class), io.ErrUnexpectedEOF),
			} {
				t.Run(fmt.Sprint(transport, " ", c.class, " ", how), func(t *testing.T) {
					version.err = err
					got := call(t)
					if code := status.Code(got); code != c.code {
						t.Errorf("code = %v, want %v", code, c.code)
					}
					native := errgrpc.ToNative(got)
					if !errors.Is(errdefs.Resolve(native), c.class) {
						t.Errorf("%v came as %v, of class %v", err, native, errdefs.Resolve(native))
					}
				})
			}
		}
		t.Run(transport+" no class", func(t *testing.T) {
			version.err = errors.New("some failure")
			got := call(t)
			if status.Code(got) != codes.Unknown || errgrpc.ToNative(got).Error() != "some failure" {
				t.Errorf("came as %v, %v", got, errgrpc.ToNative(got))
			}
		})
		t.Run(transport+" panic", func(t *testing.T) {
			version.err = nil
			got := call(t)
			if !errdefs.IsInternal(errgrpc.ToNative(got)) || got == nil || containsSecret(got) {
				t.Errorf("a panic came as %v, want Internal without its message", got)
			}
		})
	}
}

func containsSecret(err error) bool {
	msg := err.Error()
	for i := range msg {
		if i+7 <= len(msg) && msg[i:i+7] == "hunter2" {
			return true
		}
	}
	return false
}

func overGRPC(t *testing.T, version containerd.Version) func(*testing.T) error {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Services: &containerd.Services{Version: version}, Log: slog.New(slog.DiscardHandler)})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); s.Stop(); <-served })
	client := versionapi.NewVersionClient(conn)
	return func(t *testing.T) error {
		_, err := client.Version(t.Context(), &emptypb.Empty{})
		return err
	}
}

func overTTRPC(t *testing.T, version containerd.Version) func(*testing.T) error {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(TTRPCErrors(slog.New(slog.DiscardHandler))))
	if err != nil {
		t.Fatal(err)
	}
	s.Register("test", map[string]ttrpc.Method{"Version": func(ctx context.Context, decode func(any) error) (any, error) {
		if err := decode(&emptypb.Empty{}); err != nil {
			return nil, err
		}
		_, _, err := version.Version(ctx)
		return &emptypb.Empty{}, err
	}})
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close(); s.Close(); <-served })
	return func(t *testing.T) error {
		return client.Call(t.Context(), "test", "Version", &emptypb.Empty{}, &emptypb.Empty{})
	}
}
