package container

import (
	"encoding/json"
	"fmt"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// builtinRuntime is the name of the runtime that is always there.
const builtinRuntime = "runc"

// Runtime is a runtime that a container may name.
type Runtime struct {
	// Path is an OCI program that the default shim runs; "" when Type is set.
	Path string
	// Type is a containerd runtime ("io.containerd.x.v1"); "" means the
	// default shim.
	Type string
	// Options are those of the shim, by the names of its protobuf message, for
	// the type io.containerd.runc.v2.
	Options map[string]any
}

// Reload changes the settings that may change while the Manager works:
// LiveRestore, DefaultStopTimeout, DefaultShmBytes, DefaultIPCMode,
// DefaultCgroupNS, Runtimes, DefaultRuntime and LogLimit. Others must stay as they
// are.
func (m *Manager) Reload(change func(*Config)) {
	before := m.settings()
	next := *before
	change(&next)
	next = next.withDefaults()
	m.live.Store(&next)
	if next.LogLimit != before.LogLimit {
		m.limitLogs()
	}
}

// settings are the Config as it is now.
func (m *Manager) settings() *Config {
	if c := m.live.Load(); c != nil {
		return c
	}
	return &m.cfg
}

// defaultRuntimeName is the runtime of a container that names none.
func (m *Manager) defaultRuntimeName() string {
	if name := m.settings().DefaultRuntime; name != "" {
		return name
	}
	return builtinRuntime
}

// runtimeName returns the containerd runtime for a --runtime value, "" when there
// is none.
func (m *Manager) runtimeName(name string) string {
	cfg := m.settings()
	if name == "" {
		name = m.defaultRuntimeName()
	}
	if r, ok := cfg.Runtimes[name]; ok {
		if r.Type != "" {
			return r.Type
		}
		return cfg.Runtime
	}
	switch {
	case name == builtinRuntime:
		return cfg.Runtime
	case strings.HasPrefix(name, "io.containerd."):
		return name
	}
	return ""
}

// runtimeOptions are what the shim is told, nil for a shim of another kind.
func (m *Manager) runtimeOptions(name string) (typeurl.Any, error) {
	if m.runtimeName(name) != defaultRuntime {
		return nil, nil
	}
	o := &runcoptions.Options{}
	if r, ok := m.settings().Runtimes[name]; ok {
		if len(r.Options) > 0 {
			if err := decodeOptions(r.Options, o); err != nil {
				return nil, fmt.Errorf("options of runtime %s: %w", name, err)
			}
		}
		if r.Path != "" {
			o.BinaryName = r.Path
		}
	}
	if o.Root == "" {
		o.Root = m.runtimeRoot()
	}
	any, err := typeurl.MarshalAny(proto.Message(o))
	if err != nil {
		return nil, fmt.Errorf("encode the runtime's options: %w", err)
	}
	return any, nil
}

// decodeOptions sets the fields of o that values name as Go does ("BinaryName").
func decodeOptions(values map[string]any, o *runcoptions.Options) error {
	raw, err := json.Marshal(values)
	if err != nil {
		return err
	}
	known := struct {
		NoPivotRoot, NoNewKeyring, SystemdCgroup *bool
		ShimCgroup, BinaryName, Root             *string
	}{&o.NoPivotRoot, &o.NoNewKeyring, &o.SystemdCgroup, &o.ShimCgroup, &o.BinaryName, &o.Root}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	return dec.Decode(&known)
}
