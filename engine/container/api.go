package container

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd"
	"lighter/engine/events"
	"lighter/engine/volume"
)

// Deps are what a Manager works with. All are required.
type Deps struct {
	Services *containerd.Services
	Images   Images
	Networks Networks
	Volumes  *volume.Store
	Events   *events.Bus
	Log      *slog.Logger
	// HealthChecked is told of every health check that ended: how long it took
	// until its command ran, and why it could not be run. nil is allowed.
	HealthChecked func(prepared time.Duration, err error)
}

// Config is how a Manager behaves. DataRoot and ExecRoot are required, absolute
// directories; the zero value of the rest is Docker's default.
type Config struct {
	DataRoot  string // durable state
	ExecRoot  string // sockets; on tmpfs
	Namespace string // containerd namespace; "" means "moby"

	LiveRestore        bool          // leave containers running at Close, adopt them at Open
	DefaultStopTimeout time.Duration // 0 means 10 s
	DefaultLogDriver   string        // "" means "json-file"
	DefaultLogOpts     map[string]string
	LogLimit           int64            // bytes that the log of a container may take, 0 for no limit but its own
	DefaultShmBytes    int64            // size of /dev/shm; 0 means 64 MiB
	DefaultIPCMode     api.IpcMode      // "" means "private"
	DefaultCgroupNS    api.CgroupnsMode // "" means private on cgroup v2, host on v1
	DefaultUlimits     []*api.Ulimit
	CgroupParent       string // "" means "/docker"
	Runtime            string // containerd runtime name; "" means "io.containerd.runc.v2"
	// Runtimes are those that containers may name besides "runc" and the names
	// of containerd; DefaultRuntime is that of a container which names none, ""
	// means "runc".
	Runtimes       map[string]Runtime
	DefaultRuntime string
	Snapshotter    string // "" means containerd.DefaultSnapshotter
	// InitPath is the docker-init binary for containers that ask for an init;
	// "" when there is none.
	InitPath string
	// Init makes every container run InitPath unless it says otherwise.
	Init bool
	// SeccompProfile is the JSON text of the profile used by default, or
	// "unconfined"; "" means the built-in one.
	SeccompProfile  string
	NoNewPrivileges bool
	// DefaultEnv is the environment that every container has, for example proxy
	// settings.
	DefaultEnv []string
	// CDISpecDirs hold the host's Container Device Interface specifications; none
	// disables such devices.
	CDISpecDirs []string
	// LegacyLinkEnv gives linked containers the variables that Docker once set.
	LegacyLinkEnv bool
}

// Images finds images. Package engine/image implements it behind an adapter.
type Images interface {
	// Resolve finds the image that ref (name, ID or unique ID prefix) means on
	// platform, nil for the host's, and makes sure that it is unpacked: the
	// snapshot ChainID exists. NotFound carries Docker's text
	// "No such image: x:latest".
	Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (*Image, error)
}

// Image is an image that a container can be created from.
type Image struct {
	ID         string // digest, "sha256:..."
	Name       string // familiar reference as the user may write it; "" when it has none
	ChainID    string // name of the committed snapshot of the top layer; "" for no layers
	Config     dockerspec.DockerOCIImage
	Descriptor *ocispec.Descriptor // of the platform's manifest, may be nil
}

// Networks gives containers their network. Package engine/network implements it
// behind an adapter.
type Networks interface {
	// Allocate reserves addresses and host ports for a container that is about
	// to start. It is undone by Release.
	Allocate(ctx context.Context, req NetworkRequest) (*NetworkAllocation, error)
	// Connect configures the network namespace of pid, the container's created
	// but not yet started init process.
	Connect(ctx context.Context, id string, pid int) error
	// Release returns all that Allocate and Connect took. It is idempotent;
	// an unknown ID is no error.
	Release(ctx context.Context, id string) error
	// Restore is called once, at start-up: containers in live (ID to pid) keep
	// what they have, that of all others is released.
	Restore(ctx context.Context, live map[string]int) error
	// NetworkName returns the name of the network that ref, a name, an ID or a
	// unique prefix of one, means; NotFound when there is none.
	NetworkName(ctx context.Context, ref string) (string, error)
	// Rename tells the network that a container has another name now. One that
	// has no allocation is no error.
	Rename(ctx context.Context, id, name string) error
	// ConnectRunning and DisconnectRunning change the networks of a running
	// container. The allocation returned replaces the former one.
	ConnectRunning(ctx context.Context, id string, pid int, networkRef string, settings *network.EndpointSettings) (*NetworkAllocation, error)
	DisconnectRunning(ctx context.Context, id string, pid int, networkRef string, force bool) (*NetworkAllocation, error)
}

// NetworkRequest is what a container asks of Networks.
type NetworkRequest struct {
	ID, Name             string // Name is without the leading slash
	Hostname, Domainname string
	// Mode is never "container:...": such a container uses the other's network.
	Mode api.NetworkMode
	// Endpoints are the networks to join, by name or ID; for the modes
	// bridge, host, none and default it holds at least that one.
	Endpoints    map[string]*network.EndpointSettings
	ExposedPorts network.PortSet
	PortBindings network.PortMap
	PublishAll   bool
	DNS          []netip.Addr
	DNSSearch    []string
	DNSOptions   []string
	ExtraHosts   []string // name:address, address may be "host-gateway"
	// Keep are addresses that the container gets again where they are free.
	Keep []netip.Addr
}

// NetworkAllocation is what a container got.
type NetworkAllocation struct {
	SandboxID  string
	SandboxKey string
	Ports      network.PortMap
	Networks   map[string]*network.EndpointSettings // by network name
	// Hosts and ResolvConf are what the container's files of that name hold.
	Hosts      []byte   `json:"-"`
	ResolvConf []byte   `json:"-"`
	Warnings   []string `json:"-"`
}

// CreateOptions are the inputs of Manager.Create.
type CreateOptions struct {
	Name             string // "" generates one
	Config           *api.Config
	HostConfig       *api.HostConfig           // nil means the zero value
	NetworkingConfig *network.NetworkingConfig // nil means none
	Platform         *ocispec.Platform         // nil means the host's
}

// ListOptions are the inputs of Manager.List.
type ListOptions struct {
	All     bool // also those that do not run
	Size    bool // compute sizes, which reads the disk
	Limit   int  // the n last created, 0 for no limit
	Filters map[string]map[string]bool
}

// StopOptions say how to stop a container.
type StopOptions struct {
	Signal  string // name or number; "" means the container's stop signal
	Timeout *int   // seconds before SIGKILL, -1 for never; nil means the container's or the daemon's
}

// RemoveOptions are the inputs of Manager.Remove.
type RemoveOptions struct {
	Force   bool // kill it first when it runs
	Volumes bool // remove its anonymous volumes
	Link    bool // remove the link named parent/alias, not a container
}

// WaitResult is how a container ended, see Manager.Wait.
type WaitResult struct {
	StatusCode int
	Err        string
}

// AttachOptions are the inputs of Manager.Attach.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Stream                bool   // follow the live streams
	Logs                  bool   // replay the log first
	Raw                   bool   // never frame the output, as over WebSocket
	DetachKeys            string // "" means ctrl-p,ctrl-q
}

// Client is the hijacked connection of an attached client. CloseWrite tells it
// that no more output follows.
type Client interface {
	io.ReadWriter
	CloseWrite() error
}

// LogsOptions are the inputs of Manager.Logs.
type LogsOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Timestamps     bool
	Details        bool
	Since, Until   time.Time // zero for no bound
	Tail           int       // lines from the end, negative for all
	Grep           string    // regular expression (RE2) of the lines wanted; "" for all
}

// ExecStartOptions are the inputs of Manager.ExecStart.
type ExecStartOptions struct {
	Detach      bool
	TTY         bool
	ConsoleSize *[2]uint // height, width
}

// PruneOptions are the filters of Manager.Prune: label, label!, until.
type PruneOptions struct {
	Filters map[string]map[string]bool
}

// Counts are how many containers are in which state.
type Counts struct {
	Total, Running, Paused, Stopped int
}
