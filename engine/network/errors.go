package network

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// classed is an error with Docker's exact text and a class.
type classed struct {
	text  string
	class error
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

func invalid(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

func notFound(ref string) error {
	return &classed{fmt.Sprintf("network %s not found", ref), errdefs.ErrNotFound}
}

func forbidden(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrPermissionDenied}
}

func conflict(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrConflict}
}

func notImplemented(format string, args ...any) error {
	return &classed{fmt.Sprintf(format, args...), errdefs.ErrNotImplemented}
}
