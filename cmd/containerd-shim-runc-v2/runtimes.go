package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"lighter/shim"
	"lighter/shim/ocicli"
)

// defaultRoot is where runtimes keep their state, unless options say otherwise;
// that of containerd's own shim.
const defaultRoot = "/run/containerd/runc"

// runtimes chooses the runtime for a container: the built-in one, or an OCI
// program if the options name one.
type runtimes struct {
	namespace string
	log       *slog.Logger

	mu    sync.Mutex // guards known
	known map[shim.Options]shim.Runtime
}

func newRuntimes(namespace string, log *slog.Logger) *runtimes {
	return &runtimes{namespace: namespace, log: log, known: make(map[shim.Options]shim.Runtime)}
}

// get returns the runtime for opts, one for equal options.
func (r *runtimes) get(opts shim.Options) (shim.Runtime, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rt := r.known[opts]; rt != nil {
		return rt, nil
	}
	rt, err := r.make(opts)
	if err != nil {
		return nil, err
	}
	r.known[opts] = rt
	return rt, nil
}

func (r *runtimes) make(opts shim.Options) (shim.Runtime, error) {
	root := opts.Root
	if root == "" {
		root = defaultRoot
	}
	root = filepath.Join(root, r.namespace)
	if opts.BinaryName != "" {
		return ocicli.New(ocicli.Config{
			Program: opts.BinaryName, Root: root, SystemdCgroup: opts.SystemdCgroup,
			NoPivotRoot: opts.NoPivotRoot, NoNewKeyring: opts.NoNewKeyring, Mount: mountOn,
		})
	}
	for name, set := range map[string]bool{
		"SystemdCgroup": opts.SystemdCgroup, "NoPivotRoot": opts.NoPivotRoot, "NoNewKeyring": opts.NoNewKeyring,
	} {
		if set {
			return nil, fmt.Errorf("runtime option %s: the built-in runtime does not support it; name a runtime in BinaryName: %w", name, errdefs.ErrNotImplemented)
		}
	}
	return newRuncRuntime(root, r.log), nil
}
