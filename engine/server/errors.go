package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// statusClientClosedRequest is only logged: nobody is left to read it.
const statusClientClosedRequest = 499

// statusOf maps an error's class to the Engine API's status. The outermost
// class wins.
func statusOf(err error) int {
	switch class := errdefs.Resolve(err); {
	case errors.Is(err, http.ErrHandlerTimeout):
		return http.StatusServiceUnavailable
	case errdefs.IsNotFound(class):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(class), errdefs.IsOutOfRange(class):
		return http.StatusBadRequest
	case errdefs.IsConflict(class), errdefs.IsAlreadyExists(class), errdefs.IsFailedPrecondition(class):
		return http.StatusConflict
	case errdefs.IsNotModified(class):
		return http.StatusNotModified
	case errdefs.IsUnauthorized(class):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(class):
		return http.StatusForbidden
	case errdefs.IsUnavailable(class):
		return http.StatusServiceUnavailable
	case errdefs.IsNotImplemented(class):
		return http.StatusNotImplemented
	case errors.Is(err, context.Canceled):
		return statusClientClosedRequest
	default:
		return http.StatusInternalServerError
	}
}

// classed is an error with an exact text and a class.
type classed struct {
	text  string
	class error
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

func invalid(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

func notFound(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrNotFound}
}

func notImplemented(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrNotImplemented}
}
