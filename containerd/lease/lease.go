// Package lease holds resources for the length of an operation: what is made with
// the context of With is not collected before the operation says it is done.
package lease

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

const (
	// Expiration ends the lease of a process that died. It is longer than any
	// operation should take.
	Expiration = 24 * time.Hour
	// releaseTimeout bounds the release, which goes on when the operation's
	// context has ended.
	releaseTimeout = 10 * time.Second
)

// With returns a context that carries a new lease, and the function that ends the
// lease. If ctx carries a lease already, that one is used and stays: whoever made it
// ends it.
//
// Call release once what the operation made is referenced, or has failed. It works
// after ctx has ended. Further options are given to Create after the defaults, a
// random ID and Expiration.
func With(ctx context.Context, m leases.Manager, opts ...leases.Opt) (leased context.Context, release func(...leases.DeleteOpt) error, err error) {
	if _, ok := leases.FromContext(ctx); ok {
		return ctx, func(...leases.DeleteOpt) error { return nil }, nil
	}
	defaults := []leases.Opt{leases.WithRandomID(), leases.WithExpiration(Expiration)}
	l, err := m.Create(ctx, append(defaults, opts...)...)
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	release = func(opts ...leases.DeleteOpt) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if err := m.Delete(ctx, l, opts...); err != nil {
			return fmt.Errorf("end lease %q: %w", l.ID, err)
		}
		return nil
	}
	return leases.WithLease(ctx, l.ID), release, nil
}
