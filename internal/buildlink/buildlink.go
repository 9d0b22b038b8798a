// Package buildlink is the contract between dockerd and the build process that
// it starts (docker-buildkitd): what the process inherits, how it is configured,
// and what each side asks of the other.
//
//	dockerd                                    docker-buildkitd
//	  | start: fd 3 listener, fd 4 lifeline, Config on stdin |
//	  |----------------------------------------------------->|
//	  | HTTP on the listener: the API's build requests, gRPC |
//	  |----------------------------------------------------->|
//	  | HTTP on Config.Host: networks, names of images       |
//	  |<-----------------------------------------------------|
//	  | lifeline ends with dockerd: the process exits        |
package buildlink

import (
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptors that the build process inherits.
const (
	ListenerFD = 3 // a listening unix socket
	LifelineFD = 4 // the read end of a pipe that dockerd keeps open
)

// Paths of the HTTP requests that only dockerd makes of the build process.
const (
	PathUsage = "/_/usage" // GET: []Usage as JSON
	PathPrune = "/_/prune" // POST Prune: PruneReport
)

// Paths of the HTTP requests that the build process makes of dockerd. Bodies
// are JSON; an error is a status of 400 or more with ErrorBody.
const (
	PathConnect = "/network/connect" // POST ConnectRequest: ConnectResponse
	PathRelease = "/network/release" // POST ReleaseRequest
	PathRecord  = "/image/record"    // POST RecordRequest
	PathResolve = "/image/resolve"   // POST ResolveRequest: ResolveResponse
)

// Config is what the build process reads from its standard input, as JSON.
type Config struct {
	Root        string // durable: cache metadata
	State       string // on tmpfs: bundles and the runtime's state
	Host        string // dockerd's socket for the requests above
	Containerd  string // socket of containerd's API
	Namespace   string // containerd namespace of images, content and snapshots
	Snapshotter string
	Runtime     string // path of runc
	// CgroupParent is the control group below which those of steps are made.
	CgroupParent string
	Debug        bool

	DNS, DNSSearch, DNSOptions []string
	// HostGateway is the address of "host-gateway" in extra hosts.
	HostGateway []string
	Registry    Registry
	// Entitlements that clients may be granted.
	Entitlements []string
	GC           GC
	History      History
}

// History says how many finished builds are remembered; zero values mean
// BuildKit's defaults.
type History struct {
	MaxAge     time.Duration
	MaxEntries int64
}

// Registry says how registries are reached, as image.RegistryConfig does.
type Registry struct {
	Insecure []string
	Mirrors  []string
	CertsDir string
}

// GC says how much of the disk the build cache may keep. Zero values mean
// BuildKit's defaults.
type GC struct {
	Disabled      bool
	ReservedBytes int64
	MaxUsedBytes  int64
	MinFreeBytes  int64
	Policy        []GCRule // in place of the three above
}

// GCRule is one rule of the collection; they are applied in order.
type GCRule struct {
	All           bool
	Filter        []string
	KeepDuration  time.Duration
	ReservedBytes int64
	MaxUsedBytes  int64
	MinFreeBytes  int64
}

// Usage is one record of the build cache.
type Usage struct {
	ID          string
	Parents     []string `json:",omitempty"`
	Type        string
	Description string
	InUse       bool
	Shared      bool
	Size        int64
	CreatedAt   time.Time
	LastUsedAt  *time.Time
	UsageCount  int
}

// Prune says what of the build cache to delete.
type Prune struct {
	All           bool
	Filter        []string // containerd filters, one must match
	KeepDuration  time.Duration
	ReservedBytes int64
	MaxUsedBytes  int64
	MinFreeBytes  int64
}

// PruneReport says what was deleted.
type PruneReport struct {
	Deleted        []string
	SpaceReclaimed uint64
}

// ErrorBody is the body of an error.
type ErrorBody struct{ Message string }

// ConnectRequest asks that a network namespace join the network that Mode names.
type ConnectRequest struct {
	ID   string // chosen by the build process, unique
	Mode string // as in HostConfig.NetworkMode; "" is the default network
	// NamespaceFD is the build process's descriptor of the network namespace.
	NamespaceFD int
}

// ConnectResponse says what the namespace got.
type ConnectResponse struct{ Addresses []string }

// ReleaseRequest gives back what a ConnectRequest got.
type ReleaseRequest struct{ ID string }

// RecordRequest gives a stored image its names; none makes it dangling. The
// caller's lease holds its content until the answer.
type RecordRequest struct {
	Names  []string
	Target ocispec.Descriptor
	Labels map[string]string
}

// ResolveRequest asks for the image that a user calls Ref: a name, an ID or the
// beginning of one.
type ResolveRequest struct{ Ref string }

// ResolveResponse is the image's target.
type ResolveResponse struct {
	Name   string
	Target ocispec.Descriptor
	ID     digest.Digest
}
