package lease

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
)

// fakeManager remembers the leases it has.
type fakeManager struct {
	leases.Manager
	have map[string]leases.Lease
}

func (m *fakeManager) Create(_ context.Context, opts ...leases.Opt) (l leases.Lease, err error) {
	for _, opt := range opts {
		if err := opt(&l); err != nil {
			return l, err
		}
	}
	m.have[l.ID] = l
	return l, nil
}

func (m *fakeManager) Delete(ctx context.Context, l leases.Lease, _ ...leases.DeleteOpt) error {
	delete(m.have, l.ID)
	return ctx.Err()
}

func TestWith(t *testing.T) {
	m := &fakeManager{have: make(map[string]leases.Lease)}
	parent, cancel := context.WithCancel(t.Context())
	ctx, release, err := With(parent, m, leases.WithLabel("k", "v"))
	if err != nil {
		t.Fatal(err)
	}
	id, ok := leases.FromContext(ctx)
	l := m.have[id]
	if !ok || l.ID == "" || l.Labels["k"] != "v" || l.Labels["containerd.io/gc.expire"] == "" {
		t.Errorf("lease in context = %q, made %+v, want a label and an expiry", id, l)
	}
	inner, releaseInner, err := With(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := leases.FromContext(inner); got != id || len(m.have) != 1 {
		t.Errorf("inner lease = %q of %d, want %q only", got, len(m.have), id)
	}
	if err := releaseInner(); err != nil || len(m.have) != 1 {
		t.Errorf("the inner release = %v left %d leases, want 1", err, len(m.have))
	}
	cancel() // the operation failed
	if err := release(); err != nil || len(m.have) != 0 {
		t.Errorf("release = %v left %d leases, want 0", err, len(m.have))
	}
}
