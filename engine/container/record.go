package container

import (
	"sync"
	"sync/atomic"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/internal/shimio"
)

// record is all that is known of a container. A published record is immutable,
// and so is everything it points to: a change replaces, it never edits.
type record struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // with the leading slash
	Created time.Time `json:"created"`

	Path       string              `json:"path"` // program, and its arguments
	Args       []string            `json:"args"`
	Config     *api.Config         `json:"config"` // merged with the image's
	HostConfig *api.HostConfig     `json:"hostConfig"`
	ImageID    string              `json:"imageID,omitempty"`
	ChainID    string              `json:"chainID,omitempty"`
	Manifest   *ocispec.Descriptor `json:"manifest,omitempty"`
	Platform   string              `json:"platform"` // operating system

	Snapshotter string       `json:"snapshotter"`
	Mounts      []mountPoint `json:"mounts,omitempty"`
	LogDriver   string       `json:"logDriver"`

	// Endpoints are the networks it joins at its next start; Network is what
	// it has while it runs.
	Endpoints map[string]*network.EndpointSettings `json:"endpoints,omitempty"`
	Network   *NetworkAllocation                   `json:"network,omitempty"`
	Links     []link                               `json:"links,omitempty"`
	// Former is what the container goes back to when the change that is under way
	// fails; nil when there is none.
	Former *former `json:"former,omitempty"`

	State     State  `json:"state"`
	Pid       int    `json:"pid,omitempty"`
	ExitCode  int    `json:"exitCode"`
	OOMKilled bool   `json:"oomKilled,omitempty"`
	Error     string `json:"error,omitempty"`
	// Touched says that files were put into the container before it ever ran.
	Touched         bool        `json:"touched,omitempty"`
	StartedAt       time.Time   `json:"startedAt"`
	FinishedAt      time.Time   `json:"finishedAt"`
	RestartCount    int         `json:"restartCount,omitempty"`
	ManuallyStopped bool        `json:"manuallyStopped,omitempty"`
	Health          *api.Health `json:"health,omitempty"`
}

// mountPoint is a volume, bind or tmpfs of a container.
type mountPoint struct {
	Type        mount.Type        `json:"type"`
	Name        string            `json:"name,omitempty"`  // of a volume; of an image as asked for
	Image       string            `json:"image,omitempty"` // ID of the image that is mounted
	Source      string            `json:"source,omitempty"`
	Destination string            `json:"destination"`
	Mode        string            `json:"mode,omitempty"`
	RW          bool              `json:"rw"`
	Propagation mount.Propagation `json:"propagation,omitempty"`
	Anonymous   bool              `json:"anonymous,omitempty"` // made for this container, removed by rm -v
	CopyUp      bool              `json:"copyUp,omitempty"`
	Spec        *mount.Mount      `json:"spec,omitempty"`      // as asked for, with its options
	CreateDir   bool              `json:"createDir,omitempty"` // bind: make a missing source
}

// name returns the container's name without the slash.
func (r *record) name() string { return r.Name[1:] }

// entry is a container in memory.
type entry struct {
	id  string
	rec atomic.Pointer[record]
	op  chan struct{} // the operation slot: full while an operation runs

	mu         sync.Mutex // guards the fields below; taken before store.mu
	waiters    map[*waiter]struct{}
	pending    map[*AttachSession]shimio.Request // attached before the task exists
	exited     chan struct{}                     // closed when the current run has been handled; nil without one
	attachable bool                              // the attach socket is served
	stop       chan struct{}                     // closed to end a backoff; nil outside one
	unhealth   func()                            // stops the health probes; nil when there are none
	backoff    time.Duration                     // of the last automatic restart
	restarts   bool                              // Restart is at work: no automatic removal
}

func newEntry(r *record) *entry {
	e := &entry{
		id: r.ID, op: make(chan struct{}, 1),
		waiters: make(map[*waiter]struct{}), pending: make(map[*AttachSession]shimio.Request),
	}
	e.rec.Store(r)
	return e
}
