package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/pkg/oci"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/util/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"lighter/internal/buildlink"
)

// spareNamespaces is how many connected network namespaces wait for a step.
// Making one and joining it to a network takes longer than a short step.
const spareNamespaces = 2

// bridge gives steps a network namespace on the engine's default network. A step
// leaves nothing in it: it has neither the capability to change it nor a process
// that outlives it, so the next step may have it. It implements network.Provider.
type bridge struct {
	host  *host
	state string

	mu     sync.Mutex // guards the fields below
	spare  []*netns
	closed bool
}

func newBridge(h *host, state string) *bridge { return &bridge{host: h, state: state} }

// netns is a network namespace that this process holds open.
type netns struct {
	id   string
	file *os.File
}

// New implements network.Provider.
func (b *bridge) New(ctx context.Context, _ string, _ network.NamespaceOptions) (network.Namespace, error) {
	b.mu.Lock()
	var ns *netns
	if n := len(b.spare); n > 0 {
		ns, b.spare = b.spare[n-1], b.spare[:n-1]
	}
	b.mu.Unlock()
	if ns != nil {
		return &bridged{bridge: b, ns: ns}, nil
	}
	file, err := newNetworkNamespace()
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	ns = &netns{id: "build-" + identity.NewID(), file: file}
	if _, err := b.host.connect(ctx, buildlink.ConnectRequest{ID: ns.id, NamespaceFD: int(file.Fd())}); err != nil {
		return nil, errors.Join(fmt.Errorf("connect network of step: %w", err), file.Close())
	}
	return &bridged{bridge: b, ns: ns}, nil
}

// put takes a namespace back that a step has left.
func (b *bridge) put(ns *netns, dirty bool) error {
	b.mu.Lock()
	keep := !dirty && !b.closed && len(b.spare) < spareNamespaces
	if keep {
		b.spare = append(b.spare, ns)
	}
	b.mu.Unlock()
	if keep {
		return nil
	}
	return b.drop(ns)
}

func (b *bridge) drop(ns *netns) error {
	err := ns.file.Close()
	return errors.Join(err, b.host.release(context.Background(), buildlink.ReleaseRequest{ID: ns.id}))
}

// Close implements network.Provider.
func (b *bridge) Close() error {
	b.mu.Lock()
	spare := b.spare
	b.spare, b.closed = nil, true
	b.mu.Unlock()
	var errs []error
	for _, ns := range spare {
		errs = append(errs, b.drop(ns))
	}
	return errors.Join(errs...)
}

// bridged is the network of one step. It implements network.Namespace.
type bridged struct {
	bridge *bridge
	ns     *netns
	dirty  bool // the step could change the namespace
	once   sync.Once
}

// Set implements network.Namespace.
func (n *bridged) Set(s *specs.Spec) error {
	if s.Process != nil && s.Process.Capabilities != nil {
		for _, c := range s.Process.Capabilities.Bounding {
			n.dirty = n.dirty || c == "CAP_NET_ADMIN"
		}
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.ns.file.Fd())
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})(nil, nil, nil, s)
}

// Sample implements network.Namespace.
func (n *bridged) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil }

// Close implements network.Namespace.
func (n *bridged) Close() (err error) {
	n.once.Do(func() { err = n.bridge.put(n.ns, n.dirty) })
	return err
}

// newNetworkNamespace makes a network namespace and opens it.
func newNetworkNamespace() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: os.NewSyscallError("unshare", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	return r.file, r.err
}
