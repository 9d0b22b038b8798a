package ttrpc

import (
	"context"
	"errors"
	"io/fs"

	"github.com/containerd/errdefs"
)

// Code is a gRPC status code.
type Code uint32

// The codes, as gRPC numbers them.
const (
	ok Code = iota
	Canceled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

// codes maps the error classes, as containerd does. Classes that gRPC lacks share
// a code and are told apart by the end of the message.
var codes = []struct {
	class error
	code  Code
}{
	{errdefs.ErrInvalidArgument, InvalidArgument},
	{errdefs.ErrNotFound, NotFound},
	{errdefs.ErrAlreadyExists, AlreadyExists},
	{errdefs.ErrPermissionDenied, PermissionDenied},
	{errdefs.ErrResourceExhausted, ResourceExhausted},
	{errdefs.ErrFailedPrecondition, FailedPrecondition},
	{errdefs.ErrConflict, FailedPrecondition},
	{errdefs.ErrNotModified, FailedPrecondition},
	{errdefs.ErrAborted, Aborted},
	{errdefs.ErrOutOfRange, OutOfRange},
	{errdefs.ErrNotImplemented, Unimplemented},
	{errdefs.ErrInternal, Internal},
	{errdefs.ErrUnavailable, Unavailable},
	{errdefs.ErrDataLoss, DataLoss},
	{errdefs.ErrUnauthenticated, Unauthenticated},
	{context.DeadlineExceeded, DeadlineExceeded},
	{context.Canceled, Canceled},
}

// codeOf returns the code of an error's class. A file that is not there is
// NotFound, unless the error has a class.
func codeOf(err error) Code {
	class := errdefs.Resolve(err)
	for _, c := range codes {
		if c.class == class {
			return c.code
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return NotFound
	}
	return Unknown
}
