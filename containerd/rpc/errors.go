package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// toStatus is the one place where errors become gRPC and ttrpc status codes. Its
// inverse is errgrpc.ToNative, which clients use.
//
// gRPC has no code for Conflict and NotModified. They travel as
// FailedPrecondition, told apart by the end of the message, as between stock
// peers.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	switch class := errdefs.Resolve(err); {
	case errors.Is(class, errdefs.ErrConflict), errors.Is(class, errdefs.ErrNotModified):
		return status.Error(codes.FailedPrecondition, withSuffix(err.Error(), class.Error()))
	case errors.Is(class, errdefs.ErrUnknown):
		// Also errors that carry a class which is unknown to errgrpc.
		if _, ok := status.FromError(err); !ok {
			return status.Error(codes.Unknown, err.Error())
		}
	}
	return errgrpc.ToGRPC(err)
}

func withSuffix(message, class string) string {
	suffix := ": " + class
	if message == class || len(message) > len(suffix) && message[len(message)-len(suffix):] == suffix {
		return message
	}
	return message + suffix
}

// request is what every handler runs in: the namespace and the lease that came
// as headers are in ctx for callees of any transport, a panic is an Internal
// error and leaves the server standing, and the result has a status code.
func request(ctx context.Context, log *slog.Logger, method string, handle func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("handler panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "%s: the server failed: see its log", method)
		}
	}()
	err = handle(withHeaders(ctx))
	if err != nil {
		level := slog.LevelDebug
		if errdefs.IsInternal(err) || errdefs.IsDataLoss(err) || errdefs.IsUnknown(errdefs.Resolve(err)) {
			level = slog.LevelError
		}
		log.Log(ctx, level, "request failed", "method", method, "err", err)
	}
	return toStatus(err)
}

func withHeaders(ctx context.Context) context.Context {
	if namespace, ok := namespaces.Namespace(ctx); ok {
		ctx = namespaces.WithNamespace(ctx, namespace)
	}
	if lease, ok := leases.FromContext(ctx); ok {
		ctx = leases.WithLease(ctx, lease)
	}
	return ctx
}

// endless are the calls that have no end of their own; they end with the server.
var endless = map[string]bool{
	"/containerd.services.events.v1.Events/Subscribe":    true,
	"/containerd.services.streaming.v1.Streaming/Stream": true,
	"/containerd.services.tasks.v1.Tasks/Wait":           true,
}

var errStopping = fmt.Errorf("server is stopping: %w", errdefs.ErrUnavailable)

// untilStop runs handle with a ctx that ends with life if method is endless.
func untilStop(ctx, life context.Context, method string, handle func(context.Context) error) error {
	if life == nil || !endless[method] {
		return handle(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(errStopping) })()
	err := handle(ctx)
	if life.Err() != nil && errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

func unary(life context.Context, log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		err = request(ctx, log, info.FullMethod, func(ctx context.Context) error {
			return untilStop(ctx, life, info.FullMethod, func(ctx context.Context) error {
				var err error
				resp, err = handler(ctx, req)
				return err
			})
		})
		return resp, err
	}
}

func stream(life context.Context, log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return request(ss.Context(), log, info.FullMethod, func(ctx context.Context) error {
			return untilStop(ctx, life, info.FullMethod, func(ctx context.Context) error {
				return handler(srv, streamWithContext{ss, ctx})
			})
		})
	}
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context // of the one stream
}

func (s streamWithContext) Context() context.Context { return s.ctx }

// TTRPCErrors returns the interceptor of a ttrpc server that maps errors and
// panics as those of gRPC.
func TTRPCErrors(log *slog.Logger) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (resp any, err error) {
		err = request(ctx, log, info.FullMethod, func(ctx context.Context) error {
			var err error
			resp, err = method(ctx, decode)
			return err
		})
		return resp, err
	}
}

// invalid makes an InvalidArgument error.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}
