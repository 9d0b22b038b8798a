package network

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// Request is what a container asks of the network. Nothing of it is kept by
// reference.
type Request struct {
	ContainerID string
	Name        string // without the leading slash
	Hostname    string
	DomainName  string
	// Mode is default, bridge, host, none, a network's name or ID, or
	// container:ID, which allocates nothing: such a container uses the network
	// namespace and files of the other one.
	Mode container.NetworkMode
	// Endpoints are the networks to join by name or ID. The network of Mode is
	// joined with or without an entry here.
	Endpoints    map[string]*network.EndpointSettings
	ExposedPorts network.PortSet
	PortBindings network.PortMap
	PublishAll   bool // publish ExposedPorts on ephemeral host ports
	DNS          []netip.Addr
	DNSSearch    []string
	DNSOptions   []string
	ExtraHosts   []string // "name:address"; the address may be "host-gateway"
	// MacAddress is for the endpoint of Mode, unless its settings have one.
	MacAddress network.HardwareAddr
}

// Allocation is what a container got. It is a copy, the caller's to keep.
type Allocation struct {
	SandboxID  string
	SandboxKey string // path that opens the network namespace once connected; "" without one
	// Endpoints by network name, complete as inspect shows them.
	Endpoints map[string]*network.EndpointSettings
	// Ports as inspect shows them: one entry per address family; nil slices for
	// ports that are exposed and not published.
	Ports network.PortMap
	// Hosts and ResolvConf are the contents of /etc/hosts and /etc/resolv.conf.
	Hosts, ResolvConf []byte
	Warnings          []string
}

// Manager owns the networks of one daemon. Its methods may be called concurrently.
type Manager struct{}

var errDraft = errdefs.ErrNotImplemented

// Open reads the records in cfg.StateDir and creates or repairs the default bridge.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Manager, error) { return nil, errDraft }

// Allocate reserves the addresses and host ports of a container about to start.
func (m *Manager) Allocate(ctx context.Context, req Request) (*Allocation, error) {
	return nil, errDraft
}

// Connect configures the network namespace of pid.
func (m *Manager) Connect(ctx context.Context, containerID string, pid int) error { return errDraft }

// Release returns all that Allocate and Connect took. It is idempotent.
func (m *Manager) Release(ctx context.Context, containerID string) error { return errDraft }

// Restore keeps what the containers in live have and releases that of all others.
func (m *Manager) Restore(ctx context.Context, live map[string]int) error { return errDraft }

// ConnectRunning joins a running container to a network.
func (m *Manager) ConnectRunning(ctx context.Context, containerID string, pid int, networkRef string, settings *network.EndpointSettings) (*Allocation, error) {
	return nil, errDraft
}

// DisconnectRunning takes a running container off a network.
func (m *Manager) DisconnectRunning(ctx context.Context, containerID string, pid int, networkRef string, force bool) (*Allocation, error) {
	return nil, errDraft
}

// List returns the networks that filters select, never nil.
func (m *Manager) List(ctx context.Context, filters map[string]map[string]bool) ([]network.Inspect, error) {
	return nil, errDraft
}

// Inspect returns the network that ref (name, ID or unique ID prefix) means.
func (m *Manager) Inspect(ctx context.Context, ref string) (network.Inspect, error) {
	return network.Inspect{}, errDraft
}

// Create creates a network.
func (m *Manager) Create(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error) {
	return network.CreateResponse{}, errDraft
}

// Remove removes a network that nothing uses.
func (m *Manager) Remove(ctx context.Context, ref string) error { return errDraft }

// Prune removes the networks that nothing uses and filters select.
func (m *Manager) Prune(ctx context.Context, filters map[string]map[string]bool) (network.PruneReport, error) {
	return network.PruneReport{}, errDraft
}

// Reapply builds the firewall table again, after somebody else flushed it.
func (m *Manager) Reapply(ctx context.Context) error { return errDraft }

// Close releases what the process holds. Unless keep, and if no container uses
// the networks, it removes the firewall table and the bridges it made.
func (m *Manager) Close(ctx context.Context, keep bool) error { return errDraft }
